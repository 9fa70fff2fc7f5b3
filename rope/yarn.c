/* Encodings that stretch a pair by how often it turned in the trained context. */
#include "../model.h"

#include <math.h>

static double clip01(double x)
{
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

/* What stays of frequency w, 0 .. 1: all of it from `most` turns in L on, nothing up to `least`. */
static double kept_by_turns(double w, double L, double least, double most)
{
    double over = L * w / (2 * M_PI) - least, width = most - least;
    return width > 0 ? clip01(over / width) : over >= 0;
}

/* ---------------------------------------------------------------- NTK by parts */

enum { PARTS_ALPHA, PARTS_BETA };

static int parts_params(RopeParams *p, Err *e)
{
    if (rope_stretch("by-parts", p, e)) return -1;
    if (p->arg[PARTS_BETA] >= p->arg[PARTS_ALPHA] && p->arg[PARTS_ALPHA] >= 0) return 0;
    return err_set(e, "rope by-parts: expected beta not below alpha, found %g and %g",
                   p->arg[PARTS_BETA], p->arg[PARTS_ALPHA]);
}

/* g w + (1 - g) w / s (arXiv:2309.00071, eq. 17 to 20). A mean of frequencies, not wavelengths. */
static int parts_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    const double *a = r->p.arg;
    if (rope_plain.freqs(r, length, inv_freq, amplitude, e)) return -1;
    for (int j = 0; j < r->n_pairs; j++) {
        double g = kept_by_turns(inv_freq[j], r->p.n_ctx_orig, a[PARTS_ALPHA], a[PARTS_BETA]);
        inv_freq[j] = rope_slowed(inv_freq[j], r->p.factor, g);
    }
    return 0;
}

const RopeKind rope_by_parts = {
    .name = "by-parts",
    .formula = "theta_j = g w_j + (1-g) w_j/factor, g = (L w_j/(2 pi) - alpha)/(beta-alpha)",
    .source = "arXiv:2309.00071, sec. 3.2",
    .summary = "NTK by parts: a pair is stretched unless it turned often in the trained context",
    .detail =
        "w_j: plain frequency (after the file's divisors, if any). L (original): the trained "
        "length, in which pair j turns L w_j / (2 pi) times. g is cut to 0 .. 1: pairs of more "
        "than beta turns are kept, those of fewer than alpha are divided by the factor. It costs "
        "nothing. factor=1 is plain RoPE, and so is beta=0,alpha=0; a huge alpha and beta is "
        "linear. With a temperature on top it is the YaRN of the paper (yarn:ramp=turns).",
    .common = ROPE_NEEDS_FACTOR | ROPE_ORIGINAL,
    .args = {{"alpha", 1, 0, 1e9, "turns up to which a pair is stretched in full", NULL},
             {"beta", 32, 0, 1e9, "turns from which a pair is kept", NULL}},
    .params = parts_params,
    .freqs = parts_freqs,
};

/* ---------------------------------------------------------------- YaRN */

enum {
    YARN_FACTOR,
    YARN_FAST,
    YARN_SLOW,
    YARN_TRUNCATE,
    YARN_RAMP,
    YARN_ATTENTION,
    YARN_MSCALE,
    YARN_MSCALE_ALL,
    YARN_TIMES,
    YARN_EXT
};

int rope_settle_factor(const char *kind, RopeParams *p, int arg, Err *e)
{
    double *s = &p->arg[arg], said = p->factor;
    if (p->n_ctx_orig < 1) p->n_ctx_orig = p->n_ctx_train;
    if (isnan(*s) && (said > 1 || said < 1)) *s = said;
    if (isnan(*s))
        *s = p->n_ctx_orig > 0 && p->n_ctx_train > 0 ? (double)p->n_ctx_train / p->n_ctx_orig : 1;
    p->factor = *s;
    return rope_stretch(kind, p, e);
}

static int yarn_params(RopeParams *p, Err *e)
{
    const double *a = p->arg;
    int silent = isnan(a[YARN_FACTOR]);
    if (rope_settle_factor("yarn", p, YARN_FACTOR, e)) return -1;
    if (silent && p->factor >= 1 && p->factor <= 1)
        return err_usage(e, "--rope yarn: give its factor, as yarn:factor=4");
    if (!(p->base > 1))
        return err_set(e, "rope yarn: base: expected a number above 1, found %g", p->base);
    if (!(a[YARN_SLOW] > 0 && a[YARN_FAST] >= a[YARN_SLOW]))
        return err_set(e, "rope yarn: expected beta_fast not below beta_slow, found %g and %g",
                       a[YARN_FAST], a[YARN_SLOW]);
    return 0;
}

