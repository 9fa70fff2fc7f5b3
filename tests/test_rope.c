/* Rotary position encoding: the frequencies of every kind, and the properties that make it one. */
#include "../model.h"

#include "check.h"
#include "ref.h"

#include <string.h>

#define U 0x1p-24
#define D 16
#define T 40

static Err err;

static Rope made(const char *kind, const RopeParams *p, int layout)
{
    Rope r = {0};
    CHECK_MSG(rope_new(&r, rope_find(kind), p, layout, NULL, &err) == 0, "%s", err.msg);
    return r;
}

/* ---------------------------------------------------------------- frequencies */

static void test_registry(void)
{
    for (int i = 0; rope_at(i); i++) {
        const RopeKind *k = rope_at(i);
        CHECK(k->name && *k->name && k->formula && k->source && k->freqs);
        CHECK_MSG(rope_find(k->name) == k, "%s is not found, or is there twice", k->name);
    }
    CHECK(!rope_find("spiral") && !rope_find("") && !rope_at(-1));
    CHECK(rope_find("plain") && rope_find("none") && rope_find("linear"));
}

/* theta_j = base^(-2j / n_rot), in double: pow is good to an ulp or two in every libc. */
static void test_plain(void)
{
    static const double bases[] = {10000, 500000, 1e6, 100};
    static const int rotated[] = {2, 6, 16, 64, 128, 256};
    for (int b = 0; b < 4; b++)
        for (int i = 0; i < 6; i++) {
            RopeParams p = {rotated[i] + 8, rotated[i], bases[b], 1, 2048, NULL, .pos_scale = 1};
            Rope r = made("plain", &p, ROPE_ADJACENT);
            CHECK(r.n_pairs == rotated[i] / 2 && r.amplitude == 1);
            for (int j = 0; j < r.n_pairs; j++) {
                double want = exp(-2.0 * j / rotated[i] * log(bases[b])); /* not by pow */
                CHECK_MSG(fabs(r.inv_freq[j] / want - 1) < 1e-14, "base %g, pair %d of %d: %.17g",
                          bases[b], j, r.n_pairs, r.inv_freq[j]);
            }
            rope_free(&r);
        }
}

static void test_divisors(void)
{
    float div[D / 2] = {1, 1, 1.5f, 2, 8, 8, 8, 8};
    RopeParams p = {D, D, 500000, 1, 8192, NULL, .pos_scale = 1};
    Rope r = made("plain", &p, ROPE_ADJACENT);
    p.divisors = div;
    Rope s = made("plain", &p, ROPE_ADJACENT);
    for (int j = 0; j < D / 2; j++) /* all but 1.5 are powers of two: exact */
        CHECK_MSG(fabs(s.inv_freq[j] * (double)div[j] / r.inv_freq[j] - 1) < 1e-15, "pair %d", j);
    p.factor = 2;
    Rope t = made("linear", &p, ROPE_ADJACENT);
    for (int j = 0; j < D / 2; j++) CHECK(t.inv_freq[j] * 2 == s.inv_freq[j]);
    rope_free(&r);
    rope_free(&s);
    rope_free(&t);
}

/* A factor of 2: positions 0, 2, 4 are what 0, 1, 2 were, and division by 2 is exact. */
static void test_linear(void)
{
    RopeParams p = {D, D, 10000, 2, 2048, NULL, .pos_scale = 1};
    Rope lin = made("linear", &p, ROPE_HALF);
    p.factor = 1;
    Rope plain = made("plain", &p, ROPE_HALF), one = made("linear", &p, ROPE_HALF);
    for (int j = 0; j < D / 2; j++) {
        CHECK(one.inv_freq[j] == plain.inv_freq[j]);
        for (int pos = 0; pos < 3; pos++)
            CHECK(2 * pos * lin.inv_freq[j] == pos * plain.inv_freq[j]);
    }
    static const double bad[] = {0, -1, (double)NAN, (double)INFINITY};
    for (int i = 0; i < 4; i++) {
        Rope r;
        p.factor = bad[i];
        CHECK_MSG(rope_new(&r, rope_find("linear"), &p, ROPE_HALF, NULL, &err) == -1 && err.msg[0],
                  "factor %g was accepted", bad[i]);
    }
    rope_free(&lin);
    rope_free(&plain);
    rope_free(&one);
}

