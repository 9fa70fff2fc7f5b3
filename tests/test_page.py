"""The page of `ropescope report` in headless Chromium: test_page.py PROGRAM, from the top of the
checkout. Chromium is driven over its DevTools protocol, on two pipes: no port, no package.
ROPESCOPE_SHOTS=DIR keeps a picture of each state there. Ends with "N passed, N failed"."""

import base64
import copy
import html.parser
import json
import math
import os
import pathlib
import random
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(__file__))
import page_reading  # noqa: E402

SHORT = (
    "globalThis.all = s => [...document.querySelectorAll(s)];"
    "globalThis.by = id => document.getElementById(id);"
)
WHEN_LATE = 60  # seconds without an answer: Chromium hangs
counts = {True: 0, False: 0}


def check(what, holds, found=""):
    counts[bool(holds)] += 1
    if not holds:
        print(f"failed: {what} {found}")


# ---- Chromium


class Chromium:
    """One browser with one tab. Messages are JSON, ended by a zero byte, on fds 3 and 4."""

    def __init__(self, path, folder):
        for fd in (3, 4):
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)  # keep their places
        theirs_in, self.to = os.pipe()
        self.back, theirs_out = os.pipe()
        os.dup2(theirs_in, 3)
        os.dup2(theirs_out, 4)
        self.process = subprocess.Popen(
            [
                path,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                f"--user-data-dir={folder}",
                "--remote-debugging-pipe",
                "about:blank",
            ],
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (3, 4, theirs_in, theirs_out):
            os.close(fd)
        self.number, self.session, self.rest, self.events = 0, None, b"", []
        tab = self.do("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.do("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.do(domain + ".enable")

    def message(self):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], WHEN_LATE)
            got = os.read(self.back, 1 << 16) if ready else b""
            if not got:
                raise RuntimeError("Chromium ended" if ready else "Chromium is silent")
            self.rest += got
        one, self.rest = self.rest.split(b"\0", 1)
        return json.loads(one)

    def do(self, method, **parameters):
        self.number += 1
        say = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            say["sessionId"] = self.session
        os.write(self.to, json.dumps(say).encode() + b"\0")
        while True:
            m = self.message()
            if m.get("id") == self.number:
                if "error" in m:
                    raise RuntimeError(f"{method}: {m['error']}")
                return m["result"]
            if "method" in m:
                self.events.append(m)

    def wait(self, method):
        while not any(e["method"] == method for e in self.events):
            m = self.message()
            if "method" in m:
                self.events.append(m)

    def open(self, path, link=""):
        """The page, afresh: a new address behind # alone would not load it again."""
        for url in ("about:blank", pathlib.Path(path).resolve().as_uri() + link):
            self.events = []
            self.do("Page.navigate", url=url)
            self.wait("Page.loadEventFired")

    def js(self, expression):
        got = self.do("Runtime.evaluate", expression=SHORT + expression, returnByValue=True)
        if "exceptionDetails" in got:
            return f"exception: {got['exceptionDetails']['exception'].get('description')}"
        return got["result"].get("value")

    def key(self, name, text=""):
        codes = {
            "Enter": 13,
            "Escape": 27,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        more = {"windowsVirtualKeyCode": codes.get(name, 0)}
        if text:
            more["text"] = text
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=name, **more)

    def prefer(self, scheme):
        self.do(
            "Emulation.setEmulatedMedia",
            media="",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def width(self, width):
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def shot(self, name):
        folder = os.environ.get("ROPESCOPE_SHOTS")
        if folder:
            got = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=True)
            pathlib.Path(folder, name + ".png").write_bytes(base64.b64decode(got["data"]))

    def complaints(self):
        """What a quiet page has none of: errors and requests besides the page itself."""
        self.js("0")
        bad = []
        for e in self.events:
            p = e["params"]
            if e["method"] == "Runtime.exceptionThrown":
                bad.append(p["exceptionDetails"].get("exception", {}).get("description"))
            elif e["method"] in ("Runtime.consoleAPICalled", "Log.entryAdded"):
                bad.append(json.dumps(p)[:300])
            elif e["method"] == "Network.requestWillBeSent" and p.get("type") != "Document":
                bad.append("request of " + p["request"]["url"])
        return bad

    def close(self):
        self.process.kill()
        self.process.wait()


