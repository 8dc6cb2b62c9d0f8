#!/usr/bin/env bash
# Install what the tests need and run the default ones; arguments go to pytest (-m slow: the long ones).
# As many processes as CPUs, of one thread each: that is quicker than one process with many.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" cpu,test
export PPDIFFUSERS_THREADS="${PPDIFFUSERS_THREADS:-1}"
python -m pytest -q -n auto "$@"
