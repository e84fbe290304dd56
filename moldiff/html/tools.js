"use strict";
// Limits on columns, the choice of columns, and the files that the page writes; uses what report.js defines.

function addLimit(index) {
  const c = data.columns[index];
  const box = make("fieldset");
  box.append(make("span", c.label));
  if (c.kind === FLAG) {
    limits.set(index, { flag: true });
    const choice = make("select", undefined, { "aria-label": c.label });
    choice.append(make("option", "yes"), make("option", "no"));
    choice.addEventListener("change", () => { limits.set(index, { flag: choice.value === "yes" }); refresh(); });
    box.append(choice);
  } else {
    const limit = { low: -Infinity, high: Infinity };
    limits.set(index, limit);
    for (const [end, text, open] of [["low", "at least", -Infinity], ["high", "at most", Infinity]]) {
      const input = make("input", undefined, { type: "number", step: "any", placeholder: text, "aria-label": `${c.label} ${text}` });
      input.addEventListener("input", () => { limit[end] = input.value === "" ? open : Number(input.value); refresh(); });
      box.append(input);
    }
  }
  const remove = make("button", "Remove", { type: "button", "aria-label": `Remove the limit on ${c.label}` });
  remove.addEventListener("click", () => { limits.delete(index); box.remove(); refresh(); });
  box.append(remove);
  $("limits-set").append(box);
  refresh();
}

function chooser(c) {
  const label = make("label"), box = make("input", undefined, { type: "checkbox" });
  box.checked = c.shown;
  box.addEventListener("change", () => { c.shown = box.checked; header(); refresh(); });
  label.append(box, make("span", c.label, { title: c.help }));
  return label;
}

// --- export ---

function save(name, type, text) {
  const link = make("a", undefined, { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const quoted = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
const inOrder = () => [...decisions].sort((a, b) => a[0] - b[0]);

function csv() {
  const rows = inOrder().map(([row, { decision, comment }]) =>
    [data.record[row], data.id[row], data.smiles[row] ?? "", LABELS[decision] || "", comment].map(quoted).join(","));
  return ["record,id,smiles,decision,comment", ...rows].join("\r\n") + "\r\n";
}

function sdf() {
  const field = (name, value) => (value ? `>  <${name}>\n${String(value).replace(/[\r\n]+/g, " ")}\n\n` : "");
  return inOrder().filter(([row, d]) => d.decision === "accept" && data.block[row]).map(([row, d]) =>
    data.block[row].trimEnd() + "\n" + field("record", data.record[row]) + field("id", data.id[row]) +
    field("smiles", data.smiles[row]) + field("decision", "accepted") + field("comment", d.comment) + "$$$$\n").join("");
}
