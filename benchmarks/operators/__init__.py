"""Operators, launches and waits of a step."""
