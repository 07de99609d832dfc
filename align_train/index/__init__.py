"""Embeddings of images on disk, and the search in them."""
