"""Linear maps whose matrix is a product of small ones."""
