"""The commands of the command line, one module for each subject. Each takes parsed arguments and returns an exit code."""
