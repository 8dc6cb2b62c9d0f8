#!/usr/bin/env bash
# Compile check_part.cc against the paddle of a Python, and write ./check_part.
#
#     PYTHON=python bash build_check_part.sh
#
# The library of the wheel is a Python module, so libpython is linked too; a Python without one (some static builds)
# cannot be used.
set -euo pipefail
here=$(dirname "$0")
python=${PYTHON:-python}
paddle=$("$python" -c 'import importlib.util as u; print(u.find_spec("paddle").submodule_search_locations[0])')
libpython=$("$python" -c 'import sysconfig as s; print(s.get_config_var("LIBDIR"), s.get_config_var("LDLIBRARY"), sep="/")')
"${CXX:-g++}" -std=c++17 -O2 -w -I"$paddle/include" "$here/check_part.cc" -o "${1:-check_part}" \
    "$paddle/base/libpaddle.so" "$paddle"/libs/lib{phi,phi_core,common}.so "$libpython" \
    -Wl,-rpath,"$paddle/base:$paddle/libs:$(dirname "$libpython")"
