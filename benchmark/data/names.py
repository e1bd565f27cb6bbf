"""Comparison of class and sample names, which lists, files and arrays spell in different ways."""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """A name with each accented letter as one character (NFC). macOS writes file names in two (NFD)."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """A form that is equal for names that differ only in case or in the encoding of accents."""
    return composed(unicodedata.normalize("NFD", name).casefold())


NO_FILE_NAME = "rename the class: a name with '..', or with nothing before or after a '/', cannot name a file"


def is_file_name(name: str) -> bool:
    """Whether a name, possibly with folders, is a valid file name that stays below its folder."""
    return "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))
