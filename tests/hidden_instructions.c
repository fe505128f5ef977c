/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes a process detect a CPU without AVX-512, AMX and VNNI, at native speed; see hidden_instructions.py.
 *
 * 1. In the copies of the runtimes' libraries, cpuid (0f a2) is replaced by ud2 (0f 0b), which raises SIGILL. The
 *    handler runs cpuid and clears the bits of the hidden instructions.
 * 2. A reader of /proc/cpuinfo gets the text without their flags.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(number) (1u << (number))

static void hide_features(uint32_t leaf, uint32_t subleaf, uint32_t registers[4]) {
  if (leaf != 7) return;
  if (subleaf == 0) {
    /* AVX512F, DQ, IFMA, PF, ER, CD, BW, VL */
    registers[1] &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
    /* AVX512_VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ */
    registers[2] &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
    /* AVX512_4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8 */
    registers[3] &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
  } else if (subleaf == 1) {
    registers[0] &= ~(BIT(4) | BIT(5) | BIT(21)); /* AVX-VNNI, AVX512-BF16, AMX-FP16 */
    registers[3] = 0;                             /* AVX-VNNI-INT8, AVX-NE-CONVERT, AVX10 ... */
  }
}

typedef int (*sigaction_function)(int, const struct sigaction *, struct sigaction *);

static sigaction_function real_sigaction(void) {
  static sigaction_function real;
  if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "sigaction");
  return real;
}

static void on_illegal_instruction(int number, siginfo_t *info, void *context) {
  (void)info;
  greg_t *saved = ((ucontext_t *)context)->uc_mcontext.gregs;
  const uint8_t *instruction = (const uint8_t *)saved[REG_RIP];
  if (instruction[0] != 0x0f || instruction[1] != 0x0b) { /* another SIGILL */
    struct sigaction standard = {0};
    real_sigaction()(number, &standard, NULL);
    return;
  }
  uint32_t leaf = (uint32_t)saved[REG_RAX], subleaf = (uint32_t)saved[REG_RCX], found[4];
  __cpuid_count(leaf, subleaf, found[0], found[1], found[2], found[3]);
  hide_features(leaf, subleaf, found);
  saved[REG_RAX] = found[0];
  saved[REG_RBX] = found[1];
  saved[REG_RCX] = found[2];
  saved[REG_RDX] = found[3];
  saved[REG_RIP] += 2;
}

/* No other handler may replace this one, as Python's faulthandler (enabled by pytest) would. */
int sigaction(int number, const struct sigaction *action, struct sigaction *earlier) {
  return real_sigaction()(number, number == SIGILL ? NULL : action, earlier);
}

__attribute__((constructor)) static void install(void) {
  struct sigaction action = {0};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  real_sigaction()(SIGILL, &action, NULL);
}

static int hidden_flag(const char *word) {
  return strncmp(word, "avx512", 6) == 0 || strncmp(word, "amx_", 4) == 0 || strncmp(word, "avx_vnni", 8) == 0;
}

/* A file in memory with the text of /proc/cpuinfo, without the hidden flags. */
static int filtered_cpuinfo(void) {
  FILE *source = fopen("/proc/self/root/proc/cpuinfo", "r");
  if (source == NULL) return -1;
  int target = memfd_create("cpuinfo", 0);
  char *line = NULL;
  size_t capacity = 0;
  while (target >= 0 && getline(&line, &capacity, source) >= 0) {
    char *rest = line, *word;
    while ((word = strsep(&rest, " ")) != NULL) {
      if (!hidden_flag(word)) dprintf(target, rest == NULL ? "%s" : "%s ", word);
    }
  }
  free(line);
  fclose(source);
  if (target >= 0) lseek(target, 0, SEEK_SET);
  return target;
}

#define WRAP(name)                                                                   \
  int name(const char *path, int flags, ...) {                                       \
    static int (*real)(const char *, int, ...);                                      \
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, #name);                     \
    if (strcmp(path, "/proc/cpuinfo") == 0) return filtered_cpuinfo();               \
    va_list arguments;                                                               \
    va_start(arguments, flags);                                                      \
    mode_t mode = va_arg(arguments, mode_t);                                         \
    va_end(arguments);                                                               \
    return real(path, flags, mode);                                                  \
  }
WRAP(open)
WRAP(open64)
