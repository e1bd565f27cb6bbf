"""Build the datasets that need no download."""
