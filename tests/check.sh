# What the shell tests share; read by them with `.`. Each defines run(), which sets $last.
passed=0 failed=0
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
out=$dir/out err=$dir/err

# record COMMAND...: its output is in $out and $err, its status in $status.
record() {
    "$@" >"$out" 2>"$err"
    status=$?
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
