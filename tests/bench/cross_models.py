"""The models of cross_families.py: configurations of transformers, small, of every family that
export.py knows and of what each may switch."""
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from make_miniatures import plain  # noqa: E402

WINDOW = 8
N_TOKENS, N_ROWS = 512, 544     # of the vocabulary; of the embedding, which many models have longer
SMALL = dict(vocab_size=N_ROWS, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
             bos_token_id=1, eos_token_id=2, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=32)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=4.0)
YARN = dict(rope_type="yarn", rope_theta=1e6, factor=4.0, original_max_position_embeddings=64)
BETAS = dict(beta_fast=16.0, beta_slow=2.0)
OLMO3_YARN = dict(YARN, rope_theta=5e5, beta_fast=32.0, beta_slow=1.0)
GEMMA2 = dict(head_dim=32, num_hidden_layers=4, sliding_window=WINDOW, attn_logit_softcapping=2.0,
              final_logit_softcapping=3.0, query_pre_attn_scalar=32)
GEMMA3 = dict(head_dim=32, num_hidden_layers=7, sliding_window=WINDOW, query_pre_attn_scalar=32)
EXPERTS = dict(num_experts=8, num_experts_per_tok=3)
QWEN_EXPERTS = dict(EXPERTS, moe_intermediate_size=48)
LOCAL_EXPERTS = dict(num_experts_per_tok=2, num_local_experts=8, rope_parameters=plain(1e6))


def partial(share, base=1e4):
    return dict(plain(base), partial_rotary_factor=share)


def longrope(n, share):
    return dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=512,
                short_factor=[1 + 0.05 * j for j in range(n)], partial_rotary_factor=share,
                long_factor=[1.5 + 0.75 * j for j in range(n)])


def by_type(full, local=plain(1e4)):
    return dict(full_attention=full, sliding_attention=local)


# What llama.cpp (0c1e57098) leaves out.
BETA = "llama.cpp: yarn_beta_fast and yarn_beta_slow are not read for this architecture"
FACTOR = "llama.cpp: its converter's yarn_attn_factor is computed anew"
WINDOWS = "llama.cpp: the window is ignored"
SCALE = "llama.cpp: query_pre_attn_scalar is taken for the length of a head"
NORMED = "llama.cpp: norm_topk_prob is fixed by the architecture"


class Row(NamedTuple):
    cls: str
    keys: dict              # what differs from SMALL; None: not a key of the class
    spm: bool = False       # sentencepiece in place of byte-level BPE, where the converter wants it
    left_out: str = ""


