"""Descriptors of a layer: order and waits of the transfers, fields by hand, and what is refused."""

import numpy as np
import pytest

from sinai.common.allocation import loaded_words
from sinai.common.commands import commands
from sinai.common.descriptor import Flag, Target, compute_fields
from sinai.common.errors import InputError
from sinai.common.machine import PRESETS, override
from sinai.common.operands import Operands, input_stream, load_stream, read_outputs
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme

S, U = PRESETS["structured-small"], PRESETS["unstructured-small"]
LOADS = ("PROJECTION", "XQ", "WEIGHTS", "PARAMETERS", "X")


@pytest.fixture
def made(integer_layer):
    """``made(machine, scheme, geometry, **options)``: the commands of a random layer."""

    def make(machine, scheme, geometry, **options):
        spec = integer_layer(np.random.default_rng(0), **(BASE | geometry))
        program = compile_layer(spec.layer, machine, Scheme.parse(scheme))
        return commands(program, spec, **options)

    return make


#: 6x5 pixels of 5 channels to 3x3 of 20: 5 channels are two words of w = 4 and one of Q = 16.
BASE = {
    "c_in": 5,
    "c_out": 20,
    "kernel": 3,
    "stride": 2,
    "padding": 1,
    "h_in": 6,
    "w_in": 5,
    "k": 6,
}


def transfers_of(made):
    return [(each.move.target.name, each.part, each.wait) for each in made.transfers]


def test_a_resident_layer_has_one_part(made):
    run = made(S, "structured:4:8", {"residual": True})
    assert transfers_of(run) == [
        *((name, 0, 0) for name in (*LOADS, "RESIDUAL")),
        ("STORE_Y", 0, 1),
        ("STORE_YQ", 0, 1),
    ]
    assert [each["wait"] for each in run.computes] == [6]


def test_dense_layers_move_nothing_of_the_approximate_pass(made):
    run = made(U, "dense", {})
    assert [name for name, *_ in transfers_of(run)] == ["WEIGHTS", "PARAMETERS", "X", "STORE_Y"]
    fields = run.computes[0]
    assert fields["flags"] & ~Flag.RELU & ~Flag.UNSIGNED == Flag.EXACT
    assert (fields["rough_beats"], fields["sub_count"], fields["p_shift"]) == (0, 0, 0)


def test_order_and_waits_of_the_parts(made):
    """While part i computes, part i + 1 loads: L0 L1, then L(i + 2) and S(i) once i is done. Each
    part waits for its load, and for the store of the part whose place it takes."""
    run = made(override(S, ["dma.capacity_kib=16"]), "dense", {"c_out": 80, "h_in": 8})
    assert [(part.row, part.channel) for part in run.program.parts] == [
        (row, channel) for channel in range(0, 80, 16) for row in (0, 2)
    ]
    expected, waits, done = [], [], 0
    names = [["WEIGHTS", "PARAMETERS", "X"], ["X"]]
    for part in range(2):
        expected += [(name, part, 0) for name in names[part % 2]]
        waits.append(len(expected))
    for part in range(10):
        done = part + 1
        if part + 2 < 10:
            expected += [(name, part + 2, done) for name in names[part % 2]]
        expected.append(("STORE_Y", part, done))
        if part + 2 < 10:
            waits.append(len(expected))
    assert transfers_of(run) == expected
    assert [each["wait"] for each in run.computes] == waits


def test_places_alternate(made):
    """What streams has two places; neither part of a pair touches what the other has."""
    run = made(override(S, ["dma.capacity_kib=16"]), "dense", {"c_out": 80, "h_in": 8})
    computes = run.computes
    # Rows of W: 18 beats of eight words; x: two words of ceil(5 rows * 5 / 2) rows; y: 3 batches.
    assert [each["weights_base"] for each in computes] == [0, 0, 144, 144, 0, 0, 144, 144, 0, 0]
    assert [each["x_base"] for each in computes] == [0, 26] * 5
    assert [each["y_base"] for each in computes] == [0, 24] * 5
    assert [each["parameters_base"] for each in computes] == [0, 0, 8, 8, 0, 0, 8, 8, 0, 0]


