/* The kernel table for 64-bit ARM: Advanced SIMD with FMA, which every such CPU has. The scalar
 * twin of every function, and what it computes, is in run.c, section 2; the bits are the same.
 *
 * The 32 lanes of a canonical sum are eight vectors of 4. Lanes do not meet before the final tree,
 * so a block of outputs may take them 4 at a time. 16 of the 32 registers hold sums: a large core
 * has 8 to 16 multiply-adds under way at once (with 24, GCC 12 spills some). */
#include "../model.h"

#if defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#include <float.h>
#include <math.h>
#include <string.h>

static int usable(void)
{
    return 1;
}

/* acc + 16 products, four to a lane. Two products fit 16 bits: 2 * 128 * 127 < 2^15. */
static inline int32x4_t dot16(int32x4_t acc, int8x16_t w, int8x16_t x)
{
    int16x8_t pairs = vmull_s8(vget_low_s8(w), vget_low_s8(x));
    return vpadalq_s16(acc, vmlal_high_s8(pairs, w, x));
}

#include "neon_int.h"

/* Lanes 16 .. 31 onto 0 .. 15, 8 + 8, 4 + 4, 2 + 2, 1 + 1; lane[step * g] holds 4g .. 4g+3. */
FORCE float tree32(const float32x4_t *lane, int step)
{
    float32x4_t a[4];
    for (int g = 0; g < 4; g++) a[g] = vaddq_f32(lane[step * g], lane[step * (g + 4)]);
    float32x4_t v = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
    return vpadds_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v)));
}

/* The last n < 32 values of each row, filled up to 32. Weights are filled with -0 and inputs with
 * +0: adding their product, -0, changes no sum, whatever it is. */
static void pad(float *out, const float *in, size_t stride, int rows, int n, float with)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < LANES; c++)
            out[r * LANES + c] = c < n ? in[(size_t)r * stride + (size_t)c] : with;
}

#define R_MAX 4 /* rows and tokens of a block: 16 sums in registers */
#define T_MAX 4
#define DEPTH 512 /* columns that pass at a time: 8 rows of them are 16 KB */

/* Four of the 32 lanes of each dot product of a block. */
typedef float32x4_t Tile[R_MAX][T_MAX];

/* R rows times T tokens, both constant after inlining: n columns more, a multiple of 32, for lanes
 * 4g .. 4g+3. */
FORCE void block_lanes(int R, int T, int g, Tile lane, const float *w, size_t ws, const float *x,
                       size_t xs, int n)
{
    Tile acc;
    float32x4_t xv[T_MAX];
    for (int r = 0; r < R; r++)
        for (int i = 0; i < T; i++) acc[r][i] = lane[r][i];
    for (int c = 4 * g; c < n; c += LANES) {
        for (int i = 0; i < T; i++) xv[i] = vld1q_f32(x + (size_t)i * xs + c);
        for (int r = 0; r < R; r++) {
            float32x4_t wv = vld1q_f32(w + (size_t)r * ws + c);
            for (int i = 0; i < T; i++) acc[r][i] = vfmaq_f32(acc[r][i], wv, xv[i]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < T; i++) lane[r][i] = acc[r][i];
}

FORCE void block(int R, int T, float *y, size_t ys, const float *w, size_t ws, const float *x,
                 size_t xs, int n)
{
    Tile lane[8];
    int full = n / LANES * LANES, part;
    for (int g = 0; g < 8; g++)
        for (int r = 0; r < R; r++)
            for (int i = 0; i < T; i++) lane[g][r][i] = vdupq_n_f32(0);
    for (int c = 0; c < full; c += part) {
        part = full - c < DEPTH ? full - c : DEPTH;
        for (int g = 0; g < 8; g++) block_lanes(R, T, g, lane[g], w + c, ws, x + c, xs, part);
    }
    if (full < n) {
        float wt[R_MAX * LANES], xt[T_MAX * LANES];
        pad(wt, w + full, ws, R, n - full, -0.0f);
        pad(xt, x + full, xs, T, n - full, 0);
        for (int g = 0; g < 8; g++) block_lanes(R, T, g, lane[g], wt, LANES, xt, LANES, LANES);
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < T; i++)
            y[(size_t)i * ys + (size_t)r] = tree32(&lane[0][r][i], R_MAX * T_MAX);
}

/* 8 weights as floats. */
FORCE void load8(float32x4_t v[2], const uint8_t *p, int type)
{
    if (type == T_F32) {
        v[0] = vld1q_f32((const float *)(const void *)p);
        v[1] = vld1q_f32((const float *)(const void *)(p + 16));
        return;
    }
    uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p));
    if (type == T_F16) {
        v[0] = vcvt_f32_f16(vget_low_f16(vreinterpretq_f16_u16(h)));
        v[1] = vcvt_high_f32_f16(vreinterpretq_f16_u16(h));
    } else {
        v[0] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16));
        v[1] = vreinterpretq_f32_u32(vshll_high_n_u16(h, 16));
    }
}

