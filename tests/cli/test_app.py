"""The command line of a user: defaults, help, errors with exit codes, machine-readable output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from support.checkout import PROJECT
from support.shell import Shell
from support.tiny import TINY

from benchmark.cli.terminal import HidingConsole
from benchmark.data.cards import Cards, load_cards
from benchmark.protocol.training import Loop
from benchmark.tracking.tracker import Tracker

SETS = [f"--set={s}" for s in TINY]


@pytest.mark.slow
def test_a_command_in_a_process_of_its_own_prints_and_exits_alike(shell: Shell) -> None:
    """The only one here: what ``main`` raises in this process is what the process of a command exits with."""
    command = [sys.executable, str(PROJECT / "run_benchmark.py"), "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert {m["name"] for m in json.loads(done.stdout)["methods"]} >= {"tcaf", "avca"}
    assert (
        subprocess.run([*command[:2], "--methods", "tcaff"], capture_output=True, check=False).returncode == 2
    )


def test_run_is_the_default_command_and_leaves_both_tables(shell: Shell) -> None:
    file = shell.folder / "out.json"
    storage = [
        "--storage",
        "postgresql+psycopg://me:S3CRETPW@127.0.0.1:9/optuna",
    ]  # without a search nobody opens it
    text = shell(
        "--methods",
        "cjme,avgzslnet",
        "--dataset",
        "synthetic",
        "--seeds",
        "2",
        "--json",
        str(file),
        *storage,
        *SETS,
    )
    assert set(json.loads(file.read_text())) == {"report", "tables", "failed"}
    assert "Generalised zero-shot" in text
    assert "generated data" in text
    folder = shell.folder / "reports" / "synthetic"
    assert {"report.md", "gzsl.csv", "zsl.csv", "full.csv"} <= {p.name for p in folder.iterdir()}
    again = shell("report", "--report", "again")
    assert (shell.folder / "reports" / "again" / "gzsl.csv").read_text() == (folder / "gzsl.csv").read_text()
    assert "CJME" in again
    assert "postgresql+psycopg://…@127.0.0.1:9/optuna" in (folder / "report.md").read_text()
    assert not [f for f in shell.folder.rglob("*") if f.is_file() and b"S3CRETPW" in f.read_bytes()], (
        "a password was written"
    )
    board = json.loads(
        shell("report", "--leaderboard", str(folder), "--out", str(shell.folder / "site"), "--json")
    )
    assert board == {
        "page": str(shell.folder / "site" / "index.html"),
        "reports": ["synthetic"],
        "results": 2,
    }


def test_dry_run_and_status_show_the_jobs_and_train_nothing(shell: Shell) -> None:
    text = shell("run", "--methods", "cjme", "--dataset", "synthetic", "--dry-run", "--json", *SETS)
    jobs = json.loads(text)
    assert [(j["state"], len(j["key"])) for j in jobs] == [("not run", 16)] * 2
    shell("run", "--methods", "cjme", "--dataset", "synthetic", "--stages", "1", "--quiet", *SETS)
    status = json.loads(shell("status", "--methods", "cjme", "--dataset", "synthetic", "--json", *SETS))
    assert [j["state"] for j in status] == ["done", "not run"]
    assert [j["key"] for j in status] == [j["key"] for j in jobs]


def test_a_dry_run_says_how_long_what_is_left_takes_at_most(shell: Shell) -> None:
    names = ["run", "--methods", "cjme,eszsl", "--dataset", "synthetic"]
    text = shell(*names, "--dry-run", "--jobs", "2", *SETS)
    row = next(line for line in text.splitlines() if line.strip().startswith("CJME") and " ms " in line)
    assert row.split("paper")[1].split()[0] == "2", "both stages are left"
    assert "with 2 processes" in text
    assert "Not measured, since they train in their own way: ESZSL" in " ".join(text.split())
    shell(*names, *SETS)
    assert "At most 0 s in all" in shell(*names, "--dry-run", *SETS), "nothing is left"


def test_a_device_that_json_names_is_written_to_and_not_replaced(shell: Shell) -> None:
    pipe = shell.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    shell("list", f"--json={pipe}")
    assert json.loads(os.read(reader, 10**6))["methods"]
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.slow
def test_a_run_on_a_terminal_begins_with_the_expected_time(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own process measures it and takes seconds to start: the only test that starts it."""
    asked: list[list[str]] = []
    real = subprocess.run

    def in_the_project(command: list[str], **options: Any) -> Any:
        asked.append(command)
        return real([command[0], str(PROJECT / command[1]), *command[2:]], **options)

    monkeypatch.setattr(subprocess, "run", in_the_project)
    monkeypatch.setattr(HidingConsole, "is_terminal", property(lambda console: True))
    options = ["--methods", "linear", "--dataset", "synthetic", "--trials", "1", *SETS]
    text = shell("tune", *options)
    assert asked[0][2:] == ["run", *options, "--dry-run", "--quiet"]
    assert "At most" in text
    assert "a batch" in text
    assert "tuning, 0 trials done" in text


