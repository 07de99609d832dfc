"""One GPU and the node that it sits in, as a plan sees them.

`conf/gpu/NAME.yaml` has the figures, each with its source. Rates are those of the data sheets;
`Efficiency` says which share of them a step gets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from align_train.errors import UserError

GB = 1e9
"""Bytes of a GB: data sheets and links count in powers of ten."""

# Figures of which 0 makes sense.
_MAY_BE_ZERO = ("launch_us",)

_MOST = 1e9  # of any figure: thousands of times what there is


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """The share of the hardware's peak rates that each kind of work gets, from 0 to 1."""

    matmul: float
    """Share of the peak FLOP/s, of linear layers."""

    convolution: float
    """Share of the peak FLOP/s, of larger convolutions that mix channels."""

    pointwise: float
    """Share of the peak FLOP/s, of 1 x 1 convolutions."""

    depthwise: float
    """Share of the peak FLOP/s, of depthwise convolutions."""

    attention: float
    """Share of the peak FLOP/s, of attention's two products."""

    elementwise: float
    """Share of the memory bandwidth, of element-wise work and optimizers."""

    normalisation: float
    """Share of the memory bandwidth, of BatchNorm and LayerNorm."""

    link: float
    """Share of the links' bandwidth, of collectives."""

    def __post_init__(self) -> None:
        """Checks the shares.

        Raises:
            UserError: One is not above 0 and at most 1.
        """
        for field in fields(self):
            share = getattr(self, field.name)
            # `not <` refuses NaN too.
            if not 0 < share <= 1:
                raise UserError(
                    f"gpu.efficiency.{field.name}={share}: expected a share of the peak, above 0 "
                    f"and at most 1"
                )


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One GPU and its node.

    Bandwidths count one direction, and 1 GB is 10^9 bytes.
    """

    name: str
    """As the plan prints it."""

    is_gpu: bool
    """Whether it is a GPU; else the CPU cores of a process."""

    memory_gb: float
    """GB of the GPU's memory, by the data sheet. Drivers report up to 7 % more: the gibibytes that
    a data sheet calls GB."""

    bf16_tflops: float
    """Dense peak in TFLOP/s, bf16 on tensor cores with float32 sums."""

    fp32_tflops: float
    """Peak in TFLOP/s, float32 without TF32, which `precision=fp32` computes with."""

    memory_gbs: float
    """GB/s between the GPU and its memory."""

    node_link_gbs: float
    """GB/s of one GPU to the others of its node, in one direction."""

    network_gbs: float
    """GB/s of one GPU to other nodes, in one direction: its share of the node's network cards."""

    gpus_per_node: int
    """GPUs of a usual node."""

    cpu_cores: int
    """Physical CPU cores of a node."""

    launch_us: float
    """Microseconds in which the CPU launches one operator."""

    efficiency: Efficiency
    """The shares of these rates that a step gets."""

    def __post_init__(self) -> None:
        """Checks the figures.

        Raises:
            UserError: One is not above 0, or no machine could have it.
        """
        if not isinstance(self.efficiency, Efficiency):
            raise UserError("gpu.efficiency: expected the shares that conf/plan.yaml has")
        for field in fields(self):
            figure = getattr(self, field.name)
            # To Python a bool is an integer; the name is a text, and the shares check themselves.
            if isinstance(figure, bool) or not isinstance(figure, int | float):
                continue
            # `not >` refuses NaN too.
            if not figure > 0 and not (figure == 0 and field.name in _MAY_BE_ZERO):
                raise UserError(f"gpu.{field.name}={figure}: expected more than 0")
            if figure > _MOST:
                raise UserError(f"gpu.{field.name}={figure}: expected at most {_MOST:,.0f}")

    @property
    def memory(self) -> int:
        """Bytes of the GPU's memory."""
        return int(self.memory_gb * GB)

    @property
    def bandwidth(self) -> float:
        """Bytes a second between the GPU and its memory."""
        return self.memory_gbs * GB

    def peak_flops(self, *, bf16: bool) -> float:
        """The dense peak in FLOP/s.

        Args:
            bf16: True for bf16 on tensor cores, False for float32.
        """
        return (self.bf16_tflops if bf16 else self.fp32_tflops) * 1e12

    def link(self, *, nodes: int) -> float:
        """The bandwidth of the slowest link that a collective of all GPUs crosses.

        Args:
            nodes: How many nodes take part.

        Returns:
            Bytes a second of one GPU in one direction, without the efficiency.
        """
        return (self.node_link_gbs if nodes == 1 else self.network_gbs) * GB
