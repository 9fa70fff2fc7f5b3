/* Every encoding on whole models: which reduces to which, and to what precision. What is called
 * bitwise has the same bits in every logit. Besides, for every kind of the registry: the bits do
 * not depend on threads, batches or the instruction set, and its words read back as they were
 * written.
 *
 * The models: a random one, the demo model, stories260K (ROPESCOPE_SHARED) and any other that
 * ROPESCOPE_MODEL names. */
#include "../model.h"

#include "check.h"
#include "ref.h"

#include <string.h>

#define U          0x1p-24
#define MAX_TOKENS 96

/* ---------------------------------------------------------------- a model under an encoding */

typedef struct {
    const char *name;
    const char *path; /* NULL: data */
    uint8_t *data;
    size_t size;
    int n_tokens;
    int ids[MAX_TOKENS];
    double tolerance; /* at rounding level, relative to the largest logit */
    int odd;          /* an odd number of key heads: they cannot be halved */
} Subject;

typedef struct {
    int threads, batch;
    const char *isa;
} Way;

static int subject_open(const Subject *x, const char *spec, Model *m, Err *e)
{
    Gguf g;
    ModelOptions o = {.rope = spec};
    if (x->path) return model_open(m, x->path, &o, e);
    return gguf_parse(&g, x->name, x->data, x->size, e) ? -1 : model_bind(m, &g, &o, e);
}

static int run_tokens(State *s, const Subject *x, float *out)
{
    size_t V = (size_t)s->m->n_vocab;
    for (int i = 0; i < x->n_tokens; i += s->n_batch) {
        int n = x->n_tokens - i < s->n_batch ? x->n_tokens - i : s->n_batch;
        forward(s, x->ids + i, n, n);
        memcpy(out + (size_t)i * V, s->logits, (size_t)n * V * sizeof *out);
    }
    return 0;
}

/* Logits [n][V] under an encoding; NULL, and a failed check, if it does not run. From malloc. */
static float *logits_of(const Subject *x, const char *spec, const Way *way, size_t *n)
{
    Model m;
    State s;
    Err e;
    StateOptions o = {.n_ctx = x->n_tokens,
                      .n_batch = way->batch,
                      .n_threads = way->threads,
                      .exact = 1,
                      .isa = way->isa};
    if (!CHECK_MSG(subject_open(x, spec, &m, &e) == 0, "%s: %s: %s", x->name, spec, e.msg))
        return NULL;
    float *out = NULL;
    if (CHECK_MSG(state_new(&s, &m, &o, &e) == 0, "%s: %s: %s", x->name, spec, e.msg)) {
        *n = (size_t)x->n_tokens * (size_t)m.n_vocab;
        out = xcalloc(*n, sizeof *out);
        run_tokens(&s, x, out);
        state_free(&s);
    }
    model_close(&m);
    return out;
}

/* Largest difference over the largest logit; NaN if anything is NaN. */
static double distance(const float *a, const float *b, size_t n)
{
    double max = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!isfinite(d)) return (double)NAN;
        max = fmax(max, d);
        size = fmax(size, fabs((double)b[i]));
    }
    return max / size;
}

/* ---------------------------------------------------------------- the matrix */

enum { BITWISE, ROUNDING, DIFFERENT };

typedef struct {
    const char *a, *b;
    int how;
} Identity;

