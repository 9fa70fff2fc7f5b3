/* The forward pass: against the reference in double, and against itself: the bits of the logits
 * must not depend on threads, batches, the instruction set or a probe. */
#include "../model.h"

#include "check.h"
#include "ref.h"

#include <string.h>
#include <unistd.h>

#define U          0x1p-24
#define MAX_TOKENS 320

/* ---------------------------------------------------------------- one model, one run */

typedef struct {
    uint8_t *file;
    size_t size;
    Model m;
} Loaded;

static int load(Loaded *x, const TinyModel *t)
{
    Gguf g;
    Err e;
    x->file = tiny_model(t, &x->size);
    if (gguf_parse(&g, "tiny.gguf", x->file, x->size, &e) == 0 &&
        model_bind(&x->m, &g, NULL, &e) == 0)
        return 1;
    CHECK_MSG(0, "%s", e.msg);
    free(x->file);
    return 0;
}

static void unload(Loaded *x)
{
    model_close(&x->m);
    free(x->file);
}

static void pick_ids(int *ids, int n, int n_vocab, uint64_t seed)
{
    Rng r = {seed};
    for (int i = 0; i < n; i++) ids[i] = rng_int(&r, 0, n_vocab - 1);
}

typedef struct {
    const char *isa;
    int exact, threads, batch;
    const Probe *probe;
    int kv_type; /* T_F32 or T_F16 */
} Config;

/* Logits [n][V] of a fresh timeline, in batches. From malloc. */
static float *logits_of(const Model *m, const int *ids, int n, const Config *c)
{
    State s;
    Err e;
    StateOptions o = {.n_ctx = n,
                      .n_batch = c->batch,
                      .n_threads = c->threads,
                      .exact = c->exact,
                      .kv_type = c->kv_type,
                      .isa = c->isa};
    size_t V = (size_t)m->n_vocab;
    float *out = xcalloc((size_t)n * V, sizeof *out);
    if (state_new(&s, m, &o, &e) < 0) {
        CHECK_MSG(0, "%s", e.msg);
        return out;
    }
    s.probe = c->probe;
    for (int i = 0; i < n; i += c->batch) {
        int k = n - i < c->batch ? n - i : c->batch;
        forward(&s, ids + i, k, k);
        memcpy(out + (size_t)i * V, s.logits, (size_t)k * V * sizeof *out);
    }
    CHECK_MSG(s.pos == n, "position %d after %d tokens", s.pos, n);
    state_free(&s);
    return out;
}

static uint64_t hash_of(const Model *m, const int *ids, int n, const Config *c)
{
    float *l = logits_of(m, ids, n, c);
    uint64_t h = hash_bytes(l, (size_t)n * (size_t)m->n_vocab * sizeof *l);
    free(l);
    return h;
}

/* ---------------------------------------------------------------- against double precision */

/* Relative to the largest logit. A stage (7 products, 2 norms, rotation, softmax, silu: 12 in a
 * layer, and the last norm and product) rounds each term of a sum over n inputs at most n / 32 + 9
 * times, by U at most; stages add up. Cancellation in a sum of random signs makes relative errors
 * sqrt(n) larger, and that roundings have random signs too makes them smaller by as much.
 * Measured: at most an eighth of this. */
static double exact_tolerance(const Model *m)
{
    int widest = m->max_ff > m->n_embd ? m->max_ff : m->n_embd;
    return (12 * m->n_layers + 2) * (widest / 32 + 9) * U;
}

/* In int8 mode the reference quantizes activations as well, and still one of them that lies on the
 * edge between two integers may fall to the other side: a step of max / 127 in one of n inputs,
 * about 2.5 / 127 / sqrt(n) of an output, 0.002 for n = 96. Room for two of them. Measured, with
 * these seeds: none, 1e-6. A wrong scale or minimum anywhere is above 0.05. */
#define INT8_TOLERANCE 0.005

