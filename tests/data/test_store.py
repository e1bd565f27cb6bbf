"""The feature store: round trips, development data that end before the first test sample, and digests."""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.cards import Card
from benchmark.data.checks.verify import verify_store
from benchmark.data.store import (
    DEVELOPMENT_SPLITS,
    SPLITS,
    TEST_SPLITS,
    DamagedStore,
    FeatureStore,
    ModalityContent,
    StoreContent,
    counting_test_accesses,
    write_store,
)
from benchmark.errors import UsageError
from benchmark.running.provenance import data_caption
from benchmark.system.files import OutsideError, replacing
from benchmark.untrusted.kinds import first_bytes

CLASS_SPLITS = dict(zip(SPLITS, ([0, 1], [0, 1], [2], [0, 1, 2], [3]), strict=True))


def content(
    lengths: list[tuple[int, int]], split_of: list[int], seed: int = 0, means_only: bool = False
) -> StoreContent:
    """Random content for time steps of audio and video and the split of each sample (non-decreasing)."""
    rng = np.random.default_rng(seed)
    n = len(lengths)

    def modality(column: int, dim: int) -> ModalityContent:
        if means_only:
            return ModalityContent(dim, means=rng.normal(size=(n, dim)).astype("f4"))
        offsets = np.cumsum([0, *(pair[column] for pair in lengths)])
        return ModalityContent(dim, rng.normal(size=(int(offsets[-1]), dim)).astype("f4"), offsets)

    return StoreContent(
        dataset="tiny",
        features="native",
        generated=True,
        class_names=["a", "b", "c, d", "é"],
        class_splits=CLASS_SPLITS,
        vector_names=["p", "q", "r", "s"],
        vectors=rng.normal(size=(4, 6)).astype("f4"),
        own_vector=[1, 0, 3, 2],
        ids=[f"sample {i}" for i in range(n)],
        labels=np.array(
            [CLASS_SPLITS[SPLITS[p]][i % len(CLASS_SPLITS[SPLITS[p]])] for i, p in enumerate(split_of)],
            np.int64,
        ),
        splits=np.array(split_of, np.uint8),
        audio=modality(0, 3),
        video=modality(1, 5),
        provenance={"source": "nowhere", "files": ["x" * 300] * 500},
    )


def standard(**options: Any) -> StoreContent:
    """Two samples of each class in each split."""
    split_of = [SPLITS.index(split) for split in SPLITS for _ in range(2 * len(CLASS_SPLITS[split]))]
    return content([(1 + i % 3, 2 + i % 4) for i in range(len(split_of))], split_of, **options)


def digests(path: Path, written: StoreContent) -> tuple[str, str]:
    write_store(path, written)
    store = FeatureStore(path)
    return store.digest, store.development_digest


@st.composite
def contents(draw: st.DrawFn) -> StoreContent:
    """Any number of samples in each split, at least one on each side of the seal, of any length."""
    n_dev, n_test = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    split_of = sorted(draw(st.lists(st.integers(0, 2), min_size=n_dev, max_size=n_dev)))
    split_of += sorted(draw(st.lists(st.integers(3, 4), min_size=n_test, max_size=n_test)))
    lengths = draw(
        st.lists(
            st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=len(split_of), max_size=len(split_of)
        )
    )
    return content(lengths, split_of, draw(st.integers(0, 99)), means_only=draw(st.booleans()))


