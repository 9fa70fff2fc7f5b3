#!/usr/bin/env python3
"""Logits of random checkpoints of every family: transformers, ropescope and llama.cpp.

    python3 tests/bench/cross_families.py --program build/CONFIGURATION/tests/dump_logits \\
        [--llama-cpp CHECKOUT] [--llama-logits PROGRAM] [--type f32|bf16|f16] [NAME...]

--program: `make test` builds it. Needs torch, transformers (run with 5.23), tokenizers and
sentencepiece, and for the columns of llama.cpp (run with 0c1e57098, of October 2026): --llama-cpp,
a checkout of it, for convert_hf_to_gguf.py; --llama-logits, a program of your own that writes the
logits of a file of token ids as float32 [T][vocabulary]: PROGRAM MODEL IDS OUT. It should keep its
cache in float32 (type_k, type_v), without flash attention.

For each row of cross_models.py transformers makes a model with random weights that --type can hold,
computes its logits of 40 tokens in float32 ("eager" attention) and saves it in --type. It becomes a
GGUF file twice: "ours" by export.py, "theirs" by llama.cpp's converter. ropescope (exact) and
llama.cpp compute the logits of both files. Each figure is

    max |difference| / max |logit of transformers|      over all tokens and the whole vocabulary

of two programs ("hf": transformers): about 1e-6 where they add the same numbers in another order,
which is all that may differ. llama.cpp takes GELU from a table of F16 numbers: 1e-4 to 1e-3, from
transformers and from ropescope alike; and it rounds what it multiplies with BF16 or F16 weights to
their type: 1e-2 and 1e-3, and more where that makes a router choose another expert. Where a model
has in it what llama.cpp or its converter leaves out figures are large, and a line below the row
says what it is; lines below also say what a program refused or remarked. --families prints a
Markdown table, the worst of the models of each family, with the models of which llama.cpp leaves
something out below it.

Ends with status 1 if ropescope on our file is more than TOLERANCE from transformers.
"""
import argparse
import json
import logging
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from cross_models import MODELS, N_TOKENS, SMALL  # noqa: E402
from make_miniatures import randomise  # noqa: E402

# Float32 on both sides: 2^-24 of each value, in sums of some hundred terms, over 3 to 7 layers; the
# worst that was seen is 6.3e-6. A wrong epsilon, GELU or angle is 1e-4 and more.
TOLERANCE = 1e-5
KINDS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
IDS = [(7 * i * i + 13 * i + 3) % 499 + 3 for i in range(40)]


