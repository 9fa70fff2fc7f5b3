#!/usr/bin/env python3
"""Random weights of an encoding as a GGUF file, for --rope KIND:file=OUT. Standard library only.

    make_rope_weights.py KIND OUT LAYERS EMBD HEADS KV_HEADS HEAD_DIM [SEED]

KIND: comrope, comrope-ld, lie (blocks of 8 values), selective, path, path-fox, at the default settings
of `ropescope rope KIND`, which also says what each tensor is. A tensor here is (name, shape, deviation);
the first number of a shape is the length of a row, as in GGUF."""
import random
import struct
import sys


def tensors(kind, E, H, K, D):
    e, P = E ** -0.5, D // 2
    ld, fox = kind == "comrope-ld", kind == "path-fox"
    blocks = D // 8
    if kind in ("comrope", "comrope-ld"):
        yield "rope_comrope.weight", (8, 8 * blocks * K), 0.2
        if ld:
            yield "rope_comrope.theta", (blocks, K), 0.5
    elif kind == "lie":
        yield "rope_lie.weight", (8, 8 * blocks * K), 0.3
    elif kind == "selective":
        yield "rope_selective.phi.weight", (E, 16), e
        yield "rope_selective.phi_up.weight", (16, K * P), 0.25
        yield "rope_selective.conv.weight", (4, K * P), 0.5
        yield "rope_selective.bias", (P, K), 0.3
    elif kind in ("path", "path-fox"):
        yield "rope_path.w.weight", (E, K * D), e
        yield "rope_path.conv.weight", (3, K * D), 0.5
        yield "rope_path.beta.weight", (E, K), e
        if fox:
            yield "rope_path.forget.weight", (E, H), e
        yield "rope_path.bias", (K + H * fox,), 1.0
    else:
        sys.exit(__doc__)


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def main(kind, out, layers, embd, heads, kv_heads, head_dim, seed="1"):
    random.seed(int(seed))
    infos, data, n = b"", b"", 0
    for layer in range(int(layers)):
        for name, shape, size in tensors(kind, int(embd), int(heads), int(kv_heads), int(head_dim)):
            count = shape[0] * (shape[1] if len(shape) > 1 else 1)
            infos += text(f"blk.{layer}.{name}") + struct.pack("<I", len(shape))
            infos += struct.pack(f"<{len(shape)}QIQ", *shape, 0, len(data))  # type 0: F32
            data += struct.pack(f"<{count}f", *(random.gauss(0, size) for _ in range(count)))
            data += bytes(-len(data) % 32)
            n += 1
    head = b"GGUF" + struct.pack("<IQQ", 3, n, 0) + infos
    with open(out, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + data)


if __name__ == "__main__":
    if len(sys.argv) not in (8, 9):
        sys.exit(__doc__)
    main(*sys.argv[1:])
