"""The tokenizer files of gpt-oss (o200k_harmony), built from the o200k vocabulary without any download.

vLLM renders gpt-oss prompts with openai_harmony; these files serve everything else that wants a tokenizer.
"""

import base64
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from serve_app.tokens import O200K_PATTERN

_FIRST_SPECIAL_ID, _LAST_SPECIAL_ID = 199_998, 200_018
_SPECIAL_NAMES = {
    199_998: "<|startoftext|>",
    199_999: "<|endoftext|>",
    200_002: "<|return|>",
    200_003: "<|constrain|>",
    200_005: "<|channel|>",
    200_006: "<|start|>",
    200_007: "<|end|>",
    200_008: "<|message|>",
    200_012: "<|call|>",
    200_018: "<|endofprompt|>",
}
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def write_tokenizer(vocabulary_file: Path, folder: Path) -> None:
    """Writes `tokenizer.json` (28 MB) for the tiktoken file into `folder`; about ten seconds."""
    tokenizer = _build(vocabulary_file)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def write_tokenizer_config(folder: Path) -> None:
    """Writes the small `tokenizer_config.json` that belongs to `tokenizer.json`."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131_072,
        "chat_template": _CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _build(vocabulary_file: Path) -> Tokenizer:
    ranks: dict[bytes, int] = {}
    for line in vocabulary_file.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    letters = _byte_letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges: list[tuple[str, str]] = []
    for token in ranks:  # the file is in order of rank, and so are the merges
        pairs = [
            (ranks[token[:cut]], ranks[token[cut:]], cut)
            for cut in range(1, len(token))
            if token[:cut] in ranks and token[cut:] in ranks
        ]
        merges += [(spelled[token[:cut]], spelled[token[cut:]]) for _, _, cut in sorted(pairs)]
    model = models.BPE(vocab={spelled[token]: rank for token, rank in ranks.items()}, merges=merges, ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(O200K_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = [_SPECIAL_NAMES.get(i, f"<|reserved_{i}|>") for i in range(_FIRST_SPECIAL_ID, _LAST_SPECIAL_ID + 1)]
    special = [AddedToken(name, normalized=False, special=True) for name in names]
    tokenizer.add_special_tokens(special)  # pyright: ignore[reportUnknownMemberType]
    if tokenizer.token_to_id("<|call|>") != 200_012:
        raise ValueError(f"{vocabulary_file.name} is not the o200k vocabulary: the special ids do not fit behind it")
    return tokenizer


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for each byte value (openai/gpt-2, encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    letters.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return letters
