"""The memory of a large device batch under gradient caching."""
