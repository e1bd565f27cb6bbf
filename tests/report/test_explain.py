"""Figures that explain results: their numbers on cases worked out by hand, their files, and what happens
without data."""

from __future__ import annotations

import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from support.cells_of import row, tables_of
from support.tiny import Bench

from benchmark.figures.embedding_layout import flat_map
from benchmark.figures.results import (
    COLOURED_CLASSES,
    Drawn,
    Row,
    Scores,
    coloured_classes,
    confusion_figure,
    map_figure,
    scores_figure,
)
from benchmark.figures.style import colour_of
from benchmark.report.comparison import comparisons_of
from benchmark.report.explain import CLASSES, PANELS, explain, scores_of, square, training_epochs
from benchmark.report.results.collect import Results, collect
from benchmark.report.sections import ReportFigure, save_figure
from benchmark.report.tables.cost import costs
from benchmark.report.tables.means import method_ranks
from benchmark.report.tables.recall import recall_by_class, recall_csv
from benchmark.report.write import Report, write_report
from benchmark.tracking.schema import Artifact

KINDS = ("curve", "scores", "training", "recall", "embedding", "confusion")
STAMPS = "stamps-native-paper-by_name-untuned"
UCF = {"dataset": "ucf", "features": "cls", "alignment": "official", "variant": "published"}


def details(store: Any, seen: int = 2, unseen: int = 3, classes: tuple[float, ...] = ()) -> None:
    """Give the jobs of a fake store what newer jobs log.

    Recall of unseen class i is 0.1 i, or what ``classes`` say.
    """
    rng = np.random.default_rng(0)
    names = [*(f"seen {i}" for i in range(seen)), *(f"unseen {i}" for i in range(unseen))]
    recalls = list(classes) or [0.1 * i for i in range(unseen)]
    for run in store.tracker.find(kind="job"):
        store.tracker.log_metrics(run.run_id, {"duration_seconds": 90.0, "peak_memory_mb": 512.0})
        if run.tags["stage"] == "1":
            for epoch in range(3):
                values = {
                    "train/total": 4.0 - epoch + float(run.tags["repetition"]),
                    "val/hm": 0.1 * (epoch + 1),
                }
                store.tracker.log_metrics(run.run_id, values, step=epoch)
            continue
        store.tracker.log_metrics(run.run_id, {"parameters": 1234.0, "flops_per_sample": 5_600_000.0})
        table = pd.DataFrame({"class": names, "group": ["seen"] * seen + ["unseen"] * unseen, "samples": 10})
        table["gzsl"] = [0.5] * seen + recalls
        table["own_group"] = [0.6] * seen + [0.7] * unseen
        table["nearest_seen_class"] = [None] * seen + ["seen 0"] * unseen
        table["nearest_seen_cosine"] = [float("nan")] * seen + [0.2 + 0.7 * i / unseen for i in range(unseen)]
        store.tracker.log_text(run.run_id, table.to_csv(index=False), "recall.csv")
        pairs = [(t, p, 1 + (t == p)) for t in names[seen:] for p in names[seen:]]
        confusion = pd.DataFrame(pairs, columns=["true", "predicted", "count"])
        store.tracker.log_text(run.run_id, confusion.to_csv(index=False), "confusion.csv")
        if run.tags["repetition"] == "0":
            points = pd.DataFrame(
                {"kind": ["sample"] * 2 * len(names) + ["class"] * len(names), "class": names * 3}
            )
            points["group"] = [name.split()[0] for name in points["class"]]
            points[["e0", "e1", "e2"]] = rng.normal(size=(len(points), 3))
            store.tracker.log_text(run.run_id, points.to_csv(index=False), "embedding.csv")


def figures_of(tracker: Any, results: Results) -> list[ReportFigure]:
    return [figure for section in explain(tracker, results) for figure in section.figures]


