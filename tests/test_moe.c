/* Mixtures of experts: against the dense network that a mixture of one expert is, against other
 * ways of writing the same file, and against itself: the bits of the logits must not depend on
 * threads, batches or the instruction set.
 * That the arithmetic is the right one, test_families.c shows. */
#include "../model.h"

#include "check.h"
#include "gguf_builder.h"
#include "ref.h"
#include "team.h"

#include <string.h>

enum { N_IDS = 40, MAX_X = 8 };
enum { ROUTER_RANDOM, ROUTER_ZERO, ROUTER_NAN };

/* A model made of random dense ones: expert x has the feed-forward network of the one of seed
 * t.seed + first + x, the rest is of seed t.seed. Zero: as usual. */
typedef struct {
    TinyModel t;
    int X, U, first, router;
    int apart;      /* a tensor for each expert, as old files have it */
    int dequantize; /* experts as F32 */
    int plain;      /* expert_weights_norm false */
    double scale;   /* expert_weights_scale */
    double down;    /* matrices down, which are F32 then, times this */
    /* Files that are wrong. */
    int say_count, say_used, say_width, gating, groups; /* -1: the key is left out */
    const char *leave_out, *extra;                      /* tensors; extra is F32 [E, F] */
    const char *flat;                                   /* one that lacks its last row */
} Mix;

static void key(GgufBuilder *b, const Mix *x, const char *name, int v)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", x->t.arch, name);
    if (v > 0) gb_key_u32(b, full, (uint32_t)v);
}

static int said(int say, int usual)
{
    return say ? say : usual;
}

static void add_keys(GgufBuilder *b, const Mix *x)
{
    const TinyModel *t = &x->t;
    char full[96];
    gb_key_str(b, "general.architecture", t->arch);
    key(b, x, "context_length", 64);
    key(b, x, "embedding_length", t->n_embd);
    key(b, x, "block_count", t->n_layers);
    key(b, x, "feed_forward_length", t->n_ff);
    key(b, x, "attention.head_count", t->n_heads);
    key(b, x, "attention.head_count_kv", t->n_kv_heads);
    key(b, x, "attention.key_length", t->head_dim);
    key(b, x, "expert_count", said(x->say_count, x->X));
    key(b, x, "expert_used_count", said(x->say_used, x->U));
    key(b, x, "expert_feed_forward_length", said(x->say_width, t->n_ff));
    key(b, x, "expert_gating_func", x->gating);
    key(b, x, "expert_group_count", x->groups);
    snprintf(full, sizeof full, "%s.attention.layer_norm_rms_epsilon", t->arch);
    gb_key_f32(b, full, 1e-5f);
    snprintf(full, sizeof full, "%s.expert_weights_norm", t->arch);
    if (x->plain) gb_key_bool(b, full, 0);
    snprintf(full, sizeof full, "%s.expert_weights_scale", t->arch);
    if (x->scale > 0) gb_key_f32(b, full, (float)x->scale);
}

/* The rows of a tensor as floats, times `by`. From malloc. */
static float *floats_of(const Tensor *t, double by)
{
    size_t n = (size_t)t->ne[0], rows = (size_t)t->ne[1];
    const TensorType *type = tensor_type(t->type);
    float *v = xcalloc(n * rows, sizeof *v);
    Q32 *q = xcalloc(n / QB + 1, sizeof *q);
    for (size_t r = 0; r < rows; r++) {
        const uint8_t *row = t->data + r * t->row_bytes;
        if (type->unpack) {
            type->unpack(q, row, (int)n / QB);
            kernels_base.unpack_q32(v + r * n, q, (int)n / QB);
        } else {
            memcpy(v + r * n, row, n * sizeof *v);
        }
        for (size_t c = 0; c < n && by > 0; c++) v[r * n + c] *= (float)by;
    }
    free(q);
    return v;
}

/* Rows of ne[0] values, ne[1] of them, for each of ne[2] experts (1: no such dimension). */
static void add_tensor(GgufBuilder *b, const Mix *x, const char *name, const Tensor *like,
                       const void *data)
{
    int64_t less[3] = {like->ne[0], like->ne[1], like->ne[2]};
    int dims = less[2] > 1 ? 3 : 2;
    size_t bytes = like->bytes;
    if (x->leave_out && strcmp(name, x->leave_out) == 0) return;
    if (x->flat && strcmp(name, x->flat) == 0) {
        bytes -= bytes / (size_t)less[dims - 1];
        less[dims - 1]--;
    }
    gb_tensor(b, name, like->type, dims, less, data, bytes);
}

