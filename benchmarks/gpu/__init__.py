"""All that a GPU must show, in one command of some minutes."""
