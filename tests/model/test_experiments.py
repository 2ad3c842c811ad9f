"""Experiments: networks made once and shared, attacks kept, rows of what was measured."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from sinai.common.errors import InputError
from sinai.model import data, exp_nets, exp_run, exp_scales, nets, robustness
from sinai.model.attacks import Settings
from sinai.model.baselines import defend
from sinai.model.exp_nets import Networks, Source, sources
from sinai.model.exp_plan import EXPERIMENTS, Experiment, Point, Subject
from sinai.model.exp_rows import row_of, summarised
from sinai.model.exp_run import plan, run
from sinai.model.exp_scales import SCALES, caps
from sinai.model.finetune import FineTuning
from sinai.model.layerwise import Distillation
from sinai.model.pool import Pool
from sinai.model.recipes import RECIPES
from sinai.model.sinai import layers_of, set_scheme
from sinai.model.train import train
from sinai.model.trained import load_trained
from sinai.model.tune import tune
from sinai.model.weights import load_converted

OAT = Subject(network="resnet18", dataset="CIFAR-10")
NOISY = replace(OAT, method="SINAI", tuned=("unstructured:0.9", "structured:7:8"))


FULL = SCALES["full"]


def smallest(scale, side=32):
    """A scale with the smallest networks, one epoch of four steps and two steps an attack."""
    models = {
        "resnet18": "tiny",
        "wrn34_10": "tiny_preact",
        "resnet50": "tiny_resnet50",
        "vit_b16": "tiny_vit",
    }
    return replace(
        scale,
        recipes={
            name: replace(
                scale.recipes[name],
                model=model,
                resolutions=(side if name == "vit_b16" else 16,),
                batch=8,
                attack_steps=1,
                validation=0,
                bfloat16=False,
            )
            for name, model in models.items()
        },
        distillation={"": Distillation(epochs=1, batch=16)},
        tuning={"": FineTuning(batch=16)},
        settings=Settings(
            steps=2, mifgsm_steps=1, cw_steps=1, autoattack_steps=1, queries=2, eot=2,
            unbounded_steps=1,
        ),
        batch=2,
        pool=2,
    )  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    for name, scale in SCALES.items():
        monkeypatch.setitem(exp_scales.SCALES, name, smallest(scale))


@pytest.fixture(scope="session")
def spec(tmp_path_factory):
    """Thirty-two training and four test images of ten classes, or of as many as are asked for."""
    folder = tmp_path_factory.mktemp("images")

    def made(classes=10):
        path = folder / f"{classes}.npz"
        rng = np.random.default_rng(classes)
        splits = {
            split: data.Images(
                f"random/{split}",
                rng.integers(0, 256, (count, 3, 32, 32)).astype(np.uint8),
                np.arange(count) % 10,
                tuple(map(str, range(classes))),
            )
            for split, count in (("train", 32), ("test", 4))
        }
        data.save(path, splits)
        return f"npz:{path}"

    return made


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """One folder for all tests: what one has trained, another finds."""
    return tmp_path_factory.mktemp("work")


def go(name, spec, work, **options):
    return run(
        name, options.pop("scale", "tiny"), sources((spec(),)), work, device="cpu", **options
    )


def test_few_images_fit_the_full_scale(small, spec, work, monkeypatch):
    """Five training images: no step asks for more, and one of ten at most is held out."""
    full = exp_scales.SCALES["full"]
    recipes = {name: replace(recipe, validation=1000) for name, recipe in full.recipes.items()}
    monkeypatch.setitem(exp_scales.SCALES, "full", replace(full, recipes=recipes))
    data = sources((spec(),), 5)
    made = run("table7", "full", data, work, device="cpu", images=2)
    assert made["rows"]
    networks = Networks(exp_scales.SCALES["full"], data, work)
    recipe = networks.recipe(OAT)
    assert (recipe.batch, recipe.validation) == (5, 0)
    networks = Networks(exp_scales.SCALES["full"], sources((spec(),), 25), work)
    assert networks.recipe(OAT).validation == 2


@pytest.fixture
def harmless(monkeypatch):
    """Nothing learns and no attack does anything: what is tested is the rest."""

    def measured(net, images, cells, *, count, batch, **_):
        [cell] = cells
        with torch.no_grad():
            set_scheme(net, cell.scheme)(torch.from_numpy(images.images[:1]).float() / 255)
        right = [1.0] + [0.0] * (count - 1)
        return {
            "versions": {},
            "clean": {cell.scheme: right},
            "cells": [{"right": right, "remarks": []}],
        }

    monkeypatch.setattr(exp_run, "measure", measured)
    monkeypatch.setattr(exp_nets, "train", lambda recipe, *_, **__: untrained(recipe))
    monkeypatch.setattr(exp_nets, "distill_layers", lambda *_, **__: None)
    monkeypatch.setattr(exp_nets, "finetune", lambda net, *_, **__: net.eval())


def untrained(recipe):
    net = defend(nets.build(recipe.model, 10), recipe.defence, seed=recipe.seed)
    return net.eval()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs(name, small, harmless, spec, work):
    """With attacks that do nothing every accuracy is the clean one."""
    record = json.loads(json.dumps(go(name, spec, work, images=2)))
    ran = [row for row in record["rows"] if row["clean"] is not None]
    absent = [row for row in record["rows"] if row["clean"] is None]
    assert ran
    for row in ran:
        assert (row["images"], row["clean"]) == (2, 0.5)
        assert row["worst_case"] == (None if row["kind"] == "none" else 0.5)
    assert {row["dataset"] for row in absent} <= {"CIFAR-100"}
    assert all(row["remark"] == "no data: CIFAR-100 is not given" for row in absent)
    stand_in = [row["remark"] for row in ran if row["dataset"] == "ImageNet"]
    assert all(remark == "on CIFAR-10: ImageNet is not given" for remark in stand_in)


def test_full_runs_the_same_code_and_has_no_stand_in(small, harmless, spec, work, monkeypatch):
    record = go("table4", spec, work, scale="full", images=2)
    assert {row["remark"] for row in record["rows"]} == {"no data: ImageNet is not given"}
    monkeypatch.setitem(exp_scales.SCALES, "full", smallest(FULL, side=224))
    record = go("table12", spec, work, scale="full", images=2)
    assert {row["remark"] for row in record["rows"]} == {
        "no data: tiny_vit needs images of 224x224 pixels"
    }
    record = go("table11", spec, work, scale="full", images=2)
    assert {row["images"] for row in record["rows"]} == {2, None}


def test_data_of_100_classes_stand_for_cifar_100(small, harmless, spec, work):
    record = run("table11", "tiny", sources((spec(100),)), work, device="cpu", images=2)
    assert {row["dataset"] for row in record["rows"] if row["clean"] is None} == {"CIFAR-10"}


def test_columns_are_those_of_the_attacks_and_the_worst_is_below_them(
    small, spec, work, monkeypatch
):
    """Attacks as they are, judged image by image against a fifth of them by hand."""
    few = Experiment(
        title="few",
        points=tuple(
            Point(subject=subject, scheme=scheme, attack="fgsm", label="FGSM")
            for subject, scheme in ((OAT, "dense"), (NOISY, "structured:7:8"))
        ),
    )
    monkeypatch.setitem(exp_run.EXPERIMENTS, "table1", few)
    dense, noisy = go("table1", spec, work)["rows"]
    assert set(dense["shares"]) == {"clean", "straight-through", "worst"}
    assert set(noisy["shares"]) == {"clean", "straight-through", "as-in-paper", "worst"}
    for row in (dense, noisy):
        right = {name: np.asarray(shares["right"]) for name, shares in row["shares"].items()}
        for name in right:
            assert (right["worst"] <= right[name]).all(), name
        assert row["straight_through"] == right["straight-through"].mean()
        assert row["worst_case"] == right["worst"].mean()
    assert dense["as_in_paper"] == dense["straight_through"]
    assert noisy["as_in_paper"] == np.mean(noisy["shares"]["as-in-paper"]["right"])


def test_companions_of_the_worst_case(small, spec, work, monkeypatch):
    """What no gradient hides from is run within the same eps, whatever the point's attack is."""
    seen = []

    def see(net, x, y, name, *, gradient, settings, seed):
        seen.append((name, gradient, round(255 * settings.eps)))
        return x

    monkeypatch.setattr(robustness, "attack", see)
    point = Point(
        subject=NOISY,
        scheme="unstructured:0.5",
        attack="mifgsm",
        label="MIFGSM",
        changes=(("eps", 4 / 255),),
    )
    monkeypatch.setitem(exp_run.EXPERIMENTS, "table1", Experiment(title="", points=(point,)))
    monkeypatch.setattr(robustness, "_right", lambda *_: {"right": [1.0] * 2})
    go("table1", spec, work, images=2)
    assert set(seen) == {
        ("mifgsm", "straight-through", 4),
        ("mifgsm", "as-in-paper", 4),
        ("pgd", "straight-through", 4),
        ("bpda", "dense-path", 4),
        ("transfer", "dense", 4),
        ("square", "straight-through", 4),
    }


