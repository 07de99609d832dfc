"""A trained model evaluated: `results.json`, a table, pictures of each evaluator."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch.loggers import Logger

from align_train.cluster import launcher
from align_train.cluster.collectives import join, rank, report_first_error
from align_train.commands.devices import check_loader, device_of
from align_train.commands.loggers import run_loggers
from align_train.config.components import build
from align_train.config.evaluators import (
    build_evaluators,
    check_evaluators,
    resolved_for_model,
    resolved_for_run,
)
from align_train.config.saved import read_run
from align_train.config.schema import EvaluateSettings, Node, TrainSettings
from align_train.errors import UserError
from align_train.evals import Embedder, Evaluator
from align_train.files import write_whole
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained, without_pretrained
from align_train.run.folder import RunFolder
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.decode import Views
from align_train.stream.sets import EvaluationSets
from align_train.stream.shard_cache import shard_cache_of
from align_train.stream.vocabulary import open_vocabulary
from align_train.training.callbacks.metrics import complete


def evaluate(settings: EvaluateSettings) -> dict[str, float]:
    """`align_train.evaluate`: `model` names a run's folder, where all that is not given is as in that run, or another
    trained model."""
    with _group(settings.device) as device:
        with report_first_error(device):
            check_loader(settings)
            found, evaluators, data = _prepare(settings)
        to = RunFolder(_results_folder(settings, found))
        results = _evaluate(
            found,
            evaluators,
            to,
            data=data,
            chunk_size=settings.chunk_size,
            workers=settings.workers,
            device=device,
        )
        if found.run and _as_in_run(settings) and rank() == 0:
            run = read_run(found.run.config)
            # A run that is over: nobody else writes its metrics.csv.
            if results["step"] >= run.steps:
                loggers = run_loggers(run, found.run)
                _write_down(found.run, results, title=run.name, loggers=loggers)
        return results


def _as_in_run(settings: EvaluateSettings) -> bool:
    """Whether a run is evaluated on its own pairs, cut as in training, into its own folder."""
    given = (
        settings.shards,
        settings.caption,
        settings.image_size,
        settings.resize_size,
        settings.to,
    )
    return all(value is None for value in given)


@contextmanager
def _group(device: str) -> Iterator[torch.device]:
    """The device of this process, alone, or one of those that torchrun or srun has started."""
    own = device_of(device)
    started = launcher.current()
    if own.type == "cuda" and started.started_all and started.world_size > 1:
        if device != "cuda" or started.local_rank >= torch.cuda.device_count() > 1:
            raise UserError(
                f"device={device}: process {started.local_rank} of this machine, which has "
                f"{torch.cuda.device_count()} GPUs, wants one for itself: give device=cuda, "
                f"and start one process a GPU"
            )
        torch.cuda.set_device(own)

    with join("nccl" if own.type == "cuda" else "gloo"):
        yield own


def _prepare(
    settings: EvaluateSettings,
) -> tuple[Pretrained, dict[str, Evaluator], EvaluationSets]:
    """All that is read before anything is computed."""
    found = open_pretrained(settings.model)
    nodes, data_node = _resolved(found, settings)
    check_evaluators(nodes)
    evaluators = build_evaluators(nodes)

    if settings.shards is not None:
        data_node["held_out"] = settings.shards
    wanting = [name for name, evaluator in evaluators.items() if None in evaluator.sets()]
    if data_node["held_out"] is None and wanting:
        why = "the run has no held-out shards" if found.run else "this model is no run of ours"
        raise UserError(
            f"shards is not set, and {why}; give shards=… (a manifest, folder or glob), or take evaluators with pictures of "
            f"their own in the place of {', '.join(wanting)}"
        )

    data = _data_of(found, settings, data_node)
    for evaluator in evaluators.values():
        _open(evaluator, data)
    return found, evaluators, data


def _resolved(found: Pretrained, settings: EvaluateSettings) -> tuple[Node, Node]:
    """The nodes of `eval` and `data`: of the run, or for a model that is no run of ours the defaults."""
    given = settings.eval
    if found.run:
        return resolved_for_run(found.run.config, evaluators=given, model=settings.model)

    choices = ["eval=pairs"]
    if found.is_classifier:
        choices = ["eval=classification", "loss=classification"]
    node = without_pretrained(found.node)
    return resolved_for_model(node, *choices, evaluators=given, model=settings.model)


def _data_of(found: Pretrained, settings: EvaluateSettings, data: Node) -> EvaluationSets:
    """Only what is evaluated is opened: the training shards may long be gone."""
    given = {"image_size": settings.image_size, "resize_size": settings.resize_size}
    sizes = {key: size for key, size in given.items() if size is not None}
    for key, reason in found.missing.items():
        if key != "preprocess" or len(sizes) < 2:
            raise UserError(f"{reason}; {key} is needed to evaluate")
    sizes = {key: data[key] for key in ("image_size", "resize_size")} | sizes
    if not 8 <= sizes["image_size"] <= sizes["resize_size"] <= 4096:
        told = ", ".join(f"{key}={size}" for key, size in sizes.items())
        raise UserError(
            f"{told}: expected 8 to 4,096 pixels, the crop no larger than what it is cut from"
        )
    return EvaluationSets(
        held_out=data["held_out"],
        caption=settings.caption or data["held_out_caption"] or data["caption"],
        vocabulary=open_vocabulary(
            tokenizer=found.tokenizer, max_tokens=data["max_tokens"], classes=found.classes
        ),
        views=Views(image_size=sizes["image_size"], resize_size=sizes["resize_size"]),
        cache=shard_cache_of(build(data["staging"]), data["storage_options"]),
        key="shards" if settings.shards is not None else "data.held_out",
    )


def _results_folder(settings: EvaluateSettings, found: Pretrained) -> Path:
    """A model's own folder, unless it lies in the hub's cache."""
    if settings.to is not None:
        return Path(settings.to).expanduser().absolute()
    local = Path(settings.model).expanduser().exists()
    return found.path if local else Path("outputs", settings.model.rpartition("/")[2]).absolute()


def _open(evaluator: Evaluator, data: EvaluationSets) -> None:
    for image_set in evaluator.sets():
        data.images_of(image_set).about()
    evaluator.check(data.images_of)


def evaluators_of(settings: TrainSettings, data: EvaluationSets) -> dict[str, Evaluator]:
    """A run's evaluators by name, their sets opened, so that what is missing shows before the first step; without held-out
    pairs, those that want none."""
    built = build_evaluators(settings.eval)
    there = {
        name: one
        for name, one in built.items()
        if data.held_out is not None or None not in one.sets()
    }
    if len(there) < len(built) and launcher.is_first_process():
        print(
            f"without data.held_out the run is not evaluated by {', '.join(built.keys() - there.keys())}",
            flush=True,
        )
    for evaluator in there.values():
        _open(evaluator, data)
    return there


def evaluate_run(
    folder: RunFolder,
    settings: TrainSettings,
    evaluators: Mapping[str, Evaluator],
    *,
    data: PairsDataModule,
    device: torch.device,
    loggers: Sequence[Logger],
) -> None:
    """Evaluates a run's last checkpoint on all ranks; rank 0 prints, and writes wherever the run is written down."""
    results = _evaluate(
        open_pretrained(str(folder.path)),
        evaluators,
        folder,
        data=data.sets,
        chunk_size=settings.chunk_size,
        workers=data.workers,
        device=device,
    )
    if rank() == 0:
        _write_down(folder, results, title=settings.name, loggers=loggers)


