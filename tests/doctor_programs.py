"""Programs for the doctor, by what is wrong with them: two or more of each cause, and some with nothing wrong."""

from __future__ import annotations

_MODEL = """
import time
import torch
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 16)).eval()
"""

#: By the name of the diagnosis: programs that have it.
PROGRAMS: dict[str, dict[str, str]] = {
    "page-fault-bound allocation": {
        "beyond_the_threshold": """
import torch
torch.set_num_threads(1)
x = torch.ones(16 << 20)
for _ in range(40):
    y = x + 1
""",
        "chain_of_large_operators": """
import torch
torch.set_num_threads(1)
x = torch.rand(24, 512, 640)
for _ in range(60): y = torch.sigmoid(x) * 2 + x
""",
    },
    "memory that the allocator retains": {
        "freed_below_the_last": """
import torch
torch.set_num_threads(1)
model = torch.nn.Linear(64, 64).eval()
with torch.inference_mode():
    for _ in range(2000):
        model(torch.ones(64, 64))
    blocks = [torch.ones(16384) for _ in range(4000)]  # too small for glibc to map each by itself
    last = torch.ones(8000)
    del blocks  # below the last one: glibc cannot give it back
    for _ in range(2000):
        model(torch.ones(64, 64))
""",
        "varied_then_steady": """
import random, torch
torch.set_num_threads(1); random.seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 48, 3), torch.nn.ReLU(), torch.nn.Conv2d(48, 48, 3)).eval()
with torch.no_grad():
    for n in range(60): net(torch.rand(random.randint(1, 16), 3, 90, 90))
    for n in range(100): net(torch.rand(4, 3, 90, 90))
""",
        "weights_loaded_and_freed": """
import io, time, torch
torch.set_num_threads(1)
def state(): return {f"layer{i}": torch.ones(24_000) for i in range(3000)}
kept = []
for _ in range(3):
    loaded = state()
    kept.append({name: tensor[:8].clone() for name, tensor in loaded.items()})
    del loaded
    time.sleep(0.5)
""",
    },
    "heaps of threads": {
        "blocks_in_eight_threads": """
import threading
import torch
torch.set_num_threads(1)
model = torch.nn.Linear(64, 64).eval()
kept, started, done = [], threading.Barrier(9), threading.Barrier(9)
def work():
    started.wait()
    blocks = [torch.ones(16384) for _ in range(500)]
    kept.append(torch.ones(8000))
    del blocks
    done.wait()
with torch.inference_mode():
    for _ in range(2000):
        model(torch.ones(64, 64))
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.wait()
    done.wait()
    for thread in threads:
        thread.join()
    for _ in range(2000):
        model(torch.ones(64, 64))
""",
        "pool_of_requests": """
import concurrent.futures, threading, time
import torch
torch.set_num_threads(1)
kept = []
def request(n):
    parts = [torch.ones(20_000) for _ in range(600)]
    kept.append(torch.ones(2000))
    time.sleep(0.05)
    return sum(part[0].item() for part in parts)
with concurrent.futures.ThreadPoolExecutor(6) as pool:
    print(sum(pool.map(request, range(60))))
""",
    },
    "tensors that stay alive": {
        "graphs_of_losses": """
import time
import torch
torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(8)])
losses = []
for _ in range(120):
    losses.append(model(torch.ones(256, 256)).mean())  # keeps what a backward pass would need
    time.sleep(0.02)
""",
        "embeddings_in_a_function": _MODEL
        + """
def serve():
    kept = {}
    with torch.inference_mode():
        for n in range(150):
            kept[n] = model(torch.rand(16, 256)), torch.rand(1 << 18)
            time.sleep(0.02)
serve()
""",
    },
    "Python objects that stay alive": {
        "bytes_in_a_list": """
import time
kept = []
for i in range(100): kept.append(bytes(2 << 20).replace(b"\\0", b"x")); time.sleep(0.03)
""",
        "records_in_a_cache": """
import time
class Service:
    def __init__(self): self.cache = {}
    def request(self, n):
        self.cache[n] = {"id": n, "text": f"answer {n} " * 8, "scores": [float(n + i) for i in range(12)]}
service = Service()
for n in range(200_000):
    service.request(n)
    if n % 2000 == 0: time.sleep(0.03)
""",
    },
    "oneDNN's cache of primitives": {
        "ever_new_images": """
import torch
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)).eval()
with torch.inference_mode():
    for i in range(300):
        model(torch.ones(1, 3, 32 + i, 32 + i // 2))
""",
        "ever_new_batches": """
import torch
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Conv2d(8, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3)).eval()
with torch.inference_mode():
    for i in range(250):
        model(torch.ones(1 + i % 4, 8, 20 + i, 24))
""",
    },
    "compiled graphs that pile up": {
        "traced_in_each_call": """
import torch
torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(40)]).eval()
x = torch.ones(1, 64)
with torch.inference_mode():
    for _ in range(100):
        torch.jit.trace(model, x, check_trace=False)(x)
""",
    },
    "threads that pile up": {
        "one_for_each_request": """
import threading, time
waiting = threading.Event()
def work(): waiting.wait()
for _ in range(150):
    threading.Thread(target=work, daemon=True).start(); time.sleep(0.02)
""",
        "pools_that_are_not_closed": """
import concurrent.futures, time
pools = []
for n in range(60):
    pool = concurrent.futures.ThreadPoolExecutor(4)
    list(pool.map(time.sleep, [0.001] * 4)); pools.append(pool); time.sleep(0.03)
""",
    },
    "child processes": {
        "workers_that_are_left": """
import subprocess, sys, time
code = "x = bytearray(16 << 20)\\nimport time; time.sleep(600)"
children = []
for _ in range(12):
    children.append(subprocess.Popen([sys.executable, "-c", code])); time.sleep(0.4)
for child in children: child.kill()
""",
        "one_that_grows": """
import subprocess, sys, time
code = "import time\\nkept = []\\nfor _ in range(100): kept.append(b'x' * (3 << 20)); time.sleep(0.05)"
child = subprocess.Popen([sys.executable, "-c", code])
time.sleep(5)
child.kill()
""",
    },
    "shared memory that stays": {
        "blocks_that_are_not_unlinked": """
import multiprocessing.shared_memory, time
blocks = []
for _ in range(60):
    block = multiprocessing.shared_memory.SharedMemory(create=True, size=4 << 20)
    block.buf[:] = bytes(4 << 20); blocks.append(block); time.sleep(0.03)
for block in blocks: block.unlink()
""",
    },
    "files that stay mapped": {
        "shards_of_a_file": """
import mmap, os, tempfile, time
file = tempfile.TemporaryFile(); file.truncate(240 << 20)
maps = []
for n in range(60):
    shard = mmap.mmap(file.fileno(), 4 << 20, offset=n * (4 << 20), access=mmap.ACCESS_READ)
    sum(shard[::4096]); maps.append(shard); time.sleep(0.03)
""",
    },
    "growth that nothing explains": {
        "native_library_that_leaks": """
import ctypes, time
libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p
for _ in range(100):
    ctypes.memset(libc.malloc(ctypes.c_size_t(2 << 20)), 1, 2 << 20); time.sleep(0.03)
""",
        "private_mappings": """
import mmap, time
libc = __import__("ctypes").CDLL(None); libc.mmap.restype = __import__("ctypes").c_void_p
for _ in range(100):
    address = libc.mmap(None, __import__("ctypes").c_size_t(2 << 20), 3, 0x22, -1, 0)
    __import__("ctypes").memset(address, 1, 2 << 20); time.sleep(0.03)
""",
    },
}

#: Nothing is wrong with these.
HEALTHY: dict[str, str] = {
    "small_model": _MODEL
    + """
with torch.inference_mode():
    for _ in range(3000):
        model(torch.ones(16, 256))
""",
    "large_but_constant": """
import time, torch
torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Linear(2048, 2048) for _ in range(12)]).eval()
data = [b"x" * (1 << 20) for _ in range(64)]
with torch.inference_mode():
    for _ in range(150):
        model(torch.ones(4, 2048)); time.sleep(0.01)
""",
    "work_without_torch": """
import time
for n in range(200):
    table = {i: str(i) for i in range(20_000)}; time.sleep(0.01)
""",
}

#: What comes with a cause: whatever has ever new shapes has its memory mapped ever anew, and leaves some behind.
MAY_HAVE_TOO: dict[str, tuple[str, ...]] = {
    "oneDNN's cache of primitives": ("page-fault-bound allocation", "memory that the allocator retains"),
    "page-fault-bound allocation": ("memory that the allocator retains",),
    "memory that the allocator retains": ("page-fault-bound allocation",),
    "heaps of threads": ("page-fault-bound allocation",),
    "compiled graphs that pile up": ("Python objects that stay alive", "tensors that stay alive"),
    "threads that pile up": (),
}
