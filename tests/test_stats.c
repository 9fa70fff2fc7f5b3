/* What the sums come to: planted rows, spectra, parts of the logits, sinks, massive values and
 * activations, channels in order, and exact sums. The truth is computed here, densely and in
 * double; the readings are taken from the JSON. Includes analysis.c, to reach its statics. */
#include "../analysis.c"

#include "check.h"

enum { N_PAIRS = 8, D = 2 * N_PAIRS + 4, HEADS = 4, KV = 2 };

/* ---- a walker over our own JSON: num(json, "layers.0.heads.1.r_q.3") ---- */

static Str json_at(const char *json, const char *path)
{
    Str v = {json, strlen(json)};
    while (*path && v.n) {
        char key[64] = "";
        size_t n = strcspn(path, "."), i = 1;
        memcpy(key, path, n);
        if (v.s[0] == '[') {
            Str item = json_item(v, &i);
            for (int k = atoi(key); k > 0 && item.n; k--) item = json_item(v, &i);
            v = item;
        } else {
            v = json_member(v, key);
        }
        path += n + (path[n] == '.');
    }
    return v;
}

static double num(const char *json, const char *fmt, ...) PRINTF_LIKE(2, 3);
static double num(const char *json, const char *fmt, ...)
{
    char path[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(path, sizeof path, fmt, ap);
    va_end(ap);
    Str v = json_at(json, path);
    if (!CHECK_MSG(v.n > 0, "no %s", path)) return 0;
    return str_is(v, "null") ? NONE : strtod(v.s, NULL);
}

static int is(const char *json, const char *path, const char *want)
{
    Str v = json_at(json, path);
    return CHECK_MSG(str_is(v, want), "%s is %.*s, expected %s", path, (int)v.n, v.s ? v.s : "",
                     want);
}

#define NEAR(a, b, tol) check_near(__LINE__, #a, a, b, tol)
static void check_near(int line, const char *what, double a, double b, double tol)
{
    check_msg(fabs(a - b) <= tol * (1 + fabs(b)), __FILE__, line, what, "%.9g, expected %.9g", a,
              b);
}

/* ---- a model that is only a shape: two layers, the second sees `window` keys ---- */

typedef struct {
    Model m;
    Layer layer[2];
    Rope rope;
} Shape;

static void shape_new(Shape *s, int layout, int window)
{
    Err e;
    RopeParams p = {.head_dim = D,
                    .n_rot = 2 * N_PAIRS,
                    .base = 10000,
                    .factor = 1,
                    .n_ctx_orig = 1024,
                    .pos_scale = 1};
    *s = (Shape){0};
    CHECK(rope_new(&s->rope, rope_find("plain"), &p, layout, NULL, &e) == 0);
    s->m = (Model){.n_layers = 2,
                   .head_dim = D,
                   .n_embd = 50,
                   .n_ctx_train = 1024,
                   .max_heads = HEADS,
                   .max_kv_heads = KV,
                   .score_scale = 0.25f,
                   .layer = s->layer,
                   .rope = &s->rope,
                   .n_ropes = 1};
    for (int l = 0; l < 2; l++)
        s->layer[l] = (Layer){.n_heads = HEADS, .n_kv_heads = KV, .window = l ? window : 0};
}

static char *json_of(const Analysis *a, const Provenance *p)
{
    const Provenance none = {.n_ctx = 128};
    char *s = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&s, &n);
    analysis_json(a, p ? p : &none, f);
    fclose(f);
    return s;
}

/* ---- windows of random heads with dense attention ---- */

enum { T = 48, WINDOWS = 2, VOCAB = 9 };

typedef struct {
    Shape s;
    int id[WINDOWS][T];
    float q[WINDOWS][2][HEADS][T][D], k[WINDOWS][2][KV][T][D];               /* before rotation */
    float turned_q[WINDOWS][2][HEADS][T][D], turned_k[WINDOWS][2][KV][T][D]; /* after */
    float score[WINDOWS][2][HEADS][T][T], weight[WINDOWS][2][HEADS][T][T];
} World;

static void turn(const Shape *s, const float *in, float *out, int pos)
{
    memcpy(out, in, D * sizeof *out);
    for (int j = 0; j < N_PAIRS; j++) {
        int a, b;
        rope_pair(&s->rope, j, &a, &b);
        double c = cos(pos * s->rope.inv_freq[j]), d = sin(pos * s->rope.inv_freq[j]);
        out[a] = (float)((double)in[a] * c - (double)in[b] * d);
        out[b] = (float)((double)in[a] * d + (double)in[b] * c);
    }
}

static int first_key(const Shape *s, int l, int pos)
{
    int w = s->layer[l].window;
    return w && pos >= w ? pos - w + 1 : 0;
}

static double dot(const float *x, const float *y)
{
    double sum = 0;
    for (int c = 0; c < D; c++) sum += (double)x[c] * (double)y[c];
    return sum;
}

static void attend(World *w, int n, int l, int h, int pos)
{
    int t0 = first_key(&w->s, l, pos);
    double z[T], sum = 0;
    for (int t = t0; t <= pos; t++) {
        const float *k = w->turned_k[n][l][h / (HEADS / KV)][t];
        z[t] = (double)w->s.m.score_scale * dot(w->turned_q[n][l][h][pos], k);
        sum += exp(z[t]);
    }
    for (int t = t0; t <= pos; t++) {
        w->score[n][l][h][pos][t] = (float)z[t];
        w->weight[n][l][h][pos][t] = (float)(exp(z[t]) / sum);
    }
}

static void world_new(World *w, int layout, uint64_t seed)
{
    Rng rng = rng_new(seed);
    shape_new(&w->s, layout, 11);
    for (int n = 0; n < WINDOWS; n++)
        for (int l = 0; l < 2; l++)
            for (int pos = 0; pos < T; pos++) {
                w->id[n][pos] = rng_int(&rng, 0, VOCAB - 1);
                for (int h = 0; h < HEADS; h++)
                    for (int c = 0; c < D; c++)
                        w->q[n][l][h][pos][c] = 2 * rng_float(&rng) + (float)(c % 3);
                for (int h = 0; h < KV; h++)
                    for (int c = 0; c < D; c++)
                        w->k[n][l][h][pos][c] = 2 * rng_float(&rng) + (float)(c % 2);
                for (int h = 0; h < HEADS; h++)
                    turn(&w->s, w->q[n][l][h][pos], w->turned_q[n][l][h][pos], pos);
                for (int h = 0; h < KV; h++)
                    turn(&w->s, w->k[n][l][h][pos], w->turned_k[n][l][h][pos], pos);
                for (int h = 0; h < HEADS; h++) attend(w, n, l, h, pos);
            }
}

