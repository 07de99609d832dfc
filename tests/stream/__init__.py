"""tests.stream"""
