/* ropescope: the trainer of the demo model.
 *
 * A decoder of the Llama family, trained from scratch by gradient descent on one small machine: C,
 * libc and libm, OpenMP if it is there. Forward and backward are written out, formula over
 * function; the arithmetic is the kernel table of run.c.
 *
 *     x = embed[token]
 *     each layer:  x += Wo  attention(rope(q), rope(k), v),    q, k, v = Wqkv norm(x)
 *                  x += Wd (silu(gate) * up),               gate, up = Wgu  norm(x)
 *     p(next token) = softmax(head norm(x))
 *
 * What becomes of RoPE on the way back is the one line to look for (section 4): the gradient of a
 * pair that was turned by an angle is turned by the opposite angle.
 *
 * Every number has one order of summation, which depends on the recipe alone: products sum tokens
 * and columns in ascending order, SUM_SEG at a time, sequence after sequence. So the weights are
 * the same bit for bit with any number of threads, any instruction set and compiler, whether or
 * not training was interrupted, and however many sequences go through at a time.
 *
 * Matrices are stored [in][out]: y = x W. Order of this file: the model, products, small maths,
 * RoPE, attention, forward and backward, the optimiser, memory, data, files, command line.
 *
 * Shape letters: as in model.h; N tokens that go through together, Q = H D, KV = K D,
 * W = Q + 2 KV: a row of queries, keys and values. */
#include "../model.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void)
{
    return 0;
}
static int omp_get_max_threads(void)
{
    return 1;
}
#endif

/* ------------------------------------------------------------ 1 the model */

/* All that the result depends on, besides the text and the vocabulary. Written to checkpoints as
 * it is: numbers of 8 bytes, then text; no padding. */
typedef struct {
    int64_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    int64_t n_ctx;    /* tokens of a sequence, T */
    int64_t tied;     /* the head is the transposed embedding */
    int64_t biased;   /* queries, keys and values have a bias */
    int64_t n_batch;  /* sequences of a step */
    int64_t n_steps;  /* of the whole schedule */
    int64_t n_warmup; /* steps of rising learning rate */
    int64_t bos;      /* first token of every sequence; -1: none */
    int64_t seed;
    double lr, lr_min; /* after warm-up, and at the end of the cosine */
    double decay;      /* of matrices, per step and unit of learning rate */
    double decay_qk;   /* of those that make queries and keys: so many times as much */
    double beta1, beta2, clip;
    double init, init_embd, init_qk; /* first weights: see lay_out */
    double repeat;        /* share of the sequences that repeat themselves: see draw_batch */
    char rope[ROPE_SPEC]; /* as --rope takes it */
} Recipe;

#define NORM_EPS 1e-5f
#define ADAM_EPS 1e-8f

/* A part of the vector of all parameters: [rows][cols], a norm being one row. */
typedef struct {
    size_t at;
    int rows, cols;
    float spread; /* standard deviation of its first values; 0: they are `start`, and do not
                   * decay */
    float start;
    int qk; /* its first columns make queries and keys: so many */
} Param;

enum { ATTN_NORM, QKV, QKV_BIAS, OUT, FFN_NORM, GATE_UP, DOWN, LAYER_PARTS };
typedef Param LayerParams[LAYER_PARTS];

/* Of one layer, over N tokens: what its backward pass looks at again. */
typedef struct {
    float *x, *scale1, *norm1;   /* [N][E] stream, [N] 1 / rms, [N][E] */
    float *qkv, *att;            /* [N][W] queries and keys turned, [N][Q] */
    float *mid, *scale2, *norm2; /* [N][E] stream after attention, likewise */
    float *gate_up, *act;        /* [N][2 F], [N][F] silu(gate) * up */
} Trace;

/* One encoding: its angles at every position, and the same with their signs turned. */
typedef struct {
    Rope r;
    int parts, sets;    /* tables: of keys, queries, ...; of key heads */
    float *turn, *back; /* [parts][sets][T][2 P] cos, then sin; then -sin */
} Turns;

typedef struct {
    Recipe c;
    const Kernels *k;
    int n_threads, n_pass; /* sequences that go through together */
    Param embed, last_norm, head;
    LayerParams *layer; /* [L] */
    size_t n;           /* parameters */
    float *w, *grad;    /* [n] */
    float *m, *v;       /* [n] running means of the gradient and its square */
    float *wt;          /* [n] matrices transposed: what the backward pass multiplies by */
    float *head_grad;   /* [E][V] of a tied head, until the step is done */
    Turns *turns;       /* [n_turns]: one, or one per layer */
    int n_turns;
    int64_t step; /* steps done */
    /* Room for one pass of N tokens. */
    Trace *trace;                            /* [L] */
    float *x, *last_scale, *last;            /* [N][E] stream at the end, [N], normalised */
    float *dx, *dnorm, *dwide, *dact, *datt; /* [N][E], [N][E], [N][max(W, 2 F)], [N][F], [N][Q] */
    float *tall;    /* [widest input][N + PAD]: inputs of a product, transposed */
    float *logits;  /* [T][V] */
    double *loss;   /* [N] */
    float *scratch; /* [n_threads][n_scratch] */
    size_t n_scratch;
    void **owned;
    int n_owned;
    double bytes; /* of all that is owned */
    int dry;      /* sizes are only added up */
} Net;

#define PAD 16 /* floats between rows, so that they do not meet in one cache set */

static Param param_add(Net *t, int64_t rows, int64_t cols, double spread)
{
    Param p = {t->n, (int)rows, (int)cols, (float)spread, 1, 0};
    t->n += (size_t)(rows * cols);
    return p;
}

/* Where everything is, and how large it starts. Inputs of a matrix have the size 1, as a norm
 * leaves them; with weights of size init / sqrt(inputs) its outputs have the size init, whatever
 * the shape. Those that are added to the stream are smaller, by the root of their number
 * ("Language Models are Unsupervised Multitask Learners", 2.3); those of a head are small enough
 * to begin with nearly equal odds. */
static void lay_out(Net *t)
{
    const Recipe *c = &t->c;
    int64_t E = c->n_embd, F = c->n_ff, Q = c->n_heads * c->head_dim;
    int64_t KV = c->n_kv_heads * c->head_dim;
    double in = c->init / sqrt((double)E), stream = c->init / sqrt(2.0 * (double)c->n_layers);
    t->n = 0;
    t->embed = param_add(t, c->n_vocab, E, c->init_embd);
    for (int64_t l = 0; l < c->n_layers; l++) {
        Param *p = t->layer[l];
        p[ATTN_NORM] = param_add(t, 1, E, 0);
        p[QKV] = param_add(t, E, Q + 2 * KV, in);
        p[QKV].qk = (int)(Q + KV);
        p[QKV_BIAS] = param_add(t, c->biased, Q + 2 * KV, 0);
        p[QKV_BIAS].start = 0;
        p[OUT] = param_add(t, Q, E, stream / sqrt((double)Q));
        p[FFN_NORM] = param_add(t, 1, E, 0);
        p[GATE_UP] = param_add(t, E, 2 * F, in);
        p[DOWN] = param_add(t, F, E, stream / sqrt((double)F));
    }
    t->last_norm = param_add(t, 1, E, 0);
    t->head = c->tied ? t->embed : param_add(t, E, c->n_vocab, 0.25 / sqrt((double)E));
}

/* All parts in order; i < n_params. */
static int n_params(const Net *t)
{
    return 2 + LAYER_PARTS * (int)t->c.n_layers + !t->c.tied;
}

static const Param *param_at(const Net *t, int i)
{
    int n = LAYER_PARTS * (int)t->c.n_layers;
    if (i == 0) return &t->embed;
    if (i <= n) return &t->layer[(i - 1) / LAYER_PARTS][(i - 1) % LAYER_PARTS];
    return i == n + 1 ? &t->last_norm : &t->head;
}

/* Nearly normal, of mean 0 and variance 1: the sum of 12 uniform numbers (Irwin-Hall), which needs
 * no library function. */
static float draw_normal(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += (double)(rng_next(state) >> 11) * 0x1p-53;
    return (float)(sum - 6);
}

/* First queries and keys are init_qk as large as what other matrices give: a small one lets every
 * pair of theirs begin at nearly nothing, and only those that something is learnt with grow. */
static void shrink_qk(Net *t, const Param *p)
{
    for (size_t i = 0; i < (size_t)p->rows; i++)
        for (size_t j = 0; j < (size_t)p->qk; j++)
            t->w[p->at + i * (size_t)p->cols + j] *= (float)t->c.init_qk;
}

static void draw_params(Net *t)
{
    uint64_t state = (uint64_t)t->c.seed;
    for (int i = 0; i < n_params(t); i++) {
        const Param *p = param_at(t, i);
        size_t n = (size_t)p->rows * (size_t)p->cols;
        for (size_t j = 0; j < n; j++)
            t->w[p->at + j] = p->spread > 0 ? p->spread * draw_normal(&state) : p->start;
    }
    for (int64_t l = 0; l < t->c.n_layers; l++) shrink_qk(t, &t->layer[l][QKV]);
}

/* ------------------------------------------------------------ 2 products */

/* out[i][c] = (add: out[i][c] +) sum_t a[i][t] v[t][c], i < rows, t < n, c < cols. The sum runs
 * over t in segments of SUM_SEG, none of which goes across a multiple of `run` (0: no such). */
typedef struct {
    float *out;
    size_t os;
    const float *a;
    size_t as;
    const float *v;
    size_t vs;
    int rows, n, cols, run, add;
} Product;

enum { ROWS = 128, COLS = 64 }; /* of a piece: what it reads of v stays in L1 and L2 */

static void product_piece(const Kernels *k, const Product *p, int i, int c)
{
    int rows = p->rows - i < ROWS ? p->rows - i : ROWS;
    int cols = p->cols - c < COLS ? p->cols - c : COLS;
    int run = p->run ? p->run : p->n, add = p->add;
    float *out = p->out + (size_t)i * p->os + c;
    for (int t = 0, n; t < p->n; t += n) {
        int left = run - t % run;
        n = left < SUM_SEG ? left : SUM_SEG;
        k->weighted_sum(out, p->os, p->a + (size_t)i * p->as + t, p->as, rows,
                        p->v + (size_t)t * p->vs + c, p->vs, n, 0, cols, add);
        add = 1;
    }
}

static void product(const Net *t, Product p)
{
    int down = (p.rows + ROWS - 1) / ROWS, across = (p.cols + COLS - 1) / COLS;
#pragma omp parallel for schedule(dynamic) num_threads(t->n_threads)
    for (int i = 0; i < down * across; i++)
        product_piece(t->k, &p, i / across * ROWS, i % across * COLS);
}

/* out[c * os + i] = a[i * as + c], i < rows, c < cols: in squares that stay in registers or L1. */
static void transpose_block(float *out, size_t os, const float *a, size_t as, int rows, int cols)
{
    enum { B = 8 };
    for (int i = 0; i < rows; i += B)
        for (int c = 0; c < cols; c += B) {
            int di = rows - i < B ? rows - i : B, dc = cols - c < B ? cols - c : B;
            for (int x = 0; x < dc; x++)
                for (int y = 0; y < di; y++)
                    out[(size_t)(c + x) * os + (size_t)(i + y)] =
                        a[(size_t)(i + y) * as + (size_t)(c + x)];
        }
}

static void transpose(const Net *t, float *out, size_t os, const float *a, int rows, int cols)
{
    enum { STRIP = 64 };
    (void)t; /* used by OpenMP alone */
#pragma omp parallel for schedule(dynamic) num_threads(t->n_threads)
    for (int i = 0; i < rows; i += STRIP)
        transpose_block(out + i, os, a + (size_t)i * (size_t)cols, (size_t)cols,
                        rows - i < STRIP ? rows - i : STRIP, cols);
}

/* y[N][out] = (add: y +) x[N][in] W */
static void linear(const Net *t, float *y, const float *x, const Param *p, int n, int add)
{
    product(t, (Product){.out = y,
                         .os = (size_t)p->cols,
                         .a = x,
                         .as = (size_t)p->rows,
                         .v = t->w + p->at,
                         .vs = (size_t)p->cols,
                         .rows = n,
                         .n = p->rows,
                         .cols = p->cols,
                         .add = add});
}

