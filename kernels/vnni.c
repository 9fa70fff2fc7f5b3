/* Integer products for x86-64 with AVX-512 VNNI (Ice Lake, Zen 4, and later); everything else is
 * taken from AVX-512. The scalar twin, and what it computes, is qmatmul_base in run.c.
 *
 * For prompts 16 weight rows stand side by side, one in each 32-bit lane, so no sum ever crosses
 * lanes: vpdpbusd adds four products of one row to its lane. For single tokens see below. */
#include "../model.h"

#ifdef __AVX512VNNI__
#include <immintrin.h>

#define ROWS  16
#define CHUNK 32 /* blocks turned side by side at a time: 26 KB of stack */

_Static_assert(offsetof(Q32, sc) == 32 && offsetof(Q32, mn) == 36 && offsetof(Q32, d) == 40 &&
                   offsetof(Q32, dm) == 44 && sizeof(Q32) == 48,
               "a Q32 is three columns of 16 bytes, the last one sc, mn, d, dm");

/* One block of 16 rows: q[k] holds values 4k .. 4k+3 of each row, plus `offset` to be unsigned. */
typedef struct {
    __m512i q[8], sc, mn; /* sc, mn: two 16-bit numbers per row, one for each half of the block */
    __m512 d, dm;
    int offset, scaled; /* scaled: is any sc or mn not 1? else they are not set */
    __mmask16 has_min;
} Wide;

/* Turns block b of 16 rows side by side; row[r] is where row r begins. */
typedef void Load(Wide *o, const uint8_t *const row[ROWS], int b);

static int usable(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

static inline __m128i load16(const uint8_t *p)
{
    return _mm_loadu_si128((const void *)p);
}

/* The 16 bytes at offset `at` of 16 rows, transposed: out[k] holds the k-th 4 bytes of each row. */
static inline void turn(__m512i out[4], const uint8_t *const row[ROWS], size_t at)
{
    __m512i a[4];
    for (int j = 0; j < 4; j++) {
        a[j] = _mm512_castsi128_si512(load16(row[j] + at));
        a[j] = _mm512_inserti32x4(a[j], load16(row[j + 4] + at), 1);
        a[j] = _mm512_inserti32x4(a[j], load16(row[j + 8] + at), 2);
        a[j] = _mm512_inserti32x4(a[j], load16(row[j + 12] + at), 3);
    }
    __m512i lo01 = _mm512_unpacklo_epi32(a[0], a[1]), lo23 = _mm512_unpacklo_epi32(a[2], a[3]);
    __m512i hi01 = _mm512_unpackhi_epi32(a[0], a[1]), hi23 = _mm512_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm512_unpacklo_epi64(lo01, lo23);
    out[1] = _mm512_unpackhi_epi64(lo01, lo23);
    out[2] = _mm512_unpacklo_epi64(hi01, hi23);
    out[3] = _mm512_unpackhi_epi64(hi01, hi23);
}

/* Bytes at + 0..31 of each row are signed values: the sign bit flipped makes them unsigned. */
static inline void load_signed(Wide *o, const uint8_t *const row[ROWS], size_t at)
{
    turn(o->q, row, at);
    turn(o->q + 4, row, at + 16);
    for (int k = 0; k < 8; k++) o->q[k] = _mm512_xor_si512(o->q[k], _mm512_set1_epi8(-128));
    o->offset = 128;
}

static inline void load_q32(Wide *o, const uint8_t *const row[ROWS], int b)
{
    __m512i rest[4], ones = _mm512_set1_epi16(1);
    size_t at = (size_t)b * sizeof(Q32);
    load_signed(o, row, at);
    turn(rest, row, at + 32);
    o->sc = rest[0];
    o->mn = rest[1];
    o->d = _mm512_castsi512_ps(rest[2]);
    o->dm = _mm512_castsi512_ps(rest[3]);
    o->scaled =
        (_mm512_cmpneq_epi16_mask(o->sc, ones) | _mm512_cmpneq_epi16_mask(o->mn, ones)) != 0;
    o->has_min = _mm512_cmp_ps_mask(o->dm, _mm512_setzero_ps(), _CMP_NEQ_UQ);
}

/* lo * a + hi * b with the two 16-bit numbers of each row. */
static inline __m512i weigh(__m512i pair, __m512i a, __m512i b)
{
    __m512i lo = _mm512_srai_epi32(_mm512_slli_epi32(pair, 16), 16);
    __m512i hi = _mm512_srai_epi32(pair, 16);
    return _mm512_add_epi32(_mm512_mullo_epi32(lo, a), _mm512_mullo_epi32(hi, b));
}

static inline __m512i four(const Q8 *x, int k)
{
    int32_t v;
    __builtin_memcpy(&v, x->q + 4 * k, sizeof v);
    return _mm512_set1_epi32(v);
}

/* acc + one block of 16 rows times one token. The sums start at -offset sum x, which takes the
 * offset of the weights back out. */
static inline __m512 block(__m512 acc, const Wide *w, const Q8 *x)
{
    __m512i half[2], sum, min;
    for (int g = 0; g < 2; g++) {
        half[g] = _mm512_set1_epi32(-w->offset * x->sum[g]);
        for (int k = 0; k < 4; k++)
            half[g] = _mm512_dpbusd_epi32(half[g], w->q[4 * g + k], four(x, 4 * g + k));
    }
    __m512 dx = _mm512_set1_ps(x->d);
    sum = w->scaled ? weigh(w->sc, half[0], half[1]) : _mm512_add_epi32(half[0], half[1]);
    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(w->d, dx), acc);
    if (!w->has_min) return acc;
    min = _mm512_set1_epi32(x->sum[0] + x->sum[1]);
    if (w->scaled) min = weigh(w->mn, _mm512_set1_epi32(x->sum[0]), _mm512_set1_epi32(x->sum[1]));
    return _mm512_mask3_fmadd_ps(_mm512_cvtepi32_ps(min), _mm512_mul_ps(w->dm, dx), acc,
                                 w->has_min);
}