static const Identity identities[] = {
    /* nothing turns */
    {"plain:pos_scale=0", "none", BITWISE},
    {"plain:n_rot=0", "none", BITWISE},
    {"linear:factor=3,pos_scale=0", "none", BITWISE},
    {"alibi:max_bias=0", "none", BITWISE},
    {"alibi:pos_scale=0", "none", BITWISE},
    {"nope-layers:every=1", "none", BITWISE},
    {"hope:boost=0,decay=0", "none", BITWISE},
    {"hope:pos_scale=0", "none", ROUNDING}, /* the axes u, v still round */
    {"hope:mode=elliptic,pos_scale=0", "none", BITWISE},
    {"partial:fraction=0", "none", BITWISE},
    {"proportional:fraction=0", "none", BITWISE},
    {"p-rope:fraction=0", "none", BITWISE},
    {"rope-id:fraction=0", "none", BITWISE},
    {"fope-clip:floor_ratio=inf", "none", BITWISE},
    {"fope:floor_ratio=inf", "none", BITWISE},
    {"fope:floor_ratio=0,ignore_zero=0,pos_scale=0", "none", BITWISE},
    {"xpos:pos_scale=0,centre=0", "none", BITWISE},
    {"continuous:pos_scale=0", "none", BITWISE},
    {"ntk:alpha=4,pos_scale=0", "none", BITWISE},
    {"dynamic:factor=4,pos_scale=0", "none", BITWISE},
    {"llama3:factor=8,pos_scale=0", "none", BITWISE},
    {"by-parts:factor=4,pos_scale=0", "none", BITWISE},
    {"yarn:factor=4,attention_factor=1,pos_scale=0", "none", BITWISE},
    {"longrope:attention_factor=1,pos_scale=0", "none", BITWISE},
    {"selective:use_bias=no", "none", BITWISE},
    {"path", "none", BITWISE},
    {"path:seed=1,beta=0", "none", BITWISE},
    /* plain rotation */
    {"alibi:max_bias=0,under=plain", "plain", BITWISE},
    {"local:local_base=500,base=500", "plain:base=500", BITWISE},
    {"local:every=1000,local_base=500", "plain:base=500", BITWISE},
    {"local:every=1000,local_base=500,factor=4", "plain:base=500", BITWISE},
    {"nope-layers:every=1000,attn_scale=1,floor_scale=2", "plain", BITWISE},
    {"hope:mode=elliptic,decay=0", "plain", BITWISE},
    {"ropepp", "plain", BITWISE},
    {"ropepp:phase=0,real=0.5,imag=0.5", "plain", BITWISE},
    {"ropepp:phase=0,real=0,imag=1", "plain", BITWISE},
    {"ropepp:mode=imago,phase=0", "plain", BITWISE},
    {"ropepp:mode=imagx,phase=0", "plain", BITWISE},
    {"ropepp:mode=imagh,phase=0", "plain", BITWISE},
    {"partial:fraction=1", "plain", BITWISE},
    {"partial", "plain", BITWISE},
    {"partial:n_rot=4", "plain:n_rot=4", BITWISE},
    {"proportional", "plain", BITWISE},
    {"proportional:factor=2,pos_scale=2", "plain", BITWISE},
    {"p-rope", "plain", BITWISE},
    {"p-rope:drop=highest", "plain", BITWISE},
    {"fope-clip:floor_ratio=0", "plain", BITWISE},
    {"fope:floor_ratio=0,ignore_zero=0", "plain", BITWISE},
    {"fope:floor_ratio=0,ignore_zero=0,seed=1,gain=0", "plain", BITWISE},
    {"xpos:scale_base=inf", "plain", BITWISE},
    {"continuous", "plain", BITWISE},
    {"continuous:pos_shift=1000", "plain", ROUNDING},
    {"linear:factor=1", "plain", BITWISE},
    {"linear:factor=2,pos_scale=2", "plain", BITWISE},
    {"plain:pos_shift=1000", "plain", ROUNDING},
    {"comrope", "plain", BITWISE},
    {"lie:block=2", "plain", BITWISE},
    {"selective", "plain:pos_shift=1", BITWISE},
    {"ntk:alpha=1", "plain", BITWISE},
    {"dynamic:factor=4,original=4096", "plain", BITWISE},
    {"llama3:factor=8,original=100000000", "plain", BITWISE},
    {"llama3:factor=1", "plain", ROUNDING},
    {"by-parts:factor=1", "plain", BITWISE},
    {"yarn:factor=1", "plain", ROUNDING},
    {"longrope:attention_factor=1", "plain", BITWISE},
    /* one encoding in the words of another */
    {"local:every=1,factor=3", "linear:factor=3", BITWISE},
    {"nope-layers:every=2,attn_scale=1,floor_scale=8192", "nope-layers:every=2", BITWISE},
    {"p-rope:fraction=0.5", "proportional:fraction=0.5", BITWISE},
    {"fope:ignore_zero=0", "fope-clip", BITWISE},
    {"xpos:scale_base=64,centre=0", "xpos:scale_base=64", ROUNDING},
    {"xpos:scale_base=64,centre=33.5", "xpos:scale_base=64", ROUNDING},
    {"xpos:scale_base=64,pos_shift=500", "xpos:scale_base=64", ROUNDING},
    {"continuous:pos_scale=0.5", "linear:factor=2", BITWISE},
    {"plain:pos_scale=0.5", "linear:factor=2", BITWISE},
    {"llama3:factor=4,original=1", "linear:factor=4", ROUNDING},
    {"yarn:factor=4,ext_factor=0,attention_factor=1", "linear:factor=4", ROUNDING},
    /* controls: the comparison can tell encodings apart */
    {"none", "plain", DIFFERENT},
    {"linear:factor=2", "plain", DIFFERENT},
    {"plain:base=500", "plain", DIFFERENT},
    {"comrope:conjugate=1", "plain", DIFFERENT}, /* without its bases in W_q and W_k */
    {"path:seed=1", "none", DIFFERENT},
    {"alibi", "none", DIFFERENT},
    {"alibi:under=plain", "plain", DIFFERENT},
    {"alibi:pos_scale=0.5", "alibi", DIFFERENT},
    {"local:every=2,base=500", "local:every=3,base=500", DIFFERENT},
    {"local:every=2,factor=2", "local:every=2", DIFFERENT},
    {"nope-layers:every=2", "plain", DIFFERENT},
    {"nope-layers:every=2,attn_scale=1,floor_scale=8", "nope-layers:every=2", DIFFERENT},
    {"hope", "hope:mode=elliptic", DIFFERENT},
    {"hope:pos_scale=0.5", "hope", DIFFERENT},
    {"hope:boost=0,decay=0.01", "none", DIFFERENT},
    {"ropepp:real=0,imag=1", "plain", DIFFERENT},
    {"ropepp:mode=imagx", "ropepp:mode=imagh", DIFFERENT},
    {"ropepp:mode=imago", "plain", DIFFERENT},
    {"ropepp:mode=eh", "ropepp:mode=eh,phase=0", DIFFERENT},
    {"partial:fraction=0.5", "proportional:fraction=0.5", DIFFERENT},
    {"p-rope:fraction=0.5,drop=highest", "p-rope:fraction=0.5", DIFFERENT},
    {"rope-id:original=64", "proportional:fraction=0.5", DIFFERENT},
    {"fope:seed=3,original=64", "fope:original=64", DIFFERENT},
    {"fope:pad=ones,original=64", "fope:original=64", DIFFERENT},
    {"xpos:scale_base=64", "plain", DIFFERENT},
    {"dynamic:factor=4,original=16", "plain", DIFFERENT},
    {"dynamic:factor=4,original=16,step=8", "dynamic:factor=4,original=16,length=96", DIFFERENT},
    {"yarn:factor=4,original=16", "linear:factor=4", DIFFERENT},
    {"yarn:factor=4,original=3000,ramp=turns", "yarn:factor=4,original=3000", DIFFERENT},
    {"ntk:alpha=4", "linear:factor=4", DIFFERENT},
    {"llama3:factor=4,original=64", "plain", DIFFERENT},
};
#define N_IDENTITIES ((int)(sizeof identities / sizeof *identities))