/* From dy[N][out]:  dx[N][in] = dy W^T,  dW += x^T dy. */
static void linear_back(const Net *t, float *dx, const float *dy, const float *x, const Param *p,
                        int n)
{
    size_t in = (size_t)p->rows, out = (size_t)p->cols, tall = (size_t)n + PAD;
    product(t, (Product){.out = dx,
                         .os = in,
                         .a = dy,
                         .as = out,
                         .v = t->wt + p->at,
                         .vs = in,
                         .rows = n,
                         .n = p->cols,
                         .cols = p->rows});
    transpose(t, t->tall, tall, x, n, p->rows);
    product(t, (Product){.out = t->grad + p->at,
                         .os = out,
                         .a = t->tall,
                         .as = tall,
                         .v = dy,
                         .vs = out,
                         .rows = p->rows,
                         .n = n,
                         .cols = p->cols,
                         .run = (int)t->c.n_ctx,
                         .add = 1});
}

/* ------------------------------------------------------------ 3 small maths */

static float dot(const Net *t, const float *a, const float *b, int n)
{
    float sum;
    t->k->matmul(&sum, 1, a, 0, 1, b, 0, 1, n);
    return sum;
}

/* y = x r w,  r = 1 / sqrt(mean(x^2) + eps), for n tokens; r is kept. */
static void rmsnorm(const Net *t, float *y, float *scale, const float *x, const Param *p, int n)
{
    const float *w = t->w + p->at;
    int E = p->cols;
#pragma omp parallel for schedule(dynamic, 16) num_threads(t->n_threads)
    for (int i = 0; i < n; i++) {
        const float *xi = x + (size_t)i * (size_t)E;
        float *yi = y + (size_t)i * (size_t)E;
        float r = scale[i] = 1.0f / sqrtf(dot(t, xi, xi, E) / (float)E + NORM_EPS);
        for (int c = 0; c < E; c++) yi[c] = xi[c] * r * w[c];
    }
}

/* y[i] += b for n tokens; a bias of no rows is none. */
static void bias(const Net *t, float *y, const Param *p, int n)
{
    const float *b = t->w + p->at;
    size_t cols = (size_t)p->cols;
#pragma omp parallel for schedule(dynamic, 16) num_threads(t->n_threads)
    for (int i = 0; i < n * p->rows; i++)
        for (size_t c = 0; c < cols; c++) y[(size_t)i * cols + c] += b[c];
}

/* db[c] += sum_i dy[i][c], summed like the weights of a norm. */
static void bias_back(const Net *t, const float *dy, const Param *p, int n)
{
    enum { STRIP = 32 };
    int T = (int)t->c.n_ctx, W = p->cols;
#pragma omp parallel for schedule(dynamic) num_threads(t->n_threads)
    for (int c0 = 0; c0 < W * p->rows; c0 += STRIP) {
        int cols = W - c0 < STRIP ? W - c0 : STRIP;
        double sum[STRIP];
        for (int i = 0; i < n; i++) {
            const float *d = dy + (size_t)i * (size_t)W + c0;
            for (int c = 0; c < cols; c++) sum[c] = (i % T ? sum[c] : 0) + (double)d[c];
            for (int c = 0; i % T == T - 1 && c < cols; c++)
                t->grad[p->at + (size_t)(c0 + c)] += (float)sum[c];
        }
    }
}

/* dw[c] += sum_i dy[i][c] x[i][c] r[i]: columns are shared out, and each sums in double over the
 * tokens of a sequence, then over sequences. */
static void rmsnorm_weights_back(const Net *t, const float *dy, const float *x, const float *scale,
                                 const Param *p, int n)
{
    enum { STRIP = 32 };
    int T = (int)t->c.n_ctx, E = p->cols;
#pragma omp parallel for schedule(dynamic) num_threads(t->n_threads)
    for (int c0 = 0; c0 < E; c0 += STRIP) {
        int cols = E - c0 < STRIP ? E - c0 : STRIP;
        double sum[STRIP];
        for (int i = 0; i < n; i++) {
            const float *d = dy + (size_t)i * (size_t)E + c0, *xi = x + (size_t)i * (size_t)E + c0;
            if (i % T == 0) memset(sum, 0, sizeof sum);
            for (int c = 0; c < cols; c++) sum[c] += (double)(d[c] * (xi[c] * scale[i]));
            for (int c = 0; i % T == T - 1 && c < cols; c++)
                t->grad[p->at + (size_t)(c0 + c)] += (float)sum[c];
        }
    }
}

/* With g = dy w:  dx += r g - x r^3 (g . x) / E,  the second part because r depends on all of x.
 * dy is used up. */
static void rmsnorm_back(const Net *t, float *dx, float *dy, const float *x, const float *scale,
                         const Param *p, int n)
{
    const float *w = t->w + p->at;
    int E = p->cols;
    rmsnorm_weights_back(t, dy, x, scale, p, n);
#pragma omp parallel for schedule(dynamic, 16) num_threads(t->n_threads)
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * (size_t)E;
        float *g = dy + at, r = scale[i];
        for (int c = 0; c < E; c++) g[c] *= w[c];
        float along = dot(t, g, x + at, E) * r * r / (float)E;
        for (int c = 0; c < E; c++) dx[at + (size_t)c] += r * (g[c] - x[at + (size_t)c] * along);
    }
}

/* act = silu(gate) up,  silu(g) = g s(g),  s(g) = 1 / (1 + e^-g). */
static void swiglu(const Net *t, float *act, const float *gate_up, int n)
{
    size_t F = (size_t)t->c.n_ff;
#pragma omp parallel for schedule(dynamic, 16) num_threads(t->n_threads)
    for (int i = 0; i < n; i++) {
        const float *gate = gate_up + (size_t)i * 2 * F;
        memcpy(act + (size_t)i * F, gate + F, F * sizeof *act);
        t->k->activate(ACT_SILU, act + (size_t)i * F, gate, (int)F);
    }
}

/* One token:  dup = dact silu(g),  dgate = dact up silu'(g),  silu'(g) = s + silu(g) (1 - s).
 * silu is the kernel's, times ones; s is silu(g) / g, and 1/2 at 0. dact is used up. */
static void swiglu_back_row(const Kernels *k, float *dgate_up, float *dact, const float *gate_up,
                            float *silu, int F)
{
    const float *gate = gate_up, *up = gate_up + F;
    float *dgate = dgate_up, *dup = dgate_up + F;
    for (int c = 0; c < F; c++) silu[c] = 1;
    k->activate(ACT_SILU, silu, gate, F);
    for (int c = 0; c < F; c++) {
        int any = fabsf(gate[c]) > 0; /* one comparison: compilers make vectors of it */
        float s = (any ? silu[c] : 0.5f) / (any ? gate[c] : 1.0f);
        dup[c] = dact[c] * silu[c];
        dgate[c] = dact[c] * up[c] * (s + silu[c] * (1.0f - s));
    }
}

static float *scratch_of(const Net *t)
{
    return t->scratch + (size_t)omp_get_thread_num() * t->n_scratch;
}

static void swiglu_back(const Net *t, float *dgate_up, float *dact, const float *gate_up, int n)
{
    size_t F = (size_t)t->c.n_ff;
#pragma omp parallel for schedule(dynamic, 16) num_threads(t->n_threads)
    for (int i = 0; i < n; i++)
        swiglu_back_row(t->k, dgate_up + (size_t)i * 2 * F, dact + (size_t)i * F,
                        gate_up + (size_t)i * 2 * F, scratch_of(t), (int)F);
}

/* ------------------------------------------------------------ 4 RoPE
 * Forward, pair j of a head at position p is multiplied by the matrix
 *
 *     ( cos a  -sin a )
 *     ( sin a   cos a ),   a = p theta_j.
 *
 * Backward, its gradient is multiplied by the transpose of that, which is the matrix for -a: the
 * gradient is turned back. There is nothing else to it; the angles have no gradient, because they
 * depend on nothing that is learnt. */

/* Why a kind cannot be trained here; NULL: it can. */
static const char *rope_obstacle(const Rope *r, int T)
{
    const RopeKind *k = r->kind;
    if (k->angles || k->observe || k->update || k->fade)
        return "it depends on the hidden state, and would need a gradient of its own";
    if (k->mix || r->p.copies > 1 || r->p.halved)
        return "it does more to a head than to turn its pairs";
    for (int i = 0; i < ROPE_WEIGHTS; i++)
        if (r->w[i]) return "it has weights, which would need a gradient of their own";
    if (k->length && k->length(r, T - 1) != k->length(r, 0))
        return "its angles change with the length within a sequence";
    return NULL;
}

static size_t turn_row(const Net *t, const Turns *u, int part, int kh, int pos)
{
    size_t table = (size_t)(part < u->parts ? part : u->parts - 1) * (size_t)u->sets;
    table += (size_t)(u->sets > 1 ? kh : 0);
    return (table * (size_t)t->c.n_ctx + (size_t)pos) * 2 * (size_t)u->r.n_pairs;
}

static int turns_new(Net *t, Turns *u, const RopeKind *kind, const RopeParams *p, Err *e)
{
    if (rope_new(&u->r, kind, p, ROPE_ADJACENT, NULL, e)) return -1;
    const char *why = rope_obstacle(&u->r, (int)t->c.n_ctx);
    if (why) return err_usage(e, "--rope %s: this trainer cannot train it: %s", kind->name, why);
    size_t P = (size_t)u->r.n_pairs, T = (size_t)t->c.n_ctx;
    u->parts = kind->parts > 1 ? kind->parts : 1;
    u->sets = u->r.sets > 1 ? u->r.sets : 1;
    size_t rows = (size_t)u->parts * (size_t)u->sets * T;
    u->turn = xcalloc(rows * 2 * P + 1, sizeof(float));
    u->back = xcalloc(rows * 2 * P + 1, sizeof(float));
    float *head = xcalloc((size_t)t->c.head_dim, sizeof *head); /* turned in vain */
    for (size_t i = 0; i < rows; i++) {
        int table = (int)(i / T);
        float *turn = u->turn + i * 2 * P, *back = u->back + i * 2 * P;
        rope_apply(&u->r, table / u->sets, table % u->sets, head, (int)(i % T), turn);
        for (size_t j = 0; j < P; j++) back[j] = turn[j], back[P + j] = -turn[P + j];
    }
    free(head);
    return 0;
}

static int ropes_new(Net *t, Err *e)
{
    const Recipe *c = &t->c;
    RopeParams p = rope_params((int)c->head_dim, 10000);
    const RopeKind *kind;
    p.n_layers = (int)c->n_layers;
    p.n_heads = (int)c->n_heads;
    p.n_kv_heads = (int)c->n_kv_heads;
    p.n_embd = (int)c->n_embd;
    p.n_ctx_orig = p.n_ctx_train = (int)c->n_ctx;
    p.score_scale = 1 / sqrt((double)c->head_dim);
    if (rope_parse(c->rope, &p, &kind, e)) return -1;
    t->n_turns = kind->per_layer ? (int)c->n_layers : 1;
    t->turns = xcalloc((size_t)t->n_turns, sizeof *t->turns);
    for (int l = 0; l < t->n_turns; l++) {
        p.layer = l;
        if (turns_new(t, &t->turns[l], kind, &p, e)) return -1;
    }
    return 0;
}

static const Turns *turns_of(const Net *t, int l)
{
    return &t->turns[t->n_turns > 1 ? l : 0];
}

/* Queries and keys of token i of a pass, qkv[W]: turned, or (back) their gradients turned back. A
 * scale that the encoding gives to queries is the same in both directions. */
static void turn_token(const Net *t, const Turns *u, float *qkv, int i, int back)
{
    const float *table = back ? u->back : u->turn;
    int H = (int)t->c.n_heads, K = (int)t->c.n_kv_heads, pos = i % (int)t->c.n_ctx;
    size_t D = (size_t)t->c.head_dim;
    for (int h = 0; h < H; h++) {
        int part = u->r.kind->part ? u->r.kind->part(&u->r, h) : ROPE_Q, kh = h / (H / K);
        rope_turn(&u->r, part, kh, qkv + (size_t)h * D, pos, table + turn_row(t, u, part, kh, pos));
    }
    for (int kh = 0; kh < K; kh++)
        rope_turn(&u->r, ROPE_K, kh, qkv + (size_t)(H + kh) * D, pos,
                  table + turn_row(t, u, ROPE_K, kh, pos));
}