/* Largest difference over the largest logit; NaN if anything is NaN. */
static double distance(const float *a, const double *b, size_t n)
{
    double max = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= max)) max = d;
        if (!isfinite(d)) return (double)NAN;
        size = fmax(size, fabs(b[i]));
    }
    return max / size;
}

static double distance_to_ref(const Model *m, const int *ids, int n, int exact, const RefOptions *o)
{
    Config c = {.exact = exact, .threads = 2, .batch = 5};
    size_t V = (size_t)m->n_vocab;
    double *want = xcalloc((size_t)n * V, sizeof *want);
    float *got = logits_of(m, ids, n, &c);
    CHECK(ref_forward_gguf(&m->g, ids, n, want, o) == 0);
    double d = distance(got, want, (size_t)n * V);
    free(want);
    free(got);
    return d;
}

static void against_ref(const char *what, const TinyModel *t, int n)
{
    static const RefOptions as_int8 = {.int8 = 1};
    int ids[MAX_TOKENS];
    Loaded x;
    if (!load(&x, t)) return;
    pick_ids(ids, n, t->n_vocab, t->seed);
    double d = distance_to_ref(&x.m, ids, n, 1, NULL), tol = exact_tolerance(&x.m);
    CHECK_MSG(d <= tol, "%s: exact logits differ from the reference by %.3g > %.3g", what, d, tol);
    d = distance_to_ref(&x.m, ids, n, 0, &as_int8);
    CHECK_MSG(d <= INT8_TOLERANCE, "%s: int8 logits differ from the reference by %.3g", what, d);
    unload(&x);
}

static void test_shapes(void)
{
    static const struct {
        const char *what;
        TinyModel t;
    } rows[] = {
        {"grouped queries, tied", {NULL, 2, 64, 4, 2, 16, 172, 100, .seed = 1}},
        {"untied, biases", {NULL, 2, 60, 3, 3, 20, 172, 100, .untied = 1, .biases = 1, .seed = 2}},
        {"heads of 6 values", {NULL, 2, 18, 3, 1, 6, 172, 17, .seed = 3}},
        {"heads of 64 values", {NULL, 1, 128, 2, 1, 64, 33, 50, .biases = 1, .seed = 4}},
        {"heads narrower than E / H", {NULL, 2, 48, 2, 2, 16, 40, 50, .seed = 5}},
        {"heads wider than E / H", {NULL, 2, 24, 3, 3, 16, 100, 50, .seed = 6}},
        {"three layers", {NULL, 3, 32, 4, 4, 8, 86, 40, .untied = 1, .seed = 7}},
        {"window of 5", {NULL, 2, 32, 4, 2, 8, 86, 40, .window = 5, .seed = 8}},
        {"window of 1", {NULL, 2, 32, 4, 2, 8, 86, 40, .window = 1, .seed = 9}},
        {"Llama 3 factors",
         {NULL, 2, 64, 2, 1, 32, 86, 40, .factors = 1, .base = 500000, .seed = 10}},
        {"linear scaling", {NULL, 2, 32, 4, 2, 8, 86, 40, .linear = 4, .seed = 11}},
        {"linear scaling and factors",
         {NULL, 2, 32, 2, 2, 16, 9, 9, .linear = 2, .factors = 1, .seed = 12}},
        {"partial rotation", {NULL, 2, 32, 2, 2, 16, 86, 40, .n_rot = 8, .seed = 13}},
        {"half precision",
         {NULL, 2, 40, 5, 1, 8, 60, 40, .type = T_F16, .embd_type = T_F16, .seed = 14}},
        {"bfloat16",
         {NULL, 2, 40, 5, 5, 8, 60, 40, .type = T_BF16, .embd_type = T_BF16, .seed = 15}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        against_ref(rows[i].what, &rows[i].t, 12);
        against_ref(rows[i].what, &rows[i].t, 1);
    }
    against_ref("longer than two sums of 256 keys",
                &(TinyModel){NULL, 1, 16, 2, 1, 8, 12, 20, .seed = 16}, MAX_TOKENS);
}

static void test_weight_types(void)
{
    static const int types[] = {T_Q4_0, T_Q4_1, T_Q5_0, T_Q5_1, T_Q8_0, T_IQ4_NL,
                                T_Q2_K, T_Q3_K, T_Q4_K, T_Q5_K, T_Q6_K, T_IQ4_XS};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const TensorType *type = tensor_type(types[i]);
        int K = type->block == 256;
        TinyModel t = {.n_layers = K ? 1 : 2,
                       .n_embd = K ? 256 : 96,
                       .n_heads = K ? 4 : 3,
                       .n_kv_heads = K ? 2 : 1,
                       .head_dim = K ? 64 : 32,
                       .n_ff = K ? 256 : 160,
                       .n_vocab = 61,
                       .type = types[i],
                       .embd_type = types[i],
                       .biases = i % 2,
                       .untied = i % 3 == 0,
                       .seed = 100 + i};
        against_ref(type->name, &t, 9);
    }
}

