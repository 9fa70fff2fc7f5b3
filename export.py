#!/usr/bin/env python3
"""Write a GGUF file from a Hugging Face checkpoint folder or a llama2.c checkpoint.

    export.py FOLDER    -o OUT.gguf     config.json, safetensors, tokenizer.json or tokenizer.model
    export.py MODEL.bin -o OUT.gguf     llama2.c version 0, with --tokenizer TOKENIZER.bin

Needs Python 3.8 or later and nothing else. Sources: LlamaForCausalLM and MistralForCausalLM
(Llama 1/2/3, TinyLlama, SmolLM 1/2, Mistral) and llama2.c. Whatever this program does not know
and might change the result is refused, never skipped.

Tensors written (D = head_dim; F32, F16 and BF16 matrices keep their type and their bits; vectors
become F32):
    token_embd.weight     [vocab, d]        output_norm.weight   [d]
    output.weight         [vocab, d], absent if the output is tied to the embedding
    rope_freqs.weight     [D/2], only for "llama3" scaling: divisors of the rotary frequencies
    blk.N.attn_norm.weight [d]              blk.N.ffn_norm.weight [d]
    blk.N.attn_q.weight   [H*D, d]          blk.N.attn_k.weight, attn_v.weight   [K*D, d]
    blk.N.attn_output.weight [d, H*D]       blk.N.ffn_gate.weight, ffn_up.weight [f, d]
    blk.N.ffn_down.weight [d, f]            and .bias beside them where the checkpoint has biases
Rows of q and k are reordered inside each head from Hugging Face's halves (pair j = rows j and
j + D/2) to the adjacent pairs of GGUF's llama (rows 2j and 2j + 1); llama2.c has these already.

Keys written:
    general.architecture (llama) .type .name .file_type
    llama.context_length .embedding_length .block_count .feed_forward_length .vocab_size
    llama.attention.head_count .head_count_kv .key_length .value_length .layer_norm_rms_epsilon
    llama.attention.sliding_window (Mistral 7B v0.1 only)
    llama.rope.dimension_count .freq_base
    llama.rope.scaling.type .factor (linear) or .original_context_length (llama3)
    tokenizer.ggml.model (llama: SentencePiece BPE; gpt2: byte-level BPE) .pre .tokens .token_type
    tokenizer.ggml.scores (llama) or .merges (gpt2)
    tokenizer.ggml.{bos,eos,unknown,padding}_token_id .add_bos_token .add_eos_token
    tokenizer.ggml.add_space_prefix .remove_extra_whitespaces (llama)
    tokenizer.chat_template, tokenizer.chat_template.NAME

Order of this file: constants; errors; readers; normalise (config, tensors, tokenizer); write;
command line.
"""

import argparse
import json
import math
import os
import struct
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

# ---- constants -------------------------------------------------------------------------------

ALIGNMENT = 32              # bytes; GGUF's default, so general.alignment need not be written
CHUNK = 4 << 20             # bytes held in memory at a time when a tensor is copied
MAX_HEADER = 100 << 20      # safetensors' own limit on its JSON header

# GGUF value types: name -> (id, struct letter). Strings and arrays are packed by hand.
VALUES = {"u32": (4, "I"), "i32": (5, "i"), "f32": (6, "f"), "bool": (7, "?"), "str": (8, "")}
ARRAY = 9

# safetensors dtype -> (GGUF tensor type, bytes per element, general.file_type)
DTYPES = {"F32": (0, 4, 0), "F16": (1, 2, 1), "BF16": (30, 2, 32)}

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")

# What Hugging Face's own classes assume when config.json leaves a key out.
DEFAULTS = {
    "LlamaForCausalLM": {"max_position_embeddings": 2048},
    "MistralForCausalLM": {"max_position_embeddings": 131072, "num_key_value_heads": 8,
                           "sliding_window": 4096},
}

# Keys of config.json that are read below ...
CONFIG_READ = set("""architectures hidden_size intermediate_size num_hidden_layers vocab_size
    num_attention_heads num_key_value_heads head_dim max_position_embeddings rms_norm_eps
    rope_theta rope_scaling rope_parameters tie_word_embeddings attention_bias mlp_bias
    sliding_window bos_token_id eos_token_id pad_token_id unk_token_id""".split())
# ... keys that say nothing about the arithmetic of one forward pass ...
CONFIG_INERT = set("""model_type torch_dtype dtype transformers_version use_cache _name_or_path
    initializer_range attention_dropout pretraining_tp max_sequence_length auto_map is_llama_config
    transformers.js_config _attn_implementation_autoset max_window_layers attn_implementation
    output_attentions output_hidden_states return_dict chunk_size_feed_forward is_decoder
    problem_type id2label label2id task_specific_params finetuning_task""".split())
# ... keys of training and of sampling that are harmless if they are zero ...
CONFIG_ZERO = set("""attn_pdrop embd_pdrop resid_pdrop hidden_dropout residual_dropout
    classifier_dropout diversity_penalty min_length no_repeat_ngram_size
    encoder_no_repeat_ngram_size""".split())
# ... and keys that are harmless with these values only. Any other key must be null or false.
CONFIG_FIXED = {"hidden_act": ("silu", "swish"), "partial_rotary_factor": (1, 1.0),
                "use_sliding_window": (False, True)}

LAYER_TYPES = ("full_attention", "sliding_attention")

ROPE_KEYS = {       # rope type -> the parameters it has
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor",
               "original_max_position_embeddings"},
}

# One row per tensor: Hugging Face name, GGUF name, shape in letters (d model, q = H*D, k = K*D,
# f feed-forward, v vocabulary), and q or k again where rows must be reordered inside heads.
GLOBALS = (
    ("model.embed_tokens.weight", "token_embd.weight", "vd", ""),
    ("model.norm.weight", "output_norm.weight", "d", ""),
)
LAYER = (
    ("input_layernorm.weight", "attn_norm.weight", "d", ""),
    ("self_attn.q_proj.weight", "attn_q.weight", "qd", "q"),
    ("self_attn.k_proj.weight", "attn_k.weight", "kd", "k"),
    ("self_attn.v_proj.weight", "attn_v.weight", "kd", ""),
    ("self_attn.o_proj.weight", "attn_output.weight", "dq", ""),
    ("post_attention_layernorm.weight", "ffn_norm.weight", "d", ""),
    ("mlp.gate_proj.weight", "ffn_gate.weight", "fd", ""),
    ("mlp.up_proj.weight", "ffn_up.weight", "fd", ""),
    ("mlp.down_proj.weight", "ffn_down.weight", "df", ""),
)
ATTENTION_BIAS = (
    ("self_attn.q_proj.bias", "attn_q.bias", "q", "q"),
    ("self_attn.k_proj.bias", "attn_k.bias", "k", "k"),
    ("self_attn.v_proj.bias", "attn_v.bias", "k", ""),
    ("self_attn.o_proj.bias", "attn_output.bias", "d", ""),
)
MLP_BIAS = (
    ("mlp.gate_proj.bias", "ffn_gate.bias", "f", ""),
    ("mlp.up_proj.bias", "ffn_up.bias", "f", ""),
    ("mlp.down_proj.bias", "ffn_down.bias", "d", ""),
)

