#!/usr/bin/env python3
"""Speed of the same training steps in PyTorch: what demo/train is held against.

    python3 tests/bench/train_torch.py [threads] [steps]

The default model and batch of demo/train, float32, torch.compile not used; scaled dot-product
attention and the fused AdamW are. Prints tokens per second of wall time and of processor time,
without the first step. Random tokens: speed does not depend on them."""

import sys
import time

import torch
import torch.nn.functional as F

L, E, H, K, D, FF, V, T, B = 6, 192, 6, 2, 32, 512, 2048, 512, 8


def weights():
    shapes = [(V, E)]
    for _ in range(L):
        shapes += [(E,), ((H + 2 * K) * D, E), (E, H * D), (E,), (2 * FF, E), (E, FF)]
    shapes += [(E,)]
    return [torch.nn.Parameter(torch.randn(s) * 0.02 if len(s) > 1 else torch.ones(s))
            for s in shapes]


def angles():
    a = torch.outer(torch.arange(T).double(), 10000.0 ** (-torch.arange(D // 2).double() * 2 / D))
    return a.cos().float(), a.sin().float()


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


def loss_of(w, tok, target, cos, sin):
    x = w[0][tok]
    for l in range(L):
        n1, qkv, out, n2, gate_up, down = w[1 + 6 * l:7 + 6 * l]
        y = F.linear(F.rms_norm(x, (E,), n1, 1e-5), qkv).view(B, T, H + 2 * K, D).transpose(1, 2)
        q, k, v = rope(y[:, :H], cos, sin), rope(y[:, H:H + K], cos, sin), y[:, H + K:]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + F.linear(y.transpose(1, 2).reshape(B, T, H * D), out)
        gate, up = F.linear(F.rms_norm(x, (E,), n2, 1e-5), gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, down)
    logits = F.linear(F.rms_norm(x, (E,), w[-1], 1e-5), w[0])
    return F.cross_entropy(logits.view(-1, V), target.reshape(-1))


def main():
    torch.manual_seed(1)
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    w, (cos, sin) = weights(), angles()
    adam = torch.optim.AdamW(w, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tok = torch.randint(V, (B, T + 1))
    for step in range(steps + 1):
        if step == 1:
            wall, cpu = time.time(), time.process_time()
        adam.zero_grad()
        loss = loss_of(w, tok[:, :-1], tok[:, 1:], cos, sin)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(w, 1.0)
        adam.step()
    n = steps * B * T
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads: "
          f"{n / (time.time() - wall):.0f} tokens/s, {n / (time.process_time() - cpu):.0f} per "
          "second of processor time")


if __name__ == "__main__":
    main()
