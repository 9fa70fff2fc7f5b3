/* No position encoding ("NoPE", arXiv:2305.19466): order is known from the causal mask alone. */
#include "../model.h"

/* All frequencies 0: cos = 1, sin = 0, and x * 1 - y * 0 is x (of a zero, the sign may change). */
static int none_freqs(const RopeParams *p, double *inv_freq, double *amplitude, Err *e)
{
    (void)e;
    for (int j = 0; j < p->n_rot / 2; j++) inv_freq[j] = 0;
    *amplitude = 1;
    return 0;
}

const RopeKind rope_none = {"none", "theta_j = 0", "arXiv:2305.19466", none_freqs};
