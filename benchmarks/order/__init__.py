"""benchmarks.order"""
