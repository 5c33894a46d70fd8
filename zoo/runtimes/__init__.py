"""Runtimes: what a deployed model is compiled by, and runs in. Each is one file, imported when it is asked for."""
