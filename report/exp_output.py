"""Results of an experiment, ours beside what the paper prints: CSV, Markdown, picture, record."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..model.exp_plan import EXPERIMENTS
from ..traces.networks import layers
from . import paper_bitops, paper_robustness
from .bitops import bitops, paper_ratio
from .exp_checklist import checklist

__all__ = ["COLUMNS", "beside_paper", "markdown", "write"]

#: Columns of NAME.csv. Accuracies are shares; `paper` is what the paper prints for the row: clean
#: accuracy where `attack` is none, else robust accuracy, under whatever gradient it used.
COLUMNS = (
    "dataset",
    "data",
    "network",
    "model",
    "method",
    "scheme",
    "variant",
    "attack",
    "eps",
    "steps",
    "images",
    "clean",
    "straight_through",
    "as_in_paper",
    "worst_case",
    "paper",
    "remark",
)

#: Further columns where attacks were crafted on more views: BPDA, transfer, no gradient.
_VIEWS = {"dense-path": "dense_path", "dense": "dense", "none": "no_gradient"}

#: Why a row that the paper prints has no value of ours.
_NOT_RUN = {
    "TRADES": "cited by the paper",
    "FAT": "cited by the paper",
    "AWP": "cited by the paper",
    "RobustWRN": "cited by the paper",
    "DoubleWinQuant": "reproduced by the paper, not here",
}


def beside_paper(name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put the paper's figures to the rows of experiment `name`, and its other rows after them.

    A figure of the paper that no row of ours stands for becomes a row that says why.
    """
    result, met = [], set()
    for row in rows:
        key = (*(row[k] for k in ("dataset", "network", "method", "scheme", "variant", "attack")),)
        printed = paper_robustness.lookup(name, *key)
        met.add(key)
        views = {
            column: _share(row["shares"][view]["right"])
            for view, column in _VIEWS.items()
            if row["shares"] and view in row["shares"]
        }
        result.append({**row, **views, "paper": float(printed) / 100 if printed else None})
    for each in paper_robustness.figures(name):
        key = (each.dataset, each.network, each.method, each.scheme, each.variant, each.attack)
        if each.dataset and key not in met and each.method != "SINAI less OAT":
            remark = _NOT_RUN.get(each.method, "not run")
            empty = dict.fromkeys([*COLUMNS, "shares", "kind"])
            named = ("dataset", "network", "method", "scheme", "variant", "attack")
            empty |= dict(zip(named, key, strict=True)) | {"remark": remark}
            result.append(empty | {"paper": float(each.pct) / 100})
    order = {dataset: at for at, dataset in enumerate(dict.fromkeys(r["dataset"] for r in result))}
    return sorted(result, key=lambda row: order[row["dataset"]])


def write(record: Mapping[str, Any], folder: Path, *, command: str) -> None:
    """Write NAME.csv, NAME.md and NAME.json to `folder`; NAME.png where the paper has a figure."""
    name = record["experiment"]
    rows = beside_paper(name, record["rows"])
    columns = [*COLUMNS[:-2], *_extra(rows), *COLUMNS[-2:]]
    _csv(folder / f"{name}.csv", columns, rows)
    if name == "table10":
        found = checklist(record["rows"])
        _csv(folder / f"{name}-checklist.csv", list(found[0]), found)
    text = markdown(record, command=command)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    kept = json.dumps({"command": command, **record}, indent=1, allow_nan=False)
    (folder / f"{name}.json").write_text(kept + "\n", encoding="utf-8")
    _draw(record, folder)


