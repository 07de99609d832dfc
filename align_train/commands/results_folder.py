"""Where the results of an evaluation go: never into a model that somebody has published.

And how they are printed.
"""

from __future__ import annotations

from pathlib import Path

from align_train.config.command_schema import EvaluateSettings
from align_train.pretrained.pretrained import Pretrained
from align_train.run.folder import RunFolder

_TINY = 1e-3  # below it, four digits after the point would say too little


def results_folder(settings: EvaluateSettings, pretrained: Pretrained) -> Path:
    """Chooses the folder for results.json and the images beside it.

    Args:
        settings: Of the command. Its `to` comes first.
        pretrained: The model.

    Returns:
        `to`; or a run's own folder; or `outputs/NAME_evaluation`, as of a checkpoint that is named.
    """
    if settings.to is not None:
        return Path(settings.to).expanduser().absolute()
    if pretrained.run is not None and pretrained.checkpoint is None:
        return pretrained.path

    name = pretrained.name
    if not Path(settings.model).expanduser().exists():
        # Of the hub: the folder in its cache is named by a hash.
        name = settings.model.rpartition("/")[2]
    return Path("outputs", f"{name}_evaluation").absolute()


def print_results(folder: RunFolder) -> None:
    """Prints results.json as a table, and the names of the images beside it.

    Args:
        folder: A run's folder, or any other with a results.json; without one nothing is printed.
    """
    results = folder.read_results()
    if results is None:
        return

    width = max(map(len, results))
    for name, value in results.items():
        print(f"{name:<{width}}  {_spell(value):>10}")
    images = sorted(path.name for path in folder.path.glob("*.png"))
    print(f"{folder.results}; images beside it: {', '.join(images)}", flush=True)


def _spell(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if value != 0 and abs(value) < _TINY:
        return f"{value:.3g}"
    return f"{value:,.4f}"