/* T tokens (constant after inlining) times n blocks, added to y (first: to nothing). */
static inline __attribute__((always_inline)) void tokens(int T, float *y, size_t ys, __mmask16 rows,
                                                         const Wide *w, int n, const Q8 *x,
                                                         size_t xs, int first)
{
    __m512 acc[4];
    for (int i = 0; i < T; i++)
        acc[i] = first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, y + (size_t)i * ys);
    for (int b = 0; b < n; b++)
        for (int i = 0; i < T; i++) acc[i] = block(acc[i], w + b, x + (size_t)i * xs + b);
    for (int i = 0; i < T; i++) _mm512_mask_storeu_ps(y + (size_t)i * ys, rows, acc[i]);
}

/* Up to 16 rows times all tokens. Rows that are not there repeat the last; they are not stored. */
static inline __attribute__((always_inline)) void strip(Load *load, float *y, size_t ys,
                                                        const uint8_t *w, size_t row_bytes,
                                                        int rows, const Q8 *x, size_t xs, int toks,
                                                        int nb)
{
    Wide wide[CHUNK];
    const uint8_t *row[ROWS];
    __mmask16 mask = (__mmask16)((1u << rows) - 1);
    for (int r = 0; r < ROWS; r++) row[r] = w + (size_t)(r < rows ? r : rows - 1) * row_bytes;
    for (int b0 = 0; b0 < nb; b0 += CHUNK) {
        int n = nb - b0 < CHUNK ? nb - b0 : CHUNK, i = 0;
        for (int b = 0; b < n; b++) load(&wide[b], row, b0 + b);
        for (; i + 4 <= toks; i += 4)
            tokens(4, y + (size_t)i * ys, ys, mask, wide, n, x + (size_t)i * xs + b0, xs, b0 == 0);
        for (; i < toks; i++)
            tokens(1, y + (size_t)i * ys, ys, mask, wide, n, x + (size_t)i * xs + b0, xs, b0 == 0);
    }
}