static size_t width(const Net *t)
{
    return (size_t)((t->c.n_heads + 2 * t->c.n_kv_heads) * t->c.head_dim);
}

static void turn_all(const Net *t, int l, float *qkv, int n, int back)
{
#pragma omp parallel for schedule(dynamic, 16) num_threads(t->n_threads)
    for (int i = 0; i < n; i++) turn_token(t, turns_of(t, l), qkv + (size_t)i * width(t), i, back);
}

/* ------------------------------------------------------------ 5 attention
 * Per query head, over one sequence:  S = scale Q K^T + bias,  P = softmax of its rows up to the
 * diagonal,  O = P V.  Queries go BLOCK at a time, so that a block's rows of P stay in L2; nothing
 * of size T x T is ever kept: the backward pass makes P again.
 *
 *     dP = dO V^T         dV = P^T dO          (over the heads of a group, which share k and v)
 *     dS = P * (dP - delta),  delta_i = sum_t P_it dP_it = dO_i . O_i
 *     dQ = scale dS K     dK = scale dS^T Q
 *
 * A product reads its second factor row by row: K and V are transposed where they come second,
 * Q and dO where dK and dV are summed, which are themselves kept as [D][T]. */

enum { BLOCK = 64 }; /* queries */

/* One key head of one sequence at work, with its room. */
typedef struct {
    int l, kh, T;
    const float *qkv, *out;                    /* [T][W], [T][Q]: of the whole sequence */
    float *d_out, *d_qkv;                      /* [T][Q], [T][W]: backward only */
    float *p, *dp;                             /* [BLOCK][T] */
    float *kt, *vt, *qt, *d_out_t, *dkt, *dvt; /* [D][T + PAD] */
} Group;

static Group group_at(const Net *t, int l, int sequence, int kh)
{
    const Trace *tr = &t->trace[l];
    size_t T = (size_t)t->c.n_ctx, at = (size_t)sequence * T, tall = T + PAD;
    size_t Q = (size_t)(t->c.n_heads * t->c.head_dim), D = (size_t)t->c.head_dim;
    float *room = scratch_of(t), *turned = room + 2 * BLOCK * tall;
    return (Group){.l = l,
                   .kh = kh,
                   .T = (int)T,
                   .qkv = tr->qkv + at * width(t),
                   .out = tr->att + at * Q,
                   .d_out = t->datt + at * Q,
                   .d_qkv = t->dwide + at * width(t),
                   .p = room,
                   .dp = room + BLOCK * tall,
                   .kt = turned,
                   .vt = turned + D * tall,
                   .qt = turned + 2 * D * tall,
                   .d_out_t = turned + 3 * D * tall,
                   .dkt = turned + 4 * D * tall,
                   .dvt = turned + 5 * D * tall};
}

/* Rows of P for queries i0 .. i0 + rows - 1 of head h; zeros after the diagonal. */
static void weights_block(const Net *t, const Group *g, int h, int i0, int rows)
{
    size_t D = (size_t)t->c.head_dim, tall = (size_t)g->T + PAD;
    const float *q = g->qkv + (size_t)i0 * width(t) + (size_t)h * D;
    const Rope *r = &turns_of(t, g->l)->r;
    float scale = (float)(1 / sqrt((double)D));
    int keys = i0 + rows;
    t->k->weighted_sum(g->p, tall, q, width(t), rows, g->kt, tall, (int)D, 0, keys, 0);
    for (int i = 0; i < rows; i++) {
        float *row = g->p + (size_t)i * tall;
        int n = i0 + i + 1;
        for (int j = 0; j < n; j++) row[j] *= scale;
        if (r->kind->bias) r->kind->bias(r, h, i0 + i, 0, n, row);
        t->k->softmax(row, n);
        memset(row + n, 0, (size_t)(keys - n) * sizeof *row);
    }
}

/* out[i] = sum over keys j <= i0 + i of a[i][j] v[j], in segments, as run.c sums it. */
static void causal_sum(const Net *t, float *out, size_t os, const float *a, int rows, int i0,
                       const float *v)
{
    size_t tall = (size_t)t->c.n_ctx + PAD, W = width(t);
    for (int j = 0; j < i0 + rows; j += SUM_SEG)
        t->k->weighted_sum(out, os, a + j, tall, rows, v + (size_t)j * W, W, i0 + 1 - j, 1,
                           (int)t->c.head_dim, j > 0);
}

static void attend_group(const Net *t, const Group *g, float *out)
{
    size_t D = (size_t)t->c.head_dim, tall = (size_t)g->T + PAD, W = width(t);
    int H = (int)t->c.n_heads, K = (int)t->c.n_kv_heads, G = H / K;
    size_t Q = (size_t)H * D;
    const float *key = g->qkv + Q + (size_t)g->kh * D, *value = key + (size_t)K * D;
    transpose_block(g->kt, tall, key, W, g->T, (int)D);
    for (int h = g->kh * G; h < (g->kh + 1) * G; h++)
        for (int i = 0; i < g->T; i += BLOCK) {
            int rows = g->T - i < BLOCK ? g->T - i : BLOCK;
            weights_block(t, g, h, i, rows);
            causal_sum(t, out + (size_t)i * Q + (size_t)h * D, Q, g->p, rows, i, value);
        }
}

static void attention(const Net *t, int l, int n)
{
    int K = (int)t->c.n_kv_heads, T = (int)t->c.n_ctx;
    size_t Q = (size_t)(t->c.n_heads * t->c.head_dim);
#pragma omp parallel for schedule(dynamic) num_threads(t->n_threads)
    for (int task = 0; task < n / T * K; task++) {
        Group g = group_at(t, l, task / K, task % K);
        attend_group(t, &g, t->trace[l].att + (size_t)(task / K) * (size_t)T * Q);
    }
}

/* In dp, dP becomes scale dS; p holds P. delta is summed by the kernel's dot product. */
static void scores_back(const Net *t, const Group *g, int h, int i0, int rows)
{
    size_t D = (size_t)t->c.head_dim, Q = (size_t)t->c.n_heads * D, tall = (size_t)g->T + PAD;
    float scale = (float)(1 / sqrt((double)D));
    for (int i = 0; i < rows; i++) {
        size_t at = (size_t)(i0 + i) * Q + (size_t)h * D;
        float delta = dot(t, g->d_out + at, g->out + at, (int)D);
        float *p = g->p + (size_t)i * tall, *dp = g->dp + (size_t)i * tall;
        for (int j = 0; j < i0 + rows; j++) dp[j] = p[j] * (dp[j] - delta) * scale;
    }
}

static void block_back(const Net *t, const Group *g, int h, int i0, int rows)
{
    const Kernels *k = t->k;
    int D = (int)t->c.head_dim, H = (int)t->c.n_heads, keys = i0 + rows;
    size_t Q = (size_t)H * (size_t)D, tall = (size_t)g->T + PAD, W = width(t);
    const float *key = g->qkv + Q + (size_t)g->kh * (size_t)D;
    size_t head = (size_t)h * (size_t)D, row = (size_t)i0;
    weights_block(t, g, h, i0, rows);
    k->weighted_sum(g->dp, tall, g->d_out + row * Q + head, Q, rows, g->vt, tall, D, 0, keys, 0);
    k->weighted_sum(g->dvt, tall, g->d_out_t + row, tall, D, g->p, tall, rows, 0, keys, 1);
    scores_back(t, g, h, i0, rows);
    k->weighted_sum(g->dkt, tall, g->qt + row, tall, D, g->dp, tall, rows, 0, keys, 1);
    causal_sum(t, g->d_qkv + row * W + head, W, g->dp, rows, i0, key);
}

static void group_back(const Net *t, const Group *g)
{
    size_t D = (size_t)t->c.head_dim, tall = (size_t)g->T + PAD, W = width(t);
    int H = (int)t->c.n_heads, K = (int)t->c.n_kv_heads, G = H / K, T = g->T;
    size_t Q = (size_t)H * D, key = Q + (size_t)g->kh * D, value = key + (size_t)K * D;
    transpose_block(g->kt, tall, g->qkv + key, W, T, (int)D);
    transpose_block(g->vt, tall, g->qkv + value, W, T, (int)D);
    memset(g->dkt, 0, D * tall * sizeof *g->dkt);
    memset(g->dvt, 0, D * tall * sizeof *g->dvt);
    for (int h = g->kh * G; h < (g->kh + 1) * G; h++) {
        transpose_block(g->qt, tall, g->qkv + (size_t)h * D, W, T, (int)D);
        transpose_block(g->d_out_t, tall, g->d_out + (size_t)h * D, Q, T, (int)D);
        for (int i = 0; i < T; i += BLOCK) block_back(t, g, h, i, T - i < BLOCK ? T - i : BLOCK);
    }
    transpose_block(g->d_qkv + key, W, g->dkt, tall, (int)D, T);
    transpose_block(g->d_qkv + value, W, g->dvt, tall, (int)D, T);
}

/* From datt[N][Q], the gradient of the heads' outputs: dwide[N][W], that of turned queries and
 * keys, and of values. */
static void attention_back(const Net *t, int l, int n)
{
    int K = (int)t->c.n_kv_heads, T = (int)t->c.n_ctx;
#pragma omp parallel for schedule(dynamic) num_threads(t->n_threads)
    for (int task = 0; task < n / T * K; task++) {
        Group g = group_at(t, l, task / K, task % K);
        group_back(t, &g);
    }
}

/* ------------------------------------------------------------ 6 forward and backward */

static void copy(float *to, const float *from, size_t n)
{
    memcpy(to, from, n * sizeof *to);
}

/* From the stream tr->x to the next one. */
static void layer_forward(Net *t, int l, float *next, int n)
{
    const Param *p = t->layer[l];
    Trace *tr = &t->trace[l];
    size_t all = (size_t)n * (size_t)t->c.n_embd;
    rmsnorm(t, tr->norm1, tr->scale1, tr->x, &p[ATTN_NORM], n);
    linear(t, tr->qkv, tr->norm1, &p[QKV], n, 0);
    bias(t, tr->qkv, &p[QKV_BIAS], n);
    turn_all(t, l, tr->qkv, n, 0);
    attention(t, l, n);
    copy(tr->mid, tr->x, all);
    linear(t, tr->mid, tr->att, &p[OUT], n, 1);
    rmsnorm(t, tr->norm2, tr->scale2, tr->mid, &p[FFN_NORM], n);
    linear(t, tr->gate_up, tr->norm2, &p[GATE_UP], n, 0);
    swiglu(t, tr->act, tr->gate_up, n);
    copy(next, tr->mid, all);
    linear(t, next, tr->act, &p[DOWN], n, 1);
}

/* dx: gradient of the stream after the layer, then of the one before it. Each branch adds what came
 * back through it; the stream itself carries dx on unchanged. */
static void layer_back(Net *t, int l, int n)
{
    const Param *p = t->layer[l];
    Trace *tr = &t->trace[l];
    linear_back(t, t->dact, t->dx, tr->act, &p[DOWN], n);
    swiglu_back(t, t->dwide, t->dact, tr->gate_up, n);
    linear_back(t, t->dnorm, t->dwide, tr->norm2, &p[GATE_UP], n);
    rmsnorm_back(t, t->dx, t->dnorm, tr->mid, tr->scale2, &p[FFN_NORM], n);
    linear_back(t, t->datt, t->dx, tr->att, &p[OUT], n);
    attention_back(t, l, n);
    turn_all(t, l, t->dwide, n, 1);
    bias_back(t, t->dwide, &p[QKV_BIAS], n);
    linear_back(t, t->dnorm, t->dwide, tr->norm1, &p[QKV], n);
    rmsnorm_back(t, t->dx, t->dnorm, tr->x, tr->scale1, &p[ATTN_NORM], n);
}

static void embed(const Net *t, float *x, const int *tok, int n)
{
    size_t E = (size_t)t->c.n_embd;
    for (int i = 0; i < n; i++)
        memcpy(x + (size_t)i * E, t->w + t->embed.at + (size_t)tok[i] * E, E * sizeof *x);
}

/* The row of each token gets its gradient, tokens in order; columns are shared out. */
static void embed_back(const Net *t, const int *tok, int n)
{
    enum { STRIP = 32 };
    int E = (int)t->c.n_embd;
#pragma omp parallel for schedule(dynamic) num_threads(t->n_threads)
    for (int c0 = 0; c0 < E; c0 += STRIP)
        for (int i = 0; i < n; i++) {
            float *g = t->grad + t->embed.at + (size_t)tok[i] * (size_t)E;
            const float *d = t->dx + (size_t)i * (size_t)E;
            for (int c = c0; c < E && c < c0 + STRIP; c++) g[c] += d[c];
        }
}

