"""The demo: drawn images with noisy alt-texts, so that everything can be tried and tested offline.

`scene` says what is in an image, `draw` makes its pixels, `phrases` its texts, `make` the shards.
"""

from align_train.demo.make import make_demo

__all__ = ["make_demo"]
