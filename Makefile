# ropescope. No autodetection beyond the processor family: the program picks its kernels at run
# time. Objects of each configuration live in a folder of their own under build/.
#
#   make            the program                make test   build and pass the tests
#   make demo       run it on the small model  make bench  measure speed on the small model
#   make debug      with ASan and UBSan        make debug-test   pass the tests with them
#   make fuzz       libFuzzer targets (needs clang)
#   make install PREFIX=/usr/local             make clean
#
# OMP=0 builds without OpenMP; CC=clang, CFLAGS=... as usual.

CC      = cc
CFLAGS  = -O3
OS     := $(shell uname -s)
OMP     = $(if $(filter Darwin,$(OS)),0,1)
PREFIX  = /usr/local
ARCH   := $(shell uname -m)

STD     = -std=gnu11 -ffp-contract=off -DCONTRACT_OFF -fno-math-errno
WARN    = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wdouble-promotion \
          -Wvla -Wno-psabi -Wno-unknown-pragmas
LIBS    = -lm
FLAGS   = $(CC) $(CFLAGS) $(LDFLAGS)
BUILD  := build/$(lastword $(notdir $(CC)))-omp$(OMP)-$(shell echo '$(FLAGS)' | cksum | cut -d' ' -f1)

ifeq ($(OMP),1)
ifeq ($(OS),Darwin)
OMPFLAGS = -Xpreprocessor -fopenmp
LIBS    += -lomp
else
OMPFLAGS = -fopenmp
endif
endif

