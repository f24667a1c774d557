package main

import (
	"net"
	"os"
	"strings"

	"tailscale.com/net/netmon"
)

// ignoredByDefault are prefixes of interfaces that come and go with pods, and of a host's own tunnels. What happens to them
// is nothing to us, and traffic of ours does not belong into a tunnel.
var ignoredByDefault = []string{
	"veth", "cali", "lxc", "azv", "eni", "cni", "cbr", "flannel", "cilium", "vxlan.calico", "kube-", "nodelocaldns", "weave",
	"docker", "br-", "podman", "virbr", "vnet", "lxd", "incus", "tailscale", "wg", "zt", "ts",
}

// watchInterfaces makes tailscale see the host's interfaces without those whose names begin with one of the prefixes: a pod
// that starts would otherwise cost each of its neighbours a link change.
//
// The list is not cached: tailscale looks after each change, a second apart at least, and not again without another one, so
// that an old answer would hide a change of address.
func watchInterfaces(ignore []string) {
	netmon.RegisterInterfaceGetter(func() ([]netmon.Interface, error) {
		all, err := net.Interfaces()
		if err != nil {
			return nil, err
		}
		kept := relevant(all, ignore, defaultRoutes())
		list := make([]netmon.Interface, len(kept))
		for i := range kept {
			list[i].Interface = &kept[i]
		}
		return list, nil
	})
}

// relevant leaves out interfaces by prefix, except those with a default route: in k3d and kind eth0 is a veth. If nothing
// but loopback is left it leaves out none: tailscale pauses when it sees no network.
func relevant(all []net.Interface, ignore []string, defaults map[string]bool) []net.Interface {
	var kept []net.Interface
	useful := false
	for _, i := range all {
		if !defaults[i.Name] && hasPrefix(i.Name, ignore) {
			continue
		}
		kept = append(kept, i)
		useful = useful || i.Flags&net.FlagLoopback == 0
	}
	if !useful {
		return all
	}
	return kept
}

func hasPrefix(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// defaultRoutes returns the interfaces of the main table's default routes, IPv4 and IPv6.
func defaultRoutes() map[string]bool {
	names := map[string]bool{}
	v4, _ := os.ReadFile("/proc/net/route") // absent where the kernel has no IPv4 or no procfs
	for line := range strings.Lines(string(v4)) {
		// Iface Destination Gateway Flags RefCnt Use Metric Mask …
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			names[f[0]] = true
		}
	}
	v6, _ := os.ReadFile("/proc/net/ipv6_route")
	for line := range strings.Lines(string(v6)) {
		// destination prefix-length source source-length next-hop metric refcnt use flags Iface
		if f := strings.Fields(line); len(f) > 9 && f[1] == "00" && f[3] == "00" && f[9] != "lo" {
			names[f[9]] = true
		}
	}
	return names
}
