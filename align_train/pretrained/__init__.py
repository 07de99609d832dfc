"""Trained models in folders, whoever wrote them: opened, loaded, filled in and described."""

# Here, because errors name it before torch is imported.
ANY_MODEL = (
    "a run's folder, one of its checkpoints, an exported folder, or Hugging Face's ALIGN, CLIP or "
    "SigLIP (a folder or a name on the hub)"
)
"""The models that `load` takes, for errors."""

BEGIN = "<!-- align_train: begin -->"
"""Before our part of a model card. What lies outside is hand-written, and no export touches it."""
