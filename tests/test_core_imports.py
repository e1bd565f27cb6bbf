"""Training and testing a method needs torch, numpy, h5py, pydantic, filelock and PyYAML, and nothing else.

A machine with a GPU often has torch and little else. A process of its own sees only these libraries and those
that they require.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from support.checkout import PROJECT

CORE = ("torch", "numpy", "h5py", "pydantic", "filelock", "pyyaml")
TRAINED = """
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmark.method import Listener
from benchmark.protocol.stages import stage_one, stage_two
import perf.cuda
from perf.generated import experiment_on, generate

class Silent(Listener):
    pass

folder = Path(sys.argv[1])
store = generate(folder / "store.h5", "main", 60)
experiment = experiment_on(store, "cjme", epochs=1, batches_per_epoch=2, batch_size=8, device="cpu")
tested = stage_two(experiment, stage_one(experiment, folder, "k", Silent()), folder, "k", Silent())
others = [name for name in ("mlflow", "optuna", "pandas", "scipy", "typer") if find_spec(name)]
print("trained", tested.epochs, tested.test_openings, others)
"""


def required(names: tuple[str, ...]) -> set[str]:
    """These distributions and all that they require without extras, as far as they are installed."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:  # for another system or Python
            continue
        found.add(name)
        wanted = {re.split(r"[^\w.-]", text)[0] for text in requires if "extra ==" not in text}
        waiting += wanted - found
    return found


def link_libraries(folder: Path) -> None:
    """Link the libraries of the core into a folder of packages."""
    for name in required(CORE):
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(package.locate_file(top))))


@pytest.mark.slow
def test_both_stages_run_with_the_libraries_of_the_core_alone(tmp_path: Path) -> None:
    """Takes as long as importing torch in a new process: this one has imported the others already."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    link_libraries(libraries)
    done = subprocess.run(
        [sys.executable, "-S", "-c", TRAINED, str(tmp_path)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (libraries, PROJECT)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "trained 1 1 []\n", done.stderr
