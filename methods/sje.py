"""SJE: a linear map trained by the hinge loss of the worst wrong class.

    L = mean over samples of max over c != label of max(margin + F(x, c) - F(x, label), 0)

F: ``compatibility.py``. An image method on concatenated temporal means: our adaptation, like that of AVCA's
Table 2, whose code was not published.

Reference: Akata, Reed, Walter, Lee, Schiele: Evaluation of output embeddings for fine-grained image
classification, CVPR 2015, arXiv:1409.8403.
"""

from __future__ import annotations

from torch import Tensor

from benchmark.method import Field, register
from methods.compatibility import ADAPTED, Compatibility, CompatibilityConfig, violations

BIBTEX = """@inproceedings{akata2015evaluation,
  author    = {Akata, Zeynep and Reed, Scott and Walter, Daniel and Lee, Honglak and Schiele, Bernt},
  title     = {Evaluation of Output Embeddings for Fine-Grained Image Classification},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2015},
}"""


@register(
    "sje",
    title="SJE",
    paper="Akata, Reed, Walter, Lee, Schiele: Evaluation of output embeddings for fine-grained image "
    "classification, CVPR 2015",
    bibtex=BIBTEX,
    inputs="mean",
    note=ADAPTED,
)
class Sje(Compatibility):
    """A linear map trained by structured ranking."""

    class Config(CompatibilityConfig):
        """Defaults: ours."""

        margin: float = Field(1.0, gt=0, description="margin by which the right class shall lead")

    def ranking_loss(self, scores: Tensor, label: Tensor) -> Tensor:
        """The largest hinge loss of a wrong class."""
        return violations(scores, label, self.config.margin).amax(1).mean()
