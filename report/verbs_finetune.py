"""The verb `sinai finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..common.errors import InputError
from .options import (
    Ratio,
    data_option,
    device_option,
    directory,
    need_torch,
    resume_option,
)
from .progress import advance, bar

__all__ = ["VERBS"]

_SCHEMES = ("unstructured:0.9", "structured:7:8")


@click.command()
@click.argument("trained", metavar="TRAINED")
@data_option
@click.option(
    "--images",
    type=click.IntRange(1),
    help="Training images, spread evenly; by default all.",
)
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    help="Noise scheme to tune for. Repeatable: schemes take turns, step by step, and one network"
    f" serves all; by default {' and '.join(_SCHEMES)}.",
)
@click.option(
    "--distill-epochs",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="Epochs in which every layer learns its 4-bit weights alone (Eq. 1 of the paper); 0 keeps"
    " those of a checkpoint or an earlier fine-tuning.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Epochs of fine-tuning, all parameters together (Algorithm 1 of the paper).",
)
@click.option(
    "--batch", type=click.IntRange(1), default=128, show_default=True, help="Images a step."
)
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw"]),
    default="sgd",
    show_default=True,
    help="Of fine-tuning; assumed, the paper names none.",
)
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    default=0.01,
    show_default=True,
    help="Learning rate of fine-tuning; likewise.",
)
@click.option(
    "--schedule",
    type=click.Choice(["constant", "cosine"]),
    default="constant",
    show_default=True,
    help="Whether the rate stays, or falls to zero along half a cosine.",
)
@click.option(
    "--mse-weight",
    type=click.FloatRange(0),
    default=0.1,
    show_default=True,
    help="Weight of the distance of noise from exact outputs.",
)
@click.option(
    "--reduction",
    type=click.Choice(["element", "mean", "sum"]),
    default="element",
    show_default=True,
    help="How that distance is averaged in a layer: over everything; over images and positions, as"
    " the norm of Eq. 1 asks; over images. The last two drown the loss of the task.",
)
@click.option(
    "--forward",
    type=click.Choice(["mixed", "accurate"]),
    default="mixed",
    show_default=True,
    help="What the loss of the task sees: outputs with noise, or without.",
)
@click.option(
    "--batch-norm",
    type=click.Choice(["fold", "keep"]),
    help="Fold batch-norms into the convolutions first, as the accelerator has them (the default),"
    " or let noise pass through them. Only with distillation; keep, only if they are not folded"
    " yet, as in a checkpoint.",
)
@click.option(
    "--adversary",
    type=click.Choice(["as-trained", "none", "pgd"]),
    default="as-trained",
    show_default=True,
    help="Attack each batch by PGD; as-trained does so if the network was trained against attacks.",
)
@click.option("--eps", type=Ratio(), help="Of PGD; by default as trained.")
@click.option("--attack-step", type=Ratio(), help="Likewise.")
@click.option("--attack-steps", type=click.IntRange(1), help="Likewise.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the order of the images and the attack, and with distillation of P.",
)
@device_option
@directory()
@resume_option
def finetune(
    trained: str,
    data: str,
    images: int | None,
    schemes: tuple[str, ...],
    distill_epochs: int,
    epochs: int,
    batch: int,
    optimizer: str,
    lr: float,
    schedule: str,
    mse_weight: float,
    reduction: str,
    forward: str,
    batch_norm: str | None,
    adversary: str,
    seed: int,
    device: str,
    output: Path,
    resume: bool,
    **changes: Any,
) -> None:
    """Convert a trained network, distil its 4-bit weights and fine-tune it, as the paper does.

    TRAINED is a directory that `sinai train` or `sinai finetune` wrote, of any network, the net.pt
    of the latter under any name, or a checkpoint. DIR gets net.pt, which `sinai attack` takes, and
    what an interrupted run goes on from with --resume. `sinai distill DIR` makes a checkpoint in
    the accelerator's integers with the tuned W and b; W~ and b~ it fits anew, so that accuracies
    under noise are not those of net.pt.

    \b
    Examples:
      sinai finetune trained --data imagefolder:cifar10 -o tuned
      sinai finetune robust --data imagefolder:cifar10 --scheme structured:7:8 --epochs 2 -o tuned
      sinai finetune resnet18-cifar10jpeg --data imagefolder:cifar10 --distill-epochs 0 -o tuned
      sinai attack tuned --data imagefolder:cifar10 -o attacked
    """
    need_torch("finetune")
    from dataclasses import replace

    from ..model.finetune import FineTuning
    from ..model.layerwise import Distillation
    from ..model.trained import load_trained
    from ..model.tune import tune

    if output.exists() and not resume:
        raise InputError(f"-o {output}: exists already; give another name, or --resume to go on")
    if resume and not output.is_dir():
        raise InputError(f"-o {output}: holds nothing to go on from; leave out --resume")
    recipe = FineTuning(
        schemes=schemes or _SCHEMES,
        epochs=epochs,
        batch=batch,
        optimizer=optimizer,
        lr=lr,
        schedule=schedule,
        mse_weight=mse_weight,
        reduction=reduction,
        forward=forward,
        seed=seed,
    )
    source = load_trained(trained)
    attacker = source.recipe
    if adversary != "as-trained":
        attacker = replace(attacker, adversary=adversary)
    attacker = replace(attacker, **{k: v for k, v in changes.items() if v is not None})
    with bar("distilling") as first, bar("fine-tuning") as second:
        tune(
            source,
            data,
            output,
            Distillation(epochs=distill_epochs, batch=batch, seed=seed) if distill_epochs else None,
            recipe,
            attacker=attacker,
            images=images,
            batch_norm=batch_norm,
            device=device,
            distilled=lambda done, of, loss: advance(first, done, of),
            tuned=lambda done, of, task, error: advance(second, done, of),
        )
    click.echo(f"{output}/net.pt: {source.recipe.model} tuned for {', '.join(recipe.schemes)}")


VERBS = (finetune,)
