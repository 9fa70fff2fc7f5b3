/* The instrument on models of every family: the miniatures of tests/families (see
 * tests/make_miniatures.py) under analyze, explain, bounds and partial results, against plain
 * recomputation in double from the queries and keys as they were before rotation. And: files of the
 * same model with adjacent pairs and with half-split ones give the same bytes. */
#define _GNU_SOURCE /* memmem */
#include "../model.h"
#include "check.h"
#include "json.h"
#include "ref.h"
#include "team.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define U 0x1p-24
enum { T = 40 }; /* tokens: five windows of 8, and more than the 32 of phi3's short list */

typedef struct {
    const char *name;
    const char *windows; /* one digit per layer */
} Family;

static const Family families[] = {
    {"llama", "00"},
    {"llama-bias", "00"},
    {"mistral", "88"},
    {"phi2", "00"},
    {"gptneox", "00"},
    {"gptneox-sequential", "00"},
    {"qwen2", "088"},
    {"qwen3", "00"},
    {"gemma", "00"},
    {"gemma2", "808"},
    {"gemma3", "8888808"},
    {"smollm3", "0000"},
    {"granite", "00"},
    {"olmo", "00"},
    {"olmo2", "00"},
    {"stablelm", "00"},
    {"stablelm-parallel", "00"},
    {"phi3", "88"},
    {"phi3-long", "00"},
    {"starcoder2", "88"},
    {"gptj", "00"},
};

/* What a probe sees of one window; the analysis sees the same. */
typedef struct {
    const Model *m;
    float *q[2], *k[2];    /* [L][heads][T][D] before and after rotation */
    float *score, *weight; /* [L][heads][T][T] */
    int *t0;               /* [L][heads][T] */
    float *logits;         /* [V] of the last token */
    char *json, *merged;   /* the reading; the same by way of a partial result */
    int team;              /* threads that ran it */
} Run;

static size_t at_head(const Model *m, int l, int h)
{
    return (size_t)l * (size_t)m->max_heads + (size_t)h;
}

static float *vector_at(const Model *m, float *x, int l, int h, int t)
{
    return x + (at_head(m, l, h) * T + (size_t)t) * (size_t)m->head_dim;
}

/* n vectors of D values, the next one stride values on, to where they follow one another. */
static void keep(const Run *r, float *to, int n, const float *x, size_t stride)
{
    size_t D = (size_t)r->m->head_dim;
    for (size_t i = 0; i < (size_t)n; i++) memcpy(to + i * D, x + i * stride, D * sizeof *x);
}

static void keep_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q, size_t s)
{
    Run *r = ctx;
    keep(r, vector_at(r->m, r->q[stage], l, h, pos), n, q, s);
}

static void keep_k(void *ctx, int l, int kh, int stage, int pos, int n, const float *k, size_t s)
{
    Run *r = ctx;
    keep(r, vector_at(r->m, r->k[stage], l, kh, pos), n, k, s);
}

static void keep_row(void *ctx, const AttnRow *row)
{
    Run *r = ctx;
    size_t at = at_head(r->m, row->l, row->h) * T + (size_t)row->pos;
    team_count(&r->team);
    r->t0[at] = row->t0;
    for (int i = 0; i < row->n_t; i++) {
        r->score[at * T + (size_t)(row->t0 + i)] = row->scores[i];
        r->weight[at * T + (size_t)(row->t0 + i)] = row->weights[i];
    }
}

static void run_new(Run *r, const Model *m)
{
    size_t heads = (size_t)m->n_layers * (size_t)m->max_heads, n = heads * T * (size_t)m->head_dim;
    *r = (Run){.m = m};
    for (int i = 0; i < 2; i++) r->q[i] = xcalloc(n, sizeof(float));
    for (int i = 0; i < 2; i++) r->k[i] = xcalloc(n, sizeof(float));
    r->score = xcalloc(heads * T * T, sizeof(float));
    r->weight = xcalloc(heads * T * T, sizeof(float));
    r->t0 = xcalloc(heads * T, sizeof(int));
    r->logits = xcalloc((size_t)m->n_vocab, sizeof(float));
}

static void run_free(Run *r)
{
    for (int i = 0; i < 2; i++) free(r->q[i]), free(r->k[i]);
    free(r->score), free(r->weight), free(r->t0), free(r->logits), free(r->json), free(r->merged);
}

