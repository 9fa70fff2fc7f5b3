/* No position encoding ("NoPE", arXiv:2305.19466): order is known from the causal mask alone. */
#include "../model.h"

/* All frequencies 0: cos = 1, sin = 0, and x * 1 - y * 0 is x (of a zero, the sign may change). */
static int none_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    (void)length, (void)e;
    for (int j = 0; j < r->n_pairs; j++) inv_freq[j] = 0;
    *amplitude = 1;
    return 0;
}

const RopeKind rope_none = {
    .name = "none",
    .formula = "theta_j = 0",
    .source = "arXiv:2305.19466",
    .summary = "no encoding: order is known from the causal mask alone (NoPE)",
    .detail =
        "Queries and keys are left as they are. It costs nothing. Every encoding whose angles "
        "are all 0 reduces to it.",
    .freqs = none_freqs,
};
