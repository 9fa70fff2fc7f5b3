#!/usr/bin/env python3
"""Write a GGUF file from a Hugging Face checkpoint folder or a llama2.c checkpoint.

    export.py FOLDER    -o OUT.gguf     config.json, safetensors, tokenizer.json or tokenizer.model
    export.py MODEL.bin -o OUT.gguf     llama2.c version 0 or 1, with --tokenizer TOKENIZER.bin
    export.py --tiny ARCH [OUT.gguf]    a random miniature model, and its logits (tests/tiny.py)

Needs Python 3.8 or later and nothing else. Sources: the families in FAMILIES below (Llama 1/2/3,
TinyLlama, SmolLM 1/2/3, Mistral, Granite 3, Qwen 2/2.5/3, Phi 1/1.5/2/3/3.5/4-mini, GPT-NeoX,
Pythia, GPT-J, OLMo 1/2/3, Gemma 1/2/3, StableLM, StarCoder 2; and of mixtures of experts OLMoE,
Qwen 1.5/2/3 MoE, Mixtral) and llama2.c. Whatever this program does not know and might change the
result is refused, never skipped.

Tensors written (D = head_dim; F32, F16 and BF16 matrices keep their type and their bits; vectors
become F32), each where the family has it:
    token_embd.weight     [vocab, d]        output_norm.weight   [d], .bias
    output.weight         [vocab, d], absent if the output is tied to the embedding; .bias
    rope_freqs.weight     [n_rot/2], for "llama3" scaling: divisors of the rotary frequencies
    rope_factors_short.weight, rope_factors_long.weight [n_rot/2], for "longrope" scaling
    blk.N.attn_norm.weight [d]              blk.N.ffn_norm.weight [d]
    blk.N.attn_q.weight   [H*D, d]          blk.N.attn_k.weight, attn_v.weight   [K*D, d]
    blk.N.attn_qkv.weight [(H+2K)*D, d]     in the place of those three (gptneox, phi3)
    blk.N.attn_q_norm.weight, attn_k_norm.weight [D], [H*D] or [H, D]
    blk.N.attn_output.weight [d, H*D]       blk.N.ffn_gate.weight, ffn_up.weight [f, d]
    blk.N.ffn_down.weight [d, f]            blk.N.ffn_up.weight [2f, d]: gate, then up (phi3)
    blk.N.post_attention_norm.weight, post_ffw_norm.weight [d], of a branch's output
    blk.N.ffn_gate_inp.weight [x, d], F32   blk.N.ffn_gate_exps.weight, ffn_up_exps.weight [x, e, d]
    blk.N.ffn_down_exps.weight [x, d, e]    blk.N.ffn_gate_inp_shexp.weight [d]
    blk.N.ffn_gate_shexp.weight, ffn_up_shexp.weight [s, d], ffn_down_shexp.weight [d, s]
    and .bias beside them where the checkpoint has biases
Rows of q and k are reordered inside each head from Hugging Face's halves (pair j = rows j and
j + D/2) to adjacent pairs (rows 2j and 2j + 1) where GGUF's architecture has these: llama,
smollm3, granite, olmo; llama2.c and GPT-J have these already. Rows of GPT-NeoX's q, k and v, which
take turns head by head, are put together. Gemma's norms, saved less 1, get it back.

Keys written (A: the architecture):
    general.architecture .type .name .file_type
    A.context_length .embedding_length .block_count .feed_forward_length .vocab_size
    A.attention.head_count .head_count_kv .key_length .value_length .layer_norm_rms_epsilon or
        .layer_norm_epsilon .sliding_window .sliding_window_pattern .rope_pattern .scale .clamp_kqv
    A.attn_logit_softcapping .final_logit_softcapping .logit_scale .residual_scale
        .embedding_scale .use_parallel_residual
    A.expert_count .expert_used_count .expert_feed_forward_length .expert_weights_norm
        .expert_shared_feed_forward_length
    A.rope.dimension_count .freq_base .freq_base_swa
    A.rope.scaling.type .factor .original_context_length .attn_factor .yarn_beta_fast
        .yarn_beta_slow (linear, yarn, longrope; the second of these keys for llama3)
    ropescope.rope (a scaling that these keys cannot say; a text as --rope takes it, or a list
        with one for each layer)
    tokenizer.ggml.model (llama: SentencePiece BPE; gpt2: byte-level BPE) .pre .tokens .token_type
    tokenizer.ggml.scores (llama) or .merges (gpt2)
    tokenizer.ggml.{bos,eos,unknown,padding}_token_id .add_bos_token .add_eos_token
    tokenizer.ggml.add_space_prefix .remove_extra_whitespaces (llama)
    tokenizer.chat_template, tokenizer.chat_template.NAME
    ropescope.tokenizer.normalizer .whole_words .late .lstrip .rstrip, where the keys above cannot
        say what the tokenizer does (see tokenizer.c)

Order of this file: constants; families; errors; readers; normalise (config, rotary encoding,
tensors, tokenizer); write; command line.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import signal
import struct
import sys
import tempfile
import time
import unicodedata
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
# Bytes of the others, which occur in tensors that are not exported (masks of old checkpoints).
OTHER_DTYPES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F64": 8}

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# Keys of config.json that are read below for every family ...
CONFIG_READ = set("""architectures model_type hidden_size intermediate_size num_hidden_layers
    vocab_size num_attention_heads num_key_value_heads head_dim max_position_embeddings
    rope_theta rope_scaling rope_parameters tie_word_embeddings partial_rotary_factor
    sliding_window max_window_layers layer_types original_max_position_embeddings
    bos_token_id eos_token_id pad_token_id unk_token_id""".split())
# ... keys that say nothing about the arithmetic of one forward pass ...
CONFIG_INERT = set("""torch_dtype dtype transformers_version use_cache _name_or_path
    initializer_range attention_dropout pretraining_tp max_sequence_length auto_map is_llama_config
    transformers.js_config _attn_implementation_autoset attn_implementation
    output_attentions output_hidden_states return_dict chunk_size_feed_forward is_decoder
    problem_type id2label label2id task_specific_params finetuning_task cache_implementation
    gradient_checkpointing embd_layer_norm_eps summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj tokenizer_class model_max_length
    _sliding_window_pattern embd_pdrop resid_pdrop attn_pdrop hidden_dropout residual_dropout
    classifier_dropout embedding_dropout attention_probs_dropout_prob hidden_dropout_prob
    sliding_window_size custom_pipeline custom_pipelines use_deepspeed_checkpointing
    unsloth_fixed unsloth_version _attn_implementation _commit_hash
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size num_return_sequences output_scores return_dict_in_generate
    output_router_logits router_aux_loss_coef router_jitter_noise""".split())
# ... and keys that are harmless with these values only. Any other key must be null or false.
CONFIG_FIXED = {"use_sliding_window": (False, True), "pruned_heads": ({},)}

# Architectures whose classes look at use_sliding_window; those of the others keep their window.
SWITCHED_WINDOWS = ("qwen2", "qwen2moe", "qwen3", "qwen3moe", "smollm3")

# The most that the runtime loads; lists of these lengths are made before any tensor is looked at.
MAX_LAYERS = MAX_EXPERTS = 4096

ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
LAYER_TYPES = ("full_attention", "sliding_attention")

ROPE_KEYS = {       # rope type -> the parameters it must have, and those it may have
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "dynamic": ({"factor"}, {"original_max_position_embeddings"}),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor",
                "original_max_position_embeddings"}, set()),
    "yarn": ({"factor"}, {"original_max_position_embeddings", "attention_factor", "beta_fast",
                          "beta_slow", "mscale", "mscale_all_dim", "truncate"}),
    "longrope": ({"short_factor", "long_factor"},
                 {"factor", "attention_factor", "original_max_position_embeddings"}),
    "proportional": (set(), {"factor"}),
}
# Architectures whose layers with a window have it in llama.cpp, too.
LLAMA_CPP_WINDOWS = ("gemma2", "gemma3", "olmo2")
# ... that scale scores there by 1/sqrt(head_dim); with so many layers by 1/sqrt(hidden / heads).
LLAMA_CPP_SCALES = {"gemma2": 46, "gemma3": 62}
# ... and those whose llama.cpp graph takes rope_freqs.weight.
ROPE_FREQS = ("llama", "granite")

# Split rules of byte-level BPE by their regular expressions as tokenizer.json spells them.
RE_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
RE_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
RE_WORD = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
           r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + RE_TAIL)
RE_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]%s[\p{Ll}\p{Lm}\p{Lo}\p{M}]%s"
RE_CASED = (RE_UPPER % ("*", "+") + "%s|" + RE_UPPER % ("+", "*") + "%s|%s"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + RE_TAIL)
RE_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
RE_MARKED = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
             r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + RE_TAIL)
# Steps of the pre-tokenizer -> tokenizer.ggml.pre without and with ignore_merges.
PRE_NAMES = {
    ("bytes+gpt2",): ("gpt-2", "gpt-2"),
    (RE_GPT2, "bytes"): ("gpt-2", "gpt-2"),
    ("digits", "bytes+gpt2"): ("smollm", "smollm"),
    (RE_WORD % r"\p{N}{1,3}", "bytes"): ("dbrx", "llama-bpe"),
    (RE_WORD % r"\p{N}", "bytes"): ("qwen2", "qwen2"),
    (RE_MARKED, "bytes"): ("qwen35", "qwen35"),
    (RE_CASED % ("", "", r"\p{N}"), "bytes"): ("tekken", "tekken"),
    (RE_CASED % (RE_ENDING, RE_ENDING, r"\p{N}{1,3}"), "bytes"): ("gpt-4o", "gpt-4o"),
}
# ... and every name that the runtime knows, for --pre.
PRE_KNOWN = set("""default gpt-2 phi-2 olmo mpt jais roberta-bpe gigachat jina-es jina-de
    jina-v1-en jina-v2-es jina-v2-de jina-v2-code a.x-4.0 mellum modern-bert exaone4 trillion
    granite-docling smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 llama-bpe
    llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe chatglm-bpe
    glm4 glm5 qwen2 stablelm2 deepseek-r1-qwen megrez kormo f2llmv2 hunyuan solar-open grok-2 qwen35
    tekken gpt-4o llama4 kanana2 talkie minimax-m2 falcon""".split())
WHOLE_WORDS = ("llama-bpe", "tekken")   # ... which of them stand for ignore_merges themselves
# The same rules in other words: as tiktoken writes them, and with an end that says less.
RE_ALIASES = (("'(?i:[sdmt]|ll|ve|re)|", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"),
              (r"[^\r\n\p{L}\p{N}]?+\p{L}", r"[^\r\n\p{L}\p{N}]?\p{L}"),
              (r"[^\s\p{L}\p{N}]++[", r"[^\s\p{L}\p{N}]+["),
              (r"\s*[\r\n]|\s+", r"\s*[\r\n]+|\s+"))

# ---- families --------------------------------------------------------------------------------

class Row(NamedTuple):
    """One tensor: Hugging Face name, GGUF name, shape in letters (d model, q = H*D, k = K*D,
    z = q + 2k, f feed-forward, g = 2f, v vocabulary, h = D, H and K heads, x experts, e and s the
    width of an expert and of the shared one), what is done to it, and the flag of config.json that
    it depends on ("": none; moe: the layer has experts).

    Done to it: q, k: rows reordered inside heads where GGUF's layout is adjacent; turns: rows of
    q, k, v that take turns head by head are put together; plus1: 1 is added; stack: one vector
    for each head, or matrix for each expert (* in the name), put together; float: becomes F32."""
    hf: str
    gguf: str
    letters: str
    how: str = ""
    when: str = ""


def pair(hf, gguf, letters, bias=None, how="", when="") -> Tuple[Row, ...]:
    """The row of a weight, and with `bias` (a flag; "": always) the one of the bias beside it."""
    rows = (Row(hf + ".weight", gguf + ".weight", letters, how, when),)
    if bias is not None:
        rows += (Row(hf + ".bias", gguf + ".bias", letters[0], how, bias),)
    return rows


def qkvo(bias, out_bias, out="o_proj", at="self_attn."):
    return (pair(at + "q_proj", "attn_q", "qd", bias, "q") +
            pair(at + "k_proj", "attn_k", "kd", bias, "k") +
            pair(at + "v_proj", "attn_v", "kd", bias) +
            pair(at + out, "attn_output", "dq", out_bias))


def gated(bias=None):
    return (pair("mlp.gate_proj", "ffn_gate", "fd", bias) +
            pair("mlp.up_proj", "ffn_up", "fd", bias) +
            pair("mlp.down_proj", "ffn_down", "df", bias))


def mixture():
    """A router and experts, and the dense network of layers that have none."""
    dense = tuple(r._replace(when="!moe") for r in gated())
    each = (("gate", "xed"), ("up", "xed"), ("down", "xde"))
    return dense + (Row("mlp.gate.weight", "ffn_gate_inp.weight", "xd", "float", "moe"),) + tuple(
        Row(f"mlp.experts.*.{name}_proj.weight", f"ffn_{name}_exps.weight", letters, "stack",
            "moe") for name, letters in each)


SHARED_EXPERT = (Row("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", "1d", "float",
                     "moe"),) + tuple(
    Row(f"mlp.shared_expert.{name}_proj.weight", f"ffn_{name}_shexp.weight", letters, "", "moe")
    for name, letters in (("gate", "sd"), ("up", "sd"), ("down", "ds")))


def two_matrices(up, down):
    return pair(up, "ffn_up", "fd", "") + pair(down, "ffn_down", "df", "")


def ends(embd="model.embed_tokens", norm="model.norm", bias=None, how=""):
    return pair(embd, "token_embd", "vd") + pair(norm, "output_norm", "d", bias, how)


INPUT_NORM = pair("input_layernorm", "attn_norm", "d")
FFN_NORM = pair("post_attention_layernorm", "ffn_norm", "d")
LLAMA = INPUT_NORM + qkvo("attention_bias", "attention_bias") + FFN_NORM + gated("mlp_bias")
HEAD_NORMS = (pair("self_attn.q_norm", "attn_q_norm", "h") +
              pair("self_attn.k_norm", "attn_k_norm", "h"))
GEMMA_NORM = tuple(r._replace(how="plus1") for r in INPUT_NORM)
GEMMA = GEMMA_NORM + qkvo("attention_bias", "attention_bias") + gated()
SANDWICH = (pair("post_attention_layernorm", "post_attention_norm", "d", None, "plus1") +
            pair("pre_feedforward_layernorm", "ffn_norm", "d", None, "plus1") +
            pair("post_feedforward_layernorm", "post_ffw_norm", "d", None, "plus1"))
ACT_SILU = {"hidden_act": ("silu", "swish")}
ACT_TANH = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
ATTENTION_BIAS = {"attention_bias": False, "mlp_bias": False}


class Family(NamedTuple):
    """What a class of Hugging Face means in GGUF; a row of FAMILIES and no code of its own."""
    arch: str
    layer: Tuple[Row, ...]
    ends: Tuple[Row, ...] = ends()
    prefix: str = "model.layers."
    head: str = "lm_head"
    head_bias: bool = False
    adjacent: bool = False      # GGUF wants adjacent pairs, the checkpoint has halves
    eps: str = "rms_norm_eps"   # the key of it; "": 1e-5
    rms: bool = True
    windows: str = ""           # no layer has a window, whatever the keys say; all; types
    window_every: int = 0       # the last of so many layers has none, unless the file says it
    nope_every: int = 0         # the last of so many layers does not turn, likewise
    rotary: Optional[float] = None      # the share of a head that turns; None: always 1
    base: float = 10000.0
    local_base: Optional[float] = None  # of layers with a window
    local_plain: bool = False   # in GGUF, layers with a window are never scaled
    must_say: bool = False      # in GGUF, a missing window means the usual one, not none
    untied: bool = False        # GGUF wants an output matrix, be it a copy of the embedding
    flags: Dict[str, bool] = {}         # what config.json may switch, and the default of it
    fixed: Dict[str, Tuple] = ACT_SILU  # keys that must have one of these values if they are there
    scales: Dict[str, str] = {}         # number of config.json -> key after the architecture
    defaults: Dict[str, Any] = {}       # what Hugging Face assumes when a key is left out
    names: Dict[str, str] = {}          # key of other families -> key of this one
    unread: Dict[str, Any] = {}         # keys of other families that this class never reads, only
    # the names it has for them -> what it takes where neither these nor rope_parameters say it
    extra: Tuple[str, ...] = ()         # further keys that are read, or that the class never reads
    expert_width: str = ""              # the key of it; "": there are no experts
    normed: Optional[bool] = None       # are the weights of the chosen experts divided by their sum
    # in GGUF's architecture, whatever norm_topk_prob says?


GEMMA_DEFAULTS = {"tie_word_embeddings": True, "head_dim": 256, "max_position_embeddings": 8192,
                  "rms_norm_eps": 1e-6}
SCALAR = {"query_pre_attn_scalar": 256, "sliding_window": 4096}
QWEN = dict(windows="types", defaults={"max_position_embeddings": 32768, "sliding_window": 4096,
                                       "rms_norm_eps": 1e-6})
EXPERTS = ("num_experts", "num_experts_per_tok")
SPARSE = EXPERTS + ("moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers")
OLMO2 = (qkvo("attention_bias", "attention_bias") +
         pair("self_attn.q_norm", "attn_q_norm", "q") +
         pair("self_attn.k_norm", "attn_k_norm", "k") +
         pair("post_attention_layernorm", "post_attention_norm", "d") +
         pair("post_feedforward_layernorm", "post_ffw_norm", "d") + gated())
OLMO = dict(untied=True, flags={"attention_bias": False},
            defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5})
FAMILIES = {
    "LlamaForCausalLM": Family(
        "llama", LLAMA, adjacent=True, flags=ATTENTION_BIAS,
        defaults={"max_position_embeddings": 2048}),
    "MistralForCausalLM": Family(
        "llama", LLAMA, adjacent=True, windows="all", flags=ATTENTION_BIAS,
        defaults={"max_position_embeddings": 131072, "num_key_value_heads": 8,
                  "sliding_window": 4096}),
    "SmolLM3ForCausalLM": Family(
        "smollm3", INPUT_NORM + qkvo("attention_bias", "attention_bias") + FFN_NORM + gated(),
        adjacent=True, windows="types", nope_every=4, base=2e6,
        flags={"attention_bias": False},
        fixed={**ACT_SILU, "mlp_bias": (False,)},
        extra=("no_rope_layers", "no_rope_layer_interval"),
        defaults={"max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
                  "tie_word_embeddings": True}),
    "GraniteForCausalLM": Family(
        "granite", LLAMA, adjacent=True, flags=ATTENTION_BIAS,
        scales={"attention_multiplier": "attention.scale",
                "embedding_multiplier": "embedding_scale",
                "residual_multiplier": "residual_scale", "logits_scaling": "logit_scale"},
        defaults={"max_position_embeddings": 2048, "attention_multiplier": 1.0,
                  "logits_scaling": 1.0}),
    "Qwen2ForCausalLM": Family(
        "qwen2", INPUT_NORM + qkvo("", None) + FFN_NORM + gated(), **QWEN),
    "Qwen3ForCausalLM": Family(
        "qwen3", INPUT_NORM + qkvo("attention_bias", "attention_bias") + HEAD_NORMS + FFN_NORM +
        gated(), flags={"attention_bias": False},
        **{**QWEN, "defaults": {**QWEN["defaults"], "head_dim": 128}}),
    "MixtralForCausalLM": Family(
        "llama", INPUT_NORM + qkvo(None, None) + FFN_NORM + mixture(), adjacent=True,
        windows="all", base=1e6, expert_width="intermediate_size", normed=True, extra=EXPERTS,
        fixed={**ACT_SILU, "norm_topk_prob": (True,)}, names={"num_experts": "num_local_experts"},
        defaults={"max_position_embeddings": 131072, "num_key_value_heads": 8,
                  "rms_norm_eps": 1e-5, "num_experts": 8, "num_experts_per_tok": 2,
                  "norm_topk_prob": True}),
    "Qwen2MoeForCausalLM": Family(
        "qwen2moe", INPUT_NORM + qkvo("", None) + FFN_NORM + mixture() + SHARED_EXPERT,
        expert_width="moe_intermediate_size", normed=False, flags={"norm_topk_prob": False},
        extra=SPARSE + ("shared_expert_intermediate_size",),
        fixed={**ACT_SILU, "use_sliding_window": (False,), "qkv_bias": (True,)},
        defaults={"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "num_experts": 60,
                  "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
                  "shared_expert_intermediate_size": 5632}),
    "Qwen3MoeForCausalLM": Family(
        "qwen3moe", INPUT_NORM + qkvo("attention_bias", "attention_bias") + HEAD_NORMS + FFN_NORM +
        mixture(), windows="all", expert_width="moe_intermediate_size", normed=True, extra=SPARSE,
        flags={"attention_bias": False, "norm_topk_prob": False},
        names={"num_experts": "num_local_experts"},     # of transformers 5
        defaults={"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "num_experts": 128,
                  "num_experts_per_tok": 8, "moe_intermediate_size": 768, "sliding_window": 4096,
                  "use_sliding_window": False, "num_key_value_heads": 4}),
    "OlmoeForCausalLM": Family(
        "olmoe", INPUT_NORM + qkvo("attention_bias", "attention_bias") +
        pair("self_attn.q_norm", "attn_q_norm", "q") +
        pair("self_attn.k_norm", "attn_k_norm", "k") + FFN_NORM + mixture(),
        expert_width="intermediate_size", normed=False, extra=EXPERTS,
        flags={"attention_bias": False, "norm_topk_prob": False},
        defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "num_experts": 64,
                  "num_experts_per_tok": 8}),
    "PhiForCausalLM": Family(
        "phi2", pair("input_layernorm", "attn_norm", "d", "") +
        qkvo("", "", "dense") + two_matrices("mlp.fc1", "mlp.fc2"),
        ends(norm="model.final_layernorm", bias=""), head_bias=True, eps="layer_norm_eps",
        rms=False, rotary=0.5, untied=True,
        fixed={"hidden_act": ACT_TANH, "qk_layernorm": (False,)},
        defaults={"max_position_embeddings": 2048, "layer_norm_eps": 1e-5}),
    "Phi3ForCausalLM": Family(
        "phi3", INPUT_NORM + pair("self_attn.qkv_proj", "attn_qkv", "zd") +
        pair("self_attn.o_proj", "attn_output", "dq") + FFN_NORM +
        pair("mlp.gate_up_proj", "ffn_up", "gd") + pair("mlp.down_proj", "ffn_down", "df"),
        windows="all", rotary=1.0,
        fixed={**ACT_SILU, "full_attn_mod": (1,), "interpolate_factor": (1,)},
        defaults={"max_position_embeddings": 4096}),
    "GPTNeoXForCausalLM": Family(
        "gptneox", pair("input_layernorm", "attn_norm", "d", "") +
        pair("attention.query_key_value", "attn_qkv", "zd", "", "turns") +
        pair("attention.dense", "attn_output", "dq", "") +
        pair("post_attention_layernorm", "ffn_norm", "d", "") +
        two_matrices("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        ends("gpt_neox.embed_in", "gpt_neox.final_layer_norm", ""), "gpt_neox.layers.",
        "embed_out", eps="layer_norm_eps", rms=False, rotary=0.25, untied=True,
        flags={"use_parallel_residual": True},
        fixed={"hidden_act": ("gelu",), "attention_bias": (True,)},
        names={"partial_rotary_factor": "rotary_pct", "rope_theta": "rotary_emb_base"},
        unread={"partial_rotary_factor": 0.25, "rope_theta": 10000},
        defaults={"max_position_embeddings": 2048, "layer_norm_eps": 1e-5}),
    "GPTJForCausalLM": Family(
        "gptj", pair("ln_1", "attn_norm", "d", "") + qkvo(None, None, "out_proj", "attn.") +
        two_matrices("mlp.fc_in", "mlp.fc_out"),
        ends("transformer.wte", "transformer.ln_f", ""), "transformer.h.", head_bias=True,
        eps="layer_norm_epsilon", rms=False, rotary=1.0, untied=True,
        fixed={"activation_function": ACT_TANH, "rotary": (True,), "scale_attn_weights": (True,)},
        names={"hidden_size": "n_embd", "num_hidden_layers": "n_layer",
               "num_attention_heads": "n_head", "intermediate_size": "n_inner",
               "max_position_embeddings": "n_positions"},
        extra=("rotary_dim",),
        defaults={"rotary_dim": 64, "layer_norm_epsilon": 1e-5, "max_position_embeddings": 2048}),
    "OlmoForCausalLM": Family(
        "olmo", qkvo(None, None) + gated(), pair("model.embed_tokens", "token_embd", "vd"),
        adjacent=True, eps="", rms=False, fixed={**ACT_SILU, "attention_bias": (False,)},
        scales={"clip_qkv": "attention.clamp_kqv"}, defaults={"max_position_embeddings": 2048}),
    "Olmo2ForCausalLM": Family("olmo2", OLMO2, **OLMO),
    "Olmo3ForCausalLM": Family(
        "olmo2", OLMO2, windows="types", window_every=4, base=5e5, local_base=5e5,
        local_plain=True, **{**OLMO, "defaults": {**OLMO["defaults"], "sliding_window": 4096}}),
    "GemmaForCausalLM": Family(
        "gemma", GEMMA + pair("post_attention_layernorm", "ffn_norm", "d", None, "plus1"),
        ends(how="plus1"), flags={"attention_bias": False},
        fixed={"hidden_act": ("gelu", *ACT_TANH), "hidden_activation": ACT_TANH},
        defaults=GEMMA_DEFAULTS),
    "Gemma2ForCausalLM": Family(
        "gemma2", GEMMA + SANDWICH, ends(how="plus1"), windows="types", window_every=2,
        must_say=True, flags={"attention_bias": False},
        fixed={"hidden_activation": ACT_TANH, "hidden_act": ACT_TANH},
        scales={"attn_logit_softcapping": "attn_logit_softcapping",
                "final_logit_softcapping": "final_logit_softcapping"},
        extra=("query_pre_attn_scalar",),
        defaults={**GEMMA_DEFAULTS, **SCALAR, "attn_logit_softcapping": 50.0,
                  "final_logit_softcapping": 30.0}),
    "Gemma3ForCausalLM": Family(
        "gemma3", GEMMA + SANDWICH + tuple(r._replace(how="plus1") for r in HEAD_NORMS),
        ends(how="plus1"), windows="types", window_every=6, base=1e6, local_base=1e4,
        flags={"attention_bias": False}, fixed={"hidden_activation": ACT_TANH},
        scales={"final_logit_softcapping": "final_logit_softcapping"},
        extra=("query_pre_attn_scalar", "sliding_window_pattern", "rope_local_base_freq"),
        defaults={**GEMMA_DEFAULTS, **SCALAR, "max_position_embeddings": 131072,
                  "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
                  "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4}),
    "StableLmForCausalLM": Family(
        "stablelm", pair("input_layernorm", "attn_norm", "d", "") + qkvo("use_qkv_bias", None) +
        (Row("self_attn.q_layernorm.norms.*.weight", "attn_q_norm.weight", "Hh", "stack",
             "qk_layernorm"),
         Row("self_attn.k_layernorm.norms.*.weight", "attn_k_norm.weight", "Kh", "stack",
             "qk_layernorm"),
         Row("post_attention_layernorm.weight", "ffn_norm.weight", "d", "",
             "!use_parallel_residual"),
         Row("post_attention_layernorm.bias", "ffn_norm.bias", "d", "",
             "!use_parallel_residual")) + gated(),
        ends(bias=""), eps="layer_norm_eps", rms=False, rotary=0.25, untied=True,
        flags={"use_qkv_bias": False, "qk_layernorm": False, "use_parallel_residual": False},
        names={"partial_rotary_factor": "rope_pct"},
        defaults={"max_position_embeddings": 4096, "layer_norm_eps": 1e-5}),
    "Starcoder2ForCausalLM": Family(
        "starcoder2", pair("input_layernorm", "attn_norm", "d", "") + qkvo("", "") +
        pair("post_attention_layernorm", "ffn_norm", "d", "") +
        two_matrices("mlp.c_fc", "mlp.c_proj"), ends(bias=""), windows="all",
        eps="norm_epsilon", rms=False,
        fixed={"hidden_act": ACT_TANH, "use_bias": (True,), "mlp_type": ("default",),
               "norm_type": ("layer_norm",)},
        extra=("rms_norm_eps", "layer_norm_epsilon", "activation_function", "scale_attn_weights",
               "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"),
        defaults={"max_position_embeddings": 4096, "norm_epsilon": 1e-5,
                  "num_key_value_heads": 2, "tie_word_embeddings": True}),
}


# Classes with one of these as a part: its configuration is the object text_config, its tensors have
# language_model in front of their names. The rest is about pictures, and left out.
TEXT_PART = {"Gemma3ForConditionalGeneration": "Gemma3ForCausalLM"}
PICTURE_KEYS = set("""text_config vision_config mm_tokens_per_image boi_token_index eoi_token_index
    image_token_index boi_token_id eoi_token_id image_token_id""".split())
PICTURE_PARTS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                 "model.multi_modal_projector.")


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
        each = DTYPES[self.dtype][1] if self.dtype in DTYPES else OTHER_DTYPES[self.dtype]
        return math.prod(self.shape) * each


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
    if not isinstance(dtype, str) or dtype not in {**DTYPES, **OTHER_DTYPES}:
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
        old = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pth", ".pt"))
        how = " (save_pretrained of transformers writes it)" if old else ""
        refuse(folder, "weights", f"model.safetensors or model.safetensors.index.json{how}",
               f"{old[0]}, a Python program as much as a file of numbers" if old else "neither")
    where = read_json_object(index).get("weight_map")
    if not isinstance(where, dict):
        refuse(index, "weight_map", "an object from tensor names to files", where)
    found = {}
    for shard in sorted(set(map(str, where.values()))):
        if os.path.basename(shard) != shard:
            refuse(index, "weight_map", "files of the same folder", shard)
        if not (folder / shard).exists():
            refuse(folder, "shards", f"{shard}, which {index.name} names", None)
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
    """The shape of a model, whatever it was read from."""
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
    family: Family = FAMILIES["LlamaForCausalLM"]
    flags: Tuple[str, ...] = ()         # those of the family that are set
    scales: Tuple[Tuple[str, float], ...] = ()      # keys after the architecture, and numbers
    window: Optional[int] = None
    windows: Tuple[bool, ...] = ()      # of each layer: has it the window?
    scaling: Dict[str, Any] = {"rope_type": "default"}
    n_rot: int = 0                      # 0: d_head
    local: Optional[Tuple[Dict[str, Any], float]] = None    # scaling and base beside the window
    nope: Tuple[int, ...] = ()          # layers that do not turn
    experts: Optional["Experts"] = None

    def letters(self):
        q, k, f = self.n_head * self.d_head, self.n_kv * self.d_head, self.d_ff
        sizes = {"d": self.d_model, "f": f, "g": 2 * f, "v": self.n_vocab, "q": q, "k": k,
                 "z": q + 2 * k, "h": self.d_head, "H": self.n_head, "K": self.n_kv, "1": 1}
        if self.experts:
            sizes.update(x=self.experts.count, e=self.experts.width, s=self.experts.shared)
        return sizes

    def turning(self):
        return self.n_rot or self.d_head

    def has(self, when: str, layer: int) -> bool:
        if when in ("moe", "!moe"):
            return (self.experts is None or layer in self.experts.dense) == (when == "!moe")
        return when == "" or (when[1:] not in self.flags if when[0] == "!" else when in self.flags)


class Experts(NamedTuple):
    """The mixture of experts of a model: `used` of `count` by every token."""
    count: int
    used: int
    width: int
    shared: int                 # the width of the shared one; 0: there is none
    normed: bool                # are their weights divided by their sum?
    dense: Tuple[int, ...]      # layers that have none


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

    def count(self, key, most) -> int:
        value = self.number(key)
        if value > most:
            refuse(self.path, key, f"at most {most}", value)
        return value

    def flag(self, key):
        value = self.table.get(key)
        if value is not None and not isinstance(value, bool):
            refuse(self.path, key, "true or false", repr(value)[:80])
        return value


def check_known(fields: Fields, family: Family):
    """Refuse every key that is not known to leave the forward pass as it is."""
    for key in ("quantization_config", "quantization", "compression_config"):
        how = fields.table.get(key)
        if how is not None:
            how = how.get("quant_method", how) if isinstance(how, dict) else how
            refuse(fields.path, key, "a checkpoint of " + " or ".join(DTYPES) + " weights that are "
                   "not quantized", repr(how)[:80])
    read = CONFIG_READ | {family.eps, *family.flags, *family.scales, *family.extra}
    fixed = {**CONFIG_FIXED, **family.fixed}
    for key, value in fields.table.items():
        if key in read or key in CONFIG_INERT or value is None or value is False:
            continue
        if key not in fixed:
            refuse(fields.path, key, "only keys known to this program, as it may change the "
                   "result (--ignore KEY if it does not)", repr(value)[:80])
        if not any(value == v and type(value) is type(v) for v in fixed[key]):
            why = ", as GGUF has no key for another" if key in ACTIVATIONS else ""
            refuse(fields.path, key, " or ".join(map(str, fixed[key])) + why, repr(value)[:80])
    for key, allowed in fixed.items():      # False is a value, too
        if fields.table.get(key) is False and False not in allowed:
            refuse(fields.path, key, " or ".join(map(str, allowed)), "false")


def read_family(fields: Fields) -> Family:
    names = fields.table.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str) \
            or names[0] not in {**FAMILIES, **TEXT_PART}:
        refuse(fields.path, "architectures", " or ".join([*FAMILIES, *TEXT_PART]), names)
    if names[0] in TEXT_PART:
        take_text_part(fields)
    family = FAMILIES[TEXT_PART.get(names[0], names[0])]
    for ours, theirs in family.names.items():
        value = fields.table.pop(theirs, None)
        if ours in family.unread:
            check_unread(fields, ours, theirs, family.unread[ours] if value is None else value)
        if value is not None and fields.table.get(ours) is None:
            fields.table[ours] = value
        if value is not None and fields.table[ours] != value:
            refuse(fields.path, theirs, f"{fields.table[ours]!r} as {ours} says", repr(value)[:80])
    for key, value in family.defaults.items():
        fields.table.setdefault(key, value)
    return family


def check_unread(fields: Fields, ours: str, theirs: str, value):
    """A key that the class does not read may only repeat what it takes."""
    for name in ("rope_scaling", "rope_parameters"):
        table = fields.table.get(name)
        value = table.get(ours, value) if isinstance(table, dict) else value
    if fields.table.get(ours) not in (None, value):
        refuse(fields.path, ours, f"{value!r}, as this class reads {theirs} or rope_parameters in "
               "its place", repr(fields.table[ours])[:80])


def take_text_part(fields: Fields):
    """The keys of the language model in the place of those of the whole."""
    text = fields.table.get("text_config")
    if not isinstance(text, dict):
        refuse(fields.path, "text_config", "an object", repr(text)[:80])
    cap = text.get("final_logit_softcapping")
    if cap is not None:
        refuse(fields.path, "text_config.final_logit_softcapping", "null, as transformers does not "
               "apply it in this class", repr(cap)[:80])
    whole = {k: v for k, v in fields.table.items() if k not in PICTURE_KEYS}
    fields.table = {**whole, **{k: v for k, v in text.items() if k not in PICTURE_KEYS}}
    note("the model also sees pictures: only its language model is exported")


def settle_shape(fields: Fields):
    """Sizes that follow from others where config.json leaves them out."""
    n_head, d_model = fields.number("num_attention_heads"), fields.number("hidden_size")
    if fields.table.get("num_key_value_heads") is None:
        fields.table["num_key_value_heads"] = n_head
    if fields.table.get("head_dim") is None:
        if d_model % n_head:
            refuse(fields.path, "hidden_size", f"a multiple of {n_head} heads", d_model)
        fields.table["head_dim"] = d_model // n_head
    if fields.table.get("intermediate_size") is None:
        fields.table["intermediate_size"] = 4 * d_model     # GPT-J


def read_config(folder: Path, ignore: List[str]) -> Config:
    fields = Fields(folder / "config.json")
    for key in ignore:
        fields.table.pop(key, None)
    family = read_family(fields)
    check_known(fields, family)
    settle_shape(fields)
    n_layer, d_head = fields.count("num_hidden_layers", MAX_LAYERS), fields.number("head_dim")
    nope = read_nope(fields, family, n_layer)
    window, windows = read_windows(fields, family, n_layer, nope)
    ropes, n_rot = read_rope(fields, family, d_head)
    config = Config(
        n_layer=n_layer, d_model=fields.number("hidden_size"),
        n_head=fields.number("num_attention_heads"), n_kv=fields.number("num_key_value_heads"),
        d_head=d_head, d_ff=fields.number("intermediate_size"),
        n_vocab=fields.number("vocab_size"), n_ctx=fields.number("max_position_embeddings"),
        eps=fields.number(family.eps, float) if family.eps else 1e-5, base=ropes[0][1],
        tied=fields.flag("tie_word_embeddings"), family=family, flags=read_switches(fields, family),
        scales=read_scales(fields, family), window=window, windows=windows, scaling=ropes[0][0],
        n_rot=n_rot, local=ropes[1] if any(windows) else None, nope=nope,
        experts=read_experts(fields, family, n_layer))
    check_config(fields.path, config)
    return config


def read_switches(fields: Fields, family: Family) -> Tuple[str, ...]:
    for name, default in family.flags.items():
        if fields.flag(name) is None:
            fields.table[name] = default
    return tuple(name for name in family.flags if fields.table[name])


def read_scales(fields: Fields, family: Family) -> Tuple[Tuple[str, float], ...]:
    """Numbers that activations are multiplied by or limited to; null: not, which GGUF says by 0
    where it has a default."""
    scales = [(gguf, 0.0 if fields.table[key] is None else fields.number(key, float))
              for key, gguf in family.scales.items()
              if fields.table.get(key) is not None or key in family.defaults]
    if "query_pre_attn_scalar" in family.extra:
        scalar = fields.number("query_pre_attn_scalar", float)
        scales.append(("attention.scale", scalar ** -0.5))
        note_scale(fields, family, scalar)
    return tuple(scales)


def note_scale(fields: Fields, family: Family, scalar: float):
    usual = fields.number("head_dim")
    if fields.number("num_hidden_layers") == LLAMA_CPP_SCALES[family.arch]:
        usual = fields.number("hidden_size") // fields.number("num_attention_heads")
    if scalar != usual:
        note(f"query_pre_attn_scalar is {scalar:g}: written as {family.arch}.attention.scale, "
             f"which llama.cpp ignores: it computes with {usual}")


def read_experts(fields: Fields, family: Family, n_layer: int) -> Optional[Experts]:
    """The mixture of experts, if the family has some. Layer l is one unless mlp_only_layers has it
    or decoder_sparse_step does not divide l + 1."""
    if not family.expert_width:
        return None
    fields.table.setdefault("decoder_sparse_step", 1)
    step, only = fields.number("decoder_sparse_step"), fields.table.get("mlp_only_layers") or []
    if not isinstance(only, list) or any(type(l) is not int or l < 0 for l in only):
        refuse(fields.path, "mlp_only_layers", "a list of layers", repr(only)[:80])
    count = fields.count("num_experts", MAX_EXPERTS)
    used = fields.number("num_experts_per_tok")
    if used > count:
        refuse(fields.path, "num_experts_per_tok", f"at most {count}, the num_experts", used)
    shared = "shared_expert_intermediate_size"
    dense = tuple(l for l in range(n_layer) if l in only or (l + 1) % step)
    if dense:
        note(f"layers without experts ({', '.join(map(str, dense))}): llama.cpp has no such "
             f"{family.arch}")
    return Experts(count, used, fields.number(family.expert_width),
                   fields.number(shared) if shared in family.extra else 0,
                   fields.table["norm_topk_prob"], dense)


def check_config(path, config: Config):
    if config.family.arch == "olmoe" and config.n_kv != config.n_head:
        note("fewer key heads than heads: llama.cpp does not load such an olmoe")
    if config.n_head % config.n_kv:
        refuse(path, "num_attention_heads", f"a multiple of {config.n_kv} key heads",
               config.n_head)
    if config.d_head % 2:
        refuse(path, "head_dim", "an even number, as rotary pairs need two channels",
               config.d_head)


def read_nope(fields: Fields, family: Family, n_layer: int) -> Tuple[int, ...]:
    """The layers that do not turn: a 0 in no_rope_layers, else the last of so many."""
    if not family.nope_every:
        return ()
    turns = fields.table.get("no_rope_layers")
    if turns is None:
        fields.table.setdefault("no_rope_layer_interval", family.nope_every)
        every = fields.number("no_rope_layer_interval")
        turns = [int((l + 1) % every != 0) for l in range(n_layer)]
    if not isinstance(turns, list) or len(turns) != n_layer or \
            any(type(v) is not int or v not in (0, 1) for v in turns):
        refuse(fields.path, "no_rope_layers", f"{n_layer} times 0 or 1", repr(turns)[:80])
    return tuple(l for l, v in enumerate(turns) if not v)


def layer_types(fields: Fields, family: Family, n_layer: int, nope) -> Tuple[bool, ...]:
    """Of each layer, whether it has a window: layer_types, else what Hugging Face assumes."""
    given = fields.table.get("layer_types")
    if given is not None:
        if not isinstance(given, list) or len(given) != n_layer or \
                any(v not in LAYER_TYPES for v in given):
            refuse(fields.path, "layer_types", f"a list of {n_layer} names, " +
                   " and ".join(LAYER_TYPES), repr(given)[:80])
        return tuple(v == "sliding_attention" for v in given)
    if family.window_every:
        fields.table.setdefault("sliding_window_pattern", family.window_every)
        every = fields.number("sliding_window_pattern")
        return tuple((l + 1) % every != 0 for l in range(n_layer))
    if family.nope_every:
        return tuple(l in nope for l in range(n_layer))
    first = fields.table.get("max_window_layers")
    first = 28 if first is None else first
    if type(first) is not int or first < 0:
        refuse(fields.path, "max_window_layers", "a whole number, not negative", repr(first)[:80])
    return tuple(l >= first for l in range(n_layer))


def read_windows(fields: Fields, family: Family, n_layer: int, nope):
    """(the sliding window, of each layer whether it has it); None, () if there is none.

    LlamaForCausalLM and others have no window: their code never looks at the key."""
    types = layer_types(fields, family, n_layer, nope)
    asked = fields.flag("use_sliding_window") if family.arch in SWITCHED_WINDOWS else None
    asked = family.window_every > 0 or family.windows == "all" if asked is None else asked
    if fields.table.get("sliding_window") is None or not family.windows:
        return None, ()
    window = fields.number("sliding_window")
    if not asked:
        if family.windows == "types" and fields.table.get("layer_types") and any(types):
            refuse(fields.path, "layer_types", "full_attention only, as use_sliding_window is not "
                   "true (transformers has a window by one key and none by the other)",
                   "sliding_attention")
        return None, ()
    if family.windows == "types":
        if any(types) and family.arch not in LLAMA_CPP_WINDOWS:
            note_window(family.arch, window)
        return (window, types) if any(types) else (None, ())
    if fields.table.get("layer_types") is not None and len(set(types)) > 1:
        refuse(fields.path, "layer_types", "one type for all layers", "two")
    if window >= fields.number("max_position_embeddings"):
        return None, ()
    note_window(family.arch, window)
    return window, (True,) * n_layer


def note_window(arch: str, window: int):
    note(f"the sliding window of {window} tokens is written as {arch}.attention.sliding_window; a "
         "program that ignores this key, as llama.cpp does, is right for the first "
         f"{window} tokens only")


# ---- normalise: the rotary encoding ----------------------------------------------------------

def rope_tables(fields: Fields) -> Tuple[Dict[str, Any], Optional[Dict[str, Any]]]:
    """rope_parameters (newer files, base included) or rope_scaling (older), nulls left out: of
    layers that see everything, and of those with a window if these have one of their own."""
    both = [fields.table.get(key) for key in ("rope_parameters", "rope_scaling")]
    given = [table for table in both if table is not None]
    if any(not isinstance(table, dict) or table != given[0] for table in given):
        refuse(fields.path, "rope_parameters and rope_scaling", "one object", given)
    table, local = dict(given[0]) if given else {}, None
    if set(table) & set(LAYER_TYPES):
        if set(table) != set(LAYER_TYPES) or not all(isinstance(v, dict) for v in table.values()):
            refuse(fields.path, "rope_parameters", "an object for each of " +
                   " and ".join(LAYER_TYPES), sorted(table))
        table, local = (dict(table[name]) for name in LAYER_TYPES)
    tables = [None if t is None else {k: v for k, v in t.items() if v is not None}
              for t in (table, local)]
    return tables[0], tables[1]


def read_rope(fields: Fields, family: Family, d_head: int):
    """((scaling, base) of all layers, the same of layers with a window or None), n_rot."""
    table, local = rope_tables(fields)
    theta = fields.table.get("rope_theta")
    share = fields.table.get("partial_rotary_factor")
    if theta is not None:
        table.setdefault("rope_theta", theta)
    for t in (table, local or {}):
        share = t.pop("partial_rotary_factor", share)
    share = (family.rotary or 1) if share is None else share
    if family.rotary is None and share != 1 and table.get("rope_type") != "proportional":
        refuse(fields.path, "partial_rotary_factor", 1, share)
    if local is None and family.local_base:
        near = "rope_local_base_freq"
        local = {"rope_theta": family.local_base if fields.table.get(near) is None else
                 fields.number(near, float)}
        check_spelling(fields, table)
    elif local and table.get("truncate") is False:
        note("truncate false of YaRN is written; transformers overlooks it inside rope_parameters "
             "of an object for each type of layer")
    rope = read_scaling(fields, table, family.base)
    if rope[0]["rope_type"] == "proportional":
        rope[0]["fraction"], share = float(share), 1
    n_rot = int(d_head * fields.number("share", float, {"share": share}))
    if "rotary_dim" in family.extra and fields.table["rotary_dim"] is not None:
        n_rot = fields.number("rotary_dim")
    if n_rot % 2 or n_rot < 2 or n_rot > d_head:
        refuse(fields.path, "partial_rotary_factor", "one that makes an even number of channels",
               f"{n_rot} of {d_head}")
    return (rope, local and read_scaling(fields, local, family.local_base or family.base)), \
        0 if n_rot == d_head else n_rot


def check_spelling(fields: Fields, table):
    """Where layers have encodings of two kinds, transformers puts rope_scaling over a table that
    has a rope_type by then, and looks at the older key no more."""
    if "rope_type" not in table and table.get("type", "default") != "default":
        refuse(fields.path, "rope_scaling.type", "rope_type in its place, as transformers "
               "overlooks the older key in this class", repr(table["type"])[:80])


def read_scaling(fields: Fields, table, base: float) -> Tuple[Dict[str, Any], float]:
    """(scaling with its rope_type, base). Older files say "type" for "rope_type"."""
    kinds = {str(table.pop(key)) for key in ("type", "rope_type") if key in table} or {"default"}
    kind = kinds.pop()
    kind = "longrope" if kind == "su" or kind == "yarn" and "short_factor" in table else kind
    if kinds or kind not in ROPE_KEYS:
        refuse(fields.path, "rope type", " or ".join(ROPE_KEYS), " and ".join([kind, *kinds]))
    base = fields.number("rope_theta", float, table) if "rope_theta" in table else base
    table.pop("rope_theta", None)
    must, may = ROPE_KEYS[kind]
    if kind == "default":       # Hugging Face leaves it there
        table.pop("original_max_position_embeddings", None)
    if not must <= set(table) <= must | may:
        refuse(fields.path, f"parameters of rope type {kind}",
               sorted(must | may) or "none", sorted(table) or "none")
    scaling = {key: read_parameter(fields, table, key) for key in table}
    return settle_scaling(fields, {"rope_type": kind, **scaling}), base


def read_parameter(fields: Fields, table, key):
    value = table[key]
    if key == "truncate" and isinstance(value, bool):
        return value
    if key in ("short_factor", "long_factor"):
        if not isinstance(value, list) or not value:
            refuse(fields.path, key, "a list of numbers", repr(value)[:80])
        return [fields.number(key, float, {key: v}) for v in value]
    return fields.number(key, int if key.endswith("embeddings") else float, table)


def settle_scaling(fields: Fields, scaling: Dict[str, Any]) -> Dict[str, Any]:
    """What follows from other keys: the original context (the one beside rope_scaling goes first,
    then the one inside, then max_position_embeddings), factor and amplitude."""
    kind, whole = scaling["rope_type"], "original_max_position_embeddings"
    if kind == "dynamic":
        n_ctx = fields.number("max_position_embeddings")
        if scaling.setdefault(whole, n_ctx) != n_ctx:
            refuse(fields.path, whole, f"{n_ctx}, the max_position_embeddings", scaling[whole])
    if kind in ("yarn", "longrope", "llama3"):
        top = whole if fields.table.get(whole) is not None else "max_position_embeddings"
        if top == whole or whole not in scaling:
            scaling[whole] = fields.number(top)
    if kind == "longrope":
        scaling.setdefault("factor", fields.number("max_position_embeddings") / scaling[whole])
        f, n = scaling["factor"], scaling[whole]
        scaling.setdefault("attention_factor", 1.0 if f <= 1 or n < 2 else
                           math.sqrt(1 + math.log(f) / math.log(n)))
    return scaling


def yarn_surplus(s: Dict[str, Any]) -> float:
    """What multiplies cos and sin over the 1 + 0.1 ln(factor) that GGUF takes for granted."""
    def rise(scale):
        return 1 + 0.1 * scale * math.log(max(s["factor"], 1.0))

    usual, both = rise(1), s.get("mscale") and s.get("mscale_all_dim")
    said = rise(s["mscale"]) / rise(s["mscale_all_dim"]) if both else usual
    return s.get("attention_factor", said) / usual


def is_standard(c: Config) -> bool:
    """Can GGUF's own keys say the encoding of all layers?"""
    kind = c.scaling["rope_type"]
    if c.local and (c.local[0]["rope_type"] != "default" or
                    kind not in ("default", "linear") and not c.family.local_plain):
        return False
    if kind == "yarn":
        return bool(c.scaling.get("truncate", True))
    return kind in ("default", "linear", "longrope") or \
        kind == "llama3" and c.family.arch in ROPE_FREQS


