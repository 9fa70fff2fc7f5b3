/* The arithmetic: every instance of the kernel table against the base instance, bit for bit, and
 * the base instance against a literal transcription of its definition in model.h, bit for bit,
 * and against double precision, within a derived tolerance. */
#include "../model.h"

#include "check.h"
#include "dequant_golden.h"
#include "ref.h"

#include <string.h>

#define U 0x1p-24 /* half a unit in the last place of a float near 1 */

/* Sizes: every remainder of every vector width, and two real widths. */
static const int long_sizes[] = {576, 1536};
#define N_SIZES (101 + 2)

static int size_at(int i)
{
    return i <= 100 ? i : long_sizes[i - 101];
}

static const int counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 17};
#define N_COUNTS 10

static Rng rng;

/* ---------------------------------------------------------------- rooms with guarded ends */

#define GUARD 64

/* n floats, all NaN, on an odd address (4 mod 8), with a canary behind them. */
typedef struct {
    float *mem, *v;
    size_t n;
} Room;

static Room room_new(size_t n)
{
    Room r = {.mem = xcalloc(n + GUARD + 1, sizeof(float)), .n = n};
    r.v = r.mem + 1;
    for (size_t i = 0; i < n; i++) r.v[i] = NAN;
    for (size_t i = 0; i < GUARD; i++) r.v[n + i] = 12345.0f + (float)i;
    r.mem[0] = -777.0f;
    return r;
}

static void room_check(Room *r, const char *what)
{
    int whole = r->mem[0] == -777.0f;
    for (size_t i = 0; i < GUARD; i++) whole &= r->v[r->n + i] == 12345.0f + (float)i;
    CHECK_MSG(whole, "%s wrote outside its output of %zu", what, r->n);
    free(r->mem);
}

/* Equal bits; two NaNs count as equal, whatever their payload. */
static int same_bits(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i]))) return 0;
    return 1;
}

/* Bad size, named once for all kernels. */
static void check_same(const Room *a, const Room *b, const char *isa, const char *what, int n,
                       int m)
{
    if (same_bits(a->v, b->v, a->n)) {
        CHECK(1);
        return;
    }
    size_t i = 0;
    while (same_bits(a->v + i, b->v + i, 1)) i++;
    CHECK_MSG(0, "%s of %s, n %d, %d: [%zu] is %a, expected %a", what, isa, n, m, i,
              (double)a->v[i], (double)b->v[i]);
}

static void fill(float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) v[i] = rng_float(&rng) * (float)(1 << (rng_u64(&rng) & 7));
}

/* ---------------------------------------------------------------- the definitions, literally */

static float tree32(float *lane)
{
    for (int i = 0; i < 16; i++) lane[i] += lane[i + 16];
    for (int i = 0; i < 8; i++) lane[i] += lane[i + 8];
    for (int i = 0; i < 4; i++) lane[i] += lane[i + 4];
    for (int i = 0; i < 2; i++) lane[i] += lane[i + 2];
    return lane[0] + lane[1];
}

static float literal_dot(const float *w, const float *x, int n)
{
    float lane[32] = {0};
    for (int i = 0; i < n; i++) lane[i % 32] = fmaf(w[i], x[i], lane[i % 32]);
    return tree32(lane);
}

static float literal_qdot(const Q32 *w, const Q8 *x, int nb)
{
    float y = 0;
    for (int b = 0; b < nb; b++) {
        int64_t s = 0, m = 0;
        for (int i = 0; i < 32; i++) s += (int64_t)w[b].sc[i / 16] * w[b].q[i] * x[b].q[i];
        for (int g = 0; g < 2; g++) m += (int64_t)w[b].mn[g] * x[b].sum[g];
        y = fmaf((float)s, w[b].d * x[b].d, y);
        if (w[b].dm != 0) y = fmaf((float)m, w[b].dm * x[b].d, y);
    }
    return y;
}

static float literal_weighted(const float *a, const float *v, size_t vs, int n_t, int c)
{
    float out = 0;
    for (int t0 = 0; t0 < n_t; t0 += 256) {
        float part = 0;
        for (int t = t0; t < n_t && t < t0 + 256; t++)
            part = fmaf(a[t], v[(size_t)t * vs + (size_t)c], part);
        out += part;
    }
    return out;
}

