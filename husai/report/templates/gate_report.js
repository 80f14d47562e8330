// Sorting, meanings of words, and folding. Without this script the page is the same page, unfolded by hand.
"use strict";
const tip = document.getElementById("tip");
const number = (text) => {
  const found = text.replace(/^\[/, "").match(/^[-+]?(\d+\.?\d*(e[-+]?\d+)?|inf)/i);
  return found ? Number(found[0].replace(/inf/i, "Infinity")) : NaN;
};

function sort(head, index) {
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = head.closest("table").tBodies[0];
  const rows = [...body.rows].map((row) => [row.cells[index].textContent.trim(), row]);
  const one = ([a], [b]) => {
    const [x, y] = [number(a), number(b)];
    if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1; // what is no number comes last
    const order = isNaN(x) ? a.localeCompare(b) : x === y ? 0 : x - y;
    return descending ? -order : order;
  };
  rows.sort(one);
  body.append(...rows.map(([, row]) => row));
}

for (const head of document.querySelectorAll("th")) {
  if (head.closest("table").tBodies[0].rows.length < 2) continue;
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  const described = head.getAttribute("aria-describedby");
  if (described) button.setAttribute("aria-describedby", described);
  head.removeAttribute("aria-describedby");
  head.append(button);
  button.addEventListener("click", () => sort(head, head.cellIndex));
}

const show = (event) => {
  const at = event.target.closest("[aria-describedby]");
  tip.hidden = !at;
  if (at) tip.textContent = document.getElementById(at.getAttribute("aria-describedby")).textContent;
};
document.addEventListener("mouseover", show);
document.addEventListener("focusin", show);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

const folded = [...document.querySelectorAll("details")];
const unfold = () => folded.forEach((one) => { one.open = true; });
const reveal = () => {
  const at = location.hash && document.getElementById(location.hash.slice(1));
  const inside = at && (at.querySelector("details") || at.closest("details"));
  if (inside) inside.open = true;
};
document.getElementById("unfold").addEventListener("click", unfold);
addEventListener("hashchange", reveal);
addEventListener("beforeprint", unfold);
reveal();
