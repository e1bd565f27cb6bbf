"""The page of a report: what it holds, that it needs nothing else, that the store's texts stay texts."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.html_of import Element, read_page

from benchmark.errors import UsageError
from benchmark.report.page.page import MLFLOW_UI, number_of
from benchmark.report.write import write_report

EVIL = "<script>alert(1)</script>"
PAPER, CORRECTED = {"mode": "paper", "alignment": "official"}, {"mode": "corrected", "alignment": "by_name"}


def page_of(store: Any, folder: Path, **options: Any) -> Element:
    write_report(store.tracker, folder, **options)
    return read_page((folder / "index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(new_store: Any, unit: Any, tmp_path_factory: pytest.TempPathFactory) -> Element:
    """The page of a call on two datasets in both modes, with a failure and odd names."""
    folder = tmp_path_factory.mktemp("page")
    store = new_store(folder)
    ucf = {"dataset": "ucf", "features": "main", "variant": "published", "caption": f"{EVIL} & more"}
    five = [(0.4, 0.2), (0.5, 0.3), (0.6, 0.1), (0.4, 0.3), (0.5, 0.2)]
    units = [unit(scores=five, **ucf, **mode) for mode in (PAPER, CORRECTED)]
    store.call(
        [
            *units,
            unit(method=EVIL, trials=3, tuned=[(0.3, 0.2)], best_values={"a": EVIL}),
            unit(scores=[(0.4, 0.2), (0.5, 0.3), None]),
        ]
    )
    return page_of(store, folder / "report")


def test_texts_of_the_store_cannot_become_elements(page: Element) -> None:
    scripts = page.all("script")

    assert len(scripts) == 1
    assert "alert(1)" not in scripts[0].text
    assert any(EVIL in cell.text for cell in page.all("th", "td"))
    assert any(EVIL in summary.text for summary in page.all("summary"))
    assert any(EVIL in text.text for text in page.all("li"))


def test_the_page_needs_nothing_beside_it(page: Element) -> None:
    policy = next(m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes)

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert all(e.attributes["src"].startswith("data:image/") for e in page.all("img"))
    assert all(e.attributes["href"] == "data:," for e in page.all("link"))
    assert not any(
        name in e.attributes
        for e in page.all("div", "td", "th", "tr", "p", "a", "img")
        for name in ("style", "onclick")
    )
    assert not re.search(r"url\(|@import|https?:", "".join(e.text for e in page.all("style", "script")))


def test_headings_tables_and_images_are_there_for_every_reader(page: Element) -> None:
    levels = [
        int(h.tag[1])
        for h in page.all("h1", "h2", "h3")
        if h.attributes.get("id") not in ("panel-title", "large-title")
    ]
    ids = [
        e.attributes["id"]
        for e in page.all(
            *["a", "button", "caption", "details", "dialog", "div", "figure", "h2", "h3", "main", "p"]
        )
        if "id" in e.attributes
    ]

    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(set(ids)) == len(ids)
    assert all(table.all("caption")[0].text.strip() for table in page.all("table"))
    assert all(th.attributes.get("scope") in ("col", "row", "colgroup") for th in page.all("th"))
    assert all(image.attributes["alt"] for image in page.all("img"))
    assert {e.attributes["href"][1:] for e in page.all("a") if e.attributes["href"].startswith("#")} <= set(
        ids
    )
    assert page.all("html")[0].attributes["lang"] == "en"


def test_every_table_of_the_report_is_there_with_its_caption(store: Any, unit: Any, tmp_path: Path) -> None:
    store.call([unit(), unit(method="avca")])

    report = write_report(store.tracker, tmp_path)

    text = " ".join(read_page((tmp_path / "index.html").read_text(encoding="utf-8")).text.split())
    assert report.tables
    for table in report.tables:
        for part in (table.title, table.text, *table.notes):
            assert part.replace("`", "") in text


def test_rows_and_figures_say_what_they_are_about_and_switches_offer_it(page: Element) -> None:
    switches = {(i.attributes["name"], i.attributes["value"]) for i in page.all("input")}
    rows = page.all("section", class_="chosen")[0].all("tr")

    modes = {("mode", ""), ("mode", "paper"), ("mode", "corrected")}
    assert modes | {("alignment", "official"), ("features", "native"), ("features", "main")} <= switches
    assert {"paper", "corrected"} == {r.attributes["data-mode"] for r in rows if "data-mode" in r.attributes}
    assert {"native", "main"} == {f.attributes["data-features"] for f in page.all("figure", class_="plot")}


def test_numbers_are_sorted_by_their_mean(page: Element) -> None:
    texts = (
        "12.30 ± 4.00",
        "12.30 (9.00 to 14.00)",
        "-1.5 to 2",
        "+3.00*",
        "4/5*",
        "−2",
        "< 0.001",
        "–",
        "failed",
    )
    assert [number_of(t) for t in texts] == [12.3, 12.3, -1.5, 3, 4, -2, 0.001, None, None]
    assert [number_of(t) for t in ("999", "1,024", "260,480", "1,234,567.8 ± 0.1", "3, 200 more", "1,2")] == [
        999, 1024, 260_480, 1_234_567.8, 3, 1,
    ]  # fmt: skip
    for written in (" ± ", " ("):
        cells = [td for td in page.all("td", class_="number") if written in td.text]
        assert cells
        assert all(float(td.attributes["data-sort"]) == float(td.text.split()[0]) for td in cells)


def test_a_method_leads_to_its_runs_and_these_to_mlflow(store: Any, unit: Any, tmp_path: Path) -> None:
    store.call([unit(scores=[(0.4, 0.2), None]), unit(method="avca")])
    experiment = store.tracker.experiment_id

    page = page_of(store, tmp_path, mlflow_ui="https://mlflow.example.org/lab/")

    target = page.all("a", class_="runs")[-1].attributes["href"][1:]
    runs = page.all("details", id=target)[0]
    lines = [[cell.text for cell in row.all("th", "td")] for row in runs.all("tbody")[0].all("tr")]
    assert "TCAF" in runs.all("summary")[0].text
    assert [(line[4], line[5]) for line in lines] == [
        ("1, validation", "done"), ("1, validation", "failed"), ("2, test", "done"), ("2, test", "not run"),
    ]  # fmt: skip
    assert lines[2][6:10] == ["40.00", "20.00", "26.67", "24.00"]
    assert "loss is not a number" in lines[1][-1]
    links = [a.attributes["href"] for a in runs.all("a")]
    ids = {run.run_id for run in store.tracker.find(kind="job", method="tcaf")}
    assert {link.rpartition("/")[2] for link in links} == {
        f"{run_id}?workflowType=machine_learning" for run_id in ids
    }
    assert all(
        link.startswith(f"https://mlflow.example.org/lab/#/experiments/{experiment}/runs/") for link in links
    )


def test_links_lead_to_the_local_page_if_nothing_else_is_said(page: Element) -> None:
    links = [a.attributes["href"] for a in page.all("a") if "/runs/" in a.attributes["href"]]
    assert links
    assert all(link.startswith(f"{MLFLOW_UI}/#/experiments/") for link in links)


@pytest.mark.parametrize("address", ["javascript:alert(1)", "mlflow.example.org", "file:///x", "http://"])
def test_an_address_that_is_none_is_refused_before_anything_is_written(
    address: str, store: Any, unit: Any, tmp_path: Path
) -> None:
    store.call([unit()])
    with pytest.raises(UsageError, match="--mlflow-ui"):
        write_report(store.tracker, tmp_path / "report", mlflow_ui=address)
    assert not (tmp_path / "report").exists()


def test_provenance_is_on_the_page(store: Any, unit: Any, tmp_path: Path) -> None:
    call = store.call([unit()], status="KILLED")
    store.tracker.log_text(call, "methods: tcaf\n", "call.yaml")

    text = page_of(store, tmp_path).text

    for part in (
        call,
        "run_benchmark.py --methods all",
        "abc123def456",
        "torch 2.9.0",
        "digest-of-stamps",
        "methods: tcaf",
    ):
        assert part in text
    assert "Not complete." in text


def test_all_settings_of_each_method_are_on_the_page(store: Any, unit: Any, tmp_path: Path) -> None:
    store.call([unit(tuned=[(0.5, 0.3)], trials=3, params={"tcaf.lr": "0.00007"}), unit("avca", epochs=21)])

    blocks = page_of(store, tmp_path).all("details", class_="settings")

    names = [block.all("summary")[0].text for block in blocks]
    assert [name.split(":")[0] for name in names] == [
        "Settings of AVCA, default", "Settings of TCAF, default", "Settings of TCAF, tuned",
    ]  # fmt: skip
    assert "train.epochs: 21" in blocks[0].all("pre")[0].text.splitlines()
    assert "tcaf.lr: 0.00007" in blocks[1].all("pre")[0].text.splitlines()


def test_a_report_without_tests_has_a_page_too(store: Any, unit: Any, tmp_path: Path) -> None:
    store.call([unit()], stages="1")
    assert "without test" in page_of(store, tmp_path).text


def test_the_manifest_says_what_the_report_is_about(store: Any, unit: Any, tmp_path: Path) -> None:
    call = store.call([unit(trials=4, kind="generated", tuned=[(0.4, 0.3)])])
    write_report(store.tracker, tmp_path)

    facts = json.loads((tmp_path / "manifest.json").read_text())["report"]

    assert facts["calls"] == [call]
    assert facts["data"] == {"stamps/native": ["digest-of-stamps"]}
    assert (
        facts["units"][0] | {"budget": "4 trials", "generated": True, "method_title": "TCAF"}
        == facts["units"][0]
    )
    assert facts["made"] > 0
