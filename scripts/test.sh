#!/usr/bin/env bash
# Install what the tests need and run the default ones; arguments go to pytest (-m slow: the long ones).
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" cpu,test
python -m pytest -q "$@"
