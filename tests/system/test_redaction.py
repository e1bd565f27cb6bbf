"""Passwords and tokens of the command line and the environment are never written or shown."""

from __future__ import annotations

import base64
import logging
import sys
import warnings
from pathlib import Path

import pytest
from support.tiny import Bench

from benchmark.cli.app import main
from benchmark.system import redaction
from benchmark.system.databases import without_password
from benchmark.system.redaction import (
    guard,
    hidden_command,
    hidden_traceback,
    hide,
    hide_values,
    learn,
    learn_environment,
    link_to,
)
from benchmark.tracking.benchmark_runs import find_benchmark_runs
from benchmark.tracking.tracker import Tracker

STORAGE = "postgresql+psycopg://me:S3CRETPW@127.0.0.1:5432/optuna"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test without secrets."""
    monkeypatch.setattr(redaction, "_secrets", set())


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (STORAGE, "postgresql+psycopg://…@127.0.0.1:5432/optuna"),
        ("postgresql+psycopg://me:S3/CRETPW@host/db", "postgresql+psycopg://…@host/db"),
        ("postgresql://me:12/CRETPW@host/db", "postgresql://…@host/db"),
        ("postgresql://me:S3@CRETPW@host/db", "postgresql://…@host/db"),
        ("postgresql://me:S3#CRETPW@host/db", "postgresql://…@host/db"),
        ("postgresql://me:S3?CRETPW@host/db", "postgresql://…@host/db"),
        ("http://me:S3?a=CRETPW@host/db", "http://…@host/db"),
        ("http://me:S3%40CRETPW@host:5000", "http://…@host:5000"),
        ("https://S3CRETPWTOKEN@host", "https://…@host"),
        ("https://S3CRETPWTOKEN:@host/a", "https://…@host/a"),
        ("s3://KEY:S3CRETPW@bucket/a", "s3://…@bucket/a"),
        (
            "postgresql://h/db?user=me&password=S3CRETPW&sslpassword=CRETPW2",
            "postgresql://h/db?user=me&password=…&sslpassword=…",
        ),
        ("http://host/a?token=S3CRETPW&x=1", "http://host/a?token=…&x=1"),
        ("https://b.s3.amazonaws.com/a?X-Amz-Credential=CRETPW&X-Amz-Signature=CRETPW", None),
        ("http://me:S3CRETPW@proxy:3128", "http://…@proxy:3128"),
    ],
)
def test_an_address_is_shown_without_its_secrets_whatever_signs_they_have(
    address: str, shown: str | None
) -> None:
    for text in (
        hide(address),
        hide(f"error: {address}: 'no answer'"),
        hide_values({"a": [address]})["a"][0],
    ):
        assert "CRETPW" not in text
        assert "S3" not in text.replace(".s3.", "")
    assert shown in (None, hide(address), without_password(address))


@pytest.mark.parametrize(
    ("address", "repeated"),
    [
        (
            "http://me:S3%40CRETPW@host",
            "wrong password S3@CRETPW or S3%40CRETPW or %3AS3%2540CRETPW%40 or 'S3%40CRETPW'",
        ),
        ("http://me:S3@CRETPW@host", "could not translate host name 'CRETPW@host'"),
        ("http://me:S3CRETPW@host", "Authorization: Basic bWU6UzNDUkVUUFc= or bWU6UzNDUkVUUFc="),
        ("postgresql://me:S3 'CRETPW@host/db", "wrong: S3 'CRETPW, or \"S3 'CRETPW\""),
        ("postgresql://me:S3\\CRETPW@host/db", repr("S3\\CRETPW")),
        ("https://S3CRETPWTOKEN@host", "no user S3CRETPWTOKEN"),
        ("postgresql://me:sesame@host/db", "wrong: 'sesame', sesame. \\nsesame%40"),
        ("postgresql://h/db?password=S3CRETPW", "password is S3CRETPW"),
        ("postgresql://h/db?password=S3#CRETPW", "password is S3#CRETPW"),
    ],
)
def test_what_libraries_repeat_of_a_given_address_is_hidden_too(address: str, repeated: str) -> None:
    learn(address)
    for part in ("CRETPW", "sesame", "bWU6"):
        assert part not in hide(repeated)


def test_other_texts_stay_as_they_are() -> None:
    for text in (
        "sqlite:////home/me@work/a:b@c/runs/mlflow.db",
        "file:///home/me:a@work/artifacts",
        "https://www.example.org/@channel and http://127.0.0.1:5000/#/experiments/1?runs=a@b",
        "https://arxiv.org/abs/2203.03598",
        "tcaf.token_dropout=0.1, train.epochs=2; token_size=32",
        "me@example.org: see a/b:c",
    ):
        learn(text) if text.startswith(("sqlite", "file")) else None
        assert hide(text) == text
    assert hide_values({"seed": 1234, "x": None, "y": [0.5, True]}) == {
        "seed": 1234,
        "x": None,
        "y": [0.5, True],
    }


def test_a_password_that_is_a_word_of_ours_does_not_change_names() -> None:
    learn("postgresql://postgres:paper@host/db")
    assert hide_values({"mode": "paper"}) == {"mode": "paper"}
    assert (
        hide("postgresql://host: wrong password 'paper', newspaper")
        == "postgresql://host: wrong password '…', newspaper"
    )


def test_secrets_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "MLFLOW_TRACKING_PASSWORD": "CRETPW1x",
        "MLFLOW_TRACKING_TOKEN": "CRETPW2x",
        "PGPASSWORD": "CRETPW3x",
        "AWS_SECRET_ACCESS_KEY": "CRETPW4x",
        "HTTPS_PROXY": "http://me:CRETPW5x@proxy:3128",
        "GZSL_STORAGE": "postgresql://me:CRETPW6x@host/db",
        "GZSL_TRACKING_URI": "me:CRETPW7x@host",
        "SLURM_JWT": "CRETPW8x",
        "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=CRETPW9x;EndpointSuffix=b",
    }
    for name, value in {**secrets, "TOKENIZERS_PARALLELISM": "parallel", "RAY_AUTH_MODE": "token"}.items():
        monkeypatch.setenv(name, value)
    learn_environment()
    text = hide(" ".join(f"CRETPW{n}x" for n in range(1, 10)) + f" parallel token {Path.cwd()}")
    assert text == "… … … … … … … … … parallel token " + str(Path.cwd())


@pytest.mark.parametrize(
    "names", [("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), ("PROXY_USER", "PROXY_PASSWORD")]
)
def test_user_and_password_of_the_environment_are_hidden_as_a_server_gets_them(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    for name, value in zip(names, ("admin", "CRETPW1x"), strict=True):
        monkeypatch.setenv(name, value)
    learn_environment()
    sent = base64.b64encode(b"admin:CRETPW1x").decode()
    assert (
        hide(f"Response body: 'not authenticated: Basic {sent}'")
        == "Response body: 'not authenticated: Basic …'"
    )


@pytest.mark.parametrize(
    "words", [["--storage", STORAGE], [f"--storage={STORAGE}"], ["--storage", STORAGE, "--x", "S3CRETPW"]]
)
def test_a_recorded_command_is_of_use_without_user_and_password(words: list[str]) -> None:
    text = hidden_command(["python", "run_benchmark.py", "--methods", "cjme", *words])
    assert "S3CRETPW" not in text
    assert text.startswith("python run_benchmark.py --methods cjme")
    assert "//…@127.0.0.1:5432/optuna" in text


def test_an_address_without_scheme_is_known_by_its_option() -> None:
    for words in (["--tracking-uri", "me:S3CRETPW@host"], ["--tracking-uri=me:S3CRETPW@host"]):
        assert "S3CRETPW" not in hidden_command(words)


def test_links_have_no_user() -> None:
    assert link_to("http://me:S3CRETPW@host:5000/a") == "http://host:5000/a"
    assert link_to("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


def test_logs_warnings_and_tracebacks_hide_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    factory, formatter = logging.getLogRecordFactory(), warnings.formatwarning
    try:
        guard()
        learn(STORAGE)
        try:
            raise ValueError(STORAGE)
        except ValueError as error:
            trace = hidden_traceback(error)
            record = logging.getLogger("x").makeRecord("x", 40, "f", 1, "to %s", (STORAGE,), sys.exc_info())
        texts = [
            trace,
            logging.Formatter().format(record),
            warnings.formatwarning("S3CRETPW", UserWarning, "f", 1),
        ]
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = formatter
    for text in texts:
        assert "S3CRETPW" not in text
        assert "…" in text
    assert "ValueError: postgresql+psycopg://…@127.0.0.1:5432/optuna" in texts[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--methods", "cjme", "--dataset", STORAGE],
        ["data", "info", STORAGE],
        ["data", "info", "synthetic", STORAGE],
        ["--jobs", STORAGE],
        ["--set", f"train.epochs={STORAGE}"],
        ["--config", STORAGE],
        ["report", "--mlflow-ui", STORAGE],
        ["report", "--tracking-uri", "mysql://me:S3CRETPW@host/db"],
        ["ui", "--storage", "me:S3CRETPW@host"],
        ["report", "--debug", "--mlflow-ui", STORAGE],
    ],
)
def test_no_error_message_repeats_a_password(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setenv("GZSL_RUNS_DIR", str(runs))
    monkeypatch.setenv("GZSL_DATA_ROOT", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err
    assert "S3CRETPW" not in captured.out + captured.err


def files_with(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_tags_artifacts_and_reasons_of_a_failed_job_hide_the_secrets(bench: Bench, tmp_path: Path) -> None:
    """A whole benchmark run, since reasons are in tags, the list of jobs, tracebacks and descriptions."""
    plugin = tmp_path / "leaky.py"
    plugin.write_text(
        "import torch\nfrom benchmark.method import Method, register\n"
        "@register('leaky', title='Leaky', paper='none', bibtex='@misc{leaky}', inputs='mean')\n"
        "class Leaky(Method):\n"
        "    def __init__(self, config, spec):\n"
        "        super().__init__(config, spec)\n"
        "        self.w = torch.nn.Linear(spec.audio_dim, spec.text_dim)\n"
        "    def loss(self, batch, classes):\n"
        f"        raise RuntimeError('no answer from {STORAGE}, password ' + 'S3CRET' + 'PW')\n"
        "    def embed(self, batch):\n        raise NotImplementedError\n"
        "    def embed_classes(self, text):\n        return text\n"
    )
    object.__setattr__(bench.runner, "command", hidden_command(["run_benchmark.py", "--storage", STORAGE]))
    result = bench.run(bench.call(methods="leaky", plugins=[plugin]))
    assert result.failed
    job = bench.tracker.find(kind="job")[0]
    assert "password …" in job.tags["error"]
    assert "RuntimeError: no answer from postgresql+psycopg://…@127.0.0.1" in bench.tracker.read_text(
        job.run_id, "traceback.txt"
    )
    assert (
        "--storage 'postgresql+psycopg://…@127.0.0.1:5432/optuna'"
        in find_benchmark_runs(bench.tracker, None)[0].tags["command"]
    )
    assert not files_with(bench.runs, "S3CRETPW")


def test_a_command_that_an_older_version_recorded_is_shown_without_its_password(tracker: Tracker) -> None:
    run = tracker.start("a benchmark run", {"kind": "benchmark_run"})
    tracker.client.set_tag(run, "command", f"run_benchmark.py --storage {STORAGE}")
    for record in (tracker.get(run), tracker.find(kind="benchmark_run")[0]):
        assert (
            record.tags["command"]
            == "run_benchmark.py --storage postgresql+psycopg://…@127.0.0.1:5432/optuna"
        )
