#!/bin/sh
# The program from outside, on the demo model: test_cli.sh PROGRAM, from the top of the checkout.
program=$1
model=demo/model.gguf
sample=demo/sample.txt
. tests/check.sh

silent() { [ ! -s "$1" ]; }
lacks() { ! grep -q -e "$1" "$out"; }
differs() { ! cmp -s "$1" "$2"; }
matches() { grep -qE -e "$1" "$2"; }
lines() { [ "$(wc -l <"$out")" -eq "$1" ]; }

# refused STATUS WORDS ARGUMENTS...: the status, a sentence on stderr, and nothing on stdout.
refused() {
    code=$1 words=$2
    shift 2
    run "$@"
    ok "'$*' exits with $code" exits "$code"
    ok "'$*' says '$words'" complains "$words"
    ok "'$*' prints nothing else" silent "$out"
    ok "'$*' says it in one sentence" [ "$(wc -l <"$err")" -eq 1 ]
}

if command -v python3 >/dev/null 2>&1; then json_tool=1; else
    json_tool=0
    echo "skipped: whether JSON parses: there is no python3"
fi
is_json() { [ $json_tool -eq 0 ] || python3 -m json.tool "$1" >/dev/null 2>&1; }

# ---- help and usage

run --help
ok "--help exits with 0" exits 0
ok "--help begins with examples" [ "$(head -n 1 "$out")" = "Examples:" ]
ok "--help is complete" says "tokenize .*text to tokens"
run
ok "no arguments: 2" exits 2
ok "no arguments: help on stderr" complains Examples
run --version
ok "--version" matches '^ropescope [0-9]+\.[0-9]+\.[0-9]+$' "$out"
for command in info tokenize generate chat perplexity bench analyze ablate sweep bounds check explain \
    merge report rope quantize; do
    run $command --help
    ok "$command --help exits with 0" exits 0
    ok "$command --help begins with an example" says "^Example"
done

refused 2 "did you mean --threads" generate $model --thread 2
refused 2 "did you mean analyze" analyse $model
refused 2 "no command 'dance'" dance
refused 2 "no option --xyzzyxyzzy" info $model --xyzzyxyzzy
refused 2 "wants a value" generate $model -p hello -t
refused 2 "whole number" generate $model -p hello -t 1.5
refused 2 "from 1" generate $model -p hello -t 0
refused 2 "expected" generate $model -p hello -n many
refused 2 "exclude each other" generate $model -p hello --exact --int8
refused 2 "one model is enough" info $model $model
refused 2 "takes no value" info $model --json=yes
refused 2 "ropescope info" $model
refused 2 "windows of 4" perplexity $model -f $sample -c 3
refused 1 "needs 1024" perplexity $model -p a
run generate $model -c 100000000
if complains AddressSanitizer; then
    echo "skipped: more memory than there is: the sanitizer ends the program first"
else
    refused 1 "needs .* GB" generate $model -c 100000000
fi
run generate $model --prompt=hello -n 2
ok "--name=value" exits 0
if [ -c /dev/full ]; then
    "$program" info $model >/dev/full 2>"$dir/err"
    [ $? -eq 1 ] && grep -q "writing failed" "$dir/err"
    ok "a full disk is noticed" test $? -eq 0
fi
mkfifo "$dir/pipe"
cat "$dir/pipe" >"$dir/piped" &
run info $model -o "$dir/pipe"
wait
ok "-o to a pipe leaves it a pipe" test -p "$dir/pipe" -a -s "$dir/piped"

# ---- bad input

refused 1 "no-such-file.gguf" info no-such-file.gguf
refused 1 "no-such-file.txt" tokenize $model -f no-such-file.txt
refused 1 "magic" info $sample
refused 2 "which model" info
refused 2 "abacus" generate $model -p hello --isa abacus
refused 2 "spiral" generate $model -p hello --rope spiral
head -c 100000 $model >"$dir/cut.gguf"
refused 1 "$dir/cut.gguf" info "$dir/cut.gguf"
refused 1 "$dir/cut.gguf" generate "$dir/cut.gguf" -p hello
: >"$dir/empty.gguf"
refused 1 "empty" info "$dir/empty.gguf"
refused 1 "no-such-folder" analyze $model -f $sample -n 64 -o "$dir/no-such-folder/x"
printf '{"not": "a reading"' >"$dir/bad.json"
run report "$dir/bad.json" -o "$dir/bad.html"
ok "report refuses another JSON" exits 1
ok "and names the file" complains "$dir/bad.json: .*expected"
ok "and leaves no page" [ ! -e "$dir/bad.html" ]

# ---- info and tokenize

run info $model
ok "info runs" exits 0
ok "info tells the shape" says "layers.*heads"
ok "info tells the encoding" says "rope .*base"
run info -m $model --tensors
ok "info --tensors lists them" says "token_embd.weight"
run info $model --json
ok "info --json" exits 0
ok "info --json parses" is_json "$out"

run tokenize $model -p "Once upon a time" --ids
ok "tokenize --ids is one line of numbers" matches '^[0-9]+( [0-9]+)*$' "$out"
cp "$out" "$dir/ids"
printf 'Once upon a time' | "$program" tokenize $model -f - --ids >"$out" 2>"$err"
ok "tokenize reads stdin" cmp -s "$out" "$dir/ids"
printf 'Once upon a time' >"$dir/text"
run tokenize -m $model -f "$dir/text" --ids -o "$dir/ids2"
ok "tokenize -o writes a file" cmp -s "$dir/ids2" "$dir/ids"
ok "and nothing on stdout" silent "$out"
run tokenize $model -p "quote \" backslash \\ tab	caf$(printf '\303\251')" --json
ok "tokenize --json" exits 0
ok "tokenize --json parses" is_json "$out"
printf 'bad \377\300 utf-8 \001' >"$dir/text"
run tokenize $model -f "$dir/text" --json
ok "any bytes are text" exits 0
ok "and their JSON parses" is_json "$out"
run tokenize $model -p ""
ok "no text is a text" exits 0

# ---- rope: the list of encodings, one explained; which one was in force

run rope
ok "rope lists the kinds" exits 0
ok "with their sources" says "linear .*arXiv:2306.15595"
ok "in groups" says "^Not the same in every layer"
ok "and ends with examples" [ "$(tail -n 5 "$out" | head -n 1)" = Examples ]
run rope --json
ok "rope --json says what it is" says '"schema":"ropescope.ropes/1"'
ok "rope --json parses" is_json "$out"
run rope linear:factor=4
ok "rope KIND explains it" says "theta_j = base"
ok "says its keys" says "^- factor (.*): "
ok "and its cache" says "Rotated keys can be cached"
ok "and draws it over the stretched context" says "4096 *10000"
cp "$out" "$dir/linear"
run rope linear:factor=4 -o "$dir/linear.txt"
ok "rope -o writes a file" cmp -s "$dir/linear.txt" "$dir/linear"
ok "and nothing on stdout" silent "$out"
run rope linear:factor=4 --ascii
ok "rope --ascii is ASCII" [ "$(LC_ALL=C tr -d '\000-\177' <"$out" | wc -c)" -eq 0 ]
ok "with two curves" says "[*].*[.:]"
run rope yarn:factor=4 --head-dim 32 --base 1e6 --ctx 1000 --heads 2 --layers 3 --span 500 --json
ok "rope KIND --json says what it is" says '"schema":"ropescope.rope/1"'
ok "rope KIND --json parses" is_json "$out"
ok "over the span asked for" says '"distance":.0,1,.*,500.'
run rope nope-layers --layers 8
ok "rope shows which layers do what" says "in layers 3, 7"
run rope -m $model
ok "rope -m explains what the model has" says "^plain$"
run rope none -m $model --rope-layers 1-2
ok "rope KIND -m: a kind in some layers" says "none.* in layers 1 .. 2"
refused 2 "expected one of plain none" rope spiral
refused 2 "there is no key 'fac'" rope linear:fac=2
refused 2 "one kind is enough" rope plain none
refused 2 "has its own" rope plain -m $model --base 100
refused 2 "for one kind" rope --heads 3
refused 2 "even number" rope plain --head-dim 3
refused 2 "layers of a model" rope plain --rope-layers 1
refused 1 "no-such" rope plain -m no-such.gguf
for command in info bounds "generate -p a -n 1" "analyze -f $sample" "ablate -f $sample"; do
    refused 2 "give that, too" $command -m $model --rope-layers 1
done
refused 2 "model, which is missing" bounds --base 100 --n-rot 8 --ctx 99 --rope none --rope-layers 1

run info $model --rope none --rope-layers 1-2
ok "info names the encoding of each group of layers" says "layers 1 .. 2: none"
run info $model --rope none --rope-layers 1-2 --json
ok "info --json has them, too" says '"kind":"none","text":"none[^]]*"layers":.1,2.'
ok "and parses" is_json "$out"
half="--rope linear:factor=2 --rope-layers 1-2"
said="linear:factor=2 in layers 1-2"
run analyze $model -f $sample -n 64 $half
ok "analyze names the layers of --rope-layers" says "$said"
run analyze $model -f $sample -n 64 $half --json --capture "$dir/half.safetensors"
ok "its JSON does" says "\"rope_override\":\"$said\""
ok "a capture does" grep -aq "$said" "$dir/half.safetensors"
run analyze $model -f $sample -n 64 $half --partial "$dir/half.part"
ok "a partial result does" grep -aq "$said" "$dir/half.part"
run merge "$dir/half.part" --json
ok "and what is merged from it" says "$said"
run generate $model -p "Once" -n 1 $half
ok "generate does" complains "encoding: $said, not the file's"
run perplexity $model -f $sample -c 64 --chunks 2 $half
ok "perplexity does" says "encoding: $said, not the file's"
run perplexity $model -f $sample -c 64 --chunks 2 $half --json
ok "its JSON does" says "\"rope_override\":\"$said\""
run bench $model -n 1 --n-prompt 2 -r 1 $half
ok "bench does" says "encoding: $said, not the file's"
run bench $model -n 1 --n-prompt 2 -r 1 $half --json
ok "its JSON does" says "\"rope_override\":\"$said\""
run bounds $model $half
ok "bounds does" says "$said"
run check $model -f $sample -n 64 $half
ok "check does" says "$said"
run ablate $model -f $sample -n 128 -c 64 --rope none --rope-layers 2
ok "ablate --rope-layers" says "none in layers 2"
run analyze $model -f $sample -n 64 --rope-scale 2 --json
ok "--rope-scale is said in full" says '"rope_override":"linear:factor=2"'

