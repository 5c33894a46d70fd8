"""The command line: its grammar in `arguments`, what each command does in `commands`. Imports no torch."""

from zoo.cli.arguments import main, parser, positive, quantity, settings, whole

__all__ = ["main", "parser", "positive", "quantity", "settings", "whole"]
