"""Fills a pinned hash map of the kernel programs with entries that nobody asks for, or takes them out again, and prints how
many: BPF_OBJ_GET, BPF_MAP_UPDATE_ELEM and BPF_MAP_DELETE_ELEM of linux/bpf.h.

full_map.py PIN KEY_BYTES VALUE_BYTES fill|empty
"""

import ctypes
import errno
import os
import struct
import sys

pin, key_bytes, value_bytes, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
libc = ctypes.CDLL(None, use_errno=True)
CALL = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
UPDATE, DELETE, GET = 2, 3, 7
path = ctypes.create_string_buffer(pin.encode())
fd = libc.syscall(CALL, GET, struct.pack("QII", ctypes.addressof(path), 0, 0), 16)
assert fd >= 0, os.strerror(ctypes.get_errno())
key, value = ctypes.create_string_buffer(key_bytes), ctypes.create_string_buffer(value_bytes)
# What a command does not take must not be there.
rest = struct.pack("QQ", ctypes.addressof(value), 0) if what == "fill" else b""
attr = struct.pack("IIQ", fd, 0, ctypes.addressof(key)) + rest
count = 0
while True:
    # No cookie of a network namespace is as large, no identifier, no address.
    struct.pack_into("QQ", key, 0, 2**64 - 1, count)
    if libc.syscall(CALL, UPDATE if what == "fill" else DELETE, attr, len(attr)) != 0:
        break
    count += 1
expected = errno.E2BIG if what == "fill" else errno.ENOENT
assert ctypes.get_errno() == expected, os.strerror(ctypes.get_errno())
print(count)
