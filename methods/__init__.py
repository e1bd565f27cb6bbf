"""The compared methods: one file each, found by their ``@register`` line.

``blocks.py`` holds layers and ``losses.py`` loss terms that several methods share. Nothing here knows a data set or a
mode; a method imports ``benchmark.method``, these two files and torch.
"""
