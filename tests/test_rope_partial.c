/* Encodings of rope/partial.c and rope/fope.c: numbers known from elsewhere, what each reduces to,
 * and scores in a model against double. Whole models: tests/test_rope_matrix.c. */
#include "../model.h"

#include "check.h"
#include "gguf_builder.h"
#include "ref.h"

#include "rope_watch.h"

static Err err;
static const char *scratch; /* a file name of our own */

static RopeParams shape(int head_dim, double base, int original)
{
    RopeParams p = rope_params(head_dim, base);
    p.n_ctx_orig = original;
    return p;
}

static Rope made(const char *spec, RopeParams p)
{
    Rope r = {0};
    const RopeKind *kind;
    CHECK_MSG(rope_parse(spec, &p, &kind, &err) == 0 &&
                  rope_new(&r, kind, &p, ROPE_HALF, NULL, &err) == 0,
              "%s: %s", spec, err.msg);
    return r;
}

static int refused(const char *spec, RopeParams p, const char *word)
{
    const RopeKind *kind;
    Rope r;
    if (rope_parse(spec, &p, &kind, &err) == 0 &&
        rope_new(&r, kind, &p, ROPE_HALF, NULL, &err) == 0)
        return rope_free(&r), 0;
    return strstr(err.msg, word) != NULL;
}

static int n_turning(const Rope *r)
{
    int n = 0;
    for (int j = 0; j < r->n_pairs; j++) n += r->inv_freq[j] > 0;
    return n;
}

static int near(double a, double b, double relative)
{
    return fabs(a / b - 1) <= relative;
}

/* ---------------------------------------------------------------- some pairs alone */

/* 32 turning pairs of a head of 256, base 1e6: the slowest makes 1.5e-6 per token where the rotated
 * part is a head of its own, 3.5e-2 where it is the fast end of the whole head. */
static void test_partial_and_proportional(void)
{
    Rope a = made("partial:fraction=0.25", shape(256, 1e6, 0));
    Rope b = made("proportional:fraction=0.25", shape(256, 1e6, 0));
    int x, y;
    CHECK(a.n_pairs == 32 && near(a.inv_freq[31], exp(-62.0 / 64 * log(1e6)), 1e-14));
    CHECK(near(a.inv_freq[31], 1.540e-6, 5e-4));
    CHECK(b.n_pairs == 128 && n_turning(&b) == 32);
    CHECK(near(b.inv_freq[31], exp(-62.0 / 256 * log(1e6)), 1e-14) && b.inv_freq[32] == 0);
    CHECK(near(b.inv_freq[31], 3.522e-2, 5e-4));
    rope_pair(&a, 31, &x, &y);
    CHECK(rope_row(&a, x) == 31 && rope_row(&a, y) == 63);
    rope_pair(&b, 31, &x, &y);
    CHECK(rope_row(&b, x) == 31 && rope_row(&b, y) == 159);
    rope_free(&a), rope_free(&b);
}

/* int(d fraction), made even; floor(d fraction / 2). */
static void test_counts(void)
{
    static const struct {
        const char *spec;
        int d, n_rot, turning;
    } rows[] = {{"partial:fraction=0.4", 80, 32, 16},    {"partial:fraction=0.3", 64, 18, 9},
                {"partial:fraction=0.01", 64, 0, 0},     {"partial", 64, 64, 32},
                {"partial:n_rot=10", 64, 10, 5},         {"proportional:fraction=0.3", 64, 64, 9},
                {"proportional:fraction=0.99", 6, 6, 2}, {"proportional:n_rot=10", 64, 64, 32},
                {"p-rope:fraction=0.75", 64, 64, 24},    {"p-rope:fraction=0.01", 64, 64, 0},
                {"rope-id:original=4096", 64, 64, 16},   {"rope-id:original=9", 2, 2, 0}};
    for (int i = 0; i < 12; i++) {
        Rope r = made(rows[i].spec, shape(rows[i].d, 10000, 0));
        CHECK_MSG(r.p.n_rot == rows[i].n_rot && n_turning(&r) == rows[i].turning,
                  "%s of %d: %d values, %d pairs turn", rows[i].spec, rows[i].d, r.p.n_rot,
                  n_turning(&r));
        rope_free(&r);
    }
}

