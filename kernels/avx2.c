/* The kernel table for x86-64 with AVX2, FMA and F16C (Haswell, 2013, and later). The scalar twin
 * of every function, and what it computes, is in run.c, section 2; the bits are the same.
 *
 * The 32 lanes of a canonical sum are four vectors of 8. Lanes do not meet before the final tree,
 * so a block of outputs takes the lanes 8 at a time: four passes, each with all its accumulators
 * in registers. */
#include "../model.h"

#ifdef __AVX2__
#include <cpuid.h>
#include <float.h>
#include <immintrin.h>
#include <math.h>

static int usable(void)
{
    unsigned a, b, c, d;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && c >> 29 & 1; /* F16C */
}

/* Lanes 8 .. 31 onto 0 .. 7, then 4 + 4, 2 + 2, 1 + 1. */
static inline float tree8(__m256 v)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

static inline __m256 tree32(__m256 l0, __m256 l8, __m256 l16, __m256 l24)
{
    return _mm256_add_ps(_mm256_add_ps(l0, l16), _mm256_add_ps(l8, l24));
}

/* Lanes of the last n % 32 elements that stand in vector g (of 8 lanes): a mask. */
static inline __m256i tail_mask(int n, int g)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n % LANES - 8 * g), lane);
}

#define BLOCK 12 /* outputs at a time: 4 rows by 3 tokens fill the 16 registers */

/* R rows times T tokens, both constant after inlining: lanes 8g .. 8g+7 of each dot product. */
static inline __attribute__((always_inline)) void block_lanes(int R, int T, int g, __m256 *out,
                                                              const float *w, size_t ws,
                                                              const float *x, size_t xs, int n)
{
    __m256 acc[BLOCK];
    int c = 8 * g, full = n / LANES * LANES;
    for (int o = 0; o < R * T; o++) acc[o] = _mm256_setzero_ps();
    for (; c < full; c += LANES) {
        __m256 xv[3];
        for (int i = 0; i < T; i++) xv[i] = _mm256_loadu_ps(x + (size_t)i * xs + c);
        for (int r = 0; r < R; r++) {
            __m256 wv = _mm256_loadu_ps(w + (size_t)r * ws + c);
            for (int i = 0; i < T; i++) acc[r * T + i] = _mm256_fmadd_ps(wv, xv[i], acc[r * T + i]);
        }
    }
    if (c < n) {
        __m256i mask = tail_mask(n, g);
        __m256 m = _mm256_castsi256_ps(mask);
        for (int o = 0; o < R * T; o++) {
            __m256 wv = _mm256_maskload_ps(w + (size_t)(o / T) * ws + c, mask);
            __m256 xv = _mm256_maskload_ps(x + (size_t)(o % T) * xs + c, mask);
            acc[o] = _mm256_blendv_ps(acc[o], _mm256_fmadd_ps(wv, xv, acc[o]), m);
        }
    }
    for (int o = 0; o < R * T; o++) out[o] = acc[o];
}

static inline __attribute__((always_inline)) void block(int R, int T, float *y, size_t ys,
                                                        const float *w, size_t ws, const float *x,
                                                        size_t xs, int n)
{
    __m256 lanes[4][BLOCK];
    for (int g = 0; g < 4; g++) block_lanes(R, T, g, lanes[g], w, ws, x, xs, n);
    for (int o = 0; o < R * T; o++)
        y[(size_t)(o % T) * ys + (size_t)(o / T)] =
            tree8(tree32(lanes[0][o], lanes[1][o], lanes[2][o], lanes[3][o]));
}

/* All rows for T tokens, four rows at a time. */
static inline __attribute__((always_inline)) void columns(int T, float *y, size_t ys,
                                                          const float *w, size_t ws, int rows,
                                                          const float *x, size_t xs, int n)
{
    int r = 0;
    for (; r + 4 <= rows; r += 4) block(4, T, y + r, ys, w + (size_t)r * ws, ws, x, xs, n);
    for (; r < rows; r++) block(1, T, y + r, ys, w + (size_t)r * ws, ws, x, xs, n);
}

