/* sweep: how a text is cut, what is scored, and which lines of a file are taken for cells. Static
 * functions of run.c, which is included whole. */
#define main run_main
int run_main(int argc, char **argv);
#include "../run.c"
#undef main

#include "check.h"

static int least_of(int a, int b)
{
    return a < b ? a : b;
}

/* A sweep of one encoding at contexts c[n], over N tokens. */
static Sweep sweep_of(SweepCell *cell, const int *c, int n, const char *protocol, int N)
{
    Sweep s = {.cell = cell, .n = n, .n_contexts = n, .protocol = protocol};
    for (int i = 0; i < n; i++) cell[i] = (SweepCell){.context = c[i]};
    s.p.n_tokens = (uint64_t)N;
    if (strcmp(protocol, "same") == 0) s.scored_from = c[n - 1] / 2;
    return s;
}

/* How often each text position is scored at context c; the fewest and most tokens before one. */
static int count_scored(const Sweep *s, int c, int *times, int *fewest, int *most)
{
    int i = 0;
    Window v;
    *fewest = INT_MAX, *most = 0;
    for (; (v = sweep_window(s, c, i)).n; i++) {
        if (v.n < 2 || v.n > c || v.at + (size_t)v.n > s->p.n_tokens) return -1;
        for (int p = v.first + 1; p < v.n; p++) {
            times[v.at + (size_t)p]++;
            *fewest = least_of(*fewest, p);
            *most = max_of(*most, p);
        }
    }
    return i;
}

/* Protocol same: at every context the same tokens, from half the longest context on, each once,
 * with at least half a context before it. */
static void test_same(void)
{
    enum { MOST = 700 };
    Rng r = rng_new(11);
    for (int k = 0; k < 300; k++) {
        int c[2] = {rng_int(&r, 4, 99), rng_int(&r, 100, 300)}, N = rng_int(&r, c[1], MOST);
        int times[MOST] = {0}, fewest, most, bad = 0, n;
        SweepCell cell[2];
        Sweep s = sweep_of(cell, c, 2, "same", N);
        for (int i = 0; i < 2; i++) {
            memset(times, 0, sizeof times);
            n = count_scored(&s, c[i], times, &fewest, &most);
            for (int p = 0; p < N; p++) bad += times[p] != (p >= c[1] / 2);
            CHECK_MSG(n > 0 && !bad, "context %d of %d, %d tokens: %d wrong", c[i], c[1], N, bad);
            CHECK_MSG(fewest == c[i] / 2 && most < c[i], "context %d: %d to %d before a token",
                      c[i], fewest, most);
        }
    }
}

/* Protocols full and llama.cpp: the windows of perplexity. */
static void test_as_perplexity(void)
{
    Rng r = rng_new(12);
    for (int k = 0; k < 300; k++) {
        int full = k % 2, c = rng_int(&r, 4, 60), N = rng_int(&r, 2 * c, 400), n = 0;
        Options o = {.protocol = full ? "full" : "llama.cpp"};
        Session ss = {.s = {.n_ctx = c}};
        SweepCell cell;
        Sweep s = sweep_of(&cell, &c, 1, o.protocol, N);
        Perplexity p = {.windows = 0};
        Err e;
        int rc = plan_windows(&ss, &o, (size_t)N, &p, &e), bad = 0;
        for (Window v; (v = sweep_window(&s, c, n)).n; n++)
            bad += v.at != (size_t)(n * c) || v.first != p.first || v.n != least_of(c, N - n * c);
        CHECK_MSG(!rc && n == p.windows && !bad, "%s, context %d, %d tokens: %d windows, %d",
                  o.protocol, c, N, n, p.windows);
    }
}

/* -log p of token ids[at] after ids[from .. at - 1], from a state of its own. */
static double alone(Session *ss, const int *ids, size_t from, size_t at)
{
    state_reset(&ss->s);
    for (size_t i = from; i < at; i++) forward(&ss->s, &ids[i], 1, 1);
    return token_nll(ss->s.logits, ss->m.n_vocab, ids[at]);
}

