"""benchmarks.loss"""
