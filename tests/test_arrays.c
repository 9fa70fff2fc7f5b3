/* Array files: what .npy and safetensors files hold is read, what they must not hold is refused in
 * words, cut anywhere they are refused too, and what is written is read back. */
#include "../model.h"
#include "check.h"

#include <string.h>

/* A file in memory of its exact size, so that a sanitizer sees a step past its end. */
typedef struct {
    uint8_t *p;
    size_t n;
} File;

static void file_add(File *f, const void *p, size_t n)
{
    f->p = xrealloc(f->p, f->n + n, 1);
    memcpy(f->p + f->n, p, n);
    f->n += n;
}

/* A .npy file of that version, header text and data. */
static File npy(int version, const char *header, const void *data, size_t n)
{
    File f = {0};
    size_t len = strlen(header);
    uint8_t pre[12] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', (uint8_t)version, 0, (uint8_t)len, (uint8_t)(len >> 8)};
    file_add(&f, pre, version == 1 ? 10 : 12);
    file_add(&f, header, len);
    if (n) file_add(&f, data, n);
    return f;
}

static File safetensors(const char *header, const void *data, size_t n)
{
    File f = {0};
    uint64_t len = strlen(header);
    file_add(&f, &len, 8);
    file_add(&f, header, (size_t)len);
    if (n) file_add(&f, data, n);
    return f;
}

static int parse(Array *a, const char *name, const File *f, Err *e)
{
    e->msg[0] = 0;
    return array_parse(a, "FILE", name, f->p, f->n, e);
}

#define REFUSED(f, name, words) check_refused(__LINE__, f, name, words)
static void check_refused(int line, File f, const char *name, const char *words)
{
    Array a;
    Err e;
    int rc = parse(&a, name, &f, &e);
    check_msg(rc == -1 && strstr(e.msg, words) && strstr(e.msg, "FILE"), __FILE__, line, words,
              "%d, '%s'", rc, e.msg);
    free(f.p);
}

/* Every value of a [2, 3] array that counts up from 1, by index and stride. */
#define COUNTS(f, name) check_counts(__LINE__, f, name)
static void check_counts(int line, File f, const char *name)
{
    Array a;
    Err e;
    int rc = parse(&a, name, &f, &e), good = rc == 0 && a.n_dims == 2 && a.n == 6;
    for (size_t i = 0; good && i < 2; i++)
        for (size_t j = 0; j < 3; j++)
            good =
                good && array_at(&a, i * a.stride[0] + j * a.stride[1]) == (double)(1 + 3 * i + j);
    check_msg(good && a.shape[0] == 2 && a.shape[1] == 3, __FILE__, line, "counts", "%d, '%s'", rc,
              rc ? e.msg : "");
    for (size_t n = 0; n < f.n; n++) { /* cut anywhere, it is no such file */
        uint8_t *cut = malloc(n + 1);
        memcpy(cut, f.p, n);
        check_msg(array_parse(&a, "FILE", name, cut, n, &e) == -1, __FILE__, line, "cut", "at %zu",
                  n);
        free(cut);
    }
    file_add(&f, "x", 1);
    check_msg(parse(&a, name, &f, &e) == -1, __FILE__, line, "a byte more", " ");
    free(f.p);
}

static const float f4[6] = {1, 2, 3, 4, 5, 6};
static const float by_column[6] = {1, 4, 2, 5, 3, 6};
static const double f8[6] = {1, 2, 3, 4, 5, 6};
static const uint16_t f2[6] = {0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600};
static const uint16_t bf16[6] = {0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0};
static const int32_t i4[6] = {1, 2, 3, 4, 5, 6};
static const int64_t i8[6] = {1, 2, 3, 4, 5, 6};

#define C_ORDER "'fortran_order': False, 'shape': (2, 3), }"

