#!/usr/bin/env bash
# Downloads the images of a table of URLs as WebDataset shards, then writes their manifest. img2dataset
# runs in its own environment, because it wants old libraries. The same command goes on where it
# stopped; `retry` tries failed URLs once more.
#   TABLE=filtered/kept SHARDS=shards/coyo700m launch/download_coyo.sh [retry] [-- more arguments of img2dataset]
set -euo pipefail
: "${TABLE:?a folder of parquet files, or one: TABLE=filtered/kept SHARDS=shards/coyo700m launch/download_coyo.sh}"
: "${SHARDS:?the folder of the shards}"
repository=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=launch/environment.sh
source "$repository/launch/environment.sh"

retry=
if [ "${1:-}" = retry ]; then retry=1; shift; fi
if [ "${1:-}" = -- ]; then shift; fi

# The environment of img2dataset, made once.
version=1.47.0
home=${IMG2DATASET_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/align_train/img2dataset-$version}
if [ ! -e "$home/.done" ]; then
    echo "installing img2dataset $version into $home"
    "$PYTHON" -m venv --clear "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check uv
    "$home/bin/uv" pip install --quiet --python "$home/bin/python" "img2dataset==$version"
    touch "$home/.done"
fi
distributor=${DISTRIBUTOR:-multiprocessing}
if [ "$distributor" = pyspark ] && ! "$home/bin/python" -c 'import pyspark' 2>/dev/null; then
    "$home/bin/uv" pip install --quiet --python "$home/bin/python" 'pyspark>=4.0.5,<4.1'
fi

# The table to download: the whole one, or the URLs that failed.
pairs_per_shard=${PAIRS_PER_SHARD:-10000}
mode=incremental # shards with statistics are not downloaded again
if [ -n "$retry" ]; then
    failed=$(dirname "${SHARDS%/}")/.$(basename "$SHARDS").failed.parquet
    "$PYTHON" -m align_train.data.failed shards="$SHARDS" source="$TABLE" to="$failed" pairs_per_shard="$pairs_per_shard"
    TABLE=$failed
    mode=extend # further shards, with the numbers that follow
fi
# The columns of URLs and captions, and all others: filters on shards need them.
described=$("$home/bin/python" - "$TABLE" <<'END'
import json, pathlib, sys
from pyarrow import parquet
place = pathlib.Path(sys.argv[1])
files = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
if not files or not files[0].is_file():
    sys.exit(f"TABLE={place}: no parquet there")
rows = sum(parquet.read_metadata(file).num_rows for file in files)
if not rows:
    sys.exit(0)
names = parquet.read_schema(files[0]).names
url = next((name for name in ("url", "URL") if name in names), None)
caption = next((name for name in ("text", "caption", "TEXT") if name in names), None)
if not url or not caption:
    sys.exit(f"TABLE={place}: expected the columns url and text (or caption), found {', '.join(names)}")
own = ("key", "status", "error_message", "width", "height", "original_width", "original_height", "exif", "sha256", "md5")
others = [name for name in names if name not in (url, caption, *own)]
print(url, caption, json.dumps(others, separators=(",", ":")))
END
)
if [ -z "$described" ]; then
    echo "$TABLE: no URLs to download"
    exit 0
fi
read -r url caption columns <<< "$described"

mkdir -p "$SHARDS"
# A process that was killed while it wrote statistics left an empty file.
find "$SHARDS" -maxdepth 1 -name '*_stats.json' -size 0 -delete
"$home/bin/img2dataset" --url_list "$TABLE" --input_format parquet --url_col "$url" --caption_col "$caption" \
    --output_format webdataset --output_folder "$SHARDS" --number_sample_per_shard "$pairs_per_shard" \
    --image_size "${IMAGE_SIZE:-384}" --resize_only_if_bigger=True --resize_mode keep_ratio --skip_reencode=True \
    --processes_count "${PROCESSES:-$(nproc)}" --thread_count "${THREADS:-64}" --timeout "${TIMEOUT:-10}" \
    --distributor "$distributor" --incremental_mode "$mode" --save_additional_columns "$columns" \
    --enable_wandb "${WANDB:-False}" "$@"
"$PYTHON" -m align_train.data.manifest shards="$SHARDS"
