#!/usr/bin/env python3
"""Logits of ropescope against Hugging Face transformers (float32, eager) on the same GGUF weights.

    make compare MODEL=model.gguf TEXT=text.txt N=64

Needs numpy, torch, transformers and gguf from PyPI; nothing of it is needed to build or run the
program. The weights are dequantized to float32 by gguf-py, rows of q and k put back in Hugging
Face's order. Prints max and rms difference for --exact and for int8 activations.
"""
import re
import subprocess
import sys
import tempfile

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def half_split(w, n_head):
    """Rows of adjacent pairs (2j, 2j + 1) of each head to (j, j + head_dim / 2)."""
    pairs = w.reshape(n_head, w.shape[0] // n_head // 2, 2, *w.shape[1:])
    return pairs.swapaxes(1, 2).reshape(w.shape)


def hf_name(name):
    fixed = {"token_embd.weight": "model.embed_tokens.weight",
             "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
    if name in fixed:
        return fixed[name]
    layer, kind, what = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name).groups()
    return f"model.layers.{layer}.{NAMES[kind]}.{what}"


def read_tensors(reader, n_head, n_kv):
    state, divisors = {}, None
    for t in reader.tensors:
        shape = tuple(int(d) for d in reversed(t.shape))
        w = np.array(dequantize(t.data, t.tensor_type), np.float32).reshape(shape)
        if t.name == "rope_freqs.weight":
            divisors = torch.from_numpy(w)
            continue
        if ".attn_q." in t.name or ".attn_k." in t.name:
            w = half_split(w, n_head if ".attn_q." in t.name else n_kv)
        state[hf_name(t.name)] = torch.from_numpy(np.ascontiguousarray(w))
    return state, divisors


def load(path):
    reader = GGUFReader(path)
    kv = {k: f.contents() for k, f in reader.fields.items() if k.startswith("llama.")}
    n_head = kv["llama.attention.head_count"]
    n_kv = kv.get("llama.attention.head_count_kv", n_head)
    dim = kv["llama.embedding_length"]
    state, divisors = read_tensors(reader, n_head, n_kv)
    config = LlamaConfig(
        vocab_size=state["model.embed_tokens.weight"].shape[0], hidden_size=dim,
        intermediate_size=kv["llama.feed_forward_length"],
        num_hidden_layers=kv["llama.block_count"], num_attention_heads=n_head,
        num_key_value_heads=n_kv,
        head_dim=kv.get("llama.attention.key_length", dim // n_head),
        rms_norm_eps=kv["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default",
                         "rope_theta": kv.get("llama.rope.freq_base", 10000.0)},
        tie_word_embeddings="lm_head.weight" not in state,
        attention_bias="model.layers.0.self_attn.q_proj.bias" in state)
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).float().eval()
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state, strict=True)
    if divisors is not None:
        model.model.rotary_emb.inv_freq /= divisors
    return model


def main(program, dump, path, text, n):
    ids = subprocess.run([program, "tokenize", path, "-f", text, "--ids"], check=True,
                         stdout=subprocess.PIPE).stdout.split()[:int(n)]
    with torch.no_grad():
        want = load(path)(torch.tensor([[int(i) for i in ids]])).logits[0].double().numpy()
    print(f"{path}: {len(ids)} tokens, max |logit| {np.abs(want).max():.4g}")
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/ids", "wb") as f:
            f.write(b" ".join(ids))
        for mode in ("exact", "int8"):
            subprocess.run([dump, path, f"{folder}/ids", f"{folder}/out", mode], check=True)
            diff = np.fromfile(f"{folder}/out", np.float32).reshape(want.shape) - want
            print(f"  {mode:5}  max |difference| {np.abs(diff).max():.3g}, "
                  f"rms {np.sqrt((diff ** 2).mean()):.3g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
