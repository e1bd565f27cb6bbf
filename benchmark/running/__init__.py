"""Runs benchmark jobs: planning, workers, records."""