static void show_layer(const World *w, const Probe *p, int n, int l)
{
    for (int h = 0; h < HEADS; h++) {
        p->q(p->ctx, l, h, BEFORE_ROPE, 0, T, w->q[n][l][h][0], D);
        p->q(p->ctx, l, h, AFTER_ROPE, 0, T, w->turned_q[n][l][h][0], D);
    }
    for (int h = 0; h < KV; h++) {
        p->k(p->ctx, l, h, BEFORE_ROPE, 0, T, w->k[n][l][h][0], D);
        p->k(p->ctx, l, h, AFTER_ROPE, 0, T, w->turned_k[n][l][h][0], D);
    }
    for (int h = 0; h < HEADS; h++)
        for (int pos = 0; pos < T; pos++) {
            int t0 = first_key(&w->s, l, pos);
            AttnRow r = {.l = l,
                         .h = h,
                         .kh = h / (HEADS / KV),
                         .pos = pos,
                         .t0 = t0,
                         .n_t = pos - t0 + 1,
                         .q = w->turned_q[n][l][h][pos],
                         .k = w->turned_k[n][l][h / (HEADS / KV)][pos],
                         .scores = w->score[n][l][h][pos] + t0,
                         .weights = w->weight[n][l][h][pos] + t0};
            p->attn(p->ctx, &r);
        }
}

/* The windows in their order, or the last first. */
static char *world_json(const World *w, int backwards)
{
    AnalysisOptions o = analysis_defaults();
    Analysis *a = analysis_new(&w->s.m, &o);
    for (int i = 0; i < WINDOWS; i++) {
        int n = backwards ? WINDOWS - 1 - i : i;
        analysis_window(a);
        analysis_seek(a, (uint64_t)n);
        analysis_tokens(a, w->id[n], T);
        for (int l = 0; l < 2; l++) show_layer(w, analysis_probe(a), n, l);
    }
    char *json = json_of(a, NULL);
    analysis_free(a);
    return json;
}

/* q.k over one pair, or (j = N_PAIRS) over the values that are not rotated. */
static double part(const World *w, const float *q, const float *k, int j)
{
    int a, b;
    double sum = 0, scale = (double)w->s.m.score_scale;
    if (j < N_PAIRS) {
        rope_pair(&w->s.rope, j, &a, &b);
        return scale * ((double)q[a] * (double)k[a] + (double)q[b] * (double)k[b]);
    }
    for (int c = 2 * N_PAIRS; c < D; c++) sum += scale * (double)q[c] * (double)k[c];
    return sum;
}

/* Part j (all of them: -1) of the mean logit, by T x T: of key 0, and of the other keys. */
static LogitSum dense_part(const World *w, int l, int h, int j)
{
    LogitSum sum = {0, 0, 0};
    int rows = 0, keys = 0;
    for (int n = 0; n < WINDOWS; n++)
        for (int pos = 1; pos < T; pos++) {
            int n_keys = 0; /* finite ones but key 0 */
            if (first_key(&w->s, l, pos) || !isfinite(w->weight[n][l][h][pos][0])) continue;
            for (int t = 1; t <= pos; t++) n_keys += isfinite(w->turned_k[n][l][h / 2][t][0]);
            for (int t = 0; t <= pos; t++) {
                const float *q = w->turned_q[n][l][h][pos], *k = w->turned_k[n][l][h / 2][t];
                if (!isfinite(k[0])) continue;
                double z = j < 0 ? (double)w->s.m.score_scale * dot(q, k) : part(w, q, k, j);
                if (t == 0)
                    sum.sink += z;
                else
                    sum.others += z / n_keys, sum.ordinary += z;
            }
            rows++, keys += n_keys;
        }
    return (LogitSum){sum.sink / rows, sum.others / rows, sum.ordinary / keys};
}

/* Every part, and their sum = the whole logit. */
static void test_logits(const World *w, const char *json)
{
    LogitSum mean[2] = {{0, 0, 0}, {0, 0, 0}};
    for (int l = 0; l < 2; l++)
        for (int h = 0; h < HEADS; h++) {
            LogitSum all = dense_part(w, l, h, -1), sum = {0, 0, 0};
            for (int j = 0; j <= N_PAIRS; j++) {
                LogitSum want = dense_part(w, l, h, j), got;
                char at[64];
                snprintf(at, sizeof at, j < N_PAIRS ? ".%d" : "_rest", j);
                got.sink = num(json, "layers.%d.heads.%d.logit_sink%s", l, h, at);
                got.others = num(json, "layers.%d.heads.%d.logit_others%s", l, h, at);
                NEAR(got.sink, want.sink, 1e-6);
                NEAR(got.others, want.others, 1e-6);
                sum.sink += got.sink, sum.others += got.others;
                int full = j == N_PAIRS || w->s.rope.inv_freq[j] * 1024 > TAU;
                mean[full].sink += want.sink / (2 * HEADS);
                mean[full].others += want.others / (2 * HEADS);
                mean[full].ordinary += want.ordinary / (2 * HEADS);
            }
            NEAR(sum.sink, all.sink, 1e-6);
            NEAR(sum.others, all.others, 1e-6);
        }
    NEAR(num(json, "summary.logit_sink_partial"), mean[0].sink, 1e-6);
    NEAR(num(json, "summary.logit_others_partial"), mean[0].others, 1e-6);
    NEAR(num(json, "summary.logit_sink_full"), mean[1].sink, 1e-6);
    NEAR(num(json, "summary.logit_others_full"), mean[1].others, 1e-6);
    NEAR(num(json, "summary.logit_ordinary_partial"), mean[0].ordinary, 1e-6);
    NEAR(num(json, "summary.logit_ordinary_full"), mean[1].ordinary, 1e-6);
}

static void spoil_row(World *w, int n, int l, int h, int pos)
{
    w->turned_q[n][l][h][pos][0] = INFINITY;
    for (int t = 0; t <= pos; t++) w->weight[n][l][h][pos][t] = NAN;
}

/* Rows that are not finite take no key away from those behind them: row 5, and row 0 of the second
 * window, whose key 0 is not that of the first. Nor does an endless key that gets no weight count
 * among the others. In whatever order the windows are run. */
static void test_spoilt_logits(World *w)
{
    for (int l = 0; l < 2; l++)
        for (int h = 0; h < HEADS; h++) {
            spoil_row(w, 0, l, h, 5);
            spoil_row(w, 1, l, h, 0);
            w->turned_k[0][l][h / 2][7][0] = -INFINITY;
        }
    char *json = world_json(w, 0), *back = world_json(w, 1);
    test_logits(w, json);
    test_logits(w, back);
    free(json), free(back);
}

/* Weight on earlier copies of the token (TransformerLens' duplicate pattern; shift 0), or on what
 * followed them (induction pattern; shift 1), in one row. */
static double on_copies(const World *w, int n, int l, int h, int pos, int shift)
{
    double sum = 0;
    for (int t = first_key(&w->s, l, pos) + shift; t < pos + shift; t++)
        if (w->id[n][t - shift] == w->id[n][pos]) sum += (double)w->weight[n][l][h][pos][t];
    return sum;
}

/* What the row of attention at pos has of `what`; -1: it has no number. */
static double row_value(const World *w, int n, int l, int h, int pos, const char *what)
{
    int t0 = first_key(&w->s, l, pos), n_t = pos - t0 + 1;
    double v = 0, entropy = 0;
    for (int t = t0; t <= pos; t++) {
        double a = (double)w->weight[n][l][h][pos][t];
        entropy -= a * log(a);
        if (!strcmp(what, "distance")) v += a * (pos - t);
        if (!strcmp(what, "previous")) v += a * (t == pos - 1);
        if (!strcmp(what, "first4")) v += a * (t < 4);
        if (!strcmp(what, "thirds.1")) v += a * (t - t0 >= n_t / 3 && t - t0 < 2 * n_t / 3);
    }
    if (!strcmp(what, "entropy")) return n_t > 1 ? entropy / log(n_t) : -1;
    if (!strcmp(what, "duplicate")) return on_copies(w, n, l, h, pos, 0);
    if (!strcmp(what, "induction")) return on_copies(w, n, l, h, pos, 1);
    if (!strcmp(what, "first4") && (pos < 4 || t0 > 0)) return -1; /* they see all four */
    return !strncmp(what, "thirds", 6) && n_t < 3 ? -1 : v;
}

