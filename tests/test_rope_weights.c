/* Encodings with weights of their own (ComRoPE, LieRE, Selective RoPE, PaTH) against naive ones in
 * double that share nothing with them: matrix exponentials by scaling and squaring, angles summed
 * up from scratch, products of reflections applied to queries. Weights come from the model file or
 * from a file beside it. */
#include "../model.h"

#include "check.h"
#include "gguf_builder.h"
#include "json.h"
#include "ref.h"

#include <unistd.h>

#define U 0x1p-24
enum { L = 2, E = 48, H = 4, K = 2, D = 16, V = 40, T = 40, LONG = 530, MAX_SEEN = T * K * D * D };

static Err err;
static char folder[] = P_tmpdir "/test_rope_weights.XXXXXX";

/* ---------------------------------------------------------------- files */

/* A tensor of every layer, of random numbers. */
typedef struct {
    const char *name;
    int cols, rows;
    double mean, size;
} Weight;

typedef struct {
    const char *spec;
    int half; /* ROPE_HALF */
    Weight weight[6];
    double extra; /* relative error beyond that of a model with plain RoPE, see below */
} Case;

static int n_weights(const Case *c)
{
    int n = 0;
    while (n < 6 && c->weight[n].name) n++;
    return n;
}

/* The weights of case c for all layers but `skip` (-1: none). */
static void add_weights(GgufBuilder *b, const Case *c, int n_layers, int skip)
{
    Rng g = {77};
    for (int l = 0; l < n_layers; l++)
        for (int i = 0; i < n_weights(c); i++) {
            const Weight *w = &c->weight[i];
            char name[80];
            size_t n = (size_t)w->cols * (size_t)w->rows;
            float *x = xcalloc(n, sizeof *x);
            for (size_t k = 0; k < n; k++)
                x[k] = (float)(w->mean + w->size * (double)rng_float(&g));
            snprintf(name, sizeof name, "blk.%d.%s", l, w->name);
            if (l != skip)
                gb_tensor(b, name, T_F32, 2, (int64_t[]){w->cols, w->rows}, x, n * sizeof *x);
            free(x);
        }
}

/* The keys and tensors of g, but for those in whose place add_rows will write others. */
static void copy_file(GgufBuilder *b, const Gguf *g, int but_q_k)
{
    for (size_t i = 0; i < g->n_keys; i++) {
        const GgufKey *k = &g->keys[i];
        char name[200];
        snprintf(name, sizeof name, "%.*s", (int)k->key.n, k->key.s);
        if (k->type == GGUF_ARR)
            gb_key_arr(b, name, k->elem, k->n);
        else
            gb_key(b, name, k->type);
        bytes_add(&b->keys, (const char *)k->val, k->bytes);
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        const Tensor *t = &g->tensors[i];
        char name[200];
        snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.s);
        if (but_q_k && (strstr(name, "attn_q.") || strstr(name, "attn_k."))) continue;
        gb_tensor(b, name, t->type, t->n_dims, t->ne, t->data, t->bytes);
    }
}

static uint8_t *tiny(size_t *size)
{
    TinyModel t = {.n_layers = L,
                   .n_embd = E,
                   .n_heads = H,
                   .n_kv_heads = K,
                   .head_dim = D,
                   .n_ff = 64,
                   .n_vocab = V,
                   .biases = 1,
                   .seed = 5};
    return tiny_model(&t, size);
}

/* The tiny model with the weights in it. */
static uint8_t *tiny_with(const Case *c, size_t *size)
{
    Gguf g;
    GgufBuilder b = {0};
    uint8_t *file = tiny(size);
    MUST(gguf_parse(&g, "tiny.gguf", file, *size, &err) == 0);
    copy_file(&b, &g, 0);
    add_weights(&b, c, L, -1);
    gguf_close(&g);
    free(file);
    return gb_finish(&b, size);
}

static void write_file(const char *path, const uint8_t *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    MUST(f && fwrite(data, 1, n, f) == n);
    MUST(fclose(f) == 0);
}

/* A file of the weights alone; path[100]. */
static void weights_file(char *path, const Case *c, int n_layers, int skip)
{
    GgufBuilder b = {0};
    size_t size;
    add_weights(&b, c, n_layers, skip);
    uint8_t *data = gb_finish(&b, &size);
    snprintf(path, 100, "%s/weights.gguf", folder);
    write_file(path, data, size);
    free(data);
}

/* ---------------------------------------------------------------- the program */

typedef struct {
    int threads, batch, n_ctx;
    const char *isa;
} Way;

static int bind(Model *m, const uint8_t *file, size_t size, const char *spec, int half)
{
    Gguf g;
    ModelOptions o = {.rope = spec};
    if (gguf_parse(&g, "tiny.gguf", file, size, &err) || model_bind(m, &g, &o, &err)) return -1;
    for (int i = 0; half && i < m->n_ropes; i++) m->rope[i].layout = ROPE_HALF;
    return 0;
}

static void run_all(State *s, const int *ids, int n, float *out)
{
    size_t v = (size_t)s->m->n_vocab;
    for (int i = 0, k; i < n; i += k) {
        k = n - i < s->n_batch ? n - i : s->n_batch;
        forward(s, ids + i, k, k);
        memcpy(out + (size_t)i * v, s->logits, (size_t)k * v * sizeof *out);
    }
}

/* Logits [n][V] of the program; reset: after other tokens, forgotten again. From malloc. */
static float *logits_of(const Model *m, const int *ids, int n, const Way *w, int reset)
{
    State s;
    StateOptions o = {
        .n_ctx = n, .n_batch = w->batch, .n_threads = w->threads, .exact = 1, .isa = w->isa};
    float *out = xcalloc((size_t)n * (size_t)m->n_vocab, sizeof *out);
    MUST(state_new(&s, m, &o, &err) == 0);
    if (reset) {
        run_all(&s, ids + n / 3, n / 3, out);
        state_reset(&s);
    }
    run_all(&s, ids, n, out);
    state_free(&s);
    return out;
}

static void draw_ids(int *ids, int n, int n_vocab)
{
    Rng g = {11};
    for (int i = 0; i < n; i++) ids[i] = rng_int(&g, 3, n_vocab - 1);
}

/* ---------------------------------------------------------------- naive encodings */

typedef struct {
    const Case *c;
    Gguf g;
    /* What was found in the hidden state: [L][..]. */
    double *seen[L], *forgot[L];
} Naive;

