"""Zero-shot accuracy of the runs of `experiment=noise_scaling`, by size and noise of their data."""
