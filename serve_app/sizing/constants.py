"""Every number that the sizing rests on, each with where it comes from.

`SOURCES` explains the marks, `ADDRESSES` says where to read it. Nothing here was measured by us on a GPU. What is an
estimate says so and is given as a range.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

GIB = 2**30
"""Bytes [unit]."""

BLOCK_TOKENS = 16
"""Tokens of a block of the KV cache, vLLM's default [source]."""

BF16_BYTES = 2
"""Of one weight, activation, key or value that is not quantised [unit]."""

LOGIT_BYTES = 4
"""Of a logit: they are made 32 bits wide before tokens are drawn [source]."""

MXFP4_BYTES = 4.25 / 8
"""Of one weight: 4 bits and a share of the 8-bit scale of its block of 32 [mx]."""

MEMORY_SHARE = 0.9
"""`gpu_memory_utilization` of our profiles [models]."""

HOURS_PER_MONTH = 730.0
"""8,760 hours of a year, in twelve parts [unit]."""

SOURCES: Mapping[str, str] = {
    "config": "config.json of openai/gpt-oss-20b and openai/gpt-oss-120b; GptOssConfig of transformers has the same.",
    "card": "gpt-oss model card, arXiv 2508.10925, table of parameters and checkpoint sizes.",
    "mx": "OCP Microscaling Formats specification 1.0: MXFP4, blocks of 32 with one E8M0 scale.",
    "datasheet": "NVIDIA data sheets of H200, H100 SXM, A100 80GB SXM, L40S and L4; dense bf16, without sparsity.",
    "smi": "Total memory as nvidia-smi reports it, in MiB, with ECC.",
    "lab": "GPUStack performance lab, gpt-oss-20b and -120b on H100 and A100, vLLM 0.10.2 and 0.11.0.",
    "source": "Read in the code of vLLM 0.29.0.",
    "bench": "Measured by us on two cores without a GPU: docs/benchmarks.md, the serving path alone.",
    "models": "docs/models.md, which gives each setting of our profiles with its reason.",
    "choice": "Ours: not a fact but a rule, and the reason stands beside it.",
    "unit": "What the word means.",
    "estimate": "Ours; no measurement behind it. Given as a range, or on the cautious side.",
}

ADDRESSES: Mapping[str, tuple[str, ...]] = {
    "config": (
        "https://huggingface.co/openai/gpt-oss-20b/blob/main/config.json",
        "https://huggingface.co/openai/gpt-oss-120b/blob/main/config.json",
    ),
    "card": ("https://arxiv.org/abs/2508.10925",),
    "mx": ("https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf",),
    "datasheet": (
        "https://www.nvidia.com/en-us/data-center/h200/",
        "https://www.nvidia.com/en-us/data-center/h100/",
        "https://www.nvidia.com/en-us/data-center/a100/",
        "https://www.nvidia.com/en-us/data-center/l40s/",
        "https://www.nvidia.com/en-us/data-center/l4/",
    ),
    "lab": (
        "https://docs.gpustack.ai/latest/performance-lab/gpt-oss-20b/h100/",
        "https://docs.gpustack.ai/latest/performance-lab/gpt-oss-20b/a100/",
        "https://docs.gpustack.ai/latest/performance-lab/gpt-oss-120b/h100/",
        "https://docs.gpustack.ai/latest/performance-lab/gpt-oss-120b/a100/",
    ),
    "source": ("https://github.com/vllm-project/vllm/tree/v0.29.0",),
    "bench": ("docs/benchmarks.md",),
    "models": ("docs/models.md",),
}
"""By mark: pages of others, and files of this repository. Marks that are missing here have nothing to be read:
`nvidia-smi --query-gpu=memory.total --format=csv` says what [smi] means on a machine with the card."""


@dataclass(frozen=True, slots=True)
class Model:
    """A mixture-of-experts decoder in the layout of gpt-oss: MXFP4 experts, bf16 for the rest.

    Layers alternate between full attention and a window of `window` tokens. Sizes are in elements.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    experts: int
    experts_per_token: int
    heads: int
    kv_heads: int
    head_size: int
    window: int
    vocabulary: int
    positions: int

    @property
    def full_layers(self) -> int:
        """Layers that see the whole context."""
        return self.layers // 2

    @property
    def window_layers(self) -> int:
        """Layers that see the last `window` tokens."""
        return self.layers - self.full_layers


_GPT_OSS_20B = Model(  # [config]
    name="gpt-oss-20b",
    layers=24,
    hidden=2880,
    intermediate=2880,
    experts=32,
    experts_per_token=4,
    heads=64,
    kv_heads=8,
    head_size=64,
    window=128,
    vocabulary=201_088,
    positions=131_072,
)
MODELS: Mapping[str, Model] = {  # [config]
    "gpt-oss-20b": _GPT_OSS_20B,
    "gpt-oss-120b": replace(_GPT_OSS_20B, name="gpt-oss-120b", layers=36, experts=128),
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card: memory in MiB, memory bandwidth and link (one way, to the other cards of a node) in bytes/s, FLOP/s."""

    name: str
    memory_mib: int
    bandwidth: float
    flops: float
    link: float