static void matmul(float *y, size_t ys, const float *w, size_t ws, int rows, const float *x,
                   size_t xs, int toks, int n)
{
    int i = 0;
    for (; i + 3 <= toks; i += 3)
        columns(3, y + (size_t)i * ys, ys, w, ws, rows, x + (size_t)i * xs, xs, n);
    for (; i < toks; i++)
        columns(1, y + (size_t)i * ys, ys, w, ws, rows, x + (size_t)i * xs, xs, n);
}

/* Integer products: 8 weight rows stand side by side, one in each 32-bit lane, so no sum ever
 * crosses lanes. One block of them: q[k] holds values 4k .. 4k+3 of each row. */
#define ROWS  8
#define CHUNK 32 /* blocks turned side by side at a time: 12 KB of stack */

_Static_assert(offsetof(Q32, sc) == 32 && offsetof(Q32, mn) == 36 && offsetof(Q32, d) == 40 &&
                   offsetof(Q32, dm) == 44 && sizeof(Q32) == 48,
               "a Q32 is three columns of 16 bytes, the last one sc, mn, d, dm");

typedef struct {
    __m256i q[8], sc, mn; /* sc, mn: two 16-bit numbers per row, one for each half of the block */
    __m256 d, dm;
    int scaled, has_min;
} Wide;

/* The 16 bytes at offset `at` of 8 rows, transposed: out[k] holds the k-th 4 bytes of each row. */
static inline void turn(__m256i out[4], const Q32 *const w[ROWS], size_t at)
{
    __m256i a[4];
    for (int j = 0; j < 4; j++)
        a[j] = _mm256_set_m128i(_mm_loadu_si128((const void *)((const char *)w[j + 4] + at)),
                                _mm_loadu_si128((const void *)((const char *)w[j] + at)));
    __m256i lo01 = _mm256_unpacklo_epi32(a[0], a[1]), lo23 = _mm256_unpacklo_epi32(a[2], a[3]);
    __m256i hi01 = _mm256_unpackhi_epi32(a[0], a[1]), hi23 = _mm256_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm256_unpacklo_epi64(lo01, lo23);
    out[1] = _mm256_unpackhi_epi64(lo01, lo23);
    out[2] = _mm256_unpacklo_epi64(hi01, hi23);
    out[3] = _mm256_unpackhi_epi64(hi01, hi23);
}

static inline void widen(Wide *o, const Q32 *const w[ROWS])
{
    __m256i rest[4], ones = _mm256_set1_epi16(1);
    turn(o->q, w, 0);
    turn(o->q + 4, w, 16);
    turn(rest, w, 32);
    o->sc = rest[0];
    o->mn = rest[1];
    o->d = _mm256_castsi256_ps(rest[2]);
    o->dm = _mm256_castsi256_ps(rest[3]);
    o->scaled = _mm256_movemask_epi8(_mm256_cmpeq_epi16(o->sc, ones)) != -1;
    o->has_min = _mm256_movemask_ps(_mm256_cmp_ps(o->dm, _mm256_setzero_ps(), _CMP_NEQ_UQ));
}

/* lo * a + hi * b with the two 16-bit numbers of each row. */
static inline __m256i weigh(__m256i pair, __m256i a, __m256i b)
{
    __m256i lo = _mm256_srai_epi32(_mm256_slli_epi32(pair, 16), 16);
    __m256i hi = _mm256_srai_epi32(pair, 16);
    return _mm256_add_epi32(_mm256_mullo_epi32(lo, a), _mm256_mullo_epi32(hi, b));
}

/* Four products of each row, added: maddubs wants one unsigned factor, so |w| times x with the
 * sign of w; 2 * 128 * 127 fits 16 bits. */
