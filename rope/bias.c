/* Encodings that add to the scores instead of turning queries and keys. */
#include "../model.h"

#include <math.h>

enum { ALIBI_MAX_BIAS, ALIBI_UNDER };
enum { UNDER_NONE, UNDER_PLAIN };

static int alibi_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    const RopeKind *under = r->p.arg[ALIBI_UNDER] >= UNDER_PLAIN ? &rope_plain : &rope_none;
    return under->freqs(r, length, inv_freq, amplitude, e);
}

/* With c the largest power of two up to H heads: slope_h = 2^(-B (h + 1) / c) of the first c heads;
 * the others take every other slope of 2 c heads, 2^(-B (2 (h - c) + 1) / (2 c))
 * (arXiv:2108.12409, footnote 8; B = max_bias). */
static double alibi_slope(int h, int n_heads, double max_bias)
{
    int c = 1;
    while (2 * c <= n_heads) c *= 2;
    if (h < c) return exp2(-max_bias * (h + 1) / c);
    return exp2(-max_bias * (2 * (h - c) + 1) / (2.0 * c));
}

/* score[t] -= slope_h (p_pos - p_t), the distance of real positions; max_bias 0: nothing. */
static void alibi_bias(const Rope *r, int h, int pos, int t0, int n_t, float *score)
{
    if (!(r->p.arg[ALIBI_MAX_BIAS] > 0)) return;
    double slope = alibi_slope(h, r->p.n_heads, r->p.arg[ALIBI_MAX_BIAS]) * r->p.pos_scale;
    for (int t = 0; t < n_t; t++) score[t] += (float)(-slope * (pos - t0 - t));
}

const RopeKind rope_alibi = {
    .name = "alibi",
    .formula = "score -= slope_h (m - n), slope_h = 2^(-max_bias (h+1) / H)",
    .source = "arXiv:2108.12409",
    .summary = "attention with linear biases: distance lowers the score, by a slope for each head",
    .detail = "m, n: positions of query and key; h: the query head, of H. Where H is no power of "
              "two, the heads over the largest one, c, take every other slope of 2 c heads. The "
              "scaled score loses slope_h per token of distance, so that the first heads see a few "
              "tokens and the last ones some hundreds. It costs one addition per score. Nothing "
              "turns, unless under=plain stacks it on plain RoPE. max_bias=0 is what is under it: "
              "no encoding, or plain RoPE.",
    .args = {[ALIBI_MAX_BIAS] = {"max_bias", 8, 0, 1000,
                                 "slopes go down to 2^-max_bias; 0: no bias at all", NULL},
             [ALIBI_UNDER] = {"under", UNDER_NONE, 0, 1, "the encoding that it is added to",
                              "none plain"}},
    .freqs = alibi_freqs,
    .bias = alibi_bias,
};
