/* The miniatures: tests/families/NAME.gguf and NAME.logits, made by make_miniatures.py. */
#ifndef FAMILY_NAMES_H
#define FAMILY_NAMES_H

static const char *const family_names[] = {"llama",
                                           "llama-bias",
                                           "mistral",
                                           "phi2",
                                           "gptneox",
                                           "gptneox-sequential",
                                           "qwen2",
                                           "qwen3",
                                           "gemma",
                                           "gemma2",
                                           "gemma3",
                                           "smollm3",
                                           "granite",
                                           "olmo",
                                           "olmo2",
                                           "stablelm",
                                           "stablelm-parallel",
                                           "phi3",
                                           "phi3-long",
                                           "starcoder2",
                                           "gptj",
                                           "olmo3",
                                           "olmoe",
                                           "qwen2moe",
                                           "qwen3moe",
                                           "qwen3moe-dense",
                                           "mixtral"};
enum { N_FAMILIES = sizeof family_names / sizeof *family_names };

#endif