/* The matrix [E][V] of the head, and its transpose. */
static const float *head_matrix(const Net *t, int transposed)
{
    return t->c.tied == !transposed ? t->wt + t->head.at : t->w + t->head.at;
}

/* logits[T][V] of one sequence. */
static void head_forward(const Net *t, int sequence)
{
    size_t V = (size_t)t->c.n_vocab, E = (size_t)t->c.n_embd, T = (size_t)t->c.n_ctx;
    product(t, (Product){.out = t->logits,
                         .os = V,
                         .a = t->last + (size_t)sequence * T * E,
                         .as = E,
                         .v = head_matrix(t, 0),
                         .vs = V,
                         .rows = (int)T,
                         .n = (int)E,
                         .cols = (int)V});
}

/* loss = -log p(target),  p = softmax(logits);  dlogits = (p - [target]) * weight, in place. The
 * loss comes from the largest logit z_max, whose p is 1 / sum e^(z - z_max). */
static double cross_entropy(const Kernels *k, float *logits, int V, int target, float weight)
{
    int top = 0;
    for (int c = 1; c < V; c++) top = logits[c] > logits[top] ? c : top;
    double gap = (double)logits[top] - (double)logits[target];
    k->softmax(logits, V);
    double loss = gap - log((double)logits[top]);
    logits[target] -= 1;
    for (int c = 0; c < V; c++) logits[c] *= weight;
    return loss;
}

/* The head of one sequence on the way back: logits hold their gradient. */
static void head_back(const Net *t, int sequence)
{
    size_t V = (size_t)t->c.n_vocab, E = (size_t)t->c.n_embd, T = (size_t)t->c.n_ctx;
    size_t at = (size_t)sequence * T * E;
    float *grad = t->c.tied ? t->head_grad : t->grad + t->head.at;
    product(t, (Product){.out = t->dnorm + at,
                         .os = E,
                         .a = t->logits,
                         .as = V,
                         .v = head_matrix(t, 1),
                         .vs = E,
                         .rows = (int)T,
                         .n = (int)V,
                         .cols = (int)E});
    transpose(t, t->tall, T + PAD, t->last + at, (int)T, (int)E);
    product(t, (Product){.out = grad,
                         .os = V,
                         .a = t->tall,
                         .as = T + PAD,
                         .v = t->logits,
                         .vs = V,
                         .rows = (int)E,
                         .n = (int)T,
                         .cols = (int)V,
                         .add = 1});
}

/* Losses of all tokens of a pass, and dnorm, the gradient of what the head reads. */
static void head_pass(const Net *t, const int *target, int n, float weight)
{
    int T = (int)t->c.n_ctx, V = (int)t->c.n_vocab;
    for (int s = 0; s < n / T; s++) {
        head_forward(t, s);
#pragma omp parallel for schedule(dynamic, 16) num_threads(t->n_threads)
        for (int i = 0; i < T; i++)
            t->loss[s * T + i] = cross_entropy(t->k, t->logits + (size_t)i * (size_t)V, V,
                                               target[s * T + i], weight);
        if (weight > 0) head_back(t, s);
    }
}

static void stream_forward(Net *t, const int *tok, int n)
{
    int L = (int)t->c.n_layers;
    embed(t, t->trace[0].x, tok, n);
    for (int l = 0; l < L; l++) layer_forward(t, l, l + 1 < L ? t->trace[l + 1].x : t->x, n);
    rmsnorm(t, t->last, t->last_scale, t->x, &t->last_norm, n);
}

/* One pass: n / T sequences. Their losses are added to *loss, token by token; weight > 0: the
 * gradients of weight times their sum are added to t->grad. */
static void run_pass(Net *t, const int *tok, const int *target, int n, float weight, double *loss)
{
    stream_forward(t, tok, n);
    head_pass(t, target, n, weight);
    for (int i = 0; i < n; i++) *loss += t->loss[i];
    if (!(weight > 0)) return;
    memset(t->dx, 0, (size_t)n * (size_t)t->c.n_embd * sizeof *t->dx);
    rmsnorm_back(t, t->dx, t->dnorm, t->x, t->last_scale, &t->last_norm, n);
    for (int l = (int)t->c.n_layers - 1; l >= 0; l--) layer_back(t, l, n);
    embed_back(t, tok, n);
}

/* Transposes of all matrices, for the backward pass; of the embedding only if it is the head. */
static void turn_matrices(const Net *t)
{
    for (int i = t->c.tied ? 0 : 1; i < n_params(t); i++) {
        const Param *p = param_at(t, i);
        if (p->rows > 1)
            transpose(t, t->wt + p->at, (size_t)p->rows, t->w + p->at, p->rows, p->cols);
    }
}

/* A tied head: what came to it as [E][V] joins the gradient of the embedding. */
static void tied_back(const Net *t)
{
    size_t V = (size_t)t->c.n_vocab, E = (size_t)t->c.n_embd;
#pragma omp parallel for schedule(dynamic, 64) num_threads(t->n_threads)
    for (size_t id = 0; id < V; id++)
        for (size_t c = 0; c < E; c++)
            t->grad[t->embed.at + id * E + c] += t->head_grad[c * V + id];
}

/* Passes over n_tok tokens, n_pass sequences at a time. The mean loss. */
static double run_passes(Net *t, const int *tok, const int *target, int n_tok, float weight)
{
    int most = t->n_pass * (int)t->c.n_ctx;
    double loss = 0;
    for (int at = 0, n; at < n_tok; at += n) {
        n = n_tok - at < most ? n_tok - at : most;
        run_pass(t, tok + at, target + at, n, weight, &loss);
    }
    return loss / n_tok;
}

/* Mean loss over n_tok tokens, whole sequences, and its gradient in t->grad. */
static double gradient(Net *t, const int *tok, const int *target, int n_tok)
{
    size_t V = (size_t)t->c.n_vocab, E = (size_t)t->c.n_embd;
    memset(t->grad, 0, t->n * sizeof *t->grad);
    if (t->c.tied) memset(t->head_grad, 0, V * E * sizeof *t->head_grad);
    double loss = run_passes(t, tok, target, n_tok, (float)(1.0 / n_tok));
    if (t->c.tied) tied_back(t);
    return loss;
}

/* ------------------------------------------------------------ 7 the optimiser */

/* AdamW (Loshchilov and Hutter, arXiv:1711.05101), g the clipped gradient, t the step from 1 on:
 *
 *     m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
 *     w = w - lr decay w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) */

/* Learning rate of step s, from 0 on: up in a line, then down along half a cosine. */
static double learning_rate(const Recipe *c, int64_t s)
{
    if (s < c->n_warmup) return c->lr * (double)(s + 1) / (double)c->n_warmup;
    double all = (double)(c->n_steps - c->n_warmup), done = (double)(s - c->n_warmup);
    return c->lr_min + (c->lr - c->lr_min) * 0.5 * (1 + cos(M_PI * done / (all > 1 ? all : 1)));
}

/* Square of the length of the gradient: blocks in double, then the blocks in order. */
static double gradient_square(const Net *t)
{
    enum { CHUNK = 4096, WAYS = 8 };
    size_t chunks = (t->n + CHUNK - 1) / CHUNK;
    double *part = xcalloc(chunks, sizeof *part), sum = 0;
#pragma omp parallel for schedule(dynamic, 8) num_threads(t->n_threads)
    for (size_t b = 0; b < chunks; b++) {
        const float *g = t->grad + b * CHUNK;
        size_t n = t->n - b * CHUNK < CHUNK ? t->n - b * CHUNK : CHUNK;
        double way[WAYS] = {0};
        for (size_t i = 0; i < n; i++) way[i % WAYS] += (double)g[i] * (double)g[i];
        for (int i = 0; i < WAYS; i++) part[b] += way[i];
    }
    for (size_t b = 0; b < chunks; b++) sum += part[b];
    free(part);
    return sum;
}

/* What is the same for all parameters in one step. */
typedef struct {
    float b1, b2, rest1, rest2, root2; /* b, 1 - b; 1 / sqrt(1 - b2^t) */
    float scale;                       /* of the gradient */
    float rate, shrink, shrink_qk;     /* lr / (1 - b1^t); 1 - lr decay, of queries and keys */
} Adam;

static void adam_piece(const Net *t, const Adam *a, float shrink, size_t from, size_t n)
{
    float *w = t->w + from, *m = t->m + from, *v = t->v + from;
    const float *grad = t->grad + from;
    for (size_t i = 0; i < n; i++) {
        float g = grad[i] * a->scale;
        m[i] = a->b1 * m[i] + a->rest1 * g;
        v[i] = a->b2 * v[i] + a->rest2 * (g * g);
        w[i] = w[i] * shrink - a->rate * (m[i] / (sqrtf(v[i]) * a->root2 + ADAM_EPS));
    }
}

static void adam_part(const Net *t, const Adam *a, const Param *p)
{
    size_t cols = (size_t)p->cols, qk = (size_t)p->qk;
    float shrink = p->spread > 0 ? a->shrink : 1;
#pragma omp parallel for schedule(dynamic, 16) num_threads(t->n_threads)
    for (int i = 0; i < p->rows; i++) {
        size_t at = p->at + (size_t)i * cols;
        adam_piece(t, a, a->shrink_qk, at, qk);
        adam_piece(t, a, shrink, at + qk, cols - qk);
    }
}

/* One step down the gradient; returns its length before clipping. */
static double adam_step(Net *t)
{
    const Recipe *c = &t->c;
    double length = sqrt(gradient_square(t)), lr = learning_rate(c, t->step);
    double now = (double)++t->step;
    double bias1 = 1 - pow(c->beta1, now), bias2 = 1 - pow(c->beta2, now);
    Adam a = {.b1 = (float)c->beta1,
              .b2 = (float)c->beta2,
              .rest1 = (float)(1 - c->beta1),
              .rest2 = (float)(1 - c->beta2),
              .root2 = (float)(1 / sqrt(bias2)),
              .scale = c->clip > 0 && length > c->clip ? (float)(c->clip / length) : 1,
              .rate = (float)(lr / bias1),
              .shrink = (float)(1 - lr * c->decay),
              .shrink_qk = (float)(1 - lr * c->decay * c->decay_qk)};
    for (int i = 0; i < n_params(t); i++) adam_part(t, &a, param_at(t, i));
    turn_matrices(t);
    return length;
}

/* ------------------------------------------------------------ 8 memory */

/* n floats, zeroed, that begin a cache line; the net owns them. */
static float *floats(Net *t, size_t n)
{
    t->bytes += (double)n * sizeof(float) + 64;
    if (t->dry) return NULL;
    char *p = xcalloc(n * sizeof(float) + 64, 1);
    t->owned = xrealloc(t->owned, (size_t)t->n_owned + 1, sizeof *t->owned);
    t->owned[t->n_owned++] = p;
    return (float *)(void *)(p + (64 - (uintptr_t)p % 64) % 64);
}

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void trace_new(Net *t, Trace *tr, size_t N)
{
    size_t E = (size_t)t->c.n_embd, F = (size_t)t->c.n_ff;
    size_t Q = (size_t)(t->c.n_heads * t->c.head_dim);
    tr->x = floats(t, N * E);
    tr->scale1 = floats(t, N);
    tr->norm1 = floats(t, N * E);
    tr->qkv = floats(t, N * width(t));
    tr->att = floats(t, N * Q);
    tr->mid = floats(t, N * E);
    tr->scale2 = floats(t, N);
    tr->norm2 = floats(t, N * E);
    tr->gate_up = floats(t, N * 2 * F);
    tr->act = floats(t, N * F);
}

