"""What names a job: everything that can change its numbers, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import Bench

from benchmark.running.jobs import Unit


def unit_with(bench: Bench, seen_test: str, grouping: str) -> Unit:
    (unit,) = bench.units(bench.call(methods="cjme"))
    protocol = unit.settings.protocol.model_copy(update={"seen_test": seen_test})
    card = unit.card.model_copy(update={"grouping": grouping})
    return replace(unit, card=card, settings=replace(unit.settings, protocol=protocol))


@pytest.mark.parametrize(
    ("seen_test", "stage", "matters"),
    [
        ("group_disjoint", 2, True),
        ("group_disjoint", 1, False),
        ("published", 2, True),
        ("published", 1, False),
    ],
)
def test_the_grouping_rule_names_the_jobs_whose_numbers_it_decides(
    bench: Bench, seen_test: str, stage: Any, matters: bool
) -> None:
    by_ten, by_hundred = (
        unit_with(bench, seen_test, rf"(synthetic_\d{{{n}}})").job(stage, 0) for n in (6, 5)
    )
    assert (by_ten.key != by_hundred.key) == matters
    assert ("grouping" in by_ten.identity()) == matters


def test_the_versions_of_the_libraries_that_compute_name_a_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.units(bench.call(methods="cjme"))[0].job(1, 0)
    identity: Mapping[str, Any] = job.identity()
    assert (identity["torch"], identity["numpy"]) == (str(torch.__version__), np.__version__)
    before = job.key
    monkeypatch.setattr(np, "__version__", "0.0.0")
    assert replace(job).key != before
