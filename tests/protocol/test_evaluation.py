"""Evaluation against a plain loop over samples, classes and betas, and against published numbers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmark.method import euclidean
from benchmark.protocol.evaluation import GRID, Calibration, Nearest, harmonic_mean


def brute_force(
    distances: np.ndarray, class_ids: np.ndarray, seen: set[int], labels: np.ndarray, beta: float
) -> tuple[float, float, float]:
    """S, U and ZSL by definition: add beta, take the first minimum, average recall over classes."""
    right: dict[int, list[bool]] = {}
    right_zsl: dict[int, list[bool]] = {}
    for row, label in zip(distances, labels, strict=True):
        best = min(
            range(len(class_ids)),
            key=lambda c: (row[c] + (beta if class_ids[c] in seen else 0.0), class_ids[c]),
        )
        right.setdefault(int(label), []).append(class_ids[best] == label)
        if label not in seen:
            unseen = [c for c in range(len(class_ids)) if class_ids[c] not in seen]
            right_zsl.setdefault(int(label), []).append(
                class_ids[min(unseen, key=lambda c: (row[c], class_ids[c]))] == label
            )
    recall = {c: float(np.mean(r)) for c, r in right.items()}
    groups = [[r for c, r in recall.items() if (c in seen) == want] for want in (True, False)]
    zsl = [float(np.mean(r)) for r in right_zsl.values()]
    return tuple(float(np.mean(g)) if g else 0.0 for g in (*groups, zsl))  # type: ignore[return-value]


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distances on a coarse exact grid: ties of every kind are common, and no sum is rounded."""
    n, c = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    distances = draw(arrays(np.float32, (n, c), elements=st.integers(0, 24).map(lambda i: i / 4)))
    class_ids = np.sort(draw(st.lists(st.integers(0, 30), min_size=c, max_size=c, unique=True)))
    n_seen = draw(st.integers(1, c - 1))
    seen = np.sort(draw(st.permutations(list(class_ids)))[:n_seen])
    labels = np.array(draw(st.lists(st.sampled_from(list(class_ids)), min_size=n, max_size=n)))
    return distances, class_ids.astype(np.int64), seen.astype(np.int64), labels.astype(np.int64)


@given(cases(), st.integers(-30, 30).map(lambda i: i / 4))
@settings(max_examples=300, deadline=None)
def test_scores_at_any_beta_equal_the_plain_loop(case: tuple[np.ndarray, ...], beta: float) -> None:
    distances, ids, seen, labels = case
    nearest = Nearest.of(distances, ids, seen, labels)
    expected = brute_force(distances.astype(float), ids, set(seen.tolist()), labels, beta)
    for exact in (False, True):
        scores = nearest.at(beta, exact=exact)
        assert (scores.seen, scores.unseen, scores.zsl) == pytest.approx(expected)


@given(cases())
@settings(max_examples=200, deadline=None)
def test_curve_holds_every_state_and_the_best_of_all_betas(case: tuple[np.ndarray, ...]) -> None:
    distances, ids, seen, labels = case
    curve = Nearest.of(distances, ids, seen, labels).curve()
    breakpoints = {float(a - b) for row in distances.astype(float) for a in row for b in row}
    betas = sorted(
        breakpoints | {b + 1 / 8 for b in breakpoints} | {min(breakpoints) - 1, max(breakpoints) + 1}
    )
    states = [brute_force(distances.astype(float), ids, set(seen.tolist()), labels, beta) for beta in betas]
    points = {(round(s, 9), round(u, 9)) for s, u, _ in states}
    assert {
        (round(s, 9), round(u, 9)) for s, u in zip(curve.seen.tolist(), curve.unseen.tolist(), strict=True)
    } == points
    assert curve.hm.max() == pytest.approx(max(harmonic_mean(s, u) for s, u, _ in states))
    s, u = np.array([x[0] for x in states]), np.array([x[1] for x in states])
    assert curve.ausuc == pytest.approx(float(np.trapezoid(s, u)))


def middle_of_the_best_interval(case: tuple[np.ndarray, ...]) -> float:
    """By definition: score between all gaps, join equal neighbours, take the widest best interval."""
    distances, ids, seen, labels = case
    ends = sorted({float(a - b) for row in distances.astype(float) for a in row for b in row})
    joined: list[tuple[float, float, tuple[float, float]]] = []
    for a, b in pairwise(ends):
        state = brute_force(distances.astype(float), ids, set(seen.tolist()), labels, (a + b) / 2)[:2]
        before = joined.pop() if joined and joined[-1][2] == state else (a, b, state)
        joined.append((before[0], b, state))
    best = max((harmonic_mean(*state) for *_, state in joined), default=0.0)
    if best == 0:
        return 0.0
    a, b, _ = max((x for x in joined if harmonic_mean(*x[2]) > best - 1e-9), key=lambda x: x[1] - x[0])
    return (a + b) / 2


