/* Writing GGUF files, packing weights into blocks, and `quantize`: against the reader, and against
 * each block type written down a second time, in double. run.c is included for its statics. */
#define main run_main
int run_main(int argc, char **argv);
#include "../run.c"
#undef main

#include "check.h"

static Err err;
static char path[64], made[64];

/* ---------------------------------------------------------------- the writer */

static const float gain[5] = {1, -2, 0.5f, 3, 1e-30f};
static const uint16_t table[2][3] = {{0x3c00, 0xc000, 0}, {1, 0x7bff, 0x8000}};
static const Str words[3] = {{"<s>", 3}, {"", 0}, {"a\0b", 3}};
static const int32_t types[3] = {3, -1, INT32_MAX};

/* Every kind of key and two tensors; the values are handed over in pieces of `step` bytes. */
static int write_file(int align, size_t step)
{
    uint8_t all[sizeof gain + sizeof table];
    const Tensor t[2] = {{.name = {"gain", 4}, .type = T_F32, .n_dims = 1, .ne = {5, 1, 1, 1}},
                         {.name = {"table", 5}, .type = T_F16, .n_dims = 2, .ne = {3, 2, 1, 1}}};
    GgufOut w;
    memcpy(all, gain, sizeof gain);
    memcpy(all + sizeof gain, table, sizeof table);
    if (gguf_out_open(&w, path, &err)) return -1;
    gguf_out_str(&w, "general.architecture", "test");
    if (align) gguf_out_int(&w, "general.alignment", GGUF_U32, align);
    gguf_out_int(&w, "a.u8", GGUF_U8, 200);
    gguf_out_int(&w, "a.i64", GGUF_I64, -5);
    gguf_out_bool(&w, "a.bool", 2);
    gguf_out_float(&w, "a.f32", 0.1f);
    gguf_out_strs(&w, "b.words", words, 3);
    gguf_out_strs(&w, "b.none", NULL, 0);
    gguf_out_floats(&w, "b.gain", gain, 5);
    gguf_out_ints(&w, "b.types", types, 3);
    gguf_out_tensor(&w, &t[0]);
    gguf_out_tensor(&w, &t[1]);
    int rc = 0;
    for (size_t i = 0; i < sizeof all && !rc; i += step)
        rc = gguf_out_data(&w, all + i, step < sizeof all - i ? step : sizeof all - i, &err);
    rc = rc || gguf_out_close(&w, &err);
    if (rc) gguf_out_abandon(&w);
    return rc ? -1 : 0;
}

static void check_keys(const Gguf *g)
{
    int64_t i = 0;
    double f = 0;
    Str s = {0}, *strs = NULL;
    float *floats = NULL;
    int b = 0, *ints = NULL;
    size_t n = 0;
    CHECK(gguf_str(g, "general.architecture", &s, &err) == 1 && str_is(s, "test"));
    CHECK(gguf_int(g, "a.u8", 0, 255, &i, &err) == 1 && i == 200);
    CHECK(gguf_int(g, "a.i64", -9, 9, &i, &err) == 1 && i == -5);
    CHECK(gguf_bool(g, "a.bool", &b, &err) == 1 && b == 1);
    CHECK(gguf_float(g, "a.f32", 0, 1, &f, &err) == 1 && (float)f == 0.1f);
    CHECK(gguf_strs(g, "b.words", &strs, &n, &err) == 1 && n == 3);
    for (size_t k = 0; k < n && n == 3; k++)
        CHECK(strs[k].n == words[k].n && memcmp(strs[k].s, words[k].s, words[k].n) == 0);
    free(strs);
    CHECK(gguf_strs(g, "b.none", &strs, &n, &err) == 1 && n == 0);
    free(strs);
    CHECK(gguf_floats(g, "b.gain", &floats, &n, &err) == 1 && n == 5);
    CHECK(n == 5 && memcmp(floats, gain, sizeof gain) == 0);
    free(floats);
    CHECK(gguf_ints(g, "b.types", &ints, &n, &err) == 1 && n == 3);
    CHECK(n == 3 && memcmp(ints, types, sizeof types) == 0);
    free(ints);
}

