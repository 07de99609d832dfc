"""tests.optim"""