MODELS = {name: Row(*row) for name, row in {    # family, or family-variant
    "llama": ("Llama", {}, True),
    "llama-3": ("Llama", dict(head_dim=16, rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "llama-bias": ("Llama", dict(attention_bias=True, mlp_bias=True, rope_parameters=LINEAR)),
    "llama-yarn": ("Llama", dict(rope_parameters=YARN)),
    "llama-betas": ("Llama", dict(rope_parameters=dict(YARN, **BETAS)), False, BETA),
    "llama-factor": ("Llama", dict(rope_parameters=dict(YARN, attention_factor=1.3)), False,
                     FACTOR),
    "mistral": ("Mistral", dict(sliding_window=None), True),
    "mistral-nemo": ("Mistral", dict(sliding_window=None, head_dim=32, rope_parameters=plain(1e6))),
    "mistral-window": ("Mistral", dict(sliding_window=WINDOW), True, WINDOWS),
    "smollm3": ("SmolLM3", dict(num_hidden_layers=5, rope_parameters=plain(5e6),
                                tie_word_embeddings=True)),
    "granite": ("Granite", dict(embedding_multiplier=3.0, residual_multiplier=0.5,
                                attention_multiplier=0.125, logits_scaling=4.0,
                                tie_word_embeddings=True)),
    "qwen2": ("Qwen2", dict(rope_parameters=plain(1e6))),
    "qwen2-yarn": ("Qwen2", dict(rope_parameters=YARN, tie_word_embeddings=True)),
    "qwen2-window": ("Qwen2", dict(use_sliding_window=True, sliding_window=WINDOW,
                                   max_window_layers=1), False, WINDOWS),
    "qwen3": ("Qwen3", dict(head_dim=32, rope_parameters=plain(1e6))),
    "gemma": ("Gemma", dict(head_dim=32), True),
    "gemma2": ("Gemma2", GEMMA2, True),
    "gemma2-scale": ("Gemma2", dict(GEMMA2, query_pre_attn_scalar=16), True, SCALE),
    "gemma3": ("Gemma3Text", dict(GEMMA3, rope_parameters=by_type(plain(1e6))), True),
    "gemma3-linear": ("Gemma3Text", dict(GEMMA3, rope_parameters=by_type(
        dict(LINEAR, rope_theta=1e6, factor=8.0))), True),
    "gemma3-scale": ("Gemma3Text", dict(GEMMA3, query_pre_attn_scalar=16,
                                        rope_parameters=by_type(plain(1e6))), True, SCALE),
    "phi-1": ("Phi", dict(intermediate_size=256, num_key_value_heads=4,
                          rope_parameters=partial(0.5))),
    "phi-2": ("Phi", dict(intermediate_size=320, num_key_value_heads=4, hidden_size=80,
                          rope_parameters=partial(0.4))),
    "phi3": ("Phi3", dict(sliding_window=None, original_max_position_embeddings=256,
                          rope_parameters=partial(1.0))),
    "phi3-short": ("Phi3", dict(sliding_window=None, max_position_embeddings=4096,
                                original_max_position_embeddings=512,
                                rope_parameters=longrope(8, 1.0))),
    "phi3-mini4": ("Phi3", dict(sliding_window=None, max_position_embeddings=4096,
                                original_max_position_embeddings=512, tie_word_embeddings=True,
                                rope_parameters=longrope(6, 0.75))),
    "phi3-window": ("Phi3", dict(sliding_window=WINDOW, original_max_position_embeddings=256,
                                 rope_parameters=partial(1.0)), False, WINDOWS),
    "gptneox": ("GPTNeoX", dict(num_key_value_heads=None, rope_parameters=partial(0.25))),
    "gptneox-sequential": ("GPTNeoX", dict(num_key_value_heads=None, use_parallel_residual=False,
                                           rope_parameters=partial(0.5))),
    "gptj": ("GPTJ", dict(
        hidden_size=None, num_hidden_layers=None, num_attention_heads=None, intermediate_size=None,
        num_key_value_heads=None, max_position_embeddings=None, n_embd=64, n_layer=3, n_head=4,
        n_positions=256, rotary_dim=8)),
    "stablelm": ("StableLm", dict(use_qkv_bias=True, num_key_value_heads=4)),
    "stablelm-3b": ("StableLm", dict(use_qkv_bias=False, num_key_value_heads=4)),
    "stablelm-12b": ("StableLm", dict(use_parallel_residual=True, qk_layernorm=True)),
    "olmo": ("Olmo", dict(num_key_value_heads=4)),
    "olmo-clip": ("Olmo", dict(clip_qkv=1.5, num_key_value_heads=4)),
    "olmo2": ("Olmo2", dict(rope_parameters=plain(5e5))),
    "olmo3": ("Olmo3", dict(num_hidden_layers=5, sliding_window=WINDOW)),
    "olmo3-yarn": ("Olmo3", dict(num_hidden_layers=5, sliding_window=WINDOW,
                                 rope_parameters=by_type(OLMO3_YARN, plain(5e5)))),
    "olmo3-factor": ("Olmo3", dict(
        num_hidden_layers=5, sliding_window=WINDOW,
        rope_parameters=by_type(dict(OLMO3_YARN, attention_factor=1.2), plain(5e5))),
                     False, FACTOR),
    "starcoder2": ("Starcoder2", dict(sliding_window=None, rope_parameters=plain(1e5))),
    "starcoder2-window": ("Starcoder2", dict(sliding_window=WINDOW), False, WINDOWS),
    "olmoe": ("Olmoe", dict(EXPERTS, num_key_value_heads=4)),
    "olmoe-norm": ("Olmoe", dict(EXPERTS, num_key_value_heads=4, norm_topk_prob=True), False,
                   NORMED),
    "qwen2moe": ("Qwen2Moe", dict(QWEN_EXPERTS, shared_expert_intermediate_size=80)),
    "qwen2moe-norm": ("Qwen2Moe", dict(QWEN_EXPERTS, shared_expert_intermediate_size=80,
                                       norm_topk_prob=True), False, NORMED),
    "qwen3moe": ("Qwen3Moe", dict(QWEN_EXPERTS, head_dim=32, norm_topk_prob=True)),
    "qwen3moe-raw": ("Qwen3Moe", dict(QWEN_EXPERTS, head_dim=32), False, NORMED),
    "qwen3moe-dense": ("Qwen3Moe", dict(QWEN_EXPERTS, head_dim=32, norm_topk_prob=True,
                                        num_hidden_layers=4, mlp_only_layers=[1],
                                        decoder_sparse_step=2), False,
                       "llama.cpp: every layer must have experts"),
    "mixtral": ("Mixtral", LOCAL_EXPERTS, True),
    "mixtral-window": ("Mixtral", dict(LOCAL_EXPERTS, sliding_window=WINDOW), True, WINDOWS),
}.items()}
