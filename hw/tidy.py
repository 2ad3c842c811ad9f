"""Removal of wires that nothing reads from Verilog as yosys writes it.

Amaranth names every signal of a design; where the same value has another name as well, one of them
is assigned and never read. Left in place they would hide, for a lint, the signals that were meant
to be read.
"""

from __future__ import annotations

import re
from collections import Counter

__all__ = ["tidy"]

_NAME = r"\\\S+|[A-Za-z_][\w$]*"

#: A mention of a wire: neither the port in `.port(wire)`, nor a part of a constant.
_TOKEN = re.compile(rf"(?<![.'$\\\w])(?:{_NAME})")
_DECLARED = re.compile(rf"  wire (?:signed )?(?:\[-?\d+:0\] )?({_NAME}) ?;")
_ASSIGNED = re.compile(rf"  assign ({_NAME}) +=")
_ATTRIBUTE = re.compile(r"  \(\*.*\*\)")


def tidy(verilog: str) -> str:
    """Return `verilog` without wires that are only declared, or assigned whole and never read.

    What only such wires read goes as well. The former stand for signals without a bit, which
    Verilog cannot have: yosys gives them the range [-1:0], two bits.
    """
    modules = re.split(r"(?<=^endmodule\n)", verilog, flags=re.M)
    return "".join(_tidy_module(module) for module in modules)


def _tidy_module(text: str) -> str:
    lines: list[str | None] = list(text.splitlines(keepends=True))
    declared, assigned = {}, {}
    mentions: Counter[str] = Counter()
    for number, line in enumerate(lines):
        if found := _DECLARED.match(line):
            declared[found[1]] = number
        elif found := _ASSIGNED.match(line):
            assigned[found[1]] = number
        mentions.update(_TOKEN.findall(line))

    def idle(name: str) -> bool:
        return name in declared and mentions[name] == 1 + (name in assigned)

    waiting = [name for name in declared if idle(name)]
    while waiting:
        name = waiting.pop()
        for number in filter(None, (declared.pop(name, None), assigned.pop(name, None))):
            tokens = _TOKEN.findall(lines[number])
            mentions.subtract(tokens)
            lines[number] = None
            while number and lines[number - 1] and _ATTRIBUTE.match(lines[number - 1]):
                number -= 1
                lines[number] = None
            waiting += [token for token in dict.fromkeys(tokens) if idle(token)]
    return "".join(line for line in lines if line is not None)
