#!/bin/sh
# The experiments of the demo, with a training of a few steps on a text made here:
# test_experiments.sh PROGRAM DUMP_LOGITS, from the top of the checkout.
program=$1
dump=$2
tools=$(dirname "$1")/demo
. tests/check.sh
needs_python "demo/experiments.py"

GOMP_SPINCOUNT=10000
export GOMP_SPINCOUNT

# ---- a text with something to learn, a vocabulary, a recipe whose pairs are of all classes

"$python" -c 'import random
r = random.Random(1)
words = ["".join(r.choices("abcdefgh", k=r.randint(2, 6))) for _ in range(60)]
print(*(" ".join(r.choices(words, k=9)) for _ in range(800)), sep=".\n")' >"$dir/text"
tail -n 200 "$dir/text" >"$dir/held"
try "$tools/bpe" "$dir/text" 320 "$dir/vocab.gguf"
ok "a vocabulary" exits 0
recipe="--layers 2 --embd 32 --heads 2 --kv-heads 1 --head-dim 16 --ff 64 --ctx 32 --batch 4
    --steps 12 --warmup 2 --lr 0.01 --rope plain:base=500"

# with COMMAND ARGUMENTS...: the command on an experiment with this recipe.
with() {
    command=$1
    shift
    "$command" "$python" demo/experiments.py "$@" --program "$program" --train "$tools/train" \
        --text "$dir/text" --held "$dir/held" --vocab "$dir/vocab.gguf" --windows 4 \
        --work "$dir/runs" --recorded "$dir" --recipe="$recipe"
}
experiment() { with try "$@"; }

# field NAME: a line of the last result.
field() { sed -n "s/^$1 *//p" "$out" | head -n 1; }
is() { [ "$1" = "$2" ] || { echo "  found: $1"; false; }; }

# ---- recorded, the same, different

experiment reference --how "--threads 1"
ok "without a record: status 2" exits 2
ok "and a sentence" says "reference.txt: nothing is recorded yet"
experiment reference --record --how "--threads 1"
ok "it is recorded" exits 0
ok "and said where" says "^Recorded: .*reference.txt"
ok "the record has the recipe" grep -q -e "--steps 12" "$dir/reference.txt"
ok "and how it was made" grep -q "make -C demo experiment-reference" "$dir/reference.txt"
ok "and no path of this machine" sh -c "! grep -q '$dir' '$dir/reference.txt'"
ok "5 of 8 pairs make less than half a turn" \
    is "$(field encoding)" "plain, base 500; pairs: 3 full-cycle, 5 half-cycle"
ok "they are dropped, beside random ones" says "^  *drop random\|^drop random"
rm -r "$dir/runs"
experiment reference --how "--threads 2 --pass 2"
ok "trained again, otherwise: as recorded" exits 0
ok "and it says so" says "^As recorded: .*byte for byte"
sed 's/^perplexity  ./perplexity  x/' "$dir/reference.txt" >"$dir/other" &&
    mv "$dir/other" "$dir/reference.txt"
experiment reference
ok "another record: status 1" exits 1
ok "the line that differs is shown" says "^-perplexity  x"
ok "and what it is now" says "^+perplexity  [0-9]"
ok "and it says so" says "^DIFFERENT"

# ---- interrupted

was=$(field "+perplexity")
rm -r "$dir/runs"
experiment reference --how "--stop 5"
ok "stopped in the middle: no result" exits 2
ok "it says how to go on" says "the same command goes on"
experiment reference
ok "it goes on from there" says "from step 5 of 12"
ok "to the same result" is "$(field "+perplexity")" "$was"
short=$recipe
recipe="$recipe --steps 1000000"
with exec reference --how "--log 1 --threads 1" >"$out" 2>"$err" &
child=$!
tries=0
until says "^step 1/" || [ $tries -ge 300 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
kill -TERM $child
wait $child
status=$?
ok "told to end, it ends as such" exits 143
ok "and a checkpoint of its own is there" is "$(find "$dir/runs" -name '*.checkpoint' | wc -l)" 2
recipe=$short

# ---- each change

for name in base-10000 base-small p-rope nope no-bos; do
    experiment $name --record
    ok "$name" exits 0
    cp "$out" "$dir/$name.out"
done
result() { out=$dir/$1.out; }

result base-10000
ok "base 10000: pairs are slower" \
    is "$(field encoding)" "plain, base 10000; pairs: 2 full-cycle, 1 partial-cycle, 5 half-cycle"
result base-small # (32 / 2 pi)^(16 / 14) = 6.43
ok "the base follows from the recipe" says "--rope plain:base=6"
ok "no pair is partial-cycle" is "$(field encoding)" "plain, base 6; pairs: 8 full-cycle"
ok "so none is dropped" says "^no pair makes less than one turn"
result p-rope
ok "the fraction follows from the recipe" says "--rope p-rope:fraction=0.375,base=500"
ok "pairs of less than a turn do not turn" \
    is "$(field encoding)" "p-rope, base 500; pairs: 3 full-cycle, 5 unturned"
ok "they are dropped, 5 of 4 heads" says "^drop pairs  *20 "
result nope
ok "no pair turns" is "$(field encoding)" "none, base 10000; pairs: 8 unturned"
ok "so none is dropped" says "^every pair is as slow"
result no-bos
ok "no first token" is "$(field '<s>')" none
out=$dir/out
parameters=$(sed -n 's/^parameters  *//p' "$dir/nope.out")
ok "divisors of frequencies are no parameters" \
    is "$(sed -n 's/^parameters  *//p' "$dir/base-small.out")" "$parameters"

# ---- a model file carries its encoding

model=$(ls "$dir"/runs/p-rope-*.gguf)
seq 3 35 >"$dir/ids"
for rope in "" plain p-rope:fraction=0.375,base=500; do
    # shellcheck disable=SC2086
    try "$dump" "$model" "$dir/ids" "$dir/logits-$rope" exact $rope
    ok "logits with '--rope $rope'" exits 0
done
ok "p-RoPE without --rope: the same bits" cmp "$dir/logits-" "$dir/logits-$rope"
ok "which are not those of plain RoPE" sh -c "! cmp -s '$dir/logits-' '$dir/logits-plain'"
run analyze "$(ls "$dir"/runs/no-bos-*.gguf)" -f "$dir/held" -n 64
ok "trained without <s>, read without it" says "BOS: auto: none"

# ---- refusals

experiment spiral
ok "an unknown experiment: status 2" exits 2
ok "and those there are" complains "base-small"
recipe="$short --rope yarn:factor=2"
experiment nope
ok "a recipe with an encoding that experiments do not change: status 2" exits 2
ok "and a sentence" complains "--rope of the recipe: expected plain"
recipe="$short --kv-heads 3"
experiment nope
ok "a recipe that the trainer refuses: status 2" exits 2
ok "in its words" complains "kv-heads\|ended with status 1"
recipe="$short --ctx 6"
experiment base-small
ok "no base is small enough: status 2" exits 2
ok "and a sentence" complains "6 tokens are too few for a turn"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
