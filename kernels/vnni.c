/* Integer products for x86-64 with AVX-512 VNNI (Ice Lake, Zen 4, and later); everything else is
 * taken from AVX-512. The scalar twin, and what it computes, is qmatmul_base in run.c.
 *
 * 16 weight rows stand side by side, one in each 32-bit lane, so no sum ever crosses lanes:
 * vpdpbusd adds four products of one row to its lane. Its gain is in README.md, "Speed". */
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

/* Bytes at + 0..15 of each row are nibbles: the low ones, then the high ones. */
static inline void load_nibbles(Wide *o, const uint8_t *const row[ROWS], size_t at)
{
    const __m512i low = _mm512_set1_epi8(15);
    turn(o->q, row, at);
    for (int k = 0; k < 4; k++) {
        o->q[4 + k] = _mm512_and_si512(_mm512_srli_epi16(o->q[k], 4), low);
        o->q[k] = _mm512_and_si512(o->q[k], low);
    }
}

/* The two half-precision numbers at `at` of each row: d, then dm if the type has one. */
static inline void load_scales(Wide *o, const uint8_t *const row[ROWS], size_t at, int has_min)
{
    int32_t pair[ROWS];
    for (int r = 0; r < ROWS; r++) __builtin_memcpy(&pair[r], row[r] + at, sizeof pair[r]);
    __m512i p = _mm512_loadu_si512(pair);
    o->d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(p));
    o->dm = _mm512_setzero_ps();
    if (has_min) o->dm = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(p, 16)));
    o->has_min = _mm512_cmp_ps_mask(o->dm, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    o->scaled = 0;
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

static inline void load_q4_0(Wide *o, const uint8_t *const row[ROWS], int b)
{
    load_scales(o, row, (size_t)b * 18, 0);
    load_nibbles(o, row, (size_t)b * 18 + 2);
    o->offset = 8;
}

static inline void load_q4_1(Wide *o, const uint8_t *const row[ROWS], int b)
{
    load_scales(o, row, (size_t)b * 20, 1);
    load_nibbles(o, row, (size_t)b * 20 + 4);
    o->offset = 0;
}

static inline void load_q8_0(Wide *o, const uint8_t *const row[ROWS], int b)
{
    load_scales(o, row, (size_t)b * 34, 0);
    load_signed(o, row, (size_t)b * 34 + 2);
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

/* Up to 16 rows times all tokens. Rows that are not there repeat the last one; they are not stored. */
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

static void rows_q4_0(float *y, size_t ys, const uint8_t *w, int rows, const Q8 *x, size_t xs,
                      int toks, int nb)
{
    strips(load_q4_0, y, ys, w, (size_t)nb * 18, rows, x, xs, toks, nb);
}

static void rows_q4_1(float *y, size_t ys, const uint8_t *w, int rows, const Q8 *x, size_t xs,
                      int toks, int nb)
{
    strips(load_q4_1, y, ys, w, (size_t)nb * 20, rows, x, xs, toks, nb);
}

static void rows_q8_0(float *y, size_t ys, const uint8_t *w, int rows, const Q8 *x, size_t xs,
                      int toks, int nb)
{
    strips(load_q8_0, y, ys, w, (size_t)nb * 34, rows, x, xs, toks, nb);
}

const Kernels kernels_vnni = {
    .name = "vnni",
    .usable = usable,
    .qmatmul = qmatmul,
    .qrows = {[T_Q4_0] = rows_q4_0, [T_Q4_1] = rows_q4_1, [T_Q8_0] = rows_q8_0}};
#endif
