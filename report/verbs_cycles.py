"""The verb `sinai cycles`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import as_json, assignments, command_line, directory, force, print_json, trace_path
from .output import fresh_directory

if TYPE_CHECKING:
    from .cycles import Run

__all__ = ["VERBS"]

#: Causes named in the summary of a run.
_NAMED = 4


@click.command()
@click.option(
    "--trace",
    "traces",
    metavar="TRACE",
    multiple=True,
    help="Trace, a .npz file or the name of a bundled one. Repeatable; real traces of ResNet-18 by"
    " default.",
)
@click.option(
    "--scheme",
    "schemes",
    metavar="SCHEME",
    multiple=True,
    help="Noise scheme of the bundled trace, or dense. Repeatable; by default 7/8 noise in the"
    " granularity of each machine.",
)
@click.option(
    "--machine",
    "machines",
    metavar="MACHINE",
    multiple=True,
    help="Preset (unstructured, structured, structured-expanded, unstructured-small,"
    " structured-small) or YAML file. Repeatable; by default the published machine made for the"
    " scheme.",
)
@assignments
@click.option(
    "--image",
    "images",
    metavar="N",
    type=int,
    multiple=True,
    help="Position of an image in the trace, from 0. Repeatable; all by default.",
)
@click.option(
    "--sweeps/--no-sweeps",
    default=False,
    help="Whether to add the sweeps of noise ratio, T, beta and W on the bundled traces, and"
    " structured against unstructured on two networks.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=lambda: os.cpu_count() or 1,
    show_default="one a core",
    help="Processes of the sweeps.",
)
@directory()
@force
@as_json
def cycles(
    traces: tuple[str, ...],
    schemes: tuple[str, ...],
    machines: tuple[str, ...],
    assignments: tuple[str, ...],
    images: tuple[int, ...],
    sweeps: bool,
    workers: int,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Show where the cycles go: by layer, phase and cause.

    Every cycle of every layer counts once: as work, as idle slots of busy cycles, or as a wait with
    its cause. Without options both machines run the bundled real masks of ResNet-18 at 7/8 noise.
    DIR gets cycles.csv (one row a layer, phase and cause: cycles of one image, shares), cycles.md
    (the same as tables), cycles-NAME.png (bars, one file a run) and cycles.json (totals, machines,
    versions). With --sweeps also sweeps.csv, comparison.csv, sweeps.md and sweeps.png, in which
    --trace, --scheme, --machine and --set play no part.

    \b
    Examples:
      sinai cycles -o cycles
      sinai cycles --scheme structured:4:8 --machine structured --machine structured-expanded -o mid
      sinai cycles --trace masks.npz --machine structured --set weight_words=2 -o mine
    """
    from .cycles import plan, write_cycles

    runs = plan([trace_path(trace) for trace in traces], schemes, machines, assignments)
    with fresh_directory(output, marker="cycles.csv", force=force) as aside:
        made = write_cycles(
            runs, aside, images=images or None, command=command_line(), advance=_bar
        )
        if sweeps:
            from .cycles_sweeps import write_sweeps

            write_sweeps(aside, workers=workers, progress=sys.stderr.isatty())
    if as_json:
        print_json(made)
        return
    for record in made["runs"]:
        click.echo(_text(record))
    click.echo(f"written   {output}")


def _bar(runs: Sequence[Run]) -> Any:
    from tqdm import tqdm

    return tqdm(runs, desc="cycles", unit="run", disable=not sys.stderr.isatty())


def _text(record: dict[str, Any]) -> str:
    """One line: what ran, how long, and the largest causes."""
    from .cycles import PHASES

    entries = {
        f"{phase} {cause}": value for phase in PHASES for cause, value in record[phase].items()
    }
    largest = sorted(entries.items(), key=lambda item: -item[1])[:_NAMED]
    named = ", ".join(
        f"{name} {100 * value / record['cycles']:.1f} %" for name, value in largest if value
    )
    return (
        f"{record['network']} on {record['machine']['name']}, {record['scheme']}:"
        f" {record['cycles']:,.0f} cycles; {named}"
    )


VERBS = (cycles,)
