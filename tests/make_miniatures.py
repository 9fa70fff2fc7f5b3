#!/usr/bin/env python3
"""The miniature models of tests/families/, one of every family that export.py knows.

    make_miniatures.py [-o tests/families] [--keep FOLDER] [NAME...]

Needs torch and transformers (made with torch 2.15 and transformers 5.23 on x86-64); the tests
themselves read only what it wrote. For each row of MODELS below: a model with random weights that
F16 can hold is made by transformers, saved as a Hugging Face folder (kept in --keep) and exported
by export.py as NAME.gguf; NAME.logits has what transformers computes, in float32 with the "eager"
attention, from the same weights:

at lengths 1, window - 1 and 3 windows (of 8 tokens where there is no window), as tiny.py, whose
models are others, lays them out. Sizes are small so that the files are: 16 channels, heads of 8.
"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

from tiny import IDS, LENGTHS, WINDOW, pack_logits, write_tokenizer

ROOT = Path(__file__).resolve().parent.parent
SMALL = dict(vocab_size=100, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
             num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
             bos_token_id=0, eos_token_id=1, pad_token_id=None)
# Printable ASCII, space and line break; with <s> and </s> all of the vocabulary.
LETTERS = [*map(chr, range(0x21, 0x7F)), "\u0120", "\u010a"]
# These put pairs in all three ranges of llama3, and in the middle of YaRN's ramp.
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=32)
EXPERTS = dict(intermediate_size=16, num_experts=6, num_experts_per_tok=3)
YARN = dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0,
            original_max_position_embeddings=256)


def plain(base):
    return dict(rope_type="default", rope_theta=base)


def longrope(original):
    return dict(rope_type="longrope", rope_theta=10000.0, attention_factor=1.25,
                original_max_position_embeddings=original,
                short_factor=[1.0, 1.05, 1.1], long_factor=[1.5, 2.25, 3.0])


# Name: class, and what differs from SMALL (None: not a key of the family).
# Under "longrope" transformers takes one list for a whole text, this program the list of the
# length so far: with original 1 these are the same, as the first token does not see its angle.
MODELS = {
    "llama": ("Llama", dict(head_dim=16, intermediate_size=16, rope_parameters=LLAMA3)),
    "llama-bias": ("Llama", dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
                                 rope_parameters=dict(rope_type="linear", rope_theta=10000.0,
                                                      factor=4.0))),
    "mistral": ("Mistral", dict(head_dim=12, sliding_window=WINDOW)),
    "phi2": ("Phi", dict(num_key_value_heads=2, rope_parameters=dict(
        plain(10000.0), partial_rotary_factor=0.5))),
    "gptneox": ("GPTNeoX", dict(num_key_value_heads=None, rope_parameters=dict(
        plain(10000.0), partial_rotary_factor=0.5))),
    "gptneox-sequential": ("GPTNeoX", dict(
        num_key_value_heads=None, use_parallel_residual=False,
        rope_parameters=dict(plain(25000.0), partial_rotary_factor=0.75))),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True, rope_parameters=YARN, num_hidden_layers=3,
                            max_position_embeddings=1024,
                            use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)),
    "qwen3": ("Qwen3", dict(head_dim=8, num_attention_heads=4, num_key_value_heads=2,
                            intermediate_size=16,
                            rope_parameters=plain(1000000.0))),
    "gemma": ("Gemma", dict(head_dim=8, num_attention_heads=4)),
    "gemma2": ("Gemma2", dict(head_dim=12, intermediate_size=16,
                              sliding_window=WINDOW, query_pre_attn_scalar=24, num_hidden_layers=3,
                              attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": ("Gemma3Text", dict(
        head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=8, num_hidden_layers=7,
        intermediate_size=8, rope_parameters=dict(
            full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
            sliding_attention=plain(10000.0)))),
    "smollm3": ("SmolLM3", dict(num_hidden_layers=4, intermediate_size=16, tie_word_embeddings=True,
                                rope_parameters=plain(5000000.0))),
    "granite": ("Granite", dict(embedding_multiplier=3.0, residual_multiplier=0.5,
                                attention_multiplier=0.125, logits_scaling=4.0,
                                tie_word_embeddings=True)),
    "olmo": ("Olmo", dict(clip_qkv=1.5, num_key_value_heads=2)),
    "olmo2": ("Olmo2", dict(rope_parameters=plain(500000.0))),
    "stablelm": ("StableLm", dict(use_qkv_bias=True, num_key_value_heads=2, rope_parameters=dict(
        plain(10000.0), partial_rotary_factor=0.5))),
    "stablelm-parallel": ("StableLm", dict(
        use_parallel_residual=True, qk_layernorm=True, rope_parameters=dict(
            plain(10000.0), partial_rotary_factor=0.75))),
    "phi3": ("Phi3", dict(sliding_window=WINDOW, original_max_position_embeddings=32,
                          rope_parameters=dict(longrope(32), partial_rotary_factor=0.75))),
    "phi3-long": ("Phi3", dict(original_max_position_embeddings=1, rope_parameters=dict(
        longrope(1), partial_rotary_factor=0.75))),
    "starcoder2": ("Starcoder2", dict(sliding_window=WINDOW, rope_parameters=plain(100000.0))),
    "gptj": ("GPTJ", dict(hidden_size=None, num_hidden_layers=None, num_attention_heads=None,
                          num_key_value_heads=None, intermediate_size=None,
                          max_position_embeddings=None, n_embd=16, n_layer=2, n_head=2,
                          n_inner=24, n_positions=64, rotary_dim=4)),
    "olmo3": ("Olmo3", dict(
        sliding_window=WINDOW, num_hidden_layers=4, intermediate_size=16, tie_word_embeddings=True,
        max_position_embeddings=1024, rope_parameters=dict(
            full_attention=YARN, sliding_attention=plain(1000000.0)))),
    "olmoe": ("Olmoe", dict(num_key_value_heads=2, **EXPERTS)),
    "qwen2moe": ("Qwen2Moe", dict(moe_intermediate_size=12, shared_expert_intermediate_size=20,
                                  **EXPERTS)),
    "qwen3moe": ("Qwen3Moe", dict(head_dim=8, num_attention_heads=4, norm_topk_prob=True,
                                  moe_intermediate_size=12, **EXPERTS)),
    "qwen3moe-dense": ("Qwen3Moe", dict(
        EXPERTS, head_dim=8, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=12,
        num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[1], use_sliding_window=True,
        sliding_window=WINDOW)),
    "mixtral": ("Mixtral", dict(EXPERTS, num_experts=None, num_local_experts=5,
                                num_experts_per_tok=2, rope_parameters=plain(1000000.0))),
}


def randomise(model, seed, kind=torch.float16):
    """Weights that `kind` can hold, at which attention is far from uniform and biases and norms
    matter."""
    g = torch.Generator().manual_seed(seed)
    centre = 0.0 if "Gemma" in type(model).__name__ else 1.0
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if p.dim() > 1:
                p.copy_(r * (0.5 if "emb" in name or "wte" in name else 1.4 / p.shape[1] ** 0.5))
            elif name.endswith("bias"):
                p.copy_(0.3 * r)
            else:
                p.copy_(centre + 0.2 * r)
            p.copy_(p.to(kind).float())


def make(name, seed, folder):
    """The model in `folder`, and (length, logits of the last token) at each length."""
    family, other = MODELS[name]
    keys = {k: v for k, v in {**SMALL, **other}.items() if v is not None or k == "pad_token_id"}
    config = getattr(transformers, family + "Config")(**keys)
    config._attn_implementation = "eager"
    cls = getattr(transformers, family.replace("Text", "") + "ForCausalLM")
    model = cls(config).float().eval()
    randomise(model, seed)
    with torch.no_grad():
        rows = [(n, model(torch.tensor([IDS[:n]]), use_cache=False).logits[0, -1].tolist())
                for n in LENGTHS]
    model.half().save_pretrained(folder)
    write_tokenizer(folder, LETTERS)
    return rows


def main():
    p = argparse.ArgumentParser()
    p.add_argument("-o", "--output", type=Path, default=ROOT / "tests" / "families")
    p.add_argument("--keep", type=Path)
    p.add_argument("names", nargs="*")
    a = p.parse_args()
    torch.set_num_threads(1)
    a.output.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(MODELS, 1):
        if a.names and name not in a.names:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = (a.keep or Path(scratch)) / name
            rows = make(name, seed, folder)
            (a.output / f"{name}.logits").write_bytes(pack_logits(IDS, rows))
            # llama.cpp looks for tokens of the real model where the name has phi3 in it.
            done = subprocess.run([sys.executable, str(ROOT / "export.py"), str(folder), "--name",
                                   "miniature", "-o", str(a.output / f"{name}.gguf")])
            if done.returncode:
                print(f"{name}: export.py failed")


if __name__ == "__main__":
    sys.exit(main())
