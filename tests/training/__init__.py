"""tests.training"""
