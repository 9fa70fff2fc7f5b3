/* Encodings that stretch the frequencies: golden numbers, identities, Hugging Face's values, and
 * what a table that grows with the length does to the cache. */
#include "../model.h"

#include "check.h"
#include "gguf_builder.h"
#include "ref.h"
#include "rope_golden.h"

#include <string.h>
#include <unistd.h>

static Err err;
static char folder[] = P_tmpdir "/test_rope_scaled.XXXXXX";

/* The encoding that `spec` is for a head of head_dim values in a model of context n_ctx. */
static Rope made(const char *spec, int head_dim, int n_ctx, const float *divisors)
{
    Rope r = {0};
    const RopeKind *kind;
    RopeParams p = rope_params(head_dim, 10000);
    p.n_ctx_train = p.n_ctx_orig = n_ctx;
    p.divisors = divisors;
    int ok = rope_parse(spec, &p, &kind, &err) == 0 &&
             rope_new(&r, kind, &p, ROPE_HALF, NULL, &err) == 0;
    CHECK_MSG(ok, "%s: %s", spec, err.msg);
    if (!ok) exit(check_done());
    return r;
}

/* ---------------------------------------------------------------- files of lists */

static void write_lists(const char *path, const float *list[2], int n)
{
    static const char *const names[2] = {"rope_factors_short.weight", "rope_factors_long.weight"};
    GgufBuilder b = {0};
    size_t size;
    gb_key_str(&b, "general.architecture", "llama");
    for (int i = 0; i < 2; i++)
        if (list[i])
            gb_tensor(&b, names[i], T_F32, 1, (int64_t[]){n}, list[i], (size_t)n * sizeof(float));
    uint8_t *file = gb_finish(&b, &size);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(file, 1, size, f) == size && fclose(f) == 0);
    free(file);
}

