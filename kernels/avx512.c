/* The kernel table for x86-64 with AVX-512 F, BW, DQ and VL (Skylake-X, Zen 4, and later). What is
 * missing here is taken from AVX2. The scalar twin of every function is in run.c, section 2.
 *
 * The 32 lanes of a canonical sum are two vectors of 16; a block of outputs takes the lanes 16 at a
 * time, in two passes. */
#include "../model.h"

#ifdef __AVX512F__
#include <immintrin.h>

static int usable(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

/* 16 + 16, 8 + 8, 4 + 4, 2 + 2, 1 + 1. */
static inline float tree32(__m512 l0, __m512 l16)
{
    __m512 s = _mm512_add_ps(l0, l16);
    __m256 v = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

/* Of the last n % 32 elements, those that stand in vector g: a mask. */
static inline __mmask16 tail_mask(int n, int g)
{
    int k = n % LANES - 16 * g;
    return k >= 16 ? 0xffff : k <= 0 ? 0 : (__mmask16)((1u << k) - 1);
}

#define BLOCK 24 /* outputs at a time: 6 rows by 4 tokens, of 32 registers */

/* R rows times T tokens, both constant after inlining: lanes 16g .. 16g+15 of each dot product. */
static inline __attribute__((always_inline)) void block_lanes(int R, int T, int g, __m512 *out,
                                                              const float *w, size_t ws,
                                                              const float *x, size_t xs, int n)
{
    __m512 acc[BLOCK], xv[4];
    int c = 16 * g, full = n / LANES * LANES;
    __mmask16 tail = tail_mask(n, g);
    for (int o = 0; o < R * T; o++) acc[o] = _mm512_setzero_ps();
    for (; c < full; c += LANES) {
        for (int i = 0; i < T; i++) xv[i] = _mm512_loadu_ps(x + (size_t)i * xs + c);
        for (int r = 0; r < R; r++) {
            __m512 wv = _mm512_loadu_ps(w + (size_t)r * ws + c);
            for (int i = 0; i < T; i++) acc[r * T + i] = _mm512_fmadd_ps(wv, xv[i], acc[r * T + i]);
        }
    }
    for (int o = 0; tail && o < R * T; o++) {
        __m512 wv = _mm512_maskz_loadu_ps(tail, w + (size_t)(o / T) * ws + c);
        __m512 xt = _mm512_maskz_loadu_ps(tail, x + (size_t)(o % T) * xs + c);
        acc[o] = _mm512_mask3_fmadd_ps(wv, xt, acc[o], tail);
    }
    for (int o = 0; o < R * T; o++) out[o] = acc[o];
}

static inline __attribute__((always_inline)) void block(int R, int T, float *y, size_t ys,
                                                        const float *w, size_t ws, const float *x,
                                                        size_t xs, int n)
{
    __m512 lanes[2][BLOCK];
    for (int g = 0; g < 2; g++) block_lanes(R, T, g, lanes[g], w, ws, x, xs, n);
    for (int o = 0; o < R * T; o++)
        y[(size_t)(o % T) * ys + (size_t)(o / T)] = tree32(lanes[0][o], lanes[1][o]);
}

/* All rows for T tokens, six rows at a time. */
static inline __attribute__((always_inline)) void columns(int T, float *y, size_t ys,
                                                          const float *w, size_t ws, int rows,
                                                          const float *x, size_t xs, int n)
{
    int r = 0;
    for (; r + 6 <= rows; r += 6) block(6, T, y + r, ys, w + (size_t)r * ws, ws, x, xs, n);
    for (; r < rows; r++) block(1, T, y + r, ys, w + (size_t)r * ws, ws, x, xs, n);
}

static void matmul(float *y, size_t ys, const float *w, size_t ws, int rows, const float *x,
                   size_t xs, int toks, int n)
{
    int i = 0;
    for (; i + 4 <= toks; i += 4)
        columns(4, y + (size_t)i * ys, ys, w, ws, rows, x + (size_t)i * xs, xs, n);
    for (; i < toks; i++)
        columns(1, y + (size_t)i * ys, ys, w, ws, rows, x + (size_t)i * xs, xs, n);
}

static void unpack_f16(float *out, const uint16_t *in, int n)
{
    int i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(in + i))));
    kernels_base.unpack_f16(out + i, in + i, n - i);
}

static void unpack_bf16(float *out, const uint16_t *in, int n)
{
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(in + i)));
        _mm512_storeu_si512(out + i, _mm512_slli_epi32(w, 16));
    }
    kernels_base.unpack_bf16(out + i, in + i, n - i);
}

