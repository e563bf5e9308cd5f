/* The loop. */

/* Ready is enough for traffic to come, and no more: an instance that takes none is not well. */
function showReadiness() {
  const states = Object.values(ready.instances), up = states.filter((it) => it.state === "up").length;
  const whole = states.every((it) => it.state === "up" && !(it.replicas_ready < it.replicas));
  const partly = ready.status === "ready" && !whole;
  const missing = up < states.length ? up + " of " + states.length + " instances up" : "some replicas are not up";
  showState((ready.status ?? "unknown") + (partly ? ", " + missing : ""),
    partly ? "warn" : { ready: "good", draining: "warn" }[ready.status] ?? "bad");
}

function showState(text, feeling) {
  badge($("state"), text, feeling);
  document.title = text + " \u2013 gomodel status";
}

const PARTS = ["charts-part", "instances-part", "replicas-part", "models-part", "keys-part", "failures-part", "batches-part", "requests-part"];

function trouble(text) {
  $("trouble").hidden = !text;
  put($("trouble"), text);
  for (const id of PARTS) $(id).classList.toggle("stale", Boolean(text));
}

function showDoor(open) {
  if ($("door").hidden === open) {
    $("door").hidden = !open;
    if (open) $("key").focus();
  }
  $("door-error").hidden = !refused;
  $("door-error").className = "notice bad";
  put($("door-error"), refused ? why || "The gateway does not accept this key." : "");
  $("key").setAttribute("aria-invalid", String(refused));
  $("requests-part").hidden = open || requests === null;
  $("forget").hidden = open || !key;
  $("open").hidden = open || Boolean(key) || requests === null;
}

function showAll() {
  showAlarms();
  showCharts();
  showReplicas();
  showModels();
  showKeys();
  showFailures();
  showBatches();
  showConfiguration();
}

async function look() {
  ready = await askReady();
  showReadiness();
  try {
    if (locked) throw new Refused();
    const shown = key, names = Object.keys(ready.instances);
    // They change when their number does; now and then in any case, and not each time: the log would be full of it.
    const counts = names.map((name) => ready.instances[name].models).join();
    const wantModels = turn % MODELS_EVERY === 0 || counts !== modelCounts;
    modelCounts = counts;
    const list = await askRequests(); // alone and first: each that wants a key and gets none is a line of the log
    const slow = turn % SLOW_EVERY === 0 || history === null;
    const setting = slow ? await askConfiguration() : configuration;
    if (locked || shown !== key) return; // forgotten meanwhile
    configuration = setting;
    const [allowed, servers, failed, offered, made, hour, said] = await Promise.all([askLimits(), askReplicas(), askFailures(),
      wantModels ? askModels(names) : null, slow ? askBatches() : batches, slow ? askHistory() : history, slow ? askEngines() : engines]);
    if (locked || shown !== key) return;
    [requests, limits, replicas, failures, batches, history, engines] = [list, allowed, servers, failed, made, hour, said];
    if (offered) models = offered;
    turn += 1;
    showRequests();
    showDoor(false);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (!locked) {
      refused = Boolean(key);
      why = error.message;
      forget();
    }
  }
  showAll();
  showInstances();
}

function forget() {
  locked = true;
  key = "";
  stored.set("");
  [requests, history, batches, configuration] = [null, null, null, null];
  [limits, models, engines] = [new Map(), new Map(), new Map()];
  [replicas, failures] = [[], []];
  scope = "all ";
  turn = 0;
  put($("version"), "");
  $("configuration-part").hidden = true;
  showDoor(true);
  showAll();
}

async function poll() {
  clearTimeout(timer);
  again = busy;
  if (busy) return;
  busy = true;
  try {
    await look();
    trouble("");
    put($("updated"), "updated " + new Date().toLocaleTimeString());
  } catch (error) {
    showState("no answer", "bad");
    const silent = error instanceof TypeError || error.name === "TimeoutError";
    const why = silent ? "does not answer" : "answers what this page does not understand (" + error.message + ")";
    trouble("The gateway " + why + ". What is shown is old; this page keeps trying.");
  } finally {
    busy = false;
  }
  if (again) poll();
  else if (!paused && !document.hidden) timer = setTimeout(poll, PERIOD_MS);
}

/* What a person does. */

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  refused = locked = false;
  // A header carries no other characters, so no key has them.
  if (!/^[\x21-\x7e]+$/.test(key)) {
    refused = true;
    forget();
    return;
  }
  stored.set(key);
  poll();
});

$("forget").addEventListener("click", () => {
  refused = false;
  forget();
  say("The key is forgotten.");
});

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  put($("pause"), paused ? "Paused" : "Pause");
  poll();
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !paused) poll();
});

for (const button of document.querySelectorAll("[data-window]")) button.addEventListener("click", async () => {
  shownWindow = button.dataset.window;
  for (const each of document.querySelectorAll("[data-window]")) each.setAttribute("aria-pressed", String(each === button));
  try {
    const found = await askHistory();
    if (shownWindow === button.dataset.window && !locked) history = found;
    showAll();
    if (ready) showInstances();
  } catch {
    poll();
  }
});

$("scope").addEventListener("change", () => {
  scope = $("scope").value;
  showCharts();
});

$("filter").addEventListener("input", () => {
  if (requests !== null) showRequests();
});

$("defaults").addEventListener("click", () => {
  const all = $("defaults").getAttribute("aria-pressed") !== "true";
  $("defaults").setAttribute("aria-pressed", String(all));
  put($("defaults"), all ? "Show only what is set" : "Show the defaults too");
  showConfiguration();
});

new ResizeObserver(() => { for (const [, chart] of CHARTS) chart.draw(); }).observe($("charts"));

async function rotate(it) {
  const out = it.state === "out_of_rotation", what = out ? "resume" : "drain";
  try {
    const path = "admin/instances/" + encodeURIComponent(it.instance) + "/" + what + "?replica=" + encodeURIComponent(it.replica);
    const answer = await ask(path, "POST");
    say(answer.ok ? it.replica + (out ? " is in rotation again." : " is out of rotation; what runs there ends.")
      : "The gateway did not " + what + " " + it.replica + " (status " + answer.status + ").");
  } catch {
    say("The gateway did not " + what + " " + it.replica + ": no answer.");
  }
  poll();
}

let asked = null;

function confirmAbort(it) {
  asked = it;
  const same = requests.filter((each) => each.id === it.id).length;
  put($("confirm-what"), it.method + " " + (it.path ?? it.route) + (it.model ? " for " + it.model : "") + ", id " + it.id +
    (same > 1 ? ". " + same + " requests carry this id; all of them are aborted." : ""));
  $("confirm").showModal();
}

$("keep").addEventListener("click", () => $("confirm").close());

$("abort").addEventListener("click", async () => {
  $("confirm").close();
  try {
    const answer = await ask("admin/requests/" + encodeURIComponent(asked.id), "DELETE");
    if (answer.ok) say("The request was aborted.");
    else say(answer.status === 404 ? "The request had ended by itself." : "The gateway refused: status " + answer.status + ".");
  } catch {
    say("The request could not be aborted: no answer.");
  }
  poll();
});

poll();
