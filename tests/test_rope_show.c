/* What `ropescope rope` computes and prints: the kernel over distance against formulas, through
 * hooks of the registry and through some made for the purpose; the list and its JSON. */
#include "../model.h"

#include "check.h"
#include "json.h"

#include <stdlib.h>
#include <string.h>

enum { D = 16, P = D / 2, T = 300 };
#define U 0x1p-24

static Err err;
static int distance[T];

static RopeParams params(void)
{
    RopeParams p = rope_params(D, 10000);
    p.n_heads = p.n_kv_heads = 4;
    p.n_embd = 64;
    p.n_ctx_orig = p.n_ctx_train = 128;
    p.n_layers = 6;
    return p;
}

static Rope made(const char *spec, int layout)
{
    Rope r = {0};
    RopeParams p = params();
    const RopeKind *kind;
    CHECK_MSG(rope_parse(spec, &p, &kind, &err) == 0 &&
                  rope_new(&r, kind, &p, layout, NULL, &err) == 0,
              "%s", err.msg);
    return r;
}

static Rope made_of(const RopeKind *kind)
{
    Rope r = {0};
    RopeParams p = params();
    CHECK_MSG(rope_new(&r, kind, &p, ROPE_HALF, NULL, &err) == 0, "%s", err.msg);
    return r;
}

/* k[T], bias[T] of head h at distances 0 .. T - 1. */
static void kernel(const Rope *r, int h, double *k, double *bias)
{
    CHECK_MSG(rope_kernel(r, h, distance, T, k, bias, &err) == 0, "%s", err.msg);
}

/* ---------------------------------------------------------------- kinds of the registry */

static double theta_of(int j, int n_rot)
{
    return exp(-2.0 * j / n_rot * log(10000));
}

static void test_plain(void)
{
    double k[T], bias[T];
    for (int layout = 0; layout < 2; layout++) {
        Rope r = made("plain", layout ? ROPE_HALF : ROPE_ADJACENT);
        kernel(&r, layout, k, bias);
        for (int d = 0; d < T; d++) {
            double want = 0;
            for (int j = 0; j < P; j++) want += cos(d * theta_of(j, D)) / P;
            /* a cosine rounded to float is off by U / 2 at most, those of key 0 not at all */
            CHECK_MSG(fabs(k[d] - want) <= U, "K(%d) is %.17g, expected %.17g", d, k[d], want);
            CHECK(bias[d] == 0);
        }
        rope_free(&r);
    }
}

/* Values that do not turn count as pairs do. */
static void test_partial(void)
{
    double k[T], bias[T];
    Rope r = made("plain:n_rot=6", ROPE_HALF);
    kernel(&r, 0, k, bias);
    for (int d = 0; d < T; d++) {
        double want = P - 3;
        for (int j = 0; j < 3; j++) want += cos(d * theta_of(j, 6));
        CHECK_MSG(fabs(k[d] - want / P) <= U, "K(%d) is %.17g", d, k[d]);
    }
    rope_free(&r);
}

static void test_none_and_linear(void)
{
    double none[T], plain[T], linear[T], bias[T];
    Rope r = made("none", ROPE_HALF), s = made("plain", ROPE_HALF);
    Rope t = made("linear:factor=2", ROPE_HALF);
    kernel(&r, 0, none, bias);
    kernel(&s, 0, plain, bias);
    kernel(&t, 0, linear, bias);
    for (int d = 0; d < T; d++) CHECK(none[d] == 1);
    for (int d = 0; 2 * d < T; d++) /* 2 d (theta / 2) is exact */
        CHECK_MSG(linear[2 * d] == plain[d], "K(%d): %.17g, not %.17g", 2 * d, linear[2 * d],
                  plain[d]);
    rope_free(&r), rope_free(&s), rope_free(&t);
}

