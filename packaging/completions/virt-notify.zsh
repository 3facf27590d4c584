#compdef virt-notify
# SPDX-License-Identifier: LGPL-2.1-or-later

autoload -U is-at-least

_virt-notify() {
    typeset -A opt_args
    typeset -a _arguments_options
    local ret=1

    if is-at-least 5.2; then
        _arguments_options=(-s -S -C)
    else
        _arguments_options=(-s -C)
    fi

    local context curcontext="$curcontext" state line
    _arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
":: :_virt-notify_commands" \
"*::: :->virt-notify" \
&& ret=0
    case $state in
    (virt-notify)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:virt-notify-command-$line[1]:"
        case $line[1] in
            (status)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--check[Say in a line whether anything needs a person, for Nagios and programs like it\: exit status 0, 1 for a warning, or 2 when a VM stands still or the daemon does not answer]' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'::pool -- Only this pool:_default' \
&& ret=0
;;
(top)
_arguments "${_arguments_options[@]}" : \
'-n+[End after this many times]:COUNT:_default' \
'--count=[End after this many times]:COUNT:_default' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(events)
_arguments "${_arguments_options[@]}" : \
'(--run)--since=[Begin with what the daemon remembers from this day on (2026-11-22), or of the time up to now (2d, 12h), and end then, unless --follow is given. Growths and the progress of moves are not remembered]:TIME:_default' \
'-n+[End after this many events]:COUNT:_default' \
'--count=[End after this many events]:COUNT:_default' \
'--severity=[Leave out less severe events]:LEVEL:((info\:"Growth, and the course of what was asked for"
notice\:"A VM moves, or something is well again"
warning\:"Something will go wrong unless it is looked at"
critical\:"A VM stands still, or data is in danger"))' \
'--run=[Run each program in this directory for each event, which it gets as JSON on its standard input and as VIRTNOTIFY_* in its environment. virtnotify-notify.service does so]:DIRECTORY:_files' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'-f[Go on until interrupted, which is so without --since as well]' \
'--follow[Go on until interrupted, which is so without --since as well]' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(map)
_arguments "${_arguments_options[@]}" : \
'--svg=[Write an SVG to this file instead]:FILE:_files' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':volume -- POOL/VOLUME or /dev/notify/POOL/VOLUME:_default' \
&& ret=0
;;
(defrag)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':of -- POOL/VOLUME, POOL/VOLUME@SNAPSHOT, or POOL:_default' \
&& ret=0
;;
(reclaim)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--zeroes[Read all chunks, and take back those that hold nothing but zeroes]' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':of -- POOL, or POOL/VOLUME. With --zeroes also POOL/VOLUME@SNAPSHOT, with what lies below it:_default' \
&& ret=0
;;
(evacuate)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':group -- The volume group:_default' \
':device -- The disk\: any absolute path that leads to it:_default' \
&& ret=0
;;
(migrate)
_arguments "${_arguments_options[@]}" : \
'--to=[The peer'\''s name or URI; without it the daemon chooses]:PEER:_default' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--dry-run[Say what would be done, as \`plan\` does, and change nothing]' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':domain -- The VM'\''s name or UUID:_default' \
&& ret=0
;;
(plan)
_arguments "${_arguments_options[@]}" : \
'--to=[Only this peer, by name or URI]:PEER:_default' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'::domain -- The VM'\''s name or UUID; without it all VMs of this host that have a disk in a pool of type notify:_default' \
&& ret=0
;;
(moves)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(peers)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(cancel)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':domain -- The VM'\''s name or UUID:_default' \
&& ret=0
;;
(settle)
_arguments "${_arguments_options[@]}" : \
'--peer=[The other host, where the VM'\''s moves to several are not over]:PEER:_default' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--here[The VM on this host counts]' \
'--there[The VM on the other host counts]' \
'--dry-run[Say what would follow, and change nothing]' \
'-y[Do not ask]' \
'--yes[Do not ask]' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':domain -- The VM'\''s name or UUID:_default' \
&& ret=0
;;
(pin)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':domain -- The VM'\''s name or UUID:_default' \
&& ret=0
;;
(unpin)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':domain -- The VM'\''s name or UUID:_default' \
&& ret=0
;;
(drain)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(undrain)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(usage)
_arguments "${_arguments_options[@]}" : \
'--since=[From this day on (2026-11-22), or the time up to now (30d, 12h)]:SINCE:_default' \
'--format=[As CSV or JSON; a table without it]:FORMAT:(csv json)' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(policy)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
":: :_virt-notify__subcmd__policy_commands" \
"*::: :->policy" \
&& ret=0

    case $state in
    (policy)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:virt-notify-policy-command-$line[1]:"
        case $line[1] in
            (get)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':pool -- The pool:_default' \
