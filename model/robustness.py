"""Robust accuracy of a network under attacks, with every gradient and the worst of all.

A gain that only one gradient shows is no gain: rounding has the gradient zero, so an attacker who
takes it at its word sees less than there is. Tables therefore have three columns: straight-through,
as in the paper, and the worst case, which is the minimum over attacks image by image. An attack is
crafted on a view of the network (:mod:`sinai.model.gradients`) and judged on the network itself.

A network with noise of its own (:mod:`sinai.model.baselines`) is right on an image for some draws
and wrong for others, so the image counts by their share. The lowest of several such estimates lies
below what is estimated: so the worst attack of an image is chosen by draws of its own, and counts
by the others.
"""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.robustness import COLUMNS, FILE, WORST
from ..common.scheme import Scheme
from .attacks import ATTACKS, Settings, attack, remarks
from .baselines import randomised
from .data import Images
from .device import pick
from .evaluate import spread
from .gradients import NoiseDistance
from .libraries import LIBRARIES, autoattack, foolbox
from .pool import Pool
from .sinai import layers_of, set_scheme
from .weights import digest

__all__ = ["COLUMNS", "WORST", "Cell", "measure", "plan", "table", "worst", "write"]


@dataclass(frozen=True)
class Cell:
    """One attack with one gradient under one scheme; `gradient` is empty where it needs none."""

    scheme: str
    attack: str
    gradient: str


def plan(schemes: Sequence[str], attacks: Sequence[str]) -> list[Cell]:
    """Return what is to be run.

    Under ``dense`` there is no 4-bit path: all gradients are one, and attacks that take that of the
    dense network are PGD again and left out.

    Raises
    ------
    InputError
        If a scheme or an attack is unknown, or none is given.
    """
    if not schemes or not attacks:
        raise InputError("attacks and schemes: give at least one of each")
    for name in attacks:
        if name not in ATTACKS:
            raise InputError(f"attack must be one of {', '.join(ATTACKS)}, not {name!r}")
    cells = []
    for text in dict.fromkeys(str(Scheme.parse(scheme)) for scheme in schemes):
        for name in (name for name in ATTACKS if name in attacks):
            gradients = ATTACKS[name].gradients
            if text == "dense" and gradients:
                gradients = tuple(g for g in gradients if g == "straight-through")
                if not gradients:
                    continue
            cells += [Cell(text, name, gradient) for gradient in gradients or ("",)]
    if not cells:
        raise InputError(
            f"attacks {', '.join(attacks)} are PGD itself under dense; add another scheme or attack"
        )
    return cells