static void literal_softmax(float *x, int n)
{
    float max = x[0], lane[32] = {0};
    for (int i = 1; i < n; i++) max = fmaxf(max, x[i]);
    for (int i = 0; i < n; i++) x[i] = exp_f32(x[i] - max);
    for (int i = 0; i < n; i++) lane[i % 32] += x[i];
    float inv = 1 / tree32(lane);
    for (int i = 0; i < n; i++) x[i] *= inv;
}

/* ---------------------------------------------------------------- matmul */

static void matmul_case(const Kernels *k, int n, int rows, int toks)
{
    size_t ws = (size_t)n + 3, xs = (size_t)n + 5, ys = (size_t)rows + 2;
    Room w = room_new((size_t)rows * ws), x = room_new((size_t)toks * xs);
    Room y = room_new((size_t)toks * ys), want = room_new((size_t)toks * ys);
    for (int r = 0; r < rows; r++) fill(w.v + (size_t)r * ws, (size_t)n); /* gaps stay NaN */
    for (int i = 0; i < toks; i++) fill(x.v + (size_t)i * xs, (size_t)n);
    for (int i = 0; i < toks; i++)
        for (int r = 0; r < rows; r++)
            want.v[(size_t)i * ys + (size_t)r] =
                literal_dot(w.v + (size_t)r * ws, x.v + (size_t)i * xs, n);
    k->matmul(y.v, ys, w.v, ws, rows, x.v, xs, toks, n);
    check_same(&y, &want, k->name, "matmul", n, rows * 100 + toks);
    room_check(&y, "matmul");
    free(w.mem);
    free(x.mem);
    free(want.mem);
}

/* A sum of n products by fused operations over 32 lanes and a tree: each product passes through
 * at most ceil(n / 32) + 5 roundings, each of relative size U: error <= that * U * sum |w x|. */
static void matmul_near_double(const Kernels *k)
{
    for (int i = 0; i < N_SIZES; i++) {
        int n = size_at(i);
        float w[1536], x[1536], y = NAN;
        double sum = 0, abs = 0;
        fill(w, 1536);
        fill(x, 1536);
        for (int c = 0; c < n; c++) {
            sum += (double)w[c] * (double)x[c];
            abs += fabs((double)w[c] * (double)x[c]);
        }
        k->matmul(&y, 1, w, (size_t)n, 1, x, (size_t)n, 1, n);
        double tol = ((n + 31) / 32 + 5) * U * abs;
        CHECK_MSG(fabs((double)y - sum) <= tol, "n %d: %g is not %g", n, (double)y, sum);
    }
}

/* Every size with a few shapes, and every shape with a few sizes. */
static void test_matmul(const Kernels *k)
{
    for (int i = 0; i < N_SIZES; i++) {
        matmul_case(k, size_at(i), 1, 1);
        matmul_case(k, size_at(i), 4, 3);
        matmul_case(k, size_at(i), 5, 7);
        matmul_case(k, size_at(i), 17, 2);
    }
    for (int r = 0; r < N_COUNTS; r++)
        for (int t = 0; t < N_COUNTS; t++) {
            matmul_case(k, 33, counts[r], counts[t]);
            matmul_case(k, 64, counts[r], counts[t]);
            matmul_case(k, 93, counts[r], counts[t]);
            matmul_case(k, 576, counts[r], counts[t]);
        }
}

/* Products that overflow, vanish, or are subnormal; infinities and NaN go through. */
static void test_matmul_extremes(const Kernels *k)
{
    static const float odd[] = {
        0,     -0.0f, 1e-45f, -1e-45f,  1.17549435e-38f, 3e38f, -3e38f,    1e-20f,
        1e20f, 1,     -1,     INFINITY, -INFINITY,       NAN,   0x1p-149f, 0x1.fffffep-127f};
    enum { N_ODD = sizeof odd / sizeof *odd, N = 67 };
    for (int round = 0; round < 2000; round++) {
        float w[N], x[N];
        Room y = room_new(1), want = room_new(1);
        fill(w, N);
        fill(x, N);
        int finite = round % 2 ? N_ODD : 11; /* half of the rounds without infinities */
        for (int i = 0; i < 6; i++) w[rng_int(&rng, 0, N - 1)] = odd[rng_int(&rng, 0, finite - 1)];
        for (int i = 0; i < 6; i++) x[rng_int(&rng, 0, N - 1)] = odd[rng_int(&rng, 0, finite - 1)];
        if (round % 3 == 0)
            for (int i = 0; i < N; i++) w[i] *= 1e-22f, x[i] *= 1e-22f; /* subnormal sums */
        want.v[0] = literal_dot(w, x, N);
        k->matmul(y.v, 1, w, N, 1, x, N, 1, N);
        check_same(&y, &want, k->name, "matmul of odd values", round, 1);
        free(want.mem);
        room_check(&y, "matmul");
    }
}

