"""Where the cycles go: every cycle of every layer by phase and cause.

Causes are those of :data:`sinai.common.contract.STALL_CAUSES`, as both engines of the simulator
count them. A busy cycle counts under `useful` for the share of slots (V * T a cycle) in which a
vector unit multiplies, under `idle` for the rest. Every wait belongs to the phase whose issue it
holds up: `rpu` to APPROXIMATE, `select`, `scan` and `xbank` to EXACT, `shallow` to either; what
lies before the first issue of a part and after its last belongs to neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.errors import InputError
from ..common.machine import Machine, load_machine, override
from ..common.scheme import Scheme
from ..sim import Result, simulate
from ..traces.schema import Trace, bundled, load
from .run import trace_digest, versions
from .sram import check_clock

__all__ = [
    "NETWORK",
    "PHASES",
    "TAXONOMY",
    "Run",
    "causes",
    "cycles",
    "markdown",
    "plan",
    "simulate_run",
    "totals",
    "write_cycles",
]

#: Phase and cause of every cycle, in the order of tables and bars, and what it means.
TAXONOMY: dict[tuple[str, str], str] = {
    ("approximate", "useful"): "4-bit work, as if all slots were full",
    ("approximate", "idle"): "slots of busy cycles without work",
    ("approximate", "rpu"): "p is not projected yet",
    ("approximate", "shallow"): "a block is over before the weights of the next unit are there",
    ("exact", "useful"): "16-bit work, as if all slots were full",
    ("exact", "idle"): "slots of busy cycles without work: mostly other lanes have more to do",
    ("exact", "select"): "the essential neurons of the tile are not known",
    ("exact", "scan"): "the scanner has not found the next pass",
    ("exact", "xbank"): "x words: bank conflicts, or the one-word port of the window",
    ("exact", "shallow"): "a block is over before the weights of the next beat are there",
    ("ends", "dma"): "no part runs: transfers",
    ("ends", "fill"): "launch and first weights of a part",
    ("ends", "drain"): "last issue to last write of a part",
}

#: Phases, in order. `ends` is what belongs to neither pass.
PHASES = tuple(dict.fromkeys(phase for phase, _ in TAXONOMY))

#: Network whose bundled traces are shown by default.
NETWORK = "resnet18"

#: Kind of machine to the scheme shown by default: an eighth of the neurons is essential on both.
_SCHEMES = {"structured": "structured:7:8", "unstructured": "unstructured:0.875"}

#: Kind of scheme to the machines shown by default.
_MACHINES = {
    "dense": ("structured", "unstructured"),
    "structured": ("structured",),
    "unstructured": ("unstructured",),
}


@dataclass(frozen=True)
class Run:
    """A trace on a machine; `dense` ignores its masks."""

    trace: Trace
    machine: Machine
    dense: bool = False

    @property
    def scheme(self) -> Scheme:
        return Scheme.parse("dense") if self.dense else self.trace.scheme

    @property
    def name(self) -> str:
        """For file names: network, machine and scheme."""
        words = (self.trace.manifest.network, self.machine.name, str(self.scheme))
        return "-".join(words).replace(":", "-").replace("/", "-")


def plan(
    traces: Sequence[str | Path] = (),
    schemes: Sequence[str] = (),
    machines: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> list[Run]:
    """What to simulate.

    Parameters
    ----------
    traces : sequence of path
        Bundled real traces of ResNet-18 by default.
    schemes : sequence of str
        Which bundled traces; with `traces`, their own scheme or ``dense``. By default 7/8 noise in
        the granularity of each machine, or the scheme of each trace.
    machines : sequence of str
        Presets or YAML files; by default the published machine made for the scheme, both for dense.
    changes : sequence of str
        ``KEY=VALUE``, applied to every machine.

    Raises
    ------
    InputError
        If a trace or machine is bad, no bundled trace has a scheme, a trace has another scheme, or
        something is asked for twice.
    """
    described = [_machine(source, changes) for source in machines]
    asked = [Scheme.parse(text) for text in schemes]
    made = []
    if not traces and not asked:
        for machine in described or [_machine(kind, changes) for kind in _SCHEMES]:
            made.append(Run(_bundled(Scheme.parse(_SCHEMES[machine.kind])), machine))
    else:
        for trace, scheme in _pairs(traces, asked):
            default = [_machine(name, changes) for name in _MACHINES[scheme.kind]]
            made += [Run(trace, machine, scheme.dense) for machine in described or default]
    names = [run.name for run in made]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(
            f"{twice} is asked for twice; give each network, machine and scheme once, and machines"
            " different names"
        )
    return made


def simulate_run(run: Run, images: Sequence[int] | None = None) -> Result:
    """Simulate `images` of a run, all by default.

    Raises
    ------
    InputError
        If the scheme does not run on the machine, its clock is faster than a memory, or an image is
        not in the trace.
    """
    check_clock(run.machine)
    chosen = None if images is None else list(dict.fromkeys(images))
    return simulate(run.trace, run.machine, images=chosen, dense=run.dense)


def causes(result: Result) -> pd.DataFrame:
    """Cycles of each image and layer, a row each, by the entries of `TAXONOMY`, a column each.

    Every row sums to the cycles of the layer. All values are whole but `useful` and `idle`, which
    are slots over V * T, a power of two, and so exact.
    """
    layers, machine, own = result.layers, result.machine, result.trace.layers
    repeated = list(own) * (len(layers) // len(own))
    essential = layers["essential"].to_numpy()
    exact = essential * [layer.beats(machine.pses) for layer in repeated]
    rough = [layer.neurons * layer.approximate_beats(machine.pses) for layer in repeated]
    useful = {
        "approximate": pd.Series(0 if result.scheme.dense else rough, layers.index) / machine.vpus,
        "exact": pd.Series(exact, layers.index) / machine.vpus,
    }
    busy = {"approximate": layers["busy_approximate"]}
    busy["exact"] = layers["busy_cycles"] - busy["approximate"]
    shallow = {"approximate": layers["shallow_approximate"]}
    shallow["exact"] = layers["stall_shallow"] - shallow["approximate"]

    def column(phase: str, cause: str) -> pd.Series:
        match cause:
            case "useful":
                return useful[phase]
            case "idle":
                return busy[phase] - useful[phase]
            case "shallow":
                return shallow[phase]
        return layers[f"stall_{cause}"]

    made = pd.DataFrame({entry: column(*entry) for entry in TAXONOMY})
    made.columns = pd.MultiIndex.from_tuples(TAXONOMY, names=["phase", "cause"])
    return made


def cycles(result: Result) -> pd.DataFrame:
    """The table of cycles.csv: one row a layer, phase and cause.

    Columns: network, machine, scheme, real_trace, images, layer, map (side of its output map, in
    pixels), phase, cause, cycles (of one image, mean over the images), share_of_layer,
    share_of_network (of the cycles of the layer, of all layers).
    """
    found, manifest = causes(result), result.trace.manifest
    names = [layer.name for layer in result.trace.layers]
    images = len(found) // len(names)
    number = [index % len(names) for index in range(len(found))]
    mean = found.groupby(number).sum() / images
    whole = mean.to_numpy().sum()
    rows = []
    for layer, (_, values) in zip(result.trace.layers, mean.iterrows(), strict=True):
        own = values.sum()
        for (phase, cause), value in values.items():
            rows.append(
                {
                    "network": manifest.network,
                    "machine": result.machine.name,
                    "scheme": str(result.scheme),
                    "real_trace": not result.trace.synthetic,
                    "images": images,
                    "layer": layer.name,
                    "map": layer.w_out,
                    "phase": phase,
                    "cause": cause,
                    "cycles": value,
                    "share_of_layer": value / own,
                    "share_of_network": value / whole,
                }
            )
    return pd.DataFrame(rows)


def totals(table: pd.DataFrame, index: str | None = None) -> pd.DataFrame:
    """Sum the cycles of one run of `cycles` by phase and cause, a column each; a row for each value
    of the column `index`, in order of appearance, or one row `all`."""
    keys = pd.Series("all", table.index) if index is None else table[index]
    summed = table.groupby([keys, "phase", "cause"], sort=False)["cycles"].sum()
    return summed.unstack(["phase", "cause"])[list(TAXONOMY)]


def markdown(table: pd.DataFrame) -> str:
    """The tables of `cycles` for a reader: for each run the whole network, then by side of the
    output map and by layer, in cycles of one image. Columns without a cycle are left out."""
    parts = []
    for (network, machine, scheme), rows in table.groupby(
        ["network", "machine", "scheme"], sort=False
    ):
        masks = "real masks" if rows["real_trace"].all() else "synthetic masks"
        if scheme == "dense":
            masks = "no masks"
        whole = totals(rows).iloc[0]
        all_cycles = whole.sum()
        lines = [
            f"## {network} on {machine}, {scheme}",
            "",
            f"{masks}, mean of {rows['images'].iloc[0]} image(s), {all_cycles:,.0f} cycles",
            "",
            "| phase | cause | cycles | share | meaning |",
            "|---|---|--:|--:|---|",
        ]
        for (phase, cause), value in whole.items():
            lines.append(
                f"| {phase} | {cause} | {value:,.0f} | {value / all_cycles:.1%} |"
                f" {TAXONOMY[phase, cause]} |"
            )
        for index, title in (("map", "output map"), ("layer", "layer")):
            lines += ["", *_wide(totals(rows, index), title)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def write_cycles(
    runs: Sequence[Run],
    directory: Path,
    *,
    images: Sequence[int] | None = None,
    command: str = "",
    advance: Callable[[Sequence[Run]], Any] = iter,
) -> dict[str, Any]:
    """Simulate `runs` and write cycles.csv, cycles.md, cycles.json and cycles-NAME.png of each into
    an existing directory; return the content of cycles.json.

    `advance` wraps the runs to show progress.
    """
    from .cycles_plot import draw_cycles, save

    tables, described = [], []
    for run in advance(runs):
        result = simulate_run(run, images)
        table = cycles(result)
        tables.append(table)
        save(draw_cycles(table), directory / f"cycles-{run.name}.png")
        whole = totals(table).iloc[0]
        described.append(
            {
                "network": run.trace.manifest.network,
                "scheme": str(run.scheme),
                "real_trace": not run.trace.synthetic,
                "images": int(table["images"].iloc[0]),
                "trace_digest": trace_digest(run.trace),
                "machine": run.machine.model_dump(),
                "cycles": float(whole.sum()),
                **{
                    phase: {cause: float(value) for cause, value in whole[phase].items()}
                    for phase in PHASES
                },
            }
        )
    made = {"schema": 1, "command": command, "versions": versions(), "runs": described}
    full = pd.concat(tables, ignore_index=True)
    full.to_csv(directory / "cycles.csv", index=False, lineterminator="\n")
    (directory / "cycles.md").write_text(
        f"# Where the cycles go\n\n{markdown(full)}", encoding="utf-8"
    )
    text = json.dumps(made, indent=2, allow_nan=False)
    (directory / "cycles.json").write_text(text + "\n", encoding="utf-8")
    return made


def _machine(source: str, changes: Sequence[str]) -> Machine:
    machine = load_machine(source)
    return override(machine, list(changes)) if changes else machine


def _pairs(traces: Sequence[str | Path], asked: Sequence[Scheme]) -> list[tuple[Trace, Scheme]]:
    """Traces with the schemes to run them under."""
    if not traces:
        return [(_bundled(scheme), scheme) for scheme in asked]
    pairs = []
    for path in traces:
        trace = load(path)
        for scheme in asked or [trace.scheme]:
            if not scheme.dense and scheme != trace.scheme:
                raise InputError(
                    f"--scheme {scheme}: {path} has masks of {trace.scheme}; give that, or dense"
                )
            pairs.append((trace, scheme))
    return pairs


def _bundled(scheme: Scheme) -> Trace:
    """The bundled trace of ResNet-18 with this scheme; any of them serves for dense."""
    known = {
        name.removeprefix(f"{NETWORK}-"): path
        for name, path in bundled().items()
        if name.startswith(f"{NETWORK}-")
    }
    if scheme.dense:
        return load(next(iter(known.values())))
    path = known.get(str(scheme).replace(":", "-"))
    if path is None:
        raise InputError(
            f"--scheme {scheme}: no bundled trace of {NETWORK} has this scheme; give a trace with"
            f" --trace, or one of dense, {', '.join(name.replace('-', ':') for name in known)}"
        )
    return load(path)


def _wide(summed: pd.DataFrame, title: str) -> list[str]:
    """A Markdown table: a row each of `summed`, columns without a cycle left out."""
    shown = summed.loc[:, summed.sum() > 0]
    heads = [f"{phase} {cause}" if phase != "ends" else cause for phase, cause in shown.columns]
    lines = [
        f"| {title} | cycles | {' | '.join(heads)} |",
        f"|---|--:|{'--:|' * len(heads)}",
    ]
    for name, values in shown.iterrows():
        label = f"{name}x{name}" if title == "output map" else name
        cells = " | ".join(f"{value:,.0f}" for value in values)
        lines.append(f"| {label} | {summed.loc[name].sum():,.0f} | {cells} |")
    return lines
