/* The kernel table for x86-64 with AVX2, FMA and F16C (Haswell, 2013, and later). The scalar twin
 * of every function, and what it computes, is in run.c, section 2; the bits are the same.
 *
 * Matrix times matrix goes in blocks that stay in cache and registers; matrix times vector reads
 * the file's rows once, in order, at the speed of memory; then come rows of numbers. */
#include "../model.h"

#ifdef __AVX2__
#include <cpuid.h>
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

static int usable(void)
{
    unsigned a, b, c, d;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && c >> 29 & 1; /* F16C */
}

/* The first k of 8 lanes; none if k <= 0. */
static inline __m256i mask_of(int k)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(k), lane);
}

/* Keeps gcc from loading v again wherever it is used. */
INLINE __m256 in_register(__m256 v)
{
    __asm__("" : "+x"(v));
    return v;
}

static inline __m128i load16(const void *p)
{
    return _mm_loadu_si128(p);
}

/* 16 bytes from each of two places. */
static inline __m256i load_pair(const void *lo, const void *hi)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(lo)), load16(hi), 1);
}

/* The 16 bytes at offset `at` of 8 rows, transposed: out[k] holds the k-th 4 bytes of each row. */
INLINE void turn(__m256i out[4], const void *const row[8], size_t at)
{
    __m256i a[4];
    for (int j = 0; j < 4; j++)
        a[j] = load_pair((const char *)row[j] + at, (const char *)row[j + 4] + at);
    __m256i lo01 = _mm256_unpacklo_epi32(a[0], a[1]), lo23 = _mm256_unpacklo_epi32(a[2], a[3]);
    __m256i hi01 = _mm256_unpackhi_epi32(a[0], a[1]), hi23 = _mm256_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm256_unpacklo_epi64(lo01, lo23);
    out[1] = _mm256_unpackhi_epi64(lo01, lo23);
    out[2] = _mm256_unpacklo_epi64(hi01, hi23);
    out[3] = _mm256_unpackhi_epi64(hi01, hi23);
}

/* ---------------------------------------------------------------- the canonical sum
 * Its 32 lanes are four vectors of 8, and the first steps of the tree add whole vectors. */

INLINE __m256 tree32(const __m256 lane[4])
{
    return _mm256_add_ps(_mm256_add_ps(lane[0], lane[2]), _mm256_add_ps(lane[1], lane[3]));
}

/* 4 + 4, 2 + 2, 1 + 1. */
static inline float tree8(__m256 v)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

/* tree8 of v[r] in element r: the same additions, for 8 sums at a time. */
INLINE __m256 trees(const __m256 v[8])
{
    __m256 a[4], b[2];
    for (int j = 0; j < 4; j++)
        a[j] = _mm256_add_ps(_mm256_permute2f128_ps(v[j], v[j + 4], 0x20),
                             _mm256_permute2f128_ps(v[j], v[j + 4], 0x31));
    for (int j = 0; j < 2; j++)
        b[j] = _mm256_add_ps(_mm256_shuffle_ps(a[2 * j], a[2 * j + 1], 0x44),
                             _mm256_shuffle_ps(a[2 * j], a[2 * j + 1], 0xee));
    return _mm256_add_ps(_mm256_shuffle_ps(b[0], b[1], 0x88), _mm256_shuffle_ps(b[0], b[1], 0xdd));
}

/* ---------------------------------------------------------------- matmul
 * Three tokens stay in L1, a piece of n at a time, while all rows pass. A block of 4 rows takes the
 * lanes 8 at a time: four passes over the piece, each with its 12 accumulators in registers. From
 * piece to piece the lanes wait in a Panel. It also holds the activations of the piece: its end may
 * be filled up there, and each cache line is read once from where it was.
 *
 * Where n is no multiple of 32, lanes of elements that are not there must keep their bits, also
 * those of -0: weights are filled up with +0, activations with -0, and v + +0 * -0 is v.
 *
 * Measured (Zen 4, one thread): 48 rows of 2048 values, 57 GFLOP/s when each block went over all
 * of n, 80 so; 256 keys of 64 values, 50 when outputs were added up one by one, 54 so. */
#define TOKS  3
#define ROWS  48
#define PIECE 1024

typedef struct {
    __m256 lane[ROWS][TOKS][4];
    float x[TOKS][PIECE + 16]; /* 16: so that tokens do not meet in the same sets */
} Panel;

/* acc[r][i] += 8 elements of R rows (masked, of n, at the tail) times T tokens. */
INLINE void step(int R, int T, __m256 acc[8][TOKS], const float *const *w, const Panel *p, int c,
                 int n, int tail)
{
    __m256 xv[TOKS];
    for (int i = 0; i < T; i++) xv[i] = in_register(_mm256_loadu_ps(p->x[i] + c));
    for (int r = 0; r < R; r++) {
        __m256 wv = in_register(tail ? _mm256_maskload_ps(w[r] + c, mask_of(n - c))
                                     : _mm256_loadu_ps(w[r] + c));
        for (int i = 0; i < T; i++) acc[r][i] = _mm256_fmadd_ps(wv, xv[i], acc[r][i]);
    }
}

/* n more elements of the lanes of R rows times T tokens, from row r0 of the panel on (first: they
 * begin at 0). R, T and first are constant after inlining. */
INLINE void block(int R, int T, int first, Panel *p, int r0, const float *const *w, int n)
{
    for (int g = 0; g < 4; g++) {
        __m256 acc[8][TOKS];
        int c = 8 * g;
        for (int r = 0; r < R; r++)
            for (int i = 0; i < T; i++)
                acc[r][i] = first ? _mm256_setzero_ps() : p->lane[r0 + r][i][g];
        for (; c + 8 <= n; c += LANES) step(R, T, acc, w, p, c, n, 0);
        if (c < n) step(R, T, acc, w, p, c, n, 1);
        for (int r = 0; r < R; r++)
            for (int i = 0; i < T; i++) p->lane[r0 + r][i][g] = acc[r][i];
    }
}

/* y[i * ys + r] of T tokens and 8 rows, of which `rows` are there. */
INLINE void store_sums(int T, float *y, size_t ys, int rows, const Panel *p, int r0)
{
    for (int i = 0; i < T; i++, y += ys) {
        __m256 v[8];
        for (int r = 0; r < 8; r++) v[r] = tree32(p->lane[r0 + r][i]);
        if (rows >= 8)
            _mm256_storeu_ps(y, trees(v));
        else
            _mm256_maskstore_ps(y, mask_of(rows), trees(v));
    }
}

