/* Positions that are real numbers, such as times (RoMAE, arXiv:2505.20535). */
#include "../model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int add_position(Rope *r, const char *text, size_t n, Err *e)
{
    char *end;
    double v = strtod(text, &end);
    if (end != text + n || !(fabs(v) <= 1e15) || r->n_positions == INT32_MAX)
        return err_set(e, "%s: position %d: expected a number from -1e15 to 1e15, found '%.*s'",
                       r->file, r->n_positions, n < 40 ? (int)n : 40, text);
    if (!(r->n_positions & (r->n_positions - 1)))
        r->positions = xrealloc(r->positions, 2 * (size_t)r->n_positions + 1, sizeof v);
    r->positions[r->n_positions++] = v;
    return 0;
}

/* A text of numbers, apart by blanks, commas or new lines. */
static int continuous_load(Rope *r, RopeSource *s, Err *e)
{
    static const char apart[] = " \t\r\n,";
    Bytes b = {0};
    (void)s;
    if (!r->file) return 0;
    if (strcmp(r->file, "-") == 0) /* every layer reads it */
        return err_usage(e, "--rope continuous: file: expected the name of a file, found '-'");
    int rc = bytes_read(&b, r->file, e);
    for (size_t i = 0, n; !rc && i < b.n; i += n) {
        i += strspn(b.s + i, apart);
        n = strcspn(b.s + i, apart);
        if (i < b.n) rc = add_position(r, b.s + i, n ? n : 1, e);
    }
    free(b.s);
    if (!rc && !r->n_positions)
        rc = err_set(e, "%s: expected a text of numbers, the position of each token", r->file);
    return rc;
}

static int continuous_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    return rope_plain.freqs(r, length, inv_freq, amplitude, e);
}

/* pos_shift + pos_scale x_t; past the end of the list x goes on by 1 per token. */
static double continuous_position(const Rope *r, int t)
{
    int n = r->n_positions;
    double x = t < n ? r->positions[t] : n ? r->positions[n - 1] + (t - n + 1.0) : t;
    return r->p.pos_shift + r->p.pos_scale * x;
}

const RopeKind rope_continuous = {
    .name = "continuous",
    .formula = "angle = x_t base^(-2j/n_rot), x_t a real number for each token t",
    .source = "arXiv:2505.20535",
    .summary = "positions are real numbers from a list: times, places",
    .detail = "file: a text of numbers, apart by blanks, commas or new lines: x_t of token t, from "
              "the first token on (one that is put before the text counts). They are double "
              "precision, so that time stamps keep their last digits. A text longer than the list "
              "goes on by 1 per token from its last number. Each window of a longer text begins "
              "with the first number again. pos_scale and pos_shift apply to the numbers. It costs "
              "nothing. The numbers 0, 1, 2, ... are plain RoPE, and so is no file; another "
              "start changes logits by rounding alone.",
    .own_file = 1,
    .load = continuous_load,
    .freqs = continuous_freqs,
    .position = continuous_position,
};
