/* PaTH: position encoding by products of Householder-like matrices that depend on what was read
 * (arXiv:2505.16381): score(m, n) = q_m^T H_m H_(m-1) ... H_(n+1) k_n / sqrt(D),
 *   H_t = I - beta_t w_t w_t^T, symmetric; every token multiplies all keys before its own by it.
 *   beta_t = 2 sigmoid(W_b h_t + c), one number per key head
 *   w_t    = u / sqrt(sum of squares of u + 1e-6), u = silu(causal convolution of W_w h_t over
 *            d_conv tokens) or W_w h_t; W_w of one matrix or two thin ones
 * PaTH-FoX: + sum_(n < u <= m) log sigmoid(g_u) / sqrt(D), g = W_g h + b, per query head.
 * 1 / sqrt(D) is the scale of the scores. Rows of W_w and of the convolution stand in the order of
 * those of W_k in the same file: GGUF's llama has them permuted. */
#include "../model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LOW_RANK, RANK, SHORTCONV, D_CONV, FORGET, BETA, SEED };
enum { W_W, W_UP, W_CONV, W_BETA, W_FORGET, W_BIAS }; /* Rope.w; W_BIAS: of beta, then forget */

static int arg(const Rope *r, int i)
{
    return (int)r->p.arg[i];
}

static int group(const Rope *r)
{
    return r->p.n_heads / r->p.n_kv_heads;
}

/* ---------------------------------------------------------------- weights */

enum { N_PARTS = 6 };

static void parts_of(const Rope *r, RopePart part[N_PARTS])
{
    int64_t K = r->p.n_kv_heads, H = r->p.n_heads, E = r->p.n_embd, D = r->p.head_dim;
    int64_t R = arg(r, RANK), forget = arg(r, FORGET);
    double e = 1 / sqrt((double)E);
    int low = arg(r, LOW_RANK);
    const RopePart all[N_PARTS] = {
        {W_W, "rope_path.w.weight", E, low ? R : K * D, e},
        {W_UP, "rope_path.w_up.weight", R, low ? K * D : 0, 1 / sqrt((double)R)},
        {W_CONV, "rope_path.conv.weight", arg(r, D_CONV), arg(r, SHORTCONV) ? K * D : 0, 1},
        {W_BETA, "rope_path.beta.weight", E, K, e},
        {W_FORGET, "rope_path.forget.weight", E, forget ? H : 0, e},
        {W_BIAS, "rope_path.bias", K + forget * H, 1, 1},
    };
    memcpy(part, all, sizeof all);
}

/* w[K D][cols]: rows in the order of the file, as those of its keys, in that of forward. */
static void reorder(const Rope *r, float *w, size_t cols)
{
    int D = r->p.head_dim;
    float *from = xcalloc((size_t)D * cols, sizeof *from);
    for (int kh = 0; w && kh < r->p.n_kv_heads; kh++, w += (size_t)D * cols) {
        memcpy(from, w, (size_t)D * cols * sizeof *w);
        for (int c = 0; c < D; c++)
            memcpy(w + (size_t)c * cols, from + (size_t)rope_row(r, c) * cols, cols * sizeof *w);
    }
    free(from);
}

/* All tensors of the setting, or none of them: then beta = 0 and nothing is forgotten. */
static int path_load(Rope *r, RopeSource *s, Err *e)
{
    RopePart part[N_PARTS];
    uint64_t seed = (uint64_t)r->p.arg[SEED];
    int up = arg(r, LOW_RANK) ? W_UP : W_W;
    parts_of(r, part);
    if (rope_load_parts(r, s, part, N_PARTS, seed, e)) return -1;
    if (seed) return 0; /* drawn, not from a file */
    reorder(r, r->w[up], (size_t)part[up].cols);
    reorder(r, r->w[W_CONV], (size_t)part[W_CONV].cols);
    return 0;
}

static int path_params(RopeParams *p, Err *e)
{
    if (p->pos_scale < 1 || p->pos_scale > 1 || p->pos_shift < 0 || p->pos_shift > 0)
        return err_usage(e, "--rope path: pos_scale and pos_shift have no meaning: keys change "
                            "with what was read");
    return 0;
}

/* ---------------------------------------------------------------- what is seen of a token */

