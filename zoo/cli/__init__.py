"""The command line: `arguments` is its door, `options` what grammars share, `commands` what each command takes and does. Imports no torch."""

from zoo.cli.arguments import main, parser
from zoo.cli.options import positive, quantity, settings, whole

__all__ = ["main", "parser", "positive", "quantity", "settings", "whole"]
