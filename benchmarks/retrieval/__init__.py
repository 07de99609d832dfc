"""benchmarks.retrieval"""
