/* What the probe adds up, sum by sum: static functions of analysis.c, which is included whole. */
#include "../analysis.c"

#include "check.h"

enum { TOKENS = 53, HEADS = 3, D_HEAD = 20, E_MODEL = 37 };

typedef struct {
    Model m;
    Layer layer;
    Rope rope;
    float q[2][HEADS][TOKENS][D_HEAD]; /* before and after rotation */
    float score[TOKENS];
} World;

static void world_new(World *w, int layout, Rng *rng)
{
    RopeParams p = {.head_dim = D_HEAD, .n_rot = 14, .base = 10000, .factor = 1, .pos_scale = 1};
    Err e;
    *w = (World){.layer = {.n_heads = HEADS, .n_kv_heads = 1}};
    w->m = (Model){.n_layers = 1,
                   .n_embd = E_MODEL,
                   .head_dim = D_HEAD,
                   .n_ctx_train = 64,
                   .score_scale = 0.3f,
                   .layer = &w->layer,
                   .rope = &w->rope,
                   .n_ropes = 1};
    if (rope_new(&w->rope, rope_find("plain"), &p, layout, NULL, &e)) die("%s", e.msg);
    float *x = w->q[0][0][0];
    for (int i = 0; i < 2 * HEADS * TOKENS * D_HEAD; i++) x[i] = rng_float(rng);
    for (int t = 0; t < TOKENS; t++) w->score[t] = rng_float(rng) - 3;
    for (int c = 0; c < D_HEAD; c++) w->q[0][2][3][c] = w->q[1][2][3][c] = NAN;
}

/* One window in batches: what a forward pass would show, its keys the queries of head 0. */
static Analysis *watched(World *w, const char *isa, int batch)
{
    AnalysisOptions o = analysis_defaults();
    o.isa = isa;
    o.n_skip = 2;
    Analysis *a = analysis_new(&w->m, &o);
    for (int pos = 0; pos < TOKENS; pos += batch)
        for (int h = 0; h < HEADS; h++) {
            int n = pos + batch > TOKENS ? TOKENS - pos : batch;
            for (int stage = 0; stage < 2; stage++) {
                if (h == 0) on_k(a, 0, 0, stage, pos, n, w->q[stage][0][pos], D_HEAD);
                on_q(a, 0, h, stage, pos, n, w->q[stage][h][pos], D_HEAD);
            }
            for (int t = pos; t < pos + n; t++) {
                float weight[TOKENS];
                memcpy(weight, w->score, sizeof weight);
                a->kernels->softmax(weight, t + 1);
                on_attn(a, &(AttnRow){.h = h,
                                      .pos = t,
                                      .n_t = t + 1,
                                      .q = w->q[1][h][t],
                                      .k = w->q[1][0][t],
                                      .scores = w->score,
                                      .weights = weight});
            }
        }
    add_all_held(a);
    return a;
}

/* Equal bits, or both no numbers. */
static int same_sums(const double *a, const double *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i]))) return 0;
    return 1;
}

static int same_tally(const Tally *a, const Tally *b)
{
    int same = same_sums(a->sum, b->sum, a->n_sums) && same_sums(a->high, b->high, a->n_peaks);
    for (size_t i = 0; i < a->n_peaks; i++) same &= a->peak[i].pos == b->peak[i].pos;
    return same && !memcmp(a->first, b->first, sizeof(float) * FIRST_TOKENS * D_HEAD);
}

/* Every sum, whether a reading shows it or not, in batches of any size on every instruction set. */
static void test_same_sums(int layout)
{
    static const int batch[] = {1, 3, 7, 16, 17, 33, TOKENS};
    World w;
    Rng rng = rng_new(11);
    world_new(&w, layout, &rng);
    Analysis *want = watched(&w, "base", TOKENS);
    for (int k = 0; kernels_at(k); k++)
        for (int i = 0; i < 7 && kernels_at(k)->usable(); i++) {
            Analysis *a = watched(&w, kernels_at(k)->name, batch[i]);
            int same = same_tally(&a->k[0], &want->k[0]);
            for (int h = 0; h < HEADS; h++) same &= same_tally(&a->q[h], &want->q[h]);
            CHECK_MSG(same, "layout %d, batch %d, %s", layout, batch[i], kernels_at(k)->name);
            analysis_free(a);
        }
    analysis_free(want);
    rope_free(&w.rope);
}

static void check_near(double got, double want, const char *what, int j)
{
    CHECK_MSG(fabs(got - want) <= 1e-11, "%s %d: %.17g is not %.17g", what, j, got, want);
}

/* The sums of one pair of head 1, from their definitions: (x, y) before, (u, v) after rotation. */
static PairSum plain_pair(const World *w, int a, int b, LogitSum *logit)
{
    PairSum p = {0};
    double scale = (double)w->m.score_scale, keys[2] = {0, 0};
    const float *key0 = w->q[1][0][0];
    for (int t = 0; t < TOKENS; t++) {
        double x = (double)w->q[0][1][t][a], y = (double)w->q[0][1][t][b];
        double u = (double)w->q[1][1][t][a], v = (double)w->q[1][1][t][b];
        if (t) {
            keys[0] += (double)w->q[1][0][t][a], keys[1] += (double)w->q[1][0][t][b];
            logit->sink += scale * (u * (double)key0[a] + v * (double)key0[b]);
            logit->others += scale * (u * keys[0] + v * keys[1]) / t;
            logit->ordinary += scale * (u * keys[0] + v * keys[1]);
        }
        if (t < 2) p.r_skip += hypot(x, y);
        if (t < 2) continue;
        p.r += hypot(x, y), p.r2 += x * x + y * y;
        p.a += x, p.b += y, p.aa += x * x, p.bb += y * y, p.ab += x * y;
        p.a_after += u, p.b_after += v, p.r2_after += u * u + v * v;
    }
    return p;
}

