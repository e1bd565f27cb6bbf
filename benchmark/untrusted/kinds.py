"""Recognises a file of the wrong kind by its first bytes: a web page, an archive, a pointer to a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmark.system.files import check_file, raise_outside

START_BYTES = 512
FETCH_AGAIN = "fetch or extract it again"
FETCH_TRUSTED = (
    "if it is your own, write plain data (lists, texts, numpy arrays); "
    "else fetch it again from a source you trust"
)
_UNPACK = "unpack it first"
_NO_FEATURES = "fetch the file itself, or keep files that are no features out of the folder"
_FORMAT = "write it as in the user guide (docs/reference/official-layout.md)"


@dataclass(frozen=True)
class Foreign:
    """A kind of file, and what to do with such a file in the wrong place."""

    what: str
    fix: str
    """What to do if it is in place of a class file."""
    packed: bool = False
    """Whether it may contain the wanted file or point to it. Then ``fix`` applies in place of any file."""

    def fix_for(self, wanted: str | None) -> str:
        """What to do with the file.

        Args:
            wanted: the fix if something else than a class file is wanted; None for a class file.
        """
        return self.fix if wanted is None or self.packed else wanted


_STARTS: tuple[tuple[bytes, Foreign], ...] = (
    (b"\x1f\x8b", Foreign("compressed with gzip", f"{_UNPACK} (gunzip)", packed=True)),
    (b"BZh", Foreign("compressed with bzip2", f"{_UNPACK} (bunzip2)", packed=True)),
    (b"\xfd7zXZ\x00", Foreign("compressed with xz", f"{_UNPACK} (unxz)", packed=True)),
    (b"\x28\xb5\x2f\xfd", Foreign("compressed with Zstandard", f"{_UNPACK} (unzstd)", packed=True)),
    (b"\x04\x22\x4d\x18", Foreign("compressed with LZ4", f"{_UNPACK} (unlz4)", packed=True)),
    (b"7z\xbc\xaf\x27\x1c", Foreign("a 7-Zip archive", _UNPACK, packed=True)),
    (b"Rar!\x1a\x07", Foreign("a RAR archive", _UNPACK, packed=True)),
    (
        b"version https://git-lfs",
        Foreign("a pointer of Git LFS, not the file itself", "fetch it: git lfs pull", packed=True),
    ),
    (
        b"\x89HDF\r\n\x1a\n",
        Foreign("an HDF5 file", "give temporal means as .h5 files, and sequences as pickled .pkl files"),
    ),
    (b"\x93NUMPY", Foreign("a .npy file of numpy", _FORMAT)),
    (b"MATLAB 5.0 MAT-file", Foreign("a MATLAB file", _FORMAT)),
    (b"%PDF-", Foreign("a PDF document", _NO_FEATURES)),
    (b"\x89PNG\r\n", Foreign("a PNG image", _NO_FEATURES)),
    (b"\xff\xd8\xff", Foreign("a JPEG image", _NO_FEATURES)),
    (b"\x1aE\xdf\xa3", Foreign("a Matroska or WebM video", _NO_FEATURES)),
    (b"PAR1", Foreign("a Parquet file", _FORMAT)),
)
_TORCH = Foreign(
    "a file of torch.save",
    "load it with torch, turn its tensors into arrays (x.float().numpy()) and write it with pickle.dump",
)
_TORCH_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The number at the start of files of ``torch.save`` before they were zip archives."""
_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_TEXT_PICKLE = re.compile(rb"[(\]}]|c[\w.]+\n\w+\n")
"""Starts of pickles of protocol 0, which are text."""
_ANNEX = re.compile(rb"[./]*(?:\.git)?/annex/objects/")


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file, which show its kind.

    Raises:
        OutsideError, Unavailable: the system cannot read it.
    """
    check_file(path)
    try:
        with open(path, "rb") as file:
            return file.read(START_BYTES)
    except OSError as error:
        raise_outside(error, path)
        raise


def known_kind(start: bytes) -> Foreign | None:
    """The kind of a file that is certainly no pickle; None if it may be one.

    Args:
        start: its first ``START_BYTES``.
    """
    for beginning, kind in _STARTS:
        if start.startswith(beginning):
            return kind
    if start.startswith(_TORCH_OLD) or (start.startswith(b"PK\x03\x04") and b"/data.pkl" in start[:200]):
        return _TORCH
    if start.startswith(b"PK\x03\x04") and b".npy" in start[:100]:
        return Foreign("a .npz archive of numpy", _FORMAT)
    if start.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in start[:100]:
        return Foreign("a document of an office program, such as a spreadsheet", _NO_FEATURES)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Foreign("a zip archive", f"{_UNPACK} (unzip)", packed=True)
    if start[257:262] == b"ustar":
        return Foreign("a tar archive", f"{_UNPACK} (tar -xf)", packed=True)
    if start[4:8] == b"ftyp":
        return Foreign("an MP4 or QuickTime video", _NO_FEATURES)
    if start.startswith(b"RIFF") and start[8:12] in (b"AVI ", b"WAVE"):
        return Foreign("an AVI video or WAVE audio", _NO_FEATURES)
    if _PAGE.match(start):
        return Foreign(
            "a web page", "open it to see why, then download the file: some sites ask to confirm", packed=True
        )
    if _ANNEX.match(start):
        return Foreign(
            "a pointer of git-annex, not the file itself", "fetch the file itself: git annex get", packed=True
        )
    return None


def likely_kind(start: bytes) -> Foreign | None:
    """The kind of a file that a reader failed on: one of ``known_kind``, an empty file, or plain text."""
    if not start:
        return Foreign("an empty file", FETCH_AGAIN, packed=True)
    if not start.strip(b"\0"):
        return Foreign(
            "nothing but zero bytes at its beginning, as interrupted downloads have", FETCH_AGAIN, packed=True
        )
    text = _is_text(start) and not _TEXT_PICKLE.match(start)
    return known_kind(start) or (Foreign(f"plain text ({_shown(start)})", _NO_FEATURES) if text else None)


def _is_text(start: bytes) -> bool:
    """Whether the bytes are readable text. The last character may be cut off."""
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:
            return False
        text = start[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\r\n\t\f\ufeff" for c in text)


def _shown(start: bytes) -> str:
    return repr(start.decode("utf-8", "ignore").split("\n")[0][:40])
