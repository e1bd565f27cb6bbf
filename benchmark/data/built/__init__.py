"""Datasets that the project builds itself."""