static const char *in_folder(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* The lists that make_rope_golden.py numbers. */
static const char *golden_lists(int which, int n)
{
    float a[256], b[256];
    const float *list[2] = {a, b};
    for (int j = 0; j < n; j++) {
        a[j] = which == 1 ? 1 + (float)j / 64 : 1;
        b[j] = which == 1 ? 1 + 3 * (float)j / 8 : which == 2 ? 1 : 4;
    }
    write_lists(in_folder("lists.gguf"), list, n);
    return in_folder("lists.gguf");
}

/* ---------------------------------------------------------------- Hugging Face */

/* Frequencies to 1e-6: theirs are float32 throughout, ours are double. Their blends of w and w / s
 * go wrong by more: the weight of w / s is rounded near 1, so 2^-24 of w is lost, and w is up to s
 * times the outcome (1.9e-6 in one case; their formula in double agrees with ours). The sum of
 * logarithms stands for the pairs that are not shown: 1e-6 each, and its 9 digits. */
static void against_golden(const struct rope_golden *g)
{
    char spec[512];
    snprintf(spec, sizeof spec, "%s%s%s", g->spec, g->lists ? ",file=" : "",
             g->lists ? golden_lists(g->lists, g->n_pairs) : "");
    Rope r = made(spec, g->head_dim, g->n_ctx, NULL);
    double sum = 0;
    if (!CHECK_MSG(r.n_pairs == g->n_pairs, "%s: %d pairs", spec, r.n_pairs)) return;
    for (int j = 0; j < r.n_pairs; j++) sum += r.inv_freq[j] > 0 ? log(r.inv_freq[j]) : 0;
    for (int k = 0; k < ROPE_GOLDEN_SHOWN; k++) {
        int j = k * (r.n_pairs - 1) / (ROPE_GOLDEN_SHOWN - 1);
        float bits;
        memcpy(&bits, &g->freq[k], sizeof bits);
        double want = (double)bits, lost = 0;
        if (r.kind == rope_find("yarn")) lost = 0x1p-24 * pow(r.p.base, -2.0 * j / r.p.n_rot);
        CHECK_MSG(fabs(r.inv_freq[j] - want) <= 1e-6 * want + lost,
                  "%s: pair %d: %.9g, there %.9g (%.2g)", spec, j, r.inv_freq[j], want,
                  r.inv_freq[j] / want - 1);
    }
    double tol = 1e-6 * r.n_pairs + 1e-8 * fabs(g->log_sum);
    CHECK_MSG(fabs(sum - g->log_sum) <= tol, "%s: sum of logarithms %.9g, there %.9g", spec, sum,
              g->log_sum);
    CHECK_MSG(r.amplitude <= g->amplitude && r.amplitude >= g->amplitude,
              "%s: attention factor %a, there %a", spec, r.amplitude, g->amplitude);
    rope_free(&r);
}

static void test_golden(void)
{
    int skipped = 0;
    for (size_t i = 0; i < sizeof rope_golden / sizeof *rope_golden; i++) {
        char name[32] = "";
        memcpy(name, rope_golden[i].spec, strcspn(rope_golden[i].spec, ":"));
        if (rope_find(name))
            against_golden(&rope_golden[i]);
        else
            skipped++;
    }
    if (skipped) check_skip("%d cases of Hugging Face: there is no such kind here", skipped);
}

/* ---------------------------------------------------------------- golden numbers */

/* Both ends of YaRN's ramp, from the frequencies of two pairs within it. */
static void ramp_ends(const Rope *r, int j, double *lo, double *hi)
{
    double g[2];
    for (int i = 0; i < 2; i++) {
        double w = pow(r->p.base, -2.0 * (j + i) / r->p.n_rot);
        g[i] = (1 - r->inv_freq[j + i] / w) / (1 - 1 / r->p.factor);
    }
    *lo = j - g[0] / (g[1] - g[0]);
    *hi = *lo + 1 / (g[1] - g[0]);
}

/* The ends as they are published, for gpt-oss, and as computed elsewhere: 6 digits after the point
 * (4 where they say no more). */
static void test_yarn_ramp(void)
{
    static const struct {
        const char *spec;
        int head_dim, pair;
        double lo, hi, tol;
    } known[] = {
        {"yarn:factor=32,base=150000,original=4096,truncate=no", 64, 12, 8.092779, 17.398025, 1e-6},
        {"yarn:factor=4,base=1e6,original=32768,truncate=no", 128, 30, 23.5959, 39.6509, 1e-4},
        {"yarn:factor=4,base=1e4,original=4096,truncate=no", 128, 30, 20.9445, 45.0269, 1e-4},
        {"yarn:factor=4,base=1e4,original=4096", 128, 30, 20, 46, 1e-9},
        {"yarn:factor=4,base=100,original=4096,beta_slow=0.001", 64, 30, 20, 63, 1e-9},
    };
    for (int i = 0; i < 5; i++) {
        Rope r = made(known[i].spec, known[i].head_dim, 1, NULL);
        double lo, hi;
        ramp_ends(&r, known[i].pair, &lo, &hi);
        CHECK_MSG(fabs(lo - known[i].lo) <= known[i].tol && fabs(hi - known[i].hi) <= known[i].tol,
                  "%s: ramp from %.7f to %.7f", known[i].spec, lo, hi);
        rope_free(&r);
    }
}

static void test_amplitudes(void)
{
    static const struct {
        const char *spec;
        double A, tol;
    } known[] = {
        {"yarn:factor=4", 1.138629, 5e-7},
        {"yarn:factor=32", 1.346574, 5e-7},
        {"yarn:factor=64", 1.415888, 5e-7},
        {"yarn:factor=0.5", 1, 0},
        {"yarn:factor=4,attention_factor=1.25", 1.25, 0}, /* not on top of the computed one */
        {"yarn:factor=4,attention_factor=1,mscale=2,mscale_all_dim=1", 1, 0},
        {"yarn:factor=4,mscale=1,mscale_all_dim=1", 1, 0},
        {"yarn:factor=4,attention_factor=1.25,attn_factor=2", 2.5, 0},
        {"yarn:factor=4,ext_factor=0", 1, 0},
        {"longrope:factor=32,original=4096", 1.190238, 5e-7},
        {"longrope:factor=32,original=4096,length=5000", 1.190238, 5e-7}, /* of both lists */
        {"longrope:original=4096", 1.190238, 5e-7},                       /* 131072 / 4096 */
        {"longrope:factor=1,original=4096", 1, 0},
        {"longrope:factor=32,attention_factor=1.5", 1.5, 0},
        {"longrope:original=4096,long_mscale=1.25,length=5000", 1.25, 0},
        {"longrope:original=4096,long_mscale=1.25", 1.190238, 5e-7},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        Rope r = made(known[i].spec, 64, 131072, NULL);
        CHECK_MSG(fabs(r.amplitude - known[i].A) <= known[i].tol, "%s: %.9g", known[i].spec,
                  r.amplitude);
        rope_free(&r);
    }
}

/* Which pairs of Llama 3 are kept, blended, divided: [0, kept), [kept, slow), [slow, P). */
static void llama3_classes(const char *spec, int head_dim, int kept, int slow)
{
    Rope r = made(spec, head_dim, 131072, NULL), plain = made("plain:base=5e5", head_dim, 1, NULL);
    for (int j = 0; j < r.n_pairs; j++) {
        double w = plain.inv_freq[j], v = r.inv_freq[j], s = r.p.factor;
        CHECK_MSG(j < kept   ? v >= w && v <= w
                  : j < slow ? v < w && v > w / s
                             : v >= w / s && v <= w / s,
                  "%s: pair %d: %.9g of %.9g", spec, j, v, w);
    }
    rope_free(&r);
    rope_free(&plain);
}

static void test_pairs(void)
{
    llama3_classes("llama3:factor=32,original=8192,base=5e5", 64, 15, 18);
    llama3_classes("llama3:factor=8,original=8192,base=5e5", 128, 29, 35);
    Rope r = made("ntk:alpha=4", 128, 4096, NULL), plain = made("plain", 128, 1, NULL);
    CHECK(r.inv_freq[0] >= 1 && r.inv_freq[0] <= 1);
    CHECK(fabs(r.inv_freq[63] / plain.inv_freq[63] - 0.25) < 1e-14); /* of two pow */
    rope_free(&r);
    r = made("ntk:alpha=4", 2, 4096, NULL); /* a single pair has nothing to stretch */
    CHECK(r.inv_freq[0] >= 1 && r.inv_freq[0] <= 1);
    rope_free(&r);
    rope_free(&plain);
    /* Half of a pair kept: frequencies are averaged, not wavelengths. base=16: w_2 = 1/4, one turn
     * and a half in L = 12 pi. */
    r = made("by-parts:factor=4,base=16,original=38,alpha=0,beta=3.0239439187460113", 8, 1, NULL);
    CHECK_MSG(fabs(r.inv_freq[2] / 0.25 - 0.625) < 1e-15, "%.17g", r.inv_freq[2] / 0.25);
    rope_free(&r);
}

/* ---------------------------------------------------------------- identities of frequencies */

/* The same bits, for files of other shapes and with divisors of their own. */
static void same_freqs(const char *a, const char *b, const float *divisors)
{
    static const int shapes[] = {2, 8, 64, 128};
    for (int i = 0; i < 4; i++) {
        Rope x = made(a, shapes[i], 4096, divisors), y = made(b, shapes[i], 4096, divisors);
        size_t bytes = (size_t)x.n_pairs * sizeof *x.inv_freq;
        CHECK_MSG(memcmp(x.inv_freq, y.inv_freq, bytes) == 0, "%s is not %s, head of %d", a, b,
                  shapes[i]);
        CHECK_MSG(x.amplitude >= y.amplitude && x.amplitude <= y.amplitude, "%s: amplitude", a);
        rope_free(&x);
        rope_free(&y);
    }
}

/* Two names of one encoding. Frequencies are equal at every length up to 100 tokens. */
static const struct {
    const char *a, *b;
    int own; /* has divisors of its own, instead of the file's */
} identities[] = {
    {"ntk:alpha=1", "plain", 0},
    {"dynamic:factor=8", "plain", 0},
    {"dynamic:factor=8,length=128,original=128", "plain", 0},
    {"dynamic:factor=2.8,original=101", "plain", 0}, /* 2.8 * 101 / 101 - 1.8 is not 1 */
    {"dynamic:factor=1,original=64,length=128", "ntk:alpha=2", 0},
    {"dynamic:factor=3,original=64,length=128", "ntk:alpha=4", 0},
    {"by-parts:factor=1", "plain", 0},
    {"by-parts:factor=4,alpha=0,beta=0", "plain", 0},
    {"by-parts:factor=4,alpha=1e8,beta=1e9", "linear:factor=4", 0},
    {"yarn:factor=1", "plain", 0},
    {"yarn:factor=1,ext_factor=0", "plain", 0},
    {"yarn:factor=4,ext_factor=0", "linear:factor=4", 0},
    {"yarn:factor=4,ramp=turns,attention_factor=1", "by-parts:factor=4", 0},
    {"yarn:factor=4,mscale=0.7", "yarn:factor=4", 0}, /* one of the two is as good as none */
    {"llama3:factor=1", "plain", 1},
    {"llama3:factor=8,original=2147483647", "plain", 1},
    {"llama3:factor=8,original=1", "linear:factor=8", 1},
    {"longrope", "plain", 0},
    {"longrope:factor=8,original=16,attention_factor=1", "plain", 0},
    {"linear:factor=2,base=100", "yarn:factor=2,ext_factor=0,base=100", 0},
};
enum { N_IDENTITIES = sizeof identities / sizeof *identities };

static void test_identities(void)
{
    float divisors[64];
    for (int j = 0; j < 64; j++) divisors[j] = 1 + 0.37f * (float)j;
    for (int i = 0; i < N_IDENTITIES; i++) {
        same_freqs(identities[i].a, identities[i].b, NULL);
        if (!identities[i].own) same_freqs(identities[i].a, identities[i].b, divisors);
    }
    char spec[300];
    snprintf(spec, sizeof spec, "longrope:attention_factor=1,original=16,length=17,file=%s",
             golden_lists(3, 32));
    Rope x = made(spec, 64, 64, divisors), y = made("linear:factor=4", 64, 64, NULL);
    CHECK(memcmp(x.inv_freq, y.inv_freq, 32 * sizeof *x.inv_freq) == 0);
    rope_free(&x);
    rope_free(&y);
}

/* The divisors of a Llama 3.1 file are what `llama3` computes: it takes their place. As floats they
 * carry 2^-24. */
static void test_llama3_file(void)
{
    static const char spec[] = "llama3:factor=8,original=8192,base=5e5";
    float divisors[64];
    Rope once = made(spec, 128, 131072, NULL), plain = made("plain:base=5e5", 128, 1, NULL);
    for (int j = 0; j < 64; j++) divisors[j] = (float)(plain.inv_freq[j] / once.inv_freq[j]);
    Rope file = made("plain:base=5e5", 128, 131072, divisors), again = made(spec, 128, 1, divisors);
    for (int j = 0; j < 64; j++)
        CHECK_MSG(fabs(file.inv_freq[j] / once.inv_freq[j] - 1) <= 0x1p-24, "pair %d", j);
    CHECK(memcmp(again.inv_freq, once.inv_freq, 64 * sizeof *once.inv_freq) == 0);
    rope_free(&once), rope_free(&plain), rope_free(&file), rope_free(&again);
}

/* YaRN's amplitude A on q and k is A^2 on the rotated part of a score and nothing on the rest. */
static void test_temperature(void)
{
    for (int n_rot = 32; n_rot <= 64; n_rot += 32) {
        char a[64], b[64];
        snprintf(a, sizeof a, "yarn:factor=4,n_rot=%d", n_rot);
        snprintf(b, sizeof b, "yarn:factor=4,n_rot=%d,attention_factor=1", n_rot);
        Rope with = made(a, 64, 64, NULL), without = made(b, 64, 64, NULL);
        float x[2][2][64], angles[64];
        double dot[2][2] = {{0}}, A = with.amplitude;
        Rng rng = {3};
        for (int c = 0; c < 64; c++)
            for (int i = 0; i < 2; i++) x[0][i][c] = x[1][i][c] = rng_float(&rng);
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 2; k++)
                rope_apply(i ? &without : &with, k ? ROPE_K : ROPE_Q, 0, x[i][k], 9 + k, angles);
        for (int i = 0; i < 2; i++)
            for (int c = 0; c < 64; c++)
                dot[i][c >= n_rot] += (double)x[i][0][c] * (double)x[i][1][c];
        /* each of 64 products of numbers under 1.5 is off by some 10 of 2^-24 */
        CHECK(fabs(dot[0][0] - A * A * dot[1][0]) < 64 * 2 * 10 * 0x1p-24);
        CHECK(dot[0][1] >= dot[1][1] && dot[0][1] <= dot[1][1]);
        rope_free(&with), rope_free(&without);
    }
}

