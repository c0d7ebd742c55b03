"""Sizes of the two demonstration models and the gpt-oss configuration they give."""

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.demo.recipe import DemoName

VOCABULARY_SIZE = 201_088
ENDOFTEXT_ID, RETURN_ID, CALL_ID = 199_999, 200_002, 200_012


@dataclass(frozen=True, slots=True)
class Shape:
    """What differs between the two; the rest of the configuration is shared."""

    hidden_size: int
    intermediate_size: int
    layers: int
    experts: int


SHAPES: Mapping[DemoName, Shape] = {
    "demo-20b": Shape(hidden_size=64, intermediate_size=64, layers=3, experts=4),
    "demo-120b": Shape(hidden_size=96, intermediate_size=64, layers=3, experts=8),
}


def model_config(name: DemoName) -> dict[str, object]:
    """The content of `config.json` for the full vocabulary.

    `head_dim` below 32 has no CPU attention kernel in vLLM 0.29, and its gpt-oss needs the yarn `factor`.
    """
    shape = SHAPES[name]
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_local_experts": shape.experts,
        "num_experts_per_tok": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "layer_types": ["full_attention"] * shape.layers,
        "sliding_window": 128,
        "max_position_embeddings": 131_072,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150_000.0,
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 4096,
            "truncate": False,
        },
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "router_aux_loss_coef": 0.001,
        "output_router_logits": False,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "dtype": "bfloat16",
        "eos_token_id": RETURN_ID,
        "pad_token_id": ENDOFTEXT_ID,
    }