/* The pair, a real number, that turns `turns` times in the trained context. */
static double pair_of_turns(const RopeParams *p, double turns)
{
    return p->n_rot * log(p->n_ctx_orig / (turns * 2 * M_PI)) / (2 * log(p->base));
}

/* What stays of pair j, by its number. Pitfalls: the end of the ramp is cut at n_rot - 1, not at
 * the last pair; with ends that meet or cross, all pairs after the first end are stretched. */
static double kept_by_index(const RopeParams *p, int j)
{
    double lo = pair_of_turns(p, p->arg[YARN_FAST]), hi = pair_of_turns(p, p->arg[YARN_SLOW]);
    if (p->arg[YARN_TRUNCATE] > 0) lo = floor(lo), hi = ceil(hi);
    lo = fmax(lo, 0);
    hi = fmin(hi, p->n_rot - 1);
    if (hi <= lo) hi = lo + 0.001;
    return 1 - clip01((j - lo) / (hi - lo));
}

/* 0.1 m ln s + 1 (arXiv:2309.00071, eq. 22: the root of 1 / t). */
static double yarn_mscale(double s, double m)
{
    return s <= 1 ? 1 : 0.1 * m * log(s) + 1;
}

static double yarn_amplitude(const double *a)
{
    double s = a[YARN_FACTOR], A = yarn_mscale(s, 1);
    if (a[YARN_MSCALE] > 0 && a[YARN_MSCALE_ALL] > 0)
        A = yarn_mscale(s, a[YARN_MSCALE]) / yarn_mscale(s, a[YARN_MSCALE_ALL]);
    if (!(a[YARN_EXT] > 0)) A = 1;
    if (!isnan(a[YARN_ATTENTION])) A = a[YARN_ATTENTION];
    return A * a[YARN_TIMES];
}

static int yarn_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    const double *a = r->p.arg;
    double L = r->p.n_ctx_orig;
    if (rope_plain.freqs(r, length, inv_freq, amplitude, e)) return -1;
    for (int j = 0; j < r->n_pairs; j++) {
        double keep = a[YARN_RAMP] > 0 ? kept_by_turns(inv_freq[j], L, a[YARN_SLOW], a[YARN_FAST])
                                       : kept_by_index(&r->p, j);
        inv_freq[j] = rope_slowed(inv_freq[j], r->p.factor, keep * a[YARN_EXT]);
    }
    *amplitude = yarn_amplitude(a);
    return 0;
}

const RopeKind rope_yarn = {
    .name = "yarn",
    .formula = "theta_j = (1-g) w_j + g w_j/factor, g = (j-lo)/(hi-lo); cos, sin times A",
    .source = "arXiv:2309.00071",
    .summary = "YaRN: slow pairs stretched, fast ones kept, and a temperature on the scores",
    .detail =
        "w_j: plain frequency (after the file's divisors, if any). lo and hi: the pairs that turn "
        "beta_fast and beta_slow times in the trained length L (original), rounded outwards unless "
        "truncate=no; g is cut to 0 .. 1. ramp=turns is the paper's ramp, even in turns instead of "
        "pairs; released models have ramp=index. A = 0.1 ln factor + 1 sits on queries and keys, "
        "so the rotated part of a score counts A^2 times. With mscale and mscale_all_dim it is "
        "(0.1 mscale ln factor + 1) / (0.1 mscale_all_dim ln factor + 1); attention_factor is "
        "taken as it is, instead; attn_factor multiplies either. ext_factor blends between YaRN "
        "(1) and linear (0: no ramp and A = 1). It costs nothing. factor=1 is plain RoPE. Without "
        "a factor it is the context length of the file divided by L.",
    .common = ROPE_ORIGINAL,
    .args = {{"factor", (double)NAN, 1e-6, 1e6,
              "of the context; else the file's, or its context / L", NULL},
             {"beta_fast", 32, 1e-6, 1e9, "turns in L from which a pair is kept", NULL},
             {"beta_slow", 1, 1e-6, 1e9, "turns in L up to which it is stretched in full", NULL},
             {"truncate", 1, 0, 1, "are the ends of the ramp whole pairs?", "no yes"},
             {"ramp", 0, 0, 1, "even in pair numbers, or in turns", "index turns"},
             {"attention_factor", (double)NAN, 0, 1e6, "A; else computed from the factor", NULL},
             {"mscale", 0, 0, 1e6, "weight of ln factor in A; 0: not given", NULL},
             {"mscale_all_dim", 0, 0, 1e6, "weight of ln factor in what A is divided by", NULL},
             {"attn_factor", 1, 1e-6, 1e6, "multiplies A", NULL},
             {"ext_factor", 1, 0, 1, "weight of the ramp; 0: linear", NULL}},
    .params = yarn_params,
    .freqs = yarn_freqs,
};
