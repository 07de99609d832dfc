"""A run's folder, its lock, and the record of its training data."""