static void test_writer(void)
{
    const int aligns[] = {0, 8, 128};
    const size_t steps[] = {1, 7, 1000};
    for (int k = 0; k < 9; k++) {
        Gguf g;
        size_t align = aligns[k % 3] ? (size_t)aligns[k % 3] : 32;
        if (!CHECK_MSG(write_file(aligns[k % 3], steps[k / 3]) == 0, "%s", err.msg)) return;
        if (!CHECK_MSG(gguf_open(&g, path, &err) == 0, "%s", err.msg)) return;
        const Tensor *a = gguf_tensor(&g, "gain"), *t = gguf_tensor(&g, "table");
        check_keys(&g);
        CHECK(g.version == 3 && g.n_tensors == 2 && g.n_keys == 9 + (aligns[k % 3] > 0));
        CHECK(a && a->type == T_F32 && a->n_dims == 1 && a->ne[0] == 5);
        CHECK(a && memcmp(a->data, gain, sizeof gain) == 0);
        CHECK(t && t->type == T_F16 && t->n_dims == 2 && t->ne[0] == 3 && t->ne[1] == 2);
        CHECK(t && memcmp(t->data, table, sizeof table) == 0);
        CHECK(a && t && (size_t)(a->data - g.map) % align == 0);
        /* llama.cpp wants each tensor at the first aligned place after the one before it, and the
         * last one padded, too. */
        CHECK(a && t && (size_t)(t->data - a->data) == (20 + align - 1) / align * align);
        CHECK(g.size % align == 0);
        gguf_close(&g);
    }
    unlink(path);
}

/* What is abandoned, or cannot be written, leaves nothing at the path. */
static void test_writer_fails(void)
{
    const Tensor t = {.name = {"t", 1}, .type = T_F32, .n_dims = 1, .ne = {1 << 20, 1, 1, 1}};
    const size_t n = (size_t)4 << 20;
    char *zeros = xcalloc(n, 1);
    GgufOut w;
    CHECK(gguf_out_open(&w, path, &err) == 0);
    gguf_out_tensor(&w, &t);
    CHECK(gguf_out_data(&w, zeros, 100, &err) == 0);
    gguf_out_abandon(&w);
    CHECK(access(path, F_OK) != 0);
    CHECK(gguf_out_open(&w, "no/such/folder/x.gguf", &err) == -1 && strstr(err.msg, "no/such"));
    if (access("/dev/full", W_OK) == 0) {
        CHECK(gguf_out_open(&w, "/dev/full", &err) == 0);
        gguf_out_tensor(&w, &t);
        CHECK(gguf_out_data(&w, zeros, n, &err) == -1);
        CHECK_MSG(strstr(err.msg, "/dev/full: writing failed: "), "%s", err.msg);
        gguf_out_abandon(&w);
        CHECK(gguf_out_open(&w, "/dev/full", &err) == 0); /* little enough for the buffer */
        CHECK(gguf_out_close(&w, &err) == -1 && strstr(err.msg, "/dev/full: writing failed: "));
        gguf_out_abandon(&w);
    }
    free(zeros);
}