/* Matrix `what` of every expert of layer l; from[X] are their models. */
static void add_experts(GgufBuilder *b, const Mix *x, int l, const char *what, const Gguf *from)
{
    Bytes all = {0};
    char name[64];
    Tensor one = {.type = T_F32};
    double by = strcmp(what, "down") == 0 ? x->down : 0;
    int as_f32 = x->dequantize || by > 0;
    for (int i = 0; i < x->X; i++) {
        snprintf(name, sizeof name, "blk.%d.ffn_%s.weight", l, what);
        const Tensor *t = gguf_tensor(&from[i], name);
        float *v = as_f32 ? floats_of(t, by) : NULL;
        const void *data = as_f32 ? (const void *)v : t->data;
        one.bytes = as_f32 ? (size_t)(t->ne[0] * t->ne[1]) * sizeof *v : t->bytes;
        one.type = as_f32 ? T_F32 : t->type;
        one.ne[0] = t->ne[0], one.ne[1] = t->ne[1], one.ne[2] = 1;
        snprintf(name, sizeof name, "blk.%d.ffn_%s.%d.weight", l, what, i);
        if (x->apart)
            add_tensor(b, x, name, &one, data);
        else
            bytes_add(&all, data, one.bytes);
        free(v);
    }
    one.ne[2] = x->X, one.bytes = all.n;
    snprintf(name, sizeof name, "blk.%d.ffn_%s_exps.weight", l, what);
    if (!x->apart) add_tensor(b, x, name, &one, all.s);
    free(all.s);
}

static void add_router(GgufBuilder *b, const Mix *x, int l)
{
    Rng r = {x->t.seed + 1000 + (uint64_t)l};
    size_t n = (size_t)(x->X * x->t.n_embd);
    const Tensor like = {.type = T_F32, .ne = {x->t.n_embd, x->X, 1}, .bytes = n * sizeof(float)};
    float *v = xcalloc(n, sizeof *v);
    char name[64];
    for (size_t i = 0; i < n && x->router != ROUTER_ZERO; i++)
        v[i] = x->router == ROUTER_NAN ? NAN : (float)rng_int(&r, -1000, 1000) / 2000;
    snprintf(name, sizeof name, "blk.%d.ffn_gate_inp.weight", l);
    add_tensor(b, x, name, &like, v);
    free(v);
}

/* The shared expert is that of expert 0 of the next seeds. */
static void add_shared(GgufBuilder *b, const Mix *x, int l, const Gguf *from)
{
    char name[64];
    for (int i = 0; i < 3; i++) {
        const char *what = (const char *[]){"gate", "up", "down"}[i];
        snprintf(name, sizeof name, "blk.%d.ffn_%s.weight", l, what);
        const Tensor *t = gguf_tensor(from, name);
        snprintf(name, sizeof name, "blk.%d.ffn_%s_shexp.weight", l, what);
        add_tensor(b, x, name, t, t->data);
    }
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", l);
    const Tensor *t = gguf_tensor(from, name);
    snprintf(name, sizeof name, "blk.%d.ffn_gate_inp_shexp.weight", l);
    add_tensor(b, x, name, t, t->data);
}

static uint8_t *tiny_open(const TinyModel *t, uint64_t seed, Gguf *g)
{
    TinyModel other = *t;
    size_t size;
    Err e;
    other.seed = seed;
    other.arch = "llama";
    other.no_vocab = 1;
    uint8_t *file = tiny_model(&other, &size);
    int bad = gguf_parse(g, "tiny", file, size, &e);
    if (bad) die("%s", e.msg);
    return file;
}

