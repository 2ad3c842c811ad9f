"""Robustness against EDP: accuracy under attack beside what the machines spend, of one network.

`sinai attack` measured the accuracies; the traces of the same network, which the model digest
proves, give the energy-delay product.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from ..common.errors import InputError
from ..common.robustness import Robustness, Row
from ..traces import schema
from .findings import normalise
from .plots import draw_tradeoff
from .points import jobs, points, run_all
from .run import versions

__all__ = ["COLUMNS", "MACHINES", "find_traces", "markdown", "tradeoff"]

#: Machines of the table, in order; the first two are drawn.
MACHINES = ("unstructured", "structured", "structured-expanded")

#: Columns of tradeoff.csv, in order. Accuracies and their standard errors are shares of the
#: attacked images; `attacks` are those of the worst case; what a machine spends is a mean over the
#: images of the trace.
COLUMNS = (
    "network",
    "scheme",
    "noise",
    "machine",
    "attacked_images",
    "clean",
    "clean_se",
    "straight_through",
    "as_in_paper",
    "as_in_paper_se",
    "worst_case",
    "worst_case_se",
    "attacks",
    "trace_images",
    "cycles",
    "latency_s",
    "energy_pj",
    "edp_js",
    "latency_norm",
    "energy_norm",
    "edp_norm",
)

_CAPTION = (
    "{checkpoint}, {images} images, eps {eps:.3g}/255. Worst case: for each image the strongest"
    " of {attacks} with every gradient{without}. As in paper: the zero gradient of rounding alone."
    " Bars: standard error. EDP of clean images, energy of logic assumed, relative to dense on the"
    " unstructured machine."
)


def find_traces(attacked: Robustness, given: Sequence[Path] | None = None) -> list[Path]:
    """The trace of every attacked scheme, from `given` or from those that come with the package.

    Raises
    ------
    InputError
        If a trace is of another network, of another form of P, synthetic, or of a scheme that was
        not attacked, or a scheme has none.
    """
    wanted = attacked.worst.keys()
    found: dict[str, Path] = {}
    for path in given if given is not None else schema.bundled().values():
        trace = schema.load(path)
        fault = _fault(attacked, trace)
        if given is None and (fault or str(trace.scheme) not in wanted):
            continue
        if fault:
            raise InputError(f"{path}: {fault}")
        if str(trace.scheme) not in wanted:
            raise InputError(
                f"{path}: its scheme, {trace.scheme}, was not attacked; leave it out, or give one"
                f" of {', '.join(wanted)}"
            )
        found[str(path)] = path
    schemes = {str(schema.load(path).scheme) for path in found.values()}
    missing = [scheme for scheme in wanted - schemes if scheme != "dense"]
    if missing or not found:
        raise InputError(
            f"{' and '.join(sorted(missing)) or 'dense'}: there is no trace of network"
            f" {attacked.model_digest[:12]} ({attacked.checkpoint}); give one a scheme with"
            f" --traces, made by `sinai trace export --checkpoint {attacked.checkpoint}"
            f" --projection {attacked.projection}`"
        )
    return list(found.values())


def _fault(attacked: Robustness, trace: schema.Trace) -> str:
    """Why a trace does not belong to what was attacked; empty if it does."""
    if trace.synthetic:
        return "its masks are synthetic, so no network was attacked for it; give a real trace"
    if trace.manifest.model_digest != attacked.model_digest:
        return (
            f"its model_digest is {trace.manifest.model_digest[:12]}, that of the attacked network"
            f" {attacked.checkpoint} is {attacked.model_digest[:12]}; attack the network of the"
            " trace, or export a trace of the one attacked"
        )
    if trace.layers[0].projection != attacked.projection:
        return (
            f"its form of P is {trace.layers[0].projection}, that of the attacked network is"
            f" {attacked.projection}; give the same one to both with --projection"
        )
    return ""


def tradeoff(
    attacked: Robustness,
    traces: Sequence[Path],
    directory: Path,
    *,
    workers: int = 1,
    progress: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Simulate `traces`, join them with what was `attacked`, write tradeoff.csv, .md, .json, .png
    and .svg into an existing directory and return the content of the .json.

    `traces` are those of :func:`find_traces`. A scheme's masks run on every machine of
    :data:`MACHINES` that figure 5 runs them on.
    """
    network = schema.load(traces[0]).manifest.network
    planned = jobs(traces, [network])
    found = run_all(points, planned, workers=workers, progress=progress, label="tradeoff")
    records = [record for each in found for record in each]
    table = _join(attacked, normalise(pd.DataFrame(records)))
    made = {
        "schema": 1,
        "command": command,
        "versions": versions(),
        "checkpoint": attacked.checkpoint,
        "model_digest": attacked.model_digest,
        "projection": attacked.projection,
        "data": attacked.data,
        "settings": attacked.settings,
        "bounded": list(attacked.bounded),
        "traces": {each["scheme"]: each["digest"] for each in records},
        "assumed": sorted({name for each in records for name in each["assumed"]}),
        # None where an attack has no such gradient: JSON has no NaN
        "rows": [
            {name: None if value != value else value for name, value in row.items()}
            for row in table.to_dict("records")
        ],
    }
    caption = _caption(attacked, table)
    table.to_csv(directory / "tradeoff.csv", index=False, lineterminator="\n")
    text = f"# Robustness against EDP\n\n{caption}\n\n{markdown(table)}"
    (directory / "tradeoff.md").write_text(text, encoding="utf-8")
    text = json.dumps(made, indent=2, allow_nan=False)
    (directory / "tradeoff.json").write_text(text + "\n", encoding="utf-8")
    # Equal tables give equal files: no date, and identifiers that do not change.
    with matplotlib.rc_context({"svg.hashsalt": "tradeoff", "svg.fonttype": "path"}):
        figure = draw_tradeoff(table, caption)
        figure.savefig(directory / "tradeoff.png", dpi=300, metadata={"Software": None})
        figure.savefig(directory / "tradeoff.svg", metadata={"Date": None})
    return made


