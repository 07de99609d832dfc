"""What Gradio must know before it is imported: no analytics, and a folder of the user's own.

Gradio asks its makers for a newer version of itself, and makes a folder in the shared temporary
one, which fails if another user was first. The page puts no file there.
"""

from __future__ import annotations

import os

from align_train.files import cache_folder

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_TEMP_DIR"] = str(cache_folder("gradio"))
