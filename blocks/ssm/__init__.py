"""State-space mixers: recurrences whose step depends on the input."""
