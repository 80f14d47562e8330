"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;
const COLUMNS = [
  ["latent", "Latent", "its number in the SAE"],
  ["certified", "Certified", "reappears in at least half of new seeds, at the stated error rate"],
  ["reappearances", "Seeds", "other seeds in which it reappears"],
  ["theta", "Theta", "rate at which it would reappear in a new seed"],
  ["p_value", "p", "closeness of its matches against unrelated dictionaries"],
  ["density", "Density", "share of rows on which it fires"],
  ["mean_activation", "Mean", "mean activation where it fires"],
  ["max_activation", "Largest", "largest activation"],
  ["variance_share", "Variance", "share of the explained variance"],
];

function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}
function floats(text) { return new Float32Array(bytes(text).buffer); }

const column = { latent: Float32Array.from({ length: data.d_sae }, (_, i) => i) };
for (const [name, text] of Object.entries(data.columns)) column[name] = floats(text);
const perMatch = {};
for (const [name, text] of Object.entries(data.per_match)) perMatch[name] = floats(text);
const histograms = data.histograms === null ? null : bytes(data.histograms);
let contexts = null, contextWords = null;

/** Contexts are parsed when they are first needed, so that they cost nothing at opening. */
function contextsOf(latent) {
  if (contexts === null) contexts = JSON.parse(document.getElementById("contexts").textContent);
  return contexts[latent] || [];
}
function wordsOf(latent) {
  contextWords = contextWords || new Map();
  if (!contextWords.has(latent)) {
    const text = contextsOf(latent).map((one) => one.tokens.join("")).join("\n");
    contextWords.set(latent, text.toLowerCase());
  }
  return contextWords.get(latent);
}

const $ = (id) => document.getElementById(id);
function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
function number(value, name) {
  if (Number.isNaN(value)) return "–";
  if (name === "latent" || name === "reappearances" || name === "match") return String(value);
  if (name === "certified" || name === "reappears") return value ? "yes" : "no";
  if (value === 0) return "0";
  return Math.abs(value) < 0.001 ? value.toExponential(1) : value.toPrecision(3);
}

let order = Int32Array.from(column.latent), shown = order, first = 0;
let sorted = { name: "certified", down: true }, chosen = -1;

function sort() {
  const values = column[sorted.name], sign = sorted.down ? -1 : 1;
  order = Int32Array.from(column.latent).sort((a, b) => {
    const x = values[a], y = values[b];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;
    return sign * (x - y) || column.doubt[a] - column.doubt[b] || a - b;
  });
}
function filter() {
  const form = $("filters").elements;
  const limit = (name) => (form[name].value === "" ? null : Number(form[name].value));
  const wanted = form.certified.value, one = limit("number"), seeds = limit("reappearances");
  const low = limit("low"), high = limit("high"), share = limit("share");
  const words = form.words.value.trim().toLowerCase();
  shown = order.filter((i) => {
    if (wanted === "yes" && !column.certified[i]) return false;
    if (wanted === "no" && (column.certified[i] || !column.alive[i])) return false;
    if (wanted === "dead" && column.alive[i]) return false;
    if (one !== null && i !== one) return false;
    if (seeds !== null && !(column.reappearances[i] >= seeds)) return false;
    if (low !== null && !(column.density[i] >= low)) return false;
    if (high !== null && !(column.density[i] <= high)) return false;
    if (share !== null && !(column.variance_share[i] >= share)) return false;
    return words === "" || wordsOf(i).includes(words);
  });
  first = 0;
}
function draw() {
  const rows = document.createDocumentFragment();
  for (const i of shown.subarray(first, first + PAGE)) {
    const row = element("tr", null, { "aria-current": String(i === chosen) });
    for (const [name] of COLUMNS) {
      const cell = element(name === "latent" ? "th" : "td", null);
      const text = number(column[name][i], name);
      if (name === "latent") {
        cell.scope = "row";
        const button = element("button", text, { type: "button", "data-latent": i });
        button.setAttribute("aria-label", `Latent ${i}: show its passport`);
        cell.append(button);
      } else cell.textContent = text;
      if (name === "certified" && column.certified[i]) cell.className = "yes";
      row.append(cell);
    }
    rows.append(row);
  }
  $("rows").replaceChildren(rows);
  const last = Math.min(first + PAGE, shown.length);
  $("place").textContent = shown.length
    ? `${first + 1} to ${last} of ${shown.length} latents` : "No latent fits the filter";
  $("previous").disabled = first === 0;
  $("next").disabled = last >= shown.length;
  for (const head of $("head").children) {
    const active = head.dataset.name === sorted.name;
    head.setAttribute("aria-sort", active ? (sorted.down ? "descending" : "ascending") : "none");
  }
}

