"""config.json as models are published with it, key by key, through export.py: each is taken, as the
architecture, head, base and scaling that its authors mean. Then changes that must be refused.

Run from the top of the checkout; prints what fails and "N passed, N failed"."""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from export import BadInput, is_standard, read_config, rope_metadata, text_tensors  # noqa: E402

# Keys that nearly all of them have.
USUAL = dict(bos_token_id=1, eos_token_id=2, hidden_act="silu", initializer_range=0.02,
             rms_norm_eps=1e-5, tie_word_embeddings=False, torch_dtype="bfloat16",
             transformers_version="4.40.0", use_cache=True, vocab_size=32000)
LATER = dict(USUAL, attention_bias=False, attention_dropout=0.0)
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192, "rope_type": "llama3"}
SAMPLING = dict(
    add_cross_attention=False, bad_words_ids=None, begin_suppress_tokens=None,
    chunk_size_feed_forward=0, cross_attention_hidden_size=None, decoder_start_token_id=None,
    diversity_penalty=0.0, do_sample=False, early_stopping=False, encoder_no_repeat_ngram_size=0,
    exponential_decay_length_penalty=None, finetuning_task=None, forced_bos_token_id=None,
    id2label={"0": "LABEL_0"}, is_decoder=False, is_encoder_decoder=False, label2id={"LABEL_0": 0},
    length_penalty=1.0, max_length=20, min_length=0, no_repeat_ngram_size=0, num_beam_groups=1,
    num_beams=1, num_return_sequences=1, output_attentions=False, output_scores=False,
    prefix=None, problem_type=None, pruned_heads={}, remove_invalid_values=False,
    repetition_penalty=1.0, return_dict=True, return_dict_in_generate=False, sep_token_id=None,
    suppress_tokens=None, temperature=1.0, tie_encoder_decoder=False, tokenizer_class=None,
    top_k=50, top_p=1.0, torchscript=False, typical_p=1.0, use_bfloat16=False)
YARN = {"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0,
        "factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "yarn"}
GEMMA = dict(LATER, eos_token_id=1, bos_token_id=2, head_dim=256, pad_token_id=0,
             hidden_activation="gelu_pytorch_tanh", hidden_act="gelu_pytorch_tanh",
             rms_norm_eps=1e-6, rope_theta=10000.0, max_position_embeddings=8192)
del GEMMA["tie_word_embeddings"]
GEMMA3 = dict(GEMMA, rope_theta=1000000, rope_local_base_freq=10000, rope_scaling=None,
              attn_logit_softcapping=None, final_logit_softcapping=None, eos_token_id=[1, 106],
              query_pre_attn_scalar=256, sliding_window=512, cache_implementation="hybrid")
del GEMMA3["hidden_act"]
NEOX = dict(bos_token_id=0, eos_token_id=0, hidden_act="gelu", initializer_range=0.02,
            layer_norm_eps=1e-5, max_position_embeddings=2048, rotary_emb_base=10000,
            rotary_pct=0.25, tie_word_embeddings=False, torch_dtype="float16", use_cache=True,
            transformers_version="4.24.0")
PHI3 = dict(LATER, architectures=["Phi3ForCausalLM"], model_type="phi3", embd_pdrop=0.0,
            resid_pdrop=0.0, rope_theta=10000.0, auto_map={"AutoConfig": "c.Phi3Config"},
            _name_or_path="Phi-3", original_max_position_embeddings=4096, pad_token_id=32000)
QWEN = dict(USUAL, attention_dropout=0.0, rms_norm_eps=1e-6, rope_theta=1e6,
            use_sliding_window=False, max_window_layers=28)
STABLELM = dict(USUAL, architectures=["StableLmForCausalLM"], model_type="stablelm",
                layer_norm_eps=1e-5, partial_rotary_factor=0.25, rope_theta=10000,
                max_position_embeddings=4096)
del STABLELM["rms_norm_eps"]
OLMO = dict(LATER, pad_token_id=1, rope_scaling=None, clip_qkv=None, rope_theta=10000.0,
            max_position_embeddings=2048)
del OLMO["rms_norm_eps"]


def sized(base, name, *sizes, **other):
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "intermediate_size")
    assert len(sizes) == len(keys)
    sizes = dict(zip(keys, sizes))
    named = dict(architectures=[name + "ForCausalLM"], model_type=name.lower()) if name else {}
    return {**base, **named, **{k: v for k, v in sizes.items() if v}, **other}


