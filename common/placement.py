"""Which lane of an unstructured machine computes which channel."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heapreplace

import numpy as np
from numpy.typing import NDArray

__all__ = ["place_channels"]


def place_channels(density: Sequence[float] | NDArray[np.floating], lanes: int) -> NDArray[np.intp]:
    """Return the placement order: position j holds channel order[j], on lane j mod `lanes`.

    Longest first: channels by falling density, each to the lane with the least load among those
    with room (at most ceil(C_out / lanes) channels a lane), of equals the first. Row j // lanes of
    a lane's bank.
    """
    density = np.asarray(density, dtype=np.float64)
    count = len(density)
    # Only the last row may be short, and then its first lanes are the filled ones.
    room = [count // lanes + (lane < count % lanes) for lane in range(lanes)]
    open_lanes = [(0.0, lane) for lane in range(lanes) if room[lane]]
    lists: list[list[int]] = [[] for _ in range(lanes)]
    for channel in np.argsort(-density, kind="stable").tolist():
        load, lane = open_lanes[0]
        lists[lane].append(channel)
        if len(lists[lane]) < room[lane]:
            heapreplace(open_lanes, (load + density[channel], lane))
        else:
            heappop(open_lanes)
    order = np.empty(count, dtype=np.intp)
    for lane, channels in enumerate(lists):
        order[lane::lanes] = channels
    return order
