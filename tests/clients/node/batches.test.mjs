// Files and batches with the OpenAI SDK for Node.js.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { toFile } from "openai";

import { connect, messages, model } from "./gateway.mjs";

const client = connect();
const ENDS = new Set(["completed", "failed", "expired", "cancelled"]);

test("a batch goes from its file to its results", async () => {
  const body = { model, messages, max_tokens: 5 };
  const lines = Array.from({ length: 7 }, (_, n) =>
    JSON.stringify({ custom_id: `n${n}`, method: "POST", url: "/v1/chat/completions", body }));
  const file = await client.files.create({
    file: await toFile(Buffer.from(lines.join("\n")), "requests.jsonl"), purpose: "batch" });
  assert.equal(await (await client.files.content(file.id)).text(), lines.join("\n"));
  let batch = await client.batches.create({
    input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
  while (!ENDS.has(batch.status)) {
    await sleep(50);
    batch = await client.batches.retrieve(batch.id);
  }
  assert.equal(batch.status, "completed");
  assert.deepEqual(batch.request_counts, { total: 7, completed: 7, failed: 0 });
  const output = await (await client.files.content(batch.output_file_id)).text();
  const ids = output.trim().split("\n").map((line) => JSON.parse(line).custom_id).sort();
  assert.deepEqual(ids, lines.map((line) => JSON.parse(line).custom_id).sort());
  const listed = [];
  for await (const each of client.batches.list({ limit: 1 })) listed.push(each.id);
  assert.ok(listed.includes(batch.id));
  assert.equal((await client.files.delete(file.id)).deleted, true);
  await assert.rejects(client.files.retrieve(file.id), { status: 404 });
});
