"""Random streams: all are created in one place, by purpose, and no two share numbers."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.checkout import PROJECT
from support.tiny import Bench, QuietListener

from benchmark import uncertainty
from benchmark.data.built.stamps import divide
from benchmark.data.built.synthetic import SyntheticConfig, synthetic_content
from benchmark.inspection import inspect
from benchmark.protocol.evaluation import Calibration
from benchmark.protocol.stages import StageOne, stage_two
from benchmark.system.streams import Purpose, stream
from benchmark.uncertainty import bootstrap_intervals

PACKAGES = [PROJECT / name for name in ("benchmark", "methods")]
OTHER_GENERATORS = {
    "streams.py": "all others",
    "randomness.py": "what methods draw themselves",
    "building.py": "weights of networks without published ones",
    "tables.py": "the same",
    "embedding_layout.py": "t-SNE of scikit-learn",
}
"""Files that seed generators, with the reason."""


def state_of(*entropy: int) -> tuple[int, ...]:
    return tuple(np.random.SeedSequence(entropy).generate_state(4, np.uint64).tolist())


def test_no_two_streams_of_a_run_and_its_data_coincide(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collect all streams of training, test, data and statistics for several seeds and epochs."""
    made: list[tuple[int, ...]] = []

    def default_rng(entropy: list[int]) -> np.random.Generator:
        made.append(tuple(entropy))
        return np.random.default_rng(entropy)

    (unit,) = bench.units(
        bench.call("protocol.text_alignment=shuffled", "train.batches_per_epoch=1", methods="cjme")
    )
    monkeypatch.setattr(
        "benchmark.system.streams.np", SimpleNamespace(random=SimpleNamespace(default_rng=default_rng))
    )
    first = StageOne(1, Calibration(0.5, "grid", {}), {}, [1e-3] * 2)
    for repetition in range(2):
        experiment = unit.job(2, repetition).experiment()
        tested = stage_two(experiment, first, bench.runs / str(repetition), "k", QuietListener())
        inspect(tested, with_map=True)
    counts = {"samples": [2, 2], "gzsl": [1, 0], "own_group": [1, 1]}
    classes = [{"class": "a", "group": "seen", **counts}, {"class": "b", "group": "unseen", **counts}]
    for seed in range(3):
        synthetic_content(SyntheticConfig(seed=seed))
        uncertainty._draws.cache_clear()
        bootstrap_intervals([classes], seed=seed)
    arrays: Any = SimpleNamespace(
        labels=np.repeat([0, 1], 9), groups=np.arange(18), class_split=np.array([0, 1])
    )
    divide(arrays)

    assert {entropy[0] for entropy in made} == {*Purpose}
    for purpose in Purpose:  # one number of counters for each, since missing ones count as 0
        assert len({len(entropy) for entropy in made if entropy[0] == purpose}) == 1, purpose
    assert len({state_of(*entropy) for entropy in made}) == len(set(made)) > 25


def test_streams_of_different_purposes_differ_whatever_their_seeds_and_counters() -> None:
    """Small and large seeds, numbers of purposes, and missing counters, which a seed sequence reads as 0."""
    seeds, counters = (
        [*range(16), 0x5EED, 20220604, 2**31 - 1, 2**40, 2**63 - 1],
        [(), (0,), (1,), (4,), (24_301,)],
    )
    states = {p: {state_of(p, s, *c) for s in seeds for c in counters} for p in Purpose}
    assert sum(len(x) for x in states.values()) == len(set().union(*states.values()))


def test_a_stream_is_the_same_for_the_same_arguments() -> None:
    first, again, other = (stream(Purpose.CUTS, 7, epoch).integers(2**62) for epoch in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_no_other_place_seeds_a_generator(package: Path) -> None:
    """Ensures that the tests above see every stream."""
    seeding = re.compile(
        r"default_rng|SeedSequence|np\.random\.(?!Generator)|manual_seed|random_state=|torch\.Generator"
    )
    found = {path.name for path in package.rglob("*.py") if seeding.search(path.read_text())}
    assert found == ({*OTHER_GENERATORS} if package.name == "benchmark" else set()), (
        "use benchmark.system.streams.stream"
    )
