#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Makes small test guests on a lab host: the host's own kernel and a busybox initramfs that
# follows a plan (see guest/init) and reports each step on its serial port.
#
#   guest.sh define NAME PLAN DISK...   define the domain; PLAN is a file, DISK a file with <disk> XML
#   guest.sh log NAME                   the path of its serial log, the same on every host
#
# Migration starts the same QEMU on the other host, so kernel and initramfs are copied there too.
set -eu
here=$(dirname "$(readlink -f "$0")")
store=/var/lib/notify-guests

build_base() {
	[ -e "$store/base.cpio.gz" ] && return
	work=$(mktemp -d)
	mkdir -p "$work/bin" "$work/modules" "$store"
	cp "$(command -v busybox)" "$work/bin/busybox"
	cp "$here/guest/init" "$work/init"
	chmod 755 "$work/init"
	for module in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
		for file in $(modinfo -n "$module" 2>/dev/null | grep '^/'); do
			plain=$(basename "$file" | sed 's/\.ko.*/.ko/')
			case $file in
			*.xz) xz -dc "$file" >"$work/modules/$plain" ;;
			*.zst) zstd -dqc "$file" >"$work/modules/$plain" ;;
			*) cp "$file" "$work/modules/$plain" ;;
			esac
		done
	done
	(cd "$work" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$store/base.new"
	mv "$store/base.new" "$store/base.cpio.gz"
	cp "/boot/vmlinuz-$(uname -r)" "$store/vmlinuz"
	rm -rf "$work"
}

# The kernel unpacks one archive after another: the plan comes behind the base.
add_plan() {
	work=$(mktemp -d)
	cp "$2" "$work/plan"
	(cd "$work" && echo plan | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$work/plan.cpio.gz"
	cat "$store/base.cpio.gz" "$work/plan.cpio.gz" >"$store/$1.initrd"
	rm -rf "$work"
	chmod -R a+rX "$store"
	peer=host$((3 - $(hostname | tr -cd 12)))
	if ping -q -c 1 -W 2 "$peer" >/dev/null; then
		# The log of a guest that had this name before is not this one's.
		files="$store/$1.initrd"
		ssh "$peer" "mkdir -p $store; rm -f $(log "$1"); test -e $store/vmlinuz" || files="$files $store/vmlinuz"
		scp -q $files "$peer:$store/"
	fi
}

define() {
	name=$1 plan=$2
	shift 2
	build_base
	rm -f "$(log "$name")"
	add_plan "$name" "$plan"
	cat >"$store/$name.xml" <<-XML
	<domain type='kvm'>
	  <name>$name</name>
	  <memory unit='MiB'>128</memory>
	  <vcpu>1</vcpu>
	  <os>
	    <type arch='x86_64' machine='q35'>hvm</type>
	    <kernel>$store/vmlinuz</kernel>
	    <initrd>$store/$name.initrd</initrd>
	    <cmdline>console=ttyS0 quiet panic=-1 mitigations=off</cmdline>
	  </os>
	  <features><acpi/></features>
	  <cpu mode='host-model'/>
	  <on_poweroff>destroy</on_poweroff>
	  <devices>
	    $(cat "$@")
	    <serial type='file'><source path='$(log "$name")'/></serial>
	    <controller type='usb' model='none'/>
	    <memballoon model='none'/>
	  </devices>
	</domain>
	XML
	virsh define --validate "$store/$name.xml"
}

log() { echo "/var/log/notify-guest-$1.log"; }

command=$1
shift
case $command in
define) define "$@" ;;
log) log "$@" ;;
*) echo "guest.sh: no such command: $command" >&2; exit 2 ;;
esac