def test_a_second_run_attacks_and_trains_nothing(small, spec, work, monkeypatch):
    first = go("table11", spec, work, images=2)

    def never(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr(robustness, "attack", never)
    monkeypatch.setattr("sinai.model.exp_nets.finetune", never)
    assert go("table11", spec, work, images=2) == first


def test_networks_are_shared_and_told_apart(small, spec, work):
    made = Networks(SCALES["tiny"], sources((spec(),)), work)
    assert made.name(NOISY) == made.name(replace(NOISY, pool=True))
    others = [OAT, NOISY, replace(NOISY, bits=2), replace(NOISY, tuned=("unstructured:0.9",))]
    assert len({made.name(subject) for subject in others}) == len(others)
    seeded = Networks(SCALES["tiny"], sources((spec(),)), work, seed=1)
    assert seeded.name(OAT) != made.name(OAT)
    assert {layer.switches.bits for layer in layers_of(made.get(replace(NOISY, bits=2)))} == {2}
    assert not list(layers_of(made.get(OAT)))


def test_what_was_done_is_reported_and_the_network_is_tuned_further(small, spec, work, tmp_path):
    """Twelve images: batches of 16 are of 12 then, in NAME.json as in the file of the network."""
    data = sources((spec(),), 12)
    record = run("table11", "tiny", data, work, device="cpu", images=2)
    networks = json.loads(json.dumps(record["networks"]))
    [name] = [name for name in networks if "SINAI" in name]
    told = networks[name]
    assert (told["training"]["batch"], told["distillation"]["batch"]) == (8, 12)
    assert told["tuning"]["batch"] == 12
    _, about = load_converted(work / name / "net.pt")
    [tuning] = about["record"]["finetuning"]
    assert tuning["distillation"] == told["distillation"]
    assert {key: tuning[key] for key in told["tuning"]} == told["tuning"]
    [base] = [name for name in networks if "OAT" in name]
    assert networks[base] == {"training": told["training"]}
    source = load_trained(work / base)
    assert tuning["source"] == {"name": base, "digest": source.digest}
    further = load_trained(work / name)
    assert further.recipe == source.recipe
    recipe = FineTuning(batch=16)
    tune(further, spec(), tmp_path, None, recipe, attacker=further.recipe, device="cpu")
    _, about = load_converted(tmp_path / "net.pt")
    assert [each["images"] for each in about["record"]["finetuning"]] == [12, 32]


def test_a_network_of_sinai_train_is_put_in_place(small, spec, tmp_path):
    """Of the same recipe, trained on other images, to the end."""
    made = Networks(SCALES["tiny"], sources((spec(),), 12), tmp_path / "work")
    other = Source(spec()).train
    net = train(made.recipe(OAT), other, tmp_path / "ours")
    folder = tmp_path / "work" / made.name(OAT)
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "ours" / "state.pt", folder)
    found = made.get(OAT).state_dict()
    assert all(torch.equal(found[name], value) for name, value in net.state_dict().items())
    assert json.loads((folder / "record.json").read_text())["images"] == 32


