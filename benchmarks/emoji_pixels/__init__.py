"""benchmarks.emoji_pixels"""
