/* A chart: lines over time with an axis on each side. */

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 52, BOTTOM = 18, TOP = 6, RIGHT = 6;

function shape(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

/* A round number at or above `top`, and how many parts it has. */
function scaleOf(top) {
  if (!(top > 0)) return [1, 2];
  const power = 10 ** Math.floor(Math.log10(top)), lead = top / power;
  const [round, parts] = [[1, 2], [2, 4], [2.5, 5], [3, 3], [4, 4], [5, 5], [6, 3], [8, 4], [10, 5]].find(([each]) => lead <= each + 1e-9);
  return [round * power, parts];
}

const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

class Chart {
  /* `format` makes words of a value; `lines` are the words of each line; `whole`: nothing between whole numbers. */
  constructor(title, format, lines, { whole = false } = {}) {
    this.title = title;
    this.format = format;
    this.whole = whole;
    this.value = make("span", { class: "value" });
    this.note = make("p", { class: "note" });
    this.svg = shape("svg", { role: "img" });
    this.legend = make("ul", { class: "legend", "aria-hidden": "true" },
      ...lines.map((line, index) => make("li", { "data-line": String(index) }, line)), make("li", { class: "at" }));
    this.lines = lines;
    this.plot = make("div", { class: "plot" }, this.svg);
    this.box = make("figure", { class: "chart card" },
      make("figcaption", {}, make("span", { class: "title" }, title), this.value, this.note), this.plot, this.legend);
    this.plot.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.plot.addEventListener("pointerleave", () => this.point(null));
  }

  show(value, note, columns, history, feeling = "") {
    put(this.value, value);
    put(this.note, note);
    mood(this.box, feeling);
    this.columns = columns;
    this.history = history;
    this.draw();
  }

  draw() {
    if (!this.columns) return;
    const width = this.plot.clientWidth || 300, height = this.plot.clientHeight || 140;
    const { until, step_s: step, steps } = this.history;
    const highest = Math.max(0, ...this.columns.flat().filter(known));
    let [top, parts] = scaleOf(highest);
    if (this.whole && top < parts) [top, parts] = [Math.max(1, Math.ceil(top)), Math.max(1, Math.ceil(top))];
    const x = (index) => LEFT + ((width - LEFT - RIGHT) * (index + 0.5)) / steps;
    const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - value / top);
    this.x = x;
    const nodes = [];
    for (let part = 0; part <= parts; part += 1) {
      const value = (top * part) / parts;
      nodes.push(shape("line", { class: part ? "grid" : "base", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
        shape("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, this.format(value)));
    }
    const every = Math.ceil(steps / (width > 420 ? 5 : 3));
    for (let index = steps - 1; index >= 0; index -= every)
      nodes.push(shape("text", { x: x(index), y: height - 3, "text-anchor": index > steps - every / 2 ? "end" : "middle" },
        clock(until - (steps - 1 - index) * step)));
    this.columns.forEach((column, line) => {
      const runs = [[]];
      column.forEach((value, index) => (known(value) ? runs.at(-1).push([x(index), y(value)]) : runs.push([])));
      for (const run of runs.filter((each) => each.length)) {
        const points = run.map((pair) => pair.map((each) => each.toFixed(1)).join(","));
        if (run.length === 1) nodes.push(shape("circle", { "data-line": line, cx: run[0][0], cy: run[0][1], r: 2 }));
        else if (!line && this.columns.length === 1)
          nodes.push(shape("polygon", { points: [run[0][0] + "," + y(0), ...points, run.at(-1)[0] + "," + y(0)].join(" ") }));
        if (run.length > 1) nodes.push(shape("polyline", { "data-line": line, points: points.join(" ") }));
      }
    });
    this.cursor = shape("line", { class: "cursor", y1: TOP, y2: height - BOTTOM, x1: -9, x2: -9, visibility: "hidden" });
    this.svg.setAttribute("viewBox", "0 0 " + width + " " + height);
    this.svg.setAttribute("aria-label", this.inWords(highest));
    this.svg.replaceChildren(...nodes, this.cursor);
  }

  inWords(highest) {
    const last = this.columns.map((column, line) => this.lines[line] + " " + this.format(column.findLast(known) ?? null));
    return this.title + ", from " + clock(this.history.until - this.history.step_s * this.history.steps) + " to "
      + clock(this.history.until) + ": at last " + last.join(", ") + "; at most " + this.format(highest);
  }

  point(offset) {
    const { until, step_s: step, steps } = this.history ?? {};
    const index = offset === null || !steps ? -1
      : Math.min(steps - 1, Math.max(0, Math.round(((offset - LEFT) * steps) / (this.plot.clientWidth - LEFT - RIGHT) - 0.5)));
    this.lines.forEach((line, at) => put(this.legend.children[at], line + (index < 0 ? "" : " " + this.format(this.columns[at][index]))));
    put(this.legend.lastChild, index < 0 ? "" : clock(until - (steps - 1 - index) * step));
    if (!this.cursor) return;
    this.cursor.setAttribute("visibility", index < 0 ? "hidden" : "visible");
    if (index >= 0) for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, this.x(index));
  }
}