/* 32 columns more of R rows times one token, in all 32 lanes. */
FORCE void add32(int R, int type, float32x4_t lane[][8], const uint8_t *w, size_t row_bytes,
                 const float *x)
{
    size_t eight = type == T_F32 ? 32 : 16;
    for (int v = 0; v < 4; v++) {
        float32x4_t x0 = vld1q_f32(x + 8 * v), x1 = vld1q_f32(x + 8 * v + 4), wv[2];
        for (int r = 0; r < R; r++) {
            load8(wv, w + (size_t)r * row_bytes + (size_t)v * eight, type);
            lane[r][2 * v] = vfmaq_f32(lane[r][2 * v], wv[0], x0);
            lane[r][2 * v + 1] = vfmaq_f32(lane[r][2 * v + 1], wv[1], x1);
        }
    }
}

/* The last n < 32 values of a row of any type as floats, filled up. */
static void row_tail(float out[LANES], int type, const uint8_t *row, int n)
{
    float v[LANES];
    const uint16_t *h = (const uint16_t *)(const void *)row;
    if (type == T_F32) memcpy(v, row, (size_t)n * sizeof *v);
    if (type == T_F16) kernels_base.unpack_f16(v, h, n);
    if (type == T_BF16) kernels_base.unpack_bf16(v, h, n);
    pad(out, v, 0, 1, n, -0.0f);
}

FORCE void dots(int R, int type, float *y, const uint8_t *w, size_t row_bytes, const float *x,
                int n)
{
    float32x4_t lane[2][8];
    int c = 0;
    for (int r = 0; r < R; r++)
        for (int g = 0; g < 8; g++) lane[r][g] = vdupq_n_f32(0);
    for (; c + LANES <= n; c += LANES, w += LANES * (type == T_F32 ? 4 : 2))
        add32(R, type, lane, w, row_bytes, x + c);
    if (c < n) {
        float wt[2][LANES], xt[LANES];
        for (int r = 0; r < R; r++) row_tail(wt[r], type, w + (size_t)r * row_bytes, n - c);
        pad(xt, x + c, 0, 1, n - c, 0);
        add32(R, T_F32, lane, (const uint8_t *)wt, sizeof wt[0], xt);
    }
    for (int r = 0; r < R; r++) y[r] = tree32(lane[r], 1);
}

/* All rows times one token, two rows at a time: 16 sums in registers. */
FORCE void column(int type, float *y, const uint8_t *w, size_t row_bytes, int rows, const float *x,
                  int n)
{
    int r = 0;
    for (; r + 2 <= rows; r += 2) dots(2, type, y + r, w + (size_t)r * row_bytes, row_bytes, x, n);
    if (r < rows) dots(1, type, y + r, w + (size_t)r * row_bytes, row_bytes, x, n);
}

static void matvec_f32(float *y, const uint8_t *w, int rows, const float *x, int n)
{
    column(T_F32, y, w, (size_t)n * 4, rows, x, n);
}

static void matvec_f16(float *y, const uint8_t *w, int rows, const float *x, int n)
{
    column(T_F16, y, w, (size_t)n * 2, rows, x, n);
}

static void matvec_bf16(float *y, const uint8_t *w, int rows, const float *x, int n)
{
    column(T_BF16, y, w, (size_t)n * 2, rows, x, n);
}

