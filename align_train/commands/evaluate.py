"""One evaluation of a trained model: `results.json`, a table, and images of each evaluator.

The story: join the other processes, open the model, the evaluators and their sets, embed, measure,
write. All that can be wrong with the settings shows before anything is embedded.

`align_train.evaluate` evaluates any trained model; a run evaluates its last checkpoint the same
way when it ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch.loggers import Logger

from align_train.cluster import launcher
from align_train.cluster.collectives import all_reduce_, on_device, rank, report_first_error
from align_train.cluster.limits import allow_open_files
from align_train.cluster.position import EVALUATING
from align_train.cluster.watchdog import Watchdog
from align_train.cluster.whereabouts import LONG
from align_train.commands.alone import Failures, say_done
from align_train.commands.best import ended_early, note_last
from align_train.commands.devices import check_loader, joined, loader_workers
from align_train.commands.evaluators import open_evaluators, prepare_evaluation, wants_held_out
from align_train.commands.failures import explaining
from align_train.commands.last_results import write_down
from align_train.commands.loggers import run_loggers
from align_train.commands.report import report_at_end
from align_train.commands.results_folder import print_results, results_folder
from align_train.commands.sets_table import write_sets
from align_train.commands.targets import FIX
from align_train.commands.unknown_tokens import warn_of_unknown
from align_train.config.command_schema import EvaluateSettings
from align_train.config.saved import read_run
from align_train.config.schema import TrainSettings
from align_train.evals import Embedder, Evaluator
from align_train.files import write_whole
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained
from align_train.run.folder import RunFolder
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.sets import EvaluationSets
from align_train.stream.vocabulary import check_tokens

# Of the watchdog, as `trainer.silence` and `trainer.timeout` by default.
SILENCE = 60.0
TIMEOUT = 900.0

MEMORY = "; take a smaller chunk_size"  # what to do if the device's memory runs out


def evaluate(settings: EvaluateSettings) -> dict[str, float]:
    """Evaluates a trained model: `python -m align_train.evaluate`. Collective.

    Args:
        settings: The command's settings. Those that are null are as in the model's run.

    Returns:
        The results by name, the same on every rank.

    Raises:
        UserError: A setting, the model or a set of images is not as expected.
    """
    allow_open_files()
    started = launcher.current()
    watchdog = Watchdog(
        rank=started.rank,
        processes=started.world_size if started.started_all else 1,
        silence=SILENCE,
        timeout=TIMEOUT,
        setting="",
        all_come=True,
    )
    # The group comes last: if it breaks, the two others still explain the error and name the rank.
    with (
        watchdog.watching(),
        explaining(watchdog, lambda _: None, memory=MEMORY),
        joined(settings.device, timeout=LONG * TIMEOUT) as device,
    ):
        _open_store(watchdog, started.rendezvous.host, device)
        watchdog.group_formed()
        return _evaluate_together(settings, device, watchdog)


def _open_store(watchdog: Watchdog, host: str, device: torch.device) -> None:
    """Rank 0 takes any free port for the watchdog's store, and the group tells the others which."""
    port = watchdog.open(host, 0) if rank() == 0 else 0
    port = int(all_reduce_(on_device([port], device), "max"))
    if rank() > 0:
        watchdog.open(host, port)


def _evaluate_together(
    settings: EvaluateSettings, device: torch.device, watchdog: Watchdog
) -> dict[str, float]:
    # If one rank cannot begin, none may wait for it in the first collective.
    with report_first_error(device):
        check_loader(settings)
        pretrained, evaluators, sets = prepare_evaluation(settings)

    failures = Failures(device)
    results = _evaluate(
        pretrained,
        evaluators,
        RunFolder(results_folder(settings, pretrained)),
        failures,
        sets=sets,
        chunk_size=settings.chunk_size,
        workers=loader_workers(settings.workers, device),
        device=device,
        watchdog=watchdog,
        fix=f"free some space, or {FIX}",
    )

    if pretrained.run and not pretrained.checkpoint and _as_in_run(settings) and rank() == 0:
        run = read_run(pretrained.run.config)
        # Only of a finished run: nobody else writes its metrics.csv any more.
        step = int(results["step"])
        if step >= run.steps or ended_early(pretrained.run, run, step):
            loggers = run_loggers(run, pretrained.run)
            write_down(pretrained.run, results, evaluators, title=run.name, loggers=loggers)
            report_at_end(pretrained.run, run.name)
    # Last: the sets that worked have their results on disk by now.
    failures.raise_any()
    return results


