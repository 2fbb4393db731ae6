"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const falling = head.getAttribute("aria-sort") !== "descending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const [x, y] = [Number(a), Number(b)];
      const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
      return falling ? -order : order;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
}
const box = document.querySelector("#filter");
if (box) {
  const rows = [...document.querySelectorAll("#leaderboard tbody tr")];
  const common = JSON.parse(document.querySelector("#leaderboard").dataset.facts);
  const facts = new Map(rows.map((row) => [row, { ...common, ...JSON.parse(row.dataset.facts) }]));
  const told = document.querySelector("#shown");
  const signs = { "=": (a, b) => a === b, "!=": (a, b) => a !== b, "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b };
  const named = (row, name) => Object.keys(facts.get(row)).find((key) => key === name) ??
    Object.keys(facts.get(row)).find((key) => key.endsWith(`.${name}`));
  const holds = (row, term) => {
    if (!term.sign) return row.textContent.toLowerCase().includes(term.text);
    const key = named(row, term.key);
    if (key === undefined) return term.sign === "!=";
    const have = facts.get(row)[key];
    const both = [have, term.value].map(Number);
    const numbers = have !== "" && term.value !== "" && !both.some(Number.isNaN);
    if (!numbers && term.sign.match(/[<>]/)) return false;
    return numbers ? signs[term.sign](...both) : signs[term.sign](have, term.value);
  };
  const show = () => {
    const terms = box.value.toLowerCase().split(/\s+/).filter(Boolean).map((text) => {
      const [, key, sign, value] = text.match(/^([^=<>!]+)(>=|<=|!=|=|>|<)(.*)$/) ?? [];
      return { text, key, sign, value };
    });
    let count = 0;
    for (const row of rows) {
      row.hidden = !terms.every((term) => holds(row, term));
      count += !row.hidden;
    }
    const strange = terms.find((term) => term.sign && !rows.some((row) => named(row, term.key)));
    told.textContent = `${count} of ${rows.length} settings${strange ? `; none has a key ${strange.key}` : ""}`;
  };
  box.addEventListener("input", show);
  show();
}
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", () => {
    const target = document.getElementById(link.getAttribute("href").slice(1));
    if (target && target.tagName === "DETAILS") target.open = true;
  });
}
