"""CLIP_benchmark's side; started by `benchmarks.evaluation_sets` in the peers' environment.

    python -m benchmarks.evaluation_sets.peer write FOLDER
    python -m benchmarks.evaluation_sets.peer evaluate FOLDER MODEL

The first writes the sets by CLIP_benchmark's writer. The second runs its command on them, with our
model in the place of open_clip's, and makes its table, `FOLDER/benchmark.csv`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from clip_benchmark import cli, webdataset_builder

import align_train
from align_train.demo.scene import COLOURS, SHAPES
from benchmarks.evaluation_sets import drawn

# Images of a shard: each set has several.
PER_SHARD = 150


class Rows(list[Any]):
    """A data set as the writer takes it.

    Attributes:
        classes: The names of the classes; of retrieval none.
        templates: The prompts; of retrieval none.
    """

    classes: Sequence[str] = ()
    templates: Sequence[str] = ()


def write(folder: Path) -> None:
    """Writes all sets."""
    for name, kind in drawn.SETS.items():
        to = str(folder / f"wds_{name.replace('/', '-')}")
        options: Any = {"max_count": PER_SHARD, "verbose": False}
        webp = webdataset_builder.PIL_to_bytes("webp")
        if kind == "retrieval":
            rows = [(webp(image), captions) for image, captions in drawn.captioned()]
            webdataset_builder.convert_retrieval_dataset(Rows(rows), "test", to, **options)
            continue

        if kind == "multilabel":
            jpeg = webdataset_builder.PIL_to_bytes("jpg")
            labelled = [(jpeg(image), np.array(ones)) for image, ones in drawn.with_colours()]
            data = Rows(labelled)
            data.classes = [*COLOURS, *SHAPES]
            options |= {"multilabel": True, "image_format": "jpg"}
        else:
            classes = 3 if name.endswith("three") else drawn.CLASSES
            data = Rows([(webp(image), label) for image, label in drawn.classified(classes)])
            data.classes = drawn.names(classes)
        data.templates = drawn.PROMPTS
        webdataset_builder.convert_dataset(data, "test", to, **options)


def evaluate(folder: Path, path: str) -> None:
    """Runs CLIP_benchmark's command, once for each language, and makes its table."""
    model = align_train.load(path)
    cli.load_clip = lambda **_: (model, model.preprocess, model.tokenizer)
    plain = ["--dataset", *(f"wds/{name}" for name in drawn.SETS)]
    files = ["--custom_classname_file", str(folder / "classnames.json")]
    files += ["--custom_template_file", str(folder / "templates.json")]
    german = ["--dataset", f"wds/{drawn.NAMED}", "--language", drawn.LANGUAGE, *files]
    output = str(folder / "{dataset}_{language}.json")
    for options in (plain, german):
        root = str(folder / "wds_{dataset_cleaned}")
        recalls = ["--recall_k", "1", "5", "10"]
        sys.argv = ["clip_benchmark", "eval", *options, "--dataset_root", root, *recalls]
        sys.argv += ["--no_amp", "--num_workers", "1", "--output", output]
        cli.main()

    results = sorted(str(path) for path in folder.glob("*_*.json"))
    sys.argv = ["clip_benchmark", "build", *results, "--output", str(folder / "benchmark.csv")]
    cli.main()


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        evaluate(Path(sys.argv[2]), sys.argv[3])
