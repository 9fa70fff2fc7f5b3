/* The probe and the reading: synthetic heads of known radius and angle, the sign convention by
 * brute force, attention sinks of known size, the same bytes for any batch, and odd inputs. Results
 * are read back from the JSON, as a user would. (The figures of a real layer: test_activations.c.)
 */
#include "../model.h"
#include "check.h"
#include "json.h"

#include <string.h>

#define PI 3.14159265358979323846

/* ---- a model that is only a shape ---- */

typedef struct {
    Model m;
    Layer layer[4];
    Rope rope;
} Shape;

static void shape_new(Shape *s, int n_layers, int n_heads, int n_kv, int n_rot, int layout,
                      const char *kind, int n_ctx)
{
    Err e;
    RopeParams p = {.head_dim = n_rot + 4,
                    .n_rot = n_rot,
                    .base = 10000,
                    .factor = 1,
                    .n_ctx_orig = n_ctx,
                    .pos_scale = 1};
    *s = (Shape){0};
    CHECK(rope_new(&s->rope, rope_find(kind), &p, layout, NULL, &e) == 0);
    s->m = (Model){.n_layers = n_layers,
                   .head_dim = n_rot + 4,
                   .n_ctx_train = n_ctx,
                   .max_heads = n_heads,
                   .max_kv_heads = n_kv,
                   .layer = s->layer,
                   .rope = &s->rope,
                   .n_ropes = 1};
    for (int l = 0; l < n_layers; l++)
        s->layer[l] = (Layer){.n_heads = n_heads, .n_kv_heads = n_kv};
}

static Provenance made(void)
{
    return (Provenance){.model_path = "a</script>\"\\\xff.gguf",
                        .text_path = "text & more",
                        .bos_policy = "each window",
                        .isa = "base",
                        .model_sha256 = "00ff",
                        .n_ctx = 128,
                        .exact = 1,
                        .n_threads = 3,
                        .n_tokens = 1,
                        .n_windows = 1};
}

/* What a report function writes, as a string to free. */
static char *captured(const Analysis *a, const Provenance *p, int json)
{
    static char *s;
    static size_t n;
    FILE *f = open_memstream(&s, &n);
    if (json)
        analysis_json(a, p, f);
    else
        analysis_print(a, p, f, NULL);
    fclose(f);
    return s;
}

static char *json_of(const Analysis *a)
{
    Provenance p = made();
    char *s = captured(a, &p, 1);
    CHECK(json_has_no_nan(s));
    return s;
}

static Analysis *start(const Shape *s)
{
    AnalysisOptions o = analysis_defaults();
    return analysis_new(&s->m, &o);
}

/* Head vectors x[n][D], rotated to positions pos .. */
static void turn(const Shape *s, float *x, int pos, int n)
{
    for (int i = 0; i < n; i++, x += s->m.head_dim)
        for (int j = 0; j < s->rope.n_pairs; j++) {
            int ia, ib;
            rope_pair(&s->rope, j, &ia, &ib);
            double c = cos((pos + i) * s->rope.inv_freq[j]);
            double d = sin((pos + i) * s->rope.inv_freq[j]);
            double a = (double)x[ia], b = (double)x[ib];
            x[ia] = (float)(a * c - b * d);
            x[ib] = (float)(a * d + b * c);
        }
}

static void put(const Shape *s, float *x, int j, double r, double angle)
{
    int a, b;
    rope_pair(&s->rope, j, &a, &b);
    x[a] = (float)(r * cos(angle));
    x[b] = (float)(r * sin(angle));
}

/* Shows n vectors of one query or key head, before and after rotation. */
static void show(const Analysis *a, const Shape *s, int is_q, int l, int h, int pos, int n,
                 const float *x)
{
    const Probe *p = analysis_probe(a);
    size_t D = (size_t)s->m.head_dim;
    float *y = xcalloc((size_t)n * D, sizeof *y);
    memcpy(y, x, (size_t)n * D * sizeof *y);
    turn(s, y, pos, n);
    (is_q ? p->q : p->k)(p->ctx, l, h, BEFORE_ROPE, pos, n, x, D);
    (is_q ? p->q : p->k)(p->ctx, l, h, AFTER_ROPE, pos, n, y, D);
    free(y);
}

/* ---- radius, concentration, angle, candidates ---- */

enum { N_TOK = 41, PAIRS = 8, STRONG = 5 };
static const double q_dir = 2.1, k_dir = -0.4, spread = 0.2;

/* Token 0 short; then pair j has radius 1 (the strong one 9), directions q_dir +- spread. */
static void known_tokens(const Shape *s, float *x, double dir, double scale)
{
    for (int i = 0; i < N_TOK; i++)
        for (int j = 0; j < PAIRS; j++) {
            double r = (j == STRONG ? 9 : 1 + 0.1 * j) * scale;
            put(s, x + i * s->m.head_dim, j, i ? r : 0.25 * r, dir + (i % 2 ? spread : -spread));
        }
}

static void check_known_pair(const Shape *s, const char *json, int h, int j)
{
    double r = j == STRONG ? 9 : 1 + 0.1 * j, x = s->rope.inv_freq[j] * 1024;
    double phi = q_dir - k_dir, mean = 0, worst = -1;
    NEAR(get(json, "layers.1.heads.%d.r_q.%d", h, j), r, 1e-6);
    NEAR(get(json, "layers.1.heads.%d.r_k.%d", h, j), 2 * r, 1e-6);
    NEAR(get(json, "layers.1.heads.%d.R_q.%d", h, j), cos(spread), 1e-6);
    NEAR(get(json, "layers.1.heads.%d.dir_k.%d", h, j), k_dir, 1e-6);
    NEAR(get(json, "layers.1.heads.%d.phi.%d", h, j), phi, 1e-6);
    NEAR(get(json, "layers.1.heads.%d.rms_k.%d", h, j), 2 * r, 1e-6);
    NEAR(get(json, "layers.1.heads.%d.max_q.%d", h, j), r, 1e-6);
    NEAR(get(json, "layers.1.heads.%d.first_k.%d", h, j), 0.5 * r, 1e-6);
    NEAR(get(json, "layers.1.heads.%d.max_k_at.%d.0", h, j), 0, 0);
    NEAR(get(json, "ropes.0.x.%d", j), x, 1e-6);
    NEAR(get(json, "ropes.0.cycles.%d", j), s->rope.inv_freq[j] * 1024 / (2 * PI), 1e-6);
    NEAR(get(json, "ropes.0.wavelength.%d", j), 2 * PI * pow(10000, j / (double)PAIRS), 1e-6);
    for (int i = 0; i < 20000; i++) {
        double c = cos(phi + x * (i + 0.5) / 20000);
        mean += c / 20000;
        worst = fmax(worst, c);
    }
    NEAR(get(json, "layers.1.heads.%d.gain.%d", h, j), mean, 1e-4);
    CHECK((get(json, "layers.1.heads.%d.t3_slack.%d", h, j) >= 0) == (worst <= 0) || x > 2 * PI);
}