static const float *weight(const Naive *x, int l, const char *name)
{
    char full[80];
    snprintf(full, sizeof full, "blk.%d.%s", l, name);
    const Tensor *t = gguf_tensor(&x->g, full);
    return t ? (const float *)(const void *)t->data : NULL;
}

/* The number after "key=" in the words of the case. */
static int setting(const Case *c, const char *key, int absent)
{
    const char *at = strstr(c->spec, key);
    return at ? atoi(at + strlen(key)) : absent;
}

static int has(const Case *c, const char *words)
{
    return strstr(c->spec, words) != NULL;
}

static void times(const double *a, const double *b, double *out, int n) /* [n][n] */
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double s = 0;
            for (int k = 0; k < n; k++) s += a[i * n + k] * b[k * n + j];
            out[i * n + j] = s;
        }
}

/* exp(A): 12 terms of the series of A / 2^s, squared s times; |A| <= 100: 2^10 makes it small. */
static void expm(const double *A, double *R, int n)
{
    double term[D * D], next[D * D] = {0}, sum[D * D];
    for (int i = 0; i < n * n; i++) sum[i] = term[i] = i / n == i % n;
    for (int k = 1; k < 12; k++) {
        times(term, A, next, n);
        for (int i = 0; i < n * n; i++) sum[i] += term[i] = next[i] / k / 1024;
    }
    for (int s = 0; s < 10; s++) {
        times(sum, sum, next, n);
        memcpy(sum, next, sizeof next);
    }
    memcpy(R, sum, (size_t)(n * n) * sizeof *R);
}

static int block_of(const Case *c)
{
    return setting(c, "block=", 8);
}

/* seen[t][K][blocks][b][b]: exp(t B). */
static void blocks_see(void *ctx, int l, const double *hidden, int n_tokens)
{
    Naive *x = ctx;
    int b = block_of(x->c), n = D / b, lie = has(x->c, "lie");
    const float *P = weight(x, l, lie ? "rope_lie.weight" : "rope_comrope.weight");
    const float *theta = weight(x, l, "rope_comrope.theta");
    (void)hidden;
    for (int t = 0; t < n_tokens; t++)
        for (int k = 0; k < K * n; k++) {
            const float *raw = P + k * b * b;
            double A[D * D];
            for (int i = 0; i < b; i++)
                for (int j = 0; j < b; j++) {
                    double up = (double)raw[i * b + j], down = (double)raw[j * b + i];
                    A[i * b + j] = lie ? (i < j ? up : i > j ? -down : 0) : up - down;
                    A[i * b + j] *= t * (theta ? (double)theta[k] : 1);
                }
            expm(A, x->seen[l] + (t * K * n + k) * b * b, b);
        }
}

/* x = exp(t B) x in each block of one head. */
static void turn_blocks(const Naive *x, int l, int kh, int t, double *v)
{
    int b = block_of(x->c), n = D / b;
    for (int k = 0; k < n; k++) {
        const double *R = x->seen[l] + ((t * K + kh) * n + k) * b * b;
        double y[D];
        int at[D];
        for (int i = 0; i < b; i++) {
            int pair = (k * b + i) / 2;
            at[i] = !x->c->half ? k * b + i : i % 2 ? pair + D / 2 : pair;
        }
        for (int i = 0; i < b; i++) {
            y[i] = 0;
            for (int j = 0; j < b; j++) y[i] += R[i * b + j] * v[at[j]];
        }
        for (int i = 0; i < b; i++) v[at[i]] = y[i];
    }
}

static double blocks_score(void *ctx, const RefPair *p)
{
    double q[D], k[D], s = 0;
    memcpy(q, p->q, sizeof q);
    memcpy(k, p->k, sizeof k);
    turn_blocks(ctx, p->l, p->h / (H / K), p->m, q);
    turn_blocks(ctx, p->l, p->h / (H / K), p->n, k);
    for (int c = 0; c < D; c++) s += q[c] * k[c];
    return s;
}

