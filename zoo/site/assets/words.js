"use strict";
// Figures and words as people read them.
self.zoo = { pages: {} };
zoo.words = (() => {
  const round = (value) => String(+value.toPrecision(3));
  function count(value) {
    for (const [size, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (Math.abs(value) >= size) return `${round(value / size)} ${prefix}`;
    return round(value);
  }
  function bytes(value) {
    for (const [size, name] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) if (value >= size) return `${(value / size).toFixed(1)} ${name}`;
    return `${value} bytes`;
  }
  const ms = (value) => (value >= 1000 ? Math.round(value).toLocaleString("en") : round(value));
  function run(key) {
    const match = /^(\S+) (\S+) b(\d+) t(\d+)$/.exec(key);
    if (!match) return key;
    const [, engine, dtype, batch, threads] = match;
    return `${threads} thread${threads === "1" ? "" : "s"}, ${dtype}, batch ${batch}${engine === "eager" ? "" : `, ${engine}`}`;
  }
  // An element with attributes and content, which is text or elements: never markup.
  function element(name, attributes = {}, ...content) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) value === true ? made.setAttribute(key, "") : value !== false && made.setAttribute(key, value);
    made.append(...content);
    return made;
  }
  // A name as that of a file, as Python's `slug` has it; and the page of something.
  const slug = (name) => name.replace(/[^\w.-]/g, ".").replace(/^\.+/, "") || "page";
  const root = document.querySelector("script[src]")?.getAttribute("src").replace("assets/page.js", "") ?? "";
  const address = (room, name) => `${root}${room}/${slug(name)}.html`;
  // Loads scripts, each once; a page from a disk may load no JSON.
  const loading = new Map();
  function load(file) {
    if (!loading.has(file)) loading.set(file, new Promise((done) => {
      const script = element("script", { src: root + file });
      script.onload = script.onerror = done;
      document.head.append(script);
    }));
    return loading.get(file);
  }
  const figure = (value, text, record) => element("span", { "data-record": record, "data-value": value }, text);
  return { count, bytes, ms, run, element, figure, slug, root, address, load };
})();
