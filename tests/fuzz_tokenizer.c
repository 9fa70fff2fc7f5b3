/* Fuzz target: text to tokens and back, for both models and every pre-tokenizer.
 *
 *     make fuzz && build/fuzz/fuzz_tokenizer -max_len=400
 *
 * The first byte chooses a vocabulary, the second whether control tokens in the text count; the
 * rest is the text. Every byte has a token, so the bytes of the tokens are the text again. */
#include "../model.h"

#include <string.h>

#include "gguf_builder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const PRES[] = {
    "default", "gpt-2",  "smollm", "llama-bpe", "dbrx", "qwen2",
    "qwen35",  "tekken", "gpt-4o", "falcon",    NULL}; /* NULL: llama */
enum { N_PRES = sizeof PRES / sizeof *PRES };

/* Tokens that special characters and each other are part of. The bytes of "llama" have texts of
 * their own, and its spaces are U+2581. */
static void add_pieces(GbVocab *v, int spm)
{
    static const char *const merges[][2] = {
        {" ", " "},       {" ", "t"},    {"t", "h"},       {"th", "e"},      {" t", "he"},
        {"\n", "\n"},     {"'", "s"},    {"\xC3", "\xA9"}, {"\xE4", "\xB8"}, {"1", "2"},
        {"12", "3"},      {"  ", "  "},  {"A", "b"},       {"!", "\n"},      {"/", "/"},
        {"\xFF", "\xFF"}, {"\x00", "a"},
    };
    static const char *const pieces[] = {"a",
                                         "b",
                                         "th",
                                         "the",
                                         "\xE2\x96\x81",
                                         "\xE2\x96\x81t",
                                         "\xE2\x96\x81the",
                                         "t",
                                         "h",
                                         "e",
                                         "\xC3\xA9",
                                         "ab",
                                         "ba",
                                         "\xE2\x96\x81\xE2\x96\x81",
                                         "\xF0\x9F\x98\x80",
                                         "e\xE2\x96\x81"};
    static const char *const special[] = {"<a>", "<a><b>", "<", "  ", "\xC3\xA9\xC3", "<|x|>"};
    for (size_t i = 0; !spm && i < sizeof merges / sizeof *merges; i++)
        gb_merge(v, merges[i][0], strlen(merges[i][0]), merges[i][1], strlen(merges[i][1]));
    for (size_t i = 0; spm && i < sizeof pieces / sizeof *pieces; i++)
        gb_token(v, pieces[i], strlen(pieces[i]), 1, (float)(i % 5));
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        gb_token(v, special[i], strlen(special[i]), i & 1 ? 4 : 3, 0);
}

static Tokenizer *build(const char *pre)
{
    static Gguf g[N_PRES];
    static int n;
    GgufBuilder b = {0};
    GbVocab v = {0};
    Err e;
    size_t size;
    gb_byte_tokens(&v, pre ? "gpt2" : "llama");
    add_pieces(&v, !pre);
    if (!pre) gb_key_bool(&b, "tokenizer.ggml.add_space_prefix", 0);
    gb_vocab(&b, &v, pre ? "gpt2" : "llama", pre);
    uint8_t *file = gb_finish(&b, &size); /* kept, as g */
    if (gguf_parse(&g[n], "fuzz", file, size, &e)) die("%s", e.msg);
    Tokenizer *t = tok_new(&g[n++], NULL, &e);
    if (!t) die("%s", e.msg);
    return t;
}

/* U+2581 in a text of "llama" is a space. */
static void unmark(Bytes *b)
{
    size_t n = 0;
    for (size_t i = 0; i < b->n; n++) {
        int mark = b->n - i >= 3 && !memcmp(b->s + i, "\xE2\x96\x81", 3);
        b->s[n] = mark ? ' ' : b->s[i];
        i += mark ? 3 : 1;
    }
    b->n = n;
}

/* The streaming decoder never lets half a character out: its output, cut after every token, has
 * to end where a character does. */
static void check_stream(const Tokenizer *t, const Tokens *ids)
{
    Decoder d = {.t = t, .special = 1};
    Bytes b = {0};
    for (size_t i = 0; i <= ids->n; i++) {
        size_t from = b.n;
        if (i < ids->n)
            tok_decode(&d, ids->id[i], &b);
        else
            tok_decode_end(&d, &b);
        for (size_t k = from, len; k < b.n; k += len) {
            uint8_t c = (uint8_t)b.s[k];
            len = c < 0x80 ? 1 : c < 0xC0 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
            MUST(len && k + len <= b.n);
        }
    }
    MUST(d.n_held == 0);
    free(b.s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Tokenizer *vocab[N_PRES];
    if (size < 2) return 0;
    size_t which = data[0] % N_PRES;
    if (!vocab[which]) vocab[which] = build(PRES[which]);
    const Tokenizer *t = vocab[which];
    Tokens ids = {0};
    Bytes back = {0}, text = {0};
    Err e;
    bytes_add(&text, (const char *)data + 2, size - 2);
    if (tok_encode(t, text.s, text.n, data[1] & 1, &ids, &e)) die("%s", e.msg);
    MUST(ids.n <= text.n);
    bytes_add(&back, "", 0);
    for (size_t i = 0; i < ids.n; i++) tok_bytes(t, ids.id[i], &back);
    if (!PRES[which]) {
        unmark(&text);
        unmark(&back);
    }
    MUST(back.n == text.n && !memcmp(back.s, text.s, text.n));
    check_stream(t, &ids);
    free(ids.id);
    free(back.s);
    free(text.s);
    return 0;
}
