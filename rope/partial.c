/* Encodings that leave some pairs of a head unturned. */
#include "../model.h"

#include <math.h>

/* The file's divisors belong to the number of rotated values that the file has. */
static void rotated_values(RopeParams *p, int n_rot)
{
    if (p->n_rot != n_rot) p->divisors = NULL;
    p->n_rot = n_rot;
}

static int whole_head(RopeParams *p, Err *e)
{
    (void)e;
    rotated_values(p, p->head_dim);
    return 0;
}

/* ---------------------------------------------------------------- partial */

/* n_rot = int(head_dim * fraction), made even; without a fraction it stays as it is. */
static int partial_params(RopeParams *p, Err *e)
{
    (void)e;
    int n_rot = (int)(p->head_dim * p->arg[0]);
    if (!isnan(p->arg[0])) rotated_values(p, n_rot - n_rot % 2);
    return 0;
}

/* inv_freq[j] = base^(-2j / n_rot): the denominator is the rotated part, not the head. */
static int partial_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    return rope_plain.freqs(r, length, inv_freq, amplitude, e);
}

const RopeKind rope_partial = {
    .name = "partial",
    .formula = "theta_j = base^(-2j/n_rot), n_rot = fraction head_dim",
    .source = "GPT-NeoX, arXiv:2204.06745",
    .summary = "only the first part of each head turns, at the speeds of a smaller head",
    .detail = "fraction: share of the values of a head that turn, the first ones in the order of "
              "the file; the others pass as they are and compare contents alone. The wavelengths "
              "spread over the whole range from 2 pi to 2 pi base once more, on fewer pairs. It "
              "costs less than plain RoPE. fraction=1 is plain RoPE, fraction=0 no encoding.",
    .args = {{"fraction", (double)NAN, 0, 1, "share of a head that turns (as n_rot says)", NULL}},
    .params = partial_params,
    .freqs = partial_freqs,
};

/* ---------------------------------------------------------------- proportional, p-RoPE */

/* Of the P pairs of the whole head, floor(fraction head_dim / 2). */
static int pairs_of_head(const Rope *r, double fraction)
{
    int n = (int)floor(fraction * r->p.head_dim / 2);
    return n < r->n_pairs ? n : r->n_pairs;
}

/* inv_freq[j] = base^(-2j / head_dim) / factor for j < floor(fraction head_dim / 2), else 0. */
static int proportional_freqs(const Rope *r, int length, double *inv_freq, double *amplitude,
                              Err *e)
{
    if (!(r->p.factor > 0 && r->p.factor <= 1e6))
        return err_set(e, "rope proportional: expected a factor above 0, up to 1e6, found %g",
                       r->p.factor);
    if (rope_plain.freqs(r, length, inv_freq, amplitude, e)) return -1;
    int n = pairs_of_head(r, r->p.arg[0]);
    for (int j = 0; j < r->n_pairs; j++) inv_freq[j] = j < n ? inv_freq[j] / r->p.factor : 0;
    return 0;
}

const RopeKind rope_proportional = {
    .name = "proportional",
    .formula = "theta_j = base^(-2j/head_dim) / factor, j < fraction head_dim / 2; else 0",
    .source = "Gemma 4, rope_type \"proportional\"",
    .summary = "only the fastest pairs of a head turn, each at its plain speed",
    .detail = "fraction: share of the pairs that turn, the fastest ones; pairs are those of the "
              "whole head, n_rot is always all of it. Unlike `partial`, the pairs that turn keep "
              "their speeds, so that the slow end of the range is missing. factor divides all "
              "speeds. Pairs that do not turn compare contents at any distance. It costs nothing. "
              "fraction=1 is plain RoPE, fraction=0 no encoding.",
    .common = ROPE_FACTOR,
    .args = {{"fraction", 1, 0, 1, "share of the pairs that turn", NULL}},
    .params = whole_head,
    .freqs = proportional_freqs,
};

enum { DROP_LOWEST, DROP_HIGHEST };

/* inv_freq[j] = base^(-2j / head_dim) for floor(fraction head_dim / 2) pairs at one end, else 0. */
static int p_rope_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    if (rope_plain.freqs(r, length, inv_freq, amplitude, e)) return -1;
    int P = r->n_pairs, n = pairs_of_head(r, r->p.arg[0]);
    int from = (int)r->p.arg[1] == DROP_HIGHEST ? P - n : 0;
    for (int j = 0; j < P; j++)
        if (j < from || j >= from + n) inv_freq[j] = 0;
    return 0;
}