def evaluate_run(
    folder: RunFolder,
    settings: TrainSettings,
    evaluators: Mapping[str, Evaluator],
    *,
    data: PairsDataModule,
    device: torch.device,
    loggers: Sequence[Logger],
    watchdog: Watchdog,
) -> None:
    """Evaluates a run's last checkpoint on all ranks. Collective.

    Rank 0 prints the results, and adds them to the last row of metrics.csv and to the loggers.

    Args:
        folder: The run's folder.
        settings: The run's settings.
        evaluators: By name, checked; see `evaluators_of`.
        data: The run's data.
        device: The device of this rank.
        loggers: The run's loggers.
        watchdog: Learns which evaluator is at work, and of each chunk.

    Raises:
        UserError: There is no checkpoint, or an evaluator cannot use it.
    """
    failures = Failures(device)
    results = _evaluate(
        # From disk, although the run has the model: what is judged is what others will load.
        open_pretrained(str(folder.path)),
        evaluators,
        folder,
        failures,
        sets=data.sets,
        chunk_size=settings.evaluation_chunk,
        workers=data.workers,
        device=device,
        watchdog=watchdog,
    )
    if rank() == 0:
        write_down(folder, results, evaluators, title=settings.name, loggers=loggers)
        note_last(folder, settings, results)
    failures.raise_any()


def _evaluate(
    pretrained: Pretrained,
    evaluators: Mapping[str, Evaluator],
    folder: RunFolder,
    failures: Failures,
    *,
    sets: EvaluationSets,
    chunk_size: int,
    workers: int,
    device: torch.device,
    watchdog: Watchdog,
    fix: str = "free some space or set output_dir to another place",
) -> dict[str, float]:
    """Calls the evaluators one after another. folder: for results.json and the images."""
    watchdog.at(EVALUATING)
    model = pretrained.build()
    check_tokens(sets.vocabulary, model)
    embedder = Embedder(
        model=model.to(device),
        tokenizer=sets.vocabulary,
        images_of=sets.images_of,
        device=device,
        chunk_size=chunk_size,
        workers=workers,
        chunk_done=watchdog.pass_done,
    )

    # `step` and `held_out/pairs` first: the file and the table keep this order.
    results: dict[str, float] = {}
    if pretrained.step is not None:
        results["step"] = pretrained.step
    if sets.held_out is not None and any(map(wants_held_out, evaluators.values())):
        results["held_out/pairs"] = sets.held_out.pairs

    if rank() == 0:
        folder.path.mkdir(parents=True, exist_ok=True)
    alone = [name for name, evaluator in evaluators.items() if evaluator.stands_alone()]
    _look_for_sets({name: evaluators[name] for name in alone}, sets, failures)

    for name, evaluator in evaluators.items():
        watchdog.at(f"{EVALUATING} by {name}")
        found = _results_of(name, evaluator, embedder, sets, failures, str(pretrained.tokenizer))
        if name in failures:
            continue
        results |= found
        if rank() == 0:
            # After each of them: a later one that fails, or is killed, costs only its own.
            write_whole(folder.results, json.dumps(results, indent=2) + "\n", fix=fix)
            evaluator.draw(embedder, folder.path, name)
        if evaluator.stands_alone():
            say_done(name, alone, found)
            for image_set in evaluator.sets():
                # The embeddings of many sets would not fit into memory together.
                embedder.forget(image_set)

    if rank() == 0 and not failures.are_all(evaluators):
        print_results(folder)
        write_sets(evaluators, results, folder, model=pretrained.path.name, fix=fix)
    return results


def _look_for_sets(
    alone: Mapping[str, Evaluator], sets: EvaluationSets, failures: Failures
) -> None:
    """Opens every set now, so that a misspelt one fails at once and not at its turn."""
    for name, evaluator in alone.items():
        with failures.of(name):
            for image_set in evaluator.sets():
                sets.images_of(image_set)


def _results_of(
    name: str,
    evaluator: Evaluator,
    embedder: Embedder,
    sets: EvaluationSets,
    failures: Failures,
    tokenizer: str,
) -> dict[str, float]:
    """Calls an evaluator. Returns its results by name; empty if it stands alone and failed."""
    if not evaluator.stands_alone():
        return {f"{name}/{key}": value for key, value in evaluator(embedder)}

    found: dict[str, float] = {}
    if name not in failures:
        with failures.of(name):
            # Only now: this reads all texts of a set, and there may be many sets.
            open_evaluators({name: evaluator}, sets)
            warn_of_unknown(sets, {name: evaluator}, tokenizer)
            found = {f"{name}/{key}": value for key, value in evaluator(embedder)}
    return found


def _as_in_run(settings: EvaluateSettings) -> bool:
    """Whether a run is evaluated on its own pairs, cut as in training, into its own folder."""
    keys = ("shards", "caption", "image", "keys", "image_size", "resize_size", "to")
    return all(getattr(settings, key) is None for key in keys)
