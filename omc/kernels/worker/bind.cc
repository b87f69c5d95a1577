// Binds the ops' undefined symbols to TFF's worker, which holds TensorFlow and exports none of it.
//
// build.py found out where in the worker each symbol lies; that holds for the one build whose id
// stands beside the table, and is used for no other. The symbols are weak, so the dynamic linker
// left them at 0, and the constructors that register the ops were set aside: nothing of TensorFlow
// has been called when omc_worker_ops() begins.
#include <elf.h>
#include <link.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {

struct Symbol {
  const char* name;
  uintptr_t address;  // From the worker's first byte in memory.
};

#include "symbols.h"  // By build.py: constexpr char kBuildId[], constexpr Symbol kSymbols[].

using Constructor = void (*)();

extern "C" {
#define OMC_OURS __attribute__((visibility("hidden")))  // Of this library, whoever has them too.
extern OMC_OURS const ElfW(Ehdr) __ehdr_start;
extern OMC_OURS Constructor __start_omc_constructors[];
extern OMC_OURS Constructor __stop_omc_constructors[];
}

struct Program {
  uintptr_t base;
  char build_id[2 * 64 + 1];  // In hex; empty where the program has none.
};

// The program is the first that is visited; returning 1 ends the visit.
int ReadProgram(struct dl_phdr_info* info, size_t, void* out) {
  auto* program = static_cast<Program*>(out);
  program->base = info->dlpi_addr;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const char* next = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
    const char* end = next + segment.p_memsz;
    while (next + sizeof(ElfW(Nhdr)) <= end) {
      const auto* note = reinterpret_cast<const ElfW(Nhdr)*>(next);
      const char* name = next + sizeof(*note);
      const char* content = name + ((note->n_namesz + 3) & ~3u);
      next = content + ((note->n_descsz + 3) & ~3u);
      if (note->n_type != NT_GNU_BUILD_ID || std::strcmp(name, "GNU")) continue;
      for (unsigned k = 0; k < note->n_descsz && k < 64; ++k)
        std::snprintf(program->build_id + 2 * k, 3, "%02x",
                      static_cast<unsigned char>(content[k]));
    }
  }
  return 1;
}

uintptr_t Find(const char* name) {
  for (const Symbol& symbol : kSymbols)
    if (!std::strcmp(symbol.name, name)) return symbol.address;
  return 0;
}

// This library's own tables of relocations.
struct Relocations {
  const char* strings = nullptr;
  const ElfW(Sym)* symbols = nullptr;
  struct {
    const ElfW(Rela)* first = nullptr;
    size_t bytes = 0;
  } tables[2];
};

Relocations ReadRelocations(uintptr_t base) {
  // glibc has turned these into addresses already; others leave offsets.
  const auto at = [base](uintptr_t value) { return value < base ? base + value : value; };
  Relocations found;
  for (const ElfW(Dyn)* entry = _DYNAMIC; entry->d_tag != DT_NULL; ++entry) {
    const uintptr_t value = entry->d_un.d_ptr;
    switch (entry->d_tag) {
      case DT_STRTAB: found.strings = reinterpret_cast<const char*>(at(value)); break;
      case DT_SYMTAB: found.symbols = reinterpret_cast<const ElfW(Sym)*>(at(value)); break;
      case DT_RELA: found.tables[0].first = reinterpret_cast<const ElfW(Rela)*>(at(value)); break;
      case DT_RELASZ: found.tables[0].bytes = value; break;
      case DT_JMPREL: found.tables[1].first = reinterpret_cast<const ElfW(Rela)*>(at(value)); break;
      case DT_PLTRELSZ: found.tables[1].bytes = value; break;
    }
  }
  return found;
}

void Bind(uintptr_t program) {
  const auto base = reinterpret_cast<uintptr_t>(&__ehdr_start);
  const Relocations relocations = ReadRelocations(base);
  for (const auto& table : relocations.tables) {
    for (size_t i = 0; i < table.bytes / sizeof(ElfW(Rela)); ++i) {
      const ElfW(Rela)& place = table.first[i];
      const ElfW(Sym)& symbol = relocations.symbols[ELF64_R_SYM(place.r_info)];
      if (!ELF64_R_SYM(place.r_info) || symbol.st_shndx != SHN_UNDEF) continue;
      const uintptr_t address = Find(relocations.strings + symbol.st_name);
      if (!address) continue;  // The C and C++ libraries', which the dynamic linker has bound.
      // Of the three types that there are (build.py makes sure) only this one has an addend.
      const int64_t addend = ELF64_R_TYPE(place.r_info) == R_X86_64_64 ? place.r_addend : 0;
      *reinterpret_cast<uintptr_t*>(base + place.r_offset) = program + address + addend;
    }
  }
}

}  // namespace

// Registers the ops in this program, or changes nothing and returns why not, in one line.
extern "C" __attribute__((visibility("default"))) const char* omc_worker_ops() {
  static Program program;
  dl_iterate_phdr(ReadProgram, &program);
  if (std::strcmp(program.build_id, kBuildId)) {
    static char why[512];
    std::snprintf(why, sizeof(why), "made for the worker of build id %s, not for %s", kBuildId,
                  program.build_id[0] ? program.build_id : "a program without one");
    return why;
  }
  Bind(program.base);
  for (Constructor* next = __start_omc_constructors; next != __stop_omc_constructors; ++next)
    (*next)();
  return nullptr;
}
