"""tests.loss."""