static void test_npy(void)
{
    COUNTS(npy(1, "{'descr': '<f4', " C_ORDER "\n", f4, 24), NULL);
    COUNTS(npy(2, "{'descr': '<f8', " C_ORDER "          \n", f8, 48), NULL);
    COUNTS(npy(3, "{'descr': '<f2', " C_ORDER "\n", f2, 12), NULL);
    COUNTS(npy(1, "{'descr': '<i4', " C_ORDER "\n", i4, 24), NULL);
    COUNTS(npy(1, "{'descr': '<i8', " C_ORDER "\n", i8, 48), NULL);
    COUNTS(npy(1, "{\"shape\":(2,3),'descr':\"<f4\",'fortran_order':False}", f4, 24), NULL);
    COUNTS(npy(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }\n", by_column, 24),
           NULL);
    const uint16_t odd[5] = {0x0001, 0x8400, 0x7bff, 0xfc00, 0x7e00};
    const double want[4] = {0x1p-24, -0x1p-14, 65504, (double)-INFINITY};
    File f = npy(1, "{'descr': '<f2', 'fortran_order': False, 'shape': (5,), }", odd, 10);
    Array a;
    Err e;
    if (CHECK(parse(&a, NULL, &f, &e) == 0 && a.n_dims == 1 && a.n == 5)) {
        for (size_t i = 0; i < 4; i++) CHECK(array_at(&a, i) == want[i]);
        CHECK(isnan(array_at(&a, 4)));
    }
    free(f.p);
    f = npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (), }", f4, 4);
    CHECK(parse(&a, NULL, &f, &e) == 0 && a.n_dims == 0 && a.n == 1 && array_at(&a, 0) == 1);
    free(f.p);
    f = npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 7), }", "", 0);
    CHECK(parse(&a, NULL, &f, &e) == 0 && a.n == 0);
    free(f.p);
}

static void test_npy_refused(void)
{
    REFUSED(npy(4, "{'descr': '<f4', " C_ORDER, f4, 24), NULL, "version");
    REFUSED(npy(1, "{'descr': '>f4', " C_ORDER, f4, 24), NULL, "found '>f4'");
    REFUSED(npy(1, "{'descr': '|O', " C_ORDER, f4, 24), NULL, "found '|O'");
    REFUSED(npy(1, "{'descr': '<u2', " C_ORDER, f2, 12), NULL, "found '<u2'");
    REFUSED(npy(1, "{'descr': '', " C_ORDER, f2, 12), NULL, "type: expected");
    REFUSED(npy(1, "{'descr': [('x', '<f4')], " C_ORDER, f4, 24), NULL, "expected '\"'");
    REFUSED(npy(1, "{'descr': '<f4', 'shape': (2, 3), }", f4, 24), NULL, "and nothing else");
    REFUSED(npy(1, "{'descr': '<f4', 'descr': '<f4', " C_ORDER, f4, 24), NULL, "found 'descr'");
    REFUSED(npy(1, "{'descr': '<f4', 'x': 1, " C_ORDER, f4, 24), NULL, "found 'x'");
    REFUSED(npy(1, "{'descr': '<f4', " C_ORDER " x", f4, 24), NULL, "and nothing else");
    REFUSED(npy(1, "{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3), }", f4, 24), NULL,
            "True or False");
    REFUSED(npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3), }", f4, 24), NULL,
            "whole number");
    REFUSED(npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 03), }", f4, 24), NULL,
            "whole number");
    REFUSED(npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3 }", f4, 24), NULL,
            "expected ')'");
    REFUSED(npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999), }",
                f4, 24),
            NULL, "too large");
    REFUSED(npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
                f4, 24),
            NULL, "product");
    /* 2^62 values of 4 bytes would be no bytes at all */
    REFUSED(npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }",
                f4, 0),
            NULL, "values of 4 bytes");
    REFUSED(
        npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 2, 1, 3), }", f4, 24),
        NULL, "axes at most");
    REFUSED(npy(1, "{'descr': '<f4', " C_ORDER, f4, 20), NULL, "found 20 bytes");
    REFUSED(npy(1, "{'descr': '<f4', " C_ORDER, f4, 24), "q", "no name");
    REFUSED(npy(1, "{'descr\n\377': '<f4', " C_ORDER, f4, 24), NULL, "found 'descr?\?'");
}

#define ENTRY(name, type, shape, at)                                                               \
    "\"" name "\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" at "}"

