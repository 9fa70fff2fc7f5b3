/* Integer products for ARM, written once over dot16, which the file that includes this one defines
 * before: neon.c by widening products, dotprod.c by SDOT. The scalar twin, and what it computes, is
 * qmatmul_base in run.c; what the bytes of a row mean is there too, at the unpack_... functions.
 *
 * Four weight rows are taken together, as they lie: a dot product of 16 bytes leaves four partial
 * sums, and pairwise additions bring those of four rows into one vector, one lane for each row.
 * Scales and float sums are such vectors. */

#define ROWS  4
#define TOKS  4 /* tokens that share a load of the weights; their sums stay in registers */
#define FORCE static inline __attribute__((always_inline))

_Static_assert(offsetof(Q32, sc) == 32 && offsetof(Q32, mn) == 36 && offsetof(Q32, d) == 40 &&
                   offsetof(Q32, dm) == 44 && sizeof(Q32) == 48,
               "a Q32 ends in four words: sc, mn, d, dm");

/* One block of 4 rows. What a type does not use is constant, and gone after inlining. */
typedef struct {
    int8x16_t q[ROWS][2];        /* values 0 .. 15 and 16 .. 31 of each row, plus `offset` */
    float32x4_t d, dm;           /* here and below: lane r is row r */
    int32x4_t sc[2], mn[2];      /* of each half of the block */
    uint32x4_t k_sc[2], k_mn[2]; /* Q4_K: six-bit numbers of groups 0 .. 3 and 4 .. 7, as bytes */
    int offset, scales, has_min; /* scales: 0 (all are 1), 1 (both halves have the same), or 2 */
} Four;

/* Block b of 4 rows, called with b ascending from 0; row[r] is where row r begins. */
typedef void Load(Four *o, const uint8_t *const row[ROWS], int b);

FORCE int all(uint32x4_t v)
{
    return vminvq_u32(v) != 0;
}

/* Word k of the 16 bytes at offset `at` of each row, in val[k]. */
FORCE uint32x4x4_t four_words(const uint8_t *const row[ROWS], size_t at)
{
    uint32x4x4_t v = {{vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)}};
    v = vld4q_lane_u32((const uint32_t *)(const void *)(row[0] + at), v, 0);
    v = vld4q_lane_u32((const uint32_t *)(const void *)(row[1] + at), v, 1);
    v = vld4q_lane_u32((const uint32_t *)(const void *)(row[2] + at), v, 2);
    v = vld4q_lane_u32((const uint32_t *)(const void *)(row[3] + at), v, 3);
    return v;
}

