"""A kvikio that reads into the CPU's memory, each part when it is waited for."""

import os

import torch


class Future:
    """A read that happens when it is waited for, and fails if its file was closed before."""

    def __init__(self, file, buffer, size, offset):
        self.file, self.buffer, self.size, self.offset, self.done = file, buffer, size, offset, False

    def get(self):
        self.done = True
        if self.file.failing:
            raise RuntimeError("the disk cannot do it")
        content = os.pread(self.file.opened, self.size, self.offset)
        self.buffer[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return len(content)


class KvikIo:
    """Stands in for the library.

    Attributes:
        files: What was opened.
        reads: What was read.
    """

    def __init__(self, failing=False):
        self.files, self.reads, self.failing = [], [], failing
        outer = self

        class CuFile:
            def __init__(self, path, flags):
                assert flags == "r"
                self.opened, self.failing = os.open(path, os.O_RDONLY), outer.failing
                outer.files.append(self)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                os.close(self.opened)
                self.opened = None

            def pread(self, buffer, size, offset):
                assert buffer.is_contiguous() and len(buffer) == size
                outer.reads.append(Future(self, buffer, size, offset))
                return outer.reads[-1]

        self.CuFile = CuFile
