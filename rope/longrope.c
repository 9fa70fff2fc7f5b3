/* LongRoPE: a divisor for each pair, found by search, from one of two lists. */
#include "../model.h"

#include <limits.h>
#include <math.h>

enum { LONG_FACTOR, LONG_ATTENTION, LONG_LENGTH, LONG_SHORT_MSCALE, LONG_LONG_MSCALE, LONG_SEED };

/* Only the amplitude that follows from factor and L divides by ln L. */
static int longrope_params(RopeParams *p, Err *e)
{
    int said = !isnan(p->arg[LONG_ATTENTION]) ||
               (!isnan(p->arg[LONG_SHORT_MSCALE]) && !isnan(p->arg[LONG_LONG_MSCALE]));
    if (rope_settle_factor("longrope", p, LONG_FACTOR, e)) return -1;
    if (p->factor <= 1 || p->n_ctx_orig > 1 || said) return 0;
    return err_set(e, "rope longrope: original: expected at least 2 tokens, found %d",
                   p->n_ctx_orig);
}

/* Random lists, so that the kind can be tried without a file: short 1 .. 1.25, long 1 .. 1 + s. */
static void draw_lists(Rope *r)
{
    uint64_t seed = (uint64_t)r->p.arg[LONG_SEED];
    double most[2] = {0.25, r->p.factor};
    for (int i = 0; i < 2; i++) {
        r->n_w[i] = (size_t)r->n_pairs;
        r->w[i] = xcalloc(r->n_w[i], sizeof *r->w[i]);
        for (int j = 0; j < r->n_pairs; j++)
            r->w[i][j] = (float)(1 + most[i] * ((double)(rng_next(&seed) >> 40) * 0x1p-24));
    }
}

static const char *const list_names[2] = {"rope_factors_short.weight", "rope_factors_long.weight"};

static int longrope_load(Rope *r, RopeSource *s, Err *e)
{
    int found[2] = {0, 0}, P = r->n_pairs;
    for (int i = 0; i < 2 && P; i++) {
        found[i] = rope_tensor(s, r, i, list_names[i], P, 1, e);
        if (found[i] < 0) return -1;
        for (int j = 0; found[i] && j < P; j++)
            if (!(r->w[i][j] > 0 && isfinite(r->w[i][j])))
                return err_set(e,
                               "rope longrope: tensor '%s': divisor %d is %g; expected a number "
                               "above 0",
                               list_names[i], j, (double)r->w[i][j]);
    }
    if (found[0] != found[1])
        return err_set(e, "rope longrope: tensor '%s' is missing; expected two lists, found one",
                       list_names[found[0]]);
    if (r->file && P && !found[0])
        return err_set(e, "%s: expected tensors '%s' and '%s', found neither", r->file,
                       list_names[0], list_names[1]);
    if (P && !found[0] && r->p.arg[LONG_SEED] > 0) draw_lists(r);
    return 0;
}

/* L as long as the short list holds, up to and at L tokens, then L + 1. */
static int longrope_length(const Rope *r, int pos)
{
    int L = r->p.n_ctx_orig;
    return (pos >= L || r->p.arg[LONG_LENGTH] > L) && L < INT_MAX ? L + 1 : L;
}

/* sqrt(1 + ln s / ln L) (arXiv:2402.13753, the "su" policy of its code), of both lists alike. */
static double longrope_amplitude(const RopeParams *p, int is_long)
{
    double mscale = p->arg[is_long ? LONG_LONG_MSCALE : LONG_SHORT_MSCALE];
    if (!isnan(mscale)) return mscale;
    if (!isnan(p->arg[LONG_ATTENTION])) return p->arg[LONG_ATTENTION];
    return p->factor <= 1 ? 1 : sqrt(1 + log(p->factor) / log(p->n_ctx_orig));
}

/* inv_freq[j] = base^(-2j / n_rot) / list[j]; the lists replace the divisors of the file. */
static int longrope_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    int is_long = length > r->p.n_ctx_orig;
    Rope as = *r;
    if (r->w[is_long]) as.p.divisors = r->w[is_long];
    if (rope_plain.freqs(&as, length, inv_freq, amplitude, e)) return -1;
    *amplitude = longrope_amplitude(&r->p, is_long);
    return 0;
}

const RopeKind rope_longrope = {
    .name = "longrope",
    .formula = "theta_j = base^(-2j/n_rot) / list_j, short list up to L tokens, then long; times A",
    .source = "arXiv:2402.13753",
    .summary =
        "LongRoPE (\"su\", Phi-3): a searched divisor for each pair, from a short or a long list",
    .detail =
        "L (original): the length trained for. Up to and at L tokens the short list holds, beyond "
        "it the long one; at that moment the keys in the cache are turned again from what they "
        "were before rotation, so all of the cache always has the table of the query. That costs a "
        "copy of the keys. length=N uses the list of N tokens from the first on, as Hugging Face "
        "does for a prompt of N. The lists are the tensors rope_factors_short.weight and "
        "rope_factors_long.weight (n_rot / 2 numbers) of the model or of file=PATH; they replace "
        "the divisors of rope_freqs.weight. A = sqrt(1 + ln factor / ln L) multiplies cos and sin "
        "under both lists; attention_factor is taken as it is, instead, and short_mscale and "
        "long_mscale set it for one list. Without a factor it is the context length of the file "
        "divided by L. Without lists, or with lists of 1, and attention_factor=1 it is plain RoPE; "
        "with lists of s it is linear.",
    .common = ROPE_ORIGINAL,
    .args = {{"factor", (double)NAN, 1e-6, 1e6,
              "of the context; else the file's, or its context / L", NULL},
             {"attention_factor", (double)NAN, 0, 1e6, "A; else computed from factor and L", NULL},
             {"length", 0, 0, INT_MAX, "tokens the first list is for; 0: as tokens come", NULL},
             {"short_mscale", (double)NAN, 0, 1e6, "A under the short list", NULL},
             {"long_mscale", (double)NAN, 0, 1e6, "A under the long list", NULL},
             {"seed", 0, 0, 1 << 30, "of random lists, if there are no tensors; 0: lists of 1",
              NULL}},
    .whole = 1u << LONG_LENGTH | 1u << LONG_SEED,
    .params = longrope_params,
    .load = longrope_load,
    .freqs = longrope_freqs,
    .length = longrope_length,
};
