/* Files that are not what they say: cut, flipped, absurd. Each is refused with a sentence that
 * names the file and the field, or it loads and runs; nothing is read outside of it (files are
 * copied to memory of their exact size, where the sanitizers see every byte too far). */
#include "../model.h"

#include "check.h"
#include "gguf_builder.h"
#include "ref.h"

#include <string.h>

#define PATH "some/tiny.gguf"

static Err err;

static const TinyModel small = {.n_layers = 2,
                                .n_embd = 8,
                                .n_heads = 2,
                                .n_kv_heads = 1,
                                .head_dim = 4,
                                .n_ff = 12,
                                .n_vocab = 20,
                                .n_rot = 4,
                                .base = 10000,
                                .seed = 1};

/* ---------------------------------------------------------------- loading */

/* Two tokens through a bound model. */
static void run(const Model *m)
{
    State s;
    StateOptions o = {.n_ctx = 4, .n_batch = 2, .n_threads = 1, .exact = 1};
    int ids[2] = {0, m->n_vocab - 1};
    if (state_new(&s, m, &o, &err) < 0) return;
    int n = s.n_ctx < 2 ? s.n_ctx : 2;
    forward(&s, ids, n, n);
    state_free(&s);
}

/* 0 if the bytes load as a model (then it has run), or -1 with err filled. */
static int load(const uint8_t *file, size_t size)
{
    uint8_t *exact = xrealloc(NULL, size, 1);
    Gguf g;
    Model m;
    memcpy(exact, file, size);
    memset(&err, 0, sizeof err);
    int rc = gguf_parse(&g, PATH, exact, size, &err);
    if (rc == 0) rc = model_bind(&m, &g, NULL, &err);
    if (rc == 0) {
        run(&m);
        model_close(&m);
    }
    free(exact);
    return rc;
}

/* A sentence: there, ended, naming the file. */
static int says_why(void)
{
    return memchr(err.msg, 0, sizeof err.msg) && strlen(err.msg) > strlen(PATH) + 10 &&
           strstr(err.msg, PATH);
}

static void refused(const uint8_t *file, size_t size, const char *what, const char *expect)
{
    int rc = load(file, size);
    if (!CHECK_MSG(rc == -1, "%s: was loaded", what)) return;
    CHECK_MSG(says_why() && strstr(err.msg, expect), "%s: expected '%s' in: %s", what, expect,
              err.msg);
}

static void loads(const uint8_t *file, size_t size, const char *what)
{
    int rc = load(file, size);
    CHECK_MSG(rc == 0, "%s: %s", what, err.msg);
}

/* ---------------------------------------------------------------- changing a file */

static void put(uint8_t *p, uint64_t v, int width)
{
    for (int i = 0; i < width; i++) p[i] = (uint8_t)(v >> 8 * i);
}

/* Offset of what follows a name (a key: its type; a tensor: its n_dims). */
static size_t after(const uint8_t *file, size_t size, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 8; i + n < size; i++) {
        uint64_t len;
        memcpy(&len, file + i - 8, 8);
        if (len == n && !memcmp(file + i, name, n)) return i + n;
    }
    MUST(!"no such name");
    return 0;
}

static void rename_to(uint8_t *file, size_t size, const char *name, const char *other)
{
    size_t n = strlen(name);
    MUST(strlen(other) == n);
    memcpy(file + after(file, size, name) - n, other, n);
}

/* The file with more keys before the others: `b` holds them. A last key fills up to the alignment,
 * so that all else stays where it was, one section further on. */
static uint8_t *with_keys(const uint8_t *file, size_t *size, GgufBuilder *b)
{
    size_t bare = b->keys.n + 8 + 7 + 4 + 8;
    char fill[GB_ALIGN + 1] = "";
    memset(fill, 'x', (GB_ALIGN - bare % GB_ALIGN) % GB_ALIGN);
    gb_key_str(b, "general", fill);
    uint8_t *out = xrealloc(NULL, *size + b->keys.n, 1);
    uint64_t n_keys;
    memcpy(&n_keys, file + 16, 8);
    memcpy(out, file, 24);
    put(out + 16, n_keys + b->n_keys, 8);
    memcpy(out + 24, b->keys.s, b->keys.n);
    memcpy(out + 24 + b->keys.n, file + 24, *size - 24);
    *size += b->keys.n;
    free(b->keys.s);
    *b = (GgufBuilder){0};
    return out;
}

