"""The record of an attack, ``robustness.json``: what `sinai attack` writes and others read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import InputError

__all__ = ["COLUMNS", "FILE", "WORST", "Robustness", "Row", "load"]

#: Name of the record in the directory of an attack.
FILE = "robustness.json"

#: Columns of a table, in order.
COLUMNS = (
    "scheme",
    "attack",
    "images",
    "clean",
    "straight_through",
    "as_in_paper",
    "worst_case",
    "median_l2",
)

#: Name of the row that is the minimum over all bounded attacks of a scheme.
WORST = "all bounded"

_PARTLY = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)
Share = Annotated[float, Field(ge=0, le=1)]


class Row(BaseModel):
    """One attack under one scheme, or all bounded ones (:data:`WORST`).

    Accuracies are shares of all `images`; None where an attack has no such gradient.
    """

    model_config = _PARTLY

    scheme: str
    attack: str
    images: Annotated[int, Field(ge=1)]
    clean: Share
    straight_through: Share | None
    as_in_paper: Share | None
    worst_case: Share


class Robustness(BaseModel):
    """What is read of the record of an attack on a checkpoint; the rest is ignored.

    Parameters
    ----------
    checkpoint : str
        Its name.
    model_digest : str
        SHA-256 of its numbers, which its traces carry as well.
    projection : {"patch", "tap"}
        Form of P.
    data : str
        Data set of the images.
    settings : dict
        Numbers of the attacks; `eps` among them.
    bounded : tuple of str
        Attacks that stay within eps, of those that ran: the row :data:`WORST` is over them.
    rows : tuple of Row
    """

    model_config = _PARTLY

    schema_version: Literal[1]
    checkpoint: str
    model_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    projection: Literal["patch", "tap"]
    data: str
    settings: dict[str, float]
    bounded: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    def ran(self, scheme: str) -> tuple[str, ...]:
        """Bounded attacks that ran under a scheme."""
        names = {row.attack for row in self.rows if row.scheme == scheme}
        return tuple(name for name in self.bounded if name in names)

    @property
    def worst(self) -> dict[str, Row]:
        """The row over all bounded attacks of each scheme."""
        return {row.scheme: row for row in self.rows if row.attack == WORST}


def load(path: str | os.PathLike[str]) -> Robustness:
    """Read the record at `path`, or in the directory `path`.

    Raises
    ------
    InputError
        If it cannot be read, is no such record, or is not of one checkpoint with one form of P; the
        message names file, field and value.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        return Robustness.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give the directory that `sinai attack`"
            " wrote"
        ) from None
    except ValidationError as error:
        raise InputError(f"{path}: {_sentence(error.errors()[0])}") from None


def _sentence(fault: Any) -> str:
    where = ".".join(map(str, fault["loc"]))
    if where == "model_digest" and fault["type"] == "missing":
        return "has no model_digest; give the record of an attack on a checkpoint"
    if where == "projection" and fault["type"] != "missing":
        return (
            f"projection must be patch or tap, not {fault['input']!r}; attack one form of P,"
            " without --pool"
        )
    what = f"{where}: {fault['msg']}" if where else fault["msg"]
    return f"{what}; give a record that this version of `sinai attack` wrote"
