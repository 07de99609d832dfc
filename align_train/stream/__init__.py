"""Shards to batches: manifest, order, shard, decode, text, chunks. Each is one module; none keeps state between steps."""
