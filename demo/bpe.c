/* ropescope: a vocabulary for the demo model, learnt from a text by byte-pair encoding (Sennrich,
 * Haddow and Birch, arXiv:1508.07909): begin with the 256 bytes, and so many times make one token
 * of the two that stand next to each other most often within words.
 *
 *     bpe TEXT N VOCAB.gguf      N tokens: <s>, </s>, 256 bytes, and N - 258 learnt ones
 *
 * The file holds the vocabulary and no tensors; tokenizer.c reads it as the model "gpt2" with the
 * rule "gpt-2" for words. Counts are whole numbers, and of equally frequent pairs the one of the
 * lowest ids wins, left before right: the same text gives the same file everywhere. */
#include "../model.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BOS, EOS, FIRST_BYTE, FIRST_MERGE = FIRST_BYTE + 256, MOST = 16384 };

/* A word of the text, as the tokens that it is made of so far. */
typedef struct {
    size_t at, len; /* bytes of the text */
    int64_t count;
    int *id; /* [n] */
    int n;
} Word;

typedef struct {
    const char *s;
    size_t n;
    Word *word; /* open addressing until all are counted, then in the order of the text */
    size_t n_words, n_slots;
    int n_vocab, most;
    int64_t *pairs; /* [most][most] how often b follows a */
    int left[MOST], right[MOST];
    Bytes text[MOST]; /* as in the file: bytes spelt as characters */
} Learner;

/* ------------------------------------------------------------ words
 * The rule of GPT-2: 's 't 're 've 'm 'll 'd | ?letters | ?digits | ?others | spaces, where a run
 * of spaces leaves the last one to a word after it. Bytes above 127 count as letters: where a text
 * has other characters than letters there, its words are longer than those of tokenizer.c, and a
 * merge across their borders is never used. */

enum { LETTER, DIGIT, SPACE, OTHER };

