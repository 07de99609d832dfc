"""What a run needs, planned and measured."""
