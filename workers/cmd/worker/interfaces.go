package main

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"tailscale.com/net/netmon"
)

// ignored are prefixes of interfaces that come and go with pods, and of a host's own tunnels. What happens to them
// is nothing to us, and traffic of ours does not belong into a tunnel.
var ignored = []string{
	"veth", "cali", "lxc", "azv", "eni", "cni", "cbr", "flannel", "cilium", "vxlan.calico", "kube-", "nodelocaldns", "weave",
	"docker", "br-", "podman", "virbr", "vnet", "lxd", "incus", "tailscale", "wg", "zt", "ts",
	"tun", "tap", "dummy", "ifb",
}

// watchInterfaces makes tailscale see the host's interfaces without those that are ignored: a pod
// that starts would otherwise cost each of its neighbours a link change.
//
// The list is not cached: tailscale looks after each change, a second apart at least, and not again without another one, so
// that an old answer would hide a change of address. But it is cheap: each pod that starts or stops makes every node of the host look.
func watchInterfaces() {
	netmon.RegisterInterfaceGetter(func() ([]netmon.Interface, error) {
		all, err := interfaces()
		if err != nil {
			return nil, err
		}
		kept := relevant(all, defaultRoutes())
		list := make([]netmon.Interface, 0, len(kept))
		for i := range kept {
			if describe(&kept[i]) == nil { // or it is gone by now
				list = append(list, netmon.Interface{Interface: &kept[i]})
			}
		}
		return list, nil
	})
}

// interfaces returns the names of all interfaces of our network namespace, and whether they are loopback; describe knows the rest. net.Interfaces
// would have the kernel say all that it knows of each, 2 kB, where a host has one per pod.
func interfaces() ([]net.Interface, error) {
	var all []net.Interface
	err := forLines("/proc/net/dev", func(line []byte) {
		if name, _, found := bytes.Cut(line, []byte(":")); found {
			i := net.Interface{Name: string(bytes.TrimSpace(name))}
			if i.Name == "lo" {
				i.Flags = net.FlagLoopback
			}
			all = append(all, i)
		}
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

var interfaceFlags = map[uint16]net.Flags{
	unix.IFF_UP:          net.FlagUp,
	unix.IFF_RUNNING:     net.FlagRunning,
	unix.IFF_BROADCAST:   net.FlagBroadcast,
	unix.IFF_LOOPBACK:    net.FlagLoopback,
	unix.IFF_POINTOPOINT: net.FlagPointToPoint,
	unix.IFF_MULTICAST:   net.FlagMulticast,
}

// describe fills in what tailscale looks at: index, MTU and flags, by netdevice(7).
func describe(i *net.Interface) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(i.Name)
	if err != nil {
		return err
	}
	for number, take := range map[uint]func(){
		unix.SIOCGIFINDEX: func() { i.Index = int(request.Uint32()) },
		unix.SIOCGIFMTU:   func() { i.MTU = int(request.Uint32()) },
		unix.SIOCGIFFLAGS: func() { i.Flags = flags(request.Uint16()) },
	} {
		if err := unix.IoctlIfreq(fd, number, request); err != nil {
			return err
		}
		take()
	}
	return nil
}

func flags(kernels uint16) net.Flags {
	var all net.Flags
	for its, flag := range interfaceFlags {
		if kernels&its != 0 {
			all |= flag
		}
	}
	return all
}

// forLines reads a file of procfs, whose lines are short.
func forLines(path string, do func(line []byte)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		do(lines.Bytes())
	}
	return lines.Err()
}

// relevant leaves out interfaces by prefix, except those with a default route: in k3d and kind eth0 is a veth. If nothing
// but loopback is left it leaves out none: tailscale pauses when it sees no network.
func relevant(all []net.Interface, defaults map[string]bool) []net.Interface {
	var kept []net.Interface
	useful := false
	for _, i := range all {
		if !defaults[i.Name] && hasPrefix(i.Name, ignored) {
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

// defaultRoutes returns the interfaces of the main table's default routes, IPv4 and IPv6. A file may be absent: the kernel may have no
// IPv4, or no IPv6.
func defaultRoutes() map[string]bool {
	names := map[string]bool{}
	forLines("/proc/net/route", func(line []byte) {
		// Iface Destination Gateway Flags RefCnt Use Metric Mask …
		if f := bytes.Fields(line); len(f) > 7 && string(f[1]) == "00000000" && string(f[7]) == "00000000" {
			names[string(f[0])] = true
		}
	})
	everywhere := []byte(strings.Repeat("0", 32) + " 00 ")
	forLines("/proc/net/ipv6_route", func(line []byte) {
		if !bytes.HasPrefix(line, everywhere) { // most lines, several per pod
			return
		}
		// destination prefix-length source source-length next-hop metric refcnt use flags Iface
		if f := bytes.Fields(line); len(f) > 9 && string(f[3]) == "00" && string(f[9]) != "lo" {
			names[string(f[9])] = true
		}
	})
	return names
}
