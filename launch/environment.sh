# shellcheck shell=bash disable=SC2034,SC2154
# What the scripts of this folder have in common: the checkout, its Python, containers. They set `repository` and read this.
if [ -n "${SETUP:-}" ]; then
    set +eu # modules and Conda are not written for that
    # shellcheck source=/dev/null
    source "$SETUP"
    set -eu
fi
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$repository/.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=python3
fi
export PYTHONUNBUFFERED=1 # a log shows what is done, not what was done an hour ago
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun no longer takes it from the job by itself
fi
read -ra prefix <<< "${PREFIX:-}"
if [ -n "${SLURM_JOB_ID:-}" ]; then
    # A batch script runs on the job's first machine, and so does rank 0. Each start has ports of its own (this one and the
    # next): the former start's may not be free yet.
    export MASTER_ADDR=${MASTER_ADDR:-$(hostname)}
    export MASTER_PORT=${MASTER_PORT:-$((10000 + (SLURM_JOB_ID * 20 + ${SLURM_RESTART_COUNT:-0} * 2) % 20000))}
fi
# srun is not to act at once where a rank dies: the others notice, say which one it was, and end. What then stays is frozen.
read -ra srun_options <<< "--kill-on-bad-exit=0 --wait=${WAIT:-120} ${SRUN_OPTIONS:-}"