def markdown(record: Mapping[str, Any], *, command: str) -> str:
    """The experiment as Markdown: tables, caps, notes."""
    name = record["experiment"]
    rows = beside_paper(name, record["rows"])
    parts = [f"# {record['title']}", f"    {command}", _caps(record)]
    if name == "table10":
        parts.append("\n".join(_checklist(checklist(record["rows"]))))
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        parts += _dataset(dataset, [row for row in rows if row["dataset"] == dataset])
    if name == "fig3":
        parts += _gains(rows)
    if number := EXPERIMENTS[name].bitops:
        parts.append("\n".join(_bitops(number, rows)))
    notes = [
        "Accuracies in percent of all images. Straight through and as in paper are the point's own"
        " attack with that gradient; the worst case is the minimum, image by image, over it and"
        " over PGD-20 straight-through, BPDA, transfer and Square within the same eps, EOT too on"
        " networks that draw. C&W and unbounded PGD leave eps and have no others in their minimum.",
        *record["notes"],
        *dict.fromkeys(
            f"AutoAttack on {row['method']}: {said}"
            for row in record["rows"]
            for said in row.get("autoattack_remarks") or ()
        ),
    ]
    parts.append("\n".join(f"* {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _caps(record: Mapping[str, Any]) -> str:
    data = ", ".join(f"{k}: {v['name']}" for k, v in record["data"].items()) or "none"
    tuned = "one network for each scheme" if record["each"] else "one network for all schemes"
    lines = [
        f"Scale `{record['scale']}`, {tuned}, seed {record['seed']}, {record['device']}. Data:"
        f" {data}."
    ]
    if record["caps"]:
        lines += ["", "What keeps this from the paper's protocol:", ""]
        lines += [f"* {line}" for line in record["caps"]]
    return "\n".join(lines)


def _dataset(dataset: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    data = next((row["data"] for row in rows if row["data"]), None)
    yield f"## {dataset}" + (f" ({data})" if data else "")
    if data is None:
        yield f"{rows[0]['remark']}. The paper's figures are in the CSV file."
        return
    extra, several = _extra(rows), len({row["network"] for row in rows}) > 1
    variants, remarks = any(r["variant"] for r in rows), any(r["remark"] for r in rows)
    head = ["network"] * several + ["method", "scheme"] + ["variant"] * variants
    head += [
        "attack",
        "clean",
        "straight through",
        "as in paper",
        *(n.replace("_", " ") for n in extra),
    ]
    head += ["worst case", "paper"] + ["remark"] * remarks
    lines = _head(head)
    for row in rows:
        cells = [row["network"]] * several + [row["method"], row["scheme"]]
        cells += [row["variant"] or ""] * variants + [row["attack"]]
        values = ("clean", "straight_through", "as_in_paper", *extra, "worst_case", "paper")
        digits = {"paper": 2}
        cells += [_pct(row.get(value), digits.get(value, 1)) for value in values]
        lines.append(_line([*cells, *([row["remark"] or ""] * remarks)]))
    yield "\n".join(lines)


def _checklist(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Signs of obfuscated gradients"
    yield ""
    yield from _head(["network", "gradient", "item", "sign of masking", "ours", "figures", "paper"])
    for row in found:
        sign = {None: "not run", True: "**shows**", False: "no sign"}[row["sign"]]
        yield _line(
            [
                row["network"],
                row["gradient"],
                str(row["item"]),
                row["sign_of_masking"],
                sign,
                row["figures"],
                row["paper"],
            ]
        )


def _gains(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What SINAI keeps more than OAT in points, where the paper's text gives such a figure."""
    lines = _head(["data set", "attack", "straight through", "as in paper", "worst case", "paper"])
    for each in paper_robustness.figures("fig3"):
        pair = [
            row
            for method in ("SINAI", "OAT")
            for row in rows
            if (row["dataset"], row["method"], row["attack"]) == (each.dataset, method, each.attack)
        ]
        cells = []
        for column in ("straight_through", "as_in_paper", "worst_case"):
            values = [row[column] for row in pair]
            known = len(values) == 2 and None not in values
            cells.append(f"{100 * (values[0] - values[1]):+.1f}" if known else "-")
        lines.append(_line([each.dataset, each.attack, *cells, f"+{each.pct}"]))
    yield "## SINAI less OAT, in points"
    yield "\n".join(lines)


def _bitops(number: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """BitOPs of one of the paper's tables: printed, by its rule, and counted on what ran."""
    models = {row["network"]: row["model"] for row in rows if row["model"]}
    yield "## BitOPs relative to dense"
    yield ""
    yield from _head(["data set", "method", "scheme", "printed", "rule `paper`", "rule `exact`"])
    for each in paper_bitops.figures():
        if each.table != number:
            continue
        cells = [each.dataset, each.method, str(each.scheme or ""), each.bitops, "", ""]
        if each.scheme is not None:
            counted = layers(models[each.network])
            share = None if each.scheme.dense else float(1 - each.scheme.ratio)
            ratio = 1.0 if each.scheme.dense else float(paper_ratio(each.scheme.ratio))
            exact = bitops(counted, share) / bitops(counted, None)
            cells[-2:] = f"{ratio:.4f}", f"{exact:.4f}"
        yield _line(cells)
    yield ""
    names = ", ".join(f"`{model}`" for model in models.values())
    yield (
        f"Rule `exact` counts {names}, the network that ran, at the nominal share of essential"
        " neurons; `sinai bitops` has both rules of the paper's own networks."
    )


def _draw(record: Mapping[str, Any], folder: Path) -> None:
    from .exp_plots import FIGURES

    name, rows = record["experiment"], record["rows"]
    ran = [row for row in rows if row["clean"] is not None]
    if name not in FIGURES or not ran:
        return
    absent = dict.fromkeys(row["dataset"] for row in rows if row["clean"] is None)
    parts = [
        f"Scale {record['scale']}: {', '.join(dict.fromkeys(row['model'] for row in ran))},"
        f" {ran[0]['images']} images of {ran[0]['data']}.",
        *(f"{dataset} is not given." for dataset in absent),
    ]
    figure = FIGURES[name](rows, " ".join(parts))
    figure.savefig(folder / f"{name}.png", dpi=200)


def _extra(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Columns of further views, if attacks were crafted on any but the usual two."""
    rows = list(rows)
    views = _VIEWS.values()
    if not any(row.get("dense_path") is not None for row in rows):
        return []
    return [column for column in views if any(row.get(column) is not None for row in rows)]


def _csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _share(right: Sequence[float]) -> float:
    return round(sum(right) / len(right), 4)


def _pct(share: float | None, digits: int) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}"


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