static void test_known_head(int layout)
{
    Shape s;
    shape_new(&s, 2, 4, 2, 2 * PAIRS, layout, "plain", 1024);
    Analysis *a = start(&s);
    float *q = xcalloc((size_t)(N_TOK * s.m.head_dim), sizeof *q), *k;
    k = xcalloc((size_t)(N_TOK * s.m.head_dim), sizeof *k);
    known_tokens(&s, q, q_dir, 1);
    known_tokens(&s, k, k_dir, 2);
    for (int l = 0; l < 2; l++) {
        for (int h = 0; h < 4; h++) show(a, &s, 1, l, h, 0, N_TOK, q);
        for (int h = 0; h < 2; h++) show(a, &s, 0, l, h, 0, N_TOK, k);
    }
    char *json = json_of(a);
    for (int j = 0; j < PAIRS; j++) check_known_pair(&s, json, 3, j);
    NEAR(get(json, "layers.0.heads.2.kv_head"), 1, 0);
    NEAR(get(json, "layers.0.heads.2.n_q"), N_TOK - 1, 0);
    NEAR(get(json, "layers.0.heads.2.top_pair"), STRONG, 0);
    NEAR(get(json, "layers.0.heads.2.candidates.0"), STRONG, 0);
    CHECK(length(json, "layers.0.heads.2.strong") == 1);
    NEAR(get(json, "ropes.0.hf_channels.3.1"), 3 + PAIRS, 0);
    NEAR(get(json, "summary.n_candidates"), 8, 0);
    NEAR(get(json, "summary.top_first_k_over_mean_k"), 0.25, 1e-6);
    CHECK(get(json, "summary.radius_self_check") < 1e-6);
    free(json), free(q), free(k);
    analysis_free(a);
    rope_free(&s.rope);
}

/* ---- one strong pair of chosen x and phi ---- */

/* The reading of a head whose pair STRONG turns by x over P and has that phi; the tokens of q lie
 * +- wide about their mean. after: what rotation makes of the radii, 1 if it is right. */
static char *one_strong(double x, double phi, double wide, double after)
{
    Shape s;
    shape_new(&s, 1, 1, 1, 2 * PAIRS, ROPE_HALF, "plain", 1024);
    s.rope.inv_freq[STRONG] = x / 1024;
    Analysis *a = start(&s);
    const Probe *p = analysis_probe(a);
    float q[N_TOK * 20] = {0}, k[N_TOK * 20] = {0};
    for (int i = 0; i < N_TOK; i++)
        for (int j = 0; j < PAIRS; j++) {
            put(&s, q + i * 20, j, j == STRONG ? 9 : 1, 0.3 + phi + (i % 2 ? wide : -wide));
            put(&s, k + i * 20, j, j == STRONG ? 9 : 1, 0.3);
        }
    p->q(p->ctx, 0, 0, BEFORE_ROPE, 0, N_TOK, q, 20);
    show(a, &s, 0, 0, 0, 0, N_TOK, k);
    for (int i = 0; i < N_TOK * 20; i++) q[i] *= (float)after;
    p->q(p->ctx, 0, 0, AFTER_ROPE, 0, N_TOK, q, 20);
    char *json = json_of(a);
    analysis_free(a);
    rope_free(&s.rope);
    return json;
}

/* Which bounds are asked of the pair, and hold: bit i is bound i of the list F1 .. B4. */
static void check_bounds(int line, double x, double phi, unsigned asked, unsigned held)
{
    char *json = one_strong(x, phi, 0, 1);
    for (int i = 0; i < 7; i++) {
        int of = (int)get(json, "summary.bounds.%d.strong_of", i);
        int hits = (int)get(json, "summary.bounds.%d.strong_hits", i);
        char path[64];
        snprintf(path, sizeof path, "summary.bounds.%d.exceptions", i);
        check_msg(of == (int)(asked >> i & 1), __FILE__, line, "asked", "bound %d: of %d", i, of);
        check_msg(hits == (int)(held >> i & 1), __FILE__, line, "held", "bound %d: %d", i, hits);
        check_msg(length(json, path) == of - hits, __FILE__, line, "exceptions", "bound %d", i);
        if (of > hits) NEAR(get(json, "summary.bounds.%d.exceptions.0.2", i), STRONG, 0);
    }
    free(json);
}

#define BOUNDS(x, phi, asked, held) check_bounds(__LINE__, x, phi, asked, held)

/* Just inside and just outside of every end. */
static void test_bounds(void)
{
    enum { F1 = 1, F2 = 2, T3 = 4, B1 = 8, B2 = 16, B3 = 32, B4 = 64 };
    const unsigned all = 127, wide = F1 | F2 | B2 | B3 | B4;
    const double d = 1e-4;
    BOUNDS(2 * PI - d, 3, wide, F1 | B2 | B3 | B4);
    BOUNDS(2 * PI + d, 3, F1 | F2, 0);
    BOUNDS(PI - d, PI / 2 + 0.75 * d, all, all);
    BOUNDS(PI + d, 3, wide, F1 | B2 | B3 | B4);
    BOUNDS(1, PI / 2 - d, all, F1 | F2 | B3);                  /* T3, B1 */
    BOUNDS(1, PI / 2 + d, all, F1 | F2 | T3 | B1 | B3);        /* the same, inside */
    BOUNDS(1, 3 * PI / 2 - 1 - d, all, all);                   /* the upper end of T3 */
    BOUNDS(1, 3 * PI / 2 - 1 + d, all, all & ~(unsigned)T3);   /* outside */
    BOUNDS(1, PI - 0.5 - d, all, F1 | F2 | T3 | B1 | B3 | B4); /* B2 */
    BOUNDS(1, PI - 0.5 + d, all, all);                         /* inside */
    BOUNDS(1, PI / 2 - 0.5 - d, all, F1 | F2);                 /* B3 */
    BOUNDS(1, PI / 2 - 0.5 + d, all, F1 | F2 | B3);            /* inside */
    BOUNDS(1, PI - 1 - d, all, F1 | F2 | T3 | B1 | B3);        /* B4 */
    BOUNDS(1, PI - 1 + d, all, F1 | F2 | T3 | B1 | B3 | B4);   /* inside */
    BOUNDS(1, 2 * PI - d, all, all & ~(unsigned)T3);           /* no upper end */
}