static inline __attribute__((always_inline)) void strips(Load *load, float *y, size_t ys,
                                                         const uint8_t *w, size_t row_bytes,
                                                         int rows, const Q8 *x, size_t xs, int toks,
                                                         int nb)
{
    for (int i = 0; nb == 0 && i < toks; i++)
        for (int r = 0; r < rows; r++) y[(size_t)i * ys + (size_t)r] = 0;
    for (int r = 0; r < rows; r += ROWS)
        strip(load, y + r, ys, w + (size_t)r * row_bytes, row_bytes,
              rows - r < ROWS ? rows - r : ROWS, x, xs, toks, nb);
}

static void qmatmul(float *y, size_t ys, const Q32 *w, int rows, const Q8 *x, size_t xs, int toks,
                    int nb)
{
    strips(load_q32, y, ys, (const uint8_t *)w, (size_t)nb * sizeof *w, rows, x, xs, toks, nb);
}

/* Matrix times vector, from the file's rows, one after the other: they are read as one stream.
 *
 * 16 blocks at a time, of one row or of two. Products of four weights stand in 32-bit lanes; the
 * lanes of a block are then added across, which leaves S_b of 16 blocks in one vector. The sum over
 * blocks is one chain per row: it waits in `Terms` until 16 rows (of wide ones, fewer) go down
 * their chains side by side. A stream that is left and taken up again is read at half the speed. */
#define GROUP   16   /* blocks */
#define TERMS   3072 /* blocks that wait, of all rows */
#define CHAINS  16   /* rows: two vectors, so that one waits while the other adds */
#define PERIODS 48   /* groups of activations, at most */
#define AHEAD   8192 /* bytes fetched in advance, to L2 */

/* 16 blocks of activations, halves of blocks in the order in which a type meets them. */
typedef struct {
    __m512i q[8];
    __m512i sum[2], all; /* of each half of blocks 0 .. 15, and of both */
    __m512 d;
} X16;

/* S_b, d_b dx_b, and for types with a minimum M_b, dm_b dx_b. */
typedef struct {
    float s[TERMS + GROUP], p[TERMS + GROUP], m[TERMS + GROUP], pm[TERMS + GROUP];
} Terms;

/* The terms of 16 blocks that begin at p, to place b of t. */
typedef void Sixteen(Terms *t, int b, const uint8_t *p, const X16 *x);

/* Place i of X16.q, 16 bytes, holds half order[i] % 2 of block order[i] / 2. */
typedef uint8_t Order[32];

/* Group g of activations, when blocks 0 .. nb-1 follow each other again and again. */
static void arrange(X16 *o, const Order order, const Q8 *x, int g, int nb)
{
    float d[GROUP];
    int32_t sum[2][GROUP];
    uint8_t *to = (uint8_t *)o->q;
    const Q8 *at[GROUP];
    for (int i = 0; i < GROUP; i++) {
        at[i] = x + (g * GROUP + i) % nb;
        d[i] = at[i]->d;
        sum[0][i] = at[i]->sum[0];
        sum[1][i] = at[i]->sum[1];
    }
    for (int i = 0; i < 32; i++, to += 16)
        __builtin_memcpy(to, at[order[i] / 2]->q + 16 * (order[i] % 2), 16);
    o->d = _mm512_loadu_ps(d);
    for (int h = 0; h < 2; h++) o->sum[h] = _mm512_loadu_si512(sum[h]);
    o->all = _mm512_add_epi32(o->sum[0], o->sum[1]);
}

/* a[i] holds four lanes for each of four blocks, 4i .. 4i+3: added, and in the order of blocks. */
static inline __m512i across(const __m512i a[4])
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i p =
        _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
    __m512i q =
        _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));
    p = _mm512_add_epi32(_mm512_unpacklo_epi64(p, q), _mm512_unpackhi_epi64(p, q));
    return _mm512_permutexvar_epi32(order, p); /* from a transpose of what is wanted */
}