# What --rope calls the parameters.
ROPE_NAMES = {"original_max_position_embeddings": "original", "low_freq_factor": "low",
              "high_freq_factor": "high"}


def rope_text(c: Config, scaling: Dict[str, Any], base: float) -> str:
    kind = scaling["rope_type"]
    args = [f"{ROPE_NAMES.get(k, k)}={v!r}" for k, v in scaling.items()
            if k not in ("rope_type", "truncate") and not isinstance(v, list)]
    if not scaling.get("truncate", True):
        args.append("truncate=no")
    return ("plain" if kind == "default" else kind) + ":" + ",".join([*args, f"base={base!r}"])


def rope_metadata(c: Config):
    """The keys of the encoding: GGUF's, and ropescope.rope for what these cannot say."""
    a, s, kind = c.family.arch, c.scaling, c.scaling["rope_type"]
    yield f"{a}.rope.dimension_count", "u32", c.turning()
    yield f"{a}.rope.freq_base", "f32", c.base
    if c.local:
        yield f"{a}.rope.freq_base_swa", "f32", c.local[1]
    usual = tuple(l for l in range(c.n_layer) if c.family.nope_every and
                  (l + 1) % c.family.nope_every == 0)
    if not is_standard(c):
        limits = ("is right for texts as long as those of training at most" if kind == "dynamic"
                  else "computes something else")
        note(f"rope type {kind}: written as ropescope.rope; a program that ignores this key "
             f"{limits}")
        texts = [rope_text(c, *(c.local if c.local and c.windows[l] else (s, c.base)))
                 if l not in c.nope else "none"
                 for l in range(c.n_layer)]
        single = len(set(texts)) == 1
        yield "ropescope.rope", "str" if single else "[str]", texts[0] if single else texts
        return
    if c.nope != usual:
        note("layers that do not turn: written as attention.rope_pattern, which llama.cpp ignores")
        turns = [int(l not in c.nope) for l in range(c.n_layer)]
        yield f"{a}.attention.rope_pattern", "[u32]", turns
    if kind in ("linear", "yarn", "longrope"):
        yield f"{a}.rope.scaling.type", "str", kind
    if kind in ("linear", "yarn"):
        yield f"{a}.rope.scaling.factor", "f32", s["factor"]
    if kind in ("llama3", "yarn", "longrope"):    # llama3: its divisors do it; this is for readers
        original = s["original_max_position_embeddings"]
        yield f"{a}.rope.scaling.original_context_length", "u32", original
    if kind == "longrope":
        yield f"{a}.rope.scaling.attn_factor", "f32", s["attention_factor"]
    if kind == "yarn" and abs(yarn_surplus(s) - 1) > 1e-6:
        yield f"{a}.rope.scaling.attn_factor", "f32", yarn_surplus(s)
    for key, usual in (("beta_fast", 32), ("beta_slow", 1)):
        if kind == "yarn" and s.get(key, usual) != usual:
            note(f"{key} {s[key]!r}: written as rope.scaling.yarn_{key}, which llama.cpp reads for "
                 "few architectures")
            yield f"{a}.rope.scaling.yarn_{key}", "f32", s[key]