&& ret=0
;;
(set)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':pool -- The pool:_default' \
'*::settings -- What is changed:_default' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_virt-notify__subcmd__policy__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:virt-notify-policy-help-command-$line[1]:"
        case $line[1] in
            (get)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(set)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(retry)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(history)
_arguments "${_arguments_options[@]}" : \
'--since=[Since this day (2026-11-22), or for the time up to now (7d, 12h)]:SINCE:_default' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':pool -- The pool:_default' \
&& ret=0
;;
(snapshot)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
":: :_virt-notify__subcmd__snapshot_commands" \
"*::: :->snapshot" \
&& ret=0

    case $state in
    (snapshot)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:virt-notify-snapshot-command-$line[1]:"
        case $line[1] in
            (create)
_arguments "${_arguments_options[@]}" : \
'()--vm=[All disks of this VM that lie in a pool of type notify, by the VM'\''s name or UUID]:VM:_default' \
'--keep=[Add the time to the name, and keep only this many snapshots of the series\: the oldest are deleted]:N:_default' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'()--quiesce[Let the VM'\''s guest agent freeze its file systems for that moment]' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':name -- What the snapshots are called after the '\''@'\''; with --keep, the name of a series:_default' \
'*::volumes -- POOL/VOLUME:_default' \
&& ret=0
;;
(list)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'::of -- POOL/VOLUME, or POOL; all without it:_default' \
&& ret=0
;;
(rollback)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':snapshot -- POOL/VOLUME@SNAPSHOT:_default' \
&& ret=0
;;
(delete)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'*::snapshots -- POOL/VOLUME@SNAPSHOT:_default' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_virt-notify__subcmd__snapshot__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:virt-notify-snapshot-help-command-$line[1]:"
        case $line[1] in
            (create)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(list)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(rollback)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(delete)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(diff)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':from -- POOL/VOLUME@SNAPSHOT, the older one:_default' \