static void pass_new(Net *t)
{
    const Recipe *c = &t->c;
    size_t T = (size_t)c->n_ctx, N = T * (size_t)t->n_pass, E = (size_t)c->n_embd;
    size_t F = (size_t)c->n_ff, D = (size_t)c->head_dim, Q = (size_t)c->n_heads * D;
    for (int64_t l = 0; l < c->n_layers; l++) trace_new(t, &t->trace[l], N);
    t->x = floats(t, N * E);
    t->last_scale = floats(t, N);
    t->last = floats(t, N * E);
    t->dx = floats(t, N * E);
    t->dnorm = floats(t, N * E);
    t->dwide = floats(t, N * most(width(t), 2 * F));
    t->dact = floats(t, N * F);
    t->datt = floats(t, N * Q);
    t->tall = floats(t, most(most(E, F), Q) * (N + PAD));
    t->logits = floats(t, T * (size_t)c->n_vocab);
    t->n_scratch = most((2 * BLOCK + 6 * D) * (T + PAD), F) / 16 * 16 + 16;
    t->scratch = floats(t, (size_t)t->n_threads * t->n_scratch);
}

static void weights_new(Net *t)
{
    t->w = floats(t, t->n);
    t->grad = floats(t, t->n);
    t->m = floats(t, t->n);
    t->v = floats(t, t->n);
    t->wt = floats(t, t->n);
    if (t->c.tied) t->head_grad = floats(t, (size_t)(t->c.n_vocab * t->c.n_embd));
}

/* Memory that is promised is not always there: a training that needs more than the machine has is
 * refused before it takes any. */
static int memory_check(Net *t, Err *e)
{
    double there = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    t->bytes = 0;
    t->dry = 1;
    weights_new(t);
    pass_new(t);
    t->dry = 0;
    double need = t->bytes + 8.0 * (double)t->c.n_ctx * (double)t->c.head_dim; /* and the angles */
    if (need <= there) return 0;
    return err_usage(
        e,
        "expected a training that fits in the %.1f GB of memory, found one of %.1f GB; "
        "--pass, --ctx, --layers and --embd make it smaller",
        there / 1e9, need / 1e9);
}

static void net_free(Net *t)
{
    for (int i = 0; i < t->n_owned; i++) free(t->owned[i]);
    for (int l = 0; l < t->n_turns; l++) {
        rope_free(&t->turns[l].r);
        free(t->turns[l].turn);
        free(t->turns[l].back);
    }
    free(t->owned);
    free(t->turns);
    free(t->layer);
    free(t->trace);
    free(t->loss);
    *t = (Net){.n = 0};
}

/* A net at step 0 of its recipe. */
static int net_new(Net *t, const Recipe *c, int n_threads, int n_pass, const char *isa, Err *e)
{
    *t = (Net){.c = *c, .n_threads = n_threads, .n_pass = n_pass};
    if (!(t->k = kernels_pick(isa, e))) return -1;
    t->layer = xcalloc((size_t)c->n_layers, sizeof *t->layer);
    t->trace = xcalloc((size_t)c->n_layers, sizeof *t->trace);
    lay_out(t);
    if (memory_check(t, e) || ropes_new(t, e)) {
        net_free(t);
        return -1;
    }
    weights_new(t);
    pass_new(t);
    t->loss = xcalloc((size_t)(c->n_ctx * n_pass), sizeof *t->loss);
    draw_params(t);
    turn_matrices(t);
    return 0;
}

/* ------------------------------------------------------------ 9 data */

/* One sequence: T inputs and the token that follows each, from the text, of which only the first
 * `period` tokens are read, again and again; the first input is BOS, if the recipe has one. A
 * period of T + 1 is the text as it is. */
static void sequence_at(const Recipe *c, const int *text, int period, int *tok, int *target)
{
    int T = (int)c->n_ctx, first = c->bos >= 0;
    if (first) tok[0] = (int)c->bos;
    for (int i = first; i < T; i++) tok[i] = text[(i - first) % period];
    for (int i = 0; i < T; i++) target[i] = text[(i + !first) % period];
}

/* The sequences of a step begin anywhere in the text: drawn from seed and step alone. A share of
 * them, `repeat`, is a piece of a quarter to a half of the sequence over and over: to tell what
 * comes is to find what came before. With repeat 0 nothing is drawn for it: the sequences are the
 * same as if there were no such thing, while any other share also moves where the later ones of a
 * step begin. */
static void draw_batch(const Net *t, const Tokens *text, int *tok, int *target)
{
    uint64_t state = (uint64_t)t->c.seed << 32 ^ (uint64_t)t->step, T = (uint64_t)t->c.n_ctx;
    for (uint64_t s = 0; s < (uint64_t)t->c.n_batch; s++) {
        const int *from = text->id + rng_next(&state) % (text->n - T);
        uint64_t period = T + 1;
        if (t->c.repeat > 0 && (double)(rng_next(&state) >> 11) * 0x1p-53 < t->c.repeat)
            period = T / 4 + rng_next(&state) % (T / 4 + 1);
        sequence_at(&t->c, from, (int)period, tok + s * T, target + s * T);
    }
}

/* Mean loss over the first sequences of a text, one after the other, at most so many. */
static double held_out_loss(Net *t, const Tokens *text, int sequences)
{
    size_t T = (size_t)t->c.n_ctx, there = text->n > T ? (text->n - 1) / T : 0;
    size_t n = there < (size_t)sequences ? there : (size_t)sequences;
    if (n == 0) return (double)NAN;
    int *tok = xcalloc(2 * n * T, sizeof *tok), *target = tok + n * T;
    for (size_t s = 0; s < n; s++)
        sequence_at(&t->c, text->id + s * T, (int)T + 1, tok + s * T, target + s * T);
    double loss = run_passes(t, tok, target, (int)(n * T), 0);
    free(tok);
    return loss;
}

/* One step of training; its loss, and the length of its gradient. */
static double train_step(Net *t, const Tokens *text, double *length)
{
    int n = (int)(t->c.n_batch * t->c.n_ctx);
    int *tok = xcalloc(2 * (size_t)n, sizeof *tok);
    draw_batch(t, text, tok, tok + n);
    double loss = gradient(t, tok, tok + n, n);
    *length = adam_step(t);
    free(tok);
    return loss;
}

/* ------------------------------------------------------------ 10 files */

/* A checkpoint: magic, recipe, hash of the text's tokens, step, hash of the whole file but itself;
 * then w, m and v. */
static const char magic[16] = "ropetrain 4\n";

typedef struct {
    char magic[16];
    Recipe c;
    uint64_t text;
    int64_t step;
    uint64_t all;
} Head;

static uint64_t text_hash(const Tokens *text)
{
    return hash_bytes(text->id, text->n * sizeof *text->id);
}

static uint64_t hash_all(const Head *h, const float *const part[3], size_t n)
{
    uint64_t each[4] = {hash_bytes(h, offsetof(Head, all))};
    for (int i = 0; i < 3; i++) each[i + 1] = hash_bytes(part[i], n * sizeof(float));
    return hash_bytes(each, sizeof each);
}

static int checkpoint_write(const Net *t, const char *path, uint64_t text, Err *e)
{
    Head head = {.c = t->c, .text = text, .step = t->step};
    const float *part[] = {t->w, t->m, t->v};
    OutFile o;
    memcpy(head.magic, magic, sizeof magic);
    head.all = hash_all(&head, part, t->n);
    if (out_open(&o, path, e)) return -1;
    size_t ok = fwrite(&head, sizeof head, 1, o.f);
    for (int i = 0; ok && i < 3; i++) ok = fwrite(part[i], sizeof(float), t->n, o.f) == t->n;
    if (ok) return out_close(&o, e);
    err_set(e, "%s: writing failed: %s", path, strerror(errno));
    out_abandon(&o);
    return -1;
}

/* A file mapped, its head, and where its w, m and v are. */
typedef struct {
    const char *path;
    const uint8_t *map;
    size_t size;
    Head h;
    const float *part[3];
} Saved;

/* A checkpoint of a net with as many parameters as t has. */
static int saved_check(Saved *s, const Net *t, Err *e)
{
    size_t bytes = t->n * sizeof(float), whole = sizeof s->h + 3 * bytes;
    if (s->size != whole)
        return err_set(e, "%s: damaged: expected %zu bytes, found %zu", s->path, whole, s->size);
    for (size_t i = 0; i < 3; i++)
        s->part[i] = (const float *)(const void *)(s->map + sizeof s->h + i * bytes);
    if (s->h.all != hash_all(&s->h, s->part, t->n))
        return err_set(e, "%s: damaged: its bytes are not those that were written", s->path);
    if (s->h.step < 0 || s->h.step > s->h.c.n_steps)
        return err_set(e, "%s: damaged: expected a step from 0 to %lld, found %lld", s->path,
                       (long long)s->h.c.n_steps, (long long)s->h.step);
    return 0;
}

static int saved_open(Saved *s, const char *path, Err *e)
{
    *s = (Saved){.path = path};
    if (!(s->map = map_file(path, &s->size, e))) return -1;
    memcpy(&s->h, s->map, s->size < sizeof s->h ? s->size : sizeof s->h);
    if (s->size >= sizeof s->h && memcmp(s->h.magic, magic, sizeof magic) == 0) return 0;
    int other = s->size >= sizeof magic && memcmp(s->h.magic, magic, 10) == 0;
    err_set(e, "%s: expected a checkpoint of this trainer, found %s", path,
            other ? "one of another version of it" : "another file");
    unmap_file(s->map, s->size);
    return -1;
}

static int recipe_differs(const char *path, const Recipe *was, const Recipe *c, Err *e);

/* All of a training, as it was. */
static int checkpoint_read(Net *t, const char *path, uint64_t text, Err *e)
{
    Saved s;
    float *part[] = {t->w, t->m, t->v};
    if (saved_open(&s, path, e)) return -1;
    int rc = recipe_differs(path, &s.h.c, &t->c, e);
    if (rc == 0 && s.h.text != text)
        rc = err_set(e, "%s: expected the --text that this training began with, found another text",
                     path);
    if (rc == 0) rc = saved_check(&s, t, e);
    for (int i = 0; rc == 0 && i < 3; i++) memcpy(part[i], s.part[i], t->n * sizeof *part[i]);
    unmap_file(s.map, s.size);
    if (rc) return -1;
    t->step = s.h.step;
    turn_matrices(t);
    return 0;
}

static int same_shape(const Recipe *a, const Recipe *b)
{
    return a->n_layers == b->n_layers && a->n_embd == b->n_embd && a->n_heads == b->n_heads &&
           a->n_kv_heads == b->n_kv_heads && a->head_dim == b->head_dim && a->n_ff == b->n_ff &&
           a->n_vocab == b->n_vocab && a->tied == b->tied && a->biased == b->biased;
}

/* The weights of another recipe's checkpoint, whose model has the same shape: training begins with
 * them, at step 0. */
static int weights_read(Net *t, const char *path, Err *e)
{
    Saved s;
    if (saved_open(&s, path, e)) return -1;
    int rc = 0;
    if (!same_shape(&s.h.c, &t->c))
        rc = err_set(e, "%s: expected a checkpoint of a model of this shape, found another shape",
                     path);
    if (rc == 0) rc = saved_check(&s, t, e);
    if (rc == 0 && s.h.step != s.h.c.n_steps)
        rc = err_set(e, "%s: expected a finished training, found step %lld of %lld", path,
                     (long long)s.h.step, (long long)s.h.c.n_steps);
    if (rc == 0) memcpy(t->w, s.part[0], t->n * sizeof *t->w);
    unmap_file(s.map, s.size);
    if (rc) return -1;
    turn_matrices(t);
    return 0;
}

/* ---- the model file */

/* A tensor of the file: rows of n values, as they are in memory. */
typedef struct {
    char name[64];
    const float *v;
    int64_t n, rows; /* rows 0: a vector */
} Out;

static void out_add(Out *list, int *n, const char *name, int l, const float *v, int64_t cols,
                    int64_t rows)
{
    const char *kind = strchr(name, '.') ? "" : ".weight";
    Out *o = &list[(*n)++];
    *o = (Out){.v = v, .n = cols, .rows = rows};
    if (l < 0)
        snprintf(o->name, sizeof o->name, "%s%s", name, kind);
    else
        snprintf(o->name, sizeof o->name, "blk.%d.%s%s", l, name, kind);
}

