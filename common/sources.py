"""Which state of the code a result is of: a digest of the modules that it comes from."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["COMPARISON", "REPLAY", "VERILOG", "reached", "sources"]

#: Modules that a comparison of RTL, simulator and integer model begins with, one of engines, and
#: the Verilog of a core.
COMPARISON = ("report/validation.py", "common/cases.py")
REPLAY = ("sim/replay.py",)
VERILOG = ("hw/core.py", "hw/verilog.py", "hw/verilated.py")

_PACKAGE = Path(__file__).parent.parent


def sources(*entries: str) -> str:
    """Digest of these modules and of all of ours that they import, at whatever depth, with the
    other sources of their packages: tells states of the code apart, so that a result of one is not
    taken for another's."""
    found = reached(*entries)
    others = {
        path for each in found for path in each.parent.iterdir() if path.suffix in (".cpp", ".sv")
    }
    text = hashlib.sha256()
    for path in sorted(found | others):
        text.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return text.hexdigest()[:16]


def reached(*entries: str) -> set[Path]:
    """These modules, given from the folder of the packages, and those of ours they import."""
    found: set[Path] = set()
    left = [_PACKAGE / entry for entry in entries]
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += _imports(path)
    return found


def _imports(path: Path) -> Iterator[Path]:
    """Modules of ours that a module imports, in a function too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1]
            module = folder.joinpath(*(node.module or "").split("."))
            candidates = [module.with_suffix(".py"), module / "__init__.py"]
            candidates += [module / f"{alias.name}.py" for alias in node.names]
            yield from (each for each in candidates if each.is_file())
