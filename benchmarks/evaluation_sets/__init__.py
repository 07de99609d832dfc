"""`eval=wds` against CLIP_benchmark's own command, on sets that its own writer wrote."""
