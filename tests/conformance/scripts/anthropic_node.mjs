// A small agent on @anthropic-ai/sdk, streamed.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import * as common from "./common.mjs";

const require = createRequire(pathToFileURL(`${process.env.GATEHOUSE_NODE_MODULES}/`));
const Anthropic = require("@anthropic-ai/sdk").default;
const client = new Anthropic({ baseURL: common.URL, apiKey: null, authToken: common.KEY });

async function messages(prompt) {
  const said = [{ role: "user", content: prompt }];
  for (let round = 0; round < common.ROUNDS; round++) {
    const reply = await client.messages
      .stream({
        model: common.MODEL,
        max_tokens: 1000,
        messages: said,
        tools: [{ name: common.NAME, description: common.ABOUT, input_schema: common.PARAMETERS }],
      })
      .finalMessage();
    const uses = reply.content.filter((block) => block.type === "tool_use");
    if (!uses.length) {
      const text = reply.content.filter((block) => block.type === "text").map((block) => block.text);
      return text.join("") + (reply.stop_reason === "max_tokens" ? common.CUT : "");
    }
    said.push({ role: "assistant", content: reply.content });
    const results = uses.map((use) => ({ type: "tool_result", tool_use_id: use.id, content: common.runCommand(use.input) }));
    said.push({ role: "user", content: results });
  }
  throw new Error("no end");
}

await common.main({ messages });
