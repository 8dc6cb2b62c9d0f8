#!/usr/bin/env bash
# The default tests on every supported combination of Python and PaddlePaddle, and the package installed as its users
# install it, each in an environment of its own under ${1:-matrix}. Not part of CI: it installs some 10 GB.
# ${2:-.} is a pattern: only rows that match it run, such as "install 3.9".
#
# PYTHON_<version> names an interpreter that is not on the PATH, e.g. PYTHON_3_9=/opt/python3.9/bin/python.
# 2.6.2 is the newest release whose GPU build the public index has; it wants NumPy 1.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$root/matrix}
only=${2:-.}
failed=0
mkdir -p "$work"

row() { # name: whether it is to run; sets python and environment
    local variable=PYTHON_${version//./_}
    python=${!variable:-python$version}
    environment="$work/${1//[^A-Za-z0-9.=]/-}"
    grep -qE "$only" <<<"$1"
}

install() { # python version, extras: from the source, as a wheel, then a picture of a sentence by small weights
    local version=$1 extras=$2 name="install $1 $2" python environment before after
    row "$name" || return
    local pip="$environment/bin/python -m pip --disable-pip-version-check" site
    if ! { "$python" -m venv "$environment" && $pip install --quiet "paddlepaddle<4" setuptools; }; then
        echo "$name: paddle NOT INSTALLED"
        failed=1
        return
    fi
    site=$(echo "$environment"/lib/python*/site-packages)
    before="$($pip list --format freeze | wc -l) $(du -sm "$site" | cut -f 1)"
    if ! $pip install --quiet "$root[$extras]"; then
        echo "$name: NOT INSTALLED"
        failed=1
        return
    fi
    after="$($pip list --format freeze | wc -l) $(du -sm "$site" | cut -f 1)"
    # Away from the source, which would be imported instead.
    if (cd "$environment" && rm -f picture.png && bin/ppdiffusers generate "a street sign" -o picture.png --steps 2 \
        --model "$root/tests/pipelines/golden_text/text" && test -s picture.png &&
        bin/ppdiffusers upscale "$root/demo/crab.png" -o large.png --overwrite --steps 2 &&
        case $extras in *text*) bin/python -c "from paddlenlp.transformers import BertTokenizer" ;; esac) \
        >"$environment/install.log" 2>&1; then
        # shellcheck disable=SC2086
        set -- $before $after
        echo "$name: works; $(($3 - $1)) packages and $(($4 - $2)) MB beyond paddle"
    else
        echo "$name: FAILED, see $environment/install.log"
        failed=1
    fi
}

run() { # python version, then requirements
    local version=$1 name python environment
    shift
    name="python$version $*"
    row "$name" || return
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
for version in 3.9 3.10 3.11 3.12 3.13; do
    install $version cpu
done
for version in 3.9 3.10 3.11 3.12; do
    install $version cpu,text
done
exit $failed
