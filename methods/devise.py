"""DeViSE: a linear map trained by the hinge losses of all wrong classes.

    L = mean over samples of sum over c != label of max(margin + F(x, c) - F(x, label), 0)

F: ``compatibility.py``. An image method on concatenated temporal means: our adaptation, like that of AVCA's
Table 2, whose code was not published.

Reference: Frome, Corrado, Shlens, Bengio, Dean, Ranzato, Mikolov: DeViSE: a deep visual-semantic embedding
model, NeurIPS 2013; formulation of Xian, Lampert, Schiele, Akata, TPAMI 2019, arXiv:1707.00600.
"""

from __future__ import annotations

from torch import Tensor

from benchmark.method import Field, register
from methods.compatibility import ADAPTED, Compatibility, CompatibilityConfig, violations

BIBTEX = """@inproceedings{frome2013devise,
  author    = {Frome, Andrea and Corrado, Greg S. and Shlens, Jonathon and Bengio, Samy and Dean, Jeffrey
               and Ranzato, Marc'Aurelio and Mikolov, Tomas},
  title     = {{DeViSE}: A Deep Visual-Semantic Embedding Model},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2013},
}"""


@register(
    "devise",
    title="DeViSE",
    paper="Frome, Corrado, Shlens, Bengio, Dean, Ranzato, Mikolov: DeViSE: a deep visual-semantic embedding "
    "model, NeurIPS 2013",
    bibtex=BIBTEX,
    inputs="mean",
    note=ADAPTED,
)
class Devise(Compatibility):
    """A linear map trained by pairwise ranking."""

    class Config(CompatibilityConfig):
        """Defaults: ours."""

        margin: float = Field(0.1, gt=0, description="margin by which the right class shall lead")

    def ranking_loss(self, scores: Tensor, label: Tensor) -> Tensor:
        """Sum of the hinge losses of all wrong classes."""
        return violations(scores, label, self.config.margin).sum(1).mean()
