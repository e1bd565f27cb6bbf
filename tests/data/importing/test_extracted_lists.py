"""Output of the extraction scripts is imported to the same feature file as the split folder."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkout import PROJECT
from support.fasttext_model import Model

from benchmark.cli import app
from benchmark.data import cards
from benchmark.data.importing import extracted_lists
from benchmark.data.importing.extracted_lists import import_extracted
from benchmark.data.importing.findings import FIXES, ImportProblems
from benchmark.data.importing.importing import ImportReport
from benchmark.data.importing.official_layout import import_official
from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError
from benchmark.untrusted.arrays import load_pickle
from benchmark.untrusted.kinds import FETCH_TRUSTED
from benchmark.untrusted.pickle_lists import read_list
from benchmark.untrusted.pickles import RefusedPickle, UnreadableFile

Folder = Any  # tests/data/conftest.py: OfficialFolder
Element = list[Any]


def elements_of(folder: Folder) -> list[Element]:
    """All samples of the folder as the scripts list them, in no order, with others that no list names."""
    found = []
    for path in sorted((folder.sequences / "video").glob("*/*.pkl")):
        video = pickle.loads(path.read_bytes())
        audio = pickle.loads(
            (folder.sequences / "audio" / path.relative_to(folder.sequences / "video")).read_bytes()
        )
        for v, a, name in zip(video["features"], audio["features"], video["video_names"], strict=True):
            found.append([v, len(found) % 7, a, f"{name.decode()}.avi"])
    found.append([found[0][0] * 2, 0, found[0][2] * 2, "v_stray_g01_c01.avi"])
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def in_one_list(elements: list[Element], place: Path, protocol: int = 4) -> None:
    place.mkdir()
    (place / "ucf_features_no_averaged").write_bytes(pickle.dumps(elements, protocol))


def in_several(elements: list[Element], place: Path) -> None:
    for i in range(5):
        (place / str(i)).mkdir(parents=True)
        (place / str(i) / "features").write_bytes(pickle.dumps(elements[i::5]))


def a_pickle_per_video(elements: list[Element], place: Path) -> None:
    place.mkdir()
    for video, label, audio, name in elements:
        stem = name.removesuffix(".avi")
        (place / f"{stem}.pkl").write_bytes(pickle.dumps([[video], [audio], [label], [stem]]))


def as_tensors(elements: list[Element]) -> list[Element]:
    """As SeLaVi's script has them: of batches of one video, the name in a tuple."""
    return [
        [
            torch.tensor(video)[:, None],
            torch.tensor([label]),
            torch.tensor(audio)[:, None].requires_grad_(),
            (name,),
        ]
        for video, label, audio, name in elements
    ]


def a_pickle_of_tensors_per_video(elements: list[Element], place: Path) -> None:
    place.mkdir()
    for i, (video, label, audio, name) in enumerate(as_tensors(elements)):
        (place / f"{i}.pkl").write_bytes(
            pickle.dumps([[video], [audio], [label], [name]], pickle.HIGHEST_PROTOCOL)
        )


def merged_tensors(elements: list[Element], place: Path) -> None:
    in_one_list(as_tensors(elements), place)


def take(folder: Folder, extracted: Path, target: Path, **options: Any) -> ImportReport:
    return import_extracted(folder.card(), "cls", folder.parent, extracted, target, **options)


@pytest.mark.parametrize(
    "write",
    [
        *(lambda elements, place, p=p: in_one_list(elements, place, p) for p in (0, 2, 3, 4, 5)),
        in_several,
        a_pickle_per_video,
        a_pickle_of_tensors_per_video,
        merged_tensors,
        lambda elements, place: in_one_list([tuple(element) for element in elements], place),
    ],
)
def test_every_form_becomes_the_store_of_the_split_folder(
    folder: Folder, tmp_path: Path, write: Callable[[list[Element], Path], None]
) -> None:
    write(elements_of(folder), tmp_path / "extracted")
    report = take(folder, tmp_path / "extracted", tmp_path / "tiny.h5")
    official = import_official(folder.card(), "cls", folder.parent, tmp_path / "official.h5")
    assert report.digest == official.digest
    assert report.splits == official.splits
    assert report.form == "sequences"
    told = {note.kind: note.count for note in report.notes}
    assert told["samples that no list names, not read"] == 1 + 4  # the class that the class list omits
    assert not (tmp_path / "tiny.h5.import").exists()


