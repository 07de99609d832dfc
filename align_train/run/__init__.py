"""align_train.run"""
