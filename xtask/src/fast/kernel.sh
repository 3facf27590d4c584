# SPDX-License-Identifier: LGPL-2.1-or-later
# Builds the fast lab's kernel from Debian's sources. Runs in the root that has them, with the cache's
# new entry as /build and the wanted options in $CONFIG. Leaves there /build/linux, the kernel, and
# /build/source, which is what building a module takes.
cd /build
mkdir source
tar -xf /usr/src/linux-source-6.12.tar.xz --strip-components=1 -C source
cd source

# Processors with AMX have a larger floating-point area than this kernel makes room for; it ends at
# once there, with "ptrace set fp regs failed". Later kernels ask the processor.
sed -i 's/DEFINE_LONGS(HOST_FP_SIZE, 2696);/DEFINE_LONGS(HOST_FP_SIZE, 12288);/' arch/x86/um/user-offsets.c
grep -q 'HOST_FP_SIZE, 12288' arch/x86/um/user-offsets.c

# A process of the lab begins as a copy of the kernel. A private shadow of KASAN is copied with it, each
# time, and that is most of what a fork takes; nothing that the copy does changes a shared one.
sed -i 's/MAP_FIXED|MAP_ANONYMOUS|MAP_PRIVATE|MAP_NORESERVE/MAP_FIXED|MAP_ANONYMOUS|MAP_SHARED|MAP_NORESERVE/' \
    arch/um/os-Linux/mem.c
grep -q 'MAP_SHARED|MAP_NORESERVE' arch/um/os-Linux/mem.c

# KASAN keeps a stack for each object that is made or freed. To have it, each word of the whole stack is
# looked up among the kernel's symbols, and what no frame pointer leads to is dropped after that: look
# there alone.
sed -i 's/if (__kernel_text_address(addr)) {/if ((unsigned long) sp == bp + sizeof(long) \&\& __kernel_text_address(addr)) {/' \
    arch/um/kernel/stacktrace.c
grep -q 'sizeof(long) && __kernel_text_address' arch/um/kernel/stacktrace.c

make ARCH=um tinyconfig
printf '%s\n' "$CONFIG" >> .config
make ARCH=um olddefconfig
# An option whose own conditions do not hold is dropped without a word.
printf '%s\n' "$CONFIG" | grep CONFIG_ > /build/wanted
if grep -vxFf .config /build/wanted; then
    echo 'the kernel does not take these options'
    exit 1
fi
rm /build/wanted

make ARCH=um -j"$(nproc)" linux
make ARCH=um modules_prepare
# No module is built with it: what the kernel exports is all that a module may use.
cp vmlinux.symvers Module.symvers
mv linux /build/linux
rm -rf vmlinux Documentation block drivers fs ipc mm net samples sound tools
find . -name '*.o' -delete
find . -name '*.a' -delete