/* The file's divisors belong to its number of rotated values: 8 here, and no more are read. */
static void test_divisors(void)
{
    float divisors[4] = {2, 2, 2, 2};
    RopeParams p = shape(16, 10000, 64);
    p.n_rot = 8;
    p.divisors = divisors;
    Rope same = made("partial:fraction=0.5", p), other = made("partial:fraction=1", p);
    Rope all = made("proportional", p);
    CHECK(same.inv_freq[0] == 0.5 && other.inv_freq[0] == 1 && all.inv_freq[0] == 1);
    rope_free(&same), rope_free(&other), rope_free(&all);
}

static void test_p_rope(void)
{
    Rope plain = made("plain", shape(32, 10000, 0));
    Rope low = made("p-rope:fraction=0.25,drop=lowest", shape(32, 10000, 0));
    Rope high = made("p-rope:fraction=0.25,drop=highest", shape(32, 10000, 0));
    Rope same = made("proportional:fraction=0.25", shape(32, 10000, 0));
    for (int j = 0; j < 16; j++) {
        CHECK(low.inv_freq[j] == (j < 4 ? plain.inv_freq[j] : 0));
        CHECK(high.inv_freq[j] == (j >= 12 ? plain.inv_freq[j] : 0));
        CHECK(same.inv_freq[j] == low.inv_freq[j]);
    }
    rope_free(&plain), rope_free(&low), rope_free(&high), rope_free(&same);
}

/* Files of proportional models say it by divisors: 1 for pairs that turn, 1e30 for the others,
 * whose angle is then about 1e-25: a value moves if it is 1e18 times smaller than its partner. One
 * ulp of each value, as sums round otherwise where a product is not exactly 0. */
static void test_divisor_form(void)
{
    float divisors[64], x[128], y[128], angles[128];
    for (int j = 0; j < 64; j++) divisors[j] = j < 16 ? 1 : 1e30f;
    RopeParams p = shape(128, 1e6, 0);
    Rope a = made("proportional:fraction=0.25", p);
    p.divisors = divisors;
    Rope b = made("plain", p);
    Rng rng = {3};
    for (int pos = 0; pos < 100000; pos = 3 * pos + 1) {
        for (int c = 0; c < 128; c++) x[c] = y[c] = rng_float(&rng);
        rope_apply(&a, ROPE_Q, 0, x, pos, angles);
        rope_apply(&b, ROPE_Q, 0, y, pos, angles);
        for (int c = 0; c < 128; c++)
            CHECK_MSG(fabs((double)x[c] - (double)y[c]) <=
                          (double)nextafterf(fabsf(x[c]), INFINITY) - fabs((double)x[c]),
                      "value %d at %d: %.9g and %.9g", c, pos, (double)x[c], (double)y[c]);
    }
    rope_free(&a), rope_free(&b);
}

/* ---------------------------------------------------------------- RoPE-ID */

/* A turn in 32 tokens, two turns in 4096: 0.19635 .. 0.003068, a ratio of 64. */
static void test_rope_id(void)
{
    Rope r = made("rope-id", shape(64, 10000, 4096));
    Rope linear = made("rope-id:spacing=linear", shape(64, 10000, 4096));
    CHECK(near(r.inv_freq[0], 0.19635, 5e-6) && near(r.inv_freq[15], 0.003068, 5e-5));
    CHECK(near(r.inv_freq[0] / r.inv_freq[15], 64, 1e-13) && r.inv_freq[16] == 0);
    for (int j = 1; j < 16; j++) { /* a step of 64^(1/15), or of the 15th part */
        CHECK(near(r.inv_freq[j - 1] / r.inv_freq[j], exp(log(64) / 15), 1e-13));
        CHECK(near(linear.inv_freq[j - 1] - linear.inv_freq[j],
                   (r.inv_freq[0] - r.inv_freq[15]) / 15, 1e-12));
    }
    CHECK(refused("rope-id", shape(64, 10000, 0), "original"));
    rope_free(&r), rope_free(&linear);
}

/* q_scale = (1 + t ln(T / L))^2 past L tokens, exactly 1 before. */
static void test_temperature(void)
{
    Rope r = made("rope-id:temperature=0.1", shape(64, 10000, 100));
    Rope off = made("rope-id", shape(64, 10000, 100));
    CHECK(r.kind->q_scale(&r, 0) == 1 && r.kind->q_scale(&r, 99) == 1);
    CHECK(near(r.kind->q_scale(&r, 399), pow(1.138629436, 2), 1e-9)); /* YaRN's at s = 4 */
    CHECK(off.kind->q_scale(&off, 100000) == 1);
    rope_free(&r), rope_free(&off);
}

