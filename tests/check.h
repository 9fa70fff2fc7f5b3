/* Checks for the test programs: silent when they hold, loud when they do not. Every comparison is
 * written as !(d <= tol), so that a NaN fails. End with: return check_done(); */
#ifndef ROPESCOPE_CHECK_H
#define ROPESCOPE_CHECK_H

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK_FN static __attribute__((unused))

static long check_passed, check_failed;

CHECK_FN __attribute__((format(printf, 5, 6))) int check_msg(int ok, const char *file, int line,
                                                             const char *cond, const char *fmt, ...)
{
    va_list ap;
    *(ok ? &check_passed : &check_failed) += 1;
    if (ok || check_failed > 40) return ok; /* a broken kernel fails thousands of times */
    va_start(ap, fmt);
    printf("%s:%d: failed: %s  ", file, line, cond);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    return 0;
}

/* |a[i] - b[i]| <= tol for all i < n: one check, not n. */
CHECK_FN int check_close(const char *file, int line, const char *what, const float *a,
                         const float *b, size_t n, double tol)
{
    double max = 0, sum = 0;
    size_t at = 0, bad = 0;
    for (size_t i = 0; i < n; i++) {
        double d = a[i] == b[i] ? 0 : fabs((double)a[i] - (double)b[i]); /* equal infinities */
        bad += !(d <= tol);
        if (!(d <= max) && !isnan(max)) max = d, at = i;
        sum += d * d;
    }
    return check_msg(
        !bad, file, line, what, "%zu of %zu differ; [%zu] %.9g and %.9g, max %.3g > %.3g, rms %.3g",
        bad, n, at, n ? (double)a[at] : 0, n ? (double)b[at] : 0, max, tol, sqrt(sum / (double)n));
}

/* 1 if it held, so that a test may stop after a failure. */
#define CHECK(cond)          check_msg((cond) ? 1 : 0, __FILE__, __LINE__, #cond, " ")
#define CHECK_MSG(cond, ...) check_msg((cond) ? 1 : 0, __FILE__, __LINE__, #cond, __VA_ARGS__)
#define CHECK_CLOSE(a, b, n, tol)                                                                  \
    check_close(__FILE__, __LINE__, #a " ~ " #b, a, b, (size_t)(n), tol)

CHECK_FN __attribute__((format(printf, 1, 2))) void check_skip(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("skipped: ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
}

static uint64_t check_seed_used;

CHECK_FN int check_done(void)
{
    if (check_failed && check_seed_used)
        printf("repeat with TEST_SEED=%llu\n", (unsigned long long)check_seed_used);
    printf("%ld passed, %ld failed\n", check_passed, check_failed);
    return check_failed ? 1 : 0;
}

typedef struct {
    uint64_t s;
} Rng; /* splitmix64 */

/* The seed of this run: TEST_SEED, or the fixed one given. */
CHECK_FN Rng rng_new(uint64_t seed)
{
    const char *env = getenv("TEST_SEED");
    check_seed_used = env ? strtoull(env, NULL, 0) : seed;
    return (Rng){check_seed_used};
}

CHECK_FN uint64_t rng_u64(Rng *r)
{
    uint64_t z = r->s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

CHECK_FN int rng_int(Rng *r, int lo, int hi) /* lo .. hi */
{
    return lo + (int)(rng_u64(r) % (uint64_t)((int64_t)hi - lo + 1));
}

CHECK_FN float rng_float(Rng *r) /* uniform in [-1, 1) */
{
    return (float)((double)(rng_u64(r) >> 40) * 0x1p-23 - 1.0);
}

#endif
