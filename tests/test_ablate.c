/* Interventions: an edited run against the reference in double and against itself, the choice of
 * pairs and of their controls, massive values, and what `ablate` says of its numbers. */
#include "../model.h"

#include "check.h"
#include "ref.h"

#include <string.h>

#define N_MAX 128
#define D_MAX 32

static Err err;

typedef struct {
    uint8_t *file;
    Model m;
} Loaded;

static int load(Loaded *x, const TinyModel *t, const ModelOptions *mo)
{
    Gguf g;
    size_t size;
    x->file = tiny_model(t, &size);
    int ok = gguf_parse(&g, "tiny.gguf", x->file, size, &err) == 0 &&
             model_bind(&x->m, &g, mo, &err) == 0;
    if (!CHECK_MSG(ok, "%s", err.msg)) free(x->file);
    return ok;
}

static void unload(Loaded *x)
{
    model_close(&x->m);
    free(x->file);
}

static void pick_ids(int *ids, int n, int n_vocab)
{
    Rng r = {7};
    for (int i = 0; i < n; i++) ids[i] = rng_int(&r, 0, n_vocab - 1);
}

/* Logits [n][V] of n tokens under an edit, from malloc. */
static float *logits_of(const Model *m, int n, const StateOptions *so, const Edit *edit,
                        const Probe *probe)
{
    int ids[N_MAX];
    State s;
    size_t V = (size_t)m->n_vocab;
    float *out = xcalloc((size_t)n * V, sizeof *out);
    pick_ids(ids, n, m->n_vocab);
    if (!CHECK_MSG(state_new(&s, m, so, &err) == 0, "%s", err.msg)) exit(check_done());
    s.edit = edit;
    s.probe = probe;
    for (int i = 0; i < n; i += s.n_batch) {
        int k = n - i < s.n_batch ? n - i : s.n_batch;
        forward(&s, ids + i, k, k);
        memcpy(out + (size_t)i * V, s.logits, (size_t)k * V * sizeof *out);
    }
    state_free(&s);
    return out;
}

static uint64_t hash_of(const Model *m, int n, const StateOptions *so, const Edit *edit)
{
    float *l = logits_of(m, n, so, edit, NULL);
    uint64_t h = hash_bytes(l, (size_t)n * (size_t)m->n_vocab * sizeof *l);
    free(l);
    return h;
}

static Edit *drop_one(const Model *m, int l, int h, int j)
{
    Edit *e = edit_new(m);
    int a, b;
    rope_pair(&m->rope[m->layer[l].rope], j, &a, &b);
    edit_q(e, l, h, a, 0);
    edit_q(e, l, h, b, 0);
    return e;
}

static Edit *drop_all(const Model *m)
{
    Edit *e = edit_new(m);
    for (int l = 0; l < m->n_layers; l++)
        for (int h = 0; h < m->layer[l].n_heads; h++)
            for (int c = 0; c < m->head_dim; c++) edit_q(e, l, h, c, 0);
    return e;
}

/* ---------------------------------------------------------------- the edit itself */

/* A model large enough in its attention that one pair is felt. */
static const TinyModel adjacent = {.n_layers = 2,
                                   .n_embd = 64,
                                   .n_heads = 4,
                                   .n_kv_heads = 2,
                                   .head_dim = 16,
                                   .n_ff = 64,
                                   .n_vocab = 50,
                                   .biases = 1,
                                   .seed = 41};

/* Largest difference over the largest logit. */
static double distance(const float *a, const double *b, size_t n)
{
    double max = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!isfinite(d)) return (double)NAN;
        max = fmax(max, d);
        size = fmax(size, fabs(b[i]));
    }
    return max / size;
}

/* The logits of a model without one pair of one head are those of the reference, which leaves its
 * two terms out of the sums; and not those of the whole model, nor of another pair. */