/* fraction 1, from 1 down to base^(-(d-2)/d), geometric: plain RoPE. The speeds differ by some
 * roundings in double, 1e-15 of each, the scores by less than rounding to float does. */
static void test_rope_id_is_plain(void)
{
    static const TinyModel t = {.n_layers = 1,
                                .n_embd = 32,
                                .n_heads = 4,
                                .n_kv_heads = 2,
                                .head_dim = 16,
                                .n_ff = 40,
                                .n_vocab = 50,
                                .n_ctx = 64,
                                .seed = 8};
    char spec[200];
    double turn = 2 * acos(-1);
    snprintf(spec, sizeof spec, "rope-id:fraction=1,fastest=%.17g,slowest=%.17g", turn,
             64 * pow(10000, -14.0 / 16) / turn);
    Watched a, b;
    Run id = {spec, 60, 0, 0}, plain = {"plain", 60, 0, 0};
    if (!watch(&a, &t, &id) || !watch(&b, &t, &plain)) return;
    for (int j = 0; j < 8; j++) CHECK(near(a.rope.inv_freq[j], b.rope.inv_freq[j], 1e-14));
    CHECK_CLOSE(a.score, b.score, 4 * 60 * 60, 18 * U * 8); /* lengths are below 8 here */
    watched_free(&a), watched_free(&b);
}

/* ---------------------------------------------------------------- FoPE */

/* Pairs that make less than a turn, as (n_rot, base, L): 11 of 32, 18 of 64, 29 of 64. */
static void test_clip(void)
{
    static const struct {
        int d, original, still;
        double base;
    } rows[] = {{64, 2048, 11, 1e4}, {128, 4096, 18, 1e4}, {128, 8192, 29, 5e5}};
    for (int i = 0; i < 3; i++)
        for (int full = 0; full < 2; full++) {
            Rope r = made(full ? "fope:ignore_zero=0" : "fope-clip",
                          shape(rows[i].d, rows[i].base, rows[i].original));
            CHECK_MSG(r.n_pairs - n_turning(&r) == rows[i].still, "row %d: %d stand still", i,
                      r.n_pairs - n_turning(&r));
            rope_free(&r);
        }
    CHECK(refused("fope-clip", shape(64, 1e4, 0), "original"));
    CHECK(refused("fope", shape(64, 1e4, 0), "original"));
    CHECK(!refused("fope:floor_ratio=0", shape(64, 1e4, 0), ""));
}

/* The published mixture, anew: w, the step-eye places, the two pads. */
typedef struct {
    const Rope *r;
    const float *sin, *cos; /* [K][D][M] */
    double w[64];
    int D, M;
} Fope;

static void fope_of(Fope *f, const Rope *r, int zeros, double floor_ratio)
{
    const RopeParams *p = &r->p;
    *f = (Fope){.r = r, .sin = r->w[0], .cos = r->w[1]};
    for (int j = 0; j < p->n_rot / 2; j++) {
        double w = exp(-2.0 * j / p->n_rot * log(p->base));
        if (w < floor_ratio * 2 * acos(-1) / p->n_ctx_orig) w = 0;
        if (w > 0 || zeros) f->w[f->D++] = w;
    }
    f->M = zeros ? f->D : f->D < p->head_dim / 4 ? f->D : p->head_dim / 4;
}

static void naive_fope(const void *ctx, int part, int kh, int j, double p, double *c, double *s)
{
    const Fope *f = ctx;
    (void)part;
    *c = j >= f->M;
    *s = j >= f->M && f->r->p.arg[2] > 0;
    for (int i = 0; i < f->D && j < f->M; i++) {
        *c += cos(p * f->w[i]) * (double)f->cos[(kh * f->D + i) * f->M + j];
        *s += sin(p * f->w[i]) * (double)f->sin[(kh * f->D + i) * f->M + j];
    }
}

static const TinyModel grouped = {.n_layers = 2,
                                  .n_embd = 32,
                                  .n_heads = 6,
                                  .n_kv_heads = 3,
                                  .head_dim = 32,
                                  .n_ff = 40,
                                  .n_vocab = 50,
                                  .n_ctx = 64,
                                  .biases = 1,
                                  .seed = 9};

/* All scores of a model with three key heads. base 100: 9 of 16 frequencies are left, M = 8. A
 * cos or sin of a mixture is rounded to float once, like a plain one, relative to the larger of
 * both; its sum in double is off by 1e-15 times its terms, which cancel by less than 1e6. */
