"""Does it pay to let the model choose its data?"""