static void check_identity(const Subject *x, const Identity *i)
{
    static const Way way = {2, 32, NULL};
    size_t n = 0;
    if (x->odd && strstr(i->a, "mode=eh")) {
        check_skip("%s: %s: an odd number of key heads", x->name, i->a);
        return;
    }
    float *a = logits_of(x, i->a, &way, &n), *b = logits_of(x, i->b, &way, &n);
    if (a && b) {
        double d = distance(a, b, n);
        int ok = i->how == BITWISE    ? memcmp(a, b, n * sizeof *a) == 0
                 : i->how == ROUNDING ? d <= x->tolerance
                                      : d > 10 * x->tolerance;
        CHECK_MSG(ok, "%s: %s and %s: expected %s logits, they differ by %.3g (rounding: %.3g)",
                  x->name, i->a, i->b,
                  (const char *[]){"the same bits in all", "nearly equal", "other"}[i->how], d,
                  x->tolerance);
    }
    free(a);
    free(b);
}

/* ---------------------------------------------------------------- every kind */

/* At settings at which a kind does something. Every kind of the registry has a row. */
static const char *const specs[] = {
    "plain",
    "none",
    "linear:factor=2",
    "comrope:seed=1",
    "lie:seed=1",
    "selective:seed=1",
    "path:seed=1,forget=yes",
    "alibi",
    "alibi:max_bias=4,under=plain",
    "local:every=2,base=500,factor=2",
    "nope-layers:every=2,attn_scale=0.5,floor_scale=8",
    "hope",
    "hope:mode=elliptic,decay=0.01",
    "ropepp:real=0.7,imag=0.3",
    "ropepp:mode=eh",
    "ropepp:mode=imagh",
    "partial:fraction=0.5",
    "proportional:fraction=0.25,factor=2",
    "p-rope:fraction=0.5,drop=highest",
    "rope-id:original=40,temperature=0.1,spacing=linear",
    "fope-clip:original=200",
    "fope:seed=7,original=200,pad=ones",
    "fope:seed=7,ignore_zero=0",
    "xpos:scale_base=4",
    "continuous:pos_scale=0.37,pos_shift=1e9",
    "ntk:alpha=4",
    "dynamic:factor=4,original=16,step=16",
    "llama3:factor=8,original=64",
    "by-parts:factor=4,original=64",
    "yarn:factor=4,original=64",
    "longrope:factor=4,original=16",
};
#define N_SPECS ((int)(sizeof specs / sizeof *specs))

