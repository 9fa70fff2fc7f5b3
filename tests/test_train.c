/* The trainer of the demo model: gradients against finite differences and against PyTorch, the same
 * bits with any threads, passes and instruction set, resumed or not, and files that run. */
#define main train_main
int train_main(int argc, char **argv);
#include "../demo/train.c"
#undef main

#include "check.h"
#include "train_files.h"
#include "train_golden.h"

/* ---------------------------------------------------------------- nets and texts */

/* The recipe of make_train_golden.py. */
static Recipe tiny(int tied, const char *rope)
{
    Recipe c = {.n_layers = 2,
                .n_embd = 24,
                .n_heads = 4,
                .n_kv_heads = 2,
                .head_dim = 6,
                .n_ff = 40,
                .n_vocab = 50,
                .n_ctx = 16,
                .tied = tied,
                .n_batch = 3,
                .n_steps = 6,
                .n_warmup = 2,
                .bos = 0,
                .seed = 7,
                .lr = 0.01,
                .lr_min = 0.001,
                .decay = 0.1,
                .beta1 = 0.9,
                .beta2 = 0.95,
                .clip = 1,
                .init = 0.8,
                .init_embd = 0.16,
                .init_qk = 1,
                .decay_qk = 1};
    snprintf(c.rope, sizeof c.rope, "%s", rope);
    return c;
}

static Tokens random_text(int n, int n_vocab)
{
    Tokens text = {0};
    uint64_t state = 99;
    for (int i = 0; i < n; i++) tokens_add(&text, (int)(rng_next(&state) % (uint64_t)n_vocab));
    return text;
}

/* Norms that are not ones, biases that are not zeros. */
static void spread_norms(Net *t)
{
    uint64_t state = (uint64_t)t->c.seed + 1;
    for (int i = 0; i < n_params(t); i++) {
        const Param *p = param_at(t, i);
        for (int j = 0; !(p->spread > 0) && j < p->rows * p->cols; j++)
            t->w[p->at + (size_t)j] = (float)((double)p->start + (double)draw_normal(&state) / 4);
    }
    turn_matrices(t);
}

typedef struct {
    int threads, pass;
    const char *isa;
} How;

static int net_start(Net *t, const Recipe *c, How how)
{
    Err e;
    int rc = net_new(t, c, how.threads, how.pass, how.isa, &e);
    CHECK_MSG(rc == 0, "%s", rc ? e.msg : "");
    if (rc == 0) spread_norms(t);
    return rc;
}

static uint64_t weights_hash(const Net *t)
{
    return hash_bytes(t->w, t->n * sizeof *t->w) ^ hash_bytes(t->m, t->n * sizeof *t->m) * 3 ^
           hash_bytes(t->v, t->n * sizeof *t->v) * 5;
}

/* ---------------------------------------------------------------- finite differences */

/* The slope of the loss along `way` at w, from w +- h way and w +- 2 h way: what is left is of the
 * order of h^4 (Richardson). */
static double slope(Net *t, const int *tok, const int *target, const Param *p, const float *way,
                    double h)
{
    int n = (int)(t->c.n_batch * t->c.n_ctx);
    size_t size = (size_t)p->rows * (size_t)p->cols;
    float *was = xcalloc(size, sizeof *was);
    double at[4];
    memcpy(was, t->w + p->at, size * sizeof *was);
    for (int i = 0; i < 4; i++) {
        double by = h * (i < 2 ? i - 2 : i - 1);
        for (size_t j = 0; j < size; j++)
            t->w[p->at + j] = (float)((double)was[j] + by * (double)way[j]);
        turn_matrices(t);
        at[i] = run_passes(t, tok, target, n, 0);
    }
    memcpy(t->w + p->at, was, size * sizeof *was);
    turn_matrices(t);
    free(was);
    return (8 * (at[2] - at[1]) - (at[3] - at[0])) / (12 * h);
}

/* Along random signs, times the size of the part's weights: gradient . way must be the slope. The
 * loss is good to some 1e-7 (float logits near 4, averaged over 48 tokens), so the slope to 1e-7 /
 * h; with h = 0.01 what is left over of the curve is about as much. A wrong gradient is off by
 * about |gradient| |way element|. */
