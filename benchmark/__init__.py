"""The harness: data, protocol, training, evaluation, tuning, tracking, reports. It names no method and no
dataset."""

__version__ = "0.1.0"
