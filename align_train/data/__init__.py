"""In a checkout: the folder `data/` at its top, under the name that it has in a wheel.

A wheel carries `data/` itself in this place. So `align_train.data.pack` is the same tool in both,
and another package called `data` in the working directory hides nothing.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "data")]
