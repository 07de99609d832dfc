"""How sources of Hugging Face's library are known; without pyarrow, which is in an extra."""

from __future__ import annotations

from pathlib import Path

BEGINNING = "hf:"  # of the setting `source`, for a name on the hub
SPLITS_FILE = "dataset_dict.json"
STATE_FILE = "state.json"

NO_DATASETS = "source=hf:… needs the library datasets: pip install 'align_train[datasets]'"


def is_hub_name(source: str) -> bool:
    """Whether a source is a name on the hub; `hf://` is a URL of fsspec, and no name."""
    return source.startswith(BEGINNING) and not source.startswith("hf://")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return (folder / SPLITS_FILE).is_file() or (
        (folder / STATE_FILE).is_file() and (folder / "dataset_info.json").is_file()
    )
