"""Recipes that train the small models that ship."""
