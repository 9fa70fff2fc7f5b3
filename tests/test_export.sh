#!/bin/sh
# export.py from outside: test_export.sh PROGRAM DUMP_LOGITS, from the top of the checkout.
program=$1
dump=$2
. tests/check.sh
needs_python export.py
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE

# The golden logits are double precision; the program's are float32 (unit roundoff 6e-8) through
# two layers of sums of 16 to 96 terms. Over five kinds of model the largest difference measured
# is 3.4e-6 with logits up to 7; a wrong rotation, permutation or norm moves logits by 0.01 to 10.
tolerance=1e-5

tiny() { try "$python" tests/tiny_llama.py "$@"; }
exporting() { try "$python" export.py "$@"; }
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
    try "$program" tokenize "$dir/$1.gguf" -f "$dir/text" --ids
    ok "$name: the token ids of $1.gguf" cmp -s "$out" "$dir/ids"
    try "$dump" "$dir/$1.gguf" "$dir/ids" "$dir/$1.f32" exact
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
    try "$program" info "$dir/hf.gguf"
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
        try "$program" info "$dir/hf.gguf" --json
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
bad config.json 'c["architectures"] = ["Qwen2ForCausalLM"]' \
    "tensor model.layers.0.self_attn.q_proj.bias"
bad config.json 'c["attention_bias"] = 0' "attention_bias: expected true or false"
bad config.json 'c["layer_types"] = 5' "layer_types: expected a list"
bad config.json 'c["architectures"] = [["LlamaForCausalLM"]]' "architectures: expected"
bad config.json 'c["max_position_embeddings"] = 1e20' "max_position_embeddings: expected"
bad config.json 'c["rope_theta"] = 1e39' "rope_theta: expected"
bad config.json 'c["rms_norm_eps"] = 1e-30' "rms_norm_eps: expected"
bad config.json 'c["rms_norm_eps"] = 1e-60' "rms_norm_eps: expected"
bad config.json 'c["num_hidden_layers"] = 4000000000' "num_hidden_layers: expected at most 4096"
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

# ---- tokenizers: what GGUF cannot say

# ids FOLDER TEXT: the ids of a text in the folder's exported model.
ids() {
    rm -f "$dir/t.gguf"
    exporting "$1" -o "$dir/t.gguf"
    try "$program" tokenize "$dir/t.gguf" -p "$2" --ids --bos off --special
}

# edited STATEMENT: the good folder with its tokenizer.json edited, as $dir/tok. Byte b is token
# 2 + b; the last token, 259, makes room for an added one.
edited() {
    rm -rf "$dir/tok"
    cp -R "$dir/good" "$dir/tok"
    edit "$dir/tok/tokenizer.json" "m = c['model']
m['merges'], m['vocab'] = m['merges'][:1], {k: i for k, i in m['vocab'].items() if i < 259}
$1"
}

# Types: each edit of a good tokenizer.json, then the words.
while IFS='|' read -r change words; do
    edited "$change"
    refused "$words" "$dir/tok" -o "$dir/bad.gguf"
done <<'EDITS'
m["vocab"] = {}|model.vocab: expected an object from tokens to ids, not empty, found {}
m["vocab"]["Ā"] = 1.5|: expected an id, a whole number that is not negative, found 1.5
m["vocab"]["Ā"] = True|: expected an id, a whole number that is not negative, found True
m["vocab"]["Ā"] = "x"|: expected an id, a whole number that is not negative, found 'x'
m["merges"] = 0|model.merges: expected a list, found 0
m["merges"] = {}|model.merges: expected a list, found {}
m["merges"] = [5]|model.merges[0]: expected two tokens that make a third, found 5
m["merges"] = [[1, 2]]|model.merges[0]: expected two tokens that make a third, found [1, 2]
c["added_tokens"] = 0|added_tokens: expected a list, found 0
c["added_tokens"][0]["id"] = 0.0|added_tokens[0].id: expected an id
c["added_tokens"][0]["special"] = "no"|added_tokens[0].special: expected true or false, found 'no'
EDITS

accent=$(printf 'e\314\201')
added='{"id": 259, "content": "<r>", "single_word": False, "lstrip": False, "rstrip": True,
    "normalized": False, "special": False}'
