"""Semantic repeats at scale, and on photos whose copies are known."""
