#!/usr/bin/env bash
# Runs `python -m benchmarks.gpu` of this checkout on a machine that lacks some packages; installs nothing:
#   benchmarks/gpu/from_kit.sh KIT [--minutes 8 ...]
# KIT holds the wheels that `python -m benchmarks.gpu.kit KIT` has collected elsewhere. PYTHON is the machine's
# interpreter (python3); MODULE another module to run, such as align_train.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
if [ $# -eq 0 ] || ! compgen -G "$1/*.whl" >/dev/null; then
    echo "${1:-KIT}: no wheels there; collect them by \`python -m benchmarks.gpu.kit ${1:-KIT}\`" >&2
    exit 2
fi
kit=$(cd "$1" && pwd)
shift

# Compiled modules cannot be imported from within a wheel.
if [ ! -e "$kit/site/.done" ]; then
    for wheel in "$kit"/*.whl; do
        "$python" -m zipfile -e "$wheel" "$kit/site"
    done
    touch "$kit/site/.done"
fi
export PYTHONPATH="$kit/site:$checkout${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m "${MODULE:-benchmarks.gpu}" "$@"
