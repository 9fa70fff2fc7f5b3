/* Encodings that stretch the plain frequencies to a longer context. */
#include "../model.h"

#include <limits.h>
#include <math.h>

int rope_stretch(const char *kind, RopeParams *p, Err *e)
{
    if (p->n_ctx_orig < 1) p->n_ctx_orig = p->n_ctx_train;
    if (p->n_ctx_orig < 1)
        return err_set(e,
                       "rope %s: original: expected the length of the context the model was "
                       "trained for, found %d",
                       kind, p->n_ctx_orig);
    if (!(p->factor > 0 && p->factor <= 1e6))
        return err_set(e, "rope %s: expected a factor above 0, up to 1e6, found %g", kind,
                       p->factor);
    return 0;
}

double rope_slowed(double w, double s, double keep)
{
    double slow = w / s;
    return slow < w || slow > w ? keep * w + (1 - keep) * slow : w;
}

/* ---------------------------------------------------------------- linear */

/* Position interpolation: inv_freq[j] = base^(-2j / n_rot) / factor (arXiv:2306.15595, eq. 4),
 * after the file's divisors, if any. */
static int linear_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    if (!(r->p.factor > 0 && r->p.factor <= 1e6))
        return err_set(e, "rope linear: expected a factor above 0, up to 1e6, found %g",
                       r->p.factor);
    if (rope_plain.freqs(r, length, inv_freq, amplitude, e)) return -1;
    for (int j = 0; j < r->n_pairs; j++) inv_freq[j] /= r->p.factor;
    return 0;
}

const RopeKind rope_linear = {
    .name = "linear",
    .formula = "theta_j = base^(-2j/n_rot) / factor",
    .source = "arXiv:2306.15595",
    .summary = "position interpolation: all angles divided by one factor",
    .detail = "factor s: a context of s times the trained length is squeezed into the angles the "
              "model has seen. It costs nothing. factor=1 is plain RoPE; factor=s is plain RoPE at "
              "positions p / s.",
    .common = ROPE_NEEDS_FACTOR,
    .freqs = linear_freqs,
};

/* ---------------------------------------------------------------- another base */

/* Plain frequencies of the base b alpha^(n_rot / (n_rot - 2)): pair j's is divided by
 * alpha^(2j / (n_rot - 2)), which is 1 for the first pair and alpha for the last. */
static int rebased(const Rope *r, double alpha, double *inv_freq, double *amplitude, Err *e)
{
    Rope as = *r;
    double n_rot = r->p.n_rot;
    as.p.base *= pow(alpha, n_rot / (n_rot - 2)); /* of a single pair: infinite, and its frequency
                                                   * inf^0 = 1, as it should be */
    return rope_plain.freqs(&as, 0, inv_freq, amplitude, e);
}

static int ntk_params(RopeParams *p, Err *e)
{
    if (p->arg[0] > 0 && p->arg[0] <= 1e6) return 0;
    return err_set(e, "rope ntk: expected an alpha above 0, up to 1e6, found %g", p->arg[0]);
}

static int ntk_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    (void)length;
    return rebased(r, r->p.arg[0], inv_freq, amplitude, e);
}

const RopeKind rope_ntk = {
    .name = "ntk",
    .formula = "theta_j = (base alpha^(n_rot/(n_rot-2)))^(-2j/n_rot)",
    .source = "arXiv:2309.00071, sec. 3.1",
    .summary = "NTK-aware: a larger base, so that slow pairs are stretched and fast ones kept",
    .detail =
        "alpha: the last pair turns alpha times slower, the first as before, those between in "
        "geometric progression. It costs nothing. alpha=1 is plain RoPE. It is plain RoPE of a "
        "larger base: frequency divisors of the model file (rope_freqs.weight) still apply.",
    .args = {{"alpha", 1, 1e-6, 1e6, "how many times slower the slowest pair turns", NULL}},
    .params = ntk_params,
    .freqs = ntk_freqs,
};

/* ---------------------------------------------------------------- dynamic */

enum { DYNAMIC_LENGTH, DYNAMIC_STEP };

static int dynamic_params(RopeParams *p, Err *e)
{
    if (rope_stretch("dynamic", p, e)) return -1;
    if (isnan(p->arg[DYNAMIC_STEP])) p->arg[DYNAMIC_STEP] = p->n_ctx_orig / 64 + 1;
    if (p->arg[DYNAMIC_STEP] >= 1 && p->arg[DYNAMIC_LENGTH] >= 0) return 0;
    return err_set(e, "rope dynamic: expected a step of at least 1 token, found %g",
                   p->arg[DYNAMIC_STEP]);
}

/* M for the first M = n_ctx_orig tokens, then M + step, M + 2 step, ...; at least `length`. */
static int dynamic_length(const Rope *r, int pos)
{
    int M = r->p.n_ctx_orig, least = (int)r->p.arg[DYNAMIC_LENGTH];
    int64_t T = (int64_t)pos + 1, step = (int64_t)r->p.arg[DYNAMIC_STEP];
    if (least < M) least = M;
    if (T <= least) return least;
    T = M + (T - M + step - 1) / step * step;
    return T < INT_MAX ? (int)T : INT_MAX;
}