static int token(const Model *m, int i)
{
    return (7 * i * i + 13 * i + 3) % m->n_vocab;
}

static Provenance provenance(const Model *m)
{
    return (Provenance){.n_tokens = T,
                        .n_windows = 1,
                        .n_text_tokens = T,
                        .n_text_windows = 1,
                        .n_ctx = T,
                        .exact = 1,
                        .model_bytes = m->g.size,
                        .kv = "f32",
                        .bos_policy = "off"};
}

static char *json_of(const Analysis *a, const Provenance *p)
{
    char *s = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&s, &n);
    analysis_json(a, p, f);
    fclose(f);
    return s;
}

/* The reading of a partial result of a, made by a model without weights. */
static char *merged_json(Analysis *a, const Provenance *p)
{
    char *s = NULL, *json = NULL;
    size_t n = 0;
    Err e = {.usage = 0};
    Partial x = {.m = NULL};
    FILE *f = open_memstream(&s, &n);
    int ok = CHECK_MSG(!partial_write(a, p, f, &e), "%s", e.msg);
    fclose(f);
    if (ok && CHECK_MSG(!partial_add(&x, "a", (uint8_t *)s, n, &e), "%s", e.msg))
        json = json_of(x.a, &x.p);
    partial_free(&x);
    free(s);
    return json;
}

static int run(Run *r, const Model *m, int n_batch, int n_threads, int exact)
{
    Err e;
    State s;
    AnalysisOptions o = analysis_defaults();
    StateOptions so = {.n_ctx = T, .n_batch = n_batch, .n_threads = n_threads, .exact = exact};
    Provenance p = provenance(m);
    ProbeChain chain;
    Probe mine = {PROBE_QK | PROBE_ATTN, r, keep_q, keep_k, keep_row, NULL};
    run_new(r, m);
    if (!CHECK_MSG(!state_new(&s, m, &so, &e), "%s", e.msg)) return 0;
    Analysis *a = analysis_new(m, &o);
    s.probe = probe_chain(&chain, analysis_probe(a), &mine);
    for (int i = 0, n; i < T; i += n) {
        int ids[T];
        n = T - i < n_batch ? T - i : n_batch;
        for (int k = 0; k < n; k++) ids[k] = token(m, i + k);
        analysis_tokens(a, ids, n);
        forward(&s, ids, n, 1);
    }
    memcpy(r->logits, s.logits, (size_t)m->n_vocab * sizeof(float));
    analysis_window(a);
    r->json = json_of(a, &p);
    r->merged = merged_json(a, &p);
    analysis_free(a);
    state_free(&s);
    return r->json && r->merged;
}

/* ---- plain recomputation */

typedef struct {
    double theta[64], amplitude, scale;
} Turn;

/* Of a query at pos: its table holds for the keys, too. */
static Turn turn_of(const Model *m, int l, int pos)
{
    const Rope *r = &m->rope[m->layer[l].rope];
    Turn t = {.scale = (double)m->score_scale};
    Err e;
    int length = r->kind->length ? r->kind->length(r, pos) : 0;
    MUST(r->n_pairs <= 64 && !r->kind->freqs(r, length, t.theta, &t.amplitude, &e));
    return t;
}

/* z = scale q.k from both before rotation; pass: of it, the values that do not turn; size: what
 * rounding is relative to. */
typedef struct {
    double z, pass, size;
} Score;

static Score plain_score(const Run *r, int l, int h, int pos, int t)
{
    const Model *m = r->m;
    const Layer *y = &m->layer[l];
    const float *q = vector_at(m, r->q[0], l, h, pos);
    const float *k = vector_at(m, r->k[0], l, h / (y->n_heads / y->n_kv_heads), t);
    int P = m->rope[y->rope].n_pairs;
    Turn turn = turn_of(m, l, pos);
    double a2 = turn.amplitude * turn.amplitude;
    Score s = {0};
    for (int j = 0; j < P; j++) {
        double qa = (double)q[2 * j], qb = (double)q[2 * j + 1];
        double ka = (double)k[2 * j], kb = (double)k[2 * j + 1];
        double rr = a2 * hypot(qa, qb) * hypot(ka, kb);
        double phi = atan2(qb, qa) - atan2(kb, ka);
        s.z += turn.scale * rr * cos(phi + (pos - t) * turn.theta[j]);
        s.size += turn.scale * rr;
    }
    for (int c = 2 * P; c < m->head_dim; c++) {
        s.pass += turn.scale * (double)q[c] * (double)k[c];
        s.size += turn.scale * fabs((double)q[c] * (double)k[c]);
    }
    s.z += s.pass;
    return s;
}

