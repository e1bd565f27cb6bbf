"""A user's methods, datasets and search spaces in the working folder, and a dataset config from anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tiny import Bench
from test_plugin import METHOD

from benchmark import registry
from benchmark.data.cards import find_card, load_cards
from benchmark.errors import UsageError
from benchmark.running.planning import plan_notes
from benchmark.system.shipped_files import own, shipped

MINE = METHOD.replace("plain", "mine").replace(' paper="none", bibtex="@misc{mine}",', "")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("methods", "datasets", "search_spaces"):
        (tmp_path / name).mkdir()
    (tmp_path / "methods" / "mine.py").write_text(MINE)
    (tmp_path / "methods" / "of_another_project.py").write_text("raise SystemExit")
    write_config(tmp_path / "datasets" / "mine.yaml", "mine")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    registry.REGISTERED.pop("mine", None)


def write_config(path: Path, name: str) -> None:
    text = shipped("datasets", "synthetic.yaml").read_text().replace("name: synthetic", f"name: {name}")
    path.write_text(f"{text}\npresets: {{quick-{name}: {{trials: 2}}}}\n")


def test_methods_datasets_and_search_spaces_of_the_working_folder_are_found(folder: Path) -> None:
    found = registry.load()
    assert "mine" in found.methods
    assert "of_another_project" not in found.broken
    assert find_card("mine", load_cards())[0].name == "mine"
    assert not found.search_space(found.get("mine")).search
    space = folder / "search_spaces" / "mine.yaml"
    space.write_text("method: mine\nsearch: {dropout: {type: float, low: 0.0, high: 0.5}}\n")
    assert set(found.search_space(found.get("mine")).search) == {"dropout"}


def test_nothing_takes_the_place_of_what_ships(folder: Path, bench: Bench) -> None:
    write_config(folder / "datasets" / "synthetic.yaml", "synthetic")
    (folder / "search_spaces" / "cjme.yaml").write_text("method: cjme\n")
    (folder / "methods" / "cjme.py").write_text(MINE.replace('"mine"', '"cjme"'))
    found = registry.load()
    assert registry.source_file(found.methods["cjme"]).parent == registry.METHODS_DIR
    assert "taken" in found.broken["cjme"]
    assert "quick-synthetic" not in load_cards()["synthetic"].presets
    with pytest.raises(UsageError, match=r"search_spaces/cjme.yaml: there is .*cjme.yaml too; keep one"):
        found.search_space(found.get("cjme"))
    (folder / "search_spaces" / "cjme.yaml").unlink()
    notes = plan_notes(bench.plan(bench.call(methods="cjme")), found)
    assert [note for note in notes if "the name 'synthetic' is taken" in note]


def test_a_config_is_used_from_anywhere_and_must_be_usable(
    folder: Path, tmp_path: Path, bench: Bench
) -> None:
    place = tmp_path / "elsewhere.yaml"
    with pytest.raises(UsageError, match=r"--dataset-config .*elsewhere.yaml"):
        load_cards(files=[place])
    write_config(place, "ours")
    (unit,) = bench.units(bench.call(methods="cjme", dataset="ours", dataset_configs=[place]))
    assert unit.card.name == "ours"
    write_config(place, "synthetic")
    with pytest.raises(UsageError, match="the name 'synthetic' is taken by"):
        load_cards(files=[place])


def test_a_preset_does_not_tune_a_method_without_a_search_space(folder: Path, bench: Bench) -> None:
    units = bench.units(bench.call(methods="mine,cjme", dataset="quick-mine"))
    assert [unit.tuning.searches for unit in units] == [False, True]
    with pytest.raises(UsageError, match="--trials 3: Linear has no search space"):
        bench.units(bench.call(methods="mine", dataset="quick-mine", trials=3))


def test_the_project_has_no_second_set_of_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shipped())
    assert own("methods") is None


def break_file(file: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put something in the place of a file that cannot be read."""
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(file.parent / "nowhere")
    elif kind == "circle":
        file.symlink_to(file)
    elif kind == "utf-16":
        file.write_text("from benchmark.method import Method\n", encoding="utf-16")
    elif kind == "latin-1":
        file.write_bytes("name: V\xf6gel # benchmark.method".encode("latin-1"))
    elif kind == "nul":
        file.write_bytes(b"import benchmark.method\0")
    else:  # the user who runs the tests may be allowed to read everything
        file.touch()
        of_all = Path.read_bytes

        def read_bytes(path: Path) -> bytes:
            if path.name == file.name:
                raise PermissionError(13, "Permission denied", str(path))
            return of_all(path)

        monkeypatch.setattr(Path, "read_bytes", read_bytes)


KINDS = ["folder", "pipe", "link", "circle", "utf-16", "latin-1", "nul", "unreadable"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_read_is_listed_and_stops_no_other(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("methods/broken.py", "datasets/broken.yaml"):
        break_file(folder / place, kind, monkeypatch)
    found = registry.load()
    assert "mine" in found.methods
    assert str(folder / "methods" / "broken.py") in found.broken["broken"]
    with pytest.raises(UsageError, match="method 'broken' cannot be loaded: "):
        found.get("broken")
    cards = load_cards()
    assert "mine" in cards
    (broken,) = cards.broken
    assert broken.names == ["broken"]
    assert str(folder / "datasets" / "broken.yaml") in broken.reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_space_that_cannot_be_read_stops_its_method_alone(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_file(folder / "search_spaces" / "mine.yaml", kind, monkeypatch)
    found = registry.load()
    with pytest.raises(UsageError, match=r"search_spaces/mine\.yaml: "):
        found.search_space(found.get("mine"))
    assert found.search_space(found.get("cjme")).search


def test_a_folder_that_cannot_be_read_is_listed_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_all = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.absolute().parent == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return of_all(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = registry.load()
    assert "cannot be read (Permission denied)" in found.broken["methods/"]
    assert "cjme" in found.methods
    cards = load_cards()
    assert [broken.reason for broken in cards.broken] == ["datasets: cannot be read (Permission denied)"]
    assert "synthetic" in cards


def test_a_plugin_that_cannot_be_read_names_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_file(folder / "plugin.py", "unreadable", monkeypatch)
    with pytest.raises(UsageError, match=r"--plugin .*plugin\.py: cannot be read \(Permission denied\)"):
        registry.load([folder / "plugin.py"])
