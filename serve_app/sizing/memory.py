"""What fits: bytes of weights by tensor, bytes of KV cache by kind of layer, and sequences on a replica. Pure."""

import math
from dataclasses import dataclass

from serve_app.sizing.constants import (
    BF16_BYTES,
    BLOCK_TOKENS,
    GIB,
    LOGIT_BYTES,
    MEMORY_SHARE,
    MXFP4_BYTES,
    RESERVE_GIB,
    Gpu,
    Model,
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Elements by part of a model: `expert_matrices` are stored in MXFP4, everything else in bf16."""

    expert_matrices: int
    expert_biases: int
    routers: int
    attention: int
    embedding: int
    unembedding: int
    norms: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.expert_matrices + self.others

    @property
    def others(self) -> int:
        """What is stored in bf16."""
        return (
            self.expert_biases + self.routers + self.attention + self.embedding + self.unembedding + self.norms
        )  # fmt: skip


def parameters(model: Model) -> Parameters:
    """Count the elements of every tensor of the checkpoint."""
    wide, narrow = model.heads * model.head_size, model.kv_heads * model.head_size
    qkv = (wide + 2 * narrow) * (model.hidden + 1)
    out = model.hidden * (wide + 1)
    up, down = 2 * model.intermediate * model.hidden, model.hidden * model.intermediate  # up holds the gate as well
    return Parameters(
        expert_matrices=model.layers * model.experts * (up + down),
        expert_biases=model.layers * model.experts * (2 * model.intermediate + model.hidden),
        routers=model.layers * model.experts * (model.hidden + 1),
        attention=model.layers * (qkv + out + model.heads),  # a sink per head
        embedding=model.vocabulary * model.hidden,
        unembedding=model.vocabulary * model.hidden,
        norms=(2 * model.layers + 1) * model.hidden,
    )


def active_parameters(model: Model) -> int:
    """Elements that one token is multiplied with, as the model card counts them: without the embedding table."""
    parts = parameters(model)
    share = model.experts_per_token / model.experts
    experts = (parts.expert_matrices + parts.expert_biases) * share
    return round(experts) + parts.routers + parts.attention + parts.unembedding + parts.norms


def weight_bytes(model: Model) -> float:
    """Bytes of the checkpoint. MXFP4 stays MXFP4 on the cards; what kernels pad it with there is not counted."""
    parts = parameters(model)
    return parts.expert_matrices * MXFP4_BYTES + parts.others * BF16_BYTES


def kv_bytes_per_token(model: Model, layers: int) -> int:
    """Bytes of keys and values of one token in `layers` layers, in bf16."""
    return layers * 2 * model.kv_heads * model.head_size * BF16_BYTES


def sequence_bytes(model: Model, context: int) -> int:
    """KV cache of one sequence of `context` tokens, over all cards of a replica.

    Full layers keep every token, in whole blocks; window layers keep the window and the block that it begins in.
    """
    return full_bytes(model, context) + window_bytes(model, context)


def full_bytes(model: Model, context: int) -> int:
    """The part of `sequence_bytes` that layers with full attention hold."""
    return _in_blocks(context) * kv_bytes_per_token(model, model.full_layers)


def window_bytes(model: Model, context: int) -> int:
    """The part of `sequence_bytes` that layers with a sliding window hold: the same however long a context grows."""
    return min(_in_blocks(context), model.window + BLOCK_TOKENS) * kv_bytes_per_token(model, model.window_layers)


def _in_blocks(context: int) -> int:
    return math.ceil(context / BLOCK_TOKENS) * BLOCK_TOKENS


def activation_bytes(model: Model, tensor_parallel: int, step_tokens: int, seats: int) -> int:
    """Bytes on each card that the widest point of a full step holds at once: a floor for `reserve_bytes`.

    That is inside the experts: what comes in and the residual, and for each token and chosen expert both halves of what
    goes up, their product and what comes down; in bf16, the inner width divided by the cards. At the end of the step
    there are logits and probabilities of every sequence, in 32 bits, over the whole vocabulary.
    """
    inner = model.intermediate // tensor_parallel
    experts = step_tokens * (2 * model.hidden + model.experts_per_token * (3 * inner + model.hidden)) * BF16_BYTES
    return max(experts, 2 * seats * model.vocabulary * LOGIT_BYTES)


def reserve_bytes(step_tokens: int) -> float:
    """Bytes on each card for activations, CUDA graphs and the runtime, between the points of `RESERVE_GIB`."""
    points = RESERVE_GIB
    if step_tokens <= points[0][0]:
        return points[0][1] * GIB
    for (low, low_gib), (high, high_gib) in zip(points, points[1:], strict=False):
        if step_tokens <= high:
            return (low_gib + (high_gib - low_gib) * (step_tokens - low) / (high - low)) * GIB
    (low, low_gib), (high, high_gib) = points[-2:]
    return (high_gib + (high_gib - low_gib) * (step_tokens - high) / (high - low)) * GIB


@dataclass(frozen=True, slots=True)
class Fit:
    """What a replica holds: bytes on each card, the context tokens of its cache, and whole sequences that fit.

    `cache_bytes` is not negative; `tokens` counts full layers alone, as vLLM's "GPU KV cache size" does roughly.
    """

    card_bytes: float
    weights_bytes: float
    reserve_bytes: float
    cache_bytes: float
    tokens: int
    sequences: int

    @property
    def cache_share(self) -> float:
        """The cache's share of the card, 0..1."""
        return self.cache_bytes / self.card_bytes


def fit(
    model: Model, gpu: Gpu, tensor_parallel: int, context: int, step_tokens: int, memory_share: float = MEMORY_SHARE
) -> Fit:
    """What a replica of `tensor_parallel` cards holds at `context` tokens a sequence; weights and heads are divided."""
    card = gpu.memory_mib * 2.0**20
    weights = weight_bytes(model) / tensor_parallel
    reserve = reserve_bytes(step_tokens)
    cache = max(0.0, card * memory_share - weights - reserve)
    everywhere = cache * tensor_parallel
    return Fit(
        card_bytes=card,
        weights_bytes=weights,
        reserve_bytes=reserve,
        cache_bytes=cache,
        tokens=int(everywhere // kv_bytes_per_token(model, model.full_layers)),
        sequences=int(everywhere // sequence_bytes(model, context)),
    )