/* n more elements of `rows` rows times T tokens; whole: there are no others, so lanes need not wait
 * and are stored at once. Rows that are not there repeat the last one. */
INLINE void piece(int T, int whole, float *y, size_t ys, const float *w, size_t ws, int rows,
                  Panel *p, int n)
{
    for (int r = 0; r < rows; r += 8) {
        const float *row[8];
        int r0 = whole ? 0 : r;
        for (int j = 0; j < 8; j++) row[j] = w + (size_t)(r + j < rows ? r + j : rows - 1) * ws;
        if (T == 1) {
            block(8, T, whole, p, r0, row, n);
        } else {
            block(4, T, whole, p, r0, row, n);
            block(4, T, whole, p, r0 + 4, row + 4, n);
        }
        if (whole) store_sums(T, y + r, ys, rows - r, p, r0);
    }
}

/* T tokens; rows <= ROWS unless n <= PIECE. */
INLINE void panel(int T, float *y, size_t ys, const float *w, size_t ws, int rows, const float *x,
                  size_t xs, int n)
{
    Panel p;
    if (n > PIECE) memset(p.lane, 0, sizeof p.lane);
    for (int c = 0; c < n || c == 0; c += PIECE) {
        int part = n - c < PIECE ? n - c : PIECE;
        for (int i = 0; i < T; i++) {
            memcpy(p.x[i], x + (size_t)i * xs + c, (size_t)part * sizeof *x);
            for (int e = part; e % LANES; e++) p.x[i][e] = -0.0f;
        }
        if (n <= PIECE)
            piece(T, 1, y, ys, w, ws, rows, &p, n);
        else
            piece(T, 0, y, ys, w + c, ws, rows, &p, part);
    }
    for (int r = 0; n > PIECE && r < rows; r += 8) store_sums(T, y + r, ys, rows - r, &p, r);
}

static void matmul(float *y, size_t ys, const float *w, size_t ws, int rows, const float *x,
                   size_t xs, int toks, int n)
{
    int most = n > PIECE ? ROWS : rows;
    for (int r0 = 0; r0 < rows; r0 += most, w += (size_t)most * ws)
        for (int i = 0, T; i < toks; i += T) {
            float *to = y + (size_t)i * ys + r0;
            const float *from = x + (size_t)i * xs;
            int left = toks - i, part = rows - r0 < most ? rows - r0 : most;
            T = left == 4 ? 2 : left < 3 ? left : 3;
            if (T == 3) panel(3, to, ys, w, ws, part, from, xs, n);
            if (T == 2) panel(2, to, ys, w, ws, part, from, xs, n);
            if (T == 1) panel(1, to, ys, w, ws, part, from, xs, n);
        }
}

/* ---------------------------------------------------------------- matvec
 * Rows of any type, one after the other: as one stream they come fastest from memory. Asking for
 * them in advance makes it slower, unless x crowds L1: then (5632 values) F16 gains a half. */
#define WIDE  4096
#define AHEAD 8192 /* bytes: so long before they are used, rows are asked for, to L2 */

/* Values 8g .. 8g+7 of the 32 at p; g is constant after inlining. */
typedef __m256 Load(const uint8_t *p, int g);

INLINE __m256 load_f32(const uint8_t *p, int g)
{
    return _mm256_loadu_ps((const float *)(const void *)p + 8 * g);
}

INLINE __m256 load_f16(const uint8_t *p, int g)
{
    return _mm256_cvtph_ps(load16(p + 16 * g));
}

INLINE __m256 load_bf16(const uint8_t *p, int g)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(p + 16 * g)), 16));
}

INLINE __m256 half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _mm256_set1_ps(_cvtsh_ss(h));
}

/* (d * 1) * q + dm * 1, where dm may be 0, in one operation: d has 11 bits and q at most 8, so the
 * product is exact and only the sum is rounded; -0 + 0 is 0 here as there. */
INLINE __m256 scaled(__m256 d, __m256i q, __m256 dm)
{
    return _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(q), dm);
}

INLINE __m256 load_q8_0(const uint8_t *p, int g)
{
    __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p + 2 + 8 * g)));
    return scaled(half_at(p), q, _mm256_setzero_ps());
}

/* Low nibbles of 16 bytes are values 0 .. 15, high ones 16 .. 31. */
INLINE __m256i nibbles8(const uint8_t *p, int g)
{
    __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(p + 8 * (g % 2))));
    return g < 2 ? _mm256_and_si256(b, _mm256_set1_epi32(15)) : _mm256_srli_epi32(b, 4);
}

INLINE __m256 load_q4_0(const uint8_t *p, int g)
{
    __m256i q = _mm256_sub_epi32(nibbles8(p + 2, g), _mm256_set1_epi32(8));
    return scaled(half_at(p), q, _mm256_setzero_ps());
}

INLINE __m256 load_q4_1(const uint8_t *p, int g)
{
    return scaled(half_at(p), nibbles8(p + 4, g), half_at(p + 2));
}

/* acc[..] += w[0 .. 31] * x[0 .. 31]. */
INLINE void lanes(Load *load, __m256 acc[4], const uint8_t *w, const float *x)
{
    for (int g = 0; g < 4; g++)
        acc[g] = _mm256_fmadd_ps(load(w, g), _mm256_loadu_ps(x + 8 * g), acc[g]);
}

/* unit: bytes of 32 values. */
INLINE void matvec(Load *load, size_t unit, float *y, const uint8_t *w, int rows, const float *x,
                   int n)
{
    size_t left = (size_t)(n % LANES), tail = left * unit / LANES;
    float xt[LANES];
    for (size_t i = 0; i < LANES; i++) xt[i] = i < left ? x[n / LANES * LANES + (int)i] : -0.0f;
    for (int r = 0; r < rows; r++) {
        __m256 acc[4] = {_mm256_setzero_ps()};
        for (int c = 0; c + LANES <= n; c += LANES, w += unit) {
            for (size_t i = 0; n >= WIDE && i < unit; i += 64)
                _mm_prefetch((const char *)w + AHEAD + i, _MM_HINT_T1);
            lanes(load, acc, w, x + c);
        }
        if (tail) {
            uint8_t wt[LANES * sizeof(float)] = {0};
            memcpy(wt, w, tail);
            lanes(load, acc, wt, xt);
            w += tail;
        }
        y[r] = tree8(tree32(acc));
    }
}

