"""Tests of the strategies: equal numbers, and checkpoints that all of them read."""
