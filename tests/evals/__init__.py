"""tests.evals."""