static inline void put(float *to, __m512i s)
{
    _mm512_storeu_ps(to, _mm512_cvtepi32_ps(s));
}

/* Quarters of 16 bytes at p, p + step, p + 2 step, p + 3 step. */
static inline __m512i quarters(const uint8_t *p, size_t step)
{
    __m512i v = _mm512_castsi128_si512(load16(p));
    v = _mm512_inserti32x4(v, load16(p + step), 1);
    v = _mm512_inserti32x4(v, load16(p + 2 * step), 2);
    return _mm512_inserti32x4(v, load16(p + 3 * step), 3);
}

/* Sums of 16 blocks of `size` bytes, nibbles from byte `at` on; four blocks at a time, first
 * their first halves, then their second ones. */
static inline __m512i nibble_sums(const uint8_t *p, size_t size, size_t at, const X16 *x)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i a[4];
    for (size_t i = 0; i < 4; i++) {
        __m512i v = quarters(p + 4 * i * size + at, size);
        __m512i lo = _mm512_and_si512(v, low);
        __m512i hi = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        a[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lo, x->q[2 * i]);
        a[i] = _mm512_dpbusd_epi32(a[i], hi, x->q[2 * i + 1]);
    }
    return across(a);
}

/* The first 16-bit numbers of 16 blocks of `size` <= 34 bytes, then the second ones: four blocks at
 * a time, of which one load reaches all of 18 and 20 bytes. */
static inline __m512i heads(const uint8_t *p, int size)
{
    const short h = (short)(size / 2), h2 = (short)(2 * h), h3 = (short)(3 * h);
    const __m512i at = _mm512_inserti64x4(
        _mm512_set1_epi64((long long)h << 16 | (long long)h2 << 32 | (long long)h3 << 48),
        _mm256_set1_epi64x(1 | (long long)(h + 1) << 16 | (long long)(h2 + 1) << 32 |
                           (long long)(h3 + 1) << 48),
        1);
    __m512i out = _mm512_setzero_si512();
    for (int j = 0; j < 4; j++, p += 4 * size) {
        __mmask32 quad = 0x000f000fu << 4 * j;
        __m512i a = _mm512_loadu_si512(p);
        if (size <= 20)
            out = _mm512_mask_permutexvar_epi16(out, quad, at, a);
        else
            out = _mm512_mask_mov_epi16(
                out, quad, _mm512_permutex2var_epi16(a, at, _mm512_loadu_si512(p + 64)));
    }
    return out;
}

static inline __m512 first_heads(__m512i heads)
{
    return _mm512_cvtph_ps(_mm512_castsi512_si256(heads));
}

static inline __m512 second_heads(__m512i heads)
{
    return _mm512_cvtph_ps(_mm512_extracti64x4_epi64(heads, 1));
}

static inline void sixteen_q4_0(Terms *t, int b, const uint8_t *p, const X16 *x)
{
    __m512i off = _mm512_slli_epi32(x->all, 3);
    put(t->s + b, _mm512_sub_epi32(nibble_sums(p, 18, 2, x), off));
    _mm512_storeu_ps(t->p + b, _mm512_mul_ps(first_heads(heads(p, 18)), x->d));
}

static inline void sixteen_q4_1(Terms *t, int b, const uint8_t *p, const X16 *x)
{
    put(t->s + b, nibble_sums(p, 20, 4, x));
    put(t->m + b, x->all);
    __m512i h = heads(p, 20);
    _mm512_storeu_ps(t->p + b, _mm512_mul_ps(first_heads(h), x->d));
    _mm512_storeu_ps(t->pm + b, _mm512_mul_ps(second_heads(h), x->d));
}

/* Four lanes per block from eight, of two vectors of two blocks each: blocks 0, 1 of a, then b. */
static inline __m512i fold(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

static inline __m512i pair_q8_0(const uint8_t *p, const __m512i *q)
{
    __m512i w = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(p + 2)));
    w = _mm512_inserti64x4(w, _mm256_loadu_si256((const void *)(p + 36)), 1);
    w = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, *q);
}

