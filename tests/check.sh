# What the shell tests share; read by them with `.`. $program is ropescope.
unset ROPESCOPE_ISA
passed=0 failed=0
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
out=$dir/out err=$dir/err

# record COMMAND...: its output is in $out and $err, its status in $status.
record() {
    "$@" >"$out" 2>"$err"
    status=$?
}

# try COMMAND...: the same, to be named where a check fails.
try() {
    last="$*"
    record "$@"
}

# run ARGUMENTS...: runs the program.
run() {
    last="ropescope $*"
    record "$program" "$@"
}

# needs_python WHAT: $python, the interpreter itself: some systems put a slow script in front of it.
# Where there is none, the test of WHAT ends here.
needs_python() {
    if ! command -v python3 >/dev/null 2>&1; then
        echo "skipped: $1: there is no python3"
        echo "0 passed, 0 failed"
        exit 0
    fi
    python=$(python3 -c 'import sys; print(sys.executable or "python3")')
}

# ok NAME COMMAND...: the command must succeed.
ok() {
    what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "failed: $what"
        echo "  last command: $last (status $status)"
        sed 's/^/  stdout: /' "$out" | head -n 5
        sed 's/^/  stderr: /' "$err" | tail -n 5
    fi
}

exits() { [ "$status" -eq "$1" ]; }
says() { grep -q -e "$1" "$out"; }
complains() { grep -q -e "$1" "$err"; }
