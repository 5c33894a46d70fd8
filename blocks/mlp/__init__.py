"""Channel mixers: MLPs, plain and gated."""
