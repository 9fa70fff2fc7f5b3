/* Integer products of many tokens for x86-64 with AMX (Sapphire Rapids and later, under Linux);
 * everything else, and few tokens, is taken from AVX-512 VNNI. The scalar twin, and what it
 * computes, is qmatmul_base in run.c.
 *
 * One tile product is one block: 16 tokens x 32 values times 32 values x 16 weight rows gives 256
 * exact sums, S[token][row]. The scales change from block to block, so the sums cannot stay in the
 * tile: they go through memory into 16 vector accumulators, one token each, a weight row in each
 * lane. That is where the time goes (three vector instructions per token and block), so weights
 * with scales of their own are split beforehand, once per 128 tokens:
 *   sc * q = 256 * high + low,  S = 256 * (high x) + (low x):  two tile products, all exact.
 *
 * Written without such a machine: checked on a C model of the tile instructions
 * (tests/amx_model.h), and by hand in an emulator; its speed was never measured. */
#include "../model.h"

/* The macros of gcc and newer clang, and of clang 14. */
#if (defined(__AMX_INT8__) || defined(__AMXINT8__)) && defined(__AVX512VNNI__)
#include <immintrin.h>

#define ROWS 16 /* weight rows side by side */
#define TOKS 16 /* tokens of one tile */
#define FEW  8  /* fewer tokens are not worth a tile */
/* What is packed at a time: SPAN tokens, CHUNK blocks of them, for PANEL rows; 58 KB of stack. */
#define SPAN  128
#define CHUNK 4
#define PANEL 48
#define AHEAD 2 /* blocks multiplied before the oldest is added up; even */

extern const Kernels kernels_vnni;

_Static_assert(offsetof(Q32, sc) == 32 && offsetof(Q32, d) == 40 && sizeof(Q32) == 48 &&
                   offsetof(Q8, sum) == 32 && offsetof(Q8, d) == 40 && sizeof(Q8) == 44,
               "a Q32 ends in sc, mn, d, dm, a Q8 in four values, sum, d: 16 bytes each");

/* One block of 16 tokens: q is a tile of 16 x 32 bytes. */
typedef struct {
    _Alignas(64) int8_t q[TOKS][QB];
    int32_t sums[TOKS]; /* two 16-bit numbers: |sum[g]| <= 16 * 128 */
    float d[TOKS];
} Xs;

/* One block of 16 rows: low and high are tiles of 8 x 64 bytes, line k holding values 4k .. 4k+3
 * of each row. */
typedef struct {
    __m512i low[8], high[8], sc, mn; /* sc, mn: two 16-bit numbers per row */
    __m512 d, dm;
    __mmask16 has_min;
} Ws;

/* What the blocks of a chunk need: SCALED is any sc not 1? (else high is not set), HAS_MIN is any
 * dm not 0? Asked per chunk: a branch per block makes gcc 12 spill all accumulators. */
enum { SCALED = 1, HAS_MIN = 2 };

typedef int32_t Sums[2][TOKS][ROWS]; /* of one block, low and high */

/* What ldtilecfg reads (Intel SDM, "Tile architecture"): palette 1, then bytes per line and lines
 * of each tile. 0-3: sums, 4-5: tokens, 6-7: weights.
 * Pitfall: gcc 12's _tile_loadconfig says that it reads 8 bytes; those of a variable may never be
 * written. Nobody can leave out part of a constant. */
static const struct {
    uint8_t palette, start_row, zero[14];
    uint16_t bytes[16];
    uint8_t lines[16];
} tiles = {.palette = 1,
           .bytes = {64, 64, 64, 64, QB, QB, 64, 64},
           .lines = {TOKS, TOKS, TOKS, TOKS, TOKS, TOKS, QB / 4, QB / 4}};
_Static_assert(sizeof tiles == 64, "a tile configuration");

/* ---------------------------------------------------------------- is it there? */

#ifdef __linux__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
/* CPUID leaf 7: AMX-TILE, AMX-INT8; XCR0: the system saves tile configuration and data. Linux hands
 * out the 8 KB of tile data per process, on request (Documentation/arch/x86/xstate.rst). */
