"""The command ``data audit``: built datasets, JSON, wrong usage, and known facts of the published lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.small_store import rows_of

from benchmark.cli.app import main


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``data audit`` in its own folder: exit code, standard output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        places = ["--data-root", str(tmp_path / "data"), "--reports-dir", str(tmp_path / "reports")]
        with pytest.raises(SystemExit) as ended:
            main(["data", "audit", *arguments, *places])
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.mark.parametrize("dataset", ["stamps", "synthetic"])
def test_datasets_that_are_built_are_audited_at_first_use(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, dataset: str
) -> None:
    code, text, _ = command(dataset)
    assert code == 0
    assert "No published order: each class gets its own embedding." in text
    assert "All counts match the dataset config." in text
    assert "Statistics of sequences." in text
    assert (tmp_path / "reports" / f"audit-{dataset}-native" / "audit.md").is_file()


def test_json_alone_goes_to_the_screen_and_a_file_leaves_the_tables_there(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    _, text, _ = command("synthetic", "--json", "--out", str(tmp_path / "here"))
    content = json.loads(text)
    assert (content["dataset"], content["generated"], len(content["statistics"]["splits"])) == (
        "synthetic",
        True,
        10,
    )
    assert content["files"][0] == str(tmp_path / "here" / "audit.md")
    _, text, _ = command("synthetic", "--json", str(tmp_path / "audit.json"))
    assert "Audit of Synthetic (native, synthetic data)" in text
    assert json.loads((tmp_path / "audit.json").read_text())["oddities"] == content["oddities"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ucf"], "The lists alone need no features: data audit ucf --from DIR"),
        (["ucf", "--text", "vectors.npy"], "give the folder too, --from DIR"),
        (["stamps", "--from", "."], "has no official layout"),
        (["ucf", "--from", "nowhere"], "no such folder"),
        (["nothing"], "unknown dataset"),
        (["synthetic", "--out", "/dev/null/out"], "cannot be written"),
    ],
)
def test_wrong_usage_ends_with_2_and_names_a_fix(
    command: Callable[..., tuple[int, str, str]], arguments: list[str], told: str
) -> None:
    code, _, error = command(*arguments)
    assert code == 2
    assert told in error


@pytest.mark.parametrize(
    ("dataset", "misaligned", "classes", "test", "related", "samples", "unseen"),
    [
        ("ucf", 79, 101, (35, 48), 555, 555, (0, 845)),
        ("vggsound", 205, 309, (173, 271), 3144, 9032, (0, 3200)),
        (
            "activitynet",
            8,
            200,
            (8, 198),
            784,
            1615,
            (1, 4052),
        ),  # segments of one video, yDH9iAn82Q8, of two classes
    ],
)
def test_the_published_lists_have_the_known_misalignment_and_leakage(
    command: Callable[..., tuple[int, str, str]],
    shared: Path,
    tmp_path: Path,
    dataset: str,
    misaligned: int,
    classes: int,
    test: tuple[int, int],
    related: int,
    samples: int,
    unseen: tuple[int, int],
) -> None:
    folder = shared / "official" / "avgzsl_benchmark_datasets"
    code, text, _ = command(dataset, "--from", str(folder), "--json", str(tmp_path / "audit.json"))
    assert code == 0
    assert f"{misaligned} of {classes} classes get the embedding of another class" in text
    assert f"among them {test[0]} of the {test[1]} test classes" in text
    assert f"{related:,} of {samples:,} test-seen samples" in text
    content = json.loads((tmp_path / "audit.json").read_text())
    splits = {p["split"]: (p["misaligned"], p["classes"]) for p in content["alignment"]["splits"]}
    assert (splits["all classes"], splits["test classes"]) == ((misaligned, classes), test)
    pairs = {
        (p["rule"], p["split"], len(p["against"])): (p["related"], p["samples"])
        for p in content["leakage"]["pairs"]
    }
    assert pairs["same source", "stage_2_test_seen", 3] == (related, samples)
    assert pairs["same source", "stage_2_test_unseen", 3] == unseen
    assert pairs.get(("overlapping seconds", "stage_2_test_seen", 3)) == (
        (24, 9032) if dataset == "vggsound" else None
    )
    assert all(count["as_expected"] for count in content["counts"])
    assert content["statistics"] is None
    out = tmp_path / "reports" / f"audit-{dataset}-cls"
    assert len(rows_of(out / "misaligned.csv")) == misaligned
    against = {"split": "stage_2_test_seen", "against": "stage_2_train", "rule": "same source"}
    assert sum(against.items() <= row.items() for row in rows_of(out / "leaking_samples.csv")) == related


def test_the_published_ucf_vectors_that_go_astray_are_named(
    command: Callable[..., tuple[int, str, str]], shared: Path, tmp_path: Path
) -> None:
    official = shared / "official"
    text = official / "w2v_features" / "word_embeddings_ucf_normed.npy"
    folder = official / "avgzsl_benchmark_datasets" / "UCF"
    command(
        "ucf",
        "--features",
        "main",
        "--from",
        str(folder),
        "--text",
        str(text),
        "--out",
        str(tmp_path / "out"),
    )
    used = {row["class"]: row["vector used"] for row in rows_of(tmp_path / "out" / "misaligned.csv")}
    assert (used["StillRings"], used["PlayingFlute"]) == ("Sumo Wrestling", "Playing Guitar")
    odd = {row["what"] for row in rows_of(tmp_path / "out" / "oddities.csv")}
    assert "HandStandPushups, the class is HandstandPushups" in odd