static void matmul(float *y, size_t ys, const float *w, size_t ws, int rows, const float *x,
                   size_t xs, int toks, int n)
{
    int i = 0;
    for (; i + T_MAX <= toks; i += T_MAX, y += T_MAX * ys, x += T_MAX * xs) {
        int r = 0;
        for (; r + R_MAX <= rows; r += R_MAX)
            block(R_MAX, T_MAX, y + r, ys, w + (size_t)r * ws, ws, x, xs, n);
        for (; r < rows; r++) block(1, T_MAX, y + r, ys, w + (size_t)r * ws, ws, x, xs, n);
    }
    for (; i < toks; i++, y += ys, x += xs)
        column(T_F32, y, (const uint8_t *)w, ws * sizeof *w, rows, x, n);
}

static void quantize(Q8 *out, const float *x, int nb)
{
    for (int b = 0; b < nb; b++, x += QB, out++) {
        float32x4_t v[8], big = vdupq_n_f32(0);
        for (int g = 0; g < 8; g++) {
            v[g] = vld1q_f32(x + 4 * g);
            big = vmaxq_f32(big, vabsq_f32(v[g]));
        }
        float max = vmaxvq_f32(big);              /* a NaN if there is one */
        if (!(max >= 1e-30f && max <= FLT_MAX)) { /* rare: leave it to the plain one */
            kernels_base.quantize(out, x, 1);
            continue;
        }
        float32x4_t inv = vdupq_n_f32(127.0f / max);
        int16x8_t w[4];
        for (int g = 0; g < 4; g++)
            w[g] = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(vmulq_f32(v[2 * g], inv))),
                                vmovn_s32(vcvtnq_s32_f32(vmulq_f32(v[2 * g + 1], inv))));
        for (int h = 0; h < 2; h++) {
            int16x8_t lo = w[2 * h], hi = w[2 * h + 1];
            vst1q_s8(out->q + 16 * h, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
            out->sum[h] = vaddvq_s16(vaddq_s16(lo, hi));
        }
        out->d = max / 127.0f;
    }
}

static void unpack_f16(float *out, const uint16_t *in, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(in + i))));
    kernels_base.unpack_f16(out + i, in + i, n - i);
}

static void unpack_bf16(float *out, const uint16_t *in, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(out + i, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(in + i), 16)));
    kernels_base.unpack_bf16(out + i, in + i, n - i);
}

static void pack_f16(uint16_t *out, const float *in, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(in + i))));
    kernels_base.pack_f16(out + i, in + i, n - i);
}

static void unpack_q32(float *out, const Q32 *in, int nb)
{
    for (int b = 0; b < nb; b++, in++)
        for (int g = 0; g < 4; g++, out += 8) {
            float32x4_t sc = vdupq_n_f32(in->d * (float)in->sc[g / 2]);
            float32x4_t mn = vdupq_n_f32(in->dm * (float)in->mn[g / 2]);
            int16x8_t q = vmovl_s8(vld1_s8(in->q + 8 * g));
            float32x4_t lo = vcvtq_f32_s32(vmovl_s16(vget_low_s16(q)));
            float32x4_t hi = vcvtq_f32_s32(vmovl_high_s16(q));
            vst1q_f32(out, vaddq_f32(vmulq_f32(sc, lo), mn));
            vst1q_f32(out + 4, vaddq_f32(vmulq_f32(sc, hi), mn));
        }
}

static inline float half_at(const uint8_t *p)
{
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(u16_at(p)))), 0);
}

static inline void store_q32(Q32 *o, int8x16_t lo, int8x16_t hi, float d, float dm)
{
    vst1q_s8(o->q, lo);
    vst1q_s8(o->q + 16, hi);
    o->d = d;
    o->dm = dm;
    o->sc[0] = o->sc[1] = o->mn[0] = o->mn[1] = 1;
}

/* The low nibbles of 16 bytes, then the high ones, plus an offset. */
static inline void store_nibbles(Q32 *o, const uint8_t *p, int8_t offset, float d, float dm)
{
    uint8x16_t v = vld1q_u8(p);
    int8x16_t lo = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
    int8x16_t hi = vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
    store_q32(o, vaddq_s8(lo, vdupq_n_s8(offset)), vaddq_s8(hi, vdupq_n_s8(offset)), d, dm);
}

static void unpack_q4_0(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 18) store_nibbles(o, p + 2, -8, half_at(p), 0);
}

