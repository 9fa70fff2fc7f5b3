#!/bin/sh
# Runs every test and adds up what they say: all.sh BUILD TEST...
# Each test closes with "N passed, N failed"; so does this, over all of them.
# Where more threads than processors wait, GNU's OpenMP spins for milliseconds: test_forward then
# takes several times as long.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}
build=$1
shift
passed=0 failed=0
log=$(mktemp) || exit 2
trap 'rm -f "$log"' EXIT

run() { # NAME COMMAND...
    name=$1
    shift
    "$@" >"$log" 2>&1
    code=$?
    last=$(tail -n 1 "$log")
    p=$(printf '%s\n' "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1/p')
    f=$(printf '%s\n' "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\2/p')
    if [ -z "$p" ]; then # died before its last line
        cat "$log"
        echo "$name: ended with status $code and no count"
        p=0 f=1
    elif [ "$f" -ne 0 ] || [ "$code" -ne 0 ]; then
        cat "$log"
        [ "$f" -ne 0 ] || f=1
    else
        grep '^skipped' "$log"
    fi
    echo "$name: $p passed, $f failed"
    passed=$((passed + p)) failed=$((failed + f))
}

for test in "$@"; do run "$(basename "$test")" "$test"; done
run test_cli sh tests/test_cli.sh "$build/ropescope"
if [ -z "${PAGE_TESTED:-}" ]; then
    run test_page sh tests/test_page.sh "$build/ropescope"
else
    echo "skipped: test_page: $PAGE_TESTED"
fi
run test_export sh tests/test_export.sh "$build/ropescope" "$build/tests/dump_logits"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
