"""tests.commands"""
