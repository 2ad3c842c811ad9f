"""The verb `sinai attack`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..common.errors import InputError
from .options import (
    Ratio,
    as_json,
    command_line,
    data_option,
    device_option,
    directory,
    force,
    need_torch,
    print_json,
    projection_option,
)
from .output import fresh_directory
from .progress import advance, bar

__all__ = ["VERBS"]

#: Attacks and schemes unless others are asked for: minutes for a small network on a CPU.
_ATTACKS = ("fgsm", "mifgsm", "pgd", "adaptive", "unbounded", "bpda", "transfer", "square")
_SCHEMES = ("dense", "unstructured:0.9", "structured:7:8")


def _number(option: str, default: int, text: str) -> Any:
    """An option that takes a whole number of at least 1."""
    return click.option(
        option, type=click.IntRange(1), default=default, show_default=True, help=text
    )


@click.command()
@click.argument("checkpoint", metavar="CHECKPOINT")
@data_option
@_number("--images", 100, "Images of the test split, spread evenly over it; all if it has fewer.")
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    help=f"Noise scheme. Repeatable; by default {', '.join(_SCHEMES)}.",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME",
    help="fgsm, mifgsm, pgd, cw, autoattack, eot, adaptive, unbounded, bpda, transfer, square or"
    " random; `all` for every one. Repeatable; by default all but random and the slow ones: cw,"
    " autoattack, eot.",
)
@click.option(
    "--eps",
    type=Ratio(),
    default="8/255",
    show_default=True,
    help="Largest change of a pixel in [0, 1].",
)
@click.option(
    "--step", type=Ratio(), default="2/255", show_default=True, help="Step of PGD and its like."
)
@_number("--steps", 20, "Steps of PGD and its like.")
@_number("--queries", 5000, "Of Square, alone and within AutoAttack, and of random.")
@_number("--autoattack-steps", 20, "Of APGD and FAB; officially 100.")
@_number("--cw-steps", 1000, "Of C&W.")
@click.option(
    "--cw-c",
    type=click.FloatRange(0, min_open=True),
    default=1e-4,
    show_default=True,
    help="Weight of misclassification in C&W: at 1e-4, the paper's, it is nearly no attack; try 1.",
)
@_number("--eot", 20, "Forward passes whose losses are averaged.")
@click.option(
    "--noise-weight",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Weight of the distance from the exact outputs in the adaptive attack.",
)
@click.option(
    "--pool",
    is_flag=True,
    help="Attack the randomised network that draws one of both fitted P for each forward pass.",
)
@projection_option
@_number("--batch", 50, "Images at a time. What is done is kept batch by batch.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all draws.")
@device_option
@directory()
@force
@as_json
def attack(
    checkpoint: str,
    data: str,
    images: int,
    schemes: tuple[str, ...],
    attacks: tuple[str, ...],
    pool: bool,
    projection: str,
    batch: int,
    seed: int,
    device: str,
    output: Path,
    force: bool,
    as_json: bool,
    **numbers: Any,
) -> None:
    """Attack a network under noise schemes and measure its robust accuracy.

    CHECKPOINT is a directory of `sinai distill`, the name of a bundled checkpoint, a directory of
    `sinai finetune` or its net.pt under any name, or a directory of `sinai train`, which has no
    noise but that of a defence, and runs dense alone.
    Every attack by gradient runs twice: with straight-through gradients, and as in the paper, with
    the zero gradient of rounding. The worst case is the minimum over both, and in the last row over
    all bounded attacks, image by image: believe that one. cw and unbounded may leave the bound and
    are not in it.

    DIR gets robustness.md and robustness.csv (the table) and robustness.json (settings, seed,
    versions, data, and what became of every image). Interrupted, the same command goes on after the
    last batch.

    \b
    Examples:
      sinai attack tiny --data imagefolder:cifar10 -o robust
      sinai attack tiny --data imagefolder:cifar10 --attack all --queries 500 --images 50 -o robust
      sinai attack tiny --data imagefolder:cifar10 --attack pgd --attack eot --pool -o randomised
    """
    need_torch("attack")
    from ..model.attacks import ATTACKS, Settings
    from ..model.data import load
    from ..model.robustness import measure, plan, write
    from ..model.sinai import layers_of

    net, described, classes = _network(checkpoint, projection, pool)
    given = click.get_current_context().get_parameter_source("projection")
    if given is not ParameterSource.DEFAULT and "projection" not in described:
        raise InputError(
            f"{checkpoint}: --projection needs a checkpoint, which has two forms of P; leave it out"
        )
    noisy = any(True for _ in layers_of(net))
    if not attacks or "all" in attacks:
        every = ATTACKS if attacks else _ATTACKS
        attacks = tuple(name for name in every if noisy or not ATTACKS[name].needs_layers)
    cells = plan(schemes or (_SCHEMES if noisy else ("dense",)), attacks)
    settings = Settings(**numbers)
    journal = output.absolute().with_name(f".{output.name}.attack")
    with (
        fresh_directory(output, marker="robustness.json", force=force) as aside,
        bar("attacking", "batch") as shown,
    ):
        test = load(data, "test")
        _check_classes(checkpoint, test.classes, classes)

        measured = measure(
            net,
            test,
            cells,
            count=min(images, len(test)),
            settings=settings,
            batch=batch,
            seed=seed,
            device=device,
            journal=journal,
            progress=lambda done, of: advance(shown, done, of),
        )
        record = {"schema_version": 1, "command": command_line(), **described, **measured}
        write(record, aside)
    journal.unlink(missing_ok=True)
    if as_json:
        print_json(record)
    else:
        click.echo(_text(record, output))


def _network(
    checkpoint: str, projection: str, pool: bool
) -> tuple[Any, dict[str, Any], tuple[str, ...] | int]:
    """The network, what the record says about it, and its classes: names, or how many."""
    from ..model.checkpoint import is_checkpoint, load
    from ..model.pool import Pool
    from ..model.trained import load_trained

    if not is_checkpoint(checkpoint):
        trained = load_trained(checkpoint)
        if pool:
            raise InputError(f"{checkpoint}: --pool needs a checkpoint, which has two forms of P")
        net = trained.net if trained.noisy is None else trained.noisy
        return net, {"checkpoint": trained.name, "made": trained.record}, net.classes
    loaded = load(checkpoint)
    described = {"checkpoint": loaded.name, "model_digest": loaded.digest}
    if pool:
        net = Pool(loaded.floating("patch"), 1, seed=0)
        net.members.append(loaded.floating("tap"))
        return net, {**described, "projection": "patch or tap"}, loaded.manifest.classes
    net = loaded.floating(projection)
    return net, {**described, "projection": projection}, loaded.manifest.classes


def _check_classes(checkpoint: str, data: tuple[str, ...], classes: tuple[str, ...] | int) -> None:
    """Labels must mean to the network what they mean in the data."""
    if isinstance(classes, int):
        if len(data) != classes:
            raise InputError(
                f"{checkpoint}: has {classes} classes, --data {len(data)}; give data of as many"
            )
    elif data != classes:
        raise InputError(
            f"{checkpoint}: its classes are {', '.join(classes)}, those of --data"
            f" {', '.join(data)}; give data of the same classes in the same order"
        )


def _text(record: dict[str, Any], output: Path) -> str:
    count = len(record["labels"])
    lines = [
        f"{record['checkpoint']} on {count} images of {record['data']},"
        f" eps {255 * record['settings']['eps']:.3g}/255",
        f"{'scheme':<20}{'attack':<14}{'clean':>8}{'straight':>10}{'as paper':>10}{'worst':>8}",
    ]
    for row in record["rows"]:
        cells = (row[name] for name in ("straight_through", "as_in_paper", "worst_case"))
        first, second, worst = (f"{100 * v:.1f} %" if v is not None else "-" for v in cells)
        lines.append(
            f"{row['scheme']:<20}{row['attack']:<14}{100 * row['clean']:>6.1f} %{first:>10}"
            f"{second:>10}{worst:>8}"
        )
    said = dict.fromkeys(remark for cell in record["cells"] for remark in cell["remarks"])
    lines += [f"AutoAttack remarks: {remark}" for remark in said]
    lines.append(f"written     {output}")
    return "\n".join(lines)


VERBS = (attack,)
