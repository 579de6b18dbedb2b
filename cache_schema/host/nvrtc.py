"""CUDA source to machine code by NVRTC, which comes with torch for CUDA: no compiler is needed."""

import ctypes
from collections.abc import Mapping
from pathlib import Path


def compiled(nvrtc: ctypes.CDLL, source: Path, capability: str, sizes: Mapping[str, int]) -> bytes:
    """Machine code for devices of a compute capability, such as "90".

    As `torch.cuda._compile_kernel`, which however asks for an installed CUDA toolkit.

    Args:
        nvrtc: the library.
        sizes: by the names that the source has for them.

    Raises:
        RuntimeError: it does not compile this.
    """

    def check(status: int) -> None:
        if status:
            size = ctypes.c_size_t()
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(max(size.value, 1))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"NVRTC error {status}: {log.value.decode()}")

    options = [f"-arch=sm_{capability}", *(f"-D{name}={size}" for name, size in sizes.items())]
    program, name = ctypes.c_void_p(), source.name.encode()
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.read_bytes(), name, 0, None, None
    )
    check(created)
    try:
        arguments = (ctypes.c_char_p * len(options))(*(each.encode() for each in options))
        check(nvrtc.nvrtcCompileProgram(program, len(options), arguments))
        size = ctypes.c_size_t()
        check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        code = ctypes.create_string_buffer(size.value)
        check(nvrtc.nvrtcGetCUBIN(program, code))
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
