/* The tables. */

const MOODS = { up: "good", down: "bad", circuit_open: "bad", refuses_the_key: "bad", draining: "warn", unknown: "warn",
  out_of_rotation: "warn", asleep: "warn", wedged: "bad", no_replica: "bad" };
const SAYS = { down: "is down", circuit_open: "has failed too often: circuit open", refuses_the_key: "refuses the gateway's key",
  draining: "is draining", unknown: "is not known yet", out_of_rotation: "is out of rotation", asleep: "is asleep",
  wedged: "answers nothing any more", no_replica: "has no address" };

const errorOf = (it) => (it.last_error && known(it.last_error_age_s) ? "last error: " + it.last_error + " " + seconds(it.last_error_age_s) + " ago" : "");
const sinceOf = (it) => [known(it.for_s) && "for " + seconds(it.for_s), errorOf(it)].filter(Boolean).join("; ");

function fillFailed(cell, figures) {
  const share = portion(figures.failed, figures.requests);
  fill(cell, figures.requests ? percent(share) : NONE, figures.failed ? number(figures.failed) : "");
  mood(cell, share >= BAD_PERCENT ? "bad" : share > 0 ? "warn" : "");
}

function makeInstance(name) {
  const row = makeRow([name, "State", "Running", "Requests", "Failed", "First byte of streams", "Tokens", "Models"]);
  row.children[1].children[0].className = "badge";
  row.children[7].append(make("details", { hidden: "" }, make("summary"), make("ul")));
  return row;
}

function fillInstance(row, [name, it]) {
  const cells = row.children, state = String(it.state ?? "unknown"), figures = figuresOf("instance", name);
  fill(cells[0], name, it.replicas > 1 ? it.replicas_ready + " of " + it.replicas + " replicas" : "");
  badge(cells[1].children[0], words(state), MOODS[state] ?? "warn");
  put(cells[1].children[1], sinceOf(it));
  const mine = requests?.filter((each) => each.instance === name) ?? [], waiting = mine.filter((each) => each.place !== null).length;
  fill(cells[2], String(requests ? mine.length - waiting : it.in_flight ?? NONE), waiting ? waiting + " in line" : "");
  const share = portion(figures.requests, figuresOf("all", "").requests);
  fill(cells[3], perSecond(figures.requests_per_second), share ? percent(share) + " of all" : "");
  fillFailed(cells[4], figures);
  fill(cells[5], both(figures, "stream_first_byte"), "p50 / p95");
  const cached = portion(figures.cached_tokens, figures.prompt_tokens);
  fill(cells[6], perSecond(figures.tokens_per_second), cached ? percent(cached) + " of prompts cached" : "");
  const list = models.get(name) ?? [], details = cells[7].lastChild, [summary, items] = details.children;
  const texts = list.map((model) => model.id + (model.length ? " (" + model.length + " tokens)" : ""));
  details.hidden = list.length < 2;
  fill(cells[7], list.length ? (list.length === 1 ? texts[0] : "") : String(it.models ?? 0));
  put(summary, String(list.length));
  if ([...items.children].map((item) => item.textContent).join("\n") !== texts.join("\n"))
    items.replaceChildren(...texts.map((text) => make("li", {}, text)));
}

function showInstances() {
  $("instances-part").hidden = false;
  const wanted = Object.entries(ready.instances).map(([name, it]) => [name, [name, it]]);
  reconcile($("instances"), wanted, makeInstance, fillInstance);
}

function makeReplica() {
  const row = makeRow(["Replica", "State", "From here", "In the engine", "Its cache", ""]);
  row.children[1].children[0].className = "badge";
  row.children[4].insertBefore(make("progress", { max: "1" }), row.children[4].children[1]);
  const button = make("button", { type: "button" });
  button.addEventListener("click", () => rotate(row.replica));
  row.children[5].replaceChildren(button);
  return row;
}