/* ---------------------------------------------------------------- cut and flipped */

static void test_truncation(void)
{
    TinyModel t = small;
    size_t size;
    t.n_vocab = 259; /* all bytes */
    uint8_t *file = tiny_model(&t, &size);
    long loaded = 0, mute = 0;
    loads(file, size, "the whole file");
    for (size_t n = 0; n < size; n++) {
        loaded += load(file, n) == 0;
        mute += !says_why();
    }
    CHECK_MSG(loaded == 0, "%ld of %zu cut files were loaded", loaded, size);
    CHECK_MSG(mute == 0, "%ld of %zu cut files were refused without saying why", mute, size);
    free(file);
}

static void test_flips(void)
{
    static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x20};
    size_t size;
    uint8_t *file = tiny_model(&small, &size);
    size_t end = after(file, size, "output_norm.weight") + 24; /* the last tensor's info */
    long n_loaded = 0, mute = 0;
    for (size_t i = 0; i < end; i++) {
        uint8_t was = file[i];
        for (int f = 0; f < 6; f++) {
            file[i] = f < 4 ? was ^ flips[f] : f == 4 ? 0 : (uint8_t)(was + 1);
            int rc = load(file, size);
            n_loaded += rc == 0;
            mute += rc != 0 && !says_why();
        }
        file[i] = was;
    }
    CHECK_MSG(mute == 0, "%ld damaged files were refused without saying why", mute);
    /* names of tokens, scores and the like may change; most other damage must be noticed */
    CHECK_MSG(n_loaded > 0 && n_loaded < (long)end * 3, "%ld of %zu were loaded", n_loaded,
              end * 6);
    free(file);
}

/* Everything random behind a good header: the counts are plausible, nothing else is. */
static void test_noise(void)
{
    Rng rng = rng_new(99);
    uint8_t file[512];
    long loaded = 0, mute = 0;
    for (int round = 0; round < 20000; round++) {
        size_t size = (size_t)rng_int(&rng, 24, 512);
        for (size_t i = 0; i < size; i++)
            file[i] = rng_u64(&rng) & 1 ? 0 : (uint8_t)rng_int(&rng, 0, 255);
        memcpy(file, "GGUF\3\0\0\0", 8);
        put(file + 8, (uint64_t)rng_int(&rng, 0, 3), 8);
        put(file + 16, (uint64_t)rng_int(&rng, 0, 3), 8);
        if (size > 40) put(file + 24, (uint64_t)rng_int(&rng, 0, 16), 8);
        loaded += load(file, size) == 0;
        mute += !says_why();
    }
    CHECK_MSG(loaded == 0 && mute == 0, "%ld loaded, %ld refused without saying why", loaded, mute);
}

/* ---------------------------------------------------------------- one field at a time */

#define UP  "blk.0.ffn_up.weight"
#define BIG (1ull << 63)

/* Write `value` in `width` bytes at `at` behind the name (NULL: at `at` in the file). */
typedef struct {
    const char *what, *name;
    size_t at;
    int width;
    uint64_t value;
    const char *expect; /* in the message */
} FileCase;

/* A key: type at 0, value at 4; an array: element type at 4, count at 8. A tensor of 2 dimensions:
 * n_dims at 0, dims at 4 and 12, type at 20, offset at 24. */