/* The chance of a hit, against a count over a grid of angles. */
static void test_chance(void)
{
    const double at[] = {0.3, 1, 3, 4.5, 6.2};
    for (int i = 0; i < 5; i++) {
        double x = at[i], n[4] = {0};
        for (int g = 0; g < 20000; g++) {
            double phi = 2 * PI * (g + 0.5) / 20000;
            n[0] += (phi >= PI / 2 && phi <= 1.5 * PI - x) / 20000.0;
            n[1] += (phi >= PI - x / 2) / 20000.0;
            n[2] += (phi >= (PI - x) / 2) / 20000.0;
            n[3] += (phi >= PI - x) / 20000.0;
        }
        char *json = one_strong(x, 3, 0, 1);
        if (x <= PI) NEAR(get(json, "summary.bounds.2.strong_chance"), n[0], 1e-4);
        if (x <= PI) NEAR(get(json, "summary.bounds.3.top_chance"), 0.75, 1e-9);
        for (int b = 4; b < 7; b++)
            NEAR(get(json, "summary.bounds.%d.strong_chance", b), n[b - 3], 1e-4);
        free(json);
    }
    char *json = one_strong(1, 3, 0, 1); /* P = 1024: x <= 2 pi from pair 5 of 8 */
    NEAR(get(json, "summary.bounds.0.strong_chance"), 2 / 8.0 + 1 / 8.0, 1e-9);
    free(json);
}

static void check_counts(double x, double phi, double wide, int strong, int candidates)
{
    char *json = one_strong(x, phi, wide, 1);
    int s = (int)get(json, "summary.n_strong"), c = (int)get(json, "summary.n_candidates");
    CHECK_MSG(s == strong && c == candidates, "x %g, phi %g: %d strong, %d candidates", x, phi, s,
              c);
    free(json);
}

static void test_candidates(void)
{
    check_counts(1, PI / 2 - 0.5 + 1e-4, 0, 1, 1); /* the mean is negative just above B3 */
    check_counts(1, PI / 2 - 0.5 - 1e-4, 0, 1, 0);
    check_counts(1, 1.5 * PI - 0.5 - 1e-4, 0, 1, 1);
    check_counts(1, 1.5 * PI - 0.5 + 1e-4, 0, 1, 0);
    check_counts(2 * PI - 1e-3, 0, 0, 1, 1); /* less than a turn */
    check_counts(2 * PI + 1e-3, 0, 0, 1, 0);
    check_counts(1, 3, acos(0.9501), 1, 1); /* R_q */
    check_counts(1, 3, acos(0.9499), 0, 0);
}

static void test_self_check(void)
{
    char *json = one_strong(1, 3, 0, 1);
    CHECK(get(json, "summary.radius_self_check") < 1e-6 && !strstr(json, "Self-check failed"));
    free(json);
    json = one_strong(1, 3, 0, 1.01);
    NEAR(get(json, "summary.radius_self_check"), 0.01, 1e-5);
    CHECK(strstr(json, "Self-check failed") != NULL);
    free(json);
}

/* q at m and k at n, both rotated: their product is r_q r_k cos(phi + theta (m - n)), with the
 * phi that the report gives. Seen to fail with phi = arg k - arg q and with n - m. */
static void test_sign(int layout)
{
    Shape s;
    shape_new(&s, 1, 1, 1, 2, layout, "plain", 2048);
    s.rope.inv_freq[0] = 0.37;
    for (int t = 0; t < 20; t++) {
        Analysis *a = start(&s);
        float q[2 * 6] = {0}, k[2 * 6] = {0};
        double rq = 1 + 0.1 * t, rk = 3 - 0.1 * t;
        put(&s, q + 6, 0, rq, 0.7 * t);
        put(&s, k + 6, 0, rk, 1.9 * t + 0.3);
        show(a, &s, 1, 0, 0, 0, 2, q);
        show(a, &s, 0, 0, 0, 0, 2, k);
        char *json = json_of(a);
        double phi = get(json, "layers.0.heads.0.phi.0");
        CHECK(phi >= 0 && phi < 2 * PI);
        for (int m = 0; m < 12; m++)
            for (int n = 0; n <= m; n++) {
                float u[6], v[6];
                memcpy(u, q + 6, sizeof u), memcpy(v, k + 6, sizeof v);
                turn(&s, u, m, 1), turn(&s, v, n, 1);
                double dot = 0;
                for (int c = 0; c < 6; c++) dot += (double)u[c] * (double)v[c];
                NEAR(dot, rq * rk * cos(phi + 0.37 * (m - n)), 1e-5);
            }
        free(json);
        analysis_free(a);
    }
    rope_free(&s.rope);
}

/* ---- the same bytes however the tokens come ---- */

static void random_heads(Rng *rng, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = rng_float(rng);
}

/* One row of attention of layer 0, without queries and keys. */
static void show_row(const Probe *p, int h, int pos, int t0, const float *scores,
                     const float *weights)
{
    AttnRow row = {
        .h = h, .pos = pos, .t0 = t0, .n_t = pos + 1 - t0, .scores = scores, .weights = weights};
    p->attn(p->ctx, &row);
}

enum { CH_TOK = 53, CH_D = 16 + 4 };

/* Two windows of the same tokens, in batches of any size, heads in either order. */
static char *chunked(const Shape *s, const float *x, const AnalysisOptions *o, int batch,
                     int reverse)
{
    Analysis *a = analysis_new(&s->m, o);
    const Probe *p = analysis_probe(a);
    for (int w = 0; w < 2; w++) {
        analysis_window(a);
        for (int pos = 0; pos < CH_TOK; pos += batch)
            for (int i = 0; i < 4; i++) {
                int h = reverse ? 3 - i : i, n = pos + batch > CH_TOK ? CH_TOK - pos : batch;
                const float *y = x + ((2 * h + w) * CH_TOK + pos) * CH_D;
                show(a, s, 1, 0, h, pos, n, y);
                if (h < 2) show(a, s, 0, 0, h, pos, n, y);
                for (int t = 0; t < n; t++) show_row(p, h, pos + t, 0, x, x + h);
            }
    }
    char *json = json_of(a);
    analysis_free(a);
    return json;
}

/* Batches shorter and longer than what is held back and than what is summed at once, on every
 * instruction set. */
