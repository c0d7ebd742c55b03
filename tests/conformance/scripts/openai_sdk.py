"""A small agent on openai-python: chat and responses, streamed and whole."""

import json

import common
import openai

client = openai.OpenAI(base_url=f"{common.URL}/v1", api_key=common.KEY)
FUNCTION = {"name": common.NAME, "description": common.ABOUT, "parameters": common.PARAMETERS}


def chat(prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    for _ in range(common.ROUNDS):
        reply = client.chat.completions.create(
            model=common.MODEL, messages=messages, tools=[{"type": "function", "function": FUNCTION}]
        )
        choice = reply.choices[0]
        assert reply.usage is not None
        if not choice.message.tool_calls:
            return _ended(choice.message.content, choice.finish_reason == "length")
        messages.append(choice.message.model_dump(exclude_none=True))
        for call in choice.message.tool_calls:
            output = common.run_command(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
    raise RuntimeError("no end")


def chat_stream(prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    for _ in range(common.ROUNDS):
        text, calls, finish, usage = "", {}, None, None
        stream = client.chat.completions.create(
            model=common.MODEL, messages=messages, tools=[{"type": "function", "function": FUNCTION}], stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
                for piece in choice.delta.tool_calls or ():
                    call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                    call["id"] += piece.id or ""
                    call["name"] += piece.function.name or ""
                    call["arguments"] += piece.function.arguments or ""
        assert finish is not None, "the stream ended without an end"
        assert usage is not None
        if not calls:
            return _ended(text, finish == "length")
        functions = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in calls.values()
        ]
        messages.append({"role": "assistant", "content": text or None, "tool_calls": functions})
        for call in calls.values():
            output = common.run_command(**json.loads(call["arguments"]))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": output})
    raise RuntimeError("no end")


def responses(prompt: str) -> str:
    """Each turn names the one before: the conversation lies in the store."""
    turn, previous = [{"role": "user", "content": prompt}], None
    for _ in range(common.ROUNDS):
        reply = client.responses.create(
            model=common.MODEL, input=turn, previous_response_id=previous, tools=[{"type": "function", **FUNCTION}]
        )
        turn, previous = _outputs(reply), reply.id
        if not turn:
            return _ended(reply.output_text, reply.status == "incomplete")
    raise RuntimeError("no end")


def responses_stream(prompt: str) -> str:
    """Each turn brings the whole conversation; `stream` is the SDK's strict reader."""
    items = [{"role": "user", "content": prompt}]
    for _ in range(common.ROUNDS):
        with client.responses.stream(
            model=common.MODEL, input=items, store=False, tools=[{"type": "function", **FUNCTION}]
        ) as stream:
            for event in stream:
                if event.type == "response.failed":
                    raise RuntimeError(f"{event.response.error.code}: {event.response.error.message}")
                if event.type == "response.incomplete":
                    return _ended(event.response.output_text, True)
            reply = stream.get_final_response()
        outputs = _outputs(reply)
        if not outputs:
            return _ended(reply.output_text, False)
        items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments", "parsed"}) for item in reply.output]
        items += outputs
    raise RuntimeError("no end")


def _outputs(reply) -> list[dict[str, str]]:
    return [
        {
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": common.run_command(**json.loads(item.arguments)),
        }
        for item in reply.output
        if item.type == "function_call"
    ]


def _ended(text: str | None, cut: bool) -> str:
    return f"{text}\n[cut by the length limit]" if cut else str(text)


common.main({"chat": chat, "chat-stream": chat_stream, "responses": responses, "responses-stream": responses_stream})
