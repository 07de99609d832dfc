"""What is done with a run's last checkpoint: evaluated (`results.json`, a table, a contact sheet per evaluator), exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from align_train.config import build, choice, read_settings
from align_train.datamodule import PairsDataModule
from align_train.distributed import rank
from align_train.errors import UserError
from align_train.evals import Encoder
from align_train.model import DualEncoder
from align_train.pictures import contact_sheet
from align_train.run_folder import RunFolder, write_whole

_SHOWN = 40  # pictures on a contact sheet


def evaluate(config: Any) -> dict[str, float]:
    """`align_train.evaluate`: config.model names a run's folder; everything not given is as in that run."""
    _check(config)
    folder = RunFolder(Path(config.model).expanduser().absolute())
    if not folder.config.is_file():
        raise UserError(f"model={config.model}: no config.yaml there; expected a run's folder, e.g. outputs/demo")
    run: Any = read_settings(folder.config)
    if config.eval is not None:
        run.eval = choice("eval", config.eval)
    if config.shards is not None:
        run.data.held_out = config.shards
    if config.caption is not None:
        run.data.held_out_caption = config.caption
    if run.data.held_out is None:
        raise UserError("shards is not set, and the run has no held-out shards; give shards=… (a manifest, folder or glob)")
    run.data.workers = config.workers
    run.chunk_size = config.chunk_size
    # Only the held-out shards are needed: the training shards may long be gone.
    run.data.shards = run.data.held_out
    run.data.caption = run.data.held_out_caption or run.data.caption
    run.data.lanes = 1
    data: PairsDataModule = build(run.data)
    return evaluate_run(folder, run, data=data, device=torch.device(config.device))


def _check(config: Any) -> None:
    if config.chunk_size < 1 or config.workers < 0:
        raise UserError(f"chunk_size={config.chunk_size}, workers={config.workers}: expected at least 1, and 0 or more")
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={config.device}: not there ({str(error).splitlines()[0][:100]}); take device=cpu") from None


def load_model(folder: RunFolder, config: Any, data: PairsDataModule) -> DualEncoder:
    """The run's model with the weights of its last checkpoint, in evaluation mode, on the CPU."""
    node: Any = OmegaConf.to_container(config.model, resolve=True)
    size = node.pop("vocabulary_size", None) or data.encode.vocabulary_size
    model: DualEncoder = build(node, vocabulary_size=size)
    model.load_state_dict(run_weights(folder))
    return model.eval()


def run_weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """The weights that a run is judged by: of its last checkpoint, averaged where it keeps an average."""
    path = folder.last_checkpoint()
    if path is None:
        raise UserError(f"{folder.path}: no checkpoint yet (checkpoints/last); train it first")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weights = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
        weights.update(checkpoint.get("ema", {}))
    except Exception as error:  # torch raises many kinds for torn or foreign files
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}); point `last` at another one") from None
    return weights


def export(config: Any) -> None:
    """`align_train.export`: config.model names a run's folder, config.to a new one."""
    folder, to = RunFolder(Path(config.model).expanduser().absolute()), Path(config.to).expanduser().absolute()
    if not folder.config.is_file():
        raise UserError(f"model={config.model}: no config.yaml there; expected a run's folder, e.g. outputs/demo")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"to={config.to}: is there already; choose a new folder")
    weights = {name: value.contiguous() for name, value in run_weights(folder).items()}
    to.mkdir(parents=True, exist_ok=True)
    aside = to / ".model.safetensors.partial"
    save_file(weights, aside, metadata={"format": "pt", "step": str(folder.last_step())})
    aside.rename(to / "model.safetensors")
    write_whole(to / "config.yaml", folder.config.read_text(encoding="utf-8"))
    size = (to / "model.safetensors").stat().st_size
    print(f"{to / 'model.safetensors'}: {len(weights)} tensors, {size / 1e6:.1f} MB, step {folder.last_step()}")


def evaluate_run(folder: RunFolder, config: Any, *, data: PairsDataModule, device: torch.device) -> dict[str, float]:
    """Evaluates the last checkpoint on the held-out pairs, on all ranks; rank 0 writes and prints."""
    pairs = data.held_out_pairs()
    assert pairs is not None
    model = load_model(folder, config, data).to(device)
    encoder = Encoder(
        model=model, tokenise=data.encode, device=device, chunk_size=config.chunk_size, workers=min(1, data.workers)
    )
    encoded = encoder.pairs(pairs)
    results: dict[str, float] = {"step": folder.last_step(), "held_out/pairs": pairs.total}
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