#define MATVEC(type, unit)                                                                         \
    static void matvec_##type(float *y, const uint8_t *w, int rows, const float *x, int n)         \
    {                                                                                              \
        matvec(load_##type, unit, y, w, rows, x, n);                                               \
    }
MATVEC(f32, 128)
MATVEC(f16, 64)
MATVEC(bf16, 64)
MATVEC(q8_0, 34)
MATVEC(q4_0, 18)
MATVEC(q4_1, 20)

/* ---------------------------------------------------------------- qmatvec
 * Rows are read one after the other: the terms of each block, an exact integer and its factor, wait
 * until 16 rows (of wide ones, fewer) go through the fused chain over the blocks side by side: in
 * two vectors, since each chain only waits for itself. A stream that is left and taken up again is read
 * at half the speed, so rows are taken whole, and short ones as one run of blocks, 8 at a time. */
#define CHAINS  16   /* rows */
#define WAITING 2048 /* blocks of all rows: 33 KB of stack */
#define EIGHTS  64   /* of activations: 23 KB */

/* 8 blocks of activations. q[k][h]: values 16h .. 16h+15 of block k, then those of block k + 4: so
 * lie the halves of a Q6_K, and from there 8 sums come into order by themselves. */
typedef struct {
    __m256i q[4][2];
    __m256i sum;  /* of each block */
    __m256i half; /* of each half block, 16 bits */
    __m256 d;
} Eight;

/* Of 8 blocks: y = fma(s, f, y), then fma(m, fm, y) for types with a minimum. */
typedef struct {
    __m256 s, f, m, fm;
} Terms;

typedef struct {
    float s[WAITING + 8], f[WAITING + 8], m[WAITING + 8], fm[WAITING + 8];
} Waiting;

/* 8 blocks that begin at w times x. */
typedef void Dot(Terms *t, const uint8_t *w, const Eight *x);

/* Blocks at .. at+7, when blocks 0 .. nb-1 follow each other again and again. */
static void eight_from(Eight *o, const Q8 *x, int at, int nb)
{
    const Q8 *part[8];
    int32_t sum[8];
    int16_t half[16];
    float d[8];
    for (int b = 0; b < 8; b++) {
        part[b] = x + (at + b) % nb;
        sum[b] = part[b]->sum[0] + part[b]->sum[1];
        for (int h = 0; h < 2; h++) half[2 * b + h] = (int16_t)part[b]->sum[h];
        d[b] = part[b]->d;
    }
    for (int k = 0; k < 4; k++)
        for (int h = 0; h < 2; h++)
            o->q[k][h] = load_pair(part[k]->q + 16 * h, part[k + 4]->q + 16 * h);
    o->sum = _mm256_loadu_si256((const void *)sum);
    o->half = _mm256_loadu_si256((const void *)half);
    o->d = _mm256_loadu_ps(d);
}

/* Each v[k] holds four parts of the sum of block k, then four of block k + 4. */
INLINE __m256i sums(const __m256i v[4])
{
    return _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
}

INLINE __m256i add_pairs(__m256i v)
{
    return _mm256_madd_epi16(v, _mm256_set1_epi16(1));
}

INLINE __m256i low_bits(__m256i v, int mask)
{
    return _mm256_and_si256(v, _mm256_set1_epi8((char)mask));
}

/* The first 4 bytes of 8 blocks of `bytes` each. */
INLINE __m256i heads(const uint8_t *p, size_t bytes)
{
    int32_t h[8];
    for (size_t b = 0; b < 8; b++) memcpy(&h[b], p + b * bytes, sizeof *h);
    return _mm256_setr_epi32(h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]);
}

/* The half-precision numbers in the low halves of 8 words. */
INLINE __m256 halves(__m256i v)
{
    v = _mm256_blend_epi16(v, _mm256_setzero_si256(), 0xaa);
    return _mm256_cvtph_ps(
        _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

/* Four products added in each lane. maddubs wants one factor without sign: |w|, and x with the sign
 * of w. 2 * 128 * 127 fits 16 bits, but not twice. */
INLINE __m256i signed_products(__m256i w, __m256i x)
{
    return add_pairs(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)));
}

INLINE void dot_q8_0(Terms *t, const uint8_t *w, const Eight *x)
{
    __m256i v[4];
    for (size_t k = 0; k < 4; k++) {
        const uint8_t *p = w + 34 * k + 2;
        v[k] = _mm256_add_epi32(signed_products(load_pair(p, p + 136), x->q[k][0]),
                                signed_products(load_pair(p + 16, p + 152), x->q[k][1]));
    }
    t->s = _mm256_cvtepi32_ps(sums(v));
    t->f = _mm256_mul_ps(halves(heads(w, 34)), x->d);
}

/* Sums of nibbles, 0 .. 15, which stand at `at` in blocks of `bytes`: 4 * 15 * 127 fits. */
INLINE __m256i dot_nibbles(const uint8_t *w, size_t bytes, size_t at, const Eight *x)
{
    __m256i v[4];
    for (size_t k = 0; k < 4; k++) {
        __m256i b = load_pair(w + k * bytes + at, w + (k + 4) * bytes + at);
        __m256i lo = _mm256_maddubs_epi16(low_bits(b, 15), x->q[k][0]);
        __m256i hi = _mm256_maddubs_epi16(low_bits(_mm256_srli_epi16(b, 4), 15), x->q[k][1]);
        v[k] = add_pairs(_mm256_add_epi16(lo, hi));
    }
    return sums(v);
}

/* Nibbles are 8 more than their values. */
INLINE void dot_q4_0(Terms *t, const uint8_t *w, const Eight *x)
{
    __m256i s = _mm256_sub_epi32(dot_nibbles(w, 18, 2, x), _mm256_slli_epi32(x->sum, 3));
    t->s = _mm256_cvtepi32_ps(s);
    t->f = _mm256_mul_ps(halves(heads(w, 18)), x->d);
}