/* ---------------------------------------------------------------- qmatmul */

static float small_scale(void)
{
    return ldexpf(rng_float(&rng), rng_int(&rng, -14, 2));
}

/* Scales and values of every type, to their ends: |sc| <= 128 (Q6_K), q any int8, mn <= 63. */
static void random_q32(Q32 *w, int extreme)
{
    for (int i = 0; i < QB; i++)
        w->q[i] = (int8_t)(extreme ? (rng_u64(&rng) & 1 ? 127 : -128) : rng_int(&rng, -128, 127));
    for (int g = 0; g < 2; g++) {
        w->sc[g] = (int16_t)(extreme ? (rng_u64(&rng) & 1 ? 127 : -128) : rng_int(&rng, -128, 127));
        w->mn[g] = (int16_t)(extreme ? 63 : rng_int(&rng, 0, 63));
    }
    w->d = small_scale();
    w->dm = rng_u64(&rng) & 1 ? small_scale() : 0;
}

/* What quantize can make: q within -127 .. 127. */
static void random_q8(Q8 *x, int extreme)
{
    x->sum[0] = x->sum[1] = 0;
    for (int i = 0; i < QB; i++) {
        x->q[i] = (int8_t)(extreme ? (rng_u64(&rng) & 1 ? 127 : -127) : rng_int(&rng, -127, 127));
        x->sum[i / 16] += x->q[i];
    }
    x->d = fabsf(small_scale());
}

/* All products of one sign at once, now and then: the largest sum that there is. */
static void line_up(Q32 *w, Q8 *x)
{
    w->sc[0] = w->sc[1] = -128;
    x->sum[0] = x->sum[1] = 127 * 16;
    memset(w->q, -128, QB);
    memset(x->q, 127, QB);
}

static void qmatmul_case(const Kernels *k, int nb, int rows, int toks, int extreme)
{
    size_t xs = (size_t)nb + 1, ys = (size_t)rows + 1, n_w = (size_t)rows * (size_t)nb;
    Q32 *w = xcalloc(n_w, sizeof *w);
    Q8 *x = xcalloc((size_t)toks * xs, sizeof *x);
    Room y = room_new((size_t)toks * ys), want = room_new((size_t)toks * ys);
    for (size_t i = 0; i < n_w; i++) random_q32(w + i, extreme);
    for (size_t i = 0; i < (size_t)toks * xs; i++) random_q8(x + i, extreme);
    if (extreme && n_w) line_up(w, x);
    for (int i = 0; i < toks; i++)
        for (int r = 0; r < rows; r++)
            want.v[(size_t)i * ys + (size_t)r] =
                literal_qdot(w + (size_t)r * (size_t)nb, x + (size_t)i * xs, nb);
    k->qmatmul(y.v, ys, w, rows, x, xs, toks, nb);
    check_same(&y, &want, k->name, extreme ? "qmatmul of extremes" : "qmatmul", nb,
               rows * 100 + toks);
    room_check(&y, "qmatmul");
    free(want.mem);
    free(w);
    free(x);
}

static void test_qmatmul(const Kernels *k)
{
    static const int blocks[] = {0, 1, 2, 3, 4, 5, 7, 8, 18, 48};
    for (int r = 0; r < N_COUNTS; r++)
        for (int t = 0; t < N_COUNTS; t++)
            for (int b = 0; b < 10; b++)
                qmatmul_case(k, blocks[b], counts[r], counts[t], (r + t + b) % 3 == 0);
}

