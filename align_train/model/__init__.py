"""The dual encoder and its towers; a classifier of one of them."""

from align_train.model.base import ImageTower, TextTower
from align_train.model.classifier import Classifier
from align_train.model.dual_encoder import Bias, DualEncoder, Temperature
from align_train.model.hugging_face_text import HuggingFaceTextTower
from align_train.model.image_tower import EfficientNetTower, TimmTower
from align_train.model.text_tower import BertTower
from align_train.model.trainable import TrainableModel

__all__ = [
    "BertTower",
    "Bias",
    "Classifier",
    "DualEncoder",
    "EfficientNetTower",
    "HuggingFaceTextTower",
    "ImageTower",
    "Temperature",
    "TextTower",
    "TimmTower",
    "TrainableModel",
]
