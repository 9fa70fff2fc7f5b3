/* Encodings that change scores, layers and heads: ALiBi, two bases, layers without positions, HoPE
 * and RoPE++, each against its formulas in double. test_rope_matrix.c has what they reduce to. */
#include "../model.h"

#include "check.h"
#include "gguf_builder.h"
#include "ref.h"

#include <float.h>
#include <string.h>

#define U      0x1p-24
#define D      16
#define LONG   600
#define HEADS  8 /* shown of layer 0, or fewer */
#define LAYERS 4

static Err err;

/* ---------------------------------------------------------------- runs */

/* What the probe saw of one run of n tokens. */
typedef struct {
    int n, n_heads, n_kv_heads;
    float *q[HEADS], *q_raw[HEADS], *k_raw[HEADS]; /* [n][D] of layer 0 */
    float *score[HEADS], *out[HEADS];              /* [n][n], [n][D] of layer 0 */
    float *logits;                                 /* [n][V] */
    size_t n_logits;
} Shown;

static void keep(float *to, int pos, int n, const float *x, size_t stride)
{
    for (int i = 0; i < n; i++)
        memcpy(to + (size_t)(pos + i) * D, x + (size_t)i * stride, D * sizeof *to);
}

static void show_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q,
                   size_t stride)
{
    Shown *s = ctx;
    if (l == 0 && h < HEADS) keep(stage == AFTER_ROPE ? s->q[h] : s->q_raw[h], pos, n, q, stride);
}

static void show_k(void *ctx, int l, int kh, int stage, int pos, int n, const float *k,
                   size_t stride)
{
    Shown *s = ctx;
    if (l == 0 && kh < HEADS && stage == BEFORE_ROPE) keep(s->k_raw[kh], pos, n, k, stride);
}

static void show_row(void *ctx, const AttnRow *row)
{
    Shown *s = ctx;
    if (row->l || row->h >= HEADS) return;
    memcpy(s->score[row->h] + (size_t)row->pos * (size_t)s->n + row->t0, row->scores,
           (size_t)row->n_t * sizeof(float));
    memcpy(s->out[row->h] + (size_t)row->pos * D, row->out, D * sizeof(float));
}

static void shown_free(Shown *s)
{
    for (int h = 0; h < HEADS; h++) {
        free(s->q[h]), free(s->q_raw[h]), free(s->k_raw[h]);
        free(s->score[h]), free(s->out[h]);
    }
    free(s->logits);
}

static void shown_new(Shown *s, int n)
{
    size_t N = (size_t)n;
    *s = (Shown){.n = n};
    for (int h = 0; h < HEADS; h++) {
        s->q[h] = xcalloc(N * D, sizeof(float)), s->q_raw[h] = xcalloc(N * D, sizeof(float));
        s->k_raw[h] = xcalloc(N * D, sizeof(float)), s->out[h] = xcalloc(N * D, sizeof(float));
        s->score[h] = xcalloc(N * N, sizeof(float));
    }
}

static void run(State *s, Shown *out, const int *ids)
{
    size_t V = (size_t)s->m->n_vocab;
    out->n_logits = (size_t)out->n * V;
    out->logits = xcalloc(out->n_logits, sizeof(float));
    for (int i = 0, n; i < out->n; i += n) {
        n = out->n - i < s->n_batch ? out->n - i : s->n_batch;
        forward(s, ids + i, n, n);
        memcpy(out->logits + (size_t)i * V, s->logits, (size_t)n * V * sizeof(float));
    }
}

