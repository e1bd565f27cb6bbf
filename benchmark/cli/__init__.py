"""The command line: a file for each group of commands. ``main`` starts it."""

from benchmark.cli.app import main

__all__ = ["main"]
