"""Choices of the model, short-trained at their learning rates and beside them."""
