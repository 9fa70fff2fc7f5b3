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

/* The rest of four trees at once, from 16 lanes each: 8 + 8 and 4 + 4 by moving quarters of the
 * vectors together, 2 + 2 and 1 + 1 within the quarters. Result i is the tree of v[i]. */
static inline __m128 trees4(const __m512 v[4])
{
    __m512 p = _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x44),  /* lanes 0 .. 7 */
                             _mm512_shuffle_f32x4(v[0], v[1], 0xee)); /* lanes 8 .. 15 */
    __m512 q = _mm512_add_ps(_mm512_shuffle_f32x4(v[2], v[3], 0x44),
                             _mm512_shuffle_f32x4(v[2], v[3], 0xee));
    __m512 r = _mm512_add_ps(_mm512_shuffle_f32x4(p, q, 0x88), _mm512_shuffle_f32x4(p, q, 0xdd));
    r = _mm512_add_ps(r, _mm512_permute_ps(r, 0x4e));
    r = _mm512_add_ps(r, _mm512_permute_ps(r, 0xb1));
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(first, r));
}

/* Of the last n % 32 elements, those that stand in vector g: a mask. */
static inline __mmask16 tail_mask(int n, int g)
{
    int k = n % LANES - 16 * g;
    return k >= 16 ? 0xffff : k <= 0 ? 0 : (__mmask16)((1u << k) - 1);
}

/* Matrix times matrix. Short dot products (attention): a block of 3 rows by 4 tokens holds all the
 * lanes of its 12 outputs in registers. */
static inline __attribute__((always_inline)) void short_block(int R, int T, float *y, size_t ys,
                                                              const float *w, size_t ws,
                                                              const float *x, size_t xs, int n)
{
    __m512 acc[3 * 4][2], xv[4];
    for (int o = 0; o < R * T; o++)
        for (int g = 0; g < 2; g++) acc[o][g] = _mm512_setzero_ps();
    for (int c = 0; c < n; c += LANES)
        for (int g = 0; g < 2; g++) {
            __mmask16 m = c + LANES <= n ? 0xffff : tail_mask(n, g);
            for (int i = 0; i < T; i++)
                xv[i] = _mm512_maskz_loadu_ps(m, x + (size_t)i * xs + c + 16 * g);
            for (int r = 0; r < R; r++) {
                __m512 wv = _mm512_maskz_loadu_ps(m, w + (size_t)r * ws + c + 16 * g);
                for (int i = 0; i < T; i++)
                    acc[r * T + i][g] = _mm512_mask3_fmadd_ps(wv, xv[i], acc[r * T + i][g], m);
            }
        }
    for (int r = 0; r < R; r++) {
        __m512 v[4];
        float out[4];
        for (int i = 0; i < 4; i++) {
            const __m512 *l = acc[r * T + (i < T ? i : 0)];
            v[i] = _mm512_add_ps(l[0], l[1]);
        }
        _mm_storeu_ps(out, trees4(v));
        for (int i = 0; i < T; i++) y[(size_t)i * ys + (size_t)r] = out[i];
    }
}

static inline __attribute__((always_inline)) void short_columns(int T, float *y, size_t ys,
                                                                const float *w, size_t ws, int rows,
                                                                const float *x, size_t xs, int n)
{
    int r = 0;
    for (; r + 3 <= rows; r += 3) short_block(3, T, y + r, ys, w + (size_t)r * ws, ws, x, xs, n);
    for (; r < rows; r++) short_block(1, T, y + r, ys, w + (size_t)r * ws, ws, x, xs, n);
}

/* Long ones, DEPTH values at a time, so that those of 4 tokens stay in L1 while all rows pass. A
 * block of 6 rows by 4 tokens holds half of the lanes of its 24 outputs in registers: two passes.
 * Between two depths, and before the trees, the lanes rest in memory. */
#define DEPTH 3072
#define STRIP 48 /* rows whose lanes rest at a time */

typedef struct {
    __m512 lane[2][6 * 4];
} Lanes;

