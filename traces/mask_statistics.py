"""Statistics of activation masks: measured on real traces by `fit`, drawn from by `synth`.

Real masks are far from independent: channels differ widely in how often they are essential, and
so, smoothly, do positions.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..common.errors import InputError

__all__ = ["Point", "Statistics", "bundled_statistics"]

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Point(BaseModel):
    """Statistics of the masks of unstructured noise at one ratio and one depth in the network.

    Parameters
    ----------
    ratio : float
        Share of noisy neurons, in [0, 1].
    depth : float
        Index of the layer over the last index: 0 is the first layer, 1 the last.
    channel_cv : float
        Coefficient of variation over channels of the rate at which their neurons are essential, in
        one image.
    persistence : float
        Correlation between images of these rates, in [0, 1].
    dead : float
        Share of channels with no essential neuron in any image of the trace, in [0, 1].
    position_cv : float
        Coefficient of variation over positions of the rate common to all channels, in one image.
    position_neighbour : float
        Correlation of that rate between adjacent positions, in [0, 1].
    neighbour : float
        Correlation of the mask between adjacent positions of a channel, its rate taken out, in
        [-1, 1].
    """

    model_config = _FROZEN

    ratio: float = Field(ge=0, le=1)
    depth: float = Field(ge=0, le=1)
    channel_cv: float = Field(ge=0)
    persistence: float = Field(ge=0, le=1)
    dead: float = Field(ge=0, le=1)
    position_cv: float = Field(ge=0)
    position_neighbour: float = Field(ge=0, le=1)
    neighbour: float = Field(ge=-1, le=1)


class Statistics(BaseModel):
    """What synthetic masks are drawn from.

    Parameters
    ----------
    source : str
        Where the points come from; the word "assumed" if nobody measured them.
    command : str
        Command that fitted them, empty if none did.
    points : tuple of Point
        Sorted by ratio, then depth; at least one.
    """

    model_config = _FROZEN

    source: str
    command: str
    points: tuple[Point, ...] = Field(min_length=1)

    def at(self, ratio: float, depth: float) -> Point:
        """The statistics at `ratio` and `depth`: linear in depth between the points of a ratio,
        then linear in the ratio; the nearest point outside the range."""
        ratios = sorted({point.ratio for point in self.points})
        names = [name for name in Point.model_fields if name not in ("ratio", "depth")]
        rows = np.empty((len(ratios), len(names)))
        for row, each in enumerate(ratios):
            points = sorted((p for p in self.points if p.ratio == each), key=lambda p: p.depth)
            depths = [point.depth for point in points]
            rows[row] = [np.interp(depth, depths, [getattr(p, n) for p in points]) for n in names]
        values = {name: float(np.interp(ratio, ratios, rows[:, i])) for i, name in enumerate(names)}
        return Point(ratio=ratio, depth=depth, **values)

    def to_json(self) -> str:
        """JSON text that :meth:`from_file` reads back unchanged."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_file(cls, path: Path) -> Statistics:
        """Read statistics from JSON.

        Raises
        ------
        InputError
            If the file cannot be read or is no such JSON.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); give a JSON file that"
                " `python -m sinai.traces.fit` wrote"
            ) from None
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"]) or "text"
            raise InputError(
                f"{path}: {where}: {fault['msg'][0].lower()}{fault['msg'][1:]}; give a JSON file"
                " that `python -m sinai.traces.fit` wrote"
            ) from None


def bundled_statistics() -> Statistics:
    """The statistics that come with the package."""
    return Statistics.from_file(Path(str(resources.files(__package__))) / "data/statistics.json")
