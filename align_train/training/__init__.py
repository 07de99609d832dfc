"""align_train.training"""
