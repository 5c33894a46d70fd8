"""Wirings: how the parts of a layer are joined."""
