"""Published numbers stand in the files as they stand in the papers, and wrong files are refused with all
their errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import registry
from benchmark.data.cards import load_cards
from benchmark.report.results import published as module
from benchmark.report.results.published import (
    Flag,
    every_published,
    flagged_features,
    load_published,
    method_order,
    published_for,
    published_problems,
    published_titles,
    user_reports_for,
)

PRETRAINED: Flag = "pretraining_may_contain_test_classes"
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


@pytest.mark.parametrize(
    ("dataset", "features", "method", "expected", "flags"),
    [
        ("vggsound", "clip_clap", "clipclap", (29.68, 11.12, 16.18, 11.53), (PRETRAINED,)),
        ("ucf", "clip_clap", "hspmoe", (81.54, 56.90, 67.03, 59.16), ("transductive", PRETRAINED)),
        ("activitynet", "clip_clap", "avca", (None, None, 21.76, 20.88), ("no_public_code", PRETRAINED)),
        ("ucf", "clip_clap", "hyper_multiple", (None, None, 41.56, 40.28), ("no_public_code", PRETRAINED)),
        ("activitynet", "main", "hyper_alignment", (None, None, 12.46, None), ("second_hand",)),
        ("ucf", "main", "mstr", (None, None, 32.43, None), ()),
        ("vggsound", "main", "apn", (7.48, 3.88, 5.11, 4.49), ("no_public_code",)),
        ("ucf", "main", "f_vaegan_d2", (17.29, 8.47, 11.37, 11.11), ("no_public_code",)),
        ("activitynet", "cls", "apn", (None, None, 3.58, 3.97), ("no_public_code",)),
        ("ucf", "cls", "kda", (75.88, 42.97, 54.84, 52.66), ("second_hand", "selected_on_test")),
        ("vggsound", "cls", "stft", (11.74, 8.83, 10.08, 8.79), ("second_hand", "no_public_code")),
        ("ucf", "cls", "ez_avgzl", (78.32, 46.35, 58.24, 48.27), ("second_hand", "no_public_code")),
        (
            "activitynet",
            "cls",
            "mdst_plus_plus",
            (27.53, 10.72, 15.43, 13.12),
            ("second_hand", "no_public_code"),
        ),
        ("ucf", "cls", "tcaf", (67.14, 40.83, 50.78, 44.64), ()),
    ],
)
def test_numbers_of_later_methods_have_their_flags(
    dataset: str,
    features: str,
    method: str,
    expected: tuple[float | None, ...],
    flags: tuple[str, ...],
) -> None:
    found = published_for(dataset, features, method)

    assert found is not None
    numbers = found.numbers
    assert (numbers.seen, numbers.unseen, numbers.hm, numbers.zsl) == expected
    assert found.flags == flags


def test_all_numbers_on_features_of_large_encoders_are_marked_as_such() -> None:
    for features in ("clip_clap", "languagebind"):
        found = [p for _, p in every_published() if p.source.features == features]
        assert found
        assert all(PRETRAINED in p.flags for p in found)
        assert flagged_features(features, PRETRAINED)
    assert not any(flagged_features(features, PRETRAINED) for features in ("cls", "main"))


def test_a_user_s_note_on_a_frozen_encoder_is_not_published() -> None:
    assert published_for("ucf", "languagebind", "frozen") is None
    assert [p.numbers.hm for p in user_reports_for("ucf", "languagebind", "frozen")] == [89.16]


def test_no_number_is_given_twice_by_one_kind_of_source() -> None:
    """A second file of the same kind would be ignored, or shown twice."""
    places = [(d, p.source.features, p.method, p.source.origin) for d, p in every_published()]
    reports = [place for place in places if place[-1] != "user-report"]

    assert len(set(reports)) == len(reports)


def test_each_method_and_dataset_has_a_title_which_is_the_harness_s_if_it_has_the_method() -> None:
    methods, datasets = published_titles()
    known = registry.load().methods
    cards = load_cards()

    assert {p.method for _, p in every_published()} <= set(methods)
    assert {dataset for dataset, _ in every_published()} <= set(datasets)
    assert {name: methods[name] for name in known if name in methods} == {
        name: method.title for name, method in known.items() if name in methods
    }
    assert datasets == {name: cards[name].title for name in datasets}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (
            "flags: [chosen_on_test]",
            "flags.0: unknown flag; known are selected_on_test, transductive, no_public",
        ),
        ("methods: {m: {flags: [x]}}", "methods.m.flags.0: unknown flag; known are selected_on_test"),
        (
            "flags: [second_hand]",
            "flags.0: second_hand is not written here; it follows from `origin: second-h",
        ),
    ],
)
def test_a_flag_that_does_not_exist_is_an_error_that_names_the_place_and_those_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, wrong: str
) -> None:
    monkeypatch.setattr(module, "PUBLISHED_DIR", tmp_path)
    head = "paper: P\nshort: P\ntable: T\norigin: paper\nfeatures: f\nalignment: official\nmode: paper\n"
    (tmp_path / "a.yaml").write_text(f"{head}seeds: 1\nresults: {{d: {{m: {{hm: 1}}}}}}\n{line}\n")

    assert load_published() == ()
    (problem,) = published_problems()
    assert problem.startswith(f"{tmp_path / 'a.yaml'}: {wrong}")


def test_numbers_that_do_not_fit_in_the_source_either_are_allowed_if_the_file_states_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PUBLISHED_DIR", tmp_path)
    head = "paper: P\nshort: P\ntable: T\norigin: paper\nfeatures: f\nalignment: official\nmode: paper\n"
    numbers = "seen: 10, unseen: 20, hm: 15"
    (tmp_path / "a.yaml").write_text(f"{head}seeds: 1\nresults: {{d: {{m: {{{numbers}}}}}}}\n")
    (tmp_path / "b.yaml").write_text(
        f"{head}seeds: 1\nresults: {{d: {{m: {{{numbers}, as_printed: true}}}}}}\n"
    )

    assert [table.results["d"]["m"].hm for table in load_published()] == [15]
    assert "add as_printed: true" in published_problems()[0]
