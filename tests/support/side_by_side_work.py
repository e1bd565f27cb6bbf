"""Work that a test gives to other processes, which must be able to import it."""

from __future__ import annotations

import os


def process_and_square(number: int) -> tuple[int, int]:
    """Whose process did it, and the square."""
    return os.getpid(), number * number
