"""Published weights: their numbers against a plain evaluation, their runs, and their rows in a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.evaluating import Place
from support.plain_evaluation import fit, plain_evaluation
from support.published_runs import CLASS_OF, MANUAL, Data, Sizes, make_data, make_state, shapes, write_run
from support.tiny import Bench

from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables
from benchmark.tracking.schema import Kind
from benchmark.tracking.tracker import Tracker

SMALL = Sizes(hidden=10, decoder=6, depth=1, heads=2, dim_head=5, mlp=7, embedding=6)
PUBLISHED_TCAF = Sizes(512, 512, depth=6, heads=8, dim_head=64, mlp=128, embedding=64, extra={"lr": 7e-5})
"""Of UCF cls, as in ``search_spaces/tcaf.yaml``."""
PUBLISHED_AVCA = Sizes(
    hidden=512,
    decoder=512,
    depth=1,
    extra={
        "embedding_dropout": 0.2,
        "decoder_dropout": 0.3,
        "additional_dropout": 0.5,
        "momentum": 0.99,
        "n_batches": 500,
        "bs": 256,
    },
)
"""Of UCF cls: dropout of encoders, of projections, of word projection and decoders, under their published
names."""
PUBLISHED = {
    "tcaf": PUBLISHED_TCAF,
    "avca": PUBLISHED_AVCA,
    "cjme": Sizes(hidden=1024),
    "avgzslnet": Sizes(hidden=1024),
}
SIZES = {"middling sizes": Sizes(), "other sizes": SMALL, "fixed length": replace(SMALL, lengths=4)}


@pytest.fixture
def place(tmp_path: Path, runs: Path) -> Place:
    return Place(tmp_path, runs, make_data())


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        *((m, s) for m in CLASS_OF for s in SIZES if m == "tcaf" or s != "fixed length"),
        *(pytest.param(m, "published sizes", marks=pytest.mark.slow) for m in CLASS_OF),
    ],
)
def test_published_weights_give_the_numbers_of_a_plain_evaluation(
    place: Place, method: str, sizes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    its = PUBLISHED[method] if sizes == "published sizes" else SIZES[sizes]
    states = tuple(fit(method, its, make_state(method, its, seed), place.data, seed) for seed in (1, 2))
    expected = plain_evaluation(method, its, *states, place.data)
    assert expected["hm"] > 0
    assert expected["beta"] > 0
    stage_a, stage_b = write_run(place.folder, method, its, states=(states[0], states[1]))
    numbers = place.evaluate(stage_a, stage_b, "--features", "cls")
    assert numbers == {name: round(value, 2) for name, value in expected.items()}
    shown = capsys.readouterr().out
    assert all(f"{value:.2f}" in shown for value in numbers.values())
    assert "published weights" in shown
    assert "synthetic data" in shown


@pytest.mark.parametrize("method", CLASS_OF)
def test_the_written_tensors_have_the_names_and_kinds_of_the_published_ones(
    method: str, shared: Path
) -> None:
    sizes = Sizes(depth=1 if method == "avca" else 2)
    with np.load(shared / "golden" / method / "weights_before.npz") as stored:
        published = {name: stored[name].ndim for name in stored.files}
    assert {name: len(shape) for name, shape in shapes(method, sizes).items()} == published


def test_the_evaluation_is_logged_as_a_run_of_its_own(place: Place) -> None:
    numbers = place.evaluate(*write_run(place.folder, "avca", SMALL))
    tracker = Tracker(f"sqlite:///{place.runs / 'mlflow.db'}", place.runs / "artifacts")
    (run,) = tracker.find(status="FINISHED", kind=Kind.EVALUATION)
    assert {k: round(100 * run.metrics[f"test/{k}"], 2) for k in ("seen", "unseen", "hm", "zsl")} == {
        k: v for k, v in numbers.items() if k != "beta"
    }
    wanted = {"method": "avca", "dataset": "ucf", "features": "cls", "mode": "paper", "alignment": "official"}
    assert wanted.items() <= run.tags.items()
    assert (run.tags["origin"], len(run.tags["weights_digest"])) == ("published", 16)
    assert run.params["protocol.text_alignment"] == "official"
    assert "beta" in tracker.read_text(run.run_id, "curve.csv")
    again = place.evaluate(
        *write_run(place.folder / "other", "avca", SMALL, states=(make_state("avca", SMALL, 5),) * 2)
    )
    digests = {r.tags["weights_digest"] for r in tracker.find(kind=Kind.EVALUATION)}
    assert len(digests) == 2, again


@pytest.mark.parametrize(
    ("method", "sizes", "published"),
    [
        ("tcaf", PUBLISHED_TCAF, "true"),
        ("tcaf", replace(PUBLISHED_TCAF, extra={"lr": 1e-4}), "false"),
        ("tcaf", replace(PUBLISHED_TCAF, extra={**PUBLISHED_TCAF.extra, "bs": 32}), "false"),
        ("tcaf", replace(PUBLISHED_TCAF, lengths=4), "false"),
        ("avca", PUBLISHED_AVCA, "true"),
        (
            "avca",
            replace(
                PUBLISHED_AVCA,
                extra={**PUBLISHED_AVCA.extra, "decoder_dropout": 0.5, "additional_dropout": 0.3},
            ),
            "false",
        ),
    ],
    ids=[
        "published",
        "other rate",
        "other batches",
        "other lengths",
        "published AVCA",
        "dropouts of AVCA exchanged",
    ],
)
def test_the_run_says_whether_the_folders_have_the_published_settings(
    place: Place, tracker: Tracker, method: str, sizes: Sizes, published: str
) -> None:
    place.evaluate(*write_run(place.folder, method, sizes))
    (run,) = tracker.find(kind=Kind.EVALUATION)
    assert run.tags["published_settings"] == published


def test_the_report_shows_released_weights_beside_retrained_ones(place: Place, tracker: Tracker) -> None:
    numbers = place.evaluate(*write_run(place.folder, "cjme", SMALL))
    bench = Bench(tracker, place.runs, place.folder / "data")
    assert not bench.run(
        bench.call("train.epochs=1", methods="cjme,avca", dataset="ucf", features="cls")
    ).failed
    table = next(t for t in build_tables(collect(tracker)) if t.name == "full")
    rows = {(m, s): row for m, s, *row in table.cells.astype(str).itertuples(index=False, name=None)}
    assert {key for key in rows if key[1] == "released weights"} == {("CJME", "released weights")}
    assert len(rows) == 3
    shown = dict(zip(table.cells.columns[2:], rows["CJME", "released weights"], strict=True))
    assert [shown[name] for name in ("S", "U", "HM", "ZSL")] == [
        f"{v:.2f}" for k, v in numbers.items() if k != "beta"
    ]


def test_the_corrected_protocol_gives_each_class_its_own_vector(place: Place) -> None:
    states = tuple(fit("avca", SMALL, make_state("avca", SMALL, seed), place.data, seed) for seed in (1, 2))
    folders = write_run(place.folder, "avca", SMALL, states=(states[0], states[1]))
    order = [sorted(MANUAL).index(name) for name in MANUAL]
    own = Data(place.data.samples, place.data.text[order])
    expected = plain_evaluation("avca", SMALL, *states, own)
    found = place.evaluate(*folders, "--set", "protocol.text_alignment=by_name")
    assert found == {name: round(value, 2) for name, value in expected.items()}
    assert found != place.evaluate(*folders)
    assert place.evaluate(*folders, "--mode", "corrected")["beta"] == 0  # no beta gives an HM above 0
    exact = place.evaluate(*folders, "--set", "protocol.calibration=corrected")["beta"]
    assert round(exact / 0.2) * 0.2 != pytest.approx(exact, abs=1e-3)  # not of the grid