def llama3_divisors(config: Config) -> List[float]:
    """rope_freqs.weight, [n/2]: what each frequency base^(-2j/n) is divided by, n = n_rot.

    With wavelength w = 2 pi / frequency, original context C and factor f: 1 if w < C/high, f if
    w > C/low, else 1 / ((1 - s)/f + s) with s = (C/w - low) / (high - low). (Llama 3.1.)"""
    s = config.scaling
    context, factor = s["original_max_position_embeddings"], s["factor"]
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    divisors = []
    n_rot = config.turning()
    for j in range(n_rot // 2):
        wave = 2 * math.pi * config.base ** (2 * j / n_rot)
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


def gathered(source: Source, heads: int) -> Iterator[bytes]:
    """Rows of q, k, v that take turns head by head: all of q, then all of k, then all of v."""
    size = source.size // (3 * heads)
    for part in range(3):
        for h in range(heads):
            yield read_at(source, (3 * h + part) * size, size)


def floats(data: bytes, dtype: str) -> bytes:
    """The values as F32."""
    if dtype == "BF16":     # the upper half of an F32
        return b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2))
    if dtype == "F16":
        n = len(data) // 2
        return struct.pack(f"<{n}f", *struct.unpack(f"<{n}e", data))
    return data


def vector(sources: List[Source], how: str, heads: int) -> Iterator[bytes]:
    """Vectors one after the other as F32; see Row for what is done to them. heads: 0, or those
    inside which rows are reordered, or take turns."""
    for source in sources:
        order = gathered(source, heads) if how == "turns" else copied(source)
        data = floats(b"".join(order), source.dtype)
        if how == "plus1":
            n = len(data) // 4
            data = struct.pack(f"<{n}f", *(x + 1 for x in struct.unpack(f"<{n}f", data)))
        if how not in ("q", "k") or not heads:
            yield data
            continue
        size = len(data) // heads
        for begin in range(0, len(data), size):
            yield pair_rows(data[begin:begin + size], size // 4)


def values(name: str, numbers: List[float]) -> Tensor:
    data = struct.pack(f"<{len(numbers)}f", *numbers)
    return Tensor(name, (len(numbers),), "F32", lambda: iter([data]))


def make_tensor(row: Row, shape, sources: List[Source], heads: int) -> Tensor:
    source = sources[0]
    if len(source.shape) == 1 or row.how == "float":
        shape = shape[1:] if shape[0] == 1 else shape
        return Tensor(row.gguf, shape, "F32", lambda: vector(sources, row.how, heads))
    if row.how == "stack":
        return Tensor(row.gguf, shape, source.dtype,
                      lambda: (chunk for s in sources for chunk in copied(s)))
    chunks = {"q": paired, "k": paired, "turns": gathered}.get(row.how) if heads else None
    return Tensor(row.gguf, shape, source.dtype,
                  lambda: chunks(source, heads) if chunks else copied(source))


def wanted(config: Config, tied: bool) -> Iterator[Row]:
    """The rows of every tensor this model must have, with the names they have in full."""
    f = config.family
    yield from f.ends
    head = pair(f.head, "output", "vd", "" if f.head_bias else None)
    yield from head[1 if tied else 0:]
    for l in range(config.n_layer):
        for row in f.layer:
            if config.has(row.when, l):
                yield row._replace(hf=f"{f.prefix}{l}.{row.hf}", gguf=f"blk.{l}.{row.gguf}")


# Tables and masks that old checkpoints carry along.
LEFTOVER = re.compile(r"\.(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias)$")


# Experts of Mixtral by the names that other families have for them.
MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
EXPERT = re.compile(r"\.(?:mlp|block_sparse_moe)\.experts\.(?:(\d+)\.(w[123])|"
                    r"(gate_up_proj|down_proj))(?:\.weight)?$")


def part_of(source: Source, index: int, parts: int, shape: Tuple[int, ...]) -> Source:
    """Part `index` of a tensor cut into so many equal ones, each of that shape."""
    return source._replace(start=source.start + source.size // parts * index, shape=shape)


def single_experts(place, found: Dict[str, Source], experts: int) -> Dict[str, Source]:
    """Every matrix of every expert by a name of its own, mlp.experts.N.gate_proj.weight, up_proj or
    down_proj: where transformers 5 has one tensor for all experts, its parts."""
    single = {}
    for name, source in found.items():
        match = EXPERT.search(name)
        if not match:
            single[name.replace(".block_sparse_moe.", ".mlp.")] = source
            continue
        at, (number, mixtral, fused) = name[:match.start()] + ".mlp.experts.", match.groups()
        if not fused:
            single[f"{at}{number}.{MIXTRAL[mixtral]}.weight"] = source
            continue
        names = ("gate_proj", "up_proj") if fused == "gate_up_proj" else (fused,)
        if len(source.shape) != 3 or source.shape[0] != experts or source.shape[1] % len(names):
            refuse(place, f"shape of tensor {name}", f"[{experts} experts, rows, columns]",
                   list(source.shape))
        n, rows, cols = source.shape
        shape = (rows // len(names), cols)
        for i in range(n * len(names)):
            key = f"{at}{i // len(names)}.{names[i % len(names)]}.weight"
            single[key] = part_of(source, i, n * len(names), shape)
    return single


def take(place, found: Dict[str, Source], name: str, shape) -> Source:
    source = found.pop(name, None)
    if source is None:
        refuse(place, f"tensor {name}", f"it, of shape {list(shape)}", "nothing")
    if source.shape != shape:
        refuse(place, f"shape of tensor {name}", list(shape), list(source.shape))
    if source.dtype not in DTYPES:
        refuse(place, f"dtype of tensor {name}", " or ".join(DTYPES), source.dtype)
    return source


def text_tensors(place, found: Dict[str, Source]) -> Dict[str, Source]:
    """The tensors of the language model of a TEXT_PART, under the names they have in its class;
    of any other model, all of them."""
    if not any("language_model." in name for name in found):
        return found
    inner = [(re.sub(r"^(model\.)?language_model\.", r"\1", n), s) for n, s in found.items()
             if not n.startswith(PICTURE_PARTS)]
    if len(dict(inner)) != len(inner):
        refuse(place, "tensors", "each of the language model once", "two of one name")
    return dict(inner)


def collect_tensors(place, config: Config, found: Dict[str, Source], halves: bool):
    """The output tensors in file order; `halves`: rows of q and k are in Hugging Face's order."""
    head = config.family.head + ".weight"
    found = {n: s for n, s in text_tensors(place, found).items() if not LEFTOVER.search(n)}
    if config.experts:
        found = single_experts(place, found, config.experts.count)
    tied = head not in found if config.tied is None else config.tied
    if tied:
        found.pop(head, None)       # a copy of the embedding, by definition
    embd = config.family.ends[0].hf
    if tied and config.family.untied and embd in found:
        tied, found[head] = False, found[embd]
    tensors, sizes = [], config.letters()
    for row in wanted(config, tied):
        shape = tuple(sizes[c] for c in row.letters)
        names = [row.hf]
        if row.how == "stack":
            names = [row.hf.replace("*", str(h)) for h in range(shape[0])]
        sources = [take(place, found, n, shape[1:] if row.how == "stack" else shape)
                   for n in names]
        if len(sources[0].shape) > 1 and len({s.dtype for s in sources}) > 1:
            refuse(place, f"dtype of tensors {row.hf}", "one for all",
                   " and ".join(sorted({s.dtype for s in sources})))
        reordered = halves and config.family.adjacent or row.how == "turns"
        heads = {"q": config.n_head, "k": config.n_kv, "turns": config.n_head}.get(row.how, 0)
        tensors.append(make_tensor(row, shape, sources, heads if reordered else 0))
    if found:
        refuse(place, f"tensor {sorted(found)[0]}", f"only tensors of {config.family.arch}", "it")
    return tensors[:2] + rope_tensors(place, config) + tensors[2:]


def rope_tensors(place, config: Config) -> List[Tensor]:
    if config.scaling["rope_type"] == "llama3" and is_standard(config):
        return [values("rope_freqs.weight", llama3_divisors(config))]
    if config.scaling["rope_type"] != "longrope":
        return []
    lists = {"long": config.scaling["long_factor"], "short": config.scaling["short_factor"]}
    for name, numbers in lists.items():
        if len(numbers) != config.turning() // 2:
            refuse(place, f"{name}_factor", f"{config.turning() // 2} numbers", len(numbers))
    return [values(f"rope_factors_{name}.weight", v) for name, v in lists.items()]


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
        self.normalizer = ""                    # ropescope.tokenizer.normalizer
        self.whole_words: Optional[bool] = None
        self.lists: Dict[str, List[int]] = {"late": [], "lstrip": [], "rstrip": []}

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
        if t.normalizer == "sentencepiece":     # GGUF has its own tokens with spaces, these too
            for i in t.lists["late"]:
                t.tokens[i] = t.tokens[i].replace("\u2581", " ")
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
            if not spec.get(35) or spec.get(24):
                refuse(path, "trainer_spec", "byte_fallback, spaces before words", "others")
            ids = {"unknown": spec.get(40, 0), "bos": spec.get(41, 1), "eos": spec.get(42, 2)}
            t.ids = {name: i for name, i in ids.items() if i < 1 << 31}     # -1: none
        elif field == 3:
            rules = dict(read_protobuf(value, path))
    if not t.tokens or kind != 2:
        refuse(path, "model_type", "a SentencePiece model of type BPE (2)", kind)
    if rules.get(2) or rules.get(4, 1) or not rules.get(5, 1):
        refuse(path, "normalizer_spec", "no character map, spaces kept and escaped", "other rules")
    t.flags = {"add_bos_token": True, "add_eos_token": False,
               "add_space_prefix": bool(rules.get(3, 1)), "remove_extra_whitespaces": False}
    t.lists["late"] = [i for i, kind in enumerate(t.types) if kind == USER_DEFINED]
    if t.lists["late"]:         # they are found in the text after it got its space
        t.normalizer = "sentencepiece"
    return t


def check_id(path, field: str, i):
    if type(i) is not int or not 0 <= i < 1 << 31:
        refuse(path, field, "an id, a whole number that is not negative", repr(i)[:80])


def vocabulary(path, table) -> Tuple[Dict[str, int], List[Tuple[str, str]]]:
    """(token -> id, merges) of a BPE model in tokenizer.json, both checked."""
    model = table["model"]
    ids, given, merges = model.get("vocab"), model.get("merges"), []
    if model.get("type", "BPE") != "BPE":
        refuse(path, "model.type", "BPE", repr(model["type"])[:80])
    if not isinstance(ids, dict) or not ids:
        refuse(path, "model.vocab", "an object from tokens to ids, not empty", repr(ids)[:80])
    for token, i in ids.items():
        check_id(path, f"model.vocab[{token!r}]", i)
    if not isinstance(given, list):
        refuse(path, "model.merges", "a list", repr(given)[:80])
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            refuse(path, f"model.{key}", "null", repr(model[key]))
    if len(set(ids.values())) != len(ids):
        refuse(path, "model.vocab", "each id once", "one twice")
    for rank, merge in enumerate(given):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or \
                not all(isinstance(p, str) and p in ids for p in parts) or \
                "".join(parts) not in ids:
            refuse(path, f"model.merges[{rank}]", "two tokens that make a third", repr(merge)[:80])
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
    whole = bool(table["model"].get("ignore_merges"))
    t.pre = pre or pre_name(path, table, whole)
    t.whole_words = None if whole == (t.pre in WHOLE_WORDS) else whole
    t.merges = [f"{a} {b}" for a, b in merges]
    fill(t, ids, lambda token: NORMAL, lambda token: 0.0)
    normalizer = table.get("normalizer")
    if normalizer == {"type": "NFC"}:
        t.normalizer = "nfc"
        note(f"{path}: this tokenizer normalises text (NFC): written as ropescope.tokenizer."
             "normalizer; a program that ignores this key gives decomposed accents other tokens")
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
    how = (step.get("behavior"), bool(step.get("invert")))
    # The known expressions match all of a text: what they leave is nothing, and may be removed.
    if kind == "Split" and how in (("Isolated", False), ("Removed", True)):
        rule = step["pattern"].get("Regex", "?")
        for other, usual in RE_ALIASES:
            rule = rule.replace(other, usual)
        return (rule,)
    return (json.dumps(step)[:80],)


def pre_name(path: Path, table, whole: bool) -> str:
    """tokenizer.ggml.pre, recognised by the structure of the pre-tokenizer."""
    steps = pre_steps(path, table.get("pre_tokenizer"))
    if steps not in PRE_NAMES:
        names = sorted({name for pair in PRE_NAMES.values() for name in pair})
        refuse(path, "pre_tokenizer", f"a known split rule ({', '.join(names)}) or --pre NAME",
               repr(" then ".join(steps)))
    return PRE_NAMES[steps][whole]


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
    prefix, t.normalizer = space_prefix(path, table)
    t.flags = {"add_bos_token": False, "add_eos_token": False, "add_space_prefix": prefix,
               "remove_extra_whitespaces": False}
    return t


def space_prefix(path, table) -> Tuple[bool, str]:
    """Whether a space is put before the text, and our name of how; anything but that and spaces to
    U+2581 is refused. Gemma's Split at spaces finds none: they are U+2581 by then."""
    low = "\u2581"
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": low}
    prepend = {"type": "Prepend", "prepend": low}
    rules, pre = table.get("normalizer"), table.get("pre_tokenizer")
    steps = rules.get("normalizers") if rules and rules.get("type") == "Sequence" else \
        [rules] if rules else []
    none = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
            "invert": False}
    if pre in (None, none) and steps in ([prepend, replace], [replace]):
        return prepend in steps, ""
    if not steps and pre and pre.get("type") == "Metaspace" and pre.get("replacement") == low \
            and not pre.get("split", True):
        schemes = {"always": (True, "metaspace"), "first": (True, "metaspace-first"),
                   "never": (False, "")}
        return schemes[pre.get("prepend_scheme", "always")]
    return refuse(path, "normalizer and pre_tokenizer", "those of a SentencePiece BPE model",
                  json.dumps([rules, pre])[:120])


def added_tokens(folder: Path, file: Path) -> Dict[int, Dict[str, Any]]:
    """id -> AddedToken from every place where Hugging Face keeps added tokens."""
    found, other = {}, folder / "added_tokens.json"
    for text, i in read_json_object(other).items():
        check_id(other, f"id of {text!r}", i)
        found[i] = {"content": text}
    settings = folder / "tokenizer_config.json"
    decoder = read_json_object(settings).get("added_tokens_decoder")
    if not isinstance(decoder, (dict, type(None))):
        refuse(settings, "added_tokens_decoder", "an object", repr(decoder)[:80])
    for i, entry in (decoder or {}).items():
        if not re.fullmatch("[0-9]{1,9}", i):
            refuse(settings, "added_tokens_decoder", "ids", repr(i)[:80])
        check_added(settings, f"added_tokens_decoder[{i!r}]", entry)
        found[int(i)] = entry
    plain = file if file.suffix == ".json" else folder / "tokenizer.json"
    listed = read_json_object(plain).get("added_tokens")
    if not isinstance(listed, (list, type(None))):
        refuse(plain, "added_tokens", "a list", repr(listed)[:80])
    for n, entry in enumerate(listed or []):
        check_added(plain, f"added_tokens[{n}]", entry)
        check_id(plain, f"added_tokens[{n}].id", entry.get("id"))
        found[entry["id"]] = entry
    return found


def check_added(path, field: str, entry):
    """An AddedToken: its text, and flags."""
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        refuse(path, field, "an object with a text as content", repr(entry)[:80])
    for key in ("special", "single_word", "lstrip", "rstrip", "normalized"):
        if not isinstance(entry.get(key, False), bool):
            refuse(path, f"{field}.{key}", "true or false", repr(entry[key])[:80])


def add_tokens(file: Path, t: Tokenizer, added: Dict[int, Dict[str, Any]]):
    """Type the added tokens (special: control, others: user-defined), appending new ones."""
    for i, entry in sorted(added.items()):
        text, kind = entry["content"], CONTROL if entry.get("special") else USER_DEFINED
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
        add_manner(file, t, i, entry)


def add_manner(file: Path, t: Tokenizer, i: int, entry):
    """How an added token is looked for: what it swallows, and if only in normalised text."""
    text = entry["content"]
    if entry.get("single_word"):
        refuse(file, f"added token {text!r}", "one that is found inside words, too", "single_word")
    for key in ("lstrip", "rstrip"):
        if entry.get(key):
            t.lists[key].append(i)
    if not entry.get("normalized") or i in t.lists["late"]:
        return
    if t.model == "gpt2" and unicodedata.normalize("NFC", text) != text and t.normalizer:
        refuse(file, f"added token {text!r}", "a composed text, since it is normalised", "another")
    if t.model == "gpt2" or t.normalizer.startswith("metaspace"):
        t.lists["late"].append(i)
    elif file.suffix == ".json":
        note(f"token {text!r} is normalised: Hugging Face finds it with the text's spaces, here it "
             "is found as it is written")


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
    """F32 weights kind by kind, all layers of each, behind a header of one of two versions.

    The format has no norm epsilon and no rotary base; llama2.c fixes them at 1e-5 and 10000."""
    version, start, numbers, tied = llama2c_header(path)
    d, d_ff, n_layer, n_head, n_kv, vocab, n_ctx = numbers
    if min(numbers) < 1 or max(numbers) > 1 << 24 or d % n_head or n_head % n_kv:
        refuse(path, "header", "the seven fitting sizes of a llama2.c checkpoint", numbers)
    config = Config(n_layer, d, n_head, n_kv, d // n_head, d_ff, vocab, n_ctx, 1e-5, 10000.0,
                    tied=tied)
    check_config(path, config)
    order = list(llama2c_order(config, version))
    size = start + sum(4 * copies * math.prod(shape) for _, copies, shape in order)
    total = path.stat().st_size
    if size != total:       # before anything is made whose size the header decides
        refuse(path, "size of the file", f"{size} bytes for its header", total)
    found, at = {}, start
    for name, copies, shape in order:
        for l in range(copies):
            found[name.format(l)] = Source(path, at, "F32", shape)
            at += 4 * math.prod(shape)
    found.pop("", None)
    return config, found


def llama2c_header(path: Path) -> Tuple[int, int, List[int], bool]:
    """(version, start of the weights, seven sizes, tied). Version 0: seven int32, the vocabulary's
    negative if the output is not tied. Version 1: magic, version, the seven, a byte for tied, zeros
    up to 256. Version 2 has int8 weights with F32 scales, which no type of GGUF holds."""
    with open(path, "rb") as f:
        head = f.read(256)
    if head[:2] == b"PK":
        refuse(path, "header", "that of a llama2.c checkpoint", "a PyTorch archive "
               "(save_pretrained of transformers writes safetensors)")
    version = int.from_bytes(head[4:8], "little") if head[:4] == b"24ka" else 0
    start = 256 if version else 28
    if version > 1 or len(head) < start:
        refuse(path, "header", "that of a llama2.c checkpoint of version 0 or 1",
               f"version {version}" if version > 1 else f"{len(head)} bytes")
    numbers = list(struct.unpack_from("<7i", head, 8 if version else 0))
    tied = bool(head[36]) if version else numbers[5] > 0
    numbers[5] = numbers[5] if version else abs(numbers[5])
    return version, start, numbers, tied


def llama2c_order(config: Config, version: int):
    """(Hugging Face name, copies, shape) in the order of the file; no name: values not used."""
    sizes, layers = config.letters(), config.n_layer
    names = {row.gguf: (row.hf, tuple(sizes[c] for c in row.letters)) for row in LLAMA}
    embd = ("model.embed_tokens.weight", 1, (config.n_vocab, config.d_model))
    norm = ("model.norm.weight", 1, (config.d_model,))

    def kinds(*list_of):
        for kind in list_of:
            hf, shape = names[kind + ".weight"]
            yield "model.layers.{}." + hf, layers, shape

    if version == 0:
        yield embd
        yield from kinds("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm")
    else:
        yield from kinds("attn_norm", "ffn_norm")
        yield from (norm, embd)
        yield from kinds("attn_q", "attn_k", "attn_v", "attn_output")
    yield from kinds("ffn_gate", "ffn_down", "ffn_up")
    if version == 0:
        yield norm
        yield "", 1, (2, config.n_ctx, config.d_head // 2)  # cos and sin, not used any more
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
    a = c.family.arch
    yield "general.architecture", "str", a
    yield "general.type", "str", "model"
    yield "general.name", "str", name
    yield "general.file_type", "u32", DTYPES[most][2]
    yield f"{a}.context_length", "u32", c.n_ctx
    yield f"{a}.embedding_length", "u32", c.d_model
    yield f"{a}.block_count", "u32", c.n_layer
    yield f"{a}.feed_forward_length", "u32", c.d_ff
    yield f"{a}.vocab_size", "u32", c.n_vocab
    yield f"{a}.attention.head_count", "u32", c.n_head
    yield f"{a}.attention.head_count_kv", "u32", c.n_kv
    yield f"{a}.attention.key_length", "u32", c.d_head
    yield f"{a}.attention.value_length", "u32", c.d_head
    kind = "rms_" if c.family.rms else ""
    yield f"{a}.attention.layer_norm_{kind}epsilon", "f32", c.eps
    yield from window_metadata(c)
    if "use_parallel_residual" in c.family.flags:
        yield f"{a}.use_parallel_residual", "bool", "use_parallel_residual" in c.flags
    for key, value in c.scales:
        yield f"{a}.{key}", "f32", value
    if c.experts:
        yield from expert_metadata(a, c.experts, c.family.normed)
    yield from rope_metadata(c)
    yield from tokenizer_metadata(t)


def expert_metadata(a: str, e: Experts, usual: Optional[bool]):
    yield f"{a}.expert_count", "u32", e.count
    yield f"{a}.expert_used_count", "u32", e.used
    yield f"{a}.expert_feed_forward_length", "u32", e.width
    if e.shared:
        yield f"{a}.expert_shared_feed_forward_length", "u32", e.shared
    if e.normed != usual:
        note(f"norm_topk_prob is {str(e.normed).lower()}: written as {a}.expert_weights_norm, "
             "which llama.cpp ignores")
        yield f"{a}.expert_weights_norm", "bool", e.normed


def window_metadata(c: Config):
    """The window, and which layers have it where the architecture alone does not say so."""
    a, every = c.family.arch, c.family.window_every
    if not c.window:
        if c.family.must_say:
            yield f"{a}.attention.sliding_window", "u32", 0
        return
    yield f"{a}.attention.sliding_window", "u32", c.window
    usual = tuple(not every or (l + 1) % every != 0 for l in range(c.n_layer))
    if c.windows != usual or c.family.local_plain:      # readers of olmo2 need not know OLMo 3
        yield f"{a}.attention.sliding_window_pattern", "[bool]", c.windows


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
    if t.normalizer:
        yield "ropescope.tokenizer.normalizer", "str", t.normalizer
    if t.whole_words is not None:
        yield "ropescope.tokenizer.whole_words", "bool", t.whole_words
    for name, ids in t.lists.items():
        if ids:
            yield f"ropescope.tokenizer.{name}", "[i32]", ids
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
    progress = Progress(offset)
    for tensor in tensors:
        written = sum(progress.add(f.write(chunk)) for chunk in tensor.chunks())
        if written != tensor.size:
            raise BadInput(f"tensor {tensor.name}: expected {tensor.size} bytes, found {written}")
        f.write(padding(tensor.size))
    progress.end()


class Progress:
    """A line on a terminal: how much is written, and when the rest will be."""

    def __init__(self, total: int):
        self.total, self.done = total, 0
        self.start = self.shown = time.monotonic()

    def add(self, n: int) -> int:
        self.done += n
        now = time.monotonic()
        if now - self.shown > 0.5 and sys.stderr.isatty():
            self.shown = now
            left = (now - self.start) * (self.total - self.done) / max(self.done, 1)
            print(f"\r{self.done >> 20} of {self.total >> 20} MiB, {left:.0f} s left ", end="",
                  file=sys.stderr, flush=True)
        return n

    def end(self):
        if self.shown > self.start:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


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


def safe_name(name: str, t: Tokenizer) -> str:
    """Pitfall: in a model of a name with phi-3 or phi3, llama.cpp looks for tokens of Phi-3's own
    vocabulary, and ends where they are missing."""
    own = {"<unk>", "<s>", "</s>", "<|endoftext|>"}
    if own <= set(t.tokens) or not re.search("phi-?3", name, re.I):
        return name
    other = re.sub("(phi)-?(3)", r"\1_\2", name, flags=re.I)
    note(f"the name {name!r} is written as {other!r}: llama.cpp takes the former for a model with "
         "the vocabulary of Phi-3")
    return other


def is_utf8(name: str) -> bool:
    return not any(0xd800 <= ord(c) < 0xe000 for c in name)


def write_model(path: Path, name: str, config: Config, t: Tokenizer, tensors: List[Tensor]):
    if not is_utf8(name):
        refuse("the name of the source", "general.name", "UTF-8 (--name TEXT)",
               repr(os.fsencode(name)))
    if len(t.tokens) > config.n_vocab:
        refuse(name, "tokens", f"at most {config.n_vocab}, the rows of the embedding",
               len(t.tokens))
    t.pad(config.n_vocab)
    pairs = metadata(safe_name(name, t), config, t, tensors)
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


def load_tiny():
    """tests/tiny.py beside this program: it makes the checkpoints and computes the logits."""
    path = Path(__file__).resolve().parent / "tests" / "tiny.py"
    if not path.exists():
        refuse(path, "--tiny", "this file of ropescope's sources beside export.py", None)
    sys.dont_write_bytecode = True      # leaves the folder as it is
    spec = importlib.util.spec_from_file_location("tiny", path)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny


def export_tiny(a):
    """A random checkpoint by the way of every other, and OUT.logits beside OUT.gguf."""
    tiny = load_tiny()
    if a.tiny == "help":
        print(*tiny.ARCHS, sep="\n")
        return
    if a.tiny not in tiny.ARCHS:
        refuse("--tiny", "architecture", " or ".join(tiny.ARCHS), repr(a.tiny))
    a.output = a.output or a.source or Path(f"tiny-{a.tiny}.gguf")
    a.name = a.name or f"miniature of seed {a.seed}"     # llama.cpp minds "phi3" in a name
    check_output(a.output, [])
    with tempfile.TemporaryDirectory() as folder:
        rows = tiny.make(a.tiny, a.seed, Path(folder))
        export_folder(Path(folder), a)
    logits = a.output.with_suffix(".logits")
    write_whole(logits, lambda f: f.write(tiny.pack_logits(tiny.IDS, rows)))
    print(f"{logits}: after", ", ".join(str(n) for n, _ in rows), "tokens")


EXAMPLES = """\
Write a GGUF file from a Hugging Face folder or a llama2.c checkpoint:
  export.py SmolLM2-135M -o smollm2.gguf          config.json, safetensors, tokenizer
  export.py stories15M.bin -o stories.gguf --tokenizer tokenizer.bin
or a random miniature model, with what its logits should be:
  export.py --tiny gemma2 --seed 7 gemma2.gguf    and gemma2.logits: float32 logits,
                                                  computed in plain double precision
  export.py --tiny help                           the architectures, one a line
"""


def arguments():
    p = argparse.ArgumentParser(
        usage="%(prog)s SRC -o OUT.gguf [options]\n"
              "       %(prog)s --tiny ARCH [--seed N] [OUT.gguf]",
        description=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", type=Path, nargs="?", metavar="SRC",
                   help="checkpoint folder, or llama2.c .bin file")
    p.add_argument("-o", "--output", type=Path, metavar="OUT.gguf")
    p.add_argument("--tiny", metavar="ARCH", help="write a random model of this architecture to "
                   "OUT.gguf (default: tiny-ARCH.gguf), its logits to OUT.logits; help: list them")
    p.add_argument("--seed", type=int, metavar="N", help="of --tiny: another number, another "
                   "model; the same, the same bytes (default: 1)")
    p.add_argument("--tokenizer", type=Path, metavar="FILE",
                   help="tokenizer.json, tokenizer.model or llama2.c tokenizer.bin")
    p.add_argument("--pre", metavar="NAME", help="split rule of a byte-level BPE tokenizer, if "
                   "it is not recognised")
    p.add_argument("--name", help="general.name of the output (default: name of the source)")
    p.add_argument("--ignore", action="append", default=[], metavar="KEY",
                   help="a key of config.json to overlook; may be repeated")
    a = p.parse_args()
    if a.tiny is None and (a.seed is not None or not a.source or not a.output):
        p.error("--seed goes with --tiny" if a.seed is not None else "give SRC and -o OUT.gguf")
    if a.tiny is not None and (a.tokenizer or a.pre or a.ignore or a.source and a.output):
        p.error("--tiny takes --seed, --name and one OUT.gguf")
    if a.pre and a.pre not in PRE_KNOWN:
        p.error(f"--pre: expected one of {', '.join(sorted(PRE_KNOWN))}, found {a.pre!r}")
    if a.name and not is_utf8(a.name):
        p.error(f"--name: expected UTF-8, found {os.fsencode(a.name)!r}")
    a.seed = 1 if a.seed is None else a.seed
    return a


class Terminated(BaseException):
    """SIGTERM as an exception, so that a partial file is removed on the way out."""


def on_term(_number, _frame):
    raise Terminated


def stopped(how: str, number: int) -> int:
    """One sentence, over a line of progress if there is one; the status that shells expect."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{clear}export.py: {how}, no output is written", file=sys.stderr)
    return 128 + number


def export(a) -> int:
    if a.tiny is not None:
        export_tiny(a)
        return 0
    check_output(a.output, inputs(a))
    if a.source.is_dir():
        export_folder(a.source, a)
    else:
        export_llama2c(a.source, a)
    return 0


def main():
    a = arguments()
    sys.stdout.reconfigure(errors="backslashreplace")       # names of files need not be UTF-8
    signal.signal(signal.SIGTERM, on_term)
    try:
        return export(a)
    except KeyboardInterrupt:
        return stopped("interrupted", signal.SIGINT)
    except Terminated:
        return stopped("terminated", signal.SIGTERM)
    except MemoryError:
        print(f"export.py: {a.source or a.output}: out of memory", file=sys.stderr)
        return 1
    except BadInput as problem:
        print(f"export.py: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"export.py: {problem.filename or a.source or a.output}: {problem.strerror}",
              file=sys.stderr)
        return 1
    except RecursionError:
        print(f"export.py: {a.source}: its JSON is nested too deeply", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