static void unpack_q32(float *out, const Q32 *in, int nb)
{
    for (int b = 0; b < nb; b++, in++)
        for (int g = 0; g < 2; g++, out += 16) {
            __m512 sc = _mm512_set1_ps(in->d * (float)in->sc[g]);
            __m512 mn = _mm512_set1_ps(in->dm * (float)in->mn[g]);
            __m128i q = _mm_loadu_si128((const void *)(in->q + 16 * g));
            __m512 qf = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
            _mm512_storeu_ps(out, _mm512_add_ps(_mm512_mul_ps(sc, qf), mn));
        }
}

/* Channels c .. c + 16 V - 1 of the weighted sum of rows, V vectors in registers. */
static inline __attribute__((always_inline)) void sum_rows(int V, float *out, const float *a,
                                                           const float *v, size_t vs, int n_t)
{
    __m512 total[4], seg[4];
    for (int i = 0; i < V; i++) total[i] = _mm512_setzero_ps();
    for (int t0 = 0; t0 < n_t; t0 += SUM_SEG) {
        int t1 = n_t < t0 + SUM_SEG ? n_t : t0 + SUM_SEG;
        for (int i = 0; i < V; i++) seg[i] = _mm512_setzero_ps();
        for (int t = t0; t < t1; t++) {
            __m512 at = _mm512_set1_ps(a[t]);
            for (int i = 0; i < V; i++)
                seg[i] = _mm512_fmadd_ps(at, _mm512_loadu_ps(v + (size_t)t * vs + 16 * i), seg[i]);
        }
        for (int i = 0; i < V; i++) total[i] = t0 ? _mm512_add_ps(total[i], seg[i]) : seg[i];
    }
    for (int i = 0; i < V; i++) _mm512_storeu_ps(out + 16 * i, total[i]);
}

static void weighted_sum(float *out, const float *a, const float *v, size_t vs, int n_t, int n)
{
    int c = 0;
    for (; c + 64 <= n; c += 64) sum_rows(4, out + c, a, v + c, vs, n_t);
    for (; c + 16 <= n; c += 16) sum_rows(1, out + c, a, v + c, vs, n_t);
    if (c < n) kernels_base.weighted_sum(out + c, a, v + c, vs, n_t, n - c);
}

/* exp_f32 of run.c, step by step. A NaN stays one: min and max return their second operand. */
static inline __m512 exp16(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    x = _mm512_max_ps(_mm512_set1_ps(-104), x);
    x = _mm512_min_ps(_mm512_set1_ps(89), x);
    __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(0x1.715476p+0f), magic);
    __m512 kf = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fmadd_ps(kf, _mm512_set1_ps(-0x1.62e430p-1f), x);
    r = _mm512_fmadd_ps(kf, _mm512_set1_ps(0x1.05c610p-29f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    __m512i k = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(0x4b400000));
    __m512i k1 = _mm512_srai_epi32(k, 1), bias = _mm512_set1_epi32(127);
    __m512i f1 = _mm512_slli_epi32(_mm512_add_epi32(k1, bias), 23);
    __m512i f2 = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(k, k1), bias), 23);
    p = _mm512_mul_ps(_mm512_mul_ps(p, _mm512_castsi512_ps(f1)), _mm512_castsi512_ps(f2));
    return _mm512_mask_mov_ps(p, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

static void softmax(float *x, int n)
{
    __m512 big = _mm512_set1_ps(x[0]), lane[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = i + 16 <= n ? 0xffff : tail_mask(n % 16, 0);
        big = _mm512_mask_max_ps(big, m, _mm512_maskz_loadu_ps(m, x + i), big);
    }
    __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(big));
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = i + 16 <= n ? 0xffff : tail_mask(n % 16, 0);
        __m512 v = exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, x + i), max));
        _mm512_mask_storeu_ps(x + i, m, v);
        lane[i / 16 % 2] = _mm512_mask_add_ps(lane[i / 16 % 2], m, lane[i / 16 % 2], v);
    }
    float inv = 1.0f / tree32(lane[0], lane[1]);
    for (int i = 0; i < n; i++) x[i] *= inv;
}

static void silu_mul(float *y, const float *g, int n)
{
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_loadu_ps(g + i);
        __m512 e = exp16(_mm512_xor_ps(v, _mm512_set1_ps(-0.0f)));
        __m512 s = _mm512_div_ps(v, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
        _mm512_storeu_ps(y + i, _mm512_mul_ps(s, _mm512_loadu_ps(y + i)));
    }
    kernels_base.silu_mul(y + i, g + i, n - i);
}

const Kernels kernels_avx512 = {.name = "avx512",
                                .usable = usable,
                                .matmul = matmul,
                                .unpack_f16 = unpack_f16,
                                .unpack_bf16 = unpack_bf16,
                                .unpack_q32 = unpack_q32,
                                .weighted_sum = weighted_sum,
                                .softmax = softmax,
                                .silu_mul = silu_mul};
#endif
