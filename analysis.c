/* analysis.c: everything observed. What the probe sees becomes sums, the sums become a reading
 * (per layer, head and rotary pair), and the reading becomes a table, JSON or a page.
 *
 * The convention of signs. Pair j of a head, as a complex number before rotation: z = a + ib.
 * Position pos turns it to z e^(i pos theta_j). A query at m and a key at n, delta = m - n, with
 * phi = arg z_q - arg z_k, add to the attention logit (before the scale 1 / sqrt D)
 *
 *     f(delta) = r_q r_k cos(phi + theta_j delta)
 *
 * so over the trained context P the arc [phi, phi + x] is swept, x = theta_j P.
 *
 * Sources: A. Jonasson, arXiv:2503.01832 (what rotary offset features are); Gu et al.,
 * arXiv:2410.10781 (alpha and Sink). The bounds are derived here; see BOUND_NOTE. */
#include "model.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define PI      3.14159265358979323846
#define TAU     (2 * PI)
#define NONE    ((double)NAN)
#define ENDLESS ((double)INFINITY)
#define LINE    64 /* bytes between the states of two heads: threads never share a cache line */

static const char BOUND_NOTE[] = "The bounds are derived here from first principles in the spirit "
                                 "of arXiv:2503.01832; they are not the paper's own theorem "
                                 "statements.";

static const char CHANCE_NOTE[] = "Chance: the share of phi in [0, 2 pi) that satisfies a bound "
                                  "at the pair's x; for F1 and F2 the share of rotated pairs.";

/* ---------------------------------------------------------------- types */

/* A sum that comes out the same whatever the order of its terms: a whole number of 2^-96 in 192
 * bits, two's complement, lowest word first. |sum| < 2^95; what does not fit, or is not finite,
 * makes it BAD for good. */
typedef struct {
    uint64_t w[3];
} Exact;

/* Sums over tokens. All are doubles while a window is open; closed windows are added exactly, so
 * that readings can be merged in any order. Counts are whole numbers. */
typedef struct {
    double r, r2;            /* radius before rotation, and its square */
    double a, b, aa, bb, ab; /* both members, their squares and product, before rotation */
    double r_skip;           /* radius of the first tokens, which are left out above */
    double a_after, b_after, r2_after; /* after rotation */
} PairSum;

typedef struct {
    double before, after; /* sums of |x| of one value of the head */
    double sq_all;        /* sum of x^2 after rotation, the first tokens included */
} ChannelSum;

/* Parts of the logits: sums over queries of one pair's (or the unrotated values') part of the
 * logit of key 0, and of its mean part over the other keys; and the sum over all (query, other key)
 * pairs, which gives late queries more weight. */
typedef struct {
    double sink, others, ordinary;
} LogitSum;

/* What rows of attention look like: sums over queries. */
typedef struct {
    double n, n_bad;           /* rows; those that are not finite, left out below */
    double entropy, n_entropy; /* row entropy / log of its length, rows of two or more */
    double distance;           /* mean of pos - t under the weights */
    double previous, duplicate, induction; /* weight on t = pos - 1; on earlier copies of the
                                              token; on what followed those copies */
    double first4, n_first4;               /* weight on keys 0 .. 3, rows of these and more */
    double third[3], n_thirds;             /* weight per third of the keys, rows of three or more */
    double n_known;                        /* rows whose tokens are known: behind the two above */
    double n_logits;                       /* rows behind LogitSum: those that begin with key 0 */
    double n_ordinary;                     /* finite keys but key 0 in these rows */
} RowSum;

/* The sums of one head, as a reading works with them. */
typedef struct {
    double *n, *n_skip,
        *n_after;        /* tokens in the sums, left out of them, in those after rotation */
    PairSum *pair;       /* [P] */
    ChannelSum *channel; /* [D] in the order of this model's file */
    double *moments;     /* [D (D + 1) / 2] sum of x_i x_c, c >= i, before rotation */
    LogitSum *logit;     /* [P + 1], the last of values that do not turn; queries only */
    RowSum *row;         /* queries only */
} HeadSums;

/* The same as they are summed and kept, in one row of doubles: columns, as wide loops want them.
 * What a pair has is the sums of its two values, but for its radius. */
typedef struct {
    double *n, *n_skip, *n_after;
    double *r, *r_skip;                    /* [P] */
    double *value, *size;                  /* [D] before rotation: x, |x| */
    double *after, *size_after, *sq_after; /* [D] after rotation: x, |x|, x^2 */
    double *sq_skip;                       /* [D] the last of the first tokens, left out above */
    double *moments;
    double *sink, *others, *ordinary; /* [D] parts of the logits; queries only */
    RowSum *row;
} OpenSums;

/* The largest value of something, and where it was. */
typedef struct {
    double value;
    uint64_t window;
    int32_t pos, token; /* token: -1 if unknown */
} Peak;

#define HELD 16 /* tokens that are held back to be summed at once, in decoding */
#define SOME 32 /* tokens summed at once, at most: they stay in the innermost cache */

/* Tokens of one head that follow each other, stride values apart. */
typedef struct {
    int pos, n;
    const float *x;
    size_t stride;
} Batch;

/* Tokens not yet in the sums; room for HELD. Heads lie side by side: a token is one piece. */
typedef struct {
    int pos, n;
    float *x;
    size_t stride;
} Held;

/* Everything kept of one head (query or key). */
typedef struct {
    OpenSums open; /* the open window */
    double *sum;   /* the same as one row, [n_sums] */
    Exact *total;  /* closed windows, [n_sums] */
    Peak *peak;    /* [P] radius; [D] |x| before; [D] |x| after rotation */
    Peak *closed;  /* the same without the open window */
    double *high;  /* [n_peaks] values of peak */
    size_t n_sums, n_peaks;
    float *first; /* [FIRST_TOKENS][D] tokens of window 0 before rotation, the skipped left out */
    int *n_first;
    double *most_r; /* [P] of the tokens being summed */
    float *most;    /* [D] */
    Held held[2];   /* before and after rotation */
} Tally;

#define SINK_KEYS 64 /* keys that may be sinks */

/* Weights on the first keys of n queries of one window, and what equal weights on key 0 would
 * be. */
typedef struct {
    int n, n_bad; /* all queries; those whose row of attention is not finite */
    double uniform, sum[SINK_KEYS];
} SinkWindow;

/* alpha_k of windows over t queries each; t is the largest seen, shorter windows are no samples. */
typedef struct {
    int64_t t;
    Exact n, n_bad; /* windows; those with a row that is not finite, left out */
    Exact uniform, alpha[SINK_KEYS], n_sink[SINK_KEYS]; /* sums; windows with alpha_k > sink_eps */
} SinkSamples;

/* Attention of one head to the first keys: the open window, and closed ones. */
typedef struct {
    SinkWindow open, open_t; /* all of its queries; the first sink_t of them */
    SinkSamples whole, at_t; /* whole windows; their first sink_t queries */
    double *keys, *key0;     /* [D] sum of keys 1 .. pos after rotation, and key 0: open window */
    int n_keys, has_key0;    /* the keys in that sum: the finite ones; key0 is set and finite */
    float *map;              /* [FIRST_TOKENS (FIRST_TOKENS + 1) / 2] rows of window 0 */
    int n_map;
} Sink;

/* Massive activations of the residual stream after one layer. */
typedef struct {
    Peak most;        /* largest |h|; pos is the position, token the channel */
    double median;    /* median |h| of that state */
    Peak closed_most; /* the same without the open window */
    double closed_median;
    double *sum;  /* [E] massive values per channel, of the open window */
    Exact *total; /* [E] of closed windows */
} Massive;

/* The rotary axis of a Rope, or of one of its key heads: pair j and where its members lie in a
 * head. Where heads have angles of their own, or angles depend on what was read, the pairs that
 * turn have theta and x NaN on the axis of the Rope. */
typedef struct {
    int n, n_rotated; /* pairs; those that turn */
    int uneven;       /* Rope.uneven */
    int own;          /* number of the axis of key head 0; 0: all have this one */
    double n_ctx;     /* P */
    int *a, *b;
    double *theta, *x; /* radians per position, and over P */
} Axis;

/* Are the pairs of a layer those of a linear map of what is projected? Then they are not those of
 * its biases. */
static int is_mixed(const Model *m, const Layer *y)
{
    const RopeKind *kind = m->rope[y->rope].kind;
    return kind && kind->mix;
}

/* Tokens of the open window, for head scores: before[pos] is the last place of the same token. */
typedef struct {
    int *id, *before, n, cap;
} Seen;

/* Windows from .. to - 1. */
typedef struct {
    uint64_t from, to;
} Range;

/* Ascending; they neither overlap nor touch. */
typedef struct {
    Range *r;
    size_t n;
} Ranges;

struct Analysis {
    const Model *m;
    AnalysisOptions o;
    Probe probe;
    const Kernels *kernels;
    Axis *axis; /* [n_axes] of the ropes, then those of single key heads */
    int n_axes;
    int *first_q, *first_k; /* [L + 1] where a layer's heads begin in the arrays below */
    Tally *q, *k;           /* [all query heads], [all kv heads] */
    Sink *sink;             /* [all query heads] */
    Massive *massive;       /* [L] */
    Seen seen;
    uint64_t window;   /* number of the open window */
    Ranges closed;     /* windows that are in the totals */
    uint64_t n_tokens; /* of these */
    float *scratch;    /* [E] */
    void *mem;         /* what the pointers above point into */
};

/* What one side of a pair, queries or keys, turned out to be. */
typedef struct {
    double r, rms;     /* mean radius, and sqrt of mean r^2 */
    double R, dir;     /* |sum z| / sum |z|, and the direction of the mean vector */
    double max, skip;  /* largest radius; mean radius of the first tokens */
    double offset;     /* share of the offset: |mean z|^2 / mean r^2 */
    double aa, bb, ab; /* second moments: means of a^2, b^2 and a b of the members */
    double cap;        /* the largest radius there can be: see pair_cap; NaN: any */
} Side;

typedef struct {
    Side q, k;
    double phi;      /* q.dir - k.dir in [0, 2 pi) */
    double strength; /* r_q r_k */
    double ratio;    /* strength over the median pair of the head */
    double gain;     /* mean over delta of cos(phi + theta delta) */
    double t3_slack; /* room of phi inside T3's interval; negative: outside */
    double p_neg;    /* distance at which the first negative stretch ends; NaN: there is none */
    double worst;    /* cos at the ends of the arc, the larger one */
    LogitSum logit;  /* mean over queries of its part of the logits */
    int strong, candidate;
} Pair;

/* Of the matrix X of n tokens x D values, uncentred, before rotation. */
typedef struct {
    double stable_rank, first_sv, entropy;
} Spectrum;

/* SinkSamples as numbers. */
typedef struct {
    int t;
    double n, n_bad, uniform, alpha[SINK_KEYS], n_sink[SINK_KEYS];
} Samples;

typedef struct {
    int l, h, kh, top; /* top: pair with the largest strength, -1 if there is none */
    int n_strong, n_candidates;
    const Axis *axis;
    const Tally *q_seen, *k_seen; /* peaks and first tokens */
    HeadSums q, k;                /* every window closed */
    int shares_k;                 /* k's row belongs to the head before: the same kv head */
    Samples whole, at_t;
    int sink;                     /* key of the largest alpha_k, -1: no window */
    RowSum mean;                  /* the sums of q.row as means */
    LogitSum partial, full, rest; /* means over queries of parts of the logits: pairs with
                                     x <= 2 pi, other pairs, values that are not rotated */
    Spectrum q_spectrum, k_spectrum;
    Pair *pair; /* [P] */
} Head;

enum { BOUND_F1, BOUND_F2, BOUND_T3, BOUND_B1, BOUND_B2, BOUND_B3, BOUND_B4, N_BOUNDS };

/* How often a bound held, and how often it would by chance: the sum of the chances, and of their
 * variances c (1 - c). */
typedef struct {
    int hits, of;
    double chance, var;
} Rate;

/* Everything a report says, computed once. */
typedef struct {
    const Analysis *a;
    const Provenance *p;
    int n_heads, n_top, n_strong, n_candidates, n_candidate_heads;
    int best;        /* head whose top pair stands highest over its median; -1: none */
    int sinkiest;    /* head with the largest alpha_1; -1: none */
    int n_bad;       /* pairs whose statistics are not finite */
    int n_pairs;     /* (head, pair) that were seen */
    int n_bad_heads; /* heads with rows of attention that are not finite */
    uint64_t n_bad_rows;
    int common, n_common;  /* pair that is most often the top, and in how many heads */
    double partial;        /* share of rotated pairs with x <= 2 pi, over the heads */
    double alpha, uniform; /* alpha_1 over whole windows, mean over heads that have one */
    int whole_t, n_alpha;  /* queries of such a window; the heads */
    uint64_t n_whole;      /* such windows */
    double alpha_t, sink;  /* alpha_1 at t, and Sink_1 in [0, 1] */
    int t;                 /* queries behind these */
    uint64_t n_samples;
    double check;  /* largest |radius after / (amplitude * before) - 1| */
    double capped; /* largest radius over its cap, NaN: there are none; of this layer and head */
    int capped_l, capped_h;
    double k0;     /* median over heads of |k_0| / mean |k| in the top pair */
    double centre; /* median over heads of phi + x/2 - pi, top pairs with x <= 2 pi */
    LogitSum partial_logit, full_logit; /* means over n_logit heads; full: all but the pairs with
                                           x <= 2 pi */
    int n_logit;
    int n_sinks, n_elsewhere; /* heads with some alpha_k > sink_eps; strongest not at key 0 */
    int elsewhere, n_there;   /* the key that is most often the strongest of these */
    int previous, duplicate, induction; /* heads of the largest scores; -1: none */
    Rate top_rate[N_BOUNDS], strong_rate[N_BOUNDS];
    Head *head;
} Reading;

AnalysisOptions analysis_defaults(void)
{
    return (AnalysisOptions){.n_skip = 1,
                             .strong_ratio = 20,
                             .strong_r = 0.95,
                             .sink_eps = 0.3,
                             .sink_t = 64,
                             .massive_ratio = 5,
                             .act_min = 100,
                             .act_ratio = 1000};
}

/* ---------------------------------------------------------------- exact sums */

static const Exact BAD = {{0, 0, (uint64_t)1 << 63}};

static int exact_bad(const Exact *s)
{
    return s->w[2] == BAD.w[2] && !s->w[0] && !s->w[1];
}

/* s += t. Integers: associative and commutative, so any order and grouping gives the same bits. */
static void exact_merge(Exact *s, const Exact *t)
{
    uint64_t carry = 0, sign_s = s->w[2] >> 63, sign_t = t->w[2] >> 63;
    if (exact_bad(s) || exact_bad(t)) {
        *s = BAD;
        return;
    }
    for (int i = 0; i < 3; i++) {
        uint64_t sum = s->w[i] + t->w[i], out = sum < s->w[i];
        s->w[i] = sum + carry;
        carry = out | (s->w[i] < sum);
    }
    if (sign_s == sign_t && s->w[2] >> 63 != sign_s) *s = BAD;
}

static void exact_negate(Exact *s)
{
    uint64_t carry = 1;
    for (int i = 0; i < 3; i++) {
        s->w[i] = ~s->w[i] + carry;
        carry = carry && !s->w[i];
    }
}

/* s += v, whose bits below 2^-96 are cut off. */
static void exact_add(Exact *s, double v)
{
    Exact t = {{0}};
    int e;
    if (v == 0) return;
    if (!(fabs(v) < 0x1p94)) {
        *s = BAD;
        return;
    }
    uint64_t m = (uint64_t)ldexp(frexp(fabs(v), &e), 53); /* |v| = m 2^(e - 53) */
    int shift = e - 53 + 96, word = shift >> 6, bits = shift & 63;
    if (shift < 0) {
        t.w[0] = shift > -64 ? m >> -shift : 0;
    } else {
        t.w[word] = m << bits;
        if (bits && word < 2) t.w[word + 1] = m >> (64 - bits);
    }
    if (v < 0) exact_negate(&t);
    exact_merge(s, &t);
}

/* To a double: within two units of its last place; a whole number below 2^53 exactly. */
static double exact_value(const Exact *s)
{
    Exact t = *s;
    if (exact_bad(s)) return NONE;
    int negative = (int)(t.w[2] >> 63);
    if (negative) exact_negate(&t);
    double v = ((double)t.w[0] * 0x1p-96 + (double)t.w[1] * 0x1p-32) + (double)t.w[2] * 0x1p32;
    return negative ? -v : v;
}

/* ---------------------------------------------------------------- the probe: queries and keys */

/* Does v at this place take the place of p? Of two equal values the one that comes first stays, in
 * whatever order windows are run or merged. */
static int peak_beaten(const Peak *p, double v, uint64_t window, int pos)
{
    if (!(v >= p->value)) return 0;
    return v > p->value || window < p->window || (window == p->window && pos < p->pos);
}

static double radius(const Axis *ax, const float *x, int j)
{
    double a = (double)x[ax->a[j]], b = (double)x[ax->b[j]];
    return sqrt(a * a + b * b);
}

static void set_peak(const Analysis *an, Tally *y, int i, double v, int pos)
{
    if (!peak_beaten(&y->peak[i], v, an->window, pos)) return;
    int token = pos < an->seen.n ? an->seen.id[pos] : -1;
    y->peak[i] = (Peak){v, an->window, pos, token};
    y->high[i] = v;
}

/* The largest radii of a batch against the peaks; the tokens are searched only for a new one. */
static void peaks_of_radii(const Analysis *an, Tally *y, const Axis *ax, const Batch *b)
{
    int above = 0;
    for (int j = 0; j < ax->n; j++) above |= y->most_r[j] >= y->high[j];
    for (int j = 0; above && j < ax->n; j++) {
        int i = 0;
        if (!(y->most_r[j] >= y->high[j])) continue;
        while (i < b->n - 1 && !(radius(ax, b->x + (size_t)i * b->stride, j) == y->most_r[j])) i++;
        set_peak(an, y, j, y->most_r[j], b->pos + i);
    }
}

/* The same of the largest |x|, peaks `at` and on. */
static void peaks_of_values(const Analysis *an, Tally *y, int at, const Batch *b)
{
    int D = an->m->head_dim, above = 0;
    for (int c = 0; c < D; c++) above |= (double)y->most[c] >= y->high[at + c];
    for (int c = 0; above && c < D; c++) {
        const float *x = b->x + c;
        int i = 0;
        if (!((double)y->most[c] >= y->high[at + c])) continue;
        while (i < b->n - 1 && !(fabsf(x[(size_t)i * b->stride]) == y->most[c])) i++;
        set_peak(an, y, at + c, (double)y->most[c], b->pos + i);
    }
}

/* A batch before rotation. The first n_skip of a window count in the peaks and r_skip alone. */
static void add_before(const Analysis *an, Tally *y, const Axis *ax, const Batch *b)
{
    const Kernels *k = an->kernels;
    int D = an->m->head_dim, P = ax->n, skipped = b->pos < an->o.n_skip;
    OpenSums *o = &y->open;
    RadiusSums radii = {skipped ? o->r_skip : o->r, y->most_r, P};
    ValueSums values = {skipped ? NULL : o->value, skipped ? NULL : o->size, NULL, y->most};
    memset(y->most_r, 0, (size_t)P * sizeof *y->most_r);
    memset(y->most, 0, (size_t)D * sizeof *y->most);
    k->add_radii(&radii, b->x, b->stride, b->n);
    k->add_values(&values, b->x, b->stride, b->n, D);
    peaks_of_radii(an, y, ax, b);
    peaks_of_values(an, y, P, b);
    *(skipped ? o->n_skip : o->n) += b->n;
    if (skipped) return;
    k->add_moments(o->moments, b->x, b->stride, b->n, D);
    for (int i = 0; i < b->n && an->window == 0 && *y->n_first < FIRST_TOKENS; i++)
        memcpy(y->first + (size_t)(*y->n_first)++ * (size_t)D, b->x + (size_t)i * b->stride,
               (size_t)D * sizeof *b->x);
}

/* A batch after rotation. The first n_skip of a window count in the peaks and sq_skip alone. */
static void add_after(const Analysis *an, Tally *y, const Axis *ax, const Batch *b)
{
    int D = an->m->head_dim, skipped = b->pos < an->o.n_skip;
    OpenSums *o = &y->open;
    ValueSums values = {o->after, o->size_after, o->sq_after, y->most};
    if (skipped) values = (ValueSums){.square = o->sq_skip, .most = y->most};
    memset(y->most, 0, (size_t)D * sizeof *y->most);
    an->kernels->add_values(&values, b->x, b->stride, b->n, D);
    peaks_of_values(an, y, ax->n + D, b);
    if (!skipped) *o->n_after += b->n;
}

/* Every sum takes token after token, so batches of any size give the same. */
static void add_batch(const Analysis *an, Tally *y, const Axis *ax, int stage, Batch b)
{
    for (int n, left = b.n; left > 0; left -= n, b.pos += n, b.x += (size_t)n * b.stride) {
        int skip = an->o.n_skip - b.pos; /* those left out of the sums are a batch of their own */
        n = left < SOME ? left : SOME;
        n = skip > 0 && skip < n ? skip : n;
        b.n = n;
        (stage == BEFORE_ROPE ? add_before : add_after)(an, y, ax, &b);
    }
}

static void add_held(const Analysis *an, Tally *y, const Axis *ax, int stage)
{
    Held *h = &y->held[stage];
    add_batch(an, y, ax, stage, (Batch){h->pos, h->n, h->x, h->stride});
    h->n = 0;
}

/* Tokens of one head. Few at a time are held back: sums are larger than what is added to them, and
 * memory is what decoding waits for. */
static void add_tokens(const Analysis *an, Tally *y, int l, int stage, Batch b)
{
    const Axis *ax = &an->axis[an->m->layer[l].rope];
    Held *h = &y->held[stage];
    size_t D = (size_t)an->m->head_dim;
    if (h->n && (h->n + b.n > HELD || h->pos + h->n != b.pos)) add_held(an, y, ax, stage);
    if (b.n > HELD) {
        add_batch(an, y, ax, stage, b);
        return;
    }
    if (!h->n) h->pos = b.pos;
    for (int i = 0; i < b.n; i++)
        memcpy(h->x + (size_t)h->n++ * h->stride, b.x + (size_t)i * b.stride, D * sizeof *h->x);
}

/* What is held back, of all heads: before a window ends, and before its sums are read. */
static void add_all_held(const Analysis *a)
{
    for (int l = 0; l < a->m->n_layers; l++) {
        const Axis *ax = &a->axis[a->m->layer[l].rope];
        for (int stage = BEFORE_ROPE; stage <= AFTER_ROPE; stage++) {
            for (int i = a->first_q[l]; i < a->first_q[l + 1]; i++)
                add_held(a, &a->q[i], ax, stage);
            for (int i = a->first_k[l]; i < a->first_k[l + 1]; i++)
                add_held(a, &a->k[i], ax, stage);
        }
    }
}

static void on_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q, size_t stride)
{
    const Analysis *a = ctx;
    add_tokens(a, &a->q[a->first_q[l] + h], l, stage, (Batch){pos, n, q, stride});
}

static void on_k(void *ctx, int l, int kh, int stage, int pos, int n, const float *k, size_t stride)
{
    const Analysis *a = ctx;
    add_tokens(a, &a->k[a->first_k[l] + kh], l, stage, (Batch){pos, n, k, stride});
}

/* ---------------------------------------------------------------- the probe: attention */

/* The weights of one more query on the first keys that it sees. */
static void add_sinks(SinkWindow *s, const AttnRow *r, int finite)
{
    s->n++;
    if (!finite) {
        s->n_bad++;
        return;
    }
    if (r->t0 == 0) s->uniform += 1.0 / r->n_t;
    int n = r->n_t < SINK_KEYS - r->t0 ? r->n_t : SINK_KEYS - r->t0;
    const float *restrict weights = r->weights;
    double *restrict sum = s->sum + (n > 0 ? r->t0 : 0);
    for (int i = 0; i < n; i++) sum[i] += (double)weights[i];
}

static double parts_sum(const double *v)
{
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

static float parts_max(const float *v)
{
    float max = v[0];
    for (int i = 1; i < PARTS; i++) max = v[i] > max ? v[i] : max;
    return max;
}

/* Entropy of a softmax row in nats: H = -sum a log a = log Z - sum a z, with log Z = z - log a at
 * any key, here the one of the largest score and weight. */
static double row_entropy(const RowSums *s)
{
    double log_z = (double)parts_max(s->top) - log((double)parts_max(s->max));
    double h = log_z - parts_sum(s->score);
    return h > 0 ? h : 0;
}

/* Copies of this token: on them (TransformerLens: duplicate), on what followed them (induction). */
static void add_copies(RowSum *s, const Analysis *an, const AttnRow *r)
{
    if (r->pos >= an->seen.n) return;
    for (int t = an->seen.before[r->pos]; t >= r->t0; t = an->seen.before[t]) {
        s->duplicate += (double)r->weights[t - r->t0];
        s->induction += (double)r->weights[t + 1 - r->t0];
    }
    s->n_known++;
}

static void add_row(RowSum *s, const Analysis *an, const AttnRow *r)
{
    RowSums sums;
    for (int i = 0; i < PARTS; i++) {
        sums.score[i] = sums.position[i] = sums.weight[i] = 0;
        sums.max[i] = 0, sums.top[i] = -INFINITY;
    }
    int n = r->n_t;
    double seen = 0;
    for (int i = 0; i < 3; i++) {
        int from = (int)((long)n * i / 3), to = (int)((long)n * (i + 1) / 3);
        an->kernels->add_row(&sums, r->weights + from, r->scores + from, from, to - from);
        double sum = parts_sum(sums.weight);
        if (n >= 3) s->third[i] += sum - seen;
        seen = sum;
    }
    s->n++;
    s->n_thirds += n >= 3;
    s->distance += (double)(n - 1) - parts_sum(sums.position);
    if (n >= 2) {
        s->n_entropy++;
        s->entropy += row_entropy(&sums) / log((double)n);
        s->previous += (double)r->weights[n - 2];
    }
    if (r->pos >= 4 && r->t0 == 0) {
        for (int t = 0; t < 4; t++) s->first4 += (double)r->weights[t];
        s->n_first4++;
    }
    add_copies(s, an, r);
}

static int all_finite(const float *x, int n)
{
    int finite = 1;
    for (int c = 0; c < n; c++) finite &= isfinite(x[c]) != 0;
    return finite;
}

/* The key of one more token, whatever became of its query. A key that is not finite is no key of
 * the sums and is not counted; without a finite key 0 the window has no parts of logits. */
static void add_key(Sink *s, const AttnRow *r, int D)
{
    const float *restrict k = r->k;
    double *restrict keys = s->keys, *restrict key0 = s->key0;
    int first = r->pos == 0, finite = all_finite(k, D);
    if (first) s->n_keys = 0, s->has_key0 = finite;
    for (int c = 0; first && c < D; c++) key0[c] = (double)k[c], keys[c] = 0;
    if (first || !finite) return;
    for (int c = 0; c < D; c++) keys[c] += (double)k[c];
    s->n_keys++;
}

/* Parts of the logits of this query: of key 0, and (by a running sum of keys, with no T x T work)
 * the mean over keys 1 .. pos; of each value. */
static void add_logits(const Analysis *an, const Sink *s, Tally *y, const AttnRow *r)
{
    int D = an->m->head_dim;
    const float *restrict q = r->q;
    const double *restrict keys = s->keys, *restrict key0 = s->key0;
    double *restrict sink = y->open.sink, *restrict others = y->open.others;
    double *restrict ordinary = y->open.ordinary;
    if (r->t0 || !s->n_keys || !s->has_key0) return;
    double scale = (double)an->m->score_scale, mean = scale / s->n_keys;
    for (int c = 0; c < D; c++) {
        sink[c] += scale * (double)q[c] * key0[c];
        others[c] += mean * (double)q[c] * keys[c];
        ordinary[c] += scale * (double)q[c] * keys[c];
    }
    y->open.row->n_logits++;
    y->open.row->n_ordinary += s->n_keys;
}

/* One row. A row with a NaN is NaN throughout, as softmax divides by the sum. */
static void on_attn(void *ctx, const AttnRow *r)
{
    const Analysis *an = ctx;
    int i = an->first_q[r->l] + r->h, finite = isfinite(r->weights[0]);
    Sink *s = &an->sink[i];
    Tally *y = &an->q[i];
    if (s->open.n < an->o.sink_t) add_sinks(&s->open_t, r, finite);
    add_sinks(&s->open, r, finite);
    if (r->q && r->k) add_key(s, r, an->m->head_dim);
    if (!finite) {
        y->open.row->n_bad++;
        return;
    }
    add_row(y->open.row, an, r);
    if (r->q && r->k) add_logits(an, s, y, r);
    if (an->window == 0 && r->pos == s->n_map && s->n_map < FIRST_TOKENS && r->t0 == 0) {
        memcpy(s->map + s->n_map * (s->n_map + 1) / 2, r->weights,
               (size_t)r->n_t * sizeof *r->weights);
        s->n_map++;
    }
}

/* ---------------------------------------------------------------- the probe: residual stream */

static int by_float(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The largest |x|; NaN is none. Sixteen at a time, as wide registers want it. */
static float largest(const float *x, int n)
{
    float most[16] = {0};
    int c = 0;
    for (; c + 16 <= n; c += 16)
        for (int i = 0; i < 16; i++) {
            float v = fabsf(x[c + i]);
            most[i] = v > most[i] ? v : most[i];
        }
    for (; c < n; c++) most[0] = fabsf(x[c]) > most[0] ? fabsf(x[c]) : most[0];
    for (int i = 1; i < 16; i++) most[0] = most[i] > most[0] ? most[i] : most[0];
    return most[0];
}

/* One state of which a value is above act_min, or the largest so far. Sorting takes long: only if
 * it is the largest, or the largest value is above act_ratio times the median. */
static void add_large(const Analysis *an, Massive *s, int pos, const float *x, float most)
{
    int E = an->m->n_embd, top = 0, low = 0;
    int record = peak_beaten(&s->most, (double)most, an->window, pos);
    for (int c = 0; c < E; c++) low += (double)most > an->o.act_ratio * fabs((double)x[c]);
    if (!record && low < (E + 1) / 2) return;
    for (int c = 0; c < E; c++) an->scratch[c] = fabsf(x[c]);
    qsort(an->scratch, (size_t)E, sizeof *an->scratch, by_float);
    double mid = ((double)an->scratch[(E - 1) / 2] + (double)an->scratch[E / 2]) / 2;
    while (!(fabsf(x[top]) == most)) top++;
    if (record) {
        s->most = (Peak){(double)most, an->window, pos, top};
        s->median = mid;
    }
    for (int c = 0; c < E; c++) {
        double v = fabs((double)x[c]);
        s->sum[c] += v > an->o.act_min && v > an->o.act_ratio * mid;
    }
}

/* Massive activations (Sun et al., arXiv:2402.17762): |h| > act_min (100) and > act_ratio (1000)
 * times the median |h| of that hidden state. */
static void on_resid(void *ctx, int l, int pos, int n, const float *x, size_t stride)
{
    const Analysis *an = ctx;
    Massive *s = &an->massive[l];
    for (int i = 0; i < n; i++, x += stride) {
        float most = largest(x, an->m->n_embd);
        if ((double)most > an->o.act_min || (double)most >= s->most.value)
            add_large(an, s, pos + i, x, most);
    }
}

/* ---------------------------------------------------------------- windows and memory */

static void close_sums(double *sum, Exact *total, size_t n)
{
    for (size_t i = 0; i < n; i++) exact_add(&total[i], sum[i]), sum[i] = 0;
}

static void close_tally(Tally *y)
{
    close_sums(y->sum, y->total, y->n_sums);
    memcpy(y->closed, y->peak, y->n_peaks * sizeof *y->peak);
}

/* s and t together. 0, or -1 if both have some windows: s stays, and *both are the first of
 * them. */
static int ranges_merge(Ranges *s, const Ranges *t, Range *both)
{
    Range *out = xcalloc(s->n + t->n, sizeof *out);
    size_t n = 0;
    for (size_t i = 0, k = 0; i < s->n || k < t->n;) {
        int mine = k == t->n || (i < s->n && s->r[i].from <= t->r[k].from);
        Range next = mine ? s->r[i++] : t->r[k++], *last = n ? &out[n - 1] : NULL;
        if (last && next.from < last->to) {
            *both = (Range){next.from, next.to < last->to ? next.to : last->to};
            free(out);
            return -1;
        }
        if (last && next.from == last->to)
            last->to = next.to;
        else
            out[n++] = next;
    }
    free(s->r);
    *s = (Ranges){out, n};
    return 0;
}

static int ranges_have(const Ranges *s, uint64_t window)
{
    for (size_t i = 0; i < s->n; i++)
        if (window >= s->r[i].from && window < s->r[i].to) return 1;
    return 0;
}

static uint64_t ranges_count(const Ranges *s)
{
    uint64_t n = 0;
    for (size_t i = 0; i < s->n; i++) n += s->r[i].to - s->r[i].from;
    return n;
}

/* The windows of 0 .. n - 1 that s does not have. free(r). */
static Ranges ranges_missing(const Ranges *s, uint64_t n)
{
    Ranges out = {xcalloc(s->n + 1, sizeof *out.r), 0};
    uint64_t at = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->r[i].from > at) out.r[out.n++] = (Range){at, s->r[i].from};
        at = s->r[i].to;
    }
    if (at < n) out.r[out.n++] = (Range){at, n};
    return out;
}

/* How many of n queries, from position k on, see key k through a sliding window (0: none). */
static int n_seeing(int n, int k, int sliding)
{
    return sliding && sliding < n - k ? sliding : n - k;
}

/* A window becomes a sample: alpha_k = 1 / (T - k) sum over its queries from k on of the weight on
 * key k, k from 0 (Gu et al., arXiv:2410.10781, count from 1). In a layer with a sliding window of
 * W keys the mean is over the queries that see key k, at most W of them: the others say nothing of
 * it. Only the longest windows seen count: in a short one (the end of a text, an interrupt) the
 * first key has few rivals.
 * Pitfall: a text of 513 tokens in windows of 512 has a last window of one token, alpha_1 = 1. */
static void add_window(SinkSamples *s, const SinkWindow *w, int sliding, double sink_eps)
{
    if (w->n > s->t) *s = (SinkSamples){.t = w->n};
    if (w->n == 0 || w->n < s->t) return;
    if (w->n_bad) {
        exact_add(&s->n_bad, 1);
        return;
    }
    exact_add(&s->n, 1);
    exact_add(&s->uniform, w->uniform / n_seeing(w->n, 0, sliding));
    for (int k = 0; k < SINK_KEYS && k < w->n; k++) {
        double alpha = w->sum[k] / n_seeing(w->n, k, sliding);
        exact_add(&s->alpha[k], alpha);
        exact_add(&s->n_sink[k], alpha > sink_eps);
    }
}

/* Closes the open window of one head of layer l. */
static void close_head(const Analysis *a, int l, Sink *s, Tally *y)
{
    add_window(&s->whole, &s->open, a->m->layer[l].window, a->o.sink_eps);
    add_window(&s->at_t, &s->open_t, a->m->layer[l].window, a->o.sink_eps);
    s->open = s->open_t = (SinkWindow){0};
    s->n_keys = s->has_key0 = 0;
    close_tally(y);
}

static void close_massive(Massive *s, int E)
{
    close_sums(s->sum, s->total, (size_t)E);
    s->closed_most = s->most;
    s->closed_median = s->median;
}

void analysis_window(Analysis *a)
{
    int L = a->m->n_layers, n_q = a->first_q[L], n_k = a->first_k[L];
    add_all_held(a);
    double n = n_q ? *a->q[0].open.n + *a->q[0].open.n_skip : 0; /* tokens */
    for (int l = 0; l < L; l++)
        for (int i = a->first_q[l]; i < a->first_q[l + 1]; i++)
            close_head(a, l, &a->sink[i], &a->q[i]);
    for (int i = 0; i < n_k; i++) close_tally(&a->k[i]);
    for (int l = 0; l < L; l++) close_massive(&a->massive[l], a->m->n_embd);
    a->seen.n = 0;
    if (!(n > 0)) return;
    Range one = {a->window, a->window + 1}, twice;
    MUST(ranges_merge(&a->closed, &(Ranges){&one, 1}, &twice) == 0);
    a->n_tokens += (uint64_t)n;
    a->window++;
}

void analysis_seek(Analysis *a, uint64_t window)
{
    a->window = window;
}

int analysis_has(const Analysis *a, uint64_t window)
{
    return ranges_have(&a->closed, window);
}

uint64_t analysis_closed(const Analysis *a, uint64_t *n_tokens)
{
    *n_tokens = a->n_tokens;
    return ranges_count(&a->closed);
}

void analysis_tokens(Analysis *a, const int *id, int n)
{
    Seen *s = &a->seen;
    while (s->n + n > s->cap) {
        s->cap = s->cap ? 2 * s->cap : 512;
        s->id = xrealloc(s->id, (size_t)s->cap, sizeof *s->id);
        s->before = xrealloc(s->before, (size_t)s->cap, sizeof *s->before);
    }
    for (int i = 0; i < n; i++, s->n++) {
        int t = s->n - 1;
        while (t >= 0 && s->id[t] != id[i]) t--;
        s->id[s->n] = id[i];
        s->before[s->n] = t;
    }
}

const Probe *analysis_probe(const Analysis *a)
{
    return &a->probe;
}

/* P: what the caller says, or the original context of the encoding, or the trained context; NONE:
 * nobody knows. Where a window hides what is farther, its length: no query and key meet beyond. */
static double trained_context(const Rope *r, const Model *m, double said)
{
    double n_ctx = said > 0 ? said : r->p.n_ctx_orig > 0 ? r->p.n_ctx_orig : m->n_ctx_train;
    if (r->p.window > 0 && n_ctx > r->p.window) n_ctx = r->p.window;
    return n_ctx > 0 ? n_ctx : NONE;
}

/* The axis of key head kh; -1: of all of them. */
static void axis_init(Axis *ax, const Rope *r, int kh, const Model *m, double n_ctx)
{
    size_t n = (size_t)r->n_pairs;
    int blank = r->uneven == ROPE_READ || (r->uneven && kh < 0);
    *ax = (Axis){.n = r->n_pairs, .uneven = r->uneven};
    ax->n_ctx = blank ? NONE : trained_context(r, m, n_ctx); /* NONE: no pair can be placed */
    ax->a = xcalloc(n + 1, sizeof *ax->a);
    ax->b = xcalloc(n + 1, sizeof *ax->b);
    ax->theta = xcalloc(n + 1, sizeof *ax->theta);
    ax->x = xcalloc(n + 1, sizeof *ax->x);
    for (int j = 0; j < ax->n; j++) {
        const double *theta = &r->inv_freq[(kh > 0 ? (size_t)kh * n : 0) + (size_t)j];
        int turns = *theta > 0;
        for (int k = 1; blank && k < r->sets; k++) turns |= theta[(size_t)k * n] > 0;
        rope_pair(r, j, &ax->a[j], &ax->b[j]);
        ax->theta[j] = blank && turns ? NONE : *theta;
        ax->x[j] = ax->theta[j] * ax->n_ctx;
        ax->n_rotated += turns;
    }
}

/* The axes of all encodings of a->m, and of their key heads that have one of their own. */
static void axes_init(Analysis *a)
{
    const Model *m = a->m;
    a->n_axes = m->n_ropes;
    for (int i = 0; i < m->n_ropes; i++)
        if (m->rope[i].uneven == ROPE_HEADS) a->n_axes += m->rope[i].sets;
    a->axis = xcalloc((size_t)a->n_axes + 1, sizeof *a->axis);
    for (int i = 0, at = m->n_ropes; i < m->n_ropes; i++) {
        const Rope *r = &m->rope[i];
        axis_init(&a->axis[i], r, -1, m, a->o.n_ctx);
        if (r->uneven != ROPE_HEADS) continue;
        a->axis[i].own = at;
        for (int kh = 0; kh < r->sets; kh++) axis_init(&a->axis[at++], r, kh, m, a->o.n_ctx);
    }
}

/* The first encoding that reads like number i: layers with weights of their own may still have the
 * same kind and the same angles. */
static int first_alike(const Analysis *a, int i)
{
    const Axis *x = &a->axis[i], *y;
    const Rope *r = &a->m->rope[i], *o;
    for (int k = 0; k < i; k++) {
        int differ = 0;
        y = &a->axis[k], o = &a->m->rope[k];
        for (int j = 0; j < x->n && j < y->n; j++)
            differ |=
                fabs(x->theta[j] - y->theta[j]) > 1e-12 || isnan(x->theta[j]) != isnan(y->theta[j]);
        differ |= r->p.base > o->p.base || r->p.base < o->p.base || r->amplitude > o->amplitude ||
                  r->amplitude < o->amplitude;
        if (!differ && o->kind && o->kind->load && r->kind == o->kind && x->n == y->n &&
            x->uneven == y->uneven)
            return k;
    }
    return i;
}

/* That of query head h of layer l. */
static const Axis *axis_of(const Analysis *a, int l, int h)
{
    const Layer *y = &a->m->layer[l];
    const Axis *ax = &a->axis[y->rope];
    return ax->own ? &a->axis[ax->own + h / (y->n_heads / y->n_kv_heads)] : ax;
}

static void axes_free(Axis *axis, int n)
{
    for (int i = 0; i < n; i++) {
        Axis *ax = &axis[i];
        free(ax->a), free(ax->b), free(ax->theta), free(ax->x);
    }
    free(axis);
}

/* The sums of a head of D values and P pairs, in one row of doubles, and their number. */
static size_t open_sums(OpenSums *o, double *row, int P, int D, int is_query)
{
    size_t p = (size_t)P, d = (size_t)D, at = 0;
    struct {
        double **column;
        size_t n;
    } parts[] = {{&o->n, 1},        {&o->n_skip, 1},  {&o->n_after, 1},
                 {&o->r, p},        {&o->r_skip, p},  {&o->value, d},
                 {&o->size, d},     {&o->after, d},   {&o->size_after, d},
                 {&o->sq_after, d}, {&o->sq_skip, d}, {&o->moments, d * (d + 1) / 2},
                 {&o->sink, d},     {&o->others, d},  {&o->ordinary, d}};
    int n_parts = (int)(sizeof parts / sizeof *parts) - (is_query ? 0 : 3);
    for (int i = 0; i < n_parts; at += parts[i++].n)
        if (row) *parts[i].column = row + at;
    if (!is_query) return at;
    if (row) o->row = (RowSum *)(row + at);
    return at + sizeof *o->row / sizeof *row;
}

/* Memory cut from one block, in cache lines of its own. base is NULL while the size is counted. */
typedef struct {
    char *base;
    size_t used;
} Block;

static void *cut(Block *b, size_t n, size_t size)
{
    void *p = b->base ? b->base + b->used : NULL;
    b->used += (n * size + LINE - 1) / LINE * LINE;
    return p;
}

static void place_tally(Tally *y, Block *b, int P, int D, int is_query)
{
    y->open = (OpenSums){0};
    y->n_sums = open_sums(&y->open, NULL, P, D, is_query);
    y->sum = cut(b, y->n_sums, sizeof *y->sum);
    open_sums(&y->open, y->sum, P, D, is_query);
    y->total = cut(b, y->n_sums, sizeof *y->total);
    y->n_peaks = (size_t)P + 2 * (size_t)D;
    y->peak = cut(b, y->n_peaks, sizeof *y->peak);
    y->high = cut(b, y->n_peaks, sizeof *y->high);
    y->most_r = cut(b, (size_t)P, sizeof *y->most_r);
    y->most = cut(b, (size_t)D, sizeof *y->most);
    y->closed = cut(b, y->n_peaks, sizeof *y->closed);
    y->first = cut(b, FIRST_TOKENS * (size_t)D, sizeof *y->first);
    y->n_first = cut(b, 1, sizeof *y->n_first);
}

/* The tokens held back of the n_heads query or key heads of a layer. */
static void place_held(Tally *y, Block *b, int n_heads, int D)
{
    size_t stride = (size_t)n_heads * (size_t)D;
    for (int stage = BEFORE_ROPE; stage <= AFTER_ROPE; stage++) {
        float *x = cut(b, HELD * stride, sizeof *x);
        for (int h = 0; x && h < n_heads; h++)
            y[h].held[stage] = (Held){.x = x + h * D, .stride = stride};
    }
}

static void place_sink(Sink *s, Block *b, int D)
{
    s->keys = cut(b, (size_t)D, sizeof *s->keys);
    s->key0 = cut(b, (size_t)D, sizeof *s->key0);
    s->map = cut(b, FIRST_TOKENS * (FIRST_TOKENS + 1) / 2, sizeof *s->map);
}

static void place(Analysis *a, Block *b)
{
    const Model *m = a->m;
    int L = m->n_layers, D = m->head_dim;
    a->q = cut(b, (size_t)a->first_q[L], sizeof *a->q);
    a->k = cut(b, (size_t)a->first_k[L], sizeof *a->k);
    a->sink = cut(b, (size_t)a->first_q[L], sizeof *a->sink);
    a->massive = cut(b, (size_t)L, sizeof *a->massive);
    a->scratch = cut(b, (size_t)m->n_embd, sizeof *a->scratch);
    for (int l = 0; l < L; l++) {
        int P = a->axis[m->layer[l].rope].n;
        Tally t;
        Sink s;
        Massive none, *y = b->base ? &a->massive[l] : &none;
        for (int i = a->first_q[l]; i < a->first_q[l + 1]; i++) {
            place_tally(b->base ? &a->q[i] : &t, b, P, D, 1);
            place_sink(b->base ? &a->sink[i] : &s, b, D);
        }
        for (int i = a->first_k[l]; i < a->first_k[l + 1]; i++)
            place_tally(b->base ? &a->k[i] : &t, b, P, D, 0);
        place_held(b->base ? a->q + a->first_q[l] : NULL, b, m->layer[l].n_heads, D);
        place_held(b->base ? a->k + a->first_k[l] : NULL, b, m->layer[l].n_kv_heads, D);
        y->sum = cut(b, (size_t)m->n_embd, sizeof *y->sum);
        y->total = cut(b, (size_t)m->n_embd, sizeof *y->total);
    }
}

Analysis *analysis_new(const Model *m, const AnalysisOptions *o)
{
    Analysis *a = xcalloc(1, sizeof *a);
    size_t L = (size_t)m->n_layers;
    Err e;
    a->m = m;
    a->o = *o;
    a->kernels = kernels_pick(o->isa, &e);
    if (!a->kernels) a->kernels = &kernels_base;
    a->probe = (Probe){.want = PROBE_QK | PROBE_ATTN | PROBE_RESID,
                       .ctx = a,
                       .q = on_q,
                       .k = on_k,
                       .attn = on_attn,
                       .resid = on_resid};
    axes_init(a);
    a->first_q = xcalloc(L + 1, sizeof *a->first_q);
    a->first_k = xcalloc(L + 1, sizeof *a->first_k);
    for (size_t l = 0; l < L; l++) {
        a->first_q[l + 1] = a->first_q[l] + m->layer[l].n_heads;
        a->first_k[l + 1] = a->first_k[l] + m->layer[l].n_kv_heads;
    }
    Block b = {NULL, 0};
    place(a, &b); /* counts */
    a->mem = xcalloc(b.used + LINE, 1);
    b = (Block){(char *)a->mem + (LINE - (uintptr_t)a->mem % LINE) % LINE, 0};
    place(a, &b);
    return a;
}

void analysis_free(Analysis *a)
{
    if (!a) return;
    axes_free(a->axis, a->n_axes);
    free(a->first_q), free(a->first_k);
    free(a->seen.id), free(a->seen.before);
    free(a->closed.r);
    free(a->mem);
    free(a);
}

/* ---------------------------------------------------------------- spectra */

static int by_value(const void *a, const void *b) /* NaN last */
{
    double x = *(const double *)a, y = *(const double *)b;
    if (isnan(x) || isnan(y)) return isnan(x) - isnan(y);
    return (x > y) - (x < y);
}

/* a, symmetric [n][n], becomes tridiagonal by Householder reflections from both sides: diagonal
 * d[n] and beside it e[n - 1]. a is overwritten, tmp is [2 n]. Elements are at most about 1.
 * Source: Golub and Van Loan, Matrix Computations, 8.3.1. */
static void tridiagonalise(double *a, int n, double *d, double *e, double *tmp)
{
    double *v = tmp, *w = tmp + n;
    for (int k = 0; k + 1 < n; k++) {
        int m = n - k - 1;
        double *row = a + (size_t)k * (size_t)n + k + 1, *sub = row + n, sq = 0, vw = 0;
        for (int i = 0; i < m; i++) v[i] = row[i], sq += v[i] * v[i], w[i] = 0;
        d[k] = row[-1];
        e[k] = m == 1 ? v[0] : v[0] > 0 ? -sqrt(sq) : sqrt(sq);
        v[0] -= e[k]; /* v is reflected onto its first axis: H = 1 - 2 v v^T / |v|^2 */
        double half = sq - row[0] * e[k];
        if (m == 1 || !(half > 1e-300)) continue;
        for (int i = 0; i < m; i++) /* w = A v / half */
            for (int c = 0; c < m; c++) w[c] += sub[(size_t)i * (size_t)n + (size_t)c] * v[i];
        for (int i = 0; i < m; i++) w[i] /= half, vw += v[i] * w[i];
        for (int i = 0; i < m; i++) w[i] -= vw / (2 * half) * v[i];
        for (int i = 0; i < m; i++, sub += n) /* H A H = A - v w^T - w v^T */
            for (int c = 0; c < m; c++) sub[c] -= v[i] * w[c] + w[i] * v[c];
    }
    d[n - 1] = a[(size_t)n * (size_t)n - 1];
}

/* One implicit QL step with Wilkinson's shift over l .. m, which e[m] = 0 parts from the rest.
 * Roots of sums of squares are plain: elements are at most 1, and what underflows is nothing. */
static void ql_step(double *d, double *e, int l, int m)
{
    double g = (d[l + 1] - d[l]) / (2 * e[l]), s = 1, c = 1, p = 0;
    g = d[m] - d[l] + e[l] / (g + copysign(sqrt(g * g + 1), g));
    for (int i = m - 1; i >= l; i--) {
        double f = s * e[i], b = c * e[i], r = sqrt(f * f + g * g);
        if (i + 1 < m) e[i + 1] = r;
        if (r == 0) {
            d[i + 1] -= p;
            return;
        }
        s = f / r, c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
    }
    d[l] -= p;
    e[l] = g;
}

/* d becomes the eigenvalues of the tridiagonal matrix, in no order; e [n] is overwritten. What is
 * below 2^-60 beside the diagonal is nothing: the trace is 1. 0, or -1 if it does not converge.
 * Source: Golub and Van Loan, 8.3.3; Wilkinson and Reinsch, Linear Algebra, II/3. */
static int tridiagonal_eigenvalues(double *d, double *e, int n)
{
    for (int l = 0, step = 0; l < n; step++) {
        int m = l;
        while (m < n - 1 && fabs(e[m]) > 0x1p-53 * (fabs(d[m]) + fabs(d[m + 1])) + 0x1p-60) m++;
        if (m == l)
            l++, step = 0;
        else if (step > 60)
            return -1;
        else
            e[m] = 0, ql_step(d, e, l, m);
    }
    return 0;
}

enum { ENTROPY_TERMS = 32 }; /* eigenvalues in the truncated entropy */

/* Eigenvalues v of X^T X, ascending, of sum 1:
 *   stable rank ||X||_F^2 / ||X||_2^2 = sum v / max v (arXiv:2603.18017),
 *   share of the first singular value s_1 / sum s, s = sqrt v,
 *   truncated matrix entropy -sum v log v over the 32 largest, in nats, at most log D
 *   (after DoPE, arXiv:2511.09146; the truncation is ours).
 * What is below D 2^-52 of the largest is rounding, and counts as 0. */
static Spectrum spectrum_of(const double *v, int D)
{
    double sum = 0, roots = 0, most = v[D - 1], least = D * 0x1p-52 * most, entropy = 0;
    for (int i = D - 1; i >= 0 && v[i] > least; i--) {
        sum += v[i], roots += sqrt(v[i]);
        if (i >= D - ENTROPY_TERMS) entropy -= v[i] * log(v[i]);
    }
    return (Spectrum){sum / most, sqrt(most) / roots, entropy > 0 ? entropy : 0};
}

/* From the upper triangle of X^T X. NaN if that is zero or not finite. */
static Spectrum read_spectrum(const double *moments, int D)
{
    size_t n = (size_t)D;
    double *a = xcalloc(n * n + 4 * n, sizeof *a), *d = a + n * n, *e = d + n, trace = 0, all = 0;
    Spectrum s = {NONE, NONE, NONE};
    for (int i = 0, at = 0; i < D; at += D - i++) trace += moments[at];
    for (size_t i = 0; i < n; i++)
        for (size_t c = i; c < n; c++) {
            double v = *moments++ / trace;
            a[i * n + c] = a[c * n + i] = v;
            all += fabs(v);
        }
    if (trace > 0 && isfinite(trace) && isfinite(all)) {
        tridiagonalise(a, D, d, e, e + n);
        int bad = tridiagonal_eigenvalues(d, e, D);
        qsort(d, n, sizeof *d, by_value);
        if (!bad) s = spectrum_of(d, D);
    }
    free(a);
    return s;
}

/* ---------------------------------------------------------------- caps */

/* What limits the queries or keys of one head before rotation: a norm of n values with weights w of
 * this head, after a linear map of mean 1 (RMS) or mean 0 and variance 1 (centred); or a clamp. */
typedef struct {
    const float *w; /* [D], pairs adjacent; NULL: no norm */
    double n, clamp;
    int centred;
} Cap;

/* Heads that an encoding makes more of, or maps before they turn, have none. */
static Cap cap_of(const Model *m, int l, int h, int is_key)
{
    const Layer *y = &m->layer[l];
    int heads = is_key ? y->n_kv_heads : y->n_heads, D = m->head_dim;
    if (is_mixed(m, y) || (y->n_q_heads && y->n_q_heads != y->n_heads)) return (Cap){.w = NULL};
    Cap c = {.w = is_key ? y->k_norm : y->q_norm, .n = D, .clamp = m->clamp};
    if (!c.w) return c;
    if (y->qk_norm != QK_HEAD) c.w += (size_t)h * (size_t)D;
    if (y->qk_norm == QK_ALL) c.n = (double)heads * D;
    c.centred = m->arch->norm != NORM_RMS;
    return c;
}

/* The largest radius of pair j, a and b its values. A norm makes y = w u with sum u^2 <= n, so
 *   r^2 = (w_a u_a)^2 + (w_b u_b)^2 <= n max(w_a^2, w_b^2), reached with all of u in one value.
 * If it is centred, sum u = 0: the other n - 2 values have to balance u_a + u_b, which costs at
 * least (u_a + u_b)^2 / (n - 2), so v = (u_a, u_b) has v^T (1 + 11^T / (n - 2)) v <= n, the inverse
 * of which is 1 - 11^T / n: r^2 <= n times the larger eigenvalue of
 *   ( w_a^2 (1 - 1/n)   -w_a w_b / n    )
 *   ( -w_a w_b / n      w_b^2 (1 - 1/n) ).
 * Clamped values alone: r <= sqrt(2) clamp. NaN: no limit. */
static double pair_cap(Cap c, int j)
{
    if (!c.w) return c.clamp > 0 ? sqrt(2) * c.clamp : NONE;
    double a = fabs((double)c.w[2 * j]), b = fabs((double)c.w[2 * j + 1]), n = c.n;
    if (!c.centred) return sqrt(n) * (a > b || isnan(a) ? a : b);
    double keep = 1 - 1 / n, half = (a * a - b * b) * keep, both = 2 * a * b / n;
    return sqrt(n * ((a * a + b * b) * keep + sqrt(half * half + both * both)) / 2);
}

/* The largest length of the D values of a head: sqrt(n) max |w|; centred it is a little less. */
static double head_cap(Cap c, int D)
{
    double most = 0;
    if (!c.w) return c.clamp > 0 ? sqrt(D) * c.clamp : NONE;
    for (int i = 0; i < D; i++) /* Pitfall: over fmax gcc 12 for ARM falls in its vectorizer */
        if (fabs((double)c.w[i]) > most) most = fabs((double)c.w[i]);
    return sqrt(c.n) * most;
}

/* A radius in the run may exceed its cap by rounding: n / 64 + 8 roundings of floats, 1e-4 of it
 * for all n there are. */
static const double CAP_SLACK = 1e-4;

/* What becomes of the sum of product and bias before it turns; NULL: nothing. */
static const char *settled_by(const Model *m, const Layer *y)
{
    if (y->qk_norm) return m->clamp > 0 ? "clamp, norm" : "norm";
    return m->clamp > 0 ? "clamp" : NULL;
}

/* ---------------------------------------------------------------- from sums to a reading */

/* Hits of one bound: x <= x_most and lo + lo_x x <= phi <= hi + hi_x x, asked of the pairs with
 * x <= scope. Written so that a NaN misses. B1 to B4 are lower ends only: the upper end of the
 * theorem they come from is not asked, so what they mean is said of the theorem, not of them. */
typedef struct {
    const char *id, *formula, *meaning;
    double scope, x_most, lo, lo_x, hi, hi_x;
} Bound;

static const Bound bounds[N_BOUNDS] = {
    {"F1", "x <= 2 pi", "the pair makes at most one turn over P", ENDLESS, TAU, 0, 0, TAU, 0},
    {"F2", "x <= pi", "the pair can keep one sign at every distance", ENDLESS, PI, 0, 0, TAU, 0},
    {"T3", "pi/2 <= phi <= 3 pi/2 - x", "never positive, at any distance", PI, PI, PI / 2, 0,
     3 * PI / 2, -1},
    {"B1", "phi >= pi/2", "lower end of T3", PI, PI, PI / 2, 0, TAU, 0},
    {"B2", "phi >= pi - x/2", "lower end of pi <= phi + x/2 <= 2 pi: far not penalised (T6)", TAU,
     TAU, PI, -0.5, TAU, 0},
    {"B3", "phi >= (pi - x)/2", "lower end of pi/2 < phi + x/2 < 3 pi/2: negative mean (T2)", TAU,
     TAU, PI / 2, -0.5, TAU, 0},
    {"B4", "phi >= pi - x", "lower end of pi - x <= phi <= pi: the arc contains pi", TAU, TAU, PI,
     -1, TAU, 0},
};

/* Does the bound speak of the frequency alone? */
static int bound_of_x(const Bound *b)
{
    return !isfinite(b->scope);
}

/* "x <= pi", or "all" */
static const char *bound_scope(const Bound *b)
{
    return bound_of_x(b) ? "all" : b->scope > PI ? "x <= 2 pi" : "x <= pi";
}

static int bound_asks(const Bound *b, double x)
{
    return x > 0 && x <= b->scope;
}

static int bound_holds(const Bound *b, double x, double phi)
{
    return x <= b->x_most && phi >= b->lo + b->lo_x * x && phi <= b->hi + b->hi_x * x;
}

/* The chance of a hit. Of an angle: the share of phi in [0, 2 pi) that satisfies the bound at x.
 * Of a frequency: the share of the rotated pairs that satisfy it. */
static double bound_chance(const Bound *b, const Axis *ax, double x)
{
    if (bound_of_x(b)) {
        int n = 0;
        for (int j = 0; j < ax->n; j++) n += ax->theta[j] > 0 && ax->x[j] <= b->x_most;
        return (double)n / ax->n_rotated;
    }
    double lo = fmax(0, b->lo + b->lo_x * x), hi = fmin(TAU, b->hi + b->hi_x * x);
    return x <= b->x_most ? fmax(0, hi - lo) / TAU : 0;
}

static double wrap_2pi(double angle) /* into [0, 2 pi) */
{
    double w = fmod(angle, TAU);
    if (w < 0) w += TAU;
    return w >= TAU ? 0 : w;
}

/* angle / pi, for two decimals: never rounded up to 2.00, which lies outside [0, 2). */
static double in_pi(double angle)
{
    return angle / PI > 1.99 ? 1.99 : angle / PI;
}

static double sinc(double y)
{
    return y == 0 ? 1 : sin(y) / y;
}

/* Sorts v. NaN of nothing; of an even number the mean of the two in the middle. */
static double median(double *v, int n)
{
    if (n == 0) return NONE;
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* R = |sum z| / sum |z|: 1 if all tokens point the same way. */
static Side read_side(const HeadSums *s, const Tally *seen, int j)
{
    const PairSum *p = &s->pair[j];
    double n = *s->n;
    return (Side){.r = p->r / n,
                  .rms = sqrt(p->r2 / n),
                  .R = sqrt(p->a * p->a + p->b * p->b) / p->r,
                  .dir = atan2(p->b, p->a),
                  .offset = (p->a * p->a + p->b * p->b) / (n * p->r2),
                  .aa = p->aa / n,
                  .bb = p->bb / n,
                  .ab = p->ab / n,
                  .max = seen->peak[j].value,
                  .skip = p->r_skip / *s->n_skip};
}

/* Where the first negative stretch of cos(phi + theta delta) over [0, P] ends: the distance up to
 * which the offset is negative, (3 pi/2 - phi) / theta. It begins at 0 if phi >= pi/2. NaN if no
 * distance up to P is negative; it may end beyond P. */
static double negative_until(double phi, double theta, double x)
{
    if (phi >= 3 * PI / 2) phi -= TAU;
    return phi + x > PI / 2 ? (3 * PI / 2 - phi) / theta : NONE;
}

static LogitSum logit_mean(const HeadSums *q, int j)
{
    const LogitSum *s = &q->logit[j];
    double n = q->row->n_logits;
    return (LogitSum){s->sink / n, s->others / n, s->ordinary / q->row->n_ordinary};
}

/* Query and key of one pair:
 *   phi = arg sum z_q - arg sum z_k mod 2 pi,
 *   mean over uniform delta in [0, P] of cos(phi + theta delta) = sinc(x/2) cos(phi + x/2)  (T2),
 *   T3 room = min(phi - pi/2, 3 pi/2 - x - phi). */
static Pair read_pair(const Head *h, int j, double x)
{
    Pair p = {.q = read_side(&h->q, h->q_seen, j), .k = read_side(&h->k, h->k_seen, j)};
    p.phi = wrap_2pi(p.q.dir - p.k.dir);
    p.strength = p.q.r * p.k.r;
    p.gain = sinc(x / 2) * cos(p.phi + x / 2);
    p.t3_slack = fmin(p.phi - PI / 2, 3 * PI / 2 - x - p.phi);
    p.p_neg = negative_until(p.phi, h->axis->theta[j], x);
    p.worst = isnan(x) ? NONE : fmax(cos(p.phi), cos(p.phi + x));
    p.logit = logit_mean(&h->q, j);
    return p;
}

/* The strongest pair, the median, and which pairs stand out. Pairs that do not turn (theta = 0)
 * are no rotary pairs: they are never the top, never strong, and not in the median. */
static void rank_pairs(Head *h, const AnalysisOptions *o, double *tmp)
{
    const Axis *ax = h->axis;
    int n = 0;
    h->top = -1;
    for (int j = 0; j < ax->n; j++) {
        double s = h->pair[j].strength;
        if (!(ax->theta[j] > 0) || !isfinite(s)) continue;
        tmp[n++] = s;
        if (s > (h->top < 0 ? 0 : h->pair[h->top].strength)) h->top = j;
    }
    double mid = median(tmp, n);
    for (int j = 0; j < ax->n; j++) {
        Pair *p = &h->pair[j];
        double x = ax->x[j];
        p->ratio = p->strength / mid;
        p->strong = x > 0 && isfinite(p->strength) && p->strength > 0 &&
                    p->strength >= o->strong_ratio * mid && p->q.R >= o->strong_r &&
                    p->k.R >= o->strong_r;
        p->candidate = p->strong && x < TAU && cos(p->phi + x / 2) < 0;
        h->n_strong += p->strong;
        h->n_candidates += p->candidate;
    }
}

static double read_sum(const Exact *closed, double open)
{
    Exact s = *closed;
    exact_add(&s, open);
    return exact_value(&s);
}

/* The sums of pair j, values a < b: of one token after the other, as the moments are. */
static PairSum read_pair_sums(const OpenSums *o, int D, int j, int a, int b)
{
    const double *row_a = o->moments + (size_t)a * (size_t)D - (size_t)a * ((size_t)a + 1) / 2;
    const double *row_b = o->moments + (size_t)b * (size_t)D - (size_t)b * ((size_t)b + 1) / 2;
    return (PairSum){.r = o->r[j],
                     .r2 = row_a[a] + row_b[b],
                     .a = o->value[a],
                     .b = o->value[b],
                     .aa = row_a[a],
                     .bb = row_b[b],
                     .ab = row_a[b],
                     .r_skip = o->r_skip[j],
                     .a_after = o->after[a],
                     .b_after = o->after[b],
                     .r2_after = o->sq_after[a] + o->sq_after[b]};
}

/* The sums of a head, those of the open window included; what they point into is v.n. */
static HeadSums read_sums(const Tally *y, const Axis *ax, int D)
{
    size_t p = (size_t)ax->n, d = (size_t)D, n = y->n_sums * sizeof(double), at[3];
    at[0] = n, at[1] = at[0] + p * sizeof(PairSum), at[2] = at[1] + d * sizeof(ChannelSum);
    char *mem = xcalloc(at[2] + (p + 1) * sizeof(LogitSum), 1);
    double *row = (double *)(void *)mem;
    OpenSums o = {0};
    for (size_t i = 0; i < y->n_sums; i++) row[i] = read_sum(&y->total[i], y->sum[i]);
    open_sums(&o, row, ax->n, D, y->open.row != NULL);
    HeadSums v = {.n = o.n, .n_skip = o.n_skip, .n_after = o.n_after, .row = o.row};
    v.moments = o.moments;
    v.pair = (PairSum *)(void *)(mem + at[0]);
    v.channel = (ChannelSum *)(void *)(mem + at[1]);
    v.logit = (LogitSum *)(void *)(mem + at[2]);
    for (int c = 0; c < D; c++)
        v.channel[c] = (ChannelSum){o.size[c], o.size_after[c], o.sq_after[c] + o.sq_skip[c]};
    for (int j = 0; j < ax->n; j++) v.pair[j] = read_pair_sums(&o, D, j, ax->a[j], ax->b[j]);
    for (int j = 0; o.row && j < ax->n; j++) {
        int a = ax->a[j], b = ax->b[j];
        v.logit[j] = (LogitSum){o.sink[a] + o.sink[b], o.others[a] + o.others[b],
                                o.ordinary[a] + o.ordinary[b]};
    }
    for (int c = 2 * ax->n; o.row && c < D; c++) {
        v.logit[ax->n].sink += o.sink[c];
        v.logit[ax->n].others += o.others[c];
        v.logit[ax->n].ordinary += o.ordinary[c];
    }
    return v;
}

/* The samples, with the open window as one more. */
static Samples read_samples(const SinkSamples *closed, const SinkWindow *open, int sliding,
                            double sink_eps)
{
    SinkSamples s = *closed;
    add_window(&s, open, sliding, sink_eps);
    Samples out = {.t = (int)s.t,
                   .n = exact_value(&s.n),
                   .n_bad = exact_value(&s.n_bad),
                   .uniform = exact_value(&s.uniform)};
    for (int k = 0; k < SINK_KEYS; k++) {
        out.alpha[k] = exact_value(&s.alpha[k]);
        out.n_sink[k] = exact_value(&s.n_sink[k]);
    }
    return out;
}

/* The first key whose alpha_k is the largest of those that half of the window's queries see: the
 * last keys of a short window have too few queries behind them. -1: no window. */
static int strongest_sink(const Samples *w)
{
    int best = -1;
    for (int k = 0; k < SINK_KEYS && 2 * k <= w->t && w->n > 0; k++)
        if (k == 0 || w->alpha[k] > w->alpha[best]) best = k;
    return best;
}

static double sink_alpha(const Head *h, int k) /* alpha_k over whole windows */
{
    return k < 0 || k >= h->whole.t ? NONE : h->whole.alpha[k] / h->whole.n;
}

/* Means over queries. Head scores are sum(A o D) / sum(A), D the pattern: rows of A sum to 1. */
static RowSum row_means(const RowSum *s)
{
    RowSum m = *s;
    m.entropy /= s->n_entropy;
    m.distance /= s->n;
    m.previous /= s->n;
    m.duplicate /= s->n_known, m.induction /= s->n_known;
    m.first4 /= s->n_first4;
    for (int i = 0; i < 3; i++) m.third[i] /= s->n_thirds;
    return m;
}

static void add_parts(LogitSum *to, const LogitSum *v)
{
    to->sink += v->sink, to->others += v->others, to->ordinary += v->ordinary;
}

/* Sums of the parts of the logits over the pairs with x <= 2 pi and over the others. */
static void read_logits(Head *h, int D)
{
    const Axis *ax = h->axis;
    for (int j = 0; j < ax->n; j++) {
        int partial = ax->theta[j] > 0 && ax->x[j] <= TAU;
        add_parts(partial ? &h->partial : &h->full, &h->pair[j].logit);
    }
    h->rest = 2 * ax->n < D ? logit_mean(&h->q, ax->n) : (LogitSum){NONE, NONE, NONE};
}

/* The sums of the kv head, unless the query head before reads the same. */
static void read_keys(Head *out, const Head *before, int D)
{
    const Tally *y = out->k_seen;
    out->shares_k = before && before->k_seen == y;
    if (out->shares_k) {
        out->k = before->k;
        out->k_spectrum = before->k_spectrum;
        return;
    }
    out->k = read_sums(y, out->axis, D);
    out->k_spectrum = read_spectrum(out->k.moments, D);
}

/* out[-1] has been read, if h > 0. */
static void read_head(Head *out, const Analysis *a, int l, int h)
{
    const Layer *y = &a->m->layer[l];
    const Axis *ax = axis_of(a, l, h);
    int kh = h / (y->n_heads / y->n_kv_heads), i = a->first_q[l] + h, D = a->m->head_dim;
    const Sink *s = &a->sink[i];
    *out = (Head){.l = l, .h = h, .kh = kh, .axis = ax};
    out->q_seen = &a->q[i];
    out->k_seen = &a->k[a->first_k[l] + kh];
    out->q = read_sums(out->q_seen, ax, D);
    out->q_spectrum = read_spectrum(out->q.moments, D);
    read_keys(out, h ? out - 1 : NULL, D);
    out->whole = read_samples(&s->whole, &s->open, y->window, a->o.sink_eps);
    out->at_t = read_samples(&s->at_t, &s->open_t, y->window, a->o.sink_eps);
    out->pair = xcalloc((size_t)ax->n + 1, sizeof *out->pair);
    double *tmp = xcalloc((size_t)ax->n + 1, sizeof *tmp);
    for (int j = 0; j < ax->n; j++) {
        out->pair[j] = read_pair(out, j, ax->x[j]);
        out->pair[j].q.cap = pair_cap(cap_of(a->m, l, h, 0), j);
        out->pair[j].k.cap = pair_cap(cap_of(a->m, l, kh, 1), j);
    }
    rank_pairs(out, &a->o, tmp);
    free(tmp);
    out->sink = strongest_sink(&out->whole);
    out->mean = row_means(out->q.row);
    read_logits(out, D);
}

static double head_alpha(const Head *h) /* over whole windows; NaN if there is none */
{
    return sink_alpha(h, 0);
}

static double top_x(const Head *h) /* NaN if there is no top pair: no bound holds then */
{
    return h->top < 0 ? NONE : h->axis->x[h->top];
}

static double top_ratio(const Head *h)
{
    return h->top < 0 ? NONE : h->pair[h->top].ratio;
}

static int beats(double v, double best) /* a NaN never wins and always loses */
{
    return isfinite(v) && !(v <= best);
}

static void count_rate(Rate *r, int hit, double chance)
{
    r->of++;
    r->hits += hit;
    r->chance += chance;
    r->var += chance * (1 - chance);
}

static void count_bounds(Reading *r, const Head *h)
{
    for (int i = 0; i < N_BOUNDS; i++) {
        const Bound *b = &bounds[i];
        for (int j = 0; j < h->axis->n; j++) {
            double x = h->axis->x[j];
            if (!bound_asks(b, x) || (j != h->top && !h->pair[j].strong)) continue;
            int hit = bound_holds(b, x, h->pair[j].phi);
            double chance = bound_chance(b, h->axis, x);
            if (j == h->top) count_rate(&r->top_rate[i], hit, chance);
            if (h->pair[j].strong) count_rate(&r->strong_rate[i], hit, chance);
        }
    }
}

/* Radius after rotation = amplitude * radius before, as root mean squares: the largest relative
 * miss; NaN of nothing. */
static double radius_miss(const HeadSums *s, int n_pairs, double amplitude)
{
    double worst = NONE;
    for (int j = 0; j < n_pairs && *s->n_after >= *s->n; j++) {
        double want = amplitude * sqrt(s->pair[j].r2);
        double miss = fabs(sqrt(s->pair[j].r2_after) / want - 1);
        if (want > 0 && isfinite(want)) worst = fmax(worst, isfinite(miss) ? miss : ENDLESS);
    }
    return worst;
}

/* Are all pairs turned, and lengthened by one amplitude? */
static int keeps_radii(const RopeKind *k)
{
    return !k || (!k->turn && !k->q_scale);
}

/* What an encoding does besides turning pairs by position times theta; NULL: nothing. */
static const char *beyond_angles(const RopeKind *k)
{
    if (!k) return NULL;
    if (k->part) return "turns the queries of some heads by other angles than their keys";
    if (k->update) return "changes keys again as the text goes on";
    if (k->turn || k->q_scale) return "changes the size of queries and keys with their position";
    if (k->bias) return "adds to the logits";
    return NULL;
}

static void count_head(Reading *r, int i)
{
    const Head *h = &r->head[i];
    const Axis *ax = h->axis;
    int n = 0;
    for (int j = 0; j < ax->n; j++) {
        r->n_pairs += *h->q.n > 0;
        r->n_bad += *h->q.n > 0 && !isfinite(h->pair[j].strength);
        n += ax->theta[j] > 0 && ax->x[j] <= TAU;
    }
    const Rope *rope = &r->a->m->rope[r->a->m->layer[h->l].rope];
    if (keeps_radii(rope->kind)) {
        r->check = fmax(r->check, radius_miss(&h->q, ax->n, rope->amplitude));
        r->check = fmax(r->check, radius_miss(&h->k, ax->n, rope->amplitude));
    }
    r->n_strong += h->n_strong;
    r->n_candidates += h->n_candidates;
    r->n_candidate_heads += h->n_candidates > 0;
    if (h->top >= 0) {
        r->partial += (double)n / ax->n_rotated;
        r->n_top++;
        if (beats(top_ratio(h), r->best < 0 ? NONE : top_ratio(&r->head[r->best]))) r->best = i;
    }
    if (beats(head_alpha(h), r->sinkiest < 0 ? NONE : head_alpha(&r->head[r->sinkiest])))
        r->sinkiest = i;
    if (h->at_t.t > r->t) r->t = h->at_t.t;
}

/* The largest radius of a head over its cap. */
static void count_caps(Reading *r, const Head *h)
{
    for (int j = 0; j < h->axis->n; j++)
        for (int is_q = 0; is_q < 2; is_q++) {
            const Side *s = is_q ? &h->pair[j].q : &h->pair[j].k;
            if (!(s->cap >= 0) || !(s->max > 0) || s->max / s->cap <= r->capped) continue;
            r->capped = s->max / s->cap; /* a pair of cap 0 is off: infinite if it is not */
            r->capped_l = h->l, r->capped_h = h->h;
        }
}

/* Sums over heads to means; samples shorter than the longest are left out, as within a head. */
static void read_sinks(Reading *r)
{
    double n_sink = 0;
    for (int i = 0; i < r->n_heads; i++) {
        const Samples *s = &r->head[i].at_t, *w = &r->head[i].whole;
        double n_bad = r->head[i].q.row->n_bad;
        r->n_bad_rows += (uint64_t)n_bad;
        r->n_bad_heads += n_bad > 0;
        if (w->t > r->whole_t) r->whole_t = w->t;
        if (w->n > (double)r->n_whole) r->n_whole = (uint64_t)w->n;
        if (s->t == r->t) {
            r->n_samples += (uint64_t)s->n;
            r->alpha_t += s->alpha[0];
            n_sink += s->n_sink[0];
        }
        if (!(w->n > 0)) continue;
        r->n_alpha++;
        r->alpha += w->alpha[0] / w->n;
        r->uniform += w->uniform / w->n;
    }
    r->alpha /= r->n_alpha;
    r->uniform /= r->n_alpha;
    r->alpha_t /= (double)r->n_samples;
    r->sink = n_sink / (double)r->n_samples;
}

static void read_medians(Reading *r)
{
    double *k0 = xcalloc((size_t)r->n_heads + 1, sizeof *k0);
    double *centre = xcalloc((size_t)r->n_heads + 1, sizeof *centre);
    int n_k0 = 0, n_centre = 0;
    for (int i = 0; i < r->n_heads; i++) {
        const Head *h = &r->head[i];
        if (h->top < 0) continue;
        const Pair *p = &h->pair[h->top];
        double first = p->k.skip / p->k.r, middle = wrap_2pi(p->phi + top_x(h) / 2) - PI;
        if (isfinite(first)) k0[n_k0++] = first;
        if (top_x(h) <= TAU && isfinite(middle)) centre[n_centre++] = middle;
    }
    r->k0 = median(k0, n_k0);
    r->centre = median(centre, n_centre);
    free(k0), free(centre);
}

static void count_common(Reading *r)
{
    for (int i = 0; i < r->n_heads; i++) {
        int n = 0;
        for (int k = 0; k < r->n_heads; k++) n += r->head[k].top == r->head[i].top;
        if (r->head[i].top >= 0 && n > r->n_common) r->n_common = n, r->common = r->head[i].top;
    }
}

static double score_previous(const Head *h)
{
    return h->mean.previous;
}

static double score_duplicate(const Head *h)
{
    return h->mean.duplicate;
}

static double score_induction(const Head *h)
{
    return h->mean.induction;
}

/* The first head of the largest score, -1 if none has one. */
static int best_head(const Reading *r, double (*score)(const Head *))
{
    int best = -1;
    for (int i = 0; i < r->n_heads; i++)
        if (beats(score(&r->head[i]), best < 0 ? NONE : score(&r->head[best]))) best = i;
    return best;
}

/* alpha_k over the heads, and Sink_k: share of the samples whose alpha_k is above sink_eps. */
static void sink_means(const Reading *r, double alpha[SINK_KEYS], double share[SINK_KEYS])
{
    for (int k = 0; k < SINK_KEYS; k++) {
        alpha[k] = share[k] = 0;
        for (int i = 0; i < r->n_heads; i++) {
            const Head *h = &r->head[i];
            if (h->whole.n > 0) alpha[k] += sink_alpha(h, k);
            if (h->at_t.t == r->t) share[k] += h->at_t.n_sink[k];
        }
        alpha[k] /= r->n_alpha;
        share[k] = k < r->t ? share[k] / (double)r->n_samples : NONE;
    }
}

/* Heads whose strongest sink is not the first key, and where it is most often. */
static void count_elsewhere(Reading *r)
{
    int n[SINK_KEYS] = {0};
    for (int i = 0; i < r->n_heads; i++) {
        int k = r->head[i].sink;
        if (!(sink_alpha(&r->head[i], k) > r->a->o.sink_eps)) continue;
        r->n_sinks++;
        r->n_elsewhere += k > 0;
        n[k]++;
    }
    for (int k = 1; k < SINK_KEYS; k++)
        if (n[k] > r->n_there) r->elsewhere = k, r->n_there = n[k];
}

static void count_logits(Reading *r)
{
    for (int i = 0; i < r->n_heads; i++) {
        const Head *h = &r->head[i];
        double all = h->partial.sink + h->partial.others + h->full.sink + h->full.others;
        if (!isfinite(all)) continue;
        r->n_logit++;
        add_parts(&r->partial_logit, &h->partial);
        add_parts(&r->full_logit, &h->full);
        if (isfinite(h->rest.sink)) add_parts(&r->full_logit, &h->rest);
    }
    LogitSum *p = &r->partial_logit, *f = &r->full_logit;
    p->sink /= r->n_logit, p->others /= r->n_logit, p->ordinary /= r->n_logit;
    f->sink /= r->n_logit, f->others /= r->n_logit, f->ordinary /= r->n_logit;
}

/* The totals over the heads that r has. */
static void read_totals(Reading *r)
{
    r->best = r->sinkiest = -1;
    r->check = r->capped = NONE;
    for (int i = 0; i < r->n_heads; i++) {
        count_head(r, i);
        count_caps(r, &r->head[i]);
        count_bounds(r, &r->head[i]);
    }
    r->partial /= r->n_top;
    count_common(r);
    read_sinks(r);
    read_medians(r);
    count_elsewhere(r);
    count_logits(r);
    r->previous = best_head(r, score_previous);
    r->duplicate = best_head(r, score_duplicate);
    r->induction = best_head(r, score_induction);
}

static Reading reading_new(const Analysis *a, const Provenance *p)
{
    add_all_held(a);
    Reading r = {.a = a, .p = p, .n_heads = a->first_q[a->m->n_layers]};
    r.head = xcalloc((size_t)r.n_heads + 1, sizeof *r.head);
    for (int l = 0; l < a->m->n_layers; l++)
        for (int h = 0; h < a->m->layer[l].n_heads; h++)
            read_head(&r.head[a->first_q[l] + h], a, l, h);
    read_totals(&r);
    return r;
}

/* The same over one layer; shares the heads of r. */
static Reading reading_layer(const Reading *r, int l)
{
    Reading y = {.a = r->a,
                 .p = r->p,
                 .head = r->head + r->a->first_q[l],
                 .n_heads = r->a->m->layer[l].n_heads};
    read_totals(&y);
    return y;
}

static void reading_free(Reading *r)
{
    for (int i = 0; i < r->n_heads; i++) {
        Head *h = &r->head[i];
        free(h->q.n); /* the rows they are views of */
        if (!h->shares_k) free(h->k.n);
        free(h->pair);
    }
    free(r->head);
}

/* The scaled logit of the mean query and the mean key of a head at distance delta, without the
 * values that are not rotated:
 *   K(delta) = g sum_j |mu_q| |mu_k| cos(phi_j + theta_j delta),
 * and TriAttention's score (arXiv:2604.04921) of a key of mean length and direction:
 *   tri(delta) = g sum_j |mu_q| E|k| cos(phi_j + theta_j delta) + (E|q| - |mu_q|) E|k|.
 * g = amplitude^2 / sqrt D, |mu| = R r. */
static void head_curves(const Head *h, double g, double delta, double *kernel, double *tri)
{
    *kernel = *tri = 0;
    for (int j = 0; j < h->axis->n; j++) {
        const Pair *p = &h->pair[j];
        double mu_q = p->q.r == 0 ? 0 : p->q.R * p->q.r, mu_k = p->k.r == 0 ? 0 : p->k.R * p->k.r;
        double turn = cos(p->phi + h->axis->theta[j] * delta);
        *kernel += g * mu_q * mu_k * turn;
        *tri += g * p->k.r * (mu_q * turn + (p->q.r - mu_q));
    }
}

enum { DISTANCES = 24 };

/* Distances 0, 1, 2, 4, ... and P: powers of two, or of four if these are too many. */
static int log_distances(double n_ctx, double *delta)
{
    double most = floor(n_ctx), step = most > 0x1p20 ? 4 : 2;
    int n = 0;
    if (!isfinite(n_ctx)) return 0;
    delta[n++] = 0;
    for (double d = 1; d < most && n < DISTANCES - 1; d *= step) delta[n++] = d;
    if (most > 0) delta[n++] = most;
    return n;
}

/* The value of a head at place i of the sliced order: first members of the pairs, their second
 * members, then the values that are not rotated. */
static int sliced(const Axis *ax, int i)
{
    return i < ax->n ? ax->a[i] : i < 2 * ax->n ? ax->b[i - ax->n] : i;
}

/* Channels of the queries or keys of one layer, in sliced order, over its heads (a kv head counts
 * once for each query head): mean of the means of |x|, and largest |x|, which leaves no token out.
 * [D] each. */
static void read_channels(const Reading *layer, int is_q, int stage, double *mean, double *max)
{
    int D = layer->a->m->head_dim;
    for (int i = 0; i < D; i++) mean[i] = max[i] = 0;
    for (int i = 0; i < layer->n_heads; i++) {
        const Head *h = &layer->head[i];
        const HeadSums *s = is_q ? &h->q : &h->k;
        const Axis *ax = h->axis;
        const Peak *peak = (is_q ? h->q_seen : h->k_seen)->peak + ax->n;
        for (int c = 0; c < D; c++) {
            const ChannelSum *v = &s->channel[sliced(ax, c)];
            mean[c] += stage == BEFORE_ROPE ? v->before / *s->n : v->after / *s->n_after;
            max[c] = fmax(max[c], peak[(stage == BEFORE_ROPE ? 0 : D) + sliced(ax, c)].value);
        }
    }
    for (int c = 0; c < D; c++) mean[c] /= layer->n_heads;
}

/* Massive values (Jin et al., arXiv:2502.01563): of the channels of a head those whose L2 norm over
 * all tokens, M_c = sqrt(sum x_c^2) after rotation, is above ratio (5) times the mean of M over the
 * channels. sq: the D sums. Their places to at [D]; the number of them. */
static int massive_channels(const double *sq, int D, double ratio, int *at)
{
    double sum = 0;
    int n = 0;
    for (int c = 0; c < D; c++) sum += sqrt(sq[c]);
    for (int c = 0; c < D; c++)
        if (sqrt(sq[c]) > ratio * sum / D) at[n++] = c;
    return n;
}

/* |mean q| |mean k|: what a pair can add to the logit of the mean query and the mean key. */
static double pair_offset(const Pair *p)
{
    return p->q.R * p->q.r * p->k.R * p->k.r;
}

/* The same of one head of a reading, in sliced order. */
static int massive_values(const HeadSums *s, const Axis *ax, int D, double ratio, int *out)
{
    double *sq = xcalloc((size_t)D, sizeof *sq);
    for (int i = 0; i < D; i++) sq[i] = s->channel[sliced(ax, i)].sq_all;
    int n = massive_channels(sq, D, ratio, out);
    free(sq);
    return n;
}

/* Massive activations of channel c after layer l. */
static double massive_count(const Analysis *a, int l, int c)
{
    return read_sum(&a->massive[l].total[c], a->massive[l].sum[c]);
}

/* Those of all channels. */
static double massive_layer(const Analysis *a, int l)
{
    double n = 0;
    for (int c = 0; c < a->m->n_embd; c++) n += massive_count(a, l, c);
    return n;
}

/* The next strong pair at or after (*i, *j) that bound b asks and misses; 0: no more. */
static int next_exception(const Reading *r, const Bound *b, int *i, int *j)
{
    for (; *i < r->n_heads; ++*i, *j = 0) {
        const Head *h = &r->head[*i];
        for (; *j < h->axis->n; ++*j) {
            double x = h->axis->x[*j];
            if (h->pair[*j].strong && bound_asks(b, x) && !bound_holds(b, x, h->pair[*j].phi))
                return 1;
        }
    }
    return 0;
}

/* ---------------------------------------------------------------- findings in words */

char *words_of(const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    size_t n = (size_t)vsnprintf(NULL, 0, fmt, again) + 1;
    va_end(again);
    char *s = xcalloc(n, 1);
    vsnprintf(s, n, fmt, ap);
    return s;
}

/* Appends one sentence, terminated by a zero byte. */
void say(Bytes *out, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *s = words_of(fmt, ap);
    va_end(ap);
    bytes_add(out, s, strlen(s) + 1);
    free(s);
}

static const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

/* A share as percent, to be written with a step of 1 or 0.1: 100 only of all, 0 only of none. */
static double percent_of(double share, double step)
{
    const double tiny = 1e-9; /* what a sum of shares may lack */
    if (share > tiny && 100 * share < step) return step;
    if (share < 1 - tiny && 100 * share > 100 - step) return 100 - step;
    return 100 * share;
}

static double percent(Rate r)
{
    return percent_of((double)r.hits / r.of, 0.1);
}

static double percent_chance(Rate r)
{
    return percent_of(r.chance / r.of, 0.1);
}

/* 1: more hits than by chance, -1: fewer, 0: neither by three standard deviations, sd = sqrt(sum
 * over pairs of c (1 - c)), c the chance of each; pairs are taken as independent. */
static int beyond_chance(Rate r)
{
    double d = r.hits - r.chance, sd = sqrt(r.var);
    return d > 3 * sd ? 1 : d < -3 * sd ? -1 : 0;
}

/* Would even hits by every pair be no more than by chance? */
static int beyond_reach(Rate r)
{
    r.hits = r.of;
    return beyond_chance(r) == 0;
}

static void say_candidates(const Reading *r, Bytes *out)
{
    const AnalysisOptions *o = &r->a->o;
    if (r->n_candidates)
        say(out,
            "%d offset feature candidate%s in %d of %d head%s: x < 2 pi, R_q and R_k >= %g (1: all "
            "tokens point the same way), r_q r_k >= %g times the median pair of the head, "
            "negative mean over the distances.",
            r->n_candidates, plural((uint64_t)r->n_candidates), r->n_candidate_heads, r->n_heads,
            plural((uint64_t)r->n_heads), o->strong_r, o->strong_ratio);
    else
        say(out,
            "No pair is an offset feature candidate: none has x < 2 pi, R_q and R_k >= %g, r_q r_k "
            ">= %g times the median pair of its head, and a negative mean over the distances.",
            o->strong_r, o->strong_ratio);
}

/* "the context of 2048 tokens", where that is P in all layers. */
static void name_context(const Reading *r, char *buf, size_t size)
{
    double P = r->head[r->best < 0 ? 0 : r->best].axis->n_ctx;
    int same = 1;
    for (int i = 0; i < r->n_heads; i++)
        same &= !(r->head[i].axis->n_ctx < P) && !(r->head[i].axis->n_ctx > P);
    if (same)
        snprintf(buf, size, "the context of %.0f tokens", P);
    else
        snprintf(buf, size, "the P tokens that its layer is for");
}

static void say_frequencies(const Reading *r, Bytes *out)
{
    char context[64];
    Rate f1 = r->top_rate[BOUND_F1], f2 = r->top_rate[BOUND_F2];
    const Head *b = &r->head[r->best < 0 ? 0 : r->best];
    int of_one = b->axis->n_rotated < 2; /* the only pair stands out from nothing */
    name_context(r, context, sizeof context);
    say(out,
        "In %d of %d head%s (%.1f%%) the strongest pair makes at most one turn over %s (x <= 2 "
        "pi), and in %d (%.1f%%) at most half a turn; if every pair were "
        "equally likely to be the strongest, it would be %.0f%% and %.0f%%.",
        f1.hits, f1.of, plural((uint64_t)f1.of), percent(f1), context, f2.hits, percent(f2),
        percent_of(f1.chance / f1.of, 1), percent_of(f2.chance / f2.of, 1));
    if (r->a->m->n_ropes == 1 && !of_one && !b->axis->uneven)
        say(out, "The strongest pair is most often pair %d: in %d of %d head%s.", r->common,
            r->n_common, r->n_top, plural((uint64_t)r->n_top));
    if (r->best >= 0 && !of_one)
        say(out,
            "The pair that stands out most is pair %d of layer %d, head %d: its r_q r_k is %.1f "
            "times that of the median pair of its head, and it makes %.3g turns over %s.",
            b->top, b->l, b->h, b->pair[b->top].ratio, b->axis->x[b->top] / TAU,
            strstr(context, "its layer") ? context : "the context");
    say_candidates(r, out);
}

enum { NAMED = 5 }; /* exceptions named in a sentence */

static void say_exceptions(const Reading *r, const Bound *b, int n, char *s, size_t size)
{
    size_t at = 0;
    s[0] = 0;
    for (int i = 0, j = 0, k = 0; k < NAMED && next_exception(r, b, &i, &j); j++, k++)
        at += (size_t)snprintf(s + at, size - at, "%s L%d.H%d pair %d",
                               k ? "," : "; exceptions:", r->head[i].l, r->head[i].h, j);
    if (n > NAMED) snprintf(s + at, size - at, " and %d more", n - NAMED);
}

enum { VERDICT = 224 };

/* What s says against chance, and by which criterion. */
static const char *verdict(int bound, Rate s, char words[VERDICT])
{
    int beyond = beyond_chance(s);
    double sd = sqrt(s.var), off = (s.hits - s.chance) / sd;
    char by[64] = "";
    if (isfinite(off)) snprintf(by, sizeof by, " (by %.1f standard deviations)", fabs(off));
    if (beyond)
        snprintf(words, VERDICT, "%s often than by chance%s%s", beyond > 0 ? "more" : "less", by,
                 beyond < 0 && bound == BOUND_B2
                     ? ": in the others the middle of the arc lies below pi"
                     : "");
    else if (beyond_reach(s))
        snprintf(words, VERDICT,
                 "cannot be told from chance with %d pair%s: that takes more than 3 standard "
                 "deviations, and a hit by every pair would be %.1f",
                 s.of, plural((uint64_t)s.of), sd > 0 ? (s.of - s.chance) / sd : 0);
    else
        snprintf(words, VERDICT,
                 "no more and no less than by chance, so it tells nothing (%.1f standard "
                 "deviations%s; more than 3 would)",
                 fabs(off), off < 0 ? " below" : "");
    return words;
}

static void say_bounds(const Reading *r, Bytes *out)
{
    static const int told[] = {BOUND_F1, BOUND_T3, BOUND_B1, BOUND_B2, BOUND_B3, BOUND_B4};
    for (size_t t = 0; t < sizeof told / sizeof *told; t++) {
        const Bound *b = &bounds[told[t]];
        Rate s = r->strong_rate[told[t]];
        char except[256] = "", words[VERDICT];
        if (!s.of) continue;
        if (2 * s.hits >= s.of) say_exceptions(r, b, s.of - s.hits, except, sizeof except);
        say(out,
            "%s (%s: %s) holds for %d of %d strong pair%s%s%s: %.1f%%, by chance %.1f%%; %s%s.",
            b->id, b->formula, b->meaning, s.hits, s.of, plural((uint64_t)s.of),
            bound_of_x(b) ? "" : " with ", bound_of_x(b) ? "" : bound_scope(b), percent(s),
            percent_chance(s), verdict(told[t], s, words), except);
    }
}

static void say_angles(const Reading *r, Bytes *out)
{
    if (isfinite(r->centre))
        say(out,
            "The arc of the strongest partial-cycle pairs has its middle at phi + x/2 = %.2f pi "
            "(median over heads); T4 puts the best angle at pi.",
            in_pi(PI + r->centre));
    if (isfinite(r->k0))
        say(out,
            "In the strongest pair the key of the first token is %.2f times as long as the mean "
            "key (median over heads).",
            r->k0);
}

static void say_sinks(const Reading *r, Bytes *out)
{
    const AnalysisOptions *o = &r->a->o;
    if (r->n_alpha) {
        const Head *h = &r->head[r->sinkiest];
        say(out,
            "The first token takes %.2f of the attention (equal weights would give it %.3f), on "
            "average over %d head%s and %llu window%s of %d quer%s, the longest; most in layer "
            "%d, head %d: %.2f.",
            r->alpha, r->uniform, r->n_alpha, plural((uint64_t)r->n_alpha),
            (unsigned long long)r->n_whole, plural(r->n_whole), r->whole_t,
            r->whole_t == 1 ? "y" : "ies", h->l, h->h, head_alpha(h));
    }
    if (!r->n_samples) return;
    say(out,
        "Sink_1^%g = %.1f%%: the share of %llu (window, layer, head) samples in which the first "
        "token takes more than %g of the attention of the first %d quer%s.%s",
        o->sink_eps, percent_of(r->sink, 0.1), (unsigned long long)r->n_samples, o->sink_eps, r->t,
        r->t == 1 ? "y" : "ies",
        r->t < o->sink_t ? " (No window is longer; alpha_1 is then not the published one.)" : "");
}

static int any_rotated(const Analysis *a)
{
    for (int i = 0; i < a->m->n_ropes; i++)
        if (a->axis[i].n_rotated) return 1;
    return 0;
}

/* Are there pairs that turn by position? */
static int any_even(const Analysis *a)
{
    for (int i = 0; i < a->m->n_ropes; i++)
        if (a->axis[i].n_rotated && a->axis[i].uneven != ROPE_READ) return 1;
    return 0;
}

/* "windows 3 to 5, 9 and 12 to 20", the first few. */
static void name_windows(const Ranges *s, char *buf, size_t size)
{
    size_t at = (size_t)snprintf(buf, size, "window%s", plural(ranges_count(s)));
    for (size_t i = 0; i < s->n && i < NAMED; i++) {
        unsigned long long from = s->r[i].from, last = s->r[i].to - 1;
        const char *comma = i == 0 ? "" : i + 1 == s->n ? " and" : ",";
        at += (size_t)snprintf(buf + at, size - at, "%s %llu", comma, from);
        if (last > from) at += (size_t)snprintf(buf + at, size - at, " to %llu", last);
    }
    if (s->n > NAMED) snprintf(buf + at, size - at, " and %zu more ranges", s->n - NAMED);
}

void analysis_missing(const Analysis *a, uint64_t n_windows, char *buf, size_t size)
{
    Ranges missing = ranges_missing(&a->closed, n_windows);
    name_windows(&missing, buf, size);
    free(missing.r);
}

static void say_missing(const Analysis *a, const Provenance *p, Bytes *out)
{
    char names[512];
    uint64_t n = ranges_count(&a->closed);
    analysis_missing(a, p->n_text_windows, names, sizeof names);
    say(out, "Parts are missing: %llu of the %llu windows of the text %s read, without %s.",
        (unsigned long long)n, (unsigned long long)p->n_text_windows, n == 1 ? "was" : "were",
        names);
}

/* Other keys that are sinks, of those that half of the queries see. */
static void say_other_keys(const Reading *r, Bytes *out)
{
    const double large = 0.1;
    double alpha[SINK_KEYS], share[SINK_KEYS];
    char names[512] = "";
    int n = 0;
    size_t at = 0;
    sink_means(r, alpha, share);
    for (int k = 1; k < SINK_KEYS && 2 * k <= r->t; k++) {
        if (!(share[k] >= large) || n++ >= NAMED) continue;
        at += (size_t)snprintf(names + at, sizeof names - at,
                               "%s key %d in %.1f%% (%.3f of the attention on average)",
                               n > 1 ? ";" : "", k, percent_of(share[k], 0.1), alpha[k]);
    }
    if (n > NAMED) snprintf(names + at, sizeof names - at, "; and %d more", n - NAMED);
    if (n)
        say(out,
            "The first token (key 0) is not the only sink. %s more than %g of the attention in "
            "at least %.0f%% of the samples:%s.",
            n == 1 ? "One other key takes" : "Other keys take", r->a->o.sink_eps, 100 * large,
            names);
}

/* Sinks that are not the first key, and in which pairs the first key is ahead of the others. */
static void say_elsewhere(const Reading *r, Bytes *out)
{
    if (r->n_elsewhere)
        say(out,
            "In %d of the %d head%s with a sink (alpha_k > %g for some key k) the strongest is not "
            "the first token: most often it is the one at position %d (%d head%s).",
            r->n_elsewhere, r->n_sinks, plural((uint64_t)r->n_sinks), r->a->o.sink_eps,
            r->elsewhere, r->n_there, plural((uint64_t)r->n_there));
    say_other_keys(r, out);
    LogitSum p = r->partial_logit, f = r->full_logit;
    double lead_p = p.sink - p.ordinary, lead_f = f.sink - f.ordinary;
    int placed = any_rotated(r->a) && isfinite(r->head[0].axis->n_ctx);
    if (r->n_logit && placed && lead_p + lead_f > 0)
        say(out,
            "The attention logit of the first token is %.2f above the mean over all (query, other "
            "key) (mean over %d head%s): %+.2f of it comes from pairs with x <= 2 pi (first token "
            "%+.2f, others %+.2f), %+.2f from all the rest (%+.2f, %+.2f).",
            lead_p + lead_f, r->n_logit, plural((uint64_t)r->n_logit), lead_p, p.sink, p.ordinary,
            lead_f, f.sink, f.ordinary);
}

/* Heads that are clear by their scores. */
static void say_scores(const Reading *r, Bytes *out)
{
    const double clear_previous = 0.5, clear_induction = 0.3;
    const Head *p = &r->head[r->previous < 0 ? 0 : r->previous];
    const Head *i = &r->head[r->induction < 0 ? 0 : r->induction];
    int n = 0;
    for (int h = 0; h < r->n_heads; h++) n += r->head[h].mean.previous > clear_previous;
    if (n)
        say(out,
            "In %d of %d head%s more than half of the attention lies on the token before "
            "(previous-token heads); most in layer %d, head %d: %.2f.",
            n, r->n_heads, plural((uint64_t)r->n_heads), p->l, p->h, p->mean.previous);
    if (i->mean.induction > clear_induction)
        say(out,
            "In layer %d, head %d %.2f of the attention lies on what followed earlier copies of "
            "the token, as in an induction head.",
            i->l, i->h, i->mean.induction);
}

static void say_massive(const Reading *r, Bytes *out)
{
    const Analysis *a = r->a;
    double total = 0;
    int layers = 0, top = 0;
    for (int l = 0; l < a->m->n_layers; l++) {
        double n = massive_layer(a, l);
        total += n, layers += n > 0;
        if (a->massive[l].most.value > a->massive[top].most.value) top = l;
    }
    const Massive *s = &a->massive[top];
    if (!(s->most.value > 0)) return; /* no residual stream was seen */
    char where[128];
    snprintf(where, sizeof where,
             "%.4g, %.0f times that median, after layer %d at position %d, "
             "channel %d",
             s->most.value, s->most.value / s->median, top, (int)s->most.pos, (int)s->most.token);
    if (total > 0)
        say(out,
            "%.0f value%s of the residual stream, in %d of %d layers, %s massive activation%s "
            "(|h| > %g and > %g times the median of that state): the largest is %s.",
            total, plural((uint64_t)total), layers, a->m->n_layers, total > 1 ? "are" : "is a",
            total > 1 ? "s" : "", a->o.act_min, a->o.act_ratio, where);
    else
        say(out,
            "No value of the residual stream is a massive activation (|h| > %g and > %g times the "
            "median of that state): the largest is %s.",
            a->o.act_min, a->o.act_ratio, where);
}

/* The longest window (to be exact: its last position + 1), if that is beyond the n_ctx_train tokens
 * that the model was trained for; else 0. */
static long beyond_context(const Model *m, const Provenance *p)
{
    long most =
        p->n_windows == 1 && p->n_tokens < (uint64_t)p->n_ctx ? (long)p->n_tokens : p->n_ctx;
    for (int i = 0; p->files && i < p->n_ctx; i++)
        if (p->files->pos[i] >= most) most = (long)p->files->pos[i] + 1;
    return p->n_tokens && m->n_ctx_train > 0 && most > m->n_ctx_train ? most : 0;
}

/* What lies beyond the trained context is no part of what the bounds are about. */
static void say_beyond(const Model *m, const Provenance *p, Bytes *out)
{
    long most = beyond_context(m, p);
    if (most)
        say(out,
            "Windows reach %ld tokens, beyond the %d that the model was trained for: what is "
            "measured is, in part, how it behaves outside its trained context.",
            most, m->n_ctx_train);
}

/* Massive values of queries and of keys, each key head once. */
static void say_massive_values(const Reading *r, Bytes *out)
{
    int D = r->a->m->head_dim, n[2] = {0}, in[2] = {0}, of[2] = {0};
    int *at = xcalloc((size_t)D + 1, sizeof *at);
    for (int i = 0; i < r->n_heads; i++) {
        const Head *h = &r->head[i];
        for (int is_k = 0; is_k < 2 && !(h->shares_k && is_k); is_k++) {
            int found = massive_values(is_k ? &h->k : &h->q, h->axis, D, r->a->o.massive_ratio, at);
            n[is_k] += found, in[is_k] += found > 0, of[is_k]++;
        }
    }
    free(at);
    if (n[0] + n[1])
        say(out,
            "Massive values (L2 norm over the tokens, after rotation, above %g times the mean of "
            "the head): %d in the queries of %d of %d head%s, %d in the keys of %d of %d.",
            r->a->o.massive_ratio, n[0], in[0], of[0], plural((uint64_t)of[0]), n[1], in[1], of[1]);
    else if (!r->n_bad)
        say(out,
            "No query or key has a massive value: an L2 norm over the tokens, after rotation, "
            "above %g times the mean of the head.",
            r->a->o.massive_ratio);
}

static double head_entropy(const Head *h)
{
    return h->mean.entropy;
}

static double head_q_rank(const Head *h)
{
    return h->q_spectrum.stable_rank;
}

static double head_k_rank(const Head *h)
{
    return h->k_spectrum.stable_rank;
}

/* Median over the heads that have a number; NaN if none has. */
static double median_of(const Reading *r, double (*figure)(const Head *))
{
    double *v = xcalloc((size_t)r->n_heads + 1, sizeof *v);
    int n = 0;
    for (int i = 0; i < r->n_heads; i++)
        if (isfinite(figure(&r->head[i]))) v[n++] = figure(&r->head[i]);
    double middle = n ? median(v, n) : NONE;
    free(v);
    return middle;
}

static void say_medians(const Reading *r, Bytes *out)
{
    double entropy = median_of(r, head_entropy), q = median_of(r, head_q_rank);
    double k = median_of(r, head_k_rank);
    if (isfinite(entropy))
        say(out,
            "The entropy of a row of attention is %.2f of the largest possible (mean over rows, "
            "median over heads).",
            entropy);
    if (isfinite(q) && isfinite(k))
        say(out,
            "The stable rank of the queries is %.2f and that of the keys %.2f, before rotation "
            "(medians over heads).",
            q, k);
    if (r->induction >= 0)
        say(out, "The largest induction score is %.2f, in layer %d, head %d.",
            r->head[r->induction].mean.induction, r->head[r->induction].l, r->head[r->induction].h);
}

static void say_besides(const Model *m, Bytes *out)
{
    const char *besides = NULL;
    for (int i = 0; i < m->n_ropes && !besides; i++) besides = beyond_angles(m->rope[i].kind);
    if (besides)
        say(out,
            "The encoding %s: what is said of pairs is said of them before that, and of their "
            "frequencies; attention is as it was computed.",
            besides);
    for (int i = 0; i < m->n_ropes; i++) {
        const RopeKind *k = m->rope[i].kind;
        if (!k || !k->mix || k->turn) continue;
        say(out, "The encoding maps the values of a head before they turn: what is said of pairs "
                 "is said of the values that turn, not of those that were projected.");
        return;
    }
}

/* What was not as the file or the text would have it: before anything is claimed. */
static void say_made(const Reading *r, Bytes *out)
{
    const Provenance *p = r->p;
    if (p->edits)
        say(out, "Intervention: this is an edited run, with %s; all that follows is of it.",
            p->edits);
    if (p->files)
        say(out, "Queries and keys were read from files: no model was run here, and attention was "
                 "computed from them.");
    if (p->files && p->files->pos[0])
        say(out,
            "The first token of a window is at position %d: what is said of the first token, key "
            "0, is said of that one, not of the beginning of a text.",
            p->files->pos[0]);
    if (p->rope_override)
        say(out,
            "Intervention: an option made the position encoding '%s', not what the file says; "
            "all that follows is of the model so changed.",
            p->rope_override);
    if (p->window_override)
        say(out,
            "Intervention: an option made the sliding window of attention '%s', not what the file "
            "says; all that follows is of the model so changed.",
            p->window_override);
    say_besides(r->a->m, out);
    if (p->pre_override)
        say(out, "The text was split by '%s' (--pre), not as the file says.", p->pre_override);
    say_beyond(r->a->m, p, out);
    if (p->interrupted) say(out, "The reading was interrupted: the text was not read to its end.");
    if (p->incomplete) say_missing(r->a, p, out);
    if (p->bytes_left_out)
        say(out, "%zu byte%s of the text %s no token and %s left out.", p->bytes_left_out,
            plural(p->bytes_left_out), p->bytes_left_out == 1 ? "has" : "have",
            p->bytes_left_out == 1 ? "was" : "were");
}

/* Encodings whose pairs have no angle per position of their own. */
static void say_uneven(const Analysis *a, Bytes *out)
{
    int seen[3] = {0};
    for (int i = 0; i < a->m->n_ropes; i++) {
        int what = a->axis[i].uneven;
        if (!what || seen[what]++) continue;
        say(out,
            what == ROPE_HEADS
                ? "Under '%s' theta differs between key heads: tables of a whole encoding or layer "
                  "leave theta and x out; each head is placed by its own."
                : "Under '%s' angles depend on what was read: no pair has a theta, no pair is "
                  "placed by its cycles, and no bound speaks of it.",
            a->m->rope[i].kind->name);
    }
}

enum { FEW = 32 }; /* counted tokens below which no claim is made about pairs */

/* The rotary pairs; n tokens are in the means. */
static void say_pairs(const Reading *r, uint64_t n, Bytes *out)
{
    const Head *h = &r->head[r->best < 0 ? 0 : r->best];
    say_uneven(r->a, out);
    if (!any_rotated(r->a))
        say(out, r->p->rope_override ? "No head has a rotary pair: rotation is switched off."
                                     : "No head has a rotary pair: this model does not rotate "
                                       "queries and keys.");
    else if (!r->n_top && h->axis->uneven == ROPE_READ)
        return;
    else if (!r->n_top && !r->n_bad)
        say(out, "No head has a strongest pair: r_q r_k is zero in all of them, as the queries or "
                 "the keys are all zero.");
    else if (r->n_top && !(h->axis->n_ctx > 0))
        say(out, "The trained context is unknown, so no pair can be placed by its cycles.");
    else if (r->n_top && n >= FEW)
        say_frequencies(r, out), say_bounds(r, out), say_angles(r, out);
}

/* Numbers that are not finite, and the self-check: before anything is claimed. */
static void say_faults(const Reading *r, Bytes *out)
{
    if (r->n_bad)
        say(out,
            "%d of %d (head, pair) statistics %s not finite, and what follows leaves %s out. The "
            "weights or inputs may hold such numbers, or a sum may have overflowed: which, is not "
            "known here.",
            r->n_bad, r->n_pairs, r->n_bad == 1 ? "is" : "are", r->n_bad == 1 ? "it" : "them");
    if (r->n_bad_heads)
        say(out,
            "In %d of %d head%s %llu row%s of attention %s not finite: windows with such a row are "
            "left out of alpha_1 and Sink_1 of that head.",
            r->n_bad_heads, r->n_heads, plural((uint64_t)r->n_heads),
            (unsigned long long)r->n_bad_rows, plural(r->n_bad_rows),
            r->n_bad_rows == 1 ? "is" : "are");
    if (isinf(r->check))
        say(out, "Self-check failed: a radius is not finite after rotation.");
    else if (r->check > 1e-4)
        say(out,
            "Self-check failed: a mean radius after rotation differs by %.2g of its size from the "
            "one before.",
            r->check);
    if (r->capped > 1 + CAP_SLACK)
        say(out,
            "Self-check failed: a radius in layer %d, head %d is %.6g times the largest one that "
            "the norm or clamp of queries and keys allows.",
            r->capped_l, r->capped_h, r->capped);
}

/* What attention is besides softmax(q k scale) over all keys, and what is said here under it. */
static void say_attention(const Reading *r, Bytes *out)
{
    const Model *m = r->a->m;
    char *on = xcalloc((size_t)m->n_layers + 1, 1), layers[256];
    int sliding = 0;
    for (int l = 0; l < m->n_layers; l++) {
        on[l] = m->layer[l].window > 0;
        if (on[l] && (!sliding || m->layer[l].window < sliding)) sliding = m->layer[l].window;
    }
    list_runs(on, m->n_layers, layers, sizeof layers);
    free(on);
    if (sliding)
        say(out,
            "Layers %s look back through a window of %d tokens: P of x = theta P is no more than "
            "that there, alpha_k is a mean over the queries that see key k, and parts of logits "
            "are those of queries that see key 0.",
            layers, sliding);
    if (m->attn_cap > 0)
        say(out,
            "Scores are capped: z becomes %.4g tanh(z / %.4g). Weights of attention are those "
            "after the cap; parts of logits are parts of z.",
            m->attn_cap, m->attn_cap);
    if (isfinite(r->capped) && r->capped <= 1 + CAP_SLACK)
        say(out,
            "The norm or clamp of queries and keys sets a largest radius to every pair: the one "
            "that comes nearest reaches %.1f%% of it (layer %d, head %d).",
            100 * r->capped, r->capped_l, r->capped_h);
}

static uint64_t counted_tokens(const Reading *r) /* behind the means */
{
    return r->n_heads ? (uint64_t)*r->head[0].q.n : 0;
}

/* What was found: true sentences made of the numbers, each ended by a zero byte. */
static Bytes findings(const Reading *r)
{
    Bytes out = {0};
    uint64_t n = counted_tokens(r);
    say_made(r, &out);
    say_faults(r, &out);
    if (!n) {
        int skip = r->a->o.n_skip;
        say(&out,
            "There is nothing to read: the first %s of each window stay%s out of the means, and "
            "no other token came.",
            skip == 1 ? "token" : "tokens", skip == 1 ? "s" : "");
    } else {
        if (n < FEW)
            say(&out,
                "Only %llu token%s counted: means of so few show little, so no pair is named here.",
                (unsigned long long)n, n == 1 ? " is" : "s are");
        say_attention(r, &out);
        say_pairs(r, n, &out);
        say_sinks(r, &out);
        if (n >= FEW) {
            say_elsewhere(r, &out), say_scores(r, &out), say_medians(r, &out);
            say_massive_values(r, &out), say_massive(r, &out);
        }
    }
    return out;
}

/* ---------------------------------------------------------------- the terminal report */

locale_t c_numbers(void)
{
    locale_t c = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    MUST(c);
    return uselocale(c);
}

void restore_numbers(locale_t old)
{
    freelocale(uselocale(old));
}

enum { WIDTH = 100, WIDTH_LEAST = 80, WIDTH_MOST = 200, TEXT_LEAST = 40, WIDTH_TEXT = 96 };

static Term term(FILE *f, int color)
{
    if (!color) return (Term){f, "", "", "", "", 0, WIDTH, 0, WIDTH_TEXT};
    return (Term){f, "\033[1m", "\033[2m", "\033[33m", "\033[0m", color, WIDTH, 0, WIDTH_TEXT};
}

Term term_of(FILE *f, const Screen *s)
{
    Term t = term(f, s ? s->color : 0);
    if (!s) return t;
    t.ascii = s->ascii;
    if (s->width) t.width = s->width < WIDTH_LEAST ? WIDTH_LEAST : s->width;
    if (t.width > WIDTH_MOST) t.width = WIDTH_MOST;
    if (s->width && s->width < WIDTH_TEXT) t.text = s->width < TEXT_LEAST ? TEXT_LEAST : s->width;
    return t;
}

static const char *or_dash(const char *s)
{
    return s && *s ? s : "-";
}

void print_paragraph(const Term *t, int bullet, const char *s)
{
    size_t col = 0, most = (size_t)t->text;
    if (bullet) col = 1, fputc('-', t->f);
    for (size_t n; *s; s += n + (s[n] == ' ')) {
        n = strcspn(s, " ");
        if (col && col + 1 + n > most) col = (size_t)bullet, fputs(bullet ? "\n " : "\n", t->f);
        fprintf(t->f, "%s%.*s", col ? " " : "", (int)n, s);
        col += n + (col > 0);
    }
    fputc('\n', t->f);
}

static void print_wrapped(const Term *t, const char *s)
{
    print_paragraph(t, 1, s);
}

/* Bytes of the next word, with the spaces before it, and its columns: an escape sequence and the
 * later bytes of a character have none. */
static size_t next_word(const char *s, int *columns)
{
    size_t n = strspn(s, " "), end = n + strcspn(s + n, " \n");
    int escape = 0;
    *columns = (int)n;
    for (; n < end; n++) {
        escape |= s[n] == '\033';
        *columns += !escape && ((unsigned char)s[n] & 0xc0) != 0x80;
        if (s[n] == 'm') escape = 0;
    }
    return end;
}

/* Lines of a label and what it stands for; what is too long goes on under what it stands for. */
static void print_lines(const Term *t, const char *s)
{
    enum { HANG = 8 };
    for (int col = 0, columns; *s; s++) {
        for (size_t n; *s && *s != '\n'; s += n, col += columns) {
            n = next_word(s, &columns);
            if (col > HANG && col + columns > t->text) {
                size_t gap = strspn(s, " ");
                fprintf(t->f, "\n%*s", HANG, "");
                s += gap, n -= gap, columns -= (int)gap, col = HANG;
            }
            fwrite(s, 1, n, t->f);
        }
        fputc('\n', t->f);
        col = 0;
        if (!*s) return;
    }
}

/* Where lines are put together for print_lines; *s is to be freed by print_gathered. */
static Term gather_lines(const Term *t, char **s, size_t *n)
{
    Term to = *t;
    to.f = open_memstream(s, n);
    MUST(to.f);
    return to;
}

static void print_gathered(const Term *t, const Term *gathered, char **s)
{
    MUST(fclose(gathered->f) == 0);
    print_lines(t, *s);
    free(*s);
}

void print_note(const Term *t, const char *fmt, ...)
{
    char s[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s, sizeof s, fmt, ap);
    va_end(ap);
    fputs(t->dim, t->f);
    print_paragraph(t, 0, s);
    fputs(t->off, t->f);
}

void print_said(const Term *t, Bytes *said)
{
    for (size_t i = 0; i < said->n; i += strlen(said->s + i) + 1) print_wrapped(t, said->s + i);
    free(said->s);
    *said = (Bytes){0};
}

void print_cell(FILE *f, int width, int digits, double v)
{
    if (!isfinite(v))
        fprintf(f, "%*s", width, "-");
    else if (digits < 0)
        fprintf(f, "%*.*g", width, -digits, v);
    else
        fprintf(f, "%*.*f", width, digits, v);
}

static const char *turn_class(double theta, double x)
{
    if (isnan(theta)) return "unknown";
    if (!(theta > 0)) return "still";
    if (isnan(x)) return "unknown";
    return x <= PI ? "half" : x <= TAU ? "partial" : "full";
}

/* "18 pairs from 46": those that turn by x or less over P. */
static void print_within(FILE *f, const char *label, const Axis *ax, double x)
{
    int n = 0, first = 0;
    for (int j = ax->n - 1; j >= 0; j--)
        if (ax->theta[j] > 0 && ax->x[j] <= x) n++, first = j;
    fprintf(f, "%s: %d pair%s", label, n, plural((uint64_t)n));
    if (n) fprintf(f, " from %d", first);
}

static void print_axis(FILE *f, const Analysis *a, int i)
{
    const Axis *ax = &a->axis[i];
    const Rope *r = &a->m->rope[i];
    fprintf(f, "rope    %s, base %g", r->kind ? r->kind->name : "-", r->p.base);
    if (r->p.factor > 1 || r->p.factor < 1) fprintf(f, ", factor %g", r->p.factor);
    fprintf(f, "%s, %d pair%s\n", r->p.divisors ? ", with divisors" : "", ax->n,
            plural((uint64_t)ax->n));
    if (ax->uneven) {
        fprintf(f, "        %s\n",
                ax->uneven == ROPE_HEADS ? "theta differs between key heads: none is shown here"
                                         : "angles depend on what was read: no pair has a theta");
        return;
    }
    fputs("        P = ", f);
    print_cell(f, 0, 0, ax->n_ctx);
    fprintf(f, " tokens (%s)\n",
            r->p.window > 0 && !(ax->n_ctx < r->p.window) ? "the window of these layers"
            : a->o.n_ctx > 0                              ? "as asked for"
            : r->p.n_ctx_orig > 0 && r->p.n_ctx_orig != a->m->n_ctx_train
                ? "original context of the encoding"
                : "trained context of the file");
    print_within(f, "        x = theta P <= 2 pi", ax, TAU);
    print_within(f, "; x <= pi", ax, PI);
    fputc('\n', f);
}

static void print_beyond(const Term *t, const Model *m, const Provenance *p)
{
    long most = beyond_context(m, p);
    if (most)
        fprintf(t->f,
                "        %sbeyond the trained context: windows reach %ld tokens, trained for "
                "%d%s\n",
                t->mark, most, m->n_ctx_train, t->off);
}

/* Options that stand in the place of what the file says. */
static void print_overrides(const Term *t, const Provenance *p)
{
    const char *const made[] = {p->rope_override, p->window_override};
    for (int i = 0; i < 2; i++)
        if (made[i])
            fprintf(t->f, "        %sintervention: %s'%s' by an option, not as the file says%s\n",
                    t->mark, i ? "sliding window " : "", made[i], t->off);
}

/* What the model wrote itself; control characters, ends of lines too, become spaces. */
static void print_generated(const Term *t, const Provenance *p)
{
    const char *s = p->generated_text ? p->generated_text : "", *how = or_dash(p->sampling);
    Bytes shown = {0};
    fprintf(t->f, "        of these %llu generated here, and observed like the others\n",
            (unsigned long long)p->generated);
    bytes_add(&shown, "generated, ", 11);
    bytes_add(&shown, how, strlen(how));
    bytes_add(&shown, ": ", 2);
    bytes_add(&shown, s, strlen(s));
    for (size_t i = 0; i < shown.n; i++)
        if ((unsigned char)shown.s[i] < ' ' || shown.s[i] == 0x7f) shown.s[i] = ' ';
    fputs(t->dim, t->f);
    print_paragraph(t, 0, shown.s);
    fputs(t->off, t->f);
    free(shown.s);
}

static void print_model(const Term *t, const Analysis *a, const Provenance *p)
{
    FILE *f = t->f;
    const Model *m = a->m;
    fprintf(f, "%sropescope %s%s: rotary offset features, attention sinks, bound checks\n\n",
            t->bold, ROPESCOPE_VERSION, t->off);
    fprintf(f, "model   %s  sha256 %.12s  %.1f M parameters\n", or_dash(p->model_path),
            or_dash(p->model_sha256), (double)m->n_params / 1e6);
    fprintf(f,
            "        %s: %d layer%s, %d query / %d kv heads of %d, embedding %d, vocabulary %d\n",
            m->arch ? m->arch->name : "-", m->n_layers, plural((uint64_t)m->n_layers), m->max_heads,
            m->max_kv_heads, m->head_dim, m->n_embd, m->n_vocab);
    for (int i = 0; i < m->n_ropes; i++)
        if (first_alike(a, i) == i) print_axis(f, a, i);
    if (p->edits) fprintf(f, "edited  %s%s%s\n", t->mark, p->edits, t->off);
    print_overrides(t, p);
    fprintf(f, "text    %s  sha256 %.12s\n", or_dash(p->text_path), or_dash(p->text_sha256));
    fprintf(f, "        %llu token%s, %llu window%s of up to %d; BOS: %s\n",
            (unsigned long long)p->n_tokens, plural(p->n_tokens), (unsigned long long)p->n_windows,
            plural(p->n_windows), p->n_ctx, or_dash(p->bos_policy));
    print_beyond(t, m, p);
    if (p->text_cut) fputs("        cut by -n: the rest of the text was not read\n", f);
    if (p->generated) print_generated(t, p);
    if (p->interrupted) fputs("        interrupted: the rest of the text was not read\n", f);
    if (p->incomplete)
        fprintf(f, "        %sparts are missing: %llu of %llu windows%s\n", t->mark,
                (unsigned long long)(p->n_text_windows - p->n_windows),
                (unsigned long long)p->n_text_windows, t->off);
    if (p->bytes_left_out)
        fprintf(f, "        %zu byte%s without a token left out\n", p->bytes_left_out,
                plural(p->bytes_left_out));
    if (p->pre_override) fprintf(f, "        --pre %s: not what the file says\n", p->pre_override);
    fprintf(f, "run     %s, %s kernels, ",
            p->exact ? "exact (float activations)" : "int8 activations", or_dash(p->isa));
    if (p->n_threads)
        fprintf(f, "%d thread%s\n", p->n_threads, plural((uint64_t)p->n_threads));
    else
        fputs("with different numbers of threads\n", f);
}

static void print_thresholds(FILE *f, const Analysis *a)
{
    fprintf(f, "means   leave out the first ");
    if (a->o.n_skip != 1) fprintf(f, "%d ", a->o.n_skip);
    fprintf(f, "token%s of each window\n", plural((uint64_t)a->o.n_skip));
    fprintf(f, "strong  r_q r_k >= %g x the median pair of the head, R_q and R_k >= %g\n",
            a->o.strong_ratio, a->o.strong_r);
    fprintf(f, "massive value: norm > %g x the mean; activation: |h| > %g and > %g x median\n",
            a->o.massive_ratio, a->o.act_min, a->o.act_ratio);
}

/* What stands in the place of model and text in a report. */
static void print_files(const Term *t, const Analysis *a, const Provenance *p)
{
    FILE *f = t->f;
    const Model *m = a->m;
    const Activations *x = p->files;
    fprintf(f, "%sropescope %s%s: rotary offset features, attention sinks, bound checks\n\n",
            t->bold, ROPESCOPE_VERSION, t->off);
    fprintf(f, "files   activations from files: no model was run; attention is computed from q and "
               "k\n");
    fprintf(f, "q       %s  sha256 %.12s  %s rotation\n", x->o.q, x->q_sha256,
            x->rotated ? "after" : "before");
    fprintf(f, "k       %s  sha256 %.12s\n", x->o.k, x->k_sha256);
    fprintf(f, "        %d layer%s, %d query / %d kv heads of %d, %s pairs, %d of %d rotated\n",
            m->n_layers, plural((uint64_t)m->n_layers), m->max_heads, m->max_kv_heads, m->head_dim,
            m->rope->layout == ROPE_HALF ? "half-split" : "adjacent", 2 * m->rope->n_pairs,
            m->head_dim);
    print_axis(f, a, 0);
    fprintf(f, "tokens  %llu token%s, %llu window%s of %d, positions from %s; scores times %.6g\n",
            (unsigned long long)p->n_tokens, plural(p->n_tokens), (unsigned long long)p->n_windows,
            plural(p->n_windows), p->n_ctx, x->o.pos ? x->o.pos : "0", (double)m->score_scale);
    print_beyond(t, m, p);
    fprintf(f, "run     %s kernels, %d thread%s\n", or_dash(p->isa), p->n_threads,
            plural((uint64_t)p->n_threads));
}

/* How the reading was made, at the head of every table. */
static void print_header(const Term *t, const Analysis *a, const Provenance *p)
{
    char *lines = NULL;
    size_t n = 0;
    Term to = gather_lines(t, &lines, &n);
    (p->files ? print_files : print_model)(&to, a, p);
    print_thresholds(to.f, a);
    print_gathered(t, &to, &lines);
}

enum { FALLS_TAU = 1, FALLS_PI = 2 };

/* Which bounds does x fall through between pairs j - 1 and j? */
static int crossings(const Axis *ax, int j)
{
    if (j == 0) return 0;
    return (ax->x[j - 1] > TAU && ax->x[j] <= TAU ? FALLS_TAU : 0) |
           (ax->x[j - 1] > PI && ax->x[j] <= PI ? FALLS_PI : 0);
}

static const char *bound_line(const Term *t, int bound)
{
    return bound == FALLS_TAU ? t->ascii ? "|" : "│" : t->ascii ? "!" : "┊";
}

static void print_crossings(const Term *t, const Axis *ax, int j)
{
    int c = crossings(ax, j);
    if (c & FALLS_TAU) fputs(bound_line(t, FALLS_TAU), t->f);
    if (c & FALLS_PI) fputs(bound_line(t, FALLS_PI), t->f);
}

/* Mean over the heads of log r_q r_k of pair j. Not finite if some head has no number. */
static double log_strength(const Reading *r, int j)
{
    double sum = 0;
    for (int i = 0; i < r->n_heads; i++) sum += log(r->head[i].pair[j].strength);
    return sum / r->n_heads;
}

/* A strip of eight heights over the pairs, lowest to highest of the layer, with a mark where x
 * falls through 2 pi and where it falls through pi. */
static void print_strip(const Term *t, const Reading *layer)
{
    static const char *const height[2][8] = {{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"},
                                             {"0", "1", "2", "3", "4", "5", "6", "7"}};
    FILE *f = t->f;
    const Axis *ax = layer->head[0].axis;
    double lo = ENDLESS, hi = -ENDLESS;
    for (int j = 0; j < ax->n; j++) {
        double v = log_strength(layer, j);
        if (isfinite(v)) lo = fmin(lo, v), hi = fmax(hi, v);
    }
    fputs("  pair 0 ", f);
    for (int j = 0; j < ax->n; j++) {
        double v = log_strength(layer, j);
        print_crossings(t, ax, j);
        if (!isfinite(v))
            fputs(t->ascii ? "." : "·", f);
        else
            fputs(height[t->ascii][hi > lo ? (int)(7.999 * (v - lo) / (hi - lo)) : 0], f);
    }
    fprintf(f, " %d\n", ax->n - 1);
}

static void print_head_row(const Term *t, const Head *h)
{
    int has = h->top >= 0;
    const Pair *p = &h->pair[has ? h->top : 0];
    double x = top_x(h), one = has ? 1 : NONE;
    print_cell(t->f, 6, 0, h->h);
    print_cell(t->f, 6, 0, one * h->top);
    print_cell(t->f, 12, -4, one * p->strength);
    print_cell(t->f, 10, 1, one * p->ratio);
    print_cell(t->f, 10, -4, x);
    print_cell(t->f, 9, -3, x / TAU);
    print_cell(t->f, 8, 2, one * in_pi(p->phi));
    print_cell(t->f, 9, 3, head_alpha(h));
    fprintf(t->f, "  %s", has ? turn_class(h->axis->theta[h->top], x) : "-");
    if (has && p->candidate) fprintf(t->f, "%s candidate%s", t->mark, t->off);
    fputc('\n', t->f);
}

static void print_layer(const Term *t, const Reading *r)
{
    const Head *h = r->head;
    fprintf(t->f, "\n%slayer %d%s", t->bold, h->l, t->off);
    if (r->n_top)
        fprintf(t->f, "  strongest pair within one turn in %d of %d head%s; %d offset candidate%s",
                r->top_rate[BOUND_F1].hits, r->n_top, plural((uint64_t)r->n_top), r->n_candidates,
                plural((uint64_t)r->n_candidates));
    if (r->n_alpha)
        fprintf(t->f, "; alpha_1 %.3f, most %.3f (head %d)", r->alpha, head_alpha(&h[r->sinkiest]),
                h[r->sinkiest].h);
    if (r->n_samples) fprintf(t->f, "; Sink_1^%g %.0f%%", r->a->o.sink_eps, 100 * r->sink);
    if (r->n_bad_heads)
        fprintf(t->f, "; attention not finite in %d head%s", r->n_bad_heads,
                plural((uint64_t)r->n_bad_heads));
    fputc('\n', t->f);
    if (h->axis->n && *h->q.n > 0) print_strip(t, r);
    fprintf(t->f,
            "%s  head  pair     r_q r_k  x median  x=theta P   cycles  phi/pi  alpha_1  turn%s\n",
            t->dim, t->off);
    for (int i = 0; i < r->n_heads; i++) print_head_row(t, &h[i]);
}

static void print_rate(FILE *f, Rate r)
{
    char of[32];
    snprintf(of, sizeof of, "%d/%d", r.hits, r.of);
    if (r.of)
        fprintf(f, " %9s %3.0f%% %3.0f%%", of, percent_of((double)r.hits / r.of, 1),
                percent_of(r.chance / r.of, 1));
    else
        fprintf(f, " %19s", "-");
}

static void print_bounds(const Term *t, const Reading *r)
{
    fprintf(t->f,
            "\n%sBounds%s                                 strongest pairs        strong pairs\n"
            "%s     formula                   asked of       hold chance        hold chance%s\n",
            t->bold, t->off, t->dim, t->off);
    for (int i = 0; i < N_BOUNDS; i++) {
        const Bound *b = &bounds[i];
        fprintf(t->f, " %s  %-25s %-9s", b->id, b->formula, bound_scope(b));
        print_rate(t->f, r->top_rate[i]);
        print_rate(t->f, r->strong_rate[i]);
        fputc('\n', t->f);
    }
    print_note(t, "%s", CHANCE_NOTE);
    print_note(t, "%s", BOUND_NOTE);
}

/* ---- charts: two curves over one axis */

/* Every character has 2 x 4 places for dots, as the Braille patterns U+2800 .. U+28FF have them. */
enum { CHART_LABEL = 9, DOTS_X = 2, DOTS_Y = 4 };

typedef struct {
    const Term *t;
    const Chart *c;
    int columns;
    uint8_t *dots[2]; /* [rows][columns] of each curve */
} Canvas;

/* The place of x among the dots of a row, of y among those of a column. */
static int dot_x(const Canvas *v, double x)
{
    double from = v->c->x[0], range = v->c->x[v->c->n - 1] - from;
    return range > 0 ? (int)lround((x - from) / range * (DOTS_X * v->columns - 1)) : 0;
}

static int dot_y(const Canvas *v, double y)
{
    double most = DOTS_Y * v->c->rows - 1;
    double at = (v->c->hi - y) / (v->c->hi - v->c->lo) * most;
    return (int)lround(fmin(most, fmax(0, at)));
}

static void set_dot(Canvas *v, int curve, int x, int y)
{
    static const uint8_t bit[DOTS_X][DOTS_Y] = {{1, 2, 4, 64}, {8, 16, 32, 128}};
    int cell = y / DOTS_Y * v->columns + x / DOTS_X;
    v->dots[curve][cell] |= bit[x % DOTS_X][y % DOTS_Y];
}

/* The piece of a curve between points i and i + 1: a straight line without gaps. */
static void draw_piece(Canvas *v, int curve, int i)
{
    const double *x = v->c->x + i, *y = v->c->y[curve] + i;
    int from = dot_x(v, x[0]), to = dot_x(v, x[1]), last = dot_y(v, y[0]);
    for (int at = from; at <= to; at++) {
        double part = to > from ? (at - from) / (double)(to - from) : 1;
        int next = dot_y(v, y[0] + part * (y[1] - y[0])), step = next > last ? 1 : -1;
        for (int k = last; k != next; k += step) set_dot(v, curve, at, k);
        set_dot(v, curve, at, next);
        last = next;
    }
}

static void draw_curve(Canvas *v, int curve)
{
    const double *y = v->c->y[curve];
    for (int i = 0; i < v->c->n; i++) {
        if (!isfinite(y[i])) continue;
        set_dot(v, curve, dot_x(v, v->c->x[i]), dot_y(v, y[i]));
        if (i + 1 < v->c->n && isfinite(y[i + 1])) draw_piece(v, curve, i);
    }
}

static const char *second_curve_sign(const Term *t, unsigned dots)
{
    int high = (dots & 9) != 0, middle = (dots & 54) != 0, low = (dots & 192) != 0;
    if (t->ascii) return (high || middle) && low ? ":" : high ? "'" : ".";
    return high && low ? ":" : middle ? "·" : high ? "˙" : ".";
}

/* Is there a tick's line through this cell? */
static int tick_through(const Canvas *v, int row, int column)
{
    const Chart *c = v->c;
    for (int i = 0; i < c->n_yticks && row >= 0; i++)
        if (c->ytick[i].line && dot_y(v, c->ytick[i].at) / DOTS_Y == row) return 1;
    for (int i = 0; i < c->n_xticks && column >= 0; i++)
        if (c->xtick[i].line && dot_x(v, c->xtick[i].at) / DOTS_X == column) return 1;
    return 0;
}

/* The first curve hides the second, and that the lines. */
static void print_chart_cell(const Canvas *v, int row, int column)
{
    const Term *t = v->t;
    size_t at = (size_t)(row * v->columns + column);
    unsigned first = v->dots[0][at], second = v->dots[1][at];
    const char *before = first ? t->mark : t->dim, *sign = " ";
    char braille[4] = {'\xe2', (char)(0xa0 + (first >> 6)), (char)(0x80 + (first & 63)), 0};
    if (first)
        sign = t->ascii ? "*" : braille;
    else if (second)
        sign = second_curve_sign(t, second);
    else if (tick_through(v, row, -1))
        sign = t->ascii ? "-" : "┄";
    else if (tick_through(v, -1, column))
        sign = t->ascii ? "|" : "┊";
    int colored = *sign != ' ';
    fprintf(t->f, "%s%s%s", colored ? before : "", sign, colored ? t->off : "");
}

static void print_chart_row(const Canvas *v, int row)
{
    const Chart *c = v->c;
    const char *label = "";
    int last = v->columns;
    for (int i = c->n_yticks - 1; i >= 0; i--)
        if (dot_y(v, c->ytick[i].at) / DOTS_Y == row) label = c->ytick[i].label;
    while (last > 0 && !v->dots[0][row * v->columns + last - 1] &&
           !v->dots[1][row * v->columns + last - 1] && !tick_through(v, row, last - 1))
        last--;
    fprintf(v->t->f, "%*s %s", CHART_LABEL - 2, label, v->t->ascii ? "|" : "│");
    for (int column = 0; column < last; column++) print_chart_cell(v, row, column);
    fputc('\n', v->t->f);
}

/* The axis below, and under it the labels that find room. */
static void print_chart_axis(const Canvas *v)
{
    const Term *t = v->t;
    int out = CHART_LABEL - 1;
    fprintf(t->f, "%*s%s", CHART_LABEL - 1, "", t->ascii ? "+" : "└");
    for (int i = 0; i < v->columns; i++) fputs(t->ascii ? "-" : "─", t->f);
    fprintf(t->f, "\n%*s", out, "");
    for (int i = 0; i < v->c->n_xticks; i++) {
        int length = (int)strlen(v->c->xtick[i].label);
        int at = CHART_LABEL + dot_x(v, v->c->xtick[i].at) / DOTS_X - length / 2;
        if (at + length > CHART_LABEL + v->columns) at = CHART_LABEL + v->columns - length;
        if (i && at <= out) continue;
        out += fprintf(t->f, "%*s%s", at - out, "", v->c->xtick[i].label);
    }
    fputc('\n', t->f);
}

void print_chart(const Term *t, const Chart *c)
{
    Canvas v = {.t = t, .c = c, .columns = t->text - CHART_LABEL};
    size_t cells = (size_t)c->rows * (size_t)v.columns;
    for (int i = 0; i < 2; i++) {
        v.dots[i] = xcalloc(cells, 1);
        if (c->y[i] && c->n) draw_curve(&v, i);
    }
    for (int row = 0; row < c->rows; row++) print_chart_row(&v, row);
    print_chart_axis(&v);
    free(v.dots[0]);
    free(v.dots[1]);
}

/* ---- the heat map: layer x pair */

/* Columns of the map over one encoding: column i shows pairs start[i] .. start[i + 1] - 1, none of
 * them on both sides of a bound. */
typedef struct {
    const Axis *ax;
    int n, *start; /* [n + 1] */
    int bin, cell; /* pairs of a column, at most; characters of a column, 1 or 2 */
    int n_blank;   /* cells shown without a number */
} Columns;

/* Splits the pairs into columns of `bin` pairs or less. The characters they take with the lines. */
static int split_columns(Columns *c, int bin)
{
    int lines = 0;
    c->n = 0;
    c->bin = bin;
    for (int j = 0; j < c->ax->n; j++) {
        int crossed = crossings(c->ax, j);
        if (j == 0 || crossed || j - c->start[c->n - 1] == bin) c->start[c->n++] = j;
        lines += (crossed & FALLS_TAU) / FALLS_TAU + (crossed & FALLS_PI) / FALLS_PI;
    }
    c->start[c->n] = c->ax->n;
    return c->n + lines;
}

enum { ROW_LABEL = 9 }; /* characters before the first column */

/* The fewest pairs per column that fit the screen; free(c.start). */
static Columns columns_fit(const Term *t, const Axis *ax)
{
    Columns c = {.ax = ax, .cell = 1, .start = xcalloc((size_t)ax->n + 1, sizeof *c.start)};
    int bin = 1, room = t->width - ROW_LABEL, need = split_columns(&c, bin);
    while (need > room && bin < ax->n) need = split_columns(&c, ++bin);
    if (need + c.n <= room) c.cell = 2;
    return c;
}

/* Pair numbers above the columns, at least 8 characters apart. */
static void print_ruler(const Term *t, const Columns *c)
{
    int at = 0, out = 0, next = 0;
    fprintf(t->f, "%s  layer  ", t->dim);
    for (int i = 0; i < c->n; i++) {
        int crossed = crossings(c->ax, c->start[i]);
        at += (crossed & FALLS_TAU) / FALLS_TAU + (crossed & FALLS_PI) / FALLS_PI;
        if (at >= next && (c->bin > 1 || c->start[i] % 8 == 0)) {
            out += fprintf(t->f, "%*s%d", at - out, "", c->start[i]);
            next = at + 8;
        }
        at += c->cell;
    }
    fprintf(t->f, "%s\n", t->off);
}

/* The cividis map (Nunez et al., PLOS ONE 13:e0199239, 2018) at v in [0, 1]: nine straight pieces
 * between ten of its colours. */
static void ramp(double v, int rgb[3])
{
    static const unsigned anchor[] = {0x00224e, 0x123570, 0x3b496c, 0x575d6d, 0x707173,
                                      0x8a8678, 0xa59c74, 0xc3b369, 0xe1cc55, 0xfee838};
    int i = v < 1 ? (int)(9 * v) : 8;
    for (int k = 0; k < 3; k++) {
        int lo = (int)(anchor[i] >> (16 - 8 * k) & 255);
        int hi = (int)(anchor[i + 1] >> (16 - 8 * k) & 255);
        rgb[k] = lo + (int)lround((hi - lo) * (9 * v - i));
    }
}

/* Background v of the ramp, and white or black to write on it. The 256 colours of terminals have
 * steps near the ramp, each lighter than the one before. */
static void print_background(const Term *t, double v)
{
    static const int step[] = {17, 18, 238, 60, 242, 244, 101, 143, 179, 185, 221, 227};
    const int n = sizeof step / sizeof *step;
    int rgb[3];
    ramp(v, rgb);
    fprintf(t->f, "\033[38;5;%dm", v > 0.5 ? 16 : 231);
    if (t->color == COLOR_TRUE)
        fprintf(t->f, "\033[48;2;%d;%d;%dm", rgb[0], rgb[1], rgb[2]);
    else
        fprintf(t->f, "\033[48;5;%dm", step[v < 1 ? (int)(n * v) : n - 1]);
}

static const double shade_from[] = {3, 10, 30, 100}; /* half decades, with 20 in between */
enum { N_SHADES = 5 };

static const char *shade(const Term *t, double ratio)
{
    static const char *const sign[2][N_SHADES] = {{"·", "░", "▒", "▓", "█"},
                                                  {".", ":", "+", "%", "#"}};
    int i = 0;
    while (i < N_SHADES - 1 && ratio >= shade_from[i]) i++;
    return sign[t->ascii][i];
}

static const char *candidate_mark(const Term *t)
{
    return t->ascii ? "*" : "●";
}

static double ramp_place(double ratio) /* 1 .. 100 on a log scale to 0 .. 1 */
{
    return fmin(1, fmax(0, log10(ratio) / 2));
}

/* One cell; in one character a candidate's mark takes the place of its shade. */
static void print_heat(const Term *t, int cell, double ratio, int candidate)
{
    int ramped = t->color >= COLOR_256 && isfinite(ratio);
    const char *fill = !isfinite(ratio) ? "-" : ramped ? " " : shade(t, ratio);
    if (ramped) print_background(t, ramp_place(ratio));
    if (cell == 2) fputs(fill, t->f);
    if (candidate && !ramped) fputs(t->mark, t->f);
    fputs(candidate ? candidate_mark(t) : fill, t->f);
    fputs(ramped || candidate ? t->off : "", t->f);
}

/* Max over the heads of a layer, and over the pairs of a column, of r_q r_k / median pair. Pairs
 * that do not turn are left out; NaN: nothing is left. */
static double heat(const Reading *layer, int from, int to, int *candidate)
{
    double most = NONE;
    *candidate = 0;
    for (int i = 0; i < layer->n_heads; i++)
        for (int j = from; j < to; j++) {
            const Head *h = &layer->head[i];
            if (h->axis->theta[j] > 0 && beats(h->pair[j].ratio, most)) most = h->pair[j].ratio;
            *candidate |= h->pair[j].candidate;
        }
    return most;
}

static void print_map_row(const Term *t, Columns *c, const Reading *layer)
{
    fprintf(t->f, "%7d  ", layer->head[0].l);
    for (int i = 0; i < c->n; i++) {
        int candidate;
        double v = heat(layer, c->start[i], c->start[i + 1], &candidate);
        print_crossings(t, c->ax, c->start[i]);
        print_heat(t, c->cell, v, candidate);
        c->n_blank += !isfinite(v);
    }
    fputc('\n', t->f);
}

/* What the shades or colours and the marks mean. */
static void print_legend(const Term *t, const Columns *c)
{
    FILE *f = t->f;
    fprintf(f, "%*s", ROW_LABEL, "");
    if (t->color >= COLOR_256) {
        fputs("1x ", f);
        for (int i = 0; i <= 24; i++) print_heat(t, 1, pow(10, i / 12.0), 0);
        fputs(" 100x the median pair and more", f);
    } else {
        fprintf(f, "%s below 3x", shade(t, 1));
        for (int i = 0; i < N_SHADES - 1; i++)
            fprintf(f, "  %s %gx", shade(t, shade_from[i]), shade_from[i]);
        fputs(" the median pair", f);
    }
    fprintf(f, "  %s%s%s candidate\n", t->mark, candidate_mark(t), t->off);
    for (int j = 0; j < c->ax->n; j++) {
        int crossed = crossings(c->ax, j);
        if (crossed & FALLS_TAU)
            fprintf(f, "%*s%s from pair %d on: at most one turn over the context (x <= 2 pi)\n",
                    ROW_LABEL, "", bound_line(t, FALLS_TAU), j);
        if (crossed & FALLS_PI)
            fprintf(f, "%*s%s from pair %d on: at most half a turn (x <= pi)\n", ROW_LABEL, "",
                    bound_line(t, FALLS_PI), j);
    }
    if (c->n_blank) fprintf(f, "%*s- no number, or pairs that do not turn\n", ROW_LABEL, "");
    if (c->bin > 1)
        print_note(t,
                   "Up to %d neighbouring pairs share a column, which shows the largest: %d pairs "
                   "do not fit %d characters.",
                   c->bin, c->ax->n, t->width);
}

/* The layers that share one encoding. */
static void print_map(const Term *t, const Reading *r, int rope)
{
    const Analysis *a = r->a;
    Columns c = columns_fit(t, &a->axis[rope]);
    int n = 0;
    for (int l = 0; l < a->m->n_layers && c.n && c.ax->uneven != ROPE_READ; l++) {
        Reading layer = reading_layer(r, l);
        if (first_alike(a, a->m->layer[l].rope) != rope || !layer.n_heads) continue;
        if (n++ == 0) {
            if (a->m->n_ropes > 1) fprintf(t->f, "  layers of base %g\n", a->m->rope[rope].p.base);
            print_ruler(t, &c);
        }
        print_map_row(t, &c, &layer);
    }
    if (n) print_legend(t, &c);
    free(c.start);
}

static void print_maps(const Term *t, const Reading *r)
{
    fprintf(t->f, "\n%sHow far each rotary pair stands out%s\n", t->bold, t->off);
    print_note(t, "A row is a layer, a column a rotary pair: the fastest at the left, the slowest "
                  "at the right. A cell shows how many times stronger the pair is than the median "
                  "pair of its head (strength: r_q r_k; in the head where this is most).");
    for (int i = 0; i < r->a->m->n_ropes; i++) print_map(t, r, i);
}

/* ---- tables of layers and heads */

static void print_layer_row(const Term *t, const Reading *r)
{
    char of[32] = "-";
    FILE *f = t->f;
    if (r->n_top) snprintf(of, sizeof of, "%d of %d", r->top_rate[BOUND_F1].hits, r->n_top);
    fprintf(f, "%7d  %15s %12d", r->head[0].l, of, r->n_candidates);
    print_cell(f, 9, 3, r->n_alpha ? r->alpha : NONE);
    print_cell(f, 8, 3, r->n_alpha ? head_alpha(&r->head[r->sinkiest]) : NONE);
    print_cell(f, 8, 0, r->n_alpha ? r->head[r->sinkiest].h : NONE);
    print_cell(f, 9, 0, r->n_samples ? percent_of(r->sink, 1) : NONE);
    fputs(r->n_samples ? "%" : " ", f);
    if (r->n_bad_heads) fprintf(f, "  not finite: %d", r->n_bad_heads);
    fputc('\n', f);
}

static void print_layers(const Term *t, const Reading *r)
{
    fprintf(t->f,
            "\n%sLayers%s\n%s  layer  within one turn   candidates  alpha_1    most  (head)  "
            "Sink_1^%g%s\n",
            t->bold, t->off, t->dim, r->a->o.sink_eps, t->off);
    for (int l = 0; l < r->a->m->n_layers; l++) {
        Reading layer = reading_layer(r, l);
        if (layer.n_heads) print_layer_row(t, &layer);
    }
    print_note(t,
               "within one turn: heads whose strongest pair turns at most once over the context. "
               "candidates: offset features. alpha_1: attention on the first token, mean over the "
               "heads, and the most. Sink_1: share of samples with alpha_1 > %g.",
               r->a->o.sink_eps);
}

static const char heads_header[] = "pair     r_q r_k  x median   cycles  phi/pi  alpha_1  turn";

static void print_notable(const Term *t, const Head *h)
{
    int has = h->top >= 0;
    const Pair *p = &h->pair[has ? h->top : 0];
    double one = has ? 1 : NONE;
    print_cell(t->f, 7, 0, h->l);
    print_cell(t->f, 6, 0, h->h);
    print_cell(t->f, 6, 0, one * h->top);
    print_cell(t->f, 12, -4, one * p->strength);
    print_cell(t->f, 10, 1, one * p->ratio);
    print_cell(t->f, 9, -3, top_x(h) / TAU);
    print_cell(t->f, 8, 2, one * in_pi(p->phi));
    print_cell(t->f, 9, 3, head_alpha(h));
    fprintf(t->f, "  %s", has ? turn_class(h->axis->theta[h->top], top_x(h)) : "-");
    if (has && p->candidate) fprintf(t->f, " %s%s%s", t->mark, candidate_mark(t), t->off);
    fputc('\n', t->f);
}

/* The head that stands out most of those below (ratio, place in r) = (*above, *i); -1: none. */
static int next_notable(const Reading *r, int last)
{
    int best = -1;
    for (int i = 0; i < r->n_heads; i++) {
        double v = top_ratio(&r->head[i]), above = last < 0 ? ENDLESS : top_ratio(&r->head[last]);
        int below = v < above || (!(v > above) && isfinite(v) && i > last);
        if (below && beats(v, best < 0 ? NONE : top_ratio(&r->head[best]))) best = i;
    }
    return best;
}

enum { NOTABLE = 12 };

static void print_heads(const Term *t, const Reading *r)
{
    int n = 0, last = next_notable(r, -1);
    if (last < 0) return;
    fprintf(t->f, "\n%sHeads whose strongest pair stands out most%s\n%s  layer  head  %s%s\n",
            t->bold, t->off, t->dim, heads_header, t->off);
    for (; last >= 0 && n < NOTABLE; last = next_notable(r, last), n++)
        print_notable(t, &r->head[last]);
    print_note(t,
               "%d of %d heads; --verbose shows all. cycles: turns of that pair over the context; "
               "half: x <= pi, partial: x <= 2 pi, full: more. phi: angle of the mean query before "
               "the mean key. %s offset feature candidate.",
               n, r->n_heads, candidate_mark(t));
}

/* Every head of every layer. */
static void print_all_heads(const Term *t, const Reading *r)
{
    fputc('\n', t->f);
    print_note(t,
               "strip: mean log r_q r_k over the heads, per pair; %s x = 2 pi, %s x = pi. turn: "
               "over P: half (x <= pi), partial (x <= 2 pi), full",
               bound_line(t, FALLS_TAU), bound_line(t, FALLS_PI));
    for (int l = 0; l < r->a->m->n_layers; l++) {
        Reading layer = reading_layer(r, l);
        if (layer.n_heads) print_layer(t, &layer);
    }
}

void analysis_print(const Analysis *a, const Provenance *p, FILE *f, const Screen *s)
{
    locale_t old = c_numbers();
    Term t = term_of(f, s);
    Reading r = reading_new(a, p);
    print_header(&t, a, p);
    if (any_even(a)) print_maps(&t, &r);
    print_layers(&t, &r);
    (s && s->verbose ? print_all_heads : print_heads)(&t, &r);
    print_bounds(&t, &r);
    if (isfinite(r.check))
        print_note(&t,
                   "Self-check: mean radii before and after rotation differ by at most %.1g of "
                   "their size.",
                   r.check);
    fprintf(f, "\n%sWhat was found%s\n", t.bold, t.off);
    Bytes said = findings(&r);
    print_said(&t, &said);
    reading_free(&r);
    restore_numbers(old);
}

/* ---------------------------------------------------------------- JSON */

void json_str(FILE *f, const char *s, size_t n)
{
    fputc('"', f);
    for (size_t i = 0; i < n;) {
        int len = utf8_len(s + i, n - i);
        unsigned char c = (unsigned char)s[i];
        if (len <= 0)
            fputs("\xef\xbf\xbd", f), len = 1;
        else if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            fprintf(f, "\\u%04x", c);
        else
            fwrite(s + i, 1, (size_t)len, f);
        i += (size_t)len;
    }
    fputc('"', f);
}

void json_text(FILE *f, const char *key, const char *s)
{
    fprintf(f, ",\"%s\":", key);
    if (s && *s)
        json_str(f, s, strlen(s));
    else
        fputs("null", f);
}

void json_num(FILE *f, double v)
{
    if (!isfinite(v))
        fputs("null", f);
    else
        fprintf(f, v == floor(v) && fabs(v) < 0x1p53 ? "%.0f" : "%.9g", v);
}

typedef struct {
    const char *key;
    double v;
} Field;

enum { HEAD_FIELDS = 40 }; /* room for the numbers of a head */

static void json_fields(FILE *f, const Field *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        fprintf(f, ",\"%s\":", v[i].key);
        json_num(f, v[i].v);
    }
}
#define JSON_FIELDS(f, ...)                                                                        \
    json_fields(f, (const Field[]){__VA_ARGS__},                                                   \
                sizeof((const Field[]){__VA_ARGS__}) / sizeof(Field))

void json_column(FILE *f, const char *key, const void *v, size_t step, int n)
{
    fprintf(f, ",\"%s\":[", key);
    for (int j = 0; j < n; j++) {
        if (j) fputc(',', f);
        json_num(f, *(const double *)(const void *)((const char *)v + (size_t)j * step));
    }
    fputc(']', f);
}

static void json_files(FILE *f, const Activations *x)
{
    json_text(f, "q", x->o.q);
    json_text(f, "q_sha256", x->q_sha256);
    json_text(f, "k", x->o.k);
    json_text(f, "k_sha256", x->k_sha256);
    json_text(f, "axes", x->o.axes ? x->o.axes : x->q.n_dims == 2 ? "td" : "thd");
    json_text(f, "rotated", x->rotated ? "yes" : "no");
    json_text(f, "positions", x->o.pos ? x->o.pos : "0");
}

/* "key":[[from, to], ...]: windows from .. to - 1 */
static void json_ranges(FILE *f, const char *key, const Ranges *s)
{
    fprintf(f, ",\"%s\":[", key);
    for (size_t i = 0; i < s->n; i++)
        fprintf(f, "%s[%llu,%llu]", i ? "," : "", (unsigned long long)s->r[i].from,
                (unsigned long long)s->r[i].to);
    fputc(']', f);
}

/* How the reading was made. Neither threads nor instruction set: they do not change a byte. */
static void json_provenance(FILE *f, const char *schema, const Model *m, const Provenance *p)
{
    fprintf(f, "\"schema\":\"%s\",\n\"provenance\":{\"version\":\"%s\"", schema, ROPESCOPE_VERSION);
    json_text(f, "model", p->model_path);
    json_text(f, "model_sha256", p->model_sha256);
    json_text(f, "architecture", m->arch ? m->arch->name : NULL);
    json_text(f, "text", p->text_path);
    json_text(f, "text_sha256", p->text_sha256);
    json_text(f, "bos_policy", p->bos_policy);
    json_text(f, "rope_override", p->rope_override);
    json_text(f, "window_override", p->window_override);
    json_text(f, "pre_override", p->pre_override);
    json_text(f, "edits", p->edits);
    json_text(f, "sampling", p->sampling);
    json_text(f, "generated_text", p->generated_text);
    json_text(f, "activations", p->files ? "from files" : p->exact ? "float" : "int8");
    json_text(f, "kv", p->kv);
    if (p->files) json_files(f, p->files);
    double one = p->files ? NONE : 1; /* without a model there is no such number */
    JSON_FIELDS(
        f, {"model_bytes", one * (double)p->model_bytes}, {"n_params", one * (double)m->n_params},
        {"n_layers", m->n_layers}, {"n_embd", one * m->n_embd}, {"n_heads", m->max_heads},
        {"n_kv_heads", m->max_kv_heads}, {"head_dim", m->head_dim}, {"n_vocab", one * m->n_vocab},
        {"n_ctx_train", m->n_ctx_train}, {"n_tokens", (double)p->n_tokens},
        {"n_windows", (double)p->n_windows}, {"generated", (double)p->generated},
        {"n_ctx", p->n_ctx}, {"bos_id", one * p->bos_id}, {"interrupted", p->interrupted},
        {"text_cut", p->text_cut}, {"bytes_left_out", (double)p->bytes_left_out},
        {"beyond_context", (double)beyond_context(m, p)}, {"score_scale", (double)m->score_scale},
        {"attn_cap", m->attn_cap > 0 ? m->attn_cap : NONE});
}

/* Which windows were read, if some are missing. */
static void json_covered(FILE *f, const Analysis *a, const Provenance *p)
{
    if (!p->incomplete) return;
    JSON_FIELDS(f, {"n_text_windows", (double)p->n_text_windows});
    json_ranges(f, "covered", &a->closed);
}

static void json_options(FILE *f, const AnalysisOptions *o)
{
    fputs(
        "},\n\"convention\":\"f(delta) = r_q r_k cos(phi + theta delta), delta = query position "
        "- key position >= 0, phi = arg z_q - arg z_k before rotation in [0, 2 pi); "
        "x = theta n_ctx; layers, heads and pairs count from 0\",\n\"options\":{\"stage\":\"before "
        "rotation\"",
        f);
    JSON_FIELDS(f, {"n_skip", o->n_skip}, {"strong_ratio", o->strong_ratio},
                {"strong_r", o->strong_r}, {"sink_eps", o->sink_eps}, {"sink_t", o->sink_t},
                {"n_ctx", o->n_ctx}, {"massive_ratio", o->massive_ratio}, {"act_min", o->act_min},
                {"act_ratio", o->act_ratio});
}

/* What the less obvious fields are, for who has only the file. */
static void json_notes(FILE *f)
{
    static const char *const note[] = {
        "p_neg",
        "(3 pi/2 - phi) / theta: the distance at which the first stretch of distances ends that "
        "have cos(phi + theta delta) < 0; null: no such distance up to P",
        "logit",
        "means over queries at positions 1 and more that see key 0 of parts of the scaled logit "
        "(q k score_scale, before the soft cap where attn_cap is a number, without what an "
        "encoding adds): sink of key 0, others of the mean over keys 1 .. own position; ordinary "
        "is the mean over all (query, other key); partial: pairs with x <= 2 pi, full: all the "
        "rest, rest: of it, the values that do not turn; summary: mean over heads",
        "moments",
        "aa, bb, ab: means of a^2, b^2 and a b of a pair's members a, b before rotation, uncentred",
        "max_at",
        "max_q_at, max_k_at: window, position and token id of the largest radius",
        "alpha",
        "alpha_k = 1 / (T - k) sum over queries k .. T - 1 of the weight on key k, keys from 0; "
        "mean over the longest windows. In a layer that looks back through a window of W keys: the "
        "mean over the queries that see key k, min(T - k, W) of them; first4 likewise. sink_key: "
        "the largest of keys 0 .. min(63, T / 2)",
        "thirds",
        "mean attention on each third of the keys: a proxy for the attention basin, whose formula "
        "was not available",
        "spectra",
        "of X (tokens x head values, before rotation, uncentred) with singular values s: "
        "stable_rank = sum s^2 / max s^2; first_sv = max s / sum s; matrix_entropy = - sum p log p "
        "in nats, p = s^2 / sum s^2, over the 32 largest",
        "massive",
        "massive_q, massive_k: places, in sliced order, of values whose L2 norm over all tokens, "
        "the first n_skip included, after rotation is above massive_ratio times the mean over the "
        "head's values",
        "kernel",
        "k: scaled logit (before a cap, see logit) of the mean query and the mean key at distance "
        "delta, rotated values only; top: the pairs of the largest |mean q| |mean k|; tri: the "
        "TriAttention score, scaled, of a key of mean length and direction",
        "cap",
        "cap_q, cap_k: the largest radius there can be before rotation, from the weights of the "
        "norm of queries or keys, or from their clamp; null: there is none. radius_self_check and "
        "cap_self_check: largest relative change of a radius by rotation, largest radius over cap",
        "bias",
        "as in the file, added before anything else; then: what is done to the sum of product and "
        "bias before it turns (clamp, norm), null: nothing"};
    fputs("},\n\"notes\":{\"channels\":\"sliced order; means leave out the first n_skip tokens of "
          "each window, maxima do not\"",
          f);
    for (size_t i = 0; i < sizeof note / sizeof *note; i += 2) json_text(f, note[i], note[i + 1]);
}

static void json_tokens(FILE *f, const Provenance *p)
{
    fputs(",\n\"tokens\":[", f);
    for (int i = 0; i < p->n_token_text; i++) {
        if (i) fputc(',', f);
        json_str(f, p->token_text[i], strlen(p->token_text[i]));
    }
    fputc(']', f);
}

/* The theta table of one encoding, and the channels of Hugging Face's checkpoints. */
static void json_rope(FILE *f, const Rope *r, const Axis *ax)
{
    double *wave = xcalloc(2 * (size_t)ax->n + 1, sizeof *wave), *cycles = wave + ax->n;
    for (int j = 0; j < ax->n; j++) {
        wave[j] = TAU / ax->theta[j];
        cycles[j] = ax->x[j] / TAU;
    }
    fprintf(f, "{\"layout\":\"%s\"", r->layout == ROPE_HALF ? "half" : "adjacent");
    json_text(f, "kind", r->kind ? r->kind->name : NULL);
    JSON_FIELDS(f, {"n_pairs", ax->n}, {"base", r->p.base}, {"factor", r->p.factor},
                {"with_divisors", r->p.divisors != NULL}, {"n_ctx_orig", r->p.n_ctx_orig},
                {"window", r->p.window}, {"amplitude", r->amplitude}, {"n_ctx", ax->n_ctx});
    json_column(f, "theta", ax->theta, sizeof(double), ax->n);
    json_column(f, "wavelength", wave, sizeof(double), ax->n);
    json_column(f, "x", ax->x, sizeof(double), ax->n);
    json_column(f, "cycles", cycles, sizeof(double), ax->n);
    free(wave);
    fputs(",\"class\":[", f);
    for (int j = 0; j < ax->n; j++)
        fprintf(f, "%s\"%s\"", j ? "," : "", turn_class(ax->theta[j], ax->x[j]));
    fputs("],\"hf_channels\":[", f);
    for (int j = 0; j < ax->n; j++)
        fprintf(f, "%s[%d,%d]", j ? "," : "", rope_hf_row(r, ax->a[j]), rope_hf_row(r, ax->b[j]));
    fputs("]}", f);
}

/* The columns of a head: one number per pair. */
static const struct {
    const char *name;
    size_t at;
} columns[] = {
    {"r_q", offsetof(Pair, q.r)},
    {"r_k", offsetof(Pair, k.r)},
    {"R_q", offsetof(Pair, q.R)},
    {"R_k", offsetof(Pair, k.R)},
    {"dir_q", offsetof(Pair, q.dir)},
    {"dir_k", offsetof(Pair, k.dir)},
    {"phi", offsetof(Pair, phi)},
    {"rms_q", offsetof(Pair, q.rms)},
    {"rms_k", offsetof(Pair, k.rms)},
    {"max_q", offsetof(Pair, q.max)},
    {"max_k", offsetof(Pair, k.max)},
    {"first_q", offsetof(Pair, q.skip)},
    {"first_k", offsetof(Pair, k.skip)},
    {"ratio", offsetof(Pair, ratio)},
    {"gain", offsetof(Pair, gain)},
    {"t3_slack", offsetof(Pair, t3_slack)},
    {"p_neg", offsetof(Pair, p_neg)},
    {"worst", offsetof(Pair, worst)},
    {"offset_share_q", offsetof(Pair, q.offset)},
    {"offset_share_k", offsetof(Pair, k.offset)},
    {"logit_sink", offsetof(Pair, logit.sink)},
    {"logit_others", offsetof(Pair, logit.others)},
    {"logit_ordinary", offsetof(Pair, logit.ordinary)},
    {"aa_q", offsetof(Pair, q.aa)},
    {"bb_q", offsetof(Pair, q.bb)},
    {"ab_q", offsetof(Pair, q.ab)},
    {"aa_k", offsetof(Pair, k.aa)},
    {"bb_k", offsetof(Pair, k.bb)},
    {"ab_k", offsetof(Pair, k.ab)},
    {"cap_q", offsetof(Pair, q.cap)},
    {"cap_k", offsetof(Pair, k.cap)},
};
#define N_COLUMNS (sizeof columns / sizeof *columns)

static double column_at(const Pair *p, size_t c)
{
    return *(const double *)(const void *)((const char *)p + columns[c].at);
}

/* The position of the i-th token of a window; files may say so. */
static int position_of(const Provenance *p, int i)
{
    return p && p->files ? p->files->pos[i] : i;
}

/* Window, position and token of the largest radii; null: a token that is not known. */
static void json_max_at(FILE *f, const char *key, const Reading *r, const Tally *y, int n)
{
    fprintf(f, ",\"%s\":[", key);
    for (int j = 0; j < n; j++) {
        const Peak *p = &y->peak[j];
        fprintf(f, "%s[%llu,%d,", j ? "," : "", (unsigned long long)p->window,
                position_of(r->p, (int)p->pos));
        if (p->token < 0)
            fputs("null]", f);
        else
            fprintf(f, "%d]", (int)p->token);
    }
    fputc(']', f);
}

static void json_pairs(FILE *f, const char *key, const Head *h, int candidates)
{
    fprintf(f, ",\"%s\":[", key);
    for (int j = 0, n = 0; j < h->axis->n; j++)
        if (candidates ? h->pair[j].candidate : h->pair[j].strong)
            fprintf(f, "%s%d", n++ ? "," : "", j);
    fputc(']', f);
}

static void json_ints(FILE *f, const char *key, const int *v, int n)
{
    fprintf(f, ",\"%s\":[", key);
    for (int i = 0; i < n; i++) fprintf(f, "%s%d", i ? "," : "", v[i]);
    fputc(']', f);
}

/* Attention to the first 64 keys; null for keys that no window reaches. */
static void json_head_sinks(FILE *f, const Head *h)
{
    double alpha[SINK_KEYS], share[SINK_KEYS];
    for (int k = 0; k < SINK_KEYS; k++) {
        alpha[k] = sink_alpha(h, k);
        share[k] = k < h->at_t.t ? h->at_t.n_sink[k] / h->at_t.n : NONE;
    }
    json_column(f, "alpha", alpha, sizeof *alpha, SINK_KEYS);
    json_column(f, "sink_share_k", share, sizeof *share, SINK_KEYS);
}

static void json_massive_values(FILE *f, const Analysis *a, const Head *h)
{
    int D = a->m->head_dim, *at = xcalloc((size_t)D, sizeof *at);
    double ratio = a->o.massive_ratio;
    json_ints(f, "massive_q", at, massive_values(&h->q, h->axis, D, ratio, at));
    json_ints(f, "massive_k", at, massive_values(&h->k, h->axis, D, ratio, at));
    free(at);
}

/* The pairs with the largest |mean q| |mean k|, which make up most of a kernel; descending. */
static void json_kernel_top(FILE *f, const Head *h)
{
    enum { TOP = 3 };
    int top[TOP], n = 0;
    for (int j = 0; j < h->axis->n; j++) {
        int at = n;
        if (!(pair_offset(&h->pair[j]) > 0) || !isfinite(pair_offset(&h->pair[j]))) continue;
        while (at > 0 && pair_offset(&h->pair[j]) > pair_offset(&h->pair[top[at - 1]])) at--;
        if (at == TOP) continue;
        n = n < TOP ? n + 1 : TOP;
        for (int i = n - 1; i > at; i--) top[i] = top[i - 1];
        top[at] = j;
    }
    json_ints(f, "top", top, n);
}

static void json_kernel(FILE *f, const Analysis *a, const Head *h)
{
    double delta[DISTANCES], k[DISTANCES], tri[DISTANCES];
    double amplitude = a->m->rope[a->m->layer[h->l].rope].amplitude;
    double g = (double)a->m->score_scale * amplitude * amplitude;
    int n = log_distances(h->axis->n_ctx, delta);
    for (int i = 0; i < n; i++) head_curves(h, g, delta[i], &k[i], &tri[i]);
    fputs(",\"kernel\":{\"unit\":\"scaled logit\"", f);
    json_kernel_top(f, h);
    json_column(f, "delta", delta, sizeof *delta, n);
    json_column(f, "k", k, sizeof *k, n);
    json_column(f, "tri", tri, sizeof *tri, n);
    fputc('}', f);
}

/* Both members of pair j of the first tokens before rotation: a, b, a, b, ... */
static void json_members(FILE *f, const char *key, const Tally *y, const Axis *ax, int j, int D)
{
    fprintf(f, "\"%s\":[", key);
    for (int i = 0; i < 2 * *y->n_first; i++) {
        float v = y->first[(size_t)(i / 2) * (size_t)D + (size_t)(i % 2 ? ax->b : ax->a)[j]];
        if (i) fputc(',', f);
        if (isfinite(v))
            fprintf(f, "%.5g", (double)v);
        else
            fputs("null", f);
    }
    fputs("],", f);
}

/* Tokens of the first window in the head's top pair and its candidates. */
static void json_samples(FILE *f, const Reading *r, const Head *h)
{
    int D = r->a->m->head_dim, skip = r->a->o.n_skip, n = *h->q_seen->n_first;
    fputs(",\"samples\":{", f);
    for (int j = 0, shown = 0; n && j < h->axis->n; j++) {
        if (j != h->top && !h->pair[j].candidate) continue;
        fprintf(f, "%s\"%d\":{", shown++ ? "," : "", j);
        json_members(f, "q", h->q_seen, h->axis, j, D);
        json_members(f, "k", h->k_seen, h->axis, j, D);
        fputs("\"pos\":[", f);
        for (int i = 0; i < n; i++) fprintf(f, "%s%d", i ? "," : "", position_of(r->p, skip + i));
        fputs("]}", f);
    }
    fputc('}', f);
}

/* The bias [D] of the query of attention head h: copies share that of the head they are made from;
 * NULL if there is none. */
static const float *query_bias(const Model *m, const Layer *y, int h)
{
    int copies = y->n_q_heads ? y->n_heads / y->n_q_heads : 1, projected = h / copies;
    return y->bq ? y->bq + (size_t)projected * (size_t)m->head_dim : NULL;
}

/* Length and angle of the bias of each pair of one head; an absent bias has no length. */
static void json_bias_side(FILE *f, const char *r_key, const char *dir_key, const float *bias,
                           const Rope *of)
{
    int n = of->n_pairs;
    double *r = xcalloc(2 * (size_t)n + 1, sizeof *r), *dir = r + n;
    for (int j = 0; j < n; j++) {
        double a = bias ? (double)bias[rope_row(of, 2 * j)] : 0;
        double b = bias ? (double)bias[rope_row(of, 2 * j + 1)] : 0;
        r[j] = sqrt(a * a + b * b);
        dir[j] = r[j] > 0 ? atan2(b, a) : NONE;
    }
    json_column(f, r_key, r, sizeof *r, n);
    json_column(f, dir_key, dir, sizeof *dir, n);
    free(r);
}

static void json_bias(FILE *f, const Model *m, const Head *h)
{
    const Layer *y = &m->layer[h->l];
    const Rope *r = &m->rope[y->rope];
    size_t D = (size_t)m->head_dim;
    if ((!y->bq && !y->bk) || is_mixed(m, y)) {
        fputs(",\"bias\":null", f);
        return;
    }
    fprintf(f, ",\"bias\":{\"n_pairs\":%d", h->axis->n);
    json_text(f, "then", settled_by(m, y));
    json_bias_side(f, "r_q", "dir_q", query_bias(m, y, h->h), r);
    json_bias_side(f, "r_k", "dir_k", y->bk ? y->bk + (size_t)h->kh * D : NULL, r);
    fputc('}', f);
}

/* What the rows of attention and the values of a head come to. */
static void json_head_more(FILE *f, const Reading *r, const Head *h)
{
    const Analysis *a = r->a;
    json_column(f, "thirds", h->mean.third, sizeof *h->mean.third, 3);
    json_head_sinks(f, h);
    json_massive_values(f, a, h);
    json_kernel(f, a, h);
    json_samples(f, r, h);
    json_bias(f, a->m, h);
}

/* The numbers of a head, for every format. The number of them. */
static int head_fields(const Head *h, Field out[HEAD_FIELDS])
{
    const Samples *s = &h->at_t;
    const RowSum *m = &h->mean;
    const Spectrum *q = &h->q_spectrum, *k = &h->k_spectrum;
    const Field v[] = {{"kv_head", h->kh},
                       {"n_q", *h->q.n},
                       {"n_k", *h->k.n},
                       {"top_pair", h->top < 0 ? NONE : h->top},
                       {"alpha_1", head_alpha(h)},
                       {"alpha_1_t", s->alpha[0] / s->n},
                       {"sink_share", s->n_sink[0] / s->n},
                       {"n_rows_not_finite", h->q.row->n_bad},
                       {"sink_key", h->sink < 0 ? NONE : h->sink},
                       {"sink_alpha", sink_alpha(h, h->sink)},
                       {"logit_sink_rest", h->rest.sink},
                       {"logit_others_rest", h->rest.others},
                       {"logit_ordinary_rest", h->rest.ordinary},
                       {"first4", m->first4},
                       {"entropy", m->entropy},
                       {"distance", m->distance},
                       {"previous", m->previous},
                       {"duplicate", m->duplicate},
                       {"induction", m->induction},
                       {"stable_rank_q", q->stable_rank},
                       {"stable_rank_k", k->stable_rank},
                       {"first_sv_q", q->first_sv},
                       {"first_sv_k", k->first_sv},
                       {"matrix_entropy_q", q->entropy},
                       {"matrix_entropy_k", k->entropy}};
    _Static_assert(sizeof v <= HEAD_FIELDS * sizeof *v, "HEAD_FIELDS is too small");
    memcpy(out, v, sizeof v);
    return (int)(sizeof v / sizeof *v);
}

static void json_head(FILE *f, const Reading *r, const Head *h)
{
    Field v[HEAD_FIELDS];
    fprintf(f, "{\"head\":%d", h->h);
    json_fields(f, v, (size_t)head_fields(h, v));
    json_pairs(f, "strong", h, 0);
    json_pairs(f, "candidates", h, 1);
    for (size_t c = 0; c < N_COLUMNS; c++)
        json_column(f, columns[c].name, (const char *)h->pair + columns[c].at, sizeof(Pair),
                    h->axis->n);
    json_max_at(f, "max_q_at", r, h->q_seen, h->axis->n);
    json_max_at(f, "max_k_at", r, h->k_seen, h->axis->n);
    json_head_more(f, r, h);
    fputc('}', f);
}

/* mean_q, max_q, mean_k, max_k of one stage. */
static void json_channels(FILE *f, const Reading *layer, int stage)
{
    static const char *const key[2][2] = {{"mean_k", "max_k"}, {"mean_q", "max_q"}};
    int D = layer->a->m->head_dim;
    double *mean = xcalloc(2 * (size_t)D, sizeof *mean), *max = mean + D;
    for (int is_q = 1; is_q >= 0; is_q--) {
        read_channels(layer, is_q, stage, mean, max);
        json_column(f, key[is_q][0], mean, sizeof *mean, D);
        json_column(f, key[is_q][1], max, sizeof *max, D);
    }
    free(mean);
}

static void json_activations(FILE *f, const Analysis *a, int l)
{
    const Massive *s = &a->massive[l];
    if (!(s->most.value > 0)) {
        fputs(",\"massive_activations\":null", f);
        return;
    }
    fprintf(f, ",\"massive_activations\":{\"at\":[%llu,%d,%d]", (unsigned long long)s->most.window,
            (int)s->most.pos, (int)s->most.token);
    JSON_FIELDS(f, {"n", massive_layer(a, l)}, {"max", s->most.value}, {"median", s->median});
    fputs(",\"channels\":[", f);
    for (int c = 0, shown = 0; c < a->m->n_embd; c++) {
        double n = massive_count(a, l, c);
        if (n > 0) fprintf(f, "%s[%d,%.0f]", shown++ ? "," : "", c, n);
    }
    fputs("]}", f);
}

static void json_layer(FILE *f, const Reading *layer, int l)
{
    const Layer *y = &layer->a->m->layer[l];
    fprintf(f, "{\"layer\":%d", l);
    JSON_FIELDS(f, {"rope", y->rope}, {"window", y->window}, {"n_candidates", layer->n_candidates},
                {"alpha_1", layer->alpha}, {"sink_1", layer->sink});
    fputs(",\"channels\":{\"stage\":\"after rotation\"", f);
    JSON_FIELDS(f, {"n_rot", 2 * layer->a->axis[y->rope].n});
    json_channels(f, layer, AFTER_ROPE);
    fputs(",\"before\":{\"stage\":\"before rotation\"", f);
    json_channels(f, layer, BEFORE_ROPE);
    fputs("}}", f);
    json_activations(f, layer->a, l);
    fputs(",\"heads\":[", f);
    for (int h = 0; h < layer->n_heads; h++) {
        if (h) fputs(",\n", f);
        json_head(f, layer, &layer->head[h]);
    }
    fputs("]}", f);
}

static void json_bound(FILE *f, const Reading *r, int i)
{
    const Bound *b = &bounds[i];
    Rate s = r->strong_rate[i], t = r->top_rate[i];
    fprintf(f, "{\"id\":\"%s\"", b->id);
    json_text(f, "formula", b->formula);
    json_text(f, "meaning", b->meaning);
    json_text(f, "asked_of", bound_scope(b));
    JSON_FIELDS(f, {"top_hits", t.hits}, {"top_of", t.of}, {"top_chance", t.chance / t.of},
                {"strong_hits", s.hits}, {"strong_of", s.of}, {"strong_chance", s.chance / s.of});
    fputs(",\"exceptions\":[", f);
    for (int k = 0, h = 0, j = 0; next_exception(r, b, &h, &j); j++, k++)
        fprintf(f, "%s[%d,%d,%d]", k ? "," : "", r->head[h].l, r->head[h].h, j);
    fputs("]}", f);
}

/* Strings, each ended by a zero byte, which are freed. */
static void json_sentences(FILE *f, Bytes *said)
{
    for (size_t i = 0; i < said->n; i += strlen(said->s + i) + 1) {
        if (i) fputs(",\n", f);
        json_str(f, said->s + i, strlen(said->s + i));
    }
    free(said->s);
    *said = (Bytes){0};
}

static void json_sink_means(FILE *f, const Reading *r)
{
    double alpha[SINK_KEYS], share[SINK_KEYS];
    sink_means(r, alpha, share);
    json_column(f, "alpha_k", alpha, sizeof *alpha, SINK_KEYS);
    json_column(f, "sink_k", share, sizeof *share, SINK_KEYS);
}

static void json_findings(FILE *f, Bytes *said)
{
    fputs(",\n\"findings\":[", f);
    json_sentences(f, said);
    fputc(']', f);
}

static void json_summary(FILE *f, const Reading *r)
{
    fprintf(f, ",\n\"summary\":{\"n_heads\":%d", r->n_heads);
    JSON_FIELDS(
        f, {"n_top", r->n_top}, {"n_strong", r->n_strong}, {"n_candidates", r->n_candidates},
        {"n_candidate_heads", r->n_candidate_heads}, {"n_not_finite", r->n_bad},
        {"n_pairs", r->n_pairs}, {"n_rows_not_finite", (double)r->n_bad_rows},
        {"n_heads_not_finite", r->n_bad_heads}, {"alpha_queries", r->whole_t},
        {"alpha_windows", (double)r->n_whole}, {"alpha_heads", r->n_alpha},
        {"share_of_partial_pairs", r->partial}, {"alpha_1", r->alpha},
        {"alpha_1_uniform", r->uniform}, {"alpha_1_t", r->alpha_t}, {"sink_1", r->sink},
        {"alpha_t", r->t}, {"n_samples", (double)r->n_samples}, {"top_first_k_over_mean_k", r->k0},
        {"top_phi_centre", r->centre}, {"radius_self_check", r->check},
        {"cap_self_check", r->capped}, {"n_sinks", r->n_sinks},
        {"n_sinks_elsewhere", r->n_elsewhere},
        {"sink_elsewhere", r->n_elsewhere ? r->elsewhere : NONE}, {"logit_heads", r->n_logit},
        {"logit_sink_partial", r->partial_logit.sink},
        {"logit_others_partial", r->partial_logit.others}, {"logit_sink_full", r->full_logit.sink},
        {"logit_others_full", r->full_logit.others},
        {"logit_ordinary_partial", r->partial_logit.ordinary},
        {"logit_ordinary_full", r->full_logit.ordinary});
    json_sink_means(f, r);
    fputs(",\n\"bounds\":[", f);
    for (int i = 0; i < N_BOUNDS; i++) {
        if (i) fputs(",\n", f);
        json_bound(f, r, i);
    }
    fputc(']', f);
    json_text(f, "bounds_note", BOUND_NOTE);
    json_text(f, "chance_note", CHANCE_NOTE);
    Bytes said = findings(r);
    json_findings(f, &said);
    fputc('}', f);
}

/* Rows of attention of the first tokens of window 0: the lower triangle, row by row. */
static void json_map(FILE *f, const Analysis *a, const Head *h, const char *why)
{
    const Sink *s = &a->sink[a->first_q[h->l] + h->h];
    int n = s->n_map * (s->n_map + 1) / 2;
    fprintf(f, "{\"layer\":%d,\"head\":%d,\"n\":%d", h->l, h->h, s->n_map);
    json_text(f, "why", why);
    fputs(",\"weights\":[", f);
    for (int i = 0; i < n; i++) fprintf(f, "%s%.4g", i ? "," : "", (double)s->map[i]);
    fputs("]}", f);
}

/* Maps of the heads that stand out, each once, with all that it stands out by. */
static void json_maps(FILE *f, const Reading *r)
{
    const struct {
        int head;
        const char *why;
        double (*score)(const Head *);
    } notable[] = {
        {r->sinkiest, "most attention on the first token", head_alpha},
        {r->best, "largest r_q r_k of a pair over the median pair of its head", top_ratio},
        {r->previous, "most attention on the token before", score_previous},
        {r->induction, "most attention on what followed earlier copies of the token",
         score_induction},
        {r->duplicate, "most attention on earlier copies of the token", score_duplicate}};
    enum { N = sizeof notable / sizeof *notable };
    fputs(",\n\"maps\":[", f);
    for (int i = 0, shown = 0; i < N; i++) {
        char why[512] = "";
        int h = notable[i].head, first = 1;
        for (int k = 0; k < i; k++) first &= notable[k].head != h;
        if (h < 0 || !first || !r->a->sink[h].n_map) continue;
        for (int k = i; k < N; k++)
            if (notable[k].head == h)
                snprintf(why + strlen(why), sizeof why - strlen(why), "%s%s (%.3g)",
                         k > i ? "; " : "", notable[k].why, notable[k].score(&r->head[h]));
        if (shown++) fputs(",\n", f);
        json_map(f, r->a, &r->head[h], why);
    }
    fputc(']', f);
}

void analysis_json(const Analysis *a, const Provenance *p, FILE *f)
{
    locale_t old = c_numbers();
    Reading r = reading_new(a, p);
    fputc('{', f);
    json_provenance(f, "ropescope.analysis/2", a->m, p);
    json_covered(f, a, p);
    json_options(f, &a->o);
    json_notes(f);
    fputc('}', f);
    json_tokens(f, p);
    json_summary(f, &r);
    fputs(",\n\"ropes\":[", f);
    for (int i = 0; i < a->m->n_ropes; i++) {
        if (i) fputs(",\n", f);
        json_rope(f, &a->m->rope[i], &a->axis[i]);
    }
    fputs("],\n\"layers\":[\n", f);
    for (int l = 0; l < a->m->n_layers; l++) {
        if (l) fputs(",\n", f);
        Reading layer = reading_layer(&r, l);
        json_layer(f, &layer, l);
    }
    fputc(']', f);
    json_maps(f, &r);
    fputs("}\n", f);
    reading_free(&r);
    restore_numbers(old);
}

/* ---------------------------------------------------------------- CSV and NumPy arrays */

/* A table being written: the first cell of a line has no comma before it. */
typedef struct {
    FILE *f;
    int n; /* cells of this line so far */
} Csv;

static void csv_next(Csv *c)
{
    if (c->n++) fputc(',', c->f);
}

static void csv_text(Csv *c, const char *s)
{
    csv_next(c);
    if (!s[strcspn(s, ",\"\r\n")]) {
        fputs(s, c->f);
        return;
    }
    fputc('"', c->f);
    for (; *s; s++) {
        if (*s == '"') fputc('"', c->f);
        fputc(*s, c->f);
    }
    fputc('"', c->f);
}

/* The digits of the JSON; nothing where it has null. */
static void csv_num(Csv *c, double v)
{
    csv_next(c);
    if (isfinite(v)) json_num(c->f, v);
}

static void csv_line(Csv *c)
{
    fputs("\r\n", c->f);
    c->n = 0;
}

/* What must not be lost when a table is passed on without the rest: which model and text, and what
 * was not as they would have it. free(notice.s). */
typedef struct {
    char model[26], text[13]; /* the first digits of the SHA-256; for a model q+k of the files */
    Bytes notice;
} CsvMade;

static CsvMade csv_made(const Reading *r)
{
    CsvMade m = {.model = ""};
    snprintf(m.model, sizeof m.model, "%.12s", r->p->model_sha256);
    snprintf(m.text, sizeof m.text, "%.12s", r->p->text_sha256);
    if (r->p->files)
        snprintf(m.model, sizeof m.model, "%.12s+%.12s", r->p->files->q_sha256,
                 r->p->files->k_sha256);
    say_made(r, &m.notice);
    for (size_t i = 0; i + 1 < m.notice.n; i++)
        if (!m.notice.s[i]) m.notice.s[i] = ' ';
    return m;
}

static void csv_made_cells(Csv *c, const CsvMade *m)
{
    csv_text(c, m->model);
    csv_text(c, m->text);
    csv_text(c, m->notice.n ? m->notice.s : "");
}

static void csv_pair(Csv *c, const Rope *r, const Head *h, int j)
{
    const Axis *ax = h->axis;
    const double at[] = {h->l,     h->h,          h->kh, j, ax->theta[j], TAU / ax->theta[j],
                         ax->x[j], ax->x[j] / TAU};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) csv_num(c, at[i]);
    csv_text(c, turn_class(ax->theta[j], ax->x[j]));
    csv_num(c, rope_hf_row(r, ax->a[j]));
    csv_num(c, rope_hf_row(r, ax->b[j]));
    csv_num(c, h->pair[j].strong);
    csv_num(c, h->pair[j].candidate);
    for (size_t i = 0; i < N_COLUMNS; i++) csv_num(c, column_at(&h->pair[j], i));
}

void analysis_csv(const Analysis *a, const Provenance *p, FILE *f)
{
    locale_t old = c_numbers();
    Reading r = reading_new(a, p);
    CsvMade made = csv_made(&r);
    Csv c = {.f = f, .n = 1};
    fputs("layer,head,kv_head,pair,theta,wavelength,x,cycles,class,hf_channel_a,hf_channel_b,"
          "strong,candidate",
          f);
    for (size_t i = 0; i < N_COLUMNS; i++) csv_text(&c, columns[i].name);
    fputs(",model,text,notice", f);
    csv_line(&c);
    for (int i = 0; i < r.n_heads; i++)
        for (int j = 0; j < r.head[i].axis->n; j++) {
            csv_pair(&c, &a->m->rope[a->m->layer[r.head[i].l].rope], &r.head[i], j);
            csv_made_cells(&c, &made);
            csv_line(&c);
        }
    free(made.notice.s);
    reading_free(&r);
    restore_numbers(old);
}

void analysis_csv_heads(const Analysis *a, const Provenance *p, FILE *f)
{
    locale_t old = c_numbers();
    Reading r = reading_new(a, p);
    CsvMade made = csv_made(&r);
    Csv c = {.f = f};
    for (int i = 0; i < r.n_heads; i++) {
        const Head *h = &r.head[i];
        Field v[HEAD_FIELDS];
        int n = head_fields(h, v);
        if (i == 0) {
            fputs("layer,head", f), c.n = 1;
            for (int k = 0; k < n; k++) csv_text(&c, v[k].key);
            fputs(",n_strong,n_candidates,model,text,notice", f);
            csv_line(&c);
        }
        csv_num(&c, h->l);
        csv_num(&c, h->h);
        for (int k = 0; k < n; k++) csv_num(&c, v[k].v);
        csv_num(&c, h->n_strong);
        csv_num(&c, h->n_candidates);
        csv_made_cells(&c, &made);
        csv_line(&c);
    }
    free(made.notice.s);
    reading_free(&r);
    restore_numbers(old);
}

/* Arrays on their way into a folder, and their descriptions into its manifest. */
typedef struct {
    const Reading *r;
    OutDir *dir;
    FILE *manifest;
    size_t L, H, P; /* H and P of the largest layer */
    double *v;      /* [L][H][P], or the beginning of it */
    int n;
    Err *e;
} Arrays;

static double *arrays_at(Arrays *w, int l, int h, int j)
{
    return &w->v[((size_t)l * w->H + (size_t)h) * w->P + (size_t)j];
}

static void arrays_clear(Arrays *w)
{
    for (size_t i = 0; i < w->L * w->H * w->P + w->L * (w->H + w->P); i++) w->v[i] = NONE;
}

/* Writes v under a name. axes: "lhp", "lh" or "lp". Files are named after the array; names that
 * differ in capitals alone must not meet on a disk that cannot tell them apart. */
static int arrays_put(Arrays *w, const char *name, const char *axes)
{
    static const char *const axis_name[] = {"layer", "head", "pair"};
    char file[96], sha[65], *data = NULL;
    size_t shape[3], n = 1, size = 0;
    int rank = (int)strlen(axes), capital = 0;
    for (int i = 0; i < rank; i++) {
        shape[i] = axes[i] == 'l' ? w->L : axes[i] == 'h' ? w->H : w->P;
        n *= shape[i];
    }
    for (const char *s = name; *s; s++) capital |= *s >= 'A' && *s <= 'Z';
    snprintf(file, sizeof file, "%s%s.npy", name, capital ? "_capital" : "");
    FILE *f = open_memstream(&data, &size);
    if (!f) die("out of memory");
    npy_header(f, "<f8", shape, rank);
    fwrite(w->v, sizeof *w->v, n, f);
    fclose(f);
    sha256_hex(data, size, sha);
    int rc = out_dir_file(w->dir, file, data, size, w->e);
    free(data);
    fprintf(w->manifest, "%s{\"name\":\"%s\",\"file\":\"%s\",\"dtype\":\"<f8\",\"shape\":[",
            w->n++ ? ",\n" : "", name, file);
    for (int i = 0; i < rank; i++) fprintf(w->manifest, "%s%zu", i ? "," : "", shape[i]);
    fputs("],\"axes\":[", w->manifest);
    for (int i = 0; i < rank; i++)
        fprintf(w->manifest, "%s\"%s\"", i ? "," : "",
                axis_name[axes[i] == 'l'   ? 0
                          : axes[i] == 'h' ? 1
                                           : 2]);
    fprintf(w->manifest, "],\"sha256\":\"%s\"}", sha);
    return rc;
}

/* One number per (layer, head, pair): column c, or the flags behind the columns. */
static int arrays_pairs(Arrays *w)
{
    static const char *const flag[] = {"strong", "candidate"};
    int rc = 0;
    for (size_t c = 0; !rc && c < N_COLUMNS + 2; c++) {
        arrays_clear(w);
        for (int i = 0; i < w->r->n_heads; i++) {
            const Head *h = &w->r->head[i];
            for (int j = 0; j < h->axis->n; j++) {
                const Pair *p = &h->pair[j];
                *arrays_at(w, h->l, h->h, j) = c < N_COLUMNS    ? column_at(p, c)
                                               : c == N_COLUMNS ? p->strong
                                                                : p->candidate;
            }
        }
        rc = arrays_put(w, c < N_COLUMNS ? columns[c].name : flag[c - N_COLUMNS], "lhp");
    }
    return rc;
}

static int arrays_heads(Arrays *w)
{
    int rc = 0, n = 1;
    for (int k = 0; !rc && k < n; k++) {
        const char *name = NULL;
        arrays_clear(w);
        for (int i = 0; i < w->r->n_heads; i++) {
            const Head *h = &w->r->head[i];
            Field v[HEAD_FIELDS];
            n = head_fields(h, v);
            name = v[k].key;
            w->v[(size_t)h->l * w->H + (size_t)h->h] = v[k].v;
        }
        if (name) rc = arrays_put(w, name, "lh");
    }
    return rc;
}

static int arrays_axes(Arrays *w)
{
    static const char *const name[] = {"theta", "x"};
    const Analysis *a = w->r->a;
    int rc = 0;
    for (int k = 0; !rc && k < 2; k++) {
        arrays_clear(w);
        for (size_t l = 0; l < w->L; l++) {
            const Axis *ax = &a->axis[a->m->layer[l].rope];
            const double *from = k ? ax->x : ax->theta;
            for (int j = 0; j < ax->n; j++) w->v[l * w->P + (size_t)j] = from[j];
        }
        rc = arrays_put(w, name[k], "lp");
    }
    return rc;
}

static void arrays_shape(Arrays *w)
{
    const Model *m = w->r->a->m;
    w->L = (size_t)m->n_layers;
    for (int l = 0; l < m->n_layers; l++) {
        size_t H = (size_t)m->layer[l].n_heads, P = (size_t)w->r->a->axis[m->layer[l].rope].n;
        if (H > w->H) w->H = H;
        if (P > w->P) w->P = P;
    }
    w->v = xcalloc(w->L * w->H * w->P + w->L * (w->H + w->P) + 1, sizeof *w->v);
}

int analysis_npy(const Analysis *a, const Provenance *p, OutDir *d, Err *e)
{
    locale_t old = c_numbers();
    Reading r = reading_new(a, p);
    Bytes notices = {0};
    char *text = NULL;
    size_t size = 0;
    Arrays w = {.r = &r, .dir = d, .manifest = open_memstream(&text, &size), .e = e};
    if (!w.manifest) die("out of memory");
    arrays_shape(&w);
    fputc('{', w.manifest);
    json_provenance(w.manifest, "ropescope.arrays/1", a->m, p);
    json_options(w.manifest, &a->o);
    fputs("},\n\"notices\":[", w.manifest);
    say_made(&r, &notices);
    json_sentences(w.manifest, &notices);
    fprintf(
        w.manifest,
        "],\n\"axes\":{\"layer\":%zu,\"head\":%zu,\"pair\":%zu},\n\"nan\":\"a statistic that is "
        "not finite, or a layer with fewer heads or pairs\",\n\"arrays\":[\n",
        w.L, w.H, w.P);
    int rc = arrays_pairs(&w) || arrays_heads(&w) || arrays_axes(&w);
    fputs("]}\n", w.manifest);
    fclose(w.manifest);
    if (!rc) rc = out_dir_file(d, "manifest.json", text, size, e);
    free(text), free(w.v);
    reading_free(&r);
    restore_numbers(old);
    return rc ? -1 : 0;
}

/* ---------------------------------------------------------------- bounds: the theory alone */

/* What follows from x = theta P alone for a pair; angles phi in radians. NaN: nothing is said. */
typedef struct {
    double gain;           /* T2: the mean over the distances is sinc(x/2) cos(phi + x/2) */
    double t2_lo, t2_hi;   /* T2: this mean is negative for phi between, mod 2 pi */
    double t3_lo, t3_hi;   /* T3: f <= 0 at every distance for phi in here */
    double best, worst;    /* T4: phi*, and the largest cos over its arc: -cos(x/2) */
    double fall_hi;        /* T5: f never rises for phi in [0, this] */
    double rise_hi;        /* T5: f never falls for phi in [pi, this] */
    double far_lo, far_hi; /* T6: f(P) >= f(0) for phi in here, mod 2 pi */
    double sign;           /* sign length at phi*, tokens: (3 pi/2 - phi) / theta */
    double sign_most;      /* the longest there is, at phi = pi/2: half a wavelength */
    double b1, b2, b3, b4; /* lower ends of phi, 0 at least, where the bound is asked */
} Theory;

static double lower_end(int bound, double x)
{
    const Bound *b = &bounds[bound];
    return bound_asks(b, x) ? fmax(0, b->lo + b->lo_x * x) : NONE;
}

/* T2, T4, T6 speak of 0 < x < 2 pi, T3 and T5 of 0 < x <= pi. Up to there phi* >= pi/2, so that
 * the offset has a sign to keep. */
static Theory theory_of(double theta, double x)
{
    int turns = theta > 0 && x > 0, partial = turns && x < TAU, half = turns && x <= PI;
    return (Theory){.gain = turns ? sinc(x / 2) : NONE,
                    .t2_lo = partial ? (PI - x) / 2 : NONE,
                    .t2_hi = partial ? (3 * PI - x) / 2 : NONE,
                    .t3_lo = half ? PI / 2 : NONE,
                    .t3_hi = half ? 3 * PI / 2 - x : NONE,
                    .best = partial ? PI - x / 2 : NONE,
                    .worst = partial ? -cos(x / 2) : NONE,
                    .fall_hi = half ? PI - x : NONE,
                    .rise_hi = half ? TAU - x : NONE,
                    .far_lo = partial ? PI - x / 2 : NONE,
                    .far_hi = partial ? TAU - x / 2 : NONE,
                    .sign = half ? (PI / 2 + x / 2) / theta : NONE,
                    .sign_most = turns ? PI / theta : NONE,
                    .b1 = lower_end(BOUND_B1, x),
                    .b2 = lower_end(BOUND_B2, x),
                    .b3 = lower_end(BOUND_B3, x),
                    .b4 = lower_end(BOUND_B4, x)};
}

static const struct {
    const char *name;
    size_t at;
} theory_columns[] = {
    {"gain", offsetof(Theory, gain)},
    {"t2_lo", offsetof(Theory, t2_lo)},
    {"t2_hi", offsetof(Theory, t2_hi)},
    {"t3_lo", offsetof(Theory, t3_lo)},
    {"t3_hi", offsetof(Theory, t3_hi)},
    {"best_phi", offsetof(Theory, best)},
    {"worst", offsetof(Theory, worst)},
    {"t5_fall_hi", offsetof(Theory, fall_hi)},
    {"t5_rise_hi", offsetof(Theory, rise_hi)},
    {"t6_lo", offsetof(Theory, far_lo)},
    {"t6_hi", offsetof(Theory, far_hi)},
    {"sign_length", offsetof(Theory, sign)},
    {"sign_length_most", offsetof(Theory, sign_most)},
    {"b1", offsetof(Theory, b1)},
    {"b2", offsetof(Theory, b2)},
    {"b3", offsetof(Theory, b3)},
    {"b4", offsetof(Theory, b4)},
};

static const char THEORY_NOTE[] =
    "f(delta) = r_q r_k cos(phi + theta delta), 0 <= delta <= P, phi in [0, 2 pi). T2: the mean of "
    "f over delta is negative iff t2_lo < phi < t2_hi (mod 2 pi). T3: f <= 0 at every delta iff "
    "t3_lo <= phi <= t3_hi. T4: best_phi = pi - x/2 has the least largest cos, worst = -cos(x/2): "
    "f <= -c r_q r_k at every delta is possible iff c <= -worst. "
    "T5: f never rises iff 0 <= phi <= t5_fall_hi, never falls iff pi <= phi <= t5_rise_hi. T6: "
    "f(P) >= f(0) iff t6_lo <= phi <= t6_hi (mod 2 pi). T7: with phi = best_phi a key k0 has a "
    "higher logit than keys of radius r_k at every delta if its radius is below r_k cos(x/2). "
    "sign_length: distance in tokens up to which f stays <= 0 at best_phi; sign_length_most: at "
    "phi = pi/2. b1 to b4: lower ends of phi. Angles in radians; null: the theorem says nothing.";

/* What other works say of the same frequencies. NaN: nothing, or not found. */
typedef struct {
    double oka;      /* j* = (d/2) log_b(P / x*), for frequencies base^(-2j/d) / factor */
    int oka_pair;    /* pair whose x is nearest to x* (in ratio), -1: none */
    double men_ctx;  /* first m with B(m) < 0: the largest context these frequencies support */
    double men_seen; /* looked at m = 1 .. this */
    double men_base; /* least base for the context P */
    double liu_ctx, liu_base, liu_depth; /* 2 pi base; P / arccos eps; the same for all layers */
} Related;

/* x* maximises the variance of cos over [0, x], 1/2 + sin(2x)/(4x) - (sin x / x)^2 (Oka et al.,
 * "Frequency Bands in RoPE", ICLR 2026). */
static const double OKA_X = 3.657210;

/* B(m) = sum_j cos(m theta_j) (Men et al., arXiv:2405.14591): the first m where it is negative of
 * 1 .. most, or (down) of most .. 1; 0: none. Pair j is a unit vector turned by theta_j from one m
 * to the next; every 256 steps it is set anew, so that rounding (1e-14) does not grow. */
static long find_negative(const double *theta, int n, long most, int down)
{
    double *c = xcalloc(4 * (size_t)n + 1, sizeof *c), *s = c + n, *dc = s + n, *ds = dc + n;
    long i = 0, m = 0;
    for (int j = 0; j < n; j++)
        dc[j] = cos(theta[j]), ds[j] = down ? -sin(theta[j]) : sin(theta[j]);
    for (; i < most; i++) {
        double sum = 0;
        m = down ? most - i : i + 1;
        for (int j = 0; j < n; j++) {
            int anew = i % 256 == 0;
            double a = anew ? cos((double)m * theta[j]) : c[j] * dc[j] - s[j] * ds[j];
            s[j] = anew ? sin((double)m * theta[j]) : s[j] * dc[j] + c[j] * ds[j];
            sum += c[j] = a;
        }
        if (sum < 0) break;
    }
    free(c);
    return i < most ? m : 0;
}

static void plain_theta(double *theta, int n, double base)
{
    for (int j = 0; j < n; j++) theta[j] = pow(base, -(double)j / n);
}

static double men_sum(const double *theta, int n, double m)
{
    double sum = 0;
    for (int j = 0; j < n; j++) sum += cos(m * theta[j]);
    return sum;
}

enum { MEN_WORK = 1 << 24 }; /* pairs times positions of one look at B(m) */

/* The least base b with B(m) >= 0 for m < n_ctx, n pairs of theta_j = b^(-j/n), to the step of
 * the search: bases rise by 0.05 % from 1. Most fall at one of the m that felled others before, the
 * rest not far below n_ctx, so that few are looked at whole. As b rises B dips below 0 again and
 * again, so a base above the least may fail. NaN: none below 1e12, or a context that is too long to
 * look at, or of one position, which asks nothing. */
static double men_base(int n, double n_ctx)
{
    enum { KEPT = 16 };
    long fell[KEPT] = {1}, most = (long)ceil(fmin(n_ctx, MEN_WORK)) - 1, last = 1;
    int n_fell = 1;
    double *theta, b = 1;
    if (!(n_ctx > 1 && n * n_ctx <= MEN_WORK)) return NONE;
    theta = xcalloc((size_t)n + 1, sizeof *theta);
    while (last && (b *= 1.0005) < 1e12) {
        int k = 0;
        plain_theta(theta, n, b);
        while (k < KEPT && !(fell[k] && men_sum(theta, n, (double)fell[k]) < 0)) k++;
        if (k < KEPT) continue;
        last = find_negative(theta, n, most, 1);
        fell[n_fell++ % KEPT] = last;
    }
    free(theta);
    return last ? NONE : b;
}

static int nearest_pair(const Axis *ax, double x)
{
    int best = -1;
    for (int j = 0; j < ax->n; j++)
        if (ax->x[j] > 0 && (best < 0 || fabs(log(ax->x[j] / x)) < fabs(log(ax->x[best] / x))))
            best = j;
    return best;
}

/* One encoding, and all that is said of it. */
typedef struct {
    const Model *m;
    const Rope *r;
    const Axis *ax;
    int i; /* number of the encoding */
    double eps;
    Related rel;
} Encoding;

/* Liu, arXiv:2602.10959: L < 2 pi base; base >= L / arccos(eps), over N layers
 * base >= L / arccos(eps^(1/N)). Men's least base and Liu's are those of plain frequencies. */
static Related related_of(const Encoding *y)
{
    const Axis *ax = y->ax;
    int n = ax->n_rotated, n_layers = y->m->n_layers;
    double base = y->r->p.base;
    Related s = {.oka = NONE, .men_ctx = NONE, .men_base = NONE, .liu_depth = NONE};
    s.oka_pair = nearest_pair(ax, OKA_X);
    if (!y->r->p.divisors && n && n == ax->n) s.oka = n * log(ax->x[0] / OKA_X) / log(base);
    if (n) {
        s.men_seen = floor(fmin(fmax(4 * ax->n_ctx, 65536), (double)MEN_WORK / ax->n));
        long first = find_negative(ax->theta, ax->n, (long)s.men_seen, 0);
        if (first) s.men_ctx = (double)first;
        s.men_base = men_base(ax->n, ax->n_ctx);
    }
    s.liu_ctx = TAU * base;
    s.liu_base = ax->n_ctx / acos(y->eps);
    if (n_layers) s.liu_depth = ax->n_ctx / acos(pow(y->eps, 1.0 / n_layers));
    return s;
}

static Encoding encoding_of(const Analysis *a, int i, double eps)
{
    Encoding y = {.m = a->m, .r = &a->m->rope[i], .ax = &a->axis[i], .i = i, .eps = eps};
    y.rel = related_of(&y);
    return y;
}

void list_runs(const char *marked, int n, char *s, size_t size)
{
    size_t at = 0;
    s[0] = 0;
    for (int i = 0, end; i < n; i = end + 1) {
        for (end = i; end < n && marked[end];) end++;
        if (end == i) continue;
        if (at + 40 > size) {
            snprintf(s + at, size - at, ", ...");
            return;
        }
        at += (size_t)snprintf(s + at, size - at, "%s%d", at ? ", " : "", i);
        if (end > i + 1) at += (size_t)snprintf(s + at, size - at, " .. %d", end - 1);
    }
}

/* The pairs that turn, by x or less: their number, and their list. */
static int list_within(const Axis *ax, double x, char *s, size_t size)
{
    char *marked = xcalloc((size_t)ax->n + 1, 1);
    int n = 0;
    for (int j = 0; j < ax->n; j++) n += marked[j] = ax->theta[j] > 0 && ax->x[j] <= x;
    list_runs(marked, ax->n, s, size);
    free(marked);
    return n;
}

/* The layers that use encoding i. */
static void list_layers(const Analysis *a, int i, char *s, size_t size)
{
    const Model *m = a->m;
    char *marked = xcalloc((size_t)m->n_layers + 1, 1);
    for (int l = 0; l < m->n_layers; l++) marked[l] = first_alike(a, m->layer[l].rope) == i;
    list_runs(marked, m->n_layers, s, size);
    free(marked);
}

static void say_offsets(const Axis *ax, Bytes *out)
{
    char within[256];
    int n = list_within(ax, TAU, within, sizeof within), slow = ax->n - 1;
    say(out,
        n ? "%d of %d pairs that turn make at most one turn over P = %.0f tokens (F1, x <= 2 pi): "
            "%s. There the mean over the distances can lie far from 0; past one turn its gain "
            "sinc(x/2) is below 0.22 in size (T2)."
          : "%d of %d pairs that turn make at most one turn over P = %.0f tokens (F1, x <= 2 "
            "pi)%s: past one turn the gain sinc(x/2) is below 0.22 in size (T2), so that no pair "
            "can carry much of an offset.",
        n, ax->n_rotated, ax->n_ctx, within);
    n = list_within(ax, PI, within, sizeof within);
    while (slow >= 0 && !(ax->theta[slow] > 0)) slow--;
    for (int j = 0; j < ax->n; j++)
        if (ax->theta[j] > 0 && ax->theta[j] < ax->theta[slow]) slow = j;
    if (n)
        say(out,
            "%d can stay negative at every distance (F2, x <= pi): %s. phi then lies in [pi/2, "
            "3 pi/2 - x] (T3), a room of pi - x: %.3f pi for the slowest, pair %d.",
            n, within, 1 - ax->x[slow] / PI, slow);
    else
        say(out, "None can stay negative at every distance (F2, x <= pi).");
    n = list_within(ax, nextafter(TAU, 0), within, sizeof within);
    say(out, "FoPE (arXiv:2412.17739) sets theta < 2 pi/P to 0: %s%s.", n ? "pairs " : "no pair",
        within);
}

static void say_oka(const Encoding *y, Bytes *out)
{
    const Related *s = &y->rel;
    char star[64] = "";
    if (s->oka_pair < 0) return;
    if (isfinite(s->oka)) snprintf(star, sizeof star, "j* = (d/2) log_b(P/x*) = %.2f; ", s->oka);
    say(out,
        "Oka et al. (ICLR 2026, \"Frequency Bands in RoPE\"): the logit varies most at x* = %.6f; "
        "%snearest is pair %d, x = %.3f.",
        OKA_X, star, s->oka_pair, y->ax->x[s->oka_pair]);
}

/* Two sentences: what these frequencies support, and what P would need. */
static void say_men(const Encoding *y, Bytes *out)
{
    const Related *s = &y->rel;
    const Axis *ax = y->ax;
    static const char who[] = "Men et al. (arXiv:2405.14591): B(m) = sum_j cos(m theta_j)";
    char least[96] = "there is none below 1e12";
    if (isfinite(s->men_ctx))
        say(out, "%s is first negative at m = %.0f: the longest context these frequencies support.",
            who, s->men_ctx);
    else
        say(out, "%s is nowhere negative up to m = %.0f.", who, s->men_seen);
    if (!(ax->n_ctx > 0)) return;
    if (isfinite(s->men_base)) snprintf(least, sizeof least, "it is %.4g", s->men_base);
    if (ax->n * ax->n_ctx > MEN_WORK)
        snprintf(least, sizeof least, "P is too long for the search made here");
    if (ax->n_ctx <= 1)
        snprintf(least, sizeof least, "any base will do, as no distance from 1 on is below P = %g",
                 ax->n_ctx);
    say(out,
        "The least base of %d plain pairs with B(m) >= 0 for all m < P (Men et al.): %s; the base "
        "here is %.4g. (Of bases above the least, some fail again.)",
        ax->n, least, y->r->p.base);
}

static const struct {
    const char *type;
    double base_most; /* 1 / machine epsilon */
} precisions[] = {{"float32", 0x1p23}, {"float16", 0x1p10}, {"bfloat16", 0x1p7}};

static void say_liu(const Encoding *y, Bytes *out)
{
    const Related *s = &y->rel;
    char depth[128] = "";
    int n = y->m->n_layers;
    if (isfinite(s->liu_depth))
        snprintf(depth, sizeof depth, ", over %d layer%s L / arccos(eps^(1/%d)) = %.4g", n,
                 plural((uint64_t)n), n, s->liu_depth);
    say(out,
        "Liu (arXiv:2602.10959), base %.4g: L < 2 pi base = %.4g; base >= L / arccos(eps) = "
        "%.4g%s (L = P, eps = %g); base < 1 / eps_machine = %.0f in float32.",
        y->r->p.base, s->liu_ctx, s->liu_base, depth, y->eps, precisions[0].base_most);
}

/* What is odd about the encoding, before anything is said of its pairs. */
static void say_oddities(const Encoding *y, Bytes *out)
{
    const Axis *ax = y->ax;
    double amplitude = y->r->amplitude;
    int n_fast = 0;
    for (int j = 0; j < ax->n; j++) n_fast += ax->theta[j] > PI;
    if (y->r->p.head_dim > y->r->p.n_rot)
        say(out, "%d of the %d values of a head belong to rotary pairs, the others do not turn.",
            y->r->p.n_rot, y->r->p.head_dim);
    if (ax->n_rotated < ax->n)
        say(out, "%d of %d pairs do not turn (theta = 0): no bound speaks of them.",
            ax->n - ax->n_rotated, ax->n);
    if (n_fast)
        say(out,
            "%d pair%s by more than pi from one token to the next: over whole distances %s "
            "slower than theta says (aliasing).",
            n_fast, n_fast == 1 ? " turns" : "s turn", n_fast == 1 ? "it looks" : "they look");
    if (amplitude > 1 || amplitude < 1)
        say(out,
            "The encoding lengthens queries and keys by %.4g, so the logits of its pairs by %.4g; "
            "angles and signs stay.",
            amplitude, amplitude * amplitude);
    const char *besides = y->r->kind ? beyond_angles(y->r->kind) : NULL;
    if (besides)
        say(out, "This encoding %s: what follows speaks of its frequencies alone.", besides);
}

/* Sentences on one encoding. */
static void say_theory(const Encoding *y, Bytes *out)
{
    say_oddities(y, out);
    if (y->ax->uneven) {
        say(out, y->ax->uneven == ROPE_HEADS
                     ? "Theta differs between key heads: there is no one table of bounds. (analyze "
                       "places each head by its own.)"
                     : "Angles depend on what was read: no pair has a theta, and no bound speaks "
                       "of it.");
        return;
    }
    if (!y->ax->n_rotated) {
        say(out, "No pair turns: there is no rotary feature, and no bound to state.");
        return;
    }
    if (y->ax->n_ctx > 0)
        say_offsets(y->ax, out);
    else
        say(out, "The trained context P is unknown, so no pair can be placed by its cycles "
                 "(--train-ctx P gives it).");
    say_oka(y, out);
    say_men(y, out);
    if (y->ax->n_ctx > 0) say_liu(y, out);
}

/* ---- biases, straight from the weights */

/* One pair of a bias vector, or of the product of two: radius and angle. */
typedef struct {
    int l, h, j;
    double r, dir, x;
} BiasPair;

enum { BIAS_Q, BIAS_K, BIAS_QK };

static int has_bias(const Model *m, const Layer *y, int which)
{
    if (is_mixed(m, y)) return 0;
    return (which == BIAS_K || y->bq) && (which == BIAS_Q || y->bk);
}

/* z = a + ib of pair j of head h, whose bias is [D], before rotation. */
static BiasPair bias_pair(const Model *m, int l, int h, int j, const float *bias)
{
    const Rope *r = &m->rope[m->layer[l].rope];
    double za = (double)bias[rope_row(r, 2 * j)], zb = (double)bias[rope_row(r, 2 * j + 1)];
    return (BiasPair){l, h, j, sqrt(za * za + zb * zb), atan2(zb, za), NONE};
}

/* Of queries or keys the pair itself; of both: r_q r_k and phi = arg b_q - arg b_k. */
static BiasPair bias_read(const Model *m, int l, int h, int j, int which)
{
    const Layer *y = &m->layer[l];
    int kh = which == BIAS_K ? h : h / (y->n_heads / y->n_kv_heads);
    if (which == BIAS_K) return bias_pair(m, l, h, j, y->bk + (size_t)kh * (size_t)m->head_dim);
    BiasPair q = bias_pair(m, l, h, j, query_bias(m, y, h));
    if (which == BIAS_Q) return q;
    BiasPair k = bias_pair(m, l, kh, j, y->bk + (size_t)kh * (size_t)m->head_dim);
    q.r *= k.r;
    q.dir = wrap_2pi(q.dir - k.dir);
    return q;
}

static int by_radius(const void *a, const void *b) /* falling; NaN last; then in reading order */
{
    const BiasPair *p = a, *q = b;
    int c = by_value(&q->r, &p->r);
    if (isnan(p->r) || isnan(q->r)) c = -c;
    if (c) return c;
    return p->l != q->l ? p->l - q->l : p->h != q->h ? p->h - q->h : p->j - q->j;
}

/* All pairs of all layers that have such biases, the longest first; the caller frees. */
static BiasPair *bias_pairs(const Model *m, const Axis *axis, int which, size_t *n)
{
    BiasPair *v = NULL;
    *n = 0;
    for (int l = 0; l < m->n_layers; l++) {
        const Layer *y = &m->layer[l];
        const Axis *ax = &axis[y->rope];
        int n_heads = which == BIAS_K ? y->n_kv_heads : y->n_heads;
        if (!has_bias(m, y, which)) continue;
        v = xrealloc(v, *n + (size_t)n_heads * (size_t)ax->n + 1, sizeof *v);
        for (int h = 0; h < n_heads; h++)
            for (int j = 0; j < ax->n; j++) {
                v[*n] = bias_read(m, l, h, j, which);
                v[(*n)++].x = ax->x[j];
            }
    }
    if (*n) qsort(v, *n, sizeof *v, by_radius);
    return v;
}

static void print_biases(const Term *t, const Model *m, const Axis *axis, int which)
{
    static const char *const what[] = {"query biases: radius and angle",
                                       "key biases: radius and angle",
                                       "products of both: r_q r_k and phi"};
    enum { SHOWN = 8 };
    size_t n;
    BiasPair *v = bias_pairs(m, axis, which, &n);
    if (n)
        fprintf(t->f,
                "\n%sStrongest %s%s, before rotation, of %zu%s\n"
                "%s  layer  head  pair    radius   over median  angle/pi  x=theta P%s\n",
                t->bold, what[which], t->off, n, which == BIAS_QK ? "" : " (all: --json)", t->dim,
                t->off);
    double mid = n ? v[n / 2].r : NONE;
    for (size_t i = 0; i < n && i < SHOWN; i++) {
        fprintf(t->f, "  %5d %5d %5d", v[i].l, v[i].h, v[i].j);
        print_cell(t->f, 10, -4, v[i].r);
        print_cell(t->f, 14, 1, v[i].r / mid);
        print_cell(t->f, 10, 2, in_pi(v[i].dir));
        print_cell(t->f, 11, -4, v[i].x);
        fputc('\n', t->f);
    }
    free(v);
}

/* Biases are read as they are in the file. */
static void print_bias_note(const Term *t, const Model *m)
{
    for (int l = 0; l < m->n_layers; l++) {
        const Layer *y = &m->layer[l];
        if ((!y->bq && !y->bk) || !settled_by(m, y)) continue;
        print_note(
            t,
            "These are the biases as they are added. Before it turns the sum of product and "
            "bias goes through the layer's %s, so that what is left of a bias depends on the "
            "token.",
            settled_by(m, y));
        return;
    }
}

static void json_bias_heads(FILE *f, const Model *m, int l, int which)
{
    const Layer *y = &m->layer[l];
    int n_heads = which == BIAS_K ? y->n_kv_heads : y->n_heads, n = m->rope[y->rope].n_pairs;
    BiasPair *v = xcalloc((size_t)n + 1, sizeof *v);
    fprintf(f, ",\n\"%s\":", which == BIAS_K ? "k" : "q");
    fputs(has_bias(m, y, which) ? "[" : "null", f);
    for (int h = 0; has_bias(m, y, which) && h < n_heads; h++) {
        for (int j = 0; j < n; j++) v[j] = bias_read(m, l, h, j, which);
        fprintf(f, "%s{\"head\":%d", h ? ",\n" : "", h);
        json_column(f, "radius", &v->r, sizeof *v, n);
        json_column(f, "angle", &v->dir, sizeof *v, n);
        fputc('}', f);
    }
    if (has_bias(m, y, which)) fputc(']', f);
    free(v);
}

/* "biases": one object for each layer that has some; null if none has. */
static void json_biases(FILE *f, const Model *m)
{
    int n = 0;
    fputs(",\n\"biases\":", f);
    for (int l = 0; l < m->n_layers; l++) {
        if (!m->layer[l].bq && !m->layer[l].bk) continue;
        fprintf(f, "%s\n{\"layer\":%d", n++ ? "," : "[", l);
        json_text(f, "then", settled_by(m, &m->layer[l]));
        json_bias_heads(f, m, l, BIAS_Q);
        json_bias_heads(f, m, l, BIAS_K);
        fputc('}', f);
    }
    fputs(n ? "]" : "null", f);
}

/* ---- caps, from the weights of norms or from a clamp */

static int has_caps(const Model *m)
{
    for (int l = 0; l < m->n_layers; l++) {
        Cap c = cap_of(m, l, 0, 0);
        if (c.w || c.clamp > 0) return 1;
    }
    return 0;
}

/* The largest length of a query or key head of layer l, and the range of the caps of its pairs. */
static double layer_cap(const Model *m, int l, int is_key, double *lo, double *hi)
{
    const Layer *y = &m->layer[l];
    double longest = NONE;
    *lo = *hi = NONE;
    for (int h = 0; h < (is_key ? y->n_kv_heads : y->n_heads); h++) {
        Cap c = cap_of(m, l, h, is_key);
        longest = fmax(longest, head_cap(c, m->head_dim));
        for (int j = 0; j < m->rope[y->rope].n_pairs; j++) {
            *lo = fmin(*lo, pair_cap(c, j));
            *hi = fmax(*hi, pair_cap(c, j));
        }
    }
    return longest;
}

/* The largest scaled logit there can be, before a soft cap: scale A^2 |q| |k| at most. */
static double logit_cap(const Model *m, int l)
{
    const Rope *r = &m->rope[m->layer[l].rope];
    double lo, hi, q = layer_cap(m, l, 0, &lo, &hi), k = layer_cap(m, l, 1, &lo, &hi);
    return keeps_radii(r->kind) ? (double)m->score_scale * r->amplitude * r->amplitude * q * k
                                : NONE;
}

static void print_caps(const Term *t, const Model *m)
{
    FILE *f = t->f;
    if (!has_caps(m)) return;
    fprintf(
        f,
        "\n%sLargest radii there can be%s, from the weights of the norms of queries and keys or "
        "their clamp (all pairs: --json)\n"
        "%s  layer  by             query pairs          |q|      key pairs            |k|   "
        "|logit|%s\n",
        t->bold, t->off, t->dim, t->off);
    for (int l = 0; l < m->n_layers; l++) {
        const char *by = settled_by(m, &m->layer[l]);
        fprintf(f, "  %5d  %-11s", l, by ? by : "-");
        for (int is_key = 0; is_key < 2; is_key++) {
            double lo, hi, most = layer_cap(m, l, is_key, &lo, &hi);
            print_cell(f, 9, -4, lo);
            fputs(isfinite(lo) ? " .." : "   ", f);
            print_cell(f, 8, -4, hi);
            print_cell(f, 9, -4, most);
        }
        print_cell(f, 10, -4, logit_cap(m, l));
        fputc('\n', f);
    }
    if (m->attn_cap > 0) print_note(t, "|logit| is before the soft cap of %.4g.", m->attn_cap);
}

static void json_cap_heads(FILE *f, const Model *m, int l, int is_key)
{
    const Layer *y = &m->layer[l];
    int P = m->rope[y->rope].n_pairs;
    double *cap = xcalloc((size_t)P + 1, sizeof *cap);
    fprintf(f, ",\n\"%s\":[", is_key ? "k" : "q");
    for (int h = 0; h < (is_key ? y->n_kv_heads : y->n_heads); h++) {
        Cap c = cap_of(m, l, h, is_key);
        for (int j = 0; j < P; j++) cap[j] = pair_cap(c, j);
        fprintf(f, "%s{\"head\":%d", h ? ",\n" : "", h);
        JSON_FIELDS(f, {"length", head_cap(c, m->head_dim)});
        json_column(f, "radius", cap, sizeof *cap, P);
        fputc('}', f);
    }
    fputc(']', f);
    free(cap);
}

/* "caps": of every layer; null if no layer has some. */
static void json_caps(FILE *f, const Model *m)
{
    fputs(",\n\"caps\":", f);
    if (!has_caps(m)) {
        fputs("null", f);
        return;
    }
    for (int l = 0; l < m->n_layers; l++) {
        fprintf(f, "%s\n{\"layer\":%d", l ? "," : "[", l);
        json_text(f, "by", settled_by(m, &m->layer[l]));
        JSON_FIELDS(f, {"logit", logit_cap(m, l)});
        json_cap_heads(f, m, l, 0);
        json_cap_heads(f, m, l, 1);
        fputc('}', f);
    }
    fputc(']', f);
}

/* ---- what bounds writes */

/* An analysis that has seen nothing and never will: the axes alone. */
static Analysis axes_new(const Model *m, const BoundsOptions *o)
{
    Analysis a = {.m = m, .o = {.n_ctx = o->n_ctx}};
    axes_init(&a);
    return a;
}

static void print_range(FILE *f, double lo, double hi)
{
    if (isfinite(lo))
        fprintf(f, " %5.2f..%4.2f", lo / PI, hi / PI);
    else
        fprintf(f, "%12s", "-");
}

static void print_theory(const Term *t, const Axis *ax)
{
    FILE *f = t->f;
    fprintf(f,
            "%s  pair      theta wavelength  theta P   cycles  class      gain   T2 phi/pi   "
            "T3 phi/pi   T4   worst     P_neg  B4/pi%s\n",
            t->dim, t->off);
    for (int j = 0; j < ax->n; j++) {
        Theory y = theory_of(ax->theta[j], ax->x[j]);
        fprintf(f, "%6d", j);
        print_cell(f, 11, -4, ax->theta[j]);
        print_cell(f, 11, -4, TAU / ax->theta[j]);
        print_cell(f, 9, -4, ax->x[j]);
        print_cell(f, 9, -3, ax->x[j] / TAU);
        fprintf(f, "  %-7s", turn_class(ax->theta[j], ax->x[j]));
        print_cell(f, 8, 3, y.gain);
        print_range(f, y.t2_lo, y.t2_hi);
        print_range(f, y.t3_lo, y.t3_hi);
        print_cell(f, 5, 2, y.best / PI);
        print_cell(f, 8, 3, y.worst);
        print_cell(f, 10, -4, y.sign);
        print_cell(f, 7, 2, y.b4 / PI);
        fputc('\n', f);
    }
}

static void print_encoding(const Term *t, const Analysis *a, int i, double eps)
{
    char layers[256];
    char *lines = NULL;
    size_t n = 0;
    Bytes said = {0};
    Encoding y = encoding_of(a, i, eps);
    Term to = gather_lines(t, &lines, &n);
    list_layers(a, i, layers, sizeof layers);
    fputc('\n', t->f);
    print_axis(to.f, a, i);
    if (y.r->kind) fprintf(to.f, "        %s (%s)\n", y.r->kind->formula, y.r->kind->source);
    if (*layers) fprintf(to.f, "        layers %s\n", layers);
    print_gathered(t, &to, &lines);
    fputc('\n', t->f);
    if (!y.ax->uneven) {
        print_theory(t, y.ax);
        fputc('\n', t->f);
    }
    say_theory(&y, &said);
    print_said(t, &said);
}

static void print_bounds_header(const Term *t, const Model *m, const Provenance *p)
{
    FILE *f = t->f;
    fprintf(f, "%sropescope %s%s: what theory says of rotary frequencies; no text was read\n\n",
            t->bold, ROPESCOPE_VERSION, t->off);
    if (p->model_path)
        fprintf(f, "model   %s: %s, %d layer%s\n", p->model_path, m->arch ? m->arch->name : "-",
                m->n_layers, plural((uint64_t)m->n_layers));
    else
        fputs("model   none: base, pairs and context as asked for\n", f);
    print_overrides(t, p);
    fputs(
        "gain    sinc(x/2): the mean over the distances is gain cos(phi + x/2)\n"
        "T2      this mean is negative for phi between (mod 2 pi); the lower end is B3\n"
        "T3      never positive, at any distance; the lower end is B1\n"
        "T4      best angle phi* = pi - x/2, in pi: this is B2; worst: the largest cos on its arc\n"
        "P_neg   distance up to which the offset keeps its sign at phi*, in tokens\n",
        f);
}

void bounds_print(const Model *m, const BoundsOptions *o, const Provenance *p, FILE *f,
                  const Screen *s)
{
    locale_t old = c_numbers();
    Term t = term_of(f, s);
    Analysis a = axes_new(m, o);
    char *lines = NULL;
    size_t n = 0;
    Term to = gather_lines(&t, &lines, &n);
    print_bounds_header(&to, m, p);
    print_gathered(&t, &to, &lines);
    for (int i = 0; i < m->n_ropes; i++)
        if (first_alike(&a, i) == i) print_encoding(&t, &a, i, o->eps);
    for (int which = BIAS_Q; which <= BIAS_QK; which++) print_biases(&t, m, a.axis, which);
    print_bias_note(&t, m);
    print_caps(&t, m);
    fputc('\n', f);
    print_note(&t, "%s", BOUND_NOTE);
    axes_free(a.axis, a.n_axes);
    restore_numbers(old);
}

static void json_related(FILE *f, const Encoding *y)
{
    const Axis *ax = y->ax;
    const Related *s = &y->rel;
    char which[256];
    double n_partial = list_within(ax, TAU, which, sizeof which);
    double n_half = list_within(ax, PI, which, sizeof which);
    fprintf(f, ",\n\"related\":{\"n_rotated\":%d", ax->n_rotated);
    JSON_FIELDS(f, {"n_partial", n_partial}, {"n_half", n_half}, {"oka_x", OKA_X},
                {"oka_j", s->oka}, {"oka_pair", s->oka_pair < 0 ? NONE : s->oka_pair},
                {"men_context", s->men_ctx}, {"men_looked_to", s->men_seen},
                {"men_least_base", s->men_base}, {"liu_eps", y->eps}, {"liu_context", s->liu_ctx},
                {"liu_base", s->liu_base}, {"liu_base_of_depth", s->liu_depth});
    for (size_t k = 0; k < sizeof precisions / sizeof *precisions; k++)
        fprintf(f, ",\"liu_base_most_%s\":%.0f", precisions[k].type, precisions[k].base_most);
    fputs(",\"fope_clips\":[", f);
    for (int j = 0, n = 0; j < ax->n; j++)
        if (ax->theta[j] > 0 && ax->x[j] < TAU) fprintf(f, "%s%d", n++ ? "," : "", j);
    fputs("]}", f);
}

/* First pair, in order, that turns by x or less; NaN: none. */
static double first_within(const Axis *ax, double x)
{
    for (int j = 0; j < ax->n; j++)
        if (ax->theta[j] > 0 && ax->x[j] <= x) return j;
    return NONE;
}

static void json_encoding(FILE *f, const Analysis *a, int i, double eps)
{
    const Axis *ax = &a->axis[i];
    Encoding y = encoding_of(a, i, eps);
    Theory *v = xcalloc((size_t)ax->n + 1, sizeof *v);
    Bytes said = {0};
    for (int j = 0; j < ax->n; j++) v[j] = theory_of(ax->theta[j], ax->x[j]);
    fputs("{\"layers\":[", f);
    for (int l = 0, n = 0; l < a->m->n_layers; l++)
        if (a->m->layer[l].rope == i) fprintf(f, "%s%d", n++ ? "," : "", l);
    fputs("],\n\"rope\":", f);
    json_rope(f, y.r, ax);
    JSON_FIELDS(f, {"n_rot", y.r->p.n_rot}, {"head_dim", y.r->p.head_dim},
                {"first_partial", first_within(ax, TAU)}, {"first_half", first_within(ax, PI)});
    for (size_t c = 0; c < sizeof theory_columns / sizeof *theory_columns; c++)
        json_column(f, theory_columns[c].name, (const char *)v + theory_columns[c].at, sizeof *v,
                    ax->n);
    json_related(f, &y);
    say_theory(&y, &said);
    json_findings(f, &said);
    fputc('}', f);
    free(v);
}

void bounds_json(const Model *m, const BoundsOptions *o, const Provenance *p, FILE *f)
{
    locale_t old = c_numbers();
    Analysis a = axes_new(m, o);
    fprintf(f, "{\"schema\":\"ropescope.bounds/1\",\n\"provenance\":{\"version\":\"%s\"",
            ROPESCOPE_VERSION);
    json_text(f, "model", p->model_path);
    json_text(f, "model_sha256", p->model_sha256);
    json_text(f, "architecture", m->arch ? m->arch->name : NULL);
    json_text(f, "rope_override", p->rope_override);
    JSON_FIELDS(f, {"model_bytes", (double)p->model_bytes}, {"n_layers", m->n_layers},
                {"n_ctx_train", m->n_ctx_train}, {"asked_n_ctx", o->n_ctx > 0 ? o->n_ctx : NONE});
    fputc('}', f);
    json_text(f, "convention", THEORY_NOTE);
    json_text(f, "bounds_note", BOUND_NOTE);
    fputs(",\n\"encodings\":[", f);
    for (int i = 0; i < m->n_ropes; i++) {
        if (i) fputs(",\n", f);
        json_encoding(f, &a, i, o->eps);
    }
    fputc(']', f);
    json_biases(f, m);
    json_caps(f, m);
    fputs("}\n", f);
    axes_free(a.axis, a.n_axes);
    restore_numbers(old);
}

/* ---------------------------------------------------------------- check */

static const char JUDGED_NOTE[] =
    "Judged unless --bounds says otherwise: F1, B1 and B3, each necessary for what an offset "
    "feature is held to do: turn at most once, never be positive (lower end of T3), have a "
    "negative mean (lower end of T2). T3 asks the far end of the context as well, which few "
    "distances reach; F2 and B4 ask more; B2 is the centre about which angles scatter, not a "
    "floor.";

/* Bit i is bound i of the table; 0: no such list. */
static unsigned bounds_named(const char *list)
{
    unsigned named = 0;
    if (strcmp(list, "all") == 0) return (1u << N_BOUNDS) - 1;
    for (const char *s = list; *s;) {
        size_t n = strcspn(s, ",");
        int i = 0;
        while (i < N_BOUNDS && !(strlen(bounds[i].id) == n && !memcmp(bounds[i].id, s, n))) i++;
        if (i == N_BOUNDS) return 0;
        named |= 1u << i;
        s += n;
        if (*s == ',' && !*++s) return 0;
    }
    return named;
}

int check_options(CheckOptions *c, const char *list, double tolerance, Err *e)
{
    *c = (CheckOptions){.judged = bounds_named(list ? list : "F1,B1,B3"), .tolerance = tolerance};
    if (c->judged) return 0;
    return err_usage(
        e,
        "--bounds %s: expected names of F1, F2, T3, B1, B2, B3, B4 with commas between, or "
        "all",
        list);
}

static int is_judged(const CheckOptions *c, int bound)
{
    return c->judged >> bound & 1;
}

enum { HOLDS, FAILS, UNASKED };

/* A judged bound holds if no larger a share of its strong pairs misses it than is tolerated. */
static int judge(const CheckOptions *c, Rate s)
{
    if (!s.of) return UNASKED;
    return s.of - s.hits > c->tolerance * s.of ? FAILS : HOLDS;
}

/* By how much a pair misses a bound that it is asked: radians of x beyond a frequency bound, or the
 * least turn of phi that would satisfy the bound. Without an upper end (hi = 2 pi) only a turn
 * upwards counts. */
static double bound_miss(const Bound *b, double x, double phi)
{
    double lo = b->lo + b->lo_x * x, hi = b->hi + b->hi_x * x;
    if (bound_of_x(b)) return x - b->x_most;
    double up = wrap_2pi(lo - phi), down = hi < TAU ? wrap_2pi(phi - hi) : ENDLESS;
    return fmin(up, down);
}

/* Nothing can be judged of few tokens, nor if the observation itself is at fault. */
static int can_judge(const Reading *r)
{
    return counted_tokens(r) >= FEW && !r->n_bad && !r->n_bad_heads && !(r->check > 1e-4) &&
           !(r->capped > 1 + CAP_SLACK);
}

/* How many judged bounds hold, fail, or are asked of no strong pair: n[HOLDS .. UNASKED]. */
static void count_judged(const Reading *r, const CheckOptions *c, int n[3])
{
    memset(n, 0, 3 * sizeof *n);
    for (int i = 0; i < N_BOUNDS; i++)
        if (is_judged(c, i)) n[judge(c, r->strong_rate[i])]++;
}

static int check_status(const Reading *r, const CheckOptions *c)
{
    int n[3];
    count_judged(r, c, n);
    if (!can_judge(r) || n[HOLDS] + n[FAILS] == 0) return CHECK_NOTHING;
    return n[FAILS] ? CHECK_EXCEPTIONS : CHECK_HOLDS;
}

static const char *judged_as(const Reading *r, const CheckOptions *c, int i)
{
    static const char *const words[] = {"holds", "beyond tolerance", "not asked"};
    return is_judged(c, i) ? words[judge(c, r->strong_rate[i])] : "not judged";
}

static void say_judged(const CheckOptions *c, int i, Rate s, Bytes *out)
{
    const Bound *b = &bounds[i];
    const char *with = bound_of_x(b) ? "" : " with ", *scope = bound_of_x(b) ? "" : bound_scope(b);
    char words[VERDICT];
    int n_miss = s.of - s.hits;
    if (!s.of)
        say(out, "%s (%s) was asked of nothing: there is no strong pair%s%s.", b->id, b->formula,
            with, scope);
    else
        say(out,
            "%s (%s: %s) has %d exception%s among %d strong pair%s%s%s: %.1f%%, %s the tolerance "
            "of %g%%. It holds for %.1f%%, by chance for %.1f%%: %s.",
            b->id, b->formula, b->meaning, n_miss, plural((uint64_t)n_miss), s.of,
            plural((uint64_t)s.of), with, scope, percent_of((double)n_miss / s.of, 0.1),
            judge(c, s) == FAILS ? "beyond" : "within", 100 * c->tolerance, percent(s),
            percent_chance(s), verdict(i, s, words));
}

/* The sentence that the exit status stands for. */
static void say_outcome(const Reading *r, const CheckOptions *c, Bytes *out)
{
    int n[3];
    count_judged(r, c, n);
    int asked = n[HOLDS] + n[FAILS];
    if (check_status(r, c) == CHECK_NOTHING)
        say(out, "Nothing was judged: %s.",
            counted_tokens(r) < FEW ? "too few tokens are counted"
            : !can_judge(r)         ? "the observation itself is at fault"
                                    : "no judged bound was asked of any strong pair");
    else if (n[FAILS])
        say(out,
            "%d of %d judged bound%s that could be asked ha%s more exceptions than the "
            "tolerance allows.",
            n[FAILS], asked, plural((uint64_t)asked), n[FAILS] == 1 ? "s" : "ve");
    else
        say(out,
            asked == 1 ? "The one judged bound that could be asked holds."
                       : "All %d judged bounds that could be asked hold.",
            asked);
}

static Bytes check_findings(const Reading *r, const CheckOptions *c)
{
    Bytes out = {0};
    say_made(r, &out);
    say_faults(r, &out);
    say_attention(r, &out);
    for (int i = 0; i < N_BOUNDS && can_judge(r); i++)
        if (is_judged(c, i)) say_judged(c, i, r->strong_rate[i], &out);
    if (r->n_heads && !(r->head->axis->n_ctx > 0))
        say(&out, "The trained context is unknown, so no pair can be placed by its cycles.");
    say_outcome(r, c, &out);
    return out;
}

/* One line for each strong pair that bound i is asked of and misses. */
static void print_exceptions(const Term *t, const Reading *r, int i)
{
    const Bound *b = &bounds[i];
    FILE *f = t->f;
    int n = 0;
    for (int k = 0, j = 0; next_exception(r, b, &k, &j); j++) {
        const Head *h = &r->head[k];
        double x = h->axis->x[j];
        if (!n++)
            fprintf(f,
                    "\n%sExceptions of %s, %s%s (%s)\n%s  layer  head  pair  x=theta P   cycles  "
                    "phi/pi  misses by/pi  r_q r_k x median%s\n",
                    t->bold, b->id, b->formula, t->off, b->meaning, t->dim, t->off);
        fprintf(f, "  %5d %5d %5d", h->l, h->h, j);
        print_cell(f, 11, -4, x);
        print_cell(f, 9, -3, x / TAU);
        print_cell(f, 8, 2, in_pi(h->pair[j].phi));
        print_cell(f, 14, 3, bound_miss(b, x, h->pair[j].phi) / PI);
        print_cell(f, 18, 1, h->pair[j].ratio);
        fputc('\n', f);
    }
}

static void print_judged(const Term *t, const Reading *r, const CheckOptions *c)
{
    fprintf(t->f,
            "\n%sPredictions%s                     asked of           strong pairs  chance   "
            "exceptions\n",
            t->bold, t->off);
    for (int i = 0; i < N_BOUNDS; i++) {
        const Bound *b = &bounds[i];
        Rate s = r->strong_rate[i];
        fprintf(t->f, "  %s  %-26s  %-9s", b->id, b->formula, bound_scope(b));
        print_rate(t->f, s);
        print_cell(t->f, 12, 0, s.of ? s.of - s.hits : NONE);
        fprintf(t->f, "  %s%s%s\n", is_judged(c, i) ? t->bold : t->dim, judged_as(r, c, i), t->off);
    }
    fputs(t->dim, t->f);
    print_wrapped(t, JUDGED_NOTE);
    print_wrapped(t, CHANCE_NOTE);
    print_wrapped(t, BOUND_NOTE);
    fputs(t->off, t->f);
}

int check_print(const Analysis *a, const Provenance *p, const CheckOptions *c, FILE *f,
                const Screen *s)
{
    locale_t old = c_numbers();
    Term t = term_of(f, s);
    Reading r = reading_new(a, p);
    int status = check_status(&r, c);
    Bytes said = check_findings(&r, c);
    print_header(&t, a, p);
    fprintf(f, "judged ");
    for (int i = 0; i < N_BOUNDS; i++)
        if (is_judged(c, i)) fprintf(f, " %s", bounds[i].id);
    fprintf(f, "; tolerance: %g%% of the strong pairs asked\n", 100 * c->tolerance);
    for (int i = 0; i < N_BOUNDS; i++)
        if (is_judged(c, i)) print_exceptions(&t, &r, i);
    print_judged(&t, &r, c);
    fprintf(f, "\n%sWhat was found%s\n", t.bold, t.off);
    print_said(&t, &said);
    reading_free(&r);
    restore_numbers(old);
    return status;
}

static void json_exceptions(FILE *f, const Reading *r, int i)
{
    const Bound *b = &bounds[i];
    fputs(",\"exceptions\":[", f);
    for (int n = 0, k = 0, j = 0; next_exception(r, b, &k, &j); j++) {
        const Head *h = &r->head[k];
        const Pair *p = &h->pair[j];
        fprintf(f, "%s\n{\"layer\":%d", n++ ? "," : "", h->l);
        JSON_FIELDS(f, {"head", h->h}, {"pair", j}, {"x", h->axis->x[j]}, {"phi", p->phi},
                    {"miss", bound_miss(b, h->axis->x[j], p->phi)}, {"gain", p->gain},
                    {"ratio", p->ratio}, {"top", h->top == j});
        fputc('}', f);
    }
    fputs("]}", f);
}

static void json_judged(FILE *f, const Reading *r, const CheckOptions *c, int i)
{
    const Bound *b = &bounds[i];
    Rate s = r->strong_rate[i], top = r->top_rate[i];
    fprintf(f, "%s\n{\"id\":\"%s\"", i ? "," : "", b->id);
    json_text(f, "formula", b->formula);
    json_text(f, "meaning", b->meaning);
    json_text(f, "asked_of", bound_scope(b));
    json_text(f, "verdict", judged_as(r, c, i));
    JSON_FIELDS(f, {"judged", is_judged(c, i)}, {"hits", s.hits}, {"of", s.of},
                {"chance", s.chance / s.of},
                {"share_of_exceptions", (s.of - s.hits) / (double)s.of},
                {"beyond_chance", s.of ? beyond_chance(s) : NONE}, {"top_hits", top.hits},
                {"top_of", top.of}, {"top_chance", top.chance / top.of});
    json_exceptions(f, r, i);
}

int check_json(const Analysis *a, const Provenance *p, const CheckOptions *c, FILE *f)
{
    static const char *const outcome[] = {"holds", "exceptions", "nothing judged"};
    locale_t old = c_numbers();
    Reading r = reading_new(a, p);
    int status = check_status(&r, c);
    Bytes said = check_findings(&r, c);
    fputc('{', f);
    json_provenance(f, "ropescope.check/1", a->m, p);
    json_options(f, &a->o);
    fprintf(f, "},\n\"outcome\":\"%s\"", outcome[status]);
    JSON_FIELDS(f, {"exit_status", status}, {"tolerance", c->tolerance},
                {"n_tokens_counted", (double)counted_tokens(&r)}, {"n_strong", r.n_strong},
                {"radius_self_check", r.check}, {"cap_self_check", r.capped});
    json_text(f, "judged_note", JUDGED_NOTE);
    json_text(f, "chance_note", CHANCE_NOTE);
    json_text(f, "bounds_note", BOUND_NOTE);
    fputs(",\n\"bounds\":[", f);
    for (int i = 0; i < N_BOUNDS; i++) json_judged(f, &r, c, i);
    fputc(']', f);
    json_findings(f, &said);
    fputs("}\n", f);
    reading_free(&r);
    restore_numbers(old);
    return status;
}

/* ---------------------------------------------------------------- explaining one logit
 * Query i and key j of one head, taken apart: what the pairs were, how far each was turned, what
 * each adds to the score, and what softmax makes of it. All values of q and k are the floats of
 * the run, at three places: before they turn, after, and (keys) as the query met them. What follows
 * from them is computed in double, so that only the run's own rounding is left to explain.
 * Nothing here knows a kind: what a hook has changed is seen in the values. */

/* One pair. Every member is a double; those from q_a to k_b_met hold floats. */
typedef struct {
    double theta, wavelength, x;           /* x = theta P; NaN where the turn is not p theta */
    double q_a, q_b, k_a, k_b;             /* what is turned: after the kind's mix, if it has one */
    double q_a_after, q_b_after;           /* after rotation */
    double k_a_after, k_b_after;           /* the same */
    double k_a_met, k_b_met;               /* as the query met it */
    double r_q, r_k, phi;                  /* of what is turned; phi = arg q - arg k in [0, 2 pi) */
    double angle_q, angle_k, angle_apart;  /* p theta of both, and of p_q - p_k, in [0, 2 pi) */
    double turn_q, turn_k, gain_q, gain_k; /* seen in the values: angle and growth of the radius */
    double product_a, product_b, part;     /* of the score, before its scale; part: their sum */
    double part_by_angles;                 /* A^2 s r_q r_k cos(phi + (p_q - p_k) theta), or NaN */
} PairPart;

/* The score, put together again. */
typedef struct {
    double pairs, not_rotated, dot;     /* sums of products; dot: of both */
    double made, change;                /* of dot: with the key as it was made, and the rest */
    double scale, scaled, bias, sum;    /* sum = capped + bias */
    double cap, capped;                 /* cap tanh(scaled / cap); without a cap NaN, and scaled */
    double engine, difference, allowed; /* engine: the score of the run, in float */
    double by_angles;                   /* largest |part - part_by_angles|, or NaN */
    int adds_up;
} ScoreSum;

typedef struct {
    double max, sum, e, weight; /* weight = e / sum, e = exp(score - max) */
    double engine;              /* the weight of the run, in float */
    double first;               /* weight of token 0, NaN if it is out of sight */
    int max_key;
} Softmax;

struct Explain {
    const Model *m;
    const Layer *ly;
    const Rope *rope;
    Logit at;
    int kh, D, P;
    float *q[2], *k[2], *met; /* [D] BEFORE_ROPE, AFTER_ROPE; and the key as the query met it */
    float *score, *weight;    /* [n_t] */
    int t0, n_t;
    double place_q, place_k, amplitude, q_scale, n_ctx; /* n_ctx: P of x = theta P */
    int known;                                          /* pairs turn by p theta */
    int formula;    /* and nothing changed the key since: part_by_angles is the part */
    PairPart *pair; /* [P] */
    ScoreSum s;
    Softmax row;
    const char *const *text; /* [query + 1] */
    const int *id;
    Probe probe;
};

static int from_end(int pos, int n)
{
    return pos < 0 ? pos + n : pos;
}

int logit_resolve(const Model *m, int n_tokens, Logit *at, Err *e)
{
    int query = from_end(at->query, n_tokens), key = from_end(at->key, n_tokens);
    if (at->l < 0 || at->l >= m->n_layers)
        return err_usage(e, "--layer %d: the model has %d layer%s, 0 to %d", at->l, m->n_layers,
                         plural((uint64_t)m->n_layers), m->n_layers - 1);
    const Layer *ly = &m->layer[at->l];
    int P = m->rope[ly->rope].n_pairs, t0;
    if (at->h < 0 || at->h >= ly->n_heads)
        return err_usage(e, "--head %d: layer %d has %d query head%s, 0 to %d", at->h, at->l,
                         ly->n_heads, plural((uint64_t)ly->n_heads), ly->n_heads - 1);
    if (query < 0 || query >= n_tokens || key < 0 || key >= n_tokens)
        return err_usage(e,
                         "--%s %d: %d token%s can be read, 0 to %d; negative numbers count from "
                         "the end",
                         query < 0 || query >= n_tokens ? "query" : "key",
                         query < 0 || query >= n_tokens ? at->query : at->key, n_tokens,
                         plural((uint64_t)n_tokens), n_tokens - 1);
    if (key > query)
        return err_usage(e, "--key %d comes after --query %d: a query sees keys up to itself", key,
                         query);
    t0 = ly->window && query >= ly->window ? query - ly->window + 1 : 0;
    if (key < t0)
        return err_usage(e,
                         "--key %d: layer %d looks back through a window of %d tokens; the query "
                         "at %d sees keys %d to %d",
                         key, at->l, ly->window, query, t0, query);
    if (at->pair >= P && P)
        return err_usage(e, "--pair %d: this layer rotates %d pair%s, 0 to %d", at->pair, P,
                         plural((uint64_t)P), P - 1);
    if (at->pair >= 0 && !P)
        return err_usage(e, "--pair %d: this layer rotates no values", at->pair);
    at->query = query;
    at->key = key;
    return 0;
}

static void explain_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q,
                      size_t stride)
{
    Explain *x = ctx;
    int i = x->at.query - pos;
    if (l == x->at.l && h == x->at.h && i >= 0 && i < n)
        memcpy(x->q[stage], q + (size_t)i * stride, (size_t)x->D * sizeof *q);
}

static void explain_k(void *ctx, int l, int kh, int stage, int pos, int n, const float *k,
                      size_t stride)
{
    Explain *x = ctx;
    int i = x->at.key - pos;
    if (l == x->at.l && kh == x->kh && i >= 0 && i < n)
        memcpy(x->k[stage], k + (size_t)i * stride, (size_t)x->D * sizeof *k);
}

static void explain_row(void *ctx, const AttnRow *row)
{
    Explain *x = ctx;
    if (row->l != x->at.l || row->h != x->at.h || row->pos != x->at.query) return;
    x->t0 = row->t0;
    x->n_t = row->n_t;
    memcpy(x->score, row->scores, (size_t)row->n_t * sizeof *x->score);
    memcpy(x->weight, row->weights, (size_t)row->n_t * sizeof *x->weight);
}

Explain *explain_new(const Model *m, const Logit *at)
{
    Explain *x = xcalloc(1, sizeof *x);
    const Layer *ly = &m->layer[at->l];
    size_t D = (size_t)m->head_dim, T = (size_t)at->query + 1;
    *x = (Explain){.m = m, .ly = ly, .rope = &m->rope[ly->rope], .at = *at, .D = (int)D};
    x->P = x->rope->n_pairs;
    x->kh = at->h / (ly->n_heads / ly->n_kv_heads);
    for (int i = 0; i < 2; i++) {
        x->q[i] = xcalloc(D, sizeof(float));
        x->k[i] = xcalloc(D, sizeof(float));
    }
    x->met = xcalloc(D, sizeof(float));
    x->score = xcalloc(T, sizeof(float));
    x->weight = xcalloc(T, sizeof(float));
    x->pair = xcalloc((size_t)x->P + 1, sizeof *x->pair);
    x->probe = (Probe){PROBE_QK | PROBE_ATTN, x, explain_q, explain_k, explain_row, NULL};
    return x;
}

void explain_free(Explain *x)
{
    if (!x) return;
    for (int i = 0; i < 2; i++) free(x->q[i]), free(x->k[i]);
    free(x->met), free(x->score), free(x->weight), free(x->pair);
    free(x);
}

const Probe *explain_probe(const Explain *x)
{
    return &x->probe;
}

/* ---- from values to numbers */

/* v mod 2 pi, in [0, 2 pi). */
static double whole_turns_off(double v)
{
    double w = fmod(v, TAU);
    return w < 0 ? w + TAU : w;
}

/* By which angle, and by which factor, (a, b) became (c, d); NaN: it has no direction. */
static void seen_turn(double a, double b, double c, double d, double turn_gain[2])
{
    double r = hypot(a, b);
    turn_gain[0] = r > 0 && hypot(c, d) > 0 ? whole_turns_off(atan2(d, c) - atan2(b, a)) : NONE;
    turn_gain[1] = r > 0 ? hypot(c, d) / r : NONE;
}

/* What a part is multiplied by besides the turn: the amplitude twice, the factor of the query. */
static double factor_of(const Explain *x)
{
    return x->amplitude * x->amplitude * x->q_scale;
}

static PairPart pair_part(const Explain *x, int j, double theta)
{
    int a, b;
    double q[2], k[2], apart = x->place_q - x->place_k;
    rope_pair(x->rope, j, &a, &b);
    PairPart y = {.theta = x->known ? theta : NONE,
                  .q_a = (double)x->q[BEFORE_ROPE][a],
                  .q_b = (double)x->q[BEFORE_ROPE][b],
                  .k_a = (double)x->k[BEFORE_ROPE][a],
                  .k_b = (double)x->k[BEFORE_ROPE][b],
                  .q_a_after = (double)x->q[AFTER_ROPE][a],
                  .q_b_after = (double)x->q[AFTER_ROPE][b],
                  .k_a_after = (double)x->k[AFTER_ROPE][a],
                  .k_b_after = (double)x->k[AFTER_ROPE][b],
                  .k_a_met = (double)x->met[a],
                  .k_b_met = (double)x->met[b]};
    y.wavelength = TAU / y.theta;
    y.x = y.theta * x->n_ctx;
    y.r_q = hypot(y.q_a, y.q_b);
    y.r_k = hypot(y.k_a, y.k_b);
    y.phi = whole_turns_off(atan2(y.q_b, y.q_a) - atan2(y.k_b, y.k_a));
    y.angle_q = whole_turns_off(x->place_q * y.theta);
    y.angle_k = whole_turns_off(x->place_k * y.theta);
    y.angle_apart = whole_turns_off(apart * y.theta);
    seen_turn(y.q_a, y.q_b, y.q_a_after, y.q_b_after, q);
    seen_turn(y.k_a, y.k_b, y.k_a_after, y.k_b_after, k);
    y.turn_q = q[0], y.gain_q = q[1], y.turn_k = k[0], y.gain_k = k[1];
    y.product_a = y.q_a_after * y.k_a_met;
    y.product_b = y.q_b_after * y.k_b_met;
    y.part = y.product_a + y.product_b;
    y.part_by_angles =
        x->formula ? factor_of(x) * y.r_q * y.r_k * cos(y.phi + apart * theta) : NONE;
    return y;
}

/* What the run's rounding can make of the score: the D products go to 32 lanes of fused additions,
 * which meet in 5 stages (each at most u = 2^-24 of what is added up, sizes taken), then come the
 * scale, the cap (done in double, rounded once; it makes no error larger) and the bias, of two
 * terms at most, one rounding each, and those of the terms. */
static double rounding_of(const Explain *x, double sizes)
{
    double u = 0x1p-24, n = ceil(x->D / (double)LANES) + 5;
    const ScoreSum *s = &x->s;
    double capped = isnan(s->cap) ? 0 : fabs(s->capped);
    return s->scale * sizes * n * u / (1 - n * u) +
           1.01 * u * (2 * fabs(s->scaled) + capped + 2 * fabs(s->bias) + fabs(s->sum)) + 1e-37;
}

static void add_score(Explain *x, double bias)
{
    ScoreSum *s = &x->s;
    double sizes = 0;
    *s = (ScoreSum){.scale = (double)x->m->score_scale, .bias = bias};
    for (int c = 0; c < x->D; c++) {
        double q = (double)x->q[AFTER_ROPE][c], made = (double)x->k[AFTER_ROPE][c];
        s->made += q * made;
        s->change += q * ((double)x->met[c] - made);
        sizes += fabs(q * (double)x->met[c]);
        if (c >= 2 * x->P) s->not_rotated += q * (double)x->met[c];
    }
    for (int j = 0; j < x->P; j++) {
        s->pairs += x->pair[j].part;
        s->by_angles = fmax(s->by_angles, fabs(x->pair[j].part - x->pair[j].part_by_angles));
    }
    if (!x->formula || !x->P) s->by_angles = NONE;
    s->dot = s->pairs + s->not_rotated;
    s->scaled = s->dot * s->scale;
    s->cap = x->m->attn_cap > 0 ? x->m->attn_cap : NONE;
    s->capped = isnan(s->cap) ? s->scaled : s->cap * tanh(s->scaled / s->cap);
    s->sum = s->capped + s->bias;
    s->engine = (double)x->score[x->at.key - x->t0];
    s->difference = s->engine - s->sum;
    s->allowed = rounding_of(x, sizes);
    s->adds_up = fabs(s->difference) <= s->allowed;
}

static void add_softmax(Explain *x)
{
    Softmax *r = &x->row;
    int at = x->at.key - x->t0, most = 0;
    for (int t = 1; t < x->n_t; t++)
        if (x->score[t] > x->score[most]) most = t;
    *r = (Softmax){.max = (double)x->score[most], .max_key = x->t0 + most};
    for (int t = 0; t < x->n_t; t++) {
        r->sum += exp((double)x->score[t] - r->max);
    }
    r->e = exp((double)x->score[at] - r->max);
    r->weight = r->e / r->sum;
    r->engine = (double)x->weight[at];
    r->first = x->t0 == 0 ? (double)x->weight[0] : NONE;
}

void explain_end(Explain *x, const State *s, const int *id, const char *const *text)
{
    const Rope *r = x->rope;
    const RopeNow *now = &s->now[r - x->m->rope];
    const double *theta = now->inv_freq + (r->sets > 1 ? (size_t)x->kh * (size_t)x->P : 0);
    MUST(x->n_t == x->at.query - x->t0 + 1 && s->pos == x->at.query + 1);
    x->n_ctx = trained_context(r, x->m, 0);
    x->text = text;
    x->id = id;
    x->place_q = rope_position(r, x->at.query);
    x->place_k = rope_position(r, x->at.key);
    x->amplitude = now->amplitude;
    x->q_scale = r->kind->q_scale ? r->kind->q_scale(r, x->at.query) : 1;
    x->known = !r->kind->turn && !r->kind->angles;
    x->formula = x->known && !r->kind->update;
    state_key(s, x->at.l, x->kh, x->at.key, x->met);
    /* Where the table changes with the length, keys in the cache have been turned anew by it. */
    if (r->kind->length) memcpy(x->k[AFTER_ROPE], x->met, (size_t)x->D * sizeof(float));
    for (int j = 0; j < x->P; j++) x->pair[j] = pair_part(x, j, theta[j]);
    add_score(x, state_bias(s, x->at.l, x->at.h, x->at.key));
    add_softmax(x);
}

/* ---- the walk, on paper */

/* Decimals. Products of values as they are printed give the printed part, and products of printed
 * radii and cosines of printed angles too, within a unit of its last digit: the more the larger
 * the values are. */
typedef struct {
    int part, value, angle, score;
    int part_width, value_width; /* of columns */
} Decimals;

static int clamp_int(double v, int lo, int hi)
{
    return v > lo ? v < hi ? (int)v : hi : lo;
}

static Decimals decimals_of(const Explain *x)
{
    double part = 0, value = 0, radii = 0, by = fmax(1, factor_of(x));
    for (int j = 0; j < x->P; j++) {
        const PairPart *y = &x->pair[j];
        part = fmax(part, fabs(y->part));
        value = fmax(value, fmax(by * y->r_q, by * y->r_k));
        value = fmax(value, hypot(y->q_a_after, y->q_b_after));
        value = fmax(value, hypot(y->k_a_met, y->k_b_met));
        radii = fmax(radii, by * y->r_q * y->r_k);
    }
    Decimals d = {.part = clamp_int(3 - floor(log10(part)), 3, 8)};
    d.value = clamp_int(d.part + ceil(log10(4 * value)), 4, 9);
    d.angle = clamp_int(d.part + ceil(log10(4 * radii)), 4, 9);
    d.score = d.part > 6 ? d.part : 6;
    d.part_width = d.part + 5 + clamp_int(floor(log10(part)), 1, 20);
    d.value_width = d.value + 5 + clamp_int(floor(log10(value)), 1, 20);
    return d;
}

/* v with so many decimals, or (negative) significant digits; "-" for no number; no minus before
 * what is printed as 0. */
static const char *fixed(char buf[48], int decimals, double v)
{
    if (!isfinite(v)) return strcpy(buf, "-");
    snprintf(buf, 48, decimals < 0 ? "%#.*g" : "%.*f", abs(decimals), v);
    return buf[0] == '-' && strspn(buf, "-0.") == strlen(buf) ? memmove(buf, buf + 1, strlen(buf))
                                                              : buf;
}

/* The same within a product or a sum: a negative one in parentheses. */
static const char *enclosed(char buf[48], int decimals, double v)
{
    char s[48];
    fixed(s, decimals, v);
    snprintf(buf, 48, s[0] == '-' && s[1] ? "(%s)" : "%s", s);
    return buf;
}

static void print_fixed(FILE *f, int width, int decimals, double v)
{
    char s[48];
    fprintf(f, "%*s", width, fixed(s, decimals, v));
}

/* The text of a token in quotes. */
static void print_token(const Term *t, const char *s)
{
    fputc('"', t->f);
    for (size_t n = strlen(s), i = 0; i < n;) {
        int len = utf8_len(s + i, n - i);
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\')
            fprintf(t->f, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", t->f);
        else if (c < 0x20 || c == 0x7f || len <= 0 || (t->ascii && len > 1))
            fprintf(t->f, "\\x%02x", c), len = 1;
        else
            fwrite(s + i, 1, (size_t)len, t->f);
        i += (size_t)(len > 0 ? len : 1);
    }
    fputc('"', t->f);
}

/* Token pos among its neighbours. */
static void print_around(const Term *t, const Explain *x, int pos)
{
    enum { AROUND = 3 };
    int from = pos > AROUND ? pos - AROUND : 0;
    int to = pos + AROUND < x->at.query ? pos + AROUND : x->at.query;
    fputs("        in", t->f);
    if (from > 0) fputs(" ...", t->f);
    for (int i = from; i <= to; i++) {
        fprintf(t->f, i == pos ? " %s[%d " : " %s%d ", i == pos ? t->bold : "", i);
        print_token(t, x->text[i]);
        fprintf(t->f, "%s%s", i == pos ? "]" : "", i == pos ? t->off : "");
    }
    if (to < x->at.query) fputs(" ...", t->f);
    fputc('\n', t->f);
}

static void print_step(const Term *t, int number, const char *title)
{
    fprintf(t->f, "\n%s%d. %s%s\n", t->bold, number, title, t->off);
}

static void print_explain_header(const Term *t, const Explain *x, const Provenance *p)
{
    FILE *f = t->f;
    const Model *m = x->m;
    const Rope *r = x->rope;
    char rope[512];
    rope_text(r, rope, sizeof rope);
    fprintf(f, "%sropescope %s%s: one attention logit, step by step\n\n", t->bold,
            ROPESCOPE_VERSION, t->off);
    fprintf(f, "model   %s  sha256 %.12s\n", or_dash(p->model_path), or_dash(p->model_sha256));
    fprintf(f, "        %s: %d layer%s, head size %d\n", m->arch ? m->arch->name : "-", m->n_layers,
            plural((uint64_t)m->n_layers), m->head_dim);
    fprintf(f, "rope    %s  (%s)\n        %s\n", rope, r->kind->source, r->kind->summary);
    if (x->P && r->layout == ROPE_HALF)
        fprintf(f, "        %d pairs: pair p is rows p and p + %d of a head in the file\n", x->P,
                rope_row(r, 1));
    else
        fprintf(f, "        %d pairs%s\n", x->P,
                x->P ? ": pair p is rows 2p and 2p + 1 of a head in the file" : "");
    if (p->edits) fprintf(f, "edited  %s%s%s\n", t->mark, p->edits, t->off);
    print_overrides(t, p);
    fprintf(f, "text    %s  %llu token%s; run up to the query: %llu; BOS: %s\n",
            or_dash(p->text_path), (unsigned long long)p->n_text_tokens, plural(p->n_text_tokens),
            (unsigned long long)p->n_tokens, or_dash(p->bos_policy));
    print_beyond(t, m, p);
    if (p->text_cut)
        fprintf(f, "        cut: only the first %d tokens are read; -c sets more\n", p->n_ctx);
    fprintf(f, "run     %s, %s kernels, %d thread%s, keys cached as %s\n",
            p->exact ? "exact (float activations)" : "int8 activations", or_dash(p->isa),
            p->n_threads, plural((uint64_t)p->n_threads), or_dash(p->kv));
}

static int score_has_bias(const Explain *x)
{
    return x->rope->kind->bias || x->rope->kind->fade;
}

static void print_setting(const Term *t, const Explain *x)
{
    FILE *f = t->f;
    const Logit *at = &x->at;
    const Layer *ly = x->ly;
    int shared = ly->n_heads / ly->n_kv_heads, D = x->D;
    double scale = x->s.scale, root = 1 / sqrt(D);
    fprintf(f, "head    layer %d (of 0 to %d), query head %d (of 0 to %d); it reads key head %d",
            at->l, x->m->n_layers - 1, at->h, ly->n_heads - 1, x->kh);
    if (shared > 1) fprintf(f, ", which %d query heads share", shared);
    fprintf(f, "\nquery   token i = %d, ", at->query);
    print_token(t, x->text[at->query]);
    fputc('\n', f);
    print_around(t, x, at->query);
    fprintf(f, "key     token j = %d, ", at->key);
    print_token(t, x->text[at->key]);
    fputc('\n', f);
    print_around(t, x, at->key);
    fprintf(f, "apart   i - j = %d token%s\n", at->query - at->key,
            plural((uint64_t)(at->query - at->key)));
    if (x->place_q < at->query || x->place_q > at->query || x->place_k < at->key ||
        x->place_k > at->key)
        fprintf(f, "        the encoding places token i at position %.9g, token j at %.9g\n",
                x->place_q, x->place_k);
    fprintf(f, "sees    %d key%s, %d to %d: ", x->n_t, plural((uint64_t)x->n_t), x->t0, at->query);
    if (ly->window)
        fprintf(f, "a sliding window of %d tokens, the query's own included\n", ly->window);
    else
        fputs("all tokens up to its own\n", f);
    const char *bias = score_has_bias(x) ? " + bias" : "";
    if (isnan(x->s.cap))
        fprintf(f, "score   z = q.k x scale%s; scale = %.9g", bias, scale);
    else
        fprintf(f, "score   z = c tanh(q.k x scale / c)%s; cap c = %.9g, scale = %.9g", bias,
                x->s.cap, scale);
    if (fabs(scale / root - 1) < 1e-6) fprintf(f, ", 1 / sqrt(%d) as a 32-bit float", D);
    fputc('\n', f);
}

static void print_points(const Term *t, const Explain *x, const Decimals *d)
{
    FILE *f = t->f;
    int w = d->value_width;
    print_note(
        t,
        "The layer makes a query of %d values from what it knows of token i, and a key of %d "
        "values from what it knows of token j. RoPE takes the values in pairs (a, b), points "
        "of a plane: r is the distance from the origin, phi the direction of the query's "
        "point less that of the key's, in radians, 0 to 2 pi.%s",
        x->D, x->D,
        x->rope->kind->mix ? " This encoding first multiplies query and key by a matrix: "
                             "these are its results."
                           : "");
    if (!x->P) return;
    fprintf(f, "%s  pair%*s%*s%*s%*s%*s%*s%*s%s\n", t->dim, w, "query a", w, "b", w, "r", w,
            "key a", w, "b", w, "r", d->angle + 4, "phi", t->off);
    for (int j = 0; j < x->P; j++) {
        const PairPart *y = &x->pair[j];
        const double v[] = {y->q_a, y->q_b, y->r_q, y->k_a, y->k_b, y->r_k};
        fprintf(f, "%6d", j);
        for (int i = 0; i < 6; i++) print_fixed(f, w, d->value, v[i]);
        print_fixed(f, d->angle + 4, d->angle, y->phi);
        fputc('\n', f);
    }
}

/* Turns that are seen in the values alone. */
static void print_seen_turns(const Term *t, const Explain *x, const Decimals *d)
{
    FILE *f = t->f;
    int w = d->angle + 10;
    print_note(t,
               "This encoding turns pairs by a rule of its own (%s), not by position times theta. "
               "The angle, in radians mod 2 pi, and the factor by which the radius grew are read "
               "off the values before and after.",
               x->rope->kind->formula);
    fprintf(f, "%s  pair%*s%*s%*s%*s%s\n", t->dim, w, "query turned", w, "grown by", w,
            "key turned", w, "grown by", t->off);
    for (int j = 0; j < x->P; j++) {
        const PairPart *y = &x->pair[j];
        fprintf(f, "%6d", j);
        print_fixed(f, w, d->angle, y->turn_q);
        print_fixed(f, w, d->angle, y->gain_q);
        print_fixed(f, w, d->angle, y->turn_k);
        print_fixed(f, w, d->angle, y->gain_k);
        fputc('\n', f);
    }
}

static int any_turns(const Explain *x)
{
    for (int j = 0; j < x->P; j++)
        if (x->pair[j].theta > 0 || x->pair[j].theta < 0 || !x->known) return 1;
    return 0;
}

static int has_factor(const Explain *x)
{
    return x->amplitude > 1 || x->amplitude < 1 || x->q_scale > 1 || x->q_scale < 1;
}

static void print_turns(const Term *t, const Explain *x, const Decimals *d)
{
    FILE *f = t->f;
    int w = d->angle + 6;
    if (!any_turns(x)) {
        print_note(t, "No pair turns in this layer: its angles are all 0, and the order of the "
                      "tokens is known from the causal mask alone.");
        return;
    }
    if (!x->known) {
        print_seen_turns(t, x, d);
        return;
    }
    print_note(t,
               "Pair p of the token at position t turns by the angle t x theta_p, in radians, here "
               "less its whole turns. The wavelength is the number of tokens of one turn, 2 pi / "
               "theta. class: how far the pair turns over the P = %.9g tokens the encoding is made "
               "for: half, at most half a turn (x = theta P <= pi); partial, at most one (x <= 2 "
               "pi); full, more; still, not at all.",
               x->n_ctx);
    fprintf(f, "%s  pair           theta  wavelength  class  %*s%*s%*s%s\n", t->dim, w, "i theta",
            w, "j theta", w + 2, "(i-j) theta", t->off);
    for (int j = 0; j < x->P; j++) {
        const PairPart *y = &x->pair[j];
        fprintf(f, "%6d %15.9g", j, y->theta);
        print_cell(f, 12, -6, y->wavelength);
        fprintf(f, "  %-7s", turn_class(y->theta, y->x));
        print_fixed(f, w, d->angle, y->angle_q);
        print_fixed(f, w, d->angle, y->angle_k);
        print_fixed(f, w + 2, d->angle, y->angle_apart);
        fputc('\n', f);
    }
}

/* What is said of the last two columns of the products. */
static void print_products_note(const Term *t, const Explain *x)
{
    print_note(
        t,
        "A turn by the angle w makes (a, b) into (a cos w - b sin w, a sin w + b cos w). The "
        "score multiplies query and key value by value; the two products of a pair are its "
        "part.%s%s",
        x->formula ? " By lengths and angles the same part is r r cos(phi + (i-j) theta): it "
                     "depends on the distance of the two tokens alone."
                   : "",
        x->rope->kind->update ? " The key is shown as the query meets it: later tokens have "
                                "changed it since it was turned."
                              : "");
    if (!has_factor(x)) return;
    print_note(t,
               "The encoding multiplies cos and sin by the amplitude A = %.9g, for query and key "
               "alike, and the query by s = %.9g: each part contains A x A x s = %.9g.",
               x->amplitude, x->q_scale, factor_of(x));
}

static void print_products(const Term *t, const Explain *x, const Decimals *d)
{
    FILE *f = t->f;
    int w = d->value_width, wp = d->part_width;
    if (x->P) print_products_note(t, x);
    if (x->P)
        fprintf(f, "%s  pair%*s%*s%*s%*s%*s%*s%*s%*s%s\n", t->dim, w, "query a", w, "b", w, "key a",
                w, "b", wp, "a x a", wp, "b x b", wp, "part", wp + 2, x->formula ? "by angles" : "",
                t->off);
    for (int j = 0; j < x->P; j++) {
        const PairPart *y = &x->pair[j];
        fprintf(f, "%6d", j);
        print_fixed(f, w, d->value, y->q_a_after);
        print_fixed(f, w, d->value, y->q_b_after);
        print_fixed(f, w, d->value, y->k_a_met);
        print_fixed(f, w, d->value, y->k_b_met);
        print_fixed(f, wp, d->part, y->product_a);
        print_fixed(f, wp, d->part, y->product_b);
        print_fixed(f, wp, d->part, y->part);
        if (x->formula) print_fixed(f, wp + 2, d->part, y->part_by_angles);
        fputc('\n', f);
    }
    if (2 * x->P < x->D)
        fprintf(f, "not rotated: the %d values from %d on; the sum of their products is %.*f\n",
                x->D - 2 * x->P, 2 * x->P, d->part, x->s.not_rotated);
    if (x->formula && x->P)
        fprintf(f, "largest difference between the last two columns: %.1e (%s)\n", x->s.by_angles,
                fabs(x->s.change) > 0 ? "the cached key was rounded to 16 bits"
                                      : "rounding to float in the run");
}

/* Pairs by the size of their part; of equal ones the lower number first. */
static int larger_part(const void *a, const void *b)
{
    const PairPart *const *p = a, *const *q = b;
    double x = fabs((*p)->part), y = fabs((*q)->part);
    return x > y ? -1 : x < y ? 1 : (*p > *q) - (*p < *q);
}

static void print_running(const Term *t, const Explain *x, const Decimals *d)
{
    FILE *f = t->f;
    const PairPart **order = xcalloc((size_t)x->P + 1, sizeof(*order));
    double sum = 0;
    for (int j = 0; j < x->P; j++) order[j] = &x->pair[j];
    qsort((void *)order, (size_t)x->P, sizeof *order, larger_part);
    fprintf(f, "%s         pair  class  %*s%*s%s\n", t->dim, d->part_width, "part",
            d->part_width + 4, "sum so far", t->off);
    for (int i = 0; i < x->P; i++) {
        const PairPart *y = order[i];
        int j = (int)(y - x->pair), chosen = j == x->at.pair;
        sum += y->part;
        fprintf(f, "%s%13d  %-7s", chosen ? t->mark : "", j,
                x->known ? turn_class(y->theta, y->x) : "-");
        print_fixed(f, d->part_width, d->part, y->part);
        print_fixed(f, d->part_width + 4, d->part, sum);
        fprintf(f, "%s%s\n", chosen ? "  <- step 7" : "", chosen ? t->off : "");
    }
    if (2 * x->P < x->D) {
        fprintf(f, "  not rotated         ");
        print_fixed(f, d->part_width, d->part, x->s.not_rotated);
        print_fixed(f, d->part_width + 4, d->part, sum + x->s.not_rotated);
        fputc('\n', f);
    }
    free((void *)order);
}

static void print_line(FILE *f, int decimals, double v, const char *fmt, ...) PRINTF_LIKE(4, 5);
static void print_line(FILE *f, int decimals, double v, const char *fmt, ...)
{
    char s[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s, sizeof s, fmt, ap);
    va_end(ap);
    fprintf(f, "  %-54s", s);
    print_fixed(f, 16, decimals, v);
    fputc('\n', f);
}

/* What is inside the sum of products: factors of the encoding, and what became of the key. */
static void print_inside(FILE *f, const Explain *x, int decimals)
{
    const ScoreSum *s = &x->s;
    double by = factor_of(x);
    if (has_factor(x) && by > 0) {
        print_line(f, decimals, s->pairs / by, "the pairs, without amplitude and query factor");
        print_line(f, decimals, s->pairs, "  times A x A x s = %.9g", by);
    }
    if (fabs(s->change) > 0) {
        print_line(f, decimals, s->made, "q.k with the key as it was made");
        print_line(f, decimals, s->change, "  %s",
                   x->rope->kind->update ? "what the encoding changed in the key since"
                                         : "what 16 bits in the cache changed in the key");
    }
}

static void print_sum(const Term *t, const Explain *x, const Decimals *d)
{
    FILE *f = t->f;
    const ScoreSum *s = &x->s;
    char pairs[48];
    print_note(t, "The parts, the largest first whatever their sign: few pairs often decide.");
    print_running(t, x, d);
    fputc('\n', f);
    print_inside(f, x, d->score);
    snprintf(pairs, sizeof pairs, "q.k, the sum of all %d products", x->D);
    print_line(f, d->score, s->dot, "%s", pairs);
    print_line(f, d->score, s->scaled, "  times the scale %.9g", s->scale);
    if (!isnan(s->cap))
        print_line(f, d->score, s->capped, "  capped: c tanh(that / c), c = %.9g", s->cap);
    if (score_has_bias(x)) {
        print_line(f, d->score, s->bias, "  the bias of head %d at distance %d", x->at.h,
                   x->at.query - x->at.key);
        print_line(f, d->score, s->sum, "score z, the sum of both");
    }
    print_line(f, d->score, s->engine, "the score in the run, in 32-bit floats");
    fprintf(f, "  difference %.1e; rounding in the run explains up to %.1e", s->difference,
            s->allowed);
    if (s->adds_up)
        fputs(": it adds up\n", f);
    else
        fprintf(f,
                "\n  %sIt does not add up: something made this score that is not shown here.%s\n",
                t->mark, t->off);
}

/* Keys of the largest scores, the largest first: top[n], n <= 8; of equal ones the first. */
static int top_keys(const Explain *x, int top[8])
{
    int n = 0;
    while (n < 8 && n < x->n_t) {
        int best = -1;
        for (int t = 0; t < x->n_t; t++) {
            int taken = 0;
            for (int i = 0; i < n; i++) taken |= top[i] == t + x->t0;
            if (!taken && (best < 0 || x->score[t] > x->score[best])) best = t;
        }
        top[n++] = best + x->t0;
    }
    return n;
}

/* 1: no score of the row is larger. */
static int rank_of(const Explain *x, int key)
{
    int rank = 1;
    for (int t = 0; t < x->n_t; t++) rank += x->score[t] > x->score[key - x->t0];
    return rank;
}

static void print_top(const Term *t, const Explain *x, int key)
{
    const Logit *at = &x->at;
    int i = key - x->t0, asked = key == at->key;
    double z = (double)x->score[i];
    fprintf(t->f, "%s%6d%7d", asked ? t->mark : "", rank_of(x, key), key);
    print_fixed(t->f, 15, 6, z);
    print_fixed(t->f, 13, -5, exp(z - x->row.max));
    print_fixed(t->f, 13, -5, (double)x->weight[i]);
    fputs("  ", t->f);
    print_token(t, x->text[key]);
    fprintf(t->f, "%s%s%s\n", key == at->query ? " (the query's own)" : "",
            asked ? "  <- key j" : "", asked ? t->off : "");
}

static void print_softmax(const Term *t, const Explain *x)
{
    FILE *f = t->f;
    const Softmax *r = &x->row;
    int top[8], n = top_keys(x, top), shown = 0;
    print_note(t, "Softmax weighs this score against those of all keys the query sees: weight = "
                  "exp(z - m) / (the sum of exp(z_t - m) over them), m the largest score.");
    print_line(f, 6, (double)x->score[x->at.key - x->t0], "score z of key %d", x->at.key);
    print_line(f, 6, r->max, "m, the largest of the %d score%s, of key %d", x->n_t,
               plural((uint64_t)x->n_t), r->max_key);
    print_line(f, -5, r->e, "exp(z - m)");
    print_line(f, -6, r->sum, "the sum of exp(z_t - m)");
    print_line(f, -5, r->weight, "weight of key %d, their quotient", x->at.key);
    print_line(f, -5, r->engine, "the weight in the run (difference %.1e)", r->engine - r->weight);
    fprintf(f, "\n%s  rank    key              z   exp(z - m)       weight  token%s\n", t->dim,
            t->off);
    for (int i = 0; i < n; i++) {
        print_top(t, x, top[i]);
        shown |= top[i] == x->at.key;
    }
    if (!shown) print_top(t, x, x->at.key);
    fprintf(f, "\nkey %d has rank %d of %d", x->at.key, rank_of(x, x->at.key), x->n_t);
    if (isfinite(r->first))
        fprintf(f, "; the first token has a share of %.1f %% of the attention\n", 100 * r->first);
    else
        fputs("; the first token is out of sight\n", f);
}

/* ---- one pair, as on a blackboard */

/* The turn of one side of a pair: (a, b) becomes (c a - s b, s a + c b), times its factor. */
typedef struct {
    const char *name;
    int pos;
    double place, a, b, a_after, b_after;
    double c, s, by; /* by: the query's factor; 1 for keys */
} Turned;

static Turned side_of(const Explain *x, const PairPart *y, int is_query)
{
    Turned s = {.name = is_query ? "query" : "key", .by = is_query ? x->q_scale : 1};
    s.pos = is_query ? x->at.query : x->at.key;
    s.place = is_query ? x->place_q : x->place_k;
    s.a = is_query ? y->q_a : y->k_a;
    s.b = is_query ? y->q_b : y->k_b;
    s.a_after = is_query ? y->q_a_after : y->k_a_after;
    s.b_after = is_query ? y->q_b_after : y->k_b_after;
    if (x->known) {
        s.c = x->amplitude * cos(s.place * y->theta);
        s.s = x->amplitude * sin(s.place * y->theta);
    } else { /* (a', b') (a, -b) / r^2 as complex numbers */
        double r2 = (s.a * s.a + s.b * s.b) * s.by;
        s.c = (s.a * s.a_after + s.b * s.b_after) / r2;
        s.s = (s.a * s.b_after - s.b * s.a_after) / r2;
    }
    return s;
}

/* "what = u x v + (-p) x q = 1.2 + (-0.3) = 0.9", sign +1 or -1 before the second product. */
static void print_two_products(FILE *f, const char *what, const double v[4], double sign,
                               int digits)
{
    char s[6][48];
    for (int i = 0; i < 4; i++) enclosed(s[i], digits, v[i]);
    const char *op = sign < 0 ? "-" : "+";
    double p = v[0] * v[1], q = v[2] * v[3];
    fprintf(f, "  %s = %s x %s %s %s x %s\n", what, s[0], s[1], op, s[2], s[3]);
    fprintf(f, "  %*s = %s %s %s = ", (int)strlen(what), "", enclosed(s[4], digits, p), op,
            enclosed(s[5], digits, q));
    print_fixed(f, 0, digits, p + sign * q);
    fputc('\n', f);
}

/* Two rows of a matrix beside its formula. */
static void print_matrix(const Term *t, const char *name, double c, double s, int digits)
{
    int w = digits + 4, n = (int)strlen(name);
    fprintf(t->f, "  %*s   [ cos  -sin ]   [ ", n, "");
    print_fixed(t->f, w, digits, c);
    print_fixed(t->f, w, digits, -s);
    fprintf(t->f, " ]\n  %s = [ sin   cos ] = [ ", name);
    print_fixed(t->f, w, digits, s);
    print_fixed(t->f, w, digits, c);
    fputs(" ]\n", t->f);
}

static double degrees(double v)
{
    return v * 180 / PI;
}

static void print_side(const Term *t, const Explain *x, const PairPart *y, int is_query, int digits)
{
    FILE *f = t->f;
    Turned s = side_of(x, y, is_query);
    const double rows[2][4] = {{s.c, s.a, s.s, s.b}, {s.s, s.a, s.c, s.b}};
    char name[32], what[48];
    snprintf(name, sizeof name, "R(%d)", s.pos);
    if (x->known) {
        double angle = s.place * y->theta, turns = floor(angle / TAU);
        fprintf(f, "\nThe %s turns by %.9g x theta = %.*f rad", s.name, s.place, digits, angle);
        if (turns > 0)
            fprintf(f, " = %.0f turn%s and %.*f rad", turns, plural((uint64_t)turns), digits,
                    angle - TAU * turns);
        fprintf(f, " = %.3f degrees\n", degrees(angle - TAU * turns));
        if (x->amplitude > 1 || x->amplitude < 1)
            fprintf(f, "The encoding lengthens it, too: below is the rotation times A = %.9g\n",
                    x->amplitude);
    } else {
        fprintf(f, "\nThe %s is turned so (found from its values before and after):\n", s.name);
    }
    print_matrix(t, name, s.c, s.s, digits);
    for (int row = 0; row < 2; row++) {
        snprintf(what, sizeof what, "%s %c'", s.name, "ab"[row]);
        print_two_products(f, what, rows[row], row ? 1 : -1, digits);
    }
    if (s.by > 1 || s.by < 1)
        fprintf(f, "  times the query's factor %.9g: (%.*f, %.*f)\n", s.by, digits,
                s.by * (s.c * s.a - s.s * s.b), digits, s.by * (s.s * s.a + s.c * s.b));
}

/* The part once more, from lengths and directions; by: all factors on it, angle: (i - j) theta. */
static void print_by_angles(const Term *t, const Explain *x, const PairPart *y, double by,
                            double angle)
{
    FILE *f = t->f;
    int digits = decimals_of(x).value + 1;
    fputs("\nAnd with lengths and directions alone:\n", f);
    fprintf(f, "  part = %s%sr r cos(phi + (i - j) theta)\n", has_factor(x) ? "A A s " : "",
            has_factor(x) ? "x " : "");
    fputs("       = ", f);
    if (has_factor(x)) fprintf(f, "%.9g x ", by);
    fprintf(f, "%.*f x %.*f x cos(%.*f + %.*f)", digits, y->r_q, digits, y->r_k, digits, y->phi,
            digits, angle);
    fputs("\n       = ", f);
    if (has_factor(x)) fprintf(f, "%.9g x ", by);
    fprintf(f, "%.*f x cos(%.*f) = ", digits, y->r_q * y->r_k, digits, y->phi + angle);
    print_fixed(f, 0, digits, y->part_by_angles);
    fputc('\n', f);
}

/* Turning the query alone, by the distance, gives the same part; and so do lengths and angles. */
static void print_by_distance(const Term *t, const Explain *x, const PairPart *y, const Decimals *d)
{
    FILE *f = t->f;
    int digits = d->value + 1;
    double apart = x->place_q - x->place_k, angle = apart * y->theta;
    double by = factor_of(x), c = cos(angle), s = sin(angle);
    double a = by * (c * y->q_a - s * y->q_b), b = by * (s * y->q_a + c * y->q_b);
    const double rows[2][4] = {{c, y->q_a, s, y->q_b}, {s, y->q_a, c, y->q_b}};
    const double dot[4] = {a, y->k_a, b, y->k_b};
    char name[32];
    if (!(x->place_k < 0 || x->place_k > 0)) {
        fputc('\n', f);
        print_note(t,
                   "%sThe distance is all that matters%s: here the key stands at 0 and did not "
                   "turn, so the query alone was turned, by (i - j) theta. With another --key both "
                   "turn, and the part is the same as if the query alone did by the distance.",
                   t->bold, t->off);
        print_by_angles(t, x, y, by, angle);
        return;
    }
    fprintf(
        f,
        "\n%sThe distance is all that matters.%s Turn the query by (i - j) theta = %.9g x theta "
        "= %.*f rad\nalone, and leave the key as it was:\n",
        t->bold, t->off, apart, digits, angle);
    snprintf(name, sizeof name, "R(%.9g)", apart);
    print_matrix(t, name, c, s, digits);
    for (int row = 0; row < 2; row++)
        print_two_products(f, row ? "b''" : "a''", rows[row], row ? 1 : -1, digits);
    if (has_factor(x))
        fprintf(f, "  times A x A x s = %.9g: (%.*f, %.*f)\n", by, digits, a, digits, b);
    print_two_products(f, "part", dot, 1, digits);
    print_by_angles(t, x, y, by, angle);
}

static void print_meeting(const Term *t, const Explain *x, const PairPart *y, const Decimals *d)
{
    FILE *f = t->f;
    int digits = d->value + 1;
    const double v[4] = {y->q_a_after, y->k_a_met, y->q_b_after, y->k_b_met};
    fputs("\nThe products:", f);
    if (fabs(x->s.change) > 0)
        fprintf(f, " (the key has become (%.*f, %.*f) by the time the query meets it)", digits,
                y->k_a_met, digits, y->k_b_met);
    fputc('\n', f);
    print_two_products(f, "part = a'a' + b'b'", v, 1, digits);
    fprintf(f, "  in the score: %.*f x %.9g = ", digits, y->part, x->s.scale);
    print_fixed(f, 0, digits, y->part * x->s.scale);
    fprintf(f, " of the %.*f that all products make\n", digits, x->s.scaled);
}

/* ---- the circle */

enum { DIAL_ROWS = 15, DIAL_COLUMNS = 31 }; /* a cell is twice as high as wide */

/* A letter on the circle at an angle, or as far inside of it as there is room. */
static void dial_mark(char dial[DIAL_ROWS][DIAL_COLUMNS], double angle, char letter)
{
    for (double r = 1; r > 0.3; r -= 0.2) {
        int row = (int)lrint((DIAL_ROWS - 1) / 2 * (1 - r * sin(angle)));
        int column = (int)lrint((DIAL_COLUMNS - 1) / 2 * (1 + r * cos(angle)));
        char *cell = &dial[row][column];
        if (isalpha((unsigned char)*cell)) continue;
        *cell = letter;
        return;
    }
}

/* whole: with the blanks at its end. */
static void print_dial_row(const Term *t, const char *row, int whole)
{
    int n = DIAL_COLUMNS;
    while (!whole && n > 0 && row[n - 1] == ' ') n--;
    fputs("    ", t->f);
    for (int c = 0; c < n; c++) {
        char cell[2] = {row[c], 0};
        fputs(row[c] == '.' && !t->ascii ? "·" : cell, t->f);
    }
}

/* Directions of the two points before (q, k) and after (Q, K), on a circle; 0 is to the right and
 * angles grow against the clock. */
static void print_dial(const Term *t, const PairPart *y)
{
    char dial[DIAL_ROWS][DIAL_COLUMNS];
    memset(dial, ' ', sizeof dial);
    for (int i = 0; i < 48; i++) {
        double w = TAU * i / 48;
        dial[(int)lrint((DIAL_ROWS - 1) / 2 * (1 - sin(w)))]
            [(int)lrint((DIAL_COLUMNS - 1) / 2 * (1 + cos(w)))] = '.';
    }
    dial[DIAL_ROWS / 2][DIAL_COLUMNS / 2] = '+';
    const double at[4] = {atan2(y->q_b, y->q_a), atan2(y->k_b, y->k_a),
                          atan2(y->q_b_after, y->q_a_after), atan2(y->k_b_after, y->k_a_after)};
    static const char *const what[4] = {"q  query before", "k  key before", "Q  query after",
                                        "K  key after"};
    for (int i = 0; i < 4; i++) dial_mark(dial, at[i], what[i][0]);
    fputs("\nThe four directions on a circle (lengths are left out):\n", t->f);
    for (int row = 0; row < DIAL_ROWS; row++) {
        int line = row - (DIAL_ROWS - 4) / 2, said = line >= 0 && line < 4;
        print_dial_row(t, dial[row], said);
        if (said)
            fprintf(t->f, "    %-16s%8.2f degrees", what[line], degrees(whole_turns_off(at[line])));
        fputc('\n', t->f);
    }
}

static void print_pair(const Term *t, const Explain *x, const Decimals *d)
{
    FILE *f = t->f;
    int a, b, digits = d->value + 1;
    const PairPart *y = &x->pair[x->at.pair];
    rope_pair(x->rope, x->at.pair, &a, &b);
    fprintf(f, "Values %d and %d of the head.", a, b);
    if (x->known && y->theta > 0)
        fprintf(f, " theta = %.12g: a full turn in %.6g tokens (%s).", y->theta, y->wavelength,
                turn_class(y->theta, y->x));
    fputc('\n', f);
    print_note(
        t,
        "Numbers have %d decimals here; what is worked out from them by hand agrees to %d of "
        "them.",
        digits, d->part + 1);
    fprintf(f, "\n%s           a, b%*sr  direction%s\n", t->dim, 2 * digits + 7, "", t->off);
    for (int is_query = 1; is_query >= 0; is_query--) {
        Turned s = side_of(x, y, is_query);
        fprintf(f, "  %-6s(", s.name);
        print_fixed(f, digits + 4, digits, s.a);
        fputs(", ", f);
        print_fixed(f, digits + 4, digits, s.b);
        fputs(")  ", f);
        print_fixed(f, digits + 4, digits, hypot(s.a, s.b));
        fprintf(f, "  %.*f rad = %.2f degrees\n", digits, whole_turns_off(atan2(s.b, s.a)),
                degrees(whole_turns_off(atan2(s.b, s.a))));
    }
    print_side(t, x, y, 1, digits);
    print_side(t, x, y, 0, digits);
    print_meeting(t, x, y, d);
    if (x->formula) print_by_distance(t, x, y, d);
    print_dial(t, y);
}

void explain_print(const Explain *x, const Provenance *p, FILE *f, const Screen *screen)
{
    locale_t old = c_numbers();
    Term t = term_of(f, screen);
    Decimals d = decimals_of(x);
    char *lines = NULL;
    size_t n = 0;
    Term to = gather_lines(&t, &lines, &n);
    print_explain_header(&to, x, p);
    print_step(&to, 1, "The question: how much does token i look at token j?");
    print_setting(&to, x);
    print_gathered(&t, &to, &lines);
    print_note(&t,
               "Numbers are rounded to the decimals shown. What is worked out from them by hand "
               "agrees with what is printed to a unit of the last digit.");
    print_step(&t, 2, "Query and key before rotation");
    print_points(&t, x, &d);
    print_step(&t, 3, "How far each pair turns");
    print_turns(&t, x, &d);
    print_step(&t, 4, "After rotation: what each pair adds");
    print_products(&t, x, &d);
    print_step(&t, 5, "The sum is the score");
    print_sum(&t, x, &d);
    print_step(&t, 6, "From the score to a weight");
    print_softmax(&t, x);
    if (x->at.pair >= 0) {
        char title[48];
        snprintf(title, sizeof title, "Pair %d, step by step", x->at.pair);
        print_step(&t, 7, title);
        print_pair(&t, x, &d);
    } else if (x->P) {
        fputc('\n', f);
        print_note(&t,
                   "--pair P goes through one pair in full detail; --layer, --head, --query and "
                   "--key choose another logit.");
    }
    restore_numbers(old);
}

/* ---- the walk as data */

/* A number computed in double, to the last bit. */
static void json_exact(FILE *f, const char *key, double v)
{
    fprintf(f, ",\"%s\":", key);
    fprintf(f, isfinite(v) ? "%.17g" : "null", v);
}

/* Floats, with the digits that give them back. */
static void json_floats(FILE *f, const char *key, const float *v, int n)
{
    fprintf(f, ",\n\"%s\":[", key);
    for (int i = 0; i < n; i++)
        fprintf(f, isfinite(v[i]) ? "%s%.9g" : "%snull", i ? "," : "", (double)v[i]);
    fputc(']', f);
}

static const struct {
    const char *name;
    size_t at;
} part_columns[] = {
#define C(member)                                                                                  \
    {                                                                                              \
#member, offsetof(PairPart, member)                                                        \
    }
    C(theta),       C(wavelength), C(x),
    C(q_a),         C(q_b),        C(k_a),
    C(k_b),         C(r_q),        C(r_k),
    C(phi),         C(angle_q),    C(angle_k),
    C(angle_apart), C(turn_q),     C(gain_q),
    C(turn_k),      C(gain_k),     C(q_a_after),
    C(q_b_after),   C(k_a_after),  C(k_b_after),
    C(k_a_met),     C(k_b_met),    C(product_a),
    C(product_b),   C(part),       C(part_by_angles),
#undef C
};
#define N_PART_COLUMNS ((int)(sizeof part_columns / sizeof *part_columns))

static void json_parts(FILE *f, const Explain *x)
{
    fputs(",\n\"pairs\":{\"members\":[", f);
    for (int j = 0, a, b; j < x->P; j++) {
        rope_pair(x->rope, j, &a, &b);
        fprintf(f, "%s[%d,%d]", j ? "," : "", a, b);
    }
    fputs("],\"class\":[", f);
    for (int j = 0; j < x->P; j++)
        fprintf(f, "%s\"%s\"", j ? "," : "",
                x->known ? turn_class(x->pair[j].theta, x->pair[j].x) : "unknown");
    fputc(']', f);
    for (int c = 0; c < N_PART_COLUMNS; c++) {
        fprintf(f, ",\n\"%s\":[", part_columns[c].name);
        for (int j = 0; j < x->P; j++) {
            const char *y = (const char *)&x->pair[j] + part_columns[c].at;
            double v = *(const double *)(const void *)y;
            fprintf(f, isfinite(v) ? "%s%.17g" : "%snull", j ? "," : "", v);
        }
        fputc(']', f);
    }
    fputc('}', f);
}

static void json_setting(FILE *f, const Explain *x)
{
    char rope[512];
    rope_text(x->rope, rope, sizeof rope);
    fprintf(f, "},\n\"setting\":{\"layer\":%d", x->at.l);
    JSON_FIELDS(f, {"head", x->at.h}, {"kv_head", x->kh}, {"query", x->at.query},
                {"key", x->at.key}, {"pair", x->at.pair < 0 ? NONE : x->at.pair},
                {"distance", x->at.query - x->at.key}, {"window", x->ly->window},
                {"first_key", x->t0}, {"n_keys", x->n_t}, {"head_dim", x->D}, {"n_pairs", x->P});
    json_text(f, "rope", rope);
    json_text(f, "formula", x->rope->kind->formula);
    json_text(f, "source", x->rope->kind->source);
    json_text(f, "layout", x->rope->layout == ROPE_HALF ? "half" : "adjacent");
    json_exact(f, "position_query", x->place_q);
    json_exact(f, "position_key", x->place_k);
    json_exact(f, "amplitude", x->amplitude);
    json_exact(f, "q_scale", x->q_scale);
    json_exact(f, "n_ctx", x->n_ctx);
    fputc('}', f);
}

static void json_score_sum(FILE *f, const Explain *x)
{
    const ScoreSum *s = &x->s;
    fprintf(f, ",\n\"sum\":{\"adds_up\":%s", s->adds_up ? "true" : "false");
    json_exact(f, "pairs", s->pairs);
    json_exact(f, "not_rotated", s->not_rotated);
    json_exact(f, "dot", s->dot);
    json_exact(f, "dot_as_made", s->made);
    json_exact(f, "key_change", s->change);
    json_exact(f, "scale", s->scale);
    json_exact(f, "scaled", s->scaled);
    json_exact(f, "cap", s->cap);
    json_exact(f, "capped", s->capped);
    json_exact(f, "bias", s->bias);
    json_exact(f, "score", s->sum);
    json_exact(f, "engine", s->engine);
    json_exact(f, "difference", s->difference);
    json_exact(f, "allowed", s->allowed);
    json_exact(f, "by_angles", s->by_angles);
    fputc('}', f);
}

static void json_softmax(FILE *f, const Explain *x)
{
    const Softmax *r = &x->row;
    int top[8], n = top_keys(x, top);
    fprintf(f, ",\n\"softmax\":{\"rank\":%d,\"max_key\":%d", rank_of(x, x->at.key), r->max_key);
    json_exact(f, "max", r->max);
    json_exact(f, "sum", r->sum);
    json_exact(f, "exp", r->e);
    json_exact(f, "weight", r->weight);
    json_exact(f, "engine", r->engine);
    json_exact(f, "first_token", r->first);
    fputs(",\"top\":[", f);
    for (int i = 0; i < n; i++) fprintf(f, "%s%d", i ? "," : "", top[i]);
    fputc(']', f);
    json_floats(f, "scores", x->score, x->n_t);
    json_floats(f, "weights", x->weight, x->n_t);
    fputc('}', f);
}

static void json_vectors(FILE *f, const Explain *x)
{
    fprintf(f, ",\n\"vectors\":{\"n\":%d", x->D);
    json_floats(f, "q_before", x->q[BEFORE_ROPE], x->D);
    json_floats(f, "k_before", x->k[BEFORE_ROPE], x->D);
    json_floats(f, "q_after", x->q[AFTER_ROPE], x->D);
    json_floats(f, "k_after", x->k[AFTER_ROPE], x->D);
    json_floats(f, "k_met", x->met, x->D);
    fputc('}', f);
}

static const char EXPLAIN_NOTE[] =
    "part = q_a_after k_a_met + q_b_after k_b_met; sum.dot = the sum of all parts and of the "
    "values that are not rotated; sum.capped = cap tanh(dot scale / cap) where the model caps its "
    "scores, else dot scale; sum.score = capped + bias; sum.engine is the run's own "
    "score, a 32-bit float, and may differ by sum.allowed. part_by_angles = amplitude^2 q_scale "
    "r_q r_k cos(phi + (position_query - position_key) theta), phi = arg q - arg k in [0, 2 "
    "pi); null where the encoding does not turn by position theta alone. before: what is "
    "turned, after the linear map of the encoding, if it has one; met: the key in the cache as "
    "the query met it. Lists of vectors, scores and weights have the nine digits that give "
    "their 32-bit floats back when they are read as such; pairs lie side by side in vectors "
    "(members), whatever the layout of the file; all other numbers are doubles in "
    "full, angles in radians. Scores and weights begin with key first_key";

void explain_json(const Explain *x, const Provenance *p, FILE *f)
{
    locale_t old = c_numbers();
    fputc('{', f);
    json_provenance(f, "ropescope.explain/1", x->m, p);
    json_setting(f, x);
    json_text(f, "convention", EXPLAIN_NOTE);
    fputs(",\n\"tokens\":[", f);
    for (int i = 0; i <= x->at.query; i++) {
        fprintf(f, "%s[%d,", i ? "," : "", x->id[i]);
        json_str(f, x->text[i], strlen(x->text[i]));
        fputc(']', f);
    }
    fputc(']', f);
    json_parts(f, x);
    json_vectors(f, x);
    json_score_sum(f, x);
    json_softmax(f, x);
    fputs("}\n", f);
    restore_numbers(old);
}

/* ---------------------------------------------------------------- interventions
 * What an edited run drops or replaces, and the report of `ablate`: the same windows of the same
 * tokens, unedited and edited, and as many random pairs dropped as a control. */

static Pairs pairs_new(const Model *m)
{
    Pairs p = {.n_heads = m->max_heads};
    for (int r = 0; r < m->n_ropes; r++)
        if (m->rope[r].n_pairs > p.n_pairs) p.n_pairs = m->rope[r].n_pairs;
    size_t heads = (size_t)m->n_layers * (size_t)p.n_heads;
    p.on = xcalloc(heads * (size_t)p.n_pairs + 1, 1);
    return p;
}

/* The pairs of one head, [n_pairs]. */
static uint8_t *pairs_of(const Pairs *p, int l, int h)
{
    size_t head = (size_t)l * (size_t)p->n_heads + (size_t)h;
    return p->on + head * (size_t)p->n_pairs;
}

static int pairs_count(const Pairs *p, int l, int h)
{
    const uint8_t *on = pairs_of(p, l, h);
    int n = 0;
    for (int j = 0; j < p->n_pairs; j++) n += on[j];
    return n;
}

static void pairs_total(Pairs *p, const Model *m)
{
    for (int l = 0; l < m->n_layers; l++)
        for (int h = 0; h < m->layer[l].n_heads; h++) {
            int n = pairs_count(p, l, h);
            p->n += n;
            p->heads += n > 0;
        }
}

/* The projected head that attention head h is, or is a copy of. */
static int projected_head(const Layer *y, int h)
{
    return h * y->n_q_heads / y->n_heads;
}

/* Is head h of layer l of m one of the selection, which may be of m with another encoding? */
static int selected(const Selection *s, const Model *m, int l, int h)
{
    if (!s || !s->layer[l]) return !s;
    const Layer *is = &m->layer[l], *of = &s->m->layer[l];
    if (is->n_heads == of->n_heads && is->n_q_heads == of->n_q_heads) return s->head[h];
    int on = 0;
    for (int i = 0; i < of->n_heads; i++)
        on |= s->head[i] && projected_head(of, i) == projected_head(is, h);
    return on;
}

/* By how far pair j turns over P: PAIRS_PARTIAL, PAIRS_HALF or PAIRS_FULL. */
static int is_in_class(const Axis *ax, int j, int which)
{
    double x = ax->x[j];
    if (!(ax->theta[j] > 0)) return 0;
    return which == PAIRS_FULL ? x > TAU : x <= (which == PAIRS_HALF ? PI : TAU);
}

Pairs pairs_pick(const Analysis *a, const Selection *s, int which, const uint8_t *listed)
{
    const Model *m = a->m;
    Pairs p = pairs_new(m);
    Reading r = {.head = NULL};
    if (which == PAIRS_CANDIDATES) r = reading_new(a, NULL);
    for (int l = 0; l < m->n_layers; l++)
        for (int h = 0; h < m->layer[l].n_heads; h++) {
            const Head *head = r.head ? &r.head[a->first_q[l] + h] : NULL;
            const Axis *ax = axis_of(a, l, h);
            uint8_t *on = pairs_of(&p, l, h);
            for (int j = 0; j < ax->n && selected(s, m, l, h); j++)
                on[j] = head                    ? head->pair[j].candidate != 0
                        : which == PAIRS_LISTED ? listed[j] != 0
                                                : is_in_class(ax, j, which);
        }
    pairs_total(&p, m);
    if (r.head) reading_free(&r);
    return p;
}

/* The pairs of a head that its control is drawn from, into pool; their number. */
static int control_pool(const Analysis *a, const Pairs *like, int l, int h, int any, int *pool)
{
    const Axis *ax = axis_of(a, l, h);
    const uint8_t *on = pairs_of(like, l, h);
    int n = 0;
    for (int j = 0; j < ax->n; j++)
        if (any || (is_in_class(ax, j, PAIRS_FULL) && !on[j])) pool[n++] = j;
    return n;
}

/* want of the n in pool, by Fisher and Yates. */
static void control_draw(uint8_t *on, int *pool, int n, int want, uint64_t rng)
{
    for (int i = 0; i < want; i++) {
        int k = i + (int)(rng_next(&rng) % (uint64_t)(n - i)), drawn = pool[k];
        pool[k] = pool[i];
        on[drawn] = 1;
    }
}

Pairs pairs_control(const Analysis *a, const Pairs *like, uint64_t seed)
{
    const Model *m = a->m;
    Pairs p = pairs_new(m);
    int *pool = xcalloc((size_t)p.n_pairs + 1, sizeof *pool);
    uint64_t mixed = rng_next(&seed);
    for (int l = 0; l < m->n_layers; l++)
        for (int h = 0; h < m->layer[l].n_heads; h++)
            p.any |= control_pool(a, like, l, h, 0, pool) < pairs_count(like, l, h);
    p.forced = 1;
    for (int l = 0; l < m->n_layers; l++)
        for (int h = 0; h < m->layer[l].n_heads; h++) {
            int n = control_pool(a, like, l, h, p.any, pool), want = pairs_count(like, l, h);
            uint64_t place = (uint64_t)l << 32 | (uint64_t)h;
            control_draw(pairs_of(&p, l, h), pool, n, want, mixed ^ place);
            p.forced &= want == 0 || want == n;
        }
    pairs_total(&p, m);
    free(pool);
    return p;
}

static void drop_head(Edit *e, const Rope *r, int l, int h, const uint8_t *on)
{
    for (int j = 0; j < r->n_pairs; j++) {
        int a, b;
        if (!on[j]) continue;
        rope_pair(r, j, &a, &b);
        edit_q(e, l, h, a, 0);
        edit_q(e, l, h, b, 0);
    }
}

Edit *edit_drop(const Model *m, const Pairs *p)
{
    Edit *e = edit_new(m);
    for (int l = 0; l < m->n_layers; l++)
        for (int h = 0; h < m->layer[l].n_heads; h++)
            drop_head(e, &m->rope[m->layer[l].rope], l, h, pairs_of(p, l, h));
    return e;
}

/* Sums over tokens of one value of a head, and of its square. */
typedef struct {
    double sum, sq;
} ValueSum;

struct Channels {
    const Model *m;
    Probe probe;
    uint64_t *n_q, *n_k; /* tokens: [L][max_heads], [L][max_kv_heads] */
    ValueSum *q, *k;     /* the same, by D values */
};

static void add_channels(ValueSum *s, int D, int n, const float *x, size_t stride)
{
    for (int i = 0; i < n; i++, x += stride)
        for (int c = 0; c < D; c++) {
            double v = (double)x[c];
            s[c].sum += v;
            s[c].sq += v * v;
        }
}

static void channels_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q,
                       size_t stride)
{
    const Channels *c = ctx;
    size_t head = (size_t)l * (size_t)c->m->max_heads + (size_t)h, D = (size_t)c->m->head_dim;
    (void)pos;
    if (stage != AFTER_ROPE) return;
    c->n_q[head] += (uint64_t)n;
    add_channels(c->q + head * D, (int)D, n, q, stride);
}

static void channels_k(void *ctx, int l, int kh, int stage, int pos, int n, const float *k,
                       size_t stride)
{
    const Channels *c = ctx;
    size_t head = (size_t)l * (size_t)c->m->max_kv_heads + (size_t)kh, D = (size_t)c->m->head_dim;
    (void)pos;
    if (stage != AFTER_ROPE) return;
    c->n_k[head] += (uint64_t)n;
    add_channels(c->k + head * D, (int)D, n, k, stride);
}

Channels *channels_new(const Model *m)
{
    Channels *c = xcalloc(1, sizeof *c);
    size_t L = (size_t)m->n_layers, D = (size_t)m->head_dim;
    size_t Q = L * (size_t)m->max_heads + 1, K = L * (size_t)m->max_kv_heads + 1;
    c->m = m;
    c->probe = (Probe){.want = PROBE_QK, .ctx = c, .q = channels_q, .k = channels_k};
    c->n_q = xcalloc(Q, sizeof *c->n_q);
    c->n_k = xcalloc(K, sizeof *c->n_k);
    c->q = xcalloc(Q * D, sizeof *c->q);
    c->k = xcalloc(K * D, sizeof *c->k);
    return c;
}

void channels_free(Channels *c)
{
    if (!c) return;
    free(c->n_q), free(c->n_k);
    free(c->q), free(c->k);
    free(c);
}

const Probe *channels_probe(const Channels *c)
{
    return &c->probe;
}

/* The n channels of the smallest norms, into at[D]. */
static void lowest_channels(const double *sq, int D, int n, int *at)
{
    for (int c = 0, found = 0; c < D; c++) {
        int below = 0; /* channels before c in the order of rising norms */
        for (int i = 0; i < D; i++) below += sq[i] < sq[c] || (i < c && !(sq[i] > sq[c]));
        if (below < n) at[found++] = c;
    }
}

/* Are all query heads of key head kh selected? */
static int group_selected(const Selection *s, const Model *m, int l, int kh)
{
    int group = m->layer[l].n_heads / m->layer[l].n_kv_heads, all = 1;
    for (int h = kh * group; h < (kh + 1) * group; h++) all &= selected(s, m, l, h);
    return all;
}

Edit *edit_massive(const Channels *c, const Selection *s, double ratio, int lowest)
{
    const Model *m = c->m;
    Edit *e = edit_new(m);
    int D = m->head_dim, *at = xcalloc((size_t)D, sizeof *at);
    double *sq = xcalloc((size_t)D, sizeof *sq);
    for (int l = 0; l < m->n_layers; l++) {
        const Layer *y = &m->layer[l];
        for (int i = 0; i < y->n_heads + y->n_kv_heads; i++) {
            int is_q = i < y->n_heads, h = is_q ? i : i - y->n_heads;
            size_t head = (size_t)l * (size_t)(is_q ? m->max_heads : m->max_kv_heads) + (size_t)h;
            const ValueSum *sum = (is_q ? c->q : c->k) + head * (size_t)D;
            double n_tokens = (double)(is_q ? c->n_q : c->n_k)[head];
            if (is_q ? !selected(s, m, l, h) : !group_selected(s, m, l, h)) continue;
            for (int v = 0; v < D; v++) sq[v] = sum[v].sq;
            int n = massive_channels(sq, D, ratio, at);
            if (lowest) lowest_channels(sq, D, n, at);
            for (int r = 0; r < n; r++)
                (is_q ? edit_q : edit_k)(e, l, h, at[r], (float)(sum[at[r]].sum / n_tokens));
        }
    }
    free(at), free(sq);
    return e;
}

Sinks analysis_sinks(const Analysis *a, const Selection *s)
{
    Reading r = reading_new(a, NULL), y = {.a = a};
    y.head = xcalloc((size_t)r.n_heads + 1, sizeof *y.head);
    for (int i = 0; i < r.n_heads; i++)
        if (selected(s, a->m, r.head[i].l, r.head[i].h)) y.head[y.n_heads++] = r.head[i];
    read_totals(&y);
    Sinks out = {.alpha_1 = y.alpha,
                 .uniform = y.uniform,
                 .sink_1 = y.sink,
                 .sink_eps = a->o.sink_eps,
                 .n_queries = y.whole_t,
                 .t = y.t,
                 .n_samples = y.n_samples,
                 .n_elsewhere = y.n_elsewhere,
                 .elsewhere = y.elsewhere};
    free(y.head);
    reading_free(&r);
    return out;
}

/* Everything is of the heads that the edit may touch, if not all. */
static const Sinks *sinks_of(const Ablation *b, const AblationRun *r)
{
    return b->sel->layers || b->sel->heads ? &r->chosen : &r->all;
}

/* The least and the most of a figure over the controls of run i; how many there are. */
typedef double Figure(const Ablation *b, const AblationRun *r);

static double figure_sink(const Ablation *b, const AblationRun *r)
{
    return sinks_of(b, r)->sink_1;
}

static double figure_alpha(const Ablation *b, const AblationRun *r)
{
    return sinks_of(b, r)->alpha_1;
}

static double figure_ratio(const Ablation *b, const AblationRun *r)
{
    (void)b;
    return r->ratio;
}

typedef struct {
    int n;
    double lo, hi;
} Spread;

static Spread over_controls(const Ablation *b, int i, Figure *figure)
{
    Spread c = {0, ENDLESS, -ENDLESS};
    for (int k = 0; k < b->n; k++) {
        if (b->run[k].control_of != i) continue;
        double v = figure(b, &b->run[k]);
        if (isnan(v) || v < c.lo) c.lo = v; /* a NaN stays */
        if (isnan(v) || v > c.hi) c.hi = v;
        c.n++;
    }
    return c;
}

/* Where a figure of run i lies among those of its controls, in words; equal is within. */
static void place_words(const Ablation *b, int i, Figure *figure, const char *name, char words[96])
{
    Spread c = over_controls(b, i, figure);
    double v = figure(b, &b->run[i]);
    if (!isfinite(v) || !isfinite(c.lo) || !isfinite(c.hi))
        snprintf(words, 96, "a %s that cannot be compared", name);
    else if (v < c.lo || v > c.hi)
        snprintf(words, 96, "the %s %s", v < c.lo ? "lowest" : "highest", name);
    else
        snprintf(words, 96, "a %s within the range of the others", name);
}

/* v in the format, or "no number". */
static const char *number(char s[24], const char *format, double v)
{
    snprintf(s, 24, isfinite(v) ? format : "no number", v);
    return s;
}

/* "1.2 to 1.4", or the one number there is. */
static const char *span(char s[56], const char *format, double unit, Spread r)
{
    char lo[24], hi[24];
    number(lo, format, unit * r.lo);
    number(hi, format, unit * r.hi);
    snprintf(s, 56, "%s%s%s", lo, r.n == 1 ? "" : " to ", r.n == 1 ? "" : hi);
    return s;
}

static void say_controls(const Ablation *b, int i, Bytes *out)
{
    Spread sink = over_controls(b, i, figure_sink), alpha = over_controls(b, i, figure_alpha);
    Spread ratio = over_controls(b, i, figure_ratio);
    char of_sink[96], of_alpha[96], of_ratio[96], t[3][56];
    if (!sink.n) return;
    const AblationRun *c = b->run + i;
    while (c->control_of != i) c++;
    place_words(b, i, figure_sink, "Sink_1", of_sink);
    place_words(b, i, figure_alpha, "mean alpha_1", of_alpha);
    place_words(b, i, figure_ratio, "perplexity", of_ratio);
    say(out,
        "The control, %d run%s with %s: Sink_1^%g %s, alpha_1 %s, the perplexity %s times the "
        "unedited one. Of these %d runs '%s' has %s, %s, and %s.",
        sink.n, plural((uint64_t)sink.n), c->edit, b->options.sink_eps,
        span(t[0], "%.1f%%", 100, sink), span(t[1], "%.3f", 1, alpha), span(t[2], "%.4g", 1, ratio),
        sink.n + 1, b->run[i].name, of_sink, of_alpha, of_ratio);
}

static void say_run(const Ablation *b, int i, Bytes *out)
{
    const AblationRun *u = b->run, *r = &b->run[i];
    const Sinks *was = sinks_of(b, u), *is = sinks_of(b, r);
    char t[8][24];
    say(out,
        "With %s ('%s'), Sink_1^%g goes from %s to %s, alpha_1 from %s to %s (equal weights: %s), "
        "and the perplexity from %s to %s, which is %s times the unedited one.",
        r->edit, r->name, b->options.sink_eps, number(t[0], "%.1f%%", 100 * was->sink_1),
        number(t[1], "%.1f%%", 100 * is->sink_1), number(t[2], "%.3f", was->alpha_1),
        number(t[3], "%.3f", is->alpha_1), number(t[4], "%.3f", is->uniform),
        number(t[5], "%.4g", u->perplexity), number(t[6], "%.4g", r->perplexity),
        number(t[7], "%.4g", r->ratio));
}

/* What the runs show; sentences that are true whatever the numbers are. */
static Bytes ablation_findings(const Ablation *b, const Model *m, const Provenance *p)
{
    Bytes out = {0};
    say(&out, "Edited runs: every run but 'unedited' is of a model whose attention was changed as "
              "its line says; the weights are those of the file.");
    if (b->windows) say(&out, "%s", b->windows);
    say_beyond(m, p, &out);
    if (b->sel->layers || b->sel->heads)
        say(&out,
            "Edited, where not said otherwise, and behind alpha_1 and Sink_1 in these sentences: "
            "layers %s, heads %s.",
            b->sel->layers ? b->sel->layers : "all", b->sel->heads ? b->sel->heads : "all");
    int n_controls = 0; /* the most of a run */
    for (int i = 1; i < b->n; i++) {
        if (b->run[i].control_of >= 0) continue;
        say_run(b, i, &out);
        say_controls(b, i, &out);
        int n = over_controls(b, i, figure_sink).n;
        if (n > n_controls) n_controls = n;
    }
    if (n_controls > 1)
        say(&out,
            "By luck alone a drop that is no different from its %d random controls would come out "
            "below all of them once in %d times, and above all of them as often.",
            n_controls, n_controls + 1);
    const Sinks *before = b->n ? sinks_of(b, b->run) : NULL;
    if (before && before->sink_1 == 0 && before->n_elsewhere)
        say(&out,
            "Sink_1 is 0 in the unedited run: the first token is no sink there. Another key is: in "
            "%d head%s, most often key %d, which these numbers say nothing of.",
            before->n_elsewhere, plural((uint64_t)before->n_elsewhere), before->elsewhere);
    else if (before && before->sink_1 == 0)
        say(&out, "Sink_1 is 0 in the unedited run: there is no sink to take away.");
    if (b->notes.n) bytes_add(&out, b->notes.s, b->notes.n);
    return out;
}

static void print_ablation_run(const Term *t, const Ablation *b, const AblationRun *r)
{
    static const char *const unit[] = {"", "pairs", "values", "rope"};
    FILE *f = t->f;
    const char *indent = r->control_of >= 0 ? "  " : "";
    int wide = 34 - (int)strlen(indent), alone = strlen(r->name) > (size_t)wide;
    if (alone) fprintf(f, "  %s%s\n", indent, r->name);
    fprintf(f, "  %s%-*s", indent, wide, alone ? "" : r->name);
    print_cell(f, 8, 0, r->counts == EDITS_NONE || r->counts == EDITS_ROPE ? NONE : r->n_edited);
    fprintf(f, " %-6s", unit[r->counts]);
    print_cell(f, 11, -6, r->perplexity);
    print_cell(f, 9, -2, r->perplexity_error);
    print_cell(f, 9, -5, r->ratio);
    print_cell(f, 9, -2, r->ratio_error);
    print_cell(f, 8, 3, figure_alpha(b, r));
    print_cell(f, 8, 1, percent_of(figure_sink(b, r), 0.1));
    fputs("%\n", f);
}

static void print_ablation_header(const Term *t, const Ablation *b, const Model *m,
                                  const Provenance *p)
{
    FILE *f = t->f;
    const Sinks *s = sinks_of(b, b->run);
    fprintf(f, "%sropescope %s%s: interventions\n\n", t->bold, ROPESCOPE_VERSION, t->off);
    fprintf(f, "model   %s  sha256 %.12s  %.1f M parameters\n", or_dash(p->model_path),
            or_dash(p->model_sha256), (double)m->n_params / 1e6);
    fprintf(f, "text    %s  sha256 %.12s\n", or_dash(p->text_path), or_dash(p->text_sha256));
    fprintf(f, "        %llu token%s, %llu window%s of up to %d; BOS: %s%s%s\n",
            (unsigned long long)p->n_tokens, plural(p->n_tokens), (unsigned long long)p->n_windows,
            plural(p->n_windows), p->n_ctx, or_dash(p->bos_policy),
            p->text_cut ? "; cut by -n" : "", p->interrupted ? "; interrupted" : "");
    print_beyond(t, m, p);
    print_overrides(t, p);
    fprintf(f, "run     %s, %s kernels, %d thread%s; perplexity: protocol %s, %ld tokens scored\n",
            p->exact ? "exact (float activations)" : "int8 activations", or_dash(p->isa),
            p->n_threads, plural((uint64_t)p->n_threads), b->protocol, b->run->n_tokens);
    fprintf(f, "%sedited  %s%s; layers %s, heads %s; controls from seed %llu\n", t->mark, p->edits,
            t->off, b->sel->layers ? b->sel->layers : "all", b->sel->heads ? b->sel->heads : "all",
            (unsigned long long)b->seed);
    fprintf(f, "sinks   of the %s heads; alpha_1 over windows of %d queries, Sink_1^%g over %d\n",
            b->sel->layers || b->sel->heads ? "selected" : "model's", s->n_queries, s->sink_eps,
            s->t);
}

void ablation_print(const Ablation *b, const Model *m, const Provenance *p, FILE *f,
                    const Screen *s)
{
    locale_t old = c_numbers();
    Term t = term_of(f, s);
    char *lines = NULL;
    size_t n = 0;
    Term to = gather_lines(&t, &lines, &n);
    print_ablation_header(&to, b, m, p);
    print_gathered(&t, &to, &lines);
    fprintf(f,
            "\n%s  run                                 edited         perplexity       +-    ratio"
            "       +- alpha_1   Sink_1%s\n",
            t.dim, t.off);
    for (int i = 0; i < b->n; i++) print_ablation_run(&t, b, &b->run[i]);
    fprintf(f, "\n%sWhat was found%s\n", t.bold, t.off);
    Bytes said = ablation_findings(b, m, p);
    print_said(&t, &said);
    restore_numbers(old);
}

static void json_ablation_sinks(FILE *f, const char *prefix, const Sinks *s)
{
    char alpha[32], uniform[32], sink[32];
    snprintf(alpha, sizeof alpha, "%salpha_1", prefix);
    snprintf(uniform, sizeof uniform, "%salpha_1_uniform", prefix);
    snprintf(sink, sizeof sink, "%ssink_1", prefix);
    JSON_FIELDS(f, {alpha, s->alpha_1}, {uniform, s->uniform}, {sink, s->sink_1});
}

static void json_run(FILE *f, const Ablation *b, const AblationRun *r)
{
    fputs("{\"name\":", f);
    json_str(f, r->name, strlen(r->name));
    json_text(f, "edit", r->edit);
    json_text(f, "n_edited_of",
              (const char *const[]){"", "pairs", "values", "frequencies"}[r->counts]);
    json_text(f, "control_of", r->control_of >= 0 ? b->run[r->control_of].name : NULL);
    JSON_FIELDS(f, {"seed", r->control_of >= 0 ? (double)r->seed : NONE},
                {"n_edited", (double)r->n_edited}, {"perplexity", r->perplexity},
                {"perplexity_error", r->perplexity_error}, {"nll", r->nll}, {"ratio", r->ratio},
                {"ratio_error", r->ratio_error});
    json_ablation_sinks(f, "", &r->all);
    json_ablation_sinks(f, "selected_", &r->chosen);
    JSON_FIELDS(f, {"sink_eps", r->all.sink_eps}, {"sink_t", r->all.t},
                {"alpha_queries", r->all.n_queries}, {"n_samples", (double)r->all.n_samples},
                {"tokens_scored", (double)r->n_tokens});
    fputc('}', f);
}

void ablation_json(const Ablation *b, const Model *m, const Provenance *p, FILE *f)
{
    locale_t old = c_numbers();
    fputc('{', f);
    json_provenance(f, "ropescope.ablation/1", m, p);
    json_text(f, "protocol", b->protocol);
    json_text(f, "windows", b->windows);
    JSON_FIELDS(f, {"first_scored", b->first_scored});
    fputs("},\n\"selection\":{\"layers\":", f);
    const char *layers = b->sel->layers ? b->sel->layers : "all";
    const char *heads = b->sel->heads ? b->sel->heads : "all";
    json_str(f, layers, strlen(layers));
    json_text(f, "heads", heads);
    JSON_FIELDS(f, {"seed", (double)b->seed}, {"controls", b->n_controls});
    fputs("},\n\"runs\":[\n", f);
    for (int i = 0; i < b->n; i++) {
        if (i) fputs(",\n", f);
        json_run(f, b, &b->run[i]);
    }
    fputc(']', f);
    Bytes said = ablation_findings(b, m, p);
    json_findings(f, &said);
    fputs("}\n", f);
    restore_numbers(old);
}

/* ---------------------------------------------------------------- the page */

/* report.html becomes a zero-terminated string of the program. */
#ifdef __APPLE__
#define PAGE_SECTION ".const_data"
#define PAGE_SYMBOL  "_ropescope_page"
#define PAGE_BACK    ".text"
#else
#define PAGE_SECTION ".section .rodata"
#define PAGE_SYMBOL  "ropescope_page"
#define PAGE_BACK    ".previous"
#endif
__asm__(PAGE_SECTION "\n.globl " PAGE_SYMBOL "\n" PAGE_SYMBOL ":\n"
                     ".incbin \"report.html\"\n.byte 0\n" PAGE_BACK "\n");
extern const char ropescope_page[];

/* End of the JSON string that begins at i (after it), or n. */
static size_t json_string_end(Str j, size_t i)
{
    for (i++; i < j.n && j.s[i] != '"'; i++)
        if (j.s[i] == '\\') i++;
    return i < j.n ? i + 1 : j.n;
}

/* The value that begins at *i, which is moved past it; brackets are counted, not checked. */
static Str json_value(Str j, size_t *i)
{
    size_t depth = 0, from = *i;
    while (*i < j.n) {
        char c = j.s[*i];
        if (depth == 0 && *i > from && strchr(",:]} \t\r\n", c)) break;
        if (c == '[' || c == '{') depth++;
        if (c == ']' || c == '}') depth--;
        *i = c == '"' ? json_string_end(j, *i) : *i + 1;
        if (depth == 0 && strchr("\"]}", c)) break;
    }
    return (Str){j.s + from, *i - from};
}

Str json_item(Str o, size_t *i)
{
    while (*i < o.n && strchr(", :\t\r\n", o.s[*i])) ++*i;
    if (*i >= o.n || o.s[*i] == ']' || o.s[*i] == '}') return (Str){NULL, 0};
    return json_value(o, i);
}

Str json_member(Str o, const char *key)
{
    size_t n = strlen(key), i = 1;
    for (Str k = json_item(o, &i); k.n; k = json_item(o, &i)) {
        Str v = json_item(o, &i);
        if (k.n == n + 2 && !memcmp(k.s + 1, key, n)) return v;
    }
    return (Str){NULL, 0};
}

/* One character of HTML text. */
static void html_char(FILE *f, unsigned c)
{
    if (c == '&' || c == '<' || c == '>' || c == '"' || c == '\'' || c == 0xfffd)
        fprintf(f, "&#%u;", c);
    else if (c < 0x20 && c != '\n' && c != '\t')
        fputs("&#65533;", f);
    else
        fputc((int)c, f);
}

static unsigned hex4(const char *s)
{
    char d[5] = {s[0], s[1], s[2], s[3], 0};
    return (unsigned)strtoul(d, NULL, 16);
}

/* A JSON value as HTML text: strings without quotes and escapes, the rest as it is written. */
static void html_value(FILE *f, Str v)
{
    size_t i = v.n && v.s[0] == '"', end = v.n - (i && v.n > 1);
    for (; i < end; i++) {
        if (v.s[i] != '\\' || i + 1 >= end) {
            html_char(f, (unsigned char)v.s[i]);
            continue;
        }
        char c = v.s[++i];
        if (c == 'u' && i + 4 < end) {
            unsigned u = hex4(v.s + i + 1);
            i += 4;
            if (u < 0x80)
                html_char(f, u);
            else
                fprintf(f, "&#%u;", u >= 0xd800 && u <= 0xdfff ? 0xfffd : u);
        } else {
            html_char(f, (unsigned char)(c == 'n' ? '\n' : c == 't' ? '\t' : c));
        }
    }
}

/* Letters and signs the page writes where the ASCII of the other outputs spells them. */
static const char *const page_signs[] = {"pi", "π", "phi",   "φ", "theta", "θ",
                                         "<=", "≤", "delta", "Δ", ">=",    "≥"};

/* Index in page_signs of the word at v.s[i], or -1; a letter stands alone, in no name or path. */
static int page_sign(Str v, size_t i)
{
    for (int k = 0; k < (int)(sizeof page_signs / sizeof *page_signs); k += 2) {
        size_t n = strlen(page_signs[k]), end = i + n;
        if (end > v.n || memcmp(v.s + i, page_signs[k], n)) continue;
        if (!isalpha((unsigned char)v.s[i])) return k;
        char before = i ? v.s[i - 1] : ' ', after = end < v.n ? v.s[end] : ' ';
        if (isalnum((unsigned char)before) || strchr("_/.-\\", before)) continue;
        if (!isalnum((unsigned char)after) && after != '_') return k;
    }
    return -1;
}

/* A JSON string about formulas as HTML text, with the letters of the page: 2 pi is 2π. */
static void html_words(FILE *f, Str v)
{
    Bytes b = {0};
    for (size_t i = 0; i < v.n;) {
        int k = page_sign(v, i);
        if (k < 0) {
            bytes_add(&b, v.s + i++, 1);
            continue;
        }
        int close = k == 0 && i > 1 && v.s[i - 1] == ' ' && isdigit((unsigned char)v.s[i - 2]);
        b.n -= (size_t)close;
        bytes_add(&b, page_signs[k + 1], strlen(page_signs[k + 1]));
        i += strlen(page_signs[k]);
    }
    html_value(f, (Str){b.s, b.n});
    free(b.s);
}

/* A path without its folders. */
static Str base_name(Str path)
{
    for (size_t i = path.n; i > 1; i--)
        if (path.s[i - 1] == '/' && i + 1 < path.n) return (Str){path.s + i, path.n - i - 1};
    return path.n > 1 && *path.s == '"' ? (Str){path.s + 1, path.n - 2} : path;
}

/* Members of a JSON object as terms and descriptions: n / 2 keys, each followed by its label. A
 * label with a leading "?" is a flag ("yes", or left out), with "+" a count left out if 0. */
static void page_members(FILE *f, Str object, const char *const *shown, size_t n)
{
    for (size_t k = 0; k < n; k += 2) {
        Str v = json_member(object, shown[k]);
        int flag = shown[k + 1][0] == '?', rare = flag || shown[k + 1][0] == '+';
        if (!v.n || str_is(v, "null") || (rare && str_is(v, "0"))) continue;
        fprintf(f, "<div><dt>%s</dt><dd>", shown[k + 1] + rare);
        if (flag)
            fputs("yes", f);
        else if (!strcmp(shown[k], "edits"))
            html_words(f, v);
        else
            html_value(f, v);
        fputs("</dd></div>\n", f);
    }
}
#define PAGE_MEMBERS(f, object, ...)                                                               \
    page_members(f, object, (const char *const[]){__VA_ARGS__},                                    \
                 sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* ---- reading the JSON again: the page's own tables */

static Str json_index(Str array, int j) /* n = 0 if there is none */
{
    size_t i = 1;
    Str v = json_item(array, &i);
    for (; v.n && j > 0; j--) v = json_item(array, &i);
    return v;
}

double json_double(Str v)
{
    char s[64], *end;
    if (!v.n || v.n >= sizeof s) return NONE;
    memcpy(s, v.s, v.n);
    s[v.n] = 0;
    double d = strtod(s, &end);
    return end == s || *end ? NONE : d;
}

static double json_number(Str object, const char *key)
{
    return json_double(json_member(object, key));
}

static int json_null(Str v)
{
    return !v.n || str_is(v, "null");
}

/* A whole number of [0, n), or -1. */
static int json_below(Str v, int n)
{
    double d = json_double(v);
    return d >= 0 && d < n ? (int)d : -1;
}

/* Sizes a page can show; what lies beyond is left out of the tables, not of the data. */
enum { PAGE_LAYERS = 1024, PAGE_PAIRS = 1024, PAGE_TOP = 20 };

typedef struct {
    Str head, rope;
    int l, top;
    double ratio; /* r_q r_k of the strongest pair over the median pair; -1: there is none */
} PageHead;

/* What the C code shows of a reading without a script. */
typedef struct {
    Str json, ablation, emergence; /* n = 0: none */
    Str *rope;                     /* [n_layers] */
    PageHead *head;
    size_t n_heads;
    int n_layers, n_pairs;
    double *cell; /* [n_layers, n_pairs] log10 of the largest ratio over the heads, NaN: none */
    char *ring;   /* [n_layers, n_pairs] a candidate in some head */
} Page;

static void page_add_head(Page *p, Str head, int l)
{
    double *cell = p->cell + (size_t)l * (size_t)p->n_pairs;
    char *ring = p->ring + (size_t)l * (size_t)p->n_pairs;
    Str ratio = json_member(head, "ratio"), list = json_member(head, "candidates");
    size_t i = 1;
    Str v = json_item(ratio, &i);
    for (int j = 0; v.n && j < p->n_pairs; j++, v = json_item(ratio, &i)) {
        double level = log10(json_double(v));
        if (isfinite(level) && !(cell[j] >= level)) cell[j] = level;
    }
    i = 1;
    for (v = json_item(list, &i); v.n; v = json_item(list, &i)) {
        int j = json_below(v, p->n_pairs);
        if (j >= 0) ring[j] = 1;
    }
    if ((p->n_heads & (p->n_heads - 1)) == 0) /* room for the next power of two */
        p->head = xrealloc(p->head, 2 * p->n_heads + 1, sizeof *p->head);
    int top = json_below(json_member(head, "top_pair"), p->n_pairs);
    double most = top < 0 ? NONE : json_double(json_index(ratio, top));
    p->head[p->n_heads++] = (PageHead){head, p->rope[l], l, top, isfinite(most) ? most : -1};
}

/* The strongest first; heads of equal strength in their order. */
static int by_ratio(const void *a, const void *b)
{
    const PageHead *x = a, *y = b;
    if (x->ratio != y->ratio) return x->ratio < y->ratio ? 1 : -1;
    return x->head.s < y->head.s ? -1 : x->head.s > y->head.s;
}

static Page page_new(Str json, Str ablation, Str emergence)
{
    Page p = {.json = json, .ablation = ablation, .emergence = emergence};
    Str ropes = json_member(json, "ropes"), layers = json_member(json, "layers"), v;
    if (!ablation.n && !json_null(v = json_member(json, "interventions"))) p.ablation = v;
    for (size_t i = 1; (v = json_item(ropes, &i)).n;) {
        int n = json_below(json_member(v, "n_pairs"), PAGE_PAIRS + 1);
        if (n > p.n_pairs) p.n_pairs = n;
    }
    for (size_t i = 1; json_item(layers, &i).n && p.n_layers < PAGE_LAYERS;) p.n_layers++;
    size_t n = (size_t)p.n_layers * (size_t)p.n_pairs;
    p.rope = xcalloc((size_t)p.n_layers + 1, sizeof *p.rope);
    p.cell = xcalloc(n + 1, sizeof *p.cell);
    p.ring = xcalloc(n + 1, 1);
    for (size_t k = 0; k < n; k++) p.cell[k] = NONE;
    size_t at = 1;
    for (int l = 0; l < p.n_layers; l++) {
        Str layer = json_item(layers, &at), heads = json_member(layer, "heads");
        int r = json_below(json_member(layer, "rope"), PAGE_LAYERS);
        if (r >= 0) p.rope[l] = json_index(ropes, r);
        for (size_t i = 1; (v = json_item(heads, &i)).n;) page_add_head(&p, v, l);
    }
    if (p.n_heads) qsort(p.head, p.n_heads, sizeof *p.head, by_ratio);
    return p;
}

static void page_free(Page *p)
{
    free(p->rope);
    free(p->head);
    free(p->cell);
    free(p->ring);
}

/* ---- what the page says without a script */

static void html_number(FILE *f, double v, const char *format)
{
    if (isfinite(v))
        fprintf(f, format, v);
    else
        fputs("&#8211;", f);
}

static void html_cell(FILE *f, double v, const char *format)
{
    fputs("<td class=\"num\">", f);
    html_number(f, v, format);
    fputs("</td>", f);
}

static void html_text_cell(FILE *f, Str v)
{
    fputs("<td>", f);
    if (!json_null(v)) html_value(f, v);
    fputs("</td>", f);
}

static void html_words_cell(FILE *f, Str v)
{
    fputs("<td>", f);
    if (!json_null(v)) html_words(f, v);
    fputs("</td>", f);
}

/* "model.gguf, text.txt", or the files of q and k; without folders. */
static void page_title(FILE *f, const Page *p)
{
    static const char *const name[] = {"model", "q", "k", "text"};
    Str made = json_member(p->json, "provenance");
    int n = 0;
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        Str v = json_member(made, name[i]);
        if (json_null(v) || str_is(v, "\"\"")) continue;
        fputs(n++ ? ", " : "", f);
        html_value(f, base_name(v));
    }
    fputs(n ? " – ropescope report" : "ropescope report", f);
}

/* "3 windows of 512 tokens": a count as it is written, or nothing. */
static void page_count(FILE *f, Str object, const char *key, const char *before, const char *after)
{
    Str v = json_member(object, key);
    if (json_null(v) || str_is(v, "0")) return;
    fputs(before, f);
    html_value(f, v);
    fputs(str_is(v, "1") && !strcmp(after, " windows") ? " window" : after, f);
}

/* What was read, under the heading. */
static void page_subject(FILE *f, const Page *p)
{
    static const char *const name[] = {"model", "Model", "q",    "Queries",
                                       "k",     "keys",  "text", "text"};
    Str made = json_member(p->json, "provenance");
    fputs("<p id=\"subject\">", f);
    int n = 0;
    for (size_t i = 0; i < sizeof name / sizeof *name; i += 2) {
        Str v = json_member(made, name[i]);
        if (json_null(v) || str_is(v, "\"\"")) continue;
        fprintf(f, "%s%s <b>", n++ ? ", " : "", name[i + 1]);
        html_value(f, base_name(v));
        fputs("</b>", f);
    }
    page_count(f, made, "n_tokens", n ? ": " : "", " tokens");
    page_count(f, made, "generated", ", of them written by the model ", "");
    page_count(f, made, "n_windows", " in ", " windows");
    page_count(f, made, "n_ctx", " of up to ", " tokens");
    fputs("</p>\n", f);
}

/* Every member of an object of strings. */
static void page_terms(FILE *f, Str notes)
{
    Str k;
    for (size_t i = 1; (k = json_item(notes, &i)).n;) {
        fputs("<div><dt>", f);
        html_value(f, k);
        fputs("</dt><dd>", f);
        html_words(f, json_item(notes, &i));
        fputs("</dd></div>\n", f);
    }
}

/* What the less obvious numbers are, as the reading itself says. */
static void page_notes(FILE *f, const Page *p)
{
    Str notes = json_member(p->json, "notes"), said = json_member(p->json, "convention");
    if (json_null(notes) && json_null(said)) return;
    fputs("<details id=\"notes\"><summary>Definitions</summary>\n<dl class=\"long\">\n", f);
    if (!json_null(said)) {
        fputs("<div><dt>convention</dt><dd>", f);
        html_words(f, said);
        fputs("</dd></div>\n", f);
    }
    page_terms(f, notes);
    fputs("</dl></details>\n", f);
}

/* How the reading was made. */
static void page_made(FILE *f, const Page *p)
{
    Str made = json_member(p->json, "provenance"), options = json_member(p->json, "options");
    Str ropes = json_member(p->json, "ropes");
    PAGE_MEMBERS(f, made, "model", "Model", "model_sha256", "SHA-256 of the model", "architecture",
                 "Architecture", "model_bytes", "Bytes of the model", "n_params", "Parameters",
                 "n_layers", "Layers", "n_embd", "Width", "n_heads", "Query heads", "n_kv_heads",
                 "Key heads", "head_dim", "Head size", "n_vocab", "Tokens known", "n_ctx_train",
                 "Trained context", "rope_override",
                 "Intervention: position encoding, not as the file says", "window_override",
                 "Intervention: sliding window, not as the file says", "edits",
                 "Intervention: an edited run, with");
    size_t i = 1;
    for (Str r = json_item(ropes, &i); r.n; r = json_item(ropes, &i))
        PAGE_MEMBERS(f, r, "kind", "Position encoding", "layout", "Layout of the pairs", "base",
                     "Base of θ", "factor", "Context scaling", "with_divisors", "?Divisors of θ",
                     "n_pairs", "Rotary pairs of a head", "n_ctx", "P, tokens of x = θP");
    PAGE_MEMBERS(f, made, "q", "Queries, from the file", "q_sha256", "SHA-256 of that file", "k",
                 "Keys, from the file", "k_sha256", "SHA-256 of that file", "axes",
                 "Axes of the files", "rotated", "Rotated in the files", "positions",
                 "Positions from", "score_scale", "Scores are q k times");
    PAGE_MEMBERS(f, made, "text", "Text", "text_sha256", "SHA-256 of the text", "n_tokens",
                 "Tokens", "generated", "+Tokens the model wrote itself", "sampling",
                 "How it chose them", "n_windows", "Windows", "n_text_windows",
                 "+Windows of the text, not all read", "covered", "Windows read, from and up to",
                 "n_ctx", "Window length", "text_cut", "?Text cut by -n", "interrupted",
                 "?Interrupted before the end of the text", "beyond_context",
                 "+Beyond the trained context: windows reach, tokens", "bytes_left_out",
                 "+Bytes without a token, left out", "pre_override",
                 "Pre-tokenizer, not as the file says", "bos_policy", "BOS", "bos_id",
                 "Token of BOS", "activations", "Activations", "kv", "Keys and values kept as");
    PAGE_MEMBERS(f, options, "n_skip", "Means leave out the first tokens of a window, this many",
                 "strong_ratio", "Strong: r_q r_k over the median pair, at least", "strong_r",
                 "Strong: R_q and R_k, at least", "sink_eps", "Sink: alpha_1 above", "sink_t",
                 "Sink: over the first queries, at most", "massive_ratio",
                 "Massive values of q and k: times the mean of the head, above", "act_min",
                 "Massive activations: |h| above", "act_ratio",
                 "Massive activations: times the median, above");
    PAGE_MEMBERS(f, made, "shards", "+Partial results merged", "version", "ropescope");
}

/* Numbers that are not finite are told before anything is shown of the rest. */
static void page_faults(FILE *f, const Page *p)
{
    Str summary = json_member(p->json, "summary");
    double bad = json_number(summary, "n_not_finite"), of = json_number(summary, "n_pairs");
    double rows = json_number(summary, "n_rows_not_finite");
    if (!(bad > 0) && !(rows > 0)) return;
    fputs("<p class=\"edited\"><strong>Not all numbers are finite.</strong> ", f);
    if (bad > 0) fprintf(f, "%.0f", bad);
    if (bad > 0 && of >= bad) fprintf(f, " of %.0f", of);
    if (bad > 0) fputs(" (head, pair) statistics", f);
    if (rows > 0) fprintf(f, "%s%.0f rows of attention", bad > 0 ? " and " : "", rows);
    fputs(
        " are not finite. They are left out of all that follows, which is of the rest alone.</p>\n",
        f);
}

/* A run with an intervention says so before anything else. */
static void page_edited(FILE *f, const Page *p)
{
    Str edits = json_member(json_member(p->json, "provenance"), "edits");
    if (json_null(edits)) return;
    fputs("<p class=\"edited\"><strong>Edited run.</strong> The model was changed while it was "
          "measured; these are not its own numbers. What was done: ",
          f);
    html_words(f, edits);
    fputs("</p>\n", f);
}

static void page_banners(FILE *f, const Page *p)
{
    page_edited(f, p);
    page_faults(f, p);
}

/* A list of JSON strings. */
static void page_sentences(FILE *f, Str list)
{
    Str v;
    fputs("<ul class=\"found\">\n", f);
    for (size_t i = 1; (v = json_item(list, &i)).n;) {
        fputs("<li>", f);
        html_words(f, v);
        fputs("</li>\n", f);
    }
    fputs("</ul>\n", f);
}

static void page_findings(FILE *f, const Page *p)
{
    Str said = json_member(json_member(p->json, "summary"), "findings");
    page_sentences(f, said);
}

/* "hits of n (share %)" and the share by chance, for pairs named `set`: top or strong. */
static void page_rate(FILE *f, Str bound, const char *set)
{
    char key[32];
    snprintf(key, sizeof key, "%s_hits", set);
    double hits = json_number(bound, key);
    snprintf(key, sizeof key, "%s_of", set);
    double of = json_number(bound, key);
    if (of > 0)
        fprintf(f, "<td class=\"num\">%.0f of %.0f (%.1f&#160;%%)</td>", hits, of,
                percent_of(hits / of, 0.1));
    else
        fputs("<td class=\"num\">&#8211;</td>", f);
    snprintf(key, sizeof key, "%s_chance", set);
    html_cell(f, percent_of(json_number(bound, key), 0.1), "%.1f&#160;%%");
}

static void page_bound(FILE *f, Str b)
{
    static const char *const text[] = {"id", "formula", "meaning", "asked_of"};
    Str exceptions = json_member(b, "exceptions");
    fputs("<tr>", f);
    for (size_t i = 0; i < 4; i++) html_words_cell(f, json_member(b, text[i]));
    page_rate(f, b, "top");
    page_rate(f, b, "strong");
    fputs("<td>", f);
    size_t i = 1;
    Str v = json_item(exceptions, &i);
    for (int n = 0; v.n && n < 3; n++, v = json_item(exceptions, &i))
        fprintf(f, "%sL%.0f.H%.0f pair %.0f", n ? ", " : "", json_double(json_index(v, 0)),
                json_double(json_index(v, 1)), json_double(json_index(v, 2)));
    fputs("</td></tr>\n", f);
}

static void page_bounds(FILE *f, const Page *p)
{
    Str summary = json_member(p->json, "summary"), list = json_member(summary, "bounds");
    size_t i = 1;
    fputs("<div class=\"wide\"><table id=\"bounds\"><thead><tr><th>bound</th><th>formula</th>"
          "<th>meaning</th><th>asked of</th><th class=\"num\">strongest pair of each head</th>"
          "<th class=\"num\">by chance</th><th class=\"num\">strong pairs</th>"
          "<th class=\"num\">by chance</th><th>first exceptions</th></tr></thead><tbody>\n",
          f);
    for (Str b = json_item(list, &i); b.n; b = json_item(list, &i)) page_bound(f, b);
    fputs("</tbody></table></div>\n<p class=\"note\">", f);
    html_words(f, json_member(summary, "chance_note"));
    fputc(' ', f);
    html_words(f, json_member(summary, "bounds_note"));
    fputs("</p>\n", f);
}

static void page_head_row(FILE *f, const PageHead *h)
{
    Str list = json_member(h->head, "candidates");
    double x = json_double(json_index(json_member(h->rope, "x"), h->top));
    double phi = json_double(json_index(json_member(h->head, "phi"), h->top)) / (TAU / 2);
    int candidate = 0;
    size_t i = 1;
    for (Str v = json_item(list, &i); v.n; v = json_item(list, &i))
        candidate |= json_below(v, PAGE_PAIRS) == h->top;
    fprintf(f, "<tr><td class=\"num\">%d</td>", h->l);
    html_cell(f, json_number(h->head, "head"), "%.0f");
    fprintf(f, "<td class=\"num\">%d</td>", h->top);
    html_cell(f, h->ratio, "%.1f");
    html_cell(f, x, "%.4g");
    html_cell(f, phi > 1.999 ? 1.999 : phi, "%.3f");
    html_cell(f, json_number(h->head, "alpha_1"), "%.3f");
    html_text_cell(f, json_index(json_member(h->rope, "class"), h->top));
    fprintf(f, "<td>%s</td></tr>\n", candidate ? "yes" : "");
}

static void page_heads(FILE *f, const Page *p)
{
    size_t n = p->n_heads < PAGE_TOP ? p->n_heads : PAGE_TOP;
    while (n && p->head[n - 1].ratio < 0) n--;
    if (!n) {
        fputs("<p>No head has a rotary pair that could be compared.</p>\n", f);
        return;
    }
    fprintf(f,
            "<p>The %zu of %zu heads whose strongest pair stands out most:</p>\n"
            "<div class=\"wide\"><table><thead><tr><th class=\"num\">layer</th>"
            "<th class=\"num\">head</th><th class=\"num\">pair</th>"
            "<th class=\"num\">times the median pair</th><th class=\"num\">x = θP</th>"
            "<th class=\"num\">φ / π</th><th class=\"num\">alpha_1</th><th>turn over P</th>"
            "<th>candidate</th></tr></thead><tbody>\n",
            n, p->n_heads);
    for (size_t i = 0; i < n; i++) page_head_row(f, &p->head[i]);
    fputs("</tbody></table></div>\n", f);
}

/* ---- the map of layers and pairs as SVG */

enum { CELL = 14, MAP_LEFT = 44, MAP_TOP = 24 };

/* cividis, dark to light: Nuñez, Anderton and Renslow 2018; t in [0, 1] */
static void page_color(double t, char out[8])
{
    static const unsigned anchor[] = {0x00224e, 0x123570, 0x3b496c, 0x575d6d, 0x707173,
                                      0x8a8678, 0xa59c74, 0xc3b369, 0xe1cc55, 0xfee838};
    int i = t >= 1 ? 8 : t > 0 ? (int)(9 * t) : 0, c[3];
    double part = t >= 1 ? 1 : t > 0 ? 9 * t - i : 0;
    for (int k = 0; k < 3; k++) {
        int a = anchor[i] >> (16 - 8 * k) & 255, b = anchor[i + 1] >> (16 - 8 * k) & 255;
        c[k] = (int)(a + (b - a) * part + 0.5);
    }
    snprintf(out, 8, "#%02x%02x%02x", c[0] & 255, c[1] & 255, c[2] & 255);
}

/* The line between the last pair with x above the limit and the first one below, in row l. */
static void map_limit(FILE *f, const Page *p, int l, double limit, const char *dash)
{
    Str xs = json_member(p->rope[l], "x");
    size_t i = 1;
    double before = json_double(json_item(xs, &i));
    for (int j = 1; j < p->n_pairs; j++) {
        double x = json_double(json_item(xs, &i));
        if (before > limit && x <= limit)
            for (int k = 0; k < 2; k++)
                fprintf(f, "<path class=\"%s%s\" d=\"M%d %dv%d\"/>\n", k ? "limit" : "case", dash,
                        MAP_LEFT + j * CELL, MAP_TOP + l * CELL, CELL);
        before = x;
    }
}

static void map_labels(FILE *f, const Page *p)
{
    int bottom = MAP_TOP + p->n_layers * CELL;
    fprintf(f, "<text x=\"0\" y=\"%d\">layer</text>\n", MAP_TOP - 8);
    for (int l = 0; l<p->n_layers; l += p->n_layers> 12 ? 5 : 1)
        fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%d</text>\n", MAP_LEFT - 6,
                MAP_TOP + l * CELL + 11, l);
    for (int j = 0; j<p->n_pairs; j += p->n_pairs> 8 ? 4 : 1)
        fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%d</text>\n",
                MAP_LEFT + j * CELL + CELL / 2, bottom + 14, j);
    fprintf(f, "<text x=\"%d\" y=\"%d\">rotary pair, fastest first</text>\n", MAP_LEFT,
            bottom + 30);
}

static void map_cells(FILE *f, const Page *p, double lo, double hi)
{
    char color[8];
    for (int l = 0; l < p->n_layers; l++)
        for (int j = 0; j < p->n_pairs; j++) {
            size_t i = (size_t)l * (size_t)p->n_pairs + (size_t)j;
            int x = MAP_LEFT + j * CELL, y = MAP_TOP + l * CELL;
            if (!isfinite(p->cell[i])) continue;
            page_color((p->cell[i] - lo) / (hi > lo ? hi - lo : 1), color);
            fprintf(f, "<path fill=\"%s\" d=\"M%d %dh%dv%dh-%dz\"/>\n", color, x, y, CELL, CELL,
                    CELL);
            if (p->ring[i])
                fprintf(f, "<circle class=\"ring\" cx=\"%d\" cy=\"%d\" r=\"3\"/>\n", x + CELL / 2,
                        y + CELL / 2);
        }
}

static void page_map(FILE *f, const Page *p)
{
    size_t n = (size_t)p->n_layers * (size_t)p->n_pairs, most = 0;
    double lo = HUGE_VAL, hi = -HUGE_VAL;
    for (size_t i = 0; i < n; i++) {
        if (p->cell[i] < lo) lo = p->cell[i];
        if (p->cell[i] > hi) hi = p->cell[i], most = i;
    }
    if (!(lo <= hi)) {
        fputs("<p>No pair rotates or none was measured, so there is no map of rotary pairs.</p>\n",
              f);
        return;
    }
    int w = MAP_LEFT + (p->n_pairs < 12 ? 12 : p->n_pairs) * CELL + 8;
    int h = MAP_TOP + p->n_layers * CELL + 38;
    fprintf(f,
            "<svg role=\"img\" viewBox=\"0 0 %d %d\" style=\"max-width:%dpx\">\n"
            "<title>Layers by rotary pairs; largest: layer %d, pair %d, %.1f times the median "
            "pair of its head</title>\n",
            w, h, w < 500 ? 2 * w : w, (int)(most / (size_t)p->n_pairs),
            (int)(most % (size_t)p->n_pairs), pow(10, hi));
    map_cells(f, p, lo, hi);
    for (int l = 0; l < p->n_layers; l++) {
        map_limit(f, p, l, TAU, "");
        map_limit(f, p, l, TAU / 2, " half");
    }
    map_labels(f, p);
    fprintf(f, "</svg>\n<p class=\"note\">Colour: from %.3g (dark) to %.3g (light), logarithmic.",
            pow(10, lo), pow(10, hi));
    fputs("</p>\n", f);
}

/* ---- interventions, data, the whole page */

static void page_run(FILE *f, Str run)
{
    fputs("<tr>", f);
    html_words_cell(f, json_member(run, "name"));
    html_words_cell(f, json_member(run, "edit"));
    html_cell(f, json_number(run, "n_edited"), "%.0f");
    fputs("<td class=\"num\">", f);
    html_number(f, json_number(run, "perplexity"), "%.4f");
    fputs(" &#177; ", f);
    html_number(f, json_number(run, "perplexity_error"), "%.4f");
    fputs("</td>", f);
    html_cell(f, json_number(run, "alpha_1"), "%.4f");
    html_cell(f, percent_of(json_number(run, "sink_1"), 0.1), "%.1f&#160;%%");
    html_cell(f, json_number(run, "tokens_scored"), "%.0f");
    fputs("</tr>\n", f);
}

static void page_interventions(FILE *f, const Page *p)
{
    Str runs = json_member(p->ablation, "runs"), said = json_member(p->ablation, "findings"), v;
    if (!json_item(runs, &(size_t){1}).n) {
        fputs("<p>No intervention was measured with this reading. <code>ropescope ablate</code> "
              "measures them, and <code>ropescope report READING.json --ablation "
              "ABLATION.json</code> shows them here.</p>\n",
              f);
        return;
    }
    Str made = json_member(p->ablation, "provenance");
    Str chosen = json_member(p->ablation, "selection");
    page_sentences(f, said);
    fputs("<div class=\"wide\"><table id=\"runs\"><thead><tr><th>run</th><th>what was done"
          "</th><th class=\"num\">changed</th><th class=\"num\">perplexity</th><th class=\"num\">"
          "alpha_1</th><th class=\"num\">Sink_1</th><th class=\"num\">tokens scored</th></tr>"
          "</thead><tbody>\n",
          f);
    for (size_t i = 1; (v = json_item(runs, &i)).n;) page_run(f, v);
    fputs("</tbody></table></div>\n<dl>\n", f);
    PAGE_MEMBERS(f, chosen, "layers", "Layers edited", "heads", "Heads edited", "seed",
                 "Random seed");
    PAGE_MEMBERS(f, made, "text", "Text", "text_sha256", "SHA-256 of the text", "n_tokens",
                 "Tokens", "n_ctx", "Window length", "version", "ropescope");
    fputs("</dl>\n", f);
}

/* ---- checkpoints over training */

static void page_emergence(FILE *f, const Page *p)
{
    if (p->emergence.n)
        page_sentences(f, json_member(p->emergence, "findings"));
    else
        fputs("<p>No checkpoints were given with this reading. <code>demo/emergence.py</code> "
              "measures them, and <code>ropescope report READING.json --emergence "
              "EMERGENCE.json</code> shows them here.</p>\n",
              f);
}

/* "hits of n (share %)" of the strongest pairs, and by chance. */
static void page_step_bound(FILE *f, Str step, const char *id)
{
    Str b = json_member(json_member(step, "bounds"), id);
    double hits = json_number(b, "top_hits"), of = json_number(b, "top_of");
    fputs("<td class=\"num\">", f);
    if (of > 0)
        fprintf(f, "%.0f of %.0f (by chance %.0f&#160;%%)", hits, of,
                100 * json_number(b, "top_chance"));
    else
        fputs("&#8211;", f);
    fputs("</td>", f);
}

/* Sink_1 without the partial-cycle pairs, and the least and most of it over the controls. */
static void page_step_drops(FILE *f, Str step)
{
    Str run, runs = json_member(step, "ablation");
    double lo = NONE, hi = NONE;
    size_t i = 1;
    if (json_null(runs)) runs = (Str){"[]", 2};
    json_item(runs, &i); /* unedited */
    html_cell(f, percent_of(json_number(json_item(runs, &i), "sink_1"), 0.1), "%.1f&#160;%%");
    while ((run = json_item(runs, &i)).n) {
        double v = json_number(run, "sink_1");
        if (!(v >= lo)) lo = v;
        if (!(v <= hi)) hi = v;
    }
    fputs("<td class=\"num\">", f);
    html_number(f, percent_of(lo, 0.1), "%.1f&#160;%%");
    if (hi > lo) html_number(f, percent_of(hi, 0.1), " to %.1f&#160;%%");
    fputs("</td>", f);
}

static void page_step(FILE *f, Str step)
{
    double n = json_number(step, "n_candidates");
    fputs("<tr>", f);
    html_cell(f, json_number(step, "step"), "%.0f");
    html_cell(f, json_number(step, "perplexity"), "%.4g");
    html_cell(f, percent_of(json_number(step, "sink_1"), 0.1), "%.1f&#160;%%");
    html_cell(f, json_number(step, "alpha_1"), "%.4f");
    fprintf(f, "<td class=\"num\">%.0f", n);
    double heads = json_number(step, "n_candidate_heads");
    if (n > 0) fprintf(f, " in %.0f head%s", heads, plural((uint64_t)heads));
    fputs("</td>", f);
    page_step_bound(f, step, "F1");
    page_step_bound(f, step, "F2");
    page_step_drops(f, step);
    fputs("</tr>\n", f);
}

static void page_steps(FILE *f, const Page *p)
{
    Str steps = json_member(p->emergence, "steps"), v;
    if (!p->emergence.n) return;
    fputs("<div class=\"wide\"><table id=\"steps\"><thead><tr><th class=\"num\">step</th>"
          "<th class=\"num\">perplexity</th><th class=\"num\">Sink_1</th><th class=\"num\">"
          "mean alpha_1</th><th class=\"num\">candidates</th><th class=\"num\">strongest pairs "
          "with x ≤ 2π (T1)</th><th class=\"num\">with x ≤ π (T3)</th><th class=\"num\">Sink_1 "
          "without the partial-cycle pairs</th><th class=\"num\">Sink_1 without as many others"
          "</th></tr></thead><tbody>\n",
          f);
    for (size_t i = 1; (v = json_item(steps, &i)).n;) page_step(f, v);
    fputs("</tbody></table></div>\n<details><summary>How it was measured</summary>\n<dl>\n", f);
    PAGE_MEMBERS(f, json_member(p->emergence, "provenance"), "text", "Text", "text_sha256",
                 "SHA-256 of the text", "n_tokens", "Tokens", "n_windows", "Windows", "n_ctx",
                 "Window length", "bos_policy", "BOS", "protocol", "Protocol of the perplexity",
                 "version", "ropescope");
    PAGE_MEMBERS(f, json_index(json_member(p->emergence, "ropes"), 0), "base", "Base of θ",
                 "n_pairs", "Rotary pairs of a head", "n_ctx", "P, tokens of x = θP");
    PAGE_MEMBERS(f, json_member(p->emergence, "options"), "strong_ratio",
                 "Strong: r_q r_k over the median pair, at least", "strong_r",
                 "Strong: R_q and R_k, at least", "sink_eps", "Sink: alpha_1 above", "share",
                 "The sink is there: Sink_1 above");
    fputs("</dl>\n<h3>Notes</h3>\n<dl class=\"long\">\n", f);
    page_terms(f, json_member(p->emergence, "notes"));
    fputs("</dl></details>\n", f);
}

/* JSON inside a script element: no "<" (which could end it or open a comment), no U+2028/9. */
static void page_data(FILE *f, Str json)
{
    for (size_t i = 0; i < json.n; i++) {
        const char *s = json.s + i;
        if (*s == '<') {
            fputs("\\u003c", f);
        } else if (json.n - i > 2 && !memcmp(s, "\xe2\x80", 2) && (s[2] & 0xfe) == 0xa8) {
            fprintf(f, "\\u202%c", s[2] & 1 ? '9' : '8');
            i += 2;
        } else {
            fputc(*s, f);
        }
    }
}

static void page_reading(FILE *f, const Page *p)
{
    page_data(f, p->json);
}

static void page_ablation(FILE *f, const Page *p)
{
    page_data(f, p->ablation.n ? p->ablation : (Str){"null", 4});
}

static void page_emergence_data(FILE *f, const Page *p)
{
    page_data(f, p->emergence.n ? p->emergence : (Str){"null", 4});
}

/* Marks of report.html, in its order, and what takes their place. */
static const struct {
    const char *mark;
    void (*write)(FILE *f, const Page *p);
} page_parts[] = {
    {"<!--title-->", page_title},         {"<!--edited-->", page_banners},
    {"<!--subject-->", page_subject},     {"<!--findings-->", page_findings},
    {"<!--made-->", page_made},           {"<!--notes-->", page_notes},
    {"<!--bounds-->", page_bounds},       {"<!--map-->", page_map},
    {"<!--heads-->", page_heads},         {"<!--interventions-->", page_interventions},
    {"<!--emergence-->", page_emergence}, {"<!--steps-->", page_steps},
    {"@ablation@", page_ablation},        {"@emergence@", page_emergence_data},
    {"@reading@", page_reading},
};

static int shown_length(Str v) /* of a value in a message */
{
    return v.n < 80 ? (int)v.n : 80;
}

/* A schema of the list: n of them, the last one the newest. */
static int check_schema(const PageFile *in, const char *const *schema, int n, Err *e)
{
    Str found = json_member(json_trim(in->json), "schema");
    for (int i = 0; i < n; i++)
        if (str_is(found, schema[i])) return 0;
    if (!found.n) found = (Str){"none", 4};
    return err_set(e, "%s: schema: expected %s, found %.*s", in->path, schema[n - 1],
                   shown_length(found), found.s);
}

/* An ablation is shown beside a reading of the same model and text, in windows of the same length,
 * that is of the model as it is. A field that one of them lacks is not compared. */
static int check_ablation(const PageFile *reading, const PageFile *ablation, Err *e)
{
    static const char *const field[] = {"model_sha256", "another model",
                                        "text_sha256",  "another text",
                                        "n_ctx",        "windows of another length"};
    Str of = json_member(json_trim(reading->json), "provenance");
    Str made = json_member(json_trim(ablation->json), "provenance");
    for (size_t i = 0; i < sizeof field / sizeof *field; i += 2) {
        Str a = json_member(of, field[i]), b = json_member(made, field[i]);
        if (json_null(a) || json_null(b) || (a.n == b.n && !memcmp(a.s, b.s, a.n))) continue;
        return err_set(e,
                       "%s: the ablation is of %s: %s: expected %.*s, as in the reading %s, found "
                       "%.*s",
                       ablation->path, field[i + 1], field[i], shown_length(a), a.s, reading->path,
                       shown_length(b), b.s);
    }
    Str edits = json_member(of, "edits");
    if (json_null(edits)) return 0;
    return err_set(e,
                   "%s: edits: expected null, as an ablation belongs to a reading of the unedited "
                   "model, found %.*s",
                   reading->path, shown_length(edits), edits.s);
}

/* ---- what a file of checkpoints must be */

enum { LIST_MAX = 1 << 20 };
static const double STEP_MAX = 9007199254740992.0; /* 2^53: up to here every number is exact */

/* A field of an object: a number of [lo, hi], a whole one, or a list of n of them; or a text. */
typedef struct {
    const char *name;
    enum { WANT_NUMBER, WANT_WHOLE, WANT_TEXT } type;
    double lo, hi;
    int null; /* null is taken, too */
} Wanted;

/* Where the check is, for messages: "steps[3].layers[0]"; n_heads, n_pairs: [n_layers]. */
typedef struct {
    const PageFile *in;
    Err *e;
    char at[96];
    int n_layers, n_ropes;
    int *n_heads, *n_pairs, *rope_pairs;
} Look;

/* The value of that name; n = 0 if there is none or, as readers of JSON differ there, another. */
static Str json_once(Str o, const char *key)
{
    size_t n = strlen(key), i = 1;
    Str found = {NULL, 0};
    for (Str k = json_item(o, &i); k.n; k = json_item(o, &i)) {
        Str v = json_item(o, &i);
        if (k.n != n + 2 || memcmp(k.s + 1, key, n)) continue;
        if (found.n) return (Str){NULL, 0};
        found = v;
    }
    return found;
}

static int want_holds(const Wanted *w, Str v)
{
    if (!v.n) return 0;
    if (str_is(v, "null")) return w->null;
    if (w->type == WANT_TEXT) return *v.s == '"';
    double d = json_double(v);
    return d >= w->lo && d <= w->hi && (w->type == WANT_NUMBER || d == floor(d));
}

/* k: place in the list that the field is, or -1. */
static int want_refuse(const Look *look, const Wanted *w, int k, Str found)
{
    static const char *const what[] = {"a number", "a whole number", "text"};
    char place[24] = "", range[64] = "";
    if (k >= 0) snprintf(place, sizeof place, "[%d]", k);
    if (w->type != WANT_TEXT) snprintf(range, sizeof range, " from %g to %g", w->lo, w->hi);
    if (!found.n) found = (Str){"none (or several)", 17};
    return err_set(look->e, "%s: %s%s%s%s: expected %s%s%s, found %.*s", look->in->path, look->at,
                   *look->at ? "." : "", w->name, place, what[w->type], range,
                   w->null ? " or null" : "", shown_length(found), found.s);
}

static int want_fields(const Look *look, Str object, const Wanted *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        Str v = json_once(object, w[i].name);
        if (!want_holds(&w[i], v)) return want_refuse(look, &w[i], -1, v);
    }
    return 0;
}
#define WANT(look, object, ...)                                                                    \
    want_fields(look, object, (const Wanted[]){__VA_ARGS__},                                       \
                sizeof((const Wanted[]){__VA_ARGS__}) / sizeof(Wanted))

/* The bracket that opens v, or it is refused. */
static int want_open(const Look *look, Str v, const char *name, char bracket)
{
    if (v.n && *v.s == bracket) return 0;
    if (!v.n) v = (Str){"none (or several)", 17};
    return err_set(look->e, "%s: %s%s%s: expected %s, found %.*s", look->in->path, look->at,
                   *look->at && *name ? "." : "", name, bracket == '[' ? "a list" : "an object",
                   shown_length(v), v.s);
}

/* A list, called as w is, of n values. */
static int want_list(const Look *look, Str list, const Wanted *w, int n)
{
    Str v;
    int k = 0;
    if (want_open(look, list, w->name, '[')) return -1;
    for (size_t i = 1; (v = json_item(list, &i)).n; k++)
        if (!want_holds(w, v)) return want_refuse(look, w, k, v);
    if (k == n) return 0;
    return err_set(look->e, "%s: %s%s%s: expected %d values, found %d", look->in->path, look->at,
                   *look->at ? "." : "", w->name, n, k);
}

static int want_row(const Look *look, Str object, Wanted w, int n)
{
    return want_list(look, json_once(object, w.name), &w, n);
}

/* The object of that name has these fields. */
static int want_object(Look *look, Str outer, const char *name, const Wanted *w, size_t n)
{
    Str object = json_once(outer, name);
    size_t depth = strlen(look->at);
    if (want_open(look, object, name, '{')) return -1;
    snprintf(look->at + depth, sizeof look->at - depth, "%s%s", depth ? "." : "", name);
    if (want_fields(look, object, w, n)) return -1;
    look->at[depth] = 0;
    return 0;
}
#define WANT_IN(look, outer, name, ...)                                                            \
    want_object(look, outer, name, (const Wanted[]){__VA_ARGS__},                                  \
                sizeof((const Wanted[]){__VA_ARGS__}) / sizeof(Wanted))

/* Checks every item of the list of that name, min of them or more, by `check`, which is told its
 * number. Their count, or -1: refused. */
static int want_each(Look *look, Str object, const char *name, int min,
                     int (*check)(Look *look, Str item, int k))
{
    Str list = json_once(object, name), v;
    size_t depth = strlen(look->at);
    int k = 0;
    if (want_open(look, list, name, '[')) return -1;
    for (size_t i = 1; (v = json_item(list, &i)).n; k++) {
        snprintf(look->at + depth, sizeof look->at - depth, "%s%s[%d]", depth ? "." : "", name, k);
        if (k == LIST_MAX)
            return err_set(look->e, "%s: %s: expected %d at most", look->in->path, look->at, k);
        if (check(look, v, k)) return -1;
    }
    look->at[depth] = 0;
    if (k >= min) return k;
    return err_set(look->e, "%s: %s%s%s: expected one at least, found none", look->in->path,
                   look->at, depth ? "." : "", name);
}

static int want_sentence(Look *look, Str v, int k)
{
    (void)k;
    if (v.n && *v.s == '"') return 0;
    return err_set(look->e, "%s: %s: expected text, found %.*s", look->in->path, look->at,
                   shown_length(v), v.s);
}

static int want_room(const Look *look, int k)
{
    if (k < PAGE_LAYERS) return 0;
    return err_set(look->e, "%s: %s: expected %d at most", look->in->path, look->at, PAGE_LAYERS);
}

static int want_rope(Look *look, Str rope, int k)
{
    if (want_room(look, k) || want_open(look, rope, "", '{') ||
        WANT(look, rope, {"kind", WANT_TEXT, 0, 0, 0}, {"n_pairs", WANT_WHOLE, 0, PAGE_PAIRS, 0},
             {"n_ctx", WANT_NUMBER, 0, 1e15, 1}, {"base", WANT_NUMBER, 0, 1e300, 1}))
        return -1;
    look->rope_pairs[k] = (int)json_number(rope, "n_pairs");
    look->n_ropes = k + 1;
    return want_row(look, rope, (Wanted){"x", WANT_NUMBER, 0, 1e300, 1}, look->rope_pairs[k]);
}

static int want_layer(Look *look, Str layer, int k)
{
    if (want_room(look, k) || want_open(look, layer, "", '{') ||
        WANT(look, layer, {"rope", WANT_WHOLE, 0, look->n_ropes - 1, 0},
             {"n_heads", WANT_WHOLE, 0, 4096, 0}))
        return -1;
    look->n_heads[k] = (int)json_number(layer, "n_heads");
    look->n_pairs[k] = look->rope_pairs[(int)json_number(layer, "rope")];
    look->n_layers = k + 1;
    return 0;
}

/* Of every pair of every head; a file of a large model has none. */
static int want_ratios(const Look *look, Str layer, int heads, int pairs)
{
    const Wanted ratio = {"ratio", WANT_NUMBER, 0, 1e300, 1};
    Str list = json_once(layer, "ratio"), row;
    int h = 0;
    if (!json_member(layer, "ratio").n) return 0;
    if (want_open(look, list, "ratio", '[')) return -1;
    for (size_t i = 1; (row = json_item(list, &i)).n; h++)
        if (want_list(look, row, &ratio, pairs)) return -1;
    if (h == heads) return 0;
    return err_set(look->e, "%s: %s.ratio: expected %d rows, found %d", look->in->path, look->at,
                   heads, h);
}

static int want_step_layer(Look *look, Str layer, int l)
{
    if (want_open(look, layer, "", '{')) return -1;
    if (l >= look->n_layers) return 0; /* their count is checked after them */
    int heads = look->n_heads[l], pairs = look->n_pairs[l];
    const Wanted of_head[] = {
        {"alpha_1", WANT_NUMBER, 0, 1.0001, 1},    {"sink_share", WANT_NUMBER, 0, 1, 1},
        {"top_pair", WANT_WHOLE, 0, pairs - 1, 1}, {"top_ratio", WANT_NUMBER, 0, 1e300, 1},
        {"top_R_q", WANT_NUMBER, 0, 1.0001, 1},    {"top_R_k", WANT_NUMBER, 0, 1.0001, 1},
        {"top_phi", WANT_NUMBER, 0, 6.2832, 1}};
    for (size_t i = 0; i < sizeof of_head / sizeof *of_head; i++)
        if (want_row(look, layer, of_head[i], heads)) return -1;
    if (want_row(look, layer, (Wanted){"ratio_max", WANT_NUMBER, 0, 1e300, 1}, pairs) ||
        want_row(look, layer, (Wanted){"ratio_mean", WANT_NUMBER, 0, 1e300, 1}, pairs))
        return -1;
    return want_ratios(look, layer, heads, pairs);
}

static int want_candidate(Look *look, Str c, int k)
{
    (void)k;
    if (want_open(look, c, "", '{') ||
        WANT(look, c, {"layer", WANT_WHOLE, 0, look->n_layers - 1, 0}))
        return -1;
    int l = (int)json_number(c, "layer");
    return WANT(look, c, {"head", WANT_WHOLE, 0, look->n_heads[l] - 1, 0},
                {"pair", WANT_WHOLE, 0, look->n_pairs[l] - 1, 0}, {"x", WANT_NUMBER, 0, 1e300, 0},
                {"ratio", WANT_NUMBER, 0, 1e300, 0}, {"R_q", WANT_NUMBER, 0, 1.0001, 0},
                {"R_k", WANT_NUMBER, 0, 1.0001, 0}, {"phi", WANT_NUMBER, 0, 6.2832, 0});
}

static int want_run(Look *look, Str run, int k)
{
    (void)k;
    return want_open(look, run, "", '{') ||
                   WANT(look, run, {"name", WANT_TEXT, 0, 0, 0},
                        {"perplexity", WANT_NUMBER, 0, 1e300, 1},
                        {"alpha_1", WANT_NUMBER, 0, 1.0001, 1}, {"sink_1", WANT_NUMBER, 0, 1, 1})
               ? -1
               : 0;
}

static int want_bound(Look *look, Str step, const char *id)
{
    size_t depth = strlen(look->at);
    snprintf(look->at + depth, sizeof look->at - depth, ".bounds");
    if (WANT_IN(look, json_once(step, "bounds"), id, {"top_hits", WANT_WHOLE, 0, 1e9, 0},
                {"top_of", WANT_WHOLE, 0, 1e9, 0}, {"top_chance", WANT_NUMBER, 0, 1, 1}))
        return -1;
    look->at[depth] = 0;
    return 0;
}

static int want_step_fields(Look *look, Str step)
{
    return want_open(look, step, "", '{') ||
           want_open(look, json_once(step, "bounds"), "bounds", '{') ||
           WANT(look, step, {"step", WANT_WHOLE, 0, STEP_MAX, 0}, {"model", WANT_TEXT, 0, 0, 0},
                {"model_sha256", WANT_TEXT, 0, 0, 0}, {"perplexity", WANT_NUMBER, 0, 1e300, 1},
                {"sink_1", WANT_NUMBER, 0, 1, 1}, {"alpha_1", WANT_NUMBER, 0, 1.0001, 1},
                {"n_candidates", WANT_WHOLE, 0, 1e9, 0},
                {"n_candidate_heads", WANT_WHOLE, 0, 1e9, 0}) ||
           want_bound(look, step, "F1") || want_bound(look, step, "F2");
}

static int want_step(Look *look, Str step, int k)
{
    (void)k;
    if (want_step_fields(look, step)) return -1;
    int layers = want_each(look, step, "layers", 1, want_step_layer);
    int n = layers < 0 ? -1 : want_each(look, step, "candidates", 0, want_candidate);
    double said = json_number(step, "n_candidates");
    if (n < 0) return -1;
    if (layers != look->n_layers)
        return err_set(look->e, "%s: %s.layers: expected %d values, found %d", look->in->path,
                       look->at, look->n_layers, layers);
    if (n < said || n > said)
        return err_set(look->e,
                       "%s: %s.n_candidates: expected %d, as there are candidates, found %.0f",
                       look->in->path, look->at, n, said);
    if (str_is(json_once(step, "ablation"), "null")) return 0;
    return want_each(look, step, "ablation", 3, want_run) < 0 ? -1 : 0;
}

/* Steps go up: the figures are drawn from left to right. */
static int want_order(const Look *look, Str steps)
{
    double before = -1;
    int k = 0;
    Str v;
    for (size_t i = 1; (v = json_item(steps, &i)).n; k++) {
        double now = json_number(v, "step");
        if (!(now > before))
            return err_set(look->e, "%s: steps[%d].step: expected more than %.0f, found %.0f",
                           look->in->path, k, before, now);
        before = now;
    }
    return 0;
}

static int want_emergence(Look *look, Str j)
{
    if (WANT_IN(look, j, "provenance", {"text", WANT_TEXT, 0, 0, 0},
                {"n_tokens", WANT_WHOLE, 0, 1e15, 0}, {"n_windows", WANT_WHOLE, 0, 1e15, 0},
                {"n_ctx", WANT_WHOLE, 0, 1e15, 0}) ||
        WANT_IN(look, j, "options", {"strong_ratio", WANT_NUMBER, 0, 1e300, 0},
                {"strong_r", WANT_NUMBER, 0, 1, 0}, {"sink_eps", WANT_NUMBER, 0, 1, 0},
                {"share", WANT_NUMBER, 0, 1, 0}) ||
        WANT_IN(look, j, "events", {"sink", WANT_WHOLE, 0, STEP_MAX, 1},
                {"candidate", WANT_WHOLE, 0, STEP_MAX, 1}))
        return -1;
    return want_each(look, j, "ropes", 1, want_rope) < 0 ||
                   want_each(look, j, "layers", 1, want_layer) < 0 ||
                   want_each(look, j, "steps", 1, want_step) < 0 ||
                   want_each(look, j, "findings", 1, want_sentence) < 0
               ? -1
               : want_order(look, json_member(j, "steps"));
}

/* Checkpoints are shown beside a reading of one of them, as it is. */
static int check_series(const PageFile *reading, const PageFile *emergence, Err *e)
{
    Str made = json_member(json_trim(reading->json), "provenance");
    Str hash = json_member(made, "model_sha256"), edits = json_member(made, "edits"), v;
    Str steps = json_member(json_trim(emergence->json), "steps");
    int found = 0;
    for (size_t i = 1; (v = json_item(steps, &i)).n;) {
        Str of = json_member(v, "model_sha256");
        found |= of.n == hash.n && !memcmp(of.s, hash.s, of.n);
    }
    if (!hash.n) hash = (Str){"none", 4};
    if (!found)
        return err_set(e,
                       "%s: the checkpoints are of another model: model_sha256: expected one of "
                       "them to be that of the reading %s, %.*s",
                       emergence->path, reading->path, shown_length(hash), hash.s);
    if (json_null(edits)) return 0;
    return err_set(e,
                   "%s: edits: expected null, as checkpoints belong to a reading of the unedited "
                   "model, found %.*s",
                   reading->path, shown_length(edits), edits.s);
}

static int check_emergence(const PageFile *reading, const PageFile *emergence, Err *e)
{
    static const char *const of[] = {"\"ropescope.emergence/1\""};
    Look look = {.in = emergence, .e = e};
    if (json_whole(emergence, e) || check_schema(emergence, of, 1, e)) return -1;
    look.n_heads = xcalloc(PAGE_LAYERS, sizeof *look.n_heads);
    look.n_pairs = xcalloc(PAGE_LAYERS, sizeof *look.n_pairs);
    look.rope_pairs = xcalloc(PAGE_LAYERS, sizeof *look.rope_pairs);
    int rc = want_emergence(&look, json_trim(emergence->json));
    free(look.n_heads);
    free(look.n_pairs);
    free(look.rope_pairs);
    return rc ? -1 : check_series(reading, emergence, e);
}

static int check_inputs(const PageFile *reading, const PageFile *ablation,
                        const PageFile *emergence, Err *e)
{
    static const char *const of[] = {"\"ropescope.analysis/1\"", "\"ropescope.analysis/2\""};
    static const char *const run[] = {"\"ropescope.ablation/1\""};
    if (json_whole(reading, e) || check_schema(reading, of, 2, e)) return -1;
    if (ablation->json.s && (json_whole(ablation, e) || check_schema(ablation, run, 1, e) ||
                             check_ablation(reading, ablation, e)))
        return -1;
    return emergence->json.s ? check_emergence(reading, emergence, e) : 0;
}

int report_html(const PageFile *reading, const PageFile *ablation, const PageFile *emergence,
                FILE *f, Err *e)
{
    locale_t old = c_numbers();
    if (check_inputs(reading, ablation, emergence, e)) {
        restore_numbers(old);
        return -1;
    }
    Page p =
        page_new(json_trim(reading->json), json_trim(ablation->json), json_trim(emergence->json));
    const char *at = ropescope_page;
    for (size_t i = 0; i < sizeof page_parts / sizeof *page_parts; i++) {
        const char *mark = strstr(at, page_parts[i].mark);
        MUST(mark);
        fwrite(at, 1, (size_t)(mark - at), f);
        page_parts[i].write(f, &p);
        at = mark + strlen(page_parts[i].mark);
    }
    fputs(at, f);
    page_free(&p);
    restore_numbers(old);
    return ferror(f) ? err_set(e, "report: cannot write the page") : 0;
}

/* ---------------------------------------------------------------- sweep
 * Encodings times contexts on one text: a line of JSON for each cell,
 *
 *   {"schema", "model", "text", "asked", then the settings from "version" on, "rope", "rope_hash",
 *    "context", figures, "bounds"}
 *
 * A file of lines is gone on from. A cell is known by its canonical encoding, the hash of all that
 * this stands for (files of weights, lists of factors, the layers) and its context; the settings
 * must be those of this run; and what follows "version" must be, byte for byte, what is written of
 * the figures that were read from it, so that no other file is taken for one of ours. */

static const char SWEEP_SCHEMA[] = "\"ropescope.sweep/2\"";

static const char *const sweep_figures[SWEEP_FIGURES] = {
    [SWEEP_WINDOWS] = "windows",
    [SWEEP_SCORED] = "tokens_scored",
    [SWEEP_NLL] = "nll",
    [SWEEP_PERPLEXITY] = "perplexity",
    [SWEEP_ERROR] = "perplexity_error",
    [SWEEP_ALPHA] = "alpha_1",
    [SWEEP_UNIFORM] = "alpha_1_uniform",
    [SWEEP_QUERIES] = "alpha_queries",
    [SWEEP_SINK] = "sink_1",
    [SWEEP_SINK_T] = "sink_queries",
    [SWEEP_SAMPLES] = "n_samples",
    [SWEEP_P] = "P",
    [SWEEP_PAIRS] = "n_pairs",
    [SWEEP_PARTIAL] = "n_partial",
    [SWEEP_HALF] = "n_half",
    [SWEEP_STRONG] = "n_strong",
    [SWEEP_CANDIDATES] = "n_candidates",
    [SWEEP_CANDIDATE_HEADS] = "n_candidate_heads",
};
static const char *const sweep_rates[SWEEP_RATES] = {"hits",     "of",     "chance",
                                                     "top_hits", "top_of", "top_chance"};
_Static_assert((int)SWEEP_BOUNDS == (int)N_BOUNDS, "a place for each bound");

static void sweep_rate(double *v, Rate r)
{
    v[0] = r.hits, v[1] = r.of, v[2] = r.chance / r.of;
}

void sweep_observe(SweepCell *c, const Analysis *a)
{
    Reading r = reading_new(a, NULL);
    double *v = c->figure;
    v[SWEEP_ALPHA] = r.alpha, v[SWEEP_UNIFORM] = r.uniform, v[SWEEP_QUERIES] = r.whole_t;
    v[SWEEP_SINK] = r.sink, v[SWEEP_SINK_T] = r.t, v[SWEEP_SAMPLES] = (double)r.n_samples;
    v[SWEEP_P] = a->axis[0].n_ctx;
    for (int i = 1; i < a->n_axes; i++) v[SWEEP_P] = fmax(v[SWEEP_P], a->axis[i].n_ctx);
    v[SWEEP_STRONG] = r.n_strong, v[SWEEP_CANDIDATES] = r.n_candidates;
    v[SWEEP_CANDIDATE_HEADS] = r.n_candidate_heads;
    v[SWEEP_PAIRS] = v[SWEEP_PARTIAL] = v[SWEEP_HALF] = 0;
    for (int i = 0; i < r.n_heads; i++) {
        const Axis *ax = r.head[i].axis;
        v[SWEEP_PAIRS] += ax->n_rotated;
        for (int j = 0; j < ax->n; j++) {
            v[SWEEP_PARTIAL] += ax->theta[j] > 0 && ax->x[j] <= TAU;
            v[SWEEP_HALF] += ax->theta[j] > 0 && ax->x[j] <= PI;
        }
    }
    for (int b = 0; b < N_BOUNDS; b++) {
        sweep_rate(c->bound[b], r.strong_rate[b]);
        sweep_rate(c->bound[b] + 3, r.top_rate[b]);
    }
    reading_free(&r);
}

/* ---- a line */

/* What cells must have in common to stand in one file: "version":..., and so on. */
static void sweep_settings(FILE *f, const Sweep *s)
{
    const AnalysisOptions *o = &s->options;
    fprintf(f, "\"version\":\"%s\"", ROPESCOPE_VERSION);
    json_text(f, "model_sha256", s->p.model_sha256);
    json_text(f, "text_sha256", s->p.text_sha256);
    json_text(f, "bos_policy", s->p.bos_policy);
    json_text(f, "pre_override", s->p.pre_override);
    json_text(f, "window_override", s->p.window_override);
    json_text(f, "rope_layers", s->rope_layers);
    json_text(f, "activations", s->p.exact ? "float" : "int8");
    json_text(f, "kv", s->p.kv);
    json_text(f, "protocol", s->protocol);
    JSON_FIELDS(f, {"n_tokens", (double)s->p.n_tokens},
                {"scored_from", s->scored_from ? s->scored_from : NONE}, {"bos_id", s->p.bos_id},
                {"n_ctx_train", s->m->n_ctx_train}, {"observed", s->observed},
                {"n_skip", o->n_skip}, {"strong_ratio", o->strong_ratio}, {"strong_r", o->strong_r},
                {"sink_eps", o->sink_eps}, {"sink_t", o->sink_t},
                {"train_ctx", o->n_ctx > 0 ? o->n_ctx : NONE});
}

/* The line from the settings on. free() */
static char *sweep_body(const Sweep *s, const SweepCell *c, size_t *n)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, n);
    MUST(f);
    sweep_settings(f, s);
    json_text(f, "rope", c->rope);
    json_text(f, "rope_hash", c->rope_hash);
    JSON_FIELDS(f, {"context", c->context});
    for (int i = 0; i < SWEEP_FIGURES; i++) JSON_FIELDS(f, {sweep_figures[i], c->figure[i]});
    fputs(",\"bounds\":[", f);
    for (int b = 0; b < N_BOUNDS; b++) {
        fprintf(f, "%s{\"id\":\"%s\"", b ? "," : "", bounds[b].id);
        JSON_FIELDS(f, {"share", c->bound[b][0] / c->bound[b][1]});
        for (int i = 0; i < SWEEP_RATES; i++) JSON_FIELDS(f, {sweep_rates[i], c->bound[b][i]});
        fputc('}', f);
    }
    fputs("]}\n", f);
    MUST(fclose(f) == 0);
    return text;
}

void sweep_line(const Sweep *s, int i, Bytes *out)
{
    char *text = NULL;
    size_t n = 0;
    locale_t old = c_numbers();
    FILE *f = open_memstream(&text, &n);
    MUST(f);
    fprintf(f, "{\"schema\":%s", SWEEP_SCHEMA);
    json_text(f, "model", s->p.model_path);
    json_text(f, "text", s->p.text_path);
    json_text(f, "asked", s->cell[i].asked);
    fputc(',', f);
    MUST(fclose(f) == 0);
    bytes_add(out, text, n);
    free(text);
    text = sweep_body(s, &s->cell[i], &n);
    bytes_add(out, text, n);
    free(text);
    restore_numbers(old);
}

/* ---- lines of a file */

/* Every setting of this run is that of the line. */
static int sweep_same_run(const Sweep *s, const PageFile *in, Err *e)
{
    char *text = NULL, key[32];
    size_t n = 0, i = 1;
    int rc = 0;
    FILE *f = open_memstream(&text, &n);
    MUST(f);
    fputc('{', f);
    sweep_settings(f, s);
    fputc('}', f);
    MUST(fclose(f) == 0);
    Str ours = {text, n};
    for (Str k = json_item(ours, &i); k.n && !rc; k = json_item(ours, &i)) {
        Str want = json_item(ours, &i);
        snprintf(key, sizeof key, "%.*s", (int)k.n - 2, k.s + 1);
        Str found = json_member(json_trim(in->json), key);
        if (found.n == want.n && !memcmp(found.s, want.s, want.n)) continue;
        if (!found.n) found = (Str){"none", 4};
        rc = err_set(e,
                     "%s: a cell of other settings: %s: expected %.*s, found %.*s; name another "
                     "file",
                     in->path, key, shown_length(want), want.s, shown_length(found), found.s);
    }
    free(text);
    return rc;
}

/* Is v the string s, as it is written here? */
static int json_says(Str v, const char *s)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    MUST(f);
    json_str(f, s, strlen(s));
    MUST(fclose(f) == 0);
    int same = v.n == n && !memcmp(v.s, text, n);
    free(text);
    return same;
}

/* The cell of a line, or NULL: it was not asked for. */
static SweepCell *sweep_find(const Sweep *s, Str line)
{
    Str rope = json_member(line, "rope"), hash = json_member(line, "rope_hash");
    Str context = json_member(line, "context");
    for (int i = 0; i < s->n; i++) {
        SweepCell *c = &s->cell[i];
        if (json_below(context, c->context + 1) == c->context && json_says(rope, c->rope) &&
            json_says(hash, c->rope_hash))
            return c;
    }
    return NULL;
}

static void sweep_read_figures(SweepCell *c, Str line)
{
    Str list = json_member(line, "bounds");
    for (int i = 0; i < SWEEP_FIGURES; i++) c->figure[i] = json_number(line, sweep_figures[i]);
    for (int b = 0; b < N_BOUNDS; b++)
        for (int i = 0; i < SWEEP_RATES; i++)
            c->bound[b][i] = json_number(json_index(list, b), sweep_rates[i]);
}

static int sweep_read_line(Sweep *s, const PageFile *in, Err *e)
{
    static const char *const schema[] = {SWEEP_SCHEMA};
    static const char first[] = "\"version\":";
    size_t n = 0;
    if (json_whole(in, e) || check_schema(in, schema, 1, e) || sweep_same_run(s, in, e)) return -1;
    Str line = json_trim(in->json);
    SweepCell *c = sweep_find(s, line);
    if (!c) return 0;
    int again = c->done;
    if (!again) sweep_read_figures(c, line);
    char *want = sweep_body(s, c, &n);
    const char *from = json_member(line, "version").s - (sizeof first - 1);
    size_t found = (size_t)(line.s + line.n - from);
    int same = found == n - 1 && !memcmp(from, want, found); /* want ends with a newline */
    free(want);
    if (!again) c->done = same;
    if (same) return 0;
    return err_set(e, "%s: expected %s, found other figures or words", in->path,
                   again ? "what a line before it says of the same cell"
                         : "a cell as it is written here");
}

int sweep_read(Sweep *s, const char *path, Str text, size_t *whole, Err *e)
{
    char name[300];
    locale_t old = c_numbers();
    size_t at = 0;
    int rc = 0;
    for (int n = 1; !rc; n++) {
        const char *end = at < text.n ? memchr(text.s + at, '\n', text.n - at) : NULL;
        if (!end) break;
        PageFile in = {name, {text.s + at, (size_t)(end - text.s) - at}};
        snprintf(name, sizeof name, "%.200s: line %d", path, n);
        rc = sweep_read_line(s, &in, e);
        at = (size_t)(end - text.s) + 1;
    }
    restore_numbers(old);
    *whole = at;
    if (rc) return -1;
    char head[64];
    size_t n = (size_t)snprintf(head, sizeof head, "{\"schema\":%s,", SWEEP_SCHEMA);
    if (n > text.n - at) n = text.n - at;
    if (!n || memcmp(head, text.s + at, n) == 0) return 0;
    return err_set(e, "%s: expected lines of sweep, found something else; name another file", path);
}

/* ---- the table */

enum { SWEEP_LABEL = 30, SWEEP_ROWS = 12 };
static const double SWEEP_BREAK = 2; /* times the lowest perplexity */

static int sweep_ropes(const Sweep *s)
{
    return s->n / s->n_contexts;
}

static const SweepCell *sweep_at(const Sweep *s, int rope, int k)
{
    return &s->cell[rope * s->n_contexts + k];
}

/* NaN: not measured yet. */
static double sweep_perplexity(const Sweep *s, int rope, int k)
{
    const SweepCell *c = sweep_at(s, rope, k);
    return c->done ? c->figure[SWEEP_PERPLEXITY] : NONE;
}

static const char *sweep_name(const Sweep *s, int rope)
{
    const char *asked = sweep_at(s, rope, 0)->asked;
    return asked ? asked : "as the file says";
}

static int longest_of(const Sweep *s)
{
    return s->cell[s->n_contexts - 1].context;
}

static char sweep_letter(int rope)
{
    static const char letter[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    return rope < (int)sizeof letter - 1 ? letter[rope] : '#';
}

static int sweep_done(const Sweep *s)
{
    int n = 0;
    for (int i = 0; i < s->n; i++) n += s->cell[i].done;
    return n;
}

static void print_sweep_header(const Term *t, const Sweep *s)
{
    FILE *f = t->f;
    const Provenance *p = &s->p;
    fprintf(f, "%sropescope %s%s: encodings by contexts\n\n", t->bold, ROPESCOPE_VERSION, t->off);
    fprintf(f, "model   %s  sha256 %.12s  %.1f M parameters; trained for %d tokens\n",
            or_dash(p->model_path), or_dash(p->model_sha256), (double)s->m->n_params / 1e6,
            s->m->n_ctx_train);
    fprintf(f, "text    %s  sha256 %.12s\n", or_dash(p->text_path), or_dash(p->text_sha256));
    fprintf(f, "        %llu tokens of it%s; BOS: %s\n", (unsigned long long)p->n_tokens,
            p->text_cut ? ", the first" : "", or_dash(p->bos_policy));
    fprintf(f, "run     %s, keys and values %s, %s kernels, %d thread%s; protocol %s\n",
            p->exact ? "exact (float activations)" : "int8 activations", p->kv, or_dash(p->isa),
            p->n_threads, plural((uint64_t)p->n_threads), s->protocol);
    print_overrides(t, p);
    if (s->rope_layers)
        fprintf(f, "layers  %s%s alone have the encoding asked for%s\n", t->mark, s->rope_layers,
                t->off);
}

static void print_sweep_table(const Term *t, const Sweep *s)
{
    FILE *f = t->f;
    int train = s->m->n_ctx_train;
    fprintf(f, "\n%sPerplexity%s%*s", t->bold, t->off, SWEEP_LABEL - 5, "context");
    for (int k = 0; k < s->n_contexts; k++)
        fprintf(f, "%8d%c", sweep_at(s, 0, k)->context,
                train > 0 && sweep_at(s, 0, k)->context > train ? '*' : ' ');
    fputc('\n', f);
    for (int r = 0; r < sweep_ropes(s); r++) {
        fprintf(f, "  %c  %-*.*s", sweep_letter(r), SWEEP_LABEL, SWEEP_LABEL, sweep_name(s, r));
        for (int k = 0; k < s->n_contexts; k++) print_cell(f, 9, -5, sweep_perplexity(s, r, k));
        fputc('\n', f);
    }
    if (train > 0 && longest_of(s) > train) fputs("  * beyond the trained context\n", f);
}

static void print_sweep_cell(FILE *f, int rope, const SweepCell *c)
{
    const double *v = c->figure;
    fprintf(f, "  %c %8d", sweep_letter(rope), c->context);
    print_cell(f, 11, -5, v[SWEEP_PERPLEXITY]);
    print_cell(f, 9, -2, v[SWEEP_ERROR]);
    print_cell(f, 8, 3, v[SWEEP_ALPHA]);
    print_cell(f, 8, 1, percent_of(v[SWEEP_SINK], 0.1));
    fputc('%', f);
    print_cell(f, 7, 0, v[SWEEP_STRONG]);
    print_cell(f, 6, 0, v[SWEEP_CANDIDATES]);
    for (int b = 0; b < N_BOUNDS; b++)
        print_cell(f, 5, 0, percent_of(c->bound[b][0] / c->bound[b][1], 1));
    fputc('\n', f);
}

static void print_sweep_cells(const Term *t, const Sweep *s)
{
    FILE *f = t->f;
    fprintf(f, "\n%s    context perplexity       +- alpha_1   Sink_1 strong cand.", t->dim);
    for (int b = 0; b < N_BOUNDS; b++) fprintf(f, "  %s%%", bounds[b].id);
    fprintf(f, "%s\n", t->off);
    for (int i = 0; i < s->n; i++)
        if (s->cell[i].done) print_sweep_cell(f, i / s->n_contexts, &s->cell[i]);
    print_note(t,
               "alpha_1: mean attention to the first token; Sink_1: share of heads and windows "
               "that give it more than %g. Strong pairs, offset feature candidates among them, and "
               "the share of strong pairs that satisfies each bound, over all heads. %s",
               s->options.sink_eps, BOUND_NOTE);
}

/* ---- the chart */

/* Row of v, of SWEEP_ROWS, on a logarithmic axis; -1: none. */
static int sweep_row(double v, double lo, double hi)
{
    if (!isfinite(v)) return -1;
    return (int)floor(log(v / lo) / log(hi / lo) * (SWEEP_ROWS - 1) + 0.5);
}

static int sweep_range(const Sweep *s, double *lo, double *hi)
{
    *lo = ENDLESS, *hi = -ENDLESS;
    for (int i = 0; i < s->n; i++) {
        double v = sweep_perplexity(s, i / s->n_contexts, i % s->n_contexts);
        if (v < *lo) *lo = v;
        if (isfinite(v) && v > *hi) *hi = v;
    }
    return *lo > 0 && *hi > *lo * 1.001;
}

/* One column for each encoding in the group of each context: its letter at its perplexity. */
static void print_sweep_chart(const Term *t, const Sweep *s)
{
    FILE *f = t->f;
    double lo, hi;
    int n = sweep_ropes(s), wide = n + 2 < 8 ? 8 : n + 2;
    if (!sweep_range(s, &lo, &hi) || 12 + wide * s->n_contexts > t->width) return;
    fprintf(f, "\n%sPerplexity by context, both axes logarithmic%s\n", t->bold, t->off);
    for (int row = SWEEP_ROWS - 1; row >= 0; row--) {
        print_cell(f, 10, -4, lo * pow(hi / lo, (double)row / (SWEEP_ROWS - 1)));
        fputs(" |", f);
        for (int k = 0; k < s->n_contexts; k++) {
            fputs("  ", f);
            for (int r = 0; r < n; r++) {
                int at = sweep_row(sweep_perplexity(s, r, k), lo, hi);
                fputc(at == row ? sweep_letter(r) : at > row ? '.' : ' ', f);
            }
            fprintf(f, "%*s", k + 1 < s->n_contexts ? wide - 2 - n : 0, "");
        }
        fputc('\n', f);
    }
    fprintf(f, "%*s +", 10, "");
    for (int i = 0; i < wide * s->n_contexts; i++) fputc('-', f);
    fprintf(f, "\n%*s", 12, "");
    for (int k = 0; k < s->n_contexts; k++)
        fprintf(f, "  %-*d", wide - 2, sweep_at(s, 0, k)->context);
    fputc('\n', f);
}

/* ---- what it shows */

/* The encoding of the lowest perplexity at context k, the first of equals; -1: none. */
static int sweep_best(const Sweep *s, int k, int *equals)
{
    int best = -1;
    *equals = 0;
    for (int r = 0; r < sweep_ropes(s); r++) {
        double v = sweep_perplexity(s, r, k),
               least = best < 0 ? ENDLESS : sweep_perplexity(s, best, k);
        if (v < least)
            best = r, *equals = 0;
        else if (best >= 0 && v <= least)
            ++*equals;
    }
    return best;
}

static void say_sweep_best(const Sweep *s, Bytes *out)
{
    char words[1600] = "";
    for (int k = 0; k < s->n_contexts; k++) {
        int equals, r = sweep_best(s, k, &equals);
        size_t n = strlen(words);
        if (r < 0) continue;
        snprintf(words + n, sizeof words - n, "%s %d %.60s%s (%.4g)", n ? ", at" : " at",
                 sweep_at(s, r, k)->context, sweep_name(s, r), equals ? ", not alone" : "",
                 sweep_perplexity(s, r, k));
    }
    if (*words && sweep_ropes(s) > 1) say(out, "Lowest perplexity:%s.", words);
}

/* Where encoding r first has more than SWEEP_BREAK times the lowest perplexity that any has at that
 * context or a shorter one. */
static void say_sweep_break(const Sweep *s, int r, Bytes *out)
{
    double least = ENDLESS, v = NONE, times = NONE;
    int last = -1;
    for (int k = 0; k < s->n_contexts && !(times > SWEEP_BREAK); k++) {
        int equals, best = sweep_best(s, k, &equals);
        if (best >= 0) least = fmin(least, sweep_perplexity(s, best, k));
        if (isnan(sweep_perplexity(s, r, k))) continue;
        last = k;
        v = sweep_perplexity(s, r, k);
        times = v / least;
    }
    if (last < 0) return;
    const char *how = !(times > SWEEP_BREAK) ? "holds up to" : last ? "breaks at" : "is broken at";
    say(out, "%s %s %d: perplexity %.4g there, %.3g times the lowest there or before.",
        sweep_name(s, r), how, sweep_at(s, r, last)->context, v, times);
}

static Bytes sweep_findings(const Sweep *s)
{
    Bytes out = {0};
    int missing = s->n - sweep_done(s);
    if (s->windows) say(&out, "%s", s->windows);
    if (missing) say(&out, "%d of %d cells are missing.", missing, s->n);
    say_sweep_best(s, &out);
    say(&out,
        "Broken is said of more than %g times the lowest perplexity that any encoding here has "
        "at the same context or a shorter one.",
        SWEEP_BREAK);
    for (int r = 0; r < sweep_ropes(s); r++) say_sweep_break(s, r, &out);
    return out;
}

void sweep_print(const Sweep *s, FILE *f, const Screen *screen)
{
    locale_t old = c_numbers();
    Term t = term_of(f, screen);
    char *lines = NULL;
    size_t n = 0;
    Term to = gather_lines(&t, &lines, &n);
    print_sweep_header(&to, s);
    print_gathered(&t, &to, &lines);
    print_sweep_table(&t, s);
    if (s->observed) print_sweep_cells(&t, s);
    print_sweep_chart(&t, s);
    fprintf(f, "\n%sWhat was found%s\n", t.bold, t.off);
    Bytes said = sweep_findings(s);
    print_said(&t, &said);
    restore_numbers(old);
}

/* ---------------------------------------------------------------- array files: .npy and safetensors
 * Arrays of numbers as other programs keep them: .npy (NEP 1, versions 1 to 3) and safetensors.
 * Both are little-endian, as the machine is (run.c refuses others). Nothing in a file is trusted:
 * every length is held against the bytes that are there before it is used. */

static double at_f16(const uint8_t *p)
{
    int bits = p[0] | p[1] << 8, exponent = bits >> 10 & 31, m = bits & 1023;
    double v = exponent == 31 ? (m ? NONE : ENDLESS)
               : exponent     ? ldexp(1024 + m, exponent - 25)
                              : ldexp(m, -24);
    return bits & 0x8000 ? -v : v;
}

static double at_bf16(const uint8_t *p)
{
    uint32_t bits = (uint32_t)(p[0] | p[1] << 8) << 16;
    float v;
    memcpy(&v, &bits, 4);
    return (double)v;
}

static double at_f32(const uint8_t *p)
{
    float v;
    memcpy(&v, p, 4);
    return (double)v;
}

static double at_f64(const uint8_t *p)
{
    double v;
    memcpy(&v, p, 8);
    return v;
}

static double at_i32(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}

static double at_i64(const uint8_t *p)
{
    int64_t v;
    memcpy(&v, p, 8);
    return (double)v;
}

/* The types of elements: as .npy and as safetensors call them ("": it does not). */
struct ArrayType {
    const char *npy, *st;
    size_t bytes;
    double (*at)(const uint8_t *p); /* NULL: known by its size alone */
};

static const struct ArrayType array_types[] = {
    {"<f2", "F16", 2, at_f16}, {"", "BF16", 2, at_bf16},  {"<f4", "F32", 4, at_f32},
    {"<f8", "F64", 8, at_f64}, {"<i4", "I32", 4, at_i32}, {"<i8", "I64", 8, at_i64},
    {"|b1", "BOOL", 1, NULL},  {"|u1", "U8", 1, NULL},    {"|i1", "I8", 1, NULL},
    {"<u2", "U16", 2, NULL},   {"<i2", "I16", 2, NULL},   {"<u4", "U32", 4, NULL},
    {"<u8", "U64", 8, NULL},   {"", "F8_E4M3", 1, NULL},  {"", "F8_E5M2", 1, NULL},
    {"", "F8_E8M0", 1, NULL},  {"<c8", "C64", 8, NULL},
};
#define N_ARRAY_TYPES (sizeof array_types / sizeof *array_types)

static const struct ArrayType *array_type(Str name, int npy)
{
    for (size_t i = 0; name.n && i < N_ARRAY_TYPES; i++)
        if (str_is(name, npy ? array_types[i].npy : array_types[i].st)) return &array_types[i];
    return NULL;
}

/* A name from a file, fit for a message. */
static const char *shown(Str s, char buf[64])
{
    size_t n = s.n < 60 ? s.n : 60;
    for (size_t i = 0; i < n; i++) buf[i] = s.s[i] >= ' ' && s.s[i] < 127 ? s.s[i] : '?';
    snprintf(buf + n, 64 - n, "%s", s.n > n ? "..." : "");
    return buf;
}

/* A text and how far it has been read. */
typedef struct {
    const char *path;
    Str text;
    size_t i;
    Err *e;
    const char *in; /* before "byte 12" in messages: "header, ", or "" */
} Scan;

static void scan_space(Scan *s)
{
    while (s->i < s->text.n && s->text.s[s->i] && strchr(" \t\r\n", s->text.s[s->i])) s->i++;
}

/* The character c, after any white space? Then it is passed. */
static int scan_is(Scan *s, char c)
{
    scan_space(s);
    if (s->i >= s->text.n || s->text.s[s->i] != c) return 0;
    s->i++;
    return 1;
}

static int scan_want(Scan *s, char c)
{
    if (scan_is(s, c)) return 0;
    char buf[64], found[72] = "its end";
    if (s->i < s->text.n)
        snprintf(found, sizeof found, "'%s'", shown((Str){s->text.s + s->i, 1}, buf));
    return err_set(s->e, "%s: %sbyte %zu: expected '%c', found %s", s->path, s->in, s->i, c, found);
}

/* A whole number without sign. */
static int scan_size(Scan *s, size_t *out)
{
    size_t from, v = 0;
    scan_space(s);
    for (from = s->i; s->i < s->text.n; s->i++) {
        unsigned digit = (unsigned)(unsigned char)s->text.s[s->i] - '0';
        if (digit > 9) break;
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, digit, &v))
            return err_set(s->e, "%s: %sbyte %zu: the number is too large", s->path, s->in, from);
    }
    *out = v;
    if (s->i > from && (s->i == from + 1 || s->text.s[from] != '0')) return 0;
    return err_set(s->e, "%s: %sbyte %zu: expected a whole number", s->path, s->in, from);
}

/* The lengths of the axes, up to `close`; those past ARRAY_DIMS are counted, not kept. */
static int scan_shape(Scan *s, char close, Array *a)
{
    for (a->n_dims = 0; !scan_is(s, close);) {
        size_t len;
        if (scan_size(s, &len)) return -1;
        if (a->n_dims < ARRAY_DIMS) a->shape[a->n_dims] = len;
        if (__builtin_mul_overflow(a->n_dims++ ? a->n : 1, len, &a->n))
            return err_set(s->e, "%s: shape: the product of the lengths is too large", s->path);
        if (scan_is(s, ',')) continue;
        if (scan_want(s, close)) return -1;
        break;
    }
    if (a->n_dims == 0) a->n = 1;
    return 0;
}

/* Strides in elements: the last axis is the fastest, or the first one (fortran). */
static void array_strides(Array *a, int fortran)
{
    size_t step = 1;
    for (int i = 0; i < a->n_dims; i++) {
        int d = fortran ? i : a->n_dims - 1 - i;
        a->stride[d] = step;
        step *= a->shape[d];
    }
}

/* Can the array be used: its type be read, its axes be kept? */
static int array_usable(const Array *a, Str type, const char *path, Err *e)
{
    char buf[64];
    if (!a->type || !a->type->at)
        return err_set(e,
                       "%s: type: expected float16, bfloat16, float32, float64, int32 or int64, "
                       "little-endian; found '%s'",
                       path, shown(type, buf));
    if (a->n_dims > ARRAY_DIMS)
        return err_set(e, "%s: shape: expected %d axes at most, found %d", path, ARRAY_DIMS,
                       a->n_dims);
    return 0;
}

/* A string without escapes, between one of two quotes: " in JSON, either in Python. */
static int scan_str(Scan *s, char other, Str *out)
{
    char quote = scan_is(s, other) ? other : '"';
    if (quote != other && scan_want(s, quote)) return -1;
    size_t from = s->i;
    while (s->i < s->text.n && s->text.s[s->i] != quote && s->text.s[s->i] != '\\') s->i++;
    *out = (Str){s->text.s + from, s->i - from};
    return scan_want(s, quote);
}

static int npy_bool(Scan *s, int *out)
{
    scan_space(s);
    const char *at = s->text.s + s->i;
    size_t left = s->text.n - s->i;
    *out = left >= 4 && !memcmp(at, "True", 4);
    if (!*out && (left < 5 || memcmp(at, "False", 5)))
        return err_set(s->e, "%s: fortran_order: expected True or False", s->path);
    s->i += *out ? 4 : 5;
    return 0;
}

/* {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }: each key once, in any order. */
static int npy_dict(Scan *s, Array *a, Str *descr, int *fortran)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    unsigned seen = 0;
    if (scan_want(s, '{')) return -1;
    while (!scan_is(s, '}')) {
        Str key;
        int k = 0;
        char buf[64];
        if (scan_str(s, '\'', &key) || scan_want(s, ':')) return -1;
        while (k < 3 && !str_is(key, keys[k])) k++;
        if (k == 3 || seen >> k & 1)
            return err_set(s->e,
                           "%s: header: expected 'descr', 'fortran_order' and 'shape', once "
                           "each; found '%s'",
                           s->path, shown(key, buf));
        seen |= 1u << k;
        if (k == 0   ? scan_str(s, '\'', descr)
            : k == 1 ? npy_bool(s, fortran)
                     : scan_want(s, '(') || scan_shape(s, ')', a))
            return -1;
        if (!scan_is(s, ',') && (s->i >= s->text.n || s->text.s[s->i] != '}'))
            return scan_want(s, '}');
    }
    scan_space(s); /* the padding */
    if (seen == 7 && s->i == s->text.n) return 0;
    return err_set(s->e,
                   "%s: header: expected 'descr', 'fortran_order' and 'shape' and nothing "
                   "else",
                   s->path);
}

static int npy_parse(Array *a, const char *path, const uint8_t *p, size_t size, Err *e)
{
    size_t before = size > 6 && p[6] == 1 ? 10 : 12, len, bytes;
    Str descr = {"", 0};
    int fortran = 0;
    if (size < before) return err_set(e, "%s: the file ends within its header", path);
    if (p[6] < 1 || p[6] > 3 || p[7])
        return err_set(e, "%s: version: expected 1.0, 2.0 or 3.0, found %d.%d", path, p[6], p[7]);
    len = p[8] | (size_t)p[9] << 8;
    if (before == 12) len |= (size_t)p[10] << 16 | (size_t)p[11] << 24;
    if (len > size - before)
        return err_set(e, "%s: header: expected %zu bytes, the file has %zu", path, len,
                       size - before);
    Scan s = {path, {(const char *)p + before, len}, 0, e, "header, "};
    if (npy_dict(&s, a, &descr, &fortran)) return -1;
    a->type = array_type(descr, 1);
    if (array_usable(a, descr, path, e)) return -1;
    if (__builtin_mul_overflow(a->n, a->type->bytes, &bytes) || bytes != size - before - len)
        return err_set(e, "%s: expected %zu values of %zu bytes after the header, found %zu bytes",
                       path, a->n, a->type->bytes, size - before - len);
    a->data = p + before + len;
    array_strides(a, fortran);
    return 0;
}

/* One tensor of a safetensors file; its name lies in the arena of names. */
typedef struct {
    Array a; /* type, shape and n */
    Str dtype;
    size_t name, name_n, begin, end;
} StTensor;

typedef struct {
    Scan s;
    Bytes names; /* all names and metadata keys, decoded */
    StTensor *t;
    size_t n, cap;
} StHeader;

static int json_hex(Scan *s, unsigned *out)
{
    *out = 0;
    for (int k = 0; k < 4; k++, s->i++) {
        int c = s->i < s->text.n ? s->text.s[s->i] : 0;
        int digit = c >= '0' && c <= '9'                 ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                         : -1;
        if (digit < 0)
            return err_set(s->e, "%s: %sbyte %zu: expected a hexadecimal digit", s->path, s->in,
                           s->i);
        *out = *out * 16 + (unsigned)digit;
    }
    return 0;
}

/* Code point u, in UTF-8. */
static void add_utf8(Bytes *b, unsigned u)
{
    char c[4];
    size_t n = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; u >>= 6) c[i] = (char)(0x80 | (u & 0x3f));
    c[0] = (char)(n == 1 ? u : (0xf00u >> n & 0xf0) | u);
    bytes_add(b, c, n);
}

/* What follows a backslash. */
static int json_escape(Scan *s, Bytes *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = s->i < s->text.n ? s->text.s[s->i++] : 0;
    const char *at = c ? strchr(from, c) : NULL;
    unsigned u, low = 0;
    if (at) {
        bytes_add(out, to + (at - from), 1);
        return 0;
    }
    if (c != 'u') return err_set(s->e, "%s: %sbyte %zu: no such escape", s->path, s->in, s->i);
    if (json_hex(s, &u)) return -1;
    if (u >= 0xd800 && u < 0xdc00 && s->text.n - s->i > 6 && !memcmp(s->text.s + s->i, "\\u", 2)) {
        s->i += 2;
        if (json_hex(s, &low)) return -1;
        if (low >= 0xdc00 && low < 0xe000) u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
    }
    if (u >= 0xd800 && u < 0xe000)
        return err_set(s->e, "%s: %sbyte %zu: half a surrogate pair", s->path, s->in, s->i);
    add_utf8(out, u);
    return 0;
}

/* A JSON string, decoded and appended to out. */
static int json_read_str(Scan *s, Bytes *out)
{
    if (scan_want(s, '"')) return -1;
    while (s->i < s->text.n && s->text.s[s->i] != '"') {
        const char *at = s->text.s + s->i;
        int len = utf8_len(at, s->text.n - s->i);
        if (len <= 0 || (unsigned char)*at < 0x20)
            return err_set(s->e, "%s: %sbyte %zu: not a character of a JSON string", s->path, s->in,
                           s->i);
        s->i += (size_t)len;
        if (*at != '\\')
            bytes_add(out, at, (size_t)len);
        else if (json_escape(s, out))
            return -1;
    }
    return scan_want(s, '"');
}

/* Digits, one at least. */
static int scan_digits(Scan *s)
{
    size_t from = s->i;
    while (s->i < s->text.n && isdigit((unsigned char)s->text.s[s->i])) s->i++;
    if (s->i > from) return 0;
    return err_set(s->e, "%s: %sbyte %zu: expected a digit", s->path, s->in, s->i);
}

/* One of the characters a and b? Then it is passed. */
static int scan_either(Scan *s, char a, char b)
{
    int yes = s->i < s->text.n && (s->text.s[s->i] == a || s->text.s[s->i] == b);
    s->i += (size_t)yes;
    return yes;
}

/* A number of JSON: -12, 0.5, 1e-3; no 012, .5, 1., +1. */
static int scan_number(Scan *s)
{
    scan_either(s, '-', '-');
    if (!scan_either(s, '0', '0') && scan_digits(s)) return -1;
    if (scan_either(s, '.', '.') && scan_digits(s)) return -1;
    if (!scan_either(s, 'e', 'E')) return 0;
    scan_either(s, '+', '-');
    return scan_digits(s);
}

static int scan_word(Scan *s)
{
    static const char *const words[] = {"true", "false", "null"};
    for (int k = 0; k < 3; k++) {
        size_t n = strlen(words[k]);
        if (s->text.n - s->i < n || memcmp(s->text.s + s->i, words[k], n)) continue;
        s->i += n;
        return 0;
    }
    return err_set(s->e, "%s: %sbyte %zu: expected a value", s->path, s->in, s->i);
}

static int scan_value(Scan *s, Bytes *skipped, int deep);

/* What is between the brackets of a list or an object, and the closing one. */
static int scan_inside(Scan *s, Bytes *skipped, int deep, char close)
{
    if (!deep)
        return err_set(s->e, "%s: %sbyte %zu: expected at most %d brackets open", s->path, s->in,
                       s->i, JSON_DEEP);
    if (scan_is(s, close)) return 0;
    do {
        skipped->n = 0;
        if (close == '}' && (scan_space(s), json_read_str(s, skipped) || scan_want(s, ':')))
            return -1;
        if (scan_value(s, skipped, deep - 1)) return -1;
    } while (scan_is(s, ','));
    return scan_want(s, close);
}

/* Reads one value and forgets it. */
static int scan_value(Scan *s, Bytes *skipped, int deep)
{
    scan_space(s);
    char c = s->i < s->text.n ? s->text.s[s->i] : 0;
    skipped->n = 0;
    if (c == '"') return json_read_str(s, skipped);
    if (scan_is(s, '{')) return scan_inside(s, skipped, deep, '}');
    if (scan_is(s, '[')) return scan_inside(s, skipped, deep, ']');
    return c == '-' || isdigit((unsigned char)c) ? scan_number(s) : scan_word(s);
}

Str json_trim(Str j)
{
    while (j.n && *j.s && strchr(" \t\r\n", *j.s)) j.s++, j.n--;
    return j;
}

int json_whole(const PageFile *in, Err *e)
{
    Bytes skipped = {0};
    Scan s = {in->path, in->json, (size_t)(json_trim(in->json).s - in->json.s), e, ""};
    if (s.i >= s.text.n || s.text.s[s.i] != '{')
        return err_set(e, "%s: expected a JSON object, found %s", in->path,
                       s.i < s.text.n ? "something else" : "nothing");
    int bad = scan_value(&s, &skipped, JSON_DEEP);
    free(skipped.s);
    if (bad) return -1;
    scan_space(&s);
    if (s.i == s.text.n) return 0;
    return err_set(e, "%s: byte %zu: expected its end, found more after the object", in->path, s.i);
}

/* "dtype":"F32","shape":[2,3],"data_offsets":[0,24]}: each key once, in any order. */
static int st_entry(Scan *s, StTensor *t)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    unsigned seen = 0;
    if (scan_want(s, '{')) return -1;
    do {
        Str key;
        int k = 0;
        if (scan_str(s, '"', &key) || scan_want(s, ':')) return -1;
        while (k < 3 && !str_is(key, keys[k])) k++;
        if (k == 3 || seen >> k & 1)
            return err_set(s->e,
                           "%s: %sbyte %zu: expected dtype, shape and data_offsets, "
                           "once each",
                           s->path, s->in, s->i);
        seen |= 1u << k;
        if (k == 0   ? scan_str(s, '"', &t->dtype)
            : k == 1 ? scan_want(s, '[') || scan_shape(s, ']', &t->a)
                     : scan_want(s, '[') || scan_size(s, &t->begin) || scan_want(s, ',') ||
                           scan_size(s, &t->end) || scan_want(s, ']'))
            return -1;
    } while (scan_is(s, ','));
    if (scan_want(s, '}')) return -1;
    if (seen == 7) return 0;
    return err_set(s->e, "%s: %sbyte %zu: expected dtype, shape and data_offsets", s->path, s->in,
                   s->i);
}

/* {"key":"value",...}: strings to strings, read and forgotten. */
static int st_metadata(Scan *s)
{
    Bytes skipped = {0};
    int rc = scan_want(s, '{'), more = !rc && !scan_is(s, '}');
    while (!rc && more) {
        skipped.n = 0;
        rc = json_read_str(s, &skipped) || scan_want(s, ':') || json_read_str(s, &skipped);
        more = !rc && scan_is(s, ',');
        if (!rc && !more) rc = scan_want(s, '}');
    }
    free(skipped.s);
    return rc ? -1 : 0;
}

static Str st_name(const StHeader *h, const StTensor *t)
{
    return (Str){h->names.s ? h->names.s + t->name : "", t->name_n};
}

/* "name":{...}; the metadata becomes a tensor of no type and no bytes. */
static int st_member(StHeader *h)
{
    size_t from = h->names.n;
    if (json_read_str(&h->s, &h->names) || scan_want(&h->s, ':')) return -1;
    if (h->n == h->cap) {
        h->cap = 2 * h->cap + 16;
        h->t = xrealloc(h->t, h->cap, sizeof *h->t);
    }
    StTensor *t = &h->t[h->n++];
    *t = (StTensor){.name = from, .name_n = h->names.n - from, .dtype = {"", 0}};
    return str_is(st_name(h, t), "__metadata__") ? st_metadata(&h->s) : st_entry(&h->s, t);
}

static int st_by_offset(const void *x, const void *y)
{
    const StTensor *a = x, *b = y;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    return (a->end > b->end) - (a->end < b->end);
}

static int str_compare(Str a, Str b)
{
    int c = memcmp(a.s, b.s, a.n < b.n ? a.n : b.n);
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static int by_str(const void *x, const void *y)
{
    return str_compare(*(const Str *)x, *(const Str *)y);
}

/* No name twice ("__metadata__" is one of them). */
static int st_names(const StHeader *h)
{
    int rc = 0;
    char buf[64];
    Str *name = xcalloc(h->n + 1, sizeof *name);
    for (size_t i = 0; i < h->n; i++) name[i] = st_name(h, &h->t[i]);
    qsort(name, h->n, sizeof *name, by_str);
    for (size_t i = 1; i < h->n && !rc; i++)
        if (str_compare(name[i - 1], name[i]) == 0)
            rc = err_set(h->s.e, "%s: header: '%s' occurs twice", h->s.path, shown(name[i], buf));
    free(name);
    return rc;
}

/* The tensors fill the bytes after the header, without a gap and without sharing any; each is as
 * long as its type and shape say. Leaves them in the order of the file. */
static int st_layout(StHeader *h, size_t size)
{
    size_t at = 0, bytes;
    char buf[64];
    if (h->n) qsort(h->t, h->n, sizeof *h->t, st_by_offset); /* an empty file has no array */
    for (size_t i = 0; i < h->n; i++) {
        StTensor *t = &h->t[i];
        const char *name = shown(st_name(h, t), buf);
        if (t->begin != at || t->end < t->begin || t->end > size)
            return err_set(h->s.e,
                           "%s: '%s': data_offsets: expected [%zu, at most %zu], found "
                           "[%zu, %zu]",
                           h->s.path, name, at, size, t->begin, t->end);
        at = t->end;
        t->a.type = array_type(t->dtype, 0);
        if (!t->dtype.n || !t->a.type) continue; /* metadata; or a type of unknown size */
        if (__builtin_mul_overflow(t->a.n, t->a.type->bytes, &bytes) || bytes != t->end - t->begin)
            return err_set(h->s.e, "%s: '%s': expected %zu values of %zu bytes, found %zu bytes",
                           h->s.path, name, t->a.n, t->a.type->bytes, t->end - t->begin);
    }
    if (at == size) return 0;
    return err_set(h->s.e, "%s: %zu bytes after the last tensor", h->s.path, size - at);
}

static int st_header(StHeader *h, size_t size)
{
    if (scan_want(&h->s, '{')) return -1;
    if (!scan_is(&h->s, '}')) {
        do
            if (st_member(h)) return -1;
        while (scan_is(&h->s, ','));
        if (scan_want(&h->s, '}')) return -1;
    }
    scan_space(&h->s); /* the padding */
    if (h->s.i < h->s.text.n)
        return err_set(h->s.e, "%s: %sbyte %zu: expected its end", h->s.path, h->s.in, h->s.i);
    return st_names(h) || st_layout(h, size) ? -1 : 0;
}

/* The tensor of that name; without a name the only one. */
static const StTensor *st_choose(const StHeader *h, const char *name, Err *e)
{
    char list[512] = "", buf[64];
    const StTensor *found = NULL;
    size_t n = 0;
    for (size_t i = 0; i < h->n; i++) {
        Str s = st_name(h, &h->t[i]);
        size_t used = strlen(list);
        if (str_is(s, "__metadata__")) continue;
        if (name ? str_is(s, name) : n++ == 0) found = &h->t[i];
        if (sizeof list - used > 80)
            snprintf(list + used, sizeof list - used, "%s'%s'", used ? ", " : "", shown(s, buf));
        else if (used && list[used - 1] != '.')
            snprintf(list + used, sizeof list - used, ", ...");
    }
    if (found && n <= 1) return found;
    if (name)
        err_set(e, "%s: no tensor '%s'; there are: %s", h->s.path,
                shown((Str){name, strlen(name)}, buf), *list ? list : "none");
    else
        err_set(e, "%s: which tensor? Add :NAME to the file's name; there are: %s", h->s.path,
                *list ? list : "none");
    return NULL;
}

static int st_parse(Array *a, const char *path, const char *name, const uint8_t *p, size_t size,
                    Err *e)
{
    uint64_t len;
    enum { MOST = 100000000 }; /* bytes of a header: the limit of the format */
    if (size < 9) return err_set(e, "%s: the file ends within its header", path);
    memcpy(&len, p, 8);
    if (len > size - 8 || len > MOST || p[8] != '{')
        return err_set(e, "%s: expected a .npy or a safetensors file, found neither", path);
    StHeader h = {.s = {path, {(const char *)p + 8, (size_t)len}, 0, e, "header, "}};
    const StTensor *t = st_header(&h, size - 8 - (size_t)len) ? NULL : st_choose(&h, name, e);
    int rc = t ? array_usable(&t->a, t->dtype, path, e) : -1;
    if (!rc) {
        *a = t->a;
        a->data = p + 8 + (size_t)len + t->begin;
        array_strides(a, 0);
    }
    free(h.names.s);
    free(h.t);
    return rc;
}

int array_parse(Array *a, const char *path, const char *name, const uint8_t *data, size_t size,
                Err *e)
{
    *a = (Array){0};
    int is_npy = size >= 6 && !memcmp(data, "\x93NUMPY", 6);
    if (is_npy && name) return err_set(e, "%s: a .npy file has one array, and no name", path);
    return is_npy ? npy_parse(a, path, data, size, e) : st_parse(a, path, name, data, size, e);
}

int array_open(Array *a, const char *path, Err *e)
{
    static const char ending[] = ".safetensors:";
    const char *at = strstr(path, ending);
    size_t n = at ? (size_t)(at - path) + sizeof ending - 2 : strlen(path), size;
    char *file = xcalloc(n + 1, 1);
    memcpy(file, path, n);
    *a = (Array){0};
    const uint8_t *map = map_file(file, &size, e);
    int rc = map ? array_parse(a, file, at ? path + n + 1 : NULL, map, size, e) : -1;
    free(file);
    if (rc) {
        unmap_file(map, size);
        return -1;
    }
    a->map = map, a->size = size;
    return 0;
}

void array_close(Array *a)
{
    unmap_file(a->map, a->size);
    *a = (Array){0};
}

double array_at(const Array *a, size_t i)
{
    return a->type->at(a->data + i * a->type->bytes);
}

/* The bytes that numpy.save writes: at least one space, a multiple of 64 in all, and room for the
 * first axis to grow to 21 digits. */
void npy_header(FILE *f, const char *descr, const size_t *shape, int n_dims)
{
    char h[256] = "";
    int n = snprintf(h, sizeof h, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    MUST(n_dims <= ARRAY_DIMS);
    for (int i = 0; i < n_dims; i++)
        n += snprintf(h + n, sizeof h - (size_t)n, i ? ", %zu" : "%zu", shape[i]);
    n += snprintf(h + n, sizeof h - (size_t)n, n_dims == 1 ? ",), }" : "), }");
    size_t used = (size_t)n;
    if (n_dims) used += 21 - (size_t)snprintf(NULL, 0, "%zu", shape[0]);
    size_t total = ((10 + used + 1) / 64 + 1) * 64;
    uint8_t pre[10] = {0x93,
                       'N',
                       'U',
                       'M',
                       'P',
                       'Y',
                       1,
                       0,
                       (uint8_t)((total - 10) & 255),
                       (uint8_t)((total - 10) >> 8)};
    fwrite(pre, 1, 10, f);
    fprintf(f, "%-*s\n", (int)(total - 11), h);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const NamedArray *)a)->name, ((const NamedArray *)b)->name);
}

static size_t elements(const NamedArray *a)
{
    size_t n = 1;
    for (int i = 0; i < a->n_dims; i++) n *= a->shape[i];
    return n;
}

void safetensors_header(FILE *f, NamedArray *t, size_t n, const Metadata *meta, size_t n_meta)
{
    char *text = NULL;
    size_t len = 0, at = 0;
    FILE *h = open_memstream(&text, &len);
    if (!h) die("out of memory");
    if (n) qsort(t, n, sizeof *t, by_name);
    fputs("{\"__metadata__\":{", h);
    for (size_t i = 0; i < n_meta; i++) {
        if (i) fputc(',', h);
        json_str(h, meta[i].key, strlen(meta[i].key));
        fputc(':', h);
        json_str(h, meta[i].value, strlen(meta[i].value));
    }
    fputc('}', h);
    for (size_t i = 0; i < n; i++) {
        fputc(',', h);
        json_str(h, t[i].name, strlen(t[i].name));
        fputs(":{\"dtype\":\"F32\",\"shape\":[", h);
        for (int d = 0; d < t[i].n_dims; d++) fprintf(h, "%s%zu", d ? "," : "", t[i].shape[d]);
        fprintf(h, "],\"data_offsets\":[%zu,%zu]}", at, at + 4 * elements(&t[i]));
        at += 4 * elements(&t[i]);
    }
    fputc('}', h);
    while (ftell(h) % 8) fputc(' ', h);
    if (fclose(h)) die("out of memory");
    uint64_t n_header = len;
    fwrite(&n_header, 8, 1, f);
    fwrite(text, 1, len, f);
    free(text);
}

/* ---------------------------------------------------------------- activations from files
 * Queries and keys that another program computed, shown to a probe as the forward pass would show
 * them: before and after rotation, then each query's row of causal attention, in the arithmetic of
 * the forward pass. Values are not read, so a row has no output. */

static const char axis_letters[N_AXES + 1] = "lbthd";

/* Which axis of the file is which: their lengths and strides; one that is not there has length
 * 1. */
static int read_axes(Grid *g, const Array *a, const char *axes, const char *path, Err *e)
{
    if (!axes && a->n_dims > 3)
        return err_usage(e, "%s has %d axes: name them with --axes, as bthd or lthd", path,
                         a->n_dims);
    if (!axes) axes = a->n_dims == 2 ? "td" : "thd";
    for (int i = 0; i < N_AXES; i++) g->len[i] = 1, g->step[i] = 0;
    if (strlen(axes) != (size_t)a->n_dims)
        return err_usage(e, "--axes %s: expected %d letters, as many as %s has axes", axes,
                         a->n_dims, path);
    for (int i = 0; i < a->n_dims; i++) {
        const char *at = strchr(axis_letters, axes[i]);
        if (!at || strchr(axes + i + 1, axes[i]))
            return err_usage(e,
                             "--axes %s: expected each letter once, of l (layer), b (window), "
                             "t (token), h (head) and d (channel)",
                             axes);
        if (a->shape[i] < 1 || a->shape[i] > INT_MAX / 2)
            return err_set(e, "%s: axis %d: expected a length from 1 to %d, found %zu", path, i,
                           INT_MAX / 2, a->shape[i]);
        g->len[at - axis_letters] = (int)a->shape[i];
        g->step[at - axis_letters] = a->stride[i];
    }
    if (strchr(axes, 't') && strchr(axes, 'd')) return 0;
    return err_usage(e, "--axes %s: t (token) and d (channel) have to be among them", axes);
}

/* q and k agree in all but their heads; a key head serves as many queries as any other. */
static int check_grids(const Activations *x, Err *e)
{
    static const char *const names[N_AXES] = {"layers", "windows", "tokens", "heads", "channels"};
    const int *q = x->q_grid.len, *k = x->k_grid.len;
    for (int i = 0; i < N_AXES; i++)
        if (i != AXIS_H && q[i] != k[i])
            return err_set(e, "%s: expected as many %s as in %s: %d, found %d", x->o.k, names[i],
                           x->o.q, q[i], k[i]);
    if (q[AXIS_H] % k[AXIS_H] == 0) return 0;
    return err_set(e,
                   "%s: expected a number of key heads that divides the %d query heads of %s, "
                   "found %d",
                   x->o.k, q[AXIS_H], x->o.q, k[AXIS_H]);
}

/* One choice of two words. */
static int choose(const char *option, const char *value, const char *one, const char *two, Err *e)
{
    if (value && strcmp(value, one) == 0) return 0;
    if (value && strcmp(value, two) == 0) return 1;
    if (!value) return err_usage(e, "%s %s or %s: say which", option, one, two);
    return err_usage(e, "%s %s: expected %s or %s", option, value, one, two);
}

/* The encoding that the options describe: its base, its pairs, its trained context. */
static int read_encoding(Activations *x, Rope *r, Err *e)
{
    const ActivationOptions *o = &x->o;
    int D = x->q_grid.len[AXIS_D], n_rot = o->n_rot ? o->n_rot : D;
    int layout = choose("--layout", o->layout, "adjacent", "half", e);
    int rotated = layout < 0 ? -1 : choose("--rotated", o->rotated, "no", "yes", e);
    const RopeKind *kind;
    if (rotated < 0) return -1;
    x->rotated = rotated;
    if (!(o->base > 0)) return err_usage(e, "--base: give the base of the frequencies, as 10000");
    if (!(o->n_ctx > 0))
        return err_usage(e, "--ctx: give the context the model was trained for, as 4096");
    if (n_rot < 2 || n_rot % 2 || n_rot > D)
        return err_usage(e, "--n-rot: expected an even number up to %d, the size of a head%s", D,
                         o->n_rot ? "" : ", which is odd");
    RopeParams p = rope_params(D, o->base);
    p.n_rot = n_rot;
    p.n_ctx_orig = p.n_ctx_train = (int)fmin(o->n_ctx, INT_MAX);
    if (o->rope_scale > 0) p.factor = o->rope_scale;
    const char *spec = o->rope ? o->rope : o->rope_scale > 0 ? "linear" : "plain";
    if (rope_parse(spec, &p, &kind, e)) return -1;
    if (kind->angles || kind->observe || kind->update || kind->bias || kind->part || kind->load ||
        kind->turn || kind->mix || kind->q_scale || kind->position || kind->length ||
        kind->per_layer)
        return err_usage(e,
                         "--rope %s: queries and keys from files are turned by fixed "
                         "frequencies, and this kind does more",
                         kind->name);
    return rope_new(r, kind, &p, layout ? ROPE_HALF : ROPE_ADJACENT, NULL, e);
}

/* The positions of a file: one axis, whole numbers, one for each token. */
static int read_position_file(Activations *x, const char *path, Err *e)
{
    Array a;
    int T = x->q_grid.len[AXIS_T], rc = 0;
    if (array_open(&a, path, e)) return -1;
    if (a.n_dims != 1 || a.n != (size_t)T)
        rc = err_set(e, "%s: expected one axis of %d positions, found %d with %zu values", path, T,
                     a.n_dims, a.n);
    for (int t = 0; !rc && t < T; t++) {
        double v = array_at(&a, (size_t)t);
        if (!(v >= 0 && v <= INT_MAX / 2 && v == floor(v)))
            rc = err_set(e, "%s: position %d: expected a whole number from 0 to %d, found %g", path,
                         t, INT_MAX / 2, v);
        else
            x->pos[t] = (int)v;
    }
    array_close(&a);
    return rc;
}

/* A number: the position of the first token, the others follow it. Else a file. */
static int read_positions(Activations *x, Err *e)
{
    char *end;
    const char *s = x->o.pos ? x->o.pos : "0";
    int T = x->q_grid.len[AXIS_T];
    long first = strtol(s, &end, 10);
    x->pos = xcalloc((size_t)T, sizeof *x->pos);
    if (*end || end == s) return read_position_file(x, s, e);
    if (first < 0 || first > INT_MAX / 2)
        return err_usage(e, "--pos %s: expected a file, or a number from 0 to %d", s, INT_MAX / 2);
    for (int t = 0; t < T; t++) x->pos[t] = (int)first + t;
    return 0;
}

static int read_activations(Activations *x, Err *e)
{
    const ActivationOptions *o = &x->o;
    Rope *r = xcalloc(1, sizeof *r);
    if (read_axes(&x->q_grid, &x->q, o->axes, o->q, e) ||
        read_axes(&x->k_grid, &x->k, o->axes, o->k, e) || check_grids(x, e) ||
        read_positions(x, e) || read_encoding(x, r, e)) {
        free(r);
        return -1;
    }
    const int *q = x->q_grid.len;
    Layer *y = xcalloc((size_t)q[AXIS_L], sizeof *y);
    for (int l = 0; l < q[AXIS_L]; l++)
        y[l] = (Layer){.n_heads = q[AXIS_H], .n_kv_heads = x->k_grid.len[AXIS_H]};
    x->m = model_skeleton(&(ModelShape){.arch = "activations",
                                        .n_layers = q[AXIS_L],
                                        .head_dim = q[AXIS_D],
                                        .n_ctx_train = r->p.n_ctx_orig,
                                        .layer = y,
                                        .rope = r,
                                        .n_ropes = 1});
    if (o->scale > 0) x->m->score_scale = (float)o->scale;
    free(y);
    sha256_hex(x->q.map, x->q.size, x->q_sha256);
    sha256_hex(x->k.map, x->k.size, x->k_sha256);
    return 0;
}

int activations_open(Activations *x, const ActivationOptions *o, Err *e)
{
    *x = (Activations){.o = *o};
    if (!o->q || !o->k) return err_usage(e, "give both, queries with --q and keys with --k");
    if (array_open(&x->q, o->q, e) == 0 && array_open(&x->k, o->k, e) == 0 &&
        read_activations(x, e) == 0)
        return 0;
    activations_close(x);
    return -1;
}

void activations_close(Activations *x)
{
    array_close(&x->q), array_close(&x->k);
    skeleton_free(x->m);
    free(x->pos);
    *x = (Activations){0};
}

/* One layer of one window on its way to the probe. */
typedef struct {
    const Activations *x;
    const Probe *p;
    const Kernels *kernels;
    int l, window;
    float *q, *k; /* [H][T][D], [K][T][D], rotated */
} Feed;

/* One head of one layer and window, as floats [T][D], pairs adjacent. */
static void gather(const Feed *f, const Array *a, const Grid *g, int h, float *out)
{
    size_t T = (size_t)g->len[AXIS_T], D = (size_t)g->len[AXIS_D];
    size_t at = (size_t)f->l * g->step[AXIS_L] + (size_t)f->window * g->step[AXIS_B] +
                (size_t)h * g->step[AXIS_H];
    size_t *row = xcalloc(D, sizeof *row);
    for (size_t c = 0; c < D; c++) row[c] = (size_t)rope_row(f->x->m->rope, (int)c);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < D; c++)
            *out++ = (float)array_at(a, at + t * g->step[AXIS_T] + row[c] * g->step[AXIS_D]);
    free(row);
}

/* x[D] at position pos as it was before rotation: z e^(-i pos theta) / amplitude, in double. */
static void turn_back(const Rope *r, float *x, int pos)
{
    double at = r->p.pos_shift + r->p.pos_scale * pos;
    for (int j = 0; j < r->n_pairs; j++) {
        int ia, ib;
        rope_pair(r, j, &ia, &ib);
        double a = (double)x[ia], b = (double)x[ib], angle = -at * r->inv_freq[j];
        double c = cos(angle) / r->amplitude, s = sin(angle) / r->amplitude;
        x[ia] = (float)(a * c - b * s);
        x[ib] = (float)(a * s + b * c);
    }
}

/* Head i: of the queries, then of the keys; both stages to the probe, the rotated one is kept. */
static void feed_head(const Feed *f, int i)
{
    const Activations *x = f->x;
    const Rope *r = x->m->rope;
    int H = x->m->max_heads, T = x->q_grid.len[AXIS_T], h = i < H ? i : i - H;
    size_t D = (size_t)x->m->head_dim, n = (size_t)T * D;
    float *after = (i < H ? f->q : f->k) + (size_t)h * n;
    float *before = xcalloc(n + D, sizeof *before);
    gather(f, i < H ? &x->q : &x->k, i < H ? &x->q_grid : &x->k_grid, h, before);
    memcpy(after, before, n * sizeof *after);
    for (int t = 0; t < T; t++) {
        if (x->rotated)
            turn_back(r, before + (size_t)t * D, x->pos[t]);
        else
            rope_apply(r, i < H ? ROPE_Q : ROPE_K, 0, after + (size_t)t * D, x->pos[t], before + n);
    }
    if (f->p->want & PROBE_QK) {
        (i < H ? f->p->q : f->p->k)(f->p->ctx, f->l, h, BEFORE_ROPE, 0, T, before, D);
        (i < H ? f->p->q : f->p->k)(f->p->ctx, f->l, h, AFTER_ROPE, 0, T, after, D);
    }
    free(before);
}

enum { FEED_ROWS = 16 }; /* queries that share one pass over the keys */

/* Each query of a head over the keys up to its own: softmax(scale q . k), as forward computes it;
 * memory for FEED_ROWS rows. */
static void feed_rows(const Feed *f, int h)
{
    const Model *m = f->x->m;
    int T = f->x->q_grid.len[AXIS_T], D = m->head_dim;
    size_t head = (size_t)T * (size_t)D, row = (size_t)T;
    const float *q = f->q + (size_t)h * head;
    int kh = h / (m->max_heads / m->max_kv_heads);
    const float *k = f->k + (size_t)kh * head;
    float *weight = xcalloc((FEED_ROWS + 1) * row, sizeof *weight);
    float *score = weight + FEED_ROWS * row;
    for (int i = 0; i < T; i++) {
        int first = i / FEED_ROWS * FEED_ROWS, n = T - first < FEED_ROWS ? T - first : FEED_ROWS;
        if (i == first)
            f->kernels->matmul(weight, row, k, (size_t)D, first + n, q + (size_t)first * (size_t)D,
                               (size_t)D, n, D);
        float *w = weight + (size_t)(i - first) * row;
        for (int t = 0; t <= i; t++) w[t] *= m->score_scale;
        memcpy(score, w, (size_t)(i + 1) * sizeof *w);
        f->kernels->softmax(w, i + 1);
        AttnRow r = {.l = f->l, .h = h, .kh = kh, .pos = i, .n_t = i + 1};
        r.q = q + (size_t)i * (size_t)D, r.k = k + (size_t)i * (size_t)D;
        r.scores = score, r.weights = w;
        f->p->attn(f->p->ctx, &r);
    }
    free(weight);
}

void activations_feed(const Activations *x, int window, const Probe *p, const Kernels *kernels,
                      int n_threads)
{
    const Model *m = x->m;
    int H = m->max_heads, K = m->max_kv_heads;
    size_t head = (size_t)x->q_grid.len[AXIS_T] * (size_t)m->head_dim;
    Feed f = {.x = x, .p = p, .kernels = kernels, .window = window};
    f.q = xcalloc((size_t)H * head, sizeof *f.q);
    f.k = xcalloc((size_t)K * head, sizeof *f.k);
    (void)n_threads; /* used by OpenMP alone */
    for (f.l = 0; f.l < m->n_layers; f.l++) {
#pragma omp parallel for num_threads(n_threads) schedule(dynamic)
        for (int i = 0; i < H + K; i++) feed_head(&f, i);
        if (!(p->want & PROBE_ATTN)) continue;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic)
        for (int h = 0; h < H; h++) feed_rows(&f, h);
    }
    free(f.q), free(f.k);
}

/* ---------------------------------------------------------------- capture
 * Chosen layers and heads of the first window, whole, under the names of TransformerLens. */

static void chain_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q, size_t s)
{
    const ProbeChain *c = ctx;
    for (int i = 0; i < 2; i++)
        if (c->next[i]->want & PROBE_QK) c->next[i]->q(c->next[i]->ctx, l, h, stage, pos, n, q, s);
}

static void chain_k(void *ctx, int l, int kh, int stage, int pos, int n, const float *k, size_t s)
{
    const ProbeChain *c = ctx;
    for (int i = 0; i < 2; i++)
        if (c->next[i]->want & PROBE_QK) c->next[i]->k(c->next[i]->ctx, l, kh, stage, pos, n, k, s);
}

static void chain_attn(void *ctx, const AttnRow *row)
{
    const ProbeChain *c = ctx;
    for (int i = 0; i < 2; i++)
        if (c->next[i]->want & PROBE_ATTN) c->next[i]->attn(c->next[i]->ctx, row);
}

static void chain_resid(void *ctx, int l, int pos, int n, const float *x, size_t stride)
{
    const ProbeChain *c = ctx;
    for (int i = 0; i < 2; i++)
        if (c->next[i]->want & PROBE_RESID)
            c->next[i]->resid(c->next[i]->ctx, l, pos, n, x, stride);
}

const Probe *probe_chain(ProbeChain *c, const Probe *first, const Probe *second)
{
    *c = (ProbeChain){{.want = first->want | second->want,
                       .ctx = c,
                       .q = chain_q,
                       .k = chain_k,
                       .attn = chain_attn,
                       .resid = chain_resid},
                      {first, second}};
    return &c->probe;
}

/* "0,3-5" of n things: chosen[i] becomes i's place in ascending order, or -1. The number chosen, or
 * -1. NULL chooses all. */
static int read_list(const char *list, int n, int *chosen, const char *option, Err *e)
{
    uint8_t *on = xcalloc((size_t)n + 1, 1);
    int count = 0, rc = list_parse(option, list, n, on, e);
    for (int i = 0; i < n; i++) chosen[i] = on[i] ? count++ : -1;
    free(on);
    return rc ? -1 : count;
}

enum { CAP_Q, CAP_ROT_Q, CAP_K, CAP_ROT_K, CAP_Z, N_CAPS };
static const char *const cap_names[] = {"q", "rot_q", "k", "rot_k", "z", "pattern"};

typedef struct {
    int n_heads, n_kv;   /* chosen ones */
    int *head, *kv;      /* [H], [K]: place among the chosen, or -1 */
    float *x[N_CAPS];    /* [room][chosen heads][D] */
    int *filled[N_CAPS]; /* [chosen heads] tokens written */
    float *pattern;      /* [chosen heads][room][room], or NULL */
    int *channel;        /* [D] the place in a head of each channel written */
} CaptureLayer;

struct Capture {
    const Model *m;
    CaptureOptions o;
    int room; /* tokens there is memory for */
    Probe probe;
    CaptureLayer *layer; /* [L]; n_heads 0: not chosen */
};

static int is_key(int what)
{
    return what == CAP_K || what == CAP_ROT_K;
}

/* n tokens from pos on, those of the first window that have room. Positions begin again in the next
 * window; by then every place is filled. */
static void capture_put(const Capture *c, int l, int what, int h, int pos, int n, const float *x,
                        size_t stride)
{
    CaptureLayer *y = &c->layer[l];
    if (!y->n_heads) return;
    int place = is_key(what) ? y->kv[h] : y->head[h], D = c->m->head_dim;
    int heads = is_key(what) ? y->n_kv : y->n_heads;
    if (place < 0) return;
    for (int i = 0; i < n; i++, x += stride) {
        int *filled = &y->filled[what][place];
        if (pos + i != *filled || *filled >= c->room) continue;
        float *to = y->x[what] + ((size_t)*filled * (size_t)heads + (size_t)place) * (size_t)D;
        for (int d = 0; d < D; d++) to[d] = x[what == CAP_Z ? d : y->channel[d]];
        ++*filled;
    }
}

static void capture_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q, size_t s)
{
    capture_put(ctx, l, stage == BEFORE_ROPE ? CAP_Q : CAP_ROT_Q, h, pos, n, q, s);
}

static void capture_k(void *ctx, int l, int kh, int stage, int pos, int n, const float *k, size_t s)
{
    capture_put(ctx, l, stage == BEFORE_ROPE ? CAP_K : CAP_ROT_K, kh, pos, n, k, s);
}

static void capture_attn(void *ctx, const AttnRow *row)
{
    const Capture *c = ctx;
    const CaptureLayer *y = &c->layer[row->l];
    if (!y->n_heads || y->head[row->h] < 0) return;
    size_t place = (size_t)y->head[row->h], room = (size_t)c->room, pos = (size_t)row->pos;
    if (y->pattern && row->pos == y->filled[CAP_Z][place] && pos < room)
        memcpy(y->pattern + (place * room + pos) * room + row->t0, row->weights,
               (size_t)row->n_t * sizeof *row->weights);
    capture_put(c, row->l, CAP_Z, row->h, row->pos, 1, row->out, 0);
}

/* Where forward has channel d of a head in a checkpoint of Hugging Face. */
static int *hf_order(const Rope *r, int D)
{
    int *from = xcalloc((size_t)D, sizeof *from);
    for (int c = 0; c < D; c++) from[rope_hf_row(r, c)] = c;
    return from;
}

/* Memory for the chosen heads of layer l, and the key heads that serve them. */
static int capture_layer(Capture *c, int l, const CaptureOptions *o, Err *e)
{
    const Layer *ly = &c->m->layer[l];
    CaptureLayer *y = &c->layer[l];
    size_t D = (size_t)c->m->head_dim, room = (size_t)c->room;
    y->head = xcalloc((size_t)ly->n_heads, sizeof *y->head);
    y->kv = xcalloc((size_t)ly->n_kv_heads, sizeof *y->kv);
    y->n_heads = read_list(o->heads, ly->n_heads, y->head, "--capture-heads", e);
    if (y->n_heads < 0) return -1;
    for (int kh = 0, group = ly->n_heads / ly->n_kv_heads; kh < ly->n_kv_heads; kh++) {
        int used = 0;
        for (int h = kh * group; h < (kh + 1) * group; h++) used |= y->head[h] >= 0;
        y->kv[kh] = used ? y->n_kv++ : -1;
    }
    y->channel = hf_order(&c->m->rope[ly->rope], c->m->head_dim);
    for (int i = 0; i < N_CAPS; i++) {
        size_t heads = (size_t)(is_key(i) ? y->n_kv : y->n_heads);
        y->x[i] = xcalloc(room * heads, D * sizeof *y->x[i]);
        y->filled[i] = xcalloc(heads, sizeof *y->filled[i]);
    }
    if (o->pattern) y->pattern = xcalloc((size_t)y->n_heads * room, room * sizeof *y->pattern);
    return 0;
}

enum { MOST_PATTERN = 512 }; /* tokens of a captured pattern: it grows with their square */

Capture *capture_new(const Model *m, const CaptureOptions *o, int n_ctx, Err *e)
{
    Capture *c = xcalloc(1, sizeof *c);
    int *chosen = xcalloc((size_t)m->n_layers, sizeof *chosen), rc = 0;
    c->m = m;
    c->o = *o;
    c->room = o->n_tokens && o->n_tokens < n_ctx ? o->n_tokens : n_ctx;
    c->probe = (Probe){.want = PROBE_QK | PROBE_ATTN,
                       .ctx = c,
                       .q = capture_q,
                       .k = capture_k,
                       .attn = capture_attn};
    c->layer = xcalloc((size_t)m->n_layers, sizeof *c->layer);
    if (o->pattern && c->room > MOST_PATTERN)
        rc = err_usage(e,
                       "--capture-pattern: expected --capture-tokens %d at most; a window has "
                       "%d",
                       MOST_PATTERN, n_ctx);
    if (!rc) rc = read_list(o->layers, m->n_layers, chosen, "--capture-layers", e) < 0;
    for (int l = 0; !rc && l < m->n_layers; l++)
        if (chosen[l] >= 0) rc = capture_layer(c, l, o, e);
    free(chosen);
    if (!rc) return c;
    capture_free(c);
    return NULL;
}

const Probe *capture_probe(const Capture *c)
{
    return &c->probe;
}

void capture_free(Capture *c)
{
    if (!c) return;
    for (int l = 0; l < c->m->n_layers; l++) {
        CaptureLayer *y = &c->layer[l];
        for (int i = 0; i < N_CAPS; i++) free(y->x[i]), free(y->filled[i]);
        free(y->head), free(y->kv), free(y->pattern), free(y->channel);
    }
    free(c->layer);
    free(c);
}

/* Tokens that every chosen head has. */
static int capture_tokens(const Capture *c)
{
    int n = c->room;
    for (int l = 0; l < c->m->n_layers; l++)
        for (int i = 0; c->layer[l].n_heads && i < N_CAPS; i++)
            for (int h = 0; h < (is_key(i) ? c->layer[l].n_kv : c->layer[l].n_heads); h++)
                if (c->layer[l].filled[i][h] < n) n = c->layer[l].filled[i][h];
    return n;
}

/* The rows of a pattern [heads][room][room] drawn together to [heads][n][n]. */
static void pack_pattern(CaptureLayer *y, size_t room, size_t n)
{
    for (size_t h = 0; y->pattern && n < room && h < (size_t)y->n_heads; h++)
        for (size_t i = 0; i < n; i++)
            memmove(y->pattern + (h * n + i) * n, y->pattern + (h * room + i) * room,
                    n * sizeof *y->pattern);
}

/* The arrays of one layer, T tokens each. The number added to a. */
static int capture_arrays(const Capture *c, int l, int T, NamedArray *a, char (*names)[64])
{
    const CaptureLayer *y = &c->layer[l];
    int n = !y->n_heads ? 0 : y->pattern ? N_CAPS + 1 : N_CAPS;
    size_t t = (size_t)T, D = (size_t)c->m->head_dim;
    for (int i = 0; i < n; i++) {
        size_t heads = (size_t)(is_key(i) ? y->n_kv : y->n_heads);
        snprintf(names[i], sizeof *names, "blocks.%d.attn.hook_%s", l, cap_names[i]);
        if (i < N_CAPS)
            a[i] = (NamedArray){names[i], 3, {t, heads, D}, y->x[i]};
        else
            a[i] = (NamedArray){names[i], 3, {heads, t, t}, y->pattern};
    }
    return n;
}

/* What was not as the model file has it: "-" if nothing; free(.s). */
static Bytes interventions(const Provenance *p)
{
    Bytes b = {0};
    const char *const made[] = {p->rope_override, p->window_override};
    for (int k = 0; k < 2; k++) {
        const char *part[] = {b.n ? "; " : "", k ? "sliding window '" : "position encoding '",
                              made[k], "' by an option, not as the file says"};
        for (int i = 0; i < 4 && made[k]; i++) bytes_add(&b, part[i], strlen(part[i]));
    }
    if (p->edits && b.n) bytes_add(&b, "; ", 2);
    if (p->edits) bytes_add(&b, p->edits, strlen(p->edits));
    if (!b.n) bytes_add(&b, "-", 1);
    bytes_add(&b, "", 1);
    return b;
}

/* What the arrays are, and how they were made. */
static void capture_header(const Capture *c, const Provenance *p, int T, NamedArray *a, size_t n,
                           FILE *f)
{
    const Rope *r = &c->m->rope[0];
    char tokens[16], rope[256], channels[128];
    Bytes changed = interventions(p);
    snprintf(tokens, sizeof tokens, "%d", T);
    if (rope_hf_row(r, 1) == 1)
        snprintf(channels, sizeof channels,
                 "as in Hugging Face files: rotary pair j is (2j, 2j + 1)");
    else
        snprintf(channels, sizeof channels,
                 "half-split, as in Hugging Face files: rotary pair j is (j, j + %d)",
                 rope_hf_row(r, 1));
    snprintf(rope, sizeof rope,
             "%s, base %.9g, factor %.9g, amplitude %.9g, %d of %d channels rotated, trained "
             "context %d; pairs in the model file: %s",
             r->kind->name, r->p.base, r->p.factor, r->amplitude, 2 * r->n_pairs, c->m->head_dim,
             r->p.n_ctx_orig, r->layout == ROPE_HALF ? "half-split" : "adjacent");
    const Metadata meta[] = {
        {"activations", p->exact ? "float" : "int8"},
        {"bos_policy", or_dash(p->bos_policy)},
        {"channels", channels},
        {"heads", c->o.heads ? c->o.heads : "all"},
        {"intervention", changed.s},
        {"kv_heads", "those that serve the chosen heads, not repeated: [pos, kv_head, d_head]"},
        {"layers", c->o.layers ? c->o.layers : "all"},
        {"model", or_dash(p->model_path)},
        {"model_sha256", or_dash(p->model_sha256)},
        {"n_tokens", tokens},
        {"names", "TransformerLens: hook_q and hook_k before rotation, hook_rot_q and hook_rot_k "
                  "after it, hook_z [pos, head, d_head], hook_pattern [head, query, key]; hook_v "
                  "is not observed"},
        {"rope", rope},
        {"text", or_dash(p->text_path)},
        {"text_sha256", or_dash(p->text_sha256)},
        {"version", "ropescope " ROPESCOPE_VERSION},
    };
    safetensors_header(f, a, n, meta, sizeof meta / sizeof *meta);
    free(changed.s);
}

void capture_write(Capture *c, const Provenance *p, FILE *f)
{
    int T = capture_tokens(c), n = 0, n_layers = c->m->n_layers;
    NamedArray *a = xcalloc((size_t)n_layers * (N_CAPS + 1), sizeof *a);
    char(*names)[64] = xcalloc((size_t)n_layers * (N_CAPS + 1), sizeof *names);
    locale_t old = c_numbers();
    for (int l = 0; l < n_layers; l++) {
        pack_pattern(&c->layer[l], (size_t)c->room, (size_t)T);
        n += capture_arrays(c, l, T, a + n, names + n);
    }
    capture_header(c, p, T, a, (size_t)n, f);
    for (int i = 0; i < n; i++) fwrite(a[i].data, sizeof *a[i].data, elements(&a[i]), f);
    restore_numbers(old);
    free(names);
    free(a);
}

/* ---------------------------------------------------------------- SHA-256 */

typedef struct {
    uint32_t h[8];
    uint64_t n;       /* bytes so far */
    uint8_t tail[64]; /* the last n mod 64 of them */
} Sha;

static uint32_t ror(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* One block of 64 bytes (FIPS 180-4, 6.2.2). */
static void sha_block(Sha *s, const uint8_t *p)
{
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
        0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
        0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
        0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
        0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
        0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
        0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
        0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2};
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++, p += 4)
        w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    for (int i = 16; i < 64; i++)
        w[i] = (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10) + w[i - 7] +
               (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 16];
    memcpy(v, s->h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t e = v[4], a = v[0];
        uint32_t t1 =
            v[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & v[5]) ^ (~e & v[6])) + k[i] + w[i];
        uint32_t t2 =
            (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) s->h[i] += v[i];
}

static const Sha sha_start = {{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                               0x9b05688c, 0x1f83d9ab, 0x5be0cd19},
                              0,
                              {0}};

static void sha_add(Sha *s, const void *data, size_t n)
{
    const uint8_t *p = data;
    size_t held = s->n % 64, room = 64 - held, first = n < room ? n : room;
    s->n += n;
    if (held) {
        memcpy(s->tail + held, p, first);
        if (first < room) return;
        sha_block(s, s->tail);
        p += first, n -= first;
    }
    for (; n >= 64; p += 64, n -= 64) sha_block(s, p);
    if (n) memcpy(s->tail, p, n);
}

static void sha_end(Sha *s, uint8_t out[32])
{
    uint8_t end[72] = {0x80};
    uint64_t n_bits = s->n * 8;
    size_t pad = (s->n % 64 < 56 ? 56 : 120) - s->n % 64;
    for (int i = 0; i < 8; i++) end[pad + (size_t)i] = (uint8_t)(n_bits >> (56 - 8 * i));
    sha_add(s, end, pad + 8);
    for (int i = 0; i < 32; i++) out[i] = (uint8_t)(s->h[i / 4] >> (24 - 8 * (i % 4)));
}

void sha256_hex(const void *data, size_t n, char out[65])
{
    Sha s = sha_start;
    uint8_t sum[32];
    sha_add(&s, data, n);
    sha_end(&s, sum);
    for (size_t i = 0; i < 32; i++) snprintf(out + 2 * i, 3, "%02x", sum[i]);
}

/* ---------------------------------------------------------------- partial results
 * A file of closed windows:
 *
 *   "ROPEPART", n: uint64, a JSON header of n bytes, the body, SHA-256 of all before it (32 bytes)
 *
 * little-endian, as the machine is (run.c refuses others). The header says under "config" what two
 * files must have in common to be merged, among it the shape that the size of the body follows
 * from, and beside it which windows are covered. The body is what an Analysis keeps of closed
 * windows, as pass_body writes it. All of it merges whatever the order: totals are exact
 * integers, peaks have an order of their own, and the first window is in one file. */

static const char PART_MAGIC[] = "ROPEPART";
static const char PART_LAYOUT[] =
    "little-endian; per layer: float32 biases of q and k and weights of their norms if it has "
    "them; per query head: sums, "
    "peaks, first tokens, sink samples (whole windows, first queries), n_map, map; per key head: "
    "sums, peaks, first tokens; massive activations: peak, median, sums per channel. Sums: 192-bit "
    "integers of 2^-96. A peak: float64 value, uint64 window, int32 position, int32 token. First "
    "tokens: uint64 count, 64 x head_dim float32 before rotation. Sink samples: int64 queries, 131 "
    "sums";

/* A file of partial results, as found. Strings point into it. */
typedef struct {
    const char *path;
    Str config, run, body;
    int n_ctx;
    uint64_t n_windows, n_tokens; /* windows of the whole text; tokens of the covered ones */
    Ranges covered;
} PartFile;

/* The body on its way to a file, or out of one and into an analysis, in the same order. */
typedef struct {
    FILE *f; /* NULL: reading */
    Sha sum; /* of what was written */
    size_t n;
    const uint8_t *in; /* the next byte to read; the size of all has been checked */
    const PartFile *of;
    int has_first;   /* window 0 is among the closed ones */
    int fill;        /* the model is a skeleton without biases yet */
    const char *bad; /* what cannot be */
} Pass;

static void pass_bytes(Pass *s, void *v, size_t n)
{
    s->n += n;
    if (s->f) {
        fwrite(v, 1, n, s->f);
        sha_add(&s->sum, v, n);
    } else {
        memcpy(v, s->in, n);
        s->in += n;
    }
}

static void pass_sums(Pass *s, Exact *v, size_t n)
{
    if (s->f) {
        pass_bytes(s, v, n * sizeof *v);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        Exact t;
        pass_bytes(s, &t, sizeof t);
        exact_merge(&v[i], &t);
    }
}

static int peak_possible(const Pass *s, const Peak *p, int n_tokens)
{
    return p->value >= 0 && p->pos >= 0 && p->pos < s->of->n_ctx && p->token >= -1 &&
           p->token < n_tokens && (p->value == 0 || ranges_have(&s->of->covered, p->window));
}

/* 1 if a peak that was read is the new p. */
static int pass_peak(Pass *s, Peak *p, int n_tokens)
{
    Peak t = *p;
    pass_bytes(s, &t, sizeof t);
    if (s->f) return 0;
    if (!peak_possible(s, &t, n_tokens)) s->bad = "peaks";
    if (!peak_beaten(p, t.value, t.window, t.pos)) return 0;
    *p = t;
    return 1;
}

/* Floats of the first window: `used` of n, counted by *count. */
static void pass_first(Pass *s, int *count, float *v, size_t used, size_t n)
{
    int64_t c = s->has_first ? *count : 0;
    float none = 0;
    pass_bytes(s, &c, sizeof c);
    if (s->f) {
        if (c) pass_bytes(s, v, used * sizeof *v);
        for (size_t i = c ? used : 0; i < n; i++) pass_bytes(s, &none, sizeof none);
        return;
    }
    if (c < 0 || c > FIRST_TOKENS || (c && !s->has_first)) s->bad = "first window", c = 0;
    if (c) {
        *count = (int)c;
        memcpy(v, s->in, n * sizeof *v);
    }
    s->in += n * sizeof *v;
}

static int is_count(const Exact *s, double most)
{
    double v = exact_value(s);
    return v >= 0 && v <= most && v == floor(v);
}

/* Sums that are counts, after a file has been added: n + n_skip are the tokens. */
static int counts_possible(const Tally *y, double n_tokens, int is_query)
{
    const Exact *t = y->total;
    ptrdiff_t bad = is_query ? &y->open.row->n_bad - y->sum : 0;
    return is_count(&t[0], n_tokens) && is_count(&t[1], n_tokens) && is_count(&t[2], n_tokens) &&
           exact_value(&t[0]) + exact_value(&t[1]) == n_tokens && is_count(&t[bad], n_tokens);
}

static void pass_tally(Pass *s, const Analysis *a, Tally *y, int is_query)
{
    size_t D = (size_t)a->m->head_dim;
    pass_sums(s, y->total, y->n_sums);
    for (size_t i = 0; i < y->n_peaks; i++) pass_peak(s, &y->closed[i], a->m->n_vocab);
    pass_first(s, y->n_first, y->first, (size_t)*y->n_first * D, FIRST_TOKENS * D);
    if (s->f) return;
    memcpy(y->peak, y->closed, y->n_peaks * sizeof *y->peak);
    for (size_t i = 0; i < y->n_peaks; i++) y->high[i] = y->peak[i].value;
    if (!counts_possible(y, (double)a->n_tokens, is_query)) s->bad = "counts of a head";
}

/* Samples of longer windows win; those of the same length add up. */
static void merge_samples(SinkSamples *s, const SinkSamples *t)
{
    if (t->t > s->t) *s = (SinkSamples){.t = t->t};
    if (t->t < s->t) return;
    exact_merge(&s->n, &t->n);
    exact_merge(&s->n_bad, &t->n_bad);
    exact_merge(&s->uniform, &t->uniform);
    for (int k = 0; k < SINK_KEYS; k++) {
        exact_merge(&s->alpha[k], &t->alpha[k]);
        exact_merge(&s->n_sink[k], &t->n_sink[k]);
    }
}

static void pass_samples(Pass *s, SinkSamples *v)
{
    SinkSamples t = *v;
    pass_bytes(s, &t, sizeof t);
    if (s->f) return;
    double most = (double)ranges_count(&s->of->covered);
    if (t.t < 0 || t.t > s->of->n_ctx || !is_count(&t.n, most) || !is_count(&t.n_bad, most))
        s->bad = "sink samples";
    merge_samples(v, &t);
}

static void pass_sink(Pass *s, Sink *v)
{
    size_t n = (size_t)v->n_map;
    pass_samples(s, &v->whole);
    pass_samples(s, &v->at_t);
    pass_first(s, &v->n_map, v->map, n * (n + 1) / 2, FIRST_TOKENS * (FIRST_TOKENS + 1) / 2);
}

static void pass_massive(Pass *s, Massive *v, int E)
{
    double middle = v->closed_median;
    int newer = pass_peak(s, &v->closed_most, E);
    pass_bytes(s, &middle, sizeof middle);
    if (newer) v->closed_median = middle;
    v->most = v->closed_most, v->median = v->closed_median;
    pass_sums(s, v->total, (size_t)E);
}

static void pass_bias(Pass *s, const float *bias, size_t n)
{
    if (!bias) return;
    if (s->f || s->fill)
        pass_bytes(s, (float *)(uintptr_t)bias, n * sizeof *bias);
    else
        s->in += n * sizeof *bias;
}

/* The weights of a norm of queries or keys; NULL: there is none. */
static size_t norm_size(const Model *m, const Layer *y, int heads)
{
    return (size_t)(y->qk_norm == QK_HEAD ? 1 : heads) * (size_t)m->head_dim;
}

static void pass_body(Pass *s, Analysis *a)
{
    const Model *m = a->m;
    for (int l = 0; l < m->n_layers; l++) {
        const Layer *y = &m->layer[l];
        size_t D = (size_t)m->head_dim;
        for (int h = 0; h < y->n_heads; h++) pass_bias(s, query_bias(m, y, h), D);
        pass_bias(s, y->bk, (size_t)y->n_kv_heads * D);
        pass_bias(s, y->q_norm, norm_size(m, y, y->n_q_heads));
        pass_bias(s, y->k_norm, norm_size(m, y, y->n_kv_heads));
        for (int i = a->first_q[l]; i < a->first_q[l + 1]; i++) {
            pass_tally(s, a, &a->q[i], 1);
            pass_sink(s, &a->sink[i]);
        }
        for (int i = a->first_k[l]; i < a->first_k[l + 1]; i++) pass_tally(s, a, &a->k[i], 0);
        pass_massive(s, &a->massive[l], m->n_embd);
    }
}

static uint64_t tally_bytes(int P, int D, int is_query)
{
    uint64_t d = (uint64_t)D, n_peaks = (uint64_t)P + 2 * d;
    OpenSums o;
    return open_sums(&o, NULL, P, D, is_query) * sizeof(Exact) + n_peaks * sizeof(Peak) +
           sizeof(int64_t) + FIRST_TOKENS * d * sizeof(float);
}

/* Bytes that pass_body makes of a model; most if they are more. */
static uint64_t body_bytes(const Model *m, uint64_t most)
{
    uint64_t n = 0, D = (uint64_t)m->head_dim;
    uint64_t sink = 2 * sizeof(SinkSamples) + sizeof(int64_t) +
                    FIRST_TOKENS * (FIRST_TOKENS + 1) / 2 * sizeof(float);
    for (int l = 0; l < m->n_layers && n < most; l++) {
        const Layer *y = &m->layer[l];
        int P = m->rope[y->rope].n_pairs;
        uint64_t H = (uint64_t)y->n_heads, K = (uint64_t)y->n_kv_heads;
        n += H * (tally_bytes(P, m->head_dim, 1) + sink) + K * tally_bytes(P, m->head_dim, 0);
        n += ((y->bq ? H : 0) + (y->bk ? K : 0)) * D * sizeof(float);
        if (y->q_norm) n += norm_size(m, y, y->n_q_heads) * sizeof(float);
        if (y->k_norm) n += norm_size(m, y, y->n_kv_heads) * sizeof(float);
        n += sizeof(Peak) + sizeof(double) + (uint64_t)m->n_embd * sizeof(Exact);
    }
    return n < most ? n : most;
}

/* ---- writing */

/* A number as it is read back, in 15 digits where they do. */
static void part_number(FILE *f, double v)
{
    char s[32];
    snprintf(s, sizeof s, "%.15g", v);
    double back = strtod(s, NULL);
    fprintf(f, back < v || back > v ? "%.17g" : "%.15g", v);
}

static void part_numbers(FILE *f, const Field *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        fprintf(f, ",\"%s\":", v[i].key);
        part_number(f, v[i].v);
    }
}
#define PART_NUMBERS(f, ...)                                                                       \
    part_numbers(f, (const Field[]){__VA_ARGS__},                                                  \
                 sizeof((const Field[]){__VA_ARGS__}) / sizeof(Field))

static void part_rope(FILE *f, const Rope *r)
{
    fprintf(f, "{\"kind\":\"%s\",\"layout\":\"%s\"", r->kind->name,
            r->layout == ROPE_HALF ? "half" : "adjacent");
    PART_NUMBERS(f, {"n_pairs", r->n_pairs}, {"n_split", r->p.n_split}, {"window", r->p.window},
                 {"base", r->p.base}, {"factor", r->p.factor}, {"n_ctx_orig", r->p.n_ctx_orig},
                 {"amplitude", r->amplitude}, {"sets", r->sets ? r->sets : 1},
                 {"uneven", r->uneven});
    fputs(",\"theta\":[", f);
    for (int j = 0; j < r->n_pairs * (r->sets ? r->sets : 1); j++) {
        if (j) fputc(',', f);
        part_number(f, r->inv_freq[j]);
    }
    fputs("],\"divisors\":[", f);
    for (int j = 0; r->p.divisors && j < r->n_pairs; j++)
        fprintf(f, "%s%.9g", j ? "," : "", (double)r->p.divisors[j]);
    fputs("]}", f);
}

static void part_shape(FILE *f, const Model *m)
{
    json_text(f, "architecture", m->arch ? m->arch->name : "-");
    PART_NUMBERS(f, {"n_params", (double)m->n_params}, {"n_embd", m->n_embd},
                 {"n_vocab", m->n_vocab}, {"head_dim", m->head_dim},
                 {"n_ctx_train", m->n_ctx_train}, {"score_scale", (double)m->score_scale},
                 {"attn_cap", m->attn_cap}, {"clamp", m->clamp},
                 {"norm", m->arch ? m->arch->norm : 0});
    fputs(",\"ropes\":[", f);
    for (int i = 0; i < m->n_ropes; i++) {
        if (i) fputs(",\n", f);
        part_rope(f, &m->rope[i]);
    }
    fputs("],\"layers\":[", f);
    for (int l = 0; l < m->n_layers; l++) {
        const Layer *y = &m->layer[l];
        fprintf(f, "%s{\"n_heads\":%d", l ? ",\n" : "", y->n_heads);
        PART_NUMBERS(f, {"n_kv_heads", y->n_kv_heads}, {"window", y->window}, {"rope", y->rope},
                     {"n_q_heads", y->n_q_heads ? y->n_q_heads : y->n_heads},
                     {"bias_q", y->bq != NULL}, {"bias_k", y->bk != NULL},
                     {"norm_q", y->q_norm != NULL}, {"norm_k", y->k_norm != NULL},
                     {"qk_norm", y->qk_norm});
        fputc('}', f);
    }
    fputc(']', f);
}

/* What files must have in common. */
static void part_config(FILE *f, const Analysis *a, const Provenance *p)
{
    const AnalysisOptions *o = &a->o;
    fprintf(f, "{\"version\":\"%s\"", ROPESCOPE_VERSION);
    json_text(f, "model_sha256", p->model_sha256);
    json_text(f, "text_sha256", p->text_sha256);
    json_text(f, "bos_policy", p->bos_policy);
    json_text(f, "rope_override", p->rope_override);
    json_text(f, "window_override", p->window_override);
    json_text(f, "pre_override", p->pre_override);
    json_text(f, "edits", p->edits); /* a clause, which may be cut short: hence the hash */
    fprintf(f, ",\"edit_hash\":\"%016llx\"", (unsigned long long)p->edit_hash);
    json_text(f, "activations", p->exact ? "float" : "int8");
    json_text(f, "kv", p->kv);
    PART_NUMBERS(
        f, {"n_ctx", p->n_ctx}, {"bos_id", p->bos_id}, {"text_cut", p->text_cut},
        {"n_text_tokens", (double)p->n_text_tokens}, {"n_text_windows", (double)p->n_text_windows},
        {"bytes_left_out", (double)p->bytes_left_out}, {"model_bytes", (double)p->model_bytes},
        {"n_skip", o->n_skip}, {"strong_ratio", o->strong_ratio}, {"strong_r", o->strong_r},
        {"sink_eps", o->sink_eps}, {"sink_t", o->sink_t}, {"train_ctx", o->n_ctx},
        {"massive_ratio", o->massive_ratio}, {"act_min", o->act_min}, {"act_ratio", o->act_ratio});
    json_tokens(f, p);
    part_shape(f, a->m);
    fputc('}', f);
}

static char *config_text(const Analysis *a, const Provenance *p)
{
    char *s = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&s, &n);
    MUST(f);
    part_config(f, a, p);
    MUST(fclose(f) == 0);
    return s;
}

/* The header, padded to a multiple of 8 bytes. */
static char *header_text(const Analysis *a, const Provenance *p, size_t *n)
{
    char *s = NULL, *config = config_text(a, p);
    FILE *f = open_memstream(&s, n);
    MUST(f);
    fprintf(f, "{\"schema\":\"ropescope.partial/2\",\n\"run\":{\"n_threads\":%d", p->n_threads);
    json_text(f, "isa", p->isa);
    json_text(f, "model", p->model_path);
    json_text(f, "text", p->text_path);
    fprintf(f, "},\n\"n_tokens\":%llu", (unsigned long long)a->n_tokens);
    json_ranges(f, "covered", &a->closed);
    fprintf(f, ",\n\"config\":%s", config);
    json_text(f, "body", PART_LAYOUT);
    fputs("}\n", f);
    while (ftell(f) % 8) fputc(' ', f);
    MUST(fclose(f) == 0);
    free(config);
    return s;
}

int partial_write(Analysis *a, const Provenance *p, FILE *f, Err *e)
{
    Pass s = {.f = f, .sum = sha_start, .has_first = ranges_have(&a->closed, 0)};
    uint8_t sum[32];
    size_t n = 0;
    locale_t old = c_numbers();
    char *header = header_text(a, p, &n), magic[9];
    uint64_t length = n;
    memcpy(magic, PART_MAGIC, sizeof magic);
    pass_bytes(&s, magic, 8);
    pass_bytes(&s, &length, sizeof length);
    pass_bytes(&s, header, n);
    pass_body(&s, a);
    MUST(s.n == 16 + n + body_bytes(a->m, UINT64_MAX));
    sha_end(&s.sum, sum);
    fwrite(sum, 1, sizeof sum, f);
    free(header);
    restore_numbers(old);
    return ferror(f) ? err_set(e, "partial results: writing failed") : 0;
}

/* ---- reading */

static int shown_bytes(Str v) /* bytes of it in a message */
{
    return v.n < 80 ? (int)v.n : 80;
}

/* One number of a JSON object, whole and from lo to hi; real: any from lo to hi. */
typedef struct {
    const char *key;
    double lo, hi;
    int *whole;
    uint64_t *large;
    double *real;
} PartField;

static int part_field(const char *path, Str v, const PartField *w, Err *e)
{
    char s[64] = "", *end;
    if (v.n < sizeof s) memcpy(s, v.n ? v.s : "", v.n);
    double x = strtod(s, &end);
    int fits = *s && !*end && x >= w->lo && x <= w->hi && (w->real || x == floor(x));
    if (!fits)
        return err_set(e, "%s: %s: expected a %s from %g to %g, found '%.*s'", path, w->key,
                       w->real ? "number" : "whole number", w->lo, w->hi, shown_bytes(v),
                       v.n ? v.s : "");
    if (w->whole) *w->whole = (int)x;
    if (w->large) *w->large = (uint64_t)x;
    if (w->real) *w->real = x;
    return 0;
}

static int part_fields(const char *path, Str o, const PartField *w, size_t n, Err *e)
{
    for (size_t i = 0; i < n; i++)
        if (part_field(path, json_member(o, w[i].key), &w[i], e)) return -1;
    return 0;
}
#define PART_FIELDS(path, o, e, ...)                                                               \
    part_fields(path, o, (const PartField[]){__VA_ARGS__},                                         \
                sizeof((const PartField[]){__VA_ARGS__}) / sizeof(PartField), e)

/* The numbers of a JSON array, n of them. */
static int part_array(const char *path, Str o, const PartField *w, double *out, int n, Err *e)
{
    Str array = json_member(o, w->key);
    size_t at = 1;
    for (int i = 0; i < n; i++) {
        PartField one = *w;
        one.real = &out[i];
        if (part_field(path, json_item(array, &at), &one, e)) return -1;
    }
    if (!array.n || *array.s != '[' || json_item(array, &at).n)
        return err_set(e, "%s: %s: expected a list of %d numbers", path, w->key, n);
    return 0;
}

/* A JSON string without its escapes, allocated; NULL if v is none. */
static char *part_string(Str v)
{
    if (v.n < 2 || v.s[0] != '"' || v.s[v.n - 1] != '"') return NULL;
    char *out = xcalloc(v.n, 1), *s = out;
    for (size_t i = 1; i + 1 < v.n; i++) {
        if (v.s[i] == '\\' && v.s[i + 1] == 'u' && i + 6 < v.n) {
            *s++ = (char)hex4(v.s + i + 2);
            i += 5;
        } else {
            i += v.s[i] == '\\' && i + 2 < v.n;
            *s++ = v.s[i];
        }
    }
    return out;
}

/* A JSON string without quotes and escapes, to free; NULL for null. */
static int part_text(const char *path, Str o, const char *key, char **out, Err *e)
{
    Str v = json_member(o, key);
    *out = part_string(v);
    if (*out || str_is(v, "null")) return 0;
    return err_set(e, "%s: %s: expected a string, found '%.*s'", path, key, shown_bytes(v),
                   v.n ? v.s : "");
}

static int read_covered(PartFile *f, Str header, Err *e)
{
    Str list = json_member(header, "covered");
    size_t at = 1, cap = 0;
    uint64_t end = 0;
    if (!list.n || *list.s != '[') return err_set(e, "%s: covered: expected a list", f->path);
    for (Str pair = json_item(list, &at); pair.n; pair = json_item(list, &at)) {
        size_t i = 1;
        double most = (double)f->n_windows, least = (double)end + (f->covered.n > 0);
        Range r;
        PartField from = {"covered", least, most, .large = &r.from};
        if (part_field(f->path, json_item(pair, &i), &from, e)) return -1;
        PartField to = {"covered", (double)r.from + 1, most, .large = &r.to};
        if (part_field(f->path, json_item(pair, &i), &to, e)) return -1;
        if (f->covered.n == cap) {
            cap = cap ? 2 * cap : 4;
            f->covered.r = xrealloc(f->covered.r, cap, sizeof r);
        }
        f->covered.r[f->covered.n++] = r;
        end = r.to;
    }
    return 0;
}

static int read_header(PartFile *f, Str h, Err *e)
{
    if (!str_is(json_member(h, "schema"), "\"ropescope.partial/2\""))
        return err_set(e, "%s: schema: expected ropescope.partial/2", f->path);
    f->config = json_member(h, "config");
    f->run = json_member(h, "run");
    if (PART_FIELDS(f->path, f->config, e, {"n_ctx", 2, 1e9, .whole = &f->n_ctx},
                    {"n_text_windows", 0, 1e15, .large = &f->n_windows}) ||
        read_covered(f, h, e))
        return -1;
    double most = (double)ranges_count(&f->covered) * f->n_ctx;
    return PART_FIELDS(f->path, h, e, {"n_tokens", 0, most, .large = &f->n_tokens});
}

/* Finds the parts of a file and checks them against its size and its sum. */
static int part_open(PartFile *f, const char *path, const uint8_t *data, size_t size, Err *e)
{
    uint64_t n;
    uint8_t sum[32];
    Sha sha = sha_start;
    *f = (PartFile){.path = path};
    if (size < 48 || memcmp(data, PART_MAGIC, 8))
        return err_set(e, "%s: magic: expected a file of partial results (analyze --partial)",
                       path);
    memcpy(&n, data + 8, sizeof n);
    if (n > size - 48)
        return err_set(e, "%s: header: expected %llu bytes, found %zu: the file is cut short", path,
                       (unsigned long long)n, size - 48);
    sha_add(&sha, data, size - 32);
    sha_end(&sha, sum);
    if (memcmp(sum, data + size - 32, 32))
        return err_set(e, "%s: checksum: the file is damaged or cut short", path);
    f->body = (Str){(const char *)data + 16 + n, size - 48 - (size_t)n};
    return read_header(f, (Str){(const char *)data + 16, (size_t)n}, e);
}

static int same_text(Str a, Str b)
{
    return a.n == b.n && (!a.n || !memcmp(a.s, b.s, a.n));
}

/* Two lists or two objects that are not the same become the first part of them that is not, and its
 * place is added to `where`: ".ropes", then "[1]", then ".theta". 0: they have no such parts, or
 * fields of other names. */
static int narrow(Str *want, Str *found, char *where, size_t size)
{
    const Str none = {"none", 4};
    size_t i = 1, k = 1, n = strlen(where);
    int object = *want->s == '{';
    if (*want->s != *found->s || (!object && *want->s != '[')) return 0;
    for (int at = 0;; at++) {
        Str key = none, other = none;
        if (object) key = json_item(*want, &i), other = json_item(*found, &k);
        Str v = json_item(*want, &i), w = json_item(*found, &k);
        if (!same_text(key, other) || (!v.n && !w.n)) return 0;
        if (same_text(v, w)) continue;
        if (object)
            snprintf(where + n, size - n, ".%.*s", shown_bytes(key) - 2, key.s + 1);
        else
            snprintf(where + n, size - n, "[%d]", at);
        *want = v.n ? v : none, *found = w.n ? w : none;
        return 1;
    }
}

/* Two configurations, field by field. */
static int config_same(Str want, const char *of, Str found, const char *path, Err *e)
{
    char where[128] = "";
    if (same_text(want, found)) return 0;
    while (narrow(&want, &found, where, sizeof where)) continue;
    if (!*where) return err_set(e, "%s: config: expected the same fields as in %s", path, of);
    return err_set(e, "%s: %s: expected %.*s, as in %s, found %.*s", path, where + 1,
                   shown_bytes(want), want.s, of, shown_bytes(found), found.s);
}

/* Adds a file whose configuration is that of a. */
static int part_merge(const PartFile *f, Analysis *a, int fill, Err *e)
{
    Pass s = {.in = (const uint8_t *)f->body.s,
              .of = f,
              .has_first = ranges_have(&f->covered, 0),
              .fill = fill};
    Range both;
    if (ranges_merge(&a->closed, &f->covered, &both)) {
        char names[128];
        name_windows(&(Ranges){&both, 1}, names, sizeof names);
        return err_set(e, "%s: covered: %s %s in a file before it, too", f->path, names,
                       both.to - both.from == 1 ? "is" : "are");
    }
    a->n_tokens += f->n_tokens;
    pass_body(&s, a);
    MUST((const char *)s.in == f->body.s + f->body.n);
    return s.bad ? err_set(e, "%s: %s: found what cannot be", f->path, s.bad) : 0;
}

static int body_fits(const PartFile *f, const Model *m, Err *e)
{
    uint64_t want = body_bytes(m, UINT64_MAX >> 1);
    if (f->body.n == want) return 0;
    return err_set(e, "%s: body: expected %llu bytes for this shape, found %zu", f->path,
                   (unsigned long long)want, f->body.n);
}

int partial_resume(Analysis *a, const Provenance *p, const char *path, const uint8_t *data,
                   size_t size, Err *e)
{
    PartFile f;
    locale_t old = c_numbers();
    char *config = config_text(a, p);
    Str mine = {config, strlen(config)};
    int rc = part_open(&f, path, data, size, e) ||
             config_same(mine, "this run", f.config, path, e) || body_fits(&f, a->m, e) ||
             part_merge(&f, a, 0, e);
    free(f.covered.r);
    free(config);
    restore_numbers(old);
    return rc ? -1 : 0;
}

/* ---- a model without weights */

static float *own(Model *m, size_t n) /* floats that go with the model */
{
    m->owned = xrealloc(m->owned, (size_t)m->n_owned + 1, sizeof *m->owned);
    return m->owned[m->n_owned++] = xcalloc(n, sizeof(float));
}

static int read_kind(const char *path, Str o, Rope *r, Err *e)
{
    char *kind = NULL, *layout = NULL;
    int rc = part_text(path, o, "kind", &kind, e) || part_text(path, o, "layout", &layout, e);
    if (!rc) {
        r->kind = rope_find(kind ? kind : "");
        r->layout = layout && strcmp(layout, "half") == 0 ? ROPE_HALF : ROPE_ADJACENT;
        if (!r->kind) rc = err_set(e, "%s: kind: unknown encoding '%s'", path, kind ? kind : "");
    }
    free(kind), free(layout);
    return rc;
}

static int read_rope(const char *path, Str o, int D, Rope *r, Err *e)
{
    PartField theta = {"theta", 0, 1e9, .real = NULL};
    *r = (Rope){.p.head_dim = D};
    if (read_kind(path, o, r, e) ||
        PART_FIELDS(path, o, e, {"n_pairs", 0, D / 2, .whole = &r->n_pairs},
                    {"n_split", -1, D, .whole = &r->p.n_split},
                    {"window", 0, 2147483647, .whole = &r->p.window},
                    {"base", -1e300, 1e300, .real = &r->p.base},
                    {"factor", -1e300, 1e300, .real = &r->p.factor},
                    {"n_ctx_orig", 0, 2147483647, .whole = &r->p.n_ctx_orig},
                    {"amplitude", 0, 1e9, .real = &r->amplitude},
                    {"sets", 1, 1 << 12, .whole = &r->sets},
                    {"uneven", ROPE_EVEN, ROPE_READ, .whole = &r->uneven}))
        return -1;
    r->p.n_rot = 2 * r->n_pairs;
    r->inv_freq = xcalloc((size_t)r->sets * (size_t)r->n_pairs + 1, sizeof *r->inv_freq);
    return part_array(path, o, &theta, r->inv_freq, r->sets * r->n_pairs, e);
}

/* The objects of the list `key`, to free; *n of them, 1 .. 4096. */
static Str *part_list(const PartFile *f, const char *key, int *n, Err *e)
{
    Str list = json_member(f->config, key), *out = xcalloc(4096, sizeof *out), o;
    size_t at = 1;
    *n = 0;
    while (list.n && (o = json_item(list, &at)).n && *n < 4096) out[(*n)++] = o;
    if (*n > 0 && !json_item(list, &at).n) return out;
    err_set(e, "%s: %s: expected a list of 1 to 4096 entries", f->path, key);
    free(out);
    return NULL;
}

static int read_ropes(const PartFile *f, ModelShape *s, Err *e)
{
    Str *list = part_list(f, "ropes", &s->n_ropes, e);
    int rc = !list;
    s->rope = xcalloc((size_t)s->n_ropes + 1, sizeof *s->rope);
    for (int i = 0; !rc && i < s->n_ropes; i++)
        rc = read_rope(f->path, list[i], s->head_dim, &s->rope[i], e);
    free(list);
    return rc ? -1 : 0;
}

/* Layers in the same order as s->layer, which is to be freed. */
static int read_layers(const PartFile *f, ModelShape *s, Err *e)
{
    Str *list = part_list(f, "layers", &s->n_layers, e);
    Layer *y = xcalloc((size_t)s->n_layers + 1, sizeof *y);
    int rc = !list;
    s->layer = y;
    for (int l = 0; !rc && l < s->n_layers; l++, y++) {
        rc = PART_FIELDS(f->path, list[l], e, {"n_heads", 1, 1 << 16, .whole = &y->n_heads},
                         {"n_kv_heads", 1, 1 << 16, .whole = &y->n_kv_heads},
                         {"window", 0, 2147483647, .whole = &y->window},
                         {"rope", 0, s->n_ropes - 1, .whole = &y->rope});
        if (!rc && y->n_heads % y->n_kv_heads)
            rc = err_set(e,
                         "%s: n_kv_heads: expected a divisor of the %d heads of layer %d, found "
                         "%d",
                         f->path, y->n_heads, l, y->n_kv_heads);
        if (!rc && s->rope[y->rope].sets > 1 && s->rope[y->rope].sets < y->n_kv_heads)
            rc = err_set(e, "%s: sets: expected one for each of the %d key heads of layer %d",
                         f->path, y->n_kv_heads, l);
    }
    free(list);
    return rc ? -1 : 0;
}

/* Room for the biases of layer y and the weights of its norms, which are in the body: room says how
 * many floats it may take. */
static int read_vectors(const PartFile *f, Str o, Model *m, Layer *y, size_t *room, Err *e)
{
    int has[4] = {0};
    if (PART_FIELDS(f->path, o, e, {"n_q_heads", 1, y->n_heads, .whole = &y->n_q_heads},
                    {"bias_q", 0, 1, .whole = &has[0]}, {"bias_k", 0, 1, .whole = &has[1]},
                    {"norm_q", 0, 1, .whole = &has[2]}, {"norm_k", 0, 1, .whole = &has[3]},
                    {"qk_norm", QK_PLAIN, QK_ALL, .whole = &y->qk_norm}))
        return -1;
    if (y->n_heads % y->n_q_heads)
        return err_set(e, "%s: n_q_heads: expected a divisor of %d heads, found %d", f->path,
                       y->n_heads, y->n_q_heads);
    size_t D = (size_t)m->head_dim, H = (size_t)y->n_heads, K = (size_t)y->n_kv_heads;
    const size_t n[] = {H * D, K * D, norm_size(m, y, y->n_q_heads),
                        norm_size(m, y, y->n_kv_heads)};
    const float **to[] = {&y->bq, &y->bk, &y->q_norm, &y->k_norm};
    for (int i = 0; i < 4; i++) {
        if (!has[i]) continue;
        if (n[i] > *room)
            return err_set(e, "%s: body: too short for the biases of this shape", f->path);
        *room -= n[i];
        *to[i] = own(m, n[i]);
    }
    return 0;
}

static int read_biases(const PartFile *f, Model *m, Err *e)
{
    int n, rc = 0;
    size_t room = f->body.n / sizeof(float);
    Str *list = part_list(f, "layers", &n, e);
    for (int l = 0; list && !rc && l < n; l++)
        rc = read_vectors(f, list[l], m, &m->layer[l], &room, e);
    free(list);
    return rc || !list ? -1 : 0;
}

static int read_divisors(const PartFile *f, Model *m, Err *e)
{
    int n, rc = 0;
    Str *list = part_list(f, "ropes", &n, e);
    for (int i = 0; list && !rc && i < n; i++) {
        PartField by = {"divisors", 0, 1e9, .real = NULL};
        Rope *r = &m->rope[i];
        if (str_is(json_member(list[i], "divisors"), "[]")) continue;
        double *v = xcalloc((size_t)r->n_pairs, sizeof *v);
        float *to = own(m, (size_t)r->n_pairs);
        rc = part_array(f->path, list[i], &by, v, r->n_pairs, e);
        for (int j = 0; j < r->n_pairs; j++) to[j] = (float)v[j];
        r->p.divisors = to;
        free(v);
    }
    free(list);
    return rc || !list ? -1 : 0;
}

/* A model without weights, of the shape that the file tells; NULL on error. */
static Model *read_skeleton(const PartFile *f, Err *e)
{
    char *name = NULL;
    int n_embd = 0, n_vocab = 0;
    uint64_t n_params = 0;
    double scale = 0, cap = 0, most = 0;
    int norm = 0;
    ModelShape s = {.n_layers = 0};
    Model *m = NULL;
    int rc = part_text(f->path, f->config, "architecture", &name, e) ||
             PART_FIELDS(f->path, f->config, e, {"n_params", 0, 1e15, .large = &n_params},
                         {"n_embd", 0, 1 << 20, .whole = &n_embd},
                         {"n_vocab", 0, 2147483647, .whole = &n_vocab},
                         {"head_dim", 1, 1 << 14, .whole = &s.head_dim},
                         {"n_ctx_train", 0, 2147483647, .whole = &s.n_ctx_train},
                         {"score_scale", 0, 1e30, .real = &scale},
                         {"attn_cap", 0, 1e30, .real = &cap}, {"clamp", 0, 1e30, .real = &most},
                         {"norm", NORM_RMS, NORM_UNIT, .whole = &norm}) ||
             read_ropes(f, &s, e) || read_layers(f, &s, e);
    if (rc) {
        for (int i = 0; i < s.n_ropes; i++) rope_free(&s.rope[i]);
        free(s.rope);
    } else {
        s.arch = name ? name : "-", s.norm = norm;
        m = model_skeleton(&s);
        m->attn_cap = cap, m->clamp = most;
        m->n_embd = n_embd, m->n_vocab = n_vocab, m->n_params = n_params;
        m->score_scale = (float)scale;
    }
    free((Layer *)(uintptr_t)s.layer);
    free(name);
    return m;
}

/* ---- merging */

enum {
    TEXT_MODEL,
    TEXT_TEXT,
    TEXT_ISA,
    TEXT_BOS,
    TEXT_ROPE,
    TEXT_WINDOW,
    TEXT_PRE,
    TEXT_EDITS,
    TEXT_KV
};

static int part_hash(const char *path, Str config, const char *key, char out[65], Err *e)
{
    char *s = NULL;
    if (part_text(path, config, key, &s, e)) return -1;
    snprintf(out, 65, "%s", s ? s : "");
    free(s);
    return 0;
}

static int read_options(const PartFile *f, AnalysisOptions *o, Err *e)
{
    return PART_FIELDS(
        f->path, f->config, e, {"n_skip", 0, 1e6, .whole = &o->n_skip},
        {"strong_ratio", 0, 1e9, .real = &o->strong_ratio},
        {"strong_r", 0, 1, .real = &o->strong_r}, {"sink_eps", 0, 1, .real = &o->sink_eps},
        {"sink_t", 1, 1e6, .whole = &o->sink_t}, {"train_ctx", 0, 1e9, .real = &o->n_ctx},
        {"massive_ratio", 0, 1e9, .real = &o->massive_ratio},
        {"act_min", 0, 1e30, .real = &o->act_min}, {"act_ratio", 0, 1e30, .real = &o->act_ratio});
}

/* Texts of the first tokens, for the maps. */
static void read_tokens(Partial *x, const PartFile *f)
{
    Str list = json_member(f->config, "tokens");
    size_t i = 1;
    int n = 0;
    for (Str v = json_item(list, &i); v.n && n < FIRST_TOKENS; v = json_item(list, &i))
        if ((x->token[n] = part_string(v))) n++;
    x->p.token_text = (const char *const *)x->token;
    x->p.n_token_text = n;
}

/* What all files have in common, from the first. */
static int read_made(Partial *x, const PartFile *f, Err *e)
{
    Provenance *p = &x->p;
    const char *path = f->path;
    char *activations = NULL;
    uint64_t left_out = 0;
    int rc = part_hash(path, f->config, "model_sha256", p->model_sha256, e) ||
             part_hash(path, f->config, "text_sha256", p->text_sha256, e) ||
             part_text(path, f->config, "bos_policy", &x->text[TEXT_BOS], e) ||
             part_text(path, f->config, "rope_override", &x->text[TEXT_ROPE], e) ||
             part_text(path, f->config, "window_override", &x->text[TEXT_WINDOW], e) ||
             part_text(path, f->config, "pre_override", &x->text[TEXT_PRE], e) ||
             part_text(path, f->config, "edits", &x->text[TEXT_EDITS], e) ||
             part_text(path, f->config, "kv", &x->text[TEXT_KV], e) ||
             part_text(path, f->config, "activations", &activations, e) ||
             PART_FIELDS(path, f->config, e, {"n_ctx", 2, 1e9, .whole = &p->n_ctx},
                         {"bos_id", -1, 2147483647, .whole = &p->bos_id},
                         {"text_cut", 0, 1, .whole = &p->text_cut},
                         {"n_text_tokens", 0, 1e15, .large = &p->n_text_tokens},
                         {"n_text_windows", 0, 1e15, .large = &p->n_text_windows},
                         {"bytes_left_out", 0, 1e15, .large = &left_out},
                         {"model_bytes", 0, 1e15, .large = &p->model_bytes});
    p->exact = activations && strcmp(activations, "float") == 0;
    p->bytes_left_out = (size_t)left_out;
    p->bos_policy = x->text[TEXT_BOS];
    p->rope_override = x->text[TEXT_ROPE];
    p->window_override = x->text[TEXT_WINDOW];
    p->pre_override = x->text[TEXT_PRE];
    p->edits = x->text[TEXT_EDITS];
    p->kv = x->text[TEXT_KV];
    read_tokens(x, f);
    free(activations);
    return rc ? -1 : 0;
}

static int part_begin(Partial *x, const PartFile *f, Err *e)
{
    AnalysisOptions o = analysis_defaults();
    char *version = NULL;
    int rc = part_text(f->path, f->config, "version", &version, e);
    if (!rc && (!version || strcmp(version, ROPESCOPE_VERSION)))
        rc = err_set(e, "%s: version: expected %s, found %s", f->path, ROPESCOPE_VERSION,
                     version ? version : "none");
    free(version);
    if (rc || !(x->m = read_skeleton(f, e))) return -1;
    if (read_biases(f, x->m, e) || body_fits(f, x->m, e) || read_divisors(f, x->m, e) ||
        read_options(f, &o, e) || read_made(x, f, e))
        return -1;
    x->a = analysis_new(x->m, &o);
    x->config = xcalloc(f->config.n + 1, 1);
    memcpy(x->config, f->config.s, f->config.n);
    x->first = xcalloc(strlen(f->path) + 1, 1);
    strcpy(x->first, f->path);
    x->named_by = UINT64_MAX;
    return 0;
}

/* The names of model and text differ from machine to machine: those of the file with the first
 * window count. Where instruction sets or threads differ, which change no number, that is said. */
static int read_run(Partial *x, const PartFile *f, int is_first, Err *e)
{
    uint64_t by = f->covered.n ? f->covered.r[0].from : UINT64_MAX;
    int n_threads = 0;
    char *t[3] = {NULL};
    int rc = part_text(f->path, f->run, "model", &t[TEXT_MODEL], e) ||
             part_text(f->path, f->run, "text", &t[TEXT_TEXT], e) ||
             part_text(f->path, f->run, "isa", &t[TEXT_ISA], e) ||
             PART_FIELDS(f->path, f->run, e, {"n_threads", 0, 1e6, .whole = &n_threads});
    for (int i = 0; i < 3 && !rc; i++)
        if (!t[i]) t[i] = xcalloc(1, 1);
    if (!rc && (is_first || x->p.n_threads == n_threads))
        x->p.n_threads = n_threads;
    else
        x->p.n_threads = 0;
    for (int i = 0; i < 3 && !rc; i++) {
        char **old = &x->text[i];
        int differ = !is_first && strcmp(*old, t[i]);
        int take = is_first || by < x->named_by || (by == x->named_by && strcmp(t[i], *old) < 0);
        if (i == TEXT_ISA && differ) free(t[i]), t[i] = strcpy(xcalloc(8, 1), "several"), take = 1;
        if (!take) continue;
        free(*old);
        *old = t[i], t[i] = NULL;
    }
    if (by < x->named_by) x->named_by = by;
    x->p.model_path = x->text[TEXT_MODEL];
    x->p.text_path = x->text[TEXT_TEXT];
    x->p.isa = x->text[TEXT_ISA];
    for (int i = 0; i < 3; i++) free(t[i]);
    return rc ? -1 : 0;
}

int partial_add(Partial *x, const char *path, const uint8_t *data, size_t size, Err *e)
{
    PartFile f;
    locale_t old = c_numbers();
    int first = !x->m, rc = part_open(&f, path, data, size, e);
    if (!rc && first)
        rc = part_begin(x, &f, e);
    else if (!rc)
        rc = config_same((Str){x->config, strlen(x->config)}, x->first, f.config, path, e) ||
             body_fits(&f, x->m, e);
    rc = rc || part_merge(&f, x->a, first, e) || read_run(x, &f, first, e);
    if (!rc) {
        x->p.n_windows = analysis_closed(x->a, &x->p.n_tokens);
        x->p.incomplete = x->p.n_windows < x->p.n_text_windows;
    }
    free(f.covered.r);
    restore_numbers(old);
    return rc ? -1 : 0;
}

void partial_free(Partial *x)
{
    analysis_free(x->a);
    skeleton_free(x->m);
    for (size_t i = 0; i < sizeof x->text / sizeof *x->text; i++) free(x->text[i]);
    for (int i = 0; i < x->p.n_token_text; i++) free(x->token[i]);
    free(x->first), free(x->config);
    *x = (Partial){0};
}
