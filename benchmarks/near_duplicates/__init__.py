"""benchmarks.near_duplicates"""
