"""The nearest even splits of a batch, against a search of all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from align_train.planning.splits import is_even, nearest_split

sizes = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24])


@given(
    batch_size=st.integers(1, 600),
    norm_group=st.none() | sizes,
    chunk=sizes,
    lanes=st.integers(1, 48),
    gpus=st.integers(1, 60),
)
def test_the_nearest_splits_are_those_of_a_search_of_all(
    batch_size: int, norm_group: int | None, chunk: int, lanes: int, gpus: int
) -> None:
    def even(size: int, count: int, streams: int) -> bool:
        """By the rules' own words: whole lanes a GPU, whole chunks of whole norm groups."""
        share, rest = divmod(size, count)
        whole = [rest, streams % count, size % streams, share % chunk, share % (norm_group or 1)]
        return not any(whole)

    found = nearest_split(
        batch_size=batch_size, norm_group=norm_group, chunk=chunk, lanes=lanes, gpus=gpus
    )
    assert found.fits == even(batch_size, gpus, lanes)
    if found.fits:
        return

    counts = [count for count in range(1, 601) if even(batch_size, count, lanes)]
    below = [count for count in counts if count < gpus][-1:]
    above = [count for count in counts if count > gpus][:1]
    assert list(found.gpus) == below + above

    batches = [size for size in range(1, 60_000) if even(size, gpus, found.lanes)]
    at_most = [size for size in batches if size <= batch_size][-1:]
    more = [size for size in batches if size > batch_size][:1]
    assert list(found.batches) == (at_most if at_most == [batch_size] else at_most + more)
    if lanes % gpus == 0:
        assert found.lanes == lanes


def test_coyo_aligns_batch_fits_512_gpus_and_not_500() -> None:
    asked = {"batch_size": 65_536, "norm_group": 16, "chunk": 16, "lanes": 1024}
    assert nearest_split(**asked, gpus=512).fits
    assert is_even(**asked, gpus=1024)
    found = nearest_split(**asked, gpus=500)
    assert found.gpus == (256, 512)
    assert found.batches == (64_000, 72_000)
