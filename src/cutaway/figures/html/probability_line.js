// A line of probabilities over layers, drawn on the scale of log-odds, and how these are written.
"use strict";
const ProbabilityLine = (() => {
  const probability = (x) => 1 / (1 + Math.exp(-x));
  const logit = (p) => Math.log(p / (1 - p));
  const percent = (p, digits = 3) => {
    if (p < 1e-6) return "<\u00a00.0001\u00a0%";
    if (p > 0.99999) return ">\u00a099.999\u00a0%";
    // near 100 % what is left of it is what has digits
    const places = Math.max(0, digits - 1 - Math.floor(Math.log10(100 * Math.min(p, 1 - p)) + 1e-9));
    return `${(100 * p).toFixed(Math.min(places, p < 0.5 ? 6 : digits))}\u00a0%`;
  };

  // `points`: each layer's name and log-odds x, null where there is no number. `here` is the layer
  // that is shown; `prior` and `limit` are log-odds that get a line across.
  const drawing = (points, { here, prior, limit }) => {
    const [width, height, left, right, top, foot] = [300, 132, 44, 8, 6, 17];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const add = (name, attributes, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      if (text !== undefined) made.textContent = text;
      svg.append(made);
      return made;
    };
    svg.setAttribute("viewBox", `0 0 ${width} ${height + foot}`);
    svg.setAttribute("role", "img");
    const count = points.length;
    const real = points.map(({ x }) => x).filter((x) => x !== null);
    const low = Math.min(prior, limit, ...real) - 0.6;
    const high = Math.max(prior, limit, ...real) + 0.6;
    const y = (x) => top + (height - top) * (high - x) / (high - low);
    const across = (layer) => (count === 1 ? (left + width - right) / 2 : left + (width - left - right) * layer / (count - 1));
    let last = Infinity;
    const coarse = [1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999];
    const fine = [1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 0.99995, 0.99999];
    const within = (ticks) => ticks.filter((p) => logit(p) >= low && logit(p) <= high);
    for (const p of within(within(coarse).length > 1 ? coarse : fine)) {
      const x = logit(p);
      if (last - y(x) < 13) continue;
      last = y(x);
      add("line", { class: "axis", x1: left, x2: width - right, y1: last, y2: last });
      add("text", { x: left - 5, y: last + 3.2, "text-anchor": "end" }, `${Number((100 * p).toPrecision(5))} %`);
    }
    add("line", { class: "prior", x1: left, x2: width - right, y1: y(prior), y2: y(prior) });
    add("line", { class: "limit", x1: left, x2: width - right, y1: y(limit), y2: y(limit) });
    let path = "";
    points.forEach(({ x }, layer) => {
      if (x !== null) path += `${layer > 0 && points[layer - 1].x !== null ? "L" : "M"}${across(layer).toFixed(1)} ${y(x).toFixed(1)}`;
    });
    add("path", { class: "line", d: path });
    points.forEach(({ name, x }, layer) => {
      if (x === null || (count > 30 && layer !== here)) return;
      const dot = add("circle", { class: layer === here ? "dot here" : "dot", cx: across(layer).toFixed(1), cy: y(x).toFixed(1), r: layer === here ? 4.5 : 2.2 });
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = `${name}: ${percent(probability(x))}`;
      dot.append(title);
    });
    const foot_ = height + foot - 4;
    if (count > 1) {
      add("text", { x: left, y: foot_, "text-anchor": "start" }, points[0].name);
      add("text", { x: width - right, y: foot_, "text-anchor": "end" }, points[count - 1].name);
    }
    const told = points.map(({ name, x }) => `${name} ${x === null ? "no number" : percent(probability(x))}`);
    svg.setAttribute("aria-label", `Probability at every layer: ${told.join(", ")}`);
    return svg;
  };
  return { probability, logit, percent, drawing };
})();