/* NTK-aware with alpha = s T/M - (s - 1), which is 1 at T = M. Pitfall: the test for T <= M is not
 * left to the formula; rounded, it would not give 1 there. */
static int dynamic_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    double s = r->p.factor, M = r->p.n_ctx_orig;
    double alpha = length > r->p.n_ctx_orig ? s * length / M - (s - 1) : 1;
    return rebased(r, alpha, inv_freq, amplitude, e);
}

const RopeKind rope_dynamic = {
    .name = "dynamic",
    .formula = "theta_j = (base (s T/M - s + 1)^(n_rot/(n_rot-2)))^(-2j/n_rot), T > M",
    .source = "arXiv:2309.00071, sec. 3.1 (Hugging Face \"dynamic\")",
    .summary = "dynamic NTK: plain up to the trained length M, then a base that grows with length",
    .detail =
        "T: tokens so far. M (original): the length the model was trained for. s (factor): how "
        "fast the base grows; even 1 stretches, once T > M. Up to M it is plain RoPE, whatever the "
        "factor. Beyond, each new table holds for `step` tokens (it is that of the last of them), "
        "and the keys in the cache are turned again from what they were before rotation, so all of "
        "the cache always has the table of the query; that costs a copy of the keys and, for each "
        "table, one rotation of all of them (step=1: at each token). Hugging Face grows token by "
        "token, too (step=1), but leaves old keys as they are, and takes one table for all of a "
        "prompt: length=N uses the table of N tokens for the first max(N, M). Frequency divisors "
        "of the model file still apply.",
    .common = ROPE_FACTOR | ROPE_ORIGINAL,
    .args = {{"length", 0, 0, INT_MAX, "tokens the first table is for; 0: as tokens come", NULL},
             {"step", (double)NAN, 1, 1 << 30, "tokens by which the table grows (M / 64 + 1)",
              NULL}},
    .whole = 1u << DYNAMIC_LENGTH | 1u << DYNAMIC_STEP,
    .params = dynamic_params,
    .freqs = dynamic_freqs,
    .length = dynamic_length,
};

/* ---------------------------------------------------------------- Llama 3 */

enum { LLAMA3_LOW, LLAMA3_HIGH };

static int llama3_params(RopeParams *p, Err *e)
{
    double low = p->arg[LLAMA3_LOW], high = p->arg[LLAMA3_HIGH];
    if (rope_stretch("llama3", p, e)) return -1;
    if (low >= 0 && high > low) return 0;
    return err_set(e, "rope llama3: expected high above low, found %g and %g", high, low);
}

/* Wavelengths under L / high keep their frequency, those over L / low have it divided by the
 * factor, between it is a mean (Llama 3.1, apply_scaling of its reference code). In place of the
 * file's divisors, which hold the same thing. */
static int llama3_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    double L = r->p.n_ctx_orig, low = r->p.arg[LLAMA3_LOW], high = r->p.arg[LLAMA3_HIGH];
    Rope as = *r;
    as.p.divisors = NULL;
    if (rope_plain.freqs(&as, length, inv_freq, amplitude, e)) return -1;
    for (int j = 0; j < r->n_pairs; j++) {
        double wave = 2 * M_PI / inv_freq[j], keep = (L / wave - low) / (high - low);
        if (wave < L / high) keep = 1;
        if (wave > L / low) keep = 0;
        inv_freq[j] = rope_slowed(inv_freq[j], r->p.factor, keep);
    }
    return 0;
}

const RopeKind rope_llama3 = {
    .name = "llama3",
    .formula = "theta_j = g w_j + (1-g) w_j/factor, g = (L/lambda_j - low)/(high-low) in [0, 1]",
    .source = "arXiv:2407.21783 (Llama 3.1 reference code)",
    .summary = "Llama 3.1: slow pairs divided by a factor, fast ones kept, a ramp between",
    .detail =
        "w_j: plain frequency, lambda_j = 2 pi / w_j its wavelength, L (original): the length "
        "trained for before scaling. Pairs of more than `high` turns in L are kept, those of fewer "
        "than `low` are divided by the factor. It costs nothing. factor=1 is plain RoPE, and so is "
        "a huge L; L=1 is linear. Model files of Llama 3.1 and later hold the outcome as divisors "
        "(rope_freqs.weight): this kind replaces them, it does not divide twice, so "
        "llama3:factor=8,low=1,high=4,original=8192 on such a file is what the file says. For "
        "Llama 3.1 that is the setting; Llama 3.2 has factor=32.",
    .common = ROPE_NEEDS_FACTOR | ROPE_ORIGINAL,
    .args = {{"low", 1, 0, 1e6, "turns in L below which a pair is stretched in full", NULL},
             {"high", 4, 1e-6, 1e6, "turns in L above which a pair is kept", NULL}},
    .params = llama3_params,
    .freqs = llama3_freqs,
};
