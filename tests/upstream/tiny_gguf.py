"""Writes a tiny model in llama's architecture with random weights: `python tiny_gguf.py PATH`.

Runs in llama.cpp's own environment, which has `gguf` and `numpy`. What the model says means nothing; that it is a real
model, read and run by llama.cpp itself, is what the tests need. The same file comes out every time.
"""

import sys

import gguf
import numpy as np

WIDTH, HEADS, HIDDEN, LAYERS, CONTEXT = 64, 4, 128, 2, 8192
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"


def vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """Three control tokens, every byte, and some whole words so that answers are text."""
    kinds = gguf.TokenType
    tokens = [b"<unk>", b"<s>", b"</s>"]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    tokens += [f"<0x{byte:02X}>".encode() for byte in range(256)]
    types += [kinds.BYTE] * 256
    words = ["\u2581" + word for word in ("one", "two", "three", "red", "green", "blue", "and", "or", "not", "yes")]
    letters = ["\u2581", *map(chr, range(33, 127))]
    tokens += [word.encode() for word in [*words, *letters]]
    types += [kinds.NORMAL] * (len(words) + len(letters))
    return tokens, [-float(at) for at in range(len(tokens))], [int(kind) for kind in types]


def write(path: str) -> None:
    """The whole file."""
    tokens, scores, types = vocabulary()
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)

    def matrix(name: str, *shape: int, silent: int = 0) -> None:
        values = (random.standard_normal(shape) * 0.3).astype(np.float32)
        values[:silent] = 0
        writer.add_tensor(name, values)

    matrix("token_embd.weight", len(tokens), WIDTH)
    # Never a control token, so answers end at their limit; never a lone byte, which llama-cpp-python would keep back
    # until it has a whole character, unable to notice that the client hung up.
    matrix("output.weight", len(tokens), WIDTH, silent=3 + 256)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, dtype=np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{layer}.{name}.weight", WIDTH, WIDTH)
        matrix(f"blk.{layer}.ffn_gate.weight", HIDDEN, WIDTH)
        matrix(f"blk.{layer}.ffn_up.weight", HIDDEN, WIDTH)
        matrix(f"blk.{layer}.ffn_down.weight", WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
