"use strict";
// The table that was served, brought up to date: cells of the chosen run, rows in order, columns that are wanted and have something to tell.
zoo.table = (() => {
  const { ms, count, bytes, element, figure } = zoo.words;
  const table = document.getElementById("models"), body = table.tBodies[0];
  const rows = new Map([...body.rows].map((row) => [+row.dataset.i, row]));
  const shown = new Map();
  const HIDEABLE = ["range", "state", "params", "macs", "memory", "input", "mixing", "weights", "licence"];

  // Served cells are texts; from here on each figure in them carries its record.
  function begin(sort, pick, all, state) {
    for (const head of table.tHead.querySelectorAll("[data-key]")) {
      const button = element("button", { type: "button" }, head.textContent);
      button.addEventListener("click", () => sort(head.dataset.key));
      head.replaceChildren(button);
    }
    for (const [i, row] of rows) {
      const name = zoo.records.data.models[i].name;
      const box = element("input", { type: "checkbox", "aria-label": `compare ${name}`, value: name });
      box.addEventListener("change", () => pick(name, box.checked));
      row.querySelector(".c-pick").replaceChildren(box);
    }
    for (const row of all) cells(row, state);
  }

  // Only cells whose figure is another one than before are written.
  function cells(row, state) {
    const time = row.time, form = state.form, name = row.model.name;
    const key = `${state.metric} ${form} ${time?.record ?? ""} ${time?.ms ?? ""}`;
    if (shown.get(row.i) === key) return;
    shown.set(row.i, key);
    const cell = (column, ...content) => rows.get(row.i).querySelector(`.c-${column}`).replaceChildren(...content);
    cell("accuracy", ...(row.accuracy === null ? [] : [figure(row.accuracy, String(+row.accuracy.toFixed(2)), row.accuracyRecord)]));
    cell("ms", ...(time ? [time.state === "predicted" ? "~" : time.stale ? "*" : "", figure(time.ms, ms(time.ms), `${time.record}:p50_ms`)] : []));
    cell("range", ...(time && time.low !== null ? [figure(time.low, ms(time.low), `${time.record}:low_ms`), "–", figure(time.high, ms(time.high), `${time.record}:high_ms`)] : []));
    cell("state", ...(time ? [element("span", { class: `verdict ${time.state}` }, time.state)] : [element("span", { class: "none" }, "no row")]));
    cell("params", figure(row.params, count(row.params), `cost:${name}:${form}:params`));
    cell("macs", figure(row.macs, count(row.macs), `cost:${name}:${form}:macs`));
    cell("memory", figure(row.memory, bytes(row.memory), `cost:${name}:${form}:weight_bytes+peak_activation_bytes`));
  }

  function show(ordered, front, state) {
    const kept = new Set(ordered.map((row) => row.i));
    ordered.forEach((row) => cells(row, state));
    for (const [i, row] of rows) row.hidden = !kept.has(i);
    const current = [...body.rows].filter((row) => !row.hidden).map((row) => +row.dataset.i);
    if (current.some((i, place) => i !== ordered[place].i)) {
      const moved = document.createDocumentFragment();
      for (const row of ordered) moved.append(rows.get(row.i));
      body.prepend(moved);
    }
    const chosen = new Set(state.compare);
    for (const row of ordered) {
      const line = rows.get(row.i), box = line.querySelector("input");
      line.classList.toggle("best", front.has(row.i));
      box.checked = chosen.has(row.model.name);
      box.disabled = !box.checked && chosen.size >= 4;
    }
    for (const head of table.tHead.querySelectorAll("[data-key]")) {
      const sorted = head.dataset.key === state.sort;
      sorted ? head.setAttribute("aria-sort", state.down ? "descending" : "ascending") : head.removeAttribute("aria-sort");
    }
    const told = { accuracy: ordered.some((row) => row.accuracy !== null), ms: ordered.some((row) => row.time) };
    const empty = [...(told.accuracy ? [] : ["accuracy"]), ...(told.ms ? [] : ["ms", "range", "state"])];
    table.dataset.hide = [...state.hide, ...empty].join(" ");
  }

  // A check box for every column that may go.
  function columns(box, state, change) {
    box.replaceChildren(...HIDEABLE.map((column) => {
      const input = element("input", { type: "checkbox", value: column });
      input.checked = !state.hide.includes(column);
      input.addEventListener("change", () => change(column, input.checked));
      return element("label", { class: "check" }, input, table.tHead.querySelector(`.c-${column}`).textContent);
    }));
  }

  return { begin, show, columns };
})();
