"use strict";
// Files of measurements that somebody drops on the page: read here, never sent anywhere. What they say is judged before it is shown.
zoo.drop = (() => {
  const { data, enter, addDevice, addRuntime, FORMS } = zoo.records;
  const DAY = 86400000, LONGEST = 2 ** 26, DTYPES = ["float32", "bfloat16", "float16"], STATES = ["clean", "contended", "unstable"];
  const byDigest = new Map();
  data.models.forEach((model, i) => byDigest.set(model.digest, [...(byDigest.get(model.digest) ?? []), i]));

  const isTime = (value) => typeof value === "number" && value > 0 && value <= DAY;
  const isName = (text) => typeof text === "string" && /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$/.test(text);
  const isText = (text) => typeof text === "string" && text.length <= 300 && !/[\p{C}\u2028\u2029]/u.test(text);
  const isCount = (value) => Number.isInteger(value) && value >= 1 && value < 2 ** 31;
  const modelsOf = (digest) => (typeof digest === "string" && /^[0-9a-f]{64}$/.test(digest) ? byDigest.get(digest.slice(0, data.models[0]?.digest.length)) ?? [] : null);

  // What is wrong with a row of `zoo bench`, or "".
  function fault(row) {
    const run = row.runtime ?? {};
    if (row.schema !== undefined && row.schema !== "zoo.latency/1") return "a row of another schema";
    if (!isName(row.device) || !FORMS.includes(row.form) || modelsOf(row.digest) === null) return "a row without device, form or digest";
    if (!["p50_ms", "low_ms", "high_ms", "p90_ms"].every((name) => isTime(row[name]))) return "times that are none";
    if (row.low_ms > row.p50_ms || row.p50_ms > row.high_ms || row.p50_ms > row.p90_ms) return "times out of their order";
    if (!STATES.includes(row.verdict)) return "a verdict that is none";
    if (!DTYPES.includes(run.dtype ?? "float32") || !isCount(run.threads ?? 1) || !isCount(run.batch ?? 1) || !/^\w{1,40}$/.test(run.engine ?? "eager")) return "a runtime that is none";
    return isText(row.date ?? "") ? "" : "a date that is none";
  }

  function takeRow(row, done) {
    const wrong = fault(row);
    if (wrong) return done.wrong.push(wrong);
    const models = modelsOf(row.digest), run = row.runtime ?? {};
    if (!models.length) return done.strange++;
    const runtime = `${run.engine ?? "eager"} ${run.dtype ?? "float32"} b${run.batch ?? 1} t${run.threads ?? 1}`;
    const places = [addDevice(row.device, done.labels.get(row.device)), addRuntime(runtime), FORMS.indexOf(row.form)];
    for (const i of models) enter([i, ...places, row.p50_ms, row.low_ms, row.high_ms, row.p90_ms, row.verdict, (row.date ?? "").slice(0, 10), `dropped:${row.device}`]);
    done.rows++;
    done.count(row.device, runtime, row.form);
  }

  function takeCalibration(one, done) {
    if (!isName(one.device) || typeof one.runtime !== "string" || !isText(one.runtime) || typeof one.models !== "object" || one.models === null) return done.wrong.push("a calibration without device, runtime or models");
    const key = one.runtime.split(/ (?:torch|version) /)[0], device = addDevice(one.device, done.labels.get(one.device)), runtime = addRuntime(key);
    for (const [digest, forms] of Object.entries(one.models)) {
      for (const [form, guess] of Object.entries(forms ?? {})) {
        const [ms, low, high] = Array.isArray(guess) ? guess : [guess?.ms, guess?.low_ms ?? null, guess?.high_ms ?? null];
        if (!isTime(ms) || !FORMS.includes(form) || modelsOf(digest) === null) { done.wrong.push("a prediction that is none"); continue; }
        const range = isTime(low) && isTime(high) && low <= ms && ms <= high ? [low, high] : [null, null];
        for (const i of modelsOf(digest)) enter([i, device, runtime, FORMS.indexOf(form), ms, ...range, range[1], "predicted", isText(one.date ?? "") ? (one.date ?? "").slice(0, 10) : "", `dropped:${one.device}`]);
        modelsOf(digest).length ? done.predictions++ : done.strange++;
        done.count(one.device, key, form);
      }
    }
  }

  // What the store calls a device is a hash of it, which rows name; a label is looked for by the name and the cores within the id.
  function takeDevice(device, done) {
    if (!isText(device.name ?? 0) || !isCount(device.cores)) return done.wrong.push("a device without name or cores");
    done.pending.push({ label: `${device.name}, ${device.cores} cores`, part: `-${device.cores}c-`, name: device.name.toLowerCase() });
  }

  // JSON lines, or one JSON: a list of rows as `zoo bench --json` prints it, or a calibration.
  function records(text) {
    try {
      const whole = JSON.parse(text);
      return Array.isArray(whole) ? whole : [whole];
    } catch {
      return text.split(/\r?\n/).filter((line) => line.trim()).map((line) => { try { return JSON.parse(line); } catch { return null; } });
    }
  }

  // Takes in a text; returns what became of it.
  function take(text) {
    const runs = new Map();
    const done = {
      rows: 0, predictions: 0, strange: 0, wrong: [], labels: new Map(), pending: [],
      count: (device, runtime, form) => { const key = JSON.stringify([device, runtime, form]); runs.set(key, (runs.get(key) ?? 0) + 1); },
    };
    const found = text.length <= LONGEST ? records(text) : [null];
    const objects = found.filter((one) => one !== null && typeof one === "object");
    for (let i = objects.length; i < found.length; i++) done.wrong.push("a line that is no JSON");
    for (const one of objects) if (one.device && typeof one.device === "object") takeDevice(one.device, done);
    const rows = objects.map((one) => one.row ?? one);
    for (const row of rows) if (isName(row.device)) {
      const match = done.pending.find((device) => row.device.includes(device.part) && device.name.includes(row.device.split("-")[0]));
      if (match) done.labels.set(row.device, match.label);
    }
    for (const [i, row] of rows.entries()) {
      if (objects[i].device && typeof objects[i].device === "object" && !objects[i].row) continue;
      typeof row.schema === "string" && row.schema.startsWith("zoo.calibration/") ? takeCalibration(row, done) : typeof row === "object" && row !== null ? takeRow(row, done) : done.wrong.push("a line that is no row");
    }
    const most = [...runs].sort((a, b) => b[1] - a[1])[0];
    return { ...done, run: most ? JSON.parse(most[0]) : null };
  }

  function said(name, done) {
    const parts = [`${done.rows} rows`];
    if (done.predictions) parts.push(`${done.predictions} predictions`);
    if (done.strange) parts.push(`${done.strange} of models that are not here`);
    if (done.wrong.length) parts.push(`${done.wrong.length} lines were left out, the first for ${done.wrong[0]}`);
    return `${name}: ${parts.join("; ")}.`;
  }

  // Calls `taken(sentence, run)` for every file that is dropped or chosen.
  function listen(box, button, input, taken) {
    const read = async (files) => {
      for (const file of files) {
        const done = take(file.size <= LONGEST ? await file.text() : "");
        taken(said(file.name.slice(0, 80), done), done.run);
      }
    };
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", () => { read([...input.files]); input.value = ""; });
    document.addEventListener("dragover", (event) => { event.preventDefault(); box.classList.add("over"); });
    document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) box.classList.remove("over"); });
    document.addEventListener("drop", (event) => { event.preventDefault(); box.classList.remove("over"); read([...event.dataTransfer.files]); });
  }

  return { listen, take };
})();
