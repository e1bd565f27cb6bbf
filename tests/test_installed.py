"""An installed package: it has all that it needs, and its command takes it, whatever else has its packages'
names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.checkout import PROJECT

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


def start(*words: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def test_the_command_takes_its_own_packages_before_others_of_the_same_names(tmp_path: Path) -> None:
    """A process of its own: another package has the name there."""
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


@pytest.mark.slow
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
    (tmp_path / "empty").mkdir()
    words = ["-m", "gzsl_bench", "data", "info", "demo", "--json"]
    shown = start(*words, path=unpacked, cwd=tmp_path / "empty")
    assert shown.returncode == 0, shown.stderr
    assert Path(json.loads(shown.stdout)["file"]).parts[0] == "data", (
        "what is made goes to the working directory"
    )
    assert [p.name for p in (tmp_path / "empty").iterdir()] == ["data"]