/* Adds n values more, a multiple of LANES, to lanes 16g .. 16g+15 of 6 x 4 dot products. */
static inline __attribute__((always_inline)) void
long_lanes(__m512 acc[24], int g, const float *w, size_t ws, const float *x, size_t xs, int n)
{
    __m512 xv[4];
    for (int c = 16 * g; c < n; c += LANES) {
        for (int i = 0; i < 4; i++) xv[i] = _mm512_loadu_ps(x + (size_t)i * xs + c);
        for (int r = 0; r < 6; r++) {
            __m512 wv = _mm512_loadu_ps(w + (size_t)r * ws + c);
            for (int i = 0; i < 4; i++) acc[4 * r + i] = _mm512_fmadd_ps(wv, xv[i], acc[4 * r + i]);
        }
    }
}

/* The last n < 32 values of lanes 16g .. 16g+15, which rest in memory. */
static void long_tail(__m512 rest[24], int g, const float *w, size_t ws, const float *x, size_t xs,
                      int n)
{
    __mmask16 m = tail_mask(n, g);
    for (int o = 0; m && o < 24; o++) {
        __m512 wv = _mm512_maskz_loadu_ps(m, w + (size_t)(o / 4) * ws + 16 * g);
        __m512 xv = _mm512_maskz_loadu_ps(m, x + (size_t)(o % 4) * xs + 16 * g);
        rest[o] = _mm512_mask3_fmadd_ps(wv, xv, rest[o], m);
    }
}

/* One half of the lanes of 6 rows and 4 tokens, over values c .. c + n - 1. */
static inline __attribute__((always_inline)) void long_half(int g, __m512 rest[24], const float *w,
                                                            size_t ws, const float *x, size_t xs,
                                                            int c, int n)
{
    __m512 acc[24];
    int full = n / LANES * LANES;
    for (int o = 0; o < 24; o++) acc[o] = c ? rest[o] : _mm512_setzero_ps();
    long_lanes(acc, g, w + c, ws, x + c, xs, full);
    for (int o = 0; o < 24; o++) rest[o] = acc[o];
    if (full < n) long_tail(rest, g, w + c + full, ws, x + c + full, xs, n - full);
}

static void long_block(float *y, size_t ys, Lanes *rest, const float *w, size_t ws, const float *x,
                       size_t xs, int c, int n, int last)
{
    for (int g = 0; g < 2; g++) long_half(g, rest->lane[g], w, ws, x, xs, c, n);
    for (int r = 0; last && r < 6; r++) {
        __m512 v[4];
        float out[4];
        for (int i = 0; i < 4; i++)
            v[i] = _mm512_add_ps(rest->lane[0][4 * r + i], rest->lane[1][4 * r + i]);
        _mm_storeu_ps(out, trees4(v));
        for (int i = 0; i < 4; i++) y[(size_t)i * ys + (size_t)r] = out[i];
    }
}

/* Values c0 .. c1-1 of the 4 tokens at x, which come next, on their way from L3 or memory to L2. */
static inline void ask_for(const float *x, size_t xs, int c0, int c1)
{
    for (int i = 0; i < 4; i++)
        for (int c = c0; c < c1; c += 16)
            _mm_prefetch((const char *)(x + (size_t)i * xs + c), _MM_HINT_T1);
}

/* rows, at most STRIP and a multiple of 6, for 4 tokens. */
static void long_columns(float *y, size_t ys, const float *w, size_t ws, int rows, const float *x,
                         size_t xs, int n)
{
    Lanes rest[STRIP / 6];
    int parts = (n + DEPTH - 1) / DEPTH, depth = ((n - 1) / LANES / parts + 1) * LANES;
    for (int c = 0; c < n; c += depth) {
        int last = n - c <= depth, part = last ? n - c : depth;
        const float *next = last ? x + 4 * xs : x + c + depth;
        for (int r = 0; r < rows; r += 6) {
            ask_for(next, xs, depth * r / rows, depth * (r + 6) / rows);
            long_block(y + r, ys, &rest[r / 6], w + (size_t)r * ws, ws, x, xs, c, part, last);
        }
    }
}

static void short_matmul(float *y, size_t ys, const float *w, size_t ws, int rows, const float *x,
                         size_t xs, int toks, int n)
{
    int i = 0;
    for (; i + 4 <= toks; i += 4)
        short_columns(4, y + (size_t)i * ys, ys, w, ws, rows, x + (size_t)i * xs, xs, n);
    for (; i + 2 <= toks; i += 2)
        short_columns(2, y + (size_t)i * ys, ys, w, ws, rows, x + (size_t)i * xs, xs, n);
    if (i < toks) short_columns(1, y + (size_t)i * ys, ys, w, ws, rows, x + (size_t)i * xs, xs, n);
}

