"""The timeline of a run, in the Trace Event format that Perfetto and chrome://tracing open.

An image, or a batch, is a process, what works there (issuer, loader, projection unit, ...) a row of
it. The format counts in microseconds: one of them stands for one cycle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..sim import Result

__all__ = ["write_timeline"]

#: Row of the stepped engine to its title, from top to bottom; the number is its thread.
_ROWS = {
    "layers": "layers",
    "parts": "parts on chip",
    "transfers": "DMA transfers",
    "A": "APPROXIMATE steps",
    "E": "EXACT steps",
    "stalls": "stalls by cause",
    "weights": "weight loads",
    "scanner": "mask scanner (U)",
    "window": "x words into the window (U)",
    "gather": "projection: gather",
    "projection": "projection: adders, copies",
    **{f"lane {lane}": f"lane {lane}" for lane in range(64)},
}
_THREADS = {row: number for number, row in enumerate(_ROWS, 1)}


def write_timeline(result: Result, path: Path) -> None:
    """Write the timeline of a result that has spans, an event a line.

    Layers follow each other. ts and dur are cycles, shown as microseconds; args of a layer has its
    cycles and busy cycles.
    """
    head = {
        "displayTimeUnit": "ns",
        "otherData": {
            "time": "1 us = 1 cycle",
            "clock_hz": result.machine.clock_hz,
            "network": result.trace.manifest.network,
            "synthetic": result.trace.synthetic,
            "machine": result.machine.name,
            "scheme": str(result.scheme),
        },
    }
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ', "traceEvents": [\n')
        for number, event in enumerate(_events(result)):
            file.write((",\n" if number else "") + json.dumps(event))
        file.write("\n]}\n")


def _events(result: Result) -> Iterator[dict[str, Any]]:
    starts: dict[int, int] = {}
    title = f"{result.trace.manifest.network} on {result.machine.name}, {result.scheme}"
    used = {span.row for spans in result.spans for span in spans} | {"layers"}
    for row, spans in zip(result.layers.to_dict("records"), result.spans, strict=True):
        image = int(row["image"])
        if image not in starts:
            starts[image] = 0
            which = f"image {image}" if result.batch == 1 else f"batch from image {image} on"
            yield _named("process_name", image, 0, f"{which}: {title}")
            for name in _ROWS:
                if name in used:
                    yield _named("thread_name", image, _THREADS[name], _ROWS[name])
                    yield _sorted(image, _THREADS[name])
        start, cycles = starts[image], int(row["cycles"])
        about = {"cycles": cycles, "busy_cycles": int(row["busy_cycles"])}
        yield _complete("layers", row["layer"], start, cycles, image) | {"args": about}
        for span in spans:
            begin = start + int(span.begin)
            yield _complete(span.row, span.name, begin, int(span.end - span.begin), image)
        starts[image] += cycles


def _complete(row: str, name: str, begin: int, cycles: int, image: int) -> dict[str, Any]:
    return {
        "name": name,
        "cat": row,
        "ph": "X",
        "ts": begin,
        "dur": cycles,
        "pid": image,
        "tid": _THREADS[row],
    }


def _named(kind: str, image: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": image, "tid": thread, "args": {"name": name}}


def _sorted(image: int, thread: int) -> dict[str, Any]:
    place = {"sort_index": thread}
    return {"name": "thread_sort_index", "ph": "M", "pid": image, "tid": thread, "args": place}
