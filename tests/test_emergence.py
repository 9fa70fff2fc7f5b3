"""Checkpoints over training: demo/emergence.py and what `ropescope report --emergence` makes of its
file. test_emergence.py PROGRAM, from the top of the checkout. ROPESCOPE_SHOTS=DIR keeps pictures.
`test_emergence.py --seeds FOLDER` writes a seed for tests/fuzz_emergence.c."""

import argparse
import copy
import json
import math
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

sys.path[:0] = [os.path.dirname(__file__), "demo"]
import emergence  # noqa: E402
import page_reading  # noqa: E402
import test_page  # noqa: E402
from test_page import check, counts, text_of  # noqa: E402

STEPS = (0, 10, 100, 1000, 10000)
SINK_1 = (0, 0.02, 0.35, 0.7, 0.8)  # the sink is there from step 100
PLANTED = (0.05, 0.2, 0.7, 1, 1)  # of the ratio at the end: a candidate needs 20 times
HEADS = page_reading.LAYERS * page_reading.HEADS


# ---- an invented series: the reading of page_reading.py, and how it might have come to be


def reading(i):
    d = page_reading.reading()
    d["provenance"].update(model_sha256=f"{i:04x}" if i + 1 < len(STEPS) else "00ff")
    rng = random.Random(i)
    for layer in d["layers"]:
        for h in layer["heads"]:
            own = h["candidates"]
            h["ratio"] = [r * PLANTED[i] if j in own else r * rng.uniform(0.9, 1.1)
                          for j, r in enumerate(h["ratio"])]
            h["candidates"] = [j for j in own if i > 2 and h["ratio"][j] >= 20]
            h["sink_share"] = SINK_1[i] if own else 0
            h["alpha_1"] = h["alpha_1"] * SINK_1[i] / 0.8 if own else 0.02
            h["top_pair"] = h["ratio"].index(max(h["ratio"]))
            h["massive_q"] = []
    every = [h for y in d["layers"] for h in y["heads"]]
    n = [len(h["candidates"]) for h in every]
    d["summary"].update(
        sink_1=SINK_1[i], alpha_1=sum(h["alpha_1"] for h in every) / HEADS, alpha_1_uniform=0.07,
        n_sinks=0, n_sinks_elsewhere=0, sink_elsewhere=None, n_heads=HEADS, n_top=HEADS,
        n_strong=sum(n), n_candidates=sum(n), n_candidate_heads=sum(c > 0 for c in n))
    d["options"].update(massive_ratio=5, act_min=100, act_ratio=1000)
    return d


def ablation(i):
    d = page_reading.ablation()
    d["provenance"]["protocol"] = "full"
    for run, sink in zip(d["runs"], (SINK_1[i], 0, 0.9 * SINK_1[i])):
        run.update(sink_1=sink, perplexity=run["perplexity"] + 100 / (1 + i))
    return d


def made(chosen=range(len(STEPS)), readings=reading, share=0.1):
    o = argparse.Namespace(text="a/text.txt", share=share)
    read = [(STEPS[i], f"m-{STEPS[i]:06d}.gguf", readings(i), ablation(i)) for i in chosen]
    return emergence.kept(o, read)


def said(d, words):
    return any(words in s for s in d["findings"])


# ---- the words and the numbers


