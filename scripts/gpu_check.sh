#!/usr/bin/env bash
# What this package does on an NVIDIA GPU, as a report that can be pasted into an issue: bash scripts/gpu_check.sh [DEVICE]
# DEVICE is gpu (default), gpu:1, or cpu, which tries the script itself. PYTHON is one with paddlepaddle-gpu; nothing is
# installed. Exit status 1: something failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "${PYTHON:-python}" scripts/gpu_check.py "$@"
