// Command worker is one Tailscale node. It takes a TUN device, a listening socket for its LocalAPI and its state
// directory from whoever starts it, and needs no permission, no path and no environment of its own:
//
//	fd 0  the start line, then commands
//	fd 1  one-word messages
//	fd 2  the log
//	fd 3  the TUN (with --tun)
//	fd 4  the LocalAPI's listening socket
//	fd 5  the addresses of active peers, kept over a restart
//	.     the state directory
//
// docs/internals.md, "A node's processes", is the contract.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"tailscale.com/envknob"
	"tailscale.com/net/netns"

	"tailscale-cni/workers/internal/exits"
)

const (
	fdTUN   = 3
	fdLocal = 4
	fdPeers = 5
)

// spec is what the command line says.
type spec struct {
	hostname    string
	controlURL  string
	port        uint16
	tun         string // name of the interface behind fdTUN; empty: there is none
	ephemeral   bool
	portMapping bool
	peerRoutes  bool
	verbose     bool
}

func main() {
	emptyEnvironment()
	s, err := parseFlags(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(2)
	}
	tune(s)
	os.Exit(run(s))
}

// emptyEnvironment starts the program anew if it was given an environment: tailscale.com reads dozens of TS_ variables, and
// Go's runtime some of its own, before main begins.
func emptyEnvironment() {
	if len(os.Environ()) == 0 {
		return
	}
	err := syscall.Exec("/proc/self/exe", os.Args, []string{})
	fmt.Fprintln(os.Stderr, "worker: cannot start without an environment:", err)
	os.Exit(exits.Crash)
}

func parseFlags(args []string) (spec, error) {
	var s spec
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	flags.StringVar(&s.hostname, "hostname", "", "name to ask the control plane for")
	flags.StringVar(&s.controlURL, "control-url", "", "control plane (default: Tailscale's)")
	port := flags.Uint("port", 0, "UDP port of the encrypted traffic; 0: any")
	flags.StringVar(&s.tun, "tun", "", "name of the interface on descriptor 3; without it the node has no interface")
	flags.BoolVar(&s.ephemeral, "ephemeral", false, "the control plane forgets this node when it is gone (for the log only: the auth key decides)")
	flags.BoolVar(&s.portMapping, "port-mapping", false, "ask the router for a port mapping")
	flags.BoolVar(&s.peerRoutes, "peer-routes", false, "say sync when a peer's address changes, not only ours")
	flags.BoolVar(&s.verbose, "verbose", false, "log what tailscale logs")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if s.hostname == "" {
		return s, fmt.Errorf("--hostname is missing")
	}
	if *port > math.MaxUint16 {
		return s, fmt.Errorf("--port %d: must be at most 65535", *port)
	}
	s.port = uint16(*port)
	return s, nil
}

// useProxy has the connections to the control plane and to relays go through the proxy that the file "proxy" in the state
// directory names. Its URL may hold a password, so that it comes neither as an argument nor in the environment that others can read.
func useProxy() {
	if url, err := os.ReadFile("proxy"); err == nil {
		os.Setenv("HTTPS_PROXY", string(url))
		os.Setenv("HTTP_PROXY", string(url))
	}
}

// tune sets what tailscale.com and Go's runtime know as process-wide settings.
func tune(s spec) {
	// Without CAP_NET_ADMIN tailscale would bind its sockets to the interface of the default route, and two workers of one
	// host would find each other by relay only.
	netns.SetEnabled(false)
	envknob.SetNoLogsNoSupport() // or logs are uploaded to the vendor
	if !s.portMapping {
		envknob.Setenv("TS_DISABLE_PORTMAPPER", "1")
	}
	os.Setenv("HOME", "/proc/self/cwd")
	useProxy()
	debug.SetGCPercent(quietGC) // giveBackMemory changes it while there is traffic
	runtime.GOMAXPROCS(coresToUse(runtime.GOMAXPROCS(0)))
}

// coresToUse is all cores but one. That one is for the other end of the interface: the pod and the kernel. Every packet passes half a dozen
// goroutines, and Go wakes a thread on each core that looks idle to take the next of them, just where the pod would run. With one core of
// two a gigabit costs a quarter less CPU, and more of it gets through (docs/performance.md).
func coresToUse(there int) int { return max(1, there-1) }
