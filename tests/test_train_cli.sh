#!/bin/sh
# The trainer and the tool for vocabularies from outside: test_train_cli.sh PROGRAM, from the top of
# the checkout; both are beside it in demo/.
program=$1
train=$(dirname "$1")/demo/train
bpe=$(dirname "$1")/demo/bpe
. tests/check.sh
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000} # see tests/all.sh

# A text of small words that is the same everywhere: awk counts exactly below 2^53.
words() {
    awk -v x="$1" -v n="$2" 'BEGIN {
        split("the of and a to in he have it that for they with as not on she at by this we you " \
              "do but from or which one would all will there say who make when can more if no man",
            w)
        for (i = 1; i <= n; i++) {
            x = (x * 69069 + 1) % 65536
            printf "%s%s", w[1 + int(x / 7) % 42], x % 11 ? " " : ".\n"
        }
    }'
}
words 1 6000 >"$dir/text"
words 2 500 >"$dir/held"
printf 'too short' >"$dir/short"

try "$bpe" "$dir/text" 320 "$dir/vocab"
ok "a vocabulary" exits 0
ok "of as many tokens" says '^320 tokens; the text of [0-9]* bytes becomes '

# go ARGUMENTS...: ten steps of a small recipe that uses everything there is; later options win.
go() {
    try "$train" --text "$dir/text" --vocab "$dir/vocab" --layers 2 --embd 32 --heads 4 \
        --kv-heads 2 --head-dim 8 --ff 64 --ctx 64 --batch 3 --steps 10 --warmup 2 --lr 1e-2 \
        --biased --repeat 0.3 --init-qk 0.5 --decay-qk 0.5 --rope plain:base=500 --type q8_0 "$@"
}

# The same tensors; what a file says about itself may change.
tensors() { tail -c 30000 "$1" | cksum; }
same() { cmp -s "$1" "$2"; }
recorded() { [ "$(tensors "$1")" = "$2" ] || { echo "found $(tensors "$1")" && false; }; }
nothing_new() { [ -z "$(find "$dir" -newer "$dir/mark" -type f ! -name out ! -name err)" ]; }

# ---- the same file, however it is made

go --out "$dir/model" --held-out "$dir/held" --threads 1 --pass 1
ok "a training" exits 0
ok "says its loss" says '^step 10/10  loss [0-9.]*  gradient .*  left 0:00:00$'
ok "and that of the other text" says '^step 10  held out: loss [0-9.]*, perplexity [0-9.]*$'
ok "the tensors that every compiler and processor makes" recorded "$dir/model" "1382308673 30000"
for how in "--threads 2 --pass 2" "--threads 3 --pass 3 --log 1 --eval 1 --eval-windows 2"; do
    # shellcheck disable=SC2086
    go --out "$dir/other" --held-out "$dir/held" $how
    ok "the same file with $how" same "$dir/model" "$dir/other"
done
for isa in base avx2 avx512 vnni amx neon dotprod i8mm; do
    go --out "$dir/other" --isa $isa
    [ $status -eq 2 ] && complains 'expected one that this program and CPU have' && continue
    ok "the same file with $isa" same "$dir/model" "$dir/other"
done
run perplexity "$dir/model" -f "$dir/held" -c 64
ok "ropescope reads it" exits 0

# ---- stopped and continued

go --checkpoint "$dir/saved" --stop 4
ok "--stop" exits 0
ok "--stop says where it is and how to go on" \
    says "^stopped after step 4 of 10; saved in .*saved: the same command .*goes on from there"
