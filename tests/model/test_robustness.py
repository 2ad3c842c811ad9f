"""Robust accuracy: what is run, how it is judged and joined, and that it goes on where it was."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sinai.common.errors import InputError
from sinai.model import nets, robustness
from sinai.model.attacks import ATTACKS, Settings
from sinai.model.baselines import defend
from sinai.model.robustness import COLUMNS, WORST, Cell, measure, plan, table, worst, write
from sinai.model.sinai import convert, set_scheme

FEW = Settings(steps=2, queries=4, eot=2, autoattack_steps=2)
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


class Coin(torch.nn.Module):
    """Right with a chance that is the image's brightness, by a draw for each image and pass."""

    def __init__(self):
        super().__init__()
        self.noisy = defend(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)), "rpf", seed=0)

    def forward(self, x):
        first = torch.rand(len(x)) < x.flatten(1).mean(1)
        return torch.stack([first, ~first], 1).float()


@pytest.fixture
def coins(images):
    """Forty images of the first class: 0, 0.8, 0, 0.8, ... bright."""
    bright = np.arange(40) % 2 * 0.8 * 255
    pixels = np.broadcast_to(bright.astype(np.uint8)[:, None, None, None], (40, 3, 4, 4))
    return type(images)("coins", pixels.copy(), np.zeros(40, np.int64), ("a", "b"))


def flip(coins, monkeypatch, becomes, attacks=("pgd",), draws=400):
    monkeypatch.setattr(robustness, "attack", lambda net, x, y, name, **_: becomes(x))
    cells = [Cell("dense", name, "straight-through") for name in attacks]
    return measure(Coin(), coins, cells, count=40, batch=20, draws=draws, device="cpu", seed=3)


def test_an_image_of_a_randomised_network_counts_by_its_share_of_draws(coins, monkeypatch):
    record = flip(coins, monkeypatch, lambda x: x)
    clean = np.array(record["clean"]["dense"])
    assert (record["draws"], record["randomised"]) == (400, True)
    assert (clean[::2] == 0).all()
    assert clean[1::2].mean() == pytest.approx(0.8, abs=5 * (0.16 / 400 / 20) ** 0.5)
    assert record["cells"][0]["right"] == clean.tolist()  # left as they are: the same draws
    for becomes, wanted in ((lambda x: x / 2, 0.2), (lambda x: x * 1.2, 0.4)):
        record = flip(coins, monkeypatch, becomes)  # the second helps: images are left alone
        assert record["rows"][0]["worst_case"] == pytest.approx(wanted, abs=0.02)


def test_draws_follow_from_the_seed_alone(coins, monkeypatch):
    first = flip(coins, monkeypatch, lambda x: x / 2, draws=5)
    torch.rand(1)
    again = flip(coins, monkeypatch, lambda x: x / 2, draws=5)
    for name in ("right", "chosen"):
        assert again["cells"][0][name] == first["cells"][0][name]
    assert first["cells"][0]["right"] != first["cells"][0]["chosen"]


def test_the_lowest_of_noisy_estimates_is_not_what_an_image_counts(coins, monkeypatch):
    """Seven attacks that change next to nothing, one draw: the lowest of all is far too low."""
    count = 0

    class Fresh(Coin):
        """Draws that do not follow from the seed, as if each image were another."""

        def forward(self, x):
            nonlocal count
            count += 1
            torch.manual_seed(count)
            return super().forward(x)

    monkeypatch.setattr(robustness, "attack", lambda net, x, y, name, **_: x)
    attacks = ("fgsm", "mifgsm", "pgd", "autoattack", "eot", "bpda", "transfer")
    cells = [Cell("dense", name, "straight-through") for name in attacks]
    many = coins.take(list(range(1, 40, 2)) * 10)
    record = measure(Fresh(), many, cells, count=200, batch=200, draws=1, device="cpu")
    row = record["rows"][-1]
    assert row["attack"] == WORST
    lowest = np.min([cell["right"] for cell in record["cells"]], axis=0).mean()
    assert lowest < 0.4
    assert row["worst_case"] == pytest.approx(0.8, abs=0.12)