function show(latent, focus) {
  chosen = latent;
  $("name").textContent = `Latent ${latent}`;
  const box = $("details"), value = (name) => number(column[name][latent], name);
  box.replaceChildren();
  const said = !column.alive[latent] ? "Dead: it fires on none of the held-out rows."
    : column.certified[latent] ? "Certified." : "Not certified.";
  box.append(element("p", `${said} It reappears in ${value("reappearances")} of ` +
    `${data.others.length} other seeds; theta ${value("theta")} ` +
    `(95%: ${value("theta_low")} to ${value("theta_high")}), probability of theta below ` +
    `${data.bar} ${value("doubt")}. It fires on ${value("density")} of the rows, mean ` +
    `${value("mean_activation")}, largest ${value("max_activation")}, and owns ` +
    `${value("variance_share")} of the explained variance.`));
  box.append(drawHistogram(latent), drawMatches(latent), ...drawContexts(latent));
  for (const row of $("rows").children) {
    const own = Number(row.querySelector("button").dataset.latent) === latent;
    row.setAttribute("aria-current", String(own));
  }
  if (focus) $("latent").focus();
}
function drawHistogram(latent) {
  const part = element("div");
  if (histograms === null) return part;
  part.append(element("h3", "Activations where it fires"));
  const ns = "http://www.w3.org/2000/svg", picture = document.createElementNS(ns, "svg");
  const label = `Histogram from 0 to ${number(column.max_activation[latent])}`;
  for (const [key, value] of Object.entries({
    viewBox: `0 0 ${data.bins} 100`, preserveAspectRatio: "none", role: "img", "aria-label": label,
  })) picture.setAttribute(key, value);
  for (let k = 0; k < data.bins; k++) {
    const height = histograms[latent * data.bins + k] / 2.55;
    const bar = document.createElementNS(ns, "rect");
    for (const [key, value] of Object.entries({
      x: k + 0.05, y: 100 - height, width: 0.9, height,
    })) bar.setAttribute(key, value);
    picture.append(bar);
  }
  part.append(picture, element("p", label + ", heights relative to the highest bar.",
    { class: "soft" }));
  return part;
}
function drawMatches(latent) {
  const part = element("div"), m = data.others.length;
  part.append(element("h3", "Best match in every other seed"), element("p",
    "Cosine of decoder and of encoder, and correlation r of the activations.", { class: "soft" }));
  const names = [["match", "Latent"], ["decoder_cosine", "Decoder"],
    ["encoder_cosine", "Encoder"], ["activation_r", "r"],
    ["reappears", "Reappears"]];
  const table = element("table"), head = element("tr");
  head.append(element("th", "Seed", { scope: "col" }),
    ...names.map(([, title]) => element("th", title, { scope: "col" })));
  table.append(element("thead"), element("tbody"));
  table.tHead.append(head);
  for (let k = 0; k < m; k++) {
    const row = element("tr");
    row.append(element("th", data.others[k], { scope: "row" }));
    for (const [name] of names) row.append(element("td", number(perMatch[name][latent * m + k], name)));
    table.tBodies[0].append(row);
  }
  const scroll = element("div", null, { class: "scroll", tabindex: "0", role: "region",
    "aria-label": "Matches" });
  scroll.append(table);
  part.append(scroll);
  return part;
}
function drawContexts(latent) {
  const found = contextsOf(latent);
  if (!found.length) return [];
  const top = Math.max(...found.flatMap((one) => one.activations), 1e-30);
  const parts = [element("h3", "Strongest contexts")];
  for (const one of found) {
    const line = element("p", null, { class: "context" });
    const peak = Math.max(...one.activations);
    one.tokens.forEach((token, k) => {
      const value = one.activations[k], strong = value === peak && value > 0;
      const word = element(strong ? "b" : "span", token);
      if (value > 0) {
        word.style.background = `rgba(var(--heat), ${(0.15 + 0.45 * value / top).toFixed(2)})`;
        word.title = number(value);
      }
      line.append(word);
    });
    line.append(element("span", `  (largest ${number(peak)})`, { class: "soft" }));
    parts.push(line);
  }
  return parts;
}

function start() {
  document.title = $("title").textContent = data.title;
  const s = data.summary;
  $("lead").textContent = `${s.certified} of ${s.living} living latents are certified ` +
    `(${(100 * s.certified_share).toFixed(1)}%), compared with ${data.others.length} other seeds. ` +
    "A certificate says that a latent comes back; whether the SAE may be released is the gate's to say.";
  for (const [key, value] of Object.entries(data.facts)) {
    const pair = element("div");
    pair.append(element("dt", key), element("dd", String(value)));
    $("facts").append(pair);
  }
  for (const [text, address] of Object.entries(data.links)) {
    $("links").append(element("a", text, { href: address }), " ");
  }
  $("source").textContent = data.text_source ? `Contexts: ${data.text_source}` : "";
  $("search").hidden = !data.text_source;
  for (const [name, title, why] of COLUMNS) {
    const head = element("th", null, { scope: "col", "data-name": name });
    head.append(element("button", title, { type: "button", title: why }));
    $("head").append(head);
  }
  $("head").addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head) return;
    const name = head.dataset.name;
    sorted = { name, down: sorted.name === name ? !sorted.down : name !== "latent" };
    sort(); filter(); draw();
  });
  let waiting = 0;
  $("filters").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { filter(); draw(); }, 120);
  });
  $("filters").addEventListener("reset", () => setTimeout(() => { filter(); draw(); }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("rows").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (!row) return;
    location.hash = `latent=${row.querySelector("button").dataset.latent}`;
  });
  $("previous").addEventListener("click", () => { first = Math.max(0, first - PAGE); draw(); });
  $("next").addEventListener("click", () => { first += PAGE; draw(); });
  addEventListener("hashchange", () => follow(true));
  sort(); filter(); draw(); follow(false);
}
/** The address names the latent, so that a passport can be linked to. */
function follow(focus) {
  const found = /^#latent=(\d+)$/.exec(location.hash);
  if (found && Number(found[1]) < data.d_sae) show(Number(found[1]), focus);
}
start();
