"""Offline preparation of shards, run once; `align_train.data` in a wheel.

`align_train/stream/` is what runs at every step.
"""
