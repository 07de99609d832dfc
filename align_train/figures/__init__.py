"""Figures that a run shows. Pillow draws sheets of images, matplotlib the plots."""
