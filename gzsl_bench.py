"""The command ``gzsl-bench``: starts the packages that were installed with it, whatever else has their names.

This module's own name is taken by nobody else; ``benchmark`` and ``methods`` may also be names of folders on
``PYTHONPATH``.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = ("benchmark", "methods")


def main() -> None:
    """Run the command line."""
    if any(_place(name) != HERE / name for name in PACKAGES):
        sys.path.insert(0, str(HERE))  # other processes of a call get this path too
    for name in PACKAGES:
        if _place(name) != HERE / name:
            sys.stderr.write(
                f"gzsl-bench: error: Python takes {_place(name)} for the package {name!r} of gzsl-bench, "
                f"which is in {HERE}; "
                "remove its folder from PYTHONPATH\n"
            )
            sys.exit(2)
    from benchmark.cli.app import main as run

    run()


def _place(name: str) -> Path | None:
    """The folder or file of what Python takes for a package."""
    try:
        spec = find_spec(name)
    except ValueError:  # it was made by hand
        return None
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin).resolve()
    return origin.parent if origin.name == "__init__.py" else origin


if __name__ == "__main__":
    main()
