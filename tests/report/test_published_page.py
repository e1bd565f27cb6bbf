"""What has been published: a page of the leaderboard, with our results beside the numbers of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.html_of import Element, read_page

from benchmark.errors import UsageError
from benchmark.report.leaderboard import write_leaderboard
from benchmark.report.published_page import OwnResult, published_markdown, published_tables
from benchmark.report.results.published import every_published
from benchmark.report.write import write_report

UCF = {"dataset": "ucf", "alignment": "official", "variant": "published", "kind": "published"}
SCORES = [(0.6, 0.4)] * 5


def table_of(page: Element, title: str) -> list[dict[str, Element]]:
    """The rows of the table with this caption, by header; a header in a group has its name in front."""
    table = next(t for t in page.all("table") if t.all("caption")[0].text == title)
    *above, last = table.all("thead")[0].all("tr")
    groups = [""] * 100
    if above:
        groups = [
            cell.text for cell in above[0].all("th", "td") for _ in range(int(cell.attributes["colspan"]))
        ]
    heads = [f"{g} {c.text}".strip() for g, c in zip(groups, last.all("th"), strict=False)]
    rows = table.all("tbody")[0].all("tr")
    return [dict(zip(heads, row.all("th", "td"), strict=True)) for row in rows]


def texts(rows: list[dict[str, Element]], *heads: str) -> list[tuple[str, ...]]:
    return [tuple(row[head].text for head in heads) for row in rows]


def own(**changed: Any) -> OwnResult:
    numbers = dict.fromkeys(("S", "U", "HM", "ZSL"), "1.00")
    values = {"dataset": "ucf", "features": "cls", "method": "tcaf", "numbers": numbers, "run": "run"}
    return OwnResult(**{**values, "link": "a/index.html", "comparable": True, **changed})


@pytest.fixture
def site(store: Any, unit: Any, tmp_path: Path) -> Path:
    corrected = {**UCF, "mode": "corrected", "alignment": "by_name"}
    units = [unit(features="cls", scores=SCORES, **u) for u in (UCF, corrected)]
    units += [unit(features="cls", scores=SCORES, method="mine", **UCF)]
    units += [unit(features="clip_clap", method=m, scores=SCORES, **UCF) for m in ("hspmoe", "clipclap")]
    store.call(units)
    write_report(store.tracker, tmp_path / "january")
    write_leaderboard([tmp_path / "january"], tmp_path / "site")
    return tmp_path / "site"


def test_every_published_number_is_on_the_page_in_the_table_of_its_features(site: Path) -> None:
    page = read_page((site / "published.html").read_text())

    titles = {"vggsound": "VGGSound-GZSL", "ucf": "UCF-GZSL", "activitynet": "ActivityNet-GZSL"}
    for dataset, found in every_published():
        rows = table_of(page, f"{titles[dataset]}, features {found.source.features}")
        head = "Published HM" if "Published HM" in rows[0] else "HM"
        assert f"{found.numbers.hm:.2f}" in [row[head].text for row in rows], found
    captions = [c.text for c in page.all("caption")]
    assert captions[:3] == [f"VGGSound-GZSL, features {f}" for f in ("main", "cls", "clip_clap")]
    assert len(captions) == len(set(captions)) == 10


def test_ours_is_beside_a_number_that_it_is_comparable_with_and_else_in_its_own_row(site: Path) -> None:
    rows = table_of(read_page((site / "published.html").read_text()), "UCF-GZSL, features cls")

    tcaf = [row for row in rows if row["Method"].text.startswith("TCAF")]
    assert texts(tcaf, "Published HM", "Ours HM", "Our run") == [
        ("50.78", "48.00 ± 0.00", "paper, official assignment; published; 5 seeds; january"),
        ("30.22", "", ""),
        ("27.99", "", ""),
        ("", "48.00 ± 0.00", "corrected, by_name assignment; published; 5 seeds; january"),
    ]
    assert tcaf[0]["Our run"].all("a")[0].attributes["href"] == "january/index.html"
    assert tcaf[0]["Source"].all("a")[0].attributes["href"] == "https://arxiv.org/abs/2207.09966"
    assert not any(row["Method"].text == "mine" for row in rows), "nobody published on it"


def test_marks_are_explained_below_the_table_and_flagged_rows_are_not_the_best(site: Path) -> None:
    page = read_page((site / "published.html").read_text())

    def best(title: str) -> dict[str, list[str]]:
        rows = table_of(page, title)
        heads = [h for h in rows[0] if h.split()[-1] in ("HM", "ZSL")]
        return {h: [r["Method"].text for r in rows if r[h].all("strong")] for h in heads}

    clip_clap = {"Published HM": ["ClipClapᵖ"], "Published ZSL": ["ClipClapᵖ"], "Ours HM": [], "Ours ZSL": []}
    assert best("UCF-GZSL, features clip_clap") == clip_clap
    cls = best("UCF-GZSL, features cls")
    assert (cls["Published HM"], cls["Published ZSL"]) == (["EZ-AVGZL†ⁿ"], ["MDST++†ⁿ"])
    assert best("UCF-GZSL, features languagebind") == {"HM": [], "ZSL": []}
    figure = next(f for f in page.all("figure") if "UCF-GZSL, features clip_clap" in f.text)
    assert [p.text[0] for p in figure.all("p")][:3] == ["ᵗ", "ⁿ", "ᵖ"]


def test_the_page_works_offline_and_the_leaderboard_leads_to_it(site: Path) -> None:
    text = (site / "published.html").read_text()
    page, index = read_page(text), read_page((site / "index.html").read_text())

    (policy,) = (m for m in page.all("meta") if "http-equiv" in m.attributes)
    assert policy.attributes["content"].startswith("default-src 'none'")
    assert not [e for e in page.all("script", "img", "link") if "src" in e.attributes]
    assert "published.html" in [a.attributes["href"] for a in index.all("nav")[0].all("a")]
    assert "index.html" in [a.attributes["href"] for a in page.all("nav")[0].all("a")]


def test_transductive_results_have_no_rank_on_the_leaderboard(store: Any, unit: Any, tmp_path: Path) -> None:
    high = [(0.8, 0.6)] * 5
    store.call(
        [
            unit(features="clip_clap", method=m, scores=s, uses=uses, **UCF)
            for m, s, uses in (("hspmoe", high, "all test samples"), ("clipclap", SCORES, ""))
        ]
    )
    write_report(store.tracker, tmp_path / "report")

    write_leaderboard([tmp_path / "report"], tmp_path / "site")

    page = read_page((tmp_path / "site" / "index.html").read_text())
    rows = table_of(page, "UCF, features clip_clap: mode paper, official assignment")
    assert texts(rows, "Method", "Rank") == [("hspmoeᵗ", "–"), ("clipclap", "1")]
    assert [bool(row["Best HM"].all("strong")) for row in rows] == [False, True]
    figure = next(f for f in page.all("figure") if "UCF, features clip_clap" in f.text)
    assert [p.text.split()[0] for p in figure.all("p")] == ["ᵗ", "The"]


def test_the_markdown_has_the_same_tables() -> None:
    text = published_markdown([own()])

    assert text.startswith("# What has been published\n")
    assert text.count("\n## ") == len(published_tables([])) == 10
    assert "\n\n\n" not in text
    (line,) = [line for line in text.split("\n") if "| run" in line]
    assert [cell.strip() for cell in line.split("|")][1:-1] == [
        "TCAF", "67.14", "40.83", "50.78", "44.64", "1.00", "1.00", "TCAF, ECCV 2022, Table 1", "2022", "run",
    ]  # fmt: skip


def test_of_equal_rows_that_of_the_newest_report_is_shown(store: Any, unit: Any, tmp_path: Path) -> None:
    one = unit(features="cls", scores=SCORES, **UCF)
    for name in ("a", "b"):
        store.call([one])
        write_report(store.tracker, tmp_path / name)

    write_leaderboard([tmp_path / name for name in ("a", "b")], tmp_path / "site")

    rows = table_of(read_page((tmp_path / "site" / "published.html").read_text()), "UCF-GZSL, features cls")
    assert [run for (run,) in texts(rows, "Our run") if run] == [
        "paper, official assignment; published; 5 seeds; b"
    ]


def test_synthetic_data_are_named_and_beside_no_published_number(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    store.call([unit(features="cls", scores=SCORES, **{**UCF, "kind": "generated"})])
    write_report(store.tracker, tmp_path / "report")

    write_leaderboard([tmp_path / "report"], tmp_path / "site")

    rows = table_of(read_page((tmp_path / "site" / "published.html").read_text()), "UCF-GZSL, features cls")
    ((published, run),) = [r for r in texts(rows, "Published HM", "Our run") if r[1]]
    assert published == ""
    assert run == "paper, official assignment; published; 5 seeds; synthetic data; report"


def test_a_page_of_the_same_name_that_is_not_ours_is_not_overwritten(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    store.call([unit()])
    write_report(store.tracker, tmp_path / "report")
    write_leaderboard([tmp_path / "report"], tmp_path / "site")
    write_leaderboard([tmp_path / "report"], tmp_path / "site")  # its own pages are
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "published.html").write_text("mine")

    with pytest.raises(UsageError, match=r"another page \(published.html\)"):
        write_leaderboard([tmp_path / "report"], tmp_path / "other")
    assert (tmp_path / "other" / "published.html").read_text() == "mine"
