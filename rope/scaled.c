/* Encodings that stretch the plain frequencies to a longer context. */
#include "../model.h"

/* Position interpolation: inv_freq[j] = base^(-2j / n_rot) / factor (arXiv:2306.15595, eq. 4),
 * after the file's divisors, if any. */
static int linear_freqs(const RopeParams *p, double *inv_freq, double *amplitude, Err *e)
{
    if (!(p->factor > 0 && p->factor < 1e6))
        return err_set(e, "rope linear: expected a factor above 0 and below 1e6, found %g",
                       p->factor);
    if (rope_plain.freqs(p, inv_freq, amplitude, e)) return -1;
    for (int j = 0; j < p->n_rot / 2; j++) inv_freq[j] /= p->factor;
    return 0;
}

const RopeKind rope_linear = {"linear", "theta_j = base^(-2j/n_rot) / factor", "arXiv:2306.15595",
                              linear_freqs};