/* The entropies of the window's rows, over the logs of their lengths. */
static double plain_entropy(const World *w)
{
    double sum = 0;
    for (int t = 1; t < TOKENS; t++) {
        double z = 0, h = 0;
        for (int i = 0; i <= t; i++) z += exp((double)w->score[i]);
        for (int i = 0; i <= t; i++) {
            double a = exp((double)w->score[i]) / z;
            h -= a * log(a);
        }
        sum += h / log(t + 1);
    }
    return sum;
}

/* At most some 100 terms below 100, each rounded a few times: errors below 100 100 4 2^-53. */
static void test_sums(int layout)
{
    World w;
    Rng rng = rng_new(12);
    world_new(&w, layout, &rng);
    Analysis *a = watched(&w, NULL, 7);
    HeadSums s = read_sums(&a->q[1], &a->axis[0], D_HEAD);
    for (int j = 0; j < w.rope.n_pairs; j++) {
        int ia, ib;
        LogitSum logit = {0};
        rope_pair(&w.rope, j, &ia, &ib);
        PairSum p = plain_pair(&w, ia, ib, &logit);
        const double *got = (const double *)&s.pair[j], *want = (const double *)&p;
        for (size_t i = 0; i < sizeof p / sizeof *got; i++)
            check_near(got[i], want[i], "sum", (int)i);
        check_near(s.logit[j].sink, logit.sink, "part of key 0, pair", j);
        check_near(s.logit[j].others, logit.others, "part of other keys, pair", j);
        check_near(s.logit[j].ordinary, logit.ordinary, "part of all other keys, pair", j);
    }
    /* float weights, each within 2 2^-22 of the true one, in 52 rows */
    double entropy = plain_entropy(&w);
    CHECK_MSG(fabs(s.row->entropy - entropy) < 1e-4, "entropy %g, %g", s.row->entropy, entropy);
    CHECK(*s.n == TOKENS - 2 && *s.n_skip == 2 && *s.n_after == TOKENS - 2);
    free(s.n);
    analysis_free(a);
    rope_free(&w.rope);
}

/* Tokens held back keep their places when the next ones do not follow them. */
static void test_gap(void)
{
    World w;
    Rng rng = rng_new(14);
    AnalysisOptions o = analysis_defaults();
    world_new(&w, ROPE_HALF, &rng);
    Analysis *a = analysis_new(&w.m, &o);
    float x[2][D_HEAD] = {{1}, {2}};
    on_q(a, 0, 0, BEFORE_ROPE, 0, 1, x[0], D_HEAD);
    on_q(a, 0, 0, BEFORE_ROPE, 9, 1, x[1], D_HEAD);
    add_all_held(a);
    CHECK(a->q[0].peak[0].pos == 9 && a->q[0].peak[w.rope.n_pairs].pos == 9);
    analysis_free(a);
    rope_free(&w.rope);
}

/* What on_resid finds, said plainly: every state sorted. */
static void plain_resid(const float *x, int pos, Peak *most, double *median, double *sum)
{
    float sorted[E_MODEL];
    int top = -1;
    for (int c = 0; c < E_MODEL; c++) {
        sorted[c] = fabsf(x[c]);
        if (sorted[c] > (top < 0 ? 0 : fabsf(x[top]))) top = c;
    }
    qsort(sorted, E_MODEL, sizeof *sorted, by_float);
    double mid = (double)sorted[E_MODEL / 2];
    if (E_MODEL % 2 == 0) mid = (mid + (double)sorted[E_MODEL / 2 - 1]) / 2;
    for (int c = 0; c < E_MODEL; c++)
        sum[c] += fabs((double)x[c]) > 100 && fabs((double)x[c]) > 1000 * mid;
    if (top < 0 || !(fabs((double)x[top]) > most->value)) return;
    *most = (Peak){fabs((double)x[top]), 0, pos, top};
    *median = mid;
}

static void test_resid(void)
{
    World w;
    Rng rng = rng_new(13);
    world_new(&w, ROPE_HALF, &rng);
    AnalysisOptions o = analysis_defaults();
    Analysis *a = analysis_new(&w.m, &o);
    Peak most = {0};
    double median = 0, sum[E_MODEL] = {0}, all = 0;
    for (int pos = 0; pos < 3000; pos++) {
        float x[E_MODEL], size = ldexpf(1, rng_int(&rng, -12, 8));
        for (int c = 0; c < E_MODEL; c++) x[c] = size * rng_float(&rng);
        for (int n = rng_int(&rng, 0, 2); n > 0; n--)
            x[rng_int(&rng, 0, E_MODEL - 1)] = rng_float(&rng) * (200 + 0.3f * (float)pos);
        on_resid(a, 0, pos, 1, x, E_MODEL);
        plain_resid(x, pos, &most, &median, sum);
        const Massive *m = &a->massive[0];
        CHECK(m->most.value == most.value && m->most.pos == most.pos);
        CHECK(m->most.token == most.token && m->median == median);
    }
    CHECK(!memcmp(a->massive[0].sum, sum, sizeof sum));
    for (int c = 0; c < E_MODEL; c++) all += sum[c];
    CHECK(all > 100);
    analysis_free(a);
    rope_free(&w.rope);
}

int main(void)
{
    for (int layout = ROPE_ADJACENT; layout <= ROPE_HALF; layout++) {
        test_same_sums(layout);
        test_sums(layout);
    }
    test_gap();
    test_resid();
    return check_done();
}
