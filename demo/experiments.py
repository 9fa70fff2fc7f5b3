#!/usr/bin/env python3
"""One experiment: the short training with one change, read, and compared with what was recorded.

    make -C demo experiment-nope              RECORD=1 writes experiments/nope.txt instead
    python3 demo/experiments.py --list        the experiments there are

What is printed follows from recipe, texts and vocabulary alone: training and reading give the same
bits on every machine and with any number of threads, so a result is compared byte for byte. Ctrl-C
stops the training; the same command goes on. Status 0: as recorded; 1: it differs; 2: anything
wrong, or no record. Python standard library only.

The change is the last of the options, so that it holds. Two of them are worked out from the recipe,
with n the values of a head, T the tokens of a sequence, pair j turning by base^(-2j/n) per token:

    base-small   the slowest pair makes a whole turn within T:  base^(1 - 2/n) <= T / 2 pi
    p-rope       the pairs that make no whole turn, from ceil(n/2 ln(T/2 pi) / ln base) on, are
                 left unturned"""

import argparse
import difflib
import hashlib
import math
import os
import shlex
import signal
import subprocess
import sys
import traceback

from emergence import Refused, asked

HEADS = 8  # listed one by one
POSITIONS = 4  # likewise
CONTROLS = 3  # drops of as many random pairs
HOW = "pass", "threads", "isa", "log"


class Stopped(Exception):
    """The training was told to stop."""


