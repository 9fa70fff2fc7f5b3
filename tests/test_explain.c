/* The walk through one logit: its numbers against the run's own, against each other in double, and
 * as they stand on paper. */
#include "../model.h"

#include "check.h"
#include "json.h"
#include "ref.h"

#include <string.h>

enum { D = 16, T = 24, P_MAX = D / 2, VOCAB = 30 };
#define U   0x1p-24
#define TAU 6.28318530717958647692

static Err err;

static const TinyModel tiny = {.n_layers = 2,
                               .n_embd = 32,
                               .n_heads = 4,
                               .n_kv_heads = 2,
                               .head_dim = D,
                               .n_ff = 40,
                               .n_vocab = VOCAB,
                               .biases = 1,
                               .seed = 8};

/* One walk: what to run, and what came of it. */
typedef struct {
    TinyModel t;
    const char *rope;
    const RopeKind *kind; /* instead of that of the file */
    int layout;           /* -1: of the file */
    int kv_type, n_batch, falsify;
    Logit at;
    char *json, *text;
    size_t n_json, n_text;
    float score[T], weight[T]; /* of the query's row, by a probe of the test's own */
    int t0, n_t;
} Walk;

/* A float of the JSON: its nine digits mean that float, not the double nearest to them. */
static double value(const Walk *w, const char *name, int i)
{
    return (double)(float)get(w->json, "%s.%d", name, i);
}

static Walk walk_of(int query, int key)
{
    return (Walk){.t = tiny, .layout = -1, .at = {1, 2, query, key, 1}};
}

static void see_row(void *ctx, const AttnRow *row)
{
    Walk *w = ctx;
    if (row->l != w->at.l || row->h != w->at.h || row->pos != w->at.query) return;
    w->t0 = row->t0;
    w->n_t = row->n_t;
    memcpy(w->score, row->scores, (size_t)row->n_t * sizeof *w->score);
    memcpy(w->weight, row->weights, (size_t)row->n_t * sizeof *w->weight);
}

static void feed(State *s, const int *ids, int n)
{
    for (int i = 0; i < n; i += s->n_batch)
        forward(s, ids + i, n - i < s->n_batch ? n - i : s->n_batch, 0);
}

/* Both outputs of a walk over a state that is ready. */
static void walk_over(Walk *w, State *s)
{
    static const char *const text[T] = {"<s>", " a", "\"b\n", "\xc3\xa9", "\xff"};
    const char *texts[T];
    int ids[T];
    Rng r = {4};
    Provenance p = {.n_tokens = 1, .n_ctx = T, .exact = 1, .kv = "f32"};
    Screen plain = {.ascii = 1, .width = 80};
    Probe own = {.want = PROBE_ATTN, .ctx = w, .attn = see_row};
    for (int i = 0; i < T; i++) {
        ids[i] = rng_int(&r, 0, VOCAB - 1);
        texts[i] = text[i % 5];
    }
    Explain *x = explain_new(s->m, &w->at);
    s->probe = explain_probe(x);
    feed(s, ids, w->at.query + 1);
    explain_end(x, s, ids, texts);
    FILE *f = open_memstream(&w->json, &w->n_json);
    explain_json(x, &p, f);
    fclose(f);
    f = open_memstream(&w->text, &w->n_text);
    explain_print(x, &p, f, &plain);
    fclose(f);
    explain_free(x);
    state_reset(s);
    s->probe = &own;
    feed(s, ids, w->at.query + 1);
}

static void replace_kind(Rope *r, const RopeKind *kind)
{
    r->kind = kind;
    if (kind->freqs(r, kind->length ? kind->length(r, 0) : 0, r->inv_freq, &r->amplitude, &err))
        die("%s", err.msg);
}

static void walk(Walk *w)
{
    Gguf g;
    Model m;
    State s;
    size_t size;
    uint8_t *file = tiny_model(&w->t, &size);
    ModelOptions mo = {.rope = w->rope};
    StateOptions so = {.n_ctx = T, .n_threads = 1, .n_batch = w->n_batch, .kv_type = w->kv_type};
    Edit *edit = NULL;
    if (gguf_parse(&g, "tiny.gguf", file, size, &err) || model_bind(&m, &g, &mo, &err))
        die("%s", err.msg);
    for (int r = 0; r < m.n_ropes; r++) {
        if (w->layout >= 0) m.rope[r].layout = w->layout;
        if (w->kind) replace_kind(&m.rope[r], w->kind);
    }
    if (w->kind && w->kind->angles) m.n_tables = m.max_kv_heads;
    if (state_new(&s, &m, &so, &err) || logit_resolve(&m, T, &w->at, &err)) die("%s", err.msg);
    if (w->falsify) {
        edit = edit_new(&m);
        edit_q(edit, w->at.l, w->at.h, 0, 3);
        s.edit = edit;
    }
    walk_over(w, &s);
    state_free(&s);
    edit_free(edit);
    model_close(&m);
    free(file);
}

