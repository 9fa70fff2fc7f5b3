#!/bin/sh
# export.py --tiny of every architecture: test_tiny.sh PROGRAM DUMP_LOGITS, from the top of the
# checkout; test_families is beside DUMP_LOGITS.
families=$(dirname "$2")/test_families
. tests/check.sh
needs_python "export.py --tiny"

# Of the largest logit. The golden logits are double precision, the program's are float32 (unit
# roundoff 6e-8) through 2 to 7 layers of sums of 8 to 64 terms: of these 44 models the worst is
# 1.4e-6. A tanh for an erf, a rotary base 1 % off or a window one token off moves them by 1e-5 to
# 0.1, any other wrong flag by more.
tolerance=5e-6

tiny() { try "$python" export.py --tiny "$@"; }

tiny help
ok "the architectures are listed" exits 0
archs=$(cat "$out")
ok "llama is one of them" says "^llama$"
for seed in 1 2; do
    for arch in $archs; do
        tiny "$arch" --seed $seed "$dir/$arch-$seed.gguf"
        ok "$arch, seed $seed: it is written" exits 0
    done
    try "$families" $tolerance "$dir"/*-$seed.gguf
    ok "seed $seed: the logits are the golden ones" exits 0
done

# ---- what the comparison notices, and what a seed promises

cp "$dir/llama-1.gguf" "$dir/other.gguf"
cp "$dir/llama-2.logits" "$dir/other.logits"
try "$families" 0.1 "$dir/other.gguf"
ok "the comparison notices another model" exits 1
tiny llama --seed 1 "$dir/again.gguf"
ok "the same seed, the same model" cmp "$dir/llama-1.gguf" "$dir/again.gguf"
ok "and the same logits" cmp "$dir/llama-1.logits" "$dir/again.logits"

# ---- refusals

tiny spiral "$dir/bad.gguf"
ok "an unknown architecture: status 1" exits 1
ok "a sentence with those there are" grep -q "expected .*gemma2.*, found 'spiral'" "$err"
ok "one line" [ "$(wc -l <"$err")" -eq 1 ]
tiny llama "$dir/bad.bin"
ok "a name without .gguf: status 1" exits 1
tiny llama -o "$dir/bad.gguf" "$dir/bad.gguf"
ok "two outputs: a usage error" exits 2
try "$python" export.py --seed 2 "$dir" -o "$dir/bad.gguf"
ok "a seed without --tiny: a usage error" exits 2
cp export.py "$dir/export.py"
try "$python" "$dir/export.py" --tiny llama "$dir/bad.gguf"
ok "without the tests folder: status 1" exits 1
ok "and a sentence" grep -q "tests/tiny.py: --tiny: expected this file" "$err"
ok "no output of any of these" sh -c "! ls '$dir' | grep -q '^bad'"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