static uint8_t *mix_file(const Mix *x, size_t *size)
{
    GgufBuilder b = {0};
    Gguf base, from[MAX_X + 1];
    uint8_t *file[MAX_X + 1], *base_file = tiny_open(&x->t, x->t.seed, &base);
    for (int i = 0; i <= x->X; i++)
        file[i] = tiny_open(&x->t, x->t.seed + (uint64_t)(x->first + i), &from[i]);
    add_keys(&b, x);
    for (size_t i = 0; i < base.n_tensors; i++) {
        const Tensor *t = &base.tensors[i];
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.s);
        if (!strstr(name, ".ffn_") || strstr(name, "ffn_norm"))
            gb_tensor(&b, name, t->type, t->n_dims, t->ne, t->data, t->bytes);
    }
    for (int l = 0; l < x->t.n_layers; l++) {
        add_router(&b, x, l);
        add_experts(&b, x, l, "gate", from);
        add_experts(&b, x, l, "up", from);
        add_experts(&b, x, l, "down", from);
        if (strcmp(x->t.arch, "qwen2moe") == 0) add_shared(&b, x, l, &from[x->X]);
    }
    if (x->extra)
        gb_tensor(&b, x->extra, T_F32, 2, (int64_t[]){x->t.n_embd, x->t.n_ff}, NULL,
                  (size_t)(x->t.n_embd * x->t.n_ff) * 4);
    for (int i = 0; i <= x->X; i++) gguf_close(&from[i]), free(file[i]);
    gguf_close(&base), free(base_file);
    return gb_finish(&b, size);
}

/* ---------------------------------------------------------------- running */

typedef struct {
    uint8_t *file;
    Model m;
    int bad;
    Err e;
} Loaded;

static Loaded load_file(uint8_t *file, size_t size)
{
    Loaded x = {.file = file};
    Gguf g;
    x.bad = gguf_parse(&g, "mix", file, size, &x.e) || model_bind(&x.m, &g, NULL, &x.e);
    return x;
}

static Loaded load(const Mix *x)
{
    size_t size;
    uint8_t *file = mix_file(x, &size);
    return load_file(file, size);
}

static Loaded load_dense(const TinyModel *t)
{
    size_t size;
    uint8_t *file = tiny_model(t, &size);
    return load_file(file, size);
}

static void unload(Loaded *x)
{
    if (!x->bad) model_close(&x->m);
    free(x->file);
}

/* Logits [N_IDS][V], in batches of o->n_batch. From malloc; NULL: it does not run. */
static float *logits_of(Loaded *x, StateOptions o)
{
    State s;
    Err e = x->e;
    size_t V = x->bad ? 0 : (size_t)x->m.n_vocab;
    int team;
    Probe probe = team_probe(&team);
    o.n_ctx = N_IDS;
    if (!x->bad) team_wanted(&x->m);
    if (!CHECK_MSG(!x->bad && !state_new(&s, &x->m, &o, &e), "%s", e.msg)) return NULL;
    float *out = xcalloc(N_IDS * V, sizeof *out);
    s.probe = &probe;
    for (int i = 0, n; i < N_IDS; i += n) {
        int ids[N_IDS];
        n = N_IDS - i < s.n_batch ? N_IDS - i : s.n_batch;
        for (int k = 0; k < n; k++) ids[k] = (7 * (i + k) * (i + k) + 13 * (i + k) + 3) % (int)V;
        forward(&s, ids, n, n);
        memcpy(out + (size_t)i * V, s.logits, (size_t)n * V * sizeof *out);
        CHECK_MSG(team == team_expected(o.n_threads), "%d threads of %d", team, o.n_threads);
    }
    state_free(&s);
    return out;
}

/* Bits of the logits of a and b: the same, or (differ) not. Both are unloaded. */
static void compare(const char *what, Loaded a, Loaded b, int exact, int differ)
{
    StateOptions o = {.n_batch = 16, .n_threads = 1, .exact = exact};
    float *x = logits_of(&a, o), *y = logits_of(&b, o);
    if (x && y) {
        size_t n = N_IDS * (size_t)a.m.n_vocab;
        CHECK_MSG((memcmp(x, y, n * sizeof *x) != 0) == differ, "%s, %s", what,
                  exact ? "exact" : "int8");
    }
    free(x);
    free(y);
    unload(&a);
    unload(&b);
}

/* ---------------------------------------------------------------- tests */

static const TinyModel small = {.arch = "llama",
                                .n_layers = 2,
                                .n_embd = 64,
                                .n_heads = 2,
                                .n_kv_heads = 1,
                                .head_dim = 32,
                                .n_ff = 96,
                                .n_vocab = 50,
                                .seed = 5,
                                .no_vocab = 1};

static const int types[] = {T_F32, T_BF16, T_Q8_0, T_Q4_1, T_Q5_0, T_Q4_K, T_Q6_K};

