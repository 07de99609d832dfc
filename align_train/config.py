"""Configuration: the one module that knows Hydra. Compose, check, instantiate; errors in one line.

A typed root schema rejects a wrong root key or type when the configuration is composed. Below it, nodes with `_target_` are
checked against the constructor that they name (its signature is the schema), and `check` adds the rules that cross fields.
All of that happens before anything is built; neither changes the configuration.
"""

from __future__ import annotations

import collections.abc
import contextlib
import difflib
import functools
import inspect
import os
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align_train import cluster
from align_train.errors import UserError
from align_train.run_folder import SETTINGS
from align_train.stream.order import lane_pattern

_FILLED_IN = ("model.vocabulary_size", "model.classes")  # null in the configuration: known only once the data is open
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
MISSING: Any = "???"
_swept: set[str] = set()  # folders of a sweep's runs
_OWN_ERROR = re.compile(r"align_train\.[a-z_.]+\.[A-Z]\w+: ")


def _conf_dir() -> Path:
    """`conf/` inside the installed package, else at the top of the checkout."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


@dataclass
class TrainerConfig:
    """What computes. devices: processes per node; nodes: machines. timeout, silence: seconds, see `callbacks/watchdog.py`.
    peak_tflops: of one device, for MFU; null: by its name."""

    accelerator: str = "cpu"
    devices: int = 1
    nodes: int = 1
    timeout: float = 900.0
    silence: float = 60.0
    peak_tflops: float | None = None


@dataclass
class Config:
    """The root of a training configuration; `conf/train.yaml` says what each key is for."""

    name: str = MISSING
    output_dir: str = "outputs"
    seed: int = 0
    batch_size: int = MISSING
    chunk_size: int = MISSING
    max_steps: int | None = None
    max_pairs: int | None = None
    log_every: int = 10
    evaluate_every: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    keep_every: int | None = None
    keep_before_spike: float | None = 6.0
    background_checkpoints: bool = True
    max_skipped_steps: int = 0
    dry_run: bool = False
    precision: str = "fp32"
    recompute: bool = False
    checkpoint_blocks: bool = False
    compile: bool = False
    ema: float | None = None
    clip: float | None = None
    log_keys: bool = False
    accept: list[str] = field(default_factory=list)
    initial_weights: str | None = None
    model: Any = MISSING
    data: Any = MISSING
    loss: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    strategy: Any = MISSING
    logger: Any = MISSING
    eval: Any = MISSING
    make: Any = None
    compare: Any = None


@dataclass
class EvaluateConfig:
    """The root of `python -m align_train.evaluate`; `conf/commands/evaluate.yaml` says what each key is for."""

    model: str = MISSING
    shards: Any = None
    caption: str | None = None
    chunk_size: int = 64
    workers: int = 1
    device: str = "cpu"
    eval: Any = None
    image_size: int | None = None
    resize_size: int | None = None
    to: str | None = None


@dataclass
class ExportConfig:
    """The root of `python -m align_train.export`; `conf/commands/export.yaml` says what each key is for."""

    model: str = MISSING
    to: str = MISSING
    format: str | None = None


@dataclass
class ShowConfig:
    """The root of `python -m align_train.show`; `conf/commands/show.yaml` says what each key is for."""

    name: str = MISSING
    output_dir: str = "outputs"
    step: Any = None
    key: str | None = None
    limit: int = 64


@dataclass
class EmbedConfig:
    """The root of `python -m align_train.embed`; `conf/commands/embed.yaml` says what each key is for."""

    model: str = MISSING
    shards: Any = MISSING
    to: str = MISSING
    caption: str = "txt"
    precision: str = "float16"
    storage_options: Any = None
    chunk_size: int = 64
    workers: int = 1
    device: str = "cpu"


@dataclass
class SearchConfig:
    """The root of `python -m align_train.search`; `conf/commands/search.yaml` says what each key is for."""

    index: str = MISSING
    text: str | None = None
    image: str | None = None
    text_weight: float = 2.0
    top: int = 12
    approximate_from: int = 1_000_000
    storage_options: Any = None
    model: str | None = None
    device: str = "cpu"
    to: str = "search.png"


OmegaConf.register_new_resolver("cluster", lambda name: getattr(cluster, name)(), replace=True)
ConfigStore.instance().store(name="schema", node=Config)
ConfigStore.instance().store(name="show_schema", node=ShowConfig)
ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
ConfigStore.instance().store(name="export_schema", node=ExportConfig)
ConfigStore.instance().store(name="embed_schema", node=EmbedConfig)
ConfigStore.instance().store(name="search_schema", node=SearchConfig)


def command(task: Callable[[DictConfig], None], *, config_name: str, groups: Sequence[str] = ()) -> None:
    """Runs a command under Hydra (`--cfg job`, `--help`, sweeps); a UserError becomes one line and exit status 2.

    Commands other than training have their roots in `conf/commands/`, out of sight of the groups: or `evaluate model=RUN`
    would be taken for a choice of the group `model`. groups: those that such a root may choose from all the same.
    """
    for group in groups:
        for file in (_conf_dir() / group).glob("*.yaml"):
            ConfigStore.instance().store(group=group, name=file.stem, node=OmegaConf.load(file))
    folder = _conf_dir() / "commands"
    folder = folder if (folder / f"{config_name}.yaml").is_file() else _conf_dir()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints its own report and we never see the exception

    composed = False

    def guarded(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        try:
            _refuse_missing(config)
            _check_sweep(config)
            task(config)
        except UserError as error:  # in here: on its way out Hydra would add lines of its own
            fail(str(error), status=error.status)
        except OmegaConfBaseException as error:
            _fail_once(error)
        except KeyboardInterrupt:
            fail("interrupted; the same command goes on from the last checkpoint, if there is one", status=130)
        except BrokenPipeError:  # whoever read our output has gone (`| head`)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
            sys.exit(141)
        except OSError as error:  # a path that cannot be made, a disk that is full, wherever it turns out
            fail(f"{error.filename or 'a file'}: {error.strerror or error}; check the path, its rights and the space there")

    try:
        hydra.main(version_base="1.3", config_path=str(folder), config_name=config_name)(guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        _fail_once(error)
    except ValueError as error:  # Hydra's own, e.g. for a group that is set to null
        if composed:
            raise
        fail(f"{_in_one_line(error)}; a group such as model or data takes the name of a choice, see --help")


def _check_sweep(config: DictConfig) -> None:
    """A sweep's runs come one after the other in this process, which cannot start others for each, nor be one of many."""
    if HydraConfig.get().mode == RunMode.MULTIRUN and "trainer" in config:
        processes = config.trainer.devices * config.trainer.nodes
        if processes > 1 or cluster.launcher() is not None:
            raise UserError(
                f"a sweep trains its runs on one process each, here are {processes}: set trainer=cpu or trainer=gpu with "
                f"trainer.devices=1, or start each run by itself, with a name of its own"
            )
        place = f"{config.output_dir}/{config.name}"
        if place in _swept:
            raise UserError(
                f"name={config.name}: two runs of this sweep are called so; put what differs into it, e.g. 'name=run-${{seed}}'"
            )
        _swept.add(place)


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Around what goes wrong alike in every process of a run: the first one tells."""
    try:
        yield
    except UserError as error:
        raise error if cluster.is_first_process() else UserError("") from None


def _fail_once(error: Exception) -> NoReturn:
    """Settings that cannot be composed cannot be in any process."""
    fail(_in_one_line(error) if cluster.is_first_process() else "")


def fail(message: str, *, status: int = 2) -> NoReturn:
    """One line on stderr, exit status 2 (or what the error asks for)."""
    # From a loader's worker process an error comes wrapped in that process's stack trace.
    message = _OWN_ERROR.split(message)[-1] if "Traceback" in message else message
    message = " ".join(message.split())
    if message:
        printable = message.encode("utf-8", "backslashreplace").decode()  # names of files may be any bytes
        print(f"align_train: {printable}", file=sys.stderr, flush=True)
    sys.exit(status)


def read_settings(path: Path) -> Any:
    """The settings that a run was started or last resumed with."""
    try:
        return OmegaConf.load(path)
    except (OSError, yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({reason}); restore it, or choose another name") from None


def _in_one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's errors span lines and name inner classes: what matters is the key and what was wrong."""
    text = str(error)
    if ours := _between(text, "UserError raised while resolving interpolation: ", "\n"):
        return ours
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read; a value with {{}}, = or a comma wants quotes inside quotes: 'key=\"…\"'"
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException):
        text = f"{text.splitlines()[0]} {cause}"
    if (key := _between(text, "Could not override '", "'")) and (
        "not in struct" in text or "No match" in text or "not in '" in text
    ):
        return _no_such_setting(key)
    choice = _between(text, "Could not find '", "'") or _between(text, "Could not load '", "'")  # the latter: one of a list
    if (group := choice.rpartition("/")[0]) and (_conf_dir() / group).is_dir():
        there = ", ".join(sorted(path.stem for path in (_conf_dir() / group).glob("*.yaml")))
        return f"{group}={choice.rpartition('/')[2]}: no such choice; there are {there}"
    if "could not be converted" in text or "Invalid type assigned" in text:
        value, key = _between(text, "Value '", "'"), _between(text, "full_key: ", "\n") or "a setting"
        wanted = _between(text, "converted to ", "\n") or "another type"
        return f"{key}={value}: expected {wanted.strip().lower()}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("object_type=", "reference_type=", "In ")))


