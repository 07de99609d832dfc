"""The server against the model alone."""
