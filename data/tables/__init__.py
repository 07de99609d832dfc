"""data.tables"""
