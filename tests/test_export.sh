#!/bin/sh
# export.py from outside: test_export.sh PROGRAM DUMP_LOGITS, from the top of the checkout.
program=$1
dump=$2
if ! command -v python3 >/dev/null 2>&1; then
    echo "skipped: export.py: there is no python3"
    echo "0 passed, 0 failed"
    exit 0
fi
# The interpreter itself: some systems put a slow script in front of it.
python=$(python3 -c 'import sys; print(sys.executable or "python3")')
. tests/check.sh
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE

# The golden logits are double precision; the program's are float32 (unit roundoff 6e-8) through
# two layers of sums of 16 to 96 terms. Over five kinds of model the largest difference measured
# is 3.4e-6 with logits up to 7; a wrong rotation, permutation or norm moves logits by 0.01 to 10.
tolerance=1e-5

run() {
    last="$*"
    record "$@"
}

tiny() { run "$python" tests/tiny_llama.py "$@"; }
exporting() { run "$python" export.py "$@"; }
complains() { grep -qF -e "$1" "$err"; }

# edit FILE STATEMENT: a Python statement on the table c in a JSON file.
edit() {
    "$python" -c 'import json, sys
c = json.load(open(sys.argv[1]))
exec(sys.argv[2])
json.dump(c, open(sys.argv[1], "w"))' "$1" "$2"
}

# golden NAME: NAME.gguf against the golden text, ids and logits of model.gguf.json.
golden() {
    "$python" -c 'import json, sys
g = json.load(open(sys.argv[1]))
print(g["text"], end="", file=open(sys.argv[2], "w"))
print(*g["ids"], file=open(sys.argv[3], "w"))' "$dir/model.gguf.json" "$dir/text" "$dir/ids"
    run "$program" tokenize "$dir/$1.gguf" -f "$dir/text" --ids
    ok "$name: the token ids of $1.gguf" cmp -s "$out" "$dir/ids"
    run "$dump" "$dir/$1.gguf" "$dir/ids" "$dir/$1.f32" exact
    ok "$name: the logits of $1.gguf are computed" exits 0
    tiny --compare "$dir/model.gguf.json" "$dir/$1.f32" $tolerance
    ok "$name: the logits of $1.gguf are the golden ones" exits 0
}

# ---- random models against the double-precision reference

for seed in 1 2; do
    name="seed $seed"
    tiny --seed $seed -o "$dir/model.gguf"
    ok "$name: a random model is written" exits 0
    golden model
done
cp "$dir/model.f32" "$dir/seed2.f32"
tiny --seed 1 -o "$dir/model.gguf"
tiny --compare "$dir/model.gguf.json" "$dir/seed2.f32" 0.1
ok "the comparison notices another model" exits 1

# ---- the same weights by way of a Hugging Face folder
# The GGUF of tiny_llama.py holds them as they were drawn, the folder has q and k in halves: equal
# bits of the logits show that export.py puts the rows back, and that F16 and BF16 keep theirs.

shape="2 layers, embedding 64, 4 heads (2 kv) of 16, feed-forward 96"
for how in "--dtype F32" "--dtype F16 --tied" "--dtype BF16" "--shards 3 --tied" \
    "--rope linear" "--rope llama3 --dtype BF16 --shards 2"; do
    name="Hugging Face folder ($how)"
    rm -rf "$dir/hf" "$dir/hf.gguf"
    # shellcheck disable=SC2086
    tiny --seed 3 -o "$dir/model.gguf" --hf "$dir/hf" $how
    ok "$name: it is written" exits 0
    exporting "$dir/hf" -o "$dir/hf.gguf"
    ok "$name: it is exported" exits 0
    golden model
    golden hf
    ok "$name: the logits bit for bit" cmp "$dir/model.f32" "$dir/hf.f32"
    run "$program" info "$dir/hf.gguf"
    ok "$name: its shape" says "$shape"
    ok "$name: its vocabulary" says "260 tokens, gpt2 / gpt-2, BOS 0 (added), EOS 1"
    case $how in
    *tied*) ok "$name: it is tied" says ", tied output" ;;
    *) ok "$name: it is untied" says ", untied output" ;;
    esac
    case $how in
    *llama3*)
        ok "$name: the original context" says "context  *64 tokens (trained for 32)"
        ok "$name: the divisors" says "rope .* with divisors"
        ;;
    *linear*)
        ok "$name: the kind" says "rope  *linear"
        run "$program" info "$dir/hf.gguf" --json
        ok "$name: the factor" says '"factor":4,'
        ;;
    *) ok "$name: no scaling" says "rope  *plain.*base 10000, 16 of 16" ;;
    esac
