"""Which neurons are essential: masks from approximate values (paper, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.scheme import Scheme

__all__ = ["ranks", "score_of", "select", "threshold_of"]


def score_of(z: Tensor, score: str) -> Tensor:
    """What ranks the neurons of z: ``value``, ``abs``, ``random`` or ``inverse``; shape of `z`.

    ``random`` draws from PyTorch's generator of the device.
    """
    if score == "abs":
        return z.abs()
    if score == "inverse":
        return -z
    return torch.rand_like(z) if score == "random" else z


def ranks(z: Tensor, group: int) -> Tensor:
    """Rank of every value in its group of `group` consecutive channels; z (B, C, ...).

    0 is the largest; of equal values the lower channel ranks first. The last group may be partial.
    """
    batch, channels = z.shape[:2]
    flat = z.reshape(batch, channels, -1)
    flat = F.pad(flat, (0, 0, 0, -channels % group), value=-torch.inf)
    grouped = flat.view(batch, -1, group, flat.shape[-1])
    rank = torch.zeros_like(grouped, dtype=torch.int8 if group < 128 else torch.int32)
    for j in range(group):
        rival = grouped[:, :, j : j + 1]
        rank[:, :, :j] += rival > grouped[:, :, :j]
        rank[:, :, j + 1 :] += rival >= grouped[:, :, j + 1 :]
    return rank.view(flat.shape)[:, :channels].reshape(z.shape)


def threshold_of(z: Tensor, count: int) -> Tensor:
    """The `count`-th largest value of every row; z (rows, n), count in 1..n -> (rows, 1)."""
    return z.kthvalue(z.shape[1] - count + 1, dim=1, keepdim=True).values


def select(
    z: Tensor,
    scheme: Scheme,
    *,
    threshold: str = "sample",
    axis: str = "channel",
    theta: Tensor | None = None,
) -> Tensor:
    """Essential neurons by scores z (B, C, ...), as a mask of the same shape.

    Parameters
    ----------
    scheme : Scheme
        Unstructured: those at or above the K-th largest score, K = round((1 - r) n), so ties add.
        Structured: the N largest of every group.
    threshold : {"sample", "position", "static"}
        Unstructured: the n neurons of an image, of one position, or scores >= `theta`.
    axis : {"channel", "position"}
        Structured: groups are consecutive channels at a position, or consecutive positions
        (row-major) of a channel.
    theta : Tensor, optional
        The fixed threshold of ``static``, a scalar.
    """
    if scheme.dense:
        return torch.ones_like(z, dtype=torch.bool)
    flat = z.reshape(*z.shape[:2], -1)  # (B, C, P)
    if scheme.structured:
        if axis == "position":
            rank = ranks(flat.transpose(1, 2), scheme.group).transpose(1, 2)
        else:
            rank = ranks(flat, scheme.group)
        return (rank < scheme.essential_of_group).reshape(z.shape)
    if threshold == "static":
        return z >= theta
    rows = flat.transpose(1, 2).flatten(0, 1) if threshold == "position" else flat.flatten(1)
    count = scheme.essential_count(rows.shape[1])
    if count == 0:
        return torch.zeros_like(z, dtype=torch.bool)
    mask = rows >= threshold_of(rows, count)
    if threshold == "position":
        mask = mask.view(flat.shape[0], flat.shape[2], -1).transpose(1, 2)
    return mask.reshape(z.shape)
