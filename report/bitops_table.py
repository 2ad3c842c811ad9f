"""The BitOPs column of every table of the paper, ours beside what is printed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from ..common.errors import InputError
from ..common.layer import Layer
from ..common.scheme import Scheme
from ..traces import networks, schema
from ..traces.schema import Trace
from .bitops import RULES, bitops, paper_ratio
from .paper_bitops import BASES, Printed, figures, to_digits

__all__ = ["COLUMNS", "SCHEMES", "markdown", "strided_shortcuts_dense", "table", "write"]

#: Schemes shown of a network that no table gives BitOPs of.
SCHEMES = ("dense", "unstructured:0.5", "unstructured:0.9", "structured:4:8", "structured:7:8")

#: Columns of bitops.csv; docs/bitops.md says what each of them is.
COLUMNS = (
    "table",
    "dataset",
    "network",
    "method",
    "scheme",
    "printed_bitops",
    "printed_relative",
    "printed_saving_pct",
    "paper_base",
    "paper_relative",
    "paper_bitops",
    "paper_saving_pct",
    "paper_agrees",
    "fit_relative",
    "fit_bitops",
    "fit_saving_pct",
    "counted_paper_bitops",
    "counted_exact_bitops",
    "counted_dense_bitops",
    "exact_relative",
    "exact_saving_pct",
    "noise",
    "masks",
    "projection",
)


@dataclass(frozen=True)
class _Run:
    """What rule `exact` counts: layers, essential neurons of each, and where they come from."""

    layers: tuple[Layer, ...]
    essential: list[float] | None
    noise: float
    masks: str


def table(
    models: Sequence[str] = (),
    *,
    rules: Sequence[str] = RULES,
    traces: Iterable[str | Path] = (),
    projection: str = "patch",
) -> list[dict[str, Any]]:
    """Return one row a printed figure, then one for every other scheme, with keys :data:`COLUMNS`.

    A value that a rule not asked for would give, or that cannot be derived, is None.

    Parameters
    ----------
    models : sequence of str
        Networks; by default those of the paper's tables, and those of `traces`.
    rules : sequence of {"exact", "paper"}
    traces : iterable of path
        Traces whose layers and essential neurons rule `exact` counts, in place of the bundled ones.
        Schemes without a trace are counted at their nominal share of essential neurons.
    projection : {"patch", "tap"}
        Form of P of the schemes without a trace. Bundled traces of another form are not used.

    Raises
    ------
    InputError
        If a rule, model or form of P is unknown, or two traces are of one network and scheme.
    """
    for rule in rules:
        if rule not in RULES:
            raise InputError(f"--rule must be one of {', '.join(RULES)}, not {rule!r}")
    runs = _Runs(traces, projection)
    given = [network for network, _ in runs.given]
    chosen = list(dict.fromkeys(models or [*(each.network for each in figures()), *given]))
    printed = [each for each in figures() if each.network in chosen]
    rows = [_row(each, runs, rules) for each in printed]
    done = {(each.network, each.scheme) for each in printed}
    for network in chosen:
        schemes = [scheme for name, scheme in runs.given if name == network]
        if not schemes and all(each.network != network for each in printed):
            schemes = [Scheme.parse(text) for text in SCHEMES]
        for scheme in schemes:
            if (network, scheme) not in done:
                rows.append(_row(Printed("", "", network, "", scheme, "", ""), runs, rules))
    return rows


def strided_shortcuts_dense(layers: Sequence[Layer], noise: Fraction) -> Fraction:
    """Relative BitOPs by the paper's rule if 1x1 convolutions with a stride stay dense.

    A fit to the paper's table 4, which the rule alone does not give. The paper says nothing of it.
    """
    strided = sum(layer.macs for layer in layers if layer.kernel == 1 and layer.stride > 1)
    share = Fraction(strided, sum(layer.macs for layer in layers))
    return share + (1 - share) * paper_ratio(noise)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown: one table for each of the paper's, one for all others."""
    parts = []
    for number in dict.fromkeys(row["table"] for row in rows):
        found = [row for row in rows if row["table"] == number]
        parts.append(_printed_part(number, found) if number else _other_part(found))
    return "\n\n".join(parts) + "\n"


