"""Data sets from folders and files; what is refused."""

import numpy as np
import pytest
from PIL import Image

from sinai.common.errors import InputError
from sinai.model import data


@pytest.fixture
def folder(tmp_path):
    """Two classes; file names out of order; each image of one grey value."""
    for name, value in (("cat/b.png", 20), ("cat/a.png", 10), ("ant/z.png", 30)):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def test_imagefolder_is_in_alphabetical_order(folder):
    images = data.load(f"imagefolder:{folder}", "train")
    assert images.classes == ("ant", "cat")
    assert images.images.shape == (3, 3, 4, 5)
    assert images.images[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert images.labels.tolist() == [0, 1, 1]


def test_npz_round_trip_keeps_where_images_come_from(folder, tmp_path):
    images = data.load(f"imagefolder:{folder}", "train").take([2, 0])
    for name in ("one.npz", "two.npz"):
        data.save(tmp_path / name, {"train": images})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    again = data.load(f"npz:{tmp_path / 'one.npz'}", "train")
    assert np.array_equal(again.images, images.images)
    assert again.labels.tolist() == [1, 0]
    assert again.origin.tolist() == [2, 0]
    assert again.take([1]).origin.tolist() == [0]
    assert (again.name, again.classes) == (images.name, ("ant", "cat"))


@pytest.mark.parametrize("indices", [[3], [-1], [0, 3]])
def test_indices_out_of_range_are_refused(folder, indices):
    with pytest.raises(InputError, match="image indices must be between 0 and 2"):
        data.load(f"imagefolder:{folder}", "train").take(indices)


def test_bad_specifications_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="KIND one of imagefolder, npz"):
        data.load("cifar", "train")
    with pytest.raises(InputError, match="split must be train or test"):
        data.load(f"imagefolder:{folder}", "valid")
    with pytest.raises(InputError, match=r"test: no such folder"):
        data.load(f"imagefolder:{folder}", "test")
    (folder / "test" / "ant").mkdir(parents=True)
    with pytest.raises(InputError, match="no images found"):
        data.load(f"imagefolder:{folder}", "test")
    with pytest.raises(InputError, match=r"none\.npz: cannot be read"):
        data.load(f"npz:{tmp_path}/none.npz", "test")


def test_damaged_images_and_other_sizes_are_refused(folder):
    path = folder / "train" / "cat" / "c.png"
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"c\.png: cannot be read as an image"):
        data.load(f"imagefolder:{folder}", "train")
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(path)
    with pytest.raises(InputError, match=r"c\.png: image is 5x5 pixels, the ones before are 5x4"):
        data.load(f"imagefolder:{folder}", "train")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "train_images or train_labels is missing"),
        ({"train_images": np.zeros((2, 3, 4, 4))}, "must be uint8"),
        ({"train_images": np.zeros((2, 1, 4, 4), np.uint8)}, "must be uint8"),
        ({"train_labels": np.zeros(3, int)}, "must be 2 whole numbers"),
        ({"train_labels": np.array([0, 5]), "classes": np.array(["a"])}, "between 0 and 0"),
        ({"train_labels": np.array([None, None])}, "not a .npz file of plain arrays"),
    ],
)
def test_npz_against_the_format_is_refused(tmp_path, arrays, message):
    good = {"train_images": np.zeros((2, 3, 4, 4), np.uint8), "train_labels": np.zeros(2, int)}
    np.savez(tmp_path / "bad.npz", **(good | arrays if arrays else {"other": np.zeros(1)}))
    with pytest.raises(InputError, match=message):
        data.load(f"npz:{tmp_path}/bad.npz", "train")


def test_no_npz_at_all_is_refused(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 cut short")
    np.save(tmp_path / "lone.npy", np.zeros(3))
    for name in ("bad.npz", "lone.npy"):
        with pytest.raises(InputError, match=r"not a \.npz file"):
            data.load(f"npz:{tmp_path / name}", "train")