# Split rules of byte-level BPE by their regular expressions as tokenizer.json spells them.
RE_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
RE_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
RE_WORD = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
           r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + RE_TAIL)
RE_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]%s[\p{Ll}\p{Lm}\p{Lo}\p{M}]%s"
RE_CASED = (RE_UPPER % ("*", "+") + "%s|" + RE_UPPER % ("+", "*") + "%s|%s"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + RE_TAIL)
RE_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
# (steps of the pre-tokenizer, ignore_merges) -> tokenizer.ggml.pre
PRE_NAMES = {
    (("bytes+gpt2",), False): "gpt-2",
    ((RE_GPT2, "bytes"), False): "gpt-2",
    (("digits", "bytes+gpt2"), False): "smollm",
    ((RE_WORD % r"\p{N}{1,3}", "bytes"), True): "llama-bpe",
    ((RE_WORD % r"\p{N}{1,3}", "bytes"), False): "dbrx",
    ((RE_WORD % r"\p{N}", "bytes"), False): "qwen2",
    ((RE_CASED % ("", "", r"\p{N}"), "bytes"), True): "tekken",
    ((RE_CASED % (RE_ENDING, RE_ENDING, r"\p{N}{1,3}"), "bytes"), False): "gpt-4o",
}


# ---- errors ----------------------------------------------------------------------------------

class BadInput(Exception):
    """A file that cannot be exported; the text is one sentence for the user."""


def refuse(file, field, expected, found):
    found = "nothing" if found in (None, "None") else found
    raise BadInput(f"{file}: {field}: expected {expected}, found {found}")


def note(text):
    print(f"note: {text}", file=sys.stderr)


# ---- readers ---------------------------------------------------------------------------------

class Source(NamedTuple):
    """Where the values of one tensor lie: row-major, little-endian, `size` bytes from `start`."""
    path: Path
    start: int
    dtype: str
    shape: Tuple[int, ...]

    @property
    def size(self):
        return math.prod(self.shape) * DTYPES[self.dtype][1]


def parse_json(path: Path, data: bytes, what="the file") -> Any:
    """The JSON in `data`, which is `what` of `path`; no object may have a key twice."""

    def unique(pairs):
        table = dict(pairs)
        if len(table) != len(pairs):
            names = [k for k, _ in pairs]
            twice = next(k for k in names if names.count(k) > 1)
            refuse(path, f"key {twice!r}", "it once", "it twice")
        return table

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except ValueError as problem:
        raise BadInput(f"{path}: {what} is not valid JSON: {problem}")
    except RecursionError:
        raise BadInput(f"{path}: {what} is JSON nested too deeply")


def read_json_object(path: Path) -> Dict[str, Any]:
    """The object in `path`; an empty one if there is no such file."""
    table = parse_json(path, path.read_bytes()) if path.exists() else {}
    if not isinstance(table, dict):
        refuse(path, "the file", "a JSON object", type(table).__name__)
    return table


def read_safetensors(path: Path) -> Dict[str, Source]:
    """The header of a safetensors file: u64 length, JSON, then the values it points to."""
    total = path.stat().st_size
    with open(path, "rb") as f:
        head = f.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(MAX_HEADER, total - 8):
            refuse(path, "header length", f"at most {max(0, total - 8)} bytes", length)
        table = parse_json(path, f.read(length), "the header")
    if not isinstance(table, dict):
        refuse(path, "header", "a JSON object", type(table).__name__)
    table.pop("__metadata__", None)
    found = {name: safetensors_entry(path, 8 + length, name, e) for name, e in table.items()}
    check_tiling(path, 8 + length, total, found)
    return found


def safetensors_entry(path, data, name, entry) -> Source:
    """One header entry, its byte range checked against its type and shape."""
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        refuse(path, f"tensor {name}", "dtype, shape and two data_offsets", repr(entry)[:80])
    numbers = [*shape, begin, end]
    if not all(type(n) is int and n >= 0 for n in numbers):
        refuse(path, f"tensor {name}", "whole numbers in shape and data_offsets",
               repr(numbers)[:80])
    if not isinstance(dtype, str) or dtype not in DTYPES:
        refuse(path, f"dtype of tensor {name}", " or ".join(DTYPES), repr(dtype)[:80])
    source = Source(path, data + begin, dtype, shape)
    if end - begin != source.size:
        refuse(path, f"bytes of tensor {name}", f"{source.size} for its shape", end - begin)
    return source


def check_tiling(path, start, total, found):
    """The values must fill the file without holes or overlaps."""
    at = start
    for name, source in sorted(found.items(), key=lambda item: (item[1].start, item[1].size)):
        if source.start != at:
            refuse(path, f"start of tensor {name}", at - start, source.start - start)
        at += source.size
    if at != total:
        refuse(path, "size of the file", f"{at} bytes for its tensors", total)


def read_checkpoint(folder: Path) -> Dict[str, Source]:
    """model.safetensors, or all the files that model.safetensors.index.json names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return read_safetensors(single)
    if not index.exists():
        refuse(folder, "weights", "model.safetensors or model.safetensors.index.json", "neither")
    where = read_json_object(index).get("weight_map")
    if not isinstance(where, dict):
        refuse(index, "weight_map", "an object from tensor names to files", where)
    found = {}
    for shard in sorted(set(map(str, where.values()))):
        if os.path.basename(shard) != shard or not (folder / shard).exists():
            refuse(index, "weight_map", "files of the same folder", shard)
        for name, source in read_safetensors(folder / shard).items():
            if where.get(name) != shard:
                refuse(index, f"file of tensor {name}", where.get(name), shard)
            found[name] = source
    missing = sorted(set(where) - set(found))
    if missing:
        refuse(index, f"tensor {missing[0]}", f"it in {where[missing[0]]}", "nothing")
    return found


def read_protobuf(data: bytes, path: Path) -> Iterator[Tuple[int, Any]]:
    """The fields of one protobuf message: (number, int for varints, bytes for all else)."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise BadInput(f"{path}: not a SentencePiece model: a number is cut off")
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(tag & 7) or (varint() if tag & 7 == 2 else len(data) + 1)
        if at + size > len(data):
            raise BadInput(f"{path}: not a SentencePiece model: field {tag >> 3} is cut off")
        yield tag >> 3, data[at:at + size]
        at += size


