"""The exact loss against open_clip's `ClipLoss` in its fair setting."""
