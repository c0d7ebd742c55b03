// A small agent on openai for Node: chat and responses, streamed.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import * as common from "./common.mjs";

// The packages lie in the clients' folder, this file in the repository.
const require = createRequire(pathToFileURL(`${process.env.GATEHOUSE_NODE_MODULES}/`));
const OpenAI = require("openai").default;
const client = new OpenAI({ baseURL: `${common.URL}/v1`, apiKey: common.KEY });
const declared = { name: common.NAME, description: common.ABOUT, parameters: common.PARAMETERS };

async function chat(prompt) {
  const messages = [{ role: "user", content: prompt }];
  for (let round = 0; round < common.ROUNDS; round++) {
    const stream = client.chat.completions.stream({
      model: common.MODEL,
      messages,
      tools: [{ type: "function", function: declared }],
    });
    const { choices } = await stream.finalChatCompletion();
    const { message, finish_reason: finish } = choices[0];
    if (!message.tool_calls?.length) return message.content + (finish === "length" ? common.CUT : "");
    messages.push(message);
    for (const call of message.tool_calls) {
      const content = common.runCommand(JSON.parse(call.function.arguments));
      messages.push({ role: "tool", tool_call_id: call.id, content });
    }
  }
  throw new Error("no end");
}

async function responses(prompt) {
  let input = [{ role: "user", content: prompt }];
  for (let round = 0; round < common.ROUNDS; round++) {
    const stream = await client.responses.create({
      model: common.MODEL,
      input,
      store: false,
      stream: true,
      tools: [{ type: "function", ...declared }],
    });
    let reply;
    for await (const event of stream) {
      if (event.type === "response.failed") throw new Error(`${event.response.error.code}: ${event.response.error.message}`);
      if (event.type === "response.completed" || event.type === "response.incomplete") reply = event.response;
    }
    if (!reply) throw new Error("the stream ended without an end");
    const calls = reply.output.filter((item) => item.type === "function_call");
    if (!calls.length) {
      const texts = reply.output.filter((item) => item.type === "message").flatMap((item) => item.content);
      return texts.map((part) => part.text).join("") + (reply.status === "incomplete" ? common.CUT : "");
    }
    input = [...input, ...reply.output];
    for (const call of calls) {
      const output = common.runCommand(JSON.parse(call.arguments));
      input.push({ type: "function_call_output", call_id: call.call_id, output });
    }
  }
  throw new Error("no end");
}

await common.main({ chat, responses });
