/* The theory alone: what `ropescope bounds` writes, read back from its JSON, against brute force
 * over grids of phi, x and distance, against the literal formulas, and over odd encodings. The
 * theorems are claims about f(delta) = cos(phi + theta delta): here they are sampled. */
#include "../model.h"
#include "check.h"
#include "json.h"

#define PI      3.14159265358979323846
#define TAU     (2 * PI)
#define PATH(s) "encodings.0." s

/* What bounds writes about a model, as a string to free. */
static char *written(const Model *m, double n_ctx, int json)
{
    static char *s; /* static: gcc 12 thinks that open_memstream's string dies with it */
    size_t n = 0;
    FILE *f = open_memstream(&s, &n);
    BoundsOptions o = {n_ctx, 0.9};
    Provenance p = {.model_path = "a \"model\".gguf"};
    if (json)
        bounds_json(m, &o, &p, f);
    else
        bounds_print(m, &o, &p, f, NULL);
    fclose(f);
    if (json) CHECK(json_has_no_nan(s));
    return s;
}

typedef struct {
    Model m;
    Rope rope[2];
} Lone;

/* A model that is only an encoding. */
static void lone_new(Lone *y, const char *kind, int n_rot, double base, double factor, int n_ctx)
{
    Err e;
    RopeParams p = {
        .head_dim = n_rot, .n_rot = n_rot, .base = base, .factor = factor, .pos_scale = 1};
    p.n_ctx_orig = n_ctx;
    *y = (Lone){0};
    CHECK(rope_new(&y->rope[0], rope_find(kind), &p, ROPE_HALF, NULL, &e) == 0);
    y->m = (Model){.rope = y->rope, .n_ropes = 1, .n_ctx_train = n_ctx};
}

static char *json_of(const char *kind, int n_rot, double base, double factor, int n_ctx)
{
    Lone y;
    lone_new(&y, kind, n_rot, base, factor, n_ctx);
    char *json = written(&y.m, 0, 1), *text = written(&y.m, 0, 0);
    CHECK(!strstr(text, "nan") && !strstr(text, "inf ") && strstr(text, "arXiv:2503.01832"));
    free(text);
    rope_free(&y.rope[0]);
    return json;
}

/* ---- where the classes begin ---- */

/* First pair with x <= 2 pi and x <= pi: published shapes, and the formula
 * ceil((n_rot/2) ln(P/A) / ln b). */
static void test_first_pairs(void)
{
    static const struct {
        const char *model;
        int n_rot;
        double base;
        int n_ctx, partial, half;
    } known[] = {
        {"Phi-1, 1.5, 2", 32, 1e4, 2048, 11, 12}, {"GPT-NeoX-20B", 24, 1e4, 2048, 8, 9},
        {"Llama-1 7B", 128, 1e4, 2048, 41, 46},   {"Llama-2 7B", 128, 1e4, 4096, 46, 50},
        {"Gemma-7B", 256, 1e4, 8192, 100, 110},   {"Mistral v0.1", 128, 1e4, 8192, 50, 55},
        {"Qwen2.5-7B", 128, 1e6, 32768, 40, 43},  {"Qwen3", 128, 1e6, 40960, 41, 44},
        {"TinyLlama", 64, 1e4, 2048, 21, 23},     {"SmolLM-135M", 64, 1e4, 2048, 21, 23},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int P = known[i].n_ctx, n = known[i].n_rot;
        char *json = json_of("plain", n, known[i].base, 1, P);
        double partial = get(json, PATH("first_partial")), half = get(json, PATH("first_half"));
        CHECK_MSG(partial == known[i].partial && half == known[i].half, "%s: %g and %g",
                  known[i].model, partial, half);
        CHECK(half == ceil(n / 2.0 * log(P / PI) / log(known[i].base)));
        CHECK(length(json, PATH("related.fope_clips")) == n / 2 - known[i].partial);
        NEAR(get(json, PATH("related.fope_clips.0")), known[i].partial, 0);
        NEAR(get(json, PATH("related.n_half")), n / 2 - known[i].half, 0);
        free(json);
    }
}

/* ---- T2 to T7 by brute force ---- */

enum { GRID_X = 45, GRID_PHI = 180, STEPS = 1000, CTX = 1000 };

