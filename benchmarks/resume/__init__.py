"""The wait for a run's first batch, from the start and resumed late in an epoch."""