static void check_dropped(const TinyModel *t, int l, int h, int j)
{
    enum { N = 12 };
    const double tol = 2e-5; /* of two layers in float; see exact_tolerance in test_forward */
    int ids[N];
    Loaded x;
    if (!load(&x, t, NULL)) return;
    size_t size = (size_t)N * (size_t)x.m.n_vocab;
    StateOptions so = {.n_ctx = N, .n_threads = 1, .exact = 1};
    RefOptions o = {.drop = 1, .drop_layer = l, .drop_head = h, .drop_pair = j};
    double *want = xcalloc(size, sizeof *want);
    Edit *e = drop_one(&x.m, l, h, j);
    pick_ids(ids, N, x.m.n_vocab);
    float *whole = logits_of(&x.m, N, &so, NULL, NULL), *got = logits_of(&x.m, N, &so, e, NULL);
    CHECK(ref_forward_gguf(&x.m.g, ids, N, want, &o) == 0);
    CHECK_MSG(distance(got, want, size) <= tol, "L%d.H%d pair %d: %.3g", l, h, j,
              distance(got, want, size));
    CHECK_MSG(distance(whole, want, size) > 3 * tol, "pair %d is not felt: %.3g", j,
              distance(whole, want, size));
    o.drop_pair = (j + 1) % (x.m.rope[0].n_pairs);
    CHECK(ref_forward_gguf(&x.m.g, ids, N, want, &o) == 0);
    CHECK_MSG(distance(got, want, size) > 3 * tol, "pair %d is like %d", j, o.drop_pair);
    edit_free(e);
    free(whole), free(got), free(want);
    unload(&x);
}

/* What the probe was shown of one head of layer 0. */
typedef struct {
    int h, kh, D;
    float q[N_MAX][D_MAX], k[N_MAX][D_MAX], row_q[N_MAX][D_MAX];
    float score[N_MAX][N_MAX], weight[N_MAX][N_MAX];
} Shown;

static void show_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q,
                   size_t stride)
{
    Shown *s = ctx;
    for (int i = 0; i < n && l == 0 && h == s->h && stage == AFTER_ROPE; i++)
        memcpy(s->q[pos + i], q + (size_t)i * stride, (size_t)s->D * sizeof *q);
}

static void show_k(void *ctx, int l, int kh, int stage, int pos, int n, const float *k,
                   size_t stride)
{
    Shown *s = ctx;
    for (int i = 0; i < n && l == 0 && kh == s->kh && stage == AFTER_ROPE; i++)
        memcpy(s->k[pos + i], k + (size_t)i * stride, (size_t)s->D * sizeof *k);
}

static void show_row(void *ctx, const AttnRow *r)
{
    Shown *s = ctx;
    if (r->l || r->h != s->h) return;
    memcpy(s->row_q[r->pos], r->q, (size_t)s->D * sizeof *r->q);
    memcpy(s->score[r->pos], r->scores, (size_t)r->n_t * sizeof(float));
    memcpy(s->weight[r->pos], r->weights, (size_t)r->n_t * sizeof(float));
}

static Shown *show(const Model *m, int h, int n, const Edit *e)
{
    Shown *s = xcalloc(1, sizeof *s);
    StateOptions so = {.n_ctx = n, .n_batch = 5, .n_threads = 1, .exact = 1};
    Probe p = {PROBE_QK | PROBE_ATTN, s, show_q, show_k, show_row, NULL};
    s->h = h;
    s->kh = h / (m->layer[0].n_heads / m->layer[0].n_kv_heads);
    s->D = m->head_dim;
    free(logits_of(m, n, &so, e, &p));
    return s;
}

/* In layer 0, whose input is the same: the scores are those of the whole model less the pair's
 * part; q is shown as it was computed; the other heads keep their bits. */