static void walk_free(Walk *w)
{
    free(w->json);
    free(w->text);
}

/* ---------------------------------------------------------------- numbers */

/* The logit from the file's own vectors, in double: the walk's sum, but for the order of D terms
 * in double; the run's score, but for what the walk says float may do: 6 roundings of what is
 * added up (D / 32 + 5) and those of scale and bias. */
static void check_logit(const Walk *w)
{
    double dot = 0, sizes = 0, scale = get(w->json, "sum.scale"), bias = get(w->json, "sum.bias");
    double engine = get(w->json, "sum.engine"), allowed = get(w->json, "sum.allowed");
    for (int c = 0; c < D; c++) {
        double v = value(w, "vectors.q_after", c) * value(w, "vectors.k_met", c);
        dot += v;
        sizes += fabs(v);
    }
    double score = dot * scale + bias;
    NEAR(get(w->json, "sum.dot"), dot, 1e-13 * (1 + sizes));
    NEAR(get(w->json, "sum.score"), score, 1e-13 * (1 + sizes));
    CHECK_MSG(fabs(engine - score) <= allowed, "%.9g in the run, %.9g by hand", engine, score);
    double most =
        6.1 * U * sizes * scale + 1.1 * U * (2 * fabs(score - bias) + 2 * fabs(bias) + fabs(score));
    CHECK_MSG(allowed <= most + 1e-36, "allowed %.3g, expected %.3g at most", allowed, most);
    CHECK(!strncmp(find(w->json, "sum.adds_up"), "true", 4) && strstr(w->text, ": it adds up"));
}

/* The row: scores and weights are the run's bit for bit, and so is the weight of the key. */
static void check_row(const Walk *w)
{
    int at = w->at.key - w->t0;
    double sum = 0, max = -1e30, min = 1e30;
    CHECK(length(w->json, "softmax.scores") == w->n_t &&
          get(w->json, "setting.first_key") == w->t0);
    for (int t = 0; t < w->n_t; t++) {
        CHECK(value(w, "softmax.scores", t) == (double)w->score[t]);
        CHECK(value(w, "softmax.weights", t) == (double)w->weight[t]);
        max = fmax(max, (double)w->score[t]);
        min = fmin(min, (double)w->score[t]);
    }
    for (int t = 0; t < w->n_t; t++) sum += exp((double)w->score[t] - max);
    CHECK((float)get(w->json, "sum.engine") == w->score[at]);
    CHECK((float)get(w->json, "softmax.engine") == w->weight[at]);
    NEAR(get(w->json, "softmax.weight"), exp((double)w->score[at] - max) / sum, 1e-14);
    /* our exp is within 1.02 ulp, the sum of 24 terms within 6 roundings, the quotient one; the
     * exponents are rounded, too, to U of their size, here and in the sum */
    CHECK(fabs(get(w->json, "softmax.weight") / (double)w->weight[at] - 1) <
          (11 + 2 * (max - min)) * U);
    int first = (int)get(w->json, "softmax.top.0");
    CHECK(first == (int)get(w->json, "softmax.max_key"));
    NEAR(value(w, "softmax.scores", first - w->t0), max, 0);
}

/* Each part, from the values before rotation and frequencies computed here: theta_j = scale *
 * base^(-2j/n_rot). Each turned value is off by 5 U of its pair's length at most (test_rope), so
 * the part by 10 U r r, and its own sum in double by nothing. */
