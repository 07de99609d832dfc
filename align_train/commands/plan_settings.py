"""The settings of a plan: rules of its own, the hardware, and what stands in for absent files."""

from __future__ import annotations

import dataclasses

from align_train.commands.spelled_out import explicit
from align_train.config.check import check
from align_train.config.components import build, check_component
from align_train.config.compose import compose_command
from align_train.config.plan_schema import HARDWARE, OPTIONAL, PlanSettings
from align_train.config.schema import Node
from align_train.errors import UserError
from align_train.planning.hardware import Hardware
from align_train.planning.splits import NearestSplit, nearest_split

USUAL_TOKENIZER = "bert-base-uncased"

# The most of each number; the least is 1. All are far above what anybody trains with, and a plan
# of more would take minutes, or memory.
_MOST = {
    "nodes": 1_000_000,
    "gpus_per_node": 1_000,
    "tokens": 1_000_000,
    "pairs": 10**12,
    "shards": 10**7,
    "vocabulary": 10**9,
}
_MOST_IN_BATCH = 2**24

# The most of each figure, which is above 0.
_MOST_FIGURE = {"price_per_gpu_hour": 1e6, "bytes_per_pair": 1e9}


def compose_plan(*words: str) -> PlanSettings:
    """Composes the settings of a plan as its command would; they are not checked yet.

    Args:
        words: As on the command line.

    Raises:
        UserError: They cannot be composed.
    """
    return compose_command("plan", PlanSettings, *words, optional=OPTIONAL, fill_in=explicit)


def check_plan(settings: PlanSettings) -> None:
    """Checks what a plan adds to the settings of a run; needs no class, and so no torch.

    Args:
        settings: Composed and typed.

    Raises:
        UserError: One line with the key, what was found, what was expected, and what to do.
    """
    for key, most in _MOST.items():
        value = getattr(settings, key)
        if value is not None and value < 1:
            raise UserError(f"{key}={value}: expected at least 1")
        _refuse_more(key, value, most)
    for key, figure in _MOST_FIGURE.items():
        value = getattr(settings, key)
        # `not >` refuses NaN too.
        if value is not None and not value > 0:
            raise UserError(f"{key}={value}: expected more than 0")
        _refuse_more(key, value, figure)
    _refuse_more("batch_size", settings.batch_size, _MOST_IN_BATCH)
    if settings.pairs and settings.shards and settings.shards > settings.pairs:
        raise UserError(
            f"shards={settings.shards}: more than pairs={settings.pairs}; expected a pair in each"
        )
    _refuse_uneven(settings)


def _refuse_more(key: str, value: float | None, most: float) -> None:
    if value is not None and value > most:
        raise UserError(f"{key}={value}: expected at most {most:,.0f}")


def split_of(settings: PlanSettings, gpus: int) -> NearestSplit:
    """The split of the settings' batch over some number of GPUs, or the nearest ones.

    Args:
        settings: Composed and typed.
        gpus: Processes.
    """
    chunk = settings.chunk_size
    return nearest_split(
        batch_size=settings.batch_size,
        norm_group=settings.norm_group,
        chunk=chunk if isinstance(chunk, int) else 1,
        # A data module of the user may have no lanes: then they forbid no split.
        lanes=settings.data.get("lanes", gpus),
        gpus=gpus,
    )