@given(cases())
@settings(max_examples=200, deadline=None)
def test_best_beta_is_the_middle_of_the_widest_interval_with_the_best_hm(
    case: tuple[np.ndarray, ...],
) -> None:
    nearest = Nearest.of(*case)
    curve = nearest.curve()
    assert curve.best_beta() == middle_of_the_best_interval(case)
    assert nearest.at(curve.best_beta(), exact=True).hm == pytest.approx(curve.hm[::2].max())


@st.composite
def renumbered(draw: st.DrawFn) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """A case, and the same with other class ids. Only a seen and an unseen distance may tie."""
    n, s, u = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rows = [[draw(st.permutations(range(8)))[:size] for size in (s, u)] for _ in range(n)]
    distances = np.array([[*a, *b] for a, b in rows], np.float32) / 4
    seen, labels = (
        np.arange(s + u) < s,
        np.array(draw(st.lists(st.integers(0, s + u - 1), min_size=n, max_size=n))),
    )

    def numbered(ids: np.ndarray) -> tuple[np.ndarray, ...]:
        order = np.argsort(ids)
        return distances[:, order], ids[order], np.sort(ids[seen]), ids[labels]

    orders = (draw(st.permutations(range(s + u))) for _ in range(2))
    first, second = (numbered(np.array(order, np.int64)) for order in orders)
    return first, second


@given(renumbered())
@settings(max_examples=300, deadline=None)
def test_best_beta_does_not_depend_on_the_order_of_class_ids(
    pair: tuple[tuple[np.ndarray, ...], ...],
) -> None:
    first, second = (Nearest.of(*case).curve().best_beta() for case in pair)
    assert first == second


def test_best_beta_of_tied_samples_is_not_at_the_tie() -> None:
    """A seen and two unseen samples change sides at 1, where class ids decide which are correct."""
    gaps = np.array([1, 1.5, 0, 1, 1], np.float32)
    at_1 = set()
    for seen, near_seen, near_unseen in ((1, 2, 0), (1, 0, 2), (0, 1, 2), (2, 1, 0)):
        distances = np.full((5, 3), 9, np.float32)
        distances[:, seen] = 2
        distances[range(5), [near_seen] * 2 + [near_unseen] * 3] = 2 + gaps
        nearest = Nearest.of(
            distances, np.arange(3), np.array([seen]), np.array([seen] * 2 + [near_unseen] * 3)
        )
        at_1.add(round(nearest.at(1.0, exact=True).hm, 2))
        assert (
            nearest.curve().best_beta() == 1.25
        )  # correct: above 1 the unseen ones, up to 1.5 one of two seen ones
    assert at_1 == {1.0, 0.4, 0.5, 0.67}


@pytest.mark.parametrize(
    ("gaps_seen", "gaps_unseen", "expected"),
    [
        ([4.0], [1.0], 2.5),  # all correct from 1 to 4
        ([4.0], [1.0, 9.0], 2.5),
        ([2.0, 8.0], [1.0, 3.0], 5.5),  # all correct only from 3 to 8
        ([1.0], [2.0], 0.0),  # never both correct: HM is 0 at every beta
        ([-1.0], [-3.0], -2.0),
    ],
)
def test_best_beta_of_hand_made_gaps(
    gaps_seen: list[float], gaps_unseen: list[float], expected: float
) -> None:
    """A gap is the beta above which a sample is assigned to the unseen class."""
    gaps = np.array([*gaps_seen, *gaps_unseen], np.float32)
    distances = np.stack([10 - gaps / 2, 10 + gaps / 2], 1)
    labels = np.repeat([0, 1], [len(gaps_seen), len(gaps_unseen)])
    assert Nearest.of(distances, np.arange(2), np.array([0]), labels).curve().best_beta() == expected


@given(cases())
@settings(max_examples=100, deadline=None)
def test_grid_takes_the_first_maximum(case: tuple[np.ndarray, ...]) -> None:
    nearest = Nearest.of(*case)
    values = [nearest.at(float(b)).hm for b in GRID]
    assert nearest.best_on_grid().beta == pytest.approx(float(GRID[int(np.argmax(values))]))


