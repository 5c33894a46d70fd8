"use strict";
// The page of a block: what stands in the file of its kind, as sections.
(() => {
  const { element, figure, count, address } = zoo.words;
  const { chip, command, caption, empty, section, link, number, table } = zoo.parts;
  const main = document.getElementById("main"), name = document.querySelector("h1").textContent;
  const block = self.zooBlocks[main.dataset.kind][name];
  const spaced = (text) => text.replaceAll("_", " ");

  function chips() {
    const paper = block.paper[0] ? [element("span", {}, link(...block.paper))] : [];
    return element("p", { class: "chips" }, chip(spaced(main.dataset.kind)), chip(`layout ${block.layout}`), ...block.abilities.map((ability) => chip(spaced(ability))), ...paper);
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

  const covered = block.covers.length ? [element("p", {}, `Papers call it: ${block.covers.join(", ")}.`)] : [];
  main.append(chips(), ...covered, parameters(), ...(block.learned.length ? [tasks()] : []), uses(), ...(block.families.length ? [models()] : []),
    caption(command(`blocks.get("${name}")`), ", ", command(`zoo blocks ${name}`)));
  zoo.parts.arrive();
})();
