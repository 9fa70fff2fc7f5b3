/* kernels/amx.c, unchanged, over a model of the tile instructions (amx_model.h): bit for bit
 * against kernels_base. The vector instructions are the real ones, so it needs a CPU with AVX-512
 * VNNI; not one with AMX. What it cannot see: faults of the hardware, and the permission that
 * `usable` asks for. */
#include "../model.h"

#include "check.h"

#if defined(__AVX512VNNI__) && (defined(__AMX_INT8__) || defined(__AMXINT8__))
#include <immintrin.h>

#include "amx_model.h"

/* The program linked with this has an instance of that name already. */
#define kernels_amx kernels_amx_model
#include "../kernels/amx.c"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIXED = 4, EXTREME = 8, NOT_FINITE = 16, KINDS = 5 }; /* beside SCALED and HAS_MIN */

static Rng rng;

static int one_in(int n)
{
    return rng_u64(&rng) % (uint64_t)n == 0;
}

static float small_scale(void)
{
    return ldexpf(rng_float(&rng), rng_int(&rng, -14, 2));
}

static float odd_scale(void)
{
    static const float odd[] = {NAN, -NAN, INFINITY, -INFINITY, 1e38f, 1e-44f, -0.0f};
    return odd[rng_u64(&rng) % 7];
}

/* Any values that model.h allows. Without SCALED all scales are 1; without HAS_MIN dm is 0, and
 * with it not in every row. MIXED: some blocks are one thing, some the other. */
static void random_q32(Q32 *w, int kind)
{
    int ends = kind & EXTREME, scaled = kind & (one_in(2) ? SCALED | MIXED : SCALED);
    int min = kind & (one_in(2) ? HAS_MIN | MIXED : HAS_MIN), sign = one_in(2) ? 127 : -128;
    for (int i = 0; i < QB; i++) w->q[i] = (int8_t)(ends ? sign : rng_int(&rng, -128, 127));
    for (int g = 0; g < 2; g++) {
        w->sc[g] = (int16_t)(!scaled     ? 1
                             : !ends     ? rng_int(&rng, -128, 128)
                             : one_in(3) ? 128
                                         : -128);
        w->mn[g] = (int16_t)(!ends ? rng_int(&rng, -128, 128) : one_in(3) ? 128 : -128);
    }
    w->d = small_scale();
    w->dm = !min || one_in(4) ? 0 : small_scale();
    if (kind & NOT_FINITE && one_in(20)) w->d = odd_scale();
    if (kind & NOT_FINITE && one_in(20)) w->dm = odd_scale();
}

/* -128 is not what quantize makes, but an int8. */
static void random_q8(Q8 *x, int kind)
{
    int ends = kind & EXTREME, sign = one_in(3) ? -128 : one_in(2) ? 127 : -127;
    x->sum[0] = x->sum[1] = 0;
    for (int i = 0; i < QB; i++) {
        x->q[i] = (int8_t)(ends ? sign : rng_int(&rng, -127, 127));
        x->sum[i / 16] += x->q[i];
    }
    x->d = fabsf(small_scale());
    if (kind & NOT_FINITE && one_in(20)) x->d = odd_scale();
}

static int same(float a, float b)
{
    return !memcmp(&a, &b, sizeof a) || (isnan(a) && isnan(b));
}

/* y starts as a pattern in both, so what lies between and behind the rows has to stay as it is. */
static void compare(int rows, int toks, int nb, int kind)
{
    size_t xs = (size_t)nb + 3, ys = (size_t)rows + 5, n_y = (size_t)toks * ys + 64, bad = 0;
    size_t n_w = (size_t)(rows * nb), n_x = (size_t)toks * xs;
    Q32 *w = xcalloc(n_w + 1, sizeof *w);
    Q8 *x = xcalloc(n_x, sizeof *x);
    float *y = xcalloc(n_y, sizeof *y), *want = xcalloc(n_y, sizeof *y);
    for (size_t i = 0; i < n_w; i++) random_q32(w + i, kind);
    for (size_t i = 0; i < n_x; i++) random_q8(x + i, kind);
    for (size_t i = 0; i < n_y; i++) y[i] = want[i] = 1e30f + (float)i * 1e25f;
    long products = amx_products;
    kernels_base.qmatmul(want, ys, w, rows, x, xs, toks, nb);
    kernels_amx.qmatmul(y, ys, w, rows, x, xs, toks, nb);
    while (bad < n_y && same(y[bad], want[bad])) bad++;
    CHECK_MSG(bad == n_y, "rows %d, tokens %d, blocks %d, kind %d: [%zu] is %a, expected %a", rows,
              toks, nb, kind, bad, (double)y[bad % n_y], (double)want[bad % n_y]);
    CHECK_MSG((amx_products > products) == (nb > 0 && toks >= FEW),
              "%d tokens, %d blocks: tiles %s", toks, nb,
              amx_products > products ? "used" : "not used");
    CHECK(amx_loads == amx_releases && amx_config.palette == 0);
    free(w), free(x), free(y), free(want);
}

