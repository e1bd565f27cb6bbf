"""The revision of the project, whoever owns the checkout and whatever the environment says of git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.running import provenance
from benchmark.running.provenance import git_revision

Git = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the project's, without a repository yet."""
    folder = tmp_path / "project"
    (folder / "benchmark" / "running").mkdir(parents=True)
    (folder / "benchmark" / "running" / "provenance.py").write_text("x = 1\n")
    use(monkeypatch, folder)
    git_revision.cache_clear()
    return folder


@pytest.fixture(autouse=True)
def asked_anew() -> None:
    git_revision.cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(provenance, "PROJECT", folder)
    git_revision.cache_clear()


def commit(folder: Path) -> str:
    """Make a repository of a folder; its revision."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


def fake_git(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of the name git that comes first."""
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_a_checkout_has_a_revision_and_changes_are_told(project: Path) -> None:
    revision = commit(project)
    assert git_revision() == revision
    git_revision.cache_clear()
    (project / "benchmark" / "running" / "provenance.py").write_text("x = 2\n")
    assert git_revision() == f"{revision}+changes"


def test_a_checkout_of_another_user_has_a_revision(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git's own switch for tests stands in for a second user, whom not every machine has."""
    revision = commit(project)
    real = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
    fake_git(tmp_path / "bin", monkeypatch, f'GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {real} "$@"')
    refused = subprocess.run(
        ["git", "-C", str(project), "status"], capture_output=True, text=True, check=False
    )
    assert "dubious ownership" in refused.stderr
    assert git_revision() == revision


def test_why_there_is_no_revision_is_said(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git_revision() == "unknown (not a git checkout)"
    git_revision.cache_clear()
    fake_git(tmp_path / "bin", monkeypatch, "echo 'fatal: something is wrong' >&2; exit 128")
    assert git_revision() == "unknown (something is wrong)"
    git_revision.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert git_revision() == "unknown (git is not installed)"


def test_a_git_that_does_not_answer_is_not_waited_for(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.2)
    fake_git(tmp_path / "bin", monkeypatch, "sleep 100")
    assert git_revision() == "unknown (git does not answer within 0 s)"


def test_the_repository_of_a_folder_above_is_ours_only_if_it_holds_our_files(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = project / "site-packages"
    (installed / "benchmark" / "running").mkdir(parents=True)
    revision = commit(project)
    (installed / "benchmark" / "running" / "provenance.py").write_text("x = 1\n")
    use(monkeypatch, installed)
    assert git_revision() == "unknown (not a git checkout)"
    use(monkeypatch, project)
    assert git_revision() == revision


def test_variables_of_git_do_not_lead_to_another_repository(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = commit(project)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    commit(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert git_revision() == revision