# ---- the file, without a browser


class Balance(html.parser.HTMLParser):
    """Whether tags nest, ids are unique, and for=, aria-labelledby= name some id."""

    VOID = {"meta", "input", "br", "hr", "img", "link"}

    def __init__(self):
        super().__init__()
        self.open, self.bad, self.ids, self.named = [], [], [], []

    def handle_starttag(self, tag, attributes):
        got = dict(attributes)
        self.ids += [got["id"]] if "id" in got else []
        self.named += [got[k] for k in ("for", "aria-labelledby") if k in got]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.bad.append(f"</{tag}> at {self.getpos()}")


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    hi, lo = sorted((luminance(a), luminance(b)), reverse=True)
    return (hi + 0.05) / (lo + 0.05)


def test_file(text):
    page = Balance()
    page.feed(text)
    check("tags nest", not page.bad and not page.open, f"{page.bad[:3]} {page.open}")
    check("ids are unique", len(set(page.ids)) == len(page.ids))
    check(
        "labels name what is there",
        set(page.named) <= set(page.ids),
        set(page.named) - set(page.ids),
    )
    check(
        "no address of a network",
        not re.search(r"(?:src|href)\s*=|https?:|url\(", text.split("<script")[0]),
    )
    blocks = re.findall(r"color-scheme: (?:light|dark);(.*?)}", text, re.S)
    check("three sets of colours", len(blocks) == 3)
    check("the two dark sets are one", "".join(blocks[1].split()) == "".join(blocks[2].split()))
    for block in blocks:
        c = dict(re.findall(r"--(\w+): (#\w{6})\b", block))
        for ink, ground, least in [
            ("ink", "bg", 4.5),
            ("soft", "bg", 4.5),
            ("ink", "panel", 4.5),
            ("ink", "alert", 4.5),
            ("soft", "panel", 4.5),
            ("q", "bg", 3),
            ("k", "bg", 3),
            ("accent", "bg", 3),
            ("edge", "bg", 3),
            ("second", "bg", 3),
        ]:
            ratio = contrast(c[ink], c[ground])
            check(f"contrast of {ink} on {ground}", ratio >= least, f"{ratio:.2f}")


# ---- the page in the browser


def text_of(b, element):
    return b.js(f"by('{element}').textContent")


def focus_of(b):
    return b.js("document.activeElement.id")


def test_views(b, page):
    b.open(page)
    hidden = b.js("all('.view').filter(v => v.hidden).map(v => v.closest('section').id).join()")
    check("every view is shown", hidden == "", hidden)
    empty = b.js(
        "all('svg').filter(s => s.checkVisibility() && !s.children.length)" ".map(s => s.id).join()"
    )
    check("every chart is drawn", empty == "", empty)
    blank = b.js(
        "all('canvas').filter(c => c.checkVisibility() && new Set(c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data).size < 20).map(c => c.id).join()"
    )
    check("every map is drawn", blank == "", blank)
    check("the static map gives way", b.js("by('static').hidden"))
    labels = b.js(
        "all('canvas, svg[role=img]').filter(e => e.checkVisibility()"
        " && !(e.getAttribute('aria-label') || '').match(/[0-9]/)).map(e => e.id).join()"
    )
    check("every figure's label tells numbers", labels == "", labels)
    check(
        "the strongest pair is open",
        "pair" in text_of(b, "pair-title") and "Layer" in text_of(b, "pair-title"),
    )
    check("tokens are text", b.js("document.images.length") == 0)
    check(
        "the sink is the first key",
        "Key 0 <s>" in text_of(b, "attention-note"),
        text_of(b, "attention-note"),
    )
    check(
        "the gap names the planted pair",
        re.search(r"Largest gap: pair [56],", text_of(b, "parts-out")),
        text_of(b, "parts-out"),
    )
    check("no complaint", not b.complaints(), b.complaints()[:3])