static int usable(void)
{
    enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    unsigned a, b, c, d, xcr0, high;
    if (!kernels_vnni.usable() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if ((d >> 24 & 3) != 3) return 0;
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    return (xcr0 >> 17 & 3) == 3 && syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
}
#else
static int usable(void)
{
    return 0;
}
#endif

/* ---------------------------------------------------------------- packing */

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

/* Where 16 rows begin; those that are not there repeat the last one. */
static inline void find_rows(const uint8_t *row[ROWS], const void *p, size_t bytes, int rows)
{
    for (int r = 0; r < ROWS; r++)
        row[r] = (const uint8_t *)p + (size_t)(r < rows ? r : rows - 1) * bytes;
}

/* n blocks of up to 16 tokens. */
static void pack_tokens(Xs *o, const Q8 *x, size_t xs, int toks, int n)
{
    const uint8_t *row[TOKS];
    __m512i rest[4]; /* four values, sum[0], sum[1], d */
    find_rows(row, x, xs * sizeof *x, toks);
    for (size_t at = 0; n > 0; n--, o++, at += sizeof *x) {
        for (int i = 0; i < TOKS; i++)
            _mm256_store_si256((void *)o->q[i], _mm256_loadu_si256((const void *)(row[i] + at)));
        turn(rest, row, at + 28);
        rest[1] = _mm512_mask_blend_epi16(0xaaaaaaaa, rest[1], _mm512_slli_epi32(rest[2], 16));
        _mm512_store_si512(o->sums, rest[1]);
        _mm512_store_si512(o->d, rest[3]);
    }
}

/* low to sc * q = 256 * high + low, -128 <= low < 128, |high| <= 64; even and odd bytes apart. */
static void split_block(Ws *o)
{
    const __mmask64 odd = 0xaaaaaaaaaaaaaaaa;
    const __m512i half = _mm512_set1_epi16(128);
    __m512i sc[2]; /* of the block's halves, twice in each row's 32 bits */
    sc[0] = _mm512_mask_blend_epi16(0xaaaaaaaa, o->sc, _mm512_slli_epi32(o->sc, 16));
    sc[1] = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(o->sc, 16), o->sc);
    for (int k = 0; k < 8; k++) {
        __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(o->low[k], 8), 8);
        __m512i p0 = _mm512_mullo_epi16(even, sc[k / 4]);
        __m512i p1 = _mm512_mullo_epi16(_mm512_srai_epi16(o->low[k], 8), sc[k / 4]);
        o->low[k] = _mm512_mask_blend_epi8(odd, p0, _mm512_slli_epi16(p1, 8));
        p0 = _mm512_srli_epi16(_mm512_add_epi16(p0, half), 8);
        o->high[k] = _mm512_mask_blend_epi8(odd, p0, _mm512_add_epi16(p1, half));
    }
}

/* n blocks of up to 16 rows, which are nb blocks apart. Returns what they need. */
static int pack_rows(Ws *o, const Q32 *w, int nb, int rows, int n)
{
    const uint8_t *row[ROWS];
    __m512i rest[4]; /* sc, mn, d, dm */
    int needs = 0;
    find_rows(row, w, (size_t)nb * sizeof *w, rows);
    for (int b = 0; b < n; b++, o++) {
        size_t at = (size_t)b * sizeof *w;
        turn(o->low, row, at);
        turn(o->low + 4, row, at + 16);
        turn(rest, row, at + 32);
        o->sc = rest[0];
        o->mn = rest[1];
        o->d = _mm512_castsi512_ps(rest[2]);
        o->dm = _mm512_castsi512_ps(rest[3]);
        o->has_min = _mm512_cmp_ps_mask(o->dm, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        if (o->has_min) needs |= HAS_MIN;
        if (_mm512_cmpneq_epi16_mask(o->sc, _mm512_set1_epi16(1))) needs |= SCALED;
    }
    for (int b = 1; needs & SCALED && b <= n; b++) split_block(o - b);
    return needs;
}

/* ---------------------------------------------------------------- products */

/* The sums of one block by way of tiles C (and C2), A, B, which must be literal numbers. Two blocks
 * in turn use tiles of their own, so that neither waits for the other. */
#define PRODUCT(c, w, x, C, C2, A, B)                                                              \
    do {                                                                                           \
        _tile_loadd(A, (x)->q, QB);                                                                \
        _tile_loadd(B, (w)->low, 64);                                                              \
        _tile_zero(C);                                                                             \
        _tile_dpbssd(C, A, B);                                                                     \
        _tile_stored(C, (c)[0], 64);                                                               \
        if (!(needs & SCALED)) break;                                                              \
        _tile_loadd(B, (w)->high, 64);                                                             \
        _tile_zero(C2);                                                                            \
        _tile_dpbssd(C2, A, B);                                                                    \
        _tile_stored(C2, (c)[1], 64);                                                              \
    } while (0)

/* acc += one block: its sums times the scales, then its minimum, where a row has one. */
static inline __attribute__((always_inline)) void add_block(__m512 acc[TOKS], const Ws *w,
                                                            const Xs *x, const Sums c, int needs)
{
    const __m512i *low = (const void *)c[0], *high = (const void *)c[1];
#pragma GCC unroll 16
    for (int i = 0; i < TOKS; i++) {
        __m512i sum = low[i], min = _mm512_setzero_si512();
        __m512 dx = _mm512_set1_ps(x->d[i]);
        if (needs & SCALED) sum = _mm512_add_epi32(_mm512_slli_epi32(high[i], 8), sum);
        acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(w->d, dx), acc[i]);
        if (!(needs & HAS_MIN)) continue;
        min = _mm512_dpwssd_epi32(min, w->mn, _mm512_set1_epi32(x->sums[i]));
        acc[i] = _mm512_mask3_fmadd_ps(_mm512_cvtepi32_ps(min), _mm512_mul_ps(w->dm, dx), acc[i],
                                       w->has_min);
    }
}

