"""The parity table: every engine against one process that has the whole batch and a plain loss.

    python -m tests.support.parity

prints all of it, and `tests/strategy/test_parity.py` checks its rows.

Each row trains a small dual encoder (BatchNorm, dropout and drop path on) for five steps on several
gloo processes, through Lightning and the real strategy. It is compared with a plain loop: the same
chunks one after another through the same towers, a cross-entropy over the whole batch, one
backward, and torch's AdamW or timm's LAMB.

The errors are relative, |found - true| / |true|, of the worst tensor on the worst rank. They are
those of the gradients of towers and temperature in the first step, and of the parameters after five
steps. Parameters whose true gradient is zero are left out: their gradient is rounding, which
optimizers divide by itself.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
import torch._inductor.config as inductor
from lightning.pytorch.callbacks import Callback
from timm.optim.lamb import Lamb as TimmLamb
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid

from align_train.cluster.collectives import rank, world_size
from align_train.loss.contrastive import ContrastiveLoss
from align_train.loss.sigmoid import SigmoidLoss
from align_train.model import BertTower, Bias, DualEncoder, EfficientNetTower, Temperature
from align_train.optim.recipes import AdamW, Lamb
from align_train.optim.schedules import WarmupLinear
from align_train.strategy import DDP, FSDP, DeepSpeed, RunFacts, StrategyRecipe
from align_train.strategy.layout import trained_parameters, whole
from align_train.stream.batch import Batch, Chunk, normalise
from align_train.training.callbacks import Averaging
from align_train.training.forward import seed_chunk
from align_train.training.module import TrainingModule
from tests.support.optimizers import PLAIN_ADAMW, PLAIN_LAMB
from tests.support.processes import on_ranks

STEPS, CHUNKS, PAIRS, SEED = 5, 4, 6, 5


ENGINES: dict[str, StrategyRecipe] = {
    "ddp": DDP(),
    "fsdp": FSDP(reshard=False),
    "fsdp, reshard": FSDP(reshard=True),
    "ZeRO-1": DeepSpeed(stage=1, options=None),
    "ZeRO-2": DeepSpeed(stage=2, options=None),
    "ZeRO-3": DeepSpeed(stage=3, options=None),
}


@dataclass(frozen=True)
class Case:
    """One row of the table; the oracle shares its loss, optimizer and precision.

    `chunks` counts those of the global batch; a rank may have several.
    """

    engine: str
    world: int
    chunks: int = CHUNKS
    optimizer: str = "lamb"
    dtype: str = "float64"
    loss: str = "contrastive"
    bf16: bool = False
    recompute: bool = True
    checkpointed: bool = False
    compiled: bool = False
    ema: float | None = None
    clip: float | None = None
    lock: str | None = None

    @property
    def name(self) -> str:
        extras = {
            self.loss: self.loss != "contrastive",
            "bf16": self.bf16,
            "checkpointing": self.checkpointed,
            "compile": self.compiled,
            "EMA": self.ema is not None,
            "clipping": self.clip is not None,
            f"{self.lock} locked": self.lock is not None,
            "graphs kept": not self.recompute,
        }
        return ", ".join([self.engine, *(extra for extra, there in extras.items() if there)])

    @property
    def oracle(self) -> Case:
        return replace(
            self, engine="ddp", world=1, recompute=False, checkpointed=False, compiled=False
        )


def small_model(**options: Any) -> DualEncoder:
    torch.manual_seed(0)
    tower = EfficientNetTower(
        channels=(8, 16),
        kernels=(3, 3),
        strides=(1, 2),
        repeats=(1, 2),
        expansions=(1, 4),
        stem=8,
        drop_path=0.3,
        momentum=0.1,
    )
    shape: Any = {"hidden": 16, "layers": 1, "heads": 2, "intermediate": 32, "dropout": 0.2}
    return DualEncoder(
        image_tower=tower,
        text_tower=lambda **given: BertTower(**given, **shape),
        temperature=Temperature(initial=0.1),
        vocabulary_size=50,
        image_size=16,
        resize_size=16,
        max_tokens=8,
        **options,
    )


def small_chunks(count: int, step: int = 0) -> list[Chunk]:
    """Chunks of 6 pairs; one picture and one text of each chunk come back in the next one."""
    generator = torch.Generator().manual_seed(1 + step)
    return [
        Chunk(
            images=torch.randint(
                0, 256, (PAIRS, 16, 16, 3), dtype=torch.uint8, generator=generator
            ),
            input_ids=torch.randint(1, 50, (PAIRS, 8), dtype=torch.int32, generator=generator),
            keys=[""] * PAIRS,
            captions=[""] * PAIRS,
            index=number,
            content_ids=torch.arange(2 * PAIRS).view(2, PAIRS) + number * (PAIRS - 1),
        )
        for number in range(count)
    ]


# the plain loop


def plain_loss(
    case: Case, images: Tensor, texts: Tensor, model: DualEncoder, chunks: list[Chunk]
) -> Tensor:
    logits = images @ texts.T / model.temperature.value
    pictures, sentences = torch.cat(
        [chunk.content_ids for chunk in chunks if chunk.content_ids is not None], dim=1
    )
    alike = (pictures[:, None] == pictures) | (sentences[:, None] == sentences)
    alike &= ~torch.eye(len(images), dtype=torch.bool)
    if case.loss == "sigmoid":
        assert model.bias is not None
        labels = 2 * torch.eye(len(images), dtype=logits.dtype) - 1
        losses: Tensor = -logsigmoid(labels * (logits + model.bias.value)).sum()
        return losses / len(images)
    own = torch.arange(len(images))
    if case.loss == "masked":
        kept = logits.masked_fill(alike, -torch.inf)
        smoothing = 0.1
        both: list[Tensor] = []
        for rows in (kept, kept.T):
            log_p = rows.log_softmax(1)
            even = (log_p.masked_fill(alike, 0) / (~alike).sum(1, keepdim=True)).sum(1)
            both.append(-((1 - smoothing) * log_p.diagonal() + smoothing * even).mean())
        return 0.5 * (both[0] + both[1])
    one, other = (cross_entropy(rows, own, label_smoothing=0.1) for rows in (logits, logits.T))
    return 0.5 * (one + other)


def plain(case: Case) -> dict[str, Tensor]:
    """First gradients and last parameters of one process with the whole batch."""
    torch.set_num_threads(1)  # as the ranks: bf16 rounds away more than the order of a sum changes
    model = model_of(case)
    recipe: Any = optimizer_of(case)
    optimizer = recipe.build(model)
    if case.optimizer == "lamb":
        optimizer = TimmLamb(
            optimizer.param_groups, betas=recipe.betas, eps=recipe.eps, max_grad_norm=None
        )
    found: dict[str, Tensor] = {}
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    for step in range(STEPS):
        chunks = small_chunks(case.chunks, step)
        embeddings = []
        for chunk in chunks:
            seed_chunk(SEED, step, chunk.index)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.bf16):
                embeddings.append(
                    model(normalise(chunk.images, model.temperature.value.dtype), chunk.input_ids)
                )
        images, texts = (torch.cat(part) for part in zip(*embeddings, strict=True))
        optimizer.zero_grad()
        torch.autograd.backward(plain_loss(case, images, texts, model, chunks))
        if step == 0:
            for name, value in trained_parameters(model):
                assert value.grad is not None
                found[f"gradient {name}"] = value.grad.clone()
        if case.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), case.clip)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * schedule().factor(step, STEPS)
        optimizer.step()
        kept = 0.0 if case.ema is None else min(case.ema, (2 + step) / (11 + step))
        average = {
            name: kept * average[name] + (1 - kept) * value.detach()
            for name, value in model.named_parameters()
        }
    return found | {f"parameter {name}": value for name, value in average.items()}


# the engines


def model_of(case: Case) -> DualEncoder:
    model = small_model(bias=Bias(initial=-3.0) if case.loss == "sigmoid" else None, lock=case.lock)
    return model.double() if case.dtype == "float64" else model


def optimizer_of(case: Case) -> AdamW | Lamb:
    return (
        replace(PLAIN_LAMB, lr=0.02, weight_decay=0.01)
        if case.optimizer == "lamb"
        else replace(PLAIN_ADAMW, lr=2e-3, weight_decay=0.01)
    )


def schedule() -> WarmupLinear:
    return WarmupLinear(warmup_steps=2, final=0.0)


class _Batches:
    """A loader of batches, because Lightning takes a list for several loaders."""

    def __init__(self, chunks: int, start: int, end: int) -> None:
        self.chunks, self.start, self.end = chunks, start, end

    def __len__(self) -> int:
        return self.end

    def __iter__(self) -> Iterator[Batch]:
        own = self.chunks // world_size()
        for step in range(self.start, self.end):
            yield Batch(
                finished_steps=step,
                chunks=small_chunks(self.chunks, step)[rank() * own : (rank() + 1) * own],
            )


class _FirstGradients(Callback):
    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        assert isinstance(module, TrainingModule)
        if trainer.global_step == 0:
            self.found = {
                name: _gradient(parameter) for name, parameter in trained_parameters(module.model)
            }


class Averaged(Callback):
    """`Averaging` alone, as `StepEnd` calls it."""

    def __init__(self, *, decay: float | None) -> None:
        self.averaging = Averaging(decay=decay)

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        self.averaging.start(module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object
    ) -> None:
        assert isinstance(module, TrainingModule)
        self.averaging.average(module, step=trainer.global_step)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        assert isinstance(module, TrainingModule)
        self.averaging.save(module, checkpoint, keep=trainer.is_global_zero)

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        assert isinstance(module, TrainingModule)
        self.averaging.load(module, checkpoint)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_grad

        return safe_get_full_grad(parameter).clone()  # type: ignore[no-any-return]
    assert parameter.grad is not None
    return whole(parameter.grad).clone()


def trained(case: Case) -> dict[str, Tensor]:
    """What one rank sees after training under an engine."""
    gradients, averaged = _FirstGradients(), Averaged(decay=case.ema)
    module = fit(case, gradients, averaged)
    parameters = averaged.averaging.weights(module)
    named = {name for name, _ in module.model.named_parameters()}
    return {f"gradient {name}": value for name, value in gradients.found.items()} | {
        f"parameter {name}": value for name, value in parameters.items() if name in named
    }


def fit(
    case: Case,
    *callbacks: Callback,
    start: int = 0,
    end: int = STEPS,
    resume: Path | None = None,
    save: Path | None = None,
) -> TrainingModule:
    """Steps of this rank's share, through Lightning; five, or from one checkpoint to another."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    inductor.fallback_random = True  # or compiled dropout draws other numbers than the oracle's
    module = TrainingModule(
        model=model_of(case),
        loss=SigmoidLoss()
        if case.loss == "sigmoid"
        else ContrastiveLoss(mask_duplicates=case.loss == "masked", tile=7),
        optimizer=optimizer_of(case),
        scheduler=schedule(),
        max_steps=STEPS,
        seed=SEED,
        recompute=case.recompute,
        checkpoint_blocks=case.checkpointed,
        compile_blocks=case.compiled,
        clip=case.clip,
    )
    facts = RunFacts(processes=world_size(), on_gpu=False, bf16=case.bf16, clip=case.clip)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world_size(),
        strategy=ENGINES[case.engine].build(facts),
        precision="bf16-mixed" if case.bf16 else "32-true",
        max_steps=end,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    batches = _Batches(case.chunks, start, end)
    trainer.fit(
        module,
        train_dataloaders=batches,
        ckpt_path=str(resume) if resume else None,
        weights_only=True,
    )
    if save:
        trainer.save_checkpoint(save)
    return module