static double dot(const float *w, const double *x, int n)
{
    double s = 0;
    for (int i = 0; i < n; i++) s += (double)w[i] * x[i];
    return s;
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* Step j of key head kh of the token whose normalised hidden state is x[E], before convolution. */
static double naive_phi(const Naive *s, int l, int kh, int j, const double *x)
{
    const float *w = weight(s, l, "rope_selective.phi.weight");
    int row = kh * D / 2 + j, n = E / K, rank = setting(s->c, "rank=", 16);
    double sum = 0, ss = 0;
    if (has(s->c, "phi=full")) {
        for (int i = 0; i < n; i++) ss += (double)w[row * n + i] * (double)w[row * n + i];
        return dot(w + row * n, x + kh * n, n) / sqrt(ss) *
               (double)weight(s, l, "rope_selective.phi.scale")[kh];
    }
    for (int i = 0; i < rank; i++)
        sum += (double)weight(s, l, "rope_selective.phi_up.weight")[row * rank + i] *
               dot(w + i * E, x, E);
    return sum;
}

/* What is added to the running sum of pair j at token t: phi[t][K][P] of all tokens, x[t][E]. */
static double naive_step(const Naive *s, int l, int kh, int j, int t, const double *phi,
                         const double *x)
{
    int P = D / 2, row = kh * P + j, taps = setting(s->c, "d_conv=", 4);
    const float *conv = weight(s, l, "rope_selective.conv.weight");
    const float *bias = weight(s, l, "rope_selective.bias");
    const float *gate = weight(s, l, "rope_selective.gate.weight");
    const float *gb = weight(s, l, "rope_selective.gate.bias");
    double y = phi[t * K * P + row] - (t ? phi[(t - 1) * K * P + row] : 0);
    for (int u = t - taps + 1, first = 1; conv && u <= t; u++, first = 0) {
        if (first) y = 0;
        if (u >= 0) y += (double)conv[row * taps + u - (t - taps + 1)] * phi[u * K * P + row];
    }
    if (has(s->c, "conv_act=silu")) y *= sigmoid(y);
    if (bias) y += exp((double)bias[row]);
    int g = has(s->c, "gate=pair") ? row : kh;
    if (gate) y *= sigmoid(dot(gate + g * E, x + t * E, E) + (double)gb[g]);
    return y;
}

/* The sums Phi[t][K][P] of a layer. */
static void selective_see(void *ctx, int l, const double *x, int n)
{
    Naive *s = ctx;
    int P = D / 2, slice = E / K;
    double *h = xcalloc((size_t)(n * E), sizeof *h), *phi = xcalloc(MAX_SEEN, sizeof *phi);
    for (int i = 0; i < n * K; i++) {
        double ss = 1e-6;
        for (int c = 0; c < slice; c++) ss += x[i * slice + c] * x[i * slice + c];
        for (int c = 0; c < slice; c++) h[i * slice + c] = x[i * slice + c] / sqrt(ss);
    }
    for (int t = 0; t < n; t++)
        for (int r = 0; r < K * P; r++)
            phi[t * K * P + r] = naive_phi(s, l, r / P, r % P, h + t * E);
    for (int t = 0; t < n; t++)
        for (int r = 0; r < K * P; r++) {
            double before = t ? s->seen[l][(t - 1) * K * P + r] : 0;
            s->seen[l][t * K * P + r] = before + naive_step(s, l, r / P, r % P, t, phi, h);
        }
    free(h);
    free(phi);
}

static double selective_score(void *ctx, const RefPair *p)
{
    const Naive *s = ctx;
    int P = D / 2, kh = p->h / (H / K);
    double sum = 0;
    for (int j = 0; j < P; j++) {
        int a = s->c->half ? j : 2 * j, b = s->c->half ? j + P : 2 * j + 1;
        double tau = pow(10000, -(double)j / P), x = 0.9 * acos(-1.0);
        if (has(s->c, "rfa")) tau = tan(x * j / (P - 1) / 2) / tan(x / 2);
        if (has(s->c, "temp_max=0.5")) tau /= 2;
        double d =
            tau * (s->seen[p->l][(p->m * K + kh) * P + j] - s->seen[p->l][(p->n * K + kh) * P + j]);
        sum += (p->q[a] * p->k[a] + p->q[b] * p->k[b]) * cos(d) +
               (p->q[a] * p->k[b] - p->q[b] * p->k[a]) * sin(d);
    }
    return sum;
}

/* u = W_w h of key head kh. */
static void path_u(const Naive *s, int l, int kh, const double *x, double *u)
{
    const float *w = weight(s, l, "rope_path.w.weight"),
                *up = weight(s, l, "rope_path.w_up.weight");
    int rank = setting(s->c, "rank=", 32);
    double low[64];
    for (int i = 0; up && i < rank; i++) low[i] = dot(w + i * E, x, E);
    for (int d = 0; d < D; d++)
        u[d] = up ? dot(up + (kh * D + d) * rank, low, rank) : dot(w + (kh * D + d) * E, x, E);
}

/* seen[t][K][D + 1]: w and beta; forgot[t][H]: log sigmoid of the gates. */
static void path_see(void *ctx, int l, const double *x, int n)
{
    Naive *s = ctx;
    int taps = setting(s->c, "d_conv=", 3);
    const float *conv = weight(s, l, "rope_path.conv.weight");
    const float *bias = weight(s, l, "rope_path.bias");
    const float *gate = weight(s, l, "rope_path.forget.weight");
    for (int i = 0; i < n * K; i++) {
        int t = i / K, kh = i % K;
        double u[D], *w = s->seen[l] + i * (D + 1), ss = 1e-6;
        memset(w, 0, D * sizeof *w);
        for (int v = conv && t >= taps ? t - taps + 1 : conv ? 0 : t; v <= t; v++) {
            path_u(s, l, kh, x + v * E, u);
            for (int d = 0; d < D; d++)
                w[d] += conv ? (double)conv[(kh * D + d) * taps + taps - 1 - (t - v)] * u[d] : u[d];
        }
        for (int d = 0; conv && d < D; d++) w[d] *= sigmoid(w[d]);
        for (int d = 0; d < D; d++) ss += w[d] * w[d];
        for (int d = 0; d < D; d++) w[d] /= sqrt(ss);
        w[D] = 2 * sigmoid(dot(weight(s, l, "rope_path.beta.weight") + kh * E, x + t * E, E) +
                           (double)bias[kh]);
    }
    for (int i = 0; gate && i < n * H; i++)
        s->forgot[l][i] =
            log(sigmoid(dot(gate + i % H * E, x + i / H * E, E) + (double)bias[K + i % H]));
}

/* q^T H_m H_(m-1) ... H_(n+1) k, from the left. */
static double path_score(void *ctx, const RefPair *p)
{
    const Naive *s = ctx;
    int kh = p->h / (H / K);
    double q[D], sum = 0;
    memcpy(q, p->q, sizeof q);
    for (int t = p->m; t > p->n; t--) {
        const double *w = s->seen[p->l] + (t * K + kh) * (D + 1);
        double along = 0;
        for (int d = 0; d < D; d++) along += q[d] * w[d];
        for (int d = 0; d < D; d++) q[d] -= w[D] * along * w[d];
        sum += s->forgot[p->l][t * H + p->h];
    }
    for (int d = 0; d < D; d++) sum += q[d] * p->k[d];
    return sum;
}

static double *naive_logits(const Case *c, const uint8_t *file, size_t size, const int *ids)
{
    Naive x = {.c = c};
    RefOptions o = {.ctx = &x, .score = blocks_score, .see = blocks_see};
    double *out = xcalloc(T * V, sizeof *out);
    if (has(c, "selective")) o.see = selective_see, o.score = selective_score;
    if (has(c, "path")) o.see = path_see, o.score = path_score;
    for (int l = 0; l < L; l++) {
        x.seen[l] = xcalloc(MAX_SEEN, sizeof *x.seen[l]);
        x.forgot[l] = xcalloc(T * H, sizeof *x.forgot[l]);
    }
    MUST(gguf_parse(&x.g, "tiny.gguf", file, size, &err) == 0);
    MUST(ref_forward_gguf(&x.g, ids, T, out, &o) == 0);
    gguf_close(&x.g);
    for (int l = 0; l < L; l++) free(x.seen[l]), free(x.forgot[l]);
    return out;
}

/* ---------------------------------------------------------------- against them */

#define PHI_LOW                                                                                    \
    {"rope_selective.phi.weight", E, 16, 0, 0.4},                                                  \
    {                                                                                              \
        "rope_selective.phi_up.weight", 16, K *D / 2, 0, 1                                         \
    }
#define CONV                                                                                       \
    {                                                                                              \
        "rope_selective.conv.weight", 4, K *D / 2, 0, 0.8                                          \
    }
#define BIAS                                                                                       \
    {                                                                                              \
        "rope_selective.bias", D / 2, K, 0, 0.5                                                    \
    }

/* Beyond the roundings of the model: the angles of blocks are exact in double, the map by Q^T takes
 * 2 roundings more per value: 0. Running sums: each of T steps is off by some (E / 32 + rank / 32 +
 * 12) U of its size, about 2 at most: T * 30 U, a score by as much of |q| |k|. PaTH: a key is
 * rewritten up to T times, each time off by some (D / 32 + 6 + 4) U, with w off by 20 U and beta by
 * 10 U once more: T * 40 U of |k|. Such errors of different tokens have different signs: half of it
 * is generous. Measured: 5e-7 in all cases, of 1.7e-5 and more. */
static const Case cases[] = {
    {"comrope", 0, {{"rope_comrope.weight", 8, D *K, 0, 0.3}}, 0},
    {"comrope", 1, {{"rope_comrope.weight", 8, D *K, 0, 0.3}}, 0},
    {"comrope:type=ld,block=4",
     0,
     {{"rope_comrope.weight", 4, D *K, 0, 0.7}, {"rope_comrope.theta", 4, K, 0.5, 0.5}},
     0},
    {"comrope:block=2", 0, {{"rope_comrope.weight", 2, D *K, 0, 1}}, 0},
    {"comrope:block=6", 1, {{"rope_comrope.weight", 6, 12 * K, 0, 0.4}}, 0},
    {"lie", 0, {{"rope_lie.weight", 8, D *K, 0.2, 0.3}}, 0},
    {"lie:block=16", 0, {{"rope_lie.weight", 16, D *K, 0, 0.4}}, 0},
    {"lie:block=16", 1, {{"rope_lie.weight", 16, D *K, 0, 0.4}}, 0},
    {"selective", 0, {PHI_LOW, CONV, BIAS}, 15 * T},
    {"selective:conv_act=silu,temp_max=0.5", 1, {PHI_LOW, CONV, BIAS}, 15 * T},
    {"selective:skip_conv=yes,use_bias=no", 0, {PHI_LOW}, 15 * T},
    {"selective:phi=full,gate=pair,d_conv=2,temp_type=rfa,base=0.9",
     0,
     {{"rope_selective.phi.weight", E / K, K *D / 2, 0, 1},
      {"rope_selective.phi.scale", K, 1, 1, 0.3},
      {"rope_selective.conv.weight", 2, K *D / 2, 0, 0.8},
      BIAS,
      {"rope_selective.gate.weight", E, K *D / 2, 0, 0.5},
      {"rope_selective.gate.bias", D / 2, K, 0, 1}},
     15 * T},
    {"selective:gate=head",
     0,
     {PHI_LOW,
      CONV,
      BIAS,
      {"rope_selective.gate.weight", E, K, 0, 0.5},
      {"rope_selective.gate.bias", K, 1, 0, 1}},
     15 * T},
    {"path",
     0,
     {{"rope_path.w.weight", E, K *D, 0, 0.3},
      {"rope_path.conv.weight", 3, K *D, 0, 1},
      {"rope_path.beta.weight", E, K, 0, 0.3},
      {"rope_path.bias", K, 1, 0, 1}},
     20 * T},
    {"path:rank=8,low_rank=yes,shortconv=no,forget=yes",
     0,
     {{"rope_path.w.weight", E, 8, 0, 0.3},
      {"rope_path.w_up.weight", 8, K *D, 0, 0.5},
      {"rope_path.beta.weight", E, K, 0, 0.3},
      {"rope_path.forget.weight", E, H, 0, 0.3},
      {"rope_path.bias", K + H, 1, 0, 1}},
     20 * T},
};
enum { N_CASES = sizeof cases / sizeof *cases };

/* As in test_forward.c, (12 L + 2) stages of (widest / 32 + 9) roundings. */
static double tolerance(int n_layers, int widest)
{
    return (12 * n_layers + 2) * (widest / 32 + 9) * U;
}

static double largest(const double *x, size_t n)
{
    double max = 0;
    for (size_t i = 0; i < n; i++) max = fmax(max, fabs(x[i]));
    return max;
}

/* From tensors in the model, and the same bits from a file of them alone. */
static void test_naive(const Case *c)
{
    static const Way way = {2, 7, T, NULL};
    Model m, n;
    size_t size, plain_size;
    int ids[T];
    char path[100], spec[300];
    uint8_t *file = tiny_with(c, &size), *plain = tiny(&plain_size);
    draw_ids(ids, T, V);
    weights_file(path, c, L, -1);
    snprintf(spec, sizeof spec, "%s%cfile=%s", c->spec, strchr(c->spec, ':') ? ',' : ':', path);
    double *want = naive_logits(c, file, size, ids);
    double size_of = largest(want, T * V), d = 0;
    double tol = (tolerance(L, 64) + c->extra * U) * size_of;
    if (CHECK_MSG(bind(&m, file, size, c->spec, c->half) == 0, "%s: %s", c->spec, err.msg)) {
        float *got = logits_of(&m, ids, T, &way, 0);
        for (int i = 0; i < T * V; i++) d = fmax(d, fabs((double)got[i] - want[i]));
        CHECK_MSG(d <= tol, "%s: logits differ by %g of %g", c->spec, d, tol);
        if (CHECK_MSG(bind(&n, plain, plain_size, spec, c->half) == 0, "%s: %s", spec, err.msg)) {
            float *same = logits_of(&n, ids, T, &way, 0);
            CHECK_MSG(memcmp(same, got, sizeof *got * T * V) == 0, "%s: other bits", spec);
            free(same);
            model_close(&n);
        }
        free(got);
        model_close(&m);
    }
    if (getenv("SHOW")) printf("%-60s %.2g of %.2g\n", c->spec, d / size_of, tol / size_of);
    free(want);
    free(file);
    free(plain);
}

/* One token at a time, odd pieces, all at once; on other threads and instruction sets; and again
 * after the timeline was used for other tokens. */
static void test_pieces(const uint8_t *file, size_t size, const char *spec)
{
    static const Way ways[] = {{1, 512, LONG, "base"},
                               {2, 1, LONG, NULL},
                               {1, 7, LONG, NULL},
                               {2, 512, LONG, NULL},
                               {2, 7, LONG, NULL}};
    int ids[LONG];
    Model m;
    draw_ids(ids, LONG, V);
    if (!CHECK_MSG(bind(&m, file, size, spec, 0) == 0, "%s: %s", spec, err.msg)) return;
    float *want = logits_of(&m, ids, LONG, &ways[0], 0);
    for (int i = 1; i < 5; i++) {
        float *got = logits_of(&m, ids, LONG, &ways[i], i > 2);
        CHECK_MSG(memcmp(got, want, sizeof *got * LONG * V) == 0,
                  "%s: batches of %d on %d threads give other bits", spec, ways[i].batch,
                  ways[i].threads);
        free(got);
    }
    free(want);
    model_close(&m);
}

/* Weights that a seed draws: they do something, another seed another thing, the same one the
 * same. */
static void test_seeds(const uint8_t *file, size_t size, const char *kind)
{
    static const Way way = {1, T, T, NULL};
    static const int seeds[] = {1, 1, 2};
    float *out[4];
    int ids[T];
    draw_ids(ids, T, V);
    for (int i = 0; i < 4; i++) {
        Model m;
        char spec[80];
        snprintf(spec, sizeof spec, i < 3 ? "%s%cseed=%d" : "plain", kind,
                 strchr(kind, ':') ? ',' : ':', i < 3 ? seeds[i] : 0);
        MUST(bind(&m, file, size, spec, 0) == 0);
        out[i] = logits_of(&m, ids, T, &way, 0);
        model_close(&m);
    }
    size_t n = sizeof *out[0] * T * V;
    CHECK(memcmp(out[0], out[1], n) == 0);
    CHECK(memcmp(out[0], out[2], n) != 0 && memcmp(out[0], out[3], n) != 0);
    CHECK(memcmp(out[2], out[3], n) != 0);
    for (int i = 0; i < 4; i++) free(out[i]);
}

/* ---------------------------------------------------------------- what they reduce to */

/* Weights that say plain RoPE or nothing at all: every number of case `c` is `mean`, but for the
 * generators of 2 x 2 blocks, whose first row is 0, value[j] (comrope) or is that (lie). */
static void uniform_file(const char *path, const char *name, int b, int n_rows, const float *theta,
                         double sign)
{
    GgufBuilder g = {0};
    size_t size, n = (size_t)(b * n_rows);
    float *x = xcalloc(n, sizeof *x);
    for (int i = 0; theta && i < n_rows / 2; i++) x[4 * i + 1] = (float)(sign * (double)theta[i]);
    for (int l = 0; l < L; l++) {
        char full[80];
        snprintf(full, sizeof full, "blk.%d.%s", l, name);
        gb_tensor(&g, full, T_F32, 2, (int64_t[]){b, n_rows}, x, n * sizeof *x);
    }
    uint8_t *data = gb_finish(&g, &size);
    write_file(path, data, size);
    free(data);
    free(x);
}

/* 2 x 2 blocks [[0, -theta], [theta, 0]] have the bits of plain RoPE with these thetas, which must
 * be floats for that; turned the other way they have not. All weights 0: those of no encoding. */
static void test_reductions(const uint8_t *file, size_t size)
{
    static const Way way = {1, T, T, NULL};
    static const char *const kinds[] = {"comrope", "lie"};
    float theta[K * D / 2];
    int ids[T];
    char path[100], spec[200], name[60];
    Model m;
    draw_ids(ids, T, V);
    MUST(bind(&m, file, size, "plain", 0) == 0);
    for (int j = 0; j < K * D / 2; j++) theta[j] = (float)m.rope->inv_freq[j % (D / 2)];
    for (int j = 0; j < D / 2; j++) m.rope->inv_freq[j] = (double)theta[j];
    float *plain = logits_of(&m, ids, T, &way, 0);
    model_close(&m);
    MUST(bind(&m, file, size, "none", 0) == 0);
    float *none = logits_of(&m, ids, T, &way, 0);
    model_close(&m);
    snprintf(path, sizeof path, "%s/plain.gguf", folder);
    for (int i = 0; i < 6; i++) {
        const char *kind = kinds[i % 2];
        snprintf(name, sizeof name, "rope_%s.weight", kind);
        uniform_file(path, name, i < 4 ? 2 : 8, K * D, i < 4 ? theta : NULL, i < 2 ? -1 : 1);
        snprintf(spec, sizeof spec, "%s:block=%d,file=%s", kind, i < 4 ? 2 : 8, path);
        MUST(bind(&m, file, size, spec, 0) == 0);
        CHECK(i >= 4 || m.rope->w[0] == NULL || i >= 2); /* Q = I is not kept */
        float *got = logits_of(&m, ids, T, &way, 0);
        int same = memcmp(got, i < 4 ? plain : none, sizeof *got * T * V) == 0;
        CHECK_MSG(same == !(i == 2 || i == 3), "%s, case %d", kind, i);
        free(got);
        model_close(&m);
    }
    free(plain);
    free(none);
}

/* beta = 2, always along one w: two reflections are none, and a score depends on whether the
 * distance is even. Layer 0 of a model that sees one token everywhere has such w and beta. */
typedef struct {
    float score[T][T];
} Scores;

static void keep_scores(void *ctx, const AttnRow *row)
{
    Scores *s = ctx;
    if (row->l == 0 && row->h == 1)
        memcpy(s->score[row->pos], row->scores, (size_t)row->n_t * sizeof(float));
}

static void test_parity(const uint8_t *file, size_t size)
{
    static const Case c = {"path:shortconv=no",
                           0,
                           {{"rope_path.w.weight", E, K * D, 0, 0.3},
                            {"rope_path.beta.weight", E, K, 0, 0},
                            {"rope_path.bias", K, 1, 40, 0}}, /* sigmoid(40) is 1 */
                           0};
    static Scores s;
    State st;
    Model m;
    int ids[T];
    char path[100], spec[200];
    Probe p = {.want = PROBE_ATTN, .ctx = &s, .attn = keep_scores};
    StateOptions o = {.n_ctx = T, .n_threads = 1, .exact = 1};
    for (int i = 0; i < T; i++) ids[i] = 9;
    weights_file(path, &c, L, -1);
    snprintf(spec, sizeof spec, "%s,file=%s", c.spec, path);
    MUST(bind(&m, file, size, spec, 0) == 0 && state_new(&st, &m, &o, &err) == 0);
    st.probe = &p;
    forward(&st, ids, T, 1);
    double apart = fabs((double)s.score[1][0] - (double)s.score[0][0]), worst = 0;
    for (int i = 0; i < T; i++)
        for (int t = 0; t <= i; t++)
            worst = fmax(worst, fabs((double)s.score[i][t] - (double)s.score[(i - t) % 2][0]));
    /* T rewritings, each off by some (6 + 4) U of |k|, and 1e-6 of w's length missing: scores are
     * about 1. */
    CHECK_MSG(worst <= T * (10 * U + 4e-6), "scores of one parity differ by %g", worst);
    CHECK_MSG(apart > 100 * T * 10 * U, "reflected or not, the score is the same: %g", apart);
    state_free(&st);
    model_close(&m);
}

/* ---------------------------------------------------------------- bases in W_q and W_k */

/* As the program draws them: uniform rows in [-1, 1), made orthonormal one after the other. */
static void drawn_basis(uint64_t *s, double *Q, int b)
{
    for (int i = 0; i < b; i++) {
        double *x = Q + i * b, ss = 0;
        for (int c = 0; c < b; c++) x[c] = (double)(rng_next(s) >> 11) * 0x1p-52 - 1;
        for (int again = 0; again < 2; again++)
            for (int k = 0; k < i; k++) {
                double along = 0;
                for (int c = 0; c < b; c++) along += x[c] * Q[k * b + c];
                for (int c = 0; c < b; c++) x[c] -= along * Q[k * b + c];
            }
        for (int c = 0; c < b; c++) ss += x[c] * x[c];
        for (int c = 0; c < b; c++) x[c] /= sqrt(ss);
    }
}

/* out[rows][cols] of floats: the rows of heads of W times the bases [blocks of a key head][b][b];
 * Q NULL: as they are. */
static float *turned_rows(const Tensor *t, const double *Q, int head_dim, int b, int group)
{
    int cols = (int)t->ne[0], rows = (int)t->ne[1], n = head_dim / b;
    double *row = xcalloc((size_t)cols, sizeof *row);
    double *out = xcalloc((size_t)rows * (size_t)cols, sizeof *out);
    float *f = xcalloc((size_t)rows * (size_t)cols, sizeof *f);
    for (int r = 0; r < rows; r++) {
        const uint8_t *from = t->data + (size_t)r * t->row_bytes;
        MUST(ref_dequant(t->type, from, cols, row) == 0);
        int kh = r / head_dim / group, block = r % head_dim / b, c = r % b;
        const double *q = Q ? Q + (kh * n + block) * b * b : NULL;
        for (int i = 0; i < b; i++) {
            double by = q ? q[i * b + c] : i == c;
            for (int k = 0; k < cols; k++) out[(r - c + i) * cols + k] += by * row[k];
        }
    }
    for (int i = 0; i < rows * cols; i++) f[i] = (float)out[i];
    free(out);
    free(row);
    return f;
}

/* A copy of the model with bases drawn from the seed in the rows of W_q and W_k, which become
 * float32; seed 0: these rows as they are. From malloc. */
static uint8_t *with_bases(const Model *m, uint64_t seed, int b, size_t *size)
{
    GgufBuilder g = {0};
    copy_file(&g, &m->g, 1);
    for (int l = 0; l < m->n_layers; l++) {
        const Layer *y = &m->layer[l];
        uint64_t s = seed * 4096 + (uint64_t)l;
        size_t n = (size_t)(y->n_kv_heads * (m->head_dim / b));
        double *Q = xcalloc(n * (size_t)(b * b), sizeof *Q);
        for (size_t i = 0; i < n; i++) drawn_basis(&s, Q + i * (size_t)(b * b), b);
        for (int k = 0; k < 2; k++) {
            const Tensor *t = k ? y->wk : y->wq;
            int group = k ? 1 : y->n_heads / y->n_kv_heads;
            char name[60];
            float *w = turned_rows(t, seed ? Q : NULL, m->head_dim, b, group);
            snprintf(name, sizeof name, "blk.%d.attn_%c.weight", l, k ? 'k' : 'q');
            gb_tensor(&g, name, T_F32, 2, t->ne, w, (size_t)(t->ne[0] * t->ne[1]) * sizeof *w);
            free(w);
        }
        free(Q);
    }
    return gb_finish(&g, size);
}

/* What R(p) = Q rot(p theta) Q^T gives with Q in W_q and W_k is plain RoPE. The rows are rounded
 * once more, so is x -> Q^T x, whose Q are floats: 4 roundings more on a way of hundreds, well
 * within the tolerance of two runs that differ by rounding. Bases of another seed: not at all. */
static void test_bases(const char *path)
{
    static const struct {
        const char *kind;
        int b, seed, wrong;
    } tries[] = {{"comrope", 8, 5, 0}, {"lie", 4, 6, 0}, {"lie", 8, 7, 0}, {"lie", 8, 7, 1}};
    enum { N = 100 };
    static const Way way = {2, 64, N, NULL};
    Model m;
    int ids[N];
    size_t size;
    if (!CHECK_MSG(model_open(&m, path, NULL, &err) == 0, "%s", err.msg)) return;
    MUST(m.rope->layout == ROPE_ADJACENT);
    int widest = m.max_ff > m.n_embd ? m.max_ff : m.n_embd;
    double tol = tolerance(m.n_layers, widest);
    draw_ids(ids, N, m.n_vocab);
    uint8_t *floats = with_bases(&m, 0, 2, &size);
    Model plain, conj;
    MUST(bind(&plain, floats, size, NULL, 0) == 0);
    float *want = logits_of(&plain, ids, N, &way, 0);
    for (int i = 0; i < 4; i++) {
        char spec[80];
        size_t n = (size_t)N * (size_t)m.n_vocab, s;
        uint8_t *data = with_bases(&m, (uint64_t)(tries[i].seed + tries[i].wrong), tries[i].b, &s);
        snprintf(spec, sizeof spec, "%s:block=%d,conjugate=%d", tries[i].kind, tries[i].b,
                 tries[i].seed);
        MUST(bind(&conj, data, s, spec, 0) == 0);
        float *got = logits_of(&conj, ids, N, &way, 0);
        double d = 0, most = 0;
        for (size_t k = 0; k < n; k++) {
            d = fmax(d, fabs((double)got[k] - (double)want[k]));
            most = fmax(most, fabs((double)want[k]));
        }
        if (getenv("SHOW")) printf("%s %s: %.3g of %.3g\n", path, spec, d / most, tol);
        CHECK_MSG(tries[i].wrong ? d > 1000 * tol * most : d <= tol * most,
                  "%s: %s: logits differ by %g of %g", path, spec, d / most, tol);
        free(got);
        free(data);
        model_close(&conj);
    }
    free(want);
    model_close(&plain);
    model_close(&m);
    free(floats);
}

/* ---------------------------------------------------------------- decomposition */

/* Through rope_apply: (R(m) q) . (R(n) k) against exp((n - m) B) for generators that are hard:
 * repeated, zero and tiny frequencies, hidden in a random basis. In floats: 40 U of |q| |k|. */
static void test_spectra(void)
{
    enum { B = 16 };
    static const double spectra[][B / 2] = {{1, 1, 1, 1, 1, 1, 1, 1},
                                            {1, 1, 1, 0, 0, 0, 0, 0},
                                            {2, 1, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15, 0},
                                            {0, 0, 0, 0, 0, 0, 0, 0},
                                            {0.5, 0.5, 0.25, 0.25, 1e-8, 1e-8, 0, 0}};
    for (int i = 0; i < 5; i++) {
        GgufBuilder g = {0};
        double Q[B * B], A[B * B], exact[B * B], x[2][B], want = 0, got = 0, len[2] = {0, 0};
        float P[B * B], q[2][B], angles[2 * B];
        char path[100];
        uint64_t s = 3 + (uint64_t)i;
        drawn_basis(&s, Q, B);
        for (int r = 0; r < B * B; r++) {
            double sum = 0;
            for (int j = 0; j < B / 2; j++)
                sum += spectra[i][j] * (Q[r / B * B + 2 * j + 1] * Q[r % B * B + 2 * j] -
                                        Q[r / B * B + 2 * j] * Q[r % B * B + 2 * j + 1]);
            P[r] = r / B < r % B ? (float)sum : 0; /* U: what is decomposed is what the file says */
        }
        gb_tensor(&g, "rope_lie.weight", T_F32, 2, (int64_t[]){B, B}, P, sizeof P);
        size_t size;
        uint8_t *data = gb_finish(&g, &size);
        snprintf(path, sizeof path, "%s/spectrum.gguf", folder);
        write_file(path, data, size);
        free(data);
        RopeParams p = rope_params(B, 10000);
        const RopeKind *kind;
        Rope r;
        char spec[200];
        snprintf(spec, sizeof spec, "lie:block=16,file=%s", path);
        MUST(rope_parse(spec, &p, &kind, &err) == 0);
        if (!CHECK_MSG(rope_new(&r, kind, &p, ROPE_ADJACENT, NULL, &err) == 0, "%s", err.msg))
            return;
        for (int k = 0; k < 2; k++)
            for (int c = 0; c < B; c++) {
                q[k][c] = (float)((double)(rng_next(&s) >> 11) * 0x1p-52 - 1);
                x[k][c] = (double)q[k][c];
                len[k] += x[k][c] * x[k][c];
            }
        rope_apply(&r, ROPE_Q, 0, q[0], 31, angles);
        rope_apply(&r, ROPE_K, 0, q[1], 7, angles);
        for (int c = 0; c < B * B; c++)
            A[c] = (7 - 31) * (double)(c / B < c % B ? P[c] : -P[c % B * B + c / B]);
        expm(A, exact, B);
        for (int a = 0; a < B; a++) {
            got += (double)q[0][a] * (double)q[1][a];
            for (int b = 0; b < B; b++) want += x[0][a] * exact[a * B + b] * x[1][b];
        }
        for (int j = 0; j < B / 2; j++)
            CHECK_MSG(fabs(r.inv_freq[j] - spectra[i][j]) <= 4 * U * fmax(1, spectra[i][0]),
                      "spectrum %d, pair %d: %g", i, j, r.inv_freq[j]);
        CHECK_MSG(fabs(got - want) <= 40 * U * sqrt(len[0] * len[1]), "spectrum %d: %g, want %g", i,
                  got, want);
        rope_free(&r);
    }
}

/* The plain frequencies come out of random bases to the last places of a double. */
static void test_conjugate(void)
{
    RopeParams p = rope_params(128, 500000), q;
    const RopeKind *kind;
    Rope r, plain;
    p.n_kv_heads = 2;
    q = p;
    MUST(rope_parse("comrope:block=64,conjugate=9", &p, &kind, &err) == 0);
    MUST(rope_new(&r, kind, &p, ROPE_HALF, NULL, &err) == 0);
    MUST(rope_new(&plain, &rope_plain, &q, ROPE_HALF, NULL, &err) == 0);
    for (int i = 0; i < 2 * r.n_pairs; i++) {
        double d = fabs(r.inv_freq[i] - plain.inv_freq[i % r.n_pairs]);
        CHECK_MSG(d <= 1e-14, "head %d, pair %d: off by %g", i / 64, i % 64, d);
    }
    CHECK(r.uneven == ROPE_EVEN && r.w[0]);
    rope_free(&r);
    rope_free(&plain);
}

/* ---------------------------------------------------------------- what readings say of them */

/* The reading of one window under an encoding, as JSON, and as CSV of pairs. */
static void reading(const Model *m, char **json, char **csv)
{
    static const Provenance made = {.n_ctx = T, .exact = 1, .n_threads = 1, .n_windows = 1};
    AnalysisOptions ao = analysis_defaults();
    StateOptions so = {.n_ctx = T, .n_threads = 1, .exact = 1};
    Analysis *a = analysis_new(m, &ao);
    State s;
    size_t n;
    int ids[T];
    draw_ids(ids, T, V);
    MUST(state_new(&s, m, &so, &err) == 0);
    s.probe = analysis_probe(a);
    forward(&s, ids, T, 1);
    analysis_window(a);
    FILE *f = open_memstream(json, &n);
    analysis_json(a, &made, f);
    fclose(f);
    f = open_memstream(csv, &n);
    analysis_csv(a, &made, f);
    fclose(f);
    state_free(&s);
    analysis_free(a);
}

/* theta of the CSV's row for (l, h, j): the fifth cell; NaN if it is empty. */
static double csv_theta(const char *csv, int l, int h, int j)
{
    char begin[60];
    snprintf(begin, sizeof begin, "\n%d,%d,%d,%d,", l, h, h / (H / K), j);
    const char *at = strstr(csv, begin);
    if (!CHECK_MSG(at != NULL, "no row %s", begin)) return 0;
    at += strlen(begin);
    return *at == ',' ? (double)NAN : strtod(at, NULL);
}

/* Key heads with angles of their own: each head by its own theta, none for the whole encoding.
 * Angles from the text: no theta at all. Equal angles: the one there is. Radii before rotation are
 * those of the values that turn: rotation keeps them, by the rounding of floats. */
static void test_readings(const uint8_t *file, size_t size)
{
    static const char *const specs[] = {"lie:seed=4", "selective:seed=4", "lie:conjugate=4"};
    for (int i = 0; i < 3; i++) {
        char *json, *csv;
        Model m;
        MUST(bind(&m, file, size, specs[i], 0) == 0);
        CHECK(m.n_ropes == L && m.rope->uneven == (i == 0 ? ROPE_HEADS : i == 1 ? ROPE_READ : 0));
        reading(&m, &json, &csv);
        for (int j = 0; j < D / 2; j++) {
            CHECK(isnan(get(json, "ropes.1.theta.%d", j)) == (i < 2));
            CHECK(isnan(get(json, "ropes.1.x.%d", j)) == (i < 2));
            for (int h = 0; h < H; h++) {
                double want = m.rope[1].inv_freq[h / (H / K) * (i == 0) * D / 2 + j];
                double got = csv_theta(csv, 1, h, j);
                CHECK_MSG(i == 1 ? isnan(got) : fabs(got - want) <= 1e-8, "%s: %g, not %g",
                          specs[i], got, want);
            }
        }
        CHECK(get(json, "summary.radius_self_check") < 1e-6);
        free(json);
        free(csv);
        model_close(&m);
    }
}

/* ---------------------------------------------------------------- refusals */

static void refused(const uint8_t *file, size_t size, const char *spec, const char *why)
{
    Model m;
    err.msg[0] = 0;
    if (!CHECK_MSG(bind(&m, file, size, spec, 0) == -1, "'%s' was accepted", spec))
        model_close(&m);
    else
        CHECK_MSG(strstr(err.msg, why), "%s: '%s' does not say '%s'", spec, err.msg, why);
}

/* Files that do not have what a setting asks for, and words that make no sense. */
static void test_refusals(const uint8_t *file, size_t size)
{
    static const struct {
        int c, n_layers, skip;
        const char *spec, *why;
    } files[] = {
        {0, L, -1, "comrope:block=4", "expected shape [4, 32]"},
        {0, L, 1, "comrope", "blk.1.rope_comrope.weight' is missing"},
        {0, 1, -1, "comrope", "is missing"},
        {0, L, -1, "lie", "rope_lie.weight' is missing"},
        {0, L, -1, "comrope:type=ld", "rope_comrope.theta"},
        {0, L, -1, "comrope:seed=1", "leave out seed"},
        {0, L, -1, "selective", "rope_selective.phi.weight' is missing"},
        {8, L, -1, "selective:gate=head", "gate.weight' is missing"},
        {8, L, -1, "selective:rank=8", "expected shape [48, 8]"},
        {8, L, -1, "selective:seed=2", "leave out seed"},
        {13, L, -1, "path:forget=yes", "forget.weight' is missing"},
        {13, L, -1, "path:d_conv=4", "expected shape [4, 32]"},
        {13, L, 0, "path", "blk.0.rope_path.w.weight' is missing"},
    };
    static const char *const words[][2] = {
        {"comrope:block=3", "even number"},
        {"comrope:block=18", "up to the 16"},
        {"lie:block=7", "even number"},
        {"lie:seed=1,conjugate=2", "exclude each other"},
        {"selective:pos_scale=2", "no meaning"},
        {"path:pos_shift=1", "no meaning"},
        {"selective:temp_type=rfa", "between 0"},
        {"path:heads=2", "no key 'heads'"},
        {"comrope:type=xy", "ap ld"},
        {"lie:file=nowhere.gguf", "nowhere.gguf"},
    };
    char path[100], spec[200];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        weights_file(path, &cases[files[i].c], files[i].n_layers, files[i].skip);
        snprintf(spec, sizeof spec, "%s%cfile=%s", files[i].spec,
                 strchr(files[i].spec, ':') ? ',' : ':', path);
        refused(file, size, spec, files[i].why);
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        refused(file, size, words[i][0], words[i][1]);
}

/* Weights that are no numbers, tensors that no layer takes, keys in 16 bits where they are rewritten. */
static void test_refused_files(const uint8_t *file, size_t size)
{
    char path[100], spec[200];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Case bad = cases[i];
        bad.weight[0].mean = (double)NAN;
        weights_file(path, &bad, L, -1);
        snprintf(spec, sizeof spec, "%s%cfile=%s", bad.spec, strchr(bad.spec, ':') ? ',' : ':',
                 path);
        refused(file, size, spec, "nan");
        CHECK_MSG(strncmp(err.msg, path, strlen(path)) == 0, "%s", err.msg);
    }
    weights_file(path, &cases[2], L, -1); /* tensors of another setting, of one layer too many */
    snprintf(spec, sizeof spec, "comrope:block=4,file=%s", path);
    refused(file, size, spec, "rope_comrope.theta' is not one");
    weights_file(path, &cases[0], L + 1, -1);
    snprintf(spec, sizeof spec, "comrope:file=%s", path);
    refused(file, size, spec, ".rope_comrope.weight' is not one");
    Model m;
    State s;
    StateOptions o = {.n_ctx = T, .kv_type = T_F16};
    MUST(bind(&m, file, size, "path", 0) == 0);
    CHECK(state_new(&s, &m, &o, &err) == -1 && strstr(err.msg, "--kv f16"));
    model_close(&m);
}