def check_figures(report: Report, tracker: Any) -> None:
    """Every figure has its three files, and each of its axes says what it shows."""
    names = {f.name for f in report.files}
    for kind in KINDS:
        stems = {n.removesuffix(".png") for n in names if n.startswith(f"{kind}-") and n.endswith(".png")}
        assert stems, f"no {kind} figure"
        for stem in stems:
            assert {f"{stem}.png", f"{stem}.svg", f"{stem}.csv"} <= names
            assert len(pd.read_csv(report.folder / f"{stem}.csv")) > 0
            assert f"({stem}.png)" in report.files[0].read_text()
    for figure in figures_of(tracker, report.results):
        for axes in figure.draw().axes:
            assert axes.get_ylabel() or len(axes.get_shared_y_axes().get_siblings(axes)) > 1, figure.stem
            assert axes.get_xlabel() or axes.get_label() == "<colorbar>", figure.stem


@pytest.mark.painted
@pytest.mark.slow
def test_a_real_run_gives_every_figure_and_table(bench: Bench, tmp_path: Path) -> None:
    bench.run(bench.call(methods="cjme,tcaf", seeds=2))

    report = write_report(bench.tracker, tmp_path / "report")

    check_figures(report, bench.tracker)
    assert {"recall", "cost"} <= {t.name for t in report.tables}
    assert {"recall.csv", "cost.csv"} <= {f.name for f in report.files}
    assert "Figures without data" not in report.files[0].read_text()
    assert costs(report.results)[["stage_1_minutes", "parameters", "flops_per_sample"]].gt(0).all(axis=None)


