"""From a trained network to a fine-tuned one, as the paper does it: convert, distil, fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.errors import InputError
from .data import load
from .device import pick
from .evaluate import spread
from .finetune import FineTuning, adversary, check_folder, finetune
from .layerwise import Distillation, distill_layers
from .nets import build
from .recipes import Recipe
from .sinai import convert
from .trained import Trained
from .weights import digest

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
    batch_norm: str | None = None,
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
        Also keeps what an interrupted run goes on from. The record of ``net.pt`` says of this
        tuning (:func:`sinai.model.finetune.finetune`) name and digest of `source`, data, attack and
        distillation, ``kept`` if there was none; and what was done to `source` before.
    attacker : Recipe
        Whose adversary and numbers fine-tuning attacks with.
    images : int, optional
        Training images at most, spread evenly.
    batch_norm : {"fold", "keep"}, optional
        As in :class:`sinai.model.switches.Switches`; by default ``fold``, with which the essential
        neurons are chosen as the accelerator chooses them. Not with noise weights that are kept,
        and not ``keep`` once they are folded.
    device : {"auto", "cpu", "cuda"}
    distilled, tuned : callable, optional
        Progress, as :func:`sinai.model.layerwise.distill_layers` and
        :func:`sinai.model.finetune.finetune` call it.

    Raises
    ------
    InputError
        If the network has a defence, the data have other classes, a number is out of range, there
        are no noise weights or batch-norms to keep, or `out` holds the state of something else.
    """
    attack, said = adversary(attacker)
    device = pick(device)
    _check_source(source, distillation, batch_norm)
    chosen = load(data_spec, "train")
    if len(chosen.classes) != source.net.classes:
        raise InputError(
            f"{data_spec}: has {len(chosen.classes)} classes, the network has"
            f" {source.net.classes}; give the data set it was trained on"
        )
    chosen = chosen.take(spread(len(chosen), min(images or len(chosen), len(chosen))))
    pixels, labels = torch.from_numpy(chosen.images), torch.from_numpy(chosen.labels)
    told = _told(source) | {
        "data": chosen.name,
        "attack": said,
        "distillation": "kept" if distillation is None else asdict(distillation),
    }
    hashed = digest(pixels)
    check_folder(out, tuning, labels, told, hashed)  # before distillation, which takes long
    if distillation is None:
        net = source.noisy.to(device)
    else:
        net = convert(source.net, seed=tuning.seed, batch_norm=batch_norm or "fold").to(device)
        distill_layers(net, pixels, out, distillation, images_digest=hashed, progress=distilled)
    return finetune(
        net,
        pixels,
        labels,
        out,
        tuning,
        attack=attack,
        network=source.recipe.model,
        told=told,
        training={name: v for name, v in source.record.items() if name != "measured"},
        images_digest=hashed,
        progress=tuned,
    )


def _check_source(
    source: Trained, distillation: Distillation | None, batch_norm: str | None
) -> None:
    if source.recipe.defence != "none":
        raise InputError(
            f"{source.name}: is trained with the noise of {source.recipe.defence}, which has no"
            " place in net.pt; give a network of defence none"
        )
    if not isinstance(source.record.get("finetuning", []), list):
        raise InputError(
            f"{source.name}: its record of fine-tuning is of an earlier version of sinai; fine-tune"
            " the network of `sinai train` anew, and give that"
        )
    if distillation is None and source.noisy is None:
        raise InputError(
            f"{source.name}: has no noise weights yet; distil it for at least one epoch, or give a"
            " checkpoint"
        )
    if distillation is None and batch_norm is not None:
        raise InputError(
            f"batch_norm: the noise weights of {source.name} are kept, and batch-norms with them as"
            f" they are; leave {batch_norm!r} out, or distil for at least one epoch"
        )
    if batch_norm == "keep":
        with torch.device("meta"):  # only its modules are counted
            whole = build(source.recipe.model, source.net.classes)
        if _batch_norms(source.net) < _batch_norms(whole):
            raise InputError(
                f"batch_norm: those of {source.name} are folded already, so 'keep' has none to"
                " keep; leave it out, or give the directory of `sinai train`"
            )


def _batch_norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def _told(source: Trained) -> dict[str, Any]:
    """What a record says of the network that was tuned. What was measured on it is its own."""
    measured = {"measured": source.record["measured"]} if "measured" in source.record else {}
    return {"source": {"name": source.name, "digest": source.digest} | measured}