/* What f does over 0 .. P, sampled at STEPS + 1 distances; the mean at their midpoints. */
typedef struct {
    double most, mean, first, last;
    int rises, falls;
} Swept;

static Swept sweep(double phi, double x)
{
    Swept s = {.most = cos(phi), .first = cos(phi), .last = cos(phi + x)};
    double a = s.first, b;
    for (int i = 0; i < STEPS; i++, a = b) {
        b = cos(phi + x * (i + 1) / STEPS);
        s.mean += cos(phi + x * (i + 0.5) / STEPS) / STEPS;
        s.most = fmax(s.most, b);
        s.rises |= b > a + 1e-12;
        s.falls |= b < a - 1e-12;
    }
    return s;
}

/* Is phi in [lo, hi], or a turn away from it? Of no interval (NaN): no. */
static int within(double phi, double lo, double hi)
{
    return (phi >= lo && phi <= hi) || (phi + TAU >= lo && phi + TAU <= hi) ||
           (phi - TAU >= lo && phi - TAU <= hi);
}

/* How near phi is to an end, on the circle. */
static int at_end(double phi, double end, double room)
{
    return fabs(remainder(phi - end, TAU)) < room;
}

/* What bounds says of one pair. */
typedef struct {
    double gain, t2_lo, t2_hi, t3_lo, t3_hi, fall, rise, far_lo, far_hi;
} Claims;

static Claims claims_of(const char *json, int j)
{
    return (Claims){.gain = get(json, PATH("gain.%d"), j),
                    .t2_lo = get(json, PATH("t2_lo.%d"), j),
                    .t2_hi = get(json, PATH("t2_hi.%d"), j),
                    .t3_lo = get(json, PATH("t3_lo.%d"), j),
                    .t3_hi = get(json, PATH("t3_hi.%d"), j),
                    .fall = get(json, PATH("t5_fall_hi.%d"), j),
                    .rise = get(json, PATH("t5_rise_hi.%d"), j),
                    .far_lo = get(json, PATH("t6_lo.%d"), j),
                    .far_hi = get(json, PATH("t6_hi.%d"), j)};
}

/* One pair and one phi. Ends of T5 are found to a step of the grid, the others exactly. */
static void check_phi(const Claims *c, double x, double phi)
{
    Swept s = sweep(phi, x);
    double step = 2 * x / STEPS, room = 4e-6; /* of a mean at midpoints: x^2 / (24 STEPS^2) */
    CHECK_MSG(fabs(s.mean - c->gain * cos(phi + x / 2)) < room, "T2 mean: x %g, phi %g", x, phi);
    if (x < TAU && fabs(s.mean) > room)
        CHECK_MSG((s.mean < 0) == within(phi, c->t2_lo, c->t2_hi), "T2: x %g, phi %g", x, phi);
    if (fabs(s.most) > 1e-7)
        CHECK_MSG((s.most <= 0) == within(phi, c->t3_lo, c->t3_hi), "T3: x %g, phi %g", x, phi);
    if (x < TAU && fabs(s.last - s.first) > 1e-7)
        CHECK_MSG((s.last >= s.first) == within(phi, c->far_lo, c->far_hi), "T6: x %g, phi %g", x,
                  phi);
    if (!at_end(phi, c->fall, step) && !at_end(phi, 0, step) && !at_end(phi, PI - x, step))
        CHECK_MSG(!s.rises == (phi <= c->fall), "T5 falling: x %g, phi %g", x, phi);
    if (!at_end(phi, c->rise, step) && !at_end(phi, PI, step) && !at_end(phi, TAU - x, step))
        CHECK_MSG(!s.falls == (phi >= PI && phi <= c->rise), "T5 rising: x %g, phi %g", x, phi);
}