# Model: config.json; architecture, head, turning channels, base, scaling, window.
MODELS = {
    "Llama 2 7B": (
        sized(USUAL, "Llama", 4096, 32, 32, 32, 11008, max_position_embeddings=4096,
              pretraining_tp=1, rope_scaling=None, _name_or_path="meta-llama/Llama-2-7b-hf"),
        ("llama", 128, 128, 1e4, "default", None)),
    "Llama 1 7B": (
        sized(USUAL, "Llama", 4096, 32, 32, None, 11008, max_position_embeddings=2048,
              max_sequence_length=2048, pad_token_id=0),
        ("llama", 128, 128, 1e4, "default", None)),
    "Llama 1 7B, every key of transformers 4": (
        sized({**USUAL, **SAMPLING}, "Llama", 4096, 32, 32, 32, 11008, rope_theta=None,
              max_position_embeddings=2048),
        ("llama", 128, 128, 1e4, "default", None)),
    "Llama 3.1 8B": (
        sized(LATER, "Llama", 4096, 32, 32, 8, 14336, max_position_embeddings=131072,
              mlp_bias=False, pretraining_tp=1, rope_scaling=LLAMA3, rope_theta=500000.0,
              eos_token_id=[128001, 128008, 128009]),
        ("llama", 128, 128, 5e5, "llama3", None)),
    "Llama 3.2 1B": (
        sized(LATER, "Llama", 2048, 16, 32, 8, 8192, max_position_embeddings=131072, head_dim=64,
              rope_scaling={**LLAMA3, "factor": 32.0}, rope_theta=500000.0, mlp_bias=False,
              tie_word_embeddings=True, unsloth_fixed=True),
        ("llama", 64, 64, 5e5, "llama3", None)),
    "SmolLM2 135M": (
        sized(LATER, "Llama", 576, 30, 9, 3, 1536, max_position_embeddings=8192,
              is_llama_config=True, rope_interleaved=False, rope_scaling=None, rope_theta=100000,
              tie_word_embeddings=True, **{"transformers.js_config": {"kv_cache_dtype": {}}}),
        ("llama", 64, 64, 1e5, "default", None)),
    "DeepSeek Coder 1.3B": (
        sized(USUAL, "Llama", 2048, 24, 16, 16, 5504, max_position_embeddings=16384,
              rope_scaling={"factor": 4.0, "type": "linear"}, rope_theta=100000),
        ("llama", 128, 128, 1e5, "linear", None)),
    "SmolLM3 3B": (
        sized(LATER, "SmolLM3", 2048, 36, 16, 4, 11008, max_position_embeddings=65536,
              layer_types=["full_attention"] * 36, no_rope_layers=[1, 1, 1, 0] * 9,
              no_rope_layer_interval=4, max_window_layers=28, mlp_bias=False, pretraining_tp=2,
              rope_scaling=None, rope_theta=5000000.0, sliding_window=None,
              use_sliding_window=False),
        ("smollm3", 128, 128, 5e6, "default", None)),
    "Mistral 7B v0.1": (
        sized(USUAL, "Mistral", 4096, 32, 32, 8, 14336, max_position_embeddings=32768,
              rope_theta=10000.0, sliding_window=4096),
        ("llama", 128, 128, 1e4, "default", 4096)),
    "Mistral Nemo": (
        sized(LATER, "Mistral", 5120, 40, 32, 8, 14336, max_position_embeddings=131072,
              head_dim=128, rope_theta=1e6, sliding_window=None, unsloth_version="2025.12.5"),
        ("llama", 128, 128, 1e6, "default", None)),
    "Qwen 2.5 0.5B": (
        sized(QWEN, "Qwen2", 896, 24, 14, 2, 4864, max_position_embeddings=32768,
              sliding_window=32768, use_mrope=False, tie_word_embeddings=True),
        ("qwen2", 64, 64, 1e6, "default", None)),
    "Qwen 3 4B with YaRN": (
        sized(QWEN, "Qwen3", 2560, 36, 32, 8, 9728, max_position_embeddings=131072, head_dim=128,
              attention_bias=False, sliding_window=None, tie_word_embeddings=True, rope_scaling={
                  "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
        ("qwen3", 128, 128, 1e6, "yarn", None)),
    "Gemma 2B": (
        sized(GEMMA, "Gemma", 2048, 18, 8, 1, 16384, hidden_act="gelu", hidden_activation=None,
              rope_scaling=None),
        ("gemma", 256, 256, 1e4, "default", None)),
    "Gemma 2 27B": (
        sized(GEMMA, "Gemma2", 4608, 46, 32, 16, 36864, head_dim=128, query_pre_attn_scalar=144,
              attn_logit_softcapping=50.0, final_logit_softcapping=30.0, sliding_window=4096,
              sliding_window_size=4096, cache_implementation="hybrid",
              _attn_implementation="eager"),
        ("gemma2", 128, 128, 1e4, "default", 4096)),
    "Gemma 3 1B": (
        sized(GEMMA3, "Gemma3", 1152, 26, 4, 1, 6912, sliding_window_pattern=6),
        ("gemma3", 256, 256, 1e6, "default", 512)),
    "Gemma 3 270M": (
        sized(GEMMA3, "Gemma3", 640, 18, 4, 1, 2048, _sliding_window_pattern=6,
              use_bidirectional_attention=False,
              layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3),
        ("gemma3", 256, 256, 1e6, "default", 512)),
    "Gemma 3 4B": (
        {"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,
         "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144,
         "initializer_range": 0.02, "mm_tokens_per_image": 256, "model_type": "gemma3",
         "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
                         "model_type": "gemma3_text", "sliding_window": 1024,
                         "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
         "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
         "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"}},
        ("gemma3", 256, 256, 1e6, "linear", 1024)),
    "Phi 1": (
        sized(dict(LATER, layer_norm_eps=1e-5), "Phi", 2048, 24, 32, None, 8192, embd_pdrop=0.0,
              resid_pdrop=0.0, hidden_act="gelu_new", partial_rotary_factor=0.5,
              qk_layernorm=False, rope_scaling=None, rope_theta=10000.0, rms_norm_eps=None,
              num_key_value_heads=None, bos_token_id=None, max_position_embeddings=2048),
        ("phi2", 64, 32, 1e4, "default", None)),
    "Phi 3 mini 4k": (
        sized(PHI3, None, 3072, 32, 32, 32, 8192, max_position_embeddings=4096,
              rope_scaling=None, sliding_window=2047),
        ("phi3", 96, 96, 1e4, "default", 2047)),
    "Phi 3 mini 128k": (
        sized(PHI3, None, 3072, 32, 32, 32, 8192, max_position_embeddings=131072,
              rope_scaling={"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "su"},
              sliding_window=262144),
        ("phi3", 96, 96, 1e4, "longrope", None)),
    "Phi 4 mini": (
        sized(PHI3, None, 3072, 32, 24, 8, 8192, max_position_embeddings=131072, full_attn_mod=1,
              interpolate_factor=1, lm_head_bias=False, mlp_bias=False,
              partial_rotary_factor=0.75, sliding_window=262144, tie_word_embeddings=True,
              rope_scaling={"long_factor": [1] * 48, "short_factor": [1] * 48,
                            "type": "longrope"}),
        ("phi3", 128, 96, 1e4, "longrope", None)),
    "Pythia 70M": (
        sized(NEOX, "GPTNeoX", 512, 6, 8, None, 2048, use_parallel_residual=True,
              vocab_size=50304),
        ("gptneox", 64, 16, 1e4, "default", None)),
    "Pythia 6.9B, saved by transformers 4.45": (
        sized(NEOX, "GPTNeoX", 4096, 32, 32, None, 16384, use_parallel_residual=True,
              attention_bias=True, attention_dropout=0.0, classifier_dropout=0.1,
              hidden_dropout=0.0, partial_rotary_factor=0.25, rope_scaling=None, rope_theta=10000,
              custom_pipelines={"text-generation": {}}, vocab_size=50432),
        ("gptneox", 128, 32, 1e4, "default", None)),
    "GPT-J 6B": (
        {"activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"],
         "attn_pdrop": 0.0, "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256,
         "gradient_checkpointing": False, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
         "model_type": "gptj", "n_embd": 4096, "n_head": 16, "n_inner": None, "n_layer": 28,
         "n_positions": 2048, "resid_pdrop": 0.0, "rotary": True, "rotary_dim": 64,
         "scale_attn_weights": True, "summary_activation": None, "summary_first_dropout": 0.1,
         "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
         "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
         "tie_word_embeddings": False, "tokenizer_class": "GPT2Tokenizer", "vocab_size": 50400},
        ("gptj", 256, 64, 1e4, "default", None)),
    "StableLM 2 1.6B": (
        sized(STABLELM, None, 2048, 24, 32, 32, 5632, use_qkv_bias=True),
        ("stablelm", 64, 16, 1e4, "default", None)),
    "StableLM 2 12B": (
        sized(STABLELM, None, 5120, 40, 32, 8, 13824, use_qkv_bias=False, qk_layernorm=True,
              use_parallel_residual=True, hidden_dropout=0.0, attention_dropout=0.0),
        ("stablelm", 160, 40, 1e4, "default", None)),
    "OLMo 7B": (
        sized(OLMO, "Olmo", 4096, 32, 32, 32, 11008, clip_qkv=8.0, pretraining_tp=1),
        ("olmo", 128, 128, 1e4, "default", None)),
    "OLMo 2 1B": (
        sized(LATER, "Olmo2", 2048, 16, 16, 16, 8192, rope_scaling=None, rope_theta=500000,
              max_position_embeddings=4096, pad_token_id=100277),
        ("olmo2", 128, 128, 5e5, "default", None)),
    "OLMo 3 7B": (
        sized(LATER, "Olmo3", 4096, 32, 32, 32, 11008, rope_scaling=YARN, rope_theta=500000,
              max_position_embeddings=65536, dtype="float32", sliding_window=4096,
              layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 8),
        ("olmo2", 128, 128, 5e5, "yarn", 4096)),
    "Granite 3.3 2B": (
        sized(LATER, "Granite", 2048, 40, 32, 8, 8192, attention_multiplier=0.015625,
              embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.22,
              max_position_embeddings=131072, mlp_bias=False, rope_scaling=None,
              rope_theta=10000000.0, tie_word_embeddings=True),
        ("granite", 64, 64, 1e7, "default", None)),
    "StarCoder 2 3B": (
        sized(USUAL, "Starcoder2", 3072, 30, 24, 2, 12288, activation_function="gelu",
              attention_dropout=0.1, attention_softmax_in_fp32=True, embedding_dropout=0.1,
              hidden_act="gelu_pytorch_tanh", layer_norm_epsilon=1e-5, norm_epsilon=1e-5,
              max_position_embeddings=16384, mlp_type="default", norm_type="layer_norm",
              residual_dropout=0.1, rope_theta=999999.4420358813, scale_attn_weights=True,
              scale_attention_softmax_in_fp32=True, sliding_window=4096, use_bias=True),
        ("starcoder2", 128, 128, 999999.4420358813, "default", 4096)),
    "Llama of transformers 5": (
        sized(LATER, "Llama", 2048, 16, 32, 8, 8192, dtype="bfloat16", head_dim=64,
              max_position_embeddings=131072, mlp_bias=False, rope_parameters={
                  **LLAMA3, "rope_theta": 500000.0}),
        ("llama", 64, 64, 5e5, "llama3", None)),
}

# Model, what is changed, what the refusal says.
REFUSED = [
    ("Llama 2 7B", {"hidden_act": "relu2"}, "hidden_act: expected silu"),
    ("Llama 2 7B", {"attention_bias": "yes"}, "attention_bias: expected true or false"),
    ("Llama 2 7B", {"mlp_bias": 1}, "mlp_bias: expected true or false"),
    ("Llama 2 7B", {"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope type: expected"),
    ("Llama 2 7B", {"rope_scaling": {"type": "linear"}}, "parameters of rope type linear"),
    ("Llama 2 7B", {"rope_scaling": {"mrope_section": [16, 24, 24]}}, "rope type default"),
    ("Llama 2 7B", {"alibi": True}, "alibi: expected only keys known"),
    ("Llama 2 7B", {"pruned_heads": {"1": [0]}}, "pruned_heads: expected {}"),
    ("Llama 2 7B", {"num_local_experts": 8}, "num_local_experts: expected only keys known"),
    ("Llama 2 7B", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "found 'gptq'"),
    ("Llama 2 7B", {"quantization": {"bits": 4}}, "not quantized"),
    ("Llama 2 7B", {"architectures": ["Mistral3ForConditionalGeneration"]}, "architectures"),
    ("Llama 2 7B", {"architectures": ["MixFormerSequentialForCausalLM"]}, "architectures"),
    ("Llama 2 7B", {"architectures": ["Phi3SmallForCausalLM"]}, "architectures: expected"),
    ("SmolLM3 3B", {"mlp_bias": True}, "mlp_bias: expected False"),
    ("Qwen 2.5 0.5B", {"use_mrope": True}, "use_mrope: expected only keys known"),
    ("Gemma 3 1B", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("Gemma 3 4B", {"text_config": None}, "text_config: expected an object"),
    ("Gemma 3 4B", {"audio_config": {"a": 1}}, "audio_config: expected only keys known"),
    ("Phi 1", {"qk_layernorm": True}, "qk_layernorm: expected False"),
    ("Phi 4 mini", {"full_attn_mod": 2}, "full_attn_mod: expected 1"),
    # GPT-NeoX-20B has this one, the tanh form; GGUF's gptneox is read with the exact one.
    ("Pythia 70M", {"hidden_act": "gelu_fast"},
     "hidden_act: expected gelu, as GGUF has no key for another, found 'gelu_fast'"),
    ("Pythia 70M", {"rope_theta": 20000}, "rope_theta: expected 10000, as this class reads"),
    ("Pythia 70M", {"rotary_emb_base": None, "rope_theta": 20000}, "rope_theta: expected 10000"),
    ("Pythia 70M", {"rotary_pct": None, "partial_rotary_factor": 0.5}, "factor: expected 0.25"),
    ("Pythia 70M", {"num_hidden_layers": 4 * 10 ** 9}, "num_hidden_layers: expected at most 4096"),
    ("SmolLM3 3B", {"sliding_window": 8, "layer_types": ["sliding_attention"] * 36},
     "layer_types: expected full_attention only, as use_sliding_window"),
    ("Gemma 3 1B", {"rope_scaling": {"type": "linear", "factor": 8.0}}, "rope_scaling.type"),
    ("Gemma 3 1B", {"rope_local_base_freq": False}, "rope_local_base_freq: expected a positive"),
    ("Gemma 3 4B", {"text_config": {**MODELS["Gemma 3 4B"][0]["text_config"],
                                    "final_logit_softcapping": 30.0}},
     "text_config.final_logit_softcapping: expected null"),
    ("OLMo 3 7B", {"rope_scaling": {"type": "linear", "factor": 8.0}}, "rope_scaling.type"),
    ("Qwen 2.5 0.5B", {"use_sliding_window": "x"}, "use_sliding_window: expected False or True"),
    ("Qwen 2.5 0.5B", {"use_sliding_window": 1}, "use_sliding_window: expected False or True"),
    *(("Qwen 2.5 0.5B", {"use_sliding_window": True, "max_window_layers": wrong},
       "max_window_layers: expected a whole number") for wrong in ("0", 0.0, [0], True, False, -1)),
    ("Pythia 70M", {"attention_bias": False}, "attention_bias: expected True"),
    ("Pythia 6.9B, saved by transformers 4.45", {"rotary_pct": 0.5},
     "partial_rotary_factor: expected 0.5, as this class reads rotary_pct"),
    ("GPT-J 6B", {"rotary": False}, "rotary: expected True"),
    ("OLMo 2 1B", {"clip_qkv": 8.0}, "clip_qkv: expected only keys known"),
    ("StarCoder 2 3B", {"use_bias": False}, "use_bias: expected True"),
]


# Model, what is changed, what the note on stderr says, or nothing.
NOTES = [
    ("Gemma 2 27B", {}, ""),
    ("Gemma 2 27B", {"query_pre_attn_scalar": 128}, "llama.cpp ignores: it computes with 144"),
    ("Gemma 3 1B", {"query_pre_attn_scalar": 168}, "llama.cpp ignores: it computes with 256"),
    ("Qwen 2.5 0.5B", {}, ""),
    ("Qwen 2.5 0.5B", {"use_sliding_window": True, "max_window_layers": 20, "sliding_window": 64},
     "sliding window of 64 tokens is written as qwen2"),
]


# rope_scaling of YaRN by 4 (whose amplitude is 1 + 0.1 ln 4), rope.scaling.attn_factor or None.
FOUR = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
AMPLITUDES = [
    ({}, None),
    ({"attention_factor": 1.1386294361119891}, None),
    ({"attention_factor": 1.3}, 1.3 / 1.1386294361119891),
    ({"mscale": 2.0, "mscale_all_dim": 1.0}, 1.2772588722239781 / 1.1386294361119891 ** 2),
    ({"mscale": 2.0}, None),
]
# Tensors of a model that also sees pictures, those of its language model alone.
PARTS = {"language_model.model.norm.weight": "model.norm.weight",
         "model.language_model.layers.0.mlp.up_proj.weight": "model.layers.0.mlp.up_proj.weight",
         "language_model.lm_head.weight": "lm_head.weight", "vision_tower.a": None,
         "model.vision_tower.b": None, "multi_modal_projector.c": None}


def attempt(table):
    """(the Config, None) or (None, what the refusal says)."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(table))
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                return read_config(Path(folder), []), None
            except BadInput as problem:
                return None, str(problem)


def notes(table):
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(said):
        (Path(folder) / "config.json").write_text(json.dumps(table))
        read_config(Path(folder), [])
    return said.getvalue()


def main():
    counts = {True: 0, False: 0}

    def check(what, holds, found):
        counts[bool(holds)] += 1
        if not holds:
            print(f"failed: {what}: {found}")

    for name, (table, want) in MODELS.items():
        c, problem = attempt(table)
        have = c and (c.family.arch, c.d_head, c.turning(), c.base, c.scaling["rope_type"],
                      c.window)
        check(name, have == want, problem or have)
        check(f"{name}: by GGUF's own keys", c and is_standard(c), c and c.scaling)
    for name, change, words in REFUSED:
        _, problem = attempt({**MODELS[name][0], **change})
        check(f"{name} with {change}", problem and words in problem, problem)
    for name, change, words in NOTES:
        said = notes({**MODELS[name][0], **change})
        check(f"notes of {name} with {change}", words in said if words else not said, said)
    for more, want in AMPLITUDES:
        c, problem = attempt({**MODELS["Llama 2 7B"][0], "rope_scaling": {**FOUR, **more}})
        keys = {key: value for key, _, value in rope_metadata(c)} if c else {}
        have = keys.get("llama.rope.scaling.attn_factor")
        check(f"YaRN with {more}", c and "llama.rope.scaling.type" in keys and
              (have == want or want and have and abs(have / want - 1) < 1e-12), problem or have)
    have = text_tensors("", PARTS)
    check("tensors of the language model", sorted(have) == sorted(filter(None, PARTS.values())) and
          all(key == value for key, value in have.items()), have)
    print(f"{counts[True]} passed, {counts[False]} failed")
    return counts[False] > 0


if __name__ == "__main__":
    sys.exit(main())
