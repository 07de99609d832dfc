"""align_train.commands"""
