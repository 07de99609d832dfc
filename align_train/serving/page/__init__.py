"""The web page: classify, search and compare, by Gradio, without a file on the server."""

from align_train.serving.page import before_gradio
from align_train.serving.page.mount import mount

__all__ = ["before_gradio", "mount"]