/* T4: no phi has a smaller largest value than phi*; T7: what that leaves a sink; sign lengths. */
static void check_best(const char *json, int j, double x)
{
    double best = get(json, PATH("best_phi.%d"), j), worst = get(json, PATH("worst.%d"), j);
    double least = 1, theta = x / CTX;
    for (int i = 0; i < GRID_PHI; i++) least = fmin(least, sweep(TAU * i / GRID_PHI, x).most);
    if (x >= TAU) {
        CHECK_MSG(isnan(best) && isnan(worst) && least > 0.999, "T4: x %g, %g", x, least);
        return;
    }
    NEAR(sweep(best, x).most, worst, 1e-8);
    CHECK_MSG(least >= worst - 1e-9 && least <= worst + PI / GRID_PHI, "T4: x %g: %g", x, least);
    double keeps = get(json, PATH("sign_length.%d"), j);
    double most = get(json, PATH("sign_length_most.%d"), j);
    CHECK(sweep(PI / 2 + 1e-9, theta * most * 0.999).most <= 0);
    CHECK(sweep(PI / 2, theta * most * 1.001).most > 0);
    if (x > PI) {
        CHECK(isnan(keeps));
        return;
    }
    CHECK_MSG(sweep(best, theta * keeps * 0.999).most <= 0, "sign length, x %g", x);
    CHECK_MSG(sweep(best, theta * keeps * 1.001).most > 0, "sign length, x %g", x);
    /* r_q = 1, r_k = 3: the sink's key is turned the worst way, against the query. */
    for (double share = 0.9; share < 1.15; share += 0.2) {
        double sink = -3 * share * cos(x / 2), other = 3 * sweep(best, x).most;
        if (cos(x / 2) > 1e-3) CHECK_MSG((sink > other) == (share < 1), "T7: x %g", x);
    }
}

static void check_lower_ends(const char *json, int j, double x)
{
    double b1 = get(json, PATH("b1.%d"), j), b2 = get(json, PATH("b2.%d"), j);
    double b3 = get(json, PATH("b3.%d"), j), b4 = get(json, PATH("b4.%d"), j);
    CHECK(x <= PI ? near(b1, PI / 2, 1e-8) : isnan(b1));
    CHECK(x <= TAU ? near(b2, PI - x / 2, 1e-8) : isnan(b2));
    CHECK(x <= TAU ? near(b3, fmax(0, (PI - x) / 2), 1e-8) : isnan(b3));
    CHECK(x <= TAU ? near(b4, fmax(0, PI - x), 1e-8) : isnan(b4));
}

/* Pairs with x = 0.07 .. 2.2 pi: a model whose frequencies are set by hand. */
static void test_theorems(void)
{
    Lone y;
    lone_new(&y, "plain", 2 * GRID_X, 1e4, 1, CTX);
    for (int j = 0; j < GRID_X; j++) y.rope[0].inv_freq[j] = (0.07 + 0.153 * j) / CTX;
    char *json = written(&y.m, 0, 1);
    for (int j = 0; j < GRID_X; j++) {
        double x = 0.07 + 0.153 * j;
        NEAR(get(json, PATH("rope.x.%d"), j), x, 1e-8);
        Claims c = claims_of(json, j);
        for (int i = 0; i < GRID_PHI; i++) check_phi(&c, x, TAU * (i + 0.37) / GRID_PHI);
        check_best(json, j, x);
        check_lower_ends(json, j, x);
    }
    free(json);
    rope_free(&y.rope[0]);
}

/* ---- what others say of the frequencies ---- */

/* The variance of cos over [0, x]. */
static double variance(double x)
{
    return 0.5 + sin(2 * x) / (4 * x) - sin(x) / x * sin(x) / x;
}

static void test_oka(void)
{
    double best = 1, mean = 0, square = 0;
    for (double x = 0.001; x < 100; x += 1e-4)
        if (variance(x) > variance(best)) best = x;
    for (int i = 0; i < 100000; i++) {
        double c = cos(best * (i + 0.5) / 100000);
        mean += c / 1e5, square += c * c / 1e5;
    }
    NEAR(square - mean * mean, variance(best), 1e-8);
    char *json = json_of("plain", 128, 1e4, 1, 4096);
    double star = get(json, PATH("related.oka_x")), j = get(json, PATH("related.oka_j"));
    NEAR(star, best, 1e-4);
    NEAR(4096 * pow(1e4, -j / 64), star, 1e-7);
    NEAR(get(json, PATH("related.oka_pair")), floor(j + 0.5), 0);
    free(json);
    json = json_of("linear", 128, 1e4, 4, 4096);
    NEAR(4096 * pow(1e4, -get(json, PATH("related.oka_j")) / 64) / 4, star, 1e-7);
    free(json);
}

static double men(const double *theta, int n, int m)
{
    double sum = 0;
    for (int j = 0; j < n; j++) sum += cos(m * theta[j]);
    return sum;
}

