"""`sinai finetune` and what it hands on, on a few images."""

import json

import numpy as np
import pytest
import torch

from sinai.model.weights import load_converted
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
