"""Experiments measured point by point, every attack kept once it is done.

A point of a noisy network has three columns (:mod:`sinai.model.robustness`): straight-through, as
in the paper, and the worst case. The last is the minimum, image by image, over the point's own
attack with every gradient and over what no gradient can hide from: PGD straight-through, BPDA,
transfer from the dense network and Square within the same eps, and on randomised networks EOT.
"""

from __future__ import annotations

import copy
import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.errors import InputError
from .attacks import ATTACKS, Settings
from .baselines import randomised
from .device import pick
from .exp_nets import Networks, Source
from .exp_plan import EXPERIMENTS, Experiment, Point
from .exp_rows import mean, row_of, summarised
from .exp_scales import SCALES, Scale, caps
from .pool import Pool
from .robustness import Cell, measure, worst
from .sinai import layers_of

__all__ = ["plan", "run"]

#: Companions of a bounded attack, whose minimum makes the worst case, and their gradients.
_COMPANIONS = (
    ("pgd", "straight-through"),
    ("bpda", "dense-path"),
    ("transfer", "dense"),
    ("square", ""),
)


def plan(experiment: Experiment, scale: Scale, *, each: bool = False) -> Experiment:
    """Return the experiment as this scale runs it.

    Parameters
    ----------
    each : bool
        Fine-tune one network for each scheme, in place of one for all.
    """
    points = []
    for point in experiment.points:
        if point.fine and scale.coarse:
            continue
        # A capped AutoAttack is capped in Table 3, too, which asks for 10 steps.
        most = scale.settings.autoattack_steps
        changes = tuple(c for c in point.changes if c[0] != "autoattack_steps" or c[1] < most)
        point = replace(point, changes=changes)
        if each and point.subject.tuned:
            point = replace(point, subject=replace(point.subject, tuned=(point.scheme,)))
        points.append(point)
    return replace(experiment, points=tuple(points))


