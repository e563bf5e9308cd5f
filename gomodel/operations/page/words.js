/* Numbers in words. */

const NONE = "\u2013";
const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

function seconds(value) {
  if (!known(value)) return NONE;
  if (value === 0) return "0";
  if (value < 0.01) return (value * 1000).toFixed(1) + " ms";
  if (value < 1) return Math.round(value * 1000) + " ms";
  if (value < 60) return Number(value.toFixed(value < 10 ? 2 : 1)) + " s";
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return minutes + " min" + (value % 60 >= 1 ? " " + Math.floor(value % 60) + " s" : "");
  return minutes < 1440 ? Math.floor(minutes / 60) + " h " + (minutes % 60) + " min" : Math.floor(minutes / 1440) + " days";
}

function bytes(value) {
  let size = Number(value) || 0, unit = 0;
  while (size >= 1024 && unit < 4) { size /= 1024; unit += 1; }
  return (unit && size < 100 ? size.toFixed(1) : Math.round(size)) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][unit];
}

function number(value) {
  if (!known(value)) return NONE;
  if (value >= 1e6) return Number((value / 1e6).toPrecision(3)) + " M";
  if (value >= 1e4) return Number((value / 1e3).toPrecision(3)) + " k";
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString() : String(Number(value.toPrecision(2)));
}

const perSecond = (value) => (known(value) ? number(value) + " /s" : NONE);
const percent = (value) => (known(value) ? (value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1)) + " %" : NONE);
const portion = (part, whole) => (whole ? (part * 100) / whole : null);
const both = (figures, name) => seconds(figures[name + "_p50_s"]) + " / " + seconds(figures[name + "_p95_s"]);
const words = (text) => String(text).replaceAll("_", " ");
const counted = (count, what) => count.toLocaleString() + " " + what + (count === 1 ? "" : "s");

