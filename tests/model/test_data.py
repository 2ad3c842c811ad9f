"""Data sets from folders and files; what is refused."""

import gzip
import io
import os
import pickle
import struct

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
    with pytest.raises(InputError, match="KIND one of cifar10, cifar100, fashion-mnist, imagef"):
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


class Python2Pickler(pickle._Pickler):
    """Writes bytes and names as Python 2 and the NumPy of its time did."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{value.__name__}\n".encode())

    dispatch[bytes] = save_bytes


def write_pickle(path, value, pickler=Python2Pickler):
    with path.open("wb") as file:
        pickler(file, 2 if pickler is Python2Pickler else 4).dump(value)


def pixels(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


@pytest.fixture(params=[Python2Pickler, pickle.Pickler], ids=["python2", "python3"])
def cifar(tmp_path, request):
    """Both data sets with a few images; image i of a batch has the label i."""
    for name, labels in (("cifar10", "labels"), ("cifar100", "fine_labels")):
        (tmp_path / name).mkdir()
        files = ("train", "test")
        if name == "cifar10":
            files = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        for seed, file in enumerate(files):
            batch = {b"data": pixels(3, seed), labels.encode(): [0, 1, 2], b"filenames": [b"x.png"]}
            write_pickle(tmp_path / name / file, batch, request.param)
        meta, entry = ("batches.meta", b"label_names")
        if name == "cifar100":
            meta, entry = ("meta", b"fine_label_names")
        names = {entry: [b"ant", b"bee", b"cat"], b"num_vis": 3072}
        write_pickle(tmp_path / name / meta, names, request.param)
    return tmp_path


def test_cifar10_is_its_batches_in_order_by_planes(cifar):
    images = data.load(f"cifar10:{cifar / 'cifar10'}", "train")
    assert images.images.shape == (15, 3, 32, 32)
    assert images.images.dtype == np.uint8
    assert images.labels.tolist() == [0, 1, 2] * 5
    assert (images.name, images.classes) == ("cifar10:cifar10/train", ("ant", "bee", "cat"))
    fourth = pixels(3, 3)[1]
    assert np.array_equal(images.images[10, 0].ravel(), fourth[:1024])
    assert images.images[10, 2, 1, 0] == fourth[2048 + 32]
    test = data.load(f"cifar10:{cifar / 'cifar10'}", "test")
    assert np.array_equal(test.images.reshape(3, -1), pixels(3, 5))
    assert test.images.flags.writeable


def test_cifar100_has_fine_labels_and_names(cifar):
    images = data.load(f"cifar100:{cifar / 'cifar100'}", "train")
    assert images.labels.tolist() == [0, 1, 2]
    assert images.classes == ("ant", "bee", "cat")
    assert np.array_equal(images.images.reshape(3, -1), pixels(3, 0))
    with pytest.raises(InputError, match=r"data_batch_1: no such file; the folder must hold data_"):
        data.load(f"cifar10:{cifar / 'cifar100'}", "train")


def test_cifar_arrays_of_any_number_and_order_are_read(cifar):
    path = cifar / "cifar100" / "train"
    labels = np.array([2, 1, 0], ">i4")
    write_pickle(path, {b"data": np.asfortranarray(pixels(3, 7)), b"fine_labels": labels})
    images = data.load(f"cifar100:{path.parent}", "train")
    assert np.array_equal(images.images.reshape(3, -1), pixels(3, 7))
    assert images.labels.tolist() == [2, 1, 0]


class Evil:
    """Unpickled by `pickle` itself, it makes a file."""

    def __init__(self, call, *given):
        self.call, self.given = call, given

    def __reduce__(self):
        return self.call, self.given


def crafted(cifar):
    mark = str(cifar / "mark")
    good = {b"data": pixels(3, 0), b"fine_labels": [0, 1, 2]}
    return {
        "system": ({**good, b"more": Evil(os.mkdir, mark)}, r"names (posix|nt)\.mkdir"),
        "eval": ({**good, b"more": Evil(eval, f"__import__('os').mkdir({mark!r})")}, "eval"),
        "getattr": (Evil(getattr, 1, "real"), "getattr"),
        "path": ({**good, b"more": Evil(open, mark, "w")}, "names _?io.open"),
        "objects": ({**good, b"data": np.array([1, "a"], object)}, "array that is not of numbers"),
        "text": ({**good, b"data": np.array(["a"])}, "array of type .U1"),
        "set": ({**good, b"more": {1}}, "it holds a set"),
        "nested": ({**good, b"more": [[1]]}, "it holds a list"),
        "list": ([good], "it is a list"),
        "key": ({**good, (1, 2): 3}, "tuple in place of a name"),
        "array in a list": ({**good, b"more": [np.zeros(3)]}, "it holds a _Array"),
    }


CRAFTED = (
    *("system", "eval", "getattr", "path", "objects", "text"),
    *("set", "nested", "list", "key", "array in a list"),
)


@pytest.mark.parametrize("case", CRAFTED)
def test_pickles_of_anything_but_plain_data_are_refused(cifar, case):
    value, words = crafted(cifar)[case]
    path = cifar / "cifar100" / "train"
    write_pickle(path, value, pickle.Pickler)
    wanted = rf"train: is no pickled dict of plain data \(.*{words}"
    with pytest.raises(InputError, match=wanted) as error:
        data.load(f"cifar100:{path.parent}", "train")
    assert "\n" not in str(error.value)
    assert not (cifar / "mark").exists()


def test_the_crafted_pickles_do_harm_elsewhere(tmp_path):
    """What is refused above would have run: else the test above shows nothing."""
    value, _ = crafted(tmp_path)["system"]
    file = io.BytesIO()
    pickle.Pickler(file, 4).dump(value)
    pickle.loads(file.getvalue())
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no pickle",
        pickle.dumps({b"data": 1})[:-3],
        b"\x80\x02Pnobody\n.",  # a persistent name
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93}b.",  # state of the function itself
        b"\x80\x04\x8c\x05a\nb\nc\x8c\x04evil\x93.",  # a name of several lines
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntRK\x01b.",
    ],
)
def test_damaged_pickles_are_refused(cifar, raw):
    path = cifar / "cifar100" / "meta"
    path.write_bytes(raw)
    with pytest.raises(InputError, match="meta: is no pickled dict of plain data") as error:
        data.load(f"cifar100:{path.parent}", "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("train", {b"data": None}, r"train: data must be uint8 \(N, 3072\), not NoneType"),
        ("train", {b"data": np.zeros((3, 3072), np.int16)}, "not int16"),
        ("train", {b"data": np.zeros((3, 1024), np.uint8)}, r"not uint8 \(3, 1024\)"),
        ("train", {b"fine_labels": [0, 1]}, "fine_labels must be 3 whole numbers, not list of 2"),
        ("train", {b"fine_labels": [0, 1, 2.0]}, "fine_labels must be 3 whole numbers"),
        ("train", {b"fine_labels": [0, 1, 3]}, "fine_labels must be between 0 and 2, not 0 to 3"),
        ("train", {b"fine_labels": np.array([-1, 0, 1])}, "between 0 and 2, not -1 to 1"),
        ("meta", {b"fine_label_names": [1]}, "fine_label_names must be a list of names"),
    ],
)
def test_cifar_against_the_format_is_refused(cifar, file, changes, words):
    good = {b"data": pixels(3, 0), b"fine_labels": [0, 1, 2]}
    path = cifar / "cifar100" / file
    write_pickle(path, {**(good if file == "train" else {}), **changes})
    with pytest.raises(InputError, match=words):
        data.load(f"cifar100:{path.parent}", "train")
    write_pickle(path, {b"other": 1})
    with pytest.raises(InputError, match="has no entry"):
        data.load(f"cifar100:{path.parent}", "train")


def idx(array):
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture(params=["plain", "gz"])
def fashion(tmp_path, request):
    """Two training images and one for the test; returns the folder and its ending."""
    ending = ".gz" if request.param == "gz" else ""
    pack = gzip.compress if ending else bytes
    for prefix, count in (("train", 2), ("t10k", 1)):
        grey = np.arange(count * 784, dtype=np.int64).reshape(count, 28, 28) % 251
        images = tmp_path / f"{prefix}-images-idx3-ubyte{ending}"
        images.write_bytes(pack(idx(grey.astype(np.uint8))))
        labels = tmp_path / f"{prefix}-labels-idx1-ubyte{ending}"
        labels.write_bytes(pack(idx(np.array([9, 0][:count], np.uint8))))
    return tmp_path, ending, pack


def test_fashion_mnist_is_grey_in_three_channels_with_a_border_of_zeros(fashion):
    folder = fashion[0]
    images = data.load(f"fashion-mnist:{folder}", "train")
    assert images.images.shape == (2, 3, 32, 32)
    assert images.labels.tolist() == [9, 0]
    assert images.classes[9] == "Ankle boot"
    assert len(images.classes) == 10
    wanted = np.zeros((32, 32), np.uint8)
    wanted[2:30, 2:30] = np.arange(784, 2 * 784).reshape(28, 28) % 251
    for channel in range(3):
        assert np.array_equal(images.images[1, channel], wanted)
    assert len(data.load(f"fashion-mnist:{folder}", "test")) == 1


@pytest.mark.parametrize(
    ("file", "raw", "words"),
    [
        ("images-idx3", b"", "begins with nothing, not with 00000803"),
        ("images-idx3", b"\0\0\x0d\x03" + bytes(12), "begins with 00000d03"),
        ("images-idx3", idx(np.zeros(4, np.uint8)), "begins with 00000801, not with 00000803"),
        ("images-idx3", b"\0\0\x08\x03\0", "ends within its sizes"),
        ("images-idx3", idx(np.zeros((2, 28, 28), np.uint8))[:-1], "1568 bytes, it holds 1567"),
        ("images-idx3", idx(np.zeros((2, 28, 28), np.uint8)) + b"x", "it holds more"),
        ("images-idx3", idx(np.zeros((2, 27, 28), np.uint8)), r"images \(2, 27, 28\)"),
        ("images-idx3", b"\0\0\x08\x03" + b"\xff" * 12, "cannot be read|it holds 0"),
        ("labels-idx1", idx(np.zeros(3, np.uint8)), "3 labels for images"),
        ("labels-idx1", idx(np.array([0, 10], np.uint8)), "between 0 and 9, not 10"),
    ],
)
def test_idx_files_against_the_format_are_refused(fashion, file, raw, words):
    folder, ending, pack = fashion
    (folder / f"train-{file}-ubyte{ending}").write_bytes(pack(raw))
    with pytest.raises(InputError, match=words):
        data.load(f"fashion-mnist:{folder}", "train")


def test_idx_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte: cannot be read \(No such file"):
        data.load(f"fashion-mnist:{tmp_path}", "train")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"ubyte\.gz: cannot be read \(Not a gzipped file"):
        data.load(f"fashion-mnist:{tmp_path}", "train")
