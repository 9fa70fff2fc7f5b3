/* Models of every family against golden logits: the miniatures of tests/families (see
 * tests/make_miniatures.py), which export.py wrote, against those that Hugging Face transformers
 * computed in float32; or
 *     test_families TOLERANCE MODEL.gguf...
 * other models against MODEL.logits beside each (tests/test_tiny.sh). */
#include "../model.h"
#include "check.h"
#include "family_names.h"
#include "team.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Both sides are float32 and sum in different orders. The largest difference of any family is some
 * 2e-6 of its largest logit; a wrong flag moves logits by a tenth of it or more. */
static double tolerance = 5e-5;

typedef struct {
    int n_ids, n_rows;
    const char *ids, *rows; /* int32 [n_ids]; [n_rows] of int32 length, float32 [vocab] */
} Golden;

static int int_at(const char *p)
{
    int v;
    memcpy(&v, p, sizeof v);
    return v;
}

static int golden_open(Golden *g, const Bytes *file)
{
    if (file->n < 8) return -1;
    g->n_ids = int_at(file->s);
    if (g->n_ids < 1 || (size_t)g->n_ids > file->n / 4 - 2) return -1;
    g->ids = file->s + 4;
    g->n_rows = int_at(g->ids + 4 * g->n_ids);
    g->rows = g->ids + 4 * g->n_ids + 4;
    return g->n_rows < 1;
}

/* Logits [V] of the last of the first n tokens, in batches on threads; from malloc. NULL: it does
 * not run. */
static float *logits_of(const Model *m, const Golden *g, int n, int n_batch, int n_threads)
{
    Err e;
    State s;
    StateOptions so = {.n_ctx = n, .n_batch = n_batch, .n_threads = n_threads, .exact = 1};
    int team;
    Probe probe = team_probe(&team);
    if (!CHECK_MSG(!state_new(&s, m, &so, &e), "%s", e.msg)) return NULL;
    float *out = xcalloc((size_t)m->n_vocab, sizeof *out);
    int *ids = xcalloc((size_t)n, sizeof *ids);
    memcpy(ids, g->ids, (size_t)n * sizeof *ids);
    s.probe = &probe;
    for (int i = 0; i < n; i += n_batch) forward(&s, ids + i, n - i < n_batch ? n - i : n_batch, 1);
    CHECK_MSG(team == team_expected(n_threads), "%d threads of %d", team, n_threads);
    memcpy(out, s.logits, (size_t)m->n_vocab * sizeof *out);
    state_free(&s);
    free(ids);
    return out;
}

/* Those of any batch and team are the same bits, and near the golden ones of row `want`. */
static void test_length(const char *name, const Model *m, const Golden *g, int n, const char *want)
{
    size_t V = (size_t)m->n_vocab;
    float *got = logits_of(m, g, n, 32, 1), *w = xcalloc(V, sizeof *w);
    double worst = 0, most = 0;
    memcpy(w, want, V * sizeof *w);
    for (size_t i = 0; got && i < V; i++) {
        double d = fabs((double)got[i] - (double)w[i]);
        if (!(d <= worst)) worst = d;
        most = fmax(most, fabs((double)w[i]));
    }
    CHECK_MSG(got && worst <= tolerance * most, "%s: %d tokens: differs by %.3g of %.3g", name, n,
              worst, most);
    if (getenv("TEST_VERBOSE")) printf("%s %d %.2e\n", name, n, worst / most);
    for (int threads = 2; got && threads <= 3; threads++) {
        float *other = logits_of(m, g, n, threads == 2 ? 32 : 5, threads);
        CHECK_MSG(other && !memcmp(got, other, V * sizeof *got), "%s: %d tokens: %d threads", name,
                  n, threads);
        free(other);
    }
    free(got);
    free(w);
}

/* The model `name`.gguf against the logits of `name`.logits. */
static void test_family(const char *name)
{
    char path[4096];
    Err e;
    Model m;
    ModelOptions mo = {.rope = NULL};
    Bytes file = {0};
    Golden g = {.rows = NULL};
    snprintf(path, sizeof path, "%s.logits", name);
    if (!CHECK_MSG(!bytes_read(&file, path, &e), "%s", e.msg)) return;
    snprintf(path, sizeof path, "%s.gguf", name);
    if (CHECK_MSG(!golden_open(&g, &file), "%s: cut off", name) &&
        CHECK_MSG(!model_open(&m, path, &mo, &e), "%s: %s", name, e.msg)) {
        size_t row = 4 + 4 * (size_t)m.n_vocab;
        team_wanted(&m);
        CHECK(g.rows + row * (size_t)g.n_rows == file.s + file.n);
        for (int r = 0; r < g.n_rows && g.rows + row * (size_t)g.n_rows <= file.s + file.n; r++) {
            const char *at = g.rows + row * (size_t)r;
            test_length(name, &m, &g, int_at(at), at + 4);
        }
        model_close(&m);
    }
    free(file.s);
}

/* TOLERANCE MODEL.gguf... */
static int test_files(int argc, char **argv)
{
    tolerance = atof(argv[1]);
    for (int i = 2; i < argc; i++) {
        char *end = strrchr(argv[i], '.');
        if (CHECK_MSG(end && !strcmp(end, ".gguf"), "%s: not a .gguf file", argv[i])) {
            *end = '\0';
            test_family(argv[i]);
        }
    }
    return check_done();
}

int main(int argc, char **argv)
{
    if (argc > 2) return test_files(argc, argv);
    for (int i = 0; i < N_FAMILIES; i++) {
        char name[128];
        snprintf(name, sizeof name, "tests/families/%s", family_names[i]);
        test_family(name);
    }
    return check_done();
}
