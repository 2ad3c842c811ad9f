"""Machines stepped one cycle at a time, written from the description of the core: what the
recurrences of the simulator are held to. Nothing here is shared with the simulator but the compiled
program and the contract."""

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st

from sinai.common.contract import STALL_CAUSES
from sinai.common.layer import Layer


class SteppedRpu:
    """Gather, load of P and adders of the projection unit, each a step a cycle.

    `usable` holds, for each group that is done, (pixels of the part up to it, first cycle in which
    p may be issued).
    """

    def __init__(self, layer, machine, part, contract, room):
        self.layer, self.rpu, self.part, self.contract = layer, machine.rpu, part, contract
        self.room = room
        self.begin = contract.launch(machine.columns)
        self.usable, self.freed = [], 0
        self.tap = layer.projection == "tap" and layer.kernel > 1
        narrow = layer.c_in < machine.pses and not self.tap
        q = min(64, self.rpu.elements)
        pixel = -(-(layer.c_in * (layer.kernel**2 if narrow else 1)) // q)
        words = pixel if narrow or self.tap else pixel * layer.kernel**2
        self.rows = layer.k // layer.kernel**2 if self.tap else layer.k
        self.tiles = -(-self.rows // self.rpu.rows)
        tile = self.rpu.elements // q
        self.words = [min(tile, words - at) for at in range(0, words, tile)]
        self.load = -(-2 * self.rpu.rows * self.rpu.elements // self.rpu.port_bits)
        self.process = self._tap() if self.tap else self._patch()
        self.running = part.projects

    def step(self, cycle):
        if self.running and cycle >= self.begin:
            self.cycle = cycle
            self.running = next(self.process, None) is not None

    def ready(self, pixel, cycle):
        """Whether p of this pixel of the part may be issued in this cycle."""
        if not self.part.projects:
            return True
        return any(done > pixel and since <= cycle for done, since in self.usable)

    def _groups(self, pixels):
        return [min(self.rpu.hold, pixels - at) for at in range(0, pixels, self.rpu.hold)]

    def _slots(self, groups, load):
        """Step through the slots of groups of pixels; yields once a cycle. `load`: P is not there.
        A group is (pixels, pixels of the part after it or None if it takes no room)."""
        single = self.tiles * len(self.words) == 1
        slots = [(n, done, ke) for n, done in groups for ke in range(len(self.words))]
        gathering = slots[0][0] * self.words[0]
        loading = self.load if load else 0
        while gathering > 0 or loading > 0:
            gathering, loading = gathering - 1, loading - 1
            yield True
        for index, (n, done, ke) in enumerate(slots):
            while ke == 0 and done is not None and done - self.freed > self.room:
                yield True
            following = slots[index + 1] if index + 1 < len(slots) else None
            gathering = following[0] * self.words[following[2]] if following else 0
            for _ in range(self.tiles):
                passing, loading = n, 0 if single else self.load
                while passing > 0 or loading > 0:
                    passing, loading, gathering = passing - 1, loading - 1, gathering - 1
                    last = self.cycle
                    yield True
            if ke == len(self.words) - 1 and done is not None:
                self.usable.append((done, last + self.contract.rpu_fill))
            while gathering > 0:
                gathering -= 1
                yield True

    def _patch(self):
        pixels, groups = 0, []
        for n in self._groups(self.part.rows * self.layer.w_out):
            pixels += n
            groups.append((n, pixels))
        yield from self._slots(groups, True)

    def _tap(self):
        layer, done, load = self.layer, set(), True
        pixels = 0
        for row in range(self.part.row, self.part.row + self.part.rows):
            top = row * layer.stride - layer.padding
            needed = [y for y in range(top, top + layer.kernel) if 0 <= y < layer.h_in]
            new = [y for y in needed if y not in done]
            done.update(new)
            groups = [(n, None) for _ in new for n in self._groups(layer.w_in)]
            if groups:
                yield from self._slots(groups, load)
                load = False
                # The last of them is on its way to the tap memory.
                for _ in range(self.contract.rpu_fill - 1):
                    yield True
            for n in self._groups(layer.w_out):
                pixels += n
                while pixels - self.freed > self.room:
                    yield True
                for _ in range(n * layer.kernel**2):
                    last = self.cycle
                    yield True
                self.usable.append((pixels, last + self.contract.rpu_fill))


@dataclass
class Stepped:
    """What a stepped part gives: as the simulator's clock, and (phase, tile, first, last)."""

    cycles: int
    busy: int
    stalls: dict
    steps: list


def steps_in_order(program, part):
    tiles = [index for index, tile in enumerate(program.tiles) if tile.part == part]
    exact, rough = program.computes_exactly, not program.scheme.dense
    order = []
    for index, tile in enumerate(tiles):
        if rough:
            order.append(("A", tile))
        if exact and rough and index:
            order.append(("E", tiles[index - 1]))
        if exact and not rough:
            order.append(("E", tile))
    if exact and rough:
        order.append(("E", tiles[-1]))
    return order


class Tally:
    """Counts every cycle of a part once."""

    def __init__(self):
        self.cycle, self.busy, self.stalls = 0, 0, dict.fromkeys(STALL_CAUSES, 0)

    def count(self, issues, causes):
        if issues:
            self.busy += 1
        else:
            self.stalls[next(cause for cause in STALL_CAUSES if cause in causes)] += 1
        self.cycle += 1


def step_structured(program, part_index, mask, contract, room):
    """The structured machine: weight loader, fetch stage, issue stage."""
    layer, machine, scheme = program.layer, program.machine, program.scheme
    part = program.parts[part_index]
    columns, lanes, beats = machine.columns, machine.lanes, program.approximate_beats
    origin, begin = part.row * layer.w_out, contract.launch(machine.columns)
    rpu = None if scheme.dense else SteppedRpu(layer, machine, part, contract, room)
    lw = 8 // machine.weight_words

    def columns_of(batch):
        """Fetches of a batch's words of a tap: the fullest bank, at least 1."""
        first = origin + batch * columns
        end = min(first + columns, origin + part.rows * layer.w_out)
        found = []
        if layer.c_in < machine.pses:
            return [1] * layer.beats(machine.pses)
        for tap in range(layer.kernel**2):
            banks = []
            for pixel in range(first, end):
                y = pixel // layer.w_out * layer.stride - layer.padding + tap // layer.kernel
                x = pixel % layer.w_out * layer.stride - layer.padding + tap % layer.kernel
                if 0 <= y < layer.h_in and 0 <= x < layer.w_in:
                    banks.append((y * layer.w_in + x) % columns)
            fullest = max((banks.count(b) for b in banks), default=1)
            found += [fullest] * -(-layer.c_in // machine.pses)
        return found

    def fullest_group(batch, tile):
        most = 0
        for pixel in range(origin + batch * columns, origin + (batch + 1) * columns):
            if pixel >= origin + part.rows * layer.w_out:
                continue
            for lane in range(lanes):
                low = tile.channel + 8 * lane
                high = min(low + 8, tile.channel + tile.channels)
                width = max(0, high - low)
                if scheme.dense:
                    most = max(most, width)
                elif mask is None:
                    most = max(most, min(width, scheme.essential_of_group))
                elif width:
                    most = max(most, int(mask[pixel, low:high].sum()))
        return most

    # Items in order: (step, unit, fetches, issues, bubble, pixel of p or None)
    items, units = [], 0
    order = steps_in_order(program, part_index)
    for number, (phase, index) in enumerate(order):
        tile = program.tiles[index]
        first = (tile.pixel - origin) // columns
        count = -(-tile.pixels // columns)
        if phase == "A":
            most = min(machine.accumulators // 2, machine.collector)
            subs = -(-count // most)
            done = 0
            for sub in range(subs):
                depth = count // subs + (sub < count % subs)
                done += depth
                last = min(tile.pixel + done * columns, tile.pixel + tile.pixels) - 1 - origin
                for _ in range(4 * beats):
                    items += [(number, units, 1, 2, False, last)] * depth
                    units += 1
        else:
            fetches = {b: columns_of(b) for b in range(first, first + count)}
            issues = {b: fullest_group(b, tile) for b in range(first, first + count)}
            for beat in range(program.beats):
                for b in range(first, first + count):
                    n = issues[b]
                    items.append(
                        (number, units, fetches[b][beat] if n else 1, max(n, 1), not n, None)
                    )
                units += 1
    last_of_unit = {unit: position for position, (_, unit, *_) in enumerate(items)}
    last_of_step = {step: position for position, (step, *_) in enumerate(items)}

    tally, loaded, loading, ended = Tally(), 0, 0, 0
    position, fetched, remaining, now_item = 0, 0, 0, None
    issued_before, selected_at, spans, last_issue = False, {}, {}, 0
    while True:
        cycle = tally.cycle
        if rpu:
            rpu.step(cycle)
        gate = complete = False
        phase = None
        if position < len(items):
            step, unit, fetches, issues, _, pixel = items[position]
            phase, index = order[step]
            if phase == "A":
                gate = rpu.ready(pixel, cycle)
            else:
                gate = scheme.dense or selected_at.get(index, 1 << 60) <= cycle
            if gate and cycle >= begin and fetched < fetches:
                fetched += 1
            complete = fetched == fetches
        if remaining == 0 and complete and gate and cycle >= begin and loaded > unit:
            now_item, remaining = position, issues
            position, fetched = position + 1, 0
            spans.setdefault(step, [cycle, cycle])
        begins_or_goes = remaining > 0
        bubble_now = begins_or_goes and items[now_item][4]
        causes = {"drain"}
        if position < len(items) or begins_or_goes:
            causes.add("fill")
            if issued_before:
                causes.add("shallow")
        if bubble_now:
            causes = {"scan"}
        elif not begins_or_goes and phase:
            if phase == "A" and not gate and cycle >= begin:
                causes.add("rpu")
            if phase == "E" and not gate:
                causes.add("select")
            if phase == "E" and cycle >= begin and gate and not complete:
                causes.add("xbank")
        # Weight loader: before the end of this cycle, `ended` units have been left.
        if cycle >= begin and loaded < units and loaded - ended < 2:
            loading += 1
            if loading == lw:
                loading = 0
                load_done = True
            else:
                load_done = False
        else:
            load_done = False
        tally.count(begins_or_goes and not bubble_now, causes)
        loaded += load_done
        if begins_or_goes:
            if not bubble_now:
                issued_before = True
            remaining -= 1
            if remaining == 0:
                step, unit = items[now_item][:2]
                if last_of_unit[unit] == now_item:
                    ended = unit + 1
                if last_of_step[step] == now_item:
                    spans[step][1] = last_issue = cycle
                    phase_done, index = order[step]
                    if phase_done == "A":
                        selected_at[index] = cycle + contract.to_indices
                        tile = program.tiles[index]
                        if tile.last_of_block and part.releases:
                            rpu.freed = tile.pixel + tile.pixels - origin
        if position == len(items) and remaining == 0 and tally.cycle >= last_issue + contract.drain:
            break
    steps = [(*order[n], *spans[n]) for n in range(len(order))]
    return Stepped(tally.cycle, tally.busy, tally.stalls, steps)


def step_unstructured(program, part_index, mask, contract, room):
    """The unstructured machine: row loader, scanner of every lane, window, issue."""
    layer, machine, scheme = program.layer, program.machine, program.scheme
    part = program.parts[part_index]
    lanes, width, most = machine.lanes, machine.window, machine.accumulators
    origin, begin = part.row * layer.w_out, contract.launch(1)
    rpu = None if scheme.dense else SteppedRpu(layer, machine, part, contract, room)
    rows = -(-part.channels // lanes)
    together = 64 // width
    words = -(-rows // together)
    order = steps_in_order(program, part_index)
    exact_tiles = [index for phase, index in order if phase == "E"]

    def essential(pixel, row, lane):
        channel = row * lanes + lane
        if channel >= part.channels:
            return False
        return scheme.dense or bool(mask[pixel, part.channel + channel])

    def word_pairs(tile, first, lane, word):
        pixels = range(first, min(first + width, tile.pixel + tile.pixels))
        return [
            (row, pixel)
            for row in range(word * together, (word + 1) * together)
            for pixel in pixels
            if essential(pixel, row, lane)
        ]

    selected_at, spans = {}, {}
    published, over = [], 0  # passes (tile, list of each lane), and how many have issued
    through = set()  # tiles that the scanner has left
    at = {"tile": 0, "first": None}
    lists, left = [], []

    def scan(cycle):
        """One cycle of all scanners; return the pass that it publishes, or None."""
        nonlocal lists, left
        if at["tile"] == len(exact_tiles):
            return None
        index = exact_tiles[at["tile"]]
        tile = program.tiles[index]
        if not scheme.dense and selected_at.get(index, 1 << 60) > cycle:
            return None
        if len(published) - over >= 2:
            return None
        if at["first"] is None:
            at["first"] = tile.pixel
        if not left:
            lists = [[] for _ in range(lanes)]
            left = [
                [word_pairs(tile, at["first"], lane, word) for word in range(words)]
                for lane in range(lanes)
            ]
        for lane in range(lanes):
            if left[lane] and len(lists[lane]) < most:
                if left[lane][0]:
                    lists[lane].append(left[lane][0].pop(0))
                if not left[lane][0]:
                    left[lane].pop(0)
        stopped = all(not left[lane] or len(lists[lane]) == most for lane in range(lanes))
        found = None
        if stopped and any(lists):
            found, lists = (index, lists), [[] for _ in range(lanes)]
        if not any(left):
            left = []
            at["first"] += width
            if at["first"] >= tile.pixel + tile.pixels:
                through.add(index)
                at.update(tile=at["tile"] + 1, first=None)
        return found

    tally = Tally()
    # Weight stream of APPROXIMATE.
    loads = [
        (step, unit)
        for step, (phase, _) in enumerate(order)
        if phase == "A"
        for unit in range(rows * program.approximate_beats)
    ]
    loaded = loading = ended = taken = 0
    # Window: units (pass, beat) fetched and left.
    filled = filling = left_units = 0
    number, unit, slot = 0, 0, 0
    issued_before, last_end = False, 0
    beats = program.beats
    while True:
        cycle = tally.cycle
        if rpu:
            rpu.step(cycle)
        found = scan(cycle) if cycle >= begin else None
        current, issue, causes = number, False, {"drain"}
        if number < len(order):
            phase, index = order[number]
            tile = program.tiles[index]
            causes.add("fill")
            if issued_before:
                causes.add("shallow")
            if phase == "A":
                gate = rpu.ready(tile.pixel + tile.pixels - 1 - origin, cycle)
                if not gate and cycle >= begin:
                    causes.add("rpu")
                # Once a unit has begun it goes on.
                issue = cycle >= begin and gate and loaded > taken
            elif cycle >= begin:
                if not scheme.dense and selected_at[index] > cycle:
                    causes.add("select")
                elif over < len(published) and published[over][0] == index:
                    if filled > left_units:
                        issue = True
                    else:
                        causes.add("xbank")
                else:
                    causes.add("scan")
        # Row loader: waits for the exact steps before.
        load_done = False
        if cycle >= begin and loaded < len(loads) and loaded - ended < 2:
            step = loads[loaded][0]
            if all(phase == "A" or n < number for n, (phase, _) in enumerate(order[:step])):
                loading += 1
                load_done = loading == 4
        # Window: x words of the next beat of the oldest pass that needs them.
        fill_done = False
        if filled // beats < len(published) and filled - left_units < 2:
            pairs_of = published[filled // beats][1]
            filling += 1
            needed = len({pixel for pairs in pairs_of for _, pixel in pairs})
            fill_done = filling == needed
        tally.count(issue, causes)
        if load_done:
            loaded, loading = loaded + 1, 0
        if fill_done:
            filled, filling = filled + 1, 0
        if issue:
            issued_before = True
            spans.setdefault(number, [cycle, cycle])[1] = cycle
            slot += 1
            if phase == "A":
                if slot == tile.pixels:
                    slot, ended, taken, unit = 0, ended + 1, taken + 1, unit + 1
                    if unit == rows * program.approximate_beats:
                        unit = 0
                        selected_at[index] = cycle + contract.to_mask
                        if tile.last_of_block and part.releases:
                            rpu.freed = tile.pixel + tile.pixels - origin
                        number += 1
            else:
                if slot == max(map(len, published[over][1])):
                    slot, left_units = 0, left_units + 1
                    over += left_units % beats == 0
        if found:
            published.append(found)
        # An exact step is over when the scanner is through and every pass has issued.
        if current < len(order) and order[current][0] == "E" and cycle >= begin:
            index = order[current][1]
            mine = [n for n, (tile_of, _) in enumerate(published) if tile_of == index]
            if index in through and all(n < over for n in mine):
                if number in spans:
                    spans[number][1] = cycle
                number += 1
        if number > current:
            last_end = cycle
        if number == len(order) and tally.cycle >= last_end + contract.drain:
            break
    steps = [(*order[n], *spans.get(n, [-1, -1])) for n in range(len(order))]
    return Stepped(tally.cycle, tally.busy, tally.stalls, steps)


@pytest.fixture(scope="session")
def stepped():
    """Step one part of a program: (program, part, mask, contract) to `Stepped`."""

    def step(program, part, mask, contract, room):
        kind = step_unstructured if program.machine.unstructured else step_structured
        return kind(program, part, mask, contract, room)

    return step


@pytest.fixture(scope="session")
def stepped_rpu():
    return SteppedRpu


@pytest.fixture(scope="session")
def layer_of():
    """A layer with round numbers, and what is said of it changed."""

    def layer(**changes):
        base = dict(
            name="l", c_in=8, c_out=16, kernel=3, stride=1, padding=1, h_in=4, w_in=4, k=64,
            projection_nonzeros=100,
        )  # fmt: skip
        return Layer(**(base | changes))

    return layer


@pytest.fixture(scope="session")
def layers(layer_of):
    """Strategy: layers small enough to be stepped."""

    @st.composite
    def made(draw, side=9, channels=40, depth=20):
        kernel = draw(st.sampled_from([1, 2, 3]))
        projection = draw(st.sampled_from(["patch", "tap"]))
        taps = kernel**2
        k = draw(st.one_of(st.integers(1, 200), st.integers(1, 12)))
        if projection == "tap":
            k = draw(st.integers(1, 4)) * 4 * taps
        return layer_of(
            c_in=draw(st.integers(1, depth)),
            c_out=draw(st.integers(1, channels)),
            kernel=kernel,
            stride=draw(st.sampled_from([1, 2])),
            padding=draw(st.sampled_from([0, kernel // 2])),
            h_in=draw(st.integers(kernel, side)),
            w_in=draw(st.integers(kernel, side)),
            k=k,
            projection=projection,
            residual=draw(st.booleans()),
            joined=draw(st.sampled_from(["", "stage"])),
        )

    return made
