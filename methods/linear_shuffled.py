"""Linear with shuffled class embeddings: each class has that of another one. A control.

What it reaches on seen classes needs no meaning of the class embeddings. On unseen classes it is at chance. A
method that is not above it there has not learnt from the class names.
"""

from __future__ import annotations

from benchmark.method import register
from methods.linear import BIBTEX, LinearSoftmax


@register(
    "linear_shuffled",
    title="Linear, shuffled",
    paper=LinearSoftmax.paper,
    bibtex=BIBTEX,
    inputs="mean",
    note="control: the baseline Linear with class embeddings given to other classes",
)
class LinearShuffled(LinearSoftmax):
    """The linear baseline without the meaning of class names."""

    control = "shuffled"