/* n tokens of a file (data, size) under an encoding, in batches, on threads. 0, or a failed check. */
static int watch(const uint8_t *data, size_t size, const char *spec, int batch, int threads, int n,
                 Shown *out)
{
    Gguf g;
    Model m;
    State s;
    int ids[LONG];
    ModelOptions mo = {.rope = spec};
    StateOptions so = {.n_ctx = n, .n_batch = batch, .n_threads = threads, .exact = 1};
    Probe p = {PROBE_QK | PROBE_ATTN, out, show_q, show_k, show_row, NULL};
    uint64_t seed = 5;
    shown_new(out, n);
    if (!CHECK_MSG(gguf_parse(&g, "tiny.gguf", data, size, &err) == 0 &&
                       model_bind(&m, &g, &mo, &err) == 0,
                   "%s: %s", spec, err.msg))
        return -1;
    for (int i = 0; i < n; i++) ids[i] = (int)(rng_next(&seed) % (uint64_t)m.n_vocab);
    out->n_heads = m.layer[0].n_heads, out->n_kv_heads = m.layer[0].n_kv_heads;
    int rc = state_new(&s, &m, &so, &err);
    if (CHECK_MSG(rc == 0, "%s: %s", spec, err.msg)) {
        s.probe = &p;
        run(&s, out, ids);
        state_free(&s);
    }
    model_close(&m);
    return rc;
}

static const TinyModel tiny = {.n_layers = 2,
                               .n_embd = 32,
                               .n_heads = 4,
                               .n_kv_heads = 2,
                               .head_dim = D,
                               .n_ff = 40,
                               .n_vocab = 30,
                               .n_ctx = LONG,
                               .biases = 1,
                               .seed = 8};

/* The error of a kind made for one layer; NULL if it is accepted. */
static const char *refusal(const char *spec)
{
    RopeParams p = rope_params(D, 10000);
    const RopeKind *kind;
    Rope r;
    if (rope_parse(spec, &p, &kind, &err)) return err.msg;
    if (rope_new(&r, kind, &p, ROPE_HALF, NULL, &err)) return err.msg;
    rope_free(&r);
    return NULL;
}

static Rope made(const char *spec, int n_heads, int layer)
{
    RopeParams p = rope_params(D, 10000);
    const RopeKind *kind = NULL;
    Rope r = {0};
    p.n_heads = n_heads, p.layer = layer, p.n_layers = LAYERS;
    CHECK_MSG(rope_parse(spec, &p, &kind, &err) == 0 &&
                  rope_new(&r, kind, &p, ROPE_HALF, NULL, &err) == 0,
              "%s: %s", spec, err.msg);
    return r;
}

/* ---------------------------------------------------------------- ALiBi */

/* The slope of a head, by what a distance of 1 takes from a score of 0. */
static double slope_of(const Rope *r, int h)
{
    float score[2] = {0, 0};
    r->kind->bias(r, h, 1, 0, 2, score);
    CHECK(score[1] >= 0 && score[1] <= 0);
    return -(double)score[0];
}

/* The published slopes: 8 heads 1/2 .. 1/256; of 12 the last four 2^-0.5, 2^-1.5 ... One rounding
 * to float. */
static void test_alibi_slopes(void)
{
    Rope eight = made("alibi", 8, 0), twelve = made("alibi", 12, 0), one = made("alibi", 1, 0);
    static const double extra[] = {0.70710678118654752, 0.35355339059327376, 0.17677669529663688,
                                   0.08838834764831844};
    for (int h = 0; h < 12; h++) {
        double want = h < 8 ? ldexp(1, -h - 1) : extra[h - 8];
        if (h < 8) CHECK(slope_of(&eight, h) >= want && slope_of(&eight, h) <= want);
        CHECK_MSG(fabs(slope_of(&twelve, h) / want - 1) <= U, "head %d of 12: %.9g", h,
                  slope_of(&twelve, h));
    }
    CHECK(slope_of(&one, 0) >= 0x1p-8 && slope_of(&one, 0) <= 0x1p-8);
    rope_free(&eight);
    rope_free(&twelve);
    rope_free(&one);
}

/* Scores under alibi are those of none, or of plain, less slope (m - t): one rounding of the bias
 * and one of the sum. */
