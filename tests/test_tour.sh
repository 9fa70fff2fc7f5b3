#!/bin/sh
# The tour of README.md says what the program says, and `make demo` ends with a whole page:
# test_tour.sh PROGRAM, from the top of the checkout.
#
# In the tour a block of ``` that begins with "$ " is a command and what it prints on stdout. Its
# lines must be there as they are, one after the other; a line "..." stands for any number of lines,
# none included, and nothing else may be left out. Numbers are compared as text: the program prints
# the same everywhere.
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
checkout=$PWD
. tests/check.sh
export NO_COLOR=1 LC_ALL=C.UTF-8
tour=$dir/blocks

# blocks FILE: the blocks of the section, each as $tour/N.command and $tour/N.lines.
blocks() {
    mkdir -p "$tour"
    awk -v to="$tour/" '
        /^## / { section = $0 == "## A tour of RoPE in ten minutes" }
        !section { next }
        /^```/ { inside = !inside; fresh = inside; open = 0; next }
        inside && fresh && /^\$ / {
            name = sprintf("%s%02d", to, ++n); open = 1
            print substr($0, 3) >(name ".command"); printf "" >(name ".lines")
        }
        inside && open && !fresh { print >(name ".lines") }
        { fresh = 0 }' "$1"
}

# quoted LINES OUTPUT: is OUTPUT what LINES quotes? Says where it is not.
quoted() {
    awk '
        NR == FNR { line[++n] = $0; next }
        { text[++m] = $0 }
        END {
            at = 1; gap = 0; last = 0
            for (i = 1; i <= n; i++) {
                if (line[i] == "...") { gap = 1; continue }
                from = at
                while (gap && at <= m && text[at] != line[i]) at++
                if (at > m || text[at] != line[i]) {
                    print "quoted: " line[i]
                    print gap ? "it is not in the output from line " from " on" : "found:  " text[at]
                    exit 1
                }
                at++; gap = 0; last = at
            }
            if (!n || (!gap && last <= m)) { print "the output goes on"; exit 1 }
        }' "$1" "$2"
}

# as_quoted N: runs the command of a block, in a folder that looks like the checkout.
as_quoted() {
    record sh -c "$(cat "$tour/$1.command")"
    exits 0 && quoted "$tour/$1.lines" "$out" >"$err"
}

# ---- the comparison itself: what it must find

printf '%s\n' a b c d >"$dir/text"
accepts() { printf '%s\n' "$@" >"$dir/lines" && quoted "$dir/lines" "$dir/text" >/dev/null; }
refuses() { ! accepts "$@"; }
last="quoted" status=0
: >"$out" >"$err"
ok "whole output" accepts a b c d
ok "left out in front, between, behind" accepts ... b ... d ...
ok "nothing left out at ..." accepts a ... b c d
ok "a line that is not there" refuses a ... x ...
ok "a line left out without ..." refuses a c ...
ok "the wrong order" refuses ... c ... b ...
ok "an end left out without ..." refuses a b c
ok "more than there is" refuses a b c d e
ok "no output at all" refuses

# ---- the tour

blocks README.md
mkdir "$dir/in it" && cd "$dir/in it" && ln -s "$checkout/demo" demo && ln -s "$program" ropescope
n=0
for file in "$tour"/*.command; do
    [ -f "$file" ] || break
    n=$((n + 1))
    last=$(cat "$file")
    ok "the tour: $last" as_quoted "$(basename "$file" .command)"
done
last="README.md"
ok "the tour has its commands (found: $n)" [ $n -ge 7 ]
cd "$checkout" || exit 2

# ---- make demo

page="$dir/a folder/demo.html"
mkdir "$dir/a folder"
whole() {
    [ "$(tail -n 1 "$1")" = "</html>" ] || return 1
    for data in '"alpha_1"' '"ablation' 'ropescope.emergence/'; do grep -q "$data" "$1" || return 1; done
}
plain() { ! LC_ALL=C grep -q '[^ -~]' "$out"; }
left() { ls -A "$TMPDIR"; }
mkdir "$dir/tmp"
export TMPDIR="$dir/tmp"
LC_ALL=C try sh demo/demo.sh "$program" "$page"
ok "the demo ends well" exits 0
ok "the demo writes a whole page" whole "$page"
ok "the demo says where it is" says "file://.*a%20folder/demo.html"
ok "the demo says what was found" says "^- Sink_1^0.3 = "
ok "the demo says what the interventions say" says "^In short: "
ok "the demo is ASCII where the terminal is" plain
ok "the demo leaves nothing behind" [ -z "$(left)" ]
rm -f "$page"
try sh demo/demo.sh false "$page"
ok "a program that fails ends the demo" exits 1
ok "and leaves no page" [ ! -e "$page" ]
try sh demo/demo.sh false "$dir/no such folder/demo.html"
ok "a page that cannot be there goes elsewhere" says "There is no writing in .*: the page goes to $TMPDIR/.*/demo.html"
ok "nothing is left of a demo that failed" [ -z "$(left)" ]

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