def test_fields_by_hand(made):
    """Two columns on rows of three output pixels; 20 channels are two supergroups of 16."""
    fields = made(S, "structured:6:8", {}).computes[0]
    names = [field.name for field in compute_fields(S)]
    assert list(fields) == names
    expected = {
        "pixels": 9,
        "channels": 20,
        "w_out": 3,
        "batches": 5,
        "groups": 2,
        # Two essential channels of eight: at most R / 2 = 4 batches a block, so two blocks.
        "tiles": 2,
        "tile_depth": 2,
        "tile_more": 1,
        "sub_count": 1,
        "sub_depth": 2,
        "sub_more": 0,
        "sub_count_deep": 1,
        "sub_depth_deep": 3,
        "sub_more_deep": 0,
        "kernel": 3,
        "stride": 2,
        "w_in": 5,
        "h_in": 6,
        "row0": -1,
        "column0": -1,
        "linear0": -6,
        # A batch is two pixels on, four columns of x; the end of a row takes six columns back and
        # two rows down.
        "step_columns": 2,
        "step_column": 4,
        "step_row": 0,
        "step_linear": 4,
        "wrap_column": 6,
        "wrap_linear": 4,
        "x_words": 2,
        "x_plane": 15,
        "beats": 18,
        "rough_beats": 1,
        # W: two supergroups of 18 beats of eight words.
        "rough_base": 288,
        "essential": 2,
        "theta": 0,
        "mask_rows": 0,
        "row_bits": 0,
        "q_kernel": 3,
        "q_w_in": 5,
        "q_h_in": 6,
        "q_row0": -1,
        "q_column0": -1,
        "q_words": 1,
        "q_plane": 30,
        "p_rows": 6,
        "p_row_tiles": 2,
        "p_element_tiles": 9,
        # 16 KiB of rows of 2 * 256 bits.
        "p_room": 256,
    }
    assert {name: fields[name] for name in expected} == expected


def test_fields_of_an_unstructured_machine(made):
    """20 channels are five rows of four lanes, eight addresses a pixel; 9 pixels are two blocks of
    at most 8 accumulators. A window of eight pixels has one word."""
    run = made(
        override(U, ["window=8"]), "unstructured:0.5", {"projection": "tap", "k": 36}, theta=-7
    )
    fields = run.computes[0]
    expected = {"groups": 5, "row_bits": 3, "tiles": 2, "tile_depth": 4, "tile_more": 1}
    expected |= {"mask_rows": 1, "theta": -7, "p_rows": 4, "p_row_tiles": 1, "p_element_tiles": 1}
    assert {name: fields[name] for name in expected} == expected
    assert fields["flags"] & Flag.TAP
    assert not fields["flags"] & Flag.RANK
    store = run.transfers[-1].move
    assert (store.inner, store.outer, store.stride) == (5, 9, 8)


def test_narrow_layers_are_1x1_over_the_output(made):
    fields = made(S, "structured:4:8", {"c_in": 3}).computes[0]
    expected = {"kernel": 1, "stride": 1, "w_in": 3, "h_in": 3, "row0": 0, "column0": 0}
    # 27 values are seven words of four, and two x^Q words of 16.
    expected |= {"linear0": 0, "x_words": 7, "x_plane": 5, "beats": 7, "step_linear": 2}
    expected |= {"wrap_column": 3, "wrap_linear": 0, "q_kernel": 1, "q_words": 2, "q_plane": 9}
    assert {name: fields[name] for name in expected} == expected


def test_words_of_the_stream(made):
    """Rows of 64 bits fill a stream word of 8 bytes, y^Q of four values a quarter of one."""
    run = made(S, "structured:4:8", {"residual": True})
    words = {each.move.target.name: each.move.words for each in run.transfers}
    assert words == {
        "PROJECTION": 18 * 2,  # 18 tiles of 128 bits
        "XQ": 30,
        "WEIGHTS": (2 * 18 * 8 + 2 * 4 * 8) * 2,
        "PARAMETERS": 2 * 8 * 4,
        "X": 2 * 15 * 2,
        "RESIDUAL": 2 * 5 * 8,
        "STORE_Y": 2 * 5 * 8,
        "STORE_YQ": 2 * 5 * 8 // 4,
    }
    part = run.program.parts[0]
    loads = sum(words[name] for name in (*LOADS, "RESIDUAL"))
    assert (part.load_words, part.load_bytes) == (loads, 8 * loads)
    assert (part.store_words, part.store_bytes) == (100, 800)
    assert loaded_words(S, part.place.loads) == {
        "projection": 36,
        "xq": 30,
        "weights": 2 * 352,
        "parameters": 2 * 16,
        "x": 2 * 30,
        "residual": 4 * 80,
    }