INLINE void dot_q4_1(Terms *t, const uint8_t *w, const Eight *x)
{
    t->s = _mm256_cvtepi32_ps(dot_nibbles(w, 20, 4, x));
    t->f = _mm256_mul_ps(halves(heads(w, 20)), x->d);
    t->m = _mm256_cvtepi32_ps(x->sum);
    t->fm = _mm256_mul_ps(halves(heads(w + 2, 20)), x->d);
}

/* The terms of Q4_K and Q5_K from the sums of their 8 blocks: d, dmin, then scales[12], six-bit
 * scales and minima (k_scale_min in run.c; here 4 of them at a time). */
INLINE void k_terms(Terms *t, const uint8_t *w, __m256i s, const Eight *x)
{
    __m128i v = load16(w), low4 = _mm_set1_epi8(15);
    __m128i c = _mm_srlv_epi32(_mm_shuffle_epi32(v, 0xff), _mm_setr_epi32(0, 0, 4, 0));
    __m128i top = _mm_and_si128(_mm_srli_epi32(v, 2), _mm_set1_epi8(0x30));
    __m128i lo = _mm_and_si128(v, _mm_set1_epi8(0x3f)),
            hi = _mm_or_si128(_mm_and_si128(c, low4), top);
    __m256i sc = _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(_mm_unpacklo_epi32(lo, hi), lo));
    __m256i mn = _mm256_cvtepu8_epi32(_mm_unpackhi_epi32(lo, hi));
    __m256 dm = _mm256_xor_ps(half_at(w + 2), _mm256_set1_ps(-0.0f));
    t->s = _mm256_cvtepi32_ps(_mm256_mullo_epi32(s, sc));
    t->f = _mm256_mul_ps(half_at(w), x->d);
    t->m = _mm256_cvtepi32_ps(_mm256_mullo_epi32(mn, x->sum));
    t->fm = _mm256_mul_ps(dm, x->d);
}

/* qs[128] at `at`: 32 bytes are a block in their low nibbles and the next one in the high ones.
 * high[h], if there (Q5_K): bit k is the fifth bit of 16 values of block k and of block k + 4. */
INLINE void dot_k(Terms *t, const uint8_t *w, size_t at, const __m256i *high, const Eight *x)
{
    __m256i v[4];
    for (int k = 0; k < 4; k++) {
        __m256i sum = _mm256_setzero_si256();
        for (int h = 0; h < 2; h++) {
            const uint8_t *p = w + at + 32 * (k / 2) + 16 * h;
            __m256i q = load_pair(p, p + 64);
            q = low_bits(k % 2 ? _mm256_srli_epi16(q, 4) : q, 15);
            if (high) q = _mm256_or_si256(q, low_bits(_mm256_slli_epi16(high[h], 4 - k), 16));
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(q, x->q[k][h])); /* 4 * 31 * 127 */
        }
        v[k] = add_pairs(sum);
    }
    k_terms(t, w, sums(v), x);
}

INLINE void dot_q4_k(Terms *t, const uint8_t *w, const Eight *x)
{
    dot_k(t, w, 16, NULL, x);
}

INLINE void dot_q5_k(Terms *t, const uint8_t *w, const Eight *x)
{
    __m256i high[2];
    for (int h = 0; h < 2; h++) {
        __m128i b = load16(w + 16 + 16 * h);
        high[h] = _mm256_set_m128i(_mm_srli_epi16(b, 4), b);
    }
    dot_k(t, w, 48, high, x);
}

/* ql[128], qh[64], int8 scales[16], d. Here values are 0 .. 63, 32 more than they should be, which
 * comes off at the end; each half block has its scale. */
INLINE void dot_q6_k(Terms *t, const uint8_t *w, const Eight *x)
{
    __m256i v[4], sc = _mm256_cvtepi8_epi16(load16(w + 192));
    for (int k = 0; k < 4; k++) {
        v[k] = _mm256_setzero_si256();
        for (int h = 0; h < 2; h++) {
            const uint8_t *ql = w + 32 * (k % 2) + 16 * h, *qh = w + 128 + 16 * h;
            __m256i q = load_pair(ql, ql + 64), top = load_pair(qh, qh + 32);
            q = low_bits(k / 2 ? _mm256_srli_epi16(q, 4) : q, 15);
            top = k < 2 ? _mm256_slli_epi16(top, 4 - 2 * k) : _mm256_srli_epi16(top, 2 * k - 4);
            q = _mm256_or_si256(q, low_bits(top, 48));
            int at = 2 * (2 * k + h); /* of this scale, in both halves of sc */
            __m256i one = _mm256_shuffle_epi8(sc, _mm256_set1_epi16((short)((at + 1) << 8 | at)));
            __m256i part = _mm256_madd_epi16(_mm256_maddubs_epi16(q, x->q[k][h]), one);
            v[k] = _mm256_add_epi32(v[k], part);
        }
    }
    __m256i off = _mm256_slli_epi32(_mm256_madd_epi16(sc, x->half), 5);
    t->s = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums(v), off));
    t->f = _mm256_mul_ps(half_at(w + 208), x->d);
}

/* The terms of n blocks that follow each other, to place `at` on; x comes again after `period`
 * eights. bytes: of 8 blocks. */
INLINE void terms(Dot *dot, int has_min, size_t bytes, Waiting *to, int at, const uint8_t *w, int n,
                  const Eight *x, int period)
{
    for (int g = 0; n > 0; n -= 8, at += 8, w += bytes) {
        Terms t;
        if (n >= 8) {
            for (size_t i = 0; i < bytes; i += 64)
                _mm_prefetch((const char *)w + AHEAD + i, _MM_HINT_T1);
            dot(&t, w, x + g);
        } else {
            uint8_t last[8 * 34] = {0}; /* what comes from beyond the last block is not used */
            memcpy(last, w, (size_t)n * bytes / 8);
            dot(&t, last, x + g);
        }
        _mm256_storeu_ps(to->s + at, t.s);
        _mm256_storeu_ps(to->f + at, t.f);
        if (has_min) _mm256_storeu_ps(to->m + at, t.m);
        if (has_min) _mm256_storeu_ps(to->fm + at, t.fm);
        g = g + 1 < period ? g + 1 : 0;
    }
}

