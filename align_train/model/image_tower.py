"""Image towers: the paper's EfficientNets, and any other timm model by name.

EfficientNet as in ALIGN (paper, section 5): global average pooling, *no* 1 × 1 head convolution, so that B7 is 640 wide and
L2 1376; a linear layer only where the paper has one (B1, B3, B5 in its ablations). Modules are timm's, in training semantics
(BatchNorm momentum 0.01, whole-sample drop path); Hugging Face's `AlignVisionModel` carries TensorFlow's (0.99) and would
train wrongly. Shapes and padding follow Hugging Face, so weights go across one to one.
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

from align_train.errors import UserError
from align_train.model.base import ImageTower
from align_train.model.weights import fill, read


class _FixedPadConv2d(nn.Conv2d):
    """A strided convolution padded by (k//2 - 1) before and k//2 after, whatever the resolution.

    Hugging Face's ALIGN always pads so. TensorFlow's "SAME" (timm's `tf_*`) depends on the resolution: equal at 224 and 288,
    but 10 × 10 instead of 9 × 9 at 289.
    """

    def forward(self, input: Tensor) -> Tensor:
        height, width = self.kernel_size[0] // 2, self.kernel_size[1] // 2
        return super().forward(pad(input, (width - 1, width, height - 1, height)))


def _fix_padding(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and child.stride[0] == 2:
            fixed = _FixedPadConv2d(
                child.in_channels,
                child.out_channels,
                child.kernel_size,  # type: ignore[arg-type]
                stride=child.stride,  # type: ignore[arg-type]
                groups=child.groups,
                bias=child.bias is not None,
                device="meta",  # its parameters are the old ones, below
            )
            fixed.weight, fixed.bias = child.weight, child.bias
            setattr(module, name, fixed)
        else:
            _fix_padding(child)


_HEADS = ("conv_head.", "bn2.", "classifier.")  # of timm's EfficientNets: no counterpart in ALIGN


def _timm_model(name: str, *, pretrained: bool, **options: Any) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except Exception as error:
        if not pretrained:
            raise
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"image_tower: timm's weights of {name} cannot be had ({type(error).__name__}: {reason}); without the hub, give a "
            f"file: image_tower.pretrained=FILE"
        ) from None


def _timm_weights(pretrained: str) -> dict[str, Tensor]:
    """Of a file or folder in timm's names, or else of timm's model of that name."""
    if Path(pretrained).expanduser().exists():
        return read(Path(pretrained).expanduser())
    if not timm.is_model(pretrained):
        raise UserError(
            f"image_tower.pretrained={pretrained}: neither a file here nor a model of timm's"
        )
    state: dict[str, Tensor] = _timm_model(pretrained, pretrained=True).state_dict()
    return state


class EfficientNetTower(ImageTower):
    """An EfficientNet with global average pooling and no head convolution.

    width, depth: the family's two coefficients (B7: 2.0, 3.1; L2: 4.3, 5.3). channels, kernels, strides, repeats,
    expansions: one number per stage before scaling (EfficientNet-B0's are the default), as `AlignVisionConfig` can express
    them. stem: channels of the stem before scaling. projection: width of a linear layer on top, or none. drop_path: share
    of samples whose last block is dropped, linearly less towards the input. momentum: BatchNorm's. activation: SiLU, or for a
    small tower on a CPU the faster ReLU. pretrained: an EfficientNet of this shape whose weights are taken, by timm's name
    (`tf_efficientnet_b7.ns_jft_in1k`) or as a file in timm's names; its head is left behind, a projection stays fresh.
    """

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
        stages = [
            [
                f"{'ds' if expansion == 1 else 'ir'}_r{repeat}_k{kernel}_s{stride}_e{expansion}_c{channel}_se0.25"
            ]
            for channel, kernel, stride, repeat, expansion in zip(
                channels, kernels, strides, repeats, expansions, strict=True
            )
        ]
        self.network = EfficientNet(
            block_args=decode_arch_def(stages, depth_multiplier=depth),  # type: ignore[no-untyped-call]
            num_classes=0,
            num_features=0,  # no head convolution
            stem_size=stem,
            round_chs_fn=partial(round_channels, multiplier=width),
            act_layer={"silu": nn.SiLU, "relu": nn.ReLU}[activation],
            norm_layer=partial(BatchNormAct2d, eps=1e-3, momentum=momentum),
            drop_path_rate=drop_path,
        )
        _fix_padding(self.network)
        stages_built: Any = self.network.blocks
        for stage in stages_built:
            stage[
                0
            ].has_skip = False  # as Hugging Face; timm would add one where widths happen to agree
        features = int(self.network.num_features)
        self.projection = nn.Linear(features, projection) if projection else nn.Identity()
        self.dim = projection or features
        if pretrained is not None:
            tensors = _timm_weights(pretrained)
            heads = [name for name in tensors if name.startswith(_HEADS)]
            fill(self.network, tensors, source=f"image_tower.pretrained={pretrained}", ignore=heads)

    def forward(self, images: Tensor) -> Tensor:
        """images: float `[chunk, 3, height, width]` in [-1, 1]. Returns `[chunk, dim]`, not normalised."""
        projected: Tensor = self.projection(self.network(images))
        return projected

    @property
    def blocks(self) -> list[nn.Module]:
        network: Any = self.network
        return [block for stage in network.blocks for block in stage]


class TimmTower(ImageTower):
    """Any timm model by name, pooled as that model does it, with or without a linear layer.

    pretrained: true takes timm's own weights (from the hub or its cache), a text those of a file in timm's names. options:
    passed on to `timm.create_model`.
    """

    def __init__(
        self,
        *,
        name: str,
        projection: int | None = None,
        pretrained: bool | str = False,
        options: dict[str, Any] | None = None,
    ) -> None:
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
        features = int(getattr(network, "head_hidden_size", None) or network.num_features)
        self.projection = nn.Linear(features, projection) if projection else nn.Identity()
        self.dim = projection or features

    def forward(self, images: Tensor) -> Tensor:
        """images: float `[chunk, 3, height, width]` in [-1, 1]. Returns `[chunk, dim]`, not normalised."""
        projected: Tensor = self.projection(self.network(images))
        return projected

    @property
    def blocks(self) -> list[nn.Module]:
        """Where timm's model keeps its blocks (a list, or a list per stage); none where it has them elsewhere."""
        network: Any = self.network
        found = getattr(network, "blocks", None) or getattr(network, "stages", None) or []
        return [
            block
            for stage in found
            for block in (stage if isinstance(stage, nn.Sequential) else [stage])
        ]