/* Straight from rows of the file = unpacked by the plain code, then the literal sum. */
static void qrows_case(const Kernels *k, int type, int nb, int rows, int toks)
{
    const TensorType *tt = tensor_type(type);
    size_t xs = (size_t)nb + 1, ys = (size_t)rows + 1, n_w = (size_t)rows * (size_t)nb;
    uint8_t *raw = xcalloc(n_w * (size_t)tt->bytes, 1);
    Q32 *w = xcalloc(n_w, sizeof *w);
    Q8 *x = xcalloc((size_t)toks * xs, sizeof *x);
    Room y = room_new((size_t)toks * ys), want = room_new((size_t)toks * ys);
    for (size_t i = 0; i < n_w * (size_t)tt->bytes; i++) raw[i] = (uint8_t)rng_u64(&rng);
    for (size_t b = 0; b < n_w; b++) { /* half-precision scales below 2, so that sums are finite */
        raw[b * (size_t)tt->bytes + 1] &= 0xbf;
        raw[b * (size_t)tt->bytes + 3] &= 0xbf;
    }
    for (int r = 0; r < rows; r++)
        tt->unpack(w + r * nb, raw + (size_t)r * (size_t)nb * (size_t)tt->bytes, nb);
    for (size_t i = 0; i < (size_t)toks * xs; i++) random_q8(x + i, 0);
    for (int i = 0; i < toks; i++)
        for (int r = 0; r < rows; r++)
            want.v[(size_t)i * ys + (size_t)r] =
                literal_qdot(w + (size_t)r * (size_t)nb, x + (size_t)i * xs, nb);
    k->qrows[type](y.v, ys, raw, rows, x, xs, toks, nb);
    check_same(&y, &want, k->name, tt->name, nb, rows * 100 + toks);
    room_check(&y, "qrows");
    free(want.mem);
    free(raw);
    free(w);
    free(x);
}

static void test_qrows(const Kernels *k)
{
    static const int blocks[] = {1, 2, 18, 33, 48};
    for (int type = 0; type < T_N_TYPES; type++)
        for (int r = 0; k->qrows[type] && r < N_COUNTS; r++)
            for (int t = 0; t < N_COUNTS; t++)
                qrows_case(k, type, blocks[(r + t) % 5], counts[r], counts[t]);
}

/* A NaN block (d = NaN, q = 0) must not vanish in the sum. */
static void test_qmatmul_nan(const Kernels *k)
{
    Q32 w[3];
    Q8 x[3];
    float y = 0;
    for (int i = 0; i < 3; i++) random_q32(w + i, 0), random_q8(x + i, 0);
    x[1] = (Q8){.d = NAN};
    k->qmatmul(&y, 1, w, 1, x, 3, 1, 3);
    CHECK_MSG(isnan(y), "%s: a block that is not finite gave %g", k->name, (double)y);
}

/* ---------------------------------------------------------------- quantize */

/* One block against the formula: d = max / 127, q = round-to-even(x * (127 / max)). */
static void quantize_literal(const Q8 *q, const float *x, const char *isa, const char *what)
{
    float max = 0;
    int bad = 0, ok = 1, sum[2] = {0, 0};
    for (int i = 0; i < QB; i++) {
        bad |= !isfinite(x[i]);
        max = fmaxf(max, fabsf(x[i]));
    }
    if (bad) {
        for (int i = 0; i < QB; i++) ok &= q->q[i] == 0;
        CHECK_MSG(ok && isnan(q->d) && !q->sum[0] && !q->sum[1], "%s, %s: expected NaN", isa, what);
        return;
    }
    if (max < 1e-30f) max = 0; /* 127 / max would overflow: such a block counts as zero */
    for (int i = 0; i < QB; i++) {
        float v = max > 0 ? rintf(x[i] * (127 / max)) : 0;
        ok &= (float)q->q[i] == v;
        sum[i / 16] += (int)v;
        /* and in double: half a step, and 3 roundings of a value up to 127 */
        double exact = max > 0 ? (double)x[i] * 127 / (double)max : 0;
        ok &= fabs((double)q->q[i] - exact) <= 0.5 + 127 * 3 * U;
    }
    ok &= q->d == max / 127 && q->sum[0] == sum[0] && q->sum[1] == sum[1];
    CHECK_MSG(ok, "%s, %s: block of max %g: d %g, q[0] %d, sums %d %d, expected %d %d", isa, what,
              (double)max, (double)q->d, q->q[0], q->sum[0], q->sum[1], sum[0], sum[1]);
}

static void quantize_case(const Kernels *k, const float *x, int nb, const char *what)
{
    Q8 *q = xcalloc((size_t)nb + 1, sizeof *q);
    memset(q, 0x5a, ((size_t)nb + 1) * sizeof *q);
    k->quantize(q, x, nb);
    for (int b = 0; b < nb; b++) quantize_literal(q + b, x + b * QB, k->name, what);
    const uint8_t *after = (const uint8_t *)(q + nb);
    int whole = 1;
    for (size_t i = 0; i < sizeof *q; i++) whole &= after[i] == 0x5a;
    CHECK_MSG(whole, "%s: quantize wrote past %d blocks", k->name, nb);
    free(q);
}