static inline void sixteen_q8_0(Terms *t, int b, const uint8_t *p, const X16 *x)
{
    __m512i a[4], off = _mm512_slli_epi32(x->all, 7);
    for (int i = 0; i < 4; i++)
        a[i] = fold(pair_q8_0(p + 136 * i, &x->q[2 * i]),
                    pair_q8_0(p + 136 * i + 68, &x->q[2 * i + 1]));
    put(t->s + b, _mm512_sub_epi32(across(a), off));
    _mm512_storeu_ps(t->p + b, _mm512_mul_ps(first_heads(heads(p, 34)), x->d));
}

/* The 6-bit scales and minima (k_scale_min in run.c) of two super-blocks, a byte for each group. */
static inline void k_scales(__m128i *sc, __m128i *mn, const uint8_t *p0, const uint8_t *p1)
{
    const __m128i six = _mm_set1_epi32(0x3f3f3f3f), four = _mm_set1_epi32(0x0f0f0f0f);
    __m128i v0 = load16(p0), v1 = load16(p1); /* three words count */
    __m128i x = _mm_unpacklo_epi32(v0, v1), c = _mm_unpackhi_epi32(v0, v1);
    c = _mm_srlv_epi32(_mm_unpacklo_epi64(c, c), _mm_setr_epi32(0, 0, 4, 4));
    __m128i top = _mm_and_si128(_mm_srli_epi32(x, 2), _mm_set1_epi32(0x30303030));
    __m128i lo = _mm_and_si128(x, six), hi = _mm_or_si128(_mm_and_si128(c, four), top);
    *sc = _mm_unpacklo_epi32(lo, hi);
    *mn = _mm_unpackhi_epi32(lo, hi);
}

/* One number for each of two super-blocks, eight times. */
static inline __m512 eight_each(float a, float b)
{
    return _mm512_insertf32x8(_mm512_set1_ps(a), _mm256_set1_ps(b), 1);
}

static inline float half_at(const uint8_t *p)
{
    return _cvtsh_ss((unsigned short)(p[0] | p[1] << 8));
}

/* A super-block of Q4_K: four lanes for each of groups 0 .. 3 and 4 .. 7. Bytes 32 i .. 32 i + 31
 * are the nibbles of groups 2 i, low, and 2 i + 1. */
static inline void super_q4_k(__m512i a[2], const uint8_t *p, const __m512i q[4])
{
    const __m512i low = _mm512_set1_epi8(15), zero = _mm512_setzero_si512();
    for (int i = 0; i < 2; i++) {
        __m512i v = _mm512_loadu_si512(p + 16 + 64 * i);
        __m512i lo = _mm512_dpbusd_epi32(zero, _mm512_and_si512(v, low), q[2 * i]);
        v = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        __m512i hi = _mm512_dpbusd_epi32(zero, v, q[2 * i + 1]);
        a[i] = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 4, 5, 2, 3, 6, 7), fold(lo, hi));
    }
}

static inline void sixteen_q4_k(Terms *t, int b, const uint8_t *p, const X16 *x)
{
    const uint8_t *p1 = p + 144;
    __m128i sc, mn;
    __m512i a[4];
    super_q4_k(a, p, x->q);
    super_q4_k(a + 2, p1, x->q + 4);
    k_scales(&sc, &mn, p + 4, p1 + 4);
    __m512i s = across(a);
    put(t->s + b, _mm512_mullo_epi32(s, _mm512_cvtepu8_epi32(sc)));
    put(t->m + b, _mm512_mullo_epi32(x->all, _mm512_cvtepu8_epi32(mn)));
    _mm512_storeu_ps(t->p + b, _mm512_mul_ps(eight_each(half_at(p), half_at(p1)), x->d));
    __m512 dm = eight_each(-half_at(p + 2), -half_at(p1 + 2));
    _mm512_storeu_ps(t->pm + b, _mm512_mul_ps(dm, x->d));
}

/* Half h of a super-block of Q6_K: products of its groups 0 1 and 2 3, then the lanes of the first
 * half of each of the four groups, and of the second. */
