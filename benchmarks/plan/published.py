"""Published runs, with what was reported of them, as overrides of the planner.

A plan of each stands beside what was reported in the benchmark's table. A run that did not report
its time has a plan alone. What a paper does not say, such as the chunks of a TPU's program, is
ours, and stands under `assumed`.
"""

from __future__ import annotations

from dataclasses import dataclass

DAY = 86_400.0  # seconds
_HOUR = 3_600.0

# OpenAI's text tower as `CLIPTextConfig` spells it; the widths follow.
_CLIP_TEXT = (
    "model_type:clip_text_model,num_hidden_layers:12,max_position_embeddings:77,"
    "bos_token_id:49406,eos_token_id:49407,pad_token_id:49407,hidden_act:quick_gelu"
)


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """One run.

    Attributes:
        name: As the table prints it.
        words: The overrides of `align-train plan`: the model, the recipe and the hardware.
        gpus: Processes, as the overrides have them.
        pairs: Pairs that the run saw.
        seconds: How long it took; None: not reported.
        parameters: Of both towers, in millions, as reported.
        source: Who says so, and where.
        assumed: What the source does not say.
    """

    name: str
    words: tuple[str, ...]
    gpus: int
    pairs: float
    seconds: float | None
    parameters: float
    source: str
    assumed: str

    @property
    def pairs_per_second(self) -> float | None:
        """Pairs a second of one GPU; None: the run did not report its time."""
        return None if self.seconds is None else self.pairs / self.seconds / self.gpus


def _open_clip(tower: str, *, width: int, heads: int, gpus: int, share: int) -> tuple[str, ...]:
    """The overrides of a run of open_clip's on JUWELS Booster.

    Args:
        tower: timm's name of the image tower.
        width: Of the text tower, and dimensions of the shared space.
        heads: Attention heads of the text tower.
        gpus: Four on each node.
        share: Pairs of the batch of each GPU.
    """
    text = f"hidden_size:{width},intermediate_size:{4 * width},num_attention_heads:{heads}"
    return (
        "model=by_name",
        f"model.image_tower.name={tower}",
        "model.image_tower.pretrained=false",
        f"model.image_tower.projection={width}",
        "model.image_size=224",
        "model.text_tower.name=null",
        "model.text_tower.pretrained=false",
        f"+model.text_tower.config={{{_CLIP_TEXT},{text}}}",
        "model.max_tokens=77",
        "vocabulary=49408",
        "data=webdataset",
        f"data.lanes={gpus}",
        f"batch_size={gpus * share}",
        f"chunk_size={share}",
        "norm_group=null",
        "recompute=false",
        "compile=false",
        "precision=bf16",
        "loss.label_smoothing=0",
        "gpu=a100_40gb",
        "gpus_per_node=4",
        f"nodes={gpus // 4}",
    )


_JUWELS = (
    "JUWELS Booster: four A100 of 40 GB and four links of 200 Gb/s a node (fz-juelich.de); "
    "fp16, whose peak is that of bf16; compile=false, as in 2022"
)
_LAION = 12.8e9  # pairs: 32 epochs of LAION-400M

PUBLISHED = (
    PublishedRun(
        name="COYO-ALIGN, B7 + BERT-base",
        words=(
            "data=coyo700m",
            "chunk_size=128",
            "recompute=false",
            "vocabulary=30522",
            "gpu=tpu_v3",
            "gpus_per_node=8",
            "nodes=64",
        ),
        gpus=512,
        pairs=300_000 * 65_536,
        seconds=8 * DAY,
        parameters=66 + 110,
        source=(
            "about 8 days on TPU v3-512 (huggingface.co/kakaobrain/coyo-align-b7-base; an earlier "
            "card said 10 days on v3-1024); 300,000 steps of 65,536 (github.com/kakaobrain/"
            "coyo-align, conf/coyo700m.flags), bf16, 64 tokens (main.py)"
        ),
        assumed="all 128 pairs of a core at once; 289 px, as in the paper",
    ),
    PublishedRun(
        name="ALIGN, L2 + BERT-large",
        words=(
            "experiment=align_paper",
            "chunk_size=16",
            "recompute=false",
            "vocabulary=100000",
            "gpu=tpu_v3",
            "gpus_per_node=8",
            "nodes=128",
        ),
        gpus=1024,
        pairs=1_200_000 * 16_384,
        seconds=None,
        parameters=800,
        source=(
            "1,024 Cloud TPU v3 cores with 16 pairs each, 1.2 M steps, 289 px, 64 tokens, 100k "
            "words (arXiv 2102.05918, sections 4.2 and 5); no time is given"
        ),
        assumed="bf16",
    ),
    PublishedRun(
        name="open_clip, ViT-B/32",
        words=_open_clip("vit_base_patch32_clip_224", width=512, heads=8, gpus=128, share=256),
        gpus=128,
        pairs=_LAION,
        seconds=4_600 / 128 * _HOUR,
        parameters=151.3,
        source="~36 h, 4,600 GPU-hours (github.com/mlfoundations/open_clip, docs/PRETRAINED.md)",
        assumed=_JUWELS,
    ),
    PublishedRun(
        name="open_clip, ViT-B/16",
        words=_open_clip("vit_base_patch16_clip_224", width=512, heads=8, gpus=176, share=192),
        gpus=176,
        pairs=_LAION,
        seconds=10_700 / 176 * _HOUR,
        parameters=149.6,
        source="~61 hours, 10,700 GPU-hours (docs/PRETRAINED.md)",
        assumed=_JUWELS,
    ),
    PublishedRun(
        name="open_clip, ViT-L/14",
        words=(
            *_open_clip("vit_large_patch14_clip_224", width=768, heads=12, gpus=400, share=96),
            "checkpoint_blocks=true",
        ),
        gpus=400,
        pairs=_LAION,
        seconds=50_800 / 400 * _HOUR,
        parameters=427.6,
        source="~127 hours, 50,800 GPU-hours, with checkpointing (docs/PRETRAINED.md)",
        assumed=_JUWELS,
    ),
)
"""In the order of the table."""
