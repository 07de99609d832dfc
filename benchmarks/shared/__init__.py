"""benchmarks.shared"""
