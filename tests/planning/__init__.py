"""Tests of the way from shards to batches."""
