// The gateway that the suite talks to. Without variables it is the one that `python -m gomodel --demo` serves.

import OpenAI from "openai";

const { GOMODEL_URL = "http://localhost:8080", GOMODEL_KEY = "demo", GOMODEL_MODEL = "vllm/demo/llama-sim" } = process.env;

export const model = GOMODEL_MODEL;
export const modelId = model.slice(model.indexOf("/") + 1);
// The selector of an instance that is not there, if the gateway has one.
export const deadModel = process.env.GOMODEL_DEAD_MODEL;
// The gateway's BODY_SIZE_LIMIT in bytes, if it is small enough to be exceeded.
export const bodyLimit = Number(process.env.GOMODEL_BODY_LIMIT_BYTES);
// Whether faults can be ordered.
export const simulated = modelId.startsWith("demo/");

export const messages = [{ role: "user", content: "Tell me about streams." }];
// An answer that outlasts the test; a real vLLM does not know the header.
export const endless = [{ max_tokens: 7500, ignore_eos: true }, { headers: { "x-demo-tokens-per-s": "20" } }];
export const fault = (name) => ({ headers: { "x-demo-fault": name } });

export function connect(options = {}) {
  return new OpenAI({ baseURL: `${GOMODEL_URL}/v1`, apiKey: GOMODEL_KEY, maxRetries: 0, timeout: 30_000, ...options });
}

async function metric(path, pattern) {
  const response = await fetch(GOMODEL_URL + path, { headers: { Authorization: `Bearer ${GOMODEL_KEY}` } });
  const lines = (await response.text()).split("\n").filter((line) => pattern.test(line));
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

// How many requests vLLM is working on, by its own count.
export const running = () => metric("/p/vllm/metrics", /^vllm:num_requests_running\{/);

// How many requests gomodel has answered with a status.
export const answered = (status) => metric("/metrics", new RegExp(`^gomodel_requests_total\\{.*code="${status}"`));

const patience = 15_000;

// Asks until `found` says so; a machine may be busy, but what takes longer than this does not happen.
export async function until(what, found) {
  for (const end = Date.now() + patience; !(await found()); ) {
    if (Date.now() > end) throw new Error(`not within ${patience} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export const slotIsFree = () => until("vllm:num_requests_running is 0", async () => (await running()) === 0);
