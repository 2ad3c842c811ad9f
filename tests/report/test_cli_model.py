"""The verbs of the model side, from images to masks, on a network and a data set made for it."""

import inspect
import json
import re
import sys

import numpy as np
import pytest

from sinai.report.cli import main, sinai

torch = pytest.importorskip("torch")

#: A few seconds of training; more would not change what is tested.
TRAIN = ["train", "--model", "tiny", "--resolutions", "16,32", "--batch", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of noisy 32x32 images, one brighter than the other: npz:FILE."""
    rng = np.random.default_rng(0)
    arrays = {"classes": np.array(["dark", "bright"])}
    for split, count in (("train", 64), ("test", 20)):
        labels = np.arange(count) % 2
        noise = rng.integers(0, 64, (count, 3, 32, 32))
        arrays[f"{split}_images"] = (noise + 128 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez_compressed(path, **arrays)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "trained"
    assert main([*TRAIN, "--data", data, "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def checkpoint(trained, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill") / "checkpoint"
    assert main(["distill", str(trained), "--data", data, "--images", "64", "-o", str(folder)]) == 0
    return folder


def test_train_starts_from_a_recipe():
    """Its options have no defaults of their own: what is not given is the recipe's."""
    from dataclasses import fields

    from sinai.model.baselines import DEFENCES
    from sinai.model.recipes import RECIPES, Recipe

    verb = sinai.commands["train"]
    options = {parameter.name: parameter for parameter in verb.params}
    given = verb.make_context("train", ["--data", "npz:a", "-o", "b"]).params
    assert options["recipe"].type.choices == tuple(RECIPES)
    assert options["defence"].type.choices == tuple(DEFENCES)
    ours = {"recipe", "data", "epochs", "device", "output", "resume"}
    assert {*options} - ours <= {field.name for field in fields(Recipe)}
    assert {given[name] for name in {*options} - ours} == {None}


def test_train_takes_what_is_given_and_the_rest_from_the_recipe(data, tmp_path, capsys):
    command = ["train", "--recipe", "rice", "--data", data, "--model", "tiny", "--epochs", "2"]
    command += ["--validation", "8", "--attack-steps", "1", "--eps", "4/255", "--batch", "28"]
    command += ["--defence", "pni", "--device", "cpu"]
    assert main([*command, "-o", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    recipe = record["recipe"]
    assert (recipe["schedule"], recipe["adversary"], recipe["defence"]) == ("steps", "pgd", "pni")
    assert (recipe["eps"], recipe["resolutions"]) == (4 / 255, [32, 32])
    assert record["images"] == 56
    assert record["validation"]["epoch"] in (1, 2)
    assert main([*command, "--resolutions", "16", "-o", str(tmp_path / "other")]) == 2
    assert "--epochs and --resolutions: give one of them" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_defaults_of_distill_are_those_of_the_function():
    from sinai.model.distill import distill

    [verb] = [command for name, command in sinai.commands.items() if name == "distill"]
    declared = inspect.signature(distill).parameters
    names = ("images", "noise_images", "weight_bits", "seed", "device")
    shared = {p.name: p.default for p in verb.params if p.name in names}
    assert shared == {name: declared[name].default for name in names}


def test_training_leaves_a_state_and_a_record(trained):
    record = json.loads((trained / "record.json").read_text())
    assert record["images"] == 64
    assert record["steps"] == 2 * 64 // 16
    assert (trained / "state.pt").exists()


def test_training_goes_on_only_when_asked(trained, data, tmp_path, capsys):
    arguments = [*TRAIN, "--data", data, "-o"]
    assert main([*arguments, str(trained)]) == 2
    assert "exists already; give another name, or --resume" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "none"), "--resume"]) == 2
    assert "holds no state.pt to go on from" in capsys.readouterr().err
    capsys.readouterr()
    with np.load(data.removeprefix("npz:")) as file:
        arrays = dict(file)
    np.savez(tmp_path / "other.npz", **(arrays | {"train_labels": 1 - arrays["train_labels"]}))
    other = [*TRAIN, "--data", f"npz:{tmp_path / 'other.npz'}", "--resume", "-o", str(trained)]
    for again in ([*arguments, str(trained), "--resume"], other):  # it has ended
        assert main(again) == 0
        assert "tiny trained on 64 images of npz:images.npz/train" in capsys.readouterr().out
    assert main([*arguments, str(trained), "--resume", "--seed", "1"]) == 2
    assert "another recipe" in capsys.readouterr().err


