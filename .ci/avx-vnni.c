// Loaded before a program (LD_PRELOAD), does AVX-VNNI's `vpdpbusd` for a CPU that lacks it: each raises SIGILL, is
// decoded and executed on the saved registers, and the program goes on behind it. Anything else that is illegal
// ends the program as it would have. At its end it says how many there were.
//
// Formats: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, 13.4 (XSAVE area) and volume 2,
// 2.1.5 (ModR/M, SIB), 2.3.5 (VEX) and VPDPBUSD.
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

enum { FIRST_XMM = 160, XSTATE_BV = 512, SSE = 2, AVX = 4 };

typedef union {
    uint8_t bytes[32];
    int8_t signed_bytes[32];
    uint32_t sums[8];
} Vector;

static unsigned long emulated;
static uint32_t first_upper_half; // offset of the upper halves of the ymm registers in the XSAVE area

static Vector get(const uint8_t *area, int number) {
    Vector vector = {0};
    memcpy(vector.bytes, area + FIRST_XMM + 16 * number, 16);
    if (area[XSTATE_BV] & AVX) memcpy(vector.bytes + 16, area + first_upper_half + 16 * number, 16);
    return vector;
}

static void put(uint8_t *area, int number, const Vector *vector) {
    if (!(area[XSTATE_BV] & AVX)) memset(area + first_upper_half, 0, 16 * 16);
    area[XSTATE_BV] |= SSE | AVX;
    memcpy(area + FIRST_XMM + 16 * number, vector->bytes, 16);
    memcpy(area + first_upper_half + 16 * number, vector->bytes + 16, 16);
}

static int64_t general(const ucontext_t *context, int number) {
    static const int places[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return context->uc_mcontext.gregs[places[number]];
}

static int64_t displacement(const uint8_t **code, int bytes) {
    int32_t value = (int8_t)**code;
    if (bytes == 4) memcpy(&value, *code, 4);
    *code += bytes;
    return value;
}

// The address that ModR/M and what follows it name. Leaves `code` at the end of the instruction.
static const void *address(const ucontext_t *context, const uint8_t **code, int index_high, int base_high) {
    const uint8_t modrm = *(*code)++;
    const int mode = modrm >> 6, low = modrm & 7;
    if (low == 5 && mode == 0) {
        const int64_t offset = displacement(code, 4);
        return (const void *)((int64_t)*code + offset);
    }
    int64_t sum = 0;
    int base = low;
    if (low == 4) {
        const uint8_t sib = *(*code)++;
        const int index = (sib >> 3 & 7) | index_high;
        if (index != 4) sum += general(context, index) * (1 << (sib >> 6));
        base = sib & 7;
    }
    if (low == 4 && base == 5 && mode == 0) return (const void *)(sum + displacement(code, 4));
    sum += general(context, base | base_high);
    if (mode == 1) sum += displacement(code, 1);
    if (mode == 2) sum += displacement(code, 4);
    return (const void *)sum;
}

static void on_illegal(int number, siginfo_t *info, void *pointer) {
    (void)info;
    ucontext_t *context = pointer;
    uint8_t *area = (uint8_t *)context->uc_mcontext.fpregs;
    const uint8_t *code = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP];
    // VEX of three bytes, map 0F38, W 0, prefix 66, 256 bits, opcode 50.
    if (code[0] != 0xc4 || (code[1] & 31) != 2 || (code[2] & 0x87) != 5 || code[3] != 0x50) {
        signal(number, SIG_DFL); // and the instruction is tried again
        return;
    }
    const int reg_high = code[1] & 0x80 ? 0 : 8, index_high = code[1] & 0x40 ? 0 : 8, base_high = code[1] & 0x20 ? 0 : 8;
    const int unsigned_factor = ~code[2] >> 3 & 15, target = (code[4] >> 3 & 7) | reg_high;
    code += 4;
    Vector sums = get(area, target), signed_bytes;
    const Vector unsigned_bytes = get(area, unsigned_factor);
    if (*code >> 6 == 3) {
        signed_bytes = get(area, (*code & 7) | base_high);
        code += 1;
    } else {
        memcpy(signed_bytes.bytes, address(context, &code, index_high, base_high), 32);
    }
    for (int i = 0; i < 32; i++)
        sums.sums[i / 4] += (uint32_t)(unsigned_bytes.bytes[i] * signed_bytes.signed_bytes[i]);
    put(area, target, &sums);
    context->uc_mcontext.gregs[REG_RIP] = (int64_t)code;
    __atomic_fetch_add(&emulated, 1, __ATOMIC_RELAXED);
}

__attribute__((constructor)) static void begin(void) {
    unsigned size, offset, ecx, edx;
    if (!__get_cpuid_count(13, 2, &size, &offset, &ecx, &edx)) return;
    first_upper_half = offset;
    struct sigaction action = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigaction(SIGILL, &action, NULL);
}

__attribute__((destructor)) static void end(void) { fprintf(stderr, "%lu vpdpbusd emulated\n", emulated); }