static void test_qmatmul(void)
{
    static const int rows[] = {1, 3, 15, 16, 17, 48}, blocks[] = {1, 2, 3, 31, 33, 64, 172};
    static const int toks[] = {1, 7, 8, 15, 16, 17, 33, 100}, edges[] = {8, 23, 128, 129, 136, 271};
    for (int r = 0; r < 6; r++)
        for (int t = 0; t < 8; t++)
            for (int b = 0; b < 7; b++)
                for (int kind = 0; kind < KINDS; kind++) compare(rows[r], toks[t], blocks[b], kind);
    for (int nb = 0; nb <= 18; nb++) /* around chunks, and the tiles in flight */
        for (int kind = 0; kind < KINDS; kind++) compare(17, 24, nb, kind);
    for (int t = 0; t < 6; t++) /* around spans and panels */
        for (int kind = 0; kind < KINDS; kind++) compare(49 + t, edges[t], 9, kind);
}

static void test_extremes(void)
{
    for (int i = 0; i < 20; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            compare(rng_int(&rng, 1, 40), rng_int(&rng, 8, 40), rng_int(&rng, 1, 40),
                    kind | EXTREME);
            compare(rng_int(&rng, 1, 40), rng_int(&rng, 8, 40), rng_int(&rng, 1, 5),
                    kind | NOT_FINITE);
        }
}

/* ---------------------------------------------------------------- does the model fault? */

static const AmxConfig shapes = {
    .palette = 1, .colsb = {64, 32, 64, 64, 30}, .rows = {16, 16, 8, 7, 16}};

static void use_unconfigured(void)
{
    amx_zero(0);
}

static void use_released(void)
{
    amx_loadconfig(&shapes);
    amx_release();
    amx_dpbssd(0, 1, 2);
}

static void bad_palette(void)
{
    AmxConfig c = shapes;
    c.palette = 2;
    amx_loadconfig(&c);
}

static void bad_rows(void)
{
    AmxConfig c = shapes;
    c.rows[0] = 17;
    amx_loadconfig(&c);
}

static void bad_colsb(void)
{
    AmxConfig c = shapes;
    c.colsb[0] = 68;
    amx_loadconfig(&c);
}

static void bad_reserved(void)
{
    AmxConfig c = shapes;
    c.colsb[8] = 64;
    amx_loadconfig(&c);
}

static void bad_shape(void)
{
    amx_loadconfig(&shapes);
    amx_dpbssd(0, 1, 3);
}

static void same_tile(void)
{
    amx_loadconfig(&shapes);
    amx_dpbssd(0, 1, 1);
}

static void part_column(void)
{
    amx_loadconfig(&shapes);
    amx_loadd(4, amx_tile, 0);
}

static void empty_tile(void)
{
    amx_loadconfig(&shapes);
    amx_stored(7, amx_tile, 64);
}

static int aborts(void (*f)(void))
{
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(2);
        f();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_faults(void)
{
    CHECK(aborts(use_unconfigured) && aborts(use_released) && aborts(empty_tile));
    CHECK(aborts(bad_palette) && aborts(bad_rows) && aborts(bad_colsb) && aborts(bad_reserved));
    CHECK(aborts(bad_shape) && aborts(same_tile) && aborts(part_column));
    amx_loadconfig(&shapes);
    amx_tile[0].s32[15][15] = 5;
    amx_tile[1].s8[15][31] = -128;
    amx_tile[2].s8[7][63] = -128;
    amx_dpbssd(0, 1, 2);
    CHECK(amx_tile[0].s32[15][15] == 5 + 128 * 128 && amx_tile[0].s32[15][14] == 0);
    amx_release();
}

int main(void)
{
    if (!kernels_vnni.usable()) {
        check_skip("kernels amx over a model: this CPU has no AVX-512 VNNI");
        return check_done();
    }
    rng = rng_new(20230110);
    test_faults();
    test_qmatmul();
    test_extremes();
    return check_done();
}
#else
int main(void)
{
    check_skip("kernels amx over a model: not built for x86-64 with AVX-512 VNNI");
    return check_done();
}
#endif
