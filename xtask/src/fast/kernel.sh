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
