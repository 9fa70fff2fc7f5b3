#!/usr/bin/env python3
"""Write tests/train_golden.h: losses, gradients and weights of a tiny model trained by PyTorch.

Needs PyTorch (any recent one, CPU); the tests do not. The model, its first weights and the tokens
are made here again from what demo/train.c documents, in double precision, with automatic
differentiation in the place of its formulas and torch.optim.AdamW in the place of its optimiser.

    python3 tests/make_train_golden.py > tests/train_golden.h
"""

import math

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)

L, E, H, K, D, FF, V, T, BATCH, STEPS = 2, 24, 4, 2, 6, 40, 50, 16, 3, 6
LR, LR_MIN, WARMUP, DECAY, CLIP, BETAS = 0.01, 0.001, 2, 0.1, 1.0, (0.9, 0.95)
SEED, BASE, INIT, INIT_EMBD = 7, 100.0, 0.8, 0.16
MASK = (1 << 64) - 1


def splitmix(state):
    """rng_next of run.c: the next state, and the number."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    z = state
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return state, z ^ z >> 31


class Rng:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state, z = splitmix(self.state)
        return z

    def normal(self):
        return sum((self.next() >> 11) * 2.0 ** -53 for _ in range(12)) - 6


def as_float(x):
    return torch.tensor(x, dtype=torch.float32).double()


def parameters(tied, biased):
    """In the order of the trainer, [in][out]; norms are made 1 + normal / 4, biases normal / 4."""
    rng, q, kv = Rng(SEED), H * D, K * D
    inner, stream = INIT / math.sqrt(E), INIT / math.sqrt(2 * L)
    shapes = [("embed", V, E, INIT_EMBD)]
    for _ in range(L):
        shapes += [("attn_norm", 1, E, 0), ("qkv", E, q + 2 * kv, inner),
                   ("qkv_bias", 1, (q + 2 * kv) * biased, 0),
                   ("out", q, E, stream / math.sqrt(q)), ("ffn_norm", 1, E, 0),
                   ("gate_up", E, 2 * FF, inner), ("down", FF, E, stream / math.sqrt(FF))]
    shapes += [("last_norm", 1, E, 0)]
    if not tied:
        shapes += [("head", E, V, 0.25 / math.sqrt(E))]
    made = []
    for name, rows, cols, spread in shapes:
        if spread:
            w = as_float([rng.normal() for _ in range(rows * cols)]).float()
            w = (w * torch.tensor(spread, dtype=torch.float32)).double()
        else:
            w = torch.full((cols,), 0.0 if name == "qkv_bias" else 1.0)
        made.append([name, w.view(rows, cols) if spread else w])
    rng = Rng(SEED + 1)
    for p in made:
        if p[1].dim() == 1:
            p[1] = as_float([float(first) + rng.normal() / 4 for first in p[1]])
    return [(n, w.requires_grad_()) for n, w in made]


def norm(x, w):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + float(torch.tensor(1e-5).float())) * w


def rope(x):
    """x [B, T, heads, D]: pairs (2j, 2j + 1)."""
    j = torch.arange(D // 2)
    a = torch.outer(torch.arange(T), BASE ** (-2.0 * j / D))[None, :, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * a.cos() - odd * a.sin(), even * a.sin() + odd * a.cos()),
                       -1).flatten(-2)


def forward(params, tok, tied):
    w = [p for _, p in params]
    x = w[0][tok]
    B, q, kv = tok.shape[0], H * D, K * D
    for l in range(L):
        attn_norm, qkv, qkv_bias, out, ffn_norm, gate_up, down = w[1 + 7 * l:8 + 7 * l]
        y = norm(x, attn_norm) @ qkv
        if len(qkv_bias):
            y = y + qkv_bias
        query = rope(y[..., :q].view(B, T, H, D)).transpose(1, 2)
        key = rope(y[..., q:q + kv].view(B, T, K, D)).transpose(1, 2)
        value = y[..., q + kv:].view(B, T, K, D).transpose(1, 2)
        key, value = (z.repeat_interleave(H // K, 1) for z in (key, value))
        s = query @ key.transpose(2, 3) / math.sqrt(D)
        s = s.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
        x = x + (s.softmax(-1) @ value).transpose(1, 2).reshape(B, T, q) @ out
        y = norm(x, ffn_norm) @ gate_up
        x = x + (F.silu(y[..., :FF]) * y[..., FF:]) @ down
    x = norm(x, w[1 + 7 * L])
    return x @ (w[0].T if tied else w[2 + 7 * L])


def text():
    rng = Rng(99)
    return [rng.next() % V for _ in range(400)]


def batch(ids, step):
    """Sequences of a step: BOS (0) and T - 1 tokens, and what follows each."""
    rng, tok, target = Rng(SEED << 32 ^ step), [], []
    for _ in range(BATCH):
        at = rng.next() % (len(ids) - T)
        tok.append([0] + ids[at:at + T - 1])
        target.append(ids[at:at + T])
    return torch.tensor(tok), torch.tensor(target)


def rate(step):
    if step < WARMUP:
        return LR * (step + 1) / WARMUP
    return LR_MIN + (LR - LR_MIN) * 0.5 * (
        1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def projection(x):
    """Sum of x times signs that depend on the place."""
    rng = Rng(x.numel())
    signs = torch.tensor([1.0 if rng.next() >> 63 else -1.0 for _ in range(x.numel())])
    return float((x.detach().flatten() * signs).sum())


def run(tied, biased):
    params, ids = parameters(tied, biased), text()
    groups = [{"params": [p for _, p in params if p.dim() == 2], "weight_decay": DECAY},
              {"params": [p for _, p in params if p.dim() == 1], "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, betas=BETAS, eps=float(torch.tensor(1e-8).float()))
    losses, lengths, gradients = [], [], []
    for step in range(STEPS):
        tok, target = batch(ids, step)
        loss = F.cross_entropy(forward(params, tok, tied).flatten(0, 1), target.flatten())
        adam.zero_grad()
        loss.backward()
        for _, p in params:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad  # a bias that is not there
        if step == 0:
            gradients = [(float(p.grad.norm()), projection(p.grad)) for _, p in params]
        length = torch.sqrt(sum((p.grad ** 2).sum() for _, p in params))
        losses.append(loss.item())
        lengths.append(float(length))
        for _, p in params:
            p.grad *= min(1.0, CLIP / float(length))
        for g in adam.param_groups:
            g["lr"] = rate(step)
        adam.step()
    weights = [(float(p.detach().norm()), projection(p)) for _, p in params]
    return losses, lengths, gradients, weights


def rows(name, values):
    print(f"        .{name} = {{")
    for v in values:
        print("            " + (f"{v:.17g}," if isinstance(v, float) else
                               "{%.17g, %.17g}," % v))
    print("        },")


def main():
    print("/* Made by tests/make_train_golden.py with PyTorch in double: do not edit. */")
    print("enum { GOLDEN_STEPS = %d, GOLDEN_PARAMS = %d };" % (STEPS, 3 + 7 * L))
    print("typedef struct {\n    double loss[GOLDEN_STEPS], length[GOLDEN_STEPS];")
    print("    /* Length and projection of each part: of the first gradient, of the last weights. */")
    print("    double gradient[GOLDEN_PARAMS][2], weights[GOLDEN_PARAMS][2];\n} Golden;")
    print("static const Golden golden[3] = {")
    for tied, biased in ((0, 0), (1, 0), (0, 1)):
        losses, lengths, gradients, weights = run(tied, biased)
        print("    {")
        rows("loss", losses)
        rows("length", lengths)
        rows("gradient", gradients)
        rows("weights", weights)
        print("    },")
    print("};")


if __name__ == "__main__":
    main()