def test_a_record_of_an_earlier_version_is_named(small, spec, work, tmp_path):
    """It had one fine-tuning in place of a list."""
    made = Networks(SCALES["tiny"], sources((spec(),)), work)
    made.get(NOISY)
    source = load_trained(work / made.name(NOISY))
    source.record["finetuning"] = source.record["finetuning"][0]
    with pytest.raises(InputError, match="record of fine-tuning is of an earlier version of sinai"):
        tune(source, spec(), tmp_path, None, FineTuning(batch=16), attacker=source.recipe)
    assert not list(tmp_path.iterdir())


def test_a_pool_is_taken_from_its_folder(small, spec, work):
    first, again = (
        Networks(SCALES["tiny"], sources((spec(),)), work).get(replace(NOISY, pool=True))
        for _ in range(2)
    )
    ours, theirs = first.state_dict(), again.state_dict()
    assert all(torch.equal(ours[name].nan_to_num(), theirs[name].nan_to_num()) for name in ours)


def test_members_of_a_pool_differ_in_p_alone(small, spec, work):
    pool = Networks(SCALES["tiny"], sources((spec(),)), work).get(replace(NOISY, pool=True))
    assert isinstance(pool, Pool)
    first, second = (list(layers_of(member)) for member in pool.members)
    for one, other in zip(first, second, strict=True):
        assert one.weight is other.weight
        assert not torch.equal(one.matrix, other.matrix)
        assert not torch.equal(one.noise_weight, other.noise_weight)


