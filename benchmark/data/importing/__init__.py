"""Importers of published features."""
