"""Figures that jobs and reports draw."""
