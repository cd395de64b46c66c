// libcuda without a GPU: as much of the CUDA driver as cuda-core needs to allocate, copy, capture and wait.
//
// "Device" memory is the host's, poisoned. What is queued on a stream happens when somebody waits for it and not before,
// as late as a GPU could be. Allocating while a graph is captured is an error, as on a GPU.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

namespace {
using Handle = void*;
using Address = unsigned long long;
constexpr int SUCCESS = 0, INVALID_VALUE = 1, NO_CONTEXT = 201, NOT_FOUND = 500, NOT_WHILE_CAPTURING = 900;

struct Copy {
    Address to, from;
    size_t size;
};
using Graph = std::vector<Copy>;
struct Stream {
    bool capturing = false;
    Graph* graph = nullptr;
    std::deque<Copy> queued;
    size_t done = 0;  // copies since the stream was made
};
struct Event {
    unsigned flags;
    Stream* stream = nullptr;
    size_t after = 0;
};

thread_local Handle current = nullptr;
int the_context, the_pool;
long held = 0;  // allocations, streams, events and graphs that nobody gave back

void finish(Stream* stream, size_t until) {
    while (stream->done < until && !stream->queued.empty()) {
        const Copy copy = stream->queued.front();
        std::memcpy(reinterpret_cast<void*>(copy.to), reinterpret_cast<void*>(copy.from), copy.size);
        stream->queued.pop_front();
        ++stream->done;
    }
}
int allocate(Address* out, size_t size) {
    ++held;
    *out = reinterpret_cast<Address>(std::aligned_alloc(256, (size + 255) / 256 * 256));
    std::memset(reinterpret_cast<void*>(*out), 0xCD, size);
    return SUCCESS;
}
int release(Address at) {
    --held;
    std::free(reinterpret_cast<void*>(at));
    return SUCCESS;
}
template <class Made>
int hand_out(Handle* out, Made* made) {
    ++held;
    *out = made;
    return SUCCESS;
}
template <class Made>
int take_back(Handle handle) {
    --held;
    delete static_cast<Made*>(handle);
    return SUCCESS;
}
Stream* of(Handle handle) { return static_cast<Stream*>(handle); }
}  // namespace

#define API extern "C" int
API fake_held() { return static_cast<int>(held); }

API cuInit(unsigned) { return SUCCESS; }
API cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
API cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
API cuDeviceGet(int* device, int) { return *device = 0, SUCCESS; }
API cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, size, "Fake GPU"), SUCCESS; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
    constexpr int MAJOR = 75, MINOR = 76;  // of the compute capability; all else is "supported"
    *value = attribute == MAJOR ? 9 : attribute == MINOR ? 0 : 1;
    return SUCCESS;
}
API cuDevicePrimaryCtxRetain(Handle* context, int) { return *context = &the_context, SUCCESS; }
API cuDevicePrimaryCtxRelease(int) { return SUCCESS; }
API cuCtxGetCurrent(Handle* context) { return *context = current, SUCCESS; }
API cuCtxSetCurrent(Handle context) { return current = context, SUCCESS; }
API cuCtxGetDevice(int* device) { return *device = 0, current ? SUCCESS : NO_CONTEXT; }
API cuCtxGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = -1, SUCCESS; }

API cuStreamCreateWithPriority(Handle* stream, unsigned, int) {
    return current ? hand_out(stream, new Stream) : NO_CONTEXT;
}
API cuStreamDestroy(Handle stream) { return take_back<Stream>(stream); }
API cuStreamGetCtx(Handle, Handle* context) { return *context = &the_context, SUCCESS; }
API cuStreamSynchronize(Handle stream) {
    const bool is_default = reinterpret_cast<uintptr_t>(stream) <= 2;  // they are numbers, and nothing is queued there
    if (!is_default) finish(of(stream), SIZE_MAX);
    return SUCCESS;
}
API cuEventCreate(Handle* event, unsigned flags) { return hand_out(event, new Event{flags}); }
API cuEventDestroy(Handle event) { return take_back<Event>(event); }
API cuEventRecord(Handle event, Handle stream) {
    auto* recorded = static_cast<Event*>(event);
    recorded->stream = of(stream);
    recorded->after = of(stream)->done + of(stream)->queued.size();
    return SUCCESS;
}
API cuEventSynchronize(Handle event) {
    constexpr unsigned BLOCKING_SYNC = 1;  // without it the waiting thread would spin
    auto* waited = static_cast<Event*>(event);
    if (!waited->stream || !(waited->flags & BLOCKING_SYNC)) return INVALID_VALUE;
    finish(waited->stream, waited->after);
    return SUCCESS;
}

