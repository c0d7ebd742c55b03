"""A small agent on anthropic-python, streamed and whole."""

import anthropic
import common

client = anthropic.Anthropic(base_url=common.URL, api_key=common.KEY)
TOOL = {"name": common.NAME, "description": common.ABOUT, "input_schema": common.PARAMETERS}


def _run(prompt: str, stream: bool) -> str:
    messages = [{"role": "user", "content": prompt}]
    for _ in range(common.ROUNDS):
        asked = {"model": common.MODEL, "max_tokens": 1000, "messages": messages, "tools": [TOOL]}
        if stream:
            with client.messages.stream(**asked) as events:
                reply = events.get_final_message()
        else:
            reply = client.messages.create(**asked)
        assert reply.stop_reason is not None, "the stream ended without an end"
        uses = [block for block in reply.content if block.type == "tool_use"]
        if not uses:
            text = "".join(block.text for block in reply.content if block.type == "text")
            return f"{text}\n[cut by the length limit]" if reply.stop_reason == "max_tokens" else text
        messages.append(
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in reply.content]}
        )
        results = [
            {"type": "tool_result", "tool_use_id": use.id, "content": common.run_command(**use.input)} for use in uses
        ]
        messages.append({"role": "user", "content": results})
    raise RuntimeError("no end")


common.main({"whole": lambda prompt: _run(prompt, False), "stream": lambda prompt: _run(prompt, True)})