/* By several threads at once, in any order, with a hole that must read as zero. */
static void test_scatter(void)
{
    enum { N = 5000 };
    const Tensor t[2] = {{.name = {"a", 1}, .type = T_F32, .n_dims = 1, .ne = {3, 1, 1, 1}},
                         {.name = {"b", 1}, .type = T_F32, .n_dims = 1, .ne = {N, 1, 1, 1}}};
    float v[N];
    int failed[N / 50], bad = 0;
    GgufOut w;
    Gguf g;
    for (int i = 0; i < N; i++) v[i] = (float)i;
    if (!CHECK(gguf_out_open(&w, path, &err) == 0)) return;
    gguf_out_tensor(&w, &t[0]);
    gguf_out_tensor(&w, &t[1]);
    CHECK(gguf_out_scatter(&w, &err) == 0);
#pragma omp parallel for num_threads(4) schedule(dynamic, 1)
    for (int i = N / 50 - 1; i >= 0; i--) {
        Err e;
        failed[i] = gguf_out_at(&w, 1, (uint64_t)i * 200, v + i * 50, 200, &e) != 0;
    }
    for (int i = 0; i < N / 50; i++) bad += failed[i];
    CHECK(bad == 0 && gguf_out_at(&w, 0, 4, gain, 4, &err) == 0);
    if (!CHECK_MSG(gguf_out_close(&w, &err) == 0 && gguf_open(&g, path, &err) == 0, "%s", err.msg))
        return;
    const float *a = (const float *)(const void *)gguf_tensor(&g, "a")->data;
    CHECK(a[0] == 0 && a[1] == gain[0] && a[2] == 0);
    CHECK(memcmp(gguf_tensor(&g, "b")->data, v, sizeof v) == 0);
    CHECK(g.size % 32 == 0);
    gguf_close(&g);
    unlink(path);
}

/* ---------------------------------------------------------------- blocks, a second time */

/* The nearest number of F16, ties to even: 11 bits, or a multiple of 2^-24; infinite from 65520. */
static double to_half(double v)
{
    int e;
    if (fabs(v) >= 65520) return copysign((double)INFINITY, v);
    frexp(v, &e);
    int last = e - 11 > -24 ? e - 11 : -24; /* power of two of the last place */
    return ldexp(rint(ldexp(v, -last)), last);
}

static void put_half_ref(uint8_t *p, double v)
{
    uint16_t u = signbit(v) ? 0x8000 : 0;
    double a = fabs(v);
    int e;
    frexp(a, &e); /* 2^(e-1) <= a < 2^e */
    if (isinf(a))
        u |= 0x7c00;
    else if (a >= 0x1p-14)
        u = (uint16_t)(u | ((e - 1 + 15) << 10 | ((int)ldexp(a, 11 - e) & 1023)));
    else
        u = (uint16_t)(u | (int)ldexp(a, 24));
    p[0] = u & 255;
    p[1] = (uint8_t)(u >> 8);
}

/* 1 / d in float; where that is infinite, every integer of the block is 0 (llama.cpp on x86). */
static double inverse_ref(double d)
{
    return d == 0 ? 0 : (double)(float)(1 / d);
}

static void q8_0_ref(uint8_t *p, const float *x)
{
    double most = 0;
    for (int i = 0; i < QB; i++) most = fmax(most, fabs((double)x[i]));
    double d = (double)(float)(most / 127), inv = inverse_ref(d);
    put_half_ref(p, to_half(d));
    for (int i = 0; i < QB; i++) {
        double v = isinf(inv) ? 0 : (double)(float)((double)x[i] * inv);
        p[2 + i] = (uint8_t)(int)copysign(floor(fabs(v) + 0.5), v);
    }
}

static int nibble_ref(double v)
{
    return v > 15 ? 15 : (int)floor(v);
}

static void q4_0_ref(uint8_t *p, const float *x)
{
    double m = 0;
    for (int i = 0; i < QB; i++)
        if (fabs((double)x[i]) > fabs(m)) m = (double)x[i];
    double d = (double)(float)(m / -8), inv = inverse_ref(d);
    put_half_ref(p, to_half(d));
    for (int i = 0; i < 16; i++) {
        double lo = (double)(float)((double)(float)((double)x[i] * inv) + 8.5);
        double hi = (double)(float)((double)(float)((double)x[i + 16] * inv) + 8.5);
        p[2 + i] = (uint8_t)(isinf(inv) ? 0 : nibble_ref(lo) | nibble_ref(hi) << 4);
    }
}