SOURCES = run.c tokenizer.c analysis.c $(wildcard rope/*.c)
ifneq ($(filter x86_64 amd64,$(ARCH)),)
SOURCES += kernels/avx2.c kernels/avx512.c kernels/vnni.c
DEFS     = -DKERNELS_X86
# gcc and clang know the tile instructions since version 11.
ifeq ($(shell $(CC) -mamx-tile -mamx-int8 -E -x c /dev/null >/dev/null 2>&1 && echo yes),yes)
SOURCES += kernels/amx.c
DEFS    += -DKERNELS_AMX
TILES    = -mamx-tile -mamx-int8
endif
endif
ifneq ($(filter aarch64 arm64,$(ARCH)),)
SOURCES += kernels/neon.c kernels/dotprod.c kernels/i8mm.c
DEFS     = -DKERNELS_ARM
endif
OBJECTS = $(SOURCES:%.c=$(BUILD)/%.o)
AVX2     = -mavx2 -mfma -mf16c
AVX512   = $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl
$(BUILD)/kernels/avx2.o:   ISA = $(AVX2)
$(BUILD)/kernels/avx512.o: ISA = $(AVX512)
VNNI     = $(AVX512) -mavx512vnni
AMX      = $(VNNI) $(TILES)
$(BUILD)/kernels/vnni.o:   ISA = $(VNNI)
$(BUILD)/kernels/amx.o:    ISA = $(AMX)
$(BUILD)/kernels/dotprod.o: ISA = -march=armv8.2-a+dotprod
$(BUILD)/kernels/i8mm.o:    ISA = -march=armv8.2-a+dotprod+i8mm

# V=1 shows the commands.
Q       = $(if $(V),,@)
COMPILE = $(CC) $(STD) $(CFLAGS) $(OMPFLAGS) $(WARN) $(DEFS) $(ISA) -MMD -MP -c

all: ropescope

# The program of the last configuration built, where people look for it; left alone where it is that
# already, so that a built checkout need not be writable.
ropescope: $(BUILD)/ropescope
	@cmp -s $< $@ || { cp -p $< $@.tmp && mv $@.tmp $@; }

$(BUILD)/ropescope: $(OBJECTS)
	@echo "  LD $@"
	$(Q)$(CC) $(CFLAGS) $(OMPFLAGS) -o $@ $(OBJECTS) $(LDFLAGS) $(LIBS)

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D) && echo "  CC $<"
	$(Q)$(COMPILE) -o $@ $<

$(BUILD)/analysis.o: report.html

# Tests: each tests/test_*.c is a program, linked with everything but main.
LIBRARY = $(OBJECTS:$(BUILD)/run.o=$(BUILD)/run_lib.o) $(BUILD)/tests/ref.o
TESTS   = $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))

$(BUILD)/run_lib.o: run.c Makefile
	@mkdir -p $(@D) && echo "  CC $< (without main)"
	$(Q)$(COMPILE) -DRUN_NO_MAIN -o $@ $<

$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(LIBRARY)
	@echo "  LD $@"
	$(Q)$(CC) $(CFLAGS) $(OMPFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)

# test_run.c, test_sweep.c and test_quantize.c include run.c, to reach its static functions.
WHOLE = $(BUILD)/tests/test_run $(BUILD)/tests/test_sweep $(BUILD)/tests/test_quantize
$(WHOLE): %: %.o $(filter-out $(BUILD)/run_lib.o,$(LIBRARY))
	@echo "  LD $@"
	$(Q)$(CC) $(CFLAGS) $(OMPFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)

# test_stats.c and test_probe.c include analysis.c, likewise.
STATIC = $(BUILD)/tests/test_stats $(BUILD)/tests/test_probe
$(STATIC:%=%.o): report.html
$(STATIC): %: %.o $(filter-out $(BUILD)/analysis.o,$(LIBRARY))
	@echo "  LD $@"
	$(Q)$(CC) $(CFLAGS) $(OMPFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)

# test_amx.c includes kernels/amx.c, over a model of the tile instructions.
ifneq ($(filter x86_64 amd64,$(ARCH)),)
$(BUILD)/tests/test_amx.o: ISA = $(AMX)
endif

# The tools that made the demo model; see demo/Makefile.
TOOLS = $(BUILD)/demo/train $(BUILD)/demo/bpe
$(TOOLS): %: %.o $(filter-out $(BUILD)/tests/ref.o,$(LIBRARY))
	@echo "  LD $@"
	$(Q)$(CC) $(CFLAGS) $(OMPFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)

demo-tools: $(TOOLS)
	@cp -p $(BUILD)/demo/train demo/train && cp -p $(BUILD)/demo/bpe demo/bpe

test: ropescope $(TESTS) $(TOOLS) $(BUILD)/tests/dump_logits
	@sh tests/all.sh $(BUILD) $(TESTS)

tests: ropescope $(TESTS) $(TOOLS)

# One of them: make test-rope_matrix runs tests/test_rope_matrix.c.
test-%: $(BUILD)/tests/test_%
	@$<

# The trainer from outside: a short run must give the recorded bits.
test-train_cli: ropescope $(TOOLS)
	@sh tests/test_train_cli.sh $(BUILD)/ropescope

SANITIZE = -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
debug:
	$(MAKE) CFLAGS="$(SANITIZE)" all

debug-test:
	$(MAKE) CFLAGS="$(SANITIZE)" test

# Logits and statistics against Hugging Face (needs PyPI packages):
# make compare MODEL=model.gguf TEXT=text.txt
N      = 64
PYTHON ?= python3
$(BUILD)/tests/dump_%: $(BUILD)/tests/dump_%.o $(LIBRARY)
	@echo "  LD $@"
	$(Q)$(CC) $(CFLAGS) $(OMPFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)
compare: ropescope $(BUILD)/tests/dump_logits
	$(PYTHON) tests/compare_hf.py $(BUILD)/ropescope $(BUILD)/tests/dump_logits $(MODEL) $(TEXT) $(N)
	$(PYTHON) tests/compare_stats.py $(BUILD)/ropescope $(MODEL) $(TEXT) $(N)

# Ids and texts against Hugging Face tokenizers or sentencepiece (needs these PyPI packages):
# make compare-tokens TOKENIZER=tokenizer.json
compare-tokens: $(BUILD)/tests/dump_tokens
	$(PYTHON) tests/compare_tokenizers.py $< $(TOKENIZER)

bench: ropescope
	./ropescope bench demo/model.gguf

# PAGE=FILE puts the page elsewhere.
PAGE    = demo.html
demo: ropescope
	@sh demo/demo.sh ./ropescope "$(PAGE)"

FUZZ = $(patsubst tests/%.c,build/fuzz/%,$(wildcard tests/fuzz_*.c))
fuzz: $(FUZZ)
build/fuzz/%: tests/%.c $(SOURCES) model.h report.html
	@mkdir -p $(@D) && echo "  FUZZ $<"
	$(Q)clang $(STD) -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
	  -Wno-unknown-pragmas -DRUN_NO_MAIN -o $@ $< $(filter-out kernels/%,$(SOURCES)) -lm

install: ropescope
	mkdir -p $(DESTDIR)$(PREFIX)/bin
	cp ropescope $(DESTDIR)$(PREFIX)/bin/ropescope

clean:
	rm -rf build ropescope demo.html demo/train demo/bpe

.PHONY: all test tests demo-tools debug debug-test compare bench demo fuzz install clean ropescope
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
