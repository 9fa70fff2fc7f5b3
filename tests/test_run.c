/* The sampler and the chat templates: static functions of run.c, which is included whole. */
#define main run_main
int run_main(int argc, char **argv);
#include "../run.c"
#undef main

#include "check.h"
#include "gguf_builder.h"

static Sampler sampler(double temp)
{
    return (Sampler){.temp = temp, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 64, .rng = 7};
}

/* How often each of 4 tokens is drawn in n tries. */
static void draw(Sampler *sp, const float *logits, int n, int count[4])
{
    Tokens past = {0};
    memset(count, 0, 4 * sizeof *count);
    for (int i = 0; i < n; i++) {
        float copy[4];
        memcpy(copy, logits, sizeof copy);
        count[sample(sp, copy, 4, &past)]++;
    }
}

static void test_sampler(void)
{
    const float logits[4] = {logf(0.1f), logf(0.4f), logf(0.3f), logf(0.2f)};
    const double p[4] = {0.1, 0.4, 0.3, 0.2};
    int c[4];
    Sampler sp = sampler(0);
    draw(&sp, logits, 10, c);
    CHECK_MSG(c[1] == 10, "greedy took the best %d of 10 times", c[1]);
    sp = sampler(1);
    draw(&sp, logits, 10000, c);
    /* 10,000 draws: five standard deviations of a share p are at most 0.025. */
    for (int i = 0; i < 4; i++)
        CHECK_MSG(fabs(c[i] / 1e4 - p[i]) < 0.025, "token %d: %d of 10000, p %g", i, c[i], p[i]);
    sp = sampler(0.5); /* p^2, normalised: 0.16 of 0.30 */
    draw(&sp, logits, 10000, c);
    CHECK_MSG(fabs(c[1] / 1e4 - 0.16 / 0.30) < 0.025, "temperature 0.5: %d of 10000", c[1]);
    sp = sampler(1), sp.top_k = 2;
    draw(&sp, logits, 1000, c);
    CHECK_MSG(c[1] + c[2] == 1000 && c[2] > 0, "top-k 2: %d %d %d %d", c[0], c[1], c[2], c[3]);
    sp = sampler(1), sp.top_p = 0.65; /* 0.4 + 0.3 reaches it */
    draw(&sp, logits, 1000, c);
    CHECK_MSG(c[1] + c[2] == 1000 && c[2] > 0, "top-p: %d %d %d %d", c[0], c[1], c[2], c[3]);
    sp = sampler(1), sp.min_p = 0.6; /* 0.6 * 0.4 = 0.24 */
    draw(&sp, logits, 1000, c);
    CHECK_MSG(c[1] + c[2] == 1000 && c[2] > 0, "min-p: %d %d %d %d", c[0], c[1], c[2], c[3]);
    sp = sampler(1), sp.top_p = 0;
    draw(&sp, logits, 100, c);
    CHECK_MSG(c[1] == 100, "top-p 0 keeps the best: %d of 100", c[1]);
}

/* SplitMix64 with state 0 begins with these (Vigna's reference code). */
static void test_rng(void)
{
    uint64_t s = 0;
    CHECK(rng_next(&s) == 0xe220a8397b1dcdafu && rng_next(&s) == 0x6e789e6aa1b965f4u);
    for (int i = 0; i < 1000; i++) {
        double u = rng_unit(&s);
        CHECK(u >= 0 && u < 1);
    }
}

static void test_penalty(void)
{
    int ids[] = {3, 1, 1, 0};
    Tokens past = {.id = ids, .n = 4};
    float logits[4] = {2, -2, 5, 8};
    Sampler sp = sampler(0);
    sp.repeat_penalty = 2;
    sp.repeat_last_n = 3; /* the 3 at the front is too long ago */
    penalize(&sp, logits, &past);
    CHECK(logits[0] == 1 && logits[1] == -4 && logits[2] == 5 && logits[3] == 8);
}

/* A vocabulary with "</s>" as EOS and the given template. */
static void check_chat(const char *template, const char *name, const char *want)
{
    GgufBuilder b = {0};
    GbVocab v = {0};
    Gguf g;
    Err e = {.usage = 0};
    size_t size;
    const ChatTemplate *ct = NULL;
    Bytes out = {0};
    gb_token(&v, "<s>", 3, 3, 0);
    gb_token(&v, "</s>", 4, 3, 0);
    gb_token(&v, "a", 1, 1, 0);
    gb_vocab(&b, &v, "llama", NULL);
    gb_key_u32(&b, "tokenizer.ggml.eos_token_id", 1);
    gb_key_str(&b, "tokenizer.chat_template", template);
    uint8_t *file = gb_finish(&b, &size);
    int found = gguf_parse(&g, "chat.gguf", file, size, &e) ? -2 : chat_template(&g, &ct, &e);
    Tokenizer *t = tok_new(&g, NULL, &e);
    CHECK_MSG(found == (name ? 1 : -1), "template %s: %d %s", name ? name : "unknown", found,
              e.msg);
    CHECK_MSG(t != NULL, "%s", e.msg);
    if (found == 1 && t) {
        chat_turn(ct, t, "S", "U", &out);
        end_answer(ct, t, 1, &out); /* the model itself ended with </s> */
        end_answer(ct, t, 2, &out); /* it was cut off */
        CHECK_MSG(!strcmp(ct->name, name) && !strcmp(out.s, want), "%s: %s", ct->name, out.s);
    }
    free(out.s);
    tok_free(t);
    gguf_close(&g);
    free(file);
}

static void test_chat(void)
{
    check_chat("{{'<|im_start|>'}}", "chatml",
               "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
               "<|im_start|>assistant\n<|im_end|>\n<|im_end|>\n");
    check_chat("[INST] <<SYS>>", "llama-2", "[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST]</s>");
    check_chat("bos_token + '[INST] <<SYS>>", "llama-2",
               "[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST]<s></s><s>");
    check_chat("[SYSTEM_PROMPT] [INST]", "mistral-v7",
               "[SYSTEM_PROMPT] S[/SYSTEM_PROMPT][INST] U[/INST]</s>");
    check_chat("[AVAILABLE_TOOLS] [INST]", "mistral-v1", " [INST] S\n\nU [/INST]</s>");
    check_chat("[AVAILABLE_TOOLS]\"[INST]\"", "mistral-v3-tekken", "[INST]S\n\nU[/INST]</s>");
    check_chat("<|start_header_id|><|end_header_id|>", "llama-3",
               "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
               "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\n<|eot_id|><|eot_id|>");
    check_chat("<start_of_turn>", "gemma",
               "<start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\n"
               "<end_of_turn>\n<end_of_turn>\n");
    check_chat("<|user|> eos_token", "zephyr",
               "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\n\n</s>\n");
    check_chat("{{ something else }}", NULL, NULL);
}

static void test_words(void)
{
    CHECK(edit_distance("thread", "threads") == 1 && edit_distance("abc", "abc") == 0);
    CHECK(edit_distance("kitten", "sitting") == 3);
    char arg[] = "--temp=0.5", flag[] = "-t=3";
    CHECK(!strcmp(cut_value(arg), "0.5") && !strcmp(arg, "--temp") && !cut_value(flag));
}

int main(void)
{
    test_rng();
    test_sampler();
    test_penalty();
    test_chat();
    test_words();
    return check_done();
}