static void test_scores(void)
{
    enum { N = 20, HEAD = 1, PAIR = 3 };
    Loaded x;
    int a, b;
    if (!load(&x, &adjacent, NULL)) return;
    Edit *e = drop_one(&x.m, 0, HEAD, PAIR);
    Shown *was = show(&x.m, HEAD, N, NULL), *is = show(&x.m, HEAD, N, e);
    Shown *other = show(&x.m, 0, N, NULL), *same = show(&x.m, 0, N, e);
    double worst = 0, felt = 0, scale = (double)x.m.score_scale;
    rope_pair(&x.m.rope[0], PAIR, &a, &b);
    for (int i = 0; i < N; i++)
        for (int t = 0; t <= i; t++) {
            double part = scale * ((double)is->q[i][a] * (double)is->k[t][a] +
                                   (double)is->q[i][b] * (double)is->k[t][b]);
            double d = (double)was->score[i][t] - part - (double)is->score[i][t];
            worst = fmax(worst, isfinite(d) ? fabs(d) : (double)INFINITY);
            felt = fmax(felt, fabs(part));
        }
    CHECK_MSG(worst < 1e-6 && felt > 1e-3, "off by %.3g, parts up to %.3g", worst, felt);
    CHECK(memcmp(was->q, is->q, sizeof was->q) == 0 && memcmp(was->k, is->k, sizeof was->k) == 0);
    CHECK(memcmp(other->score, same->score, sizeof same->score) == 0);
    CHECK(is->row_q[N - 1][a] == 0 && is->row_q[N - 1][b] == 0 && is->q[N - 1][a] != 0);
    edit_free(e);
    free(was), free(is), free(other), free(same);
    unload(&x);
}

/* Without any of its values a query attends to all keys alike. */
static void test_uniform(void)
{
    enum { N = 90 };
    Loaded x;
    if (!load(&x, &adjacent, NULL)) return;
    Edit *e = drop_all(&x.m);
    Shown *s = show(&x.m, 2, N, e);
    double worst = 0, uniform = 0;
    for (int i = 0; i < N; i++)
        for (int t = 0; t <= i; t++)
            worst = fmax(worst, fabs((double)s->weight[i][t] * (i + 1) - 1));
    CHECK_MSG(worst <= 0x1p-23, "weights of equal scores differ from 1/n by %.3g of it", worst);

    AnalysisOptions o = analysis_defaults();
    StateOptions so = {.n_ctx = N, .n_threads = 2, .exact = 1};
    Analysis *a = analysis_new(&x.m, &o);
    analysis_window(a);
    free(logits_of(&x.m, N, &so, e, analysis_probe(a)));
    Sinks k = analysis_sinks(a, NULL);
    for (int i = 1; i <= N; i++) uniform += 1.0 / i / N;
    CHECK_MSG(fabs(k.alpha_1 - uniform) < 1e-6 && fabs(k.uniform - uniform) < 1e-12,
              "alpha_1 %.9g, equal weights %.9g, expected %.9g", k.alpha_1, k.uniform, uniform);
    CHECK(k.n_queries == N && k.t == 64 && k.n_samples == 8 && k.sink_1 == 0);
    analysis_free(a);
    edit_free(e);
    free(s);
    unload(&x);
}

/* Values of q and k are what the edit says they are, the keys also in the cache. */
static void test_replaced(void)
{
    enum { N = 9 };
    Loaded x;
    if (!load(&x, &adjacent, NULL)) return;
    Edit *e = edit_new(&x.m);
    edit_q(e, 0, 3, 2, 1.25f);
    edit_k(e, 0, 1, 5, -0.5f);
    Shown *is = show(&x.m, 3, N, e);
    double worst = 0, felt = 0;
    for (int i = 0; i < N; i++) {
        CHECK(is->row_q[i][2] == 1.25f && is->row_q[i][3] == is->q[i][3]);
        for (int t = 0; t <= i; t++) {
            double sum = 0;
            for (int c = 0; c < is->D; c++)
                sum +=
                    (c == 2 ? 1.25 : (double)is->q[i][c]) * (c == 5 ? -0.5 : (double)is->k[t][c]);
            double d = fabs(sum * (double)x.m.score_scale - (double)is->score[i][t]);
            worst = fmax(worst, isfinite(d) ? d : (double)INFINITY);
            felt = fmax(felt, fabs((double)is->k[t][5] + 0.5));
        }
    }
    CHECK_MSG(worst < 1e-6 && felt > 1e-3, "scores are off by %.3g", worst);
    edit_free(e);
    free(is);
    unload(&x);
}

/* The bits of an edited run, as those of any other, do not depend on threads, batches or the
 * instruction set; an edit of nothing, or no edit, leaves those of the model. */