static void test_registry_covered(void)
{
    for (int k = 0; rope_at(k); k++) {
        const char *name = rope_at(k)->name;
        int found = 0;
        for (int i = 0; i < N_SPECS; i++)
            found |= strncmp(specs[i], name, strlen(name)) == 0 &&
                     (!specs[i][strlen(name)] || specs[i][strlen(name)] == ':');
        CHECK_MSG(found, "kind %s has no row in specs", name);
        CHECK_MSG(rope_at(k)->formula && rope_at(k)->source && rope_at(k)->summary &&
                      rope_at(k)->detail && rope_at(k)->freqs,
                  "kind %s does not explain itself", name);
    }
}

/* rope_text of what was read is read as the same. */
static void test_words(void)
{
    for (int i = 0; i < N_SPECS; i++) {
        RopeParams p = rope_params(32, 10000), q = p;
        const RopeKind *kind = NULL, *again = NULL;
        Rope r = {0}, t = {0};
        Err e;
        char a[600], b[600];
        p.n_ctx_orig = q.n_ctx_orig = p.n_ctx_train = q.n_ctx_train = 64;
        if (!CHECK_MSG(rope_parse(specs[i], &p, &kind, &e) == 0 &&
                           rope_new(&r, kind, &p, ROPE_HALF, NULL, &e) == 0,
                       "%s: %s", specs[i], e.msg))
            continue;
        rope_text(&r, a, sizeof a);
        if (CHECK_MSG(rope_parse(a, &q, &again, &e) == 0 &&
                          rope_new(&t, again, &q, ROPE_HALF, NULL, &e) == 0,
                      "%s: %s: %s", specs[i], a, e.msg)) {
            rope_text(&t, b, sizeof b);
            CHECK_MSG(again == kind && strcmp(a, b) == 0, "%s became %s, then %s", specs[i], a, b);
            CHECK_MSG(memcmp(r.inv_freq, t.inv_freq, sizeof(double) * (size_t)r.n_pairs) == 0,
                      "%s and %s: other frequencies", specs[i], a);
        }
        rope_free(&r);
        rope_free(&t);
    }
}

