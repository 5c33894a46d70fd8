"""Linear attention: a feature map in place of the softmax, so that cost grows with the length and not its square."""
