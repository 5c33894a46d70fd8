"use strict";
// What pages are made of: sections, tables whose cells are text or elements, chips, commands.
zoo.parts = (() => {
  const { element } = zoo.words;

  const chip = (text, kind = "") => element("span", { class: `chip ${kind}` }, text);
  const small = (text) => (text ? [" ", element("small", {}, text)] : []);
  const command = (text) => element("code", {}, text);
  const pre = (...content) => element("pre", { tabindex: "0" }, element("code", {}, ...content));
  const caption = (...content) => element("p", { class: "caption" }, ...content);
  const empty = (...content) => element("p", { class: "empty" }, ...content);
  const section = (id, title, ...content) => element("section", {}, element("h2", { id }, title), ...content);

  // A text of others leads only to the web.
  const link = (text, href) => (/^https?:\/\/[^\s"'<>`\\]+$/.test(href) ? element("a", { href, rel: "noopener noreferrer" }, text) : text);

  const KINDS = { permissive: "permissive", noncommercial: "no commercial use", research: "research only" };
  const licence = ([text, kind]) => [text || "unknown", " ", chip(KINDS[kind] ?? "read it first", kind)];
  // The paper and the code of a family, to stand behind its title.
  const links = ({ paper: [paper, href], code }) => [paper && link(paper, href), code && link("code of the authors", code)].filter(Boolean).flatMap((made) => [" · ", made]);

  // A line of others in which words between backticks are code.
  function ticked(text) {
    const parts = text.split("`");
    return parts.length % 2 ? parts.map((part, i) => (i % 2 ? command(part) : part)) : [text];
  }

  // Content of a cell is text, or a list of texts and elements; that of `number` stands at the right.
  const number = (...content) => ({ class: "num", content });
  function cell(name, content, attributes = {}) {
    if (content?.content) return element(name, { ...attributes, class: content.class }, ...content.content);
    return element(name, attributes, ...[content ?? ""].flat());
  }
  // The first of each row is its head; a head of a column that begins with # is of numbers.
  function table(label, heads, rows, classes = "") {
    const head = heads.map((text) => cell("th", text.replace(/^#/, ""), { scope: "col", class: text.startsWith("#") ? "num" : "" }));
    const body = rows.map(([first, ...rest]) => element("tr", {}, cell("th", first, { scope: "row" }), ...rest.map((one) => cell("td", one))));
    const made = element("table", { class: classes }, ...(heads.length ? [element("thead", {}, element("tr", {}, ...head))] : []), element("tbody", {}, ...body));
    return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, made);
  }

  // Where verdicts of rows are explained, in a site with guides.
  const meaning = () => (self.zooSite.guides ? [element("a", { href: `${zoo.words.root}guides/measuring.html#verdicts` }, "What verdicts mean"), ". "] : []);

  // A page that a script fills goes to the place of its address once it is there.
  const arrive = () => document.getElementById(location.hash.slice(1))?.scrollIntoView();

  return { chip, small, command, pre, caption, empty, section, link, number, table, licence, links, ticked, meaning, arrive };
})();
