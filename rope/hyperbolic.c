/* HoPE: pairs that are boosted, as in relativity, where those of RoPE are turned. */
#include "../model.h"

#include <float.h>
#include <math.h>

enum { HOPE_DECAY, HOPE_BOOST, HOPE_MODE };
enum { HYPERBOLIC, ELLIPTIC };

static int is_elliptic(const Rope *r)
{
    return r->p.arg[HOPE_MODE] >= ELLIPTIC;
}

static int hope_params(RopeParams *p, Err *e)
{
    if (p->pos_scale >= 0) return 0;
    return err_usage(e,
                     "--rope hope: pos_scale: expected 0 or more, or scores would grow with the "
                     "distance; found %g",
                     p->pos_scale);
}

/* theta_j = boost base^(-2j / n_rot), none above decay. */
static int hope_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    double largest = 0;
    if (rope_plain.freqs(r, length, inv_freq, amplitude, e)) return -1;
    for (int j = 0; j < r->n_pairs; j++) {
        inv_freq[j] *= r->p.arg[HOPE_BOOST];
        largest = fmax(largest, inv_freq[j]);
    }
    if (is_elliptic(r) || largest <= r->p.arg[HOPE_DECAY]) return 0;
    return err_usage(e,
                     "--rope hope: decay: expected the largest theta, %g, or more, or scores would "
                     "grow with the distance; found %g",
                     largest, r->p.arg[HOPE_DECAY]);
}

/* The elliptic mode turns; what the boost does is done to the keys in the cache. */
static void hope_turn(const RopeAt *at, double *c, double *s)
{
    for (int j = 0; j < at->r->n_pairs; j++) {
        double angle = is_elliptic(at->r) ? at->p * at->inv_freq[j] : 0;
        c[j] = cos(angle);
        s[j] = sin(angle);
    }
}

/* (a, b) -> (u, v) = ((a + b) / sqrt 2, (a - b) / sqrt 2), where the boost is diagonal. A pair with
 * theta = 0 has none, and any axes will do: it stays as it is. */
static void hope_mix(const Rope *r, int kh, float *x)
{
    (void)kh;
    for (int j = 0; !is_elliptic(r) && j < r->n_pairs; j++) {
        int ia, ib;
        rope_pair(r, j, &ia, &ib);
        if (!(r->inv_freq[j] > 0)) continue;
        double a = (double)x[ia], b = (double)x[ib];
        x[ia] = (float)((a + b) * M_SQRT1_2);
        x[ib] = (float)((a - b) * M_SQRT1_2);
    }
}

/* What one more token of distance leaves of each of the D values of a key. */
static void hope_step(const Rope *r, double *by)
{
    double decay = r->p.arg[HOPE_DECAY], step = r->p.pos_scale;
    for (int c = 0; c < r->p.head_dim; c++) by[c] = 1;
    for (int j = 0; j < r->n_pairs; j++) {
        int a, b;
        double theta = is_elliptic(r) ? 0 : r->inv_freq[j];
        rope_pair(r, j, &a, &b);
        by[a] = exp(-(decay - theta) * step);
        by[b] = exp(-(decay + theta) * step);
    }
}

/* All keys one token further away: u *= e^-(theta' - theta), v *= e^-(theta' + theta). The product
 * is formed in double and rounded once. A walk of random roundings: some 6e-6 of a value after 4096
 * tokens, where a factor in float would have come to 8e-5. Below FLT_MIN it is 0: times 0.9 the
 * smallest number would stay what it is. */
static void hope_update(const RopeCall *call, int kh, int i, float *key, int n_t)
{
    const Rope *r = call->r;
    size_t D = (size_t)r->p.head_dim;
    double by[2 * MAX_PAIRS];
    (void)kh, (void)i;
    hope_step(r, by);
    for (size_t t = 0; t < (size_t)n_t; t++)
        for (size_t c = 0; c < D; c++) {
            double x = (double)key[t * D + c] * by[c];
            key[t * D + c] = fabs(x) < (double)FLT_MIN ? 0 : (float)x;
        }
}

const RopeKind rope_hope = {
    .name = "hope",
    .formula = "score_j = e^(-D theta') (q B(D theta_j) k), B = [cosh sinh; sinh cosh]",
    .source = "arXiv:2509.05218",
    .summary = "hyperbolic RoPE: pairs are boosted instead of turned, scores fall with distance",
    .detail = "D: distance of query and key; theta_j = boost base^(-2j/n_rot), the rapidity of "
              "pair j per token; theta' = decay, at least the largest of them. In the axes u = (a "
              "+ b) / sqrt 2, v = (a - b) / sqrt 2 a boost is two factors: score_j = u_q u_k "
              "e^(-D (theta' - theta_j)) + v_q v_k e^(-D (theta' + theta_j)). Queries and keys are "
              "brought to these axes, and all keys in the cache are multiplied by both factors at "
              "every new token: as written in the paper, with growing factors on one side, float "
              "overflows after 42 tokens. That costs as much again as the scores, and needs keys "
              "in float32. With decay=1.1 nothing is left of the slowest value after some 800 "
              "tokens. mode=elliptic turns the pairs as plain RoPE does, and keeps the factor "
              "e^(-D theta'). elliptic with decay=0 is plain RoPE; boost=0 with decay=0 is no "
              "encoding; boost=0 alone is a score without positions times e^(-D theta').",
    .args = {[HOPE_DECAY] = {"decay", 1.1, 0, 1000, "theta', per token", NULL},
             [HOPE_BOOST] = {"boost", 1, 0, 1000, "all rapidities times this", NULL},
             [HOPE_MODE] = {"mode", HYPERBOLIC, 0, 1, "boost the pairs, or turn them",
                            "hyperbolic elliptic"}},
    .params = hope_params,
    .freqs = hope_freqs,
    .turn = hope_turn,
    .mix = hope_mix,
    .update = hope_update,
};
