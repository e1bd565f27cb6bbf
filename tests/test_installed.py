"""An installed package: it has all that it needs, and its command takes it, whatever else has its packages'
names."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from support.checkout import PROJECT
from test_plugin import METHOD

import gzsl_bench
from benchmark.cli.options import existing_tracker_of
from benchmark.data import cards
from benchmark.errors import UsageError
from benchmark.report.results import published
from benchmark.running import provenance
from benchmark.settings import search_space
from benchmark.system import shipped_files

BESIDE = {"datasets": "benchmark/shipped/datasets", "search_spaces": "benchmark/shipped/search_spaces"}
BESIDE |= {
    "reports/published": "benchmark/shipped/reports/published",
    "benchmark": "benchmark",
    "methods": "methods",
}
FACTS = """
import json
from benchmark import registry
from benchmark.data.cards import load_cards
from benchmark.protocol.code_version import code_version
from benchmark.running.provenance import git_revision
from benchmark.report.results.published import load_published
found = registry.load()
methods = {
    n: [code_version(m), found.search_space(m).model_dump(mode="json")] for n, m in found.methods.items()
}
print(json.dumps([methods, sorted(load_cards()), len(load_published())]))
"""


def test_in_a_checkout_files_are_found_beside_the_code() -> None:
    places = [cards.CARDS_DIR, search_space.SEARCH_SPACES_DIR, published.PUBLISHED_DIR, provenance.PROJECT]
    assert places == [
        PROJECT / "datasets",
        PROJECT / "search_spaces",
        PROJECT / "reports" / "published",
        PROJECT,
    ]


def test_in_an_installed_package_they_are_found_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped_files, "INSTALLED", tmp_path)
    assert shipped_files.shipped("reports", "published") == tmp_path / "reports" / "published"


def test_messages_name_the_command_that_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout has a script, an installed package has a command."""
    for folder, wanted in ((tmp_path, "gzsl-bench"), (tmp_path / "none", "python run_benchmark.py")):
        monkeypatch.setattr(shipped_files, "INSTALLED", folder)
        with pytest.raises(UsageError, match=rf"no tracking store at .*: {wanted} --datasets demo"):
            existing_tracker_of(tmp_path, None)


def test_messages_tell_how_to_install_an_extra_in_the_way_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shipped_files.install("encoders") == "pip install -c constraints.txt -e '.[encoders]'"
    monkeypatch.setattr(shipped_files, "INSTALLED", tmp_path)
    words = shlex.split(shipped_files.install("encoders"))  # contains the extra ``extract``
    assert [re.split("[<>]", word)[0] for word in words[2:]] == [
        "av", "pillow", "ai-edge-litert", "sentence-transformers", "transformers"
    ]  # fmt: skip


def start(*words: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def test_the_command_takes_its_own_packages_before_others_of_the_same_names(tmp_path: Path) -> None:
    """A separate process: another package has the name there."""
    for name in gzsl_bench.PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("x = 1\n", encoding="utf-8")
    done = start(str(PROJECT / "gzsl_bench.py"), "--version", path=tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stdout[:10], done.stderr) == (0, "gzsl-bench", "")


def test_a_package_of_the_same_name_that_is_imported_already_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gzsl_bench, "HERE", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        gzsl_bench.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert f"Python takes {PROJECT / 'benchmark'} for the package 'benchmark'" in said
    assert said.count("\n") == 1


@pytest.mark.slow(60)
def test_a_wheel_has_all_that_a_checkout_has_and_works_elsewhere(tmp_path: Path) -> None:
    """The whole wheel: only there does it show what setuptools takes along."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=PROJECT, capture_output=True, check=True
    )
    files = [name for name in listed.stdout.decode().splitlines() if (PROJECT / name).is_file()]
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, source / name)
    words = [
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    built = start(*words, path=tmp_path, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    for name in files:
        for folder, target in BESIDE.items():
            if name.startswith(f"{folder}/"):
                assert (unpacked / target / name.removeprefix(f"{folder}/")).read_bytes() == (
                    PROJECT / name
                ).read_bytes(), name
    here, elsewhere = (start("-c", FACTS, path=path, cwd=tmp_path) for path in (PROJECT, unpacked))
    assert json.loads(elsewhere.stdout) == json.loads(here.stdout)

    # Installed in a separate environment, which borrows the libraries of this one.
    env = tmp_path / "env"
    venv.create(env)
    (site,) = (env / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    before = sorted(site.rglob("*"))
    python, command = env / "bin" / "python", env / "bin" / "gzsl-bench"
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True)
    work = tmp_path / "work"
    (work / "methods").mkdir(parents=True)
    (work / "methods" / "plain.py").write_text(METHOD, encoding="utf-8")
    words = ["--methods", "linear,plain", "--dataset", "demo", "--seeds", "1"]
    words += ["--set", "train.epochs=1", "--json", "out.json"]
    done = subprocess.run([command, *words], cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((work / "out.json").read_text())["tables"][0]["rows"]
    assert len(rows) == 2
    made = ["data", "methods", "out.json", "reports", "runs"]
    assert sorted(p.name for p in work.iterdir()) == made, "what is made goes to the working folder"
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", "gzsl-bench"], check=True)
    assert sorted(site.rglob("*")) == before
    assert not command.exists()
