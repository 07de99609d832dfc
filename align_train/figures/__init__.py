"""align_train.figures"""