static void check_chunks(const Shape *s, const float *x, AnalysisOptions o, const char *all)
{
    static const int batch[] = {1, 3, 7, 16, 17, 33, CH_TOK};
    for (int k = 0; kernels_at(k); k++)
        for (int i = 0; i < 7 && kernels_at(k)->usable(); i++) {
            o.isa = kernels_at(k)->name;
            char *part = chunked(s, x, &o, batch[i], i % 2 == 0);
            CHECK_MSG(!strcmp(all, part), "batch %d, %s", batch[i], o.isa);
            free(part);
        }
}

static void test_chunks(int layout)
{
    static float x[4 * 2 * CH_TOK * CH_D];
    Shape s;
    Rng rng = rng_new(7);
    AnalysisOptions o = analysis_defaults();
    shape_new(&s, 1, 4, 2, 16, layout, "plain", 512);
    random_heads(&rng, x, sizeof x / sizeof *x);
    for (int c = 0; c < 16; c++) /* head 0, the same long vector twice: the first one is named */
        x[5 * CH_D + c] = x[(CH_TOK + 3) * CH_D + c] = 2;
    o.n_skip = 5;
    char *all = chunked(&s, x, &o, CH_TOK, 0);
    check_chunks(&s, x, o, all);
    free(all);
    o.n_skip = 1;
    all = chunked(&s, x, &o, CH_TOK, 0);
    check_chunks(&s, x, o, all);
    NEAR(get(all, "layers.0.heads.0.n_q"), 2 * (CH_TOK - 1), 0);
    NEAR(get(all, "layers.0.heads.0.max_q_at.7.0"), 0, 0);
    NEAR(get(all, "layers.0.heads.0.max_q_at.7.1"), 5, 0);
    NEAR(get(all, "layers.0.heads.0.max_q.7"), sqrt(8), 1e-8);
    free(all);
    rope_free(&s.rope);
}

/* ---- attention to the first token ---- */

static void show_window(Analysis *a, int h, int n, float w, int t_visible)
{
    const Probe *p = analysis_probe(a);
    for (int pos = 0; pos < n; pos++) {
        int t0 = t_visible && pos >= t_visible ? pos - t_visible + 1 : 0, n_t = pos + 1 - t0;
        float row[1024];
        for (int t = 0; t < n_t; t++) row[t] = t ? (1 - w) / (float)(n_t - 1) : n_t > 1 ? w : 1;
        show_row(p, h, pos, t0, row, row);
    }
}

static void test_sinks(void)
{
    Shape s;
    shape_new(&s, 1, 2, 1, 4, ROPE_ADJACENT, "plain", 512);
    Analysis *a = start(&s);
    analysis_window(a);
    show_window(a, 0, 10, 0.5f, 0), show_window(a, 1, 10, 0.1f, 0);
    char *json = json_of(a); /* only a short window yet: it counts with its own length */
    NEAR(get(json, "summary.alpha_t"), 10, 0);
    NEAR(get(json, "layers.0.heads.0.alpha_1_t"), (1 + 9 * 0.5) / 10, 1e-6);
    NEAR(get(json, "summary.sink_1"), 0.5, 1e-9);
    free(json);
    analysis_window(a);
    show_window(a, 0, 100, 0.4f, 0), show_window(a, 1, 100, 0.4f, 20);
    analysis_window(a);
    show_window(a, 0, 100, 0.2f, 0), show_window(a, 1, 100, 0.2f, 20);
    json = json_of(a);
    double whole = ((1 + 99 * 0.4) / 100 + (1 + 99 * 0.2) / 100) / 2, equal = 0, seen = 0;
    for (int pos = 0; pos < 100; pos++) equal += 0.01 / (pos + 1);
    for (int pos = 0; pos < 20; pos++) seen += 0.01 / (pos + 1);
    NEAR(get(json, "summary.alpha_1_uniform"), (equal + seen) / 2, 1e-8);
    NEAR(get(json, "summary.alpha_queries"), 100, 0);
    NEAR(get(json, "summary.alpha_windows"), 2, 0);
    NEAR(get(json, "summary.alpha_1_t"), ((2 + 63 * 0.6) + (2 + 19 * 0.6)) / 64 / 4, 1e-6);
    NEAR(get(json, "summary.alpha_t"), 64, 0);
    NEAR(get(json, "summary.n_samples"), 4, 0);
    NEAR(get(json, "layers.0.heads.0.alpha_1"), whole, 1e-6);
    NEAR(get(json, "layers.0.heads.0.alpha_1_t"), (2 + 63 * 0.6) / 64 / 2, 1e-6);
    NEAR(get(json, "layers.0.heads.1.alpha_1_t"), (2 + 19 * 0.6) / 64 / 2, 1e-6);
    NEAR(get(json, "layers.0.heads.0.sink_share"), 0.5, 1e-9);
    NEAR(get(json, "summary.sink_1"), 0.25, 1e-9);
    free(json);
    analysis_free(a);
    rope_free(&s.rope);
}

/* Windows of n queries, then one of n_more: the last, short one changes nothing. */
static void test_short_window(void)
{
    Shape s;
    shape_new(&s, 1, 1, 1, 4, ROPE_HALF, "plain", 512);
    const int more[] = {0, 1, 99, 100};
    for (int i = 0; i < 4; i++) {
        Analysis *a = start(&s);
        analysis_window(a);
        show_window(a, 0, 100, 0.25f, 0);
        analysis_window(a);
        show_window(a, 0, more[i], 0.5f, 0);
        char *json = json_of(a);
        double alpha = (1 + 99 * 0.25) / 100, both = (alpha + (1 + 99 * 0.5) / 100) / 2;
        NEAR(get(json, "summary.alpha_1"), more[i] == 100 ? both : alpha, 1e-7);
        NEAR(get(json, "summary.alpha_windows"), 1 + (more[i] == 100), 0);
        free(json);
        analysis_free(a);
    }
    rope_free(&s.rope);
}

/* ---- odd inputs ---- */

static void check_both(const Analysis *a, const char *sentence)
{
    Provenance p = made();
    char *text = captured(a, &p, 0), *json = json_of(a);
    CHECK_MSG(strstr(json, sentence) != NULL, "'%s' is not in the JSON", sentence);
    CHECK(strstr(text, "What was found") != NULL);
    if (getenv("TEST_VERBOSE")) puts(text);
    CHECK(!strstr(text, " nan") && !strstr(text, "-nan") && !strstr(text, " inf"));
    free(text), free(json);
}