/* Matrices are [out][in] in a file: the transposed ones. */
static int list_tensors(const Net *t, Out *list)
{
    const Recipe *c = &t->c;
    int64_t E = c->n_embd, F = c->n_ff, Q = c->n_heads * c->head_dim;
    int64_t KV = c->n_kv_heads * c->head_dim;
    int n = 0;
    out_add(list, &n, "token_embd", -1, t->w + t->embed.at, E, c->n_vocab);
    for (int l = 0; l < (int)c->n_layers; l++) {
        const Param *p = t->layer[l];
        const float *bias = t->w + p[QKV_BIAS].at;
        const float *qkv = t->wt + p[QKV].at, *gate_up = t->wt + p[GATE_UP].at;
        out_add(list, &n, "attn_norm", l, t->w + p[ATTN_NORM].at, E, 0);
        out_add(list, &n, "attn_q", l, qkv, E, Q);
        out_add(list, &n, "attn_k", l, qkv + Q * E, E, KV);
        out_add(list, &n, "attn_v", l, qkv + (Q + KV) * E, E, KV);
        if (c->biased) {
            out_add(list, &n, "attn_q.bias", l, bias, Q, 0);
            out_add(list, &n, "attn_k.bias", l, bias + Q, KV, 0);
            out_add(list, &n, "attn_v.bias", l, bias + Q + KV, KV, 0);
        }
        out_add(list, &n, "attn_output", l, t->wt + p[OUT].at, Q, E);
        out_add(list, &n, "ffn_norm", l, t->w + p[FFN_NORM].at, E, 0);
        out_add(list, &n, "ffn_gate", l, gate_up, E, F);
        out_add(list, &n, "ffn_up", l, gate_up + F * E, E, F);
        out_add(list, &n, "ffn_down", l, t->wt + p[DOWN].at, F, E);
    }
    out_add(list, &n, "output_norm", -1, t->w + t->last_norm.at, E, 0);
    if (!c->tied) out_add(list, &n, "output", -1, t->wt + t->head.at, E, c->n_vocab);
    return n;
}

static int tensor_put(GgufOut *w, const Out *o, int type, Err *e)
{
    const TensorType *kind = tensor_type(o->rows ? type : T_F32);
    size_t bytes = (size_t)(o->n / kind->block) * (size_t)kind->bytes;
    int64_t rows = o->rows ? o->rows : 1;
    int rc = 0;
    uint8_t *row = xcalloc(bytes, 1);
    for (int64_t r = 0; rc == 0 && r < rows; r++) {
        kind->pack(row, o->v + r * o->n, (int)o->n);
        rc = gguf_out_data(w, row, bytes, e);
    }
    free(row);
    return rc;
}

/* ---- the encoding in the file
 * What was trained is said twice. ropescope.rope holds the text of --rope, from which this program
 * makes the same angles bit for bit. llama.cpp knows no such key; in the graph of a llama it turns
 * pair j of every head, whatever the layer, by base^(-2j/D) / d[j] per position, d being the tensor
 * rope_freqs.weight, and multiplies cos and sin by rope.scaling.attn_factor. Every kind that gives
 * a frequency to each pair and no more can be said in these. */

/* A divisor that leaves a pair unturned: its angles are less than a float can add to 1 or take from
 * a value that is not 0 (what files of Gemma 4 hold). */
#define UNTURNED 1e30f

/* Is there nothing to the encoding but a frequency for each pair, and an amplitude for whole heads?
 * A scale of positions is part of a frequency; a shift of them cancels in a score. */
static int only_frequencies(const Net *t)
{
    const Turns *u = t->turns;
    const RopeKind *k = u->r.kind;
    int whole = 2 * u->r.n_pairs == (int)t->c.head_dim;
    if (t->n_turns > 1 || u->parts > 1 || u->sets > 1) return 0;
    if (k->turn || k->position || k->length || k->bias || k->q_scale) return 0;
    return whole || fabs(u->r.amplitude - 1) <= 0;
}

/* d[D / 2]: base^(-2j/D) / theta_j. 1: some are not 1; 0: all are, or (*none) llama.cpp has no form
 * of this encoding. */
static int llama_divisors(const Net *t, float *d, int *none)
{
    const Rope *r = &t->turns[0].r;
    int D = (int)t->c.head_dim, any = 0;
    *none = !only_frequencies(t);
    for (int j = 0; !*none && j < D / 2; j++) {
        double theta = j < r->n_pairs ? r->inv_freq[j] * r->p.pos_scale : 0;
        double plain = pow((double)(float)r->p.base, -2.0 * j / D);
        *none = theta < 0;
        d[j] = theta > plain / (double)UNTURNED ? (float)(plain / theta) : UNTURNED;
        any |= d[j] < 1 || d[j] > 1;
    }
    return any && !*none;
}

/* Are number of dimensions and base all there is to say? */
static int plainly(const Rope *r, int head_dim)
{
    const RopeParams *p = &r->p;
    return r->kind == &rope_plain && p->n_rot == head_dim &&
           fabs((double)(float)p->base - p->base) <= 0 && fabs(p->pos_scale - 1) <= 0 &&
           fabs(p->pos_shift) <= 0;
}

/* An encoding that llama.cpp cannot have is one that it must not run with plain angles instead: it
 * refuses the type of scaling. */
static void put_rope(const Net *t, GgufOut *w, int none)
{
    const Rope *r = &t->turns[0].r;
    gguf_out_float(w, "llama.rope.freq_base", (float)r->p.base);
    if (!plainly(r, (int)t->c.head_dim)) gguf_out_str(w, "ropescope.rope", t->c.rope);
    if (none)
        gguf_out_str(w, "llama.rope.scaling.type", "ropescope");
    else if (fabs(r->amplitude - 1) > 0)
        gguf_out_float(w, "llama.rope.scaling.attn_factor", (float)r->amplitude);
}

/* The vocabulary, but for what the recipe decides: whether a text begins with <s>. */
static void put_vocab(const Net *t, GgufOut *w, const Gguf *vocab)
{
    static const char add_bos[] = "tokenizer.ggml.add_bos_token";
    for (size_t i = 0; i < vocab->n_keys; i++) {
        const GgufKey *k = &vocab->keys[i];
        if (str_is(k->key, add_bos))
            gguf_out_bool(w, add_bos, t->c.bos >= 0);
        else if (k->key.n > 10 && memcmp(k->key.s, "tokenizer.", 10) == 0)
            gguf_out_key(w, k);
    }
    if (!gguf_find(vocab, add_bos)) gguf_out_bool(w, add_bos, t->c.bos >= 0);
}

static void put_keys(const Net *t, GgufOut *w, int type)
{
    const Recipe *c = &t->c;
    const struct {
        const char *key;
        int64_t v;
    } counts[] = {{"llama.block_count", c->n_layers},
                  {"llama.context_length", c->n_ctx},
                  {"llama.embedding_length", c->n_embd},
                  {"llama.feed_forward_length", c->n_ff},
                  {"llama.attention.head_count", c->n_heads},
                  {"llama.attention.head_count_kv", c->n_kv_heads},
                  {"llama.attention.key_length", c->head_dim},
                  {"llama.attention.value_length", c->head_dim},
                  {"llama.vocab_size", c->n_vocab},
                  {"llama.rope.dimension_count", c->head_dim},
                  {"general.file_type", type == T_F32   ? 0
                                        : type == T_F16 ? 1
                                                        : 7},
                  {"ropescope.train.step", t->step}};
    gguf_out_str(w, "general.architecture", "llama");
    gguf_out_str(w, "general.name", "ropescope demo");
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        gguf_out_int(w, counts[i].key, GGUF_U32, counts[i].v);
    gguf_out_float(w, "llama.attention.layer_norm_rms_epsilon", NORM_EPS);
}

static void put_tensors(GgufOut *w, const Out *list, int n, int type)
{
    for (int i = 0; i < n; i++) {
        const Out *o = &list[i];
        gguf_out_tensor(w, &(Tensor){.name = {o->name, strlen(o->name)},
                                     .type = o->rows ? type : T_F32,
                                     .n_dims = o->rows ? 2 : 1,
                                     .ne = {o->n, o->rows ? o->rows : 1, 1, 1}});
    }
}

/* The model as it is now, with the vocabulary of another file. */
static int model_write(const Net *t, const char *path, const Gguf *vocab, int type, Err *e)
{
    Out *list = xcalloc((size_t)(4 + 12 * t->c.n_layers), sizeof *list);
    float *divisors = xcalloc((size_t)t->c.head_dim / 2, sizeof *divisors);
    int n = list_tensors(t, list), none, rc;
    if (llama_divisors(t, divisors, &none))
        out_add(list, &n, "rope_freqs", -1, divisors, t->c.head_dim / 2, 0);
    GgufOut w;
    if ((rc = gguf_out_open(&w, path, e)) == 0) {
        put_keys(t, &w, type);
        put_rope(t, &w, none);
        put_vocab(t, &w, vocab);
        put_tensors(&w, list, n, type);
        for (int i = 0; rc == 0 && i < n; i++) rc = tensor_put(&w, &list[i], type, e);
        if (rc == 0) rc = gguf_out_close(&w, e);
        if (rc) gguf_out_abandon(&w);
    }
    free(divisors);
    free(list);
    return rc;
}

/* ------------------------------------------------------------ 11 command line */

typedef struct {
    Recipe c;
    const char *text, *held, *vocab, *out, *checkpoint, *from, *snapshots, *type, *isa, *rope;
    int64_t threads, pass, log, evaluate, windows, every, stop, bench, no_bos;
} Job;

typedef struct {
    const char *name;
    enum { O_INT, O_NUM, O_STR, O_FLAG } type;
    size_t field;
    double lo, hi;
    const char *arg, *help;
} Option;

#define F(member) offsetof(Job, member)
static const Option options[] = {
    {"text", O_STR, F(text), 0, 0, "FILE", "text to learn from"},
    {"held-out", O_STR, F(held), 0, 0, "FILE", "text to be measured on, never learnt from"},
    {"vocab", O_STR, F(vocab), 0, 0, "FILE", "GGUF file with a vocabulary (demo/bpe makes one)"},
    {"out", O_STR, F(out), 0, 0, "FILE", "the model, a GGUF file"},
    {"type", O_STR, F(type), 0, 0, "TYPE", "of its matrices: f32, f16 (default) or q8_0"},
    {"snapshots", O_STR, F(snapshots), 0, 0, "LIST",
     "steps after which a model is written, too: 0,10,100 to OUT-000010.gguf"},
    {"checkpoint", O_STR, F(checkpoint), 0, 0, "FILE",
     "where training is saved, and goes on from if it is there"},
    {"from", O_STR, F(from), 0, 0, "FILE",
     "a finished checkpoint of this shape: its weights to begin with, at step 0"},
    {"checkpoint-every", O_INT, F(every), 1, 1e9, "N", "steps (200)"},
    {"stop", O_INT, F(stop), 1, 1e9, "N", "save and stop after step N"},
    {"layers", O_INT, F(c.n_layers), 1, 1000, "N", "(6)"},
    {"embd", O_INT, F(c.n_embd), 1, 65536, "N", "values of the stream (192)"},
    {"heads", O_INT, F(c.n_heads), 1, 1024, "N", "query heads (6)"},
    {"kv-heads", O_INT, F(c.n_kv_heads), 1, 1024, "N", "key heads (2)"},
    {"head-dim", O_INT, F(c.head_dim), 2, 1024, "N", "values per head (32)"},
    {"ff", O_INT, F(c.n_ff), 1, 1e6, "N", "values of the feed-forward network (512)"},
    {"tied", O_FLAG, F(c.tied), 0, 0, "", "the head is the embedding again; try --init-embd 0.02"},
    {"biased", O_FLAG, F(c.biased), 0, 0, "", "queries, keys and values have a bias"},
    {"rope", O_STR, F(rope), 0, 0, "KIND", "position encoding KIND[:key=value,...] (plain)"},
    {"ctx", O_INT, F(c.n_ctx), 2, 1e6, "N", "tokens of a sequence (512)"},
    {"no-bos", O_FLAG, F(no_bos), 0, 0, "", "sequences do not begin with <s>"},
    {"batch", O_INT, F(c.n_batch), 1, 1e6, "N", "sequences of a step (8)"},
    {"repeat", O_NUM, F(c.repeat), 0, 1, "X",
     "share of them that is a piece of text over and over (0)"},
    {"steps", O_INT, F(c.n_steps), 1, 1e9, "N", "of the whole schedule (1000)"},
    {"warmup", O_INT, F(c.n_warmup), 0, 1e9, "N", "steps of rising learning rate (100)"},
    {"init", O_NUM, F(c.init), 0.001, 100, "X", "size of first weights, in 1 / sqrt(inputs) (1)"},
    {"init-qk", O_NUM, F(c.init_qk), 0, 100, "X", "of queries and keys, times --init (1)"},
    {"init-embd", O_NUM, F(c.init_embd), 0.0001, 100, "X", "of the first embedding (1)"},
    {"lr", O_NUM, F(c.lr), 0, 10, "X", "learning rate after warm-up (1e-3)"},
    {"lr-min", O_NUM, F(c.lr_min), 0, 10, "X", "at the end (1e-4)"},
    {"decay", O_NUM, F(c.decay), 0, 10, "X", "weight decay of matrices (0.1)"},
    {"decay-qk", O_NUM, F(c.decay_qk), 0, 1000, "X", "of queries and keys, times --decay (1)"},
    {"beta1", O_NUM, F(c.beta1), 0, 0.999999, "X", "(0.9)"},
    {"beta2", O_NUM, F(c.beta2), 0, 0.999999, "X", "(0.95)"},
    {"clip", O_NUM, F(c.clip), 0, 1e9, "X", "longest gradient (1); 0: any"},
    {"seed", O_INT, F(c.seed), 0, 4294967295.0, "N", "of weights and batches (1)"},
    {"log", O_INT, F(log), 1, 1e9, "N", "steps between lines (20)"},
    {"eval", O_INT, F(evaluate), 1, 1e9, "N", "steps between held-out measurements (200)"},
    {"eval-windows", O_INT, F(windows), 1, 1e6, "N", "sequences of such a measurement (32)"},
    {"threads", O_INT, F(threads), 1, 1024, "N", "threads (as many as there are processors)"},
    {"pass", O_INT, F(pass), 1, 1e6, "N",
     "sequences that go through together (2): memory, never the result"},
    {"isa", O_STR, F(isa), 0, 0, "NAME", "instruction set (the fastest)"},
    {"bench", O_INT, F(bench), 1, 1e6, "N", "measure the speed of N steps; nothing is written"},
};
#undef F
#define N_OPTIONS ((int)(sizeof options / sizeof *options))

