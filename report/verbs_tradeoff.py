"""The verb `sinai tradeoff`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from .options import as_json, command_line, directory, force, print_json, trace_path
from .output import fresh_directory

__all__ = ["VERBS"]


@click.command()
@click.argument("attacked", metavar="ROBUSTNESS")
@click.option(
    "--traces",
    metavar="TRACE",
    multiple=True,
    help="Trace of an attacked scheme, in place of the bundled ones of its network. Repeatable.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=lambda: os.cpu_count() or 1,
    show_default="one a core",
    help="Processes.",
)
@directory()
@force
@as_json
def tradeoff(
    attacked: str,
    traces: tuple[str, ...],
    workers: int,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Worst-case accuracy of each scheme against its energy-delay product.

    ROBUSTNESS is what `sinai attack` wrote, the directory or its robustness.json. Every attacked
    scheme needs a real trace of the very network that was attacked: its model digest and its form
    of P are compared, and another network's trace is refused. DIR gets tradeoff.png, tradeoff.svg,
    tradeoff.csv (one row a scheme and machine), tradeoff.md (the same as a table) and tradeoff.json
    (with digests, settings of the attacks, versions).

    \b
    Examples:
      sinai tradeoff robust -o tradeoff
      sinai tradeoff robust --traces dense.npz --traces half.npz -o tradeoff
    """
    from ..common.robustness import load
    from .tradeoff import find_traces
    from .tradeoff import tradeoff as write_tradeoff

    with fresh_directory(output, marker="tradeoff.json", force=force) as aside:
        record = load(attacked)
        made = write_tradeoff(
            record,
            find_traces(record, [trace_path(trace) for trace in traces] or None),
            aside,
            workers=workers,
            progress=sys.stderr.isatty(),
            command=command_line(),
        )
    if as_json:
        print_json(made)
        return
    click.echo((output / "tradeoff.md").read_text(encoding="utf-8"), nl=False)
    click.echo(f"written     {output}")


VERBS = (tradeoff,)