def measure(
    net: nn.Module,
    data: Images,
    cells: Sequence[Cell],
    *,
    count: int = 100,
    settings: Settings | None = None,
    batch: int = 50,
    draws: int = 10,
    seed: int = 0,
    device: str = "auto",
    journal: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run `cells` on `count` images spread evenly over `data` and return the record.

    Only images that the network has right are attacked, in some draw if it is randomised. An image
    of a :class:`sinai.model.pool.Pool` counts by the share of members that have it right, one of a
    randomised network by the share of `draws`: the same noise for all attacks, none of which was
    crafted on it.

    Parameters
    ----------
    net : Module
        Takes images in [0, 1]: a converted network, whose scheme is that of the last cell
        afterwards, or one without SINAI layers, for scheme ``dense``.
    batch : int
        Images at a time. Each batch has a seed of its own, the same for all cells, so a resumed run
        gives what an uninterrupted one gives.
    draws : int
        Forward passes of a randomised network that judge an image, and as many that choose the
        worst attack; the record has 1 for other networks.
    device : {"auto", "cpu", "cuda"}
    journal : Path, optional
        File that keeps each batch once it is done, and from which such batches are taken; one of
        another network, data, settings or versions is begun anew.
    progress : callable, optional
        Called as ``progress(done, of)`` in batches.

    Returns
    -------
    dict
        settings, seed, batch, draws, device, versions, network (SHA-256 of its numbers), data,
        indices, labels, clean (scheme to what each image counts), cells (each with right, l2, linf
        of every image, seconds and remarks; of a randomised network with chosen, the shares of the
        draws that choose), bounded (those of the attacks that stay within eps) and rows
        (:func:`table`). JSON can hold it.

    Raises
    ------
    InputError
        If a number is out of range, the network has no SINAI layer and a cell needs one, or the
        journal cannot be written.
    MissingError
        If a library is not installed.
    """
    foolbox(), autoattack()
    settings = settings or Settings()
    if batch < 1:
        raise InputError(f"batch must be at least 1, not {batch}")
    if draws < 1:
        raise InputError(f"draws must be at least 1, not {draws}")
    if seed < 0:
        raise InputError(f"seed must be at least 0, not {seed}")
    _check(net, cells)
    device = pick(device)
    net = net.eval().to(device)
    draws = draws if randomised(net) else 1
    chosen = data.take(spread(len(data), count))
    origin = chosen.origin if chosen.origin is not None else np.arange(count)
    record: dict[str, Any] = {
        "settings": asdict(settings),
        "seed": seed,
        "batch": batch,
        "draws": draws,
        "device": device,
        "versions": _versions(),
        "network": digest(net),
        "randomised": isinstance(net, Pool) or randomised(net),
        "data": data.name,
        "images_sha256": hashlib.sha256(chosen.images.tobytes()).hexdigest(),
        "indices": origin.tolist(),
        "labels": chosen.labels.tolist(),
    }
    starts = range(0, count, batch)
    schemes = list(dict.fromkeys(cell.scheme for cell in cells))
    work = [(Cell(scheme, "clean", ""), start) for scheme in schemes for start in starts]
    work += [(cell, start) for cell in cells for start in starts]
    found: dict[tuple[Cell, int], dict[str, Any]] = {}
    with _journal(journal, record) as (kept, keep):
        for done, (cell, start) in enumerate(work):
            if progress is not None:
                progress(done, len(work))
            if (cell, start) not in kept:
                part = slice(start, min(start + batch, count))
                images = torch.from_numpy(chosen.images[part]).float().div_(255).to(device)
                labels = torch.from_numpy(chosen.labels[part]).to(device)
                set_scheme(net, cell.scheme)
                clean = found.get((Cell(cell.scheme, "clean", ""), start))
                row = _run(net, images, labels, cell, clean, settings, draws, seed + start)
                kept[cell, start] = row
                keep({**asdict(cell), "start": start, **row})
            found[cell, start] = kept[cell, start]
        if progress is not None:
            progress(len(work), len(work))
    joined = {cell: _join(found[cell, start] for start in starts) for cell, _ in work}
    record["clean"] = {s: joined[Cell(s, "clean", "")]["right"] for s in schemes}
    record["cells"] = [{**asdict(cell), **joined[cell]} for cell in cells]
    record["bounded"] = [n for n in dict.fromkeys(c.attack for c in cells) if ATTACKS[n].bounded]
    record["rows"] = table(record)
    return record


def table(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row a scheme and attack, and one a scheme for the minimum over bounded attacks.

    Accuracies are shares of all images, wrong ones of the clean network included. None where an
    attack has no such gradient: attacks without a choice of gradient have a worst case alone. Under
    ``dense`` both gradients are the same. median_l2 is the L2 norm of what fooled the network, in
    some draw if it is randomised.
    """
    rows = []
    for scheme, clean in record["clean"].items():
        cells = [cell for cell in record["cells"] if cell["scheme"] == scheme]
        names = list(dict.fromkeys(cell["attack"] for cell in cells))
        groups = [(name, [cell for cell in cells if cell["attack"] == name]) for name in names]
        bounded = [cell for cell in cells if ATTACKS[cell["attack"]].bounded]
        for name, group in [*groups, *([(WORST, bounded)] if bounded else [])]:
            paper = "straight-through" if scheme == "dense" else "as-in-paper"
            rows.append(
                {
                    "scheme": scheme,
                    "attack": name,
                    "images": len(clean),
                    "clean": round(float(np.mean(clean)), 4),
                    "straight_through": _lowest(group, "straight-through"),
                    "as_in_paper": _lowest(group, paper),
                    "worst_case": _lowest(group),
                    "median_l2": None if name == WORST else _median_l2(group),
                }
            )
    return rows


def write(record: Mapping[str, Any], folder: Path) -> None:
    """Write robustness.json (the record), robustness.csv and robustness.md (its rows)."""
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")
    with (folder / "robustness.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(record["rows"])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |"]
    lines.append("|---" * len(COLUMNS) + "|")
    for row in record["rows"]:
        lines.append("| " + " | ".join(_cell(name, row[name]) for name in COLUMNS) + " |")
    (folder / "robustness.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if column == "median_l2" else f"{100 * value:.1f} %"


def _run(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    cell: Cell,
    clean: Mapping[str, Any] | None,
    settings: Settings,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """What each image of a batch counts after an attack, and how far it was moved."""
    begun, count = time.monotonic(), len(images)
    if clean is None:
        shares = _right(net, images, labels, draws, seed)
        return {**shares, "l2": [0.0] * count, "linf": [0.0] * count, "seconds": 0.0}
    before = _chosen(clean)
    at = torch.from_numpy(np.flatnonzero(before)).to(images.device)
    moved = images.clone()
    with remarks() as said:
        moved[at] = attack(
            net,
            images[at],
            labels[at],
            cell.attack,
            gradient=cell.gradient or "straight-through",
            settings=settings,
            seed=seed,
        )
    after = _right(net, moved, labels, draws, seed)
    # An attacker may always leave an image as it was.
    left = before < _chosen(after)
    shares = {name: np.where(left, clean[name], after[name]).tolist() for name in after}
    change = (moved - images).flatten(1).double()
    return {
        **shares,
        "l2": change.norm(dim=1).tolist(),
        "linf": change.abs().amax(1).tolist(),
        "seconds": round(time.monotonic() - begun, 2),
        "remarks": said,
    }


@torch.no_grad()
def _right(
    net: nn.Module, images: Tensor, labels: Tensor, draws: int, seed: int
) -> dict[str, list[float]]:
    """Share of draws, and of a pool's members, that have each image right.

    `right` is what the image counts, `chosen` is of as many other draws; without any noise to draw
    there is `right` alone.
    """
    members = net.members if isinstance(net, Pool) else [net]
    noisy = randomised(net)
    devices = [images.device] if images.device.type == "cuda" else []
    shares = {}
    with torch.random.fork_rng(devices):
        for stream, name in enumerate(("right", "chosen") if noisy else ("right",)):
            # The same noise for every attack, and another than attacks see, whose seed is `seed`.
            torch.manual_seed(int(np.random.SeedSequence((seed, 1, stream)).generate_state(1)[0]))
            hits = [m(images).argmax(1) == labels for m in members for _ in range(draws)]
            shares[name] = torch.stack(hits).double().mean(0).tolist()
    return shares


def worst(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """What each image counts under the worst of several attacks, by `right` and `chosen` of each.

    The worst one of each image, or one and the same for all where that finds more: a choice by few
    draws is at times a wrong one. The result has the same keys, so that the worst of several worsts
    is a worst, too.
    """
    at = np.argmin([_chosen(cell) for cell in cells], axis=0)
    names = [name for name in ("right", "chosen") if name in cells[0]]
    each = {
        name: np.asarray([cell[name] for cell in cells])[at, np.arange(len(at))].tolist()
        for name in names
    }
    alike = [{name: cell[name] for name in names} for cell in cells]
    return min([each, *alike], key=lambda shares: np.mean(shares["right"]))


def _chosen(shares: Mapping[str, Any]) -> np.ndarray:
    """The shares by which the worst attack is chosen: those that count, if there is no noise."""
    return np.asarray(shares.get("chosen", shares["right"]))


def _check(net: nn.Module, cells: Sequence[Cell]) -> None:
    """Cells of a network without SINAI layers must do without."""
    if any(True for _ in layers_of(net)):
        return
    for cell in cells:
        if cell.scheme != "dense":
            raise InputError(
                f"network: {type(net).__name__} has no SINAI layer, so scheme must be dense, not"
                f" {cell.scheme!r}; convert it first"
            )
        if ATTACKS[cell.attack].needs_layers:
            NoiseDistance(net)


def _join(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    parts = list(parts)
    names = [name for name in ("right", "chosen", "l2", "linf") if name in parts[0]]
    joined = {name: [v for part in parts for v in part[name]] for name in names}
    joined["seconds"] = round(sum(part["seconds"] for part in parts), 2)
    joined["remarks"] = list(dict.fromkeys(r for part in parts for r in part.get("remarks", [])))
    return joined


def _lowest(group: Sequence[Mapping[str, Any]], gradient: str = "") -> float | None:
    cells = [cell for cell in group if gradient in ("", cell["gradient"])]
    return round(float(np.mean(worst(cells)["right"])), 4) if cells else None


def _median_l2(group: Sequence[Mapping[str, Any]]) -> float | None:
    """Over gradients and images that were moved and are wrong, for some member or draw."""
    sizes = [
        size
        for cell in group
        for size, right in zip(cell["l2"], cell["right"], strict=True)
        if right < 1 and size > 0
    ]
    return round(float(np.median(sizes)), 4) if sizes else None


def _versions() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in ("sinai", *LIBRARIES)}
    return {"python": platform.python_version(), **versions}


@contextmanager
def _journal(
    path: Path | None, identity: Mapping[str, Any]
) -> Iterator[tuple[dict[tuple[Cell, int], dict[str, Any]], Callable[[dict[str, Any]], None]]]:
    """Give what an earlier run has done, and a function that keeps another batch."""
    if path is None:
        yield {}, lambda row: None
        return
    identity = json.loads(json.dumps(identity))
    rows = _read(path, identity)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); give another place"
        ) from None

    def keep(row: dict[str, Any]) -> None:
        file.write(json.dumps(row) + "\n")
        file.flush()

    with file:
        keep(identity)
        kept = {}
        for row in rows:
            keep(row)
            cell = Cell(row.pop("scheme"), row.pop("attack"), row.pop("gradient"))
            kept[cell, row.pop("start")] = row
        yield kept, keep


def _read(path: Path, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a journal of the same run; a last line cut short is left out."""
    rows = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            rows.append(json.loads(line))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        pass
    return rows[1:] if rows and rows[0] == identity else []