/* Mean of f(row) over the rows of a head that have a number. */
static double row_mean(const World *w, int l, int h, const char *what)
{
    double sum = 0, rows = 0;
    for (int n = 0; n < WINDOWS; n++)
        for (int pos = 0; pos < T; pos++) {
            double v = row_value(w, n, l, h, pos, what);
            if (v < -0.5) continue;
            sum += v, rows++;
        }
    return sum / rows;
}

static void test_rows(const World *w, const char *json)
{
    static const char *const what[] = {"entropy",  "distance",  "previous", "first4",
                                       "thirds.1", "duplicate", "induction"};
    for (size_t i = 0; i < sizeof what / sizeof *what; i++)
        for (int l = 0; l < 2; l++)
            for (int h = 0; h < HEADS; h++)
                NEAR(num(json, "layers.%d.heads.%d.%s", l, h, what[i]), row_mean(w, l, h, what[i]),
                     3e-6);
}

/* Means of a^2, b^2 and a b of pair j, and where its largest radius is, of L1 query head 3 and its
 * key head. */
static void test_moments(const World *w, const char *json, int j)
{
    int a, b;
    rope_pair(&w->s.rope, j, &a, &b);
    for (int is_q = 0; is_q < 2; is_q++) {
        double aa = 0, bb = 0, ab = 0, most = 0, n = WINDOWS * (T - 1);
        int at[3] = {0}, side = is_q ? 'q' : 'k';
        for (int i = 0; i < WINDOWS * T; i++) {
            const float *v = is_q ? w->q[i / T][1][3][i % T] : w->k[i / T][1][1][i % T];
            double x = (double)v[a], y = (double)v[b];
            if (x * x + y * y > most)
                most = x * x + y * y, at[0] = i / T, at[1] = i % T, at[2] = w->id[i / T][i % T];
            if (i % T) aa += x * x / n, bb += y * y / n, ab += x * y / n;
        }
        NEAR(num(json, "layers.1.heads.3.aa_%c.%d", side, j), aa, 1e-7);
        NEAR(num(json, "layers.1.heads.3.bb_%c.%d", side, j), bb, 1e-7);
        NEAR(num(json, "layers.1.heads.3.ab_%c.%d", side, j), ab, 1e-7);
        for (int i = 0; i < 3; i++)
            NEAR(num(json, "layers.1.heads.3.max_%c_at.%d.%d", side, j, i), at[i], 0);
    }
}

/* Moments of one pair and of the head by their definitions; token 0 of each window left out. */
static void test_pairs(const World *w, const char *json)
{
    int a, b;
    double A = 0, B = 0, sq = 0, n = WINDOWS * (T - 1);
    rope_pair(&w->s.rope, 3, &a, &b);
    for (int i = 0; i < WINDOWS; i++)
        for (int pos = 1; pos < T; pos++) {
            double x = (double)w->k[i][1][1][pos][a], y = (double)w->k[i][1][1][pos][b];
            A += x, B += y, sq += x * x + y * y;
        }
    NEAR(num(json, "layers.1.heads.2.offset_share_k.3"), (A * A + B * B) / (n * sq), 1e-8);
    NEAR(num(json, "layers.1.heads.3.offset_share_k.3"), (A * A + B * B) / (n * sq), 1e-8);
    for (int j = 0; j < N_PAIRS; j++) {
        LogitSum want = dense_part(w, 1, 2, j);
        NEAR(num(json, "layers.1.heads.2.logit_ordinary.%d", j), want.ordinary, 1e-6);
        test_moments(w, json, j);
    }
    for (int j = 0; j < N_PAIRS; j++) {
        double phi = num(json, "layers.0.heads.1.phi.%d", j), x = num(json, "ropes.0.x.%d", j);
        double worst = fmax(cos(phi), cos(phi + x));
        NEAR(num(json, "layers.0.heads.1.worst.%d", j), worst, 1e-7);
    }
}

/* ---- the sign of cos along the arc, by walking it ---- */

static double walked(double phi, double theta, double x)
{
    double end = NONE;
    int n = 200000, seen = 0;
    for (int i = 0; i <= n; i++) {
        double delta = i * (x / theta) / n * 12; /* far past the context */
        int negative = cos(phi + theta * delta) < 0;
        if (!seen && delta > x / theta) return NONE;
        if (negative) seen = 1;
        if (seen && !negative) return delta;
    }
    return end;
}

static void test_p_neg(void)
{
    const double phi[] = {0, 0.3, 1.5, 1.6, 3, 4.6, 4.8, 6.2};
    for (int i = 0; i < 8; i++)
        for (double x = 0.9; x < 8; x += 1.7) {
            double want = walked(phi[i], 0.01, x), got = negative_until(phi[i], 0.01, x);
            CHECK_MSG(isnan(want) ? isnan(got) : fabs(got - want) < 0.1, "phi %g, x %g: %g, %g",
                      phi[i], x, got, want);
        }
    CHECK(isnan(negative_until(NONE, 1, 1)) && isnan(negative_until(3, 1, NONE)));
}

/* ---- spectra ---- */

/* The upper triangle of Q diag(v) Q^T, Q a product of random reflections. */
static double *hidden(Rng *rng, const double *v, int n)
{
    double *a = xcalloc((size_t)(n * n), sizeof *a), *u = xcalloc((size_t)n, sizeof *u);
    for (int i = 0; i < n; i++) a[i * n + i] = v[i];
    for (int k = 0; k < 3; k++) {
        double len = 0;
        for (int i = 0; i < n; i++) u[i] = (double)rng_float(rng), len += u[i] * u[i];
        for (int side = 0; side < 2; side++)
            for (int i = 0; i < n; i++) {
                double s = 0;
                for (int c = 0; c < n; c++) s += u[c] * a[side ? c * n + i : i * n + c];
                for (int c = 0; c < n; c++) a[side ? c * n + i : i * n + c] -= 2 * s / len * u[c];
            }
    }
    double *out = a;
    for (int i = 0; i < n; i++)
        for (int c = i; c < n; c++) *out++ = a[i * n + c]; /* never ahead of what it reads */
    free(u);
    return a;
}

static void check_spectrum(Rng *rng, const double *v, int n)
{
    double sum = 0, roots = 0, most = 0, entropy = 0;
    double *a = hidden(rng, v, n);
    for (int i = 0; i < n; i++) sum += v[i], roots += sqrt(v[i]), most = fmax(most, v[i]);
    for (int i = 0; i < n && i < 32; i++) /* v descends */
        if (v[i] > 0) entropy -= v[i] / sum * log(v[i] / sum);
    Spectrum s = read_spectrum(a, n);
    NEAR(s.stable_rank, sum / most, 1e-11);
    NEAR(s.first_sv, sqrt(most) / roots, v[n / 2] > 0 ? 1e-5 : 1e-10); /* rounding adds no rank */
    NEAR(s.entropy, entropy, 1e-10);
    free(a);
}

