#!/usr/bin/env bash
# Builds launch/Dockerfile on Debian without a Docker daemon or a registry, and trains in it: as root, with
# buildah and debootstrap. Takes 10 minutes and 20 GB in FOLDER.
#   tests/launch/build_image.sh FOLDER
set -euo pipefail
folder=$(realpath "${1:?a folder}")
cd "$(dirname "$0")/../.."
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
in_folder=(buildah --root "$folder/images" --runroot "$folder/run")

# In the place of python:3.12-slim, which lies in a registry.
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie "$folder/base" \
    > "$folder/debootstrap.log"
base=$("${in_folder[@]}" from scratch)
cp -a "$folder/base/." "$("${in_folder[@]}" mount "$base")/"
"${in_folder[@]}" commit --rm "$base" localhost/base

"${in_folder[@]}" bud --file launch/Dockerfile --tag align_train \
    --build-arg BASE=localhost/base --build-arg TORCH_INDEX= \
    --volume /etc/ssl/certs:/etc/ssl/certs:ro --volume /usr/share/ca-certificates:/usr/share/ca-certificates:ro .
image=$("${in_folder[@]}" from localhost/align_train)
"${in_folder[@]}" run "$image" -- align-train --version
"${in_folder[@]}" run --env PROCESSES=2 "$image" -- /opt/align_train/launch/torchrun.sh \
    trainer=multinode trainer.accelerator=cpu precision=fp32 name=first max_steps=4
