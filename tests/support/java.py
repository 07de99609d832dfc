"""Spark's need."""

from __future__ import annotations

import os
import shutil

import pytest

needs_java = pytest.mark.skipif(
    shutil.which("java") is None and "JAVA_HOME" not in os.environ,
    reason="Spark needs Java 17 or 21, which is not here",
)
