"""Everything that decides a number."""
