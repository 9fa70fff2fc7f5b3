/* Layer 0 of a small random model under an encoding, seen by a probe, and its scores computed anew
 * in double from the queries and keys as they were projected. Include model.h, check.h and ref.h
 * first. */
#ifndef ROPE_WATCH_H
#define ROPE_WATCH_H

#include <string.h>

#define U 0x1p-24

/* How to run; 0: the default. */
typedef struct {
    const char *spec;
    int n_tokens, n_batch, kv_type;
} Run;

typedef struct {
    int T, H, K, D;
    Rope rope;    /* of layer 0; what it points to is owned */
    float *q, *k; /* [T][H][D], [T][K][D] before rotation */
    float *score; /* [H][T][T] scaled */
} Watched;

/* Of a pair: (a, b) -> (a c - b s, a s + b c). Pure double. */
typedef void (*PairMap)(const void *ctx, int part, int kh, int j, double p, double *c, double *s);

CHECK_FN void watch_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q,
                      size_t stride)
{
    Watched *w = ctx;
    for (int i = 0; i < n && l == 0 && stage == BEFORE_ROPE; i++)
        memcpy(w->q + ((pos + i) * w->H + h) * w->D, q + (size_t)i * stride,
               (size_t)w->D * sizeof *q);
}

CHECK_FN void watch_k(void *ctx, int l, int kh, int stage, int pos, int n, const float *k,
                      size_t stride)
{
    Watched *w = ctx;
    for (int i = 0; i < n && l == 0 && stage == BEFORE_ROPE; i++)
        memcpy(w->k + ((pos + i) * w->K + kh) * w->D, k + (size_t)i * stride,
               (size_t)w->D * sizeof *k);
}

CHECK_FN void watch_attn(void *ctx, const AttnRow *row)
{
    Watched *w = ctx;
    if (row->l == 0)
        memcpy(w->score + (row->h * w->T + row->pos) * w->T + row->t0, row->scores,
               (size_t)row->n_t * sizeof(float));
}

CHECK_FN void watched_free(Watched *w)
{
    rope_free(&w->rope);
    free(w->q), free(w->k), free(w->score);
}

CHECK_FN void watch_run(Watched *w, const Model *m, const Run *run)
{
    Err e;
    State s;
    size_t T = (size_t)run->n_tokens, D = (size_t)m->head_dim;
    StateOptions so = {.n_ctx = (int)T, .n_batch = run->n_batch, .n_threads = 1, .exact = 1};
    Probe p = {PROBE_QK | PROBE_ATTN, w, watch_q, watch_k, watch_attn, NULL};
    so.kv_type = run->kv_type;
    w->T = (int)T, w->H = m->layer[0].n_heads, w->K = m->layer[0].n_kv_heads, w->D = (int)D;
    w->q = xcalloc(T * (size_t)w->H * D, sizeof *w->q);
    w->k = xcalloc(T * (size_t)w->K * D, sizeof *w->k);
    w->score = xcalloc((size_t)w->H * T * T, sizeof *w->score);
    if (!CHECK_MSG(state_new(&s, m, &so, &e) == 0, "%s", e.msg)) return;
    s.probe = &p;
    uint64_t seed = 5;
    for (int i = 0, n; i < w->T; i += n) {
        int ids[512];
        n = w->T - i < s.n_batch ? w->T - i : s.n_batch;
        for (int k = 0; k < n; k++) ids[k] = (int)(rng_next(&seed) % (uint64_t)m->n_vocab);
        forward(&s, ids, n, 0);
    }
    state_free(&s);
}

/* 1, or a failed check. w->rope is taken over from the model: its kind, numbers and weights. */
CHECK_FN int watch(Watched *w, const TinyModel *t, const Run *run)
{
    Gguf g;
    Model m;
    Err e;
    size_t size;
    ModelOptions mo = {.rope = run->spec};
    uint8_t *file = tiny_model(t, &size);
    *w = (Watched){0};
    int ok = CHECK_MSG(gguf_parse(&g, "tiny.gguf", file, size, &e) == 0 &&
                           model_bind(&m, &g, &mo, &e) == 0,
                       "%s: %s", run->spec, e.msg);
    if (ok) {
        watch_run(w, &m, run);
        w->rope = m.rope[m.layer[0].rope];
        m.rope[m.layer[0].rope] = (Rope){0};
        w->rope.p.divisors = NULL; /* they go with the model */
        model_close(&m);
    }
    free(file);
    return ok;
}

/* The score of a query and a key in double, and in *size the sum of the lengths that rounding is
 * relative to. */
CHECK_FN double naive_score(const Watched *w, PairMap map, const void *ctx, int h, int m, int n,
                            double *size)
{
    int kh = h / (w->H / w->K), n_rot = 2 * w->rope.n_pairs;
    const float *q = w->q + (m * w->H + h) * w->D, *k = w->k + (n * w->K + kh) * w->D;
    double dot = 0, lengths = 0;
    const RopeParams *p = &w->rope.p;
    for (int j = 0; j < w->rope.n_pairs; j++) {
        int a, b;
        double cq, sq, ck, sk;
        rope_pair(&w->rope, j, &a, &b);
        double q0 = (double)q[a], q1 = (double)q[b], k0 = (double)k[a], k1 = (double)k[b];
        map(ctx, ROPE_Q, kh, j, p->pos_shift + p->pos_scale * m, &cq, &sq);
        map(ctx, ROPE_K, kh, j, p->pos_shift + p->pos_scale * n, &ck, &sk);
        dot +=
            (q0 * cq - q1 * sq) * (k0 * ck - k1 * sk) + (q0 * sq + q1 * cq) * (k0 * sk + k1 * ck);
        lengths += hypot(q0, q1) * hypot(k0, k1) * hypot(cq, sq) * hypot(ck, sk);
    }
    for (int c = n_rot; c < w->D; c++) {
        dot += (double)q[c] * (double)k[c];
        lengths += fabs((double)q[c] * (double)k[c]);
    }
    *size = lengths / sqrt(w->D);
    return dot / sqrt(w->D);
}

/* All scores: each side of a pair is off by 5 U of its length (3 roundings of each of its products
 * and sums, its cos and sin rounded), the sum over D values by at most 6 U, the scale by 1:
 * 18 U of the lengths. more: another relative error; floor: an absolute one. */
CHECK_FN void check_scores(const Watched *w, const char *name, PairMap map, const void *ctx,
                           double more, double floor)
{
    double worst = 0, spread = 0;
    int bad = 0;
    for (int h = 0; h < w->H; h++)
        for (int m = 0; m < w->T; m++)
            for (int n = 0; n <= m; n++) {
                double size, want = naive_score(w, map, ctx, h, m, n, &size);
                double got = (double)w->score[(h * w->T + m) * w->T + n];
                double d = fabs(got - want);
                bad += !(d <= (18 * U + more) * size + floor);
                if (!(d <= worst)) worst = d;
                spread = fmax(spread, fabs(want));
            }
    CHECK_MSG(!bad, "%s: %d scores are not those in double, by %.3g of %.3g at most", name, bad,
              worst, spread);
    CHECK_MSG(spread > 1e-3, "%s: all scores are nearly 0: nothing is tested", name);
}

#endif
