"""Tests of the evaluators against plain formulas."""
