"""benchmarks.metrics"""