static void check_parts(const Walk *w, int n_rot, double slower)
{
    int delta = w->at.query - w->at.key;
    double sum = 0, rest = 0;
    CHECK(length(w->json, "pairs.part") == n_rot / 2);
    for (int j = 0; j < n_rot / 2; j++) {
        int a = 2 * j, b = 2 * j + 1;
        double qa = value(w, "vectors.q_before", a), ka = value(w, "vectors.k_before", a);
        double qb = value(w, "vectors.q_before", b), kb = value(w, "vectors.k_before", b);
        double theta = exp(-2.0 * j / n_rot * log(10000)) / slower,
               part = get(w->json, "pairs.part.%d", j);
        double c = cos(delta * theta), s = sin(delta * theta), rr = hypot(qa, qb) * hypot(ka, kb);
        double want = (qa * c - qb * s) * ka + (qa * s + qb * c) * kb;
        CHECK_MSG(fabs(part - want) <= 11 * U * rr, "pair %d: %.9g, expected %.9g", j, part, want);
        NEAR(get(w->json, "pairs.part_by_angles.%d", j), want, 1e-13);
        NEAR(get(w->json, "pairs.theta.%d", j), theta, 1e-14);
        NEAR(get(w->json, "pairs.angle_q.%d", j), fmod(w->at.query * theta, TAU), 1e-12);
        NEAR(get(w->json, "pairs.gain_q.%d", j), 1, 11 * U);
        CHECK(get(w->json, "pairs.members.%d.0", j) == a &&
              get(w->json, "pairs.members.%d.1", j) == b);
        sum += part;
    }
    for (int c = n_rot; c < D; c++)
        rest += value(w, "vectors.q_before", c) * value(w, "vectors.k_before", c);
    NEAR(get(w->json, "sum.not_rotated"), rest, 1e-14);
    NEAR(get(w->json, "sum.dot"), sum + rest, 1e-13);
}

static const char *all_of_ascii(void)
{
    static char s[128];
    for (int i = 1; i < 128; i++) s[i - 1] = (char)i;
    return s;
}

static void check_all(const Walk *w)
{
    CHECK(json_has_no_nan(w->json));
    CHECK(!strncmp(find(w->json, "schema"), "\"ropescope.explain/1\"", 21));
    size_t n = strspn(w->text, all_of_ascii());
    CHECK_MSG(!w->text[n], "not ASCII: %.20s", w->text + n);
    check_logit(w);
    check_row(w);
}

static void test_numbers(void)
{
    static const struct {
        const char *rope;
        int n_rot, window, half, batch;
        double slower;
    } cases[] = {{NULL, 16, 0, 0, 0, 1},
                 {NULL, 16, 0, 1, 5, 1},
                 {"linear:factor=4", 16, 0, 0, 1, 4},
                 {NULL, 10, 0, 0, 0, 1},
                 {NULL, 10, 0, 1, 0, 1},
                 {NULL, 16, 6, 0, 0, 1},
                 {NULL, 12, 6, 1, 4, 1},
                 {"linear:factor=3", 6, 0, 1, 0, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int query = 7; query < T; query += 8) {
            Walk w = walk_of(query, query - (int)i % 6);
            w.t.n_rot = cases[i].n_rot;
            w.t.window = cases[i].window;
            w.rope = cases[i].rope;
            w.layout = cases[i].half ? ROPE_HALF : ROPE_ADJACENT;
            w.n_batch = cases[i].batch;
            w.at.h = (int)i % 4;
            walk(&w);
            check_all(&w);
            check_parts(&w, cases[i].n_rot, cases[i].slower);
            CHECK(get(w.json, "setting.kv_head") == w.at.h / 2);
            walk_free(&w);
        }
}

/* Negative positions, and the first and only key. */
static void test_places(void)
{
    Walk w = walk_of(-1, -T);
    walk(&w);
    check_all(&w);
    CHECK(get(w.json, "setting.query") == T - 1 && get(w.json, "setting.key") == 0);
    CHECK(length(w.json, "tokens") == T);
    walk_free(&w);
    w = walk_of(0, 0);
    w.at.pair = -1;
    walk(&w);
    check_all(&w);
    CHECK(get(w.json, "softmax.weight") == 1 && isnan(get(w.json, "setting.pair")));
    CHECK(!strstr(w.text, "step by step\nValues"));
    walk_free(&w);
}

/* A change that the walk is not shown, here an edit of the query after the probe: it must say that
 * its numbers do not make the score. */
static void test_does_not_add_up(void)
{
    Walk w = walk_of(20, 3);
    w.falsify = 1;
    walk(&w);
    CHECK(!strncmp(find(w.json, "sum.adds_up"), "false", 5));
    CHECK(strstr(w.text, "It does not add up") && !strstr(w.text, ": it adds up"));
    walk_free(&w);
}

/* ---------------------------------------------------------------- hooks of encodings */

static int same_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    int rc = rope_plain.freqs(r, length, inv_freq, amplitude, e);
    for (int j = 0; j < r->n_pairs; j++) inv_freq[j] /= length ? length : 1;
    *amplitude = 1.25;
    return rc;
}

