"""Published numbers stand in the files as they stand in the papers, and wrong files are refused with all
their errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.report.results import published as module
from benchmark.report.results.published import (
    load_published,
    method_order,
    published_for,
    published_problems,
    user_reports_for,
)

SIX = ["attention_fusion", "perceiver", "cjme", "avgzslnet", "avca", "tcaf"]


@pytest.mark.parametrize(
    ("dataset", "features", "method", "expected"),
    [
        ("vggsound", "cls", "tcaf", (12.63, 6.72, 8.77, 7.41)),
        ("ucf", "cls", "tcaf", (67.14, 40.83, 50.78, 44.64)),
        ("activitynet", "cls", "tcaf", (30.12, 7.65, 12.20, 7.96)),
        ("ucf", "cls", "avgzslnet", (74.79, 24.15, 36.51, 31.51)),
        ("vggsound", "cls", "attention_fusion", (14.13, 3.00, 4.95, 3.37)),
        ("activitynet", "cls", "perceiver", (18.25, 4.27, 6.92, 4.47)),
        ("vggsound", "main", "cjme", (8.69, 4.78, 6.17, 5.16)),
        ("ucf", "main", "avca", (51.53, 18.43, 27.15, 20.01)),
        ("activitynet", "main", "avgzslnet", (8.93, 5.04, 6.44, 5.40)),
        ("ucf", "main", "tcaf", (None, None, 31.72, None)),
    ],
)
def test_numbers_are_those_of_the_papers(
    dataset: str, features: str, method: str, expected: tuple[float | None, ...]
) -> None:
    found = published_for(dataset, features, method)

    assert found is not None
    numbers = found.numbers
    assert (numbers.seen, numbers.unseen, numbers.hm, numbers.zsl) == expected


@pytest.mark.parametrize("dataset", ["vggsound", "ucf", "activitynet"])
def test_tables_are_complete(dataset: str) -> None:
    assert all(published_for(dataset, "cls", method) for method in SIX)
    assert all(published_for(dataset, "main", method) for method in ("cjme", "avgzslnet", "avca", "tcaf"))
    assert not published_for(dataset, "main", "perceiver")


@pytest.mark.parametrize(("features", "methods"), [("cls", SIX), ("main", ["cjme", "avgzslnet", "avca"])])
@pytest.mark.parametrize("dataset", ["vggsound", "ucf", "activitynet"])
def test_papers_give_all_four_numbers(dataset: str, features: str, methods: list[str]) -> None:
    found = [published_for(dataset, features, method) for method in methods]

    assert {p.source.origin for p in found if p} == {"paper"}
    assert None not in [value for p in found if p for value in p.numbers.model_dump().values()]


def test_second_hand_numbers_say_so() -> None:
    second_hand, first_hand = published_for("ucf", "main", "tcaf"), published_for("ucf", "main", "avca")

    assert second_hand is not None
    assert first_hand is not None
    assert (second_hand.second_hand, first_hand.second_hand) == (True, False)


def test_what_users_report_is_not_taken_for_published() -> None:
    reported = [p.numbers.hm for p in user_reports_for("ucf", "cls", "tcaf")]
    published = published_for("ucf", "cls", "tcaf")

    assert reported == [30.22, 27.99]
    assert published is not None
    assert published.source.origin == "paper"


def test_a_text_alignment_is_read_by_its_earlier_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PUBLISHED_DIR", tmp_path)
    head = "paper: P\nshort: P\ntable: T\norigin: paper\nfeatures: f\nmode: paper\nseeds: 1\nresults: {}\n"
    (tmp_path / "a.yaml").write_text(f"{head}alignment: corrected\n---\n{head}alignment: by_name\n")

    assert [table.alignment for table in load_published()] == ["by_name", "by_name"]


def test_a_papers_number_is_preferred_to_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUBLISHED_DIR", tmp_path)
    for name, origin, value in (("a", "second-hand", 1.0), ("b", "paper", 2.0), ("c", "readme", 3.0)):
        (tmp_path / f"{name}.yaml").write_text(
            f"{{paper: P, short: P, table: T, origin: {origin}, features: f, alignment: official, "
            f"mode: paper, seeds: 1, results: {{d: {{m: {{hm: {value}}}}}}}}}"
        )

    found = published_for("d", "f", "m")

    assert found is not None
    assert found.numbers.hm == 2.0


def test_a_file_with_errors_is_left_out_and_all_its_errors_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PUBLISHED_DIR", tmp_path)
    head = "paper: P\nshort: P\ntable: T\norigin: paper\nfeatures: f\nalignment: official\nmode: paper\n"
    (tmp_path / "a.yaml").write_text(head + "seeds: 0\npages: 3\nresults: {d: {m: {hm: 101}}}\n")
    (tmp_path / "b.yaml").write_text(head + "seeds: 1\nresults: {d: {m: {seen: 10, unseen: 20, hm: 15}}}\n")
    (tmp_path / "c.yaml").write_text("{")

    (tmp_path / "d.yaml").write_text(head + "seeds: 1\nresults: {d: {m: {hm: 1}}}\nseeds: 2\n")
    (tmp_path / "e.yml").write_text(
        head + "seeds: 1\nresults: {d: {m: {hm: true}}}\n---\n" + head + "seeds: 1\nresults: {}\n"
    )
    (tmp_path / "good.yaml").write_text(
        head + "seeds: 1\nresults: {d: {m: {hm: 7}}}\n---\n" + head + "seeds: 2\nresults: {}\n"
    )
    (tmp_path / "._good.yaml").write_bytes(b"\x00")

    assert [table.seeds for table in load_published()] == [1, 2]  # of the good file alone
    message = "\n".join(published_problems())
    assert "._good" not in message
    assert "d.yaml: line 10: key 'seeds' is given twice (first in line 8)" in message
    assert "e.yml: results.d.m.hm: is a truth value (true), not a number" in message
    for part in (
        "a.yaml: seeds",
        "a.yaml: pages",
        "a.yaml: results.d.m.hm",
        "13.33",
        "c.yaml: not valid YAML",
    ):
        assert part in message


def test_methods_are_ordered_as_the_longest_table_lists_them() -> None:
    assert method_order()[:9] == [*SIX, "ale", "sje", "devise"]