def test_the_worst_case_is_never_above_an_attack():
    """Two images; draws chose the wrong attack for the second one."""
    strong = {"right": [0.2, 0.2], "chosen": [0.2, 0.6]}
    weak = {"right": [0.6, 0.6], "chosen": [0.6, 0.5]}
    assert worst([strong, weak]) == strong
    other = {"right": [0.6, 0.1], "chosen": [0.6, 0.2]}
    assert worst([strong, other]) == {"right": [0.2, 0.1], "chosen": [0.2, 0.2]}


def test_the_noise_that_judges_is_none_that_an_attack_sees(images, monkeypatch):
    net, crafted, judged = defend(nets.build("tiny", 3), "rpf", seed=0).eval(), [], []
    with torch.no_grad():
        label = net(torch.from_numpy(images.images[:1]).float() / 255).argmax()
    alike = replace(images, labels=np.full(len(images), int(label)))  # else none may be right
    noise = type(net.stem.parametrizations.weight[0])
    forward = noise.forward

    def watched(self, trained):
        weight = forward(self, trained)
        drawn = tuple(weight[-1].flatten().tolist())
        (crafted if torch.is_grad_enabled() else judged).append(drawn)
        return weight

    monkeypatch.setattr(noise, "forward", watched)
    state = torch.random.get_rng_state()
    given = {"count": 4, "batch": 4, "draws": 3, "settings": FEW, "device": "cpu"}
    measure(net, alike, plan(["dense"], ["fgsm"]), **given)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert crafted
    assert not set(crafted) & set(judged)
    assert judged[:6] == judged[-6:]  # the same for the clean images and those of every attack
    assert len(set(judged[:6])) == 6  # three that choose, three that count


@pytest.mark.parametrize("name", ["none", "pni", "l2p", "rpf"])
def test_networks_without_sinai_layers_are_attacked(images, name):
    torch.manual_seed(0)
    net = defend(nets.build("tiny_preact", 3), name, seed=0)
    cells = plan(["dense"], ["autoattack", "eot", "square"])
    given = {"count": 4, "settings": FEW, "batch": 4, "device": "cpu", "draws": 3}
    record = measure(net, images, cells, **given)
    assert record["randomised"] == (name != "none")
    assert record["draws"] == (1 if name == "none" else 3)
    for cell in record["cells"]:
        assert np.isin(np.round(record["draws"] * np.array(cell["right"]), 9), range(4)).all()
    assert without_seconds(measure(net, images, cells, **given)) == without_seconds(record)


def test_a_random_choice_of_neurons_is_judged_by_draws(images, trained):
    net = set_scheme(convert(trained, score="random"), "unstructured:0.5")
    cells = plan(["unstructured:0.5"], ["square"])
    given = {"count": 4, "settings": FEW, "batch": 4, "device": "cpu", "draws": 2}
    record = measure(net, images, cells, **given)
    assert (record["randomised"], record["draws"]) == (True, 2)
    assert without_seconds(measure(net, images, cells, **given)) == without_seconds(record)


@pytest.mark.parametrize(
    ("cells", "changes", "words"),
    [
        (plan(SCHEMES, ["pgd"]), {}, "ResNet has no SINAI layer, so scheme must be dense, not 's"),
        (plan(["dense"], ["adaptive"]), {}, "ResNet has no SINAI layer, whose noise the adaptive"),
        (plan(["dense"], ["pgd"]), {"draws": 0}, "draws must be at least 1, not 0"),
        (plan(["dense"], ["pgd"]), {"seed": -1}, "seed must be at least 0, not -1"),
    ],
)
def test_what_a_network_without_sinai_layers_cannot_do_is_named(images, cells, changes, words):
    with pytest.raises(InputError, match=words):
        measure(nets.build("tiny", 3), images, cells, count=4, device="cpu", **changes)
