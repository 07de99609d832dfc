"""The perceptual hash on altered copies of photos, at several Hamming distances."""