/* One token at a time, odd pieces, all at once; one thread and more; every instruction set. */
static void test_independence(const Subject *x)
{
    static const Way whole = {1, MAX_TOKENS, "base"};
    size_t n = 0;
    float *plain = logits_of(x, "plain", &whole, &n);
    for (int i = 0; plain && i < N_SPECS; i++) {
        float *want = logits_of(x, specs[i], &whole, &n);
        double d = want ? distance(want, plain, n) : 0;
        CHECK_MSG(i == 0 || !want || d > 10 * x->tolerance,
                  "%s: %s does nothing, or something that is no number: %g away from plain",
                  x->name, specs[i], d);
        for (int way = 0; want && way < 4; way++) {
            static const Way ways[] = {{2, 1, NULL}, {1, 7, NULL}, {3, 32, NULL}, {2, 96, "base"}};
            float *got = logits_of(x, specs[i], &ways[way], &n);
            CHECK_MSG(got && memcmp(got, want, n * sizeof *got) == 0,
                      "%s: %s: batches of %d on %d threads give other bits", x->name, specs[i],
                      ways[way].batch, ways[way].threads);
            free(got);
        }
        free(want);
    }
    free(plain);
}

/* ---------------------------------------------------------------- subjects */

/* As in test_forward.c: the number of roundings on the longest way through the model, times half a
 * unit in the last place each. Two encodings that are equal on paper differ by their angles'
 * rounding, one stage of these. */
static void subject_measure(Subject *x)
{
    Model m;
    Err e;
    if (!CHECK_MSG(subject_open(x, "plain", &m, &e) == 0, "%s", e.msg)) exit(check_done());
    int widest = m.max_ff > m.n_embd ? m.max_ff : m.n_embd;
    x->tolerance = (12 * m.n_layers + 2) * (widest / 32 + 9) * U;
    x->odd = m.max_kv_heads % 2;
    uint64_t seed = 7;
    for (int i = 0; i < MAX_TOKENS; i++)
        x->ids[i] = (int)(rng_next(&seed) % (uint64_t)(m.n_vocab - 3)) + 3;
    model_close(&m);
}

static void test_subject(Subject *x)
{
    subject_measure(x);
    for (int i = 0; i < N_IDENTITIES; i++) check_identity(x, &identities[i]);
}

int main(void)
{
    TinyModel t = {.n_layers = 3,
                   .n_embd = 64,
                   .n_heads = 4,
                   .n_kv_heads = 2,
                   .head_dim = 32,
                   .n_ff = 96,
                   .n_vocab = 300,
                   .n_ctx = 64,
                   .biases = 1,
                   .type = T_F32,
                   .embd_type = T_F32,
                   .seed = 3};
    char path[600];
    const char *shared = getenv("ROPESCOPE_SHARED"), *model = getenv("ROPESCOPE_MODEL");
    Subject tiny = {.name = "random", .n_tokens = 80}, demo = {.name = "demo", .n_tokens = 48};
    Subject stories = {.name = "stories260K", .path = path, .n_tokens = 80};
    Subject other = {.name = model, .path = model, .n_tokens = 40};
    test_registry_covered();
    test_words();
    tiny.data = tiny_model(&t, &tiny.size);
    test_subject(&tiny);
    test_independence(&tiny);
    free(tiny.data);
    demo.path = "demo/model.gguf";
    test_subject(&demo);
    snprintf(path, sizeof path, "%s/data/models/stories260K.gguf", shared ? shared : "../shared");
    FILE *f = fopen(path, "rb");
    if (f) {
        fclose(f);
        test_subject(&stories);
    } else {
        check_skip("stories260K: no data/models/stories260K.gguf in ../shared (ROPESCOPE_SHARED)");
    }
    if (model) test_subject(&other);
    return check_done();
}
