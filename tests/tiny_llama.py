#!/usr/bin/env python3
"""A random llama model small enough for plain Python, and its logits in double precision.

    tiny_llama.py --seed 1 -o tiny.gguf         writes tiny.gguf and tiny.gguf.json
    tiny_llama.py --seed 1 -o tiny.gguf --hf FOLDER [--shards N]
                                                and the same weights as a Hugging Face folder
    tiny_llama.py --compare GOLDEN.json LOGITS TOLERANCE

--dtype F16 or BF16 rounds the weights first (the GGUF holds them as F32 still); --tied ties the
output to the embedding; --rope linear or llama3 scales the rotary frequencies.

tiny.gguf.json: {"model", "seed", "text", "ids": [8], "logits": [8][260]}. The logits follow the
definition of the forward pass in double precision: a reference that shares no code with the
runtime. export.py beside this folder supplies the GGUF writer and nothing of the arithmetic.
LOGITS is what tests/dump_logits writes, float32 [tokens, vocab].

Order of this file: the model; its logits; files; command line.
"""

import argparse
import json
import math
import random
import struct
import sys
from pathlib import Path
from typing import Any, Dict, List

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from export import (CONTROL, NORMAL, BadInput, Config, Tensor, Tokenizer, values, wanted,
                    write_model, write_whole)
from tiny import byte_letters, write_json

# ---- the model -------------------------------------------------------------------------------

TINY = Config(n_layer=2, d_model=64, n_head=4, n_kv=2, d_head=16, d_ff=96, n_vocab=260, n_ctx=64,
              eps=1e-5, base=10000.0, tied=False)
# As config.json spells them. Context 32 puts the pairs of llama3 in all of its three branches.
ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
}
TEXT = "the moth's"
TOKENS = ("<s>", "the", "\u0120", "m", "o", "th", "'", "s")     # U+0120 is the space
MERGES = ("t h", "th e")


def tiny_tokenizer() -> Tokenizer:
    """Ids 0 and 1 are <s> and </s>, byte b is b + 2, and two merges make "th" and "the"."""
    t = Tokenizer("gpt2")
    t.pre, t.merges = "gpt-2", list(MERGES)
    t.add("<s>", CONTROL)
    t.add("</s>", CONTROL)
    for token in [*byte_letters(), "th", "the"]:
        t.add(token, NORMAL)
    t.ids, t.flags = {"bos": 0, "eos": 1}, {"add_bos_token": True, "add_eos_token": False}
    return t


def rounded(x: float, dtype: str) -> float:
    """The F32, F16 or BF16 number nearest to x (BF16: to the F32 nearest to x, ties to even)."""
    if dtype == "F16":
        return struct.unpack("<e", struct.pack("<e", x))[0]
    x = struct.unpack("<f", struct.pack("<f", x))[0]
    if dtype == "BF16":
        bits = struct.unpack("<I", struct.pack("<f", x))[0]
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        x = struct.unpack("<f", struct.pack("<I", bits))[0]
    return x


def tiny_weights(config: Config, seed: int, dtype: str) -> Dict[str, Any]:
    """Random values of `dtype` under their GGUF names: lists of rows, or a list for a norm.

    Matrices are scaled by 1.5 / sqrt(columns), so that attention is far from uniform."""
    rng, sizes, weights = random.Random(seed), config.letters(), {}
    for _, name, letters, _, _ in wanted(config, config.tied):
        shape = [sizes[c] for c in letters]
        if len(shape) == 1:
            weights[name] = [rounded(1 + 0.2 * rng.gauss(0, 1), dtype) for _ in range(shape[0])]
        else:
            scale = 1.5 / math.sqrt(shape[1])
            weights[name] = [[rounded(scale * rng.gauss(0, 1), dtype) for _ in range(shape[1])]
                             for _ in range(shape[0])]
    return weights


# ---- its logits ------------------------------------------------------------------------------

