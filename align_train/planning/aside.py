"""Others' code on fake tensors, beside a run that must not notice."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from align_train.errors import UserError, one_line

_SHOWN = 160  # characters of a library's own message

# Logs a stack trace of what it raises.
_LOG_OF_FAKES = logging.getLogger("torch._subclasses.fake_tensor")


@contextmanager
def aside(key: str) -> Iterator[None]:
    """Runs a component of a run for its counts alone.

    Random numbers drawn in here are drawn again afterwards.

    Args:
        key: The setting that chose the component.

    Yields:
        Once, around what is run.

    Raises:
        UserError: It failed: models, losses, optimizers and strategies may be anybody's.
    """
    level = _LOG_OF_FAKES.level
    of_torch, of_python = torch.get_rng_state(), random.getstate()
    of_numpy = np.random.get_state()  # noqa: NPY002 - others' code may draw from it
    _LOG_OF_FAKES.setLevel(logging.CRITICAL)
    try:
        yield
    except UserError:
        # It is one line for the user already, and knows the setting better than this.
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error, _SHOWN)}"
        raise UserError(
            f"{key}: it cannot be planned, for it fails on tensors that have no values ({reason}); "
            f"if a run of a few steps fails too, mend the settings, else go without a plan"
        ) from error
    finally:
        _LOG_OF_FAKES.setLevel(level)
        torch.set_rng_state(of_torch)
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
