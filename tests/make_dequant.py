#!/usr/bin/env python3
"""Make golden vectors for the dequantization of GGUF block types.

For each type, blocks of pseudo-random bytes are decoded by an independent implementation, the
`gguf` package (gguf-py, part of llama.cpp), and the bytes are stored next to the floats:

    dequant_golden.h   a C header: the bytes, and the floats as IEEE binary32 bit patterns
    dequant.npz        the same cases with more blocks: arrays <TYPE>_raw (uint8), <TYPE>_f32

Usage: make_dequant.py [OUTPUT_DIRECTORY]      needs: pip install numpy gguf

The bytes come from splitmix64, seeded per type, so the output depends on neither the machine nor
the version of numpy.  All bytes of a block are random except its float16 scales, which are finite
with magnitude 0.001 to 0.1 and a random sign (a random float16 may be NaN or infinite).  F16 and
BF16 have no scale: their elements are edge cases followed by finite random values.

A decoder should reproduce the floats bit for bit.  In every type the products of scale, sub-scale
and quant fit the 24-bit significand of a float, hence are exact in any order, and at most one
rounding (the addition of the minimum) follows; fused multiply-add changes nothing.  Only the sign
of a zero may depend on the order of the multiplications: compare zeros without it.
"""

import sys
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Type name: byte offsets of the float16 scales (and minimums) in a block; None: not a block type.
TYPES = {
    "F16": None,
    "BF16": None,
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}

# Zeros, extreme subnormals, smallest and largest normals, one, and a value next to one.
EDGES = {
    "F16": (0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0xFBFF, 0x3C00, 0xBC01),
    "BF16": (0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0xFF7F, 0x3F80, 0xBF81),
}

NPZ_ELEMENTS = 512  # per type: two blocks of 256, or sixteen of 32
HEADER_ELEMENTS = {1: 32, 32: 64, 256: 256}  # per type, by block size


class SplitMix64:
    """Sebastiano Vigna's splitmix64 generator."""

    MASK = (1 << 64) - 1

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & self.MASK
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & self.MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & self.MASK
        return z ^ (z >> 31)

    def bytes(self, n):
        words = (self.next().to_bytes(8, "little") for _ in range((n + 7) // 8))
        return bytearray(b"".join(words)[:n])


def random_halves(name, n, rng):
    """n 16-bit floats: the edge cases, then finite random bit patterns."""
    exponent = {"F16": 0x7C00, "BF16": 0x7F80}[name]
    out = list(EDGES[name])
    while len(out) < n:
        bits = rng.next() & 0xFFFF
        if bits & exponent != exponent:  # neither infinity nor NaN
            out.append(bits)
    return np.array(out, dtype="<u2").view(np.uint8)


def random_blocks(n_blocks, block_bytes, scales, rng):
    """Random blocks with a sane float16 at each of the byte offsets `scales`."""
    out = bytearray()
    for _ in range(n_blocks):
        block = rng.bytes(block_bytes)
        for at in scales:
            unit = (rng.next() >> 11) / 2.0**53
            sign = 1 if rng.next() & 1 else -1
            value = np.array(sign * (0.001 + 0.099 * unit), dtype="<f2")
            block[at : at + 2] = value.tobytes()
        out += block
    return np.frombuffer(bytes(out), dtype=np.uint8)


def make_case(name, index):
    """The bytes and the floats of NPZ_ELEMENTS elements of one type."""
    rng = SplitMix64(0x726F7065 + index)
    qtype = GGMLQuantizationType[name]
    block, block_bytes = GGML_QUANT_SIZES[qtype]
    if TYPES[name] is None:
        raw = random_halves(name, NPZ_ELEMENTS, rng)
    else:
        raw = random_blocks(NPZ_ELEMENTS // block, block_bytes, TYPES[name], rng)
    with np.errstate(all="raise"):
        floats = dequantize(raw.reshape(1, -1), qtype).astype("<f4").reshape(-1)
    assert floats.size == NPZ_ELEMENTS and np.isfinite(floats).all()
    return raw, floats


def c_array(declaration, values, width):
    """A C array of hexadecimal constants in lines of at most 100 columns."""
    items = [f"0x{int(v):0{width}x}," for v in values]
    per_line = 98 // (width + 3)
    lines = ["  " + "".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return [declaration + " = {"] + lines + ["};"]


def header(cases):
    out = [
        "/* Made by make_dequant.py with gguf-py; do not edit.  Blocks of pseudo-random bytes and the",
        "   floats (as bit patterns) that they decode to. */",
        "#ifndef DEQUANT_GOLDEN_H",
        "#define DEQUANT_GOLDEN_H",
        "",
        "#include <stdint.h>",
        "",
        "/* clang-format off */",
    ]
    table = []
    for name, (raw, floats) in cases.items():
        qtype = GGMLQuantizationType[name]
        block, block_bytes = GGML_QUANT_SIZES[qtype]
        n = HEADER_ELEMENTS[block]
        size = n // block * block_bytes
        low = name.lower()
        out += c_array(f"static const uint8_t golden_{low}_raw[{size}]", raw[:size], 2)
        bits = floats[:n].view("<u4")
        out += c_array(f"static const uint32_t golden_{low}_f32[{n}]", bits, 8)
        table.append(f'  {{"{name}", {int(qtype)}, {size}, {n}, golden_{low}_raw, golden_{low}_f32}},')
    out += [
        "",
        "static const struct dequant_golden {",
        "  const char *name;",
        "  int type; /* GGUF tensor type id */",
        "  int n_bytes, n_elements;",
        "  const uint8_t *raw;",
        "  const uint32_t *f32;",
        "} dequant_golden[] = {",
        *table,
        "};",
        "/* clang-format on */",
        "",
        "#endif",
    ]
    assert max(map(len, out)) <= 100
    return "\n".join(out) + "\n"


def main():
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    cases = {name: make_case(name, i) for i, name in enumerate(TYPES)}
    (directory / "dequant_golden.h").write_text(header(cases))
    arrays = {}
    for name, (raw, floats) in cases.items():
        arrays[f"{name}_raw"] = raw
        arrays[f"{name}_f32"] = floats
    np.savez_compressed(directory / "dequant.npz", **arrays)


if __name__ == "__main__":
    main()