/* ---------------------------------------------------------------- lengths */

/* The table for each number of tokens: the last it is good for. */
static void test_lengths(void)
{
    static const struct {
        const char *spec;
        int tokens, length;
    } known[] = {
        {"dynamic:original=100,step=16", 1, 100},
        {"dynamic:original=100,step=16", 100, 100},
        {"dynamic:original=100,step=16", 101, 116},
        {"dynamic:original=100,step=16", 116, 116},
        {"dynamic:original=100,step=16", 117, 132},
        {"dynamic:original=100,step=1", 101, 101},
        {"dynamic:original=100,step=1", 4000, 4000},
        {"dynamic:original=100,length=90", 1, 100},
        {"dynamic:original=100,length=150,step=16", 1, 150},
        {"dynamic:original=100,length=150,step=16", 150, 150},
        {"dynamic:original=100,length=150,step=16", 151, 164},
        {"dynamic", 4096, 4096},
        {"dynamic", 4097, 4161}, /* a step is M / 64 + 1 */
        {"longrope:original=100", 100, 100},
        {"longrope:original=100", 101, 101},
        {"longrope:original=100", 4000, 101},
        {"longrope:original=100,length=100", 1, 100},
        {"longrope:original=100,length=101", 1, 101},
        {"dynamic:step=1073741824,original=2147483646", 2147483647, 2147483647},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        Rope r = made(known[i].spec, 64, 4096, NULL);
        int length = r.kind->length(&r, known[i].tokens - 1);
        CHECK_MSG(length == known[i].length, "%s: %d tokens, table of %d", known[i].spec,
                  known[i].tokens, length);
        rope_free(&r);
    }
}