def _between(text: str, before: str, after: str) -> str:
    _, found, rest = text.partition(before)
    return rest.split(after)[0] if found else ""


def _no_such_setting(key: str) -> str:
    return f"{key}: no such setting{_nearest(key)}; `--cfg job` shows all settings"


def _nearest(key: str) -> str:
    """`; did you mean …?` for a misspelt root key or a key of a known group's files."""
    parent, _, last = key.rpartition(".")
    schemas = [entry.node for name, entry in ConfigStore.instance().repo.items() if name.endswith("schema.yaml")]
    nodes = [OmegaConf.select(schema, parent) if parent else schema for schema in schemas]
    names = [str(name) for node in nodes if isinstance(node, DictConfig) for name in node]
    if parent:
        group = _conf_dir() / parent.split(".")[0]
        names += [name for file in group.glob("*.yaml") for name in _all_keys(OmegaConf.load(file))]
    close = difflib.get_close_matches(last, [name for name in names if name != last], n=1, cutoff=0.5)
    return f", did you mean {parent + '.' if parent else ''}{close[0]}?" if close else ""


def _all_keys(node: Any) -> Iterator[str]:
    if isinstance(node, DictConfig):
        for name in node:
            yield str(name)
            yield from _all_keys(node._get_node(name))


# --- checks -----------------------------------------------------------------------------------------------------------


