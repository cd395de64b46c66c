// A libcuda.so.1 for machines without a GPU: one device of compute capability 9.0 and one context. It writes every call
// that matters to the file named by CALLS, and reads a launch's arguments as the kernel's parameters say, from PARAMETERS:
// a letter each, p for a pointer, i for an int32. With FAIL set, launches fail with that code.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void note(const char* text) {
  FILE* file = fopen(getenv("CALLS"), "a");
  fprintf(file, "%s\n", text);
  fclose(file);
}

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuCtxGetCurrent(void** context) { return *context = getenv("NO_CONTEXT") ? 0 : (void*)0x10, 0; }
int cuCtxGetId(void* context, unsigned long long* id) { return *id = (uintptr_t)context + 1, 0; }
int cuCtxGetDevice(int* device) { return *device = 0, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  return *value = attribute == 75 ? 9 : 0, device;  // 75: the major version of the compute capability
}
int cuThreadExchangeStreamCaptureMode(int* mode) {
  static int current = 0;
  const int before = current;
  current = *mode, *mode = before;
  note(current == 2 ? "capture mode relaxed" : "capture mode restored");
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  note(memcmp(image, "\x7f" "ELF", 4) ? "load something else" : "load machine code");
  return *module = (void*)0x20, 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  char line[200];
  snprintf(line, sizeof line, "function %s", name);
  note(line);
  return *function = (void*)0x30, module != (void*)0x20;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** values, void** extra) {
  if (getenv("FAIL")) return atoi(getenv("FAIL"));
  char line[2000];
  int at = snprintf(line, sizeof line, "launch %p grid %u %u %u block %u %u %u shared %u stream %p extra %p:", function,
                    gx, gy, gz, bx, by, bz, shared, stream, (void*)extra);
  const char* kinds = getenv("PARAMETERS");
  for (int i = 0; kinds[i]; ++i)
    at += kinds[i] == 'p' ? snprintf(line + at, sizeof line - at, " %llx", *(unsigned long long*)values[i])
                          : snprintf(line + at, sizeof line - at, " %d", *(int32_t*)values[i]);
  note(line);
  return 0;
}
int cuGetErrorString(int error, const char** text) { return *text = error == 1 ? "invalid argument" : 0, error != 1; }

int cuGetProcAddress_v2(const char* name, void** address, int version, uint64_t flags, int* status) {
  static const struct {
    const char* name;
    void* address;
  } known[] = {
      {"cuInit", cuInit},
      {"cuCtxGetCurrent", cuCtxGetCurrent},
      {"cuCtxGetId", cuCtxGetId},
      {"cuCtxGetDevice", cuCtxGetDevice},
      {"cuDeviceGetAttribute", cuDeviceGetAttribute},
      {"cuThreadExchangeStreamCaptureMode", cuThreadExchangeStreamCaptureMode},
      {"cuModuleLoadData", cuModuleLoadData},
      {"cuModuleGetFunction", cuModuleGetFunction},
      {"cuLaunchKernel", cuLaunchKernel},
      {"cuGetErrorString", cuGetErrorString},
      {"cuGetProcAddress", cuGetProcAddress_v2},
  };
  (void)version, (void)flags;
  for (size_t i = 0; i < sizeof known / sizeof *known; ++i)
    if (!strcmp(name, known[i].name)) return *address = known[i].address, status ? *status = 0 : 0, 0;
  return *address = 0, status ? *status = 1 : 0, 500;
}