@pytest.mark.painted
def test_an_older_store_gives_a_report_that_says_what_is_left_out(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    store.call([unit(), unit(method="avca")])

    report = write_report(store.tracker, tmp_path)

    text = (tmp_path / "report.md").read_text()
    names = {f.name for f in report.files}
    assert {f"curve-{STAMPS}.png", f"scores-{STAMPS}.png"} <= names
    assert not [n for n in names if n.startswith(("training", "recall", "embedding", "confusion", "cost"))]
    for what in (
        "Training curves",
        "Recall by nearest seen class",
        "Embedding map",
        "Confusion of unseen classes",
    ):
        assert (
            f"{what}, Stamps, features native, mode paper, by_name assignment, default settings: AVCA, "
            "TCAF (not logged" in text
        )


def test_a_method_without_data_is_left_out_of_its_figure_alone(store: Any, unit: Any) -> None:
    store.call([unit()])
    details(store)
    store.call([unit(), unit(method="avca")])

    sections = explain(store.tracker, collect(store.tracker))

    confusion = next(f for s in sections for f in s.figures if f.stem.startswith("confusion"))
    assert set(confusion.data["method"]) == {"tcaf"}
    assert [s for s in sections[-1].notes if s.startswith("Confusion") and ": AVCA (" in s]


def test_released_weights_have_scores_and_no_training(store: Any, unit: Any) -> None:
    store.call([unit(**UCF)])
    store.released(unit(**UCF), (0.5, 0.4))

    stems = [f.stem for f in figures_of(store.tracker, collect(store.tracker))]

    assert "scores-ucf-cls-paper-official-released" in stems


def equal(*values: float) -> list[tuple[float, float]]:
    """S and U of seeds whose HM is this, too."""
    return [(value, value) for value in values]


def test_scores_have_t_intervals_or_ranges_and_published_values_where_comparable(
    store: Any, unit: Any
) -> None:
    store.call(
        [
            unit(scores=equal(0.5, 0.3, 0.4, 0.4, 0.4), **UCF),
            unit(method="cjme", scores=equal(0.5, 0.2, 0.2, 0.3), **UCF),
            unit(method="avca", scores=equal(0.5), **UCF),
        ]
    )

    (place,) = comparisons_of(*(lambda r: (r, r.test))(collect(store.tracker)))
    figure = scores_of(place)
    data = figure.data.set_index(["method", "metric"])

    half = 2.776445 * np.sqrt(0.02 / 4) / np.sqrt(5)  # t of 97.5 % with four degrees of freedom
    assert data.loc[("tcaf", "hm"), "mean"] == pytest.approx(0.4)
    assert data.loc[("tcaf", "hm"), "low"] == pytest.approx(0.4 - half, abs=1e-6)
    assert data.loc[("tcaf", "hm"), "high"] == pytest.approx(0.4 + half, abs=1e-6)
    assert data.loc[("tcaf", "hm"), "published"] == pytest.approx(0.5078)
    few = data.loc[("cjme", "hm"), ["mean", "low", "high"]]
    assert few.tolist() == pytest.approx([0.3, 0.2, 0.5]), "the range of four seeds"
    assert np.isnan(data.loc[("avca", "hm"), "low"]), "one seed has neither"
    assert data.loc[("cjme", "hm"), "by_seed"] == "0.500000, 0.200000, 0.200000, 0.300000"
    hms = figure.draw().axes[0]
    dots = [line for line in hms.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [4, 1, 5], "a dot for each seed"
    bands = [line.get_xdata() for line in hms.lines if line.get_marker() == "None"]
    assert bands == [pytest.approx([100 * (0.4 - half), 100 * (0.4 + half)])], "from five seeds on"


@pytest.mark.parametrize(("seeds", "band"), [(1, []), (4, []), (5, ["95 % interval of the mean"])])
def test_the_legend_of_scores_names_what_occurs(store: Any, unit: Any, seeds: int, band: list[str]) -> None:
    store.call([unit(scores=equal(0.5, 0.3, 0.4, 0.4, 0.4)[:seeds])])

    (place,) = comparisons_of(*(lambda r: (r, r.test))(collect(store.tracker)))

    assert legend_of(scores_of(place)) == ["a seed", "mean", *band]


def legend_of(figure: ReportFigure) -> list[str]:
    return [text.get_text() for legend in figure.draw().legends for text in legend.get_texts()]


def test_a_published_value_of_another_protocol_is_not_in_the_figure(store: Any, unit: Any) -> None:
    store.call([unit(**{**UCF, "alignment": "by_name"})])

    (place,) = comparisons_of(*(lambda r: (r, r.test))(collect(store.tracker)))

    assert scores_of(place).data["published"].isna().all()


def test_training_curves_are_means_and_ranges_over_seeds(store: Any, unit: Any) -> None:
    store.call([unit()])
    details(store)
    runs = [r.run_id for r in store.tracker.find(kind="job", stage="1")]

    epochs = training_epochs(store.tracker, runs)

    assert list(epochs["epoch"]) == [1, 2, 3]
    assert list(epochs["seeds"]) == [2, 2, 2]
    assert list(epochs["loss_mean"]) == [4.5, 3.5, 2.5]
    assert list(epochs["loss_low"]) == [4, 3, 2]
    assert list(epochs["loss_high"]) == [5, 4, 3]
    assert list(epochs["hm_mean"]) == pytest.approx([0.1, 0.2, 0.3])


def test_recalls_are_means_over_seeds_beside_the_nearest_seen_class(store: Any, unit: Any) -> None:
    store.call([unit(), unit(method="avca")])
    details(store)
    results = collect(store.tracker)

    table = tables_of(results)["recall"]

    assert list(table.cells) == ["Unseen class", "Samples", "AVCA", "TCAF", "Nearest seen class", "Cosine"]
    assert row(table, **{"Unseen class": "unseen 2"}) == {
        "Unseen class": "unseen 2", "Samples": "10", "AVCA": "20.0", "TCAF": "20.0",
        "Nearest seen class": "seen 0",
        "Cosine": "0.67",
    }  # fmt: skip
    assert not table.screen
    assert len(table.cells) == 3, "unseen classes alone"
    whole = recall_csv(results)
    assert len(whole) == 2 * 5
    assert set(whole.loc[whole["group"] == "seen", "gzsl_percent"]) == {50}
    assert set(whole["seeds"]) == {2}


def test_a_recall_figure_says_the_rank_correlation(store: Any, unit: Any) -> None:
    store.call([unit()])
    details(store, unseen=4, classes=(0.1, 0.2, 0.4, 0.3))

    figure = next(f for f in figures_of(store.tracker, collect(store.tracker)) if f.stem.startswith("recall"))

    assert figure.draw().axes[0].get_title(loc="left") == "TCAF\nρ = 0.80, n = 4"


def test_costs_are_means_over_seeds_of_both_stages(store: Any, unit: Any) -> None:
    store.call([unit()])
    details(store)
    results = collect(store.tracker)

    cells = row(tables_of(results)["cost"], Method="TCAF")

    assert cells == {
        "Method": "TCAF", "Settings": "default", "Stage 1 (min)": "1.50", "Stage 2 (min)": "1.50",
        "Peak memory (MiB)": "512",
        "Parameters": "1,234", "MFLOPs per sample": "5.6", "Seeds": "2",
    }  # fmt: skip


def test_confusion_shares_are_of_the_samples_of_the_true_class() -> None:
    counts = pd.DataFrame(
        [("a", "a", 3), ("a", "b", 1), ("b", "c", 2)], columns=["true", "predicted", "count"]
    )
    counts["share"] = counts["count"] / counts.groupby("true")["count"].transform("sum")

    shares = square(counts)

    assert list(shares.index) == list(shares.columns) == ["a", "b", "c"]
    assert shares.to_numpy().tolist() == [[0.75, 0.25, 0], [0, 0, 1], [0, 0, 0]]
    assert list(square(counts, limit=1).index) == ["a"], "that with the most samples"


@pytest.mark.figures
def test_a_map_of_embeddings_is_the_same_each_time_and_empty_where_there_is_nothing_to_see() -> None:
    values = np.random.default_rng(1).normal(size=(20, 4))
    frame = pd.DataFrame(values).add_prefix("e").assign(kind="sample", group="unseen", **{"class": "a"})

    first, second = flat_map(frame), flat_map(frame)

    assert first is not None
    assert second is not None
    assert first.equals(second)
    assert list(first) == ["kind", "class", "group", "x", "y"]
    assert flat_map(frame.assign(e0=1.0, e1=1.0, e2=1.0, e3=1.0)) is None
    assert flat_map(frame.assign(e0=float("inf"))) is None
    assert flat_map(frame.head(2)) is None
    assert flat_map(frame[["kind", "class", "group", "e0"]].head(4)) is not None


def test_a_map_that_a_job_logged_is_drawn_as_it_is(store: Any, unit: Any) -> None:
    store.call([unit()])
    details(store)
    (run,) = store.tracker.find(kind="job", stage="2", repetition="0")
    logged = pd.DataFrame(
        {"kind": "sample", "class": list("abc"), "group": "unseen", "x": [1.5, 2, 3], "y": [4.5, 5, 6]}
    )
    store.tracker.log_text(run.run_id, logged.to_csv(index=False), Artifact.EMBEDDING_MAP)

    figures = figures_of(store.tracker, collect(store.tracker))

    drawn = next(f for f in figures if f.stem.startswith("embedding"))
    assert (
        drawn.data[["class", "x", "y"]].to_numpy().tolist() == logged[["class", "x", "y"]].to_numpy().tolist()
    )


@pytest.mark.slow
def test_many_methods_and_classes_give_more_figures_and_not_larger_ones(store: Any, unit: Any) -> None:
    units = [unit(method=f"m{i}", scores=[(0.4, 0.2)]) for i in range(PANELS + 1)]
    store.call(units)
    details(store, seen=3, unseen=CLASSES + 20)

    figures = figures_of(store.tracker, collect(store.tracker))

    confusions = [f for f in figures if f.stem.startswith("confusion")]
    assert [f.stem for f in confusions] == [f"confusion-{STAMPS}", f"confusion-2-{STAMPS}"]
    assert confusions[0].data["true"].nunique() == CLASSES + 20, "the file holds them all"
    assert all(len(f.draw().axes[0].images[0].get_array()) == CLASSES for f in confusions)
    assert all(max(f.draw().get_size_inches()) < 80 for f in figures)


def test_a_map_tells_only_so_many_unseen_classes_apart() -> None:
    names = [f"class {i:02}" for i in range(69)]
    data = pd.DataFrame({"kind": "sample", "class": [*names, "class 60"], "group": "unseen"}).assign(
        x=0.0, y=0.0
    )

    shown = coloured_classes(data)
    figure = map_figure([Drawn("TCAF", 5, data)], "title")

    assert len(shown) == COLOURED_CLASSES
    assert "class 60" in shown, "classes with the most samples come first"
    assert f"{69 - COLOURED_CLASSES} further unseen classes" in [
        t.get_text() for t in figure.legends[0].get_texts()
    ]


def test_a_heat_map_names_all_classes() -> None:
    names = [f"class {i}" for i in range(69)]

    figure = confusion_figure([Drawn("TCAF", 5, pd.DataFrame(np.eye(69), names, names))], "title")

    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == names


def test_heat_maps_of_the_same_classes_name_them_once() -> None:
    same, other = (pd.DataFrame(np.eye(3), list(names), list(names)) for names in ("abc", "abd"))

    def figure(*frames: pd.DataFrame) -> Figure:
        drawn = [Drawn(title, i, frame) for i, (title, frame) in enumerate(zip("123", frames, strict=True))]
        return confusion_figure(drawn, "title")

    figures = [figure(same, same, same), figure(same, other, other)]

    named = [
        [[t.get_text() for t in axes.get_yticklabels()] for axes in figure.axes[:3]] for figure in figures
    ]
    assert named == [[list("abc"), [], []], [list("abc"), list("abd"), []]]
    assert all(t.get_text() for axes in figures[0].axes[:3] for t in axes.get_xticklabels()), (
        "nothing is below"
    )


def test_a_method_has_the_same_colour_whatever_else_a_report_holds(store: Any, unit: Any) -> None:
    store.call([unit()])
    alone = method_ranks(collect(store.tracker))["tcaf"]
    store.call([unit(method="avca"), unit(), unit(method="mine")])

    results = collect(store.tracker)

    assert method_ranks(results)["tcaf"] == alone
    lines = scores_of(comparisons_of(results, results.test)[0]).draw().axes[0].lines
    assert len({line.get_markerfacecolor() for line in lines if line.get_marker() == "o"}) == 3
    assert colour_of(alone) == colour_of(method_ranks(results)["tcaf"])


def test_recall_without_a_test_is_an_empty_frame(store: Any, unit: Any) -> None:
    store.call([unit()], stages="1")

    assert recall_by_class(collect(store.tracker)).empty


def test_texts_of_figures_are_drawn_as_they_are_written_and_titles_in_as_many_lines_as_fit(
    tmp_path: Path,
) -> None:
    rows = [Row("Pay $5 or $6", 0, {"hm": Scores([19.0, 21.0], -60.0, 100.0, float("nan"))})]
    title = "HM: " + "a dataset with a long name, " * 6
    figure = ReportFigure(
        "prices", title, partial(scores_figure, rows, {"hm": "HM"}, title), pd.DataFrame({"a": [1]})
    )

    picture = save_figure(figure, tmp_path)

    drawn = (tmp_path / "prices.svg").read_text()
    assert "<!-- Pay $5 or $6 -->" in drawn
    assert figure.draw().get_suptitle() == "\n".join(textwrap.wrap(title, 117))
    assert picture.wide
    markers = [line.get_marker() for line in figure.draw().axes[0].lines]
    assert ">" in markers  # the interval goes on behind the edge
