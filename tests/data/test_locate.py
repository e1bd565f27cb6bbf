"""Paths of stores, and when they are built: once, and again only after a change or a warning."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.small_store import make_store, own_card

from benchmark.data.built.stamps import ARRAYS
from benchmark.data.cards import CARDS_DIR, Card, load_cards
from benchmark.data.locate import open_or_build, store_path
from benchmark.data.store import FeatureStore
from benchmark.errors import Unavailable, UsageError

ROOT = CARDS_DIR.parent


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    return load_cards()


@pytest.fixture
def published(cards: dict[str, Card]) -> Card:
    """A dataset config that cannot be built."""
    return cards["synthetic"].model_copy(
        update={"name": "elsewhere", "builder": None, "obtain": "Fetch it from there."}
    )


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_a_store_is_named_by_dataset_and_features() -> None:
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
    assert (
        open_or_build(card, None, tmp_path, overrides={"noise": card.builder_options["noise"]}).path
        == plain.path
    )
    assert len(list(tmp_path.glob("*.h5"))) == 2


def test_a_damaged_store_is_built_again_with_a_warning(
    cards: dict[str, Card], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = open_or_build(cards["synthetic"], None, tmp_path)
    good.path.write_bytes(good.path.read_bytes()[:5000])
    with caplog.at_level(logging.WARNING, "benchmark.data.locate"):
        again = open_or_build(cards["synthetic"], None, tmp_path)
    assert again.digest == good.digest
    assert "building it again" in caplog.text


def test_an_opened_store_stays_readable_while_it_is_built_again(
    cards: dict[str, Card], tmp_path: Path
) -> None:
    card = cards["synthetic"]
    samples = open_or_build(card, None, tmp_path).development("by_name").samples
    before = np.array(samples.audio.means)
    open_or_build(
        card.model_copy(update={"builder_options": {**card.builder_options, "seed": 9}}), None, tmp_path
    )
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
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
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


def test_missing_features_say_where_they_were_looked_for_and_how_to_get_them(
    published: Card, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as raised:
        open_or_build(published, None, tmp_path)
    message = str(raised.value)
    assert str(tmp_path / "elsewhere-native.h5") in message
    assert "Fetch it from there." in message
    assert "data import elsewhere --features native" in message


def test_a_store_of_another_dataset_is_refused(
    cards: dict[str, Card], published: Card, tmp_path: Path
) -> None:
    open_or_build(cards["synthetic"], None, tmp_path).path.rename(tmp_path / "elsewhere-native.h5")
    with pytest.raises(UsageError, match="holds 'synthetic'"):
        open_or_build(published, None, tmp_path)


def test_settings_of_real_data_cannot_be_overridden(cards: dict[str, Card], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not synthetic"):
        open_or_build(cards["stamps"], None, tmp_path, overrides={"noise": 1})
    with pytest.raises(UsageError, match="no feature set"):
        open_or_build(cards["stamps"], "cls", tmp_path)


# Reasons outside the file: it may be sound, so it is neither called damaged nor built again


@pytest.mark.parametrize(
    "code",
    [
        errno.EAGAIN,
        errno.ENOLCK,
        errno.EACCES,
        errno.EMFILE,
        errno.ENFILE,
        errno.EIO,
        errno.ENOMEM,
        errno.ESTALE,
    ],
)
def test_a_store_that_cannot_be_read_for_another_reason_is_left_as_it_is(
    cards: dict[str, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = open_or_build(cards["synthetic"], None, tmp_path)
    before = inode(store.path)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(Unavailable) as raised:
        open_or_build(cards["synthetic"], None, tmp_path)
    assert str(raised.value).startswith(f"{store.path}: ")
    assert "again from" not in str(raised.value)
    assert "build" not in str(raised.value)
    assert inode(store.path) == before


def test_a_store_that_another_program_writes_to_is_read_and_not_replaced(
    cards: dict[str, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = cards["synthetic"]
    path = open_or_build(card, None, tmp_path).path
    before = inode(path)
    with open(path, "r+b") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)  # as HDF5 does in another program
        assert open_or_build(card, None, tmp_path).path == path
        changed = card.model_copy(update={"builder_options": {**card.builder_options, "noise": 0.25}})
        with pytest.raises(Unavailable, match="another program has it open for writing; close it there"):
            open_or_build(changed, None, tmp_path)
        whole = path.read_bytes()
        writer.truncate(5000)  # what it writes is not complete
        with pytest.raises(Unavailable, match="another program has it open for writing"):
            open_or_build(card, None, tmp_path)
        writer.write(whole)
    assert inode(path) == before


def test_file_systems_without_locks_are_enough(
    cards: dict[str, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    first = open_or_build(cards["synthetic"], None, tmp_path)
    before = inode(first.path)
    assert inode(open_or_build(cards["synthetic"], None, tmp_path).path) == before
    assert not recwarn.list


def test_a_folder_in_the_place_of_a_store_is_named(
    cards: dict[str, Card], published: Card, tmp_path: Path
) -> None:
    for card in (cards["synthetic"], published):
        store_path(tmp_path, card.name, "native").mkdir()
        with pytest.raises(UsageError, match=r"-native\.h5: a folder, where a file is expected"):
            open_or_build(card, None, tmp_path)


def test_links_to_another_disk_stay_when_a_store_is_built_again(
    cards: dict[str, Card], tmp_path: Path
) -> None:
    card, disk = cards["synthetic"], tmp_path / "other disk"
    disk.mkdir()
    link = store_path(tmp_path, card.name, "native")
    link.symlink_to(disk / "store.h5")
    first = open_or_build(card, None, tmp_path)
    changed = card.model_copy(update={"builder_options": {**card.builder_options, "noise": 0.25}})
    second = open_or_build(changed, None, tmp_path)
    assert link.is_symlink()
    assert FeatureStore(disk / "store.h5").digest == second.digest != first.digest


def test_a_disk_that_is_not_mounted_is_named_and_nothing_is_built_in_its_place(
    cards: dict[str, Card], published: Card, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "mnt" / "data")
    for card in (cards["synthetic"], published):
        with pytest.raises(
            UsageError, match=r"data is a link to .*mnt/data, which is not there; mount its disk"
        ):
            open_or_build(card, None, tmp_path / "data")
    assert not (tmp_path / "mnt").exists()


def test_a_store_of_other_sizes_than_its_card_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_store(tmp_path / "own-native.h5")
    card = own_card()
    native = card.features["native"]
    wider = native.model_copy(update={"audio": native.audio.model_copy(update={"dim": 16}), "text_dim": 300})
    with caplog.at_level(logging.WARNING, "benchmark.data.locate"):
        assert open_or_build(card, None, tmp_path).audio_dim == 2
        assert not caplog.records
        open_or_build(card.model_copy(update={"features": {"native": wider}}), None, tmp_path)
    sizes = "audio 2, not 16, text 4, not 300"
    assert f"feature sizes differ from the dataset config of 'own' (native): {sizes}; correct" in caplog.text
