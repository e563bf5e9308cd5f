// What the OpenAI SDK for Node.js throws when something goes wrong, and what stops when its caller stops.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { answered, bodyLimit, connect, deadModel, endless, fault } from "./gateway.mjs";
import { messages, model, running, simulated, slotIsFree, until } from "./gateway.mjs";

const client = connect();
const ordered = { skip: !simulated && "only the simulated vLLM does this" };
const chat = (more = {}, options = {}) =>
  client.chat.completions.create({ model, messages, max_tokens: 10, ...more }, options);

async function thrown(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return assert.fail("nothing was thrown");
}

async function read(stream) {
  const events = [];
  for await (const event of await stream) events.push(event);
  return events;
}

test("a wrong key is an AuthenticationError", async () => {
  const error = await thrown(connect({ apiKey: "wrong" }).models.list());
  assert.ok(error instanceof OpenAI.AuthenticationError);
  assert.deepEqual([error.status, error.code, error.type], [401, "invalid_api_key", "authentication_error"]);
});

test("a model that does not exist is a NotFoundError, gomodel's or vLLM's", async () => {
  const unknown = await thrown(chat({ model: "nobody" }));
  assert.ok(unknown instanceof OpenAI.NotFoundError);
  assert.deepEqual([unknown.code, unknown.param], ["model_not_found", "model"]);
  const elsewhere = await thrown(chat({ model: "vllm/nobody" }));
  assert.ok(elsewhere instanceof OpenAI.NotFoundError);
  assert.match(elsewhere.message, /`nobody` does not exist/);
});

test("what cannot be served is a BadRequestError", async () => {
  for (const more of [{ temperature: -1 }, { messages: [] }, { model: "" }, { model: 7 }]) {
    assert.ok((await thrown(chat(more))) instanceof OpenAI.BadRequestError);
  }
});

test("a body over the limit is refused as such", { skip: !bodyLimit && "needs to know the limit" }, async () => {
  // What the SDK has not sent when the answer comes must not cost it the answer; that is a race, hence the repetition.
  for (const times of [2, 8, 8, 8, 8, 20, 20, 60]) {
    const error = await thrown(chat({ messages: [{ role: "user", content: "x".repeat(times * bodyLimit) }] }));
    assert.deepEqual([error.status, error.code], [413, "body_too_large"], `${times} times the limit: ${error}`);
  }
});

test("an instance that is not there is a 502", { skip: !deadModel && "needs a dead instance" }, async () => {
  const error = await thrown(chat({ model: deadModel, stream: true }));
  assert.ok(error instanceof OpenAI.InternalServerError);
  assert.deepEqual([error.status, error.code], [502, "connection_refused"]);
});

test("an error of vLLM passes as it is", ordered, async () => {
  const error = await thrown(chat({}, fault("503")));
  assert.ok(error instanceof OpenAI.InternalServerError);
  assert.equal(error.status, 503);
  assert.match(error.message, /currently busy/);
});

test("a stream that vLLM cuts throws instead of ending", ordered, async () => {
  const cut = fault("cut");
  const streams = [
    () => chat({ stream: true, max_tokens: 50 }, cut),
    () => client.completions.create({ model, prompt: "Hello", max_tokens: 50, stream: true }, cut),
    () => client.responses.create({ model, input: "Hello", stream: true }, cut),
  ];
  for (const open of streams) {
    const error = await thrown(read(open()));
    assert.ok(error instanceof OpenAI.APIError, `${open}: ${error}`);
    assert.equal(error.code, "stream_interrupted");
  }
  await slotIsFree();
});

test("an error event of vLLM throws with vLLM's words", ordered, async () => {
  const error = await thrown(read(chat({ stream: true }, fault("error-event"))));
  assert.ok(error instanceof OpenAI.APIError);
  assert.match(error.message, /had an error while processing/);
});

test("half a JSON answer throws", ordered, async () => {
  assert.ok((await thrown(chat({}, fault("cut")))) instanceof Error);
});

test("aborting with an AbortController frees the slot", async () => {
  const controller = new AbortController();
  const [more, options] = endless;
  const stream = await chat({ ...more, stream: true }, { ...options, signal: controller.signal });
  for await (const chunk of stream) {
    assert.ok(chunk.id);
    if (!controller.signal.aborted) assert.equal(await running(), 1);
    controller.abort();
  }
  await slotIsFree();
});

test("aborting a request that is not streamed frees the slot", async () => {
  const controller = new AbortController();
  const [more, options] = endless;
  const request = thrown(chat(more, { ...options, signal: controller.signal }));
  await until("it runs", async () => (await running()) === 1);
  controller.abort();
  assert.ok((await request) instanceof OpenAI.APIUserAbortError);
  await slotIsFree();
});

test("breaking out of a stream frees the slot", async () => {
  const [more, options] = endless;
  for await (const chunk of await chat({ ...more, stream: true }, options)) {
    assert.ok(chunk.id);
    assert.equal(await running(), 1);
    break;
  }
  await slotIsFree();
});

test("a client that waits no longer frees the slot", async () => {
  const [more, { headers }] = endless;
  const error = await thrown(chat(more, { headers, timeout: 500 }));
  assert.ok(error instanceof OpenAI.APIConnectionTimeoutError);
  await slotIsFree();
});

test("the SDK repeats what is worth repeating", ordered, async () => {
  const before = await answered(503);
  await thrown(connect({ maxRetries: undefined }).chat.completions.create({ model, messages }, fault("503")));
  await until("three requests are counted", async () => (await answered(503)) >= before + 3);
  assert.equal(await answered(503), before + 3);
});