static void test_quantize(const Kernels *k)
{
    static float mem[9 * QB + 1], *x = mem + 1; /* not aligned */
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f};
    static const float sizes[] = {1e-45f, 1e-38f, 1e-31f, 1.1e-30f, 1e-6f, 1, 3e4f, 1e30f, 3e38f};
    for (int nb = 0; nb <= 9; nb++) {
        fill(x, 9 * QB);
        quantize_case(k, x, nb, "random");
    }
    memset(mem, 0, sizeof mem);
    quantize_case(k, x, 9, "zeros");
    for (int i = 0; i < 9 * QB; i++) x[i] = -0.0f;
    quantize_case(k, x, 9, "minus zeros");
    for (int s = 0; s < 9; s++) {
        for (int i = 0; i < 9 * QB; i++) x[i] = rng_float(&rng) * sizes[s];
        quantize_case(k, x, 9, "size");
    }
    for (int o = 0; o < 5; o++)
        for (int at = 0; at < QB; at++) { /* in every lane, the neighbours stay good */
            fill(x, 9 * QB);
            x[3 * QB + at] = odd[o];
            quantize_case(k, x, 9, "odd value");
        }
    for (int i = 0; i < 9 * QB; i++) x[i] = (float)(i % 254 - 127) + 0.5f;
    for (int b = 0; b < 9; b++) x[b * QB] = 127; /* scale 1: all others are ties */
    quantize_case(k, x, 9, "ties");
    for (int i = 0; i < 9 * QB; i++) x[i] = -x[i];
    quantize_case(k, x, 9, "ties, negative");
}

/* ---------------------------------------------------------------- unpacking */

static void test_unpack_f16(const Kernels *k)
{
    static uint16_t mem[65537], *in = mem + 1;
    Room out = room_new(65536);
    for (int i = 0; i < 65536; i++) in[i] = (uint16_t)i;
    k->unpack_f16(out.v, in, 65536);
    long bad = 0;
    for (int i = 0; i < 65536; i++) {
        float want = (float)ref_f16((uint16_t)i); /* exact */
        bad += !same_bits(&out.v[i], &want, 1);
    }
    CHECK_MSG(bad == 0, "%s: %ld of 65536 halves decoded wrong", k->name, bad);
    room_check(&out, "unpack_f16");
}

static void test_unpack_bf16(const Kernels *k)
{
    static uint16_t mem[65537], *in = mem + 1;
    Room out = room_new(65536);
    for (int i = 0; i < 65536; i++) in[i] = (uint16_t)i;
    k->unpack_bf16(out.v, in, 65536);
    long bad = 0;
    for (int i = 0; i < 65536; i++) {
        uint32_t u = (uint32_t)i << 16;
        bad += memcmp(&out.v[i], &u, 4) != 0;
    }
    CHECK_MSG(bad == 0, "%s: %ld of 65536 bfloats decoded wrong", k->name, bad);
    room_check(&out, "unpack_bf16");
}

/* Short and unaligned runs: the tails. */
static void test_unpack_tails(const Kernels *k)
{
    uint16_t in[102];
    for (int i = 0; i < 102; i++) in[i] = (uint16_t)(rng_u64(&rng) & 0xbbff); /* finite */
    for (int n = 0; n <= 100; n++) {
        Room h = room_new((size_t)n), b = room_new((size_t)n), want = room_new((size_t)n);
        k->unpack_f16(h.v, in + 1, n);
        for (int i = 0; i < n; i++) want.v[i] = (float)ref_f16(in[i + 1]);
        check_same(&h, &want, k->name, "unpack_f16", n, 0);
        k->unpack_bf16(b.v, in + 1, n);
        kernels_base.unpack_bf16(want.v, in + 1, n);
        check_same(&b, &want, k->name, "unpack_bf16", n, 0);
        room_check(&h, "unpack_f16");
        room_check(&b, "unpack_bf16");
        free(want.mem);
    }
}

static void test_unpack_q32(const Kernels *k)
{
    for (int nb = 0; nb <= 20; nb++) {
        Q32 w[20];
        Room out = room_new((size_t)nb * QB), want = room_new((size_t)nb * QB);
        for (int b = 0; b < nb; b++) random_q32(w + b, b == 7);
        for (int i = 0; i < nb * QB; i++) {
            const Q32 *q = &w[i / QB];
            float scale = q->d * (float)q->sc[i % QB / 16];
            float scaled = scale * (float)q->q[i % QB], min = q->dm * (float)q->mn[i % QB / 16];
            want.v[i] = scaled + min;
        }
        k->unpack_q32(out.v, w, nb);
        check_same(&out, &want, k->name, "unpack_q32", nb, 0);
        room_check(&out, "unpack_q32");
        free(want.mem);
    }
}