static inline __m256i four_products(__m256i w, const Q8 *x, int k)
{
    int32_t v;
    __builtin_memcpy(&v, x->q + 4 * k, sizeof v);
    __m256i signed_x = _mm256_sign_epi8(_mm256_set1_epi32(v), w);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), signed_x);
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* acc + one block of 8 rows times one token. */
static inline __m256 qblock(__m256 acc, const Wide *w, const Q8 *x)
{
    __m256i half[2], sum;
    for (int g = 0; g < 2; g++) {
        half[g] = four_products(w->q[4 * g], x, 4 * g);
        for (int k = 1; k < 4; k++)
            half[g] = _mm256_add_epi32(half[g], four_products(w->q[4 * g + k], x, 4 * g + k));
    }
    __m256 dx = _mm256_set1_ps(x->d);
    sum = w->scaled ? weigh(w->sc, half[0], half[1]) : _mm256_add_epi32(half[0], half[1]);
    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(w->d, dx), acc);
    if (!w->has_min) return acc;
    sum = weigh(w->mn, _mm256_set1_epi32(x->sum[0]), _mm256_set1_epi32(x->sum[1]));
    __m256 with = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(w->dm, dx), acc);
    return _mm256_blendv_ps(acc, with, _mm256_cmp_ps(w->dm, _mm256_setzero_ps(), _CMP_NEQ_UQ));
}

/* 8 rows times all tokens. */
static void strip(float *y, size_t ys, const Q32 *w, const Q8 *x, size_t xs, int toks, int nb)
{
    Wide wide[CHUNK];
    for (int b0 = 0; b0 < nb; b0 += CHUNK) {
        int n = nb - b0 < CHUNK ? nb - b0 : CHUNK;
        for (int b = 0; b < n; b++) {
            const Q32 *row[ROWS];
            for (int r = 0; r < ROWS; r++) row[r] = w + (size_t)r * (size_t)nb + b0 + b;
            widen(&wide[b], row);
        }
        for (int i = 0; i < toks; i++) {
            float *yi = y + (size_t)i * ys;
            __m256 acc = b0 ? _mm256_loadu_ps(yi) : _mm256_setzero_ps();
            for (int b = 0; b < n; b++) acc = qblock(acc, wide + b, x + (size_t)i * xs + b0 + b);
            _mm256_storeu_ps(yi, acc);
        }
    }
}

static void qmatmul(float *y, size_t ys, const Q32 *w, int rows, const Q8 *x, size_t xs, int toks,
                    int nb)
{
    int r = 0;
    for (; nb && r + ROWS <= rows; r += ROWS)
        strip(y + r, ys, w + (size_t)r * (size_t)nb, x, xs, toks, nb);
    kernels_base.qmatmul(y + r, ys, w + (size_t)r * (size_t)nb, rows - r, x, xs, toks, nb);
}

static inline __m256 abs8(__m256 v)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

static inline float max8(__m256 v)
{
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}

static inline int sum4(__m128i v)
{
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}

static void quantize(Q8 *out, const float *x, int nb)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int b = 0; b < nb; b++, x += QB, out++) {
        __m256 v[4];
        __m256 big = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
        for (int g = 0; g < 4; g++) {
            v[g] = _mm256_loadu_ps(x + 8 * g);
            big = _mm256_max_ps(big, abs8(v[g]));
            odd =
                _mm256_or_ps(odd, _mm256_cmp_ps(abs8(v[g]), _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ));
        }
        float max = max8(big);
        if (_mm256_movemask_ps(odd) || !(max >= 1e-30f)) { /* rare: leave it to the plain one */
            kernels_base.quantize(out, x, 1);
            continue;
        }
        __m256 inv = _mm256_set1_ps(127.0f / max);
        __m256i i[4];
        for (int g = 0; g < 4; g++) i[g] = _mm256_cvtps_epi32(_mm256_mul_ps(v[g], inv));
        __m256i lo = _mm256_add_epi32(i[0], i[1]), hi = _mm256_add_epi32(i[2], i[3]);
        __m256i w =
            _mm256_packs_epi16(_mm256_packs_epi32(i[0], i[1]), _mm256_packs_epi32(i[2], i[3]));
        _mm256_storeu_si256((__m256i *)(void *)out->q, _mm256_permutevar8x32_epi32(w, order));
        out->sum[0] =
            sum4(_mm_add_epi32(_mm256_castsi256_si128(lo), _mm256_extracti128_si256(lo, 1)));
        out->sum[1] =
            sum4(_mm_add_epi32(_mm256_castsi256_si128(hi), _mm256_extracti128_si256(hi, 1)));
        out->d = max / 127.0f;
    }
}

