"""The verbs of `sinai trace`."""

from __future__ import annotations

from pathlib import Path

import click

from ..common.errors import InputError
from .options import (
    ModelOption,
    as_json,
    command_line,
    data_option,
    file,
    force,
    need_torch,
    print_json,
    projection_option,
    trace_argument,
    trace_path,
)
from .output import fresh_file

__all__ = ["VERBS"]

scheme_option = click.option(
    "--scheme",
    required=True,
    help="dense, unstructured:RATIO (share of noisy neurons, 0 to 1) or structured:Q:8 (Q noisy of"
    " every 8 channels).",
)

operands_option = click.option(
    "--operands",
    is_flag=True,
    help="Keep what every layer reads as well: weights, P, scales, inputs. `sinai validate` needs"
    " them; the file is many times larger.",
)


@click.group()
def trace() -> None:
    """Masks of essential neurons: make, look at, check.

    TRACE is a .npz file, or the name of a trace that comes with the package (`sinai trace list`).
    The format is on the page docs/trace-format.md.
    """


@trace.command("export")
@click.option(
    "--checkpoint", required=True, help="Directory of a checkpoint, or the name of a bundled one."
)
@click.option("--model", help="Refuse a checkpoint of another network than this.")
@data_option
@scheme_option
@click.option(
    "--images",
    default=1,
    show_default=True,
    help="How many images of the test split, spread evenly over it.",
)
@click.option(
    "--calibration",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="Images of the training split from which each channel's density is estimated, which the"
    " unstructured machine places its channels by.",
)
@projection_option
@operands_option
@file
@force
def export(
    checkpoint: str,
    model: str | None,
    data: str,
    scheme: str,
    images: int,
    calibration: int,
    projection: str,
    operands: bool,
    output: Path,
    force: bool,
) -> None:
    """Export the masks that a network computes on images.

    The network runs in the accelerator's integers: the same arguments give the same masks on every
    computer.

    \b
    Example:
      sinai trace export --checkpoint tiny --data npz:images.npz --scheme structured:7:8 -o real.npz
    """
    need_torch("trace export")
    from ..model.checkpoint import load
    from ..model.data import load as load_data
    from ..model.evaluate import spread
    from ..model.export import export as export_masks

    with fresh_file(output, force=force) as aside:
        loaded = load(checkpoint)
        if model not in (None, loaded.manifest.network):
            raise InputError(
                f"--model {model}: checkpoint {checkpoint} is of {loaded.manifest.network}; give"
                " that, or leave out --model"
            )
        test = load_data(data, "test")
        chosen = test.take(spread(len(test), images))
        others = None
        if calibration:
            train = load_data(data, "train")
            others = train.take(spread(len(train), min(calibration, len(train)))).images
        made = export_masks(
            loaded,
            chosen.images,
            scheme,
            indices=chosen.origin,
            labels=chosen.labels,
            calibration=others,
            projection=projection,
            operands=operands,
            data=test.name,
            command=command_line(),
        )
        made.save(aside)
    click.echo(
        f"{output}: masks of {made.manifest.network}, {made.scheme}, {made.images} image(s) of"
        f" {made.manifest.data}, {made.manifest.noise_measured:.4f} noisy"
    )


@trace.command("synth")
@click.option("--model", cls=ModelOption, required=True, help="Network to draw for.")
@scheme_option
@click.option("--images", default=1, show_default=True, help="How many, at least 1.")
@click.option("--seed", default=0, show_default=True, help="Of the generator, 0 or more.")
@operands_option
@file
@force
def synth(
    model: str, scheme: str, images: int, seed: int, operands: bool, output: Path, force: bool
) -> None:
    """Draw synthetic masks.

    Their statistics, such as how unevenly channels and positions are essential, are fitted to real
    masks. The file says that it is synthetic, and so does every result made from it.

    \b
    Example:
      sinai trace synth --model resnet50 --scheme unstructured:0.9 --images 4 -o masks.npz
    """
    from ..traces.synth import synthesise

    with fresh_file(output, force=force) as aside:
        made = synthesise(model, scheme, images, seed, operands=operands, command=command_line())
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