@pytest.mark.slow
def test_status_takes_the_options_of_run_and_creates_no_store(shell: Shell) -> None:
    places = ["--runs-dir", str(shell.folder / "none")]
    options = [
        "--methods",
        "cjme",
        "--dataset",
        "synthetic",
        "--trials",
        "2",
        "--timeout",
        "900",
        *places,
        *SETS,
    ]
    text = shell("status", *options)
    assert "cjme synthetic-native paper" in text
    assert "2 trials, then all seeds with the best hyperparameters" in text
    *jobs, study = json.loads(shell("status", *options, "--json"))
    assert [j["state"] for j in jobs] == ["not run"] * 2
    assert (study["state"], study["trials"], study["timeout"], study["left"]) == ("not run", 2, 900, 2)
    config = shell.folder / "call.yaml"
    config.write_text("{methods: cjme, dataset: synthetic, ablate: [calibration]}")
    ablation = json.loads(shell("run", "--config", str(config), "--dry-run", *places, "--json", *SETS))
    assert [j["key"] for j in ablation[:2]] == [j["key"] for j in jobs]
    assert len(ablation) == 4
    assert json.loads(shell("status", "--config", str(config), *places, "--json", *SETS)) == ablation
    assert not (shell.folder / "none").exists()


@pytest.mark.slow
def test_status_shows_trials_and_the_jobs_with_what_they_found(shell: Shell) -> None:
    confirmed = [word for word in SETS if "confirm" not in word]
    options = ["--methods", "cjme", "--dataset", "synthetic", "--trials", "2", *confirmed]
    shell("tune", *options, "--quiet")
    first, second, study, *others = json.loads(shell("run", *options, "--dry-run", "--json"))
    assert [first["state"], second["state"]] == ["done", "not run"], (
        "trial 0 again is stage 1 of the first seed"
    )
    assert (study["state"], study["finished"] + study["pruned"], study["left"]) == ("done", 2, 0)
    tuned = [j for j in others if j["job"].endswith(" · tuned")]
    assert {j["state"] for j in others if j not in tuned} <= {"done"}
    assert [j["state"] for j in tuned] == (["done", "not run"] if study["chosen_values"] else [])
    assert f"best val HM {100 * study['best_hm']:.2f}" in shell("status", *options)


@pytest.mark.slow
def test_seconds_alone_are_a_budget_that_dry_runs_and_reports_name(shell: Shell) -> None:
    options = ["--methods", "cjme", "--dataset", "synthetic", "--timeout", "0.001", *SETS]
    assert "0.001 s of trials, then all seeds" in " ".join(shell("run", "--dry-run", *options).split())
    text = " ".join(shell("run", *options).split())
    assert "tuning, 0 trials done of 0.001 s of trials" in text
    assert "Tuning budget: 0.001 s of trials per method, dataset and mode" in text


@pytest.mark.parametrize(("confirm", "again"), [(0, ""), (2, "then the best trials again, ")])
def test_status_announces_the_best_trials_again_only_if_they_are_trained_again(
    shell: Shell, confirm: int, again: str
) -> None:
    options = ["--methods", "cjme", "--dataset", "synthetic", "--trials", "2", *SETS]
    text = " ".join(shell("status", *options, "--set", f"tuning.confirm={confirm}").split())
    assert f"2 trials, {again}then all seeds with the best hyperparameters" in text


