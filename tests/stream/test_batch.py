"""A batch is cut into chunks without a copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from align_train.stream.batch import Batch
from align_train.stream.token_ids import PAD, lengths_of, padded


def batch_of(lengths: list[int], width: int) -> Batch:
    ids = np.full((len(lengths), width), PAD, dtype=np.int32)
    for row, length in enumerate(lengths):
        ids[row, :length] = 5
        ids[row, 0] = 0  # a token as any other
    return Batch(
        finished_steps=3,
        first=100,
        images=torch.arange(len(lengths) * 12, dtype=torch.uint8).view(-1, 2, 2, 3),
        input_ids=torch.from_numpy(ids),
        lengths=lengths_of(ids),
        keys=[str(row) for row in range(len(lengths))],
        captions=[""] * len(lengths),
    )


def test_chunks_are_consecutive_views_trimmed_to_their_longest_text() -> None:
    batch = batch_of([3, 8, 9, 2, 20, 4, 5], 20)
    chunks = batch.chunks(2)
    assert [(chunk.first, len(chunk)) for chunk in chunks] == [
        (100, 2),
        (102, 2),
        (104, 2),
        (106, 1),
    ]
    # Rounded up to 8, but never wider than the batch.
    assert [chunk.input_ids.shape[1] for chunk in chunks] == [8, 16, 20, 8]
    assert torch.equal(torch.cat([chunk.images for chunk in chunks]), batch.images)
    for start, chunk in zip(range(0, 7, 2), chunks, strict=True):
        assert chunk.images.data_ptr() == batch.images[start].data_ptr()
        width = chunk.input_ids.shape[1]
        assert torch.equal(chunk.input_ids, batch.input_ids[start : start + 2, :width])
        assert (batch.input_ids[start : start + 2, width:] == PAD).all()


def test_the_whole_batch_may_be_one_chunk() -> None:
    (chunk,) = batch_of([3, 8, 9], 16).chunks(64)
    assert (len(chunk), chunk.first, tuple(chunk.input_ids.shape)) == (3, 100, (3, 16))
    moved = chunk.to("cpu", non_blocking=True)
    assert torch.equal(moved.images, chunk.images) and moved.first == 100


def test_lengths_count_every_token_and_each_class() -> None:
    ids = np.array([[7, 0, 8, PAD], [7, 8, 9, 0], [0, PAD, PAD, PAD]], dtype=np.int32)
    assert lengths_of(ids).tolist() == [3, 4, 1]
    classes = np.array([[0], [63], [0]], dtype=np.int32)
    assert lengths_of(classes).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("longest", "most", "width"), [(1, 1, 1), (3, 64, 8), (8, 64, 8), (9, 64, 16), (62, 63, 63)]
)
def test_rows_are_padded_to_a_multiple_of_8(longest: int, most: int, width: int) -> None:
    assert padded(longest, most=most) == width
