"""The verb `sinai attack` on the bundled network and made-up images of its classes."""

import inspect
import json

import numpy as np
import pytest

from sinai.report.cli import main, sinai

torch = pytest.importorskip("torch")

QUICK = ["--images", "4", "--batch", "2", "--steps", "2", "--queries", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of CIFAR-10's classes, by name: npz:FILE."""
    from sinai.model.checkpoint import load

    rng = np.random.default_rng(0)
    arrays = {"classes": np.array(load("tiny").manifest.classes)}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (10, 3, 32, 32)).astype(np.uint8)
        arrays[f"{split}_labels"] = np.arange(10)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez_compressed(path, **arrays)
    return f"npz:{path}"


def test_it_writes_table_and_record_and_leaves_no_journal(data, tmp_path, capsys):
    out = tmp_path / "robust"
    command = ["attack", "tiny", "--data", data, "--attack", "pgd", "--attack", "square", *QUICK]
    assert main([*command, "--eps", "4/255", "-o", str(out)]) == 0
    record = json.loads((out / "robustness.json").read_text())
    assert record["settings"]["eps"] == 4 / 255
    assert record["settings"]["steps"] == 2
    assert record["checkpoint"] == "tiny"
    assert len(record["labels"]) == 4
    assert [row["scheme"] for row in record["rows"]] == [
        scheme for scheme in ("dense", "unstructured:0.9", "structured:7:8") for _ in range(3)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"robust"}
    assert "worst" in capsys.readouterr().out
    assert main([*command, "-o", str(out)]) == 2, "a directory is not overwritten unasked"


def test_a_pool_is_attacked_as_a_randomised_network(data, tmp_path):
    out = tmp_path / "robust"
    command = ["attack", "tiny", "--data", data, "--attack", "eot", "--eot", "2", "--pool", *QUICK]
    assert main([*command, "--scheme", "structured:7:8", "-o", str(out)]) == 0
    record = json.loads((out / "robustness.json").read_text())
    assert record["randomised"]
    assert record["projection"] == "patch or tap"
    assert set(record["clean"]["structured:7:8"]) <= {0.0, 0.5, 1.0}


def test_defaults_are_those_of_the_settings():
    from sinai.model.attacks import Settings

    verb = sinai.commands["attack"]
    context = verb.make_context("attack", [], resilient_parsing=True)
    options = context.params
    shared = set(options) & set(inspect.signature(Settings).parameters)
    assert len(shared) == 9
    assert {name: options[name] for name in shared} == {
        name: getattr(Settings(), name) for name in shared
    }


def test_help_names_every_attack(capsys):
    from sinai.model.attacks import ATTACKS

    assert main(["attack", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ATTACKS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attack", "magic"], "attack must be one of fgsm"),
        (["--eps", "9"], "must be above 0 and at most 1"),
        (["--eps", "much"], "give a number such as 0.03 or 8/255"),
        (["--scheme", "loud"], "loud"),
        (["--data", "npz:none.npz"], "none.npz"),
    ],
)
def test_bad_input_is_named(data, tmp_path, capsys, arguments, words):
    out = tmp_path / "robust"
    assert main(["attack", "tiny", "--data", data, *QUICK, *arguments, "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not out.exists()


def test_an_unknown_checkpoint_is_named(data, tmp_path, capsys):
    assert main(["attack", "nothing", "--data", data, "-o", str(tmp_path / "robust")]) == 2
    assert "nothing" in capsys.readouterr().err


def test_data_of_other_classes_are_refused(data, tmp_path, capsys):
    with np.load(data.removeprefix("npz:")) as file:
        arrays = dict(file)
    arrays["classes"] = arrays["classes"][::-1]
    np.savez(tmp_path / "other.npz", **arrays)
    command = ["attack", "tiny", "--data", f"npz:{tmp_path / 'other.npz'}", *QUICK]
    assert main([*command, "-o", str(tmp_path / "robust")]) == 2
    assert "give data of the same classes in the same order" in capsys.readouterr().err
