"""A run's folder, and the record of its training data."""
