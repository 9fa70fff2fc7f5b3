/* Encodings of rope/decay.c and rope/continuous.c: xPos against its formula in double, far beyond
 * where one centre for all positions overflows; positions from a list of real numbers. */
#include "../model.h"

#include "check.h"
#include "ref.h"

#include "rope_watch.h"

static Err err;
static const char *scratch; /* a file name of our own */

static Rope made(const char *spec, RopeParams p)
{
    Rope r = {0};
    const RopeKind *kind;
    CHECK_MSG(rope_parse(spec, &p, &kind, &err) == 0 &&
                  rope_new(&r, kind, &p, ROPE_HALF, NULL, &err) == 0,
              "%s: %s", spec, err.msg);
    return r;
}

static int refused(const char *spec, const char *word)
{
    RopeParams p = rope_params(16, 10000);
    const RopeKind *kind;
    Rope r;
    if (rope_parse(spec, &p, &kind, &err) == 0 &&
        rope_new(&r, kind, &p, ROPE_HALF, NULL, &err) == 0)
        return rope_free(&r), 0;
    return strstr(err.msg, word) != NULL;
}

static const TinyModel tiny = {.n_layers = 1,
                               .n_embd = 32,
                               .n_heads = 4,
                               .n_kv_heads = 2,
                               .head_dim = 16,
                               .n_ff = 40,
                               .n_vocab = 50,
                               .biases = 1,
                               .seed = 8};

/* ---------------------------------------------------------------- xPos */

/* zeta_j = (2j + 0.4 d) / (1.4 d): 0.285714 .. 0.977679 for d = 64. At a distance of scale_base,
 * all on one side of the centre or around it, pair j of a score counts zeta_j. */
static void test_zeta(void)
{
    Rope r = made("xpos:centre=0", rope_params(64, 10000)), plain = made("plain", r.p);
    float q[64], k[64], angles[64];
    double want[32];
    for (int j = 0; j < 32; j++) {
        double zeta = (2.0 * j + 0.4 * 64) / (1.4 * 64);
        want[j] = zeta;
        for (int pos = 0; pos <= 1000; pos += 500) {
            double got[2];
            for (int of = 0; of < 2; of++) {
                const Rope *x = of ? &plain : &r;
                memset(q, 0, sizeof q), memset(k, 0, sizeof k);
                q[2 * j] = k[2 * j] = 1, q[2 * j + 1] = -0.5f;
                rope_apply(x, ROPE_Q, 0, q, pos + 512, angles);
                rope_apply(x, ROPE_K, 0, k, pos, angles);
                got[of] = (double)q[2 * j] * (double)k[2 * j] +
                          (double)q[2 * j + 1] * (double)k[2 * j + 1];
            }
            /* 5 U of the lengths, sqrt(1.25) here, on each of the two sides of both */
            CHECK_MSG(fabs(got[0] - zeta * got[1]) <= 20 * U * sqrt(1.25) * zeta,
                      "pair %d at %d: %.9g, expected %.9g", j, pos, got[0], zeta * got[1]);
        }
    }
    CHECK(fabs(want[0] - 0.285714) < 5e-7 && fabs(want[31] - 0.977679) < 5e-7);
    rope_free(&r), rope_free(&plain);
}

typedef struct {
    const Rope *r;
    double centre; /* any: it cancels */
} Xpos;

static void naive_xpos(const void *ctx, int part, int kh, int j, double p, double *c, double *s)
{
    const Xpos *x = ctx;
    const RopeParams *o = &x->r->p;
    double d = o->n_rot, zeta = (2 * j + o->arg[0] * d) / ((1 + o->arg[0]) * d);
    double e = (p - x->centre) / o->arg[1] * log(zeta), a = p * exp(-2 * j / d * log(o->base));
    double size = exp(part == ROPE_K ? -e : e);
    (void)kh;
    *c = size * cos(a);
    *s = size * sin(a);
}

/* Positions up to 44,850, re-centred 37 times, and a million tokens from position 0: each score is
 * zeta^(distance / scale_base) times the plain one, pair by pair, as exactly as a plain one is.
 * Angles in the reference are wrong by some 10 times 2^-53 of theirs: 1e-9 at a million. Keys below
 * 2^-126 lose digits: 16 times that is far below the floor. */
static void test_far(void)
{
    static const struct {
        const char *spec;
        double middle;
    } far[] = {{"xpos:pos_scale=150", 22000},
               {"xpos:pos_shift=1e6,scale_base=16", 1000350},
               {"xpos:pos_scale=1000,n_rot=8", 150000},
               {"xpos:gamma=0.01,scale_base=200", 0}};
    for (int i = 0; i < 4; i++) {
        Watched w;
        Run run = {far[i].spec, 300, 100, 0};
        if (!watch(&w, &tiny, &run)) continue;
        Xpos x = {&w.rope, far[i].middle};
        check_scores(&w, far[i].spec, naive_xpos, &x, 1e-8, 1e-30);
        watched_free(&w);
    }
}

/* In half precision a key is rounded by 2^-11 of its values, whose amplitude is at least 1/16 of
 * the centre's while it is young; old ones are at most 2^-25 of the largest value off, times the
 * amplitude of a query, 16, and some 10 for the size of queries and keys and the sum. */
static void test_half_precision(void)
{
    Watched w;
    Run run = {"xpos:pos_scale=150", 300, 0, T_F16};
    if (!watch(&w, &tiny, &run)) return;
    Xpos x = {&w.rope, 0};
    check_scores(&w, "half precision", naive_xpos, &x, 0x1p-10, 0x1p-25 * 16 * 10);
    watched_free(&w);
}