def test_tune_prints_the_best_settings(shell: Shell) -> None:
    text = shell(
        "tune", "--methods", "cjme", "--dataset", "synthetic", "--trials", "2", "--seeds", "4", *SETS,
        "--set", "tuning.confirm=3"
    )  # fmt: skip
    assert "is kept, validation HM" in text
    assert "best in search" in text
    assert "trial 0 again · seed 3" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "tcaff"], "unknown method 'tcaff': did you mean 'tcaf'"),
        (["--dataset", "stamp"], "unknown dataset 'stamp': did you mean 'stamps'"),
        (["--dataset", "synthetic", "--features", "cls"], "no feature set 'cls'"),
        (["--dataset", "synthetic", "--set", "train.epochz=1"], "did you mean 'epochs'"),
        (["--datasets", "synthetic", "--mode", "papper"], "--mode: must be 'paper', 'corrected' or 'both'"),
        (["--datasets", "synthetic", "--seeds", "0"], "--seeds: must be at least 1 (got 0)"),
        (["--methods", "xyz"], "unknown method 'xyz': choose from ale, "),
        (["--config", "nowhere.yaml"], "cannot be read"),
        (["--methods", ""], "no method given"),
        (["--dataset", "demo,stamps"], "are one dataset"),
        (["--dataset", "vggsound,ucf"], "data import ucf"),
        (["--dataset", "synthetic", "--set", "protocol.mode=corrected"], "use --mode"),
        (["--dataset", "synthetic", "--data-root", "/proc/nope"], "/proc/nope"),
        (["--dataset", "synthetic", "--reports-dir", "/proc/nope"], "/proc/nope"),
        (
            ["--methods", "cjme", "--dataset", "synthetic", "--stages", "2", "--trials", "2"],
            "tuning needs stage 1",
        ),
        (["--dataset", "synthetic", "--plugin", "nowhere.py"], "no such file"),
        (["tune", "--methods", "cjme", "--dataset", "synthetic"], "--trials"),
        (
            ["--methods", "cjme", "--dataset", "synthetic", "--stages", "2", "--timeout", "2"],
            "combined with --timeout",
        ),
        (
            ["--methods", "cjme", "--dataset", "synthetic", "--trials", "0", "--timeout", "2"],
            "--trials 0 disables it",
        ),
        (["--runs-dir", "http://host/runs"], "is an address"),
        (["--json", "s3://bucket/out.json"], "is an address"),
        (["report", "--leaderboard", "--out", "s3://bucket"], "is an address"),
        (["--report", "../elsewhere"], "is not the name"),
        (["report", "--report", "/elsewhere"], "is not the name"),
        (["report", "--leaderboard", "nowhere"], "nowhere: no such folder"),
        (["report", "nowhere"], "are for --leaderboard"),
        (["report", "--out", "nowhere"], "--out is for --leaderboard"),
        (["report", "--mlflow-ui", "nowhere"], "not a web address"),
        (["report", "--methods", ","], "contains no name"),
        (["report", "--leaderboard", "nowhere", "--mode", "paper"], "not to the leaderboard"),
    ],
)
def test_wrong_usage_is_one_clear_message_and_exit_code_2(
    shell: Shell, arguments: list[str], message: str
) -> None:
    assert message in shell.refused(*arguments)


def test_missing_features_say_what_to_fetch_where_it_is_looked_for_and_how_to_import(shell: Shell) -> None:
    text = " ".join(shell("--methods", "cjme", "--dataset", "vggsound", code=2).split())
    assert "vggsound-cls.h5" in text
    assert "data import vggsound" in text
    assert "2025-12" in text


def test_ctrl_c_says_that_the_same_command_goes_on(shell: Shell) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    shell.monkeypatch.setattr(Loop, "_epoch", interrupted)
    text = shell("--methods", "cjme", "--dataset", "synthetic", *SETS, code=130)
    assert "Rerun the same command to resume" in text


def test_a_configuration_that_cannot_be_read_as_options_is_refused(shell: Shell) -> None:
    file = shell.folder / "call.yaml"
    for text, message in (
        ("- 1\n", "holds a list; write fields"),
        ("settings: train.epochs=1\n", "settings"),
        ("sedes: 1\n", "'seeds'"),
        (
            "seeds: 1\nmode: paper\nseeds: 2\n",
            f"--config {file}: line 3: key 'seeds' is given twice (first in line 1)",
        ),
        ("seeds: true\n", "truth value"),
    ):
        file.write_text(text)
        assert message in shell.refused("run", "--config", str(file))


