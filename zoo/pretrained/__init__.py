"""How a net on meta gets its tensors: a checkpoint, published weights, or first values."""
