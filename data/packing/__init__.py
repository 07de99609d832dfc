"""The two halves of `data.pack`: pairs are collected, then written as shards."""