static void test_mixture(void)
{
    static const struct {
        const char *spec;
        int zeros, D, M;
        double floor_ratio;
    } rows[] = {{"fope:seed=3,base=100", 0, 9, 8, 1},
                {"fope:seed=3,base=100,pad=ones", 0, 9, 8, 1},
                {"fope:seed=4,base=1e4,original=20", 0, 3, 3, 1},
                {"fope:seed=3,base=100,ignore_zero=0,gain=2", 1, 16, 16, 1},
                {"fope:seed=5,floor_ratio=0,pos_shift=1000", 0, 16, 8, 0},
                {"fope:base=100,n_rot=20", 0, 6, 6, 1}};
    for (int i = 0; i < 6; i++) {
        Watched w;
        Run run = {rows[i].spec, 40, 16, 0};
        if (!watch(&w, &grouped, &run)) continue;
        Fope f;
        fope_of(&f, &w.rope, rows[i].zeros, rows[i].floor_ratio);
        if (CHECK_MSG(f.D == rows[i].D && f.M == rows[i].M &&
                          w.rope.n_w[0] == (size_t)(3 * f.D * f.M) && w.rope.sets == 3,
                      "%s: D %d, M %d, %zu weights", rows[i].spec, f.D, f.M, w.rope.n_w[0]))
            check_scores(&w, rows[i].spec, naive_fope, &f, 1e-8, 0);
        watched_free(&w);
    }
}

/* What is drawn: 1 at (m step, m), noise of deviation 0.3 sqrt(2 / (D M + K M)) around; seeds
 * differ, and sin and cos do. 20 x 16 x 4 draws: the deviation to 1 / sqrt(2 n) = 2%, thrice. */
static void test_draw(void)
{
    RopeParams p = shape(64, 1e4, 2048);
    p.n_kv_heads = 4;
    Rope r = made("fope:seed=1", p), again = made("fope:seed=1", p), other = made("fope:seed=2", p);
    Rope none = made("fope", p);
    int D = 21, M = 16, step = 2;
    double sum = 0, square = 0;
    CHECK(r.n_w[0] == (size_t)(4 * D * M) && none.n_w[1] == r.n_w[0]);
    for (int i = 0; i < 4 * D * M; i++) {
        double eye = i / M % D == i % M * step, v = (double)r.w[0][i] - eye;
        CHECK((double)none.w[0][i] == eye && (double)none.w[1][i] == eye);
        sum += v, square += v * v;
    }
    double n = 4 * D * M, want = 0.3 * sqrt(2.0 / (D * M + 4 * M));
    CHECK_MSG(near(sqrt(square / n), want, 0.06) && fabs(sum / n) < 4 * want / sqrt(n),
              "mean %g, deviation %g of %g", sum / n, sqrt(square / n), want);
    size_t bytes = r.n_w[0] * sizeof(float);
    CHECK(!memcmp(r.w[0], again.w[0], bytes) && memcmp(r.w[0], other.w[0], bytes));
    CHECK(memcmp(r.w[0], r.w[1], bytes));
    rope_free(&r), rope_free(&again), rope_free(&other), rope_free(&none);
}

/* pad=ones: a pair (a, b) becomes (a - b, a + b), on both sides: its part of a score doubles. */
static void test_pad(void)
{
    Rope plain = made("fope:pad=plain", shape(64, 1e4, 2048));
    Rope ones = made("fope:pad=ones", shape(64, 1e4, 2048));
    float q[2][64], k[2][64], angles[64];
    Rng rng = {6};
    for (int c = 0; c < 64; c++) {
        q[0][c] = q[1][c] = rng_float(&rng);
        k[0][c] = k[1][c] = rng_float(&rng);
    }
    for (int of = 0; of < 2; of++) {
        rope_apply(of ? &ones : &plain, ROPE_Q, 0, q[of], 77, angles);
        rope_apply(of ? &ones : &plain, ROPE_K, 0, k[of], 12, angles);
    }
    for (int j = 0; j < 32; j++) {
        double part[2], size = 0;
        for (int of = 0; of < 2; of++) {
            double a = (double)q[of][2 * j] * (double)k[of][2 * j];
            double b = (double)q[of][2 * j + 1] * (double)k[of][2 * j + 1];
            part[of] = a + b;
            size = fabs(a) + fabs(b);
        }
        double times = j < 16 ? 1 : 2;
        CHECK_MSG(fabs(part[1] - times * part[0]) <= 4 * U * size, "pair %d: %g and %g", j, part[0],
                  part[1]);
    }
    rope_free(&plain), rope_free(&ones);
}

