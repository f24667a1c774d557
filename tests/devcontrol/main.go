// Command devcontrol is a Tailscale control plane for the demo and the tests: one tailnet with DERP, STUN and MagicDNS, controlled by a
// small admin API (internal/devcontrol, AdminHandler). Once it answers, it prints one line of JSON with its addresses:
//
//	{"control":"http://10.0.0.1:8080","stun":"10.0.0.1:3478","admin":"http://127.0.0.1:8081","domain":"tailnet.test"}
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"tailscale.com/envknob"

	"tailscale-cni/devcontrol/internal/devcontrol"
)

func main() {
	o := devcontrol.Options{}
	flag.StringVar(&o.Listen, "listen", "127.0.0.1:0", "address:port of control protocol (http) and DERP (TLS)")
	flag.StringVar(&o.STUN, "stun", "", "address:port of STUN (default: the address of --listen, any port)")
	flag.StringVar(&o.Admin, "admin", "127.0.0.1:0", "loopback address:port, or path of a unix socket, of the admin API")
	flag.StringVar(&o.State, "state", "", "file that remembers nodes and keys")
	flag.StringVar(&o.Domain, "domain", "tailnet.test", "MagicDNS domain")
	flag.DurationVar(&o.EphemeralTimeout, "ephemeral-timeout", 5*time.Minute, "after which an ephemeral node that is offline is forgotten")
	flag.DurationVar(&o.Batch, "batch", 0, "nodes hear of one another's changes once in this time, as Headscale's do every 800ms (default: at once)")
	readyFD := flag.Int("ready-fd", 1, "descriptor that the line of JSON goes to")
	verbose := flag.Bool("verbose", false, "log registrations")
	flag.Parse()

	envknob.SetNoLogsNoSupport()
	log.SetOutput(io.Discard) // discards the logs of tailscale.com's packages
	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelInfo
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := devcontrol.Run(ctx, o, announce(*readyFD)); err != nil {
		fmt.Fprintln(os.Stderr, "devcontrol:", err)
		os.Exit(1)
	}
}

// announce returns a function that writes the addresses to a descriptor, and closes the descriptor unless it is standard output.
func announce(fd int) func(devcontrol.Ready) error {
	return func(ready devcontrol.Ready) error {
		f := os.NewFile(uintptr(fd), "ready")
		if err := json.NewEncoder(f).Encode(ready); err != nil {
			return err
		}
		if fd > 2 {
			return f.Close()
		}
		return nil
	}
}
