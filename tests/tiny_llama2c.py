#!/usr/bin/env python3
"""The random model of tiny_llama.py as llama2.c lays it out: tiny_llama2c.py SEED FOLDER writes
v0.bin and v1.bin (the same weights), tokenizer.bin, ids, and golden.json with the logits."""

import json
import struct
import sys
from pathlib import Path

from tiny_llama import TINY, golden_logits, tiny_weights

KINDS = ("attn_q", "attn_k", "attn_v", "attn_output")
IDS = [1, 7, 42, 259, 3, 100]


def flat(weights, *names) -> bytes:
    """F32 values of the tensors of these names, one after the other."""
    numbers = [x for name in names for row in [weights[name + ".weight"]]
               for part in (row if isinstance(row[0], list) else [row]) for x in part]
    return struct.pack(f"<{len(numbers)}f", *numbers)


def every(weights, *kinds) -> bytes:
    return b"".join(flat(weights, *(f"blk.{l}.{kind}" for l in range(TINY.n_layer)))
                    for kind in kinds)


def main():
    seed, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    c, w = TINY, tiny_weights(TINY, seed, "F32")
    sizes = [c.d_model, c.d_ff, c.n_layer, c.n_head, c.n_kv]
    ffn, table = every(w, "ffn_gate", "ffn_down", "ffn_up"), bytes(4 * c.n_ctx * c.d_head)
    (folder / "v0.bin").write_bytes(
        struct.pack("<7i", *sizes, -c.n_vocab, c.n_ctx) + flat(w, "token_embd") +
        every(w, "attn_norm", *KINDS, "ffn_norm") + ffn + flat(w, "output_norm") + table +
        flat(w, "output"))
    head = struct.pack("<Ii7iB", 0x616b3432, 1, *sizes, c.n_vocab, c.n_ctx, 0)
    (folder / "v1.bin").write_bytes(
        head + bytes(256 - len(head)) + every(w, "attn_norm", "ffn_norm") +
        flat(w, "output_norm", "token_embd") + every(w, *KINDS) + ffn + flat(w, "output"))
    tokens = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{b:02X}>" for b in range(256)), " a"]
    packed = [struct.pack("<fi", -i, len(t)) + t.encode() for i, t in enumerate(tokens)]
    (folder / "tokenizer.bin").write_bytes(struct.pack("<i", 7) + b"".join(packed))
    (folder / "ids").write_text(" ".join(map(str, IDS)))
    (folder / "golden.json").write_text(json.dumps({"logits": golden_logits(c, w, IDS)}))


if __name__ == "__main__":
    sys.exit(main())