static int class_of(char c)
{
    unsigned char u = (unsigned char)c;
    if (u >= 128 || (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z')) return LETTER;
    if (u >= '0' && u <= '9') return DIGIT;
    return u == ' ' || (u >= '\t' && u <= '\r') ? SPACE : OTHER;
}

static size_t run_end(const Learner *x, size_t i, int cls)
{
    while (i < x->n && class_of(x->s[i]) == cls) i++;
    return i;
}

/* Length of the contraction at i; 0: none. */
static size_t contraction(const Learner *x, size_t i)
{
    static const char *const list[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        size_t n = strlen(list[k]);
        if (x->n - i >= n && memcmp(x->s + i, list[k], n) == 0) return n;
    }
    return 0;
}

static size_t word_end(const Learner *x, size_t i)
{
    size_t n = contraction(x, i);
    if (n) return i + n;
    size_t first = x->s[i] == ' ' && i + 1 < x->n ? i + 1 : i;
    if (class_of(x->s[first]) != SPACE) return run_end(x, first, class_of(x->s[first]));
    size_t end = run_end(x, i, SPACE);
    return end == x->n || end - i == 1 ? end : end - 1;
}

static Word *slot_of(const Learner *x, size_t at, size_t len)
{
    size_t i = (size_t)hash_bytes(x->s + at, len) & (x->n_slots - 1);
    while (x->word[i].count &&
           (x->word[i].len != len || memcmp(x->s + x->word[i].at, x->s + at, len)))
        i = (i + 1) & (x->n_slots - 1);
    return &x->word[i];
}

/* Twice the slots, when half of them are taken. */
static void grow(Learner *x)
{
    Word *was = x->word;
    size_t n = x->n_slots;
    x->n_slots *= 2;
    x->word = xcalloc(x->n_slots, sizeof *x->word);
    for (size_t i = 0; i < n; i++)
        if (was[i].count) *slot_of(x, was[i].at, was[i].len) = was[i];
    free(was);
}

static int by_place(const void *a, const void *b)
{
    const Word *x = a, *y = b;
    if (!x->count != !y->count) return x->count ? -1 : 1; /* free slots last */
    return x->at < y->at ? -1 : x->at > y->at;
}

static void count_words(Learner *x)
{
    x->n_slots = 65536;
    x->word = xcalloc(x->n_slots, sizeof *x->word);
    for (size_t i = 0, end; i < x->n; i = end) {
        end = word_end(x, i);
        Word *w = slot_of(x, i, end - i);
        if (!w->count++) {
            w->at = i;
            w->len = end - i;
            if (2 * ++x->n_words > x->n_slots) grow(x);
        }
    }
    qsort(x->word, x->n_slots, sizeof *x->word, by_place);
}

/* ------------------------------------------------------------ merges */

/* by: how often the word occurs, or minus that. */
static void count_pairs(Learner *x, const Word *w, int64_t by)
{
    for (int i = 0; i + 1 < w->n; i++)
        x->pairs[(size_t)w->id[i] * (size_t)x->most + (size_t)w->id[i + 1]] += by;
}

static void spell_words(Learner *x)
{
    for (size_t i = 0; i < x->n_words; i++) {
        Word *w = &x->word[i];
        w->n = (int)w->len;
        w->id = xcalloc(w->len, sizeof *w->id);
        for (size_t c = 0; c < w->len; c++) w->id[c] = FIRST_BYTE + (uint8_t)x->s[w->at + c];
        count_pairs(x, w, w->count);
    }
}

/* The most frequent pair; -1: no two tokens meet any more. */
static int64_t best_pair(const Learner *x)
{
    int64_t best = -1, count = 0;
    for (int a = FIRST_BYTE; a < x->n_vocab; a++) {
        const int64_t *row = x->pairs + (size_t)a * (size_t)x->most;
        for (int b = FIRST_BYTE; b < x->n_vocab; b++)
            if (row[b] > count) {
                count = row[b];
                best = (int64_t)a * x->most + b;
            }
    }
    return best;
}

static int has_pair(const Word *w, int a, int b)
{
    for (int i = 0; i + 1 < w->n; i++)
        if (w->id[i] == a && w->id[i + 1] == b) return 1;
    return 0;
}

/* Every a b becomes one token, leftmost first. */
static void merge_word(Learner *x, Word *w, int a, int b, int to)
{
    int n = 0;
    count_pairs(x, w, -w->count);
    for (int i = 0; i < w->n; n++) {
        int both = i + 1 < w->n && w->id[i] == a && w->id[i + 1] == b;
        w->id[n] = both ? to : w->id[i];
        i += both ? 2 : 1;
    }
    w->n = n;
    count_pairs(x, w, w->count);
}

/* On terminals; a step takes the longer the more tokens there are. */
static void progress(const Learner *x)
{
    if (!isatty(2) || (x->n_vocab % 16 && x->n_vocab < x->most)) return;
    fprintf(stderr, "\r%d / %d tokens \033[K", x->n_vocab, x->most);
    if (x->n_vocab == x->most) fputs("\r\033[K", stderr);
}

static void learn(Learner *x)
{
    for (; x->n_vocab < x->most; progress(x)) {
        int64_t best = best_pair(x);
        if (best < 0) return;
        int a = (int)(best / x->most), b = (int)(best % x->most), to = x->n_vocab++;
        x->left[to] = a;
        x->right[to] = b;
        bytes_add(&x->text[to], x->text[a].s, x->text[a].n);
        bytes_add(&x->text[to], x->text[b].s, x->text[b].n);
        for (size_t i = 0; i < x->n_words; i++)
            if (has_pair(&x->word[i], a, b)) merge_word(x, &x->word[i], a, b, to);
    }
}

/* ------------------------------------------------------------ the file */

/* The character that stands for a byte: itself if it can be seen in Latin-1, else the next one
 * from 256 on (bytes_to_unicode of GPT-2). */
static void name_bytes(Learner *x)
{
    int next = 256;
    bytes_add(&x->text[BOS], "<s>", 3);
    bytes_add(&x->text[EOS], "</s>", 4);
    for (int b = 0; b < 256; b++) {
        int seen = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xff && b != 0xad);
        int code = seen ? b : next++;
        char two[2] = {(char)(0xc0 | code >> 6), (char)(0x80 | (code & 63))}, one = (char)code;
        bytes_add(&x->text[FIRST_BYTE + b], code < 128 ? &one : two, code < 128 ? 1 : 2);
    }
    x->n_vocab = FIRST_MERGE;
}

static void put_vocab(const Learner *x, GgufOut *w)
{
    size_t n = (size_t)x->n_vocab, n_merges = n - FIRST_MERGE;
    Str *list = xcalloc(n, sizeof *list);
    Bytes *merge = xcalloc(n_merges + 1, sizeof *merge);
    int32_t *type = xcalloc(n, sizeof *type);
    for (size_t i = 0; i < n; i++) {
        list[i] = (Str){x->text[i].s, x->text[i].n};
        type[i] = i < FIRST_BYTE ? 3 : 1; /* control, normal */
    }
    gguf_out_str(w, "tokenizer.ggml.model", "gpt2");
    gguf_out_str(w, "tokenizer.ggml.pre", "gpt-2");
    gguf_out_strs(w, "tokenizer.ggml.tokens", list, n);
    gguf_out_ints(w, "tokenizer.ggml.token_type", type, n);
    for (size_t i = 0; i < n_merges; i++) {
        const Bytes *a = &x->text[x->left[FIRST_MERGE + i]];
        const Bytes *b = &x->text[x->right[FIRST_MERGE + i]];
        bytes_add(&merge[i], a->s, a->n);
        bytes_add(&merge[i], " ", 1);
        bytes_add(&merge[i], b->s, b->n);
        list[i] = (Str){merge[i].s, merge[i].n};
    }
    gguf_out_strs(w, "tokenizer.ggml.merges", list, n_merges);
    gguf_out_int(w, "tokenizer.ggml.bos_token_id", GGUF_U32, BOS);
    gguf_out_int(w, "tokenizer.ggml.eos_token_id", GGUF_U32, EOS);
    gguf_out_bool(w, "tokenizer.ggml.add_bos_token", 1);
    for (size_t i = 0; i < n_merges; i++) free(merge[i].s);
    free(merge);
    free(list);
    free(type);
}

static int vocab_write(const Learner *x, const char *path, Err *e)
{
    GgufOut w;
    if (gguf_out_open(&w, path, e)) return -1;
    gguf_out_str(&w, "general.architecture", "llama");
    gguf_out_str(&w, "general.name", "vocabulary of the ropescope demo");
    put_vocab(x, &w);
    if (gguf_out_close(&w, e) == 0) return 0;
    gguf_out_abandon(&w);
    return -1;
}

/* Tokens that the text becomes. */
static int64_t n_tokens(const Learner *x)
{
    int64_t n = 0;
    for (size_t i = 0; i < x->n_words; i++) n += x->word[i].count * x->word[i].n;
    return n;
}

static void learner_free(Learner *x)
{
    for (size_t i = 0; i < x->n_words; i++) free(x->word[i].id);
    for (int i = 0; i < MOST; i++) free(x->text[i].s);
    free(x->word);
    free(x->pairs);
}

static void learn_text(Learner *x, const Bytes *b, int n_vocab)
{
    x->s = b->s;
    x->n = b->n;
    x->most = n_vocab;
    x->pairs = xcalloc((size_t)n_vocab * (size_t)n_vocab, sizeof *x->pairs);
    name_bytes(x);
    count_words(x);
    spell_words(x);
    learn(x);
}

static const char usage[] =
    "Examples:\n"
    "  demo/bpe train.txt 2048 vocab.gguf\n\n"
    "bpe TEXT N VOCAB.gguf learns a vocabulary of N tokens from a text: <s>, "
    "</s>,\n256 bytes, and pairs of them that stand together often.\n";

/* N, a whole number that leaves room for the bytes; -1: it is none. */
static int vocab_size(const char *s, Err *e)
{
    char *end;
    long n = strtol(s, &end, 10);
    if (end > s && !*end && n >= FIRST_MERGE && n <= MOST) return (int)n;
    return err_usage(e, "expected from %d to %d tokens, found '%s'", FIRST_MERGE, MOST, s);
}

static int run(Learner *x, char **argv, Err *e)
{
    Bytes b = {0};
    int n = vocab_size(argv[2], e);
    if (n < 0 || bytes_read(&b, argv[1], e)) return -1;
    learn_text(x, &b, n);
    int rc = vocab_write(x, argv[3], e);
    if (rc == 0)
        printf("%d tokens; the text of %zu bytes becomes %lld\n", x->n_vocab, x->n,
               (long long)n_tokens(x));
    learner_free(x);
    free(b.s);
    return rc;
}

int main(int argc, char **argv)
{
    static Learner x;
    Err e = {.usage = 0};
    int asked = argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    if (argc != 4) {
        fputs(usage, asked ? stdout : stderr);
        return asked ? 0 : 2;
    }
    int rc = run(&x, argv, &e);
    if (rc) fprintf(stderr, "bpe: %s\n", e.msg);
    return rc ? e.usage ? 2 : 1 : 0;
}
