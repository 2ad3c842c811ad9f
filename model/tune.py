"""From a trained network to a fine-tuned one, as the paper does it: convert, distil, fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..common.errors import InputError
from .data import load
from .device import pick
from .evaluate import spread
from .finetune import FineTuning, adversary, finetune
from .layerwise import Distillation, distill_layers
from .recipes import Recipe
from .sinai import convert
from .trained import Trained

__all__ = ["tune"]


def tune(
    source: Trained,
    data_spec: str,
    out: Path,
    distillation: Distillation | None,
    tuning: FineTuning,
    *,
    attacker: Recipe,
    images: int | None = None,
    batch_norm: str = "fold",
    device: str = "auto",
    distilled: Callable[[int, int, float], None] | None = None,
    tuned: Callable[[int, int, float, float], None] | None = None,
) -> nn.Module:
    """Convert the network of `source`, distil its layers and fine-tune it; `out` gets ``net.pt``.

    Parameters
    ----------
    data_spec : str
        Data set as in :func:`sinai.model.data.load`; its training split is used.
    distillation : Distillation, optional
        None keeps the noise weights, and the folding, of a `source` that has some.
    out : Path
        Also keeps what an interrupted run goes on from.
    attacker : Recipe
        Whose adversary and numbers fine-tuning attacks with.
    images : int, optional
        Training images at most, spread evenly.
    batch_norm : {"fold", "keep"}
        As in :class:`sinai.model.switches.Switches`. Folded, the essential neurons are chosen as
        the accelerator chooses them.
    device : {"auto", "cpu", "cuda"}
    distilled, tuned : callable, optional
        Progress, as :func:`sinai.model.layerwise.distill_layers` and
        :func:`sinai.model.finetune.finetune` call it.

    Raises
    ------
    InputError
        If the data have other classes than the network, a number is out of range, or there are no
        noise weights to keep.
    """
    attack, said = adversary(attacker)
    chosen = load(data_spec, "train")
    if len(chosen.classes) != source.net.classes:
        raise InputError(
            f"{data_spec}: has {len(chosen.classes)} classes, the network has"
            f" {source.net.classes}; give the data set it was trained on"
        )
    chosen = chosen.take(spread(len(chosen), min(images or len(chosen), len(chosen))))
    pixels, labels = torch.from_numpy(chosen.images), torch.from_numpy(chosen.labels)
    device = pick(device)
    if distillation is None:
        if source.noisy is None:
            raise InputError(
                "network: has no noise weights yet; distil it for at least one epoch, or give a"
                " checkpoint"
            )
        net = source.noisy.to(device)
    else:
        net = convert(source.net, seed=tuning.seed, batch_norm=batch_norm).to(device)
        distill_layers(net, pixels, out, distillation, progress=distilled)
    return finetune(
        net,
        pixels,
        labels,
        out,
        tuning,
        attack=attack,
        attack_name=said,
        network=source.recipe.model,
        data=chosen.name,
        training=source.record,
        progress=tuned,
    )
