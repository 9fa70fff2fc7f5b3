/* A tokenizer from a hand-made vocabulary. Include model.h, check.h and gguf_builder.h first. */
#ifndef VOCAB_H
#define VOCAB_H

typedef struct {
    uint8_t *file;
    Gguf g;
    Tokenizer *t;
    Err e;
} Fixture;

/* Opens the vocabulary; b may hold further keys. t is NULL when it was refused. */
static void open_vocab(Fixture *f, GgufBuilder *b, GbVocab *v, const char *model, const char *pre)
{
    size_t size;
    memset(f, 0, sizeof *f);
    gb_vocab(b, v, model, pre);
    f->file = gb_finish(b, &size);
    if (CHECK_MSG(!gguf_parse(&f->g, "test.gguf", f->file, size, &f->e), "%s", f->e.msg))
        f->t = tok_new(&f->g, NULL, &f->e);
}

static void close_vocab(Fixture *f)
{
    tok_free(f->t);
    gguf_close(&f->g);
    free(f->file);
}

#endif
