"""Numbers of different protocols, data or settings stand apart or are marked; a reader is never misled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.cells_of import row, said, tables_of

from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.captions import _processor
from benchmark.report.write import write_report
from benchmark.tracking.benchmark_runs import ALL_RUNS
from benchmark.tracking.runs import RunRecord

UCF = {
    "dataset": "ucf",
    "features": "cls",
    "alignment": "official",
    "variant": "published",
    "kind": "published",
}

ASSIGNMENT = "class-to-embedding assignment"


def section_notes(table: Any) -> list[str]:
    return [note for note in table.notes if note.startswith("§")]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"mode": "corrected", "alignment": "by_name"},
            "mode corrected, class-to-embedding assignment by_name",
        ),
        ({"alignment": "by_name"}, f"{ASSIGNMENT} by_name"),
        ({"alignment": "shuffled"}, f"{ASSIGNMENT} shuffled"),
        ({"kind": "generated"}, "synthetic data"),
        ({"variant": "user-set"}, "user-set settings"),
        ({"params": {"protocol.calibration": "corrected"}}, "calibration = corrected"),
    ],
)
def test_a_published_number_beside_what_it_was_not_measured_under_is_marked(
    store: Any, unit: Any, changed: dict[str, Any], says: str
) -> None:
    store.call([unit(**{**UCF, **changed})])

    tables = tables_of(collect(store.tracker))

    assert row(tables["gzsl"], Method="TCAF")["HM published"] == "50.78§"
    assert row(tables["zsl"], Method="TCAF")["ZSL published"] == "44.64§"
    (note,) = section_notes(tables["gzsl"])
    assert "Measured under mode paper, class-to-embedding assignment official" in note
    assert note.endswith(f"not comparable with this row, which has {says}.")


def test_a_published_number_beside_its_own_protocol_is_not_marked(store: Any, unit: Any) -> None:
    store.call([unit(**UCF)])

    table = tables_of(collect(store.tracker))["gzsl"]

    assert row(table, Method="TCAF")["HM published"] == "50.78"
    assert section_notes(table) == []


def test_a_published_number_stands_in_the_comparable_row_of_its_method(store: Any, unit: Any) -> None:
    """Even where that is not the first one, and for each method by itself."""
    calls = [
        store.call([unit(**UCF), unit(method="avca", **{**UCF, "variant": "user-set"})]),
        store.call([unit(**{**UCF, "mode": "corrected", "alignment": "by_name"})]),
        store.call([unit(**{**UCF, "variant": "user-set"}, params={"tcaf.lr": "1"})]),
    ]

    table = tables_of(collect(store.tracker, calls))["gzsl"]

    published = {
        (r["Method"], r["Settings"], r["Protocol"]): r["HM published"] for r in table.cells.to_dict("records")
    }
    assert published == {
        ("AVCA", "user-set", "paper, official assignment"): "41.34§",
        ("TCAF", "published", "paper, official assignment"): "50.78",
        ("TCAF", "published", "corrected, by_name assignment"): "",
        ("TCAF", "user-set", "paper, official assignment"): "",
    }


def test_published_numbers_and_a_row_alone_in_its_protocol_are_not_bold(store: Any, unit: Any) -> None:
    five = {"scores": [(0.4, 0.2)] * 5}
    corrected = {**UCF, "mode": "corrected", "alignment": "by_name"}
    store.call([unit(**UCF, **five), unit(method="avca", **corrected, scores=[(0.5, 0.3)] * 5)])

    table = tables_of(collect(store.tracker))["gzsl"]

    assert sorted(table.cells["HM published"]) == ["41.34§", "50.78"]
    assert not table.bold.to_numpy().any()
    assert "Bold" not in said(table)

    store.call([unit(**UCF, **five), unit(method="avca", **UCF, scores=[(0.5, 0.3)] * 5)])
    table = tables_of(collect(store.tracker))["gzsl"]
    assert list(table.bold["HM ours"]) == [True, False], "AVCA, whose published number is the lower one"
    assert not table.bold["HM published"].any()


def test_rows_of_different_alignments_are_marked_and_compete_apart(store: Any, unit: Any) -> None:
    other = {**UCF, "alignment": "by_name"}
    calls = [
        store.call(
            [unit(method=m, scores=[s] * 5, **UCF) for m, s in (("avca", (0.3, 0.2)), ("tcaf", (0.4, 0.3)))]
        ),
        store.call(
            [unit(method=m, scores=[s] * 5, **other) for m, s in (("avca", (0.9, 0.8)), ("tcaf", (0.5, 0.4)))]
        ),
    ]

    tables = {t.name: t for t in build_tables(collect(store.tracker, calls))}

    for name in ("gzsl", "full"):
        table = tables[name]
        column = "S ours" if name == "gzsl" else "S"
        found = list(zip(table.cells["Method"], table.cells["Protocol"], table.bold[column], strict=True))
        assert found == [
            ("AVCA", "paper, official assignment", False),
            ("AVCA", "paper, by_name assignment", True),
            ("TCAF", "paper, official assignment", True),
            ("TCAF", "paper, by_name assignment", False),
        ]
        assert "class-to-embedding assignment by_name and official" in said(table)
        assert "(column Protocol)" in said(table)
        assert "Bold: the highest mean of a column for each protocol" in said(table)


def test_rows_of_different_data_are_called_not_comparable(store: Any, unit: Any) -> None:
    calls = [
        store.call([unit(method=m, **UCF, digest=d)])
        for m, d in (("tcaf", "firstdata"), ("avca", "otherdata"))
    ]

    caption = said(tables_of(collect(store.tracker, calls))["gzsl"])

    assert (
        "UCF: these runs used different versions of the data (hashes otherdat, firstdat), so rows are not "
        "comparable." in caption
    )
    assert "different versions" not in said(tables_of(collect(store.tracker, calls[:1]))["gzsl"])


def test_settings_of_the_user_are_not_averaged_with_published_ones(store: Any, unit: Any) -> None:
    calls = [
        store.call([unit(**UCF, scores=[(0.4, 0.2)])]),
        store.call([unit(**{**UCF, "variant": "user-set"}, scores=[(0.8, 0.2)], params={"tcaf.lr": "1"})]),
    ]

    table = tables_of(collect(store.tracker, calls))["gzsl"]

    assert row(table, Settings="published")["S ours"] == "40.00"
    assert row(table, Settings="user-set")["S ours"] == "80.00"


def test_the_csv_says_what_a_row_has_otherwise_than_the_published_number(
    store: Any, unit: Any, tmp_path: Any
) -> None:
    store.call([unit(**UCF), unit(**{**UCF, "mode": "corrected", "alignment": "by_name"})])

    write_report(store.tracker, tmp_path)

    frame = pd.read_csv(tmp_path / "gzsl.csv", keep_default_na=False)
    assert list(frame["published_differs_in"]) == [
        "",
        "mode corrected, class-to-embedding assignment by_name",
    ]


AVX2, AVX512 = ("AVX2", "mkl + openblas Haswell"), ("AVX512", "mkl + openblas SkylakeX")
ROUNDED = (
    "Computed by different processors (AVX2 with mkl + openblas Haswell; AVX512 with mkl + openblas "
    "SkylakeX); rounding "
    "can change a result as much as another seed."
)


def test_a_table_over_several_processors_says_so_in_one_sentence(store: Any, unit: Any) -> None:
    """Wherever numbers of both stand: side by side, in differences of modes, in intervals and tests."""
    five = [(0.4, 0.2), (0.5, 0.3), (0.4, 0.3), (0.5, 0.2), (0.4, 0.25)]
    for mode in ("paper", "corrected"):
        store.call(
            [
                unit(method=m, mode=mode, processor=p, scores=five)
                for m, p in (("tcaf", AVX2), ("avca", AVX512))
            ]
        )
    tables = build_tables(collect(store.tracker, [ALL_RUNS]))
    assert {"gzsl", "zsl", "full", "modes", "intervals", "comparisons"} <= {t.name for t in tables}
    named = {t.title for t in tables if said(t).count(ROUNDED) == 1}
    assert named == {t.title for t in tables if t.name not in ("cost", "tuning")}


@pytest.mark.parametrize("processor", [AVX2, None], ids=["recorded", "older runs"])
def test_a_table_of_one_processor_says_nothing_of_it(store: Any, unit: Any, processor: Any) -> None:
    store.call([unit(method=m, processor=processor) for m in ("tcaf", "avca")])
    assert not any("processors" in said(t) for t in build_tables(collect(store.tracker)))


def test_runs_that_did_not_record_their_processor_may_be_of_another(store: Any, unit: Any) -> None:
    store.call([unit(method="tcaf", processor=AVX2), unit(method="avca")])
    caption = said(build_tables(collect(store.tracker))[0])
    assert "(AVX2 with mkl + openblas Haswell; not recorded)" in caption


def test_jobs_on_gpus_are_told_apart_by_their_gpu(store: Any, unit: Any) -> None:
    def record(capability: str, gpu: str, device: str) -> RunRecord:
        tags = {"cpu_capability": capability, "cuda_device": gpu}
        return RunRecord("r", "r", "FINISHED", tags, {"train.device": device}, {}, 0.0, 0.0, None)

    given = (
        ("AVX2", "H200", "auto"),
        ("AVX512", "H200", "cuda"),
        ("AVX512", "A100", "cuda"),
        ("AVX2", "A100", "cpu"),
    )
    assert [_processor(record(*facts)) for facts in given] == ["H200", "H200", "A100", "AVX2"]


def test_an_ablation_over_several_processors_says_so(store: Any, unit: Any) -> None:
    call = store.call([unit(processor=AVX2)])
    paper = store.tracker.read_json(call, "jobs.json")
    other = unit(processor=AVX512, params={"protocol.video_norm": "corrected"})
    jobs = store.tracker.read_json(store.call([other]), "jobs.json")
    store.tracker.log_json(call, [*paper, *({**job, "ablation": "video_norm"} for job in jobs)], "jobs.json")
    (caption,) = (said(t) for t in build_tables(collect(store.tracker, [call])) if t.name == "ablation")
    assert caption.count(ROUNDED) == 1


def test_the_provenance_of_a_report_names_processors(store: Any, unit: Any, tmp_path: Path) -> None:
    store.call([unit(processor=AVX2)])
    write_report(store.tracker, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "CPU instruction set AVX2, linear algebra mkl + openblas Haswell" in text
