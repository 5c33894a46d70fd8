"""Specs: models as data. Read (TOML, JSON), resolved (variants, parts, indexed values, overrides), checked, filled, digested.

Named `specs` because `zoo.spec(name)` is the front door's function. Nothing below this package imports torch.
"""
