"""Heads: from a feature map or tokens to logits."""
