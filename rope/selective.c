/* Selective RoPE: the angle a pair has turned by is a running sum of steps that depend on what was
 * read (arXiv:2511.17388). Per key head with P pairs; E' = E / K values of the hidden state each:
 *   x_t     the hidden state, each of its K slices of E' values over sqrt(sum of squares + 1e-6)
 *   phi_t   low: W2 W1 x_t; full: rows of W over their norm, times x_t's own slice, times a scalar
 *   phi_t   a causal convolution of d_conv taps per pair, or (skip_conv) phi_t - phi_(t-1)
 *   phi_t   + exp(bias), if there is one; times a gate sigmoid(Wg x_t + b), if there is one
 *   angle   tau_j (phi_0 + ... + phi_t),  tau_j = temp_max base^(-2j/n_rot), or as in rfa */
#include "../model.h"

#include <math.h>
#include <string.h>

enum { TEMP_MAX, TEMP_TYPE, SKIP_CONV, D_CONV, CONV_ACT, PHI, RANK, USE_GATE, USE_BIAS, SEED };
enum { TEMP_DEFAULT, TEMP_RFA };
enum { PHI_LOW, PHI_FULL };
enum { GATE_NO, GATE_HEAD, GATE_PAIR };
enum { W_PHI, W_UP, W_CONV, W_BIAS, W_GATE, W_GATE_BIAS }; /* Rope.w; W_UP: W2, or the scalars */

static int arg(const Rope *r, int i)
{
    return (int)r->p.arg[i];
}

/* Gates of a key head. */
static int n_gates(const Rope *r)
{
    return arg(r, USE_GATE) == GATE_NO ? 0 : arg(r, USE_GATE) == GATE_HEAD ? 1 : r->n_pairs;
}

static int n_taps(const Rope *r)
{
    return arg(r, SKIP_CONV) ? 2 : arg(r, D_CONV);
}

/* ---------------------------------------------------------------- weights */

enum { N_PARTS = 6 };

static void parts_of(const Rope *r, RopePart part[N_PARTS])
{
    int64_t K = r->p.n_kv_heads, E = r->p.n_embd, P = r->n_pairs, R = arg(r, RANK);
    int full = arg(r, PHI) == PHI_FULL, gates = n_gates(r);
    double e = 1 / sqrt((double)E);
    const RopePart all[N_PARTS] = {
        {W_PHI, "rope_selective.phi.weight", full ? E / K : E, full ? K * P : R, e},
        {W_UP, full ? "rope_selective.phi.scale" : "rope_selective.phi_up.weight", full ? K : R,
         full ? 1 : K * P, full ? 1 : 1 / sqrt((double)R)},
        {W_CONV, "rope_selective.conv.weight", n_taps(r), arg(r, SKIP_CONV) ? 0 : K * P, 1},
        {W_BIAS, "rope_selective.bias", P, arg(r, USE_BIAS) ? K : 0, 0.5},
        {W_GATE, "rope_selective.gate.weight", E, gates * K, e},
        {W_GATE_BIAS, "rope_selective.gate.bias", gates > 1 ? P : K, gates > 1 ? K : gates, 0.5},
    };
    memcpy(part, all, sizeof all);
}

/* All tensors of the setting, or none of them: then W = 0 and bias = 0. */
static int selective_load(Rope *r, RopeSource *s, Err *e)
{
    RopePart part[N_PARTS];
    parts_of(r, part);
    return rope_load_parts(r, s, part, N_PARTS, (uint64_t)r->p.arg[SEED], e);
}

static int selective_params(RopeParams *p, Err *e)
{
    if (p->n_embd % p->n_kv_heads)
        return err_set(e,
                       "rope selective: expected a multiple of the %d key heads as width of the "
                       "hidden state, found %d",
                       p->n_kv_heads, p->n_embd);
    if (p->pos_scale < 1 || p->pos_scale > 1 || p->pos_shift < 0 || p->pos_shift > 0)
        return err_usage(e, "--rope selective: pos_scale and pos_shift have no meaning: angles are "
                            "sums over what was read");
    if ((int)p->arg[TEMP_TYPE] == TEMP_RFA && !(p->base > 0 && p->base < 1))
        return err_usage(e,
                         "--rope selective: with temp_type=rfa base is the largest angle over "
                         "pi: expected between 0 and 1, found %g",
                         p->base);
    return 0;
}