const differsOf = (it) => (it.differs?.length ? "differs in " + it.differs.join(", ") + (it.kept_back ? ", kept out" : "") : "");
const fine = (it) => it.state === "up" && !it.differs?.length;

function fillReplica(row, it) {
  const cells = row.children, out = it.state === "out_of_rotation", button = cells[5].firstChild;
  const engine = engines.get(it.instance + " " + it.replica) ?? {}, [said, bar, under] = cells[4].children;
  row.replica = it;
  fill(cells[0], it.replica, "of " + it.instance);
  badge(cells[1].children[0], words(it.state), MOODS[it.state] ?? "warn");
  put(cells[1].children[1], [sinceOf(it), differsOf(it)].filter(Boolean).join("; "));
  fill(cells[2], String(it.in_flight));
  fill(cells[3], number(engine.running), engine.waiting ? number(engine.waiting) + " wait there" : "");
  mood(cells[3], engine.waiting > 0 ? "warn" : "");
  bar.hidden = !known(engine.cache_usage);
  bar.value = engine.cache_usage ?? 0;
  bar.setAttribute("aria-label", "Cache of " + it.replica + " in use");
  put(said, known(engine.cache_usage) ? percent(100 * engine.cache_usage) + " " : NONE);
  put(under, "");
  put(button, out ? "Resume" : "Drain");
  button.setAttribute("aria-label", (out ? "Resume " : "Drain ") + it.replica);
}

/* Those that are not up first: they are looked for. */
function showReplicas() {
  const rows = requests === null ? [] : [...replicas].sort((a, b) => fine(a) - fine(b));
  $("replicas-part").hidden = !rows.length;
  put($("replicas-count"), rows.length > ROWS ? "(" + rows.length + ", " + ROWS + " shown)" : "");
  reconcile($("replicas"), rows.slice(0, ROWS).map((it) => [it.instance + " " + it.replica, it]), makeReplica, fillReplica);
}

function fillModel(row, { name, window: figures }) {
  const cells = row.children, cached = portion(figures.cached_tokens, figures.prompt_tokens);
  fill(cells[0], name);
  fill(cells[1], perSecond(figures.requests_per_second), number(figures.requests));
  fillFailed(cells[2], figures);
  fill(cells[3], number(figures.prompt_tokens), cached ? percent(cached) + " cached" : "");
  fill(cells[4], number(figures.completion_tokens));
}

function showModels() {
  const rows = (requests === null ? [] : history?.series ?? []).filter((each) => each.by === "model");
  $("models-part").hidden = !rows.length;
  put($("models-count"), rows.length > ROWS ? "(the busiest " + ROWS + " shown)" : "");
  const make = () => makeRow(["Model", "Requests", "Failed", "Prompt tokens", "Completion tokens"]);
  reconcile($("models"), rows.slice(0, ROWS).map((each) => [each.name, each]), make, fillModel);
}

const LIMITS = { in_flight: "at once", requests_per_minute: "requests a minute", tokens_per_minute: "tokens a minute" };

function limitsOf(it) {
  const said = Object.entries(it?.limits ?? {}).map(([what, limit]) => (it.used[what] ?? 0).toLocaleString() + " of "
    + limit.toLocaleString() + " " + LIMITS[what] + (what in it.lent ? " (" + it.lent[what].toLocaleString() + " lent)" : ""));
  const refusals = sum(Object.values(it?.refused ?? {}));
  return [said.join(", ") || "none", refusals ? refusals.toLocaleString() + " refused since the start" : ""];
}

function fillKey(row, [name, it]) {
  const cells = row.children, figures = figuresOf("key", name), state = limits.get(name)?.state ?? "active";
  fill(cells[0], name, state === "active" ? "" : state);
  fill(cells[1], String(it.running));
  fill(cells[2], String(it.waiting));
  fill(cells[3], number(figures.requests));
  const cached = portion(figures.cached_tokens, figures.prompt_tokens);
  fill(cells[4], number(figures.prompt_tokens), cached ? percent(cached) + " cached" : "");
  fill(cells[5], number(figures.completion_tokens));
  fill(cells[6], ...limitsOf(limits.get(name)));
}

