"""One step of a run on one kind of hardware: its chunks, memory, messages and seconds.

`StepPlanner` has all that is the same for any number of ranks: what the towers, the optimizer and
the loss cost. It answers for each strategy and number of ranks at once, so that a table of many
takes no longer than one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from align_train.errors import UserError
from align_train.planning.aside import aside
from align_train.planning.counts import ChunkCounts, LossCounts, ModelCounts, OptimizerCounts
from align_train.planning.hardware import Hardware
from align_train.planning.memory import LIBRARIES_ON_CPU, Memory, plan_memory
from align_train.planning.messages import bytes_on_wire, sent_in_step
from align_train.planning.seconds import StepSeconds, step_seconds, work_of
from align_train.strategy.base import StrategyRecipe
from align_train.strategy.needs import ALL_GATHER, Needs, Sent, Sizes
from align_train.training.chunk_size import sizes

# GPUs work best on chunks of a few hundred pairs; more take memory and save no time.
MOST_IN_A_CHUNK = 1024

# Of a GPU's memory: CUDA's context, the libraries' workspaces, and gaps between tensors.
MARGIN = 0.08


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """What a step needs on each rank.

    Attributes:
        strategy: Its label.
        world: Ranks.
        chunk_size: Pairs of a chunk.
        chunks: Chunks of a rank.
        recompute: Whether chunks are computed again in the backward pass.
        needs: What the strategy holds on a rank, and sends.
        memory: Of one rank at its peak.
        fits: Whether it fits the hardware's memory.
        sent: Bytes that a rank sends.
        seconds: Of the step.
        batch_size: Pairs of the global batch.
    """

    strategy: str
    world: int
    chunk_size: int
    chunks: int
    recompute: bool
    needs: Needs
    memory: Memory
    fits: bool
    sent: float
    seconds: StepSeconds
    batch_size: int

    @property
    def pairs_per_second(self) -> float:
        """Pairs a second of all ranks together."""
        return self.batch_size / self.seconds.total

    @property
    def settings(self) -> str:
        """The chunk size and recomputation as settings of a run."""
        return f"chunk_size={self.chunk_size} recompute={str(self.recompute).lower()}"


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Counts of a run's step, which do not depend on hardware or ranks.

    Attributes:
        model: The model's tensors.
        chunk: Counts of a chunk, of any size, without recomputation.
        optimizer: Of whole parameters.
        loss: Gives the counts of the loss for so many pairs of a rank, and ranks.
    """

    model: ModelCounts
    chunk: ChunkCounts
    optimizer: OptimizerCounts
    loss: Callable[[int, int], LossCounts]