def test_keys(b, page):
    b.open(page, "#layer=2&head=1&pair=5&dist=40")
    check(
        "deep link: pair",
        text_of(b, "pair-title") == "Layer 2, head 1, pair 5",
        text_of(b, "pair-title"),
    )
    check(
        "deep link: distance", text_of(b, "dist-out").startswith("Δ = 40:"), text_of(b, "dist-out")
    )
    b.js("by('layers').focus()")
    b.key("ArrowRight")
    b.key("ArrowDown")
    check(
        "arrows move in the map",
        text_of(b, "layers-out").startswith("Layer 3, pair 5"),
        text_of(b, "layers-out"),
    )
    b.key("Enter")
    check(
        "Enter opens the layer",
        text_of(b, "layer-title") == "Heads of layer 3" and focus_of(b) == "heads",
        focus_of(b),
    )
    b.key("ArrowRight")
    b.key("ArrowDown")
    b.key("Enter")
    check("Enter opens the pair", focus_of(b) == "dist", focus_of(b))
    before = b.js(
        "[document.querySelector('#turning').getAttribute('transform'),"
        " document.querySelector('#curve .k').getAttribute('transform')].join()"
    )
    b.key("ArrowRight")
    after = b.js(
        "[document.querySelector('#turning').getAttribute('transform'),"
        " document.querySelector('#curve .k').getAttribute('transform')].join()"
    )
    check("the slider moves arrow and marker", before != after, after)
    check(
        "the slider is said", text_of(b, "dist-out").startswith("Δ = 41:"), text_of(b, "dist-out")
    )
    check(
        "and heard",
        b.js("by('dist').getAttribute('aria-valuetext')").startswith("41 tokens"),
    )
    check("the address follows", b.js("location.hash").endswith("&dist=41"), b.js("location.hash"))
    b.key("Escape")
    first = focus_of(b)
    b.key("Escape")
    check("Esc goes up twice", (first, focus_of(b)) == ("heads", "layers"), (first, focus_of(b)))
    b.key("?", "?")
    check("? shows the keys", b.js("by('keys').open"))
    b.key("Escape")
    check("Esc closes them", not b.js("by('keys').open"))
    check("no complaint about keys", not b.complaints(), b.complaints()[:3])


def test_geometry(b, page):
    """The numbers of the pair's figure against the reading."""
    b.open(page, "#layer=2&head=1&pair=6&dist=512")
    h = page_reading.reading()["layers"][2]["heads"][1]
    turned = b.js("by('turning').getAttribute('transform')")
    expected = page_reading.X[6] * 180 / math.pi
    found = float(re.search(r"rotate\((.*)\)", turned).group(1))
    check(
        "the key turns by theta times the distance", abs(found - expected) < 1e-6, (found, expected)
    )
    deep = b.js("curve.cosine(512)")
    check("the cosine at P", abs(deep - (math.cos(h["phi"][6] + page_reading.X[6]))) < 1e-9, deep)
    tip = "by('turning').querySelector(':scope > line')"
    angle = b.js(f"Math.atan2(-{tip}.getAttribute('y2'), {tip}.getAttribute('x2'))")
    expected = -h["phi"][6]
    difference = (angle - expected + math.pi) % (2 * math.pi) - math.pi
    check("the mean key lies phi clockwise of the query", abs(difference) < 0.02, (angle, expected))
    low = b.js("kernelAt(kernelPairs(heads(2)[1]), 7)")
    want = sum(
        h["r_q"][j]
        * h["R_q"][j]
        * h["r_k"][j]
        * h["R_k"][j]
        / page_reading.DIM**0.5
        * math.cos(h["phi"][j] + 7 * page_reading.THETA[j])
        for j in range(page_reading.PAIRS)
    )
    check("the kernel of the head", abs(low - want) < 1e-9, (low, want))


