/* Raw logits for comparison with other programs: dump_logits MODEL IDS OUT [exact|int8 [ROPE]]
 * IDS: token ids between white space; OUT: float32 [T][V], nothing added. See compare_hf.py. */
#include "../model.h"

#include <stdlib.h>
#include <string.h>

static int dump(const char *model, const Tokens *ids, const char *out, int exact, const char *rope,
                Err *e)
{
    Model m;
    ModelOptions mo = {.rope = rope};
    State s;
    StateOptions so = {.n_ctx = (int)ids->n, .n_batch = 64, .exact = exact};
    if (model_open(&m, model, &mo, e)) return -1;
    if (state_new(&s, &m, &so, e)) return -1;
    FILE *f = fopen(out, "wb");
    if (!f) return err_set(e, "%s: cannot be written", out);
    for (int i = 0; i < (int)ids->n; i += s.n_batch) {
        int n = (int)ids->n - i < s.n_batch ? (int)ids->n - i : s.n_batch;
        forward(&s, ids->id + i, n, n);
        fwrite(s.logits, sizeof(float), (size_t)n * (size_t)m.n_vocab, f);
    }
    int bad = ferror(f) | fclose(f);
    state_free(&s);
    model_close(&m);
    return bad ? err_set(e, "%s: writing failed", out) : 0;
}

int main(int argc, char **argv)
{
    Bytes text = {0};
    Tokens ids = {0};
    Err e;
    if (argc < 4) die("usage: dump_logits MODEL IDS OUT [exact|int8 [ROPE]]");
    if (bytes_read(&text, argv[2], &e)) die("%s", e.msg);
    for (char *p = text.s, *end; *p; p = end) {
        long id = strtol(p, &end, 10);
        if (end == p) break;
        tokens_add(&ids, (int)id);
    }
    if (!ids.n) die("%s: no token ids", argv[2]);
    int exact = argc < 5 || strcmp(argv[4], "int8");
    if (dump(argv[1], &ids, argv[3], exact, argc > 5 ? argv[5] : NULL, &e)) die("%s", e.msg);
    free(text.s);
    free(ids.id);
    return 0;
}
