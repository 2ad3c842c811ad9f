"""Results are built aside and renamed, so that an old result is never half overwritten."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common.errors import InputError

__all__ = ["fresh_directory", "fresh_file"]


@contextmanager
def fresh_directory(path: str | Path, *, marker: str, force: bool = False) -> Iterator[Path]:
    """Give an empty directory that becomes `path` when the block ends without an exception.

    An exception, an interrupt among them, removes what was built and leaves an old result as it
    was. Parents of `path` are made.

    Parameters
    ----------
    path : str or Path
        Where the result goes.
    marker : str
        Name of a file that every result of this kind holds. `force` replaces a directory that
        holds it, or an empty one, and nothing else: not a home directory given by mistake.
    force : bool
        Replace an existing result.

    Raises
    ------
    InputError
        If `path` exists and may not be replaced, or cannot be written.
    """
    target = Path(path).absolute()
    if target.is_symlink():
        target = target.resolve()
    if target.exists():
        _check_replaceable(path, target, marker, force)
    aside = _beside(path, target)
    try:
        aside.mkdir()
        yield aside
        _swap(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def fresh_file(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Give a file name, of the same suffix, that becomes `path` when the block ends well.

    Raises
    ------
    InputError
        If `path` exists and `force` is not given, is a directory, or cannot be written.
    """
    target = Path(path).absolute()
    if target.is_symlink():
        target = target.resolve()
    if target.is_dir():
        raise InputError(f"-o {path}: is a directory; give the name of a file")
    if target.exists() and not force:
        raise InputError(f"-o {path}: exists already; give another name, or --force to replace it")
    aside = _beside(path, target)
    try:
        yield aside
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _check_replaceable(path: str | Path, target: Path, marker: str, force: bool) -> None:
    if not target.is_dir():
        raise InputError(f"-o {path}: is a file; give the name of a directory")
    if not force:
        raise InputError(f"-o {path}: exists already; give another name, or --force to replace it")
    if not (target / marker).exists() and any(target.iterdir()):
        raise InputError(
            f"-o {path}: holds files but no {marker}, so --force does not replace it;"
            " give another name or remove it yourself"
        )


def _beside(path: str | Path, target: Path) -> Path:
    """A free hidden name in the same directory, hence on the same file system."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"-o {path}: {error.filename} cannot be made ({error.strerror})") from None
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"-o {path}: {target.parent} may not be written to; give another place")
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")


def _swap(aside: Path, target: Path) -> None:
    """Rename `aside` to `target`, putting the old one back if that fails."""
    if not target.exists():
        aside.rename(target)
        return
    old = aside.with_name(aside.name + ".old")
    target.rename(old)
    try:
        aside.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)
