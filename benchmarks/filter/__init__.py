"""benchmarks.filter"""
