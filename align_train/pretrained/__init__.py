"""Trained models in folders, whoever wrote them: opened, loaded, filled in and described."""
