"""align_train.config"""