def sha(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


# ---- the recipe and its change


def option(recipe, name, usual):
    """The last value that a recipe gives to --name, as demo/train takes it."""
    at = [i for i, word in enumerate(recipe[:-1]) if word == "--" + name]
    return recipe[at[-1] + 1] if at else usual


class Recipe:
    """The options of demo/train that all experiments share, without those that change no result."""

    def __init__(self, text):
        self.words, self.how = shlex.split(text), []
        for name in HOW:
            while "--" + name in self.words[:-1]:
                i = self.words.index("--" + name)
                self.how += self.words[i:i + 2]
                del self.words[i:i + 2]
        self.n = int(option(self.words, "head-dim", 32))
        self.T = int(option(self.words, "ctx", 512))
        self.steps = int(option(self.words, "steps", 1000))
        self.batch = int(option(self.words, "batch", 8))
        kind, _, rest = option(self.words, "rope", "plain").partition(":")
        keys = dict(k.split("=", 1) for k in rest.split(",") if "=" in k)
        if kind != "plain" or set(keys) - {"base"}:
            raise Refused("--rope of the recipe: expected plain:base=..., which experiments change")
        self.base = float(keys.get("base", 10000))


def pairs_of(o, rope, n, T):
    """(x, class) of every pair, as `ropescope bounds` has them."""
    said = asked(o.program, "bounds", "--base", rope, "--n-rot", str(n), "--ctx", str(T))
    table = said["encodings"][0]["rope"]
    return table["x"], table["class"]


def small_base(o, r):
    """The largest base of two digits with which no pair stays within one turn."""
    most = (r.T / (2 * math.pi)) ** (r.n / (r.n - 2)) if r.n > 2 else 0
    if most < 2:
        raise Refused(f"base-small: {r.T} tokens are too few for a turn of every pair")
    unit = 10 ** max(int(math.floor(math.log10(most))) - 1, 0)
    base = int(most // unit * unit)
    x, kind = pairs_of(o, str(base), r.n, r.T)
    if set(kind) != {"full"}:
        raise Refused(f"base-small: with base {base} the slowest pair has x = {x[-1]:.3f}")
    return (["--rope", f"plain:base={base}"],
            f"base^(1 - 2/n) <= T/2 pi for n = {r.n}, T = {r.T}: base <= {most:.1f}; "
            f"x of the slowest pair: {x[-1]:.3f}")


def p_rope(o, r):
    """The pairs of the recipe that make no whole turn do not turn at all."""
    _, kind = pairs_of(o, repr(r.base), r.n, r.T)
    turning, P = kind.count("full"), r.n // 2
    if not 0 < turning < P:
        raise Refused(f"p-rope: {turning} of {P} pairs make a whole turn: nothing to choose")
    fraction = turning / P
    if math.floor(fraction * r.n / 2) != turning:
        fraction = (turning + 0.5) / P
    return (["--rope", f"p-rope:fraction={fraction!r},base={r.base:g}"],
            f"pairs 0 .. {turning - 1} turn as in the reference, {turning} .. {P - 1}, which made "
            "no whole turn there, do not")


EXPERIMENTS = {
    "reference": lambda o, r: ([], "none: what the others are compared with"),
    "base-10000": lambda o, r: (["--rope", "plain:base=10000"], "the base of most models"),
    "base-small": small_base,
    "p-rope": p_rope,
    "nope": lambda o, r: (["--rope", "none"], "no pair turns"),
    "no-bos": lambda o, r: (["--no-bos"], "sequences begin in the midst of a text, with no <s>"),
}


# ---- training


def trained(words):
    """Runs the trainer to its end; signals are its own business: it saves, and ends."""
    was = {}
    with subprocess.Popen(words) as child:
        def pass_on(sig, _):
            child.send_signal(sig)
        for sig in (signal.SIGINT, signal.SIGTERM):
            was[sig] = signal.signal(sig, pass_on)
        try:
            status = child.wait()
        finally:
            for sig, handler in was.items():
                signal.signal(sig, handler)
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise Stopped(status)
    if status:
        raise Refused(f"{words[0]} ended with status {status}")


def model_of(o, r, change):
    """Path of the trained model. Names of files are those of recipe and texts: what was trained of
    these is gone on with, anything else begins anew."""
    whole = r.words, change, sha(o.text), sha(o.vocab)
    key = hashlib.sha256(repr(whole).encode()).hexdigest()[:8]
    stem = os.path.join(o.work, f"{o.name}-{key}")
    os.makedirs(o.work, exist_ok=True)
    model = stem + ".gguf"
    trained([o.train, "--text", o.text, "--held-out", o.held, "--vocab", o.vocab, *r.words, *change,
             *r.how, *shlex.split(o.how), "--checkpoint", stem + ".checkpoint", "--type", "f32",
             "--out", model])
    if not os.path.exists(model):
        raise Stopped(0)
    return model


# ---- reading


def ranges(numbers):
    """[0, 2, 3, 4] as 0,2-4."""
    out = []
    for j in numbers:
        if out and out[-1][1] == j - 1:
            out[-1][1] = j
        else:
            out.append([j, j])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def slow_pairs(reading):
    """Pairs that make no whole turn over the context, or none at all."""
    return [j for j, c in enumerate(reading["ropes"][0]["class"]) if c != "full"]


class Reading:
    """The model on the held-out text: analysis, perplexity, and with pairs taken away."""

    def __init__(self, o, r, model):
        bos = ["--bos", "off"] if o.name == "no-bos" else []
        if bool(bos) == asked(o.program, "info", model)["tokenizer"]["add_bos"]:
            raise Refused(f"{model}: expected add_bos_token {str(not bos).lower()}")
        where = [model, "-f", o.held, "-c", str(r.T), *bos]
        cut = ["-n", str(o.windows * r.T)]
        self.all = asked(o.program, "analyze", *where, *cut)
        if len(self.all["ropes"]) != 1:
            raise Refused("the recipe: expected one encoding for all layers")
        self.perplexity = asked(o.program, "perplexity", *where, "--exact", "--protocol", "full",
                                "--chunks", str(o.windows))
        slow, P = slow_pairs(self.all), self.all["ropes"][0]["n_pairs"]
        still = "still" in self.all["ropes"][0]["class"]
        self.ablation = None
        if 0 < len(slow) < P:
            drop = ranges(slow) if still else "partial"
            self.ablation = asked(o.program, "ablate", *where, *cut, "--drop", drop, "--protocol", "full",
                                  "--controls", str(CONTROLS))


# ---- the result


def num(x, digits):
    return "-" if x is None else f"{x:.{digits}f}"


def share(x):
    return "-" if x is None else f"{100 * x:.1f}%"


def wrapped(label, words, indent=10):
    """'label   words...' in lines of at most 100 columns, the options of a recipe by name."""
    lines, line = [], label.ljust(indent)
    for word in words:
        if len(line) + 1 + len(word) > 100:
            lines.append(line.rstrip())
            line = " " * indent
        line += word + " "
    return lines + [line.rstrip()]


def heading(o, r, change, why):
    yield f"Experiment {o.name}, expected bit for bit on every machine, with any number of threads."
    yield f"Made by `make -C demo experiment-{o.name}` (RECORD=1 wrote it)."
    yield ""
    yield from wrapped("recipe", r.words)
    yield from wrapped("change", change or ["-"])
    yield from wrapped("", f"({why})".split(" "))
    for label, path in (("text", o.text), ("held out", o.held), ("vocab", o.vocab)):
        yield f"{label:<10}{sha(path)}"
    yield f"read      the first {o.windows} windows of {r.T} tokens of the held-out text"


def totals(r, read):
    a, s, p = read.all, read.all["summary"], read.perplexity
    rope = a["ropes"][0]
    kinds = [(rope["class"].count(c), w) for c, w in (
        ("full", "full-cycle"), ("partial", "partial-cycle"), ("half", "half-cycle"),
        ("still", "unturned"))]
    yield "encoding", f"{rope['kind']}, base {rope['base']:g}; pairs: " + ", ".join(
        f"{n} {word}" for n, word in kinds if n)
    yield "<s>", "in front of every window" if a["provenance"]["bos_id"] >= 0 else "none"
    divisors = 0 if rope["kind"] == "plain" else rope["n_pairs"]  # in the file, but not learnt
    yield "parameters", str(a["provenance"]["n_params"] - divisors)
    yield "steps", f"{r.steps} of {r.batch} sequences of {r.T} tokens"
    yield "perplexity", f"{num(p['perplexity'], 4)} held out ({p['tokens_scored']} tokens)"
    yield "Sink_1^0.3", (f"{share(s['sink_1'])} of {s['n_samples']} samples, "
                         f"over the first {s['alpha_t']} queries")
    yield "alpha_1", (f"{num(s['alpha_1'], 4)} over {s['alpha_queries']} queries (equal weights: "
                      f"{num(s['alpha_1_uniform'], 4)}), {num(s['alpha_1_t'], 4)} over the first "
                      f"{s['alpha_t']}")
    yield "candidates", f"{s['n_candidates']} in {s['n_candidate_heads']} of {s['n_heads']} heads"


def all_heads(reading):
    return [(y["layer"], h) for y in reading["layers"] for h in y["heads"]]


def mean(values):
    there = [v for v in values if v is not None]
    return math.fsum(there) / len(there) if there else None


def pair_rows(reading):
    """Per pair: over all heads, how strong, in how many the strongest, what it does for a sink."""
    rope, heads = reading["ropes"][0], [h for _, h in all_heads(reading)]
    yield ("pair         x class    ratio: mean      max  top of"
           "  candidate  sink logit  others   lift")
    for j in range(rope["n_pairs"]):
        ratio = [h["ratio"][j] for h in heads if h["ratio"][j] is not None]
        top = "-" if rope["class"][j] == "still" else sum(h["top_pair"] == j for h in heads)
        sink, others = (mean(h[k][j] for h in heads) for k in ("logit_sink", "logit_others"))
        lift = None if sink is None or others is None else sink - others
        yield (f"{j:>4} {rope['x'][j]:>9.3f} {rope['class'][j]:<8} {num(mean(ratio), 2):>11} "
               f"{num(max(ratio, default=None), 2):>8} {top:>7} "
               f"{sum(j in h['candidates'] for h in heads):>10} {num(sink, 3):>11} "
               f"{num(others, 3):>7} {num(lift, 3):>6}")


def alpha_rows(reading):
    width = max(len(y["heads"]) for y in reading["layers"])
    yield "layer" + "".join(f"{h:>7}" for h in range(width))
    for y in reading["layers"]:
        yield f"{y['layer']:>5}" + "".join(f"{num(h['alpha_1'], 3):>7}" for h in y["heads"])


def top_rows(reading):
    """The heads whose first token takes most, and the pair that lifts it most above the others."""
    rope = reading["ropes"][0]
    yield "layer head  alpha_1  Sink_1^0.3  lifted by pair         x   lift  all pairs"
    rows = sorted(all_heads(reading), key=lambda p: (-p[1]["alpha_1"], p[0], p[1]["head"]))
    for layer, h in rows[:HEADS]:
        lift = [s - o for s, o in zip(h["logit_sink"], h["logit_others"])]
        j = max(range(len(lift)), key=lambda i: (lift[i], -i))
        yield (f"{layer:>5} {h['head']:>4} {num(h['alpha_1'], 3):>8} {share(h['sink_share']):>11} "
               f"{j:>15} {rope['x'][j]:>9.3f} {num(lift[j], 2):>6} {num(math.fsum(lift), 2):>10}")


def position_rows(reading):
    """Which of the first keys is the sink: alpha_k of all heads, and heads whose largest it is."""
    s = reading["summary"]
    heads = [h for _, h in all_heads(reading)]
    yield "key   alpha_k  Sink_k^0.3  largest of its head in   most in one head"
    there = [k for k, a in enumerate(s["alpha_k"]) if a is not None]
    for k in sorted(sorted(there, key=lambda k: (-s["alpha_k"][k], k))[:POSITIONS]):
        most = max((h["alpha"][k] for h in heads if h["alpha"][k] is not None), default=None)
        yield (f"{k:>3} {num(s['alpha_k'][k], 4):>9} {share(s['sink_k'][k]):>11} "
               f"{sum(h['sink_key'] == k for h in heads):>14} heads {num(most, 3):>18}")


def ablation_rows(read):
    if read.ablation is None:
        rope = read.all["ropes"][0]
        yield ("every pair is as slow as any other: there is nothing to hold a drop against"
               if rope["class"].count("still") == rope["n_pairs"] else
               "no pair makes less than one turn over the context: there is none to drop")
        return
    yield f"{'run':<44}{'pairs':>7}{'perplexity':>12}{'alpha_1':>9}{'Sink_1^0.3':>12}"
    for run in read.ablation["runs"]:
        yield (f"{run['name'][:43]:<44}{run['n_edited']:>7}{num(run['perplexity'], 2):>12}"
               f"{num(run['alpha_1'], 3):>9}{share(run['sink_1']):>12}")


def report(o, r, change, why, read):
    """The text that is recorded."""
    lines = list(heading(o, r, change, why)) + [""]
    lines += [f"{label:<12}{text}" for label, text in totals(r, read)]
    for title, rows in (
            ("Pairs, over all heads: r_q r_k over that of the median pair that turns; heads whose\n"
             "strongest it is; its mean part of the logit of the first token, and of the others",
             pair_rows(read.all)),
            ("alpha_1 of every head", alpha_rows(read.all)),
            ("The heads whose first token takes most", top_rows(read.all)),
            ("Where the attention collects, by position", position_rows(read.all)),
            ("Without the pairs that make no whole turn", ablation_rows(read))):
        lines += ["", title, *rows]
    return "".join(line.rstrip() + "\n" for line in lines)


# ---- the comparison


def written(path, text):
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(path + ".tmp", path)


def compare(path, text):
    """Status: 0 if the text is the recorded one, else 1; 2 without a record."""
    try:
        with open(path, encoding="utf-8", newline="") as f:
            expected = f.read()
    except FileNotFoundError:
        print(f"{path}: nothing is recorded yet; RECORD=1 records this result")
        return 2
    if expected == text:
        print(f"As recorded: {path}, byte for byte.")
        return 0
    sys.stdout.writelines(difflib.unified_diff(
        expected.splitlines(True), text.splitlines(True), "recorded", "this run"))
    print(f"DIFFERENT from what is recorded in {path} (lines with - are recorded, with + of this "
          "run).")
    return 1


def run(o):
    r = Recipe(o.recipe)
    change, why = EXPERIMENTS[o.name](o, r)
    print(f"Experiment {o.name}: {' '.join(change) or 'no change'} ({why})", flush=True)
    text = report(o, r, change, why, Reading(o, r, model_of(o, r, change)))
    path = os.path.join(o.recorded, o.name + ".txt")
    print("\n" + text)
    if not o.record:
        return compare(path, text)
    written(path, text)
    print(f"Recorded: {path}")
    return 0


def main():
    p = argparse.ArgumentParser(description="One experiment of the demo; see demo/experiments.")
    p.add_argument("name", nargs="?", choices=list(EXPERIMENTS), metavar="NAME")
    p.add_argument("--list", action="store_true", help="names of the experiments")
    for name, usual, what in (
            ("program", "./ropescope", "ropescope"), ("train", "demo/train", "the trainer"),
            ("text", "demo/text/train.txt", "text to learn from"),
            ("held", "demo/text/held.txt", "text to be read"),
            ("vocab", "demo/text/vocab.gguf", "GGUF file with the vocabulary"),
            ("recipe", "", "options of the trainer"),
            ("how", "", "more options, that change no result: --threads, --pass"),
            ("work", "demo/runs", "folder for checkpoints and models"),
            ("recorded", "demo/experiments", "folder of the records")):
        p.add_argument("--" + name, default=usual, help=f"{what} ({usual})")
    p.add_argument("--windows", type=int, default=16, help="windows of the held-out text (16)")
    p.add_argument("--record", action="store_true", help="write the record")
    o = p.parse_args()
    if o.list:
        print("\n".join(EXPERIMENTS))
        return 0
    if not o.name:
        p.error("which experiment? " + ", ".join(EXPERIMENTS))
    try:
        return run(o)
    except Stopped as stop:
        print("The training is not at its end; the same command goes on from there.")
        return stop.args[0] or 2
    except (Refused, OSError) as error:
        print(f"experiments.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception:  # status 1 is for a result that differs
        traceback.print_exc()
        return 2


if __name__ == "__main__":
    sys.exit(main())
