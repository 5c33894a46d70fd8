"""Which model for a device and a budget."""
