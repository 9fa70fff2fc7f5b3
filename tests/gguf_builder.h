/* Builds a GGUF version 3 file in memory, for tests.
 *
 *     GgufBuilder b = {0};
 *     gb_key_str(&b, "general.architecture", "llama");
 *     gb_tensor(&b, "token_embd.weight", T_F32, 2, (int64_t[]){8, 16}, data, sizeof data);
 *     size_t size;
 *     uint8_t *file = gb_finish(&b, &size);    // empties b; free(file) at the end
 *     gguf_parse(&g, "test", file, size, &e);
 *
 * Nothing is checked: wrong files are part of its purpose. Keys keep the order of the calls.
 * Include model.h first. */
#ifndef GGUF_BUILDER_H
#define GGUF_BUILDER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GB_ALIGN 32
#define GB_FN    static __attribute__((unused))

typedef struct {
    Bytes keys, infos, data;
    uint64_t n_keys, n_tensors;
} GgufBuilder;

/* ---------------------------------------------------------------- plain values, little-endian */

GB_FN void gb_uint(Bytes *b, uint64_t v, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++) {
        char c = (char)(v >> (8 * i) & 255);
        bytes_add(b, &c, 1);
    }
}

GB_FN void gb_f32_value(Bytes *b, float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    gb_uint(b, u, 4);
}

GB_FN void gb_str_value(Bytes *b, const char *s, size_t n)
{
    gb_uint(b, n, 8);
    bytes_add(b, s, n);
}

/* A key and its type; the value is for the caller to append to b->keys. */
GB_FN void gb_key(GgufBuilder *b, const char *key, uint32_t type)
{
    gb_str_value(&b->keys, key, strlen(key));
    gb_uint(&b->keys, type, 4);
    b->n_keys++;
}

/* A key that holds an array of n elements; they are for the caller to append to b->keys. */
GB_FN void gb_key_arr(GgufBuilder *b, const char *key, uint32_t elem, uint64_t n)
{
    gb_key(b, key, GGUF_ARR);
    gb_uint(&b->keys, elem, 4);
    gb_uint(&b->keys, n, 8);
}

/* ---------------------------------------------------------------- keys */

GB_FN void gb_key_u32(GgufBuilder *b, const char *key, uint32_t v)
{
    gb_key(b, key, GGUF_U32);
    gb_uint(&b->keys, v, 4);
}

GB_FN void gb_key_i32(GgufBuilder *b, const char *key, int32_t v)
{
    gb_key(b, key, GGUF_I32);
    gb_uint(&b->keys, (uint32_t)v, 4);
}

GB_FN void gb_key_f32(GgufBuilder *b, const char *key, float v)
{
    gb_key(b, key, GGUF_F32);
    gb_f32_value(&b->keys, v);
}

GB_FN void gb_key_bool(GgufBuilder *b, const char *key, int v)
{
    gb_key(b, key, GGUF_BOOL);
    gb_uint(&b->keys, v != 0, 1);
}

GB_FN void gb_key_str(GgufBuilder *b, const char *key, const char *v)
{
    gb_key(b, key, GGUF_STR);
    gb_str_value(&b->keys, v, strlen(v));
}

GB_FN void gb_key_strs(GgufBuilder *b, const char *key, const Str *v, size_t n)
{
    gb_key_arr(b, key, GGUF_STR, n);
    for (size_t i = 0; i < n; i++) gb_str_value(&b->keys, v[i].s, v[i].n);
}

GB_FN void gb_key_f32s(GgufBuilder *b, const char *key, const float *v, size_t n)
{
    gb_key_arr(b, key, GGUF_F32, n);
    for (size_t i = 0; i < n; i++) gb_f32_value(&b->keys, v[i]);
}

GB_FN void gb_key_i32s(GgufBuilder *b, const char *key, const int *v, size_t n)
{
    gb_key_arr(b, key, GGUF_I32, n);
    for (size_t i = 0; i < n; i++) gb_uint(&b->keys, (uint32_t)v[i], 4);
}

/* ---------------------------------------------------------------- tensors and the file */

GB_FN void gb_pad(Bytes *b)
{
    while (b->n % GB_ALIGN) bytes_add(b, "", 1);
}

/* ne[0] is the row length; bytes of data are copied (data NULL: zeros). */
GB_FN void gb_tensor(GgufBuilder *b, const char *name, int type, int n_dims, const int64_t *ne,
                     const void *data, size_t bytes)
{
    gb_str_value(&b->infos, name, strlen(name));
    gb_uint(&b->infos, (uint64_t)n_dims, 4);
    for (int i = 0; i < n_dims; i++) gb_uint(&b->infos, (uint64_t)ne[i], 8);
    gb_uint(&b->infos, (uint64_t)type, 4);
    gb_uint(&b->infos, b->data.n, 8);
    b->n_tensors++;
    if (data && bytes) bytes_add(&b->data, data, bytes);
    for (size_t i = 0; !data && i < bytes; i++) bytes_add(&b->data, "", 1);
    gb_pad(&b->data);
}

