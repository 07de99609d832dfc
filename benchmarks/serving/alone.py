"""The model alone: `python -m benchmarks.serving.alone MODEL images|texts COUNT`."""

from __future__ import annotations

import io
import json
import sys
import time
from random import Random

import torch

from align_train.demo.draw import draw
from align_train.demo.scene import sample_scene
from align_train.stream.upright import upright

BATCH = 32
FILES = 64


def jpegs() -> list[bytes]:
    """Drawn images as JPEGs of 500 x 375."""
    files = []
    for seed in range(FILES):
        file = io.BytesIO()
        image = draw(sample_scene(Random(seed), label=seed % 36), 96)
        image.resize((500, 375)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def texts(count: int, first: int) -> list[str]:
    """Texts of 3 to 12 words, each another one."""
    words = ["a", "red", "circle", "two", "green", "stars", "on", "the", "left", "heart"]
    made = []
    for number in range(first, first + count):
        random = Random(number)
        chosen = random.choices(words, k=random.randint(2, 11))
        made.append(" ".join([*chosen, str(number)]))
    return made


def main() -> None:
    import align_train

    path, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model = align_train.load(path)
    files = jpegs()
    asked = texts(count, 0)

    def embed(start: int) -> None:
        items = range(start, min(start + BATCH, count))
        with torch.inference_mode():
            if kind == "images":
                model.encode_images([upright(files[n % FILES]) for n in items])
            else:
                ids = model.trimming_tokenizer()([asked[n] for n in items])
                model.encode_text(torch.from_numpy(ids).long())

    embed(0)  # the first pass is slower
    cpu = time.process_time()
    begun = time.perf_counter()
    for start in range(0, count, BATCH):
        embed(start)
    seconds = time.perf_counter() - begun
    cpu_ms = 1000 * (time.process_time() - cpu) / count
    print(json.dumps({"per_second": count / seconds, "cpu_ms": cpu_ms}))


if __name__ == "__main__":
    main()