/* One head has a window with a NaN, the other only good ones: only the good ones count. */
static void test_nan_attention(int bad)
{
    Shape s;
    float x[3 * 8] = {0};
    for (int i = 0; i < 24; i++) x[i] = (float)(i + 1);
    shape_new(&s, 1, 2, 2, 4, ROPE_HALF, "plain", 512);
    Analysis *a = start(&s);
    for (int h = 0; h < 2; h++) show(a, &s, 1, 0, h, 0, 3, x), show(a, &s, 0, 0, h, 0, 3, x);
    analysis_window(a);
    show_window(a, bad, 80, NAN, 0), show_window(a, !bad, 80, 0.5f, 0);
    check_both(a, "In 1 of 2 heads 79 rows of attention are not finite");
    char *json = json_of(a);
    CHECK(isnan(get(json, "layers.0.heads.%d.alpha_1", bad)));
    CHECK(isnan(get(json, "layers.0.heads.%d.sink_share", bad)));
    NEAR(get(json, "summary.alpha_1"), (1 + 79 * 0.5) / 80, 1e-7);
    NEAR(get(json, "summary.sink_1"), 1, 0);
    NEAR(get(json, "summary.n_samples"), 1, 0);
    NEAR(get(json, "summary.n_heads_not_finite"), 1, 0);
    CHECK(strstr(json, bad ? "most in layer 0, head 0" : "most in layer 0, head 1") != NULL);
    free(json);
    analysis_window(a);
    show_window(a, bad, 80, 0.25f, 0), show_window(a, !bad, 80, 0.5f, 0);
    json = json_of(a);
    NEAR(get(json, "layers.0.heads.%d.alpha_1", bad), (1 + 79 * 0.25) / 80, 1e-7);
    free(json);
    analysis_free(a);
    a = start(&s); /* nothing but NaN */
    for (int h = 0; h < 2; h++) show_window(a, h, 10, NAN, 0);
    for (int h = 0; h < 2; h++) show(a, &s, 1, 0, h, 0, 3, x), show(a, &s, 0, 0, h, 0, 3, x);
    check_both(a, "In 2 of 2 heads");
    analysis_free(a);
    rope_free(&s.rope);
}

/* Says the sentence, and not the other one, of n equal tokens. */
static void check_said(const Shape *s, const float *q, const float *k, int n, Provenance p,
                       const char *said, const char *unsaid)
{
    Analysis *a = start(s);
    for (int i = 0; i < n; i++) show(a, s, 1, 0, 0, i, 1, q), show(a, s, 0, 0, 0, i, 1, k);
    show_window(a, 0, n, 0.5f, 0);
    char *text = captured(a, &p, 1), *table = captured(a, &p, 0);
    CHECK_MSG(strstr(text, said) != NULL, "'%s' is not said", said);
    CHECK_MSG(!strstr(text, unsaid), "'%s' is said", unsaid);
    CHECK(!strstr(table, "nan") && !strstr(table, "inf "));
    free(text), free(table);
    analysis_free(a);
}

static void test_small(void)
{
    Shape s;
    Provenance p = made();
    float x[12] = {1, 2, 3, 4, 5, 6, 7, 8}, zero[12] = {0};
    shape_new(&s, 1, 1, 1, 8, ROPE_HALF, "plain", 512);
    check_said(&s, x, x, 1, p, "There is nothing to read", "The first token takes");
    check_said(&s, x, x, 32, p, "Only 31 tokens are counted", "candidate in");
    check_said(&s, x, x, 32, p, "Only 31 tokens are counted", "No pair is an offset");
    check_said(&s, x, x, 33, p, "The strongest pair is most often", "tokens are counted");
    check_said(&s, x, zero, 40, p, "r_q r_k is zero", "The strongest pair");
    p.rope_override = "none";
    check_said(&s, x, x, 40, p, "Intervention: an option made the position encoding 'none'",
               "(--pre)");
    p.pre_override = "gpt-2", p.bytes_left_out = 3;
    check_said(&s, x, x, 40, p, "split by 'gpt-2'", "reading was interrupted");
    check_said(&s, x, x, 40, p, "3 bytes of the text have no token", "of 1 heads");
    rope_free(&s.rope);
    shape_new(&s, 1, 1, 1, 8, ROPE_HALF, "none", 512);
    check_said(&s, x, x, 40, p, "rotation is switched off", "does not rotate");
    rope_free(&s.rope);
    shape_new(&s, 1, 1, 1, 2, ROPE_HALF, "plain", 512);
    check_said(&s, x, x, 40, p, "In 0 of 1 head (", "stands out most");
    rope_free(&s.rope);
}

static Err refusal; /* of the last page */

static char *page_with(Str json, Str ablation, int *status)
{
    static char *got;
    static size_t size;
    FILE *f = open_memstream(&got, &size);
    PageFile reading = {"r.json", json}, runs = {"a.json", ablation}, steps = {NULL, {NULL, 0}};
    refusal.msg[0] = 0;
    *status = report_html(&reading, &runs, &steps, f, &refusal);
    fclose(f);
    return got;
}

static char *page_of(const char *json, size_t n, int *status)
{
    return page_with((Str){json, n}, (Str){NULL, 0}, status);
}

/* Pair 0 of the queries is not finite: the first finding, with no cause, and the page's banner. */
static void test_not_finite(void)
{
    Shape s;
    int status;
    float x[12] = {1, 2, 3, 4, 5, 6, 7, 8};
    shape_new(&s, 1, 1, 1, 8, ROPE_HALF, "plain", 512);
    for (int bad = 0; bad < 2; bad++) {
        Analysis *a = start(&s);
        Provenance p = made();
        x[0] = bad ? NAN : 1;
        for (int i = 0; i < 40; i++) show(a, &s, 1, 0, 0, i, 1, x), show(a, &s, 0, 0, 0, i, 1, x);
        char *json = captured(a, &p, 1), *page = page_of(json, strlen(json), &status);
        const char *first = strstr(json, "\"findings\":[\"1 of 4 (head, pair) statistics is not "
                                         "finite, and what follows leaves it out.");
        NEAR(get(json, "summary.n_pairs"), 4, 0);
        CHECK((first != NULL) == bad && !strstr(json, "the model overflowed"));
        const char *banner = strstr(page, "<strong>Not all numbers are finite.</strong> 1 of 4 "
                                          "(head, pair) statistics are not finite.");
        const char *list = strstr(page, "<ul class=\"found\">");
        CHECK((banner != NULL) == bad && list && (!banner || banner < list));
        free(json), free(page);
        analysis_free(a);
    }
    rope_free(&s.rope);
}