/* A file of weights for K = 3, D rows of M; one of them of layer 0 alone. */
static void write_weights(int D, int M, float *sn, float *cs, int cols)
{
    GgufBuilder b = {0};
    OutFile o;
    size_t size, bytes = sizeof(float) * (size_t)(3 * D * M);
    const int64_t ne[] = {cols, 3 * D * M / cols};
    Rng rng = {8};
    for (int i = 0; i < 3 * D * M; i++) sn[i] = rng_float(&rng), cs[i] = rng_float(&rng);
    gb_key_str(&b, "general.architecture", "llama");
    gb_tensor(&b, "blk.0.rope_fope_sin.weight", T_F32, 2, ne, sn, bytes);
    gb_tensor(&b, "rope_fope_cos.weight", T_F32, 2, ne, cs, bytes);
    uint8_t *file = gb_finish(&b, &size);
    int rc = out_open(&o, scratch, &err);
    if (!CHECK_MSG(rc == 0, "%s", err.msg)) exit(check_done());
    fwrite(file, 1, size, o.f);
    rc = out_close(&o, &err);
    CHECK_MSG(rc == 0, "%s", err.msg);
    free(file);
}

static void test_weights(void)
{
    static float sn[3 * 9 * 8], cs[3 * 9 * 8];
    char spec[600];
    Watched w;
    RopeParams p = shape(32, 100, 64);
    p.n_kv_heads = 3;
    snprintf(spec, sizeof spec, "fope:base=100,original=64,file=%s", scratch);
    write_weights(9, 8, sn, cs, 9); /* the other way round */
    CHECK_MSG(refused(spec, p, "expected shape [8, 27]"), "%s", err.msg);
    write_weights(9, 8, sn, cs, 8);
    p.layer = 1; /* has no sin of its own */
    CHECK_MSG(refused(spec, p, "rope_fope_sin.weight' is missing"), "%s", err.msg);
    p.layer = 0;
    CHECK_MSG(!refused(spec, p, ""), "%s", err.msg);
    TinyModel one = grouped;
    one.n_layers = 1;
    Run run = {spec, 40, 16, 0};
    if (watch(&w, &one, &run)) {
        Fope f;
        fope_of(&f, &w.rope, 0, 1);
        f.sin = sn, f.cos = cs;
        check_scores(&w, "weights of a file", naive_fope, &f, 1e-8, 0);
        watched_free(&w);
    }
    remove(scratch);
    CHECK(refused(spec, p, scratch));
}

static void test_weights_not_finite(void)
{
    GgufBuilder b = {0};
    Gguf g;
    size_t size;
    float v[4] = {1, NAN, 1, 1};
    char spec[600];
    OutFile o;
    RopeParams p = shape(8, 10000, 5);
    gb_tensor(&b, "rope_fope_sin.weight", T_F32, 2, (int64_t[]){1, 1}, v + 1, 4);
    gb_tensor(&b, "rope_fope_cos.weight", T_F32, 2, (int64_t[]){1, 1}, v, 4);
    uint8_t *file = gb_finish(&b, &size);
    CHECK(gguf_parse(&g, "w", file, size, &err) == 0);
    gguf_close(&g);
    int rc = out_open(&o, scratch, &err);
    if (CHECK_MSG(rc == 0, "%s", err.msg)) {
        fwrite(file, 1, size, o.f);
        rc = out_close(&o, &err);
        CHECK(rc == 0);
    }
    free(file);
    snprintf(spec, sizeof spec, "fope:floor_ratio=0.7,file=%s", scratch); /* 1 of 4 is left */
    CHECK_MSG(refused(spec, p, "finite"), "%s", err.msg);
    remove(scratch);
}

int main(int argc, char **argv)
{
    char name[512];
    snprintf(name, sizeof name, "%s.gguf", argc ? argv[0] : "test_rope_partial");
    scratch = name;
    test_partial_and_proportional();
    test_counts();
    test_divisors();
    test_p_rope();
    test_divisor_form();
    test_rope_id();
    test_temperature();
    test_rope_id_is_plain();
    test_clip();
    test_mixture();
    test_draw();
    test_pad();
    test_weights();
    test_weights_not_finite();
    return check_done();
}