static void test_alibi_scores(void)
{
    enum { N = 40, WINDOW = 17 }; /* of keys: rows begin with other keys than the first */
    size_t size;
    TinyModel windowed = tiny;
    windowed.window = WINDOW;
    uint8_t *file = tiny_model(&windowed, &size);
    for (int plain = 0; plain < 2; plain++) {
        Shown a, b;
        watch(file, size, plain ? "alibi:under=plain" : "alibi", 7, 2, N, &a);
        watch(file, size, plain ? "plain" : "none", 7, 2, N, &b);
        for (int h = 0; h < 4; h++)
            for (int m = 0; m < N; m++)
                for (int t = m < WINDOW ? 0 : m - WINDOW + 1; t <= m; t++) {
                    double bias = -ldexp(1, -2 * (h + 1)) * (m - t);
                    double got = (double)a.score[h][m * N + t];
                    double want = (double)b.score[h][m * N + t] + bias;
                    CHECK_MSG(fabs(got - want) <= U * (fabs(want) + fabs(bias)),
                              "head %d, %d to %d: %.9g, expected %.9g", h, m, t, got, want);
                }
        shown_free(&a);
        shown_free(&b);
    }
    free(file);
}

/* ---------------------------------------------------------------- layers */

/* Which layer turns by which base, and that layers that are alike share one table. */
static void test_layers(void)
{
    static const TinyModel six = {.n_layers = 6,
                                  .n_embd = 32,
                                  .n_heads = 2,
                                  .n_kv_heads = 2,
                                  .head_dim = D,
                                  .n_ff = 40,
                                  .n_vocab = 30,
                                  .seed = 8};
    static const struct {
        const char *spec;
        double global, other; /* theta_1 of layers 2, 5 and of the others */
    } rows[] = {{"local:every=3,base=1e8,factor=8", 0.1 / 8, 0.316227766016838},
                {"local:every=3,base=1e8,local_base=1e16", 0.1, 0},
                {"nope-layers:every=3,base=1e8", 0, 0.1}};
    size_t size;
    uint8_t *file = tiny_model(&six, &size);
    for (int i = 0; i < 3; i++) {
        Gguf g;
        Model m;
        ModelOptions o = {.rope = rows[i].spec};
        CHECK(gguf_parse(&g, "tiny.gguf", file, size, &err) == 0);
        int rc = model_bind(&m, &g, &o, &err);
        if (i == 1) { /* a base out of range is refused where it is given */
            CHECK(rc == -1 && strstr(err.msg, "local_base"));
            continue;
        }
        if (!CHECK_MSG(rc == 0, "%s", err.msg)) continue;
        CHECK(m.n_ropes == 2);
        for (int l = 0; l < 6; l++) {
            double want = l % 3 == 2 ? rows[i].global : rows[i].other;
            double got = m.rope[m.layer[l].rope].inv_freq[1];
            CHECK_MSG(fabs(got - want) <= 1e-14, "%s, layer %d: %.17g", rows[i].spec, l, got);
        }
        model_close(&m);
    }
    free(file);
}

/* Divisors of a file (Llama 3) belong to what is scaled: the global layers. */
static void test_local_divisors(void)
{
    float by[D / 2] = {1, 2, 2, 2, 2, 2, 2, 2};
    RopeParams p = rope_params(D, 1e6);
    const RopeKind *kind;
    p.divisors = by;
    for (p.layer = 0; p.layer < 2; p.layer++) {
        Rope r;
        CHECK(rope_parse("local:every=2,local_base=1e6", &p, &kind, &err) == 0);
        CHECK(rope_new(&r, kind, &p, ROPE_HALF, NULL, &err) == 0);
        double want = pow(1e6, -2.0 / D) / (p.layer ? 2 : 1);
        CHECK_MSG(fabs(r.inv_freq[1] / want - 1) < 1e-15, "layer %d", p.layer);
        CHECK(r.inv_freq[0] >= 1 && r.inv_freq[0] <= 1);
        rope_free(&r);
    }
}