edited 'pass'
ids "$dir/tok" "$accent"
ok "no normaliser: three bytes" says "^103 206 131$"
edited 'c["normalizer"] = {"type": "NFC"}'
ids "$dir/tok" "$accent"
ok "NFC: the two bytes of the composed letter" says "^197 171$"
edited "c['added_tokens'].append($added)"
ids "$dir/tok" "<r>  a"
ok "a token that swallows spaces" says "^259 99$"
edited "c['added_tokens'].append(dict($added, rstrip=False, content='\\u00e9', normalized=True))
c['normalizer'] = {'type': 'NFC'}"
ids "$dir/tok" "$accent"
ok "a token of normalised text" says "^259$"
edited 'c["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+"},
     "behavior": "Removed", "invert": True},
    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}'
refused "pre_tokenizer: expected a known split rule" "$dir/tok" -o "$dir/bad.gguf"
edited 'c["normalizer"] = {"type": "NFKC"}'
refused "normalizer: expected null" "$dir/tok" -o "$dir/bad.gguf"
edited "c['added_tokens'].append(dict($added, single_word=True))"
refused "added token '<r>'" "$dir/tok" -o "$dir/bad.gguf"

# A SentencePiece model: <unk> <s> </s>, 256 bytes, U+2581, and two spaces as the user's symbol.
model() { # NORMALIZER_SPEC: fields as Python, number and value; $dir/tok/tokenizer.model
    rm -rf "$dir/tok"
    cp -R "$dir/good" "$dir/tok"
    rm "$dir/tok/tokenizer.json" "$dir/tok/tokenizer_config.json"
    "$python" - "$dir/tok/tokenizer.model" "$1" <<'PYTHON'
import struct, sys
def number(n): return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + number(n >> 7)
def field(n, value):
    if isinstance(value, int): return number(n << 3) + number(value)
    return number(n << 3 | 2) + number(len(value)) + value
def piece(text, kind): return field(1, field(1, text.encode()) + number(2 << 3 | 5) +
                                    struct.pack("<f", 0) + field(3, kind))
pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)] + [("<0x%02X>" % b, 6) for b in range(256)]
pieces += [("\u2581\u2581", 4)]
data = b"".join(piece(*p) for p in pieces) + field(2, field(3, 2) + field(35, 1))
data += field(3, b"".join(field(n, v) for n, v in eval(sys.argv[2])))
open(sys.argv[1], "wb").write(data)
PYTHON
}
model '[(3, 1), (4, 0), (5, 1)]'
ids "$dir/tok" " a"
ok "sentencepiece: the space before the text is part of a symbol" says "^259 100$"
ids "$dir/tok" "  a"
ok "sentencepiece: and none comes after the symbol" says "^259 229 153 132 100$"
model '[(3, 1), (4, 1), (5, 1)]'
refused "normalizer_spec: expected no character map" "$dir/tok" -o "$dir/bad.gguf"