/* Those that have something running, then those that used most. */
function showKeys() {
  const found = new Map();
  const entry = (name) => found.get(name) ?? found.set(name, { running: 0, waiting: 0 }).get(name);
  for (const each of history?.series ?? []) if (each.by === "key") entry(each.name);
  for (const name of limits.keys()) entry(name);
  for (const it of requests ?? []) if (it.key) entry(it.key)[it.place === null ? "running" : "waiting"] += 1;
  const tokens = (name) => figuresOf("key", name).prompt_tokens + figuresOf("key", name).completion_tokens;
  const rows = [...found].sort(([a, one], [b, other]) => other.running + other.waiting - one.running - one.waiting
    || tokens(b) - tokens(a) || a.localeCompare(b));
  $("keys-part").hidden = !rows.length || requests === null;
  put($("keys-count"), rows.length > ROWS ? "(" + rows.length + ", the busiest " + ROWS + " shown)" : "");
  const make = () => makeRow(["Key", "Running", "In line", "Requests", "Prompt tokens", "Completion tokens", "Limits"]);
  reconcile($("keys"), rows.slice(0, ROWS).map((row) => [row[0], row]), make, fillKey);
}

function fillFailure(row, it) {
  const cells = row.children, ago = Date.now() / 1000 - it.at;
  fill(cells[0], it.method + " " + (it.path ?? it.route), [it.request_id, it.key && "key " + it.key].filter(Boolean).join(", "));
  fill(cells[1], new Date(it.at * 1000).toLocaleTimeString(), ago >= 0 ? seconds(Math.round(ago)) + " ago" : "");
  fill(cells[2], it.model || NONE, [it.instance && "at " + it.instance, it.replica].filter(Boolean).join(", "));
  fill(cells[3], (it.status || "no status") + (it.reason ? " " + it.reason : ""),
    [it.ended_by && "ended by " + (it.ended_by === "upstream" ? "vLLM" : it.ended_by) + " in phase " + it.phase,
      it.retries && counted(it.retries, "retry").replace("retrys", "retries")].filter(Boolean).join(", "));
  fill(cells[4], seconds(it.duration_ms / 1000), bytes(it.bytes_out) + " sent");
}

function showFailures() {
  $("failures-part").hidden = requests === null;
  const make = () => makeRow(["Request", "When", "Model", "Outcome", "After"]);
  reconcile($("failures"), failures.slice(0, FAILURES).map((it) => [it.at + " " + it.request_id, it]), make, fillFailure);
  $("failures-empty").hidden = failures.length > 0;
  $("failures").parentNode.hidden = !failures.length;
}

function makeRequest() {
  const row = makeRow(["Request", "Model", "Age", "Phase", "First byte", "Sent", ""]);
  const button = make("button", { type: "button", class: "danger" }, "Abort");
  button.addEventListener("click", () => confirmAbort(row.request));
  row.children[6].replaceChildren(button);
  return row;
}

function fillRequest(row, it) {
  const cells = row.children;
  row.request = it;
  fill(cells[0], it.method + " " + (it.path ?? it.route),
    [it.id, it.key && "key " + it.key, it.client && "from " + it.client].filter(Boolean).join(" "));
  fill(cells[1], it.model ?? NONE, [it.instance && "at " + it.instance, it.replica].filter(Boolean).join(", "));
  fill(cells[2], seconds(it.age_s), it.retries ? it.retries + " retries" : "");
  const queued = it.queued_s > 0 && it.place === null ? ", after " + seconds(it.queued_s) + " in line" : "";
  fill(cells[3], it.place === null ? String(it.phase) : "in line, place " + it.place, "for " + seconds(it.phase_s) + queued);
  fill(cells[4], seconds(it.time_to_first_byte_s));
  fill(cells[5], bytes(it.bytes_out), bytes(it.bytes_in) + " received");
  cells[6].firstChild.setAttribute("aria-label", "Abort request " + it.id);
}