def test_evaluation_counts_in_every_arithmetic(checkpoint, data, capsys):
    arguments = ["evaluate", str(checkpoint), "--data", data]
    assert main([*arguments, "--scheme", "dense", "--scheme", "structured:4:8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["scheme"] for row in rows] == ["dense", "structured:4:8"]
    assert [row["images"] for row in rows] == [20, 20]  # all there are
    kinds = ("floating", "fake_quantised", "integer")
    assert all(0 <= row[name] <= 1 for row in rows for name in kinds)
    assert main([*arguments, "--scheme", "dense"]) == 0
    assert f"{rows[0]['integer']:.4f}" in capsys.readouterr().out


def test_exported_masks_are_real_and_verify(checkpoint, data, tmp_path, capsys):
    out = tmp_path / "real.npz"
    arguments = ["trace", "export", "--checkpoint", str(checkpoint), "--data", data]
    arguments += ["--scheme", "unstructured:0.9", "--images", "3"]
    assert main([*arguments, "-o", str(out)]) == 0
    capsys.readouterr()
    assert main(["trace", "info", str(out), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert not info["synthetic"]
    assert info["image_indices"] == [0, 6, 13]  # 20 * i / 3, rounded down
    assert main(["trace", "verify", str(out)]) == 0
    again = tmp_path / "again.npz"
    assert main([*arguments, "--calibration", "0", "--model", "tiny", "-o", str(again)]) == 0
    assert (
        main(["run", str(again), "--machine", "unstructured-small", "-o", str(tmp_path / "r")]) == 0
    )
    assert "real masks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --data {data} --model vgg -o {new}", "model must be one of .* not 'vgg'"),
        ("train --data imagefolder:none -o {new}", "none/train: no such folder"),
        ("train --data cifar -o {new}", "data must be KIND:PATH"),
        ("train --data {data} --resolutions 16,big -o {new}", "give sides of 8 to 1024 pixels"),
        ("train --data {data} --batch 0 -o {new}", "0 is not in the range"),
        ("train --data {data} --peak-lr 0 -o {new}", "0.0 is not in the range"),
        ("train --model tiny --data {data} --batch 65 -o {new}", "batch"),
        (
            "distill {new} --data {data} -o {new}2",
            "new: is no file and no folder.* that `sinai train` wrote",
        ),
        ("distill {trained} --data {data} -o {trained}", "exists already"),
        ("distill {trained} --data {data} --images 0 -o {new}", "between 1 and 10000, not 0"),
        ("distill {trained} --data {data} --weight-bits 1 -o {new}", "between 2 and 16, not 1"),
        ("evaluate none --data {data}", "none/checkpoint.json: cannot be read"),
        ("evaluate {checkpoint} --data {data} --images 0", "0 is not in the range"),
        ("evaluate {checkpoint} --data {data} --scheme structured:9:8", "between 0 and 8, not 9"),
        ("trace export --checkpoint {checkpoint} --data {data} --scheme foo -o {new}", "not 'foo'"),
        (
            "trace export --checkpoint {checkpoint} --model resnet18 --data {data} --scheme dense"
            " -o {new}",
            "--model resnet18: checkpoint .* is of tiny",
        ),
        (
            "trace export --checkpoint {checkpoint} --data {data} --scheme dense --images 0"
            " -o {new}",
            "count must be between 1 and the 20 images",
        ),
    ],
)
def test_bad_input_is_refused(words, message, data, trained, checkpoint, tmp_path, capsys):
    places = {"data": data, "trained": trained, "checkpoint": checkpoint, "new": tmp_path / "new"}
    capsys.readouterr()
    assert main(words.format(**places).split()) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err), printed.err
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["train", "distill", "evaluate", "trace export"])
def test_without_pytorch_a_line_says_what_to_install(verb, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    new = str(tmp_path / "new")
    arguments = {
        "train": ["-o", new],
        "distill": [new, "-o", new],
        "evaluate": [new],
        "trace export": ["--checkpoint", new, "--scheme", "dense", "-o", new],
    }[verb]
    assert main([*verb.split(), "--data", data, *arguments]) == 3
    expected = f"sinai: sinai {verb} needs PyTorch: pip install 'sinai[model]'\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []
