"""The demo: drawn pictures with noisy alt-texts, so that everything can be tried and tested offline."""

from align_train.demo.make import make_demo

__all__ = ["make_demo"]
