"""Fit the statistics that synthetic masks are drawn from to the masks of a real network.

Run as `python -m sinai.traces.fit TRACE... -o FILE`. All shares of variance are unbiased: the noise
of counting a few pixels or channels is taken out, so that layers of 16 pixels and of 1024 compare.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError, SinaiError
from .mask_statistics import Point, Statistics
from .schema import Trace, load

__all__ = ["fit", "main", "measure"]


def fit(traces: Iterable[Trace], command: str = "", bins: int = 4) -> Statistics:
    """Measure real traces of unstructured schemes; dense and structured ones are passed over.

    Layers are averaged within each of `bins` equal ranges of relative depth, traces of the same
    noise ratio together. Layers without an essential or without a noisy neuron say nothing.

    Raises
    ------
    InputError
        If a trace is synthetic, or none is left to measure.
    """
    cells: dict[tuple[float, int], list[Point]] = {}
    names = []
    for trace in traces:
        if trace.synthetic:
            raise InputError(
                f"{trace.name}: synthetic is true; statistics are fitted to traces of real networks"
            )
        if trace.scheme.dense or trace.scheme.structured:
            continue
        names.append(trace.name)
        last = max(1, len(trace.layers) - 1)
        for index in range(len(trace.layers)):
            mask = trace.mask(index)
            if mask.any() and not mask.all():
                depth = index / last
                point = measure(mask, float(trace.scheme.ratio), depth)
                key = (point.ratio, min(bins - 1, int(depth * bins)))
                cells.setdefault(key, []).append(point)
    if not cells:
        raise InputError(
            "fit: no trace is left; give traces of unstructured schemes with a ratio above 0 and"
            " below 1"
        )
    points = []
    for key in sorted(cells):
        values = {
            name: round(float(np.mean([getattr(point, name) for point in cells[key]])), 4)
            for name in Point.model_fields
        }
        points.append(Point(**values))
    return Statistics(
        source=f"measured on {', '.join(names)}", command=command, points=tuple(points)
    )


def measure(mask: NDArray[np.bool_], ratio: float, depth: float) -> Point:
    """Statistics of one layer's masks, (images, C, H, W), with an essential and a noisy neuron."""
    images, channels, height, width = mask.shape
    pixels = height * width
    m = mask.reshape(images, channels, pixels).astype(np.float64)
    mean = m.mean()
    rates = m.mean(2)  # (images, C)
    position = m.mean(1).reshape(images, height, width)

    channel = np.mean([_common(m[i]) for i in range(images)])
    common = np.mean([_common(m[i].T) for i in range(images)])
    between = _common(rates.T) if images > 1 else channel
    persistence = between / channel if channel > 0 else 0.0

    # Adjacent positions: covariances within channels, and of the sums over channels, from which
    # the former are taken out to leave what different channels have in common.
    m = m.reshape(images, channels, height, width) - rates[:, :, None, None]
    position = position - position.mean((1, 2), keepdims=True)
    own, shared, pairs = 0.0, 0.0, 0
    for a, b in (((..., slice(1, None)), (..., slice(-1))), (_rows(1, None), _rows(None, -1))):
        own += float((m[a] * m[b]).sum())
        shared += float((position[a] * position[b]).sum()) * channels**2
        pairs += position[a].size
    variance = float((m**2).mean())
    neighbour = own / (pairs * channels) / variance if pairs and variance > 0 else 0.0
    distinct = pairs * channels * (channels - 1)
    lagged = (shared - own) / distinct if distinct else 0.0

    return Point(
        ratio=ratio,
        depth=depth,
        channel_cv=math.sqrt(max(0.0, channel)) / mean,
        persistence=min(1.0, max(0.0, persistence)),
        dead=float(np.mean(~mask.any((0, 2, 3)))),
        position_cv=math.sqrt(max(0.0, common)) / mean,
        position_neighbour=min(1.0, max(0.0, lagged / common)) if common > 0 else 0.0,
        neighbour=min(1.0, max(-1.0, neighbour)),
    )


def _rows(start: int | None, stop: int | None) -> tuple[object, ...]:
    return (..., slice(start, stop), slice(None))


def _common(m: NDArray[np.float64]) -> float:
    """Mean covariance over the first axis of pairs of different columns of (things, columns): the
    variance over things that all columns share, free of each column's own noise."""
    columns = m.shape[1]
    if columns < 2 or m.shape[0] < 2:
        return 0.0
    own = m.var(0, ddof=1).sum()
    return float((m.sum(1).var(ddof=1) - own) / (columns * (columns - 1)))


def main(argv: Sequence[str] | None = None) -> int:
    """Fit to the traces named on the command line and write the statistics as JSON."""
    parser = argparse.ArgumentParser(prog="python -m sinai.traces.fit", description=__doc__)
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="real, unstructured traces")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="JSON file to write")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "sinai.traces.fit", *(argv or sys.argv[1:])])
    try:
        statistics = fit((load(path) for path in arguments.traces), command)
        try:
            Path(arguments.output).write_text(statistics.to_json(), encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{arguments.output}: cannot be written ({error.strerror}); give a path in a folder"
                " that exists"
            ) from None
    except SinaiError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
