package devcontrol

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/http2"
	"tailscale.com/control/controlhttp/controlhttpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/rands"
	"tailscale.com/util/zstdframe"
)

const (
	maxRequest = 1 << 20          // maximum size of a request's body in bytes
	keepAlive  = 50 * time.Second // clients abandon a poll that is silent for 120 s
)

// Server implements the control protocol (ts2021: HTTP/2 inside Noise inside HTTP) for a tailnet.
type Server struct {
	Tailnet *Tailnet
	DERPMap *tailcfg.DERPMap
	Private key.MachinePrivate // the Noise key that identifies this control plane to clients
	BaseURL string
	Log     *slog.Logger
}

// ServeHTTP answers requests outside Noise.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/key":
		writeJSON(w, http.StatusOK, tailcfg.OverTLSPublicKeyResponse{PublicKey: s.Private.Public()})
	case "/ts2021":
		s.serveNoise(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) serveNoise(w http.ResponseWriter, r *http.Request) {
	conn, err := controlhttpserver.AcceptHTTP(r.Context(), w, r, s.Private, nil)
	if err != nil {
		s.Log.Info("noise handshake failed", "from", r.RemoteAddr, "err", err)
		return
	}
	defer conn.Close()
	(&http2.Server{}).ServeConn(conn, &http2.ServeConnOpts{
		Context: r.Context(),
		Handler: s.machineHandler(conn.Peer()),
	})
}

// machineHandler answers requests inside Noise, of a machine that has proved its key.
func (s *Server) machineHandler(machine key.MachinePublic) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /machine/register", func(w http.ResponseWriter, r *http.Request) { s.serveRegister(w, r, machine) })
	mux.HandleFunc("POST /machine/map", func(w http.ResponseWriter, r *http.Request) { s.serveMap(w, r, machine) })
	mux.HandleFunc("POST /machine/update-health", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

func (s *Server) serveRegister(w http.ResponseWriter, r *http.Request, machine key.MachinePublic) {
	var req tailcfg.RegisterRequest
	if err := readJSON(r, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if req.NodeKey.IsZero() || req.Hostinfo == nil {
		http.Error(w, "a registration needs a node key and a Hostinfo", http.StatusBadRequest)
		return
	}
	if req.Followup != "" { // no user ever logs in there
		<-r.Context().Done()
		return
	}
	n, needsLogin, err := s.Tailnet.register(machine, &req)
	res := tailcfg.RegisterResponse{
		User:              tailcfg.User{ID: ownerID, DisplayName: "Owner"},
		Login:             tailcfg.Login{ID: tailcfg.LoginID(ownerID), LoginName: s.Tailnet.owner()},
		MachineAuthorized: true,
	}
	switch {
	case err != nil:
		res = tailcfg.RegisterResponse{Error: err.Error()}
	case isLogout(&req):
		res.NodeKeyExpired = true
	case needsLogin && n != nil && n.Key == req.NodeKey:
		res.NodeKeyExpired = true
	case needsLogin:
		res.AuthURL = s.BaseURL + "/auth/" + rands.HexString(16)
	}
	s.Log.Info("register", "hostname", req.Hostinfo.Hostname, "node", req.NodeKey.ShortString(),
		"logout", isLogout(&req), "needsLogin", needsLogin, "err", err)
	writeJSON(w, http.StatusOK, res)
}

func (s *Server) serveMap(w http.ResponseWriter, r *http.Request, machine key.MachinePublic) {
	var req tailcfg.MapRequest
	if err := readJSON(r, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id, ok := s.Tailnet.report(machine, &req)
	if !ok {
		http.Error(w, "node not found", http.StatusNotFound)
		return
	}
	out := mapWriter{w: w, compress: req.Compress == "zstd"}
	if !req.Stream {
		if !req.OmitPeers {
			res, _, _ := (&netmap{tailnet: s.Tailnet, derp: s.DERPMap, self: id}).next()
			out.send(res)
		}
		return
	}
	ctx, end := s.Tailnet.listen(r.Context(), id)
	defer end()
	if err := s.stream(ctx, out, id); err != nil && ctx.Err() == nil {
		s.Log.Info("map stream ended", "node", id, "err", err)
	}
}

// stream sends every change to a client, until the client disconnects or its node is deleted.
func (s *Server) stream(ctx context.Context, out mapWriter, id tailcfg.NodeID) error {
	m := &netmap{tailnet: s.Tailnet, derp: s.DERPMap, self: id}
	for {
		res, changed, ok := m.next()
		if !ok {
			return errors.New("the node was deleted")
		}
		if res != nil {
			if err := out.send(res); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(keepAlive):
			if err := out.send(&mapResponse{MapResponse: &tailcfg.MapResponse{KeepAlive: true}}); err != nil {
				return err
			}
		}
	}
}

// mapWriter frames MapResponses: a length of four bytes, little-endian, then JSON, compressed if the client supports it.
type mapWriter struct {
	w        http.ResponseWriter
	compress bool
}

func (m mapWriter) send(res *mapResponse) error {
	body, err := json.Marshal(res)
	if err != nil {
		return err
	}
	if m.compress {
		body = zstdframe.AppendEncode(nil, body, zstdframe.FastestCompression)
	}
	frame := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	if _, err := m.w.Write(append(frame, body...)); err != nil {
		return err
	}
	return http.NewResponseController(m.w).Flush()
}

// report updates a node from a map request, and returns the node's ID. ok is false if there is no such node.
func (t *Tailnet) report(machine key.MachinePublic, req *tailcfg.MapRequest) (id tailcfg.NodeID, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.poller(machine, req.NodeKey)
	if n == nil {
		return 0, false
	}
	if req.Stream || req.ReadOnly { // a stream only listens: its content may be older than later requests
		return n.ID, true
	}
	n.Disco, n.Version = req.DiscoKey, req.Version
	n.Endpoints = slices.DeleteFunc(req.Endpoints, isLinkLocal)
	t.describe(n, req.Hostinfo)
	t.touch(n)
	return n.ID, true
}

func isLinkLocal(ep netip.AddrPort) bool { return ep.Addr().IsLinkLocalUnicast() }

// listen counts a long poll of the node; the returned function ends it and the count.
func (t *Tailnet) listen(ctx context.Context, id tailcfg.NodeID) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	t.count(id, 1)
	return ctx, func() {
		cancel()
		t.count(id, -1)
	}
}

func (t *Tailnet) count(id tailcfg.NodeID, delta int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.nodes[id]
	if !ok {
		return
	}
	was := n.Online()
	n.streams += delta
	n.LastSeen = time.Now()
	if n.Online() != was {
		t.touch(n)
	}
}

func readJSON(r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
