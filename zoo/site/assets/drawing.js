"use strict";
// Blocks as boxes, what they cost as bars, and code in colours. `pages` are the blocks that have a page.
zoo.drawing = (() => {
  const { element, address } = zoo.words;
  const NONE = new Set(), KINDS_OF_GROUP = ["residual", "graph"];

  const linked = (block, pages, text = block) => (pages.has(block) ? element("a", { href: address("blocks", block) }, text) : text);
  const named = ([block, params], pages) => [linked(block, pages), ...(params ? [" ", element("small", {}, params)] : [])];

  // A node is [block, parameters, nodes in it]; what is added to what went round it has a plus.
  function box(node, pages) {
    if (!node[2].length) return element("span", { class: "node" }, ...named(node, pages));
    const classes = `node group${KINDS_OF_GROUP.includes(node[0]) ? ` ${node[0]}` : ""}`;
    return element("span", { class: classes }, element("span", { class: "name" }, ...named(node, pages)), flow(node[2], pages));
  }
  const flow = (nodes, pages = NONE) => element("span", { class: "flow" }, ...nodes.map((node) => box(node, pages)));

  function bar(share, kind = "macs") {
    const made = element("span", { class: `meter ${kind}`, "aria-hidden": "true" }, element("span"));
    made.firstChild.style.width = `${(100 * share).toFixed(1)}%`;
    return made;
  }

  // Comments, strings, names of tables, keys and numbers; after a prompt, what a shell would take. Good for TOML, Python and consoles.
  const TOKEN = /(#.*$)|("(?:[^"\\\n]|\\.)*")|(^\[+[^\]\n]*\]+|^\$ |\b(?:import|from|True|False|None|true|false)\b)|(?<![\w.])(-?\d[\d._e]*)/gm;
  const KINDS = ["c", "s", "k", "n"];
  function code(text, pages = NONE) {
    const parts = [];
    let end = 0;
    for (const match of text.matchAll(TOKEN)) {
      const kind = KINDS[match.slice(1).findIndex((group) => group !== undefined)], piece = match[0];
      const inside = kind === "s" ? linked(piece.slice(1, -1), pages, piece) : piece;
      parts.push(text.slice(end, match.index), element("span", { class: kind }, inside));
      end = match.index + piece.length;
    }
    return [...parts, text.slice(end)];
  }

  return { flow, bar, code };
})();
