/* Files of the tests of the trainer. Include demo/train.c and check.h first. */
#ifndef TRAIN_FILES_H
#define TRAIN_FILES_H

/* mkdtemp makes it. */
static char folder[] = P_tmpdir "/test_train_XXXXXX";

/* The path of a file there; the last four stay valid. */
static const char *path_of(const char *name)
{
    static char path[4][256];
    static int k;
    k = (k + 1) % 4;
    snprintf(path[k], sizeof path[k], "%s/%s", folder, name);
    return path[k];
}

/* A vocabulary of n control tokens in the file at path; bos: that asks for the first in front. */
static void write_vocab(const char *path, int n, int bos)
{
    GgufOut w;
    Err e;
    Str *list = xcalloc((size_t)n, sizeof *list);
    int32_t *type = xcalloc((size_t)n, sizeof *type);
    char(*text)[16] = xcalloc((size_t)n, sizeof *text);
    for (int i = 0; i < n; i++) {
        snprintf(text[i], sizeof *text, "t%d", i);
        list[i] = (Str){text[i], strlen(text[i])};
        type[i] = 1;
    }
    MUST(gguf_out_open(&w, path, &e) == 0);
    gguf_out_str(&w, "tokenizer.ggml.model", "gpt2");
    gguf_out_str(&w, "tokenizer.ggml.pre", "gpt-2");
    gguf_out_strs(&w, "tokenizer.ggml.tokens", list, (size_t)n);
    gguf_out_ints(&w, "tokenizer.ggml.token_type", type, (size_t)n);
    gguf_out_strs(&w, "tokenizer.ggml.merges", list, 0);
    if (bos) {
        gguf_out_int(&w, "tokenizer.ggml.bos_token_id", GGUF_U32, 0);
        gguf_out_bool(&w, "tokenizer.ggml.add_bos_token", 1);
    }
    MUST(gguf_out_close(&w, &e) == 0);
    free(list);
    free(type);
    free(text);
}

#endif
