"""align_train.strategy"""