static void help(void)
{
    puts("Examples:\n"
         "  demo/train --text train.txt --held-out held.txt --vocab vocab.gguf --out model.gguf\n"
         "  demo/train ... --checkpoint model.checkpoint   the same command goes on after Ctrl-C\n"
         "  demo/train ... --rope none --out nope.gguf     another position encoding\n"
         "  demo/train ... --bench 20                      how fast is it here?\n\n"
         "Trains a small Llama-style model from scratch. The same recipe gives the same file,\n"
         "bit for bit, with any number of threads and on every processor.\n\n"
         "Options (default):");
    for (int i = 0; i < N_OPTIONS; i++) {
        char left[40];
        snprintf(left, sizeof left, "--%s %s", options[i].name, options[i].arg);
        printf("  %-24s %s\n", left, options[i].help);
    }
}

/* What an option of a recipe has been given. */
static void option_show(const Option *o, const Recipe *c, char out[32])
{
    const char *at = (const char *)c + o->field;
    int64_t whole;
    double x;
    memcpy(&whole, at, sizeof whole);
    memcpy(&x, at, sizeof x);
    if (o->type == O_NUM)
        snprintf(out, 32, "%.9g", x);
    else
        snprintf(out, 32, "%lld", (long long)whole);
}

/* 0, or -1 and the first option in which two recipes differ. */
static int recipe_differs(const char *path, const Recipe *was, const Recipe *c, Err *e)
{
    if (memcmp(was, c, sizeof *c) == 0) return 0;
    char name[64] = "--rope", a[ROPE_SPEC + 1], b[ROPE_SPEC + 1];
    snprintf(a, sizeof a, "%.*s", ROPE_SPEC, was->rope);
    snprintf(b, sizeof b, "%.*s", ROPE_SPEC, c->rope);
    if (was->n_vocab != c->n_vocab || was->bos != c->bos) {
        snprintf(name, sizeof name, "--vocab or --no-bos");
        snprintf(a, sizeof a, "%lld tokens, <s> %lld", (long long)was->n_vocab,
                 (long long)was->bos);
        snprintf(b, sizeof b, "%lld and %lld", (long long)c->n_vocab, (long long)c->bos);
    }
    for (int i = 0; i < N_OPTIONS; i++) {
        const Option *o = &options[i];
        if (o->field >= offsetof(Recipe, rope) ||
            memcmp((const char *)was + o->field, (const char *)c + o->field, 8) == 0)
            continue;
        snprintf(name, sizeof name, "--%s", o->name);
        option_show(o, was, a);
        option_show(o, c, b);
        break;
    }
    return err_set(e,
                   "%s: a checkpoint of another recipe: %s: expected %s, found %s; give its "
                   "options, or another file",
                   path, name, a, b);
}

static int option_set(Job *j, const Option *o, const char *value, Err *e)
{
    char *at = (char *)j + o->field, *end;
    if (o->type == O_STR) {
        *(const char **)(void *)at = value;
        return 0;
    }
    if (o->type == O_FLAG) {
        *(int64_t *)(void *)at = 1;
        return 0;
    }
    double v = strtod(value, &end);
    if (end == value || *end || !(v >= o->lo && v <= o->hi) ||
        (o->type == O_INT && (v < floor(v) || v > floor(v))))
        return err_usage(e, "--%s: expected %s from %g to %g, found '%s'", o->name,
                         o->type == O_INT ? "a whole number" : "a number", o->lo, o->hi, value);
    if (o->type == O_INT)
        *(int64_t *)(void *)at = (int64_t)v;
    else
        *(double *)(void *)at = v;
    return 0;
}

static int options_read(Job *j, int argc, char **argv, Err *e)
{
    for (int i = 1; i < argc; i++) {
        int k = 0;
        while (k < N_OPTIONS &&
               !(strncmp(argv[i], "--", 2) == 0 && strcmp(argv[i] + 2, options[k].name) == 0))
            k++;
        if (k == N_OPTIONS) return err_usage(e, "'%s': no such option; see --help", argv[i]);
        int takes = options[k].type != O_FLAG;
        if (takes && i + 1 == argc) return err_usage(e, "%s: a value is missing", argv[i]);
        if (option_set(j, &options[k], takes ? argv[i + 1] : "", e)) return -1;
        i += takes;
    }
    return 0;
}

/* Before anything is read: n_vocab may be 0 yet. */
static int recipe_check(const Recipe *c, Err *e)
{
    if (c->n_heads % c->n_kv_heads)
        return err_usage(e, "--kv-heads: expected a divisor of the %lld query heads, found %lld",
                         (long long)c->n_heads, (long long)c->n_kv_heads);
    if (c->head_dim % 2)
        return err_usage(e, "--head-dim: expected an even number, found %lld",
                         (long long)c->head_dim);
    if (c->n_warmup > c->n_steps)
        return err_usage(e, "--warmup: expected at most the %lld steps, found %lld",
                         (long long)c->n_steps, (long long)c->n_warmup);
    if (c->lr_min > c->lr)
        return err_usage(e, "--lr-min: expected at most --lr, which is %g, found %g", c->lr,
                         c->lr_min);
    if (c->repeat > 0 && c->n_ctx < 4)
        return err_usage(e, "--repeat: expected --ctx of at least 4 tokens, found %lld",
                         (long long)c->n_ctx);
    double values = (double)c->n_layers * (double)c->n_embd *
                        (double)(3 * c->n_ff + 4 * c->n_heads * c->head_dim) +
                    2.0 * (double)(c->n_vocab * c->n_embd);
    if (!(values < 1e9))
        return err_usage(e, "expected a model of less than 1e9 parameters, found some %.3g",
                         values);
    if (!((double)c->n_batch * (double)c->n_ctx < 1e8))
        return err_usage(e, "--batch: expected less than 1e8 tokens a step, found %lld x %lld",
                         (long long)c->n_batch, (long long)c->n_ctx);
    return 0;
}

/* "0,10,100": whole numbers, none of which is too long. */
static int list_check(const char *list, Err *e)
{
    size_t n = strspn(list, "0123456789,");
    int ok = n > 0 && !list[n];
    for (const char *s = list; ok && *s; s += strcspn(s, ","), s += *s == ',')
        ok = strcspn(s, ",") >= 1 && strcspn(s, ",") <= 9;
    if (ok && list[n - 1] != ',') return 0;
    return err_usage(e, "--snapshots: expected steps as 0,10,100, found '%s'", list);
}

/* Can a file be made there? Better known before the first step than after the last. */
static int place_check(const char *option, const char *path, Err *e)
{
    struct stat st;
    if (!path) return 0;
    const char *slash = strrchr(path, '/');
    Bytes folder = {0};
    if (slash)
        bytes_add(&folder, path, slash > path ? (size_t)(slash - path) : 1);
    else
        bytes_add(&folder, ".", 1);
    int there = stat(path, &st) == 0, rc = 0;
    if (there && S_ISDIR(st.st_mode))
        rc = err_usage(e, "--%s: expected a file, found the folder %s", option, path);
    else if (!there && access(folder.s, W_OK | X_OK))
        rc = err_usage(e, "--%s: expected a folder to write to, found %s: %s", option, folder.s,
                       strerror(errno));
    free(folder.s);
    return rc;
}

/* F32, F16 or Q8_0; the latter wants rows of whole blocks. -1: neither. */
static int type_of(const Job *j, Err *e)
{
    const Recipe *c = &j->c;
    const char *s = j->type ? j->type : "f16";
    if (strcmp(s, "f32") == 0) return T_F32;
    if (strcmp(s, "f16") == 0) return T_F16;
    if (strcmp(s, "q8_0")) return err_usage(e, "--type: expected f32, f16 or q8_0, found '%s'", s);
    if (c->n_embd % QB == 0 && c->n_ff % QB == 0 && c->n_heads * c->head_dim % QB == 0)
        return T_Q8_0;
    return err_usage(e,
                     "--type q8_0: expected rows of a multiple of %d values, found %lld (--embd), "
                     "%lld (--ff) and %lld (--heads times --head-dim)",
                     QB, (long long)c->n_embd, (long long)c->n_ff,
                     (long long)(c->n_heads * c->head_dim));
}

/* ---- training */

/* Everything a run needs. */
typedef struct {
    Job j;
    Net t;
    Gguf vocab;
    Tokens text, held;
    uint64_t hash;
    int type;
    double began, worked; /* seconds: when, and spent in steps of this run */
    int64_t first;        /* step this run began with */
} Train;

static volatile sig_atomic_t stopped;

