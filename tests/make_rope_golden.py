#!/usr/bin/env python3
"""Make golden frequencies of the encodings that Hugging Face transformers has, too.

Usage: make_rope_golden.py [OUTPUT]      needs: pip install torch transformers (5.x)

Each case is computed by transformers' own functions (modeling_rope_utils.ROPE_INIT_FUNCTIONS, and
the default of Llama), in float32 as they are, and written to rope_golden.h as: the encoding in the
words of --rope, the size of a head, the context length of the model, which lists of divisors
(below), the number of pairs, the attention factor (a Python float, in hexadecimal), the sum of
ln inv_freq over all pairs whose frequency is not 0, and the frequencies of SHOWN pairs, evenly
spread, as bits.

Lists of longrope, exact in binary, for pair j of P: 1: short 1 + j / 64, long 1 + 3 j / 8;
2: all 1; 3: short 1, long 4.
"""

import itertools
import logging
import math
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

SHOWN = 8
logging.disable(logging.WARNING)  # about factors that do not fit the lengths: some are meant


def number(x):
    return repr(int(x)) if float(x).is_integer() else repr(float(x))


def lists(which, pairs):
    """The short and the long list of longrope."""
    short = [1 + j / 64 for j in range(pairs)]
    long = [1 + 3 * j / 8 for j in range(pairs)]
    ones = [1.0] * pairs
    return {1: (short, long), 2: (ones, ones), 3: (ones, [4.0] * pairs)}[which]


class Case:
    """One setting, as Hugging Face's configuration has it."""

    def __init__(self, kind, head_dim, base, context=2048, partial=None, tokens=None, which=0,
                 **keys):
        self.kind, self.head_dim, self.base, self.context = kind, head_dim, base, context
        self.partial, self.tokens, self.which, self.keys = partial, tokens, which, keys

    def spec(self):
        """The same for --rope."""
        words = {"original_max_position_embeddings": "original", "low_freq_factor": "low",
                 "high_freq_factor": "high"}
        out = ["base=" + number(self.base)]
        if self.partial is not None and self.kind == "proportional":
            out.append("fraction=" + number(self.partial))
        elif self.partial is not None:
            out.append(f"n_rot={int(self.head_dim * self.partial)}")
        for key, value in self.keys.items():
            if isinstance(value, bool):
                out.append(f"{key}={'yes' if value else 'no'}")
            elif value is not None:
                out.append(f"{words.get(key, key)}={number(value)}")
        if self.tokens:
            out.append(f"length={self.tokens}")
        return {"default": "plain"}.get(self.kind, self.kind) + ":" + ",".join(out)

    def compute(self):
        """inv_freq, a float32 tensor, and the attention factor."""
        parameters = {"rope_type": self.kind, "rope_theta": float(self.base), **self.keys}
        if parameters.get("truncate", True) is None:  # to transformers, null is no, absent is yes
            del parameters["truncate"]
        if self.partial is not None:
            parameters["partial_rotary_factor"] = self.partial
        if self.which:
            pairs = int(self.head_dim * (self.partial or 1)) // 2
            parameters["short_factor"], parameters["long_factor"] = lists(self.which, pairs)
        config = LlamaConfig(hidden_size=4 * self.head_dim, num_attention_heads=4,
                             head_dim=self.head_dim, max_position_embeddings=self.context,
                             rope_parameters=parameters)
        if self.kind == "default":
            return LlamaRotaryEmbedding.compute_default_rope_parameters(config)
        return ROPE_INIT_FUNCTIONS[self.kind](config, "cpu", seq_len=self.tokens)


def plain_cases():
    for head_dim, base in itertools.product((32, 64, 80, 128, 256), (1e4, 1.5e5, 5e5, 1e6)):
        yield Case("default", head_dim, base)
    for head_dim, base, factor in itertools.product((64, 128), (1e4, 1e6), (1.0, 2.0, 2.5, 8.0)):
        yield Case("linear", head_dim, base, factor=factor)
    for head_dim, base, partial, factor in itertools.product((64, 256, 512), (1e4, 1e6),
                                                             (0.0, 0.25, 0.3, 1.0), (1.0, 8.0)):
        yield Case("proportional", head_dim, base, partial=partial, factor=factor)


def dynamic_cases():
    for (head_dim, partial), base, factor in itertools.product(
            ((64, None), (128, None), (80, 0.4)), (1e4, 1e6), (1.0, 2.0, 4.0)):
        for context, tokens in ((2048, 100), (2048, 2049), (2048, 7777), (4096, 16384)):
            yield Case("dynamic", head_dim, base, context, partial, tokens, factor=factor)