static void q4_1_ref(uint8_t *p, const float *x)
{
    double lo = (double)x[0], hi = lo;
    for (int i = 1; i < QB; i++) {
        if ((double)x[i] < lo) lo = (double)x[i];
        if ((double)x[i] > hi) hi = (double)x[i];
    }
    double d = (double)(float)((double)(float)(hi - lo) / 15), inv = inverse_ref(d);
    put_half_ref(p, to_half(d));
    put_half_ref(p + 2, to_half(lo));
    for (int i = 0; i < QB; i++) {
        double from = (double)(float)((double)x[i] - lo);
        double v = (double)(float)((double)(float)(from * inv) + 0.5);
        int q = isinf(inv) ? 0 : nibble_ref(v);
        if (i < 16) p[4 + i] = (uint8_t)q;
        if (i >= 16) p[4 + i - 16] |= (uint8_t)(q << 4);
    }
}

static void f16_ref(uint8_t *p, const float *x)
{
    for (int i = 0; i < QB; i++) put_half_ref(p + 2 * i, to_half((double)x[i]));
}

/* 8 bits of mantissa, or a multiple of 2^-133, as floats whose lower half is 0. */
static void bf16_ref(uint8_t *p, const float *x)
{
    for (int i = 0; i < QB; i++) {
        int e;
        uint32_t u;
        frexp((double)x[i], &e);
        int last = e - 8 > -133 ? e - 8 : -133;
        float f = (float)ldexp(rint(ldexp((double)x[i], -last)), last);
        memcpy(&u, &f, sizeof u);
        memcpy(p + 2 * i, (uint8_t *)&u + 2, 2);
    }
}

static const struct {
    int type;
    void (*ref)(uint8_t *p, const float *x);
} packed[] = {{T_Q8_0, q8_0_ref},
              {T_Q4_0, q4_0_ref},
              {T_Q4_1, q4_1_ref},
              {T_F16, f16_ref},
              {T_BF16, bf16_ref}};
#define N_PACKED ((int)(sizeof packed / sizeof *packed))

/* Blocks of every kind: zeros of either sign, equal ones, ties for the largest, halves between
 * integers, subnormal numbers, scales below and above what F16 has. */
enum { N_KINDS = 14 };
static float edge_value(Rng *r, int kind, int i)
{
    float u = rng_float(r);
    switch (kind) {
    case 0:
        return 0;
    case 1:
        return -0.0f;
    case 2:
        return u < 0 ? -0.0f : 0.0f;
    case 3:
        return (float)(int)(u * 20) * 0x1p-149f; /* the smallest numbers */
    case 4:
        return u * ldexpf(1, -126 - i % 20);
    case 5:
        return -0.3f;
    case 6:
        return u < 0 ? -1 : 1;
    case 7:
        return (float)(int)(u * 8) * 0.5f;
    case 8:
        return i == 3 ? 0 : -fabsf(u);
    case 9:
        return i % 8 == 1 ? (i % 16 == 1 ? -0.0f : 0.0f) : fabsf(u);
    case 10:
        return i ? floorf(u * 126) + 0.5f : 127;
    case 11:
        return i ? floorf(u * 7) + 0.5f : -8;
    case 12:
        return u * ldexpf(1, i % 40 - 30);
    default:
        return u * 0.02f;
    }
}

static void test_blocks(void)
{
    Rng r = rng_new(24);
    for (int n = 0; n < 200 * N_KINDS; n++) {
        float x[QB], scale = n % N_KINDS == 13 ? ldexpf(1, n / N_KINDS % 60 - 40) : 1;
        for (int i = 0; i < QB; i++) x[i] = edge_value(&r, n % N_KINDS, i) * scale;
        for (int k = 0; k < N_PACKED; k++) {
            uint8_t got[4 * QB] = {0}, want[4 * QB] = {0};
            const TensorType *tt = tensor_type(packed[k].type);
            size_t bytes = (size_t)(QB / tt->block * tt->bytes);
            tt->pack(got, x, QB);
            packed[k].ref(want, x);
            CHECK_MSG(memcmp(got, want, bytes) == 0, "%s, block %d of kind %d", tt->name, n,
                      n % N_KINDS);
        }
    }
}

