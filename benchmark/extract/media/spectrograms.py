"""Spectrograms as the published networks were trained on: log-mel patches (VGGish), log filterbanks (SeLaVi).

Waveforms are mono, at the rate of their network (``resampling.py``). Computed in float64.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.floating[Any]]

MEL_RATE, MEL_WINDOW, MEL_HOP, MEL_FFT = 16_000, 400, 160, 512
"""VGGish: samples a second, 25 ms windows every 10 ms, padded to a power of two."""
MEL_BANDS, MEL_LOW, MEL_HIGH, MEL_OFFSET = 64, 125.0, 7500.0, 0.01
PATCH = 96
"""Windows of a log-mel patch: 0.96 s."""
BANK_RATE, BANK_WINDOW, BANK_HOP, BANK_FFT, BANK_FILTERS = 44_100, 882, 441, 1024, 257
"""SeLaVi: samples a second, 20 ms windows every 10 ms."""
PREEMPHASIS = 0.97


def log_mel_patches(waveform: Waveform) -> NDArray[np.float32]:
    """Log-mel patches of VGGish, without overlap; an incomplete last one is dropped.

    Args:
        waveform: ``[samples]`` at 16 kHz, in -1 to 1.

    Returns:
        ``[N, 96, 64]``: windows by bands.
    """
    windows = np.lib.stride_tricks.sliding_window_view(waveform, MEL_WINDOW)[::MEL_HOP]
    n = len(windows) // PATCH
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / MEL_WINDOW * np.arange(MEL_WINDOW))  # periodic
    magnitudes = np.abs(np.fft.rfft(windows[: n * PATCH] * hann, MEL_FFT))
    log_mel = np.log(magnitudes @ _mel_bands() + MEL_OFFSET)
    return log_mel.reshape(n, PATCH, MEL_BANDS).astype(np.float32)


def _mel(hertz: Any) -> Any:
    return 1127.0 * np.log(1.0 + hertz / 700.0)


@cache
def _mel_bands() -> NDArray[np.float64]:
    """Triangles in mel, ``[frequencies, bands]``; frequency 0 belongs to none."""
    frequencies = _mel(np.linspace(0, MEL_RATE / 2, MEL_FFT // 2 + 1))
    edges = np.linspace(_mel(MEL_LOW), _mel(MEL_HIGH), MEL_BANDS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies[:, None] - low) / (centre - low)
    falling = (high - frequencies[:, None]) / (high - centre)
    bands: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    bands[0] = 0
    return bands


def log_filterbank(waveform: Waveform, filters: int = BANK_FILTERS) -> NDArray[np.float32]:
    """Log filterbank energies of one second, as python_speech_features computes them (rectangular windows).

    Args:
        waveform: ``[44100]`` at 44.1 kHz, in units of 16-bit samples.
        filters: triangles between 0 and 22.05 kHz.

    Returns:
        ``[filters, windows]``; a filter without energy has the log of float64's epsilon.
    """
    emphasised = np.append(waveform[:1], waveform[1:] - PREEMPHASIS * waveform[:-1])
    windows = np.lib.stride_tricks.sliding_window_view(emphasised, BANK_WINDOW)[::BANK_HOP]
    power = np.abs(np.fft.rfft(windows, BANK_FFT)) ** 2 / BANK_FFT
    energies = power @ _bank(filters)
    return np.log(np.where(energies == 0, np.finfo(float).eps, energies)).T.astype(np.float32)


@cache
def _bank(filters: int) -> NDArray[np.float64]:
    """Triangles between frequencies of the transform, ``[frequencies, filters]``; low ones may be empty."""
    top = 2595 * np.log10(1 + BANK_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, filters + 2) / 2595) - 1)
    edges = np.floor((BANK_FFT + 1) * hertz / BANK_RATE).astype(int)
    bank = np.zeros((BANK_FFT // 2 + 1, filters))
    for i, (low, centre, high) in enumerate(zip(edges[:-2], edges[1:-1], edges[2:], strict=True)):
        bank[low:centre, i] = (np.arange(low, centre) - low) / max(1, centre - low)
        bank[centre:high, i] = (high - np.arange(centre, high)) / max(1, high - centre)
    return bank
