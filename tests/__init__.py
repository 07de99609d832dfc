"""Tests, one folder a room of `align_train` and `data`."""
