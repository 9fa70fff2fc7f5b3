/* What a reading is written as: the report on screens of all kinds, CSV, NumPy arrays, folders that
 * appear whole; and generated tokens, which count like those of a text. */
#include "../model.h"
#include "check.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- models that are only a shape: two layers, the second with fewer heads ---- */

typedef struct {
    Model m;
    Layer layer[2];
    Rope rope;
} Shape;

static void shape_new(Shape *s, int n_rot, int n_ctx)
{
    Err e;
    RopeParams p = {.head_dim = n_rot,
                    .n_rot = n_rot,
                    .base = 10000,
                    .factor = 1,
                    .n_ctx_orig = n_ctx,
                    .pos_scale = 1};
    *s = (Shape){0};
    CHECK(rope_new(&s->rope, rope_find("plain"), &p, ROPE_HALF, NULL, &e) == 0);
    s->layer[0] = (Layer){.n_heads = 3, .n_kv_heads = 1};
    s->layer[1] = (Layer){.n_heads = 2, .n_kv_heads = 1};
    s->m = (Model){.n_layers = 2,
                   .head_dim = n_rot,
                   .n_ctx_train = n_ctx,
                   .max_heads = 3,
                   .max_kv_heads = 1,
                   .layer = s->layer,
                   .rope = &s->rope,
                   .n_ropes = 1};
}

/* 40 equal tokens: every value 1, of pair `strong` 6 with opposite signs in q and k. That of head 1
 * of layer 1 is not finite. Layer 0 has no strong pair. */
static Analysis *observed(const Shape *s, int strong)
{
    AnalysisOptions o = analysis_defaults();
    Analysis *a = analysis_new(&s->m, &o);
    const Probe *p = analysis_probe(a);
    int D = s->m.head_dim, first, second;
    float *x = xcalloc((size_t)D, sizeof *x);
    rope_pair(&s->rope, strong, &first, &second);
    for (int l = 0; l < 2; l++)
        for (int h = -1; h < s->layer[l].n_heads; h++)
            for (int pos = 0; pos < 40; pos++) {
                for (int c = 0; c < D; c++) x[c] = 1;
                if (l == 1) x[first] = x[second] = h < 0 ? -6 : 6;
                if (l == 1 && h == 1) x[0] = INFINITY;
                for (int stage = BEFORE_ROPE; stage <= AFTER_ROPE; stage++)
                    if (h < 0)
                        p->k(p->ctx, l, 0, stage, pos, 1, x, (size_t)D);
                    else
                        p->q(p->ctx, l, h, stage, pos, 1, x, (size_t)D);
            }
    free(x);
    return a;
}

static Provenance made(void)
{
    return (Provenance){.model_path = "m.gguf",
                        .text_path = "t.txt",
                        .isa = "base",
                        .model_sha256 = "00112233445566778899",
                        .rope_override = "odd, \"quoted\"",
                        .n_ctx = 128,
                        .n_tokens = 40,
                        .n_windows = 1};
}

static char *report(const Analysis *a, const Screen *screen)
{
    Provenance p = made();
    static char *s;
    static size_t n;
    FILE *f = open_memstream(&s, &n);
    analysis_print(a, &p, f, screen);
    fclose(f);
    return s;
}

static char *table(const Analysis *a, void (*write)(const Analysis *, const Provenance *, FILE *))
{
    Provenance p = made();
    static char *s;
    static size_t n;
    FILE *f = open_memstream(&s, &n);
    write(a, &p, f);
    fclose(f);
    return s;
}

/* ---- the report ---- */

/* Characters of the longest line, those of an escape sequence not counted. */
static int widest(const char *s)
{
    int most = 0, n = 0;
    for (; *s; s++) {
        if (*s == '\033')
            s += strcspn(s, "m");
        else if (*s == '\n')
            n = 0;
        else
            n += (*s & 0xc0) != 0x80;
        if (n > most) most = n;
    }
    return most;
}

/* The characters of the map's row of layer l, without its label; to be freed. */
static char *map_row(const char *text, int l)
{
    char label[16], *row = xcalloc(strlen(text) + 1, 1);
    int n = snprintf(label, sizeof label, "\n%7d  ", l);
    const char *at = strstr(text, label);
    if (CHECK_MSG(at != NULL, "no row of layer %d", l)) memcpy(row, at + n, strcspn(at + n, "\n"));
    return row;
}

static void check_row(const char *text, int l, const char *want)
{
    char *row = map_row(text, l);
    CHECK_MSG(!strcmp(row, want), "layer %d: '%s', expected '%s'", l, row, want);
    free(row);
}

/* 8 pairs, P = 512: x falls through 2 pi at pair 4 (5.12) and through pi at pair 5 (1.6). The
 * strong pair has r_q r_k 36 times the median's, phi = pi, and is a candidate. */