/* The float below a half, added and cut off, is rounding with ties away from zero. */
static void test_rounding(void)
{
    for (int i = -508; i <= 508; i++)
        for (int d = -1; d <= 1; d++) {
            float x[QB] = {127, (float)i / 4};
            uint8_t p[34];
            if (d) x[1] = nextafterf(x[1], d > 0 ? 200 : -200);
            if (fabsf(x[1]) > 127) continue;
            tensor_type(T_Q8_0)->pack(p, x, QB); /* d = 1 */
            CHECK_MSG((int8_t)p[3] == (int)roundf(x[1]), "%.9g became %d", (double)x[1],
                      (int8_t)p[3]);
        }
}

/* ---------------------------------------------------------------- the command */

/* Values of one tensor of the model under test, F32; bad: this goes to value `at` of `in`. */
static struct {
    const char *in;
    int64_t at;
    float value;
} spoilt;

static const struct {
    const char *name;
    int64_t ne[3];
    int types[2]; /* after Q8_0, and after Q4_0 */
} rooms[] = {{"token_embd.weight", {64, 40, 1}, {T_Q8_0, T_Q4_0}},
             {"output.weight", {64, 40, 1}, {T_Q8_0, T_Q8_0}},
             {"output_norm.weight", {64, 1, 1}, {T_F32, T_F32}},
             {"blk.0.attn_q_norm.weight", {32, 2, 1}, {T_F32, T_F32}},
             {"blk.0.attn_q.bias", {64, 1, 1}, {T_F32, T_F32}},
             {"blk.0.attn_q.weight", {64, 64, 1}, {T_Q8_0, T_Q4_0}},
             {"blk.0.ffn_gate_inp.weight", {64, 4, 1}, {T_F32, T_F32}},
             {"blk.0.ffn_up_exps.weight", {64, 48, 4}, {T_Q8_0, T_Q4_0}},
             {"blk.0.ffn_down.weight", {2080, 96, 1}, {T_Q8_0, T_Q4_0}}, /* more than a piece */
             {"blk.0.odd.weight", {50, 3, 1}, {T_F16, T_F16}},
             {"rope_freqs.weight", {16, 1, 1}, {T_F32, T_F32}}};
#define N_ROOMS (sizeof rooms / sizeof *rooms)

static void make_model(int tied)
{
    Rng r = rng_new(7);
    GgufOut w;
    if (!CHECK_MSG(gguf_out_open(&w, path, &err) == 0, "%s", err.msg)) return;
    gguf_out_str(&w, "general.architecture", "llama");
    gguf_out_int(&w, "general.file_type", GGUF_U32, 0);
    gguf_out_int(&w, "general.alignment", GGUF_U32, 64);
    gguf_out_strs(&w, "zz.before.aa", words, 3);
    for (size_t i = 0; i < N_ROOMS; i++) {
        Tensor t = {.name = {rooms[i].name, strlen(rooms[i].name)}, .type = T_F32, .n_dims = 3};
        for (int d = 0; d < 4; d++) t.ne[d] = d < 3 ? rooms[i].ne[d] : 1;
        if (!tied || strcmp(rooms[i].name, "output.weight")) gguf_out_tensor(&w, &t);
    }
    int rc = 0;
    for (size_t i = 0; i < N_ROOMS; i++)
        for (int64_t k = 0; k < rooms[i].ne[0] * rooms[i].ne[1] * rooms[i].ne[2]; k++) {
            float v = rng_float(&r);
            if (spoilt.in && !strcmp(spoilt.in, rooms[i].name) && k == spoilt.at) v = spoilt.value;
            if (!tied || strcmp(rooms[i].name, "output.weight"))
                rc = rc || gguf_out_data(&w, &v, sizeof v, &err);
        }
    CHECK_MSG(rc == 0 && gguf_out_close(&w, &err) == 0, "%s", err.msg);
}

/* The command without its report, z as it leaves it. */
static int quantized(Quantizer *z, Options *o, const char *type, int n_threads)
{
    static const char *in[3];
    in[0] = path;
    in[1] = made;
    in[2] = type;
    *o = (Options){.inputs = in, .n_inputs = 3, .n_threads = n_threads};
    return quant_open(z, o, &err) || quant_file(z) ? -1 : 0;
}