def test_words():
    d = made()
    check("events", d["events"] == {"sink": 100, "sink_head": 10, "candidate": 1000, "hangs": 100},
          d["events"])
    x = page_reading.X
    first = sum(page_reading.offset_pair(l, h) == 5 for l in range(1, page_reading.LAYERS)
                for h in range(page_reading.HEADS))
    for words in (
        "5 steps of training were measured, 0 to 10000, each over 700 tokens of text.txt",
        "The perplexity of this text is 110.5 at step 0 and 30.5 at step 10000.",
        "Sink_1^0.3 first exceeds 10.0% at step 100: 35.0% (the one before it is 10). At the last "
        "step, 10000, it is 80.0%.",
        "The first step with an offset feature candidate is 1000 (the one before it is 100): pair "
        f"5 (x = {x[5]:.3g}, {first} heads), pair 6 (x = {x[6]:.3g}, {20 - first} heads); 20 of 20 "
        "have x <= pi",
        "At the last step, 10000, there are 20 candidates, in 20 of 24 heads: pair 5",
        "The order: the sink, then the candidates (Sink_1 first exceeds 10.0% at step 100, the "
        "first candidate is of step 1000).",
        "strongest pair of a head has x <= 2 pi (T1) in 20 of 24 heads (83.3%; by chance 50.0%)",
        "The first step at which the sink hangs on the partial-cycle pairs (x <= 2 pi)",
        "is 100: Sink_1 goes from 35.0% to 0.0%, with as many other pairs dropped ('drop random "
        "full-cycle') it is 31.5%.",
        "At the last step the mean alpha_1 is 0.675 over the 20 heads with a candidate and 0.02 "
        "over the other 4 (equal weights: 0.07).",
        "There are no massive values of queries or keys at any of these steps.",
        "The first step with massive activations of the residual stream is 0.",
    ):
        check(f"it is said: {words[:50]}", said(d, words), d["findings"])
    check("T3 is counted", said(d, "T3 (pi/2 <= phi <= 3 pi/2 - x: never positive, at any "
                                   "distance) holds for 20"))
    one = made([0])
    check("one step", said(one, "1 step of training was measured")
          and one["events"]["sink"] is None)


def test_other_words():
    early = made([0, 1])
    top = max(r for s in early["steps"] for y in s["layers"] for r in y["top_ratio"])
    for words in (
        "At none of these steps does Sink_1^0.3 exceed 10.0%: it is largest at step 10, 2.0%.",
        "At none of these steps is any pair an offset feature candidate (x < 2 pi, R_q and R_k >= "
        "0.95, r_q r_k >= 20 times",
        f"{top:.4g} times the median pair of its head (x = ",
        "Neither a sink nor a candidate appears, so there is no order to tell.",
        "There is no sink above 10.0% that dropping pairs could take away.",
    ):
        check(f"without a sink: {words[:50]}", said(early, words), early["findings"])
    check("the sink alone", said(made([0, 1, 2]), "Only the sink appears, so there is no order"))
    check("at once", said(made([1, 3, 4]), "which came first, these steps do not tell"))
    late = made(share=0.75)
    check("candidates first", said(late, "The order: the candidates, then the sink"))
    for left, first in ((0.4, 100), (0.6, None)):
        weak = made()
        for s in weak["steps"]:
            s["ablation"][1]["sink_1"] = left * s["sink_1"]
        check(f"the sink hangs on them where {left} of it is left: {first}",
              emergence.events(weak)["hangs"] == first)
    gone = made([2, 3, 4])
    gone["steps"][2]["candidates"], gone["steps"][2]["n_candidates"] = [], 0
    words = emergence.findings(gone)
    check("candidates that go", "There are most at step 1000: 20." in words
          and "At the last step, 10000, there is no candidate." in words, words)
    gone = made([2, 3, 4])
    gone["steps"].insert(2, copy.deepcopy(gone["steps"][0]))
    gone["steps"][2].update(step=2000)
    gone["steps"][3]["ablation"][0]["sink_1"] = 0.79
    words = emergence.findings(gone)
    check("and come again", "There is none at step 2000." in words, words)
    own = "Sink_1 goes from 79.0% (in the windows of ablate, see notes)"
    check("ablate's own windows", any(own in w for w in words), words)
    held = made()
    for s in held["steps"]:
        s["ablation"][2]["sink_1"] = 0
    held["events"] = emergence.events(held)
    held["findings"] = emergence.findings(held)
    check("a control that takes the sink, too", held["events"]["hangs"] is None
          and said(held, "At no step does the sink hang on the partial-cycle pairs alone"))

    def longer(i):
        d = reading(i)
        d["provenance"]["n_ctx_train"] = 64 if i < 2 else 512
        return d

    check("another context on the way", said(
        made(readings=longer), "Up to step 10 the context in the model's file is 64 tokens, at "
        "step 100 it is 512"))

    def still(i):
        d = reading(i)
        for r in d["ropes"]:
            r["x"] = [0] * len(r["x"])
        return d

    check("no pair rotates", said(made(readings=still), "No pair rotates: there are no offset"))
    for x, words in ((3.1, "as T1 and T3 ask"), (3.2, "but more than the half of T3"),
                     (6.3, "outside T1 and T3"), (0, "it does not turn")):
        check(f"where x = {x} lies", emergence.place(x).endswith(words), emergence.place(x))
    shares = [emergence.pct(v) for v in (0, 0.0001, 0.5, 0.99999, 1, None)]
    check("shares are not rounded to all or none",
          shares == ["0.0%", "0.01%", "50.0%", "99.9%", "100.0%", "no number"], shares)


