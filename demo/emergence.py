#!/usr/bin/env python3
"""How offset features and attention sinks come to be: the statistics of checkpoints over training.

    make -C demo emergence
    python3 demo/emergence.py --program ./ropescope --text demo/sample.txt -o emergence.json \\
        A-000100.gguf A-000200.gguf 400=A.gguf

Each checkpoint is read with `ropescope analyze --json` and `ropescope ablate --json` (or, with
--no-ablate, `ropescope perplexity --json`); every number of emergence.json is a field of these, or
a count, mean or largest value of such fields. `ropescope report READING.json --emergence
emergence.json` shows it. Only rounded numbers are kept, one line for each quantity of a layer, so
that two files can be compared line by line; the same checkpoints and text give the same bytes.

A checkpoint is STEP=FILE, FILE-000100.gguf (as `demo/train --snapshots` names them), or
N+FILE-000100.gguf, which is step N + 100: of a second part of training. All must be of one model:
the same shape, encoding and vocabulary. P, the context of x = theta P and the window length, is
that of the last step for all of them.

Python standard library only; a tool to make the file with, not needed to build or run anything."""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time

SCHEMA = "ropescope.emergence/1"
RATIO_CELLS = 8192  # steps times heads times pairs: up to here, the ratio of every pair is kept
THRESHOLDS = ("strong_ratio", "strong_r", "sink_eps", "sink_t")
OPTIONS = ("n_skip", "strong_ratio", "strong_r", "sink_eps", "sink_t", "massive_ratio", "act_min",
           "act_ratio")
SHAPE = ("architecture", "n_params", "n_layers", "n_embd", "n_heads", "n_kv_heads", "head_dim",
         "n_vocab")
SAME = ("version", "text_sha256", "n_tokens", "n_windows", "n_ctx", "bos_policy", "activations",
        "kv")
ROPE = ("kind", "base", "factor", "n_pairs", "n_ctx", "theta", "x")
STEP = ("sink_1", "alpha_1", "alpha_1_uniform", "n_sinks", "n_sinks_elsewhere", "sink_elsewhere",
        "n_heads", "n_top", "n_strong", "n_candidates", "n_candidate_heads")
RUN = ("name", "perplexity", "alpha_1", "sink_1")
NOTES = {
    "ablation": "what ropescope ablate says: the model as it is, without the partial-cycle pairs, "
                "and with as many random full-cycle pairs dropped; BOS takes the place of the "
                "first token of later windows, as in perplexity, where analyze puts it in front, "
                "so that figures of the unedited model can differ a little",
    "alpha_1": "mean attention on the first token, over the longest windows; of a step: over heads",
    "bounds": "how often a bound holds, and by chance, for the strongest pair of each head (top) "
              "and for pairs that are strong whatever their x (strong); F1: x <= 2 pi (T1), F2: "
              "x <= pi (T3 can hold), T3: never positive at any distance",
    "candidates": "offset feature candidates: x < 2 pi, R_q and R_k >= strong_r, r_q r_k >= "
                  "strong_ratio times the median pair of the head, negative mean over the "
                  "distances",
    "events": "the first of the steps measured at which: sink: Sink_1 exceeds share; sink_head: "
              "some head is a sink in some window; candidate: there is an offset feature "
              "candidate; hangs: Sink_1 exceeds share, dropping the partial-cycle pairs takes away "
              "more than half of it, and none of the controls does; null: at none of them",
    "ratio": "r_q r_k over the median pair of the head; ratio_max and ratio_mean: over the heads "
             "of the layer, by pair; top_ratio: of the strongest pair of each head",
    "rounding": "ratio to 2 significant digits, other ratios to 3, what is not a count to 4",
    "sink_1": "share of (window, layer, head) samples whose first token takes more than sink_eps "
              "of the attention of the first sink_t queries; sink_share: the same of one head",
}


class Refused(Exception):
    """What is wrong with the input, in words."""


# ---- the series


