"use strict";
// The page of a block: what stands in the file of its kind, as sections.
zoo.pages.block = async (main, name) => {
  const { element, figure, count, address } = zoo.words;
  const { chip, command, caption, empty, section, link, number, table } = zoo.parts;
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

  function uses() {
    const rows = block.uses.map(([model, ...values]) => {
      const [places, params, macs] = ["places", "params", "macs"].map((field, i) => number(figure(values[i], field === "places" ? String(values[i]) : count(values[i]), `count:${model}:${name}:${field}`)));
      return [[element("a", { href: address("models", model) }, model)], places, params, macs, shared(values[3], [])];
    });
    if (!rows.length) return section("uses", "What it costs in models", empty(block.families.length ? "It stands inside other blocks only, and is counted with them." : "No model of this site uses it."));
    return section("uses", "What it costs in models", table("Uses", ["model", "#places", "#parameters", "#MACs", "#of all MACs"], rows),
      caption("With all that stands in it; where it does most of the work comes first. ", command("zoo profile MODEL --by block"), ". No latency of a single block is on record."));
  }

  function models() {
    const all = element("a", { href: `../index.html#task=&q=block:${encodeURIComponent(name)}` }, "All of them in the explorer");
    const families = block.families.map(([family, members]) => element("li", {}, element("a", { href: address("families", family) }, family), ` ${members}`));
    return section("models", "Models with it", element("p", {}, all, ", or by family:"), element("ul", { class: "families" }, ...families));
  }

  crumbs.lastElementChild.textContent = spaced(kind);
  crumbs.prepend(element("a", { href: "index.html" }, "Blocks"), " / ");
  const covered = block.covers.length ? [element("p", {}, `Papers call it: ${block.covers.join(", ")}.`)] : [];
  main.append(element("p", { class: "formula" }, ...(block.formula ? zoo.parts.ticked(block.formula) : ["Its author gave no summary."])), chips(), ...covered, parameters(), ...(block.learned.length ? [tasks()] : []), uses(), ...(block.families.length ? [models()] : []),
    caption(command(`blocks.get("${name}")`), ", ", command(`zoo blocks ${name}`)));
  zoo.parts.arrive();
};
