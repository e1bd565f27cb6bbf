# make help shows the commands. Each sets up what it needs first; when nothing changed, that takes no time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALLED := $(VENV)/.installed
XDIST ?= 2
XDIST_SLOW ?= 3
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format docs docs-serve bench always clean

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# Two calls at once in one checkout set it up once: the second waits for the lock and finds everything there.
ALONE := $(PYTHON) -c 'import fcntl, subprocess, sys; \
	lock = open(".setup.lock", "w"); fcntl.flock(lock, fcntl.LOCK_EX); sys.exit(subprocess.call(sys.argv[1:]))'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ...")'
	@$(ALONE) $(MAKE) --no-print-directory $(INSTALLED)
	@touch $@

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(READY)  ## set up .venv with the exact versions of constraints.txt

demo: $(READY)  ## train, tune, test and report all methods on the shipped data
	$(BIN)/python run_benchmark.py --methods all --controls --datasets demo --jobs $(JOBS)

# pytest rewrites each test file, which takes seconds for each process that does not find it done. More BLAS threads than cores
# wait for each other in loops.
unexport PYTHONDONTWRITEBYTECODE
test test-slow: export OPENBLAS_NUM_THREADS := 1

test: $(READY)  ## run the fast tests
	$(BIN)/python -m pytest -n $(XDIST) --dist worksteal --durations 15

test-slow: $(READY)  ## run the slow tests, of which many wait: one process more than for the fast ones
	$(BIN)/python -m pytest -n $(XDIST_SLOW) --dist worksteal --timeout 1800 -o faulthandler_timeout=2000 --durations 20 -m slow

lint: $(READY)  ## check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## build the documentation into build/site, all links checked
	$(BIN)/mkdocs build --strict

docs-serve: $(READY)  ## show the documentation on http://127.0.0.1:8000 while you edit it
	$(BIN)/mkdocs serve

# One of them: make bench/stage.md. Each writes a markdown table and the same numbers as JSON.
BENCHMARKS := training_step bounds stage evaluation store memory extraction overhead report
OPTIONS_report := --runs 1500

bench: $(BENCHMARKS:%=bench/%.md)  ## measure speed and memory (see perf/); tables and JSON in bench/

bench/%.md: $(READY) always
	@mkdir -p bench
	$(BIN)/python -W ignore -m perf.$* $(OPTIONS_$*) --json bench/$*.json > $@ || { cat $@; exit 1; }
	@cat $@

always:

clean:  ## remove caches and the virtual environment; results in runs/ and reports/ stay
	rm -rf $(VENV) .setup.lock .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