/* tau: angles per unit of phi. rfa: tan(x_j / 2), x from 0 to base pi, the last one temp_max. */
static int selective_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    int P = r->n_pairs;
    const double pi = 3.14159265358979323846;
    double most = r->p.arg[TEMP_MAX];
    *amplitude = 1;
    if (arg(r, TEMP_TYPE) == TEMP_DEFAULT && rope_plain.freqs(r, length, inv_freq, amplitude, e))
        return -1;
    for (int j = 0; j < P; j++) {
        double x = P > 1 ? r->p.base * pi * j / (P - 1) : 0;
        inv_freq[j] = arg(r, TEMP_TYPE) == TEMP_DEFAULT
                          ? most * inv_freq[j]
                          : most * tan(x / 2) / tan(r->p.base * pi / 2);
    }
    return 0;
}

/* ---------------------------------------------------------------- angles */

/* RopeCall.work of a token: x [E], W1 x [R], phi [P], gates [G]. RopeCall.memory: the sum of phi,
 * then phi of the n_taps - 1 tokens before, the latest first, [P] each. */
static int selective_work(const Rope *r)
{
    if (!r->w[W_PHI]) return 0;
    return r->p.n_embd + (arg(r, PHI) == PHI_LOW ? arg(r, RANK) : 0) + r->n_pairs + n_gates(r);
}

static int selective_memory(const Rope *r)
{
    return n_taps(r) * r->n_pairs;
}

/* The slices of the hidden state, each of length 1. */
static void normalise(const RopeCall *c, float *to, size_t step)
{
    int E = c->r->p.n_embd, n = E / c->r->p.n_kv_heads;
    for (int i = 0; i < c->n; i++)
        for (int at = 0; at < E; at += n) {
            const float *x = c->x + (size_t)i * (size_t)E + at;
            float ss, *y = to + (size_t)i * step + at;
            c->k->matmul(&ss, 1, x, 0, 1, x, 0, 1, n);
            float scale = 1.0f / sqrtf(ss + 1e-6f);
            for (int d = 0; d < n; d++) y[d] = x[d] * scale;
        }
}

/* Rows of W over their norm, and times the head's scalar: what they are multiplied by. */
static double full_scale(const RopeCall *c, int kh, int j)
{
    const Rope *r = c->r;
    int n = r->p.n_embd / r->p.n_kv_heads;
    const float *w = r->w[W_PHI] + (size_t)(kh * r->n_pairs + j) * (size_t)n;
    double ss = 0;
    for (int d = 0; d < n; d++) ss += (double)w[d] * (double)w[d];
    return (double)r->w[W_UP][kh] / fmax(sqrt(ss), 1e-12);
}

