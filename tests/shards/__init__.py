"""Tests of shards, the shard cache and selections."""
