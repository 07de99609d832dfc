"""Mistakes of a first day with align_train: each a command, and a word that its error must have."""

from __future__ import annotations

from typing import NamedTuple


class Mistake(NamedTuple):
    """A command that ends in an error.

    Attributes:
        what: What is wrong, for the table.
        command: The module and its arguments, run in the folder that `made.py` has filled.
        word: A part of the error: the setting or the value that is wrong.
    """

    what: str
    command: str
    word: str


# Own shards with their tokenizer.
_OWN = "align_train data=webdataset data.shards=pairs/train data.tokenizer=pairs/tokenizer"
_EVALUATE = "align_train.evaluate model=outputs/done"
_EMBED = "align_train.embed model=outputs/done to=x"

MISTAKES = (
    Mistake("a misspelt setting", "align_train batchsize=32", "batchsize"),
    Mistake("a misspelt choice", "align_train model=tinny", "tinny"),
    Mistake("a misspelt setting of the model", "align_train model.image_tower.widht=2", "widht"),
    Mistake("a text for a number", "align_train optimizer.lr=fast", "optimizer.lr"),
    Mistake("a text for a size", "align_train model.image_size=abc", "model.resize_size"),
    Mistake("a misspelt option", "align_train --hlep", "--hlep"),
    Mistake("a setting with dashes", "align_train --batch_size 32", "batch_size=…"),
    Mistake("no batch", "align_train batch_size=0", "batch_size=0"),
    Mistake("no epochs", "align_train epochs=0", "epochs=0"),
    Mistake("a chunk larger than the batch", f"{_OWN} chunk_size=1024", "chunk_size=1024"),
    Mistake("two lengths", "align_train epochs=3 max_steps=100", "epochs=3"),
    Mistake("a batch that does not split", "align_train batch_size=100", "norm_group"),
    Mistake("a batch larger than the data", f"{_OWN} batch_size=1024", "batch_size=1024"),
    Mistake("no GPU here", f"{_OWN} trainer=gpu", "0 GPUs"),
    Mistake("no shards there", f"{_OWN} data.shards=nowhere", "data.shards=nowhere"),
    Mistake("an empty folder of shards", f"{_OWN} data.shards=empty", "data.shards=empty"),
    Mistake("an image for shards", f"{_OWN} data.shards=picture.jpg", "picture.jpg"),
    Mistake(
        "no tokenizer given", "align_train data=webdataset data.shards=pairs/train", "tokenizer"
    ),
    Mistake("a compressed tar", f"{_OWN} data.shards=shards.tar.gz", "gunzip"),
    Mistake("images for shards to train", f"{_OWN} data.shards=images", "data.shards=images"),
    Mistake("captions of no pair", f"{_OWN} data.caption=json:foo", "data.caption=json:foo"),
    Mistake("a table for a tokenizer", f"{_OWN} data.tokenizer=table.csv", "table.csv"),
    Mistake("a file for a folder", f"{_OWN} output_dir=picture.jpg", "output_dir"),
    Mistake("no tokenizer there", f"{_OWN} data.tokenizer=./no", "data.tokenizer=./no"),
    Mistake("resumed with another batch", f"{_OWN} name=done batch_size=64", "batch_size was"),
    Mistake("no run to evaluate", "align_train.evaluate model=outputs/no", "outputs/no"),
    Mistake("no evaluator of that name", "align_train.evaluate model=x eval=knm", "knm"),
    Mistake("no run to show", "align_train.show name=no step=1", "name=no"),
    Mistake("no such step", "align_train.show name=done step=99", "step=99"),
    Mistake("no run to export", "align_train.export model=outputs/no to=x", "outputs/no"),
    Mistake("no shards to embed", "align_train.embed model=outputs/done shards=no to=x", "no"),
    Mistake("an embedding of nothing", f"{_EMBED}", "images="),
    Mistake("an embedding of both", f"{_EMBED} shards=pairs/train images=images", "images="),
    Mistake("no images to embed", f"{_EMBED} images=/nowhere", "images=/nowhere"),
    Mistake("images for shards", f"{_EMBED} shards=images", "give images="),
    Mistake("no such precision", f"{_EMBED} images=images precision=int8", "precision=int8"),
    Mistake("no GPU to embed", f"{_EMBED} images=images device=cuda", "device=cuda"),
    Mistake("no GPU to evaluate", "align_train.evaluate model=outputs/done device=cuda", "cuda"),
    Mistake("an export that is there", "align_train.export model=outputs/done to=pairs", "pairs"),
    Mistake("a word for a model", "align_train.export model=nope to=x", "nope"),
    Mistake(
        "a file for a model", "align_train.embed model=picture.jpg images=images to=x", "a file"
    ),
    Mistake("no shards to evaluate", f"{_EVALUATE} shards=images", "shards=images"),
    Mistake("a device called gpu", f"{_EVALUATE} device=gpu", "device=gpu"),
    Mistake("no such format", "align_train.export model=outputs/done to=x format=onnx", "onnx"),
    Mistake("nothing to find", "align_train.search index=x text=dog top=0", "top=0"),
    Mistake("no image to search", "align_train.search index=x image=no.jpg", "image=no.jpg"),
    Mistake("no embeddings to search", "align_train.search index=no text=dog", "no"),
    Mistake("no source to pack", "data.pack source=no.csv to=x", "no.csv"),
    Mistake("no such column", "data.pack source=table.csv to=x text=titel", "titel"),
    Mistake("an image for a table", "data.pack source=picture.jpg to=x", "picture.jpg"),
    Mistake("no shards to count", "data.manifest shards=no", "no"),
)
