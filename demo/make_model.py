#!/usr/bin/env python3
"""Train the small demo model from scratch and write demo/model.gguf and demo/sample.txt.

Provisional: this PyTorch script stands in until a trainer in C takes its place. Nothing that is
built or run needs it; it is kept so that everyone can see where the weights come from.

Needs    Python >= 3.8, PyTorch >= 2.4 (CPU is enough) and ../export.py. No other package.
Text     "tiny shakespeare", 1,115,394 bytes of Shakespeare's plays (public domain), not kept in
         this repository; TEXT_SHA256 below says exactly which file.
Command  python3 demo/make_model.py --text tinyshakespeare.txt
Result   2600 steps, 31 minutes on one busy core of an EPYC (PyTorch 2.15); held-out loss 3.261
         nats per token (1.539 per byte), perplexity 26.1

What it makes: a llama-family model of about 0.9 million parameters (numbers in CONFIG) with a
byte-level BPE vocabulary of 768 tokens learnt from the same text. Every training window starts
with the token <s>, so that there is one place where attention can rest.

Rotary offset features form by themselves in this much training, attention sinks do not: no head
gives <s> more than 5 % of its attention over 512 tokens. With --start-on-bos the heads *start* as
sinks (see `rest_on_bos`) and the loss, which is the plain one, decides which of them stay so: 13
of 20 do (1800 steps, held-out loss 3.288). Such sinks are planted and kept, not discovered, and
they bring large mean queries in pairs 12..15 with them, so the model in this folder is made
without.

Order of this file: constants, text and vocabulary, model, training, measurement, files, CLI.
"""

import argparse
import hashlib
import json
import math
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
TEXT_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
HELD_OUT = 0.05         # the last 5 % of the text, never trained on
SAMPLE_BYTES = 4500     # sample.txt: about this much of the held-out part, whole speeches

BOS, EOS = 0, 1         # ids of <s> and </s>; 2..257 are the bytes, then one id per merge
SPECIAL = ["<s>", "</s>"]
VOCAB = 768

NAME = "ropescope demo"

CONFIG = {              # Hugging Face names, because config.json is written from it
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16",
    "hidden_size": 128, "intermediate_size": 288, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "vocab_size": VOCAB, "max_position_embeddings": 512, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
    "attention_bias": False, "mlp_bias": False, "rope_scaling": None,
    "bos_token_id": BOS, "eos_token_id": EOS,
}

BATCH, WINDOW = 4, 512          # windows per step, tokens per window (the first is <s>)
PEAK_LR, END_LR = 3e-3, 1e-4    # linear warm-up, then cosine
WARMUP, DECAY, CLIP = 100, 0.1, 1.0
BETAS = (0.9, 0.95)


# ---- text and vocabulary ---------------------------------------------------------------------

# The GPT-2 pre-tokenizer (`tokenizer.ggml.pre` = gpt-2), its letter and digit classes narrowed to
# ASCII, which is all this text has.
WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def byte_letters():
    """byte -> the character that stands for it in a byte-level vocabulary (GPT-2's table)."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in keep]
    return {**{b: chr(b) for b in keep}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def learn_merges(text, count):
    """Byte-pair encoding: `count` times, join the most frequent adjacent pair inside words.

    Ties go to the pair that sorts first, so that the result depends on the text alone."""
    letters = byte_letters()
    words = Counter(WORDS.findall(text))
    words = [([letters[b] for b in w.encode()], n) for w, n in words.items()]
    pairs, merges = Counter(), []
    for parts, n in words:
        count_pairs(pairs, parts, n)
    for _ in range(count):
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for i, (parts, n) in enumerate(words):
            if best[0] in parts and best in zip(parts, parts[1:]):
                count_pairs(pairs, parts, -n)
                words[i] = (join_pair(parts, best), n)
                count_pairs(pairs, words[i][0], n)
    return merges


def count_pairs(pairs, parts, n):
    for pair in zip(parts, parts[1:]):
        pairs[pair] += n


def join_pair(parts, pair):
    """The list `parts` with every non-overlapping occurrence of `pair`, leftmost first, joined."""
    out, i = [], 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


class Vocabulary:
    """Text to ids: split into words, then join pairs in the order in which they were learnt."""

    def __init__(self, merges):
        self.merges = merges
        self.letters = byte_letters()
        self.rank = {pair: i for i, pair in enumerate(merges)}
        tokens = SPECIAL + list(self.letters[b] for b in range(256)) + [a + b for a, b in merges]
        self.tokens = tokens
        self.id = {t: i for i, t in enumerate(tokens)}
        self.memo = {}

    def word(self, text):
        if text not in self.memo:
            parts = [self.letters[b] for b in text.encode()]
            while len(parts) > 1:
                best = min(zip(parts, parts[1:]), key=lambda p: self.rank.get(p, math.inf))
                if best not in self.rank:
                    break
                parts = join_pair(parts, best)
            self.memo[text] = [self.id[p] for p in parts]
        return self.memo[text]

    def encode(self, text):
        return [i for w in WORDS.findall(text) for i in self.word(w)]

    def decode(self, ids):
        byte = {c: b for b, c in self.letters.items()}
        chars = "".join(self.tokens[i] for i in ids if i > EOS)
        return bytes(byte[c] for c in chars).decode("utf-8", "replace")


def read_text(path):
    """The text, checked against TEXT_SHA256, cut at a speech into (training, held-out)."""
    data = Path(path).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != TEXT_SHA256:
        sys.exit(f"{path}: expected SHA-256 {TEXT_SHA256}, found {found}")
    text = data.decode()
    cut = text.index("\n\n", int(len(text) * (1 - HELD_OUT))) + 2
    return text[:cut], text[cut:]


# ---- model -----------------------------------------------------------------------------------
# Shapes: B windows, T positions, H query heads, K key heads, D = head_dim. Module names follow the
# checkpoint layout of LlamaForCausalLM, so that state_dict() is written as it is.

class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight"""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(CONFIG["hidden_size"]))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, CONFIG["rms_norm_eps"])


