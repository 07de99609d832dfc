"""A trained model evaluated: `results.json`, a table, a contact sheet per evaluator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from align_train.config import build, choice, defaults, read_settings
from align_train.datamodule import PairsDataModule
from align_train.distributed import rank
from align_train.errors import UserError
from align_train.evals import Encoder
from align_train.pictures import contact_sheet
from align_train.pretrained import Pretrained, open_pretrained, without_pretrained
from align_train.run_folder import RunFolder, write_whole

_SHOWN = 40  # pictures on a contact sheet


def evaluate(config: Any) -> dict[str, float]:
    """`align_train.evaluate`: config.model names a run's folder, where all that is not given is as in that run, or another
    trained model."""
    _check(config)
    found = open_pretrained(config.model)
    settings: Any = read_settings(found.run.config) if found.run else _settings_of(found)
    if config.eval is not None:
        settings.eval = choice("eval", config.eval)
    if config.shards is not None:
        settings.data.held_out = config.shards
    if config.caption is not None:
        settings.data.held_out_caption = config.caption
    if settings.data.held_out is None:
        why = "the run has no held-out shards" if found.run else "this model is no run of ours"
        raise UserError(f"shards is not set, and {why}; give shards=… (a manifest, folder or glob)")
    sizes = {key: config[key] for key in ("image_size", "resize_size") if config[key] is not None}
    unknown = {key: reason for key, reason in found.missing.items() if key != "preprocess" or len(sizes) < 2}
    for key, reason in unknown.items():
        raise UserError(f"{reason}; {key} is needed to evaluate")
    settings.data.tokenizer, settings.data.classes = found.tokenizer, found.classes
    settings.data.update(sizes)
    settings.data.workers = config.workers
    settings.chunk_size = config.chunk_size
    # Only the held-out shards are needed: the training shards may long be gone.
    settings.data.shards = settings.data.held_out
    settings.data.caption = settings.data.held_out_caption or settings.data.caption
    settings.data.lanes = 1
    data: PairsDataModule = build(settings.data)
    to = RunFolder(_results_folder(config, found))
    return _evaluate(found, settings, to, data=data, device=torch.device(config.device))


def _settings_of(found: Pretrained) -> Any:
    """Of a model that is no run of ours: the defaults, for its own towers."""
    of_kind = ("eval=classification", "loss=classification") if found.is_classifier else ("eval=pairs",)
    settings = defaults(*of_kind, "data.held_out=null")
    OmegaConf.set_struct(settings, False)
    settings.model = without_pretrained(found.node)
    return settings


def _results_folder(config: Any, found: Pretrained) -> Path:
    """A model's own folder, unless it lies in the hub's cache."""
    if config.to is not None:
        return Path(config.to).expanduser().absolute()
    local = Path(config.model).expanduser().exists()
    return found.path if local else Path("outputs", config.model.rpartition("/")[2]).absolute()


def _check(config: Any) -> None:
    if config.chunk_size < 1 or config.workers < 0:
        raise UserError(f"chunk_size={config.chunk_size}, workers={config.workers}: expected at least 1, and 0 or more")
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={config.device}: not there ({str(error).splitlines()[0][:100]}); take device=cpu") from None


def evaluate_run(folder: RunFolder, config: Any, *, data: PairsDataModule, device: torch.device) -> dict[str, float]:
    """Evaluates a run's last checkpoint on the held-out pairs, on all ranks; rank 0 writes and prints."""
    return _evaluate(open_pretrained(str(folder.path)), config, folder, data=data, device=device)


def _evaluate(
    found: Pretrained, config: Any, folder: RunFolder, *, data: PairsDataModule, device: torch.device
) -> dict[str, float]:
    """folder: where results.json and the pictures go."""
    pairs = data.held_out_pairs()
    assert pairs is not None
    model = found.build().to(device)
    encoder = Encoder(
        model=model, tokenise=data.encode, device=device, chunk_size=config.chunk_size, workers=min(1, data.workers)
    )
    encoded = encoder.pairs(pairs)
    results: dict[str, float] = {"step": found.run.last_step()} if found.run else {}
    results["held_out/pairs"] = pairs.total
    if rank() == 0:
        folder.path.mkdir(parents=True, exist_ok=True)
    for name, node in (config.eval.evaluators or {}).items():
        evaluator = build(node)
        results.update(evaluator(encoded, encoder))
        if getattr(evaluator, "answers", None) and rank() == 0:
            shown = pairs.numbers[:_SHOWN].tolist()  # this rank's pictures, numbered among all
            sheet = contact_sheet(
                [pairs[number] for number in range(len(shown))],
                [evaluator.answers[number] for number in shown],
                right=[evaluator.right[number] for number in shown],
            )
            sheet.save(folder.path / f"{name}.png")
    if rank() == 0:
        write_whole(folder.results, json.dumps(results, indent=2) + "\n")
        print_results(folder)
    return results


def print_results(folder: RunFolder) -> None:
    """The run's results.json as a table, and where its pictures are; nothing where it was never evaluated."""
    results = folder.read_results()
    if results is None:
        return
    width = max(map(len, results))
    for name, value in results.items():
        print(f"{name:<{width}}  {value:>10,.4f}" if isinstance(value, float) else f"{name:<{width}}  {value:>10,}")
    pictures = ", ".join(sorted(path.name for path in folder.path.glob("*.png")))
    print(f"{folder.results}; pictures there: {pictures}", flush=True)
