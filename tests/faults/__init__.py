"""Faults that were found by attacking the product, each with the behaviour that is right.

A fault is a function without arguments that returns nothing where the product behaves rightly, and a sentence about what it
did instead where it does not. Each runs in a process of its own, in an empty folder, within bounds of time and memory, since many of
them killed the process or filled the machine. `python -m tests.faults` runs all and counts them by severity;
`python -m tests.faults --tree DIR` does so for another checkout, which shows a before beside an after.

Modules of faults import nothing of the product at their top, so that another checkout can be put in its place.
"""