static void check_part(Net *t, const int *tok, const int *target, int part, const char *what)
{
    const Param *p = param_at(t, part);
    size_t size = (size_t)p->rows * (size_t)p->cols;
    float *way = xcalloc(size, sizeof *way);
    for (uint64_t seed = 0; seed < 2; seed++) {
        uint64_t state = seed + (uint64_t)part * 77;
        double along = 0, length = 0, scale = p->spread > 0 ? 0.15 : 1;
        for (size_t j = 0; j < size; j++) {
            way[j] = (float)(rng_next(&state) >> 63 ? scale : -scale);
            along += (double)t->grad[p->at + j] * (double)way[j];
            length += pow((double)t->grad[p->at + j] * scale, 2);
        }
        double found = slope(t, tok, target, p, way, 0.01);
        double off = fabs(found - along), most_off = 3e-5 + 2e-3 * sqrt(length);
        CHECK_MSG(off <= most_off, "%s, part %d: gradient says %.8g, differences %.8g", what, part,
                  along, found);
    }
    free(way);
}

static void check_differences(const char *rope, int tied, int biased, int bos)
{
    Recipe c = tiny(tied, rope);
    Tokens text = random_text(400, 50);
    int tok[48], target[48];
    Net t;
    c.bos = bos;
    c.biased = biased;
    if (net_start(&t, &c, (How){1, 2, NULL}) == 0) {
        draw_batch(&t, &text, tok, target);
        gradient(&t, tok, target, 48);
        for (int i = 0; i < n_params(&t); i++) check_part(&t, tok, target, i, rope);
        net_free(&t);
    }
    free(text.id);
}

