"""Shards: tars of pairs on disk or at a URL, their manifest, their indices, and the local cache."""