/* The comparison can fail: turning the angles of the reference the wrong way is seen. */
static void test_negative_control(void)
{
    static const RefOptions flip = {.flip = 1};
    TinyModel t = {.n_layers = 2,
                   .n_embd = 64,
                   .n_heads = 4,
                   .n_kv_heads = 2,
                   .head_dim = 16,
                   .n_ff = 172,
                   .n_vocab = 100,
                   .seed = 1};
    int ids[12];
    Loaded x;
    if (!load(&x, &t)) return;
    pick_ids(ids, 12, 100, 1);
    /* q and k turn alike, so only where positions differ: not in a sequence of one token */
    CHECK(distance_to_ref(&x.m, ids, 12, 1, &flip) > 1000 * exact_tolerance(&x.m));
    CHECK(distance_to_ref(&x.m, ids, 1, 1, &flip) <= exact_tolerance(&x.m));
    unload(&x);
}

static const char *shared_file(const char *name, char *buf, size_t n)
{
    const char *dir = getenv("ROPESCOPE_SHARED");
    snprintf(buf, n, "%s/%s", dir ? dir : "../shared", name);
    FILE *f = fopen(buf, "rb");
    if (f) fclose(f);
    return f ? buf : NULL;
}

/* A trained model (260 thousand parameters), 64 tokens. */
static void test_stories(void)
{
    char buf[1024];
    const char *path = shared_file("data/models/stories260K.gguf", buf, sizeof buf);
    Model m;
    Err e;
    int ids[64];
    if (!path) {
        check_skip("stories260K: no data/models/stories260K.gguf in ../shared (ROPESCOPE_SHARED)");
        return;
    }
    if (!CHECK_MSG(model_open(&m, path, NULL, &e) == 0, "%s", e.msg)) return;
    pick_ids(ids, 64, m.n_vocab, 260);
    ids[0] = 1;
    double d = distance_to_ref(&m, ids, 64, 1, NULL), tol = exact_tolerance(&m);
    CHECK_MSG(d <= tol, "stories260K differs from the reference by %.3g > %.3g", d, tol);
    model_close(&m);
}

/* ---------------------------------------------------------------- the same bits */

/* What a probe was shown, per layer and head. */
typedef struct {
    long q[4][10], k[4][10], rows[4][10], resid;
    int last[4][10], bad;
    const Model *m;
} Seen;

static void see_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q, size_t stride)
{
    Seen *s = ctx;
    s->q[l][h] += n;
    s->bad |= stage != BEFORE_ROPE && stage != AFTER_ROPE;
    s->bad |= !isfinite(q[(size_t)(n - 1) * stride]) || pos < 0;
}

static void see_k(void *ctx, int l, int h, int stage, int pos, int n, const float *k, size_t stride)
{
    Seen *s = ctx;
    s->k[l][h] += n;
    s->bad |= stage != BEFORE_ROPE && stage != AFTER_ROPE;
    s->bad |= !isfinite(k[(size_t)(n - 1) * stride]) || pos < 0;
}

