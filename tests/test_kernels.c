/* The arithmetic: every instance of the kernel table against the base instance, bit for bit, and
 * the base instance against a literal transcription of its definition in model.h, bit for bit,
 * and against double precision, within a derived tolerance. */
#include "../model.h"

#include "check.h"
#include "dequant_golden.h"
#include "ref.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* n bytes that end where the memory ends, as the last tensor of a mapped file may: the next page
 * cannot be read. `back` bytes earlier, for other alignments. */
typedef struct {
    uint8_t *map, *v;
    size_t mapped;
} Edge;

static Edge edge_new(size_t n, size_t back)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (n + back + page - 1) / page * page;
    Edge e = {.mapped = size + page};
    e.map = mmap(NULL, e.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (e.map == MAP_FAILED || mprotect(e.map + size, page, PROT_NONE)) die("mmap of %zu", size);
    e.v = e.map + size - n - back;
    return e;
}

/* rows of n floats, all NaN, a stride apart; the last row ends at the edge. */
static Edge edge_rows(int rows, size_t stride, int n)
{
    size_t count = (size_t)(rows - 1) * stride + (size_t)n;
    Edge e = edge_new(count * sizeof(float), 0);
    float *v = (float *)(void *)e.v;
    for (size_t i = 0; i < count; i++) v[i] = NAN;
    return e;
}

static float *edge_floats(const Edge *e)
{
    return (float *)(void *)e->v;
}

