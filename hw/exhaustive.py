# amaranth: UnusedElaboratable=no
"""Every pair of 16-bit operands through the gates of the PSE, compared with the product.

Run with ``python -m sinai.hw.exhaustive``: the PSE is turned into gates (yosys), the gates into
C++, and all 2**32 pairs are compared with what the processor multiplies. Meanwhile the 48 bits of
each operand that 16-bit mode ignores carry noise. Exit code 0 if all agree, 1 if not, 3 if yosys or
a C++ compiler is missing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..common.errors import CheckError, MissingError, SinaiError
from .netlist import Netlist, evaluator, synthesise
from .pse import PSE, Precision

__all__ = ["Comparison", "compare", "compiler", "main"]

#: Values of a 16-bit operand.
_VALUES = 1 << 16

#: A vector holds 256 cases, one x against 256 consecutive w: case 32 e + l in bit l of element e.
_HARNESS = """
#include <cstdint>

typedef uint32_t V __attribute__((vector_size(32)));

%(evaluator)s

static inline V all(bool bit) { return bit ? ~V{} : V{}; }

// Rows of numbers to bit planes: bit k of rows[l] goes to bit l of rows[k].
static inline void transpose(V rows[32]) {
  uint32_t mask = 0x0000ffff;
  for (int step = 16; step; step >>= 1, mask ^= mask << step)
    for (int k = 0; k < 32; k = ((k | step) + 1) & ~step) {
      V swap = ((rows[k] >> step) ^ rows[k | step]) & mask;
      rows[k | step] ^= swap;
      rows[k] ^= swap << step;
    }
}

// Compare all pairs of x in [first, last) with 65536 values of w; return how many differ.
extern "C" int64_t compare(uint32_t first, uint32_t last, int32_t wrong[2]) {
  static const V element = {0, 1, 2, 3, 4, 5, 6, 7};
  static const uint32_t lane[5] = {0xaaaaaaaa, 0xcccccccc, 0xf0f0f0f0, 0xff00ff00, 0xffff0000};
  int64_t differing = 0;
  V noise = element * 0x9e3779b9u + 1u;
  Pins pins;
  pins.valid[0] = all(true);
  pins.rst[0] = all(false);
  pins.mode[0] = all(%(mode)d);
  for (uint32_t x = first; x < last; ++x) {
    for (int k = 0; k < 64; ++k) {
      noise ^= noise << 13, noise ^= noise >> 17, noise ^= noise << 5;
      pins.x[k] = k < 16 ? all(x >> k & 1) : noise;
      pins.w[k] = noise ^ (noise >> 7);
    }
    for (uint32_t base = 0; base < 65536; base += 256) {
      for (int k = 0; k < 5; ++k) pins.w[k] = V{} + lane[k];
      for (int k = 5; k < 8; ++k) pins.w[k] = -((element >> (k - 5)) & 1u);
      for (int k = 8; k < 16; ++k) pins.w[k] = all(base >> k & 1);
      V differs = settle(pins) | ~pins.o_valid[0];
      V product[32];
      for (uint32_t l = 0; l < 32; ++l)
        product[l] = (uint32_t)(int16_t)x * ((uint32_t)(int16_t)base + 32 * element + l);
      transpose(product);
      for (int k = 0; k < 32; ++k) differs |= product[k] ^ pins.sum[k];
      for (int e = 0; e < 8; ++e) {
        if (differs[e] && !differing) {
          wrong[0] = (int16_t)x;
          wrong[1] = (int16_t)(base + 32 * e + __builtin_ctz(differs[e]));
        }
        differing += __builtin_popcount(differs[e]);
      }
    }
  }
  return differing;
}
"""


@dataclass(frozen=True)
class Comparison:
    """What was compared: pairs, how many differed, and the first that did as (x, w)."""

    pairs: int
    differing: int
    first: tuple[int, int] | None


def compiler() -> str | None:
    """The C++ compiler: $CXX, else the first of c++, g++ and clang++ on the path, else None."""
    named = os.environ.get("CXX")
    return named or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def compare(
    netlist: Netlist,
    ranges: Iterable[range],
    *,
    progress: Callable[[Iterable[range]], Iterable[range]] = iter,
) -> Comparison:
    """Compare a PSE's gates with the product, for x in each of `ranges` and every w.

    Parameters
    ----------
    netlist : Netlist
        Of a PSE.
    ranges : iterable of range
        Steps of 1, within 0 to 65536: x as a 16-bit pattern, so 32768 stands for -32768.
    progress : callable
        Wraps the ranges, to show how far the comparison is.

    Raises
    ------
    MissingError
        If there is no C++ compiler, or it fails.
    """
    command = compiler()
    if command is None:
        raise MissingError("The comparison needs a C++ compiler; install g++ or set CXX")
    pairs = differing = 0
    first = None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "compare.cpp"), Path(folder, "compare.so")
        source.write_text(
            _HARNESS % {"evaluator": evaluator(netlist), "mode": Precision.INT16.value},
            encoding="utf-8",
        )
        options = ["-O2", "-march=native", "-Wno-psabi", "-shared", "-fPIC"]
        built = subprocess.run(
            [command, *options, "-o", str(library), str(source)], capture_output=True, text=True
        )
        if built.returncode:
            reason = built.stderr.strip().splitlines()[:1]
            raise MissingError(f"{command} cannot compile the comparison: {' '.join(reason)}")
        function = ctypes.CDLL(str(library)).compare
        function.restype = ctypes.c_int64
        wrong = (ctypes.c_int32 * 2)()
        for values in progress(ranges):
            count = function(values.start, values.stop, wrong)
            if count and first is None:
                first = (wrong[0], wrong[1])
            differing += count
            pairs += len(values) * _VALUES
    return Comparison(pairs, differing, first)


def main() -> int:
    """Compare all pairs; print the result; return the exit code."""
    start = time.perf_counter()
    step = 256
    ranges = [range(x, x + step) for x in range(0, _VALUES, step)]
    try:
        netlist = synthesise(PSE())
        found = compare(
            netlist, ranges, progress=lambda steps: tqdm(steps, unit="x", unit_scale=step)
        )
        if found.first:
            raise CheckError(
                f"{found.differing:,} of {found.pairs:,} operand pairs differ from the product,"
                f" first {found.first[0]} * {found.first[1]}"
            )
    except SinaiError as error:
        print(f"sinai: {error}", file=sys.stderr)
        return error.exit_code
    print(
        f"{found.pairs:,} operand pairs through {len(netlist.gates):,} gates of the PSE: all equal"
        f" the product, {time.perf_counter() - start:.0f} s"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
