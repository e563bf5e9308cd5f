const PERIOD_MS = 2000, PATIENCE_MS = 5000, MODELS_EVERY = 150, SLOW_EVERY = 5, ROWS = 200, FAILURES = 20;
// From here on a figure is marked: the share of 5xx in percent, and how late the event loop is.
const BAD_PERCENT = 5, LATE_S = 0.1, VERY_LATE_S = 1;
const STORED = "gomodel master key";
const $ = (id) => document.getElementById(id);
const stored = {
  get() { try { return sessionStorage.getItem(STORED) || ""; } catch { return ""; } },
  set(key) { try { key ? sessionStorage.setItem(STORED, key) : sessionStorage.removeItem(STORED); } catch { /* this page only */ } },
};

let key = stored.get(), refused = false, why = "", locked = false, paused = false;
let timer = 0, turn = 0, busy = false, again = false, modelCounts = "";
let ready = null, requests = null, history = null, configuration = null, replicas = [], failures = [];
let limits = new Map(), models = new Map(), engines = new Map(), batches = null;
let shownWindow = "15m", scope = "all ";