static int steps_of_8(const Rope *r, int pos)
{
    (void)r;
    return 1 + pos / 8;
}

static void odd_turn(const RopeAt *at, double *c, double *s)
{
    for (int j = 0; j < at->r->n_pairs; j++) {
        c[j] = cosh(0.01 * at->p * (at->part == ROPE_K ? 1 : 2)); /* of different length, too */
        s[j] = 0.1 * j;
    }
}

static void sum_and_difference(const Rope *r, int kh, float *x)
{
    (void)kh;
    for (int c = 0; c < r->p.head_dim; c += 2) {
        float a = x[c], b = x[c + 1];
        x[c] = a + b;
        x[c + 1] = a - b;
    }
}

static void slope(const Rope *r, int h, int pos, int t0, int n_t, float *score)
{
    (void)r;
    for (int t = 0; t < n_t; t++) score[t] -= 0.11f * (float)((h + 1) * (pos - t0 - t));
}

static double louder(const Rope *r, int pos)
{
    (void)r;
    return 1 + 0.1 * pos;
}

static void fade(const RopeCall *c, int kh, int i, float *key, int n_t)
{
    (void)kh, (void)i;
    for (int t = 0; t < n_t; t++) key[t * c->r->p.head_dim + 1] *= 0.875f;
}

static void felt_angles(const RopeCall *c, int kh, double *angle)
{
    (void)kh;
    for (int i = 0; i < c->n * c->r->n_pairs; i++)
        angle[i] = (double)c->x[i / c->r->n_pairs * 32 + i % c->r->n_pairs];
}

#define KIND(...)                                                                                  \
    {                                                                                              \
        .name = "test", .formula = "as it is", .source = "-", .summary = "-", .freqs = same_freqs, \
        __VA_ARGS__                                                                                \
    }