API cuDeviceGetMemPool(Handle* pool, int) { return *pool = &the_pool, SUCCESS; }
API cuDeviceGetDefaultMemPool(Handle* pool, int) { return *pool = &the_pool, SUCCESS; }
API cuMemPoolSetAttribute(Handle, int, void*) { return SUCCESS; }
API cuMemPoolGetAttribute(Handle, int, void* value) { return *static_cast<uint64_t*>(value) = 0, SUCCESS; }
API cuMemAllocFromPoolAsync(Address* out, size_t size, Handle, Handle stream) {
    return of(stream)->capturing ? NOT_WHILE_CAPTURING : allocate(out, size);
}
API cuMemFreeAsync(Address at, Handle) { return release(at); }
API cuMemAllocHost(void** out, size_t size) { return allocate(reinterpret_cast<Address*>(out), size); }
API cuMemFreeHost(void* at) { return release(reinterpret_cast<Address>(at)); }
API cuMemcpyAsync(Address to, Address from, size_t size, Handle handle) {
    Stream* stream = of(handle);
    if (stream->capturing) {
        stream->graph->push_back({to, from, size});
    } else {
        stream->queued.push_back({to, from, size});
    }
    return SUCCESS;
}
API cuPointerGetAttributes(unsigned count, int*, void** values, Address) {
    for (unsigned i = 0; i < count; ++i) *static_cast<unsigned*>(values[i]) = 2;  // memory of the device
    return SUCCESS;
}

API cuStreamBeginCapture(Handle handle, int mode) {
    constexpr int THREAD_LOCAL = 1;
    Stream* stream = of(handle);
    if (stream->capturing || mode != THREAD_LOCAL) return INVALID_VALUE;
    stream->capturing = true;
    stream->graph = new Graph;
    ++held;
    return SUCCESS;
}
API cuStreamGetCaptureInfo(Handle handle, int* status, uint64_t* id, Handle* graph, void*, void*, void*) {
    if (status) *status = of(handle)->capturing;
    if (id) *id = 1;
    if (graph) *graph = of(handle)->graph;
    return SUCCESS;
}
API cuStreamIsCapturing(Handle handle, int* status) { return *status = of(handle)->capturing, SUCCESS; }
API cuStreamEndCapture(Handle handle, Handle* graph) {
    if (!of(handle)->capturing) return INVALID_VALUE;
    of(handle)->capturing = false;
    if (graph) *graph = of(handle)->graph;
    return SUCCESS;
}
API cuGraphInstantiateWithParams(Handle* executable, Handle graph, void*) {
    return hand_out(executable, new Graph(*static_cast<Graph*>(graph)));
}
API cuGraphLaunch(Handle executable, Handle stream) {
    for (const Copy& copy : *static_cast<Graph*>(executable)) of(stream)->queued.push_back(copy);
    return SUCCESS;
}
API cuGraphDestroy(Handle graph) { return take_back<Graph>(graph); }
API cuGraphExecDestroy(Handle graph) { return take_back<Graph>(graph); }
API cuUserObjectCreate(Handle* object, void*, void*, unsigned, unsigned) { return *object = &the_pool, SUCCESS; }
API cuUserObjectRelease(Handle, unsigned) { return SUCCESS; }
API cuGraphRetainUserObject(Handle, Handle, unsigned, unsigned) { return SUCCESS; }
API cuGraphReleaseUserObject(Handle, Handle, unsigned) { return SUCCESS; }

API cuGetErrorName(int code, const char** name) {
    static char text[32];
    std::snprintf(text, sizeof text, "FAKE_ERROR_%d", code);
    return *name = text, SUCCESS;
}
API cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }

// How all of the above is found: by name, in this library.
API cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
    static void* self = [] {
        Dl_info mine;
        dladdr(reinterpret_cast<void*>(&cuInit), &mine);
        return dlopen(mine.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    }();
    *function = dlsym(self, symbol);
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
