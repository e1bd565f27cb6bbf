"""Where the project is, and the reference data beside it."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("GZSL_SHARED", PROJECT.parent / "shared"))
