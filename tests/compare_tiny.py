#!/usr/bin/env python3
"""The reference of tiny.py against Hugging Face transformers, both in double precision.

    compare_tiny.py [--seeds N] [ARCH...]

Needs torch and transformers (run with torch 2.15 and transformers 5.23). transformers makes each
model of config.json; the checkpoint must have every tensor it wants and no other. transformers
computes norms, softmax and angles in float32 by name; here that name stands for float64, so that
both sides agree to some 1e-14 of the largest logit. Status 1 if any differs by more than 1e-12.
"""
import argparse
import re
import sys
import tempfile
from pathlib import Path

import torch

torch.set_default_dtype(torch.float64)
torch.float32 = torch.float = torch.float64
torch.Tensor.float = torch.Tensor.double

import transformers  # noqa: E402 (after the change of names)

import tiny  # noqa: E402


EXPERT = re.compile(r"(.*)(mlp|block_sparse_moe)\.(?:experts\.(\d+)\.(\w+)|gate)\.weight$")


def fused(tensors):
    """The experts of a layer put together, as transformers 5 holds them."""
    rest, experts = {}, {}
    for name, t in tensors.items():
        match = EXPERT.match(name)
        if not match:
            rest[name] = t
        elif match[3] is None:
            rest[match[1] + "mlp.gate.weight"] = t
        else:
            experts.setdefault(match[1] + "mlp.experts.", {})[int(match[3]), match[4]] = t
    for at, of in experts.items():
        gate, up, down = (("gate_proj", "up_proj", "down_proj") if (0, "up_proj") in of else
                          ("w1", "w3", "w2"))
        numbers = range(len(of) // 3)
        rest[at + "gate_up_proj"] = torch.stack(
            [torch.cat([of[e, gate], of[e, up]]) for e in numbers])
        rest[at + "down_proj"] = torch.stack([of[e, down] for e in numbers])
    return rest


def load(arch: str, weights: tiny.Weights):
    """The model that transformers makes of config.json, with every tensor of the checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        tiny.write_json(Path(folder) / "config.json", tiny.config_json(tiny.ARCHS[arch]))
        config = transformers.AutoConfig.from_pretrained(
            folder, attn_implementation="eager", experts_implementation="eager")
    model = getattr(transformers, tiny.ARCHS[arch].cls)(config).eval()
    tensors = {name.replace("embed_out", "lm_head"): torch.tensor(rows).reshape(shape)
               for name, (shape, rows) in weights.found.items()}    # as transformers 5 names it
    wrong = model.load_state_dict(fused(tensors), strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if set(wrong.missing_keys) - tied or wrong.unexpected_keys:
        sys.exit(f"{arch}: {wrong}")
    return model


def compare(arch: str, seed: int) -> float:
    """The largest difference of a logit, over the largest logit."""
    form, weights = tiny.ARCHS[arch], tiny.Weights(seed)
    rows = tiny.Forward(form, tiny.config_json(form), weights).logits(tiny.IDS, tiny.LENGTHS)
    model, worst, most = load(arch, weights), 0.0, 0.0
    with torch.no_grad():
        for length, logits in rows:
            have = model(torch.tensor([tiny.IDS[:length]]), use_cache=False).logits[0, -1].tolist()
            worst = max(worst, *(abs(a - b) for a, b in zip(have, logits)))
            most = max(most, *map(abs, logits))
    return worst / most


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("archs", nargs="*", default=list(tiny.ARCHS))
    a = p.parse_args()
    transformers.logging.set_verbosity_error()
    worst = 0.0
    for arch in a.archs:
        found = max(compare(arch, seed) for seed in range(1, a.seeds + 1))
        print(f"{arch:20} {found:.1e}", flush=True)
        worst = max(worst, found)
    return 0 if worst <= 1e-12 else 1


if __name__ == "__main__":
    sys.exit(main())
