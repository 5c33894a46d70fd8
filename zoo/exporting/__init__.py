"""`zoo.export`: a model as a file that stands alone."""