function showRequests() {
  const sought = $("filter").value.trim().toLowerCase(), seen = new Map();
  const matching = requests.filter((it) => !sought || [it.id, it.key, it.client, it.model, it.instance, it.replica, it.path ?? it.route, it.phase]
    .some((each) => String(each ?? "").toLowerCase().includes(sought)));
  // A client may send one id with several requests.
  const wanted = matching.slice(0, ROWS).map((it) => {
    const copy = (seen.get(it.id) ?? 0) + 1;
    seen.set(it.id, copy);
    return [it.id + " " + copy, it];
  });
  reconcile($("requests"), wanted, makeRequest, fillRequest);
  const parts = [sought && matching.length + " of " + requests.length, matching.length > ROWS && "the oldest " + ROWS + " shown"].filter(Boolean);
  put($("requests-count"), parts.length ? "(" + parts.join(", ") + ")" : requests.length > ROWS ? "(" + requests.length + ")" : "");
  $("requests-empty").hidden = matching.length > 0;
  put($("requests-empty"), sought && requests.length ? "None that the filter lets through." : "None right now.");
  $("requests").parentNode.hidden = !matching.length;
}

const BATCH_MOODS = { validating: "good", in_progress: "good", finalizing: "good", completed: "good", failed: "bad",
  expired: "warn", cancelling: "warn", cancelled: "warn" };

function makeBatch() {
  const row = makeRow(["Batch", "Model", "Status", "Progress", "Lines", "Left"]);
  row.children[2].children[0].className = "badge";
  row.children[3].insertBefore(make("progress", { max: "1" }), row.children[3].children[1]);
  return row;
}

function fillBatch(row, it) {
  const cells = row.children, { total, completed, failed } = it.request_counts, done = completed + failed;
  const now = performance.now() / 1000;
  fill(cells[0], it.id, it.endpoint);
  fill(cells[1], it.model ?? NONE);
  badge(cells[2].children[0], words(it.status), BATCH_MOODS[it.status] ?? "warn");
  put(cells[2].children[1], it.status_details ?? "");
  const bar = cells[3].children[1], share = total ? done / total : it.status === "completed" ? 1 : 0;
  bar.value = share;
  bar.setAttribute("aria-label", "Progress of " + it.id);
  put(cells[3].children[0], Math.floor(100 * share) + " % ");
  fill(cells[4], done.toLocaleString() + " of " + total.toLocaleString(), failed ? failed + " failed" : "");
  // By what was seen from here: the clock of the gateway may be another one.
  row.first ??= { now, done };
  const pace = (done - row.first.done) / (now - row.first.now);
  fill(cells[5], it.status === "in_progress" && pace > 0 ? seconds((total - done) / pace) : NONE);
}

function showBatches() {
  $("batches-part").hidden = batches === null || requests === null;
  if (batches === null) return;
  reconcile($("batches"), batches.map((it) => [it.id, it]), makeBatch, fillBatch);
  $("batches-empty").hidden = batches.length > 0;
  $("batches").parentNode.hidden = !batches.length;
}

function showConfiguration() {
  $("configuration-part").hidden = requests === null || configuration === null;
  if (configuration === null) return;
  put($("version"), configuration.version ?? "");
  const all = $("defaults").getAttribute("aria-pressed") === "true";
  const rows = (configuration.configuration ?? []).filter((each) => all || each.set);
  reconcile($("configuration"), rows.map((it) => [it.variable, it]), () => makeRow(["Variable", "Value"]), (row, it) => {
    fill(row.children[0], it.variable, it.section);
    fill(row.children[1], it.value, it.set ? "" : "the default");
  });
}