def _evaluate(
    found: Pretrained,
    evaluators: Mapping[str, Evaluator],
    folder: RunFolder,
    *,
    data: EvaluationSets,
    chunk_size: int,
    workers: int,
    device: torch.device,
) -> dict[str, float]:
    """folder: where results.json and the pictures go."""
    embedder = Embedder(
        model=found.build().to(device),
        tokenizer=data.vocabulary,
        images_of=data.images_of,
        device=device,
        chunk_size=chunk_size,
        workers=workers,
    )
    results: dict[str, float] = {"step": found.run.last_step()} if found.run else {}
    if data.held_out is not None and any(
        None in evaluator.sets() for evaluator in evaluators.values()
    ):
        results["held_out/pairs"] = data.held_out.pairs
    if rank() == 0:
        folder.path.mkdir(parents=True, exist_ok=True)
    for name, evaluator in evaluators.items():
        results.update({f"{name}/{key}": value for key, value in evaluator(embedder)})
        if rank() == 0:
            write_whole(folder.results, json.dumps(results, indent=2) + "\n")
            evaluator.draw(embedder, folder.path, name)
    if rank() == 0:
        print_results(folder)
    return results


def _write_down(
    folder: RunFolder, results: Mapping[str, float], *, title: str, loggers: Sequence[Logger]
) -> None:
    """Puts what was found of a run's last weights into the last row of metrics.csv, and to its loggers."""
    values = {name: value for name, value in results.items() if name != "step"}
    if complete(folder, values, step=int(results["step"]), title=title):
        for logger in loggers:
            logger.log_metrics(values, step=int(results["step"]))


def print_results(folder: RunFolder) -> None:
    """The run's results.json as a table, and where its pictures are; nothing where it was never evaluated."""
    results = folder.read_results()
    if results is None:
        return
    width = max(map(len, results))
    for name, value in results.items():
        if isinstance(value, int):
            told = f"{value:,}"
        else:
            told = f"{value:,.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3g}"
        print(f"{name:<{width}}  {told:>10}")
    pictures = ", ".join(sorted(path.name for path in folder.path.glob("*.png")))
    print(f"{folder.results}; pictures there: {pictures}", flush=True)