def write(rows: Sequence[Mapping[str, Any]], folder: Path, *, command: str) -> None:
    """Write bitops.csv, bitops.md and bitops.json (rows, bases and command) to `folder`."""
    with (folder / "bitops.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "bitops.md").write_text(markdown(rows), encoding="utf-8")
    record = {"schema": 1, "command": command, "rows": list(rows)}
    text = json.dumps(record, indent=2, allow_nan=False)
    (folder / "bitops.json").write_text(text + "\n", encoding="utf-8")


class _Runs:
    """Finds what to count of a network and scheme: a trace given, a bundled one, or none."""

    def __init__(self, traces: Iterable[str | Path], projection: str):
        self.projection = projection
        self.given: dict[tuple[str, Scheme], Trace] = {}
        for path in traces:
            trace = schema.load(path)
            key = (trace.manifest.network, trace.scheme)
            if key in self.given:
                raise InputError(
                    f"{path}: scheme {key[1]} of {key[0]} is already given by another trace; give"
                    " one trace a scheme"
                )
            self.given[key] = trace
        self.geometry = cache(lambda network: networks.layers(network, projection))
        self.run = cache(self._run)

    def layers(self, network: str, scheme: Scheme) -> tuple[Layer, ...]:
        trace = self.given.get((network, scheme))
        return trace.layers if trace else self.geometry(network)

    def _run(self, network: str, scheme: Scheme) -> _Run:
        trace = self.given.get((network, scheme)) or self._bundled(network, scheme)
        if trace is not None:
            return _measured(trace)
        layers = self.geometry(network)
        if scheme.dense:
            return _Run(layers, None, 0.0, "")
        share = float(1 - scheme.ratio)
        essential = [share * layer.neurons for layer in layers]
        return _Run(layers, essential, float(scheme.ratio), "none: nominal density")

    def _bundled(self, network: str, scheme: Scheme) -> Trace | None:
        """The trace of the package; its name says network and scheme."""
        path = schema.bundled().get(f"{network}-{str(scheme).replace(':', '-')}")
        trace = schema.load(path) if path else None
        return trace if trace and trace.layers[0].projection == self.projection else None


def _measured(trace: Trace) -> _Run:
    essential = None
    if not trace.scheme.dense:
        essential = [
            float(trace.mask(index).sum()) / trace.images for index in range(len(trace.layers))
        ]
    neurons = sum(layer.neurons for layer in trace.layers)
    noise = 0.0 if essential is None else 1 - sum(essential) / neurons
    masks = "synthetic" if trace.synthetic else "real"
    return _Run(trace.layers, essential, noise, f"{masks}, {trace.name}")


def _row(each: Printed, runs: _Runs, rules: Sequence[str]) -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS)
    row |= {
        "table": each.table,
        "dataset": each.dataset,
        "network": each.network,
        "method": each.method,
        "scheme": str(each.scheme) if each.scheme else "",
        "printed_bitops": each.bitops,
        "printed_saving_pct": each.saving_pct,
    }
    if each.table:
        row["printed_relative"] = float(Fraction(each.bitops) / _printed_dense(each))
    if each.scheme is None:
        return row
    if "paper" in rules:
        row |= _by_paper(each, runs)
    if "exact" in rules:
        run = runs.run(each.network, each.scheme)
        dense, ours = bitops(run.layers, None), float(bitops(run.layers, run.essential))
        row |= {
            "counted_exact_bitops": ours,
            "counted_dense_bitops": dense,
            "exact_relative": ours / dense,
            "exact_saving_pct": 100 * (1 - ours / dense),
            "noise": run.noise,
            "masks": run.masks,
            "projection": run.layers[0].projection,
        }
    return row