static void test_spectrum(void)
{
    enum { N = 128 };
    Rng rng = rng_new(11);
    const int size[] = {1, 2, 3, 20, 64, N};
    for (int i = 0; i < 6; i++) {
        int n = size[i];
        double v[N] = {0};
        check_spectrum(&rng, (v[0] = 3, v), n); /* rank 1 */
        for (int k = 0; k < n; k++) v[k] = 5;
        check_spectrum(&rng, v, n);
        for (int k = 0; k < n; k++) v[k] = 1e6 / (1 + k * k);
        check_spectrum(&rng, v, n);
        for (int k = 0; k < n; k++) v[k] = ldexp(1, -2 * k / 5);
        check_spectrum(&rng, v, n);
        for (int k = (n + 1) / 2; k < n; k++) v[k] = 0; /* not of full rank */
        check_spectrum(&rng, v, n);
        for (int k = 0; k < n; k++) v[k] *= 1e-200;
        check_spectrum(&rng, v, n);
        for (int k = 0; k < n; k++) v[k] *= 1e+200, v[k] *= 1e+200;
        check_spectrum(&rng, v, n);
    }
}

static void test_odd_spectrum(void)
{
    double zero[10] = {0}, bad[10] = {1, 0, 0, 0, 1, 0, 0, 1, 0, 1};
    Spectrum s = read_spectrum(bad, 4);
    NEAR(s.stable_rank, 4, 1e-12);
    s = read_spectrum(zero, 4);
    CHECK(isnan(s.stable_rank) && isnan(s.first_sv) && isnan(s.entropy));
    bad[2] = NONE;
    s = read_spectrum(bad, 4);
    CHECK(isnan(s.stable_rank) && isnan(s.first_sv) && isnan(s.entropy));
    bad[2] = ENDLESS;
    CHECK(isnan(read_spectrum(bad, 4).entropy));
    bad[2] = 0, bad[0] = ENDLESS;
    CHECK(isnan(read_spectrum(bad, 4).entropy));
}

/* Through the probe: 4 c + 1 copies of the unit token of value c, so the moments are diagonal. */
static void test_known_covariance(int layout)
{
    Shape s;
    AnalysisOptions o = analysis_defaults();
    shape_new(&s, layout, 0);
    o.n_skip = 0;
    Analysis *a = analysis_new(&s.m, &o);
    const Probe *p = analysis_probe(a);
    double sum = 0, roots = 0, entropy = 0;
    for (int c = 0, pos = 0; c < D; c++) {
        for (int i = 0; i < 4 * c + 1; i++, pos++) {
            float x[D] = {0};
            x[c] = i % 2 ? -1 : 1;
            p->q(p->ctx, 0, 1, BEFORE_ROPE, pos, 1, x, D);
            p->k(p->ctx, 0, 0, BEFORE_ROPE, pos, 1, x, D);
        }
        sum += 4 * c + 1, roots += sqrt(4 * c + 1);
    }
    for (int c = 0; c < D; c++) entropy -= (4 * c + 1) / sum * log((4 * c + 1) / sum);
    char *json = json_of(a, NULL);
    NEAR(num(json, "layers.0.heads.1.stable_rank_q"), sum / (4 * D - 3), 1e-8);
    NEAR(num(json, "layers.0.heads.1.first_sv_q"), sqrt(4 * D - 3) / roots, 1e-8);
    NEAR(num(json, "layers.0.heads.1.matrix_entropy_q"), entropy, 1e-8);
    NEAR(num(json, "layers.0.heads.0.stable_rank_k"), sum / (4 * D - 3), 1e-8);
    NEAR(num(json, "layers.0.heads.1.stable_rank_k"), sum / (4 * D - 3), 1e-8); /* the same kv */
    is(json, "layers.0.heads.2.stable_rank_k", "null");
    is(json, "layers.1.heads.1.matrix_entropy_q", "null");
    free(json);
    analysis_free(a);
    rope_free(&s.rope);
}

/* ---- sinks that are not first ---- */

/* Rows of head h with weight w on key `sink` as soon as it is there, else all on key 0. */
static void show_sink(const Probe *p, int h, int n, int sink, float w)
{
    for (int pos = 0; pos < n; pos++) {
        float row[256] = {0};
        row[0] = 1;
        if (pos >= sink && sink > 0) row[0] = 1 - w, row[sink] = w;
        AttnRow r = {.h = h, .pos = pos, .n_t = pos + 1, .scores = row, .weights = row};
        p->attn(p->ctx, &r);
    }
}

/* Sinks of heads 0 .. 3 are keys 3, 3, 5 and 0. A short window's last key is no sink. */
static void test_sinks(void)
{
    Shape s;
    AnalysisOptions o = analysis_defaults();
    shape_new(&s, ROPE_HALF, 0);
    Analysis *a = analysis_new(&s.m, &o);
    const Probe *p = analysis_probe(a);
    float x[100 * D];
    for (int i = 0; i < 100 * D; i++) x[i] = 1;
    p->q(p->ctx, 0, 0, BEFORE_ROPE, 0, 100, x, D); /* enough tokens for findings */
    show_sink(p, 0, 100, 3, 0.75f), show_sink(p, 1, 100, 3, 0.6f);
    show_sink(p, 2, 100, 5, 0.8f), show_sink(p, 3, 100, 0, 0);
    char *json = json_of(a, NULL);
    NEAR(num(json, "layers.0.heads.0.alpha.3"), 0.75, 1e-7);
    NEAR(num(json, "layers.0.heads.0.alpha.0"), (3 + 97 * 0.25) / 100, 1e-7);
    NEAR(num(json, "layers.0.heads.0.alpha.4"), 0, 0);
    NEAR(num(json, "layers.0.heads.0.sink_key"), 3, 0);
    NEAR(num(json, "layers.0.heads.2.sink_alpha"), 0.8, 1e-6);
    NEAR(num(json, "layers.0.heads.2.sink_share_k.5"), 1, 0);
    NEAR(num(json, "layers.0.heads.3.sink_key"), 0, 0);
    NEAR(num(json, "summary.sink_k.3"), 0.5, 0);
    NEAR(num(json, "summary.sink_k.5"), 0.25, 0);
    NEAR(num(json, "summary.alpha_k.3"), (0.75 + 0.6) / 4, 1e-7);
    NEAR(num(json, "summary.n_sinks_elsewhere"), 3, 0);
    CHECK(strstr(json, "In 3 of the 4 heads with a sink") != NULL);
    CHECK(strstr(json, "the one at position 3 (2 heads)") != NULL);
    CHECK(strstr(json, "Other keys take more than 0.3 of the attention in at least 10% of the "
                       "samples: key 3 in 50.0% (0.338 of the attention on average); key 5 in "
                       "25.0% (0.200 of the attention on average).") != NULL);
    free(json);
    uint8_t all[HEADS] = {1, 1, 1, 1};
    Sinks sinks = analysis_sinks(a, &(Selection){.m = &s.m, .layer = all, .head = all});
    CHECK(sinks.n_elsewhere == 3 && sinks.elsewhere == 3);
    analysis_free(a);
    a = analysis_new(&s.m, &o), p = analysis_probe(a);
    p->q(p->ctx, 0, 0, BEFORE_ROPE, 0, 100, x, D);
    show_sink(p, 0, 20, 19, 1.0f); /* one query alone behind key 19 */
    json = json_of(a, NULL);
    NEAR(num(json, "layers.0.heads.0.alpha.19"), 1, 0);
    is(json, "layers.0.heads.0.alpha.20", "null");
    is(json, "layers.0.heads.0.sink_share_k.20", "null");
    NEAR(num(json, "layers.0.heads.0.sink_key"), 0, 0);
    is(json, "layers.0.heads.1.sink_key", "null");
    CHECK(!strstr(json, "is not the first token") && !strstr(json, "is not the only sink"));
    free(json);
    analysis_free(a);
    rope_free(&s.rope);
}

