/* libFuzzer: damaged files of partial results with a right checksum, and readings of what is
 * accepted.
 *
 *   make fuzz && build/fuzz/fuzz_partial
 *
 * An input is a list of changes to a good file, of 4 bytes each: an offset (2 bytes), whether it is
 * one in the header, and the value to put there; 0xff cuts the byte out, 0xfe doubles it. */
#include "../model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Bytes written(Analysis *a, const Provenance *p)
{
    Bytes b = {0};
    Err e;
    FILE *f = open_memstream(&b.s, &b.n);
    if (partial_write(a, p, f, &e)) abort();
    fclose(f);
    b.cap = b.n;
    return b;
}

/* One layer, one head of two values, with a bias; window 0 of three tokens. */
static Bytes good_file(void)
{
    static float bias[4] = {1, 2, 3, 4}, x[6] = {1, 2, 3, -4, 5, 600},
                 row[3] = {0.5f, 0.25f, 0.25f};
    static Layer layer = {.n_heads = 1, .n_kv_heads = 1, .bq = bias};
    static Arch arch = {.name = "fuzz"};
    Err e;
    Rope rope;
    RopeParams rp = {
        .head_dim = 2, .n_rot = 2, .base = 1e4, .factor = 1, .divisors = bias, .pos_scale = 1};
    if (rope_new(&rope, rope_find("plain"), &rp, ROPE_HALF, NULL, &e)) abort();
    Model m = {.arch = &arch,
               .n_layers = 1,
               .n_embd = 2,
               .head_dim = 2,
               .n_ctx_train = 9,
               .n_vocab = 9,
               .max_heads = 1,
               .max_kv_heads = 1,
               .layer = &layer,
               .rope = &rope,
               .n_ropes = 1};
    Provenance p = {.model_path = "m",
                    .text_path = "t",
                    .isa = "base",
                    .model_sha256 = "0",
                    .n_ctx = 4,
                    .n_threads = 1,
                    .n_text_tokens = 7,
                    .n_text_windows = 2};
    AnalysisOptions o = analysis_defaults();
    Analysis *a = analysis_new(&m, &o);
    const Probe *pr = analysis_probe(a);
    for (int stage = 0; stage < 2; stage++) pr->q(pr->ctx, 0, 0, stage, 0, 3, x, 2);
    for (int pos = 0; pos < 3; pos++)
        pr->attn(
            pr->ctx,
            &(AttnRow){.pos = pos, .n_t = pos + 1, .q = x, .k = x, .scores = row, .weights = row});
    for (int stage = 0; stage < 2; stage++) pr->k(pr->ctx, 0, 0, stage, 0, 3, x, 2);
    pr->resid(pr->ctx, 0, 0, 3, x, 2);
    analysis_window(a);
    Bytes b = written(a, &p);
    analysis_free(a);
    rope_free(&rope);
    return b;
}

static Bytes changed(const Bytes *good, const uint8_t *data, size_t size)
{
    Bytes b = {0};
    bytes_add(&b, good->s, good->n);
    for (; size >= 4; data += 4, size -= 4) {
        size_t at = (data[0] | (size_t)data[1] << 8) % (data[2] & 1 && b.n > 2400 ? 2400 : b.n);
        if (data[3] == 0xff && b.n > 1) {
            memmove(b.s + at, b.s + at + 1, --b.n - at);
        } else if (data[3] == 0xfe && b.n < 2 * good->n) {
            bytes_add(&b, b.s, 1);
            memmove(b.s + at + 1, b.s + at, b.n - at - 1);
        } else {
            b.s[at] = (char)data[3];
        }
    }
    if (b.n < 32) return b;
    char hex[65];
    sha256_hex(b.s, b.n - 32, hex);
    for (size_t i = 0; i < 32; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
        b.s[b.n - 32 + i] = (char)strtoul(two, NULL, 16);
    }
    return b;
}

static int add(Partial *x, const Bytes *b, Err *e)
{
    uint8_t *exact = malloc(b->n ? b->n : 1);
    memcpy(exact, b->s, b->n);
    int rc = partial_add(x, "fuzz", exact, b->n, e);
    free(exact);
    return rc;
}

/* What is accepted can be printed, and written and read again to the same bytes. */
static void use(Partial *x)
{
    Partial again = {0};
    Err e;
    FILE *f = fopen("/dev/null", "w");
    analysis_json(x->a, &x->p, f);
    analysis_print(x->a, &x->p, f, &(Screen){.color = COLOR_TRUE, .verbose = 1});
    fclose(f);
    Bytes b = written(x->a, &x->p);
    if (add(&again, &b, &e)) abort();
    Bytes c = written(again.a, &again.p);
    if (b.n != c.n || memcmp(b.s, c.s, b.n)) abort();
    free(b.s), free(c.s);
    partial_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Bytes good;
    Partial x = {0};
    Err e = {.usage = 0};
    if (!good.s) good = good_file();
    Bytes b = changed(&good, data, size);
    if (add(&x, &b, &e) == 0)
        use(&x);
    else if (strncmp(e.msg, "fuzz: ", 6) || !memchr(e.msg, 0, sizeof e.msg))
        abort();
    partial_free(&x);
    free(b.s);
    return 0;
}
