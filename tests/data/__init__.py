"""Tests of the offline preparation of shards."""