def test_controls(b, page):
    b.open(page)
    for select in (
        "paper-of",
        "paper-stage",
        "paper-order",
        "paper-log",
        "measure",
        "kernel-axis",
        "attention-log",
        "attention-pick",
        "pick-head",
        "pick-pair",
        "table-columns",
    ):
        b.js(
            f"for (const o of by('{select}').options) {{ o.parentNode.value = o.value;"
            " o.parentNode.dispatchEvent(new Event('change')); }"
        )
    check("every choice works", not b.complaints(), b.complaints()[:3])
    b.js("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    b.do("Runtime.evaluate", expression="new Promise(r => setTimeout(r, 200))", awaitPromise=True)
    small = b.js(
        "all('details[id$=-table]').filter(d => d.checkVisibility()"
        " && d.querySelectorAll('tr').length < 3)"
        ".map(d => d.id).join()"
    )
    check("figures open as tables", small == "", small)
    b.js(
        "const title = n => all('#heads-rows th button').find(x => x.textContent === n);"
        " title('alpha_1').click(); 0"
    )
    column = b.js(
        "const at1 = all('#heads-rows th').findIndex(t => t.textContent === 'alpha_1');"
        " all('#heads-rows tbody tr').map(r => +r.children[at1].textContent)"
    )
    check("a title sorts", column == sorted(column, reverse=True) and len(set(column)) > 2, column)
    check(
        "and says so",
        b.js("document.querySelectorAll('#heads-rows th')[at1].getAttribute('aria-sort')")
        == "descending",
    )
    b.js("document.querySelector('#heads-rows tbody tr:nth-child(3)').click()")
    want = b.js("document.querySelector('#heads-rows tbody tr:nth-child(3)').dataset.at")
    check(
        "a row opens its head",
        text_of(b, "pair-title").startswith("Layer {}, head {},".format(*want.split("."))),
    )
    csv = b.js(
        "let copied = ''; navigator.clipboard.writeText = async t => { copied = t; };"
        " document.querySelector('#heads-rows .controls button').click(); copied"
    )
    check("the table is copied", csv.startswith("layer,head,") and csv.count("\n") == 25, csv[:80])
    b.js("by('dist-number').value = 1e9;" " by('dist-number').dispatchEvent(new Event('input'))")
    check("distances end at P", b.js("at.dist <= 512"))
    check("no complaint about tables", not b.complaints(), b.complaints()[:3])


def background(b):
    return b.js("getComputedStyle(document.body).backgroundColor")


def test_looks(b, page):
    seen = {}
    for scheme in ("light", "dark"):
        b.prefer(scheme)
        b.open(page)
        seen[scheme] = background(b)
        b.shot(scheme)
    check(
        "dark is dark",
        seen["light"] == "rgb(253, 253, 251)" and seen["dark"] == "rgb(21, 23, 26)",
        seen,
    )
    b.js(
        "addEventListener('beforeprint', () => { globalThis.printed = background(); });"
        "const background = () => getComputedStyle(document.body).backgroundColor; 0"
    )
    b.do("Page.printToPDF")
    check("print is light", b.js("printed") == seen["light"], b.js("printed"))
    check("and leaves the page dark", background(b) == seen["dark"])
    b.js("by('theme').click()")
    check("the button turns it light", background(b) == seen["light"])
    b.js("localStorage.clear()")
    b.prefer("light")
    b.width(360)
    b.open(page)
    wide = b.js("document.documentElement.scrollWidth")
    check("360 pixels are enough", wide <= 360, wide)
    b.shot("narrow")
    b.do("Emulation.setScriptExecutionDisabled", value=True)
    b.open(page)
    wide = b.js("document.documentElement.scrollWidth")
    check("and without a script", wide <= 360, wide)
    b.width(1100)
    shown = b.js(
        "[all('#static svg path').length, all('#static svg circle').length,"
        " all('#static tbody tr').length, all('#bounds tbody tr').length,"
        " all('#runs tbody tr').length, by('app').checkVisibility(),"
        " document.querySelector('#static svg').checkVisibility()]"
    )
    cells = page_reading.LAYERS * page_reading.PAIRS
    check(
        "without a script: map, rings, tables",
        shown == [cells + 4 * page_reading.LAYERS, 10, 20, 2, 3, False, True],
        shown,
    )
    b.shot("noscript")
    b.do("Emulation.setScriptExecutionDisabled", value=False)


def render(program, folder, name, data, more=()):
    """The page of a reading; more: options of report."""
    source, page = folder / (name + ".json"), folder / (name + ".html")
    source.write_text(json.dumps(data))
    done = subprocess.run(
        [program, "report", source, "-o", page, *more], capture_output=True, text=True, check=False
    )
    check(f"report of {name}", done.returncode == 0, done.stderr)
    return page


def forget(value, rng, share):
    """The value with some members of its objects null or gone."""
    if isinstance(value, dict):
        kept = {k: forget(v, rng, share) for k, v in value.items() if rng.random() > share / 2}
        return {k: None if rng.random() < share / 2 else v for k, v in kept.items()}
    return [forget(v, rng, share) for v in value] if isinstance(value, list) else value


def test_missing(b, program, folder):
    """Whatever is missing, the page stands and says why."""
    bare = page_reading.reading()
    for layer in bare["layers"]:
        for name in ("channels", "massive_activations"):
            del layer[name]
        for head in layer["heads"]:
            for name in (
                "samples",
                "alpha",
                "logit_sink",
                "logit_others",
                "bias",
                "offset_share_q",
            ):
                head[name] = None
    del bare["maps"], bare["tokens"]
    b.open(render(program, folder, "bare", bare))
    hidden = b.js("all('.view').filter(v => v.hidden).map(v => v.closest('section').id).join()")
    check(
        "views without data are left out", hidden == "paper,parts,attention,sinks,massive", hidden
    )
    check(
        "and say why",
        b.js(
            "all('.view').filter(v => v.hidden)"
            ".every(v => v.parentNode.lastElementChild.textContent.includes('left out'))"
        ),
    )
    check("no complaint about missing data", not b.complaints(), b.complaints()[:3])
    for seed in range(6):
        full = page_reading.reading()
        data = forget(full, random.Random(seed), 0.03 * seed + 0.02)
        data["schema"] = full["schema"]
        b.open(render(program, folder, f"forgetful {seed}", data))
        check(
            f"no complaint about forgotten fields, seed {seed}",
            not b.complaints(),
            b.complaints()[:2],
        )


def test_words(b, program, folder):
    """What the captions say where the first key is pushed down and no key is a sink."""
    data = page_reading.reading()
    h = data["layers"][2]["heads"][1]
    h["logit_sink"] = [-4.0 if j == 3 else 0.25 for j in range(page_reading.PAIRS)]
    h["logit_others"] = [0.0] * page_reading.PAIRS
    n = data["maps"][0]["n"]
    even = [[0.29996] + [0.70004 / max(1, q)] * q for q in range(n)]  # key 0 gets 0.29996
    data["maps"][0]["weights"] = [w for row in even for w in row]
    data["maps"][0]["why"] = "most attention on the first token (0.301)"
    data["summary"]["alpha_queries"] = 512
    b.open(render(program, folder, "words", data), "#layer=2&head=1&pair=3")
    said = text_of(b, "parts-out")
    check(
        "the largest gap may be against the first key",
        re.search(r"Largest gap: pair 3, -4 against 0, against the first key", said),
        said,
    )
    said = text_of(b, "attention-note")
    check(
        "below the limit there is no sink, nor does rounding make one",
        "receives most, 0.29996 on average, which is not above the limit of a sink, 0.3" in said,
        said,
    )
    check("both means name their queries", "of 512 queries" in said and f"{n} queries" in said)
    label = b.js("maps[maps.length - 1].m.lines(0)[0].label")
    check("and the map is not labelled so", label == "most", label)
    b.js("by('attention-pick').value = 1; by('attention-pick').onchange({ target: { value: 1 } })")
    label = b.js("maps[maps.length - 1].m.lines(0)[0].label")
    check("above it, it is", label == "sink", label)
    check("no complaint about words", not b.complaints(), b.complaints()[:3])


def test_subject(b, program, folder):
    """Names, definitions and letters, all of them without a script."""
    data = page_reading.reading()
    data["provenance"].update(model="some/pi/</title>&.gguf", text="phi/delta.txt")
    data["provenance"]["edits"] = "x < 2 pi"
    data["notes"] = {"p_neg": "(3 pi/2 - phi) / theta, a_pi >= pi"}
    b.do("Emulation.setScriptExecutionDisabled", value=True)
    b.open(render(program, folder, "subject", data))
    title, said = b.js("document.title"), text_of(b, "subject")
    check("the title names both", title == "title>&.gguf, delta.txt – ropescope report", title)
    want = "Model title>&.gguf, text delta.txt: 700 tokens in 11 windows of up to 64 tokens"
    check("so does the line under the heading", said == want, said)
    said = text_of(b, "notes")
    check("notes are defined", "(3π/2 - φ) / θ, a_pi ≥ π" in said, said)
    check("and closed at first", b.js("by('notes').open") is False)
    check("paths keep their letters", "some/pi/" in text_of(b, "made"))
    said = b.js("document.body.firstElementChild.textContent")
    check("edits have the page's letters", said.endswith("x < 2π"), said)
    said = text_of(b, "bounds")
    check("so have the bounds", "x ≤ 2π" in said and " pi" not in said, said[:300])
    check("a rate keeps its sign", "83.3\u00a0%" in said, said[:300])
    b.do("Emulation.setScriptExecutionDisabled", value=False)
    data["provenance"] = {"q": "a/q.npy", "k": "k.npy", "model": None, "text": ""}
    b.open(render(program, folder, "files", data))
    title, said = b.js("document.title"), text_of(b, "subject")
    check("files are named", title == "q.npy, k.npy – ropescope report", title)
    check("and which is which", said == "Queries q.npy, keys k.npy", said)


def test_print(b, page):
    """Heading and figure of the attention maps fit one sheet of A4 and so stay together."""
    b.width(718)
    b.open(page)
    b.do("Emulation.setEmulatedMedia", media="print")
    tall = b.js("by('attention').getBoundingClientRect().height")
    check("heading and map fit one sheet", 300 < tall < 950, tall)
    box = b.js("const r = by('attention-map').getBoundingClientRect(); [r.width, r.height]")
    check("a printed map is at most 14 cm high", 200 < box[1] < 530 and box[0] <= 718, box)
    drawn = b.js("by('attention-map').width / by('attention-map').height")
    check("and not squeezed", abs(box[0] / box[1] - drawn) < 0.02, (box, drawn))
    b.do("Emulation.setEmulatedMedia", media="")
    b.width(1100)


def test_edited(b, program, folder):
    data = copy.deepcopy(page_reading.reading())
    data["provenance"]["edits"] = "pairs with x < 2 pi <dropped>"
    b.open(render(program, folder, "edited", data))
    said = b.js("document.body.firstElementChild.textContent")
    check(
        "an edited run says so first", said.startswith("Edited run.") and "<dropped>" in said, said
    )


def test_refusals(program, folder):
    other = page_reading.ablation()
    other["provenance"]["model_sha256"] = "22dd"
    (folder / "other.json").write_text(json.dumps(other))
    (folder / "empty.json").write_text("")
    for name, words in (
        ("other", "of another model"),
        ("empty", "expected a JSON object"),
        ("plain", 'schema: expected "ropescope.ablation/1"'),
    ):
        done = subprocess.run(
            [
                program,
                "report",
                folder / "plain.json",
                "--ablation",
                folder / (name + ".json"),
                "-o",
                folder / "x.html",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        check(
            f"ablation '{name}' is refused",
            done.returncode == 1 and words in done.stderr,
            done.stderr,
        )
        check("and leaves no page", not (folder / "x.html").exists())


def test_demo(b, program, folder):
    """A reading the program itself has made."""
    made = subprocess.run(
        [program, "analyze", "demo/model.gguf", "-f", "demo/sample.txt", "-n", "300", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    b.prefer("light")
    b.open(render(program, folder, "demo", json.loads(made.stdout)))
    check("the demo model's own reading", not b.complaints(), b.complaints()[:3])
    check("its pair is shown", text_of(b, "pair-title").startswith("Layer "))
    b.shot("demo")


def in_browser(path, program, folder, page):
    b = Chromium(path, folder / "profile")
    b.width(1100)
    tests = [test_views, test_keys, test_geometry, test_controls, test_looks, test_print]
    more = [test_missing, test_words, test_subject, test_edited, test_demo]
    try:
        for test in tests + more:
            given = (b, page) if test in tests else (b, program, folder)
            try:
                test(*given)
            except (AttributeError, TypeError, ValueError) as error:  # no text where one is due
                check(test.__name__, False, repr(error))
    finally:
        b.close()


def main():
    program = sys.argv[1]
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        plain = render(program, folder, "plain", page_reading.reading())
        test_file(plain.read_text())
        test_refusals(program, folder)
        (folder / "ablation.json").write_text(json.dumps(page_reading.ablation()))
        page = render(
            program,
            folder,
            "page",
            page_reading.reading(),
            ("--ablation", folder / "ablation.json"),
        )
        test_file(page.read_text())
        path = (
            shutil.which("chromium")
            or shutil.which("chromium-browser")
            or shutil.which("google-chrome")
        )
        if path:
            in_browser(path, program, folder, page)
        else:
            print("skipped: the page in a browser: there is no chromium")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{counts[True]} passed, {counts[False]} failed")
    return counts[False] > 0


if __name__ == "__main__":
    sys.exit(main())