def series(arguments):
    """[(step, path)] in order of the steps."""
    found = {}
    for a in arguments:
        m = re.match(r"(?:(\d+)=(.+)|(?:(\d+)\+)?(.*-(\d+)(?:\.[A-Za-z]\w*)?))$", a)
        if not m:
            raise Refused(f"{a}: expected STEP=FILE or a name as FILE-000100.gguf")
        step = int(m[1]) if m[1] else int(m[3] or 0) + int(m[5])
        path = m[2] or m[4]
        if step > 2**53:
            raise Refused(f"{a}: expected a step of at most 2^53")
        if step in found:
            raise Refused(f"{path}: step {step} is that of {found[step]}, too")
        found[step] = path
    if not found:
        raise Refused("which checkpoints? STEP=FILE.gguf, or files named OUT-000100.gguf")
    return sorted(found.items())


def asked(program, *words):
    """What `ropescope WORDS` says, as JSON."""
    line = [program, *words, "--json"]
    try:
        done = subprocess.run(line, capture_output=True, check=False)
    except OSError as error:
        raise Refused(f"{program}: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise Refused(f"{' '.join(line[1:3])}: {said[-1]}")
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise Refused(f"{' '.join(line[1:3])}: expected JSON, found {error}") from None


def first_difference(a, b):
    """(field, its value in a, in b) of two readings that are not of one model, text and setting."""
    def pairs():
        for key in SHAPE + SAME:
            yield key, a["provenance"].get(key), b["provenance"].get(key)
        yield "ropes", len(a["ropes"]), len(b["ropes"])
        for i, (r, s) in enumerate(zip(a["ropes"], b["ropes"])):
            for key in ROPE:
                yield f"ropes[{i}].{key}", r[key], s[key]
        for i, (r, s) in enumerate(zip(a["layers"], b["layers"])):
            yield f"layers[{i}].rope", r["rope"], s["rope"]
            yield f"layers[{i}].heads", len(r["heads"]), len(s["heads"])
        for key in OPTIONS:
            yield key, a["options"][key], b["options"][key]
    return next(((k, v, w) for k, v, w in pairs() if v != w), None)


def progress(done, n, began, what):
    if not sys.stderr.isatty():
        return
    left = (time.monotonic() - began) * (n - done) / done if done else 0
    eta = f", {left:.0f} s left" if done else ""
    end = "\r" if done < n else ""
    print(f"\r\033[Kemergence: {done} of {n} steps, {what}{eta}", end=end, file=sys.stderr)


def partial_cycles(reading):
    return any(c in ("partial", "half") for r in reading["ropes"] for c in r["class"])


def read_all(o, steps):
    """[(step, path, reading, ablation or perplexity)]; the last one first: it tells P."""
    given = [f"--{k.replace('_', '-')}={getattr(o, k)}" for k in THRESHOLDS
             if getattr(o, k) is not None]
    plain = ["-f", o.text] + (["-t", str(o.threads)] if o.threads else [])
    context = (["-c", str(o.ctx)] if o.ctx else []) + \
        (["--train-ctx", str(o.train_ctx)] if o.train_ctx else [])
    cut = ["-n", str(o.tokens)] if o.tokens else []
    control = ["--drop", "partial", "--controls", str(o.controls), "--seed", str(o.seed)]
    last, began, out = None, time.monotonic(), []
    for i, (step, path) in enumerate(reversed(steps)):
        progress(i, len(steps), began, f"now {step}")
        reading = asked(o.program, "analyze", path, *plain, *given, *cut, *context)
        if last is None:
            last = path, reading
            P = max([r["n_ctx"] or 0 for r in reading["ropes"]] or [0])
            context = ["-c", str(reading["provenance"]["n_ctx"])]
            context += ["--train-ctx", f"{P:.17g}"] if P > 0 else []
        differs = first_difference(last[1], reading)
        if differs:
            raise Refused(f"{path}: {differs[0]}: expected {differs[1]}, as in {last[0]}, found "
                          f"{differs[2]}")
        if o.ablate and partial_cycles(reading):
            more = asked(o.program, "ablate", path, *plain, *given, *cut, *context, *control)
        else:
            if cut:
                raise Refused("-n: only with the ablation: perplexity reads all of a text")
            more = asked(o.program, "perplexity", path,
                         *plain, *context, "--exact", "--protocol", "full")
        out.insert(0, (step, path, reading, more))
    progress(len(steps), len(steps), began, "done")
    return out


# ---- what is kept of a reading


def near(v, digits=4):
    """v, or each of a list, to so many significant digits."""
    if isinstance(v, list):
        return [near(x, digits) for x in v]
    if not isinstance(v, float) or not math.isfinite(v):
        return v if isinstance(v, (int, str)) else None
    short = float(f"{v:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def name_of(path):
    """Without folders; what is not UTF-8 is shown as that."""
    return os.fsencode(os.path.basename(path)).decode("utf-8", "replace")


def at(values, j):
    return None if j is None else values[j]


def mean(values):
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def most(values):
    return max((v for v in values if v is not None), default=None)


def layer_kept(layer, every):
    heads = layer["heads"]
    tops = [h["top_pair"] for h in heads]
    by_pair = list(zip(*(h["ratio"] for h in heads)))
    kept = {
        "alpha_1": near([h["alpha_1"] for h in heads]),
        "sink_share": near([h["sink_share"] for h in heads]),
        "top_pair": tops,
        "top_ratio": near([at(h["ratio"], j) for h, j in zip(heads, tops)], 3),
        "top_R_q": near([at(h["R_q"], j) for h, j in zip(heads, tops)]),
        "top_R_k": near([at(h["R_k"], j) for h, j in zip(heads, tops)]),
        "top_phi": near([at(h["phi"], j) for h, j in zip(heads, tops)]),
        "ratio_max": near([most(v) for v in by_pair], 3),
        "ratio_mean": near([mean(v) for v in by_pair], 3),
    }
    if every:
        kept["ratio"] = [near(h["ratio"], 2) for h in heads]
    return kept


def candidates_kept(reading):
    out = []
    for l, layer in enumerate(reading["layers"]):
        x = reading["ropes"][layer["rope"]]["x"]
        for h in layer["heads"]:
            for j in h["candidates"]:
                figures = {k: near(h[k][j], 3 if k == "ratio" else 4)
                           for k in ("ratio", "R_q", "R_k", "phi")}
                out.append({"layer": l, "head": h["head"], "pair": j, "x": near(x[j]), **figures})
    return out


def bounds_kept(summary):
    keys = [f"{of}_{what}" for of in ("top", "strong") for what in ("hits", "of", "chance")]
    return {b["id"]: {k: near(b[k]) for k in keys} for b in summary["bounds"]
            if b["id"] in ("F1", "F2", "T3")}


def massive_kept(reading):
    heads = [h for layer in reading["layers"] for h in layer["heads"]]
    states = [layer["massive_activations"] for layer in reading["layers"]
              if layer["massive_activations"]]
    return {"values_q": sum(len(h["massive_q"] or []) for h in heads),
            "values_k": sum(len(h["massive_k"] or []) for h in heads),
            "activations": sum(s["n"] or 0 for s in states),
            "largest": near(most([s["max"] for s in states]))}


def step_kept(step, path, reading, more, every):
    summary = reading["summary"]
    runs = more.get("runs")
    kept = {"step": step, "model": name_of(path),
            "model_sha256": reading["provenance"]["model_sha256"],
            "n_ctx_train": reading["provenance"]["n_ctx_train"],
            "perplexity": near((runs[0] if runs else more)["perplexity"]),
            "perplexity_error": near(runs[0]["perplexity_error"] if runs else more["error"]),
            **{k: near(summary[k]) for k in STEP},
            "bounds": bounds_kept(summary), "massive": massive_kept(reading),
            "candidates": candidates_kept(reading),
            "ablation": None,
            "layers": [layer_kept(y, every) for y in reading["layers"]]}
    if runs:
        kept["ablation"] = [{k: near(r[k]) for k in RUN} for r in runs]
    return kept


def kept(o, read):
    """All of emergence.json."""
    first = read[0][2]
    made = first["provenance"]
    cells = len(read) * sum(len(h["ratio"]) for y in first["layers"] for h in y["heads"])
    every = cells <= RATIO_CELLS
    d = {
        "schema": SCHEMA,
        "provenance": {"text": name_of(o.text), **{k: made.get(k) for k in SAME},
                       "protocol": read[0][3].get("protocol")
                       or read[0][3]["provenance"]["protocol"]},
        "model": {k: made.get(k) for k in SHAPE},
        "options": {**{k: near(first["options"][k]) for k in OPTIONS}, "share": o.share},
        "ropes": [{k: near(r[k], 9) for k in ROPE} for r in first["ropes"]],
        "layers": [{"rope": y["rope"], "n_heads": len(y["heads"])} for y in first["layers"]],
        "notes": NOTES,
        "steps": [step_kept(*r, every) for r in read],
    }
    d["events"] = events(d)
    d["findings"] = findings(d)
    return d


# ---- the words: of the numbers that are kept, and nothing else


def first_step(d, holds):
    return next((s["step"] for s in d["steps"] if holds(s)), None)


def above(d, s):
    return s["sink_1"] is not None and s["sink_1"] > d["options"]["share"]


def hangs(d, s):
    """Does the sink hang on the partial-cycle pairs?"""
    if not above(d, s) or not s["ablation"]:
        return False
    half = s["ablation"][0]["sink_1"] / 2
    sinks = [r["sink_1"] for r in s["ablation"][1:]]
    return sinks[0] < half and all(v > half for v in sinks[1:])


def sink_heads(s):
    return [(l, h) for l, y in enumerate(s["layers"]) for h, v in enumerate(y["sink_share"])
            if v is not None and v > 0]


def events(d):
    return {"sink": first_step(d, lambda s: above(d, s)),
            "sink_head": first_step(d, sink_heads),
            "candidate": first_step(d, lambda s: s["candidates"]),
            "hangs": first_step(d, lambda s: hangs(d, s))}


def step_of(d, n):
    return next(s for s in d["steps"] if s["step"] == n)


def g(v):
    return "no number" if v is None else f"{v:.4g}"


def pct(v):
    """Not rounded up to all, nor down to none."""
    if v is None:
        return "no number"
    near_end = 0 < v < 0.0005 or 0.9995 <= v < 1
    return f"{100 * v:.2g}%" if near_end and v < 0.5 else \
        f"{math.floor(1000 * v) / 10 if near_end else 100 * v:.1f}%"


def plural(n, word):
    return f"{n} {word}" + ("" if n == 1 else "es" if word.endswith("x") else "s")


def listed(names, n=6):
    shown = ", ".join(names[:n])
    return shown + (f" and {len(names) - n} more" if len(names) > n else "")


def x_of(d, layer, pair):
    return d["ropes"][d["layers"][layer]["rope"]]["x"][pair]


def place(x):
    """Where x = theta P lies among the bounds of the frequency."""
    if x is None or x == 0:
        return "it does not turn"
    if x <= math.pi:
        return f"x = {x:.3g}: at most half a turn over P, as T1 and T3 ask"
    if x <= 2 * math.pi:
        return f"x = {x:.3g}: at most one turn over P, as T1 asks, but more than the half of T3"
    return f"x = {x:.3g}: more than one turn over P, outside T1 and T3"


def say_series(d):
    made, steps = d["provenance"], d["steps"]
    out = [f"{plural(len(steps), 'step')} of training {'was' if len(steps) == 1 else 'were'} "
           f"measured, {steps[0]['step']} to {steps[-1]['step']}, each over {made['n_tokens']} "
           f"tokens of {made['text']} in {plural(made['n_windows'], 'window')} of up to "
           f"{made['n_ctx']}. What happens between two of them is not known."]
    P = sorted({r["n_ctx"] for r in d["ropes"] if r["n_ctx"]})
    for a, b in zip(steps, steps[1:]):
        if a["n_ctx_train"] != b["n_ctx_train"]:
            out.append(f"Up to step {a['step']} the context in the model's file is "
                       f"{a['n_ctx_train']} tokens, at step {b['step']} it is {b['n_ctx_train']}; "
                       f"x = theta P is of P = {', '.join(map(str, P))} at every step.")
    return out


def say_perplexity(d):
    steps = [s for s in d["steps"] if s["perplexity"] is not None]
    if len(steps) < 2:
        return []
    a, b, low = steps[0], steps[-1], min(steps, key=lambda s: s["perplexity"])
    lowest = "" if low is b else f"; it is lowest at step {low['step']}, {g(low['perplexity'])}"
    return [f"The perplexity of this text is {g(a['perplexity'])} at step {a['step']} and "
            f"{g(b['perplexity'])} at step {b['step']}{lowest}."]


def before(d, n):
    """The step measured before step n."""
    i = d["steps"].index(step_of(d, n))
    return f" (the one before it is {d['steps'][i - 1]['step']})" if i else \
        " (the first one measured)"


def say_sink(d):
    eps, share = d["options"]["sink_eps"], d["options"]["share"]
    known = [s for s in d["steps"] if s["sink_1"] is not None]
    out, last = [], d["steps"][-1]
    if not known:
        return [f"Sink_1^{eps:g} was not measured: no window is long enough."]
    high, n = max(known, key=lambda s: s["sink_1"]), d["events"]["sink"]
    if n is None:
        largest = f"largest at step {high['step']}, {pct(high['sink_1'])}" if high["sink_1"] else \
            "0 at all of them"
        out.append(f"At none of these steps does Sink_1^{eps:g} exceed {pct(share)}: it is "
                   f"{largest}.")
    else:
        low = [str(s["step"]) for s in known if s["step"] > n and not above(d, s)]
        out.append(f"Sink_1^{eps:g} first exceeds {pct(share)} at step {n}: "
                   f"{pct(step_of(d, n)['sink_1'])}{before(d, n)}. At the last step, "
                   f"{last['step']}, it is {pct(last['sink_1'])}."
                   + (f" It does not exceed it at step {listed(low)}." if low else ""))
    n = d["events"]["sink_head"]
    if n is not None:
        heads = [f"L{l}.H{h}" for l, h in sink_heads(step_of(d, n))]
        out.append(f"The first step at which some head is a sink in some window is {n}: "
                   f"{listed(heads)}.")
    if last["n_sinks_elsewhere"]:
        out.append(f"At the last step {plural(last['n_sinks_elsewhere'], 'head')} of "
                   f"{last['n_heads']} {'has' if last['n_sinks_elsewhere'] == 1 else 'have'} a "
                   f"sink that is not the first token, most often key {last['sink_elsewhere']}.")
    return out


def by_pair(candidates):
    """pair 9 (x = 2.88, 3 heads), ..., the most frequent first."""
    count = {}
    for c in candidates:
        key = (c["pair"], c["x"])
        count[key] = count.get(key, 0) + 1
    order = sorted(count.items(), key=lambda i: (-i[1], i[0]))
    return listed([f"pair {j} (x = {x:.3g}, {plural(n, 'head')})" for (j, x), n in order], 8)


def t3_words(candidates):
    half = [c for c in candidates if c["x"] <= math.pi]
    kept_sign = [c for c in half if c["phi"] is not None
                 and math.pi / 2 <= c["phi"] <= 3 * math.pi / 2 - c["x"]]
    return (f"{len(half)} of {len(candidates)} {'has' if len(half) == 1 else 'have'} x <= pi, "
            f"without which T3 cannot hold; T3 (pi/2 <= phi <= 3 pi/2 - x: never positive, at any "
            f"distance) holds for {len(kept_sign)}")


def strongest(d):
    """(ratio, step, layer, head, pair) of the pair that stands out most at any step."""
    every = [(r, s["step"], l, h, y["top_pair"][h]) for s in d["steps"]
             for l, y in enumerate(s["layers"]) for h, r in enumerate(y["top_ratio"])
             if r is not None]
    return max(every, key=lambda e: e[0], default=None)


def say_candidates(d):
    o, last, n = d["options"], d["steps"][-1], d["events"]["candidate"]
    what = (f"x < 2 pi, R_q and R_k >= {o['strong_r']:g}, r_q r_k >= {o['strong_ratio']:g} times "
            "the median pair of the head, negative mean over the distances")
    if n is None:
        top = strongest(d)
        out = f"At none of these steps is any pair an offset feature candidate ({what})."
        if top:
            out += (f" The pair that stands out most is pair {top[4]} of layer {top[2]}, head "
                    f"{top[3]}, at step {top[1]}: {g(top[0])} times the median pair of its head "
                    f"({place(x_of(d, top[2], top[4]))}).")
        return [out]
    now = step_of(d, n)["candidates"]
    out = [f"The first step with an offset feature candidate is {n}{before(d, n)}: "
           f"{by_pair(now)}; {t3_words(now)}. (A candidate has {what}.)"]
    if n == last["step"]:
        return out
    after = [s for s in d["steps"] if s["step"] > n]
    none = [str(s["step"]) for s in after[:-1] if not s["candidates"]]
    high = max(d["steps"], key=lambda s: s["n_candidates"])
    if none:
        out.append(f"There is none at step {listed(none)}.")
    if high["n_candidates"] > last["n_candidates"]:
        out.append(f"There are most at step {high['step']}: {high['n_candidates']}.")
    if not last["candidates"]:
        return out + [f"At the last step, {last['step']}, there is no candidate."]
    are = "is" if last["n_candidates"] == 1 else "are"
    return out + [f"At the last step, {last['step']}, there {are} "
                  f"{plural(last['n_candidates'], 'candidate')}, in {last['n_candidate_heads']} of "
                  f"{last['n_heads']} heads: {by_pair(last['candidates'])}; "
                  f"{t3_words(last['candidates'])}."]


def rate(s, bound, which):
    b = s["bounds"].get(bound)
    if not b or not b[which + "_of"]:
        return None
    hits, of = b[which + "_hits"], b[which + "_of"]
    return f"{hits} of {of}{{}} ({pct(hits / of)}; by chance {pct(b[which + '_chance'])})"


def say_bounds(d):
    out, first, last = [], d["steps"][0], d["steps"][-1]
    for s in [first, last][:len(d["steps"])]:
        f1, f2 = rate(s, "F1", "top"), rate(s, "F2", "top")
        if f1:
            out.append(f"At step {s['step']} the strongest pair of a head has x <= 2 pi (T1) in "
                       f"{f1.format(' heads')}, and x <= pi (T3) in {f2.format('')}.")
    f1, f2 = rate(last, "F1", "strong"), rate(last, "F2", "strong")
    if f1:
        out.append(f"Of the pairs that are strong at the last step, whatever their x, "
                   f"{f1.format('')} have x <= 2 pi, and {f2.format('')} x <= pi.")
    return out


def say_order(d):
    sink, first = d["events"]["sink"], d["events"]["candidate"]
    share = pct(d["options"]["share"])
    if sink is None and first is None:
        return ["Neither a sink nor a candidate appears, so there is no order to tell."]
    if sink is None or first is None:
        return [f"Only {'the candidates appear' if sink is None else 'the sink appears'}, so there "
                "is no order to tell."]
    if sink == first:
        return [f"Sink_1 exceeds {share} at the step of the first candidate, {sink}: which came "
                "first, these steps do not tell."]
    order = "the sink, then the candidates" if sink < first else "the candidates, then the sink"
    return [f"The order: {order} (Sink_1 first exceeds {share} at step {sink}, the first candidate "
            f"is of step {first})."]


def say_together(d):
    """Do heads with a candidate attend more to the first token?"""
    last = d["steps"][-1]
    marked = {(c["layer"], c["head"]) for c in last["candidates"]}
    alphas = [((l, h) in marked, a) for l, y in enumerate(last["layers"])
              for h, a in enumerate(y["alpha_1"]) if a is not None]
    have, rest = [a for m, a in alphas if m], [a for m, a in alphas if not m]
    if not have or not rest:
        return []
    return [f"At the last step the mean alpha_1 is {g(mean(have))} over the "
            f"{plural(len(have), 'head')} with a candidate and {g(mean(rest))} over the other "
            f"{len(rest)} (equal weights: {g(last['alpha_1_uniform'])})."]


def ablation_words(s):
    """What dropping the partial-cycle pairs, and the controls, leave of the sink."""
    was, gone, *controls = s["ablation"]
    sinks = sorted(r["sink_1"] for r in controls)
    span = " to ".join(dict.fromkeys([pct(sinks[0]), pct(sinks[-1])]))
    name = re.sub(r", seed \d+$", "", controls[0]["name"])
    here = "" if was["sink_1"] == s["sink_1"] else " (in the windows of ablate, see notes)"
    return (f"Sink_1 goes from {pct(was['sink_1'])}{here} to {pct(gone['sink_1'])}, with as many "
            f"other pairs dropped ('{name}') it is {span}")


def say_ablation(d):
    steps = [s for s in d["steps"] if s["ablation"]]
    share, n = pct(d["options"]["share"]), d["events"]["hangs"]
    if not steps:
        return []
    last = steps[-1]
    ratio = [r["perplexity"] / last["ablation"][0]["perplexity"] for r in last["ablation"][1:]]
    if n is not None:
        not_all = [str(s["step"]) for s in steps if s["step"] > n and above(d, s)
                   and not hangs(d, s)]
        out = [f"The first step at which the sink hangs on the partial-cycle pairs (x <= 2 pi), so "
               f"that without them more than half of it is gone, and with none of the controls, is "
               f"{n}: {ablation_words(step_of(d, n))}."
               + (f" At step {listed(not_all)} it does not." if not_all else "")]
    elif d["events"]["sink"] is None:
        out = [f"There is no sink above {share} that dropping pairs could take away."]
    else:
        out = ["At no step does the sink hang on the partial-cycle pairs alone: dropping them "
               "takes away at most half of it, or some control takes away as much."]
    span = " to ".join(dict.fromkeys([g(min(ratio[1:])), g(max(ratio[1:]))]))
    return out + [f"At step {last['step']}, without the partial-cycle pairs, "
                  f"{ablation_words(last)}; the perplexity is {g(ratio[0])} times the unedited "
                  f"one, and with the others dropped {span} times."]


def say_massive(d):
    out = []
    for keys, what in ((("values_q", "values_k"), "massive values of queries or keys"),
                       (("activations",), "massive activations of the residual stream")):
        n = first_step(d, lambda s, k=keys: any(s["massive"][i] for i in k))
        out.append(f"There are no {what} at any of these steps." if n is None else
                   f"The first step with {what} is {n}.")
    return out


def findings(d):
    if not any(x for r in d["ropes"] for x in r["x"]):
        return say_series(d) + say_perplexity(d) + ["No pair rotates: there are no offset features "
                                                    "to look for."] + say_sink(d) + say_massive(d)
    return [s for say in (say_series, say_perplexity, say_sink, say_candidates, say_order,
                          say_bounds, say_together, say_ablation, say_massive) for s in say(d)]


# ---- the file


def text_of(v, indent=0):
    """JSON with sorted keys; what holds no object and no text of several words is one line."""
    compact = json.dumps(v, sort_keys=True, ensure_ascii=False, separators=(",", ":"),
                         allow_nan=False)
    lists = isinstance(v, list) and any(isinstance(x, (dict, list, str)) for x in v)
    objects = isinstance(v, dict) and (len(compact) > 200 or any(isinstance(x, (dict, list))
                                                                 for x in v.values()))
    if not (lists or objects):
        return compact
    pad = " " * (indent + 1)
    if objects:
        inside = [f"{pad}{json.dumps(k)}: {text_of(v[k], indent + 1)}" for k in sorted(v)]
        return "{\n" + ",\n".join(inside) + "\n" + " " * indent + "}"
    inside = [pad + text_of(x, indent + 1) for x in v]
    return "[\n" + ",\n".join(inside) + "\n" + " " * indent + "]"


def written(path, text):
    """Whole or not at all."""
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        with open(path + ".tmp", "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
        os.replace(path + ".tmp", path)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None


def options():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("series", nargs="*", metavar="CHECKPOINT")
    p.add_argument("-o", "--output", default="-", metavar="FILE", help="(standard output)")
    p.add_argument("--program", default="ropescope", help="the program (ropescope)")
    p.add_argument("--text", required=True, metavar="FILE", help="what is read at every step")
    p.add_argument("-n", "--tokens", type=int, metavar="N", help="N tokens of it at most")
    p.add_argument("-c", "--ctx", type=int, metavar="N", help="window length")
    p.add_argument("--train-ctx", type=float, metavar="P", help="P of x = theta P")
    p.add_argument("-t", "--threads", type=int, metavar="N")
    for key in THRESHOLDS:
        p.add_argument("--" + key.replace("_", "-"), metavar="X", help="as of ropescope analyze")
    p.add_argument("--share", type=float, default=0.1, metavar="X",
                   help="the sink is said to be there where Sink_1 exceeds X (0.1)")
    p.add_argument("--no-ablate", dest="ablate", action="store_false",
                   help="do not drop pairs, which takes a run per control and one")
    p.add_argument("--controls", type=int, default=3, metavar="N", help="random controls (3)")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of the controls (1)")
    return p.parse_args()


def main():
    o = options()
    try:
        if not 0 <= o.share <= 1:
            raise Refused(f"--share: expected a share from 0 to 1, found {o.share}")
        if o.controls < 1:
            raise Refused(f"--controls: expected 1 or more, found {o.controls}")
        steps = series(o.series)
        written(o.output, text_of(kept(o, read_all(o, steps))) + "\n")
    except Refused as why:
        sys.exit(f"emergence.py: {why}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