/* Why the centre moves: zeta_0^(-p / 512) leaves float32 at p = 36,260. */
static void test_overflow(void)
{
    Rope fixed = made("xpos:centre=0", rope_params(64, 10000));
    Rope moving = made("xpos", rope_params(64, 10000));
    double most = 0, least = 1;
    float k[64], angles[64];
    for (int pos = 36000; pos < 37000; pos++) {
        memset(k, 0, sizeof k);
        rope_apply(&fixed, ROPE_K, 0, k, pos, angles);
        int finite = isfinite(angles[0]) && isfinite(angles[32]);
        CHECK_MSG(finite || pos >= 36260, "position %d overflows", pos);
        CHECK_MSG(!finite || pos < 36600, "position %d does not overflow", pos);
    }
    for (int pos = 0; pos < 2000000; pos += 997) {
        rope_apply(&moving, ROPE_K, 0, k, pos, angles);
        double size = hypot((double)angles[0], (double)angles[32]);
        most = fmax(most, size), least = fmin(least, size);
    }
    CHECK_MSG(most <= 16 && most > 8 && least >= 1.0 / 16, "amplitudes from %g to %g", least, most);
    CHECK(moving.kind->length(&moving, 2047) == 0 && moving.kind->length(&moving, 2048) == 2048);
    rope_free(&fixed), rope_free(&moving);
}

/* ---------------------------------------------------------------- continuous */

static void write_text(const char *text)
{
    OutFile o;
    int rc = out_open(&o, scratch, &err);
    if (!CHECK_MSG(rc == 0, "%s", err.msg)) exit(check_done());
    fputs(text, o.f);
    rc = out_close(&o, &err);
    CHECK_MSG(rc == 0, "%s", err.msg);
}

static double at(const Rope *r, int t)
{
    return r->kind->position(r, t);
}

/* Numbers are kept in double; past the end they go on by 1. */
static void test_positions(void)
{
    char spec[600];
    snprintf(spec, sizeof spec, "continuous:file=%s", scratch);
    write_text("0 0.5,\t1760000000.123456789\n-3e2\r\n7");
    Rope r = made(spec, rope_params(16, 10000));
    CHECK(at(&r, 0) == 0 && at(&r, 1) == 0.5 && at(&r, 2) == 1760000000.123456789);
    CHECK(at(&r, 3) == -300 && at(&r, 4) == 7 && at(&r, 5) == 8 && at(&r, 104) == 107);
    rope_free(&r);
    snprintf(spec, sizeof spec, "continuous:pos_scale=0.25,pos_shift=3,file=%s", scratch);
    r = made(spec, rope_params(16, 10000));
    CHECK(at(&r, 1) == 3.125 && at(&r, 5) == 5);
    rope_free(&r);
    r = made("continuous", rope_params(16, 10000));
    CHECK(at(&r, 0) == 0 && at(&r, 12345) == 12345);
    rope_free(&r);
}

static void test_bad_positions(void)
{
    static const char *const bad[] = {"1 2 three", "1 2 nan", "inf", "1e16", "1;2", "0x", "1 2 3-"};
    char spec[600];
    snprintf(spec, sizeof spec, "continuous:file=%s", scratch);
    for (int i = 0; i < 7; i++) {
        write_text(bad[i]);
        CHECK_MSG(refused(spec, "position"), "'%s' was accepted, or not explained: %s", bad[i],
                  err.msg);
    }
    write_text(" \n, ");
    CHECK(refused(spec, "numbers"));
    write_text("");
    CHECK(refused(spec, "numbers"));
    remove(scratch);
    CHECK(refused(spec, scratch));
    CHECK(refused("continuous:file=-", "file"));
    CHECK(refused("xpos:pos_scale=-1", "pos_scale"));
    CHECK(refused("xpos:gamma=0", "gamma") && refused("xpos:scale_base=0", "scale_base"));
}

/* Scores under a list of numbers, in the words of another encoding. */
static void scores_like(const char *numbers, const char *spec, int T, double tolerance)
{
    char with[600];
    Watched a, b;
    write_text(numbers);
    snprintf(with, sizeof with, "continuous:file=%s", scratch);
    Run run = {with, T, 0, 0}, like = {spec, T, 0, 0};
    if (watch(&a, &tiny, &run) && watch(&b, &tiny, &like)) {
        CHECK_CLOSE(a.score, b.score, a.H * T * T, tolerance);
        watched_free(&a), watched_free(&b);
    }
    remove(scratch);
}

/* 0, 1, 2, ... are plain RoPE, and p / 2 is interpolation by 2: bit for bit. A constant added to
 * all of them changes rounding alone: 18 U of lengths, which are below 16 here. */
static void test_lists(void)
{
    char text[4096] = "", half[4096] = "", late[4096] = "";
    for (int t = 0; t < 40; t++) {
        snprintf(text + strlen(text), 16, "%d ", t);
        snprintf(half + strlen(half), 16, "%g,", t / 2.0);
        snprintf(late + strlen(late), 24, "%.1f\n", 1e6 + t);
    }
    scores_like(text, "plain", 50, 0); /* the list ends at 39 */
    scores_like(half, "linear:factor=2", 40, 0);
    scores_like(late, "plain", 50, 2 * 18 * U * 16);
    scores_like("5", "plain:pos_shift=5", 50, 0);
}

int main(int argc, char **argv)
{
    char name[512];
    snprintf(name, sizeof name, "%s.numbers", argc ? argv[0] : "test_rope_decay");
    scratch = name;
    test_zeta();
    test_far();
    test_half_precision();
    test_overflow();
    test_positions();
    test_bad_positions();
    test_lists();
    return check_done();
}
