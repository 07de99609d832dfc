"""Tests of a training step and of what happens around it."""
