"""One static site of the catalogue: an explorer, a page for each model, block and family, and the guides.

figures     a figure with the record that it comes from
known       all that is known of one model, gathered from the records
structure   a filled spec as rows that people read
counts      costs by place, class and block, of models with which none ship
pool        values that recur, kept once
explorer    what the explorer draws and filters, as data
guides      the pages of `docs/` as HTML
render      templates, addresses, colours of code
runs        devices and runtimes in words
facts       what the pages of models, families and blocks tell, one script for each letter and kind
pages       texts for pages; entries of the search
build       the folder
sheet       one file with some models: `zoo find --html`

What all pages of a kind say is written once: pages of models and blocks hold a name and a link, `assets/model.js` and `assets/block.js` draw
the rest from the facts. Pages are templates of Jinja2, which fills in texts as texts, and guides are read by markdown-it-py: torch and rich bring both, so a site
needs nothing that is not here already. A generator of documentation has no place for a thousand pages that come from records.
"""