/* An amplitude counts twice, a bias is that of the head. */
static void test_amplitude_and_bias(void)
{
    double k[T], bias[T], amplitude = 0, theta[P];
    Rope r = made("yarn:factor=4", ROPE_HALF), s = made("alibi", ROPE_HALF);
    kernel(&r, 0, k, bias);
    CHECK(rope_rates(&r, T, theta, &amplitude, &err) == 0);
    CHECK_MSG(fabs(k[0] - pow(0.1 * log(4) + 1, 2)) <= 4 * U, "K(0) = %.9g", k[0]);
    CHECK(fabs(amplitude - (0.1 * log(4) + 1)) <= 1e-15);
    for (int h = 0; h < 4; h++) { /* four heads: slopes 2^-2, 2^-4, ... */
        kernel(&s, h, k, bias);
        for (int d = 0; d < T; d++)
            CHECK_MSG(k[d] == 1 && bias[d] == -ldexp(d, -2 * (h + 1)), "head %d at %d: %g", h, d,
                      bias[d]);
    }
    rope_free(&r), rope_free(&s);
}

/* Copies of a head have the sine; tables that grow hold for keys and queries alike. */
static void test_copies_and_length(void)
{
    double k[T], bias[T];
    Rope r = made("ropepp", ROPE_HALF), s = made("xpos:scale_base=64", ROPE_HALF);
    CHECK(rope_heads(&r) == 8);
    kernel(&r, 1, k, bias);
    for (int d = 0; d < T; d++) {
        double want = 0;
        for (int j = 0; j < P; j++) want += sin(d * theta_of(j, D)) / P;
        CHECK_MSG(fabs(k[d] - want) <= 2 * U, "imaginary K(%d) is %.17g", d, k[d]);
    }
    kernel(&s, 0, k, bias);
    for (int d = 0; d < T; d++) {
        double want = 0;
        for (int j = 0; j < P; j++)
            want += cos(d * theta_of(j, D)) * pow((2.0 * j / D + 0.4) / 1.4, d / 64.0) / P;
        /* queries and keys may be as far apart in size as the square root of the largest float */
        CHECK_MSG(fabs(k[d] - want) <= 8 * U, "xpos: K(%d) is %.17g, not %.17g", d, k[d], want);
    }
    rope_free(&r), rope_free(&s);
}

/* ---------------------------------------------------------------- hooks of our own */

static int zero_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    (void)e;
    for (int j = 0; j < r->n_pairs; j++) inv_freq[j] = length / 1000.0;
    *amplitude = 1;
    return 0;
}

static int hundreds(const Rope *r, int pos)
{
    (void)r;
    return pos / 100;
}

static double doubled(const Rope *r, int pos)
{
    (void)r;
    return pos < 10 ? 1 : 2;
}

/* Every token halves the keys before it; at token 7 they become negative, too. */
static void halve(const RopeCall *c, int kh, int i, float *key, int n_t)
{
    (void)kh;
    float by = c->pos + i == 7 ? -0.5f : 0.5f;
    for (int x = 0; x < n_t * c->r->p.head_dim; x++) key[x] *= by;
}

/* The angle grows by 0.125 at every token, 0 at the first. */
static void running_angles(const RopeCall *c, int kh, double *angle)
{
    (void)kh;
    for (int i = 0; i < c->n; i++) {
        for (int j = 0; j < c->r->n_pairs; j++)
            angle[i * c->r->n_pairs + j] = c->memory[0] + (double)c->x[i];
        c->memory[0] += 0.125;
    }
}

static int one(const Rope *r)
{
    (void)r;
    return 1;
}

static void test_hooks(void)
{
    static const RopeKind updated = {.name = "updated", .freqs = zero_freqs, .update = halve},
                          grown = {.name = "grown", .freqs = zero_freqs, .length = hundreds},
                          scaled = {.name = "scaled", .freqs = zero_freqs, .q_scale = doubled},
                          read = {.name = "read",
                                  .freqs = zero_freqs,
                                  .angles = running_angles,
                                  .memory = one};
    double k[T], bias[T], theta[P], amplitude;
    Rope r = made_of(&updated), g = made_of(&grown), s = made_of(&scaled), a = made_of(&read);
    kernel(&r, 0, k, bias);
    for (int d = 0; d < 120; d++) /* powers of two, far from the smallest float */
        CHECK_MSG(k[d] == ldexp(d < 7 ? 1 : -1, -d), "updated: K(%d) = %g", d, k[d]);
    kernel(&g, 0, k, bias);
    for (int d = 0; d < T; d++)
        CHECK_MSG(fabs(k[d] - cos(d * (d / 100) / 1000.0)) <= U, "grown: K(%d) = %g", d, k[d]);
    kernel(&s, 0, k, bias);
    for (int d = 0; d < T; d++) CHECK(k[d] == (d < 10 ? 1 : 2));
    kernel(&a, 0, k, bias);
    for (int d = 0; d < T; d++)
        CHECK_MSG(fabs(k[d] - cos(0.125 * d)) <= U, "read: K(%d) = %g", d, k[d]);
    CHECK(rope_rates(&a, T, theta, &amplitude, &err) == 0 && theta[0] == 0.125 && theta[P - 1] > 0);
    CHECK(rope_rates(&g, T, theta, &amplitude, &err) == 0);
    CHECK_MSG(fabs(theta[0] - 0.002) < 1e-15, "grown: theta = %g", theta[0]);
    rope_free(&r), rope_free(&g), rope_free(&s), rope_free(&a);
}

