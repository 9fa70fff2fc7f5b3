/* Fourier position embedding (FoPE, arXiv:2412.17739): frequencies that do not complete a turn over
 * the trained context are removed, and each pair turns by a mixture of frequencies. */
#include "../model.h"

#include <math.h>

enum { FLOOR_RATIO, IGNORE_ZERO, PAD, GAIN, SEED };
enum { PAD_PLAIN, PAD_ONES };
enum { W_SIN, W_COS };

/* Plain frequencies; 0 where below floor_ratio 2 pi / original. */
static int clip_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    if (rope_plain.freqs(r, length, inv_freq, amplitude, e)) return -1;
    if (r->p.n_ctx_orig < 1 && r->p.arg[FLOOR_RATIO] > 0)
        return err_set(e, "rope %s: original: expected the trained length in tokens, found %d",
                       r->kind->name, r->p.n_ctx_orig);
    double least = r->p.arg[FLOOR_RATIO] * 2 * acos(-1) / fmax(r->p.n_ctx_orig, 1);
    for (int j = 0; j < r->n_pairs; j++)
        if (inv_freq[j] < least) inv_freq[j] = 0;
    return 0;
}

const RopeKind rope_fope_clip = {
    .name = "fope-clip",
    .formula = "theta_j = base^(-2j/n_rot), or 0 where below floor_ratio 2 pi / original",
    .source = "arXiv:2412.17739",
    .summary = "pairs that make less than one turn over the trained context do not turn",
    .detail = "floor_ratio: turns over `original`, the trained length, below which a pair stays "
              "still: it was never seen at all of its angles, and carries contents better without "
              "any. It costs nothing. floor_ratio=0 is plain RoPE, floor_ratio=inf no encoding.",
    .common = ROPE_ORIGINAL,
    .args = {{"floor_ratio", 1, 0, (double)INFINITY, "least turns over `original`", NULL}},
    .freqs = clip_freqs,
};

/* What is mixed: D frequencies w[D] (those that are not 0, or all), into the first M pairs. */
typedef struct {
    int D, M, step; /* pair m is made of frequency m * step, and a little of all others */
    double w[MAX_PAIRS];
} Mixture;

static int mixture(const Rope *r, Mixture *x, Err *e)
{
    double amplitude;
    int zeros = r->p.arg[IGNORE_ZERO] < 1, quarter = r->p.head_dim / 4;
    if (clip_freqs(r, 0, x->w, &amplitude, e)) return -1;
    x->D = 0;
    for (int j = 0; j < r->n_pairs; j++)
        if (zeros || x->w[j] > 0) x->w[x->D++] = x->w[j];
    x->M = zeros || x->D < quarter ? x->D : quarter;
    x->step = x->M ? (x->D + x->M - 1) / x->M : 1;
    return 0;
}

/* Each pair's own frequency; 0 where it has none. */
static int fope_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    (void)length;
    Mixture x;
    if (mixture(r, &x, e)) return -1;
    for (int kh = 0; kh < r->sets; kh++, inv_freq += r->n_pairs)
        for (int j = 0; j < r->n_pairs; j++)
            inv_freq[j] = j < x.M && j * x.step < x.D ? x.w[j * x.step] : 0;
    *amplitude = 1;
    return 0;
}

