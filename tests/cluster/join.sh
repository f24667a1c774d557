#!/bin/sh
# Run COMMAND in LEAF of a machine's cgroups. It joins them before the machine is entered: from inside, a process that
# is still outside cannot be moved.
#
# usage: join.sh CGROUPS LEAF COMMAND...     CGROUPS as boot.sh reads it
set -eu
cgroups=$1 leaf=$2
shift 2
while IFS='	' read -r ours _; do
    echo $$ >"$ours/$leaf/cgroup.procs"
done <"$cgroups"
exec "$@"
