"""Where the files lie that ship beside the code: data set cards, search spaces, published numbers."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "shipped"
"""Holds in an installed package what lies beside the package in a checkout (``pyproject.toml`` maps one to the other)."""


def shipped(*parts: str) -> Path:
    """A folder that ships with the project, such as ``shipped("reports", "published")``."""
    return (INSTALLED if INSTALLED.is_dir() else PACKAGE.parent).joinpath(*parts)