# --window: keys a query sees. Every output says so.
run info $model --window 7
ok "info shows the window" says "window  *7 tokens, in layers 0 .. "
run info $model --window 7 --json
ok "info --json has it for every layer" says '"windows":.7,7,'
run info $model --window 0
ok "0 is none" lacks "window"
said="'7 tokens' by an option"
run analyze $model -f $sample -n 64 --window 7
ok "analyze names --window" says "sliding window $said"
ok "and P is no more than that" says "P = 7 tokens (the window of these layers)"
cp "$out" "$dir/windowed"
run analyze $model -f $sample -n 64
ok "and reads another model than without it" differs "$out" "$dir/windowed"
run analyze $model -f $sample -n 64 --window 7 --json --capture "$dir/window.safetensors"
ok "its JSON does" says '"window_override":"7 tokens"'
ok "a capture does" grep -aq "$said" "$dir/window.safetensors"
run analyze $model -f $sample -n 64 --window 7 --partial "$dir/window.part"
ok "a partial result does" grep -aq '"window_override":"7 tokens"' "$dir/window.part"
run merge "$dir/window.part"
ok "and what is merged from it" says "$said"
run analyze $model -f $sample -n 64 --window 8 --partial "$dir/window.part" --resume
ok "a partial result of another window is refused" complains "window"
run generate $model -p "Once" -n 1 --window 7
ok "generate does" complains "window: 7 tokens, not the file's"
run perplexity $model -f $sample -c 64 --chunks 2 --window 7
ok "perplexity does" says "window: 7 tokens, not the file's"
run perplexity $model -f $sample -c 64 --chunks 2 --window 0 --json
ok "its JSON does" says '"window_override":"none"'
run bench $model -n 1 --n-prompt 2 -r 1 --window 7
ok "bench does" says "window: 7 tokens, not the file's"
run check $model -f $sample -n 64 --window 7
ok "check does" says "$said"
run explain $model -f $sample --query 20 --key 15 --window 7
ok "explain does" says "$said"
ok "and counts the keys" says "sees    7 keys, 14 to 20"
run ablate $model -f $sample -n 128 -c 64 --rope none --window 7
ok "ablate does" says "$said"
run ablate $model -f $sample -n 128 -c 64 --rope plain --window 7 --json
ok "its JSON does" says '"window_override":"7 tokens"'
run sweep $model -f $sample --contexts 32 --no-analysis --window 7
ok "sweep does" says "$said"
refused 2 "out of range\|expected" analyze $model -f $sample --window -3
refused 2 "no --window" analyze --q a --k b --window 7

# A config.json: reports say what it put in force, and not its name alone.
printf '{"model_type":"llama","rope_theta":500}' >"$dir/config.json"
run analyze $model -f $sample -n 64 --rope "$dir/config.json" --json
ok "a report says what a config.json says" says "config.json: plain:base=500\""
run analyze $model -f $sample -n 64 --rope "$dir/config.json" --rope-layers 1-2 --json
ok "and for which layers" says "config.json: plain:base=500 in layers 1 .. 2\""
run bounds $model --rope "$dir/config.json" --json
ok "bounds does" says "config.json: plain:base=500\""
run ablate $model -f $sample -n 128 -c 64 --rope "$dir/config.json" --json
ok "ablate does" says "config.json: plain:base=500'"
run rope "$dir/config.json" -m $model
ok "rope explains the encodings of a config.json" says "RoFormer"
refused 2 "give that, too: -m FILE" rope "$dir/config.json"
printf '{"rope_theta":500,"num_hidden_layers":999}' >"$dir/config.json"
refused 1 "num_hidden_layers: expected" rope "$dir/config.json" -m $model

run generate $model -p Once -n 4 --rope xpos:centre=1e9
ok "logits that are no numbers name the encoding" complains "position encoding, xpos:base"

# ---- generate, perplexity, bench

run generate $model -p "The king" -n 16 -t 1
ok "generate runs" exits 0
ok "generate begins with the prompt" matches '^The king' "$out"
ok "generate goes on" [ "$(wc -c <"$out")" -gt 12 ]
cp "$out" "$dir/text1"
run generate $model -p "The king" -n 16 -t 2 -b 1
ok "the same text with 2 threads, token by token" cmp -s "$out" "$dir/text1"
printf 'The king' | "$program" generate $model -f - -n 16 >"$out" 2>"$err"
ok "generate reads stdin" cmp -s "$out" "$dir/text1"
run generate $model -p "The king" -n 16 --temp 1 -s 7
cp "$out" "$dir/text2"
run generate $model -p "The king" -n 16 --temp 1 -s 7
ok "the same seed, the same text" cmp -s "$out" "$dir/text2"
run generate $model -p "The king" -n 16 --temp 1 -s 8
ok "another seed, another text" sh -c "! cmp -s '$out' '$dir/text2'"
printf '' | "$program" chat $model >"$out" 2>"$err"
status=$?
ok "chat without a template or input ends" [ $status -le 1 ]

run perplexity $model -f $sample -c 128
ok "perplexity runs" exits 0
ok "perplexity gives a number" matches 'PPL = [0-9]+\.[0-9]+' "$out"
run perplexity $model -f $sample -c 128 --json -t 1
ok "perplexity --json parses" is_json "$out"
cp "$out" "$dir/ppl"
run perplexity $model -f $sample -c 128 --json -t 2 -b 48
ok "the same JSON with 2 threads and small batches" cmp -s "$out" "$dir/ppl"
# A model of V tokens that knows nothing has perplexity V; a trained one is far below.
ok "the demo model has learnt" matches '"perplexity":[0-9]{1,2}\.' "$dir/ppl"
run perplexity $model -p "short"
ok "too short a text is refused" exits 1

