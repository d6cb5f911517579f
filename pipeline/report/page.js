"use strict";
// Sorting of tables, the settings of a variant, and the choice of two variants. Charts and pictures follow that choice.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// The number with which a cell starts; null for text, NaN for an absent value.
function numberIn(text) {
  if (text === "–") return NaN;
  const match = text.replaceAll(",", "").match(/^[+-]?(\d+(\.\d+)?(e[+-]?\d+)?|inf)/);
  return match ? Number(match[0].replace("inf", "Infinity")) : null;
}

// Order of two cells; absent values come last in both directions.
function order(left, right, numeric, sign) {
  if (left === "–" || right === "–") return (left === "–") - (right === "–");
  if (numeric) return sign * (numberIn(left) - numberIn(right));
  return sign * left.localeCompare(right, "en", { numeric: true });
}

function sortBy(heading) {
  const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
  const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const text = (row) => row.cells[column].textContent.trim();
  const rows = [...body.rows];
  const numeric = rows.every((row) => numberIn(text(row)) !== null);
  rows.sort((a, b) => order(text(a), text(b), numeric, direction === "ascending" ? 1 : -1));
  body.append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
}
for (const heading of all("table.sortable thead th")) heading.firstElementChild.onclick = () => sortBy(heading);

// The settings of a variant appear under its name, on hover and on focus; a click or a tap keeps them.
for (const button of all("button.settings")) {
  const tip = document.getElementById(button.getAttribute("popovertarget"));
  const show = () => {
    if (!tip.matches(":popover-open")) tip.showPopover();
    const below = button.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(below.left, innerWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${below.bottom + tip.offsetHeight > innerHeight ? below.top - tip.offsetHeight : below.bottom}px`;
  };
  const hide = () => tip.matches(":popover-open") && tip.hidePopover();
  button.onmouseenter = button.onfocus = show;
  button.onmouseleave = button.onblur = hide;
  button.onclick = (event) => { event.preventDefault(); show(); };
}

// Two variants beside each other: `followers` are called with the chosen names.
const sides = ["left", "right"], followers = [];
const chosen = () => sides.map((side) => document.getElementById(side).value);
const follow = (call) => { followers.push(call); return call(...chosen()); };
for (const side of sides) document.getElementById(side).onchange = () => followers.forEach((call) => call(...chosen()));

follow((left, right) => {
  for (const figure of all("figure[data-variant]")) {
    const variant = figure.dataset.variant;
    figure.hidden = variant !== left && variant !== right;
    figure.style.order = variant === left ? 0 : 1;
  }
});