static void unpack_f16(float *out, const uint16_t *in, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i,
                         _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + i))));
    kernels_base.unpack_f16(out + i, in + i, n - i);
}

static void unpack_bf16(float *out, const uint16_t *in, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(in + i));
        __m256i w = _mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16);
        _mm256_storeu_si256((__m256i *)(void *)(out + i), w);
    }
    kernels_base.unpack_bf16(out + i, in + i, n - i);
}

static void unpack_q32(float *out, const Q32 *in, int nb)
{
    for (int b = 0; b < nb; b++, in++)
        for (int g = 0; g < 4; g++, out += 8) {
            __m256 sc = _mm256_set1_ps(in->d * (float)in->sc[g / 2]);
            __m256 mn = _mm256_set1_ps(in->dm * (float)in->mn[g / 2]);
            __m128i q = _mm_loadl_epi64((const __m128i *)(const void *)(in->q + 8 * g));
            __m256 qf = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
            _mm256_storeu_ps(out, _mm256_add_ps(_mm256_mul_ps(sc, qf), mn));
        }
}

/* The low nibbles of 16 bytes, then the high ones. */
static inline __m256i nibbles(const uint8_t *p)
{
    __m128i b = _mm_loadu_si128((const __m128i *)(const void *)p), low = _mm_set1_epi8(15);
    return _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(b, 4), low), _mm_and_si128(b, low));
}

static inline void store_q32(Q32 *o, __m256i q, float d, float dm)
{
    _mm256_storeu_si256((__m256i *)(void *)o->q, q);
    o->d = d;
    o->dm = dm;
    o->sc[0] = o->sc[1] = o->mn[0] = o->mn[1] = 1;
}

static inline float half_at(const uint8_t *p)
{
    return _cvtsh_ss((unsigned short)(p[0] | p[1] << 8));
}

static void unpack_q4_0(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 18)
        store_q32(o, _mm256_sub_epi8(nibbles(p + 2), _mm256_set1_epi8(8)), half_at(p), 0);
}

static void unpack_q4_1(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 20) store_q32(o, nibbles(p + 4), half_at(p), half_at(p + 2));
}

static void unpack_q8_0(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 34)
        store_q32(o, _mm256_loadu_si256((const __m256i *)(const void *)(p + 2)), half_at(p), 0);
}

/* Channels c .. c + 8 V - 1 of the weighted sum of rows, V vectors in registers. */
static inline __attribute__((always_inline)) void sum_rows(int V, float *out, const float *a,
                                                           const float *v, size_t vs, int n_t)
{
    __m256 total[8], seg[8];
    for (int i = 0; i < V; i++) total[i] = _mm256_setzero_ps();
    for (int t0 = 0; t0 < n_t; t0 += SUM_SEG) {
        int t1 = n_t < t0 + SUM_SEG ? n_t : t0 + SUM_SEG;
        for (int i = 0; i < V; i++) seg[i] = _mm256_setzero_ps();
        for (int t = t0; t < t1; t++) {
            __m256 at = _mm256_set1_ps(a[t]);
            for (int i = 0; i < V; i++)
                seg[i] = _mm256_fmadd_ps(at, _mm256_loadu_ps(v + (size_t)t * vs + 8 * i), seg[i]);
        }
        for (int i = 0; i < V; i++) total[i] = t0 ? _mm256_add_ps(total[i], seg[i]) : seg[i];
    }
    for (int i = 0; i < V; i++) _mm256_storeu_ps(out + 8 * i, total[i]);
}

