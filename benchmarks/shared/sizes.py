"""The sizes at which loaders are measured.

This file imports nothing: the peers' loaders read it too, in an environment without align_train.
"""

BATCH = 64  # pairs

# Pixels: a random crop of IMAGE_SIZE from an image of RESIZE_SIZE, as in the paper.
IMAGE_SIZE = 289
RESIZE_SIZE = 346

MAX_TOKENS = 64  # of a text