static inline void half_q6_k(__m512i *first, __m512i *second, const uint8_t *p, int h,
                             const __m512i q[2])
{
    const __m512i low = _mm512_set1_epi8(15), zero = _mm512_setzero_si512();
    const __m512i two = _mm512_set1_epi8(0x30);
    __m512i l = _mm512_loadu_si512(p + 64 * h);
    __m512i high = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)(p + 128 + 32 * h)));
    high = _mm512_mask_srli_epi32(high, 0xff00, high, 2); /* bits 2k, 2k + 1 belong to group k */
    __m512i lo = _mm512_and_si512(_mm512_slli_epi16(high, 4), two);
    __m512i hi = _mm512_and_si512(high, two);
    lo = _mm512_or_si512(lo, _mm512_and_si512(l, low));
    hi = _mm512_or_si512(hi, _mm512_and_si512(_mm512_srli_epi16(l, 4), low));
    lo = _mm512_dpbusd_epi32(zero, lo, q[0]);
    hi = _mm512_dpbusd_epi32(zero, hi, q[1]);
    *first = _mm512_shuffle_i32x4(lo, hi, 0x88);
    *second = _mm512_shuffle_i32x4(lo, hi, 0xdd);
}

static inline void sixteen_q6_k(Terms *t, int b, const uint8_t *p, const X16 *x)
{
    const uint8_t *p1 = p + 210;
    __m512i a[2][4], s = _mm512_setzero_si512();
    for (int i = 0; i < 4; i++) half_q6_k(&a[0][i], &a[1][i], i < 2 ? p : p1, i % 2, x->q + 2 * i);
    /* 16-bit pairs of scales, for the two halves of 16 groups */
    __m512i sc = _mm512_cvtepi8_epi16(_mm256_set_m128i(load16(p1 + 192), load16(p + 192)));
    __m512i of[2] = {_mm512_srai_epi32(_mm512_slli_epi32(sc, 16), 16), _mm512_srai_epi32(sc, 16)};
    for (int g = 0; g < 2; g++) {
        __m512i sum = across(a[g]);
        sum = _mm512_sub_epi32(sum, _mm512_slli_epi32(x->sum[g], 5));
        s = _mm512_add_epi32(s, _mm512_mullo_epi32(sum, of[g]));
    }
    put(t->s + b, s);
    __m512 d = eight_each(half_at(p + 208), half_at(p1 + 208));
    _mm512_storeu_ps(t->p + b, _mm512_mul_ps(d, x->d));
}

/* 8 blocks of 8 rows: out[b] holds block b of each; row[r] is where row r begins. */
static inline void turn8(__m256 out[8], const float *t, const size_t row[8])
{
    for (int g = 0; g < 8; g += 4) {
        __m256 a[4];
        for (int i = 0; i < 4; i++)
            a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(t + row[i] + g)),
                                        _mm_loadu_ps(t + row[i + 4] + g), 1);
        __m256d l0 = _mm256_castps_pd(_mm256_unpacklo_ps(a[0], a[1]));
        __m256d l2 = _mm256_castps_pd(_mm256_unpacklo_ps(a[2], a[3]));
        __m256d h0 = _mm256_castps_pd(_mm256_unpackhi_ps(a[0], a[1]));
        __m256d h2 = _mm256_castps_pd(_mm256_unpackhi_ps(a[2], a[3]));
        out[g] = _mm256_castpd_ps(_mm256_unpacklo_pd(l0, l2));
        out[g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(l0, l2));
        out[g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(h0, h2));
        out[g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(h0, h2));
    }
}