int main(void)
{
    static const char *const specs[] = {"comrope:seed=3",
                                        "comrope:type=ld,block=4,seed=3",
                                        "lie:seed=3,block=16",
                                        "lie:conjugate=3",
                                        "selective:seed=3",
                                        "selective:seed=3,phi=full,gate=pair,conv_act=silu",
                                        "selective:seed=3,skip_conv=yes,gate=head",
                                        "selective",
                                        "path:seed=3",
                                        "path:seed=3,low_rank=yes,forget=yes,shortconv=no"};
    static const char *const kinds[] = {"comrope", "comrope:type=ld", "lie", "selective", "path"};
    char path[600];
    const char *shared = getenv("ROPESCOPE_SHARED");
    size_t size;
    MUST(mkdtemp(folder));
    uint8_t *file = tiny(&size);
    for (int i = 0; i < N_CASES; i++) test_naive(&cases[i]);
    for (int i = 0; i < 10; i++) test_pieces(file, size, specs[i]);
    for (int i = 0; i < 5; i++) test_seeds(file, size, kinds[i]);
    test_reductions(file, size);
    test_parity(file, size);
    test_spectra();
    test_conjugate();
    test_readings(file, size);
    test_refusals(file, size);
    test_refused_files(file, size);
    test_bases("demo/model.gguf");
    snprintf(path, sizeof path, "%s/data/models/stories260K.gguf", shared ? shared : "../shared");
    if (access(path, R_OK) == 0)
        test_bases(path);
    else
        check_skip("stories260K: no data/models/stories260K.gguf in ../shared (ROPESCOPE_SHARED)");
    for (int i = 0; i < 3; i++) {
        static const char *const left[] = {"weights.gguf", "plain.gguf", "spectrum.gguf"};
        snprintf(path, sizeof path, "%s/%s", folder, left[i]);
        unlink(path);
    }
    CHECK(rmdir(folder) == 0);
    free(file);
    return check_done();
}
