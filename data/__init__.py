"""Offline preparation of shards, run once, in a checkout.

`align_train/stream/` is what runs at every step.
"""