/* y[r] += n terms of row r, CHAINS rows side by side; row[r] is where they begin. */
static inline void chains(float y[CHAINS], const Terms *t, const size_t row[CHAINS], int n,
                          int has_min)
{
    __m256 sum[2] = {_mm256_loadu_ps(y), _mm256_loadu_ps(y + 8)}, s[2][8], p[2][8], m[2][8],
           pm[2][8];
    for (int b0 = 0; b0 < n; b0 += 8) {
        int some = n - b0 < 8 ? n - b0 : 8;
        for (int g = 0; g < 2; g++) turn8(s[g], t->s + b0, row + 8 * g);
        for (int g = 0; g < 2; g++) turn8(p[g], t->p + b0, row + 8 * g);
        for (int g = 0; has_min && g < 2; g++) turn8(m[g], t->m + b0, row + 8 * g);
        for (int g = 0; has_min && g < 2; g++) turn8(pm[g], t->pm + b0, row + 8 * g);
        for (int b = 0; b < 8 && b < some; b++)
            for (int g = 0; g < 2; g++) {
                sum[g] = _mm256_fmadd_ps(s[g][b], p[g][b], sum[g]);
                if (has_min) sum[g] = _mm256_fmadd_ps(m[g][b], pm[g][b], sum[g]);
            }
    }
    for (int g = 0; g < 2; g++) _mm256_storeu_ps(y + 8 * g, sum[g]);
}

/* How a type is read. */
typedef struct {
    Sixteen *sixteen;
    size_t bytes; /* of 16 blocks */
    int has_min;
    const uint8_t *order;
} Direct;

/* The terms of n blocks that follow each other, to place `at` on; x comes again after `period`
 * groups. The last group may be cut short: what it writes beyond is not used. */
static inline __attribute__((always_inline)) void
terms(Terms *t, int at, Direct k, const uint8_t *p, int n, const X16 *x, int period)
{
    int g = 0;
    for (; n >= GROUP; n -= GROUP, at += GROUP, p += k.bytes) {
        for (size_t i = 0; i < k.bytes; i += 64)
            _mm_prefetch((const char *)p + i + AHEAD, _MM_HINT_T1);
        k.sixteen(t, at, p, &x[g]);
        g = g + 1 < period ? g + 1 : 0;
    }
    if (n == 0) return;
    uint8_t last[GROUP * 34] = {0};
    __builtin_memcpy(last, p, k.bytes * (size_t)n / GROUP);
    k.sixteen(t, at, last, &x[g]);
}

/* What the rows of one call have in common. */
typedef struct {
    int nb;     /* blocks of a row */
    int part;   /* blocks taken at a time: all of them, but for rows that are very wide or odd */
    int period; /* groups after which x comes again: of rows that end with the end of a group */
} Plan;

static Plan plan_rows(int nb)
{
    int rows = 1;
    while (rows * nb % GROUP) rows *= 2;
    if (rows * nb <= PERIODS * GROUP) return (Plan){nb, nb, rows * nb / GROUP};
    int most = PERIODS * GROUP, parts = (nb + most - 1) / most;
    int groups = (nb - 1) / GROUP / parts + 1;
    return (Plan){nb, groups * GROUP, groups};
}

/* y += blocks b0 .. b0+n-1 of `rows` <= CHAINS rows. Rows taken whole follow each other without a
 * gap. */
static inline __attribute__((always_inline)) void strip16(Terms *t, Direct k, const Plan *plan,
                                                          float *y, const uint8_t *w, int rows,
                                                          const X16 *x, int b0, int n)
{
    float sum[CHAINS] = {0};
    size_t bytes = (size_t)plan->nb * k.bytes / GROUP, row[CHAINS];
    int whole = plan->part == plan->nb;
    w += (size_t)b0 * k.bytes / GROUP;
    if (whole) terms(t, 0, k, w, rows * n, x, plan->period);
    for (int r = 0; !whole && r < rows; r++)
        terms(t, r * n, k, w + (size_t)r * bytes, n, x, plan->period);
    for (int r = 0; r < CHAINS; r++) row[r] = (size_t)n * (size_t)(r < rows ? r : 0);
    __builtin_memcpy(sum, y, (size_t)rows * sizeof *y);
    chains(sum, t, row, n, k.has_min);
    __builtin_memcpy(y, sum, (size_t)rows * sizeof *y);
}