static void edge_free(Edge *e)
{
    munmap(e->map, e->mapped);
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

static void matmul_strides(const Kernels *k, int n, int rows, int toks, size_t ws, size_t xs)
{
    size_t ys = (size_t)rows + 2;
    Edge we = edge_rows(rows, ws, n), xe = edge_rows(toks, xs, n);
    float *w = edge_floats(&we), *x = edge_floats(&xe);
    Room y = room_new((size_t)toks * ys), want = room_new((size_t)toks * ys);
    for (int r = 0; r < rows; r++) fill(w + (size_t)r * ws, (size_t)n); /* gaps stay NaN */
    for (int i = 0; i < toks; i++) fill(x + (size_t)i * xs, (size_t)n);
    for (int i = 0; i < toks; i++)
        for (int r = 0; r < rows; r++)
            want.v[(size_t)i * ys + (size_t)r] =
                literal_dot(w + (size_t)r * ws, x + (size_t)i * xs, n);
    k->matmul(y.v, ys, w, ws, rows, x, xs, toks, n);
    check_same(&y, &want, k->name, "matmul", n, rows * 100 + toks);
    room_check(&y, "matmul");
    edge_free(&we);
    edge_free(&xe);
    free(want.mem);
}

static void matmul_case(const Kernels *k, int n, int rows, int toks)
{
    matmul_strides(k, n, rows, toks, (size_t)n + 3, (size_t)n + 5);
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

/* The shapes of a prefill (panels of rows padded by 16 floats) and of attention (keys by queries),
 * and those around them: kernels go through n, rows and tokens in blocks. */
static void test_matmul_blocks(const Kernels *k)
{
    static const int shapes[][3] = {{6000, 48, 33}, {5632, 47, 7},  {4096, 12, 12}, {3000, 24, 4},
                                    {64, 256, 16},  {128, 255, 15}, {80, 131, 16},  {64, 9, 1},
                                    {96, 300, 2},   {1536, 48, 13}, {2049, 13, 32}, {1100, 31, 23},
                                    {8191, 17, 3},  {64, 1, 16},    {576, 16, 64},  {1536, 61, 5}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int n = shapes[i][0];
        matmul_strides(k, n, shapes[i][1], shapes[i][2], (size_t)n + 16, (size_t)n);
    }
    for (int n = 128; n <= 2048; n *= 2)
        for (int d = -1; d <= 1; d++)
            matmul_strides(k, n + d, 18, 14, (size_t)n + 16, (size_t)n + 1);
}

/* Products that vanish leave -0 in every lane; elements that are not there must not make it 0. */
static void test_matmul_minus_zero(const Kernels *k)
{
    float w[4 * 96], x[5 * 96], y[20];
    for (int i = 0; i < 4 * 96; i++) w[i] = -1e-30f;
    for (int i = 0; i < 5 * 96; i++) x[i] = 1e-30f;
    for (int n = 32; n <= 96; n++) {
        int good = 0;
        k->matmul(y, 4, w, 96, 4, x, 96, 5, n);
        for (int i = 0; i < 20; i++) good += y[i] == 0 && signbit(y[i]);
        CHECK_MSG(good == 20, "%s: %d of 20 sums of %d are -0", k->name, good, n);
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

/* ---------------------------------------------------------------- matvec, from the file's rows */

enum { TAME, WILD, BROKEN }; /* scales below 2; any finite; now and then an infinity or a NaN */

static uint16_t random_half(int mode)
{
    static const uint16_t ends[] = {0,      0x8000, 1,      0x8001, 0x03ff, 0x8400, 0x7bff, 0xfbff,
                                    0x3c00, 0,      0x7c00, 0xfc00, 0x7e00, 0x7c01, 0xfe55};
    if (mode == BROKEN && rng_int(&rng, 0, 63) == 0) return ends[rng_int(&rng, 10, 14)];
    if (mode != TAME && rng_u64(&rng) & 1) return ends[rng_int(&rng, 0, 9)];
    return (uint16_t)(rng_u64(&rng) & 0xbfff);
}

/* Where the scale and the minimum of a block stand; -1: the type has none. */
static void scales_at(int type, int at[2])
{
    at[0] = type == T_Q2_K ? 80 : type == T_Q3_K ? 108 : type == T_Q6_K ? 208 : 0;
    at[1] = type == T_Q2_K ? 82 : -1;
    if (type == T_Q4_1 || type == T_Q5_1 || type == T_Q4_K || type == T_Q5_K) at[1] = 2;
}

/* n values of any type. */
static void random_row(uint8_t *raw, int type, size_t n, int mode)
{
    const TensorType *tt = tensor_type(type);
    size_t blocks = n / (size_t)tt->block;
    int at[2];
    scales_at(type, at);
    for (size_t i = 0; i < blocks * (size_t)tt->bytes; i++) raw[i] = (uint8_t)rng_u64(&rng);
    for (size_t b = 0; b < blocks; b++, raw += tt->bytes) {
        float f = rng_float(&rng) * (mode == TAME ? 1 : ldexpf(1, rng_int(&rng, -140, 100)));
        uint32_t u;
        if (mode == BROKEN && rng_int(&rng, 0, 999) == 0) f = rng_u64(&rng) & 1 ? INFINITY : NAN;
        memcpy(&u, &f, 4);
        uint16_t top = (uint16_t)(u >> 16), half = random_half(mode);
        if (type == T_F32) memcpy(raw, &u, 4);
        if (type == T_BF16) memcpy(raw, &top, 2);
        if (type != T_F32 && type != T_BF16) memcpy(raw + at[0], &half, 2);
        half = random_half(mode);
        if (at[1] >= 0) memcpy(raw + at[1], &half, 2);
    }
}

/* One row as floats, by the plain code: Q32 and its formula, or the number formats. */
static void row_literal(float *out, int type, const uint8_t *row, int n)
{
    const TensorType *tt = tensor_type(type);
    Q32 *q = xcalloc((size_t)n / QB + 1, sizeof *q);
    if (tt->unpack) tt->unpack(q, row, n / QB);
    for (int i = 0; i < n; i++) {
        const Q32 *b = &q[i / QB];
        uint16_t h;
        uint32_t u;
        memcpy(&h, row + (type == T_F32 ? 0 : 2 * i * !tt->unpack), 2);
        u = (uint32_t)h << 16;
        if (type == T_F32)
            memcpy(&out[i], row + 4 * i, 4);
        else if (type == T_F16)
            out[i] = (float)ref_f16(h);
        else if (type == T_BF16)
            memcpy(&out[i], &u, 4);
        else
            out[i] = b->d * (float)b->sc[i % QB / 16] * (float)b->q[i % QB] +
                     b->dm * (float)b->mn[i % QB / 16];
    }
    free(q);
}

static void matvec_case(const Kernels *k, int type, int n, int rows, int mode)
{
    const TensorType *tt = tensor_type(type);
    size_t row_bytes = (size_t)(n / tt->block * tt->bytes);
    size_t unit = tt->unpack ? 1 : (size_t)tt->bytes; /* of alignment */
    Edge w = edge_new((size_t)rows * row_bytes, unit * (size_t)rng_int(&rng, 0, 1));
    Edge x = edge_rows(1, 0, n);
    Room y = room_new((size_t)rows), want = room_new((size_t)rows), row = room_new((size_t)n);
    fill(edge_floats(&x), (size_t)n);
    for (int i = 0; mode != TAME && i < n; i += 7) edge_floats(&x)[i] *= i & 1 ? 1e-38f : 0;
    for (int r = 0; r < rows; r++) {
        random_row(w.v + (size_t)r * row_bytes, type, (size_t)n, mode);
        row_literal(row.v, type, w.v + (size_t)r * row_bytes, n);
        want.v[r] = literal_dot(row.v, edge_floats(&x), n);
    }
    k->matvec[type](y.v, w.v, rows, edge_floats(&x), n);
    check_same(&y, &want, k->name, tt->name, n, rows);
    room_check(&y, "matvec");
    edge_free(&w);
    edge_free(&x);
    free(want.mem);
    free(row.mem);
}

/* What quantize makes of odd activations: nothing, the ends of the range, or NaN. */
static void odd_q8(Q8 *x, int mode)
{
    static const float ends[] = {3.4e38f / 127, 1e-30f / 127, 1e36f, 1e-32f};
    int pick = rng_int(&rng, 0, 29);
    if (mode == TAME) return;
    if (pick < 4) x->d = ends[pick];
    if (pick == 4) *x = (Q8){.d = 0};
    if (mode == BROKEN && pick == 5 && rng_int(&rng, 0, 31) == 0) *x = (Q8){.d = NAN};
}

static void qmatvec_case(const Kernels *k, int type, int nb, int rows, int mode)
{
    const TensorType *tt = tensor_type(type);
    size_t row_bytes = (size_t)(nb * QB / tt->block * tt->bytes);
    Edge w = edge_new((size_t)rows * row_bytes, (size_t)rng_int(&rng, 0, 1));
    Edge xe = edge_new((size_t)nb * sizeof(Q8), 0);
    Q8 *x = (Q8 *)(void *)xe.v;
    Q32 *row = xcalloc((size_t)nb, sizeof *row);
    Room y = room_new((size_t)rows), want = room_new((size_t)rows);
    for (int b = 0; b < nb; b++) {
        random_q8(x + b, b % 5 == 4);
        odd_q8(x + b, mode);
    }
    random_row(w.v, type, (size_t)rows * (size_t)nb * QB, mode);
    for (int r = 0; r < rows; r++) {
        if (r == 2) memset(w.v + 2 * row_bytes + row_bytes / 2, 0x80, row_bytes / 4); /* -128 */
        if (r == 3) memset(w.v + 3 * row_bytes + row_bytes / 2, 0x77, row_bytes / 4);
        tt->unpack(row, w.v + (size_t)r * row_bytes, nb);
        want.v[r] = literal_qdot(row, x, nb);
    }
    k->qmatvec[type](y.v, w.v, rows, x, nb);
    check_same(&y, &want, k->name, tt->name, nb, rows);
    room_check(&y, "qmatvec");
    edge_free(&w);
    edge_free(&xe);
    free(want.mem);
    free(row);
}

/* Every type that an instance takes from the file's rows, by number of rows and of blocks, and the
 * float types by n, which need not be a multiple of anything. */
static void test_matvec(const Kernels *k)
{
    static const int rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64};
    static const int blocks[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 127, 128, 129, 172, 300};
    enum { N_ROWS = sizeof rows / sizeof *rows, N_BLOCKS = sizeof blocks / sizeof *blocks };
    for (int type = 0; type < T_N_TYPES; type++)
        for (int i = 0; tensor_type(type) && i < N_ROWS * N_BLOCKS; i++) {
            int group = (tensor_type(type)->block + QB - 1) / QB;
            int r = rows[i % N_ROWS], nb = (blocks[i / N_ROWS] + group - 1) / group * group;
            if (r * nb > 6000) continue;
            if (k->matvec[type]) matvec_case(k, type, nb * QB, r, i % 3);
            if (k->qmatvec[type]) qmatvec_case(k, type, nb, r, i % 3);
        }
    for (int type = 0; type < T_N_TYPES; type++)
        for (int i = 1; tensor_type(type) && tensor_type(type)->block == 1 && i < 160; i++) {
            if (!k->matvec[type]) continue;
            matvec_case(k, type, i, 1 + i % 19, i % 2);
            matvec_case(k, type, 32 * i + 1 + i % 31, 1 + i % 3, TAME);
        }
}

/* As for matmul: the lanes of the last n % 32 elements that are not there keep their -0. */
static void test_matvec_minus_zero(const Kernels *k)
{
    static const int types[] = {T_F32, T_F16, T_BF16};
    for (int t = 0; t < 3; t++)
        for (int n = 32; k->matvec[types[t]] && n <= 96; n++) {
            float x[96], tiny = -0x1p-24f, y[3];
            uint8_t w[3 * 96 * 4], bits[4];
            int size = tensor_type(types[t])->bytes, good = 0;
            memcpy(bits, &tiny, 4);
            memcpy(bits, types[t] == T_F16 ? (const uint8_t[]){1, 0x80} : bits + 4 - size, 2);
            if (types[t] == T_F32) memcpy(bits, &tiny, 4);
            for (int i = 0; i < n; i++) x[i] = 0x1p-130f;
            for (int i = 0; i < 3 * n; i++) memcpy(w + i * size, bits, (size_t)size);
            k->matvec[types[t]](y, w, 3, x, n);
            for (int i = 0; i < 3; i++) good += y[i] == 0 && signbit(y[i]);
            CHECK_MSG(good == 3, "%s: %d of 3 sums of %d are -0, type %d", k->name, good, n, t);
        }
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

/* Nearest half, ties to even, by way of the double that counts units of its last place. */
static uint16_t pack_literal(float f)
{
    uint32_t u;
    int e;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    if (isnan(f)) return (uint16_t)(sign | 0x7e00 | (u >> 13 & 0x3ff)); /* quiet, payload cut */
    double a = fabs((double)f);
    if (a >= 65520) return sign | 0x7c00;
    frexp(a, &e); /* a < 2^e */
    e = e < -13 ? -13 : e;
    return (uint16_t)(sign | ((e + 13) * 1024 + (int)rint(ldexp(a, 11 - e))));
}

static void pack_case(const Kernels *k, const float *in, int n, const char *what)
{
    uint16_t *out = xcalloc((size_t)n + 1, sizeof *out);
    out[n] = 0x5a5a;
    k->pack_f16(out, in, n);
    int i = 0;
    while (i < n && out[i] == pack_literal(in[i])) i++;
    CHECK_MSG(i == n, "%s, %s: half of %a is %04x", k->name, what, (double)in[i % n], out[i]);
    CHECK_MSG(out[n] == 0x5a5a, "%s: pack_f16 wrote past %d", k->name, n);
    free(out);
}

/* Every half comes back (a signalling NaN quiet); the middle between each two, and its neighbours,
 * of both signs; any float; every length, up to where the memory ends. */
static void test_pack_f16(const Kernels *k)
{
    static uint16_t half[65536], back[65536];
    static float f[65536], mid[6 * 0x7c00];
    long bad = 0;
    for (int i = 0; i < 65536; i++) half[i] = (uint16_t)i;
    k->unpack_f16(f, half, 65536);
    k->pack_f16(back, f, 65536);
    for (int i = 0; i < 65536; i++) bad += back[i] != (i | (isnan(f[i]) ? 0x200 : 0));
    CHECK_MSG(bad == 0, "%s: %ld of 65536 halves do not come back", k->name, bad);
    for (int i = 0; i < 0x7c00; i++) {
        float above = i + 1 < 0x7c00 ? f[i + 1] : 65536, m = f[i] + (above - f[i]) / 2;
        const float near[3] = {m, nextafterf(m, 0), nextafterf(m, INFINITY)};
        for (int j = 0; j < 6; j++) mid[6 * i + j] = j < 3 ? near[j] : -near[j - 3];
    }
    pack_case(k, mid, 6 * 0x7c00, "halfway");
    for (int i = 0; i < 65536; i++) {
        uint32_t u = (uint32_t)rng_u64(&rng);
        memcpy(&f[i], &u, 4);
        mid[i] = ldexpf(rng_float(&rng), rng_int(&rng, -30, 18));
    }
    pack_case(k, f, 65536, "any float");
    pack_case(k, mid, 65536, "random");
    for (int n = 1; n <= 100; n++) {
        Edge e = edge_rows(1, 0, n);
        fill(edge_floats(&e), (size_t)n);
        pack_case(k, edge_floats(&e), n, "length");
        edge_free(&e);
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

/* How many keys row i sums. */
static int keys_of(int n_t, int step, int i)
{
    int n = n_t + i * step;
    return n < 0 ? 0 : n > SUM_SEG ? SUM_SEG : n;
}

static float literal_weighted(const float *a, const float *v, size_t vs, int keys, int c)
{
    float part = 0;
    double sum = 0, abs = 0;
    for (int t = 0; t < keys; t++) {
        double p = (double)a[t] * (double)v[(size_t)t * vs + (size_t)c];
        part = fmaf(a[t], v[(size_t)t * vs + (size_t)c], part);
        sum += p;
        abs += fabs(p);
    }
    /* a product passes through at most `keys` roundings */
    if (!(fabs((double)part - sum) <= keys * U * abs))
        CHECK_MSG(0, "weighted sum of %d: %g is not %g", keys, (double)part, sum);
    return part;
}

/* Weights behind a row's last key are NaN, and so are the gaps: nobody may look at them. */
static void weighted_case(const Kernels *k, int rows, int n_t, int step, int n, int add)
{
    size_t vs = (size_t)n + 3, os = (size_t)n + 2, as = SUM_SEG + 5;
    int most = keys_of(n_t, step, step > 0 ? rows - 1 : 0);
    Edge ve = edge_rows(most ? most : 1, vs, n);
    float *v = edge_floats(&ve);
    Room a = room_new((size_t)rows * as);
    Room out = room_new((size_t)rows * os), want = room_new((size_t)rows * os);
    for (int t = 0; t < most; t++) fill(v + (size_t)t * vs, (size_t)n);
    for (int i = 0; i < rows; i++) {
        int keys = keys_of(n_t, step, i);
        float *ai = a.v + (size_t)i * as, *to = out.v + (size_t)i * os;
        fill(ai, (size_t)keys);
        if (add || !keys) fill(to, (size_t)n); /* a row without keys is left alone */
        for (int c = 0; c < n; c++) {
            float sum = keys ? literal_weighted(ai, v, vs, keys, c) : 0;
            want.v[(size_t)i * os + (size_t)c] = !keys ? to[c] : add ? to[c] + sum : sum;
        }
    }
    k->weighted_sum(out.v, os, a.v, as, rows, v, vs, n_t, step, n, add);
    check_same(&out, &want, k->name, "weighted_sum", n, rows * 1000 + n_t);
    room_check(&out, "weighted_sum");
    edge_free(&ve);
    free(a.mem);
    free(want.mem);
}

/* Queries in a row (step 1), from before the segment to past its end, and heads of one group
 * (step 0); every remainder of every vector width. */
static void test_weighted_sum(const Kernels *k)
{
    static const int keys[] = {-20, -3, -1, 0, 1, 2, 31, 200, 250, 255, 256, 257, 600};
    static const int widths[] = {64, 80, 128, 96, 17, 256};
    static const int rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 16, 17};
    for (int n = 0; n <= 100; n++) weighted_case(k, 1 + n % 7, 1 + n % 5, n & 1, n, n % 3 == 0);
    for (int i = 0; i < 13; i++)
        for (int j = 0; j < 6; j++)
            for (int r = 0; r < 10; r++)
                weighted_case(k, rows[r], keys[i], (i + j + r) % 3 > 0, widths[j], (i + r) % 2);
}

/* ---------------------------------------------------------------- sums over tokens, for probes */

/* n doubles that end where the memory ends, with canaries before them. */
typedef struct {
    Edge edge;
    double *v;
    size_t n;
} Sums;

static Sums sums_new(size_t n)
{
    Sums s = {.edge = edge_new((n + GUARD) * sizeof(double), 0), .n = n};
    s.v = (double *)(void *)s.edge.v + GUARD;
    for (int i = 1; i <= GUARD; i++) s.v[-i] = 12345.0 + i;
    return s;
}

static Sums sums_random(size_t n)
{
    Sums s = sums_new(n);
    for (size_t i = 0; i < n; i++) s.v[i] = (double)rng_float(&rng) * (i % 3 ? 1 : 1e3);
    return s;
}

static Sums sums_copy(const Sums *from)
{
    Sums s = sums_new(from->n);
    if (from->n) memcpy(s.v, from->v, from->n * sizeof *s.v);
    return s;
}

/* Equal bits (two NaNs are equal); frees both. */
static void sums_check(Sums *got, Sums *want, const char *isa, const char *what, int n, int toks)
{
    size_t i = 0;
    int whole = 1;
    while (i < got->n && (!memcmp(got->v + i, want->v + i, sizeof(double)) ||
                          (isnan(got->v[i]) && isnan(want->v[i]))))
        i++;
    if (i < got->n)
        CHECK_MSG(0, "%s of %s, n %d, %d tokens: [%zu] is %a, expected %a", what, isa, n, toks, i,
                  got->v[i], want->v[i]);
    for (int g = 1; g <= GUARD; g++) whole &= got->v[-g] == 12345.0 + g;
    CHECK_MSG(whole, "%s of %s, n %d: wrote before its sums", what, isa, n);
    edge_free(&got->edge);
    edge_free(&want->edge);
}

/* Tokens of n values whose gaps are NaN; now and then a value that is no ordinary one. */
static Edge token_rows(int toks, size_t stride, int n)
{
    static const float odd[] = {0, -0.0f, 1e-45f, -3e38f, 3e38f, 1e-20f, NAN, INFINITY, -INFINITY};
    Edge e = edge_rows(toks ? toks : 1, stride, n);
    float *x = edge_floats(&e);
    int wild = n && rng_int(&rng, 0, 2) == 0 ? rng_int(&rng, 0, 8) : -1;
    for (int t = 0; t < toks; t++) {
        fill(x + (size_t)t * stride, (size_t)n);
        if (n && rng_u64(&rng) & 1) x[(size_t)t * stride + (size_t)rng_int(&rng, 0, n - 1)] = -0.0f;
    }
    if (toks && wild >= 0)
        x[(size_t)rng_int(&rng, 0, toks - 1) * stride + (size_t)rng_int(&rng, 0, n - 1)] =
            odd[wild];
    return e;
}

static void moments_case(const Kernels *k, int D, int toks)
{
    size_t xs = (size_t)D + 3;
    Edge e = token_rows(toks, xs, D);
    const float *x = edge_floats(&e);
    Sums got = sums_random((size_t)D * ((size_t)D + 1) / 2), want = sums_copy(&got);
    for (int t = 0; t < toks; t++) {
        double *m = want.v;
        for (int i = 0; i < D; i++)
            for (int c = i; c < D; c++)
                *m++ +=
                    (double)x[(size_t)t * xs + (size_t)i] * (double)x[(size_t)t * xs + (size_t)c];
    }
    k->add_moments(got.v, x, xs, toks, D);
    sums_check(&got, &want, k->name, "add_moments", D, toks);
    edge_free(&e);
}

/* wanted: a bit for each member of ValueSums. */
static void values_case(const Kernels *k, int n, int toks, unsigned wanted)
{
    size_t xs = (size_t)n + 5;
    Edge e = token_rows(toks, xs, n);
    const float *x = edge_floats(&e);
    Sums got[3], want[3];
    Room most = room_new((size_t)n), most_want = room_new((size_t)n);
    for (int i = 0; i < 3; i++) got[i] = sums_random((size_t)n), want[i] = sums_copy(&got[i]);
    for (int c = 0; c < n; c++) most.v[c] = most_want.v[c] = c % 2 ? 0 : 3;
    for (int t = 0; t < toks; t++)
        for (int c = 0; c < n; c++) {
            float v = x[(size_t)t * xs + (size_t)c];
            if (wanted & 1) want[0].v[c] += (double)v;
            if (wanted & 2) want[1].v[c] += fabs((double)v);
            if (wanted & 4) want[2].v[c] += (double)v * (double)v;
            if (wanted & 8 && fabsf(v) > most_want.v[c]) most_want.v[c] = fabsf(v);
        }
    ValueSums s = {wanted & 1 ? got[0].v : NULL, wanted & 2 ? got[1].v : NULL,
                   wanted & 4 ? got[2].v : NULL, wanted & 8 ? most.v : NULL};
    k->add_values(&s, x, xs, toks, n);
    for (int i = 0; i < 3; i++) sums_check(&got[i], &want[i], k->name, "add_values", n, toks);
    check_same(&most, &most_want, k->name, "add_values, most", n, toks);
    room_check(&most, "add_values");
    free(most_want.mem);
    edge_free(&e);
}

static void radii_case(const Kernels *k, int pairs, int toks)
{
    size_t xs = 2 * (size_t)pairs + 7;
    Edge e = token_rows(toks, xs, 2 * pairs);
    const float *x = edge_floats(&e);
    Sums sum = sums_random((size_t)pairs), most = sums_random((size_t)pairs);
    Sums sum_want = sums_copy(&sum), most_want = sums_copy(&most);
    for (int t = 0; t < toks; t++)
        for (int j = 0; j < pairs; j++) {
            const float *v = x + (size_t)t * xs;
            double a = (double)v[2 * j], b = (double)v[2 * j + 1], r = sqrt(a * a + b * b);
            sum_want.v[j] += r;
            if (r > most_want.v[j]) most_want.v[j] = r;
        }
    RadiusSums s = {sum.v, most.v, pairs};
    k->add_radii(&s, x, xs, toks);
    sums_check(&sum, &sum_want, k->name, "add_radii", pairs, toks);
    sums_check(&most, &most_want, k->name, "add_radii, most", pairs, toks);
    edge_free(&e);
}

/* Three pieces, as the thirds of a row are added, of n in all. */
static void row_case(const Kernels *k, int n, int t0)
{
    Edge ae = token_rows(1, (size_t)n, n), ze = token_rows(1, (size_t)n, n);
    float *a = edge_floats(&ae), *z = edge_floats(&ze);
    RowSums got, want;
    memset(&got, 0, sizeof got);
    for (int i = 0; i < PARTS; i++) got.score[i] = (double)rng_float(&rng), got.top[i] = -INFINITY;
    want = got;
    for (int from = 0, to, p = 1; p <= 3; from = to, p++) {
        to = n * p / 3;
        k->add_row(&got, a + from, z + from, t0 + from, to - from);
        for (int i = from; i < to; i++) {
            int part = (i - from) % PARTS;
            want.score[part] += (double)a[i] * (double)z[i];
            want.position[part] += (double)a[i] * (t0 + i);
            want.weight[part] += (double)a[i];
            if (a[i] > want.max[part]) want.max[part] = a[i];
            if (z[i] > want.top[part]) want.top[part] = z[i];
        }
    }
    const double *sums[][2] = {
        {got.score, want.score}, {got.position, want.position}, {got.weight, want.weight}};
    int good = same_bits(got.max, want.max, PARTS) && same_bits(got.top, want.top, PARTS);
    for (int s = 0; s < 3; s++)
        for (int i = 0; i < PARTS; i++)
            good &= !memcmp(sums[s][0] + i, sums[s][1] + i, sizeof(double)) ||
                    (isnan(sums[s][0][i]) && isnan(sums[s][1][i]));
    CHECK_MSG(good, "add_row of %s, %d keys from %d", k->name, n, t0);
    edge_free(&ae);
    edge_free(&ze);
}

static void test_token_sums(const Kernels *k)
{
    static const int widths[] = {0,  1,  2,  3,  4,  5,   7,   8,   9,   12,  15,
                                 16, 17, 20, 64, 80, 100, 128, 256, 257, 300, 2060};
    static const int toks[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 32, 33, 70};
    for (int i = 0; i < (int)(sizeof widths / sizeof *widths); i++)
        for (int t = 0; t < (int)(sizeof toks / sizeof *toks); t++) {
            int n = widths[i], few = n > 64 && t % 5 != i % 5;
            if (!few && (n < 300 || toks[t] < 5)) moments_case(k, n, toks[t]);
            for (unsigned w = 0; w<16; w += n> 64 ? 5 : 1) values_case(k, n, toks[t], w);
            radii_case(k, n / 2, toks[t]);
        }
    for (int n = 0; n <= 120; n++)
        for (int t = 0; t < 9; t += 4) row_case(k, n, t);
}

/* ---------------------------------------------------------------- exp, softmax, activations */

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

static double act_exact(int act, double x)
{
    double tanh_of = 2 / sqrt(M_PI) * M_SQRT1_2 * (x + 0.044715 * x * x * x);
    if (act == ACT_SILU) return x / (1 + exp(-x));
    return act == ACT_GELU ? x * erfc(-x * M_SQRT1_2) / 2 : x / (1 + exp(-2 * tanh_of));
}

/* How far act(x) may be from exact.
 * - Of exp 2.1 units (1.02 ulp), then sum, quotient and product: under 6.
 * - GELU: the exponent's rounding (3 units of its size, at most 4 where x > 0 counts: exp(-u) is
 *   small beyond) adds at most 2 there; below 0 the fit's error, 6.3e-8, says it all.
 * - By tanh: 3 units of an exponent u, times u: the share of the result that it moves; beyond an
 *   exponent of 88.7, where exp is infinite in float, the result is 0 instead of under 1e-37. */
static double act_tolerance(int act, double x, double exact)
{
    double u = 2 / sqrt(M_PI) * M_SQRT2 * (fabs(x) + 0.044715 * fabs(x * x * x));
    double units = 6 * U * fabs(exact) + 1e-44;
    if (act == ACT_SILU) return units;
    if (act == ACT_GELU) return x < 0 ? 6.3e-8 : units;
    return units + (x < 0 ? 3 * U * u * fabs(exact) + 1e-37 : 0);
}

/* y = act(g) * up for the table's instance and in double; without up, act(g) in place. */
static void act_case(const Kernels *k, int act, const float *g, int n, int gated)
{
    Room y = room_new((size_t)n), want = room_new((size_t)n);
    for (int i = 0; i < n; i++) {
        float up = gated ? rng_float(&rng) : 1;
        y.v[i] = gated ? up : g[i];
        want.v[i] = y.v[i];
        kernels_base.activate(act, &want.v[i], gated ? &g[i] : NULL, 1);
        double x = (double)g[i], exact = act_exact(act, x);
        double tolerance = act_tolerance(act, x, exact) * fabs((double)up);
        if (fabs(x) < 80 && !(fabs((double)want.v[i] - exact * (double)up) <= tolerance))
            CHECK_MSG(0, "activation %d (%g) * %g is %g", act, x, (double)up, (double)want.v[i]);
    }
    k->activate(act, y.v, gated ? g : NULL, n);
    check_same(&y, &want, k->name, "activate", n, act);
    room_check(&y, "activate");
    free(want.mem);
}

static void acts_case(const Kernels *k, const float *g, int n)
{
    for (int act = ACT_SILU; act <= ACT_GELU; act++)
        for (int gated = 0; gated <= 1; gated++) act_case(k, act, g, n, gated);
}

static void test_activations(const Kernels *k)
{
    static const float ends[] = {0,    -0.0f, 88,    -88,    89,     -89,      103,       -103,
                                 1e9f, -1e9f, 1e38f, -1e38f, 1e-40f, INFINITY, -INFINITY, NAN};
    static float mem[1537], *g = mem + 1;
    for (int i = 0; i < N_SIZES; i++) {
        fill(g, 1536);
        acts_case(k, g, size_at(i));
    }
    acts_case(k, ends, 16);
    for (int i = 0; i < 1536; i++) g[i] = rng_float(&rng) * 110;
    acts_case(k, g, 1536);
    for (int i = 0; i < 1536; i++) g[i] = rng_float(&rng) * 8;
    acts_case(k, g, 1536);
}

/* ---------------------------------------------------------------- all of it */

static void test_instance(const Kernels *k)
{
    test_matmul(k);
    test_matmul_blocks(k);
    test_matmul_minus_zero(k);
    test_matmul_extremes(k);
    matmul_near_double(k);
    test_qmatmul(k);
    test_qmatmul_nan(k);
    test_matvec(k);
    test_matvec_minus_zero(k);
    test_quantize(k);
    test_unpack_f16(k);
    test_unpack_bf16(k);
    test_unpack_tails(k);
    test_pack_f16(k);
    test_unpack_q32(k);
    test_unpack_types(k);
    test_golden_blocks(k);
    test_weighted_sum(k);
    test_token_sums(k);
    test_softmax(k);
    test_activations(k);
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
