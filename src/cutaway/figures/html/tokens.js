// Tokens in a row, coloured by strength: for pages that show where in a text something is active.
"use strict";
const Tokens = (() => {
  const marks = { "\n": "⏎", "\t": "⇥", "\r": "␍" };
  const visible = (text) =>
    text === "" ? "(empty)" : text.replace(/^ +| +$/g, (found) => "␣".repeat(found.length)).replace(/[\n\t\r]/g, (mark) => marks[mark]);

  // One token; strength 0 to 1, `value` what a pointer over it reads.
  const token = (text, strength, value, centre) => {
    const span = document.createElement("span");
    span.className = centre ? "token centre" : "token";
    // In running text a space is a space; a line end shows its mark, and ends no line.
    span.textContent = text.replace(/[\n\t\r]/g, (mark) => marks[mark]);
    if (strength > 0) {
      span.style.setProperty("--strength", strength.toFixed(3));
      span.classList.add("active");
      span.title = value;
    }
    return span;
  };

  // A bar of the colours from 0 to `top`.
  const legend = (top) => {
    const box = document.createElement("span");
    const bar = document.createElement("span");
    box.className = "strengths";
    bar.className = "scale";
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", `colours from 0 to ${top}`);
    box.append("0 ", bar, ` ${top}`);
    return box;
  };

  return { visible, token, legend };
})();