static void test_map(void)
{
    Shape s;
    shape_new(&s, 16, 512);
    Analysis *a = observed(&s, 6);
    char *text = report(a, NULL);
    check_row(text, 0, "········│··┊······");
    check_row(text, 1, "········│··┊··▓●··");
    CHECK(strstr(text, "from pair 4 on: at most one turn") != NULL);
    CHECK(strstr(text, "from pair 5 on: at most half a turn") != NULL);
    CHECK(!strchr(text, '\033') && !strstr(text, "share a column"));
    free(text);
    text = report(a, &(Screen){.ascii = 1, .width = 80});
    check_row(text, 1, "........|..!..%*..");
    for (const char *c = text; *c; c++)
        if (!CHECK_MSG(!(*c & 0x80), "not ASCII: %.20s", c)) break;
    free(text);
    text = report(a, &(Screen){.color = COLOR_TRUE});
    CHECK(strstr(text, "\033[48;2;") != NULL && !strstr(text, "\033[48;5;"));
    free(text);
    text = report(a, &(Screen){.color = COLOR_256});
    CHECK(strstr(text, "\033[48;5;") != NULL && !strstr(text, "\033[48;2;"));
    free(text);
    text = report(a, &(Screen){.color = COLOR_8});
    CHECK(strchr(text, '\033') != NULL && !strstr(text, "\033[48") && strstr(text, "▓"));
    free(text);
    analysis_free(a);
    rope_free(&s.rope);
}

/* 256 pairs do not fit: columns are shared, bounds still lie between columns, and no line of the
 * report is wider than the screen. */
static void test_widths(void)
{
    static const int width[] = {10, 80, 81, 100, 137, 200, 1000};
    Shape s;
    shape_new(&s, 512, 4096);
    Analysis *a = observed(&s, 250);
    for (size_t i = 0; i < sizeof width / sizeof *width; i++)
        for (int color = COLOR_NONE; color <= COLOR_TRUE; color++) {
            Screen screen = {.color = color, .width = width[i]};
            int most = width[i] < 80 ? 80 : width[i] > 200 ? 200 : width[i];
            char *text = report(a, &screen);
            if (!CHECK_MSG(widest(text) <= most, "%d columns on a screen of %d", widest(text),
                           width[i]))
                puts(text);
            CHECK_MSG(strstr(text, most < 140 ? "Up to 4 neighbouring" : "Up to 2 neighbouring") ||
                          (most >= 100 && strstr(text, "Up to 3 neighbouring")),
                      "%d", width[i]);
            char *row = map_row(text, 1);
            CHECK(strstr(row, "│") && strstr(row, "┊") && strstr(row, "●"));
            free(row), free(text);
        }
    analysis_free(a);
    rope_free(&s.rope);
}

static int count(const char *s, const char *word)
{
    int n = 0;
    for (; (s = strstr(s, word)); s++) n++;
    return n;
}

/* All heads only when asked for; those without a strongest pair are never notable. */
static void test_heads(void)
{
    Shape s;
    shape_new(&s, 16, 512);
    Analysis *a = observed(&s, 6);
    char *few = report(a, NULL), *all = report(a, &(Screen){.verbose = 1});
    CHECK(strstr(few, "Heads whose strongest pair stands out most") != NULL);
    CHECK(strstr(few, "5 of 5 heads") != NULL);
    CHECK(!strstr(few, "\nlayer 1") && count(all, "strongest pair within one turn") == 2);
    CHECK(strstr(all, "\nlayer 1") && !strstr(all, "stands out most\n"));
    const char *first = strstr(few, "phi/pi  alpha_1  turn");
    CHECK(first && !strncmp(strchr(first, '\n'), "\n      1     0     6", 19));
    free(few), free(all);
    analysis_free(a);
    rope_free(&s.rope);
}

/* ---- CSV ---- */

/* The cell at *s as RFC 4180 has it, without quotes; *s moves to what ended it. */
static char *csv_cell(const char **s)
{
    char *cell = xcalloc(strlen(*s) + 1, 1);
    size_t n = 0;
    int quoted = **s == '"';
    for (*s += quoted; **s && (quoted || !strchr(",\r", **s)); ++*s) {
        if (quoted && **s == '"' && *++*s != '"') break;
        cell[n++] = **s;
    }
    return cell;
}

