"""Instruction sets: which one a compiler builds for, and whether this processor has it."""
from collections.abc import Mapping
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

# From wide to narrow: the name for the user, and the macro by which the compiler tells it.
INSTRUCTION_SETS = (("AVX-512", "__AVX512F__"), ("AVX2", "__AVX2__"), ("SSE4", "__SSE4_2__"), ("SSE2", "__SSE2__"),
                    ("NEON", "__ARM_NEON"))

# What a compiler uses by itself: its macro, and the flag in /proc/cpuinfo. All flags have been there since Linux 4.20:
# a flag that is younger than the kernel is missing there even where the processor has it.
_FLAGS = {
    "__SSE3__": "pni", "__SSSE3__": "ssse3", "__SSE4_1__": "sse4_1", "__SSE4_2__": "sse4_2", "__POPCNT__": "popcnt",
    "__AVX__": "avx", "__AVX2__": "avx2", "__FMA__": "fma", "__F16C__": "f16c", "__MOVBE__": "movbe",
    "__BMI__": "bmi1", "__BMI2__": "bmi2", "__AVX512F__": "avx512f", "__AVX512CD__": "avx512cd",
    "__AVX512BW__": "avx512bw", "__AVX512DQ__": "avx512dq", "__AVX512VL__": "avx512vl",
    "__ARM_FEATURE_ATOMICS": "atomics", "__ARM_FEATURE_CRC32": "crc32", "__ARM_FEATURE_QRDMX": "asimdrdm",
    "__ARM_FEATURE_FP16_VECTOR_ARITHMETIC": "asimdhp", "__ARM_FEATURE_DOTPROD": "asimddp", "__ARM_FEATURE_SVE": "sve",
}


def instruction_set(macros: Mapping[str, str]) -> str:
    """The widest instruction set that code may use which was compiled with these predefined macros."""
    return next((name for name, macro in INSTRUCTION_SETS if macro in macros), "no vectors")


def processor_flags() -> frozenset[str]:
    """The instructions of this processor as Linux lists them; empty where it lists none."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def missing_instructions(macros: Mapping[str, str]) -> list[str]:
    """The flags of what such code may use and this processor lacks."""
    here = processor_flags()
    return [flag for macro, flag in _FLAGS.items() if macro in macros and flag not in here] if here else []
