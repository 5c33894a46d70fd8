"use strict";
// The page of a model: what stands in the file of its family, as sections. Each figure carries its record, each section its command.
zoo.pages.model = async (main, name) => {
  const { element, figure, count, bytes, ms } = zoo.words;
  const { flow, bar, code } = zoo.drawing;
  const { chip, small, command, pre, caption, empty, section, link, number, table, licence, links, meaning } = zoo.parts;
  const crumbs = main.querySelector("nav"), home = crumbs.textContent;
  const family = await zoo.facts.family(home), model = family.models[name];
  const pages = new Set(family.blocks);

  function chips() {
    const dot = element("i", { class: `dot m-${model.mixing}` });
    return element("p", { class: "chips" }, chip(model.task), element("span", { class: "chip" }, dot, model.mixing), chip(`input ${model.input}`), element("span", {}, ...licence(model.licence)));
  }

  // The four figures that people ask for first.
  function tiles() {
    const tile = (shown, words, unit = "") => element("p", {}, element("b", {}, ...(shown ? [shown, unit] : ["–"])), " ", words);
    const best = model.accuracies[0], clean = model.timings.filter((row) => row[8] === "clean").sort((a, b) => a[3] - b[3])[0];
    return element("section", { class: "tiles", "aria-label": "In short" },
      tile(best && figure(best.value, best.text, best.record), best ? `${best.metric}, ${best.unit}` : "no accuracy is known"),
      tile(clean && figure(clean[3], ms(clean[3]), `${clean[11]}:p50_ms`), clean ? `${family.devices[clean[0]] ?? clean[0]}, ${clean[1]}, ${zoo.words.run(clean[2])}` : "not measured yet", " ms"),
      tile(figure(model.costs[0][0], count(model.costs[0][0]), `cost:${name}:train:params`), "parameters"),
      tile(figure(model.costs[0][1], count(model.costs[0][1]), `cost:${name}:train:macs`), `MACs of one input of ${model.input}`));
  }

  const most = (place) => Math.max(1, ...model.places.map((row) => row[place] ?? 0));
  const share = (value, whole, kind, record) => ({ class: "num cost", content: value === null ? [] : [figure(value, count(value), record), bar(value / whole, kind)] });

  function structure() {
    if (!model.places) return section("structure", "What it is made of", element("p", {}, "The code of a plugin builds it; no spec describes it. ", command(`zoo info ${name}`)));
    const [params, macs] = [most(4), most(5)];
    const rows = model.places.map(([place, note, width, nodes, ofParams, ofMacs]) => [
      [command(place), ...small(note)], [flow(nodes, pages)], number(width ?? ""),
      share(ofParams, params, "params", `count:${name}:${place}:params`), share(ofMacs, macs, "macs", `count:${name}:${place}:macs`),
    ]);
    const spec = element("a", { href: `${zoo.words.address("families", home)}#spec` }, "The spec as it is written");
    return section("structure", "What it is made of",
      caption("Digest ", command(model.digest), ". A box with a plus adds what went round it; costs are those of a whole stage. ", command(`zoo profile ${name} --by stage`)),
      table("Structure", ["place", "blocks", "#width", "#parameters", "#MACs"], rows, "places"), element("p", {}, spec, "; ", command(`zoo spec ${name} --filled`)));
  }

  const COSTS = [["Parameters", "params", count], ["MACs", "macs", count], ["Weights", "weight_bytes", bytes], ["Activations at one time", "peak_activation_bytes", bytes], ["Memory: weights and activations", "weight_bytes+peak_activation_bytes", bytes]];

  function cost() {
    const rows = COSTS.map(([label, field, words], place) => [label, ...["train", "deploy"].map((form, i) => number(figure(model.costs[i][place], words(model.costs[i][place]), `cost:${name}:${form}:${field}`)))]);
    const costs = element("div", {}, element("h2", { id: "cost" }, "What it costs"), table("Costs", ["", "#train", "#deploy"], rows),
      caption(`MACs and activations are of one input of ${model.input}. `, command(`zoo profile ${name} --form deploy`)));
    const classes = Object.entries(model.classes), largest = Math.max(1, ...classes.map(([, value]) => value));
    const kinds = classes.map(([kind, value]) => [`${kind}, ${kind === "scan" || kind === "fft" ? "FLOPs" : "MACs"}`, share(value, largest, "macs", `count:${name}:${kind}:class`)]);
    const work = element("div", {}, element("h2", {}, "By kind of work"), table("By kind of work", [], kinds), caption(command(`zoo profile ${name}`)));
    return element("section", { class: "two" }, costs, ...(classes.length ? [work] : []));
  }

  function latency() {
    if (!model.timings.length) return section("latency", "How fast it is", empty("No row for any device. ", command(`zoo bench ${name} --form deploy`), " measures it on yours, ", command("zoo calibrate"), " predicts it."));
    const time = (record, field, value) => figure(value, ms(value), `${record}:${field}`);
    const rows = model.timings.map(([device, form, runtime, p50, low, high, p90, peak, verdict, stale, date, record, options]) => [
      [family.devices[device] ?? device, ...small(device)], form, zoo.words.run(runtime), number(element("b", {}, time(record, "p50_ms", p50))),
      number(time(record, "low_ms", low), "–", time(record, "high_ms", high)), number(time(record, "p90_ms", p90)),
      number(...(peak ? [figure(peak, bytes(peak), `${record}:peak_bytes`)] : [])),
      [element("span", { class: `verdict ${verdict}` }, verdict), ...small(stale ? "other operations" : "")], date, [command(`zoo bench ${name} ${options}`)],
    ]);
    const older = model.timings.some((row) => row[9]) ? [element("em", {}, "Other operations"), ": today it asks other work of a machine."] : [];
    return section("latency", "How fast it is", table("Latency", ["device", "form", "runtime", "#p50 ms", "#interval", "#p90 ms", "#peak memory", "verdict", "date", "again"], rows), caption(...meaning(), ...older));
  }

  function accuracy() {
    if (!model.accuracies.length) return section("accuracy", "How good it is", empty("No accuracy of it is printed anywhere that we know of, at its own size."));
    const rows = model.accuracies.map((one) => [
      one.metric, number(element("b", {}, figure(one.value, one.text, one.record)), ...interval(one)), one.unit,
      one.weights ? [command(one.weights)] : "the authors'", one.command ? [command(one.command)] : [link(one.source, one.source)],
    ]);
    return section("accuracy", "How good it is", table("Accuracy", ["metric", "#value", "unit", "weights", "source"], rows));
  }
  const interval = ({ ends, record }) => (ends.length ? [" ", element("small", {}, "(", figure(ends[0][0], ends[0][1], `${record}:ci95.0`), " to ", figure(ends[1][0], ends[1][1], `${record}:ci95.1`), ")")] : []);

  function weights() {
    if (!model.weights.length) return section("weights", "Weights", empty("None. ", command(`zoo.create("${name}", weights=PATH)`), " loads a checkpoint of the original code where the family has rules for it."));
    const rows = model.weights.map((one) => [[command(one.name)], [chip(one.state)], licence(one.licence), [one.origin, ...small(one.source)], one.preprocess]);
    const listed = model.weights.some((one) => one.state === "listed") ? [caption("Nobody here has seen the bytes of ", element("em", {}, "listed"), " weights: ", command("zoo pin"), " fetches and proves them.")] : [];
    return section("weights", "Weights", table("Weights", ["weights", "state", "licence", "where from", "pre-processing"], rows), ...listed);
  }

  const cite = () => section("cite", "Cite it", family.cite ? pre(family.cite) : empty(family.paper[0] || "No paper."));
  const use = () => section("use", "Use it", pre(...code(model.load)), pre(...code(model.shell)));

  crumbs.prepend(element("a", { href: "../index.html" }, "Models"), " / ");
  main.append(element("p", { class: "lead" }, model.title || "No title.", ...links(family)), chips(), tiles(), structure(), cost(), latency(), accuracy(), weights(), use(), cite());
  zoo.parts.arrive();
};