/* Row of head h at pos: what it sees, its scores and weights. */
static void check_row(const Run *r, const char *name, int l, int h, int pos)
{
    const Model *m = r->m;
    size_t at = at_head(m, l, h) * T + (size_t)pos;
    int W = m->layer[l].window, t0 = W && pos >= W ? pos - W + 1 : 0, bad = 0;
    const float *score = r->score + at * T, *weight = r->weight + at * T;
    double sum = 0, all = 0, most = -HUGE_VAL, least = HUGE_VAL;
    CHECK_MSG(r->t0[at] == t0, "%s: layer %d at %d sees from %d on", name, l, pos, r->t0[at]);
    for (int t = t0; t <= pos; t++) {
        Score s = plain_score(r, l, h, pos, t);
        double z = s.z;
        if (m->attn_cap > 0) z = m->attn_cap * tanh(z / m->attn_cap);
        /* as in rope_watch.h: 5 U for each side, 6 for the sum, scale and its float, cap */
        bad += !(fabs((double)score[t] - z) <= 20 * U * s.size);
        most = fmax(most, (double)score[t]), least = fmin(least, (double)score[t]);
    }
    CHECK_MSG(!bad, "%s: layer %d head %d at %d: %d scores are others", name, l, h, pos, bad);
    for (int t = t0; t <= pos; t++) sum += exp((double)score[t] - most);
    for (int t = t0; t <= pos; t++) {
        double w = exp((double)score[t] - most) / sum;
        all += (double)weight[t];
        /* our exp is within 1.02 ulp, exponents are rounded, the sum takes 6 roundings or less */
        bad += !(fabs((double)weight[t] - w) <= (12 + 2 * (most - least)) * U * w + 1e-37);
    }
    CHECK_MSG(!bad, "%s: layer %d head %d at %d: weights", name, l, h, pos);
    CHECK_MSG(fabs(all - 1) <= T * U, "%s: layer %d head %d at %d: sum %.9g", name, l, h, pos, all);
}

/* Radius after rotation = amplitude times before (each member is off by 5 U of it, twice that for
 * the root); other values keep their bits. */
static void check_turned(const Run *r, const char *name, int l, int h, int is_q)
{
    const Model *m = r->m;
    int P = m->rope[m->layer[l].rope].n_pairs, bad = 0;
    size_t rest = (size_t)(m->head_dim - 2 * P) * sizeof(float);
    for (int t = 0; t < T; t++) {
        const float *a = vector_at(m, is_q ? r->q[0] : r->k[0], l, h, t);
        const float *b = vector_at(m, is_q ? r->q[1] : r->k[1], l, h, t);
        double amplitude = turn_of(m, l, t).amplitude;
        for (int j = 0; j < P; j++) {
            double was = amplitude * hypot((double)a[2 * j], (double)a[2 * j + 1]);
            double is = hypot((double)b[2 * j], (double)b[2 * j + 1]);
            bad += !(fabs(is - was) <= 10 * U * was);
        }
        bad += memcmp(a + 2 * P, b + 2 * P, rest) != 0;
    }
    CHECK_MSG(!bad, "%s: layer %d head %d: %d radii", name, l, h, bad);
}

