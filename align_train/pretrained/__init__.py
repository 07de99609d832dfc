"""align_train.pretrained"""
