"""benchmarks.resume"""