static void unpack_q4_1(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 20) store_nibbles(o, p + 4, 0, half_at(p), half_at(p + 2));
}

static void unpack_q8_0(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 34) {
        const int8_t *q = (const int8_t *)p + 2;
        store_q32(o, vld1q_s8(q), vld1q_s8(q + 16), half_at(p), 0);
    }
}

/* The arguments of weighted_sum, for some rows and from some channel on. */
typedef struct {
    float *out;
    const float *a, *v;
    size_t os, as, vs;
    int n_t, step, add;
} Sum;

static inline int keys_of(const Sum *s, int r)
{
    int keys = s->n_t + r * s->step;
    return keys < 0 ? 0 : keys < SUM_SEG ? keys : SUM_SEG;
}

/* 4 V channels from c on of R rows (both constant after inlining): the values of a key are loaded
 * once for all rows that have it. */
FORCE void sum_rows(int R, int V, const Sum *s, int c)
{
    float32x4_t seg[4][4], v[4];
    int keys[4], shared = SUM_SEG, most = 0, t = 0;
    for (int r = 0; r < R; r++) {
        keys[r] = keys_of(s, r);
        shared = keys[r] < shared ? keys[r] : shared;
        most = keys[r] > most ? keys[r] : most;
        for (int k = 0; k < V; k++) seg[r][k] = vdupq_n_f32(0);
    }
    for (const float *vt = s->v + c; t < most; t++, vt += s->vs) {
        for (int k = 0; k < V; k++) v[k] = vld1q_f32(vt + 4 * k);
        for (int r = 0; r < R; r++) {
            if (t >= shared && t >= keys[r]) continue;
            float at = s->a[(size_t)r * s->as + (size_t)t];
            for (int k = 0; k < V; k++) seg[r][k] = vfmaq_n_f32(seg[r][k], v[k], at);
        }
    }
    for (int r = 0; r < R; r++)
        for (int k = 0; keys[r] && k < V; k++) {
            float *o = s->out + (size_t)r * s->os + c + 4 * k;
            vst1q_f32(o, s->add ? vaddq_f32(vld1q_f32(o), seg[r][k]) : seg[r][k]);
        }
}

static void weighted_sum(float *out, size_t os, const float *a, size_t as, int rows, const float *v,
                         size_t vs, int n_t, int step, int n, int add)
{
    int four = n / 4 * 4;
    for (int i = 0; i < rows;) {
        Sum s = {
            out + (size_t)i * os, a + (size_t)i * as, v, os, as, vs, n_t + i * step, step, add};
        int c = 0, together = i + 4 <= rows ? 4 : 1;
        if (together == 4) {
            for (; c + 16 <= n; c += 16) sum_rows(4, 4, &s, c);
            for (; c < four; c += 4) sum_rows(4, 1, &s, c);
        } else {
            for (; c + 16 <= n; c += 16) sum_rows(1, 4, &s, c);
            for (; c < four; c += 4) sum_rows(1, 1, &s, c);
        }
        i += together;
    }
    if (four < n)
        kernels_base.weighted_sum(out + four, os, a, as, rows, v + four, vs, n_t, step, n - four,
                                  add);
}

/* exp_f32 of run.c, step by step. A NaN passes through every one of them and stays one. */
FORCE float32x4_t exp4(float32x4_t x)
{
    const float32x4_t magic = vdupq_n_f32(12582912.0f);
    x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(-104)), vdupq_n_f32(89));
    float32x4_t t = vfmaq_f32(magic, x, vdupq_n_f32(0x1.715476p+0f));
    float32x4_t kf = vsubq_f32(t, magic);
    float32x4_t r = vfmaq_f32(x, kf, vdupq_n_f32(-0x1.62e430p-1f));
    r = vfmaq_f32(r, kf, vdupq_n_f32(0x1.05c610p-29f));
    float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
    p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
    p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
    int32x4_t k = vsubq_s32(vreinterpretq_s32_f32(t), vdupq_n_s32(0x4b400000));
    int32x4_t k1 = vshrq_n_s32(k, 1), bias = vdupq_n_s32(127);
    int32x4_t f1 = vshlq_n_s32(vaddq_s32(k1, bias), 23);
    int32x4_t f2 = vshlq_n_s32(vaddq_s32(vsubq_s32(k, k1), bias), 23);
    return vmulq_f32(vmulq_f32(p, vreinterpretq_f32_s32(f1)), vreinterpretq_f32_s32(f2));
}