def angles(length):
    """cos and sin, [T, D/2]: position * theta^(-2j/D) for pair j, made of channels j, j + D/2."""
    half = CONFIG["head_dim"] // 2
    freq = CONFIG["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
    table = torch.outer(torch.arange(length, dtype=torch.float64), freq)
    return table.cos().float(), table.sin().float()


def rotate(x, cos, sin):
    """x [B, heads, T, D]: turn each pair by its angle."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        d, self.n_head = CONFIG["hidden_size"], CONFIG["num_attention_heads"]
        self.n_kv, self.d_head = CONFIG["num_key_value_heads"], CONFIG["head_dim"]
        self.q_proj = nn.Linear(d, self.n_head * self.d_head, bias=False)
        self.k_proj = nn.Linear(d, self.n_kv * self.d_head, bias=False)
        self.v_proj = nn.Linear(d, self.n_kv * self.d_head, bias=False)
        self.o_proj = nn.Linear(self.n_head * self.d_head, d, bias=False)
        self.watch = None       # a function of (q, k) before rotation and the attention rows

    def forward(self, x, cos, sin):
        size, length, _ = x.shape
        q, k, v = (p(x).view(size, length, -1, self.d_head).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))
        group = self.n_head // self.n_kv
        rq, rk = rotate(q, cos, sin), rotate(k, cos, sin).repeat_interleave(group, 1)
        v = v.repeat_interleave(group, 1)
        if self.watch:
            scores = rq @ rk.transpose(2, 3) / math.sqrt(self.d_head)
            future = torch.ones(length, length, dtype=torch.bool).triu(1)
            self.watch(q, k, scores.masked_fill(future, -math.inf).softmax(-1))
        y = F.scaled_dot_product_attention(rq, rk, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(size, length, -1))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))"""

    def __init__(self):
        super().__init__()
        d, f = CONFIG["hidden_size"], CONFIG["intermediate_size"]
        self.gate_proj = nn.Linear(d, f, bias=False)
        self.up_proj = nn.Linear(d, f, bias=False)
        self.down_proj = nn.Linear(f, d, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(), RMSNorm()
        self.self_attn, self.mlp = Attention(), MLP()

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, CONFIG["hidden_size"])
        self.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
        self.norm = RMSNorm()
        self.tables = angles(WINDOW)
        for name, p in self.named_parameters():
            if p.dim() == 2:    # the two projections that write to the residual start smaller
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, 0, 0.02 / (math.sqrt(2 * len(self.layers)) if out else 1))

    @torch.no_grad()
    def rest_on_bos(self):
        """Start with every head attending mostly to <s>, in the way of large trained models.

        <s> is one massive activation (channel 0), all other tokens share a constant (channel 1).
        The keys of the first and the queries of the second meet in the slowest pairs, which
        hardly turn over the window, with a score of about 8. The value of <s> starts at zero and
        channel 0 is hidden from the output."""
        self.embed_tokens.weight[:, :2] = torch.tensor([0.0, 0.1])
        self.embed_tokens.weight[BOS] = 0
        self.embed_tokens.weight[BOS, 0] = 20.0
        self.norm.weight[0] = 0
        half = CONFIG["head_dim"] // 2
        for layer in self.layers:
            a = layer.self_attn
            for weight, channel, size in ((a.q_proj.weight, 1, 0.8), (a.k_proj.weight, 0, 0.3)):
                weight.view(-1, 2 * half, weight.shape[1])[:, half - 4:half, channel] = size
            a.v_proj.weight[:, 0] = 0

    def forward(self, ids):
        cos, sin = (t[:ids.shape[1]] for t in self.tables)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x) @ self.embed_tokens.weight.T     # tied: logits [B, T, VOCAB]


