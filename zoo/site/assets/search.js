"use strict";
// The search of all pages. Its index is a script that is loaded when somebody looks for something: a page from a disk may load no JSON.
(() => {
  const MOST = 12;
  const root = document.body.dataset.root;
  const make = (name, attributes) => Object.assign(document.createElement(name), attributes);
  const input = make("input", { type: "search", id: "search", placeholder: "Search models, blocks, guides", ariaLabel: "Search models, blocks and guides", autocomplete: "off" });
  const list = make("ul", { id: "found", hidden: true }), box = make("div", { className: "find", role: "search" });
  box.append(input, list);
  document.querySelector(".top").append(box);

  let loading = null;
  const load = () => loading ??= new Promise((done) => {
    const script = document.createElement("script");
    script.src = `${root}assets/index.js`;
    script.onload = () => done(self.zooIndex ?? []);
    script.onerror = () => done([]);
    document.head.append(script);
  });

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
      link.href = root + href;
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
