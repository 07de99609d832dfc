#!/usr/bin/env bash
# Installs the project in a container, as root. Dockerfile and align_train.def call it; it wants a checkout
# in /opt/align_train. `dependencies` takes minutes and needs pyproject.toml alone, `project` takes seconds.
#   EXTRAS       of pyproject.toml, e.g. deepspeed,search,serve
#   TORCH_INDEX  where the wheels of torch come from; empty: PyPI, whose wheels bring CUDA
set -euo pipefail
part=${1:?dependencies or project}
source=/opt/align_train
environment=/opt/venv
# uv has certificates of its own; a company's are among the system's alone.
export SSL_CERT_FILE=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

dependencies() {
    # Compilers are for torch.compile and DeepSpeed.
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends ca-certificates g++ libc6-dev > /dev/null
    if ! python3 -c 'import ensurepip' 2> /dev/null; then
        apt-get install -y -qq --no-install-recommends python3 python3-dev python3-venv > /dev/null
    fi
    rm -rf /var/lib/apt/lists/*

    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --no-cache-dir uv
    if [ -n "${TORCH_INDEX:-}" ]; then
        install torch torchvision --default-index "$TORCH_INDEX"
    fi
    read -ra extras <<< "${EXTRAS:+--extra ${EXTRAS//,/ --extra }}"
    install -r "$source/pyproject.toml" "${extras[@]}"
}

project() {
    install --no-deps --editable "$source"
}

install() {
    "$environment/bin/uv" pip install --quiet --no-cache --python "$environment/bin/python" "$@"
}

"$part"