/* Some distances, in any steps, give what all of them give. */
static void test_steps(void)
{
    static const char *const specs[] = {"plain", "dynamic", "hope", "path:seed=1", "ropepp"};
    static const int some[] = {0, 1, 17, 130, 256, 299};
    double all[T], bias[T], few[6], few_bias[6];
    for (int i = 0; i < 5; i++) {
        Rope r = made(specs[i], ROPE_HALF);
        kernel(&r, 1, all, bias);
        CHECK(rope_kernel(&r, 1, some, 6, few, few_bias, &err) == 0);
        for (int d = 0; d < 6; d++)
            CHECK_MSG(few[d] == all[some[d]], "%s at %d", specs[i], some[d]);
        rope_free(&r);
    }
}

/* ---------------------------------------------------------------- what is printed */

typedef struct {
    char *s;
    size_t n;
    FILE *f;
} Memory;

static FILE *memory_open(Memory *m)
{
    m->s = NULL;
    return m->f = open_memstream(&m->s, &m->n);
}

/* A model of six layers, each with its own rope. */
static Model *shape_of(const char *spec)
{
    Layer layer[6];
    const RopeKind *kind;
    Rope *rope = calloc(6, sizeof *rope);
    for (int l = 0; l < 6; l++) {
        RopeParams p = params();
        p.layer = l;
        layer[l] = (Layer){.n_heads = 4, .n_kv_heads = 4, .rope = l};
        CHECK_MSG(rope_parse(spec, &p, &kind, &err) == 0 &&
                      rope_new(&rope[l], kind, &p, ROPE_HALF, NULL, &err) == 0,
                  "%s: %s", spec, err.msg);
    }
    ModelShape s = {.arch = "none",
                    .n_layers = 6,
                    .head_dim = D,
                    .n_ctx_train = 128,
                    .layer = layer,
                    .rope = rope,
                    .n_ropes = 6};
    return model_skeleton(&s);
}

static char *shown(const char *spec, const Screen *screen)
{
    Memory out;
    Model *m = shape_of(spec);
    Rope plain = made("plain", ROPE_HALF);
    RopeShow w = {.spec = spec, .m = m, .plain = &plain};
    memory_open(&out);
    int rc = screen ? rope_show(&w, out.f, screen, &err) : rope_show_json(&w, out.f, &err);
    CHECK_MSG(rc == 0, "%s: %s", spec, err.msg);
    fclose(out.f);
    rope_free(&plain);
    skeleton_free(m);
    return out.s;
}

/* Is a kind complete without a word about it? */
static int can_be(const RopeKind *kind)
{
    Rope r;
    RopeParams p = params();
    const RopeKind *found;
    int bad =
        rope_parse(kind->name, &p, &found, &err) || rope_new(&r, kind, &p, ROPE_HALF, NULL, &err);
    if (!bad) rope_free(&r);
    return !bad;
}

/* Every kind can be shown, in ASCII and as JSON. */
static void test_every_kind(void)
{
    static const Screen ascii = {.ascii = 1, .width = 80};
    for (int i = 0; rope_at(i); i++) {
        const RopeKind *kind = rope_at(i);
        char spec[64];
        int high = 0;
        snprintf(spec, sizeof spec, "%s%s", kind->name, can_be(kind) ? "" : ":factor=2");
        char *text = shown(spec, &ascii), *json = shown(spec, NULL);
        for (const char *c = text; *c; c++) high += (unsigned char)*c >= 0x80 || *c == '\033';
        CHECK_MSG(!high, "%s: %d bytes are not ASCII", spec, high);
        CHECK(strstr(text, kind->summary ? "K over distance" : "-"));
        CHECK(strstr(json, "\"schema\":\"ropescope.rope/1\""));
        CHECK(length(json, "encodings") >= 1 && length(json, "kinds") == 1);
        CHECK(length(json, "distance") == length(json, "encodings.0.kernels.0.k"));
        CHECK(length(json, "plain.theta") == P);
        free(text);
        free(json);
    }
}