FORCE uint32_t word_at(const uint8_t *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

FORCE uint32x4_t words(const uint8_t *const row[ROWS], size_t at)
{
    return (uint32x4_t){word_at(row[0] + at), word_at(row[1] + at), word_at(row[2] + at),
                        word_at(row[3] + at)};
}

FORCE uint16_t u16_at(const uint8_t *p)
{
    uint16_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

/* The half-precision number at offset `at` of each row. */
FORCE float32x4_t halves(const uint8_t *const row[ROWS], size_t at)
{
    uint16x4_t h = {u16_at(row[0] + at), u16_at(row[1] + at), u16_at(row[2] + at),
                    u16_at(row[3] + at)};
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

/* The half-precision numbers in the low (0) or high (1) halves of words. */
FORCE float32x4_t half_words(uint32x4_t v, int high)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(high ? vshrn_n_u32(v, 16) : vmovn_u32(v)));
}

FORCE void load_bytes(Four *o, const uint8_t *const row[ROWS], size_t at)
{
    for (int r = 0; r < ROWS; r++)
        for (int g = 0; g < 2; g++)
            o->q[r][g] = vreinterpretq_s8_u8(vld1q_u8(row[r] + at + (size_t)(16 * g)));
}

/* The low nibbles of 16 bytes of each row, then the high ones. */
FORCE void load_nibbles(Four *o, const uint8_t *const row[ROWS], size_t at)
{
    for (int r = 0; r < ROWS; r++) {
        uint8x16_t v = vld1q_u8(row[r] + at);
        o->q[r][0] = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
        o->q[r][1] = vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
    }
}

/* What stands behind the values of a Q32. */
FORCE void load_rest(Four *o, const uint8_t *const row[ROWS], int b)
{
    uint32x4x4_t rest = four_words(row, (size_t)b * sizeof(Q32) + offsetof(Q32, sc));
    uint32x4_t ones = vdupq_n_u32(0x10001);
    int32x4_t sc = vreinterpretq_s32_u32(rest.val[0]), mn = vreinterpretq_s32_u32(rest.val[1]);
    o->sc[0] = vshrq_n_s32(vshlq_n_s32(sc, 16), 16);
    o->sc[1] = vshrq_n_s32(sc, 16);
    o->mn[0] = vshrq_n_s32(vshlq_n_s32(mn, 16), 16);
    o->mn[1] = vshrq_n_s32(mn, 16);
    o->d = vreinterpretq_f32_u32(rest.val[2]);
    o->dm = vreinterpretq_f32_u32(rest.val[3]);
    o->scales = !all(vandq_u32(vceqq_u32(rest.val[0], ones), vceqq_u32(rest.val[1], ones)));
    o->has_min = !all(vceqzq_f32(o->dm));
}

FORCE void load_q32(Four *o, const uint8_t *const row[ROWS], int b)
{
    load_bytes(o, row, (size_t)b * sizeof(Q32));
    load_rest(o, row, b);
    uint32x4_t same = vandq_u32(vceqq_s32(o->sc[0], o->sc[1]), vceqq_s32(o->mn[0], o->mn[1]));
    if (o->scales && !all(same)) o->scales = 2;
    o->offset = 0;
}

FORCE void load_q4_0(Four *o, const uint8_t *const row[ROWS], int b)
{
    size_t at = (size_t)b * 18;
    load_nibbles(o, row, at + 2);
    o->d = halves(row, at);
    o->offset = 8;
    o->scales = o->has_min = 0;
}

FORCE void load_q4_1(Four *o, const uint8_t *const row[ROWS], int b)
{
    size_t at = (size_t)b * 20;
    uint32x4_t pair = words(row, at);
    load_nibbles(o, row, at + 4);
    o->d = half_words(pair, 0);
    o->dm = half_words(pair, 1);
    o->offset = o->scales = 0;
    o->has_min = 1;
}

FORCE void load_q8_0(Four *o, const uint8_t *const row[ROWS], int b)
{
    size_t at = (size_t)b * 34;
    load_bytes(o, row, at + 2);
    o->d = halves(row, at);
    o->offset = o->scales = o->has_min = 0;
}

/* The 16 bytes that begin a super-block of Q4_K: d, dmin, and three words a, b, c of six-bit
 * numbers. Bytes of a and b: scales and minima of groups 0 .. 3 and, on top, the two high bits of
 * groups 4 .. 7; bytes of c: the four low bits of their scales and, on top, of their minima. */
FORCE void begin_q4_k(Four *o, const uint8_t *const row[ROWS], size_t at)
{
    uint32x4x4_t v = four_words(row, at);
    uint8x16_t a = vreinterpretq_u8_u32(v.val[1]), b = vreinterpretq_u8_u32(v.val[2]);
    uint8x16_t c = vreinterpretq_u8_u32(v.val[3]);
    uint8x16_t sc = vsliq_n_u8(vandq_u8(c, vdupq_n_u8(15)), vshrq_n_u8(a, 6), 4);
    uint8x16_t mn = vsliq_n_u8(vshrq_n_u8(c, 4), vshrq_n_u8(b, 6), 4);
    o->d = half_words(v.val[0], 0);
    o->dm = vnegq_f32(half_words(v.val[0], 1));
    o->k_sc[0] = vreinterpretq_u32_u8(vandq_u8(a, vdupq_n_u8(63)));
    o->k_mn[0] = vreinterpretq_u32_u8(vandq_u8(b, vdupq_n_u8(63)));
    o->k_sc[1] = vreinterpretq_u32_u8(sc);
    o->k_mn[1] = vreinterpretq_u32_u8(mn);
}

FORCE void load_q4_k(Four *o, const uint8_t *const row[ROWS], int b)
{
    int g = b % 8;
    size_t at = (size_t)(b / 8) * 144, qs = at + 16 + (size_t)(32 * (g / 2));
    if (g == 0) begin_q4_k(o, row, at);
    int32x4_t down = vdupq_n_s32(-8 * (g % 4));
    uint32x4_t byte = vdupq_n_u32(255);
    o->sc[0] = vreinterpretq_s32_u32(vandq_u32(vshlq_u32(o->k_sc[g / 4], down), byte));
    o->mn[0] = vreinterpretq_s32_u32(vandq_u32(vshlq_u32(o->k_mn[g / 4], down), byte));
    int8x16_t nibble = vdupq_n_s8((int8_t)(-4 * (g % 2)));
    for (int r = 0; r < ROWS; r++)
        for (int h = 0; h < 2; h++) {
            uint8x16_t v = vshlq_u8(vld1q_u8(row[r] + qs + (size_t)(16 * h)), nibble);
            o->q[r][h] = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
        }
    o->offset = 0;
    o->scales = o->has_min = 1;
}

FORCE void load_q6_k(Four *o, const uint8_t *const row[ROWS], int b)
{
    int g = b % 8, k = g % 4;
    size_t at = (size_t)(b / 8) * 210, half = (size_t)(g / 4);
    size_t ql = at + 64 * half + (size_t)(32 * (k % 2)), qh = at + 128 + 32 * half;
    if (g == 0) o->d = halves(row, at + 208);
    /* Two of the four scales in a word, each moved to its upper end and down again. */
    int32x4_t sc = vreinterpretq_s32_u32(words(row, at + 192 + (size_t)(4 * (g / 2))));
    int up = 24 - 16 * (g % 2);
    o->sc[0] = vshrq_n_s32(vshlq_s32(sc, vdupq_n_s32(up)), 24);
    o->sc[1] = vshrq_n_s32(vshlq_s32(sc, vdupq_n_s32(up - 8)), 24);
    int8x16_t low = vdupq_n_s8((int8_t)(-4 * (k / 2))), high = vdupq_n_s8((int8_t)(4 - 2 * k));
    for (int r = 0; r < ROWS; r++)
        for (int h = 0; h < 2; h++) {
            uint8x16_t l = vshlq_u8(vld1q_u8(row[r] + ql + (size_t)(16 * h)), low);
            uint8x16_t u = vshlq_u8(vld1q_u8(row[r] + qh + (size_t)(16 * h)), high);
            l = vorrq_u8(vandq_u8(l, vdupq_n_u8(15)), vandq_u8(u, vdupq_n_u8(48)));
            o->q[r][h] = vreinterpretq_s8_u8(l);
        }
    o->offset = 32;
    o->scales = 2;
    o->has_min = 0;
}

/* Lane r: the sum of q x over halves g0 .. g1-1 of the block of row r. */
FORCE int32x4_t sums(const Four *w, const Q8 *x, int g0, int g1)
{
    int32x4_t s[ROWS];
    int extra = 0;
    for (int r = 0; r < ROWS; r++) s[r] = vdupq_n_s32(0);
    for (int g = g0; g < g1; g++) {
        int8x16_t xv = vld1q_s8(x->q + 16 * g);
        for (int r = 0; r < ROWS; r++) s[r] = dot16(s[r], w->q[r][g], xv);
        extra += w->offset * x->sum[g];
    }
    int32x4_t sum = vpaddq_s32(vpaddq_s32(s[0], s[1]), vpaddq_s32(s[2], s[3]));
    return vsubq_s32(sum, vdupq_n_s32(extra));
}

/* acc + one block of 4 rows times one token. A row whose dm is 0 may take part in the minima: a sum
 * that begins at +0 is never -0, so adding 0 leaves it as it is. */
FORCE float32x4_t block_times(float32x4_t acc, const Four *w, const Q8 *x)
{
    int32x4_t sum, min;
    if (w->scales == 2) {
        sum = vmulq_s32(w->sc[0], sums(w, x, 0, 1));
        sum = vmlaq_s32(sum, w->sc[1], sums(w, x, 1, 2));
    } else {
        sum = sums(w, x, 0, 2);
        if (w->scales) sum = vmulq_s32(w->sc[0], sum);
    }
    acc = vfmaq_f32(acc, vcvtq_f32_s32(sum), vmulq_n_f32(w->d, x->d));
    if (!w->has_min) return acc;
    if (w->scales == 2)
        min = vmlaq_n_s32(vmulq_n_s32(w->mn[0], x->sum[0]), w->mn[1], x->sum[1]);
    else if (w->scales)
        min = vmulq_n_s32(w->mn[0], x->sum[0] + x->sum[1]);
    else
        min = vdupq_n_s32(x->sum[0] + x->sum[1]);
    return vfmaq_f32(acc, vcvtq_f32_s32(min), vmulq_n_f32(w->dm, x->d));
}

/* All rows times T tokens (constant after inlining). Rows that are not there repeat the last one;
 * they are not stored. */
FORCE void strips(Load *load, int T, float *y, size_t ys, const uint8_t *w, size_t row_bytes,
                  int rows, const Q8 *x, size_t xs, int nb)
{
    for (int r0 = 0; r0 < rows; r0 += ROWS) {
        int n = rows - r0 < ROWS ? rows - r0 : ROWS;
        const uint8_t *row[ROWS];
        float32x4_t acc[TOKS];
        Four four = {0}; /* a super-block fills some of it in its first group only */
        for (int r = 0; r < ROWS; r++) row[r] = w + (size_t)(r0 + (r < n ? r : n - 1)) * row_bytes;
        for (int i = 0; i < T; i++) acc[i] = vdupq_n_f32(0);
        for (int b = 0; b < nb; b++) {
            load(&four, row, b);
            for (int i = 0; i < T; i++) acc[i] = block_times(acc[i], &four, x + (size_t)i * xs + b);
        }
        for (int i = 0; i < T; i++) {
            float lane[ROWS];
            vst1q_f32(lane, acc[i]);
            for (int r = 0; r < n; r++) y[(size_t)i * ys + (size_t)(r0 + r)] = lane[r];
        }
    }
}

/* All the rows of the call pass once for every four tokens. */
static void qmatmul(float *y, size_t ys, const Q32 *w, int rows, const Q8 *x, size_t xs, int toks,
                    int nb)
{
    const uint8_t *bytes = (const uint8_t *)w;
    size_t row_bytes = (size_t)nb * sizeof *w;
    int i = 0;
    for (; i + TOKS <= toks; i += TOKS)
        strips(load_q32, TOKS, y + (size_t)i * ys, ys, bytes, row_bytes, rows, x + (size_t)i * xs,
               xs, nb);
    for (; i < toks; i++)
        strips(load_q32, 1, y + (size_t)i * ys, 0, bytes, row_bytes, rows, x + (size_t)i * xs, 0,
               nb);
}

static void qmatvec_q4_0(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)
{
    strips(load_q4_0, 1, y, 0, w, (size_t)nb * 18, rows, x, 0, nb);
}

static void qmatvec_q4_1(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)
{
    strips(load_q4_1, 1, y, 0, w, (size_t)nb * 20, rows, x, 0, nb);
}

static void qmatvec_q8_0(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)
{
    strips(load_q8_0, 1, y, 0, w, (size_t)nb * 34, rows, x, 0, nb);
}

static void qmatvec_q4_k(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)
{
    strips(load_q4_k, 1, y, 0, w, (size_t)(nb / 8) * 144, rows, x, 0, nb);
}

static void qmatvec_q6_k(float *y, const uint8_t *w, int rows, const Q8 *x, int nb)
{
    strips(load_q6_k, 1, y, 0, w, (size_t)(nb / 8) * 210, rows, x, 0, nb);
}

/* The sums are factors too, or the compiler would take the products out of the loop. */
static double peak_int8(int rounds)
{
    volatile int sink;
    int32x4_t a[16];
    int8x16_t b = vdupq_n_s8((int8_t)(rounds % 100));
    for (int i = 0; i < 16; i++) a[i] = vdupq_n_s32(i);
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < 16; i++) a[i] = dot16(a[i], vreinterpretq_s8_s32(a[i]), b);
    for (int i = 0; i < 16; i++) sink = vaddvq_s32(a[i]);
    (void)sink;
    return 2.0 * 16 * 16 * rounds;
}

#define QMATVEC                                                                                    \
    {                                                                                              \
        [T_Q4_0] = qmatvec_q4_0, [T_Q4_1] = qmatvec_q4_1, [T_Q8_0] = qmatvec_q8_0,                 \
        [T_Q4_K] = qmatvec_q4_k, [T_Q6_K] = qmatvec_q6_k                                           \
    }