/* 1 + 0.1 ln(1 + floor((p + 1) / 8)): 1 up to position 6; only where nothing turns. */
static void test_temperature(void)
{
    Rope still = made("nope-layers:attn_scale=0.1,floor_scale=8", 2, 3);
    Rope turns = made("nope-layers:attn_scale=0.1,floor_scale=8", 2, 2);
    for (int pos = 0; pos < 100; pos++) {
        double want = 1 + 0.1 * log(1 + (pos + 1) / 8), got = still.kind->q_scale(&still, pos);
        CHECK_MSG(fabs(got - want) < 1e-15, "at %d: %.17g", pos, got);
        CHECK((pos < 7) == (got <= 1));
        CHECK(turns.kind->q_scale(&turns, pos) <= 1 && turns.kind->q_scale(&turns, pos) >= 1);
    }
    CHECK(refusal("nope-layers:every=2.5") && refusal("local:every=0.5") &&
          refusal("local:every=0"));
    rope_free(&still);
    rope_free(&turns);
}

/* ---------------------------------------------------------------- HoPE */

/* The D-form, naively: e^(-D theta') [(q1 k1 + q2 k2) cosh(D theta) + (q1 k2 + q2 k1) sinh(D theta)]
 * for each pair, as e^... and e^-... so that nothing overflows; elliptic: cos, and sin with the sign
 * of a rotation. */
static double hope_score(const float *q, const float *k, int dist, double decay, double boost,
                         int elliptic, double *size)
{
    double sum = 0;
    *size = 0;
    for (int j = 0; j < D / 2; j++) {
        double q1 = (double)q[2 * j], q2 = (double)q[2 * j + 1];
        double k1 = (double)k[2 * j], k2 = (double)k[2 * j + 1];
        double a = dist * boost * pow(10000, -2.0 * j / D), e = dist * decay;
        double even = (exp(a - e) + exp(-a - e)) / 2, odd = (exp(a - e) - exp(-a - e)) / 2;
        double dot = q1 * k1 + q2 * k2, cross = q1 * k2 + q2 * k1;
        if (elliptic) even = cos(a) * exp(-e), odd = sin(a) * exp(-e), cross = q1 * k2 - q2 * k1;
        sum += dot * even + cross * odd;
        *size += (fabs(q1 * k1) + fabs(q2 * k2) + fabs(q1 * k2) + fabs(q2 * k1)) *
                 (fabs(even) + fabs(odd));
    }
    return sum;
}

/* Of the terms' size: 3 roundings of u and v or of a turned value on either side, D of the products
 * and their sum, and one per token of distance, of a key that is multiplied again. What is flushed
 * leaves FLT_MIN |q| behind, D times. */
static double hope_tolerance(const float *q, int dist, double size)
{
    double most = 0;
    for (int c = 0; c < D; c++) most = fmax(most, fabs((double)q[c]));
    return U * (12 + D + dist) * size + 4 * D * (double)FLT_MIN * most;
}

/* What is turned is shown after the map to u and v; a run without an encoding shows the same queries
 * and keys of layer 0 as they are projected. */
static void check_hope(const char *spec, double decay, double boost, int elliptic)
{
    Shown s, raw;
    size_t size;
    uint8_t *file = tiny_model(&tiny, &size);
    double worst = 0;
    watch(file, size, spec, 100, 2, LONG, &s);
    watch(file, size, "none", 100, 2, LONG, &raw);
    for (int h = 0; h < 4; h++)
        for (int m = 0; m < LONG; m += m < 30 ? 1 : 37)
            for (int t = 0; t <= m; t++) {
                const float *q = raw.q_raw[h] + m * D, *k = raw.k_raw[h / 2] + t * D;
                double terms, want = hope_score(q, k, m - t, decay, boost, elliptic, &terms);
                double tol = hope_tolerance(q, m - t, terms) / sqrt(D);
                double got = (double)s.score[h][m * LONG + t], d = fabs(got - want / sqrt(D));
                CHECK_MSG(d <= tol, "%s: head %d, %d to %d: %.9g, expected %.9g", spec, h, m, t,
                          got, want / sqrt(D));
                worst = fmax(worst, d / tol);
            }
    CHECK_MSG(worst > 0.001, "%s: the tolerance is far too large: %g of it is used", spec, worst);
    shown_free(&raw);
    shown_free(&s);
    free(file);
}

