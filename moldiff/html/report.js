"use strict";
// The list of molecules: sort, filter, look, decide, export. All text of the file reaches the page through textContent
// or an image's own address, never as markup.

const $ = (id) => document.getElementById(id);
const NUMBER = "number", FLAG = "flag";
const STEP = 40; // rows drawn at a time
const LABELS = { accept: "accepted", reject: "rejected" };
const STORE = "moldiff " + document.body.dataset.sha256;
let data, searched, order = [], drawn = 0, selected = null, viewer = null;
let sorting = { key: "record", descending: false };
const limits = new Map(); // index of a column -> {low, high} or {flag}
const decisions = new Map(); // row -> {decision, comment}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function image(drawing, text) {
  if (!drawing) return make("small", "no drawing");
  const { viewBox, lineWidth } = document.body.dataset;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="${viewBox}" fill="none" stroke-width="${lineWidth}" ` +
    `stroke-linecap="round" font-family="Arial,sans-serif">${drawing}</svg>`;
  return make("img", undefined, { src: "data:image/svg+xml," + encodeURIComponent(svg), alt: text || "" });
}

function written(column, value) {
  if (value === null) return "";
  if (column.kind === FLAG) return value ? "yes" : "no";
  return column.kind === NUMBER ? value.toFixed(column.digits) : value;
}

const column = (key) => data.columns.findIndex((c) => c.key === key);
const at = (key, row) => (column(key) < 0 ? undefined : data.values[column(key)][row]);
const title = (row) => data.id[row] || `record ${data.record[row]}`;
const similarity = (row) => { const value = at("nearest_similarity", row); return value == null ? "" : `similarity ${value.toFixed(2)}`; };
const decided = (row) => decisions.get(row)?.decision || "";

// --- which rows, in which order ---

function within(row) {
  for (const [index, limit] of limits) {
    const value = data.values[index][row];
    if ("flag" in limit ? value !== limit.flag : value === null || value < limit.low || value > limit.high) return false;
  }
  return true;
}

function hasStatus(row, status) {
  if (status === "whole" || status === "broken") return data.whole[row] === (status === "whole");
  return !status || decided(row) === (status === "undecided" ? "" : status);
}

function compare(values) {
  const sign = sorting.descending ? -1 : 1;
  const missing = (v) => v === null || v === "";
  return (a, b) => {
    const [x, y] = [values[a], values[b]];
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b; // the missing last, either way
    const difference = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return sign * difference || a - b;
  };
}

function refresh() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const status = $("status").value;
  const values = sorting.key in data ? data[sorting.key] : data.values[column(sorting.key)];
  order = data.record.map((_, row) => row)
    .filter((row) => words.every((word) => searched[row].includes(word)) && hasStatus(row, status) && within(row))
    .sort(compare(values));
  $("rows").replaceChildren();
  drawn = 0;
  more();
  $("list").scrollTop = 0;
  for (const head of $("head").children) {
    head.removeAttribute("aria-sort");
    if (head.dataset.key === sorting.key) head.setAttribute("aria-sort", sorting.descending ? "descending" : "ascending");
  }
  $("sort").value = sorting.key;
  $("direction").textContent = sorting.descending ? "descending" : "ascending";
  say();
}

function say() {
  const count = (what) => [...decisions.values()].filter((d) => d.decision === what).length;
  const texts = [`${order.length} of ${data.record.length} molecules`, `${count("accept")} accepted`, `${count("reject")} rejected`];
  $("state").textContent = texts.join(" · ");
}

function sortBy(key) {
  sorting = { key, descending: sorting.key === key && !sorting.descending };
  refresh();
}

// --- rows ---

function more() {
  const next = order.slice(drawn, drawn + STEP);
  $("rows").append(...next.map(rowNode));
  drawn += next.length;
  document.querySelector(".more").hidden = drawn >= order.length;
}

function rowNode(row) {
  const node = $("row").content.firstElementChild.cloneNode(true);
  node.dataset.row = row;
  node.querySelector(".picture").append(image(data.drawing[row], data.smiles[row]));
  node.querySelector(".name button").textContent = title(row);
  node.querySelector(".name code").textContent = data.smiles[row] || "";
  const nearest = data.nearest[row];
  if (nearest) node.querySelector(".near").append(image(data.known[nearest], nearest), make("span", similarity(row)));
  if (!hasNearest()) node.querySelector(".near").remove();
  data.columns.forEach((c, index) => {
    if (!c.shown) return;
    const cell = make("td", written(c, data.values[index][row]), { "data-label": c.label });
    cell.className = "value " + (c.kind === NUMBER ? "number" : "text");
    node.append(cell);
  });
  for (const box of node.querySelectorAll("input")) {
    box.setAttribute("aria-label", `${box.dataset.decision} ${title(row)}`);
    box.addEventListener("change", () => { decide(row, box.checked ? box.dataset.decision : ""); select(row); });
  }
  node.addEventListener("click", (event) => event.target.closest("label") || select(row));
  mark(node, row);
  return node;
}

const nodeOf = (row) => $("rows").querySelector(`[data-row="${row}"]`);
const hasNearest = () => data.nearest.some(Boolean);

function mark(node, row) {
  node.className = decided(row);
  node.setAttribute("aria-current", row === selected);
  for (const box of node.querySelectorAll("input")) box.checked = box.dataset.decision === decided(row);
}

function header() {
  const heads = [["", "Decision"], ["", "Drawing"], ["id", "Molecule"]];
  if (hasNearest()) heads.push([column("nearest_similarity") < 0 ? "nearest" : "nearest_similarity", "Nearest known"]);
  data.columns.forEach((c) => c.shown && heads.push([c.key, c.label, c]));
  $("head").replaceChildren(...heads.map(([key, label, c]) => {
    const head = make("th", undefined, { scope: "col", "data-key": key });
    head.append(make(key ? "button" : "span", label, key ? { type: "button", title: c?.help || "" } : {}));
    if (c?.kind === NUMBER) head.className = "number";
    if (key) head.firstChild.addEventListener("click", () => sortBy(key));
    return head;
  }));
}

// --- one molecule ---

function select(row) {
  const before = selected !== null && nodeOf(selected);
  selected = row;
  if (before) mark(before, Number(before.dataset.row));
  if (nodeOf(row)) mark(nodeOf(row), row);
  $("detail-title").textContent = title(row);
  $("detail-smiles").textContent = data.smiles[row] || "";
  $("detail-drawing").replaceChildren(image(data.drawing[row], data.smiles[row]));
  const nearest = data.nearest[row];
  $("detail-nearest").hidden = !nearest;
  if (nearest) {
    $("nearest-drawing").replaceChildren(image(data.known[nearest], nearest));
    $("nearest-text").textContent = `nearest known, ${similarity(row)}: ${nearest}`;
  }
  $("detail-values").replaceChildren(...data.columns.flatMap((c, index) => {
    const value = written(c, data.values[index][row]);
    return value === "" ? [] : [make("dt", c.label, { title: c.help }), make("dd", value)];
  }));
  showDecision();
  show3d(row);
}

function show3d(row) {
  const spatial = data.spatial[row];
  $("viewer-note").textContent = spatial ? "" : "This record has no coordinates in 3D.";
  try {
    viewer ??= $3Dmol.createViewer($("viewer"), { backgroundColor: "white" });
    viewer.removeAllModels();
    if (spatial) {
      viewer.addModel(...model(data.block[row]));
      viewer.setStyle({}, { stick: { radius: 0.13 }, sphere: { scale: 0.24 } });
      viewer.zoomTo();
    }
    viewer.render();
  } catch (error) {
    $("viewer-note").textContent = "This browser cannot draw in 3D (WebGL is switched off).";
  }
}

// A file without bonds (XYZ) is shown with those that the viewer guesses from the distances.
function model(block) {
  const lines = block.split("\n"), atoms = Number(lines[3].slice(0, 3)), bonds = Number(lines[3].slice(3, 6));
  if (bonds || atoms < 2) return [block, "sdf"];
  const rows = lines.slice(4, 4 + atoms).map((line) => `${line.slice(31, 34)} ${line.slice(0, 30)}`);
  return [[atoms, "", ...rows].join("\n"), "xyz"];
}

function showDecision() {
  $("detail-accept").checked = decided(selected) === "accept";
  $("detail-reject").checked = decided(selected) === "reject";
  $("comment").value = decisions.get(selected)?.comment || "";
}

function decide(row, decision, comment = decisions.get(row)?.comment || "") {
  if (decision || comment) decisions.set(row, { decision, comment });
  else decisions.delete(row);
  try { localStorage.setItem(STORE, JSON.stringify([...decisions])); } catch { /* a browser that keeps nothing */ }
  if (nodeOf(row)) mark(nodeOf(row), row);
  if (row === selected) showDecision();
  say();
}

function move(by) {
  const place = order.indexOf(selected);
  const next = place < 0 ? 0 : Math.min(order.length - 1, Math.max(0, place + by));
  if (!order.length) return;
  while (drawn <= next) more();
  select(order[next]);
  nodeOf(order[next]).scrollIntoView({ block: "nearest" });
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input:not([type=checkbox])")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const choose = (decision) => { if (selected !== null) { decide(selected, decision); move(decision ? 1 : 0); } };
  const actions = { j: () => move(1), k: () => move(-1), a: () => choose("accept"), r: () => choose("reject"),
    u: () => choose(""), c: () => $("comment").focus() };
  if (!(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
}

// --- start ---

function start(content) {
  data = content;
  const texts = [data.id, data.smiles, ...data.values.filter((_, index) => data.columns[index].kind === "text")];
  searched = data.record.map((_, row) => texts.map((values) => values[row] || "").join("\n").toLowerCase());
  const sortable = [["record", "record"], ["id", "id"], ["smiles", "SMILES"], ...data.columns.map((c) => [c.key, c.label])];
  $("sort").append(...sortable.map(([key, label]) => make("option", label, { value: key })));
  data.columns.forEach((c, index) => c.kind !== "text" && $("limit").append(make("option", c.label, { value: index })));
  $("chooser").append(...data.columns.map(chooser));
  try {
    for (const [row, decision] of JSON.parse(localStorage.getItem(STORE) || "[]")) decisions.set(row, decision);
  } catch { /* nothing is kept, or nothing that can be read */ }
  header();
  refresh();
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("search").addEventListener("input", refresh);
  $("status").addEventListener("change", refresh);
  $("sort").addEventListener("change", () => { sorting.key = $("sort").value; refresh(); });
  $("direction").addEventListener("click", () => { sorting.descending = !sorting.descending; refresh(); });
  $("limit").addEventListener("change", () => {
    if ($("limit").value !== "" && !limits.has(Number($("limit").value))) addLimit(Number($("limit").value));
    $("limit").value = "";
  });
  $("more").addEventListener("click", more);
  new IntersectionObserver((seen) => seen.some((s) => s.isIntersecting) && getComputedStyle($("list")).overflowY === "auto" && more(),
    { root: $("list"), rootMargin: "400px" }).observe($("more"));
  for (const decision of ["accept", "reject"]) {
    const box = $("detail-" + decision);
    box.addEventListener("change", () => (selected === null ? (box.checked = false) : decide(selected, box.checked ? decision : "")));
  }
  $("comment").addEventListener("input", () => selected !== null && decide(selected, decided(selected), $("comment").value));
  $("export-csv").addEventListener("click", () => save("decisions.csv", "text/csv", csv()));
  $("export-sdf").addEventListener("click", () => save("accepted.sdf", "chemical/x-mdl-sdfile", sdf()));
  $("clear").addEventListener("click", () => { if (confirm("Clear all decisions and comments?")) [...decisions.keys()].forEach((row) => decide(row, "", "")); });
  document.addEventListener("keydown", key);
  if (order.length) select(order[0]);
}

inflate($("packed").textContent).then(start).catch((error) => {
  $("state").textContent = `The list of molecules cannot be shown here: ${error.message}`;
});