static void quantized_free(Quantizer *z)
{
    if (z->fd >= 0) close(z->fd);
    free(z->tensor);
    free(z->piece);
    gguf_close(&z->g);
}

/* The loss of tensor q, summed in double, one value after the other. */
static void check_loss(const Quantizer *z, const QuantTensor *q, const Gguf *after)
{
    char name[96];
    const Tensor *t = gguf_tensor(after, show(q->t->name, name));
    const float *x = (const float *)(const void *)q->t->data;
    int64_t n = n_values(q->t);
    float *buf = xcalloc((size_t)n, sizeof *buf);
    Q32 *q32 = xcalloc((size_t)n / QB + 1, sizeof *q32);
    Tensor flat = run_of(t->type, t->data, (int)n);
    const float *y = row_floats(z->k, &flat, 0, buf, q32);
    double e = 0, s = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)y[i] - (double)x[i];
        e += d * d;
        s += (double)x[i] * (double)x[i];
        most = fmax(most, fabs(d));
    }
    /* A difference of floats is rounded once, to 6e-8; a sum of up to 2e5 doubles, to 2e-11. */
    if (q->type != q->t->type) {
        CHECK_MSG(fabs(q->loss.error2 - e) <= 2e-7 * e, "%s: %g and %g", name, q->loss.error2, e);
        CHECK_MSG(fabs(q->loss.weight2 - s) <= 1e-10 * s, "%s: %g, %g", name, q->loss.weight2, s);
        CHECK_MSG(fabs((double)q->loss.most - most) <= 1e-7 * most, "%s: largest", name);
    }
    free(buf);
    free(q32);
}

/* Types, shapes and order of the tensors, and the keys, of the new file. */
static void check_made(const Quantizer *z, int column, int tied)
{
    Gguf g;
    if (!CHECK_MSG(gguf_open(&g, made, &err) == 0, "%s", err.msg)) return;
    for (size_t i = 0; i < N_ROOMS; i++) {
        const Tensor *t = gguf_tensor(&g, rooms[i].name), *was = gguf_tensor(&z->g, rooms[i].name);
        if (!CHECK((t != NULL) == (was != NULL)) || !t) continue;
        int type = rooms[i].types[column];
        if (tied && !strcmp(rooms[i].name, "token_embd.weight")) type = T_Q8_0;
        CHECK_MSG(t->type == type, "%s became %s", rooms[i].name, tensor_types[t->type].name);
        CHECK(t->n_dims == was->n_dims && memcmp(t->ne, was->ne, sizeof t->ne) == 0);
        CHECK(type != T_F32 || memcmp(t->data, was->data, was->bytes) == 0);
    }
    for (size_t i = 0; i < z->g.n_tensors; i++) check_loss(z, &z->tensor[i], &g);
    for (size_t i = 1; i < z->g.n_tensors; i++) { /* infos, and data, in the order they had */
        char a[96], b[96];
        const Tensor *x = gguf_tensor(&g, show(z->tensor[i - 1].t->name, a));
        const Tensor *y = gguf_tensor(&g, show(z->tensor[i].t->name, b));
        CHECK(x->name.s < y->name.s && x->data < y->data && (y->data - g.map) % 64 == 0);
    }
    int64_t v = -1;
    CHECK(gguf_int(&g, "general.file_type", 0, 99, &v, &err) == 1 && v == (column ? 2 : 7));
    CHECK(gguf_int(&g, "general.quantization_version", 0, 99, &v, &err) == 1 && v == 2);
    const GgufKey *k = gguf_find(&g, "zz.before.aa"), *was = gguf_find(&z->g, "zz.before.aa");
    CHECK(k && k->bytes == was->bytes && memcmp(k->val, was->val, k->bytes) == 0);
    CHECK(k && k->key.s > gguf_find(&g, "general.file_type")->key.s);
    gguf_close(&g);
}