static void weighted_sum(float *out, const float *a, const float *v, size_t vs, int n_t, int n)
{
    int c = 0;
    for (; c + 64 <= n; c += 64) sum_rows(8, out + c, a, v + c, vs, n_t);
    for (; c + 8 <= n; c += 8) sum_rows(1, out + c, a, v + c, vs, n_t);
    if (c < n) kernels_base.weighted_sum(out + c, a, v + c, vs, n_t, n - c);
}

/* exp_f32 of run.c, step by step. A NaN stays one: min and max return their second operand. */
static inline __m256 exp8(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    x = _mm256_max_ps(_mm256_set1_ps(-104), x);
    x = _mm256_min_ps(_mm256_set1_ps(89), x);
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(0x1.715476p+0f), magic);
    __m256 kf = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fmadd_ps(kf, _mm256_set1_ps(-0x1.62e430p-1f), x);
    r = _mm256_fmadd_ps(kf, _mm256_set1_ps(0x1.05c610p-29f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i k = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(0x4b400000));
    __m256i k1 = _mm256_srai_epi32(k, 1), bias = _mm256_set1_epi32(127);
    __m256i f1 = _mm256_slli_epi32(_mm256_add_epi32(k1, bias), 23);
    __m256i f2 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, k1), bias), 23);
    p = _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(f1)), _mm256_castsi256_ps(f2));
    return _mm256_blendv_ps(p, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

static float max_of_row(const float *x, int n)
{
    int i = 0;
    float max = x[0];
    if (n >= 8) {
        __m256 m = _mm256_loadu_ps(x);
        for (i = 8; i + 8 <= n; i += 8) m = _mm256_max_ps(_mm256_loadu_ps(x + i), m);
        max = max8(m);
    }
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

static void softmax(float *x, int n)
{
    __m256 lane[4], max = _mm256_set1_ps(max_of_row(x, n));
    for (int g = 0; g < 4; g++) lane[g] = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 8) {
        int g = i / 8 % 4;
        if (i + 8 <= n) {
            __m256 v = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), max));
            _mm256_storeu_ps(x + i, v);
            lane[g] = _mm256_add_ps(lane[g], v);
        } else {
            __m256i mask = tail_mask(n % 8, 0);
            __m256 v = exp8(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask), max));
            _mm256_maskstore_ps(x + i, mask, v);
            lane[g] = _mm256_add_ps(lane[g], _mm256_and_ps(v, _mm256_castsi256_ps(mask)));
        }
    }
    float inv = 1.0f / tree8(tree32(lane[0], lane[1], lane[2], lane[3]));
    for (int i = 0; i < n; i++) x[i] *= inv;
}

static void silu_mul(float *y, const float *g, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(g + i);
        __m256 e = exp8(_mm256_xor_ps(v, _mm256_set1_ps(-0.0f)));
        __m256 s = _mm256_div_ps(v, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(s, _mm256_loadu_ps(y + i)));
    }
    kernels_base.silu_mul(y + i, g + i, n - i);
}

const Kernels kernels_avx2 = {
    .name = "avx2",
    .usable = usable,
    .matmul = matmul,
    .qmatmul = qmatmul,
    .quantize = quantize,
    .unpack_f16 = unpack_f16,
    .unpack_bf16 = unpack_bf16,
    .unpack_q32 = unpack_q32,
    .unpack = {[T_Q4_0] = unpack_q4_0, [T_Q4_1] = unpack_q4_1, [T_Q8_0] = unpack_q8_0},
    .weighted_sum = weighted_sum,
    .softmax = softmax,
    .silu_mul = silu_mul};
#endif