static void matmul(float *y, size_t ys, const float *w, size_t ws, int rows, const float *x,
                   size_t xs, int toks, int n)
{
    int quads = n >= 512 ? toks / 4 * 4 : 0, sixes = quads ? rows / 6 * 6 : 0;
    for (int r = 0; r < sixes; r += STRIP)
        for (int i = 0; i < quads; i += 4)
            long_columns(y + (size_t)i * ys + r, ys, w + (size_t)r * ws, ws,
                         sixes - r < STRIP ? sixes - r : STRIP, x + (size_t)i * xs, xs, n);
    short_matmul(y + sixes, ys, w + (size_t)sixes * ws, ws, rows - sixes, x, xs, quads, n);
    short_matmul(y + (size_t)quads * ys, ys, w, ws, rows, x + (size_t)quads * xs, xs, toks - quads,
                 n);
}

/* Matrix times vector: the file's rows one after the other are one stream, which memory likes best
 * (16 GB/s with four rows side by side, 22 so). To ask for it in advance is a loss, but where x
 * fills half of L1, from WIDE values on (BF16: 16 GB/s instead of 7). */
#define WIDE  4096
#define AHEAD 8192 /* bytes */

static inline void ask_ahead(const uint8_t *w, size_t n)
{
    for (size_t b = 0; b < n; b += 64) _mm_prefetch((const char *)w + b + AHEAD, _MM_HINT_T1);
}

/* Values c .. c+15 of a row, those in the mask, as floats. */
typedef __m512 Load(const uint8_t *row, int c, __mmask16 m);

static inline __m512 load_f32(const uint8_t *row, int c, __mmask16 m)
{
    return _mm512_maskz_loadu_ps(m, row + 4 * (size_t)c);
}

static inline __m512 load_f16(const uint8_t *row, int c, __mmask16 m)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, row + 2 * (size_t)c));
}

static inline __m512 load_bf16(const uint8_t *row, int c, __mmask16 m)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, row + 2 * (size_t)c));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}

/* rows of n values of `size` bytes (constant after inlining). */
static inline __attribute__((always_inline)) void
vectors(Load *load, int size, float *y, const uint8_t *w, int rows, const float *x, int n)
{
    int full = n / LANES * LANES;
    for (int r = 0; r < rows; r++, w += (size_t)n * (size_t)size) {
        __m512 l0 = _mm512_setzero_ps(), l16 = _mm512_setzero_ps();
        int c = 0;
        for (; c < full; c += LANES) {
            if (n >= WIDE) ask_ahead(w + (size_t)c * (size_t)size, LANES * (size_t)size);
            l0 = _mm512_fmadd_ps(load(w, c, 0xffff), _mm512_loadu_ps(x + c), l0);
            l16 = _mm512_fmadd_ps(load(w, c + 16, 0xffff), _mm512_loadu_ps(x + c + 16), l16);
        }
        if (c < n) {
            __mmask16 m0 = tail_mask(n, 0), m16 = tail_mask(n, 1);
            __m512 x0 = _mm512_maskz_loadu_ps(m0, x + c),
                   x16 = _mm512_maskz_loadu_ps(m16, x + c + 16);
            l0 = _mm512_mask3_fmadd_ps(load(w, c, m0), x0, l0, m0);
            l16 = _mm512_mask3_fmadd_ps(load(w, c + 16, m16), x16, l16, m16);
        }
        y[r] = tree32(l0, l16);
    }
}

static void matvec_f32(float *y, const uint8_t *w, int rows, const float *x, int n)
{
    vectors(load_f32, 4, y, w, rows, x, n);
}

static void matvec_f16(float *y, const uint8_t *w, int rows, const float *x, int n)
{
    vectors(load_f16, 2, y, w, rows, x, n);
}

static void matvec_bf16(float *y, const uint8_t *w, int rows, const float *x, int n)
{
    vectors(load_bf16, 2, y, w, rows, x, n);
}

/* Blocks of 32: lanes 0 .. 15 and 16 .. 31 of value d q (+ m), rounded as unpack_q32 does. */
typedef struct {
    __m128i q[2];
    float d, m;
} Block;

typedef Block LoadBlock(const uint8_t *p);

static inline float half_at(const uint8_t *p)
{
    return _cvtsh_ss((unsigned short)(p[0] | p[1] << 8));
}