static void see_attn(void *ctx, const AttnRow *r)
{
    Seen *s = ctx;
    double sum = 0, best = 0, own = 0, size = 0;
    int n = r->n_t, top = 0;
    for (int t = 0; t < n; t++) {
        sum += (double)r->weights[t];
        top = r->scores[t] > r->scores[top] ? t : top;
        best = fmax(best, (double)r->weights[t]);
    }
    for (int c = 0; c < s->m->head_dim; c++) {
        own += (double)r->q[c] * (double)r->k[c];
        size += fabs((double)r->q[c] * (double)r->k[c]);
    }
    s->bad |= r->t0 + n != r->pos + 1 || s->last[r->l][r->h]++ != r->pos; /* positions ascend */
    s->bad |= !(fabs(sum - 1) < 1e-5); /* weights are normalised, and fit the scores */
    s->bad |= (double)r->weights[top] < best || !isfinite(r->out[0]);
    /* The token's own key, of float16's 11 bits at worst where the cache has them. */
    double scale = (double)s->m->score_scale;
    s->bad |= !(fabs((double)r->scores[n - 1] - scale * own) <= 1e-3 * scale * size + 1e-30);
    s->rows[r->l][r->h]++;
}

static void see_resid(void *ctx, int l, int pos, int n, const float *x, size_t stride)
{
    Seen *s = ctx;
    s->resid += n;
    s->bad |= l < 0 || pos < 0 || !isfinite(x[(size_t)(n - 1) * stride]);
}

static void check_seen(const Seen *s, const Model *m, int n)
{
    CHECK_MSG(!s->bad, "a probe was shown something else than promised");
    CHECK_MSG(s->resid == (long)n * m->n_layers, "residual shown %ld times", s->resid);
    for (int l = 0; l < m->n_layers; l++) {
        for (int h = 0; h < m->layer[l].n_heads; h++)
            CHECK_MSG(s->q[l][h] == 2L * n && s->rows[l][h] == n,
                      "layer %d head %d: %ld queries, %ld rows", l, h, s->q[l][h], s->rows[l][h]);
        for (int h = 0; h < m->layer[l].n_kv_heads; h++)
            CHECK_MSG(s->k[l][h] == 2L * n, "layer %d kv head %d: %ld keys", l, h, s->k[l][h]);
    }
}

/* One model, and the hashes of its logits with a cache of float32 and of float16. Those in int8
 * are 0 for types that have no such mode. */
typedef struct {
    TinyModel t;
    uint64_t exact[2], int8[2];
} Entry;

/* Each weight type with kernels of its own, and two without. Heads in groups of 2 to 5; rows with
 * tails, of an odd number of blocks, and of one and two blocks of 256; windows that end within the
 * first sum of 256 keys, and behind it. As with `golden` below, a hash that changes is a change of
 * the canonical arithmetic; being constants, they compare compilers and processors as well. */
