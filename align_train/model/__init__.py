"""The dual encoder and its towers."""

from align_train.model.dual_encoder import Bias, DualEncoder, Temperature
from align_train.model.image_tower import EfficientNetTower, TimmTower
from align_train.model.text_tower import BertTower

__all__ = ["BertTower", "Bias", "DualEncoder", "EfficientNetTower", "Temperature", "TimmTower"]
