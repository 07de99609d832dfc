"""Short trainings by the command: what a run can be set to do, each once.

A run that ends with an error is told by its last lines. The loss is that of the last step: it shows
that all settings that may not change a number have not.
"""

from __future__ import annotations

from benchmarks.gpu.parts import Columns, Figures, Options
from benchmarks.gpu.training import UNEVALUATED, Run, RunFailed, demo_of

TITLE = "short trainings by the command, `model=tiny` on drawn pairs"
COLUMNS: Columns = {
    "settings": ("settings", "s"),
    "seconds": ("seconds", ".1f"),
    "stopped": ("stopped at step", "d"),
    "loss": ("last loss", ".4f"),
    "memory_gb": ("GB at the peak", ".2f"),
}
# They are small, and mostly start; figures of speed come from other parts.
AT_ONCE = 5
LIMIT = 150.0

STEPS = 50
TINY_STEPS = 4

RESUMED = "stopped and resumed"
EAGER = "compile=false"
BF16 = ("precision=bf16", EAGER)
ON_GPU = {
    "plain": ("precision=fp32", EAGER),
    "as it comes": (),
    "compiled, recomputed": ("precision=bf16", "compile=true", "recompute=true", "chunk_size=64"),
    "bf16": BF16,
    "recomputed": ("precision=fp32", EAGER, "recompute=true", "chunk_size=64"),
    "compiled": ("precision=bf16", "compile=true"),
    "fsdp": (*BF16, "strategy=fsdp"),
    RESUMED: BF16,
    "deepspeed, stage 1": (*BF16, "strategy=deepspeed", "strategy.stage=1"),
    "deepspeed, stage 2": (*BF16, "strategy=deepspeed", "strategy.stage=2"),
    # It gathers weights in each pass, so it cannot try what fits.
    "deepspeed, stage 3": (
        *BF16,
        "strategy=deepspeed",
        "strategy.stage=3",
        "chunk_size=64",
        "recompute=true",
    ),
}
# Compiling for a CPU takes minutes; it has its own tests.
ON_CPU = {
    "plain": ("precision=fp32",),
    "bf16, recomputed": ("precision=bf16", "recompute=true"),
    RESUMED: (),
}


def rows(options: Options) -> list[str]:
    return list(_variants(options))


def measure(row: str, options: Options) -> Figures:
    if row.startswith("deepspeed"):
        _refuse_missing("deepspeed")
    steps = _steps(options)
    run = run_of(row, options)
    run.clear()
    stopped = None
    if row == RESUMED:
        # Early: fast steps must not end the run before the signal has come.
        run.train_and_stop(max(1, steps // 10))
        stopped = run.last_step()
        if stopped == steps:
            raise RunFailed(f"came to step {steps} before it was stopped")
    seconds = run.train()

    found = [int(line["step"]) for line in run.rows()]
    if found != list(range(1, steps + 1)):
        raise RunFailed(f"expected steps 1 to {steps} in metrics.csv, found {found}")
    told = {"settings": " ".join(_variants(options)[row]), "seconds": seconds, "stopped": stopped}
    return told | run.figures("loss", "memory_gb")


def run_of(row: str, options: Options) -> Run:
    """The run of a row."""
    return Run(
        folder=options.folder / "runs" / row.replace(", ", "-").replace(" ", "-"),
        settings=(
            *demo_of(options),
            *UNEVALUATED,
            f"max_steps={_steps(options)}",
            "log_every=1",
            "data.workers=1",
            *_variants(options)[row],
        ),
        device=options.device,
        log=options.log,
    )


def _steps(options: Options) -> int:
    return TINY_STEPS if options.tiny else STEPS


def _variants(options: Options) -> dict[str, tuple[str, ...]]:
    return ON_GPU if options.on_gpu else ON_CPU


def _refuse_missing(package: str) -> None:
    from importlib.util import find_spec

    from benchmarks.gpu.child import Skipped

    if find_spec(package) is None:
        raise Skipped("not installed")
