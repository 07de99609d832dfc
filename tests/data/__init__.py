"""tests.data"""
