"use strict";
// The picture: accuracy against cost, in SVG; where no accuracy is known, size against cost. Colour and shape say how a model mixes, an open point is a prediction, a line is an interval.
zoo.chart = (() => {
  const { across, front, less, unit: unitOf } = zoo.records;
  const SVG = "http://www.w3.org/2000/svg";
  const EDGE = { left: 56, right: 18, top: 14, bottom: 46 };
  const SIZE = 5;
  const AXES = { ms: "latency, ms", macs: "MACs", params: "parameters", memory: "memory" };
  const SHAPES = {
    convolution: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
    attention: (r) => `M0,${-1.25 * r}L${1.15 * r},${0.8 * r}H${-1.15 * r}z`,
    recurrence: (r) => `M${-0.9 * r},${-0.9 * r}h${1.8 * r}v${1.8 * r}h${-1.8 * r}z`,
    MLP: (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0z`,
    hybrid: (r) => `M0,${1.25 * r}L${1.15 * r},${-0.8 * r}H${-1.15 * r}z`,
    other: (r) => `M${-r},${-0.35 * r}H${-0.35 * r}V${-r}H${0.35 * r}V${-0.35 * r}H${r}V${0.35 * r}H${0.35 * r}V${r}H${-0.35 * r}V${0.35 * r}H${-r}z`,
  };

  function draw(name, attributes, ...content) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...content);
    return made;
  }

  const unit = (axis, value) => (axis === "ms" ? zoo.words.ms(value) : axis === "memory" ? zoo.words.bytes(value) : zoo.words.count(value));

  // Powers across: 1, 2 and 5 of each, as many as there is room for.
  function powers(low, high, room) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const step of [1, 2, 5]) ticks.push(step * 10 ** power);
    }
    const inside = ticks.filter((tick) => tick >= low && tick <= high);
    return inside.length * 56 <= room ? inside : inside.filter((tick) => Math.log10(tick) % 1 === 0);
  }

  function steps(low, high) {
    const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const ticks = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + 1e-9; tick += step) ticks.push(+tick.toFixed(6));
    return ticks;
  }

  // What stands up: accuracy, or the parameters of models of which none has one.
  const plain = (metric) => metric === "";
  const upward = (row, metric) => (plain(metric) ? row.params : row.accuracy);

  function logarithmic(values) {
    const [first, last] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))], space = 0.06 * (last - first) || 0.3;
    const [low, high] = [first - space, last + space];
    return { share: (value) => (Math.log10(value) - low) / (high - low), ticks: (room) => powers(10 ** low, 10 ** high, room) };
  }
  function linear(values) {
    const [first, last] = [Math.min(...values), Math.max(...values)], margin = 0.07 * (last - first) || 1;
    const [low, high] = [first - margin, last + margin];
    return { share: (value) => (value - low) / (high - low), ticks: () => steps(low, high) };
  }

  function scales(points, axis, metric, width, height) {
    const long = width - EDGE.left - EDGE.right, high = height - EDGE.top - EDGE.bottom;
    const flat = logarithmic(points.map((row) => across(row, axis))), values = points.map((row) => upward(row, metric));
    const steep = plain(metric) ? logarithmic(values) : linear(values);
    const share = (value) => (less(metric) ? steep.share(value) : 1 - steep.share(value));
    return { x: (value) => EDGE.left + flat.share(value) * long, y: (value) => EDGE.top + share(value) * high, xs: flat.ticks(long), ys: steep.ticks(1.6 * high) };
  }

  const upName = (metric) => (plain(metric) ? "parameters" : [metric, unitOf(metric)].filter(Boolean).join(", "));

  function grid(scale, axis, metric, width, height) {
    const lines = draw("g", { class: "rules" });
    for (const tick of scale.xs) {
      lines.append(draw("line", { x1: scale.x(tick), x2: scale.x(tick), y1: EDGE.top, y2: height - EDGE.bottom }));
      lines.append(draw("text", { x: scale.x(tick), y: height - EDGE.bottom + 17, "text-anchor": "middle" }, unit(axis, tick)));
    }
    for (const tick of scale.ys) {
      lines.append(draw("line", { x1: EDGE.left, x2: width - EDGE.right, y1: scale.y(tick), y2: scale.y(tick) }));
      lines.append(draw("text", { x: EDGE.left - 8, y: scale.y(tick) + 4, "text-anchor": "end" }, plain(metric) ? zoo.words.count(tick) : String(tick)));
    }
    lines.append(draw("text", { class: "axis", x: (EDGE.left + width - EDGE.right) / 2, y: height - 8, "text-anchor": "middle" }, AXES[axis]));
    lines.append(draw("text", { class: "axis", x: -(height - EDGE.bottom + EDGE.top) / 2, y: 13, transform: "rotate(-90)", "text-anchor": "middle" }, upName(metric)));
    return lines;
  }

  function staircase(best, scale, axis, metric) {
    const places = best.map((row) => [scale.x(across(row, axis)), scale.y(upward(row, metric))]);
    const path = places.map(([x, y], i) => (i ? `H${x.toFixed(1)}V${y.toFixed(1)}` : `M${x.toFixed(1)},${y.toFixed(1)}`)).join("");
    return draw("path", { class: "front", d: path });
  }

  function point(row, scale, axis, metric, chosen) {
    const x = scale.x(across(row, axis)), y = scale.y(upward(row, metric)), time = axis === "ms" ? row.time : null;
    const guessed = time?.state === "predicted", doubtful = time && !guessed && time.state !== "clean";
    const classes = `point m-${row.model.mixing}${guessed ? " open" : ""}${doubtful ? " doubtful" : ""}${chosen ? " chosen" : ""}`;
    const made = draw("g", { class: classes, "data-i": row.i });
    if (time && time.low !== null && time.high !== null) made.append(draw("line", { class: "interval", x1: scale.x(time.low), x2: scale.x(time.high), y1: y, y2: y }));
    made.append(draw("path", { d: (SHAPES[row.model.mixing] ?? SHAPES.other)(chosen ? SIZE + 2 : SIZE), transform: `translate(${x.toFixed(1)},${y.toFixed(1)})` }));
    return made;
  }

  // Names of points on the front, or of all where there is none, those that find room; a box is (left, top, right, bottom).
  function labels(best, points, scale, axis, metric, width) {
    const at = (row) => [scale.x(across(row, axis)), scale.y(upward(row, metric))];
    const taken = points.map(at).map(([x, y]) => [x - 6, y - 6, x + 6, y + 6]);
    const hits = (box) => taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]);
    const made = draw("g", { class: "labels" });
    for (const row of [...best].reverse()) {
      const [x, y] = at(row), long = 6.9 * row.model.name.length;
      const places = [[x - long - 9, y - 9], [x - long / 2, y - 20], [x + 9, y + 8], [x + 9, y - 12], [x - long - 9, y - 22], [x + 4, y + 18]];
      const place = places.find(([left, top]) => left > EDGE.left && left + long < width - 4 && top > 2 && !hits([left, top, left + long, top + 13]));
      if (!place) continue;
      taken.push([place[0], place[1], place[0] + long, place[1] + 13]);
      made.append(draw("text", { x: place[0].toFixed(1), y: (place[1] + 11).toFixed(1) }, row.model.name));
    }
    return made;
  }

  function described(row, state) {
    const time = row.time, words = [row.model.name, ...(row.accuracy === null ? [] : [`${row.accuracy} ${unitOf(state.metric)}, ${row.size}`])];
    if (time) words.push(`${zoo.words.ms(time.ms)} ms${time.low !== null ? ` (${zoo.words.ms(time.low)} to ${zoo.words.ms(time.high)})` : ""}, ${time.state}`);
    else words.push("no row for this device");
    return [...words, `${zoo.words.count(row.params)} parameters, ${zoo.words.count(row.macs)} MACs at ${row.model.input}, ${state.form} form`];
  }

  // Draws the rows into a box; returns how many had no place.
  function show(box, rows, state, open) {
    const axis = state.across, metric = state.metric, points = rows.filter((row) => upward(row, metric) !== null && across(row, axis) > 0);
    const width = Math.max(300, box.clientWidth), height = Math.max(280, Math.min(460, 0.52 * width));
    const tip = zoo.words.element("div", { class: "tip", hidden: true });
    if (!points.length) {
      box.replaceChildren(zoo.words.element("p", { class: "empty" }, axis === "ms" ? "None of these models has both a figure and a latency here. Choose another device or another axis, or add your machine." : "None of these models has this metric."));
      return rows.length;
    }
    const scale = scales(points, axis, metric, width, height), best = front(points, axis, metric);
    const on = new Set(best.map((row) => row.i)), chosen = new Set(state.compare);
    const summary = `${points.length} models, ${AXES[axis]} across and ${upName(metric)} up.${best.length ? ` On the front: ${best.map((row) => row.model.name).join(", ")}.` : ""}`;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": summary });
    svg.append(grid(scale, axis, state.metric, width, height), staircase(best, scale, axis, metric));
    for (const row of [...points].sort((a, b) => on.has(a.i) - on.has(b.i))) {
      const made = point(row, scale, axis, metric, chosen.has(row.model.name));
      if (on.has(row.i)) made.classList.add("best");
      svg.append(made);
    }
    svg.append(labels(best.length ? best : points, points, scale, axis, metric, width));
    const byNumber = new Map(points.map((row) => [row.i, row]));
    const under = (event) => byNumber.get(+(event.target.closest?.(".point")?.dataset.i ?? NaN));
    svg.addEventListener("pointermove", (event) => {
      const row = under(event);
      tip.hidden = !row;
      if (!row) return;
      tip.replaceChildren(...described(row, state).map((text, i) => zoo.words.element(i ? "div" : "b", {}, text)));
      const side = scale.x(across(row, axis)) > width / 2;
      tip.style.left = `${scale.x(across(row, axis)) + (side ? -12 : 12)}px`;
      tip.style.top = `${scale.y(upward(row, metric))}px`;
      tip.classList.toggle("left", side);
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
    svg.addEventListener("click", (event) => { const row = under(event); if (row) open(row); });
    box.replaceChildren(svg, tip);
    return rows.length - points.length;
  }

  function legend(list, rows, axis) {
    const mixings = [...new Set(rows.map((row) => row.model.mixing))].sort();
    const sign = (classes, shape) => draw("svg", { viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": "true" }, draw("g", { class: `point ${classes}` }, draw("path", { d: shape(SIZE) })));
    const item = (picture, text) => zoo.words.element("li", {}, picture, text);
    const items = mixings.map((mixing) => item(sign(`m-${mixing}`, SHAPES[mixing] ?? SHAPES.other), mixing));
    if (axis === "ms" && rows.some((row) => row.time?.state === "predicted")) items.push(item(sign("open", SHAPES.convolution), "predicted"));
    if (axis === "ms" && rows.some((row) => row.time && row.time.state !== "predicted" && row.time.state !== "clean")) items.push(item(sign("doubtful", SHAPES.convolution), "not clean"));
    list.replaceChildren(...items);
  }

  return { show, legend };
})();