static inline Block block_q8_0(const uint8_t *p)
{
    return (Block){
        .q = {_mm_loadu_si128((const void *)(p + 2)), _mm_loadu_si128((const void *)(p + 18))},
        .d = half_at(p)};
}

static inline Block block_nibbles(const uint8_t *p, int offset)
{
    __m128i b = _mm_loadu_si128((const void *)p), low = _mm_set1_epi8(15);
    __m128i off = _mm_set1_epi8((char)offset);
    return (Block){.q = {_mm_sub_epi8(_mm_and_si128(b, low), off),
                         _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(b, 4), low), off)}};
}

static inline Block block_q4_0(const uint8_t *p)
{
    Block b = block_nibbles(p + 2, 8);
    b.d = half_at(p);
    return b;
}

static inline Block block_q4_1(const uint8_t *p)
{
    Block b = block_nibbles(p + 4, 0);
    b.d = half_at(p);
    b.m = half_at(p + 2);
    return b;
}

/* rows of n / 32 blocks of `size` bytes times float activations. */
static inline __attribute__((always_inline)) void
exacts(LoadBlock *load, size_t size, float *y, const uint8_t *w, int rows, const float *x, int n)
{
    for (int r = 0; r < rows; r++) {
        __m512 l0 = _mm512_setzero_ps(), l16 = _mm512_setzero_ps();
        for (int c = 0; c < n; c += QB, w += size) {
            Block k = load(w);
            if (n >= WIDE) ask_ahead(w, 1);
            __m512 d = _mm512_set1_ps(k.d), m = _mm512_set1_ps(k.m);
            __m512 q0 = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(k.q[0]));
            __m512 q16 = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(k.q[1]));
            q0 = _mm512_add_ps(_mm512_mul_ps(d, q0), m);
            q16 = _mm512_add_ps(_mm512_mul_ps(d, q16), m);
            l0 = _mm512_fmadd_ps(q0, _mm512_loadu_ps(x + c), l0);
            l16 = _mm512_fmadd_ps(q16, _mm512_loadu_ps(x + c + 16), l16);
        }
        y[r] = tree32(l0, l16);
    }
}

static void matvec_q8_0(float *y, const uint8_t *w, int rows, const float *x, int n)
{
    exacts(block_q8_0, 34, y, w, rows, x, n);
}

static void matvec_q4_0(float *y, const uint8_t *w, int rows, const float *x, int n)
{
    exacts(block_q4_0, 18, y, w, rows, x, n);
}

