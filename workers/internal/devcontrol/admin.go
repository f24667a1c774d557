package devcontrol

import (
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"tailscale.com/tailcfg"
)

// KeyRequest asks for an auth key. ExpirySeconds of 0 means an hour.
type KeyRequest struct {
	Reusable      bool     `json:"reusable"`
	Ephemeral     bool     `json:"ephemeral"`
	Tags          []string `json:"tags"`
	ExpirySeconds int      `json:"expirySeconds"`
}

// KeyResponse is a new auth key.
type KeyResponse struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

// NodeInfo is a node as the admin API shows it.
type NodeInfo struct {
	ID        string           `json:"id"`
	StableID  string           `json:"stableID"`
	NodeKey   string           `json:"nodeKey"`
	Name      string           `json:"name"`
	FQDN      string           `json:"fqdn"`
	Hostname  string           `json:"hostname"`
	Addresses []netip.Addr     `json:"addresses"`
	Tags      []string         `json:"tags"`
	Ephemeral bool             `json:"ephemeral"`
	Expired   bool             `json:"expired"`
	Online    bool             `json:"online"`
	LastSeen  time.Time        `json:"lastSeen"`
	Endpoints []netip.AddrPort `json:"endpoints"`
	Routes    []netip.Prefix   `json:"routes"`
	HomeDERP  int              `json:"homeDERP"`
}

// AdminHandler is the API that tests drive the tailnet by. Whoever can reach it owns the tailnet.
//
//	POST   /keys                {reusable, ephemeral, tags, expirySeconds} → {id, key}
//	POST   /keys/{id}/expire
//	GET    /nodes               → [NodeInfo]
//	DELETE /nodes/{id}
//	POST   /nodes/{id}/expire   the node must authenticate again
//	POST   /nodes/{id}/name     {name}
//	POST   /nodes/{id}/tags     {tags}
func AdminHandler(t *Tailnet) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /keys", func(w http.ResponseWriter, r *http.Request) { createKey(t, w, r) })
	mux.HandleFunc("POST /keys/{id}/expire", func(w http.ResponseWriter, r *http.Request) {
		answer(w, t.ExpireKey(r.PathValue("id")))
	})
	mux.HandleFunc("GET /nodes", func(w http.ResponseWriter, r *http.Request) { listNodes(t, w) })
	mux.HandleFunc("DELETE /nodes/{id}", onNode(func(id tailcfg.NodeID, r *http.Request) error { return t.Delete(id) }))
	mux.HandleFunc("POST /nodes/{id}/expire", onNode(func(id tailcfg.NodeID, r *http.Request) error { return t.ExpireNode(id) }))
	mux.HandleFunc("POST /nodes/{id}/name", onNode(func(id tailcfg.NodeID, r *http.Request) error {
		var req struct{ Name string }
		if err := readJSON(r, &req); err != nil {
			return err
		}
		return t.Rename(id, req.Name)
	}))
	mux.HandleFunc("POST /nodes/{id}/tags", onNode(func(id tailcfg.NodeID, r *http.Request) error {
		var req struct{ Tags []string }
		if err := readJSON(r, &req); err != nil {
			return err
		}
		return t.Update(id, func(n *Node) { n.Tags = req.Tags })
	}))
	return mux
}

func createKey(t *Tailnet, w http.ResponseWriter, r *http.Request) {
	req := KeyRequest{ExpirySeconds: 3600}
	if err := readJSON(r, &req); err != nil {
		answer(w, err)
		return
	}
	for _, tag := range req.Tags {
		if err := tailcfg.CheckTag(tag); err != nil {
			answer(w, err)
			return
		}
	}
	k := t.MintKey(AuthKey{Reusable: req.Reusable, Ephemeral: req.Ephemeral, Tags: req.Tags},
		time.Duration(req.ExpirySeconds)*time.Second)
	writeJSON(w, http.StatusCreated, KeyResponse{ID: k.ID, Key: k.Secret})
}

func listNodes(t *Tailnet, w http.ResponseWriter) {
	all := []NodeInfo{}
	for _, n := range t.Nodes() {
		info := NodeInfo{
			ID:        strconv.FormatInt(int64(n.ID), 10),
			StableID:  string(n.StableID()),
			NodeKey:   n.Key.String(),
			Name:      n.Name,
			FQDN:      n.Name + "." + t.Domain,
			Hostname:  n.Hostname,
			Addresses: n.Addresses,
			Tags:      n.Tags,
			Ephemeral: n.Ephemeral,
			Expired:   n.expired(time.Now()),
			Online:    n.Online(),
			LastSeen:  n.LastSeen,
			Endpoints: n.Endpoints,
			HomeDERP:  n.HomeDERP,
		}
		if n.Hostinfo != nil {
			info.Routes = n.Hostinfo.RoutableIPs
		}
		all = append(all, info)
	}
	writeJSON(w, http.StatusOK, all)
}

// onNode makes a handler of what is done with the node that the path names.
func onNode(do func(tailcfg.NodeID, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
		if err == nil {
			err = do(tailcfg.NodeID(id), r)
		}
		answer(w, err)
	}
}

// answer ends a request that returns nothing.
func answer(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, ErrNotFound):
		writeJSON(w, http.StatusNotFound, map[string]string{"message": err.Error()})
	default:
		writeJSON(w, http.StatusBadRequest, map[string]string{"message": err.Error()})
	}
}