/* ---- channels ---- */

/* Value c of query head h is (c + 1) (h + 1) before rotation, ten times that after; keys the same
 * of kv heads. `boost` multiplies value `big` after rotation. */
static char *channel_json(int layout, int big, float boost)
{
    Shape s;
    AnalysisOptions o = analysis_defaults();
    shape_new(&s, layout, 0);
    Analysis *a = analysis_new(&s.m, &o);
    const Probe *p = analysis_probe(a);
    for (int h = 0; h < HEADS; h++) {
        float x[3 * D], y[3 * D];
        for (int i = 0; i < 3 * D; i++) {
            x[i] = (float)((i % D + 1) * (h + 1) * (i < D ? 2 : i < 2 * D ? 1 : -1));
            y[i] = big < 0 ? 10 * x[i] : i % D == big ? boost : 1;
        }
        p->q(p->ctx, 0, h, BEFORE_ROPE, 0, 3, x, D), p->q(p->ctx, 0, h, AFTER_ROPE, 0, 3, y, D);
        if (h >= KV) continue;
        p->k(p->ctx, 0, h, BEFORE_ROPE, 0, 3, x, D), p->k(p->ctx, 0, h, AFTER_ROPE, 0, 3, y, D);
    }
    char *json = json_of(a, NULL);
    analysis_free(a);
    rope_free(&s.rope);
    return json;
}

static int value_at(int i) /* written out, not by rope_pair */
{
    if (i >= 2 * N_PAIRS) return i;
    return i < N_PAIRS ? 2 * i : 2 * (i - N_PAIRS) + 1;
}

static void test_channels(int layout)
{
    char *json = channel_json(layout, -1, 0);
    for (int i = 0; i < D; i++) {
        double v = value_at(i) + 1; /* heads count (1 + 2 + 3 + 4) / 4, kv (1 + 2) / 2 */
        NEAR(num(json, "layers.0.channels.mean_q.%d", i), 25 * v, 1e-7);
        NEAR(num(json, "layers.0.channels.mean_k.%d", i), 15 * v, 1e-7);
        NEAR(num(json, "layers.0.channels.max_q.%d", i), 80 * v, 1e-7); /* the token left out */
        NEAR(num(json, "layers.0.channels.max_k.%d", i), 40 * v, 1e-7);
        NEAR(num(json, "layers.0.channels.before.mean_q.%d", i), 2.5 * v, 1e-7);
        NEAR(num(json, "layers.0.channels.before.mean_k.%d", i), 1.5 * v, 1e-7);
        NEAR(num(json, "layers.0.channels.before.max_q.%d", i), 8 * v, 1e-7);
        NEAR(num(json, "layers.0.channels.before.max_k.%d", i), 4 * v, 1e-7);
    }
    NEAR(num(json, "layers.0.channels.n_rot"), 2 * N_PAIRS, 0);
    is(json, "layers.1.channels.mean_q.0", "null");
    free(json);
}

/* Of D = 20 channels of norm n one of norm v n is massive iff v > 5 (v + 19) / 20, v > 19 / 3. */
static void test_massive_values(int layout)
{
    for (int i = 0; i < D; i++) {
        char want[16], *json = channel_json(layout, value_at(i), 6.35f);
        snprintf(want, sizeof want, "[%d]", i);
        is(json, "layers.0.heads.2.massive_q", want);
        is(json, "layers.0.heads.2.massive_k", want);
        free(json);
    }
    char *json = channel_json(layout, 7, 6.3f);
    is(json, "layers.0.heads.2.massive_q", "[]");
    free(json);
    json = channel_json(layout, 7, NAN);
    is(json, "layers.0.heads.2.massive_q", "[]");
    free(json);
}

/* The first token counts: Jin et al. take the norm over all. Random values, one of them large in
 * token 0 alone; the report and the intervention agree. */
static void test_massive_first(void)
{
    enum { N = 40, HUGE_AT = 3 };
    Shape s;
    AnalysisOptions o = analysis_defaults();
    Rng rng = rng_new(5);
    uint8_t all[HEADS] = {1, 1, 1, 1};
    const Selection every = {.m = &s.m, .layer = all, .head = all};
    float k[N * D];
    shape_new(&s, ROPE_HALF, 0);
    Analysis *a = analysis_new(&s.m, &o);
    Channels *c = channels_new(&s.m);
    const Probe *probes[] = {analysis_probe(a), channels_probe(c)};
    for (int i = 0; i < N * D; i++) k[i] = rng_float(&rng);
    k[HUGE_AT] = 200;
    for (int i = 0; i < 2; i++)
        for (int stage = BEFORE_ROPE; stage <= AFTER_ROPE; stage++)
            probes[i]->k(probes[i]->ctx, 0, 0, stage, 0, N, k, D);
    char *json = json_of(a, NULL);
    NEAR(num(json, "layers.0.heads.0.massive_k.0"), N_PAIRS + HUGE_AT / 2, 0); /* sliced */
    CHECK(!json_at(json, "layers.0.heads.0.massive_k.1").n);
    free(json);
    Edit *e = edit_massive(c, &every, o.massive_ratio, 0);
    CHECK(e->n == 1 && e->k[0].n == 1 && e->k[0].patch[0].c == HUGE_AT);
    edit_free(e);
    channels_free(c);
    analysis_free(a);
    rope_free(&s.rope);
}

