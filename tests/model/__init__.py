"""Tests of the models and their towers."""
