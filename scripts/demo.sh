#!/usr/bin/env bash
# Upscale a picture of this repository four times with the model that it ships.
# Prints the paths of the result and of a sheet: nearest, bicubic, ours, original.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" cpu
python scripts/demo.py
