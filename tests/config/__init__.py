"""tests.config"""