def compared(case: Case, folder: Path, known: dict[Case, dict[str, Tensor]]) -> dict[str, float]:
    """Largest relative errors over all ranks. known: oracles that were computed before."""
    expected, exact = (
        _oracle(case.oracle, known),
        _oracle(replace(case.oracle, dtype="float64"), known),
    )
    # e.g. BERT's key biases: their true gradient is zero
    none = {
        name.partition(" ")[2]
        for name, value in exact.items()
        if name.startswith("gradient") and value.abs().max() < 1e-9
    }
    assert 0 < len(none) < 4
    errors = {"towers": 0.0, "temperature": 0.0, "parameters": 0.0}
    for found in on_ranks(case.world, trained, case, folder=folder):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            kind, _, parameter = name.partition(" ")
            if parameter in none:
                continue
            column = (
                "parameters"
                if kind == "parameter"
                else "temperature"
                if "temperature" in parameter
                else "towers"
            )
            difference = float((found[name] - value).norm())
            error = difference and difference / float(value.norm())  # a locked bias may be zero
            errors[column] = max(errors[column], error if error == error else float("inf"))
    return errors


def _oracle(case: Case, known: dict[Case, dict[str, Tensor]]) -> dict[str, Tensor]:
    if case not in known:
        known[case] = plain(case)
    return known[case]