@settings(max_examples=40, deadline=None)
@given(written=contents(), in_memory=st.booleans(), block=st.sampled_from([64, 1000, 64 * 2**20]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, written: StoreContent, in_memory: bool, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.data.store.BLOCK_BYTES", block)
        write_store(path, written)
    store = FeatureStore(path, in_memory=in_memory)
    assert (store.dataset, store.features, store.generated) == ("tiny", "native", True)
    assert (store.tables().class_names, store.tables().ids) == (list(written.class_names), list(written.ids))
    assert store.provenance == written.provenance
    dev, test = store.development("by_name"), store.open_test("by_name")
    n = len(dev.samples.labels)
    assert n == int((written.splits < len(DEVELOPMENT_SPLITS)).sum())
    for section, rows in ((dev, slice(0, n)), (test, slice(n, None))):
        np.testing.assert_array_equal(section.samples.labels, written.labels[rows])
        np.testing.assert_array_equal(section.samples.splits, written.splits[rows])
        assert list(section.samples.ids) == list(written.ids[rows])
    for name in ("audio", "video"):
        expected: ModalityContent = getattr(written, name)
        read = [getattr(section.samples, name) for section in (dev, test)]
        if expected.frames is None:
            np.testing.assert_array_equal(np.concatenate([r.means for r in read]), expected.means)
            continue
        assert expected.offsets is not None
        np.testing.assert_array_equal(np.concatenate([r.frames for r in read]), expected.frames)
        np.testing.assert_array_equal(np.concatenate([r.lengths for r in read]), np.diff(expected.offsets))
        means = [
            expected.frames[a:b].mean(0)
            for a, b in zip(expected.offsets[:-1], expected.offsets[1:], strict=True)
        ]
        np.testing.assert_allclose(np.concatenate([r.means for r in read]), means, atol=1e-6)
        assert all(r.offsets[0] == 0 and r.offsets[-1] == len(r.frames) for r in read)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_means_are_sums_of_float64_in_the_order_of_the_steps(tmp_path: Path, dtype: Any) -> None:
    written = content([(1, 40), (300, 2), (9, 9)], [0, 1, 3])
    write_store(tmp_path / "store.h5", written, dtype)
    store = FeatureStore(tmp_path / "store.h5")
    for section in (store.development("by_name"), store.open_test("by_name")):
        for data in (section.samples.audio, section.samples.video):
            assert data.frames is not None
            assert data.offsets is not None
            sums = np.add.reduceat(data.frames, data.offsets[:-1], axis=0, dtype=np.float64)
            np.testing.assert_array_equal(data.means, (sums / data.lengths[:, None]).astype("f4"))


def test_float16_stays_float16_in_memory_and_is_the_same_as_mapped(tmp_path: Path) -> None:
    write_store(tmp_path / "half.h5", content([(3, 4), (2, 5)], [0, 3]), "float16")
    mapped, held = (FeatureStore(tmp_path / "half.h5", in_memory=held) for held in (False, True))
    for name in ("audio", "video"):
        a, b = (getattr(store.development("by_name").samples, name) for store in (mapped, held))
        assert b.frames.dtype == np.float16
        assert isinstance(root_of(a.frames), ctypes.Array), "no mmap object, which leads back to the file"
        assert root_of(b.frames) is b.frames
        np.testing.assert_array_equal(a.frames, b.frames)


def root_of(array: Any) -> Any:
    """The memory behind an array: its map, or itself."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def beside(array: Any) -> tuple[bytes, bytes]:
    """The bytes of an array's pages before and after it."""
    start, size = array.ctypes.data, array.nbytes
    first, end = start - start % mmap.PAGESIZE, start + size
    return ctypes.string_at(first, start - first), ctypes.string_at(end, -end % mmap.PAGESIZE)


@settings(max_examples=20, deadline=None)
@given(written=contents())
def test_development_data_have_no_row_of_a_test_sample(
    tmp_path_factory: pytest.TempPathFactory, written: StoreContent
) -> None:
    path = tmp_path_factory.getbasetemp() / "sealed.h5"
    write_store(path, written)
    store = FeatureStore(path)
    section = store.development("by_name")
    n = int((written.splits < len(DEVELOPMENT_SPLITS)).sum())
    assert n < len(written.ids)
    for name in ("audio", "video"):
        data, source = getattr(section.samples, name), getattr(written, name)
        assert len(data.means) == n
        arrays = [data.means] if source.frames is None else [data.means, data.frames]
        if source.frames is not None:
            assert len(data.frames) == source.offsets[n] < len(source.frames)
            assert len(data.offsets) == n + 1
        for array in arrays:
            assert not hasattr(array, "filename")
            assert not array.flags.writeable
            before, after = beside(array)
            assert not any(before + after), "the pages of the map hold nothing but the array"
    assert set(section.classes.splits) == set(DEVELOPMENT_SPLITS)
    assert set(section.classes.names) == set(section.classes.vectors) == {0, 1, 2}


def test_each_run_of_splits_holds_its_own_samples_and_pages_alone(tmp_path: Path) -> None:
    written = standard()
    write_store(tmp_path / "tiny.h5", written)
    store = FeatureStore(tmp_path / "tiny.h5")
    for splits in (DEVELOPMENT_SPLITS[:1], DEVELOPMENT_SPLITS[1:], DEVELOPMENT_SPLITS):
        section = store.development("by_name", splits=splits)
        rows = np.isin(written.splits, [SPLITS.index(split) for split in splits])
        assert list(section.samples.ids) == [written.ids[i] for i in np.flatnonzero(rows)]
        assert section.samples.labels.tolist() == written.labels[rows].tolist()
        assert set(section.classes.splits) == set(splits)
        for data in (section.samples.audio, section.samples.video):
            for array in (data.means, data.frames):
                assert not any(b"".join(beside(array)))
    for splits in (TEST_SPLITS, DEVELOPMENT_SPLITS[::2], DEVELOPMENT_SPLITS[::-1]):
        with pytest.raises(ValueError, match=r"in their order|not in"):
            store.development("by_name", splits=splits)


def test_whoever_opens_the_test_splits_is_counted(tmp_path: Path) -> None:
    write_store(tmp_path / "tiny.h5", standard())
    inner: list[int] = []
    outer: list[int] = []
    with counting_test_accesses(lambda: outer.append(1)):
        FeatureStore(tmp_path / "tiny.h5").open_test("by_name")
        with counting_test_accesses(lambda: inner.append(1)):
            FeatureStore(tmp_path / "tiny.h5").open_test("by_name")
            FeatureStore(tmp_path / "tiny.h5").development("by_name")
    FeatureStore(tmp_path / "tiny.h5").open_test("by_name")
    assert (len(inner), len(outer)) == (1, 2)


def test_a_store_that_was_replaced_meanwhile_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "tiny.h5", standard())
    store = FeatureStore(tmp_path / "tiny.h5")
    write_store(tmp_path / "tiny.h5", standard(seed=1))
    with pytest.raises(UsageError, match="was replaced by another file"):
        store.development("by_name")


def _change(split: str) -> Callable[[StoreContent], StoreContent]:
    def change(written: StoreContent) -> StoreContent:
        assert written.video.frames is not None
        assert written.video.offsets is not None
        row = int(np.flatnonzero(written.splits == SPLITS.index(split))[0])
        frames = written.video.frames.copy()
        frames[written.video.offsets[row], 0] += 1
        return dataclasses.replace(written, video=dataclasses.replace(written.video, frames=frames))

    return change


def _vector(row: int) -> Callable[[StoreContent], StoreContent]:
    def change(written: StoreContent) -> StoreContent:
        vectors = np.array(written.vectors)
        vectors[row] += 1
        return dataclasses.replace(written, vectors=vectors)

    return change


def _replaced(**fields: Any) -> Callable[[StoreContent], StoreContent]:
    return lambda written: dataclasses.replace(written, **fields)


def _renamed(row: int) -> Callable[[StoreContent], StoreContent]:
    return lambda written: dataclasses.replace(
        written, ids=[f"{s}!" if i == row else s for i, s in enumerate(written.ids)]
    )


@pytest.mark.parametrize(
    ("change", "development_changes"),
    [
        *((_change(split), True) for split in DEVELOPMENT_SPLITS),
        *((_change(split), False) for split in TEST_SPLITS),
        (_renamed(0), True),
        (_renamed(17), False),
        (_vector(0), True),
        (_replaced(dataset="other"), True),
        (_replaced(own_vector=[0, 1, 3, 2]), True),
        (_replaced(class_names=["A", "b", "c, d", "é"]), True),
        (_replaced(class_names=["a", "b", "c, d", "f"]), False),
        (_replaced(class_splits={**CLASS_SPLITS, "stage_1_val_unseen": [2, 3]}), True),
    ],
)
def test_a_change_changes_the_digest_and_the_development_digest_only_where_it_belongs(
    tmp_path: Path, change: Callable[[StoreContent], StoreContent], development_changes: bool
) -> None:
    before = digests(tmp_path / "a.h5", standard())
    after = digests(tmp_path / "b.h5", change(standard()))
    assert before[0] != after[0]
    assert (before[1] != after[1]) == development_changes


def test_the_digest_does_not_depend_on_provenance_or_on_when_it_was_written(tmp_path: Path) -> None:
    assert digests(tmp_path / "a.h5", standard()) == digests(
        tmp_path / "b.h5", _replaced(provenance={})(standard())
    )


def test_a_changed_mean_changes_the_digest_of_a_store_of_means(tmp_path: Path) -> None:
    written = standard(means_only=True)
    assert written.audio.means is not None
    means = written.audio.means.copy()
    means[-1] += 1
    changed = dataclasses.replace(written, audio=dataclasses.replace(written.audio, means=means))
    a, b = digests(tmp_path / "a.h5", written), digests(tmp_path / "b.h5", changed)
    assert (a[0] != b[0], a[1] == b[1]) == (True, True)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_store_is_refused_clearly(tmp_path: Path, share: float) -> None:
    path = tmp_path / "tiny.h5"
    write_store(path, standard())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UsageError, match=r"tiny\.h5.*import it again"):
        FeatureStore(path)