static void test_safetensors(void)
{
    uint8_t two[48];
    memcpy(two, f8, 24), memcpy(two + 24, f4, 24);
    COUNTS(safetensors("{" ENTRY("q", "F32", "[2,3]", "[0,24]") "}", f4, 24), NULL);
    COUNTS(safetensors("{" ENTRY("q", "F16", "[2,3]", "[0,12]") "}     ", f2, 12), "q");
    COUNTS(safetensors("{" ENTRY("q", "BF16", "[2,3]", "[0,12]") "}", bf16, 12), NULL);
    COUNTS(safetensors("{ " ENTRY("q", "F64", "[ 2 , 3 ]", "[ 0 , 48 ]") " }", f8, 48), NULL);
    COUNTS(
        safetensors("{\"__metadata__\":{\"a\":\"b\",\"c\":\"\\u00e9\\n\"}," ENTRY(
                        "q", "F32", "[2,3]", "[24,48]") "," ENTRY("k", "F64", "[3]", "[0,24]") "}",
                    two, 48),
        "q");
    COUNTS(safetensors(
               "{" ENTRY("k", "F4", "[3]", "[0,24]") "," ENTRY("q", "F32", "[2,3]", "[24,48]") "}",
               two, 48),
           "q"); /* an unknown type elsewhere is no hindrance */
    COUNTS(safetensors("{" ENTRY("e", "U8", "[1,0,1,1,1,1,9]", "[0,0]") "," ENTRY(
                           "\\ud83d\\ude00\\/\\u0071", "F32", "[2,3]", "[0,24]") "}",
                       f4, 24),
           "\xf0\x9f\x98\x80/q");
    COUNTS(safetensors("{\"__metadata__\":{}," ENTRY("q", "F32", "[2,3]", "[0,24]") "}", f4, 24),
           NULL);
}

static void test_safetensors_refused(void)
{
    const char *const two =
        "{" ENTRY("q", "F32", "[3]", "[0,12]") "," ENTRY("k", "F32", "[3]", "[12,24]") "}";
    uint64_t far[4] = {UINT64_MAX, 0, 0, 0};
    File f = {0};
    file_add(&f, far, sizeof far);
    REFUSED(f, NULL, "found neither");
    REFUSED(safetensors("[1]", f4, 24), NULL, "found neither");
    REFUSED(safetensors(two, f4, 24), NULL, "which tensor? Add :NAME");
    REFUSED(safetensors(two, f4, 24), "v", "there are: 'q', 'k'");
    REFUSED(safetensors("{}", f4, 0), NULL, "there are: none");
    REFUSED(safetensors("{}", f4, 24), NULL, "24 bytes after the last");
    REFUSED(safetensors("{" ENTRY("q", "F32", "[2,3]", "[0,24]") "} x", f4, 24), NULL,
            "expected its end");
    REFUSED(safetensors("{" ENTRY("q", "F32", "[2,3]", "[0,24]") ",}", f4, 24), NULL,
            "expected '\"'");
    REFUSED(safetensors("{" ENTRY("q", "F32", "[2,3]", "[4,28]") "}", f4, 28 - 4), NULL,
            "data_offsets");
    REFUSED(safetensors("{" ENTRY("q", "F32", "[2,3]", "[24,0]") "}", f4, 24), NULL,
            "data_offsets");
    REFUSED(safetensors("{" ENTRY("q", "F32", "[2,3]", "[0,24]") "," ENTRY("k", "F32", "[2]",
                                                                           "[16,24]") "}",
                        f4, 24),
            "q", "'k': data_offsets"); /* shared bytes */
    REFUSED(safetensors(
                "{" ENTRY("q", "F32", "[2]", "[0,8]") "," ENTRY("k", "F32", "[2]", "[16,24]") "}",
                f4, 24),
            "q", "'k': data_offsets"); /* a gap */
    REFUSED(safetensors("{" ENTRY("q", "F32", "[2,4]", "[0,24]") "}", f4, 24), NULL, "8 values");
    REFUSED(safetensors("{" ENTRY("q", "F32", "[4611686018427387904]", "[0,0]") "}", f4, 0), NULL,
            "values of 4 bytes");
    REFUSED(safetensors("{" ENTRY("q", "F32", "[4294967296,4294967296]", "[0,0]") "}", f4, 0), NULL,
            "product");
    REFUSED(safetensors("{" ENTRY("q", "F32", "[2,3]", "[0,24]") "," ENTRY("\\u0071", "F32", "[0]",
                                                                           "[24,24]") "}",
                        f4, 24),
            "q", "'q' occurs twice");
    REFUSED(safetensors("{\"__metadata__\":{},\"__metadata__\":{}," ENTRY("q", "F32", "[2,3]",
                                                                          "[0,24]") "}",
                        f4, 24),
            NULL, "occurs twice");
}

