"""Convolutions, pooling and the other mixers of image positions."""