def cases(worlds: tuple[int, ...] = (1, 2, 4)) -> Iterator[Case]:
    for world in worlds:
        for engine in ENGINES:
            dtype = "float32" if engine.startswith("ZeRO") else "float64"
            for chunks in {world, 4}:
                for optimizer in ("lamb", "adamw"):
                    yield Case(engine, world, chunks=chunks, optimizer=optimizer, dtype=dtype)


def extras(engines: tuple[str, ...] = ("ddp", "fsdp", "ZeRO-2", "ZeRO-3")) -> Iterator[Case]:
    """What else a step may be made of, on two ranks."""
    for engine in engines:
        plain = Case(
            engine,
            2,
            optimizer="adamw",
            dtype="float32" if engine.startswith("ZeRO") else "float64",
        )
        yield replace(plain, recompute=False)
        yield replace(plain, loss="sigmoid")
        yield replace(plain, loss="masked")
        yield replace(plain, ema=0.9)
        yield replace(plain, clip=0.5)
        yield replace(plain, lock="image")
        yield replace(plain, checkpointed=True)
        yield replace(plain, checkpointed=True, recompute=False)
        yield replace(plain, bf16=True, dtype="float32")
        if engine != "ZeRO-3":  # refused
            yield replace(plain, compiled=True)


def bound(case: Case) -> tuple[float, float]:
    """The largest errors of gradients, and of parameters after five steps.

    In bf16 only the first step compares: a last digit of float32 flips roundings of the next step,
    and optimizers make the gradients of small parameters as large as any.
    """
    if case.bf16:
        return 1e-5, 0.2
    return (1e-10, 1e-9) if case.dtype == "float64" else (1e-5, 1e-4)


