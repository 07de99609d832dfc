#!/usr/bin/env bash
# Starts one process per GPU on this machine, for clusters without Slurm. docs/cluster.md explains each
# variable.
set -euo pipefail
repository=${REPOSITORY:-$(cd "$(dirname "$0")/.." && pwd)}
if [ ! -e "$repository/launch/environment.sh" ]; then
    echo "$repository: no checkout of align_train; set REPOSITORY to one" >&2
    exit 2
fi
# shellcheck source=launch/environment.sh
source "$repository/launch/environment.sh"
if [ -z "${PROCESSES:-}" ]; then
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        IFS=, read -ra gpus <<< "$CUDA_VISIBLE_DEVICES"
        PROCESSES=${#gpus[@]}
    else
        # Slices of a GPU (MIG) have lines of their own; a process sees only one of them.
        PROCESSES=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true)
    fi
    [ "$PROCESSES" -gt 0 ] || PROCESSES=1
fi
read -ra torchrun_options <<< "${TORCHRUN_OPTIONS:-}"
exec "${prefix[@]}" "$PYTHON" -m torch.distributed.run \
    --nnodes "${NODES:-1}" --node-rank "${NODE:-0}" --nproc-per-node "$PROCESSES" \
    --master-addr "${MASTER:-127.0.0.1}" --master-port "${PORT:-29500}" \
    --signals-to-handle SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT "${torchrun_options[@]}" \
    -m align_train "$@"