def test_one_network_for_each_scheme_if_asked():
    each = plan(EXPERIMENTS["table6"], SCALES["tiny"], each=True)
    assert all(point.subject.tuned == (point.scheme,) for point in each.points)


def test_points_beyond_the_scale_are_left_out():
    steps = {
        dict(p.changes).get("steps", 20) for p in plan(EXPERIMENTS["fig3"], SCALES["tiny"]).points
    }
    assert steps == {10, 20, 50}
    assert plan(EXPERIMENTS["fig3"], SCALES["full"]) == EXPERIMENTS["fig3"]


def test_training_images_are_capped_and_mixed(spec):
    """Folders come class by class: the first images must not be of one class."""
    source = Source(spec(), 20)
    assert len(source.train) == 20
    assert list(source.train.origin) != sorted(source.train.origin)
    assert source.digest != Source(spec(), 19).digest


@pytest.mark.parametrize(
    ("classes", "words"), [((20,), "must have 10"), ((10, 10), "give one of both")]
)
def test_data_that_stand_for_nothing_are_refused(spec, classes, words):
    with pytest.raises(InputError, match=words):
        sources(tuple(spec(count) for count in classes))


def test_full_is_the_protocol_of_the_paper():
    """Appendix D: what it gives, number by number."""
    full = SCALES["full"]
    cifar = full.recipes["resnet18"]
    assert cifar == replace(RECIPES["rice"], model="resnet18")
    assert (len(cifar.resolutions), cifar.batch, cifar.peak_lr) == (200, 128, 0.1)
    assert (cifar.momentum, cifar.weight_decay, cifar.attack_steps) == (0.9, 5e-4, 10)
    assert (full.tuning[""].epochs, full.tuning["resnet50"].epochs) == (1, 10)
    assert (full.distillation[""].epochs, full.distillation[""].optimizer) == (50, "sgd")
    assert full.distillation["resnet50"].optimizer == "adamw"
    assert full.settings == Settings()
    assert caps(full, full.recipes, 0, 0) == []


def test_caps_name_what_differs():
    lines = caps(SCALES["tiny"], ["resnet18"], 50, 1000)
    assert "resnet18 is `tiny`" in lines[0]
    assert "at most 50 test images: one is 2 %" in lines
    assert any(line.startswith("queries of attacks") for line in lines)


def test_summary_is_the_mean_over_listed_attacks_and_the_minimum_over_bounded_ones():
    def row(attack, label, **right):
        point = Point(subject=NOISY, scheme="structured:7:8", attack=attack, label=label)
        made = row_of(point, SCALES["tiny"])
        shares = {name.replace("_", "-"): {"right": values} for name, values in right.items()}
        names = ("straight-through", "as-in-paper", "worst")
        columns = ("straight_through", "as_in_paper", "worst_case")
        return {
            **made,
            "clean": 1.0,
            "shares": shares,
            **{c: float(np.mean(shares[n]["right"])) for n, c in zip(names, columns, strict=True)},
        }

    rows = [
        row("fgsm", "FGSM", straight_through=[1, 0], as_in_paper=[1, 1], worst=[1, 0]),
        row("pgd", "PGD-20", straight_through=[0, 1], as_in_paper=[1, 1], worst=[0, 1]),
        row("cw", "C&W", straight_through=[0, 0], as_in_paper=[0, 0], worst=[0, 0]),
        row("cw", "C&W, c = 1", straight_through=[0, 0], as_in_paper=[0, 0], worst=[0, 0]),
    ]
    mean, bounded = summarised(rows, ("average", "all bounded"))[4:]
    assert summarised(rows, ()) == rows
    assert mean["straight_through"] == pytest.approx(1 / 3, abs=1e-4)
    assert mean["as_in_paper"] == pytest.approx(2 / 3, abs=1e-4)
    assert (bounded["straight_through"], bounded["as_in_paper"], bounded["worst_case"]) == (0, 1, 0)
