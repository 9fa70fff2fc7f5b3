/* ropescope: text to tokens and back.
 *
 * Two models, both as the GGUF file describes them:
 *   "llama"  SentencePiece BPE: characters, spaces written U+2581, merged by the score of the
 *            token that a merge makes; what has no token is spelt in bytes, <0x00> .. <0xFF>.
 *   "gpt2"   byte-level BPE: the text is first split into words (the pre-tokenizer), each word is
 *            bytes, merged by the rank of the pair in a list.
 * In both, the text is first cut at special tokens, and the best merge is made first, leftmost
 * among equals. Order of this file: classes of characters, pre-tokenizers, normalisation, merging,
 * encoding, decoding, loading, and the Unicode tables.
 *
 * Keys of our own (export.py writes them), for what GGUF cannot say:
 *   ropescope.tokenizer.normalizer       what becomes of the text between special tokens:
 *     nfc              composed characters (gpt2)
 *     sentencepiece    llama: one space before it, and none after late tokens
 *     metaspace        llama: a space before it unless it begins with one
 *     metaspace-first  llama: the same, but only at the beginning of the whole text
 *   ropescope.tokenizer.late             ids of special tokens that are looked for after that
 *   ropescope.tokenizer.lstrip, .rstrip  ids of those that swallow the white space beside them
 *   ropescope.tokenizer.whole_words      gpt2: a word that is a token is not merged
 *
 * A Tokenizer points into the GGUF mapping, which has to outlive it; it is read-only after
 * tok_new, so threads may share it.
 */
#include "model.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Attributes of a token: tokenizer.ggml.token_type, and flags: ends generation, has the same text
 * as an earlier token, swallows the white space before or after it, is looked for in the text only
 * after normalisation. */
enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };
enum { TYPE = 7, EOG = 8, AGAIN = 16, LSTRIP = 32, RSTRIP = 64, LATE = 128 };

/* What becomes of the text between special tokens; the default of llama: a space before it. */
typedef enum { PLAIN, NFC, SENTENCEPIECE, METASPACE, METASPACE_FIRST, N_NORMAL } Normal;

/* Class of a character, one bit: general categories Lu Lt, Ll, Lm Lo, M, N, P, and White_Space;
 * a byte that is not UTF-8 is a character of the class REST. */
enum { UPPER = 1, LOWER = 2, CASELESS = 4, MARK = 8, NUMBER = 16, PUNCT = 32, SPACE = 64 };
enum { REST = 128, LETTER = UPPER | LOWER | CASELESS };

/* A text and the class of each byte: that of the character which begins there, 0 within one. */
typedef struct {
    const char *s;
    const uint8_t *cls;
} Text;

/* One pass of a pre-tokenizer: the end of the piece that begins at i < end. Every pass splits the
 * pieces of the pass before; nothing is dropped. */
typedef struct {
    size_t (*scan)(const Text *x, size_t i, size_t end, int arg);
    int arg;
} Pass;

typedef struct {
    const char *names; /* the canonical one first */
    int flags;         /* PRE_... */
    Pass pass[4];
} Pre;

/* A word that is a token is not merged ("ignore_merges"); a BOS is added by default; there is no
 * default BOS. */
enum { PRE_WHOLE = 1, PRE_BOS = 2, PRE_NO_BOS = 4 };

typedef struct {
    uint32_t hash;
    int id; /* -1: free */
} VocabSlot;

typedef struct {
    int left, right; /* left -1: free */
    uint32_t rank;
    int id; /* what the pair becomes */
} PairSlot;

typedef struct {
    Str text;
    int id;
} Special;

/* The canonical decomposition of a code point; a singleton has no second. */
typedef struct {
    uint32_t code, first, second;
} Canonical;

enum { MAX_CANONICAL = 2100, CLASS_END = 0x1F000 }; /* no combining class from there on */

typedef struct {
    Canonical split[MAX_CANONICAL]; /* by code */
    Canonical join[MAX_CANONICAL];  /* by first, then second */
    int n_split, n_join;
    uint8_t class[CLASS_END]; /* canonical combining class of a code point */
} Unicode;

struct Tokenizer {
    const char *path;
    int spm;        /* "llama", else "gpt2" */
    const Pre *pre; /* gpt2 only */
    char pre_name[32];
    int n_vocab;
    Str *text;        /* [V] as written in the file */
    uint8_t *attr;    /* [V] type and flags */
    uint32_t *rank;   /* [V] llama only: a higher score is a lower rank */
    size_t max_len;   /* bytes of the longest text */
    VocabSlot *vocab; /* open addressing, keyed by text */
    size_t vocab_mask;
    PairSlot *pair; /* gpt2 only: the merges */
    size_t pair_mask;
    int byte_id[256];  /* token that stands for one byte; -1: none */
    int bytes_missing; /* gpt2: how many have none */
    int bos, eos, unk;
    int add_bos, add_eos, space_prefix;
    int whole; /* gpt2 only: a word that is a token is not merged */
    Normal normal;
    Unicode *unicode; /* NFC only */
    int words;        /* llama only: no token has a space after anything else */
    Special *special; /* sorted by text, then id: a trie without nodes */
    int n_special;
    int n_late;              /* 0: none of them is late */
    int special_from[257];   /* first special token whose text begins with byte >= i */
    uint8_t *cls;            /* gpt2 only: [0x110000] class of each code point */
    uint16_t byte_code[256]; /* gpt2 only: the code point that stands for a byte in texts */
    int16_t code_byte[324];  /* and back; -1: none */
};

/* ---------------------------------------------------------------- characters */

int utf8_len(const char *s, size_t n)
{
    const uint8_t *b = (const uint8_t *)s;
    if (b[0] < 0x80) return 1;
    if (b[0] < 0xC2 || b[0] > 0xF4) return -1;
    size_t len = b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : 4;
    int lo = b[0] == 0xE0 ? 0xA0 : b[0] == 0xF0 ? 0x90 : 0x80;
    int hi = b[0] == 0xED ? 0x9F : b[0] == 0xF4 ? 0x8F : 0xBF;
    if (n > 1 && (b[1] < lo || b[1] > hi)) return -1;
    for (size_t i = 2; i < len && i < n; i++)
        if ((b[i] & 0xC0) != 0x80) return -1;
    return n < len ? 0 : (int)len;
}

/* Code point of a whole sequence. */
static uint32_t utf8_code(const char *s, int len)
{
    const uint8_t *b = (const uint8_t *)s;
    uint32_t c = len == 1 ? b[0] : b[0] & (0x7Fu >> len);
    for (int i = 1; i < len; i++) c = c << 6 | (b[i] & 0x3F);
    return c;
}

/* Bytes of the character at s, a bad byte being one. */
static size_t char_len(const char *s, size_t n)
{
    int len = utf8_len(s, n);
    return len > 0 ? (size_t)len : 1;
}

static void classify(const Tokenizer *t, const char *s, size_t n, uint8_t *cls)
{
    for (size_t i = 0; i < n;) {
        int len = utf8_len(s + i, n - i);
        cls[i] = len > 0 ? t->cls[utf8_code(s + i, len)] : REST;
        for (i++; len > 1; len--) cls[i++] = 0;
    }
}

/* ---------------------------------------------------------------- pre-tokenizers */

/* End of the run of characters of the classes in mask; i itself if there is none. Begins at a
 * character, so the zeros it passes belong to characters of the run. */
static size_t run(const Text *x, size_t i, size_t end, int mask)
{
    while (i < end && (!x->cls[i] || (x->cls[i] & mask))) i++;
    return i;
}

static size_t step(const Text *x, size_t i, size_t end) /* one character */
{
    do i++;
    while (i < end && !x->cls[i]);
    return i;
}

static int is_newline(char c)
{
    return c == '\r' || c == '\n';
}

/* 's 't 're 've 'm 'll 'd; fold = 0x20: in any case, where U+017F (long s) is an s, too. i if there
 * is none. */
static size_t contraction(const Text *x, size_t i, size_t end, int fold)
{
    if (end - i < 2 || x->s[i] != '\'') return i;
    int a = x->s[i + 1] | fold, b = end - i > 2 ? x->s[i + 2] | fold : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    if (fold && end - i > 2 && !memcmp(x->s + i + 1, "\xC5\xBF", 2)) return i + 3;
    int two = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
    return two ? i + 3 : i;
}

/* Whitespace S*: with newlines, S*[\r\n]+ first; then S+(?!\S)|S+: a run before a word leaves its
 * last character to the word. */
static size_t whitespace(const Text *x, size_t i, size_t end, int newlines)
{
    size_t e = run(x, i, end, SPACE);
    for (size_t k = e; newlines && k > i; k--)
        if (is_newline(x->s[k - 1])) return k;
    if (e == end || step(x, i, end) == e) return e;
    do e--;
    while (!x->cls[e]);
    return e;
}

/* N{1,max}, or what lies before the next number. */
static size_t scan_number(const Text *x, size_t i, size_t end, int max)
{
    int number = x->cls[i] & NUMBER;
    for (int n = 0; i < end && (x->cls[i] & NUMBER) == number && (!number || n < max); n++)
        i = step(x, i, end);
    return i;
}

static int is_digits3(const Text *x, size_t i, size_t end)
{
    return end - i >= 3 && isdigit((uint8_t)x->s[i]) && isdigit((uint8_t)x->s[i + 1]) &&
           isdigit((uint8_t)x->s[i + 2]);
}

/* [0-9]{3}, or what lies before it. */
static size_t scan_digits3(const Text *x, size_t i, size_t end, int arg)
{
    (void)arg;
    if (is_digits3(x, i, end)) return i + 3;
    do i = step(x, i, end);
    while (i < end && !is_digits3(x, i, end));
    return i;
}

static int is_sign(const Text *x, size_t i, int backtick)
{
    char c = x->s[i];
    return (x->cls[i] & PUNCT) || (c && strchr("$+<=>^~|", c)) || (backtick && c == '`');
}

/* [P$+<=>^~|]+, with backtick also `; or what lies before it. */
static size_t scan_punct(const Text *x, size_t i, size_t end, int backtick)
{
    int sign = is_sign(x, i, backtick);
    do i = step(x, i, end);
    while (i < end && is_sign(x, i, backtick) == sign);
    return i;
}

/* contraction | ?L+ | ?N+ | ?[^S L N]+ | S+(?!\S) | S+, where ? is an optional space. */
static size_t scan_gpt2(const Text *x, size_t i, size_t end, int arg)
{
    (void)arg;
    size_t e = contraction(x, i, end, 0);
    if (e > i) return e;
    size_t k = i + (x->s[i] == ' ' && end - i > 1);
    int c = x->cls[k];
    if (c & SPACE) return whitespace(x, i, end, 0);
    return run(x, k, end, c & LETTER ? LETTER : c & NUMBER ? NUMBER : ~(SPACE | LETTER | NUMBER));
}

/* Arguments of scan_words: longest number, plus what is different from qwen2. */
enum { DIGITS = 3, CONTRACT = 4, CONTRACT_AFTER = 8, CASED = 16, SLASH = 32, MARKS = 64 };

/* [^\r\n L N]?W+, W = L or, with MARKS, L and M. i if there is none. */
static size_t word(const Text *x, size_t i, size_t end, int mask)
{
    size_t k = (x->cls[i] & (LETTER | NUMBER)) || is_newline(x->s[i]) ? i : step(x, i, end);
    if (k < end && (x->cls[k] & mask)) return run(x, k, end, mask);
    return run(x, i, end, mask);
}

/* U*W+ (need_lower) or U+W*, with U = Lu Lt Lm Lo M and W = Ll Lm Lo M, as a backtracking matcher
 * finds it: when nothing but W can end the word, U* gives back the last character that is in W
 * too. i if there is none. */