# ---- normalise: the configuration ------------------------------------------------------------

class Config(NamedTuple):
    """The shape of a llama model, whatever it was read from."""
    n_layer: int
    d_model: int
    n_head: int
    n_kv: int
    d_head: int
    d_ff: int
    n_vocab: int
    n_ctx: int
    eps: float
    base: float
    tied: Optional[bool] = None         # None: tied if there is no output matrix
    window: Optional[int] = None
    scaling: Dict[str, Any] = {"rope_type": "default"}
    attention_bias: bool = False
    mlp_bias: bool = False

    def letters(self):
        return {"d": self.d_model, "f": self.d_ff, "v": self.n_vocab,
                "q": self.n_head * self.d_head, "k": self.n_kv * self.d_head}


class Fields:
    """config.json with checks: every value that is taken has a type and a range."""

    def __init__(self, path: Path):
        self.path = path
        if not path.exists():
            refuse(path.parent, "config.json", "the file", "nothing")
        self.table = read_json_object(path)

    def number(self, key, kind=int, table=None):
        value = (self.table if table is None else table).get(key)
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        top = 1 << 32 if kind is int else 3e38      # what GGUF's u32 and f32 can hold
        if not good or not 1e-30 < value < top or kind(value) != value:     # less is F32's zero
            refuse(self.path, key, f"a positive {kind.__name__} of 32 bits", repr(value)[:80])
        return kind(value)

    def flag(self, key):
        value = self.table.get(key)
        if value is not None and not isinstance(value, bool):
            refuse(self.path, key, "true or false", repr(value)[:80])
        return value


def check_known(fields: Fields):
    """Refuse every key that is not known to leave the forward pass as it is."""
    for key, value in fields.table.items():
        if key in CONFIG_READ or key in CONFIG_INERT or value is None or value is False:
            continue
        if key in CONFIG_ZERO and value == 0:
            continue
        if key == "layer_types" and isinstance(value, list) and \
                all(v in LAYER_TYPES for v in value):
            continue
        if key == "layer_types":
            refuse(fields.path, key, "a list of " + " and ".join(LAYER_TYPES), repr(value)[:80])
        if key not in CONFIG_FIXED:
            refuse(fields.path, key, "only keys known to this program, as it may change the "
                   "result (--ignore KEY if it does not)", repr(value)[:80])
        if not any(value == v and type(value) is type(v) for v in CONFIG_FIXED[key]):
            refuse(fields.path, key, " or ".join(map(str, CONFIG_FIXED[key])), repr(value)[:80])


def read_config(folder: Path, ignore: List[str]) -> Config:
    fields = Fields(folder / "config.json")
    for key in ignore:
        fields.table.pop(key, None)
    names = fields.table.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in ARCHITECTURES:
        refuse(fields.path, "architectures", " or ".join(ARCHITECTURES), names)
    for key, value in DEFAULTS[names[0]].items():
        fields.table.setdefault(key, value)
    check_known(fields)
    n_head, d_model = fields.number("num_attention_heads"), fields.number("hidden_size")
    if fields.table.get("num_key_value_heads") is None:
        fields.table["num_key_value_heads"] = n_head
    if fields.table.get("head_dim") is None:
        if d_model % n_head:
            refuse(fields.path, "hidden_size", f"a multiple of {n_head} heads", d_model)
        fields.table["head_dim"] = d_model // n_head
    scaling, base = read_rope(fields)
    config = Config(
        n_layer=fields.number("num_hidden_layers"), d_model=d_model, n_head=n_head,
        n_kv=fields.number("num_key_value_heads"), d_head=fields.number("head_dim"),
        d_ff=fields.number("intermediate_size"), n_vocab=fields.number("vocab_size"),
        n_ctx=fields.number("max_position_embeddings"), eps=fields.number("rms_norm_eps", float),
        base=base, tied=fields.flag("tie_word_embeddings"), window=read_window(fields),
        scaling=scaling, attention_bias=bool(fields.flag("attention_bias")),
        mlp_bias=bool(fields.flag("mlp_bias")))
    check_config(fields.path, config)
    return config


def check_config(path, config: Config):
    if config.n_head % config.n_kv:
        refuse(path, "num_attention_heads", f"a multiple of {config.n_kv} key heads",
               config.n_head)
    if config.d_head % 2:
        refuse(path, "head_dim", "an even number, as rotary pairs need two channels",
               config.d_head)


def read_window(fields: Fields) -> Optional[int]:
    """The sliding window, if there is one shorter than the context.

    LlamaForCausalLM has no window: its code never looks at the key."""
    window, layers = fields.table.get("sliding_window"), fields.table.get("layer_types") or []
    if window is None or fields.table["architectures"] != ["MistralForCausalLM"] \
            or fields.table.get("use_sliding_window") is False:
        return None
    if len(set(layers)) > 1:
        refuse(fields.path, "layer_types", "one type for all layers", sorted(set(layers)))
    if fields.number("sliding_window") >= fields.number("max_position_embeddings"):
        return None
    note(f"the sliding window of {window} tokens is written as llama.attention.sliding_window; "
         f"a program that ignores this key is right for the first {window} tokens only")
    return window


def rope_table(fields: Fields) -> Dict[str, Any]:
    """rope_parameters (newer files, base included) or rope_scaling (older), nulls left out."""
    both = [fields.table.get(key) for key in ("rope_parameters", "rope_scaling")]
    given = [table for table in both if table is not None]
    if any(not isinstance(table, dict) or table != given[0] for table in given):
        refuse(fields.path, "rope_parameters and rope_scaling", "one object", given)
    table = {"rope_theta": fields.table.get("rope_theta"), **(given[0] if given else {})}
    return {key: value for key, value in table.items() if value is not None}


def read_rope(fields: Fields) -> Tuple[Dict[str, Any], float]:
    """(scaling with its rope_type, base). Older files say "type" for "rope_type"."""
    table = rope_table(fields)
    kinds = {str(table.pop(key)) for key in ("type", "rope_type") if key in table} or {"default"}
    kind = kinds.pop()
    if kinds or kind not in ROPE_KEYS:
        refuse(fields.path, "rope type", " or ".join(ROPE_KEYS), " and ".join([kind, *kinds]))
    if table.pop("partial_rotary_factor", 1) != 1:
        refuse(fields.path, "partial_rotary_factor", 1, "another value")
    base = fields.number("rope_theta", float, table) if "rope_theta" in table else 10000.0
    table.pop("rope_theta", None)
    if set(table) != ROPE_KEYS[kind]:
        refuse(fields.path, f"parameters of rope type {kind}",
               sorted(ROPE_KEYS[kind]) or "none", sorted(table) or "none")
    whole = "original_max_position_embeddings"
    scaling = {key: fields.number(key, int if key == whole else float, table) for key in table}
    scaling["rope_type"] = kind
    return scaling, base


