"""The page of registers and memories: what the tables say, and as it stands in the documents."""

import re
import sys
from pathlib import Path

import pytest

from sinai.common.machine import PRESETS
from sinai.hw.memory_map import RAMS, shape
from sinai.hw.register_map import main, render
from sinai.hw.registers import describe, registers, windows

PAGE = Path(__file__).parents[2] / "docs" / "registers.md"


def cells(line):
    return [cell.strip(" `") for cell in line.split("|")[1:-1]]


def table(text, head):
    """Cells of the first table of `text` whose head begins so, row by row."""
    body = re.search(rf"^\| {re.escape(head)} \|.*\n\| ---.*\n((?:\|.*\n)*)", text, re.M)[1]
    return [cells(line) for line in body.splitlines()]


def test_page_is_what_the_tables_say():
    """If not: make registers."""
    assert PAGE.read_text(encoding="utf-8") == render()


def test_every_register_and_window_has_its_address():
    machine, page = PRESETS["structured"], render()
    found = {(int(row[0], 16), row[1], row[5]) for row in table(page, "address")}
    for low, high, name, _ in table(page, "LOW"):
        found |= {(int(low, 16), f"{name}_LOW", "VALUE"), (int(high, 16), f"{name}_HIGH", "VALUE")}
    assert found == {(r.address, r.name, bits.name) for r in registers(machine) for bits in r.bits}
    spans = {row[1]: row[0] for row in table(page, "bytes")}
    for window in windows(machine):
        end = window.address + window.size - 1
        assert spans[window.name] == f"{window.address:04x}` to `{end:04x}"


@pytest.mark.parametrize("name", PRESETS)
def test_one_page_is_true_of_every_preset(name):
    """Addresses and bounds are the same for all; greatest values stand beside each other."""
    mine, page = describe(PRESETS[name]), render()
    assert mine["windows"] == describe(PRESETS["structured"])["windows"]
    for kind, descriptor in mine["descriptors"].items():
        assert f"{descriptor['fault_cycles']} " in page
        section = page.split(f"### {kind}\n")[1].split("\n### ")[0]
        shown = {row[2]: row for row in table(section, "word")}
        column = 1 + list(PRESETS).index(name)
        own = {row[0]: row[column] for row in table(section, "field")}
        for field in descriptor["fields"]:
            word, code, _, low, high, meaning = shown[field["name"]]
            high = own[field["name"]] if high == "by machine" else high
            wanted = [str(field[key]) for key in ("word", "code", "low", "high")]
            assert [word, code, low.replace(",", ""), high.replace(",", "")] == wanted
            assert meaning == field["meaning"].strip("`")
        for rule in descriptor["rules"]:
            assert rule in section


def test_every_memory_has_its_size():
    page = render()
    sizes = page.split("by preset:")[1]
    for name, machine in PRESETS.items():
        column = 1 + list(PRESETS).index(name)
        found = {row[0]: row[column] for row in table(sizes, "memory")}
        for ram in (ram for ram in RAMS if ram.kind in (None, machine.kind)):
            banks, width, depth, _ = shape(ram, machine)
            assert found[ram.name] == f"{banks} x {width} x {depth:,}"


def test_command_writes_where_it_is_told(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["register_map", "-o", str(page)])
    main()
    assert page.read_text(encoding="utf-8") == render()


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["register_map", "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert f"{tmp_path}: cannot be written" in capsys.readouterr().err
