# shellcheck shell=bash disable=SC2034,SC2154
# Shared by the scripts of this folder: the checkout, its Python, containers. They set `repository`
# before they source this file.
if [ -n "${SETUP:-}" ]; then
    set +eu # modules and Conda fail under -e and -u
    # shellcheck source=/dev/null
    source "$SETUP"
    set -eu
fi
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$repository/.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=python3
fi
# Rank 0 has two connections to every rank. Usual limits end at some 500 ranks.
ulimit -n "$(ulimit -Hn)" || true
export PYTHONUNBUFFERED=1 # otherwise a log lags behind the run
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun no longer takes it from the job by itself
fi
read -ra prefix <<< "${PREFIX:-}"
if [ -n "${SLURM_JOB_ID:-}" ]; then
    # A batch script runs on the job's first machine, and so does rank 0. Each start takes its own two
    # ports (this one and the next), because those of the previous start may not be free yet.
    export MASTER_ADDR=${MASTER_ADDR:-$(hostname)}
    export MASTER_PORT=${MASTER_PORT:-$((10000 + (SLURM_JOB_ID * 20 + ${SLURM_RESTART_COUNT:-0} * 2) % 20000))}
fi
# If a rank dies, srun must not act at once: the others notice, name that rank and end. Ranks that
# stay after that are frozen, and srun ends them after WAIT seconds.
# Neighbouring tasks share a socket, as neighbouring GPUs do; Slurm's default deals tasks out in turn.
read -ra srun_options <<< "--kill-on-bad-exit=0 --wait=${WAIT:-120} --distribution=block:block ${SRUN_OPTIONS:-}"
