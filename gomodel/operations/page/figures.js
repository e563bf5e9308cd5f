/* The charts and the alarms. */

const CHARTS = [
  ["Requests", new Chart("Requests", perSecond, ["ended"])],
  ["Errors", new Chart("Errors", number, ["5xx", "4xx", "broken off"], { whole: true })],
  ["Load", new Chart("At once", number, ["running", "in line"], { whole: true })],
  ["Stream", new Chart("First byte of streams", seconds, ["p50", "p95"])],
  ["Answer", new Chart("Whole answers, first byte", seconds, ["p50", "p95"])],
  ["Tokens", new Chart("Tokens", perSecond, ["prompt and completion"])],
];
const ROW_OF = { requests: 0, refused: 0, failed: 0, prompt_tokens: 0, cached_tokens: 0, completion_tokens: 0, running: 0, waiting: 0,
  requests_per_second: 0, tokens_per_second: 0 };

const scopeOf = (value) => [value.slice(0, value.indexOf(" ")), value.slice(value.indexOf(" ") + 1)];

/* A series' figures of the whole window; of one that had nothing, zeros, and nothing where nothing is known. */
function figuresOf(by, name) {
  return history === null ? {} : history.series.find((each) => each.by === by && each.name === name)?.window ?? ROW_OF;
}

function showScopes() {
  const select = $("scope"), wanted = ["all ", ...(history?.series ?? []).filter((each) => each.by !== "all")
    .map((each) => each.by + " " + each.name)];
  if (!wanted.includes(scope)) wanted.push(scope);
  const shown = [...select.querySelectorAll("option")].map((each) => each.value);
  if (shown.length === wanted.length && wanted.every((each) => shown.includes(each))) return;
  const groups = new Map([["instance", "Instances"], ["model", "Models"], ["key", "Keys"]].map(([by, label]) => [by, make("optgroup", { label })]));
  for (const each of wanted.slice(1).sort()) {
    const [by, name] = scopeOf(each);
    groups.get(by)?.append(make("option", { value: each }, name));
  }
  select.replaceChildren(make("option", { value: wanted[0] }, "everything"), ...[...groups.values()].filter((each) => each.children.length));
  select.value = scope;
}

function showCharts() {
  $("charts-part").hidden = requests === null || history === null;
  if (requests === null || history === null) return;
  if (!$("charts").children.length) $("charts").append(...CHARTS.map(([, chart]) => chart.box));
  showScopes();
  const [by, name] = scopeOf(scope);
  const empty = Array(history.steps).fill(0), unknown = Array(history.steps).fill(null);
  const found = history.series.find((each) => each.by === by && each.name === name);
  const it = found?.window ?? ROW_OF, all = by === "all";
  const column = (what) => found?.points[what] ?? (what.endsWith("_s") ? unknown : empty);
  const charts = new Map(CHARTS);
  const draw = (which, value, note, columns, feeling) => charts.get(which).show(value, note, columns, history, feeling);
  draw("Requests", perSecond(it.requests_per_second), counted(it.requests, "request"), [column("requests_per_second")]);
  const broken = column("upstream_broke").map((value, index) => (known(value) ? value + column("gateway_ended")[index] : null));
  const share = portion(it.failed, it.requests), ends = all
    ? "; broken off: " + (it.upstream_broke ?? 0) + " by vLLM, " + (it.gateway_ended ?? 0) + " here, " + (it.client_left ?? 0) + " by clients" : "";
  draw("Errors", percent(share ?? 0), counted(it.failed, "5xx").replace("5xxs", "5xx") + ", " + it.refused + " 4xx" + ends,
    [column("failed"), column("refused"), ...(all ? [broken] : [])], share >= BAD_PERCENT ? "bad" : share > 0 ? "warn" : "");
  const running = all ? requests.filter((each) => each.place === null && each.instance).length : null;
  draw("Load", running === null ? number(it.running) : String(running),
    running === null ? "the most at once" : running ? "now; the oldest for " + seconds(Math.max(...requests.map((each) => Number(each.age_s) || 0))) : "now",
    [column("running"), column("waiting")]);
  draw("Stream", both(it, "stream_first_byte"), "p50 / p95; between two pieces " + both(it, "gap"),
    [column("stream_first_byte_p50_s"), column("stream_first_byte_p95_s")]);
  draw("Answer", both(it, "answer_first_byte"), "p50 / p95", [column("answer_first_byte_p50_s"), column("answer_first_byte_p95_s")]);
  const cached = portion(it.cached_tokens, it.prompt_tokens);
  const placed = (it.conversations_home ?? 0) + (it.conversations_spilled ?? 0) + (it.conversations_moved ?? 0);
  draw("Tokens", perSecond(it.tokens_per_second), [number(it.prompt_tokens) + " prompt", number(it.completion_tokens) + " completion",
    cached && percent(cached) + " of prompts cached",
    it.wasted_seconds && percent(portion(it.wasted_seconds, it.generation_seconds)) + " of the work for clients who left",
    placed && percent(portion(it.conversations_home, placed)) + " of conversations at home"].filter(Boolean).join(", "), [column("tokens_per_second")]);
}

/* The last minute, or the last step where that is longer. */
function lately(what) {
  const steps = Math.max(1, Math.round(60 / history.step_s));
  return (history.series.find((each) => each.by === "all")?.points[what] ?? []).slice(-steps);
}

const sum = (values) => values.reduce((whole, each) => whole + (each ?? 0), 0);

function alarms() {
  const found = [];
  for (const [name, it] of Object.entries(ready?.instances ?? {})) {
    if (it.state !== "up") found.push([MOODS[it.state] ?? "warn", name + " " + (SAYS[it.state] ?? words(it.state))]);
    else if (it.replicas_ready < it.replicas)
      found.push(["warn", (it.replicas - it.replicas_ready) + " of " + it.replicas + " replicas of " + name + " take no requests"]);
  }
  if (requests === null) return found;
  if (history !== null) {
    const failed = sum(lately("failed")), share = portion(failed, sum(lately("requests")));
    if (failed) found.push([share >= BAD_PERCENT ? "bad" : "warn", percent(share) + " of requests failed in the last minute"]);
    const broken = sum(lately("upstream_broke")) + sum(lately("gateway_ended"));
    if (broken) found.push(["warn", counted(broken, "answer") + " broken off in the last minute"]);
    const lag = Math.max(0, ...lately("lag_p95_s").filter(known));
    if (lag >= LATE_S) found.push([lag >= VERY_LATE_S ? "bad" : "warn", "the event loop is " + seconds(lag) + " late"]);
  }
  const odd = replicas.filter((it) => it.differs?.length);
  if (odd.length)
    found.push(["warn", counted(odd.length, "replica") + (odd.length > 1 ? " differ" : " differs") + " from others that take the same requests"]);
  const waiting = requests.filter((each) => each.place !== null).length;
  if (waiting) found.push(["warn", counted(waiting, "request") + " in line"]);
  for (const it of batches ?? []) if (it.status_details) found.push(["warn", "batch " + it.id.slice(0, 14) + "\u2026: " + it.status_details]);
  return found.sort(([a], [b]) => (a > b) - (a < b));
}

function showAlarms() {
  const found = alarms();
  $("alarms").hidden = !found.length;
  reconcile($("alarms"), found.map(([feeling, text]) => [text, [feeling, text]]), () => make("li"), (node, [feeling, text]) => {
    badge(node, text, feeling);
  });
}