/* RopeCall.work of a token: W1 h [R], W_w h [D], w [D], beta, gates [G]. RopeCall.memory: W_w h of
 * the d_conv - 1 tokens before, the latest first, [D] each. RopeCall.history: the sums of log
 * sigmoid(g) up to the token, [G]. */
static int path_work(const Rope *r)
{
    return r->w[W_W] ? arg(r, RANK) + 2 * r->p.head_dim + 1 + group(r) : 0;
}

static int path_memory(const Rope *r)
{
    return r->w[W_W] ? (arg(r, D_CONV) - 1) * r->p.head_dim : 0;
}

static int path_history(const Rope *r)
{
    return r->w[W_FORGET] ? group(r) : 0;
}

/* W_w h, W_b h and W_g h of all tokens of the batch, into their work. */
static void project(const RopeCall *c, int kh, float *low, size_t step)
{
    const Rope *r = c->r;
    int E = r->p.n_embd, D = r->p.head_dim, R = arg(r, RANK), G = group(r);
    size_t e = (size_t)E, first = (size_t)(kh * D);
    float *u = low + R, *beta = u + 2 * D;
    if (arg(r, LOW_RANK)) {
        c->k->matmul(low, step, r->w[W_W], e, R, c->x, e, c->n, E);
        c->k->matmul(u, step, r->w[W_UP] + first * (size_t)R, (size_t)R, D, low, step, c->n, R);
    } else {
        c->k->matmul(u, step, r->w[W_W] + first * e, e, D, c->x, e, c->n, E);
    }
    c->k->matmul(beta, step, r->w[W_BETA] + (size_t)kh * e, e, 1, c->x, e, c->n, E);
    if (r->w[W_FORGET])
        c->k->matmul(beta + 1, step, r->w[W_FORGET] + (size_t)(kh * G) * e, e, G, c->x, e, c->n, E);
}

/* Value d of the convolution over u now and past[.. * D], the latest first; and silu of that. */
static double convolved(const Rope *r, int kh, int d, double now, const double *past)
{
    int D = r->p.head_dim, taps = arg(r, D_CONV);
    const float *w = r->w[W_CONV] + (size_t)(kh * D + d) * (size_t)taps;
    double y = (double)w[taps - 1] * now;
    for (int i = 1; i < taps; i++) y += (double)w[taps - 1 - i] * past[(i - 1) * D + d];
    return y / (1 + exp(-y));
}

/* w[D] from u[D], which goes into memory. */
static void direction(const RopeCall *c, int kh, const float *u, float *w)
{
    const Rope *r = c->r;
    int D = r->p.head_dim, taps = arg(r, D_CONV);
    double ss = 1e-6, *past = c->memory;
    for (int d = 0; d < D; d++) {
        double y = (double)u[d];
        if (arg(r, SHORTCONV)) y = convolved(r, kh, d, y, past);
        w[d] = (float)y;
        ss += y * y;
        for (int i = taps - 2; i > 0; i--) past[i * D + d] = past[(i - 1) * D + d];
        if (taps > 1) past[d] = (double)u[d];
    }
    for (int d = 0; d < D; d++) w[d] = (float)((double)w[d] / sqrt(ss));
}

/* log sigmoid(x), without overflow. */
static double log_sigmoid(double x)
{
    return x < 0 ? x - log1p(exp(x)) : -log1p(exp(-x));
}

/* What token i adds to the sums of forgetting of its group. */
static void forget(const RopeCall *c, int kh, int i, const float *gate)
{
    const Rope *r = c->r;
    int G = group(r);
    const float *bias = r->w[W_BIAS] + r->p.n_kv_heads + kh * G;
    double *sum = c->history + (size_t)(c->pos + i) * (size_t)G;
    for (int g = 0; g < G; g++) {
        double before = c->pos + i ? sum[g - G] : 0;
        sum[g] = before + log_sigmoid((double)gate[g] + (double)bias[g]);
    }
}

static void path_observe(const RopeCall *c, int kh)
{
    const Rope *r = c->r;
    size_t step = (size_t)path_work(r);
    int D = r->p.head_dim;
    if (!step) return;
    project(c, kh, c->work, step);
    for (int i = 0; i < c->n; i++) {
        float *u = c->work + (size_t)i * step + arg(r, RANK), *beta = u + 2 * D;
        direction(c, kh, u, u + D);
        double x = (double)beta[0] + (double)r->w[W_BIAS][kh];
        *beta = (float)(r->p.arg[BETA] / (1 + exp(-x)));
        if (r->w[W_FORGET]) forget(c, kh, i, beta + 1);
    }
}

