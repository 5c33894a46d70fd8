"use strict";
// Up to four models side by side: figures, the spec place by place, costs by class, latencies. Their specs are loaded when they are wanted.
zoo.compare = (() => {
  const { element, figure, count, bytes, ms, run } = zoo.words;
  const { flow, bar } = zoo.drawing;
  const { data, timingsOf, FORMS } = zoo.records;

  // A sheet has no facts of models.
  async function factsOf({ name, family, href }) {
    const facts = href ? (await zoo.facts.family(family))?.models[name] : null;
    return { places: facts?.places ?? [], classes: facts?.classes ?? {}, input: facts?.input ?? "" };
  }

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
    const names = [...new Set(facts.flatMap((one) => one.places.map(([name]) => name)))];
    const order = (name) => (name === "stem" ? -1 : name === "head" ? 1e6 : parseInt(name.split(".")[1], 10) + (name.endsWith("downsample") ? -0.5 : name.endsWith("view") ? -0.4 : name.endsWith("post") ? 0.5 : 0));
    names.sort((a, b) => order(a) - order(b));
    return names.map((name) => line(name, facts.map((one) => {
      const here = one.places.filter(([place]) => place === name);
      return here.length ? cell(...here.map(([, note, width, nodes]) => element("div", { class: "place" }, element("small", {}, `${note}${width ? ` width ${width}` : ""} `), flow(nodes)))) : cell("–");
    })));
  }

  function classes(rows, facts) {
    const kinds = [...new Set(facts.flatMap((one) => Object.keys(one.classes)))].sort();
    const most = Math.max(1, ...facts.flatMap((one) => Object.values(one.classes)));
    return kinds.map((kind) => line(kind, facts.map((one, place) => {
      const value = one.classes[kind];
      if (value === undefined) return cell("–");
      return cell(figure(value, count(value), `count:${rows[place].model.name}:${kind}:class`), bar(value / most));
    })));
  }

  async function show(body, rows, state, remove) {
    const facts = await Promise.all(rows.map((row) => factsOf(row.model)));
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
