#!/bin/sh
# quantize from outside: test_quantize_cli.sh PROGRAM, from the top of the checkout.
program=$1
model=demo/model.gguf
sample=demo/sample.txt
. tests/check.sh

same() { cmp -s "$1" "$2"; }
smaller() { [ "$(wc -c <"$1")" -lt "$(wc -c <"$2")" ]; }
alone() { [ "$(find "$dir/new" -type f | wc -l)" -eq "$1" ]; }

# refused STATUS WORDS ARGUMENTS...: the status, a sentence on stderr, and no file in $dir/new.
refused() {
    code=$1 words=$2
    shift 2
    rm -rf "$dir/new"
    mkdir "$dir/new"
    run quantize "$@"
    ok "'$*' exits with $code" exits "$code"
    ok "'$*' says '$words'" complains "$words"
    ok "'$*' leaves nothing" alone 0
}

# ---- the file does not depend on how it was made, and it runs

for type in Q8_0 Q4_1 Q4_0 BF16 F16 F32; do
    run quantize $model "$dir/$type" $type --json -t 1
    ok "$type" exits 0
    sed 's/"output":"[^"]*"//' "$out" >"$dir/$type.json"
    for how in "-t 2" "-t 7" "-t 2 --isa base"; do
        # shellcheck disable=SC2086
        run quantize $model "$dir/other" $type --json $how
        ok "$type with $how: the same file" same "$dir/$type" "$dir/other"
        sed 's/"output":"[^"]*"//' "$out" >"$dir/other.json"
        ok "$type with $how: the same error" same "$dir/$type.json" "$dir/other.json"
    done
    run quantize "$dir/$type" "$dir/again" $type
    ok "$type again is a copy" same "$dir/$type" "$dir/again"
    ok "which it says" complains "nothing is left to convert"
    ok "and there is no error to report" says "error  *none: no tensor was converted"
    run quantize "$dir/$type" "$dir/again" $type --json
    ok "nor in JSON" says '"rms_error":null,"max_error":null,"max_error_in":null'
    run bench "$dir/$type" -n 4 --n-prompt 16 -r 1 --json --exact
    ok "$type runs" says '"logits_hash":"[0-9a-f]*"'
    sed -n 's/.*\("logits_hash":"[0-9a-f]*"\).*/\1/p' "$out" >>"$dir/hashes"
    run generate "$dir/$type" -p 'The ' -n 20
    ok "$type generates" exits 0
    ok "$type writes something" [ -s "$out" ]
done
# F16 and F32 may be the same numbers: what the file was made of.
ok "different types, different logits" [ "$(sort -u "$dir/hashes" | wc -l)" -ge 4 ]

ok "sizes" smaller "$dir/Q8_0" "$dir/F16"
ok "sizes, further" smaller "$dir/Q4_0" "$dir/Q8_0"
run quantize "$dir/F32" "$dir/pure" q4_0 --pure --tensors
ok "--pure" smaller "$dir/pure" "$dir/Q4_0"
ok "the report has bits per weight" says 'bits per weight'
ok "and the error" says 'error .*RMS 0\.0[0-9]* of the RMS weight; largest [0-9.e-]* in '
ok "and --tensors every tensor" says '^  blk.0.attn_q.weight *F32 *Q4_0 *RMS'
run info "$dir/pure"
ok "all matrices whose rows are whole blocks are Q4_0, all else is kept" says '^  tensors  *[0-9]*: F32 [0-9]*, F16 4, Q4_0 26$'

run quantize "$dir/Q4_0" "$dir/back" F32
ok "back to F32" exits 0
run perplexity "$dir/Q4_0" -f $sample -c 128 --chunks 1 --exact
grep PPL "$out" >"$dir/ppl"
run perplexity "$dir/back" -f $sample -c 128 --chunks 1 --exact
grep PPL "$out" >"$dir/ppl2"
ok "is the same model" same "$dir/ppl" "$dir/ppl2"

run quantize "$dir/Q8_0" "$dir/other" Q4_0
ok "requantizing is done" exits 0
ok "with a warning" complains "quantized already"

# ---- what is refused

new=$dir/new/x.gguf
refused 2 "expected F32, F16, BF16, Q8_0, Q4_1 or Q4_0" $model "$new" Q4_K_M
refused 2 "expected two files and a type" $model "$new"
refused 2 "expected two files and a type" $model "$new" Q8_0 more
refused 2 "expected two files and a type" $model - Q8_0
refused 1 "cannot be opened" "$dir/none.gguf" "$new" Q8_0
refused 1 "cannot be written" $model "$dir/none/x.gguf" Q8_0
refused 1 "not a GGUF file" $sample "$new" Q8_0
refused 2 "no option -o" $model "$new" Q8_0 -o "$new"
cp $model "$dir/in.gguf"
ln -s in.gguf "$dir/link.gguf"
ln "$dir/in.gguf" "$dir/hard.gguf"
for name in in link hard; do
    refused 2 "would replace" "$dir/in.gguf" "$dir/$name.gguf" Q8_0
    ok "and $name.gguf is what it was" same $model "$dir/$name.gguf"