/* No key is left as a number of few bits, and the slowest value is gone by D = 900. */
static void test_hope_vanishes(void)
{
    enum { T = 16 };
    Rope r = made("hope", 1, 0);
    RopeCall c = {.r = &r, .n = 1};
    float key[T * D];
    int first_zero = 0;
    for (int i = 0; i < T * D; i++) key[i] = (float)(1 + i % 3);
    for (int dist = 1; dist < 1000; dist++) {
        int alive = 0;
        r.kind->update(&c, 0, 0, key, T);
        for (int i = 0; i < T * D; i++) {
            alive += fabsf(key[i]) > 0;
            CHECK(!(fabsf(key[i]) > 0) || fabsf(key[i]) >= FLT_MIN);
        }
        if (!alive && !first_zero) first_zero = dist;
    }
    CHECK_MSG(first_zero > 850 && first_zero < 900, "all keys are 0 at distance %d", first_zero);
    rope_free(&r);
}

static void test_hope_refusals(void)
{
    const char *why = refusal("hope:decay=0.5");
    CHECK(why && strstr(why, "decay") && strstr(why, "0.5"));
    why = refusal("hope:pos_scale=-1");
    CHECK(why && strstr(why, "pos_scale"));
    CHECK(!refusal("hope:decay=1") && !refusal("hope:boost=0,decay=0"));
    CHECK(!refusal("hope:decay=0,mode=elliptic"));
    Gguf g;
    Model m;
    State s;
    size_t size;
    uint8_t *file = tiny_model(&tiny, &size);
    ModelOptions mo = {.rope = "hope"};
    StateOptions so = {.n_ctx = 8, .kv_type = T_F16};
    CHECK(gguf_parse(&g, "tiny.gguf", file, size, &err) == 0);
    CHECK(model_bind(&m, &g, &mo, &err) == 0);
    CHECK(state_new(&s, &m, &so, &err) == -1 && strstr(err.msg, "--kv f16"));
    model_close(&m);
    free(file);
}

/* ---------------------------------------------------------------- RoPE++ */

/* Scores of the two heads made from one: R = A cos a + B sin a, I = A sin a - B cos a, with A = q0
 * k0 + q1 k1, B = q0 k1 - q1 k0, a = D theta. */
static void real_and_imaginary(const float *q, const float *k, int dist, double out[2])
{
    out[0] = out[1] = 0;
    for (int j = 0; j < D / 2; j++) {
        double q0 = (double)q[2 * j], q1 = (double)q[2 * j + 1];
        double k0 = (double)k[2 * j], k1 = (double)k[2 * j + 1];
        double A = q0 * k0 + q1 * k1, B = q0 * k1 - q1 * k0, a = dist * pow(10000, -2.0 * j / D);
        out[0] += A * cos(a) + B * sin(a);
        out[1] += A * sin(a) - B * cos(a);
    }
    out[0] /= sqrt(D), out[1] /= sqrt(D);
}

static double length(const float *x)
{
    double s = 0;
    for (int c = 0; c < D; c++) s += (double)x[c] * (double)x[c];
    return sqrt(s);
}

/* Both sides of a turn move by 5 U of their length (test_rope.c), the product over D values rounds
 * 6 times and the scale once: 18 U |q| |k|. imaginary(h): is attention head h one? */
static void check_parts(const Shown *s, const char *spec, const int *imaginary, int n_heads)
{
    int per_key = n_heads / s->n_kv_heads;
    CHECK_MSG(s->n_heads == n_heads, "%s: %d heads", spec, s->n_heads);
    for (int h = 0; h < n_heads && h < HEADS; h++)
        for (int m = 0; m < s->n; m++)
            for (int t = 0; t <= m; t++) {
                const float *q = s->q_raw[h] + m * D, *k = s->k_raw[h / per_key] + t * D;
                double want[2], tol = 18 * U * length(q) * length(k) / sqrt(D);
                real_and_imaginary(q, k, m - t, want);
                double got = (double)s->score[h][m * s->n + t];
                CHECK_MSG(fabs(got - want[imaginary[h]]) <= tol,
                          "%s: head %d, %d to %d: %.9g, expected %.9g", spec, h, m, t, got,
                          want[imaginary[h]]);
            }
}