def test_an_option_wins_over_the_configuration_and_a_setting_given_twice_is_noted(shell: Shell) -> None:
    file = shell.folder / "call.yaml"
    file.write_text("methods: cjme\ndataset: synthetic\nsettings: [train.epochs=3]\n")
    for options, noted in ((["train.epochs=2"], False), (["train.epochs=2", "train.epochs=1"], True)):
        text = shell("run", "--config", str(file), "--dry-run", *(f"--set={text}" for text in options))
        assert ("note: --set train.epochs is given more than once" in text) == noted


def test_list_shows_cards_that_cannot_be_used(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (shell.folder / "birds.yaml").write_text("name: birds\nkind: real\n")
    cards = load_cards()
    monkeypatch.setattr(
        "benchmark.data.cards.load_cards", lambda **_: Cards(cards, load_cards(shell.folder).broken)
    )
    states = {d["name"]: d["state"] for d in json.loads(shell("list", "--json"))["datasets"]}
    assert f"cannot be used: {shell.folder}/birds.yaml: title: is required" in states["birds"]
    assert "stamps" in states


def test_a_call_whose_jobs_all_fail_names_them(shell: Shell) -> None:
    text = shell("--methods", "cjme", "--dataset", "synthetic", "--stages", "2", *SETS, code=1)
    assert "not run yet" in text


def test_list_shows_methods_data_sets_and_broken_plugins(shell: Shell) -> None:
    found = json.loads(shell("list", "--json"))
    names = [m["name"] for m in found["methods"]]
    assert {"tcaf", "attention_fusion", "perceiver", "cjme", "avgzslnet", "avca"} <= set(names)
    states = {(d["name"], d["features"]): d["state"] for d in found["datasets"]}
    assert states["vggsound", "main"] == "not imported"
    assert states["stamps", "native"] == "built at first use"


def test_built_data_can_be_shown_and_verified(shell: Shell) -> None:
    assert json.loads(shell("data", "build", "synthetic", "--json"))["samples"] > 0
    assert "hash" in shell("data", "build", "synthetic")
    info = json.loads(shell("data", "info", "synthetic", "--json"))
    assert [p["samples"] for p in info["splits"]] == [p["expected samples"] for p in info["splits"]]
    assert "all is well" in shell("data", "verify", "synthetic")


def test_a_failed_job_is_named_and_the_exit_code_is_1(shell: Shell) -> None:
    plugin = shell.folder / "broken_method.py"
    plugin.write_text(
        "import torch\n"
        "from benchmark.method import Method, register\n"
        "@register('sky', title='Sky', paper='none', bibtex='@misc{sky}', inputs='mean')\n"
        "class Sky(Method):\n"
        "    def __init__(self, config, spec):\n"
        "        super().__init__(config, spec)\n"
        "        self.w = torch.nn.Linear(spec.audio_dim, spec.text_dim)\n"
        "    def loss(self, batch, classes):\n"
        "        return {'total': self.w(batch.audio).sum() * float('nan')}\n"
        "    def embed(self, batch):\n"
        "        raise NotImplementedError\n"
        "    def embed_classes(self, text):\n"
        "        return text\n"
    )
    text = shell("--methods", "sky,cjme", "--dataset", "synthetic", "--plugin", str(plugin), *SETS, code=1)
    assert "loss 'total' is not finite in epoch 0, batch 0" in text
    assert "CJME" in text


@pytest.mark.slow
def test_the_config_of_a_run_runs_again(shell: Shell, tracker: Tracker) -> None:
    shell("--methods", "cjme", "--dataset", "synthetic", "--quiet", *SETS)
    config = shell.folder / "config.yaml"
    config.write_text(tracker.read_text(tracker.find(kind="job", stage="2")[0].run_id, "config.yaml"))
    again = json.loads(shell("run", "--config", str(config), "--dry-run", "--json"))
    assert [j["state"] for j in again] == ["done", "done"]


@pytest.mark.parametrize(
    "command", [[], ["run"], ["tune"], ["report"], ["list"], ["status"], ["data"], ["data", "import"]]
)
def test_every_command_has_help(shell: Shell, command: list[str]) -> None:
    assert "Usage" in shell(*command, "--help")
