#!/usr/bin/env bash
# Debian's Slurm, for tests/slurm: as root. Nothing is configured or started.
set -euo pipefail
if command -v slurmctld slurmd munged srun > /dev/null; then exit 0; fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Services must not start by themselves.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