static void test_parts(void)
{
    static const struct {
        const char *spec;
        int n_heads, imaginary[HEADS];
    } rows[] = {{"ropepp", 8, {0, 1, 0, 1, 0, 1, 0, 1}},
                {"ropepp:mode=eh", 4, {0, 1, 0, 1}},
                {"ropepp:mode=imagx", 4, {0, 1, 0, 1}},
                {"ropepp:mode=imagh", 4, {0, 0, 1, 1}},
                {"ropepp:mode=imago", 4, {1, 1, 1, 1}}};
    size_t size;
    uint8_t *file = tiny_model(&tiny, &size);
    for (int i = 0; i < 5; i++) {
        Shown s;
        watch(file, size, rows[i].spec, 7, 2, 40, &s);
        check_parts(&s, rows[i].spec, rows[i].imaginary, rows[i].n_heads);
        for (int h = 0; i < 2 && h < rows[i].n_heads; h += 2) /* made from one */
            CHECK(memcmp(s.q_raw[h], s.q_raw[h + 1], sizeof(float) * 40 * D) == 0);
        shown_free(&s);
    }
    free(file);
}

/* Without the phase both heads of a pair are the same, bit for bit. */
static void test_no_phase(void)
{
    size_t size, bytes = sizeof(float) * 40 * D;
    uint8_t *file = tiny_model(&tiny, &size);
    Shown s;
    watch(file, size, "ropepp:phase=0", 7, 2, 40, &s);
    for (int h = 0; h < 8; h += 2) {
        CHECK(memcmp(s.q[h], s.q[h + 1], bytes) == 0 && memcmp(s.out[h], s.out[h + 1], bytes) == 0);
        CHECK(memcmp(s.score[h], s.score[h + 1], sizeof(float) * 40 * 40) == 0);
    }
    shown_free(&s);
    free(file);
}

/* ---------------------------------------------------------------- files made for RoPE++ */

/* A tensor of t changed on its way into another file: EC has an output matrix of twice the width,
 * EH half the rows of q, k and v. */
typedef struct {
    int wide; /* attn_output [2 H D, E]: column blocks real_0, imag_0, real_1, ... */
    float share[2];
    int half;
} Change;

static int ends(Str s, const char *end)
{
    size_t n = strlen(end);
    return s.n >= n && memcmp(s.s + s.n - n, end, n) == 0;
}

/* Each block of D columns becomes two of them, times share[0] and share[1]. */
static void add_wide(GgufBuilder *b, const char *name, const Tensor *t, const float *share)
{
    size_t cols = (size_t)t->ne[0], rows = (size_t)t->ne[1];
    const float *w = (const float *)(const void *)t->data;
    float *to = xcalloc(2 * cols * rows, sizeof *to);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            for (size_t i = 0; i < 2; i++)
                to[r * 2 * cols + (2 * (c / D) + i) * D + c % D] = share[i] * w[r * cols + c];
    gb_tensor(b, name, T_F32, 2, (int64_t[]){2 * t->ne[0], t->ne[1]}, to,
              2 * cols * rows * sizeof *to);
    free(to);
}

static void add_changed(GgufBuilder *b, const Tensor *t, const Change *x)
{
    static const char *const qkv[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight",
                                      "attn_q.bias",   "attn_k.bias",   "attn_v.bias"};
    char name[64];
    int64_t ne[4];
    size_t bytes = t->bytes;
    memcpy(ne, t->ne, sizeof ne);
    snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.s);
    if (x->wide && ends(t->name, "attn_output.weight")) {
        add_wide(b, name, t, x->share);
        return;
    }
    for (int i = 0; x->half && i < 6; i++)
        if (ends(t->name, qkv[i])) ne[i < 3 ? 1 : 0] /= 2, bytes /= 2;
    gb_tensor(b, name, t->type, t->n_dims, ne, t->data, bytes);
}

