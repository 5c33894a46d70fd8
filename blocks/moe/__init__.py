"""Mixtures of experts: routers, and the layer that joins router and experts."""
