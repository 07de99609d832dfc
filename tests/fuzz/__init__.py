"""Fuzzing: broken bytes for whatever reads the bytes of strangers (`python -m tests.fuzz`)."""