static const FileCase patches[] = {
    {"magic", NULL, 0, 4, 0x46554746, "magic"},
    {"magic backwards", NULL, 0, 4, 0x47475546, "magic"},
    {"big-endian", NULL, 4, 4, 0x03000000, "endian"},
    {"version 0", NULL, 4, 4, 0, "version"},
    {"version 1", NULL, 4, 4, 1, "version"},
    {"version 4", NULL, 4, 4, 4, "version"},
    {"2^63 tensors", NULL, 8, 8, BIG, "tensor count"},
    {"2^59 tensors", NULL, 8, 8, 1ull << 59, "tensor count"},
    {"2^63 keys", NULL, 16, 8, BIG, "metadata count"},
    {"2^64 - 1 keys", NULL, 16, 8, ~0ull, "metadata count"},
    {"a key of 2^62 bytes", NULL, 24, 8, 1ull << 62, "metadata key"},
    {"a key of 2^64 - 1 bytes", NULL, 24, 8, ~0ull, "metadata key"},
    {"a key of no bytes", NULL, 24, 8, 0, "metadata key"},
    {"a text of 2^62 bytes", "general.architecture", 4, 8, 1ull << 62, "general.architecture"},
    {"a text of 2^64 - 8 bytes", "general.architecture", 4, 8, ~7ull, "general.architecture"},
    {"a value type 13", "llama.block_count", 0, 4, 13, "llama.block_count"},
    {"a value type 2^32 - 1", "llama.block_count", 0, 4, ~0u, "llama.block_count"},
    {"an array of arrays", "tokenizer.ggml.tokens", 4, 4, GGUF_ARR,
     "'tokenizer.ggml.tokens': expected an array of values, found one of arrays"},
    {"an array of type 200", "tokenizer.ggml.tokens", 4, 4, 200,
     "'tokenizer.ggml.tokens': expected a value type from 0 to 12, found 200"},
    {"2^61 texts", "tokenizer.ggml.tokens", 8, 8, 1ull << 61, "tokenizer.ggml.tokens"},
    {"2^61 floats", "tokenizer.ggml.scores", 8, 8, 1ull << 61, "tokenizer.ggml.scores"},
    {"2^62 floats", "tokenizer.ggml.scores", 8, 8, 1ull << 62, "tokenizer.ggml.scores"},
    {"2^63 floats", "tokenizer.ggml.scores", 8, 8, BIG, "tokenizer.ggml.scores"},
    {"no dimensions", UP, 0, 4, 0, UP},
    {"5 dimensions", UP, 0, 4, 5, UP},
    {"2^31 dimensions", UP, 0, 4, 1u << 31, UP},
    {"rows of 0", UP, 4, 8, 0, "dimension 0: expected 1 to 2147483647, found 0"},
    {"no rows", UP, 12, 8, 0, UP},
    {"rows of -1", UP, 4, 8, ~0ull, UP},
    {"rows of 2^40", UP, 4, 8, 1ull << 40, UP},
    {"2^62 rows", UP, 12, 8, 1ull << 62, UP},
    {"rows of 2^31 - 1", UP, 4, 8, 0x7fffffff, UP},
    {"rows too short", UP, 4, 8, 7, UP},
    {"a row too few", UP, 12, 8, 11, UP},
    {"removed type 4", UP, 20, 4, 4, UP},
    {"type 31", UP, 20, 4, 31, UP},
    {"type 99", UP, 20, 4, 99, UP},
    {"type 2^32 - 1", UP, 20, 4, ~0u, UP},
    {"type 2^31", UP, 20, 4, 1u << 31, UP},
    {"blocks that do not divide the row", UP, 20, 4, T_Q4_0, UP},
    {"offset 2^63", UP, 24, 8, BIG, UP},
    {"offset 2^64 - 32", UP, 24, 8, ~31ull, UP},
    {"offset 2^40", UP, 24, 8, 1ull << 40, UP},
    {"offset 1", UP, 24, 8, 1, UP},
    {"overlap", UP, 24, 8, 32, "overlap; expected each"},
    {"no layers", "llama.block_count", 4, 4, 0, "llama.block_count"},
    {"3 of 2 layers", "llama.block_count", 4, 4, 3, "blk.2."},
    {"1 of 2 layers", "llama.block_count", 4, 4, 1, "blk.1."},
    {"2^32 - 1 layers", "llama.block_count", 4, 4, ~0u, "llama.block_count"},
    {"layers in f32", "llama.block_count", 0, 4, GGUF_F32, "llama.block_count"},
    {"width 0", "llama.embedding_length", 4, 4, 0, "llama.embedding_length"},
    {"width 9", "llama.embedding_length", 4, 4, 9, "token_embd.weight"},
    {"width 2^31", "llama.embedding_length", 4, 4, 1u << 31, "llama.embedding_length"},
    {"context 0", "llama.context_length", 4, 4, 0, "llama.context_length"},
    {"ff 0", "llama.feed_forward_length", 4, 4, 0, "llama.feed_forward_length"},
    {"ff 11", "llama.feed_forward_length", 4, 4, 11, "ffn_"},
    {"heads 0", "llama.attention.head_count", 4, 4, 0, "llama.attention.head_count"},
    {"heads 3", "llama.attention.head_count", 4, 4, 3, "attn_q"},
    {"heads 2^31", "llama.attention.head_count", 4, 4, 1u << 31, "llama.attention.head_count"},
    {"kv heads 0", "llama.attention.head_count_kv", 4, 4, 0, "llama.attention.head_count_kv"},
    {"kv heads 3", "llama.attention.head_count_kv", 4, 4, 3, "llama.attention.head_count_kv"},
    {"key length 0", "llama.attention.key_length", 4, 4, 0, "llama.attention.key_length"},
    {"key length 3", "llama.attention.key_length", 4, 4, 3, PATH},
    {"value length 3", "llama.attention.value_length", 4, 4, 3, "value"},
    {"3 rotated", "llama.rope.dimension_count", 4, 4, 3, "llama.rope.dimension_count"},
    {"0 rotated", "llama.rope.dimension_count", 4, 4, 0, "llama.rope.dimension_count"},
    {"6 of 4 rotated", "llama.rope.dimension_count", 4, 4, 6, "llama.rope.dimension_count"},
    {"epsilon in u32", "llama.attention.layer_norm_rms_epsilon", 0, 4, GGUF_U32,
     "layer_norm_rms_epsilon"},
    {"epsilon NaN", "llama.attention.layer_norm_rms_epsilon", 4, 4, 0x7fc00000,
     "layer_norm_rms_epsilon"},
    {"base NaN", "llama.rope.freq_base", 4, 4, 0x7fc00000, "llama.rope.freq_base"},
    {"base infinite", "llama.rope.freq_base", 4, 4, 0x7f800000, "llama.rope.freq_base"},
    {"base 0", "llama.rope.freq_base", 4, 4, 0, "llama.rope.freq_base"},
};

