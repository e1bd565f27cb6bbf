"""The site of several reports: best and latest results, copies, and folders that are no report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.html_of import Element, read_page

from benchmark.errors import UsageError
from benchmark.report.leaderboard import write_leaderboard
from benchmark.report.write import write_report


def report(store: Any, folder: Path, units: list[Any], made: int, stages: str = "all") -> Path:
    """A report of a call of its own, as if made at a time."""
    write_report(store.tracker, folder, [store.call(units, stages=stages)])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["report"]["made"] = made
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def cells(page: Element, title: str) -> list[list[str]]:
    """The cells of the table whose caption begins so."""
    table = next(t for t in page.all("table") if t.all("caption")[0].text.startswith(title))
    return [[cell.text for cell in row.all("th", "td")] for row in table.all("tbody")[0].all("tr")]


def site_of(folder: Path) -> Element:
    return read_page((folder / "index.html").read_text(encoding="utf-8"))


def test_best_and_latest_of_each_method_with_links_to_their_reports(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    high, low = [(0.5, 0.5)] * 5, [(0.1, 0.1), (0.3, 0.3)]
    old = report(store, tmp_path / "old", [unit(scores=high), unit(method="avca", scores=low)], 1_000_000)
    new = report(store, tmp_path / "new", [unit(scores=low, epochs=9)], 2_000_000)

    board = write_leaderboard([old, new], tmp_path / "site")

    assert board.page == tmp_path / "site" / "index.html"
    assert (tmp_path / "site" / ".nojekyll").is_file()
    page = site_of(tmp_path / "site")
    rows = cells(page, "Stamps, features native: mode paper, by_name assignment")
    two = "20.00 (10.00 to 30.00)"
    assert [row[:3] for row in rows] == [["TCAF", "1", "50.00 ± 0.00"], ["AVCA", "2", two]]
    assert [(row[6], row[7], row[11]) for row in rows] == [
        ("old, 1970-01-12 13:46", two, "new, 1970-01-24 03:33"),
        ("old, 1970-01-12 13:46", two, "old, 1970-01-12 13:46"),
    ]
    assert len(cells(page, "All results")) == 3
    links = {a.attributes["href"] for a in page.all("main")[0].all("a")}
    assert links == {"old/index.html", "new/index.html", "published.html"}
    for name in ("old", "new"):
        mine = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.name != "manifest.json"}
        assert {
            p.name: p.read_bytes() for p in (tmp_path / "site" / name).iterdir() if p.name != "manifest.json"
        } == mine


def test_reports_of_version_0_1_compete_though_they_name_the_alignment_otherwise(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    old = report(store, tmp_path / "old", [unit(scores=[(0.4, 0.4)])], 1_000_000)
    new = report(store, tmp_path / "new", [unit(scores=[(0.2, 0.2)], epochs=9)], 2_000_000)
    for name, written in (("full.csv", ",{},"), ("manifest.json", '"alignment": "{}"')):
        text, now = (old / name).read_text(), written.format("by_name")
        assert now in text
        (old / name).write_text(text.replace(now, written.format("corrected")))

    write_leaderboard([old, new], tmp_path / "site")

    (row,) = cells(site_of(tmp_path / "site"), "Stamps, features native: mode paper, by_name assignment")
    assert (row[0], row[2].split()[0], row[7].split()[0]) == ("TCAF", "40.00", "20.00")


def test_reports_whose_csv_has_no_intervals_compete_with_their_means(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    """Earlier reports have the standard deviation alone, which is neither an interval nor a range."""
    old = report(store, tmp_path / "old", [unit(scores=[(0.4, 0.4), (0.6, 0.6)])], 1_000_000)
    new = report(store, tmp_path / "new", [unit(scores=[(0.1, 0.1), (0.3, 0.3)], epochs=9)], 2_000_000)
    numbers = pd.read_csv(old / "full.csv", keep_default_na=False)
    ends = [name for name in numbers if "_low" in name or "_high" in name]
    assert len(ends) == 2 * 7
    numbers.drop(columns=ends).to_csv(old / "full.csv", index=False)

    write_leaderboard([old, new], tmp_path / "site")

    (row,) = cells(site_of(tmp_path / "site"), "Stamps, features native: mode paper, by_name assignment")
    assert (row[2], row[7]) == ("50.00", "20.00 (10.00 to 30.00)")


def test_results_on_other_data_do_not_compete(store: Any, unit: Any, tmp_path: Path) -> None:
    one = report(store, tmp_path / "one", [unit(digest="aaaa1111x", epochs=2)], 1)
    two = report(store, tmp_path / "two", [unit(digest="bbbb2222x", epochs=3)], 2)

    write_leaderboard([one, two], tmp_path / "site")

    page = site_of(tmp_path / "site")
    for digest in ("aaaa1111", "bbbb2222"):
        assert (
            len(cells(page, f"Stamps, features native: mode paper, by_name assignment, data {digest}")) == 1
        )


def test_released_weights_are_listed_and_do_not_compete(store: Any, unit: Any, tmp_path: Path) -> None:
    store.released(unit(), (0.9, 0.9))
    made = report(store, tmp_path / "report", [unit(scores=[(0.2, 0.2)])], 1)

    write_leaderboard([made], tmp_path / "site")

    page = site_of(tmp_path / "site")
    assert [row[2] for row in cells(page, "Stamps")] == ["20.00"]
    assert {row[3] for row in cells(page, "All results")} == {"default", "released"}


def test_a_new_site_replaces_the_earlier_one_and_nothing_else(store: Any, unit: Any, tmp_path: Path) -> None:
    one = report(store, tmp_path / "one", [unit()], 1)
    two = report(store, tmp_path / "two", [unit()], 2)
    site = tmp_path / "site"
    write_leaderboard([one, two], site)
    (site / "CNAME").write_text("lab.example.org")
    (site / "two" / "notes.txt").write_text("mine")

    write_leaderboard([one], site)

    assert {p.name for p in site.iterdir()} == {
        ".nojekyll",
        "published.html",
        "published.md",
        "CNAME",
        "index.html",
        "manifest.json",
        "one",
        "two",
    }
    assert [p.name for p in (site / "two").iterdir()] == ["notes.txt"]


def test_reports_of_one_folder_name_get_names_of_their_own(store: Any, unit: Any, tmp_path: Path) -> None:
    reports = [report(store, tmp_path / str(i) / "latest", [unit()], i) for i in (1, 2)]

    board = write_leaderboard([*reports, reports[0]], tmp_path / "site")

    assert [r.name for r in board.reports] == ["latest", "latest-2"]
    assert all((tmp_path / "site" / name / "index.html").is_file() for name in ("latest", "latest-2"))


def test_texts_of_a_manifest_cannot_become_elements(store: Any, unit: Any, tmp_path: Path) -> None:
    made = report(store, tmp_path / "report", [unit(method="<script>alert(1)</script>")], 1)

    write_leaderboard([made], tmp_path / "site")

    page = site_of(tmp_path / "site")
    assert len(page.all("script")) == 1
    assert cells(page, "Stamps")[0][0] == "<script>alert(1)</script>"


def test_all_folders_that_are_no_report_are_named_and_nothing_is_written(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    good = report(store, tmp_path / "good", [unit()], 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "manifest.json").write_text('{"files": ["report.md"]}')
    broken = report(store, tmp_path / "broken", [unit()], 1)
    (broken / "full.csv").unlink()
    changed = report(store, tmp_path / "changed", [unit()], 1)
    (changed / "full.csv").write_text("method,HM_percent\n")

    with pytest.raises(UsageError) as caught:
        write_leaderboard(
            [good, *(tmp_path / n for n in ("missing", "empty", "older", "broken", "changed"))],
            tmp_path / "site",
        )

    lines = str(caught.value).splitlines()
    for line, part in zip(
        lines,
        ("no such folder", "not a report", "an earlier version", "missing: full.csv", "no column dataset"),
        strict=True,
    ):
        assert part in line
    assert not (tmp_path / "site").exists()


def test_a_site_is_no_report_and_lies_outside_of_reports(store: Any, unit: Any, tmp_path: Path) -> None:
    made = report(store, tmp_path / "reports" / "a", [unit()], 1)
    write_leaderboard([made], tmp_path / "site")

    with pytest.raises(UsageError, match="a leaderboard, not a report"):
        write_leaderboard([tmp_path / "site"], tmp_path / "other")
    for place in (made, made / "site", tmp_path / "reports"):
        with pytest.raises(UsageError, match="must not contain each other"):
            write_leaderboard([made], place)


def test_another_page_is_not_overwritten(store: Any, unit: Any, tmp_path: Path) -> None:
    made = report(store, tmp_path / "report", [unit()], 1)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("my page")

    with pytest.raises(UsageError, match="another page"):
        write_leaderboard([made], tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_text() == "my page"


def test_reports_without_tests_make_no_leaderboard(store: Any, unit: Any, tmp_path: Path) -> None:
    made = report(store, tmp_path / "report", [unit()], 1, stages="1")
    with pytest.raises(UsageError, match="test results"):
        write_leaderboard([made], tmp_path / "site")
    with pytest.raises(UsageError, match="name the folders"):
        write_leaderboard([], tmp_path / "site")