static void matvec_q4_1(float *y, const uint8_t *w, int rows, const float *x, int n)
{
    exacts(block_q4_1, 20, y, w, rows, x, n);
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

static void pack_f16(uint16_t *out, const float *in, int n)
{
    int i = 0;
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((void *)(out + i), _mm512_cvtps_ph(_mm512_loadu_ps(in + i), 0));
    kernels_base.pack_f16(out + i, in + i, n - i);
}

/* Key t of the weighted sum, 16 V channels (those of the last vector in `has`): added to the rows
 * from `first` on. */
static inline __attribute__((always_inline)) void add_key(int R, int V, __m512 *seg, const float *a,
                                                          size_t as, const float *v, __mmask16 has,
                                                          int first)
{
    __m512 vt[4];
    for (int j = 0; j < V; j++) vt[j] = _mm512_maskz_loadu_ps(j < V - 1 ? 0xffff : has, v + 16 * j);
    for (int i = 0; i < R; i++) {
        __mmask16 m = i >= first ? 0xffff : 0;
        __m512 at = _mm512_set1_ps(a[(size_t)i * as]);
        for (int j = 0; j < V; j++)
            seg[i * V + j] = _mm512_mask3_fmadd_ps(at, vt[j], seg[i * V + j], m);
    }
}

/* 16 V channels of R rows; row i sums n_t + i * step keys (step 0 or 1). */
static inline __attribute__((always_inline)) void sum_rows(int R, int V, float *out, size_t os,
                                                           const float *a, size_t as,
                                                           const float *v, size_t vs, __mmask16 has,
                                                           int n_t, int step, int add)
{
    __m512 seg[16];
    int t = 0;
    for (int o = 0; o < R * V; o++) seg[o] = _mm512_setzero_ps();
    for (; t < n_t; t++) add_key(R, V, seg, a + t, as, v + (size_t)t * vs, has, 0);
    for (; t < n_t + (R - 1) * step; t++)
        add_key(R, V, seg, a + t, as, v + (size_t)t * vs, has, t - n_t + 1);
    for (int o = 0; o < R * V; o++) {
        float *to = out + (size_t)(o / V) * os + 16 * (o % V);
        __mmask16 m = o % V < V - 1 ? 0xffff : has;
        if (add) seg[o] = _mm512_add_ps(_mm512_maskz_loadu_ps(m, to), seg[o]);
        _mm512_mask_storeu_ps(to, m, seg[o]);
    }
}

/* All channels of R rows, each of which has keys. */
static inline __attribute__((always_inline)) void sums(int R, float *out, size_t os, const float *a,
                                                       size_t as, const float *v, size_t vs,
                                                       int n_t, int step, int n, int add)
{
    int c = 0;
    for (; c + 64 <= n; c += 64)
        sum_rows(R, 4, out + c, os, a, as, v + c, vs, 0xffff, n_t, step, add);
    for (; c < n; c += 16) {
        __mmask16 has = n - c >= 16 ? 0xffff : tail_mask((n - c) % 16, 0);
        sum_rows(R, 1, out + c, os, a, as, v + c, vs, has, n_t, step, add);
    }
}

/* Four rows share each value, where none of them ends within the segment but by causality. */
static void weighted_sum(float *out, size_t os, const float *a, size_t as, int rows, const float *v,
                         size_t vs, int n_t, int step, int n, int add)
{
    for (int i = 0; i < rows;) {
        int keys = n_t + i * step, together = i + 4 <= rows && keys > 0;
        if (keys > SUM_SEG) keys = SUM_SEG;
        int grows = keys < SUM_SEG ? step : 0; /* whole segments are alike */
        if (together && (step == 0 || keys == SUM_SEG || keys + 3 <= SUM_SEG)) {
            sums(4, out + (size_t)i * os, os, a + (size_t)i * as, as, v, vs, keys, grows, n, add);
            i += 4;
        } else {
            if (keys > 0)
                sums(1, out + (size_t)i * os, os, a + (size_t)i * as, as, v, vs, keys, 0, n, add);
            i++;
        }
    }
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
    __m512 inv = _mm512_set1_ps(1.0f / tree32(lane[0], lane[1]));
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = i + 16 <= n ? 0xffff : tail_mask(n % 16, 0);
        _mm512_mask_storeu_ps(x + i, m, _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), inv));
    }
}

static inline __m512 act_exponent(int act, __m512 x)
{
    __m512 x2 = _mm512_mul_ps(x, x), p = _mm512_set1_ps(gelu_terms[0]);
    if (act == ACT_SILU) return x;
    if (act == ACT_GELU_TANH) {
        p = _mm512_set1_ps(GELU_TANH_3);
        return _mm512_mul_ps(x, _mm512_fmadd_ps(p, x2, _mm512_set1_ps(GELU_TANH_1)));
    }
    x2 = _mm512_min_ps(x2, _mm512_set1_ps(GELU_CUT));
    for (int i = 1; i < GELU_TERMS; i++)
        p = _mm512_fmadd_ps(p, x2, _mm512_set1_ps(gelu_terms[i]));
    return _mm512_mul_ps(x, p);
}

static void activate(int act, float *y, const float *g, int n)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = n - i >= 16 ? 0xffff : tail_mask((n - i) % 16, 0);
        __m512 x = _mm512_maskz_loadu_ps(m, g ? g + i : y + i), one = _mm512_set1_ps(1.0f);
        __m512 e = exp16(_mm512_xor_ps(act_exponent(act, x), _mm512_set1_ps(-0.0f)));
        __m512 a = _mm512_div_ps(x, _mm512_add_ps(one, e));
        if (g) a = _mm512_mul_ps(a, _mm512_maskz_loadu_ps(m, y + i));
        _mm512_mask_storeu_ps(y + i, m, a);
    }
}

/* ---------------------------------------------------------------- sums over tokens, for probes */

/* The first k of 8 lanes; none if k <= 0. */
static inline __mmask8 first8(int k)
{
    return k >= 8 ? 255 : k <= 0 ? 0 : (__mmask8)((1 << k) - 1);
}

#define MOMENT_VALUES 2048 /* of some tokens, widened: half of the innermost cache */

