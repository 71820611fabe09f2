#!/usr/bin/env bash
# All tests, from nothing: bash scripts/test.sh (arguments go to pytest)
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
install_environment dev
exec .venv/bin/python -m pytest "$@"
