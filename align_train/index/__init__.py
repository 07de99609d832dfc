"""align_train.index"""
