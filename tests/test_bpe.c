/* The tool that learns the vocabulary of the demo model: what tokenizer.c makes of its file. */
#define main bpe_main
int bpe_main(int argc, char **argv);
#include "../demo/bpe.c"
#undef main

#include "check.h"

#include <unistd.h>

static char folder[] = P_tmpdir "/test_bpe_XXXXXX";

static const char *vocab_path(void)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/vocab.gguf", folder);
    return path;
}

/* Words of a small language, so that some pairs are frequent, between all that separates words. */
static Bytes random_text(int n_words)
{
    static const char *const part[] = {"th", "e",  "ing", "a",  "or", "wh", "ou",
                                       "d",  "st", "re",  "qu", "ee", "n",  "\xc3\xa9"};
    static const char *const mark[] = {" ",   " ",    " ",   " ",  ", ", ".\n", "  ",  "\n\n",
                                       "'s ", "'ll ", " 12", "--", "; ", "\t",  "!? ", " '"};
    Rng r = rng_new(5);
    Bytes b = {0};
    for (int i = 0; i < n_words; i++) {
        for (int k = rng_int(&r, 1, 3); k > 0; k--) {
            const char *s = part[rng_int(&r, 0, 13) * rng_int(&r, 0, 1)];
            bytes_add(&b, s, strlen(s));
        }
        const char *s = mark[rng_int(&r, 0, 15)];
        bytes_add(&b, s, strlen(s));
    }
    return b;
}

/* The learner's own cutting of the text and that of tokenizer.c with its file must agree: the same
 * number of tokens, and the text comes back. */
static void check_agreement(const Learner *x, const Bytes *b)
{
    Gguf g;
    Err e;
    Tokens ids = {0};
    Bytes back = {0};
    CHECK(vocab_write(x, vocab_path(), &e) == 0);
    if (!CHECK(gguf_open(&g, vocab_path(), &e) == 0)) return;
    Tokenizer *t = tok_new(&g, NULL, &e);
    if (CHECK_MSG(t != NULL, "%s", e.msg)) {
        CHECK(tok_bos(t) == BOS && tok_eos(t) == EOS && tok_add_bos(t));
        CHECK(tok_n_vocab(t) == x->n_vocab);
        CHECK(tok_encode(t, b->s, b->n, 0, &ids, &e) == 0);
        CHECK_MSG((int64_t)ids.n == n_tokens(x), "%zu tokens, the learner has %lld", ids.n,
                  (long long)n_tokens(x));
        for (size_t i = 0; i < ids.n; i++) tok_bytes(t, ids.id[i], &back);
        CHECK(back.n == b->n && memcmp(back.s, b->s, b->n) == 0);
        tok_free(t);
    }
    gguf_close(&g);
    free(ids.id);
    free(back.s);
}

static Learner *learnt(const Bytes *b, int n)
{
    Learner *x = xcalloc(1, sizeof *x);
    learn_text(x, b, n);
    return x;
}

static void test_agreement(void)
{
    Bytes b = random_text(20000);
    for (int n = FIRST_MERGE; n <= 600; n += 171) {
        Learner *x = learnt(&b, n);
        CHECK(x->n_vocab == n);
        check_agreement(x, &b);
        learner_free(x);
        free(x);
    }
    free(b.s);
}

/* " a", "ab" and "cd" are as frequent: the one of the lowest ids comes first. In the end every word
 * is one token, and there is nothing left to merge. */
static void test_ties(void)
{
    Bytes b = {0};
    bytes_add(&b, "cd ab cd ab", 11);
    Learner *x = learnt(&b, FIRST_MERGE + 40);
    CHECK(x->left[FIRST_MERGE] == FIRST_BYTE + ' ' && x->right[FIRST_MERGE] == FIRST_BYTE + 'a');
    CHECK(x->left[FIRST_MERGE + 1] == FIRST_BYTE + 'c' &&
          x->right[FIRST_MERGE + 1] == FIRST_BYTE + 'd');
    CHECK(x->n_vocab < FIRST_MERGE + 40);
    CHECK(n_tokens(x) == 4);
    check_agreement(x, &b);
    learner_free(x);
    free(x);
    free(b.s);
}

/* A text that the learner may cut otherwise than tokenizer.c: characters that are no letters,
 * halves of characters, zeros. The file still holds what was learnt, and every byte comes back. */
static void check_odd(const char *s, size_t n, int most)
{
    Bytes b = {0};
    Gguf g;
    Err e;
    Tokens ids = {0};
    Bytes back = {0};
    bytes_add(&b, s, n);
    Learner *x = learnt(&b, most);
    CHECK(x->n_vocab >= FIRST_MERGE && x->n_vocab <= most);
    CHECK(vocab_write(x, vocab_path(), &e) == 0);
    MUST(gguf_open(&g, vocab_path(), &e) == 0);
    Tokenizer *t = tok_new(&g, NULL, &e);
    if (CHECK_MSG(t != NULL, "%s", e.msg)) {
        CHECK(tok_n_vocab(t) == x->n_vocab);
        CHECK(tok_encode(t, b.s, b.n, 0, &ids, &e) == 0);
        CHECK(ids.n <= n); /* a token is a byte at least */
        for (size_t i = 0; i < ids.n; i++) tok_bytes(t, ids.id[i], &back);
        CHECK(back.n == n && (n == 0 || memcmp(back.s, s, n) == 0));
        tok_free(t);
    }
    gguf_close(&g);
    learner_free(x);
    free(x);
    free(ids.id);
    free(back.s);
    free(b.s);
}

static void test_odd_texts(void)
{
    static const char marks[] = "\xe2\x80\x94\xe2\x80\x9cno\xe2\x80\x9d \xe2\x80\x94 \xe4\xb8\xad"
                                "\xe6\x96\x87 \xc2\xa0\xf0\x9f\x98\x80\xf0\x9f\x98\x80 \xd9\xa3";
    static const char broken[] = "a\xff\xfe\xc3(\x80\0\0b \xe2\x80 \xf0\x9f\x98 ab \xc3\xc3\xa9";
    char same[999];
    memset(same, 'a', sizeof same);
    check_odd("", 0, FIRST_MERGE);
    check_odd("", 0, FIRST_MERGE + 9);
    check_odd(" ", 1, FIRST_MERGE + 9);
    check_odd("\n\n\n", 3, FIRST_MERGE + 9);
    check_odd("'", 1, FIRST_MERGE);
    check_odd(marks, sizeof marks - 1, FIRST_MERGE + 40);
    check_odd(broken, sizeof broken - 1, FIRST_MERGE + 40);
    check_odd(same, sizeof same, FIRST_MERGE + 40); /* one word; aaa: pairs that overlap */
}

int main(void)
{
    MUST(mkdtemp(folder));
    test_agreement();
    test_ties();
    test_odd_texts();
    remove(vocab_path());
    rmdir(folder);
    return check_done();
}
