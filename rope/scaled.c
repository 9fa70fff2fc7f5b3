/* Encodings that stretch the plain frequencies to a longer context. */
#include "../model.h"

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