@dataclass(frozen=True, kw_only=True)
class StepPlanner:
    """Plans the steps of a run.

    Attributes:
        counted: What the run's parts cost.
        hardware: What a rank computes on.
        batch_size: Pairs of the global batch.
        norm_group: Pairs of a norm group; None: the model trains no BatchNorm.
        chunk_size: Pairs of a chunk; `auto`: the most that fit.
        recompute: Whether chunks are computed again in the backward pass; `auto`: if they must.
        checkpoint_blocks: Whether each block is computed again in the backward pass.
        bf16: Whether products are in bf16.
        compiled: Whether blocks are compiled.
        ema: Whether the run keeps an average of the weights.
    """

    counted: Counted
    hardware: Hardware
    batch_size: int
    norm_group: int | None
    chunk_size: int | Literal["auto"]
    recompute: bool | Literal["auto"]
    checkpoint_blocks: bool
    bf16: bool
    compiled: bool
    ema: bool

    def step(self, strategy: StrategyRecipe, *, world: int, nodes: int) -> StepPlan | None:
        """Plans the step under a strategy.

        If nothing fits, it is the plan of the smallest chunk.

        Args:
            strategy: The strategy.
            world: Ranks, which divide the batch.
            nodes: The machines that they are spread over.

        Returns:
            The plan; None if the strategy does not say what it needs.
        """
        pairs = self.batch_size // world
        plan: StepPlan | None = None
        for recompute, chunk_size in self._choices(pairs):
            plan = self._planned(
                strategy, pairs, chunk_size, world=world, nodes=nodes, recompute=recompute
            )
            if plan is None or plan.fits:
                break
        return plan

    def _choices(self, pairs: int) -> list[tuple[bool, int]]:
        """Recomputation and chunk size, in the order in which a run tries them."""
        possible = sizes(pairs, self.norm_group, MOST_IN_A_CHUNK)
        if self.chunk_size != "auto":
            possible = [self.chunk_size]
        largest_first = possible[::-1]

        if self.recompute == "auto":
            # Kept graphs take the same memory in chunks of any size.
            again = [(True, size) for size in largest_first]
            return [(False, largest_first[0]), *again]
        return [(self.recompute, size) for size in largest_first]

    def _planned(
        self,
        strategy: StrategyRecipe,
        pairs: int,
        chunk_size: int,
        *,
        world: int,
        nodes: int,
        recompute: bool,
    ) -> StepPlan | None:
        counted = self.counted
        chunk = counted.chunk.of(chunk_size)
        if recompute:
            chunk = chunk.recomputed(counted.model.dim)
        chunks = pairs // chunk_size
        loss = counted.loss(pairs, world)
        # A strategy may be a user's own: its failure becomes a line that names the setting.
        with aside("strategy"):
            needs = strategy.needs(self._sizes(chunks, recompute=recompute, world=world))
        if needs is None:
            return None
        if not isinstance(needs, Needs):
            raise UserError(f"strategy: its method needs gave {needs!r:.40}; expected a Needs")

        on_gpu = self.hardware.is_gpu
        memory = plan_memory(
            chunk=chunk,
            chunks=chunks,
            loss=loss,
            needs=needs,
            all_gradients=counted.model.gradients,
            statistics=counted.model.statistics,
            libraries=0 if on_gpu else LIBRARIES_ON_CPU,
        )
        sent = sent_in_step(needs, loss, counted.model.statistics)
        return StepPlan(
            strategy=strategy.label,
            world=world,
            chunk_size=chunk_size,
            chunks=chunks,
            recompute=recompute,
            needs=needs,
            memory=memory,
            fits=memory.peak <= self.hardware.memory * (1 - MARGIN),
            sent=bytes_on_wire(sent, world=world, on_gpu=on_gpu),
            seconds=self._seconds(chunk, chunks, loss, needs, world=world, nodes=nodes),
            batch_size=self.batch_size,
        )

    def _sizes(self, chunks: int, *, recompute: bool, world: int) -> Sizes:
        model = self.counted.model
        return Sizes(
            weights=model.weights,
            gradients=model.gradients,
            state=self.counted.optimizer.state,
            working=self.counted.optimizer.working,
            blocks=model.blocks,
            rest=model.rest,
            ema=self.ema,
            chunks=chunks,
            recompute=recompute or self.checkpoint_blocks,
            world=world,
            on_gpu=self.hardware.is_gpu,
        )

    def _seconds(
        self,
        chunk: ChunkCounts,
        chunks: int,
        loss: LossCounts,
        needs: Needs,
        *,
        world: int,
        nodes: int,
    ) -> StepSeconds:
        hardware, bf16 = self.hardware, self.bf16
        link = hardware.link(nodes=nodes) * hardware.efficiency.link

        def sending(sent: Sent) -> float:
            return bytes_on_wire(sent, world=world, on_gpu=hardware.is_gpu) / link

        # Apart, because other passes hide them, see `step_seconds`.
        gathers, gradients = Sent(), Sent()
        for (kind, size), times in needs.sent.items():
            (gathers if kind == ALL_GATHER else gradients)[kind, size] += times
        # A difference of counters: the messages of the loss and of the statistics are left.
        exposed = sent_in_step(needs, loss, self.counted.model.statistics) - needs.sent

        # A strategy that shards the optimizer's state has a share of its work.
        state = self.counted.optimizer.state
        # Without a state (SGD without momentum) nothing tells the share: the plan counts all of it.
        share = needs.optimizer / state if state else 1.0
        optimizer = work_of(self.counted.optimizer.operators, hardware, bf16=False)
        return step_seconds(
            forward=work_of(chunk.forward_operators, hardware, bf16=bf16, compiled=self.compiled),
            backward=work_of(chunk.backward_operators, hardware, bf16=bf16, compiled=self.compiled),
            chunks=chunks,
            loss=work_of(loss.operators, hardware, bf16=False),
            optimizer=optimizer.times(share),
            gradients=sending(gradients),
            gathers=sending(gathers),
            exposed=sending(exposed),
        )
