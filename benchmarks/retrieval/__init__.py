"""Exact ranks of large sets: memory, and rows a second against a plain chunked product."""