static size_t cased_letters(const Text *x, size_t i, size_t end, int need_lower)
{
    const int both = CASELESS | MARK;
    size_t u = run(x, i, end, UPPER | both), e = run(x, u, end, LOWER | both);
    if (!need_lower) return u > i ? e : i;
    if (e > u) return e;
    for (size_t k = u; k > i; k--)
        if (x->cls[k - 1] & both) return step(x, k - 1, end);
    return i;
}

/* [^\r\n L N]?U*W+ | [^\r\n L N]?U+W*: words split where the case falls and rises. */
static size_t cased_word(const Text *x, size_t i, size_t end)
{
    size_t k = (x->cls[i] & (LETTER | NUMBER)) || is_newline(x->s[i]) ? i : step(x, i, end);
    for (int need_lower = 1; need_lower >= 0; need_lower--) {
        size_t e = k < end ? cased_letters(x, k, end, need_lower) : k;
        if (e > k) return e;
        e = cased_letters(x, i, end, need_lower);
        if (e > i) return e;
    }
    return i;
}

/* contraction | word | N{1,digits} | ?[^S N W]+[\r\n]* | S*[\r\n]+ | S+(?!\S) | S+, with SLASH a
 * slash counting as a line end after signs. */
static size_t scan_words(const Text *x, size_t i, size_t end, int arg)
{
    int mask = arg & MARKS ? LETTER | MARK : LETTER;
    size_t e = arg & CONTRACT ? contraction(x, i, end, 0x20) : i;
    if (e > i) return e;
    e = arg & CASED ? cased_word(x, i, end) : word(x, i, end, mask);
    if (e > i) return arg & CONTRACT_AFTER ? contraction(x, e, end, 0x20) : e;
    if (x->cls[i] & NUMBER) return scan_number(x, i, end, arg & DIGITS);
    size_t k = i + (x->s[i] == ' ' && end - i > 1);
    if (x->cls[k] & (SPACE | NUMBER | mask)) return whitespace(x, i, end, 1);
    e = run(x, k, end, ~(SPACE | NUMBER | mask));
    while (e < end && (is_newline(x->s[e]) || ((arg & SLASH) && x->s[e] == '/'))) e++;
    return e;
}

/* Names and rules as in llama.cpp, except for tekken and gpt-4o: there llama.cpp approximates the
 * case classes by ASCII, this is the rule of the models' own files. */
static const Pre PRES[] = {
    {"default", 0, {{scan_punct, 0}, {scan_gpt2, 0}, {scan_number, INT_MAX}, {scan_digits3, 0}}},
    {"gpt-2 phi-2 olmo mpt jais roberta-bpe gigachat jina-es jina-de jina-v1-en jina-v2-es "
     "jina-v2-de jina-v2-code a.x-4.0 mellum modern-bert exaone4 trillion granite-docling",
     0,
     {{scan_gpt2, 0}}},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
     0,
     {{scan_number, 1}, {scan_gpt2, 0}}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     PRE_WHOLE | PRE_BOS,
     {{scan_words, 3 | CONTRACT}}},
    {"dbrx smaug-bpe", 0, {{scan_words, 3 | CONTRACT}}},
    {"chatglm-bpe", PRE_NO_BOS, {{scan_words, 3 | CONTRACT}}},
    {"glm4 glm5", PRE_WHOLE | PRE_NO_BOS, {{scan_words, 3 | CONTRACT}}},
    {"qwen2 stablelm2 deepseek-r1-qwen megrez kormo f2llmv2 hunyuan solar-open grok-2",
     0,
     {{scan_words, 1 | CONTRACT}}},
    {"qwen35", 0, {{scan_words, 1 | CONTRACT | MARKS}}},
    {"tekken", PRE_WHOLE | PRE_BOS, {{scan_words, 1 | CASED | SLASH}}},
    {"gpt-4o llama4 kanana2 talkie minimax-m2",
     0,
     {{scan_words, 3 | CASED | SLASH | CONTRACT_AFTER}}},
    {"falcon", 0, {{scan_punct, 1}, {scan_gpt2, 0}, {scan_digits3, 0}}},
};
enum { N_PRES = sizeof PRES / sizeof *PRES };

/* ---------------------------------------------------------------- normalisation */

#define BAD_BYTE 0x80000000u /* among code points: a byte that is not UTF-8 */

typedef struct {
    uint32_t *c;
    size_t n, cap;
} Codes;

static void codes_add(Codes *x, uint32_t c)
{
    if (x->n == x->cap) {
        x->cap = x->cap ? x->cap * 2 : 256;
        x->c = xrealloc(x->c, x->cap, sizeof *x->c);
    }
    x->c[x->n++] = c;
}

static int class_of(const Unicode *u, uint32_t c)
{
    return c < CLASS_END ? u->class[c] : 0;
}

static int split_cmp(const void *key, const void *entry)
{
    uint32_t a = *(const uint32_t *)key, b = ((const Canonical *)entry)->code;
    return a < b ? -1 : a > b;
}

static int join_cmp(const void *a, const void *b)
{
    const Canonical *x = a, *y = b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->second < y->second ? -1 : x->second > y->second;
}

/* Hangul syllables: S = 0xAC00 + (l * 21 + v) * 28 + t of the letters 0x1100 + l, 0x1161 + v and,
 * if t > 0, 0x11A7 + t (The Unicode Standard, 3.12). */
enum { HANGUL = 0xAC00, HANGUL_L = 0x1100, HANGUL_V = 0x1161, HANGUL_T = 0x11A7 };
enum { N_LEADS = 19, N_VOWELS = 21, N_TAILS = 28, N_HANGUL = N_LEADS * N_VOWELS * N_TAILS };

/* Appends the full canonical decomposition of c. */
static void decompose(const Unicode *u, uint32_t c, Codes *out)
{
    if (c - HANGUL < N_HANGUL) {
        uint32_t s = c - HANGUL, tail = s % N_TAILS;
        codes_add(out, HANGUL_L + s / (N_VOWELS * N_TAILS));
        codes_add(out, HANGUL_V + s / N_TAILS % N_VOWELS);
        if (tail) codes_add(out, HANGUL_T + tail);
        return;
    }
    const Canonical *p = bsearch(&c, u->split, (size_t)u->n_split, sizeof *p, split_cmp);
    if (!p) {
        codes_add(out, c);
        return;
    }
    decompose(u, p->first, out); /* a table of Unicode: three levels at most */
    if (p->second) decompose(u, p->second, out);
}

/* The character that a and b make together; 0 if none. */
static uint32_t composed(const Unicode *u, uint32_t a, uint32_t b)
{
    if (a - HANGUL_L < N_LEADS && b - HANGUL_V < N_VOWELS)
        return HANGUL + ((a - HANGUL_L) * N_VOWELS + b - HANGUL_V) * N_TAILS;
    if (a - HANGUL < N_HANGUL && (a - HANGUL) % N_TAILS == 0 && b - HANGUL_T - 1 < N_TAILS - 1)
        return a + b - HANGUL_T;
    Canonical key = {0, a, b};
    const Canonical *p = bsearch(&key, u->join, (size_t)u->n_join, sizeof *p, join_cmp);
    return p ? p->code : 0;
}

/* Runs of marks in the order of their classes, equal ones as they were: by counting, so that no
 * text takes quadratic time. */
static void order_marks(const Unicode *u, Codes *x)
{
    uint32_t *copy = xcalloc(x->n, sizeof *copy);
    for (size_t i = 0, end; i < x->n; i = end + (end == i)) {
        size_t at[257] = {0};
        for (end = i; end < x->n && class_of(u, x->c[end]);) end++;
        if (end - i < 2) continue;
        for (size_t k = i; k < end; k++) at[class_of(u, x->c[k]) + 1]++;
        for (int k = 1; k < 257; k++) at[k] += at[k - 1];
        for (size_t k = i; k < end; k++) copy[at[class_of(u, x->c[k])]++] = x->c[k];
        memcpy(x->c + i, copy, (end - i) * sizeof *copy);
    }
    free(copy);
}

/* Joins each mark (or Hangul letter) to the last starter, unless a character between them has the
 * same class or none: D117 of the Unicode Standard. */
static void compose(const Unicode *u, Codes *x)
{
    size_t n = 0, starter = SIZE_MAX;
    int last = -1; /* class of the character before, -1: it is the starter */
    for (size_t i = 0; i < x->n; i++) {
        int class = class_of(u, x->c[i]);
        uint32_t c = starter != SIZE_MAX && last < class ? composed(u, x->c[starter], x->c[i]) : 0;
        if (c) {
            x->c[starter] = c;
            continue;
        }
        if (!class) starter = n;
        last = class ? class : -1;
        x->c[n++] = x->c[i];
    }
    x->n = n;
}

static void add_utf8(uint32_t c, Bytes *out)
{
    char s[4];
    int len = c < 0x80 || c & BAD_BYTE ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--, c >>= 6) s[i] = (char)(0x80 | (c & 0x3F));
    s[0] = (char)(len == 1 ? c & 0xFF : (0xF00u >> len & 0xFF) | c);
    bytes_add(out, s, (size_t)len);
}

/* Normalization Form C of the n bytes at s into out: decomposed, marks in order, composed. Bytes
 * that are not UTF-8 stay. 0 if the text is all below U+0300, where every text is in that form. */
static int normalize(const Unicode *u, const char *s, size_t n, Bytes *out)
{
    Codes x = {0};
    size_t i = 0;
    out->n = 0;
    while (i < n && (uint8_t)s[i] < 0xCC) i++;
    if (i == n) return 0;
    for (i = 0; i < n;) {
        int len = utf8_len(s + i, n - i);
        decompose(u, len > 0 ? utf8_code(s + i, len) : BAD_BYTE | (uint8_t)s[i], &x);
        i += len > 0 ? (size_t)len : 1;
    }
    order_marks(u, &x);
    compose(u, &x);
    for (i = 0; i < x.n; i++) add_utf8(x.c[i], out);
    free(x.c);
    return 1;
}