/* y = w x for rows of nb blocks; k is constant after inlining. 88 KB of stack. */
static inline __attribute__((always_inline)) void direct(Direct k, float *y, const uint8_t *w,
                                                         int rows, const Q8 *x, int nb)
{
    X16 xs[PERIODS];
    Terms t;
    for (int r = 0; r < rows; r++) y[r] = 0;
    if (nb == 0) return;
    Plan plan = plan_rows(nb);
    size_t bytes = (size_t)nb * k.bytes / GROUP;
    int most = TERMS / plan.part < CHAINS ? TERMS / plan.part : CHAINS;
    for (int b0 = 0; b0 < nb; b0 += plan.part) {
        int n = nb - b0 < plan.part ? nb - b0 : plan.part;
        for (int g = 0; g < plan.period; g++) arrange(&xs[g], k.order, x + b0, g, n);
        for (int r = 0; r < rows; r += most)
            strip16(&t, k, &plan, y + r, w + (size_t)r * bytes, rows - r < most ? rows - r : most,
                    xs, b0, n);
    }
}

/* Places of X16.q: half h of blocks b .. b + 3, or both halves of two blocks. */
#define QUAD(b, h) 2 * (b) + h, 2 * (b) + 2 + h, 2 * (b) + 4 + h, 2 * (b) + 6 + h
#define PAIR(a, b) 2 * (a), 2 * (a) + 1, 2 * (b), 2 * (b) + 1

static const Order by_halves = {QUAD(0, 0), QUAD(0, 1), QUAD(4, 0),  QUAD(4, 1),
                                QUAD(8, 0), QUAD(8, 1), QUAD(12, 0), QUAD(12, 1)};
static const Order by_blocks = {PAIR(0, 1), PAIR(2, 3),   PAIR(4, 5),   PAIR(6, 7),
                                PAIR(8, 9), PAIR(10, 11), PAIR(12, 13), PAIR(14, 15)};
static const Order by_parity = {PAIR(0, 2),  PAIR(1, 3),  PAIR(4, 6),   PAIR(5, 7),
                                PAIR(8, 10), PAIR(9, 11), PAIR(12, 14), PAIR(13, 15)};

static void qmatvec_q4_0(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)
{
    direct((Direct){sixteen_q4_0, 16 * 18, 0, by_halves}, y, w, rows, x, nb);
}

static void qmatvec_q4_1(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)
{
    direct((Direct){sixteen_q4_1, 16 * 20, 1, by_halves}, y, w, rows, x, nb);
}

static void qmatvec_q8_0(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)
{
    direct((Direct){sixteen_q8_0, 16 * 34, 0, by_blocks}, y, w, rows, x, nb);
}

static void qmatvec_q4_k(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)
{
    direct((Direct){sixteen_q4_k, 2 * 144, 1, by_parity}, y, w, rows, x, nb);
}

static void qmatvec_q6_k(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)
{
    direct((Direct){sixteen_q6_k, 2 * 210, 0, by_blocks}, y, w, rows, x, nb);
}

static double peak_int8(int rounds)
{
    volatile int sink;
    __m512i a[12], b = _mm512_set1_epi32(rounds);
    for (int i = 0; i < 12; i++) a[i] = _mm512_setzero_si512();
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < 12; i++) a[i] = _mm512_dpbusd_epi32(a[i], b, b);
    for (int i = 0; i < 12; i++) sink = _mm_cvtsi128_si32(_mm512_castsi512_si128(a[i]));
    (void)sink;
    return 2.0 * 64 * 12 * rounds;
}

const Kernels kernels_vnni = {.name = "vnni",
                              .usable = usable,
                              .qmatmul = qmatmul,
                              .peak_int8 = peak_int8,
                              .qmatvec = {[T_Q4_0] = qmatvec_q4_0,
                                          [T_Q4_1] = qmatvec_q4_1,
                                          [T_Q8_0] = qmatvec_q8_0,
                                          [T_Q4_K] = qmatvec_q4_k,
                                          [T_Q6_K] = qmatvec_q6_k}};
#endif
