"""A long video takes no more memory than a short one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import PROJECT
from support.needs import encoders
from support.videos import Clip, write_video

from benchmark.extract.sets.packaged import Packaged

WITHOUT_NETWORKS = """
import numpy as np
from benchmark.extract.extractor import Extractor
from benchmark.extract.sets.cls import Cls

class WithoutNetworks(Cls):
    def __init__(self):
        Extractor.__init__(self, {}, frozenset(), "cpu")

    def audio(self, waveforms):
        return np.ones((len(waveforms), self.audio_dim), np.float32)

    def video(self, clips):
        return np.ones((len(clips), self.video_dim), np.float32)

extractor = WithoutNetworks()
"""
PACKAGED = """
import torch
from benchmark.extract.sets.packaged import Packaged
from benchmark.extract.weights_files import load_weights

torch.set_num_threads(1)
extractor = Packaged(load_weights(Packaged, [], random=False).states, frozenset(), "cpu")
"""
LONG = """
import sys
from pathlib import Path
from benchmark.extract import extraction
from benchmark.extract.results import ResultFolder

with ResultFolder(Path(sys.argv[2]), {}, "skip").writing("long") as (file, features):
    extraction._compute(Path(sys.argv[1]), extractor, features, "skip", [])
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    print(features.steps("audio"), features.steps("video"), peak)
"""


def steps_and_peak(extractor: str, clip: Clip, folder: Path) -> tuple[int, int, float]:
    """Time steps of audio and video, and the peak memory in MB of a separate process."""
    path = write_video(folder / f"{clip.seconds:g}.mkv", clip)
    command = [sys.executable, "-c", extractor + LONG, str(path), str(folder / "results")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    audio, video, peak = map(int, done.stdout.split())
    return audio, video, peak / 1024


@pytest.mark.slow(70)
def test_a_video_of_ten_minutes_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    peaks = []
    for seconds in (20, 600):
        clip = Clip(seconds=seconds, rate=5, size=(320, 240), codec="mpeg4", sound="pcm_s16le")
        audio, video, peak = steps_and_peak(WITHOUT_NETWORKS, clip, tmp_path)
        assert audio == (seconds * 16_000 - 15_600) // 15_360 + 1
        assert video == -(-seconds * 25 // 16)
        peaks.append(peak)
    print(f"peak {peaks[0]:.0f} MB and {peaks[1]:.0f} MB")
    assert peaks[1] < peaks[0] + 25  # its audio is 38 MB as floats, its frames at 25 a second 3,456 MB


@pytest.mark.slow(60)
def test_nor_does_it_with_real_networks(tmp_path: Path) -> None:
    encoders()
    peaks = []
    for seconds in (20, 400):
        clip = Clip(
            seconds=seconds, rate=4, codec="mpeg4", sound="pcm_s16le", sound_rate=16_000, layout="mono"
        )
        audio, video, peak = steps_and_peak(PACKAGED, clip, tmp_path)
        assert audio == (seconds * 16_000 - Packaged.sound.window) // Packaged.sound.hop + 1
        assert video == 2 * seconds
        peaks.append(peak)
    print(f"peak {peaks[0]:.0f} MB and {peaks[1]:.0f} MB")
    assert peaks[1] < peaks[0] + 40  # its prepared frames are 490 MB, its audio 51 MB as floats
