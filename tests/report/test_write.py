"""The report's folder, its files and figures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from support.checkout import PROJECT
from support.side_by_side_work import process_and_square

from benchmark.errors import UsageError
from benchmark.figures.curves import seen_unseen_figure
from benchmark.figures.style import COLOURS, colour_of, marker_of
from benchmark.report import folder as report_folder
from benchmark.report import parallel
from benchmark.report.parallel import in_parallel
from benchmark.report.write import without_folders, write_report

STEM = "curve-stamps-native-paper-by_name-untuned"


def test_the_report_holds_tables_failures_and_provenance(store: Any, unit: Any, tmp_path: Path) -> None:
    call = store.call([unit(scores=[(0.4, 0.2), None]), unit(method="avca")])

    report = write_report(store.tracker, tmp_path / "report")

    text = (tmp_path / "report" / "report.md").read_text()
    for part in (
        "## Table 1. Generalised zero-shot learning: Stamps",
        "## Table 2. Zero-shot learning: Stamps",
        "- TCAF on stamps/native, mode paper, default settings, seed 1, stage 1: failed: loss is not a "
        "number in epoch 3",
        f"`{call}`",
        "run_benchmark.py --methods all",
        "abc123def456",
        "torch 2.9.0",
        "`digest-of-stamps`",
        f"({STEM}.png)",
    ):
        assert part in text
    assert len(report.failed) == 2
    assert report.files[0].name == "report.md"
    assert all(f.is_file() for f in report.files)
    assert (
        next(t for t in report.tables if t.name == "gzsl")
        .markdown()
        .startswith("### Generalised zero-shot learning")
    )


def test_what_all_tables_share_is_stated_once_and_what_one_needs_stays_with_it(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    five = [(0.4, 0.2), (0.5, 0.3), (0.6, 0.4), (0.5, 0.3), (0.5, 0.3)]
    store.call([unit(scores=five), unit(method="avca", scores=five), unit(features="other")])

    report = write_report(store.tracker, tmp_path)

    inductive, half = "All methods are inductive:", "±: half the width of the 95 % t-interval of the mean."
    assert [line for line in report.protocol if line.startswith(inductive)]
    both = [line for line in report.protocol if line.startswith("Generalised zero-shot learning: ")]
    assert [half in line for line in both] == [True, False], "of the feature sets, which differ in it"
    assert not any(inductive in table.text or half in table.text for table in report.tables)
    assert (tmp_path / "report.md").read_text().count(inductive) == 1
    assert (tmp_path / "index.html").read_text().count(inductive) == 1
    assert inductive in (tmp_path / "zsl-native.tex").read_text(), "it travels alone"


def test_a_report_has_no_paths_of_the_machine_in_its_provenance(
    store: Any, unit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.call([unit()])
    monkeypatch.chdir(tmp_path)
    write_report(store.tracker, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text().split("## Provenance")[1]
    assert "Tracking store: SQLite, " in text
    assert str(tmp_path) not in text
    assert "sqlite:///" not in text
    command = f"run --plugin {tmp_path}/a/b.py --data-root=/elsewhere/data --tracking-uri http://host/x"
    assert without_folders(f"`{command}` from /elsewhere/weights") == (
        "`run --plugin a/b.py --data-root=data --tracking-uri http://host/x` from weights"
    )


def test_csv_files_hold_the_numbers_not_the_strings(store: Any, unit: Any, tmp_path: Path) -> None:
    ucf = {"dataset": "ucf", "features": "cls", "alignment": "official", "variant": "published"}
    store.call([unit(scores=[(0.4, 0.2), (0.5, 0.3)], **ucf)])

    write_report(store.tracker, tmp_path)

    gzsl = pd.read_csv(tmp_path / "gzsl.csv").iloc[0]
    assert (gzsl["dataset"], gzsl["method"], gzsl["settings"], gzsl["seeds"]) == (
        "ucf",
        "tcaf",
        "published",
        2,
    )
    assert gzsl["S_percent"] == pytest.approx(45)
    assert gzsl["S_std_percent"] == pytest.approx(7.071068)
    assert gzsl["HM_published_percent"] == 50.78
    assert pd.read_csv(tmp_path / "zsl.csv").iloc[0]["ZSL_percent"] == pytest.approx(30)
    assert pd.read_csv(tmp_path / "full.csv").iloc[0]["beta"] == pytest.approx(0.5)
    tidy = pd.read_csv(tmp_path / "results.csv")
    test = tidy[tidy["split"] == "test"]
    assert list(test["seen"]) == [0.4, 0.5]
    assert list(test["seed"]) == [1000, 1001]


def test_a_new_report_replaces_the_earlier_one_and_nothing_else(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    store.call([unit(tuned=[(0.5, 0.3)], trials=2)])
    write_report(store.tracker, tmp_path / "report")
    (tmp_path / "report" / "notes.txt").write_text("mine")
    store.call([unit()], stages="1")

    write_report(store.tracker, tmp_path / "report")

    names = {p.name for p in (tmp_path / "report").iterdir()}
    pages, numbers = (
        {"report.md", "index.html", "report.tex", "validation.tex"},
        {"validation.csv", "results.csv"},
    )
    assert names == {*pages, *numbers, "manifest.json", "notes.txt"}


@pytest.mark.painted
def test_a_report_is_written_again_only_where_something_changed(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    first = store.call([unit()])
    written = write_report(store.tracker, folder)
    before = times(folder)

    assert write_report(store.tracker, folder).files == written.files
    assert times(folder) == before

    (folder / f"{STEM}.svg").write_text("changed")
    write_report(store.tracker, folder)
    assert "<svg" in (folder / f"{STEM}.svg").read_text()
    (folder / "gzsl.csv").unlink()
    write_report(store.tracker, folder)
    assert (folder / "gzsl.csv").is_file()

    write_report(store.tracker, folder, mlflow_ui="http://elsewhere:80")
    assert "http://elsewhere:80" in (folder / "index.html").read_text()
    store.call([unit(scores=[(0.5, 0.2), (0.5, 0.3)])])
    write_report(store.tracker, folder)
    assert first not in (folder / "report.md").read_text()


def times(folder: Path) -> dict[str, int]:
    return {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}


def test_other_code_writes_a_report_anew(
    store: Any, unit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "report"
    store.call([unit()])
    write_report(store.tracker, folder)
    before = times(folder)
    monkeypatch.setattr(report_folder, "_code", lambda: b"other")
    write_report(store.tracker, folder)
    assert [name for name, time in times(folder).items() if time == before[name]] == []


def test_several_processes_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    monkeypatch.setattr(parallel, "PROCESSES", 4)
    many = in_parallel(process_and_square, range(9))
    assert [square for _, square in many] == [n * n for n in range(9)]
    assert os.getpid() not in {process for process, _ in many}
    assert {process for process, _ in in_parallel(process_and_square, range(7))} == {os.getpid()}, (
        "too few to share"
    )


def test_a_report_that_cannot_be_made_leaves_the_folder_as_it_was(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    call = store.call([unit()])
    write_report(store.tracker, tmp_path / "report")
    before = {p.name: p.read_bytes() for p in (tmp_path / "report").iterdir()}

    with pytest.raises(UsageError):
        write_report(store.tracker, tmp_path / "report", [call, "unknown"])

    assert {p.name: p.read_bytes() for p in (tmp_path / "report").iterdir()} == before


def test_an_interrupted_call_is_called_incomplete(store: Any, unit: Any, tmp_path: Path) -> None:
    store.call([unit()], status="KILLED")

    write_report(store.tracker, tmp_path)

    assert "**Not complete.**" in (tmp_path / "report.md").read_text()


@pytest.mark.painted
def test_curve_figures_have_a_curve_per_method_with_its_data_beside(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    store.call([unit(), unit(method="avca"), unit(method="mine")])

    write_report(store.tracker, tmp_path)

    data = pd.read_csv(tmp_path / f"{STEM}.csv")
    assert list(dict.fromkeys(data["method"])) == ["avca", "tcaf", "mine"]
    assert list(data) == ["method", "repetition", "beta", "seen", "unseen", "point"]
    marked = data[data["method"] == "tcaf"].dropna(subset=["point"]).set_index("point")
    assert set(marked.index) == {"best", "chosen"}
    assert list(marked.loc["chosen", ["seen", "unseen", "beta"]]) == [0.4, 0.2, 0.4]
    harmonic = 2 * data["seen"] * data["unseen"] / (data["seen"] + data["unseen"])
    assert (
        harmonic[(data["method"] == "tcaf") & (data["point"] == "best")].item()
        == harmonic[data["method"] == "tcaf"].max()
    )
    assert set(data["repetition"]) == {0}
    assert (tmp_path / f"{STEM}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / f"{STEM}.svg").read_text()


def test_the_figure_of_a_run_marks_the_calibrated_and_the_highest_point_in_percent() -> None:
    points = pd.DataFrame({"beta": [0.0, 1.0, 2.0], "seen": [0.6, 0.5, 0.0], "unseen": [0.0, 0.4, 0.5]})

    figure = seen_unseen_figure(points, (0.1, 0.55), 0.4, "title")

    axes = figure.axes[0]
    curve, chosen, best = axes.lines
    assert isinstance(figure, Figure)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Unseen accuracy U (%)", "Seen accuracy S (%)")
    assert list(curve.get_ydata()) == [60, 50, 0]
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == (10, pytest.approx(55))
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (40, 50)


def test_a_figure_of_a_method_at_zero_can_be_drawn() -> None:
    points = pd.DataFrame({"beta": [0.0, 1.0], "seen": [0.0, 0.0], "unseen": [0.0, 0.0]})

    seen_unseen_figure(points, (0.0, 0.0), 0.0, "title").canvas.draw()


def test_colours_are_told_apart() -> None:
    assert len(set(COLOURS)) == len(COLOURS) >= 6
    several = 3 * len(COLOURS)
    assert len({(colour_of(i), marker_of(i)) for i in range(several)}) == several


def test_reporting_imports_no_torch_and_no_method() -> None:
    heavy = "{'torch', 'methods', 'mlflow'}"
    loaded = "{m.split('.')[0] for m in sys.modules}"
    code = f"import sys, benchmark.report.write; print(sorted({heavy} & {loaded}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT
    )

    assert done.stdout.strip() == "[]"


def test_a_call_that_only_tuned_is_reported_without_results(store: Any, unit: Any, tmp_path: Path) -> None:
    store.call([unit(scores=[], trials=3)])

    report = write_report(store.tracker, tmp_path / "report")

    assert [f.name for f in report.files] == [
        "report.md",
        "index.html",
        "report.tex",
        "tuning.csv",
        "tuning.tex",
    ]
    assert {t.name for t in report.tables} == {"tuning"}