/* An instance may unpack a type by itself: all bytes as the plain function makes them, from random
 * blocks on odd addresses, and nothing behind them. */
static void test_unpack_types(const Kernels *k)
{
    static uint8_t mem[17 * 256 + 1], *row = mem + 1;
    for (int type = 0; type < T_N_TYPES; type++) {
        const TensorType *t = tensor_type(type);
        if (!k->unpack[type]) continue;
        int step = t->block / QB;
        for (int n = 0; n <= 17; n += step) {
            Q32 got[18], want[18];
            for (size_t i = 0; i < sizeof mem; i++) mem[i] = (uint8_t)(rng_u64(&rng) & 255);
            memset(got, 0x5a, sizeof got);
            memset(want, 0x5a, sizeof want);
            k->unpack[type](got, row, n);
            t->unpack(want, row, n);
            CHECK_MSG(!memcmp(got, want, sizeof got), "%s: unpacking %d groups of %s", k->name, n,
                      t->name);
        }
    }
}

/* Fixed blocks decoded by gguf-py, an independent implementation. The bits must be the same: the
 * products d * scale * q fit 24 bits, so they are exact in any order, and one rounding follows, of
 * the sum with the minimum. Zeros are compared without their sign (-0 + 0 is 0). */
static void test_golden_blocks(const Kernels *k)
{
    for (size_t i = 0; i < sizeof dequant_golden / sizeof *dequant_golden; i++) {
        const struct dequant_golden *g = &dequant_golden[i];
        const TensorType *t = tensor_type(g->type);
        int n = g->n_elements;
        Q32 q[8];
        Room out = room_new((size_t)n);
        if (!CHECK_MSG(t && n <= 8 * QB, "%s is not read", g->name)) continue;
        CHECK_MSG(!strcmp(t->name, g->name) && n / t->block * t->bytes == g->n_bytes,
                  "%s: %d values in %d bytes", t->name, t->block, t->bytes);
        if (t->unpack) {
            (k->unpack[g->type] ? k->unpack[g->type] : t->unpack)(q, g->raw, n / QB);
            k->unpack_q32(out.v, q, n / QB);
        } else if (g->type == T_F16) {
            k->unpack_f16(out.v, (const uint16_t *)(const void *)g->raw, n);
        } else {
            k->unpack_bf16(out.v, (const uint16_t *)(const void *)g->raw, n);
        }
        for (int c = 0; c < n; c++) {
            float want;
            memcpy(&want, &g->f32[c], 4);
            if (!CHECK_MSG(out.v[c] == want, "%s, %s: [%d] is %a, expected %a", k->name, g->name, c,
                           (double)out.v[c], (double)want))
                break;
        }
        room_check(&out, g->name);
    }
}

/* The reference's own decoding against the same blocks: exact but for the last rounding. */
static void test_reference_blocks(void)
{
    for (size_t i = 0; i < sizeof dequant_golden / sizeof *dequant_golden; i++) {
        const struct dequant_golden *g = &dequant_golden[i];
        double out[256];
        CHECK(ref_dequant(g->type, g->raw, g->n_elements, out) == 0);
        for (int c = 0; c < g->n_elements; c++) {
            float want;
            memcpy(&want, &g->f32[c], 4);
            CHECK_MSG((float)out[c] == want, "%s: reference [%d] is %a, expected %a", g->name, c,
                      out[c], (double)want);
        }
    }
}

/* ---------------------------------------------------------------- weighted_sum */

static void weighted_case(const Kernels *k, int n_t, int n)
{
    size_t vs = (size_t)n + 3;
    Room a = room_new((size_t)n_t), v = room_new((size_t)n_t * vs);
    Room out = room_new((size_t)n), want = room_new((size_t)n);
    fill(a.v, (size_t)n_t);
    for (int t = 0; t < n_t; t++) fill(v.v + (size_t)t * vs, (size_t)n);
    for (int c = 0; c < n; c++) {
        want.v[c] = literal_weighted(a.v, v.v, vs, n_t, c);
        double sum = 0, abs = 0, got;
        for (int t = 0; t < n_t; t++) {
            double p = (double)a.v[t] * (double)v.v[(size_t)t * vs + (size_t)c];
            sum += p;
            abs += fabs(p);
        }
        got = (double)want.v[c];
        /* a product passes through at most 256 roundings in its part, then one for each part */
        if (!(fabs(got - sum) <= (256 + n_t / 256 + 1) * U * abs))
            CHECK_MSG(0, "weighted sum of %d: %g is not %g", n_t, got, sum);
    }
    k->weighted_sum(out.v, a.v, v.v, vs, n_t, n);
    check_same(&out, &want, k->name, "weighted_sum", n, n_t);
    room_check(&out, "weighted_sum");
    free(a.mem);
    free(v.mem);
    free(want.mem);
}

