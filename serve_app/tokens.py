"""The o200k tokenizer that all gpt-oss models share, from the checked vocabulary file on this machine."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tiktoken

from deployments.ports import ModelId
from serve_app.demo.vocabulary import VOCABULARY_FILE, VOCABULARY_SHA256

# Split pattern of o200k_base (tiktoken_ext/openai_public.py, MIT). tiktoken would download the ranks that belong to
# it; ours come from the file.
O200K_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def read_ranks(content: bytes) -> dict[bytes, int]:
    """Token bytes -> rank of a `.tiktoken` file; raises `ValueError` unless it is the o200k vocabulary."""
    if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256:
        raise ValueError(f"{VOCABULARY_FILE} has the wrong checksum")
    return {
        base64.b64decode(token): int(rank) for token, rank in (line.split() for line in content.splitlines() if line)
    }


def token_counters(models: Sequence[str], vocabulary_dir: str) -> Mapping[ModelId, Callable[[str], int]]:
    """One counter per gpt-oss model, for the window check of the ingress.

    Empty when the vocabulary is not on this machine: the engine then has the only word on the window.
    """
    file = Path(vocabulary_dir) / VOCABULARY_FILE
    if not file.is_file():
        return {}
    encoding = tiktoken.Encoding(
        "o200k_base", pat_str=O200K_PATTERN, mergeable_ranks=read_ranks(file.read_bytes()), special_tokens={}
    )

    def count(text: str) -> int:
        return len(encoding.encode_ordinary(text))

    return {ModelId(model): count for model in models}