/* sum[16 tokens] += n blocks. The tiles work AHEAD blocks before the vectors: a product should be
 * in memory some 80 cycles after it began (52 for tdpbssd, by Intel's tables). needs is constant
 * after inlining. */
static inline __attribute__((always_inline)) void add_chunk(__m512 *sum, const Ws *w, const Xs *x,
                                                            int n, int needs)
{
    _Alignas(64) Sums ring[2 * AHEAD];
    __m512 acc[TOKS];
#pragma GCC unroll 16
    for (int i = 0; i < TOKS; i++) acc[i] = sum[i];
    for (int b = 0; b < n + AHEAD; b += 2) {
        if (b < n) PRODUCT(ring[b % (2 * AHEAD)], w + b, x + b, 0, 2, 4, 6);
        if (b + 1 < n) PRODUCT(ring[(b + 1) % (2 * AHEAD)], w + b + 1, x + b + 1, 1, 3, 5, 7);
        for (int k = b - AHEAD; k >= 0 && k < n && k < b - AHEAD + 2; k++)
            add_block(acc, w + k, x + k, ring[k % (2 * AHEAD)], needs);
    }
#pragma GCC unroll 16
    for (int i = 0; i < TOKS; i++) sum[i] = acc[i];
}

typedef void AddChunk(__m512 *sum, const Ws *w, const Xs *x, int n);
#define ADD_CHUNK(name, needs)                                                                     \
    static void name(__m512 *sum, const Ws *w, const Xs *x, int n)                                 \
    {                                                                                              \
        add_chunk(sum, w, x, n, needs);                                                            \
    }
ADD_CHUNK(add_plain, 0)
ADD_CHUNK(add_scaled, SCALED)
ADD_CHUNK(add_min, HAS_MIN)
ADD_CHUNK(add_both, SCALED | HAS_MIN)

/* Up to PANEL rows times up to SPAN tokens. The sums wait here, side by side, for their next chunk:
 * y has the stride of a matrix, where 16 tokens often meet in one cache set. */
static void panel(float *y, size_t ys, const Q32 *w, int rows, const Q8 *x, size_t xs, int toks,
                  int nb)
{
    static AddChunk *const add[] = {add_plain, add_scaled, add_min, add_both};
    Xs packed[SPAN / TOKS][CHUNK];
    Ws wide[CHUNK];
    __m512 sum[PANEL / ROWS][SPAN];
    for (int r = 0; r < rows; r += ROWS)
        for (int i = 0; i < SPAN; i++) sum[r / ROWS][i] = _mm512_setzero_ps();
    for (int b = 0; b < nb; b += CHUNK) {
        int n = nb - b < CHUNK ? nb - b : CHUNK;
        for (int i = 0; i < toks; i += TOKS)
            pack_tokens(packed[i / TOKS], x + (size_t)i * xs + b, xs, toks - i, n);
        for (int r = 0; r < rows; r += ROWS) {
            int needs = pack_rows(wide, w + (size_t)r * (size_t)nb + b, nb, rows - r, n);
            /* gcc 12 does not know that a tile load reads memory: no store may pass here. */
            __asm__ volatile("" ::: "memory");
            for (int i = 0; i < toks; i += TOKS)
                add[needs](sum[r / ROWS] + i, wide, packed[i / TOKS], n);
        }
    }
    for (int r = 0; r < rows; r += ROWS) {
        __mmask16 there = (__mmask16)(rows - r < ROWS ? (1u << (rows - r)) - 1 : 0xffff);
        for (int i = 0; i < toks; i++)
            _mm512_mask_storeu_ps(y + (size_t)i * ys + r, there, sum[r / ROWS][i]);
    }
}

/* Whole tiles of tokens, the last one perhaps padded; a short rest goes to VNNI. The tiles are
 * configured per call and given back, so that no switch of threads has to save them later. */
static void qmatmul(float *y, size_t ys, const Q32 *w, int rows, const Q8 *x, size_t xs, int toks,
                    int nb)
{
    int rest = nb == 0 ? toks : toks % TOKS < FEW ? toks % TOKS : 0, many = toks - rest;
    if (many) _tile_loadconfig(&tiles);
    for (int i = 0; i < many; i += SPAN)
        for (int r = 0; r < rows; r += PANEL)
            panel(y + (size_t)i * ys + r, ys, w + (size_t)r * (size_t)nb,
                  rows - r < PANEL ? rows - r : PANEL, x + (size_t)i * xs, xs,
                  many - i < SPAN ? many - i : SPAN, nb);
    if (many) _tile_release();
    if (rest)
        kernels_vnni.qmatmul(y + (size_t)many * ys, ys, w, rows, x + (size_t)many * xs, xs, rest,
                             nb);
}

const Kernels kernels_amx = {.name = "amx", .usable = usable, .qmatmul = qmatmul};
#endif