static void test_command(void)
{
    const char *const names[] = {"Q8_0", "q4_0"};
    for (int k = 0; k < 4; k++) {
        Options o;
        Quantizer z;
        uint64_t hash[2] = {0};
        make_model(k & 1);
        for (int t = 0; t < 2; t++) {
            Bytes file = {0};
            if (CHECK_MSG(quantized(&z, &o, names[k >> 1 & 1], t ? 5 : 1) == 0, "%s", err.msg))
                check_made(&z, k >> 1 & 1, k & 1);
            CHECK(bytes_read(&file, made, &err) == 0);
            for (size_t i = 0; i < z.g.n_tensors; i++)
                bytes_add(&file, (const char *)&z.tensor[i].loss, sizeof z.tensor[i].loss);
            hash[t] = hash_bytes(file.s, file.n);
            free(file.s);
            quantized_free(&z);
        }
        CHECK_MSG(hash[0] == hash[1], "1 and 5 threads differ");
    }
}

/* Weights that no type has, or not this one: refused by name and place, and no file is left. */
static void test_refused(void)
{
    static const struct {
        const char *in, *type;
        int64_t at;
        float value;
        const char *says;
    } cases[] = {
        {"blk.0.attn_q.weight", "Q8_0", 200, NAN, "row 3, value 8: expected a finite number"},
        {"blk.0.ffn_down.weight", "BF16", 199679, INFINITY, "row 95, value 2079: expected a fin"},
        {"blk.0.ffn_up_exps.weight", "F16", 70, 65520, "row 1, value 6: expected what F16"},
        {"blk.0.ffn_down.weight", "F16", 150000, -1e30f, "row 72, value 240: expected what F16"},
        {"blk.0.attn_q.weight", "Q4_0", 33, -8e6f, "row 0, value 33: expected what Q4_0"},
        {"blk.0.attn_q.weight", "Q4_1", 64, -1e5f, "row 1, value 0: expected what Q4_1"},
        {"blk.0.attn_q.weight", "Q8_0", 95, 3e38f, "row 1, value 31: expected what Q8_0"},
        {"blk.0.attn_q.weight", "BF16", 1, FLT_MAX, "row 0, value 1: expected what BF16"},
        {"blk.0.odd.weight", "Q8_0", 51, 1e6f, "row 1, value 1: expected what F16"},
        {"blk.0.attn_q.bias", "Q8_0", 1, NAN, NULL}, /* not touched */
        {"blk.0.attn_q.weight", "F16", 0, 65519, NULL},
        {"blk.0.attn_q.weight", "Q8_0", 0, 8e6f, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Quantizer z;
        Options o;
        unlink(made);
        spoilt.in = cases[i].in, spoilt.at = cases[i].at, spoilt.value = cases[i].value;
        make_model(0);
        memset(&err, 0, sizeof err);
        int rc = quantized(&z, &o, cases[i].type, 3);
        quantized_free(&z);
        CHECK_MSG(rc == (cases[i].says ? -1 : 0), "case %zu: %s", i, err.msg);
        if (!cases[i].says) continue;
        CHECK_MSG(strstr(err.msg, cases[i].says) && strstr(err.msg, cases[i].in), "case %zu: %s", i,
                  err.msg);
        CHECK(access(made, F_OK) != 0);
    }
    spoilt.in = NULL;
}

/* Ctrl-C: no file, half or whole. */
static void test_interrupted(void)
{
    Quantizer z;
    Options o;
    make_model(0);
    unlink(made);
    interrupted = SIGINT;
    CHECK(quantized(&z, &o, "Q8_0", 2) == -1);
    interrupted = 0;
    CHECK(access(made, F_OK) != 0);
    quantized_free(&z);
}

int main(void)
{
    snprintf(path, sizeof path, "build/test_quantize_%ld.gguf", (long)getpid());
    snprintf(made, sizeof made, "build/test_quantize_%ld.made.gguf", (long)getpid());
    test_writer();
    test_writer_fails();
    test_scatter();
    test_blocks();
    test_rounding();
    test_command();
    test_refused();
    test_interrupted();
    unlink(path);
    unlink(made);
    return check_done();
}
