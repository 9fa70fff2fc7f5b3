/* Encodings that weaken logits with the distance. */
#include "../model.h"

#include <math.h>

enum { XPOS_GAMMA, XPOS_SCALE_BASE, XPOS_CENTRE };

/* zeta_j = (2j + gamma n_rot) / ((1 + gamma) n_rot), in (0, 1). */
static double zeta(const Rope *r, int j)
{
    double gamma = r->p.arg[XPOS_GAMMA], n_rot = r->p.n_rot;
    return (2 * j + gamma * n_rot) / ((1 + gamma) * n_rot);
}

static int xpos_params(RopeParams *p, Err *e)
{
    if (p->pos_scale >= 0) return 0;
    return err_set(e,
                   "rope xpos: pos_scale: expected 0 or more, as logits would grow without end "
                   "with the distance; found %g",
                   p->pos_scale);
}

static int xpos_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    return rope_plain.freqs(r, length, inv_freq, amplitude, e);
}

/* Tokens that share a centre: a power of two, such that no amplitude of a query, or of a key not
 * before it, leaves [1/16, 16]: keys of any length are then safe in half precision, too. */
static int section(const Rope *r)
{
    double per_token = -log(zeta(r, 0)) * r->p.pos_scale / r->p.arg[XPOS_SCALE_BASE];
    double most = 2 * log(16) / per_token;
    int n = 1;
    while (n < 1 << 30 && 2.0 * n <= most) n *= 2;
    return n;
}

/* The first token of the section of pos. */
static int xpos_length(const Rope *r, int pos)
{
    if (!isnan(r->p.arg[XPOS_CENTRE]) || !r->n_pairs) return 0;
    int n = section(r);
    return pos / n * n;
}

/* Of queries zeta_j^((p - centre) / scale_base) e^(i p theta_j), of keys the inverse power: the
 * centre cancels in their product (arXiv:2212.10554, sec. 3). Pitfall: with one centre for all
 * positions keys overflow float32 at position 36,260, half precision at 4,532. */
static void xpos_turn(const RopeAt *at, double *c, double *s)
{
    const Rope *r = at->r;
    double centre = r->p.arg[XPOS_CENTRE];
    if (isnan(centre))
        centre = r->p.pos_shift + r->p.pos_scale * ((double)at->length + section(r) / 2);
    double power = (at->p - centre) / r->p.arg[XPOS_SCALE_BASE];
    for (int j = 0; j < r->n_pairs; j++) {
        double size = pow(zeta(r, j), at->part == ROPE_K ? -power : power);
        c[j] = size * cos(at->p * at->inv_freq[j]);
        s[j] = size * sin(at->p * at->inv_freq[j]);
    }
}

const RopeKind rope_xpos = {
    .name = "xpos",
    .formula = "pair j of a logit times zeta_j^(distance/scale_base), zeta_j = (2j/n_rot + "
               "gamma)/(1 + gamma)",
    .source = "arXiv:2212.10554",
    .summary = "plain RoPE whose pairs fade with the distance, the fastest first (xPos)",
    .detail = "gamma: how far even the fastest pair is from fading at once; zeta_0 = gamma / "
              "(1 + gamma). scale_base: tokens after which pair j counts zeta_j of what it did. "
              "Queries grow and keys shrink with the distance from a centre, which cancels in the "
              "logit. The centre moves along by itself every 2048 tokens (at these defaults), "
              "and keys in the cache are turned again, so that no number grows too large; that "
              "keeps a second copy of the keys. centre: a position where it stays instead, as a "
              "model trained with a short context may have it: far from it numbers overflow. "
              "scale_base=inf is plain RoPE.",
    .args = {{"gamma", 0.4, 1e-3, 1e6, "how slowly the fastest pair fades", NULL},
             {"scale_base", 512, 1, (double)INFINITY, "tokens for one factor of zeta_j", NULL},
             {"centre", (double)NAN, -1e9, 1e9, "where it stays (it moves along)", NULL}},
    .params = xpos_params,
    .freqs = xpos_freqs,
    .length = xpos_length,
    .parts = 2,
    .turn = xpos_turn,
};