def frequencies(config: Config) -> List[float]:
    """[D/2]: base^(-2j/D), scaled as transformers does (modeling_rope_utils.py)."""
    s, plain = config.scaling, [config.base ** (-2 * j / config.d_head)
                                for j in range(config.d_head // 2)]
    if s["rope_type"] == "default":
        return plain
    if s["rope_type"] == "linear":
        return [f / s["factor"] for f in plain]
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    scaled = []
    for f in plain:
        turns = s["original_max_position_embeddings"] * f / (2 * math.pi)
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        scaled.append((1 - smooth) * f / s["factor"] + smooth * f)
    return scaled


def matvec(rows, x):
    return [math.fsum(w * v for w, v in zip(row, x)) for row in rows]


def rms_norm(x, weight, eps):
    """x / sqrt(mean(x^2) + eps) * weight"""
    r = 1 / math.sqrt(math.fsum(v * v for v in x) / len(x) + eps)
    return [v * r * w for v, w in zip(x, weight)]


def rotate_pairs(x, pos, freqs):
    """One head: channels (2j, 2j + 1) turned by the angle pos * freqs[j]."""
    out = []
    for j, freq in enumerate(freqs):
        c, s = math.cos(pos * freq), math.sin(pos * freq)
        out += [x[2 * j] * c - x[2 * j + 1] * s, x[2 * j] * s + x[2 * j + 1] * c]
    return out


def attend(q, keys, vals):
    """One head: softmax(q.k / sqrt(D)) over all positions so far, applied to the values."""
    scores = [math.fsum(a * b for a, b in zip(q, k)) / math.sqrt(len(q)) for k in keys]
    top = max(scores)
    e = [math.exp(s - top) for s in scores]
    total = math.fsum(e)
    return [math.fsum(p / total * v[i] for p, v in zip(e, vals)) for i in range(len(q))]


def attention(config: Config, weight, x, pos, cache):
    """Attention of one layer for one token; `cache` is [(keys, values)] per key head."""
    c, d, freqs = config, config.d_head, frequencies(config)
    q, k, v = (matvec(weight(f"attn_{n}.weight"), x) for n in "qkv")
    for kh, (keys, vals) in enumerate(cache):
        keys.append(rotate_pairs(k[kh * d:(kh + 1) * d], pos, freqs))
        vals.append(v[kh * d:(kh + 1) * d])
    out = []
    for h in range(c.n_head):
        rotated = rotate_pairs(q[h * d:(h + 1) * d], pos, freqs)
        out += attend(rotated, *cache[h // (c.n_head // c.n_kv)])
    return matvec(weight("attn_output.weight"), out)


def feed_forward(weight, x):
    """down(silu(gate(x)) * up(x))"""
    gate, up = matvec(weight("ffn_gate.weight"), x), matvec(weight("ffn_up.weight"), x)
    return matvec(weight("ffn_down.weight"), [g / (1 + math.exp(-g)) * u
                                              for g, u in zip(gate, up)])


def golden_logits(config: Config, weights, ids: List[int]) -> List[List[float]]:
    """[tokens, vocab] in double; the epsilon is the F32 number that the file holds."""
    eps, logits = rounded(config.eps, "F32"), []
    output = weights["token_embd.weight" if config.tied else "output.weight"]
    caches = [[([], []) for _ in range(config.n_kv)] for _ in range(config.n_layer)]
    for pos, token in enumerate(ids):
        x = weights["token_embd.weight"][token]
        for l, cache in enumerate(caches):
            def weight(name, prefix=f"blk.{l}."):
                return weights[prefix + name]
            y = attention(config, weight, rms_norm(x, weight("attn_norm.weight"), eps), pos, cache)
            x = [a + b for a, b in zip(x, y)]
            y = feed_forward(weight, rms_norm(x, weight("ffn_norm.weight"), eps))
            x = [a + b for a, b in zip(x, y)]
        x = rms_norm(x, weights["output_norm.weight"], eps)
        logits.append(matvec(output, x))
    return logits


# ---- files -----------------------------------------------------------------------------------

def matrix(name: str, rows: List[List[float]]) -> Tensor:
    flat = values(name, [x for row in rows for x in row])
    return flat._replace(shape=(len(rows), len(rows[0])))


def write_golden(path: Path, a, config: Config, weights):
    """The model as GGUF, and beside it `path`.json."""
    t = tiny_tokenizer()
    index = {token: i for i, token in enumerate(t.tokens)}
    ids = [index[token] for token in TOKENS]
    tensors = [matrix(n, w) if isinstance(w[0], list) else values(n, w)
               for n, w in weights.items()]
    if a.rope == "llama3":
        plain = frequencies(config._replace(scaling=ROPES["default"]))
        divisors = [f / g for f, g in zip(plain, frequencies(config))]
        tensors.append(values("rope_freqs.weight", divisors))
    write_model(path, f"tiny llama, seed {a.seed}", config, t, tensors)
    golden = {"model": path.name, "seed": a.seed, "text": TEXT, "ids": ids,
              "logits": golden_logits(config, weights, ids)}
    text = json.dumps(golden, separators=(",", ":")).replace("],[", "],\n[") + "\n"
    write_whole(path.with_name(path.name + ".json"), lambda f: f.write(text.encode()))


def halved(rows, d: int):
    """Rows of q or k in Hugging Face's order: head by head, first all of the pairs' first
    channels (rows 2j of GGUF's llama), then all of their second ones (rows 2j + 1)."""
    out = []
    for head in range(0, len(rows), d):
        out += rows[head:head + d:2] + rows[head + 1:head + d:2]
    return out


def pack(numbers, dtype: str) -> bytes:
    if dtype == "BF16":
        return b"".join(struct.pack("<f", x)[2:] for x in numbers)
    return struct.pack(f"<{len(numbers)}{'e' if dtype == 'F16' else 'f'}", *numbers)


def write_safetensors(path: Path, found: Dict[str, Any], dtype: str):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, w in found.items():
        rows = w if isinstance(w[0], list) else [w]
        packed = pack([x for row in rows for x in row], dtype)
        shape = [len(w), len(w[0])] if isinstance(w[0], list) else [len(w)]
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_checkpoint(folder: Path, a, config: Config, weights):
    """model.safetensors, or N shards (tensors dealt in turn) and their index."""
    found = {}
    for hf, gguf, _, order, _ in wanted(config, config.tied):
        found[hf] = halved(weights[gguf], config.d_head) if order else weights[gguf]
    if a.shards == 1:
        return write_safetensors(folder / "model.safetensors", found, a.dtype)
    where = {}
    for i in range(a.shards):
        name = f"model-{i + 1:05}-of-{a.shards:05}.safetensors"
        part = {n: found[n] for n in list(found)[i::a.shards]}
        where.update({n: name for n in part})
        write_safetensors(folder / name, part, a.dtype)
    write_json(folder / "model.safetensors.index.json", {"weight_map": where})


def hf_tokenizer():
    """tokenizer.json of tiny_tokenizer(): GPT-2's split rule, <s> in front."""
    t = tiny_tokenizer()
    added = [{"id": i, "content": t.tokens[i], "special": True} for i in (0, 1)]
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}]
    return {
        "version": "1.0", "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": {"type": "TemplateProcessing", "single": single},
        "model": {"type": "BPE", "ignore_merges": False, "merges": list(MERGES),
                  "vocab": {token: i for i, token in enumerate(t.tokens)}},
    }


def write_hf(folder: Path, a, config: Config, weights):
    """config.json, the weights and tokenizer.json, as transformers lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    c = config
    write_json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": c.d_model, "intermediate_size": c.d_ff, "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head, "num_key_value_heads": c.n_kv, "vocab_size": c.n_vocab,
        "max_position_embeddings": c.n_ctx, "rms_norm_eps": c.eps, "rope_theta": c.base,
        "rope_scaling": None if a.rope == "default" else ROPES[a.rope],
        "tie_word_embeddings": c.tied, "bos_token_id": 0, "eos_token_id": 1})
    write_json(folder / "tokenizer.json", hf_tokenizer())
    write_json(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    write_checkpoint(folder, a, config, weights)


# ---- command line ----------------------------------------------------------------------------

def compare(golden: Path, logits: Path, tolerance: float) -> int:
    """Status 0 if every logit is within `tolerance` of the golden one; NaN never is."""
    want = [x for row in json.loads(golden.read_text(encoding="utf-8"))["logits"] for x in row]
    data = logits.read_bytes()
    if len(data) != 4 * len(want):
        print(f"{logits}: expected {len(want)} logits, found {len(data) / 4:g}")
        return 1
    have = struct.unpack(f"<{len(want)}f", data)
    good = all(abs(x - y) <= tolerance for x, y in zip(have, want))
    print(f"{logits}: largest difference {max(abs(x - y) for x, y in zip(have, want)):.2g}, "
          f"allowed {tolerance:g}, largest logit {max(map(abs, want)):.2g}")
    return 0 if good else 1


def arguments():
    p = argparse.ArgumentParser(description="A random miniature llama and its golden logits.")
    p.add_argument("-o", "--output", type=Path, metavar="OUT.gguf")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--dtype", choices=["F32", "F16", "BF16"], default="F32")
    p.add_argument("--tied", action="store_true")
    p.add_argument("--rope", choices=list(ROPES), default="default")
    p.add_argument("--hf", type=Path, metavar="FOLDER")
    p.add_argument("--shards", type=int, default=1)
    p.add_argument("--compare", nargs=3, metavar=("GOLDEN.json", "LOGITS", "TOLERANCE"))
    a = p.parse_args()
    if not a.output and not a.compare:
        p.error("give -o OUT.gguf or --compare")
    return a


def main():
    a = arguments()
    if a.compare:
        return compare(Path(a.compare[0]), Path(a.compare[1]), float(a.compare[2]))
    config = TINY._replace(tied=a.tied, scaling=ROPES[a.rope])
    weights = tiny_weights(config, a.seed, a.dtype)
    try:
        write_golden(a.output, a, config, weights)
        if a.hf:
            write_hf(a.hf, a, config, weights)
    except BadInput as problem:
        print(f"tiny_llama.py: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
