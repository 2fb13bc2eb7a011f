"use strict";
(() => {
  const table = document.getElementById("list");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const filter = document.getElementById("filter");
  const which = document.getElementById("which");
  const texts = new Map(rows.map(row => [row, row.cells[0].textContent.toLowerCase() + " " + row.cells[1].textContent.toLowerCase()]));

  function show() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const wanted = words.every(word => texts.get(row).includes(word))
        && (!which.value || row.dataset.t.split(" ").includes(which.value));
      row.hidden = !wanted;
      count += wanted;
    }
    document.getElementById("count").textContent = `${count} of ${rows.length}`;
  }

  function key(row, column) {
    const cell = row.cells[column];
    return cell.dataset.s === undefined ? cell.textContent.toLowerCase() : Number(cell.dataset.s);
  }

  function sort(head) {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keys = new Map(rows.map(row => [row, key(row, head.cellIndex)]));
    rows.sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    });
    body.append(...rows);
  }

  // A strip has no element for each day; the pointer's place tells which one it is.
  body.addEventListener("pointermove", event => {
    const strip = event.target.closest("svg.s");
    if (!strip) return;
    const box = strip.getBoundingClientRect();
    const days = Number(table.dataset.days);
    const day = Math.min(days - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * days)));
    const date = new Date(Date.parse(table.dataset.first) + day * 86400000);
    strip.parentElement.title = date.toISOString().slice(0, 10);
  });

  filter.addEventListener("input", show);
  which.addEventListener("change", show);
  for (const head of table.tHead.rows[0].cells) {
    const button = head.querySelector("button");
    if (button) button.addEventListener("click", () => sort(head));
  }
  show();
})();
