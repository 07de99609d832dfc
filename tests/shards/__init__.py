"""tests.shards"""