def _refuse_uneven(settings: PlanSettings) -> None:
    """Refuses a batch that the GPUs do not divide, and names the nearest splits."""
    trainer = settings.trainer
    lanes = settings.data.get("lanes", trainer.processes)
    chunk = settings.chunk_size
    numbers = [settings.batch_size, settings.norm_group or 1, trainer.nodes, trainer.devices]
    numbers += [chunk if isinstance(chunk, int) else 1, lanes]
    # The rules of a run name numbers below 1, and other types.
    if not all(isinstance(number, int) and number >= 1 for number in numbers):
        return

    found = split_of(settings, trainer.processes)
    if found.fits:
        return
    parts = {"norm_group": settings.norm_group, "chunk_size": chunk, "data.lanes": lanes}
    given = [f"{key}={value}" for key, value in parts.items() if value not in (None, "auto")]
    raise UserError(
        f"batch_size={settings.batch_size}, {', '.join(given)}: no even split over "
        f"{trainer.processes} GPUs (nodes={trainer.nodes} gpus_per_node={trainer.devices}); "
        f"nearest: {' or '.join(_fixes(found, lanes, trainer.devices))}"
    )


def _fixes(found: NearestSplit, lanes: int, per_node: int) -> list[str]:
    """The nearest splits as settings."""
    fixes = []
    for gpus in found.gpus:
        nodes, rest = divmod(gpus, per_node)
        how = f"nodes=1 gpus_per_node={gpus}" if not nodes else f"nodes={nodes}"
        # A node may have any divisor of its GPUs in use; the plan does not choose for the user.
        fixes.append(f"{gpus} GPUs" if nodes and rest else f"{gpus} GPUs ({how})")
    more = "" if found.lanes == lanes else f" data.lanes={found.lanes}"
    fixes += [f"batch_size={size}{more}" for size in found.batches]
    return fixes


def hardware_of(settings: PlanSettings) -> Hardware:
    """Builds the hardware.

    Args:
        settings: Composed and typed.

    Returns:
        One GPU and its node.

    Raises:
        UserError: A figure is missing, unknown or out of bounds; or the trainer is another kind's.
    """
    node = settings.gpu
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"gpu={node}: expected a choice of --help, or a YAML file as conf/gpu has")
    check_complete(node)
    hardware = build(node)
    if not isinstance(hardware, Hardware):
        raise UserError(f"gpu._target_={node['_target_']}: expected {HARDWARE}, or a class of it")
    _check_kind(settings, hardware)
    return hardware


def check_complete(node: Node) -> None:
    """Checks a node of hardware.

    Args:
        node: With its class.

    Raises:
        UserError: A figure is missing, unknown or of another type.
    """
    check_component(node, "gpu")
    for field in dataclasses.fields(Hardware):
        # A class of the user may have defaults for its figures.
        if node["_target_"] == HARDWARE and field.name not in node:
            raise UserError(f"gpu.{field.name} is not set; give +gpu.{field.name}=…, or add it")


def _check_kind(settings: PlanSettings, hardware: Hardware) -> None:
    """A plan for GPUs has the chunks and precision of trainer=gpu, one for CPUs those of cpu."""
    if settings.trainer.on_gpu != hardware.is_gpu:
        kind = "gpu" if hardware.is_gpu else "cpu"
        raise UserError(
            f"trainer.accelerator={settings.trainer.accelerator}: {hardware.name} is a {kind}; "
            f"set trainer={kind}"
        )


def with_usual_tokenizer(settings: PlanSettings) -> tuple[PlanSettings, list[str]]:
    """Gives a plan of texts BERT's tokenizer, if none is set.

    Args:
        settings: Composed and typed.

    Returns:
        The settings, and lines that say what was assumed.
    """
    data = settings.data
    if data.get("tokenizer") is not None or data.get("classes") is not None:
        return settings, []
    given = dataclasses.replace(settings, data={**data, "tokenizer": USUAL_TOKENIZER})
    return given, [f"data.tokenizer is not set: planned with {USUAL_TOKENIZER}"]


def check_as_run(settings: PlanSettings) -> None:
    """Checks the settings as a run would, but for shards, which a plan does not need.

    Args:
        settings: Composed and typed.

    Raises:
        UserError: As `check`.
    """
    data = settings.data
    if data.get("shards") is None:
        # Any text will do: the rules of the settings open nothing.
        data = {**data, "shards": "none"}
    check(dataclasses.replace(settings, data=data))
