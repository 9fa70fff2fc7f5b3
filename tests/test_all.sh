#!/bin/sh
# all.sh counts a test that tests nothing as failed, unless it says that it was skipped: test_all.sh,
# from the top of the checkout.
. tests/check.sh

# counted WHAT COUNTS LINES: a test that prints LINES and ends with status 0 has these counts.
counted() {
    printf '#!/bin/sh\nprintf "%s"\n' "$3" >"$dir/fake"
    chmod +x "$dir/fake"
    last="all.sh on a test that prints '$3'"
    record sh tests/all.sh --one "$dir" "$dir/results" "$dir/fake"
    ok "$1" [ "$(cat "$dir/results/fake")" = "$2" ]
}

mkdir "$dir/results"
counted "passed" "3 0" '3 passed, 0 failed\\n'
counted "failed" "3 1" '3 passed, 1 failed\\n'
counted "no count" "0 1" 'hello\\n'
counted "nothing tested" "0 1" '0 passed, 0 failed\\n'
counted "skipped" "0 0" 'skipped: no network\\n0 passed, 0 failed\\n'

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
