"""Operands in traces: what is written is read back, and what cannot be is refused in words."""

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest

from sinai.common.errors import InputError
from sinai.common.layer import Layer
from sinai.traces.operands import LayerOperands, Scales, forms
from sinai.traces.schema import load, make
from sinai.traces.synth import synthesise

LAYERS = (
    Layer(
        name="a",
        c_in=3,
        c_out=9,
        kernel=3,
        stride=2,
        padding=1,
        h_in=5,
        w_in=4,
        k=6,
        projection_nonzeros=5,
        unsigned_input=True,
    ),
    Layer(
        name="b",
        c_in=9,
        c_out=4,
        kernel=3,
        stride=1,
        padding=1,
        h_in=3,
        w_in=2,
        k=18,
        projection="tap",
        projection_nonzeros=5,
        residual=True,
    ),
)


def made(**changes):
    options = {"layers": LAYERS, "operands": True} | changes
    return synthesise("two", "unstructured:0.5", 2, **options)


def numbers(operands):
    """All of a layer's operands as one list of arrays."""
    spec = dataclasses.asdict(operands.spec)
    arrays = [spec[name] for name in sorted(spec) if isinstance(spec[name], np.ndarray)]
    return [*arrays, operands.x, operands.xq, operands.residual]


def test_read_back_is_what_was_written(tmp_path):
    trace = made()
    trace.save(tmp_path / "t.npz")
    back = load(tmp_path / "t.npz")
    assert back.manifest == trace.manifest
    for index, layer in enumerate(LAYERS):
        one, two = trace.operands(index), back.operands(index)
        assert one.scales == two.scales
        assert two.spec.layer == layer
        for a, b in zip(numbers(one), numbers(two), strict=True):
            np.testing.assert_array_equal(a, b)
    assert back.operands(0).residual is None
    assert back.operands(1).residual.shape == (2, 6, 4)


def test_shapes_by_hand():
    shapes = {name: shape for name, (_, shape) in forms(1, LAYERS[1], 2).items()}
    assert shapes["weight/1"] == (4, 81)
    assert shapes["matrix/1"] == (2, 9)  # shared by nine taps
    assert shapes["noise_weight/1"] == (4, 18)
    assert shapes["x/1"] == shapes["xq/1"] == (2, 3, 2, 9)
    assert shapes["residual/1"] == (2, 6, 4)
    assert {name: s for name, (_, s) in forms(0, LAYERS[0], 2).items()}["matrix/0"] == (6, 27)


def test_masks_and_operands_are_drawn_apart():
    """With or without operands the masks of a seed are the same; another seed, other operands."""
    with_, without = made(), made(operands=False)
    assert without.operands(0) is None
    np.testing.assert_array_equal(with_.mask(1), without.mask(1))
    assert not np.array_equal(made(seed=1).operands(0).x, with_.operands(0).x)


def remade(change):
    """The trace again, with operands of layer 0 changed."""
    trace = made()
    first = change(trace.operands(0))
    masks = [trace.mask(0), trace.mask(1)]
    return make(trace.manifest, masks, None, [first, trace.operands(1)])


def test_refusals_in_memory():
    with pytest.raises(InputError, match=r"layer a: x/0 must have the shape \(2, 5, 4, 3\), not"):
        remade(lambda one: dataclasses.replace(one, x=one.x[:1]))
    with pytest.raises(InputError, match="layer a: xq/0 must be between 0 and 15, not -3 to"):
        remade(lambda one: dataclasses.replace(one, xq=one.xq - 3))
    with pytest.raises(InputError, match="layer a: x/0 does not fit int16"):
        remade(lambda one: dataclasses.replace(one, x=one.x.astype(np.int32) * 2))
    with pytest.raises(InputError, match="operands must be 2, not 1"):
        make(made().manifest, [made().mask(0), made().mask(1)], None, [made().operands(0)])


def rewritten(path, change):
    """The file with its manifest (a dict) and arrays changed, digests left as they were."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    manifest = json.loads(arrays["manifest"].tobytes())
    change(manifest, arrays)
    arrays["manifest"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m, a: m["arrays"].pop("bias/1"), r"arrays has no bias/1"),
        (lambda m, a: m["operands"].pop(), r"operands must be 2, one a layer, not 1"),
        (lambda m, a: m.update(operands=[]), r"arrays has the unknown \w+/0"),
        (lambda m, a: m["operands"][0].update(shift=63), r"operands.0.shift: .* 62, not 63"),
        (lambda m, a: m["operands"][0].pop("relu"), r"no key operands.0.relu; it needs shift"),
        (lambda m, a: a.update({"x/0": a["x/0"] + 1}), r"array x/0 has SHA-256"),
        (lambda m, a: a.update({"x/0": a["x/0"][:1]}), r"array x/0 is int16 \(1, 5, 4, 3\); it"),
    ],
)
def test_refusals_of_files(tmp_path, change, says):
    path = tmp_path / "t.npz"
    made().save(path)
    rewritten(path, change)
    with pytest.raises(InputError, match=says):
        load(path)


def test_numbers_outside_their_bits_are_refused(tmp_path, monkeypatch):
    """A writer of others may put eight bits where four are meant."""
    path = tmp_path / "t.npz"
    monkeypatch.setattr("sinai.traces.operands.check", lambda *_: None)
    one = made().operands(0)
    wrong = LayerOperands(one.spec, one.x, np.full_like(one.xq, 16), None)
    trace = made()
    make(trace.manifest, [trace.mask(0), trace.mask(1)], None, [wrong, trace.operands(1)]).save(
        path
    )
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"array xq/0 must be between 0 and 15, not 16 to 16"):
        load(path)


def test_scales_are_what_an_integer_layer_has():
    assert set(Scales.model_fields) <= {f.name for f in dataclasses.fields(made().operands(0).spec)}
