"""Attention: every position looks at every other, or at those before it."""