/* ---------------------------------------------------------------- on a model */

enum { N = 100 };
static Model model; /* the tiny trained one, or the one that comes with the program */
static char model_path[1024];

static void find_model(void)
{
    const char *dir = getenv("ROPESCOPE_SHARED");
    snprintf(model_path, sizeof model_path, "%s/data/models/stories260K.gguf", dir ? dir : "");
    if (!dir || access(model_path, R_OK))
        snprintf(model_path, sizeof model_path, "demo/model.gguf");
}

static int open_model(const char *spec)
{
    ModelOptions o = {.rope = spec};
    return CHECK_MSG(model_open(&model, model_path, &o, &err) == 0, "%s: %s", spec, err.msg);
}

static void pick_ids(int *ids, int n)
{
    Rng r = {5};
    for (int i = 0; i < n; i++) ids[i] = rng_int(&r, 0, model.n_vocab - 1);
}

/* A hash of the logits of all N tokens, given `batch` at a time. */
static uint64_t hash_of(int batch, int threads, const char *isa)
{
    State s;
    int ids[N];
    size_t V = (size_t)model.n_vocab;
    float *all = xcalloc(N * V, sizeof *all);
    StateOptions o = {.n_ctx = N, .n_batch = batch, .n_threads = threads, .exact = 1, .isa = isa};
    pick_ids(ids, N);
    if (!CHECK_MSG(state_new(&s, &model, &o, &err) == 0, "%s", err.msg)) exit(check_done());
    for (int i = 0, n; i < N; i += n) {
        n = N - i < s.n_batch ? N - i : s.n_batch;
        forward(&s, ids + i, n, n);
        memcpy(all + (size_t)i * V, s.logits, (size_t)n * V * sizeof *all);
    }
    uint64_t h = hash_bytes(all, N * V * sizeof *all);
    free(all);
    state_free(&s);
    return h;
}

