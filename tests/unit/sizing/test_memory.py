"""Bytes of weights and caches, against what was published."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GptOssConfig

from serve_app.sizing.constants import GIB, GPUS, MODELS, Model
from serve_app.sizing.memory import (
    activation_bytes,
    active_parameters,
    fit,
    full_bytes,
    kv_bytes_per_token,
    parameters,
    reserve_bytes,
    sequence_bytes,
    weight_bytes,
    window_bytes,
)

# gpt-oss model card (arXiv 2508.10925), table 1: billions of parameters, and GiB of the checkpoint.
_CARD = [
    ("gpt-oss-20b", 19.12, 0.64, 1.16, 3.61, 20.91, 12.8),
    ("gpt-oss-120b", 114.71, 0.96, 1.16, 5.13, 116.83, 60.8),
]


@pytest.mark.parametrize(("name", "mlp", "attention", "embed", "active", "total", "gib"), _CARD)
def test_the_model_card_is_met_to_its_last_digit(
    name: str, mlp: float, attention: float, embed: float, active: float, total: float, gib: float
) -> None:
    model = MODELS[name]
    parts = parameters(model)
    assert round((parts.expert_matrices + parts.expert_biases + parts.routers) / 1e9, 2) == mlp
    assert round(parts.attention / 1e9, 2) == attention
    assert round((parts.embedding + parts.unembedding) / 1e9, 2) == embed
    assert round(active_parameters(model) / 1e9, 2) == active
    assert round(parts.total / 1e9, 2) == total
    assert round(weight_bytes(model) / GIB, 1) == gib


def test_the_larger_checkpoint_has_the_size_of_its_files() -> None:
    # huggingface.co/openai/gpt-oss-120b/tree/main/original: 65.2 GB, of which the rest is a few kilobytes.
    assert round(weight_bytes(MODELS["gpt-oss-120b"]) / 1e9, 1) == 65.2


def test_the_layout_is_that_of_the_published_configuration() -> None:
    published, model = GptOssConfig(), MODELS["gpt-oss-120b"]
    assert model == Model(
        name="gpt-oss-120b",
        layers=published.num_hidden_layers,
        hidden=published.hidden_size,
        intermediate=published.intermediate_size,
        experts=published.num_local_experts,
        experts_per_token=published.num_experts_per_tok,
        heads=published.num_attention_heads,
        kv_heads=published.num_key_value_heads,
        head_size=published.head_dim,
        window=published.sliding_window or 0,
        vocabulary=published.vocab_size,
        positions=published.max_position_embeddings,
    )
    assert published.layer_types is not None
    assert model.full_layers == published.layer_types.count("full_attention")


@pytest.mark.parametrize(("name", "token", "windows"), [("gpt-oss-20b", 24_576, 3.5), ("gpt-oss-120b", 36_864, 5.3)])
def test_a_token_of_cache_is_what_the_models_page_says(name: str, token: int, windows: float) -> None:
    model = MODELS[name]
    assert kv_bytes_per_token(model, model.full_layers) == token
    assert round((sequence_bytes(model, 4096) - 4096 * token) / 1e6, 1) == windows


@pytest.mark.parametrize(
    ("name", "gpu", "cards", "step_tokens", "gib", "million_tokens"),
    [
        ("gpt-oss-20b", "l4", 1, 2048, 5.4, 0.234),
        ("gpt-oss-20b", "l40s", 1, 4096, 25.1, 1.10),
        ("gpt-oss-20b", "h100", 1, 8192, 54.8, 2.40),
        ("gpt-oss-120b", "h100", 2, 8192, 37.2, 2.17),
    ],
)
def test_the_profiles_have_the_room_that_the_models_page_says(
    name: str, gpu: str, cards: int, step_tokens: int, gib: float, million_tokens: float
) -> None:
    held = fit(MODELS[name], GPUS[gpu], cards, 65_536, step_tokens)
    assert held.cache_bytes / GIB == pytest.approx(gib, abs=0.11)
    assert held.tokens / 1e6 == pytest.approx(million_tokens, rel=0.015)


def test_what_does_not_fit_has_no_cache() -> None:
    held = fit(MODELS["gpt-oss-120b"], GPUS["l4"], 1, 4096, 2048)
    assert (held.cache_bytes, held.tokens, held.sequences) == (0, 0, 0)


_MODEL = st.sampled_from(sorted(MODELS))
_GPU = st.sampled_from(sorted(GPUS))
_CONTEXT = st.integers(1, 131_072)


@given(_MODEL, _GPU, st.sampled_from([1, 2, 4]), _CONTEXT, _CONTEXT, st.integers(512, 16_384))
def test_longer_contexts_never_fit_more_and_more_cards_never_fewer(
    name: str, gpu: str, cards: int, one: int, other: int, step_tokens: int
) -> None:
    model, card = MODELS[name], GPUS[gpu]
    short, long = sorted((one, other))
    assert sequence_bytes(model, short) <= sequence_bytes(model, long)
    held = fit(model, card, cards, long, step_tokens)
    assert held.sequences <= fit(model, card, cards, short, step_tokens).sequences
    assert held.sequences <= fit(model, card, 2 * cards, long, step_tokens).sequences


@given(st.integers(1, 32_768), st.integers(1, 32_768))
def test_a_larger_step_needs_more_reserve(one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert reserve_bytes(small) <= reserve_bytes(large)


def test_a_window_layer_stops_growing_and_a_full_one_does_not() -> None:
    model = MODELS["gpt-oss-120b"]
    assert window_bytes(model, 64) == full_bytes(model, 64)  # as many layers of either kind, and both hold it all
    assert window_bytes(model, 1 << 17) == window_bytes(model, 144) == 144 * 18 * 2 * 8 * 64 * 2
    assert full_bytes(model, 1 << 17) == (1 << 17) * 18 * 2 * 8 * 64 * 2
    assert sequence_bytes(model, 5000) == full_bytes(model, 5000) + window_bytes(model, 5000)


@pytest.mark.parametrize(("cards", "step", "seats"), [(1, 2048, 16), (1, 8192, 128), (2, 8192, 128), (8, 8192, 128)])
def test_activations_are_a_part_of_the_reserve(cards: int, step: int, seats: int) -> None:
    model = MODELS["gpt-oss-120b"]
    assert 0 < activation_bytes(model, cards, step, seats) < reserve_bytes(step)
    assert activation_bytes(model, cards, step, seats) >= activation_bytes(model, 2 * cards, step, seats)
    assert activation_bytes(model, cards, 2 * step, seats) > activation_bytes(model, cards, step, seats)


def test_many_sequences_are_wider_than_a_small_step() -> None:
    model = MODELS["gpt-oss-120b"]
    assert activation_bytes(model, 1, 1, 1000) == 2 * 1000 * model.vocabulary * 4
