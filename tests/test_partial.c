/* Partial results: files of closed windows add up to one run, byte by byte, and nothing that is
 * wrong with a file goes unnoticed. */
#include "../model.h"
#include "check.h"

#include <string.h>

enum { WINDOWS = 11, N_CTX = 24, LAST = 9 /* tokens of the last window */, E_DIM = 6 };

/* ---- a model that is only a shape, and windows to show to an analysis of it ---- */

typedef struct {
    Model m;
    Layer layer[2];
    Rope rope[2];
    float divisors[8], bias[64];
    Arch arch;
} Shape;

static void shape_new(Shape *s, int n_layers, int n_heads, int n_rot, int D)
{
    Err e;
    RopeParams p = {.head_dim = D,
                    .n_rot = n_rot,
                    .base = 10000,
                    .factor = 1,
                    .n_ctx_orig = 48,
                    .pos_scale = 1};
    *s = (Shape){.arch = {.name = "shape \"\n"}};
    for (int i = 0; i < 8; i++) s->divisors[i] = 1 + (float)i / 3;
    for (int i = 0; i < 64; i++) s->bias[i] = (float)i / 7;
    CHECK(rope_new(&s->rope[0], rope_find("plain"), &p, ROPE_ADJACENT, NULL, &e) == 0);
    p.divisors = s->divisors;
    CHECK(rope_new(&s->rope[1], rope_find("plain"), &p, ROPE_HALF, NULL, &e) == 0);
    s->layer[0] = (Layer){.n_heads = n_heads, .n_kv_heads = 1, .bk = s->bias};
    s->layer[1] = (Layer){.n_heads = 2, .n_kv_heads = 2, .window = 7, .rope = 1};
    s->m = (Model){.arch = &s->arch,
                   .n_layers = n_layers,
                   .head_dim = D,
                   .n_embd = E_DIM,
                   .n_vocab = 50,
                   .n_ctx_train = 48,
                   .n_params = 1234,
                   .max_heads = n_heads > 2 ? n_heads : 2,
                   .max_kv_heads = n_layers,
                   .score_scale = 0.5f,
                   .layer = s->layer,
                   .rope = s->rope,
                   .n_ropes = n_layers};
}

static void shape_free(Shape *s)
{
    rope_free(&s->rope[0]);
    rope_free(&s->rope[1]);
}

static void show_head(const Analysis *a, const Model *m, int l, int h, int n, Rng *r)
{
    const Probe *p = analysis_probe(a);
    size_t D = (size_t)m->head_dim;
    float *x = xcalloc((size_t)n * D, sizeof *x), weights[N_CTX], scores[N_CTX];
    for (int stage = 0; stage < 2; stage++) {
        for (size_t i = 0; i < (size_t)n * D; i++) x[i] = rng_float(r);
        x[D] = 3; /* the same peak in every window: the first one counts */
        p->q(p->ctx, l, h, stage, 0, n, x, D);
        if (h < m->layer[l].n_kv_heads) p->k(p->ctx, l, h, stage, 0, n, x, D);
    }
    for (int pos = 0; pos < n; pos++) {
        AttnRow row = {.l = l, .h = h, .pos = pos, .n_t = pos + 1, .q = x, .k = x};
        double sum = 0;
        for (int t = 0; t <= pos; t++) sum += exp((double)(scores[t] = 4 * rng_float(r)));
        for (int t = 0; t <= pos; t++) weights[t] = (float)(exp((double)scores[t]) / sum);
        row.scores = scores, row.weights = weights;
        p->attn(p->ctx, &row);
    }
    free(x);
}

/* Window w, which depends on its number alone; the first n tokens of it. */
static void show(Analysis *a, const Model *m, uint64_t w, int n)
{
    Rng r = {w + 77};
    int ids[N_CTX];
    const Probe *p = analysis_probe(a);
    for (int i = 0; i < n; i++) ids[i] = rng_int(&r, 0, 9);
    analysis_window(a);
    analysis_seek(a, w);
    analysis_tokens(a, ids, n);
    for (int l = 0; l < m->n_layers; l++) {
        float x[N_CTX * E_DIM];
        for (int i = 0; i < n * E_DIM; i++) x[i] = rng_float(&r) / 8;
        x[4] = w == 5 ? 400 : 300; /* massive activations, most of them equal */
        x[E_DIM + 1] = 300;
        for (int h = 0; h < m->layer[l].n_heads; h++) show_head(a, m, l, h, n, &r);
        p->resid(p->ctx, l, 0, n, x, E_DIM);
    }
}

static int window_length(uint64_t w)
{
    return w == WINDOWS - 1 ? LAST : N_CTX;
}

