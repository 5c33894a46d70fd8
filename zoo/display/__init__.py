"""How things are shown: the console, Markdown and HTML, tables."""
