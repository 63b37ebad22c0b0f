// Tables: a click (or Enter) on a head sorts by it, a box above longer tables filters rows.
"use strict";
for (const table of document.querySelectorAll(".table table")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const text = (row, column) => row.cells[column].textContent;
  const value = (row, column) => {
    const exact = row.cells[column].dataset.value;
    return exact === undefined ? null : Number(exact);
  };

  heads.forEach((head, column) => {
    const numeric = head.classList.contains("number");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      // Numbers begin with the largest, words with A; a second click turns the order round.
      const down = before ? before === "ascending" : numeric;
      const sign = down ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows.slice().sort((a, b) => {
        if (!numeric) return sign * text(a, column).localeCompare(text(b, column));
        const [x, y] = [value(a, column), value(b, column)];
        if (x === null || y === null) return (x === null) - (y === null); // missing ones last
        return sign * (x - y);
      }));
    });
  });

  if (rows.length < 10) continue;
  const box = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("span");
  box.className = "filter";
  input.type = "search";
  input.placeholder = "Filter rows";
  input.setAttribute("aria-label", "Filter rows");
  count.setAttribute("aria-live", "polite");
  box.append(input, count);
  table.closest(".table").prepend(box);
  const filter = () => {
    const wanted = input.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
  };
  input.addEventListener("input", filter);
  filter();
}