def run(
    name: str,
    scale: str,
    data: Mapping[str, Source],
    work: Path,
    *,
    images: int | None = None,
    each: bool = False,
    seed: int = 0,
    device: str = "auto",
    tell: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run an experiment and return its record, which JSON can hold.

    Parameters
    ----------
    name, scale : str
        Keys of :data:`sinai.model.exp_plan.EXPERIMENTS` and :data:`sinai.model.exp_scales.SCALES`.
    data : mapping of str to Source
        By the paper's data set; rows of others say that they are missing.
    work : Path
        Folder that keeps networks and attacks. The same one serves all experiments.
    images : int, optional
        Test images at most, in place of the scale's.
    each : bool
        Fine-tune one network for each scheme, in place of one for all.
    seed : int
        Of training, P and attacks.
    tell : callable, optional
        Called as ``tell(what, done, of)``.
    say : callable, optional
        Called with each line that the reader should see at once: caps and what is missing.

    Returns
    -------
    dict
        experiment, scale, title, notes, caps, seed, device, versions, each, data, networks (name of
        folder to what :meth:`sinai.model.exp_nets.Networks.recipes` says) and rows. A row: dataset,
        data, network, model, method, scheme, variant, attack (its label), kind (its name), eps,
        steps, images, clean, straight_through, as_in_paper, worst_case, remark, and shares, which
        holds what every image counts (`right`, as in :func:`sinai.model.robustness.measure`), by
        gradient and for ``clean`` and ``worst``. None where a row has no such value.

    Raises
    ------
    InputError
        If a number is out of range, or data do not fit a network.
    MissingError
        If a library is not installed.
    """
    size, say = SCALES[scale], say or (lambda line: None)
    if images is not None and images < 1:
        raise InputError(f"--limit must be at least 1, not {images}")
    device = pick(device)
    experiment = plan(EXPERIMENTS[name], size, each=each)
    count = images or size.images
    sets = {point.subject.dataset: data.get(point.subject.dataset) for point in experiment.points}
    wanted = list(dict.fromkeys(point.subject.network for point in experiment.points))
    train_images = max((s.train_images for s in sets.values() if s is not None), default=0)
    limits = caps(size, wanted, count, train_images)
    for line in limits:
        say(f"{scale}: {line}")
    nets = Networks(size, dict(data), work, device=device, seed=seed, tell=tell)
    measuring = _Measuring(nets, work, count, device, seed, tell)
    rows, used = [], {}
    for index, point in enumerate(experiment.points):
        if tell is not None:
            tell(f"{name}: {point.label} on {point.subject.method}", index, len(experiment.points))
        asked, remark = _available(point, data, size)
        row = row_of(point, size, remark)
        if asked is None:
            if all(remark != other["remark"] for other in rows):
                say(remark)
            rows.append(row)
            continue
        row["data"] = data[asked.subject.dataset].test.name
        rows.append(row | measuring.point(asked))
        used[nets.name(asked.subject)] = nets.recipes(asked.subject)
    rows = summarised(rows, experiment.summary)
    return {
        "schema": 1,
        "experiment": name,
        "title": experiment.title,
        "notes": list(experiment.notes),
        "scale": scale,
        "caps": limits,
        "each": each,
        "seed": seed,
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "versions": measuring.versions,
        "settings": asdict(size.settings),
        "data": {k: {"spec": s.spec, "name": s.test.name} for k, s in data.items()},
        "networks": used,
        "rows": rows,
    }


def _available(point: Point, data: Mapping[str, Source], scale: Scale) -> tuple[Point | None, str]:
    """The point on data that are there, or None, and what the row must say of it."""
    dataset, remark = point.subject.dataset, ""
    if scale.stand_in and dataset == "ImageNet" and dataset not in data and "CIFAR-10" in data:
        point = replace(point, subject=replace(point.subject, dataset="CIFAR-10"))
        dataset, remark = "CIFAR-10", "on CIFAR-10: ImageNet is not given"
    if dataset not in data:
        return None, f"no data: {dataset} is not given"
    recipe = scale.recipes[point.subject.network]
    if point.subject.network == "vit_b16" and data[dataset].side != recipe.resolutions[-1]:
        side = recipe.resolutions[-1]  # of its positions, which are learned
        return None, f"no data: {recipe.model} needs images of {side}x{side} pixels"
    return point, remark


class _Measuring:
    """Measures attacks one by one; what is done lies in the work folder and in memory."""

    def __init__(
        self,
        nets: Networks,
        work: Path,
        count: int,
        device: str,
        seed: int,
        tell: Callable[[str, int, int], None] | None,
    ):
        self.nets, self.work, self.count = nets, work, count
        self.device, self.seed, self.tell = device, seed, tell
        self.known: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, str] = {"python": platform.python_version()}

    def point(self, point: Point) -> dict[str, Any]:
        """The columns of a row that are measured."""
        settings = replace(self.nets.scale.settings, **dict(point.changes))
        near = replace(self.nets.scale.settings, eps=settings.eps)
        net = self._network(point)
        if point.attack == "none":  # PGD is wanted of the same network anyway, and knows it
            cell = Cell(point.scheme, "pgd", "straight-through")
            clean = self._cell(net, point, cell, near)["clean"]
            return _columns({"clean": clean}, point.scheme)
        drawing = isinstance(net, Pool) or randomised(net)
        found = {cell: self._cell(net, point, cell, settings) for cell in _cells(point, drawing)}
        shares = {cell.gradient or "none": each["after"] for cell, each in found.items()}
        every = list(shares.values())
        if ATTACKS[point.attack].bounded:
            for attack, gradient in [*_COMPANIONS, *([("eot", "straight-through")] * drawing)]:
                if point.scheme != "dense" or gradient in ("straight-through", ""):
                    cell = Cell(point.scheme, attack, gradient)
                    every.append(self._cell(net, point, cell, near)["after"])
        clean = next(iter(found.values()))["clean"]
        shares = {"clean": clean, **shares, "worst": worst(every)}
        said = dict.fromkeys(remark for each in found.values() for remark in each["remarks"])
        return {**_columns(shares, point.scheme), "autoattack_remarks": list(said)}

    def _network(self, point: Point) -> nn.Module:
        net = self.nets.get(point.subject)
        if point.score == "value":
            return net
        net = copy.deepcopy(net)
        for layer in layers_of(net):
            layer.switches = replace(layer.switches, score=point.score)
        return net

    def _cell(self, net: nn.Module, point: Point, cell: Cell, settings: Settings) -> dict[str, Any]:
        """What every image counts, clean and after one attack with one gradient."""
        source = self.nets.data[point.subject.dataset]
        count = min(self.count or len(source.test), len(source.test))
        decides = {
            "network": self.nets.name(point.subject),
            "pool": point.subject.pool,
            "score": point.score,
            "cell": asdict(cell),
            "settings": asdict(settings),
            "images": count,
            "seed": self.seed,
            "batch": self.nets.scale.batch,
        }
        key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
        if key in self.known:
            return self.known[key]
        what = f"{cell.attack} {cell.gradient} on {point.subject.method} {point.scheme}"

        def show(done: int, of: int) -> None:
            if self.tell is not None:
                self.tell(what, done, of)

        record = measure(
            net,
            source.test,
            [cell],
            count=count,
            settings=settings,
            batch=self.nets.scale.batch,
            seed=self.seed,
            device=self.device,
            journal=self.work / "attacks" / f"{key}.jsonl",
            progress=show,
        )
        self.versions = record["versions"]
        [one] = record["cells"]
        self.known[key] = {
            "clean": {"right": record["clean"][point.scheme]},
            "after": {name: one[name] for name in ("right", "chosen") if name in one},
            "remarks": one["remarks"],
        }
        return self.known[key]


def _columns(shares: Mapping[str, Mapping[str, Any]], scheme: str) -> dict[str, Any]:
    """Columns of a row from what every image counts, by gradient."""
    paper = "straight-through" if scheme == "dense" else "as-in-paper"
    return {
        "images": len(shares["clean"]["right"]),
        "clean": mean(shares["clean"]),
        "straight_through": mean(shares.get("straight-through")),
        "as_in_paper": mean(shares.get(paper)),
        "worst_case": mean(shares.get("worst")),
        "shares": shares,
    }


def _cells(point: Point, drawing: bool) -> list[Cell]:
    """The attack of a point with each of its gradients."""
    name = point.attack
    if name == "eot" and not drawing:
        name = "pgd"  # every pass has the same gradient
    if name == "adaptive" and point.subject.method == "OAT":
        name = "pgd"  # there is no noise to adapt to
    usual = ATTACKS[name].gradients
    gradients = (point.gradients if usual else ()) or usual or ("",)
    if point.scheme == "dense" and usual:
        gradients = ("straight-through",)
    return [Cell(point.scheme, name, gradient) for gradient in gradients]