static void test_odd(void)
{
    Shape s;
    float x[3 * 12];
    for (int i = 0; i < 36; i++) x[i] = (float)(i + 1);
    shape_new(&s, 1, 1, 1, 8, ROPE_HALF, "plain", 512);
    Analysis *a = start(&s);
    check_both(a, "nothing to read");
    show(a, &s, 1, 0, 0, 0, 1, x), show(a, &s, 0, 0, 0, 0, 1, x); /* only the token left out */
    check_both(a, "nothing to read");
    x[14] = NAN;
    show(a, &s, 1, 0, 0, 1, 2, x + 12), show(a, &s, 0, 0, 0, 1, 2, x + 12);
    check_both(a, "not finite");
    analysis_free(a);
    rope_free(&s.rope);

    shape_new(&s, 1, 1, 1, 8, ROPE_HALF, "none", 512);
    a = start(&s);
    x[14] = 1;
    show(a, &s, 1, 0, 0, 0, 3, x), show(a, &s, 0, 0, 0, 0, 3, x);
    check_both(a, "does not rotate");
    analysis_free(a);
    rope_free(&s.rope);

    shape_new(&s, 1, 1, 1, 8, ROPE_HALF, "plain", 0);
    a = start(&s);
    show(a, &s, 1, 0, 0, 0, 3, x), show(a, &s, 0, 0, 0, 0, 3, x);
    check_both(a, "trained context is unknown");
    analysis_free(a);
    rope_free(&s.rope);
}

/* ---- prediction against observation ---- */

enum { CHECK_HEADS = 4 };

/* Four heads, each with one strong pair of known x and phi: one obeys every bound, one has too
 * small an angle, one turns too often, one too large an angle. n tokens; the first q is scaled. */
static Analysis *planted(Shape *s, int n, double strong, float first)
{
    static const int pair[CHECK_HEADS] = {5, 5, 2, 5};
    static const double phi[CHECK_HEADS] = {3, 1, 3, 4};
    shape_new(s, 1, CHECK_HEADS, CHECK_HEADS, 2 * PAIRS, ROPE_HALF, "plain", 1024);
    s->rope.inv_freq[5] = 1 / 1024.0, s->rope.inv_freq[2] = 50 / 1024.0;
    Analysis *a = start(s);
    float *x = xcalloc((size_t)(n * s->m.head_dim), sizeof *x);
    for (int h = 0; h < CHECK_HEADS; h++)
        for (int is_q = 0; is_q < 2; is_q++) {
            for (int i = 0; i < n * PAIRS; i++) {
                int j = i % PAIRS;
                double r = j == pair[h] ? strong : 1;
                put(s, x + i / PAIRS * s->m.head_dim, j, r, is_q ? 0.3 + phi[h] : 0.3);
            }
            if (is_q && h == 0) x[s->m.head_dim] *= first;
            show(a, s, is_q, 0, h, 0, n, x);
        }
    free(x);
    return a;
}

/* What check says of the planted heads; the outcome in *status. */
static char *checked(int n, double strong, float first, const char *list, double tolerance,
                     int json, int *status)
{
    Shape s;
    Err e;
    CheckOptions c;
    char *out = NULL;
    size_t size = 0;
    Provenance p = made();
    FILE *f = open_memstream(&out, &size);
    Analysis *a = planted(&s, n, strong, first);
    CHECK(check_options(&c, list, tolerance, &e) == 0);
    *status = json ? check_json(a, &p, &c, f) : check_print(a, &p, &c, f, NULL);
    fclose(f);
    if (json) CHECK(json_has_no_nan(out));
    analysis_free(a);
    rope_free(&s.rope);
    return out;
}

static void check_outcome(int line, int n, double strong, float first, const char *list,
                          double tolerance, int want, const char *words)
{
    int status, status_json;
    char *text = checked(n, strong, first, list, tolerance, 0, &status);
    char *json = checked(n, strong, first, list, tolerance, 1, &status_json);
    check_msg(status == want && status_json == want, __FILE__, line, "outcome", "%d and %d, not %d",
              status, status_json, want);
    check_msg(strstr(json, words) != NULL, __FILE__, line, "words", "not said: %s", words);
    NEAR(get(json, "exit_status"), want, 0);
    free(text), free(json);
}

#define OUTCOME(n, strong, first, list, tolerance, want, words)                                    \
    check_outcome(__LINE__, n, strong, first, list, tolerance, want, words)

/* One exception: where it is, and by how much it misses. */
static void check_exception(const char *json, int bound, int i, int h, int j, double miss)
{
    NEAR(get(json, "bounds.%d.exceptions.%d.layer", bound, i), 0, 0);
    NEAR(get(json, "bounds.%d.exceptions.%d.head", bound, i), h, 0);
    NEAR(get(json, "bounds.%d.exceptions.%d.pair", bound, i), j, 0);
    NEAR(get(json, "bounds.%d.exceptions.%d.miss", bound, i), miss, 1e-6);
}

static void test_check(void)
{
    enum { N = 40 };
    int status;
    char *json = checked(N, 9, 1, NULL, 0.1, 1, &status);
    CHECK(strstr(json, "\"schema\":\"ropescope.check/1\"") != NULL);
    NEAR(get(json, "n_strong"), 4, 0);
    NEAR(get(json, "bounds.0.of"), 4, 0);
    NEAR(get(json, "bounds.0.hits"), 3, 0);
    NEAR(get(json, "bounds.0.share_of_exceptions"), 0.25, 1e-9);
    NEAR(get(json, "bounds.3.judged"), 1, 0);
    NEAR(get(json, "bounds.2.judged"), 0, 0);
    CHECK(length(json, "bounds.0.exceptions") == 1 && length(json, "bounds.2.exceptions") == 2);
    check_exception(json, 0, 0, 2, 2, 50 - 2 * PI);      /* F1 */
    check_exception(json, 2, 0, 1, 5, PI / 2 - 1);       /* T3, below */
    check_exception(json, 2, 1, 3, 5, 5 - 1.5 * PI);     /* T3, above */
    check_exception(json, 3, 0, 1, 5, PI / 2 - 1);       /* B1 */
    check_exception(json, 4, 0, 1, 5, PI - 0.5 - 1);     /* B2 */
    check_exception(json, 5, 0, 1, 5, (PI - 1) / 2 - 1); /* B3 */
    free(json);
    char *text = checked(N, 9, 1, "T3", 0.1, 0, &status), *at = strstr(text, "Exceptions of T3");
    CHECK(at && strstr(at, "\n      0     1     5") && strstr(at, "\n      0     3     5"));
    CHECK(!strstr(text, "Exceptions of B1") && strstr(text, "beyond tolerance"));
    free(text);
    OUTCOME(N, 9, 1, NULL, 0.1, CHECK_EXCEPTIONS, "3 of 3 judged bounds");
    OUTCOME(N, 9, 1, NULL, 0.34, CHECK_HOLDS, "All 3 judged bounds");
    OUTCOME(N, 9, 1, "F1", 0.25, CHECK_HOLDS, "The one judged bound");
    OUTCOME(N, 9, 1, "F1", 0.24, CHECK_EXCEPTIONS, "1 of 1 judged bound that");
    OUTCOME(N, 9, 1, "F1,B1", 0.3, CHECK_EXCEPTIONS, "1 of 2 judged bounds");
    OUTCOME(N, 2, 1, NULL, 1, CHECK_NOTHING, "no judged bound was asked of any strong pair");
    OUTCOME(32, 9, 1, NULL, 1, CHECK_NOTHING, "too few tokens are counted");
    OUTCOME(33, 9, 1, NULL, 1, CHECK_HOLDS, "All 3 judged bounds");
    OUTCOME(N, 9, NAN, NULL, 1, CHECK_NOTHING, "the observation itself is at fault");
}

