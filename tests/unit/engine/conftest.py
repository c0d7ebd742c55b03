"""The harmony vocabulary, for the tests that compare with openai_harmony itself."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

_CACHE = Path(".gatehouse") / "vocabulary"
_FILE = "o200k_base.tiktoken"


@pytest.fixture(scope="session")
def harmony() -> Any:
    """The real encoding; skips, saying why, where it cannot be had."""
    if importlib.util.find_spec("openai_harmony") is None:
        pytest.skip("openai_harmony is not installed (extra `cpu` or `gpu`)")
    folder = os.environ.get("TIKTOKEN_ENCODINGS_BASE") or str(_CACHE)
    if not (Path(folder) / _FILE).is_file():
        pytest.skip(f"no {_FILE}: set TIKTOKEN_ENCODINGS_BASE, or start Gatehouse once so that {_CACHE} holds it")
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = folder
    import openai_harmony

    return openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
