from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from align_train.config.components import build, check_component, class_name, holds_components
from align_train.config.messages import no_such_setting
from align_train.config.schema import MISSING, PRECISIONS, Config
from align_train.errors import UserError
from align_train.stream.order import lane_pattern
from align_train.stream.recipe import SETTINGS

if TYPE_CHECKING:
    from align_train.evals import Evaluator


def steps_of(config: Any) -> int:
    """Optimizer steps of the run: `max_steps`, or the fewest that see `max_pairs`."""
    return (
        int(config.max_steps)
        if config.max_steps is not None
        else -(-int(config.max_pairs) // int(config.batch_size))
    )


def refuse_missing(config: Any) -> None:
    # Unresolved: the evaluators of a command that evaluates refer to settings of the run.
    plain: Any = OmegaConf.to_container(config)
    missing = sorted(_missing(plain))
    if missing:
        raise UserError(f"{missing[0]} is not set; give {missing[0]}=…")
    empty = [key for key, value in plain.items() if value == ""]
    if empty:
        raise UserError(f"{empty[0]}= is empty; give {empty[0]}=…, or leave it out")


def _missing(node: Any, path: str = "") -> Iterator[str]:
    if node == MISSING:
        yield path
    elif isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _missing(value, f"{path}.{key}" if path else str(key))


def check(config: Any) -> None:
    """Rules that cross fields; UserError in one line. Pure: reads and mutates nothing else."""
    refuse_missing(config)
    unknown = sorted({str(key) for key in config} - {item.name for item in fields(Config)})
    if unknown:
        raise UserError(no_such_setting(unknown[0]))
    if not config.name or "/" in config.name or config.name.startswith("."):
        raise UserError(
            f"name={config.name!r}: expected a plain folder name; the run is written to output_dir/name"
        )
    if (config.max_steps is None) == (config.max_pairs is None):
        raise UserError(
            "exactly one of max_steps and max_pairs says how long the run is; set the other to null"
        )
    lengths = (
        "batch_size",
        "chunk_size",
        "max_steps",
        "max_pairs",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    )
    for key in (*lengths, "keep_every"):
        if config[key] is not None and config[key] < 1:
            raise UserError(f"{key}={config[key]}: expected at least 1")
    if config.max_skipped_steps < 0:
        raise UserError(f"max_skipped_steps={config.max_skipped_steps}: expected at least 0")
    if config.clip is not None and not config.clip > 0:
        raise UserError(f"clip={config.clip}: expected a gradient norm above 0, or null")
    if not 0 <= config.seed < 2**63:
        raise UserError(f"seed={config.seed}: expected 0 or more, below 2^63")
    if config.precision not in PRECISIONS:
        why = (
            "; fp16 would want a loss scaler, bf16 has float32's range and wants none"
            if "16" in config.precision
            else ""
        )
        raise UserError(
            f"precision={config.precision}: expected one of {', '.join(PRECISIONS)}{why}"
        )
    if config.trainer.accelerator not in ("cpu", "gpu"):
        raise UserError(f"trainer.accelerator={config.trainer.accelerator}: expected cpu or gpu")
    for key in config.accept:
        if key not in SETTINGS.values():
            raise UserError(f"accept=[{key}]: expected some of {', '.join(SETTINGS.values())}")
    for key in ("devices", "nodes"):
        if config.trainer[key] < 1:
            raise UserError(f"trainer.{key}={config.trainer[key]}: expected at least 1")
    _check_patience(config)
    _check_task(config)
    check_component(config.data, "data")
    for key in ("seed", "batch_size", "chunk_size"):
        if config.data.get(key) != config[key]:
            raise UserError(
                f"data.{key}={config.data.get(key)}: is always the run's own; set {key}=… instead"
            )
    _check_numbers(config)
    _check_split(config)
    _check_engine(config)
    for key in (
        "model",
        "data",
        "loss",
        "optimizer",
        "scheduler",
        "strategy",
        "logger",
        "make",
        "compare",
    ):
        check_component(config[key], key)
    if config.compare is not None and not holds_components(config.compare):
        raise UserError(
            f"compare={config.compare}: expected a node as in experiment=noise_scaling, or null"
        )
    check_evaluators(config)


def check_evaluators(config: Any) -> None:
    """Each entry of `eval` is an evaluator; null takes one out that a choice has."""
    if not isinstance(config.get("eval"), DictConfig | None):
        raise UserError(f"eval={config.eval}: expected evaluators by name, as in conf/eval")
    for name, node in (config.eval or {}).items():
        if node is None:
            continue
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise UserError(
                f"eval.{name}: no evaluator; expected a node with _target_, as in conf/eval, or null (a run of an older "
                f"version wants eval=…)"
            )
        if "/" in str(name) or str(name).startswith("."):
            raise UserError(f"eval.{name}: names results and files; expected a plain name")
        check_component(node, f"eval.{name}")
        for key in ("data", "train"):
            value = node.get(key)
            if (
                key in node
                and not (value is None and key == "data")
                and not holds_components(value)
            ):
                raise UserError(
                    f"eval.{name}.{key}={value}: expected a set of pictures: a node with _target_, such as "
                    f"align_train.stream.sets.Shards"
                    + (", or null for the held-out pairs" if key == "data" else "")
                )


def build_evaluators(config: Any) -> dict[str, Evaluator]:
    """The evaluators that `eval` describes, by name."""
    from align_train.evals import (
        Evaluator,
    )  # here: it imports torch, which commands must not wait for

    found = {
        str(name): build(node) for name, node in (config.eval or {}).items() if node is not None
    }
    for name, evaluator in found.items():
        if not isinstance(evaluator, Evaluator) or isinstance(evaluator, type):
            raise UserError(
                f"eval.{name}: {config.eval[name]['_target_']} makes no evaluator; see align_train/evals/base.py"
            )
    return found


def _check_task(config: Any) -> None:
    """Pictures go with texts, or with labels: model, loss and data must agree which."""
    classifier, loss = (
        class_name(config.model) == "Classifier",
        class_name(config.loss) == "ClassificationLoss",
    )
    labels = config.data.get("classes") is not None
    if labels and config.data.get("tokenizer") is not None:
        raise UserError(
            "data.tokenizer, data.classes: texts or labels, not both; set one of them to null"
        )
    if classifier and loss and not labels:
        raise UserError(
            "data.classes is not set; give data.classes=…, their number or a JSON file with names"
        )
    if len({classifier, loss, labels}) > 1:
        raise UserError(
            f"model={'' if classifier else 'not '}classifier, loss={'' if loss else 'not '}classification, data.classes="
            f"{config.data.get('classes')}: these go together; experiment=linear_probe sets all but the last"
        )
    if not labels and config.data.get("tokenizer") is None:
        raise UserError(
            "data.tokenizer is not set; give data.tokenizer=…, a folder with tokenizer.json or a hub name"
        )


def _check_numbers(config: Any) -> None:
    """Bounds of what would otherwise go wrong deep inside, or never end."""
    for path, least in (
        ("data.lanes", 1),
        ("data.window", 1),
        ("data.workers", 0),
        ("evaluate_every", 0),
    ):
        value = OmegaConf.select(config, path, default=least)
        if not isinstance(value, int) or value < least:
            raise UserError(f"{path}={value}: expected an integer, at least {least}")


def _check_split(config: Any) -> None:
    """The global batch must fall into equal whole parts: ranks, chunks, lanes. Nothing is rounded."""
    world = config.trainer.devices * config.trainer.nodes
    batch, chunk, lanes = config.batch_size, config.chunk_size, config.data.lanes
    processes = f"{world} processes (trainer.nodes={config.trainer.nodes} x trainer.devices={config.trainer.devices})"
    if batch % world:
        below = batch // world * world
        near = " or ".join(str(size) for size in (below, below + world) if size)
        raise UserError(
            f"batch_size={batch} cannot be split evenly over {processes}; the nearest that can: {near}"
        )
    if (batch // world) % chunk:
        fits = max(
            size
            for size in range(1, min(chunk, batch // world) + 1)
            if (batch // world) % size == 0
        )
        raise UserError(
            f"chunk_size={chunk} does not divide the {batch // world} pairs of each of {processes}; "
            f"the nearest smaller one that does: {fits}"
        )
    if batch % lanes:
        raise UserError(
            f"data.lanes={lanes} does not divide batch_size={batch}; e.g. data.lanes={_largest_divisor(batch, lanes)}"
        )
    if lanes % world:
        raise UserError(
            f"data.lanes={lanes} cannot be shared out evenly over {processes}; take a multiple of {world} that divides {batch}"
        )
    _check_mixture(config, world, processes)


def _check_patience(config: Any) -> None:
    """Who waits for whom: a shard that does not come must stop the run before the ranks that wait for its rank do."""
    for key in ("trainer.timeout", "trainer.silence", "trainer.peak_tflops", "keep_before_spike"):
        value = OmegaConf.select(config, key)
        if value is not None and not 0 < value < 1e9:
            raise UserError(f"{key}={value:g}: expected more than 0, and a finite number")
    patience = OmegaConf.select(config, "data.staging.patience")
    if isinstance(patience, int | float) and config.trainer.timeout <= patience:
        raise UserError(
            f"trainer.timeout={config.trainer.timeout:g}: expected more than data.staging.patience={patience:g}: so long "
            f"a rank may wait for a shard, and the others for it"
        )


def _check_engine(config: Any) -> None:
    """What strategy, loss and model must agree on."""
    target = str(config.strategy.get("_target_"))
    if not target.startswith("align_train.strategy."):
        old = "FSDP1 flattens parameters and is not supported; " if "FSDP" in target else ""
        raise UserError(
            f"strategy._target_={target}: {old}take strategy=ddp, fsdp (FSDP2) or deepspeed"
        )
    if config.max_skipped_steps and "stage" in config.strategy:
        raise UserError(
            f"max_skipped_steps={config.max_skipped_steps}: DeepSpeed knows the gradient's norm only after its step, too "
            f"late to skip it; set it to 0, or take strategy=fsdp"
        )
    if config.compile and config.strategy.get("stage") == 3:
        raise UserError(
            "compile=true: ZeRO-3 gathers weights within every block, which breaks it up; strategy.stage=2, or fsdp"
        )
    sigmoid = class_name(config.loss) == "SigmoidLoss"
    if sigmoid != (config.model.get("bias") is not None):
        fix = "loss=sigmoid sets one" if sigmoid else "take loss=sigmoid, or model.bias=null"
        raise UserError(
            f"model.bias={config.model.get('bias')}: a bias goes with loss=sigmoid and with no other; {fix}"
        )


def _check_mixture(config: Any, world: int, processes: str) -> None:
    """Each process sees the sources by their weights, exactly: its lanes must come in whole patterns."""
    weights = config.data.get("weights")
    if not weights:
        return
    pattern = len(lane_pattern(weights))
    lanes = config.data.lanes
    if lanes % (pattern * world):
        fits = [
            size
            for size in range(pattern * world, config.batch_size + 1, pattern * world)
            if config.batch_size % size == 0
        ]
        hint = (
            f"e.g. data.lanes={fits[0]}"
            if fits
            else f"batch_size must be a multiple of {pattern * world}, and data.lanes too"
        )
        raise UserError(
            f"data.lanes={lanes} cannot be shared out as data.weights={list(weights)} on each of {processes}; {hint}"
        )


def _largest_divisor(number: int, limit: int) -> int:
    return max(size for size in range(1, min(number, limit) + 1) if number % size == 0)
