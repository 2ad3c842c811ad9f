"""The verbs of the model side: train, distill, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..common.errors import InputError
from .options import (
    ModelOption,
    Ratio,
    as_json,
    data_option,
    device_option,
    directory,
    force,
    need_torch,
    print_json,
    projection_option,
    resume_option,
)
from .output import fresh_directory
from .progress import advance, bar

__all__ = ["VERBS"]


class _Sides(click.ParamType):
    """Whole numbers with commas between them."""

    name = "sides"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = value.split(",")
        if not all(word.strip().isdecimal() and 8 <= int(word) <= 1024 for word in words):
            self.fail(f"{value!r}: give sides of 8 to 1024 pixels, such as 16,24,32", param, ctx)
        return tuple(int(word) for word in words)


_RECIPES = ("clean", "fast", "rice", "imagenet")


@click.command()
@click.option(
    "--recipe",
    type=click.Choice(_RECIPES),
    default="clean",
    show_default=True,
    help="What the options below start from. clean: six epochs of growing images, no attacks. fast:"
    " 30 epochs on images that one gradient step has attacked. rice: the paper's, 200 epochs of"
    " PGD-10, the best epoch kept. imagenet: the paper's for ImageNet, 90 epochs of PGD-2.",
)
@click.option("--model", cls=ModelOption, default=None, help="Network to train.")
@data_option
@click.option(
    "--resolutions",
    type=_Sides(),
    metavar="N,N,...",
    help="Side of the training images in pixels, one number an epoch.",
)
@click.option(
    "--epochs", type=click.IntRange(1), help="Epochs, all at the recipe's last resolution."
)
@click.option("--batch", type=click.IntRange(1), help="Images a step.")
@click.option("--peak-lr", type=click.FloatRange(0, min_open=True), help="Largest learning rate.")
@click.option(
    "--adversary",
    type=click.Choice(["none", "fgsm", "pgd"]),
    help="What attacks each batch: one gradient step from a random start (N-FGSM), or PGD.",
)
@click.option("--eps", type=Ratio(), help="Largest change of a pixel in [0, 1], such as 8/255.")
@click.option("--attack-step", type=Ratio(), help="Step of PGD.")
@click.option("--attack-steps", type=click.IntRange(1), help="Steps of PGD.")
@click.option(
    "--validation",
    type=click.IntRange(0),
    help="Training images held out to choose the epoch by, under PGD; 0 takes the last.",
)
@click.option(
    "--defence",
    type=click.Choice(["none", "pni", "l2p", "rpf"]),
    help="Noise of another paper to train with: the baselines.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Of the weights, the order of the images, the augmentation and the adversary.",
)
@device_option
@directory()
@resume_option
def train(
    recipe: str,
    data: str,
    epochs: int | None,
    device: str,
    output: Path,
    resume: bool,
    **changes: Any,
) -> None:
    """Train a network from scratch, on clean images or against attacks.

    DIR gets state.pt, from which an interrupted run goes on with --resume, and record.json, which
    says how it was made. `sinai distill` makes a checkpoint of it.

    \b
    Examples:
      sinai train --data imagefolder:cifar10 -o trained
      sinai train --recipe fast --data imagefolder:cifar10 -o robust
      sinai train --recipe rice --model wrn34_10 --data cifar10:cifar-10-batches-py -o wide
    """
    need_torch("train")
    from dataclasses import replace

    from ..model.data import load
    from ..model.recipes import RECIPES
    from ..model.train import train as run_training

    if output.exists() and not resume:
        raise InputError(f"-o {output}: exists already; give another name, or --resume to go on")
    if resume and not (output / "state.pt").exists():
        raise InputError(f"-o {output}: holds no state.pt to go on from; leave out --resume")
    base = RECIPES[recipe]
    changes = {name: value for name, value in changes.items() if value is not None}
    if epochs is not None:
        if "resolutions" in changes:
            raise InputError("--epochs and --resolutions: give one of them, not both")
        changes["resolutions"] = base.resolutions[-1:] * epochs
    chosen = replace(base, **changes)
    images = load(data, "train")
    with bar("training") as shown:

        def show(done: int, steps: int, loss: float, hit: float) -> None:
            advance(shown, done, steps)
            shown.set_postfix(loss=f"{loss:.3f}", accuracy=f"{hit:.2f}", refresh=False)

        run_training(chosen, images, output, progress=show, device=device)
    record = json.loads((output / "record.json").read_text(encoding="utf-8"))
    click.echo(f"{output}: {chosen.model} trained on {record['images']} images of {record['data']}")


@click.command()
@click.argument("trained", metavar="TRAINED", type=click.Path(path_type=Path))
@data_option
@click.option(
    "--images", default=10_000, show_default=True, help="Training images to distil on, at most."
)
@click.option(
    "--noise-images",
    default=1000,
    show_default=True,
    help="Of them, images whose activations under noise are fitted, too; at most as many as fit"
    " into 5 GiB.",
)
@click.option(
    "--weight-bits",
    default=16,
    show_default=True,
    help="Bits of the exact path's weights, 2 to 16. The hardware has 16 in any case; with 8 the"
    " files take less than half.",
)
@click.option("--seed", default=0, show_default=True, help="Of P and of the sample of images.")
@device_option
@directory()
@force
def distill(
    trained: Path,
    data: str,
    images: int,
    noise_images: int,
    weight_bits: int,
    seed: int,
    device: str,
    output: Path,
    force: bool,
) -> None:
    """Make a SINAI checkpoint of a trained network.

    TRAINED is a directory that `sinai train` or `sinai finetune` wrote, state.pt of the first or
    net.pt of the second, or a checkpoint. Scales are calibrated, the 4-bit noise weights of every
    layer are fitted to the frozen network's own activations, and everything is written in inference
    precision: DIR gets checkpoint.json and part-*.npz. Noise weights that TRAINED has, fine-tuned
    or not, are not taken: those of DIR, and accuracies under noise, are others. Integers exist for
    residual networks, not for vision transformers. Interrupted, the same command goes on with what
    it kept, every five minutes, in a file beside DIR.

    \b
    Examples:
      sinai distill trained --data imagefolder:cifar10 -o checkpoint
      sinai distill wide --data imagefolder:cifar10 --images 2000 --weight-bits 8 -o checkpoint
    """
    need_torch("distill")
    from ..model.distill import distill as make

    state = output.absolute().with_name(f".{output.name}.distill")
    with (
        fresh_directory(output, marker="checkpoint.json", force=force) as aside,
        bar("distilling") as shown,
    ):
        make(
            trained,
            data,
            aside,
            images=images,
            noise_images=noise_images,
            weight_bits=weight_bits,
            seed=seed,
            device=device,
            state=state,
            progress=lambda done, of: advance(shown, done, of),
        )
    state.unlink(missing_ok=True)
    click.echo(f"{output}: checkpoint of {trained}")


@click.command()
@click.argument("checkpoint", metavar="CHECKPOINT")
@data_option
@click.option(
    "--images",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="Images of the test split, spread evenly over it; all if it has fewer.",
)
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    help="Noise scheme, such as structured:7:8. Repeatable; by default dense, unstructured:0.5 and"
    " 0.9, structured:4:8 and 7:8.",
)
@projection_option
@as_json
def evaluate(
    checkpoint: str,
    data: str,
    images: int,
    schemes: tuple[str, ...],
    projection: str,
    as_json: bool,
) -> None:
    """Measure the accuracy of a checkpoint under noise schemes.

    CHECKPOINT is a directory or the name of a bundled one. Accuracy is given in floating point, of
    the fake-quantised network (PyTorch with every rounding of the accelerator) and in the
    accelerator's integers, with the share of images on which the first two agree with the integers.

    \b
    Example:
      sinai evaluate checkpoint --data imagefolder:cifar10 --images 500 --scheme structured:7:8
    """
    need_torch("evaluate")
    from ..model.checkpoint import load
    from ..model.data import load as load_data
    from ..model.evaluate import SCHEMES, accuracy_table

    loaded = load(checkpoint)
    test = load_data(data, "test")
    with bar("evaluating") as shown:
        rows = accuracy_table(
            loaded,
            test,
            min(images, len(test)),
            schemes or SCHEMES,
            projections=(projection,),
            progress=lambda done, of: advance(shown, done, of),
        )
    if as_json:
        print_json(rows)
        return
    click.echo(
        f"{'scheme':<20}{'images':>8}{'floating':>10}{'fake-quantised':>16}{'integer':>10}"
        f"{'agree':>8}{'agree':>8}"
    )
    for row in rows:
        click.echo(
            f"{row['scheme']:<20}{row['images']:>8}{row['floating']:>10.4f}"
            f"{row['fake_quantised']:>16.4f}{row['integer']:>10.4f}{row['agreement']:>8.4f}"
            f"{row['fake_agreement']:>8.4f}"
        )


VERBS = (train, distill, evaluate)
