"""tests.shards."""
