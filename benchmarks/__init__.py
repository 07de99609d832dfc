"""Benchmarks: a folder a topic, each started by `python -m benchmarks.TOPIC`."""