def test_numbers():
    d, full = made(), reading(4)
    last = d["steps"][-1]
    check("all steps", [s["step"] for s in d["steps"]] == list(STEPS))
    for l, layer in enumerate(full["layers"]):
        y = last["layers"][l]
        for j in range(page_reading.PAIRS):
            r = [h["ratio"][j] for h in layer["heads"]]
            # 3 and 2 significant digits: half a unit of the last is at most 0.5 % and 5 %
            good = abs(y["ratio_max"][j] - max(r)) <= 0.005 * max(r) \
                and abs(y["ratio_mean"][j] - sum(r) / len(r)) <= 0.005 * max(r) \
                and all(abs(a[j] - b) <= 0.05 * b for a, b in zip(y["ratio"], r))
            check(f"ratios of layer {l}, pair {j}", good)
        check(f"strongest pairs of layer {l}",
              y["top_pair"] == [h["top_pair"] for h in layer["heads"]])
        check(f"alpha_1 of layer {l}",
              all(abs(a - h["alpha_1"]) < 5e-5 for a, h in zip(y["alpha_1"], layer["heads"])))
    planted = [(l, h, page_reading.offset_pair(l, h)) for l in range(1, page_reading.LAYERS)
               for h in range(page_reading.HEADS)]
    check("candidates and their places",
          [(c["layer"], c["head"], c["pair"]) for c in last["candidates"]] == planted)
    check("and x", all(abs(c["x"] - page_reading.X[c["pair"]]) < 1e-3 for c in last["candidates"]))
    text = emergence.text_of(d)
    check("the file is the data", json.loads(text) == d)
    check("keys are sorted", list(json.loads(text)) == sorted(d))
    check("the same bytes again", emergence.text_of(made()) == text)
    check("tens of kilobytes", len(text) < 60000, len(text))
    emergence.RATIO_CELLS, kept = 10, emergence.RATIO_CELLS
    check("no ratio of every pair of a large model", "ratio" not in made()["steps"][0]["layers"][0])
    emergence.RATIO_CELLS = kept


def refused(call, *arguments):
    try:
        call(*arguments)
    except emergence.Refused as why:
        return str(why)
    return ""


def test_series():
    got = emergence.series(["b/A-000400.gguf", "100=x=y.gguf", "1000+A-000100.gguf", "A-7"])
    check("steps from names, in order", got == [(7, "A-7"), (100, "x=y.gguf"),
                                                (400, "b/A-000400.gguf"),
                                                (1100, "A-000100.gguf")], got)
    for names, words in (([], "which checkpoints"), (["A.gguf"], "expected STEP=FILE"),
                         (["A-1.gguf", "1=B.gguf"], "step 1 is that of A-1.gguf, too"),
                         (["99999999999999999999=A"], "at most 2^53")):
        why = refused(emergence.series, names)
        check(f"the series {names} is refused", words in why, why)
    a, b = reading(0), reading(1)
    check("one model", emergence.first_difference(a, b) is None)
    b["ropes"][0]["theta"] = [0.5] * 8
    check("another rotation", emergence.first_difference(a, b)[0] == "ropes[0].theta")


