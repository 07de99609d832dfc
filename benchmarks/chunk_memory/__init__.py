"""benchmarks.chunk_memory"""
