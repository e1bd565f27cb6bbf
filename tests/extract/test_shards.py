"""Shards of an extraction: each works on its own videos, and merged they are one extraction."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.extracting import Command

from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError
from benchmark.extract.extraction import Shard
from benchmark.extract.results import ResultFolder


def test_shards_merge_to_the_store_of_one_extraction(command: Command, tmp_path: Path) -> None:
    digest = command("--work", tmp_path / "whole")["digest"]
    command.store.unlink()
    done = [command("--shard", f"{i}/3")["extracted"] for i in (1, 2)]
    command("--merge", code=2)
    assert not command.store.exists()
    done.append(command("--shard", "3/3")["extracted"])
    assert done == [3, 3, 3]
    said = command("--merge")
    assert (said["digest"], said["extracted"]) == (digest, 0)


def test_each_shard_has_a_table_of_problems_of_its_own(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = sorted(command.video_set.samples)
    for sample in (first, second):
        command.video_set.files[sample].write_bytes(b"")
    for number in (1, 2):
        command("--shard", f"{number}/2", code=1)
        assert f"{5 - number} videos extracted and 1 left out; results of" in " ".join(
            capsys.readouterr().out.split()
        )
    for number, sample in ((1, first), (2, second)):
        assert command.problems(f"problems-{number}-of-2.csv").keys() == {sample}
    assert not (command.results / "problems.csv").exists()
    command("--merge", code=1)
    assert "7 videos extracted and 2 left out, 9 of them by earlier runs" in " ".join(
        capsys.readouterr().out.split()
    )
    assert command.problems().keys() >= {first, second}


def test_two_calls_do_not_work_on_the_same_videos(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    held = ResultFolder(command.results, {}, "skip")
    with held.alone(2, 3, []):
        command("--shard", "2/3", code=2)
        said = " ".join(capsys.readouterr().err.split())
        assert f"shard 2/3 is already being extracted (process {os.getpid()} on " in said
        assert said.endswith("wait for it to end, or stop it")
        command(code=2)
        assert "shard 2/3 is already being extracted" in " ".join(capsys.readouterr().err.split())
        assert command("--shard", "1/3")["extracted"] == 3
    with held.alone(1, 1, []):
        command("--shard", "2/3", code=2)
        assert "all videos are already being extracted" in " ".join(capsys.readouterr().err.split())
    assert command()["extracted"] == 6


def test_a_shard_removes_what_killed_processes_left_of_its_own_videos_only(command: Command) -> None:
    mine, other = sorted(command.video_set.samples)[:2]
    left = [command.results / f".{sample}.h5.123.partial" for sample in (mine, other)]
    command.results.mkdir(parents=True)
    for path in left:
        path.touch()
    command("--shard", "1/2")
    assert [path.exists() for path in left] == [False, True]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_a_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="such as 3/16"):
        Shard.parse(text)


def test_a_video_that_fails_each_time_does_not_prevent_the_merge(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = next(iter(command.video_set.samples))
    command.video_set.files[bad].unlink()
    command.video_set.files[bad].symlink_to("nowhere.mp4")  # cannot even be looked at
    codes = [command("--shard", f"{i}/2", code=code)["extracted"] for i, code in ((1, 1), (2, 0))]
    assert codes == [4, 4]
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "shard 1/2 is done except that 1 videos failed for a reason that may pass: repeat the command to "
        "try them" in said
    )
    merged = command("--merge", code=1)
    assert (merged["extracted"], merged["resumed"]) == (0, 8)
    what, left_out = command.problems()[bad]
    why = "cannot be read: a link to nowhere.mp4, which is not there; mount its disk, or remove the link"
    assert (what, left_out) == (f"{why}; tried again next time", True)
    assert set(FeatureStore(command.store).tables().ids) == command.video_set.samples.keys() - {bad}
    assert "repeat the command, without --merge, to try them again" in " ".join(
        capsys.readouterr().out.split()
    )
