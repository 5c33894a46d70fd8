"""Token mixers by Fourier transforms. Listing reads `blocks.json` and the folder `models`; this file is imported with the first block."""
