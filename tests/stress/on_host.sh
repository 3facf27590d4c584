#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The program of the stress, with its words, on a host of the lab. udev would open each device that
# appears, and nobody could remove it meanwhile.
set -eu
systemctl stop systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service
modprobe dm-notify
echo "$(nproc) processors, Linux $(uname -r)"
/root/virtnotify-stress "$@" --memory-lasts
systemctl start systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service
