"""Which model to take: find, pick, and the plot of what there is."""
