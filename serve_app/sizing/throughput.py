"""How long an engine's step takes: the roofline of one replica. Pure.

A step multiplies tokens of prompts and one token of each answer with the weights. It is as long as the slower of its
arithmetic and its memory traffic, and what is spent beside them: all-reduces between cards, and the engine's own work.
"""

from dataclasses import dataclass

from serve_app.sizing.constants import BF16_BYTES, MXFP4_BYTES, Efficiency, Gpu, LabResult, Model
from serve_app.sizing.memory import kv_bytes_per_token, parameters


@dataclass(frozen=True, slots=True)
class Work:
    """What a step does.

    It reads `prefill` tokens of `prefills` prompts, whose contexts add up to `prefill_context`, and makes one token for
    each of `decodes` answers, whose contexts add up to `decode_context`. Everything is in tokens.
    """

    prefill: float = 0.0
    prefill_context: float = 0.0
    prefills: float = 0.0
    decodes: float = 0.0
    decode_context: float = 0.0


@dataclass(frozen=True, slots=True)
class StepModel:
    """The step time of one replica as a function of its work. Made by `step_model`; FLOPs and bytes are per card."""

    token_flops: float
    context_flops: float
    answer_flops: float
    dense_bytes: float
    expert_bytes: float
    untouched: float
    context_bytes: float
    token_bytes: float
    token_link_bytes: float
    flops: float
    bandwidth: float
    link: float
    hops_s: float
    step_s: float
    sequence_s: float

    def seconds(self, work: Work) -> float:
        """Length of the step."""
        return self.time(work.prefill, work.prefill_context, work.prefills, work.decodes, work.decode_context)

    def time(
        self, prefill: float, prefill_context: float, prefills: float, decodes: float, decode_context: float
    ) -> float:
        """The same without an object: the simulator asks some million times."""
        tokens, sequences = prefill + decodes, prefills + decodes
        flops = (
            tokens * self.token_flops
            + (prefill_context + decode_context) * self.context_flops
            + sequences * self.answer_flops
        )
        touched = 1.0 - self.untouched**tokens
        # A prompt's keys and values are read once for a chunk of it, not once for each of its tokens.
        read = decode_context + (2 * prefill_context / prefill * prefills if prefill else 0.0)
        moved = (
            self.dense_bytes + touched * self.expert_bytes + read * self.context_bytes + tokens * self.token_bytes
        )  # fmt: skip
        working = max(flops / self.flops, moved / self.bandwidth)
        return (
            working
            + tokens * self.token_link_bytes / self.link
            + self.hops_s
            + self.step_s
            + (sequences * self.sequence_s)
        )


def step_model(model: Model, gpu: Gpu, tensor_parallel: int, efficiency: Efficiency) -> StepModel:
    """The roofline of a replica of `tensor_parallel` cards; weights, heads and arithmetic are divided among them."""
    parts = parameters(model)
    cards = tensor_parallel
    chosen = model.experts_per_token / model.experts
    every_token = (parts.expert_matrices + parts.expert_biases) * chosen + parts.routers + parts.attention
    window_flops = 4 * model.window_layers * model.heads * model.head_size * model.window
    all_reduces = 2 * model.layers if cards > 1 else 0
    return StepModel(
        token_flops=(2 * every_token + window_flops) / cards,
        context_flops=4 * model.full_layers * model.heads * model.head_size / cards,
        answer_flops=2 * parts.unembedding / cards,
        dense_bytes=(parts.routers + parts.attention + parts.unembedding + parts.norms) * BF16_BYTES / cards,
        expert_bytes=(parts.expert_matrices * MXFP4_BYTES + parts.expert_biases * BF16_BYTES) / cards,
        untouched=1.0 - chosen,
        context_bytes=kv_bytes_per_token(model, model.full_layers) / cards,
        token_bytes=kv_bytes_per_token(model, model.window_layers) * model.window / cards,
        token_link_bytes=all_reduces * 2 * (cards - 1) / cards * model.hidden * BF16_BYTES,
        flops=gpu.flops * efficiency.compute,
        bandwidth=gpu.bandwidth * efficiency.bandwidth,
        link=gpu.link * efficiency.link,
        hops_s=all_reduces * efficiency.hop_s,
        step_s=efficiency.step_s,
        sequence_s=efficiency.sequence_s,
    )


def prompt_work(uncached: int, cached: int, chunk: int) -> list[Work]:
    """The steps in which a prompt is read whose first `cached` tokens are in the cache: chunks of at most `chunk`."""
    works: list[Work] = []
    done = 0
    while done < uncached:
        size = min(chunk, uncached - done)
        context = size * (cached + done + size / 2)
        works.append(Work(prefill=size, prefill_context=context, prefills=1))
        done += size
    return works


def saturated_tokens_per_s(step: StepModel, prompt: int, output: int, step_tokens: int) -> float:
    """Tokens per second, prompts and answers together, of an engine that always has more prompts than it can read.

    Each step is full; its tokens are divided between prompts and answers as they are in the requests.
    """
    share = output / (prompt + output)
    decodes, prefill = step_tokens * share, step_tokens * (1 - share)
    work = Work(prefill, prefill * prompt / 2, max(1.0, prefill / prompt), decodes, decodes * (prompt + output / 2))
    return step_tokens / step.seconds(work)


def against(result: LabResult, step: StepModel) -> float:
    """What the model says of a published run, as a multiple of what was published."""
    return (
        saturated_tokens_per_s(step, result.prompt_tokens, result.output_tokens, result.step_tokens)
        / result.tokens_per_s
    )