static void test_bits(void)
{
    static const int threads[] = {1, 2, 3, 4}, batches[] = {1, 7, 512};
    enum { N = 40 };
    Loaded x;
    TinyModel t = adjacent;
    t.n_embd = 128, t.head_dim = 32, t.type = t.embd_type = T_Q8_0;
    if (!load(&x, &t, NULL)) return;
    x.m.n_params = 1u << 30; /* `forward` leaves threads out where there is little to do */
    StateOptions so = {.n_ctx = N, .n_threads = 1, .exact = 1};
    Edit *e = drop_one(&x.m, 0, 1, 2), *none = edit_new(&x.m);
    edit_q(e, 1, 0, 7, 0.75f);
    edit_k(e, 1, 1, 3, -2);
    for (int exact = 0; exact < 2; exact++) {
        so = (StateOptions){.n_ctx = N, .n_threads = 1, .exact = exact};
        uint64_t edited = hash_of(&x.m, N, &so, e), plain = hash_of(&x.m, N, &so, NULL);
        CHECK_MSG(plain == hash_of(&x.m, N, &so, none), "an edit of nothing changes the bits");
        CHECK_MSG(plain != edited, "the edit changes nothing");
        for (int i = 0; i < 12; i++) {
            so.n_threads = threads[i % 4], so.n_batch = batches[i / 4];
            CHECK_MSG(hash_of(&x.m, N, &so, e) == edited, "%d threads, batch %d: other bits",
                      so.n_threads, so.n_batch);
        }
        for (int i = 0; kernels_at(i); i++) {
            so = (StateOptions){.n_ctx = N, .n_threads = 2, .exact = exact};
            so.isa = kernels_at(i)->name;
            if (kernels_at(i)->usable())
                CHECK_MSG(hash_of(&x.m, N, &so, e) == edited, "%s: other bits", so.isa);
        }
    }
    edit_free(e);
    edit_free(none);
    unload(&x);
}

/* p-RoPE keeps the highest frequencies; none kept is no encoding, all kept is the plain one. */
static void test_keep(void)
{
    enum { N = 12 };
    int ids[N];
    Loaded plain, none, x;
    StateOptions so = {.n_ctx = N, .n_threads = 1, .exact = 1};
    if (!load(&plain, &adjacent, NULL) || !load(&none, &adjacent, &(ModelOptions){.rope = "none"}))
        return;
    pick_ids(ids, N, 50);
    for (int keep = 0; keep <= 8; keep++) {
        ModelOptions mo = {.truncate = 1, .rope_keep = keep / 8.0 + 0.01};
        if (mo.rope_keep > 1) mo.rope_keep = 1;
        RefOptions o = {.n_still = 8 - keep};
        double want[N * 50];
        if (!load(&x, &adjacent, &mo)) return;
        for (int j = 0; j < 8; j++)
            CHECK(x.m.rope[0].inv_freq[j] == (j < keep ? plain.m.rope[0].inv_freq[j] : 0));
        float *got = logits_of(&x.m, N, &so, NULL, NULL);
        CHECK(ref_forward_gguf(&x.m.g, ids, N, want, &o) == 0);
        CHECK_MSG(distance(got, want, N * 50) <= 2e-5, "%d pairs turn: %.3g", keep,
                  distance(got, want, N * 50));
        uint64_t h = hash_bytes(got, N * 50 * sizeof *got);
        if (keep == 0) CHECK(h == hash_of(&none.m, N, &so, NULL));
        CHECK((h == hash_of(&plain.m, N, &so, NULL)) == (keep == 8));
        free(got);
        unload(&x);
    }
    Rope r = {.n_pairs = 100, .inv_freq = xcalloc(100, sizeof(double))};
    for (int j = 0; j < 100; j++) r.inv_freq[j] = 1 + (j * 37) % 100; /* in no order */
    rope_keep(&r, 0.29);
    for (int j = 0; j < 100; j++) CHECK((r.inv_freq[j] > 0) == ((j * 37) % 100 >= 71));
    rope_free(&r);
    unload(&plain), unload(&none);
}

/* ---------------------------------------------------------------- which pairs */

/* n_rot 32, base 1e4, P 2048: x <= 2 pi from pair 11 on, x <= pi from 12 on (Phi-2's). */
static const TinyModel phi = {.n_layers = 3,
                              .n_embd = 64,
                              .n_heads = 2,
                              .n_kv_heads = 1,
                              .head_dim = 32,
                              .n_ctx = 2048,
                              .n_ff = 32,
                              .n_vocab = 40,
                              .seed = 5};

