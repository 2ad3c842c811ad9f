"""The verbs that work on machines: figure5, run, verilog, energy."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..common.errors import InputError
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

__all__ = ["VERBS"]


@click.command()
@directory(default="figure5")
@click.option(
    "--traces",
    metavar="TRACE",
    multiple=True,
    help="Trace in place of the bundled ones of its network, or of another network. Repeatable.",
)
@click.option(
    "--network",
    "networks",
    metavar="NAME",
    multiple=True,
    help="Only this network. Repeatable; all by default.",
)
@batch_option
@click.option(
    "--sweeps/--no-sweeps",
    default=True,
    help="Whether to add sweeps of the machines and of off-chip bandwidth, on ResNet-18.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=lambda: os.cpu_count() or 1,
    show_default="one a core",
    help="Processes.",
)
@force
@as_json
def figure5(
    output: Path,
    traces: tuple[str, ...],
    networks: tuple[str, ...],
    batch: int,
    sweeps: bool,
    workers: int,
    force: bool,
    as_json: bool,
) -> None:
    """Latency, energy and energy-delay product of structured and unstructured noise.

    Replays masks of ResNet-18, WRN-34-10 and ResNet-50 under every noise scheme on every machine.
    Networks without bundled traces get synthetic masks, and the figure says so. DIR gets
    figure5.png, figure5.svg, figure5.csv (one row a point: cycles, seconds, pJ, Js, and all of them
    relative to dense on the unstructured machine) and summary.json (findings, sweeps, traces,
    versions).

    \b
    Examples:
      sinai figure5 -o figure5
      sinai figure5 -o mine --traces masks.npz --network resnet18 --no-sweeps
    """
    from .figure5 import figure5 as write_figure5

    with fresh_directory(output, marker="figure5.csv", force=force) as aside:
        made = write_figure5(
            aside,
            traces=[trace_path(trace) for trace in traces] or None,
            progress=sys.stderr.isatty(),
            networks=networks or None,
            batch=batch,
            with_sweeps=sweeps,
            workers=workers,
            command=command_line(),
        )
    if as_json:
        print_json(made)
        return
    for network, found in made["findings"].items():
        masks = "real masks" if found["real_trace"] else "synthetic masks"
        click.echo(f"{network}, {masks}, at 7/8 noise, relative to dense on unstructured:")
        for name, row in found["at_7_of_8"].items():
            click.echo(
                f"  {name:<22}latency {row['latency_norm']:.3f}   energy {row['energy_norm']:.3f}"
                f"   EDP {row['edp_norm']:.3f}"
            )
    for row in made["sweeps"]["batch"] if sweeps else ():
        if row["batch"] > 1 and row["bytes_per_cycle"] is None:
            click.echo(
                f"{made['sweeps']['network']} on {row['machine']}, {row['scheme']}, synthetic"
                f" masks, batch of {row['batch']}: latency {row['latency_over_dense']:.3f} of dense"
                " likewise"
            )
    for row in made["sweeps"]["bandwidth"] if sweeps else ():
        width = f"{row['bytes_per_cycle']} B/cycle" if row["bytes_per_cycle"] else "no limit"
        click.echo(
            f"{made['sweeps']['network']} on {row['machine']}, {row['scheme']}, off-chip {width}"
            f" ({row['accounting']}): latency {row['latency_over_dense']:.3f} of dense likewise"
        )
    click.echo(
        f"energy and area of logic are assumed; written to {output} in {made['wall_s']:.0f} s"
    )


@click.command()
@trace_argument
@machine_option()
@assignments
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
    "--dense", is_flag=True, help="Ignore the masks: every neuron exact, no approximate pass."
)
@click.option(
    "--ideal",
    is_flag=True,
    help="Bound of an unstructured machine with full lanes and no stalls, which none reaches.",
)
@click.option(
    "--engine",
    type=click.Choice(["fast", "stepped"]),
    help="fast: runs of beats in closed form. stepped: an event a beat, same result, far slower."
    "  [default: fast, or stepped with --timeline]",
)
@click.option(
    "--timeline",
    is_flag=True,
    help="Write timeline.json too, for ui.perfetto.dev or chrome://tracing. 1 us there is 1 cycle.",
)
@directory()
@force
@as_json
def run(
    trace: str,
    machine: str,
    assignments: tuple[str, ...],
    images: tuple[int, ...],
    batch: int,
    dense: bool,
    ideal: bool,
    engine: str | None,
    timeline: bool,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Simulate one trace on one machine, cycle by cycle.

    TRACE is a .npz file or the name of a bundled trace (`sinai trace list`). DIR gets summary.json
    (latency in cycles and seconds, energy in pJ, EDP in Js, all of one image, or of one batch with
    --batch, mean over the images), layers.csv (one row an image or batch and layer: cycles and the
    causes of every stall, work, memory accesses, energy), config.yaml, ert.yaml and art.yaml (the
    tables of energy and area that were used).

    \b
    Examples:
      sinai run masks.npz --machine structured -o run
      sinai run masks.npz --machine structured --set columns=4 --set clock_ns=2.5 -o run4
      sinai run masks.npz --machine my-machine.yaml --dense -o dense --json
      sinai run masks.npz --machine structured --image 0 --timeline -o seen
    """
    from ..sim import simulate
    from ..traces.schema import load
    from .run import write_run

    if timeline and engine == "fast":
        raise InputError("--timeline comes from --engine stepped, not fast; leave out --engine")
    if timeline and ideal:
        raise InputError("--ideal is a bound and has no --timeline; leave out one of the two")
    described = machine_from(machine, assignments)
    with fresh_directory(output, marker="summary.json", force=force) as aside:
        result = simulate(
            load(trace_path(trace)),
            described,
            images=images or None,
            batch=batch,
            dense=dense,
            ideal=ideal,
            engine=engine or ("stepped" if timeline else "fast"),
            timeline=timeline,
        )
        made = write_run(result, aside, command=command_line())
    if as_json:
        print_json(made)
        return
    click.echo(_summary(made, output))


