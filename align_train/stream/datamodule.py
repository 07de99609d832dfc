"""From `data.*` settings to the loader of one rank.

Only this module knows both the order and the cluster: the rank, and the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning

from align_train.cluster.collectives import rank, world_size
from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.found_caption import found_caption
from align_train.shards.members import Members
from align_train.shards.resolve import resolve
from align_train.stream.ahead import FetchAhead
from align_train.stream.augment import Augmentation
from align_train.stream.decode import Interpolation, Resize, Views
from align_train.stream.loader import TrainingLoader
from align_train.stream.order import Order
from align_train.stream.pairs import Pairs
from align_train.stream.pieces import TrainingPieces
from align_train.stream.sets import EvaluationSets
from align_train.stream.shard_cache import shard_cache_of
from align_train.stream.space import check_space
from align_train.stream.stretch import Stretch
from align_train.stream.teaching import TeacherInput
from align_train.stream.vocabulary import open_vocabulary, source_of


@dataclass(kw_only=True, eq=False, repr=False)
class PairsDataModule(lightning.LightningDataModule):
    """Training pairs in the order of `order.py`, and sets for evaluation.

    The fields are the settings of `data`. The shards and the vocabulary are opened at once.

    Attributes:
        shards: A manifest, folder, glob, brace range or a list of these; paths or URLs.
        image_size: Side, in pixels, of the square that the tower takes.
        resize_size: See `Views`; so are `flip`, `least_scale`, `resize` and `interpolation`.
        batch_size: Pairs of the global batch.
        seed: Decides the order, and all that is random about a pair.
        tokenizer: A folder with tokenizer.json, or a name on the hub.
        max_tokens: Longer texts are cut.
        classes: Of a classifier, instead of a tokenizer; see `ClassList`.
        weights: Mixes the items of `shards` by these whole numbers; None: they are one source.
        held_out: As `shards`, for evaluation; None: none.
        caption: `txt`, or `json:FIELD`: the member or field with a pair's texts, or its label; or a
            list of these, see `CaptionSource`. None: found out when the shards are opened.
        held_out_caption: The same for the held-out shards; None: as `caption`.
        first_caption: Share of visits that get the first of several texts; None: all alike.
        content_ids: Also hand on which images and texts are the same.
        lanes: Equal streams of the order; see `Order`.
        window: Pairs of a lane that are shuffled among each other.
        workers: Loader processes of each rank.
        flip: Mirror half of the images.
        least_scale: Below 1, crop a random area of at least this share.
        augmentation: More than crop and mirror; None: no more.
        staging: The shard cache; None: the default one.
        storage_options: Options for fsspec.
        missing_shards: Whether a vanished shard stops the run, or is dropped.
        max_bad_share: Share of pairs that may be replaced before the run stops.
        make: Makes the shards; called before they are opened. The demo draws its own so.
        revisions: Commits of data sets on the hub that the run has used before; None: none.
        caption_weights: How often each item of the list `caption` is drawn; None: all alike.
        image: The image's member; see `Members`.
        keys: The dot at which keys end; see `Members`.
        accept: Settings of `recipe.ACCEPTABLE` that may differ from the checkpoint's.
        progress: Show a bar while shards are counted.
    """

    shards: str | Sequence[str]
    image_size: int
    resize_size: int
    batch_size: int
    seed: int
    tokenizer: str | None
    max_tokens: int | None
    classes: int | str | None
    weights: Sequence[int] | None
    held_out: str | Sequence[str] | None
    caption: str | Sequence[str] | None
    held_out_caption: str | Sequence[str] | None
    first_caption: float | None
    content_ids: bool
    lanes: int
    window: int
    workers: int
    flip: bool
    least_scale: float
    augmentation: Augmentation | None
    staging: ShardCache | None
    storage_options: Mapping[str, object] | None
    missing_shards: Literal["stop", "drop"]
    max_bad_share: float
    make: Callable[[], object] | None
    resize: Resize | None = None
    interpolation: Interpolation | None = None
    revisions: Mapping[str, str] | None = None
    # Runs of before these settings existed recorded none of them.
    caption_weights: Sequence[float] | None = None
    image: str | None = None
    keys: str | None = None
    accept: Collection[str] = ()
    progress: bool = True
    # Set by the run, which alone knows its teacher; no setting.
    teacher: TeacherInput | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__init__()
        self._check()
        if self.make is not None:
            self.make()

        self.cache = shard_cache_of(self.staging, self.storage_options, self.revisions)
        self.members = Members.parse(self.image, self.keys)
        found_out = self.caption is None
        source = self._open_captions()
        self.manifest = resolve(
            self.shards,
            caption=source,
            members=self.members,
            cache=self.cache,
            mixed=self.weights is not None,
            progress=self.progress,
            by_rates=True,
        )
        # After the shards: the hub may be asked for the tokenizer, and errors at hand come first.
        self.vocabulary = open_vocabulary(
            tokenizer=self.tokenizer, max_tokens=self.max_tokens, classes=self.classes
        )

        self.source = source_of(source, self.vocabulary)

        self.views = Views(
            image_size=self.image_size,
            resize_size=self.resize_size,
            flip=self.flip,
            least_scale=self.least_scale,
            resize=self.resize,
            interpolation=self.interpolation,
        )
        order = Order(
            counts=self.manifest.counts,
            seed=self.seed,
            lanes=self.lanes,
            window=self.window,
            sources=self.manifest.sources,
            weights=self.weights or [1],
        )
        self.stretch = Stretch(order=order, manifest=self.manifest, batch_size=self.batch_size)
        self.sets = EvaluationSets(
            held_out=self.held_out,
            # What was found out need not hold for other shards.
            caption=self.held_out_caption or (None if found_out else self.caption),
            vocabulary=self.vocabulary,
            views=self.views,
            cache=self.cache,
            members=self.members,
            progress=self.progress,
        )

        if found_out and self.sets.caption is not None:
            self.held_out_caption = self.sets.caption.setting

        self.loader: TrainingLoader | None = None

    def _open_captions(self) -> CaptionSource:
        """Reads the setting `caption`, or finds it out, and then keeps it. Collective."""
        if self.caption is None:
            self.caption = found_caption(
                self.shards,
                members=self.members,
                cache=self.cache,
                labels=self.classes is not None,
            )
        return CaptionSource.parse(self.caption, self.caption_weights)

    def _check(self) -> None:
        shares = {"first_caption": self.first_caption, "max_bad_share": self.max_bad_share}
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"data.{name}={share}: expected a share between 0 and 1")

        if self.weights is None:
            return
        if isinstance(self.shards, str) or len(self.weights) != len(self.shards):
            raise UserError(
                f"data.weights={list(self.weights)}: expected one for each item of data.shards, a "
                f"list"
            )

    @property
    def recipe(self) -> dict[str, object]:
        """The settings that decide which pairs a step sees: a line of the lineage."""
        commits = self.cache.hub.commits
        return {**({"revisions": dict(commits)} if commits else {}), **self.stretch.recipe}

    def pairs_seen(self, finished_steps: int) -> int:
        """Returns the pairs that the run has trained on after so many steps."""
        return self.stretch.after(finished_steps).pairs_seen

    def state_dict(self) -> dict[str, object]:
        """Returns the cursor (pairs consumed by all ranks) and the recipe that it counts in."""
        # Lightning saves after a step that it has counted.
        assert self.trainer is not None
        return {**self.recipe, **self.stretch.after(self.trainer.global_step).as_line()}

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Goes on at a checkpoint's cursor; see `go_on`."""
        self.go_on(state_dict)

    def go_on(self, before: Mapping[str, Any]) -> None:
        """Goes on where another stretch of the run ended: see `Stretch.go_on`."""
        self.stretch.go_on(before, accept=self.accept)

    def drop(self, shards: Collection[int], *, finished_steps: int) -> list[str]:
        """Does without vanished shards from the next step on: see `Stretch.drop`."""
        assert self.loader is not None
        names = self.stretch.drop(shards, finished_steps=finished_steps)
        self.loader.drop(self.stretch.order)
        return names

    def training_pieces(self) -> TrainingPieces:
        """Returns the pairs of any step: all that `show` needs."""
        pairs = Pairs(
            manifest=self.manifest,
            caption=self.source,
            views=self.views,
            members=self.members,
            augmentation=self.augmentation,
            first_caption=self.first_caption,
            content_ids=self.content_ids,
            cache=self.cache,
        )
        return TrainingPieces(
            pairs=pairs,
            order=self.stretch.order,
            vocabulary=self.vocabulary,
            teacher=self.teacher,
            batch_size=self.batch_size,
            start=self.stretch.start,
            drop_missing=self.missing_shards == "drop",
        )

    def train_dataloader(self) -> TrainingLoader:
        """Returns this rank's batches. Ranks take contiguous parts, in the order of the ranks."""
        assert self.trainer is not None
        # `config/split.py` has made sure that the division comes out even.
        pairs = self.batch_size // world_size()
        self.loader = TrainingLoader(
            pieces=self.training_pieces(),
            slots=range(rank() * pairs, (rank() + 1) * pairs),
            workers=self.workers,
            # Page-locked memory helps copies to a GPU only, and is dear elsewhere.
            page_lock=self.trainer.strategy.root_device.type == "cuda",
            steps=self.trainer.max_steps,
            max_tokens=self.max_tokens or 1,
            ahead=self._fetch_ahead() if self.uses_cache else None,
        )
        return self.loader

    def teardown(self, stage: str) -> None:
        """Ends the loader's processes."""
        if self.loader is not None:
            self.loader.close()

    @property
    def uses_cache(self) -> bool:
        """Whether any shard is fetched, rather than read where it lies."""
        return any(self.cache.wants(shard.url) for shard in self.manifest.shards)

    def check_space(self, nodes: int, *, begun: bool = False) -> str:
        """Checks that the shard cache, if used, can hold what a node needs: see `space.py`."""
        if not self.uses_cache:
            return ""
        self.cache.check_offline([shard.url for shard in self.manifest.shards])
        return check_space(self.cache, self.stretch.order, self.manifest, nodes, begun=begun)

    def _fetch_ahead(self) -> FetchAhead:
        first = rank() * self.lanes // world_size()
        last = (rank() + 1) * self.lanes // world_size()
        return FetchAhead(
            cache=self.cache,
            manifest=self.manifest,
            order=self.stretch.order,
            lanes=range(first, last),
            cursor=self.stretch.start.cursor,
        )