/* Every value of a head belongs to one pair, and to one row of the file, in both layouts. */
static void test_pairs(void)
{
    for (int layout = 0; layout < 2; layout++) {
        int seen[D] = {0};
        RopeParams p = {D, D - 4, 10000, 1, 2048, NULL, .pos_scale = 1};
        Rope r = made("plain", &p, layout ? ROPE_HALF : ROPE_ADJACENT);
        for (int j = 0; j < r.n_pairs; j++) {
            int a = -1, b = -1;
            rope_pair(&r, j, &a, &b);
            CHECK(a >= 0 && a < D - 4 && b >= 0 && b < D - 4);
            CHECK(a == 2 * j && b == 2 * j + 1);
            CHECK(rope_row(&r, a) == (layout ? j : a));
            CHECK(rope_row(&r, b) == (layout ? j + (D - 4) / 2 : b));
            CHECK(rope_hf_row(&r, a) == j && rope_hf_row(&r, b) == j + (D - 4) / 2);
            seen[a]++, seen[b]++;
        }
        for (int c = 0; c < D; c++) CHECK(seen[c] == (c < D - 4));
        for (int c = D - 4; c < D; c++) CHECK(rope_row(&r, c) == c && rope_hf_row(&r, c) == c);
        r.p.n_split = D; /* the file turned more */
        CHECK(rope_row(&r, 1) == (layout ? D / 2 : 1) && rope_row(&r, D - 1) == D - 1);
        CHECK(rope_hf_row(&r, 3) == D / 2 + 1 && rope_hf_row(&r, D - 2) == D / 2 - 1);
        r.p.n_split = -1; /* GPT-J */
        for (int c = 0; c < D; c++) CHECK(rope_hf_row(&r, c) == c);
        rope_free(&r);
    }
}

/* ---------------------------------------------------------------- seen by a probe */

/* A model whose layer 0 sees the same token everywhere: before rotation all queries of a head are
 * equal, and so are the keys; what differs after it is the rotation. */
typedef struct {
    float q[2][T][D], k[2][T][D], score[T][T]; /* of head 0; [stage] */
} Shown;

static void show_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q,
                   size_t stride)
{
    Shown *s = ctx;
    for (int i = 0; i < n && l == 0 && h == 0; i++)
        memcpy(s->q[stage == AFTER_ROPE][pos + i], q + (size_t)i * stride, sizeof s->q[0][0]);
}

static void show_k(void *ctx, int l, int h, int stage, int pos, int n, const float *k,
                   size_t stride)
{
    Shown *s = ctx;
    for (int i = 0; i < n && l == 0 && h == 0; i++)
        memcpy(s->k[stage == AFTER_ROPE][pos + i], k + (size_t)i * stride, sizeof s->k[0][0]);
}

static void show_attn(void *ctx, const AttnRow *row)
{
    Shown *s = ctx;
    if (row->l == 0 && row->h == 0 && row->t0 == 0)
        memcpy(s->score[row->pos], row->scores, (size_t)row->n_t * sizeof(float));
}

/* Runs T times the token `id` (ids: or these) under a kind of rope; logits of the last, or NULL. */
static void watch(const TinyModel *t, const char *kind, int layout, const int *ids, Shown *shown,
                  float *logits)
{
    Gguf g;
    Model m;
    State s;
    size_t size;
    int same[T];
    ModelOptions mo = {.rope = kind};
    StateOptions so = {.n_ctx = T, .n_threads = 1, .exact = 1};
    Probe p = {PROBE_QK | PROBE_ATTN, shown, show_q, show_k, show_attn, NULL};
    uint8_t *file = tiny_model(t, &size);
    for (int i = 0; i < T; i++) same[i] = 3;
    int ok =
        gguf_parse(&g, "tiny.gguf", file, size, &err) == 0 && model_bind(&m, &g, &mo, &err) == 0;
    if (CHECK_MSG(ok, "%s", err.msg)) {
        for (int r = 0; layout >= 0 && r < m.n_ropes; r++) m.rope[r].layout = layout;
        CHECK(state_new(&s, &m, &so, &err) == 0);
        if (shown) s.probe = &p;
        forward(&s, ids ? ids : same, T, 1);
        if (logits) memcpy(logits, s.logits, (size_t)m.n_vocab * sizeof *logits);
        state_free(&s);
        model_close(&m);
    }
    free(file);
}

static const TinyModel tiny = {.n_layers = 2,
                               .n_embd = 32,
                               .n_heads = 2,
                               .n_kv_heads = 2,
                               .head_dim = D,
                               .n_ff = 40,
                               .n_vocab = 30,
                               .biases = 1,
                               .seed = 8};

/* A rotated pair keeps its length: each of a cos - b sin, a sin + b cos is rounded 3 times, the
 * cos and sin once each: (a, b) moves by at most 5 U of its length, twice for the square root of
 * the sum of squares of both. Values past n_rot and all of position 0 keep their bits. */
