"""The ``config.json`` of small models as they are published, before a case changes some fields.

Sizes differ wherever two could be confused; epsilons are large enough to be noticed.
"""

from __future__ import annotations

N_CTX = 12

GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "layer_norm_epsilon": 1e-3,
    "n_ctx": N_CTX,
    "n_positions": N_CTX,
    "n_embd": 18,
    "n_head": 3,
    "n_layer": 2,
    "vocab_size": 23,
}
INVERSE = {
    **GPT2,
    "n_layer": 3,  # the scale is one over the layer's number: three layers tell it from halving
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": True,
}
NEOX = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 40,
    "layer_norm_eps": 1e-3,
    "max_position_embeddings": N_CTX,
    "num_attention_heads": 2,  # heads of 16: a quarter of that still has two frequencies
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": 21,
}
PYTHIA = {**NEOX, "rotary_emb_base": 100, "rotary_pct": 0.25}  # as published: no rope_parameters
ROPE = {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 24,
    "intermediate_size": 32,
    "max_position_embeddings": N_CTX,
    "mlp_bias": False,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-3,
    "tie_word_embeddings": False,
    "vocab_size": 29,
}
LLAMA3 = {
    # Frequencies on both sides of the two thresholds and between them.
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
_OF_LLAMA = ("pretraining_tp", "attention_bias", "mlp_bias")
MISTRAL = {
    **{k: v for k, v in LLAMA.items() if k not in _OF_LLAMA},
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "rope_theta": 100.0,
    "sliding_window": 5,
}
OLMO = {
    **{k: v for k, v in LLAMA.items() if k not in ("rms_norm_eps", "mlp_bias")},
    "architectures": ["OlmoForCausalLM"],
    "model_type": "olmo",
    "clip_qkv": None,
    "num_key_value_heads": 4,
    "pad_token_id": 1,
    "eos_token_id": 0,
    "rope_scaling": None,
    "rope_theta": 100.0,
}
QWEN2 = {
    **{k: v for k, v in LLAMA.items() if k not in _OF_LLAMA},
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "max_window_layers": 1,
    "rope_theta": 1000.0,
    "sliding_window": 4,
    "use_sliding_window": False,  # as published: a window that is not used
}
QWEN3 = {
    **{k: v for k, v in QWEN2.items() if not k.endswith(("window", "window_layers"))},
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 8,
}
