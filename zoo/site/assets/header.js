"use strict";
// What stands above every page: where the site leads, and the search of all of it. Its index is a script that is loaded when somebody looks for something: a page from a disk may load no JSON.
(() => {
  const MOST = 12;
  const { title, guides } = self.zooSite, { root, address } = zoo.words;
  document.title += ` · ${title}`;
  const room = { block: "blocks", blocks: "blocks", guide: "guides" }[document.body.dataset.page] ?? "models";
  const make = (name, attributes, ...content) => { const made = Object.assign(document.createElement(name), attributes); made.append(...content); return made; };
  const rooms = [["models", "Models", "index.html"], ["blocks", "Blocks", "blocks/index.html"], ...(guides ? [["guides", "Guides", "guides/index.html"]] : [])];
  const links = rooms.map(([key, text, page]) => make("a", { href: root + page, ariaCurrent: key === room ? "true" : null }, text));
  const input = make("input", { type: "search", id: "search", placeholder: "Search models, blocks, guides", ariaLabel: "Search models, blocks and guides", autocomplete: "off" });
  const list = make("ul", { id: "found", hidden: true }), box = make("div", { className: "find", role: "search" });
  box.append(input, list);
  const brand = make("a", { className: "brand", href: `${root}index.html` }, title);
  document.head.append(make("link", { rel: "icon", href: `${root}assets/icon.svg` }));
  document.body.prepend(
    make("a", { className: "skip", href: "#main" }, "Skip to the content"),
    make("header", { className: "top" }, brand, make("nav", { ariaLabel: "Site" }, ...links), box),
  );

  let entries = null;
  // [title, address, kind, other words]
  async function load() {
    await zoo.words.load("assets/index.js");
    if (!entries && self.zooIndex) {
      const named = (room, kind) => self.zooIndex[room].flatMap(([words, names]) => names.map((name) => [name, address(room, name), kind, words]));
      const read = self.zooIndex.guides.map(([words, text, place]) => [text, `${root}guides/${place.replace(/(?=#|$)/, ".html")}`, "guide", words]);
      entries = [...named("models", "model"), ...named("families", "family"), ...named("blocks", "block"), ...read];
    }
    return entries ?? [];
  }

  // The name itself counts most, its beginning more than its middle, other words least; every word must be somewhere.
  function rank([title, , , words], wanted) {
    let total = 0;
    const name = title.toLowerCase(), rest = words.toLowerCase();
    for (const word of wanted) {
      const at = name.indexOf(word);
      if (at < 0 && !rest.includes(word)) return 0;
      total += name === word ? 100 : at === 0 ? 20 : at > 0 ? 8 : 1;
    }
    return total - name.length / 100;
  }

  function show(entries) {
    list.replaceChildren(...entries.map(([title, href, kind]) => {
      const item = document.createElement("li"), link = document.createElement("a"), tag = document.createElement("small");
      link.href = href;
      link.textContent = title;
      tag.textContent = kind;
      link.append(" ", tag);
      item.append(link);
      return item;
    }));
    list.hidden = entries.length === 0;
  }

  async function look() {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!wanted.length) return show([]);
    const ranked = (await load()).map((entry) => [rank(entry, wanted), entry]).filter(([score]) => score > 0);
    show(ranked.sort((a, b) => b[0] - a[0]).slice(0, MOST).map(([, entry]) => entry));
  }

  function step(event) {
    const links = [...list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    if (event.key === "Escape") { show([]); input.focus(); }
    else if (event.key === "Enter" && document.activeElement === input && links.length) location.href = links[0].href;
    else if (event.key === "ArrowDown" && links.length) { event.preventDefault(); links[Math.min(at + 1, links.length - 1)].focus(); }
    else if (event.key === "ArrowUp" && at >= 0) { event.preventDefault(); (links[at - 1] ?? input).focus(); }
  }

  input.addEventListener("focus", load);
  input.addEventListener("input", look);
  box.addEventListener("keydown", step);
  document.addEventListener("click", (event) => { if (!box.contains(event.target)) show([]); });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !typing) { event.preventDefault(); input.focus(); }
  });
})();
