/* Integer products for ARMv8.2 with SDOT (Cortex-A75, Neoverse N1, Apple A13, and later);
 * everything else is taken from NEON. The scalar twin, and what it computes, is qmatmul_base in
 * run.c.
 *
 * Straight from the file's rows: neon_int.h, shared with neon.c, where a vector of 16 products now
 * takes one instruction. For many tokens, weight rows are first turned side by side, so that no
 * sum ever crosses lanes: the indexed SDOT adds four products of each of four rows to its lane. */
#include "../model.h"

#ifdef __ARM_FEATURE_DOTPROD
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

static int usable(void)
{
#if defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    int has = 0;
    size_t n = sizeof has;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &n, NULL, 0) == 0 && has;
#else
    return 0;
#endif
}

/* acc + 16 products, four to a lane. */
static inline int32x4_t dot16(int32x4_t acc, int8x16_t w, int8x16_t x)
{
    return vdotq_s32(acc, w, x);
}

#include "neon_int.h"

#define VECS  2  /* of four rows each */
#define CHUNK 32 /* blocks turned side by side at a time: 15 KB of stack */

/* One block of 8 rows; lane r of vector v is row 4v + r. */
typedef struct {
    int8x16_t q[VECS][8];               /* q[v][k]: values 4k .. 4k+3 of each row */
    int32x4_t sc[VECS][2], mn[VECS][2]; /* of each half of the block */
    float32x4_t d[VECS], dm[VECS];
    int has_min; /* of any row; to the others 0 is added */
} Wide;

/* Block b of 8 rows. Returns 1 if all scales are 1, and there are no minima. */
static inline int widen(Wide *o, const uint8_t *const row[VECS * ROWS], int b)
{
    int scaled = o->has_min = 0;
    for (int v = 0; v < VECS; v++, row += ROWS) {
        Four four;
        load_rest(&four, row, b);
        for (int h = 0; h < 2; h++) {
            uint32x4x4_t q = four_words(row, (size_t)b * sizeof(Q32) + (size_t)(16 * h));
            for (int k = 0; k < 4; k++) o->q[v][4 * h + k] = vreinterpretq_s8_u32(q.val[k]);
            o->sc[v][h] = four.sc[h];
            o->mn[v][h] = four.mn[h];
        }
        o->d[v] = four.d;
        o->dm[v] = four.dm;
        scaled |= four.scales;
        o->has_min |= four.has_min;
    }
    return !scaled && !o->has_min;
}

/* s + 16 products of each of four rows. */
static inline int32x4_t side_by_side(int32x4_t s, const int8x16_t q[4], int8x16_t x)
{
    s = vdotq_laneq_s32(s, q[0], x, 0);
    s = vdotq_laneq_s32(s, q[1], x, 1);
    s = vdotq_laneq_s32(s, q[2], x, 2);
    return vdotq_laneq_s32(s, q[3], x, 3);
}

/* acc + one block of four rows times one token; plain: all scales are 1, there are no minima. */
FORCE float32x4_t wide_times(int plain, float32x4_t acc, const Wide *w, int v, const Q8 *x)
{
    int8x16_t x0 = vld1q_s8(x->q), x1 = vld1q_s8(x->q + 16);
    int32x4_t zero = vdupq_n_s32(0), sum = side_by_side(zero, w->q[v], x0);
    if (plain) {
        sum = side_by_side(sum, w->q[v] + 4, x1);
        return vfmaq_f32(acc, vcvtq_f32_s32(sum), vmulq_n_f32(w->d[v], x->d));
    }
    int32x4_t half = side_by_side(zero, w->q[v] + 4, x1);
    sum = vmlaq_s32(vmulq_s32(w->sc[v][0], sum), w->sc[v][1], half);
    acc = vfmaq_f32(acc, vcvtq_f32_s32(sum), vmulq_n_f32(w->d[v], x->d));
    if (!w->has_min) return acc;
    sum = vmlaq_n_s32(vmulq_n_s32(w->mn[v][0], x->sum[0]), w->mn[v][1], x->sum[1]);
    return vfmaq_f32(acc, vcvtq_f32_s32(sum), vmulq_n_f32(w->dm[v], x->d));
}

/* 8 rows times 4 tokens times n blocks, added to y (first: to nothing). */
FORCE void tokens(int plain, float *y, size_t ys, const Wide *w, const Q8 *x, size_t xs, int n,
                  int first)
{
    float32x4_t acc[TOKS][VECS];
    for (int i = 0; i < TOKS; i++)
        for (int v = 0; v < VECS; v++)
            acc[i][v] = first ? vdupq_n_f32(0) : vld1q_f32(y + (size_t)i * ys + ROWS * v);
    for (int b = 0; b < n; b++)
        for (int i = 0; i < TOKS; i++)
            for (int v = 0; v < VECS; v++)
                acc[i][v] = wide_times(plain, acc[i][v], w + b, v, x + (size_t)i * xs + b);
    for (int i = 0; i < TOKS; i++)
        for (int v = 0; v < VECS; v++) vst1q_f32(y + (size_t)i * ys + ROWS * v, acc[i][v]);
}

/* 8 rows times toks tokens, a multiple of 4. */
static void strip(float *y, size_t ys, const Q32 *w, const Q8 *x, size_t xs, int toks, int nb)
{
    Wide wide[CHUNK];
    const uint8_t *row[VECS * ROWS];
    for (int r = 0; r < VECS * ROWS; r++) row[r] = (const uint8_t *)(w + (size_t)r * (size_t)nb);
    for (int b0 = 0; b0 < nb; b0 += CHUNK) {
        int n = nb - b0 < CHUNK ? nb - b0 : CHUNK, plain = 1;
        for (int b = 0; b < n; b++) plain &= widen(&wide[b], row, b0 + b);
        for (int i = 0; i < toks; i += TOKS) {
            float *yi = y + (size_t)i * ys;
            const Q8 *xi = x + (size_t)i * xs + b0;
            if (plain)
                tokens(1, yi, ys, wide, xi, xs, n, b0 == 0);
            else
                tokens(0, yi, ys, wide, xi, xs, n, b0 == 0);
        }
    }
}

/* What does not fill 8 rows and 4 tokens is taken as it lies. */
static void qmatmul_wide(float *y, size_t ys, const Q32 *w, int rows, const Q8 *x, size_t xs,
                         int toks, int nb)
{
    int r = 0, whole = nb ? toks / TOKS * TOKS : 0;
    for (; whole && r + VECS * ROWS <= rows; r += VECS * ROWS)
        strip(y + r, ys, w + (size_t)r * (size_t)nb, x, xs, whole, nb);
    qmatmul(y + r, ys, w + (size_t)r * (size_t)nb, rows - r, x, xs, whole, nb);
    qmatmul(y + (size_t)whole * ys, ys, w, rows, x + (size_t)whole * xs, xs, toks - whole, nb);
}

const Kernels kernels_dotprod = {.name = "dotprod",
                                 .usable = usable,
                                 .qmatmul = qmatmul_wide,
                                 .qmatvec = QMATVEC,
                                 .peak_int8 = peak_int8};
#endif