static int men_first(const double *theta, int n, int most)
{
    for (int m = 1; m <= most; m++)
        if (men(theta, n, m) < 0) return m;
    return 0;
}

/* The first m with B(m) < 0; and that the base found holds, that a little less does not, and that
 * none of a grid below does. */
static void check_men(const char *kind, int n_rot, double base, double factor, int n_ctx)
{
    Lone y;
    double theta[128];
    int n = n_rot / 2;
    lone_new(&y, kind, n_rot, base, factor, n_ctx);
    char *json = written(&y.m, 0, 1);
    double first = get(json, PATH("related.men_context"));
    int want = men_first(y.rope[0].inv_freq, n, 65536);
    CHECK_MSG(want ? (int)first == want : isnan(first), "%s %d, base %g: %g, not %d", kind, n_rot,
              base, first, want);
    double least = get(json, PATH("related.men_least_base"));
    for (int j = 0; j < n; j++) theta[j] = pow(least, -(double)j / n);
    CHECK_MSG(men_first(theta, n, n_ctx - 1) == 0, "base %g does not hold", least);
    for (double b = least / 1.0005; b > 1; b /= 1.07) {
        for (int j = 0; j < n; j++) theta[j] = pow(b, -(double)j / n);
        CHECK_MSG(men_first(theta, n, n_ctx - 1) > 0, "base %g, below %g, holds", b, least);
    }
    free(json);
    rope_free(&y.rope[0]);
}

static void test_men(void)
{
    check_men("plain", 128, 1e4, 1, 2048);
    check_men("plain", 128, 1e4, 1, 1024);
    check_men("linear", 64, 1e4, 4, 2048);
    check_men("plain", 32, 1e4, 1, 700);
    check_men("plain", 256, 5e5, 1, 1000);
    char *json = json_of("plain", 2, 1e4, 1, 2048); /* cos m alone: no base helps */
    NEAR(get(json, PATH("related.men_context")), 2, 0);
    CHECK(isnan(get(json, PATH("related.men_least_base"))));
    free(json);
    json = json_of("plain", 32, 1e4, 1, 1); /* nothing is asked of one position */
    CHECK(isnan(get(json, PATH("related.men_least_base"))));
    CHECK(strstr(json, "any base will do") && !strstr(json, "there is none below"));
    free(json);
}

static void test_liu(void)
{
    char *json = json_of("plain", 128, 1e4, 1, 4096);
    NEAR(get(json, PATH("related.liu_context")), 62831.85307, 1e-8);
    NEAR(get(json, PATH("related.liu_base")), 4096 / 0.45102681179626236, 1e-8);
    CHECK(isnan(get(json, PATH("related.liu_base_of_depth")))); /* no layers */
    NEAR(get(json, PATH("related.liu_base_most_float32")), 8388608, 0);
    free(json);
    Lone y;
    Layer layer[3] = {{.n_heads = 1, .n_kv_heads = 1},
                      {.n_heads = 1, .n_kv_heads = 1},
                      {.n_heads = 1, .n_kv_heads = 1}};
    lone_new(&y, "plain", 128, 1e4, 1, 4096);
    y.m.n_layers = 3, y.m.layer = layer;
    json = written(&y.m, 0, 1);
    double base = get(json, PATH("related.liu_base_of_depth")), c = cos(4096 / base);
    NEAR(c * c * c, 0.9, 1e-8);
    free(json);
    rope_free(&y.rope[0]);
}

/* ---- odd encodings ---- */

static void check_text(const Model *m, double n_ctx, const char *words)
{
    char *json = written(m, n_ctx, 1), *text = written(m, n_ctx, 0);
    CHECK_MSG(strstr(json, words) != NULL, "the JSON does not say '%s'", words);
    char *flat = text; /* sentences are wrapped: words must meet again */
    for (char *s = text; *s; s++)
        if (*s != '\n' || strncmp(s, "\n  ", 3))
            *flat++ = *s;
        else
            s += 1;
    *flat = 0;
    CHECK_MSG(strstr(text, words) != NULL, "the text does not say '%s'", words);
    free(json), free(text);
}

