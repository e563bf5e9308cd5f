// The OpenAI SDK for Node.js.
//
//     const client = new OpenAI({ baseURL: "http://localhost:8080/v1", apiKey: process.env.GOMODEL_MASTER_KEY });
//     const stream = await client.chat.completions.create({ model: "vllm/<model id>", messages, stream: true });
//     for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? "");

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect, messages, model, modelId, simulated } from "./gateway.mjs";

const client = connect();
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", enum: ["Rome", "Oslo"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};
const askWeather = { type: "function", function: { name: "get_weather" } };

test("a chat is answered by the instance that the model names", async () => {
  const asked = { model, messages, max_tokens: 16 };
  const { data, response } = await client.chat.completions.create(asked).withResponse();
  assert.equal(response.headers.get("x-gomodel-provider"), "vllm");
  assert.equal(data.model, modelId);
  assert.ok(data.choices[0].message.content);
  assert.equal(data.usage.completion_tokens, 16);
});

test("a stream says what the whole answer says", async () => {
  const asked = { model, messages, max_tokens: 40, temperature: 0 };
  const whole = await client.chat.completions.create(asked);
  let text = "";
  let usage;
  const stream_options = { include_usage: true };
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true, stream_options })) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.total_tokens, whole.usage.total_tokens);
});

test("a tool is called and its result answered", async () => {
  const asked = { model, tools: [weather], max_tokens: 200 };
  const called = await client.chat.completions.create({ ...asked, messages, tool_choice: askWeather });
  const { message } = called.choices[0];
  const call = message.tool_calls[0];
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);
  const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
  const history = [...messages, message, result];
  const answer = await client.chat.completions.create({ ...asked, messages: history, tool_choice: "none" });
  assert.ok(answer.choices[0].message.content);
});

test("the pieces of a streamed tool call add up", async () => {
  const asked = { model, messages, tools: [weather], tool_choice: askWeather, max_tokens: 200 };
  const runner = client.chat.completions.stream(asked);
  const final = await runner.finalChatCompletion();
  const { name, arguments: given } = final.choices[0].message.tool_calls[0].function;
  assert.equal(name, "get_weather");
  assert.ok(["Rome", "Oslo"].includes(JSON.parse(given).city));
});

test("a JSON schema decides the answer", async () => {
  const properties = { good: { type: "boolean" } };
  const schema = { type: "object", properties, required: ["good"], additionalProperties: false };
  const json_schema = { name: "verdict", strict: true, schema };
  const asked = { model, messages, max_tokens: 200, temperature: 0 };
  const answer = await client.chat.completions.parse({ ...asked, response_format: { type: "json_schema", json_schema } });
  assert.equal(typeof answer.choices[0].message.parsed.good, "boolean");
});

test("completions stream", async () => {
  const asked = { model, prompt: "Once upon a time", max_tokens: 10, temperature: 0 };
  const whole = (await client.completions.create(asked)).choices[0].text;
  let text = "";
  for await (const chunk of await client.completions.create({ ...asked, stream: true })) text += chunk.choices[0].text;
  assert.equal(text, whole);
});

test("embeddings are the same as numbers and as base64", { skip: !simulated && "needs a pooling model" }, async () => {
  const numbers = await client.embeddings.create({ model, input: "a", encoding_format: "float" });
  const decoded = await client.embeddings.create({ model, input: "a" }); // base64 on the wire
  assert.deepEqual(decoded.data[0].embedding, numbers.data[0].embedding);
});

test("a response is typed events, kept and continued", async () => {
  const asked = { model, input: "Hello", max_output_tokens: 30 };
  const kinds = [];
  let id;
  for await (const event of await client.responses.create({ ...asked, stream: true })) {
    kinds.push(event.type);
    id ??= event.response?.id;
  }
  assert.equal(kinds[0], "response.created");
  assert.ok(["response.completed", "response.incomplete"].includes(kinds.at(-1)));
  assert.ok((await client.responses.retrieve(id)).output_text);
  const second = await client.responses.create({ ...asked, previous_response_id: id });
  assert.equal(second.previous_response_id, id);
});

test("models are listed and found", async () => {
  const ids = [];
  for await (const each of client.models.list()) ids.push(each.id);
  assert.equal(ids[0], model);
  assert.equal((await client.models.retrieve(model)).id, model);
});

test("a recording is uploaded and transcribed", { skip: !simulated && "needs a speech model" }, async () => {
  const file = new File([new Uint8Array(300_000)], "speech.wav", { type: "audio/wav" });
  assert.match((await client.audio.transcriptions.create({ model, file })).text, /300000 bytes/);
});

test("thirty streams run side by side", async () => {
  const asked = { model, messages, max_tokens: 12, stream: true, stream_options: { include_usage: true } };
  const listen = async () => {
    let last;
    for await (const chunk of await client.chat.completions.create({ ...asked, ignore_eos: true })) last = chunk;
    return last.usage.completion_tokens;
  };
  assert.deepEqual(await Promise.all(Array.from({ length: 30 }, listen)), Array(30).fill(12));
});
