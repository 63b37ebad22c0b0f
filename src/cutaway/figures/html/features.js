// A dictionary's features: a table that is searched and sorted, and a card of the chosen one.
// The data is in the page; rows are made as they come into sight.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("features-data").textContent);
  const { words, features, edges } = data;
  const root = document.querySelector(".features");
  const list = root.querySelector(".list");
  const body = list.querySelector("tbody");
  const heads = Array.from(list.querySelectorAll("th"));
  const input = root.querySelector("input");
  const count = root.querySelector(".filter span");
  const card = root.querySelector(".card");
  const more = root.querySelector(".more");
  const none = root.querySelector(".none");
  const STEP = 100; // rows made at a time
  const LEVELS = 35; // an example's activations are written as digits 0 to z
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const short = (value) => {
    const size = Math.abs(value);
    if (value === 0) return "0";
    if (size >= 0.01 && size < 10000) return String(Number(value.toPrecision(3)));
    return value.toExponential(1);
  };
  const percent = (share) => (share >= 1e-6 ? `${Number((100 * share).toPrecision(2))}%` : `${(100 * share).toExponential(0)}%`);
  const shown = (id) => Tokens.visible(words[id]);

  // What a feature is found by, and what its row shows.
  const lowered = words.map((word) => word.toLowerCase());
  const texts = features.map((one, index) =>
    [`#${index}`, ...one.tokens.map((pair) => lowered[pair[0]]), ...one.promoted.map((pair) => lowered[pair[0]])]);
  const keys = {
    feature: (index) => index,
    density: (index) => features[index].density,
    max: (index) => features[index].max,
    tokens: (index) => (features[index].tokens.length ? lowered[features[index].tokens[0][0]] : null),
    promoted: (index) => (features[index].promoted.length ? lowered[features[index].promoted[0][0]] : null),
  };

  let order = features.map((_, index) => index);
  let made = 0;
  let chosen = -1;

  const row = (index) => {
    const one = features[index];
    const line = element("tr", undefined, one.density ? "" : "dead");
    const head = element("td", undefined, "number");
    const button = element("button", String(index));
    button.type = "button";
    button.dataset.feature = index;
    button.tabIndex = -1;
    head.append(button);
    line.dataset.feature = index;
    if (index === chosen) line.setAttribute("aria-current", "true");
    line.append(
      head,
      element("td", one.density ? percent(one.density) : "dead", "number"),
      element("td", one.density ? short(one.max) : "–", "number"),
      element("td", one.tokens.map((pair) => shown(pair[0])).join("  ")),
    );
    if (data.promotes) line.append(element("td", one.promoted.map((pair) => shown(pair[0])).join("  ")));
    return line;
  };
  const extend = () => {
    const next = order.slice(made, made + STEP);
    body.append(...next.map(row));
    made += next.length;
    more.hidden = made >= order.length;
    reachable();
  };
  // One row of the table takes part in tabbing: the chosen one, else the first.
  const reachable = () => {
    for (const button of body.querySelectorAll("button[tabindex='0']")) button.tabIndex = -1;
    const button = body.querySelector("tr[aria-current] button") || body.querySelector("button");
    if (button) button.tabIndex = 0;
  };
  const render = () => {
    body.replaceChildren();
    made = 0;
    list.scrollTop = 0;
    extend();
    const of = order.length === features.length ? "" : ` of ${features.length}`;
    count.textContent = `${order.length}${of} features`;
    none.hidden = order.length > 0;
    none.textContent = `No feature has “${input.value}” among its tokens.`;
  };

  const sorted = (indices) => {
    const head = heads.find((one) => one.hasAttribute("aria-sort"));
    const key = keys[head.dataset.key];
    const sign = head.getAttribute("aria-sort") === "descending" ? -1 : 1;
    return indices
      .map((index) => [key(index), index])
      .sort(([a, i], [b, j]) => {
        if (a === null || b === null) return (a === null) - (b === null) || i - j; // missing ones last
        return sign * (typeof a === "string" ? a.localeCompare(b) : a - b) || i - j;
      })
      .map(([, index]) => index);
  };
  const search = () => {
    const wanted = input.value.toLowerCase();
    const all = features.map((_, index) => index);
    // A number finds that feature; anything else is looked for in tokens, spaces at its ends too.
    const number = /^#?\d+$/.test(wanted.trim()) ? `#${wanted.trim().replace("#", "")}` : null;
    order = sorted(all.filter((index) =>
      wanted === "" || texts[index].some((text) => text === number || (!text.startsWith("#") && text.includes(wanted)))));
    render();
  };
  for (const head of heads) {
    const button = element("button", head.textContent);
    button.type = "button";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : "down" in head.dataset;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      order = sorted(order);
      render();
    });
  }

  // -- the card ------------------------------------------------------------------------------

  const histogram = (one) => {
    const first = one.bins[0];
    const counts = one.bins.slice(1);
    const [width, height, foot] = [260, 70, 16];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const add = (name, attributes, text) => {
      const part = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value);
      if (text !== undefined) part.textContent = text;
      svg.append(part);
      return part;
    };
    svg.setAttribute("viewBox", `0 0 ${width} ${height + foot}`);
    svg.setAttribute("class", "histogram");
    svg.setAttribute("role", "img");
    const [low, high] = [edges[first], edges[first + counts.length]];
    svg.setAttribute("aria-label", `Histogram of ${one.fires} activations from ${short(low)} to ${short(high)}`);
    const most = Math.max(...counts);
    const each = width / Math.max(counts.length, 6);
    add("line", { x1: 0, x2: width, y1: height, y2: height });
    counts.forEach((value, place) => {
      const tall = (height - 2) * value / most;
      const bar = add("rect", { x: place * each + 0.5, y: height - tall, width: each - 1, height: tall });
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = `${short(edges[first + place])} to ${short(edges[first + place + 1])}: ${value} tokens`;
      bar.append(title);
    });
    // Every border is named, or every second, ...: as many as stand apart at about 5 units a letter.
    const named = (every) => {
      const labels = [];
      for (let place = 0; place <= counts.length; place += every) {
        const [at, text] = [place * each, short(edges[first + place])];
        const anchor = place === 0 ? "start" : at > width - 12 ? "end" : "middle";
        const left = at - 5 * text.length * { start: 0, middle: 0.5, end: 1 }[anchor];
        labels.push({ at, text, anchor, left, right: left + 5 * text.length });
      }
      return labels;
    };
    let every = 1;
    const crowded = (one, place, all) => place > 0 && one.left < all[place - 1].right + 6;
    while (named(every).some(crowded)) every += 1;
    for (const { at, text, anchor } of named(every)) {
      add("text", { x: at, y: height + 11, "text-anchor": anchor }, text);
    }
    return svg;
  };
  const chips = (pairs, before) => {
    const all = element("ul", undefined, "words");
    for (const [id, value, title] of pairs) {
      const item = element("li", `${shown(id)} `);
      item.append(element("span", `${before}${short(value)}`));
      if (title) item.title = title;
      all.append(item);
    }
    return all;
  };
  const example = (one, [value, documentNumber, position, centre, ids, levels]) => {
    const item = element("li");
    const text = element("span", undefined, "tokens");
    ids.forEach((id, place) => {
      const level = parseInt(levels[place], 36) / LEVELS;
      const exact = place === centre ? short(value) : `about ${short(level * one.max)}`;
      text.append(Tokens.token(words[id], level, exact, place === centre));
    });
    const figure = element("span", short(value), "value");
    figure.title = `document ${documentNumber}, position ${position}`;
    item.append(figure, text);
    return item;
  };
  const choose = (index, { scroll = false } = {}) => {
    chosen = index;
    const one = features[index];
    card.replaceChildren();
    card.scrollTop = 0;
    card.append(element("h3", `Feature ${index}`));
    if (one.density) {
      card.append(element("p", `Fires on ${percent(one.density)} of tokens (${one.fires.toLocaleString("en")}), at most ${short(one.max)}, ${short(one.mean)} on average.`, "soft"));
      card.append(element("h4", "Activations"), histogram(one));
      card.append(element("p", `Tokens by activation; the tallest bar is ${Math.max(...one.bins.slice(1)).toLocaleString("en")}.`, "soft"));
    } else {
      card.append(element("p", "Dead: it fired on none of the tokens read.", "soft"));
    }
    if (one.tokens.length) {
      card.append(element("h4", "Fires on (times more often than on any token)"), chips(one.tokens, "×"));
    }
    if (one.promoted.length) {
      card.append(element("h4", "Promotes (logits per unit of activation)"), chips(one.promoted, "+"));
    }
    if (one.examples.length) {
      card.append(element("h4", "Strongest examples"), Tokens.legend(short(one.max)));
      const all = element("ul", undefined, "examples");
      all.append(...one.examples.map((found) => example(one, found)));
      card.append(all);
    }
    for (const line of body.querySelectorAll("tr[aria-current]")) line.removeAttribute("aria-current");
    const line = body.querySelector(`tr[data-feature='${index}']`);
    if (line) {
      line.setAttribute("aria-current", "true");
      if (scroll) line.scrollIntoView({ block: "nearest" });
    }
    reachable();
    history.replaceState(null, "", `#feature=${index}`);
  };

  body.addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    if (line) choose(Number(line.dataset.feature));
  });
  // Arrow keys go through the table, from the search box too.
  root.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    if (event.target !== input && !body.contains(event.target)) return;
    event.preventDefault();
    const lines = Array.from(body.rows);
    const now = lines.findIndex((line) => line.contains(event.target));
    const next = event.key === "ArrowDown" ? now + 1 : now - 1;
    if (next < 0 && event.target !== input) return input.focus();
    if (next >= lines.length && !more.hidden) extend();
    const line = body.rows[next];
    if (!line) return undefined;
    choose(Number(line.dataset.feature), { scroll: true });
    return line.querySelector("button").focus();
  });
  more.addEventListener("click", extend);
  list.addEventListener("scroll", () => {
    if (list.scrollTop + list.clientHeight > list.scrollHeight - 400 && !more.hidden) extend();
  });
  input.addEventListener("input", search);
  for (const link of document.querySelectorAll("a[href^='#feature=']")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      choose(Number(link.hash.slice("#feature=".length)));
    });
  }

  // `#search=word` and `#feature=12`, or `#12`, in the address, so that either can be linked to.
  const asked = new URLSearchParams(location.hash.slice(1).replace(/^\d+$/, "feature=$&"));
  if (asked.has("search")) input.value = asked.get("search");
  search();
  const first = asked.has("feature") ? Number(asked.get("feature")) : order[0];
  if (features[first]) choose(first);
})();
