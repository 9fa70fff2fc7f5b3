/* libFuzzer: bytes as a config.json, and what comes of it as encodings.
 *
 *   make fuzz && build/fuzz/fuzz_config SEEDS_FOLDER
 *
 * A seed is the config.json of any checkpoint. */
#include "../model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 4, HEAD = 8 };

/* A text that was accepted must be one that --rope takes, or be refused with the file's name. */
static void use(const ConfigRope *c)
{
    Err e = {.usage = 0};
    Rope r;
    RopeSpec s = {NULL, rope_params(HEAD, 10000)};
    if (!memchr(c->spec, 0, sizeof c->spec)) abort();
    if (rope_read("fuzz", c->spec, &s, &e)) {
        if (!strstr(e.msg, "fuzz")) abort();
        return;
    }
    if (s.p.file) abort(); /* a config names no other file */
    if (rope_new(&r, s.kind, &s.p, ROPE_HALF, NULL, &e) == 0) rope_free(&r);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < c->list[k].n; i++)
            if (!(c->list[k].v[i] > 0.0f)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    RopeConfig c;
    Err e = {.usage = 0};
    char *exact = malloc(size ? size : 1); /* of the exact size: an overrun shows */
    memcpy(exact, data, size);
    if (rope_config_parse(&c, "fuzz", (Str){exact, size}, LAYERS, HEAD, &e) == 0) {
        for (int l = 0; l < LAYERS; l++) use(&c.rope[c.of_layer[l]]);
        rope_config_free(&c);
    } else if (!strstr(e.msg, "fuzz")) {
        abort();
    }
    free(exact);
    return 0;
}