static uint64_t hash_under(const char *spec)
{
    if (!open_model(spec)) return 0;
    uint64_t h = hash_of(32, 1, NULL);
    model_close(&model);
    return h;
}

static void test_model_identities(void)
{
    static const char *const others[] = {
        "linear:factor=4",
        "ntk:alpha=4",
        "dynamic:original=64",
        "by-parts:factor=4",
        "yarn:factor=4",
        "yarn:factor=4,attention_factor=1",
        "llama3:factor=8,original=64",
        "longrope:factor=2",
        "longrope:seed=1,original=64",
    };
    uint64_t plain = hash_under("plain");
    for (int i = 0; i < N_IDENTITIES; i++)
        CHECK_MSG(hash_under(identities[i].a) == hash_under(identities[i].b), "%s is not %s",
                  identities[i].a, identities[i].b);
    CHECK(hash_under("linear:factor=2,pos_scale=2") == plain);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        CHECK_MSG(hash_under(others[i]) != plain, "%s is plain", others[i]);
}

static const char *const growing[] = {
    "dynamic:factor=4,original=24,step=16",
    "dynamic:factor=2,original=30,step=1",
    "dynamic:factor=2,original=30,length=40",
    "longrope:seed=7,factor=4,original=33",
};
enum { N_GROWING = sizeof growing / sizeof *growing };