done

# ---- refusals: status 1, one sentence, no output
# Each starts from a good folder; a refusal may name $dir/bad.

# refused WORDS ARGUMENTS...: exporting with them fails with these words.
refused() {
    words=$1
    shift
    exporting "$@"
    ok "'$words': status 1" exits 1
    ok "'$words': the words" complains "$words"
    ok "'$words': one sentence" [ "$(wc -l <"$err")" -eq 1 ]
    ok "'$words': no output" [ ! -e "$dir/bad.gguf" ]
}

# bad FILE STATEMENT WORDS: the good folder with one JSON file edited.
bad() {
    rm -rf "$dir/bad"
    cp -R "$dir/good" "$dir/bad"
    edit "$dir/bad/$1" "$2"
    refused "$3" "$dir/bad" -o "$dir/bad.gguf"
}

tiny -o "$dir/model.gguf" --hf "$dir/good" --shards 2
shard=model-00002-of-00002.safetensors
bad config.json 'c["rope_scaling"] = {"rope_type": "spiral", "factor": 2.0}' "rope type"
bad config.json 'c["logit_cap"] = 30.0' "logit_cap: expected only keys known"
bad config.json 'c["logit_cap"] = 0' "logit_cap: expected only keys known"
bad config.json 'c["sliding_window_pattern"] = 2' "sliding_window_pattern: expected only keys known"
bad config.json 'c["hidden_act"] = "gelu"' "hidden_act: expected silu"
bad config.json 'c["partial_rotary_factor"] = 0.5' "partial_rotary_factor: expected 1"
bad config.json 'c["architectures"] = ["Qwen2ForCausalLM"]' "tensor model.layers.0.self_attn.q_proj.bias"
bad config.json 'c["attention_bias"] = 0' "attention_bias: expected true or false"
bad config.json 'c["layer_types"] = 5' "layer_types: expected a list"
bad config.json 'c["architectures"] = [["LlamaForCausalLM"]]' "architectures: expected"
bad config.json 'c["max_position_embeddings"] = 1e20' "max_position_embeddings: expected"
bad config.json 'c["rope_theta"] = 1e39' "rope_theta: expected"
bad config.json 'c["rms_norm_eps"] = 1e-30' "rms_norm_eps: expected"
bad config.json 'c["rms_norm_eps"] = 1e-60' "rms_norm_eps: expected"
bad model.safetensors.index.json 'c["weight_map"].popitem()' "file of tensor"
bad tokenizer.json 'c["pre_tokenizer"] = None' "pre_tokenizer: expected a known split rule"

bad_shard() { # WORDS: what is wrong with a shard of $dir/bad
    refused "$1" "$dir/bad" -o "$dir/bad.gguf"
    rm -rf "$dir/bad"
    cp -R "$dir/good" "$dir/bad"
}
header() { # JSON: a shard with this header and no values
    "$python" -c 'import struct, sys
open(sys.argv[1], "wb").write(struct.pack("<Q", len(sys.argv[2])) + sys.argv[2].encode())' \
        "$dir/bad/$shard" "$1"
}
rm -rf "$dir/bad"
cp -R "$dir/good" "$dir/bad"
rm "$dir/bad/$shard"
bad_shard "shards: expected $shard, which model.safetensors.index.json names, found nothing"
head -c 20000 "$dir/good/$shard" >"$dir/bad/$shard"
bad_shard "$shard: size of the file"
head -c 100 "$dir/good/$shard" >"$dir/bad/$shard"
bad_shard "$shard: header length"
header '{"a": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 4]}}'
bad_shard "dtype of tensor a: expected F32"
header "$("$python" -c 'print("[" * 50000 + "]" * 50000)')"
bad_shard "the header is JSON nested too deeply"
"$python" -c 'print("[" * 100000 + "]" * 100000)' >"$dir/bad/config.json"
bad_shard "config.json: the file is JSON nested too deeply"

