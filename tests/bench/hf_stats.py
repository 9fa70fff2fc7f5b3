#!/usr/bin/env python3
"""The statistics of `ropescope analyze`, made the usual way: Hugging Face transformers and hooks.

    python3 tests/bench/hf_stats.py MODEL.gguf TEXT -n 4096 -c 512 -t 2 --reading reading.json

reads the same tokens in the same windows, and computes from hooked activations, per layer, head and
rotary pair: radii, mean vectors and second moments before and after rotation, channels, parts of the
logits; per head: alpha_k, row entropy, mean distance, previous-token, duplicate and induction scores,
the moments behind the spectra; massive activations. It prints seconds, tokens/s and peak memory. With
--reading (the JSON of `ropescope analyze --json` on the same text, -n, -c and BOS) it prints the
largest difference of radii, phi, concentration, alpha_1 and the head scores from that reading.

Needs torch, transformers and gguf; float32, eager attention, as transformers computes it.
"""
import argparse
import json
import math
import resource
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SINK_KEYS = 64


def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("-n", type=int, default=4096, help="tokens")
    p.add_argument("-c", type=int, default=512, help="tokens of one window")
    p.add_argument("-t", type=int, default=2, help="threads")
    p.add_argument("--bos", type=int, default=-1, help="id put before each window; -1: none")
    p.add_argument("--reading", help="JSON of ropescope analyze to compare with")
    return p.parse_args()


class Hooks:
    """q and k of every layer as the projections leave them, and the residual after each layer."""

    def __init__(self, model):
        self.q, self.k, self.resid = {}, {}, {}
        for l, layer in enumerate(model.model.layers):
            layer.self_attn.q_proj.register_forward_hook(self.keep(self.q, l))
            layer.self_attn.k_proj.register_forward_hook(self.keep(self.k, l))
            layer.register_forward_hook(self.keep(self.resid, l))

    @staticmethod
    def keep(where, l):
        def hook(_module, _inputs, output):
            where[l] = (output[0] if isinstance(output, tuple) else output).detach()[0]
        return hook


def pair_sums(x, cos, sin):
    """x [T, H, D], half-split: sums over tokens, in double."""
    half = x.shape[-1] // 2
    a, b = x[..., :half].double(), x[..., half:].double()
    r = (a * a + b * b).sqrt()
    turned = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    sums = [r, r * r, a, b, a * a, b * b, a * b, turned[..., :half], turned[..., half:]]
    return torch.stack([s.sum(0) for s in sums]), turned


