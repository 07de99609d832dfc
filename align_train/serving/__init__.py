"""A trained model on a web page and behind an HTTP interface: `python -m align_train.serve`."""