@click.command()
@click.argument("machine", metavar="MACHINE")
@assignments
@click.option(
    "--memories",
    type=click.Choice(["flat", "blackbox"]),
    default="flat",
    show_default=True,
    help="Whether SRAMs are in the same file or in one of their own, to be replaced by macros.",
)
@directory()
@force
def verilog(
    machine: str, assignments: tuple[str, ...], memories: str, output: Path, force: bool
) -> None:
    """Write the synthesisable Verilog of a machine.

    MACHINE is a preset or a YAML file. DIR gets sinai_core.v, the whole machine, and sinai_pse.v
    and sinai_vpu.v, two parts of it, each complete in itself; constraints of timing (.sdc, times in
    ns) for each; ports.json (each port: width in bits, direction, meaning; latencies in cycles);
    registers.json (registers, descriptors and their fields); verilator.vlt, the lint waivers with
    their reasons. With --memories blackbox, SRAMs are only instantiated; memories.json lists them
    and sinai_sram.v has a behavioural model of each.

    \b
    Examples:
      sinai verilog structured -o verilog
      sinai verilog unstructured --memories blackbox -o verilog
    """
    from ..hw.verilog import write

    described = machine_from(machine, assignments)
    with fresh_directory(output, marker="ports.json", force=force) as aside:
        names = [path.name for path in write(described, aside, memories=memories)]
    for name in names:
        click.echo(output / name)


@click.group()
def energy() -> None:
    """The tables of energy and area behind every result."""


@energy.command()
@machine_option(default="structured")
@assignments
@as_json
def show(machine: str, assignments: tuple[str, ...], as_json: bool) -> None:
    """Show the energies and areas in use, with their sources.

    Energy in pJ an event, area in mm2, technology 45 nm. What is assumed says so.

    \b
    Example:
      sinai energy show --machine unstructured --set memories.device=itrs-hp
    """
    from .area import art
    from .energy import ert

    described = machine_from(machine, assignments)
    energies, areas = ert(described), art(described)
    if as_json:
        print_json(
            {
                "machine": described.name,
                "energy": {name: asdict(entry) for name, entry in energies.items()},
                "area": {name: asdict(entry) for name, entry in areas.items()},
            }
        )
        return
    _table("energy an event [pJ]", {name: (e.pj, e) for name, e in energies.items()})
    click.echo()
    _table("area [mm2]", {name: (a.um2 / 1e6, a) for name, a in areas.items()})
    click.echo(f"{'total':<24}{sum(a.um2 for a in areas.values()) / 1e6:>12.4g}")


def _table(title: str, entries: Mapping[str, tuple[float, Any]]) -> None:
    click.echo(f"{title}\n")
    for name, (value, entry) in entries.items():
        word = "assumed" if entry.assumed else ""
        click.echo(f"{name:<24}{value:>12.4g}  {word:<8}  {entry.formula}; {entry.source}")


def _summary(made: Mapping[str, Any], output: Path) -> str:
    """A few lines for a reader: what ran, how long, on what the time went."""
    masks = "real masks" if made["real_trace"] else "synthetic masks"
    stalls = sorted(made["stall_cycles"].items(), key=lambda item: -item[1])
    of_batch = f" in batches of {made['batch']}" if made["batch"] > 1 else ""
    each = f" of {made['batch']} images" if made["batch"] > 1 else ""
    causes = ", ".join(f"{name} {100 * n / made['cycles']:.1f} %" for name, n in stalls if n)
    return "\n".join(
        (
            f"{made['network']} on {made['machine']}, {made['scheme']}, {masks},"
            f" {made['images']} image(s){of_batch}, {100 * made['noise']:.2f} % noisy",
            f"latency   {made['cycles']:.0f} cycles, {made['latency_s']:.4g} s"
            f" at {made['clock_hz'] / 1e6:g} MHz{each and ',' + each}",
            f"energy    {made['energy_pj']:.4g} pJ (logic assumed){each and ',' + each}",
            f"EDP       {made['edp_js']:.4g} Js{each and ',' + each}",
            f"busy      {100 * made['busy_cycles'] / made['cycles']:.1f} %;"
            f" stalls: {causes or 'none'}",
            f"written   {output}",
        )
    )


VERBS = (figure5, run, verilog, energy)
