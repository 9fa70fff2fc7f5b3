"""Random miniature models as Hugging Face folders, and their logits in double precision.

Used by export.py --tiny (which writes the GGUF from such a folder), by make_miniatures.py and by
compare_tiny.py. Plain Python >= 3.8, standard library only.

The forward pass below is a reference that shares no code with the runtime or with export.py: it is
written from the definitions of the architectures, over the tensors and the config.json of Hugging
Face, so that what an export reorders, joins, adds or leaves out is tested as well. A checkpoint
is what the forward pass asks for: the first time it names a tensor, its values are drawn.

Values come from random.Random seeded with "SEED NAME", whose random() Python promises to keep, by
additions, one multiplication and a rounding to float32: the same on every machine and Python.
Sums of products are exact (math.fsum). Only cos, sin, exp, tanh, erf, log and powers come from the
C library, and may differ between two machines in the last bit of a double. The logits are written
as float32, where one in millions might show it.

File of logits, little-endian (also tests/families/*.logits, read by test_families.c):
    int32 n, int32 ids[n], int32 rows, then for each row int32 length and float32 logits[vocab]
    of the last of the first `length` ids

Order of this file: architectures; random values; rotary encoding; forward; files.
"""
import json
import math
import random
import struct
from operator import mul
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

# ---- architectures ---------------------------------------------------------------------------

WINDOW = 8
LENGTHS = (1, WINDOW - 1, 3 * WINDOW)
IDS = [(7 * i * i + 13 * i + 3) % 97 for i in range(LENGTHS[-1])]
# Of every config.json, under llama's names. Texts of 24 tokens are inside the context.
COMMON = {
    "vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    "hidden_act": "silu",
}
EPS = 2.0 ** -10     # large, so that a wrong one shows


class Form(NamedTuple):
    """What sets an architecture apart. Names are those of Hugging Face."""
    cls: str
    model_type: str
    config: Dict[str, Any] = {}     # of config.json, beside COMMON; None: not a key of it
    norm: str = "rms"               # rms; gemma: rms times 1 + weight; layer; bare: no weights
    eps: str = "rms_norm_eps"
    norms: Tuple[str, ...] = ("input_layernorm", "", "post_attention_layernorm", "")
    #                                 before and after attention, before and after feed-forward
    parallel: bool = False          # feed-forward takes the input of attention, too
    qkv: str = "apart"              # joined: q, k, v; turns: q, k, v of each head
    qk_norm: str = ""               # head: of one head; all: of all heads; each: layer norms
    act: str = "silu"               # silu, gelu, tanh
    mlp: Tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    #                                 two names: joined gate and up if act is silu, else no gate
    router: str = ""                # of a mixture of experts
    experts: Tuple[str, ...] = ()   # matrices of expert {}
    biases: str = ""                # q: of q, k, v; o: output; m: feed-forward; h: head
    embed: str = "model.embed_tokens"
    layer: str = "model.layers.{}."
    attn: str = "self_attn."
    out: str = "o_proj"
    last: str = "model.norm"
    head: str = "lm_head"
    adjacent: bool = False          # pair j is (2j, 2j + 1), else (j, j + n_rot/2)
    local: Callable[[int], bool] = lambda l: False      # has layer l the window?
    turns: Callable[[int], bool] = lambda l: True       # does layer l turn q and k?


def always(_layer: int) -> bool:
    return True


LLAMA = Form("LlamaForCausalLM", "llama")
LAYER = dict(norm="layer", eps="layer_norm_eps")
SANDWICH = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
            "post_feedforward_layernorm")
GEMMA = dict(norm="gemma", act="tanh")
GEMMA_KEYS = {"head_dim": 16, "num_key_value_heads": 1, "tie_word_embeddings": True,
              "hidden_act": None, "hidden_activation": "gelu_pytorch_tanh"}
PHI = Form("PhiForCausalLM", "phi", {"hidden_act": "gelu_new", "partial_rotary_factor": 0.5},
           norms=("input_layernorm", "", "", ""), parallel=True, act="tanh",
           mlp=("mlp.fc1", "mlp.fc2"), biases="qomh", out="dense", last="model.final_layernorm",
           **LAYER)
