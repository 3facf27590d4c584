#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Prints each growth of a volume: POOL/VOLUME BYTES. Options are busctl's, such as --address=ADDRESS.
busctl "${@:---system}" --json=short monitor org.virtnotify1 |
    jq --unbuffered -r 'select(.member == "VolumeGrown") | .payload.data | "\(.[0])/\(.[1]) \(.[3])"'
