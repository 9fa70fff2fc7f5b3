/* RoPE++: attention heads that see the imaginary part of the rotated product. */
#include "../model.h"

#include <math.h>

enum { PP_MODE, PP_PHASE, PP_REAL, PP_IMAG };
enum { MODE_EC, MODE_EH, MODE_IMAGX, MODE_IMAGH, MODE_IMAGO };

static int pp_params(RopeParams *p, Err *e)
{
    (void)e;
    p->copies = p->arg[PP_MODE] <= MODE_EH ? 2 : 1;
    p->halved = (int)p->arg[PP_MODE] == MODE_EH;
    p->fold[0] = p->arg[PP_REAL];
    p->fold[1] = p->arg[PP_IMAG];
    return 0;
}

/* Is attention head h an imaginary one? ec, eh: real_0, imag_0, real_1, ... */
static int pp_part(const Rope *r, int h)
{
    switch ((int)r->p.arg[PP_MODE]) {
    case MODE_IMAGH:
        return 2 * h >= r->p.n_heads ? ROPE_Q_COPY : ROPE_Q;
    case MODE_IMAGO:
        return ROPE_Q_COPY;
    default:
        return h % 2 ? ROPE_Q_COPY : ROPE_Q;
    }
}

static int pp_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    return rope_plain.freqs(r, length, inv_freq, amplitude, e);
}

/* The real part of q e^(i (m w - pi/2)) (k e^(i n w))* is the imaginary part of the product without
 * the - pi/2, up to its sign: all that imaginary heads need is a phase on their queries. */
static void pp_turn(const RopeAt *at, double *c, double *s)
{
    double phase = at->part == ROPE_Q_COPY ? at->r->p.arg[PP_PHASE] : 0;
    for (int j = 0; j < at->r->n_pairs; j++) {
        c[j] = cos(at->p * at->inv_freq[j] + phase);
        s[j] = sin(at->p * at->inv_freq[j] + phase);
    }
}

const RopeKind rope_pp = {
    .name = "ropepp",
    .formula = "q_real turns by p theta_j, q_imag by p theta_j - pi/2; one k for both",
    .source = "arXiv:2512.07525",
    .summary = "RoPE++: some attention heads read the imaginary part of the rotated product",
    .detail =
        "With q, k as complex numbers and a = D theta_j, plain RoPE scores A cos a + B sin a, where "
        "A = q0 k0 + q1 k1 and B = q0 k1 - q1 k0, and drops the imaginary part, A sin a - B cos a. "
        "An imaginary head scores by that: the same q turned by a quarter less, the same keys and "
        "values. mode=ec: each query head is also an imaginary one, so that there are twice as "
        "many attention heads (real_0, imag_0, real_1, ...) over the same cache. An output matrix "
        "of twice the width takes them all; into another one each pair goes as real times the one "
        "output plus imag times the other. mode=eh: half of the query and of the key heads are "
        "projected, as many heads as before attend, and the cache is half as large; of a model "
        "with all of them the first half is used. imagx, imagh, imago: no head is added, but the "
        "odd ones, the second half, or all are imaginary. ec and eh cost twice the attention per "
        "projected head. ec with real=1, imag=0 is plain RoPE, and so is imago with phase=0.",
    .args = {[PP_MODE] = {"mode", MODE_EC, 0, MODE_IMAGO, "which heads are imaginary",
                          "ec eh imagx imagh imago"},
             [PP_PHASE] = {"phase", -M_PI / 2, -7, 7, "of the queries of imaginary heads, radians",
                           NULL},
             [PP_REAL] = {"real", 1, -1e6, 1e6, "ec: weight of a real head's output", NULL},
             [PP_IMAG] = {"imag", 0, -1e6, 1e6, "ec: weight of an imaginary head's output", NULL}},
    .params = pp_params,
    .freqs = pp_freqs,
    .parts = 3,
    .turn = pp_turn,
    .part = pp_part,
};
