"""`sinai finetune` and what it hands on, on a few images."""

import json

import numpy as np
import pytest
import torch

from sinai.model.checkpoint import load
from sinai.model.nets import build
from sinai.model.sinai import convert, set_scheme
from sinai.model.trained import load_trained
from sinai.model.weights import load_converted, save_converted
from sinai.report.cli import main

QUICK = ["--images", "32", "--batch", "16", "--distill-epochs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(4)
    arrays = {"classes": np.array(["a", "b"])}
    for split, count in (("train", 48), ("test", 8)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 2
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "net"
    command = ["train", "--recipe", "fast", "--model", "tiny_preact", "--resolutions", "16"]
    assert main([*command, "--batch", "16", "--data", data, "-o", str(folder)]) == 0
    return folder


def test_a_tuned_network_is_attacked(trained, data, tmp_path, capsys):
    out = tmp_path / "tuned"
    command = ["finetune", str(trained), "--data", data, *QUICK, "--scheme", "structured:7:8"]
    assert main([*command, "--attack-steps", "1", "-o", str(out)]) == 0
    net, about = load_converted(out / "net.pt")
    tuning = about["record"]["finetuning"]
    assert tuning["schemes"] == ["structured:7:8"]
    assert tuning["images"] == 32
    assert tuning["data"].startswith("npz:")
    assert {"device", "torch", "python", "sinai", "seed"} <= tuning.keys()
    assert tuning["attack"].startswith("pgd, eps 0.03137, 1 steps")  # as it was trained
    weights = torch.load(trained / "state.pt", weights_only=True)["net"]
    assert not torch.equal(net.state_dict()["stem.weight"], weights["stem.weight"])
    assert main([*command, "-o", str(out)]) == 2
    assert "exists already; give another name, or --resume" in capsys.readouterr().err
    command += ["--attack-steps", "1", "--resume"]
    assert main([*command, "-o", str(out)]) == 0  # there is nothing left to do
    assert main([*command, "--epochs", "2", "-o", str(out)]) == 2
    assert "state of another recipe" in capsys.readouterr().err

    attack = ["attack", str(out / "net.pt"), "--data", data, "--attack", "fgsm", "--images", "4"]
    assert main([*attack, "--scheme", "structured:7:8", "-o", str(tmp_path / "robust")]) == 0
    record = json.loads((tmp_path / "robust" / "robustness.json").read_text())
    assert record["made"]["finetuning"] == tuning


def test_a_tuned_network_becomes_a_checkpoint_and_is_tuned_again(trained, data, tmp_path):
    """Exact weights and the record of both trainings come through; so does a checkpoint's."""
    tuned, again = tmp_path / "tuned", tmp_path / "again"
    options = ["--data", data, *QUICK, "--adversary", "none", "--lr", "0.002"]
    assert main(["finetune", str(trained), *options, "-o", str(tuned)]) == 0
    net, about = load_converted(tuned / "net.pt")
    made = tmp_path / "checkpoint"
    distill = ["distill", str(tuned), "--data", data, "--images", "16", "--device", "cpu"]
    assert main([*distill, "-o", str(made)]) == 0
    checkpoint = load(made)
    assert checkpoint.manifest.training == about["record"]
    assert checkpoint.manifest.training["recipe"]["adversary"] == "fgsm"
    assert checkpoint.manifest.training["finetuning"]["optimizer"] == "sgd"
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        exact, rounded = set_scheme(net, "dense")(x), checkpoint.floating()(x)
        before = load_trained(trained).net(x)
        assert (exact - rounded).abs().max() < 0.2 * (exact - before).abs().max()
        assert torch.allclose(load_trained(made).net(x), rounded, atol=1e-5)
    command = ["finetune", str(made), *options, "--optimizer", "adamw", "--distill-epochs", "0"]
    assert main([*command, "--schedule", "cosine", "-o", str(again)]) == 0
    assert not list(again.glob("layers*"))
    record = load_converted(again / "net.pt")[1]["record"]
    assert record["recipe"] == about["record"]["recipe"]
    assert record["finetuning"]["optimizer"] == "adamw"


def test_a_network_without_noise_weights_needs_distillation(trained, data, tmp_path, capsys):
    command = ["finetune", str(trained), "--data", data, *QUICK, "--distill-epochs", "0"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 2
    assert "has no noise weights yet" in capsys.readouterr().err


def test_a_network_of_unknown_training_is_refused(data, tmp_path, capsys):
    net = convert(build("tiny", 2))
    save_converted(net, tmp_path / "net.pt", network="tiny")
    command = ["finetune", str(tmp_path), "--data", data, *QUICK, "-o", str(tmp_path / "out")]
    assert main(command) == 2
    assert "does not say how its network was trained" in capsys.readouterr().err


def test_a_trained_network_is_attacked(trained, data, tmp_path):
    """By default under dense alone, by the attacks that need no noise."""
    command = ["attack", str(trained), "--data", data, "--images", "4", "--steps", "1"]
    assert main([*command, "--queries", "2", "-o", str(tmp_path / "robust")]) == 0
    record = json.loads((tmp_path / "robust" / "robustness.json").read_text())
    assert record["made"]["recipe"]["adversary"] == "fgsm"
    assert {row["scheme"] for row in record["rows"]} == {"dense"}
    names = {row["attack"] for row in record["rows"]}
    assert {"fgsm", "pgd", "square"} <= names
    assert "adaptive" not in names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scheme", "dense"], "schemes must be one or more with noise, not dense"),
        (["--scheme", "loud"], "loud"),
        (["--batch", "64"], "batch must be at most the 32 images, not 64"),
        (["--resume"], "holds nothing to go on from; leave out --resume"),
    ],
)
def test_bad_input_is_named(trained, data, tmp_path, capsys, arguments, words):
    command = ["finetune", str(trained), "--data", data, *QUICK, *arguments]
    assert main([*command, "-o", str(tmp_path / "tuned")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "tuned").exists()


def test_a_missing_network_is_named(data, tmp_path, capsys):
    command = ["finetune", str(tmp_path / "none"), "--data", data, "-o", str(tmp_path / "tuned")]
    assert main(command) == 2
    assert "give the folder that `sinai train` wrote" in capsys.readouterr().err


def test_a_defended_network_makes_no_checkpoint(data, tmp_path, capsys):
    folder = tmp_path / "noisy"
    train = ["train", "--model", "tiny", "--resolutions", "16", "--batch", "16", "--defence", "rpf"]
    assert main([*train, "--data", data, "-o", str(folder)]) == 0
    assert main(["distill", str(folder), "--data", data, "-o", str(tmp_path / "made")]) == 2
    assert "is trained with the noise of rpf, which has no place" in capsys.readouterr().err
    attack = ["attack", str(folder), "--data", data, "--attack", "fgsm", "--images", "4"]
    assert main([*attack, "--scheme", "dense", "-o", str(tmp_path / "robust")]) == 0
