"""What the tests of the compiler share: layers in integers, and a model of the addresses.

The model runs descriptors as the hardware does, address by address: it walks tiles, steps, batches
and beats, reads rows of memories that LOADs have filled, and computes with plain integers. It knows
the fields of the descriptors and the table of memories, and nothing of the compiler.
"""

import numpy as np
import pytest

from sinai.common.descriptor import Flag, Target, memory_depth, memory_row_bits
from sinai.common.integer import IntegerLayer
from sinai.common.layer import Layer

MEMORY = {
    Target.WEIGHTS: "weights",
    Target.X: "x",
    Target.RESIDUAL: "residual",
    Target.XQ: "xq",
    Target.PROJECTION: "projection",
    Target.PARAMETERS: "parameters",
    Target.MASKS: "masks",
    Target.STORE_Y: "y",
    Target.STORE_YQ: "y",
    Target.STORE_SUM: "sums",
    Target.STORE_MASKS: "masks",
}


def signed(value, bits):
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def cut(word, bits, count):
    """`count` signed numbers of `bits` bits, low ones first."""
    return [signed(word >> n * bits, bits) for n in range(count)]


def limit(v, low, high):
    return max(low, min(high, v))


def shifted(v, r):
    return v if r == 0 else (v + (1 << (r - 1))) >> r


def sat16(v):
    return limit(v, -32768, 32767)


def dot(a, b):
    return sum(u * v for u, v in zip(a, b, strict=True))


