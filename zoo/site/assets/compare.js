"use strict";
// Up to four models side by side: figures, the spec place by place, costs by class, latencies. Their specs are loaded when they are wanted.
zoo.compare = (() => {
  const { element, figure, count, bytes, ms, run } = zoo.words;
  const { data, timingsOf, FORMS } = zoo.records;
  let loading = null;
  const load = () => loading ??= new Promise((done) => {
    if (self.zooFacts) return done(self.zooFacts);
    const script = document.createElement("script");
    script.src = "assets/facts.js";
    script.onload = script.onerror = () => done(self.zooFacts ?? {});
    document.head.append(script);
  });

  const named = ([block, params]) => [block, ...(params ? [" ", element("small", {}, params)] : [])];
  const box = (node) => (node[2].length
    ? element("span", { class: `node group${node[0] === "residual" ? " residual" : ""}` }, element("span", { class: "name" }, ...named(node)), flow(node[2]))
    : element("span", { class: "node" }, ...named(node)));
  const flow = (nodes) => element("span", { class: "flow" }, ...nodes.map(box));

  // A row; it is marked where the models differ.
  function line(head, cells) {
    const texts = new Set(cells.map((cell) => cell.textContent));
    return element("tr", texts.size > 1 ? { class: "differs" } : {}, element("th", { scope: "row" }, head), ...cells);
  }
  const cell = (...content) => element("td", {}, ...content);
  const heading = (text, width) => element("tr", { class: "part" }, element("th", { colspan: width + 1, scope: "colgroup" }, text));

  function figures(rows, state) {
    const form = FORMS.indexOf(state.form), name = (row) => row.model.name;
    return [
      line(state.metric, rows.map((row) => cell(...(row.accuracy === null ? ["none"] : [figure(row.accuracy, String(row.accuracy), row.accuracyRecord)])))),
      line("parameters", rows.map((row) => cell(figure(row.params, count(row.params), `cost:${name(row)}:${FORMS[form]}:params`)))),
      line("MACs", rows.map((row) => cell(figure(row.macs, count(row.macs), `cost:${name(row)}:${FORMS[form]}:macs`)))),
      line("memory", rows.map((row) => cell(figure(row.memory, bytes(row.memory), `cost:${name(row)}:${FORMS[form]}:weight_bytes+peak_activation_bytes`)))),
      line("mixes by", rows.map((row) => cell(row.model.mixing))),
      line("licence", rows.map((row) => cell(row.model.licence || "unknown"))),
      line("weights", rows.map((row) => cell(row.model.weights))),
    ];
  }

  function latencies(rows) {
    const found = new Map();
    rows.forEach((row, place) => {
      for (const [, device, runtime, form, p50, low, high, , state, , record] of timingsOf(row.i)) {
        const key = `${data.devices[device].label}, ${run(data.runtimes[runtime])}, ${FORMS[form]}`;
        if (!found.has(key)) found.set(key, rows.map(() => cell("no row")));
        const range = low === null ? [] : [element("small", {}, ` ${ms(low)}–${ms(high)}`)];
        found.get(key)[place] = cell(figure(p50, `${state === "predicted" ? "~" : ""}${ms(p50)} ms`, `${record}:p50_ms`), ...range);
      }
    });
    return [...found].sort(([a], [b]) => a.localeCompare(b)).map(([key, cells]) => line(key, cells));
  }

  function places(facts) {
    const names = [...new Set(facts.flatMap((one) => one.places.map(([name]) => name.split(" ")[0])))];
    const order = (name) => (name === "stem" ? -1 : name === "head" ? 1e6 : parseInt(name.split(".")[1], 10) + (name.endsWith("downsample") ? -0.5 : name.endsWith("view") ? -0.4 : name.endsWith("post") ? 0.5 : 0));
    names.sort((a, b) => order(a) - order(b));
    return names.map((name) => line(name, facts.map((one) => {
      const here = one.places.filter(([place]) => place.split(" ")[0] === name);
      return here.length ? cell(...here.map(([place, width, nodes]) => element("div", { class: "place" }, element("small", {}, `${place.slice(name.length).trim()}${width ? ` width ${width}` : ""} `), flow(nodes)))) : cell("–");
    })));
  }

  function classes(rows, facts) {
    const kinds = [...new Set(facts.flatMap((one) => Object.keys(one.classes)))].sort();
    const most = Math.max(1, ...facts.flatMap((one) => Object.values(one.classes)));
    return kinds.map((kind) => line(kind, facts.map((one, place) => {
      const value = one.classes[kind];
      if (value === undefined) return cell("–");
      const meter = element("span", { class: "meter" }), part = element("span", {});
      part.style.width = `${(100 * value) / most}%`;
      meter.append(part);
      return cell(figure(value, count(value), `count:${rows[place].model.name}:${kind}:class`), meter);
    })));
  }

  async function show(body, rows, state, remove) {
    const known = await load();
    const facts = rows.map((row) => known[row.model.name] ?? { places: [], classes: {}, input: "" });
    const heads = rows.map((row) => {
      const button = element("button", { type: "button", "aria-label": `remove ${row.model.name}` }, "×");
      button.addEventListener("click", () => remove(row.model.name));
      return element("th", { scope: "col" }, row.model.href ? element("a", { href: row.model.href }, row.model.name) : row.model.name, " ", button);
    });
    const table = element("table", { class: "compare" }, element("thead", {}, element("tr", {}, element("td", {}), ...heads)),
      element("tbody", {}, ...figures(rows, state), line("input", facts.map((one) => cell(one.input))),
        heading("Latency", rows.length), ...latencies(rows), heading("MACs by class; scans and Fourier transforms in FLOPs", rows.length), ...classes(rows, facts),
        heading("Spec; marked where they differ", rows.length), ...places(facts)));
    body.replaceChildren(element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Side by side" }, table));
  }

  return { show };
})();