/* The reading of one head against sums in double. */
static void check_head(const Run *r, const char *name, int l, int h)
{
    const Model *m = r->m;
    const Layer *y = &m->layer[l];
    int P = m->rope[y->rope].n_pairs, n_see = y->window && y->window < T ? y->window : T;
    double alpha = 0, want = 0, rest = 0, got = 0, sizes = 0, radius = 0;
    for (int pos = 0; pos < n_see; pos++) {
        alpha += (double)r->weight[(at_head(m, l, h) * T + (size_t)pos) * T];
        if (!pos) continue;
        Score s = plain_score(r, l, h, pos, 0);
        want += s.z, rest += s.pass, sizes += s.size;
    }
    NEAR(get(r->json, "layers.%d.heads.%d.alpha_1", l, h), alpha / n_see, 1e-8);
    NEAR(get(r->json, "layers.%d.heads.%d.sink_key", l, h) >= 0, 1, 0);
    for (int j = 0; j < P; j++) got += get(r->json, "layers.%d.heads.%d.logit_sink.%d", l, h, j);
    double other = get(r->json, "layers.%d.heads.%d.logit_sink_rest", l, h);
    CHECK(isnan(other) == (2 * P == m->head_dim));
    if (2 * P < m->head_dim) got += other;
    /* keys that were turned by another table since (phi3 from 32 tokens on) are those of the run */
    double tol = (20 * U * sizes + 1e-8 * P * sizes) / (n_see - 1);
    if (n_see <= 32 || !m->rope[y->rope].kind->length)
        CHECK_MSG(fabs(got - want / (n_see - 1)) <= tol, "%s: layer %d head %d: parts %.9g of %.9g",
                  name, l, h, got, want / (n_see - 1));
    if (2 * P < m->head_dim)
        CHECK_MSG(fabs(other - rest / (n_see - 1)) <= tol, "%s: %d %d: rest", name, l, h);
    for (int t = 1; t < T; t++) {
        const float *q = vector_at(m, r->q[0], l, h, t);
        radius += hypot((double)q[0], (double)q[1]) / (T - 1);
    }
    NEAR(get(r->json, "layers.%d.heads.%d.r_q.0", l, h), radius, 1e-8);
}

/* The run's own threads, batches and probe change nothing; nor does a partial result. */
static void check_same(const Run *r, const char *name)
{
    const Model *m = r->m;
    static const int batch[] = {1, 32}, threads[] = {2, 3};
    Err e;
    State s;
    StateOptions so = {.n_ctx = T, .n_batch = T, .exact = 1};
    int ids[T];
    CHECK_MSG(!strcmp(r->json, r->merged), "%s: a partial result reads otherwise", name);
    for (int i = 0; i < 2; i++) {
        Run other;
        if (run(&other, m, batch[i], threads[i], 1)) {
            CHECK_MSG(other.team == team_expected(threads[i]), "%s: %d threads of %d", name,
                      other.team, threads[i]);
            CHECK_MSG(!strcmp(r->json, other.json), "%s: batches of %d", name, batch[i]);
            CHECK(!memcmp(r->logits, other.logits, (size_t)m->n_vocab * sizeof(float)));
        }
        run_free(&other);
    }
    for (int i = 0; i < T; i++) ids[i] = token(m, i);
    if (!CHECK(state_new(&s, m, &so, &e) == 0)) return;
    forward(&s, ids, T, 1);
    CHECK_MSG(!memcmp(r->logits, s.logits, (size_t)m->n_vocab * sizeof(float)),
              "%s: the probe changes the logits", name);
    state_free(&s);
}

/* explain of one logit: it adds up, and to the score of the run. */
static void check_explain(const Run *r, const char *name, int l, int h, int query, int key)
{
    const Model *m = r->m;
    Err e;
    State s;
    StateOptions so = {.n_ctx = T, .n_batch = T, .exact = 1};
    Logit at = {.l = l, .h = h, .query = query, .key = key, .pair = -1};
    Provenance p = provenance(m);
    const char *text[T];
    int ids[T];
    char *json = NULL;
    size_t n = 0;
    for (int i = 0; i < T; i++) ids[i] = token(m, i), text[i] = "x";
    if (!CHECK_MSG(!logit_resolve(m, T, &at, &e), "%s: %s", name, e.msg)) return;
    if (!CHECK(state_new(&s, m, &so, &e) == 0)) return;
    Explain *x = explain_new(m, &at);
    s.probe = explain_probe(x);
    forward(&s, ids, query + 1, 0);
    explain_end(x, &s, ids, text);
    FILE *f = open_memstream(&json, &n);
    explain_json(x, &p, f);
    fclose(f);
    CHECK_MSG(!strncmp(find(json, "sum.adds_up"), "true", 4), "%s: layer %d: off by %g of %g", name,
              l, get(json, "sum.difference"), get(json, "sum.score"));
    double score = (double)r->score[(at_head(m, l, h) * T + (size_t)query) * T + (size_t)key];
    NEAR(get(json, "sum.engine"), score, 0);
    CHECK(isnan(get(json, "sum.cap")) == !(m->attn_cap > 0));
    free(json);
    explain_free(x);
    state_free(&s);
}

