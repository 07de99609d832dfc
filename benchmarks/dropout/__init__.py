"""Dropout by pair against torch's own and timm's."""