cp "$dir/saved" "$dir/four"
go --checkpoint "$dir/saved" --snapshots 7,10 --out "$dir/other.gguf"
ok "goes on" says 'from step 4 of 10$'
ok "to the same file" same "$dir/model" "$dir/other.gguf"
ok "the last snapshot is the model" same "$dir/model" "$dir/other-000010.gguf"
ok "and there was one before" test -f "$dir/other-000007.gguf"
for signal in INT TERM; do
    rm -f "$dir/long"
    : >"$out" # what was there must not be taken for its output
    go_long="$train --text $dir/text --vocab $dir/vocab --layers 1 --embd 32 --heads 2 --kv-heads 1
        --head-dim 16 --ff 32 --ctx 64 --batch 2 --steps 1000000 --log 1 --checkpoint $dir/long"
    # shellcheck disable=SC2086
    $go_long >"$out" 2>"$err" &
    pid=$! last="training, stopped by $signal"
    tries=0
    until grep -q '^step 2/' "$out" || [ $tries -ge 600 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -s $signal $pid
    wait $pid
    status=$?
    ok "ends by $signal" exits $([ $signal = INT ] && echo 130 || echo 143)
    ok "says that it is saved" says "^stopped after step .*saved in .*long: the same command"
    ok "and it is" test -s "$dir/long"
done

# ---- what is refused, in words, and leaves nothing

# refused STATUS WORDS ARGUMENTS...
refused() {
    code=$1 words=$2
    shift 2
    touch "$dir/mark"
    go "$@"
    ok "'$*' exits with $code" exits "$code"
    ok "'$*' says '$words'" complains "^train: .*$words"
    ok "'$*' leaves nothing new" nothing_new
}
refused 2 "'--stepz': no such option" --stepz 3
refused 2 "--steps: a value is missing" --steps
refused 2 "--steps: expected a whole number from 1 to .*, found '0'" --steps 0
refused 2 "--head-dim: expected an even number, found 7" --head-dim 7
refused 2 "--kv-heads: expected a divisor of the 4 query heads, found 3" --kv-heads 3
refused 2 "--lr-min: expected at most --lr" --lr-min 1
refused 2 "less than 1e9 parameters" --layers 1000 --embd 65536
refused 2 "--batch: expected less than 1e8 tokens" --batch 1000000 --ctx 1000
refused 2 "--snapshots: expected --out" --snapshots 1
refused 2 "--snapshots: expected steps as 0,10,100, found '1,x'" --snapshots 1,x --out "$dir/new"
refused 2 "--type: expected f32, f16 or q8_0, found 'q4_0'" --type q4_0
refused 2 "multiple of 32 values, found 40 (--embd)" --embd 40
refused 2 "--rope selective: this trainer cannot train it" --rope selective:seed=1
refused 2 "--rope: expected at most" --rope "plain:$(printf '%0999d' 0)"
refused 2 "--out: expected a folder to write to, found .*/none" --out "$dir/none/model"
refused 2 "--out: expected a file, found the folder" --out "$dir"
refused 2 "--checkpoint: expected a folder" --checkpoint "$dir/none/saved"
refused 2 "instruction set 'fast'" --isa fast
refused 1 "none.txt: cannot be opened" --text "$dir/none.txt"
refused 1 "short: expected more than the 64 tokens of --ctx, found" --text "$dir/short"
refused 1 "short: expected more than the 64 tokens" --held-out "$dir/short"
refused 1 "text: magic: expected 'GGUF'" --vocab "$dir/text"
refused 1 "four: a checkpoint of another recipe: --lr: expected 0.01, found 0.02" \
    --checkpoint "$dir/four" --lr 0.02
refused 1 "another recipe: --rope: expected plain:base=500, found none" \
    --checkpoint "$dir/four" --rope none
refused 1 "another recipe: --vocab or --no-bos" --checkpoint "$dir/four" --no-bos
refused 1 "expected the --text that this training began with" --checkpoint "$dir/four" \
    --text "$dir/held"
refused 1 "expected a finished training, found step 4 of 10" --from "$dir/four"
refused 1 "expected a checkpoint of a model of this shape" --from "$dir/four" --ff 32
refused 1 "text: expected a checkpoint of this trainer, found another file" \
    --checkpoint "$dir/text"
head -c 20000 "$dir/four" >"$dir/cut"
refused 1 "cut: damaged: expected [0-9]* bytes, found 20000" --checkpoint "$dir/cut"
{ head -c 20000 "$dir/four" && printf '!' && tail -c +20002 "$dir/four"; } >"$dir/touched"
refused 1 "touched: damaged: its bytes are not" --checkpoint "$dir/touched"
refused 1 "touched: damaged: its bytes are not" --from "$dir/touched"
if [ -w /dev/full ]; then
    go --out /dev/full
    ok "a full disk is an error" exits 1
    ok "which it says" complains "writing failed: No space left"
fi

# ---- help, speed

try "$train" --help
ok "--help" exits 0
ok "--help begins with examples" test "$(head -n 1 "$out")" = "Examples:"
try "$train"
ok "no arguments" exits 2
go --bench 2
ok "--bench" exits 0
ok "--bench says tokens per second" says '^[0-9]* tokens/s, [0-9]* per second of processor time$'
ok "--bench says its share of the peak" says ' % of the peak measured here, [0-9.]* Gflop/s$'

try "$bpe" --help
ok "bpe --help" exits 0
try "$bpe" "$dir/text" 10 "$dir/new"
ok "too few tokens" exits 2
ok "too few tokens: in words" complains "expected from 258 to 16384 tokens, found '10'"
try "$bpe" "$dir/text" 300x "$dir/new"
ok "no number" exits 2
try "$bpe" "$dir/none.txt" 300 "$dir/new"
ok "no text" exits 1
ok "no text: in words" complains "none.txt: cannot be opened"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