def logit_parts(q, k, scale):
    """Sums over queries of each pair's part of the logit of key 0, and of the others' mean."""
    T, H, D = q.shape
    k = k.repeat_interleave(H // k.shape[1], 1)
    count = torch.arange(1, T).view(-1, 1, 1)
    others = (k[1:].cumsum(0) / count) * q[1:]
    sink = k[:1] * q[1:]
    half = D // 2
    return [scale * (p[..., :half] + p[..., half:]).sum(0) for p in (sink, others)]


def rows(att, ids):
    """Head scores and row shapes of att [H, T, T]."""
    T = att.shape[-1]
    at = torch.arange(T)
    same = (ids.view(-1, 1) == ids.view(1, -1)) & (at.view(-1, 1) > at.view(1, -1))
    induction = torch.zeros_like(same)
    induction[:, 1:] = same[:, :-1]
    a = att.double()
    entropy = -(a * a.clamp_min(1e-300).log()).sum(-1)[:, 1:] / torch.log(at[1:] + 1.0).double()
    return {"entropy": entropy.sum(-1), "previous": a.diagonal(-1, 1, 2).sum(-1),
            "duplicate": (a * same).sum((1, 2)), "induction": (a * induction).sum((1, 2)),
            "distance": (a * (at.view(-1, 1) - at.view(1, -1))).sum((1, 2)),
            "alpha": a[..., :SINK_KEYS].sum(1) / (T - torch.arange(min(T, SINK_KEYS)))}


def add(total, key, value):
    total[key] = total[key] + value if key in total else value


def window(model, hooks, ids, total):
    with torch.no_grad():
        out = model(ids.view(1, -1), output_attentions=True, use_cache=False)
    cfg = model.config
    D = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    T = len(ids)
    cos, sin = model.model.rotary_emb(hooks.resid[0].view(1, T, -1), torch.arange(T).view(1, -1))
    cos, sin = (v[0, :, None, :D // 2].double() for v in (cos, sin))
    for l, att in enumerate(out.attentions):
        q, k = (x[l].view(T, -1, D) for x in (hooks.q, hooks.k))
        for name, x in (("q", q), ("k", k)):
            _, turned = pair_sums(x, cos, sin)
            sums, _ = pair_sums(x[1:], cos[1:], sin[1:])
            add(total, (l, name), sums)
            add(total, (l, name, "moments"), torch.einsum("thc,thd->hcd", *[x[1:].double()] * 2))
            add(total, (l, name, "channels"), torch.stack([x[1:].abs().sum(0),
                                                           turned[1:].abs().sum(0)]))
            total[l, name, "rotated"] = turned
        parts = logit_parts(total[l, "q", "rotated"], total[l, "k", "rotated"], D ** -0.5)
        add(total, (l, "logits"), torch.stack(parts))
        for key, v in rows(att[0], ids).items():
            add(total, (l, key), v)
        h = hooks.resid[l].abs()
        massive = (h > 100) & (h > 1000 * h.median(-1, keepdim=True).values)
        add(total, (l, "massive"), massive.sum(0))
    add(total, "tokens", T)
    add(total, "windows", 1)


def differences(total, reading):
    """The largest difference from a reading, per quantity."""
    worst = {}

    def see(key, ours, theirs, relative):
        if ours is None:
            return
        d = abs(ours - theirs) / (abs(theirs) if relative else 1)
        worst[key] = max(worst.get(key, 0), d)

    n = total["tokens"] - total["windows"]
    for l, layer in enumerate(reading["layers"]):
        for h in layer["heads"]:
            side = {}
            for name, i in (("q", h["head"]), ("k", h["kv_head"])):
                s = total[l, name][:, i]
                side[name] = torch.atan2(s[3], s[2])
                R = (s[2] ** 2 + s[3] ** 2).sqrt() / s[0]
                for j, v in enumerate(h["r_" + name]):
                    see("r (relative)", v, (s[0, j] / n).item(), True)
                    see("R", h["R_" + name][j], R[j].item(), False)
            for j, v in enumerate(h["phi"]):
                d = (v - (side["q"] - side["k"])[j].item()) % (2 * math.pi)
                see("phi (radians)", min(d, 2 * math.pi - d), 0, False)
            see("alpha_1", h["alpha_1"], (total[l, "alpha"][h["head"], 0] / total["windows"]).item(), False)
            for key, count in (("previous", "tokens"), ("duplicate", "tokens"), ("induction", "tokens"),
                               ("distance", "tokens")):
                see(key, h.get(key), (total[l, key][h["head"]] / total[count]).item(), False)
    return worst


def main():
    o = options()
    torch.set_num_threads(o.t)
    folder, name = o.model.rsplit("/", 1) if "/" in o.model else (".", o.model)
    tok = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    with open(o.text, encoding="utf-8") as f:
        ids = tok(f.read(), add_special_tokens=False)["input_ids"][:o.n]
    hooks, total, lead = Hooks(model), {}, [] if o.bos < 0 else [o.bos]
    room, start = o.c - len(lead), time.time()
    for at in range(0, len(ids), room):
        window(model, hooks, torch.tensor(lead + ids[at:at + room]), total)
    seconds = time.time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"transformers with hooks: {total['tokens']} tokens, {seconds:.1f} s, "
          f"{total['tokens'] / seconds:.1f} tok/s, peak memory {peak:.0f} MB, {o.t} threads")
    if o.reading:
        with open(o.reading, encoding="utf-8") as f:
            for key, d in sorted(differences(total, json.load(f)).items()):
                print(f"  largest difference of {key}: {d:.3g}")


if __name__ == "__main__":
    main()