static void test_odd(void)
{
    Lone y;
    lone_new(&y, "plain", 64, 1e4, 1, 0);
    check_text(&y.m, 0, "trained context P is unknown");
    check_text(&y.m, 2048, "make at most one turn over P = 2048 tokens");
    char *json = written(&y.m, 0, 1);
    CHECK(isnan(get(json, PATH("t3_lo.31"))) && isnan(get(json, PATH("first_half"))));
    CHECK(strstr(json, "\"unknown\"") != NULL);
    free(json);
    json = written(&y.m, 2048, 1);
    NEAR(get(json, PATH("first_half")), 23, 0);
    free(json);
    y.rope[0].inv_freq[3] = 3.2; /* aliased */
    y.rope[0].amplitude = 1.25;
    check_text(&y.m, 2048, "1 pair turns by more than pi from one token to the next");
    check_text(&y.m, 2048, "so the logits of its pairs by 1.562");
    rope_free(&y.rope[0]);

    lone_new(&y, "none", 64, 1e4, 1, 2048);
    check_text(&y.m, 0, "No pair turns");
    json = written(&y.m, 0, 1);
    CHECK(isnan(get(json, PATH("best_phi.0"))) && isnan(get(json, PATH("related.oka_pair"))));
    CHECK(length(json, PATH("related.fope_clips")) == 0 && strstr(json, "\"still\"") != NULL);
    free(json);
    rope_free(&y.rope[0]);

    lone_new(&y, "plain", 8, 1e4, 1, 4); /* every pair is slower than half a turn, but the first */
    y.rope[0].inv_freq[2] = 0;
    check_text(&y.m, 0, "1 of 4 pairs do not turn");
    check_text(&y.m, 0, "FoPE (arXiv:2412.17739) sets theta < 2 pi/P to 0: pairs 0 .. 1, 3.");
    rope_free(&y.rope[0]);
    free(json_of("plain", 64, 1e15, 1, 1 << 20));
    free(json_of("plain", 64, 1, 1, 2048)); /* base 1: all pairs alike */
    free(json_of("plain", 2, 1e4, 1, 1));
}

/* Two encodings: each with its layers. Divisors, too, and a part of the head that does not turn. */
static void test_ropes(void)
{
    Lone y;
    Err e;
    const float divisors[4] = {1, 1, 8, 8};
    Layer layer[5];
    for (int l = 0; l < 5; l++) layer[l] = (Layer){.n_heads = 1, .n_kv_heads = 1, .rope = l == 3};
    lone_new(&y, "plain", 8, 1e6, 1, 4096);
    RopeParams p = {
        .head_dim = 20, .n_rot = 8, .base = 1e4, .factor = 1, .n_ctx_orig = 64, .pos_scale = 1};
    p.divisors = divisors;
    CHECK(rope_new(&y.rope[1], rope_find("plain"), &p, ROPE_ADJACENT, NULL, &e) == 0);
    y.m.n_ropes = 2, y.m.n_layers = 5, y.m.layer = layer;
    char *json = written(&y.m, 0, 1);
    CHECK(length(json, "encodings.0.layers") == 4 && length(json, "encodings.1.layers") == 1);
    NEAR(get(json, "encodings.1.layers.0"), 3, 0);
    NEAR(get(json, "encodings.0.rope.x.1"), 4096 * pow(1e6, -0.25), 1e-8);
    NEAR(get(json, "encodings.1.rope.x.2"), 64 * 1e-2 / 8, 1e-8);
    NEAR(get(json, "encodings.1.best_phi.2"), PI - 64 * 1e-2 / 16, 1e-8);
    CHECK(isnan(get(json, "encodings.1.related.oka_j")));
    free(json);
    check_text(&y.m, 0, "8 of the 20 values of a head belong to rotary pairs");
    check_text(&y.m, 0, "Frequency Bands");
    char *text = written(&y.m, 0, 0);
    CHECK(strstr(text, "layers 0 .. 2, 4\n") && strstr(text, "layers 3\n"));
    free(text);
    rope_free(&y.rope[0]);
    rope_free(&y.rope[1]);
}

/* ---- biases ---- */

enum { D = 10, HEADS = 4, KV = 2 };

