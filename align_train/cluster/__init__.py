"""The processes of a run: who started them, how they exchange tensors, and whether all live."""