/* x[0 .. 31] to exp(x - max), added to the lanes. */
FORCE void exp32(float *x, float32x4_t max, float32x4_t lane[8])
{
    for (int g = 0; g < 8; g++) {
        float32x4_t v = exp4(vsubq_f32(vld1q_f32(x + 4 * g), max));
        vst1q_f32(x + 4 * g, v);
        lane[g] = vaddq_f32(lane[g], v);
    }
}

/* The last n % 32 values work in a copy, filled up with -infinity, whose exponential is 0. */
static void softmax(float *x, int n)
{
    float tail[LANES], inv;
    float32x4_t lane[8], big = vdupq_n_f32(x[0]);
    int full = n / LANES * LANES;
    pad(tail, x + full, 0, 1, n - full, -INFINITY);
    for (int i = 0; i < full; i += 4) big = vmaxq_f32(big, vld1q_f32(x + i));
    for (int i = 0; i < LANES; i += 4) big = vmaxq_f32(big, vld1q_f32(tail + i));
    big = vdupq_n_f32(vmaxvq_f32(big));
    for (int g = 0; g < 8; g++) lane[g] = vdupq_n_f32(0);
    for (int i = 0; i < full; i += LANES) exp32(x + i, big, lane);
    if (full < n) exp32(tail, big, lane);
    memcpy(x + full, tail, (size_t)(n - full) * sizeof *x);
    inv = 1.0f / tree32(lane, 1);
    for (int i = 0; i < n; i++) x[i] *= inv;
}

FORCE float32x4_t act_exponent(int act, float32x4_t x)
{
    float32x4_t x2 = vmulq_f32(x, x), p = vdupq_n_f32(gelu_terms[0]);
    if (act == ACT_SILU) return x;
    if (act == ACT_GELU_TANH)
        return vmulq_f32(x, vfmaq_f32(vdupq_n_f32(GELU_TANH_1), vdupq_n_f32(GELU_TANH_3), x2));
    x2 = vminnmq_f32(x2, vdupq_n_f32(GELU_CUT)); /* of a NaN and a number, the number */
    for (int i = 1; i < GELU_TERMS; i++) p = vfmaq_f32(vdupq_n_f32(gelu_terms[i]), p, x2);
    return vmulq_f32(x, p);
}

static void activate(int act, float *y, const float *g, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t x = vld1q_f32(g ? g + i : y + i);
        float32x4_t e = exp4(vnegq_f32(act_exponent(act, x)));
        float32x4_t a = vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0f), e));
        vst1q_f32(y + i, g ? vmulq_f32(a, vld1q_f32(y + i)) : a);
    }
    kernels_base.activate(act, y + i, g ? g + i : NULL, n - i);
}

static double peak_float(int rounds)
{
    volatile float sink;
    float32x4_t a[16];
    for (int i = 0; i < 16; i++) a[i] = vdupq_n_f32(0);
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < 16; i++) a[i] = vfmaq_f32(vdupq_n_f32(1), a[i], vdupq_n_f32(0.5f));
    for (int i = 0; i < 16; i++) sink = vaddvq_f32(a[i]);
    (void)sink;
    return 2.0 * 4 * 16 * rounds;
}

const Kernels kernels_neon = {
    .name = "neon",
    .usable = usable,
    .matmul = matmul,
    .qmatmul = qmatmul,
    .matvec = {[T_F32] = matvec_f32, [T_F16] = matvec_f16, [T_BF16] = matvec_bf16},
    .qmatvec = QMATVEC,
    .quantize = quantize,
    .unpack_f16 = unpack_f16,
    .unpack_bf16 = unpack_bf16,
    .unpack_q32 = unpack_q32,
    .pack_f16 = pack_f16,
    .unpack = {[T_Q4_0] = unpack_q4_0, [T_Q4_1] = unpack_q4_1, [T_Q8_0] = unpack_q8_0},
    .weighted_sum = weighted_sum,
    .softmax = softmax,
    .activate = activate,
    .peak_float = peak_float,
    .peak_int8 = peak_int8};
#endif