def test_bytes_of_vggish_become_numbers(folder: Folder, tmp_path: Path) -> None:
    elements = [
        [v, label, np.full(a.shape, 200, np.uint8), name] for v, label, a, name in elements_of(folder)
    ]
    in_one_list(elements, tmp_path / "extracted")
    take(folder, tmp_path / "extracted" / "ucf_features_no_averaged", tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    assert np.unique(store.open_test("by_name").samples.audio.means).tolist() == [200]


def test_an_import_that_is_done_is_not_done_again(folder: Folder, tmp_path: Path) -> None:
    place, target = tmp_path / "extracted", tmp_path / "tiny.h5"
    elements = elements_of(folder)
    in_one_list(elements, place)
    first = take(folder, place, target)
    assert take(folder, place, target).already
    os.utime(place / "ucf_features_no_averaged")
    again = take(folder, place, target)
    assert (again.already, again.digest, again.splits) == (True, first.digest, first.splits)
    elements[0][0] = elements[0][0] + 1
    elements[1][0] = elements[1][0] + 1
    (place / "ucf_features_no_averaged").write_bytes(pickle.dumps(elements))
    other = take(folder, place, target)
    assert (other.already, other.digest == first.digest) == (False, False)
    vectors = take(folder, place, target, vectors=Model(["x"]).write(tmp_path / "wiki.bin"))
    assert (vectors.already, vectors.digest == other.digest) == (False, False)
    assert not take(folder, place, target, force=True, vectors=tmp_path / "wiki.bin").already


CHILD = """
import os, signal, sys
from pathlib import Path
from benchmark.data.importing import extracted_lists
from benchmark.data.cards import Card

extracted_lists.GROUP_BYTES = 1
card = Card.model_validate_json(Path(sys.argv[1]).read_text())

def progress(what, done, total):
    if f"{what} {done}" == sys.argv[5]:
        os.kill(os.getpid(), signal.SIGKILL)

extracted_lists.import_extracted(card, "cls", *map(Path, sys.argv[2:5]), progress=progress)
"""


@pytest.mark.parametrize(("stop", "resumed"), [("reading files 3", 3), ("writing the feature file 0", 5)])
def test_a_killed_import_continues_to_the_same_store(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str, resumed: int
) -> None:
    place, target = tmp_path / "extracted", tmp_path / "tiny.h5"
    in_several(elements_of(folder), place)
    card = tmp_path / "card.json"
    card.write_text(folder.card().model_dump_json())
    words = [sys.executable, "-c", CHILD, card, folder.parent, place, target, stop]
    assert subprocess.run([str(w) for w in words], cwd=PROJECT, check=False).returncode == -signal.SIGKILL
    monkeypatch.setattr(extracted_lists, "GROUP_BYTES", 1)
    report = take(folder, place, target)
    assert report.resumed == resumed
    assert report.digest == take(folder, place, tmp_path / "whole.h5").digest


def test_what_was_staged_for_other_lists_is_not_used(folder: Folder, tmp_path: Path) -> None:
    place, target = tmp_path / "extracted", tmp_path / "tiny.h5"
    elements = elements_of(folder)
    in_one_list(elements, place)
    (place / "zz").write_bytes(b"broken")
    with pytest.raises(ImportProblems):
        take(folder, place, target)
    (place / "zz").unlink()
    rows = folder.listed("stage_2_test_unseen")
    folder.write_samples("stage_2_test_unseen", rows[1:])
    report = take(folder, place, target)
    assert report.splits["stage_2_test_unseen"].found == 7
    assert report.digest == take(folder, place, tmp_path / "whole.h5").digest


# Faults


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


class HiddenPayload:
    """Hides in the file of its own that a tensor is."""

    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (pickle.dumps(Payload(), 2),)


def _first(change: Callable[[Element], Any]) -> Callable[[list[Element]], Any]:
    def spoil(elements: list[Element]) -> list[Any]:
        i = next(
            i for i, element in enumerate(elements) if element[3].startswith("v_Archery_stage_1_train_g00")
        )
        return [*elements[:i], change(list(elements[i])), *elements[i + 1 :]]

    return spoil


def _set(index: int, how: Callable[[Any], Any]) -> Callable[[list[Element]], Any]:
    def change(element: Element) -> Element:
        element[index] = how(element[index])
        return element

    return _first(change)


FAULTS: dict[str, tuple[str, Callable[[list[Element]], Any], str]] = {
    "hostile": ("refused pickle", _set(1, lambda x: Payload()), r"features: (posix|nt)\.system"),
    "hostile tensor": ("refused pickle", _set(0, lambda x: HiddenPayload()), r"features: (posix|nt)\.system"),
    "no list": ("wrong structure", lambda elements: {"video": 1}, "holds no list but dict"),
    "nothing": ("wrong structure", lambda elements: [], "but a list of 0"),
    "three fields": (
        "wrong structure",
        _first(lambda element: element[:3]),
        r"element \d+ is no \[video, class index",
    ),
    "a number": ("wrong structure", _first(lambda element: 3), r"element \d+ is no \[video.*, but 3"),
    "name": ("wrong structure", _set(3, lambda name: 17), r"element \d+ is no \[video"),
    "averaged": ("averaged features", _set(0, lambda x: x.mean(0)), "v_Archery_stage_1_train_g00_c01: video"),
    "dimension": (
        "wrong dimension",
        _set(2, lambda x: x[:, :2]),
        "v_Archery_stage_1_train_g00_c01: audio: 2, not 3",
    ),
    "dtype": ("wrong dtype", _set(0, lambda x: x.astype(int)), "g00_c01: video: int64"),
    "no array": ("wrong dtype", _set(2, lambda x: x.tolist()), "g00_c01: audio: list"),
    "nan": ("not a number or infinite", _set(0, lambda x: x * np.nan), "g00_c01: video"),
    "no clips": ("empty sequence", _set(0, lambda x: np.array([])), "g00_c01: video"),
    "large": ("too large for float16", _set(0, lambda x: x * 0 + 1e6), "video of features: 1e"),
    "twice": (
        "duplicate sample id",
        lambda elements: [*elements, pickle.loads(pickle.dumps(elements[0]))],
        "in features and fea",
    ),
    "class": (
        "class without samples",
        lambda elements: [e for e in elements if not e[3].startswith("v_Archery_stage_1_train")],
        "stage_1_train/Archery",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_with_place_and_fix_and_nothing_is_imported(
    folder: Folder, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kind, spoil, told = FAULTS[fault]
    Path("features").write_bytes(pickle.dumps(spoil(elements_of(folder))))
    with pytest.raises(ImportProblems, match=told) as caught:
        take(folder, Path("features"), tmp_path / "tiny.h5", dtype="float16")
    (problem,) = [p for p in caught.value.problems if p.kind == kind]
    assert problem.fix == (FETCH_TRUSTED if kind == "refused pickle" else FIXES[kind])
    assert {p.kind for p in caught.value.problems} <= {kind, "class without samples"}
    assert not Path("tiny.h5").exists()
    assert not Path("canary").exists()


def test_faults_of_all_files_and_lists_are_reported_together(folder: Folder, tmp_path: Path) -> None:
    place = tmp_path / "extracted"
    elements = elements_of(folder)
    in_one_list(elements, place)
    (place / "a").write_bytes(pickle.dumps([[Payload()]]))
    (place / "b").write_bytes(pickle.dumps(elements, 2)[:-200])
    (place / "c").write_text("no pickle")
    (place / "d").write_bytes(pickle.dumps([[elements[0][0], 0, elements[0][2], 3]]))
    (place / ".hidden").write_text("not read")
    (folder.lists / "stage_1_val_unseen.csv").unlink()
    folder.text.unlink()
    with pytest.raises(ImportProblems) as caught:
        take(folder, place, tmp_path / "tiny.h5")
    kinds = {problem.kind: problem for problem in caught.value.problems}
    assert kinds.keys() == {
        "missing class embeddings", "missing sample list", "refused pickle", "unreadable file",
        "another kind of file", "wrong structure", "duplicate sample id", "class without samples",
    }  # fmt: skip
    assert kinds["missing sample list"].fix == FIXES["missing sample list"]
    assert (kinds["unreadable file"].count, kinds["unreadable file"].what.split(":")[0]) == (1, "b")
    assert kinds["another kind of file"].what == "c: plain text ('no pickle')"
    assert kinds["refused pickle"].what.startswith("a: ")


@pytest.mark.parametrize(
    ("path", "message"), [("nowhere", "no such file or folder"), ("empty", "holds no files")]
)
def test_a_place_without_files_is_refused(folder: Folder, tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=message):
        take(folder, tmp_path / path, tmp_path / "tiny.h5")


def test_the_command_imports_and_reports(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "load_cards", lambda **_: {"tiny": folder.card()})
    in_one_list(elements_of(folder), tmp_path / "extracted")
    words = [
        "data",
        "import",
        "tiny",
        "--from",
        folder.parent,
        "--extracted",
        tmp_path / "extracted",
        "--data-root",
        tmp_path,
    ]
    with pytest.raises(SystemExit) as ended:
        app.main([str(w) for w in [*words, "--json", tmp_path / "out.json"]])
    assert (ended.value.code or 0) == 0
    said = json.loads((tmp_path / "out.json").read_text())
    assert (said["state"], said["digest"]) == ("imported", FeatureStore(tmp_path / "tiny-cls.h5").digest)
    with pytest.raises(SystemExit) as ended:
        app.main([str(w) for w in [*words, "--form", "means"]])
    assert ended.value.code == 2


# Reading element by element


def read(path: Path) -> list[Any]:
    found: list[Any] = []
    read_list(path, found.append)
    return found


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000, 1001, 2001])
def test_all_elements_come_in_order(tmp_path: Path, protocol: int, count: int) -> None:
    kinds: list[Callable[[int], Any]] = [
        lambda i: [i, np.full((2, 3), i, "f4"), f"name {i}"],
        lambda i: (np.full(2, i), (i,), [], i),
        lambda i: [],
        lambda i: [[np.full(1, i)], {"a": i}],
        lambda i: [np.full(2, i)],
        lambda i: [[i]],
        lambda i: [[x] for x in range(1001 if i == 6 else i % 4)],
    ]
    path = tmp_path / "list"
    path.write_bytes(pickle.dumps([kinds[i % len(kinds)](i) for i in range(count)], protocol))
    expected = load_pickle(path)
    assert [pickle.dumps(x) for x in read(path)] == [pickle.dumps(x) for x in expected]


def test_a_reference_to_an_earlier_element_is_refused(tmp_path: Path) -> None:
    x = np.zeros((100, 3))
    path = tmp_path / "list"
    path.write_bytes(pickle.dumps([[x, 1], [x, 2]]))
    with pytest.raises(RefusedPickle, match="something of an earlier element again"):
        read(path)
    path.write_bytes(pickle.dumps([[x, x]]))
    ((first, second),) = read(path)
    assert first is second


def test_what_the_taker_raises_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(pickle.dumps([[1, 2], [3, 4]]))

    def take(element: Any) -> None:
        raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        read_list(path, take)


def test_a_missing_file_and_a_truncated_one_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="no such file; check the path"):
        read(tmp_path / "nowhere")
    path = tmp_path / "list"
    path.write_bytes(pickle.dumps([[1, 2], [3, 4]])[:-3])
    with pytest.raises(UnreadableFile, match="truncated or damaged"):
        read(path)


@pytest.mark.parametrize(
    "tensor",
    [
        *(
            torch.arange(6.0).reshape(2, 3),
            torch.zeros(0, 3),
            torch.tensor([4]),
            torch.tensor(3.5),
            torch.arange(9.0)[3:5],
        ),
        *(
            torch.arange(6.0).reshape(2, 3).T,
            torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)[1:, :, ::2],
        ),
        *(torch.arange(9.0)[::4], torch.nn.Parameter(torch.ones(2)), torch.zeros(5, 0).T),
    ],
)
def test_tensors_are_arrays(tmp_path: Path, tensor: torch.Tensor) -> None:
    path = tmp_path / "list"
    path.write_bytes(pickle.dumps([[tensor, 1]]))
    ((array, _),) = read(path)
    np.testing.assert_array_equal(array, tensor.detach().numpy())
    assert (array.dtype, array.shape) == (tensor.detach().numpy().dtype, tensor.shape)
    assert array.flags.c_contiguous


def test_tensors_of_bfloat16_which_numpy_has_not_become_float32(tmp_path: Path) -> None:
    tensor = torch.tensor([[1.0, -2.5], [0.125, 3.0]], dtype=torch.bfloat16)
    path = tmp_path / "list"
    path.write_bytes(pickle.dumps([[tensor, 1]]))
    ((array, _),) = read(path)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, tensor.float().numpy())


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1).expand(10**9, 1), torch.arange(9.0).as_strided((7, 3), (1, 1))]
)
def test_tensors_larger_than_their_numbers_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    path = tmp_path / "list"
    path.write_bytes(pickle.dumps([[tensor, 1]]))
    with pytest.raises(RefusedPickle, match="a tensor of size"):
        read(path)


def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    path = tmp_path / "list"
    size = 2**18
    path.write_bytes(
        pickle.dumps(
            [[np.zeros((1, size // 4), "f4"), i, np.zeros((1, 3), "f4"), f"{i}"] for i in range(200)]
        )
    )
    tracemalloc.start()
    try:
        count = 0

        def take(element: Any) -> None:
            nonlocal count
            count += 1

        read_list(path, take)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 200
    assert peak < 8 * size < path.stat().st_size / 20
