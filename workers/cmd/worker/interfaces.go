package main

import (
	"net"
	"os"
	"slices"
	"strings"

	"github.com/jsimonetti/rtnetlink"
	"github.com/mdlayher/netlink"
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
// that an old answer would hide a change of address. But it is cheap, however many interfaces the host has: each pod that starts or stops
// makes every node of the host look.
func watchInterfaces() {
	netmon.RegisterInterfaceGetter(func() ([]netmon.Interface, error) {
		all, err := interfaces()
		if err != nil {
			return nil, err
		}
		kernel, err := dialKernel()
		if err != nil {
			return nil, err
		}
		defer kernel.Close()
		var list []netmon.Interface
		for _, name := range relevant(all, waysOut(kernel)) {
			if i, err := describe(kernel, name); err == nil { // or it is gone by now
				list = append(list, i)
			}
		}
		return list, nil
	})
}

// interfaces returns the names of all interfaces of our network namespace; describe knows the rest. net.Interfaces would have the kernel
// say all that it knows of each, 2 kB, and /proc/net/dev has it count packets, where a host has an interface per pod.
func interfaces() ([]string, error) {
	dir, err := os.Open("/proc/sys/net/ipv4/conf")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return slices.DeleteFunc(names, func(name string) bool { return name == "all" || name == "default" }), err
}

// dialKernel returns a connection whose dumps are filtered by the kernel, if it can (from 4.20 on).
func dialKernel() (*rtnetlink.Conn, error) {
	if kernel, err := rtnetlink.Dial(&netlink.Config{Strict: true}); err == nil {
		return kernel, nil
	}
	return rtnetlink.Dial(nil)
}

// describe returns what tailscale looks at: index, MTU, flags and addresses.
func describe(kernel *rtnetlink.Conn, name string) (netmon.Interface, error) {
	i, err := identify(name)
	if err != nil {
		return netmon.Interface{}, err
	}
	addresses, err := addresses(kernel, i.Index)
	return netmon.Interface{Interface: i, AltAddrs: addresses}, err
}

var interfaceFlags = map[uint16]net.Flags{
	unix.IFF_UP:          net.FlagUp,
	unix.IFF_RUNNING:     net.FlagRunning,
	unix.IFF_BROADCAST:   net.FlagBroadcast,
	unix.IFF_LOOPBACK:    net.FlagLoopback,
	unix.IFF_POINTOPOINT: net.FlagPointToPoint,
	unix.IFF_MULTICAST:   net.FlagMulticast,
}

// identify asks for an interface's index, MTU and flags.
func identify(name string) (*net.Interface, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	i := &net.Interface{Name: name}
	return i, ask(request, map[uint]func(){
		unix.SIOCGIFINDEX: func() { i.Index = int(request.Uint32()) },
		unix.SIOCGIFMTU:   func() { i.MTU = int(request.Uint32()) },
		unix.SIOCGIFFLAGS: func() { i.Flags = flags(request.Uint16()) },
	})
}

// nameOf asks for the name of an interface.
func nameOf(index uint32) (name string, err error) {
	request, err := unix.NewIfreq("?")
	if err != nil {
		return "", err
	}
	request.SetUint32(index)
	err = ask(request, map[uint]func(){unix.SIOCGIFNAME: func() { name = request.Name() }})
	return name, err
}

// ask puts questions of netdevice(7), and takes each answer while it is in the request.
func ask(request *unix.Ifreq, questions map[uint]func()) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for number, take := range questions {
		if err := unix.IoctlIfreq(fd, number, request); err != nil {
			return err
		}
		take()
	}
	return nil
}

// addresses returns an interface's. net.Interface has the kernel list those of all interfaces, where each pod's has one of IPv6.
func addresses(kernel *rtnetlink.Conn, index int) ([]net.Addr, error) {
	request := &rtnetlink.AddressMessage{Index: uint32(index)}
	answers, err := kernel.Execute(request, unix.RTM_GETADDR, netlink.Request|netlink.Dump)
	if err != nil {
		return nil, err
	}
	all := make([]net.Addr, 0, len(answers)) // not nil, or tailscale would ask net.Interface
	for _, answer := range answers {
		a, ok := answer.(*rtnetlink.AddressMessage)
		if !ok || a.Index != uint32(index) || a.Attributes == nil {
			continue
		}
		ip := a.Attributes.Local // of two ends, ours
		if ip == nil {
			ip = a.Attributes.Address
		}
		all = append(all, &net.IPNet{IP: ip, Mask: net.CIDRMask(int(a.PrefixLength), 8*len(ip))})
	}
	return all, nil
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

// relevant leaves out interfaces by prefix, except those by which packets of ours leave: in k3d and kind eth0 is a veth. If nothing
// but loopback is left it leaves out none: tailscale pauses when it sees no network.
func relevant(all, waysOut []string) []string {
	kept := slices.DeleteFunc(slices.Clone(all), func(name string) bool {
		return hasPrefix(name, ignored) && !slices.Contains(waysOut, name)
	})
	if len(kept) == 0 || slices.Equal(kept, []string{"lo"}) {
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

// elsewhere are addresses that are not on a host's own networks: the way to them is the default route's. Nothing is sent there.
var elsewhere = map[uint8]net.IP{
	unix.AF_INET:  net.IPv4(1, 1, 1, 1).To4(),
	unix.AF_INET6: net.ParseIP("2606:4700:4700::1111"),
}

// waysOut returns the interfaces by which packets of ours leave, IPv4 and IPv6. It asks for a route of each, where the list of all routes
// has several per pod; the kernel answers by the rules that hold for our user ID. There may be none: a host may have no IPv6.
func waysOut(kernel *rtnetlink.Conn) (names []string) {
	for family, address := range elsewhere {
		routes, err := kernel.Route.Get(&rtnetlink.RouteMessage{
			Family: family, DstLength: uint8(8 * len(address)), Attributes: rtnetlink.RouteAttributes{Dst: address},
		})
		if err != nil || len(routes) == 0 {
			continue
		}
		if name, err := nameOf(routes[0].Attributes.OutIface); err == nil {
			names = append(names, name)
		}
	}
	return names
}
