"""Blocks and models of acme. The zoo reads `blocks.json` and the folder `models`; this file is imported with the first block."""