/* Bytes of the White_Space character that the n bytes at s begin with; 0 if there is none. */
static size_t white_len(const char *s, size_t n)
{
    int len = n ? utf8_len(s, n) : 0;
    uint32_t c = len > 0 ? utf8_code(s, len) : 0;
    int white = (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
                (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
                c == 0x205F || c == 0x3000;
    return white ? (size_t)len : 0;
}

/* ---------------------------------------------------------------- vocabulary */

#define FNV_SEED 0xcbf29ce484222325u

/* FNV-1a, continued over the parts of a text. */
static uint64_t fnv(uint64_t h, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    return h;
}

static uint32_t fold(uint64_t h)
{
    return (uint32_t)(h ^ h >> 32);
}

static int is_joined(Str x, Str a, Str b)
{
    return x.n == a.n + b.n && !memcmp(x.s, a.s, a.n) && !memcmp(x.s + a.n, b.s, b.n);
}

/* The token whose text is a followed by b; -1 if there is none. Of equal texts the first. */
static int find2(const Tokenizer *t, Str a, Str b)
{
    if (a.n + b.n > t->max_len) return -1;
    uint32_t h = fold(fnv(fnv(FNV_SEED, a.s, a.n), b.s, b.n));
    for (size_t i = h & t->vocab_mask; t->vocab[i].id >= 0; i = (i + 1) & t->vocab_mask) {
        if (t->vocab[i].hash == h && is_joined(t->text[t->vocab[i].id], a, b))
            return t->vocab[i].id;
    }
    return -1;
}

static int type_of(const Tokenizer *t, int id)
{
    return t->attr[id] & TYPE;
}

/* Control, unknown and byte tokens are never made from text by merging. */
static int is_piece(const Tokenizer *t, int id)
{
    int type = type_of(t, id);
    return type == NORMAL || type == USER || type == UNUSED || (type == BYTE && !t->spm);
}

/* The token made of the n bytes at s, or -1. */
static int find_piece(const Tokenizer *t, const char *s, size_t n)
{
    int id = find2(t, (Str){s, n}, (Str){s + n, 0});
    return id >= 0 && is_piece(t, id) ? id : -1;
}

/* Slot of the merge of two tokens, or the free slot for it. */
static size_t pair_at(const Tokenizer *t, int left, int right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    size_t i = (size_t)(h >> 32) & t->pair_mask;
    while (t->pair[i].left >= 0 && (t->pair[i].left != left || t->pair[i].right != right))
        i = (i + 1) & t->pair_mask;
    return i;
}

/* ---------------------------------------------------------------- merging */

/* Symbol at byte i of a piece: n bytes (0: swallowed), the symbol before, and its token or -1.
 * The symbol after is at i + n. */
typedef struct {
    int n, prev, id;
} Sym;

/* A merge worth making: the symbol at the low half of key with the next one, n bytes together,
 * into token id. The smallest key first: the best rank, then the leftmost. */
typedef struct {
    uint64_t key;
    int n, id;
} Cand;

typedef struct {
    const Tokenizer *t;
    Tokens *out;
    Err *e;
    int control;       /* are control tokens recognised? */
    const char *start; /* of the whole text */
    Bytes normal;      /* the normalised text between two tokens that are not late */
    Bytes buf;         /* llama: the fragment with U+2581; gpt2: a word in the file's spelling */
    Bytes cls;         /* gpt2: classes of the fragment */
    const char *s;     /* the piece being merged, n bytes */
    size_t n, cap;
    Sym *sym;   /* [cap] */
    Cand *heap; /* [2 cap] */
    size_t n_heap;
} Encoder;

static void heap_push(Encoder *w, Cand c)
{
    size_t i = w->n_heap++;
    for (; i && w->heap[(i - 1) / 2].key > c.key; i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = c;
}

static Cand heap_pop(Encoder *w)
{
    Cand top = w->heap[0], last = w->heap[--w->n_heap];
    size_t i = 0, k;
    while ((k = 2 * i + 1) < w->n_heap) {
        k += k + 1 < w->n_heap && w->heap[k + 1].key < w->heap[k].key;
        if (w->heap[k].key >= last.key) break;
        w->heap[i] = w->heap[k];
        i = k;
    }
    w->heap[i] = last;
    return top;
}

/* If the symbol at l and the one after it make a token, proposes it. */
static void propose(Encoder *w, int l)
{
    const Tokenizer *t = w->t;
    size_t r = (size_t)l + (size_t)w->sym[l].n;
    if (r >= w->n) return;
    int n = w->sym[l].n + w->sym[r].n, id;
    uint32_t rank;
    if (t->spm) {
        id = find_piece(t, w->s + l, (size_t)n);
        rank = id < 0 ? 0 : t->rank[id];
    } else {
        if (w->sym[l].id < 0 || w->sym[r].id < 0) return;
        const PairSlot *p = &t->pair[pair_at(t, w->sym[l].id, w->sym[r].id)];
        id = p->left < 0 ? -1 : p->id;
        rank = p->rank;
    }
    if (id >= 0) heap_push(w, (Cand){(uint64_t)rank << 32 | (uint32_t)l, n, id});
}

/* Merges the symbols of the piece until no pair is a token: O(n log n). A candidate is out of
 * date unless both its symbols still are what they were: the left one is alive, and it and the
 * next have n bytes (had either grown, so would the sum). */
static void merge(Encoder *w)
{
    for (size_t l = 0; l < w->n; l += (size_t)w->sym[l].n) propose(w, (int)l);
    while (w->n_heap) {
        Cand c = heap_pop(w);
        int l = (int)(uint32_t)c.key;
        Sym *a = &w->sym[l];
        size_t r = (size_t)l + (size_t)a->n;
        if (!a->n || r >= w->n || a->n + w->sym[r].n != c.n) continue;
        w->sym[r].n = 0;
        a->n = c.n;
        a->id = c.id;
        r = (size_t)l + (size_t)a->n;
        if (r < w->n) w->sym[r].prev = l;
        if (a->prev >= 0) propose(w, a->prev);
        propose(w, l);
    }
}

/* A piece of llama without a token: it is spelt in bytes, or unknown (or fails if neither can
 * be). */
static int spell(Encoder *w, const char *s, size_t n)
{
    const Tokenizer *t = w->t;
    size_t ok = 0;
    while (ok < n && t->byte_id[(uint8_t)s[ok]] >= 0) ok++;
    for (size_t i = 0; ok == n && i < n; i++) tokens_add(w->out, t->byte_id[(uint8_t)s[i]]);
    if (ok == n) return 0;
    if (t->unk < 0)
        return err_set(w->e,
                       "%s: the vocabulary has no token for byte 0x%02X of the text, and no "
                       "unknown token",
                       t->path, (uint8_t)s[ok]);
    tokens_add(w->out, t->unk);
    return 0;
}

/* ---------------------------------------------------------------- encoding */

/* Room for a piece of n bytes: a merge takes one candidate away and adds two at most. */
static void reserve(Encoder *w, size_t n)
{
    if (n <= w->cap) return;
    w->cap = n * 2;
    w->sym = xrealloc(w->sym, w->cap, sizeof *w->sym);
    w->heap = xrealloc(w->heap, w->cap, 2 * sizeof *w->heap);
}

/* One piece of text, n >= 1 bytes, in which merges are free: into tokens. */
static int encode_piece(Encoder *w, const char *s, size_t n)
{
    const Tokenizer *t = w->t;
    int prev = -1;
    reserve(w, n);
    w->s = s;
    w->n = n;
    for (size_t i = 0; i < n;) {
        size_t len = t->spm ? char_len(s + i, n - i) : 1;
        int id = t->spm ? find_piece(t, s + i, len) : t->byte_id[(uint8_t)s[i]];
        w->sym[i] = (Sym){(int)len, prev, id};
        prev = (int)i;
        i += len;
    }
    merge(w);
    for (size_t i = 0; i < n; i += (size_t)w->sym[i].n) {
        if (w->sym[i].id >= 0)
            tokens_add(w->out, w->sym[i].id);
        else if (spell(w, s + i, (size_t)w->sym[i].n))
            return -1;
    }
    return 0;
}

#define SPACE_MARK "\xE2\x96\x81" /* U+2581, a space in the texts of "llama" */

static int is_space_mark(const char *s, size_t n)
{
    return n >= 3 && !memcmp(s, SPACE_MARK, 3);
}

/* Does this text between special tokens get a space before it? Of sentencepiece it has it. */
static int wants_space(const Encoder *w, const char *s, size_t n)
{
    const Tokenizer *t = w->t;
    if (!t->space_prefix || t->normal == SENTENCEPIECE) return 0;
    if (t->normal == METASPACE_FIRST && s != w->start) return 0;
    return t->normal == PLAIN || !(s[0] == ' ' || is_space_mark(s, n));
}

/* Where no token spans the beginning of a word, words are merged one by one: the same tokens from
 * a heap that stays small (1.1 MB of English with Llama 2: 0.1 s instead of 1.0). */
static int encode_spm(Encoder *w, const char *s, size_t n)
{
    Bytes *b = &w->buf;
    b->n = 0;
    if (wants_space(w, s, n)) bytes_add(b, SPACE_MARK, 3);
    for (size_t i = 0, k; i < n; i = k) {
        for (k = i; k < n && s[k] != ' ';) k++;
        if (k > i) bytes_add(b, s + i, k - i);
        if (k < n) bytes_add(b, SPACE_MARK, 3), k++;
    }
    size_t from = 0;
    for (size_t i = 1; w->t->words && i < b->n; i++) {
        if (!is_space_mark(b->s + i, b->n - i)) continue;
        if (i >= 3 && is_space_mark(b->s + i - 3, 3)) continue;
        if (encode_piece(w, b->s + from, i - from)) return -1;
        from = i;
    }
    return encode_piece(w, b->s + from, b->n - from);
}

/* A byte as the texts of "gpt2" write it: as a code point of two bytes or one. */
static void add_byte_code(const Tokenizer *t, uint8_t byte, Bytes *b)
{
    uint16_t c = t->byte_code[byte];
    char two[2] = {(char)(0xC0 | c >> 6), (char)(0x80 | (c & 0x3F))}, one = (char)c;
    if (c < 0x80)
        bytes_add(b, &one, 1);
    else
        bytes_add(b, two, 2);
}

/* The word without the bytes that have no token: Hugging Face leaves these out before it merges
 * (llama.cpp after, so what is beside them does not merge). */
static size_t leave_out(Encoder *w, const char *s, size_t n)
{
    w->buf.n = 0;
    for (size_t i = 0; i < n; i++)
        if (w->t->byte_id[(uint8_t)s[i]] >= 0) bytes_add(&w->buf, s + i, 1);
    w->out->left_out += n - w->buf.n;
    return w->buf.n;
}

static int encode_word(Encoder *w, const char *s, size_t n)
{
    if (w->t->whole && n <= w->t->max_len) {
        w->buf.n = 0;
        for (size_t i = 0; i < n; i++) add_byte_code(w->t, (uint8_t)s[i], &w->buf);
        int id = find_piece(w->t, w->buf.s, w->buf.n);
        if (id >= 0) {
            tokens_add(w->out, id);
            return 0;
        }
    }
    if (w->t->bytes_missing) n = leave_out(w, s, n), s = w->buf.s;
    return n ? encode_piece(w, s, n) : 0;
}

/* Splits [i, end) by pass number p and those after it, and encodes the words. */
static int split(Encoder *w, const Text *x, int p, size_t i, size_t end)
{
    const Pass *pass = &w->t->pre->pass[p];
    while (i < end) {
        size_t e = pass->scan(x, i, end, pass->arg);
        MUST(e > i && e <= end);
        int more = p < 3 && pass[1].scan;
        if (more ? split(w, x, p + 1, i, e) : encode_word(w, x->s + i, e - i)) return -1;
        i = e;
    }
    return 0;
}

/* Text between two special tokens. */
static int encode_fragment(Encoder *w, const char *s, size_t n)
{
    if (!n) return 0;
    if (w->t->spm) return encode_spm(w, s, n);
    if (w->cls.cap < n) {
        w->cls.cap = n;
        w->cls.s = xrealloc(w->cls.s, n, 1);
    }
    classify(w->t, s, n, (uint8_t *)w->cls.s);
    Text x = {s, (uint8_t *)w->cls.s};
    return split(w, &x, 0, 0, n);
}

/* First special token from lo to hi whose byte d is >= c. */
static int special_bound(const Tokenizer *t, int lo, int hi, size_t d, int c)
{
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if ((uint8_t)t->special[mid].text.s[d] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest special token, late or not, that the n >= 1 bytes at s begin with, and its length;
 * -1 if none. Special tokens [lo, hi) share their first d bytes with s. */
static int special_at(const Encoder *w, const char *s, size_t n, int late, size_t *len)
{
    const Tokenizer *t = w->t;
    int lo = t->special_from[(uint8_t)s[0]], hi = t->special_from[(uint8_t)s[0] + 1], best = -1;
    for (size_t d = 1; lo < hi; d++) {
        for (; lo < hi && t->special[lo].text.n == d; lo++) {
            int id = t->special[lo].id;
            if (best >= 0 && *len == d) continue; /* the same text again: the first wins */
            if ((t->attr[id] & LATE) != late || (type_of(t, id) != USER && !w->control)) continue;
            best = id;
            *len = d;
        }
        if (d == n) break;
        lo = special_bound(t, lo, hi, d, (uint8_t)s[d]);
        hi = special_bound(t, lo, hi, d, (uint8_t)s[d] + 1);
    }
    return best;
}

/* Where the white space before byte i begins, not before `from`. */
static size_t strip_left(const char *s, size_t from, size_t i)
{
    for (size_t k = i; k-- > from && i - k <= 3;)
        if (white_len(s + k, i - k) == i - k) i = k;
    return i;
}

static int cut(Encoder *w, const char *s, size_t n, int late);

/* The spaces of sentencepiece: one before the text; U+2581 is a space, too. */
static void add_spaced(const Tokenizer *t, const char *s, size_t n, Bytes *out)
{
    out->n = 0;
    if (t->space_prefix) bytes_add(out, " ", 1);
    for (size_t i = 0, k; i < n; i = k) {
        for (k = i; k < n && !is_space_mark(s + k, n - k);) k++;
        bytes_add(out, s + i, k - i);
        if (k < n) bytes_add(out, " ", 1), k += 3;
    }
}

/* Text between two special tokens that are not late. */
static int encode_between(Encoder *w, const char *s, size_t n)
{
    const Tokenizer *t = w->t;
    int changed = 0;
    if (!n) return 0;
    if (t->normal == NFC) changed = normalize(t->unicode, s, n, &w->normal);
    if (t->normal == SENTENCEPIECE) {
        add_spaced(t, s, n, &w->normal);
        changed = 1;
    }
    if (changed) s = w->normal.s, n = w->normal.n;
    return t->n_late ? cut(w, s, n, LATE) : encode_fragment(w, s, n);
}

/* Cuts the text at special tokens, late or not, leftmost then longest (as Hugging Face; llama.cpp
 * prefers a longer one that begins within a shorter), and encodes what lies between. White space
 * that a token has swallowed may still be part of the next one. */
static int cut(Encoder *w, const char *s, size_t n, int late)
{
    int (*between)(Encoder *, const char *, size_t) = late ? encode_fragment : encode_between;
    size_t from = 0, len = 0;
    for (size_t i = 0; i < n;) {
        int id = special_at(w, s + i, n - i, late, &len);
        if (id < 0) {
            i++;
            continue;
        }
        size_t end = w->t->attr[id] & LSTRIP ? strip_left(s, from, i) : i;
        if (end > from && between(w, s + from, end - from)) return -1;
        tokens_add(w->out, id);
        from = i += len;
        while ((w->t->attr[id] & RSTRIP) && white_len(s + from, n - from))
            from += white_len(s + from, n - from);
    }
    return from < n ? between(w, s + from, n - from) : 0;
}

void tokens_add(Tokens *t, int id)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 64;
        t->id = xrealloc(t->id, t->cap, sizeof *t->id);
    }
    t->id[t->n++] = id;
}

int tok_encode(const Tokenizer *t, const char *text, size_t n, int special, Tokens *out, Err *e)
{
    if (n > INT_MAX / 8)
        return err_set(e, "a text of %zu bytes is too long to encode at once: at most %d", n,
                       INT_MAX / 8);
    Encoder w = {.t = t, .out = out, .e = e, .control = special, .start = text};
    size_t before = out->n;
    int bad = cut(&w, text, n, 0);
    if (bad) out->n = before;
    free(w.normal.s);
    free(w.buf.s);
    free(w.cls.s);
    free(w.sym);
    free(w.heap);
    return bad;
}

/* ---------------------------------------------------------------- decoding */

/* Value of <0xHH>; -1 if s is not written so. Pitfall: strtol would take "<0x-1>". */
static int byte_text(Str s)
{
    if (s.n != 6 || memcmp(s.s, "<0x", 3) || s.s[5] != '>') return -1;
    if (!isxdigit((uint8_t)s.s[3]) || !isxdigit((uint8_t)s.s[4])) return -1;
    char hex[3] = {s.s[3], s.s[4], 0};
    return (int)strtol(hex, NULL, 16);
}

/* llama: U+2581 is a space. gpt2: code points that stand for bytes; others for themselves. */
static void add_unspelt(const Tokenizer *t, Str x, Bytes *out)
{
    for (size_t i = 0, len; i < x.n; i += len) {
        const char *s = x.s + i;
        len = char_len(s, x.n - i);
        uint32_t c = len <= 2 && utf8_len(s, x.n - i) > 0 ? utf8_code(s, (int)len) : UINT32_MAX;
        char byte = ' ';
        int one = t->spm ? is_space_mark(s, len) : c < 324 && t->code_byte[c] >= 0;
        if (one && !t->spm) byte = (char)t->code_byte[c];
        bytes_add(out, one ? &byte : s, one ? 1 : len);
    }
}

void tok_bytes(const Tokenizer *t, int id, Bytes *out)
{
    MUST(id >= 0 && id < t->n_vocab);
    Str x = t->text[id];
    int type = type_of(t, id);
    char byte;
    if (type == UNKNOWN || type == CONTROL || type == USER) {
        bytes_add(out, x.s, x.n);
    } else if (type == BYTE && t->spm) {
        byte = (char)byte_text(x);
        bytes_add(out, &byte, 1);
    } else {
        add_unspelt(t, x, out);
    }
}

/* Replaces n bytes of out at i by U+FFFD. */
static void replace_bad(Bytes *out, size_t i, size_t n)
{
    bytes_add(out, "\0\0", 2); /* room, for n may be 1 */
    memmove(out->s + i + 3, out->s + i + n, out->n - 2 - i - n);
    memcpy(out->s + i, "\xEF\xBF\xBD", 3);
    out->n += 1 - n;
    out->s[out->n] = 0;
}

/* Makes valid UTF-8 of the bytes of out from i on; an unfinished sequence goes to d->held. What
 * can never be valid is replaced by maximal parts, as the Unicode Standard recommends (3.9). */
static void settle(Decoder *d, Bytes *out, size_t i)
{
    while (i < out->n) {
        int len = utf8_len(out->s + i, out->n - i);
        size_t bad = 1;
        if (len == 0) {
            d->n_held = (int)(out->n - i);
            memcpy(d->held, out->s + i, out->n - i);
            out->n = i;
            out->s[i] = 0;
        } else if (len < 0) {
            while (utf8_len(out->s + i, bad + 1) == 0) bad++;
            replace_bad(out, i, bad);
            i += 3;
        } else {
            i += (size_t)len;
        }
    }
}

void tok_decode(Decoder *d, int id, Bytes *out)
{
    if (tok_is_special(d->t, id) && !d->special) return;
    size_t from = out->n, first = from + (size_t)d->n_held;
    bytes_add(out, d->held, (size_t)d->n_held);
    d->n_held = 0;
    tok_bytes(d->t, id, out);
    int text = !tok_is_special(d->t, id);
    if (!d->n_seen++ && text && d->t->spm && d->t->space_prefix && type_of(d->t, id) == NORMAL &&
        out->n > first && out->s[first] == ' ') {
        memmove(out->s + first, out->s + first + 1, out->n - first);
        out->n--;
    }
    settle(d, out, from);
}

void tok_decode_end(Decoder *d, Bytes *out)
{
    if (d->n_held) bytes_add(out, "\xEF\xBF\xBD", 3);
    d->n_held = 0;
}

/* ---------------------------------------------------------------- questions */

int tok_n_vocab(const Tokenizer *t)
{
    return t->n_vocab;
}

int tok_bos(const Tokenizer *t)
{
    return t->bos;
}

int tok_eos(const Tokenizer *t)
{
    return t->eos;
}

int tok_add_bos(const Tokenizer *t)
{
    return t->add_bos && t->bos >= 0;
}

int tok_add_eos(const Tokenizer *t)
{
    return t->add_eos && t->eos >= 0;
}

int tok_is_eog(const Tokenizer *t, int id)
{
    MUST(id >= 0 && id < t->n_vocab);
    return (t->attr[id] & EOG) != 0;
}

int tok_is_special(const Tokenizer *t, int id)
{
    MUST(id >= 0 && id < t->n_vocab);
    return type_of(t, id) == CONTROL || type_of(t, id) == UNKNOWN;
}

const char *tok_model(const Tokenizer *t)
{
    return t->spm ? "llama" : "gpt2";
}

const char *tok_pre(const Tokenizer *t)
{
    return t->pre_name;
}

Str tok_text(const Tokenizer *t, int id)
{
    MUST(id >= 0 && id < t->n_vocab);
    return t->text[id];
}

/* ---------------------------------------------------------------- loading */

static void fill_classes(uint8_t *cls);
static void fill_unicode(Unicode *u);

/* A text of the file for a message: at most 40 bytes, control characters as '?'. */
static const char *show(Str s, char buf[44])
{
    size_t n = s.n < 40 ? s.n : 40;
    for (size_t i = 0; i < n; i++) buf[i] = iscntrl((uint8_t)s.s[i]) ? '?' : s.s[i];
    strcpy(buf + n, s.n > n ? "..." : "");
    return buf;
}

static int has_name(const char *names, Str name)
{
    for (const char *p = names; *p; p += strspn(p, " ")) {
        size_t n = strcspn(p, " ");
        if (n == name.n && !memcmp(p, name.s, n)) return 1;
        p += n;
    }
    return 0;
}

/* The pre-tokenizer: by option, else as the file says, else "default". */
static int load_pre(Tokenizer *t, const Gguf *g, const char *option, Err *e)
{
    char list[256] = "", buf[44];
    Str name = {"default", 7};
    if (!option && gguf_str(g, "tokenizer.ggml.pre", &name, e) < 0) return -1;
    if (option) name = (Str){option, strlen(option)};
    for (int i = 0; i < N_PRES; i++) {
        if (has_name(PRES[i].names, name)) {
            t->pre = &PRES[i];
            memcpy(t->pre_name, name.s, name.n); /* as long as a name of the table, zeroed */
            return 0;
        }
        strncat(list, " ", sizeof list - strlen(list) - 1);
        strncat(list, PRES[i].names, strcspn(PRES[i].names, " "));
    }
    return err_set(e, "%s: %s: no pre-tokenizer is called '%s'; there are:%s (and their aliases)%s",
                   g->path, option ? "--pre" : "tokenizer.ggml.pre", show(name, buf), list,
                   option ? "" : "; choose one with --pre NAME");
}

static int load_model(Tokenizer *t, const Gguf *g, const char *pre, Err *e)
{
    Str model;
    char buf[44];
    int found = gguf_str(g, "tokenizer.ggml.model", &model, e);
    if (found < 0) return -1;
    if (!found) return err_set(e, "%s: the file has no tokenizer (tokenizer.ggml.model)", g->path);
    t->path = g->path;
    t->spm = str_is(model, "llama");
    if (!t->spm && !str_is(model, "gpt2"))
        return err_set(e, "%s: tokenizer.ggml.model: expected llama or gpt2, found '%s'", g->path,
                       show(model, buf));
    if (t->spm && pre)
        return err_set(e, "%s: --pre: a tokenizer of the model llama has no pre-tokenizer",
                       g->path);
    return t->spm ? 0 : load_pre(t, g, pre, e);
}

/* Every array has one value for each token. */
static int check_length(const Gguf *g, const char *key, size_t n, size_t n_vocab, Err *e)
{
    if (n == n_vocab) return 0;
    return err_set(e, "%s: %s: expected %zu values, as many as tokenizer.ggml.tokens, found %zu",
                   g->path, key, n_vocab, n);
}

/* Puts token id into the hash table, unless it has no text or an earlier one has the same. */
static void index_text(Tokenizer *t, int id)
{
    Str x = t->text[id];
    if (x.n > t->max_len) t->max_len = x.n;
    if (!x.n || find2(t, x, (Str){x.s, 0}) >= 0) {
        t->attr[id] |= AGAIN;
        return;
    }
    uint32_t h = fold(fnv(FNV_SEED, x.s, x.n));
    size_t i = h & t->vocab_mask;
    while (t->vocab[i].id >= 0) i = (i + 1) & t->vocab_mask;
    t->vocab[i] = (VocabSlot){h, id};
}

static int load_tokens(Tokenizer *t, const Gguf *g, Err *e)
{
    size_t n = 0, slots = 64;
    int found = gguf_strs(g, "tokenizer.ggml.tokens", &t->text, &n, e);
    if (found < 0) return -1;
    if (!found || n < 1 || n > INT_MAX / 4)
        return err_set(e, "%s: tokenizer.ggml.tokens: expected from 1 to %d tokens, found %zu",
                       g->path, INT_MAX / 4, n);
    while (slots * 2 < n * 3) slots *= 2;
    t->n_vocab = (int)n;
    t->attr = xcalloc(n, 1);
    t->vocab_mask = slots - 1;
    t->vocab = xcalloc(slots, sizeof *t->vocab);
    memset(t->vocab, 0xFF, slots * sizeof *t->vocab);
    for (int id = 0; id < t->n_vocab; id++) index_text(t, id);
    return 0;
}

/* Without tokenizer.ggml.token_type every token is normal, and <0xHH> a byte. */
static int load_types(Tokenizer *t, const Gguf *g, Err *e)
{
    static const char key[] = "tokenizer.ggml.token_type";
    int *type = NULL, bad = 0;
    char buf[44];
    size_t n = 0;
    int found = gguf_ints(g, key, &type, &n, e);
    if (found < 0 || (found && check_length(g, key, n, (size_t)t->n_vocab, e))) {
        free(type);
        return -1;
    }
    for (int id = 0; id < t->n_vocab && !bad; id++) {
        int byte = byte_text(t->text[id]);
        int v = found ? type[id] : byte >= 0 ? BYTE : NORMAL;
        t->attr[id] |= (uint8_t)(v >= NORMAL && v <= BYTE ? v : NORMAL);
        if (t->spm && v == BYTE && byte < 0)
            bad = err_set(e, "%s: token %d is of the type byte: expected <0xHH>, found '%s'",
                          g->path, id, show(t->text[id], buf));
    }
    free(type);
    return bad;
}

/* The order of floats as the order of integers: rank = ~bits, signs considered. Higher scores
 * have lower ranks. */
static uint32_t rank_of(float score)
{
    uint32_t u;
    score += 0.0f; /* -0 is 0 */
    memcpy(&u, &score, sizeof u);
    return u & 0x80000000u ? u : ~(u | 0x80000000u);
}

static int load_scores(Tokenizer *t, const Gguf *g, Err *e)
{
    static const char key[] = "tokenizer.ggml.scores";
    float *score = NULL;
    size_t n = 0;
    int found = gguf_floats(g, key, &score, &n, e);
    int bad = found < 0 || check_length(g, key, n, (size_t)t->n_vocab, e);
    t->rank = xcalloc((size_t)t->n_vocab, sizeof *t->rank);
    for (int id = 0; id < t->n_vocab && !bad; id++) {
        t->rank[id] = rank_of(score[id]);
        if (score[id] != score[id])
            bad = err_set(e, "%s: %s: the score of token %d is not a number", g->path, key, id);
    }
    free(score);
    return bad ? -1 : 0;
}

/* llama: tokens that spell bytes, and whether a word always begins a piece. */
static void index_pieces(Tokenizer *t)
{
    t->words = 1;
    for (int id = t->n_vocab - 1; id >= 0; id--) {
        Str x = t->text[id];
        if (type_of(t, id) == BYTE) t->byte_id[byte_text(x)] = id;
        if (!is_piece(t, id)) continue;
        for (size_t i = 1; i < x.n; i++)
            if (is_space_mark(x.s + i, x.n - i) && (i < 3 || !is_space_mark(x.s + i - 3, 3)))
                t->words = 0;
    }
}

/* gpt2: the code points that stand for bytes: printable Latin-1 for itself, the 68 others from
 * 256 upwards; and their tokens. */
static void index_bytes(Tokenizer *t)
{
    memset(t->code_byte, 0xFF, sizeof t->code_byte);
    for (int b = 0, next = 256; b < 256; b++) {
        int same = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        t->byte_code[b] = (uint16_t)(same ? b : next++);
        t->code_byte[t->byte_code[b]] = (int16_t)b;
        Bytes x = {0};
        add_byte_code(t, (uint8_t)b, &x);
        t->byte_id[b] = find_piece(t, x.s, x.n);
        t->bytes_missing += t->byte_id[b] < 0;
        free(x.s);
    }
}

/* One line "left right" of the merges, split at the first space after the first byte. Merges that
 * name no token, or make none, can never happen: left out. The first of equal pairs counts.
 * Most files have the tokens in the order of the merges that make them: *last saves a search. */
static void load_merge(Tokenizer *t, Str m, uint32_t rank, int *last)
{
    const char *space = m.n > 1 ? memchr(m.s + 1, ' ', m.n - 1) : NULL;
    if (!space) return;
    Str a = {m.s, (size_t)(space - m.s)}, b = {space + 1, m.n - a.n - 1};
    int left = find_piece(t, a.s, a.n), right = find_piece(t, b.s, b.n);
    int id = *last;
    if (!is_joined(t->text[id], a, b)) id += id + 1 < t->n_vocab;
    if (!is_joined(t->text[id], a, b) || (t->attr[id] & AGAIN)) id = find2(t, a, b);
    if (left < 0 || right < 0 || id < 0 || !is_piece(t, id)) return;
    *last = id;
    PairSlot *p = &t->pair[pair_at(t, left, right)];
    if (p->left < 0) *p = (PairSlot){left, right, rank, id};
}

static int load_merges(Tokenizer *t, const Gguf *g, Err *e)
{
    Str *m = NULL;
    size_t n = 0;
    int found = gguf_strs(g, "tokenizer.ggml.merges", &m, &n, e);
    if (found < 0) return -1;
    if (!found || n > INT_MAX / 4) {
        free(m);
        return err_set(e, "%s: tokenizer.ggml.merges: expected up to %d texts, found %s", g->path,
                       INT_MAX / 4, found ? "more" : "none");
    }
    size_t slots = 64;
    while (slots * 2 < n * 3) slots *= 2;
    int last = 0;
    t->pair_mask = slots - 1;
    t->pair = xcalloc(slots, sizeof *t->pair);
    memset(t->pair, 0xFF, slots * sizeof *t->pair);
    for (size_t i = 0; i < n; i++) load_merge(t, m[i], (uint32_t)i, &last);
    free(m);
    t->cls = xcalloc(0x110000, 1);
    fill_classes(t->cls);
    return 0;
}

/* A token id from the file: 1 found, 0 absent, -1 not in the vocabulary; -1 written as an integer
 * of any width means none. A default that the vocabulary is too small for is none, too. */
static int load_id(const Tokenizer *t, const Gguf *g, const char *key, int *id, Err *e)
{
    int64_t v = *id;
    int found = gguf_int(g, key, INT64_MIN, INT64_MAX, &v, e);
    if (found < 0) return -1;
    if (v == -1 || v == UINT32_MAX || (!found && v >= t->n_vocab)) v = -1;
    if (v < -1 || v >= t->n_vocab)
        return err_set(e, "%s: %s: expected a token from 0 to %d, found %lld", g->path, key,
                       t->n_vocab - 1, (long long)v);
    *id = (int)v;
    return found;
}

/* A normal token that ends generation is a control token, whatever the file says. */
static void set_eog(Tokenizer *t, int id)
{
    int type = type_of(t, id) == NORMAL ? CONTROL : type_of(t, id);
    t->attr[id] = (uint8_t)((t->attr[id] & ~TYPE) | type | EOG);
}

static int load_eog(Tokenizer *t, const Gguf *g, Err *e)
{
    static const char *const keys[] = {
        "tokenizer.ggml.eos_token_id",     "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.fim_pad_token_id",
        "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id",
    };
    static const char *const texts[] = {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>",   "<|endoftext|>",
        "<|eom_id|>", "<EOT>",      "_<EOT>",  "<|end_of_text|>", "<|return|>",
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int id = -1, found = load_id(t, g, keys[i], &id, e);
        if (found < 0) return -1;
        if (found && id >= 0) set_eog(t, id);
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int id = find2(t, (Str){texts[i], strlen(texts[i])}, (Str){"", 0});
        if (id >= 0) set_eog(t, id);
    }
    /* The default is a guess: in a vocabulary where it is a word it ends nothing. */
    if (t->eos >= 0 && tok_is_special(t, t->eos)) set_eog(t, t->eos);
    return 0;
}

static int load_settings(Tokenizer *t, const Gguf *g, Err *e)
{
    int flags = t->spm ? PRE_BOS : t->pre->flags;
    t->bos = flags & PRE_NO_BOS ? -1 : t->spm ? 1 : 11;
    t->eos = t->spm ? 2 : 11;
    t->unk = t->spm ? 0 : -1;
    t->add_bos = (flags & PRE_BOS) != 0;
    t->space_prefix = t->spm;
    t->whole = (flags & PRE_WHOLE) != 0;
    if (load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, e) < 0 ||
        load_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, e) < 0 ||
        load_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unk, e) < 0 ||
        gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, e) < 0 ||
        gguf_bool(g, "tokenizer.ggml.add_eos_token", &t->add_eos, e) < 0 ||
        gguf_bool(g, "tokenizer.ggml.add_space_prefix", &t->space_prefix, e) < 0 ||
        gguf_bool(g, "ropescope.tokenizer.whole_words", &t->whole, e) < 0)
        return -1;
    return load_eog(t, g, e);
}