':to -- POOL/VOLUME or POOL/VOLUME@SNAPSHOT of the same pool, which goes back to it:_default' \
&& ret=0
;;
(send)
_arguments "${_arguments_options[@]}" : \
'--from=[Only what was written since this older snapshot, which the receiver must have]:SNAPSHOT:_default' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':snapshot -- POOL/VOLUME@SNAPSHOT:_default' \
&& ret=0
;;
(receive)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':volume -- POOL/VOLUME:_default' \
&& ret=0
;;
(check)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':pool -- A pool, or its volume group:_default' \
&& ret=0
;;
(dump)
_arguments "${_arguments_options[@]}" : \
'--from=[Where the map is taken from]:FROM:((metadata\:"The metadata logical volume"
kernel\:"The devices of the volumes in use"
backup\:"The newest backup"))' \
'-o+[Write to this file instead]:FILE:_files' \
'--output=[Write to this file instead]:FILE:_files' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':pool -- A pool, or its volume group:_default' \
&& ret=0
;;
(restore)
_arguments "${_arguments_options[@]}" : \
'--from=[From a backup or a dump]:FILE:_files' \
'*--without=[Leave this volume out\: its data is given up. May be repeated]:VOLUME:_default' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--from-backup[From the newest backup that was made of these logical volumes]' \
'--from-kernel[From the maps that the kernel has of the volumes in use]' \
'--force[Take a map that was made for other logical volumes, or for another pool]' \
'--no-archive[Keep no copy of what is overwritten]' \
'--dry-run[Look at everything and say what would be done]' \
'-y[Do not ask]' \
'--yes[Do not ask]' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':vg -- The volume group:_default' \
&& ret=0
;;
(setup)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--undo[Take it away again; refused while a pool is active]' \
'(--undo)--check[Say whether the daemons would take their configuration, and change nothing]' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(hook)
_arguments "${_arguments_options[@]}" : \
'--storage=[Where virtnotifyd listens; tests have it elsewhere]:STORAGE:_files' \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':guest -- The guest'\''s name\: its owner'\''s choice:_default' \
':operation -- What happens to it\: `prepare`, `migrate`, `release`, ...:_default' \
':sub_operation -- `begin` or `end`:_default' \
'*::extra -- Further words, which are ignored:_default' \
&& ret=0
;;
(generate)
_arguments "${_arguments_options[@]}" : \
'*-H+[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'*--host=[Ask the daemon of this host, reached with ssh; \`status\` and \`usage\` take several]:[USER@]HOST:_default' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':directory -- Where to:_files' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_virt-notify__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:virt-notify-help-command-$line[1]:"
        case $line[1] in
            (status)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(top)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(events)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(map)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(defrag)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(reclaim)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(evacuate)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(migrate)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(plan)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(moves)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(peers)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(cancel)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(settle)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(pin)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(unpin)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(drain)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(undrain)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(usage)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(policy)
_arguments "${_arguments_options[@]}" : \
":: :_virt-notify__subcmd__help__subcmd__policy_commands" \
"*::: :->policy" \
&& ret=0

    case $state in
    (policy)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:virt-notify-help-policy-command-$line[1]:"
        case $line[1] in
            (get)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(set)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(retry)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(history)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(snapshot)
_arguments "${_arguments_options[@]}" : \
":: :_virt-notify__subcmd__help__subcmd__snapshot_commands" \
"*::: :->snapshot" \
&& ret=0

    case $state in
    (snapshot)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:virt-notify-help-snapshot-command-$line[1]:"
        case $line[1] in
            (create)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(list)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(rollback)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(delete)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(diff)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(send)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(receive)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(check)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(dump)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(restore)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(setup)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(hook)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(generate)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
}

(( $+functions[_virt-notify_commands] )) ||
_virt-notify_commands() {
    local commands; commands=(
'status:Show pools and volumes\: capacity, what is allocated, what is left' \
'top:Show the same again whenever it changes; q ends' \
'events:Print events line by line\: growth, the end of space, moves; or run programs for them' \
'map:Draw where a volume'\''s chunks lie on the disk' \
'defrag:Move the chunks of a volume, or of all volumes of a pool, together on the disk' \
'reclaim:Give the volume group what a pool does not need, or the pool what a volume does not need' \
'evacuate:Empty a disk of a volume group, so that it can be taken out of the group' \
'migrate:Move a VM with its volumes to another host, and watch. Ctrl-C cancels the move' \
'plan:Say where VMs would move to, how long that would take, and why not elsewhere; change nothing' \
'moves:Show moves that are not over, and VMs that wait for space, each with what is in the way' \
'peers:Show the hosts that VMs may move to\: how they are, and what room they have' \
'cancel:Cancel the move of a VM\: it stays on this host. Needs root, or polkit'\''s org.virtnotify1.manage' \
'settle:End a move that does not end by itself, such as one whose other host is gone for good' \
'pin:Keep a VM on this host\: it does not move, until \`unpin\`. Needs root, or polkit'\''s org.virtnotify1.manage' \
'unpin:Let a VM move again that was pinned. Needs root, or polkit'\''s org.virtnotify1.manage' \
'drain:Empty this host\: its VMs move away one after the other, and no peer sends it any, until \`undrain\`' \
'undrain:End what \`drain\` began. VMs that have left stay where they are. Needs root, or polkit'\''s org.virtnotify1.manage' \
'usage:Show what volumes held for how long, for charging by use' \
'policy:Show or change what a pool does by itself when space gets low, and within which limits' \
'retry:Have what waits for space tried again at once, instead of after the interval' \
'history:Show how full a pool was\: a curve on a terminal, else a line for each point' \
'snapshot:Take, list, roll back and delete snapshots' \
'diff:List what was written between a snapshot and another one, or a volume' \
'send:Write a snapshot, or what was written between two, to standard output' \
'receive:Read what \`virt-notify send\` writes from standard input' \
'check:Compare a pool'\''s metadata, LVM, the kernel'\''s maps and the backup' \
'dump:Print a pool'\''s map as text, in the format of the backups' \
'restore:Write the metadata of a pool that is not started, from a map' \
'setup:Put virtnotify-proxy in front of libvirt'\''s storage daemon, so that clients find pools of type notify' \
'hook:Make a guest'\''s volumes active before it starts. libvirt'\''s hook runs this' \
'generate:Write man pages and completions' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'virt-notify commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__cancel_commands] )) ||
_virt-notify__subcmd__cancel_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify cancel commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__check_commands] )) ||
_virt-notify__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify check commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__defrag_commands] )) ||
_virt-notify__subcmd__defrag_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify defrag commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__diff_commands] )) ||
_virt-notify__subcmd__diff_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify diff commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__drain_commands] )) ||
_virt-notify__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify drain commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__dump_commands] )) ||
_virt-notify__subcmd__dump_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify dump commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__evacuate_commands] )) ||
_virt-notify__subcmd__evacuate_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify evacuate commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__events_commands] )) ||
_virt-notify__subcmd__events_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify events commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__generate_commands] )) ||
_virt-notify__subcmd__generate_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify generate commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help_commands] )) ||
_virt-notify__subcmd__help_commands() {
    local commands; commands=(
'status:Show pools and volumes\: capacity, what is allocated, what is left' \
'top:Show the same again whenever it changes; q ends' \
'events:Print events line by line\: growth, the end of space, moves; or run programs for them' \
'map:Draw where a volume'\''s chunks lie on the disk' \
'defrag:Move the chunks of a volume, or of all volumes of a pool, together on the disk' \
'reclaim:Give the volume group what a pool does not need, or the pool what a volume does not need' \
'evacuate:Empty a disk of a volume group, so that it can be taken out of the group' \
'migrate:Move a VM with its volumes to another host, and watch. Ctrl-C cancels the move' \
'plan:Say where VMs would move to, how long that would take, and why not elsewhere; change nothing' \
'moves:Show moves that are not over, and VMs that wait for space, each with what is in the way' \
'peers:Show the hosts that VMs may move to\: how they are, and what room they have' \
'cancel:Cancel the move of a VM\: it stays on this host. Needs root, or polkit'\''s org.virtnotify1.manage' \
'settle:End a move that does not end by itself, such as one whose other host is gone for good' \
'pin:Keep a VM on this host\: it does not move, until \`unpin\`. Needs root, or polkit'\''s org.virtnotify1.manage' \
'unpin:Let a VM move again that was pinned. Needs root, or polkit'\''s org.virtnotify1.manage' \
'drain:Empty this host\: its VMs move away one after the other, and no peer sends it any, until \`undrain\`' \
'undrain:End what \`drain\` began. VMs that have left stay where they are. Needs root, or polkit'\''s org.virtnotify1.manage' \
'usage:Show what volumes held for how long, for charging by use' \
'policy:Show or change what a pool does by itself when space gets low, and within which limits' \
'retry:Have what waits for space tried again at once, instead of after the interval' \
'history:Show how full a pool was\: a curve on a terminal, else a line for each point' \
'snapshot:Take, list, roll back and delete snapshots' \
'diff:List what was written between a snapshot and another one, or a volume' \
'send:Write a snapshot, or what was written between two, to standard output' \
'receive:Read what \`virt-notify send\` writes from standard input' \
'check:Compare a pool'\''s metadata, LVM, the kernel'\''s maps and the backup' \
'dump:Print a pool'\''s map as text, in the format of the backups' \
'restore:Write the metadata of a pool that is not started, from a map' \
'setup:Put virtnotify-proxy in front of libvirt'\''s storage daemon, so that clients find pools of type notify' \
'hook:Make a guest'\''s volumes active before it starts. libvirt'\''s hook runs this' \
'generate:Write man pages and completions' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'virt-notify help commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__cancel_commands] )) ||
_virt-notify__subcmd__help__subcmd__cancel_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help cancel commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__check_commands] )) ||
_virt-notify__subcmd__help__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help check commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__defrag_commands] )) ||
_virt-notify__subcmd__help__subcmd__defrag_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help defrag commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__diff_commands] )) ||
_virt-notify__subcmd__help__subcmd__diff_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help diff commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__drain_commands] )) ||
_virt-notify__subcmd__help__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help drain commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__dump_commands] )) ||
_virt-notify__subcmd__help__subcmd__dump_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help dump commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__evacuate_commands] )) ||
_virt-notify__subcmd__help__subcmd__evacuate_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help evacuate commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__events_commands] )) ||
_virt-notify__subcmd__help__subcmd__events_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help events commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__generate_commands] )) ||
_virt-notify__subcmd__help__subcmd__generate_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help generate commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__help_commands] )) ||
_virt-notify__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help help commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__history_commands] )) ||
_virt-notify__subcmd__help__subcmd__history_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help history commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__hook_commands] )) ||
_virt-notify__subcmd__help__subcmd__hook_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help hook commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__map_commands] )) ||
_virt-notify__subcmd__help__subcmd__map_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help map commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__migrate_commands] )) ||
_virt-notify__subcmd__help__subcmd__migrate_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help migrate commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__moves_commands] )) ||
_virt-notify__subcmd__help__subcmd__moves_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help moves commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__peers_commands] )) ||
_virt-notify__subcmd__help__subcmd__peers_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help peers commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__pin_commands] )) ||
_virt-notify__subcmd__help__subcmd__pin_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help pin commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__plan_commands] )) ||
_virt-notify__subcmd__help__subcmd__plan_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help plan commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__policy_commands] )) ||
_virt-notify__subcmd__help__subcmd__policy_commands() {
    local commands; commands=(
'get:Print the policy of a pool that is active' \
'set:Change settings of a pool'\''s policy, now and in its definition; others stay. Needs root, or polkit'\''s org.virtnotify1.manage' \
    )
    _describe -t commands 'virt-notify help policy commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__policy__subcmd__get_commands] )) ||
_virt-notify__subcmd__help__subcmd__policy__subcmd__get_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help policy get commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__policy__subcmd__set_commands] )) ||
_virt-notify__subcmd__help__subcmd__policy__subcmd__set_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help policy set commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__receive_commands] )) ||
_virt-notify__subcmd__help__subcmd__receive_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help receive commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__reclaim_commands] )) ||
_virt-notify__subcmd__help__subcmd__reclaim_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help reclaim commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__restore_commands] )) ||
_virt-notify__subcmd__help__subcmd__restore_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help restore commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__retry_commands] )) ||
_virt-notify__subcmd__help__subcmd__retry_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help retry commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__send_commands] )) ||
_virt-notify__subcmd__help__subcmd__send_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help send commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__settle_commands] )) ||
_virt-notify__subcmd__help__subcmd__settle_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help settle commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__setup_commands] )) ||
_virt-notify__subcmd__help__subcmd__setup_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help setup commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__snapshot_commands] )) ||
_virt-notify__subcmd__help__subcmd__snapshot_commands() {
    local commands; commands=(
'create:Take a snapshot of volumes of one pool, all at one moment' \
'list:List snapshots\: when they were taken, what they hold, and what of that nothing else has' \
'rollback:Set a volume back to a snapshot; what was written since is lost' \
'delete:Delete snapshots. Their volumes, and what was made of them, stay' \
    )
    _describe -t commands 'virt-notify help snapshot commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__snapshot__subcmd__create_commands] )) ||
_virt-notify__subcmd__help__subcmd__snapshot__subcmd__create_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help snapshot create commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__snapshot__subcmd__delete_commands] )) ||
_virt-notify__subcmd__help__subcmd__snapshot__subcmd__delete_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help snapshot delete commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__snapshot__subcmd__list_commands] )) ||
_virt-notify__subcmd__help__subcmd__snapshot__subcmd__list_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help snapshot list commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__snapshot__subcmd__rollback_commands] )) ||
_virt-notify__subcmd__help__subcmd__snapshot__subcmd__rollback_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help snapshot rollback commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__status_commands] )) ||
_virt-notify__subcmd__help__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help status commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__top_commands] )) ||
_virt-notify__subcmd__help__subcmd__top_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help top commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__undrain_commands] )) ||
_virt-notify__subcmd__help__subcmd__undrain_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help undrain commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__unpin_commands] )) ||
_virt-notify__subcmd__help__subcmd__unpin_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help unpin commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__help__subcmd__usage_commands] )) ||
_virt-notify__subcmd__help__subcmd__usage_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify help usage commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__history_commands] )) ||
_virt-notify__subcmd__history_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify history commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__hook_commands] )) ||
_virt-notify__subcmd__hook_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify hook commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__map_commands] )) ||
_virt-notify__subcmd__map_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify map commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__migrate_commands] )) ||
_virt-notify__subcmd__migrate_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify migrate commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__moves_commands] )) ||
_virt-notify__subcmd__moves_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify moves commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__peers_commands] )) ||
_virt-notify__subcmd__peers_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify peers commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__pin_commands] )) ||
_virt-notify__subcmd__pin_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify pin commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__plan_commands] )) ||
_virt-notify__subcmd__plan_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify plan commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__policy_commands] )) ||
_virt-notify__subcmd__policy_commands() {
    local commands; commands=(
'get:Print the policy of a pool that is active' \
'set:Change settings of a pool'\''s policy, now and in its definition; others stay. Needs root, or polkit'\''s org.virtnotify1.manage' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'virt-notify policy commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__policy__subcmd__get_commands] )) ||
_virt-notify__subcmd__policy__subcmd__get_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify policy get commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__policy__subcmd__help_commands] )) ||
_virt-notify__subcmd__policy__subcmd__help_commands() {
    local commands; commands=(
'get:Print the policy of a pool that is active' \
'set:Change settings of a pool'\''s policy, now and in its definition; others stay. Needs root, or polkit'\''s org.virtnotify1.manage' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'virt-notify policy help commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__policy__subcmd__help__subcmd__get_commands] )) ||
_virt-notify__subcmd__policy__subcmd__help__subcmd__get_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify policy help get commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__policy__subcmd__help__subcmd__help_commands] )) ||
_virt-notify__subcmd__policy__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify policy help help commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__policy__subcmd__help__subcmd__set_commands] )) ||
_virt-notify__subcmd__policy__subcmd__help__subcmd__set_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify policy help set commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__policy__subcmd__set_commands] )) ||
_virt-notify__subcmd__policy__subcmd__set_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify policy set commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__receive_commands] )) ||
_virt-notify__subcmd__receive_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify receive commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__reclaim_commands] )) ||
_virt-notify__subcmd__reclaim_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify reclaim commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__restore_commands] )) ||
_virt-notify__subcmd__restore_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify restore commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__retry_commands] )) ||
_virt-notify__subcmd__retry_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify retry commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__send_commands] )) ||
_virt-notify__subcmd__send_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify send commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__settle_commands] )) ||
_virt-notify__subcmd__settle_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify settle commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__setup_commands] )) ||
_virt-notify__subcmd__setup_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify setup commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot_commands] )) ||
_virt-notify__subcmd__snapshot_commands() {
    local commands; commands=(
'create:Take a snapshot of volumes of one pool, all at one moment' \
'list:List snapshots\: when they were taken, what they hold, and what of that nothing else has' \
'rollback:Set a volume back to a snapshot; what was written since is lost' \
'delete:Delete snapshots. Their volumes, and what was made of them, stay' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'virt-notify snapshot commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot__subcmd__create_commands] )) ||
_virt-notify__subcmd__snapshot__subcmd__create_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify snapshot create commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot__subcmd__delete_commands] )) ||
_virt-notify__subcmd__snapshot__subcmd__delete_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify snapshot delete commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot__subcmd__help_commands] )) ||
_virt-notify__subcmd__snapshot__subcmd__help_commands() {
    local commands; commands=(
'create:Take a snapshot of volumes of one pool, all at one moment' \
'list:List snapshots\: when they were taken, what they hold, and what of that nothing else has' \
'rollback:Set a volume back to a snapshot; what was written since is lost' \
'delete:Delete snapshots. Their volumes, and what was made of them, stay' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'virt-notify snapshot help commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot__subcmd__help__subcmd__create_commands] )) ||
_virt-notify__subcmd__snapshot__subcmd__help__subcmd__create_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify snapshot help create commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot__subcmd__help__subcmd__delete_commands] )) ||
_virt-notify__subcmd__snapshot__subcmd__help__subcmd__delete_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify snapshot help delete commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot__subcmd__help__subcmd__help_commands] )) ||
_virt-notify__subcmd__snapshot__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify snapshot help help commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot__subcmd__help__subcmd__list_commands] )) ||
_virt-notify__subcmd__snapshot__subcmd__help__subcmd__list_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify snapshot help list commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot__subcmd__help__subcmd__rollback_commands] )) ||
_virt-notify__subcmd__snapshot__subcmd__help__subcmd__rollback_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify snapshot help rollback commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot__subcmd__list_commands] )) ||
_virt-notify__subcmd__snapshot__subcmd__list_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify snapshot list commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__snapshot__subcmd__rollback_commands] )) ||
_virt-notify__subcmd__snapshot__subcmd__rollback_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify snapshot rollback commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__status_commands] )) ||
_virt-notify__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify status commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__top_commands] )) ||
_virt-notify__subcmd__top_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify top commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__undrain_commands] )) ||
_virt-notify__subcmd__undrain_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify undrain commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__unpin_commands] )) ||
_virt-notify__subcmd__unpin_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify unpin commands' commands "$@"
}
(( $+functions[_virt-notify__subcmd__usage_commands] )) ||
_virt-notify__subcmd__usage_commands() {
    local commands; commands=()
    _describe -t commands 'virt-notify usage commands' commands "$@"
}

if [ "$funcstack[1]" = "_virt-notify" ]; then
    _virt-notify "$@"
else
    compdef _virt-notify virt-notify
fi