/* The first Ctrl-C lets the step end and be saved; the second does not wait. */
static void on_signal(int sig)
{
    if (stopped) _exit(128 + sig);
    stopped = sig;
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static int tokens_read(const Tokenizer *k, const char *path, const Recipe *c, Tokens *out, Err *e)
{
    Bytes b = {0};
    int rc = bytes_read(&b, path, e);
    if (rc == 0) rc = tok_encode(k, b.s, b.n, 0, out, e);
    free(b.s);
    if (rc == 0 && out->n <= (size_t)c->n_ctx)
        rc = err_set(e, "%s: expected more than the %lld tokens of --ctx, found %zu", path,
                     (long long)c->n_ctx, out->n);
    return rc;
}

static int texts_read(Train *x, Err *e)
{
    Recipe *c = &x->j.c;
    if (gguf_open(&x->vocab, x->j.vocab, e)) return -1;
    Tokenizer *k = tok_new(&x->vocab, NULL, e);
    if (!k) return -1;
    c->n_vocab = tok_n_vocab(k);
    c->bos = x->j.no_bos ? -1 : tok_bos(k);
    int rc = 0;
    if (!x->j.no_bos && (c->bos < 0 || c->bos >= c->n_vocab || !tok_is_special(k, (int)c->bos)))
        rc =
            err_set(e,
                    "%s: expected a vocabulary with a first token (BOS), found none; with --no-bos "
                    "none is needed",
                    x->j.vocab);
    if (rc == 0) rc = tokens_read(k, x->j.text, c, &x->text, e);
    if (rc == 0 && x->j.held) rc = tokens_read(k, x->j.held, c, &x->held, e);
    tok_free(k);
    x->hash = text_hash(&x->text);
    return rc;
}

/* Is step in "0,10,100"? */
static int in_list(const char *list, int64_t step)
{
    for (const char *s = list; s && *s; s += strcspn(s, ","), s += *s == ',')
        if (strtoll(s, NULL, 10) == step) return 1;
    return 0;
}

/* model.gguf, as it is after a step: model-000100.gguf. */
static int snapshot_write(const Train *x, Err *e)
{
    const char *out = x->j.out, *dot = strrchr(out, '.');
    int stem = dot && !strchr(dot, '/') ? (int)(dot - out) : (int)strlen(out);
    char path[4096];
    snprintf(path, sizeof path, "%.*s-%06lld%s", stem, out, (long long)x->t.step, out + stem);
    return model_write(&x->t, path, &x->vocab, x->type, e);
}

/* "1:02:33" until the last step, if all goes on as it did. */
static void time_left(const Train *x, char out[32])
{
    double done = (double)(x->t.step - x->first), rest = (double)(x->t.c.n_steps - x->t.step);
    int64_t s = (int64_t)((now() - x->began) * rest / done);
    snprintf(out, 32, "%lld:%02d:%02d", (long long)(s / 3600), (int)(s / 60 % 60), (int)(s % 60));
}

static double tokens_per_second(const Train *x)
{
    double tokens = (double)(x->t.c.n_batch * x->t.c.n_ctx);
    return tokens * (double)(x->t.step - x->first) / x->worked;
}

/* The line that changes, on terminals only, at most ten times a second; "" takes it away. */
static void status(const Train *x, const char *what)
{
    static double last;
    char left[32];
    if (!isatty(2) || (*what && now() - last < 0.1)) return;
    last = now();
    if (!*what) {
        fputs("\r\033[K", stderr);
        return;
    }
    time_left(x, left);
    fprintf(stderr, "\rtrain %lld / %lld steps  %s  %.0f tokens/s  %s left \033[K",
            (long long)x->t.step, (long long)x->t.c.n_steps, what, tokens_per_second(x), left);
}

static void log_line(const Train *x, double loss, double length)
{
    const Net *t = &x->t;
    char left[32];
    time_left(x, left);
    status(x, "");
    printf("step %lld/%lld  loss %.4f  gradient %.3f  rate %.2e  %.0f tokens/s  left %s\n",
           (long long)t->step, (long long)t->c.n_steps, loss, length,
           learning_rate(&t->c, t->step - 1), tokens_per_second(x), left);
    fflush(stdout);
}

static void log_held_out(Train *x)
{
    if (!x->held.n) return;
    status(x, "held-out text ...");
    double loss = held_out_loss(&x->t, &x->held, (int)x->j.windows);
    status(x, "");
    printf("step %lld  held out: loss %.4f, perplexity %.3f\n", (long long)x->t.step, loss,
           exp(loss));
    fflush(stdout);
}

static int save(const Train *x, Err *e)
{
    return x->j.checkpoint ? checkpoint_write(&x->t, x->j.checkpoint, x->hash, e) : 0;
}

/* One step and what is to be told about it: *sum of the losses since the last line, of n steps. */
static int step_and_say(Train *x, double *sum, int64_t *n, Err *e)
{
    Net *t = &x->t;
    char what[48];
    double length, at = now(), loss = train_step(t, &x->text, &length);
    x->worked += now() - at;
    *sum += loss;
    *n += 1;
    if (!isfinite(loss) || !isfinite(length))
        return err_set(
            e,
            "step %lld: expected a finite loss and gradient, found %g and %g; try a lower "
            "--lr, or a longer --warmup",
            (long long)t->step, loss, length);
    int last = t->step == t->c.n_steps;
    snprintf(what, sizeof what, "loss %.4f", *sum / (double)*n);
    status(x, what);
    if (t->step % x->j.log == 0 || last) {
        log_line(x, *sum / (double)*n, length);
        *sum = 0, *n = 0;
    }
    if (t->step % x->j.evaluate == 0 || last) log_held_out(x);
    return 0;
}

/* Steps until the end, a signal or --stop; losses are averaged from line to line. */
static int train_loop(Train *x, Err *e)
{
    Net *t = &x->t;
    const Job *j = &x->j;
    double sum = 0;
    int64_t n = 0;
    x->first = t->step;
    x->began = now();
    while (t->step < t->c.n_steps && !stopped && !(j->stop && t->step >= j->stop)) {
        if (step_and_say(x, &sum, &n, e)) return -1;
        if (in_list(j->snapshots, t->step) && snapshot_write(x, e)) return -1;
        if ((t->step % j->every == 0 || t->step == t->c.n_steps) && save(x, e)) return -1;
    }
    return 0;
}

/* Before the last step: saved, and how to go on. */
static int train_stopped(const Train *x, Err *e)
{
    if (save(x, e)) return -1;
    printf("stopped after step %lld of %lld; ", (long long)x->t.step, (long long)x->t.c.n_steps);
    if (x->j.checkpoint)
        printf("saved in %s: the same command%s goes on from there\n", x->j.checkpoint,
               x->j.stop ? " with a later --stop, or none," : "");
    else
        puts("nothing is saved: there was no --checkpoint");
    return 0;
}

static int train(Train *x, Err *e)
{
    Net *t = &x->t;
    const Job *j = &x->j;
    int resumes = j->checkpoint && access(j->checkpoint, F_OK) == 0;
    if (resumes && checkpoint_read(t, j->checkpoint, x->hash, e)) return -1;
    if (!resumes && j->from && weights_read(t, j->from, e)) return -1;
    printf("%zu parameters, %zu tokens of text, %s, %d threads; from step %lld of %lld\n", t->n,
           x->text.n, t->k->name, t->n_threads, (long long)t->step, (long long)t->c.n_steps);
    if (t->step == 0 && in_list(j->snapshots, 0) && snapshot_write(x, e)) return -1;
    int rc = train_loop(x, e);
    status(x, "");
    if (rc) return -1;
    if (t->step < t->c.n_steps) return train_stopped(x, e);
    return j->out ? model_write(t, j->out, &x->vocab, x->type, e) : 0;
}

/* ---- speed */

/* Multiplications and additions of one token, forward and backward. A matrix of n values takes 2 n
 * forward and twice that backward; the head is one, the embedding is looked up. A query at place t
 * sees t + 1 keys, (T + 1) / 2 in the mean; scores and outputs take 2 operations per value of its
 * heads and key each, and again twice that backward. Not counted, though done: what is computed
 * above the diagonal, and once more on the way back. */
static double operations_per_token(const Net *t)
{
    const Recipe *c = &t->c;
    double matrices = (double)(c->n_vocab * c->n_embd); /* the head */
    for (int64_t l = 0; l < c->n_layers; l++)
        for (int i = 0; i < LAYER_PARTS; i++) {
            const Param *p = &t->layer[l][i];
            matrices += p->spread > 0 ? (double)p->rows * (double)p->cols : 0;
        }
    double keys = (double)(c->n_ctx + 1) / 2, Q = (double)(c->n_heads * c->head_dim);
    return 6 * matrices + 3 * (double)c->n_layers * 4 * Q * keys;
}

/* Operations per second of all threads in registers: the best of 5 passes of some 5 ms. */
static double peak_speed(const Net *t)
{
    double at = now(), done = t->k->peak_float(1000), best = 0;
    int n = 1 + (int)fmin(1000 * 5e-3 / (now() - at + 1e-9), 1e8);
    for (int pass = 0; pass < 5; pass++) {
        at = now();
#pragma omp parallel num_threads(t->n_threads)
        t->k->peak_float(n);
        best = fmax(best, done / 1000 * n * t->n_threads / (now() - at));
    }
    return best;
}

static int by_size(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* The median of --bench steps, after one that does not count. */
static int bench(Train *x, Err *e)
{
    Net *t = &x->t;
    const Recipe *c = &t->c;
    double *took = xcalloc((size_t)x->j.bench, sizeof *took), length, cpu = 0;
    double peak = peak_speed(t), tokens = (double)(c->n_batch * c->n_ctx);
    int64_t n = 0;
    train_step(t, &x->text, &length);
    for (; n < x->j.bench && !stopped; n++) {
        clock_t ticks = clock();
        double at = now();
        train_step(t, &x->text, &length);
        took[n] = now() - at;
        cpu += (double)(clock() - ticks) / CLOCKS_PER_SEC;
    }
    peak = fmax(peak, peak_speed(t));
    qsort(took, (size_t)n, sizeof *took, by_size);
    double step = n ? took[n / 2] : 0, work = operations_per_token(t);
    free(took);
    if (n == 0) return err_set(e, "--bench: interrupted before the first step was done");
    printf("layers %lld, embd %lld, heads %lld, kv-heads %lld, head-dim %lld, ff %lld, vocabulary "
           "%lld, tied %lld, biased %lld, ctx %lld, batch %lld, threads %d\n",
           (long long)c->n_layers, (long long)c->n_embd, (long long)c->n_heads,
           (long long)c->n_kv_heads, (long long)c->head_dim, (long long)c->n_ff,
           (long long)c->n_vocab, (long long)c->tied, (long long)c->biased, (long long)c->n_ctx,
           (long long)c->n_batch, t->n_threads);
    printf("%zu parameters, %s, %lld steps of %.0f tokens, the median: %.3f s\n", t->n, t->k->name,
           (long long)n, tokens, step);
    printf("%.0f tokens/s, %.0f per second of processor time\n", tokens / step,
           tokens * (double)n / cpu);
    printf("%.2f Mflop per token, %.1f Gflop/s: %.0f %% of the peak measured here, %.1f Gflop/s\n",
           work / 1e6, work * tokens / step / 1e9, 100 * work * tokens / step / peak, peak / 1e9);
    return 0;
}

static int prepare(Train *x, int argc, char **argv, Err *e)
{
    Job *j = &x->j;
    *j = (Job){.c = {.n_layers = 6,
                     .n_embd = 192,
                     .n_heads = 6,
                     .n_kv_heads = 2,
                     .head_dim = 32,
                     .n_ff = 512,
                     .n_ctx = 512,
                     .n_batch = 8,
                     .n_steps = 1000,
                     .n_warmup = 100,
                     .seed = 1,
                     .lr = 1e-3,
                     .lr_min = 1e-4,
                     .decay = 0.1,
                     .beta1 = 0.9,
                     .beta2 = 0.95,
                     .clip = 1,
                     .init = 1,
                     .init_embd = 1,
                     .init_qk = 1,
                     .decay_qk = 1},
               .rope = "plain",
               .pass = 2,
               .log = 20,
               .evaluate = 200,
               .windows = 32,
               .every = 200,
               .threads = omp_get_max_threads()};
    if (options_read(j, argc, argv, e)) return -1;
    if (!j->text || !j->vocab)
        return err_usage(e, "expected --text and --vocab, found no --%s; see --help",
                         j->text ? "vocab" : "text");
    if (j->snapshots && !j->out)
        return err_usage(e, "--snapshots: expected --out, which names them, found none");
    if (j->snapshots && list_check(j->snapshots, e)) return -1;
    if (place_check("out", j->out, e) || place_check("checkpoint", j->checkpoint, e)) return -1;
    if (strlen(j->rope) >= sizeof j->c.rope)
        return err_usage(e, "--rope: expected at most %zu characters, found %zu",
                         sizeof j->c.rope - 1, strlen(j->rope));
    snprintf(j->c.rope, sizeof j->c.rope, "%s", j->rope);
    if (recipe_check(&j->c, e) || (x->type = type_of(j, e)) < 0) return -1;
    if (texts_read(x, e) || recipe_check(&j->c, e)) return -1;
    if (j->pass > j->c.n_batch) j->pass = j->c.n_batch;
    return net_new(&x->t, &j->c, (int)j->threads, (int)j->pass, j->isa, e);
}

int main(int argc, char **argv)
{
    static Train x;
    Err e = {.usage = 0};
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            help();
            return 0;
        }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    int rc = prepare(&x, argc, argv, &e);
    if (rc == 0) rc = x.j.bench ? bench(&x, &e) : train(&x, &e);
    if (!rc && (fflush(stdout) || ferror(stdout)))
        rc = err_set(&e, "standard output: writing failed: %s", strerror(errno));
    if (rc) fprintf(stderr, "train: %s\n", e.msg);
    net_free(&x.t);
    if (x.vocab.path) gguf_close(&x.vocab);
    free(x.text.id);
    free(x.held.id);
    return rc ? e.usage ? 2 : 1 : stopped ? 128 + (int)stopped : 0;
}
