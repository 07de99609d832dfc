"""Our metrics against open_clip's, CLIP_benchmark's and torchmetrics'."""
