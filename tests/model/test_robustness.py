"""Robust accuracy: what is run, how it is judged and joined, and that it goes on where it was."""

import csv
import json

import numpy as np
import pytest
import torch

from sinai.common.errors import InputError
from sinai.model import robustness
from sinai.model.attacks import ATTACKS, Settings
from sinai.model.robustness import COLUMNS, WORST, Cell, measure, plan, table, write

FEW = Settings(steps=2, queries=4)
SCHEMES = ("dense", "structured:7:8")


@pytest.fixture
def net(checkpoint):
    return checkpoint.floating("patch")


def run(net, images, attacks=("fgsm", "pgd", "square"), **changes):
    given = {"count": 6, "settings": FEW, "batch": 4, "device": "cpu"} | changes
    return measure(net, images, plan(SCHEMES, attacks), **given)


def without_seconds(record):
    cells = [{k: v for k, v in cell.items() if k != "seconds"} for cell in record["cells"]]
    return {**record, "cells": cells}


def test_plan_has_every_gradient_and_none_twice_under_dense():
    assert plan(SCHEMES, ["square", "pgd", "bpda"]) == [
        Cell("dense", "pgd", "straight-through"),
        Cell("dense", "square", ""),
        Cell("structured:7:8", "pgd", "straight-through"),
        Cell("structured:7:8", "pgd", "as-in-paper"),
        Cell("structured:7:8", "bpda", "dense-path"),
        Cell("structured:7:8", "square", ""),
    ]


@pytest.mark.parametrize(
    ("schemes", "attacks", "words"),
    [
        (["dense"], ["magic"], "attack must be one of"),
        (["dense"], ["bpda"], "PGD itself under dense"),
        ([], ["pgd"], "at least one of each"),
        (["dense"], [], "at least one of each"),
        (["loud"], ["pgd"], "loud"),
    ],
)
def test_plan_refuses(schemes, attacks, words):
    with pytest.raises(InputError, match=words):
        plan(schemes, attacks)


def test_an_image_counts_only_if_it_was_right_and_stays_right(net, images, monkeypatch):
    """With attacks that do nothing, robust is clean; with one that inverts, judged by hand."""
    monkeypatch.setattr(robustness, "attack", lambda net, x, y, name, **_: x)
    record = run(net, images)
    for row in record["rows"]:
        assert row["clean"] == row["worst_case"]
    monkeypatch.setattr(robustness, "attack", lambda net, x, y, name, **_: 1 - x)
    record = run(net, images)
    x = torch.from_numpy(images.images[record["indices"]]).float() / 255
    labels = torch.tensor(record["labels"])
    for scheme in SCHEMES:
        robustness.set_scheme(net, scheme)
        with torch.no_grad():
            clean = (net(x).argmax(1) == labels).numpy()
            after = (net(1 - x).argmax(1) == labels).numpy()
        assert record["clean"][scheme] == clean.astype(float).tolist()
        for cell in record["cells"]:
            if cell["scheme"] == scheme:
                assert cell["right"] == (clean & after).astype(float).tolist()


def test_worst_case_is_the_minimum_image_by_image():
    def cell(attack, gradient, *right):
        moved = [1.0] * len(right)
        return {"scheme": "structured:7:8", "attack": attack, "gradient": gradient, "right": right,
                "l2": moved, "linf": moved}  # fmt: skip

    record = {
        "clean": {"structured:7:8": [1.0, 1.0, 1.0, 0.0]},
        "cells": [
            cell("pgd", "straight-through", 1.0, 0.0, 1.0, 0.0),
            cell("pgd", "as-in-paper", 0.0, 1.0, 1.0, 0.0),
            cell("unbounded", "straight-through", 0.0, 0.0, 0.0, 0.0),
            cell("square", "", 1.0, 1.0, 0.0, 0.0),
        ],
    }
    rows = {row["attack"]: row for row in table(record)}
    values = {
        name: (row["straight_through"], row["as_in_paper"], row["worst_case"])
        for name, row in rows.items()
    }
    assert values == {
        "pgd": (0.5, 0.5, 0.25),
        "unbounded": (0.0, None, 0.0),
        "square": (None, None, 0.5),
        WORST: (0.5, 0.5, 0.0),  # all bounded ones together; the unbounded one is not in it
    }
    assert {row["clean"] for row in rows.values()} == {0.75}


def test_it_goes_on_where_it_was(net, images, tmp_path, monkeypatch):
    whole = run(net, images)
    journal, calls, real = tmp_path / "journal", [], robustness.attack

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(robustness, "attack", failing)
    with pytest.raises(KeyboardInterrupt):
        run(net, images, journal=journal)
    with journal.open("a") as file:
        file.write('{"scheme": "cut sh')
    resumed = run(net, images, journal=journal)
    assert without_seconds(resumed) == without_seconds(whole)
    cells = sum(len(ATTACKS[name].gradients) or 1 for name in ("fgsm", "pgd", "square"))
    batches = 2 * (3 + cells)  # dense has one gradient
    assert len(calls) == batches + 1  # the interrupted one twice
    run(net, images, journal=journal)
    assert len(calls) == batches + 1
    run(net, images, journal=journal, seed=1)
    assert len(calls) == 2 * batches + 1


def test_the_files_hold_the_table(net, images, tmp_path):
    record = run(net, images, attacks=("pgd", "square"))
    write(record, tmp_path)
    assert json.loads((tmp_path / "robustness.json").read_text()) == record
    with (tmp_path / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["attack"] for row in rows] == ["pgd", "square", WORST] * 2
    assert [float(row["worst_case"]) for row in rows] == [r["worst_case"] for r in record["rows"]]
    text = (tmp_path / "robustness.md").read_text().splitlines()
    assert len(text) == 2 + len(rows)
    assert text[0].startswith("| scheme | attack")


def test_the_record_says_what_was_attacked(net, images):
    record = run(net, images, attacks=("square",))
    assert record["data"] == images.name
    assert np.array_equal(images.labels[record["indices"]], record["labels"])
    assert record["settings"]["queries"] == 4
    assert record["versions"]["pyautoattack"]
    with torch.no_grad():
        net.get_parameter(next(name for name, _ in net.named_parameters())).add_(0.5)
    assert run(net, images, attacks=("square",))["network"] != record["network"]


def test_a_batch_of_nothing_is_refused(net, images):
    with pytest.raises(InputError, match="batch must be at least 1, not 0"):
        run(net, images, batch=0)


def test_a_journal_that_cannot_be_written_is_named(net, images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run(net, images, journal=tmp_path / "file" / "journal")
