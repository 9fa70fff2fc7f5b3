/* Writing GGUF files, and packing weights into blocks: against the reader, and against the
 * definition of each block type written down a second time, in double. */
#include "../model.h"

#include "check.h"

#include <string.h>
#include <unistd.h>

static Err err;
static char path[64];

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

int main(void)
{
    snprintf(path, sizeof path, "build/test_quantize_%ld.gguf", (long)getpid());
    test_writer();
    test_writer_fails();
    return check_done();
}
