"""Reads the layers of a model while its owner trains it."""