def llama3_divisors(config: Config) -> List[float]:
    """rope_freqs.weight, [D/2]: what each frequency base^(-2j/D) is divided by.

    With wavelength w = 2 pi / frequency, original context C and factor f: 1 if w < C/high, f if
    w > C/low, else 1 / ((1 - s)/f + s) with s = (C/w - low) / (high - low). (Llama 3.1.)"""
    s = config.scaling
    context, factor = s["original_max_position_embeddings"], s["factor"]
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    divisors = []
    for j in range(config.d_head // 2):
        wave = 2 * math.pi * config.base ** (2 * j / config.d_head)
        smooth = (context / wave - low) / (high - low) if high != low else 0.0
        between = 1 / ((1 - smooth) / factor + smooth) if 0 <= smooth <= 1 else factor
        divisors.append(1.0 if wave < context / high else
                        factor if wave > context / low else between)
    return divisors


# ---- normalise: tensors ----------------------------------------------------------------------

class Tensor(NamedTuple):
    """One tensor of the output: row-major shape, type, and a function that yields its bytes."""
    name: str
    shape: Tuple[int, ...]
    dtype: str
    chunks: Callable[[], Iterator[bytes]]

    @property
    def size(self):
        return math.prod(self.shape) * DTYPES[self.dtype][1]


def read_at(source: Source, begin: int, size: int) -> bytes:
    try:
        with open(source.path, "rb") as f:
            f.seek(source.start + begin)
            data = f.read(size)
    except OSError as problem:      # a failed read does not name its file
        raise BadInput(f"{source.path}: cannot be read: {problem.strerror}")
    if len(data) != size:
        refuse(source.path, "size of the file", "what its header says", "it cut off")
    return data


def copied(source: Source) -> Iterator[bytes]:
    for begin in range(0, source.size, CHUNK):
        yield read_at(source, begin, min(CHUNK, source.size - begin))


def paired(source: Source, heads: int) -> Iterator[bytes]:
    """Rows reordered inside each head: row (half i, pair j) of D rows goes to row 2j + i."""
    size = source.size // heads
    for h in range(heads):
        yield pair_rows(read_at(source, h * size, size), source.shape[0] // heads)


def pair_rows(block: bytes, rows: int) -> bytes:
    width, half = len(block) // rows, rows // 2
    order = (half * i + j for j in range(half) for i in (0, 1))
    return b"".join(block[r * width:(r + 1) * width] for r in order)


def widened(source: Source, heads: int) -> Iterator[bytes]:
    """A vector as F32, reordered if it is the bias of q or k (heads > 0)."""
    data = read_at(source, 0, source.size)
    if source.dtype == "BF16":      # the upper half of an F32
        data = b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2))
    elif source.dtype == "F16":
        n = len(data) // 2
        data = struct.pack(f"<{n}f", *struct.unpack(f"<{n}e", data))
    size = len(data) // max(heads, 1)
    for begin in range(0, len(data), size):
        block = data[begin:begin + size]
        yield pair_rows(block, size // 4) if heads else block


def values(name: str, numbers: List[float]) -> Tensor:
    data = struct.pack(f"<{len(numbers)}f", *numbers)
    return Tensor(name, (len(numbers),), "F32", lambda: iter([data]))


def make_tensor(name: str, source: Source, heads: int) -> Tensor:
    if len(source.shape) == 1:
        return Tensor(name, source.shape, "F32", lambda: widened(source, heads))
    chunks = (lambda: paired(source, heads)) if heads else (lambda: copied(source))
    return Tensor(name, source.shape, source.dtype, chunks)


def wanted(config: Config, tied: bool):
    """(Hugging Face name, GGUF name, letters, reordered) of every tensor this model must have."""
    yield from GLOBALS
    if not tied:
        yield "lm_head.weight", "output.weight", "vd", ""
    rows = LAYER + config.attention_bias * ATTENTION_BIAS + config.mlp_bias * MLP_BIAS
    for l in range(config.n_layer):
        for hf, gguf, letters, order in rows:
            yield f"model.layers.{l}.{hf}", f"blk.{l}.{gguf}", letters, order


def collect_tensors(place, config: Config, found: Dict[str, Source], halves: bool):
    """The output tensors in file order; `halves`: rows of q and k are in Hugging Face's order."""
    found = {n: s for n, s in found.items() if not n.endswith(".rotary_emb.inv_freq")}
    tied = "lm_head.weight" not in found if config.tied is None else config.tied
    if tied:
        found.pop("lm_head.weight", None)       # a copy of the embedding, by definition
    tensors, sizes = [], config.letters()
    for hf, gguf, letters, order in wanted(config, tied):
        shape = tuple(sizes[c] for c in letters)
        source = found.pop(hf, None)
        if source is None:
            refuse(place, f"tensor {hf}", f"it, of shape {list(shape)}", "nothing")
        if source.shape != shape:
            refuse(place, f"shape of tensor {hf}", list(shape), list(source.shape))
        heads = {"q": config.n_head, "k": config.n_kv}.get(order, 0) if halves else 0
        tensors.append(make_tensor(gguf, source, heads))
    if found:
        refuse(place, f"tensor {sorted(found)[0]}", "only tensors of the llama family", "it")
    if config.scaling["rope_type"] == "llama3":
        tensors.insert(2, values("rope_freqs.weight", llama3_divisors(config)))
    return tensors


# ---- normalise: tokenizers -------------------------------------------------------------------

class Tokenizer:
    """What goes under tokenizer.*; ids has bos, eos, unknown and padding where they exist."""

    def __init__(self, model):
        self.model, self.pre = model, None      # model: llama or gpt2, as GGUF names them
        self.tokens: List[str] = []
        self.types: List[int] = []
        self.scores: List[float] = []
        self.merges: List[str] = []
        self.ids: Dict[str, int] = {}
        self.flags: Dict[str, bool] = {}
        self.templates: Dict[str, str] = {}

    def add(self, token, kind, score=0.0):
        self.tokens.append(token)
        self.types.append(kind)
        self.scores.append(score)

    def pad(self, count):
        while len(self.tokens) < count:
            self.add(f"[PAD{len(self.tokens)}]", UNUSED)


def tokenizer_file(folder: Path) -> Path:
    """tokenizer.json if it is byte-level or alone, else tokenizer.model: if the former is a
    translation of the latter, only the latter has the exact scores."""
    plain, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if not plain.exists() and not model.exists():
        refuse(folder, "tokenizer", "tokenizer.json or tokenizer.model", "neither")
    if not plain.exists() or model.exists() and is_sentencepiece(read_json_object(plain)):
        return model
    return plain


def read_tokenizer(folder: Path, file: Optional[Path], pre: Optional[str]) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, or of `file` if given."""
    file = file or tokenizer_file(folder)
    if not file.exists():
        refuse(file, "the tokenizer", "a file", None)
    settings = read_json_object(folder / "special_tokens_map.json")
    settings.update(read_json_object(folder / "tokenizer_config.json"))
    try:
        if file.suffix == ".json":
            table = read_json_object(file)
            from_json = spm_from_json if is_sentencepiece(table) else bpe_from_json
            t, ends = from_json(file, table, pre), post_processor_ends(file, table)
        else:
            t, ends = spm_from_model(file), (None, None)
        add_tokens(file, t, added_tokens(folder, file))
        read_ids(folder, t, settings)
        read_flags(folder, t, settings, ends)
        read_templates(folder, t)
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError,
            struct.error) as problem:
        raise BadInput(f"{file}: not laid out as a Hugging Face tokenizer ({problem!r})")
    return t


def is_sentencepiece(table) -> bool:
    model = table.get("model")
    return isinstance(model, dict) and bool(model.get("byte_fallback"))


def spm_from_model(path: Path) -> Tokenizer:
    """A SentencePiece ModelProto: field 1 pieces, 2 trainer_spec, 3 normalizer_spec."""
    t, kind, rules = Tokenizer("llama"), 1, {}
    for field, value in read_protobuf(path.read_bytes(), path):
        if field == 1:
            piece = dict(read_protobuf(value, path))
            score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
            t.add(piece.get(1, b"").decode("utf-8"), piece.get(3, NORMAL), score)
        elif field == 2:
            spec = dict(read_protobuf(value, path))
            kind = spec.get(3, 1)
            ids = {"unknown": spec.get(40, 0), "bos": spec.get(41, 1), "eos": spec.get(42, 2)}
            t.ids = {name: i for name, i in ids.items() if i < 1 << 31}     # -1: none
        elif field == 3:
            rules = dict(read_protobuf(value, path))
    if not t.tokens or kind != 2:
        refuse(path, "model_type", "a SentencePiece model of type BPE (2)", kind)
    if rules.get(2) or not rules.get(5, 1):
        refuse(path, "normalizer_spec", "no character map, spaces escaped", "other rules")
    t.flags = {"add_bos_token": True, "add_eos_token": False,
               "add_space_prefix": bool(rules.get(3, 1)),
               "remove_extra_whitespaces": bool(rules.get(4, 1))}
    return t


def vocabulary(path, table) -> Tuple[Dict[str, int], List[Tuple[str, str]]]:
    """(token -> id, merges) of a BPE model in tokenizer.json, both checked."""
    model = table["model"]
    ids, merges = model.get("vocab"), []
    if model.get("type", "BPE") != "BPE" or not isinstance(ids, dict):
        refuse(path, "model.type", "BPE with a vocab", model.get("type"))
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            refuse(path, f"model.{key}", "null", repr(model[key]))
    if sorted(set(ids.values())) != sorted(ids.values()) or min(ids.values(), default=0) < 0:
        refuse(path, "model.vocab", "each id once, none negative", "others")
    for rank, merge in enumerate(model.get("merges") or []):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if len(parts) != 2 or not all(p in ids for p in (*parts, "".join(parts))):
            refuse(path, f"model.merges[{rank}]", "two tokens that make a third", repr(merge))
        merges.append(tuple(parts))
    return ids, merges


def fill(t: Tokenizer, ids: Dict[str, int], kind_of, score_of):
    """Tokens in the order of their ids; a hole in the numbering becomes an unused [PADn]."""
    for token, i in sorted(ids.items(), key=lambda item: item[1]):
        if i - len(t.tokens) > 1 << 16:
            raise BadInput(f"token {token!r}: its id {i} is far beyond the other ids")
        t.pad(i)
        t.add(token, kind_of(token), score_of(token))


def bpe_from_json(path: Path, table, pre: Optional[str]) -> Tokenizer:
    """Byte-level BPE: tokens are spelt in GPT-2's byte alphabet, merges rank the joins."""
    if not isinstance(table.get("model"), dict):
        refuse(path, "model", "an object", table.get("model"))
    ids, merges = vocabulary(path, table)
    t = Tokenizer("gpt2")
    t.pre = pre or pre_name(path, table)
    t.merges = [f"{a} {b}" for a, b in merges]
    fill(t, ids, lambda token: NORMAL, lambda token: 0.0)
    normalizer = table.get("normalizer")
    if normalizer == {"type": "NFC"}:
        note(f"{path}: text is NFC-normalised by this tokenizer; GGUF has no key for that, so "
             "text with decomposed accents gives other tokens")
    elif normalizer is not None and pre is None:
        refuse(path, "normalizer", "null (or --pre NAME)", json.dumps(normalizer)[:80])
    t.flags = {"add_bos_token": False, "add_eos_token": False}
    return t


def pre_steps(path, step) -> Tuple[str, ...]:
    """A pre-tokenizer flattened to steps: "bytes", "bytes+gpt2", "digits" or an expression."""
    step = step or {}
    kind = step.get("type")
    if kind == "Sequence":
        return tuple(s for inner in step["pretokenizers"] for s in pre_steps(path, inner))
    if kind == "ByteLevel" and not step.get("add_prefix_space", True):
        return ("bytes+gpt2" if step.get("use_regex", True) else "bytes",)
    if kind == "Digits" and step.get("individual_digits"):
        return ("digits",)
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return (step["pattern"].get("Regex", "?"),)
    return (json.dumps(step)[:80],)


def pre_name(path: Path, table) -> str:
    """tokenizer.ggml.pre, recognised by the structure of the pre-tokenizer."""
    steps = pre_steps(path, table.get("pre_tokenizer"))
    whole_words = bool(table["model"].get("ignore_merges"))
    if (steps, whole_words) not in PRE_NAMES:
        refuse(path, "pre_tokenizer", "a known split rule (" +
               ", ".join(sorted(set(PRE_NAMES.values()))) + ") or --pre NAME",
               f"{' then '.join(steps)} with ignore_merges {whole_words}".lower())
    return PRE_NAMES[steps, whole_words]


def spm_from_json(path: Path, table, _pre) -> Tokenizer:
    """A SentencePiece model as tokenizer.json: merge ranks stand in for the lost scores.

    SentencePiece joins the pair whose result scores highest, BPE the pair of lowest rank; with
    score = -(rank of the first merge that makes the token) both choose the same pair."""
    ids, merges = vocabulary(path, table)
    ranks: Dict[str, int] = {}
    for rank, (a, b) in enumerate(merges):
        ranks.setdefault(a + b, rank)
    unknown = table["model"].get("unk_token")

    def kind(token):
        byte = len(token) == 6 and token[:3] == "<0x" and token[5] == ">"
        return UNKNOWN if token == unknown else BYTE if byte else NORMAL

    t = Tokenizer("llama")
    fill(t, ids, kind, lambda token: -float(ranks.get(token, 0)))
    if unknown in ids:
        t.ids["unknown"] = ids[unknown]
    t.flags = {"add_bos_token": False, "add_eos_token": False,
               "add_space_prefix": space_prefix(path, table), "remove_extra_whitespaces": False}
    return t


def space_prefix(path, table) -> bool:
    """Whether a space is put before the text; anything but spaces to U+2581 is refused."""
    low = "\u2581"
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": low}
    prepend = {"type": "Prepend", "prepend": low}
    rules, pre = table.get("normalizer"), table.get("pre_tokenizer")
    steps = rules.get("normalizers") if rules and rules.get("type") == "Sequence" else \
        [rules] if rules else []
    if pre is None and steps in ([prepend, replace], [replace]):
        return prepend in steps
    if not steps and pre and pre.get("type") == "Metaspace" and pre.get("replacement") == low \
            and not pre.get("split", True):
        return pre.get("prepend_scheme", "always") != "never"
    return refuse(path, "normalizer and pre_tokenizer", "those of a SentencePiece BPE model",
                  json.dumps([rules, pre])[:120])


def added_tokens(folder: Path, file: Path) -> Dict[int, Tuple[str, bool]]:
    """id -> (text, special) from every place where Hugging Face keeps added tokens."""
    found = {}
    for text, i in read_json_object(folder / "added_tokens.json").items():
        found[i] = (text, False)
    settings = read_json_object(folder / "tokenizer_config.json")
    entries = [(int(i), e) for i, e in (settings.get("added_tokens_decoder") or {}).items()]
    plain = file if file.suffix == ".json" else folder / "tokenizer.json"
    entries += [(e["id"], e) for e in read_json_object(plain).get("added_tokens") or []]
    for i, entry in entries:
        found[i] = (entry["content"], bool(entry.get("special")))
        if any(entry.get(key) for key in ("lstrip", "rstrip", "single_word")):
            note(f"token {entry['content']!r} swallows or wants spaces around it; GGUF has no "
                 "key for that")
    return found


def add_tokens(file: Path, t: Tokenizer, added: Dict[int, Tuple[str, bool]]):
    """Type the added tokens (special: control, others: user-defined), appending new ones."""
    for i, (text, special) in sorted(added.items()):
        kind = CONTROL if special else USER_DEFINED
        if i < len(t.tokens):
            if t.types[i] != UNUSED and t.tokens[i] != text:
                refuse(file, f"token {i}", repr(t.tokens[i]), f"{text!r} among added tokens")
            keep = t.types[i] in (UNKNOWN, BYTE)
            t.tokens[i], t.types[i] = text, t.types[i] if keep else kind
        else:
            if i - len(t.tokens) > 1 << 16:
                refuse(file, f"added token {text!r}", "an id near the others", i)
            t.pad(i)
            t.add(text, kind)


def post_processor_ends(path, table):
    """(token before the text, token after it) that the post-processor adds; False for none."""
    post = table.get("post_processor") or {}
    steps = post.get("processors", []) if post.get("type") == "Sequence" else [post]
    ends = (None, None)
    for step in steps:
        if step.get("type") == "TemplateProcessing":
            names = [part.get("SpecialToken", {}).get("id", False) for part in step["single"]]
            text = names.index(False)
            if text > 1 or len(names) - text > 2:
                refuse(path, "post_processor", "at most one token before and after", names)
            ends = (text == 1 and names[0], len(names) > text + 1 and names[-1])
        elif step.get("type") not in (None, "ByteLevel"):
            refuse(path, "post_processor", "TemplateProcessing or ByteLevel", step.get("type"))
    return ends


def read_ids(folder: Path, t: Tokenizer, settings):
    """Ids of special tokens: by name from the tokenizer's settings, else by the number that
    config.json or generation_config.json gives (a chat model's config.json often still has the
    end token of its base model, so the name is the better witness)."""
    numbers = read_json_object(folder / "generation_config.json")
    numbers.update(read_json_object(folder / "config.json"))
    index = {token: i for i, token in enumerate(t.tokens)}
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    for short, name in names.items():
        text, number = settings.get(f"{short}_token"), numbers.get(f"{short}_token_id")
        text = text.get("content") if isinstance(text, dict) else text
        number = number[0] if isinstance(number, list) and number else number
        if text in index:
            t.ids[name] = index[text]
        elif isinstance(number, int) and 0 <= number < len(t.tokens):
            t.ids.setdefault(name, number)


def read_flags(folder: Path, t: Tokenizer, settings, ends):
    """add_bos_token and add_eos_token: from the settings, else from the post-processor."""
    for name, token in zip(("bos", "eos"), ends):
        flag = f"add_{name}_token"
        if isinstance(settings.get(flag), bool):
            t.flags[flag] = settings[flag]
        elif token is not None:
            t.flags[flag] = bool(token)
        if not t.flags[flag]:
            continue
        if name not in t.ids:
            refuse(folder, f"{name} token", f"one, since {flag} is true", "none")
        if token and token != t.tokens[t.ids[name]]:
            refuse(folder, f"{name} token", f"{token!r} as in the post-processor",
                   repr(t.tokens[t.ids[name]]))
    if "add_space_prefix" in t.flags and isinstance(settings.get("add_prefix_space"), bool):
        t.flags["add_space_prefix"] = settings["add_prefix_space"]


def read_templates(folder: Path, t: Tokenizer):
    """Chat templates: chat_template.jinja, else tokenizer_config.json (a text or a list)."""
    file = folder / "chat_template.jinja"
    found = read_json_object(folder / "tokenizer_config.json").get("chat_template")
    if file.exists():
        t.templates = {"default": file.read_text(encoding="utf-8")}
    elif isinstance(found, str):
        t.templates = {"default": found}
    elif isinstance(found, list):
        t.templates = {str(e["name"]): str(e["template"]) for e in found}


# ---- normalise: llama2.c ---------------------------------------------------------------------

def read_llama2c(path: Path) -> Tuple[Config, Dict[str, Source]]:
    """A version 0 checkpoint: seven int32, then F32 weights kind by kind, all layers of each.

    The format has no norm epsilon and no rotary base; llama2.c fixes them at 1e-5 and 10000."""
    total = path.stat().st_size
    with open(path, "rb") as f:
        head = f.read(28)
    if len(head) < 28 or head[:4] == b"24ka":
        refuse(path, "header", "a llama2.c version 0 checkpoint", "version 1 or 2, or too short")
    d, d_ff, n_layer, n_head, n_kv, vocab, n_ctx = struct.unpack("<7i", head)
    sizes = [d, d_ff, n_layer, n_head, n_kv, abs(vocab), n_ctx]
    if min(sizes) < 1 or max(sizes) > 1 << 24 or d % n_head or n_head % n_kv:
        refuse(path, "header", "the seven fitting sizes of a llama2.c checkpoint", sizes)
    config = Config(n_layer, d, n_head, n_kv, d // n_head, d_ff, abs(vocab), n_ctx, 1e-5, 10000.0,
                    tied=vocab > 0)
    check_config(path, config)
    order = list(llama2c_order(config))
    size = 28 + sum(4 * copies * math.prod(shape) for _, copies, shape in order)
    if size != total:       # before anything is made whose size the header decides
        refuse(path, "size of the file", f"{size} bytes for its header", total)
    found, at = {}, 28
    for name, copies, shape in order:
        for l in range(copies):
            found[name.format(l)] = Source(path, at, "F32", shape)
            at += 4 * math.prod(shape)
    found.pop("")
    return config, found


def llama2c_order(config: Config):
    """(Hugging Face name, copies, shape) in the order of the file; no name: values not used."""
    sizes, layers = config.letters(), config.n_layer
    names = {gguf: (hf, tuple(sizes[c] for c in letters)) for hf, gguf, letters, _ in LAYER}
    yield "model.embed_tokens.weight", 1, (config.n_vocab, config.d_model)
    for kind in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm",
                 "ffn_gate", "ffn_down", "ffn_up"):
        hf, shape = names[kind + ".weight"]
        yield "model.layers.{}." + hf, layers, shape
    yield "model.norm.weight", 1, (config.d_model,)
    yield "", 1, (2, config.n_ctx, config.d_head // 2)      # cos and sin, not used any more
    if not config.tied:
        yield "lm_head.weight", 1, (config.n_vocab, config.d_model)


def tokenizer_llama2c(path: Path, count: int) -> Tokenizer:
    """tokenizer.bin: int32 longest token, then per token F32 score, int32 length, bytes.

    It was made from a SentencePiece model by putting spaces for U+2581 and line breaks around
    <s> and </s>; both are undone. Ids 0, 1, 2 are unk, bos, eos; 3..258 are the bytes."""
    data, at, t = path.read_bytes(), 4, Tokenizer("llama")
    for i in range(count):
        score, length = struct.unpack_from("<fi", data, at) if at + 8 <= len(data) else (0, -1)
        if length < 0 or at + 8 + length > len(data):
            refuse(path, "tokens", f"{count}, as many as the checkpoint has", i)
        try:
            token = data[at + 8:at + 8 + length].decode("utf-8").replace(" ", "\u2581")
        except UnicodeDecodeError:
            refuse(path, f"token {i}", "UTF-8 text", repr(data[at + 8:at + 8 + length]))
        at += 8 + length
        kind = UNKNOWN if i == 0 else CONTROL if i < 3 else BYTE if i < 259 else NORMAL
        t.add({1: "<s>", 2: "</s>"}.get(i, token), kind, score)
    if at != len(data):
        refuse(path, "size of the file", f"{at} bytes for {count} tokens", len(data))
    if count < 259 or t.tokens[3:259] != [f"<0x{b:02X}>" for b in range(256)]:
        refuse(path, "tokens 3 to 258", "<0x00> to <0xFF>", t.tokens[3:5])
    t.ids = {"unknown": 0, "bos": 1, "eos": 2}
    t.flags = {"add_bos_token": True, "add_eos_token": False, "add_space_prefix": True,
               "remove_extra_whitespaces": False}
    return t


# ---- write -----------------------------------------------------------------------------------

def metadata(name: str, config: Config, t: Tokenizer, tensors: List[Tensor]):
    """(key, value type, value) in file order."""
    sizes: Dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    c, most = config, max(sizes, key=lambda dtype: sizes[dtype])
    yield "general.architecture", "str", "llama"
    yield "general.type", "str", "model"
    yield "general.name", "str", name
    yield "general.file_type", "u32", DTYPES[most][2]
    yield "llama.context_length", "u32", c.n_ctx
    yield "llama.embedding_length", "u32", c.d_model
    yield "llama.block_count", "u32", c.n_layer
    yield "llama.feed_forward_length", "u32", c.d_ff
    yield "llama.vocab_size", "u32", c.n_vocab
    yield "llama.attention.head_count", "u32", c.n_head
    yield "llama.attention.head_count_kv", "u32", c.n_kv
    yield "llama.attention.key_length", "u32", c.d_head
    yield "llama.attention.value_length", "u32", c.d_head
    yield "llama.attention.layer_norm_rms_epsilon", "f32", c.eps
    if c.window:
        yield "llama.attention.sliding_window", "u32", c.window
    yield "llama.rope.dimension_count", "u32", c.d_head
    yield "llama.rope.freq_base", "f32", c.base
    if c.scaling["rope_type"] == "linear":
        yield "llama.rope.scaling.type", "str", "linear"
        yield "llama.rope.scaling.factor", "f32", c.scaling["factor"]
    if c.scaling["rope_type"] == "llama3":      # the divisors do the scaling; this is for readers
        original = c.scaling["original_max_position_embeddings"]
        yield "llama.rope.scaling.original_context_length", "u32", original
    yield from tokenizer_metadata(t)


def tokenizer_metadata(t: Tokenizer):
    yield "tokenizer.ggml.model", "str", t.model
    yield "tokenizer.ggml.pre", "str", t.pre or "default"
    yield "tokenizer.ggml.tokens", "[str]", t.tokens
    yield "tokenizer.ggml.token_type", "[i32]", t.types
    if t.model == "llama":
        yield "tokenizer.ggml.scores", "[f32]", t.scores
    else:
        yield "tokenizer.ggml.merges", "[str]", t.merges
    for name, i in t.ids.items():
        yield f"tokenizer.ggml.{name}_token_id", "u32", i
    for name, value in t.flags.items():
        yield f"tokenizer.ggml.{name}", "bool", value
    for name, text in t.templates.items():
        key = "tokenizer.chat_template" + ("" if name == "default" else "." + name)
        yield key, "str", text


def pack_string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def pack_pair(key: str, kind: str, value) -> bytes:
    """One key and value; kind is a name of VALUES, in brackets for an array of it."""
    number, letter = VALUES[kind.strip("[]")]

    def one(v):
        return pack_string(v) if kind.strip("[]") == "str" else struct.pack("<" + letter, v)

    head = pack_string(key)
    try:
        if kind[0] == "[":
            head += struct.pack("<IIQ", ARRAY, number, len(value))
            return b"".join([head, *map(one, value)])
        return head + struct.pack("<I", number) + one(value)
    except (AttributeError, OverflowError, struct.error) as problem:
        raise BadInput(f"key {key}: a value does not fit its type {kind}: {problem}")


def pack_info(tensor: Tensor, offset: int) -> bytes:
    """Name, dimensions with the fastest first, type, offset from the start of the data."""
    dims = tuple(reversed(tensor.shape))
    return pack_string(tensor.name) + struct.pack(
        f"<I{len(dims)}QIQ", len(dims), *dims, DTYPES[tensor.dtype][0], offset)


def padding(size: int) -> bytes:
    return bytes(-size % ALIGNMENT)


def write_gguf(f, pairs, tensors: List[Tensor]):
    """Magic, version 3, counts, keys, tensor infos, then the aligned data, streamed."""
    pairs, offset, infos = list(pairs), 0, []
    for tensor in tensors:
        infos.append(pack_info(tensor, offset))
        offset += tensor.size + len(padding(tensor.size))
    head = b"".join([struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)),
                     *(pack_pair(*pair) for pair in pairs), *infos])
    f.write(head + padding(len(head)))
    for tensor in tensors:
        written = sum(f.write(chunk) for chunk in tensor.chunks())
        if written != tensor.size:
            raise BadInput(f"tensor {tensor.name}: expected {tensor.size} bytes, found {written}")
        f.write(padding(tensor.size))