/* The terms of 4 blocks of 8 rows: out[k] holds those of block k. */
INLINE void terms_of(__m256 out[4], const float *t, const size_t row[8])
{
    __m256i v[4];
    const void *at[8];
    for (int r = 0; r < 8; r++) at[r] = t + row[r];
    turn(v, at, 0);
    for (int k = 0; k < 4; k++) out[k] = _mm256_castsi256_ps(v[k]);
}

/* y[r] += n terms of row r; row[r] is where they begin. qdot_base leaves out the minimum where dm
 * is 0; here it adds a zero to y, which changes nothing: y is never -0 (it begins as +0, and is a
 * sum of integers times factors, so it cannot vanish by rounding), and a factor NaN has made y NaN
 * by then. */
INLINE void chains(int has_min, float y[CHAINS], const Waiting *t, const size_t row[CHAINS], int n)
{
    __m256 acc[2] = {_mm256_loadu_ps(y), _mm256_loadu_ps(y + 8)};
    for (int b = 0; b < n; b += 4)
        for (int i = 0; i < 2; i++) {
            __m256 s[4], f[4], m[4], fm[4];
            terms_of(s, t->s + b, row + 8 * i);
            terms_of(f, t->f + b, row + 8 * i);
            if (has_min) terms_of(m, t->m + b, row + 8 * i);
            if (has_min) terms_of(fm, t->fm + b, row + 8 * i);
            for (int k = 0; k < 4 && b + k < n; k++) {
                acc[i] = _mm256_fmadd_ps(s[k], f[k], acc[i]);
                if (has_min) acc[i] = _mm256_fmadd_ps(m[k], fm[k], acc[i]);
            }
        }
    for (int i = 0; i < 2; i++) _mm256_storeu_ps(y + 8 * i, acc[i]);
}

/* y = w x. Blocks of a row are taken `part` at a time: all of them, but for very wide rows. Where
 * as many rows as end with the end of an eight have few enough eights, rows follow without a gap. */
INLINE void qmatvec(Dot *dot, int has_min, size_t bytes, float *y, const uint8_t *w, int rows,
                    const Q8 *x, int nb)
{
    Eight eight[EIGHTS];
    Waiting t;
    size_t row_bytes = (size_t)nb * bytes / 8, row[CHAINS];
    int period = nb / (nb % 8 == 0 ? 8 : nb % 4 == 0 ? 4 : nb % 2 == 0 ? 2 : 1), part = nb;
    int run = period <= EIGHTS;
    if (!run) {
        int parts = (nb - 1) / (8 * EIGHTS) + 1;
        period = (nb - 1) / 8 / parts + 1;
        part = 8 * period;
    }
    memset(y, 0, (size_t)rows * sizeof *y);
    for (int b0 = 0; b0 < nb; b0 += part) {
        int n = nb - b0 < part ? nb - b0 : part;
        int most = WAITING / n < CHAINS ? WAITING / n : CHAINS;
        for (int g = 0; g < period; g++) eight_from(&eight[g], x + b0, 8 * g, n);
        for (int r0 = 0, some; r0 < rows; r0 += some) {
            const uint8_t *from = w + (size_t)r0 * row_bytes + (size_t)b0 * bytes / 8;
            float sum[CHAINS] = {0};
            some = rows - r0 < most ? rows - r0 : most;
            for (int r = 0; r < (run ? 1 : some); r++, from += row_bytes)
                terms(dot, has_min, bytes, &t, r * n, from, run ? some * n : n, eight, period);
            for (int r = 0; r < CHAINS; r++) row[r] = (size_t)n * (size_t)(r < some ? r : 0);
            memcpy(sum, y + r0, (size_t)some * sizeof *y);
            chains(has_min, sum, &t, row, n);
            memcpy(y + r0, sum, (size_t)some * sizeof *y);
        }
    }
}

#define QMATVEC(type, has_min, bytes)                                                              \
    static void qmatvec_##type(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)          \
    {                                                                                              \
        qmatvec(dot_##type, has_min, bytes, y, w, rows, x, nb);                                    \
    }
QMATVEC(q8_0, 0, 8 * 34)
QMATVEC(q4_0, 0, 8 * 18)
QMATVEC(q4_1, 1, 8 * 20)
QMATVEC(q4_k, 1, 144)
QMATVEC(q5_k, 1, 176)
QMATVEC(q6_k, 0, 210)

/* ---------------------------------------------------------------- qmatmul
 * 8 weight rows stand side by side, one in each 32-bit lane, so no sum ever
 * crosses lanes. One block of them: q[k] holds values 4k .. 4k+3 of each row. */
#define QROWS 8
#define CHUNK 32 /* blocks turned side by side at a time: 12 KB of stack */

_Static_assert(offsetof(Q32, sc) == 32 && offsetof(Q32, mn) == 36 && offsetof(Q32, d) == 40 &&
                   offsetof(Q32, dm) == 44 && sizeof(Q32) == 48,
               "a Q32 is three columns of 16 bytes, the last one sc, mn, d, dm");

typedef struct {
    __m256i q[8], sc, mn; /* sc, mn: two 16-bit numbers per row, one for each half of the block */
    __m256 d, dm;
    int scaled, has_min;
} Wide;

/* Block b of 8 rows. */
static inline void widen(Wide *o, const void *const row[QROWS], int b)
{
    __m256i rest[4], ones = _mm256_set1_epi16(1);
    size_t at = (size_t)b * sizeof(Q32);
    turn(o->q, row, at);
    turn(o->q + 4, row, at + 16);
    turn(rest, row, at + 32);
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

/* Four products of each row, added. */
static inline __m256i four_products(__m256i w, const Q8 *x, int k)
{
    int32_t v;
    memcpy(&v, x->q + 4 * k, sizeof v);
    return signed_products(w, _mm256_set1_epi32(v));
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
    const void *row[QROWS];
    for (int r = 0; r < QROWS; r++) row[r] = w + (size_t)r * (size_t)nb;
    for (int b0 = 0; b0 < nb; b0 += CHUNK) {
        int n = nb - b0 < CHUNK ? nb - b0 : CHUNK;
        for (int b = 0; b < n; b++) widen(&wide[b], row, b0 + b);
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
    for (; nb && r + QROWS <= rows; r += QROWS)
        strip(y + r, ys, w + (size_t)r * (size_t)nb, x, xs, toks, nb);
    kernels_base.qmatmul(y + r, ys, w + (size_t)r * (size_t)nb, rows - r, x, xs, toks, nb);
}

/* ---------------------------------------------------------------- numbers */

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
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, load_f16((const void *)(in + i), 0));
    kernels_base.unpack_f16(out + i, in + i, n - i);
}

static void unpack_bf16(float *out, const uint16_t *in, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, load_bf16((const void *)(in + i), 0));
    kernels_base.unpack_bf16(out + i, in + i, n - i);
}