/* Rows i .. i + 7 of the moments, columns c .. c + 8 C - 1, over n tokens x, zs apart: sums stay in
 * registers. What lies left of the diagonal or past the end is neither read nor written. */
static inline __attribute__((always_inline)) void moments(int C, double *m, const double *x,
                                                          size_t zs, int n, int D, int i, int c)
{
    __m512d s[8][2];
    for (int r = 0; r < 8; r++)
        for (int g = 0; g < C; g++) {
            int at = c + 8 * g, left = i + r - at, k = i + r < D ? first8(D - at) : 0;
            if (left > 0) k &= 255 << left;
            const double *row = m + (i + r) * (ptrdiff_t)D - (i + r) * (ptrdiff_t)(i + r + 1) / 2;
            s[r][g] = _mm512_maskz_loadu_pd((__mmask8)k, row + at);
        }
    for (int t = 0; t < n; t++, x += zs) {
        __m512d v[2];
        for (int g = 0; g < C; g++) v[g] = _mm512_loadu_pd(x + c + 8 * g);
        for (int r = 0; r < 8; r++)
            for (int g = 0; g < C; g++)
                s[r][g] = _mm512_fmadd_pd(_mm512_set1_pd(x[i + r]), v[g], s[r][g]);
    }
    for (int r = 0; r < 8; r++)
        for (int g = 0; g < C; g++) {
            int at = c + 8 * g, left = i + r - at, k = i + r < D ? first8(D - at) : 0;
            if (left > 0) k &= 255 << left;
            double *row = m + (i + r) * (ptrdiff_t)D - (i + r) * (ptrdiff_t)(i + r + 1) / 2;
            _mm512_mask_storeu_pd(row + at, (__mmask8)k, s[r][g]);
        }
}

static void add_moments(double *m, const float *x, size_t xs, int toks, int D)
{
    _Alignas(64) double some[MOMENT_VALUES];
    int zs = (D + 7) / 8 * 8, most = zs ? MOMENT_VALUES / zs : 0;
    if (!most) {
        kernels_base.add_moments(m, x, xs, toks, D);
        return;
    }
    for (int n; toks > 0; toks -= n) {
        n = toks < most ? toks : most;
        for (int t = 0; t < n; t++, x += xs)
            for (int c = 0; c < zs; c += 8)
                _mm512_store_pd(some + t * zs + c,
                                _mm512_cvtps_pd(_mm256_maskz_loadu_ps(first8(D - c), x + c)));
        for (int i = 0; i < D; i += 8)
            for (int c = i; c < D; c += 16) {
                if (c + 8 < D)
                    moments(2, m, some, (size_t)zs, n, D, i, c);
                else
                    moments(1, m, some, (size_t)zs, n, D, i, c);
            }
    }
}

static inline __m512d load_wanted(const double *p, __mmask8 k)
{
    return p ? _mm512_maskz_loadu_pd(k, p) : _mm512_setzero_pd();
}

static inline void store_wanted(double *p, __mmask8 k, __m512d v)
{
    if (p) _mm512_mask_storeu_pd(p, k, v);
}

/* Of values c .. c + 7; the largest are kept by the caller. */
static inline void values8(const ValueSums *s, const float *x, size_t xs, int toks, int c, int n)
{
    __mmask8 k = first8(n - c);
    double *to[3] = {s->sum ? s->sum + c : NULL, s->size ? s->size + c : NULL,
                     s->square ? s->square + c : NULL};
    __m512d sum = load_wanted(to[0], k), size = load_wanted(to[1], k);
    __m512d square = load_wanted(to[2], k);
    __m256 most = s->most ? _mm256_maskz_loadu_ps(k, s->most + c) : _mm256_setzero_ps();
    for (int t = 0; t < toks; t++) {
        __m256 v = _mm256_maskz_loadu_ps(k, x + (size_t)t * xs + c);
        __m256 abs = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
        __m512d d = _mm512_cvtps_pd(v);
        most = _mm256_max_ps(abs, most); /* a NaN gives its second operand */
        sum = _mm512_add_pd(sum, d);
        size = _mm512_add_pd(size, _mm512_abs_pd(d));
        square = _mm512_fmadd_pd(d, d, square);
    }
    store_wanted(to[0], k, sum);
    store_wanted(to[1], k, size);
    store_wanted(to[2], k, square);
    if (s->most) _mm256_mask_storeu_ps(s->most + c, k, most);
}

