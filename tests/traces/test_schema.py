"""The trace format: what is written is read back, and everything else is refused in words."""

import dataclasses
import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai import traces
from sinai.common.errors import InputError
from sinai.common.layer import Layer
from sinai.traces import schema
from sinai.traces.schema import Manifest, bundled, load, make, save


def rewrite(path, edit=lambda manifest: None, members=lambda arrays: None):
    """Write the file again by zipfile and json alone, with its manifest or its members changed."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    data = json.loads(arrays["manifest"].tobytes())
    edit(data)
    arrays["manifest"] = np.frombuffer(json.dumps(data).encode(), np.uint8)
    members(arrays)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue())


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.fixture
def path(tmp_path, manifest, mask):
    path = tmp_path / "net.npz"
    save(path, manifest(), [mask], [np.linspace(0, 1, 5)])
    return path


def test_bits_by_hand(tmp_path, manifest, layer):
    """Neuron (c, y, x) of 5x3x3 is bit c * 9 + y * 3 + x, most significant first."""
    mask = np.zeros((2, 5, 3, 3), dtype=bool)
    mask[0, 0, 0, 0] = True  # bit 0: 0x80 of byte 0
    mask[0, 1, 0, 2] = True  # bit 11: 0x10 of byte 1
    mask[1, 4, 2, 2] = True  # bit 44: 0x08 of byte 5
    save(tmp_path / "t.npz", manifest(), [mask])
    with np.load(tmp_path / "t.npz", allow_pickle=False) as file:
        packed = file["mask/0"]
    assert packed.tolist() == [[0x80, 0x10, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0x08]]


def test_manifest_describes_the_arrays(path, mask):
    """A reader without this package finds type, shape and digest of every array."""
    with np.load(path, allow_pickle=False) as file:
        data = json.loads(file["manifest"].tobytes().decode())
        assert sorted(file.files) == ["density/0", "manifest", "mask/0"]
        for name in ("mask/0", "density/0"):
            array = file[name]
            assert data["arrays"][name] == {
                "dtype": str(array.dtype),
                "shape": list(array.shape),
                "sha256": digest(array),
            }
    assert data["schema"] == 1
    assert data["noise_measured"] == 1 - mask.sum() / 90


@st.composite
def cases(draw):
    """A few layers of any geometry, with masks of any density."""
    images = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layers, masks, densities = [], [], []
    for index in range(draw(st.integers(1, 3))):
        kernel = draw(st.integers(1, 3))
        layer = Layer(
            name=f"layer{index}",
            c_in=draw(st.integers(1, 9)),
            c_out=draw(st.integers(1, 17)),
            kernel=kernel,
            stride=draw(st.integers(1, 2)),
            padding=draw(st.integers(0, kernel - 1)),
            h_in=draw(st.integers(3, 9)),
            w_in=draw(st.integers(3, 9)),
            k=kernel**2 * 4,
            projection=draw(st.sampled_from(["patch", "tap"])),
            projection_nonzeros=draw(st.integers(0, 99)),
            unsigned_input=draw(st.booleans()),
            residual=draw(st.booleans()),
            joined=draw(st.sampled_from(["", "stage1"])),
        )
        shape = (images, layer.c_out, layer.h_out, layer.w_out)
        layers.append(layer)
        masks.append(rng.random(shape) < draw(st.sampled_from([0, 0.1, 0.5, 1])))
        densities.append(rng.random(layer.c_out) if draw(st.booleans()) else None)
    return images, layers, masks, densities


@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_round_trip(tmp_path_factory, case):
    """Any geometry and masks come back equal, layer records and densities with them."""
    images, layers, masks, densities = case
    path = tmp_path_factory.mktemp("trace") / "any.npz"
    written = save(
        path,
        Manifest(
            network="any",
            synthetic=False,
            scheme="structured:7:8",
            selection="rank of 8",
            noise_target=0.875,
            seed=1,
            data="set",
            image_indices=tuple(range(images)),
            labels=tuple(range(images)),
            accuracy={"clean": 0.5},
            model_digest="abc",
            one_net=False,
            command="a command",
            versions={"numpy": "2"},
            theta=((5,) * images,) * len(layers),
            layers=layers,
        ),
        masks,
        densities,
    )
    trace = load(path)

    assert trace.manifest == written.manifest
    assert trace.layers == tuple(layers)
    assert (trace.name, trace.images, trace.synthetic) == ("any", images, False)
    assert str(trace.scheme) == "structured:7:8"
    for index, (mask, density) in enumerate(zip(masks, densities, strict=True)):
        assert trace.mask(index).dtype == bool
        np.testing.assert_array_equal(trace.mask(index), mask)
        if density is None:
            assert trace.density(index) is None
        else:
            np.testing.assert_array_equal(trace.density(index), density.astype(np.float32))


def test_dense_has_no_masks(tmp_path, manifest):
    """Every neuron of a dense trace is essential, and the file says so in no array."""
    save(tmp_path / "d.npz", manifest(scheme="dense", noise_target=0.0), [])
    with np.load(tmp_path / "d.npz", allow_pickle=False) as file:
        assert file.files == ["manifest"]
    trace = load(tmp_path / "d.npz")
    assert trace.mask(0).shape == (2, 5, 3, 3)
    assert trace.mask(0).all()
    assert trace.manifest.noise_measured == 0


def test_equal_traces_are_equal_files(tmp_path, manifest, mask):
    for name in ("a", "b"):
        save(tmp_path / f"{name}.npz", manifest(), [mask])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_loaded_trace_saves_to_the_same_file(path, tmp_path):
    load(path).save(tmp_path / "copy.npz")
    assert (tmp_path / "copy.npz").read_bytes() == path.read_bytes()


def test_an_old_file_survives_a_failed_write(path, manifest, mask, monkeypatch):
    """The new file is written aside: when the disk is full, the old one stays, and nothing else."""
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(schema, "_write_member", full)
    with pytest.raises(InputError, match=r"net\.npz: cannot be written \(No space left on device"):
        save(path, manifest(), [~mask])
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["net.npz"]


def test_a_reader_of_the_old_file_is_not_disturbed(path, manifest, mask):
    """The new file takes the name; the old one stays whole for whoever has it open."""
    before = path.read_bytes()
    with path.open("rb") as old:
        save(path, manifest(), [~mask])
        assert old.read() == before
    np.testing.assert_array_equal(load(path).mask(0), ~mask)


def test_write_into_a_missing_folder(tmp_path, manifest, mask):
    with pytest.raises(InputError, match=r"cannot be written \(No such file.*a folder that exists"):
        save(tmp_path / "none" / "t.npz", manifest(), [mask])


def test_package_loads_by_name_and_lazily(path):
    assert traces.load(path).name == "net"
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = traces.lode


def test_bundled_traces_load():
    """Whatever traces come with the package are sound."""
    for name, path in bundled().items():
        assert load(path).name == name


# Refusals: one message each, naming the file, the field, the value and what would do.


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"no\.npz: cannot be read \(No such file.*give a trace"):
        load(tmp_path / "no.npz")


def test_folder(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize("data", [b"", b"not a zip file", b"\x93NUMPY\x01\x00"])
def test_not_an_npz(tmp_path, data):
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.npz: not a \.npz file, or cut short; give a trace"):
        load(tmp_path / "x.npz")


def test_every_truncation_is_refused(path):
    data = path.read_bytes()
    for length in range(0, len(data), 13):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="cut short"):
            load(path)


def test_no_flipped_bit_changes_a_trace(path, mask):
    """A flipped bit is refused, or sits where nothing is read (a time, a comment's length)."""
    data, good = path.read_bytes(), load(path)
    refused = 0
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            trace = load(path)
        except InputError:
            refused += 1
            continue
        assert trace.manifest == good.manifest
        np.testing.assert_array_equal(trace.mask(0), mask)
        np.testing.assert_array_equal(trace.density(0), good.density(0))
    assert refused > 0.8 * len(data)


def test_changed_mask_with_a_good_checksum(path):
    """The archive's own checksum fits, the manifest's digest does not."""

    def change(arrays):
        arrays["mask/0"] = arrays["mask/0"].copy()
        arrays["mask/0"][0, 0] ^= 0x80

    rewrite(path, members=change)
    with pytest.raises(
        InputError, match=r"array mask/0 has SHA-256 [0-9a-f]{64}, its manifest says"
    ):
        load(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(schema=2), r"schema is 2; this version reads schema 1"),
        (lambda m: m.update(schema=True), r"schema is True; this version reads schema 1"),
        (lambda m: m.pop("schema"), r"manifest has no key schema; it must say schema: 1"),
        (lambda m: m.update(colour=1), r"unknown key colour; known keys are schema, network"),
        (lambda m: m.pop("network"), r"manifest has no key network; it needs schema, network"),
        (lambda m: m["layers"][0].pop("k"), r"no key layers\.0\.k; it needs name, c_in"),
        (lambda m: m["layers"][0].update(q=1), r"unknown key layers\.0\.q; known keys are name"),
        (lambda m: m["layers"][0].update(k=0), r"layer conv: k must be at least 1, not 0"),
        (lambda m: m.update(scheme="half"), r"scheme: scheme must be dense, .*not 'half'"),
        (lambda m: m.update(seed="1"), r"manifest: seed: .*integer, not '1'"),
        (lambda m: m.update(noise_target=1.5), r"noise_target: .*less than or equal to 1, not 1.5"),
        (lambda m: m.update(labels=[1]), r"labels must be 2, one an image, not 1"),
        (lambda m: m.update(theta=[[1, 2]] * 2), r"theta must have 1 rows, one a layer, not 2"),
        (lambda m: m.update(theta=[[1]]), r"theta\.0 must have 2 values, one an image, not 1"),
        (lambda m: m.update(theta=[[1, 1 << 16]]), r"theta\.0\.1: .*32768, not 65536"),
        (lambda m: m.update(image_indices=[]), r"image_indices: .*at least 1 item"),
        (lambda m: m.update(layers=[]), r"layers: .*at least 1 item"),
        (lambda m: m["arrays"].pop("mask/0"), r"arrays has no mask/0; .*needs mask/0"),
        (
            lambda m: m["arrays"].update({"x/0": m["arrays"]["mask/0"]}),
            r"arrays has the unknown x/0; known are mask/0, density/0",
        ),
        (
            lambda m: m["arrays"]["mask/0"].update(shape=[2, 7]),
            r"arrays\.mask/0 is uint8 \(2, 7\); the geometry asks for uint8 \(2, 6\)",
        ),
        (
            lambda m: m["arrays"]["mask/0"].update(dtype="int8"),
            r"arrays\.mask/0 is int8 \(2, 6\); the geometry asks for uint8",
        ),
    ],
)
def test_bad_manifest(path, edit, message):
    rewrite(path, edit)
    with pytest.raises(InputError, match=rf"(?s)^\S*net\.npz: .*{message}"):
        load(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (lambda a: a.pop("mask/0"), r"array mask/0 is missing; .*has manifest, mask/0, density/0"),
        (
            lambda a: a.pop("manifest"),
            r"array manifest is missing \(arrays are mask/0, density/0\)",
        ),
        (lambda a: a.update({"z": a["mask/0"]}), r"array z is unknown or there twice"),
        (
            lambda a: a.update({"mask/0": a["mask/0"].astype(np.int16)}),
            r"array mask/0 is int16 \(2, 6\); it must be uint8 \(2, 6\) in C order",
        ),
        (
            lambda a: a.update({"mask/0": a["mask/0"][:1]}),
            r"array mask/0 is uint8 \(1, 6\); it must be uint8 \(2, 6\)",
        ),
        (
            lambda a: a.update({"mask/0": np.asfortranarray(a["mask/0"])}),
            r"array mask/0 is uint8 \(2, 6\); it must be uint8 \(2, 6\) in C order",
        ),
        (lambda a: a.update({"mask/0": np.array([{}])}), r"array mask/0 is object \(1,\); it must"),
        (lambda a: a.update(manifest=np.frombuffer(b"{", np.uint8)), r"manifest is not JSON"),
        (lambda a: a.update(manifest=np.frombuffer(b"\xff", np.uint8)), r"manifest is not JSON"),
        (lambda a: a.update(manifest=np.frombuffer(b"[1]", np.uint8)), r"has no key schema"),
    ],
)
def test_bad_members(path, members, message):
    rewrite(path, members=members)
    with pytest.raises(InputError, match=message):
        load(path)


