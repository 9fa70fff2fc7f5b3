/* Quantized weights of every family: the miniatures of tests/families made wider, so that rows are
 * whole blocks of 32, with random weights in Q8_0. What int8 activations add to the logits stays
 * within what their rounding explains, and batches, threads and instruction sets change no bit. */
#include "../model.h"
#include "check.h"
#include "family_names.h"
#include "gguf_builder.h"
#include "team.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_IDS = 14, WIDER = 8 }; /* rows of 8 values and more become rows of 64 and more */

/* Integers of a file, after the name of the architecture, that count values. */
static const char *const widths[] = {
    "embedding_length",           "feed_forward_length",
    "expert_feed_forward_length", "expert_shared_feed_forward_length",
    "attention.key_length",       "attention.value_length",
    "rope.dimension_count"};

static int is_width(const Model *m, const GgufKey *k)
{
    size_t skip = strlen(m->arch->name) + 1;
    for (size_t i = 0; i < sizeof widths / sizeof *widths && k->key.n > skip; i++)
        if (str_is((Str){k->key.s + skip, k->key.n - skip}, widths[i])) return 1;
    return 0;
}

static void add_keys(GgufBuilder *b, const Model *m)
{
    for (size_t i = 0; i < m->g.n_keys; i++) {
        const GgufKey *k = &m->g.keys[i];
        char name[128];
        uint32_t v = 0;
        snprintf(name, sizeof name, "%.*s", (int)k->key.n, k->key.s);
        if (is_width(m, k) && CHECK_MSG(k->type == GGUF_U32, "%s: type %d", name, (int)k->type)) {
            memcpy(&v, k->val, sizeof v);
            gb_key_u32(b, name, WIDER * v);
            continue;
        }
        if (k->type == GGUF_ARR)
            gb_key_arr(b, name, k->elem, k->n);
        else
            gb_key(b, name, k->type);
        bytes_add(&b->keys, (const char *)k->val, k->bytes);
    }
}

/* n values (a row of a matrix) in blocks of 2 + 32 bytes: d as F16, then q; a weight is d q. They
 * are uniform, of a root mean square of some 1 / sqrt(n). */
static void add_blocks(Bytes *out, int64_t n, Rng *r)
{
    float d = (float)(sqrt(3.0 / (double)n) / 127);
    uint16_t half;
    kernels_base.pack_f16(&half, &d, 1);
    for (int64_t i = 0; i < n; i++) {
        if (i % QB == 0) bytes_add(out, (const char *)&half, 2);
        char q = (char)rng_int(r, -127, 127);
        bytes_add(out, &q, 1);
    }
}

/* A vector or a router: the miniature's values again and again, a router's for fewer columns. */
static void add_floats(Bytes *out, const Tensor *t, int64_t n, double by)
{
    const float *was = (const float *)(const void *)t->data;
    int64_t n_was = (int64_t)(t->bytes / sizeof *was);
    for (int64_t i = 0; i < n; i++) {
        float v = (float)((double)was[i % n_was] * by);
        bytes_add(out, (const char *)&v, sizeof v);
    }
}

/* Sizes of a tensor: all are wider, but how many words, experts and gates there are. */
static void add_tensor(GgufBuilder *b, const Model *m, const Tensor *t, Rng *r)
{
    char name[80];
    Bytes data = {0};
    int64_t ne[3] = {WIDER * t->ne[0], t->ne[1], t->ne[2]};
    snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.s);
    int router = strstr(name, "ffn_gate_inp") != NULL, norm = strstr(name, "norm") != NULL;
    if (t->ne[0] == m->n_vocab) ne[0] = t->ne[0]; /* output.bias */
    if (t->n_dims > 1 && t->ne[1] != m->n_vocab && !router && !norm) ne[1] *= WIDER;
    int blocks = t->n_dims > 1 && !router && !norm;
    if (blocks)
        for (int64_t i = 0; i < ne[1] * ne[2]; i++) add_blocks(&data, ne[0], r);
    else
        add_floats(&data, t, ne[0] * ne[1], router ? 1 / sqrt(WIDER) : 1);
    gb_tensor(b, name, blocks ? T_Q8_0 : T_F32, t->n_dims, ne, data.s, data.n);
    free(data.s);
}