static void test_weighted_sum(const Kernels *k)
{
    static const int keys[] = {0, 1, 2, 3, 31, 255, 256, 257, 511, 512, 513, 1000};
    static const int widths[] = {64, 80, 128, 96, 17};
    for (int n = 0; n <= 100; n++) weighted_case(k, 1 + n % 5, n);
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 5; j++) weighted_case(k, keys[i], widths[j]);
}

/* ---------------------------------------------------------------- exp, softmax, silu */

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Distance in units of the last place of the true value (at least the smallest subnormal). */
static double ulps(float got, double want)
{
    int e;
    frexp(want, &e);
    return fabs((double)got - want) / ldexp(1, e < -125 ? -149 : e - 24);
}

/* Measured over all floats from -104 to 88.72: 1.013 ulp where the result is normal, 0.751 of the
 * smallest subnormal below that. exp(89) is past FLT_MAX: infinity. */
static void test_exp(void)
{
    double worst = 0, worst_small = 0;
    for (uint32_t u = 0; u < 0xff800000u; u += 997) {
        float x = float_of(u);
        if (!(x >= -104 && x <= 89)) continue;
        double want = exp((double)x);
        if ((double)(float)want > 3.4028235e38) {
            CHECK_MSG(isinf(exp_f32(x)) || exp_f32(x) > 3.4e38f, "exp(%a)", (double)x);
            continue;
        }
        double d = ulps(exp_f32(x), want), *w = want < 0x1p-126 ? &worst_small : &worst;
        if (!(d <= *w)) *w = d;
    }
    CHECK_MSG(worst <= 1.02, "exp_f32 is off by %.3f ulp", worst);
    CHECK_MSG(worst_small <= 0.76, "exp_f32 is off by %.3f ulp where it is subnormal", worst_small);
    CHECK(exp_f32(0) == 1 && exp_f32(-0.0f) == 1);
    CHECK(exp_f32(-INFINITY) == 0 && exp_f32(-1e30f) == 0 && exp_f32(-200) == 0);
    CHECK(isinf(exp_f32(INFINITY)) && isinf(exp_f32(1e30f)) && exp_f32(1e30f) > 0);
    CHECK(isnan(exp_f32(NAN)) && isnan(exp_f32(-NAN)));
    CHECK(exp_f32(1) == 2.71828183f);
}

/* From a bit pattern on, n steps upwards: the exponential must not fall. */
static void exp_monotone(float from, int n)
{
    float last = exp_f32(from), x = from;
    for (int i = 0; i < n; i++) {
        x = nextafterf(x, INFINITY);
        float y = exp_f32(x);
        if (!CHECK_MSG(y >= last, "exp falls at %a", (double)x)) return;
        last = y;
    }
}

/* The edges: where k changes (odd multiples of ln2 / 2), around 0, and at both ends. */
static void test_exp_monotone(void)
{
    for (int i = -150; i <= 128; i++) exp_monotone((float)(((double)i - 0.5) * M_LN2) - 1e-5f, 300);
    exp_monotone(-1e-6f, 2000);
    exp_monotone(-104.001f, 500);
    exp_monotone(-103.99f, 2000);
    exp_monotone(-87.3366f, 2000);
    exp_monotone(88.722f, 500);
}

static void softmax_case(const Kernels *k, const float *x, int n)
{
    Room got = room_new((size_t)n), want = room_new((size_t)n);
    double sum = 0;
    memcpy(got.v, x, (size_t)n * sizeof *x);
    memcpy(want.v, x, (size_t)n * sizeof *x);
    k->softmax(got.v, n);
    literal_softmax(want.v, n);
    check_same(&got, &want, k->name, "softmax", n, 0);
    for (int i = 0; i < n; i++) sum += (double)got.v[i];
    /* the lanes round ceil(n / 32) + 5 times, then the reciprocal and each product once */
    CHECK_MSG(fabs(sum - 1) <= ((n + 31) / 32 + 5 + 3) * U, "%s: a row of %d sums to %.9g", k->name,
              n, sum);
    room_check(&got, "softmax");
    free(want.mem);
}

