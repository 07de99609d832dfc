"""tests.pretrained"""
