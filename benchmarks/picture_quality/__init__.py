"""benchmarks.picture_quality"""