def _by_paper(each: Printed, runs: _Runs) -> dict[str, Any]:
    """Columns of rule `paper`; digits are compared as printed, after exact arithmetic."""
    noise = each.scheme.ratio
    layers = runs.layers(each.network, each.scheme)
    dense = bitops(layers, None)
    ratio = Fraction(1) if each.scheme.dense else paper_ratio(noise)
    found: dict[str, Any] = {
        "paper_relative": float(ratio),
        "paper_saving_pct": f"{float(100 * (1 - ratio)):.1f}",
        "counted_paper_bitops": float(ratio * dense),
        "counted_dense_bitops": dense,
    }
    if not each.table:
        return found
    base = BASES[each.table]
    found |= {"paper_base": to_digits(base, 4), "paper_bitops": to_digits(ratio * base)}
    same_saving = each.saving_pct in ("", found["paper_saving_pct"])
    found["paper_agrees"] = same_saving and found["paper_bitops"] == each.bitops
    if not found["paper_agrees"]:
        fit = strided_shortcuts_dense(layers, noise)
        found |= {
            "fit_relative": float(fit),
            "fit_bitops": to_digits(fit * base),
            "fit_saving_pct": f"{float(100 * (1 - fit)):.1f}",
        }
    return found


def _printed_dense(each: Printed) -> Fraction:
    """Dense BitOPs of a table of the paper, as printed there; table 6 has no such row and takes
    that of table 1, which is of the same network."""
    number = "1" if each.table == "6" else each.table
    return next(
        Fraction(other.bitops)
        for other in figures()
        if other.table == number and other.scheme is not None and other.scheme.dense
    )


def _printed_part(number: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One table of the paper, with what the rules give beside it and notes under it."""
    head = ("data set", "method", "printed", "rule `paper`", "same digits", "saving printed, %")
    lines = _head(f"## Table {number} of the paper ({rows[0]['network']})", (*head, *_COUNTED))
    for row in rows:
        cells = [row["dataset"], row["method"], row["printed_bitops"], row["paper_bitops"]]
        cells += [{True: "yes", False: "**no**"}.get(row["paper_agrees"])]
        lines.append(_line([*cells, row["printed_saving_pct"], *_counted(row)]))
    notes = []
    if any(row["paper_base"] for row in rows):
        base = to_digits(BASES[number], 4)
        notes.append(f"Rule `paper` is relative: its ratio times {base} for the dense network.")
    dense = next((row["counted_dense_bitops"] for row in rows if row["scheme"]), None)
    if dense:
        notes.append(
            f"Counted, the dense network has {to_digits(dense)} BitOPs at 272 a 16-bit"
            f" multiply-accumulate, {dense / float(BASES[number]):.3g} times the paper's. No"
            " formula of the paper leads to its absolute values; nothing here is rescaled to them."
        )
    if any(not row["scheme"] for row in rows):
        notes.append("Without our values: rows whose arithmetic the paper does not describe.")
    for row in rows:
        if row["fit_bitops"]:
            notes.append(
                f"{row['method']}: the rule does not give the printed figures. With the strided"
                " 1x1 shortcuts left dense, of which the paper says nothing (a fit), it would give"
                f" {row['fit_bitops']} and {row['fit_saving_pct']} %."
            )
    return "\n".join([*lines, "", *(f"* {note}" for note in notes)])


def _other_part(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = _head("## Without a printed figure", ("network", "scheme", *_COUNTED))
    lines += [_line([row["network"], row["scheme"], *_counted(row)]) for row in rows]
    return "\n".join(lines)


_COUNTED = (
    "saving, rule `paper`, %",
    "saving, rule `exact`, %",
    "noise counted",
    "masks",
    "counted, rule `paper`",
    "counted, rule `exact`",
)


def _counted(row: Mapping[str, Any]) -> list[str | None]:
    """Cells under :data:`_COUNTED`."""
    exact, noise = row["exact_saving_pct"], row["noise"]
    return [
        row["paper_saving_pct"],
        None if exact is None else f"{exact:.1f}",
        None if noise is None else f"{noise:.4f}",
        row["masks"],
        _digits(row["counted_paper_bitops"]),
        _digits(row["counted_exact_bitops"]),
    ]


def _digits(value: float | None) -> str | None:
    return None if value is None else to_digits(value)


def _head(title: str, names: Sequence[str]) -> list[str]:
    return [title, "", _line(names), "|" + "---|" * len(names)]


def _line(cells: Sequence[str | None]) -> str:
    return "| " + " | ".join(cell or "" for cell in cells) + " |"