static Provenance made(void)
{
    return (Provenance){.model_path = "a\\\"\x01.gguf",
                        .text_path = "text",
                        .bos_policy = "off",
                        .isa = "base",
                        .kv = "f32",
                        .model_sha256 = "00ff",
                        .text_sha256 = "ff00",
                        .model_bytes = 99,
                        .n_ctx = N_CTX,
                        .bos_id = -1,
                        .exact = 1,
                        .n_threads = 3,
                        .n_text_tokens = (WINDOWS - 1) * N_CTX + LAST,
                        .n_text_windows = WINDOWS};
}

static Analysis *start(const Shape *s)
{
    AnalysisOptions o = analysis_defaults();
    o.sink_t = 8;
    o.n_skip = 2;
    return analysis_new(&s->m, &o);
}

/* ---- files as strings ---- */

static Bytes written(Analysis *a, const Provenance *p)
{
    Bytes b = {0};
    Err e = {.usage = 0};
    FILE *f = open_memstream(&b.s, &b.n);
    CHECK_MSG(partial_write(a, p, f, &e) == 0, "%s", e.msg);
    fclose(f);
    return b;
}

static Bytes part(const Shape *s, uint64_t from, uint64_t to)
{
    Analysis *a = start(s);
    Provenance p = made();
    for (uint64_t w = from; w < to; w++) show(a, &s->m, w, window_length(w));
    analysis_window(a);
    Bytes b = written(a, &p);
    analysis_free(a);
    return b;
}

static int add(Partial *x, const Bytes *b, Err *e)
{
    uint8_t *exact = malloc(b->n ? b->n : 1); /* so that a sanitizer sees a byte too many */
    memcpy(exact, b->s, b->n);
    int rc = partial_add(x, "file", exact, b->n, e);
    free(exact);
    return rc;
}

static char *reading(const Analysis *a, const Provenance *p, int json)
{
    char *s = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&s, &n);
    if (json)
        analysis_json(a, p, f);
    else
        analysis_print(a, p, f, NULL);
    fclose(f);
    return s;
}

static void check_reading(const Partial *x, const char *json, const char *text)
{
    char *j = reading(x->a, &x->p, 1), *t = reading(x->a, &x->p, 0);
    CHECK(strcmp(j, json) == 0);
    CHECK(strcmp(t, text) == 0);
    free(j), free(t);
}

/* The whole text in one run: JSON, text and file. */
typedef struct {
    char *json, *text;
    Bytes file;
} Whole;

static Whole whole_run(const Shape *s)
{
    Analysis *a = start(s);
    Provenance p = made();
    for (uint64_t w = 0; w < WINDOWS; w++) show(a, &s->m, w, window_length(w));
    p.n_windows = WINDOWS;
    p.n_tokens = p.n_text_tokens;
    Whole out = {reading(a, &p, 1), reading(a, &p, 0), {0}}; /* with its last window open */
    analysis_window(a);
    out.file = written(a, &p);
    char *closed = reading(a, &p, 1);
    CHECK(strcmp(closed, out.json) == 0);
    free(closed);
    analysis_free(a);
    return out;
}

static void whole_free(Whole *w)
{
    free(w->json), free(w->text), free(w->file.s);
}

/* ---- merging ---- */

/* n shards, merged in a random order, some of them into files of their own first. */
static void test_shards(const Shape *s, const Whole *want, int n, Rng *r)
{
    Bytes file[32];
    Err e = {.usage = 0};
    int n_files = n;
    for (int i = 0; i < n; i++)
        file[i] = part(s, (uint64_t)(WINDOWS * i / n), (uint64_t)(WINDOWS * (i + 1) / n));
    while (n_files > 1) {
        Partial x = {0};
        int group = rng_int(r, 1, n_files < 4 ? n_files : 4);
        for (int i = 0; i < group; i++) {
            int at = rng_int(r, 0, n_files - 1);
            CHECK_MSG(add(&x, &file[at], &e) == 0, "%s", e.msg);
            free(file[at].s);
            file[at] = file[--n_files];
        }
        file[n_files++] = written(x.a, &x.p);
        partial_free(&x);
    }
    Partial x = {0};
    CHECK(add(&x, &file[0], &e) == 0 && !x.p.incomplete && x.p.n_windows == WINDOWS);
    check_reading(&x, want->json, want->text);
    CHECK(file[0].n == want->file.n && !memcmp(file[0].s, want->file.s, file[0].n));
    partial_free(&x);
    free(file[0].s);
}

