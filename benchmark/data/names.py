"""How names of classes and samples are compared: lists, files and arrays spell the same name in different ways."""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """A name with each accent and its letter as one character, as most systems write it; Macs name files otherwise."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """What names have in common that differ only in upper and lower case, or in how accents are encoded."""
    return composed(unicodedata.normalize("NFD", name).casefold())


NO_FILE_NAME = "rename the class: a name with '..', or with nothing before, between or behind a '/', cannot name a file"


def is_file_name(name: str) -> bool:
    """Whether a file below a folder can have a name, which may name further folders: it leads nowhere else."""
    return "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))
