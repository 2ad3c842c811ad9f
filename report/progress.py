"""Progress bars, on standard error if that is a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["advance", "bar"]


def bar(what: str, unit: str = "it") -> tqdm:
    """Return a bar, to be closed by ``with``; its length is not known yet."""
    from tqdm import tqdm

    return tqdm(desc=what, unit=unit, disable=not sys.stderr.isatty())


def advance(bar: tqdm, done: int, of: int) -> None:
    """Show that `done` units of `of` are done."""
    bar.total = of
    bar.update(done - bar.n)