run bench $model -n 8 --n-prompt 16 -r 1 --json
ok "bench runs" exits 0
ok "bench --json parses" is_json "$out"
hash=$(sed -n 's/.*"logits_hash":"\([0-9a-f]*\)".*/\1/p' "$out")
ok "bench gives a hash" [ ${#hash} -eq 16 ]
isas=$("$program" bench $model --isa '?' 2>&1 | sed -n 's/.*(\(.*\)).*/\1/p')
ok "the instruction sets are listed" [ -n "$isas" ]
for isa in $isas; do
    run bench $model -n 8 --n-prompt 16 -r 1 --json --isa "$isa"
    ok "the same hash on $isa" says "$hash"
    ok "and it is $isa that ran" says "\"isa\":\"$isa\""
done
last="ROPESCOPE_ISA=base ropescope perplexity"
ROPESCOPE_ISA=base "$program" perplexity $model -f $sample -c 128 --chunks 2 --json >"$out" 2>"$err"
cp "$out" "$dir/ppl2"
run perplexity $model -f $sample -c 128 --chunks 2 --json
ok "the same perplexity with ROPESCOPE_ISA=base" cmp -s "$out" "$dir/ppl2"
# every instance in one call: one line each, and one hash
run bench $model -n 8 --n-prompt 16 -r 1 --json --isa all
ok "bench --isa all exits 0" exits 0
ok "bench --isa all has a line for each instance" [ "$(wc -l <"$out")" -eq "$(echo $isas | wc -w)" ]
ok "bench --isa all gives one hash" \
    [ "$(sed 's/.*"logits_hash":"\([0-9a-f]*\)".*/\1/' "$out" | sort -u)" = "$hash" ]

run bench $model -n 4 --n-prompt 8 -r 1 --depth 20
ok "bench --depth says so" says 'after 20 others'
refused 2 "instruction set 'all'" generate $model -n 1 --isa all
refused 2 'depth 100000' bench $model --depth 100000

# the cache in float16: other numbers than in float32, the same on every instance and thread count
run bench $model -n 8 --n-prompt 16 -r 1 --json --isa all --kv f16 -t 1
half=$(sed 's/.*"logits_hash":"\([0-9a-f]*\)".*/\1/' "$out" | sort -u)
ok "--kv f16 gives one hash" [ ${#half} -eq 16 ]
ok "--kv f16 is not f32" [ "$half" != "$hash" ]
run bench $model -n 8 --n-prompt 16 -r 1 --json --kv f16 -t 2
ok "--kv f16 gives the same on two threads" says "$half"
refused 2 'expected f32 or f16' bench $model --kv f8

# the comparison with other programs, with one that answers at once
if [ $json_tool -eq 1 ]; then
    cat >"$dir/llama-bench" <<'END'
#!/bin/sh
prompt=512 decode=128
while [ $# -gt 0 ]; do
    case $1 in -p) prompt=$2 ;; -n) decode=$2 ;; esac
    shift
done
for pair in "$prompt 0" "0 $decode"; do
    set -- $pair
    [ $(($1 + $2)) -gt 0 ] && list="$list${list:+,}{\"n_prompt\":$1,\"n_gen\":$2,\"avg_ts\":1,\"n_threads\":1}"
done
echo "[$list]"
END
    chmod +x "$dir/llama-bench"
    last=tests/bench/compare
    LLAMA_BENCH=$dir/llama-bench record tests/bench/compare -t 1 -r 1 --n-prompt 16 -n 4 \
        --ropescope "$program" $model
    ok "compare exits 0" exits 0
    ok "compare prints ratios" says 'ratio'
    (unset LLAMA_BENCH && record tests/bench/compare $model; exits 0) >/dev/null 2>&1
    ok "compare without a peer says what is missing" [ $? -ne 0 ]
fi

run bench $model -n 8 --n-prompt 16 -r 1 --probe on
ok "the same hash with a probe" says "$hash"

# ---- analyze and report

run analyze $model -f $sample
ok "analyze runs" exits 0
ok "analyze reads every layer" matches '^ +4  +[0-9]+ of 4 ' "$out"
ok "the report has a map" says 'at most one turn over the context'
run analyze $model -f $sample -n 100 --verbose
ok "analyze --verbose reads every head" [ "$(grep -c '^layer [0-4]' "$out")" -eq 5 ]
ok "no escape codes in a pipe" sh -c "! grep -q '$(printf '\033')' '$out'"
run analyze $model -f $sample -n 700 --json -t 1
ok "analyze --json runs" exits 0
ok "analyze --json parses" is_json "$out"
cp "$out" "$dir/reading.json"
run analyze $model -f $sample -n 700 --json -t 2
ok "the same JSON with 2 threads" cmp -s "$out" "$dir/reading.json"
run analyze $model -f $sample -n 700 --json -b 37
ok "the same JSON with other batches" cmp -s "$out" "$dir/reading.json"
run analyze $model -f $sample -n 200 --json
cp "$out" "$dir/short.json"
run analyze $model -f $sample -n 200 --json --isa base
ok "the same JSON without vectors" cmp -s "$out" "$dir/short.json"
run analyze $model -p "Lily saw a dog." --json --massive-ratio 4 --act-min 7 --act-ratio 8
ok "analyze takes the thresholds" says '"massive_ratio":4,"act_min":7,"act_ratio":8'
ok "analyze shows the first tokens" says '^"tokens":\["<s>"'
run analyze $model -p "Lily saw a dog." --massive-ratio 4 --act-min 7 --act-ratio 8
ok "and the table says them" says "norm > 4 x.*|h| > 7 and"
ok "all of them" says "> 8 x median"
run analyze $model -f - -n 100 --json <$sample
ok "analyze reads stdin" exits 0
run analyze $model -f $sample -n 100 -o "$dir/table"
ok "analyze -o" [ -s "$dir/table" ]
run report "$dir/reading.json" -o "$dir/page.html"
ok "report runs" exits 0
head -c 5000 "$dir/reading.json" >"$dir/cut.json"
refused 1 "$dir/cut.json: .*expected .*found its end" report "$dir/cut.json"
ok "the page is a page" matches '<html' "$dir/page.html"
ok "the page needs no network" sh -c "! grep -qiE '(src|href)=.?https?:' '$dir/page.html'"
ok "no unfinished files are left" sh -c "! ls '$dir' | grep -q tmp"

# ---- bounds and check

run bounds $model
ok "bounds runs" exits 0
ok "bounds names its sources" says "arXiv:2405.14591"
ok "bounds says whose bounds they are" says "derived here from first principles"
run bounds $model --json
ok "bounds --json" exits 0
ok "bounds --json parses" is_json "$out"
ok "bounds --json says what it is" says '"schema":"ropescope.bounds/1"'
run bounds --base 10000 --n-rot 128 --ctx 4096
ok "bounds without a model" exits 0
ok "Llama 2: one turn from pair 46 on" says "P <= 2 pi: 18 pairs from 46; x <= pi: 14 pairs from 50"
run bounds --base 1e4 --n-rot 128 --ctx 4096 --json -o "$dir/bounds.json"
ok "bounds -o" is_json "$dir/bounds.json"
ok "Men et al.: the least base for 4096 tokens" \
    matches '"men_least_base":2[0-9]{4}[,.]' "$dir/bounds.json"
run bounds --base 1e4 --n-rot 2 --ctx 100 --rope none --json
ok "bounds of an encoding that does not turn" exits 0
ok "and its JSON parses" is_json "$out"
run bounds $model --train-ctx 1000000
ok "bounds --train-ctx" says "P = 1000000 tokens (as asked for)"
run bounds $model --rope none
ok "bounds says what an option changed" says "intervention"
refused 2 "which model" bounds
refused 2 "ctx P is missing" bounds --base 10000 --n-rot 128
refused 2 "n-rot N is missing" bounds --base 10000 --ctx 128
refused 2 "base X is missing" bounds --n-rot 64
run bounds --help
ok "bounds --help speaks of its own options alone" sh -c "! grep -q -e '--q and' '$out'"
refused 2 "even number" bounds --base 10000 --n-rot 7 --ctx 100
refused 2 "has its own" bounds $model --base 10000
refused 2 "from 1" bounds --base 0 --n-rot 128 --ctx 100
refused 2 "expected a number" bounds --base nan --n-rot 128 --ctx 100
refused 2 "spiral" bounds --base 10000 --n-rot 8 --ctx 100 --rope spiral
refused 2 "belongs to other commands" bounds $model -f $sample
refused 1 "no-such-file.gguf" bounds no-such-file.gguf

# 0: every judged bound holds; 1: exceptions beyond the tolerance; 2: anything else
run check $model -f $sample --bounds F1 --tolerance 1 --strong-ratio 1 --strong-r 0
ok "check exits with 0 where all exceptions are tolerated" exits 0
ok "check says so" says "judged bound.*hold"
run check $model -f $sample --bounds all --tolerance 0 --strong-ratio 1 --strong-r 0
ok "check exits with 1 where there are exceptions" exits 1
ok "check names them" says "Exceptions of B2"
ok "and says so on stdout alone" silent "$err"
run check $model -f $sample --bounds F1,B2 --tolerance 0 --strong-ratio 1 --strong-r 0 --json -t 1
ok "check --json exits with 1" exits 1
ok "check --json parses" is_json "$out"
ok "check --json says what it is" says '"schema":"ropescope.check/1"'
cp "$out" "$dir/check.json"
run check $model -f $sample --bounds F1,B2 --tolerance 0 --strong-ratio 1 --strong-r 0 --json -t 2 -b 31
ok "the same JSON with 2 threads and other batches" cmp -s "$out" "$dir/check.json"
run check $model -f $sample --bounds F1,B2 --tolerance 0 --strong-ratio 1 --strong-r 0 -o "$dir/check"
ok "check -o: the file is there, and the status is 1" [ "$status" -eq 1 -a -s "$dir/check" ]
run check $model -f $sample --strong-ratio 1e9
ok "check exits with 2 where there is nothing to judge" exits 2
ok "and says so" says "Nothing was judged"
run check $model -p "a b c"
ok "check exits with 2 where there are too few tokens" exits 2
ok "and says so" says "too few tokens"
refused 2 "no-such-file.gguf" check no-such-file.gguf -f $sample
refused 2 "no-such-file.txt" check $model -f no-such-file.txt
refused 2 "expected names of F1, F2" check $model -f $sample --bounds F1,X
refused 2 "from 0 to 1" check $model -f $sample --tolerance 2
refused 2 "no text" check $model
refused 2 "no-such-folder" check $model -f $sample -n 64 -o "$dir/no-such-folder/x"
refused 2 "belongs to other commands" analyze $model -f $sample --tolerance 0.1
if [ -c /dev/full ]; then
    "$program" check $model -f $sample -n 64 >/dev/full 2>"$err"
    status=$?
    ok "check on a full disk: 2" exits 2
fi
# ---- partial results

cut="$model -f $sample -n 700 -c 128"
run analyze $cut --json
cp "$out" "$dir/one.json"
run analyze $cut
cp "$out" "$dir/one.txt"
for n in 1 2 3 5 7; do # of 6 windows
    names=
    for i in $(seq 1 $n); do
        run analyze $cut --shard $i/$n --partial "$dir/%n-%i.part"
        ok "shard $i/$n runs" exits 0
        ok "shard $i/$n prints no reading" silent "$out"
        names="$dir/$n-$i.part $names"
    done
    # shellcheck disable=SC2086
    run merge $names --json
    ok "$n shards, last first: the JSON of one run" cmp -s "$out" "$dir/one.json"
done
run merge "$dir/5-4.part" "$dir/5-1.part" -o "$dir/some.part"
ok "merge -o" exits 0
ok "merge -o says what is missing" complains "windows 1 to 2 and 4 to 5 are missing"
run merge "$dir/5-5.part" "$dir/some.part" "$dir/5-2.part" "$dir/5-3.part" -o "$dir/all.part"
ok "a merge of merges" exits 0
ok "has the bytes of one run's file" cmp -s "$dir/all.part" "$dir/1-1.part"
run merge "$dir/all.part"
ok "and prints the same text" cmp -s "$out" "$dir/one.txt"
ls "$dir"/7-*.part >"$dir/names"
run merge "@$dir/names" --json -o "$dir/named.json"
ok "merge @LIST --json -o" cmp -s "$dir/named.json" "$dir/one.json"
"$program" merge - --json <"$dir/names" >"$out" 2>"$err"
ok "merge - reads the names from stdin" cmp -s "$out" "$dir/one.json"
run analyze $cut --partial "$dir/both.part" --json
ok "--partial with --json gives both" cmp -s "$out" "$dir/one.json"
ok "and the same file" cmp -s "$dir/both.part" "$dir/1-1.part"
run analyze $cut --shard 2/3 --partial "$dir/threads.part" -t 1 -b 50
ok "one thread, other batches" exits 0
run merge "$dir/threads.part" "$dir/3-1.part" "$dir/3-3.part" --json
ok "merge with those of more threads" cmp -s "$out" "$dir/one.json"

refused 1 "windows 2 to 3 are missing" merge "$dir/3-1.part" "$dir/3-3.part"
run merge "$dir/3-1.part" "$dir/3-3.part" --json --allow-gaps
ok "--allow-gaps" exits 0
ok "the JSON says what is covered" says '"n_text_windows":6,"covered":\[\[0,2\],\[4,6\]\]'
ok "and parses" is_json "$out"
run merge "$dir/3-1.part" "$dir/3-3.part" --allow-gaps
ok "the text says what is missing" says "missing: 2 of 6 windows"
run report "$dir/one.json" -o "$dir/page2.html"
ok "a reading of parts makes a page" exits 0
refused 1 "windows 2 to 3 are in a file before it" merge "$dir/1-1.part" "$dir/3-2.part"
run analyze $model -f $sample -n 700 -c 128 --sink-eps 0.2 --shard 1/3 --partial "$dir/eps.part"
refused 1 'sink_eps: expected 0.2.*found 0.3' merge "$dir/eps.part" "$dir/3-2.part"
run analyze $model -f $sample -n 701 -c 128 --shard 1/3 --partial "$dir/text.part"
refused 1 "n_text_tokens.*701" merge "$dir/3-2.part" "$dir/text.part"
run analyze $model -f $sample -n 700 -c 128 --kv f16 --shard 1/3 --partial "$dir/kv.part"
refused 1 'kv: expected "f32"' merge "$dir/3-2.part" "$dir/kv.part"
for factor in 1 2; do # one name and one text, two lists of factors
    list=$(yes $factor | head -n 16 | paste -s -d, -)
    printf '{"model_type":"llama","rope_theta":10000,"max_position_embeddings":512,' >"$dir/rope.json"
    printf '"original_max_position_embeddings":512,"rope_scaling":{"rope_type":"longrope",' >>"$dir/rope.json"
    printf '"factor":1,"short_factor":[%s],"long_factor":[%s]}}' "$list" "$list" >>"$dir/rope.json"
    run analyze $model -f $sample -n 700 -c 128 --rope "$dir/rope.json" --shard 1/3 \
        --partial "$dir/rope$factor.part"
done
refused 1 ': ropes.0..theta.0.: expected 1, .*found 0.5' merge "$dir/rope1.part" "$dir/rope2.part"
head -c 1000 "$dir/3-1.part" >"$dir/cut.part"
refused 1 "cut.part: " merge "$dir/cut.part"
refused 1 "magic" merge $sample
refused 2 "which partial results" merge
refused 2 "needs --partial" analyze $cut --shard 1/3
refused 2 "needs --partial" analyze $cut --resume
refused 2 "not for --q and --k" analyze --q q.npy --k k.npy --partial "$dir/x.part"
refused 2 "1 <= I <= N" analyze $cut --shard 4/3 --partial "$dir/x.part"
refused 2 "same file" analyze $cut --partial "$dir/x" -o "$dir/x"
refused 1 "no-such-folder" analyze $cut --partial "$dir/no-such-folder/x"

# auto: what a scheduler says, and nothing else
auto() { # SHARD VARIABLE=VALUE...
    want=$1
    shift
    last="$* ropescope analyze --shard auto"
    record env -u SLURM_ARRAY_TASK_ID -u SLURM_PROCID -u PMI_RANK -u OMPI_COMM_WORLD_RANK "$@" \
        "$program" analyze $cut --shard auto --partial "$dir/auto-%i-%n"
}
auto 2/3 SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=2 SLURM_ARRAY_TASK_COUNT=3 \
    SLURM_PROCID=0 SLURM_NTASKS=1
ok "--shard auto in a job array" cmp -s "$dir/auto-2-3" "$dir/3-2.part"
ok "says what it took" complains "shard 2/3, from SLURM_ARRAY_TASK_ID=1.*SLURM_ARRAY_TASK_COUNT=3"
auto 3/3 SLURM_ARRAY_TASK_ID=20 SLURM_ARRAY_TASK_MIN=10 SLURM_ARRAY_TASK_MAX=20 \
    SLURM_ARRAY_TASK_STEP=5 SLURM_ARRAY_TASK_COUNT=3
ok "--shard auto in an array with steps" cmp -s "$dir/auto-3-3" "$dir/3-3.part"
auto 1/3 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=3 SLURM_PROCID=0 SLURM_NTASKS=1
ok "--shard auto under mpirun" cmp -s "$dir/auto-1-3" "$dir/3-1.part"
auto 5/5 PMI_RANK=4 PMI_SIZE=5
ok "--shard auto with PMI" cmp -s "$dir/auto-5-5" "$dir/5-5.part"
auto 2/2 SLURM_PROCID=1 SLURM_NTASKS=2
ok "--shard auto under srun" cmp -s "$dir/auto-2-2" "$dir/2-2.part"
auto - SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=9 SLURM_ARRAY_TASK_COUNT=4
ok "an array with holes is refused" complains "array with holes"
auto - SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_COUNT=2 SLURM_PROCID=0 SLURM_NTASKS=2
ok "an array of many processes is refused" complains "is each task of the array one part"
auto - SLURM_PROCID=1
ok "a missing variable is named" complains "SLURM_NTASKS is not set"
auto - OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=3
ok "a rank too high is refused" complains "is not among OMPI_COMM_WORLD_SIZE=3"
auto - PARALLEL_SEQ=3
ok "GNU parallel does not tell of how many" complains "shard {#}/N"
ok "and that exits with 2" exits 2

# a run that is killed goes on where it was
i=0
while [ $i -lt 40 ]; do cat $sample; i=$((i + 1)); done >"$dir/long"
long="$model -f $dir/long -n 8000 -c 64"
run analyze $long --json
cp "$out" "$dir/long.json"
for signal in TERM KILL; do
    rm -f "$dir/k.part"
    last="ropescope analyze, killed by SIG$signal"
    # shellcheck disable=SC2086
    "$program" analyze $long --partial "$dir/k.part" --checkpoint-every 0 --json -o "$dir/k.json" \
        --resume >"$out" 2>"$err" &
    pid=$!
    while [ ! -f "$dir/k.part" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
    kill -$signal $pid
    wait $pid 2>/dev/null
    status=$?
    ok "SIG$signal: no reading" [ ! -e "$dir/k.json" ]
    refused 1 "are missing" merge "$dir/k.part"
    run analyze $long --partial "$dir/k.part" --resume --json -o "$dir/k.json"
    ok "--resume after SIG$signal says what is there" complains "has [1-9][0-9]* of the 127 windows"
    ok "--resume after SIG$signal: the JSON of one run" cmp -s "$dir/k.json" "$dir/long.json"
    run merge "$dir/k.part" --json
    ok "and the file of one run" cmp -s "$out" "$dir/long.json"
    rm -f "$dir/k.json"
done
rm -f "$dir"/*.tmp.* # of SIGKILL
refused 1 "found others" analyze $cut --shard 1/3 --partial "$dir/3-2.part" --resume
refused 1 'n_ctx: expected 100, as in this run, found 128' \
    analyze $model -f $sample -n 700 -c 100 --partial "$dir/3-2.part" --resume
run analyze $cut --shard 3/3 --partial "$dir/fresh.part" --resume
ok "--resume without a file begins" complains "is not there: beginning with the first window"
ok "and ends with the file" cmp -s "$dir/fresh.part" "$dir/3-3.part"

# ---- activations from files, and captures

# npy SHAPE BYTES: a float32 .npy file of zeros, on stdout.
npy() {
    header="{'descr': '<f4', 'fortran_order': False, 'shape': $1, }"
    printf '\223NUMPY\001\000\166\000%-117s\n' "$header"
    head -c "$2" /dev/zero
}
npy '(5, 4, 6)' 480 >"$dir/q.npy"
npy '(5, 2, 6)' 240 >"$dir/k.npy"
npy '(5, 3, 6)' 360 >"$dir/k3.npy"
npy '(5, 2, 6)' 236 >"$dir/cut.npy"
qk="--q $dir/q.npy --k $dir/k.npy"
how="--base 10000 --ctx 512 --layout half --rotated yes"
run analyze $qk $how
ok "analyze --q --k runs without a model" exits 0
ok "and says what was read" says "activations from files"
ok "and the heads it found" says "4 query / 2 kv heads of 6"
ok "and the thresholds" says "^strong  r_q r_k >= 20"
run analyze $qk $how --json --csv "$dir/files.csv"
files=$(sed -n 's/.*"q_sha256":"\([0-9a-f]\{12\}\).*"k_sha256":"\([0-9a-f]\{12\}\).*/\1+\2/p' "$out")
ok "the CSV names the files by their hashes" \
    grep -q ",[0-9a-f]\{12\}+[0-9a-f]\{12\},," "$dir/files.csv"
ok "which are those of the JSON" grep -qF ",$files,," "$dir/files.csv"
run check $qk $how
ok "check says what was read, too" says "activations from files"
ok "and the thresholds" says "^strong  r_q r_k >= 20"
run analyze $qk $how --json
ok "analyze --q --k --json parses" is_json "$out"
ok "its JSON names the files" matches '"q":".*q.npy","q_sha256":"[0-9a-f]{64}","k":".*k.npy"' "$out"
ok "and no model" says '"model":null'
cp "$out" "$dir/files.json"
run report "$dir/files.json" -o "$dir/files.html"
ok "report makes a page of it" exits 0
ok "the page names the files" matches 'Queries, from the file.*q.npy' "$dir/files.html"
refused 2 "take the place of a model" analyze $model $qk $how
refused 2 "take the place of a model" analyze $qk $how -f $sample
refused 2 "both" analyze --q "$dir/q.npy" $how
refused 2 "which are missing" analyze $model -f $sample --base 10000
refused 2 "\-\-layout half or\|\-\-layout adjacent or" analyze $qk --base 10000 --ctx 512 --rotated yes
refused 2 "expected no or yes" analyze $qk --base 10000 --ctx 512 --layout half --rotated perhaps
refused 2 "\-\-ctx" analyze $qk --base 10000 --layout half --rotated yes
refused 2 "as many as" analyze $qk $how --axes td
refused 2 "even number up to 6" analyze $qk $how --n-rot 8
refused 1 "divides the 4 query heads" analyze --q "$dir/q.npy" --k "$dir/k3.npy" $how
refused 1 "found 236 bytes" analyze --q "$dir/q.npy" --k "$dir/cut.npy" $how
refused 1 "no-such" analyze --q "$dir/no-such.npy" --k "$dir/k.npy" $how
refused 1 "found neither" analyze --q $sample --k "$dir/k.npy" $how
refused 1 "no name\|cannot be opened" analyze --q "$dir/q.npy:q" --k "$dir/k.npy" $how

run analyze $model -f $sample -n 300 -c 300 --json --capture "$dir/c.safetensors" --capture-layers 0,2-3 \
    --capture-tokens 90 --capture-pattern
ok "analyze --capture runs" exits 0
cp "$out" "$dir/captured.json"
run analyze $model -f $sample -n 300 -c 300 --json
ok "a capture does not change the reading" cmp -s "$out" "$dir/captured.json"
run analyze $model -f $sample -n 300 -c 300 --json -t 1 -b 19 --capture "$dir/c2.safetensors" \
    --capture-layers 0,2-3 --capture-tokens 90 --capture-pattern
ok "the same capture with other threads and batches" cmp -s "$dir/c.safetensors" "$dir/c2.safetensors"
for edit in "--drop full:the full-cycle pairs" "--rope none:position encoding 'none' by an option"; do
    # shellcheck disable=SC2086
    run analyze $model -f $sample -n 40 --capture "$dir/edited.safetensors" ${edit%%:*}
    ok "the capture of ${edit%%:*} says so" \
        grep -aq "\"intervention\":\"${edit#*:}" "$dir/edited.safetensors"
done
ok "the capture of an unedited run has none" grep -aq '"intervention":"-"' "$dir/c.safetensors"
refused 2 "say where to" analyze $model -f $sample --capture-layers 0
refused 2 "capture takes the first window .* with --shard" analyze $model -f $sample \
    --capture "$dir/x" --shard 2/2 --partial "$dir/p"
refused 2 "capture takes the first window .* with --resume" analyze $model -f $sample \
    --capture "$dir/x" --resume --partial "$dir/p"
refused 2 "both write to" analyze $model -f $sample --capture "$dir/x" -o "$dir/x"
refused 2 "\-\-capture-layers 99" analyze $model -f $sample --capture "$dir/x" --capture-layers 99
run analyze $model -f $sample -c 600 --capture "$dir/x" --capture-pattern # and a warning: -c 600
ok "too large a pattern: 2" exits 2
ok "and it says how much is not" complains "512 at most"
refused 1 "there are: 'blocks.0" analyze --q "$dir/c.safetensors" --k "$dir/k.npy" $how
ok "a refused capture leaves no file" [ ! -e "$dir/x" ]

# its statistics by numpy, against the reading
python=${PYTHON:-python3}
if command -v "$python" >/dev/null 2>&1 && "$python" -c 'import numpy' 2>/dev/null; then
    run analyze $model -f $sample -n 100 -c 128 --json --capture "$dir/n.safetensors" --capture-pattern
    cp "$out" "$dir/n.json"
    last="tests/check_capture.py"
    record "$python" tests/check_capture.py "$dir/n.safetensors" "$dir/n.json"
    ok "numpy finds the same in a capture" exits 0
    grep '^skipped' "$out"
else
    echo "skipped: statistics of a capture by numpy: no Python with numpy (PYTHON=...)"
fi
# ---- ablate, and edited runs of other commands

run ablate $model -f $sample -n 300 -c 128 --controls 1
ok "ablate runs" exits 0
ok "ablate has a row for each run" says '^  unedited '
ok "ablate drops the partial-cycle pairs" says '^  drop partial '
ok "ablate has a control" says '^    drop random of any kind, seed 1 '
ok "ablate says that its runs are edited" says '^edited  every run'
ok "and finds so in words" says '^- Edited runs:'
ok "no escape codes in a pipe" sh -c "! grep -q '$(printf '\033')' '$out'"
ablation="ablate $model -f $sample -n 300 -c 128 --json --layers 1-2 --heads 0 --massive --drop 0,2-3"
run $ablation -t 1
ok "ablate --json runs" exits 0
ok "ablate --json parses" is_json "$out"
ok "ablate names the selection" says '"layers":"1-2","heads":"0"'
ok "two layers, one head, three pairs" says '"name":"drop pairs".*"n_edited":6,'
ok "three controls" [ "$(grep -c '"control_of":"drop pairs"' "$out")" -eq 3 ]
cp "$out" "$dir/ablation"
run $ablation -t 2 -b 37
ok "the same JSON with 2 threads and other batches" cmp -s "$out" "$dir/ablation"
run $ablation --isa base -n 140
cp "$out" "$dir/ablation"
run $ablation -n 140
ok "the same JSON without vectors" cmp -s "$out" "$dir/ablation"
run analyze $model -f $sample -n 140 -c 128 --json -o "$dir/unedited.json"
run report "$dir/unedited.json" --ablation "$dir/ablation" -o "$dir/page2.html"
ok "an ablation of the same text and windows joins a reading" exits 0
run analyze $model -f $sample -n 140 -c 64 --json -o "$dir/unedited.json"
refused 1 "$dir/ablation: .*n_ctx: expected 64, .*found 128" report "$dir/unedited.json" \
    --ablation "$dir/ablation"
run analyze $model -f README.md -n 140 -c 128 --json -o "$dir/unedited.json"
refused 1 "of another text: text_sha256" report "$dir/unedited.json" --ablation "$dir/ablation"
run analyze $model -f $sample -n 140 -c 128 --drop full --json -o "$dir/unedited.json"
refused 1 "$dir/unedited.json: edits: expected null" report "$dir/unedited.json" \
    --ablation "$dir/ablation"
run perplexity $model -f $sample -c 128 --protocol full --json
unedited=$(sed -n 's/.*"perplexity":\([0-9.]*\),.*/\1/p' "$out")
run ablate $model -f $sample -c 128 --int8 --json --rope none --keep-rope 0
ok "unedited it is the perplexity of perplexity" says "\"unedited\".*\"perplexity\":$unedited,"
none=$(sed -n 's/.*"encoding none".*"perplexity":\([0-9.]*\),.*/\1/p' "$out")
ok "an encoding can be swapped" [ -n "$none" ]
ok "p-RoPE that keeps nothing is none" says "p-RoPE, p = 0.*\"perplexity\":$none,"
ok "and that is another model" [ "$none" != "$unedited" ]
head -c 300 $sample >"$dir/head"
spec=yarn:factor=4,original=512,beta_fast=31.5,beta_slow=1.25,attention_factor=1.125
run ablate $model -f "$dir/head" -c 16 --rope $spec --rope-layers 1,3
ok "ablate has a long name in full, on a line of its own" says "^  encoding $spec in layers 1,3\$"
ok "and its figures below" says "^  *- rope  *[1-9]"
run ablate $model -f "$dir/head" -c 16 --rope $spec --rope-layers 1,3 --json
ok "and in JSON" says "\"name\":\"encoding $spec in layers 1,3\""
run ablate $model -f "$dir/head" -c 16 --rope ropepp --heads 3 --layers 1
ok "ablate --heads in a model with copies of heads" exits 0
run perplexity $model -f "$dir/head" -c 16 --protocol full --json --drop 0,2-3 --layers 1-2 --heads 0
cp "$out" "$dir/edited"
ok "perplexity --drop says what was edited" says '"edits":"the pairs 0,2-3 dropped .*(6 pairs in 2 heads; layers 1-2, heads 0)"'
run ablate $model -f "$dir/head" -c 16 --int8 --json --drop 0,2-3 --layers 1-2 --heads 0 --controls 0
dropped=$(sed -n 's/.*"drop pairs","edit.*"perplexity":\([0-9.]*\),.*/\1/p' "$out")
ok "perplexity --drop is what ablate measures" grep -q "\"perplexity\":$dropped," "$dir/edited"
run perplexity $model -f $sample -c 128 --chunks 2 --drop random --seed 5
ok "perplexity --drop says so in print" says '^an edited run, with random full-cycle pairs.*seed 5)'
run analyze $model -f $sample -n 200 --drop full
ok "analyze --drop runs" exits 0
ok "analyze --drop says so at its head" says '^edited  the full-cycle pairs'
ok "analyze --drop says so first of all it found" [ "$(sed -n '/^What was found/{n;p;}' "$out" | cut -c 1-15)" = "- Intervention:" ]
run analyze $model -f $sample -n 200 --drop full --keep-rope 0.5 --json
ok "analyze --drop --json parses" is_json "$out"
ok "analyze --json has the edits" says '"edits":"the full-cycle pairs .*; and only the highest frequencies'
cp "$out" "$dir/edited"
run report "$dir/edited" -o "$dir/page2.html"
ok "the page tells of the edits" grep -q '<dd>the full-cycle pairs' "$dir/page2.html"
run analyze $model -f $sample -n 100 --json
ok "edits are null where there are none" says '"edits":null'
run generate $model -p "The king" -n 16 --drop full
ok "generate --drop says so" complains 'edited run, with the full-cycle pairs'
ok "and tells another story" sh -c "! cmp -s '$out' '$dir/text1'"
refused 2 "from 0 to" ablate $model -f $sample --layers 4-99
refused 2 "from 0 to" ablate $model -f $sample --layers 3-1
refused 2 "such as 0" ablate $model -f $sample --heads 0,
refused 2 "such as 0" ablate $model -f $sample --heads x
refused 2 "from 0 to" ablate $model -f $sample --drop 0,999
refused 2 "expected partial, half" ablate $model -f $sample --drop everything
refused 2 "expected one of" ablate $model -f $sample --rope spiral
refused 2 "give that, too" analyze $model -f $sample --layers 0
refused 2 "found in a text" generate $model -p a --drop candidates
refused 2 "number from 0 to 1" ablate $model -f $sample --keep-rope 2
refused 1 "no selected head" perplexity $model -f $sample -c 128 --drop candidates --strong-ratio 1e9
refused 1 "needs 2 at least" ablate $model -p ""

# ---- what analyze writes beside its report

reading="analyze $model -f $sample -n 700"
# all [OPTIONS...]: every output of one run, into the new folder $all.
all() {
    rm -rf "$all"
    mkdir "$all"
    # shellcheck disable=SC2086
    run $reading "$@" --json -o "$all/json" --csv "$all/pairs.csv" --csv-heads "$all/heads.csv" \
        --npy "$all/npy" --text "$all/text"
}
all=$dir/all
all
ok "all outputs of one run" exits 0
ok "nothing on stdout" silent "$out"
ok "the JSON is that of --json alone" cmp -s "$all/json" "$dir/reading.json"
ok "--text is the report" matches 'What was found' "$all/text"
ok "nothing unfinished" sh -c "! ls '$all' | grep -q tmp"
cp -r "$all" "$dir/all1"
for how in "-t 1" "-b 37" "--isa base"; do
    # shellcheck disable=SC2086
    all $how
    ok "the same CSV and arrays with $how" \
        sh -c "rm '$all/text' && rm -f '$dir/all1/text' && diff -r '$all' '$dir/all1' >/dev/null"
done
run analyze $model -f $sample -n 64 --csv - -o "$dir/table"
ok "--csv - writes to stdout" matches '^layer,head,kv_head,pair,theta,' "$out"
ok "and the report goes to -o" matches 'What was found' "$dir/table"
"$program" analyze $model -f $sample -n 64 --csv - -o "$dir/table2" 2>"$err" | head -n 1 >"$out"
ok "head takes no file with it" cmp -s "$dir/table" "$dir/table2"

check_csv() { # lines of equal length, numbers where numbers belong, and those of the JSON
    python3 - "$dir/all1" <<'END' >"$out" 2>"$err"
import csv, json, sys
folder = sys.argv[1]
raw = open(folder + "/pairs.csv", newline="").read()
assert raw.endswith("\r\n") and "\n" not in raw.replace("\r\n", "")
pairs = list(csv.DictReader(open(folder + "/pairs.csv", newline="")))
heads = list(csv.DictReader(open(folder + "/heads.csv", newline="")))
data = json.load(open(folder + "/json"))
number = lambda s: None if s == "" else float(s)
n_pairs = n_heads = 0
for layer in data["layers"]:
    rope = data["ropes"][layer["rope"]]
    for head in layer["heads"]:
        row = heads[n_heads]
        n_heads += 1
        assert (int(row["layer"]), int(row["head"])) == (layer["layer"], head["head"])
        for name in set(row) & set(head):
            if isinstance(head[name], (int, float)):
                assert number(row[name]) == head[name], name
        for j in range(rope["n_pairs"]):
            row = pairs[n_pairs]
            n_pairs += 1
            assert None not in row and None not in row.values()
            at = tuple(int(row[k]) for k in ("layer", "head", "kv_head", "pair"))
            assert at == (layer["layer"], head["head"], head["kv_head"], j)
            for name in ("theta", "wavelength", "x", "cycles"):
                assert number(row[name]) == rope[name][j], name
            assert row["class"] == rope["class"][j]
            assert [int(row["hf_channel_a"]), int(row["hf_channel_b"])] == rope["hf_channels"][j]
            assert int(row["candidate"]) == (j in head["candidates"])
            for name in ("r_q", "R_k", "phi", "ratio", "t3_slack"):
                assert number(row[name]) == head[name][j], name
            assert row["model"] == data["provenance"]["model_sha256"][:12]
assert n_pairs == len(pairs) and n_heads == len(heads) and n_pairs > n_heads
END
}
check_npy() { # numpy reads every array of the manifest, and they are the JSON's numbers
    "$python" - "$dir/all1" <<'END' >"$out" 2>"$err"
import hashlib, json, os, sys
import numpy as np
folder = sys.argv[1]
manifest = json.load(open(folder + "/npy/manifest.json"))
data = json.load(open(folder + "/json"))
assert manifest["schema"] == "ropescope.arrays/1"
assert manifest["provenance"] == data["provenance"]
files = {a["file"] for a in manifest["arrays"]} | {"manifest.json"}
assert files == set(os.listdir(folder + "/npy"))
assert len({f.lower() for f in files}) == len(files)
arrays = {}
for a in manifest["arrays"]:
    path = folder + "/npy/" + a["file"]
    assert hashlib.sha256(open(path, "rb").read()).hexdigest() == a["sha256"]
    v = arrays[a["name"]] = np.load(path)
    assert v.dtype == np.dtype(a["dtype"]) and list(v.shape) == a["shape"]
    assert v.shape == tuple(manifest["axes"][x] for x in a["axes"])
for layer in data["layers"]:
    l = layer["layer"]
    assert np.allclose(arrays["x"][l], data["ropes"][layer["rope"]]["x"], rtol=1e-8, atol=0)
    for head in layer["heads"]:
        for name in ("r_q", "r_k", "R_q", "R_k", "phi", "ratio"):
            assert np.allclose(arrays[name][l, head["head"]], head[name], rtol=1e-8, atol=0), name
        assert np.isclose(arrays["alpha_1"][l, head["head"]], head["alpha_1"], rtol=1e-8, atol=0)
END
}
last="the CSV of analyze, read by Python"
if [ $json_tool -eq 1 ]; then ok "CSV is what the JSON is" check_csv; fi
python=${PYTHON:-python3}
last="the arrays of analyze, read by numpy"
if "$python" -c 'import numpy' 2>/dev/null; then
    ok "NumPy reads the arrays, and they are what the JSON is" check_npy
else
    echo "skipped: whether numpy reads the arrays of --npy: $python has no numpy (PYTHON=...)"
fi

refused 1 "not empty" analyze $model -f $sample -n 64 --npy "$all"
refused 1 "is no folder" analyze $model -f $sample -n 64 --npy "$dir/table"
refused 1 "no-such-folder" analyze $model -f $sample -n 64 --csv "$dir/no-such-folder/x"
refused 2 "the report and --csv both write to standard output" analyze $model -f $sample --csv -
refused 2 "both write to $dir/x" analyze $model -f $sample --csv "$dir/x" --csv-heads "$dir/x"
refused 2 "goes with --json" analyze $model -f $sample --text "$dir/x"
refused 2 "expected auto, always or never" analyze $model -f $sample --color sometimes
refused 1 "no-such-folder" analyze $model -f $sample -n 64 --csv "$dir/x" -o "$dir/no-such-folder/x"
ok "what fails leaves no file" [ ! -e "$dir/x" ]
ok "nor an unfinished one" sh -c "! ls '$dir' | grep -q tmp"

# ---- colour, width and characters of the report

esc=$(printf '\033')
shown="analyze $model -f $sample -n 64"
plain_report() { ! grep -q "$esc" "$out"; }
# shellcheck disable=SC2086
{
    run $shown --color always
    ok "--color always" says "$esc"
    run $shown --color always -o "$dir/colored"
    ok "--color always, into a file" matches "$esc" "$dir/colored"
    LC_ALL=C run $shown
    ok "no Unicode in the C locale" sh -c "! LC_ALL=C grep -q '[^ -~]' '$out'"
    LC_ALL=C.UTF-8 COLUMNS=200 run $shown
    ok "Unicode in a UTF-8 locale" says '┊'
    ok "wide paragraphs stay readable" [ "$(wc -L <"$out")" -le 100 ]
}
# on_terminal ENVIRONMENT...: the report on a terminal of 80 columns, which Python plays.
on_terminal() {
    last="$* ropescope $shown, on a terminal"
    # shellcheck disable=SC2086
    record env -u NO_COLOR -u COLUMNS -u LC_ALL "$@" python3 -c '
import fcntl, os, pty, struct, sys, termios
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    try:
        data = os.read(fd, 65536)
    except OSError:
        break
    if not data:
        break
    sys.stdout.buffer.write(data)
' "$program" $shown
}
if [ $json_tool -eq 1 ]; then
    on_terminal TERM=xterm-256color COLORTERM=
    ok "256 colours on a terminal that has them" says "$esc\[48;5;"
    on_terminal TERM=xterm-256color COLORTERM=truecolor
    ok "24 bits on one that has those" says "$esc\[48;2;"
    on_terminal TERM=xterm COLORTERM=
    ok "shades, and some colour, on another" sh -c "grep -q '$esc\[1m' '$out' && ! grep -q '$esc\[48' '$out'"
    on_terminal TERM=xterm-256color NO_COLOR=1
    ok "NO_COLOR" plain_report
    on_terminal TERM=dumb
    ok "TERM=dumb" plain_report
    ok "no wider than the terminal" \
        [ "$(tr -d '\r' <"$out" | sed '1,/^rope/d;/^text/d' | wc -L)" -le 80 ]
else
    echo "skipped: the report on a terminal: there is no python3"
fi

# ---- generated tokens are observed

run analyze $model -p "ROMEO: What" --generate 40 --json -t 1
ok "analyze --generate" exits 0
ok "its JSON parses" is_json "$out"
ok "the tokens are counted" says '"generated":40,'
ok "and how they were chosen" says '"sampling":"greedy"'
cp "$out" "$dir/generated.json"
run analyze $model -p "ROMEO: What" --generate 40 --json -t 2 -b 1
ok "the same JSON with 2 threads, token by token" cmp -s "$out" "$dir/generated.json"
# without_made FILE: the JSON without its provenance.
without_made() { sed '/^"provenance":/,/^"convention":/d' "$1"; }
if [ $json_tool -eq 1 ]; then
    python3 -c 'import json, sys
print("ROMEO: What" + json.load(open(sys.argv[1]))["provenance"]["generated_text"], end="")' \
        "$dir/generated.json" >"$dir/continued"
    run analyze $model -f "$dir/continued" --json
    without_made "$out" >"$dir/as_text"
    without_made "$dir/generated.json" >"$dir/as_generated"
    ok "the continued text is as long" says '"n_tokens":47,'
    ok "generated tokens count like those of a text" cmp -s "$dir/as_text" "$dir/as_generated"
    ok "and there is something to compare" [ "$(wc -c <"$dir/as_text")" -gt 10000 ]
fi
run analyze $model -p "ROMEO: What" --generate 8
ok "the report shows what was generated" says '^generated, greedy: , *And'
run analyze $model -p "ROMEO: What" --generate 8 --temp 1
ok "a random seed is told" says 'generated, temperature 1,.* seed [0-9]'
seed=$(sed -n 's/.*seed \([0-9]*\).*/\1/p' "$out" | head -n 1)
cp "$out" "$dir/sampled"
run analyze $model -p "ROMEO: What" --generate 8 --temp 1 -s "$seed"
ok "and gives the same again" cmp -s "$out" "$dir/sampled"
refused 1 "the window has 512" analyze $model -f $sample --generate 8
refused 2 "for --generate" analyze $model -f $sample --temp 1

# ---- no output replaces an input, and no saved part is lost

cp $model "$dir/own.gguf"
cp $sample "$dir/own.txt"
ln -s own.txt "$dir/other.txt"
own="$dir/own.gguf -f $dir/own.txt -n 64"
for output in "-o $dir/own.gguf" "-o $dir/own.txt" "--csv $dir/./own.txt" "--csv-heads $dir/own.gguf" \
    "--capture $dir/own.gguf" "--partial $dir/own.txt" "--partial $dir/own.%n.%i --resume" \
    "--json --text $dir/other.txt"; do
    ln -f "$dir/own.txt" "$dir/own.1.1"
    # shellcheck disable=SC2086
    refused 2 "which is read: name another file" analyze $own $output
done
refused 2 "would replace standard input" analyze $model -f - -o "$dir/own.txt" <"$dir/own.txt"
refused 2 "which is read" check "$dir/own.gguf" -f $sample -o "$dir/own.gguf"
refused 2 "which is read" ablate "$dir/own.gguf" -f $sample -o "$dir/own.gguf"
refused 2 "which is read" bounds "$dir/own.gguf" -o "$dir/own.gguf"
refused 2 "which is read" tokenize $model -f "$dir/own.txt" -o "$dir/own.txt"
refused 2 "which is read" report "$dir/generated.json" -o "$dir/generated.json"
refused 2 "which is read" report "$dir/generated.json" --ablation "$dir/own.txt" -o "$dir/own.txt"
refused 2 "which is read" merge "$dir/own.txt" -o "$dir/own.txt"
refused 2 "which is read" analyze --q "$dir/own.txt:x" --k $sample --csv "$dir/own.txt"
ok "the model is still there" cmp -s $model "$dir/own.gguf"
ok "the text is still there" cmp -s $sample "$dir/own.txt"
run analyze $model -f $sample -n 64 --partial "$dir/saved.part"
ok "a new --partial FILE" exits 0
cp "$dir/saved.part" "$dir/saved.copy"
refused 2 "there already: --resume" analyze $model -f $sample -n 70 --partial "$dir/saved.part"
ok "saved progress is still there" cmp -s "$dir/saved.part" "$dir/saved.copy"
run analyze $model -f $sample -n 64 --partial "$dir/saved.part" --resume
ok "--resume goes on from it" exits 0

# ---- options that cannot act

array="--q q.npy --k k.npy"
for option in "--drop full" "--layers 1" "--heads 1" "--keep-rope 0.5" --int8 --exact "--kv f16" \
    "--pre default" "--bos on" "-b 4" "-s 1" "--temp 1" "--top-k 40" "--repeat-penalty 1" \
    "--capture-layers 0" "--capture-tokens 4" --capture-pattern "--checkpoint-every 60"; do
    # shellcheck disable=SC2086
    refused 2 "--q and --k.*: no --" analyze $array $option
done
refused 2 "checkpoint-every is for --partial" analyze $model -f $sample --checkpoint-every 1
refused 2 "for --generate" analyze $model -f $sample --top-p 0.5
refused 2 "one reading is enough" report a.json b.json

# ---- what is said of windows, and how wide

run ablate $model -f $sample -n 300 -c 128 --drop 15 --controls 0
ok "ablate says how it cuts the text" says 'in each window after the'
run ablate $model -f $sample -n 300 -c 128 --drop 15 --controls 0 --json
ok "and in JSON" says '"windows":"The text, with BOS in front, is cut into windows of 128 tokens'
ok "which parses" is_json "$out"
run ablate $model -f $sample -n 300 -c 128 --drop 15 --controls 0 --bos off
ok "without BOS as analyze does" says '^- The text is cut into windows of 128 tokens'

for command in analyze check "ablate --drop 15 --controls 0"; do
    # shellcheck disable=SC2086
    run $command $model -f $sample -c 600
    ok "$command: a window beyond the trained context, in the header" \
        says 'beyond the trained context: windows reach 600 tokens, trained for 512'
    # shellcheck disable=SC2086
    run $command $model -f $sample -c 600 --json
    ok "$command: and in JSON" says '"beyond_context":600'
done
run analyze $model -f $sample -c 600 --json -o "$dir/beyond.json"
ok "a finding says it" grep -q '"Windows reach 600 tokens, beyond the 512' "$dir/beyond.json"
run report "$dir/beyond.json"
ok "and the page" says 'Beyond the trained context'
run analyze $model -f $sample -n 100 -c 600 --json
ok "a short text does not reach so far" says '"beyond_context":0'

run_narrow() {
    last="COLUMNS=60 ropescope $*"
    record env COLUMNS=60 "$program" "$@"
}
for command in "bounds $model" "ablate $model -f $sample -n 64 --drop 15 --controls 0" \
    "analyze $model -f $sample -n 64 --keep-rope 0.5 --drop full" "check $model -f $sample -n 64"; do
    # shellcheck disable=SC2086
    run_narrow $command
    ok "${command%% *}: no sentence beyond 60 columns" \
        sh -c "! grep -vE '^ +[0-9]|^  +(pair|layer|run|unedited|drop|[A-Z][0-9])|^ ?(Bounds|Predictions| [A-Z][0-9]) |[│┊·]|^     formula' '$out' | grep -qE '^.{61}'"
done
run ablate $model -f $sample -n 300 --drop candidates
ok "nothing to ablate: 1" exits 1
ok "and that is said" complains "nothing was ablated"
ok "the unedited run is printed all the same" says "unedited"

# ---- explain

run explain $model -p "Once upon a time" --layer 1 --head 2 --query -2 --key 1 --pair 3
ok "explain walks from the question" says "^1. The question"
ok "to the weight" says "^key 1 has rank"
ok "and a pair" says "^7. Pair 3, step by step"
ok "and it adds up" says "it adds up"
cp "$out" "$dir/walk"
run explain $model -p "Once upon a time" --layer 1 --head 2 --query -2 --key 1 --pair 3 -t 1 -b 2 --isa base
ok "threads, batches and kernels change nothing but their names" \
    sh -c "grep -v '^run ' '$out' >'$dir/a'; grep -v '^run ' '$dir/walk' | cmp -s - '$dir/a'"
run explain $model -f $sample -c 40
ok "of a long text the context takes the first tokens" complains "the context takes the first 40"
ok "without --pair that is offered" says "^--pair P goes through"
run explain $model -p "Once upon a time" --json -o "$dir/walk.json"
ok "explain --json" is_json "$dir/walk.json"
ok "explain --json names its schema" grep -q '"schema":"ropescope.explain/1"' "$dir/walk.json"
run explain $model -p "Once upon a time" --key 2 --rope plain:n_rot=8,pos_scale=0.5 --kv f16 --int8
ok "explain: an encoding in the place of the file's" says "intervention"
ok "explain: positions of its own" says "token j at 1$"
ok "explain: values that do not turn" says "^not rotated: the 24 values from 8 on"
ok "explain: keys in 16 bits" says "16 bits in the cache"
ok "explain: it adds up then, too" says "it adds up"
run explain $model -p "Once upon a time" --rope none
ok "explain: nothing turns" says "^No pair turns"
run explain $model -p "Once upon a time" --keep-rope 0.5
ok "explain: an edited run is called one" says "^edited"
refused 2 "0 to 4" explain $model -p "Once upon a time" --layer 5
refused 2 "a query sees keys up to itself" explain $model -p "Once upon a time" --query 1 --key 2
refused 2 "rotates 16 pairs" explain $model -p "Once upon a time" --pair 16
refused 2 "no text" explain $model
# ---- sweep

sweep="sweep $model -f $sample --contexts 64,16 --rope plain --rope none --rope linear --factors 2,4"
run $sweep -o "$dir/cells"
cp "$dir/cells" "$dir/whole"
ok "sweep runs" exits 0
ok "sweep prints a row for each encoding" says '^  d  linear:factor=4  '
ok "and says how tokens are scored" says 'The same tokens are scored at every context'
ok "and what is best" says 'Lowest perplexity: at 16 plain'
ok "and where the others break" says 'none is broken at 16'
ok "a cell is a line" [ "$(wc -l <"$dir/cells")" -eq 8 ]
sed 's/.*"asked":"\([^"]*\)".*"context":\([0-9]*\),.*/\1 \2/' "$dir/cells" >"$dir/order"
ok "the cells are in the order asked for, contexts ascending" [ "$(tr '\n' ' ' <"$dir/order")" = \
    "plain 16 plain 64 none 16 none 64 linear:factor=2 16 linear:factor=2 64 linear:factor=4 16 linear:factor=4 64 " ]
while read -r line; do printf '%s\n' "$line" >"$dir/line" && is_json "$dir/line" || echo bad; done \
    <"$dir/cells" >"$dir/bad"
ok "each line parses" silent "$dir/bad"
cp "$out" "$dir/chart"
run $sweep -o "$dir/cells"
ok "all cells there: nothing is run" complains "has 8 of the 8 cells"
ok "and the file stays as it is" cmp -s "$dir/whole" "$dir/cells"
ok "and the chart, too" cmp -s "$dir/chart" "$out"
for options in "-t 1" "-t 3 -b 7" "--isa base"; do
    run $sweep $options --json
    ok "sweep $options: the same bytes" cmp -s "$dir/whole" "$out"
done

# What a crash leaves: whole lines, and the beginning of one.
for bytes in 1 30 700; do
    head -n 3 "$dir/whole" >"$dir/cells"
    sed -n 4p "$dir/whole" | head -c $bytes >>"$dir/cells"
    run $sweep -o "$dir/cells"
    ok "a line cut after $bytes bytes is dropped" complains "cut off is dropped"
    ok "and the file becomes that of an uninterrupted run" cmp -s "$dir/whole" "$dir/cells"
done
: >"$dir/cells"
run $sweep -o "$dir/cells"
ok "an empty file is begun" cmp -s "$dir/whole" "$dir/cells"
sed -n '1p;6,8p' "$dir/whole" >"$dir/cells"
run $sweep -o "$dir/cells"
sort "$dir/whole" >"$dir/a"
sort "$dir/cells" >"$dir/b"
ok "cells of another order are not run again" cmp -s "$dir/a" "$dir/b"

# stays FILE WORDS ARGUMENTS...: refused, and the file is as it was.
stays() {
    cp "$1" "$dir/before"
    file=$1 words=$2
    shift 2
    run "$@" -o "$file"
    ok "'$*' is refused" exits 1
    ok "'$*' says '$words'" complains "$words"
    ok "'$*' leaves the file alone" cmp -s "$file" "$dir/before"
}
cp "$sample" "$dir/foreign"
stays "$dir/foreign" "expected a JSON object" $sweep
printf 'no newline' >"$dir/foreign"
stays "$dir/foreign" "something else" $sweep
run analyze $model -f $sample -n 100 --json -o "$dir/foreign"
stays "$dir/foreign" "foreign: line 1" $sweep
cp "$dir/whole" "$dir/cells"
stays "$dir/cells" "other settings: activations" $sweep --int8
stays "$dir/cells" "other settings: sink_eps" $sweep --sink-eps 0.2
stays "$dir/cells" "other settings: n_tokens" $sweep -n 100
stays "$dir/cells" "other settings: protocol" $sweep --protocol full
stays "$dir/cells" "other settings: observed" $sweep --no-analysis
stays "$dir/cells" "other settings: text_sha256" sweep $model -f "$dir/whole" --contexts 16,64
stays "$dir/cells" "other settings: rope_layers" $sweep --rope-layers 1
stays "$dir/cells" "other settings: window_override" $sweep --window 7
sed '2s/"perplexity":\([0-9]\)/"perplexity":0\1/' "$dir/whole" >"$dir/cells"
stays "$dir/cells" "line 2: " $sweep
sed '2s/"n_strong":/"more":1,"n_strong":/' "$dir/whole" >"$dir/cells"
stays "$dir/cells" "line 2: expected a cell as it is written" $sweep
sed -n '2s/"n_strong":[0-9]*,/"n_strong":7,/p' "$dir/whole" | cat "$dir/whole" - >"$dir/cells"
stays "$dir/cells" "line 9: expected what a line before it says of the same cell" $sweep
sed -n 2p "$dir/whole" | cat "$dir/whole" - >"$dir/cells"
run $sweep -o "$dir/cells"
ok "a cell may be there twice" complains "has 8 of the 8 cells"

# The same figures as the commands that measure one of them.
figure() { sed -n "$2s/.*\"$1\":\([-0-9.e+]*\)[,}].*/\1/p" "$3"; } # NAME LINE FILE
head -c 2000 $sample >"$dir/part"
for protocol in full llama.cpp; do
    run sweep $model -f "$dir/part" --contexts 100,300 --rope linear:factor=2 --protocol $protocol \
        -n 100000 -o "$dir/cells-$protocol"
    for n in 1 2; do
        context=$(figure context $n "$dir/cells-$protocol")
        run perplexity $model -f "$dir/part" -c "$context" --rope linear:factor=2 --exact --json \
            --protocol $protocol
        ok "sweep, $protocol, $context: the perplexity of perplexity" \
            says "\"perplexity\":$(figure perplexity $n "$dir/cells-$protocol"),"
        ok "and its error" says "\"error\":$(figure perplexity_error $n "$dir/cells-$protocol")}"
        ok "and its tokens" says "\"tokens_scored\":$(figure tokens_scored $n "$dir/cells-$protocol"),"
    done
done
run sweep $model -f $sample --contexts 64 --rope linear:factor=2 --bos off --protocol full -n 640 \
    --strong-ratio 2 --strong-r 0.5 -o "$dir/cells-off"
given="analyze $model -f $sample -n 640 -c 64 --rope linear:factor=2 --bos off --strong-ratio 2 --strong-r 0.5"
run $given --json
for name in alpha_1 sink_1 n_strong n_candidates n_candidate_heads; do
    value=$(figure $name 1 "$dir/cells-off")
    ok "sweep: $name is that of analyze ($value)" says "\"$name\":$value,"
done
ok "(there are strong pairs to be counted)" [ "$(figure n_strong 1 "$dir/cells-off")" -gt 0 ]
run check ${given#analyze } --bounds all --json
sed 's/"id"/\n&/g' "$dir/cells-off" | sed -n 's/^"id":"\(..\)","share":[^,]*,"hits":\([0-9]*\),"of":\([0-9]*\),"chance":\([^,]*\),.*/\1 \2 \3 \4/p' >"$dir/bounds"
ok "sweep has seven bounds" [ "$(wc -l <"$dir/bounds")" -eq 7 ]
while read -r id hits of chance; do
    ok "sweep: $id is that of check" says "\"id\":\"$id\".*\"hits\":$hits,\"of\":$of,\"chance\":$chance,"
done <"$dir/bounds"

run sweep $model -f $sample --contexts 16,32 --rope linear:factor=%c --bases 1e4,5e4 --json --no-analysis
ok "%c is the context" says '"rope":"linear:base=1250,factor=32","rope_hash":"[0-9a-f]*","context":32,'
ok "--bases are plain encodings" says '"rope":"plain:base=50000","rope_hash":"[0-9a-f]*","context":16,'
ok "--no-analysis: no figures of attention" says '"alpha_1":null'
for spec in linear:factor=3 ntk:alpha=3 yarn:factor=3; do
    run sweep $model -f $sample --contexts 16 --rope ${spec%%:*} --factors 3 --json --no-analysis
    ok "--factors of ${spec%%:*}" says "\"asked\":\"$spec\""
done
run sweep $model -f $sample --contexts 16 --rope plain --factors 3 --json --no-analysis
ok "--factors leaves kinds without one alone" says '"asked":"plain"'
run sweep $model -f $sample --contexts 16 --rope linear:factor=2 --rope linear:factor=2.0 --json
ok "two names of one encoding are run once" [ "$(sed 's/.*"version"//' "$out" | uniq | wc -l)" -eq 1 ]
# One text, two encodings: what is in a list, a pattern of layers or a file of weights is no word of it.
longrope() { # FACTOR FILE: config.json with 16 short and 16 long factors
    list=$(yes "$1" | head -n 16 | paste -s -d, -)
    printf '{"model_type":"llama","rope_theta":10000,"max_position_embeddings":512,' >"$2"
    printf '"original_max_position_embeddings":512,"rope_scaling":{"rope_type":"longrope",' >>"$2"
    printf '"factor":1,"short_factor":[%s],"long_factor":[%s]}}' "$list" "$list" >>"$2"
}
nope() { printf '{"model_type":"smollm3","rope_theta":10000,"no_rope_layers":%s}' "$1" >"$2"; }
longrope 1 "$dir/la.json"
longrope 2 "$dir/lb.json"
nope '[1,0,1,1]' "$dir/na.json"
nope '[1,1,0,1]' "$dir/nb.json"
for two in "la lb" "na nb"; do
    a=$dir/${two% *}.json b=$dir/${two#* }.json
    twins="sweep $model -f $sample --contexts 16 --rope $a --rope $b"
    run $twins -o "$dir/twins-${two% *}"
    ok "sweep of two config.json of one text ($two)" exits 0
    sed 's/.*"rope"://;s/,"rope_hash".*//' "$dir/twins-${two% *}" >"$dir/texts"
    ok "(their texts are the same)" [ "$(uniq "$dir/texts" | grep -c .)" -eq 1 ]
    sed 's/.*"tokens_scored"//' "$dir/twins-${two% *}" >"$dir/figures"
    ok "each has figures of its own" [ "$(uniq "$dir/figures" | grep -c .)" -eq 2 ]
    run sweep $model -f $sample --contexts 16 --rope "$b" --json
    ok "those that it has alone" [ "$(sed 's/.*"version"//' "$out")" = \
        "$(sed -n '2s/.*"version"//p' "$dir/twins-${two% *}")" ]
    run $twins -o "$dir/twins-${two% *}"
    ok "and both are there when gone on from" complains "has 2 of the 2 cells"
done
if [ $json_tool -eq 1 ]; then
    weights="python3 tests/make_rope_weights.py path $dir/W.gguf 4 128 8 2 32"
    of_file="sweep $model -f $sample --contexts 16 --rope path:file=$dir/W.gguf --rope plain"
    $weights 1
    run $of_file -o "$dir/weighed"
    ok "sweep with a file of weights" exits 0
    run $of_file -o "$dir/weighed"
    ok "which is as it was" complains "has 2 of the 2 cells"
    $weights 2
    run $of_file -o "$dir/weighed"
    ok "a file of weights that was written anew: another encoding" complains "has 1 of the 2 cells"
    run $of_file --json
    ok "and its figures are those shown" [ "$(sed -n 1p "$out")" = "$(sed -n 3p "$dir/weighed")" ]
fi
run sweep $model -f $sample --contexts 16 --json
ok "without --rope: the encoding of the file" says '"asked":null,.*"rope":"plain:base=1250"'
refused 2 "expected numbers" sweep $model -f $sample --contexts 16,x
refused 2 "expected numbers" sweep $model -f $sample --contexts 16,
refused 2 "all different" sweep $model -f $sample --contexts 16,16
refused 2 "all different" sweep $model -f $sample --contexts 16.5
refused 2 "expected one of" sweep $model -f $sample --rope plain --rope dance
refused 2 "of which kinds" sweep $model -f $sample --factors 1,2
refused 2 "and --factors does, too" sweep $model -f $sample --rope linear:factor=2 --factors 1,2
refused 2 "of which encoding" sweep $model -f $sample --rope-layers 1
refused 2 "expected same, full or llama.cpp" sweep $model -f $sample --protocol half
refused 2 "a file keeps the cells" sweep $model -f $sample -o -
refused 2 "would replace" sweep $model -f $sample -o $sample
refused 1 "asks for too few" sweep $model -f $sample --contexts 64 -n 63
refused 1 "the text is too short" sweep $model -p 'too short' --contexts 64
refused 1 "Is a directory" sweep $model -f $sample --contexts 16 -o "$dir"
refused 1 "that lines can be added to" sweep $model -f $sample --contexts 16 -o /dev/null

last="ropescope sweep, interrupted"
long="--contexts 64,256 --rope plain --rope none --rope linear --factors 2,4,8 -n 700"
"$program" sweep $model -f $sample $long -o "$dir/cut" >"$out" 2>"$err" &
pid=$!
i=0
while [ ! -s "$dir/cut" ] && [ $i -lt 600 ]; do sleep 0.02; i=$((i + 1)); done
kill -STOP $pid
cp "$dir/cut" "$dir/before"
"$program" sweep $model -f $sample --contexts 16 --rope plain -o "$dir/cut" >"$out.2" 2>"$err.2"
second=$?
ok "a second sweep into the same file is refused" [ $second -eq 1 ]
ok "and says why" grep -q "another sweep is writing it" "$err.2"
ok "and the file is that of the first" cmp -s "$dir/cut" "$dir/before"
kill -INT $pid
kill -CONT $pid
wait $pid
status=$?
ok "an interrupted sweep exits with 130" exits 130
ok "and says how it goes on" complains "goes on from there"
ok "and keeps whole lines alone" [ "$(grep -c '}]}$' "$dir/cut")" -eq "$(grep -c '' "$dir/cut")" ]
ok "and not all of them" [ "$(wc -l <"$dir/cut")" -lt 10 ]
run sweep $model -f $sample $long -o "$dir/cut"
run sweep $model -f $sample $long --json
ok "gone on from, it is as if nothing had been" cmp -s "$dir/cut" "$out"

# ---- interruption

i=0
while [ $i -lt 200 ]; do cat $sample; i=$((i + 1)); done >"$dir/long"
for command in "perplexity $model -f $dir/long" "analyze $model -f $dir/long -o $dir/reading" \
    "ablate $model -f $dir/long -n 40000"; do
    last="ropescope $command"
    # shellcheck disable=SC2086
    "$program" $command >"$out" 2>"$err" &
    pid=$!
    sleep 0.5
    kill -INT $pid
    wait $pid
    status=$?
    ok "SIGINT: 130 from ${command%% *}" exits 130
    case $command in
    ablate*) ok "and ablate says that there is nothing" complains "before the first run was done" ;;
    esac
done

last="ropescope ablate, interrupted"
"$program" ablate $model -f $sample -n 300 -c 32 --controls 1000 --drop 0 --json >"$out" 2>"$err" &
pid=$!
sleep 2
kill -INT $pid
wait $pid
status=$?
ok "an interrupted ablate exits with 130" exits 130
ok "and prints the runs that are complete" says '"name":"drop pairs"'
ok "as JSON" is_json "$out"
ok "that says it was interrupted" says '"Interrupted: runs that were asked for are missing."'

# ---- a real model, where it is at hand: figures of programs no one here wrote

shared=${ROPESCOPE_SHARED:-../shared}
stories=$shared/data/models/stories260K.gguf
if [ -f "$stories" ]; then
    # llama2.c: run stories260K.bin -z tok512.bin -t 0.0 -n 200 | cksum
    run generate "$stories" -n 200 -c 256
    ok "greedy text of llama2.c" [ "$(cksum <"$out")" = "3945065820 465" ]
    # llama.cpp with -ctk f32 -ctv f32 -fa off, and Hugging Face in float32
    run perplexity "$stories" -f "$shared/data/text/tinystories_sample.txt" -c 256
    ok "perplexity of llama.cpp, context 256" says "PPL = 6.8979 "
    run perplexity "$stories" -f "$shared/data/text/tinystories_sample.txt" -c 128
    ok "perplexity of llama.cpp, context 128" says "PPL = 6.8453 "
    run perplexity "$stories" -f "$shared/data/text/tinyshakespeare.txt" -c 256 --chunks 16
    ok "perplexity of llama.cpp, tinyshakespeare" says "PPL = 69.5653 "
else
    echo "skipped: text and perplexities of stories260K: $stories is not here"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
