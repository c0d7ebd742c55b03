"""Trains the compact weights of a demonstration model; minutes on two CPU cores.

Only the few hundred token ids that tell requests apart have an embedding. Every other id shares one zero vector, here
and after `checkpoint.expand`; the output head knows only the ids the model writes, all others have logit 0.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from openai_harmony import HarmonyEncoding  # pyright: ignore[reportMissingTypeStubs]
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from transformers import AttentionInterface, GptOssConfig, GptOssModel

from serve_app.demo import recipe
from serve_app.demo.harmony import Rendered, load_encoding, render, render_session
from serve_app.demo.recipe import DemoName
from serve_app.demo.shape import SHAPES, VOCABULARY_SIZE, model_config

# The order of float additions, and so the weights, depends on the number of threads; one also leaves a core to others.
THREADS = 1
STEPS = {"demo-20b": 2600, "demo-120b": 2600}
BATCH_TOKENS = 1600
SESSIONS, SESSION_EXCHANGES = 2500, 10
SAMPLES = 12_000
SESSION_SHARE = 0.45  # of the steps, at the start
LONGEST_TOKENS = 1600
# Every reply is the only right one, so the trained distribution may be sharpened: it makes temperature 1.0 safe.
SHARPNESS = 2.0
_DECAY_SHARE = 0.6
_HEAD_SCALE = 4.0  # lets the head, which starts at zero, reach large logits as fast as the rest learns
_INNER_MATRICES = ("_proj.weight", "experts.gate_up_proj", "experts.down_proj")
_ATTENTION = "gatehouse_sink"
_CARRIER_WIDTH = 8  # keeps the head dimension a multiple of eight for the kernel


@dataclass(frozen=True, slots=True)
class _Ids:
    """`read`: the ids of each embedding row; `written`: ids with an output row. Both sorted.

    A word has one row for all its forms: with and without a space before it, with a small or a capital letter.
    """

    read: tuple[tuple[int, ...], ...]
    written: tuple[int, ...]


def train(name: DemoName, out: Path, *, seed: int = 0, report: Callable[[str], None], steps: int | None = None) -> None:
    """Trains `name` and writes `model.safetensors` (bfloat16) and `ids.json` into `out`.

    The same seed gives the same bytes on the same kind of CPU and torch build. Needs `TIKTOKEN_ENCODINGS_BASE`.
    `steps` below the default is for trying the code out. `report` gets one line now and then.
    """
    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    torch.use_deterministic_algorithms(True)
    rng = random.Random(seed)
    encoding = load_encoding()
    sessions = [
        render_session(encoding, recipe.session(name, rng, exchanges=SESSION_EXCHANGES)) for _ in range(SESSIONS)
    ]
    noisy = [render(encoding, recipe.sample(name, rng)) for _ in range(SAMPLES)]
    sessions, noisy = ([one for one in kind if len(one.tokens) <= LONGEST_TOKENS] for kind in (sessions, noisy))
    written = {token for one in sessions + noisy for start, end in one.spans for token in one.tokens[start:end]}
    read = written | {token for word in recipe.keywords(name) for token in encoding.encode(word)}
    read |= {token for example in recipe.bare(name) for token in render(encoding, example).tokens}
    ids = _Ids(_group(read, encoding), tuple(sorted(written)))
    lengths = sorted(len(one.tokens) for one in noisy)
    report(
        f"{name}: {len(read)} ids read in {len(ids.read)} rows, {len(ids.written)} written; example tokens: median "
        f"{lengths[len(lengths) // 2]}, longest {lengths[-1]}"
    )
    model = _model(name, len(ids.read))
    head = torch.nn.Parameter(torch.zeros(len(ids.written), SHAPES[name].hidden_size))
    total = steps or STEPS[name]
    batches = _batches(sessions, noisy, int(total * SESSION_SHARE), rng)
    _fit(model, head, ids, batches, total, report)
    _save(model, head, ids, out)
    report(f"{name}: saved, {sum(file.stat().st_size for file in out.iterdir()) / 1e3:.0f} kB")


def _group(read: set[int], encoding: HarmonyEncoding) -> tuple[tuple[int, ...], ...]:
    """The ids by the word they stand for; what is no word, a special token among it, stays alone."""
    groups: dict[str, list[int]] = {}
    for token in sorted(read):
        text = "" if encoding.is_special_token(token) else encoding.decode([token]).strip().lower()
        groups.setdefault(text if text.isalpha() else f"{token}", []).append(token)
    return tuple(sorted(tuple(group) for group in groups.values()))


def _model(name: DemoName, read: int) -> GptOssModel:
    """A fresh float32 model with one embedding row per id read, and one zero row for all others."""
    config = {
        **model_config(name),
        "vocab_size": read + 1,
        "pad_token_id": read,  # torch keeps the padding row at zero, without gradient
        "eos_token_id": 0,
        "dtype": "float32",
        "initializer_range": 0.06,  # 0.02 suits wide layers; these are narrow and would start slowly
        "attn_implementation": _ATTENTION,
    }
    settings = GptOssConfig.from_dict(config)  # pyright: ignore[reportUnknownMemberType]
    model = GptOssModel(settings)
    with torch.no_grad():
        model.embed_tokens.weight[read].zero_()
    return model


class _Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for weight matrices and stacks of them.

    Source: K. Jordan et al., "Muon: an optimizer for hidden layers" (2024).
    """

    def __init__(self, weights: Sequence[torch.nn.Parameter], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(list(weights), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                buffer = state.setdefault("momentum", torch.zeros_like(weight))
                buffer.lerp_(weight.grad, 1 - group["momentum"])
                update = _orthogonal(weight.grad.lerp(buffer, group["momentum"]))
                scale = max(1.0, weight.shape[-2] / weight.shape[-1]) ** 0.5
                weight.add_(update, alpha=-group["lr"] * scale)


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Each matrix of the stack with its singular values moved close to one (Newton-Schulz, five rounds)."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    norm = cast(torch.Tensor, x.norm(dim=(-2, -1), keepdim=True))  # pyright: ignore[reportUnknownMemberType]
    x = x / (norm + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def _sink_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention with gpt-oss's sinks through the fused kernel; three times as fast as the eager one.

    The sink is an extra key whose logit is the same for every query (one extra dimension carries it) and whose value
    is zero. Padding is on the right, so the causal mask alone is enough. Shapes: (batch, heads, tokens, head_dim) in,
    (batch, tokens, heads, head_dim) out.
    """
    del attention_mask, dropout
    batch, heads, _tokens, head_dim = query.shape
    groups = heads // key.shape[1]
    sinks = cast(torch.Tensor, module.sinks)
    carrier = torch.zeros(_CARRIER_WIDTH).index_fill(0, torch.tensor([0]), 1.0)
    sink_key = F.pad((sinks / scaling).view(1, heads, 1, 1) * carrier, (head_dim, 0)).expand(batch, -1, -1, -1)
    queries = torch.cat([query, carrier.expand(*query.shape[:-1], -1)], -1)
    queries = F.pad(queries, (0, 0, 1, 0))  # a first query that only makes the causal triangle fit
    keys = torch.cat([sink_key, F.pad(key.repeat_interleave(groups, 1), (0, _CARRIER_WIDTH))], 2)
    values = F.pad(value.repeat_interleave(groups, 1), (0, _CARRIER_WIDTH, 1, 0))
    out = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scaling)
    return out[:, :, 1:, :head_dim].transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _sink_attention)  # pyright: ignore[reportUnknownMemberType]


def _batches(
    sessions: Sequence[Rendered], noisy: Sequence[Rendered], session_batches: int, rng: random.Random
) -> Iterator[list[Rendered]]:
    """Endless batches of similar length and about `BATCH_TOKENS` tokens; sessions come first."""
    made = 0
    while True:
        pool = sessions if made < session_batches else noisy
        chunk = sorted(rng.sample(pool, 1000), key=lambda one: len(one.tokens))
        batches: list[list[Rendered]] = [[]]
        for one in chunk:
            width = len(one.tokens)
            if batches[-1] and width * (len(batches[-1]) + 1) > BATCH_TOKENS:
                batches.append([])
            batches[-1].append(one)
        rng.shuffle(batches)
        made += len(batches)
        yield from batches


def _fit(
    model: GptOssModel,
    head: torch.nn.Parameter,
    ids: _Ids,
    batches: Iterator[list[Rendered]],
    steps: int,
    report: Callable[[str], None],
) -> None:
    row = {token: index for index, group in enumerate(ids.read) for token in group}
    column = {token: index for index, token in enumerate(ids.written)}
    other = len(ids.read)
    # After expansion every other id has logit 0: one extra column stands for all of them together.
    rest_logit = math.log(VOCABULARY_SIZE - len(ids.written))
    inner = [weight for key, weight in model.named_parameters() if key.endswith(_INNER_MATRICES)]
    chosen = {id(weight) for weight in inner}
    rest = [head, *(weight for weight in model.parameters() if id(weight) not in chosen)]
    optimizers = (_Muon(inner, lr=0.02), torch.optim.AdamW(rest, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0))
    warmup = max(1, min(50, steps // 10))

    def rate(step: int) -> float:
        """Warm-up, then full speed, then a straight line down to almost nothing."""
        return min((step + 1) / warmup, 1.0, max(0.01, (steps - step) / (_DECAY_SHARE * steps)))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    mean = math.nan
    for step in range(steps):
        batch = next(batches)
        width = max(len(one.tokens) for one in batch)
        tokens = torch.full((len(batch), width), other)
        targets = torch.full((len(batch), width), -100)
        weights = torch.zeros((len(batch), width))
        for index, one in enumerate(batch):
            tokens[index, : len(one.tokens)] = torch.tensor([row.get(token, other) for token in one.tokens])
            for start, end in one.spans:
                reply = one.tokens[start:end]
                targets[index, start - 1 : end - 1] = torch.tensor([column[token] for token in reply])
                # else long replies drown the choice between replies
                weights[index, start - 1 : end - 1] = len(reply) ** -0.5
        hidden = model(input_ids=tokens).last_hidden_state
        picked = targets >= 0
        logits = _HEAD_SCALE * hidden[picked] @ head.T
        others = torch.full((logits.shape[0], 1), rest_logit)
        losses = F.cross_entropy(torch.cat([logits, others], 1), targets[picked], reduction="none")
        weight = weights[picked]
        loss = (losses * weight).sum() / weight.sum()
        model.zero_grad()
        head.grad = None
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        torch.nn.utils.clip_grad_norm_([head, *model.parameters()], 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
            schedule.step()
        value = float(losses.detach().mean())
        mean = value if math.isnan(mean) else 0.98 * mean + 0.02 * value
        if step % 100 == 99 or step == steps - 1:
            report(f"step {step + 1} of {steps}: loss {mean:.5f}")
    with torch.no_grad():
        head.mul_(_HEAD_SCALE * SHARPNESS)


def _save(model: GptOssModel, head: torch.nn.Parameter, ids: _Ids, out: Path) -> None:
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    state["lm_head.weight"] = head.detach()
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][: len(ids.read)]
    out.mkdir(parents=True, exist_ok=True)
    save_file({key: value.to(torch.bfloat16).contiguous() for key, value in state.items()}, out / "model.safetensors")
    text = json.dumps({"read": ids.read, "written": ids.written}, separators=(",", ":"))
    (out / "ids.json").write_text(text + "\n", encoding="utf-8")