/* The whole file, from malloc; b is empty again. */
GB_FN uint8_t *gb_finish(GgufBuilder *b, size_t *size)
{
    Bytes f = {0};
    bytes_add(&f, "GGUF", 4);
    gb_uint(&f, 3, 4);
    gb_uint(&f, b->n_tensors, 8);
    gb_uint(&f, b->n_keys, 8);
    if (b->keys.n) bytes_add(&f, b->keys.s, b->keys.n);
    if (b->infos.n) bytes_add(&f, b->infos.s, b->infos.n);
    gb_pad(&f);
    if (b->data.n) bytes_add(&f, b->data.s, b->data.n);
    free(b->keys.s);
    free(b->infos.s);
    free(b->data.s);
    memset(b, 0, sizeof *b);
    *size = f.n;
    uint8_t *out = xrealloc(NULL, f.n, 1); /* exact size, so that sanitizers see an overrun */
    memcpy(out, f.s, f.n);
    free(f.s);
    return out;
}

/* ---------------------------------------------------------------- vocabularies */

/* Tokens and merges for a tokenizer; zero-initialise, add, then gb_vocab writes and empties it. */
typedef struct {
    Str *text, *merge;
    int *type;
    float *score;
    size_t n, n_merges;
} GbVocab;

GB_FN Str gb_copy(const char *s, size_t n)
{
    char *p = xrealloc(NULL, n + 1, 1);
    if (n) memcpy(p, s, n);
    p[n] = 0;
    return (Str){p, n};
}

/* Returns the id. type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. */
GB_FN int gb_token(GbVocab *v, const char *s, size_t n, int type, float score)
{
    v->text = xrealloc(v->text, v->n + 1, sizeof *v->text);
    v->type = xrealloc(v->type, v->n + 1, sizeof *v->type);
    v->score = xrealloc(v->score, v->n + 1, sizeof *v->score);
    v->text[v->n] = gb_copy(s, n);
    v->type[v->n] = type;
    v->score[v->n] = score;
    return (int)v->n++;
}

/* Bytes as the texts of byte-level BPE spell them: 0x21-0x7E, 0xA1-0xAC, 0xAE-0xFF are the code
 * points of the same number, the others 256, 257, ... */
GB_FN void gb_spell(Bytes *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned b = (unsigned char)s[i];
        unsigned c = b <= 0x20 ? 256 + b : b <= 0x7E ? b : b <= 0xA0 ? 289 + b - 0x7F : b;
        if (b == 0xAD) c = 323;
        char two[2] = {(char)(0xC0 | c >> 6), (char)(0x80 | (c & 0x3F))}, one = (char)c;
        bytes_add(out, c < 128 ? &one : two, c < 128 ? 1 : 2);
    }
}

/* A normal token of byte-level BPE that stands for n bytes; the id. */
GB_FN int gb_spelt_token(GbVocab *v, const char *s, size_t n)
{
    Bytes b = {0};
    gb_spell(&b, s, n);
    int id = gb_token(v, b.s, b.n, 1, 0);
    free(b.s);
    return id;
}

/* A merge of a and b, and the token it makes; the id. */
GB_FN int gb_merge(GbVocab *v, const char *a, size_t na, const char *b, size_t nb)
{
    Bytes m = {0};
    gb_spell(&m, a, na);
    size_t n = m.n;
    bytes_add(&m, " ", 1);
    gb_spell(&m, b, nb);
    v->merge = xrealloc(v->merge, v->n_merges + 1, sizeof *v->merge);
    v->merge[v->n_merges++] = gb_copy(m.s, m.n);
    memmove(m.s + n, m.s + n + 1, m.n - n - 1);
    int id = gb_token(v, m.s, m.n - 1, 1, 0);
    free(m.s);
    return id;
}

/* gpt2: 256 tokens, id = byte. llama: <unk>, <s>, </s>, then 256 tokens, id = 3 + byte. */
GB_FN void gb_byte_tokens(GbVocab *v, const char *model)
{
    int spm = !strcmp(model, "llama");
    if (spm) {
        gb_token(v, "<unk>", 5, 2, 0);
        gb_token(v, "<s>", 3, 3, 0);
        gb_token(v, "</s>", 4, 3, 0);
    }
    for (int i = 0; i < 256; i++) {
        char text[8], c = (char)i;
        snprintf(text, sizeof text, "<0x%02X>", i);
        if (spm)
            gb_token(v, text, 6, 6, 0);
        else
            gb_spelt_token(v, &c, 1);
    }
}

/* Writes the vocabulary; pre may be NULL. */
GB_FN void gb_vocab(GgufBuilder *b, GbVocab *v, const char *model, const char *pre)
{
    gb_key_str(b, "tokenizer.ggml.model", model);
    if (pre) gb_key_str(b, "tokenizer.ggml.pre", pre);
    gb_key_strs(b, "tokenizer.ggml.tokens", v->text, v->n);
    gb_key_i32s(b, "tokenizer.ggml.token_type", v->type, v->n);
    if (!strcmp(model, "llama"))
        gb_key_f32s(b, "tokenizer.ggml.scores", v->score, v->n);
    else
        gb_key_strs(b, "tokenizer.ggml.merges", v->merge, v->n_merges);
    for (size_t i = 0; i < v->n; i++) free((char *)(uintptr_t)v->text[i].s);
    for (size_t i = 0; i < v->n_merges; i++) free((char *)(uintptr_t)v->merge[i].s);
    free(v->text);
    free(v->merge);
    free(v->type);
    free(v->score);
    memset(v, 0, sizeof *v);
}

#endif
