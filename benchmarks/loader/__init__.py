"""benchmarks.loader"""
