"""align_train.cluster"""