static void check_rotation(float before[T][D], float after[T][D], int n_rot, const double *inv_freq)
{
    for (int pos = 0; pos < T; pos++) {
        for (int j = 0; j < n_rot / 2; j++) {
            int a = 2 * j, b = 2 * j + 1; /* whatever the file has */
            double x = (double)before[pos][a], y = (double)before[pos][b], len = hypot(x, y);
            double c = cos(pos * inv_freq[j]), s = sin(pos * inv_freq[j]);
            double got = hypot((double)after[pos][a], (double)after[pos][b]);
            CHECK_MSG(fabs(got - len) <= 10 * U * len, "pair %d at %d: length", j, pos);
            CHECK_MSG(fabs((double)after[pos][a] - (x * c - y * s)) <= 5 * U * len &&
                          fabs((double)after[pos][b] - (x * s + y * c)) <= 5 * U * len,
                      "pair %d at %d is turned the wrong way", j, pos);
        }
        for (int c = pos ? n_rot : 0; c < D; c++) CHECK(before[pos][c] == after[pos][c]);
    }
}

static void test_rotation(void)
{
    static Shown s;
    for (int n_rot = 6; n_rot <= D; n_rot += 10)
        for (int half = 0; half < 2; half++) {
            TinyModel t = tiny;
            RopeParams p = {D, n_rot, 10000, 1, 64, NULL, .pos_scale = 1};
            Rope r = made("plain", &p, ROPE_HALF);
            t.n_rot = n_rot;
            watch(&t, "plain", half ? ROPE_HALF : ROPE_ADJACENT, NULL, &s, NULL);
            check_rotation(s.q[0], s.q[1], n_rot, r.inv_freq);
            check_rotation(s.k[0], s.k[1], n_rot, r.inv_freq);
            rope_free(&r);
        }
}

/* With one q and one k everywhere the score is a function of the distance alone. Both sides move
 * by 5 U of their length, the dot product over D values rounds at most 6 times: 16 U |q| |k|,
 * and the scale once more. */
static void test_distance(void)
{
    static Shown s;
    double q = 0, k = 0;
    watch(&tiny, "plain", -1, NULL, &s, NULL);
    for (int c = 0; c < D; c++) {
        q += (double)s.q[0][0][c] * (double)s.q[0][0][c];
        k += (double)s.k[0][0][c] * (double)s.k[0][0][c];
    }
    double tol = 18 * U * sqrt(q * k) / sqrt(D), spread = 0;
    for (int pos = 1; pos < T; pos++)
        for (int t = 0; t <= pos; t++) {
            double d = (double)s.score[pos][t] - (double)s.score[pos - t][0];
            CHECK_MSG(fabs(d) <= tol, "score %d, %d is not that of %d, 0: %g", pos, t, pos - t, d);
            spread = fmax(spread, fabs((double)s.score[pos][t] - (double)s.score[0][0]));
        }
    CHECK_MSG(spread > 1000 * tol, "scores do not depend on the distance either");
}

/* Without positions nothing is turned: the bits stay. */
static void test_none(void)
{
    static Shown s;
    watch(&tiny, "none", -1, NULL, &s, NULL);
    for (int pos = 0; pos < T; pos++)
        for (int c = 0; c < D; c++)
            CHECK(!memcmp(&s.q[0][pos][c], &s.q[1][pos][c], 4) &&
                  !memcmp(&s.k[0][pos][c], &s.k[1][pos][c], 4));
}

/* Queries of the stretched model at 0, 2, 4, ... have the bits of the plain one at 0, 1, 2. */
static void test_linear_in_model(void)
{
    static Shown plain, lin;
    TinyModel t = tiny;
    watch(&t, NULL, -1, NULL, &plain, NULL);
    t.linear = 2;
    watch(&t, NULL, -1, NULL, &lin, NULL);
    for (int pos = 0; 2 * pos < T; pos++) CHECK_CLOSE(lin.q[1][2 * pos], plain.q[1][pos], D, 0);
    CHECK(memcmp(lin.q[1][1], plain.q[1][1], sizeof lin.q[1][1]) != 0);
}

/* The same weights, q and k rows written half-split and read as such, give the same bits. */
static void test_layouts(void)
{
    for (int partial = 0; partial < 2; partial++) {
        TinyModel t = tiny;
        float a[30], b[30], wrong[30];
        int ids[T];
        double size = 0;
        Rng r = {4};
        for (int i = 0; i < T; i++) ids[i] = rng_int(&r, 0, 29);
        t.n_rot = partial ? 12 : 0;
        watch(&t, "plain", ROPE_ADJACENT, ids, NULL, a);
        watch(&t, "plain", ROPE_HALF, ids, NULL, wrong);
        t.swap = 1;
        watch(&t, "plain", ROPE_HALF, ids, NULL, b);
        for (int i = 0; i < 30; i++) size = fmax(size, fabs((double)a[i]));
        CHECK(!memcmp(a, b, sizeof a));
        double d = 0;
        for (int i = 0; i < 30; i++) d = fmax(d, fabs((double)a[i] - (double)wrong[i]));
        CHECK_MSG(d > 0.01 * size, "the wrong layout is not noticed: %g of %g", d, size);
    }
}