static void test_patches(void)
{
    size_t size;
    uint8_t *file = tiny_model(&small, &size), *copy = xrealloc(NULL, size, 1);
    for (size_t i = 0; i < sizeof patches / sizeof *patches; i++) {
        const FileCase *p = &patches[i];
        memcpy(copy, file, size);
        put(copy + (p->name ? after(file, size, p->name) : 0) + p->at, p->value, p->width);
        refused(copy, size, p->what, p->expect);
    }
    memcpy(copy, file, size); /* the product of two sane dimensions overflows */
    put(copy + after(file, size, UP) + 4, 1ull << 40, 8);
    put(copy + after(file, size, UP) + 12, 1ull << 40, 8);
    refused(copy, size, "2^40 x 2^40", UP);
    put(copy + after(file, size, UP) + 4, 1ull << 30, 8);
    put(copy + after(file, size, UP) + 12, 1ull << 30, 8);
    refused(copy, size, "2^30 x 2^30", UP);
    memcpy(copy, file, size);
    copy[4] = 2;
    loads(copy, size, "version 2");
    free(copy);
    free(file);
}

/* Names that are gone, or there twice. */
static void test_names(void)
{
    static const struct {
        const char *name, *other, *expect;
    } rows[] = {
        {"general.architecture", "general.architecturf", "general.architecture"},
        {"llama.block_count", "llama.clock_count", "llama.block_count"},
        {"llama.embedding_length", "llama.embedding_weight", "llama.embedding_length"},
        {"llama.context_length", "llama.context_legnth", "llama.context_length"},
        {"llama.feed_forward_length", "llama.feed_forward_legnth", "llama.feed_forward_length"},
        {"llama.attention.head_count", "llama.attention.head_clunt", "head_count"},
        {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "eos_token_id"},
        {"token_embd.weight", "token_embe.weight", "token_embd.weight"},
        {"output_norm.weight", "outpuu_norm.weight", "output_norm.weight"},
        {"blk.1.attn_q.weight", "blk.1.attn_r.weight", "blk.1.attn_q.weight"},
        {"blk.1.attn_output.weight", "blk.0.attn_output.weight", "blk.0.attn_output.weight"},
        {"blk.0.ffn_norm.weight", "blk.0.ffn_form.weight", "blk.0.ffn_norm.weight"},
        {"blk.1.ffn_down.weight", "blk.1.ffn_down.weigh\n", "blk.1.ffn_down.weight"},
    };
    size_t size;
    uint8_t *file = tiny_model(&small, &size), *copy = xrealloc(NULL, size, 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        memcpy(copy, file, size);
        rename_to(copy, size, rows[i].name, rows[i].other);
        refused(copy, size, rows[i].other, rows[i].expect);
        CHECK_MSG(!strchr(err.msg, '\n'), "a control character from the file: %s", err.msg);
    }
    memcpy(copy, file, size);
    memcpy(copy + after(file, size, "general.architecture") + 12, "gemma", 5);
    refused(copy, size, "an architecture that is not known", "gemma");
    free(copy);
    free(file);
}