SHAPES = ((64, 1.5e5, 4096, None), (128, 1e6, 32768, None), (128, 1e4, 4096, None),
          (64, 5e5, 8192, None), (96, 1e4, 2048, None), (128, 1e4, 4096, 0.5))


def yarn_cases():
    for (d, b, n, partial), factor, truncate in itertools.product(
            SHAPES, (1.0, 2.0, 4.0, 32.0, None), (None, True, False)):
        yield Case("yarn", d, b, 16 * n, partial, factor=factor, truncate=truncate,
                   original_max_position_embeddings=n)
    for (d, b, n, partial), fast, slow in itertools.product(
            SHAPES[:3], (32.0, 16.0, 100.0), (1.0, 2.0)):
        yield Case("yarn", d, b, n, partial, factor=8.0, beta_fast=fast, beta_slow=slow,
                   original_max_position_embeddings=n)
    for factor, keys in itertools.product((1.0, 4.0, 40.0), (
            {"attention_factor": 1.0}, {"attention_factor": 0.7},
            {"mscale": 1.0, "mscale_all_dim": 1.0}, {"mscale": 0.707, "mscale_all_dim": 1.0},
            {"mscale": 1.0, "mscale_all_dim": 0.707}, {"mscale": 0.707},
            {"mscale": 0.0, "mscale_all_dim": 1.0},
            {"attention_factor": 1.2, "mscale": 1.0, "mscale_all_dim": 0.5})):
        yield Case("yarn", 64, 1e4, 163840, factor=factor, original_max_position_embeddings=4096,
                   **keys)


def longrope_cases():
    for (head_dim, partial), which, tokens in itertools.product(
            ((96, None), (128, 0.75)), (1, 2, 3), (4095, 4096, 4097, 131072)):
        yield Case("longrope", head_dim, 1e4, 131072, partial, tokens, which,
                   original_max_position_embeddings=4096)
    for keys in ({"factor": 32.0}, {"factor": 1.0}, {"factor": 0.5}, {"factor": 8.0},
                 {"attention_factor": 1.25}, {"factor": 4.0, "attention_factor": 1.0}):
        yield Case("longrope", 96, 1e4, 131072, None, 5000, 1,
                   original_max_position_embeddings=4096, **keys)


def llama3_cases():
    for head_dim, base, factor, (low, high), n in itertools.product(
            (64, 128), (1e4, 5e5), (1.0, 8.0, 32.0), ((1.0, 4.0), (2.0, 5.0)), (2048, 8192)):
        yield Case("llama3", head_dim, base, 131072, factor=factor, low_freq_factor=low,
                   high_freq_factor=high, original_max_position_embeddings=n)


def row(case):
    freq, factor = case.compute()
    assert freq.dtype == torch.float32
    pairs, logs = len(freq), [math.log(w) for w in freq.tolist() if w > 0]
    bits = freq.view(torch.int32).tolist()
    shown = ",".join(f"0x{bits[k * (pairs - 1) // (SHOWN - 1)]:08x}" for k in range(SHOWN))
    factor = "1" if factor == 1 else float(factor).hex()
    return [f'{{"{case.spec()}",',
            f" {case.head_dim},{case.context},{case.which},{pairs},{factor},{math.fsum(logs):.9g},",
            f" {{{shown}}}}},"]


HEAD = """\
/* Made by make_rope_golden.py with Hugging Face transformers; do not edit. What each number is
   stands there. */
#ifndef ROPE_GOLDEN_H
#define ROPE_GOLDEN_H

#include <stdint.h>

/* clang-format off */
enum { ROPE_GOLDEN_SHOWN = %d };
static const struct rope_golden {
  const char *spec;
  int head_dim, n_ctx, lists, n_pairs;
  double amplitude, log_sum;
  uint32_t freq[ROPE_GOLDEN_SHOWN]; /* pairs k (n_pairs - 1) / (ROPE_GOLDEN_SHOWN - 1) */
} rope_golden[] = {""" % SHOWN


def main():
    out = [HEAD]
    for cases in (plain_cases, dynamic_cases, yarn_cases, longrope_cases, llama3_cases):
        for case in cases():
            out += row(case)
    out += ["};", "/* clang-format on */", "", "#endif", ""]
    assert max(map(len, "\n".join(out).splitlines())) <= 100
    path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "rope_golden.h")
    path.write_text("\n".join(out))


if __name__ == "__main__":
    main()
