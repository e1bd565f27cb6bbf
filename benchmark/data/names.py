"""Comparison of class and sample names, which lists, files and arrays spell in different ways."""

from __future__ import annotations

import re
import unicodedata


def composed(name: str) -> str:
    """A name with each accented letter as one character (NFC). macOS writes file names in two (NFD)."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """A form that is equal for names that differ only in case or in the encoding of accents."""
    return composed(unicodedata.normalize("NFD", name).casefold())


def made_up_id(split: str, class_name: str, index: int) -> str:
    """The id of a sample whose name is unknown: its split, its class, and its index in the class file."""
    return f"{split}/{class_name}/{index:05d}"


_MADE_UP = re.compile(r"stage_[12]_[a-z_]+/.+/\d{5,}")


def is_made_up(sample: str) -> bool:
    """Whether an id is one of ``made_up_id``, so that the source video of its sample is unknown."""
    return _MADE_UP.fullmatch(sample) is not None


NO_FILE_NAME = "rename the class: a name with '..', or with nothing before or after a '/', cannot name a file"


def is_file_name(name: str) -> bool:
    """Whether a name, possibly with folders, is a valid file name that stays below its folder."""
    return "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))
