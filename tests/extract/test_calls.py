"""Network calls have one shape, mix time steps of videos, and do not change features by that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.extract.calls import Calls
from benchmark.extract.extractor import Extractor
from benchmark.extract.sets.cls import Cls
from benchmark.extract.sets.main import Main
from benchmark.extract.weights_files import random_weights

ROWS = 4


class Network:
    """Doubles its steps, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[np.ndarray] = []

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        self.calls.append(steps)
        return 2 * steps


def steps(video: int, count: int) -> list[np.ndarray]:
    return [np.array([video, i], np.float32) for i in range(1, count + 1)]


def test_calls_have_one_shape_and_the_last_is_filled_up_with_zeros() -> None:
    network, found = Network(), list[np.ndarray]()
    Calls({"video": network}, ROWS, kept=8).compute("video", steps(1, 5), found.append)
    np.testing.assert_array_equal(np.concatenate(found), 2 * np.stack(steps(1, 5)))
    assert [call.tolist() for call in network.calls] == [
        [[1, 1], [1, 2], [1, 3], [1, 4]],
        [[1, 5], [0, 0], [0, 0], [0, 0]],
    ]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_videos_in_parallel_get_their_own_features_in_order(threads: int) -> None:
    network = Network()
    calls = Calls({"video": network, "audio": network}, ROWS, kept=6)

    def work(video: int) -> None:
        for modality in ("video", "audio"):
            found: list[np.ndarray] = []
            count = video % 7 + 1
            calls.compute(modality, steps(video, count), found.append)
            np.testing.assert_array_equal(np.concatenate(found), 2 * np.stack(steps(video, count)))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(1, 200)))
    assert {len(call) for call in network.calls} == {ROWS}


def test_short_videos_share_a_call() -> None:
    network = Network()
    calls = Calls({"video": network}, ROWS, kept=8)
    together = threading.Barrier(ROWS)

    def one_step(video: int) -> Iterator[np.ndarray]:
        together.wait()  # all have begun: none may take the others for finished
        yield from steps(video, 1)

    with ThreadPoolExecutor(ROWS) as pool:
        list(
            pool.map(
                lambda video: calls.compute("video", one_step(video), lambda features: None),
                range(1, 1 + ROWS),
            )
        )
    assert [sorted(call[:, 0]) for call in network.calls] == [[1, 2, 3, 4]]


def test_steps_of_other_shapes_are_other_calls() -> None:
    network, calls_of = Network(), threading.Barrier(2)
    calls = Calls({"video": network}, 2, kept=4)

    def work(size: int) -> None:
        def one() -> Iterator[np.ndarray]:
            calls_of.wait()
            yield np.ones(size, np.float32)

        calls.compute("video", one(), lambda features: None)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [3, 5]))
    assert sorted(call.shape for call in network.calls) == [(2, 3), (2, 5)]


def test_of_a_video_no_more_steps_wait_than_are_kept() -> None:
    most, begun, done = 0, 0, 0

    def made() -> Iterator[np.ndarray]:
        nonlocal most, begun
        for step in steps(1, 100):
            begun += 1
            most = max(most, begun - done)
            yield step

    def keep(features: np.ndarray) -> None:
        nonlocal done
        done += len(features)

    Calls({"video": Network()}, ROWS, kept=8).compute("video", made(), keep)
    assert (done, most) == (100, 8)


def test_a_video_that_fails_does_not_stop_the_others() -> None:
    calls = Calls({"video": Network()}, ROWS, kept=8)

    def broken() -> Iterator[np.ndarray]:
        yield from steps(3, 3)
        raise ValueError("broken")

    def work(video: int) -> Any:
        found: list[np.ndarray] = []
        try:
            calls.compute("video", broken() if video % 5 == 3 else steps(video, 5), found.append)
        except ValueError as error:
            return str(error)
        return np.concatenate(found).tolist()

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, range(50)))
    wanted = ["broken" if v % 5 == 3 else (2 * np.stack(steps(v, 5))).tolist() for v in range(50)]
    assert found == wanted


def test_a_failed_call_fails_its_videos_and_no_others() -> None:
    def failing(batch: np.ndarray) -> np.ndarray:
        if (batch == 7).any():
            raise RuntimeError("out of memory")
        return batch

    calls = Calls({"video": failing}, 1, kept=8)

    def work(video: int) -> str:
        try:
            calls.compute("video", steps(video, 5), lambda features: None)
        except RuntimeError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(6, 9))) == ["", "out of memory", ""]


# The networks


def random_steps(extractor: Extractor, modality: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    if modality == "audio":
        return 0.1 * rng.standard_normal((count, extractor.sound.window))
    return rng.standard_normal((count, extractor.timing.length, 3, 112, 112), np.float32)


@pytest.fixture(scope="module", params=[Cls, Main], ids=["cls", "main"])
def built(request: pytest.FixtureRequest) -> Extractor:
    kind: type[Extractor] = request.param
    return kind(random_weights(kind).states, frozenset(), "cpu")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.slow(20)
@pytest.mark.xdist_group("networks")
@pytest.mark.parametrize("modality", ["audio", "video"])
def test_the_place_in_a_call_and_the_other_rows_change_no_bit(
    built: Extractor, modality: str, threads: int
) -> None:
    network: Callable[[Any], np.ndarray] = getattr(built, modality)
    rows = 2 if modality == "video" else built.batch  # a clip takes a second or more
    step = random_steps(built, modality, 1)[0]
    found = set()
    for place in (0, rows - 1):
        for others in (
            random_steps(built, modality, rows),
            np.zeros_like(random_steps(built, modality, rows)),
        ):
            others[place] = step
            found.add(network(others)[place].tobytes())
    assert len(found) == 1


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["audio", "video"])
@pytest.mark.parametrize("kind", [Cls, Main])
def test_bfloat16_features_are_near_those_of_float32(kind: type[Extractor], modality: str) -> None:
    extractor = kind(random_weights(kind).states, frozenset(), "cpu")
    step = random_steps(extractor, modality, 1)
    wanted = getattr(extractor, modality)(step)
    extractor.use("bfloat16")
    found = getattr(extractor, modality)(step)
    assert found.dtype == np.float32
    assert 0 < np.linalg.norm(found - wanted) < 2e-2 * np.linalg.norm(wanted)