static TinyModel of_type(int type)
{
    TinyModel t = small;
    t.type = type;
    if (tensor_type(type)->block > 32) t.n_layers = 1, t.n_embd = t.n_ff = 256, t.head_dim = 128;
    return t;
}

/* A mixture of one expert is the dense network; so is one of which all tokens take the first
 * expert, as of equal probabilities the first is the largest. */
static void test_one_expert(void)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int exact = 0; exact < 2; exact++) {
            Mix one = {.t = of_type(types[i]), .X = 1, .U = 1}, first = one;
            first.X = 3;
            first.router = ROUTER_ZERO;
            compare(tensor_type(types[i])->name, load(&one), load_dense(&one.t), exact, 0);
            compare("the first of equal ones", load(&first), load_dense(&one.t), exact, 0);
            first.first = 1;
            compare("another expert", load(&first), load_dense(&one.t), exact, 1);
        }
}

/* Two of eight alike are the first two, each with half the weight. */
static void test_ties(void)
{
    Mix eight = {.t = small, .X = 8, .U = 2, .router = ROUTER_ZERO}, two = eight;
    two.X = 2;
    compare("ties", load(&eight), load(&two), 1, 0);
    two.plain = 1; /* the weights of two add up to 1 in either way */
    compare("ties, plain", load(&eight), load(&two), 1, 0);
    eight.plain = 1; /* 1 / 8 each */
    two.plain = 0;
    two.scale = 0.25;
    compare("scale", load(&eight), load(&two), 1, 0);
    two.scale = 0;
    compare("plain and normed", load(&eight), load(&two), 1, 1);
}

/* Other ways to say the same. */
static void test_files(void)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        Mix whole = {.t = of_type(types[i]), .X = 6, .U = 3}, other = whole;
        other.apart = 1;
        compare("a tensor for each expert", load(&whole), load(&other), 0, 0);
        other.apart = 0;
        other.dequantize = 1;
        if (tensor_type(types[i])->unpack) compare("dequantized", load(&whole), load(&other), 1, 0);
    }
    Mix whole = {.t = small, .X = 6, .U = 3}, other = whole;
    other.say_width = -1;
    compare("the width of the tensors", load(&whole), load(&other), 1, 0);
    other.say_width = 0;
    other.scale = 2;
    whole.down = 2;
    compare("scale by 2", load(&whole), load(&other), 1, 0);
    other.scale = 3;
    compare("scale by 3", load(&whole), load(&other), 1, 1);
}

/* Logits of every batch size, thread count and instruction set against those of token by token. */
static void test_bits(const char *what, Loaded x, int exact)
{
    static const int batch[] = {3, 16, N_IDS}, threads[] = {3, 1, 3};
    StateOptions o = {.n_batch = 1, .n_threads = 1, .exact = exact};
    float *want = logits_of(&x, o);
    for (int k = 0; want && kernels_at(k); k++)
        for (int i = 0; i < 3 && kernels_at(k)->usable(); i++) {
            o.isa = kernels_at(k)->name;
            o.n_batch = batch[i];
            o.n_threads = threads[i];
            float *got = logits_of(&x, o);
            size_t bytes = N_IDS * (size_t)x.m.n_vocab * sizeof *got;
            CHECK_MSG(got && memcmp(want, got, bytes) == 0, "%s: %s, batch %d, %d threads, %s",
                      what, o.isa, o.n_batch, o.n_threads, exact ? "exact" : "int8");
            free(got);
        }
    free(want);
    unload(&x);
}

static void test_same_bits(void)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int exact = 0; exact < 2; exact++) {
            Mix x = {.t = of_type(types[i]), .X = 5, .U = 3};
            if (i % 2) {
                x.t.arch = "qwen2moe";
                x.t.biases = 1;
            }
            test_bits(tensor_type(types[i])->name, load(&x), exact);
        }
    static const char *const names[] = {"olmoe", "qwen2moe", "qwen3moe", "qwen3moe-dense",
                                        "mixtral"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[96];
        Bytes file = {0};
        Err e;
        snprintf(path, sizeof path, "tests/families/%s.gguf", names[i]);
        if (CHECK_MSG(!bytes_read(&file, path, &e), "%s", e.msg))
            test_bits(names[i], load_file((uint8_t *)file.s, file.n), 1);
    }
}

