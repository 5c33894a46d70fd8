"""Norms, activations, convolution stacks, scales and views."""
