"""Loss terms that several methods share, against hand-computed values."""

from __future__ import annotations

import pytest
import torch

from methods.losses import distance_to


def test_the_mean_distance_is_the_plain_root_of_the_sum_of_squares() -> None:
    """Without an epsilon in the differences: 1e-6 per element would change these distances by up to 3 %."""
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64) * 1e-5
    assert distance_to(torch.zeros(2, 2, dtype=torch.float64), x).item() == pytest.approx(2.5e-5, rel=1e-15)


def test_equal_rows_have_distance_and_gradient_zero_without_changing_others() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    distance = distance_to(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), x)
    distance.backward()  # type: ignore[no-untyped-call]
    assert distance.item() == 2.5
    assert x.grad is not None
    assert torch.equal(x.grad, torch.tensor([[0.0, 0.0], [0.3, 0.4]]))
