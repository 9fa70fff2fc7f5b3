/* Ids of many texts for comparison with other programs: dump_tokens GGUF IN OUT [plain]
 * IN: for each text int32 bytes, then those. OUT: for each text int32 ids, the ids as int32; then
 * int32 bytes and those: the ids as text again. plain: control tokens in a text are not recognised.
 * See compare_tokenizers.py. */
#include "../model.h"

#include <stdlib.h>
#include <string.h>

static void put(FILE *f, const void *data, size_t size, size_t n)
{
    int32_t count = (int32_t)n;
    fwrite(&count, sizeof count, 1, f);
    if (n) fwrite(data, size, n, f);
}

static int dump_text(FILE *f, const Tokenizer *t, const char *s, size_t n, int special, Err *e)
{
    Tokens ids = {0};
    Bytes text = {0};
    Decoder d = {.t = t, .special = 1};
    if (tok_encode(t, s, n, special, &ids, e)) return -1;
    for (size_t i = 0; i < ids.n; i++) tok_decode(&d, ids.id[i], &text);
    tok_decode_end(&d, &text);
    put(f, ids.id, sizeof *ids.id, ids.n);
    put(f, text.s, 1, text.n);
    free(ids.id);
    free(text.s);
    return 0;
}

static int dump(const Tokenizer *t, const Bytes *in, const char *out, int special, Err *e)
{
    FILE *f = fopen(out, "wb");
    int bad = 0;
    if (!f) return err_set(e, "%s: cannot be written", out);
    for (size_t i = 0; i + 4 <= in->n && !bad;) {
        int32_t n;
        memcpy(&n, in->s + i, sizeof n);
        i += 4;
        if (n < 0 || (size_t)n > in->n - i)
            bad = err_set(e, "byte %zu: a text of %d bytes is longer than the file", i, n);
        else
            bad = dump_text(f, t, in->s + i, (size_t)n, special, e);
        i += (size_t)n;
    }
    int failed = ferror(f) | fclose(f);
    return bad ? -1 : failed ? err_set(e, "%s: writing failed", out) : 0;
}

int main(int argc, char **argv)
{
    Gguf g;
    Bytes in = {0};
    Err e;
    if (argc < 4) die("usage: dump_tokens GGUF IN OUT [plain]");
    if (bytes_read(&in, argv[2], &e) || gguf_open(&g, argv[1], &e)) die("%s", e.msg);
    Tokenizer *t = tok_new(&g, NULL, &e);
    if (!t || dump(t, &in, argv[3], argc < 5 || strcmp(argv[4], "plain"), &e)) die("%s", e.msg);
    tok_free(t);
    gguf_close(&g);
    free(in.s);
    return 0;
}