/* Cell (row, col) of a table whose every row has n_cols cells; NULL past the last row. */
static char *csv_at(const char *s, int row, int col, int n_cols)
{
    char *found = NULL;
    for (int r = 0; *s && r <= row; r++) {
        int n = 0;
        for (;; s++, n++) {
            char *cell = csv_cell(&s);
            if (r == row && n == col)
                found = cell;
            else
                free(cell);
            if (*s != ',') break;
        }
        if (!CHECK_MSG(n + 1 == n_cols, "row %d has %d cells, not %d", r, n + 1, n_cols)) break;
        if (!CHECK_MSG(!strncmp(s, "\r\n", 2), "row %d ends in '%.5s'", r, s)) break;
        s += 2;
    }
    return found;
}

static void check_cell(const char *s, int row, const char *column, int n_cols, const char *want)
{
    char *name = NULL;
    int col = -1;
    for (int c = 0; c < n_cols && col < 0; c++) {
        name = csv_at(s, 0, c, n_cols);
        if (name && !strcmp(name, column)) col = c;
        free(name);
    }
    if (!CHECK_MSG(col >= 0, "no column '%s'", column)) return;
    char *cell = csv_at(s, row, col, n_cols);
    CHECK_MSG(cell && !strcmp(cell, want), "row %d, %s: '%s', expected '%s'", row, column,
              cell ? cell : "(none)", want);
    free(cell);
}

static int columns_of(const char *s)
{
    int n = 1;
    for (; *s && *s != '\r'; s++) n += *s == ',';
    return n;
}

static void test_csv(void)
{
    Shape s;
    shape_new(&s, 16, 512);
    Analysis *a = observed(&s, 6);
    char *text = table(a, analysis_csv), *heads = table(a, analysis_csv_heads);
    int n = columns_of(text), row = 1 + 3 * 8 + 6, bad = 1 + 4 * 8; /* layer 1: head 0, head 1 */
    CHECK(!strncmp(text,
                   "layer,head,kv_head,pair,theta,wavelength,x,cycles,class,hf_channel_a,"
                   "hf_channel_b,strong,candidate,r_q,",
                   90));
    check_cell(text, row, "layer", n, "1");
    check_cell(text, row, "head", n, "0");
    check_cell(text, row, "pair", n, "6");
    check_cell(text, row, "hf_channel_b", n, "14");
    check_cell(text, row, "class", n, "half");
    check_cell(text, row, "candidate", n, "1");
    check_cell(text, row, "r_q", n, "8.48528137");
    check_cell(text, row, "ratio", n, "36");
    check_cell(text, row, "model", n, "001122334455");
    check_cell(text, bad, "r_q", n, "");
    check_cell(text, bad, "notice", n,
               "Intervention: an option made the position encoding 'odd, \"quoted\"', not what the "
               "file says; all that follows is of the model so changed.");
    CHECK(csv_at(text, 5 * 8 + 1, 0, n) == NULL); /* a header, and 5 heads of 8 pairs */
    CHECK(!strstr(text, "nan") && !strstr(text, "inf") && !strstr(text, "null"));
    n = columns_of(heads);
    check_cell(heads, 4, "layer", n, "1");
    check_cell(heads, 4, "n_candidates", n, "1");
    check_cell(heads, 4, "top_pair", n, "6");
    check_cell(heads, 4, "alpha_1", n, "");
    CHECK(csv_at(heads, 6, 0, n) == NULL);
    free(text), free(heads);
    analysis_free(a);
    rope_free(&s.rope);
}

/* ---- NumPy arrays and folders ---- */

static char folder[] = P_tmpdir "/test_outputs.XXXXXX";

