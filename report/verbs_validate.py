"""The verb `sinai validate`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.errors import CheckError
from .options import (
    as_json,
    assignments,
    batch_option,
    command_line,
    directory,
    force,
    machine_from,
    machine_option,
    print_json,
    trace_argument,
    trace_path,
)
from .output import fresh_directory

if TYPE_CHECKING:
    from .validate import Case

__all__ = ["VERBS"]


@click.command()
@trace_argument
@machine_option()
@assignments
@click.option(
    "--layers",
    metavar="NAME,...",
    help="Only these layers; `sinai trace info` lists them. All by default.",
)
@click.option(
    "--image",
    "images",
    metavar="N",
    type=int,
    multiple=True,
    help="Position of an image in the trace, from 0. Repeatable; all by default.",
)
@batch_option
@click.option(
    "--inject",
    type=click.Choice(["latency", "stall", "bit"]),
    help="Plant a fault, to see it found: a wrong latency or a lost stall in the simulator, a"
    " wrong bit in the words that the hardware loads.",
)
@directory()
@force
@as_json
def validate(
    trace: str,
    machine: str,
    assignments: tuple[str, ...],
    layers: str | None,
    images: tuple[int, ...],
    batch: int,
    inject: str | None,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Prove on a trace that hardware, simulator and integer model agree.

    Each layer runs on the machine's own Verilog, compiled by Verilator, and in the simulator. Every
    counter, the first and last issue of every step, and every byte of output (against the integer
    model) are compared. TRACE needs operands: `sinai trace export --operands` or `sinai trace synth
    --operands`. DIR gets validation.json (how much was compared, how much differs, the first
    mismatches), validation.csv (both sides' counters, a row a layer) and correlation.png.

    The first use of a machine compiles its hardware, for half a minute (-small) to several minutes;
    it is kept in the user's cache. An interrupted validation goes on where it was when the same
    command is given again. Exit status 1 if anything differs.

    \b
    Examples:
      sinai trace synth --model tiny --scheme structured:6:8 --operands -o masks.npz
      sinai validate masks.npz --machine structured-small -o proof
      sinai validate masks.npz --machine structured-small --inject latency -o seen
      sinai validate masks.npz --machine structured-small --set dma.capacity_kib=64 -o streamed
    """
    from ..hw.verilated import VerilatedCore
    from ..traces.schema import load
    from . import validate as proof

    described = machine_from(machine, assignments)
    journal = output.absolute().with_name(f".{output.name}.validation")
    with fresh_directory(output, marker="validation.json", force=force) as aside:
        loaded = load(trace_path(trace))
        names = [name for name in (layers or "").split(",") if name]
        chosen = proof.cases(loaded, images or None, names or None, batch)
        click.echo(f"hardware of {described.name}: compiling, unless it is in the cache", err=True)
        core = VerilatedCore(described)
        made = proof.validate(
            loaded,
            described,
            chosen,
            batch=batch,
            fault=inject or "",
            core=core,
            journal=journal,
            progress=_bar,
        )
        record = proof.write_validation(made, aside, command=command_line())
    journal.unlink(missing_ok=True)
    if as_json:
        print_json(record)
    else:
        click.echo(_text(record, output))
    if made.mismatched:
        raise CheckError(f"{made.mismatched} of the values compared differ; see {output}")


def _bar(left: Sequence[Case]) -> Iterator[Case]:
    from tqdm import tqdm

    return iter(tqdm(left, desc="layers", unit="layer", disable=not sys.stderr.isatty()))


def _text(record: dict[str, Any], output: Path) -> str:
    masks = "real" if record["real_trace"] else "synthetic"
    of_batch = f" in batches of {record['batch']}" if record["batch"] > 1 else ""
    lines = [
        f"{record['network']} on {record['machine']['name']}, {record['scheme']}, {masks} masks,"
        f" {record['accounting']} accounting: {record['layers']} layer(s) of {record['images']}"
        f" image(s){of_batch}, {record['cycles']:,} cycles"
    ]
    if record["fault"]:
        lines.append(f"planted     {record['fault']}")
    for what, title, other in (
        ("counters", "counters", "simulator"),
        ("blocks", "block times", "simulator"),
        ("bytes", "bytes", "integer model"),
    ):
        lines.append(
            f"{title:<12}{record[f'{what}_compared']:>12,} compared with the {other},"
            f" {record[f'{what}_mismatched']:,} differ"
        )
    for each in record["first_mismatches"][:5]:
        other = "integer_model" if "integer_model" in each else "simulator"
        lines.append(
            f"  image {each['image']}, {each['layer']}: {each['name']}: RTL {each['rtl']},"
            f" {other.replace('_', ' ')} {each[other]}"
        )
    lines.append(f"written     {output}")
    return "\n".join(lines)


VERBS = (validate,)