static void check_layer(const Run *r, const Family *f, int l)
{
    const Model *m = r->m;
    const Layer *y = &m->layer[l];
    CHECK_MSG(y->window == f->windows[l] - '0', "%s: window of layer %d", f->name, l);
    double P = m->rope[y->rope].p.n_ctx_orig; /* no query sees farther than its window */
    NEAR(get(r->json, "ropes.%d.n_ctx", (int)get(r->json, "layers.%d.rope", l)),
         y->window ? fmin(P, y->window) : P, 0);
    for (int h = 0; h < y->n_heads; h++) {
        for (int pos = 0; pos < T; pos++) check_row(r, f->name, l, h, pos);
        check_turned(r, f->name, l, h, 1);
        check_head(r, f->name, l, h);
    }
    for (int kh = 0; kh < y->n_kv_heads; kh++) check_turned(r, f->name, l, kh, 0);
    check_explain(r, f->name, l, y->n_heads - 1, T - 1, T - 5);
    check_explain(r, f->name, l, 0, 5, 0);
}

/* The miniature of a family, under an encoding (NULL: its own). 1 if it opens. */
static int open_family(Model *m, const char *family, const char *rope)
{
    char path[128];
    Err e;
    ModelOptions mo = {.rope = rope};
    snprintf(path, sizeof path, "tests/families/%s.gguf", family);
    if (!CHECK_MSG(!model_open(m, path, &mo, &e), "%s: %s", family, e.msg)) return 0;
    team_wanted(m);
    return 1;
}

static void test_family(const Family *f)
{
    Model m;
    Run r;
    if (!open_family(&m, f->name, NULL)) return;
    CHECK_MSG((int)strlen(f->windows) == m.n_layers, "%s: %d layers", f->name, m.n_layers);
    if (run(&r, &m, 7, 1, 1)) {
        for (int l = 0; l < m.n_layers; l++) check_layer(&r, f, l);
        CHECK(json_has_no_nan(r.json));
        double capped = get(r.json, "summary.cap_self_check");
        int limited = m.layer[0].qk_norm || m.clamp > 0;
        CHECK_MSG(limited ? capped > 0.1 && capped <= 1 + 1e-6 : isnan(capped), "%s: cap %g",
                  f->name, capped);
        CHECK(get(r.json, "summary.radius_self_check") < 1e-6);
        check_same(&r, f->name);
    }
    run_free(&r);
    model_close(&m);
}

/* ---- caps */

/* The longest (w_a u_a, w_b u_b) over u of n values that a norm can make: turned through by hand,
 * the other values as they cost least. */
static double longest(double wa, double wb, double n, int centred)
{
    double best = 0;
    for (int i = 0; i < 20000; i++) {
        double a = cos(i * 1e-4 * M_PI), b = sin(i * 1e-4 * M_PI), size = a * a + b * b;
        if (centred) size += (a + b) * (a + b) / (n - 2);
        double by = sqrt(n / size);
        best = fmax(best, hypot(wa * by * a, wb * by * b));
    }
    return best;
}

/* What `bounds` says of a miniature, which stays open; NULL: it does not open. From malloc. */
static char *bounds_of(Model *m, const char *family, const char *rope)
{
    BoundsOptions bo = {.eps = 0.9};
    Provenance p = {.model_path = family};
    char *json = NULL;
    size_t size = 0;
    if (!open_family(m, family, rope)) return NULL;
    FILE *f = open_memstream(&json, &size);
    bounds_json(m, &bo, &p, f);
    fclose(f);
    return json;
}

/* Caps of the file's own weights, read with their names. */
static void check_caps(const char *family, int centred, int together)
{
    Model m;
    char *json = bounds_of(&m, family, NULL);
    if (!json) return;
    const Tensor *t = gguf_tensor(&m.g, "blk.1.attn_q_norm.weight");
    if (CHECK(t && t->type == T_F32)) {
        const float *w = (const float *)(const void *)t->data;
        int D = m.head_dim, P = m.rope[0].n_pairs, n = m.rope[0].p.n_rot;
        int n_normed = together ? D * m.layer[1].n_heads : D;
        for (int h = 0; h < m.layer[1].n_heads; h++)
            for (int j = 0; j < P; j++) {
                const float *of = w + (t->ne[0] * t->ne[1] > D ? h * D : 0);
                double want = longest((double)of[j], (double)of[j + n / 2], n_normed, centred);
                /* steps of 1e-4 pi miss the largest by half the square of a step */
                NEAR(get(json, "caps.1.q.%d.radius.%d", h, j), want, 1e-7);
            }
    }
    free(json);
    model_close(&m);
}

