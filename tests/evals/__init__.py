"""tests.evals"""
