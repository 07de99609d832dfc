"""`python -m data.manifest` writes a manifest of existing shards."""

from __future__ import annotations

from pathlib import Path

from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from tests.support.commands import run
from tests.support.images import plain_image
from tests.support.shards import TXT


def test_the_command_counts_the_pairs_of_existing_shards(tmp_path: Path) -> None:
    for shard in range(3):
        pairs = [
            (f"{index}", {"jpg": plain_image((0, index, 0), "JPEG"), "txt": b"text"})
            for index in range(4 + shard)
        ]
        write_shard(tmp_path / "in" / f"{shard}.tar", pairs)
    done = run("shards=in", cwd=tmp_path, module="data.manifest")
    assert "15 pairs in 3 shards" in done.stdout
    (tmp_path / "moved").mkdir()
    done = run(
        "shards='in/{0..1}.tar'", "to=moved/part.jsonl", cwd=tmp_path, module="data.manifest"
    )
    assert "9 pairs in 2 shards" in done.stdout
    whole, listed = (
        resolve(str(tmp_path / "in"), caption=TXT),
        resolve([str(tmp_path / "in" / "*.tar")], caption=TXT),
    )
    assert whole.identity == listed.identity
    assert resolve(str(tmp_path / "moved" / "part.jsonl"), caption=TXT).identity != whole.identity