def test_p_stays_for_the_next_range_of_channels(made):
    """Three ranges of a band: the first projects, the last releases."""
    machine = override(S, ["dma.capacity_kib=12"])
    geometry = {"c_out": 40, "stride": 1, "w_in": 4, "k": 18, "residual": True, "joined": "r"}
    run = made(machine, "unstructured:0.7", geometry, theta=0)
    assert [(part.row, part.channel) for part in run.program.parts] == [(0, 0), (0, 16), (0, 32)]
    flags = [Flag(each["flags"]) for each in run.computes]
    assert [bool(each & Flag.PROJECT) for each in flags] == [True, False, False]
    assert [bool(each & Flag.RELEASE) for each in flags] == [False, False, True]


def test_descriptors_sum_to_zero(made):
    run = made(S, "structured:4:8", {})
    for words in (*run.compute_words(), *run.transfer_words()):
        assert int(words.sum(dtype=np.uint64)) % (1 << 32) == 0


def test_sums_are_stored_on_request(made):
    run = made(S, "dense", {"joined": "r"}, store_sums=True)
    assert [each.move.target for each in run.transfers[-2:]] == [Target.STORE_Y, Target.STORE_SUM]
    assert run.computes[0]["flags"] & Flag.STORE_SUM


@pytest.mark.parametrize(
    ("machine", "scheme", "geometry", "options", "message"),
    [
        (S, "unstructured:0.5", {}, {}, "layer l: theta must be between -32768 and 32768 .*None"),
        (U, "unstructured:0.5", {}, {"theta": 40000}, "theta must be .*, not 40000"),
        (S, "dense", {}, {"inject": True}, "a dense layer has no masks"),
        (S, "dense", {}, {"store_sums": True}, "layer l: keeps no sums to store"),
        (U, "unstructured:0.5", {}, {"inject": True, "store_masks": True}, "not to be stored"),
        (
            override(U, ["memories.masks.capacity_kib=1", "memories.masks.macro_kib=1"]),
            "unstructured:0.5",
            {"h_in": 40, "w_in": 20, "c_out": 12},
            {"inject": True},
            "layer l needs 4 KiB of the masks memory for all of its masks, which holds 1",
        ),
        (
            override(S, ["memories.x.capacity_kib=1024", "memories.y.capacity_kib=4096"]),
            "dense",
            {"kernel": 1, "padding": 0, "stride": 1, "h_in": 1025, "w_in": 2, "c_out": 1},
            {},
            "layer l: h_in .* must be between 1 and 1024 on structured-small, not 1025",
        ),
    ],
)
def test_refusals(made, machine, scheme, geometry, options, message):
    with pytest.raises(InputError, match=message):
        made(machine, scheme, geometry, **options)


@pytest.mark.parametrize(
    ("machine", "geometry", "message"),
    [
        # 36 beats of 8 words of two lanes of 8 bytes are 4.5 KiB, W~ 1 KiB.
        ("memories.weights.capacity_kib=4", {}, "layer l needs 6 KiB of the weights memory"),
        ("memories.x.capacity_kib=1", {"h_in": 40}, "layer l needs 4 KiB of the x memory"),
        # 20x3 pixels of 32 channels.
        ("memories.y.capacity_kib=1", {"h_in": 40}, "layer l needs 4 KiB of the y memory"),
        # 40x5 pixels of 8 bytes.
        ("memories.xq.capacity_kib=1", {"h_in": 40}, "layer l needs 2 KiB of the xq memory"),
        ("memories.projection.capacity_kib=1", {"k": 70}, "layer l needs 3 KiB of the projection"),
        ("memories.parameters.capacity_kib=1", {"c_out": 80}, "needs 2 KiB of the parameters"),
        ("rpu.depth=4", {}, "layer l projects to 6 rows of P, and rpu.depth = 4 is the most"),
        (
            "rpu.depth=256",
            {"projection": "tap", "k": 65 * 9},
            "layer l: k / taps must be at most 64 for projection tap, not 65",
        ),
        (
            "rpu.depth=256",
            {"projection": "tap", "k": 9, "w_in": 683, "h_in": 1, "c_in": 1, "c_out": 1},
            "layer l: kernel \\* w_in must be at most 2048 for projection tap, not 2049",
        ),
    ],
)
def test_memories_too_small(made, machine, geometry, message):
    with pytest.raises(InputError, match=message):
        made(override(S, [machine]), "structured:4:8", geometry)