def test_exact_calibration_is_never_below_the_grid() -> None:
    rng = np.random.default_rng(0)
    distances = rng.random((200, 10)).astype(np.float32)
    nearest = Nearest.of(distances, np.arange(10), np.arange(6), rng.integers(0, 10, 200))
    assert nearest.curve().hm.max() >= nearest.best_on_grid().hm


def test_grid_equals_the_published_one_bit_by_bit() -> None:
    """``torch.linspace(0, 3, 16)`` in float32."""
    bits = (
        "00000000 3e4ccccd 3ecccccd 3f19999a 3f4ccccd 3f800000 3f99999a 3fb33333 3fcccccd 3fe66666 40000000 "
        "400ccccd "
        "4019999a 40266666 40333333 40400000"
    )
    assert GRID.dtype == np.float32
    assert [f"{x:08x}" for x in GRID.view(np.uint32)] == bits.split()


def test_calibration_is_the_mean_of_the_outputs_or_that_of_the_reported_output() -> None:
    rng = np.random.default_rng(1)
    outputs = {
        name: Nearest.of(
            rng.random((60, 8)).astype(np.float32) * scale, np.arange(8), np.arange(5), rng.integers(0, 8, 60)
        )
        for name, scale in (("audio", 1.0), ("video", 4.0), ("both", 8.0))
    }
    paper = Calibration.choose(outputs, "both", exact=False, mean_of_outputs=True)
    own = Calibration.choose(outputs, "both", exact=False, mean_of_outputs=False)
    assert paper.beta == pytest.approx(np.mean([outputs[v].best_on_grid().beta for v in outputs]))
    assert own.beta == pytest.approx(outputs["both"].best_on_grid().beta)
    assert paper.beta != own.beta


def test_blocks_of_samples_give_the_whole() -> None:
    rng = np.random.default_rng(2)
    distances, labels = rng.random((50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    ids, seen = np.arange(7), np.arange(4)
    whole = Nearest.of(distances, ids, seen, labels)
    parts = Nearest.concatenate(
        [Nearest.of(distances[i : i + 8], ids, seen, labels[i : i + 8]) for i in range(0, 50, 8)]
    )
    assert whole.at(0.1) == parts.at(0.1)


def test_recall_table_averages_to_the_scores() -> None:
    rng = np.random.default_rng(3)
    nearest = Nearest.of(
        rng.random((90, 9)).astype(np.float32), np.arange(9), np.arange(5), rng.integers(0, 9, 90)
    )
    table, scores = nearest.recall(0.2), nearest.at(0.2)
    assert np.mean([table[c][0] for c in range(5)]) == pytest.approx(scores.seen)
    assert np.mean([table[c][0] for c in range(5, 9)]) == pytest.approx(scores.unseen)
    assert np.mean([table[c][1] for c in range(5, 9)]) == pytest.approx(scores.zsl)
    assert sum(n for _, _, n in table.values()) == 90


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_distances_that_are_not_finite_are_an_error_that_names_one(value: float, column: int) -> None:
    distances = np.ones((3, 2), np.float32)
    distances[1, column] = value
    message = rf"sample of class id 5 to class id {(4, 5)[column]} is {value}; distances must be finite"
    with pytest.raises(ValueError, match=message):
        Nearest.of(distances, np.array([4, 5]), np.array([4]), np.array([4, 5, 5]))


@pytest.mark.parametrize("name", ["evaluation_plain", "evaluation_cjme"])
def test_published_evaluation_is_equalled(shared: Path, name: str) -> None:
    folder = shared / "golden" / name
    data, expected = np.load(folder / "data.npz"), json.loads((folder / "expected.json").read_text())
    tensors = {k: torch.from_numpy(data[k]) for k in ("audio", "video", "classes")}
    distances = {output: euclidean(tensors[output], tensors["classes"]) for output in ("audio", "video")}
    gate = torch.from_numpy(data["attention_hard"]) if expected["cjme_attention"] else None
    audio, video = distances["audio"], distances["video"]
    distances["both"] = audio + video if gate is None else (1 - gate) * audio + gate * video
    outputs = {
        v: Nearest.of(d.numpy(), data["class_ids"], data["seen_ids"], data["label"])
        for v, d in distances.items()
    }
    calibration = Calibration.choose(outputs, "both", exact=False, mean_of_outputs=True)
    assert calibration.beta == pytest.approx(expected["mean_beta"], abs=1e-6)
    for output, nearest in outputs.items():
        for scores, wanted in (
            (nearest.best_on_grid(), expected["best_over_grid"][output]),
            (nearest.at(calibration.beta), expected["at_mean_beta"][output]),
        ):
            assert {**scores.as_dict(), "beta": scores.beta} == pytest.approx(wanted, abs=1e-6)
