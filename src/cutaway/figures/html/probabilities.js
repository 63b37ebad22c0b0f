// A text whose tokens are coloured by probability, at the layer that a slider chooses.
// One class name per token says its colour and whether its decision is wrong; only what changes is set.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("probabilities-data").textContent);
  const { words, tokens, layers, classes, labels, starts, steps } = data;
  const { probability, logit, percent } = ProbabilityLine;
  const root = document.querySelector(".probe");
  const find = (selector) => root.querySelector(selector);
  const reading = find(".reading");
  const card = find(".card");
  const slider = find("#layer");
  const limit = find("#threshold");
  const count = tokens.length;
  const MISSING = -32768;
  const REACH = 5; // log-odds either way of the colours' middle
  const SIDE = 10; // colours on each side of it
  const EMPTY = 2 * SIDE + 1; // in the place of a colour where there is no number
  const marks = { "\n": "↵", "\t": "⇥", " ": "␣" };

  const unpacked = (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Int16Array(bytes.buffer);
  };
  const values = unpacked(data.values);
  const own = data.own === null ? null : unpacked(data.own);
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const odds = (step) => (step === MISSING ? null : step / steps);
  const visible = (text) =>
    text === "" ? "(empty)" : text.replace(/^ +| +$|[\n\t]/g, (found) => Array.from(found, (one) => marks[one]).join(""));
  // a class that never or always occurs has no log-odds
  const usual = () => logit(Math.max(1e-6, Math.min(1 - 1e-6, classes[state.shown].prior)));
  const exact = (index) => {
    const word = words[tokens[index]];
    return typeof word === "string" ? word : word[1];
  };

  // test chooses nothing: where validation was not kept it is the last layer
  const kept = (one) => one.validation_balanced_accuracy ?? -1;
  const best = layers.reduce((found, one, index) => (kept(one) > kept(layers[found]) ? index : found), layers.length - 1);
  const state = { layer: best, shown: 0, centre: 0, half: false, threshold: 0, errors: false };
  let pinned = -1;
  let looked = -1; // what the card shows
  let roving = 0; // the token that Tab comes to
  let hits = new Uint8Array(count); // what "next" goes to

  // -- the text --------------------------------------------------------------------------------

  const spans = new Array(count);
  const begins = new Set(starts);
  const written = (text) => {
    const [span, lines] = [element("span"), text.split("\n")];
    lines.forEach((line, place) => {
      if (place > 0) {
        const mark = element("i", "↵");
        mark.setAttribute("aria-hidden", "true");
        span.append(mark, "\n");
      }
      if (line) span.append(line);
    });
    return span;
  };
  const whole = document.createDocumentFragment();
  let lines = null;
  let held = 0;
  for (let index = 0; index < count; index += 1) {
    if (begins.has(index)) {
      if (starts.length > 1) whole.append(element("h3", `Document ${starts.indexOf(index) + 1} of ${starts.length}`));
      lines = null;
    }
    if (lines === null) {
      lines = element("p", undefined, "lines");
      lines.dir = "auto";
      whole.append(lines);
      held = 0;
    }
    const word = words[tokens[index]];
    const text = typeof word === "string" ? word : word[0];
    const span = written(text);
    span.index = index;
    spans[index] = span;
    lines.append(span);
    held += 1;
    if (held >= 40 && text.endsWith("\n")) lines = null;
  }
  reading.append(whole);
  const kinds = spans.map((_, index) => (exact(index) !== "" && spans[index].textContent === "" ? "t part" : "t"));

  // -- colours and counts ----------------------------------------------------------------------

  const at = (layer, index) => odds(values[(layer * classes.length + state.shown) * count + index]);
  const truth = (index) => {
    if (labels === null || labels[index] < 0) return null;
    return labels[index] === classes[state.shown].label;
  };
  const level = (x) => (x === null ? EMPTY : Math.max(0, Math.min(2 * SIDE, Math.round((x - state.centre) * SIDE / REACH) + SIDE)));
  const colour = (number) => (number === EMPTY ? "missing" : `l${number}`);
  const codes = new Uint16Array(count).fill(65535);
  const seen = { tp: 0, fp: 0, fn: 0, tn: 0, positive: 0, missing: 0 };

  const render = () => {
    for (const name of Object.keys(seen)) seen[name] = 0;
    for (let index = 0; index < count; index += 1) {
      const x = at(state.layer, index);
      const label = truth(index);
      const above = x !== null && x >= state.threshold;
      const wrong = x !== null && label !== null && above !== label;
      hits[index] = x !== null && (labels === null ? above : wrong);
      if (x === null) seen.missing += 1;
      else if (label === null) seen.positive += above;
      else seen[above ? (label ? "tp" : "fp") : label ? "fn" : "tn"] += 1;
      const code = 4 * level(x) + 2 * (label === true) + hits[index];
      if (code !== codes[index]) {
        codes[index] = code;
        spans[index].className = `${kinds[index]} ${colour(code >> 2)}${label ? " y" : ""}${hits[index] ? " w" : ""}`;
      }
    }
    tell();
  };
  const share = (part, of) => (of ? `${(100 * part / of).toFixed(1)}\u00a0%` : "–");
  const tell = () => {
    const one = layers[state.layer];
    find(".layer output").textContent = `${one.name} · ${state.layer + 1} of ${layers.length}`;
    slider.setAttribute("aria-valuetext", one.name);
    const range = one.low === null || one.high === null ? "" : ` (${(100 * one.low).toFixed(1)}–${(100 * one.high).toFixed(1)})`;
    find(".score").textContent = one.balanced_accuracy === null
      ? "not scored on a test part" : `Test balanced accuracy ${share(one.balanced_accuracy, 1)}${range}`;
    find(".scale output").textContent = percent(probability(state.threshold));
    limit.setAttribute("aria-valuetext", percent(probability(state.threshold)));
    const { tp, fp, fn, tn, positive, missing } = seen;
    const without = missing ? ` ${missing.toLocaleString("en")} ${missing === 1 ? "token has" : "tokens have"} no number here.` : "";
    if (labels === null) {
      find(".rates").textContent = `${positive.toLocaleString("en")} of ${(count - missing).toLocaleString("en")} tokens are above the threshold.${without}`;
    } else {
      for (const name of ["tp", "fp", "fn", "tn"]) find(`.${name}`).textContent = seen[name].toLocaleString("en");
      const both = share((tp / (tp + fn) + tn / (fp + tn)) / 2, tp + fn && fp + tn ? 1 : 0);
      find(".rates").textContent = `In this text: recall ${share(tp, tp + fn)}, specificity ${share(tn, fp + tn)}, precision ${share(tp, tp + fp)}, balanced ${both}.${without}`;
    }
    if (looked >= 0) show(looked);
  };

  // -- the scale -------------------------------------------------------------------------------

  const ramp = find(".ramp");
  for (let number = 0; number <= 2 * SIDE; number += 1) ramp.append(element("span", undefined, colour(number)));
  const [prior, half] = [find("[data-centre='prior']"), find("[data-centre='half']")];
  const scale = () => {
    const kept = state.threshold;
    state.centre = state.half ? 0 : usual();
    state.threshold = Math.max(state.centre - REACH, Math.min(state.centre + REACH, kept));
    // a range snaps its value to its steps: what is set is kept, not what is read back
    limit.value = String(state.threshold - state.centre);
    const shown = [-REACH, -2, 0, 2, REACH].map((x) => [x, percent(probability(state.centre + x), 2)]);
    find(".ticks").replaceChildren(...shown.map(([x, text]) => {
      const tick = element("span", text);
      tick.style.left = `${50 + 50 * x / REACH}%`;
      return tick;
    }));
    ramp.setAttribute("aria-label", `Colours from blue, ${shown[0][1]}, over none, ${shown[2][1]}, to orange, ${shown[4][1]}`);
    prior.textContent = `${percent(probability(usual()))}, its share`;
    prior.setAttribute("aria-pressed", String(!state.half));
    half.setAttribute("aria-pressed", String(state.half));
  };
  // Moves where there is no colour, and the threshold with it: blue is below it, orange above.
  const centre = (on) => {
    state.half = on;
    state.threshold = on ? 0 : usual();
    scale();
    render();
  };

  // -- the card --------------------------------------------------------------------------------

  const sentence = (yes) => (yes ? data.yes : data.no).replace("{class}", visible(classes[state.shown].name));
  const verdict = (x, label) => {
    if (x === null) return "The state is not finite here: no probability.";
    const side = x >= state.threshold ? "Above" : "Below";
    if (label === null) return `${side} the threshold${labels === null ? "" : "; the text does not say what is right"}.`;
    const right = (x >= state.threshold) === label;
    return `${side} the threshold, ${right ? "right" : "wrong"}: ${sentence(label)}.`;
  };
  const drawing = (index) => ProbabilityLine.drawing(
    layers.map(({ name }, layer) => ({ name, x: at(layer, index) })),
    { here: state.layer, prior: usual(), limit: state.threshold },
  );
  const show = (index) => {
    looked = index;
    const x = at(state.layer, index);
    const label = truth(index);
    const document_ = starts.length > 1 ? starts.findLastIndex((start) => start <= index) : 0;
    const place = starts.length > 1
      ? `token ${(index - starts[document_] + 1).toLocaleString("en")} of document ${document_ + 1}`
      : `token ${(index + 1).toLocaleString("en")} of ${count.toLocaleString("en")}`;
    const figure = element("p", undefined, "p");
    figure.append(element("span", undefined, colour(level(x))), x === null ? "no number" : percent(probability(x)));
    card.replaceChildren(element("h3", visible(exact(index))), element("p", `${place}${index === pinned ? ", pinned" : ""}`, "soft"), figure);
    if (index === pinned) card.append(buttons);
    if (x !== null) {
      const times = Math.exp(x - usual());
      const shown = (number) => (number >= 9.95 ? Math.round(number).toLocaleString("en") : number.toFixed(1));
      card.append(element("p", times >= 1 ? `odds ${shown(times)} times the usual` : `odds ${shown(1 / times)} times lower than usual`, "soft"));
    }
    card.append(element("p", verdict(x, label)));
    if (own !== null) {
      const p = odds(own[index]);
      card.append(element("p", `The model's own P(${visible(classes[state.shown].name)}): ${p === null ? "no number" : percent(probability(p))}`));
    }
    if (layers.length > 1) {
      card.append(drawing(index), element("p", "Probability by layer. Dotted: natural share; dashed: threshold.", "soft"));
    }
  };
  const buttons = element("div", undefined, "go"); // for screens where the panel is out of sight
  for (const [text, name, act] of [["‹", "Previous", () => jump(-1)], ["›", "Next", () => jump(1)], ["✕", "Let go", () => release()]]) {
    const button = element("button", text);
    button.type = "button";
    button.setAttribute("aria-label", name);
    button.addEventListener("click", act);
    buttons.append(button);
  }
  const empty = () => {
    looked = -1;
    card.replaceChildren(element("p", "Point at a token to read it; click to pin it.", "soft"));
  };
  const say = (text) => { find(".spoken").textContent = text; };
  const address = () => {
    const parts = { layer: state.layer, ...(classes.length > 1 && { class: state.shown }), ...(pinned >= 0 && { token: pinned }) };
    history.replaceState(null, "", `#${new URLSearchParams(parts)}`);
  };

  // -- pinning and walking ---------------------------------------------------------------------

  const rove = (index) => {
    spans[roving].removeAttribute("tabindex");
    roving = index;
    spans[roving].tabIndex = 0;
  };
  const release = () => {
    if (pinned >= 0) spans[pinned].removeAttribute("aria-current");
    pinned = -1;
    card.classList.remove("pinned");
    empty();
    address();
  };
  const pin = (index, { scroll = false, focus = false } = {}) => {
    if (pinned >= 0) spans[pinned].removeAttribute("aria-current");
    pinned = index;
    spans[index].setAttribute("aria-current", "true");
    card.classList.add("pinned");
    rove(index);
    show(index);
    address();
    if (focus) spans[index].focus({ preventScroll: true });
    if (scroll) spans[index].scrollIntoView({ block: scroll === true ? "center" : scroll });
    const x = at(state.layer, index);
    say(`${visible(exact(index))}, ${x === null ? "" : `${percent(probability(x))}. `}${verdict(x, truth(index))}`);
  };
  const jump = (way) => {
    for (let gone = 1; gone <= count; gone += 1) {
      const begin = pinned >= 0 ? pinned : way > 0 ? roving - 1 : roving + 1;
      const index = (((begin + way * gone) % count) + count) % count;
      if (hits[index]) {
        pin(index, { scroll: true, focus: reading.contains(document.activeElement) });
        return;
      }
    }
    say(labels === null ? "No token is above the threshold." : "No decision disagrees with its label.");
  };
  const errors = (on) => {
    state.errors = on;
    reading.classList.toggle("only-errors", on);
    find(".errors").setAttribute("aria-pressed", String(on));
  };
  const turn = (layer) => {
    state.layer = Math.max(0, Math.min(layers.length - 1, layer));
    slider.value = String(state.layer);
    address();
    render();
  };

  reading.addEventListener("mouseover", (event) => {
    const span = event.target.closest(".t");
    if (span && pinned < 0) show(span.index);
  });
  reading.addEventListener("click", (event) => {
    const span = event.target.closest(".t");
    if (!span || String(getSelection())) return;
    if (span.index === pinned) release();
    else pin(span.index);
  });
  reading.addEventListener("focusin", (event) => {
    if (event.target.index !== undefined && pinned < 0) show(event.target.index);
  });
  slider.addEventListener("input", () => turn(Number(slider.value)));
  limit.addEventListener("input", () => {
    state.threshold = state.centre + Number(limit.value);
    render();
  });
  prior.addEventListener("click", () => centre(false));
  half.addEventListener("click", () => centre(true));
  find(".errors").addEventListener("click", () => errors(!state.errors));
  find(".before").addEventListener("click", () => jump(-1));
  find(".after").addEventListener("click", () => jump(1));
  find("select").addEventListener("change", (event) => {
    choose(Number(event.target.value));
    address();
  });
  document.addEventListener("keydown", (event) => {
    const on = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || on.tagName === "SELECT") return;
    const range = on.type === "range"; // its arrows are its own
    const inside = reading.contains(on);
    const walk = (way) => {
      const next = (pinned >= 0 ? pinned : roving) + way;
      pin(Math.max(0, Math.min(count - 1, next)), { scroll: "nearest", focus: inside });
    };
    const keys = {
      ArrowLeft: range ? null : () => { turn(state.layer - 1); say(layers[state.layer].name); },
      ArrowRight: range ? null : () => { turn(state.layer + 1); say(layers[state.layer].name); },
      ArrowUp: !range && (inside || pinned >= 0) ? () => walk(-1) : null,
      ArrowDown: !range && (inside || pinned >= 0) ? () => walk(1) : null,
      Enter: inside ? () => (pinned === roving ? release() : pin(roving)) : null,
      Escape: release,
      n: () => jump(1),
      p: () => jump(-1),
      e: () => errors(!state.errors),
    };
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // -- the beginning ---------------------------------------------------------------------------

  const choose = (shown) => {
    state.shown = shown;
    find(".counts .yes").textContent = visible(classes[shown].name);
    find(".underlined").textContent = labels === null ? "" : `Underlined: ${sentence(true)}.`;
    centre(state.half);
  };
  slider.max = String(layers.length - 1);
  find(".class").hidden = classes.length === 1;
  find("select").append(...classes.map((one, index) => {
    const option = element("option", one.name);
    option.value = String(index);
    return option;
  }));
  const what = labels === null ? "above the threshold" : "disagreement";
  find(".what").textContent = `next, previous ${what}`;
  find(".before").setAttribute("aria-label", `Previous ${what}`);
  find(".after").setAttribute("aria-label", `Next ${what}`);
  find(".counts").hidden = labels === null;
  if (labels === null) {
    find(".errors").textContent = "Above only";
    find(".only").textContent = "above only";
  }
  const asked = new URLSearchParams(location.hash.slice(1));
  const wanted = (name, end) => {
    const number = Number(asked.get(name) ?? NaN);
    return Number.isInteger(number) && number >= 0 && number < end ? number : null;
  };
  state.layer = wanted("layer", layers.length) ?? best;
  slider.value = String(state.layer);
  rove(0);
  empty();
  find("select").value = String(wanted("class", classes.length) ?? 0);
  choose(Number(find("select").value));
  const token = wanted("token", count);
  if (token !== null) pin(token, { scroll: true });
})();
