/* What the gateway says. */

class Refused extends Error {}

async function ask(path, method = "GET") {
  const headers = key ? { Authorization: "Bearer " + key } : {};
  const answer = await fetch(path, {
    method, headers, cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer",
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (answer.status === 401) throw new Refused();
  return answer;
}

async function read(path) {
  const answer = await ask(path);
  if (!answer.ok) throw new Error("status " + answer.status);
  return answer.json();
}

async function askReady() {
  const answer = await ask("health/ready");
  const report = await answer.json().catch(() => null);
  if (report === null || typeof report.instances !== "object") throw new Error("status " + answer.status);
  return report;
}

async function askRequests() {
  const answer = await ask("admin/requests");
  if (answer.status === 403) throw new Refused("This key is no operator's: admin = true in its entry would make it one.");
  if (!answer.ok) throw new Error("status " + answer.status);
  const report = await answer.json();
  return Array.isArray(report.requests) ? report.requests : [];
}

async function askReplicas() {
  return ((await read("admin/instances")).instances ?? [])
    .flatMap((each) => (each.replicas ?? []).map((it) => ({ ...it, instance: each.name })));
}

/* What keys may use, by name; of those without an entry nothing. */
async function askLimits() {
  return new Map(((await read("admin/keys")).keys ?? []).map((it) => [it.name, it]));
}

async function askHistory() {
  return read("admin/history?window=" + shownWindow);
}

async function askEngines() {
  return new Map(((await read("admin/engines")).engines ?? []).map((it) => [it.instance + " " + it.replica, it]));
}

async function askFailures() {
  return (await read("admin/failures")).failures ?? [];
}

async function askConfiguration() {
  return read("admin/configuration");
}

async function askModels(names) {
  const answer = await ask("v1/models");
  if (!answer.ok) return null;
  const found = new Map(names.map((name) => [name, []]));
  const longestFirst = [...names].sort((a, b) => b.length - a.length);
  for (const model of (await answer.json()).data ?? []) {
    const name = longestFirst.find((each) => String(model.id).startsWith(each + "/"));
    if (name) found.get(name).push({ id: model.id.slice(name.length + 1), length: model.max_model_len });
  }
  return found;
}

/* Null where they are off. */
async function askBatches() {
  const on = configuration?.configuration?.some((each) => each.variable === "GOMODEL_DATA_DIR" && each.set);
  if (!on) return null;
  const answer = await ask("v1/batches?limit=10");
  if (answer.status === 404) return null;
  return answer.ok ? (await answer.json()).data ?? [] : batches;
}