static const Entry matrix[] = {
    {{NULL, 2, 128, 8, 2, 16, 256, 61, .seed = 1},
     {0x6763775f120e6b34, 0x56f554d606588751},
     {0, 0}},
    {{NULL, 2, 60, 6, 3, 10, 172, 37, .window = 90, .untied = 1, .seed = 2},
     {0x438173e3c7d8a4eb, 0xfaed5a76cf731192},
     {0, 0}},
    {{NULL, 1, 120, 4, 2, 30, 172, 61, .type = T_F16, .embd_type = T_F16, .seed = 3},
     {0xb20ab05bb74edefb, 0x3cc4fbb343be789d},
     {0, 0}},
    {{NULL, 1, 128, 4, 1, 32, 344, 61, .type = T_BF16, .embd_type = T_BF16, .window = 270,
      .seed = 4},
     {0x6cf98d46b2485d70, 0x77380ba4e5f7eff5},
     {0, 0}},
    {{NULL, 1, 160, 10, 2, 16, 544, 61, .type = T_Q8_0, .embd_type = T_Q8_0, .biases = 1,
      .seed = 5},
     {0xed1a5168e4d0e90b, 0xc48ede4f5421760a},
     {0x92921de504d455ed, 0x547dbc6fb8fa60f6}},
    {{NULL, 1, 160, 10, 2, 16, 352, 61, .type = T_Q4_0, .embd_type = T_Q4_0, .window = 90,
      .seed = 6},
     {0x3f98b7e9aa79bd12, 0xdde7c88ff1ee4fe4},
     {0x363945294bac918b, 0x8af094faf0cde825}},
    {{NULL, 1, 160, 10, 2, 16, 352, 61, .type = T_Q4_1, .embd_type = T_Q4_1, .seed = 7},
     {0x7da950c717368b17, 0x1d4a027d250490e7},
     {0x258cdc2940175de8, 0xc0db48199111a697}},
    {{NULL, 1, 160, 10, 2, 16, 352, 61, .type = T_Q5_0, .embd_type = T_Q5_0, .seed = 8},
     {0xc714e1c7aa9169e4, 0x69c79db625e142ae},
     {0x84fc4b31f047c231, 0xadf162d087846a29}},
    {{NULL, 1, 256, 8, 2, 32, 512, 61, .type = T_Q4_K, .embd_type = T_Q4_K, .seed = 9},
     {0xdaba0b107552e233, 0x1a0ced299c21ea6a},
     {0xb229616ba62269cc, 0x6b5da451fa05a6b9}},
    {{NULL, 1, 256, 8, 2, 32, 256, 61, .type = T_Q5_K, .embd_type = T_Q5_K, .window = 270,
      .seed = 10},
     {0xad09392c3f57e601, 0x61c1c6749dbf1afd},
     {0x73bb4535b9c165ee, 0x05ffc5cd4876f6c6}},
    {{NULL, 1, 256, 8, 2, 32, 256, 61, .type = T_Q6_K, .embd_type = T_Q6_K, .biases = 1,
      .seed = 11},
     {0xcec6a66438f617b8, 0xc25665ccbef74492},
     {0x0209a74f1beb3097, 0x10cdf334042dd564}},
};

static const int threads_of[] = {1, 2, 3, 4}, batches_of[] = {1, 7, 512};
#define N_CELLS 24 /* threads x batches x probe */

/* Cell j, of 300 tokens. */
static void check_cell(const Entry *en, const Model *m, Config c, int j)
{
    enum { N = 300 };
    int ids[N], f16 = c.kv_type == T_F16, batch = batches_of[j / 4 % 3];
    uint64_t want = c.exact ? en->exact[f16] : en->int8[f16];
    Seen seen = {.m = m};
    Probe p = {PROBE_QK | PROBE_ATTN | PROBE_RESID, &seen, see_q, see_k, see_attn, see_resid};
    pick_ids(ids, N, m->n_vocab, 77);
    c.threads = threads_of[j % 4];
    c.batch = batch < N ? batch : N;
    c.probe = j >= N_CELLS / 2 ? &p : NULL;
    uint64_t got = hash_of(m, ids, N, &c);
    CHECK_MSG(
        got == want, "%s (seed %d), %s, cache %s: %s, %d threads, batch %d, probe %d: 0x%016llx",
        tensor_type(en->t.type)->name, (int)en->t.seed, c.exact ? "exact" : "int8",
        f16 ? "f16" : "f32", c.isa, c.threads, batch, c.probe != NULL, (unsigned long long)got);
    if (c.probe) check_seen(&seen, m, N);
}

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* The instance in use, which is the last one, takes all cells; the others a diagonal, every fifth,
 * which has every value of each. With a float16 cache all take a diagonal, another one. The base
 * instance is 50 times as slow: one thread in one batch, without a probe; then, float16, 4 threads
 * token by token with one. Sanitized, or with `few`: the last instance takes the diagonals, the
 * others that of float32. (On processors that others use too, two threads that spin in OpenMP's
 * barrier take 100 times as long: OMP_WAIT_POLICY=passive.) */
static int wanted(int k, int last, int f16, int j, int few)
{
    if (few && f16 && k != last) return 0;
    if (k == 0) return j == (f16 ? 15 : 8);
    if (k == last && !f16 && !few) return 1;
    return j % 5 == (f16 ? 3 : 0);
}

