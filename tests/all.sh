#!/bin/sh
# Runs every test, as many at once as there are processors, and adds up what they say:
#   all.sh BUILD TEST...          JOBS=1 runs one after the other
# Each test closes with "N passed, N failed"; so does this, over all of them.
# Where more threads than processors wait, GNU's OpenMP spins for milliseconds: test_forward then
# takes several times as long.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}

# one BUILD RESULTS TEST: a program, or a script tests/NAME.sh that is told where the program is.
# Leaves its count in RESULTS/NAME.
one() {
    name=$(basename "$3" .sh) log=$2/$(basename "$3").log
    case $3 in
    *.sh) sh "$3" "$1/ropescope" "$1/tests/dump_logits" ;;
    *) "$3" ;;
    esac >"$log" 2>&1
    code=$?
    last=$(tail -n 1 "$log")
    p=$(printf '%s\n' "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1/p')
    f=$(printf '%s\n' "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\2/p')
    if [ -z "$p" ]; then # died before its last line
        echo "$name: ended with status $code and no count" >>"$log"
        p=0 f=1
    elif [ "$code" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
    elif [ "$p" -eq 0 ] && [ "$f" -eq 0 ] && ! grep -q '^skipped' "$log"; then
        echo "$name: nothing was tested, and no line says that it was skipped" >>"$log"
        f=1
    fi
    echo "$p $f" >"$2/$name"
    {
        if [ "$f" -ne 0 ]; then cat "$log"; else grep '^skipped' "$log"; fi
        echo "$name: $p passed, $f failed"
    } >"$log.said"
    cat "$log.said"
}

if [ "$1" = --one ]; then
    one "$2" "$3" "$4"
    exit 0
fi

build=$1
shift
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)}
results=$(mktemp -d) || exit 2
trap 'rm -rf "$results"' EXIT
trap 'exit 130' INT TERM

# The longest first, so that no processor waits for it at the end.
scripts=tests/test_cli.sh
if [ -z "${PAGE_TESTED:-}" ]; then
    scripts="$scripts tests/test_page.sh"
else
    echo "skipped: test_page: $PAGE_TESTED"
fi
for test in tests/test_*.sh; do
    case $test in */test_cli.sh | */test_page.sh) ;; *) scripts="$scripts $test" ;; esac
done
# shellcheck disable=SC2086
printf '%s\n' $scripts "$@" | xargs -n 1 -P "$jobs" sh "$0" --one "$build" "$results"

passed=0 failed=0 ran=0
for count in "$results"/*; do
    case $count in *.log | *.said) continue ;; esac
    read -r p f <"$count"
    passed=$((passed + p)) failed=$((failed + f)) ran=$((ran + 1))
done
# shellcheck disable=SC2086
set -- $scripts "$@"
if [ "$ran" -ne $# ]; then
    echo "$# tests, $ran of them ended with a count"
    failed=$((failed + $# - ran))
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
