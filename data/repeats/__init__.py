"""Semantic repeats: images whose embeddings are nearly the same, of which one stays."""
