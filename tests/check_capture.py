"""A capture of one window, recomputed with numpy and held against the JSON of the same run.

    check_capture.py CAPTURE.safetensors READING.json

Every chosen layer: rotation (before -> after), attention (after -> pattern), and of each head the
mean radii, concentrations, phi and alpha_1. The safetensors package has to read the file, too,
where it is installed. Needs numpy.
"""
import json
import struct
import sys

import numpy as np

failed = 0


def check(what, got, want, tolerance):
    global failed
    got, want = np.asarray(got, float), np.asarray(want, float)
    if got.shape == want.shape and np.all(np.abs(got - want) <= tolerance * (1 + np.abs(want))):
        return
    failed += 1
    worst = np.abs(got - want).max() if got.shape == want.shape else (got.shape, want.shape)
    print(f"failed: {what}: {worst} > {tolerance}")


def read(path):
    """The tensors and the metadata, from the bytes."""
    data = open(path, "rb").read()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    made = header.pop("__metadata__")
    tensors = {}
    for name, t in header.items():
        begin, end = t["data_offsets"]
        assert t["dtype"] == "F32", name
        tensors[name] = np.frombuffer(data[8 + n + begin : 8 + n + end], "<f4").reshape(t["shape"])
    assert list(tensors) == sorted(tensors), "names are sorted"
    assert (8 + n) % 8 == 0, "values are aligned"
    return tensors, made


def as_complex(x, n_pairs):  # [T, H, D], half-split
    x = x.astype(float)
    return x[..., :n_pairs] + 1j * x[..., n_pairs : 2 * n_pairs]


def check_layer(layer, tensors, rope, reading):
    def hook(name):
        return tensors[f"blocks.{layer}.attn.hook_{name}"]

    theta, n_pairs = np.array(rope["theta"]), rope["n_pairs"]
    positions = np.arange(len(hook("q")))
    turn = rope["amplitude"] * np.exp(1j * positions[:, None] * theta)[:, None, :]
    z = {name: as_complex(hook(name), n_pairs) for name in ("q", "k", "rot_q", "rot_k")}
    for name in "qk":
        check(f"layer {layer}: rotated {name}", abs(z["rot_" + name] - z[name] * turn), 0 * abs(z[name]), 1e-4)
    heads = hook("q").shape[1]
    group = heads // hook("k").shape[1]
    k = np.repeat(hook("rot_k").astype(float), group, axis=1)
    scores = np.einsum("mhd,nhd->hmn", hook("rot_q").astype(float), k) / np.sqrt(k.shape[-1])
    scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    check(f"layer {layer}: pattern", hook("pattern"), weights, 1e-5)
    for h in range(heads):
        of, q, key = reading["heads"][h], z["q"][1:, h], z["k"][1:, h // group]
        label = f"layer {layer}, head {h}: "
        check(label + "r_q", of["r_q"], abs(q).mean(0), 1e-5)
        check(label + "r_k", of["r_k"], abs(key).mean(0), 1e-5)
        check(label + "R_q", of["R_q"], abs(q.sum(0)) / abs(q).sum(0), 1e-5)
        check(label + "R_k", of["R_k"], abs(key.sum(0)) / abs(key).sum(0), 1e-5)
        phi = np.angle(q.mean(0) * key.mean(0).conj())
        check(label + "phi", np.sin((np.array(of["phi"]) - phi) / 2), 0 * phi, 1e-3)
        check(label + "alpha_1", of["alpha_1"], weights[h, :, 0].mean(), 1e-5)
    return heads


def main(capture, reading):
    tensors, made = read(capture)
    reading = json.load(open(reading))
    layers = sorted({int(name.split(".")[1]) for name in tensors})
    heads = 0
    for layer in layers:
        y = reading["layers"][layer]
        heads += check_layer(layer, tensors, reading["ropes"][y["rope"]], y)
    assert made["model_sha256"] == reading["provenance"]["model_sha256"]
    try:
        from safetensors import safe_open
    except ImportError:
        print("skipped: the capture in the safetensors package: it is not installed")
    else:
        with safe_open(capture, "np") as f:
            assert sorted(f.keys()) == sorted(tensors) and f.metadata() == made
            for name in f.keys():
                assert np.array_equal(f.get_tensor(name), tensors[name]), name
    print(f"{heads} heads of {len(layers)} layers, {failed} failed")
    return 1 if failed or not heads else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
