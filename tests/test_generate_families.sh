#!/bin/sh
# generate on every miniature, a token that has no text among them: test_generate_families.sh
# PROGRAM, from the top of the checkout.
program=$1
. tests/check.sh
unset ROPESCOPE_ISA

for model in tests/families/*.gguf; do
    for prompt in 'a b a b c d' 'x'; do
        last="ropescope generate $model"
        record "$program" generate "$model" -p "$prompt" -n 2 -t 2 --temp 0
        ok "$model: '$prompt'" [ "$status" -eq 0 ]
    done
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