/* From a normal distribution of mean 0 and variance 1 (Box and Muller, 1958). */
static double normal(uint64_t *rng)
{
    double u = (double)((rng_next(rng) >> 11) + 1) * 0x1p-53;
    double v = (double)(rng_next(rng) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(2 * acos(-1) * v);
}

/* Coefficients [K][D][M] without a file: 1 at (m step, m), and noise of a standard deviation of
 * gain sqrt(2 / (D M + K M)) if there is a seed: Glorot's, as PyTorch counts three dimensions. */
static void draw(Rope *r, const Mixture *x, int i, uint64_t *rng)
{
    int K = r->p.n_kv_heads, D = x->D, M = x->M;
    double size = r->p.arg[SEED] > 0 ? r->p.arg[GAIN] * sqrt(2 / ((double)M * (D + K))) : 0;
    r->n_w[i] = (size_t)K * (size_t)D * (size_t)M;
    float *w = r->w[i] = xcalloc(r->n_w[i], sizeof *w);
    for (int row = 0; row < K * D; row++)
        for (int m = 0; m < M; m++)
            *w++ = (float)((row % D == m * x->step) + (size > 0 ? size * normal(rng) : 0));
}

/* rope_fope_sin.weight and rope_fope_cos.weight, rows kh D + i of M values each. */
static int fope_load(Rope *r, RopeSource *s, Err *e)
{
    static const char *const name[] = {"rope_fope_sin.weight", "rope_fope_cos.weight"};
    Mixture x;
    if (mixture(r, &x, e)) return -1;
    uint64_t rng = (uint64_t)r->p.arg[SEED];
    int found[2] = {0}, rows = r->p.n_kv_heads * x.D;
    for (int i = 0; i < 2 && x.M && !(r->p.arg[SEED] > 0); i++) {
        found[i] = rope_tensor(s, r, i, name[i], x.M, rows, e);
        if (found[i] < 0) return -1;
        for (size_t k = 0; k < r->n_w[i]; k++)
            if (!isfinite(r->w[i][k]))
                return err_set(e, "rope fope: tensor '%s': value %zu is %g; expected a finite one",
                               name[i], k, (double)r->w[i][k]);
    }
    if (found[0] != found[1] || (r->file && x.M && !found[0]))
        return err_set(e, "rope fope: tensor '%s' is missing; expected it beside '%s' or seed=N",
                       name[found[0]], name[!found[0]]);
    for (int i = 0; i < 2 && !found[0]; i++) draw(r, &x, i, &rng);
    return 0;
}

/* (a, b) -> (a C_m - b S_m, a S_m + b C_m), S_m = sum_i sin(p w_i) Cs[kh][i][m], C_m = sum_i
 * cos(p w_i) Cc[kh][i][m], for the first M pairs; the others by (1, 0) or (1, 1). */
static void fope_turn(const RopeAt *at, double *c, double *s)
{
    const Rope *r = at->r;
    Mixture x;
    Err e;
    double cs[MAX_PAIRS], sn[MAX_PAIRS];
    int bad = mixture(r, &x, &e);
    MUST(!bad); /* fope_load has seen it */
    for (int i = 0; i < x.D; i++) {
        cs[i] = cos(at->p * x.w[i]);
        sn[i] = sin(at->p * x.w[i]);
    }
    for (int m = 0; m < r->n_pairs; m++) {
        size_t w = (size_t)at->kh * (size_t)x.D * (size_t)x.M + (size_t)m;
        int mixed = m < x.M;
        c[m] = !mixed;
        s[m] = !mixed && (int)r->p.arg[PAD] == PAD_ONES;
        for (int i = 0; mixed && i < x.D; i++, w += (size_t)x.M) {
            c[m] += cs[i] * (double)r->w[W_COS][w];
            s[m] += sn[i] * (double)r->w[W_SIN][w];
        }
    }
}

const RopeKind rope_fope = {
    .name = "fope",
    .formula = "cos_m = sum_i cos(p w_i) C[i,m], sin_m = sum_i sin(p w_i) S[i,m] for each key head",
    .source = "arXiv:2412.17739",
    .summary = "each pair turns by a mixture of all frequencies, sub-turn ones removed (FoPE)",
    .detail =
        "w: the D plain frequencies left by floor_ratio (see fope-clip). ignore_zero=0: those that "
        "are clipped take part as constants. C, S: fixed matrices [D x M] of each key head, M the "
        "smaller of D and head_dim / 4 (with ignore_zero=0: D): tensors rope_fope_cos.weight and "
        "rope_fope_sin.weight of the model or of file=, n_kv_heads D rows of M values, or "
        "blk.L.rope_fope_... for layer L alone. Without them pair m turns by frequency m ceil(D / "
        "M); seed=N adds noise of size gain, as at the start of training, the same in all layers. "
        "The remaining pairs do not turn; pad=ones is what published code does instead: cos = sin "
        "= 1, which doubles their part of the logit. The map is not a rotation: logits do not "
        "depend on the distance alone, and values change their size. The frequency that reports "
        "give for a pair is the one it has without noise. It costs 2 D M multiplications per key "
        "head and token. floor_ratio=0,ignore_zero=0 without noise is plain RoPE, floor_ratio=inf "
        "no encoding.",
    .common = ROPE_ORIGINAL,
    .args = {{"floor_ratio", 1, 0, (double)INFINITY, "least turns over `original`", NULL},
             {"ignore_zero", 1, 0, 1, "clipped frequencies take no part", NULL},
             {"pad", PAD_PLAIN, 0, 1, "pairs without a mixture: still, or doubled", "plain ones"},
             {"gain", 0.3, 0, 100, "size of the noise", NULL},
             {"seed", 0, 0, 9007199254740992.0, "of the noise (0: none)", NULL}},
    .whole = 1u << IGNORE_ZERO | 1u << SEED,
    .load = fope_load,
    .freqs = fope_freqs,
    .per_head = 1,
    .turn = fope_turn,
};
