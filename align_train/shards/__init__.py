"""align_train.shards"""
