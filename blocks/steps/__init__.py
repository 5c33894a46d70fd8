"""One token at a time: the step of a deployed net as a list of calls that C++ goes through, with what is kept of the tokens before.

Decoding meets every layer once for each token, with so few numbers that finding out what is to be computed takes as long as computing
it. Here that is found out once: `rules` say of each kind of module which calls its step is, `tape` lays their numbers out, `kept` names
the memory that a token reads and leaves, `stepper` puts them together. A module without a rule is called as ever, between two lists.
"""

from blocks.steps.stepper import Stepper

__all__ = ["Stepper"]
