"""Readers of files from untrusted sources."""