/* Whatever an encoding does, the walk adds up, from values before and after alone. */
static void test_hooks(void)
{
    static const RopeKind kinds[] = {
        KIND(.common = 0),
        KIND(.turn = odd_turn),
        KIND(.mix = sum_and_difference),
        KIND(.bias = slope),
        KIND(.q_scale = louder),
        KIND(.update = fade),
        KIND(.length = steps_of_8),
        KIND(.angles = felt_angles),
        KIND(.turn = odd_turn, .mix = sum_and_difference, .bias = slope, .q_scale = louder,
             .update = fade),
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (int batch = 1; batch < 8; batch += 6) {
            const RopeKind *k = &kinds[i];
            Walk w = walk_of(21, 4);
            w.kind = k;
            w.n_batch = batch;
            walk(&w);
            check_all(&w);
            NEAR(get(w.json, "sum.bias"), k->bias ? (double)(-0.11f * 51) : 0, 0);
            CHECK((fabs(get(w.json, "sum.key_change")) > 1e-3) == (k->update != NULL));
            NEAR(get(w.json, "setting.q_scale"), k->q_scale ? 3.1 : 1, 1e-15);
            NEAR(get(w.json, "setting.amplitude"), 1.25, 0);
            CHECK(isnan(get(w.json, "pairs.theta.2")) == (k->turn || k->angles));
            int formula = !k->turn && !k->angles && !k->update;
            CHECK(isnan(get(w.json, "pairs.part_by_angles.2")) == !formula);
            CHECK(!formula || get(w.json, "sum.by_angles") < 1e-4);
            if (k->turn && !k->q_scale)
                NEAR(get(w.json, "pairs.gain_k.0"), 1.25 * cosh(0.04), 4 * U);
            walk_free(&w);
        }
}

/* Encodings with weights of their own: frequencies of each key head in a basis of its own, angles
 * from what was read, keys rewritten, and a score that depends on what was read in between. */
static void test_weights(void)
{
    static const char *const specs[] = {"lie:seed=3", "comrope:seed=3,block=4", "selective:seed=3",
                                        "path:seed=3,forget=yes"};
    for (int i = 0; i < 4; i++) {
        Walk w = walk_of(21, 4);
        w.rope = specs[i];
        walk(&w);
        check_all(&w);
        CHECK((get(w.json, "sum.bias") < -1e-3) == (i == 3));
        CHECK((fabs(get(w.json, "sum.key_change")) > 1e-3) == (i == 3));
        if (i < 2) CHECK(get(w.json, "sum.by_angles") < 1e-4);
        walk_free(&w);
    }
}

/* Keys kept in 16 bits: the rest of the sum is what that took from the key. */
static void test_f16(void)
{
    Walk w = walk_of(20, 9);
    w.kv_type = T_F16;
    walk(&w);
    check_all(&w);
    CHECK(fabs(get(w.json, "sum.key_change")) > 0 && strstr(w.text, "16 bits"));
    NEAR(get(w.json, "sum.dot_as_made") + get(w.json, "sum.key_change"), get(w.json, "sum.dot"),
         1e-13);
    walk_free(&w);
}

/* ---------------------------------------------------------------- on paper */

/* The unit of the last digit of a printed number. */
static double unit(const char *s)
{
    const char *point = strchr(s, '.');
    return point ? pow(10, -(double)strspn(point + 1, "0123456789")) : 1;
}

/* What stands below a heading, up to the next one. */
static const char *section(const char *text, const char *heading)
{
    const char *s = strstr(text, heading);
    if (!CHECK_MSG(s != NULL, "no section %s", heading)) exit(check_done());
    return strchr(s, '\n') + 1;
}

/* One row of words; how many. */
static int words(const char **s, char word[12][32])
{
    char line[256];
    size_t n = strcspn(*s, "\n");
    snprintf(line, sizeof line, "%.*s", (int)n, *s);
    *s += n + ((*s)[n] != 0);
    return sscanf(line, "%31s %31s %31s %31s %31s %31s %31s %31s %31s %31s %31s %31s", word[0],
                  word[1], word[2], word[3], word[4], word[5], word[6], word[7], word[8], word[9],
                  word[10], word[11]);
}

/* Products of the printed values make the printed part; r r cos(phi + angle) does. */
static void check_products(const Walk *w, int n_pairs)
{
    const char *text = w->text;
    double factor = pow(get(w->json, "setting.amplitude"), 2) * get(w->json, "setting.q_scale");
    const char *points = section(text, "\n2. "), *turns = section(text, "\n3. ");
    const char *products = section(text, "\n4. ");
    char p[12][32], t[12][32], v[12][32];
    int seen = 0;
    while (seen < n_pairs && *products) {
        if (words(&products, v) != 9 || strspn(v[0], "0123456789") != strlen(v[0])) continue;
        while (*points && (words(&points, p) != 8 || strcmp(p[0], v[0]))) continue;
        while (*turns && (words(&turns, t) != 7 || strcmp(t[0], v[0]))) continue;
        double part = atof(v[7]), tol = 1.001 * unit(v[7]);
        double by_hand = atof(v[1]) * atof(v[3]) + atof(v[2]) * atof(v[4]);
        double angles = factor * atof(p[3]) * atof(p[6]) * cos(atof(p[7]) + atof(t[6]));
        CHECK_MSG(fabs(by_hand - part) <= tol, "%s: %.6f, printed %s", v[0], by_hand, v[7]);
        CHECK_MSG(fabs(atof(v[5]) + atof(v[6]) - part) <= tol, "%s + %s, printed %s", v[5], v[6],
                  v[7]);
        CHECK_MSG(fabs(angles - atof(v[8])) <= tol, "%s: %.6f, printed %s", v[0], angles, v[8]);
        seen++;
    }
    CHECK_MSG(seen == n_pairs, "%d of %d pairs found", seen, n_pairs);
}

/* Each line of the sum is the one before and its part. */
static void check_running(const char *text, int rows)
{
    const char *s = section(text, "\n5. ");
    char v[12][32];
    double sum = 0, before = 1e30;
    int seen = 0;
    while (seen < rows && *s) {
        int n = words(&s, v);
        int rest = n == 4 && !strcmp(v[0], "not"),
            numbered = strspn(v[0], "0123456789") == strlen(v[0]);
        if (!rest && (n < 4 || !numbered)) continue;
        double part = atof(v[2]), now = atof(v[3]);
        CHECK_MSG(fabs(sum + part - now) <= 1.001 * unit(v[3]), "%g + %s, printed %s", sum, v[2],
                  v[3]);
        CHECK_MSG(rest || fabs(part) <= before, "parts are not sorted");
        before = fabs(part);
        sum = now;
        seen++;
    }
    CHECK_MSG(seen == rows, "%d of %d rows found", seen, rows);
    double dot = atof(strstr(s, "products") + 8);
    CHECK(fabs(dot - sum) <= 1.001 * 1e-3);
}

/* Step 7: two products and their sum, worked out from the factors as printed. */
static void check_blackboard(const Walk *w, int expected)
{
    const char *s = section(w->text, "\n7. "), *said = strstr(s, "agrees to ");
    double tol = said ? 1.001 * pow(10, -atof(said + 10)) : 0;
    int seen = 0;
    while (*s) {
        char line[256], sign;
        double v[4], sum;
        size_t n = strcspn(s, "\n");
        snprintf(line, sizeof line, "%.*s", (int)n, s);
        s += n + (s[n] != 0);
        const char *equals = strrchr(line, '=');
        for (char *c = line; *c; c++)
            if (*c == '(' || *c == ')') *c = ' ';
        if (!equals ||
            sscanf(equals, "= %lf x %lf %c %lf x %lf", v, v + 1, &sign, v + 2, v + 3) != 5)
            continue;
        const char *result = strchr(strchr(s, '=') + 1, '=') + 1;
        sum = v[0] * v[1] + (sign == '-' ? -1 : 1) * v[2] * v[3];
        CHECK_MSG(fabs(sum - atof(result)) <= tol, "%s: %.9g, printed %.12s", line, sum, result);
        seen++;
    }
    if (strstr(w->text, "the key stands at 0")) expected -= 3; /* the same again is left out */
    CHECK_MSG(seen == expected, "%d sums of products, expected %d", seen, expected);
}

static void enlarge(const Rope *r, int kh, float *x)
{
    (void)kh;
    for (int c = 0; c < r->p.head_dim; c++) x[c] *= 60;
}

static double loud(const Rope *r, int pos)
{
    (void)r, (void)pos;
    return 150;
}

/* A sheet of paper, of values of several sizes. */
static void test_paper(void)
{
    static const RopeKind large = KIND(.mix = enlarge), scaled = KIND(.q_scale = loud);
    static const RopeKind *const kinds[] = {NULL, &large, &scaled};
    for (int i = 0; i < 18; i++) {
        Walk w = walk_of(23 - i, 2 * i % 7);
        w.t.seed = 20 + (uint64_t)i;
        w.t.n_rot = i % 4 ? 16 : 10;
        w.layout = i % 2;
        w.kind = kinds[i % 3];
        walk(&w);
        check_products(&w, w.t.n_rot / 2);
        check_running(w.text, w.t.n_rot / 2 + (i % 4 == 0));
        check_blackboard(&w, 8);
        walk_free(&w);
    }
}

/* ---------------------------------------------------------------- what is asked for */

static void refuses(const Model *m, Logit at, const char *words_of)
{
    Logit was = at;
    err.msg[0] = err.usage = 0;
    CHECK_MSG(logit_resolve(m, 20, &at, &err) == -1 && err.usage, "%d %d was accepted", at.query,
              at.key);
    CHECK_MSG(strstr(err.msg, words_of) != NULL, "'%s' in '%s'", words_of, err.msg);
    CHECK(!memcmp(&was, &at, sizeof at));
}

static void test_refusals(void)
{
    Gguf g;
    Model m;
    size_t size;
    TinyModel t = tiny;
    t.window = 6;
    uint8_t *file = tiny_model(&t, &size);
    if (gguf_parse(&g, "tiny.gguf", file, size, &err) || model_bind(&m, &g, NULL, &err))
        die("%s", err.msg);
    refuses(&m, (Logit){2, 0, -1, -1, -1}, "the model has 2 layers, 0 to 1");
    refuses(&m, (Logit){0, 4, -1, -1, -1}, "4 query heads, 0 to 3");
    refuses(&m, (Logit){0, 0, 20, 0, -1}, "20 tokens can be read, 0 to 19");
    refuses(&m, (Logit){0, 0, -21, 0, -1}, "--query -21");
    refuses(&m, (Logit){0, 0, 3, 20, -1}, "--key 20");
    refuses(&m, (Logit){0, 0, 3, 4, -1}, "a query sees keys up to itself");
    refuses(&m, (Logit){0, 0, 10, 4, -1}, "the query at 10 sees keys 5 to 10");
    refuses(&m, (Logit){0, 0, 10, 7, 8}, "rotates 8 pairs, 0 to 7");
    Logit ok = {0, 0, 10, 5, 7};
    CHECK(logit_resolve(&m, 20, &ok, &err) == 0);
    model_close(&m);
    free(file);
}

int main(void)
{
    test_numbers();
    test_places();
    test_does_not_add_up();
    test_hooks();
    test_weights();
    test_f16();
    test_paper();
    test_refusals();
    return check_done();
}
