"""One recipe of 50 steps under every strategy: the loss curves, and how far they lie apart."""