def markdown(table: pd.DataFrame) -> str:
    """The table for a reader: a row a scheme, EDP of each machine relative to dense."""
    head = ("scheme", "noise", "clean", "as in paper", "worst case")
    lines = ["| " + " | ".join((*head, *(f"EDP, {name} [1]" for name in MACHINES))) + " |"]
    lines.append("|---" + "|--:" * (len(head) - 1 + len(MACHINES)) + "|")
    for scheme, rows in table.groupby("scheme", sort=False):
        first, edp = rows.iloc[0], rows.set_index("machine")["edp_norm"]
        accuracies = [
            _percent(first[name], first[f"{name}_se"])
            for name in ("clean", "as_in_paper", "worst_case")
        ]
        spent = [f"{edp[name]:.3f}" if name in edp else "-" for name in MACHINES]
        cells = (scheme, f"{100 * first['noise']:.1f} %", *accuracies, *spent)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _join(attacked: Robustness, simulated: pd.DataFrame) -> pd.DataFrame:
    """Rows of tradeoff.csv: schemes by rising noise, then machines."""
    accuracies = pd.DataFrame(
        [
            {"scheme": scheme, **_shares(row), "attacks": " ".join(attacked.ran(scheme))}
            for scheme, row in attacked.worst.items()
        ]
    )
    spent = simulated[simulated["machine"].isin(MACHINES)].rename(
        columns={"images": "trace_images"}
    )
    table = spent.merge(accuracies, on="scheme", validate="many_to_one")
    order = table["machine"].map(MACHINES.index)
    table = table.assign(_kind=table["scheme"].str.split(":").str[0], _order=order)
    table = table.sort_values(["_kind", "noise_target", "_order"], kind="stable")
    return table[list(COLUMNS)].reset_index(drop=True)


def _shares(row: Row) -> dict[str, Any]:
    """Accuracies with their standard errors, of independent images."""
    found: dict[str, Any] = {"attacked_images": row.images}
    for name in ("clean", "straight_through", "as_in_paper", "worst_case"):
        share = getattr(row, name)
        share = math.nan if share is None else share
        found[name] = share
        found[f"{name}_se"] = math.sqrt(share * (1 - share) / row.images)
    return found


def _caption(attacked: Robustness, table: pd.DataFrame) -> str:
    without = ""
    for scheme in attacked.worst:
        if left := [name for name in attacked.bounded if name not in attacked.ran(scheme)]:
            without += f", {scheme} without {' and '.join(left)}"
    return _CAPTION.format(
        checkpoint=attacked.checkpoint,
        images=table["attacked_images"].iloc[0],
        eps=255 * attacked.settings["eps"],
        attacks=", ".join(attacked.bounded),
        without=without,
    )


def _percent(share: float, error: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} ± {100 * error:.1f} %"