rm "$dir/bad"/*.safetensors*
: >"$dir/bad/pytorch_model.bin"
bad_shard "found pytorch_model.bin"

# ---- configurations as models are published with them

try "$python" tests/published_configs.py
ok "published configurations" exits 0

# ---- llama2.c

name=llama2.c
try "$python" tests/tiny_llama2c.py 5 "$dir/l2c"
ok "$name: checkpoints are written" exits 0
for v in v0 v1; do
    exporting "$dir/l2c/$v.bin" -o "$dir/l2c/$v.gguf" --name "$name"
    ok "$name: $v is exported" exits 0
done
ok "$name: versions 0 and 1 are the same model" cmp "$dir/l2c/v0.gguf" "$dir/l2c/v1.gguf"
try "$dump" "$dir/l2c/v1.gguf" "$dir/l2c/ids" "$dir/l2c/f32" exact
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

# ---- a name or a rule that nobody can read, and an end before the end

exporting "$dir/good" -o "$dir/bad.gguf" --name "$(printf '\377')"
ok "a name that is not UTF-8: a usage error" exits 2
ok "and a sentence" complains "--name: expected UTF-8, found b'\\xff'"
exporting "$dir/good" -o "$dir/bad.gguf" --pre xx
ok "an unknown --pre: a usage error" exits 2
ok "and a sentence" complains "found 'xx'"
try "$python" -c 'import re, sys
sys.path.insert(0, ".")
from export import PRE_KNOWN
rows = open("tokenizer.c").read().split("Pre PRES[] = {")[1].split("enum {")[0]
known = set(" ".join(re.findall(r"\"([^\"]*)\"", rows)).split())
assert known == PRE_KNOWN, known ^ PRE_KNOWN'
ok "--pre knows the names of tokenizer.c" exits 0

# early EXCEPTION: the export of the good folder, with this in place of the end of writing.
early() {
    try "$python" -c 'import os, signal, sys
sys.path.insert(0, ".")
import export
ending = sys.argv.pop()
def cut(f, pairs, tensors):
    f.write(b"GGUF")
    f.flush()
    exec(ending)
    raise AssertionError("it went on")
export.write_gguf = cut
sys.exit(export.main())' "$dir/good" -o "$dir/bad.gguf" "$1"
    ok "$1: one sentence" [ "$(wc -l <"$err")" -eq 1 ]
    ok "$1: no file, whole or partial" sh -c "! ls '$dir' | grep -q 'partial\|bad.gguf'"
}
early 'os.kill(os.getpid(), signal.SIGTERM)'
ok "SIGTERM: status 143" exits 143
ok "SIGTERM: the sentence" complains "export.py: terminated, no output is written"
early 'signal.signal(signal.SIGINT, signal.default_int_handler); signal.raise_signal(signal.SIGINT)'
ok "SIGINT: status 130" exits 130
ok "SIGINT: the sentence" complains "export.py: interrupted, no output is written"
early 'raise MemoryError'
ok "no memory: status 1" exits 1
ok "no memory: the sentence" complains "out of memory"

# ---- a name that other programs read more into

exporting "$dir/good" --name small-Phi-3 -o "$dir/named.gguf"
ok "a name with Phi-3 is written" exits 0
ok "but differently" grep -aqF small-Phi_3 "$dir/named.gguf"
ok "and that is said" complains "the name 'small-Phi-3' is written as 'small-Phi_3'"

# ---- what GGUF assumes where Hugging Face does not
# A missing cap or window of Gemma 2 means the usual one: none is said by 0. Where the format wants
# an output matrix, that of a tied model is the embedding again.

knows() { # STATEMENTS: about c, the configuration in $dir/config
    try "$python" -c 'import sys
from pathlib import Path
sys.path.insert(0, ".")
import export
c = export.read_config(Path(sys.argv[1]), [])
exec(sys.argv[2])' "$dir/config" "$1"
}
mkdir "$dir/config"
shape='"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8,
    "num_key_value_heads": 2, "intermediate_size": 6, "vocab_size": 5'
config() { # CLASS KEYS
    echo "{\"architectures\": [\"${1}ForCausalLM\"], $2, $shape}" >"$dir/config/config.json"
}
config Gemma2 '"attn_logit_softcapping": null, "layer_types": ["full_attention", "full_attention"]'
knows 'scales = dict(c.scales)
assert scales["attn_logit_softcapping"] == 0 and scales["final_logit_softcapping"] == 30
assert list(export.window_metadata(c)) == [("gemma2.attention.sliding_window", "u32", 0)]'
ok "a Gemma 2 without a cap and a window says so" exits 0
config Mistral '"sliding_window": 8, "use_sliding_window": false, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64'
knows 'assert list(export.window_metadata(c)) == [("llama.attention.sliding_window", "u32", 8)]'
ok "a Mistral keeps its window: its class has no use_sliding_window" exits 0
made='sizes = c.letters()
found = {r.hf: export.Source(Path("x"), 0, "F32", tuple(sizes[l] for l in r.letters))
         for r in export.wanted(c, True)}
made = {t.name: t for t in export.collect_tensors("x", c, found, True)}'
for class in Phi GPTNeoX GPTJ StableLm Olmo2 Olmo3; do
    case $class in
    GPTJ) more='"rotary_dim": 4' ;;
    GPTNeoX) more='"rotary_emb_base": 100.0' ;;
    *) more='"rope_theta": 100.0' ;;
    esac
    config $class "$more, \"tie_word_embeddings\": true"
    knows "$made
assert made['output.weight'].shape == made['token_embd.weight'].shape == (5, 16)"
    ok "$class: the output matrix of a tied model is written" exits 0
done
config Llama '"tie_word_embeddings": true, "rms_norm_eps": 1e-5'
knows "$made
assert 'token_embd.weight' in made and 'output.weight' not in made"
ok "but not where the format takes the embedding" exits 0

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
