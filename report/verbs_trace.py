"""The verbs of `sinai trace`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import as_json, command_line, file, force, print_json, trace_argument, trace_path
from .output import fresh_file

__all__ = ["VERBS"]


@click.group()
def trace() -> None:
    """Masks of essential neurons: make, look at, check.

    TRACE is a .npz file, or the name of a trace that comes with the package (`sinai trace list`).
    The format is on the page docs/trace-format.md.
    """


@trace.command("synth")
@click.option("--model", required=True, help="tiny, resnet18, wrn34_10, resnet50 or vit_b16.")
@click.option(
    "--scheme",
    required=True,
    help="dense, unstructured:RATIO (share of noisy neurons, 0 to 1) or structured:Q:8 (Q noisy of"
    " every 8 channels).",
)
@click.option("--images", default=1, show_default=True, help="How many, at least 1.")
@click.option("--seed", default=0, show_default=True, help="Of the generator, 0 or more.")
@file
@force
def synth(model: str, scheme: str, images: int, seed: int, output: Path, force: bool) -> None:
    """Draw synthetic masks.

    Their statistics, such as how unevenly channels and positions are essential, are fitted to real
    masks. The file says that it is synthetic, and so does every result made from it.

    \b
    Example:
      sinai trace synth --model resnet50 --scheme unstructured:0.9 --images 4 -o masks.npz
    """
    from ..traces.synth import synthesise

    with fresh_file(output, force=force) as aside:
        made = synthesise(model, scheme, images, seed, command=command_line())
        made.save(aside)
    click.echo(
        f"{output}: synthetic masks of {model}, {made.scheme}, {images} image(s),"
        f" {made.manifest.noise_measured:.4f} noisy"
    )


@trace.command("list")
@as_json
def list_bundled(as_json: bool) -> None:
    """List the traces that come with the package."""
    from ..traces.schema import bundled, load

    traces = {name: load(path) for name, path in bundled().items()}
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "network": one.manifest.network,
                    "scheme": str(one.scheme),
                    "synthetic": one.synthetic,
                    "images": one.images,
                }
                for name, one in traces.items()
            ]
        )
        return
    for name, one in traces.items():
        kind = "synthetic" if one.synthetic else "real"
        click.echo(
            f"{name:<40}{one.manifest.network:<12}{one.scheme!s:<22}{kind:<10}{one.images} image(s)"
        )


@trace.command("info")
@trace_argument
@as_json
def info(trace: str, as_json: bool) -> None:
    """Show what a trace holds, layer by layer.

    \b
    Columns: k and d, the projected and exact depth of a dot product; the share of noisy neurons,
    mean, least and most over images; the coefficient of variation of the channels' shares of
    essential neurons; the share of positions without any.
    """
    from ..traces import inspection
    from ..traces.schema import load

    loaded = load(trace_path(trace))
    if as_json:
        print_json(inspection.info(loaded))
    else:
        click.echo(inspection.table(loaded))


@trace.command("verify")
@trace_argument
@as_json
def verify(trace: str, as_json: bool) -> None:
    """Check a trace: digests, masks against the scheme, layers with each other.

    Exit status 1 if a check fails, 2 if the file is damaged or no trace.
    """
    from ..traces import inspection

    found = inspection.verify(trace_path(trace))
    if as_json:
        print_json(found)
        return
    click.echo(
        f"{found['name']}: {found['arrays']} digests, {found['layers']} layers of"
        f" {found['images']} image(s) hold to {found['scheme']};"
        f" {found['noise_measured']:.4f} noisy, {found['surplus']} neurons above the count (ties)"
    )
    for note in found["notes"]:
        click.echo(f"note: {note}")


VERBS = (trace,)
