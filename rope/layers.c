/* Encodings that differ from layer to layer. */
#include "../model.h"

#include <math.h>

/* Layer l is one of every n if n divides l + 1. */
static int one_of_every(const RopeParams *p, const char *kind, double every, Err *e)
{
    if (floor(every) < every)
        return err_usage(e, "--rope %s: every: expected a whole number, found %g", kind, every);
    return (p->layer + 1) % (int)every == 0;
}

/* ---------------------------------------------------------------- local and global layers */

enum { LOCAL_BASE, LOCAL_EVERY };

/* What is scaled is the global layers: neither factor nor divisors hold for a local one. */
static int local_params(RopeParams *p, Err *e)
{
    int global = one_of_every(p, "local", p->arg[LOCAL_EVERY], e);
    if (global < 0) return -1;
    if (global) return 0;
    p->base = p->arg[LOCAL_BASE];
    p->factor = 1;
    p->divisors = NULL;
    return 0;
}

/* Plain frequencies of the layer's base, / factor. */
static int local_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    return rope_linear.freqs(r, length, inv_freq, amplitude, e);
}

const RopeKind rope_local = {
    .name = "local",
    .formula = "global: theta_j = base^(-2j/n_rot) / factor; local: local_base^(-2j/n_rot)",
    .source = "arXiv:2503.19786",
    .summary = "two bases, for global layers and for the local ones between them (Gemma 3)",
    .detail = "Layer l (from 0) is global where `every` divides l + 1, the others are local. base, "
              "factor and the file's divisors are those of the global layers; local layers turn by "
              "local_base, never scaled: what is near is seen as in the trained context. The "
              "window of the model stays what the file says. It costs nothing. With local_base the "
              "same as base and no factor or divisors it is plain RoPE; with every=1 it is linear.",
    .common = ROPE_FACTOR,
    .args = {[LOCAL_BASE] = {"local_base", 10000, 1e-9, 1e15, "base of the local layers", NULL},
             [LOCAL_EVERY] = {"every", 6, 1, 65536, "one global layer in so many", NULL}},
    .whole = 1u << LOCAL_EVERY,
    .per_layer = 1,
    .params = local_params,
    .freqs = local_freqs,
};

/* ---------------------------------------------------------------- layers without positions */

enum { NOPE_EVERY, NOPE_ATTN_SCALE, NOPE_FLOOR_SCALE };

/* The temperature is for layers that do not turn. */
static int nope_params(RopeParams *p, Err *e)
{
    int still = one_of_every(p, "nope-layers", p->arg[NOPE_EVERY], e);
    if (still == 0) p->arg[NOPE_ATTN_SCALE] = 0;
    return still < 0 ? -1 : 0;
}

static int nope_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    int still = one_of_every(&r->p, "nope-layers", r->p.arg[NOPE_EVERY], e);
    if (still < 0) return -1;
    return (still ? &rope_none : &rope_plain)->freqs(r, length, inv_freq, amplitude, e);
}

/* 1 + attn_scale ln(1 + floor((p + 1) / floor_scale)) */
static double nope_q_scale(const Rope *r, int pos)
{
    double p = fmax(r->p.pos_shift + r->p.pos_scale * pos, 0);
    return 1 + r->p.arg[NOPE_ATTN_SCALE] * log(1 + floor((p + 1) / r->p.arg[NOPE_FLOOR_SCALE]));
}

const RopeKind rope_nope_layers = {
    .name = "nope-layers",
    .formula = "theta_j = base^(-2j/n_rot), 0 in every 4th layer; there "
               "q *= 1 + attn_scale ln(1 + floor((p+1) / floor_scale))",
    .source = "arXiv:2501.18795; SmolLM3, Llama 4 (iRoPE)",
    .summary = "plain RoPE, but some layers do not turn at all, and may sharpen far queries",
    .detail = "Layer l (from 0) does not turn where `every` divides l + 1. On those layers the "
              "query at position p may be multiplied, as in Llama 4: attn_scale is 0.1 there, and "
              "keeps attention over very long contexts from going flat; with attn_scale=0, as in "
              "SmolLM3, or before position floor_scale - 1 nothing is multiplied. It costs "
              "nothing. With `every` more than the number of layers it is plain RoPE, with every=1 "
              "and attn_scale=0 no encoding.",
    .args = {[NOPE_EVERY] = {"every", 4, 1, 65536, "one layer in so many does not turn", NULL},
             [NOPE_ATTN_SCALE] = {"attn_scale", 0, 0, 1000,
                                  "growth of the queries of those layers with ln position", NULL},
             [NOPE_FLOOR_SCALE] = {"floor_scale", 8192, 1, 1e15, "tokens per step of it", NULL}},
    .whole = 1u << NOPE_EVERY,
    .per_layer = 1,
    .params = nope_params,
    .freqs = nope_freqs,
    .q_scale = nope_q_scale,
};
