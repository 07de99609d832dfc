"""benchmarks.memory"""
