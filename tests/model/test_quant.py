"""Levels by hand, and the gradient that passes through them."""

import torch

from sinai.model.quant import levels, round_half_up, to_grid, weight_scale


def test_ties_go_up():
    assert round_half_up(torch.tensor([-1.5, -0.5, 0.5, 1.5])).tolist() == [-1.0, 0.0, 1.0, 2.0]


def test_levels_by_hand():
    """Step 0.5: 0.24 is nearer to 0, 0.25 ties up to 1; 9 and -9 meet the limits."""
    x = torch.tensor([-9.0, -0.6, 0.24, 0.25, 9.0])
    assert levels(x, 0.5, -8, 7).tolist() == [-8.0, -1.0, 0.0, 1.0, 7.0]
    assert to_grid(x, 0.5, -8, 7).tolist() == [-4.0, -0.5, 0.0, 0.5, 3.5]
    assert levels(x, 0.5, 0, 15).tolist() == [0.0, 0.0, 0.0, 1.0, 15.0]


def test_gradient_passes_inside_the_range_only():
    x = torch.tensor([-9.0, 0.3, 9.0], requires_grad=True)
    to_grid(x, 0.5, -8, 7).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_weight_scale_maps_the_largest_of_each_channel_to_seven():
    weight = torch.tensor([[[-14.0, 2.0]], [[0.0, 0.7]]])
    assert torch.allclose(weight_scale(weight), torch.tensor([2.0, 0.1]))
