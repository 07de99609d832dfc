"""Seconds by the roofline, against sums by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from align_train.planning.hardware import Efficiency, Hardware
from align_train.planning.seconds import COMPILED_SHARE, Work, step_seconds, work_of
from align_train.training.operators import ELEMENTWISE, MATMUL, Operator

GPU = Hardware(
    name="a GPU",
    is_gpu=True,
    memory_gb=80,
    bf16_tflops=100,
    fp32_tflops=10,
    memory_gbs=1000,
    node_link_gbs=100,
    network_gbs=10,
    gpus_per_node=8,
    cpu_cores=64,
    launch_us=10,
    efficiency=Efficiency(
        matmul=0.5,
        convolution=0.5,
        pointwise=0.5,
        depthwise=0.5,
        attention=0.5,
        elementwise=0.8,
        normalisation=0.8,
        link=1.0,
    ),
)

# 1e12 FLOPs at half of 100 TFLOP/s: 20 ms. 8e9 bytes at 80 % of 1 TB/s: 10 ms.
PRODUCT = Operator(MATMUL, 1e12, 1e6)
COPY = Operator(ELEMENTWISE, 0.0, 8e9)


def test_an_operator_is_held_up_by_its_flops_or_by_its_bytes() -> None:
    work = work_of(Counter({PRODUCT: 2, COPY: 3}), GPU, bf16=True)
    assert work.by_kind == pytest.approx({MATMUL: 0.040, ELEMENTWISE: 0.030})
    assert work.total == pytest.approx(0.070)
    # A product of few FLOPs and many bytes waits for the bytes.
    thin = work_of(Counter([Operator(MATMUL, 1e9, 8e9)]), GPU, bf16=True)
    assert thin.total == pytest.approx(0.010)
    assert work_of(Counter([PRODUCT]), GPU, bf16=False).total == pytest.approx(0.200)


def test_a_gpu_waits_for_launches_only_if_they_take_longer() -> None:
    small = Counter({Operator(ELEMENTWISE, 0.0, 8.0): 1000})
    assert work_of(small, GPU, bf16=True).total == pytest.approx(1000 * 10e-6)
    assert work_of(Counter([COPY]), GPU, bf16=True).total == pytest.approx(0.010)
    # A CPU does one after the other.
    cpu = replace(GPU, is_gpu=False)
    assert work_of(Counter([COPY]), cpu, bf16=True).total == pytest.approx(0.010 + 10e-6)


def test_compiled_blocks_move_less_between_products() -> None:
    plain = work_of(Counter([COPY, PRODUCT]), GPU, bf16=True)
    compiled = work_of(Counter([COPY, PRODUCT]), GPU, bf16=True, compiled=True)
    assert compiled.by_kind[MATMUL] == plain.by_kind[MATMUL]
    expected = plain.by_kind[ELEMENTWISE] * COMPILED_SHARE
    assert compiled.by_kind[ELEMENTWISE] == pytest.approx(expected)


def work(seconds: float) -> Work:
    return Work(by_kind={MATMUL: seconds}, launching=0.0, overlaps=True)


def of_step(**changed: float) -> float:
    messages = {"gradients": 0.0, "gathers": 0.0, "exposed": 0.0} | changed
    return step_seconds(
        forward=work(1.0),
        backward=work(2.0),
        chunks=4,
        loss=work(0.5),
        optimizer=work(0.25),
        **messages,
    ).total


def test_only_messages_that_outlast_the_passes_are_waited_for() -> None:
    alone = of_step()
    assert alone == pytest.approx(4 * 3.0 + 0.5 + 0.25)
    # Gradients are complete in the backward pass of the last chunk alone: 2 seconds.
    assert of_step(gradients=2.0) == pytest.approx(alone)
    assert of_step(gradients=2.5) == pytest.approx(alone + 0.5)
    assert of_step(gathers=12.0) == pytest.approx(alone)
    assert of_step(gathers=13.0) == pytest.approx(alone + 1.0)
    assert of_step(exposed=0.1) == pytest.approx(alone + 0.1)