/* phi and gates of all tokens of the batch, before convolution and sigmoid. */
static void project(const RopeCall *c, int kh, float *x, size_t step)
{
    const Rope *r = c->r;
    int E = r->p.n_embd, n = E / r->p.n_kv_heads, P = r->n_pairs, R = arg(r, RANK), G = n_gates(r);
    size_t first = (size_t)kh * (size_t)P, e = (size_t)E, w = (size_t)n;
    float *low = x + E, *phi = arg(r, PHI) == PHI_LOW ? low + R : low, *gate = phi + P;
    normalise(c, x, step);
    if (arg(r, PHI) == PHI_LOW) {
        c->k->matmul(low, step, r->w[W_PHI], e, R, x, step, c->n, E);
        c->k->matmul(phi, step, r->w[W_UP] + first * (size_t)R, (size_t)R, P, low, step, c->n, R);
    } else {
        c->k->matmul(phi, step, r->w[W_PHI] + first * w, w, P, x + kh * n, step, c->n, n);
        for (int j = 0; j < P; j++) {
            double scale = full_scale(c, kh, j);
            for (size_t i = 0; i < (size_t)c->n; i++)
                phi[i * step + (size_t)j] = (float)((double)phi[i * step + (size_t)j] * scale);
        }
    }
    if (G) c->k->matmul(gate, step, r->w[W_GATE] + (size_t)(kh * G) * e, e, G, x, step, c->n, E);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* The step of pair j from phi now and past[.. * P], the latest first; gate: before the sigmoid. */
static double step_of(const Rope *r, int kh, int j, double now, const double *past, double gate)
{
    size_t at = (size_t)kh * (size_t)r->n_pairs + (size_t)j;
    int taps = n_taps(r), P = r->n_pairs, G = n_gates(r);
    double y = 0;
    if (arg(r, SKIP_CONV)) {
        y = now - past[j];
    } else {
        const float *w = r->w[W_CONV] + at * (size_t)taps;
        y = (double)w[taps - 1] * now;
        for (int i = 1; i < taps; i++) y += (double)w[taps - 1 - i] * past[(i - 1) * P + j];
        if (arg(r, CONV_ACT)) y *= sigmoid(y);
    }
    if (arg(r, USE_BIAS)) y += exp((double)r->w[W_BIAS][at]);
    if (G) y *= sigmoid(gate + (double)r->w[W_GATE_BIAS][kh * G + (G > 1 ? j : 0)]);
    return y;
}

/* One token: its angles, and what is remembered of it. */
static void advance(const RopeCall *c, int kh, const float *phi, double *angle)
{
    const Rope *r = c->r;
    int P = r->n_pairs, taps = n_taps(r), G = n_gates(r);
    double *sum = c->memory, *past = c->memory + P;
    for (int j = 0; j < P; j++) {
        double gate = G ? (double)phi[P + (G > 1 ? j : 0)] : 0;
        sum[j] += step_of(r, kh, j, (double)phi[j], past, gate);
        angle[j] = sum[j] * r->inv_freq[j];
        for (int i = taps - 2; i > 0; i--) past[i * P + j] = past[(i - 1) * P + j];
        if (taps > 1) past[j] = (double)phi[j];
    }
}

static void selective_angles(const RopeCall *c, int kh, double *angle)
{
    const Rope *r = c->r;
    size_t P = (size_t)r->n_pairs, step = (size_t)selective_work(r);
    if (r->w[W_PHI]) {
        project(c, kh, c->work, step);
        const float *phi = c->work + r->p.n_embd + (arg(r, PHI) == PHI_LOW ? arg(r, RANK) : 0);
        for (size_t i = 0; i < (size_t)c->n; i++) advance(c, kh, phi + i * step, angle + i * P);
        return;
    }
    double by = arg(r, USE_BIAS) ? 1 : 0; /* W = 0: exp(0) */
    if (arg(r, USE_GATE)) by /= 2;        /* sigmoid(0) */
    for (size_t i = 0; i < (size_t)c->n; i++)
        for (size_t j = 0; j < P; j++) {
            c->memory[j] += by;
            angle[i * P + j] = c->memory[j] * r->inv_freq[j];
        }
}

const RopeKind rope_selective = {
    .name = "selective",
    .formula = "angle_t = tau_j sum_(u <= t) phi_u, tau_j = temp_max base^(-2j/n_rot)",
    .source = "arXiv:2511.17388",
    .summary = "Selective RoPE: angles are running sums of steps that depend on what was read",
    .detail =
        "phi: steps, found in the hidden state by two thin matrices (phi=low, of rank values) or "
        "one matrix per key head (phi=full: rows of length 1, times a scalar per head), each slice "
        "of the hidden state that belongs to a key head taken with length 1; then a causal "
        "convolution over d_conv tokens (skip_conv=yes: the difference to the token before), plus "
        "exp(bias), times a gate between 0 and 1 per head or pair. tau: base is the paper's "
        "temp_theta; temp_type=rfa: tan(x_j/2), x from 0 to base pi, base < 1. Position itself is "
        "not read, and pairs do not turn evenly: x = theta P has no meaning here. It costs the "
        "projections (some E (rank + gates) multiplications per key head and token) and memory for "
        "d_conv tokens and the sums; rotated keys stay as they are. Without weights the steps are "
        "all 1 (half of it with a gate): plain RoPE with every position one later; with "
        "use_bias=no they are 0: no encoding. Tensors, all of the setting's or none: "
        "blk.N.rope_selective.phi.weight [E, rank] and .phi_up.weight [rank, K P], or .phi.weight "
        "[E/K, K P] and .phi.scale [K, 1]; .conv.weight [d_conv, K P], the latest token last; "
        ".bias [P, K]; .gate.weight [E, K] or [E, K P] and .gate.bias [K] or [P, K]. The paper has "
        "as many key heads as query heads; here a key head's angles hold for its whole group.",
    .args = {{"temp_max", 1, 0, 1e6, "the largest tau", NULL},
             {"temp_type", TEMP_DEFAULT, 0, 1, "how tau falls over the pairs", "default rfa"},
             {"skip_conv", 0, 0, 1, "differences instead of the convolution", "no yes"},
             {"d_conv", 4, 1, 16, "tokens of the convolution", NULL},
             {"conv_act", 0, 0, 1, "what follows the convolution", "none silu"},
             {"phi", PHI_LOW, 0, 1, "phi_parametrization", "low full"},
             {"rank", 16, 1, 4096, "of phi=low (phi_proj_rank)", NULL},
             {"gate", GATE_NO, 0, 2, "use_gate, and for what", "no head pair"},
             {"use_bias", 1, 0, 1, "is exp(bias) added to every step?", "no yes"},
             {"seed", 0, 0, 1e12, "above 0: random weights drawn from it", NULL}},
    .whole = 1u << D_CONV | 1u << RANK | 1u << SEED,
    .params = selective_params,
    .load = selective_load,
    .freqs = selective_freqs,
    .angles = selective_angles,
    .work = selective_work,
    .memory = selective_memory,
};
