"""The documentation keeps up: links lead somewhere, every verb, option and key is there."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from sinai.common.machine import PRESETS, Machine
from sinai.report.cli import sinai

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def verbs(group, *before):
    """Every verb that runs, not groups of verbs: (words, command)."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, *before, name)
        else:
            yield " ".join(["sinai", *before, name]), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_index_names_every_page():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in PAGES[1:]} - {"index.md"}
    assert pages <= set(re.findall(r"\]\(([^)#]+)", index))


@pytest.mark.parametrize(("verb", "command"), list(verbs(sinai)))
def test_commands_page_shows_every_verb_and_option(verb, command):
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    [section] = [
        part for part in text.split("\n## ") if re.search(rf"{verb}\b", part.split("\n")[0])
    ]
    common = {"--help", "--json", "--force", "--output", "--machine", "--set"}
    options = {option for parameter in command.params for option in parameter.opts}
    long = {option for option in options if option.startswith("--")} - common
    assert {
        option for option in long if f"{option}`" not in section and f"{option} " not in section
    } == set()


def keys(model):
    for name, field in model.model_fields.items():
        yield name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation)


def test_machine_page_shows_every_key_and_default():
    text = (ROOT / "docs" / "machine-description.md").read_text(encoding="utf-8")
    rows = {
        cells[1].strip(" `"): cells
        for line in text.split("## Keys")[1].splitlines()
        if len(cells := line.split("|")) == 6
    }
    for name, field in keys(Machine):
        assert f"`{name}`" in text, name
        if isinstance(field.default, int | float | str) and name in rows:
            assert rows[name][3].strip(" `") == str(field.default), name


@pytest.mark.parametrize("name", PRESETS)
def test_machine_page_shows_the_presets(name):
    text = (ROOT / "docs" / "machine-description.md").read_text(encoding="utf-8")
    [row] = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
    m = PRESETS[name]
    shown = [cell.strip() for cell in row.split("|")][2:9]
    assert shown == [
        m.kind,
        *map(str, (m.lanes, m.pses, m.columns, m.weight_words, m.window, m.multipliers)),
    ]
