#!/bin/sh
# What `cargo xtask bench` measures in the browser, on a machine that may have neither Rust nor a network.
# Chromium is needed, and a driver of the same version.
#
#     ./bench.sh [software|hardware] [STEPS] [WORD] [ROUNDS]
set -eu
cd "$(dirname "$0")"

first() {
    for program in "$@"; do
        command -v "$program" && return
    done
}
: "${FASHION_DDPM_CHROMIUM:=$(first chromium chromium-browser google-chrome chrome)}"
: "${FASHION_DDPM_CHROMEDRIVER:=$(first chromedriver)}"
if [ -z "$FASHION_DDPM_CHROMIUM" ] || [ -z "$FASHION_DDPM_CHROMEDRIVER" ]; then
    echo "Chromium and chromedriver were expected on the PATH, or to be named in" >&2
    echo "FASHION_DDPM_CHROMIUM and FASHION_DDPM_CHROMEDRIVER." >&2
    exit 1
fi
export FASHION_DDPM_CHROMIUM FASHION_DDPM_CHROMEDRIVER
[ $# -gt 0 ] || set -- hardware 1000
exec ./bench page onnxruntime-web "$@"
