/* Tests of what our own keys say of a tokenizer: normalisation, tokens that swallow spaces or are
 * looked for late, spaces of sentencepiece and metaspace; against Hugging Face's tokenizers for a
 * hand-made vocabulary (make_token_golden.py), and by hand. */
#include "../model.h"

#include <string.h>

#include "check.h"
#include "gguf_builder.h"
#include "token_golden.h"
#include "vocab.h"

/* The ids of a text, and the text that they give. */
static void check_text(const Tokenizer *t, const char *s, size_t n, const char *want,
                       const char *again)
{
    Tokens ids = {0};
    Bytes list = {0}, text = {0};
    Decoder d = {.t = t, .special = 1};
    Err e = {.usage = 0};
    CHECK_MSG(!tok_encode(t, s, n, 1, &ids, &e), "%s", e.msg);
    for (size_t i = 0; i < ids.n; i++) {
        char id[16];
        bytes_add(&list, id, (size_t)snprintf(id, sizeof id, i ? " %d" : "%d", ids.id[i]));
        tok_decode(&d, ids.id[i], &text);
    }
    tok_decode_end(&d, &text);
    bytes_add(&list, "", 1);
    bytes_add(&text, "", 1);
    CHECK_MSG(!strcmp(list.s, want), "\"%s\": %s, expected %s", s, list.s, want);
    CHECK_MSG(!again || !strcmp(text.s, again), "\"%s\": \"%s\", expected \"%s\"", s, text.s,
              again ? again : "");
    free(ids.id);
    free(list.s);
    free(text.s);
}

static void check_ids(const Tokenizer *t, const char *s, const char *want)
{
    check_text(t, s, strlen(s), want, NULL);
}

/* ---------------------------------------------------------------- byte-level */

/* The vocabulary of make_token_golden.py. */
static void open_golden(Fixture *f, int normalized)
{
    static const char *const merges[][2] = {
        {"\xC5", "\xBF"}, {"t", "h"},        {"th", "e"},       {" ", "the"},
        {" ", " "},       {"\xC5\xBF", "x"}, {"'", "\xC5\xBF"}, {"a", "b"},
    };
    static const char *const added[] = {
        "<s>", "<l>", "<r>", "<lr>", "   ", "\xE1\xB9\xA9", "r>",
    };
    GgufBuilder b = {0};
    GbVocab v = {0};
    gb_byte_tokens(&v, "gpt2");
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++)
        gb_merge(&v, merges[i][0], strlen(merges[i][0]), merges[i][1], strlen(merges[i][1]));
    int first = (int)v.n;
    for (size_t i = 0; i < sizeof added / sizeof *added; i++)
        gb_token(&v, added[i], strlen(added[i]), 4, 0);
    gb_key_i32s(&b, "ropescope.tokenizer.lstrip", (int[]){first + 1, first + 3}, 2);
    gb_key_i32s(&b, "ropescope.tokenizer.rstrip", (int[]){first + 2, first + 3}, 2);
    gb_key_i32s(&b, "ropescope.tokenizer.late", (int[]){first + 4, first + 5, first + 6}, 3);
    if (normalized) gb_key_str(&b, "ropescope.tokenizer.normalizer", "nfc");
    open_vocab(f, &b, &v, "gpt2", "qwen2");
    CHECK_MSG(f->t, "%s", f->e.msg);
}

static void test_golden(void)
{
    Fixture f;
    open_golden(&f, 1);
    for (size_t i = 0; i < sizeof TOKEN_GOLDEN / sizeof *TOKEN_GOLDEN; i++)
        check_text(f.t, TOKEN_GOLDEN[i].text, TOKEN_GOLDEN[i].n, TOKEN_GOLDEN[i].ids,
                   TOKEN_GOLDEN[i].again);
    close_vocab(&f);
    open_golden(&f, 0);
    check_ids(f.t, "e\xCC\x81", "101 204 129"); /* as it is: the file names no normaliser */
    close_vocab(&f);
}

/* A malformed byte stays, nothing joins across it, and the marks around it are put in order. */
static void test_malformed(void)
{
    Fixture f;
    open_golden(&f, 1);
    check_ids(f.t, "e\xCC\x81\x80\xCC\x81", "195 169 128 204 129");
    check_ids(f.t, "e\x80\xCC\x81\xE1", "101 128 204 129 225");
    check_ids(f.t, "\xCC\x95\xFF\xCC\xA7\xCC", "204 149 255 204 167 204");
    close_vocab(&f);
}

/* A run of a million marks in the wrong order takes linear time; the result is in order. */
static void test_many_marks(void)
{
    enum { PAIRS = 250000 };
    Fixture f;
    Tokens ids = {0};
    Err e = {.usage = 0};
    char *s = xrealloc(NULL, 4 * PAIRS, 1);
    open_golden(&f, 1);
    for (size_t i = 0; i < PAIRS; i++) memcpy(s + 4 * i, "\xCC\x95\xCC\xA7", 4);
    CHECK_MSG(!tok_encode(f.t, s, 4 * PAIRS, 0, &ids, &e), "%s", e.msg);
    CHECK(ids.n == 4 * PAIRS);
    for (size_t i = 1; i < ids.n && ids.n == 4 * PAIRS; i += 2)
        if (ids.id[i] != (i < 2 * PAIRS ? 0xA7 : 0x95)) ids.n = 0;
    CHECK_MSG(ids.n, "%s", "the marks are out of order");
    free(ids.id);
    free(s);
    close_vocab(&f);
}

