"use strict";
// The spec on the page of a family: in colours, its blocks as links.
(() => {
  const main = document.getElementById("main"), spec = document.querySelector("#spec ~ pre code");
  const pages = new Set(self.zooFamilies[main.dataset.family].blocks);
  if (spec) spec.replaceChildren(...zoo.drawing.code(spec.textContent, pages));
})();
