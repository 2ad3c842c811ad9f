"""Which lane of an unstructured machine computes which channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["place_channels"]


def place_channels(density: Sequence[float] | NDArray[np.floating], lanes: int) -> NDArray[np.intp]:
    """Return the placement order: position j holds channel order[j], on lane j mod `lanes`.

    Longest first: channels by falling density, each to the lane with the least load among those
    with room (at most ceil(C_out / lanes) channels a lane). Row j // lanes of a lane's bank.
    """
    density = np.asarray(density, dtype=np.float64)
    count = len(density)
    # Only the last row may be short, and then its first lanes are the filled ones.
    room = np.full(lanes, count // lanes)
    room[: count % lanes] += 1
    load = np.zeros(lanes)
    lists: list[list[int]] = [[] for _ in range(lanes)]
    for channel in np.argsort(-density, kind="stable"):
        open_lanes = np.flatnonzero(room > 0)
        lane = open_lanes[np.argmin(load[open_lanes])]
        lists[lane].append(int(channel))
        load[lane] += density[channel]
        room[lane] -= 1
    order = np.empty(count, dtype=np.intp)
    for lane, channels in enumerate(lists):
        order[lane::lanes] = channels
    return order
