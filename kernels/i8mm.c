/* Products of matrices of integers for ARM with SMMLA (ARMv8.6: Neoverse V1 and N2, Cortex-A710,
 * Apple M2 and later); everything else is taken from SDOT, as are rows and tokens left over. The
 * scalar twin, and what it computes, is qmatmul_base in run.c.
 *
 * SMMLA multiplies 2 rows of 8 bytes by 2 tokens of 8 bytes: a tile of four sums, in the lanes
 * row 0 token 0, row 0 token 1, row 1 token 0, row 1 token 1. Scales and float sums are such tiles
 * too. Pairs of rows are laid out so once for all tokens, pairs of tokens once for 8 rows. */
#include "../model.h"

#if defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#define FORCE static inline __attribute__((always_inline))
#define PAIRS 4  /* of rows */
#define CHUNK 32 /* blocks of them laid out at a time: 21 KB of stack */

extern const Kernels kernels_dotprod;

static int usable(void)
{
#if defined(__linux__)
    return kernels_dotprod.usable() && getauxval(AT_HWCAP2) >> 13 & 1; /* HWCAP2_I8MM */
#elif defined(__APPLE__)
    int has = 0;
    size_t n = sizeof has;
    return kernels_dotprod.usable() &&
           sysctlbyname("hw.optional.arm.FEAT_I8MM", &has, &n, NULL, 0) == 0 && has;
#else
    return 0;
#endif
}

/* One block of a pair of rows: q[k] holds values 8k .. 8k+7 of the one, then of the other. */
typedef struct {
    int8x16_t q[4];
    float32x4_t d, dm;
    int32x4_t sc[2], mn[2]; /* of each half of the block */
} Weights;

typedef struct {
    Weights pair[PAIRS];
    int has_min; /* of any row; to the others 0 is added */
} Wide;

/* One block of a pair of tokens. */
typedef struct {
    int8x16_t q[4];
    float32x4_t d;
    int32x4_t sum[2];
} Inputs;

/* Values of a and b, 8 by 8. */
static inline void interleave(int8x16_t q[4], const int8_t *a, const int8_t *b)
{
    for (int h = 0; h < 2; h++) {
        int64x2_t u = vreinterpretq_s64_s8(vld1q_s8(a + 16 * h));
        int64x2_t v = vreinterpretq_s64_s8(vld1q_s8(b + 16 * h));
        q[2 * h] = vreinterpretq_s8_s64(vzip1q_s64(u, v));
        q[2 * h + 1] = vreinterpretq_s8_s64(vzip2q_s64(u, v));
    }
}

static inline void lay_out(Weights *o, const Q32 *a, const Q32 *b)
{
    interleave(o->q, a->q, b->q);
    o->d = vcombine_f32(vdup_n_f32(a->d), vdup_n_f32(b->d));
    o->dm = vcombine_f32(vdup_n_f32(a->dm), vdup_n_f32(b->dm));
    for (int g = 0; g < 2; g++) {
        o->sc[g] = vcombine_s32(vdup_n_s32(a->sc[g]), vdup_n_s32(b->sc[g]));
        o->mn[g] = vcombine_s32(vdup_n_s32(a->mn[g]), vdup_n_s32(b->mn[g]));
    }
}

/* Are all scales of the block 1? */
static inline int unscaled(const Q32 *w)
{
    return w->sc[0] == 1 && w->sc[1] == 1 && w->mn[0] == 1 && w->mn[1] == 1;
}

/* One block of 8 rows that are nb blocks apart. Returns 1 if all scales are 1, and there are no
 * minima. */
static int widen(Wide *o, const Q32 *w, int nb)
{
    int plain = 1;
    o->has_min = 0;
    for (int p = 0; p < PAIRS; p++, w += 2 * (size_t)nb) {
        const Q32 *b = w + nb;
        lay_out(&o->pair[p], w, b);
        plain &= unscaled(w) && unscaled(b);
        o->has_min |= w->dm != 0 || b->dm != 0;
    }
    return plain && !o->has_min;
}

static inline Inputs pair_up(const Q8 *a, const Q8 *b)
{
    Inputs o;
    float32x2_t d = {a->d, b->d};
    interleave(o.q, a->q, b->q);
    o.d = vcombine_f32(d, d);
    for (int g = 0; g < 2; g++) {
        int32x2_t sum = {a->sum[g], b->sum[g]};
        o.sum[g] = vcombine_s32(sum, sum);
    }
    return o;
}