/* Layers that are alike are shown together. */
static void test_layers(void)
{
    char *json = shown("nope-layers:every=3", NULL);
    CHECK(length(json, "encodings") == 2);
    CHECK(length(json, "encodings.0.layers") == 4 && length(json, "encodings.1.layers") == 2);
    CHECK(get(json, "encodings.1.layers.1") == 5);
    CHECK(get(json, "encodings.1.kernels.0.k.5") == 1);
    CHECK(length(json, "encodings.0.kernels") == 1);
    free(json);
    json = shown("ropepp", NULL);
    CHECK(length(json, "encodings") == 1 && length(json, "encodings.0.kernels") == 2);
    CHECK(get(json, "encodings.0.kernels.1.heads.0") == 1);
    free(json);
}

static void test_list(void)
{
    Memory out;
    int n = 0;
    rope_list_json(memory_open(&out));
    fclose(out.f);
    while (rope_at(n)) n++;
    CHECK(length(out.s, "ropes") == n);
    for (int i = 0; i < n; i++) {
        char path[64], name[64];
        snprintf(path, sizeof path, "ropes.%d.name", i);
        snprintf(name, sizeof name, "\"%s\"", rope_at(i)->name);
        CHECK(!strncmp(find(out.s, path), name, strlen(name)));
        snprintf(path, sizeof path, "ropes.%d.keys", i);
        CHECK(length(out.s, path) >= 4);
    }
    free(out.s);
    rope_list(memory_open(&out), NULL);
    fclose(out.f);
    for (int i = 0; i < n; i++) CHECK(strstr(out.s, rope_at(i)->name));
    free(out.s);
}

/* Keys are those that rope_parse takes, each once. */
static void test_keys(void)
{
    for (int i = 0; rope_at(i); i++) {
        RopeArg key;
        int n = 0;
        for (; rope_key(rope_at(i), n, &key); n++) {
            char spec[128];
            RopeParams p = params();
            const RopeKind *kind;
            snprintf(spec, sizeof spec, "%s:%s=", rope_at(i)->name, key.name);
            if (rope_parse(spec, &p, &kind, &err)) /* an empty value: but no unknown key */
                CHECK_MSG(!strstr(err.msg, "no key"), "%s: %s", spec, err.msg);
            CHECK(key.meaning && *key.meaning);
        }
        CHECK(n >= 4);
    }
}

/* Keys that count something: half a token or half a seed is no number of them. */
static void test_whole(void)
{
    const char *const counts =
        " n_rot original seed conjugate rank d_conv block every length step ignore_zero ";
    int n = 0;
    for (int i = 0; rope_at(i); i++) {
        RopeArg key;
        for (int k = 0; rope_key(rope_at(i), k, &key); k++) {
            char spec[128], word[64];
            RopeParams p = params();
            const RopeKind *kind;
            snprintf(word, sizeof word, " %s ", key.name);
            if (!strstr(counts, word)) continue;
            snprintf(spec, sizeof spec, "%s:%s=%g", rope_at(i)->name, key.name, key.lo + 0.5);
            CHECK_MSG(rope_parse(spec, &p, &kind, &err) && strstr(err.msg, "whole number"), "%s",
                      spec);
            CHECK(rope_whole(rope_at(i), key.name));
            n++;
        }
    }
    CHECK(n > 40);
    CHECK(!rope_whole(&rope_selective, "temp_max") && !rope_whole(&rope_plain, "base"));
}

int main(void)
{
    for (int d = 0; d < T; d++) distance[d] = d;
    test_plain();
    test_partial();
    test_none_and_linear();
    test_amplitude_and_bias();
    test_copies_and_length();
    test_hooks();
    test_steps();
    test_every_kind();
    test_layers();
    test_list();
    test_keys();
    test_whole();
    return check_done();
}