static void test_unknown_kind(void)
{
    Gguf g;
    Model m;
    size_t size;
    ModelOptions o = {.rope = "spiral"};
    uint8_t *file = tiny_model(&tiny, &size);
    CHECK(gguf_parse(&g, "tiny.gguf", file, size, &err) == 0);
    CHECK(model_bind(&m, &g, &o, &err) == -1 && strstr(err.msg, "spiral"));
    free(file);
}

/* A kind whose arithmetic goes wrong: pos_shift is the frequency, pos_scale the amplitude. */
static int wrong_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    (void)length, (void)e;
    for (int j = 0; j < r->n_pairs; j++) inv_freq[j] = j == 3 ? r->p.pos_shift : 1;
    *amplitude = r->p.pos_scale;
    return 0;
}

static void test_wrong_freqs(void)
{
    static const RopeKind wrong = {.name = "wrong", .freqs = wrong_freqs};
    static const struct {
        double freq, amplitude;
        const char *why;
    } bad[] = {
        {(double)NAN, 1, "rope wrong: pair 3: expected a frequency of 0 or above, found"},
        {-1e-9, 1, "pair 3: expected a frequency of 0 or above, found -1e-09"},
        {(double)INFINITY, 1, "found inf"},
        {1, (double)NAN, "expected a finite amplitude"},
    };
    RopeParams p = rope_params(D, 10000);
    Rope r;
    for (int i = 0; i < 4; i++) {
        p.pos_shift = bad[i].freq;
        p.pos_scale = bad[i].amplitude;
        CHECK_MSG(rope_new(&r, &wrong, &p, ROPE_HALF, NULL, &err) == -1 &&
                      strstr(err.msg, bad[i].why),
                  "%g, %g: %s", bad[i].freq, bad[i].amplitude, err.msg);
    }
    p.pos_shift = 0;
    p.pos_scale = 1;
    CHECK(rope_new(&r, &wrong, &p, ROPE_HALF, NULL, &err) == 0);
    rope_free(&r);
}

/* The worst difference of (1, 0) in every pair, turned to a position, from angles in long double
 * of frequencies of its own, in units of what rounding explains: that of cos and sin to float, half
 * an ulp below 1 (2^-25), and of the frequency to double: some 2 ulps of pow and one of the
 * product, 3 * 2^-53 * p * theta. */
static double worst_turn(const Rope *r, double base, int position)
{
    float x[128], angles[128];
    double worst = 0;
    for (int c = 0; c < 128; c++) x[c] = c % 2 == 0;
    rope_apply(r, ROPE_Q, 0, x, position, angles);
    for (int j = 0; j < 64; j++) {
        long double theta = expl(-2.0L * j / 128 * logl((long double)base));
        long double angle = theta * position;
        double tol = 0x1p-25 + 3 * 0x1p-53 * (double)angle;
        double off = fmax(fabs((double)(cosl(angle) - (long double)x[2 * j])),
                          fabs((double)(sinl(angle) - (long double)x[2 * j + 1])));
        if (!(off / tol <= worst)) worst = off / tol;
    }
    return worst;
}

/* Positions up to 2^20. Angles in float would be off by 2e-3 at 131,071, and by far more where
 * inv_freq is a float, too. */
static void test_large_positions(void)
{
    static const double bases[] = {10000, 500000, 1e6};
    static const int positions[] = {4095, 32767, 131071, 1048575};
    for (int b = 0; b < 3; b++)
        for (int i = 0; i < 4; i++) {
            RopeParams p = rope_params(128, bases[b]);
            Rope r = made("plain", &p, ROPE_HALF);
            double worst = worst_turn(&r, bases[b], positions[i]);
            CHECK_MSG(worst <= 1, "base %g, position %d: off by %.2f of what rounding explains",
                      bases[b], positions[i], worst);
            rope_free(&r);
        }
}

int main(void)
{
    test_registry();
    test_large_positions();
    test_wrong_freqs();
    test_plain();
    test_divisors();
    test_linear();
    test_pairs();
    test_rotation();
    test_distance();
    test_none();
    test_linear_in_model();
    test_layouts();
    test_unknown_kind();
    return check_done();
}