static void test_activations(void)
{
    enum { E = 50 };
    Shape s;
    AnalysisOptions o = analysis_defaults();
    shape_new(&s, ROPE_HALF, 0);
    Analysis *a = analysis_new(&s.m, &o);
    const Probe *p = analysis_probe(a);
    float x[6 * E], q[40 * D];
    for (int i = 0; i < 40 * D; i++) q[i] = 1;
    p->q(p->ctx, 0, 0, BEFORE_ROPE, 0, 40, q, D);
    const float size[6] = {1, 1, 0.08f, 0.01f, 1, 1}, big[6] = {999, -1500, 150, 99, 1500, 3};
    for (int i = 0; i < 6 * E; i++) x[i] = i % 2 ? size[i / E] : -size[i / E];
    for (int i = 0; i < 6; i++) x[i * E + (i == 2 ? 44 : 17)] = big[i];
    x[2 * E + 9] = 99; /* beside the 150, but too small itself */
    p->resid(p->ctx, 1, 10, 6, x, E);
    char *json = json_of(a, NULL);
    is(json, "layers.0.massive_activations", "null");
    NEAR(num(json, "layers.1.massive_activations.n"), 3, 0);
    NEAR(num(json, "layers.1.massive_activations.max"), 1500, 0);
    NEAR(num(json, "layers.1.massive_activations.median"), 1, 0);
    is(json, "layers.1.massive_activations.at", "[0,11,17]"); /* the first of equals */
    is(json, "layers.1.massive_activations.channels", "[[17,2],[44,1]]");
    CHECK(strstr(json, "3 values of the residual stream, in 1 of 2 layers, are massive") != NULL);
    free(json);
    for (int i = 0; i < 2 * E; i++) x[i] = i % E < E / 2 ? 1 : 3; /* the median is 2 */
    x[E - 1] = 2500, x[2 * E - 1] = 2400;
    p->resid(p->ctx, 0, 0, 2, x, E);
    json = json_of(a, NULL);
    NEAR(num(json, "layers.0.massive_activations.median"), 2, 0);
    NEAR(num(json, "layers.0.massive_activations.n"), 2, 0);
    free(json);
    for (int i = 0; i < 6 * E; i++) x[i] = i % 2 ? size[i / E] : -size[i / E];
    for (int i = 0; i < 6; i++) x[i * E + (i == 2 ? 44 : 17)] = big[i];
    analysis_free(a);
    o.act_ratio = 2000;
    a = analysis_new(&s.m, &o), p = analysis_probe(a);
    p->q(p->ctx, 0, 0, BEFORE_ROPE, 0, 40, q, D);
    p->resid(p->ctx, 0, 0, 6, x, E);
    json = json_of(a, NULL);
    NEAR(num(json, "layers.0.massive_activations.n"), 0, 0);
    CHECK(strstr(json, "No value of the residual stream is a massive activation") != NULL);
    free(json);
    analysis_free(a);
    rope_free(&s.rope);
}

/* ---- curves, samples, bias, maps, tokens ---- */

/* Equal tokens: K(delta) is their logit at that distance, and tri the same, as R = 1. */
static void test_kernel(int layout)
{
    Shape s;
    AnalysisOptions o = analysis_defaults();
    float q[20 * D], k[20 * D], turned[D];
    shape_new(&s, layout, 0);
    for (int i = 0; i < 20 * D; i++) {
        q[i] = (float)(i % D % 5 - 2 + 0.5 * (i % D % 3)), k[i] = (float)(i % D % 7 - 3);
        if (i % D >= 2 * N_PAIRS) q[i] = 0;
    }
    Analysis *a = analysis_new(&s.m, &o);
    const Probe *p = analysis_probe(a);
    p->q(p->ctx, 0, 0, BEFORE_ROPE, 0, 20, q, D), p->k(p->ctx, 0, 0, BEFORE_ROPE, 0, 20, k, D);
    char *json = json_of(a, NULL);
    const double delta[] = {0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
    for (int i = 0; i < 12; i++) {
        turn(&s, q, turned, (int)delta[i]);
        NEAR(num(json, "layers.0.heads.0.kernel.delta.%d", i), delta[i], 0);
        NEAR(num(json, "layers.0.heads.0.kernel.k.%d", i), 0.25 * dot(turned, k), 1e-6);
        NEAR(num(json, "layers.0.heads.0.kernel.tri.%d", i), 0.25 * dot(turned, k), 1e-6);
    }
    CHECK(!json_at(json, "layers.0.heads.0.kernel.delta.12").n);
    double size[N_PAIRS] = {0};
    for (int j = 0; j < N_PAIRS; j++) {
        int u, v;
        rope_pair(&s.rope, j, &u, &v);
        size[j] = hypot((double)q[u], (double)q[v]) * hypot((double)k[u], (double)k[v]);
    }
    for (int i = 0; i < 3; i++) { /* the largest that is left; two may be equal */
        int j = (int)num(json, "layers.0.heads.0.kernel.top.%d", i);
        for (int other = 0; other < N_PAIRS; other++) CHECK(size[j] > size[other] - 1e-9);
        size[j] = 0;
    }
    CHECK(!json_at(json, "layers.0.heads.0.kernel.top.3").n);
    free(json);
    analysis_free(a);
    rope_free(&s.rope);
}

/* tri of tokens that cancel: the mean query is zero, so that the key's length alone counts. */
static void test_tri(void)
{
    Shape s;
    AnalysisOptions o = analysis_defaults();
    float q[4 * D] = {0}, k[4 * D] = {0};
    shape_new(&s, ROPE_HALF, 0);
    for (int i = 0; i < 4; i++) q[i * D] = i % 2 ? 3 : -3, k[i * D + 1] = 2;
    o.n_skip = 0;
    Analysis *a = analysis_new(&s.m, &o);
    const Probe *p = analysis_probe(a);
    p->q(p->ctx, 0, 0, BEFORE_ROPE, 0, 4, q, D), p->k(p->ctx, 0, 0, BEFORE_ROPE, 0, 4, k, D);
    char *json = json_of(a, NULL);
    for (int i = 0; i < 12; i++) {
        NEAR(num(json, "layers.0.heads.0.kernel.k.%d", i), 0, 1e-12);
        NEAR(num(json, "layers.0.heads.0.kernel.tri.%d", i), 0.25 * 3 * 2, 1e-9);
    }
    free(json);
    analysis_free(a);
    rope_free(&s.rope);
}

static void test_distances(void)
{
    double d[DISTANCES];
    const double ctx[] = {0, 1, 2, 3.5, 1000, 1024, 131072, 1048576, 10485760, 1e9};
    CHECK(log_distances(NONE, d) == 0);
    for (int i = 0; i < 10; i++) {
        int n = log_distances(ctx[i], d);
        CHECK(n >= 1 && n <= DISTANCES && d[0] == 0);
        NEAR(d[n - 1], floor(ctx[i]), 0);
        for (int k = 1; k < n; k++) CHECK(d[k] > d[k - 1] && (k < 2 || d[k] <= 4 * d[k - 1]));
    }
}

static void test_samples(const World *w, const char *json)
{
    int top = (int)num(json, "layers.1.heads.3.top_pair"), a, b;
    rope_pair(&w->s.rope, top, &a, &b);
    for (int i = 0; i < T - 1; i++) {
        char at[64];
        snprintf(at, sizeof at, "layers.1.heads.3.samples.%d", top);
        NEAR(num(json, "%s.q.%d", at, 2 * i), (double)w->q[0][1][3][i + 1][a], 1e-4);
        NEAR(num(json, "%s.q.%d", at, 2 * i + 1), (double)w->q[0][1][3][i + 1][b], 1e-4);
        NEAR(num(json, "%s.k.%d", at, 2 * i), (double)w->k[0][1][1][i + 1][a], 1e-4);
        NEAR(num(json, "%s.k.%d", at, 2 * i + 1), (double)w->k[0][1][1][i + 1][b], 1e-4);
        NEAR(num(json, "%s.pos.%d", at, i), i + 1, 0);
    }
}

/* The heads of the largest scores, each once; rows add up to 1. */
static void test_maps(const World *w, const char *json)
{
    int seen[2][HEADS] = {{0}}, n = 0;
    size_t i = 1;
    for (Str all = json_at(json, "maps"); json_item(all, &i).n; n++) {
        int l = (int)num(json, "maps.%d.layer", n), h = (int)num(json, "maps.%d.head", n), at = 0;
        int rows = (int)num(json, "maps.%d.n", n);
        CHECK(!seen[l][h]++ && rows == (l ? 11 : T)); /* the window of layer 1 hides key 0 then */
        for (int pos = 0; pos < rows; pos++)
            for (int t = 0; t <= pos; t++)
                NEAR(num(json, "maps.%d.weights.%d", n, at++), (double)w->weight[0][l][h][pos][t],
                     1e-4);
    }
    CHECK(n >= 2);
    double best = 0, shown = 0;
    for (int l = 0; l < 2; l++)
        for (int h = 0; h < HEADS; h++) {
            double v = num(json, "layers.%d.heads.%d.induction", l, h);
            best = fmax(best, v);
            if (seen[l][h]) shown = fmax(shown, v);
        }
    NEAR(shown, best, 0);
}

static void test_bias(int layout)
{
    Shape s;
    AnalysisOptions o = analysis_defaults();
    float bq[HEADS * D];
    int a, b;
    shape_new(&s, layout, 0);
    for (int i = 0; i < HEADS * D; i++) bq[i] = (float)(i + 1);
    s.layer[1].bq = bq;
    Analysis *an = analysis_new(&s.m, &o);
    char *json = json_of(an, NULL);
    a = layout == ROPE_HALF ? 5 : 10, b = layout == ROPE_HALF ? 5 + N_PAIRS : 11;
    double x = 2 * D + a + 1, y = 2 * D + b + 1;
    NEAR(num(json, "layers.1.heads.2.bias.r_q.5"), sqrt(x * x + y * y), 1e-8);
    NEAR(num(json, "layers.1.heads.2.bias.dir_q.5"), atan2(y, x), 1e-8);
    NEAR(num(json, "layers.1.heads.2.bias.r_k.5"), 0, 0);
    is(json, "layers.1.heads.2.bias.dir_k.5", "null");
    is(json, "layers.0.heads.2.bias", "null");
    free(json);
    analysis_free(an);
    rope_free(&s.rope);
}

static void test_tokens(void)
{
    static const char *const text[] = {"<s>", " a\"b", "\xe2\x82", "\n", ""};
    Shape s;
    AnalysisOptions o = analysis_defaults();
    Provenance p = {.token_text = text, .n_token_text = 5};
    shape_new(&s, ROPE_HALF, 0);
    Analysis *a = analysis_new(&s.m, &o);
    char *json = json_of(a, &p);
    is(json, "tokens", "[\"<s>\",\" a\\\"b\",\"\xef\xbf\xbd\xef\xbf\xbd\",\"\\u000a\",\"\"]");
    free(json);
    json = json_of(a, NULL);
    is(json, "tokens", "[]");
    is(json, "maps", "[]");
    free(json);
    analysis_free(a);
    rope_free(&s.rope);
}

/* ---- exact sums ---- */

/* ---- words ---- */

static void check_verdict(int line, int bound, Rate s, const char *want)
{
    char words[VERDICT];
    verdict(bound, s, words);
    CHECK_MSG(strstr(words, want) && !strstr(words, "nan"), "line %d: '%s'", line, words);
}
#define VERDICT_IS(want, bound, ...) check_verdict(__LINE__, bound, (Rate){__VA_ARGS__}, want)

/* Of 48 pairs with a chance of 0.911 each, even 48 hits are no more than by chance. */
static void test_verdict(void)
{
    VERDICT_IS("cannot be told from chance with 48 pairs: that takes more than 3 standard "
               "deviations, and a hit by every pair would be 2.2",
               BOUND_B3, 48, 48, 48 * 0.911, 48 * 0.911 * 0.089);
    VERDICT_IS("no more and no less than by chance, so it tells nothing (0.0 standard deviations; "
               "more than 3 would)",
               BOUND_B3, 24, 48, 24, 12);
    VERDICT_IS("(1.2 standard deviations below; more", BOUND_B3, 20, 48, 24, 12);
    VERDICT_IS("more often than by chance (by 4.6 standard deviations)", BOUND_T3, 40, 48, 24, 12);
    VERDICT_IS("less often than by chance (by 4.6 standard deviations)", BOUND_T3, 8, 48, 24, 12);
    VERDICT_IS("(by 4.6 standard deviations): in the others", BOUND_B2, 8, 48, 24, 12);
    VERDICT_IS("with 5 pairs: that takes", BOUND_F1, 5, 5, 5, 0); /* the chance is 1 */
}

/* 100 % only of all, 0 % only of none. */
static void test_percent(void)
{
    char *s = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&s, &n);
    NEAR(percent_of(1, 1), 100, 0);
    NEAR(percent_of(1 - 1e-12, 1), 100, 1e-9); /* a sum of shares */
    NEAR(percent_of(0, 1), 0, 0);
    NEAR(percent_of(269 / 270.0, 1), 99, 0);
    NEAR(percent_of(1 / 236.0, 1), 1, 0);
    NEAR(percent_of(2999 / 3000.0, 0.1), 99.9, 1e-12);
    NEAR(percent_of(1 / 3000.0, 0.1), 0.1, 0);
    NEAR(percent_of(0.4567, 0.1), 45.67, 1e-12);
    CHECK(isnan(percent_of(NONE, 1)));
    print_rate(f, (Rate){269, 270, 1, 1});
    fclose(f);
    CHECK(!strcmp(s, "   269/270  99%   1%"));
    free(s);
}

