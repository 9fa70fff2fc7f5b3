"""An invented reading of a small model, for the tests of the page: every field of schema
ropescope.analysis/2, with planted offset features. page_reading.py writes it to stdout;
reading() and ablation() give it to test_page.py. Random numbers come from a fixed seed."""

import cmath
import json
import math
import random
import sys

LAYERS, HEADS, KV_HEADS, PAIRS, REST = 6, 4, 2, 8, 4
DIM, P, N_CTX, N_MAP = 2 * PAIRS + REST, 512, 64, 24
THETA = [10000 ** (-j / PAIRS) for j in range(PAIRS)]
X = [theta * P for theta in THETA]
TOKENS = [
    "<s>",
    " Once",
    " upon",
    " a",
    " time",
    ",",
    "\n",
    "</script><img/src=x/onerror=alert(1)>",
    " \u05e9\u05dc\u05d5\u05dd",
    "\t",
] + [f" word{i}" for i in range(10, N_MAP)]


def offset_pair(l, h):
    """The pair that carries the planted offset feature of a head, or None."""
    return None if l == 0 else 5 + (h + l) % 3 % 2


def sample(rng, mean, spread, n):
    flat = []
    for _ in range(n):
        flat += [mean.real + rng.gauss(0, spread), mean.imag + rng.gauss(0, spread)]
    return flat


def pair_of(rng, l, h, j):
    """Means of q and k (complex) and their spread."""
    if j == offset_pair(l, h):
        direction = rng.uniform(0, 2 * math.pi)
        phi = math.pi - X[j] / 2 + rng.uniform(-0.1, 0.1)
        return cmath.rect(9, direction), cmath.rect(7, direction - phi), 0.8
    return cmath.rect(0.4, rng.uniform(0, 6)), cmath.rect(0.4, rng.uniform(0, 6)), 0.6


def sinc(y):
    return math.sin(y) / y


def pair_fields(rng, l, h, j):
    q, k, spread = pair_of(rng, l, h, j)
    r_q, r_k = math.hypot(abs(q), spread), math.hypot(abs(k), spread)
    phi = (cmath.phase(q) - cmath.phase(k)) % (2 * math.pi)
    product = r_q * r_k / math.sqrt(DIM)
    return dict(
        r_q=r_q,
        r_k=r_k,
        R_q=abs(q) / r_q,
        R_k=abs(k) / r_k,
        dir_q=cmath.phase(q),
        dir_k=cmath.phase(k),
        phi=phi,
        rms_q=r_q,
        rms_k=r_k,
        max_q=1.6 * r_q,
        max_k=1.7 * r_k,
        first_q=r_q,
        first_k=0.2 * r_k,
        ratio=r_q * r_k / 0.52,
        gain=sinc(X[j] / 2) * math.cos(phi + X[j] / 2),
        t3_slack=min(phi - math.pi / 2, 3 * math.pi / 2 - X[j] - phi),
        offset_share_q=abs(q) ** 2 / r_q**2,
        offset_share_k=abs(k) ** 2 / r_k**2,
        p_neg=(1.5 * math.pi - phi) / THETA[j] if math.cos(phi) < 0 else None,
        worst=max(math.cos(phi), math.cos(phi + X[j])),
        logit_sink=-0.2 * product * (j == offset_pair(l, h)) + rng.uniform(-0.1, 0.1),
        logit_others=-product * (j == offset_pair(l, h)) + rng.uniform(-0.1, 0.1),
        max_q_at=[0, 5],
        max_k_at=[0, 9],
    )


def head(rng, l, h):
    fields = [pair_fields(rng, l, h, j) for j in range(PAIRS)]
    columns = {name: [f[name] for f in fields] for name in fields[0]}
    top = max(range(PAIRS), key=lambda j: columns["ratio"][j])
    planted = offset_pair(l, h)
    candidates = [] if planted is None else [planted]
    alpha = 0.75 - 0.05 * h if candidates else 0.02
    q, k = (
        cmath.rect(columns[f"r_{c}"][top] * columns[f"R_{c}"][top], columns[f"dir_{c}"][top])
        for c in "qk"
    )
    flat_k = sample(rng, k, 0.8, N_MAP)
    flat_k[:2] = [0.1 * k.real, 0.1 * k.imag]
    return dict(
        columns,
        head=h,
        kv_head=h * KV_HEADS // HEADS,
        n_q=700,
        n_k=700,
        top_pair=top,
        strong=candidates,
        candidates=candidates,
        alpha_1=alpha,
        alpha_1_t=alpha,
        sink_share=float(alpha > 0.3),
        n_rows_not_finite=0,
        logit_sink_rest=0.1,
        logit_others_rest=0.05,
        alpha=[alpha] + [(1 - alpha) / (4 + i) for i in range(1, N_CTX)],
        sink_share_k=[float(alpha > 0.3)] + [0] * (N_CTX - 1),
        first4=min(1, alpha + 0.1),
        entropy=0.9 - alpha,
        distance=10 + h,
        previous=0.1 * h,
        duplicate=0.01,
        induction=0.02 * l,
        thirds=[0.5, 0.3, 0.2],
        stable_rank_q=1.5,
        stable_rank_k=1.2,
        first_sv_q=0.7,
        first_sv_k=0.8,
        matrix_entropy_q=0.4,
        matrix_entropy_k=0.3,
        massive_q=candidates,
        massive_k=[],
        samples={
            str(top): {"q": sample(rng, q, 0.8, N_MAP), "k": flat_k, "pos": list(range(N_MAP))}
        },
        bias=None,
    )


