"""Tests of trained models: opened, loaded and exported."""
