"use strict";
// What is known of a family and its models, from the volume of its letter; what follows from other facts is put back.
zoo.facts = (() => {
  const { load, slug } = zoo.words;
  const letter = (family) => slug(family)[0].toLowerCase();

  async function volume(family) {
    await load(`assets/families/${letter(family)}.js`);
    return self.zooFamilies?.[letter(family)];
  }

  // Without a volume, as in a sheet of what `zoo find` found, nothing is known.
  async function family(name) {
    const found = await volume(name), facts = found?.families[name];
    if (!facts) return null;
    const models = Object.entries(facts.models).map(([model, told]) => [model, whole(model, told, facts, found.drawings)]);
    return { ...facts, models: Object.fromEntries(models) };
  }

  async function spec(family) {
    await load(`assets/specs/${letter(family)}.js`);
    return self.zooSpecs?.[letter(family)]?.[family] ?? "";
  }

  // A model's costs stand for both forms where these are alike; the last of them is memory: weights and activations.
  function whole(name, model, { title, units }, drawings) {
    const [train, deploy = train] = model.costs.map((row) => [...row, row[2] + row[3]]);
    const places = model.places?.map(([place, note, width, drawing, params = null, macs = null]) => [place, note, width, drawings[drawing], params, macs]);
    const accuracies = model.accuracies.map(([metric, value, record, weights, source, command, ends]) => {
      const unit = units[metric], factor = unit === "%" ? 100 : 1;
      const shown = ends.map((end) => [end, String(+(factor * end).toPrecision(4))]);
      return { metric, value, text: String(+value.toFixed(2)), record, unit, ends: shown, weights, source, command };
    });
    return { title, ...model, ...usage(name, model), costs: [train, deploy], places, accuracies };
  }

  // How to load a model in Python; how to fetch, measure and deploy it in a shell.
  function usage(name, { weights }) {
    const first = weights[0], pin = first?.state === "listed" ? [`$ zoo pin ${first.name}        # fetches the listed weights, proves them, keeps them`] : [];
    const model = first ? `zoo.create("${first.name}", pretrained=True)` : `zoo.create("${name}")`;
    return { load: `import zoo\n\nmodel = ${model}`, shell: [...pin, `$ zoo bench ${name} --form deploy`, `$ zoo deploy ${name}`].join("\n") };
  }

  return { family, spec };
})();