rm "$dir/bad"/*.safetensors*
: >"$dir/bad/pytorch_model.bin"
bad_shard "found pytorch_model.bin"

# ---- configurations as models are published with them

run "$python" tests/published_configs.py
ok "published configurations" exits 0

# ---- llama2.c

name=llama2.c
run "$python" tests/tiny_llama2c.py 5 "$dir/l2c"
ok "$name: checkpoints are written" exits 0
for v in v0 v1; do
    exporting "$dir/l2c/$v.bin" -o "$dir/l2c/$v.gguf" --name "$name"
    ok "$name: $v is exported" exits 0
done
ok "$name: versions 0 and 1 are the same model" cmp "$dir/l2c/v0.gguf" "$dir/l2c/v1.gguf"
run "$dump" "$dir/l2c/v1.gguf" "$dir/l2c/ids" "$dir/l2c/f32" exact
tiny --compare "$dir/l2c/golden.json" "$dir/l2c/f32" $tolerance
ok "$name: the logits are the golden ones" exits 0
head -c 300 "$dir/l2c/v1.bin" >"$dir/l2c/cut.bin"
refused "size of the file" "$dir/l2c/cut.bin" -o "$dir/bad.gguf"
head -c 100 "$dir/l2c/v1.bin" >"$dir/l2c/cut.bin"
refused "version 0 or 1, found 100 bytes" "$dir/l2c/cut.bin" -o "$dir/bad.gguf"
printf '24ka\002\000\000\000' >"$dir/l2c/v2.bin"
refused "version 0 or 1, found version 2" "$dir/l2c/v2.bin" -o "$dir/bad.gguf"
printf 'PK\003\004' >"$dir/l2c/pytorch.bin"
refused "found a PyTorch archive" "$dir/l2c/pytorch.bin" -o "$dir/bad.gguf"

# ---- a name that other programs read more into

exporting "$dir/good" --name small-Phi-3 -o "$dir/named.gguf"
ok "a name with Phi-3 is written" exits 0
ok "but differently" grep -aqF small-Phi_3 "$dir/named.gguf"
ok "and that is said" complains "the name 'small-Phi-3' is written as 'small-Phi_3'"

# ---- the output never replaces an input

refused "ends in .gguf" "$dir/good" -o "$dir/good/$shard"
refused "ends in .gguf" "$dir/good" -o "$dir/model"
ok "no file of another extension is written" [ ! -e "$dir/model" ]
ln -s "good/$shard" "$dir/link.gguf"
refused "a file of its own" "$dir/good" -o "$dir/link.gguf"
mv "$dir/bad/$shard" "$dir/bad/b.gguf"
edit "$dir/bad/model.safetensors.index.json" \
    'c["weight_map"] = {k: v.replace("'"$shard"'", "b.gguf") for k, v in c["weight_map"].items()}'
refused "a file of its own" "$dir/bad" -o "$dir/bad/b.gguf"
ok "the weights are as they were" cmp "$dir/bad/b.gguf" "$dir/good/$shard"
mkdir "$dir/folder.gguf"
refused "expected a file, found a folder" "$dir/good" -o "$dir/folder.gguf"
refused "$dir/none/x.gguf: cannot be written" "$dir/good" -o "$dir/none/x.gguf"
ok "no partial file is named" sh -c "! grep -q partial '$err'"
(
    trap '' XFSZ
    ulimit -f 8
    "$python" export.py "$dir/good" -o "$dir/bad.gguf" 2>"$dir/full"
)
ok "a full disk is said of the output" grep -qF "$dir/bad.gguf: cannot be written" "$dir/full"
ok "and leaves nothing" [ ! -e "$dir/bad.gguf" ]
exporting "$dir/good" -o "$dir/good/again.gguf"
exporting "$dir/good" -o "$dir/good/again.gguf"
ok "an earlier output inside the folder may be replaced" exits 0
ok "no partial files are left" sh -c "! find '$dir' -name '*partial*' | grep -q ."

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
