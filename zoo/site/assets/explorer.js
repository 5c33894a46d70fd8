"use strict";
// The explorer: controls to state, state to the address, and all that is shown from it.
(() => {
  const { data, joined, broken, front, ordered, less, unit, metricsOf, rowsOf, runsOf } = zoo.records;
  const { element, ms, run: runWords } = zoo.words;
  const at = (id) => document.getElementById(id);
  const MOST_COMPARED = 4;
  const CHOICES = ["device", "run", "form", "task", "metric", "mixing", "block", "family", "weights", "class", "across"];
  const NUMBERS = ["acc", "ms", "params", "macs", "memory"];
  const FLAGS = ["sell", "front"];
  const defaults = {
    device: data.choice.device, run: data.choice.runtime, form: data.choice.form, task: data.choice.task, metric: data.choice.metric,
    mixing: "", block: "", family: "", weights: "", class: "", across: data.choice.device ? "ms" : "macs", q: "", acc: "", ms: "", params: "", macs: "", memory: "",
    sell: false, front: false, sort: "accuracy", down: true, hide: [], compare: [],
  };
  const state = { ...defaults };

  // The address holds what is not as it was at first: #device=…&ms=15
  function toAddress() {
    const words = new URLSearchParams();
    for (const [key, value] of Object.entries(state)) {
      const text = Array.isArray(value) ? value.join(",") : String(value);
      if (text !== (Array.isArray(defaults[key]) ? defaults[key].join(",") : String(defaults[key]))) words.set(key, text);
    }
    const address = words.toString().replaceAll("%2C", ",").replaceAll("%2F", "/");
    if (location.hash.slice(1) !== address) history.replaceState(null, "", address ? `#${address}` : "#");
  }

  // Words of an address that mean nothing here are as if they were not there.
  function fromAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    Object.assign(state, defaults, { hide: [], compare: [] });
    for (const [key, text] of words) {
      if (CHOICES.includes(key)) state[key] = text;
      else if (NUMBERS.includes(key)) state[key] = text !== "" && Number.isFinite(+text) && +text >= 0 ? text : "";
      else if (FLAGS.includes(key) || key === "down") state[key] = text === "true";
      else if (key === "q" || key === "sort") state[key] = text.slice(0, 200);
      else if (key === "hide") state.hide = text.split(",");
      else if (key === "compare") state.compare = text.split(",").filter((name) => data.models.some((model) => model.name === name)).slice(0, MOST_COMPARED);
    }
    if (!data.devices.some((one) => one.id === state.device)) state.device = defaults.device;
    if (!runsOf(state.device).has(state.run)) state.run = [...runsOf(state.device).keys()][0] ?? defaults.run;
    if (!metricsOf(state.task).includes(state.metric)) state.metric = metricsOf(state.task)[0] ?? "";
    if (!words.has("across") && !isTimed()) state.across = "macs";
    if (!words.has("down")) state.down = !less(state.metric);
    for (const key of CHOICES) if (key !== "metric" && at(key)?.options.length && key !== "run" && ![...at(key).options].some((option) => option.value === state[key])) state[key] = defaults[key];
  }

  // Whether a model of the task has a latency here.
  const isTimed = () => joined(state).some((row) => row.time && (!state.task || row.model.task === state.task));

  const option = (value, text) => element("option", { value }, text);
  const unique = (key) => [...new Set(data.models.map((model) => model[key]))].sort();

  function fillDevices() {
    const known = data.devices.map((one, i) => option(one.id, `${one.label}${one.dropped ? " (yours)" : ""}: ${one.id}, ${rowsOf(i)} rows`));
    at("device").replaceChildren(...(known.length ? known : [option("", "none: add your machine")]));
  }

  function fillRuns() {
    const runs = [...runsOf(state.device)].sort((a, b) => b[1] - a[1]);
    at("run").replaceChildren(...(runs.length ? runs.map(([key, count]) => option(key, `${runWords(key)}: ${count} rows`)) : [option("", "none")]));
  }

  function fillChoices() {
    const any = (text, values) => [option("", text), ...values.map((value) => option(value, value))];
    at("task").replaceChildren(...any("any task", unique("task")));
    at("mixing").replaceChildren(...any("anything", unique("mixing")));
    const groups = Object.entries(data.blocks).map(([kind, names]) => element("optgroup", { label: kind.replaceAll("_", " ") }, option(kind, `any ${kind.replaceAll("_", " ")}`), ...names.map((name) => option(name, name))));
    at("block").replaceChildren(option("", "any block"), ...groups);
    at("family").replaceChildren(...any("any family", unique("family")));
    fillDevices();
  }

  function fillMetrics() {
    const metrics = metricsOf(state.task);
    at("metric").replaceChildren(...(metrics.length ? metrics.map((metric) => option(metric, metric)) : [option("", "none is printed")]));
  }

  function controls() {
    fillRuns();
    fillMetrics();
    for (const key of [...CHOICES, ...NUMBERS, "q"]) if (document.activeElement !== at(key) || at(key).tagName === "SELECT") at(key).value = state[key];
    for (const key of FLAGS) at(key).checked = state[key];
    at("acc").disabled = !state.metric;
    at("acc-label").textContent = [`${state.metric.split("/").pop() || "accuracy"} at ${less(state.metric) ? "most" : "least"}`, unit(state.metric)].filter(Boolean).join(", ");
  }

  // Sliders go in powers, but for accuracy; their ends are those of the models of the task.
  function sliders(rows) {
    const values = {
      acc: rows.map((row) => row.accuracy).filter((value) => value !== null), ms: rows.map((row) => row.time?.ms).filter((value) => value),
      params: rows.map((row) => row.params / 1e6), macs: rows.map((row) => row.macs / 1e9), memory: rows.map((row) => row.memory / 2 ** 20),
    };
    for (const slider of document.querySelectorAll("input[type=range]")) {
      const key = slider.dataset.for, found = values[key], powers = key !== "acc";
      slider.disabled = found.length < 2;
      if (slider.disabled) continue;
      const to = powers ? Math.log10 : (value) => value, low = to(Math.min(...found)), high = to(Math.max(...found));
      Object.assign(slider, { min: low, max: high, step: "any" });
      const rest = key === "acc" && !less(state.metric) ? low : high;
      slider.value = state[key] === "" ? rest : to(Math.max(+state[key], 1e-9));
      slider.oninput = () => {
        const value = +slider.value, free = Math.abs(value - rest) < 1e-6 * Math.abs(high - low);
        change({ [key]: free ? "" : String(+(powers ? 10 ** value : value).toPrecision(3)) });
      };
    }
  }

  function change(patch) {
    Object.assign(state, patch);
    if ("device" in patch && !("run" in patch) && !runsOf(state.device).has(state.run)) state.run = [...runsOf(state.device)].sort((a, b) => b[1] - a[1])[0]?.[0] ?? "";
    if ("task" in patch) {
      const metrics = metricsOf(state.task);
      patch = { ...patch, metric: metrics.includes(state.metric) ? state.metric : metrics[0] ?? "" };
      Object.assign(state, { metric: patch.metric, family: "", across: isTimed() ? "ms" : "macs" });
    }
    if ("metric" in patch) Object.assign(state, { acc: "", down: !less(state.metric) });
    show();
  }

  function show() {
    const all = joined(state), within = all.filter((row) => !broken(row, { ...state, acc: "", ms: "", params: "", macs: "", memory: "" }).length);
    const fits = all.filter((row) => !broken(row, state).length);
    const best = new Set(front(fits, state.across, state.metric).map((row) => row.i));
    const kept = state.front ? fits.filter((row) => best.has(row.i)) : fits;
    const unknown = state.ms === "" ? 0 : all.filter((row) => broken(row, state).join() === "unknown").length;
    controls();
    sliders(within);
    const without = zoo.chart.show(at("chart"), kept, state, (row) => pick(row.model.name, !state.compare.includes(row.model.name)));
    zoo.chart.legend(at("legend"), kept, state.across);
    zoo.table.show(ordered(kept, state.sort, state.down), best, state);
    at("nothing").hidden = kept.length > 0;
    at("picture-title").textContent = state.metric ? "Accuracy and cost" : "Size and cost; no accuracy of these is printed";
    caption();
    answer(kept, without, unknown);
    tray();
    compared(all);
    toAddress();
  }

  function caption() {
    const device = data.devices.find((one) => one.id === state.device);
    const where = !isTimed() ? "None of these was measured on the chosen device, runtime and form. " : device ? `Latency on ${device.label} (${device.id}), ${runWords(state.run)}, ${state.form} form. ` : "No latency is known. ";
    const beyond = zoo.asked.beyond(state);
    at("again").replaceChildren("In a shell: ", element("code", {}, zoo.asked.command(state)), beyond.length ? `, without ${beyond.join(" and ")}.` : "");
    at("caption").textContent = `${where}${state.metric || "No accuracy is known"}. Costs are of one input of the size that is named. ~ is a prediction, * was measured before its operations changed. 1 MAC is 2 FLOPs; memory is weights and activations held at one time.`;
  }

  // What the limits leave, in a sentence: how many, the best, the fastest, and what nobody knows.
  function answer(kept, without, unknown) {
    const rises = (row) => (less(state.metric) ? -row.accuracy : row.accuracy);
    const known = kept.filter((row) => row.accuracy !== null), timed = (known.length ? known : kept).filter((row) => row.time);
    const good = known.length ? known.reduce((a, b) => (rises(b) > rises(a) ? b : a)) : null;
    const fast = timed.length ? timed.reduce((a, b) => (b.time.ms < a.time.ms ? b : a)) : null;
    const link = (row) => (row.model.href ? element("a", { href: row.model.href }, row.model.name) : element("b", {}, row.model.name));
    const parts = [element("b", {}, `${kept.length} of ${data.models.length} models`)];
    if (good) parts.push(". Most accurate: ", link(good), ` with ${+good.accuracy.toFixed(2)} ${unit(state.metric)}`);
    if (fast) parts.push(". Fastest: ", link(fast), ` with ${fast.time.state === "predicted" ? "a predicted " : ""}${ms(fast.time.ms)} ms`);
    if (without) parts.push(`. ${without} are not in the picture: ${state.across === "ms" ? "no row for this device, or no figure of this metric" : "no figure of this metric"}`);
    if (unknown) parts.push(`. ${unknown} more might fit, but nobody has measured them here`);
    at("answer").replaceChildren(...parts, ".");
  }

  function pick(name, wanted) {
    const rest = state.compare.filter((other) => other !== name);
    change({ compare: wanted ? [...rest, name].slice(-MOST_COMPARED) : rest });
  }

  let comparing = false;
  function tray() {
    const box = at("tray");
    box.hidden = !state.compare.length || comparing;
    document.body.classList.toggle("with-tray", !box.hidden);
    const button = element("button", { type: "button", class: "primary", id: "compare-open" }, state.compare.length > 1 ? `Compare ${state.compare.length} side by side` : "Show it");
    button.addEventListener("click", () => { comparing = true; show(); at("compare-title").focus(); at("compare").scrollIntoView(); });
    const clear = element("button", { type: "button" }, "Clear");
    clear.addEventListener("click", () => change({ compare: [] }));
    box.replaceChildren(element("span", {}, state.compare.join(" · ")), button, clear);
  }

  let asked = "";
  function compared(all) {
    const rows = state.compare.map((name) => all.find((row) => row.model.name === name));
    at("compare").hidden = !comparing || !rows.length;
    const question = JSON.stringify([state.compare, state.form, state.metric, data.timings.length, data.devices.length]);
    if (at("compare").hidden || question === asked) return;
    asked = question;
    zoo.compare.show(at("compare-body"), rows, state, (name) => pick(name, false));
  }

  function sort(column) {
    const first = column === "accuracy" && !less(state.metric);
    change(state.sort === column ? { down: !state.down } : { sort: column, down: first });
  }

  function begin() {
    fillChoices();
    fromAddress();
    comparing = state.compare.length > 0;
    if (matchMedia("(max-width: 700px)").matches) at("filters").open = false;
    for (const part of ["controls", "answer", "columns", "again"]) at(part).hidden = false;
    document.querySelector(".picture").hidden = false;
    for (const key of CHOICES) at(key).addEventListener("change", () => change({ [key]: at(key).value }));
    for (const key of FLAGS) at(key).addEventListener("change", () => change({ [key]: at(key).checked }));
    for (const key of [...NUMBERS, "q"]) at(key).addEventListener("input", () => { if (at(key).validity.valid) change({ [key]: at(key).value }); });
    at("controls").addEventListener("submit", (event) => event.preventDefault());
    at("controls").addEventListener("reset", (event) => { event.preventDefault(); clear(); });
    at("clear").addEventListener("click", clear);
    at("compare-close").addEventListener("click", () => { comparing = false; show(); });
    zoo.table.begin(sort, pick, joined(state), state);
    zoo.table.columns(document.querySelector("#columns div"), state, (column, wanted) => change({ hide: wanted ? state.hide.filter((other) => other !== column) : [...state.hide, column] }));
    zoo.drop.listen(at("drop"), at("add-machine"), at("file"), (sentence, run) => {
      at("told").textContent = sentence;
      fillDevices();
      change(run ? { device: run[0], run: run[1], form: run[2], across: "ms" } : {});
    });
    addEventListener("hashchange", () => { fromAddress(); show(); });
    let width = at("chart").clientWidth;
    new ResizeObserver(() => { if (at("chart").clientWidth !== width) { width = at("chart").clientWidth; show(); } }).observe(at("chart"));
    show();
  }

  function clear() {
    const { device, run, form, task, metric, across, hide, compare } = state;
    change({ ...defaults, device, run, form, task, metric, across, hide, compare });
  }

  begin();
})();
