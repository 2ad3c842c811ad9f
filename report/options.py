"""Options and arguments that several verbs share."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.errors import MissingError

if TYPE_CHECKING:
    from ..common.machine import Machine

__all__ = [
    "ModelOption",
    "Ratio",
    "as_json",
    "assignments",
    "batch_option",
    "command_line",
    "data_option",
    "device_option",
    "directory",
    "file",
    "force",
    "machine_from",
    "machine_option",
    "need_torch",
    "print_json",
    "projection_option",
    "resume_option",
    "trace_argument",
    "trace_path",
]


class ModelOption(click.Option):
    """An option that takes the name of a network; its help lists them all."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from ..traces.networks import NETWORKS  # numpy is not loaded before help is asked for

        known = ", ".join(NETWORKS)
        names, text = super().get_help_record(ctx) or ("", "")
        return names, f"One of {known}. {text}"


class Ratio(click.ParamType):
    """A decimal number or a fraction such as 8/255."""

    name = "ratio"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            number = Fraction(value)
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r}: give a number such as 0.03 or 8/255", param, ctx)
        if not 0 < number <= 1:
            self.fail(f"{value!r}: must be above 0 and at most 1", param, ctx)
        return float(number)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
force = click.option("--force", is_flag=True, help="Replace an existing result.")
assignments = click.option(
    "--set",
    "assignments",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a value of the machine, such as dma.bytes_per_cycle=16. Repeatable.",
)
batch_option = click.option(
    "--batch",
    metavar="N",
    type=click.IntRange(1, 1 << 10),
    default=1,
    show_default=True,
    help="Images that pass each layer together. Every figure is then of a batch, not of an image;"
    " images left over after the last whole batch are not used.",
)
trace_argument = click.argument("trace", metavar="TRACE")


data_option = click.option(
    "--data",
    metavar="KIND:PATH",
    required=True,
    help="Data set: cifar10:DIR or cifar100:DIR (the authors' Python batches), fashion-mnist:DIR"
    " (idx files, plain or .gz), imagefolder:DIR with DIR/train/CLASS/IMAGE and"
    " DIR/test/CLASS/IMAGE, or npz:FILE.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto takes CUDA where there is one.",
)
resume_option = click.option(
    "--resume", is_flag=True, help="Go on with an interrupted run in the same directory."
)
projection_option = click.option(
    "--projection",
    type=click.Choice(["patch", "tap"]),
    default="patch",
    show_default=True,
    help="Form of P: over the whole window, as in the paper, or one matrix shared by all taps.",
)


def machine_option(**default: str) -> Callable[[Any], Any]:
    """``--machine``, a preset or a YAML file; required unless `default` names one."""
    return click.option(
        "--machine",
        metavar="MACHINE",
        required=not default,
        show_default=True,
        help="Preset (unstructured, structured, structured-expanded, unstructured-small,"
        " structured-small) or YAML file.",
        **default,
    )


def directory(**default: str) -> Callable[[Any], Any]:
    """``-o DIR``, required unless `default` names one."""
    return click.option(
        "-o",
        "--output",
        metavar="DIR",
        type=click.Path(path_type=Path),
        required=not default,
        show_default=True,
        help="Directory to make.",
        **default,
    )


file = click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    required=True,
    help="File to make.",
)


def machine_from(source: str, changes: tuple[str, ...] = ()) -> Machine:
    """The machine that ``--machine`` and ``--set`` describe."""
    from ..common.machine import load_machine, override

    machine = load_machine(source)
    return override(machine, list(changes)) if changes else machine


def trace_path(text: str) -> Path:
    """The file of a bundled trace by its name, else `text` as a path."""
    from ..traces.schema import bundled

    return bundled().get(text) or Path(text)


def command_line() -> str:
    """The command as it was typed, to be kept in results."""
    return click.get_current_context().find_root().obj


def print_json(record: Any) -> None:
    click.echo(json.dumps(record, indent=2, allow_nan=False))


def need_torch(verb: str) -> None:
    """Raise MissingError if PyTorch is not installed."""
    if find_spec("torch") is None:
        raise MissingError(f"sinai {verb} needs PyTorch: pip install 'sinai[model]'")