static void pack_f16(uint16_t *out, const float *in, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
    kernels_base.pack_f16(out + i, in + i, n - i);
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
    __m128i b = load16(p), low = _mm_set1_epi8(15);
    return _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(b, 4), low), _mm_and_si128(b, low));
}

static inline void store_q32(Q32 *o, __m256i q, float d, float dm)
{
    _mm256_storeu_si256((__m256i *)(void *)o->q, q);
    o->d = d;
    o->dm = dm;
    o->sc[0] = o->sc[1] = o->mn[0] = o->mn[1] = 1;
}

static inline float half_of(const uint8_t *p)
{
    return _mm256_cvtss_f32(half_at(p));
}

static void unpack_q4_0(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 18)
        store_q32(o, _mm256_sub_epi8(nibbles(p + 2), _mm256_set1_epi8(8)), half_of(p), 0);
}

static void unpack_q4_1(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 20) store_q32(o, nibbles(p + 4), half_of(p), half_of(p + 2));
}

static void unpack_q8_0(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 34)
        store_q32(o, _mm256_loadu_si256((const __m256i *)(const void *)(p + 2)), half_of(p), 0);
}

/* ---------------------------------------------------------------- attention */

/* 8 V channels of R rows: each value is loaded once for all rows. Row r sums keys[r] of them, the
 * first `common` together with the others; R and V are constant after inlining. */
INLINE void sum_block(int R, int V, float *out, size_t os, const float *a, size_t as,
                      const float *v, size_t vs, const int *keys, int common, int add)
{
    __m256 seg[8];
    for (int o = 0; o < R * V; o++) seg[o] = _mm256_setzero_ps();
    for (size_t t = 0; t < (size_t)common; t++)
        for (int i = 0; i < V; i++) {
            __m256 vv = in_register(_mm256_loadu_ps(v + t * vs + 8 * i));
            for (int r = 0; r < R; r++)
                seg[r * V + i] =
                    _mm256_fmadd_ps(_mm256_set1_ps(a[(size_t)r * as + t]), vv, seg[r * V + i]);
        }
    for (int r = 0; r < R; r++)
        for (size_t t = (size_t)common; (int)t < keys[r]; t++)
            for (int i = 0; i < V; i++)
                seg[r * V + i] =
                    _mm256_fmadd_ps(_mm256_set1_ps(a[(size_t)r * as + t]),
                                    _mm256_loadu_ps(v + t * vs + 8 * i), seg[r * V + i]);
    for (int o = 0; o < R * V; o++) {
        float *to = out + (size_t)(o / V) * os + 8 * (o % V);
        if (keys[o / V] < 1) continue;
        if (add) seg[o] = _mm256_add_ps(_mm256_loadu_ps(to), seg[o]);
        _mm256_storeu_ps(to, seg[o]);
    }
}

/* R rows, n / 8 * 8 channels. */
INLINE void sum_rows(int R, float *out, size_t os, const float *a, size_t as, const float *v,
                     size_t vs, int n_t, int step, int n, int add)
{
    int c = 0, keys[2], common = SUM_SEG;
    for (int r = 0; r < R; r++) {
        keys[r] = n_t + r * step < SUM_SEG ? n_t + r * step : SUM_SEG;
        common = keys[r] < common ? keys[r] : common;
    }
    if (common < 0) common = 0;
    for (; R == 1 && c + 64 <= n; c += 64)
        sum_block(R, 8, out + c, os, a, as, v + c, vs, keys, common, add);
    for (; c + 32 <= n; c += 32) sum_block(R, 4, out + c, os, a, as, v + c, vs, keys, common, add);
    for (; c + 8 <= n; c += 8) sum_block(R, 1, out + c, os, a, as, v + c, vs, keys, common, add);
}

