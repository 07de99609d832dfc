from __future__ import annotations

from hypothesis import strategies as st

from align_train.stream.order import Order

orders = st.builds(
    Order,
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=20).filter(
        lambda counts: sum(counts) >= 16
    ),
    seed=st.integers(0, 2**62),
    lanes=st.sampled_from([1, 2, 4, 8, 16]),
    window=st.integers(1, 50),
)
