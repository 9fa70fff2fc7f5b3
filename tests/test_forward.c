/* The forward pass: against the reference in double, and against itself: the bits of the logits
 * must not depend on threads, batches, the instruction set or a probe. */
#include "../model.h"

#include "check.h"
#include "ref.h"

#include <string.h>

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
} Config;

/* Logits [n][V] of a fresh timeline, in batches. From malloc. */
static float *logits_of(const Model *m, const int *ids, int n, const Config *c)
{
    State s;
    Err e;
    StateOptions o = {
        .n_ctx = n, .n_batch = c->batch, .n_threads = c->threads, .exact = c->exact, .isa = c->isa};
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
    long q[4][8], k[4][8], rows[4][8], resid;
    int last[4][8], bad;
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

static void see_attn(void *ctx, int l, int h, int pos, int t0, const float *scores,
                     const float *weights, const float *out)
{
    Seen *s = ctx;
    double sum = 0, best = 0;
    int n = pos - t0 + 1, top = 0;
    for (int t = 0; t < n; t++) {
        sum += (double)weights[t];
        top = scores[t] > scores[top] ? t : top;
        best = fmax(best, (double)weights[t]);
    }
    s->bad |= s->last[l][h]++ != pos;  /* positions ascend */
    s->bad |= !(fabs(sum - 1) < 1e-5); /* weights are normalised, and fit the scores */
    s->bad |= (double)weights[top] < best || !isfinite(out[0]);
    s->rows[l][h]++;
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

/* Configuration j of 24: threads, batch, probe. The last instance, which is the one in use, is
 * tried in all; the others in every fifth, which covers every value of each. */
static void same_on(const char *what, const Model *m, const Kernels *k, int n, const int *ids,
                    Config c, uint64_t want)
{
    static const int threads[] = {1, 2, 4}, batches[] = {1, 3, 7, MAX_TOKENS};
    int last = 0;
    while (kernels_at(last + 1) && kernels_at(last + 1)->usable()) last++;
    for (int j = 0; j < 24; j += k == kernels_at(last) ? 1 : 5) {
        Seen seen = {.resid = 0};
        Probe p = {PROBE_QK | PROBE_ATTN | PROBE_RESID, &seen, see_q, see_k, see_attn, see_resid};
        c = (Config){k->name, c.exact, threads[j % 3], batches[j / 3 % 4], j >= 12 ? &p : NULL};
        if (c.batch > n) c.batch = n;
        uint64_t got = hash_of(m, ids, n, &c);
        CHECK_MSG(got == want, "%s, %s: %s, %d threads, batches of %d, probe %d: other bits", what,
                  c.exact ? "exact" : "int8", c.isa, c.threads, c.batch, j >= 12);
        if (c.probe) check_seen(&seen, m, n);
    }
}

/* Every configuration gives the bits of the base instance on one thread, token by token. */
static void same_everywhere(const char *what, const Model *m, int n, int exact)
{
    int ids[MAX_TOKENS];
    Config c = {"base", exact, 1, 1, NULL};
    pick_ids(ids, n, m->n_vocab, 77);
    uint64_t want = hash_of(m, ids, n, &c);
    for (int i = 0; kernels_at(i); i++)
        if (kernels_at(i)->usable()) same_on(what, m, kernels_at(i), n, ids, c, want);
}

static void test_same_bits(void)
{
    static const int types[] = {T_F32, T_F16, T_Q4_0, T_Q5_1, T_Q8_0, T_Q4_K, T_Q6_K};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        int K = tensor_type(types[i])->block == 256;
        TinyModel t = {.n_layers = K ? 1 : 2,
                       .n_embd = K ? 256 : 128,
                       .n_heads = 4,
                       .n_kv_heads = 2,
                       .head_dim = K ? 64 : 32,
                       .n_ff = K ? 256 : 352,
                       .n_vocab = 300,
                       .biases = 1,
                       .type = types[i],
                       .embd_type = types[i],
                       .seed = i};
        Loaded x; /* over 400,000 parameters: enough work for 4 threads even with one token */
        if (!load(&x, &t)) continue;
        same_everywhere(tensor_type(types[i])->name, &x.m, 11, 1);
        if (tensor_type(types[i])->block > 1)
            same_everywhere(tensor_type(types[i])->name, &x.m, 11, 0);
        unload(&x);
    }
}

/* More keys than one partial sum, more queries than one block, with and without a window. */
static void test_same_bits_long(void)
{
    for (int window = 0; window <= 90; window += 90) {
        TinyModel t = {.n_layers = 2,
                       .n_embd = 24,
                       .n_heads = 4,
                       .n_kv_heads = 2,
                       .head_dim = 6,
                       .n_ff = 20,
                       .n_vocab = 17,
                       .window = window,
                       .seed = 5};
        Loaded x;
        if (!load(&x, &t)) continue;
        same_everywhere(window ? "long, window" : "long", &x.m, MAX_TOKENS - 3, 1);
        unload(&x);
    }
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
    Config c = {NULL, 1, 1, 10, NULL};
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
            Config c = {kernels_at(k)->name, 1, 1, 8, NULL};
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

int main(void)
{
    test_shapes();
    test_weight_types();
    test_negative_control();
    test_stories();
    test_same_bits();
    test_same_bits_long();
    test_rows_and_reset();
    test_golden();
    return check_done();
}
