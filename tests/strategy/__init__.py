"""tests.strategy"""
