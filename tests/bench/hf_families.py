#!/usr/bin/env python3
"""What `ropescope analyze` says of models of every family, against Hugging Face transformers.

    python3 tests/make_miniatures.py -o mini --keep hf
    python3 tests/bench/hf_families.py hf/* --models mini

For each folder (config.json and weights) and its NAME.gguf: the same tokens in the same windows,
queries and keys as transformers turns them and as its eager attention multiplies them, in float32;
from these, in double, per layer, head and rotary pair: mean and largest radii, phi, the parts of
the logit of the first token; per head: what the values that do not turn add to it, alpha_1 over the
queries that see the first token, entropy; and per pair x = theta P, with theta the angle between
positions 0 and 1, and P the context (before it was extended), or the window where that is less.
Prints the largest difference of each, relative to the largest value (x: each to its own; phi: in
radians; alpha_1 and entropy: as they are), and at the end the worst; ends with status 1 if one is
above the tolerance. Needs torch and transformers.

Of phi3's two lists of frequencies transformers takes one for a whole text, this program the one of
the length so far: windows are of 30 tokens, as these part at 32; and x, which is that of the short
list, is not compared where transformers has taken the long one.
"""
import argparse
import importlib
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

# Both sides are float32 and sum in other orders: 1e-6 of each value, more where values cancel. A
# direction is as good as its mean vector is long beside its radii: phi is compared where both R are
# above 0.1.
TOLERANCE = 5e-5
TEXT = "The quick brown fox jumps over the lazy dog; 123 of 4567 <words> (or so) {were} lost. " * 2


