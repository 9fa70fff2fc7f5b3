#!/bin/sh
# The page of report, in a browser where there is one: test_page.sh PROGRAM, from the top of the
# checkout.
if ! command -v python3 >/dev/null 2>&1; then
    echo "skipped: the page: there is no python3"
    echo "0 passed, 0 failed"
    exit 0
fi
PYTHONDONTWRITEBYTECODE=1 exec python3 tests/test_page.py "$1"
