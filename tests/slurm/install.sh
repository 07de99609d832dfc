#!/usr/bin/env bash
# Debian's Slurm, for tests/slurm: as root. Nothing is configured or started.
set -euo pipefail
missing=
for program in slurmctld slurmd munged srun sbatch; do
    command -v "$program" > /dev/null || missing+=" $program"
done
if [ -z "$missing" ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "missing:$missing; as root on Debian or Ubuntu: $0" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
if [ ! -e /usr/sbin/policy-rc.d ]; then # services must not start by themselves
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
