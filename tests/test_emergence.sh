#!/bin/sh
# Checkpoints over training, demo/emergence.py and the report's view of them: test_emergence.sh
# PROGRAM, from the top of the checkout.
if ! command -v python3 >/dev/null 2>&1; then
    echo "skipped: checkpoints over training: there is no python3"
    echo "0 passed, 0 failed"
    exit 0
fi
PYTHONDONTWRITEBYTECODE=1 exec python3 tests/test_emergence.py "$1"