static void check_entry(const Entry *en, int few)
{
    int last = 0, modes = en->int8[0] ? 2 : 1;
    Loaded x;
    if (!load(&x, &en->t)) return;
    x.m.n_params = 1u << 30; /* `forward` leaves threads out where there is little to do */
    while (kernels_at(last + 1) && kernels_at(last + 1)->usable()) last++;
    for (int i = 0; i < (last + 1) * modes * 2 * N_CELLS; i++) {
        int j = i % N_CELLS, f16 = i / N_CELLS % 2, mode = i / N_CELLS / 2 % modes;
        int k = i / N_CELLS / 2 / modes;
        Config c = {.isa = kernels_at(k)->name, .exact = !mode, .kv_type = f16 ? T_F16 : T_F32};
        if (wanted(k, last, f16, j, few)) check_cell(en, &x.m, c, j);
    }
    unload(&x);
}

/* Instances x threads x batches x probe x cache: one hash per model and mode. */
static void test_matrix(int n_names, char **names)
{
    for (size_t i = 0; i < sizeof matrix / sizeof *matrix; i++) {
        int named = !n_names;
        for (int a = 0; a < n_names; a++)
            named |= strcmp(names[a], tensor_type(matrix[i].t.type)->name) == 0;
        if (named) check_entry(&matrix[i], n_names || SANITIZED);
    }
}

/* More threads than processors, and than there are pieces to share out: the waiting ends, always.
 * 200 passes of one token, 3 to 16 threads; a hang is ended by the alarm. */
static void test_team(void)
{
    static const int teams[] = {3, 4, 16};
    int ids[50];
    Loaded x;
    if (!load(&x, &(TinyModel){NULL, 2, 32, 4, 2, 8, 86, 40, .seed = 21})) return;
    x.m.n_params = 1u << 30;
    pick_ids(ids, 50, 40, 5);
    uint64_t want = hash_of(&x.m, ids, 50, &(Config){.exact = 1, .threads = 1, .batch = 50});
    alarm(120);
    for (int round = 0; round < 12; round++) {
        Config c = {.exact = 1, .threads = teams[round % 3], .batch = 1};
        CHECK_MSG(hash_of(&x.m, ids, 50, &c) == want, "%d threads: other bits", c.threads);
    }
    alarm(0);
    unload(&x);
}

/* Two timelines of one model, in turns: each as if it were alone. */
static void test_two_states(void)
{
    int ids[40];
    State s[2];
    Err e;
    Loaded x;
    if (!load(&x, &(TinyModel){NULL, 2, 32, 4, 2, 8, 96, 40, .type = T_Q8_0, .seed = 22})) return;
    x.m.n_params = 1u << 30;
    pick_ids(ids, 40, 40, 6);
    for (int i = 0; i < 2; i++) {
        StateOptions o = {.n_ctx = 40, .n_threads = 3 - i, .exact = i};
        if (!CHECK_MSG(state_new(&s[i], &x.m, &o, &e) == 0, "%s", e.msg)) exit(check_done());
    }
    for (int at = 0; at < 20; at += 4)
        for (int i = 0; i < 2; i++) forward(&s[i], ids + 20 * i + at, 4, 4);
    for (int i = 0; i < 2; i++) {
        Config c = {.exact = i, .threads = 1, .batch = 20};
        float *want = logits_of(&x.m, ids + 20 * i, 20, &c);
        CHECK_CLOSE(s[i].logits, want + (size_t)16 * 40, 4 * 40, 0);
        free(want);
        state_free(&s[i]);
    }
    unload(&x);
}