static void test_overlap_and_gaps(const Shape *s)
{
    Bytes a = part(s, 0, 3), b = part(s, 2, 6), c = part(s, 7, 9), none = part(s, 4, 4);
    Partial x = {0};
    Err e = {.usage = 0};
    char missing[512];
    CHECK(add(&x, &a, &e) == 0 && add(&x, &b, &e) < 0 && strstr(e.msg, "window 2 is"));
    partial_free(&x);
    CHECK(add(&x, &none, &e) == 0 && x.p.n_windows == 0 && x.p.incomplete);
    CHECK(add(&x, &c, &e) == 0 && add(&x, &none, &e) == 0 && add(&x, &a, &e) == 0);
    CHECK(x.p.n_windows == 5 && x.p.n_tokens == 5 * N_CTX);
    analysis_missing(x.a, WINDOWS, missing, sizeof missing);
    CHECK_MSG(strcmp(missing, "windows 3 to 6 and 9 to 10") == 0, "%s", missing);
    char *j = reading(x.a, &x.p, 1), *t = reading(x.a, &x.p, 0);
    CHECK(strstr(j, "\"n_text_windows\":11,\"covered\":[[0,3],[7,9]]}"));
    CHECK(strstr(j, "without windows 3 to 6 and 9 to 10"));
    CHECK(strstr(t, "parts are missing: 6 of 11 windows"));
    free(j), free(t);
    CHECK(add(&x, &c, &e) < 0 && strstr(e.msg, "windows 7 to 8 are"));
    partial_free(&x);
    free(a.s), free(b.s), free(c.s), free(none.s);
}

/* The names of the file with the first window count, whatever the order. */
static void test_names(const Shape *s)
{
    Bytes file[3];
    Err e = {.usage = 0};
    for (int i = 0; i < 3; i++) {
        Analysis *a = start(s);
        Provenance p = made();
        p.model_path = (const char *[]){"first", "second", "a third"}[i];
        p.isa = (const char *[]){"x", "x", "y"}[i];
        p.n_threads = 2 + (i == 1);
        if (i < 2) show(a, &s->m, (uint64_t)i, N_CTX);
        analysis_window(a);
        file[i] = written(a, &p);
        analysis_free(a);
    }
    for (int i = 0; i < 3; i++) {
        Partial x = {0};
        for (int k = 0; k < 3; k++) CHECK(add(&x, &file[(i + k) % 3], &e) == 0);
        CHECK(strcmp(x.p.model_path, "first") == 0 && strcmp(x.p.isa, "several") == 0);
        CHECK(x.p.n_threads == 0);
        partial_free(&x);
    }
    for (int i = 0; i < 3; i++) free(file[i].s);
}

/* ---- refusals ---- */

static void check_mismatch(const Shape *s, const Bytes *with, const Provenance *p,
                           const AnalysisOptions *o, const char *words)
{
    Partial x = {0};
    Err e = {.usage = 0};
    Analysis *a = analysis_new(&s->m, o);
    Bytes b = written(a, p);
    CHECK(add(&x, with, &e) == 0);
    CHECK_MSG(add(&x, &b, &e) < 0 && strstr(e.msg, words), "%s, not %s", e.msg, words);
    partial_free(&x);
    CHECK(partial_resume(a, p, "it", (uint8_t *)with->s, with->n, &e) < 0);
    CHECK_MSG(strstr(e.msg, "this run") != NULL, "%s", e.msg);
    analysis_free(a);
    free(b.s);
}

static void test_mismatches(Shape *s)
{
    Bytes with = part(s, 0, 1);
    AnalysisOptions o = analysis_defaults();
    Provenance p = made();
    o.sink_t = 8, o.n_skip = 2;
#define MISMATCH(change, words)                                                                    \
    do {                                                                                           \
        AnalysisOptions o_was = o;                                                                 \
        Provenance p_was = p;                                                                      \
        change;                                                                                    \
        check_mismatch(s, &with, &p, &o, words);                                                   \
        o = o_was, p = p_was;                                                                      \
    } while (0)
    MISMATCH(p.model_sha256[0] = '1', "model_sha256: expected \"00ff\", as in file, found \"10");
    MISMATCH(p.text_sha256[0] = '0', "text_sha256");
    MISMATCH(p.bos_policy = "on", "bos_policy");
    MISMATCH(p.bos_id = 3, "bos_id: expected -1, as in file, found 3");
    MISMATCH(p.exact = 0, "activations: expected \"float\", as in file, found \"int8\"");
    MISMATCH(p.kv = "f16", "kv");
    MISMATCH(p.rope_override = "none", "rope_override: expected null, as in file, found \"none");
    MISMATCH(p.pre_override = "x", "pre_override");
    MISMATCH(p.edit_hash = 1, "edit_hash: expected \"0000000000000000\", as in file, found \"0000");
    MISMATCH(p.edits = "pair 3", "edits: expected null, as in file, found \"pair 3\"");
    MISMATCH(p.n_ctx = 25, "n_ctx");
    MISMATCH(p.text_cut = 1, "text_cut");
    MISMATCH(p.n_text_tokens--, "n_text_tokens");
    MISMATCH(p.n_text_windows++, "n_text_windows");
    MISMATCH(p.bytes_left_out = 1, "bytes_left_out");
    MISMATCH(o.n_skip = 1, "n_skip");
    MISMATCH(o.strong_ratio = 21, "strong_ratio");
    MISMATCH(o.strong_r = 0.9500001, "strong_r");
    MISMATCH(o.sink_eps = 0.2, "sink_eps: expected 0.3, as in file, found 0.2");
    MISMATCH(o.sink_t = 9, "sink_t");
    MISMATCH(o.n_ctx = 77, "train_ctx");
    double theta = s->rope[0].inv_freq[1];
    MISMATCH(s->rope[0].inv_freq[1] = nextafter(theta, 1), ": ropes[0].theta[1]: expected ");
    s->rope[0].inv_freq[1] = theta;
    MISMATCH(s->layer[1].window = 8, ": layers[1].window: expected 7, as in file, found 8");
    s->layer[1].window = 7;
#undef MISMATCH
    free(with.s);
}