static int is_on(const Pairs *p, int l, int h, int j)
{
    return p->on[(l * p->n_heads + h) * p->n_pairs + j];
}

static void check_range(const Pairs *p, int l, int h, int from, int to)
{
    for (int j = 0; j < 16; j++)
        CHECK_MSG(is_on(p, l, h, j) == (j >= from && j < to), "L%d.H%d pair %d", l, h, j);
}

static void test_classes(void)
{
    static const int want[][2] = {{11, 16}, {12, 16}, {0, 11}};
    uint8_t all[] = {1, 1, 1}, one[] = {0, 1, 0}, listed[16] = {0};
    Loaded x;
    AnalysisOptions o = analysis_defaults();
    if (!load(&x, &phi, NULL)) return;
    Selection every = {.m = &x.m, .layer = all, .head = all};
    Selection some = {.m = &x.m, .layer = one, .head = one};
    Analysis *a = analysis_new(&x.m, &o);
    for (int which = PAIRS_PARTIAL; which <= PAIRS_FULL; which++) {
        Pairs p = pairs_pick(a, &every, which, NULL);
        for (int i = 0; i < 6; i++) check_range(&p, i / 2, i % 2, want[which][0], want[which][1]);
        CHECK(p.n == 6 * (want[which][1] - want[which][0]) && p.heads == 6);
        free(p.on);
    }
    listed[3] = 1;
    Pairs p = pairs_pick(a, &some, PAIRS_LISTED, listed);
    for (int i = 0; i < 6; i++) check_range(&p, i / 2, i % 2, 3, i == 3 ? 4 : 3);
    CHECK(p.n == 1 && p.heads == 1);
    Edit *e = edit_drop(&x.m, &p);
    const HeadEdit *h = &e->q[1 * 2 + 1];
    CHECK(e->n == 2 && h->n == 2 && h->patch[0].c == 6 && h->patch[1].c == 7);
    CHECK(h->patch[0].v == 0 && h->patch[1].v == 0);
    edit_free(e);
    free(p.on);
    p = pairs_pick(a, &every, PAIRS_CANDIDATES, NULL); /* nothing was observed */
    CHECK(p.n == 0 && p.heads == 0);
    free(p.on);
    analysis_free(a);
    unload(&x);
}

/* As many pairs in each head, other ones, of full cycles; each of these equally often. */
static void test_controls(void)
{
    enum { DRAWS = 2000 };
    uint8_t all[] = {1, 1, 1}, one[] = {1, 0, 1};
    int count[16] = {0}, same = 0;
    Loaded x;
    AnalysisOptions o = analysis_defaults();
    if (!load(&x, &phi, NULL)) return;
    Selection s = {.m = &x.m, .layer = all, .head = one};
    Analysis *a = analysis_new(&x.m, &o);
    Pairs like = pairs_pick(a, &s, PAIRS_PARTIAL, NULL), first = pairs_control(a, &like, 1);
    for (int seed = 1; seed <= DRAWS; seed++) {
        Pairs p = pairs_control(a, &like, (uint64_t)seed);
        CHECK(!p.any && !p.forced && p.n == like.n && p.heads == 3);
        for (int l = 0; l < 3; l++) {
            int n = 0;
            for (int j = 0; j < 16; j++) {
                n += is_on(&p, l, 0, j);
                count[j] += is_on(&p, l, 0, j);
                CHECK(!is_on(&p, l, 1, j) && !(is_on(&p, l, 0, j) && j >= 11));
            }
            CHECK(n == 5);
        }
        same += memcmp(p.on, first.on, 3 * 2 * 16) == 0;
        free(p.on);
    }
    CHECK_MSG(same == 1, "%d of %d draws are the first one", same, DRAWS);
    for (int j = 0; j < 11; j++) /* 5 of 11; five standard deviations are 0.033 */
        CHECK_MSG(fabs(count[j] / (3.0 * DRAWS) - 5 / 11.0) < 0.033, "pair %d: %d", j, count[j]);
    CHECK(memcmp(first.on, first.on + 32, 16) || memcmp(first.on, first.on + 64, 16));
    free(like.on), free(first.on);
    like = pairs_pick(a, &s, PAIRS_FULL, NULL); /* 11 of 16: no 11 others */
    first = pairs_control(a, &like, 1);
    CHECK(first.any && !first.forced && first.n == like.n && memcmp(first.on, like.on, 3 * 2 * 16));
    free(like.on), free(first.on);
    uint8_t few[16] = {1, 1, 1, 1, 1, [15] = 1};
    like = pairs_pick(a, &s, PAIRS_LISTED, few); /* 6 of 16, which leave 6 of 11 */
    first = pairs_control(a, &like, 1);
    CHECK(!first.any && first.forced && first.n == 18);
    for (int l = 0; l < 3; l++) check_range(&first, l, 0, 5, 11);
    free(like.on), free(first.on);
    analysis_free(a);
    unload(&x);
}