/* However the tokens are handed over, tables change at the same ones. */
static void test_chunks(void)
{
    static const int batch[] = {1, 7, 512};
    for (int g = 0; g < N_GROWING; g++) {
        if (!open_model(growing[g])) return;
        uint64_t first = hash_of(512, 1, "base");
        for (int i = 0; i < 3; i++)
            for (int threads = 1; threads <= 2; threads++)
                CHECK_MSG(hash_of(batch[i], threads, NULL) == first,
                          "%s: other bits for %d at a time on %d threads", growing[g], batch[i],
                          threads);
        model_close(&model);
    }
}

/* ---------------------------------------------------------------- keys turned again */

/* Keys as they were before rotation: [L][K][N][D]. */
static float *raw;

static float *raw_key(int l, int kh, int t)
{
    size_t head = (size_t)l * (size_t)model.max_kv_heads + (size_t)kh;
    return raw + (head * N + (size_t)t) * (size_t)model.head_dim;
}

static void keep_k(void *ctx, int l, int kh, int stage, int pos, int n, const float *k,
                   size_t stride)
{
    (void)ctx;
    for (int i = 0; i < n && stage == BEFORE_ROPE; i++)
        memcpy(raw_key(l, kh, pos + i), k + (size_t)i * stride, (size_t)model.head_dim * sizeof *k);
}

static void skip_q(void *ctx, int l, int h, int stage, int pos, int n, const float *q,
                   size_t stride)
{
    (void)ctx, (void)l, (void)h, (void)stage, (void)pos, (void)n, (void)q, (void)stride;
}

/* Every key in the cache has the bits of its raw key turned once, by the table of the last length.
 * `spec` with that table from the first token on is `last`. */