def test_another_hdf5_file_and_a_missing_file_are_refused_clearly(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f["x"] = 1
    for name in ("other.h5", "none.h5"):
        with pytest.raises(UsageError, match=name):
            FeatureStore(tmp_path / name)


FULL = """
import resource, sys
from pathlib import Path
from benchmark.data.cards import load_cards
from benchmark.data.locate import open_or_build
from benchmark.errors import Unavailable

for limit in (2_000, 20_000, 60_000, 10**9):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        open_or_build(load_cards()["synthetic"], None, Path(sys.argv[1]))
    except Unavailable as error:
        print(error)
"""


def test_a_full_disk_is_reported_at_any_time(tmp_path: Path) -> None:
    """In a new process, which may crash: HDF5 cannot close a file that it cannot write to."""
    name = "synthetic-native.h5"
    (tmp_path / f".{name}.0123.partial").write_text("left by a killed process")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    message = [
        line
        for line in done.stdout.splitlines()
        if f"{name}: the disk is full, or a quota or limit is reached" in line
    ]
    assert len(message) == 3, done.stdout + done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {name, f".{name}.lock"}


@pytest.mark.parametrize(("name", "value"), [("classes/vectors", None), ("audio/means", np.ones(3))])
def test_a_store_of_another_structure_is_damaged(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "tiny.h5"
    write_store(path, standard())
    with h5py.File(path, "r+") as f:
        del f[name]
        f.create_group(name) if value is None else f.create_dataset(name, data=value)
    with pytest.raises(DamagedStore, match="not a readable feature file"):
        FeatureStore(path).tables()


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(OutsideError, match="a device or pipe, where a file is expected"):
        FeatureStore(tmp_path / "pipe.h5")
    with pytest.raises(OutsideError, match="a device or pipe, where a file is expected"):
        first_bytes(tmp_path / "pipe.h5")


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "tiny.h5"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "fields",
    [
        {"splits": np.arange(18, 0, -1).astype(np.uint8)},
        {"labels": np.zeros(3, np.int64)},
        {"own_vector": [0]},
        {"vector_names": ["q", "p", "r", "s"]},
        {"class_splits": {}},
        {"audio": ModalityContent(3)},
        {"audio": ModalityContent(3, np.zeros((5, 3)), np.array([0, 5]))},
    ],
)
def test_content_that_does_not_fit_together_is_not_written(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"samples|embeddings|vectors|lists|offsets|mean"):
        write_store(tmp_path / "tiny.h5", dataclasses.replace(standard(), **fields))
    assert list(tmp_path.iterdir()) == []


# Verifying


def tiny_card(**expected: Any) -> Card:
    modality = {"extractor": "none", "seconds": 1}
    features = {
        "description": "tiny",
        "audio": {**modality, "dim": 3},
        "video": {**modality, "dim": 5},
        "text_dim": 6,
        **expected,
    }
    fields = {
        "name": "tiny",
        "title": "Tiny",
        "kind": "generated",
        "description": "tiny",
        "default_features": "native",
    }
    return Card.model_validate({**fields, "features": {"native": features}})


@pytest.mark.parametrize("means_only", [False, True])
def test_a_sound_store_has_no_findings(tmp_path: Path, means_only: bool) -> None:
    write_store(tmp_path / "tiny.h5", standard(means_only=means_only))
    assert verify_store(tmp_path / "tiny.h5", tiny_card()) == []


def test_counts_that_differ_from_the_cards_are_notes(tmp_path: Path) -> None:
    write_store(tmp_path / "tiny.h5", standard())
    card = tiny_card(samples={"stage_1_train": 4, "stage_1_val_seen": 7}, classes={"stage_1_train": 9})
    findings = verify_store(tmp_path / "tiny.h5", card)
    assert [finding.severity for finding in findings] == ["note"]
    assert "stage_1_train: 2 classes, the config has 9" in str(findings[0])
    assert "stage_1_val_seen: 4 samples, the config has 7" in str(findings[0])


@pytest.mark.parametrize(
    ("generated", "samples", "message"),
    [
        (
            False,
            {"stage_1_train": 4, "stage_1_val_seen": 7, "stage_2_test_seen": 9},
            "ours, 6 of 20 listed samples missing",
        ),
        (
            False,
            {"stage_1_train": 3, "stage_2_train": 90},
            "ours",
        ),  # more than listed; a union of other splits
        (True, {"stage_1_train": 1_000}, "ours"),
    ],
)
def test_captions_say_how_many_listed_samples_are_missing(
    tmp_path: Path, generated: bool, samples: dict[str, int], message: str
) -> None:
    write_store(tmp_path / "tiny.h5", dataclasses.replace(standard(), generated=generated))
    card = tiny_card(samples=samples).model_copy(update={"caption": "ours"})
    assert data_caption(FeatureStore(tmp_path / "tiny.h5"), card) == message
    assert (
        data_caption(FeatureStore(tmp_path / "tiny.h5"), card.model_copy(update={"caption": ""}))
        == message[len("ours, ") :]
    )


def _set(key: str, index: Any, value: Any) -> Callable[[h5py.File], None]:
    def change(f: h5py.File) -> None:
        f[key][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("video/frames", (3, 2), 9.0), "hash differs"),
        (_set("audio/frames", (0, 0), np.nan), "not a number or infinite"),
        (_set("audio/means", (1, 1), 7.0), "means do not fit the sequences (1): audio: sample 1"),
        (_set("samples/ids", 1, "sample 0"), "duplicate sample id (1): sample 0 (2 times)"),
        (_set("samples/labels", slice(0, 4), 0), "class without samples (1): stage_1_train/b"),
        (_set("samples/labels", 0, 3), "label outside its split (1): stage_1_train/é"),
        (_set("samples/labels", 0, 77), "class id 77"),
        (
            _set("classes/parts/stage_1_train", 0, 9999),
            "class without samples (1): stage_1_train/class id 9999",
        ),
        (_set("samples/parts", 0, 4), "samples out of order"),
        (_set("classes/vectors", (0, 0), np.inf), "not a number or infinite (1): class embeddings"),
        (_set("audio/offsets", 1, 50), "lengths do not fit"),
    ],
)
def test_what_was_changed_after_writing_is_found(
    tmp_path: Path, change: Callable[[h5py.File], None], message: str
) -> None:
    path = tmp_path / "tiny.h5"
    write_store(path, standard())
    with h5py.File(path, "r+") as f:
        change(f)
    findings = verify_store(path, tiny_card())
    assert any(finding.severity == "problem" and message in str(finding) for finding in findings)


def test_verifying_another_dataset_or_no_store_is_a_problem(tmp_path: Path) -> None:
    write_store(tmp_path / "tiny.h5", dataclasses.replace(standard(), dataset="other"))
    assert "another dataset" in verify_store(tmp_path / "tiny.h5", tiny_card())[0].kind
    assert "unreadable feature file" in verify_store(tmp_path / "none.h5", tiny_card())[0].kind