static void test_softmax(const Kernels *k)
{
    static float x[1536];
    for (int i = 1; i < N_SIZES; i++) {
        fill(x, 1536);
        softmax_case(k, x, size_at(i));
        for (int c = 0; c < size_at(i); c++) x[c] = -1e30f; /* all but one are out of range */
        x[size_at(i) / 2] = 3;
        softmax_case(k, x, size_at(i));
        for (int c = 0; c < size_at(i); c++) x[c] = c % 3 ? -INFINITY : 0.25f * (float)(c % 7);
        softmax_case(k, x, size_at(i));
        for (int c = 0; c < size_at(i); c++) x[c] = -1e4f - (float)c; /* the maximum is far away */
        softmax_case(k, x, size_at(i));
    }
    float one = -5e8f;
    k->softmax(&one, 1);
    CHECK_MSG(one == 1, "%s: a row of one is %g", k->name, (double)one);
    x[0] = 1, x[1] = NAN, x[2] = 2;
    k->softmax(x, 3);
    CHECK_MSG(isnan(x[1]), "%s: softmax hides a NaN", k->name);
}

static void silu_case(const Kernels *k, const float *g, int n)
{
    Room y = room_new((size_t)n), want = room_new((size_t)n);
    for (int i = 0; i < n; i++) {
        float up = rng_float(&rng), e = exp_f32(-g[i]);
        y.v[i] = up;
        want.v[i] = g[i] / (1 + e) * up;
        double exact = (double)g[i] / (1 + exp(-(double)g[i])) * (double)up;
        /* exp 2.1 units (1.02 ulp), then sum, quotient and product: under 6; subnormals */
        if (fabs((double)g[i]) < 80 &&
            !(fabs((double)want.v[i] - exact) <= 6 * U * fabs(exact) + 1e-44))
            CHECK_MSG(0, "silu(%g) * %g is %g", (double)g[i], (double)up, (double)want.v[i]);
    }
    k->silu_mul(y.v, g, n);
    check_same(&y, &want, k->name, "silu_mul", n, 0);
    room_check(&y, "silu_mul");
    free(want.mem);
}

static void test_silu(const Kernels *k)
{
    static const float ends[] = {0,    -0.0f, 88,    -88,    89,     -89,      103,       -103,
                                 1e9f, -1e9f, 1e38f, -1e38f, 1e-40f, INFINITY, -INFINITY, NAN};
    static float mem[1537], *g = mem + 1;
    for (int i = 0; i < N_SIZES; i++) {
        fill(g, 1536);
        silu_case(k, g, size_at(i));
    }
    silu_case(k, ends, 16);
    for (int i = 0; i < 1536; i++) g[i] = rng_float(&rng) * 110;
    silu_case(k, g, 1536);
}

/* ---------------------------------------------------------------- all of it */

static void test_instance(const Kernels *k)
{
    test_matmul(k);
    test_matmul_extremes(k);
    matmul_near_double(k);
    test_qmatmul(k);
    test_qmatmul_nan(k);
    test_qrows(k);
    test_quantize(k);
    test_unpack_f16(k);
    test_unpack_bf16(k);
    test_unpack_tails(k);
    test_unpack_q32(k);
    test_unpack_types(k);
    test_golden_blocks(k);
    test_weighted_sum(k);
    test_softmax(k);
    test_silu(k);
}

static void test_pick(void)
{
    Err e;
    CHECK(kernels_at(0)->matmul == kernels_base.matmul && !kernels_at(-1));
    CHECK(kernels_pick("base", &e) == kernels_at(0));
    CHECK(!kernels_pick("abacus", &e) && strstr(e.msg, "abacus") && strstr(e.msg, "base"));
    CHECK(kernels_pick(NULL, &e) != NULL);
}

int main(void)
{
    rng = rng_new(20240229);
    test_reference_blocks();
    test_exp();
    test_exp_monotone();
    for (int i = 0; kernels_at(i); i++) {
        const Kernels *k = kernels_at(i);
        if (k->usable())
            test_instance(k);
        else
            check_skip("kernels %s: this CPU does not have them", k->name);
    }
    test_pick();
    return check_done();
}
