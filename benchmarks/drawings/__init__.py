"""The drawings that explain how the project works."""