/* Bytes without a token are left out and counted, and what is beside them merges. */
static void test_left_out(void)
{
    GgufBuilder b = {0};
    GbVocab v = {0};
    Fixture f;
    Tokens ids = {0};
    gb_spelt_token(&v, "-", 1);
    gb_spelt_token(&v, "+", 1);
    gb_merge(&v, "-", 1, "+", 1);
    open_vocab(&f, &b, &v, "gpt2", "gpt-2");
    check_ids(f.t, "-\xFF\xFE+-", "2 0");
    check_ids(f.t, "\xFF", "");
    CHECK(!tok_encode(f.t, "-\xFF*+", 4, 0, &ids, &f.e) && ids.n == 1 && ids.left_out == 2);
    free(ids.id);
    close_vocab(&f);
}

/* "th" is a token that no merge makes: found only where whole words are looked up first. */
static void test_whole_words(void)
{
    static const char *const pres[] = {"qwen2", "llama-bpe"};
    for (int pre = 0; pre < 2; pre++) {
        for (int key = 0; key < 3; key++) {
            GgufBuilder b = {0};
            GbVocab v = {0};
            Fixture f;
            gb_byte_tokens(&v, "gpt2");
            gb_spelt_token(&v, "th", 2);
            if (key < 2) gb_key_bool(&b, "ropescope.tokenizer.whole_words", key);
            open_vocab(&f, &b, &v, "gpt2", pres[pre]);
            check_ids(f.t, "th", (key < 2 ? key : pre) ? "256" : "116 104");
            close_vocab(&f);
        }
    }
}

/* ---------------------------------------------------------------- llama */

/* 259 U+2581, 260 U+2581 a, 261 a, 262 user-defined: two spaces. */
static void open_spaces(Fixture *f, const char *normalizer, int prefix)
{
    GgufBuilder b = {0};
    GbVocab v = {0};
    gb_byte_tokens(&v, "llama");
    gb_token(&v, "\xE2\x96\x81", 3, 1, -2);
    gb_token(&v,
             "\xE2\x96\x81"
             "a",
             4, 1, -1);
    gb_token(&v, "a", 1, 1, -3);
    gb_token(&v, "  ", 2, 4, 0);
    gb_key_bool(&b, "tokenizer.ggml.add_space_prefix", prefix);
    if (normalizer) {
        gb_key_str(&b, "ropescope.tokenizer.normalizer", normalizer);
        gb_key_i32s(&b, "ropescope.tokenizer.late", (int[]){262},
                    !strcmp(normalizer, "sentencepiece"));
    }
    open_vocab(f, &b, &v, "llama", NULL);
    CHECK_MSG(f->t, "%s", f->e.msg);
}

static void test_spaces(void)
{
    static const struct {
        const char *normalizer;
        int prefix;
        /* "a", " a", "a<s>a", "a<s> a", "  a" */
        const char *ids[5];
    } cases[] = {
        {NULL, 1, {"260", "259 260", "260 1 260", "260 1 259 260", "262 260"}},
        {NULL, 0, {"261", "260", "261 1 261", "261 1 260", "262 261"}},
        {"sentencepiece", 1, {"260", "262 261", "260 1 260", "260 1 262 261", "262 260"}},
        {"sentencepiece", 0, {"261", "260", "261 1 261", "261 1 260", "262 261"}},
        {"metaspace", 1, {"260", "260", "260 1 260", "260 1 260", "262 260"}},
        {"metaspace-first", 1, {"260", "260", "260 1 261", "260 1 260", "262 261"}},
    };
    static const char *const texts[] = {"a", " a", "a<s>a", "a<s> a", "  a"};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        Fixture f;
        open_spaces(&f, cases[c].normalizer, cases[c].prefix);
        for (int i = 0; i < 5; i++) check_ids(f.t, texts[i], cases[c].ids[i]);
        close_vocab(&f);
    }
}

/* ---------------------------------------------------------------- refusals */

static void check_refused(const char *model, const char *normalizer, int late, const char *words)
{
    GgufBuilder b = {0};
    GbVocab v = {0};
    Fixture f;
    gb_byte_tokens(&v, model);
    if (normalizer) gb_key_str(&b, "ropescope.tokenizer.normalizer", normalizer);
    gb_key_i32s(&b, "ropescope.tokenizer.late", &late, 1);
    open_vocab(&f, &b, &v, model, NULL);
    CHECK_MSG(!f.t && strstr(f.e.msg, words), "%s", f.t ? "accepted" : f.e.msg);
    close_vocab(&f);
}

int main(void)
{
    test_golden();
    test_malformed();
    test_many_marks();
    test_left_out();
    test_whole_words();
    test_spaces();
    check_refused("gpt2", "nfkc", 0, "expected nfc, found 'nfkc'");
    check_refused("gpt2", "metaspace", 0, "expected nfc");
    check_refused("gpt2", "", 0, "expected nfc");
    check_refused("llama", "nfc", 0, "expected sentencepiece, metaspace or metaspace-first");
    check_refused("gpt2", NULL, 256, "late: expected tokens from 0 to 255, found 256");
    check_refused("llama", NULL, -1, "found -1");
    return check_done();
}
