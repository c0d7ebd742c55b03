"""openai-agents, on responses (its default) and on chat."""

import asyncio

import agents
import common
import openai

client = openai.AsyncOpenAI(base_url=f"{common.URL}/v1", api_key=common.KEY)
agents.set_default_openai_client(client, use_for_tracing=False)
agents.set_tracing_disabled(True)
command_tool = agents.function_tool(common.run_command)


def _agent(model) -> agents.Agent:
    return agents.Agent(name="worker", instructions="Do what is asked.", model=model, tools=[command_tool])


def whole(prompt: str) -> str:
    result = asyncio.run(agents.Runner.run(_agent(common.MODEL), prompt, max_turns=common.ROUNDS))
    return str(result.final_output)


def streamed(prompt: str) -> str:
    async def work() -> str:
        result = agents.Runner.run_streamed(_agent(common.MODEL), prompt, max_turns=common.ROUNDS)
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    return asyncio.run(work())


def chat(prompt: str) -> str:
    model = agents.OpenAIChatCompletionsModel(common.MODEL, client)
    return str(asyncio.run(agents.Runner.run(_agent(model), prompt, max_turns=common.ROUNDS)).final_output)


common.main({"responses": whole, "responses-stream": streamed, "chat": chat})
