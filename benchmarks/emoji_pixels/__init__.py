"""The emoji experiment's baseline: nearest neighbours in pixels."""
