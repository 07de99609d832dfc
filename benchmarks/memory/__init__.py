"""The memory of a run's data: a large manifest, and loader workers over many epochs."""