def write_tokenizers(folder):
    """A byte-level BPE and a sentencepiece of N_TOKENS, trained on the README; no text is read."""
    import sentencepiece
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    text = str(ROOT / "README.md")
    for name in ("bpe", "spm"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = bytes_of
    bpe.train([text], trainers.BpeTrainer(
        vocab_size=N_TOKENS, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=bytes_of.alphabet()))
    bpe.save(str(folder / "bpe" / "tokenizer.json"))
    sentencepiece.SentencePieceTrainer.train(
        input=text, model_prefix=str(folder / "spm" / "tokenizer"), model_type="bpe",
        vocab_size=N_TOKENS, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2)
    for name, kind in (("bpe", "GPT2Tokenizer"), ("spm", "LlamaTokenizer")):
        (folder / name / "tokenizer_config.json").write_text(json.dumps(dict(
            tokenizer_class=kind, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
            add_bos_token=kind == "LlamaTokenizer")))


def respell(name, folder):
    """config.json as published files have it, where transformers 5 writes it otherwise."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if name == "gptneox":
        rope = config.pop("rope_parameters")
        config["rotary_pct"] = rope["partial_rotary_factor"]
        config["rotary_emb_base"] = int(rope["rope_theta"])
    elif name == "olmo3-factor":
        config["rope_scaling"] = config.pop("rope_parameters")["full_attention"]
        config["rope_theta"] = config["rope_scaling"].pop("rope_theta")
    path.write_text(json.dumps(config, indent=1))


def make(name, kind, folder, tokenizers):
    """The checkpoint in `folder`, and its logits, float32 [T][V]."""
    row = MODELS[name]
    kept = ("pad_token_id", "sliding_window")       # None says something
    keys = {k: v for k, v in {**SMALL, **row.keys}.items() if v is not None or k in kept}
    config = getattr(transformers, row.cls + "Config")(**keys)
    config._attn_implementation = "eager"
    cls = getattr(transformers, row.cls.replace("Text", "") + "ForCausalLM")
    model = cls(config).float().eval()
    randomise(model, sum(map(ord, name)), kind)
    with torch.no_grad():
        logits = model(torch.tensor([IDS]), use_cache=False).logits[0].numpy()
    model.to(kind).save_pretrained(folder)
    for file in (tokenizers / ("spm" if row.spm else "bpe")).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    respell(name, folder)
    return logits


class Converter:
    """convert_hf_to_gguf.py of a checkout of llama.cpp, with what it needs for these models."""

    def __init__(self, checkout):
        sys.path[:0] = [str(checkout), str(checkout / "gguf-py")]
        import convert_hf_to_gguf
        from conversion import base, stablelm
        self.main, self.errors = convert_hf_to_gguf.main, []
        # Tokenizers are known by a hash of what they make of a text; ours are not on the list.
        base.TextModel.get_vocab_base_pre = lambda model, tokenizer: "gpt-2"
        # transformers 5 moves rotary_pct into rope_parameters, where it is not looked for.
        load = base.ModelBase.load_hparams

        def load_hparams(*args, **named):
            config = load(*args, **named)
            rope = config.get("rope_parameters") or {}
            config.setdefault("rotary_pct", rope.get("partial_rotary_factor", 1.0))
            return config
        base.ModelBase.load_hparams = staticmethod(load_hparams)
        # StableLM 2 12B: a generator *returns* another one with the stacked norms, which are lost.
        modify = stablelm.StableLMModel.modify_tensors

        def modify_tensors(*args):
            last = yield from modify(*args)
            yield from last or ()
        stablelm.StableLMModel.modify_tensors = modify_tensors
        handler = logging.Handler(logging.ERROR)
        handler.emit = lambda record: self.errors.append(record.getMessage())
        logging.getLogger().addHandler(handler)

    def __call__(self, folder, out, kind):
        """Writes `out`; the reason if that failed."""
        self.errors.clear()
        argv, sys.argv = sys.argv, ["convert", str(folder), "--outfile", str(out), "--outtype",
                                    kind, "--model-name", "random"]
        try:
            with redirect_stderr(StringIO()):
                self.main()
        except (Exception, SystemExit) as problem:
            return "llama.cpp's converter: " + "; ".join(self.errors or [repr(problem)])
        finally:
            sys.argv = argv


def run(command, who, notes):
    """True if the program succeeds; what it says becomes a note."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    said = done.stderr.strip()
    if done.returncode or who == "export.py" and said:
        notes.append(f"{who}: {said[-300:] or done.returncode}")
    return not done.returncode


def cross(name, a, convert, work):
    """The figures and notes of one model."""
    folder, ids, out = work / name, work / "ids.txt", work / "logits.f32"
    want = make(name, KINDS[a.type], folder, work / "tokenizers")
    files = {"ours": work / f"{name}-ours.gguf", "theirs": work / f"{name}-theirs.gguf"}
    result = {"name": name, "type": a.type, "notes": list(filter(None, [MODELS[name].left_out]))}
    notes, got = result["notes"], {}
    for file in files.values():
        file.unlink(missing_ok=True)
    run([sys.executable, ROOT / "export.py", folder, "--name", "random", "-o", files["ours"]],
        "export.py", notes)
    if convert:
        notes += filter(None, [convert(folder, files["theirs"], a.type)])
    ids.write_text(" ".join(map(str, IDS)))
    for which, file in files.items():
        for who, program in (("ropescope", a.program), ("llama.cpp", a.llama_logits)):
            if program and file.exists() and run([program.resolve(), file, ids, out],
                                                 f"{who}, {which}", notes):
                got[who, which] = np.fromfile(out, np.float32).reshape(len(IDS), -1)

    def apart(x, y):
        if x is None or y is None:
            return None
        n = min(x.shape[1], y.shape[1])     # Gemma's converter leaves rows without a token out
        far = np.nan_to_num(np.abs(x[:, :n] - y[:, :n]), nan=np.inf).max()
        return float(far / np.abs(want).max())
    for which in files:
        ours, theirs = got.get(("ropescope", which)), got.get(("llama.cpp", which))
        result[which] = {"transformers-ropescope": apart(want, ours),
                         "transformers-llama.cpp": apart(want, theirs),
                         "ropescope-llama.cpp": apart(ours, theirs)}
    return result


PAIRS = ("transformers-ropescope", "transformers-llama.cpp", "ropescope-llama.cpp")


def figures(result):
    return [result[which][pair] for pair in PAIRS for which in ("ours", "theirs")]


def cells(values):
    return ["-" if x is None else f"{x:.1e}" for x in values]


def print_row(result):
    print(f"{result['name']:19}" + "".join(f"{x:>10}" for x in cells(figures(result))))
    for text in result["notes"]:
        print("    " + text.replace("\n", "\n    "))
    sys.stdout.flush()


def print_families(results):
    """Markdown. Of models of which llama.cpp leaves something out only the first figure counts."""
    print("| family | models | " + " | ".join(f"{pair}, {which}" for pair in PAIRS
                                              for which in ("ours", "theirs")) + " |")
    print("|---" * 8 + "|")
    families = {}
    for r in results:
        families.setdefault(r["name"].split("-")[0], []).append(r)
    for family, rows in families.items():
        columns = zip(*([figures(r)[0]] + [None] * 5 if MODELS[r["name"]].left_out else figures(r)
                        for r in rows))
        worst = [max((x for x in column if x is not None), default=None) for column in columns]
        print(f"| {family} | {len(rows)} | " + " | ".join(cells(worst)) + " |")
    print()
    for r in results:
        if MODELS[r["name"]].left_out:
            print(f"- {r['name']}: {', '.join(cells(figures(r)))}: {MODELS[r['name']].left_out}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--program", type=Path, required=True, help="dump_logits")
    p.add_argument("--llama-cpp", type=Path, metavar="FOLDER", help="a checkout, for its converter")
    p.add_argument("--llama-logits", type=Path, metavar="PROGRAM", help="called with MODEL IDS OUT")
    p.add_argument("--type", choices=KINDS, default="f32", help="of the weights")
    p.add_argument("--work", type=Path, metavar="FOLDER", help="keeps models and files")
    p.add_argument("--json", action="store_true")
    p.add_argument("--families", action="store_true", help="one row for each family, in Markdown")
    p.add_argument("names", nargs="*", metavar="NAME", help=" ".join(MODELS))
    a = p.parse_args()
    unknown = set(a.names) - set(MODELS)
    if unknown:
        p.error("no such model: " + " ".join(sorted(unknown)))
    for path in filter(None, (a.program, a.llama_logits, a.llama_cpp)):
        if not path.exists():
            p.error(f"{path}: there is no such file")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    convert = Converter(a.llama_cpp) if a.llama_cpp else None
    rows = not (a.json or a.families)
    if rows:
        print(" " * 19 + "".join(f"{pair.replace('transformers', 'hf'):>20}" for pair in PAIRS))
        print(f"{'model':19}" + f"{'ours':>10}{'theirs':>10}" * 3)
    with tempfile.TemporaryDirectory() as scratch:
        work, results = a.work or Path(scratch), []
        write_tokenizers(work / "tokenizers")
        for name in a.names or MODELS:
            results.append(cross(name, a, convert, work))
            if rows:
                print_row(results[-1])
    if a.json:
        print(json.dumps(results, indent=1))
    if a.families:
        print_families(results)
    return any(x is None or not x <= TOLERANCE for x in (figures(r)[0] for r in results))


if __name__ == "__main__":
    sys.exit(main())
