#!/bin/sh
# make demo: the small model writes a few lines, its attention heads are read, what is found is put
# to the test, and all of it becomes a page.
#   demo.sh PROGRAM [PAGE]      from the top of the checkout; PAGE is demo.html
# Every number below is printed by the program or read from what it printed.
program=$1
page=${2:-demo.html}
model=demo/model.gguf
sample=demo/sample.txt
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}" # threads wait asleep: the machine may be busy
started=$(date +%s)
dir=$(mktemp -d) || exit 1
kept=
trap 'rm -rf "$dir"; [ -z "$kept" ] || rmdir "$kept" 2>/dev/null' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# heading TEXT
heading() { printf '\n== %s\n\n' "$1"; }

# command WORD...: a command of the program as one would type it.
command_line() {
    printf '  $ ./ropescope'
    for word; do
        case $word in
        *[!A-Za-z0-9_./:=,-]*) printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    echo
}

# reads FILE COMMAND...: shows the command and keeps what it prints; the demo ends where it fails.
reads() {
    into=$1
    shift
    command_line "$@"
    echo
    "$program" "$@" >"$into" || exit 1
}

# findings FILE WORDS...: of the list "What was found", the points that begin with one of WORDS.
findings() {
    from=$1
    shift
    for words; do
        awk -v words="$words" '
            /^What was found/ { found = 1 }
            found && /^- / { on = index(substr($0, 3), words) == 1 ||
                (words ~ /^\^/ && substr($0, 3) ~ words) }
            found && on' "$from"
    done
}

# part FILE FROM TO: lines from the one that begins with FROM to before the one that does with TO.
part() { awk -v from="$2" -v to="$3" 'index($0, from) == 1 { on = 1 }
    index($0, to) == 1 { on = 0 } on' "$1"; }

# What the interventions say, in a sentence, from the table of ablate: Sink_1 is the last column.
verdict() {
    awk '
        /^What was found/ { exit }
        $NF !~ /%$/ { next }
        { sink = $NF + 0 }
        $1 == "unedited" { whole = sink }
        /^  drop partial/ { without = sink; drops++ }
        /^    drop random/ { if (!n++ || sink < low) low = sink; if (sink > high) high = sink }
        END {
            if (!drops || !n) exit 1
            printf "In short: of 100 samples %.1f have a sink; ", whole
            printf "without the slow pairs %.1f, without as many", without
            printf "\nfast ones %.1f to %.1f. ", low, high
            if (whole < 5) print "There is hardly a sink here whose cause could be looked for."
            else if (without <= whole / 4 && low >= whole / 2)
                print "The slow pairs carry the sink; the fast ones do not."
            else if (without < low)
                print "The slow pairs matter more for the sink than fast ones do."
            else print "This does not tell slow pairs from fast ones."
        }' "$1"
}

# The page may have to go elsewhere: a checkout need not be writable.
folder=$(dirname "$page")
if [ ! -d "$folder" ] || [ ! -w "$folder" ]; then
    kept=$(mktemp -d) || exit 1
    page=$kept/demo.html
    echo "There is no writing in $folder: the page goes to $page."
fi

heading '1. A small language model'
reads "$dir/info" info "$model"
sed -n '2,7p' "$dir/info"
echo
echo "demo/README.md says what it was trained on, and how to train it again."

heading '2. It writes'
reads "$dir/text" generate "$model" -p 'PROSPERO.' -n 64 --temp 0.8 -s 1 2>"$dir/said"
sed 's/^/  | /' "$dir/text"

heading '3. Its attention heads are read while it reads a text it was not trained on'
cat <<'END'
In each head a token asks (its query) and all tokens before it answer (their keys). RoPE turns both,
pair of values by pair, by an angle that grows with the position: the first pairs fast, the last
ones so slowly that they complete no turn over the context. The map shows which pairs are large.

END
reads "$dir/reading" analyze "$model" -f "$sample"
part "$dir/reading" 'How far each rotary pair' 'Layers'
part "$dir/reading" 'Heads whose strongest' 'Bounds' | sed -n '1,8p'
cat <<'END'

phi is the angle from the mean key to the mean query. Where a slow pair is strong and its cosine
stays negative at every distance, it lowers the scores of all ordinary keys: an offset feature. The
first token may not share it, and then takes the attention (alpha_1): a sink. What was found:

END
findings "$dir/reading" '^In [0-9]+ of [0-9]+ heads .* the strongest pair' \
    'The pair that stands out' '^([0-9]+|No) .*offset feature candidate' \
    'The first token takes' 'Sink_1' 'The attention logit of the first token'

heading '4. The cause: without the slow pairs, then without as many others, the text is read again'
reads "$dir/ablation" ablate "$model" -f "$sample" --drop partial
part "$dir/ablation" '  run  ' 'What was found'
verdict "$dir/ablation" || exit 1

heading '5. All of it as a page'
history=demo/emergence.json
command_line analyze "$model" -f "$sample" --json -o reading.json
command_line ablate "$model" -f "$sample" --json -o ablation.json
command_line report reading.json --ablation ablation.json --emergence "$history" -o demo.html
"$program" analyze "$model" -f "$sample" --json -o "$dir/reading.json" &&
    "$program" ablate "$model" -f "$sample" --json -o "$dir/ablation.json" &&
    "$program" report "$dir/reading.json" --ablation "$dir/ablation.json" \
        --emergence "$history" -o "$page" || exit 1
path=$(cd "$(dirname "$page")" && pwd)/$(basename "$page")
address=$(printf '%s' "$path" | sed 's/%/%25/g; s/ /%20/g; s/#/%23/g; s/?/%3F/g')
cat <<END

Open it in a browser:  file://$address
It is one file that loads nothing else; on a machine without a browser, copy it to one that has one.
The tour in README.md goes through all of this slowly. ($(($(date +%s) - started)) seconds)
END