const RopeKind rope_p_rope = {
    .name = "p-rope",
    .formula = "theta_j = base^(-2j/head_dim) for a fraction of the pairs, else 0",
    .source = "arXiv:2410.06205",
    .summary = "the slowest pairs of a head are freed from position (p-RoPE)",
    .detail = "fraction: the paper's p, the share of the pairs that turn. The slowest pairs carry "
              "contents over long distances; they do so better when they do not turn at all. "
              "drop=highest is the paper's ablation: the fastest pairs do not turn instead. It "
              "costs nothing. fraction=1 is plain RoPE, fraction=0 no encoding; drop=lowest is "
              "`proportional` with factor=1.",
    .args = {{"fraction", 1, 0, 1, "share of the pairs that turn", NULL},
             {"drop", DROP_LOWEST, 0, 1, "which pairs do not turn", "lowest highest"}},
    .params = whole_head,
    .freqs = p_rope_freqs,
};

/* ---------------------------------------------------------------- RoPE-ID */

enum { ID_FRACTION, ID_FASTEST, ID_SLOWEST, ID_SPACING, ID_TEMPERATURE };
enum { GEOMETRIC, LINEAR };

/* From 2 pi / fastest down to 2 pi slowest / original, over floor(fraction head_dim / 2) pairs. */
static int rope_id_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    (void)length;
    const double *arg = r->p.arg, turn = 2 * acos(-1);
    if (r->p.n_ctx_orig < 1)
        return err_set(e, "rope rope-id: original: expected the trained length in tokens, found %d",
                       r->p.n_ctx_orig);
    double high = turn / arg[ID_FASTEST], low = turn * arg[ID_SLOWEST] / r->p.n_ctx_orig;
    int n = pairs_of_head(r, arg[ID_FRACTION]);
    for (int j = 0; j < r->n_pairs; j++) {
        double at = n > 1 ? (double)j / (n - 1) : 0;
        double w =
            (int)arg[ID_SPACING] == LINEAR ? high + (low - high) * at : high * pow(low / high, at);
        inv_freq[j] = j < n ? w : 0;
    }
    *amplitude = 1;
    return 0;
}

/* (1 + temperature ln(T / L))^2 at T = pos + 1 tokens, past the trained length L; 1 before. The
 * form is YaRN's (arXiv:2309.00071, eq. 22), the square of its amplitude 1 + 0.1 ln s. */
static double rope_id_scale(const Rope *r, int pos)
{
    double past = (pos + 1.0) / r->p.n_ctx_orig;
    double a = past > 1 ? 1 + r->p.arg[ID_TEMPERATURE] * log(past) : 1;
    return a * a;
}

const RopeKind rope_rope_id = {
    .name = "rope-id",
    .formula = "theta_j from 2 pi/fastest to 2 pi slowest/original, j < fraction head_dim / 2",
    .source = "arXiv:2603.18017",
    .summary = "half of a head turns, at least twice over the trained length, the rest never",
    .detail = "fraction: share of the pairs that turn. fastest: tokens of one turn of the fastest "
              "pair. slowest: turns of the slowest one over `original`, the trained length. No "
              "turning pair leaves the angles it was trained on when the text grows longer. "
              "temperature: queries past the trained length are multiplied by "
              "(1 + temperature ln(length / original))^2; 0 is off. It costs nothing, and it is "
              "for models trained this way. Not verified against the authors' own code, as none is "
              "known: the spacing of the speeds between both ends, and the form of the "
              "temperature, which is that of YaRN. fraction=1, fastest=2 pi, slowest="
              "original base^(-(head_dim-2)/head_dim) / (2 pi) is plain RoPE to rounding, "
              "fraction=0 without temperature no encoding.",
    .common = ROPE_ORIGINAL,
    .args = {{"fraction", 0.5, 0, 1, "share of the pairs that turn", NULL},
             {"fastest", 32, 1e-3, 1e9, "tokens of a turn of the fastest pair", NULL},
             {"slowest", 2, 1e-9, 1e9, "turns of the slowest pair over `original`", NULL},
             {"spacing", GEOMETRIC, 0, 1, "of the speeds in between", "geometric linear"},
             {"temperature", 0, 0, 10, "growth of queries past `original`", NULL}},
    .params = whole_head,
    .freqs = rope_id_freqs,
    .q_scale = rope_id_scale,
};
