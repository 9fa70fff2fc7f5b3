/* ropescope: the forward pass, top to bottom in one file.
 *
 *   1 errors and memory   4 small maths   7 forward      10 sampler
 *   2 kernels             5 RoPE          8 model file   11 commands
 *   3 the team            6 attention     9 state
 *
 * Read down to `forward`: everything it calls stands above it, everything below is plumbing.
 *
 * What holds throughout: the bits of a result depend on the model, the tokens and exact / int8,
 * and on nothing else: not on threads, batches, the instruction set, the compiler or a probe.
 */
#define _GNU_SOURCE /* mmap, clock_gettime, sched_getaffinity under -std=c11 */
#include "model.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num()  0
#define omp_get_num_threads() 1
#endif

#if FLT_EVAL_METHOD != 0
#error "floats are computed wider than they are stored (x87): compile with -msse2 -mfpmath=sse"
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF files are little-endian and are used in place: this CPU is big-endian"
#endif

/* ------------------------------------------------------------ 1 errors and memory */

static void err_fill(Err *e, int usage, const char *fmt, va_list ap)
{
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    e->usage = usage;
}

int err_set(Err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err_fill(e, 0, fmt, ap);
    va_end(ap);
    return -1;
}

int err_usage(Err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err_fill(e, 1, fmt, ap);
    va_end(ap);
    return -1;
}

/* Exit status when something is wrong; 2 in check, where 1 is a finding. */
static int trouble = 1;

_Noreturn void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("ropescope: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(trouble);
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p) die("out of memory: %zu x %zu bytes", n, size);
    return p;
}

void *xrealloc(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) die("out of memory: %zu x %zu bytes", n, size);
    p = realloc(p, bytes ? bytes : 1);
    if (!p) die("out of memory: %zu bytes", bytes);
    return p;
}

int str_is(Str s, const char *word)
{
    return s.n == strlen(word) && memcmp(s.s, word, s.n) == 0;
}

void bytes_add(Bytes *b, const char *s, size_t n)
{
    if (b->n + n + 1 > b->cap) {
        b->cap = (b->n + n + 1) * 2;
        b->s = xrealloc(b->s, b->cap, 1);
    }
    memcpy(b->s + b->n, s, n);
    b->n += n;
    b->s[b->n] = 0;
}

int bytes_read(Bytes *b, const char *path, Err *e)
{
    FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (!f) return err_set(e, "%s: cannot be opened: %s", path, strerror(errno));
    char buf[65536];
    size_t n;
    while ((n = fread(buf, 1, sizeof buf, f)) > 0) bytes_add(b, buf, n);
    int bad = ferror(f) ? errno : 0;
    if (f != stdin) fclose(f);
    if (bad) return err_set(e, "%s: cannot be read: %s", path, strerror(bad));
    bytes_add(b, "", 0);
    return 0;
}

/* What a symbolic link points to, be it there or not, or the path itself where it is none; to be
 * freed. (realpath fails where there is nothing.) */
static char *link_target(const char *path)
{
    enum { LINKS = 40 }; /* as many as Linux follows */
    char *at = xcalloc(strlen(path) + 1, 1), to[4096];
    memcpy(at, path, strlen(path));
    for (int i = 0; i < LINKS; i++) {
        ssize_t n = readlink(at, to, sizeof to - 1);
        if (n <= 0) break;
        to[n] = 0;
        char *slash = strrchr(at, '/');
        size_t dir = slash && to[0] != '/' ? (size_t)(slash - at) + 1 : 0;
        char *next = xcalloc(dir + (size_t)n + 1, 1);
        memcpy(next, at, dir);
        memcpy(next + dir, to, (size_t)n);
        free(at);
        at = next;
    }
    return at;
}

/* Pitfall: a rename would put a file in the place of a pipe or of /dev/null, and of a symbolic link
 * rather than of what it points to. */
int out_open(OutFile *o, const char *path, Err *e)
{
    struct stat st;
    *o = (OutFile){.f = stdout};
    if (strcmp(path, "-") == 0) return 0;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        o->f = fopen(path, "wb");
        return o->f ? 0 : err_set(e, "%s: cannot be written: %s", path, strerror(errno));
    }
    char *target = link_target(path);
    size_t n = strlen(target) + 32;
    o->path = xcalloc(n, 1);
    o->tmp = xcalloc(n, 1);
    snprintf(o->path, n, "%s", target);
    snprintf(o->tmp, n, "%s.tmp.%ld", target, (long)getpid());
    free(target);
    o->f = fopen(o->tmp, "wb");
    if (o->f) return 0;
    err_set(e, "%s: cannot be written: %s", path, strerror(errno));
    free(o->path);
    free(o->tmp);
    return -1;
}

static int out_end(OutFile *o)
{
    int bad = o->f != stdout && fclose(o->f);
    free(o->path);
    free(o->tmp);
    *o = (OutFile){0};
    return bad;
}

void out_abandon(OutFile *o)
{
    if (o->tmp) unlink(o->tmp);
    out_end(o);
}

int out_close(OutFile *o, Err *e)
{
    int bad = fflush(o->f) || ferror(o->f);
    if (o->path) bad = bad || fsync(fileno(o->f)) || rename(o->tmp, o->path);
    if (!bad && out_end(o) == 0) return 0;
    err_set(e, "%s: writing failed: %s", o->path ? o->path : "output", strerror(errno));
    if (bad) out_abandon(o);
    return -1;
}

static void out_dir_end(OutDir *d)
{
    free(d->path);
    free(d->tmp);
    *d = (OutDir){NULL, NULL};
}

static int dir_is_empty(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;
    if (!d) return 0;
    for (struct dirent *f; (f = readdir(d));)
        n += strcmp(f->d_name, ".") != 0 && strcmp(f->d_name, "..") != 0;
    closedir(d);
    return n == 0;
}

int out_dir_open(OutDir *d, const char *path, Err *e)
{
    struct stat st;
    *d = (OutDir){NULL, NULL};
    int there = stat(path, &st) == 0;
    if (there && !S_ISDIR(st.st_mode))
        return err_set(e, "%s: exists and is no folder: name a new one", path);
    if (there && !dir_is_empty(path))
        return err_set(e, "%s: the folder is not empty: name a new one", path);
    char *real = there ? realpath(path, NULL) : NULL;
    size_t n = strlen(real ? real : path) + 1;
    d->path = xcalloc(n, 1);
    d->tmp = xcalloc(n + 32, 1);
    memcpy(d->path, real ? real : path, n);
    free(real);
    for (n--; n > 1 && d->path[n - 1] == '/'; n--) d->path[n - 1] = 0;
    snprintf(d->tmp, n + 33, "%s.tmp.%ld", d->path, (long)getpid());
    if (mkdir(d->tmp, 0777) == 0) return 0;
    err_set(e, "%s: cannot be made: %s", path, strerror(errno));
    out_dir_end(d);
    return -1;
}

int out_dir_file(OutDir *d, const char *name, const void *data, size_t n, Err *e)
{
    size_t len = strlen(d->tmp) + strlen(name) + 2;
    char *path = xcalloc(len, 1);
    snprintf(path, len, "%s/%s", d->tmp, name);
    FILE *f = fopen(path, "wb");
    int bad = !f || fwrite(data, 1, n, f) != n || fflush(f) || fsync(fileno(f));
    if (bad) err_set(e, "%s/%s: cannot be written: %s", d->path, name, strerror(errno));
    if (f && fclose(f) && !bad)
        bad = err_set(e, "%s/%s: cannot be written: %s", d->path, name, strerror(errno));
    free(path);
    return bad ? -1 : 0;
}

void out_dir_abandon(OutDir *d)
{
    DIR *dir = d->tmp ? opendir(d->tmp) : NULL;
    if (dir) {
        for (struct dirent *f; (f = readdir(dir));) unlinkat(dirfd(dir), f->d_name, 0);
        closedir(dir);
        rmdir(d->tmp);
    }
    out_dir_end(d);
}

int out_dir_close(OutDir *d, Err *e)
{
    if (rename(d->tmp, d->path)) {
        err_set(e, "%s: cannot be put in place: %s", d->path, strerror(errno));
        out_dir_abandon(d);
        return -1;
    }
    out_dir_end(d);
    return 0;
}

int list_parse(const char *option, const char *list, int n, uint8_t *on, Err *e)
{
    if (!list) memset(on, 1, (size_t)n);
    for (const char *s = list; s;) {
        char *end = NULL;
        long lo = isdigit((unsigned char)*s) ? strtol(s, &end, 10) : -1, hi = lo;
        if (lo >= 0 && *end == '-' && isdigit((unsigned char)end[1]))
            hi = strtol(end + 1, &end, 10);
        if (lo < 0 || hi < lo || hi >= n || (*end && *end != ','))
            return err_usage(e, "%s %s: expected numbers from 0 to %d, such as 0 or 0,3,5-7",
                             option, list, n - 1);
        memset(on + lo, 1, (size_t)(hi - lo + 1));
        s = *end ? end + 1 : NULL;
    }
    return 0;
}

uint64_t hash_bytes(const void *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)p)[i]) * 0x100000001b3u;
    return h;
}

/* ------------------------------------------------------------ 2 kernels
 * The scalar instance below states the arithmetic; kernels/ repeats it faster, bit for bit. */

/* a * b + c, rounded once. Where the CPU has no such instruction (or the compiler may not use it)
 * the product is exact in double, and the sum is rounded to odd there, so that the second
 * rounding, to float, is right (Boldo and Melquiond, "Emulation of FMA", 2008). */
static inline float fma1(float a, float b, float c)
{
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    double p = (double)a * (double)b, s = p + (double)c, t = s - p;
    double err = (p - (s - t)) + ((double)c - t);
    uint64_t u;
    memcpy(&u, &s, sizeof u);
    if ((err < 0 || err > 0) && !(u & 1)) u += (err > 0) == (s > 0) ? 1 : (uint64_t)-1;
    memcpy(&s, &u, sizeof u);
    return (float)s;
#endif
}

static float lane_tree(float lane[LANES])
{
    for (int w = LANES / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++) lane[i] += lane[i + w];
    return lane[0];
}

static float dot_base(const float *a, const float *b, int n)
{
    float lane[LANES] = {0};
    int c = 0;
    for (; c + LANES <= n; c += LANES)
        for (int i = 0; i < LANES; i++) lane[i] = fma1(a[c + i], b[c + i], lane[i]);
    for (int i = 0; c + i < n; i++) lane[i] = fma1(a[c + i], b[c + i], lane[i]);
    return lane_tree(lane);
}

static void matmul_base(float *y, size_t ys, const float *w, size_t ws, int rows, const float *x,
                        size_t xs, int toks, int n)
{
    for (int i = 0; i < toks; i++)
        for (int r = 0; r < rows; r++)
            y[(size_t)i * ys + (size_t)r] = dot_base(w + (size_t)r * ws, x + (size_t)i * xs, n);
}

static float qdot_base(const Q32 *w, const Q8 *x, int nb)
{
    float y = 0;
    for (int b = 0; b < nb; b++) {
        int32_t s[2] = {0, 0};
        for (int i = 0; i < 16; i++) s[0] += w[b].q[i] * x[b].q[i];
        for (int i = 16; i < QB; i++) s[1] += w[b].q[i] * x[b].q[i];
        int32_t sum = w[b].sc[0] * s[0] + w[b].sc[1] * s[1];
        y = fma1((float)sum, w[b].d * x[b].d, y);
        if (w[b].dm == 0) continue;
        int32_t min = w[b].mn[0] * x[b].sum[0] + w[b].mn[1] * x[b].sum[1];
        y = fma1((float)min, w[b].dm * x[b].d, y);
    }
    return y;
}

static void qmatmul_base(float *y, size_t ys, const Q32 *w, int rows, const Q8 *x, size_t xs,
                         int toks, int nb)
{
    for (int i = 0; i < toks; i++)
        for (int r = 0; r < rows; r++)
            y[(size_t)i * ys + (size_t)r] =
                qdot_base(w + (size_t)r * (size_t)nb, x + (size_t)i * xs, nb);
}

/* Adding and subtracting 1.5 * 2^23 rounds |v| < 2^22 to the nearest integer, ties to even. */
#define ROUND_MAGIC 12582912.0f

static void quantize_base(Q8 *out, const float *x, int nb)
{
    for (int b = 0; b < nb; b++, x += QB) {
        float max = 0;
        int finite = 1;
        for (int i = 0; i < QB; i++) {
            float a = fabsf(x[i]);
            finite &= a <= FLT_MAX;
            max = a > max ? a : max;
        }
        /* Is 127 / max itself in range? Smaller blocks count as zero. */
        float inv = finite && max >= 1e-30f ? 127.0f / max : 0;
        out[b].d = !finite ? NAN : inv > 0 ? max / 127.0f : 0;
        out[b].sum[0] = out[b].sum[1] = 0;
        for (int i = 0; i < QB; i++) {
            int q = finite ? (int)((x[i] * inv + ROUND_MAGIC) - ROUND_MAGIC) : 0;
            out[b].q[i] = (int8_t)q;
            out[b].sum[i / 16] += q;
        }
    }
}

static float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 0x3ff, u;
    float f;
    if (exp == 0) { /* zero or subnormal: man * 2^-24 is exact */
        f = (float)man * 0x1p-24f;
        return sign ? -f : f;
    }
    if (exp == 31) /* infinity, or NaN made quiet, as the hardware does */
        u = sign | 0x7f800000 | (man ? 0x400000 | man << 13 : 0);
    else
        u = sign | (exp + 112) << 23 | man << 13;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void unpack_f16_base(float *out, const uint16_t *in, int n)
{
    for (int i = 0; i < n; i++) out[i] = f16_to_f32(in[i]);
}

static void unpack_bf16_base(float *out, const uint16_t *in, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t u = (uint32_t)in[i] << 16;
        memcpy(&out[i], &u, sizeof u);
    }
}

static void unpack_q32_base(float *out, const Q32 *in, int nb)
{
    for (int b = 0; b < nb; b++)
        for (int i = 0; i < QB; i++) {
            int g = i / 16;
            float scaled = in[b].d * (float)in[b].sc[g] * (float)in[b].q[i];
            out[b * QB + i] = scaled + in[b].dm * (float)in[b].mn[g];
        }
}

/* To nearest, ties to even, by adding half of the last place that stays: a carry out of the
 * mantissa raises the exponent, as it should, up to infinity. */
static uint16_t f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = u >> 16 & 0x8000, mag = u & 0x7fffffff;
    if (mag > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (mag >> 13 & 0x3ff)); /* NaN, made quiet */
    if (mag >= 0x47800000) return (uint16_t)(sign | 0x7c00);    /* 2^16 and more */
    if (mag < 0x38800000) { /* below 2^-14 the places are those of 2^-24: adding 0.5 rounds there */
        float shifted;
        memcpy(&shifted, &mag, sizeof shifted);
        shifted += 0.5f;
        memcpy(&mag, &shifted, sizeof mag);
        return (uint16_t)(sign | (mag - 0x3f000000));
    }
    mag += 0xfff + (mag >> 13 & 1);
    return (uint16_t)(sign | (mag - 0x38000000) >> 13);
}

static void pack_f16_base(uint16_t *out, const float *in, int n)
{
    for (int i = 0; i < n; i++) out[i] = f32_to_f16(in[i]);
}

static void weighted_sum_base(float *out, size_t os, const float *a, size_t as, int rows,
                              const float *v, size_t vs, int n_t, int step, int n, int add)
{
    for (int i = 0; i < rows; i++, n_t += step) {
        int keys = n_t < SUM_SEG ? n_t : SUM_SEG;
        for (int c = 0; keys > 0 && c < n; c++) {
            float *o = &out[(size_t)i * os + (size_t)c], seg = 0;
            for (int t = 0; t < keys; t++)
                seg = fma1(a[(size_t)i * as + (size_t)t], v[(size_t)t * vs + (size_t)c], seg);
            *o = add ? *o + seg : seg;
        }
    }
}

/* exp(x) = 2^k exp(r), |r| <= ln2 / 2, exp(r) by Cephes' polynomial (S. Moshier, expf), in Horner
 * form with fused multiply-adds. 2^k in two factors: k reaches from -150 to 128. */
float exp_f32(float x)
{
    x = x < -104 ? -104 : x;
    x = x > 89 ? 89 : x;
    float t = fma1(x, 0x1.715476p+0f, ROUND_MAGIC), kf = t - ROUND_MAGIC;
    float r = fma1(kf, -0x1.62e430p-1f, x);
    r = fma1(kf, 0x1.05c610p-29f, r);
    float p = 1.9875691500e-4f;
    p = fma1(p, r, 1.3981999507e-3f);
    p = fma1(p, r, 8.3334519073e-3f);
    p = fma1(p, r, 4.1665795894e-2f);
    p = fma1(p, r, 1.6666665459e-1f);
    p = fma1(p, r, 5.0000001201e-1f);
    p = fma1(p, r * r, r) + 1.0f;
    uint32_t u, magic = 0x4b400000;
    memcpy(&u, &t, sizeof u);
    int k = (int)(u - magic), k1 = k >> 1;
    if (x != x) return x;
    uint32_t u1 = (uint32_t)(k1 + 127) << 23, u2 = (uint32_t)(k - k1 + 127) << 23;
    float f1, f2;
    memcpy(&f1, &u1, sizeof f1);
    memcpy(&f2, &u2, sizeof f2);
    return p * f1 * f2;
}

static void softmax_base(float *x, int n)
{
    float max = x[0], lane[LANES] = {0};
    for (int i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int i = 0; i < n; i++) {
        x[i] = exp_f32(x[i] - max);
        lane[i % LANES] += x[i];
    }
    float inv = 1.0f / lane_tree(lane);
    for (int i = 0; i < n; i++) x[i] *= inv;
}

const float gelu_terms[GELU_TERMS] = {
    -0x1.651f02p-49f, 0x1.c6a9acp-42f,  -0x1.d4629ap-36f, 0x1.de1842p-31f,
    -0x1.94d1a0p-27f, -0x1.e8d190p-24f, 0x1.dc084ap-18f,  -0x1.c557eap-14f,
    -0x1.217d14p-14f, 0x1.29a690p-4f,   0x1.988458p+0f,
};

/* u(x) of the activation: model.h, ACT_SILU. */
static float act_exponent(int act, float x)
{
    float x2 = x * x, p = gelu_terms[0];
    if (act == ACT_SILU) return x;
    if (act == ACT_GELU_TANH) return x * fma1(GELU_TANH_3, x2, GELU_TANH_1);
    x2 = x2 < GELU_CUT ? x2 : GELU_CUT;
    for (int i = 1; i < GELU_TERMS; i++) p = fma1(p, x2, gelu_terms[i]);
    return x * p;
}

static void activate_base(int act, float *y, const float *g, int n)
{
    for (int i = 0; i < n; i++) {
        float x = g ? g[i] : y[i], a = x / (1.0f + exp_f32(-act_exponent(act, x)));
        y[i] = g ? a * y[i] : a;
    }
}

static volatile float peak_sink; /* what was computed must be wanted */

static void add_row_base(RowSums *s, const float *a, const float *z, int t, int n)
{
    for (int i = 0; i < n; i++) {
        int part = i % PARTS;
        s->score[part] += (double)a[i] * (double)z[i];
        s->position[part] += (double)a[i] * (t + i);
        s->weight[part] += (double)a[i];
        s->max[part] = a[i] > s->max[part] ? a[i] : s->max[part];
        s->top[part] = z[i] > s->top[part] ? z[i] : s->top[part];
    }
}

static void add_values_base(const ValueSums *s, const float *x, size_t xs, int toks, int n)
{
    for (; toks > 0; toks--, x += xs) {
        for (int c = 0; s->sum && c < n; c++) s->sum[c] += (double)x[c];
        for (int c = 0; s->size && c < n; c++) s->size[c] += fabs((double)x[c]);
        for (int c = 0; s->square && c < n; c++) s->square[c] += (double)x[c] * (double)x[c];
        for (int c = 0; s->most && c < n; c++)
            s->most[c] = fabsf(x[c]) > s->most[c] ? fabsf(x[c]) : s->most[c];
    }
}

static void add_radii_base(const RadiusSums *s, const float *x, size_t xs, int toks)
{
    for (; toks > 0; toks--, x += xs)
        for (int j = 0; j < s->n; j++) {
            double a = (double)x[2 * j], b = (double)x[2 * j + 1], r = sqrt(a * a + b * b);
            s->sum[j] += r;
            s->most[j] = r > s->most[j] ? r : s->most[j];
        }
}

static void add_moments_base(double *m, const float *x, size_t xs, int toks, int D)
{
    for (; toks > 0; toks--, x += xs) {
        double *row = m;
        for (int i = 0; i < D; row += D - i, i++)
            for (int c = i; c < D; c++) row[c - i] += (double)x[i] * (double)x[c];
    }
}

static double peak_float_base(int rounds)
{
    float a[8] = {0};
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < 8; i++) a[i] = fma1(a[i], 0.5f, 1.0f);
    for (int i = 0; i < 8; i++) peak_sink = a[i];
    return 2.0 * 8 * rounds;
}

static double peak_int8_base(int rounds)
{
    uint32_t a[8] = {0}; /* unsigned: they wrap around */
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < 8; i++) a[i] += (uint32_t)((int8_t)k * (int8_t)(k + i));
    for (int i = 0; i < 8; i++) peak_sink = (float)a[i];
    return 2.0 * 8 * rounds;
}

static int usable_always(void)
{
    return 1;
}

const Kernels kernels_base = {.name = "base",
                              .usable = usable_always,
                              .matmul = matmul_base,
                              .qmatmul = qmatmul_base,
                              .quantize = quantize_base,
                              .unpack_f16 = unpack_f16_base,
                              .unpack_bf16 = unpack_bf16_base,
                              .unpack_q32 = unpack_q32_base,
                              .pack_f16 = pack_f16_base,
                              .weighted_sum = weighted_sum_base,
                              .softmax = softmax_base,
                              .activate = activate_base,
                              .add_row = add_row_base,
                              .add_moments = add_moments_base,
                              .add_values = add_values_base,
                              .add_radii = add_radii_base,
                              .peak_float = peak_float_base,
                              .peak_int8 = peak_int8_base};

/* The Makefile defines one of these when it links the instances of kernels/. */
#ifdef KERNELS_X86
extern const Kernels kernels_avx2, kernels_avx512, kernels_vnni, kernels_amx;
static const Kernels *const instances[] = {
    &kernels_base, &kernels_avx2, &kernels_avx512, &kernels_vnni,
#ifdef KERNELS_AMX
    &kernels_amx,
#endif
};
#elif defined(KERNELS_ARM)
extern const Kernels kernels_neon, kernels_dotprod, kernels_i8mm;
static const Kernels *const instances[] = {&kernels_base, &kernels_neon, &kernels_dotprod,
                                           &kernels_i8mm};
#else
static const Kernels *const instances[] = {&kernels_base};
#endif
#define N_INSTANCES ((int)(sizeof instances / sizeof *instances))

/* Instance i, where it leaves a member NULL completed by the slower ones before it. */
const Kernels *kernels_at(int i)
{
    static Kernels whole[N_INSTANCES];
    if (i < 0 || i >= N_INSTANCES) return NULL;
    Kernels k = *instances[i];
    const Kernels *slower = kernels_at(i - 1);
#define FILL(member) k.member = k.member || !slower ? k.member : slower->member
    FILL(matmul), FILL(qmatmul), FILL(quantize), FILL(weighted_sum), FILL(softmax);
    FILL(activate), FILL(unpack_f16), FILL(unpack_bf16), FILL(unpack_q32);
    FILL(pack_f16), FILL(add_moments), FILL(add_row), FILL(add_values), FILL(add_radii);
    FILL(peak_float), FILL(peak_int8);
    for (int t = 0; t < T_N_TYPES; t++) FILL(unpack[t]), FILL(matvec[t]), FILL(qmatvec[t]);
#undef FILL
    whole[i] = k;
    return &whole[i];
}

const Kernels *kernels_pick(const char *name, Err *e)
{
    if (!name) name = getenv("ROPESCOPE_ISA");
    if (name && !*name) name = NULL;
    const Kernels *best = NULL;
    char list[128] = "";
    for (int i = 0; i < N_INSTANCES; i++) {
        const Kernels *k = kernels_at(i);
        if (!k->usable()) continue;
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, " %s", k->name);
        if (!name || strcmp(name, k->name) == 0) best = k;
    }
    if (!best)
        err_usage(e, "instruction set '%s': expected one that this program and CPU have (%s)", name,
                  list + 1);
    return best;
}

/* Unpacking, one function per block type (bytes: GGUF specification, ggml-common.h). Group g of a
 * row is the g-th run of 32 values; the K types hold 8 groups in a super-block. */

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return f16_to_f32(h);
}

/* One scale for the whole group: x = d * q + m. */
static void q32_set(Q32 *o, float d, float m)
{
    o->d = d;
    o->dm = m;
    o->sc[0] = o->sc[1] = o->mn[0] = o->mn[1] = 1;
}

static void nibbles(int8_t q[QB], const uint8_t *p, int offset)
{
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)((p[i] & 15) + offset);
        q[i + 16] = (int8_t)((p[i] >> 4) + offset);
    }
}

/* The fifth bits of 32 values: bit i of qh belongs to value i. */
static void add_fifth_bits(int8_t q[QB], const uint8_t *p)
{
    uint32_t qh;
    memcpy(&qh, p, sizeof qh);
    for (int i = 0; i < QB; i++) q[i] = (int8_t)(q[i] + (int)((qh >> i & 1) << 4));
}

static void unpack_q4_0(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 18) {
        q32_set(o, half_at(p), 0);
        nibbles(o->q, p + 2, -8);
    }
}

static void unpack_q4_1(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 20) {
        q32_set(o, half_at(p), half_at(p + 2));
        nibbles(o->q, p + 4, 0);
    }
}

static void unpack_q5_0(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 22) {
        q32_set(o, half_at(p), 0);
        nibbles(o->q, p + 6, -16);
        add_fifth_bits(o->q, p + 2);
    }
}

static void unpack_q5_1(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 24) {
        q32_set(o, half_at(p), half_at(p + 2));
        nibbles(o->q, p + 8, 0);
        add_fifth_bits(o->q, p + 4);
    }
}

static void unpack_q8_0(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 34) {
        q32_set(o, half_at(p), 0);
        memcpy(o->q, p + 2, QB);
    }
}

/* Q2_K: 256 values, scales[16] (low nibble scale, high nibble minimum), qs[64], d, dmin. */
static void unpack_q2_k(Q32 *o, const uint8_t *p, int n)
{
    for (int g = 0; g < n; g++, o++) {
        const uint8_t *b = p + (size_t)(g / 8) * 84, *qs = b + 16 + 32 * (g % 8 / 4);
        int shift = 2 * (g % 4);
        o->d = half_at(b + 80);
        o->dm = -half_at(b + 82);
        for (int i = 0; i < QB; i++) o->q[i] = (int8_t)(qs[i] >> shift & 3);
        for (int s = 0; s < 2; s++) {
            o->sc[s] = b[g % 8 * 2 + s] & 15;
            o->mn[s] = b[g % 8 * 2 + s] >> 4;
        }
    }
}

/* Q3_K: hmask[32], qs[64], scales[12] (16 six-bit numbers), d. */
static void unpack_q3_k(Q32 *o, const uint8_t *p, int n)
{
    for (int g = 0; g < n; g++, o++) {
        const uint8_t *b = p + (size_t)(g / 8) * 110, *qs = b + 32 + 32 * (g % 8 / 4);
        const uint8_t *scales = b + 96;
        q32_set(o, half_at(b + 108), 0);
        for (int i = 0; i < QB; i++) {
            int high = b[i] >> (g % 8) & 1;
            o->q[i] = (int8_t)((qs[i] >> (2 * (g % 4)) & 3) - (high ? 0 : 4));
        }
        for (int s = 0; s < 2; s++) {
            int k = g % 8 * 2 + s, low = scales[k % 8] >> (4 * (k / 8)) & 15;
            o->sc[s] = (int16_t)((low | (scales[8 + k % 4] >> (2 * (k / 4)) & 3) << 4) - 32);
        }
    }
}

/* The six-bit scale and minimum of group g (0..7) of Q4_K and Q5_K, s = scales[12]. */
static void k_scale_min(Q32 *o, const uint8_t *s, int g)
{
    int sc = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
    int mn = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | (s[g] >> 6) << 4;
    o->sc[0] = o->sc[1] = (int16_t)sc;
    o->mn[0] = o->mn[1] = (int16_t)mn;
}

/* Q4_K: d, dmin, scales[12], qs[128]. */
static void unpack_q4_k(Q32 *o, const uint8_t *p, int n)
{
    for (int g = 0; g < n; g++, o++) {
        const uint8_t *b = p + (size_t)(g / 8) * 144, *qs = b + 16 + 32 * (g % 8 / 2);
        o->d = half_at(b);
        o->dm = -half_at(b + 2);
        k_scale_min(o, b + 4, g % 8);
        for (int i = 0; i < QB; i++) o->q[i] = (int8_t)(qs[i] >> (4 * (g % 2)) & 15);
    }
}

/* Q5_K: d, dmin, scales[12], qh[32], qs[128]. */
static void unpack_q5_k(Q32 *o, const uint8_t *p, int n)
{
    for (int g = 0; g < n; g++, o++) {
        const uint8_t *b = p + (size_t)(g / 8) * 176, *qs = b + 48 + 32 * (g % 8 / 2);
        o->d = half_at(b);
        o->dm = -half_at(b + 2);
        k_scale_min(o, b + 4, g % 8);
        for (int i = 0; i < QB; i++) {
            int high = b[16 + i] >> (g % 8) & 1;
            o->q[i] = (int8_t)((qs[i] >> (4 * (g % 2)) & 15) | high << 4);
        }
    }
}

/* Q6_K: ql[128], qh[64], int8 scales[16], d. */
static void unpack_q6_k(Q32 *o, const uint8_t *p, int n)
{
    for (int g = 0; g < n; g++, o++) {
        const uint8_t *b = p + (size_t)(g / 8) * 210;
        int half = g % 8 / 4, k = g % 4;
        const uint8_t *ql = b + 64 * half + 32 * (k % 2), *qh = b + 128 + 32 * half;
        q32_set(o, half_at(b + 208), 0);
        for (int i = 0; i < QB; i++) {
            int low = ql[i] >> (4 * (k / 2)) & 15;
            o->q[i] = (int8_t)((low | (qh[i] >> (2 * k) & 3) << 4) - 32);
        }
        for (int s = 0; s < 2; s++) o->sc[s] = (int8_t)b[192 + g % 8 * 2 + s];
    }
}

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

static void iq4_lookup(int8_t q[QB], const uint8_t *p)
{
    nibbles(q, p, 0);
    for (int i = 0; i < QB; i++) q[i] = iq4_values[q[i]];
}

static void unpack_iq4_nl(Q32 *o, const uint8_t *p, int n)
{
    for (; n-- > 0; o++, p += 18) {
        q32_set(o, half_at(p), 0);
        iq4_lookup(o->q, p + 2);
    }
}

/* IQ4_XS: d, u16 scales_h, scales_l[4], qs[128]. */
static void unpack_iq4_xs(Q32 *o, const uint8_t *p, int n)
{
    for (int g = 0; g < n; g++, o++) {
        const uint8_t *b = p + (size_t)(g / 8) * 136;
        int k = g % 8, high = (b[2] | b[3] << 8) >> (2 * k) & 3;
        q32_set(o, half_at(b), 0);
        o->sc[0] = o->sc[1] = (int16_t)(((b[4 + k / 2] >> (4 * (k % 2)) & 15) | high << 4) - 32);
        iq4_lookup(o->q, b + 8 + 16 * k);
    }
}

/* Packing, the other direction, as files of llama.cpp have it, bit for bit (ggml-quants.c, the
 * functions quantize_row_*_ref on x86): d is found in float and stored as F16, the integers come
 * from d before that rounding. No value may be NaN or infinite. */

static void half_put(uint8_t *p, float f)
{
    uint16_t h = f32_to_f16(f);
    memcpy(p, &h, sizeof h);
}

/* Least and largest of a block. */
static void block_range(const float *x, float *lo, float *hi)
{
    enum { W = 4 }; /* lanes that the compiler turns into one register */
    float a[W], b[W];
    for (int i = 0; i < W; i++) a[i] = b[i] = x[i];
    for (int j = W; j < QB; j += W)
        for (int i = 0; i < W; i++) {
            a[i] = x[j + i] < a[i] ? x[j + i] : a[i];
            b[i] = x[j + i] > b[i] ? x[j + i] : b[i];
        }
    *lo = a[0];
    *hi = b[0];
    for (int i = 1; i < W; i++) {
        *lo = a[i] < *lo ? a[i] : *lo;
        *hi = b[i] > *hi ? b[i] : *hi;
    }
}

/* 1 / d; 0 where that is no number in range: F16 makes a d below 2.9e-39 0 in any case. */
static float inverse(float d)
{
    float inv = fabsf(d) > 0 ? 1.0f / d : 0;
    return fabsf(inv) <= FLT_MAX ? inv : 0;
}

/* d = max|x| / 127, q = x / d to the nearest, ties away from zero: adding the float below a half
 * and cutting off does that for every |x / d| <= 128. */
static void pack_q8_0(uint8_t *restrict p, const float *restrict x, int n)
{
    for (; n > 0; n -= QB, x += QB, p += 34) {
        float lo, hi;
        block_range(x, &lo, &hi);
        float d = fmaxf(fabsf(lo), fabsf(hi)) / 127.0f, inv = inverse(d);
        half_put(p, d);
        for (int i = 0; i < QB; i++) {
            float v = x[i] * inv;
            p[2 + i] = (uint8_t)(int)(v + (v < 0 ? -0x1.fffffep-2f : 0x1.fffffep-2f));
        }
    }
}

/* The low nibbles of 16 bytes are floor(x * inv + shift) of the first values, the high ones of the
 * last; at most 15. The sum is never negative. */
static void put_nibbles(uint8_t *restrict p, const float *restrict x, float from, float inv,
                        float shift)
{
    int q[QB];
    for (int i = 0; i < QB; i++) {
        float v = (x[i] - from) * inv + shift;
        q[i] = (int)(v < 15.5f ? v : 15.5f);
    }
    for (int i = 0; i < 16; i++) p[i] = (uint8_t)(q[i] | q[i + 16] << 4);
}

/* d = m / -8, m the value of largest size, of several the first: so that it becomes -8 exactly. */
static void pack_q4_0(uint8_t *restrict p, const float *restrict x, int n)
{
    for (; n > 0; n -= QB, x += QB, p += 18) {
        float lo, hi;
        block_range(x, &lo, &hi);
        float m = hi > -lo ? hi : lo;
        for (int i = 0; hi == -lo && hi > 0; i++)
            if (fabsf(x[i]) == hi) {
                m = x[i];
                break;
            }
        if (hi == -lo && hi == 0) m = 0; /* not -0 */
        float d = m / -8.0f, inv = inverse(d);
        half_put(p, d);
        put_nibbles(p + 2, x, 0, inv, fabsf(d) > 0 && inv == 0 ? 0 : 8.5f);
    }
}

/* From m, the least, of several the first, to the largest in 15 steps. */
static void pack_q4_1(uint8_t *restrict p, const float *restrict x, int n)
{
    for (; n > 0; n -= QB, x += QB, p += 20) {
        float lo, hi;
        block_range(x, &lo, &hi);
        float d = (hi - lo) / 15.0f;
        for (int i = QB - 1; lo == 0 && i >= 0; i--) lo = x[i] == 0 ? x[i] : lo; /* of 0 and -0 */
        half_put(p, d);
        half_put(p + 2, lo);
        put_nibbles(p + 4, x, lo, inverse(d), 0.5f);
    }
}

static void pack_f32(uint8_t *restrict p, const float *restrict x, int n)
{
    memcpy(p, x, (size_t)n * sizeof *x);
}

static void pack_f16(uint8_t *restrict p, const float *restrict x, int n)
{
    pack_f16_base((uint16_t *)(void *)p, x, n);
}

/* The upper half of the float, to nearest, ties to even. */
static void pack_bf16(uint8_t *restrict p, const float *restrict x, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        uint16_t h = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
        memcpy(p + 2 * i, &h, sizeof h);
    }
}

static const TensorType tensor_types[T_N_TYPES] = {
    [T_F32] = {"F32", 1, 4, NULL, pack_f32},
    [T_F16] = {"F16", 1, 2, NULL, pack_f16},
    [T_BF16] = {"BF16", 1, 2, NULL, pack_bf16},
    [T_Q4_0] = {"Q4_0", 32, 18, unpack_q4_0, pack_q4_0},
    [T_Q4_1] = {"Q4_1", 32, 20, unpack_q4_1, pack_q4_1},
    [T_Q5_0] = {"Q5_0", 32, 22, unpack_q5_0, NULL},
    [T_Q5_1] = {"Q5_1", 32, 24, unpack_q5_1, NULL},
    [T_Q8_0] = {"Q8_0", 32, 34, unpack_q8_0, pack_q8_0},
    [T_Q2_K] = {"Q2_K", 256, 84, unpack_q2_k, NULL},
    [T_Q3_K] = {"Q3_K", 256, 110, unpack_q3_k, NULL},
    [T_Q4_K] = {"Q4_K", 256, 144, unpack_q4_k, NULL},
    [T_Q5_K] = {"Q5_K", 256, 176, unpack_q5_k, NULL},
    [T_Q6_K] = {"Q6_K", 256, 210, unpack_q6_k, NULL},
    [T_IQ4_NL] = {"IQ4_NL", 32, 18, unpack_iq4_nl, NULL},
    [T_IQ4_XS] = {"IQ4_XS", 256, 136, unpack_iq4_xs, NULL},
};

const TensorType *tensor_type(int type)
{
    return type >= 0 && type < T_N_TYPES && tensor_types[type].block ? &tensor_types[type] : NULL;
}

/* ------------------------------------------------------------ 3 the team
 * `forward` is one parallel region: every thread of the team executes all of it, and the loops
 * written SHARED are handed out piece by piece to whoever comes first. Which thread computes a
 * piece is chance; what it computes is not.
 *
 * Waiting is for pieces, not for threads: one that the system has taken off its processor is missed
 * only if it holds a piece; then the others soon sleep, so that it can be moved to where they ran.
 * (OpenMP's own barrier spins on, and a busy neighbour makes two threads slower than one.)
 *
 * Pitfall: a thread may come to a loop when the others are layers ahead. It finds no piece left,
 * but counts them: their number must not depend on anything that was computed. */

static Worker *me(const State *s)
{
    return &s->worker[omp_get_thread_num()];
}

/* The next piece of a loop of n; -1: none is left, and this thread goes on to the next loop. */
static int piece_take(const State *s, int n)
{
    Worker *w = me(s);
    MUST(w->loop < s->n_loops);
    int i = atomic_fetch_add(&s->loop[w->loop].next, 1);
    if (i < n) return i;
    w->loop++;
    w->due += (uint32_t)n;
    return -1;
}

#ifdef __linux__
enum { FUTEX_WAIT_HERE = 128, FUTEX_WAKE_HERE = 129 }; /* private ones; musl-gcc has no header */
#endif

/* Sleeps until *word is no longer `seen`, or for no reason. */
static void sleep_on(_Atomic uint32_t *word, uint32_t seen)
{
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAIT_HERE, seen, NULL, NULL, 0);
#else
    (void)word, (void)seen;
    sched_yield();
#endif
}

/* One piece is done. */
static void piece_done(const State *s)
{
    atomic_fetch_add(&s->progress->done, 1);
#ifdef __linux__
    if (atomic_load(&s->progress->sleepers))
        syscall(SYS_futex, &s->progress->done, FUTEX_WAKE_HERE, INT_MAX, NULL, NULL, 0);
#endif
}

#define SHARED(i, s, n) for (int i; (i = piece_take(s, n)) >= 0; piece_done(s))

/* The same where one i is little work: a piece is a run of them, some eight for each thread. */
#define SHARED_RUNS(i, s, n)                                                                       \
    for (int run_ = (n) / (8 * (s)->n_threads) + 1, r_;                                            \
         (r_ = piece_take(s, ((n) + run_ - 1) / run_)) >= 0; piece_done(s))                        \
        for (int i = r_ * run_; i < (n) && i < (r_ + 1) * run_; i++)

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Returns when every piece of the loops before it is done. */
static void team_wait(const State *s)
{
    enum { SPINS = 1000 }; /* some 10 to 40 microseconds */
    Progress *p = s->progress;
    uint32_t due = me(s)->due, done;
    for (int spin = 0; (int32_t)((done = atomic_load(&p->done)) - due) < 0; spin++) {
        if (spin < SPINS) {
            pause_briefly();
            continue;
        }
        atomic_fetch_add(&p->sleepers, 1);
        done = atomic_load(&p->done);
        if ((int32_t)(done - due) < 0) sleep_on(&p->done, done);
        atomic_fetch_sub(&p->sleepers, 1);
    }
}

static void team_begin(State *s)
{
    for (size_t i = 0; i < s->n_loops; i++)
        atomic_store_explicit(&s->loop[i].next, 0, memory_order_relaxed);
    atomic_store(&s->progress->done, 0);
    for (int i = 0; i < s->n_threads; i++) s->worker[i].loop = s->worker[i].due = 0;
}

/* The first thread does not leave before the others: OpenMP's barrier is next. */
static void team_end(const State *s)
{
    me(s)->due += (uint32_t)omp_get_num_threads();
    piece_done(s);
    if (omp_get_thread_num() == 0) team_wait(s);
}

/* ------------------------------------------------------------ 4 small maths
 * Functions that wait, or share out a loop, are called by every thread of the team. */

/* nb groups of a quantized row. */
static void unpack(const Kernels *k, int type, Q32 *q, const uint8_t *row, int nb)
{
    (k->unpack[type] ? k->unpack[type] : tensor_types[type].unpack)(q, row, nb);
}

/* Row r of w as floats: in place if it is F32, else unpacked into buf[ne[0]] by way of q. */
static const float *row_floats(const Kernels *k, const Tensor *w, int64_t r, float *buf, Q32 *q)
{
    const uint8_t *row = w->data + (size_t)r * w->row_bytes;
    int n = (int)w->ne[0];
    if (w->type == T_F32) return (const float *)(const void *)row;
    if (w->type == T_F16) {
        k->unpack_f16(buf, (const uint16_t *)(const void *)row, n);
    } else if (w->type == T_BF16) {
        k->unpack_bf16(buf, (const uint16_t *)(const void *)row, n);
    } else {
        unpack(k, w->type, q, row, n / QB);
        k->unpack_q32(buf, q, n / QB);
    }
    return buf;
}

/* Weight rows of one piece of a product of n tokens. Few tokens: about 128 KB of the file, as one
 * stream. Many: as many rows as stay in L2, as floats, while all tokens pass; or as integers. */
#define FEW        4
#define ROWS_STEP  16     /* pieces are a multiple of this many rows */
#define PANEL_MAX  48     /* rows */
#define PANEL_SIZE 147456 /* floats */
#define ROW_PAD    16     /* floats between panel rows, so that they do not meet in one cache set */

static int panel_rows(int cols)
{
    int rows = PANEL_SIZE / (cols + ROW_PAD) / 12 * 12;
    return rows > PANEL_MAX ? PANEL_MAX : rows < 12 ? 12 : rows;
}

static int takes_int8(const State *s, const Tensor *w)
{
    return s->int8 && tensor_types[w->type].unpack;
}

static int piece_rows(const State *s, const Tensor *w, int n)
{
    if (n >= FEW) return takes_int8(s, w) ? PANEL_MAX : panel_rows((int)w->ne[0]);
    size_t rows = (524288 / w->row_bytes + ROWS_STEP - 1) / ROWS_STEP * ROWS_STEP;
    int most = (int)(w->ne[1] / (4 * s->n_threads)) / ROWS_STEP * ROWS_STEP;
    if ((int64_t)rows > most) rows = (size_t)most;
    return rows < ROWS_STEP ? ROWS_STEP : (int)rows;
}

/* n tokens that meet a matrix: x[i * xs ..], and in int8 mode the same as q[i * qs ..]. */
typedef struct {
    const float *x;
    size_t xs;
    const Q8 *q;
    size_t qs;
    int n;
} Input;

/* Rows r0 .. r0 + rows - 1 of y = w x for one token, if there is a kernel for that. */
static int matvec_rows(const State *s, float *y, const Tensor *w, const float *x, const Q8 *xq,
                       int r0, int rows)
{
    const uint8_t *w0 = w->data + (size_t)r0 * w->row_bytes;
    int cols = (int)w->ne[0];
    if (takes_int8(s, w)) {
        if (!s->k->qmatvec[w->type]) return 0;
        s->k->qmatvec[w->type](y + r0, w0, rows, xq, cols / QB);
    } else {
        if (!s->k->matvec[w->type]) return 0;
        s->k->matvec[w->type](y + r0, w0, rows, x, cols);
    }
    return 1;
}

/* At most PANEL_MAX rows by way of Q32. */
static void qmatmul_rows(const State *s, float *y, size_t ys, const Tensor *w, const Input *in,
                         int r0, int rows)
{
    int nb = (int)w->ne[0] / QB;
    Q32 *q = (Q32 *)(void *)me(s)->scratch;
    for (int r = 0; r < rows; r++)
        unpack(s->k, w->type, q + (size_t)r * (size_t)nb, w->data + (size_t)(r0 + r) * w->row_bytes,
               nb);
    s->k->qmatmul(y + r0, ys, q, rows, in->q, in->qs, in->n, nb);
}

/* At most panel_rows rows by way of a panel of floats. */
static void matmul_rows(const State *s, float *y, size_t ys, const Tensor *w, const Input *in,
                        int r0, int rows)
{
    int cols = (int)w->ne[0];
    size_t stride = (size_t)cols + ROW_PAD;
    float *panel = me(s)->scratch;
    Q32 *q = (Q32 *)(void *)(panel + (size_t)panel_rows(cols) * stride);
    for (int r = 0; r < rows; r++) {
        float *to = panel + (size_t)r * stride;
        const float *from = row_floats(s->k, w, r0 + r, to, q);
        if (from != to) memcpy(to, from, (size_t)cols * sizeof *to);
    }
    s->k->matmul(y + r0, ys, panel, stride, rows, in->x, in->xs, in->n, cols);
}

static void matmul_piece(const State *s, float *y, size_t ys, const Tensor *w, const Input *in,
                         int r0, int rows)
{
    int done = 0, most = takes_int8(s, w) ? PANEL_MAX : panel_rows((int)w->ne[0]);
    while (in->n < FEW && done < in->n &&
           matvec_rows(s, y + (size_t)done * ys, w, in->x + (size_t)done * in->xs,
                       in->q + (size_t)done * in->qs, r0, rows))
        done++;
    if (done == in->n) return;
    for (int r = r0; r < r0 + rows; r += most) {
        int part = r0 + rows - r < most ? r0 + rows - r : most;
        if (takes_int8(s, w))
            qmatmul_rows(s, y, ys, w, in, r, part);
        else
            matmul_rows(s, y, ys, w, in, r, part);
    }
}

/* y[i * ys + r] = sum_c w[r][c] x[i * xs + c] + bias[r], i < n. In int8 mode quantized weights
 * meet s->xq, the quantized x. Does not wait for the team. */
static void matmul(const State *s, float *y, size_t ys, const Tensor *w, const float *bias,
                   const float *x, size_t xs, int n)
{
    int all = (int)w->ne[1], step = piece_rows(s, w, n);
    Input in = {x, xs, s->xq, s->xq_stride, n};
    SHARED(piece, s, (all + step - 1) / step)
    {
        int r0 = piece * step, r1 = all - r0 < step ? all : r0 + step;
        matmul_piece(s, y, ys, w, &in, r0, r1 - r0);
        for (int i = 0; bias && i < n; i++)
            for (int r = r0; r < r1; r++) y[(size_t)i * ys + (size_t)r] += bias[r];
    }
}

/* Blocks b0 .. b1-1 of a token's activations to int8, when there are quantized weights to meet. */
static void quantize_row(const State *s, Q8 *q, const float *x, int b0, int b1)
{
    if (s->int8) s->k->quantize(q + b0, x + b0 * QB, b1 - b0);
}

static void quantize_blocks(State *s, const float *x, int i, int b0, int b1)
{
    quantize_row(s, s->xq + (size_t)i * s->xq_stride, x, b0, b1);
}

/* Sum of x[i] y[i], i < n, in canonical lanes. */
static float dot(const State *s, const float *x, const float *y, int n)
{
    float sum;
    s->k->matmul(&sum, 1, x, 0, 1, y, 0, 1, n);
    return sum;
}

/* out = x / sqrt(mean(x^2) + eps) * w, all [n]; w NULL: 1. */
static void rmsnorm(const State *s, float *out, const float *x, const float *w, int n)
{
    float scale = 1.0f / sqrtf(dot(s, x, x, n) / (float)n + s->m->norm_eps);
    for (int c = 0; c < n; c++) out[c] = w ? x[c] * scale * w[c] : x[c] * scale;
}

/* out = (x - mean) / sqrt(mean((x - mean)^2) + eps) * w + b, all [n]; w, b NULL: 1, 0. May be in
 * place. The mean is summed in double, one value after the other. */
static void layernorm(const State *s, float *out, const float *x, const float *w, const float *b,
                      int n)
{
    double mean = 0;
    for (int c = 0; c < n; c++) mean += (double)x[c];
    for (int c = 0; c < n; c++) out[c] = (float)((double)x[c] - mean / n);
    float scale = 1.0f / sqrtf(dot(s, out, out, n) / (float)n + s->m->norm_eps);
    for (int c = 0; c < n; c++) {
        out[c] *= scale;
        if (w) out[c] *= w[c];
        if (b) out[c] += b[c];
    }
}

/* The norm of the architecture. */
static void norm(const State *s, float *out, const float *x, const float *w, const float *b, int n)
{
    if (s->m->arch->norm == NORM_RMS)
        rmsnorm(s, out, x, w, n);
    else
        layernorm(s, out, x, w, b, n);
}

/* Weights of a norm in front of a branch; none: the branch reads the stream itself. */
typedef struct {
    const float *w, *b;
    int none;
} Norm;

/* For each of n tokens: x += add (if any), xb = norm(x), and xb in int8. All [N][E]. */
static void add_norm(State *s, float *x, const float *add, Norm by, int n)
{
    int E = s->m->n_embd;
    SHARED_RUNS(i, s, n)
    {
        float *xi = x + (size_t)i * (size_t)E, *xb = s->xb + (size_t)i * (size_t)E;
        for (int c = 0; add && c < E; c++) xi[c] += add[(size_t)i * (size_t)E + (size_t)c];
        if (by.none)
            memcpy(xb, xi, (size_t)E * sizeof *xb);
        else
            norm(s, xb, xi, by.w, by.b, E);
        quantize_blocks(s, xb, i, 0, E / QB);
    }
    team_wait(s);
}

uint64_t rng_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int max_of(int a, int b)
{
    return a > b ? a : b;
}

/* ------------------------------------------------------------ 5 RoPE
 * Pair j of a head at position pos turns by pos * inv_freq[j]: (a, b) -> (a cos - b sin,
 * a sin + b cos), "RoFormer", arXiv:2104.09864, eq. 15. A kind supplies the frequencies. */

/* inv_freq[j] = base^(-2j / n_rot), divided by the file's divisors if it has any (Llama 3.1+). */
static int plain_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    (void)length, (void)e;
    for (int j = 0; j < r->n_pairs; j++) {
        inv_freq[j] = pow(r->p.base, -2.0 * j / r->p.n_rot);
        if (r->p.divisors) inv_freq[j] /= (double)r->p.divisors[j];
    }
    *amplitude = 1;
    return 0;
}

const RopeKind rope_plain = {
    .name = "plain",
    .formula = "theta_j = base^(-2j/n_rot)",
    .source = "arXiv:2104.09864",
    .summary = "rotary position embedding as in RoFormer: wavelengths in geometric progression",
    .detail = "base: pair j makes a full turn in 2 pi base^(2j/n_rot) tokens. n_rot: values of a "
              "head that turn, the others stay as they are (partial rotary). Scores depend on the "
              "distance of query and key alone.",
    .freqs = plain_freqs,
};

/* clang-format off */
static const RopeKind *const rope_kinds[] = {
    &rope_plain,
    &rope_none,
    &rope_linear,
    &rope_ntk,
    &rope_dynamic,
    &rope_by_parts,
    &rope_yarn,
    &rope_llama3,
    &rope_longrope,
    &rope_partial,
    &rope_proportional,
    &rope_p_rope,
    &rope_rope_id,
    &rope_fope_clip,
    &rope_fope,
    &rope_local,
    &rope_nope_layers,
    &rope_continuous,
    &rope_alibi,
    &rope_xpos,
    &rope_hope,
    &rope_pp,
    &rope_selective,
    &rope_comrope,
    &rope_lie,
    &rope_path,
};
/* clang-format on */
#define N_ROPE_KINDS ((int)(sizeof rope_kinds / sizeof *rope_kinds))

const RopeKind *rope_at(int i)
{
    const RopeKind *k = i >= 0 && i < N_ROPE_KINDS ? rope_kinds[i] : NULL;
    if (k) MUST(k->name && k->formula && k->source && k->summary && k->detail && k->freqs);
    return k;
}

const RopeKind *rope_find(const char *name)
{
    for (int i = 0; i < N_ROPE_KINDS; i++)
        if (strcmp(rope_kinds[i]->name, name) == 0) return rope_kinds[i];
    return NULL;
}

/* The file of weights that --rope names; the layers of a model share it. */
typedef struct {
    Gguf g;
    uint8_t *used; /* [n_tensors]: taken by some layer; NULL: the file is not open */
} OwnFile;

/* Where a kind's tensors are looked for. */
struct RopeSource {
    const Gguf *g;
    uint8_t *used;        /* [n_tensors of g] or NULL: set to 1 where one is taken */
    const RopeList *list; /* [2] or NULL: in their place */
    OwnFile *own;         /* opened when a layer asks for it; NULL: for one layer alone */
    int taken;            /* tensors */
};

static int own_open(OwnFile *f, const char *path, Err *e)
{
    if (f->used) return 0;
    if (gguf_open(&f->g, path, e)) return -1;
    f->used = xcalloc(f->g.n_tensors + 1, 1);
    return 0;
}

static void own_close(OwnFile *f)
{
    if (f->used) gguf_close(&f->g);
    free(f->used);
    f->used = NULL;
}

/* What is wrong with tensors that were read is said with the name of their file in front. */
static int load_named(Rope *r, RopeSource *s, Err *e)
{
    Err why = {.usage = 0};
    if (r->kind->load(r, s, &why) == 0) return 0;
    if (why.usage || !s->g || !(s->taken || r->file) || strstr(why.msg, s->g->path) == why.msg)
        *e = why;
    else
        err_set(e, "%s: %.800s", s->g->path, why.msg);
    return -1;
}

static int rope_load(Rope *r, RopeSource *s, Err *e)
{
    OwnFile once = {.used = NULL}, *own = s && s->own ? s->own : &once;
    RopeSource nowhere = {.g = NULL};
    if (!r->kind->load) return 0;
    if (!r->file || r->kind->own_file) return load_named(r, s ? s : &nowhere, e);
    if (own_open(own, r->file, e)) return -1;
    MUST(strcmp(own->g.path, r->file) == 0);
    RopeSource from = {.g = &own->g, .used = own->used};
    int rc = load_named(r, &from, e);
    own_close(&once);
    return rc;
}

/* Do the frequencies of key heads differ, by more than the last places of a double? */
static int heads_differ(const Rope *r)
{
    size_t P = (size_t)r->n_pairs;
    for (size_t i = P; i < (size_t)r->sets * P; i++)
        if (!(fabs(r->inv_freq[i] - r->inv_freq[i % P]) <= 1e-12)) return 1;
    return 0;
}

/* What a kind must not make of its numbers, whatever they are. */
static int refuse_freqs(const Rope *r, Err *e)
{
    for (int i = 0; i < r->sets * r->n_pairs; i++)
        if (!(r->inv_freq[i] >= 0 && isfinite(r->inv_freq[i])))
            return err_set(e,
                           "rope %s: pair %d: expected a frequency of 0 or above, found %g radians "
                           "per token",
                           r->kind->name, i % r->n_pairs, r->inv_freq[i]);
    if (isfinite(r->amplitude)) return 0;
    return err_set(e, "rope %s: expected a finite amplitude, found %g", r->kind->name,
                   r->amplitude);
}

static int rope_make(Rope *r, RopeSource *s, Err *e)
{
    if (r->kind->params && r->kind->params(&r->p, e)) return -1;
    if (r->p.n_rot < 0 || r->p.n_rot > r->p.head_dim || r->p.n_rot % 2)
        return err_set(e,
                       "rope %s: n_rot: expected an even number up to the %d values of a head, "
                       "found %d",
                       r->kind->name, r->p.head_dim, r->p.n_rot);
    r->n_pairs = r->p.n_rot / 2;
    r->sets = r->kind->per_head ? r->p.n_kv_heads : 1;
    r->inv_freq = xcalloc((size_t)r->sets * (size_t)r->n_pairs + 1, sizeof *r->inv_freq);
    if (rope_load(r, s, e)) return -1;
    int length = r->kind->length ? r->kind->length(r, 0) : 0;
    if (r->kind->freqs(r, length, r->inv_freq, &r->amplitude, e) || refuse_freqs(r, e)) return -1;
    r->uneven = r->kind->angles ? ROPE_READ : heads_differ(r) ? ROPE_HEADS : ROPE_EVEN;
    return 0;
}

int rope_new(Rope *r, const RopeKind *kind, const RopeParams *p, int layout, RopeSource *s, Err *e)
{
    *r = (Rope){.kind = kind, .p = *p, .layout = layout};
    if (p->file) { /* it may stand in the midst of a text */
        size_t n = strcspn(p->file, ",");
        r->file = xcalloc(n + 1, 1);
        memcpy(r->file, p->file, n);
    }
    r->p.file = r->file;
    if (rope_make(r, s, e) == 0) return 0;
    rope_free(r);
    return -1;
}

void rope_free(Rope *r)
{
    for (int i = 0; i < ROPE_WEIGHTS; i++) free(r->w[i]);
    free(r->file);
    free(r->positions);
    free(r->inv_freq);
    *r = (Rope){0};
}

void rope_pair(const Rope *r, int j, int *a, int *b)
{
    MUST(j >= 0 && j < r->n_pairs);
    *a = 2 * j;
    *b = 2 * j + 1;
}

/* Values of a head that lie in two halves, where they do. */
static int split_values(const Rope *r)
{
    return r->p.n_split ? r->p.n_split : r->p.n_rot;
}

static int half_row(int c, int n_split)
{
    return c < n_split ? c / 2 + c % 2 * (n_split / 2) : c;
}

int rope_row(const Rope *r, int c)
{
    return r->layout == ROPE_HALF ? half_row(c, split_values(r)) : c;
}

int rope_hf_row(const Rope *r, int c)
{
    return half_row(c, split_values(r));
}

/* The frequencies of one set. */
static void keep_highest(double *inv_freq, int P, int n_keep)
{
    double *was = xcalloc((size_t)P + 1, sizeof *was);
    memcpy(was, inv_freq, (size_t)P * sizeof *was);
    for (int j = 0; j < P; j++) {
        int n_higher = 0; /* pairs before j in the order of falling frequency */
        for (int i = 0; i < P; i++) n_higher += was[i] > was[j] || (i < j && !(was[i] < was[j]));
        if (n_higher >= n_keep) inv_freq[j] = 0;
    }
    free(was);
}

void rope_keep(Rope *r, double keep)
{
    /* 0.29 * 100 is a little less than 29 in double: not a pair less for that. */
    int n_keep = (int)floor(keep * r->n_pairs + 1e-9);
    for (int i = 0; i < r->sets || i < 1; i++)
        keep_highest(r->inv_freq + (size_t)i * (size_t)r->n_pairs, r->n_pairs, n_keep);
}

/* Does each layer that has this encoding need a table of its own, made when its turn comes? */
static int of_one_layer(const Rope *r)
{
    return r->sets > 1 || r->kind->angles != NULL;
}

static int rope_tables(const Rope *r)
{
    int parts = r->kind->parts > 1 ? r->kind->parts : 1;
    int heads = r->kind->angles ? r->p.n_kv_heads : r->sets;
    return parts * heads;
}

/* The number of the table with the angles of part (ROPE_K ...) of key head kh. */
static int table_of(const Rope *r, int part, int kh)
{
    int parts = r->kind->parts > 1 ? r->kind->parts : 1;
    int head = r->sets > 1 || r->kind->angles ? kh : 0;
    return r->table + head * parts + (part < parts ? part : parts - 1);
}

double rope_position(const Rope *r, int t)
{
    return r->kind->position ? r->kind->position(r, t) : r->p.pos_shift + r->p.pos_scale * t;
}

/* One row of a table: cos[P] and sin[P]. Angles in double, rounded once: in float they would be off
 * by 5e-4 at position 8k. */
static void angle_row(const RopeAt *at, double amplitude, float *cs, float *sn)
{
    int P = at->r->n_pairs;
    double c[MAX_PAIRS], s[MAX_PAIRS];
    if (at->r->kind->turn) {
        at->r->kind->turn(at, c, s);
    } else {
        for (int j = 0; j < P; j++) {
            c[j] = cos(at->p * at->inv_freq[j]);
            s[j] = sin(at->p * at->inv_freq[j]);
        }
    }
    for (int j = 0; j < P; j++) {
        cs[j] = (float)(c[j] * amplitude);
        sn[j] = (float)(s[j] * amplitude);
    }
}

/* Turns the pairs of one head x[D] in place by cs[P], sn[P]; values past n_rot stay. */
static void rotate(const Rope *r, float *x, const float *cs, const float *sn)
{
    for (int j = 0; j < r->n_pairs; j++) {
        float a = x[2 * j], b = x[2 * j + 1];
        x[2 * j] = a * cs[j] - b * sn[j];
        x[2 * j + 1] = a * sn[j] + b * cs[j];
    }
}

static void scale_values(float *x, int n, double by)
{
    for (int c = 0; c < n; c++) x[c] = (float)((double)x[c] * by);
}

void rope_turn(const Rope *r, int part, int kh, float *x, int pos, const float *angles)
{
    if (r->kind->mix) r->kind->mix(r, kh, x);
    rotate(r, x, angles, angles + r->n_pairs);
    if (part != ROPE_K && r->kind->q_scale)
        scale_values(x, r->p.head_dim, r->kind->q_scale(r, pos));
}

void rope_apply_at(const RopeAt *at, float *x, int pos, float *angles)
{
    angle_row(at, at->r->amplitude, angles, angles + at->r->n_pairs);
    rope_turn(at->r, at->part, at->kh, x, pos, angles);
}

void rope_apply(const Rope *r, int part, int kh, float *x, int pos, float *angles)
{
    size_t set = r->sets > 1 ? (size_t)kh : 0;
    RopeAt at = {.r = r,
                 .inv_freq = r->inv_freq + set * (size_t)r->n_pairs,
                 .part = part,
                 .kh = kh,
                 .length = r->kind->length ? r->kind->length(r, pos) : 0,
                 .p = rope_position(r, pos)};
    rope_apply_at(&at, x, pos, angles);
}

/* The angles of token i of the batch in table `table` of a State. */
static void table_row(const State *s, const RopeAt *of, int i, int table)
{
    RopeAt at = *of;
    const RopeNow *now = &s->now[at.r - s->m->rope];
    size_t P = (size_t)at.r->n_pairs;
    size_t row = ((size_t)table * (size_t)s->n_batch + (size_t)i) * (size_t)s->max_pairs;
    at.inv_freq = now->inv_freq + (at.r->sets > 1 ? (size_t)at.kh * P : 0);
    at.length = now->length;
    angle_row(&at, now->amplitude, s->cos + row, s->sin + row);
}

/* Rows of all tables of r for key head kh: n tokens from position pos on. */
static void head_tables(const State *s, const Rope *r, int kh, int pos, int n)
{
    int parts = r->kind->parts > 1 ? r->kind->parts : 1;
    for (int i = 0; i < n; i++)
        for (int part = 0; part < parts; part++) {
            RopeAt at = {.r = r, .part = part, .kh = kh, .p = rope_position(r, pos + i)};
            table_row(s, &at, i, table_of(r, part, kh));
        }
}

/* The tables that layers share, for n tokens from position pos on. */
static void shared_tables(const State *s, int pos, int n)
{
    SHARED(task, s, s->m->n_ropes)
    {
        const Rope *r = &s->m->rope[task];
        if (!of_one_layer(r)) head_tables(s, r, 0, pos, n);
    }
}

/* What one encoding of layer l sees of key head kh. */
static RopeCall rope_call(const State *s, int l, int kh, int n)
{
    size_t K = (size_t)s->m->max_kv_heads, head = (size_t)l * K + (size_t)kh;
    const Layer *ly = &s->m->layer[l];
    return (RopeCall){
        .r = &s->m->rope[ly->rope],
        .k = s->k,
        .pos = s->pos,
        .n = n,
        .x = s->xb,
        .work = s->rope_work + (size_t)kh * (size_t)s->n_batch * s->work_stride,
        .memory = s->rope_memory + head * s->memory_stride,
        .history = s->rope_history + head * (size_t)s->n_ctx * s->history_stride,
    };
}

/* Angles that the kind finds in the hidden state, into the tables of key head kh. */
static void angle_tables(const State *s, const RopeCall *c, int kh)
{
    const Rope *r = c->r;
    size_t P = (size_t)r->n_pairs, N = (size_t)s->n_batch;
    double *angle = s->rope_angles + (size_t)kh * N * (size_t)s->max_pairs;
    r->kind->angles(c, kh, angle);
    for (int i = 0; i < c->n; i++) {
        size_t row = ((size_t)table_of(r, 0, kh) * N + (size_t)i) * (size_t)s->max_pairs;
        for (size_t j = 0; j < P; j++) {
            s->cos[row + j] = (float)(cos(angle[(size_t)i * P + j]) * r->amplitude);
            s->sin[row + j] = (float)(sin(angle[(size_t)i * P + j]) * r->amplitude);
        }
    }
}

/* What the encoding of layer l needs before its heads are turned. */
static void layer_tables(const State *s, int l, int n)
{
    const Rope *r = &s->m->rope[s->m->layer[l].rope];
    if (!of_one_layer(r) && !r->kind->observe) return;
    SHARED(kh, s, s->m->layer[l].n_kv_heads)
    {
        RopeCall c = rope_call(s, l, kh, n);
        if (r->kind->observe) r->kind->observe(&c, kh);
        if (r->kind->angles)
            angle_tables(s, &c, kh);
        else if (r->sets > 1)
            head_tables(s, r, kh, s->pos, n);
    }
    team_wait(s);
}

/* ------------------------------------------------------------ 6 attention */

/* Value c of key (or value) t of kv head kh of layer l in a cache of [n_ctx][D] per head. */
static size_t cache_at(const State *s, int l, int kh, int t)
{
    size_t head = (size_t)l * (size_t)s->m->max_kv_heads + (size_t)kh;
    return (head * (size_t)s->n_ctx + (size_t)t) * (size_t)s->m->head_dim;
}

static void cache_put(const State *s, uint8_t *cache, size_t at, const float *x)
{
    size_t D = (size_t)s->m->head_dim;
    if (s->kv_type == T_F16)
        s->k->pack_f16((uint16_t *)(void *)cache + at, x, (int)D);
    else
        memcpy((float *)(void *)cache + at, x, D * sizeof *x);
}

/* n rows of a cache as floats [n][D]: in place, or unpacked into buf. */
static const float *cache_get(const State *s, const uint8_t *cache, size_t at, int n, float *buf)
{
    if (s->kv_type == T_F32) return (const float *)(const void *)cache + at;
    s->k->unpack_f16(buf, (const uint16_t *)(const void *)cache + at, n * s->m->head_dim);
    return buf;
}

/* Turns one head of n tokens (x[i * stride], i < n) as row i of its table says. */
static void rotate_head(const State *s, const Rope *r, int part, int kh, float *x, size_t stride,
                        int n)
{
    size_t row = (size_t)table_of(r, part, kh) * (size_t)s->n_batch * (size_t)s->max_pairs;
    for (int i = 0; i < n; i++, x += stride, row += (size_t)s->max_pairs)
        rotate(r, x, s->cos + row, s->sin + row);
}

static void mix_head(const Rope *r, int kh, float *x, size_t stride, int n)
{
    for (int i = 0; r->kind->mix && i < n; i++) r->kind->mix(r, kh, x + (size_t)i * stride);
}

/* Replaces values of one head of n tokens (x[i * stride], i < n) as the edit says. */
static void edit_head(const HeadEdit *e, float *x, size_t stride, int n)
{
    for (int i = 0; i < n; i++)
        for (int r = 0; r < e->n; r++)
            x[(size_t)i * stride + (size_t)e->patch[r].c] = e->patch[r].v;
}

/* Attention head h of n tokens as it was projected, in its place. */
static float *projected(const State *s, const Layer *ly, int h, int n)
{
    size_t D = (size_t)s->m->head_dim, stride = (size_t)ly->n_heads * D;
    float *q = s->q + (size_t)h * D;
    if (ly->n_q_heads == ly->n_heads) return q;
    size_t from = (size_t)(h / (ly->n_heads / ly->n_q_heads)) * D, step = (size_t)ly->n_q_heads * D;
    for (size_t i = 0; i < (size_t)n; i++)
        memcpy(q + i * stride, s->att_out + i * step + from, D * sizeof *q);
    return q;
}

static void query_head(const State *s, int l, int h, int n)
{
    const Layer *ly = &s->m->layer[l];
    const Rope *r = &s->m->rope[ly->rope];
    size_t D = (size_t)s->m->head_dim, stride = (size_t)ly->n_heads * D;
    float *q = projected(s, ly, h, n);
    mix_head(r, h / (ly->n_heads / ly->n_kv_heads), q, stride, n);
    const Probe *p = s->probe && s->probe->want & PROBE_QK ? s->probe : NULL;
    if (p) p->q(p->ctx, l, h, BEFORE_ROPE, s->pos, n, q, stride);
    int part = r->kind->part ? r->kind->part(r, h) : ROPE_Q;
    rotate_head(s, r, part, h / (ly->n_heads / ly->n_kv_heads), q, stride, n);
    for (int i = 0; r->kind->q_scale && i < n; i++)
        scale_values(q + (size_t)i * stride, (int)D, r->kind->q_scale(r, s->pos + i));
    if (p) p->q(p->ctx, l, h, AFTER_ROPE, s->pos, n, q, stride);
    if (s->edit) edit_head(&s->edit->q[l * s->m->max_heads + h], q, stride, n);
}

/* Key head kh of n tokens, as computed (and mixed), turned as the rows of its table say and cached
 * from position pos on. */
static void cache_keys(const State *s, int l, int kh, float *k, size_t stride, int pos, int n)
{
    rotate_head(s, &s->m->rope[s->m->layer[l].rope], ROPE_K, kh, k, stride, n);
    const Probe *p = s->probe && s->probe->want & PROBE_QK && pos == s->pos ? s->probe : NULL;
    if (p) p->k(p->ctx, l, kh, AFTER_ROPE, pos, n, k, stride);
    if (s->edit) edit_head(&s->edit->k[l * s->m->max_kv_heads + kh], k, stride, n);
    for (int i = 0; i < n; i++)
        cache_put(s, s->k_cache, cache_at(s, l, kh, pos + i), k + (size_t)i * stride);
}

/* Rotates key head kh of the batch and stores it and its value head in the cache. */
static void key_value_head(const State *s, int l, int kh, int n)
{
    const Layer *ly = &s->m->layer[l];
    size_t D = (size_t)s->m->head_dim, stride = (size_t)ly->n_kv_heads * D;
    float *k = s->kx + (size_t)kh * D, *v = s->v + (size_t)kh * D;
    mix_head(&s->m->rope[ly->rope], kh, k, stride, n);
    const Probe *p = s->probe && s->probe->want & PROBE_QK ? s->probe : NULL;
    if (p) p->k(p->ctx, l, kh, BEFORE_ROPE, s->pos, n, k, stride);
    for (int i = 0; s->raw_keys && i < n; i++)
        memcpy(s->raw_keys + cache_at(s, l, kh, s->pos + i), k + (size_t)i * stride, D * sizeof *k);
    cache_keys(s, l, kh, k, stride, s->pos, n);
    for (int i = 0; i < n; i++)
        cache_put(s, s->v_cache, cache_at(s, l, kh, s->pos + i), v + (size_t)i * stride);
}

/* Shares out the heads of the batch: queries rotated, keys rotated and cached, values cached. */
static void rotate_and_cache(const State *s, int l, int n)
{
    int H = s->m->layer[l].n_heads, K = s->m->layer[l].n_kv_heads;
    SHARED(h, s, H + K)
    {
        if (h < H)
            query_head(s, l, h, n);
        else
            key_value_head(s, l, h - H, n);
    }
    team_wait(s);
}

/* First key that the query at pos can see. */
static int first_key(const Layer *ly, int pos)
{
    return ly->window && pos >= ly->window ? pos - ly->window + 1 : 0;
}

#define SCORE_ROWS 16 /* queries that share one pass over keys and values */

/* Score rows computed together: either `rows` tokens of one head, from token i on (step 1), or that
 * many heads of one token, from head h on, which read the same keys (step 0). */
typedef struct {
    int l, h, kh, i, rows, step;
    int t0; /* first key that any of them sees; row 0 sees n_t from there on */
    int n_t;
    float *q, *out; /* of row 0 */
    size_t stride;  /* from row to row of q and out */
    float *score;   /* [rows][n_ctx], from key t0 on */
    float *shown;   /* the same, for the probe: what score held before softmax */
    float *buf;     /* [SUM_SEG][D] */
} Attend;

static Attend attend_rows(const State *s, int l, int h, int i, int rows, int step)
{
    const Layer *ly = &s->m->layer[l];
    size_t D = (size_t)s->m->head_dim, Q = (size_t)ly->n_heads * D;
    size_t at = (size_t)i * Q + (size_t)h * D, block = SCORE_ROWS * (size_t)s->n_ctx;
    int t0 = first_key(ly, s->pos + i);
    float *scratch = me(s)->scratch;
    return (Attend){.l = l,
                    .h = h,
                    .kh = h / (ly->n_heads / ly->n_kv_heads),
                    .i = i,
                    .rows = rows,
                    .step = step,
                    .t0 = t0,
                    .n_t = s->pos + i + 1 - t0,
                    .q = s->q + at,
                    .out = s->att_out + at,
                    .stride = step ? Q : D,
                    .score = scratch,
                    .shown = scratch + block,
                    .buf = scratch + 2 * block};
}

/* score[r][t - t0] = q_r . k_t, in segments of keys that stay in the cache while all rows pass. */
static void attend_scores(const State *s, const Attend *a)
{
    int D = s->m->head_dim, n_t = a->n_t + (a->rows - 1) * a->step;
    size_t T = (size_t)s->n_ctx;
    for (int t = 0; t < n_t; t += SUM_SEG) {
        int n = n_t - t < SUM_SEG ? n_t - t : SUM_SEG;
        size_t at = cache_at(s, a->l, a->kh, a->t0 + t);
        const float *k = cache_get(s, s->k_cache, at, n, a->buf);
        s->k->matmul(a->score + t, T, k, (size_t)D, n, a->q, a->stride, a->rows, D);
    }
}

/* Row r: the key it begins with, counted from t0, and its length. */
static int row_begin(const State *s, const Attend *a, int r)
{
    return first_key(&s->m->layer[a->l], s->pos + a->i + r * a->step) - a->t0;
}

static int row_length(const State *s, const Attend *a, int r)
{
    return a->n_t + r * a->step - row_begin(s, a, r);
}

/* cap tanh(x / cap): nearly x where |x| is small, never beyond cap. */
static void soft_cap(float *x, size_t n, double cap)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)(cap * tanh((double)x[i] / cap));
}

/* What the encoding of the layer adds to the scaled scores of row r, from what it has seen. */
static void fade_row(const State *s, const Attend *a, int r, float *row)
{
    int h = a->h + (a->step ? 0 : r), i = a->i + r * a->step;
    RopeCall c = rope_call(s, a->l, a->kh, i + 1);
    c.r->kind->fade(&c, h, s->pos + i, a->t0 + row_begin(s, a, r), row_length(s, a, r), row);
}

/* Scaled scores become weights. Two passes, so that a normalised row exists for the probe. */
static void attend_weights(const State *s, const Attend *a, int r, int shown)
{
    size_t at = (size_t)r * (size_t)s->n_ctx + (size_t)row_begin(s, a, r);
    int n_t = row_length(s, a, r);
    float *row = a->score + at;
    const Rope *rope = &s->m->rope[s->m->layer[a->l].rope];
    for (int t = 0; t < n_t; t++) row[t] *= s->m->score_scale;
    if (s->m->attn_cap > 0) soft_cap(row, (size_t)n_t, s->m->attn_cap);
    if (rope->kind->bias)
        rope->kind->bias(rope, a->h + (a->step ? 0 : r), s->pos + a->i + r * a->step,
                         a->t0 + row_begin(s, a, r), n_t, row);
    if (rope->kind->fade) fade_row(s, a, r, row);
    if (shown) memcpy(a->shown + at, row, (size_t)n_t * sizeof *row);
    s->k->softmax(row, n_t);
}

/* out_r = sum_t weight_rt v_t for rows r0 .. r1-1, which begin with the same key, in segments. */
static void attend_values(const State *s, const Attend *a, int r0, int r1)
{
    int D = s->m->head_dim, begin = row_begin(s, a, r0), n_t = row_length(s, a, r0);
    int longest = n_t + (r1 - 1 - r0) * a->step;
    size_t T = (size_t)s->n_ctx;
    const float *weight = a->score + (size_t)r0 * T + begin;
    for (int t = 0; t < longest; t += SUM_SEG) {
        int n = longest - t < SUM_SEG ? longest - t : SUM_SEG;
        size_t at = cache_at(s, a->l, a->kh, a->t0 + begin + t);
        const float *v = cache_get(s, s->v_cache, at, n, a->buf);
        s->k->weighted_sum(a->out + (size_t)r0 * a->stride, a->stride, weight + t, T, r1 - r0, v,
                           (size_t)D, n_t - t, a->step, D, t > 0);
    }
}

/* Row r to the probe. */
static void show_row(const State *s, const Attend *a, int r)
{
    int begin = row_begin(s, a, r), i = a->i + r * a->step;
    size_t at = (size_t)r * (size_t)s->n_ctx + (size_t)begin, D = (size_t)s->m->head_dim;
    size_t key = (size_t)i * (size_t)s->m->layer[a->l].n_kv_heads + (size_t)a->kh;
    AttnRow row = {.l = a->l,
                   .h = a->h + (a->step ? 0 : r),
                   .kh = a->kh,
                   .pos = s->pos + i,
                   .t0 = a->t0 + begin,
                   .n_t = row_length(s, a, r),
                   .q = a->q + (size_t)r * a->stride,
                   .k = s->kx + key * D,
                   .scores = a->shown + at,
                   .weights = a->score + at,
                   .out = a->out + (size_t)r * a->stride};
    s->probe->attn(s->probe->ctx, &row);
}

static void attend(const State *s, const Attend *a)
{
    const Probe *p = s->probe && s->probe->want & PROBE_ATTN ? s->probe : NULL;
    attend_scores(s, a);
    for (int r = 0; r < a->rows; r++) attend_weights(s, a, r, p != NULL);
    for (int r0 = 0, r1; r0 < a->rows; r0 = r1) {
        for (r1 = r0 + 1; r1 < a->rows && row_begin(s, a, r1) == row_begin(s, a, r0);) r1++;
        attend_values(s, a, r0, r1);
    }
    for (int r = 0; p && r < a->rows; r++) show_row(s, a, r);
}

/* Token i of the batch: query heads h0 .. h1-1 of one group together, so that each key and value is
 * read once. */
static void attend_group(const State *s, int l, int i, int h0, int h1)
{
    for (int h = h0; h < h1; h += SCORE_ROWS) {
        Attend a = attend_rows(s, l, h, i, h1 - h < SCORE_ROWS ? h1 - h : SCORE_ROWS, 0);
        attend(s, &a);
    }
}

/* One token: whole groups; smaller parts of them where there are fewer groups than threads could
 * share out evenly. */
static void attention_token(const State *s, int l)
{
    const Layer *ly = &s->m->layer[l];
    int K = ly->n_kv_heads, G = ly->n_heads / K, parts = 1;
    while (parts < G && (K * parts < 2 * s->n_threads || G > parts * SCORE_ROWS)) parts++;
    int rows = (G + parts - 1) / parts;
    SHARED(task, s, K * parts)
    {
        int h0 = task % parts * rows, h1 = h0 + rows < G ? h0 + rows : G;
        attend_group(s, l, 0, task / parts * G + h0, task / parts * G + h1);
    }
}

/* An encoding that changes keys in the cache: token after token, a key head at a time. */
static void attention_updated(const State *s, int l, int n)
{
    const Layer *ly = &s->m->layer[l];
    int G = ly->n_heads / ly->n_kv_heads;
    SHARED(kh, s, ly->n_kv_heads)
    {
        RopeCall c = rope_call(s, l, kh, n);
        float *key = (float *)(void *)s->k_cache + cache_at(s, l, kh, 0);
        for (int i = 0; i < n; i++) {
            c.r->kind->update(&c, kh, i, key, s->pos + i);
            attend_group(s, l, i, kh * G, (kh + 1) * G);
        }
    }
}

/* att_out[i][h] for the whole batch. A probe sees the positions of a head in order: then a head is
 * one piece of work; without one, so is each block of queries, the long ones first. */
static void attention(const State *s, int l, int n)
{
    int H = s->m->layer[l].n_heads, blocks = (n + SCORE_ROWS - 1) / SCORE_ROWS;
    int runs = s->probe && s->probe->want & PROBE_ATTN ? 1 : blocks;
    if (s->m->rope[s->m->layer[l].rope].kind->update) {
        attention_updated(s, l, n);
        return;
    }
    if (n == 1) {
        attention_token(s, l);
        return;
    }
    SHARED(task, s, H * runs)
    {
        int last = runs == 1 ? blocks : runs - task / H;
        for (int b = runs == 1 ? 0 : last - 1; b < last; b++) {
            int i = b * SCORE_ROWS, rows = n - i < SCORE_ROWS ? n - i : SCORE_ROWS;
            Attend a = attend_rows(s, l, task % H, i, rows, 1);
            attend(s, &a);
        }
    }
}

/* ------------------------------------------------------------ 7 forward */

/* n rows of ff_up[F] = act(ff_gate) * ff_up, and in int8, rows of q[qs]; shared out in pieces of
 * FF_PIECE values. */
static void activate(State *s, int gated, int F, int n, Q8 *q, size_t qs)
{
    enum { FF_PIECE = 1024 };
    int pieces = (F + FF_PIECE - 1) / FF_PIECE;
    SHARED_RUNS(task, s, n * pieces)
    {
        int i = task / pieces, c0 = task % pieces * FF_PIECE;
        int c1 = c0 + FF_PIECE < F ? c0 + FF_PIECE : F;
        size_t at = (size_t)i * (size_t)F;
        s->k->activate(s->m->arch->act, s->ff_up + at + c0, gated ? s->ff_gate + at + c0 : NULL,
                       c1 - c0);
        quantize_row(s, q + (size_t)i * qs, s->ff_up + at, c0 / QB, c1 / QB);
    }
    team_wait(s);
}

static void quantize_rows(State *s, const float *x, int cols, int n)
{
    if (!s->int8) return;
    SHARED_RUNS(i, s, n) quantize_blocks(s, x + (size_t)i * (size_t)cols, i, 0, cols / QB);
    team_wait(s);
}

static void embed(State *s, const int *tok, int n)
{
    const Tensor *w = s->m->tok_embd;
    size_t E = (size_t)s->m->n_embd;
    SHARED_RUNS(i, s, n)
    {
        float *buf = me(s)->scratch;
        Q32 *q = (Q32 *)(void *)(buf + E);
        const float *row = row_floats(s->k, w, tok[i], buf, q);
        float scale = (float)s->m->embd_scale, *x = s->x + (size_t)i * E;
        for (size_t c = 0; c < E; c++) x[c] = row[c] * scale;
    }
    team_wait(s);
}

/* Where the output matrix has no columns for the copies of a query head: att_out[i][projected head]
 * = sum over its copies of fold[copy] times their output. */
static void fold_copies(const State *s, int l, int n)
{
    const Layer *ly = &s->m->layer[l];
    const RopeParams *p = &s->m->rope[ly->rope].p;
    size_t D = (size_t)s->m->head_dim, O = (size_t)ly->wo->ne[0], H = (size_t)ly->n_heads;
    if (O == H * D) return;
    SHARED(once, s, 1)
    for (size_t i = 0; i < (size_t)n; i++)
        for (size_t h = 0; h < O / D; h++)
            for (size_t c = 0; c < D; c++) {
                const float *from = s->att_out + (i * H + 2 * h) * D + c;
                s->att_out[i * O + h * D + c] =
                    (float)p->fold[0] * from[0] + (float)p->fold[1] * from[D];
            }
    team_wait(s);
}

/* x[heads][D]: pairs that lie in two halves, as their rows do in the file, become adjacent. */
static void join_halves(const Rope *r, float *x, int heads)
{
    int n = split_values(r), D = r->p.head_dim;
    float first[MAX_PAIRS];
    for (int h = 0; h < heads; h++, x += D) {
        memcpy(first, x, (size_t)n / 2 * sizeof *x);
        for (int j = 0; j < n / 2; j++) {
            x[2 * j] = first[j]; /* 2 j < j + n / 2: what is still to be read lies behind */
            x[2 * j + 1] = x[j + n / 2];
        }
    }
}

/* x[heads][D] normed as the layer norms its queries or keys, with weights w. */
static void norm_heads(const State *s, const Layer *ly, float *x, const float *w, int heads)
{
    int D = s->m->head_dim, n = ly->qk_norm == QK_ALL ? heads * D : D;
    for (int at = 0; at < heads * D; at += n)
        norm(s, x + at, x + at, ly->qk_norm == QK_OWN ? w + at : w, NULL, n);
}

static void clamp(float *x, size_t n, double most)
{
    for (size_t c = 0; c < n; c++)
        x[c] = x[c] > (float)most ? (float)most : x[c] < -(float)most ? -(float)most : x[c];
}

/* Queries, keys and values of n tokens as the architecture wants them before rotation: pairs
 * adjacent; clamped; queries and keys normed, head by head or all heads of a token together. */
static void settle_heads(const State *s, const Layer *ly, int n)
{
    size_t D = (size_t)s->m->head_dim, Q = (size_t)ly->n_q_heads * D;
    size_t KV = (size_t)ly->n_kv_heads * D;
    const Rope *r = &s->m->rope[ly->rope];
    int split = r->layout == ROPE_HALF;
    if (!split && !ly->qk_norm && s->m->clamp <= 0) return;
    SHARED_RUNS(i, s, n)
    {
        size_t at = (size_t)i;
        float *q = (ly->n_q_heads == ly->n_heads ? s->q : s->att_out) + at * Q,
              *k = s->kx + at * KV;
        if (split) {
            join_halves(r, q, ly->n_q_heads);
            join_halves(r, k, ly->n_kv_heads);
        }
        if (s->m->clamp > 0) {
            clamp(q, Q, s->m->clamp);
            clamp(k, KV, s->m->clamp);
            clamp(s->v + at * KV, KV, s->m->clamp);
        }
        if (!ly->qk_norm) continue;
        norm_heads(s, ly, q, ly->q_norm, ly->n_q_heads);
        norm_heads(s, ly, k, ly->k_norm, ly->n_kv_heads);
    }
    team_wait(s);
}

/* A branch's output, before it joins the stream: xo = residual_scale * norm(xo). */
static void end_branch(const State *s, const float *post_norm, int n)
{
    size_t E = (size_t)s->m->n_embd;
    float scale = (float)s->m->residual_scale;
    if (!post_norm && scale >= 1 && scale <= 1) return;
    SHARED_RUNS(i, s, n)
    {
        float *x = s->xo + (size_t)i * E;
        if (post_norm) norm(s, x, x, post_norm, NULL, (int)E);
        for (size_t c = 0; c < E; c++) x[c] *= scale;
    }
    team_wait(s);
}

/* xb: what the feed-forward network of a parallel layer reads, the stream before attention; then
 * attention joins the stream. */
static void join_parallel(State *s, const Layer *ly, int n)
{
    size_t E = (size_t)s->m->n_embd;
    SHARED_RUNS(i, s, n)
    {
        size_t at = (size_t)i * E;
        if (s->m->residual == RES_TWO_NORMS)
            norm(s, s->xb + at, s->x + at, ly->ffn_norm, ly->ffn_norm_bias, (int)E);
        for (size_t c = at; c < at + E; c++) s->x[c] += s->xo[c];
        quantize_blocks(s, s->xb + at, i, 0, (int)E / QB);
    }
    team_wait(s);
}

/* The feed-forward network that all tokens take, over xb, into xo. */
static void dense(State *s, const Layer *ly, int n)
{
    size_t E = (size_t)s->m->n_embd, F = (size_t)ly->n_ff;
    matmul(s, s->ff_up, F, ly->w_up, ly->b_up, s->xb, E, n);
    if (ly->w_gate) matmul(s, s->ff_gate, F, ly->w_gate, ly->b_gate, s->xb, E, n);
    team_wait(s);
    activate(s, ly->w_gate != NULL, (int)F, n, s->xq, s->xq_stride);
    matmul(s, s->xo, E, ly->w_down, ly->b_down, s->ff_up, F, n);
    team_wait(s);
}

/* The U experts of one token, pick[U] ascending: those of the largest p[X] = softmax(logits), of
 * equal ones the first; and their weight[U] = scale p / (normed: the sum of the chosen p). Whatever
 * the logits are, NaN too, they are U different experts. */
static void choose(const State *s, const Layer *ly, float *p, int *pick, float *weight)
{
    int U = ly->n_used, n = 0, r;
    double sum = 0;
    s->k->softmax(p, ly->n_expert);
    for (int x = 0; x < ly->n_expert; x++) { /* picks by falling p */
        for (r = n; r > 0 && p[x] > p[pick[r - 1]];) r--;
        if (r == U) continue;
        if (n < U) n++;
        memmove(pick + r + 1, pick + r, (size_t)(n - 1 - r) * sizeof *pick);
        pick[r] = x;
    }
    for (int u = 0; u < U; u++) sum += (double)p[pick[u]];
    for (int u = 1; u < U; u++) {
        int x = pick[u];
        for (r = u; r > 0 && pick[r - 1] > x; r--) pick[r] = pick[r - 1];
        pick[r] = x;
    }
    double scale = s->m->expert_scale / (s->m->experts_normed ? sum : 1);
    for (int u = 0; u < U; u++) weight[u] = (float)((double)p[pick[u]] * scale);
}

/* Rows of the picks of n tokens: sorted by expert, then by token. */
static void sort_picks(const State *s, const Layer *ly, int n)
{
    int *start = s->expert_start, picks = n * ly->n_used, taken = 0;
    memset(start, 0, (size_t)(ly->n_expert + 1) * sizeof *start);
    for (int i = 0; i < picks; i++) start[s->pick[i] + 1]++;
    for (int x = 0; x < ly->n_expert; x++) start[x + 1] += start[x];
    for (int i = 0; i < picks; i++) s->pick_row[i] = start[s->pick[i]]++;
    for (int x = ly->n_expert; x > 0; x--) start[x] = start[x - 1];
    start[0] = 0;
    for (int x = 0; x < ly->n_expert; x++)
        if (start[x + 1] > start[x]) s->expert_taken[taken++] = x;
    while (taken < ly->n_expert) s->expert_taken[taken++] = -1;
}

/* Which experts n tokens take; their inputs (xb, and in int8) go side by side. */
static void route(State *s, const Layer *ly, int n)
{
    size_t E = (size_t)s->m->n_embd, X = (size_t)ly->n_expert, U = (size_t)ly->n_used;
    matmul(s, s->route, X, ly->router, NULL, s->xb, E, n);
    team_wait(s);
    SHARED_RUNS(i, s, n)
    {
        size_t at = (size_t)i * U;
        choose(s, ly, s->route + (size_t)i * X, s->pick + at, s->pick_weight + at);
    }
    team_wait(s);
    SHARED(once, s, 1) sort_picks(s, ly, n);
    team_wait(s);
    SHARED_RUNS(i, s, n)
    for (size_t u = 0; u < U; u++) {
        size_t row = (size_t)s->pick_row[(size_t)i * U + u], from = (size_t)i;
        memcpy(s->expert_x + row * E, s->xb + from * E, E * sizeof(float));
        if (s->int8)
            memcpy(s->expert_q + row * s->expert_stride, s->xq + from * s->xq_stride,
                   E / QB * sizeof(Q8));
    }
    team_wait(s);
}

/* y[row][r] = sum_c w[x][r][c] in[row][c] for the rows of every expert x: a matrix is read once for
 * all tokens that take it. n tokens take at most n U experts; fewer leave pieces without work. Does
 * not wait for the team. */
static void expert_matmul(const State *s, float *y, const Tensor *w, const Layer *ly,
                          const Input *in)
{
    int most = in->n < ly->n_expert ? in->n : ly->n_expert, all = (int)w->ne[1];
    int step = piece_rows(s, w, in->n / most), each = (all + step - 1) / step;
    SHARED(piece, s, most * each)
    {
        int x = s->expert_taken[piece / each], r0 = piece % each * step;
        if (x < 0) continue;
        size_t at = (size_t)s->expert_start[x];
        int n = s->expert_start[x + 1] - s->expert_start[x];
        Input part = {in->x + at * in->xs, in->xs, in->q + at * in->qs, in->qs, n};
        matmul_piece(s, y + at * (size_t)all, (size_t)all, &w[x], &part, r0,
                     all - r0 < step ? all - r0 : step);
    }
}

/* xo of token i: the outputs of its experts, weighted and added by ascending expert, and then that
 * of the shared expert (in xo), times sigmoid(shared_gate x). */
static void add_experts(const State *s, const Layer *ly, int i)
{
    size_t E = (size_t)s->m->n_embd, U = (size_t)ly->n_used, at = (size_t)i * U;
    float *xo = s->xo + (size_t)i * E, *sum = s->expert_x + (size_t)s->pick_row[at] * E;
    for (size_t c = 0; c < E; c++) sum[c] *= s->pick_weight[at];
    for (size_t u = 1; u < U; u++) {
        const float *y = s->expert_x + (size_t)s->pick_row[at + u] * E;
        for (size_t c = 0; c < E; c++) sum[c] += s->pick_weight[at + u] * y[c];
    }
    if (!ly->shared_gate) {
        memcpy(xo, sum, E * sizeof *xo);
        return;
    }
    float z = dot(s, s->xb + (size_t)i * E, ly->shared_gate, (int)E);
    float gate = 1 / (1 + exp_f32(-z));
    for (size_t c = 0; c < E; c++) xo[c] = sum[c] + gate * xo[c];
}

static void experts(State *s, const Layer *ly, int n)
{
    size_t E = (size_t)s->m->n_embd, F = (size_t)ly->n_ff_exp, qs = s->expert_stride;
    Input in = {s->expert_x, E, s->expert_q, qs, n * ly->n_used};
    expert_matmul(s, s->ff_up, ly->up_exps, ly, &in);
    expert_matmul(s, s->ff_gate, ly->gate_exps, ly, &in);
    team_wait(s);
    activate(s, 1, (int)F, in.n, s->expert_q, qs);
    Input hidden = {s->ff_up, F, s->expert_q, qs, in.n};
    expert_matmul(s, s->expert_x, ly->down_exps, ly, &hidden);
    team_wait(s);
    SHARED_RUNS(i, s, n) add_experts(s, ly, i);
    team_wait(s);
}

/* The feed-forward network, or the experts in its place, over xb, into xo. */
static void feed_forward(State *s, const Layer *ly, int n)
{
    if (ly->n_expert) route(s, ly, n);
    if (ly->w_up) dense(s, ly, n);
    if (ly->n_expert) experts(s, ly, n);
}

#define LAYER_LOOPS 32 /* shared loops of one layer, or more */

/* One transformer layer over n tokens. On entry x + add is the residual stream (add: the last
 * branch's output, not yet added); on return the stream is x + xo. */
static void layer_forward(State *s, int l, const float *add, int n)
{
    const Layer *ly = &s->m->layer[l];
    size_t E = (size_t)s->m->n_embd, D = (size_t)s->m->head_dim, Q = (size_t)ly->n_q_heads * D;
    size_t KV = (size_t)ly->n_kv_heads * D, O = (size_t)ly->wo->ne[0];
    int bare = !(s->m->arch->has & HAS_PRE_NORM);

    add_norm(s, s->x, add, (Norm){ly->attn_norm, ly->attn_norm_bias, bare}, n);
    layer_tables(s, l, n);
    matmul(s, ly->n_q_heads == ly->n_heads ? s->q : s->att_out, Q, ly->wq, ly->bq, s->xb, E, n);
    matmul(s, s->kx, KV, ly->wk, ly->bk, s->xb, E, n);
    matmul(s, s->v, KV, ly->wv, ly->bv, s->xb, E, n);
    team_wait(s);
    settle_heads(s, ly, n);
    rotate_and_cache(s, l, n);
    attention(s, l, n);
    team_wait(s);
    fold_copies(s, l, n);
    quantize_rows(s, s->att_out, (int)O, n);
    matmul(s, s->xo, E, ly->wo, ly->bo, s->att_out, O, n);
    team_wait(s);
    end_branch(s, ly->post_attn_norm, n);

    if (s->m->residual == RES_SEQUENTIAL)
        add_norm(s, s->x, s->xo, (Norm){ly->ffn_norm, ly->ffn_norm_bias, bare}, n);
    else
        join_parallel(s, ly, n);
    feed_forward(s, ly, n);
    end_branch(s, ly->post_ffn_norm, n);
}

/* Shows the residual stream after layer l, put together in x: the branch's output xo is added here,
 * instead of on the way into what follows, which may go on at once: it leaves x alone until all
 * threads have waited for each other again. */
static void show_residual(State *s, int l, int n)
{
    size_t E = (size_t)s->m->n_embd;
    SHARED_RUNS(i, s, n)
    for (size_t c = (size_t)i * E; c < (size_t)(i + 1) * E; c++) s->x[c] += s->xo[c];
    team_wait(s);
    SHARED(once, s, 1) s->probe->resid(s->probe->ctx, l, s->pos, n, s->x, E);
}

/* Threads worth waking for n tokens: under some 10^6 multiplications each, waiting costs more. */
static int team_size(const State *s, int n)
{
    double worth = (double)s->m->n_active * n / 1e6;
    return worth >= s->n_threads ? s->n_threads : worth < 1 ? 1 : (int)worth;
}

/* Keys of the cache under the frequencies now in force: made anew from what was computed, so that
 * they do not depend on how many changes there have been. */
static void turn_again(State *s)
{
    const Model *m = s->m;
    size_t D = (size_t)m->head_dim;
    int n_pos = s->pos;
    for (int pos = 0, n; pos < n_pos; pos += n) {
        n = n_pos - pos < s->n_batch ? n_pos - pos : s->n_batch;
        team_begin(s);
#pragma omp parallel num_threads(s->n_threads) if (s->n_threads > 1)
        {
            shared_tables(s, pos, n);
            team_wait(s);
            SHARED(kh, s, m->max_kv_heads)
            for (int l = 0; l < m->n_layers; l++) {
                const Layer *ly = &m->layer[l];
                if (kh >= ly->n_kv_heads || !m->rope[ly->rope].kind->length) continue;
                float *k = s->kx + (size_t)kh * (size_t)s->n_batch * D;
                memcpy(k, s->raw_keys + cache_at(s, l, kh, pos), (size_t)n * D * sizeof *k);
                cache_keys(s, l, kh, k, D, pos, n);
            }
            team_end(s);
        }
    }
}

/* Frequencies for the token at s->pos; returns how many of n tokens they hold for. */
static int rope_span(State *s, int n)
{
    int changed = 0;
    for (int i = 0; i < s->m->n_ropes; i++) {
        const Rope *r = &s->m->rope[i];
        RopeNow *now = &s->now[i];
        if (!r->kind->length) continue;
        int length = r->kind->length(r, s->pos), span = 1;
        Err e;
        while (span < n && r->kind->length(r, s->pos + span) == length) span++;
        n = span;
        if (length == now->length) continue;
        now->length = length;
        int bad = r->kind->freqs(r, length, now->inv_freq, &now->amplitude, &e);
        MUST(!bad); /* what could be wrong is wrong for every length: rope_new has seen it */
        changed = 1;
    }
    if (changed && s->pos) turn_again(s);
    return n;
}

/* logits = cap(logit_scale * logits), n rows, in pieces of a row: a decoded token has one row, of
 * a tanh for each entry of the vocabulary. */
static void settle_logits(const State *s, float *logits, int n)
{
    enum { PART = 64 };
    int V = s->m->n_vocab, parts = (V + PART - 1) / PART;
    double scale = s->m->logit_scale;
    if (s->m->final_cap <= 0 && scale >= 1 && scale <= 1) return;
    SHARED_RUNS(i, s, n * parts)
    {
        int at = i % parts * PART, len = V - at < PART ? V - at : PART;
        float *part = logits + (size_t)(i / parts) * (size_t)V + at;
        scale_values(part, len, scale);
        if (s->m->final_cap > 0) soft_cap(part, (size_t)len, s->m->final_cap);
    }
    team_wait(s);
}

/* forward over tokens under the same frequencies. Logits of the last n_logits go to `logits`. */
static void forward_span(State *s, const int *tok, int n, int n_logits, float *logits)
{
    const Model *m = s->m;
    size_t E = (size_t)m->n_embd, first = (size_t)(n - n_logits) * E;
    int team = team_size(s, n), shown = s->probe && s->probe->want & PROBE_RESID;
    (void)team; /* used by OpenMP alone */
    team_begin(s);
#pragma omp parallel num_threads(team) if (team > 1)
    {
        shared_tables(s, s->pos, n);
        embed(s, tok, n);
        for (int l = 0; l < m->n_layers; l++) {
            layer_forward(s, l, l && !shown ? s->xo : NULL, n);
            if (shown) show_residual(s, l, n);
        }
        if (n_logits) {
            Norm last = {m->output_norm, m->output_norm_bias, 0};
            add_norm(s, s->x + first, shown ? NULL : s->xo + first, last, n_logits);
            matmul(s, logits, (size_t)m->n_vocab, m->output, m->output_bias, s->xb, E, n_logits);
            team_wait(s);
            settle_logits(s, logits, n_logits);
        }
        team_end(s);
    }
    s->pos += n;
}

void forward(State *s, const int *tok, int n, int n_logits)
{
    const Model *m = s->m;
    MUST(n >= 1 && n <= s->n_batch && s->pos + n <= s->n_ctx && n_logits >= 0 && n_logits <= n);
    for (int i = 0; i < n; i++) MUST(tok[i] >= 0 && tok[i] < m->n_vocab);
    for (int i = 0, span; i < n; i += span) {
        span = rope_span(s, n - i);
        int silent = n - n_logits - i; /* tokens from here on without logits */
        int asked = silent < 0 ? span : silent < span ? span - silent : 0;
        int row = silent < 0 ? -silent : 0;
        forward_span(s, tok + i, span, asked, s->logits + (size_t)row * (size_t)m->n_vocab);
    }
}

/* ------------------------------------------------------------ 8 model file
 * GGUF versions 2 and 3 (ggml/docs/gguf.md). The file is hostile until proven sound: every length
 * is compared with what is left before it is used, never added to a position first. */

typedef struct {
    Gguf *g;
    size_t at; /* offset in the file */
    Err *e;
} Reader;

static size_t left(const Reader *r)
{
    return r->g->size - r->at;
}

static int take(Reader *r, void *out, size_t n, const char *field)
{
    if (n > left(r))
        return err_set(r->e, "%s: %s at byte %zu: expected %zu bytes, found only %zu left",
                       r->g->path, field, r->at, n, left(r));
    memcpy(out, r->g->map + r->at, n);
    r->at += n;
    return 0;
}

static int take_str(Reader *r, Str *out, const char *field)
{
    uint64_t n = 0;
    if (take(r, &n, sizeof n, field)) return -1;
    if (n > left(r))
        return err_set(r->e, "%s: %s at byte %zu: a text of %llu bytes, but only %zu are left",
                       r->g->path, field, r->at, (unsigned long long)n, left(r));
    *out = (Str){(const char *)r->g->map + r->at, (size_t)n};
    r->at += (size_t)n;
    return 0;
}

/* Bytes of one value; strings and arrays have no fixed size. */
static const uint8_t gguf_size[GGUF_N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static const char *const gguf_type_name[GGUF_N_TYPES] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

/* A short form of a name from the file that is safe to print: at most 80 bytes, no controls. */
static const char *show(Str s, char buf[96])
{
    size_t n = s.n < 80 ? s.n : 80;
    for (size_t i = 0; i < n; i++) buf[i] = (unsigned char)s.s[i] < 32 ? '?' : s.s[i];
    snprintf(buf + n, 8, "%s", s.n > 80 ? "..." : "");
    return buf;
}

/* Skips n values of a type, leaving k->val at the first. */
static int take_values(Reader *r, GgufKey *k, uint32_t type, uint64_t n)
{
    char name[96];
    k->val = r->g->map + r->at;
    size_t start = r->at;
    if (type == GGUF_STR) {
        Str s;
        for (uint64_t i = 0; i < n; i++)
            if (take_str(r, &s, show(k->key, name))) return -1;
    } else {
        if (n > left(r) / gguf_size[type])
            return err_set(r->e,
                           "%s: key '%s': %llu values of type %s, but only %zu bytes are left",
                           r->g->path, show(k->key, name), (unsigned long long)n,
                           gguf_type_name[type], left(r));
        r->at += (size_t)n * gguf_size[type];
    }
    k->bytes = r->at - start;
    return 0;
}

static int take_key(Reader *r, GgufKey *k)
{
    char name[96];
    if (take_str(r, &k->key, "metadata key")) return -1;
    if (k->key.n == 0 || k->key.n > 65535)
        return err_set(r->e, "%s: metadata key at byte %zu: expected 1 to 65535 bytes, found %zu",
                       r->g->path, r->at, k->key.n);
    if (take(r, &k->type, 4, show(k->key, name))) return -1;
    k->elem = k->type;
    k->n = 1;
    if (k->type == GGUF_ARR &&
        (take(r, &k->elem, 4, show(k->key, name)) || take(r, &k->n, 8, show(k->key, name))))
        return -1;
    if (k->elem == GGUF_ARR)
        return err_set(r->e, "%s: key '%s': expected an array of values, found one of arrays",
                       r->g->path, show(k->key, name));
    if (k->elem >= GGUF_N_TYPES)
        return err_set(r->e, "%s: key '%s': expected a value type from 0 to %d, found %u",
                       r->g->path, show(k->key, name), GGUF_N_TYPES - 1, k->elem);
    return take_values(r, k, k->elem, k->n);
}

/* Shape, type and size of one tensor; its offset is left in *offset. */
static int take_tensor(Reader *r, Tensor *t, uint64_t *offset)
{
    char name[96];
    const char *path = r->g->path;
    uint32_t n_dims = 0, type = 0;
    if (take_str(r, &t->name, "tensor name")) return -1;
    show(t->name, name);
    if (t->name.n == 0 || t->name.n > 1024)
        return err_set(r->e, "%s: tensor '%s': expected a name of 1 to 1024 bytes, found %zu", path,
                       name, t->name.n);
    if (take(r, &n_dims, 4, name)) return -1;
    if (n_dims < 1 || n_dims > 4)
        return err_set(r->e, "%s: tensor '%s': expected 1 to 4 dimensions, found %u", path, name,
                       n_dims);
    t->n_dims = (int)n_dims;
    int64_t count = 1;
    for (int i = 0; i < 4; i++) {
        t->ne[i] = 1;
        if (i < t->n_dims && take(r, &t->ne[i], 8, name)) return -1;
        if (t->ne[i] < 1 || t->ne[i] > INT_MAX)
            return err_set(r->e, "%s: tensor '%s': dimension %d: expected 1 to %d, found %llu",
                           path, name, i, INT_MAX, (unsigned long long)t->ne[i]);
        if (__builtin_mul_overflow(count, t->ne[i], &count))
            return err_set(r->e, "%s: tensor '%s': expected fewer than 2^63 values, found more",
                           path, name);
    }
    if (take(r, &type, 4, name) || take(r, offset, 8, name)) return -1;
    const TensorType *tt = tensor_type(type < INT_MAX ? (int)type : -1);
    t->type = (int)type;
    if (!tt)
        return err_set(r->e,
                       "%s: tensor '%s': type %u is not one of F32 F16 BF16 Q4_0 Q4_1 Q5_0 "
                       "Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS",
                       path, name, type);
    if (t->ne[0] % tt->block)
        return err_set(r->e,
                       "%s: tensor '%s': rows of %s must be a multiple of %d long, found %lld",
                       path, name, tt->name, tt->block, (long long)t->ne[0]);
    t->row_bytes = (size_t)(t->ne[0] / tt->block) * (size_t)tt->bytes;
    if (__builtin_mul_overflow(t->row_bytes, (size_t)(count / t->ne[0]), &t->bytes))
        return err_set(r->e, "%s: tensor '%s': its size is not possible", path, name);
    return 0;
}

static int str_cmp(Str a, Str b)
{
    int c = memcmp(a.s, b.s, a.n < b.n ? a.n : b.n);
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static int key_cmp(const void *a, const void *b)
{
    return str_cmp(((const GgufKey *)a)->key, ((const GgufKey *)b)->key);
}

static int tensor_cmp(const void *a, const void *b)
{
    return str_cmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

/* By place in the file; longer first, so that of two at one place the second is reported. */
static int place_cmp(const void *a, const void *b)
{
    const Tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return (x->bytes < y->bytes) - (x->bytes > y->bytes);
}

static int read_header(Reader *r, uint64_t *n_tensors, uint64_t *n_keys)
{
    Gguf *g = r->g;
    char magic[4];
    if (take(r, magic, 4, "magic")) return -1;
    if (memcmp(magic, "GGUF", 4))
        return err_set(r->e,
                       "%s: magic: expected 'GGUF', found bytes %02x %02x %02x %02x: this is "
                       "not a GGUF file",
                       g->path, (unsigned char)magic[0], (unsigned char)magic[1],
                       (unsigned char)magic[2], (unsigned char)magic[3]);
    if (take(r, &g->version, 4, "version")) return -1;
    if (g->version && (g->version & 0xffff) == 0)
        return err_set(r->e, "%s: version: the file is big-endian; expected little-endian",
                       g->path);
    if (g->version != 2 && g->version != 3)
        return err_set(r->e, "%s: version: expected GGUF 2 or 3, found %u", g->path, g->version);
    if (take(r, n_tensors, 8, "tensor count") || take(r, n_keys, 8, "metadata count")) return -1;
    /* The smallest tensor entry: name 8 + 1, n_dims 4, one dimension 8, type 4, offset 8. */
    if (*n_tensors > left(r) / 33)
        return err_set(r->e, "%s: tensor count: %llu tensors cannot fit in the %zu bytes left",
                       g->path, (unsigned long long)*n_tensors, left(r));
    /* The smallest key: name 8 + 1, type 4, value 1. */
    if (*n_keys > left(r) / 14)
        return err_set(r->e, "%s: metadata count: %llu keys cannot fit in the %zu bytes left",
                       g->path, (unsigned long long)*n_keys, left(r));
    return 0;
}

static int read_keys(Reader *r, uint64_t n)
{
    Gguf *g = r->g;
    char name[96];
    g->keys = xcalloc((size_t)n, sizeof *g->keys);
    for (; g->n_keys < n; g->n_keys++)
        if (take_key(r, &g->keys[g->n_keys])) return -1;
    qsort(g->keys, g->n_keys, sizeof *g->keys, key_cmp);
    for (size_t i = 1; i < g->n_keys; i++)
        if (key_cmp(&g->keys[i - 1], &g->keys[i]) == 0)
            return err_set(r->e, "%s: key '%s' occurs twice", g->path, show(g->keys[i].key, name));
    return 0;
}

/* Places the tensors: offsets count from the data section, which is aligned. */
static int place_tensors(Reader *r, const uint64_t *offset, size_t align)
{
    Gguf *g = r->g;
    char name[96], other[96];
    size_t pad = (align - r->at % align) % align;
    if (g->n_tensors && pad > left(r))
        return err_set(r->e, "%s: tensor data: the file ends before it", g->path);
    for (size_t i = 0; i < g->n_tensors; i++) {
        Tensor *t = &g->tensors[i];
        size_t room = left(r) - pad;
        if (offset[i] % align)
            return err_set(r->e,
                           "%s: tensor '%s': offset %llu is not a multiple of the alignment "
                           "%zu",
                           g->path, show(t->name, name), (unsigned long long)offset[i], align);
        if (offset[i] > room || t->bytes > room - (size_t)offset[i])
            return err_set(r->e,
                           "%s: tensor '%s': %zu bytes at offset %llu do not fit in the %zu "
                           "bytes of tensor data: the file is cut off or damaged",
                           g->path, show(t->name, name), t->bytes, (unsigned long long)offset[i],
                           room);
        t->data = g->map + r->at + pad + (size_t)offset[i];
    }
    qsort(g->tensors, g->n_tensors, sizeof *g->tensors, place_cmp);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (g->tensors[i - 1].data + g->tensors[i - 1].bytes > g->tensors[i].data)
            return err_set(
                r->e, "%s: tensors '%s' and '%s' overlap; expected each in bytes of its own",
                g->path, show(g->tensors[i - 1].name, other), show(g->tensors[i].name, name));
    return 0;
}

static int read_tensors(Reader *r, uint64_t n)
{
    Gguf *g = r->g;
    char name[96];
    int64_t align = 32;
    g->tensors = xcalloc((size_t)n, sizeof *g->tensors);
    uint64_t *offset = xcalloc((size_t)n, sizeof *offset);
    int bad = 0;
    for (; !bad && g->n_tensors < n; g->n_tensors += !bad)
        bad = take_tensor(r, &g->tensors[g->n_tensors], &offset[g->n_tensors]);
    bad = bad || gguf_int(g, "general.alignment", 8, 1 << 20, &align, r->e) < 0;
    if (!bad && (align & (align - 1)))
        bad = err_set(r->e, "%s: key 'general.alignment': expected a power of two, found %lld",
                      g->path, (long long)align);
    bad = bad || place_tensors(r, offset, (size_t)align);
    free(offset);
    if (bad) return -1;
    qsort(g->tensors, g->n_tensors, sizeof *g->tensors, tensor_cmp);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (tensor_cmp(&g->tensors[i - 1], &g->tensors[i]) == 0)
            return err_set(r->e, "%s: tensor '%s' occurs twice", g->path,
                           show(g->tensors[i].name, name));
    return 0;
}

static int parse(Gguf *g, Err *e)
{
    Reader r = {g, 0, e};
    uint64_t n_tensors = 0, n_keys = 0;
    int64_t split = 1;
    if (read_header(&r, &n_tensors, &n_keys) || read_keys(&r, n_keys)) return -1;
    if (gguf_int(g, "split.count", 0, 65535, &split, e) < 0) return -1;
    if (split > 1)
        return err_set(e,
                       "%s: key 'split.count': this is one part of a model split into %lld files; "
                       "expected a whole model (llama-gguf-split --merge joins them)",
                       g->path, (long long)split);
    return read_tensors(&r, n_tensors);
}

int gguf_parse(Gguf *g, const char *path, const uint8_t *data, size_t size, Err *e)
{
    size_t n = strlen(path), shown = n > 256 ? 253 : n; /* of a long path the end is shown */
    *g = (Gguf){.map = data, .size = size, .borrowed = 1};
    g->path = xcalloc(260, 1);
    snprintf(g->path, 260, "%s%s", n > shown ? "..." : "", path + n - shown);
    if (parse(g, e) == 0) return 0;
    gguf_close(g);
    return -1;
}

/* Maps a whole regular file read-only. NULL on error. */
const uint8_t *map_file(const char *path, size_t *size, Err *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        err_set(e, "%s: cannot be opened: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return NULL;
    }
    void *map = MAP_FAILED;
    if (!S_ISREG(st.st_mode))
        err_set(e, "%s: expected a file, found a %s", path,
                S_ISDIR(st.st_mode) ? "directory" : "device or pipe");
    else if (st.st_size == 0)
        err_set(e, "%s: the file is empty", path);
    else if ((map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        err_set(e, "%s: cannot be mapped: %s", path, strerror(errno));
    close(fd);
    *size = (size_t)st.st_size;
    return map == MAP_FAILED ? NULL : map;
}

void unmap_file(const uint8_t *map, size_t size)
{
    if (map) munmap((void *)(uintptr_t)map, size);
}

int gguf_open(Gguf *g, const char *path, Err *e)
{
    size_t size;
    const uint8_t *map = map_file(path, &size, e);
    if (!map) return -1;
    if (gguf_parse(g, path, map, size, e)) {
        unmap_file(map, size);
        return -1;
    }
    g->borrowed = 0;
    return 0;
}

void gguf_close(Gguf *g)
{
    if (!g->borrowed) unmap_file(g->map, g->size);
    free(g->path);
    free(g->keys);
    free(g->tensors);
    *g = (Gguf){0};
}

const GgufKey *gguf_find(const Gguf *g, const char *key)
{
    GgufKey want = {.key = {key, strlen(key)}};
    return g->n_keys ? bsearch(&want, g->keys, g->n_keys, sizeof want, key_cmp) : NULL;
}

const Tensor *gguf_tensor(const Gguf *g, const char *name)
{
    Tensor want = {.name = {name, strlen(name)}};
    return g->n_tensors ? bsearch(&want, g->tensors, g->n_tensors, sizeof want, tensor_cmp) : NULL;
}

static int wrong_type(const Gguf *g, const GgufKey *k, const char *expected, Err *e)
{
    char name[96];
    int arr = k->type == GGUF_ARR;
    return err_set(e, "%s: key '%s': expected %s, found %s%s", g->path, show(k->key, name),
                   expected, arr ? "an array of " : "", gguf_type_name[k->elem]);
}

/* Value i of an integer or bool key of any width. 0, or -1 if it is neither. */
static int int_at(const GgufKey *k, size_t i, int64_t *out)
{
    const uint8_t *p = k->val + i * gguf_size[k->elem];
    uint64_t u = 0;
    if (k->elem == GGUF_STR || k->elem == GGUF_F32 || k->elem == GGUF_F64) return -1;
    memcpy(&u, p, gguf_size[k->elem]);
    switch (k->elem) {
    case GGUF_I8:
        *out = (int8_t)u;
        break;
    case GGUF_I16:
        *out = (int16_t)u;
        break;
    case GGUF_I32:
        *out = (int32_t)u;
        break;
    case GGUF_U64:
        *out = u > INT64_MAX ? INT64_MAX : (int64_t)u;
        break;
    default:
        *out = (int64_t)u;
    }
    return 0;
}

/* The integer as the file has it: those of u64 from 2^63 on are beyond int64_t. */
static const char *int_text(const GgufKey *k, size_t i, char buf[32])
{
    int64_t v = 0;
    uint64_t u;
    int_at(k, i, &v);
    if (k->elem == GGUF_U64) {
        memcpy(&u, k->val + i * sizeof u, sizeof u);
        snprintf(buf, 32, "%llu", (unsigned long long)u);
    } else {
        snprintf(buf, 32, "%lld", (long long)v);
    }
    return buf;
}

static int int_in(const Gguf *g, const GgufKey *k, size_t i, int64_t lo, int64_t hi, int64_t *out,
                  Err *e)
{
    char name[96], text[32];
    int64_t v = 0;
    if (int_at(k, i, &v)) return wrong_type(g, k, "an integer", e);
    if (v < lo || v > hi)
        return err_set(e, "%s: key '%s': expected an integer from %lld to %lld, found %s", g->path,
                       show(k->key, name), (long long)lo, (long long)hi, int_text(k, i, text));
    *out = v;
    return 1;
}

int gguf_int(const Gguf *g, const char *key, int64_t lo, int64_t hi, int64_t *out, Err *e)
{
    const GgufKey *k = gguf_find(g, key);
    if (!k) return 0;
    if (k->type == GGUF_ARR || k->type == GGUF_BOOL) return wrong_type(g, k, "an integer", e);
    return int_in(g, k, 0, lo, hi, out, e);
}

int gguf_float(const Gguf *g, const char *key, double lo, double hi, double *out, Err *e)
{
    const GgufKey *k = gguf_find(g, key);
    float f;
    double d;
    if (!k) return 0;
    if (k->type == GGUF_F32) {
        memcpy(&f, k->val, sizeof f);
        d = (double)f;
    } else if (k->type == GGUF_F64) {
        memcpy(&d, k->val, sizeof d);
    } else {
        return wrong_type(g, k, "a number", e);
    }
    if (!(d >= lo && d <= hi))
        return err_set(e, "%s: key '%s': expected a number from %g to %g, found %g", g->path, key,
                       lo, hi, d);
    *out = d;
    return 1;
}

int gguf_bool(const Gguf *g, const char *key, int *out, Err *e)
{
    const GgufKey *k = gguf_find(g, key);
    int64_t v = 0;
    if (!k) return 0;
    if (k->type == GGUF_ARR) return wrong_type(g, k, "true or false", e);
    if (int_in(g, k, 0, 0, 1, &v, e) < 0) return -1;
    *out = (int)v;
    return 1;
}

int gguf_str(const Gguf *g, const char *key, Str *out, Err *e)
{
    const GgufKey *k = gguf_find(g, key);
    uint64_t n;
    if (!k) return 0;
    if (k->type != GGUF_STR) return wrong_type(g, k, "a text", e);
    memcpy(&n, k->val, sizeof n);
    *out = (Str){(const char *)k->val + 8, (size_t)n};
    return 1;
}

int gguf_strs(const Gguf *g, const char *key, Str **out, size_t *n, Err *e)
{
    const GgufKey *k = gguf_find(g, key);
    if (!k) return 0;
    if (k->type != GGUF_ARR || k->elem != GGUF_STR) return wrong_type(g, k, "an array of texts", e);
    *n = (size_t)k->n;
    *out = xcalloc(*n, sizeof **out);
    const uint8_t *p = k->val;
    for (size_t i = 0; i < *n; i++) {
        uint64_t len;
        memcpy(&len, p, sizeof len);
        (*out)[i] = (Str){(const char *)p + 8, (size_t)len};
        p += 8 + len;
    }
    return 1;
}

int gguf_floats(const Gguf *g, const char *key, float **out, size_t *n, Err *e)
{
    const GgufKey *k = gguf_find(g, key);
    if (!k) return 0;
    if (k->type != GGUF_ARR || k->elem != GGUF_F32) return wrong_type(g, k, "an array of f32", e);
    *n = (size_t)k->n;
    *out = xcalloc(*n, sizeof **out);
    memcpy(*out, k->val, *n * sizeof **out);
    return 1;
}

int gguf_ints(const Gguf *g, const char *key, int **out, size_t *n, Err *e)
{
    const GgufKey *k = gguf_find(g, key);
    if (!k) return 0;
    if (k->type != GGUF_ARR) return wrong_type(g, k, "an array of integers", e);
    *n = (size_t)k->n;
    *out = xcalloc(*n, sizeof **out);
    for (size_t i = 0; i < *n; i++) {
        int64_t v = 0;
        if (int_in(g, k, i, INT_MIN, INT_MAX, &v, e) < 0) {
            free(*out);
            *out = NULL;
            return -1;
        }
        (*out)[i] = (int)v;
    }
    return 1;
}

int gguf_per_layer(const Gguf *g, const char *key, int64_t lo, int64_t hi, int *out, int n, Err *e)
{
    const GgufKey *k = gguf_find(g, key);
    if (!k) return 0;
    if (k->type == GGUF_ARR && k->n != (uint64_t)n)
        return err_set(e, "%s: key '%s': expected one number, or %d (one per layer), found %llu",
                       g->path, key, n, (unsigned long long)k->n);
    if (k->elem == GGUF_BOOL && hi > 1) return wrong_type(g, k, "an integer", e);
    for (int l = 0; l < n; l++) {
        int64_t v = 0;
        if (int_in(g, k, k->type == GGUF_ARR ? (size_t)l : 0, lo, hi, &v, e) < 0) return -1;
        out[l] = (int)v;
    }
    return 1;
}

/* Writing a GGUF file. What a caller may get wrong is a bug here, not bad input. */

int gguf_out_open(GgufOut *w, const char *path, Err *e)
{
    *w = (GgufOut){.align = 32};
    if (out_open(&w->out, path, e)) return -1;
    w->path = xcalloc(strlen(path) + 1, 1);
    memcpy(w->path, path, strlen(path));
    return 0;
}

static void add_uint(Bytes *b, uint64_t v, size_t n_bytes)
{
    bytes_add(b, (const char *)&v, n_bytes);
}

static void add_name(Bytes *b, Str s)
{
    add_uint(b, s.n, 8);
    if (s.n) bytes_add(b, s.s, s.n);
}

void gguf_out_key(GgufOut *w, const GgufKey *k)
{
    int64_t align;
    MUST(!w->head && k->key.n > 0 && k->key.n <= 65535 && k->type < GGUF_N_TYPES);
    add_name(&w->keys, k->key);
    add_uint(&w->keys, k->type, 4);
    if (k->type == GGUF_ARR) {
        add_uint(&w->keys, k->elem, 4);
        add_uint(&w->keys, k->n, 8);
    }
    if (k->bytes) bytes_add(&w->keys, (const char *)k->val, k->bytes);
    w->n_keys++;
    if (!str_is(k->key, "general.alignment")) return;
    MUST(int_at(k, 0, &align) == 0 && align >= 8 && (align & (align - 1)) == 0 && !w->n_tensors);
    w->align = (size_t)align;
}

static void put_value(GgufOut *w, const char *key, uint32_t type, const void *v, size_t bytes)
{
    gguf_out_key(w, &(GgufKey){{key, strlen(key)}, type, type, 1, v, bytes});
}

static void put_array(GgufOut *w, const char *key, uint32_t elem, size_t n, const void *v,
                      size_t bytes)
{
    gguf_out_key(w, &(GgufKey){{key, strlen(key)}, GGUF_ARR, elem, n, v, bytes});
}

void gguf_out_int(GgufOut *w, const char *key, uint32_t type, int64_t v)
{
    MUST(type <= GGUF_I32 || type == GGUF_U64 || type == GGUF_I64);
    put_value(w, key, type, &v, gguf_size[type]);
}

void gguf_out_bool(GgufOut *w, const char *key, int v)
{
    uint8_t u = v != 0;
    put_value(w, key, GGUF_BOOL, &u, sizeof u);
}

void gguf_out_float(GgufOut *w, const char *key, float v)
{
    put_value(w, key, GGUF_F32, &v, sizeof v);
}

void gguf_out_str(GgufOut *w, const char *key, const char *v)
{
    Bytes b = {0};
    add_name(&b, (Str){v, strlen(v)});
    put_value(w, key, GGUF_STR, b.s, b.n);
    free(b.s);
}

void gguf_out_strs(GgufOut *w, const char *key, const Str *v, size_t n)
{
    Bytes b = {0};
    for (size_t i = 0; i < n; i++) add_name(&b, v[i]);
    put_array(w, key, GGUF_STR, n, n ? b.s : "", b.n);
    free(b.s);
}

void gguf_out_floats(GgufOut *w, const char *key, const float *v, size_t n)
{
    put_array(w, key, GGUF_F32, n, v, n * sizeof *v);
}

void gguf_out_ints(GgufOut *w, const char *key, const int32_t *v, size_t n)
{
    put_array(w, key, GGUF_I32, n, v, n * sizeof *v);
}

static uint64_t aligned(uint64_t n, size_t align)
{
    return (n + align - 1) / align * align;
}

/* Tensors follow each other, each at the next multiple of the alignment, as readers expect. */
void gguf_out_tensor(GgufOut *w, const Tensor *t)
{
    const TensorType *tt = tensor_type(t->type);
    MUST(!w->head && tt && t->ne[0] % tt->block == 0 && t->n_dims >= 1 && t->n_dims <= 4);
    uint64_t bytes = (uint64_t)(t->ne[0] / tt->block) * (uint64_t)tt->bytes;
    add_name(&w->infos, t->name);
    add_uint(&w->infos, (uint64_t)t->n_dims, 4);
    for (int d = 0; d < t->n_dims; d++) {
        add_uint(&w->infos, (uint64_t)t->ne[d], 8);
        bytes *= d ? (uint64_t)t->ne[d] : 1;
    }
    add_uint(&w->infos, (uint64_t)t->type, 4);
    add_uint(&w->infos, w->end, 8);
    w->place = xrealloc(w->place, w->n_tensors + 1, sizeof *w->place);
    w->bytes = xrealloc(w->bytes, w->n_tensors + 1, sizeof *w->bytes);
    w->place[w->n_tensors] = w->end;
    w->bytes[w->n_tensors++] = bytes;
    w->end = aligned(w->end + bytes, w->align);
}

static int gguf_out_failed(const GgufOut *w, Err *e)
{
    return err_set(e, "%s: writing failed: %s", w->path, strerror(errno));
}

static int gguf_put(GgufOut *w, const void *p, size_t n, Err *e)
{
    return fwrite(p, 1, n, w->out.f) == n ? 0 : gguf_out_failed(w, e);
}

/* From a place of n bytes to the next multiple of the alignment. */
static int put_padding(GgufOut *w, uint64_t n, Err *e)
{
    static const uint8_t zeros[64];
    for (size_t pad = (size_t)(aligned(n, w->align) - n), k; pad > 0; pad -= k) {
        k = pad < sizeof zeros ? pad : sizeof zeros;
        if (gguf_put(w, zeros, k, e)) return -1;
    }
    return 0;
}

static int put_head(GgufOut *w, Err *e)
{
    Bytes b = {0};
    bytes_add(&b, "GGUF", 4);
    add_uint(&b, 3, 4);
    add_uint(&b, w->n_tensors, 8);
    add_uint(&b, w->n_keys, 8);
    if (w->keys.n) bytes_add(&b, w->keys.s, w->keys.n);
    if (w->infos.n) bytes_add(&b, w->infos.s, w->infos.n);
    int rc = gguf_put(w, b.s, b.n, e) || put_padding(w, b.n, e);
    w->head = aligned(b.n, w->align);
    free(b.s);
    return rc ? -1 : 0;
}

int gguf_out_data(GgufOut *w, const void *data, size_t n, Err *e)
{
    const uint8_t *p = data;
    if (!w->head && put_head(w, e)) return -1;
    while (n > 0) {
        MUST(w->at < w->n_tensors);
        uint64_t room = w->bytes[w->at] - w->done;
        size_t k = n < room ? n : (size_t)room;
        if (gguf_put(w, p, k, e)) return -1;
        p += k;
        n -= k;
        w->done += k;
        if (w->done < w->bytes[w->at]) continue;
        if (put_padding(w, w->done, e)) return -1;
        w->at++;
        w->done = 0;
    }
    return 0;
}

/* The file gets its size now: what is not written, the padding, is zero. */
int gguf_out_scatter(GgufOut *w, Err *e)
{
    struct stat st;
    int fd = fileno(w->out.f);
    MUST(!w->head);
    if (lseek(fd, 0, SEEK_CUR) < 0)
        return err_set(e, "%s: expected an ordinary file, found one without places to go to",
                       w->path);
    if (put_head(w, e)) return -1;
    w->at = w->n_tensors;
    if (fflush(w->out.f) || fstat(fd, &st) ||
        (S_ISREG(st.st_mode) && ftruncate(fd, (off_t)(w->head + w->end))))
        return gguf_out_failed(w, e);
    return 0;
}

int gguf_out_at(const GgufOut *w, size_t i, uint64_t from, const void *data, size_t n, Err *e)
{
    const uint8_t *p = data;
    MUST(i < w->n_tensors && from <= w->bytes[i] && n <= w->bytes[i] - from);
    for (uint64_t at = w->head + w->place[i] + from; n > 0;) {
        ssize_t put = pwrite(fileno(w->out.f), p, n, (off_t)at);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return gguf_out_failed(w, e);
        p += put;
        n -= (size_t)put;
        at += (uint64_t)put;
    }
    return 0;
}

static void gguf_out_free(GgufOut *w)
{
    free(w->path);
    free(w->place);
    free(w->keys.s);
    free(w->infos.s);
    free(w->bytes);
    *w = (GgufOut){0};
}

int gguf_out_close(GgufOut *w, Err *e)
{
    if (!w->head && put_head(w, e)) return -1;
    MUST(w->at == w->n_tensors);
    if (fflush(w->out.f)) return gguf_out_failed(w, e);
    int rc = out_close(&w->out, e);
    gguf_out_free(w);
    return rc;
}

void gguf_out_abandon(GgufOut *w)
{
    if (w->out.f) out_abandon(&w->out);
    gguf_out_free(w);
}

/* What a file does not say about its architecture (one row each; see model.h). */
enum {
    LLAMA_PARTS = HAS_PRE_NORM | HAS_FFN_NORM | HAS_GATE,
    ALL_BIASES = HAS_NORM_BIAS | HAS_QKV_BIAS | HAS_ATTN_BIAS | HAS_FFN_BIAS,
    GPT_PARTS = HAS_PRE_NORM | HAS_FFN_NORM | ALL_BIASES,
};
static const Arch archs[] = {
    {.name = "llama",
     .layout = ROPE_ADJACENT,
     .rope_base = 10000,
     .experts = EXPERTS_NORMED,
     .has = LLAMA_PARTS},
    {.name = "smollm3",
     .layout = ROPE_ADJACENT,
     .rope_base = 10000,
     .has = LLAMA_PARTS,
     .nope_every = 4},
    {.name = "granite",
     .layout = ROPE_ADJACENT,
     .rope_base = 10000,
     .has = LLAMA_PARTS,
     .logits_divided = 1,
     .untuned_nope = 1},
    {.name = "qwen2", .layout = ROPE_HALF, .rope_base = 10000, .has = LLAMA_PARTS},
    {.name = "qwen3",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .has = LLAMA_PARTS | HAS_QK_NORM,
     .qk_norm = QK_HEAD},
    {.name = "qwen2moe",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .experts = EXPERTS_PLAIN,
     .has = LLAMA_PARTS | HAS_SHARED},
    {.name = "qwen3moe",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .experts = EXPERTS_NORMED,
     .has = LLAMA_PARTS | HAS_QK_NORM,
     .qk_norm = QK_HEAD},
    {.name = "olmoe",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .experts = EXPERTS_PLAIN,
     .has = LLAMA_PARTS | HAS_QK_NORM,
     .qk_norm = QK_ALL},
    {.name = "phi3", .layout = ROPE_HALF, .rope_base = 10000, .has = LLAMA_PARTS},
    {.name = "olmo",
     .layout = ROPE_ADJACENT,
     .rope_base = 10000,
     .norm = NORM_UNIT,
     .has = LLAMA_PARTS},
    {.name = "olmo2",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .has = HAS_POST_NORMS | HAS_QK_NORM | HAS_GATE | HAS_OUTPUT,
     .qk_norm = QK_ALL,
     .window_every = 4,
     .local_scaling = LOCAL_PLAIN},
    {.name = "gemma",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .act = ACT_GELU_TANH,
     .has = LLAMA_PARTS,
     .embd_sqrt = 1},
    {.name = "gemma2",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .act = ACT_GELU_TANH,
     .has = LLAMA_PARTS | HAS_POST_NORMS,
     .embd_sqrt = 1,
     .attn_cap = 50,
     .final_cap = 30,
     .window = 4096,
     .window_every = 2,
     .wide_layers = 46,
     .local_scaling = LOCAL_SCALED},
    {.name = "gemma3",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .act = ACT_GELU_TANH,
     .has = LLAMA_PARTS | HAS_POST_NORMS | HAS_QK_NORM,
     .qk_norm = QK_HEAD,
     .embd_sqrt = 1,
     .window_every = 6,
     .wide_layers = 62,
     .local_base = 10000,
     .local_scaling = LOCAL_PLAIN},
    {.name = "stablelm",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .norm = NORM_LAYER,
     .has = HAS_PRE_NORM | HAS_GATE | HAS_NORM_BIAS | HAS_OUTPUT,
     .may = HAS_FFN_NORM | HAS_QK_NORM,
     .qk_norm = QK_OWN},
    {.name = "starcoder2",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .norm = NORM_LAYER,
     .act = ACT_GELU_TANH,
     .has = GPT_PARTS},
    {.name = "gptneox",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .norm = NORM_LAYER,
     .act = ACT_GELU,
     .residual = RES_TWO_NORMS,
     .has = GPT_PARTS | HAS_OUTPUT},
    {.name = "phi2",
     .layout = ROPE_HALF,
     .rope_base = 10000,
     .norm = NORM_LAYER,
     .act = ACT_GELU_TANH,
     .residual = RES_SHARED_NORM,
     .has = HAS_PRE_NORM | ALL_BIASES | HAS_OUTPUT | HAS_OUTPUT_BIAS},
    {.name = "gptj",
     .layout = ROPE_ADJACENT,
     .rope_base = 10000,
     .norm = NORM_LAYER,
     .act = ACT_GELU_TANH,
     .residual = RES_SHARED_NORM,
     .has = HAS_PRE_NORM | HAS_NORM_BIAS | HAS_FFN_BIAS | HAS_OUTPUT | HAS_OUTPUT_BIAS,
     .hf_adjacent = 1},
};

/* Binding: every tensor of an architecture by name, kind and full shape. Sizes by letter. */
enum { DIM_ONE, DIM_E, DIM_Q, DIM_KV, DIM_F, DIM_O };
/* Biases of matrices are optional where they are not required: forward adds what there is. */
enum { ANY_BIAS = HAS_QKV_BIAS | HAS_ATTN_BIAS | HAS_FFN_BIAS | HAS_OUTPUT_BIAS };
typedef struct {
    const char *name; /* of a layer tensor: what follows "blk.N." */
    size_t field;     /* in Layer */
    int vector;
    unsigned of;   /* HAS_...: a file with all these bits has it, others have not (see ANY_BIAS) */
    int row, rows; /* DIM_ of ne[0] and ne[1] */
} Bind;

enum {
    MUST_HAVE = 0,
    PRE_BIAS = HAS_PRE_NORM | HAS_NORM_BIAS,
    FFN_NORM_BIAS = HAS_FFN_NORM | HAS_NORM_BIAS,
    GATE_BIAS = HAS_GATE | HAS_FFN_BIAS
};

static const Bind layer_binds[] = {
    {"attn_norm.weight", offsetof(Layer, attn_norm), 1, HAS_PRE_NORM, DIM_E, DIM_ONE},
    {"attn_norm.bias", offsetof(Layer, attn_norm_bias), 1, PRE_BIAS, DIM_E, DIM_ONE},
    {"attn_q.weight", offsetof(Layer, wq), 0, MUST_HAVE, DIM_E, DIM_Q},
    {"attn_k.weight", offsetof(Layer, wk), 0, MUST_HAVE, DIM_E, DIM_KV},
    {"attn_v.weight", offsetof(Layer, wv), 0, MUST_HAVE, DIM_E, DIM_KV},
    {"attn_output.weight", offsetof(Layer, wo), 0, MUST_HAVE, DIM_O, DIM_E},
    {"attn_q.bias", offsetof(Layer, bq), 1, HAS_QKV_BIAS, DIM_Q, DIM_ONE},
    {"attn_k.bias", offsetof(Layer, bk), 1, HAS_QKV_BIAS, DIM_KV, DIM_ONE},
    {"attn_v.bias", offsetof(Layer, bv), 1, HAS_QKV_BIAS, DIM_KV, DIM_ONE},
    {"attn_output.bias", offsetof(Layer, bo), 1, HAS_ATTN_BIAS, DIM_E, DIM_ONE},
    {"post_attention_norm.weight", offsetof(Layer, post_attn_norm), 1, HAS_POST_NORMS, DIM_E,
     DIM_ONE},
    {"ffn_norm.weight", offsetof(Layer, ffn_norm), 1, HAS_FFN_NORM, DIM_E, DIM_ONE},
    {"ffn_norm.bias", offsetof(Layer, ffn_norm_bias), 1, FFN_NORM_BIAS, DIM_E, DIM_ONE},
    {"ffn_gate.weight", offsetof(Layer, w_gate), 0, HAS_GATE, DIM_E, DIM_F},
    {"ffn_up.weight", offsetof(Layer, w_up), 0, MUST_HAVE, DIM_E, DIM_F},
    {"ffn_down.weight", offsetof(Layer, w_down), 0, MUST_HAVE, DIM_F, DIM_E},
    {"ffn_gate.bias", offsetof(Layer, b_gate), 1, GATE_BIAS, DIM_F, DIM_ONE},
    {"ffn_up.bias", offsetof(Layer, b_up), 1, HAS_FFN_BIAS, DIM_F, DIM_ONE},
    {"ffn_down.bias", offsetof(Layer, b_down), 1, HAS_FFN_BIAS, DIM_E, DIM_ONE},
    {"post_ffw_norm.weight", offsetof(Layer, post_ffn_norm), 1, HAS_POST_NORMS, DIM_E, DIM_ONE},
};
#define N_LAYER_BINDS (sizeof layer_binds / sizeof *layer_binds)

typedef struct {
    Model *m;
    Err *e;
    uint8_t *used; /* [n_tensors]: bound, or known to change nothing */
    OwnFile own;   /* weights of an encoding */
} Binder;

enum { MAX_FF = 1 << 24, MAX_EXPERTS = 4096 };

static const char *arch_key(const Model *m, const char *name, char buf[128])
{
    snprintf(buf, 128, "%s.%s", m->arch->name, name);
    return buf;
}

/* An integer hyper-parameter; required unless it has a default (def >= 0). */
static int hyper_int(const Model *m, const char *name, int lo, int hi, int def, int *out, Err *e)
{
    char key[128];
    int64_t v = def;
    int found = gguf_int(&m->g, arch_key(m, name, key), lo, hi, &v, e);
    if (found == 0 && def < 0)
        return err_set(e, "%s: key '%s' is missing; expected an integer", m->g.path, key);
    *out = (int)v;
    return found < 0 ? -1 : 0;
}

/* The n matrices of that name, with the full shape checked. 1 found, 0 absent, -1 wrong. */
static int bind_stack(Binder *b, const char *name, const int64_t ne[3], int required,
                      const Tensor **out)
{
    const Gguf *g = &b->m->g;
    const Tensor *t = gguf_tensor(g, name);
    char third[32] = "";
    if (!t && !required) return 0;
    if (!t) return err_set(b->e, "%s: tensor '%s' is missing", g->path, name);
    if (ne[2] > 1) snprintf(third, sizeof third, ", %lld", (long long)ne[2]);
    if (t->ne[0] != ne[0] || t->ne[1] != ne[1] || t->ne[2] != ne[2] || t->ne[3] != 1)
        return err_set(b->e,
                       "%s: tensor '%s': expected shape [%lld, %lld%s], found [%lld, %lld, %lld, "
                       "%lld]",
                       g->path, name, (long long)ne[0], (long long)ne[1], third,
                       (long long)t->ne[0], (long long)t->ne[1], (long long)t->ne[2],
                       (long long)t->ne[3]);
    b->used[t - g->tensors] = 1;
    *out = t;
    return 1;
}

/* The same of one matrix. */
static int bind_tensor(Binder *b, const char *name, int64_t ne0, int64_t ne1, int required,
                       const Tensor **out)
{
    return bind_stack(b, name, (int64_t[]){ne0, ne1, 1}, required, out);
}

/* rows x cols values as float32: in place, or (F16, BF16, quantized) widened into memory of the
 * model. */
static int bind_floats(Binder *b, const char *name, int64_t cols, int64_t rows, int required,
                       const float **out)
{
    const Tensor *t = NULL;
    int found = bind_tensor(b, name, cols, rows, required, &t);
    if (found <= 0) return found;
    if (t->type == T_F32) {
        *out = (const float *)(const void *)t->data;
        return 1;
    }
    Model *m = b->m;
    float *copy = xcalloc((size_t)(rows * cols), sizeof *copy);
    Q32 *q = xcalloc((size_t)cols / QB + 1, sizeof *q);
    for (int64_t r = 0; r < rows; r++) row_floats(&kernels_base, t, (int)r, copy + r * cols, q);
    free(q);
    m->owned = xrealloc(m->owned, (size_t)m->n_owned + 1, sizeof *m->owned);
    m->owned[m->n_owned++] = copy;
    *out = copy;
    return 1;
}

static int bind_vector(Binder *b, const char *name, int64_t n, int required, const float **out)
{
    return bind_floats(b, name, n, 1, required, out);
}

static int64_t dim_of(const Model *m, const Layer *ly, int dim)
{
    int64_t shown = ly->surplus ? 2 : 1;
    switch (dim) {
    case DIM_E:
        return m->n_embd;
    case DIM_Q:
        return shown * ly->n_q_heads * m->head_dim;
    case DIM_O:
        return (int64_t)ly->n_o_heads * m->head_dim;
    case DIM_KV:
        return shown * ly->n_kv_heads * m->head_dim;
    case DIM_F:
        return ly->n_ff;
    default:
        return 1;
    }
}

/* n tensors that the model owns, for parts of others. */
static Tensor *new_views(Model *m, int n)
{
    m->views = xrealloc(m->views, (size_t)m->n_views + 1, sizeof *m->views);
    return m->views[m->n_views++] = xcalloc((size_t)n, sizeof **m->views);
}

/* Rows r0 .. r0 + rows - 1 of a tensor (of all its matrices one after the other) as one matrix. */
static Tensor part_of(const Tensor *t, int64_t r0, int64_t rows)
{
    Tensor v = *t;
    v.n_dims = 2;
    v.ne[1] = rows;
    v.ne[2] = 1;
    v.data = t->data + (size_t)r0 * t->row_bytes;
    v.bytes = (size_t)rows * t->row_bytes;
    return v;
}

static const Tensor *view_rows(Model *m, const Tensor *t, int64_t r0, int64_t rows)
{
    Tensor *v = new_views(m, 1);
    *v = part_of(t, r0, rows);
    return v;
}

/* Queries, keys and values in one matrix (attn_qkv), gate and up in one (ffn_up of 2 F rows, the
 * gate first), with their biases. */
static int bind_fused(Binder *b, int l)
{
    Model *m = b->m;
    Layer *ly = &m->layer[l];
    int64_t Q = dim_of(m, ly, DIM_Q), KV = dim_of(m, ly, DIM_KV), F = ly->n_ff;
    const Tensor *t = NULL;
    const float *bias = NULL;
    char name[64];
    snprintf(name, sizeof name, "blk.%d.attn_qkv.weight", l);
    int found = bind_tensor(b, name, m->n_embd, Q + 2 * KV, 0, &t);
    if (found < 0) return -1;
    if (found) {
        ly->wq = view_rows(m, t, 0, Q);
        ly->wk = view_rows(m, t, Q, KV);
        ly->wv = view_rows(m, t, Q + KV, KV);
        snprintf(name, sizeof name, "blk.%d.attn_q.bias", l);
        int needed = m->has & HAS_QKV_BIAS && !gguf_tensor(&m->g, name);
        snprintf(name, sizeof name, "blk.%d.attn_qkv.bias", l);
        if (bind_vector(b, name, Q + 2 * KV, needed, &bias) < 0) return -1;
        ly->bq = bias;
        ly->bk = bias ? bias + Q : NULL;
        ly->bv = bias ? bias + Q + KV : NULL;
    }
    snprintf(name, sizeof name, "blk.%d.ffn_up.weight", l);
    t = gguf_tensor(&m->g, name);
    if (ly->n_expert || !(m->arch->has & HAS_GATE) || !t || t->ne[1] != 2 * F) return 0;
    if (bind_tensor(b, name, m->n_embd, 2 * F, 1, &t) < 0) return -1;
    ly->w_gate = view_rows(m, t, 0, F);
    ly->w_up = view_rows(m, t, F, F);
    return 0;
}

/* A copy of w[heads][D], the pairs of every head adjacent. */
static const float *joined(Model *m, const Rope *r, const float *w, int heads)
{
    size_t n = (size_t)heads * (size_t)m->head_dim;
    float *copy = xcalloc(n, sizeof *copy);
    memcpy(copy, w, n * sizeof *copy);
    join_halves(r, copy, heads);
    m->owned = xrealloc(m->owned, (size_t)m->n_owned + 1, sizeof *m->owned);
    return m->owned[m->n_owned++] = copy;
}

/* The weights of a norm of queries or keys: D for every head alike (QK_HEAD), D for each head
 * (QK_OWN), or those of all heads of a token, which are normed together (QK_ALL). */
static int bind_head_norm(Binder *b, int l, const char *what, int heads, const float **out)
{
    static const char *const ways[] = {"", "each head by the same weights",
                                       "each head by its own weights", "all heads together"};
    const Layer *ly = &b->m->layer[l];
    int64_t D = b->m->head_dim, cols = ly->qk_norm == QK_ALL ? heads * D : D;
    int64_t rows = ly->qk_norm == QK_OWN ? heads : 1;
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", l, what);
    const Tensor *t = gguf_tensor(&b->m->g, name);
    if (t && (t->ne[0] != cols || t->ne[1] != rows || t->ne[2] != 1 || t->ne[3] != 1))
        return err_set(b->e,
                       "%s: tensor '%s': queries and keys are normed %s: expected shape [%lld, "
                       "%lld], found [%lld, %lld, %lld, %lld]",
                       b->m->g.path, name, ways[ly->qk_norm], (long long)cols, (long long)rows,
                       (long long)t->ne[0], (long long)t->ne[1], (long long)t->ne[2],
                       (long long)t->ne[3]);
    int found = bind_floats(b, name, cols, rows, 1, out);
    if (found > 0 && b->m->rope[ly->rope].layout == ROPE_HALF)
        *out = joined(b->m, &b->m->rope[ly->rope], *out, ly->qk_norm == QK_HEAD ? 1 : heads);
    return found;
}

/* Norms of queries and keys: both, of the same kind, which the shape for the queries tells where
 * the architecture does not; a single head is normed alike in all three ways. */
static int bind_qk_norm(Binder *b, int l)
{
    Layer *ly = &b->m->layer[l];
    char name[64];
    if (!(b->m->has & HAS_QK_NORM)) return 0;
    snprintf(name, sizeof name, "blk.%d.attn_q_norm.weight", l);
    const Tensor *t = gguf_tensor(&b->m->g, name);
    ly->qk_norm = b->m->arch->qk_norm;
    if (!ly->qk_norm)
        ly->qk_norm = t && t->ne[1] > 1                 ? QK_OWN
                      : t && t->ne[0] != b->m->head_dim ? QK_ALL
                                                        : QK_HEAD;
    return bind_head_norm(b, l, "attn_q_norm", ly->n_q_heads, &ly->q_norm) < 0 ||
                   bind_head_norm(b, l, "attn_k_norm", ly->n_kv_heads, &ly->k_norm) < 0
               ? -1
               : 0;
}

/* One matrix of every expert, (*out)[X] of [rows, cols]: slices of one tensor, or as old files have
 * it a tensor each. */
static int bind_expert_matrix(Binder *b, int l, const char *what, const int64_t ne[3],
                              const Tensor **out)
{
    Model *m = b->m;
    const Layer *ly = &m->layer[l];
    float share = (float)ly->n_used / (float)ly->n_expert;
    const Tensor *t = NULL;
    char whole[64], name[64];
    snprintf(whole, sizeof whole, "blk.%d.ffn_%s_exps.weight", l, what);
    snprintf(name, sizeof name, "blk.%d.ffn_%s.0.weight", l, what);
    int found = bind_stack(b, whole, ne, !gguf_tensor(&m->g, name), &t);
    if (found < 0) return -1;
    Tensor *v = new_views(m, ly->n_expert);
    for (int x = 0; x < ly->n_expert; x++) {
        snprintf(name, sizeof name, "blk.%d.ffn_%s.%d.weight", l, what, x);
        if (!found && bind_tensor(b, name, ne[0], ne[1], 1, &t) < 0) return -1;
        v[x] = part_of(t, found ? x * ne[1] : 0, ne[1]);
        m->read_share[t - m->g.tensors] = share;
    }
    *out = v;
    return 0;
}

/* The width that the file says, or else that its first matrix of that name has. */
static int64_t width_of(const Model *m, int l, const char *what, int said)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", l, what);
    const Tensor *t = gguf_tensor(&m->g, name);
    return said || !t ? said : t->ne[1] < MAX_FF ? t->ne[1] : MAX_FF;
}

/* The expert that every token takes, in the place of the dense network, and its gate. */
static int bind_shared(Binder *b, int l)
{
    Model *m = b->m;
    Layer *ly = &m->layer[l];
    int said = 0;
    ly->n_ff = 0;
    if (!(m->arch->has & HAS_SHARED)) return 0;
    if (hyper_int(m, "expert_shared_feed_forward_length", 0, MAX_FF, 0, &said, b->e)) return -1;
    ly->n_ff = (int)width_of(m, l, "ffn_up_shexp", said);
    const struct {
        const char *what;
        const Tensor **to;
        int64_t cols, rows;
    } part[] = {{"gate", &ly->w_gate, m->n_embd, ly->n_ff},
                {"up", &ly->w_up, m->n_embd, ly->n_ff},
                {"down", &ly->w_down, ly->n_ff, m->n_embd}};
    char name[64];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "blk.%d.ffn_%s_shexp.weight", l, part[i].what);
        if (bind_tensor(b, name, part[i].cols, part[i].rows, 1, part[i].to) < 0) return -1;
    }
    snprintf(name, sizeof name, "blk.%d.ffn_gate_inp_shexp.weight", l);
    return bind_vector(b, name, m->n_embd, 1, &ly->shared_gate) < 0 ? -1 : 0;
}

/* The experts of a layer that has some: a layer without a router is dense. The router is float,
 * whatever the file has it in, so that no expert is chosen by a rounding of its input. */
static int bind_experts(Binder *b, int l)
{
    Model *m = b->m;
    Layer *ly = &m->layer[l];
    const float *router = NULL;
    char name[64];
    int64_t E = m->n_embd, X = m->n_expert;
    snprintf(name, sizeof name, "blk.%d.ffn_gate_inp.weight", l);
    if (!gguf_tensor(&m->g, name)) return 0;
    if (!X)
        return err_set(b->e, "%s: key '%s.expert_count': expected 1 or more, as there is '%s'",
                       m->g.path, m->arch->name, name);
    if (bind_floats(b, name, E, X, 1, &router) < 0) return -1;
    ly->n_expert = m->n_expert;
    int64_t F = width_of(m, l, "ffn_up_exps", ly->n_ff_exp);
    ly->n_ff_exp = (int)(F ? F : width_of(m, l, "ffn_up.0", 0));
    Tensor *r = new_views(m, 1);
    *r = (Tensor){.type = T_F32,
                  .n_dims = 2,
                  .ne = {E, X, 1, 1},
                  .row_bytes = (size_t)E * sizeof *router,
                  .bytes = (size_t)(E * X) * sizeof *router,
                  .data = (const uint8_t *)router};
    ly->router = r;
    const int64_t in[] = {E, ly->n_ff_exp, X}, out[] = {ly->n_ff_exp, E, X};
    return bind_expert_matrix(b, l, "up", in, &ly->up_exps) ||
           bind_expert_matrix(b, l, "gate", in, &ly->gate_exps) ||
           bind_expert_matrix(b, l, "down", out, &ly->down_exps) || bind_shared(b, l);
}

/* Is this tensor one of the dense network, which experts have taken the place of? */
static int is_dense(const char *name)
{
    return strncmp(name, "ffn_", 4) == 0 && strncmp(name, "ffn_norm", 8) != 0;
}

/* Only what forward reads is bound: see refuse_unknown. */
static int bind_layer(Binder *b, int l)
{
    Layer *ly = &b->m->layer[l];
    unsigned has = b->m->has;
    if (bind_experts(b, l) || bind_fused(b, l)) return -1;
    for (size_t i = 0; i < N_LAYER_BINDS; i++) {
        const Bind *row = &layer_binds[i];
        char name[64];
        void *field = (char *)ly + row->field;
        int64_t ne0 = dim_of(b->m, ly, row->row), ne1 = dim_of(b->m, ly, row->rows);
        const void *bound;
        memcpy(&bound, field, sizeof bound);
        if (bound || (ly->n_expert && is_dense(row->name))) continue; /* a part of another one */
        if (((has | ANY_BIAS) & row->of) != row->of) continue;
        int needed = (has & row->of) == row->of;
        snprintf(name, sizeof name, "blk.%d.%s", l, row->name);
        int found = row->vector ? bind_vector(b, name, ne0, needed, field)
                                : bind_tensor(b, name, ne0, ne1, needed, field);
        if (found < 0) return -1;
    }
    if (bind_qk_norm(b, l)) return -1;
    if (!ly->surplus) return 0; /* the first half of the rows is used */
    ly->wq = view_rows(b->m, ly->wq, 0, ly->wq->ne[1] / 2);
    ly->wk = view_rows(b->m, ly->wk, 0, ly->wk->ne[1] / 2);
    ly->wv = view_rows(b->m, ly->wv, 0, ly->wv->ne[1] / 2);
    return 0;
}

/* A tensor nobody bound would change the result if it were obeyed: say so instead of ignoring it.
 * (attn_rot_embd is an old copy of the rotary frequencies.) */
static int refuse_unknown(Binder *b)
{
    const Gguf *g = &b->m->g;
    char name[96];
    for (size_t i = 0; i < g->n_tensors; i++) {
        Str s = g->tensors[i].name;
        if (b->used[i] || memmem(s.s, s.n, "rot_embd", 8)) continue;
        return err_set(b->e,
                       "%s: tensor '%s' is not part of architecture '%s' as this program knows "
                       "it; ignoring it could give wrong results",
                       g->path, show(s, name), b->m->arch->name);
    }
    return 0;
}

/* leading_dense_block_count: so many layers, the first ones, have no experts. Which ones have, the
 * tensors say. */
static int check_dense(const Model *m, Err *e)
{
    int n = 0;
    char key[128];
    if (hyper_int(m, "leading_dense_block_count", 0, m->n_layers, 0, &n, e)) return -1;
    for (int l = 0; l < n; l++)
        if (m->layer[l].n_expert)
            return err_set(e,
                           "%s: key '%s': expected at most %d, as 'blk.%d' has experts, found %d",
                           m->g.path, arch_key(m, "leading_dense_block_count", key), l, l, n);
    return 0;
}

static int bind_tensors(Binder *b)
{
    Model *m = b->m;
    int bad = bind_tensor(b, "token_embd.weight", m->n_embd, m->n_vocab, 1, &m->tok_embd) < 0;
    m->output = m->tok_embd; /* tied, unless the file has a matrix of its own */
    int normed = m->arch->norm != NORM_UNIT, biased = (m->has & HAS_NORM_BIAS) != 0;
    bad = bad ||
          bind_tensor(b, "output.weight", m->n_embd, m->n_vocab, (m->has & HAS_OUTPUT) != 0,
                      &m->output) < 0 ||
          bind_vector(b, "output.bias", m->n_vocab, (m->has & HAS_OUTPUT_BIAS) != 0,
                      &m->output_bias) < 0 ||
          (normed && bind_vector(b, "output_norm.weight", m->n_embd, 1, &m->output_norm) < 0) ||
          (biased && bind_vector(b, "output_norm.bias", m->n_embd, 1, &m->output_norm_bias) < 0);
    for (int l = 0; !bad && l < m->n_layers; l++) bad = bind_layer(b, l);
    if (bad || refuse_unknown(b) || check_dense(m, b->e)) return -1;
    for (int l = 0; l < m->n_layers; l++) {
        const Layer *ly = &m->layer[l];
        m->max_ff = max_of(m->max_ff, ly->n_ff);
        m->max_used = max_of(m->max_used, ly->n_expert ? ly->n_used : 0);
        m->max_ff_exp = max_of(m->max_ff_exp, ly->n_expert ? ly->n_ff_exp : 0);
    }
    return 0;
}

/* Does any layer have a tensor of this name? */
static int other_layer(const Gguf *g, const char *name)
{
    char full[128];
    for (size_t i = 0; g && i < g->n_tensors; i++) {
        Str s = g->tensors[i].name;
        int n = snprintf(full, sizeof full, ".%s", name);
        if (s.n > (size_t)n && memcmp(s.s, "blk.", 4) == 0 &&
            memcmp(s.s + s.n - n, full, (size_t)n) == 0)
            return 1;
    }
    return 0;
}

/* The same from a list. */
static int take_list(const RopeList *list, Rope *r, int i, int64_t cols, int64_t rows, Err *e)
{
    if (list->n != cols || rows != 1)
        return err_set(e, "rope %s: %s: expected %lld numbers, found %d", r->kind->name, list->name,
                       (long long)cols, list->n);
    MUST(i >= 0 && i < ROPE_WEIGHTS && !r->w[i]);
    r->n_w[i] = (size_t)cols;
    r->w[i] = xcalloc(r->n_w[i], sizeof *r->w[i]);
    memcpy(r->w[i], list->v, r->n_w[i] * sizeof *r->w[i]);
    return 1;
}

int rope_tensor(RopeSource *s, Rope *r, int i, const char *name, int64_t cols, int64_t rows, Err *e)
{
    char full[128];
    for (int k = 0; s->list && k < 2; k++)
        if (s->list[k].name && strcmp(s->list[k].name, name) == 0)
            return take_list(&s->list[k], r, i, cols, rows, e);
    snprintf(full, sizeof full, "blk.%d.%s", r->p.layer, name);
    const Tensor *t = s->g ? gguf_tensor(s->g, full) : NULL;
    if (!t && s->g) t = gguf_tensor(s->g, name);
    if (!t && other_layer(s->g, name))
        return err_set(e, "%s: tensor '%s' is missing; other layers have theirs", s->g->path, full);
    if (!t) return 0;
    if (t->ne[0] != cols || t->ne[1] != rows || t->ne[2] != 1 || t->ne[3] != 1)
        return err_set(e,
                       "%s: tensor '%.*s': expected shape [%lld, %lld], found [%lld, %lld, %lld, "
                       "%lld]",
                       s->g->path, (int)t->name.n, t->name.s, (long long)cols, (long long)rows,
                       (long long)t->ne[0], (long long)t->ne[1], (long long)t->ne[2],
                       (long long)t->ne[3]);
    MUST(i >= 0 && i < ROPE_WEIGHTS && !r->w[i]);
    if (s->used) s->used[t - s->g->tensors] = 1;
    s->taken++;
    r->n_w[i] = (size_t)(cols * rows);
    r->w[i] = xcalloc(r->n_w[i], sizeof *r->w[i]);
    Q32 *q = xcalloc((size_t)cols / QB + 1, sizeof *q);
    float *row = xcalloc((size_t)cols, sizeof *row);
    for (int64_t k = 0; k < rows; k++)
        memcpy(r->w[i] + k * cols, row_floats(&kernels_base, t, (int)k, row, q),
               (size_t)cols * sizeof *row);
    free(row);
    free(q);
    return 1;
}

static int hyper_layers(const Model *m, const char *name, int hi, const int *def, int *out, Err *e)
{
    char key[128];
    int found = gguf_per_layer(&m->g, arch_key(m, name, key), 1, hi, out, m->n_layers, e);
    if (found == 0 && !def)
        return err_set(e, "%s: key '%s' is missing; expected an integer", m->g.path, key);
    for (int l = 0; found == 0 && l < m->n_layers; l++) out[l] = def[l];
    return found < 0 ? -1 : 0;
}

/* In models that mix layers with and without a window, which is which? local[n_layers]: from
 * attention.sliding_window_pattern, 1 or 0 for each layer, or a number n: the last of n layers has
 * none (0: all have one); else the architecture knows. */
static int read_local(const Model *m, int *local, Err *e)
{
    char key[128];
    int every = m->arch->window_every;
    const GgufKey *k = gguf_find(&m->g, arch_key(m, "attention.sliding_window_pattern", key));
    if (k && k->type == GGUF_ARR)
        return gguf_per_layer(&m->g, key, 0, 1, local, m->n_layers, e) < 0 ? -1 : 0;
    if (k && hyper_int(m, "attention.sliding_window_pattern", 0, 1 << 16, 0, &every, e)) return -1;
    for (int l = 0; l < m->n_layers; l++) local[l] = !every || (l + 1) % every;
    return 0;
}

/* Heads and widths of every layer, from scalars or arrays. */
static int read_layers(Model *m, Err *e)
{
    size_t L = (size_t)m->n_layers;
    int *n = xcalloc(4 * L, sizeof *n), *local = n + 3 * L, window = 0;
    int bad = hyper_layers(m, "attention.head_count", 1 << 16, NULL, n, e) ||
              hyper_layers(m, "attention.head_count_kv", 1 << 16, n, n + L, e) ||
              hyper_layers(m, "feed_forward_length", MAX_FF, NULL, n + 2 * L, e) ||
              hyper_int(m, "attention.sliding_window", 0, INT_MAX, m->arch->window, &window, e) ||
              read_local(m, local, e);
    m->layer = xcalloc(L, sizeof *m->layer);
    for (size_t l = 0; !bad && l < L; l++) {
        m->layer[l] = (Layer){.n_heads = n[l],
                              .n_kv_heads = n[L + l],
                              .n_ff = n[2 * L + l],
                              .n_q_heads = n[l],
                              .n_o_heads = n[l],
                              .window = local[l] ? window : 0};
        if (n[l] % n[L + l])
            bad = err_set(e,
                          "%s: key '%s.attention.head_count_kv': expected a divisor of the %d "
                          "heads of layer %zu, found %d",
                          m->g.path, m->arch->name, n[l], l, n[L + l]);
    }
    free(n);
    return bad;
}

/* A vocab_size, where the file has one, is a number, but what counts is the rows of the embedding:
 * tools that add or cut rows leave the old one. How many tokens there are to choose from is another
 * matter: see n_choices. */
static int check_vocab_size(const Model *m, Err *e)
{
    int said;
    return hyper_int(m, "vocab_size", 1, INT_MAX, m->n_vocab, &said, e);
}

static int read_shape(Model *m, Err *e)
{
    int value_dim = 0;
    const Tensor *embd = gguf_tensor(&m->g, "token_embd.weight");
    if (hyper_int(m, "block_count", 1, 4096, -1, &m->n_layers, e) ||
        hyper_int(m, "embedding_length", 1, 1 << 20, -1, &m->n_embd, e) ||
        hyper_int(m, "context_length", 1, INT_MAX, -1, &m->n_ctx_train, e))
        return -1;
    if (!embd) return err_set(e, "%s: tensor 'token_embd.weight' is missing", m->g.path);
    m->n_vocab = (int)embd->ne[1];
    if (check_vocab_size(m, e) || read_layers(m, e)) return -1;
    int split = m->n_embd / m->layer[0].n_heads;
    if (hyper_int(m, "attention.key_length", 1, 1 << 14, split, &m->head_dim, e) ||
        hyper_int(m, "attention.value_length", 1, 1 << 14, m->head_dim, &value_dim, e))
        return -1;
    if (m->head_dim < 1 || value_dim != m->head_dim)
        return err_set(e,
                       "%s: keys have %d values per head and values %d; expected the same, above "
                       "0",
                       m->g.path, m->head_dim, value_dim);
    return 0;
}

/* Frequency divisors of a file (Llama 3.1 and later), of one layer or of all. */
static int read_divisors(Binder *b, RopeParams *p)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%d.rope_freqs.weight", p->layer);
    if (!gguf_tensor(&b->m->g, name)) snprintf(name, sizeof name, "rope_freqs.weight");
    if (bind_vector(b, name, p->n_rot / 2, 0, &p->divisors) < 0) return -1;
    for (int j = 0; p->divisors && j < p->n_rot / 2; j++)
        if (!(p->divisors[j] > 0))
            return err_set(b->e, "%s: tensor '%s': divisor %d is %g; expected a number above 0",
                           b->m->g.path, name, j, (double)p->divisors[j]);
    return 0;
}

/* Lists of divisors belong to an encoding that the command line may have replaced. */
static void know_factors(Binder *b)
{
    for (size_t i = 0; i < b->m->g.n_tensors; i++)
        if (memmem(b->m->g.tensors[i].name.s, b->m->g.tensors[i].name.n, "rope_factors_", 13))
            b->used[i] = 1;
}

/* RopeParams.n_split: what turns by what the file says, before anybody says otherwise. A layer that
 * does not turn has its rows as the others. */
static int file_split(const Model *m, const RopeSpec *spec)
{
    RopeParams p = spec->p;
    Err none;
    if (m->arch->hf_adjacent) return -1;
    int bad = spec->kind->params && spec->kind->params(&p, &none);
    int n = bad || p.n_rot <= 0 || p.n_rot % 2 ? spec->p.n_rot : p.n_rot;
    return n > 0 && n <= m->head_dim ? n - n % 2 : 0;
}

/* What the file says about the encoding of every layer. Where the command line says something else
 * for all of them, it need not be something that this program has. */
static int file_ropes(Binder *b, const ModelOptions *opt, RopeSpec *spec)
{
    Model *m = b->m;
    int replaced = (opt->rope || opt->rope_factor > 0) && !opt->rope_layers;
    int *local = xcalloc((size_t)m->n_layers, sizeof *local);
    RopeFile f = {.g = &m->g,
                  .arch = m->arch->name,
                  .n_layers = m->n_layers,
                  .local = local,
                  .local_base = m->arch->local_base,
                  .local_scaling = m->arch->local_scaling,
                  .mixed = m->arch->window_every > 0,
                  .nope_every = m->arch->nope_every,
                  .untuned_nope = m->arch->untuned_nope};
    Err ignored;
    for (int l = 0; l < m->n_layers; l++) {
        local[l] = m->layer[l].window > 0;
        spec[l].kind = &rope_plain;
        spec[l].p = rope_params(m->head_dim, m->arch->rope_base);
        spec[l].p.layer = l;
        spec[l].p.n_layers = m->n_layers;
        spec[l].p.window = m->layer[l].window;
        spec[l].p.n_heads = m->layer[l].n_heads;
        spec[l].p.n_kv_heads = m->layer[l].n_kv_heads;
        spec[l].p.n_embd = m->n_embd;
        spec[l].p.n_ctx_train = m->n_ctx_train;
        spec[l].p.score_scale = (double)m->score_scale;
    }
    int bad = rope_file_shape(&f, spec, b->e);
    for (int l = 0; !bad && l < m->n_layers; l++) bad = read_divisors(b, &spec[l].p);
    bad = bad || (rope_file_kind(&f, spec, replaced ? &ignored : b->e) && !replaced);
    for (int l = 0; !bad && l < m->n_layers; l++) spec[l].p.n_split = file_split(m, &spec[l]);
    know_factors(b);
    free(local);
    return bad ? -1 : 0;
}

/* What the command line says instead, for one layer. With another number of rotated values the
 * file's divisors have no meaning. */
static int override_rope(const ModelOptions *opt, RopeSpec *spec, Err *e)
{
    RopeParams *p = &spec->p;
    int n_rot = p->n_rot;
    char text[64];
    if (opt->rope_layers && !opt->rope && !(opt->rope_factor > 0))
        return err_usage(e, "--rope-layers %s says where --rope acts: give that, too",
                         opt->rope_layers);
    if (opt->rope_factor > 0) {
        if (opt->rope && strcmp(opt->rope, "linear"))
            return err_usage(e, "--rope-scale is the factor of --rope linear, not of --rope %s",
                             opt->rope);
        snprintf(text, sizeof text, "linear:factor=%.17g", opt->rope_factor);
        return rope_parse(text, p, &spec->kind, e);
    }
    if (opt->rope && rope_parse(opt->rope, p, &spec->kind, e)) return -1;
    if (p->n_rot != n_rot) p->divisors = NULL;
    return 0;
}

/* The same from a config.json, which says everything itself. */
static int config_rope(const Model *m, const char *path, const ConfigRope *c, RopeSpec *spec,
                       Err *e)
{
    RopeParams *p = &spec->p, fresh = rope_params(m->head_dim, m->arch->rope_base);
    p->n_rot = fresh.n_rot;
    p->base = fresh.base;
    p->factor = 1;
    p->divisors = NULL;
    if (m->arch->layout == ROPE_HALF) p->n_split = 0; /* rows as in its checkpoint */
    return rope_read(path, c->spec, spec, e);
}

static int is_config(const char *rope)
{
    size_t n = rope ? strlen(rope) : 0;
    return n > 5 && strcmp(rope + n - 5, ".json") == 0;
}

static int same_number(double a, double b)
{
    return (a >= b && a <= b) || (isnan(a) && isnan(b));
}

static int same_positions(const Rope *a, const Rope *b)
{
    size_t bytes = (size_t)a->n_positions * sizeof *a->positions;
    return a->n_positions == b->n_positions &&
           (!bytes || memcmp(a->positions, b->positions, bytes) == 0);
}

static int same_weights(const Rope *a, const Rope *b)
{
    for (int i = 0; i < ROPE_WEIGHTS; i++) {
        size_t bytes = a->n_w[i] * sizeof *a->w[i];
        if (a->n_w[i] != b->n_w[i] || (bytes && memcmp(a->w[i], b->w[i], bytes))) return 0;
    }
    return 1;
}

/* Would two layers turn alike? What is remembered is kept per layer, whatever they share. */
static int same_rope(const Rope *a, const Rope *b)
{
    const RopeParams *p = &a->p, *q = &b->p;
    size_t bytes = (size_t)a->sets * (size_t)a->n_pairs * sizeof *a->inv_freq;
    int same = a->kind == b->kind && same_weights(a, b) && same_positions(a, b) &&
               a->sets == b->sets && a->n_pairs == b->n_pairs &&
               same_number(a->amplitude, b->amplitude) && p->n_heads == q->n_heads &&
               p->n_kv_heads == q->n_kv_heads && p->copies == q->copies &&
               same_number(p->pos_scale, q->pos_scale) && same_number(p->pos_shift, q->pos_shift) &&
               same_number(p->base, q->base) && same_number(p->factor, q->factor) &&
               p->n_ctx_orig == q->n_ctx_orig && split_values(a) == split_values(b) &&
               p->window == q->window;
    for (int i = 0; same && i < ROPE_ARGS; i++) same = same_number(p->arg[i], q->arg[i]);
    return same && memcmp(a->inv_freq, b->inv_freq, bytes) == 0;
}

/* The encoding of layer l, made or shared with a layer before it. from: the file that asks for it,
 * or NULL; list: see RopeSource. */
static int add_rope(Binder *b, int l, const RopeSpec *spec, const char *from, const RopeList *list)
{
    Model *m = b->m;
    Layer *ly = &m->layer[l];
    RopeSource source = {&m->g, b->used, list, &b->own, 0};
    Rope *r = &m->rope[m->n_ropes];
    Err why = {.usage = 0};
    if (rope_new(r, spec->kind, &spec->p, m->arch->layout, &source, &why)) {
        const char *msg = why.msg + (from && strncmp(why.msg, "--", 2) == 0 ? 2 : 0);
        if (!from || strncmp(msg, from, strlen(from)) == 0)
            *b->e = why;
        else
            err_set(b->e, "%s: %.800s", from, msg);
        return -1;
    }
    for (ly->rope = 0; ly->rope < m->n_ropes; ly->rope++)
        if (same_rope(&m->rope[ly->rope], r)) {
            rope_free(r);
            return 0;
        }
    m->n_ropes++;
    return 0;
}

/* Tables of angles: layers that need one of their own take turns with one place. */
static void place_tables(Model *m)
{
    int own = 0;
    m->n_tables = 0;
    for (int i = 0; i < m->n_ropes; i++) {
        if (of_one_layer(&m->rope[i])) {
            own = max_of(own, rope_tables(&m->rope[i]));
        } else {
            m->rope[i].table = m->n_tables;
            m->n_tables += rope_tables(&m->rope[i]);
        }
    }
    for (int i = 0; i < m->n_ropes; i++)
        if (of_one_layer(&m->rope[i])) m->rope[i].table = m->n_tables;
    m->n_tables += own;
}

/* Heads that are made from fewer projected ones. The file may have tensors for these alone, or (of
 * halved heads) for all: then the first are used. */
static int halve_heads(Model *m, int l, Err *e)
{
    Layer *ly = &m->layer[l];
    char name[64];
    if (ly->n_kv_heads % 2)
        return err_usage(e,
                         "--rope %s: half of the key heads are projected: expected an even number "
                         "of them, found %d in layer %d",
                         m->rope[ly->rope].kind->name, ly->n_kv_heads, l);
    snprintf(name, sizeof name, "blk.%d.attn_q.weight", l);
    const Tensor *wq = gguf_tensor(&m->g, name);
    ly->surplus = wq && wq->ne[1] == (int64_t)ly->n_q_heads * m->head_dim;
    ly->n_q_heads /= 2;
    ly->n_kv_heads /= 2;
    return 0;
}

/* Copies of query heads: attention has more heads than are projected. */
static int expand_heads(Model *m, int l, Err *e)
{
    Layer *ly = &m->layer[l];
    const RopeParams *p = &m->rope[ly->rope].p;
    char name[64];
    if (p->copies == 1) return 0;
    MUST(p->copies == 2);
    if (p->halved) return halve_heads(m, l, e);
    snprintf(name, sizeof name, "blk.%d.attn_output.weight", l);
    const Tensor *wo = gguf_tensor(&m->g, name);
    ly->n_heads = p->copies * ly->n_q_heads;
    ly->n_o_heads =
        wo && wo->ne[0] == (int64_t)ly->n_heads * m->head_dim ? ly->n_heads : ly->n_q_heads;
    return 0;
}

static void widest_layer(Model *m)
{
    for (int l = 0; l < m->n_layers; l++) {
        m->max_heads = max_of(m->max_heads, m->layer[l].n_heads);
        m->max_kv_heads = max_of(m->max_kv_heads, m->layer[l].n_kv_heads);
    }
}

/* Is this tensor of a layer that the encoding was not asked for, one that layers with it take? */
static int of_other_layer(const OwnFile *f, const Tensor *t, const uint8_t *on, int n_layers)
{
    char name[128], full[160];
    int l = -1;
    if (t->name.n >= sizeof name) return 0;
    snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.s);
    const char *rest = strncmp(name, "blk.", 4) ? NULL : strchr(name + 4, '.');
    if (!rest || sscanf(name + 4, "%4d", &l) != 1 || l < 0 || l >= n_layers || on[l]) return 0;
    for (int k = 0; k < n_layers; k++) {
        snprintf(full, sizeof full, "blk.%d%s", k, rest);
        const Tensor *same = gguf_tensor(&f->g, full);
        if (same && f->used[same - f->g.tensors]) return 1;
    }
    return 0;
}

/* A tensor of the file of weights that no layer took would change the result if it were obeyed. */
static int refuse_leftover(const Binder *b, const uint8_t *on)
{
    const OwnFile *f = &b->own;
    char name[96];
    for (size_t i = 0; f->used && i < f->g.n_tensors; i++) {
        if (f->used[i] || of_other_layer(f, &f->g.tensors[i], on, b->m->n_layers)) continue;
        return err_set(b->e,
                       "%s: tensor '%s' is not one that these settings of --rope take in a model "
                       "of %d layers; ignoring it could give wrong results",
                       f->g.path, show(f->g.tensors[i].name, name), b->m->n_layers);
    }
    return 0;
}

/* Every layer's encoding: what the file says, or what the command line says instead. */
static int add_ropes(Binder *b, const ModelOptions *opt, const uint8_t *on, RopeSpec *spec)
{
    Model *m = b->m;
    RopeConfig c = {.n = 0};
    int bad = 0, config = is_config(opt->rope) && !(opt->rope_factor > 0);
    if (config && rope_config_open(&c, opt->rope, m->n_layers, m->head_dim, b->e)) return -1;
    for (int l = 0; !bad && l < m->n_layers; l++) {
        const ConfigRope *of = config && on[l] ? &c.rope[c.of_layer[l]] : NULL;
        int said = on[l] && (opt->rope || opt->rope_factor > 0);
        const char *from = of ? opt->rope : said ? NULL : m->g.path;
        if (of)
            bad = config_rope(m, opt->rope, of, &spec[l], b->e);
        else if (on[l])
            bad = override_rope(opt, &spec[l], b->e);
        bad =
            bad || add_rope(b, l, &spec[l], from, of ? of->list : NULL) || expand_heads(m, l, b->e);
    }
    bad = bad || refuse_leftover(b, on);
    own_close(&b->own);
    rope_config_free(&c);
    return bad;
}

/* Encodings that say the same share a line: marks the layers of encoding i; 0: an earlier one had
 * them. */
static int rope_group(const Model *m, int i, char *text, size_t size, char *layer)
{
    char other[1024];
    int first = 1;
    rope_text(&m->rope[i], text, size);
    memset(layer, 0, (size_t)m->n_layers);
    for (int k = 0; k < m->n_ropes; k++) {
        rope_text(&m->rope[k], other, sizeof other);
        if (strcmp(text, other)) continue;
        first &= k >= i;
        for (int l = 0; l < m->n_layers; l++) layer[l] |= m->layer[l].rope == k;
    }
    return first;
}

/* Encodings of a config.json by name, in the layers that it was asked for. */
static char *config_said(const Model *m, const char *path, const uint8_t *on)
{
    Bytes b = {0};
    char text[1024], layers[256], *layer = xcalloc((size_t)m->n_layers + 1, 1);
    bytes_add(&b, path, strlen(path));
    for (int i = 0, n = 0; i < m->n_ropes; i++) {
        int some = 0, all = 1;
        if (!rope_group(m, i, text, sizeof text, layer)) continue;
        for (int l = 0; l < m->n_layers; l++) {
            layer[l] &= (char)on[l];
            some |= layer[l];
            all &= layer[l];
        }
        if (!some) continue;
        list_runs(layer, m->n_layers, layers, sizeof layers);
        const char *part[] = {n++ ? "; " : ": ", text, all ? "" : " in layers ", all ? "" : layers};
        for (int k = 0; k < 4; k++) bytes_add(&b, part[k], strlen(part[k]));
    }
    free(layer);
    return b.s;
}

static int read_rope(Binder *b, const ModelOptions *opt)
{
    Model *m = b->m;
    RopeSpec *spec = xcalloc((size_t)m->n_layers, sizeof *spec);
    uint8_t *on = xcalloc((size_t)m->n_layers, 1);
    m->rope = xcalloc((size_t)m->n_layers + 1, sizeof *m->rope);
    int bad = list_parse("--rope-layers", opt->rope_layers, m->n_layers, on, b->e) ||
              file_ropes(b, opt, spec) || add_ropes(b, opt, on, spec);
    if (!bad && is_config(opt->rope)) m->config_rope = config_said(m, opt->rope, on);
    free(spec);
    free(on);
    if (bad) return -1;
    for (int r = 0; opt->truncate && r < m->n_ropes; r++) {
        const RopeKind *of = m->rope[r].kind;
        if (of->length || of->angles || of->per_head)
            return err_usage(b->e, "--keep-rope: the pairs of %s have no frequencies of their own",
                             of->name);
        rope_keep(&m->rope[r], opt->rope_keep);
    }
    place_tables(m);
    widest_layer(m);
    return 0;
}

/* Keys that change the result and are not obeyed here, with the value that changes nothing. */
static const struct {
    const char *name;
    double neutral;
} unsupported_keys[] = {
    {"attention.temperature_scale", 0},
    {"attention.temperature_length", 0},
    {"attention.compress_rope_freq_base", 0},
    {"attention.causal", 1},
    {"expert_gating_func", 1}, /* softmax */
    {"expert_group_count", 0},
};

static int refuse_keys(const Model *m, Err *e)
{
    char key[128];
    for (size_t i = 0; i < sizeof unsupported_keys / sizeof *unsupported_keys; i++) {
        double neutral = unsupported_keys[i].neutral, v = neutral;
        const GgufKey *k = gguf_find(&m->g, arch_key(m, unsupported_keys[i].name, key));
        if (!k) continue;
        int64_t whole = 0;
        int is_float = k->elem == GGUF_F32 || k->elem == GGUF_F64, yes = 0;
        int bad = is_float               ? gguf_float(&m->g, key, -1e30, 1e30, &v, e) < 0
                  : k->elem == GGUF_BOOL ? gguf_bool(&m->g, key, &yes, e) < 0
                                         : gguf_int(&m->g, key, INT_MIN, INT_MAX, &whole, e) < 0;
        if (bad) return -1;
        if (!is_float) v = (double)(whole + yes);
        if (v < neutral || v > neutral)
            return err_set(e,
                           "%s: key '%s': expected %g, found %g, which this program does not have",
                           m->g.path, key, neutral, v);
    }
    return 0;
}

/* A float hyper-parameter, if the file has it. */
static int hyper_float(const Model *m, const char *name, double lo, double hi, double *out, Err *e)
{
    char key[128];
    return gguf_float(&m->g, arch_key(m, name, key), lo, hi, out, e) < 0 ? -1 : 0;
}

/* How many experts there are and a token uses, and how their outputs are weighted. */
static int read_experts(Model *m, Err *e)
{
    char key[128], norm_key[128];
    size_t L = (size_t)m->n_layers;
    arch_key(m, "expert_weights_norm", norm_key);
    m->experts_normed = m->arch->experts == EXPERTS_NORMED;
    m->expert_scale = 1;
    if (hyper_int(m, "expert_count", 0, MAX_EXPERTS, 0, &m->n_expert, e)) return -1;
    if (!m->n_expert) return 0;
    if (m->arch->experts == EXPERTS_NONE)
        return err_set(e,
                       "%s: key '%s': expected 0, as this architecture is known without any, "
                       "found %d",
                       m->g.path, arch_key(m, "expert_count", key), m->n_expert);
    int *n = xcalloc(3 * L, sizeof *n);
    int bad = hyper_layers(m, "expert_used_count", m->n_expert, NULL, n, e) ||
              hyper_layers(m, "expert_feed_forward_length", MAX_FF, n + 2 * L, n + L, e) ||
              gguf_bool(&m->g, norm_key, &m->experts_normed, e) < 0 ||
              hyper_float(m, "expert_weights_scale", -1e30, 1e30, &m->expert_scale, e);
    for (size_t l = 0; l < L; l++) {
        m->layer[l].n_used = n[l];
        m->layer[l].n_ff_exp = n[L + l];
    }
    free(n);
    if (!(m->expert_scale < 0 || m->expert_scale > 0)) m->expert_scale = 1; /* 0: not said */
    return bad ? -1 : 0;
}

/* The epsilon of the architecture's norm. */
static int read_epsilon(Model *m, Err *e)
{
    char key[128];
    double eps = 0;
    arch_key(m,
             m->arch->norm == NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                       : "attention.layer_norm_epsilon",
             key);
    int found = gguf_float(&m->g, key, 0, 1, &eps, e);
    if (found == 0) return err_set(e, "%s: key '%s' is missing; expected a number", m->g.path, key);
    m->norm_eps = (float)eps;
    return found < 0 ? -1 : 0;
}

/* A factor that the file may have; 0 says that there is none. */
static int hyper_scale(const Model *m, const char *name, double *out, Err *e)
{
    double v = 0;
    if (hyper_float(m, name, 0, 1e30, &v, e)) return -1;
    if (v > 0) *out = v;
    return 0;
}

/* A soft cap; 0 says that there is none. Under the smallest one all logits would be as good as
 * alike: no model was trained with that. */
static int hyper_cap(const Model *m, const char *name, double *out, Err *e)
{
    const double least = 1e-6;
    char key[128];
    if (hyper_float(m, name, 0, 1e30, out, e)) return -1;
    if (*out <= 0 || *out >= least) return 0;
    return err_set(e, "%s: key '%s': expected 0 or a number from %g to 1e+30, found %g", m->g.path,
                   arch_key(m, name, key), least, *out);
}

/* Numbers by which activations are multiplied or limited; what the file does not say, the
 * architecture does. */
static int read_scales(Model *m, Err *e)
{
    const Arch *a = m->arch;
    char key[128];
    double D = m->head_dim, score = 0;
    m->residual_scale = m->logit_scale = 1;
    m->embd_scale = a->embd_sqrt ? (double)(float)sqrt((double)m->n_embd) : 1;
    m->attn_cap = a->attn_cap;
    m->final_cap = a->final_cap;
    if (a->logits_divided && !gguf_find(&m->g, arch_key(m, "logit_scale", key)))
        return err_set(e, "%s: key '%s' is missing; expected a number", m->g.path, key);
    if (read_epsilon(m, e) || hyper_float(m, "attention.scale", 0, 1e6, &score, e) ||
        hyper_float(m, "attention.clamp_kqv", 0, 1e30, &m->clamp, e) ||
        hyper_cap(m, "attn_logit_softcapping", &m->attn_cap, e) ||
        hyper_cap(m, "final_logit_softcapping", &m->final_cap, e) ||
        hyper_scale(m, "embedding_scale", &m->embd_scale, e) ||
        hyper_scale(m, "residual_scale", &m->residual_scale, e) ||
        hyper_scale(m, "logit_scale", &m->logit_scale, e))
        return -1;
    if (a->logits_divided) m->logit_scale = 1 / m->logit_scale;
    if (a->wide_layers && m->n_layers == a->wide_layers)
        D = (double)m->n_embd / m->layer[0].n_heads;
    m->score_scale = (float)(score > 0 ? score : 1.0 / sqrt(D));
    return 0;
}

/* Tensors that some files of an architecture have, in all layers, and others have not. */
static const struct {
    unsigned of; /* HAS_... */
    const char *names[4];
} optional_parts[] = {
    {HAS_FFN_NORM, {"ffn_norm.weight", "ffn_norm.bias"}},
    {HAS_QK_NORM, {"attn_q_norm.weight", "attn_k_norm.weight"}},
    {HAS_QKV_BIAS, {"attn_qkv.bias", "attn_q.bias", "attn_k.bias", "attn_v.bias"}},
};

/* HAS_... of this file: one tensor of a part, in any layer, asks for all of it in all layers. */
static unsigned parts_of(const Model *m)
{
    const Arch *a = m->arch;
    unsigned has = a->has;
    if (a->norm == NORM_UNIT) has &= ~(unsigned)(HAS_PRE_NORM | HAS_FFN_NORM);
    for (size_t i = 0; i < sizeof optional_parts / sizeof *optional_parts; i++) {
        unsigned of = optional_parts[i].of & (a->may | ANY_BIAS);
        for (int k = 0; of && k < 4 && optional_parts[i].names[k]; k++)
            if (other_layer(&m->g, optional_parts[i].names[k])) has |= of;
    }
    return has;
}

/* How attention and feed-forward network join the stream: the file must say it for gptneox. A
 * stablelm model without the second norms is parallel, whatever the key says: converters write true
 * for models that are not. */
static int read_residual(Model *m, Err *e)
{
    char key[128];
    const Arch *a = m->arch;
    int parallel = a->residual != RES_SEQUENTIAL;
    m->residual = a->residual;
    int found = gguf_bool(&m->g, arch_key(m, "use_parallel_residual", key), &parallel, e);
    if (found < 0) return -1;
    if (!found && a->residual == RES_TWO_NORMS)
        return err_set(e, "%s: key '%s' is missing; expected true or false", m->g.path, key);
    if (a->may & HAS_FFN_NORM) {
        if (!(m->has & HAS_FFN_NORM)) m->residual = RES_SHARED_NORM;
        return 0;
    }
    if (!parallel && a->residual == RES_TWO_NORMS) m->residual = RES_SEQUENTIAL;
    if (parallel == (m->residual != RES_SEQUENTIAL)) return 0;
    return err_set(e, "%s: key '%s': expected %s for this architecture, found %s", m->g.path, key,
                   parallel ? "false" : "true", parallel ? "true" : "false");
}

/* --window. The encodings are those of the file: which one a layer has goes by the windows there.
 * Layers of one encoding have the same window, before and after (same_rope).
 * Pitfall: what the window limits, P, once stayed that of the file. */
static void override_window(Model *m, const ModelOptions *opt)
{
    int some = 0;
    if (!opt->windowed) return;
    for (int l = 0; l < m->n_layers; l++) some |= m->layer[l].window;
    for (int l = 0; l < m->n_layers; l++) {
        Layer *ly = &m->layer[l];
        if (!some || ly->window) ly->window = opt->window;
        m->rope[ly->rope].p.window = ly->window;
    }
}

static const Arch *arch_named(const Model *m, Err *e)
{
    Str name = {"", 0};
    char text[96], list[512] = "";
    size_t n = 0;
    int found = gguf_str(&m->g, "general.architecture", &name, e);
    if (found < 0) return NULL;
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        if (str_is(name, archs[i].name)) return &archs[i];
        if (n < sizeof list) n += (size_t)snprintf(list + n, sizeof list - n, " %s", archs[i].name);
    }
    if (!found)
        err_set(e, "%s: key 'general.architecture' is missing; expected one of%s", m->g.path, list);
    else
        err_set(e, "%s: key 'general.architecture': expected one of%s; found '%s'", m->g.path, list,
                show(name, text));
    return NULL;
}

static int read_model(Model *m, const ModelOptions *opt, Err *e)
{
    m->arch = arch_named(m, e);
    if (!m->arch) return -1;
    if (m->g.n_tensors == 0)
        return err_set(e, "%s: the file has no tensors: it holds a vocabulary, not a model",
                       m->g.path);
    m->has = parts_of(m);
    if (refuse_keys(m, e) || read_shape(m, e) || read_experts(m, e) || read_scales(m, e) ||
        read_residual(m, e))
        return -1;
    m->read_share = xcalloc(m->g.n_tensors, sizeof *m->read_share);
    for (size_t i = 0; i < m->g.n_tensors; i++) m->read_share[i] = 1;
    Binder b = {.m = m, .e = e, .used = xcalloc(m->g.n_tensors, 1)};
    int bad = read_rope(&b, opt) || bind_tensors(&b);
    if (!bad) override_window(m, opt);
    free(b.used);
    for (size_t i = 0; i < m->g.n_tensors; i++) {
        const Tensor *t = &m->g.tensors[i];
        uint64_t n = (uint64_t)(t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]);
        m->n_params += n;
        m->n_active += (uint64_t)((double)n * (double)m->read_share[i] + 0.5);
    }
    return bad ? -1 : 0;
}

int model_bind(Model *m, Gguf *g, const ModelOptions *opt, Err *e)
{
    static const ModelOptions none = {0};
    *m = (Model){.g = *g};
    *g = (Gguf){0};
    if (read_model(m, opt ? opt : &none, e) == 0) return 0;
    model_close(m);
    return -1;
}

int model_open(Model *m, const char *path, const ModelOptions *opt, Err *e)
{
    Gguf g;
    *m = (Model){0};
    return gguf_open(&g, path, e) ? -1 : model_bind(m, &g, opt, e);
}

void model_close(Model *m)
{
    for (int i = 0; i < m->n_ropes; i++) rope_free(&m->rope[i]);
    for (int i = 0; i < m->n_owned; i++) free(m->owned[i]);
    for (int i = 0; i < m->n_views; i++) free(m->views[i]);
    free(m->views);
    free(m->read_share);
    free(m->owned);
    free(m->config_rope);
    free(m->rope);
    free(m->layer);
    gguf_close(&m->g);
    *m = (Model){0};
}

/* A Model over a name that it owns; the Model comes first, so that the address serves for both. */
typedef struct {
    Model m;
    Arch arch;
    char name[64];
} NamedModel;

Model *model_skeleton(const ModelShape *s)
{
    NamedModel *n = xcalloc(1, sizeof *n);
    Model *m = &n->m;
    snprintf(n->name, sizeof n->name, "%s", s->arch);
    n->arch = (Arch){
        .name = n->name, .layout = s->rope->layout, .rope_base = s->rope->p.base, .norm = s->norm};
    *m = (Model){.arch = &n->arch,
                 .n_layers = s->n_layers,
                 .head_dim = s->head_dim,
                 .n_ctx_train = s->n_ctx_train,
                 .score_scale = (float)(1.0 / sqrt((double)s->head_dim)),
                 .rope = s->rope,
                 .n_ropes = s->n_ropes};
    m->layer = xcalloc((size_t)s->n_layers, sizeof *m->layer);
    for (int l = 0; l < s->n_layers; l++) {
        Layer *y = &m->layer[l];
        *y = (Layer){.n_heads = s->layer[l].n_heads,
                     .n_kv_heads = s->layer[l].n_kv_heads,
                     .n_q_heads = s->layer[l].n_heads,
                     .n_o_heads = s->layer[l].n_heads,
                     .window = s->layer[l].window,
                     .rope = s->layer[l].rope};
        MUST(y->n_kv_heads > 0 && y->n_heads % y->n_kv_heads == 0 && y->rope < s->n_ropes);
        if (y->n_heads > m->max_heads) m->max_heads = y->n_heads;
        if (y->n_kv_heads > m->max_kv_heads) m->max_kv_heads = y->n_kv_heads;
    }
    return m;
}

void skeleton_free(Model *m)
{
    if (!m) return;
    model_close(m);
    free(m);
}

/* ------------------------------------------------------------ 9 state */

#ifdef __linux__
/* The first numbers in a file of the control groups, -1 for what is not there or says "max". */
static void cgroup_numbers(const char *dir, const char *path, const char *name, double *a,
                           double *b)
{
    char file[600];
    *a = *b = -1;
    snprintf(file, sizeof file, "/sys/fs/cgroup%s%s/%s", dir, path, name);
    FILE *f = fopen(file, "r");
    if (f && fscanf(f, "%lf %lf", a, b) < 1) *a = -1;
    if (f) fclose(f);
}

/* Processors' worth of time that the group at `path` grants, rounded up; n if that is less. */
static long cgroup_limit(int version, const char *path, long n)
{
    double quota, period, none;
    if (version == 2) {
        cgroup_numbers("", path, "cpu.max", &quota, &period);
    } else {
        cgroup_numbers("/cpu", path, "cpu.cfs_quota_us", &quota, &none);
        cgroup_numbers("/cpu", path, "cpu.cfs_period_us", &period, &none);
    }
    if (!(quota > 0) || !(period > 0)) return n;
    return ceil(quota / period) < (double)n ? (long)ceil(quota / period) : n;
}

/* A line of /proc/self/cgroup: "0::/path", or of version 1 "7:cpu,cpuacct:/path". The version if it
 * is about processor time, else 0. */
static int cgroup_line(char *line, char **path)
{
    char *list = strchr(line, ':'), *end = list ? strchr(list + 1, ':') : NULL;
    if (!end) return 0;
    *end = 0;
    *path = end + 1;
    (*path)[strcspn(*path, "\n")] = 0;
    if (!list[1]) return 2;
    for (char *word = strtok(list + 1, ","); word; word = strtok(NULL, ","))
        if (strcmp(word, "cpu") == 0) return 1;
    return 0;
}

/* Processors of the affinity mask, and no more than the control groups above this process grant. */
static long processors(long n)
{
    cpu_set_t set;
    char line[600], *path;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        int version = cgroup_line(line, &path);
        for (char *slash = version ? path : NULL; slash; *slash = 0) {
            n = cgroup_limit(version, path, n);
            slash = strrchr(path, '/');
            if (!slash) break;
        }
    }
    if (f) fclose(f);
    return n;
}
#endif

/* Processors this process may use; the batch system or the user may say otherwise. */
static int default_threads(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
#ifdef __linux__
    n = processors(n);
#endif
    const char *vars[] = {"SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"};
    for (int i = 0; i < 2; i++) {
        const char *v = getenv(vars[i]);
        if (v && atoi(v) > 0) n = atoi(v);
    }
    return n < 1 ? 1 : n > 1024 ? 1024 : (int)n;
}

static int has_quantized(const Model *m)
{
    int any = 0;
    for (size_t i = 0; i < m->g.n_tensors; i++)
        any |= tensor_types[m->g.tensors[i].type].unpack != NULL;
    return any;
}

static int state_sizes(State *s, const StateOptions *opt, Err *e)
{
    const Model *m = s->m;
    s->n_ctx = opt->n_ctx ? opt->n_ctx : m->n_ctx_train < 4096 ? m->n_ctx_train : 4096;
    s->n_batch = opt->n_batch ? opt->n_batch : 512;
    if (s->n_batch > s->n_ctx) s->n_batch = s->n_ctx;
    s->n_threads = opt->n_threads ? opt->n_threads : default_threads();
#ifndef _OPENMP
    s->n_threads = 1;
#endif
    s->exact = opt->exact;
    s->int8 = !opt->exact && has_quantized(m);
    s->kv_type = opt->kv_type;
    s->k = kernels_pick(opt->isa, e);
    if ((double)s->n_batch * fmax(1, m->max_used) * (fmax(1, m->max_ff_exp) / 1024 + 1) > INT_MAX)
        return err_usage(e, "-b %d: expected a smaller batch for a model that uses %d experts",
                         s->n_batch, m->max_used);
    for (int r = 0; r < m->n_ropes; r++) s->max_pairs = max_of(s->max_pairs, m->rope[r].n_pairs);
    return s->k ? 0 : -1;
}

/* What the encodings of a model need besides tables of angles: numbers of elements. */
typedef struct {
    double now, raw, angles, work, memory, history;
} RopeSizes;

static int rope_sizes(State *s, RopeSizes *z, Err *e)
{
    const Model *m = s->m;
    double K = m->max_kv_heads, N = s->n_batch;
    *z = (RopeSizes){0};
    for (int i = 0; i < m->n_ropes; i++) {
        const Rope *r = &m->rope[i];
        size_t work = r->kind->work ? (size_t)r->kind->work(r) : 0;
        size_t memory = r->kind->memory ? (size_t)r->kind->memory(r) : 0;
        size_t history = r->kind->history ? (size_t)r->kind->history(r) : 0;
        z->now += (double)r->sets * r->n_pairs;
        if (r->kind->length) z->raw = m->n_layers * K * m->head_dim * s->n_ctx;
        if (r->kind->angles) z->angles = K * N * s->max_pairs;
        if (work > s->work_stride) s->work_stride = work;
        if (memory > s->memory_stride) s->memory_stride = memory;
        if (history > s->history_stride) s->history_stride = history;
        if (r->kind->update && s->kv_type != T_F32)
            return err_usage(e,
                             "--rope %s rewrites its keys at every token, which adds up errors in "
                             "--kv f16: leave that out",
                             r->kind->name);
    }
    z->work = K * N * (double)s->work_stride;
    z->memory = m->n_layers * K * (double)s->memory_stride;
    z->history = m->n_layers * K * s->n_ctx * (double)s->history_stride;
    return 0;
}

/* The frequencies at the start of a timeline. */
static void ropes_begin(State *s)
{
    double *at = s->now_freq;
    for (int i = 0; i < s->m->n_ropes; i++) {
        const Rope *r = &s->m->rope[i];
        size_t n = (size_t)r->sets * (size_t)r->n_pairs;
        s->now[i] = (RopeNow){.length = r->kind->length ? r->kind->length(r, 0) : 0,
                              .amplitude = r->amplitude,
                              .inv_freq = at};
        memcpy(at, r->inv_freq, n * sizeof *at);
        at += n;
    }
    memset(s->rope_memory, 0, s->n_memory * sizeof *s->rope_memory);
}

/* One buffer of a State: where its pointer stands, and its size. Sizes are computed in double:
 * those of a hostile file cannot wrap around there. */
typedef struct {
    void *field;
    double n, size;
} Buffer;

/* One allocation for all buffers, each on a cache line; pages never touched cost nothing. */
static int state_allocate(State *s, const Buffer *b, int n, Err *e)
{
    double total = 64;
    for (int i = 0; i < n; i++) total += ceil(b[i].n * b[i].size / 64) * 64;
    s->mem = total < 1e15 && total < (double)SIZE_MAX ? calloc((size_t)total, 1) : NULL;
    if (!s->mem)
        return err_set(e,
                       "%s: a context of %d tokens in batches of %d needs %.1f GB of memory, more "
                       "than there is; -c and -b set smaller ones",
                       s->m->g.path, s->n_ctx, s->n_batch, total / 1e9);
    uintptr_t at = ((uintptr_t)s->mem + 63) / 64 * 64;
    for (int i = 0; i < n; i++) {
        void *p = (void *)at;
        memcpy(b[i].field, &p, sizeof p);
        at += (uintptr_t)(ceil(b[i].n * b[i].size / 64) * 64);
    }
    return 0;
}

/* Floats of a thread's scratch: unpacked rows of the widest input, or scores and keys. */
static double scratch_size(const State *s, double widest)
{
    double unpacked = fmax(PANEL_SIZE, 12 * (widest + ROW_PAD));
    double q32 = floor(widest / QB) * sizeof(Q32) / 4;
    double attention = 2 * SCORE_ROWS * (double)s->n_ctx + SUM_SEG * (double)s->m->head_dim;
    return ceil(fmax(fmax(unpacked + q32, PANEL_MAX * q32), attention) / 64) * 64;
}

/* Strides of the buffers, and the loops of one forward pass. */
static void state_strides(State *s, double widest, double scratch)
{
    const Model *m = s->m;
    s->xq_stride = (size_t)(widest / QB);
    s->expert_stride = (size_t)(fmax(m->n_embd, m->max_ff_exp) / QB);
    s->scratch_floats = (size_t)scratch;
    s->n_loops = (size_t)m->n_layers * LAYER_LOOPS + 8;
}

int state_new(State *s, const Model *m, const StateOptions *opt, Err *e)
{
    static const StateOptions defaults = {0};
    *s = (State){.m = m};
    if (state_sizes(s, opt ? opt : &defaults, e)) return -1;
    double N = s->n_batch, E = m->n_embd, T = s->n_ctx, NU = N * m->max_used;
    double F = fmax(m->max_ff, m->max_ff_exp), hidden = fmax(N * m->max_ff, NU * m->max_ff_exp);
    double Q = (double)m->max_heads * m->head_dim, KV = (double)m->max_kv_heads * m->head_dim;
    double angles = N * m->n_tables * s->max_pairs, cache = m->n_layers * KV * T;
    double kv_bytes = s->kv_type == T_F16 ? 2 : 4;
    double widest = fmax(fmax(E, F), Q), blocks = floor(widest / QB);
    double scratch = scratch_size(s, widest);
    state_strides(s, widest, scratch);
    RopeSizes z;
    if (rope_sizes(s, &z, e)) return -1;
    s->n_memory = (size_t)z.memory;
    const Buffer table[] = {
        {&s->x, N * E, 4},
        {&s->xo, N * E, 4},
        {&s->xb, N * E, 4},
        {&s->q, N * Q, 4},
        {&s->att_out, N * Q, 4},
        {&s->kx, N * KV, 4},
        {&s->v, N * KV, 4},
        {&s->ff_up, hidden, 4},
        {&s->ff_gate, hidden, 4},
        {&s->xq, N * blocks, sizeof(Q8)},
        {&s->route, N * m->n_expert, 4},
        {&s->pick, NU, 4},
        {&s->pick_weight, NU, 4},
        {&s->pick_row, NU, 4},
        {&s->expert_start, m->n_expert + 1, 4},
        {&s->expert_taken, m->n_expert, 4},
        {&s->expert_x, NU * E, 4},
        {&s->expert_q, NU * (double)s->expert_stride, sizeof(Q8)},
        {&s->cos, angles, 4},
        {&s->sin, angles, 4},
        {&s->now, m->n_ropes, sizeof(RopeNow)},
        {&s->now_freq, z.now, 8},
        {&s->raw_keys, z.raw, 4},
        {&s->rope_angles, z.angles, 8},
        {&s->rope_work, z.work, 4},
        {&s->rope_memory, z.memory, 8},
        {&s->rope_history, z.history, 8},
        {&s->k_cache, cache, kv_bytes},
        {&s->v_cache, cache, kv_bytes},
        {&s->logits, N * m->n_vocab, 4},
        {&s->scratch, scratch * s->n_threads, 4},
        {&s->worker, s->n_threads, sizeof(Worker)},
        {&s->loop, (double)s->n_loops, sizeof(Loop)},
        {&s->progress, 1, sizeof(Progress)},
    };
    if (state_allocate(s, table, (int)(sizeof table / sizeof *table), e)) return -1;
    for (int i = 0; i < s->n_threads; i++)
        s->worker[i].scratch = s->scratch + (size_t)i * s->scratch_floats;
    if (z.raw <= 0) s->raw_keys = NULL;
    ropes_begin(s);
    return 0;
}

void state_reset(State *s)
{
    s->pos = 0;
    ropes_begin(s);
}

void state_key(const State *s, int l, int kh, int t, float *k)
{
    size_t D = (size_t)s->m->head_dim;
    const float *from = cache_get(s, s->k_cache, cache_at(s, l, kh, t), 1, k);
    if (from != k) memcpy(k, from, D * sizeof *k);
}

double state_bias(const State *s, int l, int h, int t)
{
    const Layer *ly = &s->m->layer[l];
    const Rope *r = &s->m->rope[ly->rope];
    RopeCall c = rope_call(s, l, h / (ly->n_heads / ly->n_kv_heads), 1);
    float bias = 0, faded = 0;
    c.pos = s->pos - 1;
    if (r->kind->bias) r->kind->bias(r, h, c.pos, t, 1, &bias);
    if (r->kind->fade) r->kind->fade(&c, h, c.pos, t, 1, &faded);
    return (double)bias + (double)faded;
}

void state_free(State *s)
{
    free(s->mem);
    *s = (State){0};
}

Edit *edit_new(const Model *m)
{
    Edit *e = xcalloc(1, sizeof *e);
    size_t L = (size_t)m->n_layers;
    *e = (Edit){.m = m};
    e->q = xcalloc(L * (size_t)m->max_heads + 1, sizeof *e->q);
    e->k = xcalloc(L * (size_t)m->max_kv_heads + 1, sizeof *e->k);
    return e;
}

void edit_free(Edit *e)
{
    if (!e) return;
    for (int i = 0; i < e->m->n_layers * e->m->max_heads; i++) free(e->q[i].patch);
    for (int i = 0; i < e->m->n_layers * e->m->max_kv_heads; i++) free(e->k[i].patch);
    free(e->q);
    free(e->k);
    free(e);
}

static void edit_add(Edit *e, HeadEdit *h, int c, float v)
{
    MUST(c >= 0 && c < e->m->head_dim);
    h->patch = xrealloc(h->patch, (size_t)h->n + 1, sizeof *h->patch);
    h->patch[h->n++] = (Patch){c, v};
    e->n++;
}

void edit_q(Edit *e, int l, int h, int c, float v)
{
    MUST(l >= 0 && l < e->m->n_layers && h >= 0 && h < e->m->layer[l].n_heads);
    edit_add(e, &e->q[l * e->m->max_heads + h], c, v);
}

void edit_k(Edit *e, int l, int kh, int c, float v)
{
    MUST(l >= 0 && l < e->m->n_layers && kh >= 0 && kh < e->m->layer[l].n_kv_heads);
    edit_add(e, &e->k[l * e->m->max_kv_heads + kh], c, v);
}

static uint64_t hash_patches(uint64_t hash, const HeadEdit *h, int n_heads)
{
    for (int i = 0; i < n_heads; i++)
        for (int r = 0; r < h[i].n; r++) {
            uint32_t v, c = (uint32_t)h[i].patch[r].c;
            memcpy(&v, &h[i].patch[r].v, sizeof v);
            uint64_t one[] = {hash, (uint64_t)i, c, v};
            hash = hash_bytes(one, sizeof one);
        }
    return hash;
}

uint64_t edit_hash(const Edit *e)
{
    if (!e) return 0;
    uint64_t hash = hash_patches(1, e->q, e->m->n_layers * e->m->max_heads);
    return hash_patches(hash_bytes(&hash, sizeof hash), e->k, e->m->n_layers * e->m->max_kv_heads);
}

#ifndef RUN_NO_MAIN
/* ------------------------------------------------------------ 10 sampler
 * Order as in llama.cpp: repeat penalty, top-k, top-p, min-p, temperature, draw. */

typedef struct {
    double temp, top_p, min_p, repeat_penalty;
    int top_k, repeat_last_n;
    uint64_t rng; /* state of SplitMix64 */
} Sampler;

typedef struct {
    float logit;
    int id;
} Candidate;

/* Uniform in [0, 1): the upper 53 bits. */
static double rng_unit(uint64_t *state)
{
    return (double)(rng_next(state) >> 11) * 0x1p-53;
}

static int best_token(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* Divides positive logits of recent tokens by the penalty and multiplies negative ones. */
static void penalize(const Sampler *sp, float *logits, const Tokens *past)
{
    size_t from = past->n > (size_t)sp->repeat_last_n ? past->n - (size_t)sp->repeat_last_n : 0;
    if (sp->repeat_penalty == 1.0) return;
    for (size_t i = from; i < past->n; i++) {
        int seen = 0;
        for (size_t k = from; k < i && !seen; k++) seen = past->id[k] == past->id[i];
        float *x = &logits[past->id[i]];
        if (!seen) *x = *x > 0 ? *x / (float)sp->repeat_penalty : *x * (float)sp->repeat_penalty;
    }
}

/* Highest logit first; equal ones by id, so that the order is one. */
static int candidate_cmp(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* How many of the sorted candidates top-p and min-p leave; at least one. */
static int keep_candidates(const Sampler *sp, const Candidate *c, int n)
{
    double sum = 0, mass = 0;
    int kept = 0;
    for (int i = 0; i < n; i++) sum += (double)exp_f32(c[i].logit - c[0].logit);
    while (kept < n && (kept == 0 || mass < sp->top_p * sum)) {
        double p = (double)exp_f32(c[kept].logit - c[0].logit);
        if (kept && p < sp->min_p) break;
        mass += p;
        kept++;
    }
    return kept;
}

/* The next token; logits[V] may be changed. past: the tokens so far. */
static int sample(Sampler *sp, float *logits, int V, const Tokens *past)
{
    penalize(sp, logits, past);
    if (sp->temp <= 0) return best_token(logits, V);
    Candidate *c = xcalloc((size_t)V, sizeof *c);
    for (int i = 0; i < V; i++) c[i] = (Candidate){logits[i], i};
    qsort(c, (size_t)V, sizeof *c, candidate_cmp);
    int n = sp->top_k > 0 && sp->top_k < V ? sp->top_k : V;
    n = keep_candidates(sp, c, n);
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)exp_f32((float)((double)(c[i].logit - c[0].logit) / sp->temp));
    double u = rng_unit(&sp->rng) * sum;
    int pick = 0;
    for (; pick < n - 1; pick++) {
        u -= (double)exp_f32((float)((double)(c[pick].logit - c[0].logit) / sp->temp));
        if (u < 0) break;
    }
    int id = c[pick].id;
    free(c);
    return id;
}

/* ------------------------------------------------------------ 11 commands */

/* An option that may be given several times. */
typedef struct {
    const char **at;
    int n;
} Strings;

typedef struct {
    const char *model, *prompt, *file, *out, *isa, *bos, *pre, *rope, *protocol, *system, *probe,
        *kv, *csv, *csv_heads, *npy, *text, *color, *drop, *layers, *heads, *try_rope, *rope_layers,
        *try_layers, *ablation, *emergence, *contexts, *bases, *factors;
    Strings ropes;
    const char *kind;     /* of `rope`: KIND[:key=value,...] */
    char *rope_said;      /* --rope, --rope-scale and --rope-layers in words, owned; NULL: none */
    int window;           /* -1: as the file says */
    char window_said[24]; /* the same in words, or "" */
    int n_predict, n_ctx, n_threads, n_batch, chunks, repeat, n_prompt, depth, controls;
    int json, exact, int8, special, ids, tensors, all_isas, massive, resume, allow_gaps, generate,
        verbose, ascii, no_analysis, pure;
    int head_dim, n_heads, n_layers, span; /* of `rope` */
    double temp, top_p, min_p, repeat_penalty, rope_scale, keep_rope, try_keep, try_scale;
    int top_k, repeat_last_n;
    double seed;
    AnalysisOptions analysis;
    Logit logit;
    double base, eps, tolerance; /* bounds, --q and --k; check */
    int n_rot;
    const char *bounds;
    CheckOptions check;
    int *status; /* NULL, or where check leaves what it found: &found */
    int found;   /* exit status when nothing is wrong */
    ActivationOptions files;
    CaptureOptions capture;
    const char *capture_file;
    const char *shard, *partial;
    double checkpoint_every;
    const char **inputs; /* arguments of a command that takes many */
    int n_inputs;
    uint8_t given[128]; /* 1: this row of the option table was on the command line */
} Options;

typedef struct {
    const char *name;
    char letter;
    /* int, int, double, double, text, texts */
    enum { O_FLAG, O_INT, O_WHOLE, O_NUM, O_STR, O_MANY } type;
    size_t field;
    double lo, hi;
    const char *commands; /* letters of the commands it belongs to */
    const char *arg, *help;
} Option;

#define F(member) offsetof(Options, member)
static const Option option_table[] = {
    {"model", 'm', O_STR, F(model), 0, 0, "itgcpbaBxse", "FILE",
     "the GGUF file (or the first argument)"},
    {"model", 'm', O_STR, F(model), 0, 0, "R", "FILE",
     "show it in this model; without KIND: what the model has"},
    {"prompt", 'p', O_STR, F(prompt), 0, 0, "tgcpaxse", "TEXT", "the text itself"},
    {"file", 'f', O_STR, F(file), 0, 0, "tgcpaxse", "FILE",
     "read the text from a file; - is stdin"},
    {"predict", 'n', O_INT, F(n_predict), -1, 1e9, "gc", "N",
     "tokens to generate (128); -1: until the end"},
    {"predict", 'n', O_INT, F(n_predict), 0, 1e9, "b", "N", "tokens to decode (128)"},
    {"predict", 'n', O_INT, F(n_predict), 1, 1e9, "ax", "N", "read N tokens of the text at most"},
    {"predict", 'n', O_INT, F(n_predict), 1, 1e9, "s", "N",
     "read N tokens of the text (one window of the longest context; --protocol llama.cpp: two)"},
    {"rope", 0, O_MANY, F(ropes), 0, 0, "s", "KIND",
     "position encoding KIND[:key=value,...], %c in it is the context; give it once for each "
     "(none: the file's)"},
    {"bases", 0, O_STR, F(bases), 0, 0, "s", "LIST", "plain encodings of these bases, as 1e4,1e5"},
    {"factors", 0, O_STR, F(factors), 0, 0, "s", "LIST",
     "each --rope whose kind has a factor (ntk: alpha), with each of these, as 1,2,4"},
    {"contexts", 0, O_STR, F(contexts), 0, 0, "s", "LIST", "contexts (512,1024,2048)"},
    {"no-analysis", 0, O_FLAG, F(no_analysis), 0, 0, "s", "",
     "the perplexities alone, which is faster"},
    {"ctx-size", 'c', O_INT, F(n_ctx), 1, 1e8, "gcpbaxe", "N", "context: tokens of one window"},
    {"threads", 't', O_INT, F(n_threads), 1, 1024, "gcpbaxseq", "N",
     "threads (default: as many CPUs as it may use)"},
    {"batch-size", 'b', O_INT, F(n_batch), 1, 65536, "gcpbaxse", "N", "tokens of one batch (512)"},
    {"generate", 0, O_INT, F(generate), 1, 1e8, "a", "N",
     "go on from the text (which must fit one window) and observe N generated tokens, too"},
    {"seed", 's', O_WHOLE, F(seed), -1, 9007199254740992.0, "gcb", "N",
     "random seed (-1: the clock)"},
    {"temp", 0, O_NUM, F(temp), 0, 100, "gca", "X", "temperature; 0 is greedy (0; chat 0.8)"},
    {"top-k", 0, O_INT, F(top_k), 0, 1e9, "gca", "N", "keep the N best tokens; 0 keeps all (40)"},
    {"top-p", 0, O_NUM, F(top_p), 0, 1, "gca", "X",
     "keep the best tokens of total probability X (0.95)"},
    {"min-p", 0, O_NUM, F(min_p), 0, 1, "gca", "X", "drop tokens below X times the best (0.05)"},
    {"repeat-penalty", 0, O_NUM, F(repeat_penalty), 0.01, 100, "gca", "X", "1 is off (1)"},
    {"repeat-last-n", 0, O_INT, F(repeat_last_n), 0, 1e9, "gca", "N",
     "tokens it looks back on (64)"},
    {"system", 0, O_STR, F(system), 0, 0, "c", "TEXT", "system message of the chat"},
    {"bos", 0, O_STR, F(bos), 0, 0, "tgpaxse", "auto|on|off|ID",
     "first token of a text (auto: as the file says)"},
    {"pre", 0, O_STR, F(pre), 0, 0, "itgcpaxse", "NAME", "pre-tokenizer, instead of the file's"},
    {"special", 0, O_FLAG, F(special), 0, 0, "tg", "",
     "control tokens: recognise them in the text, show them"},
    {"ids", 0, O_FLAG, F(ids), 0, 0, "t", "", "print the ids alone, on one line"},
    {"exact", 0, O_FLAG, F(exact), 0, 0, "gcpb", "", "quantized weights times float activations"},
    {"int8", 0, O_FLAG, F(int8), 0, 0, "gcpb", "",
     "quantized weights times int8 activations (the default)"},
    {"exact", 0, O_FLAG, F(exact), 0, 0, "axse", "",
     "quantized weights times float activations (the default)"},
    {"int8", 0, O_FLAG, F(int8), 0, 0, "axse", "", "quantized weights times int8 activations"},
    {"rope", 0, O_STR, F(rope), 0, 0, "igcpbaBe", "KIND",
     "position encoding KIND[:key=value,...], or that of a Hugging Face config (FILE.json), "
     "instead of the file's: see `ropescope rope`"},
    {"rope-layers", 0, O_STR, F(rope_layers), 0, 0, "igcpbaBse", "LIST",
     "--rope in these layers only, as 4-8"},
    {"rope-layers", 0, O_STR, F(rope_layers), 0, 0, "R", "LIST",
     "with -m: KIND in these layers only, as 4-8"},
    {"rope-layers", 0, O_STR, F(try_layers), 0, 0, "x", "LIST",
     "--rope in these layers only, as 4-8"},
    {"rope-scale", 0, O_NUM, F(rope_scale), 1e-6, 1e6, "igcpbaBe", "X",
     "factor of --rope linear, instead of the file's"},
    {"window", 0, O_INT, F(window), 0, 1e9, "igcpbaxse", "N",
     "a query sees N keys, its own included (0: all): in the layers that the file gives a window, "
     "in all layers if it gives none (GGUF files of Mistral lose theirs)"},
    {"drop", 0, O_STR, F(drop), 0, 0, "gpax", "WHAT",
     "edit: drop rotary pairs from the logits: partial, half, full, candidates, random, 0,3,5-7"},
    {"layers", 0, O_STR, F(layers), 0, 0, "gpax", "LIST", "edit these layers only, as 4-8"},
    {"heads", 0, O_STR, F(heads), 0, 0, "gpax", "LIST", "edit these query heads only, as 0,3,5-7"},
    {"keep-rope", 0, O_NUM, F(keep_rope), 0, 1, "gpae", "P",
     "edit: turn only the fraction P of the pairs, those of highest frequency"},
    {"keep-rope", 0, O_NUM, F(try_keep), 0, 1, "x", "P",
     "edit: turn only the fraction P of the pairs, those of highest frequency"},
    {"rope", 0, O_STR, F(try_rope), 0, 0, "x", "KIND",
     "edit: position encoding KIND[:key=value,...]"},
    {"rope-scale", 0, O_NUM, F(try_scale), 1e-6, 1e6, "x", "X", "factor of --rope linear"},
    {"massive", 0, O_FLAG, F(massive), 0, 0, "x", "",
     "edit: replace massive values of q and k by their means"},
    {"controls", 0, O_INT, F(controls), 0, 1000, "x", "N",
     "as many random pairs dropped, N times over (3)"},
    {"seed", 's', O_WHOLE, F(seed), 0, 9007199254740992.0, "pax", "N",
     "seed of what is dropped at random (1); of --generate, when --temp is above 0"},
    {"kv", 0, O_STR, F(kv), 0, 0, "gcpbaxse", "f32|f16",
     "type of the cached keys and values (f32)"},
    {"isa", 0, O_STR, F(isa), 0, 0, "gcpbaxseq", "NAME",
     "base, avx2, ... (the fastest this CPU has); bench: all of them"},
    {"layer", 0, O_INT, F(logit.l), 0, 1e6, "e", "N", "layer of the logit, from 0 (0)"},
    {"head", 0, O_INT, F(logit.h), 0, 1e6, "e", "N", "query head, from 0 (0)"},
    {"query", 0, O_INT, F(logit.query), -1e8, 1e8, "e", "I",
     "position of the query, from 0; negative ones count from the end (-1, the last token)"},
    {"key", 0, O_INT, F(logit.key), -1e8, 1e8, "e", "J",
     "position of the key (0, the first token)"},
    {"pair", 0, O_INT, F(logit.pair), 0, 16384, "e", "P",
     "this pair of values in full detail, too"},
    {"protocol", 0, O_STR, F(protocol), 0, 0, "px", "NAME",
     "llama.cpp (second half of each window) or full (all of it)"},
    {"protocol", 0, O_STR, F(protocol), 0, 0, "s", "NAME",
     "same (the same tokens at every context), or full or llama.cpp as perplexity has them (same)"},
    {"chunks", 0, O_INT, F(chunks), 1, 1e9, "p", "N", "at most N windows"},
    {"n-prompt", 0, O_INT, F(n_prompt), 1, 1e6, "b", "N", "prompt tokens (512)"},
    {"depth", 0, O_INT, F(depth), 0, 1e6, "b", "N", "decode after N other tokens (0)"},
    {"repeat", 'r', O_INT, F(repeat), 1, 1000, "b", "N", "runs; the median is shown (3)"},
    {"probe", 0, O_STR, F(probe), 0, 0, "b", "off|on", "measure with the observing probe attached"},
    {"skip", 0, O_INT, F(analysis.n_skip), 0, 1e6, "axs", "N",
     "tokens at the head of each window left out of means (1)"},
    {"strong-ratio", 0, O_NUM, F(analysis.strong_ratio), 0, 1e9, "paxs", "X",
     "a strong pair: r_q r_k at least X times the head's median pair (20)"},
    {"strong-r", 0, O_NUM, F(analysis.strong_r), 0, 1, "paxs", "X",
     "a strong pair: R_q and R_k at least X (0.95)"},
    {"sink-eps", 0, O_NUM, F(analysis.sink_eps), 0, 1, "axs", "X", "a sink: alpha_1 above X (0.3)"},
    {"sink-t", 0, O_INT, F(analysis.sink_t), 1, 1e6, "axs", "N",
     "queries behind alpha_1 of the sink metric (64)"},
    {"train-ctx", 0, O_NUM, F(analysis.n_ctx), 1, 1e9, "gpaxBs", "N",
     "P of x = theta P, instead of the file's"},
    {"massive-ratio", 0, O_NUM, F(analysis.massive_ratio), 0, 1e9, "ax", "X",
     "a massive value: norm above X times the head's mean channel (5)"},
    {"act-min", 0, O_NUM, F(analysis.act_min), 0, 1e30, "a", "X",
     "a massive activation: |h| above X (100)"},
    {"act-ratio", 0, O_NUM, F(analysis.act_ratio), 0, 1e30, "a", "X",
     "and above X times the median |h| of its state (1000)"},
    {"ctx", 0, O_NUM, F(analysis.n_ctx), 1, 1e9, "aB", "N", "the same as --train-ctx"},
    {"head-dim", 0, O_INT, F(head_dim), 2, 16384, "R", "N",
     "without a model: values of a head (64)"},
    {"base", 0, O_NUM, F(base), 1, 1e15, "R", "X", "without a model: base of plain RoPE (10000)"},
    {"ctx", 0, O_NUM, F(analysis.n_ctx), 1, 16777216, "R", "N",
     "without a model: the trained context (4096)"},
    {"heads", 0, O_INT, F(n_heads), 1, 1024, "R", "N", "without a model: heads of a layer (8)"},
    {"layers", 0, O_INT, F(n_layers), 1, 1024, "R", "N", "without a model: layers (12)"},
    {"span", 0, O_INT, F(span), 1, 16777216, "R", "N",
     "distances up to N (the context the encoding is for)"},
    {"base", 0, O_NUM, F(base), 1, 1e15, "aB", "X",
     "without a model: base of theta_j = base^(-2j/n_rot)"},
    {"n-rot", 0, O_INT, F(n_rot), 2, 16384, "a", "N",
     "rotated values of a head of --q and --k (all)"},
    {"n-rot", 0, O_INT, F(n_rot), 2, 16384, "B", "N", "without a model: rotated values of a head"},
    {"eps", 0, O_NUM, F(eps), 1e-6, 0.999999, "B", "X", "eps of Liu's bounds on the base (0.9)"},
    {"bounds", 0, O_STR, F(bounds), 0, 0, "k", "LIST",
     "the bounds judged (F1,B1,B3): of F1,F2,T3,B1,B2,B3,B4, or all"},
    {"tolerance", 0, O_NUM, F(tolerance), 0, 1, "k", "X",
     "share of exceptions that a judged bound may have (0.1)"},
    {"q", 0, O_STR, F(files.q), 0, 0, "a", "FILE",
     "no model: queries from a .npy or .safetensors[:NAME] file"},
    {"k", 0, O_STR, F(files.k), 0, 0, "a", "FILE", "and keys"},
    {"axes", 0, O_STR, F(files.axes), 0, 0, "a", "LETTERS",
     "axes of --q and --k: l layer, b window, t token, h head, d channel (thd)"},
    {"layout", 0, O_STR, F(files.layout), 0, 0, "a", "half|adjacent",
     "where --q and --k have the two members of a pair"},
    {"rotated", 0, O_STR, F(files.rotated), 0, 0, "a", "yes|no",
     "are --q and --k from after the rotation?"},
    {"pos", 0, O_STR, F(files.pos), 0, 0, "a", "N|FILE",
     "position of the first token of --q and --k, or a file of all (0)"},
    {"scale", 0, O_NUM, F(files.scale), 1e-9, 1e9, "a", "X",
     "factor of the scores of --q and --k (1 / sqrt of the head size)"},
    {"capture", 0, O_STR, F(capture_file), 0, 0, "a", "FILE",
     "write q, k and head outputs of the first window to a safetensors file"},
    {"capture-layers", 0, O_STR, F(capture.layers), 0, 0, "a", "LIST", "of these layers: 0,3-5"},
    {"capture-heads", 0, O_STR, F(capture.heads), 0, 0, "a", "LIST", "of these query heads"},
    {"capture-tokens", 0, O_INT, F(capture.n_tokens), 1, 1e9, "a", "N", "of the first N tokens"},
    {"capture-pattern", 0, O_FLAG, F(capture.pattern), 0, 0, "a", "",
     "the rows of attention, too (512 tokens at most)"},
    {"partial", 0, O_STR, F(partial), 0, 0, "a", "FILE",
     "keep what merge needs in FILE (%i, %n: shard, shards); analyze then prints for --json or -o "
     "only"},
    {"shard", 0, O_STR, F(shard), 0, 0, "a", "I/N|auto",
     "the I-th of N parts of the text; auto: as Slurm or MPI says; with --partial"},
    {"resume", 0, O_FLAG, F(resume), 0, 0, "a", "",
     "go on from the --partial FILE, if it is there"},
    {"checkpoint-every", 0, O_NUM, F(checkpoint_every), 0, 1e9, "a", "SECONDS",
     "write the --partial FILE so often while running (60)"},
    {"allow-gaps", 0, O_FLAG, F(allow_gaps), 0, 0, "m", "",
     "print a reading though windows are missing"},
    {"csv", 0, O_STR, F(csv), 0, 0, "am", "FILE",
     "besides, a table with one row per layer, head and pair"},
    {"csv-heads", 0, O_STR, F(csv_heads), 0, 0, "am", "FILE",
     "besides, a table with one row per layer and head"},
    {"npy", 0, O_STR, F(npy), 0, 0, "am", "DIR",
     "besides, a new folder of NumPy arrays [layer, head, pair] and manifest.json"},
    {"text", 0, O_STR, F(text), 0, 0, "am", "FILE", "besides --json, the report; - is stdout"},
    {"verbose", 0, O_FLAG, F(verbose), 0, 0, "am", "", "report every head"},
    {"ascii", 0, O_FLAG, F(ascii), 0, 0, "aBmxRse", "", "nothing but ASCII in reports"},
    {"color", 0, O_STR, F(color), 0, 0, "aBmxRse", "WHEN",
     "auto (on terminals, unless NO_COLOR is set or TERM is dumb), always or never"},
    {"ablation", 0, O_STR, F(ablation), 0, 0, "r", "FILE",
     "show these interventions, too (from ablate --json)"},
    {"emergence", 0, O_STR, F(emergence), 0, 0, "r", "FILE",
     "show how it came to be, too (checkpoints over training, from demo/emergence.py)"},
    {"pure", 0, O_FLAG, F(pure), 0, 0, "q", "",
     "the output matrix, too, becomes Q4_0 or Q4_1 (instead of Q8_0)"},
    {"tensors", 0, O_FLAG, F(tensors), 0, 0, "iq", "", "list every tensor"},
    {"output", 'o', O_STR, F(out), 0, 0, "itpbarBxRe", "FILE", "write there instead of to stdout"},
    {"output", 'o', O_STR, F(out), 0, 0, "m", "FILE",
     "write the merged partial result; with --json: the reading"},
    {"output", 'o', O_STR, F(out), 0, 0, "s", "FILE",
     "keep a line of JSON for each cell in FILE, and go on from those that are there"},
    {"json", 0, O_FLAG, F(json), 0, 0, "itpbaBmxReq", "", "data as JSON"},
    {"json", 0, O_FLAG, F(json), 0, 0, "s", "", "a line of JSON for each cell, and no chart"},
};
#undef F
#define N_OPTIONS ((int)(sizeof option_table / sizeof *option_table))
_Static_assert(N_OPTIONS <= sizeof((Options *)0)->given, "Options.given has a place for each");

/* The first of these options (names, up to NULL) that was given, or NULL. */
static const char *first_given(const Options *o, const char *const *names)
{
    for (; *names; names++)
        for (int i = 0; i < N_OPTIONS; i++)
            if (o->given[i] && strcmp(option_table[i].name, *names) == 0) return *names;
    return NULL;
}

typedef struct {
    const char *name;
    char letter;             /* in the option table */
    const char *args, *what; /* "..." in args: it takes any number of files */
    int (*run)(Options *o, Err *e);
    const char *examples, *notes; /* before and after its options; NULL: made of args; nothing */
} Command;

/* The encoding that options ask for, as every report names it: "yarn:factor=4 in layers 4-8", to be
 * freed; NULL: as the file says. */
static char *rope_said(const ModelOptions *mo)
{
    char scaled[64] = "";
    Bytes b = {0};
    if (!mo->rope && !(mo->rope_factor > 0)) return NULL;
    if (mo->rope_factor > 0)
        snprintf(scaled, sizeof scaled, "linear:factor=%.10g", mo->rope_factor);
    const char *part[] = {*scaled ? scaled : mo->rope, mo->rope_layers ? " in layers " : "",
                          mo->rope_layers ? mo->rope_layers : ""};
    for (int i = 0; i < 3; i++) bytes_add(&b, part[i], strlen(part[i]));
    return b.s;
}

/* What options make of the model, but for its encoding. */
static ModelOptions model_options(const Options *o)
{
    return (ModelOptions){.windowed = o->window >= 0, .window = o->window};
}

/* --rope and what goes with it, too. */
static ModelOptions rope_options(const Options *o)
{
    ModelOptions mo = model_options(o);
    mo.rope = o->rope;
    mo.rope_layers = o->rope_layers;
    mo.rope_factor = o->rope_scale;
    return mo;
}

/* For Provenance.window_override. */
static const char *window_said(const Options *o)
{
    return *o->window_said ? o->window_said : NULL;
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    if (interrupted) _exit(128 + sig); /* the second Ctrl-C does not wait */
    interrupted = sig;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* "done / total  rate  ETA" on one line of a terminal, at most ten times a second. */
static void progress_in(const char *unit, const char *what, double done, double total,
                        double started)
{
    static double last;
    double t = now();
    if (!isatty(2) || (t - last < 0.1 && done < total)) return;
    last = t;
    double rate = done / (t - started + 1e-9), eta = (total - done) / (rate + 1e-9);
    fprintf(stderr, "\r%s %.0f / %.0f %s  %.0f/s  %dm%02ds left \033[K", what, done, total, unit,
            rate, (int)eta / 60, (int)eta % 60);
    if (done >= total) fputs("\r\033[K", stderr);
}

static void progress(const char *what, double done, double total, double started)
{
    progress_in("tokens", what, done, total, started);
}

static void note(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void note(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}

/* A model ready to run: what most commands begin with. */
typedef struct {
    Model m;
    State s;
    Tokenizer *tok;
    int bos;            /* id put before a text, or -1 */
    char policy[64];    /* how that was decided */
    const char *rope;   /* what takes the place of the file's encoding, in words; NULL: nothing */
    const char *window; /* of its window, likewise */
    double load_seconds;
} Session;

static int bos_policy(const Tokenizer *t, const char *want, int *bos, char policy[64], Err *e)
{
    char *end;
    if (!want || strcmp(want, "auto") == 0) {
        *bos = tok_add_bos(t) ? tok_bos(t) : -1;
        snprintf(policy, 64, "auto: %s",
                 *bos >= 0 ? "added, as the file asks" : "none, as the file asks");
    } else if (strcmp(want, "off") == 0) {
        *bos = -1;
        snprintf(policy, 64, "off");
    } else if (strcmp(want, "on") == 0) {
        *bos = tok_bos(t);
        snprintf(policy, 64, "on");
        if (*bos < 0)
            return err_usage(e, "--bos on: the vocabulary names no BOS token; give its id");
    } else {
        long id = strtol(want, &end, 10);
        if (*end || end == want || id < 0 || id >= tok_n_vocab(t))
            return err_usage(e, "--bos %s: expected auto, on, off or an id below %d", want,
                             tok_n_vocab(t));
        *bos = (int)id;
        snprintf(policy, 64, "id %ld", id);
    }
    return 0;
}

static void warn_pre(const Tokenizer *t)
{
    if (strcmp(tok_pre(t), "default") == 0)
        note(
            "warning: the file names no pre-tokenizer; 'default' is a guess, and text may be split "
            "differently from how the model learned it (--pre NAME)");
}

/* The model and its tokenizer, without a state. */
static int session_model(Session *ss, const Options *o, const ModelOptions *mo, Err *e)
{
    *ss = (Session){.bos = -1, .rope = o->rope_said, .window = window_said(o)};
    if (o->kv && strcmp(o->kv, "f16") && strcmp(o->kv, "f32"))
        return err_usage(e, "--kv %s: expected f32 or f16", o->kv);
    if (!o->model)
        return err_usage(e, "which model? Give a GGUF file: ropescope COMMAND MODEL.gguf");
    if (model_open(&ss->m, o->model, mo, e)) return -1;
    ss->tok = tok_new(&ss->m.g, o->pre, e);
    if (!ss->tok || bos_policy(ss->tok, o->bos, &ss->bos, ss->policy, e)) return -1;
    if (tok_n_vocab(ss->tok) > ss->m.n_vocab)
        return err_set(e, "%s: the tokenizer has %d tokens, the embedding only %d rows", o->model,
                       tok_n_vocab(ss->tok), ss->m.n_vocab);
    warn_pre(ss->tok);
    return 0;
}

static int session_open(Session *ss, const Options *o, int exact, Err *e)
{
    double t0 = now();
    ModelOptions mo = rope_options(o);
    mo.truncate = o->keep_rope >= 0;
    mo.rope_keep = o->keep_rope;
    StateOptions so = {.n_ctx = o->n_ctx,
                       .n_batch = o->n_batch,
                       .n_threads = o->n_threads,
                       .exact = exact,
                       .kv_type = o->kv && strcmp(o->kv, "f16") == 0 ? T_F16 : T_F32,
                       .isa = o->isa};
    if (session_model(ss, o, &mo, e) || state_new(&ss->s, &ss->m, &so, e)) return -1;
    if (ss->s.n_ctx > ss->m.n_ctx_train)
        note("warning: context %d is beyond the %d tokens the file says the model was trained for",
             ss->s.n_ctx, ss->m.n_ctx_train);
    ss->load_seconds = now() - t0;
    return 0;
}

static void session_close(Session *ss)
{
    if (ss->tok) tok_free(ss->tok);
    state_free(&ss->s);
    model_close(&ss->m);
}

/* The text of -p or -f (one of them), or def when neither is given. 0 or -1. */
static int read_text(const Options *o, const char *def, Bytes *text, Err *e)
{
    if (o->prompt && o->file) return err_usage(e, "give the text with -p or with -f, not both");
    if (o->file) return bytes_read(text, o->file, e);
    if (!o->prompt && !def)
        return err_usage(e, "no text: give it with -p TEXT or -f FILE (- is stdin)");
    const char *s = o->prompt ? o->prompt : def;
    bytes_add(text, s, strlen(s));
    return 0;
}

/* The newline that ends a file is not part of a prompt (llama.cpp does the same). */
static void end_prompt(const Options *o, Bytes *text)
{
    if (o->file && text->n && text->s[text->n - 1] == '\n') text->s[--text->n] = 0;
}

static int read_prompt(const Options *o, const char *def, Bytes *text, Err *e)
{
    if (read_text(o, def, text, e)) return -1;
    end_prompt(o, text);
    return 0;
}

static void prepend(Tokens *ids, int id)
{
    tokens_add(ids, id);
    memmove(ids->id + 1, ids->id, (ids->n - 1) * sizeof *ids->id);
    ids->id[0] = id;
}

/* Says how many bytes of a text have no token in a byte-level vocabulary and were left out. */
static size_t warn_left_out(const Bytes *text, const Tokens *ids)
{
    if (ids->left_out)
        note("warning: %zu of the %zu bytes of the text have no token in this vocabulary and are "
             "left out",
             ids->left_out, text->n);
    return ids->left_out;
}

/* Text to ids, with BOS in front if the policy says so. */
static int encode(const Session *ss, const Bytes *text, int special, Tokens *ids, Err *e)
{
    if (tok_encode(ss->tok, text->s, text->n, special, ids, e)) return -1;
    warn_left_out(text, ids);
    if (ss->bos >= 0) prepend(ids, ss->bos);
    if (ids->n > 1 && ss->bos >= 0 && ids->id[1] == ss->bos)
        note("warning: the text itself begins with BOS; now there are two (--bos off)");
    return 0;
}

/* Runs ids[0..n) in batches; the logits of the last token are ready. 0, or -1 if interrupted. */
static int prefill(State *s, const int *ids, int n)
{
    for (int i = 0; i < n; i += s->n_batch) {
        int k = n - i < s->n_batch ? n - i : s->n_batch;
        if (interrupted) return -1;
        forward(s, ids + i, k, i + k == n);
    }
    return 0;
}

static int all_finite(const float *x, int n)
{
    for (int i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= FLT_MAX)) return 0;
    return 1;
}

static int err_not_finite(const Session *ss, Err *e)
{
    char text[512];
    rope_text(ss->m.rope, text, sizeof text);
    return err_set(e,
                   "%s: the model computed a logit that is no finite number, at token %d: its "
                   "weights are damaged or too large for float32, or its position encoding, "
                   "%.400s, makes them so",
                   ss->m.g.path, ss->s.pos, text);
}

static Sampler make_sampler(const Options *o, double temp)
{
    uint64_t seed =
        o->seed < 0 ? (uint64_t)time(NULL) ^ (uint64_t)getpid() << 12 : (uint64_t)o->seed;
    return (Sampler){.temp = o->temp >= 0 ? o->temp : temp,
                     .top_p = o->top_p,
                     .min_p = o->min_p,
                     .repeat_penalty = o->repeat_penalty,
                     .top_k = o->top_k,
                     .repeat_last_n = o->repeat_last_n,
                     .rng = seed};
}

static void put_bytes(Bytes *b)
{
    if (b->n) fwrite(b->s, 1, b->n, stdout); /* the buffer is NULL before the first byte */
    fflush(stdout);
    b->n = 0;
}

/* Rows of the embedding past the vocabulary are padding: they are never sampled. */
static int n_choices(const Session *ss)
{
    int n = tok_n_vocab(ss->tok);
    return n < ss->m.n_vocab ? n : ss->m.n_vocab;
}

/* Samples and prints up to limit tokens (-1: no limit) after the ids already run. Ends at an end
 * token, at the end of the context, or when interrupted. The number of tokens, or -1. */
static int generate_text(Session *ss, Sampler *sp, Tokens *ids, int limit, int special, Err *e)
{
    Decoder d = {.t = ss->tok, .special = special, .n_seen = ids->n > (size_t)(ss->bos >= 0)};
    Bytes out = {0};
    int n = 0;
    while (!interrupted && (limit < 0 || n < limit)) {
        if (!all_finite(ss->s.logits, ss->m.n_vocab)) return err_not_finite(ss, e);
        int id = sample(sp, ss->s.logits, n_choices(ss), ids);
        n++;
        tokens_add(ids, id);
        if (tok_is_eog(ss->tok, id)) break;
        tok_decode(&d, id, &out);
        put_bytes(&out);
        if (n == limit) break;
        if (ss->s.pos == ss->s.n_ctx) {
            note("\n[the context of %d tokens is full; -c sets a larger one]", ss->s.n_ctx);
            break;
        }
        forward(&ss->s, &id, 1, 1);
    }
    tok_decode_end(&d, &out);
    put_bytes(&out);
    free(out.s);
    return n;
}

/* What meets the weights; without quantized weights the two modes are one. */
static const char *activations(const State *s)
{
    return !has_quantized(s->m) ? "float (no quantized weights)"
           : s->int8            ? "int8 activations"
                                : "exact";
}

static void describe_run(const Session *ss, const Sampler *sp, uint64_t seed)
{
    note("%s, context %d, BOS %s, %s, %s, %d thread%s", ss->m.g.path, ss->s.n_ctx, ss->policy,
         activations(&ss->s), ss->s.k->name, ss->s.n_threads, ss->s.n_threads > 1 ? "s" : "");
    if (ss->rope) note("encoding: %s, not the file's", ss->rope);
    if (ss->window) note("window: %s, not the file's", ss->window);
    if (sp->temp <= 0)
        note("greedy");
    else
        note("seed %llu, temperature %g, top-k %d, top-p %g, min-p %g", (unsigned long long)seed,
             sp->temp, sp->top_k, sp->top_p, sp->min_p);
}

/* ---- interventions */

/* What --drop asks for. */
typedef struct {
    char name[32], what[560];
    int which;       /* PAIRS_... */
    int random;      /* a control of these pairs, not the pairs themselves */
    uint8_t *listed; /* [most pairs of a head], of PAIRS_LISTED */
} Drop;

static const struct {
    const char *word;
    int which, random;
    const char *what;
} drops[] = {
    {"partial", PAIRS_PARTIAL, 0, "the partial-cycle pairs (x <= 2 pi)"},
    {"half", PAIRS_HALF, 0, "the pairs of at most half a cycle (x <= pi)"},
    {"full", PAIRS_FULL, 0, "the full-cycle pairs (x > 2 pi; only the partial-cycle ones stay)"},
    {"candidates", PAIRS_CANDIDATES, 0, "the offset feature candidates of the unedited run"},
    {"random", PAIRS_PARTIAL, 1,
     "random full-cycle pairs, as many of each head as it has partial-cycle ones,"},
};

static int drop_parse(const Model *m, const char *word, Drop *d, Err *e)
{
    int n = 0;
    for (int r = 0; r < m->n_ropes; r++) n = max_of(n, m->rope[r].n_pairs);
    *d = (Drop){.which = PAIRS_LISTED, .listed = xcalloc((size_t)n + 1, 1)};
    snprintf(d->name, sizeof d->name, "drop %s", isdigit((unsigned char)*word) ? "pairs" : word);
    for (size_t i = 0; i < sizeof drops / sizeof *drops; i++) {
        if (strcmp(word, drops[i].word)) continue;
        d->which = drops[i].which;
        d->random = drops[i].random;
        snprintf(d->what, sizeof d->what, "%s dropped from the logits", drops[i].what);
        return 0;
    }
    snprintf(d->what, sizeof d->what, "the pairs %s dropped from the logits", word);
    if (isdigit((unsigned char)*word)) return list_parse("--drop", word, n, d->listed, e);
    return err_usage(e,
                     "--drop %s: expected partial, half, full, candidates, random, or numbers of "
                     "pairs such as 0,3,5-7",
                     word);
}

static int selection_parse(const Model *m, const Options *o, Selection *s, Err *e)
{
    *s = (Selection){.m = m,
                     .layers = o->layers,
                     .heads = o->heads,
                     .layer = xcalloc((size_t)m->n_layers + 1, 1),
                     .head = xcalloc((size_t)m->max_heads + 1, 1)};
    return list_parse("--layers", s->layers, m->n_layers, s->layer, e) ||
           list_parse("--heads", s->heads, m->max_heads, s->head, e);
}

static void selection_free(Selection *s)
{
    free(s->layer);
    free(s->head);
}

static uint64_t edit_seed(const Options *o)
{
    return o->seed < 0 ? 1 : (uint64_t)o->seed;
}

static Pairs drop_pairs(const Analysis *a, const Selection *s, const Drop *d, uint64_t seed)
{
    Pairs p = pairs_pick(a, s, d->which, d->listed);
    if (!d->random) return p;
    Pairs c = pairs_control(a, &p, seed);
    free(p.on);
    return c;
}

/* Does --drop speak of what only an observed, unedited run can tell? */
static int drop_wants_reading(const Options *o)
{
    return o->drop && strcmp(o->drop, "candidates") == 0;
}

/* The edit of --drop, --layers and --heads, and all that makes this an edited run in words; nothing
 * if nothing is asked for. a: of this model; it has seen the text if drop_wants_reading. */
static int edit_asked(const Session *ss, const Options *o, const Analysis *a, Edit **edit,
                      Bytes *said, Err *e)
{
    char s[800];
    Drop d = {.listed = NULL};
    Selection sel = {.layers = NULL};
    Pairs p = {.on = NULL};
    if (!o->drop && (o->layers || o->heads))
        return err_usage(e, "--layers and --heads say where --drop acts: give that, too");
    int rc = o->drop && (drop_parse(&ss->m, o->drop, &d, e) || selection_parse(&ss->m, o, &sel, e));
    if (!rc && o->drop) {
        p = drop_pairs(a, &sel, &d, edit_seed(o));
        *edit = edit_drop(&ss->m, &p);
        snprintf(s, sizeof s, "%s (%ld pairs in %ld heads; layers %s, heads %s", d.what, p.n,
                 p.heads, o->layers ? o->layers : "all", o->heads ? o->heads : "all");
        bytes_add(said, s, strlen(s));
        snprintf(s, sizeof s, d.random ? "; seed %llu)" : ")", (unsigned long long)edit_seed(o));
        bytes_add(said, s, strlen(s));
        if (!p.n) rc = err_set(e, "--drop %s: no selected head has such a pair", o->drop);
    }
    if (o->keep_rope >= 0) {
        snprintf(s, sizeof s,
                 "%sonly the highest frequencies turning, a fraction of %g of them (p-RoPE)",
                 said->n ? "; and " : "", o->keep_rope);
        bytes_add(said, s, strlen(s));
    }
    selection_free(&sel);
    free(d.listed);
    free(p.on);
    return rc ? -1 : 0;
}

/* The same for a command that observes no text. */
static int edit_unobserved(const Session *ss, const Options *o, Edit **edit, Bytes *said, Err *e)
{
    if (drop_wants_reading(o))
        return err_usage(e, "--drop candidates: they are found in a text; `ablate`, `analyze` and "
                            "`perplexity` read one");
    Analysis *a = o->drop ? analysis_new(&ss->m, &o->analysis) : NULL;
    int rc = edit_asked(ss, o, a, edit, said, e);
    analysis_free(a);
    return rc;
}

/* ---- generate and chat */

static int run_generate(Options *o, Err *e)
{
    Session ss;
    Bytes text = {0}, edits = {0};
    Tokens ids = {0};
    Edit *edit = NULL;
    int rc = -1;
    if (session_open(&ss, o, o->exact, e) || read_prompt(o, "", &text, e) ||
        encode(&ss, &text, o->special, &ids, e) || edit_unobserved(&ss, o, &edit, &edits, e)) {
    } else if (ids.n == 0) {
        err_usage(e, "the prompt is empty and there is no BOS token to begin with: give -p TEXT");
    } else if (ids.n > (size_t)ss.s.n_ctx) {
        err_set(e, "the prompt has %zu tokens, the context %d: -c sets a larger one", ids.n,
                ss.s.n_ctx);
    } else {
        Sampler sp = make_sampler(o, 0);
        size_t n_prompt = ids.n;
        describe_run(&ss, &sp, sp.rng);
        if (edits.n) note("an edited run, with %s", edits.s);
        ss.s.edit = edit;
        fwrite(text.s, 1, text.n, stdout);
        double t0 = now();
        rc = prefill(&ss.s, ids.id, (int)ids.n);
        double t1 = now();
        int n = rc ? 0 : generate_text(&ss, &sp, &ids, o->n_predict, o->special, e);
        double t2 = now();
        putchar('\n');
        fflush(stdout);
        rc = n < 0 ? -1 : 0;
        if (n >= 0)
            note("prompt %zu tokens %.1f tok/s, generated %d tokens %.1f tok/s", n_prompt,
                 (double)n_prompt / (t1 - t0), n, n / (t2 - t1 + 1e-9));
    }
    free(text.s);
    free(edits.s);
    free(ids.id);
    edit_free(edit);
    session_close(&ss);
    return rc;
}

/* Chat templates, recognised by what stands in the file's own, as llama.cpp does; the first row
 * whose marks all occur counts. A turn is the texts around the messages; in them \1 stands for the
 * text of the EOS token. */
typedef struct {
    const char *name, *mark, *mark2; /* mark2 may be NULL */
    const char *system[2], *user[2]; /* before and after such a message */
    const char *answer, *end;        /* what calls for an answer, and what closes one */
    int system_in_user; /* the system message is put at the head of the first user message */
} ChatTemplate;

static const ChatTemplate chat_templates[] = {
    {"phi-4",
     "<|im_start|>",
     "<|im_sep|>",
     {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
     {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
     "<|im_start|>assistant<|im_sep|>",
     "<|im_end|>",
     0},
    {"chatml",
     "<|im_start|>",
     NULL,
     {"<|im_start|>system\n", "<|im_end|>\n"},
     {"<|im_start|>user\n", "<|im_end|>\n"},
     "<|im_start|>assistant\n",
     "<|im_end|>\n",
     0},
    {"mistral-v7",
     "[INST]",
     "[SYSTEM_PROMPT]",
     {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"},
     {"[INST] ", "[/INST]"},
     "",
     "\1",
     0},
    {"mistral-v1",
     "[INST]",
     "' [INST] ' + system_message",
     {"", "\n\n"},
     {" [INST] ", " [/INST]"},
     "",
     "\1",
     1},
    {"mistral-v1",
     "[AVAILABLE_TOOLS]",
     " [INST]",
     {"", "\n\n"},
     {" [INST] ", " [/INST]"},
     "",
     "\1",
     1},
    {"mistral-v3-tekken",
     "[AVAILABLE_TOOLS]",
     "\"[INST]\"",
     {"", "\n\n"},
     {"[INST]", "[/INST]"},
     "",
     "\1",
     1},
    {"mistral-v3",
     "[INST]",
     "[AVAILABLE_TOOLS]",
     {"", "\n\n"},
     {"[INST] ", "[/INST]"},
     "",
     "\1",
     1},
    {"llama-2",
     "<<SYS>>",
     "bos_token + '[INST]",
     {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     {"[INST] ", " [/INST]"},
     "",
     "\1<s>",
     1},
    {"llama-2",
     "[INST]",
     "<<SYS>>",
     {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     {"[INST] ", " [/INST]"},
     "",
     "\1",
     1},
    {"llama-2", "[INST]", NULL, {"", "\n"}, {"[INST] ", " [/INST]"}, "", "\1", 1},
    {"phi-3",
     "<|assistant|>",
     "<|end|>",
     {"<|system|>\n", "<|end|>\n"},
     {"<|user|>\n", "<|end|>\n"},
     "<|assistant|>\n",
     "<|end|>\n",
     0},
    {"zephyr",
     "<|user|>",
     "<|endoftext|>",
     {"<|system|>\n", "<|endoftext|>\n"},
     {"<|user|>\n", "<|endoftext|>\n"},
     "<|assistant|>\n",
     "<|endoftext|>\n",
     0},
    {"zephyr",
     "<|user|>",
     "eos_token",
     {"<|system|>\n", "\1\n"},
     {"<|user|>\n", "\1\n"},
     "<|assistant|>\n",
     "\1\n",
     0},
    {"gemma",
     "<start_of_turn>",
     NULL,
     {"", "\n\n"},
     {"<start_of_turn>user\n", "<end_of_turn>\n"},
     "<start_of_turn>model\n",
     "<end_of_turn>\n",
     1},
    {"llama-3",
     "<|start_header_id|>",
     "<|end_header_id|>",
     {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
     {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|eot_id|>",
     0},
    {"deepseek-3",
     "<｜Assistant｜>",
     "<｜User｜>",
     {"", "\n\n"},
     {"<｜User｜>", ""},
     "<｜Assistant｜>",
     "<｜end▁of▁sentence｜>",
     0},
    {"granite",
     "<|start_of_role|>",
     NULL,
     {"<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"},
     {"<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"},
     "<|start_of_role|>assistant<|end_of_role|>",
     "<|end_of_text|>\n",
     0},
};
#define N_CHAT_TEMPLATES ((int)(sizeof chat_templates / sizeof *chat_templates))

static int contains(Str s, const char *word)
{
    return memmem(s.s, s.n, word, strlen(word)) != NULL;
}

/* 1 and *out if the file's template is one of ours, 0 if the file has none, -1 if unknown. */
static int chat_template(const Gguf *g, const ChatTemplate **out, Err *e)
{
    Str t = {"", 0};
    int found = gguf_str(g, "tokenizer.chat_template", &t, e);
    if (found <= 0) return found;
    for (int i = 0; i < N_CHAT_TEMPLATES; i++) {
        *out = &chat_templates[i];
        if (contains(t, (*out)->mark) && (!(*out)->mark2 || contains(t, (*out)->mark2))) return 1;
    }
    char list[256] = "";
    for (int i = 0; i < N_CHAT_TEMPLATES; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), " %s", chat_templates[i].name);
    return err_set(e,
                   "%s: key 'tokenizer.chat_template': not one of the templates known here (%s); "
                   "`generate` runs raw text",
                   g->path, list + 1);
}

/* Appends a text of a template, with the EOS token for each \1. */
static void add_text(Bytes *b, const char *s, const Tokenizer *t)
{
    Str eos = tok_eos(t) >= 0 ? tok_text(t, tok_eos(t)) : (Str){"", 0};
    for (; *s; s++) {
        if (*s == 1)
            bytes_add(b, eos.s, eos.n);
        else
            bytes_add(b, s, 1);
    }
}

static void add_message(Bytes *b, const char *const around[2], const char *message,
                        const Tokenizer *t)
{
    add_text(b, around[0], t);
    bytes_add(b, message, strlen(message));
    add_text(b, around[1], t);
}

/* The text of one user turn, up to where the assistant is to speak. */
static void chat_turn(const ChatTemplate *c, const Tokenizer *t, const char *system,
                      const char *user, Bytes *out)
{
    if (system && !c->system_in_user) add_message(out, c->system, system, t);
    add_text(out, c->user[0], t);
    if (system && c->system_in_user) add_message(out, c->system, system, t);
    bytes_add(out, user, strlen(user));
    add_text(out, c->user[1], t);
    add_text(out, c->answer, t);
}

/* What the template puts after an answer, less the end token if the model gave it itself. */
static void end_answer(const ChatTemplate *c, const Tokenizer *t, int last, Bytes *out)
{
    Bytes end = {0};
    Str eog = tok_text(t, last);
    add_text(&end, c->end, t);
    size_t given =
        tok_is_eog(t, last) && end.n >= eog.n && !memcmp(end.s, eog.s, eog.n) ? eog.n : 0;
    bytes_add(out, end.s + given, end.n - given);
    free(end.s);
}

/* One line of the conversation from stdin, without its newline. 0 at the end. */
static int read_turn(Bytes *line)
{
    int c;
    line->n = 0;
    if (isatty(0) && isatty(2)) fputs("> ", stderr);
    while ((c = getchar()) != EOF && c != '\n') bytes_add(line, &(char){(char)c}, 1);
    bytes_add(line, "", 0);
    return c != EOF || line->n > 0;
}

/* One exchange: the turn is appended to the context, the answer printed and kept. */
static int chat_exchange(Session *ss, Sampler *sp, const ChatTemplate *t, const Options *o,
                         int first, const char *user, Tokens *ids, Err *e)
{
    Bytes text = {0};
    size_t from = (size_t)ss->s.pos; /* the last token of an answer has not been run yet */
    if (!first) end_answer(t, ss->tok, ids->id[ids->n - 1], &text);
    chat_turn(t, ss->tok, first ? o->system : NULL, user, &text);
    if (first && ss->bos >= 0) tokens_add(ids, ss->bos);
    int rc = tok_encode(ss->tok, text.s, text.n, 1, ids, e);
    free(text.s);
    if (rc) return -1;
    if (ids->n > (size_t)ss->s.n_ctx)
        return err_set(e, "the conversation has %zu tokens, the context %d: -c sets a larger one",
                       ids->n, ss->s.n_ctx);
    rc = prefill(&ss->s, ids->id + from, (int)(ids->n - from));
    if (!rc) rc = generate_text(ss, sp, ids, o->n_predict, 0, e) < 0;
    putchar('\n');
    fflush(stdout);
    return interrupted ? 0 : rc ? -1 : 0;
}

static int run_chat(Options *o, Err *e)
{
    Session ss;
    const ChatTemplate *t = NULL;
    Bytes line = {0};
    Tokens ids = {0};
    int rc = session_open(&ss, o, o->exact, e), first = 1;
    if (!rc) {
        rc = chat_template(&ss.m.g, &t, e);
        if (rc == 0)
            err_set(e, "%s: the file has no chat template; `generate` runs raw text", o->model);
        rc = rc == 1 ? 0 : -1;
    }
    if (!rc && (o->prompt || o->file)) rc = read_prompt(o, NULL, &line, e);
    Sampler sp = make_sampler(o, 0.8);
    if (!rc) {
        describe_run(&ss, &sp, sp.rng);
        note("template %s", t->name);
    }
    int once = line.n > 0;
    while (!rc && !interrupted && (once ? first : read_turn(&line))) {
        if (!line.n) continue; /* Enter alone says nothing */
        rc = chat_exchange(&ss, &sp, t, o, first, line.s, &ids, e);
        first = 0;
    }
    free(line.s);
    free(ids.id);
    session_close(&ss);
    return rc;
}

/* Opens the model and the output file, runs a command between, and closes both; the file appears
 * unless the command says -1. Another output of the command may have failed: 1. */
static int with_output(const Options *o, int exact,
                       int (*command)(Session *, const Options *, OutFile *, Err *), Err *e)
{
    Session ss;
    OutFile out;
    int rc = session_open(&ss, o, exact, e) || out_open(&out, o->out ? o->out : "-", e);
    if (!rc) {
        rc = command(&ss, o, &out, e);
        if (rc < 0)
            out_abandon(&out);
        else if (out_close(&out, e))
            rc = -1;
    }
    session_close(&ss);
    return rc ? -1 : 0;
}

/* ---- perplexity */

/* How far a command is that runs many windows, in units of its own. */
typedef struct {
    char what[80];
    double done, total, started;
} Work;

typedef struct {
    double nll, nll2; /* sums of -log p and of its square */
    long n;
    double *each; /* -log p of each token, or NULL: not kept */
    Work *work;   /* to be told of the tokens that were run, or NULL */
} Score;

/* What a token at position pos costs, in units of a token without attention: two operations per
 * parameter, four per value of each head and key. */
static double token_cost(const Model *m, double pos)
{
    double values = 0;
    for (int l = 0; l < m->n_layers; l++) values += (double)m->layer[l].n_heads * m->head_dim;
    return 1 + pos * 4 * values / (2 * (double)m->n_active);
}

/* n tokens from position pos on have been run. */
static void work_done(Work *w, const Model *m, int pos, int n)
{
    w->done += n * token_cost(m, pos + n / 2.0);
    double left = (now() - w->started) * (w->total / w->done - 1);
    if (!isatty(2)) return;
    fprintf(stderr, "\r%s %.0f%%  %dm%02ds left \033[K", w->what, 100 * w->done / w->total,
            (int)left / 60, (int)left % 60);
}

/* -log softmax(logits)[id], in double. */
static double token_nll(const float *logits, int V, int id)
{
    double max = (double)logits[best_token(logits, V)], sum = 0;
    for (int i = 0; i < V; i++) sum += exp((double)logits[i] - max);
    return max + log(sum) - (double)logits[id];
}

/* Adds the tokens first + 1 .. n - 1 of one window, each predicted from those before it. 0, 1 if
 * interrupted, -1 on logits that are no numbers. */
static int score_window(Session *ss, const int *ids, int n, int first, Score *total, Err *e)
{
    int V = ss->m.n_vocab, step = ss->s.n_batch;
    Score sc = *total;
    state_reset(&ss->s);
    for (int i = 0; i < n; i += step) {
        int k = n - i < step ? n - i : step, from = i < first ? first - i : 0;
        if (interrupted) return 1;
        forward(&ss->s, ids + i, k, from < k ? k : 0);
        if (sc.work) work_done(sc.work, &ss->m, i, k);
        for (int c = from; c < k && i + c + 1 < n; c++) {
            const float *logits = ss->s.logits + (size_t)c * (size_t)V;
            if (!all_finite(logits, V)) return err_not_finite(ss, e);
            double nll = token_nll(logits, V, ids[i + c + 1]);
            sc.nll += nll;
            sc.nll2 += nll * nll;
            if (sc.each) sc.each[sc.n] = nll;
            sc.n++;
        }
    }
    *total = sc;
    return 0;
}

static double perplexity_error(const Score *sc)
{
    double mean = sc->nll / (double)sc->n, var = sc->nll2 / (double)sc->n - mean * mean;
    return sc->n > 1 && var > 0 ? exp(mean) * sqrt(var / (double)(sc->n - 1)) : 0;
}

/* How a text is cut and scored. */
typedef struct {
    int windows, done, first; /* positions after `first` of each window are scored */
    Score score;
    char text_sha256[65];
    const char *edits;             /* what makes this an edited run; NULL: none */
    Analysis *observer;            /* to be told of the windows, or NULL */
    double before, total, started; /* tokens of a work this is part of; total 0: of none */
} Perplexity;

static void perplexity_json(FILE *f, const Session *ss, const Options *o, const Perplexity *p)
{
    char sha[65];
    sha256_hex(ss->m.g.map, ss->m.g.size, sha);
    fprintf(f, "{\"schema\":\"ropescope.perplexity/1\",\"version\":\"%s\",\"model\":",
            ROPESCOPE_VERSION);
    json_str(f, o->model, strlen(o->model));
    fprintf(f, ",\"model_sha256\":\"%s\",\"text_sha256\":\"%s\",\"bos\":", sha, p->text_sha256);
    json_str(f, ss->policy, strlen(ss->policy));
    json_text(f, "rope_override", ss->rope);
    json_text(f, "window_override", ss->window);
    json_text(f, "edits", p->edits);
    fprintf(f, ",\"protocol\":\"%s\",\"n_ctx\":%d,\"first_scored\":%d,\"windows\":%d,\"exact\":%s,",
            o->protocol, ss->s.n_ctx, p->first + 1, p->done, ss->s.exact ? "true" : "false");
    fprintf(f, "\"interrupted\":%s,\"tokens_scored\":%ld,\"perplexity\":%.9g,\"error\":%.9g}\n",
            interrupted ? "true" : "false", p->score.n, exp(p->score.nll / (double)p->score.n),
            perplexity_error(&p->score));
}

static void perplexity_print(FILE *f, const Session *ss, const Options *o, const Perplexity *p)
{
    fprintf(f, "Final estimate: PPL = %.4f +/- %.5f over %ld tokens\n",
            exp(p->score.nll / (double)p->score.n), perplexity_error(&p->score), p->score.n);
    fprintf(f, "protocol %s: %d windows of %d tokens, scored from position %d on, BOS %s, %s%s\n",
            o->protocol, p->done, ss->s.n_ctx, p->first + 1, ss->policy, activations(&ss->s),
            interrupted ? ", interrupted" : "");
    if (ss->rope) fprintf(f, "encoding: %s, not the file's\n", ss->rope);
    if (ss->window) fprintf(f, "window: %s, not the file's\n", ss->window);
    if (p->edits) fprintf(f, "an edited run, with %s\n", p->edits);
}

/* Windows of n_ctx tokens that do not overlap. llama.cpp: whole ones, the second half of each
 * scored, at least two of them. full: all tokens but the first of each, the last window short. */
static int plan_windows(const Session *ss, const Options *o, size_t n, Perplexity *p, Err *e)
{
    size_t T = (size_t)ss->s.n_ctx;
    int full = strcmp(o->protocol, "full") == 0;
    p->first = full ? 0 : ss->s.n_ctx / 2;
    if (T < (full ? 2 : 4))
        return err_usage(e, "-c %zu: protocol %s needs windows of %d tokens at least", T,
                         o->protocol, full ? 2 : 4);
    if (n < (full ? 2 : 2 * T))
        return err_set(e, "the text has %zu tokens; protocol %s needs %zu at least%s", n,
                       o->protocol, full ? 2 : 2 * T,
                       full ? "" : " (two windows; -c sets smaller ones)");
    p->windows = (int)(full ? (n - 1) / T + ((n - 1) % T > 0) : n / T);
    if (o->chunks && o->chunks < p->windows) p->windows = o->chunks;
    return 0;
}

static int perplexity_windows(Session *ss, const Options *o, Tokens *ids, Perplexity *p, Err *e)
{
    size_t T = (size_t)ss->s.n_ctx;
    int running = !o->json && !o->out && p->total <= 0;
    if (plan_windows(ss, o, ids->n, p, e)) return -1;
    if (p->total <= 0) p->started = now();
    double total = p->total > 0 ? p->total : (double)p->windows * (double)T;
    for (; p->done < p->windows; p->done++) {
        size_t at = (size_t)p->done * T;
        int n = (int)(ids->n - at < T ? ids->n - at : T);
        if (ss->bos >= 0) ids->id[at] = ss->bos; /* it is not scored; llama.cpp does the same */
        if (p->observer) analysis_window(p->observer);
        int rc = score_window(ss, ids->id + at, n, p->first, &p->score, e);
        if (rc < 0) return -1;
        if (rc) break;
        if (running) printf("[%d]%.4f,", p->done + 1, exp(p->score.nll / (double)p->score.n));
        if (running) fflush(stdout);
        if (!running || !isatty(1))
            progress("perplexity", fmin(p->before + (p->done + 1.0) * (double)T, total), total,
                     p->started);
    }
    if (running) putchar('\n');
    return p->score.n ? 0 : err_set(e, "interrupted before the first window was done");
}

/* Windows that analyze cuts a text into. */
static uint64_t n_windows(const Session *ss, const Tokens *ids)
{
    size_t room = (size_t)(ss->s.n_ctx - (ss->bos >= 0));
    return (ids->n + room - 1) / room;
}

/* The edit that was asked for, after a first pass over the text where one is needed. */
static int perplexity_edit(Session *ss, const Options *o, Tokens *ids, Edit **edit, Bytes *said,
                           Err *e)
{
    if (!drop_wants_reading(o)) return edit_unobserved(ss, o, edit, said, e);
    Perplexity p = {.observer = analysis_new(&ss->m, &o->analysis),
                    .total = 2 * (double)ids->n,
                    .started = now()};
    ss->s.probe = analysis_probe(p.observer);
    int rc = perplexity_windows(ss, o, ids, &p, e);
    if (!rc && interrupted) rc = err_set(e, "interrupted before the candidates were found");
    rc = rc || edit_asked(ss, o, p.observer, edit, said, e);
    ss->s.probe = NULL;
    analysis_free(p.observer);
    return rc ? -1 : 0;
}

static int perplexity_session(Session *ss, const Options *o, OutFile *out, Err *e)
{
    Bytes text = {0}, edits = {0};
    Tokens ids = {0};
    Edit *edit = NULL;
    Perplexity p = {0};
    int rc = read_text(o, NULL, &text, e) || encode(ss, &text, 0, &ids, e);
    if (!rc && tok_add_eos(ss->tok)) tokens_add(&ids, tok_eos(ss->tok));
    if (!rc) sha256_hex(text.s, text.n, p.text_sha256);
    rc = rc || perplexity_edit(ss, o, &ids, &edit, &edits, e);
    ss->s.edit = edit;
    p.edits = edits.s;
    rc = rc || perplexity_windows(ss, o, &ids, &p, e);
    if (!rc) (o->json ? perplexity_json : perplexity_print)(out->f, ss, o, &p);
    ss->s.edit = NULL;
    edit_free(edit);
    free(text.s);
    free(edits.s);
    free(ids.id);
    return rc ? -1 : 0;
}

static int protocol_check(const Options *o, Err *e)
{
    if (strcmp(o->protocol, "llama.cpp") == 0 || strcmp(o->protocol, "full") == 0) return 0;
    return err_usage(e, "--protocol %s: expected llama.cpp or full", o->protocol);
}

static int run_perplexity(Options *o, Err *e)
{
    if (!o->n_ctx) o->n_ctx = 512;
    if (!o->protocol) o->protocol = "llama.cpp";
    if (protocol_check(o, e)) return -1;
    return with_output(o, o->exact, perplexity_session, e);
}

/* ---- bench */

static int double_cmp(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, double_cmp);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* Bytes of weights one decoded token reads: every matrix; of an untied embedding only a row, of
 * experts those that it uses. */
static double bytes_per_token(const Model *m)
{
    double sum = 0;
    for (size_t i = 0; i < m->g.n_tensors; i++) {
        const Tensor *t = &m->g.tensors[i];
        int row = t == m->tok_embd && m->output != m->tok_embd;
        sum += row ? (double)t->row_bytes : (double)t->bytes * (double)m->read_share[i];
    }
    return sum;
}

/* Bytes per second at which n_threads read 512 MB, or an eighth of the memory if that is less: the
 * best of 5 passes. */
static double read_bandwidth(int n_threads)
{
    enum { PIECE = 8192 };
    double eighth = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 8;
    size_t words = (size_t)(fmin(eighth, 512e6) / 8) / PIECE * PIECE;
    uint64_t *buf = xcalloc(words, sizeof *buf), total = 0;
    double best = 0;
    (void)n_threads; /* used by OpenMP alone */
    for (int pass = -1; pass < 5; pass++) {
        double t0 = now();
#pragma omp parallel for num_threads(n_threads) schedule(static)
        for (size_t b = 0; b < words; b += PIECE) {
            uint64_t sum = 0;
            for (size_t i = 0; pass < 0 && i < PIECE; i += 512) buf[b + i] = i; /* own the page */
            for (size_t i = 0; i < PIECE; i++) sum += buf[b + i];
#pragma omp atomic
            total += sum;
        }
        double rate = (double)(words * sizeof *buf) / (now() - t0);
        if (pass >= 0 && rate > best) best = rate;
    }
    if (total == 1) note("(sum of the bandwidth test)"); /* keeps the reads */
    free(buf);
    return best;
}

static double peak_memory(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
#ifdef __APPLE__
    return (double)u.ru_maxrss;
#else
    return (double)u.ru_maxrss * 1024;
#endif
}

/* Operations per second of all threads, in floats or in int8 sums, each in registers: the best of
 * 5 passes of some 5 milliseconds. */
static double peak_arithmetic(const Kernels *k, int n_threads, int int8)
{
    double (*run)(int) = int8 ? k->peak_int8 : k->peak_float, best = 0, t0 = now();
    double done = run(1000), rounds = 1000 * 5e-3 / (now() - t0 + 1e-9);
    int n = rounds < 1 ? 1 : rounds > 1e8 ? (int)1e8 : (int)rounds;
    (void)n_threads; /* used by OpenMP alone */
    for (int pass = 0; pass < 5; pass++) {
        t0 = now();
#pragma omp parallel num_threads(n_threads)
        run(n);
        double rate = done / 1000 * n * n_threads / (now() - t0);
        best = rate > best ? rate : best;
    }
    return best;
}

/* Multiplications and additions of the layers' matrices for one token; int8: only of those that
 * meet int8 activations. */
static double operations_per_token(const State *s, int int8)
{
    double sum = 0;
    for (size_t i = 0; i < s->m->g.n_tensors; i++) {
        const Tensor *t = &s->m->g.tensors[i];
        if (t->n_dims < 2 || t == s->m->tok_embd || t == s->m->output) continue;
        double values = (double)(t->ne[0] * t->ne[1] * t->ne[2]) * (double)s->m->read_share[i];
        if (!int8 || takes_int8(s, t)) sum += 2 * values;
    }
    return sum;
}

typedef struct {
    double prompt, decode; /* tokens per second, medians */
} Speed;

typedef struct {
    int n_prompt, n_decode, depth, repeat, probe;
    double load, first, bandwidth, peak_float, peak_int8, bytes, memory;
    Speed speed, unprobed; /* unprobed: the same runs without the probe, in turn */
    uint64_t hash;         /* of the last logits, under the probe if there is one */
} Bench;

/* One round: the prompt from an empty context, then tokens one by one after `depth` others. */
static void bench_round(Session *ss, const Bench *b, const int *ids, const Probe *probe,
                        double *prompt, double *decode)
{
    State *s = &ss->s;
    s->probe = probe;
    state_reset(s);
    double t0 = now();
    prefill(s, ids, b->n_prompt);
    *prompt = b->n_prompt / (now() - t0);
    state_reset(s);
    s->probe = NULL; /* the way to the depth is not measured */
    if (b->depth) prefill(s, ids, b->depth);
    s->probe = probe;
    t0 = now();
    for (int i = 0; i < b->n_decode && !interrupted; i++) forward(s, ids + b->depth + i, 1, 1);
    *decode = b->n_decode / (now() - t0);
}

/* As many rounds as asked for, each with the probe and then without it if there is one. */
static int bench_runs(Session *ss, const Options *o, Bench *b, const Probe *probe, Err *e)
{
    uint64_t rng = o->seed < 0 ? 1 : (uint64_t)o->seed, V = (uint64_t)ss->m.n_vocab;
    int n = b->n_prompt > b->depth + b->n_decode ? b->n_prompt : b->depth + b->n_decode, done = 0;
    int *ids = xcalloc((size_t)n, sizeof *ids);
    double *rate[4];
    for (int i = 0; i < 4; i++) rate[i] = xcalloc((size_t)b->repeat, sizeof **rate);
    for (int i = 0; i < n; i++) ids[i] = (int)(rng_next(&rng) % V);
    state_reset(&ss->s);
    double t0 = now();
    forward(&ss->s, ids, 1, 1);
    b->first = now() - t0;
    for (; done < b->repeat && !interrupted; done++) {
        bench_round(ss, b, ids, probe, &rate[0][done], &rate[1][done]);
        b->hash = hash_bytes(ss->s.logits, (size_t)V * sizeof(float));
        if (probe && !interrupted) bench_round(ss, b, ids, NULL, &rate[2][done], &rate[3][done]);
    }
    b->repeat = interrupted ? done - 1 : done; /* the round that was cut short does not count */
    if (b->repeat > 0) {
        b->speed.prompt = median(rate[0], b->repeat);
        b->speed.decode = median(rate[1], b->repeat);
        b->unprobed.prompt = median(rate[2], b->repeat);
        b->unprobed.decode = median(rate[3], b->repeat);
    }
    for (int i = 0; i < 4; i++) free(rate[i]);
    free(ids);
    return b->repeat > 0 ? 0 : err_set(e, "interrupted before the first round was done");
}

/* How long a token's operations would take at the peaks, times tokens per second. */
static double share_of_peak(const State *s, const Bench *b)
{
    double int8 = operations_per_token(s, 1), floats = operations_per_token(s, 0) - int8;
    return (int8 / b->peak_int8 + floats / b->peak_float) * b->speed.prompt;
}

static void bench_json(FILE *f, const Session *ss, const Bench *b)
{
    const State *s = &ss->s;
    fprintf(f,
            "{\"schema\":\"ropescope.bench/1\",\"version\":\"%s\",\"model\":", ROPESCOPE_VERSION);
    json_str(f, ss->m.g.path, strlen(ss->m.g.path));
    json_text(f, "rope_override", ss->rope);
    json_text(f, "window_override", ss->window);
    fprintf(f, ",\"isa\":\"%s\",\"threads\":%d,\"exact\":%s,\"kv\":\"%s\",\"probe\":%s,",
            s->k->name, s->n_threads, s->exact ? "true" : "false",
            s->kv_type == T_F16 ? "f16" : "f32", b->probe ? "true" : "false");
    fprintf(f, "\"repeat\":%d,\"n_prompt\":%d,\"n_decode\":%d,\"depth\":%d,", b->repeat,
            b->n_prompt, b->n_decode, b->depth);
    fprintf(f, "\"load_seconds\":%.6g,\"first_token_seconds\":%.6g,", b->load, b->first);
    fprintf(f, "\"prompt_tokens_per_second\":%.6g,\"decode_tokens_per_second\":%.6g,",
            b->speed.prompt, b->speed.decode);
    if (b->probe)
        fprintf(f, "\"prompt_without_probe\":%.6g,\"decode_without_probe\":%.6g,",
                b->unprobed.prompt, b->unprobed.decode);
    fprintf(f, "\"bytes_per_token\":%.17g,\"decode_bytes_per_second\":%.6g,", b->bytes,
            b->bytes * b->speed.decode);
    fprintf(f, "\"read_bandwidth\":%.6g,\"share_of_bandwidth\":%.4g,", b->bandwidth,
            b->bytes * b->speed.decode / b->bandwidth);
    fprintf(f, "\"peak_float_per_second\":%.6g,\"peak_int8_per_second\":%.6g,", b->peak_float,
            b->peak_int8);
    fprintf(f, "\"share_of_peak\":%.4g,\"peak_memory_bytes\":%.17g,", share_of_peak(s, b),
            b->memory);
    fprintf(f, "\"logits_hash\":\"%016llx\"}\n", (unsigned long long)b->hash);
}

static void bench_print(FILE *f, const Session *ss, const Bench *b)
{
    const State *s = &ss->s;
    const Speed *v = &b->speed, *u = &b->unprobed;
    fprintf(f, "%s: %.1fM parameters, %.1f MB read per token\n", ss->m.g.path,
            (double)ss->m.n_params / 1e6, b->bytes / 1e6);
    fprintf(f, "%s, %d thread%s, %s, probe %s, median of %d\n", s->k->name, s->n_threads,
            s->n_threads > 1 ? "s" : "", activations(s), b->probe ? "on" : "off", b->repeat);
    if (ss->rope) fprintf(f, "encoding: %s, not the file's\n", ss->rope);
    if (ss->window) fprintf(f, "window: %s, not the file's\n", ss->window);
    fprintf(f, "  load            %10.1f ms (+ %.1f ms first token)\n", b->load * 1e3,
            b->first * 1e3);
    fprintf(f, "  prompt %6d   %10.1f tok/s  %.0f %% of the peak measured here: %.1f Gflop/s",
            b->n_prompt, v->prompt, 100 * share_of_peak(s, b), b->peak_float / 1e9);
    fprintf(f, operations_per_token(s, 1) > 0 ? ", %.1f Gop/s in int8\n" : "\n",
            b->peak_int8 / 1e9);
    fprintf(f, "  decode %6d   %10.1f tok/s  %.2f GB/s, %.0f %% of the %.1f GB/s measured here",
            b->n_decode, v->decode, b->bytes * v->decode / 1e9,
            100 * b->bytes * v->decode / b->bandwidth, b->bandwidth / 1e9);
    fprintf(f, b->depth ? ", after %d others\n" : "\n", b->depth);
    if (b->probe)
        fprintf(f,
                "  probe costs     %10.1f %% of the time per prompt token, %.1f %% in decoding\n",
                100 * (u->prompt / v->prompt - 1), 100 * (u->decode / v->decode - 1));
    fprintf(f, "  peak memory     %10.1f MB\n", b->memory / 1e6);
    fprintf(f, "  logits hash     %016llx\n", (unsigned long long)b->hash);
}

/* One instance. */
static int bench_instance(Session *ss, const Options *o, Bench *b, FILE *f, Err *e)
{
    AnalysisOptions ao = analysis_defaults();
    Analysis *a = b->probe ? analysis_new(&ss->m, &ao) : NULL;
    int rc = bench_runs(ss, o, b, a ? analysis_probe(a) : NULL, e);
    if (b->memory == 0) b->memory = peak_memory(); /* before memory is read for its speed */
    if (!rc) {
        if (b->bandwidth == 0) b->bandwidth = read_bandwidth(ss->s.n_threads);
        b->peak_float = peak_arithmetic(ss->s.k, ss->s.n_threads, 0);
        b->peak_int8 = peak_arithmetic(ss->s.k, ss->s.n_threads, 1);
        (o->json ? bench_json : bench_print)(f, ss, b);
    }
    ss->s.probe = NULL;
    analysis_free(a);
    return rc;
}

static int bench_session(Session *ss, const Options *o, OutFile *out, Err *e)
{
    int room = ss->s.n_ctx, rc = 0;
    Bench b = {.probe = o->probe && strcmp(o->probe, "on") == 0,
               .repeat = o->repeat,
               .load = ss->load_seconds,
               .bytes = bytes_per_token(&ss->m),
               .depth = o->depth,
               .n_prompt = o->n_prompt,
               .n_decode = o->n_predict >= 0 ? o->n_predict : 128};
    if (b.depth >= room)
        return err_usage(e, "--depth %d: the context has %d tokens; -c sets a larger one", b.depth,
                         room);
    if (b.n_prompt > room) b.n_prompt = room;
    if (b.n_decode > room - b.depth) b.n_decode = room - b.depth;
    if (!o->all_isas) return bench_instance(ss, o, &b, out->f, e);
    for (int i = 0; !rc && kernels_at(i); i++) {
        if (!kernels_at(i)->usable()) continue;
        ss->s.k = kernels_at(i);
        rc = bench_instance(ss, o, &b, out->f, e);
    }
    return rc;
}

static int run_bench(Options *o, Err *e)
{
    if (o->probe && strcmp(o->probe, "on") && strcmp(o->probe, "off"))
        return err_usage(e, "--probe %s: expected off or on", o->probe);
    o->all_isas = o->isa && strcmp(o->isa, "all") == 0;
    if (o->all_isas) o->isa = NULL;
    return with_output(o, o->exact, bench_session, e);
}

/* ---- inputs and outputs */

/* What a path of an input leads to; "-" is standard input. FILE.safetensors:NAME leads to FILE. */
static int input_stat(const char *path, struct stat *st)
{
    const char *colon = strrchr(path, ':');
    Bytes file = {0};
    if (strcmp(path, "-") == 0) return fstat(0, st);
    if (stat(path, st) == 0) return 0;
    if (!colon) return -1;
    bytes_add(&file, path, (size_t)(colon - path));
    bytes_add(&file, "", 0);
    int rc = stat(file.s, st);
    free(file.s);
    return rc;
}

/* A file that is read is not written over, whatever name it goes by. */
static int not_this_input(const char *option, const char *path, const char *input, Err *e)
{
    struct stat out, in;
    if (!path || !input || stat(path, &out) || !S_ISREG(out.st_mode) || input_stat(input, &in) ||
        in.st_dev != out.st_dev || in.st_ino != out.st_ino)
        return 0;
    return err_usage(e, "%s %s would replace %s, which is read: name another file", option, path,
                     strcmp(input, "-") ? input : "standard input");
}

static int not_an_input(const Options *o, const char *option, const char *path, Err *e)
{
    const char *const in[] = {o->model,   o->file,    o->ablation, o->emergence,
                              o->files.q, o->files.k, o->files.pos};
    const int n = sizeof in / sizeof *in;
    for (int i = 0; i < n; i++)
        if (not_this_input(option, path, in[i], e)) return -1;
    for (int i = 0; i < o->n_inputs; i++)
        if (not_this_input(option, path, o->inputs[i] + (o->inputs[i][0] == '@'), e)) return -1;
    return 0;
}

/* Before a command begins: no output is one of its inputs. */
static int outputs_apart(const Options *o, Err *e)
{
    return not_an_input(o, "-o", o->out, e) || not_an_input(o, "--csv", o->csv, e) ||
                   not_an_input(o, "--csv-heads", o->csv_heads, e) ||
                   not_an_input(o, "--text", o->text, e) ||
                   not_an_input(o, "--capture", o->capture_file, e) ||
                   not_an_input(o, "--partial", o->partial, e)
               ? -1
               : 0;
}

/* ---- analyze and report */

/* The windows that this process runs, and the file it keeps their results in. */
typedef struct {
    int i, n; /* shard i of n, i from 1 */
    uint64_t from, to;
    char *path;        /* NULL: none */
    double every, due; /* seconds between writings, and when the next one is */
} Shard;

/* Variables that tell a process which of how many it is; min: the number of the first. */
static const struct {
    const char *rank, *count, *min;
} schedulers[] = {
    {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", NULL},
    {"PMI_RANK", "PMI_SIZE", NULL},
    {"SLURM_PROCID", "SLURM_NTASKS", NULL},
};

/* A whole number in a variable; a missing one is `missing` (negative: an error). */
static int env_number(const char *name, int missing, int *out, Err *e)
{
    const char *s = getenv(name);
    char *end;
    if (!s && missing >= 0) return *out = missing, 0;
    if (!s) return err_usage(e, "--shard auto: %s is not set; give --shard I/N", name);
    long v = strtol(s, &end, 10);
    if (end == s || *end || v < 0 || v > INT_MAX)
        return err_usage(e, "--shard auto: %s: expected a whole number, found '%s'", name, s);
    *out = (int)v;
    return 0;
}

/* A job array with holes, as of tasks that are run again, does not tell which part a task is. */
static int shard_array(int step_max[2], int count, int min, Err *e)
{
    if (env_number("SLURM_ARRAY_TASK_STEP", 1, &step_max[0], e) ||
        env_number("SLURM_ARRAY_TASK_MAX", min + (count - 1) * step_max[0], &step_max[1], e))
        return -1;
    if (step_max[0] > 0 && (step_max[1] - min) / step_max[0] + 1 == count) return 0;
    return err_usage(e,
                     "--shard auto: SLURM_ARRAY_TASK_COUNT=%d, but the tasks go from %d to %d: an "
                     "array with holes; give --shard I/N",
                     count, min, step_max[1]);
}

/* --shard auto: the first scheduler of the table that has spoken. */
static int shard_auto(Shard *s, Err *e)
{
    int k = 0, rank = 0, min = 0, step_max[2] = {1, 0}, others,
        n = sizeof schedulers / sizeof *schedulers;
    while (k < n && !getenv(schedulers[k].rank)) k++;
    if (k == n)
        return err_usage(e,
                         "--shard auto: none of SLURM_ARRAY_TASK_ID, OMPI_COMM_WORLD_RANK, "
                         "PMI_RANK and SLURM_PROCID is set%s",
                         getenv("PARALLEL_SEQ") ? "; GNU parallel tells a job its number, but not "
                                                  "of how many: --shard {#}/N"
                                                : "; give --shard I/N");
    const char *name = schedulers[k].rank, *count = schedulers[k].count, *first = schedulers[k].min;
    if (env_number(name, -1, &rank, e) || env_number(count, -1, &s->n, e) ||
        (first && (env_number(first, -1, &min, e) || shard_array(step_max, s->n, min, e))))
        return -1;
    for (int i = k + 1; first && i < n; i++) {
        if (env_number(schedulers[i].count, 1, &others, e)) return -1;
        if (others > 1)
            return err_usage(e,
                             "--shard auto: both %s=%d and %s=%d are set: is each task of the "
                             "array one part, or each process in it? Give --shard I/N",
                             count, s->n, schedulers[i].count, others);
    }
    s->i = (rank - min) / step_max[0] + 1;
    if (rank < min || s->i > s->n)
        return err_usage(e, "--shard auto: %s=%d is not among %s=%d", name, rank, count, s->n);
    note("shard %d/%d, from %s=%d%s%s%s%s and %s=%d", s->i, s->n, name, rank, first ? ", " : "",
         first ? first : "", first ? "=" : "", first ? getenv(first) : "", count, s->n);
    return 0;
}

static int shard_parse(Shard *s, const char *text, Err *e)
{
    char rest;
    *s = (Shard){.i = 1, .n = 1};
    if (!text) return 0;
    if (strcmp(text, "auto") == 0) return shard_auto(s, e);
    if (sscanf(text, "%9d/%9d%c", &s->i, &s->n, &rest) == 2 && s->i >= 1 && s->i <= s->n) return 0;
    return err_usage(e, "--shard %s: expected I/N, 1 <= I <= N, or auto", text);
}

/* Path with the shard's number for %i and their count for %n. */
static char *shard_path(const Shard *s, const char *path)
{
    Bytes b = {0};
    char number[16];
    for (; *path; path++) {
        int named = path[0] == '%' && (path[1] == 'i' || path[1] == 'n');
        if (named) snprintf(number, sizeof number, "%d", *++path == 'i' ? s->i : s->n);
        bytes_add(&b, named ? number : path, named ? strlen(number) : 1);
    }
    bytes_add(&b, "", 0);
    return b.s;
}

/* Saved results are not thrown away by running the same line again. */
static int shard_unsaved(const Shard *s, const Options *o, Err *e)
{
    struct stat st;
    if (o->resume || stat(s->path, &st) || !S_ISREG(st.st_mode) || !st.st_size) return 0;
    return err_usage(e,
                     "--partial %s: the file is there already: --resume goes on from it, or remove "
                     "it first",
                     s->path);
}

/* Shard i of n runs the windows W (i - 1) / n .. W i / n - 1 of W. */
static int shard_plan(Shard *s, const Options *o, uint64_t W, Err *e)
{
    if (shard_parse(s, o->shard, e)) return -1;
    if (!o->partial && (o->shard || o->resume))
        return err_usage(e, "%s needs --partial FILE, to keep the results for merge",
                         o->shard ? "--shard" : "--resume");
    s->from = W * (uint64_t)(s->i - 1) / (uint64_t)s->n;
    s->to = W * (uint64_t)s->i / (uint64_t)s->n;
    s->every = o->checkpoint_every;
    s->due = now() + s->every;
    if (o->partial) s->path = shard_path(s, o->partial);
    if (s->path && o->out && strcmp(s->path, o->out) == 0)
        return err_usage(e, "--partial and -o name the same file");
    return s->path && (not_an_input(o, "--partial", s->path, e) || shard_unsaved(s, o, e)) ? -1 : 0;
}

/* Writes the closed windows. The next time comes late enough for writing to take 5 % at most. */
static int shard_save(Shard *s, Analysis *a, const Provenance *p, Err *e)
{
    OutFile out;
    double t0 = now();
    if (out_open(&out, s->path, e)) return -1;
    if (partial_write(a, p, out.f, e)) return out_abandon(&out), -1;
    if (out_close(&out, e)) return -1;
    s->due = now() + fmax(s->every, 19 * (now() - t0));
    return 0;
}

/* --resume: what the file has of this shard need not be run. */
static int shard_resume(const Shard *s, Analysis *a, const Provenance *p, Err *e)
{
    size_t size;
    uint64_t n = 0, n_tokens;
    if (access(s->path, F_OK)) {
        note("%s is not there: beginning with the first window", s->path);
        return 0;
    }
    const uint8_t *map = map_file(s->path, &size, e);
    int rc = map ? partial_resume(a, p, s->path, map, size, e) : -1;
    unmap_file(map, size);
    if (rc) return -1;
    for (uint64_t w = s->from; w < s->to; w++) n += (uint64_t)analysis_has(a, w);
    if (analysis_closed(a, &n_tokens) > n)
        return err_set(e,
                       "%s: covered: expected windows %llu to %llu, which are shard %d/%d, found "
                       "others",
                       s->path, (unsigned long long)s->from, (unsigned long long)s->to - 1, s->i,
                       s->n);
    note("%s has %llu of the %llu windows of this run", s->path, (unsigned long long)n,
         (unsigned long long)(s->to - s->from));
    return 0;
}

/* One window, from an empty cache; of so many tokens in all. 0, or -1 if it was interrupted. */
static int analyze_window(Session *ss, const int *window, int n, Provenance *p, double total)
{
    static double started;
    int step = ss->s.n_batch, i = 0;
    if (p->n_tokens == 0) started = now();
    state_reset(&ss->s);
    for (; i < n && !interrupted; i += step) {
        int k = n - i < step ? n - i : step;
        forward(&ss->s, window + i, k, 0);
        p->n_tokens += (uint64_t)k;
        progress("analyze", (double)p->n_tokens, total, started);
    }
    return i < n ? -1 : 0;
}

/* Tokens of window w, less the BOS in front; 0 if a has it. */
static size_t tokens_of(const Analysis *a, const Tokens *ids, size_t room, uint64_t w)
{
    size_t at = (size_t)w * room;
    return analysis_has(a, w) ? 0 : ids->n - at < room ? ids->n - at : room;
}

/* Streams the shard's part of ids through the model in windows of n_ctx tokens, each with BOS in
 * front if the policy says so: a window is a document of its own. Memory does not grow with the
 * text. With a file of partial results, windows that were run to their end are closed. */
static void analyze_windows(Session *ss, Analysis *a, const Tokens *ids, Provenance *p, Shard *sh)
{
    size_t lead = ss->bos >= 0, room = (size_t)ss->s.n_ctx - lead, n, total = 0;
    int *window = xcalloc((size_t)ss->s.n_ctx, sizeof *window);
    Err e;
    for (uint64_t w = sh->from; w < sh->to; w++)
        if ((n = tokens_of(a, ids, room, w))) total += n + lead;
    window[0] = ss->bos;
    for (uint64_t w = sh->from; w < sh->to && !interrupted; w++) {
        if (!(n = tokens_of(a, ids, room, w))) continue;
        memcpy(window + lead, ids->id + w * room, n * sizeof *window);
        analysis_window(a);
        analysis_seek(a, w);
        analysis_tokens(a, window, (int)(n + lead));
        int cut = analyze_window(ss, window, (int)(n + lead), p, (double)total);
        p->n_windows++;
        if (!sh->path || cut) continue;
        analysis_window(a);
        if (now() >= sh->due && w + 1 < sh->to && shard_save(sh, a, p, &e))
            note("warning: %s; the run goes on", e.msg);
    }
    free(window);
}

/* The tokens of the text, at most -n of them. */
static int analyze_text(Session *ss, const Options *o, Tokens *ids, Provenance *p, Err *e)
{
    Bytes text = {0};
    int rc = read_text(o, NULL, &text, e) || tok_encode(ss->tok, text.s, text.n, 0, ids, e);
    if (!rc) {
        p->bytes_left_out = warn_left_out(&text, ids);
        sha256_hex(text.s, text.n, p->text_sha256);
    }
    free(text.s);
    if (rc) return -1;
    p->text_cut = o->n_predict > 0 && ids->n > (size_t)o->n_predict;
    if (p->text_cut) ids->n = (size_t)o->n_predict;
    return ids->n ? 0 : err_set(e, "%s: the text has no tokens", p->text_path);
}

/* The text and what the model makes of it, in one window: each token is observed, then the next is
 * chosen from its logits. An end token is not run. What was generated is appended to ids and
 * out. */
static int analyze_generate(Session *ss, const Options *o, Analysis *a, Tokens *ids, Provenance *p,
                            Bytes *out, Err *e)
{
    Tokens w = {0};
    Sampler sp = make_sampler(o, 0);
    Decoder d = {.t = ss->tok, .n_seen = 1};
    double t0 = now();
    int rc = 0;
    if (ss->bos >= 0) tokens_add(&w, ss->bos);
    for (size_t i = 0; i < ids->n; i++) tokens_add(&w, ids->id[i]);
    state_reset(&ss->s);
    analysis_window(a);
    analysis_tokens(a, w.id, (int)w.n);
    int stopped = prefill(&ss->s, w.id, (int)w.n);
    while (!rc && !stopped && !interrupted && p->generated < (uint64_t)o->generate) {
        if (!all_finite(ss->s.logits, ss->m.n_vocab)) {
            rc = err_not_finite(ss, e);
            break;
        }
        int id = sample(&sp, ss->s.logits, n_choices(ss), &w);
        if (tok_is_eog(ss->tok, id)) break;
        tokens_add(&w, id);
        tokens_add(ids, id);
        tok_decode(&d, id, out);
        analysis_tokens(a, &id, 1);
        forward(&ss->s, &id, 1, 1);
        p->generated++;
        progress("generate", (double)p->generated, o->generate + 1, t0);
    }
    progress("generate", 1, 1, t0); /* done: the line goes */
    tok_decode_end(&d, out);
    bytes_add(out, "", 0);
    p->n_tokens = (uint64_t)ss->s.pos;
    p->n_windows = 1;
    p->generated_text = out->s;
    free(w.id);
    return rc;
}

/* How --generate chooses tokens; a random seed is drawn here, once, so that it can be told. */
static void say_sampling(Options *o, char *s, size_t size)
{
    Sampler sp = make_sampler(o, 0);
    if (!(sp.temp > 0)) {
        snprintf(s, size, "greedy");
        return;
    }
    if (o->seed < 0) o->seed = (double)(sp.rng >> 11);
    snprintf(s, size, "temperature %g, top-k %d, top-p %g, min-p %g, seed %.0f", sp.temp, sp.top_k,
             sp.top_p, sp.min_p, o->seed);
    if (sp.repeat_penalty > 1 || sp.repeat_penalty < 1)
        snprintf(s + strlen(s), size - strlen(s), ", repeat penalty %g over %d tokens",
                 sp.repeat_penalty, sp.repeat_last_n);
}

/* What is written besides the report or the JSON: opened before the run, so that a bad name is
 * known before the work is done. */
typedef struct {
    OutFile text, csv, heads;
    OutDir npy;
} Extras;

static void extras_abandon(Extras *x)
{
    if (x->text.f) out_abandon(&x->text);
    if (x->csv.f) out_abandon(&x->csv);
    if (x->heads.f) out_abandon(&x->heads);
    out_dir_abandon(&x->npy);
}

/* Two outputs into one place would mix. */
static int outputs_differ(const Options *o, Err *e)
{
    const struct {
        const char *option, *name;
    } out[] = {{"-o", o->out ? o->out : "-"},
               {"--csv", o->csv},
               {"--csv-heads", o->csv_heads},
               {"--npy", o->npy},
               {"--capture", o->capture_file},
               {"--partial", o->partial},
               {"--text", o->text}};
    const int n = sizeof out / sizeof *out;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            if (out[i].name && out[k].name && strcmp(out[i].name, out[k].name) == 0)
                return err_usage(e, "%s and %s both write to %s: name another file for one",
                                 k || o->out ? out[k].option
                                 : o->json   ? "the JSON"
                                             : "the report",
                                 out[i].option,
                                 strcmp(out[i].name, "-") ? out[i].name : "standard output");
    return 0;
}

static int extras_open(Extras *x, const Options *o, Err *e)
{
    *x = (Extras){.text = {.f = NULL}};
    if (o->text && !o->json)
        return err_usage(e, "--text goes with --json: the report is already written (-o FILE)");
    if (outputs_differ(o, e)) return -1;
    if ((o->text && out_open(&x->text, o->text, e)) || (o->csv && out_open(&x->csv, o->csv, e)) ||
        (o->csv_heads && out_open(&x->heads, o->csv_heads, e)) ||
        (o->npy && out_dir_open(&x->npy, o->npy, e))) {
        extras_abandon(x);
        return -1;
    }
    return 0;
}

/* --color, then NO_COLOR, then what CLICOLOR_FORCE and FORCE_COLOR say, then the terminal. */
static int wants_color(const Options *o, const FILE *f)
{
    static const char *const force[] = {"CLICOLOR_FORCE", "FORCE_COLOR"};
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    if (o->color && strcmp(o->color, "auto")) return strcmp(o->color, "always") == 0;
    if (no && *no) return 0;
    for (int i = 0; i < 2; i++) {
        const char *v = getenv(force[i]);
        if (f == stdout && v && *v && strcmp(v, "0")) return 1;
    }
    return f == stdout && isatty(1) && term && *term && strcmp(term, "dumb");
}

/* The locale's encoding, by its name: unset is UTF-8, "C" and others without that name are
 * ASCII. */
static int locale_is_ascii(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (int i = 0; i < 3; i++) {
        const char *v = getenv(names[i]);
        if (v && *v) return !strcasestr(v, "utf-8") && !strcasestr(v, "utf8");
    }
    return 0;
}

/* The screen behind standard output; a file is the same for everyone. */
static Screen screen_of(const Options *o, FILE *f)
{
    Screen s = {.verbose = o->verbose, .ascii = o->ascii};
    const char *term = getenv("TERM"), *colors = getenv("COLORTERM"), *columns = getenv("COLUMNS");
    struct winsize size;
    if (wants_color(o, f))
        s.color = colors && (strstr(colors, "truecolor") || strstr(colors, "24bit")) ? COLOR_TRUE
                  : term && strstr(term, "256")                                      ? COLOR_256
                                                                                     : COLOR_8;
    if (f != stdout) return s;
    if (isatty(1) && ioctl(1, TIOCGWINSZ, &size) == 0) s.width = size.ws_col;
    if (!s.width && columns) s.width = atoi(columns);
    s.ascii |= locale_is_ascii();
    return s;
}

static void write_report(const Analysis *a, const Provenance *p, const Options *o, FILE *f)
{
    Screen s = screen_of(o, f);
    analysis_print(a, p, f, &s);
}

/* What analyze or check prints of a finished analysis. */
static void show_analysis(const Analysis *a, const Provenance *p, const Options *o, FILE *f)
{
    Screen s = screen_of(o, f);
    if (o->status && o->json)
        *o->status = check_json(a, p, &o->check, f);
    else if (o->status)
        *o->status = check_print(a, p, &o->check, f, &s);
    else if (o->json)
        analysis_json(a, p, f);
    else
        write_report(a, p, o, f);
}

/* Standard output is looked at when the program ends. */
static int extra_close(OutFile *o, Err *e)
{
    return o->f == stdout ? 0 : out_close(o, e);
}

/* Everything that was asked for. 1: something beside the main output failed. A reader of standard
 * output that goes away early (head) takes no file with it: either that output is written last, or
 * the signal is not heard. */
static int analyze_write(const Analysis *a, const Provenance *p, const Options *o, OutFile *main,
                         Extras *x, Err *e)
{
    int bad = 0;
    if (main->f != stdout) signal(SIGPIPE, SIG_IGN);
    if (x->csv.f) analysis_csv(a, p, x->csv.f), bad |= extra_close(&x->csv, e);
    if (x->heads.f) analysis_csv_heads(a, p, x->heads.f), bad |= extra_close(&x->heads, e);
    if (x->text.f) write_report(a, p, o, x->text.f), bad |= extra_close(&x->text, e);
    if (x->npy.tmp && analysis_npy(a, p, &x->npy, e))
        bad = 1, out_dir_abandon(&x->npy);
    else if (x->npy.tmp)
        bad |= out_dir_close(&x->npy, e);
    if (!o->partial || o->json || o->out || o->status) show_analysis(a, p, o, main->f);
    return bad != 0;
}

/* The text of one token, to free: as it decodes, or as the file writes it if it is special or has
 * a zero byte. */
static char *token_text(const Tokenizer *t, int id)
{
    Bytes b = {0};
    if (!tok_is_special(t, id)) tok_bytes(t, id, &b);
    if (!b.n || memchr(b.s, 0, b.n)) {
        Str s = tok_text(t, id);
        b.n = 0;
        bytes_add(&b, s.s, s.n);
    }
    bytes_add(&b, "", 1);
    return b.s;
}

/* Texts of the first tokens of the first window, at most FIRST_TOKENS. */
static int first_texts(const Session *ss, const Tokens *ids, char **text)
{
    size_t n = 0, room = (size_t)ss->s.n_ctx;
    if (room > FIRST_TOKENS) room = FIRST_TOKENS;
    if (ss->bos >= 0) text[n++] = token_text(ss->tok, ss->bos);
    for (size_t i = 0; i < ids->n && n < room; i++) text[n++] = token_text(ss->tok, ids->id[i]);
    return (int)n;
}

/* --capture: a second probe behind the analysis, and the file it fills. */
typedef struct {
    Capture *capture; /* NULL: none */
    ProbeChain chain;
    OutFile out;
} Recorder;

static int record_begin(Recorder *r, const Model *m, const Options *o, int n_ctx, Err *e)
{
    if (!o->capture_file &&
        (o->capture.layers || o->capture.heads || o->capture.n_tokens || o->capture.pattern))
        return err_usage(e, "--capture FILE: say where to");
    if (!o->capture_file) return 0;
    if (o->shard || o->resume)
        return err_usage(e,
                         "--capture takes the first window of a text, which a run with %s may "
                         "not begin with: capture in a run of its own",
                         o->shard ? "--shard" : "--resume");
    if (!(r->capture = capture_new(m, &o->capture, n_ctx, e))) return -1;
    if (out_open(&r->out, o->capture_file, e) == 0) return 0;
    capture_free(r->capture);
    return -1;
}

static const Probe *record_probe(Recorder *r, const Probe *p)
{
    return r->capture ? probe_chain(&r->chain, p, capture_probe(r->capture)) : p;
}

/* failed: the run was; then no file appears. */
static int record_end(Recorder *r, int failed, const Provenance *p, Err *e)
{
    if (!r->capture) return 0;
    if (!failed) capture_write(r->capture, p, r->out.f);
    capture_free(r->capture);
    if (!failed) return out_close(&r->out, e);
    out_abandon(&r->out);
    return 0;
}

/* The file of partial results at the end of a run, also of an interrupted one. */
static int analyze_keep(Shard *sh, Analysis *a, Provenance *p, Err *e)
{
    if (!sh->path) return 0;
    if (shard_save(sh, a, p, e)) {
        if (interrupted) note("ropescope: %s", e->msg);
        return -1;
    }
    p->n_windows = analysis_closed(a, &p->n_tokens);
    p->incomplete = p->n_windows < p->n_text_windows;
    if (!interrupted) return 0;
    note("interrupted: %s has %llu of the %llu windows of this run; --resume goes on from there",
         sh->path, (unsigned long long)p->n_windows, (unsigned long long)(sh->to - sh->from));
    return -1;
}

/* How a reading is made, as far as it is known before the text is read. */
static Provenance session_provenance(const Session *ss, const Options *o)
{
    Provenance p = {.model_path = o->model,
                    .text_path = o->file ? o->file : "-p",
                    .bos_policy = ss->policy,
                    .isa = ss->s.k->name,
                    .n_ctx = ss->s.n_ctx,
                    .bos_id = ss->bos,
                    .exact = ss->s.exact,
                    .n_threads = ss->s.n_threads,
                    .model_bytes = ss->m.g.size,
                    .rope_override = ss->m.config_rope ? ss->m.config_rope : o->rope_said,
                    .pre_override = o->pre,
                    .window_override = window_said(o),
                    .kv = ss->s.kv_type == T_F16 ? "f16" : "f32"};
    return p;
}

/* The edit that was asked for, after a first pass over the text where one is needed. */
static int analyze_edit(Session *ss, const Options *o, const Tokens *ids, Edit **edit, Bytes *said,
                        Err *e)
{
    if (!drop_wants_reading(o)) return edit_unobserved(ss, o, edit, said, e);
    Analysis *a = analysis_new(&ss->m, &o->analysis);
    Provenance first = {.n_tokens = 0};
    Shard whole = {.to = n_windows(ss, ids)};
    ss->s.probe = analysis_probe(a);
    analyze_windows(ss, a, ids, &first, &whole);
    ss->s.probe = NULL;
    if (interrupted)
        note("interrupted before the candidates were found: there is nothing to print");
    int rc = interrupted ? err_set(e, "interrupted before the candidates were found")
                         : edit_asked(ss, o, a, edit, said, e);
    analysis_free(a);
    return rc;
}

/* What was asked for, less what excludes it. */
static int generate_check(const Session *ss, const Options *o, const Tokens *ids, Err *e)
{
    size_t need = ids->n + (size_t)(ss->bos >= 0) + (size_t)o->generate;
    if (!o->generate) return 0;
    if (o->partial)
        return err_usage(e, "--generate: the continuation is one window, with no parts to keep: "
                            "no --partial");
    if (need <= (size_t)ss->s.n_ctx) return 0;
    return err_set(e,
                   "--generate %d: with the text that makes %zu tokens, and the window has %d: -c "
                   "sets a larger one",
                   o->generate, need, ss->s.n_ctx);
}

/* Runs the windows, or the text and its continuation; then come the outputs. 1: as
 * analyze_write. */
static int analyze_run(Session *ss, const Options *o, Tokens *ids, Provenance *p, OutFile *out,
                       Err *e)
{
    char *text[FIRST_TOKENS];
    Shard sh = {.path = NULL};
    Recorder rec = {0};
    Extras extras = {.text = {.f = NULL}};
    Bytes said = {0};
    p->n_text_tokens = ids->n;
    p->n_text_windows = n_windows(ss, ids);
    p->token_text = (const char *const *)text;
    p->n_token_text = first_texts(ss, ids, text);
    int rc = generate_check(ss, o, ids, e) || shard_plan(&sh, o, p->n_text_windows, e) ||
             extras_open(&extras, o, e) || record_begin(&rec, &ss->m, o, ss->s.n_ctx, e);
    if (!rc) {
        Analysis *a = analysis_new(&ss->m, &o->analysis);
        sha256_hex(ss->m.g.map, ss->m.g.size, p->model_sha256);
        ss->s.probe = record_probe(&rec, analysis_probe(a));
        rc = o->resume ? shard_resume(&sh, a, p, e) : 0;
        if (!rc && o->generate) {
            rc = analyze_generate(ss, o, a, ids, p, &said, e);
            for (int i = 0; i < p->n_token_text; i++) free(text[i]);
            p->n_token_text = first_texts(ss, ids, text);
        }
        if (!rc && !o->generate) analyze_windows(ss, a, ids, p, &sh);
        p->interrupted = interrupted != 0;
        if (!rc) rc = analyze_keep(&sh, a, p, e);
        if (record_end(&rec, rc != 0, p, e)) rc = -1;
        if (!rc) rc = analyze_write(a, p, o, out, &extras, e);
        analysis_free(a);
    } else {
        rc = -1;
    }
    if (rc < 0) extras_abandon(&extras);
    for (int i = 0; i < p->n_token_text; i++) free(text[i]);
    free(sh.path), free(said.s);
    return rc;
}

static int analyze_session(Session *ss, const Options *o, OutFile *out, Err *e)
{
    Tokens ids = {0};
    Bytes edits = {0};
    Edit *edit = NULL;
    Options run = *o;
    char sampling[160];
    Provenance p = session_provenance(ss, o);
    if (ss->s.n_ctx < 2)
        return err_usage(e, "-c %d: a window needs 2 tokens at least", ss->s.n_ctx);
    if (o->generate) {
        say_sampling(&run, sampling, sizeof sampling);
        p.sampling = sampling;
    }
    int rc = analyze_text(ss, o, &ids, &p, e) || analyze_edit(ss, o, &ids, &edit, &edits, e);
    rc = rc ? -1 : 0;
    if (!rc) {
        ss->s.edit = edit;
        p.edits = edits.s;
        p.edit_hash = edit_hash(edit);
        rc = analyze_run(ss, &run, &ids, &p, out, e);
    }
    ss->s.edit = NULL;
    edit_free(edit);
    free(edits.s);
    free(ids.id);
    return rc;
}

static int analyze_activations(const Activations *x, const Options *o, const Kernels *k,
                               OutFile *out, Extras *extras, Err *e)
{
    int T = x->q_grid.len[AXIS_T], B = x->q_grid.len[AXIS_B];
    Provenance p = {.isa = k->name,
                    .n_ctx = T,
                    .bos_id = -1,
                    .exact = 1,
                    .n_threads = o->n_threads ? o->n_threads : default_threads(),
                    .files = x};
    AnalysisOptions ao = o->analysis;
    ao.isa = k->name;
    Analysis *a = analysis_new(x->m, &ao);
    double t0 = now();
#ifndef _OPENMP
    p.n_threads = 1;
#endif
    for (int b = 0; b < B && !interrupted; b++) {
        analysis_window(a);
        activations_feed(x, b, analysis_probe(a), k, p.n_threads);
        p.n_windows++;
        p.n_tokens += (uint64_t)T;
        progress("analyze", (b + 1.0) * T, (double)B * T, t0);
    }
    p.interrupted = interrupted != 0;
    int rc = analyze_write(a, &p, o, out, extras, e);
    analysis_free(a);
    return rc;
}

/* Options of analyze that change nothing without a model and a text. */
static int activations_check(const Options *o, Err *e)
{
    static const char *const parts[] = {"partial", "shard", "resume", "checkpoint-every", NULL};
    static const char *const others[] = {"model",
                                         "prompt",
                                         "file",
                                         "predict",
                                         "ctx-size",
                                         "batch-size",
                                         "generate",
                                         "seed",
                                         "temp",
                                         "top-k",
                                         "top-p",
                                         "min-p",
                                         "repeat-penalty",
                                         "repeat-last-n",
                                         "rope-layers",
                                         "window",
                                         "bos",
                                         "pre",
                                         "exact",
                                         "int8",
                                         "kv",
                                         "drop",
                                         "layers",
                                         "heads",
                                         "keep-rope",
                                         "act-min",
                                         "act-ratio",
                                         "capture",
                                         "capture-layers",
                                         "capture-heads",
                                         "capture-tokens",
                                         "capture-pattern",
                                         NULL};
    const char *name = first_given(o, parts);
    if (name)
        return err_usage(e,
                         "--partial, --shard and --resume are for a model and a text, not for "
                         "--q and --k: no --%s",
                         name);
    name = first_given(o, others);
    if (!name && !o->model) return 0;
    return err_usage(e, "--q and --k take the place of a model and a text: no %s%s with them",
                     name ? "--" : "", name ? name : o->model);
}

/* --q and --k: activations of another program in the place of a model and a text. */
static int run_activations(const Options *o, Err *e)
{
    ActivationOptions ao = o->files;
    Activations x;
    OutFile out;
    Extras extras;
    ao.rope = o->rope;
    ao.rope_scale = o->rope_scale;
    ao.n_ctx = o->analysis.n_ctx;
    ao.base = o->base;
    ao.n_rot = o->n_rot;
    if (activations_check(o, e)) return -1;
    const Kernels *k = kernels_pick(o->isa, e);
    if (!k || activations_open(&x, &ao, e)) return -1;
    int rc = extras_open(&extras, o, e) || out_open(&out, o->out ? o->out : "-", e) ? -1 : 0;
    if (!rc) {
        rc = analyze_activations(&x, o, k, &out, &extras, e);
        if (out_close(&out, e)) rc = -1;
    } else {
        extras_abandon(&extras);
    }
    activations_close(&x);
    return rc ? -1 : 0;
}

static int run_analyze(Options *o, Err *e)
{
    static const char *const sampled[] = {"temp",           "top-k",         "top-p", "min-p",
                                          "repeat-penalty", "repeat-last-n", NULL};
    const ActivationOptions *f = &o->files;
    const char *name = first_given(o, sampled);
    if (f->q || f->k) return run_activations(o, e);
    if (!o->generate && name)
        return err_usage(e, "--%s is for --generate N: nothing else is chosen by chance", name);
    if (!o->partial && first_given(o, (const char *const[]){"checkpoint-every", NULL}))
        return err_usage(e, "--checkpoint-every is for --partial FILE, which is missing");
    if (f->axes || f->layout || f->rotated || o->base > 0 || o->n_rot || f->pos || f->scale > 0)
        return err_usage(e, "--axes, --layout, --rotated, --base, --n-rot, --pos and --scale "
                            "describe the files of --q and --k, which are missing");
    if (!o->n_ctx) o->n_ctx = 512;
    return with_output(o, !o->int8, analyze_session, e);
}

/* ---- merge */

static int merge_file(Partial *x, const char *path, Err *e)
{
    size_t size;
    const uint8_t *map = map_file(path, &size, e);
    if (!map) return -1;
    int rc = partial_add(x, path, map, size, e);
    unmap_file(map, size);
    return rc;
}

/* The files named in a file, one on each line; "-" is stdin. */
static int merge_list(Partial *x, const char *path, Err *e)
{
    Bytes names = {0};
    int rc = bytes_read(&names, path, e);
    for (char *s = names.s, *end; !rc && *s; s = end) {
        end = s + strcspn(s, "\n");
        if (*end) *end++ = 0;
        if (*s) rc = merge_file(x, s, e);
    }
    free(names.s);
    return rc;
}

static int merge_write(Partial *x, const Options *o, Err *e)
{
    OutFile out;
    Extras extras;
    char missing[512] = "";
    const Provenance *p = &x->p;
    int keep = o->out && !o->json;
    if (p->incomplete) analysis_missing(x->a, p->n_text_windows, missing, sizeof missing);
    if (p->incomplete && !keep && !o->allow_gaps)
        return err_set(e,
                       "of the %llu windows of the text, %s are missing: nothing is printed "
                       "without --allow-gaps",
                       (unsigned long long)p->n_text_windows, missing);
    if (p->incomplete && keep)
        note("%s: of the %llu windows of the text, %s are missing", o->out,
             (unsigned long long)p->n_text_windows, missing);
    if (keep && (o->csv || o->csv_heads || o->npy))
        return err_usage(e, "-o FILE keeps partial results, of which --csv and --npy cannot be "
                            "made yet: add --json, or leave -o away");
    if (extras_open(&extras, o, e)) return -1;
    if (out_open(&out, o->out ? o->out : "-", e)) return extras_abandon(&extras), -1;
    int rc = keep ? partial_write(x->a, p, out.f, e) : 0;
    if (rc) return out_abandon(&out), -1;
    if (!keep) rc = analyze_write(x->a, p, o, &out, &extras, e);
    return out_close(&out, e) || rc ? -1 : 0;
}

static int run_merge(Options *o, Err *e)
{
    Partial x = {0};
    int rc = 0;
    for (int i = 0; i < o->n_inputs && !rc; i++) {
        const char *name = o->inputs[i];
        int is_list = name[0] == '@' || strcmp(name, "-") == 0;
        rc = is_list ? merge_list(&x, name + (name[0] == '@'), e) : merge_file(&x, name, e);
    }
    if (!rc && !x.a)
        rc = err_usage(e, "which partial results? ropescope merge A.part B.part --json -o "
                          "reading.json");
    rc = rc || merge_write(&x, o, e);
    partial_free(&x);
    free(o->inputs);
    return rc ? -1 : 0;
}

/* A file of JSON that an option may have named; no name: no text. */
static int page_file(PageFile *p, Bytes *b, const char *path, Err *e)
{
    *p = (PageFile){path, {NULL, 0}};
    if (!path) return 0;
    if (bytes_read(b, path, e)) return -1;
    p->json = (Str){b->s ? b->s : "", b->n};
    return 0;
}

static int run_report(Options *o, Err *e)
{
    Bytes text[3] = {{0}};
    PageFile reading, ablation, emergence;
    OutFile out;
    if (!o->model)
        return err_usage(e, "which reading? ropescope report READING.json -o report.html");
    int rc = page_file(&reading, &text[0], o->model, e) ||
             page_file(&ablation, &text[1], o->ablation, e) ||
             page_file(&emergence, &text[2], o->emergence, e) ||
             out_open(&out, o->out ? o->out : "-", e);
    if (!rc) {
        rc = report_html(&reading, &ablation, &emergence, out.f, e);
        if (rc)
            out_abandon(&out);
        else
            rc = out_close(&out, e);
    }
    for (int i = 0; i < 3; i++) free(text[i].s);
    return rc ? -1 : 0;
}

/* ---- bounds and check */

static int run_check(Options *o, Err *e)
{
    trouble = 2;
    o->status = &o->found;
    return check_options(&o->check, o->bounds, o->tolerance, e) ? -1 : run_analyze(o, e);
}

/* An encoding without a model: the frequencies of --base and --n-rot over --ctx tokens. */
static int lone_encoding(const Options *o, Model *m, Err *e)
{
    ModelOptions mo = {.rope = o->rope, .rope_factor = o->rope_scale};
    RopeSpec spec = {&rope_plain, rope_params(o->n_rot, o->base)};
    const char *missing = !(o->base > 0)             ? "--base X"
                          : !o->n_rot                ? "--n-rot N"
                          : !(o->analysis.n_ctx > 0) ? "--ctx P"
                                                     : NULL;
    if (!(o->base > 0) && !o->n_rot)
        return err_usage(e, "which model? ropescope bounds MODEL.gguf, or without one "
                            "--base X --n-rot N --ctx P");
    if (missing)
        return err_usage(e, "bounds without a model needs --base, --n-rot and --ctx: %s is missing",
                         missing);
    if (o->rope_layers)
        return err_usage(e, "--rope-layers is for the layers of a model, which is missing");
    if (o->n_rot % 2)
        return err_usage(e, "--n-rot %d: expected an even number, two values for each pair",
                         o->n_rot);
    spec.p.n_ctx_orig = spec.p.n_ctx_train = (int)o->analysis.n_ctx;
    if (override_rope(&mo, &spec, e)) return -1;
    if (spec.kind->per_layer)
        return err_usage(e, "--rope %s: layers differ: give a model, whose layers they are",
                         spec.kind->name);
    m->rope = xcalloc(1, sizeof *m->rope);
    if (rope_new(&m->rope[0], spec.kind, &spec.p, ROPE_HALF, NULL, e)) return -1;
    m->n_ropes = 1;
    return 0;
}

static int bounds_model(const Options *o, Model *m, Err *e)
{
    ModelOptions mo = {
        .rope = o->rope, .rope_layers = o->rope_layers, .rope_factor = o->rope_scale};
    if (!o->model) return lone_encoding(o, m, e);
    if (o->base > 0 || o->n_rot)
        return err_usage(e, "--base and --n-rot are for bounds without a model; %s has its own",
                         o->model);
    return model_open(m, o->model, &mo, e);
}

/* The theory needs no weights, and reads none; the biases are weights, and are read. */
static int run_bounds(Options *o, Err *e)
{
    Model m = {0};
    OutFile out;
    BoundsOptions b = {o->analysis.n_ctx, o->eps};
    Provenance p = {.model_path = o->model};
    Screen screen;
    if (o->model) p.rope_override = o->rope_said;
    int rc = bounds_model(o, &m, e) || out_open(&out, o->out ? o->out : "-", e);
    if (m.config_rope) p.rope_override = m.config_rope;
    if (!rc) {
        p.model_bytes = m.g.size;
        for (int l = 0; l < m.n_layers && !*p.model_sha256; l++)
            if (m.layer[l].bq || m.layer[l].bk) sha256_hex(m.g.map, m.g.size, p.model_sha256);
        screen = screen_of(o, out.f);
        if (o->json)
            bounds_json(&m, &b, &p, out.f);
        else
            bounds_print(&m, &b, &p, out.f, &screen);
        rc = out_close(&out, e);
    }
    model_close(&m);
    return rc ? -1 : 0;
}

/* ---- rope */

/* Without a model: a layer for each, of the shape that is asked for. */
static Model *lone_shape(const RopeKind *kind, const RopeParams *p, Err *e)
{
    int L = p->n_layers, bad = 0;
    Layer *layer = xcalloc((size_t)L, sizeof *layer);
    ModelShape shape = {.arch = "none",
                        .n_layers = L,
                        .head_dim = p->head_dim,
                        .n_ctx_train = p->n_ctx_train,
                        .layer = layer,
                        .rope = xcalloc((size_t)L, sizeof(Rope))};
    for (int l = 0; !bad && l < L; l++) {
        RopeParams own = *p;
        own.layer = l;
        layer[l] = (Layer){.n_heads = p->n_heads, .n_kv_heads = p->n_kv_heads};
        Rope *r = &shape.rope[shape.n_ropes];
        bad = rope_new(r, kind, &own, ROPE_HALF, NULL, e);
        if (bad) break;
        while (!same_rope(&shape.rope[layer[l].rope], r)) layer[l].rope++;
        if (layer[l].rope < shape.n_ropes)
            rope_free(r);
        else
            shape.n_ropes++;
    }
    Model *m = bad ? NULL : model_skeleton(&shape);
    for (int i = 0; bad && i < shape.n_ropes; i++) rope_free(&shape.rope[i]);
    if (bad) free(shape.rope);
    free(layer);
    return m;
}

/* Plain RoPE of the shape and base in force, whatever file or kind make of it. */
static int plain_twin(const RopeParams *of, int layout, Rope *plain, Err *e)
{
    RopeParams p = *of;
    p.divisors = NULL;
    p.file = NULL;
    p.factor = 1;
    p.copies = 1;
    return rope_new(plain, &rope_plain, &p, layout, NULL, e);
}

/* Any shape; NULL on error. */
static Model *show_lone(const Options *o, Rope *plain, Err *e)
{
    const RopeKind *kind;
    RopeParams p = rope_params(o->head_dim ? o->head_dim : 64, o->base > 0 ? o->base : 10000);
    p.n_ctx_orig = p.n_ctx_train = o->analysis.n_ctx > 0 ? (int)o->analysis.n_ctx : 4096;
    p.n_layers = o->n_layers ? o->n_layers : 12;
    p.n_heads = p.n_kv_heads = o->n_heads ? o->n_heads : 8;
    p.n_embd = p.n_heads * p.head_dim;
    RopeParams shape = p;
    if (rope_parse(o->kind, &p, &kind, e)) return NULL;
    shape.base = p.base;
    return plain_twin(&shape, ROPE_HALF, plain, e) ? NULL : lone_shape(kind, &p, e);
}

/* The encoding of a model, or another one put in its place. */
static int show_model(const Options *o, RopeShow *w, Model *m, Rope *plain, Err *e)
{
    const RopeKind *kind;
    ModelOptions mo = {.rope = o->kind, .rope_layers = o->rope_layers},
                 as_plain = {.rope = "plain"};
    Model twin;
    RopeParams p;
    if (model_open(m, o->model, &mo, e) || model_open(&twin, o->model, &as_plain, e)) return -1;
    w->m = m;
    p = twin.rope[0].p;
    int rc = o->kind && !is_config(o->kind) ? rope_parse(o->kind, &p, &kind, e) : 0;
    RopeParams shape = twin.rope[0].p;
    if (is_config(o->kind)) p.base = m->rope[m->layer[0].rope].p.base;
    shape.base = p.base;
    rc = rc || plain_twin(&shape, twin.rope[0].layout, plain, e);
    model_close(&twin);
    return rc ? -1 : 0;
}

static int rope_check(const Options *o, Err *e)
{
    static const char *const shape[] = {"head-dim", "base", "ctx", "heads", "layers", NULL};
    static const char *const shown[] = {"head-dim", "base", "ctx", "heads", "layers", "span", NULL};
    const char *name = first_given(o, o->model ? shape : shown);
    if (o->model && name)
        return err_usage(e, "--%s is for an encoding without a model; %s has its own", name,
                         o->model);
    if (!o->model && !o->kind && name)
        return err_usage(e, "--%s is for one kind: ropescope rope KIND --%s N", name, name);
    if (o->head_dim % 2) return err_usage(e, "--head-dim %d: expected an even number", o->head_dim);
    if (!o->model && is_config(o->kind))
        return err_usage(e, "rope %s: it is for the layers of a model: give that, too: -m FILE",
                         o->kind);
    if (!o->model && o->rope_layers)
        return err_usage(e, "--rope-layers is for the layers of a model: -m FILE");
    return 0;
}

/* The models behind w; freed by the caller, on error too. */
static int show_made(const Options *o, RopeShow *w, Model *m, Model **lone, Rope *plain, Err *e)
{
    if (o->model) return show_model(o, w, m, plain, e);
    if (o->kind) w->m = *lone = show_lone(o, plain, e);
    return o->kind && !*lone ? -1 : 0;
}

static int run_rope(Options *o, Err *e)
{
    Model m = {0};
    Model *lone = NULL;
    Rope plain = {0};
    OutFile out;
    Err again;
    char *asked = NULL;
    int rc = rope_check(o, e);
    RopeShow w = {.spec = is_config(o->kind) ? NULL : o->kind,
                  .model = o->model,
                  .plain = &plain,
                  .span = o->span};
    rc = rc || show_made(o, &w, &m, &lone, &plain, e);
    if (rc && w.spec && !strstr(o->kind, "factor")) { /* to explain one, any factor will do */
        size_t size = strlen(o->kind) + 16;
        asked = xcalloc(size, 1);
        snprintf(asked, size, "%s%cfactor=4", o->kind, strchr(o->kind, ':') ? ',' : ':');
        Options with = *o;
        w.spec = with.kind = asked;
        model_close(&m);
        rope_free(&plain);
        rc = rope_check(o, &again) || show_made(&with, &w, &m, &lone, &plain, &again);
    }
    rc = rc || out_open(&out, o->out ? o->out : "-", e);
    if (!rc) {
        Screen s = screen_of(o, out.f);
        if (!w.m)
            o->json ? rope_list_json(out.f) : rope_list(out.f, &s);
        else
            rc = o->json ? rope_show_json(&w, out.f, e) : rope_show(&w, out.f, &s, e);
        if (rc)
            out_abandon(&out);
        else
            rc = out_close(&out, e);
    }
    rope_free(&plain);
    skeleton_free(lone);
    model_close(&m);
    free(asked);
    return rc ? -1 : 0;
}

/* ---- explain */

/* The tokens of the text that fit the context, with BOS in front if the policy says so. */
static int explain_text(Session *ss, const Options *o, Tokens *ids, Provenance *p, Err *e)
{
    Bytes text = {0};
    int rc = read_text(o, NULL, &text, e);
    bytes_add(&text, "", 0);
    if (!rc) sha256_hex(text.s, text.n, p->text_sha256);
    end_prompt(o, &text);
    rc = rc || encode(ss, &text, 0, ids, e);
    free(text.s);
    if (rc) return -1;
    p->n_text_tokens = ids->n;
    p->text_cut = ids->n > (size_t)ss->s.n_ctx;
    if (p->text_cut) {
        note("the text has %zu tokens, the context takes the first %d (-c N takes more)", ids->n,
             ss->s.n_ctx);
        ids->n = (size_t)ss->s.n_ctx;
    }
    return ids->n ? 0 : err_set(e, "%s: the text has no tokens", p->text_path);
}

/* Runs the tokens up to the query, no further: the cache is then as the query met it. */
static int explain_run(Session *ss, const Options *o, const Logit *at, const int *ids,
                       Provenance *p, OutFile *out)
{
    int n = at->query + 1, rc;
    char **text = xcalloc((size_t)n, sizeof *text);
    Screen screen = screen_of(o, out->f);
    Explain *x = explain_new(&ss->m, at);
    for (int i = 0; i < n; i++) text[i] = token_text(ss->tok, ids[i]);
    p->n_tokens = (uint64_t)n;
    p->n_windows = p->n_text_windows = 1;
    sha256_hex(ss->m.g.map, ss->m.g.size, p->model_sha256);
    ss->s.probe = explain_probe(x);
    rc = prefill(&ss->s, ids, n);
    ss->s.probe = NULL;
    if (!rc) {
        explain_end(x, &ss->s, ids, (const char *const *)text);
        if (o->json)
            explain_json(x, p, out->f);
        else
            explain_print(x, p, out->f, &screen);
    }
    for (int i = 0; i < n; i++) free(text[i]);
    free(text);
    explain_free(x);
    return rc;
}

static int explain_session(Session *ss, const Options *o, OutFile *out, Err *e)
{
    Tokens ids = {0};
    Bytes edits = {0};
    Edit *none = NULL;
    Logit at = o->logit;
    Provenance p = session_provenance(ss, o);
    int rc = explain_text(ss, o, &ids, &p, e) || edit_unobserved(ss, o, &none, &edits, e) ||
             logit_resolve(&ss->m, (int)ids.n, &at, e);
    if (!rc) {
        p.edits = edits.s;
        rc = explain_run(ss, o, &at, ids.id, &p, out);
    }
    free(edits.s);
    free(ids.id);
    return rc ? -1 : 0;
}

static int run_explain(Options *o, Err *e)
{
    return with_output(o, !o->int8, explain_session, e);
}

static const char *add_words(Strings *to, const char *fmt, ...) PRINTF_LIKE(2, 3);
static const char *add_words(Strings *to, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *s = words_of(fmt, ap);
    va_end(ap);
    to->at = xrealloc(to->at, (size_t)to->n + 1, sizeof *to->at);
    to->at[to->n++] = s;
    return s;
}

static void free_words(Strings *s)
{
    for (int i = 0; i < s->n; i++) free((char *)(uintptr_t)s->at[i]);
    free(s->at);
    *s = (Strings){NULL, 0};
}

/* ---- ablate */

/* The work of one `ablate`: the same windows again and again. */
typedef struct {
    Session *ss;
    const Options *o;
    Tokens ids;
    Selection sel;
    Analysis *first;    /* what the unedited run was seen to do */
    double *nll0, *nll; /* of each scored token: unedited, and in this run */
    double started;
    int n_done, n_asked; /* passes over the text */
    char windows[400];   /* how the text is cut, in words */
    Strings words;       /* of the runs, owned */
    Ablation out;
} Ablate;

/* Perplexity over that of the unedited run, exp(mean d), d = the difference of each token's -log p;
 * its standard error from the scatter of d. */
static void ablate_ratio(const Ablate *w, AblationRun *r)
{
    double sum = 0, sq = 0, n = (double)r->n_tokens;
    for (long i = 0; i < r->n_tokens; i++) sum += w->nll[i] - w->nll0[i];
    for (long i = 0; i < r->n_tokens; i++) {
        double d = w->nll[i] - w->nll0[i] - sum / n;
        sq += d * d;
    }
    r->ratio = exp(sum / n);
    r->ratio_error = r->n_tokens > 1 ? r->ratio * sqrt(sq / (n - 1) / n) : 0;
}

/* One pass over all windows with a probe or an observer. 0, 1 if interrupted, -1. */
static int ablate_pass(Ablate *w, Session *ss, Perplexity *p, Err *e)
{
    double tokens = (double)w->ids.n;
    p->before = w->n_done * tokens;
    p->total = fmax(w->n_asked, w->n_done + 1) * tokens;
    p->started = w->started;
    int rc = perplexity_windows(ss, w->o, &w->ids, p, e);
    if (interrupted) return 1;
    w->n_done++;
    return rc;
}

/* Runs all windows with an edit (NULL: none), observed, and keeps the figures beside `as`. */
static int ablate_run(Ablate *w, Session *ss, const Edit *edit, AblationRun *as, Err *e)
{
    Perplexity p = {.observer = analysis_new(&ss->m, &w->o->analysis)};
    Ablation *b = &w->out;
    Probe probe = *analysis_probe(p.observer);
    if (b->n) probe.want = PROBE_ATTN; /* q and k are read in the unedited run alone */
    p.score.each = b->n ? w->nll : w->nll0;
    ss->s.edit = edit;
    ss->s.probe = &probe;
    int rc = ablate_pass(w, ss, &p, e);
    ss->s.edit = NULL;
    ss->s.probe = NULL;
    if (!rc) {
        as->n_tokens = p.score.n;
        as->nll = p.score.nll / (double)p.score.n;
        as->perplexity = exp(as->nll);
        as->perplexity_error = perplexity_error(&p.score);
        as->ratio = 1;
        if (b->n) ablate_ratio(w, as);
        as->all = analysis_sinks(p.observer, NULL);
        as->chosen = analysis_sinks(p.observer, &w->sel);
        b->first_scored = p.first + 1;
        b->run = xrealloc(b->run, (size_t)b->n + 1, sizeof *b->run);
        b->run[b->n++] = *as;
    }
    if (!rc && !w->first)
        w->first = p.observer;
    else
        analysis_free(p.observer);
    return rc;
}

static int ablate_pairs(Ablate *w, const Pairs *p, AblationRun *as, Err *e)
{
    Edit *edit = edit_drop(&w->ss->m, p);
    as->counts = EDITS_PAIRS;
    as->n_edited = p->n;
    int rc = ablate_run(w, w->ss, edit, as, e);
    edit_free(edit);
    return rc;
}

static void ablate_note(Ablate *w, const char *what, const char *why)
{
    char s[700];
    snprintf(s, sizeof s, "'%s' was not run: %s.", what, why);
    bytes_add(&w->out.notes, s, strlen(s) + 1);
}

static void control_words(Ablate *w, AblationRun *as, const Pairs *c)
{
    const char *which = c->any ? "pairs of any kind" : "full-cycle pairs that it leaves";
    if (c->forced) {
        as->name = add_words(&w->words, "drop all other full-cycle pairs");
        as->edit =
            add_words(&w->words,
                      "all %s of each head dropped from the logits: there are just as many", which);
        return;
    }
    as->name = add_words(&w->words, "drop random %s, seed %llu",
                         c->any ? "of any kind" : "full-cycle", (unsigned long long)as->seed);
    as->edit =
        add_words(&w->words, "as many random %s of each head dropped from the logits", which);
}

/* As many random pairs as p has, --controls times; once, where there is nothing to draw from. None
 * where p is every pair. */
static int ablate_controls(Ablate *w, const Pairs *p, int of, uint64_t seed, Err *e)
{
    int rc = 0, n = w->o->controls;
    for (int k = 0; !rc && k < n; k++) {
        AblationRun as = {.control_of = of, .seed = seed + (uint64_t)k};
        Pairs c = pairs_control(w->first, p, as.seed);
        control_words(w, &as, &c);
        if (c.forced) w->n_asked -= n - 1, n = 1;
        if (c.forced && c.any)
            ablate_note(w, "a control", "all pairs of the heads are dropped already");
        else
            rc = ablate_pairs(w, &c, &as, e);
        free(c.on);
    }
    return rc;
}

/* A drop and its controls. */
static int ablate_drop(Ablate *w, const char *word, Err *e)
{
    Drop d;
    int rc = drop_parse(&w->ss->m, word, &d, e);
    if (!rc) {
        AblationRun as = {.control_of = -1, .seed = edit_seed(w->o)};
        Pairs p = drop_pairs(w->first, &w->sel, &d, as.seed);
        as.name = add_words(&w->words, "%s", d.name);
        as.edit = add_words(&w->words, "%s", d.what);
        if (p.n) {
            rc = ablate_pairs(w, &p, &as, e);
            rc = rc ? rc : ablate_controls(w, &p, w->out.n - 1, as.seed + (uint64_t)d.random, e);
        } else {
            ablate_note(w, d.name, "no selected head has such a pair");
            w->n_asked -= 1 + w->o->controls;
        }
        free(p.on);
    }
    free(d.listed);
    return rc;
}

/* Massive values become their means; then as many of the lowest, as the control. */
static int ablate_massive(Ablate *w, Err *e)
{
    Channels *c = channels_new(&w->ss->m);
    Perplexity p = {.observer = NULL};
    w->ss->s.probe = channels_probe(c);
    int rc = ablate_pass(w, w->ss, &p, e);
    int of = w->out.n;
    w->ss->s.probe = NULL;
    for (int lowest = 0; !rc && lowest < 2; lowest++) {
        double ratio = w->o->analysis.massive_ratio;
        Edit *edit = edit_massive(c, &w->sel, ratio, lowest);
        AblationRun as = {
            .control_of = lowest ? of : -1, .counts = EDITS_VALUES, .n_edited = edit->n};
        as.name = lowest ? "lowest values" : "massive values";
        if (lowest)
            as.edit = "as many values of the smallest norm made their means over tokens";
        else
            as.edit = add_words(
                &w->words,
                "the massive values of q and k (norm over tokens > %g times the mean over the "
                "channels of the head) made their means over tokens",
                ratio);
        if (edit->n)
            rc = ablate_run(w, w->ss, edit, &as, e);
        else if (!lowest)
            ablate_note(w, as.name, "no selected head has a massive value");
        edit_free(edit);
    }
    channels_free(c);
    return rc;
}

/* The model opened anew with another encoding, run as it is. */
static int ablate_rope(Ablate *w, const ModelOptions *mo, AblationRun *as, Err *e)
{
    const State *s = &w->ss->s;
    StateOptions so = {.n_ctx = s->n_ctx,
                       .n_batch = s->n_batch,
                       .n_threads = s->n_threads,
                       .exact = s->exact,
                       .kv_type = s->kv_type,
                       .isa = s->k->name};
    Session other = {.tok = w->ss->tok, .bos = w->ss->bos};
    memcpy(other.policy, w->ss->policy, sizeof other.policy);
    as->control_of = -1;
    as->counts = EDITS_ROPE;
    int rc = model_open(&other.m, w->o->model, mo, e) || state_new(&other.s, &other.m, &so, e);
    if (!rc && other.m.config_rope)
        as->edit = add_words(&w->words, "the position encoding made '%s' in all heads",
                             other.m.config_rope);
    rc = rc ? -1 : ablate_run(w, &other, NULL, as, e);
    state_free(&other.s);
    model_close(&other.m);
    return rc;
}

/* The encoding of --rope, which in `ablate` is one of the runs. */
static ModelOptions try_options(const Options *o)
{
    ModelOptions mo = model_options(o);
    mo.rope = o->try_rope;
    mo.rope_layers = o->try_layers;
    mo.rope_factor = o->try_scale;
    return mo;
}

static int ablate_ropes(Ablate *w, Err *e)
{
    const Options *o = w->o;
    int rc = 0;
    if (o->try_keep >= 0) {
        ModelOptions mo = model_options(o);
        AblationRun as = {.name = NULL};
        mo.truncate = 1;
        mo.rope_keep = o->try_keep;
        as.name = add_words(&w->words, "p-RoPE, p = %g", o->try_keep);
        as.edit = add_words(
            &w->words,
            "only the highest frequencies turning, a fraction of %g of them (theta of the "
            "others is 0), in all layers and heads",
            o->try_keep);
        rc = ablate_rope(w, &mo, &as, e);
    }
    if (!rc && (o->try_rope || o->try_scale > 0)) {
        ModelOptions mo = try_options(o);
        char *said = rope_said(&mo);
        AblationRun as = {.name = NULL};
        as.name = add_words(&w->words, "encoding %s", said);
        as.edit = add_words(&w->words, "the position encoding made '%s'%s heads", said,
                            mo.rope_layers ? ", in all their" : " in all layers and");
        free(said);
        rc = ablate_rope(w, &mo, &as, e);
    }
    return rc;
}

/* What is wrong in the options is said before the first run. */
static int ablate_check(Ablate *w, Err *e)
{
    const Options *o = w->o;
    Drop d = {.listed = NULL};
    ModelOptions mo = try_options(o);
    Model m = {.n_layers = 0};
    int rc = selection_parse(&w->ss->m, o, &w->sel, e);
    if (!rc && o->drop) rc = drop_parse(&w->ss->m, o->drop, &d, e);
    if (!rc && (mo.rope || mo.rope_factor > 0 || mo.rope_layers))
        rc = model_open(&m, o->model, &mo, e);
    model_close(&m);
    free(d.listed);
    return rc ? -1 : 0;
}

/* Everything that was asked for; the paper's story if nothing was. */
static int ablate_runs(Ablate *w, Err *e)
{
    static const char *const story[] = {"partial", "full", "candidates"};
    static const char missing[] = "Interrupted: runs that were asked for are missing.";
    const Options *o = w->o;
    int ropes = (o->try_keep >= 0) + (o->try_rope || o->try_scale > 0);
    int n_story = o->drop || o->massive || ropes ? 0 : 3;
    AblationRun unedited = {.name = "unedited", .edit = "nothing changed", .control_of = -1};
    w->n_asked = 1 + (n_story + (o->drop != NULL)) * (1 + o->controls) + 3 * o->massive + ropes;
    int rc = ablate_run(w, w->ss, NULL, &unedited, e);
    for (int i = 0; !rc && i < n_story; i++) rc = ablate_drop(w, story[i], e);
    if (!rc && o->drop) rc = ablate_drop(w, o->drop, e);
    if (!rc && o->massive) rc = ablate_massive(w, e);
    if (!rc) rc = ablate_ropes(w, e);
    if (isatty(2)) fputs("\r\033[K", stderr);
    if (rc > 0 && w->out.n) bytes_add(&w->out.notes, missing, sizeof missing);
    if (rc <= 0 || w->out.n) return rc < 0 ? -1 : 0;
    note("interrupted before the first run was done: there is nothing to print");
    return err_set(e, "interrupted before the first run was done");
}

/* The tokens of the text as `perplexity` has them, at most -n. */
static int ablate_text(Ablate *w, Provenance *p, Err *e)
{
    Bytes text = {0};
    int rc = read_text(w->o, NULL, &text, e) || encode(w->ss, &text, 0, &w->ids, e);
    if (!rc) sha256_hex(text.s, text.n, p->text_sha256);
    free(text.s);
    if (rc) return -1;
    p->text_cut = w->o->n_predict > 0 && w->ids.n > (size_t)w->o->n_predict;
    if (p->text_cut) w->ids.n = (size_t)w->o->n_predict;
    w->nll0 = xcalloc(w->ids.n + 1, sizeof *w->nll0);
    w->nll = xcalloc(w->ids.n + 1, sizeof *w->nll);
    return 0;
}

/* How the text is cut, which is not quite as analyze does it. */
static void ablate_windows(Ablate *w)
{
    const char *end = strcmp(w->o->protocol, "full") == 0 ? "the last one may be shorter"
                                                          : "what is left at the end is not read";
    int T = w->ss->s.n_ctx;
    if (w->ss->bos < 0)
        snprintf(w->windows, sizeof w->windows, "The text is cut into windows of %d tokens; %s.", T,
                 end);
    else
        snprintf(
            w->windows, sizeof w->windows,
            "The text, with BOS in front, is cut into windows of %d tokens, and in each window "
            "after the first BOS takes the place of the first token, as in perplexity; %s. "
            "analyze puts BOS before every %d tokens of the text and replaces none, so its "
            "figures of the unedited model can differ a little.",
            T, end, T - 1);
}

static int ablate_session(Session *ss, const Options *o, OutFile *out, Err *e)
{
    Ablate w = {.ss = ss, .o = o, .started = now()};
    Provenance p = session_provenance(ss, o);
    Perplexity plan = {.windows = 0};
    p.edits = "every run but 'unedited' is an edited one, as its own entry says";
    w.out = (Ablation){.n_controls = o->controls,
                       .seed = edit_seed(o),
                       .sel = &w.sel,
                       .protocol = o->protocol,
                       .windows = w.windows,
                       .options = o->analysis};
    ablate_windows(&w);
    int rc = ablate_check(&w, e) || ablate_text(&w, &p, e) || plan_windows(ss, o, w.ids.n, &plan, e)
                 ? -1
                 : 0;
    if (!rc) {
        p.n_windows = (uint64_t)plan.windows;
        p.n_tokens = (uint64_t)plan.windows * (uint64_t)ss->s.n_ctx;
        if (p.n_tokens > w.ids.n) p.n_tokens = w.ids.n;
        sha256_hex(ss->m.g.map, ss->m.g.size, p.model_sha256);
        rc = ablate_runs(&w, e);
        p.interrupted = interrupted != 0;
        if (!rc && o->json) ablation_json(&w.out, &ss->m, &p, out->f);
        Screen screen = screen_of(o, out->f);
        if (!rc && !o->json) ablation_print(&w.out, &ss->m, &p, out->f, &screen);
        if (!rc && !interrupted && w.out.n == 1) {
            err_set(e, "nothing was ablated: %s",
                    w.out.notes.n ? w.out.notes.s : "no run was asked for");
            rc = 1; /* what was found stays written */
        }
    }
    analysis_free(w.first);
    selection_free(&w.sel);
    free_words(&w.words);
    free(w.ids.id), free(w.nll0), free(w.nll);
    free(w.out.run), free(w.out.notes.s);
    return rc;
}

static int run_ablate(Options *o, Err *e)
{
    if (!o->n_ctx) o->n_ctx = 512;
    if (!o->protocol) o->protocol = "full";
    if (protocol_check(o, e)) return -1;
    return with_output(o, !o->int8, ablate_session, e);
}

/* ---- sweep */

/* The work of one `sweep`: every cell is the model opened with its encoding, and run over the same
 * tokens. */
typedef struct {
    Session ss; /* the model as the file says, and its tokenizer; no state */
    const Options *o;
    Tokens ids;
    Sweep s;
    char windows[500];
    Work work;
    int fd;     /* -o FILE, or -1 */
    off_t size; /* of its whole lines */
    int n_had;  /* cells that it had */
} Sweeper;

/* "512,1024": numbers from lo to hi, ascending and all different if they are whole. */
static int number_list(const char *option, const char *list, double lo, double hi, double **out,
                       Err *e)
{
    int n = 0;
    char *end;
    *out = NULL;
    for (const char *s = list;; s = end + 1) {
        double v = strtod(s, &end);
        if (end == s || (*end && *end != ',') || !(v >= lo && v <= hi)) {
            free(*out);
            *out = NULL;
            return err_usage(e, "%s %s: expected numbers from %g to %g, with commas between",
                             option, list, lo, hi);
        }
        *out = xrealloc(*out, (size_t)n + 1, sizeof **out);
        (*out)[n++] = v;
        if (!*end) return n;
    }
}

/* The contexts, ascending; how many, or -1. */
static int sweep_contexts(const Options *o, double **out, Err *e)
{
    int n = number_list("--contexts", o->contexts ? o->contexts : "512,1024,2048", 4, 1e8, out, e);
    if (n < 0) return -1;
    qsort(*out, (size_t)n, sizeof **out, double_cmp);
    for (int i = 0; i < n; i++)
        if ((*out)[i] > floor((*out)[i]) || (i && (*out)[i] <= (*out)[i - 1])) {
            free(*out);
            *out = NULL;
            return err_usage(e, "--contexts %s: expected whole numbers, all different",
                             o->contexts);
        }
    return n;
}

/* The key of a kind that says by how much a context is stretched, or NULL. */
static const char *factor_key(const RopeKind *kind)
{
    if (!kind) return NULL;
    for (int i = 0; i < ROPE_ARGS && kind->args[i].name; i++)
        if (strcmp(kind->args[i].name, "factor") == 0) return "factor";
    return kind->common & ROPE_FACTOR ? "factor" : kind == &rope_ntk ? "alpha" : NULL;
}

/* One --rope, with each of the factors if its kind has one. */
static int spec_factors(const char *spec, const double *factor, int n, Strings *to, Err *e)
{
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(spec, ":"), spec);
    const char *key = factor_key(rope_find(name)), *colon = strchr(spec, ':');
    if (!n || !key) add_words(to, "%s", spec);
    if (!n || !key) return 0;
    snprintf(name, sizeof name, "%s=", key);
    if (colon && strstr(colon, name))
        return err_usage(e, "--rope %s: it says %s, and --factors does, too", spec, key);
    for (int i = 0; i < n; i++)
        add_words(to, "%s%c%s%.10g", spec, colon ? ',' : ':', name, factor[i]);
    return 0;
}

/* The encodings asked for, in their order: --bases first. None: that of the file. */
static int sweep_specs(const Options *o, Strings *to, Err *e)
{
    double *base = NULL, *factor = NULL;
    int n_bases = 0, n_factors = 0, rc = 0;
    if (o->bases) n_bases = number_list("--bases", o->bases, 1, 1e15, &base, e);
    if (n_bases >= 0 && o->factors)
        n_factors = number_list("--factors", o->factors, 1e-6, 1e6, &factor, e);
    if (n_bases < 0 || n_factors < 0) rc = -1;
    if (!rc && n_factors && !o->ropes.n)
        rc = err_usage(e, "--factors: of which kinds? Give --rope KIND, too");
    for (int i = 0; !rc && i < n_bases; i++) add_words(to, "plain:base=%.10g", base[i]);
    for (int i = 0; !rc && i < o->ropes.n; i++)
        rc = spec_factors(o->ropes.at[i], factor, n_factors, to, e);
    free(base), free(factor);
    return rc;
}

/* The encoding of a cell as it is asked for: %c is its context. free() */
static char *cell_spec(const char *asked, int context)
{
    Bytes b = {0};
    char number[16];
    for (const char *s = asked; *s; s++) {
        int named = s[0] == '%' && s[1] == 'c';
        if (named) snprintf(number, sizeof number, "%d", context), s++;
        bytes_add(&b, named ? number : s, named ? strlen(number) : 1);
    }
    bytes_add(&b, "", 0);
    return b.s;
}

static int cell_model(const Options *o, const SweepCell *c, Model *m, Err *e)
{
    char *spec = c->asked ? cell_spec(c->asked, c->context) : NULL;
    ModelOptions mo = model_options(o);
    mo.rope = spec;
    mo.rope_layers = o->rope_layers;
    int rc = model_open(m, o->model, &mo, e);
    free(spec);
    return rc;
}

/* The canonical text of all encodings of a model, in the order of the layers that use them. */
static char *rope_texts(const Model *m)
{
    Bytes b = {0};
    char text[1024];
    for (int r = 0; r < m->n_ropes; r++) {
        rope_text(&m->rope[r], text, sizeof text);
        if (r) bytes_add(&b, "; ", 2);
        bytes_add(&b, text, strlen(text));
    }
    bytes_add(&b, "", 0);
    return b.s;
}

static void write_reals(FILE *f, const char *name, const double *v, size_t n)
{
    fprintf(f, "%s %zu", name, n);
    for (size_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, &v[i], sizeof bits);
        fprintf(f, isnan(v[i]) ? " -" : " %016llx", (unsigned long long)bits);
    }
    fputc('\n', f);
}

static void write_floats(FILE *f, const char *name, const float *v, size_t n)
{
    char hash[65];
    sha256_hex(n ? (const void *)v : "", n * sizeof *v, hash);
    fprintf(f, "%s %zu %s\n", name, n, hash);
}

/* All that one encoding turns by: what its text leaves out, too. */
static void write_rope(FILE *f, const Rope *r)
{
    const RopeParams *p = &r->p;
    const double real[] = {p->base,    p->factor,  p->pos_scale, p->pos_shift,
                           p->fold[0], p->fold[1], r->amplitude};
    const int whole[] = {p->head_dim,   p->n_rot,  p->n_ctx_orig,  p->n_layers, p->n_heads,
                         p->n_kv_heads, p->n_embd, p->n_ctx_train, p->copies,   p->halved,
                         r->n_pairs,    r->layout, r->sets,        r->uneven};
    fprintf(f, "kind %s\nwhole", r->kind->name);
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) fprintf(f, " %d", whole[i]);
    fputc('\n', f);
    write_reals(f, "real", real, sizeof real / sizeof *real);
    write_reals(f, "arg", p->arg, ROPE_ARGS);
    write_reals(f, "inv_freq", r->inv_freq, (size_t)r->sets * (size_t)r->n_pairs);
    write_reals(f, "positions", r->positions, (size_t)r->n_positions);
    write_floats(f, "divisors", p->divisors, p->divisors ? (size_t)r->n_pairs : 0);
    for (int i = 0; i < ROPE_WEIGHTS; i++) write_floats(f, "weights", r->w[i], r->n_w[i]);
}

/* SHA-256 of what the encodings of a model do, and in which layers. Pitfall: their texts are alike
 * where a list of factors, a file of weights or a pattern of layers is not. */
static void rope_hash(const Model *m, char hash[65])
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    MUST(f);
    fputs("layers", f);
    for (int l = 0; l < m->n_layers; l++) fprintf(f, " %d", m->layer[l].rope);
    fputc('\n', f);
    for (int i = 0; i < m->n_ropes; i++) write_rope(f, &m->rope[i]);
    MUST(fclose(f) == 0);
    sha256_hex(text, n, hash);
    free(text);
}

/* Opens the model with the encoding of every cell: what is wrong is said before the first run. */
static int plan_cells(Sweeper *w, const Strings *specs, const double *context, int n_contexts,
                      Err *e)
{
    int n_ropes = specs->n ? specs->n : 1, rc = 0;
    w->s.cell = xcalloc((size_t)n_ropes * (size_t)n_contexts, sizeof *w->s.cell);
    w->s.n_contexts = n_contexts;
    for (int i = 0; !rc && i < n_ropes * n_contexts; i++) {
        SweepCell *c = &w->s.cell[w->s.n++];
        Model m = {.n_layers = 0};
        c->context = (int)context[i % n_contexts];
        if (specs->n) c->asked = strdup(specs->at[i / n_contexts]);
        rc = cell_model(w->o, c, &m, e);
        if (!rc) c->rope = rope_texts(&m), rope_hash(&m, c->rope_hash);
        model_close(&m);
    }
    return rc;
}

static int sweep_plan(Sweeper *w, Err *e)
{
    Strings specs = {NULL, 0};
    double *context = NULL;
    int n = sweep_contexts(w->o, &context, e);
    int rc = n < 0 || sweep_specs(w->o, &specs, e) || plan_cells(w, &specs, context, n, e);
    free_words(&specs);
    free(context);
    return rc ? -1 : 0;
}

static int longest_context(const Sweep *s)
{
    return s->cell[s->n_contexts - 1].context;
}

/* ---- the text */

/* One window: tokens at .. at + n - 1, those after `first` of it are scored. */
typedef struct {
    size_t at;
    int n, first;
} Window;

/* Window i of c tokens each; n = 0: there is none.
 * full, llama.cpp: as `perplexity` cuts a text.
 * same: the tokens scored are those from S = (longest context) / 2 on, whatever c is. Window i
 * scores h = c - floor(c/2) of them, from S + i h on, behind the floor(c/2) tokens before these:
 * each has floor(c/2) .. c - 1 tokens before it. */
static Window sweep_window(const Sweep *s, int c, int i)
{
    size_t N = (size_t)s->p.n_tokens, T = (size_t)c, lead = T / 2;
    size_t at = (size_t)i * T, left = N > at ? N - at : 0;
    if (strcmp(s->protocol, "full") == 0)
        return (Window){at, left < 2 ? 0 : left < T ? (int)left : c, 0};
    if (strcmp(s->protocol, "llama.cpp") == 0) return (Window){at, left < T ? 0 : c, c / 2};
    size_t from = (size_t)s->scored_from + (size_t)i * (T - lead);
    if (from >= N) return (Window){0, 0, 0};
    at = from - lead;
    return (Window){at, N - at < T ? (int)(N - at) : c, (int)lead - 1};
}

static void sweep_words(Sweeper *w)
{
    const char *bos = w->ss.bos < 0 ? "" : " BOS takes the place of the first token of each.";
    if (w->s.scored_from)
        snprintf(w->windows, sizeof w->windows,
                 "The same tokens are scored at every context: those from text position %d on. "
                 "Windows of c tokens overlap by half: the second half is scored, so that each "
                 "token has at least c/2 and at most c - 1 tokens before it.%s",
                 w->s.scored_from, bos);
    else
        snprintf(w->windows, sizeof w->windows,
                 "Windows of c tokens do not overlap; scored is %s. The tokens scored differ a "
                 "little from context to context (--protocol same).%s",
                 strcmp(w->s.protocol, "full") == 0 ? "all but the first token of each"
                                                    : "the second half of each",
                 bos);
    w->s.windows = w->windows;
}

/* The first tokens of the text, -n of them, or as many as one window of the longest context has
 * (protocol llama.cpp: two). */
static int sweep_text(Sweeper *w, Err *e)
{
    Bytes text = {0};
    Sweep *s = &w->s;
    size_t need = (size_t)longest_context(s) << (strcmp(s->protocol, "llama.cpp") == 0);
    size_t asked = w->o->n_predict > 0 ? (size_t)w->o->n_predict : need;
    int rc = read_text(w->o, NULL, &text, e) || encode(&w->ss, &text, 0, &w->ids, e);
    if (!rc) sha256_hex(text.s, text.n, s->p.text_sha256);
    free(text.s);
    if (rc) return -1;
    s->p.text_cut = w->ids.n > asked;
    if (s->p.text_cut) w->ids.n = asked;
    s->p.n_tokens = w->ids.n;
    if (strcmp(s->protocol, "same") == 0) s->scored_from = longest_context(s) / 2;
    sweep_words(w);
    if (w->ids.n >= need) return 0;
    return err_set(e, "%zu tokens of text, but a context of %d needs %zu%s: %s", w->ids.n,
                   longest_context(s), need,
                   need > (size_t)longest_context(s) ? ", two windows" : "",
                   asked < need ? "-n asks for too few" : "the text is too short");
}

/* ---- the file of cells */

/* -o FILE: made, or gone on from. What follows its last whole line is cut off.
 * Pitfall: a lock of lockf would end when bytes_read closes the file that it opened anew. */
static int sweep_file(Sweeper *w, Err *e)
{
    const char *path = w->o->out;
    Bytes text = {0};
    struct stat st;
    size_t whole = 0;
    if (!path) return 0;
    w->fd = open(path, O_RDWR | O_CREAT | O_APPEND, 0666);
    if (w->fd < 0) return err_set(e, "%s: %s", path, strerror(errno));
    if (fstat(w->fd, &st) || !S_ISREG(st.st_mode))
        return err_set(e, "%s: expected a file that lines can be added to (--json prints them)",
                       path);
    if (flock(w->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        return err_set(e, "%s: another sweep is writing it", path);
    if (bytes_read(&text, path, e)) return -1;
    int rc = sweep_read(&w->s, path, (Str){text.s ? text.s : "", text.n}, &whole, e);
    size_t cut = rc ? 0 : text.n - whole;
    free(text.s);
    if (rc) return -1;
    w->size = (off_t)whole;
    if (cut && ftruncate(w->fd, w->size))
        return err_set(e, "%s: cutting off the end failed: %s", path, strerror(errno));
    if (cut) note("%s: a cell that was cut off is dropped", path);
    for (int i = 0; i < w->s.n; i++) w->n_had += w->s.cell[i].done;
    if (w->n_had) note("%s has %d of the %d cells", path, w->n_had, w->s.n);
    return 0;
}

/* A whole line, on the disk before the next cell begins; or none of it. */
static int sweep_append(Sweeper *w, const Bytes *line, Err *e)
{
    size_t done = 0;
    while (done < line->n) {
        ssize_t n = write(w->fd, line->s + done, line->n - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        done += (size_t)n;
    }
    if (done == line->n && fsync(w->fd) == 0) {
        w->size += (off_t)line->n;
        return 0;
    }
    err_set(e, "%s: writing failed: %s", w->o->out, strerror(errno));
    if (ftruncate(w->fd, w->size)) note("%s: its last line is cut off", w->o->out);
    return -1;
}

/* ---- the runs */

static double cell_cost(const Sweep *s, int c)
{
    double sum = 0;
    Window v;
    for (int i = 0; (v = sweep_window(s, c, i)).n; i++) sum += v.n * token_cost(s->m, v.n / 2.0);
    return sum;
}

/* The first cell that is done and would come out the same; NULL: none. */
static const SweepCell *sweep_twin(const Sweep *s, const SweepCell *c)
{
    for (int i = 0; i < s->n; i++) {
        const SweepCell *t = &s->cell[i];
        if (t->done && t->context == c->context && strcmp(t->rope, c->rope) == 0 &&
            strcmp(t->rope_hash, c->rope_hash) == 0)
            return t;
    }
    return NULL;
}

/* All windows of a cell. 0, 1 if interrupted, -1. */
static int cell_windows(Sweeper *w, Session *ss, SweepCell *c, Analysis *a, Err *e)
{
    Score sc = {.work = &w->work};
    int *ids = xcalloc((size_t)c->context, sizeof *ids), rc = 0, i = 0;
    Window v;
    for (; !rc && (v = sweep_window(&w->s, c->context, i)).n; i++) {
        memcpy(ids, w->ids.id + v.at, (size_t)v.n * sizeof *ids);
        if (ss->bos >= 0) ids[0] = ss->bos;
        if (a) analysis_window(a);
        rc = score_window(ss, ids, v.n, v.first, &sc, e);
    }
    free(ids);
    double *f = c->figure, mean = sc.nll / (double)sc.n;
    f[SWEEP_WINDOWS] = i, f[SWEEP_SCORED] = (double)sc.n;
    f[SWEEP_NLL] = mean, f[SWEEP_PERPLEXITY] = exp(mean), f[SWEEP_ERROR] = perplexity_error(&sc);
    return rc;
}

static int run_cell(Sweeper *w, SweepCell *c, Err *e)
{
    const Options *o = w->o;
    Session ss = {.tok = w->ss.tok, .bos = w->ss.bos};
    StateOptions so = {.n_ctx = c->context,
                       .n_batch = o->n_batch,
                       .n_threads = o->n_threads,
                       .exact = !o->int8,
                       .kv_type = o->kv && strcmp(o->kv, "f16") == 0 ? T_F16 : T_F32,
                       .isa = o->isa};
    for (int i = 0; i < SWEEP_FIGURES; i++) c->figure[i] = (double)NAN;
    for (int i = 0; i < SWEEP_BOUNDS * SWEEP_RATES; i++)
        c->bound[i / SWEEP_RATES][i % SWEEP_RATES] = (double)NAN;
    int rc = cell_model(o, c, &ss.m, e) || state_new(&ss.s, &ss.m, &so, e) ? -1 : 0;
    Analysis *a = !rc && w->s.observed ? analysis_new(&ss.m, &o->analysis) : NULL;
    if (!rc) {
        ss.s.probe = a ? analysis_probe(a) : NULL;
        rc = cell_windows(w, &ss, c, a, e);
        if (!rc && a) sweep_observe(c, a);
    }
    analysis_free(a);
    state_free(&ss.s);
    model_close(&ss.m);
    return rc;
}

/* Runs cell i, unless it is known, and keeps its line; its figures become those of the line. */
static int sweep_cell(Sweeper *w, int i, Err *e)
{
    SweepCell *c = &w->s.cell[i];
    const SweepCell *twin = sweep_twin(&w->s, c);
    Bytes line = {0};
    size_t whole;
    if (twin) {
        memcpy(c->figure, twin->figure, sizeof c->figure);
        memcpy(c->bound, twin->bound, sizeof c->bound);
        return c->done = 1, 0;
    }
    snprintf(w->work.what, sizeof w->work.what, "cell %d of %d (%.24s, %d):", i + 1, w->s.n,
             c->asked ? c->asked : c->rope, c->context);
    int rc = run_cell(w, c, e);
    if (rc) return rc;
    sweep_line(&w->s, i, &line);
    rc = w->fd < 0 ? 0 : sweep_append(w, &line, e);
    if (!rc) rc = sweep_read(&w->s, "a cell", (Str){line.s, line.n}, &whole, e);
    free(line.s);
    return rc;
}

/* 0, 1 if interrupted, -1. */
static int sweep_cells(Sweeper *w, Err *e)
{
    int rc = 0, n_done = 0;
    for (int i = 0; i < w->s.n; i++)
        if (!w->s.cell[i].done) w->work.total += cell_cost(&w->s, w->s.cell[i].context);
    w->work.started = now();
    for (int i = 0; !rc && i < w->s.n; i++)
        if (!w->s.cell[i].done) rc = interrupted ? 1 : sweep_cell(w, i, e);
    for (int i = 0; i < w->s.n; i++) n_done += w->s.cell[i].done;
    if (isatty(2)) fputs("\r\033[K", stderr);
    if (rc > 0 && w->fd >= 0)
        note("interrupted: %s has %d of the %d cells; the same command goes on from there",
             w->o->out, n_done, w->s.n);
    else if (rc > 0)
        note("interrupted after %d of the %d cells (-o FILE keeps them)", n_done, w->s.n);
    return rc;
}

static int sweep_session(Sweeper *w, Err *e)
{
    Bytes lines = {0};
    const Kernels *k = kernels_pick(w->o->isa, e);
    if (!k || sweep_plan(w, e) || sweep_text(w, e)) return -1;
    w->s.p.isa = k->name;
    sha256_hex(w->ss.m.g.map, w->ss.m.g.size, w->s.p.model_sha256);
    if (sweep_file(w, e) || sweep_cells(w, e) < 0) return -1;
    for (int i = 0; i < w->s.n && w->o->json; i++)
        if (w->s.cell[i].done) sweep_line(&w->s, i, &lines);
    if (lines.n) fwrite(lines.s, 1, lines.n, stdout);
    Screen screen = screen_of(w->o, stdout);
    if (!w->o->json) sweep_print(&w->s, stdout, &screen);
    free(lines.s);
    return 0;
}

static int sweep_check(const Options *o, Err *e)
{
    if (o->out && strcmp(o->out, "-") == 0)
        return err_usage(e, "-o -: a file keeps the cells; --json prints them");
    if (strcmp(o->protocol, "same") && strcmp(o->protocol, "full") &&
        strcmp(o->protocol, "llama.cpp"))
        return err_usage(e, "--protocol %s: expected same, full or llama.cpp", o->protocol);
    if (o->rope_layers && !o->ropes.n && !o->bases)
        return err_usage(e, "--rope-layers: of which encoding? Give --rope KIND, too");
    return 0;
}

static int run_sweep(Options *o, Err *e)
{
    ModelOptions as_it_is = model_options(o);
    if (!o->protocol) o->protocol = "same";
    Sweeper w = {.o = o, .fd = -1, .ss = {.bos = -1}};
    int rc = sweep_check(o, e) || session_model(&w.ss, o, &as_it_is, e);
    if (!rc) {
        w.s = (Sweep){.protocol = o->protocol,
                      .observed = !o->no_analysis,
                      .rope_layers = o->rope_layers,
                      .m = &w.ss.m,
                      .options = o->analysis};
        w.s.p = (Provenance){.model_path = o->model,
                             .text_path = o->file ? o->file : "-p",
                             .bos_policy = w.ss.policy,
                             .bos_id = w.ss.bos,
                             .exact = !o->int8,
                             .n_threads = o->n_threads ? o->n_threads : default_threads(),
                             .pre_override = o->pre,
                             .window_override = window_said(o),
                             .kv = o->kv && strcmp(o->kv, "f16") == 0 ? "f16" : "f32"};
        rc = sweep_session(&w, e);
    }
    if (w.fd >= 0) close(w.fd);
    for (int i = 0; i < w.s.n; i++) free(w.s.cell[i].asked), free(w.s.cell[i].rope);
    free(w.s.cell), free(w.ids.id);
    session_close(&w.ss);
    free(o->ropes.at);
    return rc ? -1 : 0;
}

/* ---- quantize */

#define PIECE 131072 /* values converted at a time: what a thread needs for them stays in L2 */

/* What one conversion made of the weights w: sums over them, in 32 lanes, lane after lane, so that
 * the threads do not matter. */
typedef struct {
    double error2, weight2; /* of (w' - w)^2 and of w^2 */
    float most;             /* largest |w' - w| */
} Loss;

static void add_up(Loss *to, const Loss *l)
{
    to->error2 += l->error2;
    to->weight2 += l->weight2;
    to->most = l->most > to->most ? l->most : to->most;
}

/* Root mean square of the error, over that of the weights. */
static double relative_loss(const Loss *l)
{
    return l->weight2 > 0 ? sqrt(l->error2 / l->weight2) : 0;
}

/* One tensor of the file, and what becomes of it. */
typedef struct {
    const Tensor *t;
    int type;   /* of it in the new file */
    int uneven; /* its rows do not divide into blocks */
    Loss loss;
} QuantTensor;

typedef struct {
    size_t tensor;
    int64_t from; /* its first value */
    Loss loss;
} QuantPiece;

typedef struct {
    const Options *o;
    Gguf g;
    int fd; /* of the same file: reading shows errors, and keeps nothing in memory */
    int type;
    const Kernels *k;
    QuantTensor *tensor; /* in the order of the file */
    QuantPiece *piece;
    size_t n_pieces;
    GgufOut out;
    double started;
    uint64_t total; /* bytes of tensors to be written */
    _Atomic uint64_t done;
    _Atomic size_t next; /* piece */
    atomic_int failed;
    size_t failed_piece;
    Err *e;
} Quantizer;

/* What one thread works with. */
typedef struct {
    uint8_t *in, *out;
    float *x, *y;
    Q32 *q;
} Desk;

static int64_t n_values(const Tensor *t)
{
    return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
}

/* Bytes of n values of a type. */
static size_t run_bytes(int type, int64_t n)
{
    return (size_t)(n / tensor_types[type].block) * (size_t)tensor_types[type].bytes;
}

/* Is t a matrix that is multiplied with, or looked up in: not a norm or a bias, of which each value
 * counts, nor the small matrix that picks experts? As llama-quantize has it. */
static int is_weight_matrix(const Tensor *t)
{
    static const char *const never[] = {"_norm.weight", "ffn_gate_inp.weight",
                                        "position_embd.weight"};
    const char end[] = "weight";
    const size_t n = sizeof end - 1;
    if (t->ne[1] * t->ne[2] * t->ne[3] == 1) return 0;
    if (t->name.n < n || memcmp(t->name.s + t->name.n - n, end, n)) return 0;
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (contains(t->name, never[i])) return 0;
    return 1;
}

/* The matrix that makes the logits, where an error is felt most. */
static int is_output(const Gguf *g, const Tensor *t)
{
    return str_is(t->name, gguf_tensor(g, "output.weight") ? "output.weight" : "token_embd.weight");
}

/* The type of a tensor in the new file. Of four bits, the output matrix gets eight, unless it has
 * no more already. Rows that do not divide into blocks become F16, or stay what they are if that
 * takes no more space. */
static void quant_target(const Quantizer *z, QuantTensor *q)
{
    const Tensor *t = q->t;
    const TensorType *want = &tensor_types[z->type], *q8 = &tensor_types[T_Q8_0];
    q->type = t->type;
    if (!is_weight_matrix(t)) return;
    q->uneven = t->ne[0] % want->block != 0;
    if (q->uneven) {
        if (t->type == T_F32) q->type = T_F16;
        return;
    }
    q->type = z->type;
    int bump = want->block > 1 && want->bytes < q8->bytes && !z->o->pure && is_output(&z->g, t);
    if (bump) q->type = t->row_bytes > (size_t)(t->ne[0] / QB * q8->bytes) ? T_Q8_0 : t->type;
}

static int place_in_file_cmp(const void *a, const void *b)
{
    const QuantTensor *x = a, *y = b;
    return (x->t->name.s > y->t->name.s) - (x->t->name.s < y->t->name.s);
}

static int key_place_cmp(const void *a, const void *b)
{
    const GgufKey *x = a, *y = b;
    return (x->key.s > y->key.s) - (x->key.s < y->key.s);
}

/* Every tensor in the order of the file, and the pieces that they are cut into. */
static void quant_plan(Quantizer *z)
{
    size_t n = z->g.n_tensors, at = 0;
    z->tensor = xcalloc(n, sizeof *z->tensor);
    for (size_t i = 0; i < n; i++) z->tensor[i].t = &z->g.tensors[i];
    qsort(z->tensor, n, sizeof *z->tensor, place_in_file_cmp);
    for (size_t i = 0; i < n; i++) {
        quant_target(z, &z->tensor[i]);
        z->n_pieces += (size_t)((n_values(z->tensor[i].t) + PIECE - 1) / PIECE);
        z->total += run_bytes(z->tensor[i].type, n_values(z->tensor[i].t));
    }
    z->piece = xcalloc(z->n_pieces, sizeof *z->piece);
    for (size_t i = 0; i < n; i++)
        for (int64_t from = 0; from < n_values(z->tensor[i].t); from += PIECE)
            z->piece[at++] = (QuantPiece){.tensor = i, .from = from};
}

/* What can be asked for, and the number that general.file_type has for it. */
static const struct {
    int type, file_type;
} quant_types[] = {{T_F32, 0}, {T_F16, 1}, {T_BF16, 32}, {T_Q8_0, 7}, {T_Q4_1, 3}, {T_Q4_0, 2}};
#define N_QUANT_TYPES ((int)(sizeof quant_types / sizeof *quant_types))

static int quant_type(const char *name, int *type, Err *e)
{
    for (int i = 0; i < N_QUANT_TYPES; i++)
        if (strcasecmp(name, tensor_types[quant_types[i].type].name) == 0) {
            *type = quant_types[i].type;
            return 0;
        }
    return err_usage(e, "type '%s': expected F32, F16, BF16, Q8_0, Q4_1 or Q4_0", name);
}

/* Sums over the tensors, for the report. */
typedef struct {
    Loss loss;                     /* of those that were converted */
    const Tensor *most;            /* where the largest error is; NULL: there is none */
    double weights, before, after; /* values; bytes of tensors */
    size_t n[T_N_TYPES];           /* tensors that became this type, */
    double values[T_N_TYPES];      /* and their values */
    size_t kept, requantized, uneven, uneven_kept;
    double kept_values;
} QuantSums;

static QuantSums quant_sums(const Quantizer *z)
{
    QuantSums s = {0};
    for (size_t i = 0; i < z->g.n_tensors; i++) {
        const QuantTensor *q = &z->tensor[i];
        double n = (double)n_values(q->t);
        s.weights += n;
        s.before += (double)q->t->bytes;
        s.after += (double)run_bytes(q->type, n_values(q->t));
        s.uneven += (size_t)q->uneven;
        s.uneven_kept += q->uneven && q->type == q->t->type;
        if (q->type == q->t->type) {
            s.kept++;
            s.kept_values += n;
            continue;
        }
        s.n[q->type]++;
        s.values[q->type] += n;
        s.requantized += tensor_types[q->t->type].block > 1 && tensor_types[q->type].block > 1;
        if (q->loss.most > s.loss.most) s.most = q->t;
        add_up(&s.loss, &q->loss);
    }
    return s;
}

/* Keys of the file, in its order and byte for byte, but for the two that say what it is; those too
 * where no tensor becomes another type. */
static void quant_keys(Quantizer *z)
{
    const char *const own[2] = {"general.file_type", "general.quantization_version"};
    int32_t value[2] = {0, 2};
    int changed = quant_sums(z).kept < z->g.n_tensors;
    for (int i = 0; i < N_QUANT_TYPES; i++)
        if (quant_types[i].type == z->type) value[0] = quant_types[i].file_type;
    GgufKey *keys = xcalloc(z->g.n_keys, sizeof *keys);
    memcpy(keys, z->g.keys, z->g.n_keys * sizeof *keys);
    qsort(keys, z->g.n_keys, sizeof *keys, key_place_cmp);
    for (size_t i = 0; i < z->g.n_keys; i++) {
        int k = str_is(keys[i].key, own[0]) ? 0 : str_is(keys[i].key, own[1]) ? 1 : -1;
        if (k < 0 || !changed)
            gguf_out_key(&z->out, &keys[i]);
        else
            gguf_out_int(&z->out, own[k], GGUF_U32, value[k]);
    }
    for (int k = 0; k < 2 && changed; k++)
        if (!gguf_find(&z->g, own[k])) gguf_out_int(&z->out, own[k], GGUF_U32, value[k]);
    free(keys);
}

/* A run of n values of a type as a tensor, for row_floats. */
static Tensor run_of(int type, const uint8_t *data, int n)
{
    return (Tensor){.type = type, .ne = {n, 1, 1, 1}, .data = data};
}

/* Index of the first value that is NaN or infinite, or -1. */
static int not_finite(const float *x, int n)
{
    uint32_t bad = 0, u;
    for (int i = 0; i < n; i++) {
        memcpy(&u, &x[i], sizeof u);
        bad |= (u & 0x7f800000) == 0x7f800000;
    }
    for (int i = 0; bad && i < n; i++)
        if (!(fabsf(x[i]) <= FLT_MAX)) return i;
    return -1;
}

typedef struct {
    double error2[LANES], weight2[LANES];
    float most[LANES];
} LossLanes;

static void add_loss(LossLanes *s, const float *restrict x, const float *restrict y)
{
    float d[LANES];
    for (int l = 0; l < LANES; l++) d[l] = y[l] - x[l];
    for (int l = 0; l < LANES; l++)
        s->most[l] = fabsf(d[l]) > s->most[l] ? fabsf(d[l]) : s->most[l];
    for (int l = 0; l < LANES; l++) s->error2[l] += (double)d[l] * (double)d[l];
    for (int l = 0; l < LANES; l++) s->weight2[l] += (double)x[l] * (double)x[l];
}

/* Of n weights x that have become y. */
static Loss loss_of(const float *x, const float *y, int n)
{
    LossLanes s = {0};
    Loss all = {0};
    float last[2][LANES] = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) add_loss(&s, x + i, y + i);
    memcpy(last[0], x + i, (size_t)(n - i) * sizeof *x);
    memcpy(last[1], y + i, (size_t)(n - i) * sizeof *y);
    add_loss(&s, last[0], last[1]);
    for (int l = 0; l < LANES; l++) add_up(&all, &(Loss){s.error2[l], s.weight2[l], s.most[l]});
    return all;
}

static int quant_read(const Quantizer *z, void *to, size_t n, size_t at, Err *e)
{
    for (uint8_t *p = to; n > 0;) {
        ssize_t got = pread(z->fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return err_set(e, "%s: reading failed: %s", z->g.path,
                           got ? strerror(errno) : "the file has become shorter");
        p += got;
        n -= (size_t)got;
        at += (size_t)got;
    }
    return 0;
}

/* Value i of the tensor is x, which its new type cannot have. */
static int quant_refuse(const Quantizer *z, const QuantTensor *q, int64_t i, float x, Err *e)
{
    char name[96], what[64];
    if (fabsf(x) <= FLT_MAX)
        snprintf(what, sizeof what, "what %s can hold", tensor_types[q->type].name);
    else
        snprintf(what, sizeof what, "a finite number");
    return err_set(e, "%s: tensor '%s', row %lld, value %lld: expected %s, found %g", z->g.path,
                   show(q->t->name, name), (long long)(i / q->t->ne[0]),
                   (long long)(i % q->t->ne[0]), what, (double)x);
}

/* Piece p, of n values x, became y, which is not finite: the largest value of the first block of
 * which that is so was too large. */
static int quant_too_large(const Quantizer *z, const QuantPiece *p, const float *x, const float *y,
                           int n, Err *e)
{
    const QuantTensor *q = &z->tensor[p->tensor];
    int i = not_finite(y, n), largest = i;
    MUST(i >= 0);
    for (int k = i; k < i + tensor_types[q->type].block; k++)
        if (fabsf(x[k]) > fabsf(x[largest])) largest = k;
    return quant_refuse(z, q, p->from + largest, x[largest], e);
}

/* Reads one piece and leaves it as its new type in d->out, and its size in *bytes. */
static int quant_piece(const Quantizer *z, QuantPiece *p, const Desk *d, size_t *bytes, Err *e)
{
    const QuantTensor *q = &z->tensor[p->tensor];
    int64_t left_over = n_values(q->t) - p->from;
    int n = left_over < PIECE ? (int)left_over : PIECE, bad;
    size_t at = (size_t)(q->t->data - z->g.map) + run_bytes(q->t->type, p->from);
    int copy = q->type == q->t->type;
    *bytes = run_bytes(q->type, n);
    if (quant_read(z, copy ? d->out : d->in, run_bytes(q->t->type, n), at, e)) return -1;
    if (copy) return 0;
    Tensor from = run_of(q->t->type, d->in, n), to = run_of(q->type, d->out, n);
    const float *x = row_floats(z->k, &from, 0, d->x, d->q);
    if ((bad = not_finite(x, n)) >= 0) return quant_refuse(z, q, p->from + bad, x[bad], e);
    if (q->type == T_F16)
        z->k->pack_f16((uint16_t *)(void *)d->out, x, n);
    else
        tensor_types[q->type].pack(d->out, x, n);
    const float *y = row_floats(z->k, &to, 0, d->y, d->q);
    p->loss = loss_of(x, y, n);
    return isfinite(p->loss.error2) ? 0 : quant_too_large(z, p, x, y, n, e);
}

static void desk_new(Desk *d)
{
    d->in = xcalloc(PIECE, 4);
    d->out = xcalloc(PIECE, 4);
    d->x = xcalloc(PIECE, sizeof *d->x);
    d->y = xcalloc(PIECE, sizeof *d->y);
    d->q = xcalloc(PIECE / QB, sizeof *d->q);
}

static void desk_free(Desk *d)
{
    free(d->in);
    free(d->out);
    free(d->x);
    free(d->y);
    free(d->q);
}

/* Piece i failed: of several, the first of the file is reported, whoever came first. (Those before
 * it have been taken already, and are ended.) */
static void quant_failed(Quantizer *z, size_t i, const Err *e)
{
#pragma omp critical
    if (!z->failed || i < z->failed_piece) {
        *z->e = *e;
        z->failed_piece = i;
        z->failed = 1;
    }
}

/* The work of one thread: the next piece that nobody has, until there is none. */
static void quant_work(Quantizer *z)
{
    Desk d;
    desk_new(&d);
    for (size_t i; !z->failed && !interrupted && (i = z->next++) < z->n_pieces;) {
        QuantPiece *p = &z->piece[i];
        Err e;
        size_t bytes;
        if (quant_piece(z, p, &d, &bytes, &e) ||
            gguf_out_at(&z->out, p->tensor, run_bytes(z->tensor[p->tensor].type, p->from), d.out,
                        bytes, &e))
            quant_failed(z, i, &e);
        uint64_t done = atomic_fetch_add(&z->done, bytes) + bytes;
        if (omp_get_thread_num() == 0)
            progress_in("MB", "written", (double)done / 1e6, (double)z->total / 1e6, z->started);
    }
    desk_free(&d);
}

/* Every piece. What is measured is added up in the order of the file, after all have ended. */
static int quant_run(Quantizer *z)
{
    int n_threads = z->o->n_threads ? z->o->n_threads : default_threads();
    if ((size_t)n_threads > z->n_pieces) n_threads = max_of((int)z->n_pieces, 1);
    z->started = now();
#pragma omp parallel num_threads(n_threads)
    quant_work(z);
    if (interrupted && !z->failed) note("interrupted: %s is not written", z->o->inputs[1]);
    if (z->failed || interrupted) return -1;
    for (size_t i = 0; i < z->n_pieces; i++)
        add_up(&z->tensor[z->piece[i].tensor].loss, &z->piece[i].loss);
    progress_in("MB", "written", (double)z->total / 1e6, (double)z->total / 1e6, z->started);
    return 0;
}

static void quant_warn(const Quantizer *z)
{
    QuantSums s = quant_sums(z);
    Err e;
    if (!arch_named(&(Model){.g = z->g}, &e))
        note("warning: %s: which of its tensors should stay as they are is not known here", e.msg);
    if (s.requantized)
        note(
            "warning: matrices that are quantized already (%zu): the new error comes on top of the "
            "old one; better begin with F32, F16 or BF16",
            s.requantized);
    if (s.uneven)
        note("warning: matrices whose rows are no multiple of %d long (%zu): %zu of them become "
             "F16, %zu stay as they are",
             tensor_types[z->type].block, s.uneven, s.uneven - s.uneven_kept, s.uneven_kept);
    if (s.kept == z->g.n_tensors)
        note("warning: nothing is left to convert to %s", z->o->inputs[2]);
}

static double bits_per_weight(double bytes, double weights)
{
    return weights > 0 ? bytes * 8 / weights : 0;
}

static void quant_print(const Quantizer *z, const QuantSums *s, double before, double after)
{
    char name[96];
    printf("%s: %.1f MB, %.2f bits per weight (%s: %.1f MB, %.2f)\n", z->o->inputs[1], after / 1e6,
           bits_per_weight(s->after, s->weights), z->g.path, before / 1e6,
           bits_per_weight(s->before, s->weights));
    for (int i = 0; i < N_QUANT_TYPES; i++) {
        int type = quant_types[i].type;
        if (s->n[type])
            printf("  %-8s %zu tensors, %.1fM weights\n", tensor_types[type].name, s->n[type],
                   s->values[type] / 1e6);
    }
    printf("  %-8s %zu tensors, %.1fM weights\n", "kept", s->kept, s->kept_values / 1e6);
    if (s->kept == z->g.n_tensors)
        printf("  %-8s none: no tensor was converted", "error");
    else
        printf("  %-8s RMS %.3g of the RMS weight; largest %.3g", "error", relative_loss(&s->loss),
               (double)s->loss.most);
    if (s->most) printf(" in %s", show(s->most->name, name));
    printf("\n");
    for (size_t i = 0; i < z->g.n_tensors && z->o->tensors; i++) {
        const QuantTensor *q = &z->tensor[i];
        printf("  %-32s %-6s", show(q->t->name, name), tensor_types[q->t->type].name);
        if (q->type != q->t->type)
            printf(" %-6s RMS %.3g, largest %.3g", tensor_types[q->type].name,
                   relative_loss(&q->loss), (double)q->loss.most);
        printf("\n");
    }
}

static void quant_tensor_json(const QuantTensor *q)
{
    fputs("{\"name\":", stdout);
    json_str(stdout, q->t->name.s, q->t->name.n);
    printf(",\"from\":\"%s\",\"to\":\"%s\",\"weights\":%lld,\"bytes\":%zu,\"rms_error\":",
           tensor_types[q->t->type].name, tensor_types[q->type].name, (long long)n_values(q->t),
           run_bytes(q->type, n_values(q->t)));
    json_num(stdout, relative_loss(&q->loss));
    fputs(",\"max_error\":", stdout);
    json_num(stdout, (double)q->loss.most);
    putchar('}');
}

/* rms_error is relative to the RMS of the weights, max_error is not; null (as json_num has NaN)
 * where nothing was converted. */
static void quant_json(const Quantizer *z, const QuantSums *s, double before, double after)
{
    int none = s->kept == z->g.n_tensors;
    fputs("{\"schema\":\"ropescope.quantize/1\"", stdout);
    json_text(stdout, "input", z->o->inputs[0]);
    json_text(stdout, "output", z->o->inputs[1]);
    printf(",\"type\":\"%s\",\"bytes_before\":%.0f,\"bytes_after\":%.0f,\"weights\":%.0f",
           tensor_types[z->type].name, before, after, s->weights);
    fputs(",\"bits_per_weight_before\":", stdout);
    json_num(stdout, bits_per_weight(s->before, s->weights));
    fputs(",\"bits_per_weight_after\":", stdout);
    json_num(stdout, bits_per_weight(s->after, s->weights));
    fputs(",\"rms_error\":", stdout);
    json_num(stdout, none ? (double)NAN : relative_loss(&s->loss));
    fputs(",\"max_error\":", stdout);
    json_num(stdout, none ? (double)NAN : (double)s->loss.most);
    fputs(",\"max_error_in\":", stdout);
    if (s->most)
        json_str(stdout, s->most->name.s, s->most->name.n);
    else
        fputs("null", stdout);
    fputs(",\"tensors\":[", stdout);
    for (size_t i = 0; i < z->g.n_tensors; i++) {
        if (i) putchar(',');
        quant_tensor_json(&z->tensor[i]);
    }
    fputs("]}\n", stdout);
}

/* The two files, before anything is opened: the new one is written at many places at once, which a
 * pipe does not have, and the report goes to standard output. */
static int quant_names(const Options *o, Err *e)
{
    const char *out = o->inputs[1];
    struct stat st, report;
    if (!o->inputs[0][0] || !out[0])
        return err_usage(e, "quantize: expected the name of a file, found an empty one");
    if (stat(out, &st)) return 0;
    if (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode))
        return err_set(e, "%s: expected an ordinary file, found a pipe", out);
    if (S_ISREG(st.st_mode) && fstat(1, &report) == 0 && report.st_dev == st.st_dev &&
        report.st_ino == st.st_ino)
        return err_usage(e, "%s: expected a file of its own, found standard output", out);
    return 0;
}

/* The input, and what is to become of it; nothing is written yet. */
static int quant_open(Quantizer *z, const Options *o, Err *e)
{
    struct stat st;
    *z = (Quantizer){.o = o, .fd = -1, .e = e};
    if (o->n_inputs != 3 || strcmp(o->inputs[1], "-") == 0)
        return err_usage(e, "quantize: expected two files and a type: ropescope quantize IN.gguf "
                            "OUT.gguf Q8_0");
    if (quant_type(o->inputs[2], &z->type, e) || quant_names(o, e) ||
        not_this_input("the output", o->inputs[1], o->inputs[0], e) ||
        !(z->k = kernels_pick(o->isa, e)) || gguf_open(&z->g, o->inputs[0], e))
        return -1;
    z->fd = open(o->inputs[0], O_RDONLY | O_CLOEXEC);
    if (z->fd < 0 || fstat(z->fd, &st) || (size_t)st.st_size != z->g.size)
        return err_set(e, "%s: cannot be read", z->g.path);
    quant_plan(z);
    return 0;
}

static int quant_file(Quantizer *z)
{
    if (gguf_out_open(&z->out, z->o->inputs[1], z->e)) return -1;
    quant_keys(z);
    for (size_t i = 0; i < z->g.n_tensors; i++) {
        Tensor t = *z->tensor[i].t;
        t.type = z->tensor[i].type;
        gguf_out_tensor(&z->out, &t);
    }
    quant_warn(z);
    int rc = gguf_out_scatter(&z->out, z->e) || quant_run(z) || gguf_out_close(&z->out, z->e);
    if (rc) gguf_out_abandon(&z->out);
    return rc ? -1 : 0;
}

static int run_quantize(Options *o, Err *e)
{
    Quantizer z;
    struct stat st;
    int rc = quant_open(&z, o, e) || quant_file(&z);
    if (!rc) {
        QuantSums s = quant_sums(&z);
        double after = stat(o->inputs[1], &st) == 0 ? (double)st.st_size : 0;
        (o->json ? quant_json : quant_print)(&z, &s, (double)z.g.size, after);
    }
    if (z.fd >= 0) close(z.fd);
    free(z.tensor);
    free(z.piece);
    gguf_close(&z.g);
    free(o->inputs);
    return rc ? -1 : 0;
}

/* ---- info and tokenize */

static void info_tensors(const Gguf *g, FILE *f)
{
    char name[96];
    for (size_t i = 0; i < g->n_tensors; i++) {
        const Tensor *t = &g->tensors[i];
        fprintf(f, "  %-32s %-7s [", show(t->name, name), tensor_types[t->type].name);
        for (int d = 0; d < t->n_dims; d++)
            fprintf(f, "%s%lld", d ? ", " : "", (long long)t->ne[d]);
        fprintf(f, "]  %.1f KB\n", (double)t->bytes / 1e3);
    }
}

/* "Q4_1 210, F32 61": how many tensors of each type. */
static void type_counts(const Gguf *g, char *buf, size_t size)
{
    int count[T_N_TYPES] = {0};
    buf[0] = 0;
    for (size_t i = 0; i < g->n_tensors; i++) count[g->tensors[i].type]++;
    for (int t = 0; t < T_N_TYPES; t++) {
        size_t n = strlen(buf);
        if (count[t])
            snprintf(buf + n, size - n, "%s%s %d", n ? ", " : "", tensor_types[t].name, count[t]);
    }
}

/* First pair that makes less than `turn` radians over the context; P if there is none. */
static int first_slow_pair(const Rope *r, double turn)
{
    int j = 0;
    while (j < r->n_pairs && (!(r->inv_freq[j] > 0) || r->inv_freq[j] * r->p.n_ctx_orig > turn))
        j++;
    return j;
}

static void info_slow_pairs(FILE *f, const Rope *r)
{
    int first = first_slow_pair(r, 2 * M_PI), last = r->n_pairs - 1;
    while (last >= 0 && !(r->inv_freq[last] > 0)) last--;
    fputs("  partial cycle ", f);
    if (first > last)
        fputs("no pair turns less than once over the context, if it turns at all\n", f);
    else
        fprintf(f,
                "pairs %d .. %d turn less than once over the context, from %d on less than half\n",
                first, last, first_slow_pair(r, M_PI));
}

static void info_ropes(FILE *f, const Model *m)
{
    char text[1024], layers[256], *layer = xcalloc((size_t)m->n_layers + 1, 1);
    for (int i = 0; i < m->n_ropes; i++) {
        if (!rope_group(m, i, text, sizeof text, layer)) continue;
        list_runs(layer, m->n_layers, layers, sizeof layers);
        fprintf(f, "                layer%s %s: %s\n", strpbrk(layers, " ") ? "s" : "", layers,
                text);
    }
    free(layer);
}

/* The windows of attention, if some layer has one. */
static void info_windows(FILE *f, const Model *m)
{
    char layers[256], *layer = xcalloc((size_t)m->n_layers + 1, 1);
    for (int l = 0; l < m->n_layers; l++) {
        int window = m->layer[l].window, first = window > 0;
        for (int k = 0; k < m->n_layers; k++) {
            layer[k] = m->layer[k].window == window;
            if (k < l && layer[k]) first = 0;
        }
        if (!first) continue;
        list_runs(layer, m->n_layers, layers, sizeof layers);
        fprintf(f, "  window        %d tokens, in layer%s %s\n", window,
                strpbrk(layers, " ") ? "s" : "", layers);
    }
    free(layer);
}

/* "ropes":[...]: every encoding, in words, and its layers. */
static void info_ropes_json(FILE *f, const Model *m)
{
    char text[1024];
    fputs(",\"ropes\":[", f);
    for (int i = 0; i < m->n_ropes; i++) {
        int n = 0;
        rope_text(&m->rope[i], text, sizeof text);
        fprintf(f, "%s{\"kind\":\"%s\",\"text\":", i ? "," : "", m->rope[i].kind->name);
        json_str(f, text, strlen(text));
        fprintf(f, ",\"amplitude\":%.17g,\"layers\":[", m->rope[i].amplitude);
        for (int l = 0; l < m->n_layers; l++)
            if (m->layer[l].rope == i) fprintf(f, "%s%d", n++ ? "," : "", l);
        fputs("]}", f);
    }
    fputc(']', f);
}

/* What the angles of the pairs depend on besides the position. */
static const char *angles_of(const Rope *r)
{
    static const char *const words[] = {"the same in all heads", "differ between key heads",
                                        "depend on what was read"};
    return words[r->uneven];
}

/* Layers may differ; what the first one with experts has. */
static void info_experts(FILE *f, const Model *m)
{
    const Layer *ly = NULL;
    int n = 0;
    for (int l = m->n_layers - 1; l >= 0; l--)
        if (m->layer[l].n_expert) ly = &m->layer[l], n++;
    if (!ly) return;
    fprintf(f, "  experts       %d of width %d in %d layers, %d used by a token", ly->n_expert,
            ly->n_ff_exp, n, ly->n_used);
    if (ly->w_up) fprintf(f, " and a shared one of width %d", ly->n_ff);
    fprintf(f, ": %.1fM parameters active\n", (double)m->n_active / 1e6);
}

static void info_print(FILE *f, const Model *m, const Tokenizer *t, const char *chat)
{
    const Layer *l0 = &m->layer[0];
    const Rope *r = &m->rope[0];
    char types[256];
    type_counts(&m->g, types, sizeof types);
    fprintf(f, "%s: GGUF %u, %.1f MB\n", m->g.path, m->g.version, (double)m->g.size / 1e6);
    fprintf(f, "  architecture  %s, %.1fM parameters, %s output matrix\n", m->arch->name,
            (double)m->n_params / 1e6, m->output == m->tok_embd ? "tied" : "untied");
    fprintf(f, "  shape         %d layers, embedding %d, %d heads (%d kv) of %d", m->n_layers,
            m->n_embd, l0->n_heads, l0->n_kv_heads, m->head_dim);
    if (l0->n_ff && !l0->n_expert) fprintf(f, ", feed-forward %d", l0->n_ff);
    fputc('\n', f);
    info_experts(f, m);
    fprintf(f, "  vocabulary    %d tokens, %s%s%s, BOS %d%s, EOS %d\n", m->n_vocab, tok_model(t),
            *tok_pre(t) ? " / " : "", tok_pre(t), tok_bos(t), tok_add_bos(t) ? " (added)" : "",
            tok_eos(t));
    fprintf(f, "  context       %d tokens (trained for %d)\n", m->n_ctx_train, r->p.n_ctx_orig);
    fprintf(f, "  rope          %s: %s, base %g%s, %d of %d values rotated, %s pairs\n",
            r->kind->name, r->kind->formula, r->p.base, r->p.divisors ? " with divisors" : "",
            2 * r->n_pairs, m->head_dim, r->layout == ROPE_HALF ? "half-split" : "adjacent");
    if (m->n_ropes > 1 || r->kind != &rope_plain) info_ropes(f, m);
    if (r->uneven)
        fprintf(f, "  angles        %s\n", angles_of(r));
    else
        info_slow_pairs(f, r);
    info_windows(f, m);
    fprintf(f, "  tensors       %zu: %s\n", m->g.n_tensors, types);
    fprintf(f, "  chat template %s\n", chat);
}

static void info_json(FILE *f, const Model *m, const Tokenizer *t, const char *chat)
{
    const Rope *r = &m->rope[0];
    char types[256];
    type_counts(&m->g, types, sizeof types);
    fputs("{\"schema\":\"ropescope.info/1\",\"model\":", f);
    json_str(f, m->g.path, strlen(m->g.path));
    fprintf(f, ",\"gguf\":%u,\"bytes\":%zu,\"architecture\":\"%s\",\"parameters\":%llu,\"tied\":%s",
            m->g.version, m->g.size, m->arch->name, (unsigned long long)m->n_params,
            m->output == m->tok_embd ? "true" : "false");
    fprintf(f, ",\"layers\":%d,\"n_embd\":%d,\"head_dim\":%d,\"n_vocab\":%d,\"n_ctx\":%d",
            m->n_layers, m->n_embd, m->head_dim, m->n_vocab, m->n_ctx_train);
    static const char *const column[] = {"heads",   "kv_heads",     "n_ff",       "windows",
                                         "experts", "experts_used", "n_ff_expert"};
    for (int k = 0; k < (m->n_expert ? 7 : 4); k++) {
        fprintf(f, ",\"%s\":[", column[k]);
        for (int l = 0; l < m->n_layers; l++) {
            const Layer *y = &m->layer[l];
            int used = y->n_expert ? y->n_used : 0, width = y->n_expert ? y->n_ff_exp : 0;
            fprintf(f, "%s%d", l ? "," : "",
                    (int[]){y->n_heads, y->n_kv_heads, y->n_ff, y->window, y->n_expert, used,
                            width}[k]);
        }
        fputc(']', f);
    }
    if (m->n_expert) fprintf(f, ",\"active_parameters\":%llu", (unsigned long long)m->n_active);
    fprintf(
        f,
        ",\"rope\":{\"kind\":\"%s\",\"base\":%.17g,\"factor\":%.17g,\"n_rot\":%d,\"n_ctx_orig\":%d,"
        "\"layout\":\"%s\",\"inv_freq\":[",
        r->kind->name, r->p.base, r->p.factor, 2 * r->n_pairs, r->p.n_ctx_orig,
        r->layout == ROPE_HALF ? "half" : "adjacent");
    for (int j = 0; j < r->n_pairs && !r->uneven; j++)
        fprintf(f, "%s%.17g", j ? "," : "", r->inv_freq[j]);
    fprintf(f, "],\"angles\":\"%s\"}", angles_of(r));
    info_ropes_json(f, m);
    fprintf(f, ",\"tokenizer\":{\"model\":\"%s\",\"pre\":", tok_model(t));
    json_str(f, tok_pre(t), strlen(tok_pre(t)));
    fprintf(f, ",\"bos\":%d,\"eos\":%d,\"add_bos\":%s},\"tensor_types\":\"%s\",\"chat_template\":",
            tok_bos(t), tok_eos(t), tok_add_bos(t) ? "true" : "false", types);
    json_str(f, chat, strlen(chat));
    fputs("}\n", f);
}

static int run_info(Options *o, Err *e)
{
    Model m = {0};
    ModelOptions mo = rope_options(o);
    OutFile out;
    Tokenizer *t = NULL;
    if (!o->model) return err_usage(e, "which model? ropescope info MODEL.gguf");
    int rc = model_open(&m, o->model, &mo, e) || !(t = tok_new(&m.g, o->pre, e)) ||
             out_open(&out, o->out ? o->out : "-", e);
    if (!rc) {
        const ChatTemplate *ct = NULL;
        Err ignored;
        int found = chat_template(&m.g, &ct, &ignored);
        const char *chat = found == 1 ? ct->name : found ? "not one known here" : "none";
        (o->json ? info_json : info_print)(out.f, &m, t, chat);
        if (o->tensors && !o->json) info_tensors(&m.g, out.f);
        rc = out_close(&out, e);
    }
    if (t) tok_free(t);
    model_close(&m);
    return rc ? -1 : 0;
}

static void print_tokens(FILE *f, const Tokenizer *t, const Tokens *ids, const Options *o)
{
    Bytes b = {0};
    if (o->json) fputs("{\"schema\":\"ropescope.tokens/1\",\"ids\":[", f);
    for (size_t i = 0; i < ids->n && (o->json || o->ids); i++)
        fprintf(f, "%s%d", i ? o->json ? "," : " " : "", ids->id[i]);
    if (o->json) fputs("],\"texts\":[", f);
    for (size_t i = 0; i < ids->n && !o->ids; i++) {
        b.n = 0;
        tok_bytes(t, ids->id[i], &b);
        if (o->json)
            fputs(i ? "," : "", f);
        else
            fprintf(f, "%8d  ", ids->id[i]);
        json_str(f, b.s ? b.s : "", b.n);
        if (!o->json) fputc('\n', f);
    }
    fputs(o->json ? "]}\n" : o->ids ? "\n" : "", f);
    free(b.s);
}

static int run_tokenize(Options *o, Err *e)
{
    Gguf g;
    Bytes text = {0};
    Tokens ids = {0};
    OutFile out;
    char policy[64];
    int bos = -1;
    if (!o->model) return err_usage(e, "which vocabulary? ropescope tokenize MODEL.gguf -p TEXT");
    if (gguf_open(&g, o->model, e)) return -1;
    Tokenizer *t = tok_new(&g, o->pre, e);
    int rc = !t || bos_policy(t, o->bos, &bos, policy, e) || read_text(o, NULL, &text, e);
    if (!rc) warn_pre(t);
    rc = rc || tok_encode(t, text.s, text.n, o->special, &ids, e);
    if (!rc) warn_left_out(&text, &ids);
    if (!rc && bos >= 0) prepend(&ids, bos);
    rc = rc || out_open(&out, o->out ? o->out : "-", e);
    if (!rc) {
        print_tokens(out.f, t, &ids, o);
        rc = out_close(&out, e);
    }
    if (t) tok_free(t);
    free(text.s);
    free(ids.id);
    gguf_close(&g);
    return rc ? -1 : 0;
}

/* ---- command line */

static const char check_help[] =
    "\nExit status: 0 every judged bound holds; 1 some has more exceptions than the tolerance\n"
    "allows; 2 anything else: bad input or usage, or no strong pair to judge a bound by.\n"
    "F1 x <= 2 pi, B1 phi >= pi/2 and B3 phi >= (pi - x)/2 are judged unless --bounds says\n"
    "otherwise: each is necessary for what an offset feature is held to do. T3 asks the far end\n"
    "of the context as well, F2 and B4 ask more, and B2 is a centre, not a floor.\n";

static const char rope_help[] =
    "Examples:\n"
    "  ropescope rope                                      every kind, a line each\n"
    "  ropescope rope yarn:factor=4                        one explained, against plain RoPE\n"
    "  ropescope rope yarn:factor=4 --head-dim 128 --base 1e6 --ctx 8192\n"
    "  ropescope rope -m model.gguf                        what a model has\n"
    "  ropescope rope none -m model.gguf --rope-layers 4-8  another one in some layers\n"
    "  ropescope rope yarn:factor=4 --json -o yarn.json    the numbers\n";

static const char quantize_help[] =
    "Examples:\n"
    "  ropescope quantize model.gguf small.gguf Q8_0          8.5 bits per weight\n"
    "  ropescope quantize model.gguf smaller.gguf Q4_0        4.5, the output matrix in Q8_0\n"
    "  ropescope quantize model.gguf smallest.gguf Q4_0 --pure\n"
    "  ropescope quantize model.gguf half.gguf BF16 --json    what became of each tensor\n"
    "  ropescope quantize small.gguf large.gguf F32           back, with the errors it has\n";

static const char quantize_notes[] =
    "\nTYPE is F32, F16, BF16, Q8_0, Q4_1 or Q4_0. Matrices are converted; norms, biases, other\n"
    "vectors and the router of a mixture of experts stay as they are, and so does all metadata\n"
    "but general.file_type and general.quantization_version. Blocks are those of llama.cpp. The\n"
    "error is that of the weights: its root mean square over theirs, and its largest size.\n";

static const Command commands[] = {
    {"info", 'i', "MODEL", "what is in a model file", .run = run_info},
    {"tokenize", 't', "MODEL -p TEXT", "text to tokens", .run = run_tokenize},
    {"generate", 'g', "MODEL -p TEXT", "continue a text", .run = run_generate},
    {"chat", 'c', "MODEL", "talk with an instruction-tuned model", .run = run_chat},
    {"perplexity", 'p', "MODEL -f TEXT", "how well the model predicts a text",
     .run = run_perplexity},
    {"bench", 'b', "MODEL", "speed, memory and a hash of the logits", .run = run_bench},
    {"analyze", 'a', "MODEL -f TEXT", "rotary offset features and attention sinks of every head",
     .run = run_analyze},
    {"bounds", 'B', "MODEL", "what theory says of a model's rotary frequencies; no text needed",
     .run = run_bounds},
    {"check", 'k', "MODEL -f TEXT", "prediction against observation; exit 1: exceptions",
     .run = run_check, .notes = check_help},
    {"explain", 'e', "MODEL -p TEXT", "one attention logit, step by step, with all its numbers",
     .run = run_explain},
    {"ablate", 'x', "MODEL -f TEXT",
     "take rotary pairs away and measure again, with random controls", .run = run_ablate},
    {"sweep", 's', "MODEL -f TEXT --rope KIND", "perplexity and sinks: encodings times contexts",
     .run = run_sweep},
    {"merge", 'm', "PART... -o OUT.part", "partial results of analyze to one, or to a reading",
     .run = run_merge},
    {"report", 'r', "READING.json -o PAGE.html", "one self-contained page from analyze --json",
     .run = run_report},
    {"quantize", 'q', "IN.gguf OUT.gguf TYPE",
     "the same model in fewer bits: Q8_0, Q4_1, Q4_0, BF16, F16", .run = run_quantize,
     .examples = quantize_help, .notes = quantize_notes},
    {"rope", 'R', "KIND:key=value", "every position encoding, or one explained and drawn",
     .run = run_rope, .examples = rope_help},
};
#define N_COMMANDS ((int)(sizeof commands / sizeof *commands))

static void help(FILE *f)
{
    fputs("Examples:\n"
          "  ropescope analyze model.gguf -f text.txt          what each head's rotary pairs do\n"
          "  ropescope analyze model.gguf -f text.txt --json -o reading.json\n"
          "  ropescope report reading.json -o report.html      the same as a page\n"
          "  ropescope bounds model.gguf                       what theory predicts of it\n"
          "  ropescope check model.gguf -f text.txt            prediction against observation\n"
          "  ropescope ablate model.gguf -f text.txt           what becomes of it without them\n"
          "  ropescope sweep model.gguf -f text.txt --rope plain --rope none    compared\n"
          "  ropescope explain model.gguf -p 'Once upon a time' --pair 0    one logit on paper\n"
          "  ropescope analyze model.gguf -f text.txt --shard 1/4 --partial 1.part    a quarter\n"
          "  ropescope merge 1.part 2.part 3.part 4.part --json -o reading.json       all of it\n"
          "  ropescope rope                                    every position encoding there is\n"
          "  ropescope rope yarn:factor=4 -m model.gguf        one explained, against plain RoPE\n"
          "  ropescope generate model.gguf -p 'Once upon a time' -n 100\n"
          "  ropescope chat model.gguf                         a conversation (end with Ctrl-D)\n"
          "  ropescope perplexity model.gguf -f text.txt -c 512\n"
          "  ropescope quantize model.gguf small.gguf Q8_0     the same model in fewer bits\n"
          "  echo 'Hello world' | ropescope tokenize model.gguf -f -\n\n"
          "ropescope " ROPESCOPE_VERSION ": transformer inference that shows rotary position "
          "embeddings at work\n\nCommands:\n",
          f);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-10s %-26s %s\n", commands[i].name, commands[i].args, commands[i].what);
    fputs("\n`ropescope COMMAND --help` lists the options of a command. The model is the first\n"
          "argument or -m FILE. Flags are those of llama.cpp where it has them: -t is threads, -p\n"
          "the prompt. ROPESCOPE_ISA=base|avx2|... chooses the instruction set; the results\n"
          "are the same.\n",
          f);
}

/* Check takes the options of analyze, too. */
static int belongs(const Option *o, const Command *c)
{
    return strchr(o->commands, c->letter) || (c->run == run_check && strchr(o->commands, 'a'));
}

static void command_help(FILE *f, const Command *c)
{
    if (c->examples)
        fputs(c->examples, f);
    else
        fprintf(f, "Example:\n  ropescope %s %s\n", c->name, c->args);
    fprintf(f, "\n%s: %s\n\nOptions:\n", c->name, c->what);
    for (int i = 0; i < N_OPTIONS; i++) {
        const Option *o = &option_table[i];
        char left_side[64], letter[8] = "    ";
        if (!belongs(o, c)) continue;
        if (o->letter) snprintf(letter, sizeof letter, "-%c, ", o->letter);
        snprintf(left_side, sizeof left_side, "%s--%s %s", letter, o->name, o->arg);
        fprintf(f, "  %-34s %s\n", left_side, o->help);
    }
    if (c->notes) fputs(c->notes, f);
}

/* Edits (insert, delete, replace) from a to b, both short. */
static int edit_distance(const char *a, const char *b)
{
    int n = (int)strlen(b), row[64];
    if (n > 63 || strlen(a) > 63) return 99;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            int step = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = change < step ? change : step;
        }
    }
    return row[n];
}

/* Usage errors: exit 2. */
static _Noreturn void usage(const char *fmt, ...) PRINTF_LIKE(1, 2);
static _Noreturn void usage(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("ropescope: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputs(" (ropescope --help)\n", stderr);
    va_end(ap);
    exit(2);
}

static _Noreturn void unknown_option(const Command *c, const char *arg)
{
    const Option *best = NULL;
    int least = 4;
    for (int i = 0; i < N_OPTIONS; i++) {
        int d = edit_distance(arg, option_table[i].name);
        if (d < least && belongs(&option_table[i], c)) {
            least = d;
            best = &option_table[i];
        }
    }
    if (best) usage("%s has no option --%s; did you mean --%s?", c->name, arg, best->name);
    usage("%s has no option --%s", c->name, arg);
}

static const Option *find_option(const Command *c, const char *arg)
{
    const char *name = arg[1] == '-' ? arg + 2 : arg + 1;
    int is_letter = arg[1] != '-' && !arg[2], elsewhere = 0;
    for (int i = 0; i < N_OPTIONS; i++) {
        const Option *o = &option_table[i];
        int match = is_letter ? o->letter == arg[1] : strcmp(name, o->name) == 0;
        if (match && belongs(o, c)) return o;
        elsewhere |= match;
    }
    if (elsewhere) usage("%s takes no option %s: it belongs to other commands", c->name, arg);
    unknown_option(c, name);
}

/* --name=value is read as --name value: cuts arg at the '=' and returns what follows, or NULL. */
static char *cut_value(char *arg)
{
    char *eq = strncmp(arg, "--", 2) ? NULL : strchr(arg, '=');
    if (eq) *eq++ = 0;
    return eq;
}

static void set_option(Options *o, const Option *opt, const char *arg, const char *value)
{
    char *end, *field = (char *)o + opt->field;
    o->given[opt - option_table] = 1;
    if (opt->type == O_FLAG) {
        *(int *)(void *)field = 1;
        return;
    }
    if (!value) usage("%s wants a value: %s", arg, opt->arg);
    if (opt->type == O_STR) {
        *(const char **)(void *)field = value;
        return;
    }
    if (opt->type == O_MANY) {
        Strings *s = (Strings *)(void *)field;
        s->at = xrealloc(s->at, (size_t)s->n + 1, sizeof *s->at);
        s->at[s->n++] = value;
        return;
    }
    double v = strtod(value, &end);
    int fits = opt->type == O_NUM || v == floor(v);
    if (end == value || *end || !(v >= opt->lo && v <= opt->hi) || !fits)
        usage("%s %s: expected %s from %g to %g", arg, value,
              opt->type == O_NUM ? "a number" : "a whole number", opt->lo, opt->hi);
    if (opt->type == O_INT)
        *(int *)(void *)field = (int)v;
    else
        *(double *)(void *)field = v;
}

static void parse_options(const Command *c, Options *o, int argc, char **argv)
{
    int positional_only = 0;
    for (int i = 0; i < argc; i++) {
        char *arg = argv[i];
        if (positional_only || arg[0] != '-' || !arg[1]) {
            if (strstr(c->args, "...") || c->run == run_quantize) {
                o->inputs = xrealloc(o->inputs, (size_t)o->n_inputs + 1, sizeof *o->inputs);
                o->inputs[o->n_inputs++] = arg;
                continue;
            }
            const char **first = c->run == run_rope ? &o->kind : &o->model;
            if (*first)
                usage("%s: one %s is enough: '%s' and '%s'", c->name,
                      c->run == run_rope     ? "kind"
                      : c->run == run_report ? "reading"
                                             : "model",
                      *first, arg);
            *first = arg;
        } else if (strcmp(arg, "--") == 0) {
            positional_only = 1;
        } else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            command_help(stdout, c);
            exit(0);
        } else {
            const char *value = cut_value(arg);
            const Option *opt = find_option(c, arg);
            if (opt->type == O_FLAG && value) usage("%s takes no value", arg);
            if (opt->type != O_FLAG && !value && i + 1 < argc) value = argv[++i];
            set_option(o, opt, arg, value);
        }
    }
    const char *color = o->color;
    if (color && strcmp(color, "auto") && strcmp(color, "always") && strcmp(color, "never"))
        usage("--color %s: expected auto, always or never", color);
    if (o->exact && o->int8) usage("--exact and --int8 exclude each other");
}

static const Command *find_command(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0) return &commands[i];
    for (int i = 0; i < N_COMMANDS; i++)
        if (edit_distance(name, commands[i].name) <= 2)
            usage("there is no command '%s'; did you mean %s?", name, commands[i].name);
    if (access(name, R_OK) == 0)
        usage("there is no command '%s'; for the file of that name: ropescope info %s", name, name);
    usage("there is no command '%s'", name);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        help(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        help(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("ropescope " ROPESCOPE_VERSION);
        return 0;
    }
    Options o = {.n_predict = -2,
                 .repeat = 3,
                 .n_prompt = 512,
                 .temp = -1,
                 .top_k = 40,
                 .top_p = 0.95,
                 .min_p = 0.05,
                 .repeat_penalty = 1,
                 .repeat_last_n = 64,
                 .seed = -1,
                 .controls = 3,
                 .window = -1,
                 .keep_rope = -1,
                 .try_keep = -1,
                 .analysis = analysis_defaults(),
                 .logit = {.query = -1, .pair = -1},
                 .eps = 0.9,
                 .tolerance = 0.1,
                 .checkpoint_every = 60};
    const Command *c = find_command(argv[1]);
    parse_options(c, &o, argc - 2, argv + 2);
    ModelOptions mo = rope_options(&o);
    o.rope_said = rope_said(&mo);
    if (o.window >= 0)
        snprintf(o.window_said, sizeof o.window_said, o.window ? "%d tokens" : "none", o.window);
    if (o.n_predict == -2) o.n_predict = strcmp(c->name, "generate") == 0 ? 128 : -1;
    /* Without SA_RESTART, so that waiting for a line of chat ends too. */
    struct sigaction act = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    Err e = {.usage = 0};
    int rc = outputs_apart(&o, &e);
    if (rc)
        free(o.inputs);
    else
        rc = c->run(&o, &e);
    if (!rc && (fflush(stdout) || ferror(stdout)))
        rc = err_set(&e, "standard output: writing failed: %s", strerror(errno));
    if (rc && !interrupted) fprintf(stderr, "ropescope: %s\n", e.msg);
    free(o.rope_said);
    return interrupted ? 128 + interrupted : rc ? e.usage ? 2 : trouble : o.found;
}
#endif
