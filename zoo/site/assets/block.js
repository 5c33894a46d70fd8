"use strict";
// The page of a block: what stands in the file of its kind, as sections.
zoo.pages.block = async (main, name) => {
  const { element, figure, count, ms, address } = zoo.words;
  const { chip, small, command, caption, empty, section, link, meaning, number, table } = zoo.parts;
  const crumbs = main.querySelector("nav"), kind = crumbs.textContent;
  await zoo.words.load(`assets/blocks/${kind}.js`);
  const block = self.zooBlocks[kind][name];
  const spaced = (text) => text.replaceAll("_", " ");

  function chips() {
    const paper = block.paper[0] ? [element("span", {}, link(...block.paper))] : [];
    return element("p", { class: "chips" }, chip(spaced(kind)), chip(`layout ${block.layout}`), ...block.abilities.map((ability) => chip(spaced(ability))), ...paper);
  }

  function parameters() {
    const rows = block.parameters.map(([key, value, first]) => [[command(key)], value, [command(first)]]);
    const none = `It takes none${block.supplied.length ? ` but what the builder knows: ${block.supplied.join(", ")}` : ""}.`;
    return section("parameters", "Parameters", rows.length ? table("Parameters", ["parameter", "value", "default"], rows) : empty(none));
  }

  const shared = (share, shown, kind) => ({ class: "num cost", content: [...shown, zoo.drawing.bar(share, kind)] });

  function tasks() {
    const rows = block.learned.map(([task, share]) => [task, shared(share, [figure(share, `${Math.round(100 * share)}%`, `task:${name}:${task}`)], "params")]);
    return section("tasks", "What it learns", table("Tasks", [], rows), caption("Accuracy on held-out sequences of generated tasks. Again: ", command("zoo train tasks")));
  }

  // By itself, at one width and size for all blocks, so that blocks can be compared with each other.
  function alone() {
    if (!block.alone.length) return section("alone", "What it takes by itself", empty("Not timed yet. ", command(`zoo bench --blocks ${name}`), " times it on yours, beside a convolution that everybody knows."));
    const rows = block.alone.map(([label, device, run, input, params, macs, p50, low, high, ratio, , verdict, stale, date, record, options]) => {
      const told = (field, value, words = ms) => figure(value, words(value), `${record}:${field}`);
      return [
        [label || device, ...small(label ? device : "")], zoo.words.run(run), input.join(" x "), number(told("params", params, count)), number(told("macs", macs, count)),
        number(element("b", {}, told("p50_ms", p50))), number(told("low_ms", low), "–", told("high_ms", high)), number(told("ratio", ratio)),
        [element("span", { class: `verdict ${verdict}` }, verdict), ...small(stale ? "older code" : "")], date, [command(`zoo bench --blocks ${name}${options}`)],
      ];
    });
    const anchors = [...new Set(block.alone.map((row) => row[10]))].join(", ");
    const older = block.alone.some((row) => row[12]) ? [element("em", {}, "Older code"), ": its source has changed since."] : [];
    return section("alone", "What it takes by itself", table("By itself", ["device", "runtime", "input", "#parameters", "#MACs", "#p50 ms", "#interval", "#ratio", "verdict", "date", "again"], rows),
      caption(`With its own defaults, as it is trained. The ratio is to a ${anchors}, timed beside it: it holds on machines that are slower or faster throughout. `, ...meaning(), ...older));
  }

  function uses() {
    const rows = block.uses.map(([model, ...values]) => {
      const [places, params, macs] = ["places", "params", "macs"].map((field, i) => number(figure(values[i], field === "places" ? String(values[i]) : count(values[i]), `count:${model}:${name}:${field}`)));
      return [[element("a", { href: address("models", model) }, model)], places, params, macs, shared(values[3], [])];
    });
    if (!rows.length) return section("uses", "What it costs in models", empty(block.families.length ? "It stands inside other blocks only, and is counted with them." : "No model of this site uses it."));
    return section("uses", "What it costs in models", table("Uses", ["model", "#places", "#parameters", "#MACs", "#of all MACs"], rows),
      caption("With all that stands in it; where it does most of the work comes first. ", command("zoo profile MODEL --by block"), "."));
  }

  function models() {
    const all = element("a", { href: `../index.html#task=&block=${encodeURIComponent(name)}` }, "All of them in the explorer");
    const families = block.families.map(([family, members]) => element("li", {}, element("a", { href: address("families", family) }, family), ` ${members}`));
    return section("models", "Models with it", element("p", {}, all, ", or by family:"), element("ul", { class: "families" }, ...families));
  }

  crumbs.lastElementChild.textContent = spaced(kind);
  crumbs.prepend(element("a", { href: "index.html" }, "Blocks"), " / ");
  const covered = block.covers.length ? [element("p", {}, `Papers call it: ${block.covers.join(", ")}.`)] : [];
  main.append(element("p", { class: "formula" }, ...(block.formula ? zoo.parts.ticked(block.formula) : ["Its author gave no summary."])), chips(), ...covered, parameters(), ...(block.learned.length ? [tasks()] : []), alone(), uses(), ...(block.families.length ? [models()] : []),
    caption(command(`blocks.get("${name}")`), ", ", command(`zoo blocks ${name}`)));
  zoo.parts.arrive();
};