static void test_caps(void)
{
    check_caps("qwen3", 0, 0);
    check_caps("gemma3", 0, 0);
    check_caps("olmo2", 0, 1);
    check_caps("stablelm-parallel", 1, 0);
    for (int i = 0; i < 2; i++) { /* the formula of two values alone, and of no weight */
        CHECK(fabs(longest(2, 2, 16, i) - 8) < 1e-6);
        CHECK(fabs(longest(3, 0, 16, i) - 3 * sqrt(i ? 15 : 16)) < 1e-6);
    }
}

/* ---- layouts */

/* The bytes of a reading without what is allowed to differ. */
static void blank(char *json, const char *what)
{
    for (char *s = json; (s = strstr(s, what));) {
        char *end = strchr(s + strlen(what), '"') + 1;
        memmove(s, end, strlen(end) + 1);
    }
}

static void check_twins(const char *name, const uint8_t *a, size_t na, const uint8_t *b, size_t nb,
                        int exact)
{
    Err e;
    Gguf g[2];
    Model m[2];
    Run r[2];
    const uint8_t *file[] = {a, b};
    const size_t size[] = {na, nb};
    int ok = 1;
    for (int i = 0; i < 2; i++) {
        e.msg[0] = 0;
        ok &= CHECK_MSG(!gguf_parse(&g[i], name, file[i], size[i], &e) &&
                            !model_bind(&m[i], &g[i], NULL, &e),
                        "%s: %s", name, e.msg) &&
              run(&r[i], &m[i], 7, 1, exact);
        if (!ok) return;
        blank(r[i].json, "\"architecture\":\"");
        blank(r[i].json, "\"layout\":\"");
        blank(r[i].json, "\"model_bytes\":");
    }
    CHECK(m[0].rope[0].layout == ROPE_ADJACENT && m[1].rope[0].layout == ROPE_HALF);
    CHECK_MSG(!memcmp(r[0].logits, r[1].logits, (size_t)m[0].n_vocab * sizeof(float)),
              "%s: logits of the two layouts", name);
    CHECK_MSG(!strcmp(r[0].json, r[1].json), "%s: readings of the two layouts", name);
    for (int i = 0; i < 2; i++) run_free(&r[i]), model_close(&m[i]);
}

/* llama and qwen2 differ in layout and in nothing else. */
static void test_tiny_twins(void)
{
    static const struct {
        const char *name;
        int n_rot, window, factors, type, exact, D;
    } cases[] = {{"plain", 0, 0, 0, T_F32, 1, 64},
                 {"partial", 12, 0, 0, T_F32, 1, 32},
                 {"window", 0, 9, 1, T_F16, 1, 96},
                 {"int8", 0, 0, 0, T_Q8_0, 0, 64},
                 {"partial int8", 34, 7, 0, T_Q4_0, 0, 64}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        TinyModel t = {.n_layers = 2,
                       .n_embd = 64,
                       .n_heads = 4,
                       .n_kv_heads = 2,
                       .n_ff = 64,
                       .head_dim = cases[i].D,
                       .n_vocab = 300,
                       .biases = 1,
                       .seed = 3 + i};
        size_t na, nb;
        t.n_rot = cases[i].n_rot, t.window = cases[i].window, t.factors = cases[i].factors;
        t.type = cases[i].type;
        t.embd_type = T_F32;
        uint8_t *a = tiny_model(&t, &na);
        t.arch = "qwen2", t.swap = 1;
        uint8_t *b = tiny_model(&t, &nb);
        check_twins(cases[i].name, a, na, b, nb, cases[i].exact);
        free(a), free(b);
    }
}

