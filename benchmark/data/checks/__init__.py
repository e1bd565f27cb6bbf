"""Checks of feature files and lists."""
