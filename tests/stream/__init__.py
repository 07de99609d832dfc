"""tests.stream."""
