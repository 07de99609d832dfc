"""Image towers: the paper's EfficientNets, and any other timm model by name.

EfficientNet as in ALIGN (paper, section 5): global average pooling and *no* 1 × 1 head convolution,
so that B7 is 640 wide and L2 1376; a linear layer only if the paper has one (B1, B3, B5 in its
ablations). Modules are timm's, with the semantics of training: BatchNorm momentum 0.01, and drop
path of whole samples. Hugging Face's `AlignVisionModel` carries TensorFlow's 0.99 and would train
wrongly. Shapes and padding follow Hugging Face, so weights go across one to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import pad

from align_train.errors import UserError, one_line
from align_train.model.base import ImageTower
from align_train.model.expected_images import ExpectedImages
from align_train.model.settings import Settings
from align_train.model.timm_images import images_of_timm
from align_train.model.weights import fill, read

# Of timm's EfficientNets: they have no counterpart in ALIGN.
_HEADS = ("conv_head.", "bn2.", "classifier.")


class EfficientNetTower(ImageTower):
    """An EfficientNet with global average pooling and no head convolution.

    The defaults of all stages are EfficientNet-B0's.

    Args:
        width: The family's coefficient of channels (B7: 2.0, L2: 4.3).
        depth: The family's coefficient of repeats (B7: 3.1, L2: 5.3).
        stem: Channels of the stem, before scaling.
        channels: Of each stage, before scaling. Stages are those that Hugging Face's
            `AlignVisionConfig` can express.
        kernels: Of each stage, pixels a side.
        strides: Of each stage's first block.
        repeats: Blocks of each stage, before scaling.
        expansions: Of each stage's blocks.
        projection: Width of a linear layer on top; None: none.
        drop_path: Share of samples whose last block is dropped; linearly less towards the
            input.
        momentum: BatchNorm's, in PyTorch's sense.
        activation: `silu`; or, for a small tower on a CPU, the faster `relu`.
        pretrained: An EfficientNet of this shape whose weights are taken: timm's name of it
            (`tf_efficientnet_b7.ns_jft_in1k`), or a file in timm's names. Its head is left
            behind, a projection stays fresh. None: random weights.

    Raises:
        ValueError: The stages are not described by equally many numbers.
        UserError: The weights cannot be read, or have other shapes.
    """

    @classmethod
    def expected_images(cls, settings: Settings) -> ExpectedImages | None:
        """See `ImageTower.expected_images`. A file has no name of timm's: only its folder says."""
        pretrained = settings.get("pretrained")
        return images_of_timm(str(pretrained)) if pretrained else None

    def __init__(
        self,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        stem: int = 32,
        channels: Sequence[int] = (16, 24, 40, 80, 112, 192, 320),
        kernels: Sequence[int] = (3, 3, 5, 3, 5, 5, 3),
        strides: Sequence[int] = (1, 2, 2, 2, 1, 2, 1),
        repeats: Sequence[int] = (1, 2, 2, 3, 3, 4, 1),
        expansions: Sequence[int] = (1, 6, 6, 6, 6, 6, 6),
        projection: int | None = None,
        drop_path: float = 0.2,
        momentum: float = 0.01,
        activation: Literal["silu", "relu"] = "silu",
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if len({len(channels), len(kernels), len(strides), len(repeats), len(expansions)}) != 1:
            raise ValueError(
                "channels, kernels, strides, repeats and expansions need one number per stage"
            )

        stages = []
        for channel, kernel, stride, repeat, expansion in zip(
            channels, kernels, strides, repeats, expansions, strict=True
        ):
            kind = "ds" if expansion == 1 else "ir"  # depthwise separable, inverted residual
            stages.append([f"{kind}_r{repeat}_k{kernel}_s{stride}_e{expansion}_c{channel}_se0.25"])

        blocks = decode_arch_def(stages, depth_multiplier=depth)  # type: ignore[no-untyped-call]
        self.network = EfficientNet(
            block_args=blocks,
            num_classes=0,
            num_features=0,  # no head convolution
            stem_size=stem,
            round_chs_fn=partial(round_channels, multiplier=width),
            act_layer={"silu": nn.SiLU, "relu": nn.ReLU}[activation],
            norm_layer=partial(BatchNormAct2d, eps=1e-3, momentum=momentum),
            drop_path_rate=drop_path,
        )
        _fix_padding(self.network)
        for stage in _stages(self.network):
            # As Hugging Face; timm would add a skip if widths happen to agree.
            stage[0].has_skip = False

        features = int(self.network.num_features)
        self.projection = nn.Linear(features, projection) if projection else nn.Identity()
        self.dim = projection or features

        if pretrained is not None:
            tensors = _timm_weights(pretrained)
            heads = [name for name in tensors if name.startswith(_HEADS)]
            fill(self.network, tensors, source=f"image_tower.pretrained={pretrained}", ignore=heads)

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks of all stages."""
        blocks: list[nn.Module] = []
        for stage in _stages(self.network):
            blocks.extend(stage)
        return blocks

    def forward(self, images: Tensor) -> Tensor:
        """See `ImageTower.forward`."""
        projected: Tensor = self.projection(self.network(images))
        return projected


class TimmTower(ImageTower):
    """Any timm model by name, pooled as that model does it."""

    @classmethod
    def expected_images(cls, settings: Settings) -> ExpectedImages | None:
        """See `ImageTower.expected_images`. With random weights only the size means something."""
        pretrained = settings.get("pretrained")
        images = images_of_timm(pretrained) if isinstance(pretrained, str) else None
        return images or images_of_timm(str(settings.get("name")))

    def __init__(
        self,
        *,
        name: str,
        projection: int | None = None,
        pretrained: bool | str = False,
        options: Settings | None = None,
    ) -> None:
        """Builds the tower.

        Args:
            name: Timm's name of the model.
            projection: Width of a linear layer on top; None: none.
            pretrained: True: timm's own weights, from the hub or its cache. A text: those of a file
                in timm's names. False: random weights.
            options: Passed on to `timm.create_model`; None: none.

        Raises:
            UserError: The weights cannot be read, or have other shapes.
        """
        super().__init__()
        self.network = _timm_model(name, pretrained=pretrained is True, **(options or {}))
        if isinstance(pretrained, str):
            tensors = _timm_weights(pretrained)
            left_behind = [name for name in tensors if name not in self.network.state_dict()]
            fill(
                self.network,
                tensors,
                source=f"image_tower.pretrained={pretrained}",
                ignore=left_behind,
            )

        network: Any = self.network
        # Some models have a hidden layer in what timm calls their head.
        features = int(getattr(network, "head_hidden_size", None) or network.num_features)
        self.projection = nn.Linear(features, projection) if projection else nn.Identity()
        self.dim = projection or features

    @property
    def blocks(self) -> list[nn.Module]:
        """Timm's `blocks` or `stages`, a list of blocks or of stages; empty if it has neither."""
        parts = getattr(self.network, "blocks", None) or getattr(self.network, "stages", None)
        blocks: list[nn.Module] = []
        for part in parts or []:
            if isinstance(part, nn.Sequential):
                blocks.extend(part)
            else:
                blocks.append(part)
        return blocks

    def forward(self, images: Tensor) -> Tensor:
        """See `ImageTower.forward`."""
        projected: Tensor = self.projection(self.network(images))
        return projected


def _stages(network: EfficientNet) -> Any:
    """Timm's stages, each a sequence of blocks; its types know only a module."""
    return network.blocks


class FixedPadConv2d(nn.Conv2d):
    """A strided convolution padded by (k//2 - 1) before and k//2 after, whatever the resolution.

    Hugging Face's ALIGN always pads so. TensorFlow's "SAME" (timm's `tf_*`) depends on the
    resolution: it is equal at 224 and 288, but gives 10 × 10 instead of 9 × 9 at 289.
    """

    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Conv2d`."""
        height, width = self.kernel_size[0] // 2, self.kernel_size[1] // 2
        return super().forward(pad(input, (width - 1, width, height - 1, height)))


def _fix_padding(module: nn.Module) -> None:
    for name, child in module.named_children():
        if not isinstance(child, nn.Conv2d):
            _fix_padding(child)
        elif child.stride[0] == 2:
            # At stride 1, timm's own padding is the same whatever the resolution.
            fixed = FixedPadConv2d(
                child.in_channels,
                child.out_channels,
                child.kernel_size,  # type: ignore[arg-type]
                stride=child.stride,  # type: ignore[arg-type]
                groups=child.groups,
                bias=child.bias is not None,
                device="meta",  # it takes the parameters of the old one
            )

            # Moved, not made again: the random numbers are those that timm has drawn.
            fixed.weight = child.weight
            fixed.bias = child.bias
            setattr(module, name, fixed)


def _timm_weights(pretrained: str) -> dict[str, Tensor]:
    """Of a file or folder in timm's names, or else of timm's model of that name."""
    path = Path(pretrained).expanduser()
    if path.exists():
        return read(path)

    if not timm.is_model(pretrained):
        raise UserError(
            f"image_tower.pretrained={pretrained}: neither a file here nor a model of timm's"
        )
    state: dict[str, Tensor] = _timm_model(pretrained, pretrained=True).state_dict()
    return state


def _timm_model(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except Exception as error:  # offline, no such weights, a torn cache: each its own type
        if not pretrained:
            raise
        reason = one_line(error, 120)
        raise UserError(
            f"image_tower: timm's weights of {name} cannot be had "
            f"({type(error).__name__}: {reason}); "
            f"without the hub, give a file: image_tower.pretrained=FILE"
        ) from None
    return model