/* Asking for fewer rows, starting again, and a window as wide as the text change nothing. */
static void test_rows_and_reset(void)
{
    TinyModel t = {.n_layers = 2,
                   .n_embd = 32,
                   .n_heads = 4,
                   .n_kv_heads = 2,
                   .head_dim = 8,
                   .n_ff = 86,
                   .n_vocab = 40,
                   .seed = 3};
    int ids[10];
    State s;
    Err e;
    Loaded x, wide;
    StateOptions o = {.n_ctx = 10, .n_threads = 1, .exact = 1};
    Config c = {.exact = 1, .threads = 1, .batch = 10};
    if (!load(&x, &t)) return;
    pick_ids(ids, 10, 40, 4);
    float *want = logits_of(&x.m, ids, 10, &c);
    CHECK(state_new(&s, &x.m, &o, &e) == 0);
    for (int round = 0; round < 2; round++) {
        forward(&s, ids, 4, 0);
        forward(&s, ids + 4, 6, 2);
        CHECK_CLOSE(s.logits, want + 8 * 40, 80, 0);
        state_reset(&s);
    }
    state_free(&s);
    free(want);
    uint64_t h = hash_of(&x.m, ids, 10, &c);
    t.window = 10;
    if (load(&wide, &t)) {
        CHECK_MSG(hash_of(&wide.m, ids, 10, &c) == h, "a window of all keys changes the bits");
        unload(&wide);
    }
    unload(&x);
}

/* ---------------------------------------------------------------- the arithmetic stays */

/* Hashes of the logits of fixed models. They are the same for gcc and clang, with and without
 * OpenMP, on every instruction set. A change here is a change of the canonical arithmetic:
 * say so in the commit that changes them. */
static const struct {
    const char *what;
    int type;
    uint64_t exact, int8;
} golden[] = {
    {"F32", T_F32, 0x68046fd033e5ab8b, 0x68046fd033e5ab8b},
    {"BF16", T_BF16, 0x044790aec7df9886, 0x044790aec7df9886},
    {"Q4_0", T_Q4_0, 0xe78b54a9e426d87b, 0x43727966c0693fd1},
    {"Q5_1", T_Q5_1, 0xbecb6492c6110ed0, 0x6c53207a5569c8f0},
    {"Q8_0", T_Q8_0, 0x0d31d59d80c86157, 0xff9a364f87884673},
    {"Q4_K", T_Q4_K, 0xfea1ea00506ab5b3, 0xe98f45c09753e37a},
    {"Q6_K", T_Q6_K, 0x01e69b534f984ed2, 0xe60d28e13926ca75},
};

static void test_golden(void)
{
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        TinyModel t = {.n_layers = 2,
                       .n_embd = 256,
                       .n_heads = 8,
                       .n_kv_heads = 2,
                       .head_dim = 32,
                       .n_ff = 256,
                       .n_vocab = 41,
                       .biases = 1,
                       .factors = 1,
                       .type = golden[i].type,
                       .embd_type = golden[i].type,
                       .seed = 20240229};
        Loaded x;
        int ids[8];
        if (!load(&x, &t)) continue;
        pick_ids(ids, 8, 41, 1);
        for (int k = 0; kernels_at(k); k++) {
            if (!kernels_at(k)->usable()) continue;
            Config c = {.isa = kernels_at(k)->name, .exact = 1, .threads = 1, .batch = 8};
            uint64_t exact = hash_of(&x.m, ids, 8, &c);
            c.exact = 0;
            uint64_t int8 = hash_of(&x.m, ids, 8, &c);
            CHECK_MSG(exact == golden[i].exact && int8 == golden[i].int8,
                      "%s on %s: {\"%s\", T_%s, 0x%016llx, 0x%016llx},", golden[i].what, c.isa,
                      golden[i].what, golden[i].what, (unsigned long long)exact,
                      (unsigned long long)int8);
        }
        unload(&x);
    }
}

/* With names of weight types: their part of the matrix, a diagonal of it, and the golden hashes. */
int main(int argc, char **argv)
{
    test_golden();
    test_matrix(argc - 1, argv + 1);
    test_team();
    test_two_states();
    if (argc > 1) return check_done();
    test_shapes();
    test_weight_types();
    test_negative_control();
    test_stories();
    test_rows_and_reset();
    return check_done();
}
