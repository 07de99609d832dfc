"""One training step, and what happens around it."""
