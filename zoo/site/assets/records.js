"use strict";
// The records of the page, joined: each model with its latency on the chosen device, runtime and form; filters, order, the front.
zoo.records = (() => {
  const data = { ...self.zooData, models: unpacked(self.zooData.models) };
  const FORMS = ["train", "deploy"];
  const [MODEL, DEVICE, RUNTIME, FORM] = [0, 1, 2, 3];
  const timings = new Map();

  // Models from their columns, in which what recurs stands once. On a site each has a page; in a sheet none has.
  function unpacked(columns) {
    const values = Object.entries(columns).map(([key, column]) => [key, Array.isArray(column) ? column : column.at.map((place) => column.of[place])]);
    const paged = self.zooSite !== undefined;
    return (values[0]?.[1] ?? []).map((_, i) => {
      const model = Object.fromEntries(values.map(([key, column]) => [key, column[i]]));
      return { ...model, href: paged ? zoo.words.address("models", model.name) : "" };
    });
  }

  const key = (device, runtime, form) => `${device} ${runtime} ${form}`;

  // A measurement goes before a prediction, and a clean row before others; of two alike the later one stays.
  function enter(row) {
    const at = key(row[DEVICE], row[RUNTIME], row[FORM]);
    if (!timings.has(at)) timings.set(at, new Map());
    const before = timings.get(at).get(row[MODEL]);
    if (!before || weight(row) >= weight(before)) timings.get(at).set(row[MODEL], row);
  }
  const weight = (row) => (row[8] === "predicted" ? 0 : row[8] === "clean" ? 2 : 1);
  data.timings.forEach(enter);

  const timing = (row) => row && { ms: row[4], low: row[5], high: row[6], p90: row[7], state: row[8], date: row[9], record: row[10], stale: row[11] };

  // One object for every model, in the order of the data.
  function joined(state) {
    const form = FORMS.indexOf(state.form);
    const known = timings.get(key(data.devices.findIndex((one) => one.id === state.device), data.runtimes.indexOf(state.run), form));
    return data.models.map((model, i) => {
      const accuracy = model.accuracy[state.metric];
      return {
        i, model, time: timing(known?.get(i)), accuracy: accuracy ? accuracy[0] : null, size: accuracy ? accuracy[2] : "",
        accuracyRecord: accuracy ? accuracy[1] : "", params: model.params[form], macs: model.macs[form], memory: model.memory[form],
      };
    });
  }

  // Whether a model uses a block, or one of a kind.
  const uses = (model, block) => model.blocks.includes(block) || (data.blocks[block] ?? []).some((name) => model.blocks.includes(name));

  // All limits that a row breaks; none for one that stays.
  function broken(row, state) {
    const model = row.model, why = [];
    const words = (state.q || "").toLowerCase().split(/\s+/).filter(Boolean);
    const text = `${model.name} ${model.family} ${model.title} ${model.blocks.join(" ")}`.toLowerCase();
    const has = (word) => (word.startsWith("block:") ? model.blocks.includes(word.slice(6)) : text.includes(word));
    if (!words.every(has)) why.push("search");
    if (state.task && model.task !== state.task) why.push("task");
    if (state.mixing && model.mixing !== state.mixing) why.push("mixing");
    if (state.block && !uses(model, state.block)) why.push("block");
    if (state.family && model.family !== state.family) why.push("family");
    if (state.class && model.class !== state.class) why.push("class");
    if (state.sell && !model.sell) why.push("sell");
    if (state.weights === "none" ? model.weights !== "none" : state.weights === "shipped" ? model.weights !== "shipped" : state.weights === "listed" && model.weights === "none") why.push("weights");
    const good = less(state.metric) ? (a, b) => a <= b : (a, b) => a >= b;
    if (state.acc !== "" && !(row.accuracy !== null && good(row.accuracy, +state.acc))) why.push("acc");
    if (state.ms !== "" && !(row.time && row.time.ms <= +state.ms)) why.push(row.time ? "ms" : "unknown");
    if (state.params !== "" && row.params > state.params * 1e6) why.push("params");
    if (state.macs !== "" && row.macs > state.macs * 1e9) why.push("macs");
    if (state.memory !== "" && row.memory > state.memory * 2 ** 20) why.push("memory");
    return why;
  }

  const unit = (metric) => data.units[metric] ?? "";
  // The metrics that models of a task have, the one that most have first.
  function metricsOf(task) {
    const counts = data.metrics.map((metric) => [data.models.filter((model) => (!task || model.task === task) && metric in model.accuracy).length, metric]);
    return counts.filter(([count]) => count).sort((a, b) => b[0] - a[0]).map(([, metric]) => metric);
  }
  const less = (metric) => data.less.includes(metric);
  const across = (row, axis) => (axis === "ms" ? row.time?.ms ?? null : row[axis]);
  const rises = (row, metric) => (less(metric) ? -row.accuracy : row.accuracy);

  // The rows that no other equals for as little: the cheapest first.
  function front(rows, axis, metric) {
    const points = rows.filter((row) => row.accuracy !== null && across(row, axis) !== null);
    points.sort((a, b) => across(a, axis) - across(b, axis) || rises(b, metric) - rises(a, metric));
    let best = -Infinity;
    return points.filter((row) => rises(row, metric) > best && ((best = rises(row, metric)), true));
  }

  const SORTS = {
    name: (row) => row.model.name, accuracy: (row) => row.accuracy, ms: (row) => row.time?.ms ?? null,
    range: (row) => (row.time && row.time.low !== null ? row.time.high - row.time.low : null), state: (row) => row.time?.state ?? null,
    params: (row) => row.params, macs: (row) => row.macs, memory: (row) => row.memory,
    input: (row) => (row.model.input.match(/\d+/g) ?? []).reduce((all, side) => all * side, 1), mixing: (row) => row.model.mixing,
    weights: (row) => row.model.weights, licence: (row) => row.model.licence,
  };

  // What is not known comes last, whichever way is up.
  function ordered(rows, column, down) {
    const value = SORTS[column] ?? SORTS.accuracy, sign = down ? -1 : 1;
    return [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a.params - b.params;
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y) || a.params - b.params;
    });
  }

  function addDevice(id, label) {
    const found = data.devices.findIndex((one) => one.id === id);
    if (found >= 0) return found;
    return data.devices.push({ id, label: label || id, dropped: true }) - 1;
  }
  function addRuntime(name) {
    const found = data.runtimes.indexOf(name);
    return found >= 0 ? found : data.runtimes.push(name) - 1;
  }
  const timingsOf = (model) => [...timings.values()].flatMap((known) => (known.has(model) ? [known.get(model)] : []));
  const rowsOf = (device) => [...timings.values()].reduce((sum, known) => sum + [...known.values()].filter((row) => row[DEVICE] === device).length, 0);
  const runsOf = (id) => {
    const device = data.devices.findIndex((one) => one.id === id), found = new Map();
    for (const known of timings.values()) for (const row of known.values()) {
      if (row[DEVICE] === device) found.set(data.runtimes[row[RUNTIME]], (found.get(data.runtimes[row[RUNTIME]]) ?? 0) + 1);
    }
    return found;
  };

  return { data, FORMS, joined, broken, front, ordered, across, less, unit, metricsOf, enter, addDevice, addRuntime, timingsOf, rowsOf, runsOf };
})();