# ---- training --------------------------------------------------------------------------------

def windows(ids, starts, length):
    """[len(starts), length + 1]: <s> and `length` tokens; inputs are [:, :-1], targets [:, 1:]."""
    rows = [torch.cat((torch.tensor([BOS]), ids[s:s + length])) for s in starts]
    return torch.stack(rows)


def loss_of(model, batch):
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def learning_rate(step, steps):
    if step < WARMUP:
        return PEAK_LR * (step + 1) / WARMUP
    phase = (step - WARMUP) / max(1, steps - WARMUP)
    return END_LR + (PEAK_LR - END_LR) * 0.5 * (1 + math.cos(math.pi * phase))


@torch.no_grad()
def held_out_loss(model, ids):
    """Mean loss in nats per token over all whole held-out windows, end to end."""
    batch = windows(ids, range(0, len(ids) - WINDOW + 1, WINDOW), WINDOW)
    return sum(loss_of(model, row[None]).item() for row in batch) / len(batch)


def optimizer_of(model):
    """AdamW; matrices decay, norm weights do not."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=BETAS, eps=1e-8)


def train(model, ids, held_out, steps):
    optimizer, began = optimizer_of(model), time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        starts = torch.randint(len(ids) - WINDOW, (BATCH,)).tolist()
        loss = loss_of(model, windows(ids, starts, WINDOW))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if step % 200 == 199 or step + 1 == steps:
            sinks = [x for row in measure(model, held_out[:8 * WINDOW], WINDOW)[0] for x in row]
            print(f"step {step + 1}/{steps}  train {loss.item():.3f}  "
                  f"held-out {held_out_loss(model, held_out):.4f}  "
                  f"heads with a sink {sum(x > 0.3 for x in sinks)} (most {max(sinks):.2f})  "
                  f"{(time.time() - began) / 60:.1f} min", flush=True)


# ---- measurement -----------------------------------------------------------------------------

@torch.no_grad()
def measure(model, ids, length):
    """Per layer and head: mean attention on position 0 over queries 1..T-1, and the mean q and k.

    Returns sink [L][H], and for q and k the length of the mean of each pair, [L][heads][D/2]:
    a pair whose mean is long before rotation is a rotary offset feature."""
    seen = [{"n": 0, "sink": 0, "q": 0, "k": 0} for _ in model.layers]

    def watcher(sums):
        def watch(q, k, rows):
            sums["n"] += 1
            sums["sink"] += rows[0, :, 1:, 0].mean(-1)
            sums["q"] += q[0].mean(1)
            sums["k"] += k[0].mean(1)
        return watch

    for layer, sums in zip(model.layers, seen):
        layer.self_attn.watch = watcher(sums)
    for row in windows(ids, range(0, len(ids) - length + 1, length), length - 1):
        model(row[None])
    for layer in model.layers:
        layer.self_attn.watch = None
    half = CONFIG["head_dim"] // 2
    pair = {c: [torch.hypot(*(s[c] / s["n"]).split(half, 1)).tolist() for s in seen] for c in "qk"}
    return [(s["sink"] / s["n"]).tolist() for s in seen], pair["q"], pair["k"]


def print_measurements(model, ids):
    for length in (64, WINDOW):
        sink, q, k = measure(model, ids, length)
        flat = [x for row in sink for x in row]
        print(f"mean attention on position 0, windows of {length} tokens "
              f"({sum(x > 0.3 for x in flat)} of {len(flat)} heads above 0.3):")
        for l, row in enumerate(sink):
            print(f"  layer {l}: " + " ".join(f"{x:.3f}" for x in row))
    print(f"length of the mean of each pair before rotation, windows of {WINDOW} tokens; "
          "pairs with theta * 512 < 2 pi are 8..15:")
    for name, table in (("q", q), ("k", k)):
        for l, heads in enumerate(table):
            for h, row in enumerate(heads):
                print(f"  {name} layer {l} head {h}: " + " ".join(f"{x:.2f}" for x in row))


@torch.no_grad()
def generate(model, vocab, prompt, count, temperature=0.8):
    ids = [BOS] + vocab.encode(prompt)
    for _ in range(count):
        logits = model(torch.tensor([ids[-WINDOW:]]))[0, -1]
        ids.append(torch.multinomial((logits / temperature).softmax(-1), 1).item())
    return vocab.decode(ids)


# ---- files -----------------------------------------------------------------------------------

def write_safetensors(path, tensors):
    """u64 header length, JSON header padded with spaces to a multiple of 8, then the data."""
    header, blobs, at = {}, [], 0
    for name, t in tensors.items():
        t = t.detach().contiguous()
        blob = t.numpy().tobytes()
        header[name] = {"dtype": {torch.float16: "F16", torch.float32: "F32"}[t.dtype],
                        "shape": list(t.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def tokenizer_json(vocab):
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    bos = {"SpecialToken": {"id": SPECIAL[BOS], "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, t in enumerate(SPECIAL)]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": None, "pre_tokenizer": byte_level, "decoder": byte_level,
            "post_processor": {
                "type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text, text],
                "special_tokens": {SPECIAL[BOS]: {"id": SPECIAL[BOS], "ids": [BOS],
                                                  "tokens": [SPECIAL[BOS]]}}},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "ignore_merges": False,
                      "vocab": vocab.id, "merges": [f"{a} {b}" for a, b in vocab.merges]}}


def write_checkpoint(folder, model, vocab):
    """A Hugging Face folder. Matrices become F16; norm weights stay F32 (they are tiny)."""
    tensors = {"model." + name: p.half() if p.dim() == 2 else p
               for name, p in model.named_parameters()}
    write_safetensors(folder / "model.safetensors", tensors)
    settings = {"bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS], "add_bos_token": True,
                "add_eos_token": False, "clean_up_tokenization_spaces": False,
                "tokenizer_class": "PreTrainedTokenizerFast"}
    for name, content in (("config.json", CONFIG), ("tokenizer.json", tokenizer_json(vocab)),
                          ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def sample_of(held_out):
    """The first speeches of the held-out text that end before SAMPLE_BYTES."""
    return held_out[:held_out.rindex("\n\n", 0, SAMPLE_BYTES) + 1]


# ---- command line ----------------------------------------------------------------------------

def arguments():
    p = argparse.ArgumentParser(description="Train the demo model and write it as GGUF.")
    p.add_argument("--text", required=True, metavar="FILE", help="tinyshakespeare.txt")
    p.add_argument("-o", "--output", type=Path, default=HERE / "model.gguf", metavar="FILE")
    p.add_argument("--sample", type=Path, default=HERE / "sample.txt", metavar="FILE",
                   help="where the held-out sample text goes (default: demo/sample.txt)")
    p.add_argument("--keep", type=Path, metavar="DIR",
                   help="keep the Hugging Face folder and the float32 weights here; weights that "
                        "are already there are used instead of training")
    p.add_argument("--start-on-bos", action="store_true",
                   help="start with every head attending to <s>")
    p.add_argument("--steps", type=int, default=2600)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    return p.parse_args()


def main():
    a = arguments()
    torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)
    training, held_out = read_text(a.text)
    vocab = Vocabulary(learn_merges(training, VOCAB - 256 - len(SPECIAL)))
    ids, held_ids = (torch.tensor(vocab.encode(t)) for t in (training, held_out))
    model = Llama()
    if a.start_on_bos:
        model.rest_on_bos()
    print(f"{sum(p.numel() for p in model.parameters())} parameters; {len(ids)} training and "
          f"{len(held_ids)} held-out tokens, {len(held_out.encode()) / len(held_ids):.3f} bytes "
          "per held-out token", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "weights.pt"
        if weights.exists():
            model.load_state_dict(torch.load(weights, weights_only=True))
        else:
            train(model, ids, held_ids, a.steps)
            torch.save(model.state_dict(), weights)
        write_checkpoint(folder, model, vocab)
        subprocess.run([sys.executable, str(HERE.parent / "export.py"), str(folder),
                        "-o", str(a.output), "--name", NAME], check=True)
    a.sample.write_text(sample_of(held_out))
    print(f"held-out loss {held_out_loss(model, held_ids):.4f} nats per token")
    print_measurements(model, held_ids)
    print(generate(model, vocab, "\n", 200))


if __name__ == "__main__":
    main()
