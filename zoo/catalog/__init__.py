"""What models there are, under which names, and where their specs and weights lie. Data only; imports no torch."""

from zoo.catalog.index import *  # noqa: F403
