"""Pictures in any number through a model, into a file: what is written, how it survives a kill, where it runs."""