PHI3 = Form("Phi3ForCausalLM", "phi3", qkv="joined", mlp=("mlp.gate_up_proj", "mlp.down_proj"))
NEOX = Form("GPTNeoXForCausalLM", "gpt_neox", {
    "num_key_value_heads": None, "hidden_act": "gelu", "rotary_pct": 0.5,
    "rotary_emb_base": 10000}, parallel=True, qkv="turns", act="gelu",
    mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"), biases="qom", embed="gpt_neox.embed_in",
    layer="gpt_neox.layers.{}.", attn="attention.", out="dense",
    last="gpt_neox.final_layer_norm", head="embed_out", **LAYER)
MIXTURE = dict(router="mlp.gate", experts=(
    "mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj"))
OLMO2 = Form("Olmo2ForCausalLM", "olmo2", {"rope_theta": 500000.0}, qk_norm="all",
             norms=("", "post_attention_layernorm", "", "post_feedforward_layernorm"))
STABLE = Form("StableLmForCausalLM", "stablelm", {"partial_rotary_factor": 0.5}, **LAYER)


def form(base: Form, config: Dict[str, Any], **other) -> Form:
    return base._replace(config={**base.config, **config}, **other)


def scaled(kind: str, **other) -> Dict[str, Any]:
    return {"rope_type": kind, **other}


def longrope(original: int, **other) -> Dict[str, Any]:
    """Divisors that float32 can hold. transformers takes one list for a whole text, ropescope the
    list of the length so far: with original 1 these are the same, as the first token does not
    see its angle."""
    return {"original_max_position_embeddings": original, "partial_rotary_factor": 0.75,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.125, 1.25],
                             "long_factor": [1.5, 2.25, 4.0], **other}}