/* Radius 1 + j, direction 0.1 (head + 1) for queries, and 0.2 for keys; one strong pair. */
static void set_biases(const Rope *r, float *bq, float *bk)
{
    for (int h = 0; h < HEADS; h++)
        for (int j = 0, a, b; j < 4; j++) {
            double strong = h == 2 && j == 3 ? 50 : 1;
            a = r->layout == ROPE_HALF ? j : 2 * j; /* rows of the file */
            b = r->layout == ROPE_HALF ? j + 4 : 2 * j + 1;
            bq[h * D + a] = (float)(strong * (1 + j) * cos(0.1 * (h + 1)));
            bq[h * D + b] = (float)(strong * (1 + j) * sin(0.1 * (h + 1)));
            if (h < KV) bk[h * D + a] = (float)((1 + j) * cos(-0.2));
            if (h < KV) bk[h * D + b] = (float)((1 + j) * sin(-0.2));
        }
}

static void test_biases(int layout)
{
    Lone y;
    float bq[HEADS * D] = {0}, bk[KV * D] = {0};
    Layer layer[2] = {{.n_heads = HEADS, .n_kv_heads = KV}, {.n_heads = HEADS, .n_kv_heads = KV}};
    lone_new(&y, "plain", 8, 1e4, 1, 512);
    y.rope[0].layout = layout;
    set_biases(&y.rope[0], bq, bk);
    layer[1].bq = bq;
    y.m.n_layers = 2, y.m.layer = layer, y.m.head_dim = D;
    char *json = written(&y.m, 0, 1);
    CHECK(length(json, "biases") == 1);
    NEAR(get(json, "biases.0.layer"), 1, 0);
    CHECK(isnan(get(json, "biases.0.k")) && length(json, "biases.0.q") == HEADS);
    NEAR(get(json, "biases.0.q.3.radius.2"), 3, 1e-6);
    NEAR(get(json, "biases.0.q.3.angle.2"), 0.4, 1e-6);
    free(json);
    layer[1].bk = bk;
    json = written(&y.m, 0, 1);
    NEAR(get(json, "biases.0.k.1.angle.0"), -0.2, 1e-6);
    NEAR(get(json, "biases.0.k.1.radius.3"), 4, 1e-6);
    free(json);
    char *text = written(&y.m, 0, 0), *q = strstr(text, "Strongest query biases");
    char *both = strstr(text, "Strongest products"), *row = both ? strstr(both, "\n      1") : NULL;
    CHECK(q && strstr(q, "\n      1     2     3       200"));
    CHECK(row && strstr(row, "     2     3       800"));
    CHECK(row && strstr(row, "0.16")); /* (0.3 + 0.2) / pi */
    free(text);
    bq[0] = NAN;
    json = written(&y.m, 0, 1);
    CHECK(isnan(get(json, "biases.0.q.0.radius.0")));
    free(json);
    text = written(&y.m, 0, 0);
    CHECK(!strstr(text, "nan"));
    free(text);
    layer[1].bq = layer[1].bk = NULL;
    json = written(&y.m, 0, 1);
    CHECK(isnan(get(json, "biases")));
    free(json);
    rope_free(&y.rope[0]);
}

/* ---- the options of check ---- */

static void check_list(const char *list, int rc, unsigned judged)
{
    CheckOptions c;
    Err e = {.usage = 0};
    int got = check_options(&c, list, 0.1, &e);
    CHECK_MSG(got == rc && (rc ? e.usage && strstr(e.msg, list) : c.judged == judged),
              "%s: %d, %x, %s", list ? list : "-", got, c.judged, e.msg);
}

static void test_lists(void)
{
    check_list(NULL, 0, 1 | 8 | 32);
    check_list("F1,B1,B3", 0, 1 | 8 | 32);
    check_list("T3", 0, 4);
    check_list("B4,F2,B2,F2", 0, 64 | 16 | 2);
    check_list("all", 0, 127);
    check_list("F3", -1, 0);
    check_list("", -1, 0);
    check_list("F1,", -1, 0);
    check_list(",F1", -1, 0);
    check_list("F1,,T3", -1, 0);
    check_list("F", -1, 0);
    check_list("F1 ", -1, 0);
}

int main(void)
{
    test_first_pairs();
    test_theorems();
    test_oka();
    test_men();
    test_liu();
    test_odd();
    test_ropes();
    for (int layout = ROPE_ADJACENT; layout <= ROPE_HALF; layout++) test_biases(layout);
    test_lists();
    return check_done();
}