/* ---------------------------------------------------------------- massive values */

/* Value c of token i: 0.1 in size, but channel `big` is 3 + i and channels 8 on are small. */
static float planted(int c, int i, int big)
{
    float sign = (c + i) % 2 ? 1 : -1;
    return c == big ? 3 + (float)i : sign * (c >= 8 ? 0.01f * (float)(c - 7) : 0.1f);
}

static void show_planted(const Channels *c, const Model *m)
{
    const Probe *p = channels_probe(c);
    for (int l = 0; l < m->n_layers; l++)
        for (int h = 0; h < 2; h++)
            for (int i = 0; i < 4; i++) {
                float x[32];
                for (int v = 0; v < 32; v++) x[v] = planted(v, i, h ? -1 : 5);
                p->q(p->ctx, l, h, AFTER_ROPE, i, 1, x, 32);
                if (h == 0) p->k(p->ctx, l, 0, AFTER_ROPE, i, 1, x, 32);
                for (int v = 0; v < 32; v++) x[v] = 1e6f; /* of another stage */
                p->q(p->ctx, l, h, BEFORE_ROPE, i, 1, x, 32);
                if (h == 0) p->k(p->ctx, l, 0, BEFORE_ROPE, i, 1, x, 32);
            }
}

/* Every value replaced counts: its layer, head, channel, side and value. */
static void test_hash(void)
{
    Loaded x;
    if (!load(&x, &adjacent, NULL)) return;
    const int at[][4] = {{0, 1, 3, 0}, {1, 1, 3, 0}, {0, 2, 3, 0}, {0, 1, 4, 0}, {0, 1, 3, 1}};
    uint64_t hash[7];
    for (int i = 0; i < 7; i++) {
        const int *v = at[i < 5 ? i : 0];
        Edit *e = edit_new(&x.m);
        edit_q(e, 1, 0, 2, 7);
        (i == 6 ? edit_k : edit_q)(e, v[0], v[1], v[2], (float)v[3]);
        if (i == 5) edit_q(e, 1, 3, 15, 0);
        hash[i] = edit_hash(e);
        CHECK(hash[i] == edit_hash(e) && hash[i] != 0);
        for (int k = 0; k < i; k++) CHECK_MSG(hash[k] != hash[i], "%d and %d", k, i);
        edit_free(e);
    }
    CHECK(edit_hash(NULL) == 0);
    unload(&x);
}

static void test_massive(void)
{
    uint8_t all[] = {1, 1, 1}, first[] = {1, 0, 0};
    Loaded x;
    if (!load(&x, &phi, NULL)) return;
    Selection every = {.m = &x.m, .layer = all, .head = all};
    Selection some = {.m = &x.m, .layer = first, .head = first};
    Channels *c = channels_new(&x.m);
    show_planted(c, &x.m);
    Edit *e = edit_massive(c, &every, 5, 0), *low = edit_massive(c, &every, 5, 1);
    CHECK(e->n == 6 && low->n == 6); /* of head 0 and of the key head, in three layers */
    for (int l = 0; l < 3; l++) {
        const HeadEdit *q = &e->q[l * 2], *k = &e->k[l], *ql = &low->q[l * 2];
        CHECK(q->n == 1 && q->patch[0].c == 5 && q->patch[0].v == 4.5f); /* mean of 3 .. 6 */
        CHECK(k->n == 1 && k->patch[0].c == 5 && k->patch[0].v == 4.5f);
        CHECK(ql->n == 1 && ql->patch[0].c == 8 && fabsf(ql->patch[0].v) < 1e-9f);
        CHECK(e->q[l * 2 + 1].n == 0 && low->q[l * 2 + 1].n == 0);
    }
    edit_free(e), edit_free(low);
    e = edit_massive(c, &every, 32, 0); /* nothing is above D times its mean */
    CHECK(e->n == 0);
    edit_free(e);
    e = edit_massive(c, &some, 5, 0); /* the key head belongs to head 1 as well */
    CHECK(e->n == 1 && e->q[0].n == 1);
    edit_free(e);
    channels_free(c);
    unload(&x);
}

