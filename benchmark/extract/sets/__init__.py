"""The extractors that ship with the project, one file each, found by being in this folder."""