/* The normalisation that our own key names. */
static int load_normal(Tokenizer *t, const Gguf *g, Err *e)
{
    static const char key[] = "ropescope.tokenizer.normalizer";
    static const char *const names[N_NORMAL] = {
        "", "nfc", "sentencepiece", "metaspace", "metaspace-first",
    };
    Str name;
    char buf[44];
    int found = gguf_str(g, key, &name, e), normal = NFC;
    if (found <= 0) return found;
    while (normal < N_NORMAL && !str_is(name, names[normal])) normal++;
    if (normal == N_NORMAL || (normal == NFC) == t->spm)
        return err_set(e, "%s: %s: expected %s, found '%s'", g->path, key,
                       t->spm ? "sentencepiece, metaspace or metaspace-first" : "nfc",
                       show(name, buf));
    t->normal = (Normal)normal;
    if (normal == NFC) {
        t->unicode = xcalloc(1, sizeof *t->unicode);
        fill_unicode(t->unicode);
    }
    return 0;
}

/* Sets a flag of the tokens that a list of ids names. Returns how many, -1 on error. */
static int load_flag(Tokenizer *t, const Gguf *g, const char *key, uint8_t flag, Err *e)
{
    int *id = NULL, bad = 0;
    size_t n = 0;
    if (gguf_ints(g, key, &id, &n, e) < 0) bad = -1;
    for (size_t i = 0; i < n && !bad; i++) {
        if (id[i] < 0 || id[i] >= t->n_vocab)
            bad = err_set(e, "%s: %s: expected tokens from 0 to %d, found %d", g->path, key,
                          t->n_vocab - 1, id[i]);
        else
            t->attr[id[i]] |= flag;
    }
    free(id);
    return bad ? -1 : n ? 1 : 0;
}

