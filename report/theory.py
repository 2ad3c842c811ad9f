"""The figures and tables of docs/theory.md: ``python -m sinai.report.theory``, `make theory`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .options import force, need_torch
from .output import fresh_directory
from .status import exit_status

if TYPE_CHECKING:
    from ..model.theory_nets import LayerNoise, Projected, Smoothed

__all__ = ["draw", "main", "markdown", "write"]


def draw(noise: Sequence[LayerNoise], title: str) -> Figure:
    """Draw the standardised noise of a network's layers beside a normal distribution.

    Left, histograms of all layers; right, their quantiles over normal ones. The layer furthest from
    normal, by Kolmogorov-Smirnov distance, is drawn strongly.
    """
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    worst = max(noise, key=lambda each: each.standardised.distance)
    grid = np.linspace(-5, 5, 201)
    shares = (np.arange(199) + 1) / 200
    normal = _normal_quantiles(shares)
    for each in sorted(noise, key=lambda each: each is worst):
        strong = each is worst
        label = f"{each.layer} (furthest)" if strong else None
        style = {
            "color": "#D55E00" if strong else "#0072B2",
            "alpha": 1 if strong else 0.35,
            "linewidth": 1.1 if strong else 0.7,
        }
        heights, edges = np.histogram(each.values, bins=80, range=(-5, 5), density=True)
        left.step((edges[1:] + edges[:-1]) / 2, heights, where="mid", label=label, **style)
        right.plot(normal, np.quantile(each.values, shares), label=label, **style)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    left.plot(grid, density, color="black", linestyle="--", linewidth=1, label="normal")
    right.plot(normal, normal, color="black", linestyle="--", linewidth=1, label="normal")
    left.plot([], [], color="#0072B2", label="other layers")
    left.set_yscale("log")
    left.set(ylim=(3e-4, 1), xlim=(-5, 5))
    _finish(left, "noise, each channel standardised [1]", "density [1]")
    _finish(right, "quantile of the normal distribution [1]", "quantile of the noise [1]")
    left.legend(fontsize=6, frameon=False, loc="lower center")
    figure.suptitle(title, fontsize=8)
    return figure


def markdown(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """All tables of :func:`sinai.model.theory_nets.measure` by checkpoint, as Markdown."""
    parts = []
    for name, made in measured.items():
        for form in made["projected"]:
            parts.append(f"## {name}, P {form}: Theorem 1\n\n{_projected(made['projected'][form])}")
            parts.append(f"## {name}, P {form}: the noise\n\n{_noise(made['noise'][form])}")
        for scheme, found in made["theorem_2"].items():
            parts.append(f"## {name}, {scheme}: Theorem 2\n\n{_theorem_2(found)}")
    return "\n\n".join(parts) + "\n"


def write(measured: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write theory.md, theory.json, layers.csv (a row a layer) and noise-NAME.png to `folder`."""
    (folder / "theory.md").write_text(markdown(measured), encoding="utf-8")
    rows, bounds = [], []
    for name, made in measured.items():
        for form in made["projected"]:
            pairs = zip(made["projected"][form], made["noise"][form], strict=True)
            rows += [_row(name, form, *pair) for pair in pairs]
        for scheme, found in made["theorem_2"].items():
            bounds += [{"checkpoint": name, "scheme": scheme, **_finite(each)} for each in found]
        figure = draw(made["noise"]["patch"], f"z~ - z of {name}, P patch, bundled test images")
        figure.savefig(folder / f"noise-{name}.png", dpi=200, metadata={"Software": None})
    with (folder / "layers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    record = {"schema": 1, "layers": rows, "theorem_2": bounds}
    text = json.dumps(record, indent=2, allow_nan=False)
    (folder / "theory.json").write_text(text + "\n", encoding="utf-8")


def _row(name: str, form: str, theorem: Projected, noise: LayerNoise) -> dict[str, Any]:
    row = {"checkpoint": name, "projection": form, **asdict(theorem)}
    row["ratio_of_mean_squares"] = float(np.mean(row.pop("ratios")))
    row |= {"unexplained": noise.unexplained, "correlation": noise.correlation}
    for part in ("pooled", "standardised", "injected"):
        row |= {f"{part}_{key}": value for key, value in asdict(getattr(noise, part)).items()}
    return row


def _finite(found: Smoothed) -> dict[str, Any]:
    """The record with an infinite theta as None, which JSON can hold."""
    row = asdict(found)
    return row | {"theta": row["theta"] if math.isfinite(row["theta"]) else None}


def _projected(found: Sequence[Projected]) -> str:
    head = ("layer", "rows", "taps sharing them", "error, predicted", "measured")
    lines = _head((*head, "<x, w> itself", "beyond 0.5", "bound"))
    lines += [
        f"| {each.layer} | {each.rows} | {each.taps} | {each.predicted:.3f} |"
        f" {each.measured:.3f} | {each.signal:.3f} | {each.beyond:.5f} | {each.bound:.5f} |"
        for each in found
    ]
    return "\n".join(lines)


def _noise(found: Sequence[LayerNoise]) -> str:
    shapes = ("skewness", "excess kurtosis", "KS", "KS, pooled", "KS, injected")
    lines = _head(("layer", "unexplained", "correlation with z", *shapes))
    lines += [
        f"| {each.layer} | {each.unexplained:.3f} | {each.correlation:.2f} |"
        f" {each.standardised.skewness:.2f} | {each.standardised.kurtosis:.2f} |"
        f" {each.standardised.distance:.3f} | {each.pooled.distance:.3f} |"
        f" {each.injected.distance:.3f} |"
        for each in found
    ]
    return "\n".join(lines)


def _theorem_2(found: Sequence[Smoothed]) -> str:
    head = ("reading of M", "E[exp(-H)]", "theta", "bound", "bound, theta of each image")
    lines = _head((*head, "draws differ", "risk", "risk, attacked"))
    lines += [
        f"| {each.reading} | {each.certainty:.3f} | {each.theta:.3g} | {each.bound:.4f} |"
        f" {each.own_bound:.4f} | {each.gap:.4f} | {each.risk:.4f} | {each.attacked_risk:.4f} |"
        for each in found
    ]
    return "\n".join(lines)


def _head(names: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def _normal_quantiles(shares: np.ndarray) -> np.ndarray:
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf(share) for share in shares])


def _finish(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=7)
    ax.set_ylabel(y, fontsize=7)
    ax.tick_params(labelsize=7)
    ax.grid(color="0.9", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    default=("tiny", "resnet18-cifar10jpeg"),
    show_default=True,
    help="Name of a bundled checkpoint. Repeatable.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default="build/theory",
    show_default=True,
    help="Directory to make.",
)
@force
def _command(checkpoints: tuple[str, ...], output: Path, force: bool) -> None:
    """Measure the paper's theory on bundled networks.

    DIR gets theory.md, theory.json, layers.csv and a figure of the noise of each checkpoint.
    """
    need_torch("theory")
    from ..common.errors import InputError
    from ..model.checkpoint import bundled
    from ..model.theory_nets import measure

    for name in checkpoints:
        if name not in bundled():
            raise InputError(f"--checkpoint must be one of {', '.join(bundled())}, not {name!r}")
    with fresh_directory(output, marker="theory.json", force=force) as aside:
        measured = {name: measure(name) for name in checkpoints}
        write(measured, aside)
    click.echo(markdown(measured), nl=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (of the process by default) and return its exit status."""
    return exit_status(_command, "theory", argv)


if __name__ == "__main__":
    raise SystemExit(main())
