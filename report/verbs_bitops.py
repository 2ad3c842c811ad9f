"""The verb `sinai bitops`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import as_json, command_line, force, print_json, projection_option, trace_path
from .output import fresh_directory

__all__ = ["VERBS"]


@click.command()
@click.option(
    "--model",
    "models",
    metavar="NAME",
    multiple=True,
    help="Network, such as resnet18 (tables 1 and 6), wrn34_10 (2), resnet50 (4) or vit_b16."
    " Repeatable; those of the tables by default.",
)
@click.option(
    "--rule",
    "rules",
    type=click.Choice(["paper", "exact"]),
    multiple=True,
    help="How to count: as the paper's figures come out, or everything that is computed."
    " Repeatable; both by default.",
)
@click.option(
    "--trace",
    "traces",
    metavar="TRACE",
    multiple=True,
    help="Trace whose masks, k and P rule `exact` counts, in place of a bundled one. Repeatable.",
)
@projection_option
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory to make: bitops.csv, bitops.md and bitops.json.",
)
@force
@as_json
def bitops(
    models: tuple[str, ...],
    rules: tuple[str, ...],
    traces: tuple[str, ...],
    projection: str,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Count BitOPs, and show the paper's beside them.

    Rule `paper` is (1 - r) + 20/272 of dense at noise ratio r, and gives the printed figures of
    tables 1, 2 and 6 from the dense one. Rule `exact` counts every layer: the exact pass at the
    measured density, the approximate pass at the k in use, projection, requantisation, comparison.
    Absolute counts are printed as they are; the paper's cannot be derived.

    \b
    Examples:
      sinai bitops
      sinai bitops --model resnet18 --rule paper -o bitops
      sinai bitops --model resnet18 --trace masks.npz
    """
    from .bitops_table import markdown, table, write

    rows = table(
        models,
        rules=rules or ("paper", "exact"),
        traces=[trace_path(trace) for trace in traces],
        projection=projection,
    )
    if output is not None:
        with fresh_directory(output, marker="bitops.json", force=force) as aside:
            write(rows, aside, command=command_line())
    if as_json:
        print_json(rows)
    else:
        click.echo(markdown(rows), nl=False)


VERBS = (bitops,)