static void test_damage(void)
{
    Shape s;
    shape_new(&s, 1, 1, 2, 2);
    Bytes b = part(&s, 0, 2), cut = {malloc(b.n), 0, 0};
    Err e = {.usage = 0};
    int refused = 0, tried = 0;
    for (size_t n = 0; n < b.n; n++, tried++) {
        Partial x = {0};
        memcpy(cut.s, b.s, n);
        cut.n = n;
        refused += add(&x, &cut, &e) < 0 && strncmp(e.msg, "file: ", 6) == 0;
        partial_free(&x);
    }
    CHECK_MSG(refused == tried, "%d of %d truncated files are refused", refused, tried);
    refused = tried = 0;
    cut.n = b.n;
    for (size_t i = 0; i < b.n; i += i < 3000 || b.n - i < 100 ? 1 : 37, tried++) {
        Partial x = {0};
        memcpy(cut.s, b.s, b.n);
        cut.s[i] = (char)(cut.s[i] ^ 1 << i % 8);
        refused += add(&x, &cut, &e) < 0 && strncmp(e.msg, "file: ", 6) == 0;
        partial_free(&x);
    }
    CHECK_MSG(refused == tried, "%d of %d changed files are refused", refused, tried);
    free(cut.s), free(b.s);
    shape_free(&s);
}

/* ---- checkpoints ---- */

/* An open window leaves no trace in the file; a run that goes on from it, in whatever order, ends
 * with the same bytes. */
static void test_resume(const Shape *s, const Whole *want)
{
    static const uint64_t order[] = {8, 0, 3, 10, 1, 9, 2, 7};
    Provenance p = made();
    Err e = {.usage = 0};
    Analysis *a = start(s), *b = start(s);
    for (uint64_t w = 4; w < 7; w++) show(a, &s->m, w, N_CTX);
    show(a, &s->m, 0, N_CTX - 5); /* interrupted */
    Bytes half = written(a, &p), same = part(s, 4, 7);
    CHECK(half.n == same.n && !memcmp(half.s, same.s, half.n));
    CHECK(partial_resume(b, &p, "half", (uint8_t *)half.s, half.n, &e) == 0);
    CHECK(analysis_has(b, 4) && analysis_has(b, 6) && !analysis_has(b, 7) && !analysis_has(b, 3));
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        show(b, &s->m, order[i], window_length(order[i]));
    p.n_windows = WINDOWS, p.n_tokens = p.n_text_tokens;
    char *j = reading(b, &p, 1);
    CHECK(strcmp(j, want->json) == 0);
    analysis_window(b);
    Bytes file = written(b, &p);
    CHECK(file.n == want->file.n && !memcmp(file.s, want->file.s, file.n));
    free(j), free(half.s), free(same.s), free(file.s);
    analysis_free(a), analysis_free(b);
}

int main(void)
{
    Shape s;
    Rng r = rng_new(4);
    shape_new(&s, 2, 3, 8, 12);
    Whole w = whole_run(&s);
    static const int shards[] = {1, 2, 3, 5, 7, 11, 20};
    for (size_t i = 0; i < sizeof shards / sizeof *shards; i++)
        for (int k = 0; k < 3; k++) test_shards(&s, &w, shards[i], &r);
    test_overlap_and_gaps(&s);
    test_names(&s);
    test_mismatches(&s);
    test_resume(&s, &w);
    test_damage();
    whole_free(&w);
    shape_free(&s);
    return check_done();
}
