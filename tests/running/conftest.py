"""Numbers of an undisturbed run, which tests of lost processes and machines compare theirs with."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from filelock import FileLock
from support.tiny import LONGER, Bench, results


@pytest.fixture
def undisturbed(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of both stages of CJME and AVGZSLNet with four seeds and ``LONGER``, by key of the job.

    The first test that needs them trains for twenty seconds; the others read its file, in all processes.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    file = folder / "undisturbed.json"
    with FileLock(folder / "undisturbed.lock"):
        if not file.exists():
            bench.run(bench.call(*LONGER, methods="cjme,avgzslnet", seeds=4))
            file.write_text(json.dumps(results(bench.tracker)), encoding="utf-8")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert len(found) == 16
    return found
