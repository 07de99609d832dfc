#!/usr/bin/env bash
# Debian's Chromium, and a font for its pages, for the tests of pages: as root.
set -euo pipefail
if command -v chromium > /dev/null || command -v chromium-browser > /dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "missing: chromium; as root on Debian: $0" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium fonts-noto-core > /dev/null