def header() -> str:
    names = f"{'engine':<36}{'ranks':>6}{'chunks':>7}{'numbers':>9}{'optimizer':>10}"
    return f"{names}{'towers':>10}{'temperature':>13}{'parameters':>12}"


def row(case: Case, errors: dict[str, float]) -> str:
    cells = "".join(
        f"{errors[kind]:>{width}.1e}"
        for kind, width in (("towers", 10), ("temperature", 13), ("parameters", 12))
    )
    within = (
        max(errors["towers"], errors["temperature"]) <= bound(case)[0]
        and errors["parameters"] <= bound(case)[1]
    )
    verdict = "" if within else "  MISSED"
    names = f"{case.name:<36}{case.world:>6}{case.chunks:>7}{case.dtype:>9}{case.optimizer:>10}"
    return f"{names}{cells}{verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.parity", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    parser.add_argument("--no-extras", dest="extras", action="store_false")
    given = parser.parse_args()
    print(header(), flush=True)
    oracles: dict[Case, dict[str, Tensor]] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = (
            [*cases(tuple(given.worlds)), *extras()] if given.extras else cases(tuple(given.worlds))
        )
        for number, case in enumerate(case for case in rows if case.engine in given.engines):
            print(row(case, compared(case, Path(folder) / str(number), oracles)), flush=True)


if __name__ == "__main__":
    main()
