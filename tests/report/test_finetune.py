"""`sinai finetune` and what it hands on, on a few images."""

import json
import shutil

import numpy as np
import pytest
import torch

from sinai.model.checkpoint import bundled, load
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
    [tuning] = about["record"]["finetuning"]
    assert tuning["schemes"] == ["structured:7:8"]
    assert tuning["images"] == 32
    assert tuning["data"].startswith("npz:")
    [run] = tuning["runs"]
    assert run.keys() == {"steps", "device", "torch", "python", "sinai"}
    assert tuning["source"] == {"name": "net", "digest": load_trained(trained).digest}
    assert tuning["distillation"]["epochs"] == 1
    assert (tuning["batch_norm"], tuning["seed"], tuning["projection_seed"]) == ("fold", 0, 0)
    assert tuning["attack"].startswith("pgd, eps 0.03137, 1 steps")  # as it was trained
    weights = torch.load(trained / "state.pt", weights_only=True)["net"]
    assert not torch.equal(net.state_dict()["stem.weight"], weights["stem.weight"])
    assert main([*command, "-o", str(out)]) == 2
    assert "exists already; give another name, or --resume" in capsys.readouterr().err
    command += ["--attack-steps", "1", "--resume"]
    assert main([*command, "-o", str(out)]) == 0  # there is nothing left to do
    assert main([*command, "--epochs", "2", "-o", str(out)]) == 2
    assert "state of another recipe" in capsys.readouterr().err

    (tmp_path / "best.pt").write_bytes((out / "net.pt").read_bytes())
    rows = []
    for index, network in enumerate((out, out / "net.pt", tmp_path / "best.pt")):
        attack = ["attack", str(network), "--data", data, "--attack", "fgsm", "--images", "4"]
        robust = tmp_path / f"robust{index}"
        assert main([*attack, "--scheme", "structured:7:8", "-o", str(robust)]) == 0
        record = json.loads((robust / "robustness.json").read_text())
        assert record["made"]["finetuning"] == [tuning]
        assert record["checkpoint"] == ("best.pt" if index == 2 else "tuned")
        rows.append(record["rows"])
    assert rows[0] == rows[1] == rows[2]
    assert {row["scheme"] for row in rows[0]} == {"structured:7:8"}


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
    [first] = checkpoint.manifest.training["finetuning"]
    assert first["optimizer"] == "sgd"
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
    assert record["finetuning"][0] == first
    assert record["finetuning"][1]["optimizer"] == "adamw"
    assert record["finetuning"][1]["distillation"] == "kept"
    assert record["finetuning"][1]["source"] == {"name": "checkpoint", "digest": checkpoint.digest}


def test_what_was_measured_stays_with_the_source(trained, data, tmp_path):
    """The accuracy before a tuning is none of the tuned network's."""
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    record = json.loads((source / "record.json").read_text())
    (source / "record.json").write_text(json.dumps(record | {"measured": {"clean": 0.5}}))
    command = ["finetune", str(source), "--data", data, *QUICK, "--adversary", "none"]
    assert main([*command, "-o", str(tmp_path / "tuned")]) == 0
    record = load_converted(tmp_path / "tuned" / "net.pt")[1]["record"]
    assert "measured" not in record
    assert record["finetuning"][0]["source"]["measured"] == {"clean": 0.5}


def test_batch_norms_are_kept_or_refused(trained, data, tmp_path, capsys):
    """A network that keeps them is read again; one whose are folded has none to keep, and no say
    is asked for where nothing is converted."""
    options = ["--data", data, *QUICK, "--adversary", "none"]
    for how in ("keep", "fold"):
        command = ["finetune", str(trained), *options, "--batch-norm", how]
        assert main([*command, "-o", str(tmp_path / how)]) == 0
        _, about = load_converted(tmp_path / how / "net.pt")
        assert about["record"]["finetuning"][0]["batch_norm"] == how
    again = ["finetune", str(tmp_path / "keep"), *options, "-o", str(tmp_path / "again")]
    assert main([*again, "--batch-norm", "keep"]) == 0
    assert load_converted(tmp_path / "again" / "net.pt")
    again = ["finetune", str(tmp_path / "fold"), *options, "-o", str(tmp_path / "none")]
    for more, words in (
        (["--batch-norm", "keep"], "those of fold are folded already, so 'keep' has none to keep"),
        (["--batch-norm", "fold", "--distill-epochs", "0"], "leave 'fold' out, or distil"),
    ):
        assert main([*again, *more]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "none").exists()
    assert main([*again, "--distill-epochs", "0", "--seed", "3"]) == 0
    tuning = load_converted(tmp_path / "none" / "net.pt")[1]["record"]["finetuning"][1]
    assert (tuning["batch_norm"], tuning["seed"], tuning["projection_seed"]) == ("fold", 3, 0)


