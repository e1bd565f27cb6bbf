"""The compared methods: one file each, found by their ``@register`` line.

Several methods share the layers of ``blocks.py`` and the loss terms of ``losses.py``. No method depends on a
dataset or a mode. A method imports ``benchmark.method``, these two files and torch. Two are controls, which
have to be at chance: ``chance.py`` and ``linear_shuffled.py``.
"""