# ---- with the program


def run(*line):
    done = subprocess.run([str(a) for a in line], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_program(program, folder):
    """Three models of one shape, as if they were steps; and one of another shape."""
    text = folder / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log " * 4)
    for seed in (1, 2, 3):
        run(sys.executable, "export.py", "--tiny", "llama", "--seed", seed,
            folder / f"m-{seed * 10:06d}.gguf")
    run(sys.executable, "export.py", "--tiny", "gptneox", folder / "other.gguf")
    tool = [sys.executable, "demo/emergence.py", "--program", program, "--text", text]
    models = sorted(folder.glob("m-0000?0.gguf"))
    for name, more in (("a", ("-t", 1)), ("b", ("-t", 2))):
        status, _, err = run(*tool, *more, "-o", folder / f"{name}.json", *models)
        check("a series is measured", status == 0, err)
    a, b = ((folder / f"{name}.json").read_bytes() for name in "ab")
    check("the same bytes with any number of threads", a == b)
    d = json.loads(a)
    check("its steps", [s["step"] for s in d["steps"]] == [10, 20, 30])
    whole = json.loads(run(program, "analyze", models[1], "-f", text, "--json")[1])
    check("its fields are those of analyze", d["steps"][1]["layers"][1]["top_pair"]
          == [h["top_pair"] for h in whole["layers"][1]["heads"]])
    (folder / "r.json").write_text(run(program, "analyze", models[2], "-f", text, "--json")[1])
    status, _, err = run(program, "report", folder / "r.json", "--emergence", folder / "a.json",
                         "-o", folder / "r.html")
    check("the report takes them", status == 0, err)
    status, out, err = run(*tool, "--no-ablate", models[0], models[1])
    check("without the ablation", status == 0 and json.loads(out)["steps"][0]["ablation"] is None
          and json.loads(out)["steps"][0]["perplexity"] == d["steps"][0]["perplexity"], err)
    for name, line, words in (
        ("another shape", [models[0], f"50={folder}/other.gguf"], "expected"),
        ("a missing file", [models[0], "9=none.gguf"], "none.gguf"),
        ("a bad threshold", ["--strong-r", "2", models[0]], "--strong-r"),
        ("no controls", ["--controls", "0", models[0]], "--controls: expected 1"),
        ("a bad share", ["--share", "2", models[0]], "--share: expected"),
    ):
        status, out, err = run(*tool, *line)
        check(f"{name} is refused in words", status == 1 and words in err and not out
              and "Traceback" not in err and err.startswith("emergence.py: "), err)
    status, _, err = run(*tool, "--program", "no/such/program", models[0])
    check("a missing program is refused", status == 1 and "no/such/program" in err, err)


def set_at(d, path, value):
    """A copy of d with the value at the path; Ellipsis: without the member."""
    d = copy.deepcopy(d)
    at = d
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return d


def test_refusals(program, folder, d):
    reading_file, file = folder / "final.json", folder / "damaged.json"
    page = folder / "x.html"

    def report(text):
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        return run(program, "report", reading_file, "--emergence", file, "-o", page)

    step = ("steps", 1)
    cell = (*step, "layers", 2)
    for path, value, words in (
        (("schema",), "ropescope.emergence/9", "schema: expected \"ropescope.emergence/1\""),
        (("steps",), 3, "steps: expected a list, found 3"),
        (("steps",), [], "steps: expected one at least"),
        (("ropes",), [], "ropes: expected one at least"),
        (("layers",), [], "layers: expected one at least"),
        (("events",), ..., "events: expected an object, found none"),
        (("events", "sink"), "x", "events.sink: expected a whole number"),
        (("findings", 0), 7, "findings[0]: expected text, found 7"),
        (("findings",), {}, "findings: expected a list"),
        (("provenance", "n_tokens"), -1, "provenance.n_tokens: expected a whole number from 0"),
        (("options", "share"), 2, "options.share: expected a number from 0 to 1, found 2"),
        (("ropes", 0, "x"), [1, 2], "ropes[0].x: expected 8 values, found 2"),
        (("ropes", 0, "n_pairs"), 2000, "ropes[0].n_pairs: expected a whole number from 0 to 1024"),
        (("layers", 3, "rope"), 1, "layers[3].rope: expected a whole number from 0 to 0"),
        ((*step, "step"), 0, "steps[1].step: expected more than 0, found 0"),
        ((*step, "step"), 1.5, "steps[1].step: expected a whole number"),
        ((*step, "perplexity"), "12", "steps[1].perplexity: expected a number"),
        ((*step, "sink_1"), 1.5, "steps[1].sink_1: expected a number from 0 to 1 or null"),
        ((*step, "n_candidates"), 3, "steps[1].n_candidates: expected 0, as there are candidates"),
        ((*step, "model"), ..., "steps[1].model: expected text, found none"),
        ((*step, "bounds", "F2"), None, "steps[1].bounds.F2: expected an object, found null"),
        ((*step, "layers"), d["steps"][1]["layers"][:3], "steps[1].layers: expected 6 values"),
        ((*cell, "alpha_1", 1), True, "steps[1].layers[2].alpha_1[1]: expected a number"),
        ((*cell, "top_pair", 0), 8, "steps[1].layers[2].top_pair[0]: expected a whole number from"),
        ((*cell, "ratio_max"), [1] * 9, "layers[2].ratio_max: expected 8 values, found 9"),
        ((*cell, "ratio"), [[1] * 8] * 5, "layers[2].ratio: expected 4 rows, found 5"),
        ((*cell, "ratio", 3), [1] * 7, "layers[2].ratio: expected 8 values, found 7"),
        ((*step, "ablation", 1), [], "steps[1].ablation[1]: expected an object"),
        (("steps", 4, "candidates", 0, "layer"), 6, "candidates[0].layer: expected a whole number"),
        (("steps", 4, "candidates", 0, "head"), 4, "candidates[0].head: expected a whole number"),
        (("steps", 4, "candidates", 0, "x"), None, "candidates[0].x: expected a number"),
        (("steps", 4, "model_sha256"), "22", "the checkpoints are of another model"),
    ):
        status, _, err = report(json.dumps(set_at(d, path, value)))
        check(f"{path} = {str(value)[:20]} is refused", status == 1 and words in err
              and str(file) in err and not page.exists(), err)
    text = json.dumps(d)
    for name, damaged, words in (
        ("a field twice", text.replace('"steps": [', '"steps": [], "steps": [', 1), "or several"),
        ("half a file", text[: len(text) // 2], "expected"),
        ("nothing", "", "expected a JSON object, found nothing"),
        ("the reading", reading_file.read_text(), "schema: expected"),
    ):
        status, _, err = report(damaged)
        check(f"{name} is refused", status == 1 and words in err and not page.exists(), err)
    status, _, err = run(program, "report", file, "--emergence", folder / "none.json", "-o", page)
    check("a missing file is refused", status == 1 and "none.json" in err, err)
    edited = page_reading.reading()
    edited["provenance"]["edits"] = "pairs dropped"
    (folder / "edited.json").write_text(json.dumps(edited))
    (folder / "em.json").write_text(text)
    status, _, err = run(program, "report", folder / "edited.json", "--emergence",
                         folder / "em.json", "-o", page)
    check("beside an edited reading it is refused", status == 1 and "edits: expected null" in err)
    status, _, err = run(program, "report", reading_file, "--emergence", folder / "em.json", "-o",
                         folder / "em.json")
    check("it is not written over", status == 2 and "would replace" in err
          and (folder / "em.json").read_text() == text, err)


def test_noise(program, folder, d):
    """Bytes changed at random: a page or a sentence, never anything else."""
    rng, text = random.Random(7), emergence.text_of(d).encode()
    file, bad = folder / "noise.json", []
    for i in range(60):
        b = bytearray(text)
        for _ in range(1 + i % 3):
            b[rng.randrange(len(b))] = rng.choice(b'0-9.e"[]{},:nul \\\xff\0')
        file.write_bytes(b)
        status, _, err = run(program, "report", folder / "final.json", "--emergence", file, "-o",
                             os.devnull)
        if status not in (0, 1) or (status == 1 and str(file) not in err):
            bad.append((status, err))
    check("noise is a page or a sentence", not bad, bad[:2])


# ---- the page


def test_page_text(page, d):
    text = page.read_text()
    test_page.test_file(text)
    section = text[text.index('id="emergence"'): text.index("<dialog")]
    check("the findings are there", section.count("<li>") == len(d["findings"]))
    check("with the letters of the page", "(x ≤ 2π)" in section and "Sink_1^0.3 first" in section)
    rows = section[section.index("<tbody>"): section.index("</tbody>")].count("<tr>")
    check("a row for every step", rows == len(STEPS), rows)
    check("and the notes", "<dt>ablation</dt><dd>what ropescope ablate says" in section)
    check("with its numbers", "20 in 20 heads" in section and "35.0&#160;%" in section)


def differ(b, expression, act):
    before = b.js(expression)
    b.js(act)
    return before != b.js(expression)


def test_in_browser(b, page, d):
    b.width(1100)
    for scheme in ("light", "dark"):
        b.prefer(scheme)
        b.open(page)
        b.shot("emergence-" + scheme)
        check(f"{scheme}: no complaint", not b.complaints(), b.complaints()[:3])
    b.prefer("light")
    b.open(page)
    check("the figures are shown", not b.js("by('emergence-figures').hidden"))
    charts = b.js("all('#emergence svg').map(s => s.querySelectorAll('circle').length)")
    n = len(STEPS)
    check("every step is a dot of every curve", charts == [n, n, 3 * n, 4 * n], charts)
    labels = b.js("all('#emergence svg').map(s => s.getAttribute('aria-label')).join()")
    check("labels tell numbers", "Sink_1: 0 at step 0, 0.8 at step 10000" in labels, labels)
    marked = b.js("all('#em-sink .here, #em-candidates .here').length")
    check("the first steps are marked", marked == 2, marked)
    places = b.js("[...all('#em-perplexity circle')].map(c => +c.getAttribute('cx'))")
    check("steps go to the right", places == sorted(set(places)), places)
    b.js("by('em-map').focus()")
    b.key("ArrowRight")
    said_there = text_of(b, "em-out")
    check("the map starts at the last step", said_there.startswith(
        "Step 10000, pair 0: x = 512, outside T1 and T3."), said_there)
    for _ in range(5):
        b.key("ArrowRight")
    said_there = text_of(b, "em-out")
    check("arrows move in it", "pair 5: x = 1.619, inside T1 and T3" in said_there
          and "Candidate in: layer 1 head 1" in said_there, said_there)
    pixels = "by('em-map').toDataURL()"
    pick = "by('em-{0}').value = '{1}'; by('em-{0}').onchange({{ target: by('em-{0}') }})"
    check("the mean is another map", differ(b, pixels, pick.format("head", "mean")))
    check("a layer is another map", differ(b, pixels, pick.format("layer", "2")))
    check("a head is another map", differ(b, pixels, pick.format("head", "3")))
    b.key("ArrowRight")
    own = f"r_q r_k {d['steps'][-1]['layers'][2]['ratio'][3][0]:.3g} times"
    check("with its own numbers", own in text_of(b, "em-out"), text_of(b, "em-out"))
    check("heads of it are offered", b.js("by('em-head').options.length") == page_reading.HEADS + 2)
    b.js(pick.format("layer", "-1"))
    check("of all layers none", b.js("by('em-head').options.length") == 2
          and b.js("by('em-head').value") == "max")
    for name, rows in (("map", n), ("alpha", HEADS), ("candidates", 40)):
        b.js(f"by('em-{name}-table').open = true; 0")
        b.do("Runtime.evaluate", expression="new Promise(done => setTimeout(done, 50))",
             awaitPromise=True)
        got = b.js(f"all('#em-{name}-table tbody tr').length")
        check(f"the table of {name}", got == rows, got)
    check("no complaint after all that", not b.complaints(), b.complaints()[:3])
    b.width(360)
    b.open(page)
    wide = b.js("document.documentElement.scrollWidth")
    check("360 pixels are enough", wide <= 360, wide)
    b.shot("emergence-narrow")


def test_few(b, program, folder):
    """One step; no ablation and no ratio of every pair; two kinds of rotation."""
    def two_ropes(i):
        d = reading(i)
        d["ropes"].append(copy.deepcopy(d["ropes"][0]))
        d["layers"][1]["rope"] = 1
        return d

    one, plain = made([4]), made()
    for s in plain["steps"]:
        s.update(ablation=None, perplexity=None)
        for y in s["layers"]:
            del y["ratio"]
    for name, d, layers in (("one", one, page_reading.LAYERS + 1), ("plain", plain,
                            page_reading.LAYERS + 1), ("ropes", made(readings=two_ropes),
                                                       page_reading.LAYERS)):
        (folder / f"{name}-em.json").write_text(json.dumps(d))
        page = test_page.render(program, folder, name, page_reading.reading(),
                                ("--emergence", folder / f"{name}-em.json"))
        b.open(page)
        check(f"{name}: no complaint", not b.complaints(), b.complaints()[:3])
        check(f"{name}: layers to choose", b.js("by('em-layer').options.length") == layers)
    b.open(test_page.render(program, folder, "none", page_reading.reading()))
    check("without checkpoints the page says so", "No checkpoints were given"
          in text_of(b, "emergence") and b.js("by('emergence-figures').hidden"))


def browser(program, folder, page, d):
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if os.environ.get("PAGE_TESTED") or not path:
        why = os.environ.get("PAGE_TESTED") or "there is no chromium"
        print(f"skipped: checkpoints in a browser: {why}")
        return
    b = test_page.Chromium(path, folder / "profile")
    try:
        test_in_browser(b, page, d)
        test_few(b, program, folder)
    finally:
        b.close()


def write_seed(folder):
    """For tests/fuzz_emergence.c."""
    d = made([0, 4])
    d["steps"][1]["model_sha256"] = "aa"
    pathlib.Path(folder, "emergence.json").write_text(emergence.text_of(d))


def main():
    if sys.argv[1] == "--seeds":
        write_seed(sys.argv[2])
        return 0
    program, folder = sys.argv[1], pathlib.Path(tempfile.mkdtemp())
    try:
        test_words()
        test_other_words()
        test_numbers()
        test_series()
        test_program(program, folder)
        d = made()
        (folder / "em.json").write_text(emergence.text_of(d))
        page = test_page.render(program, folder, "final", page_reading.reading(),
                                ("--emergence", folder / "em.json"))
        test_page_text(page, d)
        test_refusals(program, folder, d)
        test_noise(program, folder, d)
        browser(program, folder, page, d)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{counts[True]} passed, {counts[False]} failed")
    return counts[False] > 0


if __name__ == "__main__":
    sys.exit(main())
