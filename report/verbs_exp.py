"""The verb `sinai exp`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..common.errors import InputError
from .options import (
    as_json,
    command_line,
    device_option,
    force,
    need_torch,
    print_json,
)
from .output import fresh_directory

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VERBS"]

#: Keys of :data:`sinai.model.exp_plan.EXPERIMENTS`, which is not loaded for a help text.
_NAMES = (*(f"table{number}" for number in range(1, 13)), "fig3", "fig4", "masking")


@click.command()
@click.argument("name", metavar="NAME", type=click.Choice(_NAMES))
@click.option(
    "--scale",
    type=click.Choice(["tiny", "full"]),
    required=True,
    help="tiny: minutes on a CPU, small networks, everything capped. full: the paper's networks and"
    " protocol, for a GPU.",
)
@click.option(
    "--data",
    "specs",
    metavar="KIND:PATH",
    multiple=True,
    required=True,
    help="Data set, as for `sinai train`. Repeatable: 10 classes stand for CIFAR-10, 100 for"
    " CIFAR-100, 1000 for ImageNet. Rows of what is not given say so.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1),
    help="Test images at most, spread evenly, in place of the scale's number.",
)
@click.option(
    "--train-limit",
    metavar="N",
    type=click.IntRange(1),
    help="Training images at most, spread evenly, in place of the scale's number.",
)
@click.option(
    "--each/--one-net",
    default=False,
    show_default=True,
    help="Fine-tune one network for each noise scheme, or one for all.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all draws.")
@device_option
@click.option(
    "--work",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that keeps networks and finished attacks, for all experiments; by default exp-work"
    " beside the result.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory to make; NAME-SCALE by default.",
)
@force
@as_json
def exp(
    name: str,
    scale: str,
    specs: tuple[str, ...],
    limit: int | None,
    train_limit: int | None,
    each: bool,
    seed: int,
    device: str,
    work: Path | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Run a table or figure of the paper's evaluation, ours beside the paper's.

    NAME is table1 to table12, fig3, fig4, or masking: every attack with every gradient. Networks
    are trained, converted, distilled and fine-tuned as they are needed, and kept in the folder of
    --work with every finished attack. Experiments share them, and the same command goes on where it
    was interrupted.

    DIR gets NAME.csv and NAME.md, NAME.json (settings, versions, what became of every image) and,
    for fig3 and fig4, NAME.png. What a scale caps is printed and in NAME.md.

    \b
    Examples:
      sinai exp table1 --scale tiny --data imagefolder:cifar10
      sinai exp fig4 --scale tiny --data imagefolder:cifar10 --limit 20 -o quick
      sinai exp table6 --scale full --data cifar10:cifar-10-batches-py --work networks -o table6
    """
    need_torch("exp")
    from ..model.exp_nets import sources
    from ..model.exp_run import run
    from ..model.exp_scales import SCALES
    from .exp_output import markdown, write

    output = output or Path(f"{name}-{scale}")
    work = work or output.absolute().parent / "exp-work"
    if work.absolute() == output.absolute():
        raise InputError(f"--work {work}: is the directory of the result; give another one")
    with (
        fresh_directory(output, marker=f"{name}.json", force=force) as aside,
        _telling() as tell,
    ):
        record = run(
            name,
            scale,
            sources(specs, train_limit or SCALES[scale].train_images),
            work,
            images=limit,
            each=each,
            seed=seed,
            device=device,
            tell=tell,
            say=lambda line: click.echo(f"sinai: {line}", err=True),
        )
        write(record, aside, command=command_line())
    if as_json:
        print_json(record)
    else:
        click.echo(markdown(record, command=command_line()), nl=False)
        click.echo(f"\nwritten {output}")


@contextmanager
def _telling() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for whatever is being done now, if standard error is a terminal."""
    from tqdm import tqdm

    bar, now = tqdm(disable=not sys.stderr.isatty(), leave=False), ""

    def tell(what: str, done: int, of: int) -> None:
        nonlocal now
        if what != now:
            now = what
            bar.reset(total=of)
            bar.set_description(what, refresh=False)
        bar.total = of
        bar.update(done - bar.n)

    with bar:
        yield tell


VERBS = (exp,)
