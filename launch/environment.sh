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
read -ra srun_options <<< "${SRUN_OPTIONS:-}"