static void weighted_sum(float *out, size_t os, const float *a, size_t as, int rows, const float *v,
                         size_t vs, int n_t, int step, int n, int add)
{
    int c = n / 8 * 8;
    if (c < n)
        kernels_base.weighted_sum(out + c, os, a, as, rows, v + c, vs, n_t, step, n - c, add);
    for (int i = 0, R; i < rows; i += R) {
        float *to = out + (size_t)i * os;
        const float *from = a + (size_t)i * as;
        R = rows - i < 2 ? 1 : 2;
        if (R == 2) sum_rows(2, to, os, from, as, v, vs, n_t + i * step, step, n, add);
        if (R == 1) sum_rows(1, to, os, from, as, v, vs, n_t + i * step, step, n, add);
    }
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

/* A NaN may get lost here: it comes back with its exponential. */
static float max_of_row(const float *x, int n)
{
    int i = 0;
    __m256 m[4];
    for (int g = 0; g < 4; g++) m[g] = _mm256_set1_ps(x[0]);
    for (; i + LANES <= n; i += LANES)
        for (int g = 0; g < 4; g++) m[g] = _mm256_max_ps(_mm256_loadu_ps(x + i + 8 * g), m[g]);
    float max = max8(_mm256_max_ps(_mm256_max_ps(m[0], m[1]), _mm256_max_ps(m[2], m[3])));
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

/* x = exp(x - max) of 8 values, of which n are there; the others are returned as 0. */
static inline __m256 exp_minus(float *x, __m256 max, int n)
{
    if (n >= 8) {
        __m256 v = exp8(_mm256_sub_ps(_mm256_loadu_ps(x), max));
        _mm256_storeu_ps(x, v);
        return v;
    }
    __m256i mask = mask_of(n);
    __m256 v = exp8(_mm256_sub_ps(_mm256_maskload_ps(x, mask), max));
    _mm256_maskstore_ps(x, mask, v);
    return _mm256_and_ps(v, _mm256_castsi256_ps(mask));
}

static void softmax(float *x, int n)
{
    __m256 lane[4], max = _mm256_set1_ps(max_of_row(x, n));
    for (int g = 0; g < 4; g++) lane[g] = _mm256_setzero_ps();
    for (int i = 0; i < n; i += LANES)
        for (int g = 0; g < 4; g++)
            if (i + 8 * g < n)
                lane[g] = _mm256_add_ps(lane[g], exp_minus(x + i + 8 * g, max, n - i - 8 * g));
    float inv = 1.0f / tree8(tree32(lane));
    for (int i = 0; i < n; i++) x[i] *= inv;
}

static inline __m256 act_exponent(int act, __m256 x)
{
    __m256 x2 = _mm256_mul_ps(x, x), p = _mm256_set1_ps(gelu_terms[0]);
    if (act == ACT_SILU) return x;
    if (act == ACT_GELU_TANH) {
        p = _mm256_set1_ps(GELU_TANH_3);
        return _mm256_mul_ps(x, _mm256_fmadd_ps(p, x2, _mm256_set1_ps(GELU_TANH_1)));
    }
    x2 = _mm256_min_ps(x2, _mm256_set1_ps(GELU_CUT));
    for (int i = 1; i < GELU_TERMS; i++)
        p = _mm256_fmadd_ps(p, x2, _mm256_set1_ps(gelu_terms[i]));
    return _mm256_mul_ps(x, p);
}

static void activate(int act, float *y, const float *g, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 x = _mm256_loadu_ps(g ? g + i : y + i), one = _mm256_set1_ps(1.0f);
        __m256 e = exp8(_mm256_xor_ps(act_exponent(act, x), _mm256_set1_ps(-0.0f)));
        __m256 a = _mm256_div_ps(x, _mm256_add_ps(one, e));
        _mm256_storeu_ps(y + i, g ? _mm256_mul_ps(a, _mm256_loadu_ps(y + i)) : a);
    }
    kernels_base.activate(act, y + i, g ? g + i : NULL, n - i);
}

/* ---------------------------------------------------------------- sums over tokens, for probes */

#define MOMENT_VALUES 2048 /* of some tokens, widened: half of the innermost cache */

/* Lanes of row i of the moments in columns c .. c + 3: from the diagonal on, to the end. */
static inline __m256i moment_lanes(int i, int c, int D)
{
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    int from = i < D ? i - c : 4;
    return _mm256_and_si256(_mm256_cmpgt_epi64(lane, _mm256_set1_epi64x(from - 1)),
                            _mm256_cmpgt_epi64(_mm256_set1_epi64x(D - c), lane));
}

/* Rows i .. i + 3 of the moments, columns c .. c + 7, over n tokens x, zs apart: sums stay in
 * registers. What lies left of the diagonal or past the end is neither read nor written. */
static void moments(double *m, const double *x, size_t zs, int n, int D, int i, int c)
{
    __m256d s[4][2];
    double *row[4];
    int whole = c >= i + 3 && c + 8 <= D && i + 4 <= D;
    for (int r = 0; r < 4; r++) {
        row[r] = m + (i + r) * (ptrdiff_t)D - (i + r) * (ptrdiff_t)(i + r + 1) / 2 + c;
        for (int g = 0; g < 2; g++)
            s[r][g] = whole ? _mm256_loadu_pd(row[r] + 4 * g)
                            : _mm256_maskload_pd(row[r] + 4 * g, moment_lanes(i + r, c + 4 * g, D));
    }
    for (int t = 0; t < n; t++, x += zs) {
        __m256d v0 = _mm256_load_pd(x + c), v1 = _mm256_load_pd(x + c + 4);
        for (int r = 0; r < 4; r++) {
            __m256d xi = _mm256_set1_pd(x[i + r]);
            s[r][0] = _mm256_fmadd_pd(xi, v0, s[r][0]);
            s[r][1] = _mm256_fmadd_pd(xi, v1, s[r][1]);
        }
    }
    for (int r = 0; r < 4; r++)
        for (int g = 0; g < 2; g++)
            if (whole)
                _mm256_storeu_pd(row[r] + 4 * g, s[r][g]);
            else
                _mm256_maskstore_pd(row[r] + 4 * g, moment_lanes(i + r, c + 4 * g, D), s[r][g]);
}

static void add_moments(double *m, const float *x, size_t xs, int toks, int D)
{
    _Alignas(32) double some[MOMENT_VALUES];
    int zs = (D + 3) / 4 * 4 + 4, most = MOMENT_VALUES / zs;
    if (!most) {
        kernels_base.add_moments(m, x, xs, toks, D);
        return;
    }
    for (int n; toks > 0; toks -= n) {
        n = toks < most ? toks : most;
        for (int t = 0; t < n; t++, x += xs)
            for (int c = 0; c < zs; c += 4) {
                __m128i k = _mm256_castsi256_si128(mask_of(D - c));
                _mm256_store_pd(some + t * zs + c, _mm256_cvtps_pd(_mm_maskload_ps(x + c, k)));
            }
        for (int i = 0; i < D; i += 4)
            for (int c = i; c < D; c += 8) moments(m, some, (size_t)zs, n, D, i, c);
    }
}

static inline __m256d load_wanted(const double *p, int at)
{
    return p ? _mm256_loadu_pd(p + at) : _mm256_setzero_pd();
}

static inline void store_wanted(double *p, int at, __m256d v)
{
    if (p) _mm256_storeu_pd(p + at, v);
}

static void values4(const ValueSums *s, const float *x, size_t xs, int toks, int c)
{
    __m256d sum = load_wanted(s->sum, c), size = load_wanted(s->size, c);
    __m256d square = load_wanted(s->square, c);
    __m128 most = s->most ? _mm_loadu_ps(s->most + c) : _mm_setzero_ps();
    for (int t = 0; t < toks; t++) {
        __m128 v = _mm_loadu_ps(x + (size_t)t * xs + c);
        __m128 abs = _mm_andnot_ps(_mm_set1_ps(-0.0f), v);
        __m256d d = _mm256_cvtps_pd(v);
        most = _mm_max_ps(abs, most); /* a NaN gives its second operand */
        sum = _mm256_add_pd(sum, d);
        size = _mm256_add_pd(size, _mm256_cvtps_pd(abs));
        square = _mm256_fmadd_pd(d, d, square);
    }
    store_wanted(s->sum, c, sum);
    store_wanted(s->size, c, size);
    store_wanted(s->square, c, square);
    if (s->most) _mm_storeu_ps(s->most + c, most);
}

static void add_values(const ValueSums *s, const float *x, size_t xs, int toks, int n)
{
    int c = 0;
    for (; c + 4 <= n; c += 4) values4(s, x, xs, toks, c);
    ValueSums rest = {s->sum ? s->sum + c : NULL, s->size ? s->size + c : NULL,
                      s->square ? s->square + c : NULL, s->most ? s->most + c : NULL};
    kernels_base.add_values(&rest, x + c, xs, toks, n - c);
}

/* Pairs j .. j + 3 of the token x. */
static inline __m256d radii4(const float *x, int j)
{
    __m128 lo = _mm_loadu_ps(x + 2 * j), hi = _mm_loadu_ps(x + 2 * j + 4);
    __m256d va = _mm256_cvtps_pd(_mm_shuffle_ps(lo, hi, 0x88));
    __m256d vb = _mm256_cvtps_pd(_mm_shuffle_ps(lo, hi, 0xdd));
    return _mm256_sqrt_pd(_mm256_fmadd_pd(va, va, _mm256_mul_pd(vb, vb)));
}

static void add_radii(const RadiusSums *s, const float *x, size_t xs, int toks)
{
    int j = 0;
    for (; j + 4 <= s->n; j += 4) {
        __m256d sum = _mm256_loadu_pd(s->sum + j), most = _mm256_loadu_pd(s->most + j);
        for (int t = 0; t < toks; t++) {
            __m256d r = radii4(x + (size_t)t * xs, j);
            sum = _mm256_add_pd(sum, r);
            most = _mm256_max_pd(r, most);
        }
        _mm256_storeu_pd(s->sum + j, sum);
        _mm256_storeu_pd(s->most + j, most);
    }
    for (; j < s->n; j++) {
        for (int t = 0; t < toks; t++) {
            const float *v = x + (size_t)t * xs + (size_t)j * 2;
            double a = (double)v[0], b = (double)v[1], r = sqrt(a * a + b * b);
            s->sum[j] += r;
            s->most[j] = r > s->most[j] ? r : s->most[j];
        }
    }
}

/* Half h of the parts. */
static inline void row_half(RowSums *s, int h, const float *a, const float *z, double t)
{
    __m256d w = _mm256_cvtps_pd(_mm_loadu_ps(a + 4 * h)), score = _mm256_loadu_pd(s->score + 4 * h);
    __m256d position = _mm256_loadu_pd(s->position + 4 * h);
    __m256d at = _mm256_add_pd(_mm256_set1_pd(t + 4 * h), _mm256_setr_pd(0, 1, 2, 3));
    score = _mm256_fmadd_pd(w, _mm256_cvtps_pd(_mm_loadu_ps(z + 4 * h)), score);
    _mm256_storeu_pd(s->score + 4 * h, score);
    _mm256_storeu_pd(s->position + 4 * h, _mm256_fmadd_pd(w, at, position));
    _mm256_storeu_pd(s->weight + 4 * h, _mm256_add_pd(_mm256_loadu_pd(s->weight + 4 * h), w));
}

static void add_row(RowSums *s, const float *a, const float *z, int t, int n)
{
    int i = 0;
    for (; i + PARTS <= n; i += PARTS) {
        for (int h = 0; h < 2; h++) row_half(s, h, a + i, z + i, t + i);
        _mm256_storeu_ps(s->max, _mm256_max_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(s->max)));
        _mm256_storeu_ps(s->top, _mm256_max_ps(_mm256_loadu_ps(z + i), _mm256_loadu_ps(s->top)));
    }
    kernels_base.add_row(s, a + i, z + i, t + i, n - i);
}

