"""What `${name:…}` means in the YAML files of conf/."""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import OmegaConf

from align_train.cluster import launcher
from align_train.cluster.gpus import gpus


def register_resolvers() -> None:
    """Makes the names known to OmegaConf."""
    resolvers: dict[str, Callable[..., object]] = {
        "cluster": _cluster,
        "first": _first,
        "if_gpu": _if_gpu,
        "if_on": _if_on,
        "scaled": _scaled,
        "tenth": _tenth,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _cluster(name: str) -> object:
    """`nodes: ${cluster:nodes}` in conf/trainer/multinode.yaml: what the launcher says."""
    return getattr(launcher, name)()


def _first(*values: object) -> object:
    """`nodes: ${first:${nodes},1}` in conf/plan.yaml: the first that is not null."""
    return next((value for value in values if value is not None), None)


def _if_gpu(value: object, otherwise: object) -> object:
    """`precision: ${if_gpu:bf16,fp32}` in conf/trainer/auto.yaml."""
    return value if gpus().usable else otherwise


def _if_on(switch: object, value: object) -> object:
    """`short_side: ${if_on:${paper},200}` in conf/commands/filter.yaml: null if it is off."""
    return value if switch else None


def _scaled(size: int, by: int, of: int) -> int:
    """`resize_size: ${scaled:${.image_size},346,289}` in conf/model/b7_base.yaml."""
    return round(size * by / of)


def _tenth(rate: float | None) -> float | None:
    """`lr: ${tenth:${rates.image}}` in conf/optimizer/lion.yaml; null stays null."""
    return None if rate is None else rate / 10
