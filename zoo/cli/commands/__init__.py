"""The commands of the command line, one module for each subject: `add` says what a command takes, and its function what it does.

A command takes parsed arguments and returns an exit code. The modules are all loaded at each start, so what a command needs beyond the
printing of tables is imported when it runs.
"""