def test_rows_of_y_on_an_unstructured_machine_are_padded(made):
    """20 channels are five rows of 8 bytes at eight addresses a pixel: 71 * 8 + 5 rows, 4.5 KiB
    rather than 2.8."""
    machine = override(U, ["memories.y.capacity_kib=4", "memories.y.macro_kib=1"])
    with pytest.raises(InputError, match="layer l needs 5 KiB of the y memory, which holds 4"):
        made(machine, "dense", {"h_in": 48})


def test_the_ring_of_masks_holds_three_tiles(made):
    """A tile is a window of eight pixels: 80 rows of channels take ten words of 32 bytes, and three
    times that is less than 1 KiB; 81 take eleven."""
    machine = override(
        U, ["memories.masks.capacity_kib=1", "memories.masks.macro_kib=1", "window=8"]
    )
    geometry = {"kernel": 1, "padding": 0, "stride": 1, "k": 2}
    made(machine, "unstructured:0.5", geometry | {"c_out": 4 * 80}, theta=0)
    with pytest.raises(InputError, match="layer l needs 2 KiB of the masks memory, which holds 1"):
        made(machine, "unstructured:0.5", geometry | {"c_out": 4 * 81}, theta=0)


def test_dense_layers_need_no_room_for_masks(made):
    """200 rows of channels would take 50 words of 32 bytes a window, more than 1 KiB."""
    sets = ["memories.masks.capacity_kib=1", "memories.masks.macro_kib=1", "window=16"]
    machine = override(U, [*sets, "memories.y.capacity_kib=256"])
    geometry = {"kernel": 1, "padding": 0, "stride": 1, "k": 2, "c_out": 4 * 200}
    assert made(machine, "dense", geometry).computes[0]["mask_rows"] == 0


def test_operands_are_checked(made, integer_layer):
    run = made(S, "structured:4:8", {"residual": True})
    spec = integer_layer(np.random.default_rng(0), **BASE)
    x = np.zeros((6, 5, 5), np.int16)
    residual = next(each for each in run.transfers if each.move.target is Target.RESIDUAL)
    with pytest.raises(InputError, match=r"residual must have the shape \(9, 20\), not nothing"):
        load_stream(run, residual, Operands(spec=spec, x=x, xq=x))
    with pytest.raises(InputError, match=r"x must have the shape \(6, 5, 5\), not an array of"):
        input_stream(run, Operands(spec=spec, x=x[1:], xq=x, residual=np.zeros((9, 20))))
    with pytest.raises(InputError, match="order must hold each channel 0 to 19 once"):
        input_stream(run, Operands(spec=spec, x=x, order=np.zeros(20, int)))
    with pytest.raises(InputError, match="its outputs take 800 bytes, not 3"):
        read_outputs(run, b"abc")


def test_masks_of_another_scheme_are_refused(made, integer_layer):
    """Blocks are as deep as four essential channels of a group allow: R / 4 batches."""
    run = made(S, "structured:4:8", {}, inject=True)
    spec = integer_layer(np.random.default_rng(0), **BASE)
    mask = np.zeros((9, 20), bool)
    mask[3, 8:13] = True
    x = np.zeros((6, 5, 5), np.int16)
    with pytest.raises(InputError, match=r"5 essential channels in a group of 8, .* room for 4"):
        input_stream(run, Operands(spec=spec, x=x, xq=x, mask=mask))
