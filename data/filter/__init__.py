"""data.filter"""