def test_member_twice(path):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("mask/0.npy", archive.read("mask/0.npy"))
    with pytest.raises(InputError, match="there twice"):
        load(path)


@pytest.mark.parametrize("bit", [0x01, 0x02, 0x04])
def test_padding_bits(path, bit):
    """45 neurons leave three bits, which must be zero even if the digest fits."""
    with np.load(path) as file:
        packed = file["mask/0"].copy()
    packed[1, 5] |= bit

    rewrite(
        path,
        lambda m: m["arrays"]["mask/0"].update(sha256=digest(packed)),
        lambda a: a.update({"mask/0": packed}),
    )
    with pytest.raises(
        InputError, match=f"mask/0 has nonzero padding {bit:#04x} after its 45 bits"
    ):
        load(path)


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan])
def test_density_out_of_range(path, value):
    density = np.array([0, 0, 0, 0, value], np.float32)
    rewrite(
        path,
        lambda m: m["arrays"]["density/0"].update(sha256=digest(density)),
        lambda a: a.update({"density/0": density}),
    )
    with pytest.raises(InputError, match="density/0 must be between 0 and 1 in every channel"):
        load(path)


def test_huge_announced_shape_is_not_allocated(path):
    """A geometry and a header that announce 9 TiB, with a few bytes behind them, are refused."""
    shape = (2, 5 << 40)
    rewrite(
        path,
        lambda m: (
            m["layers"][0].update(h_in=1 << 23, w_in=1 << 20),
            m["arrays"]["mask/0"].update(shape=shape),
        ),
    )
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | {"mask/0.npy": header.getvalue() + b"few"}).items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match="array mask/0 is damaged or cut short"):
        load(path)


def test_make_refuses_wrong_arrays(manifest, mask, layer):
    with pytest.raises(InputError, match="masks must be 1 arrays, not 0"):
        make(manifest(), [])
    with pytest.raises(InputError, match="masks must be 0 arrays, not 1"):
        make(manifest(scheme="dense"), [mask])
    with pytest.raises(InputError, match=r"mask/0 must be bool \(2, 5, 3, 3\), not uint8"):
        make(manifest(), [mask.astype(np.uint8)])
    with pytest.raises(InputError, match=r"mask/0 must be bool .*not bool \(1, 5, 3, 3\)"):
        make(manifest(), [mask[:1]])
    with pytest.raises(InputError, match="densities must be 1 arrays, not 2"):
        make(manifest(), [mask], [None, None])
    with pytest.raises(InputError, match=r"density/0 must have the shape \(5,\), not \(4,\)"):
        make(manifest(), [mask], [np.zeros(4)])


def test_layer_record_has_every_field_of_a_layer(manifest, layer):
    """The record is made from Layer, so that a new field cannot be forgotten in the file."""
    record = manifest().layers[0].model_dump()
    assert record == dataclasses.asdict(layer)