/* ---------------------------------------------------------------- keys added */

/* One key in place of (or beside) the file's own. expect NULL: it must load. */
static void test_key(const char *what, const char *hide, GgufBuilder *b, const char *expect)
{
    size_t size;
    uint8_t *file = tiny_model(&small, &size);
    if (hide) file[after(file, size, hide) - strlen(hide)] ^= 1;
    uint8_t *more = with_keys(file, &size, b);
    if (expect)
        refused(more, size, what, expect);
    else
        loads(more, size, what);
    free(file);
    free(more);
}

/* The number of layers in every integer type that files use. */
static void test_integer_widths(void)
{
    static const struct {
        int type, width;
    } rows[] = {{GGUF_U8, 1},  {GGUF_I8, 1},  {GGUF_U16, 2}, {GGUF_I16, 2},
                {GGUF_U32, 4}, {GGUF_I32, 4}, {GGUF_U64, 8}, {GGUF_I64, 8}};
    for (int i = 0; i < 8; i++)
        for (int bad = 0; bad < 2; bad++) {
            GgufBuilder b = {0};
            gb_key(&b, "llama.block_count", (uint32_t)rows[i].type);
            gb_uint(&b.keys, bad ? ~0ull : 2, rows[i].width);
            test_key("an integer type", "llama.block_count", &b,
                     !bad ? NULL
                     : i  ? "llama.block_count"
                          : "blk.2."); /* 255 layers */
        }
    GgufBuilder b = {0};
    gb_key_str(&b, "llama.block_count", "2");
    test_key("layers as text", "llama.block_count", &b, "llama.block_count");
    gb_key(&b, "llama.rope.freq_base", GGUF_F64);
    gb_uint(&b.keys, 0x40c3880000000000u, 8); /* 10000 */
    test_key("base as f64", "llama.rope.freq_base", &b, NULL);
    gb_key_str(&b, "llama.rope.freq_base", "10000");
    test_key("base as text", "llama.rope.freq_base", &b, "llama.rope.freq_base");
    gb_key_u32(&b, "general.architecture", 5);
    test_key("architecture as a number", "general.architecture", &b, "general.architecture");
}