/* The miniature made wider; 0 if it loads. Its file is to be freed. */
static int wide_model(Model *m, const char *family, uint8_t **file)
{
    char path[128];
    Err e;
    Gguf g;
    Model small;
    GgufBuilder b = {0};
    Rng r = rng_new(11);
    size_t size;
    snprintf(path, sizeof path, "tests/families/%s.gguf", family);
    if (!CHECK_MSG(!model_open(&small, path, NULL, &e), "%s", e.msg)) return -1;
    add_keys(&b, &small);
    for (size_t i = 0; i < small.g.n_tensors; i++) add_tensor(&b, &small, &small.g.tensors[i], &r);
    *file = gb_finish(&b, &size);
    int ok = CHECK_MSG(!gguf_parse(&g, family, *file, size, &e) && !model_bind(m, &g, NULL, &e),
                       "%s", e.msg);
    model_close(&small);
    if (ok) team_wanted(m);
    return ok ? 0 : -1;
}

/* Logits [N_IDS][V] in batches of o.n_batch; from malloc. NULL: it does not run. */
static float *logits_of(const Model *m, StateOptions o)
{
    State s;
    Err e;
    int ids[N_IDS], team;
    size_t V = (size_t)m->n_vocab;
    Probe probe = team_probe(&team);
    o.n_ctx = N_IDS;
    if (!CHECK_MSG(!state_new(&s, m, &o, &e), "%s", e.msg)) return NULL;
    float *out = xcalloc(N_IDS * V, sizeof *out);
    s.probe = &probe;
    for (int i = 0; i < N_IDS; i++) ids[i] = (7 * i * i + 13 * i + 3) % m->n_vocab;
    for (int i = 0, n; i < N_IDS; i += n) {
        n = N_IDS - i < o.n_batch ? N_IDS - i : o.n_batch;
        forward(&s, ids + i, n, n);
        memcpy(out + (size_t)i * V, s.logits, (size_t)n * V * sizeof *out);
    }
    CHECK_MSG(team == team_expected(o.n_threads), "%d threads of %d", team, o.n_threads);
    CHECK(s.int8 == !o.exact);
    state_free(&s);
    return out;
}

/* Root mean square of a - b over that of b. */
static double distance(const float *a, const float *b, size_t n)
{
    double off = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        off += d * d, all += (double)b[i] * (double)b[i];
    }
    return sqrt(off / all);
}

/* Activations x of a block become whole multiples of max |x| / 127: errors that are uniform in half
 * of it each way, max |x| / 440 in root mean square, and as max |x| of 32 values is some 2.5 times
 * their root mean square, 0.57 % of them; so much of a product with random weights, too. On the way
 * to a logit lie four products a layer (q and k or v, output, up, down) and the last one, whose
 * errors are independent; softmax, gates and norms may double what goes through them. Measured: 0.3
 * to 0.7 of this. A wrong row, offset or scale is off by the size of the logits. */
static double explained(int n_layers)
{
    return 2 * 2.5 / 440 * sqrt(4 * n_layers + 1);
}

static void test_family(const char *family)
{
    uint8_t *file = NULL;
    Model m;
    if (wide_model(&m, family, &file)) {
        free(file);
        return;
    }
    size_t n = N_IDS * (size_t)m.n_vocab;
    float *exact = logits_of(&m, (StateOptions){.n_batch = 7, .n_threads = 1, .exact = 1});
    float *int8 = logits_of(&m, (StateOptions){.n_batch = 7, .n_threads = 1});
    double off = exact && int8 ? distance(int8, exact, n) : -1;
    if (getenv("TEST_VERBOSE")) printf("%s %d layers: %.4f\n", family, m.n_layers, off);
    CHECK_MSG(off > 0 && off <= explained(m.n_layers), "%s: %.3g", family, off);
    for (int i = 0; int8 && i < 6; i++)
        for (int k = 0; kernels_at(k); k++) {
            StateOptions o = {.n_batch = i % 2 ? 7 : 1, .n_threads = 1 + i / 2};
            o.isa = kernels_at(k)->name;
            if (!kernels_at(k)->usable()) continue;
            float *other = logits_of(&m, o);
            CHECK_MSG(other && !memcmp(int8, other, n * sizeof *int8),
                      "%s: batches of %d, %d threads, %s", family, o.n_batch, o.n_threads, o.isa);
            free(other);
        }
    free(exact), free(int8), free(file);
    model_close(&m);
}

int main(void)
{
    for (int i = 0; i < N_FAMILIES; i++) test_family(family_names[i]);
    return check_done();
}
