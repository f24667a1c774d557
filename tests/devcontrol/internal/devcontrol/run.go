package devcontrol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/types/logger"
)

// Options contain the addresses of a control plane and its settings.
type Options struct {
	Listen           string // address:port, which clients can reach, of the control protocol (http) and of DERP (TLS)
	STUN             string // address:port, UDP; empty: the address of Listen, any port
	Admin            string // loopback address:port, or a path for a unix socket
	State            string // file; empty: nothing is saved
	Domain           string // the domain of MagicDNS
	EphemeralTimeout time.Duration
	Batch            time.Duration // nodes receive changes once per interval; zero: at once
	Log              *slog.Logger
}

// Ready contains the addresses on which a control plane listens.
type Ready struct {
	Control string `json:"control"` // URL
	STUN    string `json:"stun"`    // address:port
	Admin   string `json:"admin"`   // URL, or the path of a unix socket
	Domain  string `json:"domain"`
}

// Run runs a control plane until the context ends. It calls ready once it answers.
func Run(ctx context.Context, o Options, ready func(Ready) error) error {
	control, err := listenControl(o.Listen)
	if err != nil {
		return err
	}
	defer control.Close()
	admin, adminName, err := listenAdmin(o.Admin)
	if err != nil {
		return err
	}
	defer admin.Close()
	addr := control.Addr().(*net.TCPAddr).AddrPort()
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	stun := stunserver.New(ctx)
	if o.STUN == "" {
		o.STUN = netip.AddrPortFrom(addr.Addr(), 0).String()
	}
	if err := stun.Listen(o.STUN); err != nil {
		return fmt.Errorf("STUN: %w", err)
	}
	tlsConfig, err := selfSigned(addr.Addr())
	if err != nil {
		return err
	}

	tailnet := NewTailnet(o.Domain, o.EphemeralTimeout)
	tailnet.Batch = o.Batch
	secrets, err := tailnet.Load(o.State)
	if err != nil {
		return err
	}
	url := "http://" + addr.String()
	server := &Server{
		Tailnet: tailnet,
		DERPMap: derpMap(addr, uint16(stun.LocalAddr().(*net.UDPAddr).Port)),
		Private: secrets.Noise,
		BaseURL: url,
		Log:     o.Log,
	}
	relay := derpserver.New(secrets.DERP, logger.Discard)
	defer relay.Close()
	mux := http.NewServeMux()
	mux.Handle("/derp", derpserver.Handler(relay))
	mux.Handle("/derp/", derpserver.Handler(relay))
	mux.HandleFunc("/generate_204", derpserver.ServeNoContent)
	mux.Handle("/api/v2/", tailscaleAPI(tailnet))
	mux.Handle("/api/v1/", headscaleAPI(tailnet))
	mux.Handle("/health", headscaleAPI(tailnet))
	mux.Handle("/", server)

	failed := make(chan error, 3)
	go func() { failed <- stun.Serve() }()
	go func() { failed <- http.Serve(eitherListener{control, tlsConfig}, mux) }()
	go func() { failed <- http.Serve(admin, AdminHandler(tailnet)) }()
	if err := ready(Ready{Control: url, STUN: stun.LocalAddr().String(), Admin: adminName, Domain: o.Domain}); err != nil {
		return err
	}
	return errors.Join(keep(ctx, tailnet, failed, o.State, secrets), tailnet.Save(o.State, secrets))
}

// keep removes expired ephemeral nodes and saves changes, until the context ends or a listener fails.
func keep(ctx context.Context, t *Tailnet, failed <-chan error, path string, secrets Secrets) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case now := <-tick.C:
			t.Sweep(now)
			if err := t.Save(path, secrets); err != nil {
				return err
			}
		}
	}
}

func listenControl(address string) (net.Listener, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	if addr.Addr().IsUnspecified() {
		return nil, fmt.Errorf("--listen %s: clients need an address that they can reach", address)
	}
	return net.Listen("tcp", address)
}

// listenAdmin listens on a unix socket or on a loopback address, because whoever can reach the admin API controls the tailnet.
func listenAdmin(address string) (l net.Listener, name string, err error) {
	if strings.Contains(address, "/") {
		if status, err := os.Lstat(address); err == nil && status.Mode().Type() == os.ModeSocket {
			os.Remove(address) // the socket of a process that was killed
		}
		l, err = net.Listen("unix", address)
		return l, address, err
	}
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, "", fmt.Errorf("--admin: %w", err)
	}
	if !addr.Addr().IsLoopback() {
		return nil, "", fmt.Errorf("--admin %s: loopback addresses and unix sockets only", address)
	}
	if l, err = net.Listen("tcp", address); err != nil {
		return nil, "", err
	}
	return l, "http://" + l.Addr().String(), nil
}