/* A value for each layer. */
static void test_layer_arrays(void)
{
    GgufBuilder b = {0};
    static const char *heads = "llama.attention.head_count", *ff = "llama.feed_forward_length";
    gb_key_i32s(&b, heads, (int[]){2, 2}, 2);
    test_key("heads of 2 layers", heads, &b, NULL);
    gb_key_i32s(&b, heads, (int[]){2, 2, 2}, 3);
    test_key("heads of 3 layers", heads, &b, heads);
    gb_key_i32s(&b, heads, (int[]){2}, 1);
    test_key("heads of 1 layer", heads, &b, heads);
    gb_key_i32s(&b, heads, (int[]){2}, 0);
    test_key("heads of no layer", heads, &b, heads);
    gb_key_i32s(&b, heads, (int[]){2, 0}, 2);
    test_key("heads 2 and 0", heads, &b, heads);
    gb_key_i32s(&b, heads, (int[]){2, -2}, 2);
    test_key("heads 2 and -2", heads, &b, heads);
    gb_key_i32s(&b, ff, (int[]){12, 11}, 2);
    test_key("ff 12 and 11", ff, &b, "blk.1.ffn_");
    gb_key_strs(&b, heads, (Str[]){{"2", 1}, {"2", 1}}, 2);
    test_key("heads as texts", heads, &b, heads);
    gb_key_i32s(&b, "llama.block_count", (int[]){2}, 1);
    test_key("layers as an array", "llama.block_count", &b, "llama.block_count");
}

static void test_added_keys(void)
{
    GgufBuilder b = {0};
    static const uint32_t bad[] = {0, 3, 1u << 31, 1, 33};
    for (int i = 0; i < 5; i++) {
        gb_key_u32(&b, "general.alignment", bad[i]);
        test_key("alignment", NULL, &b, "general.alignment");
    }
    for (uint32_t good = 8; good <= 32; good *= 2) {
        gb_key_u32(&b, "general.alignment", good);
        test_key("alignment", NULL, &b, NULL);
    }
    gb_key_u32(&b, "split.count", 2);
    test_key("a split file", NULL, &b, "split.count");
    gb_key_u32(&b, "split.count", 1);
    test_key("a file split in one", NULL, &b, NULL);
    gb_key_u32(&b, "llama.expert_count", 8);
    test_key("experts", NULL, &b, "llama.expert_used_count");
    gb_key_u32(&b, "llama.expert_count", 0);
    test_key("no experts", NULL, &b, NULL);
    gb_key_str(&b, "llama.rope.scaling.type", "spiral");
    test_key("a spiral", NULL, &b, "llama.rope.scaling.type");
    gb_key_f32(&b, "llama.rope.scaling.factor", -2);
    test_key("factor -2", NULL, &b, "llama.rope.scaling.factor");
    gb_key_i32(&b, "llama.attention.sliding_window", -1);
    test_key("window -1", NULL, &b, "llama.attention.sliding_window");
}

/* ---------------------------------------------------------------- whole files */

static void test_odd_files(void)
{
    size_t size;
    GgufBuilder b = {0};
    uint8_t *file = gb_finish(&b, &size);
    refused(file, size, "a file with nothing in it", "general.architecture");
    free(file);
    gb_key_str(&b, "general.architecture", "llama");
    file = gb_finish(&b, &size);
    refused(file, size, "a file without tensors", "tensor");
    free(file);
    static const int64_t huge[][4] = {{65536, 65536, 65536, 65536}, /* 2^64 = 0 values */
                                      {1 << 30, 1 << 30, 16, 1},
                                      {1 << 30, 1 << 30, 4, 1}, /* 2^62 values, 2^64 bytes */
                                      {0x7fffffff, 0x7fffffff, 2, 1}};
    for (int i = 0; i < 4; i++) { /* no architecture: it must not come so far */
        gb_tensor(&b, "huge", T_F32, 4, huge[i], NULL, 64);
        file = gb_finish(&b, &size);
        refused(file, size, "a product of dimensions that overflows", "'huge'");
        free(file);
    }
    refused((const uint8_t *)"", 0, "an empty file", "");
    refused((const uint8_t *)"PK\3\4 something else", 19, "another kind of file", "magic");
}

