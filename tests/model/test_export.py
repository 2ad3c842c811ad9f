"""Traces of the integer network: determinism, thetas, densities; and the bundled ones again."""

import numpy as np
import pytest

from sinai.common.errors import InputError
from sinai.common.scheme import Scheme
from sinai.model import checkpoint as store
from sinai.model import data
from sinai.model.evaluate import accuracy_table, spread
from sinai.model.export import export
from sinai.traces import schema


def test_the_same_export_twice_gives_the_same_file(checkpoint, images, tmp_path):
    made = []
    for name in ("one.npz", "two.npz"):
        trace = export(
            checkpoint,
            images.images[:3],
            "unstructured:0.8",
            indices=[5, 6, 7],
            labels=images.labels[:3],
            calibration=images.images[10:14],
        )
        trace.save(tmp_path / name)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    loaded = schema.load(tmp_path / "one.npz")
    assert not loaded.synthetic
    assert loaded.manifest.model_digest == checkpoint.digest
    assert loaded.manifest.image_indices == (5, 6, 7)
    assert loaded.manifest.theta
    assert loaded.manifest.noise_measured == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("projection", store.FORMS)
def test_masks_are_those_of_the_network(checkpoint, images, projection):
    """Batches do not matter, and theta selects the mask from z~ of the same image."""
    scheme, x = Scheme.parse("unstructured:0.7"), images.images[:10]
    trace = export(checkpoint, x, scheme, indices=range(10), projection=projection)
    net = checkpoint.integer(projection)

    def compare(index, run):
        layer = trace.layers[index]
        z = run.noise.reshape(1, layer.h_out, layer.w_out, layer.c_out)
        expected = (z >= trace.manifest.theta[index][9]).transpose(0, 3, 1, 2)
        assert np.array_equal(trace.mask(index)[9:], expected)

    net.run(x[9:], scheme, observe=compare)


def test_densities_come_from_other_images(checkpoint, images):
    others = images.images[20:30]
    trace = export(
        checkpoint, images.images[:2], "structured:7:8", indices=[0, 1], calibration=others
    )
    again = export(checkpoint, others, "structured:7:8", indices=range(10))
    for index in range(len(trace.layers)):
        assert np.allclose(trace.density(index), again.mask(index).mean((0, 2, 3)))
        assert trace.density(index).mean() == pytest.approx(1 / 8)


def test_dense_has_no_masks(checkpoint, images):
    trace = export(checkpoint, images.images[:1], "dense", indices=[0])
    assert trace.scheme.dense
    assert trace.mask(0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((1, 3, 28, 28), np.uint8)}, "images must be uint8 of shape"),
        ({"images": np.zeros((1, 3, 32, 32))}, "not float64"),
        ({"indices": [0, 1]}, "indices and labels must be 1"),
        ({"scheme": "noisy"}, "scheme must be"),
        ({"projection": "row"}, "projection must be patch or tap"),
    ],
)
def test_bad_input_is_refused(checkpoint, images, change, message):
    given = {"images": images.images[:1], "scheme": "dense", "indices": [0]} | change
    with pytest.raises(InputError, match=message):
        export(checkpoint, given.pop("images"), given.pop("scheme"), **given)


def test_accuracy_table_counts_right_answers(checkpoint, images):
    """With the integer network's answers as labels its column is 1, the others the agreement."""
    said = checkpoint.integer().run(images.images, Scheme.parse("structured:7:8")).argmax(1)
    relabelled = data.Images("random", images.images, said, images.classes)
    (row,) = accuracy_table(checkpoint, relabelled, 96, ["structured:7:8"])
    assert row["integer"] == 1.0
    assert row["floating"] == row["agreement"]
    assert row["fake_quantised"] == row["fake_agreement"]
    assert row["fake_agreement"] == 1.0
    assert row["images"] == 96
    assert spread(10, 4).tolist() == [0, 2, 5, 7]
    with pytest.raises(InputError, match="count must be between 1 and"):
        spread(10, 11)


@pytest.mark.parametrize("name", sorted(store.bundled()))
def test_bundled_checkpoints_are_small_and_whole(name):
    folder = store.bundled()[name]
    assert all(path.stat().st_size < 8_000_000 for path in folder.iterdir())
    made = store.load(name)
    assert made.manifest.accuracy
    assert made.manifest.training["images"] > 0


@pytest.mark.parametrize(
    ("checkpoint", "scheme", "image"),
    [
        ("resnet18-cifar10jpeg", "unstructured-0.9", 5),
        ("resnet18-cifar10jpeg", "structured-7-8", 5),
        ("wrn34_10-cifar10jpeg", "structured-7-8", 1),
    ],
)
def test_bundled_masks_come_out_again(checkpoint, scheme, image):
    """One image of a bundled real trace, from the bundled checkpoint and image, bit for bit."""
    network = checkpoint.split("-")[0]
    trace = schema.load(schema.bundled()[f"{network}-{scheme}"])
    folder = store.bundled()[checkpoint]
    bundled = data.load(f"npz:{folder / 'images.npz'}", "test")
    assert tuple(bundled.origin) == trace.manifest.image_indices
    one = slice(image, image + 1)
    made = export(
        store.load(checkpoint),
        bundled.images[one],
        trace.manifest.scheme,
        indices=bundled.origin[one],
        labels=bundled.labels[one],
    )
    assert made.manifest.model_digest == trace.manifest.model_digest
    assert [row[0] for row in made.manifest.theta] == [row[image] for row in trace.manifest.theta]
    for index in range(len(trace.layers)):
        assert made.mask(index).tobytes() == trace.mask(index)[one].tobytes()