class AddressModel:
    """The accelerator at the level of addresses; one run of a program a model."""

    def __init__(self, machine):
        self.machine = machine
        self.S = not machine.unstructured
        self.V, self.T, self.w = machine.lanes, machine.columns, machine.pses
        self.beta, self.Q = machine.weight_words, machine.rpu.word
        names = {*MEMORY.values()}
        # The residual memory has two halves: sums to add, and sums to keep.
        half = {"sums": "residual"}
        self.depth = {name: memory_depth(machine, half.get(name, name)) for name in names}
        self.bits = {name: memory_row_bits(machine, half.get(name, name)) for name in names}
        self.memory = {name: {} for name in names}
        self.p = {}

    # Transfers.

    def run(self, made, stream, eager):
        """Return the output stream. `eager`: transfers go before computes where both may."""
        width = self.machine.dma.bytes_per_cycle
        transfers, computes = list(made.transfers), list(made.computes)
        moved = done = 0
        data, out = bytes(stream), b""
        while moved < len(transfers) or done < len(computes):
            may_move = moved < len(transfers) and transfers[moved].fields["wait"] <= done
            may_compute = done < len(computes) and computes[done]["wait"] <= moved
            assert may_move or may_compute, "the queues wait for each other"
            if may_move and (eager or not may_compute):
                fields = transfers[moved].fields
                if fields["target"] < Target.STORE_Y:
                    data = self._load(fields, data, width)
                else:
                    out += self._store(fields, width)
                moved += 1
            else:
                self._compute(computes[done])
                done += 1
        assert not data, "not all of the stream was taken"
        return out

    def _addresses(self, fields, name):
        for o in range(fields["outer"]):
            for i in range(fields["inner"]):
                address = fields["base"] + o * fields["stride"] + i
                assert 0 <= address < self.depth[name]
                yield address

    def _load(self, fields, data, width):
        name = MEMORY[Target(fields["target"])]
        bits, rows = self.bits[name], fields["inner"] * fields["outer"]
        size = -(-rows * bits // (8 * width)) * width
        assert len(data) >= size
        words = int.from_bytes(data[:size], "little")
        for n, address in enumerate(self._addresses(fields, name)):
            self.memory[name][address] = words >> n * bits & (1 << bits) - 1
        assert words >> rows * bits == 0, "the rest of the last word is zero"
        return data[size:]

    def _store(self, fields, width):
        target = Target(fields["target"])
        name = MEMORY[target]
        bits, words = self.bits[name], 0
        low, high = (0, 15) if fields["unsigned"] else (-8, 7)
        for n, address in enumerate(self._addresses(fields, name)):
            row = self.memory[name].get(address, 0)
            if target is Target.STORE_YQ:
                values = cut(row, 16, bits // 16)
                quantised = (limit(shifted(v, fields["quantise_shift"]), low, high) for v in values)
                row = sum((v & 15) << 4 * bank for bank, v in enumerate(quantised))
                words |= row << n * (bits // 4)
            else:
                words |= row << n * bits
        if target is Target.STORE_YQ:
            bits //= 4
        size = -(-fields["inner"] * fields["outer"] * bits // (8 * width)) * width
        return words.to_bytes(size, "little")

    def _bank(self, name, address, bank, bits):
        """A bank's word of a row that has been written."""
        return self.memory[name][address] >> bank * bits & (1 << bits) - 1

    def _write(self, name, address, bank, value):
        """One 16-bit value of a row of y or the residual."""
        assert 0 <= address < self.depth[name]
        row = self.memory[name].get(address, 0) & ~(0xFFFF << 16 * bank)
        self.memory[name][address] = row | (value & 0xFFFF) << 16 * bank

    # Computes.

    def _compute(self, f):
        self.f, self.flags = f, Flag(f["flags"])
        self.positions = self._walk()
        sizes = [f["tile_depth"] + (t < f["tile_more"]) for t in range(f["tiles"])]
        assert sum(sizes) == f["batches"] == -(-f["pixels"] // self.T)
        assert f["groups"] == -(-f["channels"] // (8 * self.V if self.S else self.V))
        # Either p is all to come, or all of the part is there.
        assert not self.flags & Flag.APPROXIMATE or bool(self.p) != bool(self.flags & Flag.PROJECT)
        first, ring = 0, 0
        for tile, depth in enumerate(sizes):
            batches = range(first, first + depth)
            if self.flags & Flag.APPROXIMATE:
                self._project(batches)
                self._check_sub_blocks(tile, depth)
            for sg in range(f["groups"] if self.S else 1):
                base = f["mask_base"] + (ring if self.S else tile * f["mask_rows"])
                if self.flags & Flag.APPROXIMATE:
                    noise = self._approximate(batches, sg)
                    if not self.flags & Flag.INJECT:
                        self._select(noise, batches, sg, base)
                if self.flags & Flag.EXACT:
                    self._exact(batches, sg, base)
                ring += depth
            first += depth
        if self.flags & Flag.RELEASE:
            self.p = {}

    def _check_sub_blocks(self, tile, depth):
        deep = "_deep" if tile < self.f["tile_more"] else ""
        count, size, more = (self.f[f"sub_{n}{deep}"] for n in ("count", "depth", "more"))
        assert count * size + more == depth
        if self.S:
            assert size + (more > 0) <= min(self.machine.accumulators // 2, self.machine.collector)

    def _walk(self):
        """(row, column, linear) of every pixel: columns first, a pixel each, then by batches."""
        f = self.f

        def step(at, columns, column, row, linear):
            out, r, c, lin = at[0] + columns, at[1] + row, at[2] + column, at[3] + linear
            if out >= f["w_out"]:
                out, r = out - f["w_out"], r + f["stride"]
                c, lin = c - f["wrap_column"], lin + f["wrap_linear"]
            return out, r, c, lin

        columns = [(0, f["row0"], f["column0"], f["linear0"])]
        while len(columns) < self.T:
            columns.append(step(columns[-1], 1, f["stride"], 0, f["stride"]))
        found = []
        for _ in range(f["batches"]):
            found += [at[1:] for at in columns]
            steps = (f[f"step_{n}"] for n in ("columns", "column", "row", "linear"))
            columns = [step(at, *values) for values in [tuple(steps)] for at in columns]
        return found

    def _x(self, pixel):
        """Beats of a pixel: lists of w numbers, zeros outside the input."""
        f, beats = self.f, []
        row, column, linear = self.positions[pixel]
        for kr in range(f["kernel"]):
            for kc in range(f["kernel"]):
                inside = 0 <= row + kr < f["h_in"] and 0 <= column + kc < f["w_in"]
                lin = linear + kr * f["w_in"] + kc
                for cw in range(f["x_words"]):
                    if not inside:
                        beats.append([0] * self.w)
                        continue
                    address = f["x_base"] + cw * f["x_plane"] + lin // self.T
                    word = self._bank("x", address, lin % self.T, 16 * self.w)
                    beats.append(cut(word, 16, self.w))
        assert len(beats) == f["beats"]
        return beats

    def _xq(self, row, column):
        """Nibbles of an x^Q pixel, all of its words."""
        f = self.f
        if not (0 <= row < f["q_h_in"] and 0 <= column < f["q_w_in"]):
            return [0] * (f["q_words"] * self.Q)
        values = []
        for cw in range(f["q_words"]):
            address = f["q_base"] + cw * f["q_plane"] + row * f["q_w_in"] + column
            values += cut(self.memory["xq"][address], 4, self.Q)
        return [v & 15 for v in values] if self.flags & Flag.UNSIGNED else values

    def _matrix(self):
        """Rows of P over all elements of its tiles."""
        f, rpu = self.f, self.machine.rpu
        rows = [[] for _ in range(f["p_row_tiles"] * rpu.rows)]
        for ke in range(f["p_element_tiles"]):
            for kr in range(f["p_row_tiles"]):
                base, tile = f["p_base"] + (ke * f["p_row_tiles"] + kr) * rpu.load_cycles, 0
                for n in range(rpu.load_cycles):
                    tile |= self.memory["projection"][base + n] << n * rpu.port_bits
                codes = [tile >> 2 * n & 3 for n in range(rpu.rows * rpu.elements)]
                for r in range(rpu.rows):
                    line = codes[r * rpu.elements : (r + 1) * rpu.elements]
                    rows[kr * rpu.rows + r] += [{0: 0, 1: 1, 3: -1}[code] for code in line]
        return rows[: f["p_rows"]]

    def _project(self, batches):
        """p of these batches into its memory, nibble by nibble."""
        f = self.f
        if not self.flags & Flag.PROJECT:
            return
        matrix = self._matrix()
        for batch in batches:
            for pixel in range(batch * self.T, min((batch + 1) * self.T, f["pixels"])):
                top = f["q_row0"] + pixel // f["w_out"] * f["q_stride"]
                left = f["q_column0"] + pixel % f["w_out"] * f["q_stride"]
                taps = [
                    self._xq(top + i, left + j)
                    for i in range(f["q_kernel"])
                    for j in range(f["q_kernel"])
                ]
                windows = taps if self.flags & Flag.TAP else [[v for tap in taps for v in tap]]
                p = []
                for window in windows:
                    window = window + [0] * (len(matrix[0]) - len(window))
                    p += [limit(shifted(dot(r, window), f["p_shift"]), -8, 7) for r in matrix]
                assert len(p) <= f["rough_beats"] * 16 * self.w
                for beat in range(f["rough_beats"]):
                    address = batch % f["p_room"] * f["rough_beats"] + beat
                    assert address < memory_depth(self.machine, "p")
                    word = (p[16 * self.w * beat :] + [0] * 16 * self.w)[: 16 * self.w]
                    self.p[pixel % self.T, address] = word

    def _parameters(self, lane, index, sg):
        """M, b, M~, b~, a, c of a lane's channel `index`."""
        base = self.f["parameters_base"]
        if self.S:
            address, bank = base + (sg * 8 + index) // self.beta, lane * self.beta
            bank += index % self.beta
        else:
            address, bank = base + index, lane
        word = self._bank("parameters", address, bank, 128)
        at = [(0, 16), (16, 32), (48, 16), (64, 32), (96, 16), (112, 16)]
        return [signed(word >> low, bits) for low, bits in at]

    def _channels(self, sg):
        """(lane, index in the lane, channel of the part) of a tile's channels."""
        if self.S:
            every = [(v, i, 8 * (sg * self.V + v) + i) for v in range(self.V) for i in range(8)]
        else:
            rows = range(self.f["groups"])
            every = [(v, row, row * self.V + v) for row in rows for v in range(self.V)]
        return [each for each in every if each[2] < self.f["channels"]]

    def _pixels(self, batches):
        for batch in batches:
            for t in range(self.T):
                if batch * self.T + t < self.f["pixels"]:
                    yield batch, t

    def _rough_word(self, lane, index, sg, beat, q):
        f, bits = self.f, 16 * self.w
        if self.S:
            number = ((sg * 4 + index // 2) * f["rough_beats"] + beat) * 8 + 4 * (index & 1) + q
            address, bank = f["rough_base"] + number // self.beta, lane * self.beta
            bank += number % self.beta
        else:
            address, bank = f["rough_base"] + (index * f["rough_beats"] + beat) * 4 + q, lane
        return self._bank("weights", address, bank, bits)

    def _approximate(self, batches, sg):
        """z~ of a tile, by (batch, column, lane, index); all of it written to y."""
        f, noise = self.f, {}
        for lane, index, _ in self._channels(sg):
            weights = [
                v
                for beat in range(f["rough_beats"])
                for q in range(4)
                for v in cut(self._rough_word(lane, index, sg, beat, q), 4, 4 * self.w)
            ]
            _, _, multiplier, bias, gain, offset = self._parameters(lane, index, sg)
            for batch, t in self._pixels(batches):
                slot = batch % f["p_room"] * f["rough_beats"]
                p = [v for beat in range(f["rough_beats"]) for v in self.p[t, slot + beat]]
                z = sat16(shifted((dot(weights, p) + bias) * multiplier, f["rough_shift"]))
                noise[batch, t, lane, index] = z
                self._write_back(z, batch, t, lane, index, sg, gain, offset)
        return noise

    def _select(self, noise, batches, sg, base):
        f, channels = self.f, self._channels(sg)
        for batch, t in self._pixels(batches):
            for lane, index, _ in channels:
                z = noise[batch, t, lane, index]
                essential = z >= f["theta"]
                if self.flags & Flag.RANK:
                    others = [(i, noise[batch, t, v, i]) for v, i, _ in channels if v == lane]
                    rank = sum(o > z or (o == z and i < index) for i, o in others)
                    essential = rank < f["essential"]
                address, bit = self._mask_bit(batches, batch, t, lane, index, base)
                row = self.memory["masks"].get(address, 0) & ~(1 << bit)
                self.memory["masks"][address] = row | essential << bit

    def _mask_bit(self, batches, batch, t, lane, index, base):
        """Address and bit of the row that say whether a neuron is essential."""
        within = batch - batches[0]
        if self.S:
            return (base + within) % self.depth["masks"], 8 * (t * self.V + lane) + index
        window = self.machine.window
        per_word = 64 // window
        words = -(-self.f["groups"] // per_word)
        address = base + within // window * words + index // per_word
        return address % self.depth["masks"], (
            64 * lane + index % per_word * window + within % window
        )

    def _exact(self, batches, sg, base):
        f, fullest = self.f, {}
        for lane, index, _ in self._channels(sg):
            weights = []
            for beat in range(f["beats"]):
                if self.S:
                    number = (sg * f["beats"] + beat) * 8 + index
                    address, bank = f["weights_base"] + number // self.beta, lane * self.beta
                    bank += number % self.beta
                else:
                    address, bank = f["weights_base"] + beat * f["groups"] + index, lane
                word = self._bank("weights", address, bank, 16 * self.w)
                weights += cut(word, 16, self.w)
            multiplier, bias, _, _, gain, offset = self._parameters(lane, index, sg)
            for batch, t in self._pixels(batches):
                if self.flags & Flag.APPROXIMATE:
                    address, bit = self._mask_bit(batches, batch, t, lane, index, base)
                    if not self.memory["masks"][address] >> bit & 1:
                        continue
                fullest[batch, t, lane] = fullest.get((batch, t, lane), 0) + 1
                x = [v for beat in self._x(batch * self.T + t) for v in beat]
                z = sat16(shifted((dot(weights, x) + bias) * multiplier, f["shift"]))
                self._write_back(z, batch, t, lane, index, sg, gain, offset)
        if self.S:
            used = [
                max((fullest.get((b, *at), 0) for at in self._vpus()), default=0) for b in batches
            ]
            assert sum(used) <= self.machine.accumulators

    def _vpus(self):
        return [(t, lane) for t in range(self.T) for lane in range(self.V)]

    def _write_back(self, v, batch, t, lane, index, sg, gain, offset):
        f = self.f
        if self.S:
            at, bank = (sg * f["batches"] + batch) * 8 + index, t * self.V + lane
        else:
            assert index < 1 << f["row_bits"]
            at, bank = (batch << f["row_bits"]) + index, lane
        if self.flags & Flag.RESIDUAL:
            v = sat16(v + signed(self._bank("residual", f["residual_base"] + at, bank, 16), 16))
        if self.flags & Flag.STORE_SUM:
            self._write("sums", f["sum_base"] + at, bank, v)
        y = sat16(shifted(v * gain, f["gain_shift"]) + offset)
        if self.flags & Flag.RELU:
            y = max(y, 0)
        self._write("y", f["y_base"] + at, bank, y)


@pytest.fixture(scope="session")
def address_model():
    """The class `AddressModel`."""
    return AddressModel


def _integer_layer(rng, layer):
    """Random weights and parameters that reach both ends of the ranges."""
    c_out, k = layer.c_out, layer.k
    rows, columns = k, layer.d
    if layer.projection == "tap":
        rows, columns = k // layer.taps, layer.c_in
    return IntegerLayer(
        layer=layer,
        source="input",
        residual="other" if layer.residual else "",
        weight=rng.integers(-32768, 32768, (c_out, layer.d)).astype(np.int16),
        bias=rng.integers(-(2**31), 2**31, c_out).astype(np.int32),
        multiplier=rng.integers(-32768, 32768, c_out).astype(np.int16),
        shift=33,
        matrix=rng.integers(-1, 2, (rows, columns)).astype(np.int8),
        matrix_shift=2,
        noise_weight=rng.integers(-7, 8, (c_out, k)).astype(np.int8),
        noise_bias=rng.integers(-50, 50, c_out).astype(np.int32),
        noise_multiplier=rng.integers(-32768, 32768, c_out).astype(np.int16),
        noise_shift=8,
        gain=rng.integers(-300, 300, c_out).astype(np.int16),
        offset=rng.integers(-300, 300, c_out).astype(np.int16),
        gain_shift=8,
        relu=bool(rng.integers(2)),
        quantise_shift=11,
        unsigned=bool(rng.integers(2)),
        scale=1.0,
    )


@pytest.fixture(scope="session")
def integer_layer():
    """``integer_layer(rng, **geometry)``: a random layer in integers."""

    def make(rng, **geometry):
        return _integer_layer(rng, Layer(**{"name": "l", **geometry}))

    return make