def write_whole(path: Path, write: Callable) -> int:
    """Let `write` fill a file beside `path`, then rename it: the output is whole or absent.

    What goes wrong in writing is said of `path`; OSErrors of a source file pass through."""
    partial = path.with_name(f"partial-{os.getpid()}.tmp")     # a short name, whatever path's is
    try:
        with open(partial, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    except OSError as problem:
        if problem.filename is None or str(problem.filename) == str(partial):
            raise BadInput(f"{path}: cannot be written: {problem.strerror}")
        raise
    finally:
        try:
            partial.unlink()
        except OSError:     # as a rule it has its final name by now
            pass
    return path.stat().st_size


def write_model(path: Path, name: str, config: Config, t: Tokenizer, tensors: List[Tensor]):
    if len(t.tokens) > config.n_vocab:
        refuse(name, "tokens", f"at most {config.n_vocab}, the rows of the embedding",
               len(t.tokens))
    t.pad(config.n_vocab)
    pairs = metadata(name, config, t, tensors)
    size = write_whole(path, lambda f: write_gguf(f, pairs, tensors))
    print(f"{path}: {len(tensors)} tensors, {config.n_layer} layers, {config.n_head} heads, "
          f"{config.n_kv} key heads of {config.d_head}, {config.n_vocab} tokens "
          f"({t.model}{', ' + t.pre if t.pre else ''}), {size} bytes")


# ---- command line ----------------------------------------------------------------------------

def inputs(a) -> List[Path]:
    """Every file that may be read. A .gguf inside the folder is an earlier output, unless the
    index of the shards names it: export_folder asks again when it has read that."""
    files = [a.source, a.tokenizer or a.source.with_name("tokenizer.bin")]
    if a.source.is_dir():
        files += [f for f in a.source.iterdir() if f.suffix != ".gguf"]
    return files


def check_output(path: Path, files: Iterable[Path]):
    """Refuse an output that is not a .gguf file or that would replace one of its inputs."""
    if path.suffix != ".gguf":
        refuse(path, "the output", "a name that ends in .gguf", repr(path.name))
    if path.is_dir():
        refuse(path, "the output", "a file", "a folder")
    for file in files if path.exists() else ():
        if file.exists() and path.samefile(file):
            refuse(path, "the output", "a file of its own", f"the input {file}")


def export_folder(folder: Path, a):
    config = read_config(folder, a.ignore)
    found = read_checkpoint(folder)
    check_output(a.output, {source.path for source in found.values()})
    tensors = collect_tensors(folder, config, found, halves=True)
    t = read_tokenizer(folder, a.tokenizer, a.pre)
    write_model(a.output, a.name or folder.resolve().name, config, t, tensors)


def export_llama2c(path: Path, a):
    config, found = read_llama2c(path)
    tensors = collect_tensors(path, config, found, halves=False)
    file = a.tokenizer or path.with_name("tokenizer.bin")
    if not file.exists():
        refuse(path, "tokenizer", f"{file} or --tokenizer FILE", "neither")
    t = tokenizer_llama2c(file, config.n_vocab)
    write_model(a.output, a.name or path.stem, config, t, tensors)


def arguments():
    p = argparse.ArgumentParser(
        description="Write a GGUF file from a Hugging Face folder (llama family) or a llama2.c "
                    "checkpoint.")
    p.add_argument("source", type=Path, metavar="SRC",
                   help="checkpoint folder, or llama2.c .bin file")
    p.add_argument("-o", "--output", required=True, type=Path, metavar="OUT.gguf")
    p.add_argument("--tokenizer", type=Path, metavar="FILE",
                   help="tokenizer.json, tokenizer.model or llama2.c tokenizer.bin")
    p.add_argument("--pre", metavar="NAME", help="split rule of a byte-level BPE tokenizer, if "
                   "it is not recognised")
    p.add_argument("--name", help="general.name of the output (default: name of the source)")
    p.add_argument("--ignore", action="append", default=[], metavar="KEY",
                   help="a key of config.json to overlook; may be repeated")
    return p.parse_args()


def main():
    a = arguments()
    try:
        check_output(a.output, inputs(a))
        if a.source.is_dir():
            export_folder(a.source, a)
        else:
            export_llama2c(a.source, a)
    except BadInput as problem:
        print(f"export.py: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"export.py: {problem.filename or a.source}: {problem.strerror}", file=sys.stderr)
        return 1
    except RecursionError:
        print(f"export.py: {a.source}: its JSON is nested too deeply", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
