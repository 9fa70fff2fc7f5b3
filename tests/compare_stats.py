#!/usr/bin/env python3
"""Statistics of ropescope against numpy, from the q, k, attention and residual stream of Hugging
Face transformers (float32, eager) on the same GGUF weights.

    make compare MODEL=model.gguf TEXT=text.txt N=300

Windows of 128 tokens, every layer and head; the text has 64 tokens at least. Prints the largest difference of each statistic,
relative to its largest value; ends with status 1 if one is above 1e-4.
"""
import json
import subprocess
import sys

import numpy as np
import torch

from compare_hf import load

SKIP, SINK_T, EPS, KEYS = 1, 64, 0.3, 64


def run(program, *args):
    return subprocess.run([program, *args], check=True, stdout=subprocess.PIPE).stdout


def capture(model, windows):
    """Per window: ids, q and k before rotation [L][T, heads, D], attention [L][H, T, T], states."""
    config, seen, found = model.config, {}, []
    for l, layer in enumerate(model.model.layers):
        for side in "qk":
            def keep(_, __, out, key=(l, side)):
                seen[key] = out[0].double().numpy().copy()
            getattr(layer.self_attn, side + "_proj").register_forward_hook(keep)
    for ids in windows:
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
        head = (len(ids), -1, config.head_dim)
        found.append((np.array(ids),
                      [seen[l, "q"].reshape(head) for l in range(config.num_hidden_layers)],
                      [seen[l, "k"].reshape(head) for l in range(config.num_hidden_layers)],
                      [a[0].double().numpy() for a in out.attentions],
                      [h[0].double().numpy() for h in out.hidden_states]))
    return found


def rotate(x, theta):
    turn = np.arange(len(x))[:, None, None] * theta
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * np.cos(turn) - b * np.sin(turn),
                           a * np.sin(turn) + b * np.cos(turn)], -1)


def spectrum(x):
    s = np.linalg.svd(x, compute_uv=False)
    p = s ** 2 / (s ** 2).sum()
    return 1 / p[0], s[0] / s.sum(), -(p * np.log(p))[:32].sum()


def values(name, x, turned):
    """Statistics of the vectors of one head: x before, turned after rotation, per window."""
    kept = np.concatenate([w[SKIP:] for w in x])
    z = np.abs(kept[:, :kept.shape[1] // 2] + 1j * kept[:, kept.shape[1] // 2:])
    mean = np.split(kept.mean(0), 2)
    norm = np.sqrt(sum((w ** 2).sum(0) for w in turned))  # of all tokens
    found = dict(zip(("stable_rank_", "first_sv_", "matrix_entropy_"), spectrum(kept)))
    found["r_"] = z.mean(0)
    found["offset_share_"] = (mean[0] ** 2 + mean[1] ** 2) / (z ** 2).mean(0)
    found["massive_"] = np.flatnonzero(norm > 5 * norm.mean())
    return {key + name: v for key, v in found.items()}


def logits(q, k):
    """Parts of the logits of key 0 and of the other keys: queries 1 and later, per pair."""
    sink, others = [], []
    for a, b in zip(q, k):
        for pos in range(1, len(a)):
            for part, key in ((sink, b[0]), (others, b[1:pos + 1].mean(0))):
                part.append(np.add(*np.split(a[pos] * key, 2)) / np.sqrt(len(key)))
    return {"logit_sink": np.mean(sink, 0), "logit_others": np.mean(others, 0)}


def rows(ids, A):
    """Per query: head scores, entropy and the like of one window's attention [T, T]."""
    T = len(A)
    t = np.arange(T)
    copies = np.tril(ids[:, None] == ids[None, :], -1)
    after = np.tril(np.roll(copies, 1, axis=1))  # the last column is empty, so none comes round
    thirds = [[A[n - 1, n * c // 3:n * (c + 1) // 3].sum() for c in range(3)]
              for n in range(3, T + 1)]
    entropy = -(A * np.log(np.where(A > 0, A, 1))).sum(1)
    return {"previous": (A * np.eye(T, k=-1)).sum(1), "duplicate": (A * copies).sum(1),
            "induction": (A * after).sum(1), "distance": (A * (t[:, None] - t)).sum(1),
            "entropy": entropy[1:] / np.log(t[1:] + 1), "first4": A[4:, :4].sum(1),
            "thirds": np.array(thirds)}


def sinks(maps):
    T = max(len(A) for A in maps)
    whole = [[A[k:, k].sum() / (T - k) for k in range(KEYS)] for A in maps if len(A) == T]
    first = [[A[k:SINK_T, k].sum() / (SINK_T - k) > EPS for k in range(KEYS)]
             for A in maps if len(A) >= SINK_T]
    return {"alpha": np.mean(whole, 0), "sink_share_k": np.mean(first, 0)}


def channels(x, turned):
    found = {}
    for stage, v in (("", turned), ("before.", x)):
        found[stage + "mean_"] = np.abs(np.concatenate([w[SKIP:] for w in v])).mean((0, 1))
        found[stage + "max_"] = np.abs(np.concatenate(v)).max((0, 1))
    return found


class Worst(dict):
    def see(self, name, got, want):
        got = np.array([np.nan if g is None else g for g in np.ravel(got)], float)
        want = np.ravel(want)
        same = got.shape == want.shape
        off = np.abs(got - want) if same else np.full(1, np.nan)
        off = off.max(initial=0) / (np.abs(want).max(initial=0) + 1e-3)
        self[name] = self.get(name, 0) if off <= self.get(name, 0) else off


def main(program, path, text, n):
    model, n_ctx = load(path), 128
    ids = [int(i) for i in run(program, "tokenize", path, "-f", text, "--bos", "off",
                               "--ids").split()[:int(n)]]
    got = json.loads(run(program, "analyze", path, "-f", text, "-n", n, "-c", str(n_ctx), "--json"))
    bos = [got["provenance"]["bos_id"]] if got["provenance"]["bos_id"] >= 0 else []
    room, worst = n_ctx - len(bos), Worst()
    seen = capture(model, [bos + ids[i:i + room] for i in range(0, len(ids), room)])
    theta = np.array(got["ropes"][0]["theta"])
    for l, layer in enumerate(got["layers"]):
        q, k = [w[1][l] for w in seen], [w[2][l] for w in seen]
        turned_q, turned_k = ([rotate(x, theta) for x in side] for side in (q, k))
        for side, v in (("q", channels(q, turned_q)), ("k", channels(k, turned_k))):
            for name, want in v.items():
                where = layer["channels"]["before"] if "." in name else layer["channels"]
                worst.see(name + side, where[name.split(".")[-1] + side], want)
        if l + 1 < len(got["layers"]):  # the last hidden state has been normed
            worst.see("residual max", layer["massive_activations"]["max"],
                      max(np.abs(w[4][l + 1]).max() for w in seen))
        for h, head in enumerate(layer["heads"]):
            kh = head["kv_head"]
            one_q, one_k = [x[:, h] for x in turned_q], [x[:, kh] for x in turned_k]
            want = {**values("q", [x[:, h] for x in q], one_q),
                    **values("k", [x[:, kh] for x in k], one_k), **logits(one_q, one_k),
                    **sinks([w[3][l][h] for w in seen])}
            scores = [rows(w[0], w[3][l][h]) for w in seen]
            for name in scores[0]:
                want[name] = np.concatenate([s[name] for s in scores]).mean(0)
            for name, v in want.items():
                worst.see(name, head[name], v)
    for name, off in worst.items():
        print(f"  {name:20} {off:.2g}")
    return 0 if all(off <= 1e-4 for off in worst.values()) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