static void cache_is(const char *spec, const char *last)
{
    State s;
    int ids[N];
    float k[256], angles[256];
    StateOptions o = {.n_ctx = N, .n_batch = 16, .n_threads = 2, .exact = 1};
    Probe p = {.want = PROBE_QK, .q = skip_q, .k = keep_k};
    if (!open_model(spec)) return;
    Rope r = made(last, model.head_dim, model.n_ctx_train, NULL);
    r.layout = model.rope[0].layout;
    raw = xcalloc((size_t)(model.n_layers * model.max_kv_heads) * N * (size_t)model.head_dim,
                  sizeof *raw);
    pick_ids(ids, N);
    if (!CHECK(state_new(&s, &model, &o, &err) == 0)) exit(check_done());
    s.probe = &p;
    for (int i = 0; i < N; i += 10) forward(&s, ids + i, 10, 0);
    for (int i = 0; i < model.n_layers * model.max_kv_heads * N; i++) {
        int l = i / N / model.max_kv_heads, kh = i / N % model.max_kv_heads, t = i % N;
        float *want = raw_key(l, kh, t);
        state_key(&s, l, kh, t, k);
        rope_apply(&r, ROPE_K, kh, want, t, angles);
        CHECK_MSG(memcmp(k, want, (size_t)model.head_dim * sizeof *k) == 0,
                  "%s: key %d of head %d, layer %d is not turned as at the end", spec, t, kh, l);
    }
    free(raw);
    state_free(&s);
    model_close(&model);
    rope_free(&r);
}

static void test_cache(void)
{
    cache_is(growing[0], "dynamic:factor=4,original=24,length=104");
    cache_is(growing[1], "dynamic:factor=2,original=30,length=100");
    cache_is("longrope:seed=7,factor=4,original=33",
             "longrope:seed=7,factor=4,original=33,length=34");
}

/* A model of one layer, whose keys before rotation depend on their token alone: each token's logits
 * are those of a run from the first token on under the table of that length. */
static void test_recompute(void)
{
    static const TinyModel one = {.n_layers = 1,
                                  .n_embd = 32,
                                  .n_heads = 2,
                                  .n_kv_heads = 2,
                                  .head_dim = 16,
                                  .n_ff = 40,
                                  .n_vocab = 30,
                                  .seed = 8};
    enum { T = 40, V = 30 };
    static float grown[T][V], fresh[T][V];
    for (int n = T; n > 0; n--) {
        char spec[80] = "dynamic:factor=4,original=16,step=8";
        int length = n <= 16 ? 16 : (n + 7) / 8 * 8, ids[T];
        if (n < T) snprintf(spec, sizeof spec, "dynamic:factor=4,original=16,length=%d", length);
        Gguf g;
        State s;
        size_t size;
        ModelOptions mo = {.rope = spec};
        StateOptions so = {.n_ctx = T, .n_threads = 1, .exact = 1};
        uint8_t *file = tiny_model(&one, &size);
        Rng r = {6};
        for (int i = 0; i < T; i++) ids[i] = rng_int(&r, 0, V - 1);
        if (!CHECK(gguf_parse(&g, "one", file, size, &err) == 0 &&
                   model_bind(&model, &g, &mo, &err) == 0 && state_new(&s, &model, &so, &err) == 0))
            return;
        forward(&s, ids, n, n);
        memcpy(n == T ? grown : fresh, s.logits, (size_t)n * sizeof *grown);
        CHECK_MSG(n == T || memcmp(grown[n - 1], fresh[n - 1], sizeof *grown) == 0,
                  "token %d is not what it would be from the start", n - 1);
        state_free(&s);
        model_close(&model);
        free(file);
    }
}

/* ---------------------------------------------------------------- refused */

static void refused(const char *spec, const char *word)
{
    Rope r;
    const RopeKind *kind;
    RopeParams p = rope_params(64, 10000);
    p.n_ctx_train = p.n_ctx_orig = 4096;
    int rc = rope_parse(spec, &p, &kind, &err);
    if (rc == 0 && (rc = rope_new(&r, kind, &p, ROPE_HALF, NULL, &err)) == 0) rope_free(&r);
    CHECK_MSG(rc == -1 && strstr(err.msg, word), "%s: %s", spec, rc ? err.msg : "accepted");
}