/* The loss of a cell against each token alone: equal, as chunks do not change a bit. */
static void test_score(void)
{
    const int c[] = {8, 14};
    Options o = {.model = "demo/model.gguf", .bos = "off", .file = "demo/sample.txt"};
    ModelOptions mo = {.rope = NULL};
    Sweeper w = {.o = &o};
    SweepCell cell[2];
    Bytes text = {0};
    Err e = {.usage = 0};
    StateOptions so = {.n_ctx = 14, .exact = 1, .n_threads = 1};
    if (!CHECK_MSG(!session_model(&w.ss, &o, &mo, &e), "%s", e.msg)) return;
    CHECK(!state_new(&w.ss.s, &w.ss.m, &so, &e) && !read_text(&o, NULL, &text, &e));
    CHECK(!encode(&w.ss, &text, 0, &w.ids, &e));
    w.s = sweep_of(cell, c, 2, "same", 30);
    w.s.m = &w.ss.m;
    for (int i = 0; i < 2; i++) {
        double sum = 0;
        int lead = c[i] / 2, h = c[i] - lead, from = 7;
        for (int at = from; at < 30; at++)
            sum += alone(&w.ss, w.ids.id, (size_t)(from + (at - from) / h * h - lead), (size_t)at);
        CHECK(cell_windows(&w, &w.ss, &cell[i], NULL, &e) == 0);
        double nll = cell[i].figure[SWEEP_NLL];
        CHECK_MSG(nll >= sum / 23 && nll <= sum / 23, "context %d: %.17g, token by token %.17g",
                  c[i], nll, sum / 23);
        CHECK(cell[i].figure[SWEEP_SCORED] >= 23 && cell[i].figure[SWEEP_SCORED] <= 23);
    }
    free(text.s), free(w.ids.id);
    session_close(&w.ss);
}

static void fill(Sweep *s, SweepCell *cell, Model *m)
{
    static const int c = 64;
    *s = sweep_of(cell, &c, 1, "full", 1000);
    s->m = m;
    s->p.model_path = "a \"model\", \"version\":1";
    s->p.kv = "f32", s->p.bos_policy = "off";
    memset(cell->rope_hash, '7', sizeof cell->rope_hash - 1);
    cell->asked = NULL;
    cell->rope = (char *)(uintptr_t) "plain:base=10000";
    for (int i = 0; i < SWEEP_FIGURES; i++) cell->figure[i] = i % 5 ? 1.0 / (i + 1) : (double)NAN;
    for (int i = 0; i < SWEEP_BOUNDS * SWEEP_RATES; i++)
        cell->bound[i / SWEEP_RATES][i % SWEEP_RATES] = i;
}

/* A line is read back to the same line; no other byte from "version" on is accepted, and no cut. */
static void test_lines(void)
{
    Model m = {.n_layers = 0};
    SweepCell cell;
    Sweep s;
    Bytes line = {0}, again = {0};
    Err e;
    size_t whole = 0;
    fill(&s, &cell, &m);
    sweep_line(&s, 0, &line);
    memset(cell.figure, 0, sizeof cell.figure);
    memset(cell.bound, 0, sizeof cell.bound);
    CHECK_MSG(sweep_read(&s, "f", (Str){line.s, line.n}, &whole, &e) == 0 && cell.done, "%s",
              e.msg);
    sweep_line(&s, 0, &again);
    CHECK(whole == line.n && again.n == line.n && !memcmp(line.s, again.s, line.n));
    CHECK_MSG(sweep_read(&s, "f", (Str){line.s, line.n}, &whole, &e) == 0 && cell.done, "%s",
              e.msg);
    cell.figure[SWEEP_NLL] += 1;
    CHECK(sweep_read(&s, "f", (Str){line.s, line.n}, &whole, &e) == -1 &&
          strstr(e.msg, "line 1: expected what a line before it says"));
    const char *from = strstr(line.s, ",\"version\":\"");
    int taken = 0, head = 0, cuts = 0;
    for (size_t i = 0; i + 1 < line.n; i++) {
        char was = line.s[i];
        cell.done = 0;
        line.s[i] = was == '7' ? '8' : '7';
        int rc = sweep_read(&s, "f", (Str){line.s, line.n}, &whole, &e);
        head += rc == 0 && line.s + i < from;
        if (rc == 0 && cell.done && line.s + i > from) { /* another number is another cell */
            again.n = 0;
            sweep_line(&s, 0, &again);
            taken += memcmp(line.s, again.s, line.n) != 0;
        }
        line.s[i] = was;
        cell.done = 0;
        rc = sweep_read(&s, "f", (Str){line.s, i}, &whole, &e);
        cuts += rc != 0 || whole != 0 || cell.done;
    }
    CHECK_MSG(taken == 0, "%d changed lines were taken for what they do not say", taken);
    CHECK_MSG(cuts == 0, "%d cut lines were not dropped", cuts);
    CHECK_MSG(head > 10, "names are free: %d", head);
    free(line.s), free(again.s);
}

int main(void)
{
    test_same();
    test_as_perplexity();
    test_score();
    test_lines();
    return check_done();
}