/* alpha_1 of n tokens over the selected heads. */
static double alpha_of(const Model *m, const Selection *s)
{
    enum { N = 24 };
    AnalysisOptions o = analysis_defaults();
    Analysis *a = analysis_new(m, &o);
    analysis_window(a);
    free(logits_of(m, N, &(StateOptions){.n_ctx = N, .n_threads = 1, .exact = 1}, NULL,
                   analysis_probe(a)));
    double alpha = analysis_sinks(a, s).alpha_1;
    analysis_free(a);
    return alpha;
}

/* Selected heads of the file in a model that makes other heads of them: the copies of those, of the
 * layers that have copies. [heads of the file] and [heads of the other model]. */
static void check_copies(const char *rope, const uint8_t *file, const uint8_t *other)
{
    uint8_t *here = xcalloc(4, 1), layer[] = {1, 0}; /* not one byte more than the file has heads */
    Loaded x, y;
    ModelOptions mo = {.rope = rope};
    memcpy(here, file, 4);
    if (!load(&x, &adjacent, NULL)) return;
    if (!load(&y, &adjacent, &mo)) return;
    Selection s = {.m = &x.m, .layer = layer, .head = here};
    Selection t = {.m = &y.m, .layer = layer, .head = (uint8_t *)(uintptr_t)other};
    double got = alpha_of(&y.m, &s), want = alpha_of(&y.m, &t);
    CHECK_MSG(got >= want && got <= want, "%s: alpha_1 %.9g, expected %.9g", rope, got, want);
    free(here);
    unload(&x), unload(&y);
}

static void test_copies(void)
{
    check_copies("ropepp", (uint8_t[]){0, 1, 0, 1}, (uint8_t[]){0, 0, 1, 1, 0, 0, 1, 1});
    check_copies("ropepp", (uint8_t[]){0, 0, 1, 0}, (uint8_t[]){0, 0, 0, 0, 1, 1, 0, 0});
    check_copies("ropepp:mode=eh", (uint8_t[]){1, 0, 0, 1}, (uint8_t[]){1, 1, 0, 0});
    check_copies("ropepp:mode=imagx", (uint8_t[]){0, 1, 1, 0}, (uint8_t[]){0, 1, 1, 0});
}

/* ---------------------------------------------------------------- what is said */

static AblationRun run_of(const char *name, int control_of, double ratio, double sink)
{
    AblationRun r = {.control_of = control_of,
                     .counts = EDITS_PAIRS,
                     .n_edited = 7,
                     .n_tokens = 100,
                     .nll = log(20 * ratio),
                     .perplexity = 20 * ratio,
                     .ratio = ratio,
                     .all = {.alpha_1 = sink, .sink_1 = sink, .sink_eps = 0.3, .t = 64}};
    r.name = name;
    r.edit = name;
    r.chosen = r.all;
    return r;
}

/* The report of an unedited run (that has these sinks at other keys), a drop and two controls, as
 * text to free. */