class Watch:
    """q, k before and after rotation, and what attention takes and makes, layer by layer."""

    def __init__(self, model):
        self.code = importlib.import_module(type(model).__module__)
        self.adjacent = model.config.model_type == "gptj"
        self.rotated, self.attended, self.angles = [], [], []
        rotate = self.code.apply_rotary_pos_emb
        if self.adjacent:
            def one(x, sin, cos):
                y = rotate(x, sin, cos)  # keys come first: [batch, token, head, value]
                self.rotated.append([v.transpose(1, 2) for v in (x, y)] + [2 * cos.shape[-1]])
                if len(self.rotated) % 2:
                    self.angles.append(torch.atan2(sin[0, 1].double(), cos[0, 1].double()))
                return y
            self.code.apply_rotary_pos_emb = one
            attend = self.code.GPTJAttention._attn

            def attn(module, query, key, value, *rest, **named):
                out = attend(module, query, key, value, *rest, **named)
                self.attended.append((query, key, out[1], 1 / float(module.scale_attn)))
                return out
            self.code.GPTJAttention._attn = attn
            return

        def both(q, k, cos, sin, *rest, **named):
            y = rotate(q, k, cos, sin, *rest, **named)
            self.rotated += [[k, y[1], cos.shape[-1]], [q, y[0], cos.shape[-1]]]
            half = cos.shape[-1] // 2
            self.angles.append(torch.atan2(sin[0, 1, :half].double(), cos[0, 1, :half].double()))
            return y
        self.code.apply_rotary_pos_emb = both
        attend_eager = self.code.eager_attention_forward

        def eager(module, query, key, *rest, **named):
            out = attend_eager(module, query, key, *rest, **named)
            scale = named.get("scaling") or query.shape[-1] ** -0.5
            self.attended.append((query, key, out[1], scale))
            return out
        self.code.eager_attention_forward = eager

    def pairs(self, x, n):
        """Complex numbers [head, token, pair], and the values that do not turn."""
        x = x[0].double().numpy()
        a, b = (x[..., 0:n:2], x[..., 1:n:2]) if self.adjacent else (x[..., :n // 2],
                                                                    x[..., n // 2:n])
        return a + 1j * b, x[..., n:]


def layers_of(watch, n_layers, turns):
    """Per layer: z before, z after, rest, of k and of q; weights; scale."""
    out, rotated = [], iter(watch.rotated)
    for l in range(n_layers):
        q, k, weights, scale = watch.attended[l]
        sides = []
        for x in (k, q):
            before = next(rotated) if turns[l] else [x, x, x.shape[-1]]
            n = before[2]
            z, _ = watch.pairs(before[0], n)
            after, rest = watch.pairs(x, n)
            sides.append((z, after, rest))
        out.append((*sides, weights[0].double().numpy(), scale))
    return out


def add(total, key, value):
    total[key] = total.get(key, 0) + value


def window(total, l, layer):
    (kz, k_after, k_rest), (qz, q_after, q_rest), a, scale = layer
    group = len(qz) // len(kz)
    for name, z in (("k", kz), ("q", qz)):
        r = np.abs(z)
        add(total, (l, name, "n"), r.shape[1] - 1)
        add(total, (l, name, "r"), r[:, 1:].sum(1))
        add(total, (l, name, "z"), z[:, 1:].sum(1))
        total[l, name, "max"] = np.maximum(total.get((l, name, "max"), 0), r.max(1))
    sees = a[:, :, 0] > 0
    sees[:, 0] = True
    add(total, (l, "alpha"), a[:, :, 0].sum(1) / sees.sum(1))
    add(total, (l, "windows"), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        n_keys = (a > 0).sum(-1)
        h = -np.where(a > 0, a * np.log(a), 0).sum(-1) / np.log(n_keys)
    add(total, (l, "entropy"), h[:, 1:].sum(1))
    k0 = k_after[:, :1].repeat(group, 0)
    rest0 = k_rest[:, :1].repeat(group, 0)
    sees[:, 0] = False
    part = scale * (q_after * k0.conj()).real * sees[..., None]
    add(total, (l, "sink"), part.sum(1))
    add(total, (l, "rest"), (scale * q_rest * rest0 * sees[..., None]).sum((1, 2)))
    add(total, (l, "seen"), sees.sum(1))


def relative(got, want):
    got, want = np.array(got, dtype=float), np.asarray(want)
    return np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)


def context(config, l, n_ctx):
    """P of layer l; None: the frequencies of windows of n_ctx tokens are not those within P."""
    types = getattr(config, "layer_types", None)
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get(types[l], rope) if types else rope
    P = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    if rope.get("rope_type") == "longrope" and n_ctx > P:
        return None
    window = getattr(config, "sliding_window", None)
    return min(P, window) if window and (not types or "sliding" in types[l]) else P


def compare(reading, total):
    """Largest difference of each statistic."""
    worst = {}

    def note(name, d):
        worst[name] = max(worst.get(name, 0.0), float(d))
    for l, layer in enumerate(reading["layers"]):
        heads = layer["heads"]
        group = len(heads) // len(total[l, "k", "r"])
        mean = {}
        for s in "qk":
            n = total[l, s, "n"]
            every = 1 if s == "q" else group
            note("r", relative([h["r_" + s] for h in heads],
                               (total[l, s, "r"] / n).repeat(every, 0)))
            note("max r", relative([h["max_" + s] for h in heads],
                                   total[l, s, "max"].repeat(every, 0)))
            mean[s] = (total[l, s, "z"] / total[l, s, "r"]).repeat(every, 0)
        clear = (np.abs(mean["q"]) > 0.1) & (np.abs(mean["k"]) > 0.1)
        phi = np.array([h["phi"] for h in heads]) - np.angle(mean["q"] * mean["k"].conj())
        note("phi", np.abs(np.where(clear, (phi + np.pi) % (2 * np.pi) - np.pi, 0)).max())
        seen = total[l, "seen"]
        note("logit_sink", relative([h["logit_sink"] for h in heads],
                                    total[l, "sink"] / seen[:, None]))
        if heads[0]["logit_sink_rest"] is not None:
            note("logit rest", relative([h["logit_sink_rest"] for h in heads],
                                        total[l, "rest"] / seen))
        windows = total[l, "windows"]
        note("alpha_1", np.abs(np.array([h["alpha_1"] for h in heads]) -
                               total[l, "alpha"] / windows).max())
        n = total[l, "q", "n"]
        note("entropy", np.abs(np.array([h["entropy"] for h in heads]) -
                               total[l, "entropy"] / n).max())
        if (l, "x") in total:
            x = np.array(reading["ropes"][layer["rope"]]["x"], dtype=float)
            note("x", np.abs(x / total[l, "x"] - 1).max())
    return worst


def family(folder, gguf, program, n_ctx):
    """Largest differences of one model."""
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager",
                                                 dtype=torch.float32).eval()
    config = model.config
    turns = [bool(i) for i in getattr(config, "no_rope_layers", None) or
             [1] * config.num_hidden_layers]
    ids = [vocab["\u0120" if c == " " else c] for c in TEXT][:2 * n_ctx]  # a token each
    watch, total = Watch(model), {}
    for at in range(0, len(ids), n_ctx):
        watch.rotated.clear()
        watch.attended.clear()
        watch.angles.clear()
        with torch.no_grad():
            model(torch.tensor([ids[at:at + n_ctx]]), use_cache=False)
        for l, layer in enumerate(layers_of(watch, config.num_hidden_layers, turns)):
            window(total, l, layer)
    angles = iter(watch.angles)
    for l in range(config.num_hidden_layers):
        theta, P = next(angles) if turns[l] else None, context(config, l, n_ctx)
        if turns[l] and P:
            total[l, "x"] = theta.numpy() * P
    importlib.reload(watch.code)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.write(TEXT)
        text.flush()
        out = subprocess.run([program, "analyze", str(gguf), "-f", text.name, "-n", str(len(ids)),
                              "-c", str(n_ctx), "--bos", "off", "--json"], check=True,
                             stdout=subprocess.PIPE).stdout
    reading = json.loads(out)
    assert reading["provenance"]["n_tokens"] == len(ids)
    return compare(reading, total)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folders", nargs="+", type=Path)
    p.add_argument("--models", type=Path, default=Path("tests/families"))
    p.add_argument("--program", default="./ropescope")
    p.add_argument("-c", type=int, default=30, help="tokens of one window")
    a = p.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    bad, of_all = 0, {}
    for folder in a.folders:
        worst = family(folder, a.models / (folder.name + ".gguf"), a.program, a.c)
        of_all.update((k, max(v, of_all.get(k, 0.0))) for k, v in worst.items())
        wrong = [k for k, v in worst.items() if not v <= TOLERANCE]
        bad |= bool(wrong)
        print(f"{folder.name:18}", *(f"{k} {v:.1e}" for k, v in worst.items()),
              "DIFFERS: " + ", ".join(wrong) if wrong else "", flush=True)
    print(f"{'worst':18}", *(f"{k} {v:.1e}" for k, v in of_all.items()))
    return bad


if __name__ == "__main__":
    sys.exit(main())
