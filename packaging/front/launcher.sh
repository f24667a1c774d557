#!/bin/sh
# tailscale-cni @VERSION@, a CNI plugin that makes a pod a Tailscale node. After these lines comes a zip archive.
for python in @PYTHONS@; do
	if [ -x "$python" ]; then exec "$python" -IS -c '@FASTPATH@' '@BOOTSTRAP@' "$0" "$@"; fi
done
if [ "${CNI_COMMAND-}" ]; then echo '{"cniVersion":"1.0.0","code":50,"msg":"there is no Python 3.10 or newer"}'; fi
echo 'tailscale-cni: there is no Python 3.10 or newer' >&2
exit 1