def channel_columns(heads):
    """Means and maxima of |q| and |k| per channel, over the heads, in sliced order."""
    columns = {}
    for c in "qk":
        largest = [max(h[f"max_{c}"][j] for h in heads) for j in range(PAIRS)]
        columns[f"max_{c}"] = largest + [0.9 * v for v in largest] + [1.5] * REST
        columns[f"mean_{c}"] = [v / 3 for v in columns[f"max_{c}"]]
    return columns


def layer(rng, l):
    heads = [head(rng, l, h) for h in range(HEADS)]
    columns = channel_columns(heads)
    massive = {
        "n": 2 * l,
        "max": 3.0 * 9 ** min(l, 3),
        "at": [0, 0, 3],
        "median": 0.4,
        "channels": [[3, 2 * l]],
    }
    return {
        "layer": l,
        "rope": 0,
        "window": 0,
        "n_candidates": sum(len(h["candidates"]) for h in heads),
        "alpha_1": 0.5,
        "sink_1": 0.5,
        "heads": heads,
        "massive_activations": massive,
        "channels": dict(columns, stage="after rotation", n_rot=2 * PAIRS, before=columns),
    }


def attention(l, h):
    """A lower triangle: most to key 0, some to the token before."""
    weights = []
    for q in range(N_MAP):
        row = [0.05] * (q + 1)
        row[0] += 2 + h
        row[max(0, q - 1)] += 0.5
        weights += [round(w / sum(row), 4) for w in row]
    return {"layer": l, "head": h, "n": N_MAP, "weights": weights, "why": "largest alpha_1"}


def bounds():
    table = [
        ("F1", "x <= 2 pi", "the pair makes at most one turn over P"),
        ("F2", "x <= pi", "half a turn"),
    ]
    return [
        dict(
            id=i,
            formula=f,
            meaning=m,
            asked_of="all",
            top_hits=20,
            top_of=24,
            top_chance=0.5,
            strong_hits=20,
            strong_of=20,
            strong_chance=0.5,
            exceptions=[[0, 1, 2]],
        )
        for i, f, m in table
    ]


def reading():
    rng = random.Random(1)
    classes = ["half" if x <= math.pi else "partial" if x <= 2 * math.pi else "full" for x in X]
    rope = dict(
        layout="half",
        kind="plain",
        n_pairs=PAIRS,
        base=10000,
        factor=1,
        with_divisors=0,
        n_ctx_orig=P,
        amplitude=1,
        n_ctx=P,
        theta=THETA,
        x=X,
        cycles=[x / 2 / math.pi for x in X],
        wavelength=[2 * math.pi / t for t in THETA],
        hf_channels=[[j, j + PAIRS] for j in range(PAIRS)],
    )
    rope["class"] = classes
    made = dict(
        version="0.1.0",
        model="invented.gguf",
        model_sha256="00ff",
        architecture="llama",
        text="invented & <b>",
        text_sha256="11ee",
        bos_policy="auto",
        rope_override=None,
        pre_override=None,
        activations="float",
        n_layers=LAYERS,
        n_heads=HEADS,
        n_kv_heads=KV_HEADS,
        head_dim=DIM,
        n_ctx_train=P,
        n_tokens=700,
        n_windows=11,
        n_ctx=N_CTX,
        edits=None,
        generated=0,
        shards=1,
    )
    return {
        "schema": "ropescope.analysis/2",
        "provenance": made,
        "tokens": TOKENS,
        "interventions": None,
        "options": dict(n_skip=1, strong_ratio=20, strong_r=0.95, sink_eps=0.3, sink_t=64),
        "summary": {
            "findings": ["20 of 24 heads carry a planted offset feature."],
            "bounds": bounds(),
            "bounds_note": "The bounds are derived here.",
            "chance_note": "Chance: by chance.",
        },
        "ropes": [rope],
        "layers": [layer(rng, l) for l in range(LAYERS)],
        "maps": [attention(1, 0), attention(2, 3)],
    }


def ablation():
    rows = [
        ("unedited", "nothing", 0, 10.5, 0.6, 0.8),
        ("drop partial", "all pairs with x < 2 pi", 96, 14.2, 0.04, 0),
        ("drop random full-cycle", "as many pairs with x > 2 pi", 96, 11.1, 0.58, 0.79),
    ]
    runs = [
        dict(
            name=n,
            edit=e,
            n_edited=k,
            perplexity=p,
            perplexity_error=0.4,
            nll=math.log(p),
            alpha_1=a,
            sink_1=s,
            sink_eps=0.3,
            tokens_scored=690,
        )
        for n, e, k, p, a, s in rows
    ]
    return {
        "schema": "ropescope.ablation/1",
        "provenance": {"model_sha256": "00ff", "version": "0.1.0"},
        "selection": {"layers": "all", "heads": "all", "seed": 1},
        "runs": runs,
        "findings": ["Without the partial-cycle pairs the sink is gone."],
    }


if __name__ == "__main__":
    json.dump(ablation() if "ablation" in sys.argv else reading(), sys.stdout)
