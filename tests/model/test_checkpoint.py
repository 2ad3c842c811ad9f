"""Round trips of checkpoints, and refusal of damaged ones."""

import json

import numpy as np
import pytest

from sinai.common.errors import InputError
from sinai.common.scheme import Scheme
from sinai.model import checkpoint as store
from sinai.model import distill


@pytest.fixture
def folder(checkpoint, tmp_path):
    return checkpoint.save(tmp_path / "saved")


@pytest.mark.parametrize("projection", store.FORMS)
def test_round_trip_keeps_every_number(checkpoint, folder, images, projection):
    loaded = store.load(folder)
    assert loaded.digest == checkpoint.digest
    assert loaded.name == "saved"
    assert loaded.manifest.classes == ("a", "b", "c")
    for name, array in checkpoint.arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert np.array_equal(loaded.arrays[name], array)
    x, scheme = images.images[:2], Scheme.parse("structured:4:8")
    before = checkpoint.integer(projection).run(x, scheme)
    assert np.array_equal(loaded.integer(projection).run(x, scheme), before)


def test_round_trip_of_a_pre_activation_network(normed, images, tmp_path):
    """With batch-norms behind sums, and weights of 8 bits, which the files keep as bytes."""
    made = distill.distill_net(
        normed("tiny_preact"),
        "tiny_preact",
        images.take(range(16)),
        noise_images=8,
        weight_bits=8,
        training={"attack": None},
    )
    loaded = store.load(made.save(tmp_path / "saved"))
    assert loaded.digest == made.digest
    assert loaded.manifest == made.manifest.model_copy(update={"parts": loaded.manifest.parts})
    assert loaded.arrays["0/weight"].dtype == np.int8
    x, scheme = images.images[:2], Scheme.parse("unstructured:0.5")
    wanted = made.integer().run(x, scheme)
    assert np.array_equal(loaded.integer().run(x, scheme), wanted)
    changed = json.loads((tmp_path / "saved" / "checkpoint.json").read_text())
    del changed["layers"][0]["affine"]
    (tmp_path / "saved" / "checkpoint.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match="array 0/gain is unknown"):
        store.load(tmp_path / "saved")


def test_equal_networks_give_equal_bytes(checkpoint, folder, tmp_path):
    again = checkpoint.save(tmp_path / "again")
    for path in sorted(folder.iterdir()):
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_quantising_again_gives_the_same_integers(checkpoint):
    """Floating-point values that lie on the grid come back to the same numbers of it, whatever
    multipliers the second quantisation would choose: values are compared, not integers."""
    for form in store.FORMS:
        net = checkpoint.floating(form)
        for spec in checkpoint.integer(form).layers:
            module = net.get_submodule(spec.layer.name)
            weight, step = module.noise_levels()
            assert np.array_equal(weight, spec.noise_weight)
            expected = spec.noise_multiplier * spec.scale / 2.0**spec.noise_shift
            assert np.allclose(step, expected, rtol=1e-6)


def test_accuracy_is_added_to_a_saved_checkpoint(folder):
    rows = [{"scheme": "dense", "integer": 0.5}]
    loaded = store.load(folder)
    loaded.with_accuracy(rows).rewrite_record(folder)
    again = store.load(folder)
    assert again.manifest.accuracy == rows
    assert again.digest == loaded.digest


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_refused(folder, place):
    path = folder / "part-0.npz"
    raw = bytearray(path.read_bytes())
    raw[int(len(raw) * place)] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"part-0\.npz: SHA-256 is"):
        store.load(folder)


def test_a_missing_part_is_refused(folder):
    (folder / "part-0.npz").unlink()
    with pytest.raises(InputError, match=r"part-0\.npz: cannot be read"):
        store.load(folder)


def test_a_name_outside_the_folder_is_not_followed(folder):
    record = json.loads((folder / "checkpoint.json").read_text())
    digest = record["parts"].pop("part-0.npz")
    (folder.parent / "part-9.npz").write_bytes((folder / "part-0.npz").read_bytes())
    record["parts"]["../part-9.npz"] = digest
    (folder / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"saved/part-9\.npz: cannot be read"):
        store.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"network": "vgg"}, "network must be one of"),
        ({"colour": "red"}, "colour"),
        ({"seed": 8}, "model_digest does not fit"),
        ({"weight_bits": 8}, "array 0/weight is int16 .* must be int8"),
        ({"input_shift": 3}, "model_digest does not fit"),
        ({"network": "resnet18"}, "layers must be those of resnet18"),
        ({"parts": {}}, "array 0/bias is missing"),
    ],
)
def test_a_changed_record_is_refused(folder, change, message):
    path = folder / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message) as caught:
        store.load(folder)
    assert "checkpoint.json" in str(caught.value)


def test_no_json_and_no_folder(folder, tmp_path):
    (folder / "checkpoint.json").write_text("{")
    with pytest.raises(InputError, match=r"checkpoint\.json"):
        store.load(folder)
    with pytest.raises(InputError, match="cannot be read"):
        store.load(tmp_path / "nowhere")


def test_parts_stay_below_eight_megabytes():
    """First fit: sizes in bytes; nothing is lost or doubled."""
    arrays = {str(i): np.zeros(n, np.int8) for i, n in enumerate([5_000_000, 3_000_000] * 3)}
    parts = store._parts(arrays)
    assert sorted(name for part in parts for name in part) == sorted(arrays)
    assert all(sum(arrays[name].nbytes for name in part) < 7_900_000 for part in parts)