/* Whatever a router says, U different experts run. */
static void test_nan(void)
{
    Mix x = {.t = small, .X = 8, .U = 3, .router = ROUTER_NAN};
    Loaded m = load(&x);
    float *y = logits_of(&m, (StateOptions){.n_batch = 16, .n_threads = 2});
    CHECK(y && isnan(y[0]));
    free(y);
    unload(&m);
}

/* What one token meets: 2 of 8 experts, and all of the rest. */
static void test_counts(void)
{
    Mix x = {.t = small, .X = 8, .U = 2};
    Loaded m = load(&x);
    uint64_t expert = 3 * 64 * 96;
    if (!CHECK_MSG(!m.bad, "%s", m.e.msg)) return;
    CHECK(m.m.n_params - m.m.n_active == 2 * 6 * expert);
    for (size_t i = 0; i < m.m.g.n_tensors; i++) {
        double share = m.m.g.tensors[i].ne[2] > 1 ? 0.25 : 1;
        CHECK(fabs((double)m.m.read_share[i] - share) <= 0);
    }
    unload(&m);
}

static void refused(const char *why, Mix x)
{
    if (!x.X) x.X = 4, x.U = 2;
    if (!x.t.arch) x.t = small;
    Loaded m = load(&x);
    CHECK_MSG(m.bad && strstr(m.e.msg, why), "expected '%s', found '%s'", why,
              m.bad ? m.e.msg : "a model");
    unload(&m);
}

static void test_wrong_files(void)
{
    TinyModel dense = small, shared = small;
    dense.arch = "gemma";
    shared.arch = "qwen2moe";
    shared.biases = 1;
    refused("llama.expert_used_count", (Mix){.say_used = 5});
    refused("llama.expert_used_count' is missing", (Mix){.say_used = -1});
    refused("llama.expert_count", (Mix){.say_count = 5000});
    refused("llama.expert_count': expected 1 or more", (Mix){.say_count = -1});
    refused("expected shape [64, 3]", (Mix){.say_count = 3});
    refused("expected shape [64, 100, 4]", (Mix){.say_width = 100});
    refused("llama.expert_feed_forward_length", (Mix){.say_width = 1 << 25});
    refused("llama.expert_gating_func", (Mix){.gating = 2});
    refused("llama.expert_group_count", (Mix){.groups = 2});
    refused("expected 0, as this architecture is known without any", (Mix){.t = dense});
    refused("'blk.1.ffn_up_exps.weight' is missing",
            (Mix){.leave_out = "blk.1.ffn_up_exps.weight"});
    refused("'blk.0.ffn_gate_exps.weight'", (Mix){.leave_out = "blk.0.ffn_gate_exps.weight"});
    refused("'blk.0.ffn_up.3.weight'", (Mix){.apart = 1, .leave_out = "blk.0.ffn_up.3.weight"});
    refused("'blk.1.ffn_gate.weight' is missing", (Mix){.leave_out = "blk.1.ffn_gate_inp.weight"});
    refused("ffn_down_exps", (Mix){.flat = "blk.1.ffn_down_exps.weight"});
    refused("ffn_gate_inp", (Mix){.flat = "blk.1.ffn_gate_inp.weight"});
    refused("ffn_up.2", (Mix){.apart = 1, .flat = "blk.1.ffn_up.2.weight"});
    refused("'blk.0.ffn_up.weight' is not part", (Mix){.extra = "blk.0.ffn_up.weight"});
    refused("'blk.0.ffn_up.0.weight' is not part", (Mix){.extra = "blk.0.ffn_up.0.weight"});
    refused("'blk.0.ffn_up.4.weight' is not", (Mix){.apart = 1, .extra = "blk.0.ffn_up.4.weight"});
    refused("'blk.0.ffn_up_shexp.weight' is not", (Mix){.extra = "blk.0.ffn_up_shexp.weight"});
    refused("ffn_gate_inp_shexp",
            (Mix){.t = shared, .leave_out = "blk.0.ffn_gate_inp_shexp.weight"});
    refused("ffn_down_shexp", (Mix){.t = shared, .flat = "blk.1.ffn_down_shexp.weight"});
}

int main(void)
{
    test_one_expert();
    test_ties();
    test_files();
    test_same_bits();
    test_nan();
    test_counts();
    test_wrong_files();
    return check_done();
}
