"use strict";
// The page of a family: its models with their costs, and the spec that all of them come from, in which blocks lead to their pages.
zoo.pages.family = async (main, name) => {
  const { element, figure, count, address } = zoo.words;
  const { chip, command, pre, empty, section, caption, number, table, licence, links } = zoo.parts;
  const family = await zoo.facts.family(name), spec = await zoo.facts.spec(name);
  const models = Object.entries(family.models), [, first] = models[0];

  const rows = models.map(([model, { input, costs: [[params, macs]], accuracies: [best], weights }]) => [
    element("a", { href: address("models", model) }, model), number(input),
    number(figure(params, count(params), `cost:${model}:train:params`)), number(figure(macs, count(macs), `cost:${model}:train:macs`)),
    best ? [figure(best.value, best.text, best.record), " ", element("small", {}, best.metric)] : "",
    weights.some((one) => one.state !== "listed") ? "shipped" : weights.length ? "listed" : "none",
  ]);
  const members = section("models", "Models", table("Models", ["model", "#input", "#parameters", "#MACs", "accuracy", "weights"], rows),
    caption(command(`zoo list --family ${name}`), ". MACs are of one input of the size that is named."));
  const written = element("p", {}, "The file that all of them come from, without its rules for the names of other libraries' weights; blocks lead to their pages. ", command(`zoo spec ${models[0][0]}`), " prints the whole.");
  const source = spec ? [section("spec", "Spec", written, pre(...zoo.drawing.code(spec, new Set(family.blocks))))] : [];

  main.querySelector(".lead").append(...links(family));
  document.getElementById("members").replaceWith(element("p", { class: "chips" }, chip(first.task), element("span", {}, ...licence(first.licence))));
  main.append(members, ...source, section("cite", "Cite", family.cite ? pre(family.cite) : empty(family.paper[0] || "No paper.")));
  zoo.parts.arrive();
};
