# SPDX-License-Identifier: LGPL-2.1-or-later
# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_virt_notify_global_optspecs
    string join \n json H/host= h/help V/version
end

function __fish_virt_notify_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_virt_notify_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_virt_notify_using_subcommand
    set -l cmd (__fish_virt_notify_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c virt-notify -n "__fish_virt_notify_needs_command" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_needs_command" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -s V -l version -d 'Print version'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "status" -d 'Show pools and volumes: capacity, what is allocated, what is left'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "top" -d 'Show the same again whenever it changes; q ends'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "events" -d 'Print events line by line: growth, the end of space, moves; or run programs for them'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "map" -d 'Draw where a volume\'s chunks lie on the disk'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "defrag" -d 'Move the chunks of a volume, or of all volumes of a pool, together on the disk'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "reclaim" -d 'Give the volume group what a pool does not need, or the pool what a volume does not need'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "evacuate" -d 'Empty a disk of a volume group, so that it can be taken out of the group'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "migrate" -d 'Move a VM with its volumes to another host, and watch. Ctrl-C cancels the move'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "plan" -d 'Say where VMs would move to, how long that would take, and why not elsewhere; change nothing'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "moves" -d 'Show moves that are not over, and VMs that wait for space, each with what is in the way'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "peers" -d 'Show the hosts that VMs may move to: how they are, and what room they have'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "cancel" -d 'Cancel the move of a VM: it stays on this host. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "settle" -d 'End a move that does not end by itself, such as one whose other host is gone for good'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "pin" -d 'Keep a VM on this host: it does not move, until `unpin`. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "unpin" -d 'Let a VM move again that was pinned. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "drain" -d 'Empty this host: its VMs move away one after the other, and no peer sends it any, until `undrain`'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "undrain" -d 'End what `drain` began. VMs that have left stay where they are. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "usage" -d 'Show what volumes held for how long, for charging by use'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "policy" -d 'Show or change what a pool does by itself when space gets low, and within which limits'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "retry" -d 'Have what waits for space tried again at once, instead of after the interval'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "history" -d 'Show how full a pool was: a curve on a terminal, else a line for each point'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "snapshot" -d 'Take, list, roll back and delete snapshots'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "diff" -d 'List what was written between a snapshot and another one, or a volume'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "send" -d 'Write a snapshot, or what was written between two, to standard output'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "receive" -d 'Read what `virt-notify send` writes from standard input'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "check" -d 'Compare a pool\'s metadata, LVM, the kernel\'s maps and the backup'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "dump" -d 'Print a pool\'s map as text, in the format of the backups'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "restore" -d 'Write the metadata of a pool that is not started, from a map'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "setup" -d 'Put virtnotify-proxy in front of libvirt\'s storage daemon, so that clients find pools of type notify'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "hook" -d 'Make a guest\'s volumes active before it starts. libvirt\'s hook runs this'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "generate" -d 'Write man pages and completions'
complete -c virt-notify -n "__fish_virt_notify_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand status" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand status" -l check -d 'Say in a line whether anything needs a person, for Nagios and programs like it: exit status 0, 1 for a warning, or 2 when a VM stands still or the daemon does not answer'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand status" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand top" -s n -l count -d 'End after this many times' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand top" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand top" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand events" -l since -d 'Begin with what the daemon remembers from this day on (2026-11-22), or of the time up to now (2d, 12h), and end then, unless --follow is given. Growths and the progress of moves are not remembered' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand events" -s n -l count -d 'End after this many events' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand events" -l severity -d 'Leave out less severe events' -r -f -a "info\t'Growth, and the course of what was asked for'
notice\t'A VM moves, or something is well again'
warning\t'Something will go wrong unless it is looked at'
critical\t'A VM stands still, or data is in danger'"
complete -c virt-notify -n "__fish_virt_notify_using_subcommand events" -l run -d 'Run each program in this directory for each event, which it gets as JSON on its standard input and as VIRTNOTIFY_* in its environment. virtnotify-notify.service does so' -r -F
complete -c virt-notify -n "__fish_virt_notify_using_subcommand events" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand events" -s f -l follow -d 'Go on until interrupted, which is so without --since as well'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand events" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand events" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand map" -l svg -d 'Write an SVG to this file instead' -r -F
complete -c virt-notify -n "__fish_virt_notify_using_subcommand map" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand map" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand map" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand defrag" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand defrag" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand defrag" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand reclaim" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand reclaim" -l zeroes -d 'Read all chunks, and take back those that hold nothing but zeroes'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand reclaim" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand reclaim" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand evacuate" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand evacuate" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand evacuate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand migrate" -l to -d 'The peer\'s name or URI; without it the daemon chooses' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand migrate" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand migrate" -l dry-run -d 'Say what would be done, as `plan` does, and change nothing'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand migrate" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand migrate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand plan" -l to -d 'Only this peer, by name or URI' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand plan" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand plan" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand plan" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand moves" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand moves" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand moves" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand peers" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand peers" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand peers" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand cancel" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand cancel" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand cancel" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand settle" -l peer -d 'The other host, where the VM\'s moves to several are not over' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand settle" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand settle" -l here -d 'The VM on this host counts'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand settle" -l there -d 'The VM on the other host counts'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand settle" -l dry-run -d 'Say what would follow, and change nothing'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand settle" -s y -l yes -d 'Do not ask'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand settle" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand settle" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand pin" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand pin" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand pin" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand unpin" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand unpin" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand unpin" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand drain" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand drain" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand drain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand undrain" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand undrain" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand undrain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand usage" -l since -d 'From this day on (2026-11-22), or the time up to now (30d, 12h)' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand usage" -l format -d 'As CSV or JSON; a table without it' -r -f -a "csv\t''
json\t''"
complete -c virt-notify -n "__fish_virt_notify_using_subcommand usage" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand usage" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand usage" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and not __fish_seen_subcommand_from get set help" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and not __fish_seen_subcommand_from get set help" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and not __fish_seen_subcommand_from get set help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and not __fish_seen_subcommand_from get set help" -f -a "get" -d 'Print the policy of a pool that is active'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and not __fish_seen_subcommand_from get set help" -f -a "set" -d 'Change settings of a pool\'s policy, now and in its definition; others stay. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and not __fish_seen_subcommand_from get set help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and __fish_seen_subcommand_from get" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and __fish_seen_subcommand_from get" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and __fish_seen_subcommand_from get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and __fish_seen_subcommand_from set" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and __fish_seen_subcommand_from set" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "get" -d 'Print the policy of a pool that is active'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "set" -d 'Change settings of a pool\'s policy, now and in its definition; others stay. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand retry" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand retry" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand retry" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand history" -l since -d 'Since this day (2026-11-22), or for the time up to now (7d, 12h)' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand history" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand history" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand history" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and not __fish_seen_subcommand_from create list rollback delete help" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and not __fish_seen_subcommand_from create list rollback delete help" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and not __fish_seen_subcommand_from create list rollback delete help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and not __fish_seen_subcommand_from create list rollback delete help" -f -a "create" -d 'Take a snapshot of volumes of one pool, all at one moment'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and not __fish_seen_subcommand_from create list rollback delete help" -f -a "list" -d 'List snapshots: when they were taken, what they hold, and what of that nothing else has'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and not __fish_seen_subcommand_from create list rollback delete help" -f -a "rollback" -d 'Set a volume back to a snapshot; what was written since is lost'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and not __fish_seen_subcommand_from create list rollback delete help" -f -a "delete" -d 'Delete snapshots. Their volumes, and what was made of them, stay'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and not __fish_seen_subcommand_from create list rollback delete help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from create" -l vm -d 'All disks of this VM that lie in a pool of type notify, by the VM\'s name or UUID' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from create" -l keep -d 'Add the time to the name, and keep only this many snapshots of the series: the oldest are deleted' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from create" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from create" -l quiesce -d 'Let the VM\'s guest agent freeze its file systems for that moment'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from create" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from list" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from rollback" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from rollback" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from rollback" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from delete" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from delete" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from delete" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from help" -f -a "create" -d 'Take a snapshot of volumes of one pool, all at one moment'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from help" -f -a "list" -d 'List snapshots: when they were taken, what they hold, and what of that nothing else has'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from help" -f -a "rollback" -d 'Set a volume back to a snapshot; what was written since is lost'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from help" -f -a "delete" -d 'Delete snapshots. Their volumes, and what was made of them, stay'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand snapshot; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand diff" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand diff" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand send" -l from -d 'Only what was written since this older snapshot, which the receiver must have' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand send" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand send" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand send" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand receive" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand receive" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand receive" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand check" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand check" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand dump" -l from -d 'Where the map is taken from' -r -f -a "metadata\t'The metadata logical volume'
kernel\t'The devices of the volumes in use'
backup\t'The newest backup'"
complete -c virt-notify -n "__fish_virt_notify_using_subcommand dump" -s o -l output -d 'Write to this file instead' -r -F
complete -c virt-notify -n "__fish_virt_notify_using_subcommand dump" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand dump" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand dump" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -l from -d 'From a backup or a dump' -r -F
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -l without -d 'Leave this volume out: its data is given up. May be repeated' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -l from-backup -d 'From the newest backup that was made of these logical volumes'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -l from-kernel -d 'From the maps that the kernel has of the volumes in use'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -l force -d 'Take a map that was made for other logical volumes, or for another pool'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -l no-archive -d 'Keep no copy of what is overwritten'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -l dry-run -d 'Look at everything and say what would be done'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -s y -l yes -d 'Do not ask'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand setup" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand setup" -l undo -d 'Take it away again; refused while a pool is active'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand setup" -l check -d 'Say whether the daemons would take their configuration, and change nothing'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand setup" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand setup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand hook" -l storage -d 'Where virtnotifyd listens; tests have it elsewhere' -r -F
complete -c virt-notify -n "__fish_virt_notify_using_subcommand hook" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand hook" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand hook" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand generate" -s H -l host -d 'Ask the daemon of this host, reached with ssh; `status` and `usage` take several' -r
complete -c virt-notify -n "__fish_virt_notify_using_subcommand generate" -l json -d 'Print JSON'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand generate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "status" -d 'Show pools and volumes: capacity, what is allocated, what is left'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "top" -d 'Show the same again whenever it changes; q ends'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "events" -d 'Print events line by line: growth, the end of space, moves; or run programs for them'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "map" -d 'Draw where a volume\'s chunks lie on the disk'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "defrag" -d 'Move the chunks of a volume, or of all volumes of a pool, together on the disk'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "reclaim" -d 'Give the volume group what a pool does not need, or the pool what a volume does not need'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "evacuate" -d 'Empty a disk of a volume group, so that it can be taken out of the group'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "migrate" -d 'Move a VM with its volumes to another host, and watch. Ctrl-C cancels the move'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "plan" -d 'Say where VMs would move to, how long that would take, and why not elsewhere; change nothing'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "moves" -d 'Show moves that are not over, and VMs that wait for space, each with what is in the way'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "peers" -d 'Show the hosts that VMs may move to: how they are, and what room they have'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "cancel" -d 'Cancel the move of a VM: it stays on this host. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "settle" -d 'End a move that does not end by itself, such as one whose other host is gone for good'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "pin" -d 'Keep a VM on this host: it does not move, until `unpin`. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "unpin" -d 'Let a VM move again that was pinned. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "drain" -d 'Empty this host: its VMs move away one after the other, and no peer sends it any, until `undrain`'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "undrain" -d 'End what `drain` began. VMs that have left stay where they are. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "usage" -d 'Show what volumes held for how long, for charging by use'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "policy" -d 'Show or change what a pool does by itself when space gets low, and within which limits'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "retry" -d 'Have what waits for space tried again at once, instead of after the interval'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "history" -d 'Show how full a pool was: a curve on a terminal, else a line for each point'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "snapshot" -d 'Take, list, roll back and delete snapshots'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "diff" -d 'List what was written between a snapshot and another one, or a volume'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "send" -d 'Write a snapshot, or what was written between two, to standard output'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "receive" -d 'Read what `virt-notify send` writes from standard input'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "check" -d 'Compare a pool\'s metadata, LVM, the kernel\'s maps and the backup'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "dump" -d 'Print a pool\'s map as text, in the format of the backups'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "restore" -d 'Write the metadata of a pool that is not started, from a map'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "setup" -d 'Put virtnotify-proxy in front of libvirt\'s storage daemon, so that clients find pools of type notify'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "hook" -d 'Make a guest\'s volumes active before it starts. libvirt\'s hook runs this'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "generate" -d 'Write man pages and completions'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and not __fish_seen_subcommand_from status top events map defrag reclaim evacuate migrate plan moves peers cancel settle pin unpin drain undrain usage policy retry history snapshot diff send receive check dump restore setup hook generate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and __fish_seen_subcommand_from policy" -f -a "get" -d 'Print the policy of a pool that is active'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and __fish_seen_subcommand_from policy" -f -a "set" -d 'Change settings of a pool\'s policy, now and in its definition; others stay. Needs root, or polkit\'s org.virtnotify1.manage'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and __fish_seen_subcommand_from snapshot" -f -a "create" -d 'Take a snapshot of volumes of one pool, all at one moment'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and __fish_seen_subcommand_from snapshot" -f -a "list" -d 'List snapshots: when they were taken, what they hold, and what of that nothing else has'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and __fish_seen_subcommand_from snapshot" -f -a "rollback" -d 'Set a volume back to a snapshot; what was written since is lost'
complete -c virt-notify -n "__fish_virt_notify_using_subcommand help; and __fish_seen_subcommand_from snapshot" -f -a "delete" -d 'Delete snapshots. Their volumes, and what was made of them, stay'
