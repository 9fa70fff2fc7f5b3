/* libFuzzer: bytes as the file of checkpoints beside a reading, and the page of both.
 *
 *   make fuzz && python3 tests/test_emergence.py --seeds SEEDS_FOLDER
 *   build/fuzz/fuzz_emergence SEEDS_FOLDER */
#include "../model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char beside[] = "{\"schema\":\"ropescope.analysis/2\",\"provenance\":{"
                                 "\"model_sha256\":\"aa\"},\"summary\":{},\"layers\":[]}";
    Err e = {.usage = 0};
    char *exact = malloc(size ? size : 1), *page = NULL; /* of the exact size: an overrun shows */
    size_t n = 0;
    FILE *f = open_memstream(&page, &n);
    memcpy(exact, data, size);
    PageFile reading = {"reading", {beside, sizeof beside - 1}}, none = {NULL, {NULL, 0}};
    PageFile emergence = {"fuzz", {exact, size}};
    int rc = report_html(&reading, &none, &emergence, f, &e);
    if (fclose(f)) abort();
    if (rc ? !strstr(e.msg, "fuzz") : !strstr(page, "How it came to be")) abort();
    free(page);
    free(exact);
    return 0;
}