/* ---------------------------------------------------------------- what becomes of the keys */

/* k_t = H k_t = k_t - beta (k_t . w) w for all keys before token i of the batch. */
static void path_update(const RopeCall *c, int kh, int i, float *key, int n_t)
{
    enum { FEW = 128 };
    (void)kh;
    size_t step = (size_t)path_work(c->r), D = (size_t)c->r->p.head_dim;
    const float *w = c->work + (size_t)i * step + arg(c->r, RANK) + D, *beta = w + D;
    float dot[FEW];
    if (!step || !(*beta > 0 || *beta < 0)) return; /* H = I, to the bit */
    for (int t = 0; t < n_t; t += FEW, key += FEW * D) {
        int n = n_t - t < FEW ? n_t - t : FEW;
        c->k->matmul(dot, FEW, key, D, n, w, D, 1, (int)D);
        for (int k = 0; k < n; k++) {
            float by = *beta * dot[k], *x = key + (size_t)k * D;
            for (size_t d = 0; d < D; d++) x[d] -= by * w[d];
        }
    }
}

/* PaTH-FoX: what was forgotten between key and query, scaled as scores are. */
static void path_fade(const RopeCall *c, int h, int pos, int t0, int n_t, float *score)
{
    int G = group(c->r);
    if (!c->r->w[W_FORGET]) return;
    const double *sum = c->history + h % G;
    double now = sum[(size_t)pos * (size_t)G], scale = c->r->p.score_scale;
    for (int t = 0; t < n_t; t++)
        score[t] += (float)(scale * (now - sum[(size_t)(t0 + t) * (size_t)G]));
}

/* Nothing turns. */
static int path_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    return rope_none.freqs(r, length, inv_freq, amplitude, e);
}

const RopeKind rope_path = {
    .name = "path",
    .formula = "score = q_m H_m ... H_(n+1) k_n / sqrt(D), H_t = I - beta_t w_t w_t^T",
    .source = "arXiv:2505.16381",
    .summary = "PaTH: every token reflects the keys before it along a direction it chooses",
    .detail =
        "w: the direction, of length 1, and beta, from 0 to 2: how far it is folded over, are "
        "found in the hidden state per key head; w by a matrix (low_rank=yes: by two, of rank "
        "values) and a convolution over d_conv tokens with silu (shortconv=no: neither). A "
        "product of reflections counts and compares, which rotations by position do not. "
        "Nothing turns, and position itself is not read. Each token changes all cached keys of its "
        "layer: 4 D multiplications per key, and one token at a time, so long texts are slow; the "
        "cache must be in float. forget=yes (PaTH-FoX) adds log sigmoid of a gate of every token "
        "between key and query. Without weights beta is 0: no encoding; no setting gives RoPE, "
        "models are converted by training. Tensors, all of the setting's or none: "
        "blk.N.rope_path.w.weight [E, K D], or .w.weight [E, rank] and .w_up.weight [rank, K D]; "
        ".conv.weight [d_conv, K D], the latest token last; .beta.weight [E, K]; .forget.weight "
        "[E, H]; .bias [K], of beta, or [K + H], then of the gates.",
    .args = {{"low_rank", 0, 0, 1, "is W_w two thin matrices?", "no yes"},
             {"rank", 32, 1, 4096, "of low_rank", NULL},
             {"shortconv", 1, 0, 1, "convolution and silu before w is normalised", "no yes"},
             {"d_conv", 3, 1, 16, "tokens of the convolution", NULL},
             {"forget", 0, 0, 1, "PaTH-FoX: a forget gate per query head", "no yes"},
             {"beta", 2, 0, 2, "the largest beta: 0 is no encoding", NULL},
             {"seed", 0, 0, 1e12, "above 0: random weights drawn from it", NULL}},
    .whole = 1u << RANK | 1u << D_CONV | 1u << SEED,
    .params = path_params,
    .load = path_load,
    .freqs = path_freqs,
    .observe = path_observe,
    .update = path_update,
    .fade = path_fade,
    .work = path_work,
    .memory = path_memory,
    .history = path_history,
};
