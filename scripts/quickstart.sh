#!/usr/bin/env bash
# Demonstrations, training, rollouts and a summary, from nothing: bash scripts/quickstart.sh [--task lift|can|square]
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
install_environment offline
exec .venv/bin/robomimic-frozen quickstart "$@"
