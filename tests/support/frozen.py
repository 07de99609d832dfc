"""Imported last by a process that others are forked from: keeps its objects from the collector.

Without this each fork's collector would look through, and so copy, all that is loaded there.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