static void add_values(const ValueSums *s, const float *x, size_t xs, int toks, int n)
{
    for (int c = 0; c < n; c += 8) values8(s, x, xs, toks, c, n);
}

/* Pairs j .. j + 7 of the token x. */
static inline __m512d radii8(const RadiusSums *s, const float *x, int j)
{
    const __m512i apart = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    int left = 2 * (s->n - j);
    __mmask16 k = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
    __m512 v = _mm512_permutexvar_ps(apart, _mm512_maskz_loadu_ps(k, x + 2 * j));
    __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    return _mm512_sqrt_pd(_mm512_fmadd_pd(a, a, _mm512_mul_pd(b, b)));
}

static void add_radii(const RadiusSums *s, const float *x, size_t xs, int toks)
{
    for (int j = 0; j < s->n; j += 8) {
        __mmask8 k = first8(s->n - j);
        __m512d sum = _mm512_maskz_loadu_pd(k, s->sum + j);
        __m512d most = _mm512_maskz_loadu_pd(k, s->most + j);
        for (int t = 0; t < toks; t++) {
            __m512d r = radii8(s, x + (size_t)t * xs, j);
            sum = _mm512_add_pd(sum, r);
            most = _mm512_max_pd(r, most);
        }
        _mm512_mask_storeu_pd(s->sum + j, k, sum);
        _mm512_mask_storeu_pd(s->most + j, k, most);
    }
}

static void add_row(RowSums *s, const float *a, const float *z, int t, int n)
{
    __m512d score = _mm512_loadu_pd(s->score), position = _mm512_loadu_pd(s->position);
    __m512d weight = _mm512_loadu_pd(s->weight);
    __m512d at = _mm512_add_pd(_mm512_set1_pd(t), _mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7));
    __m256 max = _mm256_loadu_ps(s->max), top = _mm256_loadu_ps(s->top);
    for (int i = 0; i < n; i += 8) {
        __mmask8 k = first8(n - i);
        __m256 w = _mm256_maskz_loadu_ps(k, a + i), zi = _mm256_maskz_loadu_ps(k, z + i);
        __m512d v = _mm512_cvtps_pd(w);
        score = _mm512_mask3_fmadd_pd(v, _mm512_cvtps_pd(zi), score, k);
        position = _mm512_mask3_fmadd_pd(v, at, position, k);
        weight = _mm512_mask_add_pd(weight, k, weight, v);
        max = _mm256_mask_max_ps(max, k, w, max);
        top = _mm256_mask_max_ps(top, k, zi, top);
        at = _mm512_add_pd(at, _mm512_set1_pd(8));
    }
    _mm512_storeu_pd(s->score, score);
    _mm512_storeu_pd(s->position, position);
    _mm512_storeu_pd(s->weight, weight);
    _mm256_storeu_ps(s->max, max);
    _mm256_storeu_ps(s->top, top);
}

static double peak_float(int rounds)
{
    volatile float sink;
    __m512 a[12];
    for (int i = 0; i < 12; i++) a[i] = _mm512_setzero_ps();
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < 12; i++)
            a[i] = _mm512_fmadd_ps(a[i], _mm512_set1_ps(0.5f), _mm512_set1_ps(1));
    for (int i = 0; i < 12; i++) sink = _mm512_reduce_add_ps(a[i]);
    (void)sink;
    return 2.0 * 16 * 12 * rounds;
}

const Kernels kernels_avx512 = {.name = "avx512",
                                .usable = usable,
                                .matmul = matmul,
                                .unpack_f16 = unpack_f16,
                                .unpack_bf16 = unpack_bf16,
                                .unpack_q32 = unpack_q32,
                                .pack_f16 = pack_f16,
                                .matvec = {[T_F32] = matvec_f32,
                                           [T_F16] = matvec_f16,
                                           [T_BF16] = matvec_bf16,
                                           [T_Q8_0] = matvec_q8_0,
                                           [T_Q4_0] = matvec_q4_0,
                                           [T_Q4_1] = matvec_q4_1},
                                .weighted_sum = weighted_sum,
                                .softmax = softmax,
                                .activate = activate,
                                .add_row = add_row,
                                .add_moments = add_moments,
                                .add_values = add_values,
                                .add_radii = add_radii,
                                .peak_float = peak_float};
#endif
