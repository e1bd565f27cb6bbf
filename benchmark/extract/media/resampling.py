"""Resample audio block by block, with the filter of the published features.

The filter is ``kaiser_best`` of resampy 0.4: a windowed sinc, read from a table with linear interpolation.
The step through the table is a whole number, which affects the result, so the weights are read in the same
way here. scipy does the filtering. Source: J. O. Smith, Digital audio resampling,
ccrma.stanford.edu/~jos/resample.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import upfirdn

ZEROS, ROLL_OFF, BETA, ENTRIES = 50, 0.917347, 12.9846, 2**13
"""Zero crossings on each side, cut-off relative to half the rate, window shape, table entries a crossing."""


class Resampler:
    """Converts a waveform that comes in blocks to another rate. The result does not depend on the blocks.

    Args:
        rate: samples a second of the input.
        wanted: samples a second of the output.
    """

    def __init__(self, rate: int, wanted: int) -> None:
        common = math.gcd(rate, wanted)
        self.up, self.down = wanted // common, rate // common
        self._left = 0  # position in the waveform of the first kept sample
        self._kept: NDArray[np.float64] = np.zeros(0)
        self._taken = 0
        self._given = 0

    def push(self, block: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The output samples ``[n]`` that no later block can change."""
        if self.up == self.down:
            return block.astype(np.float64)
        self._kept = np.concatenate([self._kept, block])
        self._taken += len(block)
        certain = (self._taken - _reach(self.up, self.down)) * self.up // self.down
        return self._give(max(self._given, certain))

    def end(self) -> NDArray[np.float64]:
        """The remaining output samples, as if silence followed."""
        if self.up == self.down:
            return np.zeros(0)
        self._kept = np.concatenate([self._kept, np.zeros(_reach(self.up, self.down) + self.down)])
        return self._give(self._taken * self.up // self.down)

    def _give(self, end: int) -> NDArray[np.float64]:
        """Output samples up to ``end``. Input that no later sample needs is dropped."""
        if end <= self._given:
            return np.zeros(0)
        weights, lead = _filter(self.up, self.down)
        start = self._left * self.up // self.down  # exact: the kept input begins at a multiple of `down`
        filtered = upfirdn(weights, self._kept, self.up, self.down)
        out: NDArray[np.float64] = filtered[lead + self._given - start : lead + end - start]
        self._given = end
        needed = end * self.down // self.up - _reach(self.up, self.down)
        left = max(self._left, needed // self.down * self.down)
        self._kept, self._left = self._kept[left - self._left :], left
        return out


def _reach(up: int, down: int) -> int:
    """Input samples on each side of an output sample that affect it."""
    return math.ceil(ZEROS / min(1.0, up / down)) + 1


@cache
def _filter(up: int, down: int) -> tuple[NDArray[np.float64], int]:
    """Weights at ``up`` times the input rate, and the number of outputs before the first one."""
    # The table of the windowed sinc, and the slopes between its entries.
    table = ROLL_OFF * np.sinc(ROLL_OFF * np.linspace(0, ZEROS, ENTRIES * ZEROS + 1))
    table *= np.kaiser(2 * ENTRIES * ZEROS + 1, BETA)[ENTRIES * ZEROS :]
    scale = min(1.0, up / down)
    table *= scale
    slopes = np.append(np.diff(table), 0.0)
    step = int(scale * ENTRIES)
    reach = _reach(up, down)
    centre = reach * up

    # The weights of each phase: outputs that are phase / up samples after an input.
    weights = np.zeros(2 * centre + 1)
    for phase in range(up):
        fraction = scale * phase / up
        for distance, sign, first in ((fraction, 1, phase), (scale - fraction, -1, up - phase)):
            entry = int(distance * ENTRIES)
            i = np.arange((len(table) - entry) // step)
            weight = table[entry + i * step] + (distance * ENTRIES - entry) * slopes[entry + i * step]
            at = centre + sign * (first + i * up)
            inside = (at >= 0) & (at < len(weights))
            weights[at[inside]] += weight[inside]
    lead = -(-centre // down)
    return np.concatenate([np.zeros(lead * down - centre), weights]), lead