def test_another_run_is_not_gone_on_with(trained, data, tmp_path, capsys):
    """Other images, another attack, network or handling of batch-norms: all refused, net.pt stays,
    and a folder of something else gets no file."""
    options = [*QUICK, "--adversary", "none"]
    out = tmp_path / "tuned"
    command = ["finetune", str(trained), *options, "-o", str(out)]
    assert main([*command, "--data", data]) == 0
    before = (out / "net.pt").read_bytes()
    with np.load(data.removeprefix("npz:")) as file:
        arrays = dict(file)
    arrays["train_images"] = arrays["train_images"][::-1]
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "images.npz", **arrays)
    assert main([*command, "--data", f"npz:{tmp_path / 'other' / 'images.npz'}", "--resume"]) == 2
    assert "images_digest not the same" in capsys.readouterr().err
    for more, words in (
        (["--adversary", "pgd"], "(attack not the same)"),
        (["--batch-norm", "keep"], "(network_digest not the same)"),
        (["--distill-epochs", "2"], "(distillation not the same)"),
    ):
        assert main([*command, "--data", data, *more, "--resume"]) == 2
        assert words in capsys.readouterr().err
    command[1] = str(out)
    assert main([*command, "--data", data, "--resume"]) == 2
    assert "(source not the same)" in capsys.readouterr().err
    assert (out / "net.pt").read_bytes() == before
    shutil.copytree(trained, tmp_path / "training")
    command = ["finetune", str(trained), "--data", data, *options, "--resume", "-o"]
    assert main([*command, str(tmp_path / "training")]) == 2
    assert "state.pt: is no state of a fine-tuning" in capsys.readouterr().err
    assert not list((tmp_path / "training").glob("layers*"))


def test_a_diverged_run_is_no_success(trained, data, tmp_path, capsys):
    command = ["finetune", str(trained), "--data", data, *QUICK, "--adversary", "none"]
    assert main([*command, "--lr", "1e38", "-o", str(tmp_path / "tuned")]) == 2
    said = capsys.readouterr().err
    assert "with lr 1e+38; give a smaller lr, such as 1e+37" in said
    assert "Traceback" not in said
    assert not (tmp_path / "tuned" / "net.pt").exists()
    assert "(and --resume, which keeps what is distilled)" in said
    command += ["--lr", "0.001", "--resume"]
    assert main([*command, "-o", str(tmp_path / "tuned")]) == 0


def test_an_unfinished_or_damaged_network_is_named(trained, data, tmp_path, capsys):
    tuned, damaged, none = (tmp_path / name for name in ("tuned", "damaged", "none"))
    options = ["--data", data, *QUICK, "--adversary", "none", "-o", str(none)]
    assert main(["finetune", str(trained), *options[:-1], str(tuned)]) == 0

    def refused(path, words):
        for verb in ("finetune", "distill", "attack"):
            rest = options if verb == "finetune" else ["--data", data, "-o", str(none)]
            assert main([verb, str(path), *rest]) == 2
            said = capsys.readouterr().err
            assert words in said
            assert "Traceback" not in said

    refused(tuned / "state.pt", f"is what a fine-tuning went on from; give {tuned / 'net.pt'}")
    state = torch.load(tuned / "net.pt", weights_only=True)
    about = json.loads(state["about"])
    del about["record"]
    torch.save(state | {"about": json.dumps(about)}, tmp_path / "silent.pt")
    assert load_trained(tmp_path / "silent.pt").record == {}
    (tuned / "net.pt").unlink()
    refused(tuned, "state.pt: is of a fine-tuning that was interrupted; finish it")
    (tuned / "state.pt").unlink()
    refused(tuned, "tuned: is of a fine-tuning that was interrupted; finish it")
    refused(tmp_path, "holds neither state.pt nor net.pt nor checkpoint.json")
    refused("resnet18", "is no file and no folder")
    refused("resnet18", ", ".join(bundled()))
    shutil.copytree(trained, damaged)
    for text in ("{", "[]"):
        (damaged / "record.json").write_text(text)
        refused(damaged, "record.json")
    (damaged / "state.pt").write_bytes(b"nothing")
    refused(damaged, "state.pt")


def test_devices_and_noise_weights_are_asked_for_first(trained, tmp_path, capsys, monkeypatch):
    """Before a data set is read, which may take minutes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = ["finetune", str(trained), "--data", "npz:none.npz", "-o", str(tmp_path / "out")]
    assert main([*command, "--device", "cuda"]) == 2
    assert "device cuda: this computer has none" in capsys.readouterr().err
    assert main([*command, "--distill-epochs", "0"]) == 2
    assert "has no noise weights yet" in capsys.readouterr().err


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


def test_a_trained_network_is_attacked(trained, data, tmp_path, capsys):
    """By default under dense alone, by the attacks that need no noise. It has no P to choose."""
    command = ["attack", str(trained), "--data", data, "--images", "4", "--steps", "1"]
    for form in ("patch", "tap"):
        assert main([*command, "--projection", form, "-o", str(tmp_path / "none")]) == 2
        assert "--projection needs a checkpoint, which has two" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()
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


def test_a_defended_network_is_not_tuned(data, tmp_path, capsys):
    """Its net.pt could not be read again: it names a network without the defence."""
    folder = tmp_path / "noisy"
    train = ["train", "--model", "tiny", "--resolutions", "16", "--batch", "16", "--defence", "l2p"]
    assert main([*train, "--data", data, "-o", str(folder)]) == 0
    command = ["finetune", str(folder), "--data", data, *QUICK, "-o", str(tmp_path / "tuned")]
    assert main(command) == 2
    assert "noisy: is trained with the noise of l2p, which has no place" in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()


def test_a_defended_network_makes_no_checkpoint(data, tmp_path, capsys):
    folder = tmp_path / "noisy"
    train = ["train", "--model", "tiny", "--resolutions", "16", "--batch", "16", "--defence", "rpf"]
    assert main([*train, "--data", data, "-o", str(folder)]) == 0
    assert main(["distill", str(folder), "--data", data, "-o", str(tmp_path / "made")]) == 2
    assert "is trained with the noise of rpf, which has no place" in capsys.readouterr().err
    attack = ["attack", str(folder), "--data", data, "--attack", "fgsm", "--images", "4"]
    assert main([*attack, "--scheme", "dense", "-o", str(tmp_path / "robust")]) == 0
