"""tests.loss"""