/* Rows of n_heads heads, from half-split to adjacent. */
static void join_rows(uint8_t *rows, size_t bytes, int n_heads, int D)
{
    uint8_t *head = xcalloc((size_t)D, bytes);
    for (int h = 0; h < n_heads; h++, rows += (size_t)D * bytes) {
        memcpy(head, rows, (size_t)D * bytes);
        for (int c = 0; c < D; c++)
            memcpy(rows + (size_t)c * bytes, head + (size_t)(c / 2 + c % 2 * (D / 2)) * bytes,
                   bytes);
    }
    free(head);
}

/* A file of an architecture of five letters, written as llama: names in place, rows in order. */
static void as_llama(uint8_t *file, size_t size, const char *arch)
{
    Err e;
    Gguf g;
    char key[16], length[64], *name;
    int64_t E = 0, heads = 1, D = 0;
    snprintf(key, sizeof key, "%s.", arch);
    if (!CHECK(gguf_parse(&g, arch, file, size, &e) == 0)) return;
    snprintf(length, sizeof length, "%s.attention.head_count", arch);
    CHECK(gguf_int(&g, length, 1, 1 << 20, &heads, &e) == 1);
    snprintf(length, sizeof length, "%s.embedding_length", arch);
    CHECK(gguf_int(&g, length, 1, 1 << 20, &E, &e) == 1);
    D = E / heads;
    snprintf(length, sizeof length, "%s.attention.key_length", arch);
    CHECK(gguf_int(&g, length, 1, 1 << 20, &D, &e) >= 0);
    for (size_t i = 0; i < g.n_tensors; i++) {
        const Tensor *t = &g.tensors[i];
        char what[64];
        snprintf(what, sizeof what, "%.*s", (int)t->name.n, t->name.s);
        uint8_t *data = file + (t->data - file);
        int rows = (int)(t->n_dims > 1 ? t->ne[1] : t->ne[0]);
        if (!strstr(what, "attn_q") && !strstr(what, "attn_k")) continue;
        join_rows(data, t->bytes / (size_t)rows, rows / (int)D, (int)D);
    }
    gguf_close(&g);
    for (uint8_t *s = file; (s = memmem(s, size - (size_t)(s - file), key, 6)); s++)
        memcpy(s, "llama", 5);
    name = memmem(file, size, "general.architecture", 20);
    name = memmem(name, 64, arch, 5);
    memcpy(name, "llama", 5);
}

/* What transformers made. (With norms of queries and keys no architecture has adjacent pairs.) */
static void test_family_twins(void)
{
    Err e;
    Bytes a = {0}, b = {0};
    const char *path = "tests/families/qwen2.gguf";
    if (CHECK_MSG(!bytes_read(&a, path, &e) && !bytes_read(&b, path, &e), "%s", e.msg)) {
        as_llama((uint8_t *)a.s, a.n, "qwen2");
        check_twins(path, (uint8_t *)a.s, a.n, (uint8_t *)b.s, b.n, 1);
    }
    free(a.s), free(b.s);
}

/* ---- channels of Hugging Face */

/* Pair j is channels a and b under --rope rope. */
static void check_channels(const char *family, const char *rope, int j, int a, int b)
{
    Model m;
    char *json = bounds_of(&m, family, rope);
    if (!json) return;
    double x = get(json, "encodings.0.rope.hf_channels.%d.0", j);
    double y = get(json, "encodings.0.rope.hf_channels.%d.1", j);
    CHECK_MSG(x == a && y == b, "%s: pair %d is %g and %g", family, j, x, y);
    free(json);
    model_close(&m);
}

/* Of heads of 8 values, llama of 16. */
static void test_channels(void)
{
    check_channels("llama", NULL, 3, 3, 11);
    check_channels("qwen2", NULL, 3, 3, 7);
    check_channels("phi2", NULL, 1, 1, 3);               /* 4 values turn */
    check_channels("phi3", NULL, 2, 2, 5);               /* 6 */
    check_channels("gptj", NULL, 1, 2, 3);               /* adjacent there, too */
    check_channels("llama", "partial:n_rot=4", 1, 1, 9); /* the weights are where they were */
    check_channels("qwen2", "partial:n_rot=4", 1, 1, 5);
    check_channels("phi2", "plain:n_rot=8", 1, 1, 3);
    check_channels("phi2", "plain:n_rot=8", 3, 6, 7); /* two values that the file does not turn */
}

int main(void)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) test_family(&families[i]);
    test_caps();
    test_tiny_twins();
    test_family_twins();
    test_channels();
    return check_done();
}