static const char *inside(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

/* Value (l, h, j) of an array [2][3][8]. */
static double array_value(const char *name, int l, int h, int j)
{
    Bytes b = {0};
    Err e;
    double v;
    if (!CHECK(bytes_read(&b, inside(name), &e) == 0)) return 0;
    size_t head = 10 + (size_t)(uint8_t)b.s[8] + 256 * (size_t)(uint8_t)b.s[9];
    CHECK(!memcmp(b.s, "\x93NUMPY\1\0", 8) && head % 64 == 0 && b.s[head - 1] == '\n');
    CHECK(!strncmp(b.s + 10, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3, 8), }", 62));
    if (!CHECK(b.n == head + 2 * 3 * 8 * sizeof v)) return 0;
    memcpy(&v, b.s + head + (size_t)((l * 3 + h) * 8 + j) * sizeof v, sizeof v);
    free(b.s);
    return v;
}

static void test_npy(void)
{
    Shape s;
    Provenance p = made();
    OutDir d;
    Err e;
    Bytes b = {0};
    char sha[65];
    shape_new(&s, 16, 512);
    Analysis *a = observed(&s, 6);
    CHECK(out_dir_open(&d, inside("arrays//"), &e) == 0);
    CHECK(!exists(inside("arrays")));
    CHECK(analysis_npy(a, &p, &d, &e) == 0);
    CHECK(!exists(inside("arrays"))); /* all of it or nothing */
    CHECK(out_dir_close(&d, &e) == 0);
    CHECK(array_value("arrays/candidate.npy", 1, 0, 6) > 0);
    CHECK(fabs(array_value("arrays/r_q.npy", 1, 0, 6) - sqrt(72)) < 1e-12);
    CHECK(fabs(array_value("arrays/r_q.npy", 0, 2, 7) - sqrt(2)) < 1e-12);
    CHECK(fabs(array_value("arrays/R_q_capital.npy", 0, 2, 7) - 1) < 1e-12);
    CHECK(isnan(array_value("arrays/r_q.npy", 1, 2, 0))); /* layer 1 has two heads */
    if (CHECK(bytes_read(&b, inside("arrays/manifest.json"), &e) == 0))
        CHECK(strstr(b.s, "\"schema\":\"ropescope.arrays/1\"") && strstr(b.s, "Intervention:"));
    Bytes array = {0};
    CHECK(bytes_read(&array, inside("arrays/phi.npy"), &e) == 0);
    sha256_hex(array.s, array.n, sha);
    CHECK(strstr(b.s, sha) != NULL);
    free(b.s), free(array.s);
    analysis_free(a);
    rope_free(&s.rope);
}

static void test_folder(void)
{
    OutDir d;
    Err e;
    CHECK(out_dir_open(&d, inside("arrays"), &e) == -1 && strstr(e.msg, "not empty"));
    CHECK(out_dir_open(&d, inside("arrays/phi.npy"), &e) == -1 && strstr(e.msg, "no folder"));
    CHECK(out_dir_open(&d, inside("none/of/these"), &e) == -1 && strstr(e.msg, "none/of/these"));
    CHECK(mkdir(inside("empty"), 0777) == 0);
    CHECK(out_dir_open(&d, inside("empty"), &e) == 0);
    CHECK(out_dir_file(&d, "a", "abc", 3, &e) == 0);
    char *tmp = strdup(d.tmp);
    CHECK(exists(tmp));
    out_dir_abandon(&d);
    CHECK(!exists(tmp) && exists(inside("empty")));
    CHECK(out_dir_open(&d, inside("empty"), &e) == 0);
    CHECK(out_dir_file(&d, "a", "abc", 3, &e) == 0);
    CHECK(mkdir(inside("empty/taken"), 0777) == 0); /* meanwhile, by someone else */
    CHECK(out_dir_close(&d, &e) == -1 && strstr(e.msg, "empty") && !exists(tmp));
    CHECK(!exists(inside("empty/a")) && rmdir(inside("empty/taken")) == 0);
    CHECK(out_dir_open(&d, inside("empty"), &e) == 0);
    CHECK(out_dir_file(&d, "a", "abc", 3, &e) == 0);
    CHECK(out_dir_close(&d, &e) == 0 && exists(inside("empty/a")));
    free(tmp);
}

/* ---- generated tokens ---- */

static char *json_of(const Analysis *a)
{
    return table(a, analysis_json);
}

/* 60 tokens as a text, and 20 of them as a text and the others one by one, as they are generated:
 * the same bytes. Left untold, the tokens would miss in the head scores. */
static void test_generated(void)
{
    enum { N = 60, PROMPT = 20 };
    Model m;
    State s;
    Err e;
    int id[N];
    char *json[2];
    ModelOptions mo = {.rope = NULL};
    StateOptions so = {.n_ctx = 128, .n_threads = 2, .exact = 1};
    AnalysisOptions o = analysis_defaults();
    if (!CHECK(model_open(&m, "demo/model.gguf", &mo, &e) == 0)) return;
    CHECK(state_new(&s, &m, &so, &e) == 0);
    for (int i = 0; i < N; i++) id[i] = 7 + (i * i) % 50;
    for (int generated = 0; generated < 2; generated++) {
        Analysis *a = analysis_new(&m, &o);
        int n = generated ? PROMPT : N;
        s.probe = analysis_probe(a);
        state_reset(&s);
        analysis_window(a);
        analysis_tokens(a, id, n);
        forward(&s, id, n, 1);
        for (int i = n; i < N; i++) {
            analysis_tokens(a, &id[i], 1);
            forward(&s, &id[i], 1, 1);
        }
        json[generated] = json_of(a);
        analysis_free(a);
    }
    CHECK(!strcmp(json[0], json[1]));
    free(json[0]), free(json[1]);
    s.probe = NULL;
    state_free(&s);
    model_close(&m);
}

int main(void)
{
    CHECK(mkdtemp(folder) != NULL);
    test_map();
    test_widths();
    test_heads();
    test_csv();
    test_npy();
    test_folder();
    test_generated();
    char command[300];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    CHECK(system(command) == 0);
    return check_done();
}
