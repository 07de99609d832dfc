"""align_train: contrastive pretraining on noisy image/alt-text pairs, after ALIGN (Jia et al. 2021, arXiv 2102.05918)."""

__version__ = "0.1.0"
