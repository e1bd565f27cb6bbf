"""Where stores lie and when they are built: once, again only after a change, and never silently for other data."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark.data.cards import CARDS_DIR, Card, load_cards
from benchmark.data.locate import open_or_build, store_path
from benchmark.data.stamps import ARRAYS
from benchmark.errors import UsageError

ROOT = CARDS_DIR.parent


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    return load_cards()


@pytest.fixture
def published(cards: dict[str, Card]) -> Card:
    """A card that cannot be built."""
    return cards["synthetic"].model_copy(update={"name": "elsewhere", "builder": None, "obtain": "Fetch it from there."})


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_a_store_is_named_by_data_set_and_features() -> None:
    assert store_path(Path("data"), "ucf", "cls") == Path("data/ucf-cls.h5")


def test_shipped_data_are_built_at_first_use_and_then_reused(cards: dict[str, Card], tmp_path: Path) -> None:
    first = open_or_build(cards["stamps"], None, tmp_path / "new" / "folder")
    assert first.path == tmp_path / "new" / "folder" / "stamps-native.h5"
    before = inode(first.path)
    again = open_or_build(cards["stamps"], "native", tmp_path / "new" / "folder", in_memory=True)
    assert inode(again.path) == before
    assert again.digest == first.digest
    assert again.in_memory


def test_a_changed_source_is_built_again(cards: dict[str, Card], tmp_path: Path) -> None:
    with np.load(CARDS_DIR / "stamps" / ARRAYS, allow_pickle=False) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    sources = tmp_path / "sources"
    (sources / "stamps").mkdir(parents=True)
    np.savez(sources / "stamps" / ARRAYS, **content)
    first = open_or_build(cards["stamps"], None, tmp_path, sources=sources)
    content["audio"] = 255 - content["audio"]
    np.savez(sources / "stamps" / ARRAYS, **content)
    second = open_or_build(cards["stamps"], None, tmp_path, sources=sources)
    assert second.path == first.path
    assert second.digest != first.digest


def test_changed_builder_options_of_a_card_are_built_again(cards: dict[str, Card], tmp_path: Path) -> None:
    card = cards["synthetic"]
    first = open_or_build(card, None, tmp_path)
    changed = card.model_copy(update={"builder_options": {**card.builder_options, "noise": 0.25}})
    second = open_or_build(changed, None, tmp_path)
    assert second.path == first.path
    assert second.digest != first.digest
    assert second.provenance["options"]["noise"] == 0.25


def test_overrides_get_a_file_of_their_own(cards: dict[str, Card], tmp_path: Path) -> None:
    card = cards["synthetic"]
    plain = open_or_build(card, None, tmp_path)
    other = open_or_build(card, None, tmp_path, overrides={"noise": 0.25})
    assert other.path != plain.path
    assert other.digest != plain.digest
    assert open_or_build(card, None, tmp_path, overrides={"noise": 0.25}).path == other.path
    assert open_or_build(card, None, tmp_path, overrides={"noise": card.builder_options["noise"]}).path == plain.path
    assert len(list(tmp_path.glob("*.h5"))) == 2


def test_a_damaged_store_is_built_again_and_said_so(
    cards: dict[str, Card], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = open_or_build(cards["synthetic"], None, tmp_path)
    good.path.write_bytes(good.path.read_bytes()[:5000])
    with caplog.at_level(logging.WARNING, "benchmark.data.locate"):
        again = open_or_build(cards["synthetic"], None, tmp_path)
    assert again.digest == good.digest
    assert "building it again" in caplog.text


def test_an_opened_store_stays_readable_while_it_is_built_again(cards: dict[str, Card], tmp_path: Path) -> None:
    card = cards["synthetic"]
    samples = open_or_build(card, None, tmp_path).development("corrected").samples
    before = np.array(samples.audio.means)
    open_or_build(card.model_copy(update={"builder_options": {**card.builder_options, "seed": 9}}), None, tmp_path)
    np.testing.assert_array_equal(samples.audio.means, before)


def test_two_processes_build_once(tmp_path: Path) -> None:
    program = (
        "import logging, sys; from pathlib import Path\n"
        "from benchmark.data.cards import load_cards; from benchmark.data.locate import open_or_build\n"
        "logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()\n"
        "sys.stdout.write(open_or_build(load_cards()['stamps'], None, Path(sys.argv[1])).digest)\n"
    )
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len({digest for digest, _ in results}) == 1
    assert sum(errors.count("building ") for _, errors in results) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_missing_features_say_where_they_were_looked_for_and_how_to_get_them(published: Card, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        open_or_build(published, None, tmp_path)
    message = str(raised.value)
    assert str(tmp_path / "elsewhere-native.h5") in message
    assert "Fetch it from there." in message
    assert "data import elsewhere --features native" in message


def test_a_store_of_another_data_set_is_refused(cards: dict[str, Card], published: Card, tmp_path: Path) -> None:
    open_or_build(cards["synthetic"], None, tmp_path).path.rename(tmp_path / "elsewhere-native.h5")
    with pytest.raises(UsageError, match="holds 'synthetic'"):
        open_or_build(published, None, tmp_path)


def test_settings_of_real_data_cannot_be_overridden(cards: dict[str, Card], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not generated"):
        open_or_build(cards["stamps"], None, tmp_path, overrides={"noise": 1})
    with pytest.raises(UsageError, match="no feature set"):
        open_or_build(cards["stamps"], "cls", tmp_path)