/* ---- SHA-256, JSON strings, the page ---- */

static void check_sha(const char *s, size_t n, const char *want)
{
    char got[65];
    sha256_hex(s, n, got);
    CHECK_MSG(!strcmp(got, want), "%s", got);
}

static void test_sha(void)
{
    check_sha("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check_sha("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *a = xcalloc(1000000, 1);
    memset(a, 'a', 1000000);
    check_sha(a, 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(a);
}

static void check_str(const char *s, size_t n, const char *want)
{
    char *got = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&got, &size);
    json_str(f, s, n);
    fclose(f);
    CHECK_MSG(!strcmp(got, want), "%s, expected %s", got, want);
    free(got);
}

static void test_json_str(void)
{
    check_str("a\"b\\c\n\x7f", 7, "\"a\\\"b\\\\c\\u000a\\u007f\"");
    check_str("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9,
              "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
    check_str("\xc0\x80", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\"");                 /* overlong */
    check_str("\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""); /* surrogate */
    check_str("x\xe2\x82", 3, "\"x\xef\xbf\xbd\xef\xbf\xbd\"");               /* cut */
    check_str("\0z", 2, "\"\\u0000z\"");
}

/* What the page says without a script about how the reading was made. */
static void test_page_made(void)
{
    static const char *const want[] = {
        "encoding, not as the file says</dt><dd>none<",
        "Position encoding</dt><dd>linear<",
        "Context scaling</dt><dd>4<",
        "P, tokens of x = θP</dt><dd>512<",
        "first tokens of a window, this many</dt><dd>1<",
        "alpha_1 above</dt><dd>0.3<",
        "first queries, at most</dt><dd>64<",
        "Text cut by -n</dt><dd>yes<",
        "Interrupted before the end of the text</dt><dd>yes<",
        "left out</dt><dd>7<",
        "Pre-tokenizer, not as the file says</dt><dd>&#60;pre&#62;<"};
    Shape s;
    int status;
    shape_new(&s, 1, 1, 1, 8, ROPE_HALF, "linear", 512);
    s.rope.p.factor = 4;
    Analysis *a = start(&s);
    Provenance p = made();
    char *json = captured(a, &p, 1), *page = page_of(json, strlen(json), &status);
    CHECK(status == 0 && !strstr(page, "Interrupted before") && !strstr(page, "cut by -n</dt>"));
    free(json), free(page);
    p.rope_override = "none", p.pre_override = "<pre>";
    p.text_cut = p.interrupted = 1, p.bytes_left_out = 7;
    json = captured(a, &p, 1), page = page_of(json, strlen(json), &status);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        CHECK_MSG(strstr(page, want[i]) != NULL, "the page has no '%s'", want[i]);
    NEAR(get(json, "ropes.0.factor"), 4, 0);
    NEAR(get(json, "ropes.0.n_ctx_orig"), 512, 0);
    NEAR(get(json, "ropes.0.with_divisors"), 0, 0);
    NEAR(get(json, "provenance.bytes_left_out"), 7, 0);
    free(json), free(page);
    char *table = captured(a, &p, 0);
    CHECK(strstr(table, "factor 4") && strstr(table, "'none' by an option"));
    free(table);
    analysis_free(a);
    rope_free(&s.rope);
}

/* Map, head table, edits and interventions without a script: two layers of one head, four pairs. */
static void test_page_static(void)
{
    static const char json[] =
        "{\"schema\":\"ropescope.analysis/2\",\"provenance\":{\"model_sha256\":\"00\",\"edits\":"
        "null},\"ropes\":[{\"n_pairs\":4,\"x\":[20,5,3,1],\"class\":[\"full\",\"partial\","
        "\"half\",\"half\"]}],\"layers\":[{\"rope\":0,\"heads\":[{\"head\":0,\"top_pair\":0,\"ratio\":"
        "[1,null,1,1],\"candidates\":[]}]},{\"rope\":0,\"heads\":[{\"head\":0,\"top_pair\":2,\"ratio\":"
        "[1,1,100,10],\"candidates\":[2,9],\"phi\":[0,0,3.14159265,0],\"alpha_1\":0.5}]}]}";
    static const char ablation[] =
        "{\"schema\":\"ropescope.ablation/1\",\"provenance\":{\"model_sha256\":\"00\"},\"runs\":["
        "{\"name\":\"drop\",\"n_edited\":7,\"perplexity\":2.5,\"perplexity_error\":null,\"sink_1\":0.25}]}";
    static const char edited[] = "{\"schema\":\"ropescope.analysis/2\",\"provenance\":{\"edits\":"
                                 "\"dropped <2>\"}}";
    static const char *const want[] = {
        "largest: layer 1, pair 2, 100.0 times",
        "<path fill=\"#fee838\" d=\"M72 38h14v14h-14z\"/>\n<circle class=\"ring\" cx=\"79\" cy=\"45\"",
        "<path fill=\"#00224e\" d=\"M44 24h14v14h-14z\"/>",
        "<path class=\"limit\" d=\"M58 24v14\"/>",
        "<path class=\"limit half\" d=\"M72 24v14\"/>",
        "<tr><td class=\"num\">1</td><td class=\"num\">0</td><td class=\"num\">2</td><td class=\"num\">"
        "100.0</td><td class=\"num\">3</td><td class=\"num\">1.000</td><td class=\"num\">0.500</td>"
        "<td>half</td><td>yes</td></tr>\n<tr><td class=\"num\">0</td>",
        "<td class=\"num\">7</td><td class=\"num\">2.5000 &#177; &#8211;</td>",
        "<td class=\"num\">25.0&#160;%</td>"};
    int status;
    Str reading = {json, sizeof json - 1}, runs = {ablation, sizeof ablation - 1};
    char *page = page_with(reading, runs, &status);
    CHECK(status == 0 && !strstr(page, "M58 24h14")); /* a null is no cell */
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        CHECK_MSG(strstr(page, want[i]) != NULL, "the page has no '%s'", want[i]);
    free(page);
    page = page_of(edited, sizeof edited - 1, &status);
    CHECK(status == 0 && strstr(page, "No intervention was measured"));
    CHECK(strstr(page, "<p class=\"edited\"><strong>Edited run.</strong>") != NULL);
    CHECK(strstr(page, "dropped &#60;2&#62;") != NULL);
    free(page);
    free(page_with(reading, (Str){"", 0}, &status));
    CHECK(status == -1);
    for (size_t n = 0; n < sizeof ablation; n++) { /* cut anywhere: no crash */
        char *cut = xcalloc(n + 1, 1);
        memcpy(cut, ablation, n);
        free(page_with(reading, (Str){cut, n}, &status));
        free(cut);
    }
}

/* No page of the reading and the ablation (NULL: none), and the refusal says `want`. */
static void check_refusal(int line, const char *json, const char *ablation, const char *want)
{
    int status;
    Str runs = {ablation, ablation ? strlen(ablation) : 0};
    char *page = page_with((Str){json, strlen(json)}, runs, &status);
    CHECK_MSG(status == (want ? -1 : 0), "line %d: status %d", line, status);
    CHECK_MSG(!want || (!*page && strstr(refusal.msg, want)), "line %d: '%s'", line, refusal.msg);
    free(page);
}
#define REFUSED(json, ablation, want) check_refusal(__LINE__, json, ablation, want)

#define READING "{\"schema\":\"ropescope.analysis/2\",\"provenance\":{"
#define RUNS    "{\"schema\":\"ropescope.ablation/1\",\"provenance\":{"

/* A reading or ablation that is not one whole JSON object, or is of something else. */
static void test_page_refusals(void)
{
    const char *good = READING "\"model_sha256\":\"0\",\"text_sha256\":\"1\",\"n_ctx\":8,\"edits\":"
                               "null}}";
    const char *edited = READING "\"edits\":\"all [of {it\"}}";
    REFUSED(" \n" READING "\"a\":[1,\"]}\\\"\",{}]}} \n", NULL, NULL);
    REFUSED(READING "\"a\":[1,2", NULL, "r.json: byte 55: expected ']', found its end");
    REFUSED(READING "\"a\":\"}}", NULL, "r.json: byte 54: expected '\"', found its end");
    REFUSED(READING "\"a\":[1}}", NULL, "expected ']', found '}'");
    REFUSED(READING "}},", NULL, "r.json: byte 49: expected its end");
    REFUSED(READING "}}{}", NULL, "r.json: byte 49: expected its end");
    REFUSED("", NULL, "r.json: expected a JSON object, found nothing");
    REFUSED("[]", NULL, "r.json: expected a JSON object, found something else");
    REFUSED("{}", NULL, "r.json: schema: expected \"ropescope.analysis/2\", found none");
    REFUSED(RUNS "}}", NULL, "found \"ropescope.ablation/1\"");
    REFUSED(good, "", "a.json: expected a JSON object, found nothing");
    REFUSED(good, good, "a.json: schema: expected \"ropescope.ablation/1\", found");
    REFUSED(good, RUNS "\"n_ctx\":8}", "expected '}', found its end");
    REFUSED(READING "\"a\":[1,]}}", NULL, "byte 54: expected a value");
    REFUSED(READING "\"a\":01}}", NULL, "byte 52: expected '}', found '1'");
    REFUSED(READING "\"a\":1.e2}}", NULL, "expected a digit");
    REFUSED(READING "\"a\":nan}}", NULL, "expected a value");
    REFUSED(READING "\"a\" 1}}", NULL, "expected ':'");
    REFUSED(READING "\"a\":\"\xff\"}}", NULL, "not a character of a JSON string");
    REFUSED(READING "\"a\":\"\\x\"}}", NULL, "no such escape");
    REFUSED(good, RUNS "\"model_sha256\":\"1\"}}",
            "model_sha256: expected \"0\", as in the reading "
            "r.json, found \"1\"");
    REFUSED(good, RUNS "\"text_sha256\":\"0\"}}", "text_sha256: expected \"1\"");
    REFUSED(good, RUNS "\"n_ctx\":16}}", "n_ctx: expected 8, as in the reading r.json, found 16");
    REFUSED(good, RUNS "\"model_sha256\":\"0\",\"n_ctx\":8,\"edits\":\"x\"}}", NULL);
    REFUSED(edited, RUNS "}}", "r.json: edits: expected null");
    REFUSED(edited, NULL, NULL);
}

static void test_page(void)
{
    Shape s;
    int status;
    shape_new(&s, 1, 1, 1, 8, ROPE_HALF, "plain", 512);
    Analysis *a = start(&s);
    char *json = json_of(a), *page = page_of(json, strlen(json), &status);
    CHECK(status == 0);
    CHECK(!find(json, "provenance.threads") && !find(json, "provenance.isa"));
    const char *data = strstr(page, "\"schema\":\"ropescope.analysis/2\"");
    const char *end = data ? strstr(data, "</script>") : NULL;
    CHECK(data && end && strchr(data, '<') == end);
    CHECK(end && !strncmp(end, "</script>\n<script>\n", 19)); /* the template's own end */
    CHECK(strstr(page, "a&#60;/script&#62;&#34;\\") != NULL);
    CHECK(strstr(page, "default-src 'none'") != NULL);
    CHECK(!strstr(page, "http:") && !strstr(page, "https:"));
    free(page);
    page = page_of("{\"schema\":\"other\"}", 18, &status);
    CHECK(status == -1);
    free(page);
    for (size_t n = 0; n < strlen(json); n += 1 + n / 50) { /* cut anywhere: no crash */
        char *cut = xcalloc(n + 1, 1);
        memcpy(cut, json, n);
        free(page_of(cut, n, &status));
        free(cut);
    }
    free(json);
    analysis_free(a);
    rope_free(&s.rope);
}

int main(void)
{
    test_sha();
    test_json_str();
    for (int layout = ROPE_ADJACENT; layout <= ROPE_HALF; layout++) {
        test_known_head(layout);
        test_sign(layout);
    }
    test_bounds();
    test_chance();
    test_candidates();
    test_self_check();
    test_chunks(ROPE_HALF);
    test_chunks(ROPE_ADJACENT);
    test_sinks();
    test_short_window();
    test_nan_attention(0);
    test_nan_attention(1);
    test_odd();
    test_not_finite();
    test_small();
    test_check();
    test_page();
    test_page_static();
    test_page_refusals();
    test_page_made();
    return check_done();
}