/* acc + one block of a pair of rows times a pair of tokens. */
FORCE float32x4_t tile(int plain, float32x4_t acc, const Weights *w, const Inputs *x, int has_min)
{
    int32x4_t zero = vdupq_n_s32(0), sum = zero, half = zero;
    sum = vmmlaq_s32(vmmlaq_s32(sum, w->q[0], x->q[0]), w->q[1], x->q[1]);
    half = vmmlaq_s32(vmmlaq_s32(plain ? sum : half, w->q[2], x->q[2]), w->q[3], x->q[3]);
    if (plain) return vfmaq_f32(acc, vcvtq_f32_s32(half), vmulq_f32(w->d, x->d));
    sum = vmlaq_s32(vmulq_s32(w->sc[0], sum), w->sc[1], half);
    acc = vfmaq_f32(acc, vcvtq_f32_s32(sum), vmulq_f32(w->d, x->d));
    if (!has_min) return acc;
    sum = vmlaq_s32(vmulq_s32(w->mn[0], x->sum[0]), w->mn[1], x->sum[1]);
    return vfmaq_f32(acc, vcvtq_f32_s32(sum), vmulq_f32(w->dm, x->d));
}

static inline float32x4_t tile_load(const float *y, size_t ys)
{
    float32x2_t a = vld1_f32(y), b = vld1_f32(y + ys);
    return vcombine_f32(vzip1_f32(a, b), vzip2_f32(a, b));
}

static inline void tile_store(float *y, size_t ys, float32x4_t v)
{
    vst1_f32(y, vzip1_f32(vget_low_f32(v), vget_high_f32(v)));
    vst1_f32(y + ys, vzip2_f32(vget_low_f32(v), vget_high_f32(v)));
}

/* 8 rows times 4 tokens times n blocks, added to y (first: to nothing); plain: all scales are 1,
 * there are no minima. */
FORCE void tiles(int plain, float *y, size_t ys, const Wide *w, const Q8 *x, size_t xs, int n,
                 int first)
{
    float32x4_t acc[PAIRS][2];
    for (int p = 0; p < PAIRS; p++)
        for (int i = 0; i < 2; i++)
            acc[p][i] =
                first ? vdupq_n_f32(0) : tile_load(y + (size_t)(2 * i) * ys + (size_t)(2 * p), ys);
    for (int b = 0; b < n; b++, x++, w++) {
        Inputs in[2] = {pair_up(x, x + xs), pair_up(x + 2 * xs, x + 3 * xs)};
        for (int p = 0; p < PAIRS; p++)
            for (int i = 0; i < 2; i++)
                acc[p][i] = tile(plain, acc[p][i], &w->pair[p], &in[i], w->has_min);
    }
    for (int p = 0; p < PAIRS; p++)
        for (int i = 0; i < 2; i++)
            tile_store(y + (size_t)(2 * i) * ys + (size_t)(2 * p), ys, acc[p][i]);
}

/* 8 rows times toks tokens, a multiple of 4. */
static void strip(float *y, size_t ys, const Q32 *w, const Q8 *x, size_t xs, int toks, int nb)
{
    Wide wide[CHUNK];
    for (int b0 = 0; b0 < nb; b0 += CHUNK) {
        int n = nb - b0 < CHUNK ? nb - b0 : CHUNK, plain = 1;
        for (int b = 0; b < n; b++) plain &= widen(&wide[b], w + b0 + b, nb);
        for (int i = 0; i < toks; i += 4) {
            float *yi = y + (size_t)i * ys;
            const Q8 *xi = x + (size_t)i * xs + b0;
            if (plain)
                tiles(1, yi, ys, wide, xi, xs, n, b0 == 0);
            else
                tiles(0, yi, ys, wide, xi, xs, n, b0 == 0);
        }
    }
}

static void qmatmul(float *y, size_t ys, const Q32 *w, int rows, const Q8 *x, size_t xs, int toks,
                    int nb)
{
    int r = 0, whole = nb ? toks / 4 * 4 : 0;
    for (; whole && r + 2 * PAIRS <= rows; r += 2 * PAIRS)
        strip(y + r, ys, w + (size_t)r * (size_t)nb, x, xs, whole, nb);
    kernels_dotprod.qmatmul(y + r, ys, w + (size_t)r * (size_t)nb, rows - r, x, xs, whole, nb);
    kernels_dotprod.qmatmul(y + (size_t)whole * ys, ys, w, rows, x + (size_t)whole * xs, xs,
                            toks - whole, nb);
}

static double peak_int8(int rounds)
{
    volatile int sink;
    int32x4_t a[16];
    int8x16_t b = vdupq_n_s8((int8_t)rounds);
    for (int i = 0; i < 16; i++) a[i] = vdupq_n_s32(0);
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < 16; i++) a[i] = vmmlaq_s32(a[i], b, b);
    for (int i = 0; i < 16; i++) sink = vaddvq_s32(a[i]);
    (void)sink;
    return 2.0 * 32 * 16 * rounds;
}

const Kernels kernels_i8mm = {
    .name = "i8mm", .usable = usable, .qmatmul = qmatmul, .peak_int8 = peak_int8};
#endif