def class_name(node: Any) -> str:
    """Of what a node describes: the last part of its `_target_`."""
    return str(node.get("_target_")).rpartition(".")[2]


def steps_of(config: Any) -> int:
    """Optimizer steps of the run: `max_steps`, or the fewest that see `max_pairs`."""
    return int(config.max_steps) if config.max_steps is not None else -(-int(config.max_pairs) // int(config.batch_size))


def _refuse_missing(config: Any) -> None:
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
    _refuse_missing(config)
    unknown = sorted({str(key) for key in config} - {item.name for item in fields(Config)})
    if unknown:
        raise UserError(_no_such_setting(unknown[0]))
    if not config.name or "/" in config.name or config.name.startswith("."):
        raise UserError(f"name={config.name!r}: expected a plain folder name; the run is written to output_dir/name")
    if (config.max_steps is None) == (config.max_pairs is None):
        raise UserError("exactly one of max_steps and max_pairs says how long the run is; set the other to null")
    lengths = ("batch_size", "chunk_size", "max_steps", "max_pairs", "log_every", "checkpoint_every", "keep_checkpoints")
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
        why = "; fp16 would want a loss scaler, bf16 has float32's range and wants none" if "16" in config.precision else ""
        raise UserError(f"precision={config.precision}: expected one of {', '.join(PRECISIONS)}{why}")
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
    _check_component(config.data, "data")
    for key in ("seed", "batch_size", "chunk_size"):
        if config.data.get(key) != config[key]:
            raise UserError(f"data.{key}={config.data.get(key)}: is always the run's own; set {key}=… instead")
    _check_numbers(config)
    _check_split(config)
    _check_engine(config)
    for key in ("model", "data", "loss", "optimizer", "scheduler", "strategy", "logger", "make", "compare"):
        _check_component(config[key], key)
    if config.compare is not None and not _holds_components(config.compare):
        raise UserError(f"compare={config.compare}: expected a node as in experiment=noise_scaling, or null")
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
        _check_component(node, f"eval.{name}")
        for key in ("data", "train"):
            value = node.get(key)
            if key in node and not (value is None and key == "data") and not _holds_components(value):
                raise UserError(
                    f"eval.{name}.{key}={value}: expected a set of pictures: a node with _target_, such as "
                    f"align_train.stream.sets.Shards" + (", or null for the held-out pairs" if key == "data" else "")
                )


def build_evaluators(config: Any) -> dict[str, Any]:
    """The evaluators that `eval` describes, by name."""
    found = {str(name): build(node) for name, node in (config.eval or {}).items() if node is not None}
    for name, evaluator in found.items():
        if not callable(evaluator) or isinstance(evaluator, functools.partial | type):
            raise UserError(f"eval.{name}: {config.eval[name]['_target_']} makes no evaluator; see align_train/evals")
    return found


def _check_task(config: Any) -> None:
    """Pictures go with texts, or with labels: model, loss and data must agree which."""
    classifier, loss = class_name(config.model) == "Classifier", class_name(config.loss) == "ClassificationLoss"
    labels = config.data.get("classes") is not None
    if labels and config.data.get("tokenizer") is not None:
        raise UserError("data.tokenizer, data.classes: texts or labels, not both; set one of them to null")
    if classifier and loss and not labels:
        raise UserError("data.classes is not set; give data.classes=…, their number or a JSON file with names")
    if len({classifier, loss, labels}) > 1:
        raise UserError(
            f"model={'' if classifier else 'not '}classifier, loss={'' if loss else 'not '}classification, data.classes="
            f"{config.data.get('classes')}: these go together; experiment=linear_probe sets all but the last"
        )
    if not labels and config.data.get("tokenizer") is None:
        raise UserError("data.tokenizer is not set; give data.tokenizer=…, a folder with tokenizer.json or a hub name")


def _check_numbers(config: Any) -> None:
    """Bounds of what would otherwise go wrong deep inside, or never end."""
    for path, least in (("data.lanes", 1), ("data.window", 1), ("data.workers", 0), ("evaluate_every", 0)):
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
        raise UserError(f"batch_size={batch} cannot be split evenly over {processes}; the nearest that can: {near}")
    if (batch // world) % chunk:
        fits = max(size for size in range(1, min(chunk, batch // world) + 1) if (batch // world) % size == 0)
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
    if not target.startswith("align_train.strategies."):
        old = "FSDP1 flattens parameters and is not supported; " if "FSDP" in target else ""
        raise UserError(f"strategy._target_={target}: {old}take strategy=ddp, fsdp (FSDP2) or deepspeed")
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
        raise UserError(f"model.bias={config.model.get('bias')}: a bias goes with loss=sigmoid and with no other; {fix}")


def _check_mixture(config: Any, world: int, processes: str) -> None:
    """Each process sees the sources by their weights, exactly: its lanes must come in whole patterns."""
    weights = config.data.get("weights")
    if not weights:
        return
    pattern = len(lane_pattern(weights))
    lanes = config.data.lanes
    if lanes % (pattern * world):
        fits = [
            size for size in range(pattern * world, config.batch_size + 1, pattern * world) if config.batch_size % size == 0
        ]
        hint = (
            f"e.g. data.lanes={fits[0]}" if fits else f"batch_size must be a multiple of {pattern * world}, and data.lanes too"
        )
        raise UserError(
            f"data.lanes={lanes} cannot be shared out as data.weights={list(weights)} on each of {processes}; {hint}"
        )


def _largest_divisor(number: int, limit: int) -> int:
    return max(size for size in range(1, min(number, limit) + 1) if number % size == 0)


def _check_component(node: Any, path: str) -> None:
    """A node with `_target_` against the signature of what it names: unknown keys and wrong types."""
    if isinstance(node, ListConfig):
        for number, item in enumerate(node):
            _check_component(item, f"{path}[{number}]")
    if not isinstance(node, DictConfig):
        return
    if "_target_" not in node:
        for name in node:
            _check_component(node[name], f"{path}.{name!s}")
        return
    try:
        target = get_object(node._target_)
    except Exception:
        raise UserError(f"{path}._target_={node._target_}: no such class or function") from None
    function = target.__init__ if inspect.isclass(target) else target
    parameters = inspect.signature(function).parameters
    hints = _hints(function)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in node:
        name = str(key)
        if name in ("_target_", "_partial_", "_convert_", "_recursive_", "_args_"):
            continue
        if name not in parameters and not takes_any:
            close = difflib.get_close_matches(name, parameters, n=1, cutoff=0.5)
            takes = ", ".join(known for known in parameters if known != "self")
            hint = f", did you mean {path}.{close[0]}?" if close else f"; {node._target_} takes {takes}"
            raise UserError(f"{path}.{name}: no such setting{hint}")
        value = node[key]
        if _holds_components(value):
            _check_component(value, f"{path}.{name}")
        elif value is None and f"{path}.{name}" in _FILLED_IN:
            continue
        elif name in hints and not _matches(value, hints[name]):
            found = str(value)
            raise UserError(f"{path}.{name}={found}: expected {_spell(hints[name])}")


def _holds_components(value: Any) -> bool:
    nodes = value if isinstance(value, ListConfig) else [value]
    return any(isinstance(node, DictConfig) and "_target_" in node for node in nodes)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # a library's hints that only its type checker can resolve: names are checked all the same
        return {}


def _matches(value: Any, hint: Any) -> bool:
    """Whether a YAML value can stand for a type hint; hints that YAML cannot express pass."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if hint is type(None):
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin in (collections.abc.Sequence, list, tuple):
        return isinstance(value, ListConfig) and all(_matches(item, arguments[0]) for item in value)
    return True


def _spell(hint: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    if hint in names:
        return names[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spell(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (collections.abc.Sequence, list, tuple):
        return f"a list (each {_spell(arguments[0])})"
    return str(hint)


def build(node: Any, **extra: Any) -> Any:
    """The object that a checked node describes, with plain Python containers inside.

    What its constructor finds wrong with its arguments (ValueError) is the user's to mend; Hydra wraps it, we unwrap it.
    """
    try:
        return instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ValueError):
            raise UserError(f"{node['_target_']}: {cause}") from None
        if isinstance(cause, Exception):
            reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
            raise UserError(f"{node['_target_']}: cannot be built with these settings ({reason})") from error
        raise


def defaults(*overrides: str) -> Any:
    """The whole configuration as the files have it."""
    GlobalHydra.instance().clear()  # within a command Hydra is at work, and refuses to begin a second time
    with warnings.catch_warnings(), hydra.initialize_config_dir(str(_conf_dir()), version_base="1.3"):
        warnings.simplefilter("ignore")  # a group that a command was offered has no schema of its own
        return hydra.compose("train", list(overrides))


def to_yaml(config: Any) -> str:
    """The resolved configuration, without Hydra's own part."""
    return OmegaConf.to_yaml(config, resolve=True)
