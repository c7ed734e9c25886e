#!/bin/sh
# Builds nextchar.wasm in this folder, and in $1 (default: build) libnextchar.so and the command nextchar-run.
# The same compiler makes the same file, which a test compares with the one in the repository.
set -eu
cd "$(dirname "$0")"
out=${1:-build}
mkdir -p "$out"
flags="-std=c11 -O3 -Wall -Wextra -ffp-contract=off -fno-strict-aliasing"
if command -v clang-14 wasm-ld-14 >/dev/null; then
  # Loops are unrolled and functions inlined less than usual, and addresses left to the browser's compiler: as fast, and some
  # kilobytes less in a page.
  clang-14 $flags -mllvm -unroll-runtime=0 -mllvm -unroll-max-count=1 -mllvm -unroll-threshold=60 -mllvm -inline-threshold=20 \
    -mllvm -disable-lsr -fno-slp-vectorize --target=wasm32 -msimd128 -mbulk-memory -mnontrapping-fptoint -nostdlib -ffreestanding -fuse-ld=/usr/bin/wasm-ld-14 \
    -Wl,-O2,--compress-relocations,--no-entry,--export-dynamic,--strip-all,-z,stack-size=262144 \
    -fvisibility=hidden -o "$out/nextchar.wasm" nextchar.c
fi
cc $flags -shared -fPIC -o "$out/libnextchar.so" nextchar.c
cc $flags -D_DEFAULT_SOURCE -o "$out/nextchar-run" nextchar-run.c nextchar.c
if [ "${2:-}" = libfuzzer ]; then # libfuzzer -max_len=1300000 -len_control=0 FOLDER, which has small packed models
  clang-14 $flags -g -O2 -D_DEFAULT_SOURCE -fsanitize=fuzzer,address,undefined,float-cast-overflow \
    -fno-sanitize-recover=all -o "$out/libfuzzer" fuzz.c nextchar.c
fi
if [ "${2:-}" = fuzz ]; then # fuzz SEED SECONDS FILE...
  cc $flags -g -O1 -D_DEFAULT_SOURCE -DALONE -fsanitize=address,undefined,float-cast-overflow \
    -fno-sanitize-recover=all -o "$out/fuzz" fuzz.c nextchar.c
fi
