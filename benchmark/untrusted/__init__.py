"""Readers of files from strangers."""
