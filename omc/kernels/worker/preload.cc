// LD_PRELOAD: brings the library $OMC_WORKER_LIBRARY into TFF's worker, just before its main().
//
// Earlier the worker's own constructors have not run, and TensorFlow has no registry of ops yet.
// Whatever goes wrong, the worker runs on without the ops and says why in one line. It needs
// nothing but the C library, so that it loads wherever the worker does.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace {

constexpr char kLibrary[] = "OMC_WORKER_LIBRARY";

using Main = int (*)(int, char**, char**);
using Start = int (*)(Main, int, char**, void (*)(), void (*)(), void (*)(), void*);

Main program_main;

const char* BringIn(const char* path) {
  void* library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
  if (!library) return dlerror();
  auto* begin = reinterpret_cast<const char* (*)()>(dlsym(library, "omc_worker_ops"));
  return begin ? begin() : dlerror();
}

// What this program starts shall not inherit what was meant for it alone.
void LeaveEnvironment() {
  unsetenv(kLibrary);
  const char* preloaded = getenv("LD_PRELOAD");
  Dl_info self;
  if (!preloaded || !dladdr(reinterpret_cast<void*>(&LeaveEnvironment), &self)) return;
  const size_t length = strlen(self.dli_fname);
  if (strncmp(preloaded, self.dli_fname, length)) return;
  const char* others = preloaded + length;  // Those that the user preloads.
  if (!*others) {
    unsetenv("LD_PRELOAD");
  } else if (*others == ':') {
    char* kept = strdup(others + 1);
    if (kept) setenv("LD_PRELOAD", kept, 1);
    free(kept);
  }
}

int Wrapped(int argc, char** argv, char**) {
  const char* path = getenv(kLibrary);
  const char* wrong = path ? BringIn(path) : nullptr;
  if (wrong)
    fprintf(stderr, "OMC: this worker runs on TensorFlow's own ops, slower: %s\n", wrong);
  LeaveEnvironment();
  return program_main(argc, argv, environ);
}

}  // namespace

// The C library's, which every program's first instructions call.
extern "C" __attribute__((visibility("default"))) int __libc_start_main(
    Main main, int argc, char** argv, void (*init)(), void (*fini)(), void (*rtld_fini)(),
    void* stack_end) {
  program_main = main;
  auto* next = reinterpret_cast<Start>(dlsym(RTLD_NEXT, "__libc_start_main"));
  return next(Wrapped, argc, argv, init, fini, rtld_fini, stack_end);
}