/* The file of t, with some tensors changed. */
static uint8_t *changed(const TinyModel *t, const Change *x, size_t *size)
{
    Gguf g;
    GgufBuilder b = {0};
    uint8_t *file = tiny_model(t, size);
    CHECK(gguf_parse(&g, "tiny.gguf", file, *size, &err) == 0);
    static const char *const names[] = {"context_length",       "embedding_length",
                                        "block_count",          "feed_forward_length",
                                        "attention.head_count", "attention.head_count_kv",
                                        "attention.key_length", "attention.value_length"};
    const int values[] = {t->n_ctx,   t->n_embd,     t->n_layers, t->n_ff,
                          t->n_heads, t->n_kv_heads, t->head_dim, t->head_dim};
    gb_key_str(&b, "general.architecture", "llama");
    for (int i = 0; i < 8; i++) {
        char key[64];
        snprintf(key, sizeof key, "llama.%s", names[i]);
        gb_key_u32(&b, key, (uint32_t)values[i]);
    }
    gb_key_f32(&b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (size_t i = 0; i < g.n_tensors; i++) add_changed(&b, &g.tensors[i], x);
    gguf_close(&g);
    free(file);
    return gb_finish(&b, size);
}

static void check_same(const uint8_t *a, size_t na, const char *spec_a, const uint8_t *b, size_t nb,
                       const char *spec_b, int same)
{
    Shown x, y;
    if (!watch(a, na, spec_a, 7, 2, 40, &x) && !watch(b, nb, spec_b, 7, 2, 40, &y)) {
        CHECK_MSG(x.n_logits == y.n_logits &&
                      (memcmp(x.logits, y.logits, x.n_logits * sizeof(float)) == 0) == same,
                  "%s and %s: expected %s logits", spec_a, spec_b, same ? "the same" : "other");
        shown_free(&y);
    }
    shown_free(&x);
}

/* EC with an output matrix for all heads. Columns of imaginary heads that are 0 leave plain RoPE;
 * the sums have other lanes then (test_forward.c), so to rounding: 26 stages of 11 roundings, as in
 * test_rope.c. And a wide matrix does what folding by the same shares does. */
static void test_wide_output(void)
{
    static const Change cases[] = {{.wide = 1, .share = {1, 0}},
                                   {.wide = 1, .share = {0.5f, 0.25f}}};
    static const char *const folds[] = {"plain", "ropepp:real=0.5,imag=0.25"};
    size_t size, wide;
    uint8_t *file = tiny_model(&tiny, &size);
    for (int i = 0; i < 2; i++) {
        Shown a, b;
        uint8_t *data = changed(&tiny, &cases[i], &wide);
        double most = 0;
        watch(data, wide, "ropepp", 7, 2, 40, &a);
        watch(file, size, folds[i], 7, 2, 40, &b);
        for (size_t j = 0; j < b.n_logits; j++) most = fmax(most, fabs((double)b.logits[j]));
        CHECK(a.n_heads == 8 && a.n_logits == b.n_logits);
        CHECK_CLOSE(a.logits, b.logits, a.n_logits, 26 * 11 * U * most);
        check_same(data, wide, "ropepp", data, wide, "ropepp:real=3,imag=2", 1); /* no fold here */
        check_same(data, wide, "ropepp", data, wide, "ropepp:phase=0", i == 0);
        shown_free(&a);
        shown_free(&b);
        free(data);
    }
    free(file);
}

/* EH: a file with half of the rows, and the first half of one with all of them. */
static void test_halved(void)
{
    static const Change half = {.half = 1};
    size_t size, small;
    uint8_t *file = tiny_model(&tiny, &size), *data = changed(&tiny, &half, &small);
    Shown s;
    check_same(file, size, "ropepp:mode=eh", data, small, "ropepp:mode=eh", 1);
    check_same(file, size, "ropepp:mode=eh", file, size, "ropepp:mode=eh,phase=0", 0);
    watch(file, size, "ropepp:mode=eh", 7, 1, 10, &s);
    CHECK(s.n_heads == 4 && s.n_kv_heads == 1);
    shown_free(&s);
    TinyModel odd = tiny;
    odd.n_heads = odd.n_kv_heads = 3;
    free(file);
    file = tiny_model(&odd, &size);
    Gguf g;
    Model m;
    ModelOptions o = {.rope = "ropepp:mode=eh"};
    CHECK(gguf_parse(&g, "tiny.gguf", file, size, &err) == 0);
    CHECK(model_bind(&m, &g, &o, &err) == -1 && strstr(err.msg, "even number"));
    CHECK(gguf_parse(&g, "tiny.gguf", data, small, &err) == 0);
    o.rope = "plain"; /* a file of half the heads is no plain model */
    CHECK(model_bind(&m, &g, &o, &err) == -1 && strstr(err.msg, "expected shape"));
    free(file);
    free(data);
}

/* Reports count attention heads, and a copy's query bias is that of the head it is made from. */
static void test_copied_biases(void)
{
    Gguf g;
    Model m;
    size_t size, n = 0;
    char *text = NULL;
    uint8_t *file = tiny_model(&tiny, &size);
    ModelOptions mo = {.rope = "ropepp"};
    BoundsOptions b = {0, 0.1};
    Provenance p = {.model_path = "tiny.gguf"};
    CHECK(gguf_parse(&g, "tiny.gguf", file, size, &err) == 0);
    CHECK(model_bind(&m, &g, &mo, &err) == 0);
    FILE *f = open_memstream(&text, &n);
    bounds_json(&m, &b, &p, f);
    fclose(f);
    const char *at = strstr(text, "\"q\":"), *head[8] = {0};
    for (int h = 0; h < 8 && at; h++) {
        char key[32];
        snprintf(key, sizeof key, "{\"head\":%d,", h);
        head[h] = at = strstr(at, key);
        if (at) head[h] = at += strlen(key);
    }
    for (int h = 0; CHECK(head[7]) && h < 8; h += 2) {
        size_t len = strcspn(head[h], "}");
        CHECK(len > 100 && strncmp(head[h], head[h + 1], len) == 0);
        CHECK(h == 0 || strncmp(head[h], head[0], len) != 0);
    }
    free(text);
    model_close(&m);
    free(file);
}

/* ---------------------------------------------------------------- every kind */

/* One token at a time, in sevens, all 600 at once but for the last 88; one thread and two. */
static void test_independence(void)
{
    static const char *const specs[] = {"alibi",
                                        "alibi:under=plain",
                                        "local:every=2,base=500,factor=2",
                                        "hope",
                                        "hope:boost=0,decay=0.001",
                                        "hope:mode=elliptic,decay=0.01",
                                        "ropepp",
                                        "ropepp:real=0.5,imag=0.5",
                                        "ropepp:mode=eh",
                                        "ropepp:mode=imagx",
                                        "nope-layers:every=2,attn_scale=1,floor_scale=8"};
    static const int ways[][2] = {{1, 1}, {7, 2}, {512, 2}};
    size_t size;
    uint8_t *file = tiny_model(&tiny, &size);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        Shown want, got;
        if (watch(file, size, specs[i], 512, 1, LONG, &want)) continue;
        for (int w = 0; w < 3; w++) {
            watch(file, size, specs[i], ways[w][0], ways[w][1], LONG, &got);
            CHECK_MSG(!memcmp(got.logits, want.logits, want.n_logits * sizeof(float)),
                      "%s: batches of %d on %d threads give other bits", specs[i], ways[w][0],
                      ways[w][1]);
            shown_free(&got);
        }
        shown_free(&want);
    }
    free(file);
}

int main(void)
{
    test_alibi_slopes();
    test_alibi_scores();
    test_layers();
    test_local_divisors();
    test_temperature();
    check_hope("hope", 1.1, 1, 0);
    check_hope("hope:decay=1", 1, 1, 0);
    check_hope("hope:boost=0.002,decay=0.003", 0.003, 0.002, 0);
    check_hope("hope:boost=0,decay=0.01", 0.01, 0, 0);
    check_hope("hope:mode=elliptic,decay=0.01", 0.01, 1, 1);
    test_hope_vanishes();
    test_hope_refusals();
    test_parts();
    test_no_phase();
    test_wide_output();
    test_halved();
    test_copied_biases();
    test_independence();
    return check_done();
}
