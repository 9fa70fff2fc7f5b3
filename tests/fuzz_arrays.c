/* libFuzzer: bytes as an array file. build/fuzz/fuzz_arrays needs no seeds: the first byte says
 * whether the rest is a whole file, or a header (up to a zero byte) and its data. */
#include "../model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every element must be within the file: the sanitizer sees to that. */
static void touch(const Array *a)
{
    size_t last = 0;
    double sum = 0;
    for (int d = 0; d < a->n_dims; d++)
        if (a->n) last += (a->shape[d] - 1) * a->stride[d];
    if (a->n && last != a->n - 1) abort();
    if (a->n) sum += array_at(a, 0) + array_at(a, last);
    for (size_t i = 0; i < a->n && i < 1000; i++) sum += array_at(a, i);
    volatile double seen = sum;
    (void)seen;
}

static void open_bytes(const uint8_t *p, size_t n, const char *name)
{
    Array a;
    Err e = {.usage = 0};
    if (array_parse(&a, "fuzz", name, p, n, &e) == 0)
        touch(&a);
    else if (!strstr(e.msg, "fuzz") || !memchr(e.msg, 0, sizeof e.msg))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) return 0;
    int kind = data[0] % 3;
    const uint8_t *zero = memchr(data + 1, 0, size - 1);
    size_t head = kind && zero ? (size_t)(zero - data - 1) : size - 1;
    size_t before = kind == 0 ? 0 : kind == 1 ? 8 : 12, rest = size - 1 - head;
    if (rest) rest--; /* the zero byte itself */
    uint8_t *file = malloc(before + head + rest + 1), *exact;
    uint64_t len = head;
    if (kind == 1) memcpy(file, &len, 8);
    if (kind == 2) memcpy(file, "\x93NUMPY\2\0", 8), memcpy(file + 8, &len, 4);
    memcpy(file + before, data + 1, head);
    memcpy(file + before + head, data + size - rest, rest);
    exact = realloc(file, before + head + rest ? before + head + rest : 1);
    open_bytes(exact, before + head + rest, NULL);
    open_bytes(exact, before + head + rest, "q");
    free(exact);
    return 0;
}
