"""Streams that are closed, full, or lack a character lose only output."""

from __future__ import annotations

import ast
import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from running.test_beside import command
from support.checkout import PROJECT

from benchmark.cli.app import main
from benchmark.system.output import Lasting, lasting_output, plain
from benchmark.tracking.tracker import Tracker

SIGNS = "✓ done · ± → … 鳥 \udcff"


class Failing(io.StringIO):
    """A stream that refuses every write."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


FAILURES = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ValueError("I/O operation on closed file"),
]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "cp437"])
def test_signs_that_an_encoding_lacks_are_replaced(encoding: str) -> None:
    raw = io.BytesIO()
    stream = Lasting(io.TextIOWrapper(raw, encoding))
    stream.write(SIGNS)
    stream.flush()
    assert stream.lost is None
    assert raw.getvalue().decode(encoding) == plain(SIGNS, encoding)
    assert plain(SIGNS, "ascii") == "+ done - +- -> ... ? ?"


@pytest.mark.parametrize("error", FAILURES, ids=str)
def test_a_stream_that_fails_is_written_to_no_more_and_keeps_why(error: Exception) -> None:
    stream = Lasting(Failing(error))
    assert [stream.write("text"), stream.write("more")] == [4, 4]
    stream.flush()
    assert stream.lost is error


def test_a_message_that_comes_while_another_is_written_is_dropped_alone() -> None:
    """Like a signal handler that writes after Ctrl-C: Python raises a RuntimeError."""
    stream = Failing(RuntimeError("reentrant call inside <_io.BufferedWriter>"))
    lasting = Lasting(stream)
    lasting.write("text")
    assert lasting.lost is None


def test_streams_are_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with lasting_output() as out:
        assert sys.stdout is out  # type: ignore[comparison-overlap]
        with pytest.raises(TypeError):
            sys.stdout.write(b"")  # type: ignore[arg-type]
        print("seen", out.encoding)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out.startswith("seen")


@pytest.mark.parametrize("error", FAILURES[:3], ids=str)
def test_a_call_whose_output_is_lost_does_its_jobs(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(error))
    with pytest.raises(SystemExit) as end:
        main(command(tmp_path, tracker, "--methods=cjme", "--set=cjme.hidden=16", "--stages=1"))
    assert end.value.code == 0
    assert [run.status for run in tracker.find(kind="job")] == ["FINISHED"]
    assert (tmp_path / "reports" / "synthetic" / "report.md").is_file()


@pytest.mark.parametrize("words", ["list", "run --help", "--version"])
@pytest.mark.parametrize(
    ("error", "code"), [(FAILURES[0], 2), (FAILURES[2], 0)], ids=["full", "nobody reads"]
)
def test_a_command_that_only_shows_something_reports_lost_output_except_to_a_closed_pipe(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(error))
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == code
    said = capsys.readouterr().err
    assert (said == "") is (code == 0)
    assert said.count("\n") == (1 if code else 0)


CLOSED = """
import os, sys
from benchmark.system.output import lasting_output, open_missing_streams
open_missing_streams()
with lasting_output():
    print("nowhere"); print("nowhere", file=sys.stderr); assert sys.stdin.read() == ""
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2, file.fileno()
    os.write(1, b"a library writes to standard output")
"""


@pytest.mark.parametrize("closed", ["0 1 2", "1", "2", "0"])
def test_no_file_becomes_standard_output_if_the_program_was_started_without_one(
    tmp_path: Path, closed: str
) -> None:
    """In a new process, since only there streams can be missing."""
    redirected = " ".join(f"{n}>&-" for n in closed.split())
    words = ["bash", "-c", f'"$0" -c "$1" "$2" {redirected}', sys.executable, CLOSED, str(tmp_path / "file")]
    done = subprocess.run(words, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.slow
@pytest.mark.parametrize("redirected", [">&-", ">&- 2>&- <&-", ">/dev/full", "| head -1"])
def test_commands_without_a_standard_output_end_as_they_should(redirected: str) -> None:
    """With the whole program, since the interpreter itself writes at its end."""
    words = f'set -o pipefail; "$0" run_benchmark.py list {redirected}'
    done = subprocess.run(
        ["bash", "-c", words, sys.executable], cwd=PROJECT, capture_output=True, check=False
    )
    said = done.stderr.decode()
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert done.returncode == (2 if "full" in redirected else 0)
    assert ("No space left on device" in said) is ("full" in redirected)


def test_files_are_utf_8_whatever_the_locale_is() -> None:
    """Every call that opens a file for text names an encoding."""
    without = []
    for file in [
        *PROJECT.glob("benchmark/**/*.py"),
        *PROJECT.glob("methods/*.py"),
        PROJECT / "gzsl_bench.py",
    ]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and opens_text(node)
                and "encoding" not in {k.arg for k in node.keywords}
            ):
                without.append(f"{file.relative_to(PROJECT)}:{node.lineno}")
    assert without == []


def opens_text(call: ast.Call) -> bool:
    """Whether a call opens a file or a process for text."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    words = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
    if name == "open":
        plain_open = isinstance(call.func, ast.Name) or (
            len(call.args) == 1 and any(str(w) in "rwax" for w in words)
        )
        return plain_open and not any(
            isinstance(w, str) and "b" in w and set(w) <= set("rwaxb+") for w in words
        )
    if name in ("read_text", "write_text"):
        return len(call.args) == (1 if name == "write_text" else 0)  # with more arguments it logs an artifact
    texts = [k.value for k in call.keywords if k.arg in ("text", "universal_newlines")]
    return any(isinstance(value, ast.Constant) and value.value is True for value in texts)


def test_the_machine_readable_list_is_whole_on_any_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    with pytest.raises(SystemExit):
        main(["list", "--json"])
    assert {"methods", "datasets"} == json.loads(raw.getvalue().decode()).keys()
