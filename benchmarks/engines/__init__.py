"""benchmarks.engines"""