static void test_paths(void)
{
    Model m;
    Gguf g;
    CHECK(model_open(&m, "no/such/file.gguf", NULL, &err) == -1);
    CHECK_MSG(strstr(err.msg, "no/such/file.gguf"), "%s", err.msg);
    CHECK(gguf_open(&g, ".", &err) == -1 && strstr(err.msg, "directory"));
    CHECK(gguf_open(&g, "/dev/null", &err) == -1 && strstr(err.msg, "/dev/null"));
}

/* The typed readers: found, absent, out of range, of another type. */
static void test_typed_keys(void)
{
    Gguf g;
    size_t size, n;
    int64_t i = -7;
    double d = -7;
    int yes = -7, *ints;
    float *floats;
    Str s, *strs;
    uint8_t *file = tiny_model(&small, &size);
    CHECK(gguf_parse(&g, PATH, file, size, &err) == 0);
    CHECK(gguf_int(&g, "llama.block_count", 0, 9, &i, &err) == 1 && i == 2);
    CHECK(gguf_int(&g, "llama.block_count", 3, 9, &i, &err) == -1 && i == 2);
    CHECK(gguf_int(&g, "absent", 3, 9, &i, &err) == 0 && i == 2);
    CHECK(gguf_float(&g, "llama.block_count", 0, 9, &d, &err) == -1 && d == -7);
    CHECK(gguf_bool(&g, "llama.block_count", &yes, &err) == -1 && yes == -7);
    CHECK(gguf_str(&g, "general.architecture", &s, &err) == 1 && str_is(s, "llama"));
    CHECK(gguf_str(&g, "llama.block_count", &s, &err) == -1 && says_why());
    CHECK(gguf_strs(&g, "tokenizer.ggml.tokens", &strs, &n, &err) == 1 && n == 20 &&
          str_is(strs[3], "<0x00>"));
    free(strs);
    CHECK(gguf_floats(&g, "tokenizer.ggml.scores", &floats, &n, &err) == 1 && floats[4] == -4);
    free(floats);
    CHECK(gguf_ints(&g, "tokenizer.ggml.token_type", &ints, &n, &err) == 1 && ints[1] == 3);
    free(ints);
    CHECK(gguf_ints(&g, "tokenizer.ggml.scores", &ints, &n, &err) == -1);
    CHECK(gguf_floats(&g, "tokenizer.ggml.tokens", &floats, &n, &err) == -1);
    CHECK(gguf_strs(&g, "tokenizer.ggml.scores", &strs, &n, &err) == -1 && says_why());
    CHECK(gguf_tensor(&g, UP) && gguf_tensor(&g, UP)->ne[1] == 12 && !gguf_tensor(&g, "blk"));
    gguf_close(&g);
    free(file);
}

/* Small models of several kinds, as seeds for the fuzzer. */
static int write_seeds(const char *dir)
{
    static const int types[] = {T_F32, T_F16, T_Q4_0, T_Q5_1, T_Q8_0, T_Q2_K, T_Q4_K};
    for (int i = 0; i < 7; i++) {
        char path[1024];
        size_t size;
        int K = tensor_type(types[i])->block == 256;
        TinyModel t = {.n_layers = 1,
                       .n_embd = K ? 256 : 32,
                       .n_heads = K ? 4 : 2,
                       .n_kv_heads = K ? 1 : 2,
                       .head_dim = K ? 64 : 16,
                       .n_ff = K ? 256 : 32,
                       .n_vocab = K ? 8 : 20,
                       .factors = i % 2,
                       .biases = i % 3 == 0,
                       .untied = i % 3 == 1,
                       .type = types[i],
                       .embd_type = types[i],
                       .seed = 7};
        if (types[i] == T_F32) t = small;
        uint8_t *file = tiny_model(&t, &size);
        snprintf(path, sizeof path, "%s/%s.gguf", dir, tensor_type(types[i])->name);
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(file, 1, size, f) != size || fclose(f)) die("%s: cannot be written", path);
        free(file);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--seeds")) return write_seeds(argv[2]);
    test_truncation();
    test_flips();
    test_noise();
    test_patches();
    test_names();
    test_integer_widths();
    test_layer_arrays();
    test_added_keys();
    test_odd_files();
    test_paths();
    test_typed_keys();
    return check_done();
}