static double unedited_sink = 0.5;
static int unedited_elsewhere;
static char *told(double ratio, double sink, double ratio1, double sink1, int json)
{
    AblationRun run[] = {run_of("unedited", -1, 1, unedited_sink),
                         run_of("drop \"it\"", -1, ratio, sink),
                         run_of("control 1", 1, ratio1, sink1), run_of("control 2", 1, 1.1, 0.45)};
    run[0].all.n_elsewhere = unedited_elsewhere, run[0].all.elsewhere = 4;
    Selection sel = {.layers = NULL};
    Model m = {.n_layers = 1};
    Provenance p = {.model_path = "m", .text_path = "t", .edits = "edited, all of them"};
    Ablation b = {.run = run,
                  .n = 4,
                  .n_controls = 2,
                  .seed = 1,
                  .sel = &sel,
                  .protocol = "full",
                  .options = analysis_defaults()};
    char *s = NULL;
    size_t n;
    FILE *f = open_memstream(&s, &n);
    if (json)
        ablation_json(&b, &m, &p, f);
    else
        ablation_print(&b, &m, &p, f, NULL);
    fclose(f);
    for (size_t i = 0; i < n && !json; i++) /* lines are wrapped */
        if (s[i] == '\n' && i + 1 < n && s[i + 1] == ' ') s[i] = ' ', s[i + 1] = ' ';
    return s;
}

static void check_told(int line, double ratio, double sink, double ratio1, double sink1,
                       const char *words)
{
    char *s = told(ratio, sink, ratio1, sink1, 1);
    check_msg(strstr(s, words) != NULL, __FILE__, line, words, "in %s", s);
    free(s);
}
#define TOLD(...) check_told(__LINE__, __VA_ARGS__)

static void test_findings(void)
{
    TOLD(1.5, 0.02, 1.2, 0.4, "Sink_1^0.3 goes from 50.0% to 2.0%");
    TOLD(1.5, 0.02, 1.2, 0.4,
         "has the lowest Sink_1, the lowest mean alpha_1, and the highest perplexity.");
    TOLD(1.15, 0.47, 1.2, 0.4,
         "has the highest Sink_1, the highest mean alpha_1, and a perplexity within the range of");
    TOLD(1.1, 0.45, 1.1, 0.45, "has a Sink_1 within the range of the others");
    TOLD(1.1, 0.45, 1.2, (double)NAN, "has a Sink_1 that cannot be compared");
    TOLD((double)NAN, 0.45, 1.2, 0.4, "and a perplexity that cannot be compared.");
    TOLD((double)NAN, 0.45, 1.2, 0.4, "\"ratio\":null");
    TOLD((double)NAN, 0.45, 1.2, 0.4,
         "the perplexity from 20 to no number, which is no number times");
    TOLD(1.5, 0.02, 1.2, 0.4,
         "Sink_1^0.3 40.0% to 45.0%, alpha_1 0.400 to 0.450, the perplexity 1.1 to 1.2 times");
    TOLD(1.5, 0.02, 1.2, 0.4, "By luck alone");
    TOLD(1.5, 0.02, 1.2, 0.4, "\"schema\":\"ropescope.ablation/1\"");
    TOLD(1.5, 0.02, 1.2, 0.4, "\"edits\":\"edited, all of them\"");
    TOLD(1.5, 0.02, 1.2, 0.4, "\"findings\":[\"Edited runs:");
    TOLD(1.5, 0.02, 1.2, 0.4, "\"control_of\":\"drop \\\"it\\\"\"");
    unedited_sink = 0;
    TOLD(1.5, 0.02, 1.2, 0.4, "there is no sink to take away.");
    unedited_elsewhere = 2;
    TOLD(1.5, 0.02, 1.2, 0.4, "no sink there. Another key is: in 2 heads, most often key 4, which");
    unedited_sink = 0.5, unedited_elsewhere = 0;
    char *s = told(1.5, 0.02, 1.2, 0.4, 0);
    CHECK(strstr(s, "edited, all of them") && strstr(s, "Edited runs:") && strstr(s, "control 2"));
    free(s);
}

int main(void)
{
    TinyModel part = adjacent;
    part.n_rot = 8;
    check_dropped(&adjacent, 0, 1, 2);
    check_dropped(&adjacent, 1, 3, 0);
    check_dropped(&part, 1, 0, 3);
    test_scores();
    test_uniform();
    test_replaced();
    test_bits();
    test_keep();
    test_classes();
    test_controls();
    test_hash();
    test_massive();
    test_copies();
    test_findings();
    return check_done();
}
