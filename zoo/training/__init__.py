"""Training: one loop, models on pictures of one's own by recipes that are data, the small models that ship, ablations."""