/* ---------------------------------------------------------------- peaks, for `bench` */

static double peak_float(int rounds)
{
    volatile float sink;
    __m256 a[12];
    for (int i = 0; i < 12; i++) a[i] = _mm256_setzero_ps();
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < 12; i++)
            a[i] = _mm256_fmadd_ps(a[i], _mm256_set1_ps(0.5f), _mm256_set1_ps(1));
    for (int i = 0; i < 12; i++) sink = tree8(a[i]);
    (void)sink;
    return 2.0 * 8 * 12 * rounds;
}

/* in_register: the products would be taken out of the loop. */
static double peak_int8(int rounds)
{
    volatile float sink;
    __m256i a[8];
    __m256 b = _mm256_castsi256_ps(_mm256_set1_epi8((char)(rounds % 100)));
    for (int i = 0; i < 8; i++) a[i] = _mm256_setzero_si256();
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < 8; i++) {
            __m256i w = _mm256_castps_si256(b = in_register(b));
            a[i] = _mm256_add_epi32(a[i], add_pairs(_mm256_maddubs_epi16(w, w)));
        }
    for (int i = 0; i < 8; i++) sink = tree8(_mm256_cvtepi32_ps(a[i]));
    (void)sink;
    return 2.0 * 32 * 8 * rounds;
}

/* clang-format off */
const Kernels kernels_avx2 = {
    .name = "avx2",
    .usable = usable,
    .matmul = matmul,
    .qmatmul = qmatmul,
    .matvec = {[T_F32] = matvec_f32, [T_F16] = matvec_f16, [T_BF16] = matvec_bf16,
               [T_Q8_0] = matvec_q8_0, [T_Q4_0] = matvec_q4_0, [T_Q4_1] = matvec_q4_1},
    .qmatvec = {[T_Q8_0] = qmatvec_q8_0, [T_Q4_0] = qmatvec_q4_0, [T_Q4_1] = qmatvec_q4_1,
                [T_Q4_K] = qmatvec_q4_k, [T_Q5_K] = qmatvec_q5_k, [T_Q6_K] = qmatvec_q6_k},
    .quantize = quantize,
    .unpack_f16 = unpack_f16,
    .unpack_bf16 = unpack_bf16,
    .unpack_q32 = unpack_q32,
    .pack_f16 = pack_f16,
    .unpack = {[T_Q4_0] = unpack_q4_0, [T_Q4_1] = unpack_q4_1, [T_Q8_0] = unpack_q8_0},
    .weighted_sum = weighted_sum,
    .softmax = softmax,
    .activate = activate,
    .add_moments = add_moments,
    .add_values = add_values,
    .add_radii = add_radii,
    .add_row = add_row,
    .peak_float = peak_float,
    .peak_int8 = peak_int8};
/* clang-format on */
#endif
