"""Tests of the losses against plain formulas."""
