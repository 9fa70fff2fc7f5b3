/* libFuzzer: bytes as a model file, and two tokens through whatever loads.
 *
 *   make fuzz && build/fuzz/fuzz_model SEEDS_FOLDER
 *
 * A seed is any small model: build/.../tests/test_file --seeds FOLDER writes some. */
#include "../model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Two tokens, both ways of computing, on a model that is small enough for a fuzzer. */
static void run(const Model *m)
{
    Err e;
    size_t cache = (size_t)m->n_layers * (size_t)m->max_kv_heads * (size_t)m->head_dim;
    if (m->n_params > 1000000 || m->n_layers > 64 || cache > 1 << 20 || m->n_vocab > 1 << 20)
        return;
    for (int exact = 0; exact < 2; exact++) {
        State s;
        StateOptions o = {.n_ctx = 16, .n_batch = 2, .n_threads = 1, .exact = exact};
        int ids[2] = {0, m->n_vocab - 1};
        if (state_new(&s, m, &o, &e) < 0) abort(); /* nothing in a file makes this fail */
        forward(&s, ids, 2, 2);
        state_free(&s);
    }
}

static void text(const Gguf *g)
{
    Err e;
    Tokens ids = {0};
    Bytes back = {0};
    Tokenizer *t = tok_new(g, NULL, &e);
    if (!t) return;
    if (tok_encode(t, "Once upon a \xf0\x9f\x90\x88 <s> 12", 24, 1, &ids, &e) == 0) {
        Decoder d = {.t = t};
        for (size_t i = 0; i < ids.n; i++) {
            if (ids.id[i] < 0 || ids.id[i] >= tok_n_vocab(t)) abort();
            tok_decode(&d, ids.id[i], &back);
        }
        tok_decode_end(&d, &back);
    }
    free(ids.id);
    free(back.s);
    tok_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Gguf g;
    Model m;
    Err e = {.usage = 0};
    uint8_t *exact = malloc(size ? size : 1); /* of the exact size, and aligned as a mapping is */
    memcpy(exact, data, size);
    int bad = gguf_parse(&g, "fuzz", exact, size, &e);
    if (!bad) {
        text(&g);
        bad = model_bind(&m, &g, NULL, &e);
    }
    if (!bad) {
        run(&m);
        model_close(&m);
    }
    if (bad && (!strstr(e.msg, "fuzz") || !memchr(e.msg, 0, sizeof e.msg))) abort();
    free(exact);
    return 0;
}