/* The logit sentence has the means over all (query, other key), as the theory does. */
static void test_logit_words(void)
{
    Shape s;
    AnalysisOptions o = analysis_defaults();
    Provenance p = {0};
    Bytes said = {0};
    shape_new(&s, ROPE_HALF, 0);
    Analysis *a = analysis_new(&s.m, &o);
    Reading r = reading_new(a, &p);
    r.n_logit = 4, r.n_elsewhere = 0;
    r.partial_logit = (LogitSum){.sink = 2, .others = -1, .ordinary = -3};
    r.full_logit = (LogitSum){.sink = 0, .others = 0.5, .ordinary = 0.25};
    say_elsewhere(&r, &said);
    CHECK(said.n && !strcmp(said.s, "The attention logit of the first token is 4.75 above the mean "
                                    "over all (query, other key) (mean over 4 heads): +5.00 of it "
                                    "comes from pairs with x <= 2 pi (first token +2.00, others "
                                    "-3.00), -0.25 from all the rest (+0.00, +0.25)."));
    free(said.s);
    reading_free(&r);
    analysis_free(a);
    rope_free(&s.rope);
}

/* 40 tokens whose channel 0 is large in query heads 1 and 2 and in key head 1. */
static char *massive_said(float large)
{
    Shape s;
    AnalysisOptions o = analysis_defaults();
    shape_new(&s, ROPE_HALF, 0);
    Analysis *a = analysis_new(&s.m, &o);
    const Probe *p = analysis_probe(a);
    float x[40 * D];
    for (int stage = BEFORE_ROPE; stage <= AFTER_ROPE; stage++)
        for (int h = 0; h < HEADS; h++) {
            for (int i = 0; i < 40 * D; i++) x[i] = i % D ? 1 : large;
            if (h < KV && h != 1)
                for (int i = 0; i < 40 * D; i++) x[i] = 1;
            if (h < KV) p->k(p->ctx, 0, h, stage, 0, 40, x, D);
            for (int i = 0; i < 40 * D; i++) x[i] = i % D || !(h == 1 || h == 2) ? 1 : large;
            p->q(p->ctx, 0, h, stage, 0, 40, x, D);
        }
    char *json = json_of(a, NULL);
    analysis_free(a);
    rope_free(&s.rope);
    return json;
}

