#!/usr/bin/env bash
# The default tests on every supported combination of Python and PaddlePaddle, each in an
# environment of its own under ${1:-matrix}. Not part of CI: it installs some 3 GB.
#
# PYTHON_<version> names an interpreter that is not on the PATH, e.g. PYTHON_3_9=/opt/python3.9/bin/python.
# 2.6.2 is the newest release whose GPU build the public index has; it wants NumPy 1.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$root/matrix}
failed=0

run() { # python version, then requirements
    local version=$1 variable name python
    shift
    variable=PYTHON_${version//./_}
    python=${!variable:-python$version}
    name="python$version $*"
    local environment="$work/${name//[^A-Za-z0-9.=]/-}"
    if ! { "$python" -m venv "$environment" &&
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@" &&
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root[test]" setuptools; }; then
        echo "$name: NOT INSTALLED"
        failed=1
        return
    fi
    # Each its own package, tests and order of imports: nothing is shared but the source.
    if (cd "$root" && "$environment/bin/python" -m pytest -q -p no:cacheprovider >"$environment/pytest.log" 2>&1); then
        echo "$name: $(grep -E "passed|failed" "$environment/pytest.log" | tail -n 1)"
    else
        echo "$name: FAILED, see $environment/pytest.log"
        failed=1
    fi
}

run 3.9 paddlepaddle==3.3.1
run 3.11 paddlepaddle==3.3.1
run 3.13 paddlepaddle==3.3.1
run 3.11 paddlepaddle==3.2.2
run 3.11 paddlepaddle==2.6.2 numpy==1.26.4
exit $failed
