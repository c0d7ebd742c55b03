"""A small agent on langchain-openai."""

import common
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

command_tool = tool(common.run_command)


def chat(prompt: str) -> str:
    model = ChatOpenAI(model=common.MODEL, base_url=f"{common.URL}/v1", api_key=common.KEY, stream_usage=True)
    bound = model.bind_tools([command_tool])
    messages = [HumanMessage(prompt)]
    for _ in range(common.ROUNDS):
        reply = bound.invoke(messages)
        if not reply.tool_calls:
            cut = reply.response_metadata.get("finish_reason") == "length"
            return f"{reply.text}\n[cut by the length limit]" if cut else str(reply.text)
        messages.append(reply)
        messages += [
            ToolMessage(command_tool.invoke(call["args"]), tool_call_id=call["id"]) for call in reply.tool_calls
        ]
    raise RuntimeError("no end")


common.main({"chat": chat})