# Memory [smi]; bandwidth, dense bf16 and link [datasheet]. Data sheets give links in both directions: here is half.
GPUS: Mapping[str, Gpu] = {
    "h200": Gpu("h200", 143_771, 4.8e12, 989e12, 450e9),
    "h100": Gpu("h100", 81_559, 3.35e12, 989e12, 450e9),
    "a100": Gpu("a100", 81_920, 2.039e12, 312e12, 300e9),
    "l40s": Gpu("l40s", 46_068, 864e9, 362e12, 32e9),
    "l4": Gpu("l4", 23_034, 300e9, 121e12, 32e9),
}

Case = Literal["low", "mid", "high"]


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What of the data sheet is reached: `compute` and `bandwidth` and `link` as shares in (0, 1].

    `step_s` is what a step costs beside the GPU's work, `sequence_s` the same for each sequence in it (scheduling,
    sampling, detokenisation), `hop_s` the latency of one all-reduce. Seconds.
    """

    compute: float
    bandwidth: float
    link: float
    step_s: float
    sequence_s: float
    hop_s: float


# `compute`: the throughputs of [lab] correspond to 0.14..0.38 of dense bf16, see `LAB`. The rest is [estimate].
EFFICIENCIES: Mapping[Case, Efficiency] = {
    "low": Efficiency(compute=0.14, bandwidth=0.40, link=0.3, step_s=6e-3, sequence_s=20e-6, hop_s=30e-6),
    "mid": Efficiency(compute=0.24, bandwidth=0.60, link=0.5, step_s=3e-3, sequence_s=10e-6, hop_s=15e-6),
    "high": Efficiency(compute=0.42, bandwidth=0.80, link=0.7, step_s=1.5e-3, sequence_s=5e-6, hop_s=8e-6),
}
CASES: tuple[Case, ...] = ("low", "mid", "high")
"""In the order of `EFFICIENCIES` [choice]."""


@dataclass(frozen=True, slots=True)
class LabResult:
    """A published throughput, prompts and answers together, in tokens/s; every prompt is another one."""

    model: str
    gpu: str
    tensor_parallel: int
    prompt_tokens: int
    output_tokens: int
    step_tokens: int
    tokens_per_s: float


# [lab], vLLM. 120b on A100 was run with steps of 4096; the others with the default for the card.
LAB: tuple[LabResult, ...] = (
    LabResult("gpt-oss-20b", "h100", 1, 2000, 100, 8192, 33_150),
    LabResult("gpt-oss-20b", "h100", 1, 4000, 200, 8192, 33_823),
    LabResult("gpt-oss-20b", "h100", 1, 32_000, 100, 8192, 29_718),
    LabResult("gpt-oss-20b", "a100", 1, 2000, 100, 2048, 18_920),
    LabResult("gpt-oss-20b", "a100", 1, 4000, 200, 2048, 16_551),
    LabResult("gpt-oss-20b", "a100", 1, 32_000, 100, 2048, 7_363),
    LabResult("gpt-oss-120b", "h100", 2, 2000, 100, 8192, 34_083),
    LabResult("gpt-oss-120b", "h100", 2, 4000, 200, 8192, 34_491),
    LabResult("gpt-oss-120b", "h100", 2, 32_000, 100, 8192, 32_471),
    LabResult("gpt-oss-120b", "a100", 1, 2000, 100, 4096, 9_250),
    LabResult("gpt-oss-120b", "a100", 1, 4000, 200, 4096, 8_468),
    LabResult("gpt-oss-120b", "a100", 1, 32_000, 100, 4096, 4_606),
)

# GiB for activations, CUDA graphs and the runtime, by `max_num_batched_tokens` [estimate]; the same as in [models].
RESERVE_GIB: tuple[tuple[int, float], ...] = ((2048, 2.0), (4096, 2.5), (8192, 4.0))

PATH_S = 0.02
"""What Gatehouse itself adds to the first token, for a plan (8 to 19 ms at one stream on two cores) [bench]."""

PATH_CALLS_S, PATH_REQUEST_S = 0.0074, 0.0038
"""The same for the simulator, a request alone and one among many: 11.2 ms are added at one stream and 129 ms at 32 that
ask at once, on a token clock; at 8 the line says 38 ms, and 31 were seen [bench]."""

PATH_TOKEN_S = 0.37e-3
"""Of an ingress' core, for each token: 370 us of all processes of the server together at 32 streams [bench]."""

TENSOR_PARALLEL = (1, 2, 4, 8)
"""Tried sizes of a replica; they divide the heads and the key-value heads of both models [config]."""

STEP_TOKENS: Mapping[str, int] = {"l4": 2048, "l40s": 4096, "a100": 4096, "h100": 8192, "h200": 8192}
"""`max_num_batched_tokens` by card [models]."""

SEATS: Mapping[str, int] = {"l4": 16, "l40s": 64, "a100": 128, "h100": 128, "h200": 128}
"""`max_num_seqs` by card [models]."""

LEAST_FULL_CONTEXTS = 2
"""A replica is considered when so many requests of the asked context fit: one does not block the next [choice]."""

TIGHT_CACHE_SHARE = 0.15
"""Below this share of the card for the cache the plan warns: gpt-oss-120b on one H100 (0.09) has run out of memory
at vLLM's own settings, as [models] quotes [choice]."""
