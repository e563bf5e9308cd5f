/* The document. Everything that came over the network enters it as text. */

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function mood(node, value) {
  if ((node.dataset.mood ?? "") !== value) node.dataset.mood = value;
}

function badge(node, text, value) {
  put(node, text);
  mood(node, value);
}

function say(text) {
  put($("said"), new Date().toLocaleTimeString() + " " + text);
}

/* The rows of `wanted`, [name, data] each, in its order; those that stay keep their nodes, and with them the focus. */
function reconcile(body, wanted, create, update) {
  const present = new Map([...body.children].map((row) => [row.dataset.key, row]));
  wanted.forEach(([name, data], index) => {
    let row = present.get(name);
    present.delete(name);
    if (!row) {
      row = create(name);
      row.dataset.key = name;
    }
    update(row, data);
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
  });
  for (const row of present.values()) {
    const focused = row.contains(document.activeElement);
    row.remove();
    if (focused) (body.querySelector("button") ?? $("requests-title")).focus();
  }
}

const LONG = new Set(["State", "Model", "Models", "Limits", "Outcome", "Value"]);
const TEXT = new Set(["Phase", "When", "Status", "Progress", "Its cache", ""]);

/* A row whose cells hold a text and, below it, a smaller one. */
function makeRow(labels) {
  const row = make("tr", { role: "row" });
  labels.forEach((label, index) => {
    const cell = index
      ? make("td", { role: "cell", ...(label && { "data-label": label }) })
      : make("th", { role: "rowheader", scope: "row" });
    cell.className = !index || LONG.has(label) ? "long" : TEXT.has(label) ? "" : "number";
    cell.append(make("span"), make("span", { class: "under" }));
    row.append(cell);
  });
  return row;
}

function fill(cell, text, under = "") {
  put(cell.children[0], text);
  put(cell.children[1], under);
}