ARCHS = {
    "llama": form(LLAMA, {"head_dim": 16, "rope_scaling": scaled(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32)}),
    "llama-bias": form(LLAMA, {
        "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
        "rope_scaling": scaled("linear", factor=4.0)}, biases="qom"),
    "mistral": Form("MistralForCausalLM", "mistral", {"head_dim": 16, "sliding_window": WINDOW},
                    local=always),
    "smollm3": Form("SmolLM3ForCausalLM", "smollm3", {
        "num_hidden_layers": 4, "tie_word_embeddings": True, "rope_theta": 5000000.0},
        turns=lambda l: l % 4 != 3),
    "smollm3-window": Form("SmolLM3ForCausalLM", "smollm3", {
        "num_hidden_layers": 3, "no_rope_layers": [1, 0, 1], "use_sliding_window": True,
        "attention_bias": True, "sliding_window": WINDOW, "rope_theta": 20000.0,
        "layer_types": ["full_attention", "full_attention", "sliding_attention"]},
        biases="qo", local=lambda l: l == 2, turns=lambda l: l != 1),
    "granite": Form("GraniteForCausalLM", "granite", {
        "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.25,
        "logits_scaling": 4.0, "tie_word_embeddings": True}),
    "qwen2": Form("Qwen2ForCausalLM", "qwen2", {
        "num_hidden_layers": 3, "tie_word_embeddings": True, "use_sliding_window": True,
        "sliding_window": WINDOW, "max_window_layers": 1, "max_position_embeddings": 1024,
        "rope_theta": 1000000.0,
        "rope_scaling": scaled("yarn", factor=4.0, original_max_position_embeddings=256)},
        biases="q", local=lambda l: l >= 1),
    "qwen3": Form("Qwen3ForCausalLM", "qwen3", {"head_dim": 16, "rope_theta": 1000000.0},
                  qk_norm="head"),
    "phi2": PHI,
    "phi3": form(PHI3, {"sliding_window": WINDOW, **longrope(32)}, local=always),
    "phi3-long": form(PHI3, longrope(1, attention_factor=1.25)),
    "gptneox": NEOX,
    "gptneox-sequential": form(NEOX, {"use_parallel_residual": False, "rotary_pct": 0.75,
                                      "rotary_emb_base": 25000}, parallel=False),
    "gptj": Form("GPTJForCausalLM", "gptj", {
        **{key: None for key in COMMON if key.startswith(("hid", "int", "num", "max"))},
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64, "n_positions": 64,
        "rotary_dim": 4, "activation_function": "gelu_new"}, norm="layer",
        eps="layer_norm_epsilon", norms=("ln_1", "", "", ""), parallel=True, act="tanh",
        mlp=("mlp.fc_in", "mlp.fc_out"), biases="mh", embed="transformer.wte",
        layer="transformer.h.{}.", attn="attn.", out="out_proj", last="transformer.ln_f",
        adjacent=True),
    "olmo": Form("OlmoForCausalLM", "olmo", {"clip_qkv": 1.5}, norm="bare", eps=""),
    "olmo2": OLMO2,
    "olmo3": form(OLMO2, {
        "num_hidden_layers": 4, "sliding_window": WINDOW, "max_position_embeddings": 1024,
        "rope_scaling": scaled("yarn", factor=4.0, original_max_position_embeddings=256)},
        cls="Olmo3ForCausalLM", model_type="olmo3", local=lambda l: l % 4 != 3),
    "gemma": Form("GemmaForCausalLM", "gemma", GEMMA_KEYS, **GEMMA),
    "gemma2": Form("Gemma2ForCausalLM", "gemma2", {
        **GEMMA_KEYS, "num_hidden_layers": 3, "sliding_window": WINDOW,
        "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0}, norms=SANDWICH, local=lambda l: l % 2 == 0, **GEMMA),
    "gemma3": Form("Gemma3ForCausalLM", "gemma3_text", {
        **GEMMA_KEYS, "num_hidden_layers": 7, "sliding_window": WINDOW,
        "query_pre_attn_scalar": 16, "rope_theta": 1000000.0, "rope_local_base_freq": 20000.0,
        "rope_scaling": scaled("linear", factor=8.0)}, norms=SANDWICH, qk_norm="head",
        local=lambda l: l % 6 != 5, **GEMMA),
    "stablelm": form(STABLE, {"use_qkv_bias": True}, biases="q"),
    "stablelm-parallel": form(STABLE, {
        "use_parallel_residual": True, "qk_layernorm": True, "partial_rotary_factor": 0.75},
        norms=("input_layernorm", "", "", ""), parallel=True, qk_norm="each"),
    "starcoder2": Form("Starcoder2ForCausalLM", "starcoder2", {
        "sliding_window": WINDOW, "hidden_act": "gelu_pytorch_tanh", "rope_theta": 100000.0,
        "use_bias": True}, act="tanh", norm="layer", eps="norm_epsilon",
        mlp=("mlp.c_fc", "mlp.c_proj"), biases="qom", local=always),
    "olmoe": Form("OlmoeForCausalLM", "olmoe", {
        "intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 3}, qk_norm="all",
        **MIXTURE),
    "qwen2moe": Form("Qwen2MoeForCausalLM", "qwen2_moe", {
        "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40}, biases="q", **MIXTURE),
    "qwen3moe": Form("Qwen3MoeForCausalLM", "qwen3_moe", {
        "head_dim": 16, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
        "norm_topk_prob": True}, qk_norm="head", **MIXTURE),
    "qwen3moe-dense": Form("Qwen3MoeForCausalLM", "qwen3_moe", {
        "head_dim": 16, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [1],
        "use_sliding_window": True, "sliding_window": WINDOW}, qk_norm="head", local=always,
        **MIXTURE),
    "mixtral": Form("MixtralForCausalLM", "mixtral", {
        "num_local_experts": 4, "num_experts_per_tok": 2, "rope_theta": 1000000.0},
        router="block_sparse_moe.gate", experts=tuple(
            "block_sparse_moe.experts.{}." + name for name in ("w1", "w3", "w2"))),
}


# ---- random values ---------------------------------------------------------------------------

def normal(rng: random.Random) -> float:
    """Mean 0, variance 1, near a normal distribution: 12 uniform numbers less 6."""
    return sum(rng.random() for _ in range(12)) - 6.0


def float32(x: float) -> float:
    return struct.unpack("<f", struct.pack("<f", x))[0]


class Weights:
    """Tensors by name, drawn when they are first asked for: name -> (shape, rows of numbers)."""

    def __init__(self, seed: int):
        self.seed = seed
        self.found: Dict[str, Tuple[Tuple[int, ...], List[List[float]]]] = {}

    def draw(self, name: str, shape: Tuple[int, ...], centre: float, scale: float):
        if name not in self.found:
            rng = random.Random()
            rng.seed(f"{self.seed} {name}", version=2)
            rows = [[float32(centre + scale * normal(rng)) for _ in range(shape[-1])]
                    for _ in range(math.prod(shape[:-1]))]
            self.found[name] = shape, rows
        return self.found[name][1]

    def matrix(self, name: str, rows: int, columns: int) -> List[List[float]]:
        """Scaled by 1.4 / sqrt(columns), at which attention is far from uniform."""
        return self.draw(name, (rows, columns), 0.0, 1.4 / math.sqrt(columns))

    def vector(self, name: str, size: int, centre: float, scale: float) -> List[float]:
        return self.draw(name, (size,), centre, scale)[0]


# ---- rotary encoding -------------------------------------------------------------------------

def plain_frequencies(base: float, n_rot: int) -> List[float]:
    """[n_rot/2]: base^(-2j/n_rot), radians per token."""
    return [base ** (-2 * j / n_rot) for j in range(n_rot // 2)]


def llama3_frequencies(plain: List[float], s: Dict[str, Any]) -> List[float]:
    """Pairs that turn less than low_freq_factor times in the original context are slowed down by
    the factor, those of more than high_freq_factor turns stay, others are mixed. (Llama 3.1.)"""
    low, high, found = s["low_freq_factor"], s["high_freq_factor"], []
    for f in plain:
        turned = s["original_max_position_embeddings"] * f / (2 * math.pi)
        keep = min(1.0, max(0.0, (turned - low) / (high - low)))
        found.append((1 - keep) * f / s["factor"] + keep * f)
    return found


def yarn_frequencies(plain: List[float], s: Dict[str, Any], base: float) -> List[float]:
    """A ramp over the pairs from f (those that turn 32 times in the original context) to
    f / factor (those that turn once), between whole numbers. (YaRN, arXiv:2309.00071, and
    modeling_rope_utils.py.)"""
    n_rot, context = 2 * len(plain), s["original_max_position_embeddings"]

    def pair_of(turned):
        return n_rot * math.log(context / (2 * math.pi * turned)) / (2 * math.log(base))

    low = max(math.floor(pair_of(s.get("beta_fast", 32))), 0)
    high = min(math.ceil(pair_of(s.get("beta_slow", 1))), n_rot - 1)
    ramps = [min(1.0, max(0.0, (j - low) / (high - low or 0.001))) for j in range(n_rot // 2)]
    return [(1 - r) * f + r * f / s["factor"] for f, r in zip(plain, ramps)]


def rope_table(c: Dict[str, Any], d_head: int, local: bool, length: int):
    """(radians per token of each pair, amplitude) for a text of `length` tokens. Layers with a
    window have a base of their own and no scaling where rope_local_base_freq is given; those of
    Olmo 3 are not scaled."""
    share = c.get("partial_rotary_factor", c.get("rotary_pct", 1.0))
    n_rot = c.get("rotary_dim") or int(d_head * share)
    base, s = c.get("rope_theta", c.get("rotary_emb_base", 10000.0)), c.get("rope_scaling") or {}
    if local and ("rope_local_base_freq" in c or c["model_type"] == "olmo3"):
        base, s = c.get("rope_local_base_freq", base), {}
    plain, kind = plain_frequencies(base, n_rot), s.get("rope_type", s.get("type"))
    if kind == "linear":
        return [f / s["factor"] for f in plain], 1.0
    if kind == "llama3":
        return llama3_frequencies(plain, s), 1.0
    if kind == "yarn":
        return yarn_frequencies(plain, s, base), 0.1 * math.log(s["factor"]) + 1
    if kind == "longrope":
        original = c["original_max_position_embeddings"]
        divisors = s["long_factor" if length > original else "short_factor"]
        ratio = c["max_position_embeddings"] / original
        amplitude = s.get("attention_factor") or \
            math.sqrt(1 + math.log(ratio) / math.log(original))
        return [f / d for f, d in zip(plain, divisors)], amplitude
    return plain, 1.0


def turned(x: List[float], pos: int, table, adjacent: bool) -> List[float]:
    """One head of q or k at `pos`: pair j is turned by pos times its frequency and multiplied by
    the amplitude; channels beyond the pairs stay."""
    (freqs, amplitude), out = table, list(x)
    for j, f in enumerate(freqs):
        a, b = (2 * j, 2 * j + 1) if adjacent else (j, j + len(freqs))
        c, s = amplitude * math.cos(pos * f), amplitude * math.sin(pos * f)
        out[a], out[b] = x[a] * c - x[b] * s, x[a] * s + x[b] * c
    return out


# ---- forward ---------------------------------------------------------------------------------

Vectors = List[List[float]]     # one for each token of the text


def dot(x, y) -> float:
    return math.fsum(map(mul, x, y))


def add(x: Vectors, y: Vectors, scale: float = 1.0) -> Vectors:
    return [[a + scale * b for a, b in zip(*rows)] for rows in zip(x, y)]


def silu(x):
    return x / (1 + math.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


ACTS = {"silu": silu, "gelu": gelu, "tanh": gelu_tanh}


def rms_norm(x, weight, eps):
    """x / sqrt(mean(x^2) + eps) * weight"""
    r = 1 / math.sqrt(dot(x, x) / len(x) + eps)
    return [v * r * w for v, w in zip(x, weight)]


def layer_norm(x, weight, bias, eps):
    """(x - mean) / sqrt(variance + eps) * weight + bias"""
    mean = math.fsum(x) / len(x)
    x = [v - mean for v in x]
    r = 1 / math.sqrt(dot(x, x) / len(x) + eps)
    return [v * r * w + b for v, w, b in zip(x, weight, bias)]


class Forward:
    """One form with its config and weights, over one text."""

    def __init__(self, form: Form, config: Dict[str, Any], weights: Weights):
        c = config
        self.f, self.c, self.w = form, config, weights
        self.d = c.get("hidden_size", c.get("n_embd"))
        self.heads = c.get("num_attention_heads", c.get("n_head"))
        self.keys = c.get("num_key_value_heads") or self.heads
        self.d_head = c.get("head_dim") or self.d // self.heads
        self.d_ff = c.get("intermediate_size", c.get("n_inner"))

    def linear(self, name: str, rows: int, x: Vectors, bias: str) -> Vectors:
        """W x, and + b if the form has the kind of bias."""
        w = self.w.matrix(name + ".weight", rows, len(x[0]))
        b = [0.0] * rows
        if bias in self.f.biases:
            b = self.w.vector(name + ".bias", rows, 0.0, 0.3)
        return [[dot(row, v) + b[i] for i, row in enumerate(w)] for v in x]

    def normed(self, name: str, x: Vectors, kind: str = "") -> Vectors:
        """A norm of the form's kind; no name: none."""
        kind, n = kind or self.f.norm, len(x[0])
        if not name:
            return x
        if kind == "bare":
            return [layer_norm(v, [1.0] * n, [0.0] * n, 1e-5) for v in x]
        if kind == "gemma":
            w = [1 + v for v in self.w.vector(name + ".weight", n, 0.0, 0.2)]
        else:
            w = self.w.vector(name + ".weight", n, 1.0, 0.2)
        if kind == "layer":
            b = self.w.vector(name + ".bias", n, 0.0, 0.3)
            return [layer_norm(v, w, b, EPS) for v in x]
        if kind == "each":
            return [layer_norm(v, w, [0.0] * n, EPS) for v in x]
        return [rms_norm(v, w, EPS) for v in x]

    def project(self, at: str, x: Vectors) -> List[Vectors]:
        """q [H*D], k and v [K*D] of every token."""
        q, k = self.heads * self.d_head, self.keys * self.d_head
        if self.f.qkv == "apart":
            sizes = zip("qkv", (q, k, k))
            found = [self.linear(f"{at}{n}_proj", size, x, "q") for n, size in sizes]
        elif self.f.qkv == "joined":
            both = self.linear(at + "qkv_proj", q + 2 * k, x, "q")
            found = [[v[a:b] for v in both] for a, b in ((0, q), (q, q + k), (q + k, q + 2 * k))]
        else:
            both = self.linear(at + "query_key_value", 3 * q, x, "q")
            d = self.d_head     # rows: q, k and v of head 0, of head 1, ...
            found = [[[u for at in range(i * d, 3 * q, 3 * d) for u in v[at:at + d]]
                      for v in both] for i in range(3)]
        clip = self.c.get("clip_qkv", math.inf)
        return [[[max(-clip, min(clip, u)) for u in v] for v in part] for part in found]

    def head_vectors(self, at: str, name: str, x: Vectors) -> List[Vectors]:
        """[heads][tokens][D] of q or k, with the norm of the form."""
        norm, d = self.f.qk_norm, self.d_head
        if norm == "all":
            x = self.normed(f"{at}{name}_norm", x)
        split = [[v[i:i + d] for v in x] for i in range(0, len(x[0]), d)]
        if norm == "head":
            split = [self.normed(f"{at}{name}_norm", head) for head in split]
        if norm == "each":
            split = [self.normed(f"{at}{name}_layernorm.norms.{h}", head, "each")
                     for h, head in enumerate(split)]
        return split

    def attend(self, q: Vectors, k: Vectors, v: Vectors, window: Optional[int]) -> Vectors:
        """One head: softmax of the scaled (and capped) scores over the tokens that are seen, at
        most `window` with the token itself, applied to the values."""
        c, scale, cap = self.c, self.d_head ** -0.5, self.c.get("attn_logit_softcapping")
        scale = c.get("attention_multiplier", scale)
        scale = c["query_pre_attn_scalar"] ** -0.5 if "query_pre_attn_scalar" in c else scale
        out = []
        for pos, query in enumerate(q):
            first = max(0, pos + 1 - window) if window else 0
            scores = [scale * dot(query, key) for key in k[first:pos + 1]]
            if cap:
                scores = [cap * math.tanh(s / cap) for s in scores]
            top = max(scores)
            e = [math.exp(s - top) for s in scores]
            total = math.fsum(e)
            out.append([dot(e, column) / total for column in zip(*v[first:pos + 1])])
        return out

    def attention(self, l: int, x: Vectors) -> Vectors:
        at, local = self.f.layer.format(l) + self.f.attn, self.f.local(l)
        q, k, v = self.project(at, x)
        q, k = self.head_vectors(at, "q", q), self.head_vectors(at, "k", k)
        if self.f.turns(l):
            table = rope_table(self.c, self.d_head, local, len(x))
            q, k = ([[turned(u, pos, table, self.f.adjacent) for pos, u in enumerate(head)]
                     for head in heads] for heads in (q, k))
        window = self.c["sliding_window"] if local else None
        d, shared = self.d_head, self.heads // self.keys
        values = [[u[i:i + d] for u in v] for i in range(0, len(v[0]), d)]
        heads = [self.attend(q[h], k[h // shared], values[h // shared], window)
                 for h in range(self.heads)]
        together = [[u for part in parts for u in part] for parts in zip(*heads)]
        return self.linear(at + self.f.out, self.d, together, "o")

    def network(self, names: List[str], n: int, x: Vectors) -> Vectors:
        """down(act(gate x) * up x), or down(act(up x)) where there is no gate."""
        act = ACTS[self.f.act]
        if len(names) == 3:
            gate, up = (self.linear(name, n, x, "m") for name in names[:2])
        elif self.f.act == "silu":
            both = self.linear(names[0], 2 * n, x, "m")
            gate, up = [v[:n] for v in both], [v[n:] for v in both]
        else:
            gate = self.linear(names[0], n, x, "m")
            up = [[1.0] * n for _ in x]
        inner = [[act(a) * b for a, b in zip(*rows)] for rows in zip(gate, up)]
        return self.linear(names[-1], self.d, inner, "m")

    def mixture(self, at: str, x: Vectors) -> Vectors:
        """Sum of p_e expert_e(x) over the experts of the largest p = softmax(router x), p divided
        by its sum over these if norm_topk_prob (Mixtral: always); and of the shared expert, times
        sigmoid(gate x)."""
        c = self.c
        count = c.get("num_experts") or c["num_local_experts"]
        n, normed = c.get("moe_intermediate_size", self.d_ff), c.get("norm_topk_prob", False)
        scores = self.linear(at + self.f.router, count, x, "-")
        outs = [self.network([at + name.format(e) for name in self.f.experts], n, x)
                for e in range(count)]
        result = []
        for i, row in enumerate(scores):
            p = [math.exp(z - max(row)) for z in row]
            top = sorted(range(count), key=lambda e: -p[e])[:c["num_experts_per_tok"]]
            of = top if normed or "num_local_experts" in c else range(count)
            total = math.fsum(p[e] for e in of)
            result.append([math.fsum(p[e] / total * outs[e][i][j] for e in top)
                           for j in range(self.d)])
        if "shared_expert_intermediate_size" not in c:
            return result
        shared = self.network([f"{at}mlp.shared_expert.{name}_proj" for name in
                               ("gate", "up", "down")], c["shared_expert_intermediate_size"], x)
        gates = self.linear(at + "mlp.shared_expert_gate", 1, x, "-")
        return [[u + v / (1 + math.exp(-g[0])) for u, v in zip(*rows)]
                for *rows, g in zip(result, shared, gates)]

    def feed_forward(self, l: int, x: Vectors) -> Vectors:
        at, c = self.f.layer.format(l), self.c
        if self.f.experts and l not in c.get("mlp_only_layers", []) and \
                (l + 1) % c.get("decoder_sparse_step", 1) == 0:
            return self.mixture(at, x)
        return self.network([at + name for name in self.f.mlp], self.d_ff, x)

    def block(self, l: int, x: Vectors) -> Vectors:
        """y = x + attention, then y + feed-forward of y (of x if parallel)."""
        names = [name and self.f.layer.format(l) + name for name in self.f.norms]
        scale = self.c.get("residual_multiplier", 1.0)
        inner = self.normed(names[0], x)
        y = add(x, self.normed(names[1], self.attention(l, inner)), scale)
        if not self.f.parallel:
            inner = self.normed(names[2], y)
        elif names[2]:      # else both branches share the first norm
            inner = self.normed(names[2], x)
        return add(y, self.normed(names[3], self.feed_forward(l, inner)), scale)

    def logits(self, ids: List[int], lengths) -> List[Tuple[int, List[float]]]:
        """(length, logits of the last of the first `length` ids) for each of the lengths."""
        c, f, vocab = self.c, self.f, self.c["vocab_size"]
        table = self.w.matrix(f.embed + ".weight", vocab, self.d)
        scale = math.sqrt(self.d) if f.norm == "gemma" else c.get("embedding_multiplier", 1.0)
        x = [[scale * v for v in table[i]] for i in ids]
        for l in range(c.get("num_hidden_layers", c.get("n_layer"))):
            x = self.block(l, x)
        x = self.normed(f.last, [x[n - 1] for n in lengths])
        head = f.embed if c["tie_word_embeddings"] else f.head
        rows = self.linear(head, vocab, x, "h")
        cap, divisor = c.get("final_logit_softcapping"), c.get("logits_scaling", 1.0)
        if cap:
            rows = [[cap * math.tanh(v / cap) for v in row] for row in rows]
        return [(n, [v / divisor for v in row]) for n, row in zip(lengths, rows)]


# ---- files -----------------------------------------------------------------------------------

def config_json(form: Form) -> Dict[str, Any]:
    table = {**COMMON, **form.config, "architectures": [form.cls], "model_type": form.model_type}
    if form.eps:
        table[form.eps] = EPS
    return {key: value for key, value in table.items() if value is not None}


def pack_logits(ids: List[int], rows) -> bytes:
    data = struct.pack(f"<{len(ids) + 2}i", len(ids), *ids, len(rows))
    for length, logits in rows:
        data += struct.pack(f"<i{len(logits)}f", length, *logits)
    return data


def byte_letters() -> List[str]:
    """GPT-2's byte alphabet: printable bytes stand for themselves, others from U+0100 on."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in keep]
    return [chr(b) if b in keep else chr(256 + rest.index(b)) for b in range(256)]


def write_json(path: Path, table):
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def write_tokenizer(folder: Path, letters: List[str]):
    """Byte-level BPE without merges: <s>, </s> and these letters of the byte alphabet."""
    tokens = ["<s>", "</s>", *letters]
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": tokens[i], "special": True} for i in (0, 1)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {"type": "BPE", "ignore_merges": False, "merges": [],
                  "vocab": {token: i for i, token in enumerate(tokens)}}})
    write_json(folder / "tokenizer_config.json",
               {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True})


def write_safetensors(path: Path, weights: Weights):
    """Every tensor as F32, in the order in which the forward pass asked for them."""
    header: Dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = []
    at = 0
    for name, (shape, rows) in weights.found.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        data += [struct.pack(f"<{len(row)}f", *row) for row in rows]
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def make(arch: str, seed: int, folder: Path) -> List[Tuple[int, List[float]]]:
    """The checkpoint of ARCHS[arch] in `folder`, and its logits of IDS at LENGTHS."""
    form, weights = ARCHS[arch], Weights(seed)
    config = config_json(form)
    rows = Forward(form, config, weights).logits(IDS, LENGTHS)
    write_json(folder / "config.json", config)
    write_safetensors(folder / "model.safetensors", weights)
    write_tokenizer(folder, byte_letters())
    return rows