static void test_differences(void)
{
    check_differences("plain:base=100", 1, 0, 0);
    check_differences("plain:base=100", 0, 1, -1);
    static const char *const kinds[] = {"none",  "linear:factor=4",       "p-rope",
                                        "alibi", "partial:fraction=0.34", "nope-layers:every=2"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        check_differences(kinds[i], 1, (int)i % 2, 0);
}

/* Encodings that learn something of their own are refused, and say so. */
static void test_refused(void)
{
    static const char *const kinds[] = {"selective:seed=1", "path:seed=1", "hope", "nonsense"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        Recipe c = tiny(1, kinds[i]);
        Net t;
        Err e;
        CHECK_MSG(net_new(&t, &c, 1, 1, NULL, &e) == -1 && strstr(e.msg, "--rope"), "%s", kinds[i]);
    }
}

/* ---------------------------------------------------------------- against PyTorch */

static void measure(const float *x, size_t n, double out[2])
{
    uint64_t state = n;
    double square = 0;
    out[1] = 0;
    for (size_t i = 0; i < n; i++) {
        square += (double)x[i] * (double)x[i];
        out[1] += rng_next(&state) >> 63 ? (double)x[i] : -(double)x[i];
    }
    out[0] = sqrt(square);
}

/* Length and projection of every part; the projection is a sum of n values of either sign, so its
 * error is measured by the length. */
static void check_parts(const Net *t, const float *x, const double expected[][2], double tol,
                        const char *what)
{
    for (int i = 0; i < n_params(t); i++) {
        const Param *p = param_at(t, i);
        double found[2];
        measure(x + p->at, (size_t)p->rows * (size_t)p->cols, found);
        for (int k = 0; k < 2; k++)
            CHECK_MSG(fabs(found[k] - expected[i][k]) <= tol * expected[i][0],
                      "%s, part %d: %.9g, PyTorch has %.9g", what, i, found[k], expected[i][k]);
    }
}

/* Six steps beside PyTorch's in double. Floats are good to 6e-8; the sums of a forward and backward
 * pass have some hundred terms, and Adam divides small gradients by their own size: 1e-5 for the
 * first gradient, 2e-4 after six steps. */
static void test_pytorch(void)
{
    for (int i = 0; i < 3; i++) { /* untied, tied, with biases */
        Recipe c = tiny(i == 1, "plain:base=100");
        const Golden *g = &golden[i];
        Tokens text = random_text(400, 50);
        Net t;
        c.biased = i == 2;
        if (net_start(&t, &c, (How){1, 3, NULL})) return;
        for (int s = 0; s < GOLDEN_STEPS; s++) {
            double length, loss = train_step(&t, &text, &length), tol = s ? 1e-4 : 2e-6;
            CHECK_MSG(fabs(loss - g->loss[s]) <= tol, "step %d: loss %.9g, PyTorch has %.9g", s,
                      loss, g->loss[s]);
            CHECK_MSG(fabs(length - g->length[s]) <= 10 * tol * g->length[s],
                      "step %d: gradient %.9g, PyTorch has %.9g", s, length, g->length[s]);
            if (s == 0) check_parts(&t, t.grad, g->gradient, 1e-5, "gradient");
        }
        check_parts(&t, t.w, g->weights, 2e-4, "weights");
        net_free(&t);
        free(text.id);
    }
}

/* ---------------------------------------------------------------- the same bits */

/* Lengths that are no multiple of anything: the edges of blocks, strips and segments. */
static Recipe odd(int tied)
{
    Recipe c = tiny(tied, "plain");
    c.biased = !tied;
    c.n_embd = 40;
    c.n_heads = 6;
    c.head_dim = 10;
    c.n_ff = 70;
    c.n_vocab = 101;
    c.n_ctx = 281;
    c.n_layers = 1;
    return c;
}

static uint64_t trained_hash(const Recipe *c, How how, int64_t steps)
{
    Tokens text = random_text(2000, (int)c->n_vocab);
    uint64_t hash = 0;
    double length;
    Net t;
    if (net_start(&t, c, how) == 0) {
        while (t.step < steps) train_step(&t, &text, &length);
        hash = weights_hash(&t);
        net_free(&t);
    }
    free(text.id);
    return hash;
}

static void test_bits(void)
{
    Recipe c = odd(0);
    uint64_t plain = trained_hash(&c, (How){1, 1, NULL}, 2);
    CHECK(plain == trained_hash(&c, (How){2, 1, NULL}, 2));
    CHECK(plain == trained_hash(&c, (How){3, 3, NULL}, 2));
    CHECK(plain == trained_hash(&c, (How){4, 2, NULL}, 2));
    const Kernels *k;
    for (int i = 0; (k = kernels_at(i)); i++)
        if (k->usable())
            CHECK_MSG(plain == trained_hash(&c, (How){2, 2, k->name}, 2), "%s", k->name);
}

/* Of this very recipe, on every machine and with every compiler. */
static void test_hash(void)
{
    Recipe c = tiny(1, "plain:base=100");
    uint64_t found = trained_hash(&c, (How){2, 2, NULL}, 6);
    CHECK_MSG(found == 0x8de5c8edc3c54663, "weights hash %016llx", (unsigned long long)found);
}

/* ---------------------------------------------------------------- data and first weights */

/* The period of a sequence over a text of which no two tokens are alike, T + 1 if it has none; 0 if
 * it is anything else. `read` is what was read of the text, T + 1 tokens or, after BOS, T. */
static int period_of(const int *read, int n, int T)
{
    int period = 1;
    while (period < n && read[period] != read[0]) period++;
    for (int i = 0; i < n; i++)
        if (read[i] != read[0] + i % period) return 0;
    return period < n ? period : T + 1;
}

/* Batches of a text that counts 0, 1, 2, ...: how many of `steps` repeat themselves; lo, hi: their
 * shortest and longest period. */
static int repeats(Net *t, int steps, int *lo, int *hi)
{
    int T = (int)t->c.n_ctx, B = (int)t->c.n_batch, n = 0, after = t->c.bos >= 0;
    int *tok = xcalloc(2 * (size_t)(B * T + 1), sizeof *tok), *target = tok + B * T, read[65];
    Tokens text = {0};
    for (int i = 0; i < 5000; i++) tokens_add(&text, i);
    for (t->step = 0; t->step < steps; t->step++) {
        draw_batch(t, &text, tok, target);
        for (int s = 0; s < B; s++) {
            CHECK(memcmp(tok + s * T + 1, target + s * T, (size_t)(T - 1) * sizeof *tok) == 0);
            CHECK(!after || tok[s * T] == t->c.bos);
            read[0] = tok[s * T];
            memcpy(read + !after, target + s * T, (size_t)T * sizeof *read);
            int period = period_of(read, T + !after, T);
            CHECK_MSG(period == T + 1 || (period >= T / 4 && period <= T / 2), "period %d", period);
            if (period > T) continue;
            n++;
            *lo = period < *lo ? period : *lo;
            *hi = period > *hi ? period : *hi;
        }
    }
    free(text.id);
    free(tok);
    return n;
}

/* 2,000 sequences: a share of 0.3 is good to 0.01, and 0.04 is four times that. 600 periods of 17
 * possible ones: each is met. */
static void test_repeat(void)
{
    for (int bos = -1; bos < 1; bos++) {
        Recipe c = tiny(1, "plain");
        Net t;
        c.bos = bos;
        c.n_ctx = 64;
        c.n_batch = 200;
        if (net_start(&t, &c, (How){1, 1, NULL})) return;
        int lo = 99, hi = 0;
        CHECK(repeats(&t, 1, &lo, &hi) == 0);
        t.c.repeat = 1;
        CHECK(repeats(&t, 1, &lo, &hi) == 200);
        t.c.repeat = 0.3;
        int n = repeats(&t, 10, &lo, &hi);
        CHECK_MSG(n > 520 && n < 680, "%d of 2000 repeat themselves", n);
        CHECK_MSG(lo == 16 && hi == 32, "periods from %d to %d", lo, hi);
        net_free(&t);
    }
}

/* A batch depends on seed and step, not on what was drawn before. */
static void test_batches(void)
{
    enum { N = 48 };
    Recipe c = tiny(1, "plain");
    Tokens text = random_text(400, 50);
    int a[2 * N], b[2 * N];
    Net t;
    c.repeat = 0.5;
    if (net_start(&t, &c, (How){1, 1, NULL})) return;
    for (t.step = 0; t.step < 3; t.step++) draw_batch(&t, &text, b, b + N);
    draw_batch(&t, &text, a, a + N);
    draw_batch(&t, &text, b, b + N);
    CHECK(memcmp(a, b, sizeof a) == 0);
    t.step = 4;
    draw_batch(&t, &text, b, b + N);
    CHECK(memcmp(a, b, sizeof a) != 0);
    t.step = 3;
    t.c.seed++;
    draw_batch(&t, &text, b, b + N);
    CHECK(memcmp(a, b, sizeof a) != 0);
    net_free(&t);
    free(text.id);
}

/* --init-qk: columns of queries and keys are so many times what they would be, and nothing else
 * is. */
static void test_init_qk(void)
{
    Recipe c = tiny(0, "plain");
    Net t, u;
    if (net_start(&t, &c, (How){1, 1, NULL})) return;
    c.init_qk = 0.3;
    if (net_start(&u, &c, (How){1, 1, NULL})) return;
    for (int i = 0; i < n_params(&t); i++) {
        const Param *p = param_at(&t, i);
        int qk = p == &t.layer[0][QKV] || p == &t.layer[1][QKV] ? (4 + 2) * 6 : 0, off = 0;
        for (int r = 0; r < p->rows; r++)
            for (int col = 0; col < p->cols; col++) {
                size_t at = p->at + (size_t)r * (size_t)p->cols + (size_t)col;
                float expected = col < qk ? t.w[at] * 0.3f : t.w[at];
                off += u.w[at] < expected || u.w[at] > expected;
            }
        CHECK_MSG(off == 0, "part %d: %d values", i, off);
    }
    net_free(&t);
    net_free(&u);
}

/* ---------------------------------------------------------------- files */

static void check_resume(const Recipe *c)
{
    Tokens text = random_text(400, 50);
    uint64_t hash = text_hash(&text), whole = trained_hash(c, (How){2, 2, NULL}, 6);
    double length;
    Net t, u;
    Err e;
    Tokens same = random_text(2000, 50); /* what trained_hash learns from */
    if (net_start(&t, c, (How){1, 3, NULL})) return;
    while (t.step < 2) train_step(&t, &same, &length);
    const char *path = path_of("checkpoint");
    CHECK(checkpoint_write(&t, path, hash, &e) == 0);
    if (net_start(&u, c, (How){2, 1, NULL})) return;
    CHECK(checkpoint_read(&u, path, hash + 1, &e) == -1 && strstr(e.msg, "another text"));
    CHECK(checkpoint_read(&u, path, hash, &e) == 0);
    CHECK(u.step == 2 && weights_hash(&u) == weights_hash(&t));
    while (u.step < 6) train_step(&u, &same, &length);
    CHECK(weights_hash(&u) == whole);
    CHECK(weights_read(&t, path, &e) == -1 && strstr(e.msg, "step 2 of 6"));
    CHECK(checkpoint_write(&u, path, hash, &e) == 0);
    CHECK(weights_read(&t, path, &e) == 0 && memcmp(u.w, t.w, t.n * sizeof *t.w) == 0);
    u.c.tied = !u.c.tied;
    CHECK(weights_read(&u, path, &e) == -1 && strstr(e.msg, "of this shape"));
    net_free(&t);
    net_free(&u);
    free(text.id);
    free(same.id);
}

static void test_resume(void)
{
    Recipe c = tiny(1, "plain");
    check_resume(&c);
    c.repeat = 0.5;
    c.init_qk = 0.1;
    check_resume(&c);
}

/* A checkpoint knows every number of its recipe. */
static void test_recipe(void)
{
    Recipe c = tiny(0, "plain");
    const char *path = path_of("checkpoint");
    Net t;
    Err e;
    if (net_start(&t, &c, (How){1, 1, NULL})) return;
    CHECK(checkpoint_write(&t, path, 1, &e) == 0);
    for (size_t i = 0; i < offsetof(Recipe, rope) / 8; i++) {
        t.c = c;
        ((uint8_t *)&t.c)[8 * i] ^= 1;
        CHECK_MSG(checkpoint_read(&t, path, 1, &e) == -1 && strstr(e.msg, "another recipe"),
                  "number %zu", i);
    }
    t.c = c;
    t.c.rope[3] = '?';
    CHECK(checkpoint_read(&t, path, 1, &e) == -1 && strstr(e.msg, "another recipe"));
    t.c = c;
    CHECK(checkpoint_read(&t, path, 1, &e) == 0);
    net_free(&t);
}

/* Logits of the trainer, [T][V], of one sequence. */
static void own_logits(Net *t, const int *tok)
{
    stream_forward(t, tok, (int)t->c.n_ctx);
    head_forward(t, 0);
}

/* The largest difference of the logits that run.c finds with the file from those of the trainer. */
static double logits_off(Net *t, const char *path, const int *tok)
{
    Model m;
    State s;
    Err e;
    int T = (int)t->c.n_ctx;
    StateOptions o = {.n_ctx = T, .n_batch = T, .n_threads = 1, .exact = 1};
    double off = 0;
    if (model_open(&m, path, NULL, &e)) {
        CHECK_MSG(0, "%s", e.msg);
        return (double)NAN;
    }
    MUST(state_new(&s, &m, &o, &e) == 0);
    forward(&s, tok, T, T);
    own_logits(t, tok);
    for (size_t i = 0; i < (size_t)T * (size_t)t->c.n_vocab; i++) {
        double d = fabs((double)s.logits[i] - (double)t->logits[i]);
        off = d <= off ? off : d;
    }
    state_free(&s);
    model_close(&m);
    return off;
}

/* F32: the logits of run.c but for the order of sums, 1e-5 of values around 3. F16 keeps 11 bits of
 * a weight and Q8_0 about 8, so logits of a few units move in their third and second place. */
static void check_file(const Recipe *c, const char *vocab)
{
    static const struct {
        int type;
        double tol;
    } types[] = {{T_F32, 1e-5}, {T_F16, 2e-2}, {T_Q8_0, 0.3}};
    Tokens text = random_text((int)c->n_ctx, (int)c->n_vocab);
    Gguf g;
    Net t;
    Err e;
    if (net_start(&t, c, (How){2, 1, NULL})) return;
    MUST(gguf_open(&g, vocab, &e) == 0);
    for (size_t i = 0; i < 3; i++) {
        const char *path = path_of("model.gguf");
        int rc = model_write(&t, path, &g, types[i].type, &e);
        CHECK_MSG(rc == 0, "%s", rc ? e.msg : "");
        double off = logits_off(&t, path, text.id);
        CHECK_MSG(off <= types[i].tol, "%s, type %d: logits off by %g", c->rope, types[i].type,
                  off);
    }
    gguf_close(&g);
    net_free(&t);
    free(text.id);
}

static void test_files(void)
{
    const char *vocab = path_of("vocab.gguf");
    write_vocab(vocab, 50, 0);
    for (int tied = 0; tied < 2; tied++) {
        Recipe c = tiny(tied, tied ? "plain:base=500,n_rot=4" : "p-rope");
        c.n_embd = c.n_ff = 32;
        c.head_dim = 8;
        c.biased = !tied;
        check_file(&c, vocab);
    }
    Recipe c = tiny(1, "nope-layers:every=2");
    c.n_embd = c.n_ff = 32;
    c.head_dim = 8;
    check_file(&c, vocab);
    remove(vocab);
}

/* ---------------------------------------------------------------- command line */

static void refused_line(const char *line, const char *expected)
{
    char *argv[16] = {"train"}, copy_of[256];
    int argc = 1;
    Job j = {.threads = 0};
    Err e = {.msg = ""};
    snprintf(copy_of, sizeof copy_of, "%s", line);
    for (char *s = strtok(copy_of, " "); s; s = strtok(NULL, " ")) argv[argc++] = s;
    int rc = options_read(&j, argc, argv, &e);
    if (rc == 0) rc = recipe_check(&j.c, &e);
    CHECK_MSG(rc == -1 && e.usage && strstr(e.msg, expected), "%s: %s", line, e.msg);
}

static void test_options(void)
{
    refused_line("--stepz 3", "no such option");
    refused_line("--steps", "a value is missing");
    refused_line("--steps 1.5", "whole number");
    refused_line("--lr nan", "a number");
    refused_line("--lr 3x", "a number");
    refused_line("--heads 6 --kv-heads 4", "--kv-heads");
    refused_line("--heads 2 --kv-heads 2 --steps 5 --warmup 6", "--warmup");
    refused_line("--heads 2 --kv-heads 2 --steps 5 --ctx 3 --repeat 0.1", "--repeat");
    refused_line("--repeat 1.1", "--repeat: expected a number from 0 to 1");
    refused_line("--init-qk -1", "--init-qk: expected a number from 0");
    CHECK(in_list("0,10,200", 10) && in_list("0,10,200", 200) && !in_list("0,10,200", 20));
    CHECK(!in_list(NULL, 0) && !in_list("", 0));
}

/* A loss that is no number ends the training and is no checkpoint. */
static void test_no_number(void)
{
    static Train x;
    Recipe c = tiny(1, "plain");
    double sum = 0;
    int64_t n = 0;
    Err e;
    if (net_start(&x.t, &c, (How){1, 3, NULL})) return;
    x.text = random_text(400, 50);
    x.j = (Job){.log = 100, .evaluate = 100};
    CHECK(step_and_say(&x, &sum, &n, &e) == 0 && n == 1);
    x.t.w[x.t.layer[1][DOWN].at] = (float)NAN;
    turn_matrices(&x.t);
    CHECK(step_and_say(&x, &sum, &n, &e) == -1 && strstr(e.msg, "expected a finite loss"));
    net_free(&x.t);
    free(x.text.id);
}

/* A vocabulary without a first token, and one that is wanted. */
static void test_no_bos(void)
{
    static Train x;
    const char *vocab = path_of("vocab.gguf"), *text = path_of("text");
    Err e;
    FILE *f = fopen(text, "wb");
    MUST(f && fputs("t1t2t3t1t2t3t1t2t3", f) >= 0 && fclose(f) == 0);
    write_vocab(vocab, 50, 0);
    x.j = (Job){.text = text, .vocab = vocab, .c.n_ctx = 4};
    CHECK_MSG(texts_read(&x, &e) == -1 && strstr(e.msg, "BOS"), "%s", e.msg);
    gguf_close(&x.vocab);
    free(x.text.id);
    remove(vocab);
    remove(text);
}

/* Up to lr on the last step of the warm-up, half way down in the middle, lr_min at the end. */
static void test_schedule(void)
{
    Recipe c = {.lr = 1, .lr_min = 0.5, .n_warmup = 4, .n_steps = 104};
    CHECK(fabs(learning_rate(&c, 0) - 0.25) < 1e-12);
    CHECK(fabs(learning_rate(&c, 3) - 1) < 1e-12 && fabs(learning_rate(&c, 4) - 1) < 1e-12);
    CHECK(fabs(learning_rate(&c, 54) - 0.75) < 1e-12);
    CHECK(fabs(learning_rate(&c, 104) - 0.5) < 1e-12);
}

/* With an argument, only the bits: an emulated processor is slow. */
int main(int argc, char **argv)
{
    (void)argv;
    test_hash();
    test_bits();
    if (argc > 1) return check_done();
    MUST(mkdtemp(folder));
    test_options();
    test_schedule();
    test_differences();
    test_refused();
    test_pytorch();
    test_repeat();
    test_batches();
    test_init_qk();
    test_resume();
    test_recipe();
    test_files();
    test_no_number();
    test_no_bos();
    remove(path_of("model.gguf"));
    remove(path_of("checkpoint"));
    rmdir(folder);
    return check_done();
}
