#!/usr/bin/env python3
"""Speed of the same training steps in demo/train and in PyTorch, one after the other.

    python3 tests/bench/train_torch.py STEPS demo/train --text train.txt --vocab vocab.gguf ...

All that follows STEPS is the command of a training: its shape, batch and threads are measured (with
--bench, so nothing is written), then the same in PyTorch: float32, scaled dot-product attention and
the fused AdamW, torch.compile not used. Both give the median of STEPS steps after one that does not
count. Random tokens and weights in PyTorch: speed does not depend on them. Needs PyTorch (CPU) and
an idle machine."""

import re
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F


def weights(s):
    E, D, FF = s["embd"], s["head-dim"], s["ff"]
    wide = (s["heads"] + 2 * s["kv-heads"]) * D
    shapes = [(s["vocabulary"], E)]
    for _ in range(s["layers"]):
        shapes += [(E,), (wide, E), (wide,), (E, s["heads"] * D), (E,), (2 * FF, E), (E, FF)]
    shapes += [(E,)] + ([] if s["tied"] else [(s["vocabulary"], E)])
    return [torch.nn.Parameter(torch.randn(n) * 0.02 if len(n) > 1 else torch.ones(n))
            for n in shapes]


def angles(T, D):
    a = torch.outer(torch.arange(T).double(), 10000.0 ** (-torch.arange(D // 2).double() * 2 / D))
    return a.cos().float(), a.sin().float()


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


def loss_of(s, w, tok, target, turn):
    E, H, K, D, T, B = (s[k] for k in ("embd", "heads", "kv-heads", "head-dim", "ctx", "batch"))
    x = w[0][tok]
    for l in range(s["layers"]):
        n1, qkv, bias, out, n2, gate_up, down = w[1 + 7 * l:8 + 7 * l]
        y = F.linear(F.rms_norm(x, (E,), n1, 1e-5), qkv, bias if s["biased"] else None)
        y = y.view(B, T, H + 2 * K, D).transpose(1, 2)
        q, k, v = rope(y[:, :H], *turn), rope(y[:, H:H + K], *turn), y[:, H + K:]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + F.linear(y.transpose(1, 2).reshape(B, T, H * D), out)
        gate, up = F.linear(F.rms_norm(x, (E,), n2, 1e-5), gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, down)
    last = w[1 + 7 * s["layers"]]
    logits = F.linear(F.rms_norm(x, (E,), last, 1e-5), w[0] if s["tied"] else w[-1])
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def torch_step_seconds(s, steps):
    """The median of some steps, and the processor time of all of them by their number."""
    torch.manual_seed(1)
    torch.set_num_threads(s["threads"])
    w, turn = weights(s), angles(s["ctx"], s["head-dim"])
    adam = torch.optim.AdamW(w, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tok = torch.randint(s["vocabulary"], (s["batch"], s["ctx"] + 1))
    took, cpu = [], 0
    for step in range(steps + 1):
        if step == 1:
            cpu = time.process_time()
        at = time.perf_counter()
        adam.zero_grad()
        loss_of(s, w, tok[:, :-1], tok[:, 1:], turn).backward()
        torch.nn.utils.clip_grad_norm_([p for p in w if p.grad is not None], 1.0)
        adam.step()
        took.append(time.perf_counter() - at)
    return statistics.median(took[1:]), (time.process_time() - cpu) / steps


def main():
    if len(sys.argv) < 3 or not sys.argv[1].isdigit() or int(sys.argv[1]) < 1:
        sys.exit(__doc__)
    steps = int(sys.argv[1])
    ours = subprocess.run([*sys.argv[2:], "--bench", str(steps)], stdout=subprocess.PIPE,
                          check=True, text=True).stdout
    print(ours, end="")
    s = {k: int(v) for k, v in re.findall(r"([a-z-]+) (\d+)", ours.splitlines()[0])}
    speed, per_cpu = map(float, re.search(r"(\d+) tokens/s, (\d+) per", ours).groups())
    tokens = s["batch"] * s["ctx"]
    step, cpu = torch_step_seconds(s, steps)
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads: {tokens / step:.0f} "
          f"tokens/s, {tokens / cpu:.0f} per second of processor time")
    print(f"demo/train is {speed * step / tokens:.2f} times as fast; by processor time "
          f"{per_cpu * cpu / tokens:.2f} times")


if __name__ == "__main__":
    main()