static void test_massive_said(void)
{
    char *json = massive_said(100), want[128];
    snprintf(want, sizeof want, "2 in the queries of 2 of %d heads, 1 in the keys of 1 of %d.",
             2 * HEADS, 2 * KV);
    CHECK_MSG(strstr(json, want) != NULL, "'%s' is not said", want);
    CHECK(strstr(json, "The stable rank of the queries is ") != NULL);
    free(json);
    json = massive_said(1);
    CHECK(strstr(json, "No query or key has a massive value") != NULL);
    free(json);
}

static Exact exact_of(const double *v, int n)
{
    Exact s = {{0}};
    for (int i = 0; i < n; i++) exact_add(&s, v[i]);
    return s;
}

static int same(Exact a, Exact b)
{
    return !memcmp(&a, &b, sizeof a);
}

/* Sums of any order and grouping have the same bits; and the right value. */
static void test_exact_order(void)
{
    enum { N = 500 };
    Rng rng = rng_new(5);
    double v[N], whole = 0;
    for (int i = 0; i < N; i++) v[i] = ldexp((double)rng_float(&rng), rng_int(&rng, -60, 60));
    Exact all = exact_of(v, N);
    for (int round = 0; round < 20; round++) {
        int cut = rng_int(&rng, 0, N);
        for (int i = N - 1; i > 0; i--) {
            int k = rng_int(&rng, 0, i);
            double t = v[i];
            v[i] = v[k], v[k] = t;
        }
        Exact a = exact_of(v, cut), b = exact_of(v + cut, N - cut), c = b;
        exact_merge(&c, &a), exact_merge(&a, &b);
        CHECK(same(a, all) && same(c, all));
    }
    for (int i = 0; i < N; i++) exact_add(&all, -v[i]);
    CHECK(same(all, (Exact){{0}})); /* nothing is left over, whatever the cancellation */
    for (int i = 0; i < N; i++) v[i] = rng_int(&rng, -1000000, 1000000), whole += v[i];
    all = exact_of(v, N);
    NEAR(exact_value(&all), whole, 0);
}

static double value_of(const double *v, int n)
{
    Exact s = exact_of(v, n);
    return exact_value(&s);
}
#define VALUE(...)                                                                                 \
    value_of((double[]){__VA_ARGS__}, (int)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)))

static void test_exact_ends(void)
{
    CHECK(VALUE(1e20, 1, -1e20) == 1 && VALUE(-1e20, -1, 1e20) == -1);
    CHECK(VALUE(0x1p-96) == 0x1p-96 && VALUE(-0x1p-96) == -0x1p-96);
    CHECK(VALUE(0x1p-97) == 0 && VALUE(-0x1p-97) == 0 && VALUE(5e-324) == 0);
    CHECK(VALUE(0x1.8p-96) == 0x1p-96 && VALUE(-0x1.8p-96) == -0x1p-96); /* cut off to zero */
    CHECK(VALUE(0x1.fffffffffffffp93) == 0x1.fffffffffffffp93);
    CHECK(VALUE(-0x1.fffffffffffffp93, 3, 0x1.fffffffffffffp93) == 3);
    CHECK(isnan(VALUE(0x1p94)) && isnan(VALUE(-0x1p94)) && isnan(VALUE(1e300, -1e300)));
    CHECK(isnan(VALUE(NONE)) && isnan(VALUE(ENDLESS)) && isnan(VALUE(1, -ENDLESS, 2)));
    CHECK(VALUE(0x1p93, 0x1p93, 0x1p93) == 0x1.8p94);
    CHECK(isnan(VALUE(0x1p93, 0x1p93, 0x1p93, 0x1p93)));             /* 2^95 */
    CHECK(isnan(VALUE(0x1p93, 0x1p93, 0x1p93, 0x1p93, -0x1p93, 1))); /* for good */
    CHECK(isnan(VALUE(0x1.8p93, 0x1.8p93, 0x1.8p93)));    /* past 2^95, where the sign turns */
    CHECK(isnan(VALUE(-0x1.8p93, -0x1.8p93, -0x1.8p93))); /* likewise */
    CHECK(isnan(VALUE(-0x1p93, -0x1p93, -0x1p93, -0x1p93)));
    CHECK(isnan(VALUE(-0x1p93, -0x1p93, -0x1p93, -0x1p93, -1)));
}

/* In a reading: windows whose sums do not fit or are not numbers become null, the rest stays. */
static void test_exact_reading(double odd, int fits)
{
    Shape s;
    AnalysisOptions o = analysis_defaults();
    shape_new(&s, ROPE_HALF, 0);
    Analysis *a = analysis_new(&s.m, &o);
    const Probe *p = analysis_probe(a);
    for (int w = 0; w < 3; w++) {
        float x[5 * D];
        for (int i = 0; i < 5 * D; i++) x[i] = 1;
        if (w == 1) x[2 * D] = (float)odd;
        analysis_window(a);
        p->q(p->ctx, 0, 0, BEFORE_ROPE, 0, 5, x, D);
        p->q(p->ctx, 0, 1, BEFORE_ROPE, 0, 5, x, D);
    }
    char *json = json_of(a, NULL);
    NEAR(num(json, "layers.0.heads.0.n_q"), 12, 0);
    CHECK(isnan(num(json, "layers.0.heads.0.rms_q.0")) == !fits);
    CHECK(isnan(num(json, "layers.0.heads.0.stable_rank_q")) == !fits);
    NEAR(num(json, "layers.0.heads.0.rms_q.1"), sqrt(2), 1e-8);
    if (fits) NEAR(num(json, "layers.0.heads.0.max_q.0"), sqrt(1 + odd * odd), 1e-6);
    free(json);
    analysis_free(a);
    rope_free(&s.rope);
}

int main(void)
{
    World *w = xcalloc(1, sizeof *w);
    for (int layout = ROPE_ADJACENT; layout <= ROPE_HALF; layout++) {
        world_new(w, layout, 3);
        char *json = world_json(w, 0);
        test_logits(w, json);
        test_rows(w, json);
        test_pairs(w, json);
        test_samples(w, json);
        test_maps(w, json);
        free(json);
        test_spoilt_logits(w);
        rope_free(&w->s.rope);
        test_known_covariance(layout);
        test_channels(layout);
        test_massive_values(layout);
        test_kernel(layout);
        test_bias(layout);
    }
    free(w);
    test_p_neg();
    test_spectrum();
    test_odd_spectrum();
    test_sinks();
    test_massive_first();
    test_activations();
    test_tri();
    test_distances();
    test_tokens();
    test_verdict();
    test_percent();
    test_logit_words();
    test_massive_said();
    test_exact_order();
    test_exact_ends();
    test_exact_reading(1e10, 1);
    test_exact_reading(1e20, 0); /* its square does not fit */
    test_exact_reading(NONE, 0);
    test_exact_reading(ENDLESS, 0);
    return check_done();
}