static void test_refused(void)
{
    static const char *const specs[][2] = {
        {"ntk:alpha=0", "alpha"},
        {"dynamic:step=0", "step"},
        {"dynamic:length=-1", "length"},
        {"dynamic:factor=nan", "factor"},
        {"by-parts", "factor"},
        {"by-parts:factor=2,alpha=3,beta=2", "beta"},
        {"yarn", "factor"},
        {"yarn:factor=4,beta_fast=1,beta_slow=32", "beta_fast"},
        {"yarn:factor=4,base=1", "base"},
        {"yarn:factor=4,truncate=maybe", "truncate"},
        {"yarn:factor=0", "factor"},
        {"llama3", "factor"},
        {"llama3:factor=8,low=4,high=4", "high"},
        {"longrope:original=1,factor=2", "original"},
        {"longrope:file=nowhere.gguf", "nowhere.gguf"},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) refused(specs[i][0], specs[i][1]);
    Rope r;
    RopeParams p = rope_params(64, 10000);
    p.n_ctx_train = p.n_ctx_orig = 0; /* nobody knows */
    CHECK(rope_new(&r, rope_find("llama3"), &p, ROPE_HALF, NULL, &err) == -1);
    CHECK(strstr(err.msg, "original"));
}

static void test_bad_lists(void)
{
    float ones[64], bad[64];
    char spec[300];
    for (int j = 0; j < 64; j++) ones[j] = bad[j] = 1;
    static const float wrong[] = {0, -1, NAN, INFINITY};
    snprintf(spec, sizeof spec, "longrope:file=%s", in_folder("lists.gguf"));
    for (int i = 0; i < 4; i++) {
        bad[31] = wrong[i];
        write_lists(in_folder("lists.gguf"), (const float *[2]){ones, bad}, 32);
        refused(spec, "rope_factors_long.weight");
    }
    write_lists(in_folder("lists.gguf"), (const float *[2]){ones, NULL}, 32);
    refused(spec, "rope_factors_long.weight");
    write_lists(in_folder("lists.gguf"), (const float *[2]){NULL, ones}, 32);
    refused(spec, "rope_factors_short.weight");
    write_lists(in_folder("lists.gguf"), (const float *[2]){NULL, NULL}, 32);
    refused(spec, "neither");
    write_lists(in_folder("lists.gguf"), (const float *[2]){ones, ones}, 31);
    refused(spec, "shape");
}

/* What a kind prints of itself reads back as itself. */
static void test_text(void)
{
    static const char *const specs[] = {
        "yarn:factor=1,original=512",
        "yarn:original=512,truncate=no,ramp=turns,attention_factor=0.7,mscale=0.5",
        "longrope:factor=1,original=16,length=17,seed=3",
        "dynamic:factor=3,original=64,length=128,step=1",
        "llama3:factor=32,low=2,high=5,original=8192",
        "by-parts:factor=8,alpha=2,beta=16",
        "ntk:alpha=2.5",
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        char text[2][512];
        Rope a = made(specs[i], 64, 4096, NULL);
        rope_text(&a, text[0], sizeof text[0]);
        Rope b = made(text[0], 64, 4096, NULL);
        rope_text(&b, text[1], sizeof text[1]);
        CHECK_MSG(!strcmp(text[0], text[1]) && a.amplitude >= b.amplitude &&
                      a.amplitude <= b.amplitude &&
                      memcmp(a.inv_freq, b.inv_freq, 32 * sizeof *a.inv_freq) == 0,
                  "%s: %s, then %s", specs[i], text[0], text[1]);
        rope_free(&a), rope_free(&b);
    }
}

int main(void)
{
    if (!CHECK(mkdtemp(folder) != NULL)) return check_done();
    find_model();
    test_golden();
    test_yarn_ramp();
    test_amplitudes();
    test_pairs();
    test_identities();
    test_llama3_file();
    test_temperature();
    test_lengths();
    test_model_identities();
    test_chunks();
    test_cache();
    test_recompute();
    test_refused();
    test_bad_lists();
    test_text();
    unlink(in_folder("lists.gguf"));
    rmdir(folder);
    return check_done();
}