/* Phi-3's special tokens swallow the whitespace after them; only the name of the model tells. */
static int is_phi3(const Gguf *g)
{
    Str name = {"", 0};
    Err ignored;
    char low[64] = "";
    int found = gguf_str(g, "general.name", &name, &ignored);
    for (size_t i = 0; found == 1 && i < name.n && i < sizeof low - 1; i++)
        low[i] = (char)tolower((uint8_t)name.s[i]);
    return strstr(low, "phi-3") || strstr(low, "phi3");
}

static int special_cmp(const void *a, const void *b)
{
    const Special *x = a, *y = b;
    size_t n = x->text.n < y->text.n ? x->text.n : y->text.n;
    int c = memcmp(x->text.s, y->text.s, n);
    if (c) return c;
    if (x->text.n != y->text.n) return x->text.n < y->text.n ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static int index_special(Tokenizer *t, const Gguf *g, Err *e)
{
    int late = load_flag(t, g, "ropescope.tokenizer.late", LATE, e);
    int left = load_flag(t, g, "ropescope.tokenizer.lstrip", LSTRIP, e);
    int right = load_flag(t, g, "ropescope.tokenizer.rstrip", RSTRIP, e);
    if (late < 0 || left < 0 || right < 0) return -1;
    int rstrip = !right && is_phi3(g);
    t->n_late = late;
    for (int pass = 0; pass < 2; pass++) { /* count, then fill */
        int n = 0;
        for (int id = 0; id < t->n_vocab; id++) {
            Str x = t->text[id];
            if (!x.n || !(tok_is_special(t, id) || type_of(t, id) == USER)) continue;
            if (pass) t->special[n] = (Special){x, id};
            if (rstrip && !has_name("<unk> <s> <|endoftext|>", x)) t->attr[id] |= RSTRIP;
            n++;
        }
        t->n_special = n;
        if (!pass) t->special = xcalloc((size_t)n, sizeof *t->special);
    }
    qsort(t->special, (size_t)t->n_special, sizeof *t->special, special_cmp);
    for (int b = 0, i = 0; b <= 256; b++) {
        while (i < t->n_special && (uint8_t)t->special[i].text.s[0] < b) i++;
        t->special_from[b] = i;
    }
    return 0;
}

Tokenizer *tok_new(const Gguf *g, const char *pre, Err *e)
{
    Tokenizer *t = xcalloc(1, sizeof *t);
    memset(t->byte_id, 0xFF, sizeof t->byte_id);
    int bad = load_model(t, g, pre, e) || load_tokens(t, g, e) || load_types(t, g, e) ||
              load_settings(t, g, e) || load_normal(t, g, e) || index_special(t, g, e) ||
              (t->spm ? load_scores(t, g, e) : load_merges(t, g, e));
    if (bad) {
        tok_free(t);
        return NULL;
    }
    if (t->spm)
        index_pieces(t);
    else
        index_bytes(t);
    return t;
}

void tok_free(Tokenizer *t)
{
    if (!t) return;
    free(t->text);
    free(t->attr);
    free(t->rank);
    free(t->vocab);
    free(t->pair);
    free(t->special);
    free(t->unicode);
    free(t->cls);
    free(t);
}

/* ---------------------------------------------------------------- Unicode 16.0.0 */

/* Classes of code points, in runs from 0 upwards: a letter and a decimal length (none: 1).
 * u Lu Lt, l Ll, o Lm Lo, m M, n N, p P, s White_Space, . the rest, also after the last run.
 * Made by tests/make_unicode.py. The same version as Hugging Face's tokenizers 0.23; llama.cpp
 * has an older one: only scripts added since then differ. */
static const char *const UNICODE_RUNS[] = {
    ".9s5.18sp3.p6.p4n10p2.3p2u26p3.p.l26p.p.7s.26sp.5p.2op.6n2.lp2.nopn3pu23.u7l24.l8ulululululul",
    "ulululululululululululululululululululululul2ulululululululul2ulululululululululululululululu",
    "lulululululululu2lulul3u2lulu2lu3l2u4lu2lu3l3u2lu2lululu2lul2ulu2lu3lulu2l2oul3o4u2lu2lu2lulu",
    "lulululululul2ululululululululul2u2lulu3lulululululululululululululululululululululululululul",
    "ululul7u2lu2l2ulu4lulululul69ol27o18.4o12.14o5.7o.o.17m112ululo.ul.2ol3pu.6upu3.u.u2lu17.u9",
    "l35ul2u3l3ulululululululululululul5ul.ulu2l2u51l48ululululululululululululululululul.m7ululul",
    "ululululululululululululululululululululululululu2lulululululul2ululululululululululululululu",
    "lululululululululululululululululululululululululululululululululul.u38.2op6l41p2.6m45pmpm2p",
    "m2pm.8o27.4o4p2.20p2.p2.2m11p.p3o43m21n10p4o2mo99pom7.2m6o2m2.m4o2n10o3.2op14.2omo30m27.2o89",
    "m11o.14n10o33m9o2.p3o.2m.2o22m4om9om3om5.2p15.o25m3.2p.o11.5o24.o6.8m9o42m24.m33o54m3om18om7",
    "o10m2p2n10po16m3.o8.2o2.2o22.o7.o.3o4.2mom7.2m2.2m3o.8m.4o2.o3m2.2n10o2.2n6.2opm.2m3.o6.4o2.2",
    "o22.o7.o2.o2.o2.2m.m5.4m2.2m3.3m.7o4.o.7n10m2o3mp.10m3.o9.o3.o22.o7.o2.o5.2mom8.m3.m3.2o.15o2",
    "m2.2n10p.8om6.m3.o8.2o2.2o22.o7.o2.o5.2mom7.2m2.2m3.7m3.4o2.o3m2.2n10.on6.10mo.o6.3o3.o4.3o2.",
    "o.o2.3o2.3o3.3o12.4m5.3m3.m4.2o.6m.14n13.13m5o8.o3.o23.o16.2mom7.m3.m4.7m2.o3.2o.2o2m2.2n10.7",
    "pn7.om3po8.o3.o23.o10.o5.2mom7.m3.m4.7m2.6o2.o2m2.2n10.o2m.12m4o9.o3.o41m2om7.m3.m4o.5o3mn7o3",
    "m2.2n19.o6.m3.o18.3o24.o9.o.2o7.3m.4m6.m.m8.6n10.2m2p.12o48mo2m7.5o7m8pn10p2.37o2.o.o5.o24.o.",
    "o10mo2m9o.2o5.o.m7.n10.2o4.32o.3p15.p.3m2.6n20.m.m.mp4m2o8.o36.4m20pm2o5m11.m36.9m.9p5.4p2.37",
    "o43m20on10p6o6m4o4m3om3o2m7o3m4o13m12omn10m4.2u38.u.5u.2l43pol3o329.o4.2o7.o.o4.2o41.o4.2o33.",
    "o4.2o7.o.o4.2o15.o57.o4.2o67.2m3p9n20.3o16.16u86.2l6.2po620.po17so26p2.3o75p3n3o8.7o18m4.9o19",
    "m3p2.9o18m2.12o13.o3.m2.12o52m32p3op3.om.2n10.6n10.6p11m3.mn10.6o89.7o5m2o34mo.5o70.10o31.m12",
    ".4m12.8p2n10o30.2o5.11o44.4o26.6n11.37o23m5.2p2o53m10.m29.2mn10.6n10.6p7op6.2m31.49m5o47m17o8",
    ".p2n10p7.10m9.9p3m3o30m13o2n10o44m14.8p4o36m20.3p5n10.3o3n10o36p2l9ul.5u43.2u3p8.8m3pm21o4mo6",
    "mo2m3o.5l44o63l13ol34o37m64ululululululululululululululululululululululululululululululululul",
    "ulululululululululululululululululululululululululululululululululululululululululul9ulululul",
    "ululululululululululululululululululululululululululululululululululululululululululululul9u8",
    "l6.2u6.2l8u8l8u8l6.2u6.2l8.u.u.u.ul8u8l14.2l8u8l8u8l8u8l5.l2u5.l.3l3.l2u5.3l4.2l2u4.4l8u5.5l3",
    ".l2u5.3s11.5p24s2.5sp20.p13.p12s.16no.2n6.3p2on10.3p2.o13.51m33.17u.4u.2lu3l2u3l.u.3u5.6u.u.u",
    ".u4.lu4lo4l.2l2u2.5ul4.4l.n51uln5.382p4.29p2.309n60.78n22.616p14n30.49p2.31p10.403p22.63p4.32",
    "p2.514u48l48ulu3l2ulululu4lul2ul6o2u3lulululululululululululululululululululululululululululu",
    "lululululululululululululululululululululul2.6ululm3ul.5p4np2l38.l.5l.2o56.7op.14mo23.9o7.o7.",
    "o7.o7.o7.o7.o7.o7.m32p47op32.2p12.418sp3.o2np10.2p12.n9m6po5.2n3o2p.3o86.2m2.2o3po90po4.5o43.",
    "o94.3n4.10o32.48o16.32n10.30n8.n15.32n10.39n15.320o6592.64o22157.67o46p2o269p3o16n10o2.20ulul",
    "ulululululululululululululululululululululom4pm10poululululululululululululululo2m2o70n10m2p6",
    ".31o9.2ululululululul3ulululululululululululululululululululululululululululululululol8ululu2",
    "lululululo.2ululoulul3ululululululululululu5lu5lulululululululu4lulu2l.2ul.l.lulululu.21o3ul",
    "o3lo7mo3mo4mo23m5.4m.3n6.10o52p4.8m2o50m18.8p2n10.6m18o6p3opo2mn10o28m8p2o23m13.11po29.3m4o47",
    "m14p13.on10.4p2o5mo10n10o5.o41m14.9o3mo8m2.2n10.2p4o23.3om3o50mom3o2m2o5m2omo.24o3p2o11m5p2o3",
    "m2.10o6.2o6.2o6.9o7.o7.l43.o4l9o.6l80o35m8pm2.2n10.6o11172.12o23.4o49.8452o366.2o106.38l7.12",
    "l5.5omo10.o13.o5.o.o2.o2.o108.33o363p2.16o64.2o54.40o12.4m16p10.6m16p35.p14.p.4p.p2.4o5.o135",
    ".4p3.p6.p4n10p2.3p2u26p3.p.l26p.p.p7o89.3o6.2o6.2o6.2o3.35o12.o26.o19.o2.o15.2o14.34o123.5p3",
    ".4n45.12n57.17n2.113m.130o29.3o49.15mn27.4o32n4.9o20no8n.5o38m5.5o30.po36.4o8pn5.42u40l40o78",
    ".2n10.6u36.4l36.4o40.8o52.11pu11.u15.u7.u2.l11.l15.l7.l2.3o52.12o311.9o22.10o8.24o6.o42.o9.69",
    "o6.2o.o44.o2.3o.2o23.pn8o23.2n7o31.8n9.48o19.o2.5n5o22n6.3po26.5p.64o56.4n2o2n16.2n46om3.m2.5",
    "m4o4.o3.o29.2m3.4mn9.7p9.7o29n2po29n3.32o8.o28m2.4n5p7.9o54.3p7o22.2n8o19.5n8o18.7p4.12n7.80",
    "o73.55u51.13l51.7n6o36m4.8n10.6n10o6u22.3m5pol22.218n31.o42.m2p.2o2.16o3.55m4o29n10o.8o22m11",
    "n4p5.22o18m4p4.38o21n7.20o23.9m3o53m15p7.4n30mo2m2o.9m4o45m11p2.p4m.13o25.7n10.6m3o36m14.n10",
    "p4om2o.8o35mp2o.9m3o48m14o4p4m4pm2n10opop3.n20.11o18.o25m12p6mo2m.62o7.o.o4.o15.o10p.6o47m12",
    ".5n10.6m4.o8.2o2.2o22.o7.o2.o5.m2om7.2m2.2m3.2o.6m.5o5m2.2m7.3m5.11o10.o.2o.o38.om9.m.2m.m4.",
    "m5omop2.p2.8m2.29o53m18o4p5n10p2.pmo3.30o48m20o2po.8n10.166o47m7.2m9p23o4m2.34o48m17p3o.11n10",
    ".6p13.19o43m13op.6n10.6n20.28o27.2m15.4n12p3.o7.185o44m15p.100u32l32n19.12o8.2o.2o8.o2.o24m6.",
    "m2.2m4omom2p3.9n10.70o8.2o39m7.2m7opom.27om10o40m7om4p8m.8om11o46m16p3op5.13o73.7p10.182o33p",
    ".14n10.6o9.o37m8.m8op5.10n29.3p2o30.2m22.m14.73o7.o2.o38m6.3m.m2.m7om.8n10.6o6.o2.o32m5.m2.m5",
    "o.7n10.310o19m4p2.7m2omo13.o34m7.3m5p13n10m.85o.15n21.42po922.102n111.p5.11o196.2636o97p2.13",
    "o1072.16mo6m15.10o3995.5o583.6841o30m18n10.1734o569.7o31.n10.4p2o79.n10.6o30.2m5p.10o48m7p5.4",
    "o4p.11n10.n7.o21.5o19.432o45p3n10.198u32l32n23p4.101o75.4mom55.7m4o13.64o2pom.11m2.14o6136.8",
    "o1238.41o10.8935o4.o7.o2.o291.15o.29o3.2o.14o4.8o396.2308o107.5o13.3o9.7o10.3m2p.4176n10.518",
    "m46.2m23.542m5.3m6.8m8.2m7.30m4.148m3.123n20.12n20.108n25.135u26l26u26l7.l18u26l26u.u2.2u.2u2",
    ".2u4.u8l4.l.l7.l11u26l26u2.u4.2u8.u7.l26u2.u4.u5.u.3u7.l26u26l26u26l26u26l26u26l26u26l26u26",
    "l28.2u25.l25.l6u25.l25.l6u25.l25.l6u25.l25.l6u25.l25.l6ul.2n50.512m55.4m50.8m.14m.2p5.15m5.",
    "m15.1104l10ol20.6l6.213m7.m17.2m7.m2.m5.5o62.33m.112o45.3m7o7.2n10.4o.321o30m.17o44m4n10.470",
    "o28m4n10.214o30m2on10.4p.480o7.o4.o2.o15.o197.2n9m7.41u34l34m7o.4n10.4p2.785n59.n3.n4.76n45.",
    "n15.194o4.o27.o2.o.2o.o10.o4.o.o.6o.4o.o.o.o3.o2.o.2o.o.o.o.o.o2.o.2o4.o7.o4.o4.o.o10.o17.5o3",
    ".o5.o17.580n13.2787n10.1030o42720.32o4154.6o222.2o5762.14o7473.15o622.2466o542.1506o4939.5",
    "o4192.712016m240",
};

/* cls[0x110000] from the runs. */
static void fill_classes(uint8_t *cls)
{
    size_t cp = 0;
    memset(cls, REST, 0x110000);
    for (size_t i = 0; i < sizeof UNICODE_RUNS / sizeof *UNICODE_RUNS; i++) {
        for (const char *p = UNICODE_RUNS[i]; *p;) {
            char c = *p++;
            uint8_t bit = c == 'u'   ? UPPER
                          : c == 'l' ? LOWER
                          : c == 'o' ? CASELESS
                          : c == 'm' ? MARK
                          : c == 'n' ? NUMBER
                          : c == 'p' ? PUNCT
                          : c == 's' ? SPACE
                                     : REST;
            size_t n = isdigit((uint8_t)*p) ? strtoul(p, (char **)&p, 10) : 1;
            memset(cls + cp, bit, n);
            cp += n;
        }
    }
}

/* ---------------------------------------------------------------- Unicode 9.0.0 */

/* Canonical decompositions and combining classes, as numbers of five bits to a character from '0'
 * upwards, the lowest first, 32 more if another follows. A decomposition: from the code before it
 * to its own, times 2, plus 1 if it is not composed again; then how its first and its second code
 * differ from those before, d >= 0 as 2 d, else -2 d - 1. A run of one class: code points since
 * the last run, length, class. Made by tests/make_unicode.py, of the version by which Hugging
 * Face's tokenizers 0.23 normalise: marks added since are without a class there. */
static const char UNICODE_CANONICAL[] =
    "P<R4P`120220220220:20444j124]220220220<28\?20220220<4:922520220220220:6<\?20220220<28=6@1202"
    "20220220:20444j124]220220220<28\?20220220<4:922520220220220:6<\?20220220<28=40>2_372P202o14"
    "2P202o1T22P202k1]22P202o122P202o1:2P202o1:2P202m102P206m1\?2P202o142P202o122P202o1R22P202o1g1"
    "2P202k1C2P202o182P202o122P202o1P22P202m1Y22P206m122P202o122P202o142P202o1T22P202o1Q28292P20"
    "2m1Z22P204m1[22P202o1\\22P202o1e12P20:k1E2P202o1\\22P202o1e12P208m1\?2P202o142P202o1:2P206i1C"
    "2P202o1\\22P202o1e12P202m1E2P202o122P202o1Z22P202o1e12P202m1f12P202o1e12P206m1A2P202o122P20"
    "2o142P202o182P202o122P202o1j12P202k1[22P202k102P202o1<22=2P202o1<2P202o1:2P20T2e2N2P20Lc10"
    "2P20j1W3M2P202_102P202c102P202c102P202^6\?2P202o152P202o1F2P202o1G2P204_382P202TD02202QF02P20"
    "6m9@2P202g102P202g1h12P202fGW22202W3@2f=02_R108U2E2P206a112P202^522P202m102P202K02P202];L2P20"
    "2o142P202g132P202o142P202g132P202o142P202c132P202o142P202i132P202o142P202i132P202o142P202S2Z1"
    "2P202m102P206g2c12P20>]292P202g1P22P202R7U22P202Q202P202[:62P202nK52202[M02P20k@^X1W`13205T10"
    "3ER`1Q3m4Q`1EkW10>j6R`12b^103c]1Q`12l]1R`12402404<04<02802R20d1Q3>2H02H=2802402402T10d1S1>2H0"
    "2;=2<0280:B020>h2V4\?20@43=8I>:X1=2312F<FE0P2P20^15;20@43=8V2>:g1=2312F<`1R3B220d4m5A2P20L[20"
    "2P202o142P206e132P206V:42202U<02P202m102P206m172P202o182P202c102P206d:02202g;02P202c272P20"
    "2o182P202o162P202g152P206g102P20bBhMfd12022R202Q222V21d9f804W10R1R10\\U1\\U1`^1@@0660Y2k10320"
    "3203:03:03203B0380h6`9T820b1Q1[2e13205J0Y5V8P87<0W2S203203:07N0d>hAdA60_120b1Q1[2e1320^3P7f9"
    "\\3X3a122021b1h7P8n7`7b7n7>>020240W128V1n7h7b622021b1l8V9V740:26925Z1[FbF`MED0;:0;:0;:0Ke13"
    "ER3U45043R4H520CS40U1R2^3ED0;:0;:0;:0Ke13j6Z9b7P^5P^5^`5440440440440880b2b20440640220460"
    "j[1Q`=oP<2P202m1k12P202o1h12P202o1L2P202Z6o22P202U:<2P202o1h12P202o1L2P202o1C2P202o1<2P20"
    "2l:i22202122202k<h22P202o162P202VLc22202UN22P202m152P202m162P202o1h12P202o1e12P202o1n12P20"
    "2o1>2P202m142P202\\6m22P202W:02P202o1T22P202o1L2P202m1K2P202dl>m12202en>j22P202o172P202m1g2"
    "2P202o1<2P202o1h12P202m1g12P202o1h12P202o1L2P202o172P202^6g22P202o1>2P202^5\?2202122202i\?0"
    "2P202o1<2P202k102P202o1h12P202`n>m12202aP\?j22P202m1c22P202o1h12P202^>g12202:02202R`>0220"
    "2mP\?02P202o1h12P202o1L2P202o172P202m1A2P202o1H2P202o152P202V\?g222022>2202YA92P202o1P22P20"
    "2m1U22P202o122P202o1>2P202o112P202o1h12P202m1g12P202o122P202m112P202m192P202o1R22P202o1L2P20"
    "2S102Ha22642404\\@5:kCh12P202o1c12P202R6\?2P202o112P202o1B2P202o1;2P202lk>12202mi>1220211220"
    "21B22021;2202ji>62202gU\?j12P202o1c12P202o1;2P202Z632P202o112P202o1B2P202o1;2P202ll>1220"
    "2oV\?>2P202o1d12P202c102P202o1c12P202Z6\?2P202o112P202o1B2P202o1;2P202`m>12202ib>1220211220"
    "21B22021;22021P22202gD02P202o1c12P202dC\?22021122021B22021;22021P22202]EU22P202o1V22P202o1c1"
    "2P202o1;2P20>`c1P12022nd=W122021222021R42202of=m22022^g=W122021222021R42202We=m22022fe=W1220"
    "2122206gg=T12022Vh=W12202122206Sf=T12022bf=W122021222021R42202ch=m22022Ri=W122021222021R4220"
    "2of=m22022^g=W122021222021R42202_i=m22022ni=W122021222021R42202cg=m22022Rh=W12202122206Sj=T1"
    "2022bj=W12202122206Wh=T12022fh=W122021222021R42204gj=k24Xk=W140240R42oh=m22022^i=W1220212220"
    "21R42202_k=m22022nk=W122021222021R42202_k=S439o_12BP`13\?o_12DP`13Ao_12FP`13Co_12P1P`13Jo_1"
    "2=P`13@o_127P`13:o_16Tc=Zd12202202202202202202202202202202202202202202202R10220220220220220"
    "2202202202202202202202202202202R302202202202202202202202202202202202202202202202kk=m3203"
    "2nk=R42mk=02904:52ZP>62YR>m32032073Eo_12FZd15`2Yd16Qa1Td12h\\\?62ik=02A04B52nP>62QS>Y43Io_1"
    "2NP`13Ko_12LZd12`R>Y420220R42[P>g32032R173c3o_16b2Td12R102Q3g32032073Mo_14XW>P`120220R42aS>g3"
    "2032<73e1o_12R1Va120228l22<02[2g32032073]1o_12V1Xa12a_1W13j]1o_13Yb106ha\?Zd12Uk=02:04952jR>6"
    "2]U>Y43U1o_12j1P`13c1o_12d1Zd13Y_1Yd17ld\?0320[BcU>09ke103d70n6f\\@`c1240V140n1h30280230Z3R30"
    "::0660`1`10440f1^106>0640460^1ePA04XRA0FW102QQA02402\\RA02206J0220660220>602206>0220660220"
    "V2f102<0220240R3m202202X10220>P20220220220i3Ve6_c1320Uk3gb2`c1Pg2lf2RfF440440440440440440440"
    "440440440440660440440>>0202461202461202461202461202^1Y31D^50LL0440440440440440440440440440440"
    "440660440440>>0202461202461202461202461202^1Y316b402202202208F0UPT3fd]1aYH3WeB03\\mC03SP10"
    "3]o>03mY@03Vk203^kU103003eTS103PXL03cTN03Rl103lZ403VW:03ha403d[303fG03lC03^i303iXC03ba103lk10"
    "3Z`103nU803jb603^X403mfU103V_203nh;03^a303TQ:03Ro;03k\\P103fY903Tn:03^i103eYC03n`\?03^T30"
    "3YeD03jT403VU303Ti203Tm>03_dP103RS103^B03\\n803nP303jc303^]203da403ZP303\\503Vi303Vd403jS20"
    "3fX103kfB03V\?03RR203bR303fc703fg503aj903]oH03ZR303he>03lQ203gQ703`V303`o903ZS503mQO03dh10"
    "3Rk603^l103ZC03PR703`@03XQ<03agQ103bkF03mZG03O03PUD03Tj103VS303XX903Y_503Q[D03Vc303h_@03Y\\N0"
    "3lj603fR203Zg903bN03aUA03XnB03gcD03dn703gi803n[\?03We303dj;03meD03fY203VZ\?03`d603RV303o^\?0"
    "3\\oA03_bA03ch403^n\?03Yd\?03Zl803][C03f[103P603`[;03\\V:03`h203VV403j_303c]O03jD03Rc203bg20"
    "3b]303bS503hb403VX>03j[203jR203^303USV103fR:03R[203fnA03k^H03ha103P703dY103bX503\\R103Pd10"
    "3Rd203dR203fW103^[703_S503Zc503^b103UcP103h803dQ103fP>03do;03`N03QnE03hB03\\h103VS403PY80"
    "3a\\403QYB03ZQ403l^203VM03TV103\\i903^;03Rc503h:03ln803T\\203T503P=03iXT103VRE03\\P<03X`20"
    "3]mJ03eU903XU103Xa503R503de403bV203hl303XW203d[703Ph503Ra703Y`L03\\jG03YjQ103T_:03`703ld20"
    "3fE03jf203PE03Ta103ZZ203ld=03Q_S103R\\803dTJ03iTS103l^603R]803Pd@03miG03bK03V]303Pg503n_A0"
    "3iUR103\\N03\\U403lj403fC03dE03jS203Rb303hM03^i403\\e403T103f^403\\a203UjQ103fg=03iY=03Vk>0"
    "3`\\103Tf803bZ803Xk203`T103_`K03XS303jQ:03ia303Z503TG03Sm403]R103n[=03_YN03\\WJ03g_H03U30"
    "3nY603jR203VP=03Qe@03bi803cV303^XD03m^303RP703S\\603_[E03Ui603PX207dY105dQ707[Y:03hd@03Pj10"
    "3TW103T203>03d203^l>03_Y=03n_105ZU305\\^207Pd203Z<09To303J03h203hX203[]603bm203a`S103bC03\\60"
    "3hG03f103j603hT103b603T603`M03`603hk103D03\\R203X=03\\203X603je103V903n:03XO03T_203V:03`@0"
    "3hT103j;03^O03nV203j:03F03103@03<03>03P303203T;03R403nC03XS103Z103`303RC03V903`N03h803003lM0"
    "3b[203\\803fF03`303dI03Z303lZ103T803fZ303hA03h303[lK03bWa703[]P707SoI03nh103i403_N03ZL03f30"
    "3^D03V303VZ103_403X403b403`W103b503R903P103l@03\\<03dj103>03P903X403fB03\\703[403\\803k203T90"
    "3T403PI03`503\\303X@03lA03V:03803f303VR203R403^H03dI03O03^503h\?03PE03bS303Sg203d703f703^D0"
    "3Z903Z303T>03403f:03R103b103\\503C03hH03ZN03n@03f;03P>03b903dD03^<03jd103j903dh103`L03Z403P10"
    "3bB03b303i203\\303503Q103h403R503lG03PS103dC03^B03j=03\\P203^603V703Z803X203H03P303^]103dX20"
    "3lZT603;03Ri503_Sl703fW203R203PQY803^X503VPA03oh_703f40Y4Yk\\2Xk25b16GAD3023Pfj313023agj3E302"
    "3083203203203203203205403203203203205405403205403205403203203203203Y1537<3D03B0hd:Z[U4f_U4440"
    "ND0V8h8j6220hQ1ZQ1^Q120b1nFTGVF20C40Jh\?n\?T\?220Wjm2lim2\\km23203>B302302302302_5d5I32032B"
    "320312320QTc4mgQ6mfX73903B03R^i603Slh603l403J03^403`703n103l403_103QS>03hiX703i^j603>03P10"
    "3V103Zji603UVX703lZ>03\\203lki603Wki603J03_]103P^103B03dRP903cno803L03Wb>03he>03F03h203:0"
    "3Sf>03Tk>03403f103\\103F03203R103T303@03B03b103D03403003003jZk603gk\\603[Z>03Z103Xhk603_gk60"
    "3<03Z103`903[603P103P203d303X503d103V403P103R203003Z103T103@03N03XE03o@03RA03[<03V203iV20"
    "3^^303oA03\\203b103S803^:03103f703`Sn603Som603:03N03X103@03P403\\dn603T403k_n603n203H03m40"
    "3l803_gA03L03hPB03\\303003dXo603YPo603Z103N03H03Zbo603aao603>03jd103Qc103QZB03n]B03L03T503U30"
    "3^eP703QZP703VZP703_WP703503R103Z603203UkB03llB03f203Z103h203]PC03Rbd703]`d703XSC03603603X10"
    "3`\\R903WYR903VSR703003ob`603m]A03003eUC03Rol703TbG03_WQ803B03_XC03^[C03V303D03T203`803]dC0"
    "3k103`gC03PTS703iPS703R803803403303l203X103X203K03F03n203X103803d103F03T403X503V203h703hkS70"
    "3mlS703Q403h603f103R603jPT703mlS703i503g103egD03fSE03Z103n103[203ePE03V^E03j103lYU703]RU70"
    "3ZA03m:03obE03`gE03ahE03W203lZ;03603ff:03W603RQ=03W]N03lcA03803<03j303E03PWV703cWl703R[F03Y70"
    "3j<03V303`nU703mmU703m603Z\?03]gF03ZjF03R603^403l;03foU703_lU703U\\G03b`G03\\hV703UeV703[`G0"
    "3XbG03j203f103203T]W703Sh>03nn>03gZW703lVX703ioW703L03[603n:03`203b303[303`203N03J03biW70"
    "3cnW703f\?03n303ecH03`iH03703dPX703_]X703ZG03PoW703P303_lW703V703e103503YXI03X[I03V303;03\\30"
    "3`WZ603omY603laX703]\\X703nPY703UhX703J03f103`kY703_hY703Z103PZZ703n=03cYZ703R103m]J03b_J0"
    "3i^J03003nhJ03Z103Z103X103Z403mjJ03bPK03Ta[703__[703Xe[703Sb[703nRf603mhe603Ri\\703^103h80"
    "3_TX803H03h^K03no\\703103^203d103YQ]703203003f203QaK03TeK03YdK03P503^hY803ml]703l303P403anK0"
    "3VdZ803o\\^703Xd^703f203[c^703h503g[L03RaL03D03:03jb_703fB03003ak_703g^L03bj\\803Yn_70360"
    "3SjL03bU]803kj_703SSM03`TM03903j103\\Xa703URa703SVM03\\\\M03f303V403QaM03X__803n103k^_80"
    "3Ph_803mea703Xla703aja703Z603F03Z]b703b403U\\b703`db703_cb703n^i603chg703j]N03R503__N03VcN0"
    "3aXC03T_V803L03SRJ03B03eih603603di603UcU103\\RO03;03T103cnG03loG03403D03b203\\Ud703]Ud703`30"
    "3\\403d403c803d903d203P703W@03^703403P103dUd703ZC03[903cjc803\\lO03403V203X[g703[Vg703`ld70"
    "3mld803803PUe803RB03]fe803Z^P103H03F03403P403Q203\\803g203^903Q503V403f103mjP103dPQ103P20"
    "3_PQ103^VQ103603XPg703ohf703>03aZQ103Z\\Q103mSZ103VoQ903`;03_Zi803B03bmQ103j403j903f<03VUh70"
    "3iog703\\103d503h503`kh703ebk103aSm503M03X303l^m503cPm503X603dYk703f103aej703j503P203jQk70"
    "3UQk703jA03n903203g503jG03h103Znk703mVk703[oU103TRV103Plk703QiQ903j]V103QaL03RgL03TRm703Z=0"
    "3gjS903@03dfV103dRn703_eT903XnT903eXn703003l103jhn703W]n703mjV103\\oV103l703f103h303oRW10"
    "3TfW903kQP803lB03j;03mRX103n103dWX103^fQ803[mY903jPZ903b@03V803[mQ803YfX103VjX103:03>03D03>0"
    "3Z203Z\\S80";
static const char UNICODE_CLASSES[] =
    "PHEV701X704l601X701h605l602Z604l602Z60;l605104l608V701`701V703l603V702l613V704l601V701X702l6"
    "01V701Y702Z701Y702Z701Y70=V7c85V7Y81l604V701l603V701n601l606V706l602V701l602V701n601T701V701:"
    "01;01<01=01>01\?01@01A01B02C01D01E01F11G11H01I11V701l611BX28V701N01O01P1`11K01L01M01N01O01P1"
    "01Q101R102V702l605V701l602V701l6@1S1U37V724V701l601V722V711l602V701l6S11T1N1V701l602V701l6"
    "02V703l601V702l601V701l603V701l601V701l601V701l601V701l602V7P57V701l601V7R14V719V713V715V7"
    "[13l6h3>V711l602V701l602V701l603V703l601K01L01M03V701l602V702l605V7l117@1931V701l602V7W317@19"
    "^317@19^317@19^317@19o319o31971d201k2U317@19o319l319]32W3019=4[3\\32f3>4j3\\22l6K1l611l611h6"
    "g11Q401R411T454R421R412V701912V7n11l6`317129b21l6_F3V7dM19O19m419:1V7[61T7_41n601V701l6k61V7"
    "01l6W219D8V721l6`15V706l602V701l6f317\?19V11V701l607V7f129j117;29S217h43V711105l602V704l601V7"
    "17141l661V732V7V62V701l607V701l602V701Z701f601l601Z60U1V751V701Y701l601V701l6`F2V702104V7031"
    "02V741V732101V701l601V702104l601V7no23V7]419P3P1V7ZA1j601T701X701n602P7Y328d^M1V74:V7P12V7"
    "`22V7d819m519KBV7i13l6U119o217<19_71V712V701l622V752V711V7d119f719`iC1JQH7V707l602V7]N1l6"
    "R71l6e45V7bd11l611V7X11V701101l6419U51V701l6oZ119h119i119017U23V7`129n117\\219917Z319017b517"
    "019a217@19H7V735V7]619317k319017k719017n319f319017c319cX119`eC51k17V7W[D11VV52h603131R705h6"
    "88l625V702l6N4V7d43V7k]37V71AV727V712V715V7UU27l6]36V7017";

static uint32_t read_number(const char **p)
{
    uint32_t v = 0;
    for (int shift = 0;; shift += 5) {
        uint32_t d = (uint32_t)(*(*p)++ - '0');
        v |= (d & 31) << shift;
        if (d < 32) return v;
    }
}

static uint32_t read_difference(const char **p)
{
    uint32_t v = read_number(p);
    return v & 1 ? ~(v >> 1) : v >> 1;
}

static void fill_unicode(Unicode *u)
{
    Canonical x = {0, 0, 0};
    for (const char *p = UNICODE_CANONICAL; *p;) {
        uint32_t step = read_number(&p);
        x.code += step >> 1;
        x.first += read_difference(&p);
        x.second += read_difference(&p);
        u->split[u->n_split++] = x;
        if (!(step & 1)) u->join[u->n_join++] = x;
    }
    qsort(u->join, (size_t)u->n_join, sizeof *u->join, join_cmp);
    uint32_t at = 0;
    for (const char *p = UNICODE_CLASSES; *p;) {
        at += read_number(&p);
        uint32_t n = read_number(&p), class = read_number(&p);
        memset(u->class + at, (int)class, n);
        at += n;
    }
}
