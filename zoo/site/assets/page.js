"use strict";
// Draws the page that this is: those of models, families and blocks come as a name and a sentence.
zoo.pages[document.body.dataset.page]?.(document.getElementById("main"), document.querySelector("h1")?.textContent);
