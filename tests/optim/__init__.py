"""tests.optim."""