/* Headers that are no JSON, or not JSON of this shape. */
static void test_safetensors_headers(void)
{
    REFUSED(safetensors("{\"__metadata__\":{\"a\":1}," ENTRY("q", "F32", "[2,3]", "[0,24]") "}", f4,
                        24),
            NULL, "expected '\"'");
    REFUSED(safetensors("{\"q\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[6],"
                        "\"data_offsets\":[0,24]}}",
                        f4, 24),
            NULL, "once each");
    REFUSED(safetensors("{\"q\":{\"dtype\":\"F32\",\"shape\":[6]}}", f4, 24), NULL,
            "expected dtype");
    REFUSED(safetensors("{" ENTRY("q", "F32", "[2,3.0]", "[0,24]") "}", f4, 24), NULL,
            "expected ']'");
    REFUSED(safetensors("{" ENTRY("q", "F32", "[2,-3]", "[0,24]") "}", f4, 24), NULL,
            "whole number");
    REFUSED(safetensors("{" ENTRY("q", "U8", "[24]", "[0,24]") "}", f4, 24), NULL, "found 'U8'");
    REFUSED(safetensors("{" ENTRY("\\q", "F32", "[2,3]", "[0,24]") "}", f4, 24), NULL, "escape");
    REFUSED(safetensors("{" ENTRY("\\ud83d", "F32", "[2,3]", "[0,24]") "}", f4, 24), NULL,
            "surrogate");
    REFUSED(safetensors("{" ENTRY("\\ud83d\\u0041", "F32", "[2,3]", "[0,24]") "}", f4, 24), NULL,
            "surrogate");
    REFUSED(safetensors("{" ENTRY("\377", "F32", "[2,3]", "[0,24]") "}", f4, 24), NULL,
            "not a character");
    REFUSED(safetensors("{" ENTRY("\n", "F32", "[2,3]", "[0,24]") "}", f4, 24), NULL,
            "not a character");
    REFUSED(safetensors("{'q':{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24]}}", f4, 24),
            NULL, "expected '\"'");
}

/* ---- writers */

static File written(void (*write)(FILE *))
{
    char *s = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&s, &n);
    write(f);
    fclose(f);
    File out = {0};
    file_add(&out, s, n);
    free(s);
    return out;
}

static void write_npy(FILE *f)
{
    npy_header(f, "<f4", (const size_t[]){2, 3}, 2);
    fwrite(f4, 4, 6, f);
}

/* Six shapes; 117 bytes of text and padding are the most that fit 128 bytes. */
static void write_npys(FILE *f)
{
    npy_header(f, "<f8", NULL, 0);
    npy_header(f, "<f2", (const size_t[]){3}, 1);
    npy_header(f, "<f4", (const size_t[]){2, 1234567890, 1234567890, 12345678901, 12345678901}, 5);
}

static void write_safetensors(FILE *f)
{
    NamedArray t[] = {{"z", 2, {2, 3}, f4}, {"a\"b", 1, {6}, f4}, {"m", 0, {0}, f4}};
    const Metadata meta[] = {{"made by", "a\ntest"}, {"z", ""}};
    safetensors_header(f, t, 3, meta, 2);
    for (int i = 0; i < 3; i++) {
        size_t n = t[i].n_dims ? 6 : 1;
        fwrite(t[i].data, 4, n, f);
    }
}

static void test_written(void)
{
    Array a;
    Err e;
    File f = written(write_npy);
    CHECK(f.n == 128 + 24 && f.p[127] == '\n' && f.p[126] == ' ');
    CHECK(!memcmp(
        f.p, "\x93NUMPY\1\0\x76\0{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 69));
    COUNTS(f, NULL);
    f = written(write_npys);
    CHECK_MSG(f.n == 128 + 128 + 192, "%zu bytes", f.n); /* as numpy 2.4 pads them */
    CHECK(!memcmp(f.p + 128 + 10, "{'descr': '<f2', 'fortran_order': False, 'shape': (3,), }", 57));
    free(f.p);
    COUNTS(written(write_safetensors), "z");
    f = written(write_safetensors);
    File g = written(write_safetensors);
    uint64_t len;
    memcpy(&len, f.p, 8);
    CHECK(len % 8 == 0 && f.n == g.n && !memcmp(f.p, g.p, f.n));
    CHECK(!memcmp(f.p + 8,
                  "{\"__metadata__\":{\"made by\":\"a\\u000atest\",\"z\":\"\"},\"a\\\"b\":", 56));
    CHECK(parse(&a, "a\"b", &f, &e) == 0 && a.n == 6 && array_at(&a, 5) == 6);
    CHECK(parse(&a, "m", &f, &e) == 0 && a.n == 1 && array_at(&a, 0) == 1);
    free(f.p), free(g.p);
}

int main(void)
{
    test_npy();
    test_npy_refused();
    test_safetensors();
    test_safetensors_refused();
    test_safetensors_headers();
    test_written();
    return check_done();
}