done
head -c 100000 "$dir/F32" >"$dir/cut.gguf"
refused 1 "cut off or damaged" "$dir/cut.gguf" "$new" Q8_0
if [ -w /dev/full ]; then
    refused 1 "/dev/full: writing failed: No space left" "$dir/F32" /dev/full Q8_0
fi

for names in "'' $new" "$model ''"; do
    eval "refused 2 'found an empty one' $names Q8_0"
done

# The file is written at many places at once: not to a pipe, nor between the lines of the report.
mkfifo "$dir/pipe"
exec 3<>"$dir/pipe" 4<"$dir/pipe" # both ends are open before anyone reads: no open waits
cat <&4 >"$dir/piped" 3>&- &
reader=$!
exec 4<&-
refused 1 "pipe: expected an ordinary file, found a pipe" $model "$dir/pipe" Q8_0
exec 3>&- # lets the reader end
wait "$reader"
ok "and nothing came through the pipe" [ ! -s "$dir/piped" ]
refused 2 "/dev/stdout: expected a file of its own" $model /dev/stdout Q8_0
ok "and nothing came out" [ ! -s "$out" ]

# A link stays one, be there something where it points to or not.
mkdir -p "$dir/links"
ln -s to.gguf "$dir/links/from.gguf"
ln -s links/from.gguf "$dir/far.gguf"
for time in first second; do
    run quantize $model "$dir/far.gguf" F32
    ok "through two links, the $time time" exits 0
    ok "the links are left" [ -L "$dir/far.gguf" -a -L "$dir/links/from.gguf" ]
    ok "and the file is where they point to" same "$dir/F32" "$dir/links/to.gguf"
done

# Cut short: a sentence, and no file. The input is 2 GB of zeros, none of them on the disk: the signal
# comes long before the end.
mkdir -p "$dir/cut"
{
    printf 'GGUF\3\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' # version 3, one tensor, no key
    printf '\10\0\0\0\0\0\0\0a.weight\2\0\0\0'                # a name of 8 bytes, two dimensions:
    printf '\0\200\0\0\0\0\0\0\0\100\0\0\0\0\0\0'            # 32768 and 16384
    printf '\0\0\0\0\0\0\0\0\0\0\0\0'                        # F32, at the first byte
} >"$dir/zeros"
dd if=/dev/null of="$dir/zeros" bs=1048576 seek=2049 2>"$err"
last="ropescope quantize, interrupted"
"$program" quantize "$dir/zeros" "$dir/cut/x.gguf" Q4_0 -t 1 >"$out" 2>"$err" &
converter=$!
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -n "$(find "$dir/cut" -type f)" ] && break
    sleep 0.1
done
kill -INT "$converter"
wait "$converter"
status=$?
ok "interrupted: the status of a signal" exits 130
ok "and a sentence" complains "interrupted: .*x.gguf is not written"
ok "and no file" [ -z "$(find "$dir/cut" -type f)" ]
rm -f "$dir/zeros"

# Rows that do not divide into blocks, in F16: all stay, and so does what the file says it is.
run quantize tests/families/olmoe.gguf "$dir/olmoe" Q8_0
ok "rows that do not divide" exits 0
ok "are counted" complains "no multiple of 32 long (16): 0 of them become F16, 16 stay as they are"
ok "nothing is converted, nothing is changed" same tests/families/olmoe.gguf "$dir/olmoe"

# A file that is there already is replaced at the end, not before.
mkdir -p "$dir/new"
cp $sample "$new"
run quantize "$dir/cut.gguf" "$new" Q8_0
ok "an error leaves the old file" same $sample "$new"
run quantize $model "$new" F32
ok "a new one takes its place" same "$dir/F32" "$new"
ok "and nothing else is there" alone 1

# ---- tensors as llama-quantize --pure makes them, each byte of each (in another order)

shared=${ROPESCOPE_SHARED:-../shared}
stories=$shared/data/models/stories260K.gguf
if [ -f "$stories" ]; then
    # type, bytes of all tensors at the end of the file, their checksum
    for expect in "Q8_0 364928 1374276456" \
        "Q4_1 261056 2865445814" \
        "Q4_0 246400 2011200900" \
        "F16 587008 1677824332" \
        "BF16 587008 1417940017"; do
        # shellcheck disable=SC2086
        set -- $expect
        run quantize "$stories" "$dir/stories" "$1" --pure
        ok "$1: bytes of llama-quantize" \
            [ "$(tail -c "$2" "$dir/stories" | cksum | cut -d' ' -f1)" = "$3" ]
    done
    run quantize "$stories" "$dir/stories" Q4_0
    ok "rows that do not divide are reported" complains "no multiple of 32 long (5)"
else
    echo "skipped: tensors of llama-quantize: $stories is not here"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
