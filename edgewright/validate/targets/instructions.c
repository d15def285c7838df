/* A qemu user-mode plugin (API version 1: qemu 6 to 8) that counts executed Arm instructions by class.
 *
 * The guest marks a place by getpgid(MARK); each mark writes one line of running totals: integer, SIMD and floating
 * point, load/store, branch and system. Classes are the top-level encoding groups of the Arm Architecture Reference
 * Manuals: A64 (DDI 0487, section C4.1), A32 and T32 (DDI 0406, chapters A5 and A6). A load that writes the program
 * counter counts as a load. The declarations below are those of qemu-plugin.h, which Debian
 * does not ship. One guest thread is assumed: counters are not atomic.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*syscall_cb)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, trans_cb);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_cb);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);

int qemu_plugin_version = 1;

enum { INTEGER, SIMD, LOAD_STORE, BRANCH, CLASSES };
#if !defined MARK || !defined SYSCALL_GETPGID || !defined ARMV7
#error "arm.py defines MARK as in edgewright_runtime/bench.py, the number of getpgid, and which instruction set runs"
#endif

static uint64_t counts[CLASSES];
static FILE *out;

#if !ARMV7

static int class_of(uint32_t word)
{
    uint32_t op0 = (word >> 25) & 0xf;
    if ((op0 & 0x5) == 0x4)
        return LOAD_STORE;
    if ((op0 & 0xe) == 0xa)
        return BRANCH;
    if ((op0 & 0x7) == 0x7 || op0 == 0x2) /* op0 0010 is SVE */
        return SIMD;
    return INTEGER;
}

static int class_at(struct qemu_plugin_tb *block, size_t i)
{
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
    return class_of(word);
}

#else

/* Coprocessors 10 and 11 are floating point and SIMD (A7.5 to A7.9); others are the system's. */
static int coprocessor(uint32_t word)
{
    if (((word >> 9) & 0x7) != 0x5)
        return BRANCH;
    if (word & (1u << 25))
        return SIMD;
    return ((word >> 21) & 0xf) == 0x2 ? SIMD : LOAD_STORE; /* 1100010x moves two core registers */
}

static int class_of_a32(uint32_t word)
{
    uint32_t op1 = (word >> 25) & 0x7;
    if (word >> 28 == 0xf) { /* A5.7, unconditional */
        if (op1 == 1)
            return SIMD;
        if (op1 == 2 || op1 == 3)
            return LOAD_STORE; /* SIMD structures, preloads */
        return op1 >= 6 ? coprocessor(word) : BRANCH;
    }
    switch (op1) {
    case 0:
        if ((word & 0x0fffffd0) == 0x012fff10)
            return BRANCH; /* BX, BLX */
        if ((word & 0x90) == 0x90 && ((word & 0x60) || (word & 0x01000000)))
            return LOAD_STORE; /* halfwords, doublewords, exclusives */
        return INTEGER;
    case 1:
        return INTEGER;
    case 3:
        return word & 0x10 ? INTEGER : LOAD_STORE;
    case 2:
    case 4:
        return LOAD_STORE;
    case 5:
        return BRANCH;
    default:
        return (word & 0x0f000000) == 0x0f000000 ? BRANCH : coprocessor(word);
    }
}

static int class_of_t16(uint16_t half)
{
    if (half >> 12 == 0xd || half >> 11 == 0x1c || half >> 8 == 0x47 || (half & 0xf500) == 0xb100)
        return BRANCH;
    if (half >> 11 == 0x09 || half >> 12 == 0x5 || half >> 13 == 0x3 || half >> 13 == 0x4 || half >> 12 == 0xc ||
        (half & 0xf600) == 0xb400)
        return LOAD_STORE;
    return INTEGER;
}

static int class_of_t32(uint16_t first, uint16_t second)
{
    uint32_t op1 = (first >> 11) & 0x3, op2 = (first >> 4) & 0x7f;
    if (op1 == 2)
        return second & 0x8000 ? BRANCH : INTEGER;
    if (op2 & 0x40) /* A6.3.18: as in A32, but for SIMD data processing */
        return (op2 & 0x30) == 0x30 ? SIMD : coprocessor((uint32_t)first << 16 | second);
    if (op2 & 0x20)
        return INTEGER;
    if (op1 == 1 && (first & 0xfff0) == 0xe8d0 && (second & 0xffe0) == 0xf000)
        return BRANCH; /* TBB, TBH */
    return LOAD_STORE;
}

/* Whether a block is T32: either it has a short instruction, or every word begins like a long one. */
static bool is_thumb(struct qemu_plugin_tb *block, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        uint16_t first;
        if (qemu_plugin_insn_size(insn) == 2)
            return true;
        memcpy(&first, qemu_plugin_insn_data(insn), sizeof first);
        if (first >> 11 < 0x1d)
            return false;
    }
    return true;
}

static int class_at(struct qemu_plugin_tb *block, size_t i)
{
    const struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
    uint16_t half[2] = {0, 0};
    uint32_t word;
    size_t size = qemu_plugin_insn_size(insn);
    memcpy(half, qemu_plugin_insn_data(insn), size);
    memcpy(&word, half, sizeof word);
    if (!is_thumb(block, qemu_plugin_tb_n_insns(block)))
        return class_of_a32(word);
    return size == 2 ? class_of_t16(half[0]) : class_of_t32(half[0], half[1]);
}

#endif

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    uint64_t found[CLASSES] = {0};
    size_t count = qemu_plugin_tb_n_insns(block);
    (void)id;
    for (size_t i = 0; i < count; i++)
        found[class_at(block, i)]++;
    for (int c = 0; c < CLASSES; c++)
        if (found[c])
            qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &counts[c], found[c]);
}

static void called(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t first, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != SYSCALL_GETPGID || first != MARK)
        return;
    fprintf(out, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", counts[INTEGER], counts[SIMD],
            counts[LOAD_STORE], counts[BRANCH]);
    fflush(out);
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (strncmp(argv[i], "out=", 4) == 0)
            out = fopen(argv[i] + 4, "w");
    if (!out)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
